//! Convolutions with one filter a channel, and the way back through them.
//!
//! Planes are copied with zeros around them, and cells laid out at the same pitch: then a tap is a
//! shift of the whole plane, and no vector has to end where a row does.

#![allow(unsafe_code)] // planes are written where nothing was before

use rayon::prelude::*;

use super::cells::Shared;
use super::conv::{Sizes, written};
use super::halo::{Halo, Plane, Taps, copy_row};
use crate::ops::cpu::simd::dispatch;

/// Numbers that are computed side by side.
const LANES: usize = 16;

/// Side of the usual kernel, whose taps stay in registers.
const THREE: usize = 9;

/// Cells after which single-precision sums are added to one in double precision.
const CELLS: usize = 4096;

/// The output.
pub(super) fn forward(x: &[f32], weight: &[f32], sizes: &Sizes) -> Vec<f32> {
    let taps = Taps::of_kernel(sizes.conv.kernel, sizes.conv.stride, sizes.conv.padding);
    let every: Vec<usize> = (0..taps.places.len()).collect();
    let filter = Filter {
        source: sizes.input,
        taps: &taps,
        filter: every.len(),
        indices: &every,
        cells: sizes.output,
        target: sizes.output,
        stride: 1,
        first: (0, 0),
    };
    // SAFETY: the cells are the whole output.
    unsafe {
        written(sizes.output_numbers(), |output| {
            filter.run(x, weight, output);
        })
    }
}

/// The gradient of the input.
pub(super) fn to_input(weight: &[f32], gradient: &[f32], sizes: &Sizes) -> Vec<f32> {
    // SAFETY: the phases are the whole input.
    unsafe {
        written(sizes.input_numbers(), |output| {
            for phase in sizes.phases() {
                let (grid, taps, indices) = sizes.phase(phase);
                let filter = Filter {
                    source: sizes.output,
                    taps: &taps,
                    filter: sizes.conv.kernel * sizes.conv.kernel,
                    indices: &indices,
                    cells: grid.cells,
                    target: sizes.input,
                    stride: grid.stride,
                    first: grid.first,
                };
                filter.run(gradient, weight, output);
            }
        })
    }
}

/// Sums of what a plane's cells see, by a filter for each channel.
struct Filter<'a> {
    source: Plane,
    taps: &'a Taps,
    /// Numbers of a channel's filter.
    filter: usize,
    /// Which of them the taps are multiplied by.
    indices: &'a [usize],
    /// Cells that are computed.
    cells: Plane,
    /// Planes that they are written to, every `stride`th cell from `first` on.
    target: Plane,
    stride: usize,
    first: (usize, usize),
}

/// Room for padded planes, whose surroundings stay zeros, and what is computed from them.
#[derive(Default)]
struct Room {
    padded: Vec<f32>,
    flat: Vec<f32>,
}

impl Filter<'_> {
    /// # Safety
    /// `output` is room for a plane for each one of `x`, which nobody else uses meanwhile.
    unsafe fn run(&self, x: &[f32], weight: &[f32], output: Shared) {
        let Plane { height, width } = self.cells;
        if height == 0 || width == 0 {
            return;
        }
        let halo = Halo::new(self.source, self.taps, 0, height, width);
        let count = ((height - 1) * halo.pitch + width).next_multiple_of(LANES);
        let reach = halo.offsets.iter().max().copied().unwrap_or(0) + count;
        let filter = self.filter;
        let channels = weight.len() / filter;
        x.par_chunks_exact(self.source.cells())
            .enumerate()
            .for_each_init(Room::default, |room, (plane, x)| {
                room.padded.resize(reach.max(halo.channel()), 0.0);
                room.flat.resize(count, 0.0);
                let filter = &weight[plane % channels * filter..][..filter];
                let taps: Vec<f32> = self.indices.iter().map(|index| filter[*index]).collect();
                halo.fill_inside(&mut room.padded[..halo.channel()], x);
                sums(&mut room.flat, &room.padded, &halo.offsets, &taps);
                // Captured whole, not its pointer alone, so that it may cross threads.
                let output = &output;
                let cells = self.target.cells();
                // SAFETY: each plane is one job's.
                let target =
                    unsafe { std::slice::from_raw_parts_mut(output.0.add(plane * cells), cells) };
                for (row, line) in room.flat.chunks(halo.pitch).take(height).enumerate() {
                    let row = row * self.stride + self.first.0;
                    let target = &mut target[row * self.target.width + self.first.1..];
                    if self.stride == 1 {
                        copy_row(&mut target[..width], &line[..width]);
                        continue;
                    }
                    let places = target.iter_mut().step_by(self.stride);
                    for (place, value) in places.zip(&line[..width]) {
                        *place = *value;
                    }
                }
            });
    }
}

