//! Linear layers: rows of numbers times packed weights, bias and activation while the sums are in
//! the cache.

#![allow(unsafe_code)] // threads write into one output

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::ahead::Ahead;
use super::aligned::Aligned;
use super::amx::{self, Tiles};
use super::block::{self, COLUMNS, Factors, Next, Operands, Precision, ROWS, Target, Unit};
use super::conv::Shared;
use super::finish::{Bias, End, Finish};
use super::threads::share;
use super::words;
use crate::ops::Activation;

/// Rows that pass by all panels together: all of an image in a ViT with 129 tokens.
const ROWS_TOGETHER: usize = 136;

/// Products below which a job of its own costs more than it brings.
const PRODUCTS_A_JOB: usize = 1 << 20;

/// What a thread keeps: rows in another precision, and those that come next.
#[derive(Default)]
struct Room {
    words: Aligned,
    ahead: Ahead,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// The weights of a linear layer.
pub struct Packed {
    unit: Unit,
    /// By tiles, in place of blocks of vectors.
    tiles: Option<amx::Linear>,
    input: usize,
    output: usize,
    weight: Aligned, // [output / COLUMNS, steps, COLUMNS]
    bias: Vec<f32>,
}

/// Weights `[output, input]` as panels, `[output / COLUMNS, steps, COLUMNS]`, filled up with zeros; `steps`
/// are at least those of the input.
pub(super) fn panels(precision: Precision, weight: &[f32], input: usize, steps: usize) -> Aligned {
    let output = weight.len() / input;
    let mut packed = Aligned::new(output.div_ceil(COLUMNS) * steps * COLUMNS);
    for (column, numbers) in weight.chunks_exact(input).enumerate() {
        let panel = &mut packed[column / COLUMNS * steps * COLUMNS..][..steps * COLUMNS];
        for (at, number) in numbers.iter().enumerate() {
            let (step, word) = words::place(precision, at, *number);
            panel[step * COLUMNS + column % COLUMNS] |= word;
        }
    }
    packed
}

impl Packed {
    /// `weight`: `[output, input]`, neither of them 0; `bias`: `[output]`. `None` where the machine
    /// has no kernel for it.
    pub fn new(precision: Precision, weight: &[f32], bias: Vec<f32>) -> Option<Self> {
        let output = bias.len();
        let input = weight.len() / output.max(1);
        if input == 0 {
            return None;
        }
        let unit = Unit::of(precision)?;
        if let Some(tiles) = Tiles::of(unit) {
            return Some(Self::by_tiles(unit, tiles, weight, bias));
        }
        let steps = precision.steps(input);
        Some(Self {
            unit,
            tiles: None,
            input,
            output,
            weight: panels(precision, weight, input, steps),
            bias,
        })
    }

    /// The same, neither input nor output being 0.
    pub(super) fn by_tiles(unit: Unit, tiles: Tiles, weight: &[f32], bias: Vec<f32>) -> Self {
        let tiles = amx::Linear::new(tiles, weight, bias);
        let (input, output) = tiles.sizes();
        Self {
            unit,
            input,
            output,
            tiles: Some(tiles),
            weight: Aligned::default(),
            bias: Vec::new(),
        }
    }

    /// Numbers of an input's row and of an output's.
    pub fn sizes(&self) -> (usize, usize) {
        (self.input, self.output)
    }

    /// `x`: `[rows, input]`; the result: `[rows, output]`.
    pub fn run(&self, x: &[f32], activation: Activation) -> Vec<f32> {
        let rows = x.len() / self.input;
        let mut output = Vec::with_capacity(rows * self.output);
        let threads = rayon::current_num_threads();
        let panels = self.output.div_ceil(COLUMNS);
        let products = rows * self.input * self.output;
        let wanted = if threads == 1 {
            1
        } else {
            (products / PRODUCTS_A_JOB).clamp(1, 4 * threads)
        };
        let blocks = rows.div_ceil(ROWS);
        let chunks = wanted.min(rows.div_ceil(4 * ROWS)).max(1);
        let parts = wanted.div_ceil(chunks).clamp(1, panels);
        let shared = Shared(output.as_mut_ptr());
        let job = |index: usize| {
            let chunk = share(blocks, chunks, index / parts);
            let (first, end) = (chunk.start * ROWS, (chunk.end * ROWS).min(rows));
            let job = Job {
                x: &x[first * self.input..end * self.input],
                panels: share(panels, parts, index % parts),
                activation,
            };
            // SAFETY: rows of the output that exist, and no other job has with these panels.
            unsafe {
                let output = shared.at(first * self.output);
                self.job(&job, output);
            }
        };
        if chunks * parts == 1 {
            job(0);
        } else {
            (0..chunks * parts)
                .into_par_iter()
                .with_max_len(1)
                .for_each(job);
        }
        // SAFETY: the jobs have written all rows and columns.
        unsafe { output.set_len(rows * self.output) };
        output
    }

