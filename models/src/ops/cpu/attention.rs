//! Attention of one head after the other: products, softmax and mixture while they are in the
//! cache.

#![allow(unsafe_code)] // `gemm` takes raw pointers

use std::cell::RefCell;

use rayon::prelude::*;

use super::block::{self, COLUMNS, Factors, Next, Operands, Precision, ROWS, Target, Unit};
use super::conv::Shared;
use super::finish::{Bias, End, Finish};
use super::math::softmax;
use crate::ops::Activation;

/// Rows of numbers in memory: `[batch, rows, size]` with any steps between batches and rows.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// From the first number on.
    pub data: &'a [f32],
    /// Rows of each batch.
    pub rows: usize,
    /// Numbers from one batch to the next.
    pub batch_stride: usize,
    /// Numbers from one row to the next.
    pub row_stride: usize,
}

impl Rows<'_> {
    /// The part of `batch` from number `first` of each row on.
    ///
    /// # Panics
    /// If `size` numbers of its rows do not lie in the data.
    fn part(&self, batch: usize, first: usize, size: usize) -> &[f32] {
        let start = batch * self.batch_stride + first;
        &self.data[start..start + (self.rows - 1) * self.row_stride + size]
    }
}

/// How many there are of what.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Independent sets of rows.
    pub batch: usize,
    /// Heads side by side in each row.
    pub heads: usize,
    /// Numbers of a head.
    pub head: usize,
}

/// Softmax of products times `scale`, times the values: `[batch, query rows, heads * head]`.
/// No set of rows is empty.
pub fn run(query: Rows, key: Rows, value: Rows, shape: Shape, scale: f32) -> Vec<f32> {
    let (queries, keys) = (query.rows, key.rows);
    let Shape { heads, head, .. } = shape;
    if let Some(unit) = Unit::of(Precision::F32) {
        return by_blocks(unit, query, key, value, shape, scale);
    }
    let mut mixed = vec![0.0; shape.batch * heads * queries * head];
    mixed
        .par_chunks_mut(queries * head)
        .enumerate()
        .for_each_init(
            || vec![0.0_f32; queries * keys],
            |scores, (index, mixed)| {
                let (batch, first) = (index / heads, index % heads * head);
                let query_part = query.part(batch, first, head);
                let key_part = key.part(batch, first, head);
                let value_part = value.part(batch, first, head);
                let products = Product {
                    sizes: [queries, keys, head],
                    left_row: query.row_stride,
                    right: (1, key.row_stride),
                    scale,
                };
                products.run(query_part, key_part, scores);
                for row in scores.chunks_exact_mut(keys) {
                    softmax(row);
                }
                let mixture = Product {
                    sizes: [queries, head, keys],
                    left_row: keys,
                    right: (value.row_stride, 1),
                    scale: 1.0,
                };
                mixture.run(scores, value_part, mixed);
            },
        );
    side_by_side(&mixed, queries, shape)
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Room for one head, which its thread keeps.
#[derive(Default)]
struct Room {
    keys: Vec<f32>,   // [panels of keys, head, COLUMNS], times the scale
    values: Vec<f32>, // [panels of the head's numbers, keys, COLUMNS]
    scores: Vec<f32>, // [ROWS, keys]
}

/// Eight queries at a time through all keys, the softmax and all values.
fn by_blocks(
    unit: Unit,
    query: Rows,
    key: Rows,
    value: Rows,
    shape: Shape,
    scale: f32,
) -> Vec<f32> {
    let Shape { batch, heads, head } = shape;
    let count = batch * query.rows * heads * head;
    let mut output = Vec::with_capacity(count);
    let shared = Shared(output.as_mut_ptr());
    let job = |index: usize| {
        let (image, first) = (index / heads, index % heads * head);
        let parts = Parts {
            unit,
            query: query.part(image, first, head),
            key: key.part(image, first, head),
            value: value.part(image, first, head),
            pitches: [query.row_stride, key.row_stride, value.row_stride],
            rows: [query.rows, key.rows],
            head,
            scale,
        };
        // SAFETY: the columns of this head in the rows of this image, which no other job has.
        unsafe {
            let output = shared.at(image * query.rows * heads * head + first);
            ROOM.with_borrow_mut(|room| parts.run(room, output, heads * head));
        }
    };
    if rayon::current_num_threads() == 1 {
        (0..batch * heads).for_each(job);
    } else {
        (0..batch * heads).into_par_iter().for_each(job);
    }
    // SAFETY: every head of every row was written.
    unsafe { output.set_len(count) };
    output
}

/// One head of one image.
struct Parts<'a> {
    unit: Unit,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    /// Numbers from one row to the next, of each of the three.
    pitches: [usize; 3],
    /// Of queries, and of keys and values.
    rows: [usize; 2],
    head: usize,
    scale: f32,
}

