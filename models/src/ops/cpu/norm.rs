//! Layer norm in two passes: first the mean, then the squares of what differs from it.

use rayon::prelude::*;

use super::math::{sum, sum_of_squares};
use super::simd::dispatch;

/// Numbers below which threads cost more than they bring.
const MIN_PER_THREAD: usize = 16 * 1024;

/// Norms every row of `size = weight.len()` numbers, not zero.
pub fn layer_norm(input: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let size = weight.len();
    let mut output = input.to_vec();
    let together = (MIN_PER_THREAD / size).max(1) * size;
    output.par_chunks_mut(together).for_each(|rows| {
        for row in rows.chunks_exact_mut(size) {
            norm_row(row, weight, bias, eps);
        }
    });
    output
}

#[inline(always)]
fn norm_row_body(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let count = row.len() as f32;
    let mean = sum(row) / count;
    for x in row.iter_mut() {
        *x -= mean;
    }
    let scale = 1.0 / (sum_of_squares(row) / count + eps).sqrt();
    for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
        *x = *x * scale * w + b;
    }
}

dispatch! {
    /// One row, in place.
    fn norm_row(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) = norm_row_body
}
