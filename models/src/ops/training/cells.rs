//! Products of weights with what the cells of an image see: convolutions forwards, and backwards to
//! their input.
//!
//! A job takes a band of an image's cells. What they see is packed in panels of the cache's size and
//! multiplied by the weights as they lie. Long sums are cut into parts of one length, so that no bit
//! depends on bands or threads.

#![allow(unsafe_code)] // threads write into one output, and vectors are copied

use std::cell::RefCell;

use rayon::prelude::*;

use super::halo::{Halo, Plane, Taps};
use super::tile::{self, COLUMNS, Factors, LANES, ROWS, Target};

/// Longest part of a sum.
const STEPS: usize = 512;

/// Bytes of a band's panels: somewhat less than half of a core's second-level cache.
const BAND_BYTES: usize = 384 * 1024;

/// Most panels of a band.
const BAND_PANELS: usize = 16;

/// A pointer that threads may share because they write disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub *mut f32);
// SAFETY: whoever gets one writes its own part alone, as the functions that take it ask for.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Weights of every output.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    /// `[outputs, channels · taps]`.
    Plain(&'a [f32]),
    /// `[outputs / ROWS, channels · taps, ROWS]`.
    Packed(&'a [f32]),
}

/// Planes of a batch, perhaps those of one group of channels.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    pub plane: Plane,
    /// Channels that are read or written.
    pub channels: usize,
    /// Numbers from one image to the next.
    pub image: usize,
}

/// Which cells of the output's planes are computed: every `stride`th from a first one on.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub cells: Plane,
    pub stride: usize,
    pub first: (usize, usize),
}

/// A product to compute.
pub(super) struct Product<'a> {
    pub weights: Weights<'a>,
    pub taps: &'a Taps,
    pub source: Planes,
    pub output: Planes,
    pub grid: Grid,
    pub images: usize,
}

/// Room that a thread keeps.
#[derive(Default)]
struct Room {
    padded: Vec<f32>,
    panels: Vec<f32>, // [panels, steps, COLUMNS]
    sums: Vec<f32>,   // [outputs, cells of the band]
    starts: Vec<usize>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// At least `count` numbers of room.
pub(super) fn room(buffer: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if buffer.len() < count {
        buffer.resize(count, 0.0);
    }
    &mut buffer[..count]
}

/// A band of one image.
struct Band {
    image: usize,
    first: usize,
    cells: usize,
}

/// What is packed from: one number for each step and cell.
struct Seen<'a> {
    numbers: &'a [f32],
    /// Numbers of a channel.
    channel: usize,
    /// Where each tap begins.
    taps: &'a [usize],
    /// Rows of cells begin so far apart, the first at 0 with the cell `first`.
    pitch: usize,
    width: usize,
    first: usize,
}

