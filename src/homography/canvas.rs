//! Soft lines on an image, straight in the picture or on the floor.

use std::collections::HashMap;

use image::{Rgb, RgbImage};

use super::view::CameraView;
use super::{ImagePoint, MapPoint};

/// Pieces that a line of the floor is drawn in, so that what is behind the camera can be left out.
const PIECES: usize = 400;

/// Largest coordinate, in pixels, of a line's ends.
const FARTHEST: f64 = 1e9;

/// An image that lines are drawn on.
pub(super) struct Canvas<'a> {
    image: &'a mut RgbImage,
    /// Factor of all widths.
    thickness: f64,
    /// Size of text in pixels.
    pub(super) text: u32,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(image: &'a mut RgbImage) -> Self {
        let short = image.width().min(image.height());
        Self {
            thickness: (f64::from(short) / 540.0).max(1.0),
            text: (short / 45).clamp(12, 96),
            image,
        }
    }

    /// Draws a straight line of the floor, as far as it is in front of the camera; where it first
    /// shows up in the frame.
    pub(super) fn floor_line(
        &mut self,
        view: &CameraView,
        from: MapPoint,
        to: MapPoint,
        ink: Rgb<u8>,
        width: f64,
    ) -> Option<ImagePoint> {
        let mut first = None;
        let mut before = None;
        let mut pieces = Vec::with_capacity(PIECES);
        for piece in 0..=PIECES {
            let t = piece as f64 / PIECES as f64;
            let place = MapPoint {
                x: from.x + (to.x - from.x) * t,
                y: from.y + (to.y - from.y) * t,
            };
            let point = view.to_image(place);
            if let (Some(a), Some(b)) = (before, point) {
                pieces.push((a, b));
            }
            first = first.or_else(|| point.filter(|point| self.holds(*point)));
            before = point;
        }
        self.stroke(&pieces, ink, width);
        first
    }

    fn holds(&self, point: ImagePoint) -> bool {
        let (width, height) = (
            f64::from(self.image.width()),
            f64::from(self.image.height()),
        );
        (0.0..width).contains(&point.x) && (0.0..height).contains(&point.y)
    }

    /// Draws a line with soft edges; what reaches beyond the frame is cut off.
    pub(super) fn line(&mut self, from: ImagePoint, to: ImagePoint, ink: Rgb<u8>, width: f64) {
        self.stroke(&[(from, to)], ink, width);
    }

    /// Draws lines with soft edges as one: where they overlap, they do not add up.
    fn stroke(&mut self, lines: &[(ImagePoint, ImagePoint)], ink: Rgb<u8>, width: f64) {
        let half = width * self.thickness / 2.0;
        let mut coverage = HashMap::new();
        for &(from, to) in lines {
            if let Some((from, to)) = self.clipped(from, to, half + 1.0) {
                cover(&mut coverage, from, to, half);
            }
        }
        // In any order: no two are the same pixel.
        for ((x, y), weight) in coverage {
            self.blend(x, y, ink, weight);
        }
    }

    /// The part of a line in the frame and a margin around it (Liang and Barsky 1984).
    fn clipped(
        &self,
        from: ImagePoint,
        to: ImagePoint,
        margin: f64,
    ) -> Option<(ImagePoint, ImagePoint)> {
        // Of what is farther away, digits do not suffice to cut it off; NaN is not near either.
        let near = [from.x, from.y, to.x, to.y]
            .iter()
            .all(|v| v.abs() <= FARTHEST);
        if !near {
            return None;
        }
        let high = [
            f64::from(self.image.width()) + margin,
            f64::from(self.image.height()) + margin,
        ];
        let (start, delta) = ([from.x, from.y], [to.x - from.x, to.y - from.y]);
        let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
        for axis in 0..2 {
            let (low, high) = (-margin - start[axis], high[axis] - start[axis]);
            if delta[axis] == 0.0 {
                if low > 0.0 || high < 0.0 {
                    return None;
                }
                continue;
            }
            let (a, b) = (low / delta[axis], high / delta[axis]);
            enter = enter.max(a.min(b));
            leave = leave.min(a.max(b));
        }
        let at = |t: f64| ImagePoint {
            x: start[0] + delta[0] * t,
            y: start[1] + delta[1] * t,
        };
        (enter <= leave).then(|| (at(enter), at(leave)))
    }

    fn blend(&mut self, x: i64, y: i64, ink: Rgb<u8>, weight: f64) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else {
            return;
        };
        if let Some(pixel) = self.image.get_pixel_mut_checked(x, y) {
            for (value, ink) in pixel.0.iter_mut().zip(ink.0) {
                *value =
                    (f64::from(*value) * (1.0 - weight) + f64::from(ink) * weight).round() as u8;
            }
        }
    }
}

