//! Convolution, channels first. Depthwise ones run plane by plane. Dense ones are matrix products if
//! they are 1×1 ([`Product`]), run by tiles in bfloat16 where the machine has those
//! ([`amx::Direct`]), are filtered with fewer products if they are 3×3 ([`Winograd`], in integers where
//! bfloat16 would do), and run directly otherwise ([`direct`]); patches, which hardly overlap, are unfolded and
//! multiplied like 1×1. Where the machine has no kernels for that, tiles of im2col stay in the cache, each multiplied
//! by the weights and finished while it is warm.

#![allow(unsafe_code)] // `gemm` takes raw pointers, and threads write into one output

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::amx::{self, Tiles};
use super::block::{Precision, ROWS, Unit};
use super::depthwise::{self, PlaneShape};
use super::direct;
use super::finish::{self, Bias, End, Finish};
use super::product::{Begun, Grid, Product, Source, is_pointwise, sees_one_cell};
use super::simd::{self, Level};
use super::winograd::Winograd;
use super::words;
use crate::layers::Conv;

/// Bytes that a tile of unfolded input may take: about half of a core's second-level cache.
const TILE_BYTES: usize = 512 * 1024;

/// Products of a depthwise convolution, which waits for memory, below which a job of its own costs more
/// than it brings.
const PRODUCTS_A_JOB: usize = 1 << 17;

/// Input channels, of patches the numbers of one, below which products that are not filtered stay in f32: few numbers average fewer
/// rounding errors out, and take little time. `docs/benchmarks.md` tells what DEIMv2 finds with it and without.
const NARROW: usize = 64;

/// Weights prepared for [`Packed::run`].
pub struct Packed {
    conv: Conv,
    weight: Weight,
    bias: Vec<f32>, // [output], filled up with zeros to whole register blocks
    finish: Finish,
}

/// What is added to the outputs of a convolution.
#[derive(Clone, Copy)]
pub struct Added<'a> {
    /// As large as the output.
    pub data: &'a [f32],
    /// What is below zero then becomes zero.
    pub relu: bool,
}

/// What joins the sums of a convolution.
#[derive(Clone, Copy, Default)]
pub struct Joined<'a> {
    /// They go on from these.
    pub begun: Option<Begun<'a>>,
    /// What is added last.
    pub added: Option<Added<'a>>,
}

enum Weight {
    /// For a matrix product, see [`Product`].
    Product(Product),
    /// Transformed, see [`Winograd`].
    Winograd(Winograd),
    /// `[output, input / groups * kernel * kernel]`.
    Rows(Vec<f32>),
    /// For tiles, see [`amx::Direct`].
    Tiles(amx::Direct),
    /// As [`direct`] wants them, where that is the faster way.
    Direct(Unit, Vec<u32>),
    /// For the product with unfolded images.
    Unfolded(Product),
}

/// Size of a batch of images.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Number of images.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Size {
    /// Cells of a channel.
    pub fn cells(&self) -> usize {
        self.height * self.width
    }
}

/// Input and output sizes of one run.
#[derive(Clone, Copy)]
struct Extent {
    input: Size,
    out_height: usize,
    out_width: usize,
}

/// A pointer that threads may share because they write disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub *mut f32);
// SAFETY: every user writes only its own channels, rows and columns, see `dense_tile`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The number `index`. A method, so that closures capture the whole, which may cross threads.
    ///
    /// # Safety
    /// It lies within what the pointer was made for, or just after it.
    pub unsafe fn at(&self, index: usize) -> *mut f32 {
        // SAFETY: by this function's contract.
        unsafe { self.0.add(index) }
    }
}

impl Packed {
    /// `weight` as `[output, input / groups, kernel, kernel]`, `bias` as `[output]`.
    pub fn new(conv: &Conv, weight: Vec<f32>, bias: Vec<f32>, precision: Precision) -> Self {
        Self::at(conv, weight, bias, precision, simd::level())
    }

