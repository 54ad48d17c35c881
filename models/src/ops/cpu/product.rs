//! Convolution as a matrix product of the weights with panels of cells. For pointwise ones, 1×1 at
//! stride 1, these are the cells of each image, whose channels may lie in several tensors; for
//! others what the outputs see is gathered while panels are packed.

#![allow(unsafe_code)] // threads write into one output

use std::cell::RefCell;

use rayon::prelude::*;

use super::block::{self, Block, COLUMNS, Factors, Precision, ROWS};
use super::conv::{Shared, Size};
use super::math::finish;
use super::words;
use crate::layers::Conv;

/// Bytes that a band of packed cells may take: half of a core's second-level cache.
const BAND_BYTES: usize = 512 * 1024;

/// Products below which a job of its own costs more than it brings.
const PRODUCTS_A_JOB: usize = 1 << 20;

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Weights of a convolution without groups.
pub struct Product {
    precision: Precision,
    conv: Conv,
    /// Numbers that an output sees: input channels × kernel × kernel.
    depth: usize,
    weight: Vec<u32>, // [output / ROWS, steps, ROWS]
}

/// Whether the input's cells are the matrix already.
pub fn is_pointwise(conv: &Conv) -> bool {
    (conv.kernel, conv.stride, conv.padding, conv.groups) == (1, 1, 0, 1)
}

/// Room for a band, which its thread keeps.
#[derive(Default)]
struct Room {
    panels: Vec<u32>,        // [panels, steps, COLUMNS]
    gathered: [Vec<f32>; 2], // the cells of the band, for two numbers that outputs see
}

/// Channels of the input that lie in one tensor.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// `[batch, channels, height, width]`.
    pub data: &'a [f32],
    /// How many.
    pub channels: usize,
}

/// Where the cells of an image lie.
#[derive(Clone, Copy)]
pub struct Grid {
    /// The input.
    pub size: Size,
    /// Rows and columns of the output.
    pub output: (usize, usize),
}

/// A band of output cells of one image, and rows of the output.
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

impl Product {
    /// `weight`: `[output, input, kernel, kernel]`.
    pub fn new(precision: Precision, weight: &[f32], conv: &Conv) -> Self {
        let depth = conv.input * conv.kernel * conv.kernel;
        Self {
            precision,
            conv: *conv,
            depth,
            weight: pack_weight(precision, weight, depth),
        }
    }

