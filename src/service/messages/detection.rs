//! `detection_update`: one frame of one camera, with its pictures and all that was found in it.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::moment;
use super::pipeline_data::PipelineData;
use crate::sink::DetectionData;

/// One frame of one camera.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DetectionUpdate {
    /// Always `detection_update`.
    pub message_type: &'static str,
    /// The task.
    pub task_id: Uuid,
    /// When the frame was taken, in UTC with milliseconds: the time at which the task began its work
    /// plus the frame's time in the environment.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The camera.
    #[schema(example = "c09")]
    pub camera_id: String,
    /// Number of the frame in its source, from 1.
    pub frame_number: u64,
    /// The pictures.
    pub frame_data: FrameData,
    /// What was found.
    pub detection_data: DetectionData,
    /// What tracking, re-identification and the map say of it.
    pub future_pipeline_data: PipelineData,
    /// Number of the message in its task, without gaps.
    pub seq: u64,
}

impl DetectionUpdate {
    /// Its `message_type`.
    pub const TYPE: &'static str = "detection_update";
}

/// A frame's pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FrameData {
    /// The frame as it came, a JPEG in base64: byte for byte the source's where that has JPEGs.
    /// `null` where it is not sent: not asked for, dropped, or sent as a binary frame.
    #[schema(
        required = true,
        content_encoding = "base64",
        content_media_type = "image/jpeg"
    )]
    pub original_image_b64: Option<String>,
    /// The frame with boxes and identities drawn on it, a JPEG in base64; `null` as above.
    #[schema(
        required = true,
        content_encoding = "base64",
        content_media_type = "image/jpeg"
    )]
    pub annotated_image_b64: Option<String>,
    /// Size of the frame.
    pub image_dimensions: ImageDimensions,
}

/// Size of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImageDimensions {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}
