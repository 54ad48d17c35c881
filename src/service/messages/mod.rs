//! What the service says of tasks, to the letter of the requirement document.
//!
//! What was added to the document's messages is told in `docs/messages.md`; above all every message
//! has a number, `seq`, that rises by one in its task.

pub mod asyncapi;
mod connection;
mod detection;
mod events;
pub mod moment;
mod pipeline_data;
mod trajectory;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub use connection::{Gap, Heartbeat, ImageHeader, ImageKind, Lagged};
pub use detection::{DetectionUpdate, FrameData, ImageDimensions};
pub use events::{
    GlobalIdMerged, GlobalIdSplit, HandoffMessage, HandoffState, TrackEnded, TrackStarted,
};
pub use pipeline_data::{
    CalibrationPoints, FootPoint, GalleryMetadata, HomographyData, MappingCoordinates,
    PipelineData, ReidData, ReidState, TrackingData, Velocity,
};
pub use trajectory::TrajectoryPoint;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskStatus {
    /// Waits for its turn.
    Queued,
    /// Its settings and networks are made ready.
    Initializing,
    /// Its sources are opened.
    Downloading,
    /// Frames go through.
    Processing,
    /// It was told to stop and finishes what it has begun.
    Stopping,
    /// All frames are done.
    Completed,
    /// It could not go on.
    Failed,
    /// It was stopped before its end.
    Stopped,
}

impl TaskStatus {
    /// As it is sent and stored, such as `PROCESSING`.
    pub fn word(self) -> String {
        let text = serde_json::to_string(&self).unwrap_or_default();
        text.trim_matches('"').to_string()
    }

    /// Whether nothing more happens to it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Stopped)
    }
}

/// How one camera of a task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CameraProgress {
    /// As of a task; a camera whose source failed is `FAILED` while the task goes on.
    pub status: TaskStatus,
    /// Number of its last frame that was done, 0 before the first.
    pub frame: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a task does.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StatusUpdate {
    /// Always `status_update`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// When, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// Where it stands.
    pub status: TaskStatus,
    /// Percent of its frames that are done, 0..=100, as far as their number is known.
    pub progress: f64,
    /// What it does, for people.
    pub current_step: String,
    /// Its cameras by ID.
    pub camera_processing: BTreeMap<String, CameraProgress>,
    /// Number of the message in its task, without gaps.
    pub seq: u64,
}

impl StatusUpdate {
    /// Its `message_type`.
    pub const TYPE: &'static str = "status_update";
}
