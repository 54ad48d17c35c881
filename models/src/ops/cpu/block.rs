//! Register blocks of matrix products: eight rows of factors by up to 48 columns, in f32 or in
//! bfloat16 with f32 sums. Sums stay in registers while both operands pass by; bias, activation and
//! what is added follow before they are stored.
//!
//! Every sum is taken in one order, from the first step to the last, whatever is computed beside
//! it: no bit of a result depends on batches, tiles or threads.

#![allow(unsafe_code)] // vector instructions

use super::finish::{self, End};
use super::simd::{self, Level};

/// Rows of a block: output channels of a convolution, rows of a linear layer.
pub const ROWS: usize = 8;

/// Columns of a panel: three AVX-512 vectors.
pub const COLUMNS: usize = 48;

/// Steps that a panel takes through a block at once: it stays in the second-level cache, 96 KiB, while
/// all rows pass by, and its lines arrive in time. In parts that fit the first-level cache, 128 steps, sums
/// would go to memory and back four times as often, which costs more: some 3 % of ResNet50 with one
/// image, 6 % of CLIP's ViT with eight.
pub const STEPS: usize = 512;

/// The sums of a block.
pub type Block = [[f32; COLUMNS]; ROWS];

/// Numbers that products are taken of on the CPU; sums are f32 in either case.
///
/// A word of an operand is 32 bits: one number, or those of two neighbouring steps, the first in
/// the lower half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// One f32 a word.
    #[default]
    F32,
    /// Two bfloat16 a word. Products of minimal filtering, of wide 1×1 layers, and of first layers row by row are
    /// of 16-bit integers then.
    Bf16,
}

impl Precision {
    /// Words that `depth` numbers of a sum take.
    pub fn steps(self, depth: usize) -> usize {
        match self {
            Self::F32 => depth,
            Self::Bf16 => depth.div_ceil(2),
        }
    }

    /// Whether the machine has the registers, and the instructions, for blocks of these.
    pub fn available(self) -> bool {
        self.available_at(simd::level())
    }

    /// Whether vector units of `level` of this machine have them.
    pub(crate) fn available_at(self, level: Level) -> bool {
        match self {
            Self::F32 => level > Level::Plain,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => level == Level::Avx512 && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bf16 => false,
        }
    }
}

/// Equal parts, each of at most [`STEPS`], that `steps` are taken in: their length.
pub fn part_of(steps: usize) -> usize {
    steps.div_ceil(steps.div_ceil(STEPS).max(1)).max(1)
}

/// The factors that a panel is multiplied by.
#[derive(Clone, Copy)]
pub enum Factors<'a> {
    /// `[steps, ROWS]`: packed.
    Packed(&'a [u32]),
    /// Rows as they lie, each `pitch` words after the one before; those beyond the last are left
    /// out by giving the last one again.
    Rows {
        /// From the first row's first word on.
        words: &'a [u32],
        /// Words from one row to the next.
        pitch: usize,
        /// How many rows there are, at least one; at most [`ROWS`] are used.
        count: usize,
    },
}

/// Words that come later: they are asked for while others are multiplied.
#[derive(Clone, Copy)]
pub struct Next {
    start: *const u32,
    /// Words a step.
    pace: usize,
}

impl Next {
    /// Nothing.
    pub const NONE: Self = Self {
        start: std::ptr::null(),
        pace: 0,
    };

    /// Packed factors that lie so many words after `factors`, as many in a step as are multiplied.
    pub fn behind(factors: &[u32], words: usize) -> Self {
        Self {
            start: factors.as_ptr().wrapping_add(words),
            pace: ROWS,
        }
    }

    /// All of `words` in so many steps.
    pub fn within(words: &[u32], steps: usize) -> Self {
        Self {
            start: words.as_ptr(),
            pace: words.len().div_ceil(steps.max(1)),
        }
    }

    /// What is left after so many steps.
    pub fn after(self, steps: usize) -> Self {
        Self {
            start: self.start.wrapping_add(steps * self.pace),
            ..self
        }
    }
}

/// What is multiplied.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// `[steps, COLUMNS]`.
    pub panel: &'a [u32],
    /// The other side.
    pub factors: Factors<'a>,
    /// Words of a sum.
    pub steps: usize,
    /// What to ask for meanwhile.
    pub next: Next,
    /// Lines to ask for besides, one a step.
    pub ahead: &'a [*const f32],
}