    /// The same by vector units of `level` or below.
    pub fn at(
        conv: &Conv,
        weight: Vec<f32>,
        mut bias: Vec<f32>,
        precision: Precision,
        level: Level,
    ) -> Self {
        let exact = Unit::at(Precision::F32, level);
        // What is filtered is exact enough with few channels too.
        let filtering = Unit::at(precision, level).or(exact);
        let unit_of = |numbers: usize| {
            let precision = if numbers < NARROW {
                Precision::F32
            } else {
                precision
            };
            Unit::at(precision, level).or(exact)
        };
        let unit = unit_of(conv.input);
        let depth = conv.input * conv.kernel * conv.kernel;
        let tiles = unit.and_then(Tiles::of);
        let weight = if sees_one_cell(conv)
            && let Some(unit) = unit
        {
            Weight::Product(Product::new(unit, &weight, conv))
        } else if amx::Direct::suits(conv)
            && let Some(tiles) = tiles
        {
            Weight::Tiles(amx::Direct::new(tiles, conv, &weight))
        } else if let Some(unit) = filtering
            && Winograd::suits(conv, unit.level)
        {
            Weight::Winograd(Winograd::new(unit, conv, &weight))
        } else if prefers_direct(conv)
            && let Some(unit) = unit
        {
            Weight::Direct(unit, direct::pack(unit.precision, conv, &weight))
        } else if conv.groups == 1
            && conv.stride > 2
            && let Some(unit) = unit_of(depth)
        {
            let conv = Conv::new(depth, conv.output, 1).activation(conv.activation);
            Weight::Unfolded(Product::new(unit, &weight, &conv))
        } else {
            Weight::Rows(weight)
        };
        bias.resize(conv.output.next_multiple_of(ROWS), 0.0);
        Self {
            conv: *conv,
            weight,
            bias,
            finish: Finish::new(conv.activation),
        }
    }

    /// Multiplies what the activation gives, and adds a number.
    pub fn scale(&mut self, scale: f32, shift: f32) {
        self.finish.scale = scale;
        self.finish.shift = shift;
    }

    /// Number of input channels.
    pub fn input_channels(&self) -> usize {
        self.conv.input
    }

    /// Number of output channels.
    pub fn output_channels(&self) -> usize {
        self.conv.output
    }

    /// Whether [`Packed::run`] takes an input whose channels lie in several tensors.
    pub fn takes_parts(&self) -> bool {
        match &self.weight {
            Weight::Product(_) | Weight::Tiles(_) | Weight::Direct(..) => true,
            Weight::Winograd(_) | Weight::Rows(_) | Weight::Unfolded(_) => false,
        }
    }

    /// Whether [`Packed::run`] adds to its outputs.
    pub fn adds(&self) -> bool {
        match self.weight {
            Weight::Product(_) | Weight::Winograd(_) | Weight::Tiles(_) | Weight::Unfolded(_) => {
                true
            }
            Weight::Rows(_) | Weight::Direct(..) => false,
        }
    }

    /// Whether its sums may go on from others, see [`Begun`].
    pub fn goes_on(&self) -> bool {
        matches!(self.weight, Weight::Product(_))
    }

