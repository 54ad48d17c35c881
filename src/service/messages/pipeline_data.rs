//! What stands under `future_pipeline_data`: tracking, re-identification, calibration and places.
//!
//! Where the document shows one object, there is a list of such objects here, one for each tracked
//! detection, with `detection_id` (and `track_id`, a number) to say which.

use serde::Serialize;
use utoipa::ToSchema;

use crate::gallery::{AssociationType, GalleryType};
use crate::homography::NoMapPoint;

use super::trajectory::TrajectoryPoint;

/// What tracking, re-identification and the map say of a frame. Every key is always there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct PipelineData {
    /// One entry a tracked detection; `null` if there is none.
    #[schema(required = true)]
    pub tracking_data: Option<Vec<TrackingData>>,
    /// One entry a tracked detection; `null` if there is none.
    #[schema(required = true)]
    pub reid_data: Option<Vec<ReidData>>,
    /// The camera's calibration; `null` if it has none.
    #[schema(required = true)]
    pub homography_data: Option<HomographyData>,
    /// One entry a tracked detection; `null` if there is none or the camera is not calibrated.
    #[schema(required = true)]
    pub mapping_coordinates: Option<Vec<MappingCoordinates>>,
}

/// What the camera's tracker says of one detection.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TrackingData {
    /// The detection of the same message that this is about.
    #[schema(example = "det_001")]
    pub detection_id: String,
    /// The track: `track_` and the number that detections have as `track_id`, of three digits or
    /// more.
    #[schema(example = "track_015")]
    pub track_id: String,
    /// Frames since the track began.
    pub track_age: u64,
    /// `confirmed`, or `tentative` for a track that only one detection speaks for.
    #[schema(example = "confirmed")]
    pub track_status: &'static str,
    /// Of the box's centre, in pixels a frame.
    pub velocity: Velocity,
    /// Where the box's centre was, oldest first, this frame last: the latest places only.
    pub trajectory: Vec<TrajectoryPoint>,
}

/// In pixels a frame.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Velocity {
    /// To the right.
    pub x: f64,
    /// Down.
    pub y: f64,
}

/// Whom one detection shows, across cameras.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ReidData {
    /// The detection of the same message that this is about.
    #[schema(example = "det_001")]
    pub detection_id: String,
    /// Its track.
    pub track_id: u64,
    /// The identity; `null` while it is not sure.
    #[schema(required = true)]
    pub global_id: Option<u64>,
    /// How sure the identity is against all others that were thought of, 0..=1; `null` without
    /// one.
    #[schema(required = true)]
    pub reid_confidence: Option<f64>,
    /// The track's latest vector, little-endian f32 in base64; `null` before the first.
    #[schema(required = true, content_encoding = "base64")]
    pub feature_vector: Option<String>,
    /// The network that makes vectors; `null` if there is none.
    #[schema(required = true, example = "clip_market1501")]
    pub feature_model: Option<String>,
    /// The gallery that the person is in; `null` while there is no person.
    #[schema(required = true)]
    pub gallery_type: Option<GalleryType>,
    /// Cosine similarity of the track's latest vector to the person it was assigned to.
    #[schema(required = true)]
    pub similarity_score: Option<f64>,
    /// Where re-identification of the track stands.
    pub reid_state: ReidState,
    /// What the gallery knows of the person.
    pub gallery_metadata: GalleryMetadata,
}

/// Where re-identification of a track stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReidState {
    /// The frame of the track's latest vector; `null` before the first.
    #[schema(required = true)]
    pub last_reid_frame: Option<u64>,
    /// Whether the next vector is due.
    pub reid_refresh_due: bool,
    /// Whether the person is leaving through a zone that leads to other cameras.
    pub handoff_triggered: bool,
    /// How the track came to its identity.
    pub association_type: AssociationType,
}

/// What the gallery knows of a person.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GalleryMetadata {
    /// Weight of a new vector in the person's mean.
    pub ema_alpha: f64,
    /// Camera of the person's latest sighting; of several, the first by the environment's order.
    #[schema(required = true)]
    pub last_seen_camera: Option<String>,
    /// The frame, counted as this camera counts, in which any camera saw the person first; may lie
    /// before this camera's first frame, and is 0 at least.
    #[schema(required = true)]
    pub first_seen_frame: Option<u64>,
    /// Frames since then.
    #[schema(required = true)]
    pub track_age: Option<u64>,
    /// Numbers in a vector.
    #[schema(required = true)]
    pub embedding_dimension: Option<usize>,
}

/// A camera's calibration.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HomographyData {
    /// From the frame's pixels to the map, row by row.
    pub matrix: [[f64; 3]; 3],
    /// Always `true`: without a matrix there is no object.
    pub matrix_available: bool,
    /// What the matrix was found from.
    pub calibration_points: CalibrationPoints,
}

/// Points of the picture and the places that they show, in the same order; empty if the calibration
/// came as a matrix.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct CalibrationPoints {
    /// In the frame's pixels.
    pub image_points: Vec<[f64; 2]>,
    /// In map units.
    pub map_points: Vec<[f64; 2]>,
}

/// Where on the map one detection stands.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MappingCoordinates {
    /// The detection of the same message that this is about.
    #[schema(example = "det_001")]
    pub detection_id: String,
    /// Its track.
    pub track_id: u64,
    /// In map units; `null` where the foot point is no place on the map.
    #[schema(required = true)]
    pub map_x: Option<f64>,
    /// In map units; `null` as above.
    #[schema(required = true)]
    pub map_y: Option<f64>,
    /// Whether there is a place.
    pub projection_successful: bool,
    /// The middle of the box's lower edge.
    pub foot_point: FootPoint,
    /// `bev_map_meters` for a map in metres.
    #[schema(example = "bev_map_meters")]
    pub coordinate_system: String,
    /// Why there is no place; left out where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<NoMapPoint>,
}

/// Where a person stands in the picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct FootPoint {
    /// To the right.
    pub image_x: f64,
    /// Down.
    pub image_y: f64,
}