/// Where the sums of a block go.
#[derive(Clone, Copy)]
pub struct Target {
    /// The first number of the first row.
    pub start: *mut f32,
    /// Numbers from one row to the next.
    pub pitch: usize,
    /// Rows that exist, at most [`ROWS`].
    pub rows: usize,
    /// Columns that exist, at most [`COLUMNS`].
    pub columns: usize,
    /// Sums go on from what is there.
    pub resumed: bool,
}

impl Target {
    /// All of a block, anew.
    pub fn block(block: &mut Block, rows: usize, columns: usize) -> Self {
        Self {
            start: block.as_mut_ptr().cast(),
            pitch: COLUMNS,
            rows,
            columns,
            resumed: false,
        }
    }

    /// What is there, into the first columns of as many rows of `sums`.
    ///
    /// # Safety
    /// The target holds numbers.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub unsafe fn load(&self, sums: &mut [[f32; COLUMNS]]) {
        for (row, sums) in sums.iter_mut().enumerate().take(self.rows) {
            // SAFETY: rows and columns of the target.
            unsafe {
                let from = self.start.add(row * self.pitch);
                std::ptr::copy_nonoverlapping(from, sums.as_mut_ptr(), self.columns);
            }
        }
    }

    /// Its rows of `sums`, finished by `end` where these are whole.
    ///
    /// # Safety
    /// The target may be written by this thread alone; what `end` adds is as large.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub unsafe fn store(&self, sums: &[[f32; COLUMNS]], end: Option<&End<'_>>) {
        for (row, sums) in sums.iter().enumerate().take(self.rows) {
            // SAFETY: rows and columns of the target; what is added is as large.
            unsafe {
                let to = self.start.add(row * self.pitch);
                match end {
                    Some(end) => finish::row(to, &sums[..self.columns], end, row),
                    None => std::ptr::copy_nonoverlapping(sums.as_ptr(), to, self.columns),
                }
            }
        }
    }
}

/// Numbers of a precision by vector units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// What is multiplied.
    pub precision: Precision,
    /// By which units.
    pub level: Level,
}

impl Unit {
    /// That of the machine, where there are blocks for it.
    pub fn of(precision: Precision) -> Option<Self> {
        Self::at(precision, simd::level())
    }

    /// That of units which the machine has, where there are blocks for it.
    pub fn at(precision: Precision, level: Level) -> Option<Self> {
        let level = level.min(simd::machine());
        let available = precision.available_at(level);
        available.then_some(Self { precision, level })
    }
}

/// Calls the block `$name` of so many vectors of columns, words from one factor to the next and rows: of
/// few rows no more are multiplied than there are.
#[cfg(target_arch = "x86_64")]
macro_rules! by_size {
    ($name:ident, $vectors:expr, $step:expr, $rows:expr, $run:expr) => {
        match ($vectors, $step, $rows) {
            (3, ROWS, _) => avx512::$name::<3, ROWS, ROWS>($run),
            (2, ROWS, _) => avx512::$name::<2, ROWS, ROWS>($run),
            (_, ROWS, _) => avx512::$name::<1, ROWS, ROWS>($run),
            (3, _, 1..=2) => avx512::$name::<3, 1, 2>($run),
            (3, _, 3..=4) => avx512::$name::<3, 1, 4>($run),
            (3, ..) => avx512::$name::<3, 1, ROWS>($run),
            (2, ..) => avx512::$name::<2, 1, ROWS>($run),
            _ => avx512::$name::<1, 1, ROWS>($run),
        }
    };
}

