//! The beginning of OSNet: 7×7 convolution at stride 2 of an image's planes, ReLU, the largest of
//! 3×3 at stride 2; in one go, row by row, from channels first to channels last.

#![allow(unsafe_code)] // vector instructions

use std::ops::Range;

use super::aligned::Aligned;
use super::cells::{Group, Machine, Seen, Work, add_products, groups};
use super::conv::Size;
use super::lanes::{Lanes, by_level};
use super::simd::Level;

/// Rows and columns of the kernel, and how many zeros surround an image.
const SIDE: usize = 7;
const PADDING: usize = 3;
/// Planes of an image.
const PLANES: usize = 3;
/// Rows and columns of a window of the pooling.
const WINDOW: usize = 3;
/// Step of both.
const STRIDE: usize = 2;

/// Weights of the convolution.
pub(super) struct Stem {
    groups: Vec<Group>,
    weight: Aligned, // group by group, [PLANES, SIDE, SIDE, channels of the group]
    bias: Aligned,   // [channels]
    channels: usize,
    level: Level,
}

/// One run.
struct Pass<'a> {
    image: &'a [f32],
    size: Size,
    /// Rows of the output that are wanted.
    rows: Range<usize>,
    /// The whole output.
    output: *mut f32,
    /// Room for [`Stem::room`] numbers.
    room: *mut f32,
}

/// Outputs of the convolution, of one row.
struct Row<'a> {
    stem: &'a Stem,
    /// The input rows by plane, with zeros on both sides.
    inputs: [[*const f32; SIDE]; PLANES],
    count: usize,
    output: *mut f32,
}

impl Stem {
    /// `weight`: `[channels, 3, 7, 7]`, `bias`: `[channels]`, a multiple of eight. The machine has
    /// `level`.
    pub fn new(weight: &[f32], bias: &[f32], level: Level) -> Self {
        const DEPTH: usize = PLANES * SIDE * SIDE;
        let channels = bias.len();
        assert_eq!(weight.len(), channels * DEPTH);
        let groups = groups(channels, level);
        let mut packed = Vec::with_capacity(weight.len());
        for (index, group) in groups.iter().enumerate() {
            let end = groups.get(index + 1).map_or(channels, |next| next.first);
            for step in 0..DEPTH {
                for channel in group.first..end {
                    packed.push(weight[channel * DEPTH + step]);
                }
            }
        }
        Self {
            groups,
            weight: Aligned::of(&packed),
            bias: Aligned::of(bias),
            channels,
            level,
        }
    }

    /// Channels of the output.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Rows and columns of the output.
    pub fn output_size(size: Size) -> (usize, usize) {
        let convolved = |side: usize| (side + 2 * PADDING).saturating_sub(SIDE) / STRIDE + 1;
        let pooled = |side: usize| (convolved(side) - 1) / STRIDE + 1;
        (pooled(size.height), pooled(size.width))
    }

    fn between(size: Size) -> (usize, usize) {
        let convolved = |side: usize| (side + 2 * PADDING - SIDE) / STRIDE + 1;
        (convolved(size.height), convolved(size.width))
    }

    /// Numbers of a padded row of the input.
    fn input_row(size: Size) -> usize {
        (size.width + 2 * PADDING).next_multiple_of(16)
    }

    /// Numbers of a row of outputs of the convolution, with a cell on either side.
    fn between_row(&self, size: Size) -> usize {
        ((Self::between(size).1 + 2) * self.channels).next_multiple_of(16)
    }

    /// Numbers that [`Stem::run`] needs room for.
    pub fn room(&self, size: Size) -> usize {
        PLANES * SIDE * Self::input_row(size) + (WINDOW + 1) * self.between_row(size)
    }

    /// The rows `rows` of the output of one `image`, `[3, height, width]`, both at least one.
    ///
    /// # Safety
    /// `output` has room for the whole output, `[height, width, channels]`, and nobody else writes
    /// these rows.
    pub unsafe fn run(
        &self,
        image: &[f32],
        size: Size,
        rows: Range<usize>,
        output: *mut f32,
        room: &mut Aligned,
    ) {
        assert!(size.height > 0 && size.width > 0 && image.len() >= PLANES * size.cells());
        assert!(rows.end <= Self::output_size(size).0);
        let pass = Pass {
            image,
            size,
            rows,
            output,
            room: room.room(self.room(size)).as_mut_ptr(),
        };
        // SAFETY: by this function's contract, and the machine has the level.
        unsafe { run(self.level, self, &pass) };
    }
}

