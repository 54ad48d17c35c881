//! Direct convolution: no unfolded copy of the input, sums kept in registers.
//!
//! The input is padded once and, for stride 2, split by the parity of rows and columns, so that
//! neighbouring outputs read neighbouring numbers through every tap. Rows follow each other
//! without a gap: a block of outputs may run over the end of a row, and what falls on the padding
//! there is thrown away. A register block of output channels × neighbouring outputs stays put
//! while all inputs pass by.

#![allow(unsafe_code)] // vector instructions

use crate::layers::Conv;

/// Output channels of a register block.
pub const CHANNELS: usize = 8;

/// Neighbouring outputs of a register block: three AVX-512 vectors.
pub const COLUMNS: usize = 48;

/// Whether the machine has the registers that the blocks are made for.
pub fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Weights in the order in which they are read: `[output / CHANNELS, input, ky, kx, CHANNELS]`,
/// filled up with zeros.
pub fn pack(conv: &Conv, weight: &[f32]) -> Vec<f32> {
    let depth = conv.input * conv.kernel * conv.kernel;
    let blocks = conv.output.div_ceil(CHANNELS);
    let mut packed = vec![0.0; blocks * depth * CHANNELS];
    for (channel, row) in weight.chunks_exact(depth).enumerate() {
        let block = &mut packed[channel / CHANNELS * depth * CHANNELS..];
        for (at, value) in row.iter().enumerate() {
            block[at * CHANNELS + channel % CHANNELS] = *value;
        }
    }
    packed
}

/// How a band of output rows lies in memory.
#[derive(Debug, Clone, Copy)]
pub struct BandShape {
    /// Input rows and columns.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// First output row.
    pub first: usize,
    /// Output rows.
    pub rows: usize,
    /// Output columns.
    pub out_width: usize,
}

impl BandShape {
    /// Columns of a padded row, of one parity.
    pub fn pitch(&self, conv: &Conv) -> usize {
        let needed = self.out_width + (conv.kernel - 1) / conv.stride;
        needed.max((self.width + conv.padding).div_ceil(conv.stride))
    }

    /// Numbers of one channel and parity, with room for the last block to run over.
    fn plane(&self, conv: &Conv) -> usize {
        let rows = self.rows + (conv.kernel - 1) / conv.stride;
        rows * self.pitch(conv) + COLUMNS + conv.kernel
    }

    /// Numbers of the whole band.
    pub fn size(&self, conv: &Conv) -> usize {
        conv.input * conv.stride * conv.stride * self.plane(conv)
    }
}

/// Copies the input rows that the band's outputs see into `band`, padded and split by parity:
/// `[input, row parity, column parity, row × column]`.
pub fn fill(band: &mut [f32], input: &[f32], shape: &BandShape, conv: &Conv) {
    let (plane, pitch, stride) = (shape.plane(conv), shape.pitch(conv), conv.stride);
    let rows = (shape.rows - 1) * stride + conv.kernel;
    band.fill(0.0);
    for (channel, band) in band.chunks_exact_mut(stride * stride * plane).enumerate() {
        let source = &input[channel * shape.height * shape.width..];
        for row in 0..rows {
            let y = (shape.first * stride + row).wrapping_sub(conv.padding);
            if y >= shape.height {
                continue;
            }
            let line = &source[y * shape.width..(y + 1) * shape.width];
            let start = row % stride * stride * plane + row / stride * pitch;
            if stride == 1 {
                let target = &mut band[start + conv.padding..];
                target[..shape.width].copy_from_slice(line);
                continue;
            }
            for parity in 0..stride {
                // The first number of this parity that lies in the row, and its column.
                let column = conv.padding.saturating_sub(parity).div_ceil(stride);
                let first = column * stride + parity - conv.padding;
                let numbers = line.get(first..).unwrap_or_default().iter();
                let target = band[start + parity * plane + column..].iter_mut();
                for (target, value) in target.zip(numbers.step_by(stride)) {
                    *target = *value;
                }
            }
        }
    }
}

