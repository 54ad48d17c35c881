//! One camera's calibration at work: pictures to map, map to pictures.

use super::{ImagePoint, MapPoint, NoMapPoint};

/// A 3×3 matrix, row by row.
pub type Matrix3 = [[f64; 3]; 3];

/// A 3×4 matrix, row by row.
pub type Projection = [[f64; 4]; 3];

/// A camera that is calibrated.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraView {
    to_map: Matrix3,
    to_image: Matrix3,
    projection: Option<Projection>,
    /// Where the camera hangs over the map, if its projection is known.
    centre: Option<MapPoint>,
    image_size: [f64; 2],
    /// Corners of the valid area on the map, in order; empty: everywhere.
    area: Vec<MapPoint>,
}

/// Step of differences, in pixels.
const STEP: f64 = 1.0;

impl CameraView {
    /// From the matrix that maps the picture's floor to the map.
    ///
    /// The sign of the matrix is chosen so that the middle of the picture's lower edge, which shows
    /// floor if anything does, is in front of the camera. `None` for a matrix without inverse or
    /// with numbers that are not finite.
    pub fn from_homography(matrix: Matrix3, image_size: [f64; 2]) -> Option<Self> {
        let floor = [image_size[0] / 2.0, image_size[1], 1.0];
        let to_map = if multiply(&matrix, floor)[2] < 0.0 {
            matrix.map(|row| row.map(|v| -v))
        } else {
            matrix
        };
        Some(Self {
            to_map,
            to_image: inverse(&to_map)?,
            projection: None,
            centre: None,
            image_size,
            area: Vec::new(),
        })
    }

    /// From the matrix that projects the world into the picture; the map is the plane z = 0.
    ///
    /// `None` for a matrix without a camera in it.
    pub fn from_projection(projection: Projection, image_size: [f64; 2]) -> Option<Self> {
        let column = |index: usize| projection.map(|row| row[index]);
        let [a, b, c, d] = [column(0), column(1), column(2), column(3)];
        let to_image: Matrix3 = std::array::from_fn(|row| [a[row], b[row], d[row]]);
        let rotation: Matrix3 = std::array::from_fn(|row| [a[row], b[row], c[row]]);
        let centre = multiply(&inverse(&rotation)?, d.map(|v| -v));
        let mut view = Self::from_homography(inverse(&to_image)?, image_size)?;
        view.projection = Some(projection);
        view.centre = Some(MapPoint {
            x: centre[0],
            y: centre[1],
        });
        Some(view)
    }

    /// Limits the map to a polygon, given by its corners in order.
    #[must_use]
    pub fn with_area(mut self, corners: Vec<MapPoint>) -> Self {
        self.area = corners;
        self
    }

    /// Width and height of the picture in pixels.
    pub fn image_size(&self) -> [f64; 2] {
        self.image_size
    }

    /// The place on the map that a point of the picture shows.
    ///
    /// # Errors
    /// Why there is none.
    pub fn to_map(&self, point: ImagePoint) -> Result<MapPoint, NoMapPoint> {
        let place = self.on_floor(point)?;
        if self.in_area(place) {
            Ok(place)
        } else {
            Err(NoMapPoint::OutsideArea)
        }
    }

    /// As [`to_map`](Self::to_map), wherever the floor ends.
    fn on_floor(&self, point: ImagePoint) -> Result<MapPoint, NoMapPoint> {
        if !(point.x.is_finite() && point.y.is_finite()) {
            return Err(NoMapPoint::NotFinite);
        }
        let [x, y, w] = multiply(&self.to_map, [point.x, point.y, 1.0]);
        let place = MapPoint { x: x / w, y: y / w };
        // Behind the horizon the third coordinate changes its sign; on it it is 0.
        if w > 0.0 && place.x.is_finite() && place.y.is_finite() {
            Ok(place)
        } else {
            Err(NoMapPoint::BehindHorizon)
        }
    }

    /// Where a place on the floor appears; `None` if it is behind the camera.
    pub fn to_image(&self, place: MapPoint) -> Option<ImagePoint> {
        point_of(multiply(&self.to_image, [place.x, place.y, 1.0]))
    }

    /// Where the head of someone of `height` at `place` appears; `None` without a projection.
    pub fn head(&self, place: MapPoint, height: f64) -> Option<ImagePoint> {
        let rows = self.projection.as_ref()?;
        let at = [place.x, place.y, height, 1.0];
        let image = rows.map(|row| row.iter().zip(at).map(|(a, b)| a * b).sum::<f64>());
        // As the floor's matrix, a projection may be given with either sign.
        let feet = rows.map(|row| row[0] * place.x + row[1] * place.y + row[3]);
        let sign = feet[2].signum();
        point_of(image.map(|v| v * sign))
    }

    /// Whether a place is within the valid area.
    pub fn in_area(&self, place: MapPoint) -> bool {
        if self.area.is_empty() {
            return true;
        }
        let mut inside = false;
        let mut before = self.area[self.area.len() - 1];
        for &corner in &self.area {
            if (corner.y > place.y) != (before.y > place.y) {
                let along = (place.y - corner.y) / (before.y - corner.y);
                inside ^= place.x < corner.x + along * (before.x - corner.x);
            }
            before = corner;
        }
        inside
    }

    /// Whether a place is in the valid area and within the picture.
    pub fn sees(&self, place: MapPoint) -> bool {
        let within = |point: ImagePoint| {
            (0.0..=self.image_size[0]).contains(&point.x)
                && (0.0..=self.image_size[1]).contains(&point.y)
        };
        self.in_area(place) && self.to_image(place).is_some_and(within)
    }

    /// Unit vector on the map from a place towards the camera.
    ///
    /// From the projection's centre if there is one; else the way that a place moves when its image
    /// goes down the picture.
    pub fn towards_camera(&self, place: MapPoint) -> Option<[f64; 2]> {
        if let Some(centre) = self.centre {
            return unit([centre.x - place.x, centre.y - place.y]);
        }
        let image = self.to_image(place)?;
        let below = ImagePoint {
            x: image.x,
            y: image.y + STEP,
        };
        let near = self.on_floor(below).ok()?;
        unit([near.x - place.x, near.y - place.y])
    }
}

fn unit([x, y]: [f64; 2]) -> Option<[f64; 2]> {
    let length = x.hypot(y);
    (length > 0.0 && length.is_finite()).then(|| [x / length, y / length])
}

fn point_of([x, y, w]: [f64; 3]) -> Option<ImagePoint> {
    let point = ImagePoint { x: x / w, y: y / w };
    (w > 0.0 && point.x.is_finite() && point.y.is_finite()).then_some(point)
}

fn multiply(matrix: &Matrix3, vector: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum())
}

/// The inverse by cofactors; `None` if there is none.
fn inverse(m: &Matrix3) -> Option<Matrix3> {
    let minor = |row: usize, column: usize| {
        let (r, s) = ((row + 1) % 3, (row + 2) % 3);
        let (c, d) = ((column + 1) % 3, (column + 2) % 3);
        m[r][c] * m[s][d] - m[r][d] * m[s][c]
    };
    let determinant: f64 = (0..3).map(|column| m[0][column] * minor(0, column)).sum();
    if determinant == 0.0 || !determinant.is_finite() {
        return None;
    }
    let inverse: Matrix3 =
        std::array::from_fn(|row| std::array::from_fn(|column| minor(column, row) / determinant));
    inverse
        .iter()
        .flatten()
        .all(|v| v.is_finite())
        .then_some(inverse)
}
