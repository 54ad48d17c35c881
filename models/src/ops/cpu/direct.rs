//! Direct convolution: no unfolded copy of the input, sums kept in registers.
//!
//! A band of the input is padded once and, for stride 2, split by the parity of rows and columns,
//! so that neighbouring outputs read neighbouring numbers through every tap. Rows follow each other
//! without a gap: a block of outputs may run over the end of a row, and what falls on the padding
//! there is thrown away. A register block of output channels × neighbouring outputs stays put
//! while all inputs pass by. In bfloat16 a word of the band holds the numbers of two channels.

#![allow(unsafe_code)] // vector instructions

use super::block::{COLUMNS, Precision, ROWS, Target, Unit, numbers_mut};
use super::conv::Size;
#[cfg(target_arch = "x86_64")]
use super::finish;
use super::finish::{Bias, End, Finish};
use super::product::Source;
#[cfg(target_arch = "x86_64")]
use super::simd::Level;
use super::words;
use crate::layers::Conv;

/// Bytes that a band of the input may take: half of a core's second-level cache.
const BAND_BYTES: usize = 512 * 1024;

/// Weights in the order in which they are read: `[output / ROWS, steps, ky, kx, ROWS]`, where a step is
/// an input channel or two of them, filled up with zeros.
pub fn pack(precision: Precision, conv: &Conv, weight: &[f32]) -> Vec<u32> {
    let taps = conv.kernel * conv.kernel;
    let depth = conv.input * taps;
    let size = precision.steps(conv.input) * taps * ROWS;
    let mut packed = vec![0; conv.output.div_ceil(ROWS) * size];
    for (channel, row) in weight.chunks_exact(depth).enumerate() {
        let block = &mut packed[channel / ROWS * size..][..size];
        for (at, value) in row.iter().enumerate() {
            let (input, tap) = (at / taps, at % taps);
            let (step, word) = words::place(precision, input, *value);
            block[(step * taps + tap) * ROWS + channel % ROWS] |= word;
        }
    }
    packed
}

/// How a band of output rows lies in memory.
#[derive(Debug, Clone, Copy)]
pub struct BandShape {
    /// Image of the batch.
    pub image: usize,
    /// Input rows and columns.
    pub size: Size,
    /// First output row.
    pub first: usize,
    /// Output rows.
    pub rows: usize,
    /// Output columns.
    pub out_width: usize,
    /// Of the words.
    pub precision: Precision,
}

impl BandShape {
    /// Columns of a padded row, of one parity.
    fn pitch(&self, conv: &Conv) -> usize {
        self.out_width + (conv.kernel - 1) / conv.stride
    }

    /// Words of one step and parity, with room for the last block to run over.
    fn plane(&self, conv: &Conv) -> usize {
        let rows = self.rows + (conv.kernel - 1) / conv.stride;
        rows * self.pitch(conv) + COLUMNS + conv.kernel
    }

    /// Words of the whole band.
    pub fn size(&self, conv: &Conv) -> usize {
        self.precision.steps(conv.input) * conv.stride * conv.stride * self.plane(conv)
    }

    /// Output rows of a band that the cache holds.
    pub fn fitting(&self, conv: &Conv) -> usize {
        let row = 4 * self.pitch(conv) * self.precision.steps(conv.input) * conv.stride;
        (BAND_BYTES / row.max(1)).max(1)
    }
}

