//! Identity metrics (Ristani et al. 2016, doi:10.1007/978-3-319-48881-3_2): whole tracks are
//! matched with whole identities, so that as many boxes as possible carry the right one.

use super::{EvalSequence, Matcher, PairIndex};

/// IoU from which a track's box may stand for a true one.
const THRESHOLD: f64 = 0.5;

/// Counts of a sequence; ratios are computed from their sums.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Identity {
    /// Boxes with the right identity.
    pub true_positives: u64,
    /// True boxes without it.
    pub false_negatives: u64,
    /// Tracks' boxes without it.
    pub false_positives: u64,
}

impl Identity {
    /// Measures one sequence.
    pub fn of(sequence: &EvalSequence) -> Self {
        let mut index = PairIndex::new(sequence.truths);
        // Frames that each pair spends together.
        let mut together: Vec<f64> = Vec::new();
        for frame in &sequence.frames {
            for (row, &truth) in frame.truth.iter().enumerate() {
                for (column, &track) in frame.track.iter().enumerate() {
                    if frame.similarity(row, column) >= THRESHOLD {
                        let pair = index.number(truth, track);
                        together.resize(index.len(), 0.0);
                        together[pair] += 1.0;
                    }
                }
            }
        }
        // Unmatched boxes cost the same wherever they are, so the best matching is the one with
        // the most boxes together.
        let rows = index.rows().iter().map(|row| {
            let scored = row.iter();
            scored.map(|&(track, pair)| (track, together[pair]))
        });
        let mut matcher = Matcher::default();
        let pairs = matcher.best_sparse_pairs(sequence.tracks, rows);
        let numbers = pairs
            .iter()
            .filter_map(|&(truth, track)| index.get(truth, track));
        let true_positives = numbers.map(|pair| together[pair]).sum::<f64>() as u64;
        let (truths, tracks) = sequence.boxes();
        Self {
            true_positives,
            false_negatives: truths - true_positives,
            false_positives: tracks - true_positives,
        }
    }

    /// Adds another sequence's counts.
    pub fn add(&mut self, other: &Self) {
        self.true_positives += other.true_positives;
        self.false_negatives += other.false_negatives;
        self.false_positives += other.false_positives;
    }

    /// Harmonic mean of [`Identity::idp`] and [`Identity::idr`].
    pub fn idf1(&self) -> f64 {
        let half_errors = 0.5 * (self.false_positives + self.false_negatives) as f64;
        let right = self.true_positives as f64;
        right / (right + half_errors).max(1.0)
    }

    /// Part of the tracks' boxes with the right identity.
    pub fn idp(&self) -> f64 {
        let all = (self.true_positives + self.false_positives) as f64;
        self.true_positives as f64 / all.max(1.0)
    }

    /// Part of the true boxes with the right identity.
    pub fn idr(&self) -> f64 {
        let all = (self.true_positives + self.false_negatives) as f64;
        self.true_positives as f64 / all.max(1.0)
    }
}
