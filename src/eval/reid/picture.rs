//! A query's ranked list as a picture: the query, then the nearest gallery images in frames of
//! green (its ID) or red (another's).

use image::{Rgb, RgbImage, imageops};
use mtmc_models::preprocess::{Filter, resize_pil};

use crate::annotate::Annotator;

/// Size of an image in the picture; others are fitted into it.
const WIDTH: u32 = 128;
const HEIGHT: u32 = 256;
/// Width of the coloured frame, and of what is free around it.
const FRAME: u32 = 6;
const GAP: u32 = 8;
/// Height of a line of text.
const TEXT: u32 = 15;

const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb<u8> = Rgb([0, 0, 0]);
const NEUTRAL: Rgb<u8> = Rgb([60, 60, 60]);
const RIGHT: Rgb<u8> = Rgb([0, 160, 60]);
const WRONG: Rgb<u8> = Rgb([215, 30, 30]);

/// One image of the picture.
#[derive(Debug, Clone)]
pub struct PictureEntry {
    /// The image itself.
    pub image: RgbImage,
    /// Two lines below it.
    pub caption: [String; 2],
    /// Whether it shows the query's ID; `None` for the query.
    pub correct: Option<bool>,
}

/// Draws the entries side by side.
pub fn ranked_list(entries: &[PictureEntry]) -> RgbImage {
    let cell_width = WIDTH + 2 * FRAME;
    let cell_height = HEIGHT + 2 * FRAME;
    let count = entries.len() as u32;
    let width = GAP + count * (cell_width + GAP);
    let height = GAP + cell_height + GAP / 2 + 2 * (TEXT + 2) + GAP;
    let mut picture = RgbImage::from_pixel(width, height, PAPER);
    let annotator = Annotator::new();
    for (entry, column) in entries.iter().zip(0_i64..) {
        let left = i64::from(GAP) + column * i64::from(cell_width + GAP);
        let top = i64::from(GAP);
        let color = match entry.correct {
            None => NEUTRAL,
            Some(true) => RIGHT,
            Some(false) => WRONG,
        };
        let mut cell = RgbImage::from_pixel(cell_width, cell_height, color);
        place(&mut cell, &entry.image);
        imageops::replace(&mut picture, &cell, left, top);
        let mut y = top + i64::from(cell_height + GAP / 2);
        for line in &entry.caption {
            annotator.write(&mut picture, line, TEXT, left, y, INK);
            y += i64::from(TEXT + 2);
        }
    }
    picture
}

/// Puts the image, as large as fits, into the middle of the frame.
fn place(cell: &mut RgbImage, image: &RgbImage) {
    if image.width() == 0 || image.height() == 0 {
        return;
    }
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    let scale = (f64::from(WIDTH) / width).min(f64::from(HEIGHT) / height);
    let side = |length: f64, limit: u32| ((length * scale).round() as u32).clamp(1, limit);
    let (width, height) = (side(width, WIDTH), side(height, HEIGHT));
    let fitted = resize_pil(image, width, height, Filter::Bicubic);
    let blank = RgbImage::from_pixel(WIDTH, HEIGHT, PAPER);
    imageops::replace(cell, &blank, i64::from(FRAME), i64::from(FRAME));
    let left = FRAME + (WIDTH - width) / 2;
    let top = FRAME + (HEIGHT - height) / 2;
    imageops::replace(cell, &fitted, i64::from(left), i64::from(top));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_tell_right_from_wrong() {
        let entry = |correct, side| PictureEntry {
            image: RgbImage::from_pixel(side, 128, Rgb([9, 9, 9])),
            caption: ["#1".to_string(), String::new()],
            correct,
        };
        // The second is wider than it should be, the third has no pixels.
        let entries = [
            entry(None, 64),
            entry(Some(true), 200),
            entry(Some(false), 0),
        ];
        let picture = ranked_list(&entries);
        let step = WIDTH + 2 * FRAME + GAP;
        let corner = |cell: u32| *picture.get_pixel(GAP + cell * step, GAP);
        assert_eq!([corner(0), corner(1), corner(2)], [NEUTRAL, RIGHT, WRONG]);
        let middle = |cell: u32| *picture.get_pixel(GAP + cell * step + step / 2, GAP + HEIGHT / 2);
        assert_eq!([middle(0), middle(1)], [Rgb([9, 9, 9]); 2]);
    }
}
