//! Max pooling of planes: rows first, then columns.

use rayon::prelude::*;

use super::simd::dispatch;
use crate::ops::Window;

/// The largest number of every window of the planes in `data`, each of `(height, width)`; see
/// [`crate::ops::max_pool2d`], which checks that windows fit.
pub fn max(data: &[f32], (height, width): (usize, usize), window: Window) -> Vec<f32> {
    let plane = height * width;
    let (rows, columns) = (window.count(height), window.count(width));
    let mut output = vec![0.0; data.len() / plane * rows * columns];
    output
        .par_chunks_exact_mut(rows * columns)
        .zip(data.par_chunks_exact(plane))
        .for_each(|(output, input)| pool_plane(output, input, width, window));
    output
}

/// See [`crate::ops::max_of_four`].
pub fn max_of_four(data: &[f32], height: usize, width: usize) -> Vec<f32> {
    let plane = height * width;
    let mut output = vec![0.0; data.len()];
    output
        .par_chunks_exact_mut(plane)
        .zip(data.par_chunks_exact(plane))
        .for_each(|(output, input)| four(output, input, width));
    output
}

#[inline(always)]
fn four_body(output: &mut [f32], input: &[f32], width: usize) {
    let zeros = vec![0.0; width];
    for (y, output) in output.chunks_exact_mut(width).enumerate() {
        let row = &input[y * width..(y + 1) * width];
        let below = input.get((y + 1) * width..(y + 2) * width);
        let below = below.unwrap_or(&zeros);
        let last = width - 1;
        for x in 0..last {
            let left = larger(row[x], below[x]);
            output[x] = larger(left, larger(row[x + 1], below[x + 1]));
        }
        output[last] = larger(larger(row[last], below[last]), 0.0);
    }
}

dispatch! {
    fn four(output: &mut [f32], input: &[f32], width: usize) = four_body
}

#[inline(always)]
fn pool_plane_body(output: &mut [f32], input: &[f32], width: usize, window: Window) {
    let Window {
        kernel,
        stride,
        padding,
    } = window;
    let height = input.len() / width;
    let columns = window.count(width);
    // The largest of the rows of a window, minus infinity on both sides for the padding.
    let mut largest = vec![f32::NEG_INFINITY; width + 2 * padding];
    for (row, output) in output.chunks_exact_mut(columns).enumerate() {
        let first = (row * stride).saturating_sub(padding);
        let end = (row * stride + kernel - padding).min(height);
        let inside = &mut largest[padding..padding + width];
        inside.copy_from_slice(&input[first * width..(first + 1) * width]);
        for y in first + 1..end {
            for (most, &value) in inside.iter_mut().zip(&input[y * width..(y + 1) * width]) {
                *most = larger(*most, value);
            }
        }
        output.fill(f32::NEG_INFINITY);
        for offset in 0..kernel {
            let values = &largest[offset..];
            if stride == 1 {
                // The only form of this loop that the compiler turns into vectors.
                for (most, &value) in output.iter_mut().zip(values) {
                    *most = larger(*most, value);
                }
            } else {
                for (most, &value) in output.iter_mut().zip(values.iter().step_by(stride)) {
                    *most = larger(*most, value);
                }
            }
        }
    }
}

/// As [`f32::max`], but one instruction, as it need not look for NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a < b { b } else { a }
}

dispatch! {
    fn pool_plane(output: &mut [f32], input: &[f32], width: usize, window: Window) = pool_plane_body
}
