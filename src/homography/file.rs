//! The file that holds a camera's calibration.
//!
//! A file `{camera}_homography.json` has `matrix` (3×3, picture to map, row by row) or
//! `calibration_points` (`image_points`, `map_points`: lists of pairs), or both. What else it may
//! have: `image_size` (width, height in pixels), `map_units`, `valid_area` (corners of a polygon, or
//! `x_min`, `x_max`, `y_min`, `y_max`), `projection` (3×4, the map's x, y and height to the
//! picture), and, for people to read, `camera_id`, `error` and `ransac_threshold`. Other fields are
//! kept as they are.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::calibration::{Calibration, CalibrationError};
use super::folder::camera_of;
use super::matrix::{Matrix3, Projection};
use super::points::{check_coordinates, pairs};
use super::view::CameraView;
use super::{ImagePoint, MapPoint};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// A calibration read, and what is odd about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What was read.
    pub calibration: Calibration,
    /// What someone should look at.
    pub warnings: Vec<String>,
}

/// The file as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    camera_id: Option<String>,
    #[serde(default)]
    matrix: Option<Matrix3>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration_points: Option<FilePoints>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_size: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    map_units: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    valid_area: Option<FileArea>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    projection: Option<Projection>,
    /// Written for people; computed anew when read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ransac_threshold: Option<f64>,
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FilePoints {
    #[serde(default)]
    image_points: Vec<[f64; 2]>,
    #[serde(default)]
    map_points: Vec<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inliers: Option<Vec<bool>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum FileArea {
    Polygon(Vec<[f64; 2]>),
    Bounds {
        x_min: f64,
        x_max: f64,
        y_min: f64,
        y_max: f64,
    },
}

impl FileArea {
    fn corners(&self) -> Vec<MapPoint> {
        match self {
            Self::Polygon(corners) => corners.iter().map(|&[x, y]| MapPoint { x, y }).collect(),
            &Self::Bounds {
                x_min,
                x_max,
                y_min,
                y_max,
            } => [
                [x_min, y_min],
                [x_max, y_min],
                [x_max, y_max],
                [x_min, y_max],
            ]
            .map(|[x, y]| MapPoint { x, y })
            .to_vec(),
        }
    }
}

impl Calibration {
    /// Reads a file's text.
    ///
    /// Without `matrix`, it is found from the points with `threshold` in pixels, or from
    /// `projection`. With both, they are compared.
    ///
    /// # Errors
    /// The text is not JSON of this shape, or makes no sense.
    pub fn parse(text: &str, threshold: f64) -> Result<Loaded, CalibrationError> {
        let file: File = serde_json::from_str(text)
            .map_err(|error| CalibrationError::json(Path::new("calibration"), error))?;
        Self::from_file(file, threshold)
    }

    /// Reads a file; see [`parse`](Self::parse).
    ///
    /// # Errors
    /// It cannot be read, is not JSON of this shape, or makes no sense.
    pub fn read(path: &Path, threshold: f64) -> Result<Loaded, CalibrationError> {
        let text = read_text(path)?;
        let file: File =
            serde_json::from_str(&text).map_err(|error| CalibrationError::json(path, error))?;
        let named = file.camera_id.clone();
        let mut loaded = Self::from_file(file, threshold).map_err(|error| error.in_file(path))?;
        let camera = camera_of(path);
        if let (Some(named), Some(camera)) = (named, camera)
            && named != camera
        {
            let warning = format!("says it is camera `{named}`, but its name says `{camera}`");
            loaded.warnings.push(warning);
        }
        Ok(loaded)
    }

    fn from_file(file: File, threshold: f64) -> Result<Loaded, CalibrationError> {
        let listed = file.calibration_points.unwrap_or(FilePoints {
            image_points: Vec::new(),
            map_points: Vec::new(),
            inliers: None,
        });
        let points = pairs(&listed.image_points, &listed.map_points)?;
        let mut warnings = Vec::new();
        let mut calibration = match (file.matrix, file.projection) {
            (Some(matrix), _) => {
                let mut given = Self::from_matrix(matrix)?;
                check_coordinates(&points)?;
                given.inliers = listed.inliers.unwrap_or_else(|| vec![true; points.len()]);
                given.points = points;
                given.ransac_threshold = file.ransac_threshold;
                given
            }
            (None, _) if !points.is_empty() => Self::from_points(&points, threshold)?,
            (None, Some(projection)) => Self::from_projection(projection)?,
            (None, None) => return Err(CalibrationError::Empty),
        };
        if calibration.inliers.len() != calibration.points.len() {
            let reason = format!(
                "{} entries for {} points",
                calibration.inliers.len(),
                calibration.points.len()
            );
            return Err(CalibrationError::field(
                "calibration_points.inliers",
                &reason,
            ));
        }
        calibration.image_size = file.image_size;
        calibration.valid_area = file
            .valid_area
            .map(|area| area.corners())
            .unwrap_or_default();
        calibration.map_units = file.map_units.unwrap_or(calibration.map_units);
        calibration.projection = file.projection;
        calibration.other = file.other;
        calibration.check()?;
        warnings.extend(calibration.doubts(threshold));
        Ok(Loaded {
            calibration,
            warnings,
        })
    }

    /// What in the calibration contradicts itself by more than `threshold` pixels.
    fn doubts(&self, threshold: f64) -> Vec<String> {
        let mut doubts = Vec::new();
        let errors = self.errors();
        let mut off = 0;
        let mut worst: Option<(usize, f64)> = None;
        for (index, (error, inlier)) in errors.iter().zip(&self.inliers).enumerate() {
            if !inlier || error.pixels <= threshold {
                continue;
            }
            off += 1;
            if worst.is_none_or(|(_, most)| error.pixels > most) {
                worst = Some((index, error.pixels));
            }
        }
        if let Some((index, pixels)) = worst {
            doubts.push(format!(
                "`matrix` and `calibration_points` disagree: {off} of {} points are more than \
                 {threshold} pixels off, number {} most, by {pixels:.1}; the matrix is used",
                errors.len(),
                index + 1
            ));
        }
        if let Some(projection) = &self.projection
            && let Some(apart) = self.projection_apart(projection)
            && apart > threshold
        {
            doubts.push(format!(
                "`matrix` and `projection` disagree by {apart:.1} pixels; the matrix is used, and \
                 the projection for heights only"
            ));
        }
        if self.image_size.is_none() {
            doubts.push("no `image_size`: it is taken to be that of the frames".to_string());
        }
        doubts
    }

    /// How far apart matrix and projection put what the picture's lower half shows, in pixels.
    fn projection_apart(&self, projection: &Projection) -> Option<f64> {
        let [width, height] = self.image_size?;
        let own = self.floor([width, height])?;
        let other = CameraView::from_projection(*projection, [width, height])?;
        let mut most: f64 = 0.0;
        for (x, y) in [
            (0.0, 1.0),
            (0.5, 1.0),
            (1.0, 1.0),
            (0.25, 0.75),
            (0.75, 0.75),
        ] {
            let point = ImagePoint {
                x: x * width,
                y: y * height,
            };
            let Ok(place) = own.to_map(point) else {
                continue;
            };
            let seen = other.to_image(place);
            most = most.max(seen.map_or(f64::INFINITY, |p| (p.x - point.x).hypot(p.y - point.y)));
        }
        Some(most)
    }

    /// The file's text for a camera.
    ///
    /// # Errors
    /// A number that JSON cannot hold.
    pub fn to_json(&self, camera: &str) -> Result<String, CalibrationError> {
        let error = self.error_summary().map(|error| serde_json::json!(error));
        let file = File {
            camera_id: Some(camera.to_string()),
            matrix: Some(self.matrix),
            calibration_points: (!self.points.is_empty()).then(|| FilePoints {
                image_points: self.points.iter().map(|p| [p.image.x, p.image.y]).collect(),
                map_points: self.points.iter().map(|p| [p.map.x, p.map.y]).collect(),
                inliers: Some(self.inliers.clone()),
            }),
            image_size: self.image_size,
            map_units: Some(self.map_units.clone()),
            valid_area: (!self.valid_area.is_empty())
                .then(|| FileArea::Polygon(self.valid_area.iter().map(|p| [p.x, p.y]).collect())),
            projection: self.projection,
            error,
            ransac_threshold: self.ransac_threshold,
            other: self.other.clone(),
        };
        let text = serde_json::to_string_pretty(&file)
            .map_err(|error| CalibrationError::json(Path::new(camera), error))?;
        Ok(text + "\n")
    }
}

/// A file's text, if it is not absurdly large.
pub(super) fn read_text(path: &Path) -> Result<String, CalibrationError> {
    let metadata = std::fs::metadata(path).map_err(|error| CalibrationError::io(path, error))?;
    if metadata.len() > MAX_BYTES {
        let reason = format!("{} bytes are too many", metadata.len());
        return Err(CalibrationError::field("file", &reason).in_file(path));
    }
    std::fs::read_to_string(path).map_err(|error| CalibrationError::io(path, error))
}
