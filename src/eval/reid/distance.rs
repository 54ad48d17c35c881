//! Distances between blocks of features, by a product of matrices.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{ReidError, with_values};

/// Distance of two features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distance {
    /// 1 - cosine similarity, 0..=2.
    #[default]
    Cosine,
    /// Squared Euclidean, as torchreid computes it: it ranks as the Euclidean one does.
    Euclidean,
}

/// Features of queries or gallery with what distances need of each.
pub(super) struct Side {
    vectors: Tensor, // [images, dim], f32
    /// Squared lengths.
    squares: Vec<f32>,
    /// One by the length.
    inverse: Vec<f32>,
}

impl Side {
    pub(super) fn new(vectors: &Tensor) -> Result<Self, ReidError> {
        let dim = vectors.dim(1)?;
        let squares: Vec<f64> = with_values(vectors, |values| {
            let squares = values.par_chunks_exact(dim).map(|feature| {
                let squares = feature.iter().map(|v| f64::from(*v) * f64::from(*v));
                squares.sum::<f64>()
            });
            Ok(squares.collect())
        })?;
        Ok(Self {
            vectors: vectors.clone(),
            inverse: squares.iter().map(|s| (1.0 / s.sqrt()) as f32).collect(),
            squares: squares.iter().map(|s| *s as f32).collect(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.squares.len()
    }

    pub(super) fn vectors(&self) -> &Tensor {
        &self.vectors
    }
}

impl Distance {
    /// Distances of `rows` of one side to `columns` of another, row by row.
    ///
    /// Each is the same on any number of threads, and equal features have equal distances: the
    /// product sums along a feature in an order that does not depend on the row.
    pub(super) fn block(
        self,
        one: &Side,
        rows: Range<usize>,
        other: &Side,
        columns: Range<usize>,
    ) -> Result<Vec<f32>, ReidError> {
        let left = at_least_two(one.vectors.narrow(0, rows.start, rows.len())?)?;
        let right = at_least_two(other.vectors.narrow(0, columns.start, columns.len())?)?;
        let product = left.matmul(&right.t()?)?;
        let product = product
            .narrow(0, 0, rows.len())?
            .narrow(1, 0, columns.len())?;
        let mut distances = product.flatten_all()?.to_vec1::<f32>()?;
        distances
            .par_chunks_exact_mut(columns.len())
            .zip(rows)
            .for_each(|(distances, row)| match self {
                Distance::Cosine => {
                    let scale = one.inverse[row];
                    for (value, inverse) in
                        distances.iter_mut().zip(&other.inverse[columns.clone()])
                    {
                        *value = 1.0 - *value * (scale * inverse);
                    }
                }
                Distance::Euclidean => {
                    let square = one.squares[row];
                    for (value, other) in distances.iter_mut().zip(&other.squares[columns.clone()])
                    {
                        *value = (square + other) - 2.0 * *value;
                    }
                }
            });
        Ok(distances)
    }

    /// Distance of two single features, given the rows' places for their lengths.
    pub(super) fn pair(self, dot: f32, one: (&Side, usize), other: (&Side, usize)) -> f32 {
        match self {
            Distance::Cosine => 1.0 - dot * (one.0.inverse[one.1] * other.0.inverse[other.1]),
            Distance::Euclidean => (one.0.squares[one.1] + other.0.squares[other.1]) - 2.0 * dot,
        }
    }
}

/// A single row twice: products with one row alone are summed up in another order.
fn at_least_two(rows: Tensor) -> Result<Tensor, ReidError> {
    if rows.dim(0)? == 1 {
        return Ok(rows.repeat((2, 1))?);
    }
    Ok(rows)
}