/// Copies the input rows that the band's outputs see into `band`, padded and split by parity:
/// `[steps, row parity, column parity, row × column]`.
pub fn fill(band: &mut [u32], sources: &[Source<'_>], shape: &BandShape, conv: &Conv) {
    let (plane, stride) = (shape.plane(conv), conv.stride);
    let cells = shape.size.cells();
    let mut planes = sources.iter().flat_map(|source| {
        let start = shape.image * source.channels;
        (start..start + source.channels).map(|plane| &source.data[plane * cells..][..cells])
    });
    for band in band.chunks_exact_mut(stride * stride * plane) {
        let Some(first) = planes.next() else {
            return;
        };
        match shape.precision {
            Precision::F32 => {
                fill_step(band, shape, conv, |words, from| {
                    words::every(numbers_mut(words), &first[from], stride);
                });
            }
            Precision::Bf16 => {
                let second = planes.next();
                fill_step(band, shape, conv, |words, from| {
                    let second = second.map(|second| &second[from.clone()]);
                    words::pairs_of_every(words, &first[from], second, stride);
                });
            }
        }
    }
}

/// Fills one step of a band, which begins at `band`: `take` gets words, and which numbers of a plane
/// belong there, of which the first and every further one by the stride count.
fn fill_step(
    band: &mut [u32],
    shape: &BandShape,
    conv: &Conv,
    take: impl Fn(&mut [u32], std::ops::Range<usize>),
) {
    let (plane, pitch, stride) = (shape.plane(conv), shape.pitch(conv), conv.stride);
    let rows = (shape.rows - 1) * stride + conv.kernel;
    let width = shape.size.width;
    for row in 0..rows {
        let y = (shape.first * stride + row).wrapping_sub(conv.padding);
        let start = row % stride * stride * plane + row / stride * pitch;
        for parity in 0..stride {
            let target = &mut band[start + parity * plane..][..pitch];
            if y >= shape.size.height {
                target.fill(0);
                continue;
            }
            // The first number of this parity that lies in the row, and its column.
            let padded = conv.padding.saturating_sub(parity).div_ceil(stride);
            let column = padded.min(pitch);
            let first = (column * stride + parity).saturating_sub(conv.padding);
            let first = first.min(width);
            let count = (width - first).div_ceil(stride).min(pitch - column);
            target[..column].fill(0);
            let words = &mut target[column..column + count];
            take(words, y * width + first..(y + 1) * width);
            target[column + count..].fill(0);
        }
    }
}

/// Where each tap of one channel starts reading, relative to the output's place in the band.
fn tap_offsets(shape: &BandShape, conv: &Conv) -> Vec<usize> {
    let (plane, pitch, stride) = (shape.plane(conv), shape.pitch(conv), conv.stride);
    let mut offsets = Vec::with_capacity(conv.kernel * conv.kernel);
    for ky in 0..conv.kernel {
        for kx in 0..conv.kernel {
            let parity = ky % stride * stride + kx % stride;
            offsets.push(parity * plane + ky / stride * pitch + kx / stride);
        }
    }
    offsets
}

/// Operands and target of one block.
pub(super) struct Run<'a> {
    /// The band from the first output's place on.
    pub values: *const u32,
    pub steps: usize,
    pub step_size: usize,
    pub offsets: &'a [usize],
    /// `[steps, taps, ROWS]`.
    pub weight: *const u32,
    pub target: Target,
    pub end: &'a End<'a>,
}

/// Weights, and what follows the sums.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// Its sizes.
    pub conv: &'a Conv,
    /// See [`pack`].
    pub weight: &'a [u32],
    /// Filled up to whole blocks.
    pub bias: &'a [f32],
    /// What follows.
    pub finish: Finish,
    /// Numbers, and the vector units.
    pub unit: Unit,
}

