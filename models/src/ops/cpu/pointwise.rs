//! Pointwise convolution, 1×1 at stride 1: a matrix product of the weights with the cells of each
//! image, whose channels may lie in several tensors.

#![allow(unsafe_code)] // threads write into one output

use std::cell::RefCell;

use rayon::prelude::*;

use super::block::{self, Block, COLUMNS, Factors, Precision, ROWS};
use super::conv::Shared;
use super::math::finish;
use super::words;
use crate::ops::Activation;

/// Bytes that a band of packed cells may take: half of a core's second-level cache.
const BAND_BYTES: usize = 512 * 1024;

/// Products below which a job of its own costs more than it brings.
const PRODUCTS_A_JOB: usize = 1 << 20;

thread_local! {
    /// Room for a band, which its thread keeps.
    static BUFFER: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Weights of a pointwise convolution.
pub struct Pointwise {
    words: Precision,
    input: usize,
    output: usize,
    weight: Vec<u32>, // [output / ROWS, steps, ROWS]
    activation: Activation,
}

/// Channels of the input that lie in one tensor.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// `[batch, channels, cells]`.
    pub data: &'a [f32],
    /// How many.
    pub channels: usize,
}

/// A band of cells of one image, and rows of the output.
struct Job {
    image: usize,
    /// First cell and how many there are.
    first: usize,
    cells: usize,
    /// Blocks of output channels.
    blocks: std::ops::Range<usize>,
}

/// `[output / ROWS, steps, ROWS]` of weights `[output, depth]`, filled up with zeros.
pub fn pack_weight(words: Precision, weight: &[f32], depth: usize) -> Vec<u32> {
    let steps = words.steps(depth);
    let rows = weight.len() / depth.max(1);
    let mut packed = vec![0; rows.div_ceil(ROWS) * steps * ROWS];
    for (row, numbers) in weight.chunks_exact(depth.max(1)).enumerate() {
        let block = &mut packed[row / ROWS * steps * ROWS..][..steps * ROWS];
        for (at, number) in numbers.iter().enumerate() {
            match words {
                Precision::F32 => block[at * ROWS + row % ROWS] = number.to_bits(),
                Precision::Bf16 => {
                    let word = &mut block[at / 2 * ROWS + row % ROWS];
                    *word |= words::bf16(*number) << (at % 2 * 16);
                }
            }
        }
    }
    packed
}

impl Pointwise {
    /// `weight`: `[output, input]`.
    pub fn new(words: Precision, weight: &[f32], output: usize, activation: Activation) -> Self {
        let input = weight.len() / output.max(1);
        Self {
            words,
            input,
            output,
            weight: pack_weight(words, weight, input),
            activation,
        }
    }

