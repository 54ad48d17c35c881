//! How good tracks are: the field's own metrics, equal to the official tools'.
//!
//! [`mot`] reads MOT Challenge text and prepares it as the benchmark does; [`clear`], [`identity`]
//! and [`hota`] measure; [`report`] puts the figures of all sequences together.

pub mod clear;
pub mod hota;
pub mod identity;
pub mod mot;
pub mod report;

use crate::tracker::assignment::assign;

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

/// Pairs of row and column with the largest sum of scores; pairs with no score are left out.
pub(crate) fn best_pairs(scores: &[f64], columns: usize) -> Vec<(usize, usize)> {
    if columns == 0 {
        return Vec::new();
    }
    // A pair without score must not be preferred to none, nor spend time in the search.
    let costs: Vec<f64> = scores
        .iter()
        .map(|score| if *score > 0.0 { -score } else { f64::INFINITY })
        .collect();
    assign(&costs, columns, 0.0)
        .into_iter()
        .enumerate()
        .filter_map(|(row, column)| Some((row, column?)))
        .collect()
}
