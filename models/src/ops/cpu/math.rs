//! Elementary functions that the compiler can vectorise, and the epilogue of a convolution.

use super::simd::dispatch;
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};
use crate::ops::Activation;
use crate::ops::activation::QUICK_GELU_SLOPE;

/// eˣ for f32 by range reduction to ±ln2/2 and a polynomial of degree 6 (coefficients of Cephes'
/// `expf`); relative error below 2e-7 (tested), saturating outside ±87.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // 1.5 · 2²³: adding it rounds to an integer, without a library call.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_6e-1;
    p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // 2ⁿ through the exponent bits: the low bits of `shifted` hold n.
    let exponent = shifted.to_bits().wrapping_add(127) << 23;
    p * f32::from_bits(exponent)
}

/// The error function by formula 7.1.26 of Abramowitz and Stegun, "Handbook of Mathematical Functions"
/// (1964), which is off by 1.5e-7 at most; with what f32 rounds below 5e-7 (tested).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let positive = x.abs();
    let t = 1.0 / (1.0 + ERF_SLOPE * positive);
    let mut p = ERF[0];
    for c in &ERF[1..] {
        p = p * t + c;
    }
    (1.0 - p * t * exp(-positive * positive)).copysign(x)
}

const ERF_SLOPE: f32 = 0.327_591_1;

/// From the fifth power to the first.
const ERF: [f32; 5] = [
    1.061_405_4,
    -1.453_152,
    1.421_413_7,
    -0.284_496_74,
    0.254_829_6,
];

/// Sums kept apart, so that they need not wait for each other.
const LANES: usize = 32;

/// The sum of all numbers.
#[inline(always)]
pub fn sum(row: &[f32]) -> f32 {
    sum_of(row, |x| x)
}

/// The sum of all squares.
#[inline(always)]
pub fn sum_of_squares(row: &[f32]) -> f32 {
    sum_of(row, |x| x * x)
}

/// The largest of all numbers that are not NaN.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, *x);
    }
    halves(lanes, larger)
}

#[inline(always)]
fn largest_of_rows_body(output: &mut [f32], rows: &[f32], size: usize) {
    for (output, row) in output.iter_mut().zip(rows.chunks_exact(size)) {
        *output = largest(row);
    }
}

dispatch! {
    /// The largest number of every row of `size`, not 0, that is not NaN; minus infinity if there is none.
    pub fn largest_of_rows(output: &mut [f32], rows: &[f32], size: usize) = largest_of_rows_body
}

#[inline(always)]
fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
    halves(lanes, |a, b| a + b)
}

/// All lanes by one operation, each half with the other, so that few wait for each other.
#[inline(always)]
fn halves(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        let (first, second) = lanes.split_at_mut(half);
        for (a, b) in first.iter_mut().zip(second) {
            *a = join(*a, *b);
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn epilogue_body(row: &mut [f32], bias: f32, activation: Activation) {
    match activation {
        Activation::Identity => {
            for x in row {
                *x += bias;
            }
        }
        Activation::Relu => {
            for x in row {
                // NaN stays NaN.
                let y = *x + bias;
                *x = if 0.0 > y { 0.0 } else { y };
            }
        }
        Activation::Silu => {
            for x in row {
                let y = *x + bias;
                *x = y / (1.0 + exp(-y));
            }
        }
        Activation::Gelu => {
            for x in row {
                let y = *x + bias;
                *x = (erf(y * std::f32::consts::FRAC_1_SQRT_2) + 1.0) * 0.5 * y;
            }
        }
        Activation::QuickGelu => {
            const SLOPE: f32 = QUICK_GELU_SLOPE as f32;
            for x in row {
                let y = *x + bias;
                *x = y / (1.0 + exp(-SLOPE * y));
            }
        }
    }
}

#[inline(always)]
fn row_epilogue_body(row: &mut [f32], bias: &[f32], activation: Activation) {
    for (x, b) in row.iter_mut().zip(bias) {
        *x += b;
    }
    if activation != Activation::Identity {
        epilogue_body(row, 0.0, activation);
    }
}

#[inline(always)]
fn activate_body(row: &mut [f32], activation: Activation) {
    if activation != Activation::Identity {
        epilogue_body(row, 0.0, activation);
    }
}

#[inline(always)]
fn silu_product_body(output: &mut [f32], gate: &[f32], value: &[f32]) {
    for ((out, gate), value) in output.iter_mut().zip(gate).zip(value) {
        *out = gate / (1.0 + exp(-gate)) * value;
    }
}

#[inline(always)]
fn softmax_body(row: &mut [f32]) {
    let most = largest(row);
    for x in row.iter_mut() {
        *x = exp(*x - most);
    }
    let scale = 1.0 / sum(row);
    for x in row {
        *x *= scale;
    }
}

dispatch! {
    fn softmax_plain(row: &mut [f32]) = softmax_body
}

/// Softmax in place.
pub fn softmax(row: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: the machine has the instructions.
        #[allow(unsafe_code)]
        return unsafe { avx512::softmax(row) };
    }
    softmax_plain(row);
}

/// The mean of `values`, as many as there are numbers in the row, under its softmax.
pub fn expectation(row: &[f32], values: &[f32]) -> f32 {
    assert_eq!(row.len(), values.len());
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: the machine has the instructions.
        #[allow(unsafe_code)]
        return unsafe { avx512::expectation(row, values) };
    }
    let mut shares = row.to_vec();
    softmax_plain(&mut shares);
    shares
        .iter()
        .zip(values)
        .map(|(share, value)| share * value)
        .sum()
}

