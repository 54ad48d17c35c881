//! A picture to check a calibration by eye: the map's grid drawn on a frame, the calibration points
//! and how far off they are, the horizon, the valid area.

use std::collections::HashMap;

use image::{Rgb, RgbImage};

use super::calibration::Calibration;
use super::view::CameraView;
use super::{ImagePoint, MapPoint};
use crate::annotate::Annotator;

/// Lines of the grid each way: about so many, and at most so many.
const LINES: (f64, i64) = (12.0, 200);

/// Pieces that a line of the floor is drawn in, so that what is behind the camera can be left out.
const PIECES: usize = 400;

/// Where nothing says what matters, the grid reaches from the picture's lower edge up this share of
/// the way to the horizon.
const DEPTH: f64 = 0.8;

/// Colours that remain apart for colour-blind eyes (Okabe and Ito 2008).
const X_LINES: Rgb<u8> = Rgb([86, 180, 233]);
const Y_LINES: Rgb<u8> = Rgb([240, 228, 66]);
const AREA: Rgb<u8> = Rgb([0, 158, 115]);
const HORIZON: Rgb<u8> = Rgb([204, 121, 167]);
const INLIER: Rgb<u8> = Rgb([255, 255, 255]);
const OUTLIER: Rgb<u8> = Rgb([213, 60, 0]);
const SHADOW: Rgb<u8> = Rgb([0, 0, 0]);

/// A rectangle of the map.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    low: [f64; 2],
    high: [f64; 2],
}

impl Bounds {
    fn of(places: impl IntoIterator<Item = MapPoint>) -> Option<Self> {
        let mut bounds = Self {
            low: [f64::INFINITY; 2],
            high: [f64::NEG_INFINITY; 2],
        };
        for place in places {
            for (axis, value) in [place.x, place.y].into_iter().enumerate() {
                bounds.low[axis] = bounds.low[axis].min(value);
                bounds.high[axis] = bounds.high[axis].max(value);
            }
        }
        let size = bounds.size();
        (size.is_finite() && size > 0.0).then_some(bounds)
    }

    /// The longer side.
    fn size(&self) -> f64 {
        (self.high[0] - self.low[0]).max(self.high[1] - self.low[1])
    }

    /// With a margin of a share of the longer side all around.
    fn widened(mut self, share: f64) -> Self {
        let margin = self.size() * share;
        self.low = self.low.map(|v| v - margin);
        self.high = self.high.map(|v| v + margin);
        self
    }
}

/// A step of 1, 2 or 5 times a power of ten that gives about a dozen lines over `length`.
fn round_step(length: f64) -> f64 {
    let rough = length / LINES.0;
    let power = 10_f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|t| t * power >= rough * 0.999);
    times.unwrap_or(10.0) * power
}

/// Which part of the map the grid covers.
fn covered(calibration: &Calibration, view: &CameraView) -> Option<Bounds> {
    if !view.area().is_empty() {
        return Bounds::of(view.area().iter().copied());
    }
    let used = calibration.points.iter().zip(&calibration.inliers);
    let places = used.filter_map(|(pair, keep)| keep.then_some(pair.map));
    if let Some(bounds) = Bounds::of(places) {
        return Some(bounds.widened(0.25));
    }
    let [width, height] = view.image_size();
    let mut places = Vec::new();
    for column in [0.0, 0.5, 1.0] {
        let x = column * width;
        let floor = |y: f64| view.floor().to_map(ImagePoint { x, y }).is_ok();
        // The rows of a column that show floor lie together, at the lower edge.
        let rows: Vec<f64> = (0..=64)
            .map(|i| height * f64::from(64 - i) / 64.0)
            .take_while(|&y| floor(y))
            .collect();
        let far = (rows.len() as f64 * DEPTH) as usize;
        for index in [0, far] {
            if let Some(&y) = rows.get(index) {
                places.extend(view.floor().to_map(ImagePoint { x, y }));
            }
        }
    }
    Bounds::of(places)
}

