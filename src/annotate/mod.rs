//! Draws boxes and their labels on a frame.
//!
//! One stable colour an ID, anti-aliased text on a plate of that colour, line and text sizes
//! that follow the frame's. What reaches beyond the frame is cut off; labels are moved so that
//! they stay inside. The font is Hack (MIT and Bitstream Vera licences).

pub mod privacy;
mod text;

use image::{Rgb, RgbImage};
use mtmc_models::BBox;

use self::text::TextRenderer;

/// Longest label in characters; longer ones are cut.
const MAX_LABEL_CHARS: usize = 64;

/// One box with its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// Where, in pixels of the image that is drawn on. Boxes with coordinates that are not
    /// finite, or entirely outside, are left out.
    pub bbox: BBox,
    /// What to write above it; empty for no plate.
    pub text: String,
    /// What decides the colour: the track ID or the class.
    pub color_key: u64,
}

/// Draws on images; made once and used for every frame, by any number of threads.
#[derive(Debug, Default)]
pub struct Annotator {
    text: TextRenderer,
}

/// Line width and text size, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Style {
    line: i64,
    text: u32,
}

impl Style {
    /// For 1080p: lines of 3 pixels and text of 24; for 576p: 2 and 13.
    fn for_size(width: u32, height: u32) -> Self {
        let short = width.min(height);
        Self {
            line: i64::from((short + 180) / 360).clamp(1, 16),
            text: (short / 45).clamp(12, 96),
        }
    }
}

/// A rectangle of whole pixels; right and bottom are exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Area {
    left: i64,
    top: i64,
    right: i64,
    bottom: i64,
}

impl Annotator {
    /// A drawer with the built-in font.
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws all boxes, then all labels, so that no box crosses a label.
    pub fn annotate(&self, image: &mut RgbImage, items: &[Label]) {
        let style = Style::for_size(image.width(), image.height());
        for item in items {
            if let Some(area) = visible_area(image, &item.bbox) {
                outline(image, area, style.line, color(item.color_key));
            }
        }
        for item in items {
            if let Some(area) = visible_area(image, &item.bbox) {
                self.draw_label(image, area, style, item);
            }
        }
    }

    /// Writes a line of text `size` pixels high, its upper left corner at `x`, `y`; what reaches
    /// beyond the image is cut off.
    pub fn write(&self, image: &mut RgbImage, text: &str, size: u32, x: i64, y: i64, ink: Rgb<u8>) {
        let text: String = text.chars().take(MAX_LABEL_CHARS).collect();
        let line = self.text.layout(&text, size);
        self.text.draw(image, &line, x, y, ink);
    }

    fn draw_label(&self, image: &mut RgbImage, area: Area, style: Style, item: &Label) {
        if item.text.is_empty() {
            return;
        }
        let text: String = item.text.chars().take(MAX_LABEL_CHARS).collect();
        let fill = color(item.color_key);
        let line = self.text.layout(&text, style.text);
        let padding = i64::from(style.text / 6).max(1);
        let width = line.width + 2 * padding;
        let height = line.height + padding;
        let plate = place_plate(image, area, style.line, width, height);
        fill_area(image, plate, fill);
        let (x, y) = (plate.left + padding, plate.top + padding / 2);
        self.text.draw(image, &line, x, y, readable_on(fill));
    }
}

/// The box in whole pixels, or `None` when nothing of it can be seen. Its edges may lie
/// outside the frame, by no more than one frame.
fn visible_area(image: &RgbImage, bbox: &BBox) -> Option<Area> {
    if !bbox.is_finite() {
        return None;
    }
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    // Beyond one frame's distance it makes no difference where an edge lies.
    let x = |value: f32| f64::from(value).clamp(-width, 2.0 * width).round() as i64;
    let y = |value: f32| f64::from(value).clamp(-height, 2.0 * height).round() as i64;
    let area = Area {
        left: x(bbox.x1.min(bbox.x2)),
        top: y(bbox.y1.min(bbox.y2)),
        right: x(bbox.x1.max(bbox.x2)),
        bottom: y(bbox.y1.max(bbox.y2)),
    };
    let seen = area.right >= 0
        && area.bottom >= 0
        && area.left < i64::from(image.width())
        && area.top < i64::from(image.height());
    seen.then_some(area)
}

