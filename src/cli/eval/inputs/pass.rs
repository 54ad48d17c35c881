//! One pass through a sequence's pictures for everything that is to be computed from them.

use mtmc_models::{DetectOptions, Detection, Detector as _, LoadedDetector, LoadedEmbedder};

use super::work::{Missing, Work};
use crate::reid::{Request, embed};
use crate::source::{Frame, FrameSource};
use crate::tracker::camera_motion::{CameraMotion, MotionEstimator, MotionSettings};

/// Detections from this score on count as people when the camera's motion is looked for.
pub(super) const PEOPLE_FROM: f32 = 0.5;

/// One pass through a sequence's pictures.
pub(super) struct Pass<'a> {
    detector: Option<&'a (LoadedDetector, DetectOptions)>,
    embedder: Option<(&'a LoadedEmbedder, f32)>,
    estimator: Option<MotionEstimator>,
    /// By frame: found here, or known before.
    pub(super) detections: Vec<Vec<Detection>>,
    /// One a detection of the frames so far.
    pub(super) embeddings: Vec<Option<mtmc_models::Embedding>>,
    pub(super) motion: Vec<CameraMotion>,
    /// Frames that were gone through.
    done: usize,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        work: &'a Work<'_>,
        missing: &Missing,
        known: Option<Vec<Vec<Detection>>>,
    ) -> anyhow::Result<Self> {
        let detector = match missing.detections {
            Some(_) => Some(work.detector()?),
            None => None,
        };
        let embedder = match missing.embeddings {
            Some(_) => Some((work.embedder()?, work.args.embed_above)),
            None => None,
        };
        let estimator = match missing.motion {
            Some((_, method)) => Some(MotionEstimator::new(method, MotionSettings::default())?),
            None => None,
        };
        Ok(Self {
            detector,
            embedder,
            estimator,
            detections: known.unwrap_or_default(),
            embeddings: Vec::new(),
            motion: Vec::new(),
            done: 0,
        })
    }

    /// Takes in the next frames.
    pub(super) fn take(&mut self, frames: &[Frame]) -> anyhow::Result<()> {
        if let Some((detector, options)) = self.detector {
            let images: Vec<_> = frames.iter().map(|frame| &frame.image).collect();
            let lists = detector.detect(&images, options)?;
            for (frame, list) in frames.iter().zip(lists) {
                // Frames that could not be read before this one are there, and empty.
                self.detections
                    .resize(frame.number as usize - 1, Vec::new());
                self.detections.push(list);
            }
        }
        self.embed(frames)?;
        for frame in frames {
            self.done = frame.number as usize;
            let Some(estimator) = &mut self.estimator else {
                continue;
            };
            let list = self.detections.get(self.done - 1);
            let people = list
                .into_iter()
                .flatten()
                .filter(|d| d.score >= PEOPLE_FROM);
            let people: Vec<_> = people.map(|detection| detection.bbox).collect();
            self.motion.resize(self.done - 1, CameraMotion::STILL);
            self.motion.push(estimator.next(&frame.image, &people));
        }
        Ok(())
    }

    /// Embeds the frames' detections in one batch.
    fn embed(&mut self, frames: &[Frame]) -> anyhow::Result<()> {
        let Some((embedder, above)) = self.embedder else {
            return Ok(());
        };
        let list = |number: usize| {
            self.detections
                .get(number - 1)
                .map_or(&[][..], Vec::as_slice)
        };
        let requests: Vec<Request<'_>> = frames
            .iter()
            .map(|frame| Request {
                image: &frame.image,
                detections: list(frame.number as usize),
                above: Some(above),
            })
            .collect();
        let mut last = self.done;
        for (frame, embedded) in frames.iter().zip(embed(embedder, &requests)?) {
            let number = frame.number as usize;
            for skipped in last + 1..number {
                let count = self.embeddings.len() + list(skipped).len();
                self.embeddings.resize(count, None);
            }
            self.embeddings.extend(embedded.embeddings);
            last = number;
        }
        Ok(())
    }
}

pub(super) fn batch(source: &mut dyn FrameSource, size: usize) -> anyhow::Result<Vec<Frame>> {
    let mut frames = Vec::with_capacity(size);
    while frames.len() < size {
        match source.next_frame()? {
            Some(frame) => frames.push(frame),
            None => break,
        }
    }
    Ok(frames)
}
