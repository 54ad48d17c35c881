//! Convolutions of a batch and the way back through them, to their input and to their weights.

#![allow(unsafe_code)] // what several threads write is not written before

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::cells::{Grid, Planes, Product, Shared, Weights};
use super::halo::{Plane, Taps};
use super::tile::{self, ROWS};
use super::weights::{Gradient, Operand};
use super::{depthwise, unfolded};
use crate::layers::Conv;

/// A convolution of a batch of images.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub conv: Conv,
    pub images: usize,
    pub input: Plane,
    pub output: Plane,
}

impl Sizes {
    /// # Errors
    /// Input and weight do not fit, or there is no output.
    pub(super) fn new(x: &Tensor, weight: &Tensor, conv: &Conv) -> Result<Self> {
        let (images, channels, height, width) = x.dims4()?;
        let outputs = |size: usize| {
            let room = (size + 2 * conv.padding).checked_sub(conv.kernel);
            room.map_or(0, |room| room / conv.stride + 1)
        };
        let sizes = Self {
            conv: *conv,
            images,
            input: Plane { height, width },
            output: Plane {
                height: outputs(height),
                width: outputs(width),
            },
        };
        let some = images * channels * sizes.input.cells() * sizes.output.cells() > 0;
        if !some || channels != conv.input || weight.dims4()? != conv.weight_shape() {
            candle_core::bail!("{:?} does not fit {:?}", weight.dims(), x.dims());
        }
        Ok(sizes)
    }

    /// Dimensions of the output.
    pub(super) fn dims(&self) -> (usize, usize, usize, usize) {
        let Plane { height, width } = self.output;
        (self.images, self.conv.output, height, width)
    }

    pub(super) fn input_numbers(&self) -> usize {
        self.images * self.conv.input * self.input.cells()
    }

    pub(super) fn output_numbers(&self) -> usize {
        self.images * self.conv.output * self.output.cells()
    }

    /// One filter a channel.
    pub(super) fn is_depthwise(&self) -> bool {
        self.conv.groups == self.conv.input && self.conv.input == self.conv.output
    }

    fn weights(&self) -> usize {
        self.conv.output * self.depth()
    }

    /// Numbers that an output sees.
    fn depth(&self) -> usize {
        self.conv.input / self.conv.groups * self.conv.kernel * self.conv.kernel
    }

    fn taps(&self) -> Taps {
        Taps::of_kernel(self.conv.kernel, self.conv.stride, self.conv.padding)
    }

    /// Input planes of one group, output planes of one group.
    fn groups(&self) -> (Planes, Planes) {
        let of = |plane: Plane, channels: usize| Planes {
            plane,
            channels: channels / self.conv.groups,
            image: channels * plane.cells(),
        };
        let input = of(self.input, self.conv.input);
        (input, of(self.output, self.conv.output))
    }

    /// The cells of the input that are a whole number of strides away from the first one, `phase`
    /// rows and columns further on, and the taps through which outputs see them: for each the place
    /// of the output, and its index.
    pub(super) fn phase(&self, phase: (usize, usize)) -> (Grid, Taps, Vec<usize>) {
        let Conv {
            kernel,
            stride,
            padding,
            ..
        } = self.conv;
        let mut places = Vec::new();
        let mut indices = Vec::new();
        for tap in 0..kernel * kernel {
            let row = (phase.0 + padding) as isize - (tap / kernel) as isize;
            let column = (phase.1 + padding) as isize - (tap % kernel) as isize;
            let stride = stride as isize;
            if row % stride == 0 && column % stride == 0 {
                places.push((row / stride, column / stride));
                indices.push(tap);
            }
        }
        let count = |size: usize, phase: usize| size.saturating_sub(phase).div_ceil(stride);
        let grid = Grid {
            cells: Plane {
                height: count(self.input.height, phase.0),
                width: count(self.input.width, phase.1),
            },
            stride,
            first: phase,
        };
        (grid, Taps { places, stride: 1 }, indices)
    }

    /// All phases of the stride.
    pub(super) fn phases(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let stride = self.conv.stride;
        (0..stride * stride).map(move |phase| (phase / stride, phase % stride))
    }
}

