//! Higher Order Tracking Accuracy (Luiten et al. 2020, doi:10.1007/s11263-020-01375-2): detection
//! and association in balance, over 19 thresholds of localisation.

use super::{EPS, EvalSequence, best_pairs};

/// Number of thresholds: 0.05, 0.10 … 0.95.
pub const ALPHAS: usize = 19;

/// Figures at every threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hota {
    /// Matched boxes.
    pub true_positives: [f64; ALPHAS],
    /// True boxes without a match.
    pub false_negatives: [f64; ALPHAS],
    /// Tracks' boxes without a match.
    pub false_positives: [f64; ALPHAS],
    /// Association accuracy.
    pub ass_a: [f64; ALPHAS],
    /// Association recall.
    pub ass_re: [f64; ALPHAS],
    /// Association precision.
    pub ass_pr: [f64; ALPHAS],
    /// Mean IoU of the matches.
    pub loc_a: [f64; ALPHAS],
}

/// The threshold at an index.
pub fn alpha(index: usize) -> f64 {
    // As numpy's arange(0.05, 0.99, 0.05) rounds it.
    0.05 + index as f64 * 0.05
}

impl Default for Hota {
    fn default() -> Self {
        let zero = [0.0; ALPHAS];
        Self {
            true_positives: zero,
            false_negatives: zero,
            false_positives: zero,
            ass_a: zero,
            ass_re: zero,
            ass_pr: zero,
            loc_a: [1.0; ALPHAS],
        }
    }
}

/// Boxes of every identity, and how much they overlap in sum.
struct Alignment {
    truth_boxes: Vec<f64>,
    track_boxes: Vec<f64>,
    score: Vec<f64>,
}

fn align(sequence: &EvalSequence) -> Alignment {
    let mut truth_boxes = vec![0.0; sequence.truths];
    let mut track_boxes = vec![0.0; sequence.tracks];
    let mut score = vec![0.0; sequence.truths * sequence.tracks];
    for frame in &sequence.frames {
        let columns = frame.track.len();
        let mut row_sums = vec![0.0; frame.truth.len()];
        let mut column_sums = vec![0.0; columns];
        for (row, row_sum) in row_sums.iter_mut().enumerate() {
            for (column, column_sum) in column_sums.iter_mut().enumerate() {
                *row_sum += frame.similarity(row, column);
                *column_sum += frame.similarity(row, column);
            }
        }
        for (row, &truth) in frame.truth.iter().enumerate() {
            truth_boxes[truth] += 1.0;
            for (column, &track) in frame.track.iter().enumerate() {
                let overlap = frame.similarity(row, column);
                let all = row_sums[row] + column_sums[column] - overlap;
                if all > EPS {
                    score[truth * sequence.tracks + track] += overlap / all;
                }
            }
        }
        for &track in &frame.track {
            track_boxes[track] += 1.0;
        }
    }
    for (index, score) in score.iter_mut().enumerate() {
        let (truth, track) = (index / sequence.tracks, index % sequence.tracks);
        *score /= truth_boxes[truth] + track_boxes[track] - *score;
    }
    Alignment {
        truth_boxes,
        track_boxes,
        score,
    }
}

impl Hota {
    /// Measures one sequence.
    pub fn of(sequence: &EvalSequence) -> Self {
        let alignment = align(sequence);
        let pairs_size = sequence.truths * sequence.tracks;
        let mut hota = Self {
            loc_a: [0.0; ALPHAS],
            ..Self::default()
        };
        // How often each pair was matched, at every threshold.
        let mut matches = vec![[0_u32; ALPHAS]; pairs_size];
        let (mut truths, mut tracks) = (0.0, 0.0);
        for frame in &sequence.frames {
            let columns = frame.track.len();
            let mut scores = Vec::with_capacity(frame.similarity.len());
            for (row, &truth) in frame.truth.iter().enumerate() {
                for (column, &track) in frame.track.iter().enumerate() {
                    let aligned = alignment.score[truth * sequence.tracks + track];
                    scores.push(aligned * frame.similarity(row, column));
                }
            }
            let pairs = best_pairs(&scores, columns);
            for &(row, column) in &pairs {
                let overlap = frame.similarity(row, column);
                let pair = frame.truth[row] * sequence.tracks + frame.track[column];
                for (index, matches) in matches[pair].iter_mut().enumerate() {
                    if overlap >= alpha(index) - EPS {
                        *matches += 1;
                        hota.loc_a[index] += overlap;
                        hota.true_positives[index] += 1.0;
                    }
                }
            }
            truths += frame.truth.len() as f64;
            tracks += columns as f64;
        }
        hota.false_negatives = hota.true_positives.map(|matched| truths - matched);
        hota.false_positives = hota.true_positives.map(|matched| tracks - matched);
        hota.associate(sequence, &alignment, &matches);
        hota
    }

