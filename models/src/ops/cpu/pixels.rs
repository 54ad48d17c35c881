//! Rows of 8-bit pixels, resized and normalised: the inner loops of `preprocess`, which says what they
//! round and why.
//!
//! A row that is read begins with its first pixel and may hold more bytes than the row has: vectors
//! are then read across its end. Rows that are written have room beyond their pixels.

use std::borrow::Cow;

use super::simd::dispatch;

#[cfg(target_arch = "x86_64")]
mod groups;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Numbers that kernels write at once, beyond a row's end too.
const STEP: usize = 16;

/// Rows that [`SumColumns`] resizes together.
pub const TOGETHER: usize = 4;

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

/// Four bytes: the plain kernels take a pixel with the next one's first, and write four, of which the
/// next pixel overwrites the last. So one vector holds a pixel.
fn pixel(row: &[u8], at: usize) -> [i32; 4] {
    let bytes: [u8; 4] = row[at..at + 4].try_into().unwrap_or_default();
    bytes.map(i32::from)
}

/// `row` with at least `length` bytes.
fn at_least(row: &[u8], length: usize) -> Cow<'_, [u8]> {
    if row.len() >= length {
        return Cow::Borrowed(row);
    }
    let mut longer = row.to_vec();
    longer.resize(length, 0);
    Cow::Owned(longer)
}

/// Rows to as many columns as there are taps, each the weighted sum of two pixels without its last 4
/// bits.
pub struct MixColumns {
    taps: Vec<Tap>,
    /// Bytes of a row that the plain kernel reads.
    reads: usize,
    #[cfg(target_arch = "x86_64")]
    groups: Option<groups::Mix>,
}

impl MixColumns {
    /// What is to be read where.
    pub fn new(taps: Vec<Tap>) -> Self {
        Self {
            reads: 4 + taps.iter().flat_map(|tap| tap.at).max().unwrap_or(0),
            #[cfg(target_arch = "x86_64")]
            groups: groups::Mix::new(&taps),
            taps,
        }
    }

    /// Numbers that [`MixColumns::run`] needs room for; the first three of each tap are its results.
    pub fn room(&self) -> usize {
        (3 * self.taps.len() + 1).next_multiple_of(STEP)
    }

    /// Resizes one row.
    pub fn run(&self, target: &mut [i16], row: &[u8]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(groups) = &self.groups {
            return groups.run(target, row);
        }
        mix_columns(target, &at_least(row, self.reads), &self.taps);
    }
}

dispatch! {
    fn mix_columns(target: &mut [i16], row: &[u8], taps: &[Tap]) = mix_columns_body
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
    /// The weighted sum of two rows of [`MixColumns`], as bytes.
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

/// Rows to as many columns as there are spans, each half a unit and the weighted sum of its pixels
/// without its last `bits` bits.
pub struct SumColumns {
    spans: Vec<Span>,
    bits: u32,
    /// Bytes of a row that the plain kernel reads.
    reads: usize,
    #[cfg(target_arch = "x86_64")]
    groups: Option<groups::Sum>,
}

impl SumColumns {
    /// What is to be read where. Sums of 255 times the weights must fit an `i32`.
    pub fn new(spans: Vec<Span>, bits: u32) -> Self {
        let end = |span: &Span| span.at + 3 * span.weights.len() + 1;
        Self {
            bits,
            reads: spans.iter().map(end).max().unwrap_or(0),
            #[cfg(target_arch = "x86_64")]
            groups: groups::Sum::new(&spans, bits),
            spans,
        }
    }

    /// Bytes of a target row; the first three of each span are its results.
    pub fn room(&self) -> usize {
        (3 * self.spans.len() + 1).next_multiple_of(STEP)
    }

    /// Resizes some rows to as many of `targets`, [`SumColumns::room`] bytes each; quickest
    /// [`TOGETHER`].
    pub fn run(&self, targets: &mut [u8], rows: &[&[u8]]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(groups) = &self.groups {
            return groups.run(targets, self.room(), rows);
        }
        for (target, row) in targets.chunks_exact_mut(self.room()).zip(rows) {
            sum_columns(target, &at_least(row, self.reads), &self.spans, self.bits);
        }
    }
}

dispatch! {
    fn sum_columns(target: &mut [u8], row: &[u8], spans: &[Span], bits: u32) = sum_columns_body
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
    /// Half a unit and the weighted sum of `rows`, of which one begins `stride` bytes after another,
    /// without its last `bits` bits.
    pub fn sum_rows(target: &mut [u8], rows: &[u8], stride: usize, weights: &[i32], bits: u32) =
        sum_rows_body
}

#[inline(always)]
fn sum_rows_body(target: &mut [u8], rows: &[u8], stride: usize, weights: &[i32], bits: u32) {
    let half = 1_i32 << (bits - 1);
    let byte = |sum: i32| (sum >> bits).clamp(0, 255) as u8;
    let whole = target.len() - target.len() % BLOCK;
    for start in (0..whole).step_by(BLOCK) {
        let mut sums = [half; BLOCK];
        for (row, &weight) in rows.chunks(stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(&row[start..start + BLOCK]) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, sum) in target[start..start + BLOCK].iter_mut().zip(sums) {
            *out = byte(sum);
        }
    }
    for (at, out) in target.iter_mut().enumerate().skip(whole) {
        let column = rows.iter().skip(at).step_by(stride);
        let sums = column.zip(weights).map(|(&v, &w)| i32::from(v) * w);
        *out = byte(half + sums.sum::<i32>());
    }
}

/// Interleaved bytes to three planes of `(value / 255 - mean) / std`, rounded in PyTorch's order.
#[derive(Debug)]
pub struct Spread {
    tables: Box<[[f32; 256]; 3]>,
    #[cfg(target_arch = "x86_64")]
    quick: Option<x86::Spread>,
}

impl Spread {
    /// With each channel's mean and standard deviation.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        let value =
            |channel: usize, value: usize| (value as f32 / 255.0 - mean[channel]) / std[channel];
        let table = |channel| std::array::from_fn(|at| value(channel, at));
        let tables = Box::new(std::array::from_fn(table));
        Self {
            #[cfg(target_arch = "x86_64")]
            quick: x86::Spread::new(mean, std, &tables),
            tables,
        }
    }

    /// What `value` becomes in each plane.
    pub fn of(&self, value: u8) -> [f32; 3] {
        std::array::from_fn(|channel| self.tables[channel][usize::from(value)])
    }

    /// As many pixels as the planes are long.
    pub fn run(&self, planes: [&mut [f32]; 3], bytes: &[u8]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(quick) = &self.quick {
            return quick.run(planes, bytes);
        }
        spread(planes, bytes, &self.tables);
    }
}

dispatch! {
    fn spread(planes: [&mut [f32]; 3], bytes: &[u8], tables: &[[f32; 256]; 3]) = spread_body
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

#[cfg(test)]
mod tests;
