//! One channel of a depthwise convolution.

#![allow(unsafe_code)] // vector instructions

use super::finish::{self, End};
use super::simd::dispatch;
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};
use crate::layers::Conv;

/// Sizes of a channel.
#[derive(Clone, Copy)]
pub(super) struct PlaneShape {
    /// Rows of the input.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // wanted by AVX-512 alone
    pub in_height: usize,
    /// Its columns.
    pub in_width: usize,
    /// Rows of the output.
    pub out_height: usize,
    /// Its columns.
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

/// A channel where it lies, with fused multiply-add: what masks leave out is padding.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512, _mm512_fmadd_ps, _mm512_maskz_loadu_ps, _mm512_permutex2var_ps, _mm512_set1_ps,
        _mm512_setr_epi32, _mm512_setzero_ps,
    };

    use super::super::block::Target;
    use super::super::finish::{self, Bias, End};
    use super::super::simd::within;
    use super::PlaneShape;

    const LANES: usize = 16;

    /// Rows of outputs whose sums are in registers together: as many additions run at once as a unit
    /// takes cycles for one.
    const TOGETHER: usize = 4;

    /// `SIDE`×`SIDE` taps at stride `STRIDE`, 1 or 2, into `output`.
    ///
    /// # Safety
    /// The output has room for all rows of `shape` at its width; `input` and `weight` are as
    /// large as `shape` says.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn plane<const SIDE: usize, const STRIDE: usize>(
        output: *mut f32,
        input: &[f32],
        weight: &[f32],
        shape: PlaneShape,
        end: &End<'_>,
    ) {
        let (height, width) = (shape.in_height, shape.in_width);
        assert!(input.len() >= height * width && weight.len() >= SIDE * SIDE);
        let mut taps = [[_mm512_setzero_ps(); SIDE]; SIDE];
        for (row, taps) in taps.iter_mut().enumerate() {
            for (column, tap) in taps.iter_mut().enumerate() {
                *tap = _mm512_set1_ps(weight[row * SIDE + column]);
            }
        }
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let padding = shape.conv.padding as isize;
        // All rows are of one channel.
        let bias = match end.bias {
            Bias::Rows(bias) => [bias[0]; LANES],
            Bias::Columns(_) => unreachable!("channels have a bias each"),
        };
        let end = &End {
            bias: Bias::Columns(&bias),
            ..*end
        };
        for first in (0..shape.out_width).step_by(LANES) {
            let starts: [isize; SIDE] =
                std::array::from_fn(|kx| (first * STRIDE + kx) as isize - padding);
            let low = starts.map(|start| within(start, width));
            let high = starts.map(|start| within(start + LANES as isize, width));
            let kept = u16::MAX >> (LANES - LANES.min(shape.out_width - first));
            for y in (0..shape.out_height).step_by(TOGETHER) {
                let mut sums = [[_mm512_setzero_ps(); 1]; TOGETHER];
                // Every row of the input meets the outputs that see it while it is in registers.
                for seen in 0..(TOGETHER - 1) * STRIDE + SIDE {
                    let row = (y * STRIDE + seen).wrapping_sub(padding as usize);
                    if row >= height {
                        continue;
                    }
                    let row = input.as_ptr().wrapping_add(row * width);
                    for kx in 0..SIDE {
                        let at = row.wrapping_offset(starts[kx]);
                        // SAFETY: masks leave out what is not in the row.
                        let values: __m512 = unsafe {
                            let values = _mm512_maskz_loadu_ps(low[kx], at);
                            if STRIDE == 1 {
                                values
                            } else {
                                let at = at.wrapping_add(LANES);
                                let more = _mm512_maskz_loadu_ps(high[kx], at);
                                _mm512_permutex2var_ps(values, even, more)
                            }
                        };
                        for (output, [sum]) in sums.iter_mut().enumerate() {
                            let ky = seen.wrapping_sub(output * STRIDE);
                            if ky < SIDE {
                                *sum = _mm512_fmadd_ps(values, taps[ky][kx], *sum);
                            }
                        }
                    }
                }
                // SAFETY: nothing is added but bias; the mask leaves out what is beyond the row.
                unsafe {
                    let target = Target {
                        start: output.add(y * shape.out_width + first),
                        pitch: shape.out_width,
                        rows: TOGETHER.min(shape.out_height - y),
                        columns: LANES,
                        resumed: false,
                    };
                    finish::avx512::block(&mut sums, end, &target, kept);
                }
            }
        }
    }
}

dispatch! {
    fn five_by_five(output: &mut [f32], split: &[f32], weight: &[f32], shape: PlaneShape) =
        taps_body::<5>
}

dispatch! {
    fn three_by_three(output: &mut [f32], split: &[f32], weight: &[f32], shape: PlaneShape) =
        taps_body::<3>
}

dispatch! {
    fn any(output: &mut [f32], split: &[f32], weight: &[f32], shape: PlaneShape) = taps_body::<0>
}

/// One channel's convolution into `output`; `buffer` is room that calls may share.
///
/// # Safety
/// The output has room for all rows of `shape` at its width, and may be written.
pub(super) unsafe fn plane(
    output: *mut f32,
    input: &[f32],
    weight: &[f32],
    shape: PlaneShape,
    end: &End<'_>,
    buffer: &mut Vec<f32>,
) {
    let conv = shape.conv;
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: by this function's contract; the machine has the instructions.
        unsafe {
            match (conv.kernel, conv.stride) {
                (3, 1) => return avx512::plane::<3, 1>(output, input, weight, shape, end),
                (3, 2) => return avx512::plane::<3, 2>(output, input, weight, shape, end),
                (5, 1) => return avx512::plane::<5, 1>(output, input, weight, shape, end),
                (5, 2) => return avx512::plane::<5, 2>(output, input, weight, shape, end),
                _ => {}
            }
        }
    }
    let rows = (shape.out_height.max(1) - 1) * conv.stride + conv.kernel;
    split(buffer, input, shape, rows);
    let taken = buffer.len();
    buffer.resize(taken + shape.out_height * shape.out_width, 0.0);
    let (padded, sums) = buffer.split_at_mut(taken);
    match conv.kernel {
        5 | 3 if conv.stride > conv.kernel || sums.is_empty() => any(sums, padded, weight, shape),
        5 => five_by_five(sums, padded, weight, shape),
        3 => three_by_three(sums, padded, weight, shape),
        _ => any(sums, padded, weight, shape),
    }
    // SAFETY: by this function's contract.
    unsafe { finish::row(output, sums, end, 0) };
}
