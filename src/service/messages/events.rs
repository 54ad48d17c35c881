//! Messages of what happens beside the frames: tracks, handoffs, identities.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::moment;
use crate::handoff::ExpiryReason;

/// A track began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TrackStarted {
    /// Always `track_started`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// Time of the frame, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The camera.
    pub camera_id: String,
    /// The track's first frame.
    pub frame_number: u64,
    /// The track in its camera.
    pub track_id: u64,
    /// The identity, if it is known already.
    #[schema(required = true)]
    pub global_id: Option<u64>,
    /// Number of the message in its task, without gaps.
    pub seq: u64,
}

impl TrackStarted {
    /// Its `message_type`.
    pub const TYPE: &'static str = "track_started";
}

/// A track ended: its tracker will not find it again, or the camera has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TrackEnded {
    /// Always `track_ended`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// Time of the track's last frame, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The camera.
    pub camera_id: String,
    /// The last frame that showed the track.
    pub frame_number: u64,
    /// The track in its camera.
    pub track_id: u64,
    /// The identity that it had last, if any.
    #[schema(required = true)]
    pub global_id: Option<u64>,
    /// The first frame that showed the track.
    pub first_frame: u64,
    /// Number of the message in its task, without gaps.
    pub seq: u64,
}

impl TrackEnded {
    /// Its `message_type`.
    pub const TYPE: &'static str = "track_ended";
}

/// What happened to a handoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HandoffState {
    /// A person is leaving, or left, through a zone that leads to other cameras.
    Triggered,
    /// The person was seen at one of them.
    Completed,
    /// It came to nothing.
    Expired,
}

/// A person goes from camera to camera.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HandoffMessage {
    /// Always `handoff`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// When, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// What happened.
    pub event: HandoffState,
    /// Number of the handoff in its task; the same in all its messages.
    pub handoff_id: u64,
    /// Who, if that is known.
    #[schema(required = true)]
    pub global_id: Option<u64>,
    /// The camera that is left.
    pub from_camera: String,
    /// The camera where the person is; of `completed` alone.
    #[schema(required = true)]
    pub to_camera: Option<String>,
    /// Cameras where the person may turn up; of `triggered` alone.
    pub candidate_cameras: Vec<String>,
    /// The track: at `from_camera` when triggered, at `to_camera` when completed.
    #[schema(required = true)]
    pub track_id: Option<u64>,
    /// Index of the zone among those of `from_camera`; of `triggered` alone.
    #[schema(required = true)]
    pub zone: Option<usize>,
    /// Seconds since the person was last seen at `from_camera`.
    #[schema(required = true)]
    pub seconds: Option<f64>,
    /// How sure it is, 0..=1; of `completed` alone.
    #[schema(required = true)]
    pub confidence: Option<f64>,
    /// Why it came to nothing; of `expired` alone.
    #[schema(required = true)]
    pub reason: Option<ExpiryReason>,
    /// Number of the message in its task, without gaps.
    pub seq: u64,
}

impl HandoffMessage {
    /// Its `message_type`.
    pub const TYPE: &'static str = "handoff";
}

/// Two identities turned out to be one person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct GlobalIdMerged {
    /// Always `global_id_merged`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// When, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The identity that ends: it is not used any more.
    pub from_global_id: u64,
    /// The identity that stays.
    pub into_global_id: u64,
    /// Number of the message in its task, without gaps.
    pub seq: u64,
}

impl GlobalIdMerged {
    /// Its `message_type`.
    pub const TYPE: &'static str = "global_id_merged";
}

/// A track turned out to show another person than was thought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct GlobalIdSplit {
    /// Always `global_id_split`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// When, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The track's camera.
    pub camera_id: String,
    /// The track.
    pub track_id: u64,
    /// Whom it was thought to show.
    pub from_global_id: u64,
    /// Whom it shows.
    pub to_global_id: u64,
    /// Number of the message in its task, without gaps.
    pub seq: u64,
}

impl GlobalIdSplit {
    /// Its `message_type`.
    pub const TYPE: &'static str = "global_id_split";
}
