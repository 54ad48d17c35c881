//! Bilinear resize of 8-bit images as OpenCV's `resize(…, INTER_LINEAR)` rounds it.
//!
//! Half-pixel centres, two taps each way, no antialiasing. Weights are rounded to 11 bits; the
//! sum over both directions is cut by 4 + 16 bits and rounded by 2, which is what OpenCV's
//! fixed-point path does. Compared with OpenCV's own output in the tests.

use image::RgbImage;

use super::part::{Part, collect};
use crate::ops::cpu::pixels::{MixColumns, Tap, mix_rows};

const COEFFICIENT_BITS: u32 = 11;

/// Where each target position lies between two source positions, which are `unit` apart.
fn taps(source: u32, target: u32, unit: usize) -> Vec<Tap> {
    let scale = f64::from(source) / f64::from(target);
    let one = (1 << COEFFICIENT_BITS) as f32;
    let last = source as isize - 1;
    let mut taps = Vec::with_capacity(target as usize);
    for position in 0..target {
        let at = ((f64::from(position) + 0.5) * scale - 0.5) as f32;
        let mut cell = at.floor() as isize;
        let mut fraction = at - cell as f32;
        if cell < 0 {
            (cell, fraction) = (0, 0.0);
        }
        if cell >= last {
            (cell, fraction) = (last, 0.0);
        }
        let second = (fraction * one).round_ties_even() as i32;
        let first = ((1.0 - fraction) * one).round_ties_even() as i32;
        // What does not count is not read.
        let next = if second == 0 { cell } else { cell + 1 };
        taps.push(Tap {
            at: [cell, next].map(|cell| cell as usize * unit),
            weights: [first, second],
        });
    }
    taps
}

/// Resizes to `width` × `height`. The image and the target must have pixels.
pub fn resize_bilinear(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    collect(width, height, |line| {
        lines(&Part::whole(image), width, height, line);
    })
}

/// The same of a part of a frame: gives `line` each row's number and its bytes, in order.
pub(super) fn lines(part: &Part<'_>, width: u32, height: u32, line: &mut dyn FnMut(usize, &[u8])) {
    if part.size() == (width, height) {
        return part.lines(line);
    }
    let (source_width, source_height) = part.size();
    let columns = MixColumns::new(taps(source_width, width, 3));
    let rows = taps(source_height, height, 1);
    let mut output = vec![0_u8; width as usize * 3];
    // Horizontally resized rows, kept while the next target rows need them again.
    let mut cache = [(); 2].map(|()| (usize::MAX, vec![0_i16; columns.room()]));
    for (y, tap) in rows.iter().enumerate() {
        if cache[0].0 != tap.at[0] && cache[1].0 == tap.at[0] {
            cache.swap(0, 1);
        }
        let different = if tap.at[0] == tap.at[1] { 1 } else { 2 };
        for ((cached, numbers), row) in cache[..different].iter_mut().zip(tap.at) {
            if *cached != row {
                columns.run(numbers, part.row(row));
                *cached = row;
            }
        }
        mix_rows(
            &mut output,
            [&cache[0].1, &cache[different - 1].1],
            tap.weights,
        );
        line(y, &output);
    }
}
