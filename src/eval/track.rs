//! Trackers on what was detected in a benchmark's frames: from detections to tracks to figures,
//! without a network.

use std::ops::RangeInclusive;
use std::path::Path;

use super::EvalSequence;
use super::folder::Split;
use super::mot::{Benchmark, Boxes, prepare_frames};
use crate::sink::mot_line;
use crate::tracker::mot::MotError;
use crate::tracker::{FrameDetections, SettingError, Track, TrackerSettings};

/// Why tracks could not be made or measured.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// A tracker was asked for with a setting that makes no sense.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The tracker's own output cannot be read: more boxes in a frame than any benchmark has.
    #[error(transparent)]
    Output(#[from] MotError),
}

/// What there is of one sequence.
#[derive(Debug, Clone)]
pub struct SequenceInput {
    /// The sequence's name.
    pub name: String,
    /// Frames a second.
    pub frame_rate: f64,
    /// All frames in order, also the empty ones: frame n is at n - 1.
    pub frames: Vec<FrameDetections>,
    /// The truth.
    pub truth: Boxes,
}

impl SequenceInput {
    /// The frames of `split`, from 1.
    pub fn numbers(&self, split: Split) -> RangeInclusive<u64> {
        split.frames(self.frames.len() as u64)
    }

    /// Runs a tracker over the frames of `split`, hands every frame's number and tracks to `each`.
    ///
    /// The tracker begins anew with the split's first frame, as published runs on halves do; its
    /// `frame_rate` is set to the sequence's.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn track(
        &self,
        settings: &TrackerSettings,
        split: Split,
        mut each: impl FnMut(u64, &[Track]),
    ) -> Result<(), SettingError> {
        let mut tracker = settings.at_rate(self.frame_rate).build()?;
        for number in self.numbers(split) {
            if let Some(frame) = self.frames.get(number as usize - 1) {
                each(number, &tracker.update(frame));
            }
        }
        Ok(())
    }

    /// The tracks as MOT Challenge text, frames numbered as in the whole sequence.
    ///
    /// # Errors
    /// As [`SequenceInput::track`].
    pub fn track_text(
        &self,
        settings: &TrackerSettings,
        split: Split,
    ) -> Result<String, SettingError> {
        let mut text = String::new();
        self.track(settings, split, |number, tracks| {
            for track in tracks {
                text.push_str(&mot_line(number, track));
            }
        })?;
        Ok(text)
    }

    /// Ready to be measured: exactly what [`track_text`](Self::track_text) says, with its two
    /// decimals, so that measuring a written file gives the same figures.
    ///
    /// # Errors
    /// The text is not what a reader of tracks takes.
    pub fn prepare(
        &self,
        text: &str,
        benchmark: Benchmark,
        split: Split,
    ) -> Result<EvalSequence, TrackError> {
        let name = format!("{}.txt", self.name);
        let tracks = Boxes::parse(text.as_bytes(), Path::new(&name))?;
        let numbers = self.numbers(split);
        Ok(prepare_frames(&self.truth, &tracks, benchmark, numbers))
    }
}
