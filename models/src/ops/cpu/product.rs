//! Convolution as a matrix product of the weights with panels of cells. For pointwise ones, 1×1 at
//! stride 1, these are the cells of the images, whose channels may lie in several tensors; for
//! others what the outputs see is gathered while panels are packed.
//!
//! A part of a panel stays in the first-level cache while weights of that part pass by, as many as stay
//! in the second-level cache for all panels.

#![allow(unsafe_code)] // threads write into one output

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::block::{self, COLUMNS, Factors, Operands, Precision, ROWS, STEPS, Target, Unit};
use super::conv::{Added, Shared, Size};
use super::finish::{Bias, End, Finish};
use super::words;
use crate::layers::Conv;

/// Products below which a job of its own costs more than it brings.
const PRODUCTS_A_JOB: usize = 1 << 20;

/// Blocks whose weights stay in the second-level cache while all panels pass by; packing these once
/// more for the next blocks costs little.
const BLOCKS_TOGETHER: usize = 64;

/// A part of a panel, and numbers gathered for it.
struct Room {
    panel: Vec<u32>, // [STEPS, COLUMNS]
    gathered: [[f32; COLUMNS]; 2],
    runs: Vec<Run>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::new(Room {
        panel: vec![0; STEPS * COLUMNS],
        gathered: [[0.0; COLUMNS]; 2],
        runs: Vec::new(),
    });
}

/// Weights of a convolution without groups.
pub struct Product {
    unit: Unit,
    conv: Conv,
    /// Numbers that an output sees: input channels × kernel × kernel.
    depth: usize,
    weight: Vec<u32>, // [output / ROWS, steps, ROWS]
}

