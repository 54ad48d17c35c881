//! The gradient of a convolution's weights: products of what cells see with the gradients of the
//! cells, summed over all images.
//!
//! Of one operand panels of 48 channels are packed, some rows of an image at a time; the other one is
//! read where it lies, through every tap. Jobs share out the weights, not the images: every sum is
//! taken in one order, chunk by chunk, on any number of threads.

#![allow(unsafe_code)] // threads write into one output

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::cells::{Planes, Shared, room};
use super::halo::{Halo, Taps};
use super::tile::{self, COLUMNS, Factors, ROWS, Target};

/// Cells of a chunk, about: a panel of them stays in the first-level cache.
const CHUNK: usize = 160;

/// Numbers of a tile.
const TILE: usize = ROWS * COLUMNS;

/// An operand: planes of a batch.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub numbers: &'a [f32],
    pub planes: Planes,
}

/// A gradient to compute.
pub(super) struct Gradient<'a> {
    /// What cells see through `taps`; each channel with each tap is a row.
    pub seen: Operand<'a>,
    pub taps: &'a Taps,
    /// One number for every cell and channel: the columns.
    pub cells: Operand<'a>,
    pub images: usize,
    /// Whether the result is `[rows, columns]`, else `[columns, rows]`.
    pub by_rows: bool,
}

#[derive(Default)]
struct Room {
    padded: Vec<f32>,
    panels: Vec<f32>, // [panels, cells, COLUMNS]
    tiles: Vec<f32>,  // [panels, blocks of rows, ROWS, COLUMNS]
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// A part of the result.
struct Job {
    panels: Range<usize>,
    /// Blocks of rows.
    blocks: Range<usize>,
}

impl Gradient<'_> {
    fn rows(&self) -> usize {
        self.seen.planes.channels * self.taps.places.len()
    }

    /// Writes the sums over all images to `output`.
    ///
    /// # Safety
    /// `output` is room for rows × columns, which nobody else uses meanwhile.
    pub(super) unsafe fn run(&self, output: Shared) {
        self.jobs().into_par_iter().with_max_len(1).for_each(|job| {
            // Captured whole, not its pointer alone, so that it may cross threads.
            let output = &output;
            // SAFETY: the rows and columns of a job are nobody else's.
            ROOM.with_borrow_mut(|room| unsafe { self.job(&job, room, *output) });
        });
    }

    /// About one job for each thread: each of them packs its own panels and copies its own planes,
    /// and the fewer copies, the better.
    fn jobs(&self) -> Vec<Job> {
        let threads = rayon::current_num_threads();
        let panels = self.cells.planes.channels.div_ceil(COLUMNS);
        let blocks = self.rows().div_ceil(ROWS);
        // Planes are larger than their channels' panels where taps are many.
        let row_parts = threads.min(blocks.div_ceil(4)).max(1);
        let panel_parts = threads.div_ceil(row_parts).min(panels).max(1);
        let (row_part, panel_part) = (blocks.div_ceil(row_parts), panels.div_ceil(panel_parts));
        let mut jobs = Vec::with_capacity(threads);
        for panel in (0..panels).step_by(panel_part.max(1)) {
            for block in (0..blocks).step_by(row_part.max(1)) {
                jobs.push(Job {
                    panels: panel..(panel + panel_part).min(panels),
                    blocks: block..(block + row_part).min(blocks),
                });
            }
        }
        jobs
    }

    /// # Safety
    /// As for [`Gradient::run`]; nobody else uses the job's rows and columns.
    unsafe fn job(&self, job: &Job, room: &mut Room, output: Shared) {
        let plane = self.cells.planes.plane;
        let Room {
            padded,
            panels,
            tiles,
        } = room;
        let tiles = self::room(tiles, job.panels.len() * job.blocks.len() * TILE);
        let chunks = plane.height.div_ceil((CHUNK / plane.width.max(1)).max(1));
        let rows = plane.height.div_ceil(chunks.max(1)).max(1);
        let mut add = false;
        for image in 0..self.images {
            for first in (0..plane.height).step_by(rows) {
                let rows = rows.min(plane.height - first);
                self.pack(job, panels, image, first, rows);
                self.chunk(job, panels, padded, (image, first, rows), tiles, add);
                add = true;
            }
        }
        // SAFETY: as promised to this function.
        unsafe { self.write(job, tiles, output) };
    }

