//! OSNet's light convolution, channels last: all channels at one place, then every channel alone over
//! 3×3 cells, bias, ReLU; in one go, row by row, so that what lies between stays in the first-level
//! cache.

#![allow(unsafe_code)] // vector instructions

use super::aligned::Aligned;
use super::cells::{Cells, Each, Machine, Product, each};
use super::lanes::{Lanes, by_level};
use super::simd::Level;

/// Rows and columns of the kernel.
const SIDE: usize = 3;

/// Outputs of a row that are computed together.
const TOGETHER: usize = 4;

/// Weights of a light convolution.
pub(super) struct Light {
    pointwise: Product,
    taps: Aligned, // [SIDE, SIDE, channels]
    bias: Aligned, // [channels]
    level: Level,
}

/// One run: an image, or its part.
pub(super) struct Pass {
    /// Rows and columns.
    pub height: usize,
    pub width: usize,
    /// `[height, width, channels]`.
    pub input: *const f32,
    /// As large; it may be the input.
    pub output: *mut f32,
    /// `[channels]`, the sums of all outputs; or null.
    pub sums: *mut f32,
    /// Room for [`Light::room`] numbers, the first one at the start of a cache line.
    pub room: *mut f32,
}

impl Light {
    /// `pointwise`: `[channels, channels]`, `taps`: `[channels, 3, 3]`, `bias`: `[channels]`.
    pub fn new(pointwise: &[f32], taps: &[f32], bias: &[f32], level: Level) -> Self {
        let channels = bias.len();
        assert!(pointwise.len() == channels * channels && taps.len() == channels * SIDE * SIDE);
        let mut turned = vec![0.0; taps.len()];
        for (channel, taps) in taps.as_chunks::<{ SIDE * SIDE }>().0.iter().enumerate() {
            for (place, tap) in taps.iter().enumerate() {
                turned[place * channels + channel] = *tap;
            }
        }
        Self {
            pointwise: Product::new(&[pointwise], &vec![0.0; channels], level),
            taps: Aligned::of(&turned),
            bias: Aligned::of(bias),
            level,
        }
    }

    /// Numbers that rows of `width` cells need between the two steps: three rows and one of zeros,
    /// with a cell of zeros on either side.
    pub fn room(&self, width: usize) -> usize {
        (SIDE + 1) * self.row(width)
    }

    fn row(&self, width: usize) -> usize {
        ((width + 2) * self.pointwise.output()).next_multiple_of(16)
    }

    /// Convolves.
    ///
    /// # Safety
    /// Pointers lead to as many numbers as [`Pass`] says; nobody else writes them.
    pub unsafe fn run(&self, pass: &Pass) {
        // SAFETY: by this function's contract, and the machine has the level.
        unsafe { run(self.level, self, pass) };
    }
}

by_level! {
    fn run(light: &Light, pass: &Pass) = body
}

#[inline(always)]
unsafe fn body<M: Machine>(light: &Light, pass: &Pass) {
    let (height, width) = (pass.height, pass.width);
    let channels = light.pointwise.output();
    let pitch = light.row(width);
    // SAFETY: by the contract of `Light::run`.
    unsafe {
        std::ptr::write_bytes(pass.room, 0, light.room(width));
        if !pass.sums.is_null() {
            std::ptr::write_bytes(pass.sums, 0, channels);
        }
        let zeros: *const f32 = pass.room.add(SIDE * pitch);
        for ahead in 0..=height {
            // The row below the one that is finished next.
            if ahead < height {
                light.pointwise.run_on::<M>(&Cells {
                    count: width,
                    inputs: [pass.input.add(ahead * width * channels), std::ptr::null()],
                    added: std::ptr::null(),
                    relu: false,
                    output: pass.room.add(ahead % SIDE * pitch + channels),
                });
            }
            let Some(y) = ahead.checked_sub(1) else {
                continue;
            };
            let between = |row: usize| pass.room.add(row % SIDE * pitch).cast_const();
            let rows = [
                if y > 0 { between(y - 1) } else { zeros },
                between(y),
                if y + 1 < height {
                    between(y + 1)
                } else {
                    zeros
                },
            ];
            let output = pass.output.add(y * width * channels);
            let row = Row {
                light,
                rows,
                width,
                output,
                sums: pass.sums,
            };
            each::<M>(light.pointwise.groups(), &row);
        }
    }
}

/// One row of outputs out of three rows of `width` cells, with one more on either side.
struct Row<'a> {
    light: &'a Light,
    rows: [*const f32; SIDE],
    width: usize,
    output: *mut f32,
    sums: *mut f32,
}

