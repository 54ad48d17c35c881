//! A pinhole camera that hangs over the floor.
//!
//! The world has x and y on the map and z upwards, in metres; pictures have x to the right and y
//! down, in pixels. Hartley and Zisserman 2004, chapter 6: `P = K [R | -R C]`, here with square
//! pixels, the principal point in the middle, no roll and no distortion.

use crate::homography::{CameraView, MapPoint};

/// A camera: where it is, where it looks, how it magnifies.
#[derive(Debug, Clone, PartialEq)]
pub struct SimCamera {
    /// Its name.
    pub id: String,
    /// Index of the room that it hangs in.
    pub room: usize,
    /// Where it is: x, y, height in metres.
    pub position: [f64; 3],
    /// Which way it looks on the map, in radians from the x axis towards the y axis.
    pub yaw: f64,
    /// How far down it looks, in radians from the horizontal.
    pub pitch: f64,
    /// Focal length in pixels.
    pub focal: f64,
    /// Width and height of the picture in pixels.
    pub image_size: [u32; 2],
}

impl SimCamera {
    /// A camera at `position` that looks at `target`, its picture `angle` radians wide.
    pub fn looking_at(
        id: String,
        room: usize,
        position: [f64; 3],
        target: [f64; 3],
        angle: f64,
        image_size: [u32; 2],
    ) -> Self {
        let to: [f64; 3] = std::array::from_fn(|axis| target[axis] - position[axis]);
        Self {
            id,
            room,
            position,
            yaw: to[1].atan2(to[0]),
            pitch: (-to[2]).atan2(to[0].hypot(to[1])),
            focal: f64::from(image_size[0]) / 2.0 / (angle / 2.0).tan(),
            image_size,
        }
    }

    /// The camera's axes in the world: to the right of the picture, down it, into it.
    fn axes(&self) -> [[f64; 3]; 3] {
        let (sin_yaw, cos_yaw) = self.yaw.sin_cos();
        let (sin_pitch, cos_pitch) = self.pitch.sin_cos();
        [
            [sin_yaw, -cos_yaw, 0.0],
            [-cos_yaw * sin_pitch, -sin_yaw * sin_pitch, -cos_pitch],
            [cos_yaw * cos_pitch, sin_yaw * cos_pitch, -sin_pitch],
        ]
    }

    /// The 3×4 matrix that projects the world into the picture, row by row.
    pub fn projection(&self) -> [[f64; 4]; 3] {
        let axes = self.axes();
        let [width, height] = self.image_size.map(f64::from);
        let rows = axes.map(|axis| [axis[0], axis[1], axis[2], -dot(axis, self.position)]);
        let mix = |row: [f64; 4], centre: f64| {
            std::array::from_fn(|column| self.focal * row[column] + centre * rows[2][column])
        };
        [
            mix(rows[0], width / 2.0),
            mix(rows[1], height / 2.0),
            rows[2],
        ]
    }

    /// The camera's calibration; its valid area is everywhere.
    ///
    /// `None` for numbers that make no camera.
    pub fn view(&self) -> Option<CameraView> {
        CameraView::from_projection(self.projection(), self.image_size.map(f64::from))
    }

    /// How far something is ahead of the camera, in metres along the way it looks.
    pub fn depth(&self, place: MapPoint, height: f64) -> f64 {
        let [_, _, ahead] = self.axes();
        let to = [
            place.x - self.position[0],
            place.y - self.position[1],
            height - self.position[2],
        ];
        dot(ahead, to)
    }

    /// Distance on the map, in metres.
    pub fn distance(&self, place: MapPoint) -> f64 {
        (place.x - self.position[0]).hypot(place.y - self.position[1])
    }
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn camera() -> SimCamera {
        SimCamera::looking_at(
            "c".to_owned(),
            0,
            [0.0, 0.0, 3.0],
            [4.0, 0.0, 0.0],
            std::f64::consts::FRAC_PI_2,
            [800, 600],
        )
    }

    // By hand: the target is in the middle, 5 m away (3-4-5); a metre to the left (+y, looking
    // along x) is 400 px / 5 m to the left.
    #[test]
    fn the_target_is_in_the_middle_and_left_is_left() {
        let view = camera().view().unwrap();
        for (place, expected) in [([4.0, 0.0], [400.0, 300.0]), ([4.0, 1.0], [320.0, 300.0])] {
            let place = MapPoint {
                x: place[0],
                y: place[1],
            };
            let image = view.to_image(place).unwrap();
            assert!((image.x - expected[0]).abs() < 1e-9, "{image:?}");
            assert!((image.y - expected[1]).abs() < 1e-9, "{image:?}");
            let head = view.head(place, 1.0).unwrap();
            assert!(head.y < image.y, "{head:?}");
            assert!((camera().depth(place, 0.0) - 5.0).abs() < 1e-9);
        }
    }
}