/// Computes a band from what [`fill`] wrote, into channels that are `cells` numbers apart; `output`
/// is where the band begins in the first channel.
///
/// # Safety
/// The band's rows of all channels may be written by this thread alone, and the machine has the
/// layer's unit.
pub unsafe fn run(
    band: &[u32],
    layer: &Layer<'_>,
    shape: &BandShape,
    cells: usize,
    output: *mut f32,
) {
    let conv = layer.conv;
    let offsets = tap_offsets(shape, conv);
    let pitch = shape.pitch(conv);
    let steps = shape.precision.steps(conv.input);
    let step_size = conv.stride * conv.stride * shape.plane(conv);
    let places = shape.rows * pitch;
    let reach = offsets.iter().max().copied().unwrap_or(0) + places.next_multiple_of(COLUMNS);
    assert!((steps - 1) * step_size + reach <= band.len());
    let block_size = steps * offsets.len() * ROWS;
    assert!(layer.bias.len() >= conv.output.next_multiple_of(ROWS));
    let mut sums = [[0.0_f32; COLUMNS]; ROWS];
    for (index, weight) in layer.weight.chunks_exact(block_size).enumerate() {
        let first = index * ROWS;
        let rows = ROWS.min(conv.output - first);
        let end = End {
            bias: Bias::Rows(&layer.bias[first..first + ROWS]),
            finish: layer.finish,
            added: None,
            relu: false,
        };
        for at in (0..places).step_by(COLUMNS) {
            let (row, column) = (at / pitch, at % pitch);
            let columns = COLUMNS.min(places - at);
            let inside = column + columns <= pitch;
            // SAFETY: the band reaches far enough, as was asserted; a block that lies in one row
            // is written where it belongs, as far as the row has outputs.
            unsafe {
                let place = output.add(first * cells + row * shape.out_width + column);
                let target = if inside {
                    Target {
                        start: place,
                        pitch: cells,
                        rows,
                        columns: columns.min(shape.out_width.saturating_sub(column)),
                        resumed: false,
                    }
                } else {
                    Target::block(&mut sums, rows, columns)
                };
                if target.columns == 0 {
                    continue;
                }
                let run = Run {
                    values: band.as_ptr().add(at),
                    steps,
                    step_size,
                    offsets: &offsets,
                    weight: weight.as_ptr(),
                    target,
                    end: &end,
                };
                block(layer.unit, &run);
            }
            if inside {
                continue;
            }
            let mut done = 0;
            while done < columns {
                let (row, column) = ((at + done) / pitch, (at + done) % pitch);
                let count = (pitch - column).min(columns - done);
                // Columns beyond the row's end are padding.
                let kept = count.min(shape.out_width.saturating_sub(column));
                for (channel, sums) in sums.iter().enumerate().take(rows) {
                    let place = (first + channel) * cells + row * shape.out_width + column;
                    // SAFETY: columns of this row.
                    unsafe {
                        let from = sums.as_ptr().add(done);
                        std::ptr::copy_nonoverlapping(from, output.add(place), kept);
                    }
                }
                done += count;
            }
        }
    }
}

