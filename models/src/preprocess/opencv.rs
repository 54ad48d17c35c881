//! Bilinear resize of 8-bit images as OpenCV's `resize(…, INTER_LINEAR)` rounds it.
//!
//! Half-pixel centres, two taps each way, no antialiasing. Weights are rounded to 11 bits; the
//! sum over both directions is cut by 4 + 16 bits and rounded by 2, which is what OpenCV's
//! fixed-point path does. Compared with OpenCV's own output in the tests.

use std::borrow::Cow;

use image::RgbImage;

use crate::ops::cpu::pixels::{Tap, mix_columns, mix_rows};

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
        taps.push(Tap {
            at: [cell, (cell + 1).min(last)].map(|cell| cell as usize * unit),
            weights: [first, second],
        });
    }
    taps
}

/// Resizes to `width` × `height`. The image and the target must have pixels.
pub fn resize_bilinear(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    let columns = taps(image.width(), width, 3);
    let rows = taps(image.height(), height, 1);
    let target_row = width as usize * 3;
    let mut output = vec![0_u8; target_row * height as usize];
    // Horizontally resized rows, kept while the next target rows need them again.
    let mut cache = [
        (usize::MAX, vec![0_i16; target_row + 1]),
        (usize::MAX, vec![0_i16; target_row + 1]),
    ];
    for (line, tap) in output.chunks_exact_mut(target_row).zip(&rows) {
        if cache[0].0 != tap.at[0] && cache[1].0 == tap.at[0] {
            cache.swap(0, 1);
        }
        for (slot, row) in cache.iter_mut().zip(tap.at) {
            if slot.0 != row {
                mix_columns(&mut slot.1, &row_and_more(image, row), &columns);
                slot.0 = row;
            }
        }
        mix_rows(line, [&cache[0].1, &cache[1].1], tap.weights);
    }
    RgbImage::from_raw(width, height, output).unwrap_or_default()
}

/// A row's bytes and one more.
pub(super) fn row_and_more(image: &RgbImage, row: usize) -> Cow<'_, [u8]> {
    let length = image.width() as usize * 3;
    let bytes = image.as_raw();
    let (start, end) = (row * length, (row + 1) * length);
    if end < bytes.len() {
        return Cow::Borrowed(&bytes[start..=end]);
    }
    let mut last = bytes[start..end].to_vec();
    last.push(0);
    Cow::Owned(last)
}
