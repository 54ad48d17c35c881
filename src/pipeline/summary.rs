//! What a run did and how long each station took.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::source::SkippedFrame;

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Frames of all cameras.
    pub frames: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Frames of all cameras a second.
    pub frames_per_second: f64,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
    /// Time of the stations.
    pub stages: Stages,
    /// Each camera.
    pub cameras: Vec<CameraSummary>,
}

/// One camera.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CameraSummary {
    /// Its name.
    pub name: String,
    /// Frames tracked.
    pub frames: u64,
    /// Frames that could not be decoded.
    pub skipped: u64,
    /// The first of those, with the reason.
    pub skipped_frames: Vec<Skipped>,
    /// Detections above the detector's floor.
    pub detections: u64,
    /// Detections that the tracker could not use: numbers that are not finite, no extent, or
    /// beyond its limit.
    pub dropped_detections: u64,
    /// Embeddings made for the tracker.
    pub embeddings: u64,
    /// Embeddings that could not be made: nothing of the box inside the frame, or numbers that
    /// are not finite.
    pub refused_embeddings: u64,
    /// Different track IDs.
    pub tracks: u64,
    /// Why its source could not be read to the end.
    pub error: Option<String>,
}

/// A frame that could not be decoded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Skipped {
    /// Its number, from 1.
    pub number: u64,
    /// What was wrong.
    pub reason: String,
}

impl From<&SkippedFrame> for Skipped {
    fn from(frame: &SkippedFrame) -> Self {
        Self {
            number: frame.number,
            reason: frame.reason.clone(),
        }
    }
}

/// Milliseconds a frame that each station was busy; stations overlap.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stages {
    /// Reading and decoding.
    pub decode_ms: f64,
    /// Preprocessing, network, postprocessing.
    pub detect_ms: f64,
    /// Cropping and embedding.
    pub embed_ms: f64,
    /// Tracking.
    pub track_ms: f64,
    /// Identities, map and handoffs.
    pub world_ms: f64,
    /// Drawing, encoding, writing.
    pub write_ms: f64,
    #[serde(skip)]
    frames: u64,
}

impl Stages {
    /// Adds a camera's frames and its seconds in the stations, in the order of [`rows`](Self::rows).
    pub(super) fn add(&mut self, frames: u64, seconds: [f64; 6]) {
        let before = self.frames as f64;
        self.frames += frames;
        let after = (self.frames as f64).max(1.0);
        let fields = [
            &mut self.decode_ms,
            &mut self.detect_ms,
            &mut self.embed_ms,
            &mut self.track_ms,
            &mut self.world_ms,
            &mut self.write_ms,
        ];
        for (field, seconds) in fields.into_iter().zip(seconds) {
            *field = (*field * before + seconds * 1e3) / after;
        }
    }

    /// Name and milliseconds a frame of each station.
    pub fn rows(&self) -> [(&'static str, f64); 6] {
        [
            ("decode", self.decode_ms),
            ("detect", self.detect_ms),
            ("embed", self.embed_ms),
            ("track", self.track_ms),
            ("world", self.world_ms),
            ("write", self.write_ms),
        ]
    }
}

impl CameraSummary {
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_string(),
            ..Self::default()
        }
    }
}

impl Summary {
    pub(super) fn new(
        cameras: Vec<CameraSummary>,
        stages: Stages,
        elapsed: Duration,
        interrupted: bool,
    ) -> Self {
        let frames = cameras.iter().map(|camera| camera.frames).sum();
        let seconds = elapsed.as_secs_f64();
        Self {
            frames,
            seconds,
            frames_per_second: frames as f64 / seconds.max(1e-9),
            interrupted,
            stages,
            cameras,
        }
    }
}

/// How long one camera's stations were busy.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Seconds {
    pub(super) read: f64,
    pub(super) detect: f64,
    pub(super) embed: f64,
    pub(super) track: f64,
    pub(super) world: f64,
    pub(super) write: f64,
}

impl Seconds {
    /// In the order of [`Stages::rows`].
    pub(super) fn in_order(&self) -> [f64; 6] {
        [
            self.read,
            self.detect,
            self.embed,
            self.track,
            self.world,
            self.write,
        ]
    }
}

/// Which track IDs were seen: one bit each, since IDs count up from 1.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct IdSet {
    words: Vec<u64>,
}

impl IdSet {
    pub(super) fn insert(&mut self, id: u64) {
        let word = (id / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (id % 64);
    }

    pub(super) fn len(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: 10 frames in 1 s and 30 in 1 s are 50 ms a frame.
    #[test]
    fn stages_average_over_cameras_by_frames() {
        let mut stages = Stages::default();
        stages.add(10, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        stages.add(30, [1.0, 0.0, 0.0, 0.0, 0.0, 2.0]);
        assert!((stages.decode_ms - 50.0).abs() < 1e-9);
        assert!((stages.write_ms - 50.0).abs() < 1e-9);
    }
}
