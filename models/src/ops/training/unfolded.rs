//! Dense convolutions and their gradients as products of unfolded images, for machines without the
//! registers that [`super::tile`] is made for.

#![allow(unsafe_code)] // `gemm` takes raw pointers

use rayon::prelude::*;

use super::conv::Sizes;
use crate::layers::Conv;

/// Most sums of weights' gradients that are taken apart and added at the end, in this order on any
/// number of threads.
const PARTS: usize = 8;

/// Fewest images of such a sum: a sum is as large as the weights.
const IMAGES_A_PART: usize = 4;

/// Columns that a matrix product should have at least: with fewer, reading and writing the result
/// takes longer than computing it.
const COLUMNS: usize = 512;

/// Sizes of input and output planes.
#[derive(Clone, Copy)]
struct Planes {
    height: usize,
    width: usize,
    rows: usize,
    columns: usize,
}

impl Planes {
    fn input(&self) -> usize {
        self.height * self.width
    }

    fn output(&self) -> usize {
        self.rows * self.columns
    }

    fn of(sizes: &Sizes) -> Self {
        Self {
            height: sizes.input.height,
            width: sizes.input.width,
            rows: sizes.output.height,
            columns: sizes.output.width,
        }
    }
}

/// A dense convolution as the product of weights and unfolded input, image by image.
pub(super) fn forward(x: &[f32], weight: &[f32], sizes: &Sizes) -> Vec<f32> {
    let (conv, planes) = (&sizes.conv, Planes::of(sizes));
    let depth = conv.input * conv.kernel * conv.kernel;
    let cells = planes.output();
    let mut output = vec![0.0_f32; sizes.output_numbers()];
    let images = output
        .par_chunks_exact_mut(conv.output * cells)
        .zip(x.par_chunks_exact(conv.input * planes.input()));
    images.for_each_init(
        || vec![0.0_f32; depth * cells],
        |unfolded, (output, x)| {
            unfold(x, unfolded, 0, cells, conv, planes);
            product(
                &Matrix::rows(weight, depth),
                &Matrix::rows(unfolded, cells),
                output,
                [conv.output, depth, cells],
                false,
            );
        },
    );
    output
}

/// The way back to the input of a dense convolution, by unfolded gradients that are folded again.
pub(super) fn to_input(weight: &[f32], gradient: &[f32], sizes: &Sizes) -> Vec<f32> {
    let (conv, planes) = (&sizes.conv, Planes::of(sizes));
    let depth = conv.input * conv.kernel * conv.kernel;
    let cells = planes.output();
    let batch = gradient.len() / (conv.output * cells);
    let mut to_x = vec![0.0_f32; batch * conv.input * planes.input()];
    let images = to_x
        .par_chunks_exact_mut(conv.input * planes.input())
        .zip(gradient.par_chunks_exact(conv.output * cells));
    images.for_each_init(
        || vec![0.0_f32; depth * cells],
        |unfolded, (to_x, gradient)| {
            // [depth, cells] = weightᵀ [depth, output] × gradient [output, cells]
            product(
                &Matrix::columns(weight, depth),
                &Matrix::rows(gradient, cells),
                unfolded,
                [depth, conv.output, cells],
                false,
            );
            fold(unfolded, to_x, conv, planes);
        },
    );
    to_x
}