/// Four bars of `line` pixels, centred on the edges of `area`.
fn outline(image: &mut RgbImage, area: Area, line: i64, fill: Rgb<u8>) {
    let before = line / 2;
    let after = line - before;
    let (left, right) = (area.left - before, area.right + after);
    let (top, bottom) = (area.top - before, area.bottom + after);
    let bar = |left, top, right, bottom| Area {
        left,
        top,
        right,
        bottom,
    };
    fill_area(image, bar(left, top, right, top + line), fill);
    fill_area(image, bar(left, bottom - line, right, bottom), fill);
    fill_area(image, bar(left, top, left + line, bottom), fill);
    fill_area(image, bar(right - line, top, right, bottom), fill);
}

/// Where a label's plate goes: on the box's upper edge; below that edge when there is no room
/// above; moved sideways and vertically into the frame.
fn place_plate(image: &RgbImage, area: Area, line: i64, width: i64, height: i64) -> Area {
    let before = line / 2;
    let above = area.top - before - height;
    let top = if above >= 0 { above } else { area.top - before };
    let room_x = (i64::from(image.width()) - width).max(0);
    let room_y = (i64::from(image.height()) - height).max(0);
    let left = (area.left - before).clamp(0, room_x);
    let top = top.clamp(0, room_y);
    Area {
        left,
        top,
        right: left + width,
        bottom: top + height,
    }
}

/// Fills the part of `area` that lies in the image.
fn fill_area(image: &mut RgbImage, area: Area, fill: Rgb<u8>) {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let (left, right) = (area.left.clamp(0, width), area.right.clamp(0, width));
    let (top, bottom) = (area.top.clamp(0, height), area.bottom.clamp(0, height));
    if left >= right {
        return;
    }
    let pixels: &mut [u8] = image;
    for y in top..bottom {
        let start = ((y * width + left) * 3) as usize;
        let end = ((y * width + right) * 3) as usize;
        for pixel in pixels[start..end].chunks_exact_mut(3) {
            pixel.copy_from_slice(&fill.0);
        }
    }
}

/// The colour of a key: hues a golden section apart, so that neighbouring keys differ most.
pub fn color(key: u64) -> Rgb<u8> {
    const GOLDEN_SECTION: f64 = 0.618_033_988_749_894_9;
    // Large keys would lose their fraction in floating point; the sequence repeats long after
    // any eye could tell.
    let hue = ((key % 1_000_003) as f64 * GOLDEN_SECTION).fract();
    // Three steps of brightness keep apart the keys whose hues come close.
    let value = [1.0, 0.8, 0.9][(key % 3) as usize];
    hsv(hue, 0.8, value)
}

/// HSV with all of it in 0..=1 to RGB.
fn hsv(hue: f64, saturation: f64, value: f64) -> Rgb<u8> {
    let channel = |shift: f64| {
        let k = (shift + hue * 6.0) % 6.0;
        let fade = k.min(4.0 - k).clamp(0.0, 1.0);
        ((value - value * saturation * fade) * 255.0).round() as u8
    };
    Rgb([channel(5.0), channel(3.0), channel(1.0)])
}

