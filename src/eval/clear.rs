//! CLEAR MOT (Bernardin and Stiefelhagen 2008, doi:10.1155/2008/246309): frame by frame, boxes are
//! matched at an IoU of 0.5, keeping last frame's pairs where they still hold.

use super::{EPS, EvalSequence, best_pairs};

/// IoU from which a track's box may stand for a true one.
const THRESHOLD: f64 = 0.5;

/// What makes keeping last frame's pair outweigh any overlap.
const CONTINUITY: f64 = 1000.0;

/// Counts of a sequence; ratios are computed from their sums.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Clear {
    /// Matched boxes.
    pub true_positives: u64,
    /// True boxes without a track.
    pub false_negatives: u64,
    /// Tracks' boxes that stand for nothing.
    pub false_positives: u64,
    /// Matches with another track than the true identity had before.
    pub id_switches: u64,
    /// Identities tracked in more than 80 % of their frames.
    pub mostly_tracked: u64,
    /// Identities tracked in 20 % to 80 %.
    pub partly_tracked: u64,
    /// Identities tracked in less than 20 %.
    pub mostly_lost: u64,
    /// How often a tracked identity was lost and found again.
    pub fragmentations: u64,
    /// Sum of the matches' IoU.
    pub overlap_sum: f64,
    /// Frames.
    pub frames: u64,
}

impl Clear {
    /// Measures one sequence.
    pub fn of(sequence: &EvalSequence) -> Self {
        let mut state = Matching::new(sequence);
        for frame in &sequence.frames {
            state.step(frame);
        }
        state.finish(sequence.frames.len() as u64)
    }

    /// Adds another sequence's counts.
    pub fn add(&mut self, other: &Self) {
        self.true_positives += other.true_positives;
        self.false_negatives += other.false_negatives;
        self.false_positives += other.false_positives;
        self.id_switches += other.id_switches;
        self.mostly_tracked += other.mostly_tracked;
        self.partly_tracked += other.partly_tracked;
        self.mostly_lost += other.mostly_lost;
        self.fragmentations += other.fragmentations;
        self.overlap_sum += other.overlap_sum;
        self.frames += other.frames;
    }

    fn truths(&self) -> f64 {
        ((self.true_positives + self.false_negatives) as f64).max(1.0)
    }

    /// 1 less all errors by the number of true boxes; may be negative.
    pub fn mota(&self) -> f64 {
        let errors = self.false_positives as f64 + self.id_switches as f64;
        (self.true_positives as f64 - errors) / self.truths()
    }

    /// [`Clear::mota`] without identity switches.
    pub fn moda(&self) -> f64 {
        (self.true_positives as f64 - self.false_positives as f64) / self.truths()
    }

    /// [`Clear::mota`] less the missing overlap of the matches.
    pub fn smota(&self) -> f64 {
        let errors = self.false_positives as f64 + self.id_switches as f64;
        (self.overlap_sum - errors) / self.truths()
    }

    /// Mean IoU of the matches.
    pub fn motp(&self) -> f64 {
        self.overlap_sum / (self.true_positives as f64).max(1.0)
    }

    /// Part of the true boxes that were found.
    pub fn recall(&self) -> f64 {
        self.true_positives as f64 / self.truths()
    }

    /// Part of the tracks' boxes that were right.
    pub fn precision(&self) -> f64 {
        let all = (self.true_positives + self.false_positives) as f64;
        self.true_positives as f64 / all.max(1.0)
    }
}

/// What is remembered from frame to frame.
struct Matching {
    clear: Clear,
    seen: Vec<u64>,
    matched: Vec<u64>,
    fragments: Vec<u64>,
    /// The track that an identity had last, whenever that was.
    last: Vec<Option<usize>>,
    /// The track that an identity had in the last frame that held both kinds of boxes.
    previous: Vec<Option<usize>>,
}

impl Matching {
    fn new(sequence: &EvalSequence) -> Self {
        Self {
            clear: Clear::default(),
            seen: vec![0; sequence.truths],
            matched: vec![0; sequence.truths],
            fragments: vec![0; sequence.truths],
            last: vec![None; sequence.truths],
            previous: vec![None; sequence.truths],
        }
    }

    fn step(&mut self, frame: &super::EvalFrame) {
        for &truth in &frame.truth {
            self.seen[truth] += 1;
        }
        // The official evaluation lets such frames pass without breaking a pair.
        if frame.truth.is_empty() || frame.track.is_empty() {
            self.clear.false_positives += frame.track.len() as u64;
            self.clear.false_negatives += frame.truth.len() as u64;
            return;
        }
        let mut scores = Vec::with_capacity(frame.similarity.len());
        for (row, &truth) in frame.truth.iter().enumerate() {
            for (column, &track) in frame.track.iter().enumerate() {
                let overlap = frame.similarity(row, column);
                let kept = self.previous[truth] == Some(track);
                let score = if kept { CONTINUITY + overlap } else { overlap };
                scores.push(if overlap < THRESHOLD - EPS {
                    0.0
                } else {
                    score
                });
            }
        }
        let pairs = best_pairs(&scores, frame.track.len());
        let before: Vec<Option<usize>> =
            std::mem::replace(&mut self.previous, vec![None; self.seen.len()]);
        for &(row, column) in &pairs {
            let (truth, track) = (frame.truth[row], frame.track[column]);
            if self.last[truth].is_some_and(|last| last != track) {
                self.clear.id_switches += 1;
            }
            if before[truth].is_none() {
                self.fragments[truth] += 1;
            }
            self.last[truth] = Some(track);
            self.previous[truth] = Some(track);
            self.matched[truth] += 1;
            self.clear.overlap_sum += frame.similarity(row, column);
        }
        let matches = pairs.len() as u64;
        self.clear.true_positives += matches;
        self.clear.false_negatives += frame.truth.len() as u64 - matches;
        self.clear.false_positives += frame.track.len() as u64 - matches;
    }

    fn finish(mut self, frames: u64) -> Clear {
        for (seen, matched) in self.seen.iter().zip(&self.matched) {
            let ratio = *matched as f64 / *seen as f64;
            if ratio > 0.8 {
                self.clear.mostly_tracked += 1;
            } else if ratio >= 0.2 {
                self.clear.partly_tracked += 1;
            } else {
                self.clear.mostly_lost += 1;
            }
        }
        let breaks = self.fragments.iter().map(|count| count.saturating_sub(1));
        self.clear.fragmentations = breaks.sum();
        self.clear.frames = frames;
        self.clear
    }
}
