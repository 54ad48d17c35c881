//! Rows of 8-bit pixels, resized: the inner loops of `preprocess`, which says what they round and why.
//!
//! A pixel is read as four bytes, its own three and the next one's first, and written as four, of
//! which the next pixel overwrites the last: so one vector holds it. Rows that are read and written
//! therefore have a byte more than their pixels.

use super::simd::dispatch;

/// Where a target pixel lies between two source pixels.
#[derive(Debug, Clone, Copy)]
pub struct Tap {
    /// First bytes of the two in their row.
    pub at: [usize; 2],
    /// Their weights, 0..=2048.
    pub weights: [i32; 2],
}

/// Source pixels of one target pixel.
#[derive(Debug, Clone)]
pub struct Span {
    /// First byte of the first one in its row.
    pub at: usize,
    /// Weights of this one and those after it.
    pub weights: Vec<i32>,
}

fn pixel(row: &[u8], at: usize) -> [i32; 4] {
    let bytes: [u8; 4] = row[at..at + 4].try_into().unwrap_or_default();
    bytes.map(i32::from)
}

dispatch! {
    /// Each of `taps`: the weighted sum of its two pixels, without its last 4 bits.
    pub fn mix_columns(target: &mut [i16], row: &[u8], taps: &[Tap]) = mix_columns_body
}

#[inline(always)]
fn mix_columns_body(target: &mut [i16], row: &[u8], taps: &[Tap]) {
    for (index, tap) in taps.iter().enumerate() {
        let (a, b) = (pixel(row, tap.at[0]), pixel(row, tap.at[1]));
        let out = &mut target[3 * index..3 * index + 4];
        for (out, (a, b)) in out.iter_mut().zip(a.into_iter().zip(b)) {
            // At most 255 · 2048 / 16.
            *out = ((a * tap.weights[0] + b * tap.weights[1]) >> 4) as i16;
        }
    }
}

dispatch! {
    /// The weighted sum of two rows of [`mix_columns`], as bytes.
    pub fn mix_rows(target: &mut [u8], rows: [&[i16]; 2], weights: [i32; 2]) = mix_rows_body
}

#[inline(always)]
fn mix_rows_body(target: &mut [u8], rows: [&[i16]; 2], weights: [i32; 2]) {
    let part = |value: i16, weight: i32| ((i32::from(value) * weight) >> 16) as i16;
    for ((out, &a), &b) in target.iter_mut().zip(rows[0]).zip(rows[1]) {
        let sum = part(a, weights[0]) + part(b, weights[1]);
        *out = ((sum + 2) >> 2).clamp(0, 255) as u8;
    }
}

dispatch! {
    /// Each of `spans`: half a unit and the weighted sum of its pixels, without its last `bits` bits.
    pub fn sum_columns(target: &mut [u8], row: &[u8], spans: &[Span], bits: u32) = sum_columns_body
}

#[inline(always)]
fn sum_columns_body(target: &mut [u8], row: &[u8], spans: &[Span], bits: u32) {
    for (index, span) in spans.iter().enumerate() {
        let pixels = &row[span.at..=span.at + 3 * span.weights.len()];
        let mut sums = [1_i32 << (bits - 1); 4];
        for (tap, &weight) in span.weights.iter().enumerate() {
            for (sum, value) in sums.iter_mut().zip(pixel(pixels, 3 * tap)) {
                *sum += value * weight;
            }
        }
        let bytes = sums.map(|sum| (sum >> bits).clamp(0, 255) as u8);
        target[3 * index..3 * index + 4].copy_from_slice(&bytes);
    }
}

/// Bytes that [`sum_rows`] sums up at a time: so many sums stay in registers.
const BLOCK: usize = 64;

dispatch! {
    /// Half a unit and the weighted sum of `rows`, which follow each other and are as long as `target`,
    /// without its last `bits` bits.
    pub fn sum_rows(target: &mut [u8], rows: &[u8], weights: &[i32], bits: u32) = sum_rows_body
}

#[inline(always)]
fn sum_rows_body(target: &mut [u8], rows: &[u8], weights: &[i32], bits: u32) {
    let length = target.len();
    let half = 1_i32 << (bits - 1);
    let byte = |sum: i32| (sum >> bits).clamp(0, 255) as u8;
    let whole = length - length % BLOCK;
    for start in (0..whole).step_by(BLOCK) {
        let mut sums = [half; BLOCK];
        for (row, &weight) in rows.chunks_exact(length).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(&row[start..start + BLOCK]) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, sum) in target[start..start + BLOCK].iter_mut().zip(sums) {
            *out = byte(sum);
        }
    }
    for (at, out) in target.iter_mut().enumerate().skip(whole) {
        let column = rows.iter().skip(at).step_by(length);
        let sums = column.zip(weights).map(|(&v, &w)| i32::from(v) * w);
        *out = byte(half + sums.sum::<i32>());
    }
}

dispatch! {
    /// Interleaved bytes to three planes, each by its table.
    pub fn spread(planes: [&mut [f32]; 3], bytes: &[u8], tables: &[[f32; 256]; 3]) = spread_body
}

#[inline(always)]
fn spread_body(planes: [&mut [f32]; 3], bytes: &[u8], tables: &[[f32; 256]; 3]) {
    let [red, green, blue] = planes;
    let outs = red.iter_mut().zip(green).zip(blue);
    for (((red, green), blue), pixel) in outs.zip(bytes.chunks_exact(3)) {
        *red = tables[0][usize::from(pixel[0])];
        *green = tables[1][usize::from(pixel[1])];
        *blue = tables[2][usize::from(pixel[2])];
    }
}