impl Each for Row<'_> {
    #[inline(always)]
    unsafe fn channels<V: Lanes>(&self, first: usize) {
        let Row {
            light,
            rows,
            width,
            output,
            sums,
        } = *self;
        let pitch = light.pointwise.output();
        // SAFETY: by the contract of `Light::run`.
        unsafe {
            let taps: [[V; SIDE]; SIDE] = std::array::from_fn(|ky| {
                std::array::from_fn(|kx| {
                    V::load(
                        light
                            .taps
                            .numbers()
                            .as_ptr()
                            .add((ky * SIDE + kx) * pitch + first),
                    )
                })
            });
            let bias = V::load(light.bias.numbers().as_ptr().add(first));
            let rows = rows.map(|row| row.add(first));
            let output = output.add(first);
            let mut sum = if sums.is_null() {
                V::splat(0.0)
            } else {
                V::load(sums.add(first))
            };
            let mut x = 0;
            while x + TOGETHER <= width {
                outputs::<V, TOGETHER>(&taps, bias, rows, pitch, x, output, &mut sum);
                x += TOGETHER;
            }
            while x < width {
                outputs::<V, 1>(&taps, bias, rows, pitch, x, output, &mut sum);
                x += 1;
            }
            if !sums.is_null() {
                sum.store(sums.add(first));
            }
        }
    }
}

/// `COUNT` outputs from column `x` on.
#[inline(always)]
unsafe fn outputs<V: Lanes, const COUNT: usize>(
    taps: &[[V; SIDE]; SIDE],
    bias: V,
    rows: [*const f32; SIDE],
    pitch: usize,
    x: usize,
    output: *mut f32,
    sum: &mut V,
) {
    let mut found = [bias; COUNT];
    // SAFETY: by the contract of `Light::run`.
    unsafe {
        for (row, taps) in rows.iter().zip(taps) {
            for column in 0..COUNT + SIDE - 1 {
                let value = V::load(row.add((x + column) * pitch));
                for (index, found) in found.iter_mut().enumerate() {
                    // This value's place in the window of that output.
                    let kx = column.wrapping_sub(index);
                    if kx < SIDE {
                        *found = found.fma(value, taps[kx]);
                    }
                }
            }
        }
        for (index, found) in found.iter().enumerate() {
            let found = found.or_more(V::splat(0.0));
            *sum = sum.plus(found);
            found.store(output.add((x + index) * pitch));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::{levels, made_up_numbers};
    use super::*;

    /// By the definition, in double precision: `[height, width, channels]`.
    fn plain(
        pointwise: &[f32],
        taps: &[f32],
        bias: &[f32],
        input: &[f32],
        (height, width): (usize, usize),
    ) -> Vec<f64> {
        let channels = bias.len();
        let product = |cell: usize, channel: usize| -> f64 {
            (0..channels)
                .map(|at| {
                    let weight = pointwise[channel * channels + at];
                    f64::from(input[cell * channels + at]) * f64::from(weight)
                })
                .sum()
        };
        let between: Vec<f64> = (0..height * width * channels)
            .map(|at| product(at / channels, at % channels))
            .collect();
        let mut output = Vec::new();
        for at in 0..height * width * channels {
            let (cell, channel) = (at / channels, at % channels);
            let (y, x) = (cell / width, cell % width);
            let mut sum = f64::from(bias[channel]);
            for ky in 0..SIDE {
                for kx in 0..SIDE {
                    let (row, column) = (y + ky, x + kx);
                    if (1..=height).contains(&row) && (1..=width).contains(&column) {
                        let cell = (row - 1) * width + column - 1;
                        let tap = taps[(channel * SIDE + ky) * SIDE + kx];
                        sum += f64::from(tap) * between[cell * channels + channel];
                    }
                }
            }
            output.push(sum.max(0.0));
        }
        output
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn both_steps_are_those_of_the_definition(
            eights in 1_usize..10, height in 1_usize..9, width in 1_usize..20, place: bool,
            seed in 0_u32..1000,
        ) {
            let channels = eights * 8;
            let pointwise = made_up_numbers(channels * channels, seed);
            let taps = made_up_numbers(channels * 9, seed + 1);
            let bias = made_up_numbers(channels, seed + 2);
            let input = made_up_numbers(height * width * channels, seed + 3);
            let expected = plain(&pointwise, &taps, &bias, &input, (height, width));
            for level in levels() {
                let light = Light::new(&pointwise, &taps, &bias, level);
                let mut found = if place { input.clone() } else { vec![7.0; input.len()] };
                let mut sums = vec![7.0; channels];
                let mut room = Aligned::default();
                let output = found.as_mut_ptr();
                // SAFETY: all are as large as said.
                unsafe {
                    light.run(&Pass {
                        height,
                        width,
                        input: if place { output } else { input.as_ptr() },
                        output,
                        sums: sums.as_mut_ptr(),
                        room: room.room(light.room(width)).as_mut_ptr(),
                    });
                }
                for (found, expected) in found.iter().zip(&expected) {
                    let off = (f64::from(*found) - expected).abs();
                    prop_assert!(off < 2e-4, "{level:?}: {found} {expected}");
                }
                for (channel, sum) in sums.iter().enumerate() {
                    let numbers = expected.iter().skip(channel).step_by(channels);
                    let off = f64::from(*sum) - numbers.sum::<f64>();
                    prop_assert!(off.abs() < 2e-3, "{level:?}: off by {off}");
                }
            }
        }
    }
}
