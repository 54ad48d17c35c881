//! The floor as a camera sees it: picture to map, map to picture.

use super::matrix::{Matrix3, inverse, is_finite, multiply, scaled};
use super::{ImagePoint, MapPoint, NoMapPoint};

/// How near to the horizon, relative to the terms that cancel out there, a point is on it.
const ON_HORIZON: f64 = 1e-12;

/// A homography between a picture and the map, with its inverse.
///
/// A matrix means the same with any factor, so also with either sign. Here the sign is chosen so
/// that the third homogeneous coordinate is positive for the floor in front of the camera; where it
/// is not, there is no floor. Which side that is, a point of the floor decides: see [`new`](Self::new).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Homography {
    to_map: Matrix3,
    /// The inverse to the letter, sign included: if w is the third coordinate of a picture's point
    /// on the map, 1/w is that of the map's point in the picture, so both are positive together.
    to_image: Matrix3,
}

impl Homography {
    /// From the matrix that maps the picture to the map, and a point of the picture that shows
    /// floor.
    ///
    /// `None` for a matrix without inverse, with numbers that are not finite, or whose horizon runs
    /// through that point.
    pub fn new(matrix: &Matrix3, floor: ImagePoint) -> Option<Self> {
        let depth = third(matrix, floor.x, floor.y)?;
        Self::signed(matrix, depth.signum())
    }

    /// As [`new`](Self::new), if most of the points show floor.
    pub fn with_points(matrix: &Matrix3, floor: &[ImagePoint]) -> Option<Self> {
        let signs = floor.iter().filter_map(|p| third(matrix, p.x, p.y));
        let balance: f64 = signs.map(f64::signum).sum();
        if balance == 0.0 {
            return None;
        }
        Self::signed(matrix, balance.signum())
    }

    fn signed(matrix: &Matrix3, sign: f64) -> Option<Self> {
        if !is_finite(matrix) {
            return None;
        }
        let to_map = matrix.map(|row| row.map(|value| value * sign));
        let to_image = inverse(&to_map)?;
        Some(Self { to_map, to_image })
    }

    /// The same floor in pictures whose width and height are `scale` times what they were.
    pub(super) fn for_scaled_picture(&self, scale: [f64; 2]) -> Option<Self> {
        let [x, y] = scale;
        let to_map = self.to_map.map(|[a, b, c]| [a / x, b / y, c]);
        Self::signed(&to_map, 1.0)
    }

    /// The matrix from picture to map, scaled so that its last entry is 1 if that can be; its sign
    /// tells nothing then.
    pub fn matrix(&self) -> Matrix3 {
        scaled(&self.to_map)
    }

    /// The matrix from map to picture with the sign at which floor in front has a positive third
    /// coordinate.
    pub(super) fn image_matrix(&self) -> &Matrix3 {
        &self.to_image
    }

    /// The place that a point of the picture shows.
    ///
    /// # Errors
    /// [`NoMapPoint::NotFinite`] and [`NoMapPoint::BehindHorizon`].
    pub fn to_map(&self, point: ImagePoint) -> Result<MapPoint, NoMapPoint> {
        if !(point.x.is_finite() && point.y.is_finite()) {
            return Err(NoMapPoint::NotFinite);
        }
        let found = project(&self.to_map, point.x, point.y);
        let [x, y] = found.ok_or(NoMapPoint::BehindHorizon)?;
        Ok(MapPoint { x, y })
    }

    /// Where a place on the floor appears; `None` if it is behind the camera or not finite.
    pub fn to_image(&self, place: MapPoint) -> Option<ImagePoint> {
        let [x, y] = project(&self.to_image, place.x, place.y)?;
        Some(ImagePoint { x, y })
    }

    /// How the place moves on the map when its point moves in the picture: rows x and y of the map,
    /// columns x and y of the picture; map units per pixel.
    pub fn map_jacobian(&self, point: ImagePoint) -> Option<[[f64; 2]; 2]> {
        jacobian(&self.to_map, point.x, point.y)
    }

    /// How the point moves in the picture when its place moves on the map: pixels per map unit.
    pub fn image_jacobian(&self, place: MapPoint) -> Option<[[f64; 2]; 2]> {
        jacobian(&self.to_image, place.x, place.y)
    }
}

/// The third homogeneous coordinate, if it differs from 0 by more than rounding.
fn third(matrix: &Matrix3, x: f64, y: f64) -> Option<f64> {
    let [a, b, c] = matrix[2];
    let w = a * x + b * y + c;
    let size = (a * x).abs() + (b * y).abs() + c.abs();
    (w.abs() > ON_HORIZON * size && w.is_finite()).then_some(w)
}

/// Where a matrix maps a point, if that is in front of the horizon.
pub(super) fn project(matrix: &Matrix3, x: f64, y: f64) -> Option<[f64; 2]> {
    let w = third(matrix, x, y).filter(|&w| w > 0.0)?;
    let [u, v, _] = multiply(matrix, [x, y, 1.0]);
    let mapped = [u / w, v / w];
    mapped.iter().all(|v| v.is_finite()).then_some(mapped)
}

fn jacobian(matrix: &Matrix3, x: f64, y: f64) -> Option<[[f64; 2]; 2]> {
    let at = project(matrix, x, y)?;
    let w = third(matrix, x, y)?;
    let slope = |row: usize, column: usize| (matrix[row][column] - at[row] * matrix[2][column]) / w;
    let rows = [0, 1].map(|row| [slope(row, 0), slope(row, 1)]);
    rows.iter().flatten().all(|v| v.is_finite()).then_some(rows)
}
