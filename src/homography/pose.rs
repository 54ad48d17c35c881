//! A camera's whole projection, told from its homography alone.
//!
//! What a floor looks like tells where the camera is and its focal length, if its pixels are square
//! and its optical axis meets the picture's middle (Z. Zhang, A flexible new technique for camera
//! calibration, 2000): true of most cameras, unless their pictures are cut out of larger ones. The
//! map must have the same unit along both axes, as heights do then.

use super::matrix::{Matrix3, Projection};
use super::plane::Homography;

/// Focal lengths that are believed, in lengths of the picture's longer side: an angle of view from
/// 2° to 130°.
const FOCAL: [f64; 2] = [0.23, 30.0];

impl Homography {
    /// The projection of a camera with square pixels and the optical axis in the middle of a
    /// picture of `image_size` (width, height in pixels), z up in map units. On the floor it is this
    /// homography.
    ///
    /// `None` where the floor does not tell, as when the camera looks straight down, or tells
    /// nonsense.
    pub fn estimate_projection(&self, image_size: [f64; 2]) -> Option<Projection> {
        let middle = image_size.map(|side| side / 2.0);
        // Around the picture's middle.
        let [first, second, third] = *self.image_matrix();
        let around = |row: [f64; 3], middle: f64| -> [f64; 3] {
            std::array::from_fn(|i| row[i] - middle * third[i])
        };
        let rows: Matrix3 = [around(first, middle[0]), around(second, middle[1]), third];
        let [a, b] = [0, 1].map(|column| rows.map(|row| row[column]));
        // Divided by the focal length in x and y, the map's axes are at right angles and of the
        // same length: two equations for its inverse square, by least squares.
        let products = [
            [a[0] * b[0] + a[1] * b[1], -a[2] * b[2]],
            [
                a[0] * a[0] + a[1] * a[1] - b[0] * b[0] - b[1] * b[1],
                b[2] * b[2] - a[2] * a[2],
            ],
        ];
        let squares: f64 = products.iter().map(|[p, _]| p * p).sum();
        let inverse_square = products.iter().map(|[p, q]| p * q).sum::<f64>() / squares;
        let focal = inverse_square.powf(-0.5);
        let side = image_size[0].max(image_size[1]);
        // NaN is not within either.
        if !(FOCAL[0] * side..=FOCAL[1] * side).contains(&focal) {
            return None;
        }
        let axis = |v: [f64; 3]| [v[0] / focal, v[1] / focal, v[2]];
        let [right, along, from_centre] = [a, b, rows.map(|row| row[2])].map(axis);
        let length = ((dot(right, right) + dot(along, along)) / 2.0).sqrt();
        let normal = cross(right, along).map(|v| v / length);
        // The camera's height is −normal·t / |normal|²; up is the side that it is on.
        let up = -dot(normal, from_centre).signum();
        let up = normal.map(|v| v * up);
        let column = [
            focal * up[0] + middle[0] * up[2],
            focal * up[1] + middle[1] * up[2],
            up[2],
        ];
        let own = self.image_matrix();
        let projection: Projection =
            std::array::from_fn(|i| [own[i][0], own[i][1], column[i], own[i][2]]);
        let finite = projection.iter().flatten().all(|v| v.is_finite());
        finite.then_some(projection)
    }
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}
