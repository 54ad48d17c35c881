//! HOTA with identities matched once for all: the variant of `reid-hota` (NIST,
//! github.com/usnistgov/reid_hota, 0.3.6) for identities that must hold across cameras.
//!
//! HOTA proper matches boxes frame by frame, so that a person who is two tracks has matches with
//! both. Here each true identity gets one track over all frames and cameras, or none, so that their
//! Jaccard indices sum up to the most; matches with any other track are errors of detection. A
//! second track of a person thus costs DetA more than AssA.

use super::super::hota::{ALPHAS, Alignment, Hota};
use super::super::{EvalFrame, EvalSequence, Matcher};

/// Below this sum of overlaps a pair has no share, in `reid-hota`.
const LEAST_SUM: f64 = 1e-8;

impl Hota {
    /// Measures one sequence with identities matched once for all.
    ///
    /// Equal to `reid-hota` with `id_alignment_method="global"`,
    /// `reference_contains_dense_annotations=True` and this project's thresholds, but that LocA is 1
    /// rather than 0 at thresholds without a match.
    pub fn aligned(sequence: &EvalSequence) -> Self {
        let alignment = Alignment::by(sequence, share);
        let track_of = one_to_one(&alignment, sequence.tracks);
        let mut hota = Self {
            loc_a: [0.0; ALPHAS],
            ..Self::default()
        };
        let mut matches = vec![[0_u32; ALPHAS]; alignment.index.len()];
        for frame in &sequence.frames {
            for (row, &truth) in frame.truth.iter().enumerate() {
                let Some((track, pair)) = track_of[truth] else {
                    continue;
                };
                if let Some(column) = frame.track.iter().position(|&id| id == track) {
                    hota.take(frame.similarity(row, column), &mut matches[pair]);
                }
            }
        }
        let (truths, tracks) = sequence.boxes();
        hota.false_negatives = hota.true_positives.map(|matched| truths as f64 - matched);
        hota.false_positives = hota.true_positives.map(|matched| tracks as f64 - matched);
        hota.associate(&alignment, &matches);
        hota
    }

    /// F1 of the matches at every threshold: of [`Hota::aligned`] `reid-hota`'s IDF1, which is not
    /// quite Identity's, since its identities are matched by overlap and not by boxes.
    pub fn f1(&self) -> [f64; ALPHAS] {
        std::array::from_fn(|i| {
            let half_errors = 0.5 * (self.false_negatives[i] + self.false_positives[i]);
            let right = self.true_positives[i];
            right / (right + half_errors).max(1.0)
        })
    }
}

/// The only two of a frame keep their overlap; among more, it is shared out. So in `reid-hota`.
fn share(frame: &EvalFrame, overlap: f64, all: f64) -> f64 {
    if frame.truth.len() == 1 && frame.track.len() == 1 {
        return overlap;
    }
    if all > LEAST_SUM { overlap / all } else { 0.0 }
}

/// For each true identity its track and the number of the pair.
fn one_to_one(alignment: &Alignment, tracks: usize) -> Vec<Option<(usize, usize)>> {
    let index = &alignment.index;
    let rows = index.rows().iter().map(|row| {
        let scored = row.iter();
        scored.map(|&(track, pair)| (track, alignment.score[pair]))
    });
    let mut matcher = Matcher::default();
    let mut track_of = vec![None; index.rows().len()];
    for &(truth, track) in matcher.best_sparse_pairs(tracks, rows) {
        track_of[truth] = index.get(truth, track).map(|pair| (track, pair));
    }
    track_of
}
