//! 3×3 convolution at stride 1 by minimal filtering, F(4×4, 3×3) (Lavin and Gray, "Fast Algorithms
//! for Convolutional Neural Networks", CVPR 2016): 36 products for 16 outputs, not 144.
//!
//! Tiles of 6×6 inputs are transformed, multiplied with the transformed weights, 36 matrix products
//! one after the other, and transformed to 4×4 outputs. A job takes some panels of tiles
//! through all of it. Rounding errors are some ten times those of plain sums, about 1e-6 of the output's size.

#![allow(unsafe_code)] // vector instructions, and threads write into one output

use std::cell::RefCell;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::block::{self, Block, COLUMNS, Factors, Operands, Precision, ROWS, Target, Unit};
use super::conv::{Shared, Size};
use super::finish::{self, Bias, End, Finish};
use super::product::{factors, pack_weight};
use super::simd::{Level, level};
use super::tiles;
use crate::layers::Conv;

/// Outputs of a tile along each side.
pub const TILE: usize = 4;

/// Inputs of a tile along each side.
pub const SIDE: usize = 6;

/// Products of a tile.
const POSITIONS: usize = SIDE * SIDE;

/// The transforms are written for AVX-512 alone.
const UNIT: Unit = Unit {
    precision: Precision::F32,
    level: Level::Avx512,
};

/// Weights of a 3×3 convolution, transformed.
pub struct Winograd {
    conv: Conv,
    weight: Vec<u32>, // by position as of `pack_weight`
}

/// Neighbouring tiles of one row of tiles.
#[derive(Debug, Clone, Copy)]
struct Segment {
    image: usize,
    /// Row of tiles, first tile in it, how many.
    row: usize,
    first: usize,
    count: usize,
    /// Place of the first one in the panel.
    lane: usize,
}

/// Panels that a job takes together at most.
const GROUP: usize = 2;

/// Room for a panel, kept by its thread.
#[derive(Default)]
struct Room {
    segments: Vec<Segment>,
    values: Aligned,      // [POSITIONS, input, COLUMNS]
    products: Vec<Block>, // [POSITIONS, blocks]
    scratch: tiles::Scratch,
}

thread_local! {
    static ROOMS: RefCell<[Room; GROUP]> = RefCell::default();
}

/// Sizes of a run.
#[derive(Clone, Copy)]
struct Extent {
    size: Size,
    out_height: usize,
    out_width: usize,
    /// Tiles along both sides.
    rows: usize,
    columns: usize,
}

impl Winograd {
    /// Whether a convolution is one that this pays for, on this machine.
    pub fn suits(conv: &Conv) -> bool {
        let shape = conv.kernel == 3 && conv.stride == 1 && conv.groups == 1 && conv.padding <= 2;
        shape && conv.far == 0 && conv.input >= 16 && conv.output >= 16 && level() == Level::Avx512
    }

    /// `weight`: `[output, input, 3, 3]`.
    pub fn new(conv: &Conv, weight: &[f32]) -> Self {
        let count = conv.output * conv.input;
        let mut transformed = vec![0.0; POSITIONS * count];
        for (at, kernel) in weight.as_chunks::<9>().0.iter().enumerate() {
            for (position, value) in transform_weight(kernel).into_iter().enumerate() {
                transformed[position * count + at] = value;
            }
        }
        let parts = transformed.chunks_exact(count);
        Self {
            conv: *conv,
            weight: parts
                .flat_map(|part| pack_weight(Precision::F32, part, conv.input))
                .collect(),
        }
    }