by_level! {
    fn run(stem: &Stem, pass: &Pass<'_>) = body
}

#[inline(always)]
unsafe fn body<M: Machine>(stem: &Stem, pass: &Pass<'_>) {
    let size = pass.size;
    let (height, width) = Stem::between(size);
    let (input_pitch, pitch) = (Stem::input_row(size), stem.between_row(size));
    let out_width = Stem::output_size(size).1;
    // SAFETY: by the contract of `Stem::run`; the room's parts are those that `Stem::room` counts.
    unsafe {
        std::ptr::write_bytes(pass.room, 0, stem.room(size));
        let between = pass.room.add(PLANES * SIDE * input_pitch);
        let zeros: *const f32 = between.add(WINDOW * pitch);
        // The next rows of the input and of the convolution that are not there yet; the former
        // counted with the zeros before the image.
        let first = (pass.rows.start * STRIDE).saturating_sub(1);
        let (mut next_input, mut next) = (first * STRIDE, first);
        for y in pass.rows.clone() {
            let last = (y * STRIDE + 1).min(height - 1);
            while next <= last {
                while next_input < next * STRIDE + SIDE {
                    fill(pass, next_input, input_pitch);
                    next_input += 1;
                }
                let inputs = std::array::from_fn(|plane| {
                    std::array::from_fn(|ky| {
                        let slot = plane * SIDE + (next * STRIDE + ky) % SIDE;
                        pass.room.add(slot * input_pitch).cast_const()
                    })
                });
                let row = Row {
                    stem,
                    inputs,
                    count: width,
                    output: between.add(next % WINDOW * pitch + stem.channels),
                };
                for group in &stem.groups {
                    M::group(*group, true, &row);
                }
                next += 1;
            }
            // After ReLU zeros are never larger than what is in a window.
            let rows: [*const f32; WINDOW] =
                std::array::from_fn(|ky| match (y * STRIDE + ky).checked_sub(1) {
                    Some(row) if row < height => between.add(row % WINDOW * pitch).cast_const(),
                    _ => zeros,
                });
            let output = pass.output.add(y * out_width * stem.channels);
            for group in &stem.groups {
                for vector in 0..group.vectors {
                    if group.wide {
                        let first = group.first + vector * M::Wide::COUNT;
                        pool::<M::Wide>(rows, stem.channels, first, out_width, output);
                    } else {
                        let first = group.first + vector * M::Narrow::COUNT;
                        pool::<M::Narrow>(rows, stem.channels, first, out_width, output);
                    }
                }
            }
        }
    }
}

/// Copies row `row` of all planes, counted with the zeros before the image, to its place.
#[inline(always)]
unsafe fn fill(pass: &Pass<'_>, row: usize, pitch: usize) {
    let (height, width) = (pass.size.height, pass.size.width);
    for plane in 0..PLANES {
        // SAFETY: the room holds `SIDE` rows of every plane; zeros surround what is copied.
        unsafe {
            let target = pass.room.add((plane * SIDE + row % SIDE) * pitch + PADDING);
            match row.checked_sub(PADDING) {
                Some(y) if y < height => {
                    let line = &pass.image[(plane * height + y) * width..][..width];
                    std::ptr::copy_nonoverlapping(line.as_ptr(), target, width);
                }
                _ => std::ptr::write_bytes(target, 0, width),
            }
        }
    }
}

/// The largest of windows over three rows, `count` of them, for a vector of channels from `first`
/// on.
#[inline(always)]
unsafe fn pool<V: Lanes>(
    rows: [*const f32; WINDOW],
    channels: usize,
    first: usize,
    count: usize,
    output: *mut f32,
) {
    // SAFETY: rows have a cell on either side of the convolution's outputs.
    unsafe {
        for x in 0..count {
            let mut most = V::splat(0.0);
            for row in rows {
                for kx in 0..WINDOW {
                    let at = (x * STRIDE + kx) * channels + first;
                    most = V::load(row.add(at)).or_more(most);
                }
            }
            most.store(output.add(x * channels + first));
        }
    }
}

impl Work for Row<'_> {
    // The last outputs are computed once more where blocks of `CELLS` do not divide the row.
    #[inline(always)]
    unsafe fn blocks<V: Lanes, const VECTORS: usize, const CELLS: usize, const PITCH: usize>(
        &self,
        group: Group,
    ) {
        let mut cell = 0;
        // SAFETY: by the contract of `Stem::run`.
        unsafe {
            while cell < self.count {
                if self.count >= CELLS {
                    let at = cell.min(self.count - CELLS);
                    block::<V, VECTORS, CELLS>(group, self, at);
                    cell = at + CELLS;
                } else {
                    block::<V, VECTORS, 1>(group, self, cell);
                    cell += 1;
                }
            }
        }
    }
}

