//! Re-ranking by k-reciprocal neighbours (Zhong, Zheng, Cao, Li, CVPR 2017).
//!
//! Queries and gallery together are the images here, queries first. The neighbourhood of each is
//! a sparse vector of weights; two images are near if their vectors overlap (Jaccard distance).
//! Distances between all images are squared and divided by the largest of the image's own, as
//! torchreid and fastreid do; of each image only its nearest are kept, so that memory grows with
//! the number of images and not with its square.

use std::ops::Range;

use mtmc_models::dot;
use rayon::prelude::*;

use super::distance::{Distance, Side};
use super::{Progress, ReidError, Step, with_values};

/// Images a side of the tiles in which all distances are computed: 4 MB a tile.
const TILE: usize = 1024;

/// Columns of a tile that one thread looks at at a time.
const COLUMNS: usize = 64;

/// Largest `k1` and `k2`: they bound what is kept of each image.
const MAX_NEIGHBOURS: usize = 500;

/// Settings of the re-ranking; the defaults are the paper's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RerankOptions {
    /// Neighbours that may be reciprocal, 1..=500.
    pub k1: usize,
    /// Nearest images, itself among them, whose vectors are averaged, 1..=500; 1 for none.
    pub k2: usize,
    /// Weight of the original distance against the Jaccard distance, 0..=1.
    pub lambda: f64,
}

impl Default for RerankOptions {
    fn default() -> Self {
        Self {
            k1: 20,
            k2: 6,
            lambda: 0.3,
        }
    }
}

impl RerankOptions {
    /// # Errors
    /// [`ReidError::Setting`] for what is out of range.
    pub fn check(&self) -> Result<(), ReidError> {
        for (name, value) in [("k1", self.k1), ("k2", self.k2)] {
            if !(1..=MAX_NEIGHBOURS).contains(&value) {
                return Err(ReidError::Setting {
                    name,
                    range: "1 to 500",
                    value: value.to_string(),
                });
            }
        }
        if !(0.0..=1.0).contains(&self.lambda) {
            return Err(ReidError::Setting {
                name: "lambda",
                range: "0 to 1",
                value: self.lambda.to_string(),
            });
        }
        Ok(())
    }
}

/// A sparse vector: image and weight, by ascending image.
type Sparse = Vec<(u32, f32)>;

/// What re-ranking knows of all images.
pub(super) struct Reranker {
    /// Weight of the original and of the Jaccard distance.
    original: f32,
    jaccard: f32,
    /// By query: the largest squared distance to any image.
    largest: Vec<f32>,
    /// By query: its neighbourhood.
    queries: Vec<Sparse>,
    /// By image: the gallery images whose neighbourhoods it is part of.
    holders: Vec<Sparse>,
}

impl Reranker {
    pub(super) fn new(
        query: &Side,
        gallery: &Side,
        distance: Distance,
        options: RerankOptions,
        progress: Progress<'_>,
    ) -> Result<Self, ReidError> {
        let images = Images {
            query,
            gallery,
            distance,
        };
        let kept = (options.k1 + 1).max(options.k2);
        let nearest = images.nearest(kept, progress)?;
        progress(Step::Encode, 0, images.len());
        let mut vectors = images.encode(&nearest, options.k1)?;
        if options.k2 > 1 {
            vectors = average(&vectors, &nearest, options.k2);
        }
        let gallery_vectors = vectors.split_off(query.len());
        let mut holders = vec![Vec::new(); images.len()];
        for (row, vector) in gallery_vectors.into_iter().enumerate() {
            for (image, weight) in vector {
                holders[image as usize].push((row as u32, weight));
            }
        }
        progress(Step::Encode, images.len(), images.len());
        Ok(Self {
            original: options.lambda as f32,
            jaccard: (1.0 - options.lambda) as f32,
            largest: nearest[..query.len()].iter().map(|n| n.largest).collect(),
            queries: vectors,
            holders,
        })
    }

    /// Turns a query's distances to the gallery into re-ranked ones.
    pub(super) fn rerank(&self, query: usize, distances: &mut [f32]) {
        let mut shared = vec![0.0_f32; distances.len()];
        for (image, weight) in &self.queries[query] {
            for (row, other) in &self.holders[*image as usize] {
                shared[*row as usize] += weight.min(*other);
            }
        }
        for (value, shared) in distances.iter_mut().zip(shared) {
            let original = scaled(*value, self.largest[query]);
            let jaccard = 1.0 - shared / (2.0 - shared);
            *value = jaccard * self.jaccard + original * self.original;
        }
    }
}

