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
