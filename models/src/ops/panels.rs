//! Inner products of many vectors with many, exact, for searches.
//!
//! The vectors that stay lie in [`Panels`], packed once and changed in place; those that are asked
//! for are packed as [`Queries`]. A product depends on its two vectors alone, to the last bit: not
//! on what it is computed together with, nor on threads.

use super::cpu::panels::{self, GROUP};

pub use super::cpu::panels::PANEL;

/// Vectors of one size, interleaved in panels of [`PANEL`].
#[derive(Debug, Clone)]
pub struct Panels {
    dim: usize,
    len: usize,
    /// `[panels, dim, PANEL]`; what is beyond `len` are zeros.
    values: Vec<f32>,
}

impl Panels {
    /// None yet, of `dim` numbers each.
    ///
    /// # Panics
    /// If `dim` is 0.
    pub fn new(dim: usize) -> Self {
        assert!(dim > 0, "vectors without numbers");
        Self {
            dim,
            len: 0,
            values: Vec::new(),
        }
    }

    /// Numbers of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many panels they fill, the last one perhaps in part.
    pub fn count(&self) -> usize {
        self.len.div_ceil(PANEL)
    }

    /// Makes room for `more` vectors.
    pub fn reserve(&mut self, more: usize) {
        let panels = (self.len + more).div_ceil(PANEL);
        let needed = panels * PANEL * self.dim;
        self.values
            .reserve(needed.saturating_sub(self.values.len()));
    }

    /// Adds a vector.
    ///
    /// # Panics
    /// If it is of another size.
    pub fn push(&mut self, vector: &[f32]) {
        if self.len.is_multiple_of(PANEL) {
            let size = self.values.len() + PANEL * self.dim;
            self.values.resize(size, 0.0);
        }
        self.len += 1;
        self.set(self.len - 1, vector);
    }

    /// Replaces the vector `index`.
    ///
    /// # Panics
    /// If there is no such one, or `vector` is of another size.
    pub fn set(&mut self, index: usize, vector: &[f32]) {
        assert!(index < self.len, "vector {index} of {}", self.len);
        assert_eq!(vector.len(), self.dim, "numbers of a vector");
        let start = index / PANEL * PANEL * self.dim + index % PANEL;
        let places = self.values[start..].iter_mut().step_by(PANEL);
        for (place, value) in places.zip(vector) {
            *place = *value;
        }
    }

    /// Inner products of the panel `panel` with all queries: `output` is `[queries, PANEL]`; those
    /// beyond the last vector are 0.
    ///
    /// # Panics
    /// If there is no such panel, the sizes differ, or `output` has another length.
    pub fn products(&self, panel: usize, queries: &Queries, output: &mut [f32]) {
        assert_eq!(self.dim, queries.dim, "numbers of a vector");
        assert_eq!(output.len(), queries.len * PANEL, "length of the output");
        let size = PANEL * self.dim;
        let panel = &self.values[panel * size..(panel + 1) * size];
        let groups = queries.values.chunks_exact(GROUP * self.dim);
        for (group, output) in groups.zip(output.chunks_mut(GROUP * PANEL)) {
            panels::products(panel, group, output.len() / PANEL, output);
        }
    }
}

/// Vectors to multiply with [`Panels`].
#[derive(Debug, Clone)]
pub struct Queries {
    dim: usize,
    len: usize,
    /// `[groups, dim, GROUP]`, filled up with zeros.
    values: Vec<f32>,
}

impl Queries {
    /// Of vectors of `dim` numbers each.
    ///
    /// # Panics
    /// If `dim` is 0 or a vector of another size.
    pub fn new<'a>(dim: usize, vectors: impl ExactSizeIterator<Item = &'a [f32]>) -> Self {
        assert!(dim > 0, "vectors without numbers");
        let len = vectors.len();
        let mut values = vec![0.0; len.div_ceil(GROUP) * GROUP * dim];
        for (index, vector) in vectors.enumerate() {
            assert_eq!(vector.len(), dim, "numbers of a vector");
            let start = index / GROUP * GROUP * dim + index % GROUP;
            for (place, value) in values[start..].iter_mut().step_by(GROUP).zip(vector) {
                *place = *value;
            }
        }
        Self { dim, len, values }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dot;

    fn vectors(count: usize, dim: usize, seed: f32) -> Vec<Vec<f32>> {
        let number = |i: usize| ((i as f32 + seed) * 78.233).sin();
        (0..count)
            .map(|v| (0..dim).map(|i| number(v * dim + i)).collect())
            .collect()
    }

    // The yardstick: `dot`, pair by pair.
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn products_are_those_of_pairs(dim in 1_usize..60, m in 0_usize..30, n in 1_usize..100) {
            let (left, right) = (vectors(m, dim, 0.5), vectors(n, dim, 0.1));
            let mut packed = Panels::new(dim);
            for vector in &right {
                packed.push(&vec![f32::NAN; dim]);
                packed.set(packed.len() - 1, vector);
            }
            let queries = Queries::new(dim, left.iter().map(Vec::as_slice));
            prop_assert_eq!((packed.count(), queries.len()), (n.div_ceil(PANEL), m));
            for panel in 0..packed.count() {
                let mut output = vec![f32::NAN; m * PANEL];
                packed.products(panel, &queries, &mut output);
                for (query, row) in output.chunks_exact(PANEL).enumerate() {
                    for (lane, product) in row.iter().enumerate() {
                        let expected = match right.get(panel * PANEL + lane) {
                            Some(vector) => dot(&left[query], vector),
                            None => 0.0,
                        };
                        prop_assert!((product - expected).abs() < 1e-4);
                    }
                }
            }
        }
    }
}
