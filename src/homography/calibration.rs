//! What is known of one camera.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::matrix::{Matrix3, Projection, inverse, scaled};
use super::plane::Homography;
use super::points::{PairError, PointPair, PointsError};
use super::ransac::find_homography;
use super::view::{CameraView, floor_of};
use super::{ImagePoint, MapPoint};

/// How much the proportions of frames may differ from those of the pictures that a camera was
/// calibrated with: rounding when scaling down.
const PROPORTIONS: f64 = 0.02;

/// What map units are called where nobody says.
pub const DEFAULT_UNITS: &str = "m";

/// One camera's calibration.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// From picture to map.
    pub matrix: Matrix3,
    /// What it was found from; empty if it came as a matrix.
    pub points: Vec<PointPair>,
    /// Which of the points it was fitted to; as many as points.
    pub inliers: Vec<bool>,
    /// Width and height in pixels of the pictures that it holds for, if known.
    pub image_size: Option<[f64; 2]>,
    /// What one unit of the map is, such as `m`.
    pub map_units: String,
    /// Corners of the polygon on the map that it is valid in; empty: everywhere.
    pub valid_area: Vec<MapPoint>,
    /// The whole projection, if the calibration came from one.
    pub projection: Option<Projection>,
    /// RANSAC's threshold in pixels, if the matrix was found by it.
    pub ransac_threshold: Option<f64>,
    /// Fields of the file that have no meaning here.
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// Errors of a calibration over the points that it was fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ErrorSummary {
    /// Mean distance in the picture, in pixels.
    pub mean_pixels: f64,
    /// Largest distance in the picture, in pixels.
    pub max_pixels: f64,
    /// Mean distance on the map, in map units.
    pub mean_map: f64,
    /// Largest distance on the map, in map units.
    pub max_map: f64,
    /// How many points it was fitted to.
    pub inliers: usize,
    /// How many points there are.
    pub points: usize,
}

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not JSON, or not of this shape.
    #[error("{path}: {error}")]
    Json {
        /// Which file.
        path: String,
        /// What and where.
        error: serde_json::Error,
    },
    /// The file has the right shape and makes no sense.
    #[error("{path}: {error}")]
    File {
        /// Which file.
        path: String,
        /// What is wrong.
        error: Box<CalibrationError>,
    },
    /// The points do not fix a homography.
    #[error(transparent)]
    Points(#[from] PointsError),
    /// A matrix that cannot be inverted.
    #[error("`{name}` has no inverse, so it maps no floor")]
    Singular {
        /// Which.
        name: &'static str,
    },
    /// The floor does not tell the projection.
    #[error(
        "heights cannot be told from the floor alone: the camera looks straight down, its picture \
         is cut out of a larger one, or the map's axes have different units"
    )]
    NoHeights,
    /// Neither a matrix nor points.
    #[error("neither `matrix` nor `calibration_points` nor `projection`")]
    Empty,
    /// A field whose value makes no sense.
    #[error("`{name}`: {reason}")]
    Field {
        /// Which.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Frames of other proportions than the camera was calibrated for.
    #[error(
        "calibrated for pictures of {0}×{1}, which do not have the proportions of {2}×{3}",
        calibrated[0], calibrated[1], frames[0], frames[1]
    )]
    Proportions {
        /// Width and height of the pictures it was calibrated with.
        calibrated: [f64; 2],
        /// Width and height of the frames.
        frames: [f64; 2],
    },
    /// A camera whose name cannot be a file's.
    #[error("`{camera}` cannot be a camera's name: letters, digits, `-`, `_` and `.` can")]
    Name {
        /// The name.
        camera: String,
    },
}

impl CalibrationError {
    pub(super) fn io(path: &Path, error: std::io::Error) -> Self {
        Self::Io {
            path: path.display().to_string(),
            error,
        }
    }

    pub(super) fn json(path: &Path, error: serde_json::Error) -> Self {
        Self::Json {
            path: path.display().to_string(),
            error,
        }
    }

    pub(super) fn field(name: &'static str, reason: &str) -> Self {
        Self::Field {
            name,
            reason: reason.to_string(),
        }
    }

    pub(super) fn in_file(self, path: &Path) -> Self {
        Self::File {
            path: path.display().to_string(),
            error: Box::new(self),
        }
    }
}

