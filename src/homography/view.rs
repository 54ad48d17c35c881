//! One camera's calibration at work: boxes to places, places to pictures, and how sure that is.

use mtmc_models::BBox;

use super::matrix::{Matrix3, Projection, inverse, multiply};
use super::plane::{Homography, project};
use super::{ImagePoint, MapPoint, NoMapPoint};

/// A camera that is calibrated.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraView {
    floor: Homography,
    /// With the sign of `floor`: points in front have a positive third coordinate.
    projection: Option<Projection>,
    /// Where the camera hangs over the map, if its projection is known.
    centre: Option<MapPoint>,
    /// How high it hangs.
    height: Option<f64>,
    image_size: [f64; 2],
    /// Corners of the valid area on the map, in order; empty: everywhere.
    area: Vec<MapPoint>,
}

impl CameraView {
    /// From the matrix that maps the picture's floor to the map, and the picture's width and height
    /// in pixels.
    ///
    /// The middle of the picture's lower edge, which shows floor if anything does, is taken to be
    /// in front of the camera. `None` for a matrix without inverse or with numbers that are not
    /// finite.
    pub fn from_homography(matrix: Matrix3, image_size: [f64; 2]) -> Option<Self> {
        let floor = ImagePoint {
            x: image_size[0] / 2.0,
            y: image_size[1],
        };
        Some(Self::from_floor(
            Homography::new(&matrix, floor)?,
            image_size,
        ))
    }

    /// From a homography that knows already what is in front of the camera.
    pub fn from_floor(floor: Homography, image_size: [f64; 2]) -> Self {
        Self {
            floor,
            projection: None,
            centre: None,
            height: None,
            image_size,
            area: Vec::new(),
        }
    }

    /// From the matrix that projects the world into the picture; the map is the plane z = 0, z is
    /// up, in map units. What is in front is decided as in
    /// [`from_homography`](Self::from_homography).
    ///
    /// `None` for a matrix without a camera in it.
    pub fn from_projection(projection: Projection, image_size: [f64; 2]) -> Option<Self> {
        let to_map = inverse(&floor_of(&projection))?;
        Self::from_homography(to_map, image_size)?.with_projection(projection)
    }

    /// Adds heights to a homography. `None` for a matrix without a camera in it, or one that shows
    /// the floor from the other side.
    pub fn with_projection(mut self, projection: Projection) -> Option<Self> {
        let column = |index: usize| projection.map(|row| row[index]);
        let [a, b, c, d] = [column(0), column(1), column(2), column(3)];
        let rotation: Matrix3 = std::array::from_fn(|row| [a[row], b[row], c[row]]);
        let centre = multiply(&inverse(&rotation)?, d.map(|v| -v));
        // Both matrices map the floor to the picture; they may differ by a factor.
        let floor = floor_of(&projection);
        let own = self.floor.image_matrix();
        let agreement: f64 = own
            .iter()
            .flatten()
            .zip(floor.iter().flatten())
            .map(|(a, b)| a * b)
            .sum();
        if agreement == 0.0 || !agreement.is_finite() {
            return None;
        }
        let sign = agreement.signum();
        self.projection = Some(projection.map(|row| row.map(|value| value * sign)));
        self.centre = Some(MapPoint {
            x: centre[0],
            y: centre[1],
        });
        self.height = Some(centre[2]);
        Some(self)
    }

    /// Limits the map to a polygon, given by its corners in order; none: everywhere.
    #[must_use]
    pub fn with_area(mut self, corners: Vec<MapPoint>) -> Self {
        self.area = corners;
        self
    }

    /// Width and height of the picture in pixels.
    pub fn image_size(&self) -> [f64; 2] {
        self.image_size
    }

    /// The homography alone.
    pub fn floor(&self) -> &Homography {
        &self.floor
    }

    /// The projection, if heights are known; floor in front has a positive third coordinate.
    pub fn projection(&self) -> Option<&Projection> {
        self.projection.as_ref()
    }

    /// The place below the camera, if its projection is known.
    pub fn centre(&self) -> Option<MapPoint> {
        self.centre
    }