/// The gradient of dense weights: for every part of the batch the products of unfolded input and
/// gradient, some images at a time.
pub(super) fn to_weight(x: &[f32], gradient: &[f32], sizes: &Sizes) -> Vec<f32> {
    let (conv, planes, batch) = (&sizes.conv, Planes::of(sizes), sizes.images);
    let depth = conv.input * conv.kernel * conv.kernel;
    let cells = planes.output();
    let (x_size, gradient_size) = (conv.input * planes.input(), conv.output * cells);
    let images_a_part = batch.div_ceil(PARTS).max(IMAGES_A_PART);
    let together = COLUMNS.div_ceil(cells).clamp(1, images_a_part);
    let parts: Vec<Vec<f32>> = x
        .par_chunks(images_a_part * x_size)
        .zip(gradient.par_chunks(images_a_part * gradient_size))
        .map(|(x, gradient)| {
            let mut sum = vec![0.0_f32; conv.output * depth];
            let mut unfolded = vec![0.0_f32; depth * cells * together];
            let mut gathered = vec![0.0_f32; gradient_size * together];
            let groups = x
                .chunks(together * x_size)
                .zip(gradient.chunks(together * gradient_size));
            for (index, (x, gradient)) in groups.enumerate() {
                let width = x.len() / x_size * cells;
                for (image, x) in x.chunks_exact(x_size).enumerate() {
                    unfold(x, &mut unfolded, image * cells, width, conv, planes);
                }
                for (image, gradient) in gradient.chunks_exact(gradient_size).enumerate() {
                    for (channel, line) in gradient.chunks_exact(cells).enumerate() {
                        gathered[channel * width + image * cells..][..cells].copy_from_slice(line);
                    }
                }
                // [output, depth] += gradient [output, width] × unfoldedᵀ [width, depth]
                product(
                    &Matrix::rows(&gathered, width),
                    &Matrix::columns(&unfolded, width),
                    &mut sum,
                    [conv.output, width, depth],
                    index > 0,
                );
            }
            sum
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        total
            .par_chunks_mut(super::PART)
            .zip(part.par_chunks(super::PART))
            .for_each(|(total, part)| {
                for (total, part) in total.iter_mut().zip(part) {
                    *total += part;
                }
            });
    }
    total
}

/// Outputs of a row (or column) that read the input's inside at offset `k` of the kernel.
fn inside(k: usize, conv: &Conv, size: usize, outputs: usize) -> std::ops::Range<usize> {
    let first = conv.padding.saturating_sub(k).div_ceil(conv.stride);
    let end = (size + conv.padding)
        .saturating_sub(k)
        .div_ceil(conv.stride);
    let end = end.min(outputs);
    first.min(end)..end
}

/// Writes what every tap sees of an image, `[depth, cells]`, into columns `from` and on of a matrix
/// with rows of `pitch`.
fn unfold(x: &[f32], unfolded: &mut [f32], from: usize, pitch: usize, conv: &Conv, planes: Planes) {
    let taps = conv.kernel * conv.kernel;
    for row in 0..conv.input * taps {
        let plane = &x[row / taps * planes.input()..][..planes.input()];
        let cells = &mut unfolded[row * pitch + from..][..planes.output()];
        if taps == 1 && conv.stride == 1 {
            cells.copy_from_slice(plane);
            continue;
        }
        let (ky, kx) = (row % taps / conv.kernel, row % conv.kernel);
        let rows = inside(ky, conv, planes.height, planes.rows);
        let columns = inside(kx, conv, planes.width, planes.columns);
        cells.fill(0.0);
        if columns.is_empty() {
            continue;
        }
        for y in rows {
            let line = &mut cells[y * planes.columns..][columns.clone()];
            let source = (y * conv.stride + ky - conv.padding) * planes.width;
            let source = &plane[source + columns.start * conv.stride + kx - conv.padding..];
            if conv.stride == 1 {
                line.copy_from_slice(&source[..line.len()]);
                continue;
            }
            for (cell, value) in line.iter_mut().zip(source.iter().step_by(conv.stride)) {
                *cell = *value;
            }
        }
    }
}

/// Adds what every tap received, `[depth, cells]`, to the input cell that it had read.
fn fold(unfolded: &[f32], to_x: &mut [f32], conv: &Conv, planes: Planes) {
    let taps = conv.kernel * conv.kernel;
    for (row, cells) in unfolded.chunks_exact(planes.output()).enumerate() {
        let plane = &mut to_x[row / taps * planes.input()..][..planes.input()];
        let (ky, kx) = (row % taps / conv.kernel, row % conv.kernel);
        let columns = inside(kx, conv, planes.width, planes.columns);
        if columns.is_empty() {
            continue;
        }
        for y in inside(ky, conv, planes.height, planes.rows) {
            let line = &cells[y * planes.columns..][columns.clone()];
            let target = (y * conv.stride + ky - conv.padding) * planes.width;
            let target = &mut plane[target + columns.start * conv.stride + kx - conv.padding..];
            for (target, value) in target.iter_mut().step_by(conv.stride).zip(line) {
                *target += value;
            }
        }
    }
}

/// A matrix by rows, or, transposed, by columns.
struct Matrix<'a> {
    numbers: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `pitch` numbers one after the other.
    fn rows(numbers: &'a [f32], pitch: usize) -> Self {
        Self {
            numbers,
            row_stride: pitch,
            column_stride: 1,
        }
    }

    /// Columns of `pitch` numbers one after the other.
    fn columns(numbers: &'a [f32], pitch: usize) -> Self {
        Self {
            numbers,
            row_stride: 1,
            column_stride: pitch,
        }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = (rows.max(1) - 1) * self.row_stride + (columns.max(1) - 1) * self.column_stride;
        last < self.numbers.len()
    }
}

/// `result` (`[m, n]` by rows) = or += `a` (`[m, k]`) × `b` (`[k, n]`), on this thread alone.
fn product(a: &Matrix, b: &Matrix, result: &mut [f32], [m, k, n]: [usize; 3], add: bool) {
    assert!(a.holds(m, k) && b.holds(k, n) && result.len() >= m * n);
    // SAFETY: both matrices and the result were just found to hold every element that is read or
    // written, and the result is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            result.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.numbers.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.numbers.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