    /// Convolves `[batch, input, height, width]`; gives the output and its height and width. The
    /// input is one tensor, or, see [`Packed::takes_parts`], several with its channels in turn.
    ///
    /// # Errors
    /// The input is smaller than the kernel, or what joins the sums does not fit.
    pub fn run(
        &self,
        parts: &[Source<'_>],
        size: Size,
        joined: Joined<'_>,
    ) -> Result<(Vec<f32>, usize, usize)> {
        let Joined { begun, added } = joined;
        let [input, ..] = parts else {
            bail!("convolution of nothing");
        };
        let input = input.data;
        let Some((height, width)) = self.conv.output_size(size.height, size.width) else {
            bail!(
                "convolution of {kernel}×{kernel} on {}×{}",
                size.height,
                size.width,
                kernel = self.conv.kernel,
            );
        };
        let count = size.batch * self.conv.output * height * width;
        if added.is_some_and(|added| added.data.len() != count || !self.adds()) {
            bail!("what is added to a convolution does not fit");
        }
        let fits = |begun: Begun<'_>| begun.fits(size.batch * self.conv.output, (height, width));
        if begun.is_some_and(|begun| !self.goes_on() || !fits(begun)) {
            bail!("the sums that a convolution is to go on from do not fit");
        }
        let mut output = Vec::with_capacity(count);
        let target = Shared(output.as_mut_ptr());
        let extent = Extent {
            input: size,
            out_height: height,
            out_width: width,
        };
        let grid = Grid {
            size,
            output: (height, width),
        };
        let depthwise = self.conv.groups == self.conv.input && self.conv.groups == self.conv.output;
        // SAFETY: there is room for all outputs, which nobody else knows of; each kernel writes
        // all of them.
        unsafe {
            match &self.weight {
                Weight::Product(product) => {
                    product.run(parts, &self.bias, self.finish, grid, joined, target.0);
                }
                Weight::Winograd(winograd) => {
                    winograd.run(input, &self.bias, self.finish, size, added, target.0);
                }
                Weight::Tiles(tiles) => {
                    tiles.run(parts, &self.bias, self.finish, grid, added, target.0);
                }
                Weight::Direct(unit, weight) => {
                    let layer = direct::Layer {
                        conv: &self.conv,
                        weight,
                        bias: &self.bias,
                        finish: self.finish,
                        unit: *unit,
                    };
                    direct::images(&layer, parts, grid, target);
                }
                Weight::Unfolded(product) => {
                    let matrix = self.unfolded(input, extent);
                    let source = Source {
                        data: &matrix,
                        channels: self.conv.input * self.conv.kernel * self.conv.kernel,
                    };
                    let grid = Grid {
                        size: Size {
                            height,
                            width,
                            ..size
                        },
                        ..grid
                    };
                    let output = target.0;
                    product.run(&[source], &self.bias, self.finish, grid, joined, output);
                }
                Weight::Rows(weight) if depthwise => {
                    self.depthwise(weight, input, extent, target);
                }
                Weight::Rows(weight) => self.dense(weight, input, extent, target),
            }
            output.set_len(count);
        }
        Ok((output, height, width))
    }

    /// Unfolded images: `[batch, input × kernel × kernel, cells of the output]`.
    fn unfolded(&self, input: &[f32], extent: Extent) -> Vec<f32> {
        let (size, cells) = (extent.input, extent.out_height * extent.out_width);
        let taps = self.conv.kernel * self.conv.kernel;
        let mut matrix = vec![0.0; size.batch * self.conv.input * taps * cells];
        let tile = Tile {
            image: 0,
            group: 0,
            columns: 0..cells,
            out_width: extent.out_width,
            cells,
            depth: taps,
        };
        matrix
            .par_chunks_exact_mut((taps * cells).max(1))
            .zip(input.par_chunks_exact(size.cells().max(1)))
            .for_each(|(rows, plane)| unfold(rows, plane, size, &self.conv, &tile));
        matrix
    }

    /// What follows the sums of the channels from `first` on.
    fn end(&self, first: usize) -> End<'_> {
        End {
            bias: Bias::Rows(&self.bias[first..]),
            finish: self.finish,
            added: None,
            relu: false,
        }
    }

    /// # Safety
    /// The output may be written, all of it, by nobody else.
    unsafe fn depthwise(&self, weight: &[f32], input: &[f32], extent: Extent, output: Shared) {
        let (size, height, width) = (extent.input, extent.out_height, extent.out_width);
        let taps = self.conv.kernel * self.conv.kernel;
        let shape = PlaneShape {
            in_height: size.height,
            in_width: size.width,
            out_height: height,
            out_width: width,
            conv: self.conv,
        };
        let together = PRODUCTS_A_JOB.div_ceil((height * width * taps).max(1));
        let plane = |buffer: &mut Vec<f32>, plane: usize| {
            let channel = plane % self.conv.output;
            let weight = &weight[channel * taps..(channel + 1) * taps];
            let input = &input[plane * size.cells()..(plane + 1) * size.cells()];
            let end = self.end(channel);
            // SAFETY: a plane of the output, which no other job writes.
            unsafe {
                let output = output.at(plane * height * width);
                depthwise::plane(output, input, weight, shape, &end, buffer);
            }
        };
        let planes = size.batch * self.conv.output;
        if planes <= together || rayon::current_num_threads() == 1 {
            let mut buffer = Vec::new();
            (0..planes).for_each(|index| plane(&mut buffer, index));
            return;
        }
        (0..planes)
            .into_par_iter()
            .with_min_len(together)
            .for_each_init(Vec::new, plane);
    }