/// `flat[at]`: the sum of `padded[at + offset]` times the number of each tap.
#[inline(always)]
fn sums_body(flat: &mut [f32], padded: &[f32], offsets: &[usize], taps: &[f32]) {
    let parts = flat.as_chunks_mut::<LANES>().0.iter_mut();
    if let (Ok(offsets), Ok(taps)) = (
        <&[usize; THREE]>::try_from(offsets),
        <&[f32; THREE]>::try_from(taps),
    ) {
        for (part, flat) in parts.enumerate() {
            let mut sums = [0.0; LANES];
            for (offset, tap) in offsets.iter().zip(taps) {
                add(&mut sums, &padded[offset + part * LANES..], *tap);
            }
            *flat = sums;
        }
        return;
    }
    for (part, flat) in parts.enumerate() {
        let mut sums = [0.0; LANES];
        for (offset, tap) in offsets.iter().zip(taps) {
            add(&mut sums, &padded[offset + part * LANES..], *tap);
        }
        *flat = sums;
    }
}

#[inline(always)]
fn add(sums: &mut [f32; LANES], values: &[f32], tap: f32) {
    for (sum, value) in sums.iter_mut().zip(&values[..LANES]) {
        *sum = tap.mul_add(*value, *sum);
    }
}

dispatch! {
    fn sums(flat: &mut [f32], padded: &[f32], offsets: &[usize], taps: &[f32]) = sums_body
}

/// The gradient of the weights: for each channel and tap the sum of the cells' gradients times what
/// they see.
pub(super) fn to_weight(x: &[f32], gradient: &[f32], sizes: &Sizes) -> Vec<f32> {
    let taps = Taps::of_kernel(sizes.conv.kernel, sizes.conv.stride, sizes.conv.padding);
    let Plane { height, width } = sizes.output;
    let halo = Halo::new(sizes.input, &taps, 0, height, width);
    let count = ((height - 1) * halo.pitch + width).next_multiple_of(LANES);
    let reach = halo.offsets.iter().max().copied().unwrap_or(0) + count;
    let together = CELLS.div_ceil(count);
    let channels = sizes.conv.input;
    let mut to_weight = vec![0.0_f32; channels * taps.places.len()];
    to_weight
        .par_chunks_exact_mut(taps.places.len())
        .enumerate()
        .for_each_init(Room::default, |room, (channel, to_weight)| {
            room.padded.resize(reach.max(halo.channel()), 0.0);
            room.flat.resize(count.max(height * halo.pitch), 0.0);
            let mut lanes = vec![[0.0_f32; LANES]; to_weight.len()];
            let mut totals = vec![0.0_f64; to_weight.len()];
            for image in 0..sizes.images {
                let plane = image * channels + channel;
                let x = &x[plane * sizes.input.cells()..][..sizes.input.cells()];
                let gradient = &gradient[plane * sizes.output.cells()..][..sizes.output.cells()];
                halo.fill_inside(&mut room.padded[..halo.channel()], x);
                let rows = room.flat.chunks_mut(halo.pitch);
                for (row, gradient) in rows.zip(gradient.chunks_exact(width)) {
                    copy_row(&mut row[..width], gradient);
                }
                products(&mut lanes, &room.flat[..count], &room.padded, &halo.offsets);
                if (image + 1) % together == 0 || image + 1 == sizes.images {
                    for (total, lanes) in totals.iter_mut().zip(&mut lanes) {
                        *total += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
                        *lanes = [0.0; LANES];
                    }
                }
            }
            for (weight, total) in to_weight.iter_mut().zip(totals) {
                *weight = total as f32;
            }
        });
    to_weight
}

/// Adds to the lanes of each tap the products of `flat` and what the tap sees.
#[inline(always)]
fn products_body(lanes: &mut [[f32; LANES]], flat: &[f32], padded: &[f32], offsets: &[usize]) {
    let parts = flat.as_chunks::<LANES>().0;
    if let (Ok(lanes), Ok(offsets)) = (
        <&mut [[f32; LANES]; THREE]>::try_from(&mut *lanes),
        <&[usize; THREE]>::try_from(offsets),
    ) {
        let mut sums = *lanes;
        for (part, values) in parts.iter().enumerate() {
            for (sums, offset) in sums.iter_mut().zip(offsets) {
                add_products(sums, values, &padded[offset + part * LANES..]);
            }
        }
        *lanes = sums;
        return;
    }
    for (lanes, offset) in lanes.iter_mut().zip(offsets) {
        for (part, values) in parts.iter().enumerate() {
            add_products(lanes, values, &padded[offset + part * LANES..]);
        }
    }
}

#[inline(always)]
fn add_products(sums: &mut [f32; LANES], a: &[f32; LANES], b: &[f32]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(&b[..LANES]) {
        *sum = a.mul_add(*b, *sum);
    }
}

dispatch! {
    fn products(lanes: &mut [[f32; LANES]], flat: &[f32], padded: &[f32], offsets: &[usize]) =
        products_body
}
