//! Linear layers: rows of numbers times packed weights, bias and activation while the sums are in
//! the cache.

#![allow(unsafe_code)] // threads write into one output

use std::cell::RefCell;

use rayon::prelude::*;

use super::block::{self, Block, COLUMNS, Factors, Precision, ROWS};
use super::conv::Shared;
use super::math::row_finish;
use super::words;
use crate::ops::Activation;

/// Rows that pass by a panel of weights together: they stay in the second-level cache.
const ROWS_A_JOB: usize = 64;

/// Products below which a job of its own costs more than it brings.
const PRODUCTS_A_JOB: usize = 1 << 20;

thread_local! {
    /// Room for rows in another precision, which its thread keeps.
    static BUFFER: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// The weights of a linear layer.
pub struct Packed {
    precision: Precision,
    input: usize,
    output: usize,
    weight: Vec<u32>, // [output / COLUMNS, steps, COLUMNS]
    bias: Vec<f32>,
}

impl Packed {
    /// `weight`: `[output, input]`, neither of them 0; `bias`: `[output]`. `None` where the machine
    /// has no kernel for it.
    pub fn new(precision: Precision, weight: &[f32], bias: Vec<f32>) -> Option<Self> {
        let output = bias.len();
        let input = weight.len() / output.max(1);
        if input == 0 || !precision.available() {
            return None;
        }
        let steps = precision.steps(input);
        let mut packed = vec![0; output.div_ceil(COLUMNS) * steps * COLUMNS];
        for (column, numbers) in weight.chunks_exact(input).enumerate() {
            let panel = &mut packed[column / COLUMNS * steps * COLUMNS..][..steps * COLUMNS];
            for (at, number) in numbers.iter().enumerate() {
                match precision {
                    Precision::F32 => panel[at * COLUMNS + column % COLUMNS] = number.to_bits(),
                    Precision::Bf16 => {
                        let word = &mut panel[at / 2 * COLUMNS + column % COLUMNS];
                        *word |= words::bf16(*number) << (at % 2 * 16);
                    }
                }
            }
        }
        Some(Self {
            precision,
            input,
            output,
            weight: packed,
            bias,
        })
    }

    /// Numbers of an input's row and of an output's.
    pub fn sizes(&self) -> (usize, usize) {
        (self.input, self.output)
    }

    /// `x`: `[rows, input]`; the result: `[rows, output]`.
    pub fn run(&self, x: &[f32], activation: Activation) -> Vec<f32> {
        let rows = x.len() / self.input;
        let mut output = vec![0.0; rows * self.output];
        let threads = rayon::current_num_threads();
        let panels = self.output.div_ceil(COLUMNS);
        let share = rows.div_ceil(2 * threads).next_multiple_of(ROWS);
        let chunk = share.clamp(ROWS, ROWS_A_JOB);
        let chunks = rows.div_ceil(chunk);
        let wanted = (rows * self.input * self.output / PRODUCTS_A_JOB).clamp(1, 2 * threads);
        let parts = wanted.div_ceil(chunks.max(1)).clamp(1, panels);
        let part = panels.div_ceil(parts);
        let parts = panels.div_ceil(part);
        let products = chunk * self.input * part * COLUMNS;
        let shared = Shared(output.as_mut_ptr());
        (0..chunks * parts)
            .into_par_iter()
            .with_min_len(PRODUCTS_A_JOB.div_ceil(4 * products.max(1)))
            .for_each(|index| {
                let (first, start) = (index / parts * chunk, index % parts * part);
                let count = chunk.min(rows - first);
                let x = &x[first * self.input..(first + count) * self.input];
                let panels = start..(start + part).min(panels);
                let shared = &shared;
                let write = |row: usize, column: usize, sums: &[f32]| {
                    let at = (first + row) * self.output + column;
                    // SAFETY: rows and columns of this job, which no other job has.
                    let target =
                        unsafe { std::slice::from_raw_parts_mut(shared.0.add(at), sums.len()) };
                    let bias = &self.bias[column..column + sums.len()];
                    row_finish(target, sums, bias, activation);
                };
                match self.precision {
                    Precision::F32 => self.multiply(block::bits(x), self.input, panels, write),
                    Precision::Bf16 => BUFFER.with_borrow_mut(|buffer| {
                        let steps = self.precision.steps(self.input);
                        buffer.resize(count * steps, 0);
                        for (words, row) in buffer
                            .chunks_exact_mut(steps)
                            .zip(x.chunks_exact(self.input))
                        {
                            words::neighbours(words, row);
                        }
                        self.multiply(buffer, steps, panels, write);
                    }),
                }
            });
        output
    }

    /// Rows of `words`, `pitch` words each, times some panels; `write` gets a row, a column, and
    /// the sums from there on.
    fn multiply(
        &self,
        words: &[u32],
        pitch: usize,
        panels: std::ops::Range<usize>,
        mut write: impl FnMut(usize, usize, &[f32]),
    ) {
        let steps = self.precision.steps(self.input);
        let rows = words.len() / pitch;
        let mut sums: Block = [[0.0; COLUMNS]; ROWS];
        for index in panels {
            let panel = &self.weight[index * steps * COLUMNS..(index + 1) * steps * COLUMNS];
            let column = index * COLUMNS;
            let columns = COLUMNS.min(self.output - column);
            for first in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - first);
                let factors = Factors::Rows {
                    words: &words[first * pitch..],
                    pitch,
                    count,
                };
                block::multiply(self.precision, &mut sums, panel, factors, steps, columns);
                for (row, sums) in sums.iter().enumerate().take(count) {
                    write(first + row, column, &sums[..columns]);
                }
            }
        }
    }
}