/// Raises pixels' coverage to that by a line of `half` the width, in pixels.
fn cover(coverage: &mut HashMap<(i64, i64), f64>, from: ImagePoint, to: ImagePoint, half: f64) {
    let (dx, dy) = (to.x - from.x, to.y - from.y);
    let length = dx * dx + dy * dy;
    // How far along the line a point is, 0 to 1.
    let along = |x: f64, y: f64| {
        let t = ((x - from.x) * dx + (y - from.y) * dy) / length;
        if length > 0.0 { t.clamp(0.0, 1.0) } else { 0.0 }
    };
    // Along the longer axis, pixel by pixel, over the width across.
    let steep = dy.abs() > dx.abs();
    let (start, end) = if steep {
        (from.y, to.y)
    } else {
        (from.x, to.x)
    };
    let reach = (half + 1.0) * std::f64::consts::SQRT_2;
    let first = (start.min(end) - reach).floor() as i64;
    let last = (start.max(end) + reach).ceil() as i64;
    for main in first..=last {
        let t = (main as f64 - start) / (end - start);
        let t = if end == start { 0.0 } else { t.clamp(0.0, 1.0) };
        let middle = if steep {
            from.x + dx * t
        } else {
            from.y + dy * t
        };
        for across in (middle - reach).floor() as i64..=(middle + reach).ceil() as i64 {
            let (x, y) = if steep {
                (across, main)
            } else {
                (main, across)
            };
            // Pixels are centred at half coordinates.
            let (px, py) = (x as f64 + 0.5, y as f64 + 0.5);
            let t = along(px, py);
            let distance = (px - from.x - dx * t).hypot(py - from.y - dy * t);
            let covered = (half + 0.5 - distance).clamp(0.0, 1.0);
            let most = coverage.entry((x, y)).or_insert(0.0);
            *most = covered.max(*most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHITE: Rgb<u8> = Rgb([255; 3]);

    #[test]
    fn lines_far_outside_cost_nothing_and_do_no_harm() {
        let mut image = RgbImage::new(40, 30);
        let mut canvas = Canvas::new(&mut image);
        let point = |x, y| ImagePoint { x, y };
        canvas.line(point(-1e300, 5.0), point(-100.0, 5.0), WHITE, 1.0);
        canvas.line(point(f64::NAN, 5.0), point(10.0, 5.0), WHITE, 1.0);
        canvas.line(point(5.0, f64::INFINITY), point(10.0, 5.0), WHITE, 1.0);
        assert!(image.pixels().all(|pixel| pixel.0 == [0; 3]));
        Canvas::new(&mut image).line(point(-1e9, 15.5), point(1e9, 15.5), WHITE, 1.0);
        assert_eq!(
            image.pixels().filter(|pixel| pixel.0 == [255; 3]).count(),
            40
        );
        Canvas::new(&mut image).line(point(20.5, 3.5), point(20.5, 3.5), WHITE, 1.0);
        assert_eq!(image.get_pixel(20, 3), &WHITE);
    }
}
