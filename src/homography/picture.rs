//! A picture to check a calibration by eye: the map's grid drawn on a frame, the calibration points
//! and how far off they are, the horizon, the valid area.

use image::{Rgb, RgbImage};

use super::calibration::Calibration;
use super::canvas::Canvas;
use super::view::CameraView;
use super::{ImagePoint, MapPoint};
use crate::annotate::Annotator;

/// Lines of the grid each way: about so many, and at most so many.
const LINES: (f64, i64) = (20.0, 200);

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

/// A step of 1, 2 or 5 times a power of ten that gives about twenty lines over `length`.
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
        return Some(bounds.widened(0.5));
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
    // Of the built-in font, all characters are six tenths as wide as high.
    let width = label.text.chars().count() as f64 * f64::from(size) * 0.62;
    let room = [
        f64::from(image.width()) - width,
        f64::from(image.height()) - f64::from(size) * 1.2,
    ];
    let x = label.at.x.min(room[0]).max(0.0).round() as i64;
    let y = label.at.y.min(room[1]).max(0.0).round() as i64;
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
    let each = calibration.points_with_errors().into_iter();
    for (index, (pair, inlier, error)) in each.enumerate() {
        let at = ImagePoint {
            x: pair.image.x * scale[0],
            y: pair.image.y * scale[1],
        };
        let ink = if inlier { INLIER } else { OUTLIER };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (length, expected) in [
            (20.0, 1.0),
            (21.0, 2.0),
            (45.0, 5.0),
            (1.5, 0.1),
            (12_000.0, 1000.0),
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
}
