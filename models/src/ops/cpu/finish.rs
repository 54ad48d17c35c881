//! What becomes of sums before they are stored: bias, activation, scale and shift, and a tensor that
//! is added.

#![allow(unsafe_code)] // vector instructions, and rows that have no numbers yet

use super::math::activate;
use super::simd::dispatch;
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};
use crate::ops::Activation;

/// What follows the bias, the same for all numbers of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// First of all.
    pub activation: Activation,
    /// The activation is multiplied by this,
    pub scale: f32,
    /// and this is added.
    pub shift: f32,
}

impl Finish {
    /// The activation alone.
    pub fn new(activation: Activation) -> Self {
        Self {
            activation,
            scale: 1.0,
            shift: 0.0,
        }
    }

    fn is_scaled(&self) -> bool {
        self.scale != 1.0 || self.shift != 0.0
    }
}

/// What is added to sums first.
#[derive(Clone, Copy)]
pub enum Bias<'a> {
    /// One number a row, at least as many as the block has.
    Rows(&'a [f32]),
    /// One number a column, at least as many as the block has.
    Columns(&'a [f32]),
}

/// All that follows the sums of a block.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// What is added first.
    pub bias: Bias<'a>,
    /// What follows.
    pub finish: Finish,
    /// Numbers that are added to that, as rows, and how far apart these are.
    pub added: Option<(*const f32, usize)>,
    /// What is below zero becomes zero after that.
    pub relu: bool,
}

impl End<'_> {
    /// Whether the activation takes few instructions.
    #[cfg(target_arch = "x86_64")]
    pub fn is_quick(&self) -> bool {
        matches!(
            self.finish.activation,
            Activation::Identity | Activation::Relu
        )
    }
}

/// Finishes the first rows of sums in AVX-512 registers, `$sums`, and stores them: what is quick
/// here, where it costs few instructions, the rest by [`avx512::block`] by way of memory.
///
/// Expands to code for functions with that feature; `$target` has fewer columns than the sums by
/// what `$mask` leaves out of the last vectors. Rows are named one by one: in a loop over them the
/// compiler would keep sums in memory, and those of the products before it too.
#[cfg(target_arch = "x86_64")]
macro_rules! store {
    ($sums:ident, $end:expr, $target:ident, $mask:ident, $vectors:ident) => {{
        use std::arch::x86_64::{
            __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
            _mm512_max_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
        };
        use $crate::ops::cpu::finish::{Bias, End, avx512};
        let end: Option<&End<'_>> = $end;
        let mask: u16 = $mask;
        let lanes = |vector: usize| {
            if vector + 1 == $vectors {
                mask
            } else {
                u16::MAX
            }
        };
        let whole = mask == u16::MAX;
        let put = |row: usize, vector: usize, sum: __m512| {
            // SAFETY: rows and columns of the target.
            unsafe {
                let at = $target.start.add(row * $target.pitch + vector * 16);
                if whole || vector + 1 < $vectors {
                    _mm512_storeu_ps(at, sum);
                } else {
                    _mm512_mask_storeu_ps(at, mask, sum);
                }
            }
        };
        match end {
            None => {
                let all = |row: usize, sums: [__m512; $vectors]| {
                    if row < $target.rows {
                        for (vector, sum) in sums.into_iter().enumerate() {
                            put(row, vector, sum);
                        }
                    }
                };
                finish::each_row!($sums, all);
            }
            Some(end) if end.is_quick() => {
                let finish = &end.finish;
                let least = match finish.activation {
                    $crate::ops::Activation::Relu => 0.0,
                    _ => f32::NEG_INFINITY,
                };
                let least = _mm512_set1_ps(least);
                let (scale, shift) = (_mm512_set1_ps(finish.scale), _mm512_set1_ps(finish.shift));
                let last = if end.relu { 0.0 } else { f32::NEG_INFINITY };
                let last = _mm512_set1_ps(last);
                let quick = |row: usize, vector: usize, sum: __m512, bias: __m512| {
                    // NaN stays NaN.
                    let sum = _mm512_max_ps(least, _mm512_add_ps(sum, bias));
                    let mut sum = _mm512_fmadd_ps(sum, scale, shift);
                    if let Some((added, pitch)) = end.added {
                        // SAFETY: what is added is as large as the target.
                        let added = unsafe {
                            let at = added.add(row * pitch + vector * 16);
                            _mm512_maskz_loadu_ps(lanes(vector), at)
                        };
                        sum = _mm512_max_ps(last, _mm512_add_ps(sum, added));
                    }
                    put(row, vector, sum);
                };
                match end.bias {
                    Bias::Rows(bias) => {
                        assert!(bias.len() >= ROWS);
                        let all = |row: usize, sums: [__m512; $vectors]| {
                            if row < $target.rows {
                                let bias = _mm512_set1_ps(bias[row]);
                                for (vector, sum) in sums.into_iter().enumerate() {
                                    quick(row, vector, sum, bias);
                                }
                            }
                        };
                        finish::each_row!($sums, all);
                    }
                    Bias::Columns(bias) => {
                        assert!(bias.len() >= $target.columns);
                        let mut biases = [_mm512_setzero_ps(); $vectors];
                        for vector in 0..$vectors {
                            // SAFETY: what the mask leaves out is not read.
                            biases[vector] = unsafe {
                                let at = bias.as_ptr().add(vector * 16);
                                _mm512_maskz_loadu_ps(lanes(vector), at)
                            };
                        }
                        let all = |row: usize, sums: [__m512; $vectors]| {
                            if row < $target.rows {
                                for (vector, sum) in sums.into_iter().enumerate() {
                                    quick(row, vector, sum, biases[vector]);
                                }
                            }
                        };
                        finish::each_row!($sums, all);
                    }
                }
            }
            Some(end) => {
                let mut copy = $sums;
                // SAFETY: rows and columns of the target; what is added is as large.
                unsafe { avx512::block(&mut copy, end, &$target, mask) };
            }
        }
    }};
}

