//! How well features tell people apart: the Market-1501 protocol (Zheng et al., ICCV 2015).
//!
//! For each query the gallery is ranked by distance. Gallery images of junk (ID -1) and those
//! that show the query's ID in the query's camera do not count at all; distractors (images of nobody
//! in the query set, ID 0 in Market-1501) stay in as wrong answers. Equal distances rank in the order
//! of the gallery. A query without any true match in another camera is left out and counted
//! ([`Metrics::unmatched`]), as torchreid does.
//!
//! The distance matrix is never held: the ranks of a query's true matches are all that the figures
//! need, and they are counted block by block. The figures do not depend on the number of threads.
//!
//! ```
//! use mtmc::eval::reid::{Evaluation, Features, Options};
//!
//! # fn main() -> Result<(), mtmc::eval::reid::ReidError> {
//! let query = Features::new(vec![1.0, 0.0], 2, vec![7], vec![1])?;
//! let gallery = Features::new(vec![0.0, 1.0, 0.9, 0.1], 2, vec![3, 7], vec![2, 2])?;
//! let evaluation = Evaluation::new(&query, &gallery, Options::default(), &mut |_, _, _| ())?;
//! let metrics = evaluation.metrics(&mut |_, _, _| ())?;
//! assert_eq!(metrics.rank(1), 1.0);
//! # Ok(())
//! # }
//! ```

mod distance;
mod embed;
mod error;
mod features;
mod picture;
mod rank;
mod rerank;

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Tensor;
use mtmc_tools::dataset::market1501::JUNK;
use rayon::prelude::*;

pub use self::distance::Distance;
pub use self::embed::embed_images;
pub use self::error::ReidError;
pub use self::features::Features;
pub use self::picture::{PictureEntry, ranked_list};
pub use self::rerank::RerankOptions;

use self::distance::Side;
use self::rank::{QueryFigures, figures, key};
use self::rerank::Reranker;

/// Ranks that the CMC curve reaches to.
const CURVE_RANKS: usize = 50;

/// Queries whose distances are computed together: enough of them to make the product of matrices
/// fast, few enough that the distances to a gallery of 100,000 take 200 MB.
const QUERY_BLOCK: usize = 512;

/// How to rank.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Options {
    /// Distance of two features.
    pub distance: Distance,
    /// Rank by the k-reciprocal distance instead.
    pub rerank: Option<RerankOptions>,
}

/// What takes time, for those who show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nearest neighbours of all images among all, for re-ranking.
    Neighbours,
    /// Neighbourhoods made into sparse vectors, for re-ranking.
    Encode,
    /// Queries ranked.
    Rank,
}

/// Told how much of a step is done, and of how much.
pub type Progress<'a> = &'a mut dyn FnMut(Step, usize, usize);

/// The figures of the protocol, as fractions.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Cumulative matching characteristic: the share of queries with a true match among the first
    /// 1, 2, … gallery images; up to rank 50 or the size of the gallery.
    pub cmc: Vec<f64>,
    /// Mean average precision.
    pub map: f64,
    /// Mean inverse negative penalty (Ye et al., TPAMI 2021): the number of true matches divided by
    /// the rank of the last of them.
    pub minp: f64,
    /// Queries that were measured.
    pub queries: usize,
    /// Queries left out, for they have no true match in another camera.
    pub unmatched: usize,
    /// Gallery images, without junk.
    pub gallery: usize,
    /// Gallery images left out as junk.
    pub junk: usize,
}

impl Metrics {
    /// Share of queries with a true match among the first `rank` (from 1) gallery images.
    pub fn rank(&self, rank: usize) -> f64 {
        let last = self.cmc.last().copied().unwrap_or(0.0);
        self.cmc.get(rank.max(1) - 1).copied().unwrap_or(last)
    }
}

/// One gallery image in a query's ranked list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// Its row in the gallery that was given.
    pub gallery: usize,
    /// Its distance: as [`Distance`] says, or re-ranked.
    pub distance: f32,
    /// Whether it shows the query's ID.
    pub correct: bool,
}

/// Queries and gallery made ready to be ranked.
pub struct Evaluation<'a> {
    query: &'a Features,
    gallery: Features,
    /// Row in the gallery that was given, of every row that is left.
    origin: Vec<usize>,
    junk: usize,
    by_id: HashMap<i64, Vec<usize>>,
    query_side: Side,
    gallery_side: Side,
    distance: Distance,
    reranker: Option<Reranker>,
}

impl<'a> Evaluation<'a> {
    /// Drops junk from the gallery; with re-ranking, finds all neighbours.
    ///
    /// # Errors
    /// Features of different sizes, an empty side, a feature that the distance cannot take, options
    /// out of range.
    pub fn new(
        query: &'a Features,
        gallery: &Features,
        options: Options,
        progress: Progress<'_>,
    ) -> Result<Self, ReidError> {
        if let Some(rerank) = &options.rerank {
            rerank.check()?;
        }
        if query.dim() != gallery.dim() {
            return Err(ReidError::Dimensions {
                query: query.dim(),
                gallery: gallery.dim(),
            });
        }
        let origin: Vec<usize> = (0..gallery.len())
            .filter(|row| gallery.ids()[*row] != JUNK)
            .collect();
        if query.is_empty() || origin.is_empty() {
            return Err(ReidError::Empty);
        }
        let junk = gallery.len() - origin.len();
        let gallery = gallery.select(&origin)?;
        let mut by_id: HashMap<i64, Vec<usize>> = HashMap::new();
        for (row, id) in gallery.ids().iter().enumerate() {
            by_id.entry(*id).or_default().push(row);
        }
        let query_side = Side::new(query.vectors())?;
        let gallery_side = Side::new(gallery.vectors())?;
        let reranker = match options.rerank {
            None => None,
            Some(settings) => Some(Reranker::new(
                &query_side,
                &gallery_side,
                options.distance,
                settings,
                progress,
            )?),
        };
        Ok(Self {
            query,
            gallery,
            origin,
            junk,
            by_id,
            query_side,
            gallery_side,
            distance: options.distance,
            reranker,
        })
    }