    /// # Safety
    /// The output may be written, all of it, by nobody else.
    unsafe fn dense(&self, weight: &[f32], input: &[f32], extent: Extent, output: Shared) {
        let (size, height, width) = (extent.input, extent.out_height, extent.out_width);
        let depth = self.conv.input / self.conv.groups * self.conv.kernel * self.conv.kernel;
        let cells = height * width;
        // Columns a tile: a quarter of the image or as many as the cache holds. Never a matter of
        // batch or threads: the order of every sum, so every bit of the result, must not depend
        // on them.
        let fitting = (TILE_BYTES / 4 / depth).max(48);
        let tile = cells
            .div_ceil(4)
            .clamp(48, fitting.max(48))
            .next_multiple_of(16);
        let tiles_per_image = cells.div_ceil(tile);
        let tiles = size.batch * self.conv.groups * tiles_per_image;
        (0..tiles)
            .into_par_iter()
            .for_each_init(Vec::new, |buffer, index| {
                let first = index % tiles_per_image * tile;
                let group = index / tiles_per_image % self.conv.groups;
                let image = index / tiles_per_image / self.conv.groups;
                let tile = Tile {
                    image,
                    group,
                    columns: first..(first + tile).min(cells),
                    out_width: width,
                    cells,
                    depth,
                };
                // SAFETY: the tile's outputs are no other one's.
                unsafe { self.dense_tile(weight, input, size, output, &tile, buffer) };
            });
    }

