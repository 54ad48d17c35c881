//! Direct convolution: no unfolded copy of the input, sums kept in registers.
//!
//! The input comes in bands, see [`Band`]. A register block of output channels × neighbouring outputs
//! stays put while all inputs pass by.

#![allow(unsafe_code)] // vector instructions, and threads write into one output

use std::cell::RefCell;

use rayon::prelude::*;

use super::bands::Band;
use super::block::{COLUMNS, Precision, ROWS, Target, Unit};
use super::conv::Shared;
#[cfg(target_arch = "x86_64")]
use super::finish;
use super::finish::{Bias, End, Finish};
use super::product::{Grid, Source};
#[cfg(target_arch = "x86_64")]
use super::simd::Level;
use super::words;
use crate::layers::Conv;

/// Bytes that a band of the input may take: half of a core's second-level cache.
const BAND_BYTES: usize = 512 * 1024;

/// Products below which a job of its own costs more than it brings.
const PRODUCTS_A_JOB: usize = 1 << 20;

thread_local! {
    /// Room for a band, kept by its thread.
    static ROOM: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

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

/// Convolves images whose channels are those of all `sources`, one after the other, into `output`:
/// `[batch, output, cells]`.
///
/// # Safety
/// The output may be written, all of it, by nobody else, and the machine has the layer's unit.
pub unsafe fn images(layer: &Layer<'_>, sources: &[Source<'_>], grid: Grid, output: Shared) {
    let conv = layer.conv;
    let channels: usize = sources.iter().map(|source| source.channels).sum();
    assert_eq!(channels, conv.input);
    let (size, (height, width)) = (grid.size, grid.output);
    let band = |image: usize, first: usize, rows: usize| Band {
        conv: *conv,
        precision: layer.unit.precision,
        size,
        image,
        first,
        rows,
        out_width: width,
    };
    // As many rows as the cache holds, but enough bands for all threads. Every sum is one block's, so
    // its order does not depend on where bands end.
    let share = (size.batch * height).div_ceil(2 * rayon::current_num_threads());
    let fitting = band(0, 0, 1).fitting(BAND_BYTES);
    let rows = height.div_ceil(height.div_ceil(fitting.min(share).clamp(1, height)));
    let bands = height.div_ceil(rows);
    let products = rows * width * conv.output * conv.input * conv.kernel * conv.kernel;
    let job = |index: usize| {
        let (image, first) = (index / bands, index % bands * rows);
        let band = band(image, first, rows.min(height - first));
        ROOM.with_borrow_mut(|room| {
            let words = layer.unit.precision.steps(conv.input) * band.step_size();
            if room.len() < words {
                room.resize(words, 0);
            }
            let words = &mut room[..words];
            band.fill(words, sources);
            let start = (image * conv.output * height + first) * width;
            // SAFETY: rows of this band, which no other job writes.
            unsafe { run(words, layer, &band, height * width, output.at(start)) };
        });
    };
    let jobs = size.batch * bands;
    if rayon::current_num_threads() == 1 {
        (0..jobs).for_each(job);
        return;
    }
    (0..jobs)
        .into_par_iter()
        .with_min_len(PRODUCTS_A_JOB.div_ceil(products.max(1)))
        .for_each(job);
}

/// Computes a band from what it was filled with, into channels that are `cells` numbers apart; `output`
/// is where the band begins in the first channel.
///
/// # Safety
/// The band's rows of all channels may be written by this thread alone, and the machine has the
/// layer's unit.
unsafe fn run(words: &[u32], layer: &Layer<'_>, band: &Band, cells: usize, output: *mut f32) {
    let conv = layer.conv;
    let offsets = band.tap_offsets();
    let (pitch, step_size) = (band.pitch(), band.step_size());
    let steps = words.len() / step_size;
    let places = band.rows * pitch;
    let reach = offsets.iter().max().copied().unwrap_or(0) + places.next_multiple_of(COLUMNS);
    assert!(reach <= step_size && steps == band.precision.steps(conv.input));
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
                let place = output.add(first * cells + row * band.out_width + column);
                let target = if inside {
                    Target {
                        start: place,
                        pitch: cells,
                        rows,
                        columns: columns.min(band.out_width.saturating_sub(column)),
                        resumed: false,
                    }
                } else {
                    Target::block(&mut sums, rows, columns)
                };
                if target.columns == 0 {
                    continue;
                }
                let run = Run {
                    values: words.as_ptr().add(at),
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
                let kept = count.min(band.out_width.saturating_sub(column));
                for (channel, sums) in sums.iter().enumerate().take(rows) {
                    let place = (first + channel) * cells + row * band.out_width + column;
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
                target.prefetch_all();
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
