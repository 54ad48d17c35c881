//! One channel of a depthwise convolution.

#![allow(unsafe_code)] // vector instructions

use super::block::Precision;
use super::simd::dispatch;
use crate::layers::Conv;

/// Sizes of a channel.
#[derive(Clone, Copy)]
pub(super) struct PlaneShape {
    /// Rows of the input.
    pub in_height: usize,
    /// Its columns.
    pub in_width: usize,
    /// Columns of the output.
    pub out_width: usize,
    /// Kernel, stride and padding.
    pub conv: Conv,
}

/// Outputs whose sums are in registers together.
const LANES: usize = 16;

/// Columns of one residue of a padded row, with what full vectors read beyond.
fn pitch(shape: PlaneShape) -> usize {
    shape.out_width.next_multiple_of(LANES) + shape.conv.kernel
}

/// Copies a channel with zeros around it, every row split by the columns' residue modulo the
/// stride, so that neighbouring outputs read neighbouring numbers: `[row, residue, column]`.
fn split(buffer: &mut Vec<f32>, input: &[f32], shape: PlaneShape, rows: usize) {
    let Conv {
        stride, padding, ..
    } = shape.conv;
    let pitch = pitch(shape);
    buffer.clear();
    buffer.resize(rows * stride * pitch, 0.0);
    let sources = input.chunks_exact(shape.in_width);
    let targets = buffer.chunks_exact_mut(stride * pitch).skip(padding);
    for (target, source) in targets.zip(sources) {
        if stride == 1 {
            let count = source.len().min(pitch.saturating_sub(padding));
            target[padding..padding + count].copy_from_slice(&source[..count]);
            continue;
        }
        for (residue, target) in target.chunks_exact_mut(pitch).enumerate() {
            // The first number of this residue that lies in the row, and its column.
            let column = padding.saturating_sub(residue).div_ceil(stride);
            let first = column * stride + residue - padding;
            let numbers = source.get(first..).unwrap_or_default().iter();
            for (target, value) in target[column..].iter_mut().zip(numbers.step_by(stride)) {
                *target = *value;
            }
        }
    }
}