/// A vector of `count` numbers that `write` writes.
///
/// # Safety
/// `write` writes every one of them.
pub(super) unsafe fn written(count: usize, write: impl FnOnce(Shared)) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(count);
    write(Shared(numbers.as_mut_ptr()));
    // SAFETY: there is room for them, and they were just written.
    unsafe { numbers.set_len(count) };
    numbers
}

/// The numbers from `at` on.
///
/// # Safety
/// There are as many.
pub(super) unsafe fn from(shared: Shared, at: usize) -> Shared {
    // SAFETY: as promised.
    Shared(unsafe { shared.0.add(at) })
}

/// The output, without bias and activation.
pub(super) fn forward(x: &[f32], weight: &[f32], sizes: &Sizes) -> Vec<f32> {
    if sizes.is_depthwise() {
        return depthwise::forward(x, weight, sizes);
    }
    if !tile::available() {
        return unfolded::forward(x, weight, sizes);
    }
    assert!(x.len() == sizes.input_numbers() && weight.len() == sizes.weights());
    let (source, output) = sizes.groups();
    let taps = sizes.taps();
    let group_weights = sizes.weights() / sizes.conv.groups;
    // SAFETY: the groups' outputs are all outputs.
    unsafe {
        written(sizes.output_numbers(), |numbers| {
            for group in 0..sizes.conv.groups {
                let product = Product {
                    weights: Weights::Plain(&weight[group * group_weights..][..group_weights]),
                    taps: &taps,
                    source,
                    output,
                    grid: Grid {
                        cells: sizes.output,
                        stride: 1,
                        first: (0, 0),
                    },
                    images: sizes.images,
                };
                let first = group * output.channels * sizes.output.cells();
                let x = &x[group * source.channels * sizes.input.cells()..];
                product.run(x, from(numbers, first));
            }
        })
    }
}

/// The gradient of the input.
pub(super) fn to_input(weight: &[f32], gradient: &[f32], sizes: &Sizes) -> Vec<f32> {
    if sizes.is_depthwise() {
        return depthwise::to_input(weight, gradient, sizes);
    }
    if !tile::available() {
        return unfolded::to_input(weight, gradient, sizes);
    }
    assert!(gradient.len() == sizes.output_numbers() && weight.len() == sizes.weights());
    let (output, source) = sizes.groups();
    let group_weights = sizes.weights() / sizes.conv.groups;
    // SAFETY: the phases of all groups are the whole input.
    unsafe {
        written(sizes.input_numbers(), |numbers| {
            for phase in sizes.phases() {
                let (grid, taps, indices) = sizes.phase(phase);
                for group in 0..sizes.conv.groups {
                    let weight = &weight[group * group_weights..][..group_weights];
                    let first = group * output.channels * sizes.input.cells();
                    let numbers = from(numbers, first);
                    if indices.is_empty() {
                        clear(numbers, output, grid, sizes.images);
                        continue;
                    }
                    let turned = turned(weight, &indices, sizes);
                    let product = Product {
                        weights: Weights::Packed(&turned),
                        taps: &taps,
                        source,
                        output,
                        grid,
                        images: sizes.images,
                    };
                    let first = group * source.channels * sizes.output.cells();
                    product.run(&gradient[first..], numbers);
                }
            }
        })
    }
}

/// Inputs that no output sees.
///
/// # Safety
/// As for [`Product::run`].
unsafe fn clear(numbers: Shared, planes: Planes, grid: Grid, images: usize) {
    for plane in 0..images * planes.channels {
        let (image, channel) = (plane / planes.channels, plane % planes.channels);
        let first = image * planes.image + channel * planes.plane.cells();
        for cell in 0..grid.cells.cells() {
            let row = cell / grid.cells.width * grid.stride + grid.first.0;
            let column = cell % grid.cells.width * grid.stride + grid.first.1;
            // SAFETY: as promised; the grid is inside the plane.
            unsafe { *numbers.0.add(first + row * planes.plane.width + column) = 0.0 };
        }
    }
}