dispatch! {
    /// SiLU of `gate` times `value`.
    pub fn silu_product(output: &mut [f32], gate: &[f32], value: &[f32]) = silu_product_body
}

dispatch! {
    /// Applies the activation, in place.
    pub fn activate(row: &mut [f32], activation: Activation) = activate_body
}

dispatch! {
    /// Adds to each number of a row its own bias and applies the activation, in place.
    pub fn row_epilogue(row: &mut [f32], bias: &[f32], activation: Activation) = row_epilogue_body
}

/// The same in vectors, the last one masked.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub mod avx512 {
    use std::arch::x86_64::{
        __m512, _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_and_ps, _mm512_castsi512_ps,
        _mm512_cvtps_epi32, _mm512_div_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps,
        _mm512_mask_loadu_ps, _mm512_mask_storeu_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
        _mm512_or_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_reduce_ps,
        _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_epi32, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
    };

    use crate::ops::cpu::simd::within;

    const LANES: usize = 16;

    /// As [`super::softmax`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub fn softmax(row: &mut [f32]) {
        let most = largest(row);
        let mut sum = _mm512_setzero_ps();
        let (whole, rest) = row.as_chunks_mut::<LANES>();
        for numbers in whole.iter_mut() {
            let x = share(load(numbers), most);
            store(numbers, x);
            sum = _mm512_add_ps(sum, x);
        }
        if !rest.is_empty() {
            // What is beyond the end adds nothing.
            let x = share(load_some(rest, f32::NEG_INFINITY), most);
            store_some(rest, x);
            sum = _mm512_add_ps(sum, x);
        }
        let scale = _mm512_set1_ps(1.0 / _mm512_reduce_add_ps(sum));
        for numbers in whole {
            store(numbers, _mm512_mul_ps(load(numbers), scale));
        }
        if !rest.is_empty() {
            store_some(rest, _mm512_mul_ps(load_some(rest, 0.0), scale));
        }
    }

    /// As [`super::expectation`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub fn expectation(row: &[f32], values: &[f32]) -> f32 {
        let most = largest(row);
        let (mut sum, mut mean) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        let ((whole, rest), (of_whole, of_rest)) = (row.as_chunks(), values.as_chunks());
        for (numbers, values) in whole.iter().zip(of_whole) {
            let x = share(load(numbers), most);
            sum = _mm512_add_ps(sum, x);
            mean = _mm512_fmadd_ps(x, load(values), mean);
        }
        if !rest.is_empty() {
            let x = share(load_some(rest, f32::NEG_INFINITY), most);
            sum = _mm512_add_ps(sum, x);
            mean = _mm512_fmadd_ps(x, load_some(of_rest, 0.0), mean);
        }
        _mm512_reduce_add_ps(mean) / _mm512_reduce_add_ps(sum)
    }

    /// The largest number of a row that is one, in all lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn largest(row: &[f32]) -> __m512 {
        let mut most = _mm512_set1_ps(f32::NEG_INFINITY);
        let (whole, rest) = row.as_chunks();
        for numbers in whole {
            // Of a number that is none the second argument is given back.
            most = _mm512_max_ps(load(numbers), most);
        }
        if !rest.is_empty() {
            most = _mm512_max_ps(load_some(rest, f32::NEG_INFINITY), most);
        }
        _mm512_set1_ps(_mm512_reduce_max_ps(most))
    }

    /// e to the power of what numbers are above the largest one.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn share(x: __m512, most: __m512) -> __m512 {
        let to_powers = _mm512_set1_ps(std::f32::consts::LOG2_E);
        power_of_two(_mm512_mul_ps(_mm512_sub_ps(x, most), to_powers))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(numbers: &[f32; LANES]) -> __m512 {
        // SAFETY: a whole vector.
        unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(numbers: &mut [f32; LANES], x: __m512) {
        // SAFETY: a whole vector.
        unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), x) };
    }

    /// So many numbers, and others in the lanes beyond.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_some(numbers: &[f32], others: f32) -> __m512 {
        // SAFETY: what the mask leaves out is not read.
        unsafe {
            _mm512_mask_loadu_ps(
                _mm512_set1_ps(others),
                within(0, numbers.len()),
                numbers.as_ptr(),
            )
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store_some(numbers: &mut [f32], x: __m512) {
        // SAFETY: what the mask leaves out is not written.
        unsafe { _mm512_mask_storeu_ps(numbers.as_mut_ptr(), within(0, numbers.len()), x) };
    }

    /// As [`super::erf`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub fn erf(x: __m512) -> __m512 {
        let number = |x: f32| _mm512_set1_ps(x);
        let positive = _mm512_abs_ps(x);
        let t = _mm512_fmadd_ps(number(super::ERF_SLOPE), positive, number(1.0));
        let t = _mm512_div_ps(number(1.0), t);
        let mut p = number(super::ERF[0]);
        for c in &super::ERF[1..] {
            p = _mm512_fmadd_ps(p, t, number(*c));
        }
        let square = _mm512_mul_ps(positive, positive);
        let below = exp(_mm512_sub_ps(_mm512_setzero_ps(), square));
        let erf = _mm512_fnmadd_ps(_mm512_mul_ps(p, t), below, number(1.0));
        _mm512_or_ps(erf, _mm512_and_ps(x, number(-0.0)))
    }

    /// 1 / (1 + e^(−slope · x)), off by less than 4e-7 of it and 1e-7 more for each unit of the exponent
    /// (tested); what is no number stays so.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub fn sigmoid(x: __m512, slope: f32) -> __m512 {
        let number = |x: f32| _mm512_set1_ps(x);
        let t = _mm512_mul_ps(x, number(-slope * std::f32::consts::LOG2_E));
        // Of a number that is none the second argument is given back.
        let below = power_of_two(_mm512_min_ps(number(126.0), t));
        // Not by an estimate of the reciprocal: processors differ in its bits.
        _mm512_div_ps(number(1.0), _mm512_add_ps(number(1.0), below))
    }

    /// 2ᵗ, off by less than 1.5e-7 of it, for t below 127; what is no number stays so.
    ///
    /// Half as many instructions as [`exp`] takes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn power_of_two(t: __m512) -> __m512 {
        // 2ʳ for r from 0 to 1, fitted by least squares whose weights even the relative error out.
        const POWER: [f32; 6] = [
            1.877_576_7e-3,
            8.989_34e-3,
            5.582_631_8e-2,
            2.401_536_1e-1,
            6.931_531e-1,
            9.999_999_4e-1,
        ];
        // What t is above an integer.
        let r = _mm512_reduce_ps::<1>(t);
        let mut p = _mm512_set1_ps(POWER[0]);
        for c in &POWER[1..] {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
        }
        _mm512_scalef_ps(p, t)
    }

    /// As [`super::exp`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn exp(x: __m512) -> __m512 {
        let number = |x: f32| _mm512_set1_ps(x);
        let x = _mm512_min_ps(number(87.0), _mm512_max_ps(number(-87.0), x));
        // To the nearest integer.
        let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, number(std::f32::consts::LOG2_E)));
        let r = _mm512_fnmadd_ps(n, number(0.693_359_4), x);
        let r = _mm512_fnmadd_ps(n, number(-2.121_944_4e-4), r);
        let mut p = number(1.987_569_1e-4);
        p = _mm512_fmadd_ps(p, r, number(1.398_199_9e-3));
        p = _mm512_fmadd_ps(p, r, number(8.333_452e-3));
        p = _mm512_fmadd_ps(p, r, number(4.166_579_6e-2));
        p = _mm512_fmadd_ps(p, r, number(1.666_666_6e-1));
        p = _mm512_fmadd_ps(p, r, number(0.5));
        let square = _mm512_mul_ps(r, r);
        let p = _mm512_add_ps(_mm512_fmadd_ps(p, square, r), number(1.0));
        let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Against the standard library's f64 exp, rounded.
    #[test]
    fn exp_is_within_two_ulp_or_so() {
        for step in -86_900..=86_900 {
            let x = step as f32 * 1e-3;
            let expected = f64::from(x).exp();
            let relative = ((f64::from(exp(x)) - expected) / expected).abs();
            assert!(relative < 2e-7, "exp({x}): off by {relative:e}");
        }
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NEG_INFINITY) > 0.0);
    }

    // By the definition, in double precision.
    #[cfg(target_arch = "x86_64")]
    #[test]
    #[allow(unsafe_code)]
    fn sigmoid_is_within_its_bound() {
        use std::arch::x86_64::{_mm512_cvtss_f32, _mm512_set1_ps};
        #[target_feature(enable = "avx512f,avx512dq")]
        fn sigmoid(x: f32, slope: f32) -> f32 {
            _mm512_cvtss_f32(avx512::sigmoid(_mm512_set1_ps(x), slope))
        }
        if level() < Level::Avx512 {
            return;
        }
        for slope in [1.0, 1.702] {
            // SAFETY: the machine has the instructions.
            let found = |x: f32| unsafe { sigmoid(x, slope) };
            for step in -120_000..=120_000 {
                let x = step as f32 * 1e-3;
                let expected = 1.0 / (1.0 + (-f64::from(x) * f64::from(slope)).exp());
                let off = (f64::from(found(x)) - expected).abs();
                // Exponents are rounded as f32 are.
                let bound = 4e-7 + 1e-7 * f64::from(x * slope).abs();
                assert!(off < bound * expected + 1e-37, "{x}: off by {off:e}");
            }
            assert_eq!(found(f32::INFINITY), 1.0);
            assert!((0.0..1e-37).contains(&found(f32::NEG_INFINITY)));
            assert!(found(f32::NAN).is_nan());
        }
    }

    // By candle's, which follows the C library's, in double precision.
    #[test]
    fn erf_is_within_its_bound() {
        for step in -6000..=6000 {
            let x = step as f32 * 1e-3;
            let expected = candle_core::cpu::erf::erf_f64(f64::from(x));
            let off = (f64::from(erf(x)) - expected).abs();
            assert!(off < 5e-7, "erf({x}): off by {off:e}");
        }
        assert_eq!(erf(f32::INFINITY), 1.0);
        assert_eq!(erf(f32::NEG_INFINITY), -1.0);
    }

    // In double precision, by the definition; rows of whole vectors, with rests, and single numbers.
    #[test]
    fn softmax_is_that_of_the_definition() {
        for count in [1, 2, 12, 15, 16, 17, 31, 33, 64, 150, 300, 1031] {
            let row: Vec<f32> = (0..count)
                .map(|at| ((at * 7919) % 211) as f32 * 0.1 - 9.0)
                .collect();
            let exps: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
            let sum: f64 = exps.iter().sum();
            let (mut found, mut plain) = (row.clone(), row);
            softmax(&mut found);
            softmax_plain(&mut plain);
            for ((found, plain), exp) in found.iter().zip(&plain).zip(&exps) {
                let expected = exp / sum;
                assert!((f64::from(*found) - expected).abs() <= 4e-6 * expected);
                assert!((f64::from(*plain) - expected).abs() <= 4e-6 * expected);
            }
        }
        // A number that is none makes the row none, and is not taken for the largest.
        let mut row = [1.0, f32::NAN, 3.0];
        softmax(&mut row);
        assert!(row.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn epilogue_equals_candle() -> candle_core::Result<()> {
        use candle_core::{Device, Tensor};
        let values: Vec<f32> = (-400..400).map(|i| i as f32 * 0.05).collect();
        for activation in [
            Activation::Identity,
            Activation::Relu,
            Activation::Silu,
            Activation::Gelu,
            Activation::QuickGelu,
        ] {
            let x = (Tensor::new(values.clone(), &Device::Cpu)? + 0.3)?;
            let expected = activation.apply(&x)?.to_vec1::<f32>()?;
            let mut found = values.clone();
            epilogue_body(&mut found, 0.3, activation);
            for (e, f) in expected.iter().zip(&found) {
                assert!(
                    (e - f).abs() <= 2e-6 * e.abs().max(1.0),
                    "{activation:?}: {e} {f}"
                );
            }
        }
        Ok(())
    }
}