/// The squared distance as a part of the largest; 0 if all images are alike.
fn scaled(distance: f32, largest: f32) -> f32 {
    if largest == 0.0 {
        return 0.0;
    }
    distance * distance / largest
}

/// The nearest images of one image, nearest first, and how far the farthest of all is.
struct Nearest {
    /// Bits of the squared distance, then the image: both order as they should, for no square is
    /// negative.
    keys: Vec<u64>,
    kept: usize,
    largest: f32,
}

impl Nearest {
    fn new(kept: usize) -> Self {
        Self {
            keys: Vec::with_capacity(kept + 1),
            kept,
            largest: 0.0,
        }
    }

    fn offer(&mut self, distance: f32, image: usize) {
        let square = distance * distance;
        self.largest = self.largest.max(square);
        let key = u64::from(square.to_bits()) << 32 | image as u64;
        if self.keys.len() == self.kept {
            if self.keys.last().is_none_or(|last| key >= *last) {
                return;
            }
            self.keys.pop();
        }
        let place = self.keys.partition_point(|one| *one < key);
        self.keys.insert(place, key);
    }

    /// The first `count` images.
    fn first(&self, count: usize) -> impl Iterator<Item = u32> + '_ {
        self.keys.iter().take(count).map(|key| *key as u32)
    }

    fn has(&self, image: usize, count: usize) -> bool {
        self.first(count).any(|one| one as usize == image)
    }
}

/// Queries, then gallery.
struct Images<'a> {
    query: &'a Side,
    gallery: &'a Side,
    distance: Distance,
}

impl Images<'_> {
    fn len(&self) -> usize {
        self.query.len() + self.gallery.len()
    }

    /// The side on which an image is, and its row there.
    fn place(&self, image: usize) -> (&Side, usize) {
        match image.checked_sub(self.query.len()) {
            None => (self.query, image),
            Some(row) => (self.gallery, row),
        }
    }

    /// Ranges of images, each of one side, about equal: small tiles sum in another order.
    fn panels(&self) -> Vec<Range<usize>> {
        let mut panels = Vec::new();
        for (start, count) in [
            (0, self.query.len()),
            (self.query.len(), self.gallery.len()),
        ] {
            let parts = count.div_ceil(TILE);
            for part in 0..parts {
                panels.push(start + part * count / parts..start + (part + 1) * count / parts);
            }
        }
        panels
    }

    /// The `kept` nearest of all images to each, by one half of the matrix of distances.
    fn nearest(&self, kept: usize, progress: Progress<'_>) -> Result<Vec<Nearest>, ReidError> {
        let panels = self.panels();
        let tiles = panels.len() * (panels.len() + 1) / 2;
        let mut done = 0;
        let mut nearest: Vec<Nearest> = (0..self.len()).map(|_| Nearest::new(kept)).collect();
        for (index, rows) in panels.iter().enumerate() {
            for columns in &panels[index..] {
                progress(Step::Neighbours, done, tiles);
                let tile = self.tile(rows, columns)?;
                offer_rows(&mut nearest[rows.clone()], &tile, columns);
                if rows != columns {
                    offer_columns(&mut nearest[columns.clone()], &tile, rows);
                }
                done += 1;
            }
        }
        progress(Step::Neighbours, done, tiles);
        Ok(nearest)
    }

    fn tile(&self, rows: &Range<usize>, columns: &Range<usize>) -> Result<Vec<f32>, ReidError> {
        let (one, first_row) = self.place(rows.start);
        let (other, first_column) = self.place(columns.start);
        self.distance.block(
            one,
            first_row..first_row + rows.len(),
            other,
            first_column..first_column + columns.len(),
        )
    }

    /// The neighbourhood of every image.
    fn encode(&self, nearest: &[Nearest], k1: usize) -> Result<Vec<Sparse>, ReidError> {
        let dim = self.query.vectors().dim(1)?;
        with_values(self.query.vectors(), |query| {
            with_values(self.gallery.vectors(), |gallery| {
                let vector = |image: usize| {
                    let values = match image.checked_sub(self.query.len()) {
                        None => &query[image * dim..],
                        Some(row) => &gallery[row * dim..],
                    };
                    &values[..dim]
                };
                let weigh = |image: usize| {
                    let members = neighbourhood(nearest, image, k1);
                    let mut weights = Vec::with_capacity(members.len());
                    for member in &members {
                        let other = *member as usize;
                        let dot = dot(vector(image), vector(other));
                        let distance =
                            self.distance
                                .pair(dot, self.place(image), self.place(other));
                        weights.push((-scaled(distance, nearest[image].largest)).exp());
                    }
                    let sum: f32 = weights.iter().sum();
                    let weights = weights.into_iter().map(|weight| weight / sum);
                    members.into_iter().zip(weights).collect()
                };
                Ok((0..nearest.len()).into_par_iter().map(weigh).collect())
            })
        })
    }
}

