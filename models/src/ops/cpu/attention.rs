//! Attention of one head after the other: products, softmax and mixture while they are in the
//! cache.

#![allow(unsafe_code)] // `gemm` takes raw pointers

use std::cell::RefCell;

use rayon::prelude::*;

use super::block::{self, COLUMNS, Factors, Next, Operands, Precision, ROWS, Target, Unit};
use super::conv::Shared;
use super::finish::{Bias, End, Finish};
use super::math::softmax;
use super::words;
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
/// No set of rows is empty. Products are in `precision` where the machine can.
pub fn run(
    [query, key, value]: [Rows; 3],
    shape: Shape,
    scale: f32,
    precision: Precision,
) -> Vec<f32> {
    let (queries, keys) = (query.rows, key.rows);
    let Shape { heads, head, .. } = shape;
    if let Some(unit) = Unit::of(precision).or_else(|| Unit::of(Precision::F32)) {
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
    queries: Vec<u32>, // [queries, steps of the head], in bfloat16
    keys: Vec<u32>,    // [panels of keys, steps of the head, COLUMNS], times the scale
    values: Vec<u32>,  // [panels of the head's numbers, steps of the keys, COLUMNS]
    scores: Vec<f32>,  // [ROWS, keys]
    words: Vec<u32>,   // [ROWS, steps of the keys], the same in bfloat16
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
    /// Words of a sum over the numbers of the head, and over the keys.
    fn steps(&self) -> [usize; 2] {
        [self.head, self.rows[1]].map(|depth| self.unit.precision.steps(depth))
    }

    fn pack(&self, room: &mut Room) {
        let ([queries, keys], head, precision) = (self.rows, self.head, self.unit.precision);
        let [steps, key_steps] = self.steps();
        room.queries.clear();
        if precision == Precision::Bf16 {
            room.queries.resize(queries * steps, 0);
            room.words.resize(ROWS * key_steps, 0);
            let rows = self.query.chunks(self.pitches[0]);
            for (words, row) in room.queries.chunks_exact_mut(steps).zip(rows) {
                words::neighbours(words, &row[..head]);
            }
        }
        room.keys.clear();
        room.keys
            .resize(keys.div_ceil(COLUMNS) * steps * COLUMNS, 0);
        let (mut scaled, mut words) = (vec![0.0; head], vec![0; steps]);
        for (index, row) in self.key.chunks(self.pitches[1]).take(keys).enumerate() {
            for (scaled, number) in scaled.iter_mut().zip(row) {
                *scaled = number * self.scale;
            }
            let words = match precision {
                Precision::F32 => block::bits(&scaled),
                Precision::Bf16 => {
                    words::neighbours(&mut words, &scaled);
                    &words
                }
            };
            let panel = &mut room.keys[index / COLUMNS * steps * COLUMNS + index % COLUMNS..];
            for (place, word) in panel.iter_mut().step_by(COLUMNS).zip(words) {
                *place = *word;
            }
        }
        room.values.clear();
        room.values
            .resize(head.div_ceil(COLUMNS) * key_steps * COLUMNS, 0);
        let together = keys.div_ceil(key_steps);
        let row = |index: usize| &self.value[index * self.pitches[2]..][..head];
        for step in 0..key_steps {
            let first = step * together;
            for panel in 0..head.div_ceil(COLUMNS) {
                let numbers = panel * COLUMNS..head.min((panel + 1) * COLUMNS);
                let at = (panel * key_steps + step) * COLUMNS;
                let words = &mut room.values[at..at + numbers.len()];
                let one = &row(first)[numbers.clone()];
                match precision {
                    Precision::F32 => words.copy_from_slice(block::bits(one)),
                    Precision::Bf16 if first + 1 < keys => {
                        words::pairs(words, one, &row(first + 1)[numbers]);
                    }
                    Precision::Bf16 => words::singles(words, one),
                }
            }
        }
        room.scores.resize(ROWS * keys, 0.0);
    }

    /// # Safety
    /// The head's columns of all rows of the output, `pitch` numbers apart, may be written.
    unsafe fn run(&self, room: &mut Room, output: *mut f32, pitch: usize) {
        let ([queries, keys], head) = (self.rows, self.head);
        let [steps, key_steps] = self.steps();
        self.pack(room);
        let end = End {
            bias: Bias::Rows(&[0.0; ROWS]),
            finish: Finish::new(Activation::Identity),
            added: None,
            relu: false,
        };
        for first in (0..queries).step_by(ROWS) {
            let count = ROWS.min(queries - first);
            let (words, pitch_of_words) = match self.unit.precision {
                Precision::F32 => {
                    let rows = &self.query[first * self.pitches[0]..];
                    (block::bits(rows), self.pitches[0])
                }
                Precision::Bf16 => (&room.queries[first * steps..], steps),
            };
            for (panel, keys_of_panel) in room.keys.chunks_exact(steps * COLUMNS).enumerate() {
                let operands = Operands {
                    panel: keys_of_panel,
                    factors: Factors::Rows {
                        words,
                        pitch: pitch_of_words,
                        count,
                    },
                    steps,
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
            let words = match self.unit.precision {
                Precision::F32 => block::bits(&room.scores),
                Precision::Bf16 => {
                    let rows = room.scores.chunks_exact(keys).take(count);
                    for (words, row) in room.words.chunks_exact_mut(key_steps).zip(rows) {
                        words::neighbours(words, row);
                    }
                    &room.words
                }
            };
            for (panel, values) in room.values.chunks_exact(key_steps * COLUMNS).enumerate() {
                let operands = Operands {
                    panel: values,
                    factors: Factors::Rows {
                        words,
                        pitch: key_steps,
                        count,
                    },
                    steps: key_steps,
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