    /// Convolves `batch` images of `cells` cells, the channels of all `sources` one after the
    /// other; `output`: `[batch, output, cells]`.
    pub fn run(
        &self,
        sources: &[Source<'_>],
        bias: &[f32],
        batch: usize,
        cells: usize,
        output: &mut [f32],
    ) {
        let channels: usize = sources.iter().map(|source| source.channels).sum();
        assert_eq!(channels, self.input);
        assert_eq!(output.len(), batch * self.output * cells);
        let jobs = self.jobs(batch, cells);
        let shared = Shared(output.as_mut_ptr());
        jobs.into_par_iter().with_max_len(1).for_each(|job| {
            // Captured whole, not its pointer alone, so that it may cross threads.
            let shared = &shared;
            let write = |channel: usize, at: usize, sums: &[f32]| {
                let start = (job.image * self.output + channel) * cells + at;
                // SAFETY: `band` gives channels and cells of the job, which no other job has.
                let row =
                    unsafe { std::slice::from_raw_parts_mut(shared.0.add(start), sums.len()) };
                finish(row, sums, bias[channel], self.activation);
            };
            BUFFER.with_borrow_mut(|buffer| self.band(sources, cells, &job, buffer, write));
        });
    }

    /// Bands of as many cells as the cache holds; where that makes too few for all threads,
    /// several jobs for each band.
    fn jobs(&self, batch: usize, cells: usize) -> Vec<Job> {
        let threads = rayon::current_num_threads();
        let panel_bytes = 4 * COLUMNS * self.words.steps(self.input);
        let fitting = (BAND_BYTES / panel_bytes.max(1)).max(1);
        let panels = cells.div_ceil(COLUMNS);
        let share = (batch * panels).div_ceil(2 * threads);
        let band = fitting.min(share).clamp(1, panels.max(1)) * COLUMNS;
        let bands = cells.div_ceil(band);
        let blocks = self.output.div_ceil(ROWS);
        let products = batch * cells * self.input * self.output;
        let wanted = (products / PRODUCTS_A_JOB).clamp(1, 2 * threads);
        let parts = wanted
            .div_ceil((batch * bands).max(1))
            .clamp(1, (blocks / 4).max(1));
        let part = blocks.div_ceil(parts).max(1);
        let mut jobs = Vec::with_capacity(batch * bands * parts);
        for image in 0..batch {
            for first in (0..cells).step_by(band) {
                for start in (0..blocks).step_by(part) {
                    jobs.push(Job {
                        image,
                        first,
                        cells: band.min(cells - first),
                        blocks: start..(start + part).min(blocks),
                    });
                }
            }
        }
        jobs
    }

    /// Computes a job; `write` gets an output channel, a cell, and the numbers from there on.
    fn band(
        &self,
        sources: &[Source<'_>],
        cells: usize,
        job: &Job,
        buffer: &mut Vec<u32>,
        mut write: impl FnMut(usize, usize, &[f32]),
    ) {
        let steps = self.words.steps(self.input);
        let needed = job.cells.div_ceil(COLUMNS) * steps * COLUMNS;
        if buffer.len() < needed {
            buffer.resize(needed, 0);
        }
        let buffer = &mut buffer[..needed];
        self.pack(sources, cells, job, buffer);
        let mut sums: Block = [[0.0; COLUMNS]; ROWS];
        for index in job.blocks.clone() {
            let weight = &self.weight[index * steps * ROWS..(index + 1) * steps * ROWS];
            let channels = ROWS.min(self.output - index * ROWS);
            for (panel, words) in buffer.chunks_exact(steps * COLUMNS).enumerate() {
                let at = panel * COLUMNS;
                let columns = COLUMNS.min(job.cells - at);
                let factors = Factors::Packed(weight);
                block::multiply(self.words, &mut sums, words, factors, steps, columns);
                for (row, sums) in sums.iter().enumerate().take(channels) {
                    write(index * ROWS + row, job.first + at, &sums[..columns]);
                }
            }
        }
    }

    /// The job's cells as panels, `[panels, steps, COLUMNS]`.
    fn pack(&self, sources: &[Source<'_>], cells: usize, job: &Job, buffer: &mut [u32]) {
        let steps = self.words.steps(self.input);
        let mut rows = sources.iter().flat_map(|source| {
            let start = job.image * source.channels;
            (start..start + source.channels)
                .map(|plane| &source.data[plane * cells + job.first..][..job.cells])
        });
        for step in 0..steps {
            let Some(first) = rows.next() else { return };
            let second = match self.words {
                Precision::F32 => None,
                Precision::Bf16 => rows.next(),
            };
            for panel in 0..job.cells.div_ceil(COLUMNS) {
                let at = panel * COLUMNS;
                let end = (at + COLUMNS).min(job.cells);
                let target = &mut buffer[(panel * steps + step) * COLUMNS..][..end - at];
                match (self.words, second) {
                    (Precision::F32, _) => words::bits(target, &first[at..end]),
                    (Precision::Bf16, Some(second)) => {
                        words::pairs(target, &first[at..end], &second[at..end]);
                    }
                    (Precision::Bf16, None) => words::singles(target, &first[at..end]),
                }
            }
        }
    }
}