    /// Convolves `[batch, input, height, width]` into `output`, `[batch, output, ..]`, whose sizes
    /// are those of the convolution.
    ///
    /// # Safety
    /// The output may be written, all of it, by nobody else.
    pub unsafe fn run(
        &self,
        input: &[f32],
        bias: &[f32],
        finish: Finish,
        size: Size,
        output: *mut f32,
    ) {
        let extent = self.extent(size);
        let Extent { rows, columns, .. } = extent;
        assert!(bias.len() >= self.conv.output);
        let tiles = size.batch * rows * columns;
        let panels = tiles.div_ceil(COLUMNS);
        let blocks = self.conv.output.div_ceil(ROWS);
        // Few tiles: threads share them out by output channels, and transform them twice.
        let parts = rayon::current_num_threads().div_ceil(panels.max(1));
        let part = blocks.div_ceil(parts.clamp(1, (blocks / 4).max(1)));
        let parts = blocks.div_ceil(part.max(1));
        // Weights are read once for a group, but there must be work for all threads.
        let group = if panels >= 4 * rayon::current_num_threads() {
            GROUP
        } else {
            1
        };
        let shared = Shared(output);
        (0..panels.div_ceil(group) * parts)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|index| {
                let write = |channel: usize, at: usize, row: &[f32]| {
                    let end = End {
                        bias: Bias::Rows(&bias[channel..]),
                        finish,
                        added: None,
                        relu: false,
                    };
                    // SAFETY: no other job has these tiles of these channels, and `at` leaves room
                    // for the row in the output.
                    unsafe { finish::row(shared.at(at), row, &end, 0) };
                };
                let start = index % parts * part;
                let blocks = start..(start + part).min(blocks);
                let first = index / parts * group;
                ROOMS.with_borrow_mut(|rooms| {
                    let rooms = &mut rooms[..group.min(panels - first)];
                    for (panel, room) in rooms.iter_mut().enumerate() {
                        let first = (first + panel) * COLUMNS;
                        room.segments = extent.segments(first, COLUMNS.min(tiles - first));
                        self.transform_inputs(room, input, extent);
                    }
                    self.multiply(rooms, blocks.clone());
                    for room in rooms {
                        self.transform_outputs(room, blocks.clone(), extent, write);
                    }
                });
            });
    }

    fn extent(&self, size: Size) -> Extent {
        let out_height = size.height + 2 * self.conv.padding - 2;
        let out_width = size.width + 2 * self.conv.padding - 2;
        Extent {
            size,
            out_height,
            out_width,
            rows: out_height.div_ceil(TILE),
            columns: out_width.div_ceil(TILE),
        }
    }

    fn transform_inputs(&self, room: &mut Room, input: &[f32], extent: Extent) {
        let Size { height, width, .. } = extent.size;
        let padding = self.conv.padding;
        let channels = self.conv.input;
        room.values.grow(POSITIONS * channels * COLUMNS);
        for channel in 0..channels {
            for segment in &room.segments {
                let plane = (segment.image * channels + channel) * height * width;
                let plane = &input[plane..plane + height * width];
                for (index, row) in room.scratch.rows.iter_mut().enumerate() {
                    let row = &mut row[..segment.count * TILE + 2];
                    let y = (segment.row * TILE + index).wrapping_sub(padding);
                    match plane.get(y.saturating_mul(width)..) {
                        Some(line) if y < height => {
                            copy_padded(row, &line[..width], segment.first * TILE, padding);
                        }
                        _ => row.fill(0.0),
                    }
                }
                let values = room.values.numbers_mut();
                let target = &mut values[channel * COLUMNS + segment.lane..];
                tiles::input(&mut room.scratch, target, channels * COLUMNS, segment.count);
            }
        }
    }

    fn multiply(&self, rooms: &mut [Room], part: std::ops::Range<usize>) {
        let channels = self.conv.input;
        let blocks = self.conv.output.div_ceil(ROWS);
        let empty = [[0.0; COLUMNS]; ROWS];
        for room in rooms.iter_mut() {
            room.products.resize(POSITIONS * part.len(), empty);
        }
        let taken = block::part_of(channels);
        let weights = self.weight.chunks_exact(blocks * channels * ROWS);
        for (position, weights) in weights.enumerate() {
            for from in (0..channels).step_by(taken) {
                let to = (from + taken).min(channels);
                for (block, index) in part.clone().enumerate() {
                    let weight = &weights[factors(blocks, index, &(from..to))];
                    for room in rooms.iter_mut() {
                        let lanes = room.segments.last().map_or(0, |s| s.lane + s.count);
                        let panel = &room.values[position * channels * COLUMNS..];
                        let operands = Operands {
                            panel: &panel[from * COLUMNS..to * COLUMNS],
                            factors: Factors::Packed(weight),
                            steps: to - from,
                            ahead: weight.len(),
                        };
                        let product = &mut room.products[position * part.len() + block];
                        let target = Target {
                            resumed: from > 0,
                            ..Target::block(product, ROWS, lanes)
                        };
                        // SAFETY: the target is a whole block.
                        unsafe { block::multiply(UNIT, &operands, target, None) };
                    }
                }
            }
        }
    }

    /// `write` gets an output channel, where in the output a row begins, and its numbers.
    fn transform_outputs(
        &self,
        room: &Room,
        part: std::ops::Range<usize>,
        extent: Extent,
        write: impl Fn(usize, usize, &[f32]),
    ) {
        let mut lines = [[0.0; COLUMNS * TILE]; TILE];
        let last = (part.end * ROWS).min(self.conv.output);
        for channel in part.start * ROWS..last {
            let block = channel / ROWS - part.start;
            let row = channel % ROWS;
            let products: [&[f32; COLUMNS]; POSITIONS] =
                std::array::from_fn(|at| &room.products[at * part.len() + block][row]);
            tiles::output(&products, &mut lines);
            for segment in &room.segments {
                let plane = segment.image * self.conv.output + channel;
                for (index, line) in lines.iter().enumerate() {
                    let y = segment.row * TILE + index;
                    if y >= extent.out_height {
                        break;
                    }
                    let x = segment.first * TILE;
                    let count = (segment.count * TILE).min(extent.out_width - x);
                    let at = (plane * extent.out_height + y) * extent.out_width + x;
                    write(channel, at, &line[segment.lane * TILE..][..count]);
                }
            }
        }
    }
}

impl Extent {
    /// `count` tiles from `first` on, counted through rows and images, cut where rows end.
    fn segments(&self, first: usize, count: usize) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut done = 0;
        while done < count {
            let (row, column) = ((first + done) / self.columns, (first + done) % self.columns);
            let here = (self.columns - column).min(count - done);
            segments.push(Segment {
                image: row / self.rows,
                row: row % self.rows,
                first: column,
                count: here,
                lane: done,
            });
            done += here;
        }
        segments
    }
}

/// Fills `target` with the numbers of `line` from `first - padding` on, zeros where there are none.
fn copy_padded(target: &mut [f32], line: &[f32], first: usize, padding: usize) {
    let before = padding.saturating_sub(first).min(target.len());
    let start = (first + before).saturating_sub(padding).min(line.len());
    let inside = (target.len() - before).min(line.len() - start);
    target[..before].fill(0.0);
    target[before..before + inside].copy_from_slice(&line[start..start + inside]);
    target[before + inside..].fill(0.0);
}

/// G · kernel · Gᵀ, in double precision, rounded once.
fn transform_weight(kernel: &[f32; 9]) -> [f32; POSITIONS] {
    const G: [[f64; 3]; SIDE] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    std::array::from_fn(|at| {
        let (left, right) = (G[at / SIDE], G[at % SIDE]);
        let mut sum = 0.0;
        for (y, left) in left.iter().enumerate() {
            for (x, right) in right.iter().enumerate() {
                sum += left * right * f64::from(kernel[y * 3 + x]);
            }
        }
        sum as f32
    })
}
