//! Direct convolution by tiles: weights are the factors, a band of the input the columns.
//!
//! In a [`Band`] a tap is an offset, and a tile takes its rows at any distance: 16 pairs of channels by
//! 16 neighbouring outputs are loaded from where they lie, through every tap.
//!
//! A chunk of 16 pairs of channels, with all its taps, is added to the sums of a strip of [`COLUMNS`]
//! outputs before the next one is. By count, for 3×3 at stride 1 and 32 output channels: 18 KiB of
//! weights, 16 KiB of the band and 8 KiB of sums stay in a first-level cache of 48 KiB for its 1,152
//! cycles of products, and the second level gives 30 bytes a cycle, of 48 that it can. With sums that
//! stay in tiles through all channels it would be 48: 32 for weights, which would not stay. At stride 2
//! four planes are seen, and it is some 50.
//!
//! The order of a sum, chunk by chunk and tap by tap, depends on the layer alone.

#![allow(unsafe_code)] // threads write into one output

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::square::{FACTORS, SIDE, Square};
use super::{Session, Tiles, WORDS, finish_block};
use crate::layers::Conv;
use crate::ops::cpu::aligned::Aligned;
use crate::ops::cpu::bands::Band;
use crate::ops::cpu::block::{self, Precision, Target};
use crate::ops::cpu::conv::{Added, Shared};
use crate::ops::cpu::finish::{Bias, End, Finish};
use crate::ops::cpu::product::{Grid, Source};
use crate::ops::cpu::words;

/// Outputs of a strip.
const COLUMNS: usize = 2 * SIDE;

/// Bytes that the bands of a job may take: half of the second-level cache of a machine with tiles,
/// 2 MiB, through which weights pass.
const BAND_BYTES: usize = 1024 * 1024;

/// Products below which a job of its own costs more than it brings.
const PRODUCTS_A_JOB: usize = 1 << 23;

/// Outputs of a channel below which a job waits for its weights.
const CELLS_A_JOB: usize = 4 * COLUMNS;

thread_local! {
    /// Room for the bands of a job, kept by its thread.
    static ROOM: RefCell<Aligned> = RefCell::default();
}

/// The sums of a strip, in whole cache lines.
#[repr(align(64))]
struct Sums([[f32; COLUMNS]; SIDE]);

/// Weights of a dense convolution.
pub struct Direct {
    tiles: Tiles,
    conv: Conv,
    /// `[output / SIDE, chunks, taps, SIDE, WORDS]`, filled up with zeros.
    weight: Aligned,
}

/// What all jobs of a run share.
struct Pass<'a> {
    sources: &'a [Source<'a>],
    bias: &'a [f32], // filled up to whole blocks
    finish: Finish,
    grid: Grid,
    added: Option<Added<'a>>,
    output: Shared,
}

/// How outputs are shared out: every cut gives the same numbers.
struct Cut {
    /// Output rows of a band, and how many bands an image has.
    rows: usize,
    bands: usize,
    /// Bands, and blocks of output channels, of a job.
    together: usize,
    blocks: usize,
}

impl Direct {
    /// Whether a convolution is one that tiles are for.
    pub fn suits(conv: &Conv) -> bool {
        conv.groups == 1 && matches!(conv.kernel, 2 | 3) && conv.stride <= 2
    }

    /// `weight`: `[output, input, kernel, kernel]`.
    pub fn new(tiles: Tiles, conv: &Conv, weight: &[f32]) -> Self {
        let taps = conv.kernel * conv.kernel;
        let size = tiles.steps(conv.input) * taps * SIDE;
        let mut packed = Aligned::new(conv.output.div_ceil(SIDE) * size);
        for (output, row) in weight.chunks_exact(conv.input * taps).enumerate() {
            let block = &mut packed[output / SIDE * size..][..size];
            for (at, number) in row.iter().enumerate() {
                let (input, tap) = (at / taps, at % taps);
                let (step, word) = words::place(Precision::Bf16, input, *number);
                let tile = step / WORDS * taps + tap;
                block[(tile * SIDE + output % SIDE) * WORDS + step % WORDS] |= word;
            }
        }
        Self {
            tiles,
            conv: *conv,
            weight: packed,
        }
    }

