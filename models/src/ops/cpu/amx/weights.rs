//! Weights as factors of tiles.

#![allow(unsafe_code)] // blocks of one output

use std::ops::Range;

use super::{Factors, Operands, ROWS, Session, Tiles, WORDS};
use crate::ops::cpu::aligned::Aligned;
use crate::ops::cpu::block::{Precision, Target};
use crate::ops::cpu::finish::End;
use crate::ops::cpu::words;

/// Weights `[rows, depth]`, part by part of their sums:
/// `[parts, rows / ROWS, steps of the part / WORDS, ROWS, WORDS]`, filled up with zeros.
pub struct Weights {
    tiles: Tiles,
    words: Aligned,
    blocks: usize,
    steps: usize,
    part: usize,
}

impl Weights {
    /// `weight`: `[rows, depth]`.
    pub fn new(tiles: Tiles, weight: &[f32], depth: usize) -> Self {
        let depth = depth.max(1);
        let steps = tiles.steps(depth);
        let blocks = (weight.len() / depth).div_ceil(ROWS);
        let mut weights = Self {
            tiles,
            words: Aligned::new(blocks * steps * ROWS),
            blocks,
            steps,
            part: tiles.part_of(steps),
        };
        for (row, numbers) in weight.chunks_exact(depth).enumerate() {
            for (index, number) in numbers.iter().enumerate() {
                let (step, word) = words::place(Precision::Bf16, index, *number);
                let at = weights.place(row, step);
                weights.words[at] |= word;
            }
        }
        weights
    }

    /// Words of a sum, and those of its parts: whole tiles.
    pub fn steps(&self) -> (usize, usize) {
        (self.steps, self.part)
    }

    /// Where word `step` of a row lies.
    fn place(&self, row: usize, step: usize) -> usize {
        let first = step / self.part * self.part;
        let taken = first..(first + self.part).min(self.steps);
        let start = self.factors(row / ROWS, &taken).start;
        start + ((step - first) / WORDS * ROWS + row % ROWS) * WORDS + step % WORDS
    }

    /// Where the factors of a block lie for the steps `taken`, a part.
    fn factors(&self, block: usize, taken: &Range<usize>) -> Range<usize> {
        let start = (taken.start * self.blocks + block * taken.len()) * ROWS;
        start..start + taken.len() * ROWS
    }

    /// Makes the tiles of this thread ready to multiply.
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks {
            weights: self,
            session: self.tiles.session(),
        }
    }
}

/// Weights and the tiles of a thread.
pub struct Blocks<'a> {
    weights: &'a Weights,
    session: Session,
}

impl Blocks<'_> {
    /// Multiplies the steps `taken`, a part, of a panel with block `index`, see
    /// [`Session::multiply`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn multiply(
        &mut self,
        panel: &[u32],
        index: usize,
        taken: &Range<usize>,
        target: Target,
        end: Option<&End<'_>>,
    ) {
        let operands = Operands {
            panel,
            factors: Factors::Packed(&self.weights.words[self.weights.factors(index, taken)]),
            steps: taken.len(),
        };
        // SAFETY: by this function's contract.
        unsafe { self.session.multiply(&operands, target, end) };
    }
}
