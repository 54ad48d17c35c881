//! Messages that are about one socket alone. They take no number of their own: their `seq` is that of
//! the latest numbered message that the client has been given or passed over.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::moment;

/// The client was too slow, and something was left out for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Lagged {
    /// Always `lagged`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// Now, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The first message that was left out or lost its pictures.
    pub from_seq: u64,
    /// The last one; those between may be whole.
    pub to_seq: u64,
    /// Pictures that were left out, those of messages that were left out among them.
    pub dropped_images: u64,
    /// Messages that were left out.
    pub dropped_messages: u64,
    /// The latest message before this one.
    pub seq: u64,
}

impl Lagged {
    /// Its `message_type`.
    pub const TYPE: &'static str = "lagged";
}

/// Messages that `since` asked for are not kept any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Gap {
    /// Always `gap`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// Now, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The first message that is missing.
    pub from_seq: u64,
    /// The last message that is missing.
    pub to_seq: u64,
    /// The latest message before the next one: `to_seq`.
    pub seq: u64,
}

impl Gap {
    /// Its `message_type`.
    pub const TYPE: &'static str = "gap";
}

/// Nothing has happened for a while, and the connection is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Heartbeat {
    /// Always `heartbeat`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// Now, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The latest message before this one.
    pub seq: u64,
}

impl Heartbeat {
    /// Its `message_type`.
    pub const TYPE: &'static str = "heartbeat";
}

/// Which of a frame's pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// The frame as it came.
    Original,
    /// With boxes and identities drawn on it.
    Annotated,
}

/// What stands before a picture in a binary frame of the subprotocol `mtmc.binary.v1`: the length
/// of this header in bytes (4 bytes, big-endian), this header as JSON, the JPEG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImageHeader {
    /// The `detection_update` that the picture belongs to, which was sent before it.
    pub seq: u64,
    /// Its camera.
    pub camera_id: String,
    /// Which picture.
    pub kind: ImageKind,
}