    /// How high above the floor the camera is, in map units, if its projection is known.
    pub fn height(&self) -> Option<f64> {
        self.height
    }

    /// Corners of the valid area, in order; empty: everywhere.
    pub fn area(&self) -> &[MapPoint] {
        &self.area
    }

    /// Where a person in a box stands in the picture: the middle of its lower edge.
    pub fn foot_point(bbox: &BBox) -> ImagePoint {
        ImagePoint {
            x: f64::midpoint(f64::from(bbox.x1), f64::from(bbox.x2)),
            y: f64::from(bbox.y2),
        }
    }

    /// The place on the map that a point of the picture shows. The point may lie outside the
    /// picture, as feet of people do who are cut off by its edge.
    ///
    /// # Errors
    /// Why there is none.
    pub fn to_map(&self, point: ImagePoint) -> Result<MapPoint, NoMapPoint> {
        let place = self.floor.to_map(point)?;
        if self.in_area(place) {
            Ok(place)
        } else {
            Err(NoMapPoint::OutsideArea)
        }
    }

    /// Where a place on the floor appears, be it outside the picture; `None` if it is behind the
    /// camera.
    pub fn to_image(&self, place: MapPoint) -> Option<ImagePoint> {
        self.floor.to_image(place)
    }

    /// Where the head of someone of `height` (map units) at `place` appears; `None` without a
    /// projection, or behind the camera.
    pub fn head(&self, place: MapPoint, height: f64) -> Option<ImagePoint> {
        let raised = self
            .projection
            .as_ref()?
            .map(|row| [row[0], row[1], row[2] * height + row[3]]);
        let [x, y] = project(&raised, place.x, place.y)?;
        Some(ImagePoint { x, y })
    }

    /// Whether a place is within the valid area; true without one.
    pub fn in_area(&self, place: MapPoint) -> bool {
        if self.area.is_empty() {
            return true;
        }
        let mut inside = false;
        let mut before = self.area[self.area.len() - 1];
        for &corner in &self.area {
            // A ray to the right crosses the edges whose ends lie on both sides of it.
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
    /// goes down the picture, which is the same for a camera that is not tilted sideways, in the
    /// middle column of its picture.
    pub fn towards_camera(&self, place: MapPoint) -> Option<[f64; 2]> {
        if let Some(centre) = self.centre {
            return unit([centre.x - place.x, centre.y - place.y]);
        }
        let [x, y] = self.ground_direction(self.to_image(place)?)?;
        Some([-x, -y])
    }

    /// Unit vector on the map in which a place moves when its image goes up the picture: away from
    /// the camera.
    pub fn ground_direction(&self, point: ImagePoint) -> Option<[f64; 2]> {
        let [x, y] = self.floor.map_jacobian(point)?;
        unit([-x[1], -y[1]])
    }

    /// How the image of a place moves with it: rows x and y of the picture, columns x and y of the
    /// map, pixels per map unit; `None` behind the camera.
    pub fn jacobian(&self, place: MapPoint) -> Option<[[f64; 2]; 2]> {
        self.floor.image_jacobian(place)
    }

    /// Covariance on the map, in map units squared, of the place that a point shows whose
    /// coordinates have a standard deviation of `sigma` pixels each: J·Jᵀ·σ², to first order.
    pub fn covariance(&self, point: ImagePoint, sigma: f64) -> Option<[[f64; 2]; 2]> {
        let slopes = self.floor.map_jacobian(point)?;
        let entry = |a: usize, b: usize| {
            sigma * sigma * (slopes[a][0] * slopes[b][0] + slopes[a][1] * slopes[b][1])
        };
        let rows = [0, 1].map(|a| [entry(a, 0), entry(a, 1)]);
        rows.iter().flatten().all(|v| v.is_finite()).then_some(rows)
    }
}

/// The columns of a projection that map the plane z = 0 to the picture.
pub(super) fn floor_of(projection: &Projection) -> Matrix3 {
    projection.map(|[a, b, _, d]| [a, b, d])
}

fn unit([x, y]: [f64; 2]) -> Option<[f64; 2]> {
    let length = x.hypot(y);
    (length > 0.0 && length.is_finite()).then(|| [x / length, y / length])
}
