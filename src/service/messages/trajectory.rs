//! A track's way through the picture.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::moment;

/// Where the centre of a track's box was, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct TrajectoryPoint {
    /// To the right.
    pub x: f64,
    /// Down.
    pub y: f64,
    /// When, in UTC with milliseconds.
    #[serde(serialize_with = "moment::serialize")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
}
