//! How good tracks are: the field's own metrics, equal to the official tools'.
//!
//! [`folder`] finds the sequences of a benchmark; [`mot`] reads MOT Challenge text and prepares it
//! as the benchmark does; [`clear`], [`identity`] and [`hota`] measure; [`report`] puts the figures
//! of all sequences together, [`csv`] and [`plot`] write them down. [`reid`] measures features of
//! people instead of tracks. [`across`] measures identities of several cameras, and on the map.
//!
//! [`track`] runs trackers over detections that are there, which [`cache`] keeps, and [`tune`]
//! searches their settings.

pub mod across;
pub mod cache;
pub mod clear;
pub mod csv;
pub mod folder;
pub mod hota;
pub mod identity;
pub mod mot;
pub mod plot;
pub mod reid;
pub mod report;
pub mod track;
pub mod tune;

use crate::tracker::assignment::{Assignment, SparseCosts};

/// Smallest difference that the official Python evaluation tells apart (`numpy.finfo(float).eps`).
pub(crate) const EPS: f64 = f64::EPSILON;

/// One frame, ready to be measured: identities as dense indices, and every pair's overlap.
#[derive(Debug, Clone, Default)]
pub struct EvalFrame {
    /// True identities in this frame, each below [`EvalSequence::truths`].
    pub truth: Vec<usize>,
    /// The tracker's identities in this frame, each below [`EvalSequence::tracks`].
    pub track: Vec<usize>,
    /// Intersection over union, a row for each of `truth`, a column for each of `track`.
    pub similarity: Vec<f64>,
}

impl EvalFrame {
    /// Overlap of the `row`-th truth with the `column`-th track.
    pub fn similarity(&self, row: usize, column: usize) -> f64 {
        self.similarity[row * self.track.len() + column]
    }
}

/// One sequence, ready to be measured.
#[derive(Debug, Clone, Default)]
pub struct EvalSequence {
    /// All frames in order.
    pub frames: Vec<EvalFrame>,
    /// Number of true identities.
    pub truths: usize,
    /// Number of the tracker's identities.
    pub tracks: usize,
}

impl EvalSequence {
    /// Boxes of the truth and of the tracker over all frames.
    pub fn boxes(&self) -> (u64, u64) {
        let mut boxes = (0, 0);
        for frame in &self.frames {
            boxes.0 += frame.truth.len() as u64;
            boxes.1 += frame.track.len() as u64;
        }
        boxes
    }
}

/// Finds pairs of row and column with the largest sum of scores; keeps its memory between calls.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    costs: SparseCosts,
    assignment: Assignment,
    pairs: Vec<(usize, usize)>,
}

impl Matcher {
    /// The best pairs by `score(row, column)`, by rising row. Pairs that score 0 or less are left
    /// out: they must neither be preferred to none nor cost time in the search.
    pub(crate) fn best_pairs(
        &mut self,
        rows: usize,
        columns: usize,
        score: impl Fn(usize, usize) -> f64,
    ) -> &[(usize, usize)] {
        self.costs.clear(columns);
        for row in 0..rows {
            for column in 0..columns {
                let score = score(row, column);
                if score > 0.0 {
                    self.costs.push(column, -score);
                }
            }
            self.costs.end_row();
        }
        self.solve()
    }

    /// As [`Matcher::best_pairs`], of the pairs that each row names: column and score.
    pub(crate) fn best_sparse_pairs(
        &mut self,
        columns: usize,
        rows: impl Iterator<Item = impl Iterator<Item = (usize, f64)>>,
    ) -> &[(usize, usize)] {
        self.costs.clear(columns);
        for row in rows {
            for (column, score) in row {
                if score > 0.0 {
                    self.costs.push(column, -score);
                }
            }
            self.costs.end_row();
        }
        self.solve()
    }

    fn solve(&mut self) -> &[(usize, usize)] {
        self.assignment.solve(&self.costs, 0.0);
        self.pairs.clear();
        for row in 0..self.costs.rows() {
            if let Some(column) = self.assignment.column_of(row) {
                self.pairs.push((row, column));
            }
        }
        &self.pairs
    }
}

/// Numbers the pairs of true and tracked identities that ever overlap.
///
/// Memory grows with these pairs alone: a tracker that begins a new identity in every frame must
/// not cost the product of all identities.
#[derive(Debug, Default)]
pub(crate) struct PairIndex {
    /// For each true identity, by rising track: track and the pair's number.
    rows: Vec<Vec<(usize, usize)>>,
    pairs: usize,
}

impl PairIndex {
    /// For this many true identities.
    pub(crate) fn new(truths: usize) -> Self {
        Self {
            rows: vec![Vec::new(); truths],
            pairs: 0,
        }
    }

    /// Number of pairs.
    pub(crate) fn len(&self) -> usize {
        self.pairs
    }

    /// The number of a pair; a new one is the next.
    pub(crate) fn number(&mut self, truth: usize, track: usize) -> usize {
        let row = &mut self.rows[truth];
        match row.binary_search_by_key(&track, |&(track, _)| track) {
            Ok(at) => row[at].1,
            Err(at) => {
                row.insert(at, (track, self.pairs));
                self.pairs += 1;
                self.pairs - 1
            }
        }
    }

    /// The number of a pair, if it has one.
    pub(crate) fn get(&self, truth: usize, track: usize) -> Option<usize> {
        let row = &self.rows[truth];
        let at = row.binary_search_by_key(&track, |&(track, _)| track);
        at.ok().map(|at| row[at].1)
    }

    /// For each true identity, by rising track: track and the pair's number.
    pub(crate) fn rows(&self) -> &[Vec<(usize, usize)>] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: 3 + 3 beats 5 + 0; nothing is matched with a score of 0.
    #[test]
    fn the_largest_sum_wins_and_nothing_is_forced() {
        let scores = [[5.0, 3.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]];
        let mut matcher = Matcher::default();
        let pairs = matcher.best_pairs(3, 3, |row, column| scores[row][column]);
        assert_eq!(pairs, [(0, 1), (1, 0)]);
        assert!(matcher.best_pairs(2, 0, |_, _| 1.0).is_empty());
        assert!(matcher.best_pairs(0, 2, |_, _| 1.0).is_empty());
    }

    #[test]
    fn pairs_are_numbered_once() {
        let mut index = PairIndex::new(2);
        assert_eq!(index.number(0, 7), 0);
        assert_eq!(index.number(1, 7), 1);
        assert_eq!(index.number(0, 3), 2);
        assert_eq!(index.number(0, 7), 0);
        assert_eq!(index.get(0, 3), Some(2));
        assert_eq!(index.get(1, 3), None);
        assert_eq!(index.len(), 3);
        assert_eq!(index.rows()[0], [(3, 2), (7, 0)]);
    }
}