    fn associate(
        &mut self,
        sequence: &EvalSequence,
        alignment: &Alignment,
        matches: &[[u32; ALPHAS]],
    ) {
        for (pair, counts) in matches.iter().enumerate() {
            let truth = alignment.truth_boxes[pair / sequence.tracks];
            let track = alignment.track_boxes[pair % sequence.tracks];
            for (index, &count) in counts.iter().enumerate() {
                let count = f64::from(count);
                self.ass_a[index] += count * (count / (truth + track - count).max(1.0));
                self.ass_re[index] += count * (count / truth.max(1.0));
                self.ass_pr[index] += count * (count / track.max(1.0));
            }
        }
        for index in 0..ALPHAS {
            let all = self.true_positives[index].max(1.0);
            self.ass_a[index] /= all;
            self.ass_re[index] /= all;
            self.ass_pr[index] /= all;
            let matched = self.true_positives[index].max(1e-10);
            self.loc_a[index] = self.loc_a[index].max(1e-10) / matched;
        }
    }

    /// Puts sequences together: counts are added, ratios weighted by the matches behind them.
    pub fn combine(sequences: &[Self]) -> Self {
        let mut all = Self::default();
        for index in 0..ALPHAS {
            let sum = |value: fn(&Self) -> &[f64; ALPHAS]| -> f64 {
                sequences.iter().map(|s| value(s)[index]).sum()
            };
            let weighted = |value: fn(&Self) -> &[f64; ALPHAS]| -> f64 {
                let terms = sequences.iter();
                terms
                    .map(|s| value(s)[index] * s.true_positives[index])
                    .sum()
            };
            all.true_positives[index] = sum(|s| &s.true_positives);
            all.false_negatives[index] = sum(|s| &s.false_negatives);
            all.false_positives[index] = sum(|s| &s.false_positives);
            let matches = all.true_positives[index];
            all.ass_a[index] = weighted(|s| &s.ass_a) / matches.max(1.0);
            all.ass_re[index] = weighted(|s| &s.ass_re) / matches.max(1.0);
            all.ass_pr[index] = weighted(|s| &s.ass_pr) / matches.max(1.0);
            all.loc_a[index] = weighted(|s| &s.loc_a).max(1e-10) / matches.max(1e-10);
        }
        all
    }

    /// Detection accuracy at every threshold.
    pub fn det_a(&self) -> [f64; ALPHAS] {
        std::array::from_fn(|i| {
            let all = self.true_positives[i] + self.false_negatives[i] + self.false_positives[i];
            self.true_positives[i] / all.max(1.0)
        })
    }

    /// Detection recall at every threshold.
    pub fn det_re(&self) -> [f64; ALPHAS] {
        std::array::from_fn(|i| {
            let all = self.true_positives[i] + self.false_negatives[i];
            self.true_positives[i] / all.max(1.0)
        })
    }

    /// Detection precision at every threshold.
    pub fn det_pr(&self) -> [f64; ALPHAS] {
        std::array::from_fn(|i| {
            let all = self.true_positives[i] + self.false_positives[i];
            self.true_positives[i] / all.max(1.0)
        })
    }

    /// HOTA at every threshold: the geometric mean of detection and association accuracy.
    pub fn hota(&self) -> [f64; ALPHAS] {
        let det_a = self.det_a();
        std::array::from_fn(|i| (det_a[i] * self.ass_a[i]).sqrt())
    }
}

/// Mean over the thresholds: the single figure that is published.
pub fn mean(values: &[f64; ALPHAS]) -> f64 {
    values.iter().sum::<f64>() / ALPHAS as f64
}