/// The weights of one group, `[outputs, inputs, taps]`, with inputs and outputs exchanged and of the
/// taps those at `indices` alone: `[inputs / ROWS, outputs · indices, ROWS]`, zeros at the end.
fn turned(weight: &[f32], indices: &[usize], sizes: &Sizes) -> Vec<f32> {
    let taps = sizes.conv.kernel * sizes.conv.kernel;
    let inputs = sizes.conv.input / sizes.conv.groups;
    let outputs = weight.len() / (inputs * taps);
    let steps = outputs * indices.len();
    let mut turned = vec![0.0_f32; inputs.div_ceil(ROWS) * steps * ROWS];
    turned
        .par_chunks_exact_mut(steps * ROWS)
        .enumerate()
        .for_each(|(block, turned)| {
            let first = block * ROWS;
            let count = ROWS.min(inputs - first);
            let groups = turned.chunks_exact_mut(indices.len() * ROWS);
            for (output, group) in groups.enumerate() {
                let kernels = &weight[(output * inputs + first) * taps..][..count * taps];
                if taps == 1 {
                    group[..count].copy_from_slice(kernels);
                    continue;
                }
                for (row, kernel) in kernels.chunks_exact(taps).enumerate() {
                    for (step, index) in indices.iter().enumerate() {
                        group[step * ROWS + row] = kernel[*index];
                    }
                }
            }
        });
    turned
}