/// Calls `$each` with every row's index and sums.
#[cfg(target_arch = "x86_64")]
macro_rules! each_row {
    ($sums:ident, $each:ident) => {{
        let [a, b, c, d, e, f, g, h] = $sums;
        $each(0, a);
        $each(1, b);
        $each(2, c);
        $each(3, d);
        $each(4, e);
        $each(5, f);
        $each(6, g);
        $each(7, h);
    }};
}

#[cfg(target_arch = "x86_64")]
pub(super) use {each_row, store};

/// What follows the sums of a row with one bias, apart from what is added.
#[derive(Clone, Copy)]
pub struct LineEnd<'a> {
    /// The same for all rows of a layer. By reference: what is written just before it is read in larger pieces makes
    /// a processor wait.
    pub finish: &'a Finish,
    /// What is added first.
    pub bias: f32,
    /// What is below zero in the end becomes zero.
    pub relu: bool,
}

/// Finishes a row of sums into `target`, with as many numbers that are added, if any.
///
/// # Safety
/// As [`row`].
pub unsafe fn line(target: *mut f32, sums: &[f32], added: Option<*const f32>, end: LineEnd<'_>) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: by this function's contract; the machine has the instructions.
        return unsafe { avx512::line(target, sums, added, end) };
    }
    let end = End {
        bias: Bias::Rows(&[end.bias]),
        finish: *end.finish,
        added: added.map(|added| (added, 0)),
        relu: end.relu,
    };
    // SAFETY: by this function's contract.
    unsafe { row(target, sums, &end, 0) };
}

/// Finishes one row of sums into `target`, row `index` of its block.
///
/// # Safety
/// `target` may be written, and what is added read, for as many numbers as there are sums.
pub unsafe fn row(target: *mut f32, sums: &[f32], end: &End<'_>, index: usize) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: by this function's contract; the machine has the instructions.
        return unsafe { avx512::row(target, sums, end, index) };
    }
    // SAFETY: by this function's contract; zeros make numbers of what the target holds.
    let target = unsafe {
        target.write_bytes(0, sums.len());
        std::slice::from_raw_parts_mut(target, sums.len())
    };
    match end.bias {
        Bias::Rows(bias) => with_bias(target, sums, bias[index]),
        Bias::Columns(bias) => with_biases(target, sums, &bias[..sums.len()]),
    }
    activate(target, end.finish.activation);
    if end.finish.is_scaled() {
        scale(target, end.finish.scale, end.finish.shift);
    }
    if let Some((added, pitch)) = end.added {
        // SAFETY: by this function's contract.
        let added = unsafe { std::slice::from_raw_parts(added.add(index * pitch), sums.len()) };
        add(target, added);
    }
    if end.relu {
        activate(target, Activation::Relu);
    }
}

