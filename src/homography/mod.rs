//! From pictures to the map and back: each camera's calibration.
//!
//! A homography maps the floor as a camera sees it to the map (Hartley and Zisserman 2004, chapter
//! 2); a camera whose whole 3×4 projection is known can also tell where heads are. A point that
//! cannot be on the map is an error with its reason, never a place.

mod calibration;
mod canvas;
mod file;
mod fit;
mod folder;
mod matrix;
mod picture;
mod plane;
mod points;
mod pose;
mod ransac;
mod read;
mod view;

use serde::{Deserialize, Serialize};

pub use calibration::{Calibration, CalibrationError, DEFAULT_UNITS, ErrorSummary};
pub use file::Loaded;
pub use folder::{Calibrations, MAX_CAMERAS, calibration_path, read_folder};
pub use matrix::{Matrix3, Projection};
pub use picture::draw_check;
pub use plane::Homography;
pub use points::{MAX_PAIRS, MIN_PAIRS, PairError, PointPair, PointsError, Side, pairs};
pub use ransac::{DEFAULT_THRESHOLD, Estimate, find_by_least_squares, find_homography};
pub use read::{Projections, numbers, parse_pair, read_matrix, read_pairs, read_projections};
pub use view::CameraView;

/// A place on the map, in map units (metres, if the calibration is in metres).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MapPoint {
    /// To the right, as the map is drawn.
    pub x: f64,
    /// The other axis.
    pub y: f64,
}

/// A point in a picture, in pixels from the upper left corner.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ImagePoint {
    /// To the right.
    pub x: f64,
    /// Down.
    pub y: f64,
}

/// Why a point of a picture is no place on the map.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    thiserror::Error,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NoMapPoint {
    /// It is on the horizon or above it.
    #[error("the point is not on the floor: it is on the horizon or above")]
    BehindHorizon,
    /// It is on the floor, outside of the area that the calibration is valid for.
    #[error("the point is outside of the calibration's valid area")]
    OutsideArea,
    /// It is not a point: NaN or infinity.
    #[error("the point's coordinates are not finite")]
    NotFinite,
}
