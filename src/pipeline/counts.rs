//! The numbers of a run at one moment, as plain data: what
//! [`PipelineMetrics::snapshot`](super::PipelineMetrics::snapshot) gives.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::HistogramSnapshot;
use super::summary::Skipped;

/// The stations of a run, and parts of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading and decoding, and waiting for a source that gives a frame now and then; of frames
    /// that were not dropped.
    Read,
    /// Preprocessing, network, postprocessing.
    Detect,
    /// Cropping and embedding for the trackers.
    Embed,
    /// Tracking, and telling the camera's motion.
    Track,
    /// Identities, map and handoffs: what follows `Write` here is part of it.
    World,
    /// Drawing, encoding, writing.
    Write,
    /// Cropping and embedding for the gallery.
    GalleryEmbed,
    /// Who is who.
    Association,
    /// Where on the map everyone is.
    Homography,
    /// Who goes from camera to camera.
    Handoff,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Read,
        Self::Detect,
        Self::Embed,
        Self::Track,
        Self::World,
        Self::Write,
        Self::GalleryEmbed,
        Self::Association,
        Self::Homography,
        Self::Handoff,
    ];
}

/// How a camera fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CameraState {
    /// It has given no frame yet.
    #[default]
    Waiting,
    /// Its frames are tracked.
    Running,
    /// The others go on without it: it gave no frame in time, or its source failed and is being
    /// opened again.
    Degraded,
    /// Its source came to its end.
    Ended,
    /// Its source failed for good.
    Failed,
}

impl CameraState {
    pub(super) const ALL: [Self; 5] = [
        Self::Waiting,
        Self::Running,
        Self::Degraded,
        Self::Ended,
        Self::Failed,
    ];
}

/// Frames that were read and not tracked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedFrames {
    /// Newer ones came while they waited: the program is slower than the camera.
    pub overrun: u64,
    /// They came when their time step was over.
    pub late: u64,
}

/// The length of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Now.
    pub now: u64,
    /// At most so far.
    pub most: u64,
}

/// The counters of a run at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricsSnapshot {
    /// Each camera, in the order of the run.
    pub cameras: Vec<CameraSnapshot>,
    /// Time steps.
    pub steps: u64,
    /// Milliseconds of a frame in the networks, its tracker and the world; networks work on batches,
    /// a frame's share is counted.
    pub frame_time: HistogramSnapshot,
    /// Milliseconds a frame in each station.
    pub stages: BTreeMap<Stage, HistogramSnapshot>,
    /// How tracks came to their identities, each track counted in each frame.
    pub associations: Associations,
    /// What became of handoffs.
    pub handoffs: Handoffs,
    /// How many people the galleries hold.
    pub gallery: GallerySizes,
}

/// One camera's counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CameraSnapshot {
    /// Its name.
    pub name: String,
    /// How it fares.
    pub state: CameraState,
    /// Why its source could not be read on.
    pub error: Option<String>,
    /// Frames that its source gave in this run, those among them that an earlier run did.
    pub read: u64,
    /// Frames tracked.
    pub frames: u64,
    /// Frames that could not be decoded.
    pub skipped: u64,
    /// The first of those.
    pub skipped_frames: Vec<Skipped>,
    /// Frames that were read and not tracked.
    pub dropped: DroppedFrames,
    /// How often its source was opened again.
    pub reconnects: u64,
    /// Number of the last frame that was tracked; 0 before the first.
    pub last_frame: u64,
    /// Detections above the detector's floor.
    pub detections: u64,
    /// Those of them that are reported.
    pub reported_detections: u64,
    /// Those of them that the tracker could not use.
    pub dropped_detections: u64,
    /// Embeddings made.
    pub embeddings: u64,
    /// Embeddings that could not be made.
    pub refused_embeddings: u64,
    /// Tracks, each counted in each frame.
    pub tracked: u64,
    /// Different track IDs.
    pub tracks: u64,
    /// Frames that were read and wait for the networks.
    pub frames_waiting: Waiting,
    /// Frames whose results wait to be written.
    pub results_waiting: Waiting,
}

/// How tracks came to their identities ([`AssociationType`](crate::gallery::AssociationType)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the variants of AssociationType
pub struct Associations {
    pub continued: u64,
    pub matched: u64,
    pub returned: u64,
    pub split: u64,
    pub new: u64,
    pub pending: u64,
}

/// What became of handoffs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoffs {
    /// Begun.
    pub triggered: u64,
    /// The person was seen at another camera.
    pub completed: u64,
    /// Nobody came in time.
    pub timed_out: u64,
    /// The person went back into the picture.
    pub returned: u64,
    /// Given up because too many were waited for.
    pub crowded: u64,
}

/// How many people the galleries hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GallerySizes {
    /// Seen now or a moment ago.
    pub main: u64,
    /// Out of sight, and to be known again.
    pub lost: u64,
}

/// The requirement document's numbers; times are in seconds a frame, a batch's shared out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    /// Detection, re-identification, tracking and the world.
    pub avg_frame_time: f64,
    /// The slowest frame.
    pub max_frame_time: f64,
    /// The fastest frame.
    pub min_frame_time: f64,
    /// Frames a second that this time would allow: `1 / avg_frame_time`. Reading and writing go on
    /// beside it.
    pub fps_estimate: f64,
    /// Detections that are reported.
    pub avg_detections_per_frame: f64,
    /// Tracks.
    pub avg_tracks_per_frame: f64,
    /// Detection.
    pub detection_time_avg: f64,
    /// Tracking.
    pub tracking_time_avg: f64,
    /// Embedding, for trackers and gallery, and association.
    pub reid_time_avg: f64,
    /// Projection to the map.
    pub homography_time_avg: f64,
}

impl MetricsSnapshot {
    /// Frames tracked, all cameras together.
    pub fn frames(&self) -> u64 {
        self.cameras.iter().map(|camera| camera.frames).sum()
    }

    /// Milliseconds a frame that some stations took together, over all frames tracked; 0 before the
    /// first.
    pub fn milliseconds_a_frame(&self, stages: &[Stage]) -> f64 {
        let stages = stages.iter().filter_map(|stage| self.stages.get(stage));
        let sum: f64 = stages.map(|stage| stage.sum_ms).sum();
        sum / (self.frames() as f64).max(1.0)
    }

    /// The requirement document's numbers; `None` before the first frame.
    pub fn performance(&self) -> Option<Performance> {
        let frames = self.frames();
        if frames == 0 || self.frame_time.count == 0 {
            return None;
        }
        let seconds = |stages: &[Stage]| self.milliseconds_a_frame(stages) / 1e3;
        let a_frame = |count: fn(&CameraSnapshot) -> u64| {
            self.cameras.iter().map(count).sum::<u64>() as f64 / frames as f64
        };
        let average = self.frame_time.sum_ms / self.frame_time.count as f64 / 1e3;
        Some(Performance {
            avg_frame_time: average,
            max_frame_time: self.frame_time.max_ms / 1e3,
            min_frame_time: self.frame_time.min_ms / 1e3,
            fps_estimate: if average > 0.0 { 1.0 / average } else { 0.0 },
            avg_detections_per_frame: a_frame(|camera| camera.reported_detections),
            avg_tracks_per_frame: a_frame(|camera| camera.tracked),
            detection_time_avg: seconds(&[Stage::Detect]),
            tracking_time_avg: seconds(&[Stage::Track]),
            reid_time_avg: seconds(&[Stage::Embed, Stage::GalleryEmbed, Stage::Association]),
            homography_time_avg: seconds(&[Stage::Homography]),
        })
    }
}