    /// Convolves images whose channels are those of all `sources`, one after the other; only for
    /// pointwise convolutions more than one. `output`: `[batch, output, cells]`.
    pub fn run(&self, sources: &[Source<'_>], bias: &[f32], grid: Grid, output: &mut [f32]) {
        let channels: usize = sources.iter().map(|source| source.channels).sum();
        assert_eq!(channels, self.conv.input);
        let (batch, cells) = (grid.size.batch, grid.output.0 * grid.output.1);
        assert_eq!(output.len(), batch * self.conv.output * cells);
        let jobs = self.jobs(batch, cells);
        let shared = Shared(output.as_mut_ptr());
        jobs.into_par_iter().with_max_len(1).for_each(|job| {
            // Captured whole, not its pointer alone, so that it may cross threads.
            let shared = &shared;
            let write = |channel: usize, at: usize, sums: &[f32]| {
                let start = (job.image * self.conv.output + channel) * cells + at;
                // SAFETY: `band` gives channels and cells of the job, which no other job has.
                let row =
                    unsafe { std::slice::from_raw_parts_mut(shared.0.add(start), sums.len()) };
                finish(row, sums, bias[channel], self.conv.activation);
            };
            ROOM.with_borrow_mut(|room| self.band(sources, grid, &job, room, write));
        });
    }

    /// Bands of as many cells as the cache holds; where that makes too few for all threads,
    /// several jobs for each band.
    fn jobs(&self, batch: usize, cells: usize) -> Vec<Job> {
        let threads = rayon::current_num_threads();
        let panel_bytes = 4 * COLUMNS * self.precision.steps(self.depth);
        let fitting = (BAND_BYTES / panel_bytes.max(1)).max(1);
        let panels = cells.div_ceil(COLUMNS);
        let share = (batch * panels).div_ceil(2 * threads);
        let band = fitting.min(share).clamp(1, panels.max(1)) * COLUMNS;
        let bands = cells.div_ceil(band);
        let blocks = self.conv.output.div_ceil(ROWS);
        let products = batch * cells * self.depth * self.conv.output;
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
        grid: Grid,
        job: &Job,
        room: &mut Room,
        mut write: impl FnMut(usize, usize, &[f32]),
    ) {
        let steps = self.precision.steps(self.depth);
        let needed = job.cells.div_ceil(COLUMNS) * steps * COLUMNS;
        let Room { panels, gathered } = room;
        if panels.len() < needed {
            panels.resize(needed, 0);
        }
        let panels = &mut panels[..needed];
        if is_pointwise(&self.conv) {
            let cells = grid.output.0 * grid.output.1;
            let mut rows = sources.iter().flat_map(|source| {
                let start = job.image * source.channels;
                (start..start + source.channels)
                    .map(|plane| &source.data[plane * cells + job.first..][..job.cells])
            });
            for step in 0..steps {
                self.pack(panels, step, rows.next(), |_| rows.next());
            }
        } else if let [source] = sources {
            let gather = Gather {
                planes: &source.data[job.image * source.channels * grid.size.cells()..],
                grid,
                job,
                conv: &self.conv,
            };
            let [even, odd] = gathered;
            for step in 0..steps {
                let (first, second) = match self.precision {
                    Precision::F32 => (step, self.depth),
                    Precision::Bf16 => (2 * step, 2 * step + 1),
                };
                let first = gather.row(even, first);
                let second = (second < self.depth).then(|| gather.row(odd, second));
                self.pack(panels, step, Some(first), |_| second);
            }
        }
        let mut sums: Block = [[0.0; COLUMNS]; ROWS];
        for index in job.blocks.clone() {
            let weight = &self.weight[index * steps * ROWS..(index + 1) * steps * ROWS];
            let channels = ROWS.min(self.conv.output - index * ROWS);
            for (panel, words) in panels.chunks_exact(steps * COLUMNS).enumerate() {
                let at = panel * COLUMNS;
                let columns = COLUMNS.min(job.cells - at);
                let factors = Factors::Packed(weight);
                block::multiply(self.precision, &mut sums, words, factors, steps, columns);
                for (row, sums) in sums.iter().enumerate().take(channels) {
                    write(index * ROWS + row, job.first + at, &sums[..columns]);
                }
            }
        }
    }

    /// Writes one step of all panels: `first`, in bfloat16 with `second` beside it.
    fn pack<'a>(
        &self,
        panels: &mut [u32],
        step: usize,
        first: Option<&'a [f32]>,
        second: impl FnOnce(()) -> Option<&'a [f32]>,
    ) {
        let steps = self.precision.steps(self.depth);
        let Some(first) = first else { return };
        let second = match self.precision {
            Precision::F32 => None,
            Precision::Bf16 => second(()),
        };
        for (panel, numbers) in first.chunks(COLUMNS).enumerate() {
            let target = &mut panels[(panel * steps + step) * COLUMNS..][..numbers.len()];
            match (self.precision, second) {
                (Precision::F32, _) => words::bits(target, numbers),
                (Precision::Bf16, Some(second)) => {
                    words::pairs(target, numbers, &second[panel * COLUMNS..][..numbers.len()]);
                }
                (Precision::Bf16, None) => words::singles(target, numbers),
            }
        }
    }
}

/// What the outputs of a job see of one image.
struct Gather<'a> {
    planes: &'a [f32],
    grid: Grid,
    job: &'a Job,
    conv: &'a Conv,
}

impl Gather<'_> {
    /// The numbers that the job's outputs see through one place of the kernel in one channel;
    /// `index` counts places, then channels.
    fn row<'r>(&self, row: &'r mut Vec<f32>, index: usize) -> &'r [f32] {
        let Conv {
            kernel,
            stride,
            padding,
            ..
        } = *self.conv;
        let Size { height, width, .. } = self.grid.size;
        let taps = kernel * kernel;
        let plane = &self.planes[index / taps * height * width..][..height * width];
        let (ky, kx) = (index % taps / kernel, index % kernel);
        row.resize(self.job.cells, 0.0);
        let mut done = 0;
        while done < row.len() {
            let cell = self.job.first + done;
            let (y, x) = (cell / self.grid.output.1, cell % self.grid.output.1);
            let count = (self.grid.output.1 - x).min(row.len() - done);
            let segment = &mut row[done..done + count];
            done += count;
            let source_y = (y * stride + ky).wrapping_sub(padding);
            if source_y >= height {
                segment.fill(0.0);
                continue;
            }
            let line = &plane[source_y * width..(source_y + 1) * width];
            // Outputs whose column lies inside the line: all but some at its ends.
            let start = x * stride + kx;
            let before = padding.saturating_sub(start).div_ceil(stride).min(count);
            let first = start + before * stride - padding.min(start + before * stride);
            let numbers = line.get(first..).unwrap_or_default();
            let inside = numbers.len().div_ceil(stride).min(count - before);
            segment[..before].fill(0.0);
            segment[before + inside..].fill(0.0);
            let segment = &mut segment[before..before + inside];
            if stride == 1 {
                segment.copy_from_slice(&numbers[..inside]);
                continue;
            }
            for (target, value) in segment.iter_mut().zip(numbers.iter().step_by(stride)) {
                *target = *value;
            }
        }
        row
    }
}