/// The gradient of the weights.
pub(super) fn to_weight(x: &[f32], gradient: &[f32], sizes: &Sizes) -> Vec<f32> {
    if sizes.is_depthwise() {
        return depthwise::to_weight(x, gradient, sizes);
    }
    if !tile::available() {
        return unfolded::to_weight(x, gradient, sizes);
    }
    assert!(x.len() == sizes.input_numbers() && gradient.len() == sizes.output_numbers());
    let (input, output) = sizes.groups();
    let taps = sizes.taps();
    let group_weights = sizes.weights() / sizes.conv.groups;
    // Where each side could be the rows, the smaller one is packed.
    let swapped = taps.is_plain() && input.channels < output.channels;
    // SAFETY: the groups' weights are all weights.
    unsafe {
        written(sizes.weights(), |numbers| {
            for group in 0..sizes.conv.groups {
                let seen = Operand {
                    numbers: &x[group * input.channels * sizes.input.cells()..],
                    planes: input,
                };
                let cells = Operand {
                    numbers: &gradient[group * output.channels * sizes.output.cells()..],
                    planes: output,
                };
                let (seen, cells) = if swapped {
                    (cells, seen)
                } else {
                    (seen, cells)
                };
                let job = Gradient {
                    seen,
                    taps: &taps,
                    cells,
                    images: sizes.images,
                    by_rows: swapped,
                };
                job.run(from(numbers, group * group_weights));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::made_up;

    /// What a convolution and its gradients are by definition, in double precision.
    #[derive(Default)]
    struct Expected {
        output: Vec<f64>,
        to_input: Vec<f64>,
        to_weight: Vec<f64>,
    }

    fn expected(x: &[f32], weight: &[f32], gradient: &[f32], sizes: &Sizes) -> Expected {
        let conv = sizes.conv;
        let (inputs, outputs) = (conv.input / conv.groups, conv.output / conv.groups);
        let mut found = Expected {
            output: vec![0.0; gradient.len()],
            to_input: vec![0.0; x.len()],
            to_weight: vec![0.0; weight.len()],
        };
        let Plane { height, width } = sizes.input;
        for at in 0..gradient.len() {
            let (column, rest) = (at % sizes.output.width, at / sizes.output.width);
            let (row, plane) = (rest % sizes.output.height, rest / sizes.output.height);
            let (image, output) = (plane / conv.output, plane % conv.output);
            for step in 0..sizes.depth() {
                let tap = step % (conv.kernel * conv.kernel);
                let channel = output / outputs * inputs + step / (conv.kernel * conv.kernel);
                let y = (row * conv.stride + tap / conv.kernel).wrapping_sub(conv.padding);
                let x_at = (column * conv.stride + tap % conv.kernel).wrapping_sub(conv.padding);
                if y >= height || x_at >= width {
                    continue;
                }
                let source = ((image * conv.input + channel) * height + y) * width + x_at;
                let factor = output * sizes.depth() + step;
                let (number, weight) = (f64::from(x[source]), f64::from(weight[factor]));
                let gradient = f64::from(gradient[at]);
                found.output[at] += number * weight;
                found.to_input[source] += gradient * weight;
                found.to_weight[factor] += gradient * number;
            }
        }
        found
    }

    fn off(found: &[f32], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        // Factors are at most 1: where all sums are small, it is because large products cancel.
        let scale = expected
            .iter()
            .fold(1.0_f64, |most, value| most.max(value.abs()));
        let pairs = found.iter().zip(expected);
        let most = pairs.map(|(found, expected)| (f64::from(*found) - expected).abs());
        most.fold(0.0, f64::max) / scale
    }

    fn on_threads<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(run)
    }

    fn check(conv: Conv, images: usize, (height, width): (usize, usize)) {
        let (o, i, k, l) = conv.weight_shape();
        let shape = [images, conv.input, height, width];
        let device = candle_core::Device::Cpu;
        let numbers = |name: &str, shape: &[usize]| -> Vec<f32> {
            let numbers = made_up(&format!("{name}.bias"), shape);
            numbers.iter().map(|value| value * 10.0).collect()
        };
        let tensor = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &device);
        let sizes = Sizes::new(
            &tensor(&shape).unwrap(),
            &tensor(&[o, i, k, l]).unwrap(),
            &conv,
        );
        let Ok(sizes) = sizes else {
            return;
        };
        // Groups of several channels are left to candle where there are no tiles.
        if conv.groups > 1 && !sizes.is_depthwise() && !tile::available() {
            return;
        }
        let (x, weight) = (numbers("x", &shape), numbers("weight", &[o, i, k, l]));
        let gradient = numbers("gradient", &[sizes.output_numbers()]);
        let expected = expected(&x, &weight, &gradient, &sizes);
        let run = |threads| {
            on_threads(threads, || {
                [
                    forward(&x, &weight, &sizes),
                    to_input(&weight, &gradient, &sizes),
                    to_weight(&x, &gradient, &sizes),
                ]
            })
        };
        let found = run(1);
        let yardsticks = [&expected.output, &expected.to_input, &expected.to_weight];
        for (part, (found, expected)) in found.iter().zip(yardsticks).enumerate() {
            let off = off(found, expected);
            assert!(
                off < 3e-6,
                "{conv:?} on {shape:?}: part {part} is off by {off}"
            );
        }
        for threads in [2, 3] {
            assert!(
                found == run(threads),
                "{conv:?} on {shape:?}: {threads} threads"
            );
        }
        if conv.groups == 1 {
            let plain = [
                unfolded::forward(&x, &weight, &sizes),
                unfolded::to_input(&weight, &gradient, &sizes),
                unfolded::to_weight(&x, &gradient, &sizes),
            ];
            for (found, expected) in plain.iter().zip(yardsticks) {
                assert!(
                    off(found, expected) < 3e-6,
                    "{conv:?} on {shape:?}, unfolded"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn gradients_are_those_of_the_definition(
            groups in 1_usize..4, inputs in 1_usize..20, outputs in 1_usize..20,
            kernel in 1_usize..6, stride in 1_usize..4, padding in 0_usize..5,
            images in 1_usize..4, height in 1_usize..20, width in 1_usize..36,
        ) {
            let conv = Conv::new(groups * inputs, groups * outputs, kernel)
                .stride(stride).padding(padding.min(kernel - 1)).groups(groups);
            check(conv, images, (height, width));
        }

        #[test]
        fn depthwise_gradients_are_those_of_the_definition(
            channels in 1_usize..20, kernel in 1_usize..6, stride in 1_usize..4,
            padding in 0_usize..5, images in 1_usize..7, height in 1_usize..40,
            width in 1_usize..36,
        ) {
            let conv = Conv::depthwise(channels, kernel)
                .stride(stride).padding(padding.min(kernel - 1));
            check(conv, images, (height, width));
        }
    }

    // Several panels, blocks, bands and parts of long sums.
    #[test]
    fn large_gradients_are_those_of_the_definition() {
        check(Conv::new(70, 110, 1), 3, (16, 16));
        check(Conv::new(110, 70, 1), 2, (17, 13));
        check(Conv::new(130, 52, 3), 2, (8, 8));
        check(Conv::new(60, 100, 3).stride(2), 2, (24, 16));
        check(Conv::new(1100, 9, 1), 2, (8, 4));
    }
}