/// Whether the input's cells are the matrix already.
pub fn is_pointwise(conv: &Conv) -> bool {
    (
        conv.kernel,
        conv.stride,
        conv.padding,
        conv.far,
        conv.groups,
    ) == (1, 1, 0, 0, 1)
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

/// Panels, counted through the images, and blocks of output channels.
struct Job {
    panels: Range<usize>,
    blocks: Range<usize>,
}

/// What all jobs of a run share.
struct Pass<'a> {
    sources: &'a [Source<'a>],
    grid: Grid,
    bias: &'a [f32], // filled up to whole blocks
    finish: Finish,
    added: Option<Added<'a>>,
    output: Shared,
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
    pub fn new(unit: Unit, weight: &[f32], conv: &Conv) -> Self {
        let depth = conv.input * conv.kernel * conv.kernel;
        Self {
            unit,
            conv: *conv,
            depth,
            weight: pack_weight(unit.precision, weight, depth),
        }
    }

    /// Convolves images whose channels are those of all `sources`, one after the other; only for
    /// pointwise convolutions more than one. `bias` is filled up to whole blocks of [`ROWS`];
    /// `output`: `[batch, output, cells]`, and so is what is `added`.
    ///
    /// # Safety
    /// The output may be written, all of it, by nobody else.
    pub unsafe fn run(
        &self,
        sources: &[Source<'_>],
        bias: &[f32],
        finish: Finish,
        grid: Grid,
        added: Option<Added<'_>>,
        output: *mut f32,
    ) {
        let channels: usize = sources.iter().map(|source| source.channels).sum();
        assert_eq!(channels, self.conv.input);
        let (batch, cells) = (grid.size.batch, grid.output.0 * grid.output.1);
        assert!(bias.len() >= self.conv.output.next_multiple_of(ROWS));
        if let Some(added) = added {
            assert_eq!(added.data.len(), batch * self.conv.output * cells);
        }
        let run = Pass {
            sources,
            grid,
            bias,
            finish,
            added,
            output: Shared(output),
        };
        let jobs = self.jobs(batch, cells);
        if let [job] = jobs.as_slice() {
            ROOM.with_borrow_mut(|room| self.job(&run, job, room));
            return;
        }
        jobs.into_par_iter()
            .with_max_len(1)
            .for_each(|job| ROOM.with_borrow_mut(|room| self.job(&run, &job, room)));
    }

    /// As many jobs as keep all threads busy: of panels, and where there are few of them, of
    /// blocks.
    fn jobs(&self, batch: usize, cells: usize) -> Vec<Job> {
        let threads = rayon::current_num_threads();
        let panels = batch * cells.div_ceil(COLUMNS);
        let blocks = self.conv.output.div_ceil(ROWS);
        let products = batch * cells * self.depth * self.conv.output;
        let wanted = if threads == 1 {
            1
        } else {
            (products / PRODUCTS_A_JOB).clamp(1, 4 * threads)
        };
        let bands = wanted.min(panels / 3).max(1);
        let band = panels.div_ceil(bands).max(1);
        let parts = wanted.div_ceil(bands).clamp(1, (blocks / 4).max(1));
        let part = blocks.div_ceil(parts).max(1);
        let mut jobs = Vec::with_capacity(bands * parts);
        for first in (0..panels).step_by(band) {
            for start in (0..blocks).step_by(part) {
                jobs.push(Job {
                    panels: first..(first + band).min(panels),
                    blocks: start..(start + part).min(blocks),
                });
            }
        }
        jobs
    }

    fn job(&self, run: &Pass<'_>, job: &Job, room: &mut Room) {
        let steps = self.unit.precision.steps(self.depth);
        let part = block::part_of(steps);
        let cells = run.grid.output.0 * run.grid.output.1;
        let panels_an_image = cells.div_ceil(COLUMNS);
        let groups = (0..steps).step_by(part).flat_map(|first| {
            let blocks = job.blocks.clone().step_by(BLOCKS_TOGETHER);
            blocks.map(move |block| (first, block))
        });
        for (first, block) in groups {
            let taken = first..(first + part).min(steps);
            let blocks = block..(block + BLOCKS_TOGETHER).min(job.blocks.end);
            for panel in job.panels.clone() {
                let image = panel / panels_an_image;
                let start = panel % panels_an_image * COLUMNS;
                let place = start..(start + COLUMNS).min(cells);
                if is_pointwise(&self.conv) {
                    self.pack(run, image, place.clone(), taken.clone(), room);
                } else if let [source] = run.sources {
                    let size = self.conv.input * run.grid.size.cells();
                    let image = &source.data[image * size..(image + 1) * size];
                    self.gather(image, run.grid, place.clone(), taken.clone(), room);
                }
                self.multiply(
                    run,
                    blocks.clone(),
                    &room.panel,
                    image,
                    place,
                    taken.clone(),
                );
            }
        }
    }

    /// Multiplies a part of a panel with some blocks.
    fn multiply(
        &self,
        run: &Pass<'_>,
        blocks: Range<usize>,
        panel: &[u32],
        image: usize,
        place: Range<usize>,
        taken: Range<usize>,
    ) {
        let steps = self.unit.precision.steps(self.depth);
        let cells = run.grid.output.0 * run.grid.output.1;
        let last = taken.end == steps;
        for index in blocks {
            let weight = &self.weight[index * steps * ROWS..(index + 1) * steps * ROWS];
            let operands = Operands {
                panel,
                factors: Factors::Packed(&weight[taken.start * ROWS..taken.end * ROWS]),
                steps: taken.len(),
            };
            let channel = index * ROWS;
            let at = (image * self.conv.output + channel) * cells + place.start;
            let end = End {
                bias: Bias::Rows(&run.bias[channel..channel + ROWS]),
                finish: run.finish,
                added: run.added.map(|added| (added.data[at..].as_ptr(), cells)),
                relu: run.added.is_some_and(|added| added.relu),
            };
            // SAFETY: channels and cells of this job, which no other job has; what is added is as
            // large as the output.
            unsafe {
                let target = Target {
                    start: run.output.at(at),
                    pitch: cells,
                    rows: ROWS.min(self.conv.output - channel),
                    columns: place.len(),
                    resumed: taken.start > 0,
                };
                block::multiply(self.unit, &operands, target, last.then_some(&end));
            }
        }
    }

    /// Packs the steps `taken` of the cells at `place`, where the input is the matrix.
    fn pack(
        &self,
        run: &Pass<'_>,
        image: usize,
        place: Range<usize>,
        taken: Range<usize>,
        room: &mut Room,
    ) {
        let cells = run.grid.size.cells();
        let numbers = match self.unit.precision {
            Precision::F32 => taken.clone(),
            Precision::Bf16 => 2 * taken.start..(2 * taken.end).min(self.depth),
        };
        let rows = Rows {
            sources: run.sources,
            image,
            cells,
            first: place.start,
            count: place.len(),
        };
        if self.unit.precision == Precision::F32 {
            rows.each(numbers, |target, row| {
                let target = &mut room.panel[target * COLUMNS..][..place.len()];
                words::copy(target, row);
            });
            return;
        }
        let mut before: Option<&[f32]> = None;
        let mut step = 0;
        rows.each(numbers, |_, row| {
            let target = &mut room.panel[step * COLUMNS..][..place.len()];
            let Some(first) = before.take() else {
                before = Some(row);
                return;
            };
            words::pairs(target, first, row);
            step += 1;
        });
        if let Some(last) = before {
            words::singles(&mut room.panel[step * COLUMNS..][..place.len()], last);
        }
    }

    /// Gathers the steps `taken` of what the outputs at `place` see.
    fn gather(
        &self,
        image: &[f32],
        grid: Grid,
        place: Range<usize>,
        taken: Range<usize>,
        room: &mut Room,
    ) {
        let Room {
            panel,
            gathered: [even, odd],
            runs,
        } = room;
        runs.clear();
        let mut cell = place.start;
        while cell < place.end {
            let (y, x) = (cell / grid.output.1, cell % grid.output.1);
            let count = (grid.output.1 - x).min(place.end - cell);
            runs.push(Run { y, x, count });
            cell += count;
        }
        let conv = &self.conv;
        let panel = panel.chunks_exact_mut(COLUMNS).take(taken.len());
        for (target, step) in panel.zip(taken) {
            let target = &mut target[..place.len()];
            match self.unit.precision {
                Precision::F32 => {
                    gather_row(even, image, grid.size, conv, runs, step);
                    words::copy(target, &even[..place.len()]);
                }
                Precision::Bf16 => {
                    gather_row(even, image, grid.size, conv, runs, 2 * step);
                    if 2 * step + 1 < self.depth {
                        gather_row(odd, image, grid.size, conv, runs, 2 * step + 1);
                        words::pairs(target, &even[..place.len()], &odd[..place.len()]);
                    } else {
                        words::singles(target, &even[..place.len()]);
                    }
                }
            }
        }
    }
}