/// Black or white, whichever reads better on `fill` (luma of ITU-R BT.601).
fn readable_on(fill: Rgb<u8>) -> Rgb<u8> {
    let [r, g, b] = fill.0.map(u32::from);
    let luma = (299 * r + 587 * g + 114 * b) / 1000;
    if luma > 140 {
        Rgb([0, 0, 0])
    } else {
        Rgb([255, 255, 255])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(x1: f32, y1: f32, x2: f32, y2: f32, text: &str) -> Label {
        Label {
            bbox: BBox::from_xyxy(x1, y1, x2, y2),
            text: text.to_string(),
            color_key: 7,
        }
    }

    const GREY: Rgb<u8> = Rgb([100, 100, 100]);

    fn painted(image: &RgbImage) -> Vec<(u32, u32)> {
        let changed = image
            .enumerate_pixels()
            .filter(|(_, _, pixel)| **pixel != GREY);
        changed.map(|(x, y, _)| (x, y)).collect()
    }

    #[test]
    fn a_box_is_drawn_on_its_edges() {
        let mut image = RgbImage::from_pixel(200, 100, GREY);
        Annotator::new().annotate(&mut image, &[label(50.0, 40.0, 90.0, 80.0, "")]);
        let fill = color(7);
        for (x, y) in [(50, 40), (70, 40), (90, 60), (50, 80), (90, 80)] {
            assert_eq!(*image.get_pixel(x, y), fill, "at {x},{y}");
        }
        for (x, y) in [(49, 60), (51, 60), (70, 39), (70, 41), (91, 81), (70, 60)] {
            assert_eq!(*image.get_pixel(x, y), GREY, "at {x},{y}");
        }
        // Four edges of one pixel: 41 + 41 + 39 + 39.
        assert_eq!(painted(&image).len(), 160);
    }

    #[test]
    fn labels_stay_in_the_frame_and_above_the_box_where_they_can() {
        let annotator = Annotator::new();
        let mut image = RgbImage::from_pixel(300, 200, GREY);
        annotator.annotate(&mut image, &[label(100.0, 100.0, 180.0, 190.0, "#1 0.98")]);
        let top = painted(&image).iter().map(|&(_, y)| y).min().unwrap();
        assert!((80..95).contains(&top), "the plate starts at row {top}");

        // Whole plates, wherever the box lies: the number of painted pixels of the label alone
        // is the same everywhere.
        let areas: Vec<Area> = [(0.0, 0.0), (290.0, 0.0), (0.0, 199.0), (295.0, 195.0)]
            .iter()
            .map(|&(x, y)| {
                let area = visible_area(&image, &BBox::from_tlwh(x, y, 40.0, 50.0)).unwrap();
                place_plate(&image, area, 1, 60, 16)
            })
            .collect();
        for area in areas {
            assert!(area.left >= 0 && area.top >= 0, "{area:?}");
            assert!(area.right <= 300 && area.bottom <= 200, "{area:?}");
        }
    }

    #[test]
    fn labels_are_readable() {
        let mut image = RgbImage::from_pixel(300, 200, GREY);
        Annotator::new().annotate(&mut image, &[label(100.0, 100.0, 180.0, 190.0, "#88")]);
        let ink = readable_on(color(7));
        // Strokes of small text are about one pixel wide, so few are covered entirely.
        let close = |pixel: &&Rgb<u8>| {
            let distances = pixel
                .0
                .iter()
                .zip(ink.0)
                .map(|(&value, ink)| value.abs_diff(ink));
            distances.max() < Some(80)
        };
        let inked = image.pixels().filter(close).count();
        assert!(inked > 20, "{inked} pixels close to the text's colour");
    }

    #[test]
    fn wild_boxes_do_no_harm() {
        let annotator = Annotator::new();
        let mut image = RgbImage::from_pixel(40, 30, GREY);
        let wild = [
            label(f32::NAN, 0.0, 10.0, 10.0, "nan"),
            label(0.0, 0.0, f32::INFINITY, 10.0, "infinite"),
            label(100.0, 100.0, 200.0, 200.0, "outside"),
            label(-50.0, -50.0, -10.0, -10.0, "outside"),
        ];
        annotator.annotate(&mut image, &wild);
        assert!(painted(&image).is_empty());
        let huge = [
            label(-1e30, -1e30, 1e30, 1e30, "huge"),
            label(30.0, 20.0, 10.0, 5.0, "swapped"),
            label(5.0, 5.0, 5.0, 5.0, &"long ".repeat(1000)),
            label(5.0, 5.0, 9.0, 9.0, "日本語 \u{0} \u{200b} 🙂"),
        ];
        annotator.annotate(&mut image, &huge);
        annotator.annotate(&mut RgbImage::new(1, 1), &huge);
        annotator.annotate(&mut RgbImage::new(0, 0), &huge);
    }

    #[test]
    fn neighbouring_ids_have_distinct_colours() {
        let distance = |a: u64, b: u64| -> i32 {
            let (a, b) = (color(a).0, color(b).0);
            a.iter()
                .zip(b)
                .map(|(&a, b)| i32::from(a.abs_diff(b)))
                .sum()
        };
        for key in 0..200 {
            for next in 1..=4 {
                let between = distance(key, key + next);
                assert!(between > 60, "{key} and {}: {between}", key + next);
            }
        }
        assert_eq!(color(5), color(5));
        color(u64::MAX);
    }

    #[test]
    fn hsv_corners() {
        assert_eq!(hsv(0.0, 1.0, 1.0), Rgb([255, 0, 0]));
        assert_eq!(hsv(1.0 / 3.0, 1.0, 1.0), Rgb([0, 255, 0]));
        assert_eq!(hsv(2.0 / 3.0, 1.0, 1.0), Rgb([0, 0, 255]));
        assert_eq!(hsv(0.5, 0.0, 1.0), Rgb([255, 255, 255]));
    }
}