/// Where each tap of one channel starts reading, relative to the output's place in the band.
fn tap_offsets(shape: &BandShape, conv: &Conv) -> Vec<usize> {
    let (plane, pitch, stride) = (shape.plane(conv), shape.pitch(conv), conv.stride);
    let mut offsets = Vec::with_capacity(conv.kernel * conv.kernel);
    for ky in 0..conv.kernel {
        for kx in 0..conv.kernel {
            let parity = ky % stride * stride + kx % stride;
            offsets.push(parity * plane + ky / stride * pitch + kx / stride);
        }
    }
    offsets
}

struct Taps<'a> {
    band: &'a [f32],
    channel_size: usize,
    offsets: &'a [usize],
    weight: &'a [f32],
}

type Block = [[f32; COLUMNS]; CHANNELS];

/// Sums for [`CHANNELS`] output channels and [`COLUMNS`] outputs from `at` on.
///
/// # Panics
/// If an output reads beyond the band.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn block(output: &mut Block, taps: &Taps<'_>, at: usize) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    const LANES: usize = 16;
    let depth = taps.offsets.len() * CHANNELS;
    let channels = taps.weight.len() / depth;
    let reach = taps.offsets.iter().max().copied().unwrap_or(0) + at + COLUMNS;
    assert!((channels - 1) * taps.channel_size + reach <= taps.band.len());
    let mut sums = [[_mm512_setzero_ps(); COLUMNS / LANES]; CHANNELS];
    let mut weight = taps.weight.as_ptr();
    for channel in 0..channels {
        for offset in taps.offsets {
            // SAFETY: the band reaches far enough, as was just asserted; there are CHANNELS
            // weights for every tap of every channel. Loads need no alignment.
            unsafe {
                let values = taps
                    .band
                    .as_ptr()
                    .add(channel * taps.channel_size + at + offset);
                let values: [_; COLUMNS / LANES] =
                    std::array::from_fn(|vector| _mm512_loadu_ps(values.add(vector * LANES)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let weight = _mm512_set1_ps(*weight.add(row));
                    for vector in 0..COLUMNS / LANES {
                        sums[vector] = _mm512_fmadd_ps(values[vector], weight, sums[vector]);
                    }
                }
                weight = weight.add(CHANNELS);
            }
        }
    }
    for (output, sums) in output.iter_mut().zip(&sums) {
        for (output, sum) in output.chunks_exact_mut(LANES).zip(sums) {
            // SAFETY: the chunk holds LANES numbers, stores need no alignment.
            unsafe { _mm512_storeu_ps(output.as_mut_ptr(), *sum) };
        }
    }
}

/// Computes a band from what [`fill`] wrote. `write` gets an output channel, a row of the image, a
/// column and the numbers from there on.
pub fn run(
    band: &[f32],
    weight: &[f32],
    shape: &BandShape,
    conv: &Conv,
    mut write: impl FnMut(usize, usize, usize, &[f32]),
) {
    let offsets = tap_offsets(shape, conv);
    let pitch = shape.pitch(conv);
    let block_size = conv.input * offsets.len() * CHANNELS;
    let mut sums: Block = [[0.0; COLUMNS]; CHANNELS];
    for (index, weight) in weight.chunks_exact(block_size).enumerate() {
        let taps = Taps {
            band,
            channel_size: conv.stride * conv.stride * shape.plane(conv),
            offsets: &offsets,
            weight,
        };
        let channels = CHANNELS.min(conv.output - index * CHANNELS);
        for at in (0..shape.rows * pitch).step_by(COLUMNS) {
            // SAFETY: `available` was asked before any weights were packed for this.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                block(&mut sums, &taps, at);
            }
            #[cfg(not(target_arch = "x86_64"))]
            unreachable!(
                "there is no block for this machine: {} at {at}",
                taps.channel_size
            );
            let mut done = 0;
            while done < COLUMNS && at + done < shape.rows * pitch {
                let (row, column) = ((at + done) / pitch, (at + done) % pitch);
                let count = (pitch - column).min(COLUMNS - done);
                // Columns beyond the row's end are padding.
                let kept = count.min(shape.out_width.saturating_sub(column));
                if kept > 0 {
                    for (channel, sums) in sums.iter().enumerate().take(channels) {
                        let channel = index * CHANNELS + channel;
                        write(channel, shape.first + row, column, &sums[done..done + kept]);
                    }
                }
                done += count;
            }
        }
    }
}
