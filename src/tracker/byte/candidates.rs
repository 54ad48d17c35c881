//! A frame's detections in the form that matching needs, sorted into good and poor ones.

use mtmc_models::{BBox, Detection, Embedding};

use super::super::kalman::Xywh;
use super::super::overlap::Corners;
use super::super::{FrameDetections, MAX_DETECTIONS};
use super::Rules;

/// One detection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub corners: Corners,
    pub measurement: Xywh,
    pub score: f32,
    pub class: u32,
    /// Index in the frame.
    pub index: usize,
    /// It has an embedding that may be used.
    embedded: bool,
}

/// A frame's candidates; as they are matched, the rest moves on.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    /// Those with good scores.
    pub high: Vec<Candidate>,
    /// Those with poor scores.
    pub low: Vec<Candidate>,
}

/// What was left out of a frame.
pub(super) struct Dropped {
    pub detections: u64,
    pub embeddings: u64,
}

impl Candidate {
    /// A detection's numbers, widened; `None` if they are not finite or the box has no extent.
    fn new(index: usize, detection: &Detection) -> Option<Self> {
        let BBox { x1, y1, x2, y2 } = detection.bbox;
        // Sizes in f32 and all else in f64: what the references do with a detector's output.
        let (width, height) = (x2 - x1, y2 - y1);
        let finite = [x1, y1, width, height, detection.score]
            .iter()
            .all(|v| v.is_finite());
        if !finite || width <= 0.0 || height <= 0.0 {
            return None;
        }
        let [left, top, width, height] = [x1, y1, width, height].map(f64::from);
        Some(Self {
            corners: [left, top, left + width, top + height],
            measurement: [left + width / 2.0, top + height / 2.0, width, height],
            score: detection.score,
            class: detection.class,
            index,
            embedded: false,
        })
    }

    /// Its embedding, among those of its frame.
    pub fn embedding<'a>(&self, embeddings: &'a [Option<Embedding>]) -> Option<&'a Embedding> {
        if !self.embedded {
            return None;
        }
        embeddings.get(self.index)?.as_ref()
    }
}

impl Candidates {
    /// Takes the frame's detections. Of those with good scores the embeddings count, if they are
    /// of size `dim`; without a size the first one sets it.
    pub fn take(
        &mut self,
        rules: &Rules,
        frame: &FrameDetections,
        mut dim: Option<usize>,
    ) -> Dropped {
        self.high.clear();
        self.low.clear();
        let detections = &frame.detections;
        let mut dropped = Dropped {
            detections: detections.len().saturating_sub(MAX_DETECTIONS) as u64,
            embeddings: 0,
        };
        let best = (detections.len() > MAX_DETECTIONS).then(|| best_by_score(detections));
        for place in 0..detections.len().min(MAX_DETECTIONS) {
            let index = best.as_ref().map_or(place, |best| best[place]);
            let Some(mut candidate) = Candidate::new(index, &detections[index]) else {
                dropped.detections += 1;
                continue;
            };
            if candidate.score > rules.high_thresh {
                let embedding = frame.embeddings.get(index).and_then(Option::as_ref);
                if let (Some(embedding), Some(_)) = (embedding, &rules.appearance) {
                    candidate.embedded = *dim.get_or_insert(embedding.dim()) == embedding.dim();
                    dropped.embeddings += u64::from(!candidate.embedded);
                }
                self.high.push(candidate);
            } else if candidate.score > rules.low_thresh && candidate.score < rules.high_thresh {
                self.low.push(candidate);
            }
        }
        dropped
    }
}

/// Indices of the [`MAX_DETECTIONS`] detections with the best scores, in the frame's order.
fn best_by_score(detections: &[Detection]) -> Vec<usize> {
    let score = |i: usize| {
        let score = detections[i].score;
        if score.is_finite() {
            score
        } else {
            f32::NEG_INFINITY
        }
    };
    let mut best: Vec<usize> = (0..detections.len()).collect();
    best.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    best.truncate(MAX_DETECTIONS);
    best.sort_unstable();
    best
}
