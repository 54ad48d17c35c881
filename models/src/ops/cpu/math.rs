//! Elementary functions that the compiler can vectorise, and the epilogue of a convolution.

use super::simd::dispatch;
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
    lanes.iter().fold(f32::NEG_INFINITY, |a, b| larger(a, *b))
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
    lanes.iter().sum()
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
                *x = (candle_core::cpu::erf::erf_f32(y * std::f32::consts::FRAC_1_SQRT_2) + 1.0)
                    * 0.5
                    * y;
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
    /// Softmax in place.
    pub fn softmax(row: &mut [f32]) = softmax_body
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
