//! CLEAR MOT (Bernardin and Stiefelhagen 2008, doi:10.1155/2008/246309): frame by frame, boxes are
//! matched at an IoU of 0.5, keeping last frame's pairs where they still hold.
//!
//! The two official tools differ in small print ([`Rules`]): TrackEval (Python) decides what MOT
//! Challenge publishes today, the MOT15 devkit (MATLAB) what it published then. On the five
//! sequences whose devkit figures are known, the devkit's rules as they stand here meet all of
//! them; TrackEval's miss some on PETS09-S2L1, where people leave the picture and come back.

use super::{EPS, EvalFrame, EvalSequence, Matcher};

/// Whose small print applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Rules {
    /// TrackEval's: the overlap of all pairs is maximised together; a frame that holds no truth or
    /// no track lets pairs live on; a switch is counted however long the person was away
    #[default]
    #[value(name = "trackeval")]
    TrackEval,
    /// The MOT15 devkit's: as many pairs as possible are made; every frame counts; a switch is
    /// counted only if the person was there in the frame before
    #[value(name = "devkit")]
    Devkit,
}

/// IoU from which a track's box may stand for a true one.
const THRESHOLD: f64 = 0.5;

/// What makes keeping last frame's pair outweigh any overlap.
const CONTINUITY: f64 = 1000.0;

/// What makes one more pair outweigh any overlap, under the devkit's rules.
const ONE_MORE: f64 = 10.0;

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
    /// Whose small print was applied.
    pub rules: Rules,
}

impl Clear {
    /// Measures one sequence by `rules`.
    pub fn of(sequence: &EvalSequence, rules: Rules) -> Self {
        Self::with_matches(sequence, rules, |_, _, _| {})
    }

    /// As [`Clear::of`], handing over every match in order of frames: frame (from 0), true identity,
    /// track.
    pub(super) fn with_matches(
        sequence: &EvalSequence,
        rules: Rules,
        mut matched: impl FnMut(usize, usize, usize),
    ) -> Self {
        let mut state = Matching::new(sequence, rules);
        for (number, frame) in sequence.frames.iter().enumerate() {
            let before = state.clear.true_positives;
            state.step(frame);
            if state.clear.true_positives == before {
                continue;
            }
            for &truth in &state.previous_truths {
                if let Some(track) = state.previous[truth] {
                    matched(number, truth, track);
                }
            }
        }
        state.finish()
    }