/// Draws grid, horizon, valid area and points on a frame that `view` is of.
///
/// `step`: distance of the grid's lines in map units; chosen, if `None`. Returns the step that was
/// drawn, `None` if the frame shows no floor.
pub fn draw_check(
    image: &mut RgbImage,
    calibration: &Calibration,
    view: &CameraView,
    step: Option<f64>,
) -> Option<f64> {
    let annotator = Annotator::new();
    let mut canvas = Canvas::new(image);
    let mut drawn = None;
    let mut labels = Vec::new();
    if let Some(bounds) = covered(calibration, view) {
        let step = step.unwrap_or_else(|| round_step(bounds.size()));
        labels = grid(&mut canvas, view, bounds, step);
        drawn = Some(step);
    }
    let corners = view.area();
    let mut before = corners.last();
    for corner in corners {
        if let Some(from) = before {
            canvas.floor_line(view, *from, *corner, AREA, 2.0);
        }
        before = Some(corner);
    }
    horizon(&mut canvas, view);
    points(&mut canvas, calibration, view, &mut labels);
    let size = canvas.text;
    for label in labels {
        write(&annotator, image, &label, size);
    }
    let legend = legend(calibration, drawn);
    for (row, text) in (0..).zip(legend) {
        let at = ImagePoint {
            x: f64::from(size) / 2.0,
            y: f64::from(size) * (0.5 + 1.3 * f64::from(row)),
        };
        let label = Text {
            at,
            text,
            ink: INLIER,
        };
        write(&annotator, image, &label, size);
    }
    drawn
}

/// A line of text to be written, its upper left corner at a point.
struct Text {
    at: ImagePoint,
    text: String,
    ink: Rgb<u8>,
}

/// Writes with a dark rim, so that it reads on any ground.
fn write(annotator: &Annotator, image: &mut RgbImage, label: &Text, size: u32) {
    let (x, y) = (label.at.x.round() as i64, label.at.y.round() as i64);
    for (dx, dy) in [(-1, 0), (1, 0), (0, -1), (0, 1)] {
        annotator.write(image, &label.text, size, x + dx, y + dy, SHADOW);
    }
    annotator.write(image, &label.text, size, x, y, label.ink);
}

fn legend(calibration: &Calibration, step: Option<f64>) -> Vec<String> {
    let units = &calibration.map_units;
    let mut lines = Vec::new();
    if let Some(step) = step {
        lines.push(format!("grid: {} {units}", short(step)));
    }
    if let Some(error) = calibration.error_summary() {
        lines.push(format!(
            "{} of {} points: mean {:.2} px, max {:.2} px",
            error.inliers, error.points, error.mean_pixels, error.max_pixels
        ));
    }
    lines
}

/// A number without trailing zeros.
fn short(value: f64) -> String {
    // Of a step such as 0.1, multiples are off by rounding.
    let rounded = format!("{value:.6}");
    let text = rounded.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_string()
}

/// Draws lines of equal x and of equal y; their coordinates are to be written where they begin.
fn grid(canvas: &mut Canvas<'_>, view: &CameraView, bounds: Bounds, step: f64) -> Vec<Text> {
    let mut labels = Vec::new();
    for axis in 0..2 {
        let other = 1 - axis;
        let first = (bounds.low[axis] / step).ceil() as i64;
        let last = ((bounds.high[axis] / step).floor() as i64).min(first + LINES.1);
        for index in first..=last {
            let value = index as f64 * step;
            let place = |along: f64| {
                if axis == 0 {
                    MapPoint { x: value, y: along }
                } else {
                    MapPoint { x: along, y: value }
                }
            };
            let (from, to) = (place(bounds.low[other]), place(bounds.high[other]));
            let ink = [X_LINES, Y_LINES][axis];
            let width = if index == 0 { 2.0 } else { 1.0 };
            let Some(at) = canvas.floor_line(view, from, to, ink, width) else {
                continue;
            };
            let text = format!("{}{}", ["x", "y"][axis], short(value));
            labels.push(Text { at, text, ink });
        }
    }
    labels
}

/// Where the floor ends: the third coordinate is 0.
fn horizon(canvas: &mut Canvas<'_>, view: &CameraView) {
    let [a, b, c] = view.floor().matrix()[2];
    let [width, _] = view.image_size();
    // Upright horizons belong to cameras lying on their side.
    if b.abs() < 1e-12 {
        return;
    }
    let at = |x: f64| ImagePoint {
        x,
        y: -(a * x + c) / b,
    };
    canvas.line(at(0.0), at(width), HORIZON, 2.0);
}