impl Parts<'_> {
    fn pack(&self, room: &mut Room) {
        let ([_, keys], head) = (self.rows, self.head);
        room.keys.clear();
        room.keys
            .resize(keys.div_ceil(COLUMNS) * head * COLUMNS, 0.0);
        for (index, row) in self.key.chunks(self.pitches[1]).take(keys).enumerate() {
            let panel = &mut room.keys[index / COLUMNS * head * COLUMNS + index % COLUMNS..];
            for (place, number) in panel.iter_mut().step_by(COLUMNS).zip(&row[..head]) {
                *place = number * self.scale;
            }
        }
        room.values.clear();
        room.values
            .resize(head.div_ceil(COLUMNS) * keys * COLUMNS, 0.0);
        for (index, row) in self.value.chunks(self.pitches[2]).take(keys).enumerate() {
            for (panel, numbers) in row[..head].chunks(COLUMNS).enumerate() {
                let at = (panel * keys + index) * COLUMNS;
                room.values[at..at + numbers.len()].copy_from_slice(numbers);
            }
        }
        room.scores.resize(ROWS * keys, 0.0);
    }

    /// # Safety
    /// The head's columns of all rows of the output, `pitch` numbers apart, may be written.
    unsafe fn run(&self, room: &mut Room, output: *mut f32, pitch: usize) {
        let ([queries, keys], head) = (self.rows, self.head);
        self.pack(room);
        let end = End {
            bias: Bias::Rows(&[0.0; ROWS]),
            finish: Finish::new(Activation::Identity),
            added: None,
            relu: false,
        };
        for first in (0..queries).step_by(ROWS) {
            let count = ROWS.min(queries - first);
            for (panel, words) in room.keys.chunks_exact(head * COLUMNS).enumerate() {
                let operands = Operands {
                    panel: block::bits(words),
                    factors: Factors::Rows {
                        words: block::bits(&self.query[first * self.pitches[0]..]),
                        pitch: self.pitches[0],
                        count,
                    },
                    steps: head,
                    next: Next::NONE,
                    ahead: &[],
                };
                // SAFETY: there is room for all keys of the rows of a block.
                unsafe {
                    let target = Target {
                        start: room.scores.as_mut_ptr().add(panel * COLUMNS),
                        pitch: keys,
                        rows: count,
                        columns: COLUMNS.min(keys - panel * COLUMNS),
                        resumed: false,
                    };
                    block::multiply(self.unit, &operands, target, Some(&end));
                }
            }
            for row in room.scores.chunks_exact_mut(keys).take(count) {
                softmax(row);
            }
            for (panel, words) in room.values.chunks_exact(keys * COLUMNS).enumerate() {
                let operands = Operands {
                    panel: block::bits(words),
                    factors: Factors::Rows {
                        words: block::bits(&room.scores),
                        pitch: keys,
                        count,
                    },
                    steps: keys,
                    next: Next::NONE,
                    ahead: &[],
                };
                // SAFETY: by this function's contract.
                unsafe {
                    let target = Target {
                        start: output.add(first * pitch + panel * COLUMNS),
                        pitch,
                        rows: count,
                        columns: COLUMNS.min(head - panel * COLUMNS),
                        resumed: false,
                    };
                    block::multiply(self.unit, &operands, target, Some(&end));
                }
            }
        }
    }
}

/// From `[batch, heads, rows, head]` to `[batch, rows, heads * head]`.
fn side_by_side(mixed: &[f32], rows: usize, shape: Shape) -> Vec<f32> {
    let Shape { heads, head, .. } = shape;
    let mut output = vec![0.0; mixed.len()];
    output
        .par_chunks_mut(heads * head)
        .enumerate()
        .for_each(|(index, output)| {
            let (batch, row) = (index / rows, index % rows);
            for (at, part) in output.chunks_exact_mut(head).enumerate() {
                let start = ((batch * heads + at) * rows + row) * head;
                part.copy_from_slice(&mixed[start..start + head]);
            }
        });
    output
}

/// A matrix product with a factor.
struct Product {
    /// Rows, columns, depth.
    sizes: [usize; 3],
    /// Numbers from one row of the left matrix to the next; its columns are neighbours.
    left_row: usize,
    /// Numbers from one row, and from one column, of the right matrix to the next.
    right: (usize, usize),
    scale: f32,
}

impl Product {
    fn run(&self, left: &[f32], right: &[f32], output: &mut [f32]) {
        let [rows, columns, depth] = self.sizes;
        let (right_row, right_column) = self.right;
        assert!(output.len() >= rows * columns);
        assert!(left.len() >= (rows - 1) * self.left_row + depth);
        assert!(right.len() > (depth - 1) * right_row + (columns - 1) * right_column);
        // SAFETY: the three assertions: every number that is read or written lies in its slice.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                depth,
                output.as_mut_ptr(),
                1,
                columns as isize,
                false,
                left.as_ptr(),
                1,
                self.left_row as isize,
                right.as_ptr(),
                right_column as isize,
                right_row as isize,
                0.0,
                self.scale,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}