impl Calibration {
    /// From the matrix that maps the picture's floor to the map.
    ///
    /// # Errors
    /// The matrix has no inverse.
    pub fn from_matrix(matrix: Matrix3) -> Result<Self, CalibrationError> {
        if inverse(&matrix).is_none() {
            return Err(CalibrationError::Singular { name: "matrix" });
        }
        Ok(Self {
            matrix: scaled(&matrix),
            points: Vec::new(),
            inliers: Vec::new(),
            image_size: None,
            map_units: DEFAULT_UNITS.to_string(),
            valid_area: Vec::new(),
            projection: None,
            ransac_threshold: None,
            other: serde_json::Map::new(),
        })
    }

    /// From the matrix that maps the map to the picture's floor.
    ///
    /// # Errors
    /// The matrix has no inverse.
    pub fn from_map_matrix(matrix: Matrix3) -> Result<Self, CalibrationError> {
        let singular = CalibrationError::Singular { name: "matrix" };
        Self::from_matrix(inverse(&matrix).ok_or(singular)?)
    }

    /// From pairs of points; `threshold` in pixels is what separates right ones from wrong ones.
    ///
    /// # Errors
    /// What is wrong with the pairs.
    pub fn from_points(points: &[PointPair], threshold: f64) -> Result<Self, CalibrationError> {
        let estimate = find_homography(points, threshold)?;
        let mut calibration = Self::from_matrix(estimate.matrix())?;
        calibration.points = points.to_vec();
        calibration.inliers = estimate.inliers;
        calibration.ransac_threshold = Some(threshold);
        Ok(calibration)
    }

    /// From the matrix that projects the world, in map units and z up, into the picture; the map is
    /// the plane z = 0.
    ///
    /// # Errors
    /// The matrix is not that of a camera above the plane.
    pub fn from_projection(projection: Projection) -> Result<Self, CalibrationError> {
        let singular = CalibrationError::Singular { name: "projection" };
        let to_map = inverse(&floor_of(&projection)).ok_or(singular)?;
        let mut calibration = Self::from_matrix(to_map)?;
        calibration.projection = Some(projection);
        // Only a camera somewhere has heights.
        let view = calibration
            .floor([1.0, 1.0])
            .map(|floor| CameraView::from_floor(floor, [1.0; 2]));
        if view
            .and_then(|view| view.with_projection(projection))
            .is_none()
        {
            return Err(CalibrationError::Singular { name: "projection" });
        }
        Ok(calibration)
    }

