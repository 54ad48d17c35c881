//! Bilinear resize of 8-bit images as OpenCV's `resize(…, INTER_LINEAR)` rounds it.
//!
//! Half-pixel centres, two taps each way, no antialiasing. Weights are rounded to 11 bits; the
//! sum over both directions is cut by 4 + 16 bits and rounded by 2, which is what OpenCV's
//! fixed-point path does. Compared with OpenCV's own output in the tests.

use image::RgbImage;

const COEFFICIENT_BITS: u32 = 11;

/// The two source positions and weights of each target position.
struct Taps {
    first: Vec<usize>,
    second: Vec<usize>,
    weights: Vec<[i32; 2]>,
}

fn taps(source: u32, target: u32) -> Taps {
    let scale = f64::from(source) / f64::from(target);
    let one = (1 << COEFFICIENT_BITS) as f32;
    let last = source as isize - 1;
    let mut taps = Taps {
        first: Vec::new(),
        second: Vec::new(),
        weights: Vec::new(),
    };
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
        taps.first.push(cell as usize);
        taps.second.push((cell + 1).min(last) as usize);
        let second = (fraction * one).round_ties_even() as i32;
        let first = ((1.0 - fraction) * one).round_ties_even() as i32;
        taps.weights.push([first, second]);
    }
    taps
}

/// Resizes to `width` × `height`. The image and the target must have pixels.
pub fn resize_bilinear(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    let columns = taps(image.width(), width);
    let rows = taps(image.height(), height);
    let source_row = image.width() as usize * 3;
    let target_row = width as usize * 3;
    let mut output = vec![0_u8; target_row * height as usize];
    // Horizontally resized rows, kept while the next target rows need them again.
    let mut cache = [
        (usize::MAX, vec![0_i32; target_row]),
        (usize::MAX, vec![0_i32; target_row]),
    ];
    for (y, line) in output.chunks_exact_mut(target_row).enumerate() {
        let wanted = [rows.first[y], rows.second[y]];
        if cache[0].0 != wanted[0] && cache[1].0 == wanted[0] {
            cache.swap(0, 1);
        }
        for (slot, &row) in cache.iter_mut().zip(&wanted) {
            if slot.0 != row {
                let source = &image.as_raw()[row * source_row..(row + 1) * source_row];
                resize_row(&mut slot.1, source, &columns);
                slot.0 = row;
            }
        }
        let [first, second] = rows.weights[y];
        for ((out, &a), &b) in line.iter_mut().zip(&cache[0].1).zip(&cache[1].1) {
            let sum = ((first * (a >> 4)) >> 16) + ((second * (b >> 4)) >> 16);
            *out = ((sum + 2) >> 2).clamp(0, 255) as u8;
        }
    }
    RgbImage::from_raw(width, height, output).unwrap_or_default()
}

fn resize_row(target: &mut [i32], source: &[u8], columns: &Taps) {
    let positions = columns.first.iter().zip(&columns.second);
    for ((out, (&first, &second)), weights) in target
        .chunks_exact_mut(3)
        .zip(positions)
        .zip(&columns.weights)
    {
        for channel in 0..3 {
            let a = i32::from(source[first * 3 + channel]);
            let b = i32::from(source[second * 3 + channel]);
            out[channel] = a * weights[0] + b * weights[1];
        }
    }
}