    /// Ranks all queries.
    ///
    /// # Errors
    /// [`ReidError::NoMatch`] if no query has a true match in another camera.
    pub fn metrics(&self, progress: Progress<'_>) -> Result<Metrics, ReidError> {
        let total = self.query.len();
        let width = self.gallery.len();
        let mut sums = Sums::new(CURVE_RANKS.min(width));
        let mut start = 0;
        while start < total {
            progress(Step::Rank, start, total);
            let rows = start..total.min(start + QUERY_BLOCK);
            let mut distances = self.distances(rows.clone())?;
            let found: Vec<Option<QueryFigures>> = distances
                .par_chunks_mut(width)
                .zip(rows.clone())
                .map(|(row, query)| self.rank(query, row))
                .collect();
            for one in found {
                sums.add(one);
            }
            start = rows.end;
        }
        progress(Step::Rank, total, total);
        sums.metrics(width, self.junk)
    }

    /// The `count` gallery images nearest to the query in row `query`, as the protocol sees them.
    ///
    /// # Errors
    /// No such query, or a failure to compute.
    pub fn nearest(&self, query: usize, count: usize) -> Result<Vec<Ranked>, ReidError> {
        if query >= self.query.len() {
            return Err(ReidError::NoSuchQuery {
                row: query,
                queries: self.query.len(),
            });
        }
        let distances = self.distances(query..query + 1)?;
        let id = self.query.ids()[query];
        let mut order: Vec<usize> = (0..distances.len())
            .filter(|row| !self.same_view(query, *row))
            .collect();
        order.sort_unstable_by_key(|row| key(distances[*row], *row));
        order.truncate(count);
        let ranked = order.into_iter().map(|row| Ranked {
            gallery: self.origin[row],
            distance: distances[row],
            correct: self.gallery.ids()[row] == id,
        });
        Ok(ranked.collect())
    }

    /// Distances from the queries in `rows` to the whole gallery, row by row.
    fn distances(&self, rows: Range<usize>) -> Result<Vec<f32>, ReidError> {
        let all = 0..self.gallery.len();
        let start = rows.start;
        let mut distances =
            self.distance
                .block(&self.query_side, rows, &self.gallery_side, all.clone())?;
        if let Some(reranker) = &self.reranker {
            distances
                .par_chunks_mut(all.len())
                .enumerate()
                .for_each(|(offset, row)| reranker.rerank(start + offset, row));
        }
        Ok(distances)
    }

    /// Whether the gallery image shows the query's ID in the query's camera.
    fn same_view(&self, query: usize, gallery: usize) -> bool {
        self.query.ids()[query] == self.gallery.ids()[gallery]
            && self.query.cameras()[query] == self.gallery.cameras()[gallery]
    }

    /// The figures of one query, or `None` if it has no true match; overwrites distances.
    fn rank(&self, query: usize, distances: &mut [f32]) -> Option<QueryFigures> {
        let same = self.by_id.get(&self.query.ids()[query])?;
        let mut matches = Vec::with_capacity(same.len());
        for &row in same {
            if self.same_view(query, row) {
                // Farther than every match: it is never counted.
                distances[row] = f32::INFINITY;
            } else {
                matches.push(row);
            }
        }
        figures(distances, &matches)
    }
}

/// Sums over queries.
struct Sums {
    /// How many queries have their first match at each rank.
    first: Vec<usize>,
    precision: f64,
    penalty: f64,
    queries: usize,
    unmatched: usize,
}

impl Sums {
    fn new(ranks: usize) -> Self {
        Self {
            first: vec![0; ranks],
            precision: 0.0,
            penalty: 0.0,
            queries: 0,
            unmatched: 0,
        }
    }

    fn add(&mut self, figures: Option<QueryFigures>) {
        let Some(figures) = figures else {
            self.unmatched += 1;
            return;
        };
        self.queries += 1;
        self.precision += figures.average_precision;
        self.penalty += figures.inverse_negative_penalty;
        if let Some(count) = self.first.get_mut(figures.first_rank - 1) {
            *count += 1;
        }
    }

    fn metrics(self, gallery: usize, junk: usize) -> Result<Metrics, ReidError> {
        if self.queries == 0 {
            return Err(ReidError::NoMatch {
                queries: self.unmatched,
            });
        }
        let queries = self.queries as f64;
        let mut reached = 0;
        let cmc = self.first.iter().map(|count| {
            reached += count;
            reached as f64 / queries
        });
        Ok(Metrics {
            cmc: cmc.collect(),
            map: self.precision / queries,
            minp: self.penalty / queries,
            queries: self.queries,
            unmatched: self.unmatched,
            gallery,
            junk,
        })
    }
}

/// The rows of a matrix on the CPU, as one slice.
fn with_values<T>(
    matrix: &Tensor,
    read: impl FnOnce(&[f32]) -> Result<T, ReidError>,
) -> Result<T, ReidError> {
    use candle_core::Storage;
    let (storage, layout) = matrix.storage_and_layout();
    let values = match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => &storage.as_slice::<f32>()?[start..end],
        _ => {
            let reason = "features must lie in one piece in the CPU's memory";
            return Err(candle_core::Error::Msg(reason.to_string()).into());
        }
    };
    read(values)
}
