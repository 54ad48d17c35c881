//! Linear layers by tiles: the weights are panels, the rows of the input factors.

#![allow(unsafe_code)] // blocks of one output

use std::cell::RefCell;
use std::ops::Range;

use super::{Factors, Operands, ROWS, Session, Tiles};
use crate::ops::Activation;
use crate::ops::cpu::aligned::Aligned;
use crate::ops::cpu::block::{COLUMNS, Precision, Target};
use crate::ops::cpu::finish::{Bias, End, Finish};
use crate::ops::cpu::linear::panels;
use crate::ops::cpu::words;

/// Rows that pass by all panels together: they stay in the second-level cache.
const ROWS_TOGETHER: usize = 6 * ROWS;

thread_local! {
    /// Rows as bfloat16, whose room its thread keeps.
    static ROOM: RefCell<Aligned> = RefCell::default();
}

/// The weights of a linear layer.
pub struct Linear {
    tiles: Tiles,
    input: usize,
    /// Words of a sum, whole tiles.
    steps: usize,
    weight: Aligned, // [output / COLUMNS, steps, COLUMNS]
    bias: Vec<f32>,
}

impl Linear {
    /// `weight`: `[output, input]`, neither of them 0; `bias`: `[output]`.
    pub fn new(tiles: Tiles, weight: &[f32], bias: Vec<f32>) -> Self {
        let input = weight.len() / bias.len();
        let steps = tiles.steps(input);
        Self {
            tiles,
            input,
            steps,
            weight: panels(Precision::Bf16, weight, input, steps),
            bias,
        }
    }

    /// Numbers of an input's row and of an output's.
    pub fn sizes(&self) -> (usize, usize) {
        (self.input, self.bias.len())
    }

    /// `x`: `[rows, input]`; writes the columns of some panels of these rows.
    ///
    /// # Safety
    /// These columns of the rows of `output` may be written.
    pub unsafe fn run(
        &self,
        x: &[f32],
        panels: Range<usize>,
        activation: Activation,
        mut output: *mut f32,
    ) {
        let mut session = self.tiles.session();
        let pitch = self.tiles.pitch(self.steps);
        ROOM.with_borrow_mut(|room| {
            room.grow(ROWS_TOGETHER * pitch);
            for x in x.chunks(ROWS_TOGETHER * self.input) {
                let rows = x.chunks_exact(self.input);
                let count = rows.len();
                for (words, row) in room.chunks_exact_mut(pitch).zip(rows) {
                    let (words, beyond) = words.split_at_mut(self.input.div_ceil(2));
                    words::neighbours(words, row);
                    // Tiles are filled up.
                    beyond.fill(0);
                }
                // SAFETY: by this function's contract.
                unsafe {
                    let panels = panels.clone();
                    self.multiply(&mut session, room, count, panels, activation, output);
                    output = output.add(count * self.bias.len());
                }
            }
        });
    }

    /// Multiplies the first `rows` rows of `words` with some panels, a part of a panel at a time.
    ///
    /// # Safety
    /// As for [`Linear::run`].
    unsafe fn multiply(
        &self,
        session: &mut Session,
        words: &[u32],
        rows: usize,
        panels: Range<usize>,
        activation: Activation,
        output: *mut f32,
    ) {
        let (steps, part) = (self.steps, self.tiles.part_of(self.steps));
        let pitch = self.tiles.pitch(steps);
        for index in panels {
            let panel = &self.weight[index * steps * COLUMNS..(index + 1) * steps * COLUMNS];
            let column = index * COLUMNS;
            let columns = COLUMNS.min(self.bias.len() - column);
            let end = End {
                bias: Bias::Columns(&self.bias[column..column + columns]),
                finish: Finish::new(activation),
                added: None,
                relu: false,
            };
            for from in (0..steps).step_by(part) {
                let to = (from + part).min(steps);
                for first in (0..rows).step_by(ROWS) {
                    let operands = Operands {
                        panel: &panel[from * COLUMNS..to * COLUMNS],
                        factors: Factors::Rows {
                            words: &words[first * pitch + from..],
                            pitch,
                        },
                        steps: to - from,
                    };
                    // SAFETY: by this function's contract.
                    unsafe {
                        let target = Target {
                            start: output.add(first * self.bias.len() + column),
                            pitch: self.bias.len(),
                            rows: ROWS.min(rows - first),
                            columns,
                            resumed: from > 0,
                        };
                        session.multiply(&operands, target, (to == steps).then_some(&end));
                    }
                }
            }
        }
    }
}