/// Cells of an image, channel by channel through all sources.
struct Rows<'a> {
    sources: &'a [Source<'a>],
    image: usize,
    /// Cells of a channel, the first one that is wanted, and how many.
    cells: usize,
    first: usize,
    count: usize,
}

impl<'a> Rows<'a> {
    /// Gives `take` the cells of the channels `wanted`, with how many came before.
    fn each(&self, wanted: Range<usize>, mut take: impl FnMut(usize, &'a [f32])) {
        let mut before = 0;
        for source in self.sources {
            let channels = before..before + source.channels;
            let from = wanted.start.max(channels.start);
            let to = wanted.end.min(channels.end);
            let planes = &source.data[self.image * source.channels * self.cells..];
            for channel in from..to {
                let start = (channel - channels.start) * self.cells + self.first;
                take(channel - wanted.start, &planes[start..start + self.count]);
            }
            before = channels.end;
        }
    }
}

/// Neighbouring outputs of one row.
#[derive(Clone, Copy)]
struct Run {
    y: usize,
    x: usize,
    count: usize,
}

/// The numbers that the outputs of `runs` see through one place of the kernel in one channel;
/// `index` counts places, then channels.
fn gather_row(
    row: &mut [f32; COLUMNS],
    image: &[f32],
    size: Size,
    conv: &Conv,
    runs: &[Run],
    index: usize,
) {
    let Conv {
        kernel,
        stride,
        padding,
        ..
    } = *conv;
    let taps = kernel * kernel;
    let plane = &image[index / taps * size.cells()..][..size.cells()];
    let (ky, kx) = (index % taps / kernel, index % kernel);
    let mut done = 0;
    for run in runs {
        let segment = &mut row[done..done + run.count];
        done += run.count;
        let y = (run.y * stride + ky).wrapping_sub(padding);
        if y >= size.height {
            segment.fill(0.0);
            continue;
        }
        let line = &plane[y * size.width..(y + 1) * size.width];
        // Outputs whose column lies inside the line: all but some at its ends.
        let start = run.x * stride + kx;
        let before = padding
            .saturating_sub(start)
            .div_ceil(stride)
            .min(run.count);
        let first = (start + before * stride).saturating_sub(padding);
        let numbers = line.get(first..).unwrap_or_default();
        let inside = numbers.len().div_ceil(stride).min(run.count - before);
        segment[..before].fill(0.0);
        segment[before + inside..].fill(0.0);
        words::every(&mut segment[before..before + inside], numbers, stride);
    }
}
