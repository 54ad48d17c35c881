//! One channel of a depthwise convolution.

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

#[inline(always)]
fn any_body(output: &mut [f32], input: &[f32], weight: &[f32], shape: PlaneShape) {
    let PlaneShape {
        in_height,
        in_width,
        out_width,
        conv,
    } = shape;
    for (y, line) in output.chunks_exact_mut(out_width).enumerate() {
        for ky in 0..conv.kernel {
            let source_y = (y * conv.stride + ky).wrapping_sub(conv.padding);
            if source_y >= in_height {
                continue;
            }
            let source = &input[source_y * in_width..][..in_width];
            for kx in 0..conv.kernel {
                let tap = weight[ky * conv.kernel + kx];
                // Outputs whose input column x·stride + kx − padding lies inside the row.
                let first = conv.padding.saturating_sub(kx).div_ceil(conv.stride);
                let end = (in_width + conv.padding)
                    .saturating_sub(kx)
                    .div_ceil(conv.stride);
                let end = end.min(out_width);
                if first >= end {
                    continue;
                }
                let start = first * conv.stride + kx - conv.padding;
                if conv.stride == 1 {
                    let source = &source[start..start + end - first];
                    for (out, value) in line[first..end].iter_mut().zip(source) {
                        *out += tap * value;
                    }
                } else {
                    let source = source[start..].iter().step_by(conv.stride);
                    for (out, value) in line[first..end].iter_mut().zip(source) {
                        *out += tap * value;
                    }
                }
            }
        }
    }
}

dispatch! {
    /// Any kernel and stride, tap by tap.
    fn any(output: &mut [f32], input: &[f32], weight: &[f32], shape: PlaneShape) =
        any_body
}

/// Adds one channel's convolution to `output`; `buffer` is room that calls may share.
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
    } else {
        any(output, input, weight, shape);
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
