//! The way back through a convolution: to its input and to its weights.

#![allow(unsafe_code)] // `gemm` takes raw pointers

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{plain_conv, with_numbers};
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
}

/// A dense convolution as the product of weights and unfolded input, image by image.
pub(super) fn forward(x: &Tensor, weight: &Tensor, conv: &Conv) -> Result<Tensor> {
    let (batch, _, height, width) = x.dims4()?;
    let outputs = |size: usize| (size + 2 * conv.padding + 1).saturating_sub(conv.kernel);
    let planes = Planes {
        height,
        width,
        rows: outputs(height),
        columns: outputs(width),
    };
    let depth = conv.input * conv.kernel * conv.kernel;
    let cells = planes.output();
    if cells == 0 || planes.input() == 0 || weight.dims4()? != conv.weight_shape() {
        candle_core::bail!("{:?} does not fit {:?}", weight.dims(), x.dims());
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let mut output = vec![0.0_f32; batch * conv.output * cells];
    with_numbers(&x, |x| {
        with_numbers(&weight, |weight| {
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
        })
    })??;
    let shape = (batch, conv.output, planes.rows, planes.columns);
    Tensor::from_vec(output, shape, x.device())
}

/// Gradients of input (unless nobody asks for it) and weights. `gradient`: contiguous, of the
/// output's shape.
pub(super) fn backward(
    x: &Tensor,
    weight: &Tensor,
    gradient: &Tensor,
    conv: &Conv,
) -> Result<(Option<Tensor>, Tensor)> {
    let (batch, _, height, width) = x.dims4()?;
    let (_, _, rows, columns) = gradient.dims4()?;
    let planes = Planes {
        height,
        width,
        rows,
        columns,
    };
    let to_x = if !x.track_op() {
        None
    } else if conv.stride == 1 {
        Some(turned(weight, gradient, conv)?)
    } else {
        let weight = weight.contiguous()?;
        let numbers = with_numbers(&weight, |weight| {
            with_numbers(gradient, |gradient| {
                to_input(weight, gradient, conv, planes)
            })
        })??;
        Some(Tensor::from_vec(numbers, x.shape(), x.device())?)
    };
    let to_weight = with_numbers(x, |x| {
        with_numbers(gradient, |gradient| {
            if conv.groups == 1 {
                to_weight(x, gradient, batch, conv, planes)
            } else {
                to_depthwise_weight(x, gradient, conv, planes)
            }
        })
    })??;
    let to_weight = Tensor::from_vec(to_weight, weight.shape(), x.device())?;
    Ok((to_x, to_weight))
}

/// At stride 1 the way back to the input is a convolution too: kernels turned by half a turn,
/// inputs and outputs exchanged.
fn turned(weight: &Tensor, gradient: &Tensor, conv: &Conv) -> Result<Tensor> {
    let taps = conv.kernel * conv.kernel;
    let (outputs, inputs) = (conv.output, conv.input / conv.groups);
    let weight = weight.flatten_all()?.to_vec1::<f32>()?;
    let mut back = vec![0.0_f32; weight.len()];
    for (index, kernel) in weight.chunks_exact(taps).enumerate() {
        // Depthwise kernels stay with their channel.
        let place = if conv.groups == 1 {
            index % inputs * outputs + index / inputs
        } else {
            index
        };
        let back = &mut back[place * taps..][..taps];
        for (back, tap) in back.iter_mut().rev().zip(kernel) {
            *back = *tap;
        }
    }
    let back_conv = Conv {
        input: conv.output,
        output: conv.input,
        padding: conv.kernel - 1 - conv.padding,
        ..*conv
    };
    let back = Tensor::from_vec(back, back_conv.weight_shape(), gradient.device())?;
    plain_conv(gradient, &back, &back_conv)
}

/// The way back to the input of a dense convolution, by unfolded gradients that are folded again.
fn to_input(weight: &[f32], gradient: &[f32], conv: &Conv, planes: Planes) -> Vec<f32> {
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
fn to_weight(x: &[f32], gradient: &[f32], batch: usize, conv: &Conv, planes: Planes) -> Vec<f32> {
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

/// The gradient of one filter a channel, stride 1.
fn to_depthwise_weight(x: &[f32], gradient: &[f32], conv: &Conv, planes: Planes) -> Vec<f32> {
    let taps = conv.kernel * conv.kernel;
    let channels = conv.input;
    let mut to_weight = vec![0.0_f32; channels * taps];
    to_weight
        .par_chunks_exact_mut(taps)
        .enumerate()
        .for_each(|(channel, to_weight)| {
            let images = x
                .chunks_exact(channels * planes.input())
                .zip(gradient.chunks_exact(channels * planes.output()));
            for (x, gradient) in images {
                let x = &x[channel * planes.input()..][..planes.input()];
                let gradient = &gradient[channel * planes.output()..][..planes.output()];
                for (tap, sum) in to_weight.iter_mut().enumerate() {
                    *sum += tap_gradient(x, gradient, tap, conv, planes);
                }
            }
        });
    to_weight
}

fn tap_gradient(x: &[f32], gradient: &[f32], tap: usize, conv: &Conv, planes: Planes) -> f32 {
    let (ky, kx) = (tap / conv.kernel, tap % conv.kernel);
    let columns = inside(kx, conv, planes.width, planes.columns);
    if columns.is_empty() {
        return 0.0;
    }
    let first = columns.start + kx - conv.padding;
    let mut sum = 0.0;
    for row in inside(ky, conv, planes.height, planes.rows) {
        let source = (row + ky - conv.padding) * planes.width + first;
        let line = &gradient[row * planes.columns..][columns.clone()];
        sum += crate::dot(line, &x[source..source + line.len()]);
    }
    sum
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