    /// # Safety
    /// The job's rows and panels of the output, which begins with the first of its rows, may be
    /// written.
    unsafe fn job(&self, job: &Job<'_>, output: *mut f32) {
        if let Some(tiles) = &self.tiles {
            // SAFETY: by this function's contract.
            return unsafe { tiles.run(job.x, job.panels.clone(), job.activation, output) };
        }
        let steps = self.unit.precision.steps(self.input);
        // Rows stay in the second-level cache while all panels pass by.
        let mut rest = job.x.chunks(ROWS_TOGETHER * self.input).peekable();
        let mut output = output;
        ROOM.with_borrow_mut(|room| {
            let Room { words, ahead } = room;
            while let Some(rows) = rest.next() {
                ahead.clear();
                if let Some(next) = rest.peek() {
                    ahead.expect(next);
                }
                let words = match self.unit.precision {
                    Precision::F32 => block::bits(rows),
                    Precision::Bf16 => {
                        words.grow(ROWS_TOGETHER * steps);
                        let rows = rows.chunks_exact(self.input);
                        let count = rows.len();
                        for (words, row) in words.chunks_exact_mut(steps).zip(rows) {
                            words::neighbours(words, row);
                        }
                        &words[..count * steps]
                    }
                };
                // SAFETY: by this function's contract.
                unsafe {
                    self.multiply_rows(words, job, ahead, output);
                    output = output.add(rows.len() / self.input * self.output);
                }
            }
        });
    }

    /// # Safety
    /// As for `job`.
    unsafe fn multiply_rows(
        &self,
        words: &[u32],
        job: &Job<'_>,
        ahead: &mut Ahead,
        output: *mut f32,
    ) {
        let steps = self.unit.precision.steps(self.input);
        let count = words.len() / steps;
        let part = block::part_of(steps);
        ahead.share(job.panels.len() * steps.div_ceil(part) * count.div_ceil(ROWS));
        for index in job.panels.clone() {
            let panel =
                |index: usize| &self.weight[index * steps * COLUMNS..(index + 1) * steps * COLUMNS];
            // After the last one its first one passes by the rows that come next.
            let next = if index + 1 < job.panels.end {
                index + 1
            } else {
                job.panels.start
            };
            let column = index * COLUMNS;
            let columns = COLUMNS.min(self.output - column);
            let end = End {
                bias: Bias::Columns(&self.bias[column..column + columns]),
                finish: Finish::new(job.activation),
                added: None,
                relu: false,
            };
            let rows = Rows {
                words,
                pitch: steps,
                steps,
                next: panel(next),
            };
            // SAFETY: rows and columns of the job.
            unsafe {
                let target = Target {
                    start: output.add(column),
                    pitch: self.output,
                    rows: count,
                    columns,
                    resumed: false,
                };
                multiply_panel(self.unit, panel(index), rows, target, Some(&end), ahead);
            }
        }
    }
}

/// Rows of factors as they lie.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// From the first row's first word on.
    pub words: &'a [u32],
    /// Words from one row to the next.
    pub pitch: usize,
    /// Words of a row.
    pub steps: usize,
    /// The panel that comes next, perhaps: asked for in time.
    pub next: &'a [u32],
}

/// Multiplies any number of rows with one panel, `[steps, COLUMNS]`, anew into as many rows of `target`;
/// asks for what is `ahead` meanwhile, block by block.
///
/// # Safety
/// As for [`block::multiply`].
pub(super) unsafe fn multiply_panel(
    unit: Unit,
    panel: &[u32],
    rows: Rows<'_>,
    target: Target,
    end: Option<&End<'_>>,
    ahead: &mut Ahead,
) {
    let Rows {
        words,
        pitch,
        steps,
        next,
    } = rows;
    let part = block::part_of(steps);
    let mut next = Next::within(next, target.rows.div_ceil(ROWS) * steps);
    for from in (0..steps).step_by(part) {
        let to = (from + part).min(steps);
        for first in (0..target.rows).step_by(ROWS) {
            let count = ROWS.min(target.rows - first);
            let operands = Operands {
                panel: &panel[from * COLUMNS..to * COLUMNS],
                factors: Factors::Rows {
                    words: &words[first * pitch + from..],
                    pitch,
                    count,
                },
                steps: to - from,
                next,
                ahead: ahead.take(),
            };
            next = next.after(to - from);
            let target = Target {
                start: target.start.wrapping_add(first * target.pitch),
                rows: count,
                resumed: from > 0,
                ..target
            };
            let end = end.filter(|_| to == steps);
            // SAFETY: rows of the target, by this function's contract.
            unsafe { block::multiply(unit, &operands, target, end) };
        }
    }
}

/// Rows, and panels of the weights.
struct Job<'a> {
    x: &'a [f32], // [rows, input]
    panels: Range<usize>,
    activation: Activation,
}