/// Sums of the products of a panel with rows of factors, into `target`, with `end` where these are
/// the last steps.
///
/// # Safety
/// Rows and columns of `target` may be written by this thread alone, and hold numbers if sums go
/// on; what `end` adds is as large.
///
/// # Panics
/// If an operand is too short or the target is larger than a block.
pub unsafe fn multiply(unit: Unit, operands: &Operands<'_>, target: Target, end: Option<&End<'_>>) {
    let Operands {
        panel,
        factors,
        steps,
        next,
        ahead,
    } = *operands;
    assert!(panel.len() >= steps * COLUMNS);
    assert!(target.columns <= COLUMNS && target.rows <= ROWS);
    if target.columns == 0 || target.rows == 0 {
        return;
    }
    let (rows, step) = match factors {
        Factors::Packed(factors) => {
            assert!(factors.len() >= steps * ROWS);
            // The other rows' are its neighbours.
            ([factors.as_ptr(); ROWS], ROWS)
        }
        Factors::Rows {
            words,
            pitch,
            count,
        } => {
            let last = count - 1;
            assert!(words.len() >= last.min(ROWS - 1) * pitch + steps);
            let row = |row: usize| words[row.min(last) * pitch..].as_ptr();
            (std::array::from_fn(row), 1)
        }
    };
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let run = Run {
        panel: panel.as_ptr(),
        rows,
        steps,
        next,
        ahead,
        target,
        end,
    };
    #[cfg(target_arch = "x86_64")]
    {
        let vectors = target.columns.div_ceil(16);
        // SAFETY: a unit is one that the machine has; the operands hold all steps, as was just
        // checked; the target by this function's contract.
        unsafe {
            match (unit.level, unit.precision) {
                (Level::Avx2 | Level::Plain, _) if step == ROWS => avx2::block::<ROWS>(&run),
                (Level::Avx2 | Level::Plain, _) => avx2::block::<1>(&run),
                (_, Precision::F32) => by_size!(f32_block, vectors, step, target.rows, &run),
                (_, Precision::Bf16) => by_size!(bf16_block, vectors, step, target.rows, &run),
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let _: Unit = unit;
        // SAFETY: as above.
        unsafe {
            match step {
                ROWS => super::neon::block::<ROWS>(&run),
                _ => super::neon::block::<1>(&run),
            }
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _: ([*const u32; ROWS], usize, Next) = (rows, step, next);
        unreachable!(
            "there are no blocks for this machine: {unit:?}, {}",
            end.is_some()
        );
    }
}

/// [`multiply`] into a block, anew.
pub fn multiply_block(unit: Unit, operands: &Operands<'_>, block: &mut Block) {
    // SAFETY: the whole block is this thread's.
    unsafe { multiply(unit, operands, Target::block(block, ROWS, COLUMNS), None) };
}

/// Words as the numbers whose bits they are.
pub fn numbers(words: &[u32]) -> &[f32] {
    // SAFETY: both have the same size and alignment, and every pattern is a valid f32.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
}

/// The same to write.
pub fn numbers_mut(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// The bits of numbers.
pub fn bits(numbers: &[f32]) -> &[u32] {
    // SAFETY: both have the same size and alignment, and every pattern is a valid u32.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) }
}

/// Operands and target of one block.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) struct Run<'a> {
    pub panel: *const u32,
    pub rows: [*const u32; ROWS],
    pub steps: usize,
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // asked for by AVX-512 alone
    pub next: Next,
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // as above
    pub ahead: &'a [*const f32],
    pub target: Target,
    pub end: Option<&'a End<'a>>,
}

/// Lines of a row of a target at most: it begins anywhere in a line.
#[cfg(target_arch = "x86_64")]
const LINES_A_ROW: usize = COLUMNS / 16 + 1;

/// Lines of a block's target at most.
#[cfg(target_arch = "x86_64")]
pub(super) const LINES: usize = ROWS * LINES_A_ROW;

impl Target {
    /// Asks for all lines there are.
    pub fn ask(&self) {
        #[cfg(target_arch = "x86_64")]
        if self.rows > 0 && self.columns > 0 {
            self.prefetch_all();
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Target {
    /// Asks for all lines, so that they are there when the sums are.
    pub(super) fn prefetch_all(&self) {
        (0..self.rows * LINES_A_ROW).for_each(|line| self.prefetch(line));
    }

    /// The same for one line, counted row by row. The target is not empty.
    #[inline]
    pub(super) fn prefetch(&self, index: usize) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let row = (index / LINES_A_ROW).min(self.rows - 1);
        let column = (index % LINES_A_ROW * 16).min(self.columns - 1);
        let line = self.start.wrapping_add(row * self.pitch + column);
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast_const().cast()) };
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_castsi512_ps,
        _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps,
        _mm512_set1_epi32, _mm512_setzero_ps,
    };
    use std::mem::transmute;

    use super::{COLUMNS, LINES, ROWS, Run, Target};
    use crate::ops::cpu::ahead::ask;
    use crate::ops::cpu::finish;

    const LANES: usize = 16;

    /// One function for each kind of words: `$add` multiplies and adds.
    macro_rules! block {
        ($name:ident, $features:literal, $add:path) => {
            /// `VECTORS` vectors of columns, `HEIGHT` rows; the factors of a row are `STEP` words apart.
            ///
            /// # Safety
            /// The panel holds `steps` times [`COLUMNS`] words, every row all its factors; the
            /// target as [`super::multiply`] wants it, `VECTORS` vectors and `HEIGHT` rows at most.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name<
                const VECTORS: usize,
                const STEP: usize,
                const HEIGHT: usize,
            >(
                run: &Run<'_>,
            ) {
                let target = run.target;
                // The last vector's columns that exist.
                let mask = u16::MAX >> (VECTORS * LANES - target.columns);
                if let Some((added, pitch)) = run.end.and_then(|end| end.added) {
                    let start = added.cast_mut();
                    let added = Target {
                        start,
                        pitch,
                        ..target
                    };
                    added.prefetch_all();
                }
                // One line a step: requests wait while as many are under way as there may be. Those that no
                // step is left for come first.
                (run.steps..LINES).for_each(|line| target.prefetch(line));
                let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
                if target.resumed {
                    for (row, sums) in sums.iter_mut().enumerate().take(target.rows) {
                        for (vector, sum) in sums.iter_mut().enumerate() {
                            // SAFETY: what the mask leaves out is not read.
                            *sum = unsafe {
                                let at = target.start.add(row * target.pitch + vector * LANES);
                                if vector + 1 == VECTORS {
                                    _mm512_maskz_loadu_ps(mask, at)
                                } else {
                                    _mm512_loadu_ps(at)
                                }
                            };
                        }
                    }
                }
                let mut panel = run.panel;
                let rows = run.rows;
                let (ahead, more) = run.ahead.split_at(run.ahead.len().min(run.steps));
                ask(more);
                for at in 0..run.steps {
                    // SAFETY: by this function's contract; loads need no alignment, and a
                    // prefetch does not fault.
                    unsafe {
                        if let Some(line) = ahead.get(at) {
                            _mm_prefetch::<_MM_HINT_T1>(line.cast());
                        }
                        if at < LINES {
                            target.prefetch(at);
                        }
                        let next = run.next.after(at).start.cast();
                        if STEP == ROWS {
                            // The next factors come from far where few columns share them.
                            _mm_prefetch::<_MM_HINT_T0>(next);
                        } else {
                            _mm_prefetch::<_MM_HINT_T1>(next);
                        }
                        let values: [__m512; VECTORS] = std::array::from_fn(|vector| {
                            _mm512_loadu_ps(panel.add(vector * LANES).cast())
                        });
                        panel = panel.add(COLUMNS);
                        for row in 0..HEIGHT {
                            // Packed factors are neighbours of the first row's.
                            let factor = if STEP == ROWS {
                                rows[0].add(at * ROWS + row)
                            } else {
                                rows[row].add(at)
                            };
                            let factor = _mm512_set1_epi32((*factor).cast_signed());
                            for vector in 0..VECTORS {
                                let sum = &mut sums[row][vector];
                                *sum = $add(*sum, values[vector], factor);
                            }
                        }
                    }
                }
                finish::store!(sums, run.end, target, mask, VECTORS);
            }
        };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn add_f32(sum: __m512, values: __m512, factor: __m512i) -> __m512 {
        _mm512_fmadd_ps(values, _mm512_castsi512_ps(factor), sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn add_bf16(sum: __m512, values: __m512, factor: __m512i) -> __m512 {
        // SAFETY: 64 bytes each, for which every pattern is valid.
        let (values, factor) = unsafe {
            (
                transmute::<__m512, __m512bh>(values),
                transmute::<__m512i, __m512bh>(factor),
            )
        };
        _mm512_dpbf16_ps(sum, values, factor)
    }

    block!(f32_block, "avx512f,avx512bw,avx512vl,avx512dq", add_f32);
    block!(
        bf16_block,
        "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16",
        add_bf16
    );
}

/// Blocks in parts that fit sixteen registers of eight numbers: four rows by up to 16 columns.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    use super::{Block, COLUMNS, ROWS, Run};
    use crate::ops::cpu::ahead::ask;

    const LANES: usize = 8;
    /// Rows and vectors of a part.
    const HEIGHT: usize = 4;
    const WIDTH: usize = 2;

    /// The factors of a row are `STEP` words apart.
    ///
    /// # Safety
    /// As those for AVX-512, for any number of columns.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn block<const STEP: usize>(run: &Run<'_>) {
        let target = run.target;
        ask(run.ahead);
        let mut sums: Block = [[0.0; COLUMNS]; ROWS];
        if target.resumed {
            // SAFETY: by this function's contract.
            unsafe { target.load(&mut sums) };
        }
        for first in (0..target.rows).step_by(HEIGHT) {
            for column in (0..target.columns).step_by(WIDTH * LANES) {
                let vectors = (target.columns - column).div_ceil(LANES);
                // SAFETY: by this function's contract.
                unsafe {
                    match vectors {
                        1 => part::<1, STEP>(run, &mut sums, first, column),
                        _ => part::<2, STEP>(run, &mut sums, first, column),
                    }
                }
            }
        }
        // SAFETY: by this function's contract.
        unsafe { target.store(&sums, run.end) };
    }

    /// # Safety
    /// As [`block`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn part<const VECTORS: usize, const STEP: usize>(
        run: &Run<'_>,
        sums: &mut Block,
        first: usize,
        column: usize,
    ) {
        let mut local = [[_mm256_setzero_ps(); VECTORS]; HEIGHT];
        // SAFETY: a block has room for whole vectors of all columns that a panel has.
        unsafe {
            for (row, local) in local.iter_mut().enumerate() {
                for (vector, sum) in local.iter_mut().enumerate() {
                    let at = sums[first + row].as_ptr().add(column + vector * LANES);
                    *sum = _mm256_loadu_ps(at);
                }
            }
            let mut panel = run.panel.add(column).cast::<f32>();
            let rows: [*const f32; HEIGHT] = std::array::from_fn(|row| {
                if STEP == ROWS {
                    run.rows[0].add(first + row).cast()
                } else {
                    run.rows[first + row].cast()
                }
            });
            for at in 0..run.steps {
                let values: [_; VECTORS] =
                    std::array::from_fn(|vector| _mm256_loadu_ps(panel.add(vector * LANES)));
                panel = panel.add(COLUMNS);
                for row in 0..HEIGHT {
                    let factor = _mm256_set1_ps(*rows[row].add(at * STEP));
                    for vector in 0..VECTORS {
                        let sum = &mut local[row][vector];
                        *sum = _mm256_fmadd_ps(values[vector], factor, *sum);
                    }
                }
            }
            for (row, local) in local.iter().enumerate() {
                for (vector, sum) in local.iter().enumerate() {
                    let at = sums[first + row].as_mut_ptr().add(column + vector * LANES);
                    _mm256_storeu_ps(at, *sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::finish::testing::Case;
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let number = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32;
        (0..count as u32)
            .map(|i| number(i) / 8_388_608.0 - 1.0)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        // By the definition, in double precision; in one go and in two.
        #[test]
        fn blocks_are_sums_of_products(
            rows in 1..=ROWS, columns in 1..=COLUMNS, steps in 1_usize..40, cut in 0_usize..40,
            packed: bool, wide: bool, across: bool, relu: bool, adds: bool,
        ) {
            let level = if wide { Level::Avx512 } else { Level::Avx2 };
            let Some(unit) = Unit::at(Precision::F32, level) else { return Ok(()) };
            let pitch = COLUMNS + 5;
            let panel = numbers(steps * COLUMNS, 1);
            // `[steps, ROWS]`, or the other way round.
            let factors = numbers(steps * ROWS, 2);
            let bias = numbers(COLUMNS, 3);
            let added = numbers(ROWS * pitch, 4);
            let mut output = vec![7.0; ROWS * pitch];
            let case = Case { bias: &bias, across, relu, added: adds.then_some((&added[..], pitch)) };
            let end = case.end();
            let cut = cut.min(steps);
            for (from, to) in [(0, cut), (cut, steps)] {
                let factors = if packed {
                    Factors::Packed(bits(&factors[from * ROWS..to * ROWS]))
                } else {
                    Factors::Rows { words: bits(&factors[from..]), pitch: steps, count: rows }
                };
                let operands = Operands {
                    panel: bits(&panel[from * COLUMNS..to * COLUMNS]), factors, steps: to - from,
                    next: Next::NONE, ahead: &[],
                };
                let start = output.as_mut_ptr();
                let target = Target { start, pitch, rows, columns, resumed: from > 0 };
                if to > from {
                    // SAFETY: the output has `pitch` numbers for every row of a block.
                    unsafe { multiply(unit, &operands, target, (to == steps).then_some(&end)) };
                }
            }
            for row in 0..ROWS {
                for column in 0..pitch {
                    let found = output[row * pitch + column];
                    if row >= rows || column >= columns {
                        prop_assert_eq!(found, 7.0);
                        continue;
                    }
                    let mut sum = 0.0;
                    for step in 0..steps {
                        let at = if packed { step * ROWS + row } else { row * steps + step };
                        sum += f64::from(panel[step * COLUMNS + column]) * f64::from(factors[at]);
                    }
                    let expected = case.expected(sum, row, column);
                    prop_assert!((f64::from(found) - expected).abs() < 2e-5, "{found} {expected}");
                }
            }
        }
    }
}
