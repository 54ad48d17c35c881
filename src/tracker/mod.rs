//! From boxes to tracks: one tracker a camera, detections of one frame in, its tracks out.
//!
//! [`Tracker`] is the seam; [`ByteTrack`] and [`BotSort`] are behind it, chosen and set up by
//! [`TrackerSettings`]. Both are made of a Kalman filter ([`kalman`]), an index of overlapping
//! boxes, an optimal assignment ([`assignment`]) and one life of tracks around them (`byte`).
//! [`mot`] reads detections in MOT Challenge text. A tracker knows neither images nor cameras nor
//! threads: the same detections give the same tracks.

pub mod assignment;
pub mod camera_motion;
pub mod kalman;
pub mod mot;

mod botsort;
mod byte;
mod bytetrack;
mod overlap;
mod settings;
#[cfg(test)]
mod testing;

pub use botsort::{BotSort, BotSortSettings};
pub use bytetrack::{ByteTrack, ByteTrackSettings};
pub use mtmc_models::Detection;
pub use settings::{SettingError, TrackerSettings, TrackerState, UnknownTracker, VideoTracking};
pub(crate) use settings::{check, check_ranges};

use camera_motion::CameraMotion;
use mtmc_models::{BBox, Embedding};
use serde::{Deserialize, Serialize};

/// Detections that a tracker takes of one frame; of more, the best by score are taken.
///
/// Bounds time and memory whatever comes in: as many boxes all on one spot, the worst case of the
/// assignment, take a fraction of a second. Detectors report some hundreds at most.
pub const MAX_DETECTIONS: usize = 1_000;

/// What a detector found in one frame of one camera.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FrameDetections {
    /// The frame's number in its source. Trackers do not read it: one update is one time step.
    pub frame: u64,
    /// All detections, also those with poor scores; boxes in pixels.
    pub detections: Vec<Detection>,
    /// How each detection looks, `None` where it was not asked for or could not be told; empty if
    /// none was asked for.
    pub embeddings: Vec<Option<Embedding>>,
    /// How the camera moved since the frame before, if that is known.
    pub camera_motion: Option<CameraMotion>,
}

/// What a tracker wants to know of a frame beside its boxes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Needs {
    /// Detections above this score are wanted with their embeddings; `None`: none is.
    pub embeddings_above: Option<f32>,
    /// The camera's motion is wanted.
    pub camera_motion: bool,
}

/// Follows the objects of one camera from frame to frame.
///
/// One instance a camera. Frames come in order; an empty frame is a frame too. Track IDs count
/// from 1, belong to this instance, and are never used twice.
pub trait Tracker: Send {
    /// Advances by one frame and returns the tracks seen in it, each with an ID of its own.
    ///
    /// Detections with numbers that are not finite or boxes without extent, and those beyond
    /// [`MAX_DETECTIONS`], are left out and counted in [`dropped_detections`]: one bad box must
    /// not cost a camera its tracks.
    ///
    /// [`dropped_detections`]: Tracker::dropped_detections
    fn update(&mut self, frame: &FrameDetections) -> Vec<Track>;

    /// How many detections were left out since the tracker was made.
    fn dropped_detections(&self) -> u64;

    /// How many embeddings were left out since the tracker was made, because they are of another
    /// size than those its tracks have; their detections are matched without.
    fn dropped_embeddings(&self) -> u64 {
        0
    }

    /// What the tracker uses beside boxes; what it gets beyond that, it does not look at.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Erases how tracks look, but of those that `keeps` says; where they are stays.
    fn forget_looks(&mut self, _keeps: &dyn Fn(u64) -> bool) {}

    /// All that the tracker remembers: [`TrackerState::restore`] gives one that goes on alike.
    fn save(&self) -> TrackerState;
}

/// Where a track stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackState {
    /// Begun by one detection and not yet confirmed by a second; reported only by trackers that
    /// are set so.
    Tentative,
    /// Seen in the current frame.
    Tracked,
    /// Confirmed, but not seen in the current frame.
    Lost,
    /// Out of sight for longer than the buffer.
    Removed,
}

/// One object in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// Identity within the camera, from 1.
    pub track_id: u64,
    /// The filtered box, in pixels; it may reach beyond the frame.
    pub bbox: BBox,
    /// Score of the track's latest detection.
    pub score: f32,
    /// Class of the track's latest detection.
    pub class: u32,
    /// Where the track stands; [`Tracker::update`] returns tracks that are `Tracked` and, if
    /// the tracker is set so, `Tentative`.
    pub state: TrackState,
    /// Frames from the track's first to its latest detection; 0 in its first frame.
    pub age: u64,
    /// Filtered velocity of the box's centre, x and y, in pixels a frame.
    pub velocity: [f32; 2],
    /// Index into [`FrameDetections::detections`] of this frame; `None` if not seen in it.
    pub detection_index: Option<usize>,
    /// What appearance did for this track.
    #[serde(default)]
    pub appearance: AppearanceCounts,
}

/// What appearance did for one track since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AppearanceCounts {
    /// Embeddings that the track took in.
    pub embeddings: u64,
    /// Matches that appearance decided: its cost was below that of motion and overlap.
    pub matches: u64,
}