/// Crosses where points are, lines to where their places appear, numbers and errors beside them.
fn points(
    canvas: &mut Canvas<'_>,
    calibration: &Calibration,
    view: &CameraView,
    labels: &mut Vec<Text>,
) {
    let Some(scale) = calibration.image_size.map(|[w, h]| {
        let [width, height] = view.image_size();
        [width / w, height / h]
    }) else {
        return;
    };
    let arm = f64::from(canvas.text) / 2.0;
    let few = calibration.points.len() <= 100;
    let errors = calibration.errors();
    let each = calibration
        .points
        .iter()
        .zip(&calibration.inliers)
        .zip(&errors);
    for (index, ((pair, inlier), error)) in each.enumerate() {
        let at = ImagePoint {
            x: pair.image.x * scale[0],
            y: pair.image.y * scale[1],
        };
        let ink = if *inlier { INLIER } else { OUTLIER };
        let arm = if few { arm } else { 2.0 };
        for (dx, dy) in [(arm, 0.0), (0.0, arm)] {
            let (from, to) = (
                ImagePoint {
                    x: at.x - dx,
                    y: at.y - dy,
                },
                ImagePoint {
                    x: at.x + dx,
                    y: at.y + dy,
                },
            );
            canvas.line(from, to, ink, 1.0);
        }
        if let Some(seen) = view.to_image(pair.map) {
            canvas.line(at, seen, OUTLIER, 2.0);
        }
        if few {
            let beside = ImagePoint {
                x: at.x + arm * 0.6,
                y: at.y + arm * 0.3,
            };
            let text = format!("{}: {:.1} px", index + 1, error.pixels);
            labels.push(Text {
                at: beside,
                text,
                ink,
            });
        }
    }
}

/// An image that lines are drawn on.
struct Canvas<'a> {
    image: &'a mut RgbImage,
    /// Factor of all widths.
    thickness: f64,
    /// Size of text in pixels.
    text: u32,
}

impl<'a> Canvas<'a> {
    fn new(image: &'a mut RgbImage) -> Self {
        let short = image.width().min(image.height());
        Self {
            thickness: (f64::from(short) / 540.0).max(1.0),
            text: (short / 45).clamp(12, 96),
            image,
        }
    }

    /// Draws a straight line of the floor, as far as it is in front of the camera; where it first
    /// shows up in the frame.
    fn floor_line(
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
    fn line(&mut self, from: ImagePoint, to: ImagePoint, ink: Rgb<u8>, width: f64) {
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
        let finite = [from.x, from.y, to.x, to.y].iter().all(|v| v.is_finite());
        if !finite {
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

    #[test]
    fn steps_are_round() {
        for (length, expected) in [
            (12.0, 1.0),
            (13.0, 2.0),
            (27.0, 5.0),
            (0.9, 0.1),
            (7000.0, 1000.0),
        ] {
            let step = round_step(length);
            assert!(
                (step - expected).abs() < 1e-9 * expected,
                "{length}: {step}"
            );
        }
        assert_eq!(
            [short(0.1 * 3.0), short(-0.0), short(10.0)],
            ["0.3", "0", "10"]
        );
    }

    /// One pixel of the picture is one unit of the map.
    fn flat() -> (Calibration, CameraView) {
        let one = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let calibration = Calibration::from_matrix(one).unwrap();
        let view = calibration.view([120.0, 90.0]).unwrap();
        (calibration, view)
    }

    #[test]
    fn the_grid_lies_where_the_map_says() {
        let (calibration, view) = flat();
        let mut image = RgbImage::new(120, 90);
        assert_eq!(
            draw_check(&mut image, &calibration, &view, Some(30.0)),
            Some(30.0)
        );
        // Lines run between pixels: half of each neighbour is covered.
        for x in [59, 60] {
            assert_eq!(image.get_pixel(x, 80), &X_LINES.map_half(), "column {x}");
        }
        assert_eq!(image.get_pixel(58, 80), &Rgb([0; 3]));
        assert_eq!(image.get_pixel(75, 60), &Y_LINES.map_half());
        assert_eq!(image.get_pixel(75, 80), &Rgb([0; 3]));
    }

    trait Half {
        fn map_half(&self) -> Self;
    }

    impl Half for Rgb<u8> {
        fn map_half(&self) -> Self {
            Rgb(self.0.map(|v| (f64::from(v) * 0.5).round() as u8))
        }
    }

    #[test]
    fn lines_far_outside_cost_nothing_and_do_no_harm() {
        let mut image = RgbImage::new(40, 30);
        let mut canvas = Canvas::new(&mut image);
        let point = |x, y| ImagePoint { x, y };
        canvas.line(point(-1e300, 5.0), point(-100.0, 5.0), INLIER, 1.0);
        canvas.line(point(f64::NAN, 5.0), point(10.0, 5.0), INLIER, 1.0);
        canvas.line(point(5.0, f64::INFINITY), point(10.0, 5.0), INLIER, 1.0);
        assert!(image.pixels().all(|pixel| pixel.0 == [0; 3]));
        Canvas::new(&mut image).line(point(-1e9, 15.5), point(1e9, 15.5), INLIER, 1.0);
        assert_eq!(
            image.pixels().filter(|pixel| pixel.0 == [255; 3]).count(),
            40
        );
        Canvas::new(&mut image).line(point(20.5, 3.5), point(20.5, 3.5), INLIER, 1.0);
        assert_eq!(image.get_pixel(20, 3), &INLIER);
    }
}