    /// Adds another sequence's counts, whose rules are taken over.
    pub fn add(&mut self, other: &Self) {
        self.rules = other.rules;
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

    /// 1 less all errors by the number of true boxes; may be negative. 0 where there is no truth,
    /// as in TrackEval, and so for the other ratios.
    pub fn mota(&self) -> f64 {
        if self.true_positives + self.false_negatives == 0 {
            return 0.0;
        }
        let errors = self.false_positives as f64 + self.id_switches as f64;
        (self.true_positives as f64 - errors) / self.truths()
    }

    /// [`Clear::mota`] with the logarithm (base 10) of the number of switches in its place; the
    /// devkit adds 1 before, TrackEval takes 0 for none.
    pub fn motal(&self) -> f64 {
        let switches = self.id_switches as f64;
        let logarithm = match self.rules {
            Rules::Devkit => (switches + 1.0).log10(),
            Rules::TrackEval => switches.max(1.0).log10(),
        };
        self.moda() - logarithm / self.truths()
    }

    /// [`Clear::mota`] without identity switches.
    pub fn moda(&self) -> f64 {
        if self.true_positives + self.false_negatives == 0 {
            return 0.0;
        }
        (self.true_positives as f64 - self.false_positives as f64) / self.truths()
    }

    /// [`Clear::mota`] less the missing overlap of the matches.
    pub fn smota(&self) -> f64 {
        if self.true_positives + self.false_negatives == 0 {
            return 0.0;
        }
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

    /// Harmonic mean of [`Clear::recall`] and [`Clear::precision`].
    pub fn f1(&self) -> f64 {
        let half_errors = 0.5 * (self.false_positives + self.false_negatives) as f64;
        let right = self.true_positives as f64;
        right / (right + half_errors).max(1.0)
    }

    /// False alarms a frame.
    pub fn false_positives_per_frame(&self) -> f64 {
        self.false_positives as f64 / (self.frames as f64).max(1.0)
    }

    /// Parts of the identities that are mostly tracked, partly tracked, mostly lost.
    pub fn tracked_ratios(&self) -> [f64; 3] {
        let counts = [self.mostly_tracked, self.partly_tracked, self.mostly_lost];
        let all = counts.iter().sum::<u64>() as f64;
        counts.map(|count| count as f64 / all.max(1.0))
    }
}

/// What is remembered from frame to frame.
struct Matching {
    clear: Clear,
    matcher: Matcher,
    /// Boxes of each identity.
    seen: Vec<u64>,
    /// Those of them that were matched.
    matched: Vec<u64>,
    /// How often each identity came to be tracked.
    fragments: Vec<u64>,
    /// The track that an identity had last, whenever that was.
    last: Vec<Option<usize>>,
    /// The track that an identity had in the last frame that counts.
    previous: Vec<Option<usize>>,
    /// Identities that are in `previous`.
    previous_truths: Vec<usize>,
    /// The latest frame's number, from 1, in which an identity was there.
    present: Vec<u64>,
}

impl Matching {
    fn new(sequence: &EvalSequence, rules: Rules) -> Self {
        Self {
            clear: Clear {
                rules,
                ..Clear::default()
            },
            matcher: Matcher::default(),
            seen: vec![0; sequence.truths],
            matched: vec![0; sequence.truths],
            fragments: vec![0; sequence.truths],
            last: vec![None; sequence.truths],
            previous: vec![None; sequence.truths],
            previous_truths: Vec::new(),
            present: vec![0; sequence.truths],
        }
    }

    fn step(&mut self, frame: &EvalFrame) {
        self.clear.frames += 1;
        for &truth in &frame.truth {
            self.seen[truth] += 1;
        }
        let one_sided = frame.truth.is_empty() || frame.track.is_empty();
        if one_sided && self.clear.rules == Rules::TrackEval {
            // Such frames pass there without breaking a pair.
            self.clear.false_positives += frame.track.len() as u64;
            self.clear.false_negatives += frame.truth.len() as u64;
            return;
        }
        self.take_pairs(frame);
        for &truth in &frame.truth {
            self.present[truth] = self.clear.frames;
        }
    }

    fn take_pairs(&mut self, frame: &EvalFrame) {
        let base = match self.clear.rules {
            Rules::TrackEval => 0.0,
            Rules::Devkit => ONE_MORE,
        };
        let previous = &self.previous;
        let score = |row: usize, column: usize| {
            let overlap = frame.similarity(row, column);
            if overlap < THRESHOLD - EPS {
                return 0.0;
            }
            let kept = previous[frame.truth[row]] == Some(frame.track[column]);
            overlap + if kept { CONTINUITY } else { base }
        };
        let (rows, columns) = (frame.truth.len(), frame.track.len());
        let pairs = self.matcher.best_pairs(rows, columns, score);
        let before: Vec<usize> = std::mem::take(&mut self.previous_truths);
        for &(row, column) in pairs {
            let (truth, track) = (frame.truth[row], frame.track[column]);
            let there_before = self.present[truth] + 1 == self.clear.frames;
            let counted = there_before || self.clear.rules == Rules::TrackEval;
            if counted && self.last[truth].is_some_and(|last| last != track) {
                self.clear.id_switches += 1;
            }
            if self.previous[truth].is_none() {
                self.fragments[truth] += 1;
            }
            self.last[truth] = Some(track);
            self.matched[truth] += 1;
            self.clear.overlap_sum += frame.similarity(row, column);
            self.previous_truths.push(truth);
        }
        for truth in before {
            self.previous[truth] = None;
        }
        for &truth in &self.previous_truths {
            self.previous[truth] = self.last[truth];
        }
        let matches = self.previous_truths.len() as u64;
        self.clear.true_positives += matches;
        self.clear.false_negatives += rows as u64 - matches;
        self.clear.false_positives += columns as u64 - matches;
    }

    fn finish(mut self) -> Clear {
        for (seen, matched) in self.seen.iter().zip(&self.matched) {
            let ratio = *matched as f64 / (*seen as f64).max(1.0);
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
        self.clear
    }
}