    /// Convolves images whose channels are those of all `sources`, one after the other. `bias` is
    /// filled up to whole blocks of [`block::ROWS`]; `output`: `[batch, output, cells]`, and
    /// so is what is `added`.
    ///
    /// # Safety
    /// The output may be written, all of it, by nobody else.
    pub unsafe fn run(
        &self,
        sources: &[Source<'_>],
        bias: &[f32],
        finish: Finish,
        grid: Grid,
        added: Option<Added<'_>>,
        output: *mut f32,
    ) {
        let channels: usize = sources.iter().map(|source| source.channels).sum();
        assert_eq!(channels, self.conv.input);
        assert!(bias.len() >= self.conv.output.next_multiple_of(block::ROWS));
        if let Some(added) = added {
            let cells = grid.output.0 * grid.output.1;
            assert_eq!(added.data.len(), grid.size.batch * self.conv.output * cells);
        }
        let pass = Pass {
            sources,
            bias,
            finish,
            grid,
            added,
            output: Shared(output),
        };
        let cut = self.cut(grid);
        let (bands, blocks) = (grid.size.batch * cut.bands, self.conv.output.div_ceil(SIDE));
        let mut jobs = Vec::new();
        for band in (0..bands).step_by(cut.together) {
            for block in (0..blocks).step_by(cut.blocks) {
                let bands = band..(band + cut.together).min(bands);
                jobs.push((bands, block..(block + cut.blocks).min(blocks)));
            }
        }
        let job = |(bands, blocks)| {
            let bands: Vec<Band> =
                Range::map(bands, |index| self.band(grid, &cut, index)).collect();
            self.job(&pass, &bands, blocks);
        };
        if rayon::current_num_threads() == 1 {
            jobs.into_iter().for_each(job);
            return;
        }
        jobs.into_par_iter().with_max_len(1).for_each(job);
    }

    /// As many jobs as keep all threads busy: of bands, and where these would be short, of blocks of
    /// channels.
    fn cut(&self, grid: Grid) -> Cut {
        let (batch, (height, width)) = (grid.size.batch, grid.output);
        let threads = rayon::current_num_threads();
        let cells = batch * height * width;
        let taps = self.conv.kernel * self.conv.kernel;
        let products = cells * self.conv.output * self.conv.input * taps;
        let wanted = if threads == 1 {
            1
        } else {
            (products / PRODUCTS_A_JOB).clamp(1, 4 * threads)
        };
        let shares = wanted.min(cells / CELLS_A_JOB).max(1);
        let row = self.shape(grid, 0, 0, 1);
        let rows = row.fitting(BAND_BYTES);
        let rows = rows.min((batch * height).div_ceil(shares)).clamp(1, height);
        let bands = height.div_ceil(rows);
        let rows = height.div_ceil(bands);
        let fitting = row.fitting(BAND_BYTES) / rows;
        let together = fitting.min((batch * bands).div_ceil(shares)).max(1);
        let blocks = self.conv.output.div_ceil(SIDE);
        let parts = wanted.div_ceil(shares).clamp(1, blocks);
        Cut {
            rows,
            bands,
            together,
            blocks: blocks.div_ceil(parts),
        }
    }

    /// Band `index`, counted through the images.
    fn band(&self, grid: Grid, cut: &Cut, index: usize) -> Band {
        let (image, first) = (index / cut.bands, index % cut.bands * cut.rows);
        self.shape(grid, image, first, cut.rows.min(grid.output.0 - first))
    }

    fn shape(&self, grid: Grid, image: usize, first: usize, rows: usize) -> Band {
        Band {
            conv: self.conv,
            precision: Precision::Bf16,
            size: grid.size,
            image,
            first,
            rows,
            out_width: grid.output.1,
        }
    }

    /// Some blocks of channels of some bands: weights pass by all of these.
    fn job(&self, pass: &Pass<'_>, bands: &[Band], blocks: Range<usize>) {
        let steps = self.tiles.steps(self.conv.input);
        let words = |band: &Band| steps * band.step_size();
        ROOM.with_borrow_mut(|room| {
            room.grow(bands.iter().map(words).sum());
            let mut rest = &mut room[..];
            for band in bands {
                let (words, others) = rest.split_at_mut(words(band));
                band.fill(words, pass.sources);
                rest = others;
            }
            let mut session = self.tiles.session();
            let mut sums = Sums([[0.0; COLUMNS]; SIDE]);
            for block in blocks {
                let mut rest = &room[..];
                for band in bands {
                    let (words, others) = rest.split_at(words(band));
                    self.multiply(&mut session, &mut sums, pass, words, band, block);
                    rest = others;
                }
            }
        });
    }

    /// One block of channels of a band, which `words` hold.
    fn multiply(
        &self,
        session: &mut Session,
        sums: &mut Sums,
        pass: &Pass<'_>,
        words: &[u32],
        band: &Band,
        block: usize,
    ) {
        let offsets = band.tap_offsets();
        let step_size = band.step_size();
        let chunks = words.len() / step_size / WORDS;
        // Nothing is wanted of the padding after the last row.
        let places = (band.rows - 1) * band.pitch() + band.out_width;
        let reach = offsets.iter().max().copied().unwrap_or(0) + places.next_multiple_of(WORDS);
        assert!(reach <= step_size && words.len() == chunks * WORDS * step_size);
        let size = offsets.len() * FACTORS;
        let weight = &self.weight[block * chunks * size..(block + 1) * chunks * size];
        let rows = SIDE.min(self.conv.output - block * SIDE);
        for at in (0..places).step_by(COLUMNS) {
            let columns = COLUMNS.min(places - at);
            for chunk in 0..chunks {
                for column in (0..columns).step_by(SIDE) {
                    let square = Square {
                        factors: weight[chunk * size..].as_ptr(),
                        columns: words[chunk * WORDS * step_size + at + column..].as_ptr(),
                        pitch: step_size,
                        offsets: &offsets,
                        sums: sums.0.as_flattened_mut()[column..].as_mut_ptr().cast(),
                        sums_pitch: COLUMNS,
                        resumed: chunk > 0,
                    };
                    // SAFETY: there are weights for all taps of a chunk; whole tiles of the last
                    // columns that are wanted lie in the step, as was asserted, and in the sums.
                    unsafe { session.square(&square, rows, columns - column) };
                }
            }
            // SAFETY: this job's channels and cells.
            unsafe {
                self.store(
                    session,
                    sums,
                    pass,
                    band,
                    block * SIDE..block * SIDE + rows,
                    at..at + columns,
                );
            };
        }
    }

    /// Finishes the sums of some channels at the places `taken` of a band.
    ///
    /// # Safety
    /// These may be written by this thread alone.
    unsafe fn store(
        &self,
        session: &Session,
        sums: &Sums,
        pass: &Pass<'_>,
        band: &Band,
        channels: Range<usize>,
        taken: Range<usize>,
    ) {
        let (height, width) = pass.grid.output;
        let cells = height * width;
        let start = (band.image * self.conv.output + channels.start) * height + band.first;
        let mut place = taken.start;
        while place < taken.end {
            let (row, column) = (place / band.pitch(), place % band.pitch());
            let count = (band.pitch() - column).min(taken.end - place);
            // Columns beyond the row's end are padding.
            let kept = count.min(width.saturating_sub(column));
            if kept > 0 {
                let at = (start + row) * width + column;
                let end = End {
                    bias: Bias::Rows(&pass.bias[channels.start..]),
                    finish: pass.finish,
                    added: pass.added.map(|added| (added.data[at..].as_ptr(), cells)),
                    relu: pass.added.is_some_and(|added| added.relu),
                };
                let sums = &sums.0.as_flattened()[place - taken.start..];
                // SAFETY: places of this row, by this function's contract; what is added is as
                // large as the output.
                unsafe {
                    let target = Target {
                        start: pass.output.at(at),
                        pitch: cells,
                        rows: channels.len(),
                        columns: kept,
                        resumed: false,
                    };
                    finish_block(session.level, sums, COLUMNS, target, &end);
                }
            }
            place += count;
        }
    }
}