    /// # Safety
    /// The tile's outputs may be written.
    unsafe fn dense_tile(
        &self,
        weight: &[f32],
        input: &[f32],
        size: Size,
        output: Shared,
        tile: &Tile,
        buffer: &mut Vec<f32>,
    ) {
        let group_in = self.conv.input / self.conv.groups;
        let group_out = self.conv.output / self.conv.groups;
        let plane = size.height * size.width;
        let columns = tile.columns.len();
        let start = (tile.image * self.conv.input + tile.group * group_in) * plane;
        let input = &input[start..start + group_in * plane];
        // A pointwise convolution needs no unfolding: the input is the matrix already.
        let pointwise = is_pointwise(&Conv {
            groups: 1,
            ..self.conv
        });
        let (matrix, row_stride) = if pointwise {
            (&input[tile.columns.start..], plane)
        } else {
            buffer.resize(tile.depth * columns, 0.0);
            unfold(buffer, input, size, &self.conv, tile);
            (&buffer[..], columns)
        };
        let first_out = tile.image * self.conv.output + tile.group * group_out;
        let offset = first_out * tile.cells + tile.columns.start;
        let weight = &weight[tile.group * group_out * tile.depth..];
        assert!(weight.len() >= group_out * tile.depth);
        assert!(matrix.len() >= (tile.depth - 1) * row_stride + columns);
        // SAFETY: the weight holds group_out × depth numbers, the matrix depth × columns with
        // `row_stride` between rows (both asserted); the output of this tile is group_out rows of
        // `columns` numbers at stride `cells`, inside the output and touched by no other tile.
        unsafe {
            let destination = output.at(offset);
            gemm::gemm(
                group_out,
                columns,
                tile.depth,
                destination,
                1,
                tile.cells as isize,
                false,
                weight.as_ptr(),
                1,
                tile.depth as isize,
                matrix.as_ptr(),
                1,
                row_stride as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
            let end = self.end(tile.group * group_out);
            let mut sums = Vec::with_capacity(columns);
            for channel in 0..group_out {
                let row = destination.add(channel * tile.cells);
                sums.clear();
                sums.extend_from_slice(std::slice::from_raw_parts(row, columns));
                finish::row(row, &sums, &end, channel);
            }
        }
    }
}

/// Whether a convolution runs without unfolding its input, which takes a quarter to two thirds of
/// the time of the product by `gemm` for every shape of the networks here.
fn prefers_direct(conv: &Conv) -> bool {
    conv.groups == 1 && conv.input > 1 && conv.stride <= 2
}

struct Tile {
    image: usize,
    group: usize,
    /// Output cells, counted through the rows.
    columns: std::ops::Range<usize>,
    out_width: usize,
    /// Output cells of a channel.
    cells: usize,
    /// Rows of the unfolded input: input channels a group × kernel × kernel.
    depth: usize,
}

/// Writes the tile's columns of the unfolded input, `[depth, columns]`.
fn unfold(buffer: &mut [f32], input: &[f32], size: Size, conv: &Conv, tile: &Tile) {
    let columns = tile.columns.len();
    let taps = conv.kernel * conv.kernel;
    for (row, line) in buffer.chunks_exact_mut(columns).enumerate() {
        let plane = &input[row / taps * size.height * size.width..][..size.height * size.width];
        let (ky, kx) = (row % taps / conv.kernel, row % conv.kernel);
        let mut done = 0;
        while done < columns {
            let cell = tile.columns.start + done;
            let (y, x) = (cell / tile.out_width, cell % tile.out_width);
            let count = (tile.out_width - x).min(columns - done);
            let segment = &mut line[done..done + count];
            let source_y = (y * conv.stride + ky).wrapping_sub(conv.padding);
            if source_y < size.height {
                let source = &plane[source_y * size.width..][..size.width];
                unfold_row(segment, source, x, kx, conv);
            } else {
                segment.fill(0.0);
            }
            done += count;
        }
    }
}

/// Copies the inputs that outputs from column `x` on see through kernel column `kx`.
fn unfold_row(segment: &mut [f32], source: &[f32], x: usize, kx: usize, conv: &Conv) {
    let from = (x * conv.stride + kx) as isize - conv.padding as isize;
    let before = ((-from).max(0) as usize).div_ceil(conv.stride);
    let before = before.min(segment.len());
    let (zeros, segment) = segment.split_at_mut(before);
    zeros.fill(0.0);
    let start = (from + (before * conv.stride) as isize).max(0) as usize;
    let seen = source.get(start..).unwrap_or_default();
    let inside = seen.len().div_ceil(conv.stride).min(segment.len());
    let (inside, beyond) = segment.split_at_mut(inside);
    words::every(inside, seen, conv.stride);
    beyond.fill(0.0);
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::{DType, Device, Tensor};
    use proptest::prelude::*;

    use super::{Level, NARROW, Winograd, simd};
    use crate::layers::{Activation, Conv};
    use crate::ops::{Conv2d, Precision, reference};

    /// Largest difference between the kernel and the plain version, relative to the largest number,
    /// by vector units of `level` at most, on one thread or on three.
    fn difference_at(
        conv: Conv,
        [batch, height, width]: [usize; 3],
        level: Level,
        threads: usize,
    ) -> f32 {
        let run = || -> candle_core::Result<f32> {
            let device = Device::Cpu;
            let x = Tensor::randn(0_f32, 1.0, (batch, conv.input, height, width), &device)?;
            let weight = Tensor::randn(0_f32, 1.0, conv.weight_shape(), &device)?;
            let bias = Tensor::randn(0_f32, 1.0, conv.output, &device)?;
            let (padded, plain) = conv.with_far_zeros(&x)?;
            let expected = reference::conv2d(&padded, &weight, Some(&bias), &plain)?;
            let expected = conv.activation.apply(&expected)?;
            let layer = Conv2d::at_level(conv, &weight, &bias, Precision::F32, level)?;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let found = pool.build().unwrap().install(|| layer.forward(&x))?;
            assert_eq!(found.dims(), expected.dims());
            let scale = expected.abs()?.max_all()?.to_scalar::<f32>()?;
            let error = (found - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
            Ok(error / scale.max(1.0))
        };
        run().unwrap()
    }

    fn level() -> impl Strategy<Value = Level> {
        prop_oneof![Just(Level::Plain), Just(Level::Avx2), Just(Level::Avx512)]
    }

    pub fn activation() -> impl Strategy<Value = Activation> {
        prop_oneof![
            Just(Activation::Identity),
            Just(Activation::Relu),
            Just(Activation::Silu)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn dense_equals_plain(
            groups in 1_usize..4, group_in in 1_usize..9, group_out in 1_usize..9,
            kernel in 1_usize..6, stride in 1_usize..5, padding in 0_usize..3,
            far in 0_usize..2, batch in 1_usize..3, height in 5_usize..24, width in 5_usize..40,
            act in activation(), level in level(), threads in prop_oneof![Just(1), Just(3)],
        ) {
            let conv = Conv::new(groups * group_in, groups * group_out, kernel)
                .stride(stride).padding(padding).far(far).groups(groups).activation(act);
            prop_assert!(difference_at(conv, [batch, height, width], level, threads) < 1e-5);
        }

        // Enough channels for gathered products, and for parts of sums.
        #[test]
        fn wide_equals_plain(
            input in 1_usize..320, output in 60_usize..90, kernel in prop_oneof![Just(1), Just(3)],
            stride in 1_usize..3, batch in 1_usize..3, height in 3_usize..9, width in 3_usize..30,
            act in activation(), level in level(), threads in prop_oneof![Just(1), Just(3)],
        ) {
            let conv = Conv::new(input, output, kernel).stride(stride).activation(act);
            prop_assert!(difference_at(conv, [batch, height, width], level, threads) < 3e-5);
        }

        #[test]
        fn depthwise_equals_plain(
            channels in 1_usize..9, kernel in 1_usize..6, stride in 1_usize..4,
            padding in 0_usize..4, batch in 1_usize..3, height in 5_usize..24,
            width in 5_usize..40, far in 0_usize..2, act in activation(), level in level(),
        ) {
            let conv = Conv::depthwise(channels, kernel)
                .stride(stride).padding(padding).far(far).activation(act);
            prop_assert!(difference_at(conv, [batch, height, width], level, 1) < 1e-5);
        }
    }

    /// As numbers of `precision`.
    fn rounded(x: &Tensor, precision: Precision) -> candle_core::Result<Tensor> {
        match precision {
            Precision::F32 => Ok(x.clone()),
            Precision::Bf16 => x.to_dtype(DType::BF16)?.to_dtype(DType::F32),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        // Enough channels for the minimal filtering; its sums are of other numbers, so that errors
        // are larger.
        #[test]
        fn three_by_three_equals_plain(
            input in 16_usize..40, output in 16_usize..70, padding in 0_usize..3,
            stride in 1_usize..3, batch in 1_usize..4, height in 3_usize..24, width in 3_usize..70,
            act in activation(), level in level(),
        ) {
            let conv = Conv::new(input, output, 3).padding(padding).stride(stride).activation(act);
            prop_assert!(difference_at(conv, [batch, height, width], level, 1) < 2e-5);
        }

        #[test]
        fn channels_in_parts_equal_plain(
            parts in prop::collection::vec(1_usize..70, 1..5), output in 1_usize..70,
            batch in 1_usize..4, height in 1_usize..12, width in 1_usize..40, bf16: bool,
            (kernel, stride) in prop_oneof![Just((1, 1)), Just((3, 1)), Just((3, 2))], relu: bool,
        ) {
            let run = || -> candle_core::Result<f32> {
                let conv = Conv::new(parts.iter().sum(), output, kernel).stride(stride);
                let conv = conv.activation(Activation::Silu);
                // What is filtered has products of other numbers, see `integers_are_as_near_as_bf16`.
                let filtered = Winograd::suits(&conv, simd::level()) && !simd::tiles();
                let bf16 = bf16 && conv.input >= NARROW && !filtered;
                let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
                let device = Device::Cpu;
                let weight = Tensor::randn(0_f32, 1.0, conv.weight_shape(), &device)?;
                let bias = Tensor::randn(0_f32, 1.0, output, &device)?;
                let mut tensors = Vec::new();
                for part in &parts {
                    let shape = (batch, *part, height, width);
                    tensors.push(Tensor::randn(0_f32, 1.0, shape, &device)?);
                }
                let tensors: Vec<&Tensor> = tensors.iter().collect();
                let precision = if precision.available() { precision } else { Precision::F32 };
                let layer = Conv2d::with_precision(conv, &weight, Some(&bias), precision)?;
                let layer = layer.scaled(0.75, -0.5);
                let (rows, columns) = conv.output_size(height, width).unwrap();
                let added = Tensor::randn(0_f32, 1.0, (batch, output, rows, columns), &device)?;
                let found = layer.forward_sum(&tensors, &added, relu)?;
                let x = rounded(&Tensor::cat(&tensors, 1)?, precision)?;
                let weight = rounded(&weight, precision)?;
                let expected = reference::conv2d(&x, &weight, Some(&bias), &conv)?.silu()?;
                let expected = (expected.affine(0.75, -0.5)? + added)?;
                let expected = if relu { expected.relu()? } else { expected };
                let scale = expected.abs()?.max_all()?.to_scalar::<f32>()?;
                let error = (found - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
                Ok(error / scale.max(1.0))
            };
            let off = run().unwrap();
            prop_assert!(off < 2e-5, "off by {}", off);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        // Wide enough for sums of quarters: channels in parts, some of a coarser level, strides, what is added. They are as
        // near as products of bfloat16.
        #[test]
        fn wide_in_bf16_equals_plain(
            coarse in 1_usize..200, fine in 512_usize..700, rest in 1_usize..60, output in 192_usize..260,
            batch in 1_usize..3, (height, width) in (1_usize..8, 1_usize..16), stride in 1_usize..3,
            hinted: bool, relu: bool, act in activation(), threads in prop_oneof![Just(1), Just(3)],
        ) {
            let run = || -> candle_core::Result<(f32, f32)> {
                let device = Device::Cpu;
                let hinted = hinted && stride == 1;
                let conv = Conv::new(coarse + fine + rest, output, 1).stride(stride).activation(act);
                let conv = conv.coarse(if hinted { coarse } else { 0 });
                let random = |shape: (usize, usize, usize, usize), size: f32| {
                    Tensor::randn(0_f32, size, shape, &device)
                };
                let (rows, columns) = (2 * height, 2 * width);
                let weight = random(conv.weight_shape(), 1.0)?;
                let bias = Tensor::randn(0_f32, 1.0, output, &device)?;
                let coarser = random((batch, coarse, height, width), 1.0)?;
                let first = coarser.upsample_nearest2d(rows, columns)?;
                let others = [
                    random((batch, fine, rows, columns), 1.0)?,
                    random((batch, rest, rows, columns), 1.0)?,
                ];
                let x = Tensor::cat(&[&first, &others[0], &others[1]], 1)?;
                let (out_rows, out_columns) = conv.output_size(rows, columns).unwrap();
                let added = random((batch, output, out_rows, out_columns), 20.0)?;
                let exact = |precision: Precision| {
                    let (x, weight) = (rounded(&x, precision)?, rounded(&weight, precision)?);
                    let y = reference::conv2d(&x, &weight, Some(&bias), &conv)?;
                    let y = (conv.activation.apply(&y)? + &added)?;
                    if relu { y.relu() } else { Ok(y) }
                };
                let plain = exact(Precision::F32)?;
                let off = |y: &Tensor| (y - &plain)?.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>();
                let layer = Conv2d::with_precision(conv, &weight, Some(&bias), Precision::Bf16)?;
                let parts = [if hinted { &coarser } else { &first }, &others[0], &others[1]];
                let found = layer.forward_sum(&parts, &added, relu)?;
                Ok((off(&found)?, off(&exact(Precision::Bf16)?)?))
            };
            if Precision::Bf16.available() {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (found, bf16) = pool.install(run).unwrap();
                prop_assert!(found < 1.05 * bf16, "off by {found}, plain bfloat16 by {bf16}");
            }
        }
    }

    // Made-up numbers of both signs, as large in the mean everywhere. `filtering.py` of the peers' benches says that
    // plain bfloat16 is off by 0.25 %.
    #[test]
    fn integers_are_as_near_as_bf16() -> candle_core::Result<()> {
        if !Precision::Bf16.available() {
            return Ok(());
        }
        let device = Device::Cpu;
        for (input, output, kernel, stride) in [
            (16, 32, 3, 1),
            (64, 64, 3, 1),
            (256, 128, 3, 1),
            (128, 64, 3, 2),
            (512, 192, 1, 1),
            (2000, 256, 1, 1),
            (3, 192, 16, 8),
        ] {
            if simd::tiles() && (input >= NARROW || stride > 2) {
                continue; // Tiles multiply these, in bfloat16.
            }
            let conv = Conv::new(input, output, kernel).stride(stride);
            let x = Tensor::randn(0_f32, 1.0, (2, input, 32, 24), &device)?;
            let weight = Tensor::randn(0_f32, 1.0, conv.weight_shape(), &device)?;
            let exact = reference::conv2d(&x, &weight, None, &conv)?;
            let off = |found: Tensor| -> candle_core::Result<f32> {
                let squares = (found - &exact)?.sqr()?.mean_all()?;
                (squares / exact.sqr()?.mean_all()?)?.to_scalar::<f32>()
            };
            let layer = Conv2d::with_precision(conv, &weight, None, Precision::Bf16)?;
            let found = off(layer.forward(&x)?)?.sqrt();
            let bf16 = |x: &Tensor| rounded(x, Precision::Bf16);
            let plain = reference::conv2d(&bf16(&x)?, &bf16(&weight)?, None, &conv)?;
            let plain = off(plain)?.sqrt();
            assert!(found < plain, "off by {found}, plain bfloat16 by {plain}");
        }
        Ok(())
    }

    // To the last bit: alone and in a batch, on one thread and on three.
    #[test]
    fn batches_and_threads_change_nothing() -> candle_core::Result<()> {
        let device = Device::Cpu;
        for (input, output, kernel, stride, precision) in [
            (NARROW, 72, 3, 1, Precision::F32),
            (NARROW, 72, 1, 1, Precision::F32),
            (NARROW, 72, 1, 1, Precision::Bf16),
            (NARROW, 72, 3, 1, Precision::Bf16),
            (NARROW, 72, 3, 2, Precision::Bf16),
            (1100, 600, 1, 1, Precision::Bf16),
            (3, 200, 16, 8, Precision::Bf16),
        ] {
            if !precision.available() {
                continue;
            }
            let conv = Conv::new(input, output, kernel).stride(stride);
            let conv = conv.activation(Activation::Silu);
            let x = Tensor::randn(0_f32, 1.0, (3, input, 37, 29), &device)?;
            let weight = Tensor::randn(0_f32, 1.0, conv.weight_shape(), &device)?;
            let layer = Conv2d::with_precision(conv, &weight, None, precision)?;
            let run = |threads: usize, x: &Tensor| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let pool = pool.build().unwrap();
                let y = pool.install(|| layer.forward(x)).unwrap();
                y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let expected = run(1, &x);
            assert_eq!(run(3, &x), expected);
            let alone: Vec<f32> = (0..3)
                .flat_map(|image| run(2, &x.narrow(0, image, 1).unwrap()))
                .collect();
            assert_eq!(alone, expected);
        }
        Ok(())
    }

    #[test]
    fn an_input_smaller_than_the_kernel_is_an_error() -> candle_core::Result<()> {
        let conv = Conv::new(1, 1, 5).padding(0);
        let weight = Tensor::zeros((1, 1, 5, 5), candle_core::DType::F32, &Device::Cpu)?;
        let x = Tensor::zeros((1, 1, 4, 9), candle_core::DType::F32, &Device::Cpu)?;
        assert!(Conv2d::new(conv, &weight, None)?.forward(&x).is_err());
        Ok(())
    }
}
