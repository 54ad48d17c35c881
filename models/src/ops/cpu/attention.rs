//! Attention of one head after the other: products, softmax and mixture while they are in the
//! cache.

#![allow(unsafe_code)] // `gemm` takes raw pointers

use rayon::prelude::*;

use super::math::exp;
use super::simd::dispatch;

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

#[inline(always)]
fn softmax_body(row: &mut [f32]) {
    let mut most = f32::NEG_INFINITY;
    for x in row.iter() {
        most = if *x > most { *x } else { most };
    }
    for x in row.iter_mut() {
        *x = exp(*x - most);
    }
    let scale = 1.0 / super::math::sum(row);
    for x in row {
        *x *= scale;
    }
}

dispatch! {
    /// Softmax in place.
    fn softmax(row: &mut [f32]) = softmax_body
}
