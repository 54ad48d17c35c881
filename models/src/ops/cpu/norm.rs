//! Layer norm in two passes: first the mean, then the squares of what differs from it.

#![allow(unsafe_code)] // rows that have no numbers yet

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::math::{sum, sum_of_squares};
use super::simd::dispatch;

/// Numbers below which threads cost more than they bring: one that sleeps takes some 50 µs to wake up.
const MIN_PER_THREAD: usize = 128 * 1024;

/// Norms every row of `size = weight.len()` numbers, not zero.
pub fn layer_norm(input: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let size = weight.len();
    let mut output = Vec::with_capacity(input.len());
    let together = (MIN_PER_THREAD / size).max(1) * size;
    let count = input.len() / size * size;
    let rows = &mut output.spare_capacity_mut()[..count];
    let rows = rows
        .par_chunks_mut(together)
        .zip(input.par_chunks(together));
    rows.for_each(|(output, rows)| {
        for (output, row) in output.chunks_exact_mut(size).zip(rows.chunks_exact(size)) {
            norm_row(output, row, weight, bias, eps);
        }
    });
    // SAFETY: all of these rows were written.
    unsafe { output.set_len(count) };
    output
}

#[inline(always)]
fn norm_row_body(
    output: &mut [MaybeUninit<f32>],
    row: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) {
    assert_eq!(output.len(), row.len());
    let count = row.len() as f32;
    let mean = sum(row) / count;
    for (output, x) in output.iter_mut().zip(row) {
        output.write(x - mean);
    }
    // SAFETY: outputs are as many as there are numbers in a row, all written.
    let row: &mut [f32] =
        unsafe { std::slice::from_raw_parts_mut(output.as_mut_ptr().cast(), row.len()) };
    let scale = 1.0 / (sum_of_squares(row) / count + eps).sqrt();
    for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
        *x = *x * scale * w + b;
    }
}

dispatch! {
    /// One row, as long as the output.
    fn norm_row(output: &mut [MaybeUninit<f32>], row: &[f32], weight: &[f32], bias: &[f32], eps: f32) = norm_row_body
}