    /// Panels of the rows `first..first + rows` of an image.
    fn pack(&self, job: &Job, panels: &mut Vec<f32>, image: usize, first: usize, rows: usize) {
        let Operand { numbers, planes } = self.cells;
        let (plane, width) = (planes.plane.cells(), planes.plane.width);
        let steps = rows * width;
        let panels = room(panels, job.panels.len() * steps * COLUMNS);
        let image = &numbers[image * planes.image..][..planes.channels * plane];
        for (index, panel) in job.panels.clone().enumerate() {
            let target = &mut panels[index * steps * COLUMNS..][..steps * COLUMNS];
            let channel = panel * COLUMNS;
            let rows = &image[channel * plane..];
            let count = planes.channels - channel;
            tile::transpose(target, rows, (count, plane), first * width, steps);
        }
    }

    /// Multiplies the packed rows of an image by what they see.
    fn chunk(
        &self,
        job: &Job,
        panels: &[f32],
        padded: &mut Vec<f32>,
        (image, first, rows): (usize, usize, usize),
        tiles: &mut [f32],
        add: bool,
    ) {
        let Operand { numbers, planes } = self.seen;
        let cells = self.cells.planes;
        let width = cells.plane.width;
        let steps = rows * width;
        let taps = self.taps.places.len();
        let image = &numbers[image * planes.image..][..planes.channels * planes.plane.cells()];
        // The channels that the job's rows are of.
        let channels = job.blocks.start * ROWS / taps;
        let end = (job.blocks.end * ROWS).div_ceil(taps).min(planes.channels);
        let halo;
        let (numbers, channel, offsets, runs, length, jump);
        if self.taps.is_plain() {
            numbers = &image[channels * planes.plane.cells() + first * width..];
            channel = planes.plane.cells();
            (offsets, runs, length, jump) = (&[0][..], 1, steps, 0);
        } else {
            halo = Halo::new(planes.plane, self.taps, first, rows, width);
            let part = &image[channels * planes.plane.cells()..end * planes.plane.cells()];
            let padded = room(padded, (end - channels) * halo.channel());
            halo.fill(padded, part);
            numbers = &*padded;
            channel = halo.channel();
            (offsets, runs, length, jump) = (&halo.offsets[..], rows, width, halo.pitch);
        }
        let last = self.rows() - 1;
        for (index, panel) in job.panels.clone().enumerate() {
            let columns = COLUMNS.min(cells.channels - panel * COLUMNS);
            let panel = &panels[index * steps * COLUMNS..][..steps * COLUMNS];
            let tiles = &mut tiles[index * job.blocks.len() * TILE..];
            for (block, tile) in job.blocks.clone().zip(tiles.chunks_exact_mut(TILE)) {
                let starts = std::array::from_fn(|row| {
                    let row = (block * ROWS + row).min(last);
                    (row / taps - channels) * channel + offsets[row % taps]
                });
                let factors = Factors::Rows {
                    numbers,
                    starts,
                    runs,
                    length,
                    jump,
                };
                let target = Target {
                    start: tile.as_mut_ptr(),
                    pitch: COLUMNS,
                    rows: ROWS,
                    columns,
                    add,
                };
                // SAFETY: the tile is borrowed alone.
                unsafe { tile::multiply(panel, steps, factors, target) };
            }
        }
    }

    /// # Safety
    /// As for [`Gradient::job`].
    unsafe fn write(&self, job: &Job, tiles: &[f32], output: Shared) {
        let (rows, columns) = (self.rows(), self.cells.planes.channels);
        for (index, panel) in job.panels.clone().enumerate() {
            let tiles = &tiles[index * job.blocks.len() * TILE..];
            let width = COLUMNS.min(columns - panel * COLUMNS);
            let from = panel * COLUMNS;
            if self.by_rows {
                for (block, tile) in job.blocks.clone().zip(tiles.chunks_exact(TILE)) {
                    for (row, sums) in (block * ROWS..rows).zip(tile.chunks_exact(COLUMNS)) {
                        // SAFETY: within rows × columns, and within the job's.
                        let target = unsafe { output.0.add(row * columns + from) };
                        // SAFETY: as above.
                        unsafe { std::slice::from_raw_parts_mut(target, width) }
                            .copy_from_slice(&sums[..width]);
                    }
                }
                continue;
            }
            for column in 0..width {
                for (block, tile) in job.blocks.clone().zip(tiles.chunks_exact(TILE)) {
                    for (row, sums) in (block * ROWS..rows).zip(tile.chunks_exact(COLUMNS)) {
                        // SAFETY: as above.
                        unsafe { *output.0.add((from + column) * rows + row) = sums[column] };
                    }
                }
            }
        }
    }
}