/// # Safety
/// The operands reach far enough, rows and columns of the target may be written, and the machine
/// has the unit.
unsafe fn block(unit: Unit, run: &Run<'_>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: by this function's contract.
    unsafe {
        match (unit.level, unit.precision, run.target.columns.div_ceil(16)) {
            (Level::Avx512, Precision::F32, 3) => avx512::f32_block::<3>(run),
            (Level::Avx512, Precision::F32, 2) => avx512::f32_block::<2>(run),
            (Level::Avx512, Precision::F32, _) => avx512::f32_block::<1>(run),
            (Level::Avx512, Precision::Bf16, 3) => avx512::bf16_block::<3>(run),
            (Level::Avx512, Precision::Bf16, 2) => avx512::bf16_block::<2>(run),
            (Level::Avx512, Precision::Bf16, _) => avx512::bf16_block::<1>(run),
            _ => avx2::block(run),
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let _: Unit = unit;
        // SAFETY: by this function's contract.
        unsafe { super::neon::direct(run) };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _: &Run<'_> = run;
        unreachable!("there are no blocks for this machine: {unit:?}");
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{__m512, _mm512_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps};

    use super::super::block::avx512::{add_bf16, add_f32};
    use super::super::block::prefetch;
    use super::{ROWS, Run, finish};

    const LANES: usize = 16;

    /// One function for each kind of words: `$add` multiplies and adds.
    macro_rules! block {
        ($name:ident, $features:literal, $add:path) => {
            /// # Safety
            /// As [`super::block`], `VECTORS` vectors of columns.
            #[target_feature(enable = $features)]
            pub unsafe fn $name<const VECTORS: usize>(run: &Run<'_>) {
                let target = run.target;
                let mask = u16::MAX >> (VECTORS * LANES - target.columns);
                prefetch(&target);
                let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
                let mut weight = run.weight;
                for step in 0..run.steps {
                    for offset in run.offsets {
                        // SAFETY: by this function's contract; loads need no alignment.
                        unsafe {
                            let values = run.values.add(step * run.step_size + offset);
                            let values: [__m512; VECTORS] = std::array::from_fn(|vector| {
                                _mm512_loadu_ps(values.add(vector * LANES).cast())
                            });
                            for (row, sums) in sums.iter_mut().enumerate() {
                                let weight = _mm512_set1_epi32((*weight.add(row)).cast_signed());
                                for vector in 0..VECTORS {
                                    sums[vector] = $add(sums[vector], values[vector], weight);
                                }
                            }
                            weight = weight.add(ROWS);
                        }
                    }
                }
                let end = Some(run.end);
                finish::store!(sums, end, target, mask, VECTORS);
            }
        };
    }

    block!(f32_block, "avx512f,avx512bw,avx512vl,avx512dq", add_f32);
    block!(
        bf16_block,
        "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16",
        add_bf16
    );
}

/// Blocks in parts that fit sixteen registers of eight numbers: four rows by up to 16 columns, a few
/// channels of the input at a time, which stay in the first-level cache for all parts.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    use super::{COLUMNS, ROWS, Run};

    const LANES: usize = 8;
    const HEIGHT: usize = 4;
    const WIDTH: usize = 2;
    /// Channels that all parts take before the next ones.
    const TOGETHER: usize = 8;

    /// # Safety
    /// As [`super::block`], any number of columns.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn block(run: &Run<'_>) {
        let target = run.target;
        let mut sums = [[0.0_f32; COLUMNS]; ROWS];
        for start in (0..run.steps).step_by(TOGETHER) {
            let channels = start..(start + TOGETHER).min(run.steps);
            for first in (0..target.rows).step_by(HEIGHT) {
                for column in (0..target.columns).step_by(WIDTH * LANES) {
                    let channels = channels.clone();
                    // SAFETY: by this function's contract.
                    unsafe {
                        if target.columns - column <= LANES {
                            part::<1>(run, channels, &mut sums, first, column);
                        } else {
                            part::<2>(run, channels, &mut sums, first, column);
                        }
                    }
                }
            }
        }
        // SAFETY: by this function's contract.
        unsafe { target.store(&sums, Some(run.end)) };
    }

    /// # Safety
    /// As [`block`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn part<const VECTORS: usize>(
        run: &Run<'_>,
        channels: std::ops::Range<usize>,
        sums: &mut [[f32; COLUMNS]; ROWS],
        first: usize,
        column: usize,
    ) {
        let mut local = [[_mm256_setzero_ps(); VECTORS]; HEIGHT];
        // SAFETY: by this function's contract; a block has room for whole vectors.
        unsafe {
            for (row, local) in local.iter_mut().enumerate() {
                for (vector, sum) in local.iter_mut().enumerate() {
                    let at = sums[first + row].as_ptr().add(column + vector * LANES);
                    *sum = _mm256_loadu_ps(at);
                }
            }
            let before = channels.start * run.offsets.len() * ROWS;
            let mut weight = run.weight.add(before + first).cast::<f32>();
            for channel in channels {
                for offset in run.offsets {
                    let values = run.values.add(channel * run.step_size + offset + column);
                    let values: *const f32 = values.cast();
                    let values: [_; VECTORS] =
                        std::array::from_fn(|vector| _mm256_loadu_ps(values.add(vector * LANES)));
                    for (row, local) in local.iter_mut().enumerate() {
                        let weight = _mm256_set1_ps(*weight.add(row));
                        for vector in 0..VECTORS {
                            local[vector] = _mm256_fmadd_ps(values[vector], weight, local[vector]);
                        }
                    }
                    weight = weight.add(ROWS);
                }
            }
            for (row, local) in local.iter().enumerate() {
                for (vector, sum) in local.iter().enumerate() {
                    let at = sums[first + row].as_mut_ptr().add(column + vector * LANES);
                    _mm256_storeu_ps(at, *sum);
                }
            }
        }
    }
}