#[inline(always)]
fn taps_body<const SIDE: usize>(
    output: &mut [f32],
    split: &[f32],
    weight: &[f32],
    shape: PlaneShape,
) {
    // The kernel's side is known to the compiler where it is a usual one.
    let side = if SIDE == 0 { shape.conv.kernel } else { SIDE };
    let (stride, pitch) = (shape.conv.stride, pitch(shape));
    for (y, line) in output.chunks_exact_mut(shape.out_width).enumerate() {
        for (part, out) in line.chunks_mut(LANES).enumerate() {
            let mut sums = [0.0_f32; LANES];
            for ky in 0..side {
                let row = &split[(y * stride + ky) * stride * pitch..][..stride * pitch];
                for kx in 0..side {
                    let at = kx % stride * pitch + kx / stride + part * LANES;
                    let tap = weight[ky * side + kx];
                    for (sum, value) in sums.iter_mut().zip(&row[at..at + LANES]) {
                        *sum += tap * value;
                    }
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// The same with fused multiply-add, every vector of outputs in one register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn taps_avx512<const SIDE: usize>(
    output: &mut [f32],
    split: &[f32],
    weight: &[f32],
    shape: PlaneShape,
) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };
    let (stride, pitch) = (shape.conv.stride, pitch(shape));
    let rows = output.len() / shape.out_width;
    assert!(weight.len() == SIDE * SIDE && (1..=SIDE).contains(&stride));
    assert!(((rows - 1) * stride + SIDE) * stride * pitch <= split.len());
    let mut taps = [[_mm512_setzero_ps(); SIDE]; SIDE];
    let mut offsets = [0; SIDE];
    for kx in 0..SIDE {
        offsets[kx] = kx % stride * pitch + kx / stride;
        for ky in 0..SIDE {
            taps[ky][kx] = _mm512_set1_ps(weight[ky * SIDE + kx]);
        }
    }
    for (y, line) in output.chunks_exact_mut(shape.out_width).enumerate() {
        for (part, out) in line.chunks_mut(LANES).enumerate() {
            let mut sum = _mm512_setzero_ps();
            for (ky, taps) in taps.iter().enumerate() {
                let row = (y * stride + ky) * stride * pitch + part * LANES;
                for (tap, offset) in taps.iter().zip(&offsets) {
                    // SAFETY: all rows lie in `split`, as was just asserted, and a row has room for
                    // whole vectors of outputs and the kernel beside them.
                    let values = unsafe { _mm512_loadu_ps(split.as_ptr().add(row + offset)) };
                    sum = _mm512_fmadd_ps(values, *tap, sum);
                }
            }
            let mask = u16::MAX >> (LANES - out.len());
            // SAFETY: the mask leaves out what `out` has no room for.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, sum) };
        }
    }
}

dispatch! {
    fn five_by_five_plain(output: &mut [f32], split: &[f32], weight: &[f32], shape: PlaneShape) =
        taps_body::<5>
}

dispatch! {
    fn three_by_three_plain(output: &mut [f32], split: &[f32], weight: &[f32], shape: PlaneShape) =
        taps_body::<3>
}

fn five_by_five(output: &mut [f32], split: &[f32], weight: &[f32], shape: PlaneShape) {
    #[cfg(target_arch = "x86_64")]
    if Precision::F32.available() {
        // SAFETY: the machine has the feature.
        return unsafe { taps_avx512::<5>(output, split, weight, shape) };
    }
    five_by_five_plain(output, split, weight, shape);
}

fn three_by_three(output: &mut [f32], split: &[f32], weight: &[f32], shape: PlaneShape) {
    #[cfg(target_arch = "x86_64")]
    if Precision::F32.available() {
        // SAFETY: the machine has the feature.
        return unsafe { taps_avx512::<3>(output, split, weight, shape) };
    }
    three_by_three_plain(output, split, weight, shape);
}

dispatch! {
    fn any(output: &mut [f32], split: &[f32], weight: &[f32], shape: PlaneShape) = taps_body::<0>
}

/// One channel's convolution into `output`, which is zero; `buffer` is room that calls may share.
pub(super) fn plane(
    output: &mut [f32],
    input: &[f32],
    weight: &[f32],
    shape: PlaneShape,
    buffer: &mut Vec<f32>,
) {
    let conv = shape.conv;
    if let (Ok(weight), 1, 1) = (weight.try_into(), conv.stride, conv.padding) {
        pad(buffer, input, shape);
        three(output, buffer, weight, shape.in_width);
        return;
    }
    let out_rows = output.len() / shape.out_width.max(1);
    let rows = (out_rows.max(1) - 1) * conv.stride + conv.kernel;
    split(buffer, input, shape, rows);
    match conv.kernel {
        5 | 3 if conv.stride > conv.kernel || output.is_empty() => {
            any(output, buffer, weight, shape);
        }
        5 => five_by_five(output, buffer, weight, shape),
        3 => three_by_three(output, buffer, weight, shape),
        _ => any(output, buffer, weight, shape),
    }
}

/// Copies a channel with zeros all around: a row above and below, one number left and right.
fn pad(buffer: &mut Vec<f32>, input: &[f32], shape: PlaneShape) {
    let (height, width) = (shape.in_height, shape.in_width);
    buffer.clear();
    buffer.resize((height + 2) * (width + 2), 0.0);
    let rows = buffer.chunks_exact_mut(width + 2).skip(1);
    for (row, source) in rows.zip(input.chunks_exact(width)) {
        row[1..=width].copy_from_slice(source);
    }
}

/// Every sum in registers: the rows of 3×3 kernels are read where they are, nothing is added up in
/// memory.
#[inline(always)]
fn three_body(output: &mut [f32], padded: &[f32], weight: &[f32; 9], width: usize) {
    let pitch = width + 2;
    for (y, out) in output.chunks_exact_mut(width).enumerate() {
        let row = |ky: usize| &padded[(y + ky) * pitch..][..pitch];
        let (a, b, c) = (row(0), row(1), row(2));
        let (a, a1, a2) = (&a[..width], &a[1..=width], &a[2..]);
        let (b, b1, b2) = (&b[..width], &b[1..=width], &b[2..]);
        let (c, c1, c2) = (&c[..width], &c[1..=width], &c[2..]);
        for x in 0..width {
            let upper = weight[0] * a[x] + weight[1] * a1[x] + weight[2] * a2[x];
            let middle = weight[3] * b[x] + weight[4] * b1[x] + weight[5] * b2[x];
            let lower = weight[6] * c[x] + weight[7] * c1[x] + weight[8] * c2[x];
            out[x] += upper + middle + lower;
        }
    }
}

dispatch! {
    /// A 3×3 kernel at stride 1 over a channel with zeros around it.
    fn three(output: &mut [f32], padded: &[f32], weight: &[f32; 9], width: usize) = three_body
}