impl Product<'_> {
    fn depth(&self) -> usize {
        self.source.channels * self.taps.places.len()
    }

    /// Writes the grid's cells of all output channels.
    ///
    /// # Safety
    /// `output` is room for all images, and nobody else uses the grid's cells of these channels
    /// meanwhile.
    pub(super) unsafe fn run(&self, source: &[f32], output: Shared) {
        let cells = self.grid.cells.cells();
        if cells == 0 || self.images == 0 {
            return;
        }
        let parts = self.depth().div_ceil(STEPS);
        let steps = self.depth().div_ceil(parts.max(1));
        let panels = cells.div_ceil(COLUMNS);
        let fitting = (BAND_BYTES / (4 * COLUMNS * steps).max(1)).clamp(1, BAND_PANELS);
        let share = (self.images * panels).div_ceil(2 * rayon::current_num_threads());
        let bands = panels.div_ceil(fitting.min(share).max(1));
        let band = panels.div_ceil(bands) * COLUMNS;
        let bands = cells.div_ceil(band);
        (0..self.images * bands)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|index| {
                let first = index % bands * band;
                let band = Band {
                    image: index / bands,
                    first,
                    cells: band.min(cells - first),
                };
                // Captured whole, not its pointer alone, so that it may cross threads.
                let output = &output;
                // SAFETY: the cells of a band are nobody else's, and there is room for them.
                ROOM.with_borrow_mut(|room| unsafe {
                    self.band(source, *output, &band, steps, room);
                });
            });
    }

    /// # Safety
    /// As for [`Product::run`]; nobody else uses the band's cells.
    unsafe fn band(
        &self,
        source: &[f32],
        output: Shared,
        band: &Band,
        steps: usize,
        room: &mut Room,
    ) {
        let image = &source[band.image * self.source.image..];
        let plane = self.source.plane.cells();
        let image = &image[..self.source.channels * plane];
        if self.taps.is_plain() && self.source.plane == self.grid.cells {
            let seen = Seen {
                numbers: image,
                channel: plane,
                taps: &[0],
                pitch: plane,
                width: plane,
                first: 0,
            };
            // SAFETY: as promised to this function.
            return unsafe { self.multiply(&seen, output, band, steps, room) };
        }
        let width = self.grid.cells.width;
        let first = band.first / width;
        let rows = (band.first + band.cells).div_ceil(width) - first;
        let halo = Halo::new(self.source.plane, self.taps, first, rows, width);
        let mut padded = std::mem::take(&mut room.padded);
        let numbers = self::room(&mut padded, self.source.channels * halo.channel());
        halo.fill(numbers, image);
        let seen = Seen {
            numbers,
            channel: halo.channel(),
            taps: &halo.offsets,
            pitch: halo.pitch,
            width,
            first: first * width,
        };
        // SAFETY: as promised to this function.
        unsafe { self.multiply(&seen, output, band, steps, room) };
        room.padded = padded;
    }

    /// # Safety
    /// As for [`Product::band`].
    unsafe fn multiply(
        &self,
        seen: &Seen<'_>,
        output: Shared,
        band: &Band,
        steps: usize,
        room: &mut Room,
    ) {
        let depth = self.depth();
        let outputs = self.output.channels;
        let plane = self.output.plane.cells();
        let direct = self.grid.stride == 1 && self.grid.cells == self.output.plane;
        // SAFETY: the image's planes are within the output.
        let image = unsafe { output.0.add(band.image * self.output.image) };
        let (start, pitch) = if direct {
            // SAFETY: as above.
            (unsafe { image.add(band.first) }, plane)
        } else {
            let sums = self::room(&mut room.sums, outputs * band.cells);
            (sums.as_mut_ptr(), band.cells)
        };
        let panels = self::room(
            &mut room.panels,
            band.cells.div_ceil(COLUMNS) * steps * COLUMNS,
        );
        for from in (0..depth).step_by(steps) {
            let steps = steps.min(depth - from);
            room.starts.clear();
            room.starts
                .extend((from..from + steps).map(|step| seen.start(step)));
            let panels = panels.chunks_exact_mut(steps * COLUMNS);
            let panels = panels.take(band.cells.div_ceil(COLUMNS));
            let mut packed: Vec<(&[f32], usize, usize)> = Vec::with_capacity(BAND_PANELS);
            for (index, panel) in panels.enumerate() {
                let at = index * COLUMNS;
                let columns = COLUMNS.min(band.cells - at);
                seen.pack(panel, &room.starts, band.first + at, columns);
                packed.push((panel, at, columns));
            }
            for row in (0..outputs).step_by(ROWS) {
                let rows = ROWS.min(outputs - row);
                let factors = self.factors(row, from, steps);
                for &(panel, at, columns) in &packed {
                    // SAFETY: rows and columns of the band, or of the room for its sums.
                    unsafe {
                        let target = Target {
                            start: start.add(row * pitch + at),
                            pitch,
                            rows,
                            columns,
                            add: from > 0,
                        };
                        tile::multiply(panel, steps, factors, target);
                    }
                }
            }
        }
        if !direct {
            let sums = &room.sums[..outputs * band.cells];
            // SAFETY: as promised to this function.
            unsafe { self.scatter(sums, image, band) };
        }
    }

    fn factors(&self, row: usize, from: usize, steps: usize) -> Factors<'_> {
        let depth = self.depth();
        match self.weights {
            Weights::Plain(numbers) => {
                let last = self.output.channels - 1;
                Factors::Rows {
                    numbers,
                    starts: std::array::from_fn(|at| (row + at).min(last) * depth + from),
                    runs: 1,
                    length: steps,
                    jump: 0,
                }
            }
            Weights::Packed(numbers) => {
                Factors::Packed(&numbers[row * depth + from * ROWS..][..steps * ROWS])
            }
        }
    }

    /// Writes a band's cells to their places in the planes.
    ///
    /// # Safety
    /// As for [`Product::band`].
    unsafe fn scatter(&self, sums: &[f32], image: *mut f32, band: &Band) {
        let Grid {
            cells,
            stride,
            first,
        } = self.grid;
        let Plane { height, width } = self.output.plane;
        assert!((cells.height - 1) * stride + first.0 < height);
        assert!((cells.width - 1) * stride + first.1 < width);
        for (channel, sums) in sums.chunks_exact(band.cells).enumerate() {
            for (index, value) in sums.iter().enumerate() {
                let cell = band.first + index;
                let row = cell / cells.width * stride + first.0;
                let column = cell % cells.width * stride + first.1;
                // SAFETY: rows and columns are inside the plane, as was just asserted.
                unsafe { *image.add((channel * height + row) * width + column) = *value };
            }
        }
    }
}

