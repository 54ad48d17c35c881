//! What a run did and how long each station took, as [`PipelineMetrics`](super::PipelineMetrics)
//! counted it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counts::{
    CameraSnapshot, CameraState, DroppedFrames, MetricsSnapshot, Performance, Stage,
};
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
    /// Time and counts a frame, in seconds; none if there was no frame.
    pub performance: Option<Performance>,
    /// Each camera.
    pub cameras: Vec<CameraSummary>,
}

/// One camera.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CameraSummary {
    /// Its name.
    pub name: String,
    /// Frames tracked.
    pub frames: u64,
    /// Frames that could not be decoded.
    pub skipped: u64,
    /// The first of those, with the reason.
    pub skipped_frames: Vec<Skipped>,
    /// Frames that were read and not tracked.
    pub dropped: DroppedFrames,
    /// How often its source was opened again after it failed.
    pub reconnects: u64,
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
    /// How it fared at the end.
    pub state: CameraState,
    /// Why its source could not be read to the end.
    pub error: Option<String>,
}

/// A frame that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

impl From<&CameraSnapshot> for CameraSummary {
    fn from(counted: &CameraSnapshot) -> Self {
        Self {
            name: counted.name.clone(),
            frames: counted.frames,
            skipped: counted.skipped,
            skipped_frames: counted.skipped_frames.clone(),
            dropped: counted.dropped,
            reconnects: counted.reconnects,
            detections: counted.detections,
            dropped_detections: counted.dropped_detections,
            embeddings: counted.embeddings,
            refused_embeddings: counted.refused_embeddings,
            tracks: counted.tracks,
            state: counted.state,
            error: counted.error.clone(),
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
}

impl Stages {
    fn of(counted: &MetricsSnapshot) -> Self {
        let milliseconds = |stage| counted.milliseconds_a_frame(&[stage]);
        Self {
            decode_ms: milliseconds(Stage::Read),
            detect_ms: milliseconds(Stage::Detect),
            embed_ms: milliseconds(Stage::Embed),
            track_ms: milliseconds(Stage::Track),
            world_ms: milliseconds(Stage::World),
            write_ms: milliseconds(Stage::Write),
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

impl Summary {
    pub(super) fn new(counted: &MetricsSnapshot, elapsed: Duration, interrupted: bool) -> Self {
        let frames = counted.frames();
        let seconds = elapsed.as_secs_f64();
        Self {
            frames,
            seconds,
            frames_per_second: frames as f64 / seconds.max(1e-9),
            interrupted,
            stages: Stages::of(counted),
            performance: counted.performance(),
            cameras: counted.cameras.iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PipelineMetrics;
    use super::*;

    // By hand: 10 frames of 100 ms and 30 in 1 s are 50 ms a frame.
    #[test]
    fn stages_average_over_the_frames_of_all_cameras() {
        let metrics = PipelineMetrics::new(["a", "b"]);
        for (camera, frames, seconds) in [(0, 10, 0.1), (1, 30, 1.0 / 30.0)] {
            for _ in 0..frames {
                metrics.cameras()[camera].frames.add(1);
                metrics.observe(Stage::Read, seconds);
            }
        }
        metrics.observe(Stage::Write, 2.0);
        let summary = Summary::new(&metrics.snapshot(), Duration::from_secs(4), false);
        assert!((summary.stages.decode_ms - 50.0).abs() < 1e-4);
        assert!((summary.stages.write_ms - 50.0).abs() < 1e-9);
        assert_eq!(summary.stages.world_ms, 0.0);
        assert_eq!((summary.frames, summary.frames_per_second), (40, 10.0));
    }
}