#[inline(always)]
fn with_bias_body(target: &mut [f32], sums: &[f32], bias: f32) {
    for (x, sum) in target.iter_mut().zip(sums) {
        *x = sum + bias;
    }
}

#[inline(always)]
fn with_biases_body(target: &mut [f32], sums: &[f32], biases: &[f32]) {
    for ((x, sum), bias) in target.iter_mut().zip(sums).zip(biases) {
        *x = sum + bias;
    }
}

#[inline(always)]
fn scale_body(target: &mut [f32], scale: f32, shift: f32) {
    for x in target {
        *x = *x * scale + shift;
    }
}

#[inline(always)]
fn add_body(target: &mut [f32], added: &[f32]) {
    for (x, more) in target.iter_mut().zip(added) {
        *x += more;
    }
}

dispatch! {
    fn with_bias(target: &mut [f32], sums: &[f32], bias: f32) = with_bias_body
}

dispatch! {
    fn with_biases(target: &mut [f32], sums: &[f32], biases: &[f32]) = with_biases_body
}

dispatch! {
    fn scale(target: &mut [f32], scale: f32, shift: f32) = scale_body
}

dispatch! {
    fn add(target: &mut [f32], added: &[f32]) = add_body
}

/// The same for sums in registers.
#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
        _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };

    use super::{Bias, End, LineEnd};
    use crate::ops::Activation;
    use crate::ops::activation::QUICK_GELU_SLOPE;
    use crate::ops::cpu::block::Target;
    use crate::ops::cpu::math::avx512::{erf, sigmoid};
    use crate::ops::cpu::simd::within;

    const LANES: usize = 16;

    /// Finishes sums, and writes them to `target`; `mask` says which columns of the last vector
    /// exist. What is left in `sums` has no meaning.
    ///
    /// # Safety
    /// Rows and columns of the target, as many as sums at most, may be written; what is added is
    /// as large.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn block<const VECTORS: usize, const ROWS: usize>(
        sums: &mut [[__m512; VECTORS]; ROWS],
        end: &End<'_>,
        target: &Target,
        mask: u16,
    ) {
        let mut biases = biases_of(end, mask);
        for (row, sums) in sums.iter().enumerate().take(target.rows) {
            if let Bias::Rows(bias) = end.bias {
                biases = [_mm512_set1_ps(bias[row]); VECTORS];
            }
            // SAFETY: by this function's contract.
            unsafe { row_of(*sums, &biases, end, (target, row), mask) };
        }
    }

    /// The columns that exist of a vector of a row of so many, where `mask` says it of the last one.
    #[inline]
    pub fn lanes<const VECTORS: usize>(vector: usize, mask: u16) -> u16 {
        if vector + 1 == VECTORS {
            mask
        } else {
            u16::MAX
        }
    }

    /// The biases of a row, where it is columns that have them; zeros otherwise.
    ///
    /// # Panics
    /// If there are too few.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn biases_of<const VECTORS: usize>(end: &End<'_>, mask: u16) -> [__m512; VECTORS] {
        let mut biases = [_mm512_setzero_ps(); VECTORS];
        if let Bias::Columns(bias) = end.bias {
            assert!(bias.len() >= (VECTORS - 1) * LANES + mask.count_ones() as usize);
            for (vector, value) in biases.iter_mut().enumerate() {
                // SAFETY: as many as columns, what the mask leaves out is not read.
                *value = unsafe {
                    let at = bias.as_ptr().add(vector * LANES);
                    _mm512_maskz_loadu_ps(lanes::<VECTORS>(vector, mask), at)
                };
            }
        }
        biases
    }

    /// Finishes row `row` of a target.
    ///
    /// # Safety
    /// As [`block`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn row_of<const VECTORS: usize>(
        mut sums: [__m512; VECTORS],
        biases: &[__m512; VECTORS],
        end: &End<'_>,
        (target, row): (&Target, usize),
        mask: u16,
    ) {
        for (sum, bias) in sums.iter_mut().zip(biases) {
            *sum = _mm512_add_ps(*sum, *bias);
        }
        activate_all(&mut sums, end.finish.activation);
        if end.finish.is_scaled() {
            let (scale, shift) = (end.finish.scale, end.finish.shift);
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, _mm512_set1_ps(scale), _mm512_set1_ps(shift));
            }
        }
        for (vector, mut sum) in sums.into_iter().enumerate() {
            // SAFETY: by this function's contract, what the mask leaves out is neither read nor
            // written.
            unsafe {
                if let Some((added, pitch)) = end.added {
                    let at = added.add(row * pitch + vector * LANES);
                    sum = _mm512_add_ps(
                        sum,
                        _mm512_maskz_loadu_ps(lanes::<VECTORS>(vector, mask), at),
                    );
                }
                if end.relu {
                    sum = relu(sum);
                }
                let at = target.start.add(row * target.pitch + vector * LANES);
                _mm512_mask_storeu_ps(at, lanes::<VECTORS>(vector, mask), sum);
            }
        }
    }

    /// # Safety
    /// As [`super::row`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn row(target: *mut f32, sums: &[f32], end: &End<'_>, index: usize) {
        let added = end
            .added
            .map(|(added, pitch)| added.wrapping_add(index * pitch));
        let biases = match end.bias {
            Bias::Columns(biases) => biases,
            Bias::Rows(bias) => {
                let end = LineEnd {
                    finish: &end.finish,
                    bias: bias[index],
                    relu: end.relu,
                };
                // SAFETY: by this function's contract.
                return unsafe { line(target, sums, added, end) };
            }
        };
        for at in (0..sums.len()).step_by(LANES) {
            let mask = within(at as isize, sums.len());
            let end = End {
                bias: Bias::Columns(&biases[at..]),
                added: added.map(|added| (added.wrapping_add(at), 0)),
                ..*end
            };
            // SAFETY: what masks leave out is neither read nor written.
            unsafe {
                let mut sum = [[_mm512_maskz_loadu_ps(mask, sums.as_ptr().add(at))]];
                let target = Target {
                    start: target.add(at),
                    pitch: 0,
                    rows: 1,
                    columns: LANES,
                    resumed: false,
                };
                block(&mut sum, &end, &target, mask);
            }
        }
    }

    /// # Safety
    /// As [`super::line`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn line(
        target: *mut f32,
        sums: &[f32],
        added: Option<*const f32>,
        end: LineEnd<'_>,
    ) {
        let mut at = 0;
        while at < sums.len() {
            // Divisions of several vectors do not wait for each other.
            // SAFETY: by this function's contract.
            at += unsafe {
                match (sums.len() - at).div_ceil(LANES) {
                    1 => vectors::<1>(target, sums, added, end, at),
                    2 => vectors::<2>(target, sums, added, end, at),
                    3 => vectors::<3>(target, sums, added, end, at),
                    _ => vectors::<4>(target, sums, added, end, at),
                }
            };
        }
    }

    /// Finishes so many vectors of a row from number `at` on, the last one perhaps in part, and tells how many
    /// numbers these have.
    ///
    /// # Safety
    /// As [`super::line`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn vectors<const VECTORS: usize>(
        target: *mut f32,
        sums: &[f32],
        added: Option<*const f32>,
        end: LineEnd<'_>,
        at: usize,
    ) -> usize {
        let finish = end.finish;
        let (scale, shift) = (_mm512_set1_ps(finish.scale), _mm512_set1_ps(finish.shift));
        let least = if end.relu { 0.0 } else { f32::NEG_INFINITY };
        let masks: [u16; VECTORS] =
            std::array::from_fn(|vector| within((at + vector * LANES) as isize, sums.len()));
        let mut together: [__m512; VECTORS] = std::array::from_fn(|vector| {
            let sum = sums.as_ptr().wrapping_add(at + vector * LANES);
            // SAFETY: what masks leave out is not read.
            let sum = unsafe { _mm512_maskz_loadu_ps(masks[vector], sum) };
            _mm512_add_ps(sum, _mm512_set1_ps(end.bias))
        });
        activate_all(&mut together, finish.activation);
        for (vector, sum) in together.into_iter().enumerate() {
            let mut sum = _mm512_fmadd_ps(sum, scale, shift);
            let (at, mask) = (at + vector * LANES, masks[vector]);
            // SAFETY: what masks leave out is neither read nor written.
            unsafe {
                if let Some(added) = added {
                    let added = _mm512_maskz_loadu_ps(mask, added.wrapping_add(at));
                    sum = _mm512_add_ps(sum, added);
                }
                sum = _mm512_max_ps(_mm512_set1_ps(least), sum);
                _mm512_mask_storeu_ps(target.wrapping_add(at), mask, sum);
            }
        }
        VECTORS * LANES
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn activate_all<const VECTORS: usize>(sums: &mut [__m512; VECTORS], activation: Activation) {
        match activation {
            Activation::Identity => {}
            Activation::Relu => sums.iter_mut().for_each(|sum| *sum = relu(*sum)),
            Activation::Silu => silu_all(sums, 1.0),
            Activation::QuickGelu => silu_all(sums, QUICK_GELU_SLOPE as f32),
            Activation::Gelu => gelu_all(sums),
        }
    }

    /// NaN stays NaN.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn relu(x: __m512) -> __m512 {
        _mm512_max_ps(_mm512_setzero_ps(), x)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn silu_all<const VECTORS: usize>(sums: &mut [__m512; VECTORS], slope: f32) {
        for sum in sums {
            *sum = _mm512_mul_ps(*sum, sigmoid(*sum, slope));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn gelu_all<const VECTORS: usize>(sums: &mut [__m512; VECTORS]) {
        let half = _mm512_set1_ps(0.5);
        for sum in sums {
            let erf = erf(_mm512_mul_ps(
                *sum,
                _mm512_set1_ps(std::f32::consts::FRAC_1_SQRT_2),
            ));
            *sum = _mm512_mul_ps(_mm512_fmadd_ps(erf, half, half), *sum);
        }
    }
}

/// What tests of blocks end sums with.
#[cfg(test)]
pub mod testing {
    use super::{Bias, End, Finish};
    use crate::ops::Activation;

    /// An end of all that there is, and of ReLU or SiLU.
    #[derive(Clone, Copy)]
    pub struct Case<'a> {
        /// Of columns, or else of rows.
        pub bias: &'a [f32],
        pub across: bool,
        pub relu: bool,
        /// Rows, and how far apart they are; what is below zero then becomes zero.
        pub added: Option<(&'a [f32], usize)>,
    }

    impl<'a> Case<'a> {
        pub fn end(&self) -> End<'a> {
            End {
                bias: if self.across {
                    Bias::Columns(self.bias)
                } else {
                    Bias::Rows(self.bias)
                },
                finish: Finish {
                    activation: if self.relu {
                        Activation::Relu
                    } else {
                        Activation::Silu
                    },
                    scale: 0.7,
                    shift: -0.2,
                },
                added: self.added.map(|(added, pitch)| (added.as_ptr(), pitch)),
                relu: self.added.is_some(),
            }
        }

        /// What becomes of a sum, by the definition.
        pub fn expected(&self, sum: f64, row: usize, column: usize) -> f64 {
            let sum = sum + f64::from(self.bias[if self.across { column } else { row }]);
            let active = if self.relu {
                sum.max(0.0)
            } else {
                sum / (1.0 + (-sum).exp())
            };
            let scaled = active * 0.7 - 0.2;
            match self.added {
                Some((added, pitch)) => (scaled + f64::from(added[row * pitch + column])).max(0.0),
                None => scaled,
            }
        }
    }
}
