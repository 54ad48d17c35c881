//! Higher Order Tracking Accuracy (Luiten et al. 2020, doi:10.1007/s11263-020-01375-2): detection
//! and association in balance, over 19 thresholds of localisation.

use super::{EPS, EvalFrame, EvalSequence, Matcher, PairIndex};

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

/// In place of a pair's number: the two never overlap.
const NO_PAIR: usize = usize::MAX;

/// Boxes of every identity, and how well the pairs that ever overlap do so over all frames.
pub(super) struct Alignment {
    truth_boxes: Vec<f64>,
    track_boxes: Vec<f64>,
    pub(super) index: PairIndex,
    /// By the pair's number: 0..=1, the Jaccard index of the two identities.
    pub(super) score: Vec<f64>,
}

/// A pair's overlap as a part of all that the two overlap in the frame.
fn share_out(_: &EvalFrame, overlap: f64, all: f64) -> f64 {
    if all > EPS { overlap / all } else { 0.0 }
}

impl Alignment {
    fn of(sequence: &EvalSequence) -> Self {
        Self::by(sequence, share_out)
    }

    /// With `share` of a pair in a frame, 0..=1: of the frame, the pair's overlap, and the sum of the
    /// overlaps of both with anyone.
    pub(super) fn by(sequence: &EvalSequence, share: impl Fn(&EvalFrame, f64, f64) -> f64) -> Self {
        let mut alignment = Self {
            truth_boxes: vec![0.0; sequence.truths],
            track_boxes: vec![0.0; sequence.tracks],
            index: PairIndex::new(sequence.truths),
            score: Vec::new(),
        };
        for frame in &sequence.frames {
            alignment.add(frame, &share);
        }
        for (truth, row) in alignment.index.rows().iter().enumerate() {
            for &(track, pair) in row {
                let together = alignment.score[pair];
                let all = alignment.truth_boxes[truth] + alignment.track_boxes[track];
                alignment.score[pair] = together / (all - together);
            }
        }
        alignment
    }

    /// Adds each pair's share in this frame.
    fn add(&mut self, frame: &EvalFrame, share: &impl Fn(&EvalFrame, f64, f64) -> f64) {
        let mut row_sums = vec![0.0; frame.truth.len()];
        let mut column_sums = vec![0.0; frame.track.len()];
        for (row, row_sum) in row_sums.iter_mut().enumerate() {
            for (column, column_sum) in column_sums.iter_mut().enumerate() {
                *row_sum += frame.similarity(row, column);
                *column_sum += frame.similarity(row, column);
            }
        }
        for (row, &truth) in frame.truth.iter().enumerate() {
            self.truth_boxes[truth] += 1.0;
            for (column, &track) in frame.track.iter().enumerate() {
                let overlap = frame.similarity(row, column);
                let all = row_sums[row] + column_sums[column] - overlap;
                let part = share(frame, overlap, all);
                if part > 0.0 {
                    let pair = self.index.number(truth, track);
                    self.score.resize(self.index.len(), 0.0);
                    self.score[pair] += part;
                }
            }
        }
        for &track in &frame.track {
            self.track_boxes[track] += 1.0;
        }
    }
}

impl Hota {
    /// Measures one sequence.
    pub fn of(sequence: &EvalSequence) -> Self {
        let alignment = Alignment::of(sequence);
        let mut hota = Self {
            loc_a: [0.0; ALPHAS],
            ..Self::default()
        };
        // How often each pair was matched, at every threshold.
        let mut matches = vec![[0_u32; ALPHAS]; alignment.index.len()];
        let mut matcher = Matcher::default();
        // Numbers of the frame's pairs, so that each is looked up once.
        let mut numbers: Vec<usize> = Vec::new();
        for frame in &sequence.frames {
            numbers.clear();
            for (row, &truth) in frame.truth.iter().enumerate() {
                for (column, &track) in frame.track.iter().enumerate() {
                    let pair = if frame.similarity(row, column) > 0.0 {
                        alignment.index.get(truth, track)
                    } else {
                        None
                    };
                    numbers.push(pair.unwrap_or(NO_PAIR));
                }
            }
            let (rows, columns) = (frame.truth.len(), frame.track.len());
            let score = |row: usize, column: usize| {
                let pair = numbers[row * columns + column];
                let aligned = alignment.score.get(pair).copied().unwrap_or(0.0);
                aligned * frame.similarity(row, column)
            };
            for &(row, column) in matcher.best_pairs(rows, columns, score) {
                let pair = numbers[row * columns + column];
                if let Some(counts) = matches.get_mut(pair) {
                    hota.take(frame.similarity(row, column), counts);
                }
            }
        }
        let (truths, tracks) = sequence.boxes();
        hota.false_negatives = hota.true_positives.map(|matched| truths as f64 - matched);
        hota.false_positives = hota.true_positives.map(|matched| tracks as f64 - matched);
        hota.associate(&alignment, &matches);
        hota
    }

    /// Counts a match at every threshold that its overlap reaches.
    pub(super) fn take(&mut self, overlap: f64, counts: &mut [u32; ALPHAS]) {
        for (index, count) in counts.iter_mut().enumerate() {
            if overlap < alpha(index) - EPS {
                break;
            }
            *count += 1;
            self.loc_a[index] += overlap;
            self.true_positives[index] += 1.0;
        }
    }

    pub(super) fn associate(&mut self, alignment: &Alignment, matches: &[[u32; ALPHAS]]) {
        for (truth, row) in alignment.index.rows().iter().enumerate() {
            let truth_boxes = alignment.truth_boxes[truth];
            for &(track, pair) in row {
                let track_boxes = alignment.track_boxes[track];
                for (index, &count) in matches[pair].iter().enumerate() {
                    let count = f64::from(count);
                    let all = truth_boxes + track_boxes - count;
                    self.ass_a[index] += count * (count / all.max(1.0));
                    self.ass_re[index] += count * (count / truth_boxes.max(1.0));
                    self.ass_pr[index] += count * (count / track_boxes.max(1.0));
                }
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

    /// Open-world tracking accuracy at every threshold: HOTA with detection recall in place of
    /// detection accuracy. Older versions of TrackEval call it RHOTA.
    pub fn owta(&self) -> [f64; ALPHAS] {
        let det_re = self.det_re();
        std::array::from_fn(|i| (det_re[i] * self.ass_a[i]).sqrt())
    }
}

/// Mean over the thresholds: the single figure that is published.
pub fn mean(values: &[f64; ALPHAS]) -> f64 {
    values.iter().sum::<f64>() / ALPHAS as f64
}
