//! Bands of an input, which dense convolutions read without unfolding it.
//!
//! A band holds the rows that some rows of the output see, padded once and, for stride 2, split by the
//! parity of rows and columns, so that neighbouring outputs read neighbouring words through every
//! tap, and a tap is an offset. Rows follow each other without a gap: a block of outputs may run over
//! the end of a row, and what falls on the padding there is thrown away. In bfloat16 a word holds the
//! numbers of two channels.

use std::ops::Range;

use super::block::{COLUMNS, Precision, numbers_mut};
use super::conv::Size;
use super::product::Source;
use super::words;
use crate::layers::Conv;

/// Words of a line of the cache.
const LINE: usize = 16;

/// How a band lies in memory: `[steps, row parity, column parity, row × column]`, where a step is a
/// channel or a pair of them.
#[derive(Debug, Clone, Copy)]
pub struct Band {
    /// The convolution.
    pub conv: Conv,
    /// Of the words.
    pub precision: Precision,
    /// Input rows and columns.
    pub size: Size,
    /// Image of the batch.
    pub image: usize,
    /// First output row.
    pub first: usize,
    /// Output rows.
    pub rows: usize,
    /// Output columns.
    pub out_width: usize,
}

impl Band {
    /// Columns of a padded row, of one parity: outputs of one row are so many words after those of
    /// the row before.
    pub fn pitch(&self) -> usize {
        self.out_width + (self.conv.kernel - 1) / self.conv.stride
    }

    /// Words of one step and parity, with room for the last block to run over.
    fn plane(&self) -> usize {
        let rows = self.rows + (self.conv.kernel - 1) / self.conv.stride;
        rows * self.pitch() + COLUMNS + self.conv.kernel
    }

    /// Words from one step to the next: an odd number of lines, so that the same place of
    /// neighbouring steps lies in different sets of the caches.
    pub fn step_size(&self) -> usize {
        let words = self.conv.stride * self.conv.stride * self.plane();
        (words.div_ceil(LINE) | 1) * LINE
    }

    /// Output rows of a band that `bytes` hold.
    pub fn fitting(&self, bytes: usize) -> usize {
        let steps = self.precision.steps(self.conv.input);
        let row = size_of::<u32>() * self.pitch() * steps * self.conv.stride;
        (bytes / row.max(1)).max(1)
    }

    /// Where each tap of one channel starts reading, relative to the output's place in the band.
    pub fn tap_offsets(&self) -> Vec<usize> {
        let (plane, pitch) = (self.plane(), self.pitch());
        let Conv { kernel, stride, .. } = self.conv;
        let mut offsets = Vec::with_capacity(kernel * kernel);
        for ky in 0..kernel {
            for kx in 0..kernel {
                let parity = ky % stride * stride + kx % stride;
                offsets.push(parity * plane + ky / stride * pitch + kx / stride);
            }
        }
        offsets
    }

    /// Copies what the band's outputs see of the channels of all `sources`, one after the other, into
    /// `words`: whole steps, those beyond the last channel zeros.
    pub fn fill(&self, words: &mut [u32], sources: &[Source<'_>]) {
        let stride = self.conv.stride;
        let cells = self.size.cells();
        let mut planes = sources.iter().flat_map(|source| {
            let start = self.image * source.channels;
            (start..start + source.channels).map(|plane| &source.data[plane * cells..][..cells])
        });
        for step in words.chunks_exact_mut(self.step_size()) {
            let Some(first) = planes.next() else {
                step.fill(0);
                continue;
            };
            match self.precision {
                Precision::F32 => self.fill_step(step, |words, from| {
                    words::every(numbers_mut(words), &first[from], stride);
                }),
                Precision::Bf16 => {
                    let second = planes.next();
                    self.fill_step(step, |words, from| {
                        let second = second.map(|second| &second[from.clone()]);
                        words::pairs_of_every(words, &first[from], second, stride);
                    });
                }
            }
        }
    }

    /// Fills one step: `take` gets words, and which numbers of a plane belong there, of which the
    /// first and every further one by the stride count.
    fn fill_step(&self, step: &mut [u32], take: impl Fn(&mut [u32], Range<usize>)) {
        let (plane, pitch) = (self.plane(), self.pitch());
        let Conv {
            kernel,
            stride,
            padding,
            ..
        } = self.conv;
        let width = self.size.width;
        for row in 0..(self.rows - 1) * stride + kernel {
            let y = (self.first * stride + row).wrapping_sub(padding);
            let start = row % stride * stride * plane + row / stride * pitch;
            for parity in 0..stride {
                let target = &mut step[start + parity * plane..][..pitch];
                if y >= self.size.height {
                    target.fill(0);
                    continue;
                }
                // The first number of this parity that lies in the row, and its column.
                let padded = padding.saturating_sub(parity).div_ceil(stride);
                let column = padded.min(pitch);
                let first = (column * stride + parity).saturating_sub(padding);
                let first = first.min(width);
                let count = (width - first).div_ceil(stride).min(pitch - column);
                target[..column].fill(0);
                let words = &mut target[column..column + count];
                take(words, y * width + first..(y + 1) * width);
                target[column + count..].fill(0);
            }
        }
    }
}