impl Seen<'_> {
    /// Where the numbers of a step begin.
    fn start(&self, step: usize) -> usize {
        step / self.taps.len() * self.channel + self.taps[step % self.taps.len()]
    }

    /// Writes what `columns` cells from `cell` on see, step by step: `[steps, COLUMNS]`.
    fn pack(&self, panel: &mut [f32], starts: &[usize], cell: usize, columns: usize) {
        if self.width.is_multiple_of(LANES) {
            self.pack_groups::<LANES, { COLUMNS / LANES }>(panel, starts, cell, columns);
        } else if self.width.is_multiple_of(8) {
            self.pack_groups::<8, { COLUMNS / 8 }>(panel, starts, cell, columns);
        } else if self.width.is_multiple_of(4) {
            self.pack_groups::<4, { COLUMNS / 4 }>(panel, starts, cell, columns);
        } else {
            self.pack_groups::<1, COLUMNS>(panel, starts, cell, columns);
        }
    }

    /// The same for widths that are multiples of `GROUP`, so that a group of cells is within a row.
    fn pack_groups<const GROUP: usize, const COUNT: usize>(
        &self,
        panel: &mut [f32],
        starts: &[usize],
        cell: usize,
        columns: usize,
    ) {
        // Groups beyond the last one repeat it.
        let offsets: [usize; COUNT] = std::array::from_fn(|group| {
            let group = group.min(columns.div_ceil(GROUP) - 1);
            let cell = cell + group * GROUP - self.first;
            cell / self.width * self.pitch + cell % self.width
        });
        let reach = offsets.iter().max().copied().unwrap_or(0) + GROUP;
        let farthest = starts.iter().max().copied().unwrap_or(0);
        assert!(farthest + reach <= self.numbers.len() && panel.len() >= starts.len() * COLUMNS);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: tiles are packed only where the machine has AVX-512; lengths as asserted.
        unsafe {
            copy_groups::<GROUP, COUNT>(panel, self.numbers, starts, &offsets);
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no tiles on this machine");
    }
}

/// # Safety
/// Every start, offset and group is within the numbers, every step within the panel.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn copy_groups<const GROUP: usize, const COUNT: usize>(
    panel: &mut [f32],
    numbers: &[f32],
    starts: &[usize],
    offsets: &[usize; COUNT],
) {
    let mut target = panel.as_mut_ptr();
    for start in starts {
        // SAFETY: by this function's contract.
        unsafe {
            let source = numbers.as_ptr().add(*start);
            for (group, offset) in offsets.iter().enumerate() {
                let group: *mut [f32; GROUP] = target.add(group * GROUP).cast();
                group.write_unaligned(source.add(*offset).cast::<[f32; GROUP]>().read_unaligned());
            }
            target = target.add(COLUMNS);
        }
    }
}