/// `CELLS` outputs from column `first` on.
///
/// # Safety
/// As [`Work::blocks`].
#[inline(always)]
unsafe fn block<V: Lanes, const VECTORS: usize, const CELLS: usize>(
    group: Group,
    row: &Row<'_>,
    first: usize,
) {
    let stem = row.stem;
    // SAFETY: by this function's contract.
    unsafe {
        let bias = stem.bias.numbers().as_ptr().add(group.first);
        let bias: [V; VECTORS] = std::array::from_fn(|v| V::load(bias.add(v * V::COUNT)));
        let mut sums = [bias; CELLS];
        let mut weight = stem
            .weight
            .numbers()
            .as_ptr()
            .add(group.first * PLANES * SIDE * SIDE);
        let seen = Seen {
            count: SIDE,
            step: 1,
            pitch: STRIDE,
        };
        for inputs in &row.inputs {
            for input in inputs {
                let input = input.add(first * STRIDE);
                weight = add_products(&mut sums, weight, input, seen);
            }
        }
        for (cell, sums) in sums.iter().enumerate() {
            let output = row.output.add((first + cell) * stem.channels + group.first);
            for (v, sum) in sums.iter().enumerate() {
                sum.or_more(V::splat(0.0)).store(output.add(v * V::COUNT));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::{levels, made_up_numbers};
    use super::*;

    /// Convolution and ReLU by the definition, in double precision: `[height, width, channels]`.
    fn convolved(weight: &[f32], bias: &[f32], image: &[f32], size: Size) -> Vec<f64> {
        let (height, width) = Stem::between(size);
        let mut output = Vec::new();
        for at in 0..height * width * bias.len() {
            let (cell, channel) = (at / bias.len(), at % bias.len());
            let (y, x) = (cell / width * STRIDE, cell % width * STRIDE);
            let mut sum = f64::from(bias[channel]);
            for step in 0..PLANES * SIDE * SIDE {
                let (plane, tap) = (step / (SIDE * SIDE), step % (SIDE * SIDE));
                let row = (y + tap / SIDE).wrapping_sub(PADDING);
                let column = (x + tap % SIDE).wrapping_sub(PADDING);
                if row < size.height && column < size.width {
                    let number = image[(plane * size.height + row) * size.width + column];
                    let weight = weight[channel * PLANES * SIDE * SIDE + step];
                    sum += f64::from(number) * f64::from(weight);
                }
            }
            output.push(sum.max(0.0));
        }
        output
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn convolution_and_pooling_are_those_of_the_definition(
            eights in 1_usize..6, height in 1_usize..30, width in 1_usize..70,
            cut in 0_usize..9, seed in 0_u32..1000,
        ) {
            let channels = eights * 8;
            let size = Size { batch: 1, height, width };
            let weight = made_up_numbers(channels * PLANES * SIDE * SIDE, seed);
            let bias = made_up_numbers(channels, seed + 1);
            let image = made_up_numbers(PLANES * height * width, seed + 2);
            let between = convolved(&weight, &bias, &image, size);
            let (rows, columns) = Stem::output_size(size);
            for level in levels() {
                let stem = Stem::new(&weight, &bias, level);
                let mut found = vec![7.0; rows * columns * channels];
                let mut room = Aligned::default();
                let cut = cut.min(rows);
                for part in [cut..rows, 0..cut] {
                    let output = found.as_mut_ptr();
                    // SAFETY: the output is as large as said.
                    unsafe { stem.run(&image, size, part, output, &mut room) };
                }
                for (at, found) in found.iter().enumerate() {
                    let (cell, channel) = (at / channels, at % channels);
                    let (y, x) = (cell / columns * STRIDE, cell % columns * STRIDE);
                    let (high, wide) = Stem::between(size);
                    let mut most = 0.0_f64;
                    for row in y.max(1) - 1..(y + 2).min(high) {
                        for column in x.max(1) - 1..(x + 2).min(wide) {
                            most = most.max(between[(row * wide + column) * channels + channel]);
                        }
                    }
                    let off = (f64::from(*found) - most).abs();
                    prop_assert!(off < 5e-5, "{level:?}: {found} {most}");
                }
            }
        }
    }
}