/// Shows a tile's rows its columns, which are the images `columns`.
fn offer_rows(nearest: &mut [Nearest], tile: &[f32], columns: &Range<usize>) {
    nearest
        .par_iter_mut()
        .zip(tile.par_chunks_exact(columns.len()))
        .for_each(|(nearest, distances)| {
            for (distance, image) in distances.iter().zip(columns.clone()) {
                nearest.offer(*distance, image);
            }
        });
}

/// Shows a tile's columns its rows, which are the images `rows`.
fn offer_columns(nearest: &mut [Nearest], tile: &[f32], rows: &Range<usize>) {
    let width = nearest.len();
    nearest
        .par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(chunk, nearest)| {
            for (distances, image) in tile.chunks_exact(width).zip(rows.clone()) {
                for (nearest, distance) in nearest.iter_mut().zip(&distances[chunk * COLUMNS..]) {
                    nearest.offer(*distance, image);
                }
            }
        });
}

/// Those of the first `count` neighbours of `image` that have it among their own.
fn reciprocal(nearest: &[Nearest], image: usize, count: usize) -> Vec<u32> {
    nearest[image]
        .first(count)
        .filter(|other| nearest[*other as usize].has(image, count))
        .collect()
}

/// The reciprocal neighbours of `image`, and the narrower neighbourhoods of each that lie more than
/// two thirds among them; ascending.
fn neighbourhood(nearest: &[Nearest], image: usize, k1: usize) -> Vec<u32> {
    let half = (k1 as f64 / 2.0).round_ties_even() as usize;
    let base = reciprocal(nearest, image, k1 + 1);
    let mut members = base.clone();
    for candidate in &base {
        let around = reciprocal(nearest, *candidate as usize, half + 1);
        let shared = around.iter().filter(|one| base.contains(one)).count();
        if 3 * shared > 2 * around.len() {
            members.extend(around);
        }
    }
    members.sort_unstable();
    members.dedup();
    members
}

/// Every image's vector averaged with those of its nearest (local query expansion).
fn average(vectors: &[Sparse], nearest: &[Nearest], k2: usize) -> Vec<Sparse> {
    // In f64, so that the same images in another order give the same mean.
    let blank = || vec![0.0_f64; vectors.len()];
    let mix = |sums: &mut Vec<f64>, nearest: &Nearest| {
        let mut members = Vec::new();
        let mut count = 0.0_f64;
        for other in nearest.first(k2) {
            count += 1.0;
            for (image, weight) in &vectors[other as usize] {
                let sum = &mut sums[*image as usize];
                // No weight is zero.
                if *sum == 0.0 {
                    members.push(*image);
                }
                *sum += f64::from(*weight);
            }
        }
        members.sort_unstable();
        let mean = members.into_iter().map(|image| {
            let sum = std::mem::take(&mut sums[image as usize]);
            (image, (sum / count) as f32)
        });
        mean.collect()
    };
    nearest.par_iter().map_init(blank, mix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_are_kept_in_order() {
        let mut nearest = Nearest::new(3);
        for (image, distance) in [0.5, 0.1, 0.5, 0.0, 0.1, 0.9].into_iter().enumerate() {
            nearest.offer(distance, image);
        }
        assert_eq!(nearest.first(3).collect::<Vec<_>>(), [3, 1, 4]);
        assert!((nearest.largest - 0.81).abs() < 1e-6);
    }

    #[test]
    fn settings_have_ranges() {
        assert!(RerankOptions::default().check().is_ok());
        for (k1, k2, lambda) in [(0, 6, 0.3), (20, 501, 0.3), (20, 6, 1.1), (20, 6, f64::NAN)] {
            assert!(RerankOptions { k1, k2, lambda }.check().is_err());
        }
    }
}