    /// Adds a projection estimated from the matrix, so that heights are known: see
    /// [`Homography::estimate_projection`].
    ///
    /// # Errors
    /// The pictures' size is not known, or the floor does not tell.
    pub fn estimate_heights(&mut self) -> Result<(), CalibrationError> {
        let unknown =
            || CalibrationError::field("image_size", "heights need it, and it is not known");
        let size = self.image_size.ok_or_else(unknown)?;
        let floor = self.floor(size).ok_or(CalibrationError::NoHeights)?;
        let projection = floor.estimate_projection(size);
        self.projection = Some(projection.ok_or(CalibrationError::NoHeights)?);
        Ok(())
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// A size, an area, a unit or a projection that cannot be.
    pub fn check(&self) -> Result<(), CalibrationError> {
        let positive = |value: &f64| value.is_finite() && *value > 0.0;
        if let Some(size) = self.image_size
            && !size.iter().all(positive)
        {
            let reason = format!("{size:?} is not a width and a height in pixels");
            return Err(CalibrationError::field("image_size", &reason));
        }
        let corners = &self.valid_area;
        if !corners.is_empty() {
            let finite = |corner: &MapPoint| corner.x.is_finite() && corner.y.is_finite();
            if corners.len() < 3 || !corners.iter().all(finite) {
                let reason = "not a polygon of at least three corners";
                return Err(CalibrationError::field("valid_area", reason));
            }
            if polygon_area(corners) == 0.0 {
                return Err(CalibrationError::field("valid_area", "it has no area"));
            }
        }
        if self.map_units.is_empty() || self.map_units.chars().any(char::is_control) {
            return Err(CalibrationError::field("map_units", "not a name of a unit"));
        }
        if let Some(projection) = &self.projection
            && inverse(&floor_of(projection)).is_none()
        {
            return Err(CalibrationError::Singular { name: "projection" });
        }
        Ok(())
    }

    /// How far off the matrix is at each of the points.
    pub fn errors(&self) -> Vec<PairError> {
        let lost = PairError {
            pixels: f64::INFINITY,
            map: f64::INFINITY,
        };
        match Homography::at_pairs(&self.matrix, &self.used_points()) {
            Some(homography) => homography.errors(&self.points),
            None => vec![lost; self.points.len()],
        }
    }

    /// Each of the points, whether the matrix was fitted to it, and how far off it is.
    pub fn points_with_errors(&self) -> Vec<(PointPair, bool, PairError)> {
        let points = self.points.iter().zip(&self.inliers).zip(self.errors());
        points
            .map(|((point, inlier), error)| (*point, *inlier, error))
            .collect()
    }

    fn used_points(&self) -> Vec<PointPair> {
        let points = self.points.iter().zip(&self.inliers);
        points.filter_map(|(p, keep)| keep.then_some(*p)).collect()
    }

    /// Errors over the points that the matrix was fitted to; `None` without points.
    pub fn error_summary(&self) -> Option<ErrorSummary> {
        let errors = self.errors();
        let used: Vec<&PairError> = errors
            .iter()
            .zip(&self.inliers)
            .filter_map(|(error, keep)| keep.then_some(error))
            .collect();
        if used.is_empty() {
            return None;
        }
        let mean = |value: fn(&PairError) -> f64| {
            used.iter().map(|e| value(e)).sum::<f64>() / used.len() as f64
        };
        let max = |value: fn(&PairError) -> f64| used.iter().map(|e| value(e)).fold(0.0, f64::max);
        Some(ErrorSummary {
            mean_pixels: mean(|e| e.pixels),
            max_pixels: max(|e| e.pixels),
            mean_map: mean(|e| e.map),
            max_map: max(|e| e.map),
            inliers: used.len(),
            points: self.points.len(),
        })
    }

    /// The homography; its points decide what is in front of the camera, or without any the middle
    /// of the lower edge of a picture of `size`.
    pub(super) fn floor(&self, size: [f64; 2]) -> Option<Homography> {
        if let Some(floor) = Homography::at_pairs(&self.matrix, &self.used_points()) {
            return Some(floor);
        }
        let edge = ImagePoint {
            x: size[0] / 2.0,
            y: size[1],
        };
        Homography::new(&self.matrix, edge)
    }

    /// The camera at work on frames of `frame_size` (width, height in pixels). Frames smaller or
    /// larger than the pictures it was calibrated with are allowed for.
    ///
    /// # Errors
    /// Frames of other proportions; a matrix whose horizon runs through what should be floor.
    pub fn view(&self, frame_size: [f64; 2]) -> Result<CameraView, CalibrationError> {
        let size = self.image_size.unwrap_or(frame_size);
        let scale = [frame_size[0] / size[0], frame_size[1] / size[1]];
        let alike = (scale[0] / scale[1] - 1.0).abs() <= PROPORTIONS;
        if !alike {
            return Err(CalibrationError::Proportions {
                calibrated: size,
                frames: frame_size,
            });
        }
        let singular = || CalibrationError::Singular { name: "matrix" };
        let floor = self.floor(size).ok_or_else(singular)?;
        let floor = floor.for_scaled_picture(scale).ok_or_else(singular)?;
        let mut view = CameraView::from_floor(floor, frame_size).with_area(self.valid_area.clone());
        if let Some(projection) = self.projection {
            let [a, b, c] = projection;
            let scaled = [a.map(|v| v * scale[0]), b.map(|v| v * scale[1]), c];
            let singular = CalibrationError::Singular { name: "projection" };
            view = view.with_projection(scaled).ok_or(singular)?;
        }
        Ok(view)
    }
}

/// Twice the area of a polygon by the shoelace formula, without its sign.
fn polygon_area(corners: &[MapPoint]) -> f64 {
    let next = corners.iter().cycle().skip(1);
    let cross = |(a, b): (&MapPoint, &MapPoint)| a.x * b.y - b.x * a.y;
    corners.iter().zip(next).map(cross).sum::<f64>().abs()
}
