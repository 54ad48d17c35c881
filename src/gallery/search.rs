//! Exact search by looks: the entries most like each of many queries, by cosine similarity.
//!
//! Every entry is compared with every query; there is no index that could miss one. Entries are
//! kept packed for the matrix product, whose results are looked through panel by panel, so that
//! memory does not grow with queries times entries. Results do not depend on the number of threads, nor
//! on which queries are asked together.
//!
//! ```
//! use mtmc::gallery::search::ExactSearch;
//! use mtmc_models::Embedding;
//!
//! let vector = |x, y| Embedding::new(vec![x, y]);
//! let mut search = ExactSearch::new(2);
//! for entry in [vector(1.0, 0.0)?, vector(0.0, 1.0)?, vector(-1.0, 0.0)?] {
//!     search.push(&entry)?;
//! }
//! let hits = search.top_k(&[&vector(0.6, 0.8)?], 2)?;
//! assert_eq!(hits[0].iter().map(|hit| hit.index).collect::<Vec<_>>(), [1, 0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use mtmc_models::Embedding;
use mtmc_models::ops::{PANEL, Panels, Queries};
use rayon::prelude::*;

/// Entries that one thread looks through at a time; fixed, as is the order of the parts.
const PART: usize = 4096;

/// Queries that are compared with a panel together: so many stay in the cache of a core.
const BATCH: usize = 192;

/// An entry that a query found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Index of the entry.
    pub index: usize,
    /// Cosine similarity, -1..=1 up to rounding.
    pub similarity: f32,
}

/// Why a vector is refused. One that is not finite or zero is no [`Embedding`] to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// It has another size than the entries: it is of another network.
    #[error("{role} {index} has {found} numbers, the gallery's entries have {expected}")]
    Size {
        /// `entry` or `query`.
        role: &'static str,
        /// Its index.
        index: usize,
        /// Numbers of an entry.
        expected: usize,
        /// Its numbers.
        found: usize,
    },
}

/// Unit vectors to be searched, all of one size, numbered in the order in which they came.
#[derive(Debug, Clone)]
pub struct ExactSearch {
    entries: Panels,
}

impl ExactSearch {
    /// Without entries yet.
    ///
    /// # Panics
    /// If `dim` is 0.
    pub fn new(dim: usize) -> Self {
        Self {
            entries: Panels::new(dim),
        }
    }

    /// Numbers of an entry.
    pub fn dim(&self) -> usize {
        self.entries.dim()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes room for `more` entries.
    pub fn reserve(&mut self, more: usize) {
        self.entries.reserve(more);
    }

    /// Adds an entry and tells its index.
    ///
    /// # Errors
    /// It is of another size.
    pub fn push(&mut self, vector: &Embedding) -> Result<usize, SearchError> {
        let index = self.len();
        self.check("entry", index, vector)?;
        self.entries.push(vector.as_slice());
        Ok(index)
    }

    /// Replaces an entry.
    ///
    /// # Errors
    /// `vector` is of another size.
    ///
    /// # Panics
    /// If there is no entry `index`.
    pub fn set(&mut self, index: usize, vector: &Embedding) -> Result<(), SearchError> {
        self.check("entry", index, vector)?;
        self.entries.set(index, vector.as_slice());
        Ok(())
    }

    /// For each query the `k` most similar entries, the best first; of equal ones the lower index.
    /// Fewer where there are fewer entries.
    ///
    /// # Errors
    /// A query is of another size.
    pub fn top_k(&self, queries: &[&Embedding], k: usize) -> Result<Vec<Vec<Hit>>, SearchError> {
        let room = k.min(self.len());
        if room == 0 {
            self.check_all(queries)?;
            return Ok(vec![Vec::new(); queries.len()]);
        }
        let parts = self.scan(queries, |best, first, row| {
            keep_best(best, room, first, row);
        })?;
        Ok(merge(parts, queries.len(), |best, more| {
            for hit in more {
                insert(best, room, hit);
            }
        }))
    }

    /// For each query all entries of at least this similarity, by index.
    ///
    /// # Errors
    /// A query is of another size.
    pub fn at_least(
        &self,
        queries: &[&Embedding],
        similarity: f32,
    ) -> Result<Vec<Vec<Hit>>, SearchError> {
        let parts = self.scan(queries, |found, first, row| {
            if row.iter().all(|value| *value < similarity) {
                return;
            }
            for (lane, &value) in row.iter().enumerate() {
                if value >= similarity {
                    found.push(Hit {
                        index: first + lane,
                        similarity: value,
                    });
                }
            }
        })?;
        Ok(merge(parts, queries.len(), Vec::extend))
    }

    fn check(
        &self,
        role: &'static str,
        index: usize,
        vector: &Embedding,
    ) -> Result<(), SearchError> {
        if vector.dim() == self.dim() {
            return Ok(());
        }
        Err(SearchError::Size {
            role,
            index,
            expected: self.dim(),
            found: vector.dim(),
        })
    }

    fn check_all(&self, queries: &[&Embedding]) -> Result<(), SearchError> {
        for (index, query) in queries.iter().enumerate() {
            self.check("query", index, query)?;
        }
        Ok(())
    }

    /// Shows `visit` every similarity, in rows of one query and a panel's entries, by rising index:
    /// it gets the query's hits so far, the index of the row's first entry, and the row. Returns
    /// the hits of each part of the entries, query by query.
    fn scan(
        &self,
        queries: &[&Embedding],
        visit: impl Fn(&mut Vec<Hit>, usize, &[f32]) + Sync,
    ) -> Result<Vec<Vec<Vec<Hit>>>, SearchError> {
        self.check_all(queries)?;
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let batches: Vec<Queries> = queries
            .chunks(BATCH)
            .map(|batch| Queries::new(self.dim(), batch.iter().map(|query| query.as_slice())))
            .collect();
        let parts = self.len().div_ceil(PART);
        let scan_part = |part: usize| {
            let mut hits = vec![Vec::new(); queries.len()];
            let mut rows = vec![0.0; queries.len().min(BATCH) * PANEL];
            let panels =
                part * (PART / PANEL)..((part + 1) * (PART / PANEL)).min(self.entries.count());
            for (batch, hits) in batches.iter().zip(hits.chunks_mut(BATCH)) {
                let rows = &mut rows[..batch.len() * PANEL];
                for panel in panels.clone() {
                    self.entries.products(panel, batch, rows);
                    let first = panel * PANEL;
                    let count = PANEL.min(self.len() - first);
                    for (row, hits) in rows.chunks_exact(PANEL).zip(hits.iter_mut()) {
                        visit(hits, first, &row[..count]);
                    }
                }
            }
            hits
        };
        // One part is not worth waking anyone for.
        if parts <= 1 {
            return Ok((0..parts).map(scan_part).collect());
        }
        Ok((0..parts).into_par_iter().map(scan_part).collect())
    }
}

/// Puts the parts' hits together, in order.
fn merge(
    parts: Vec<Vec<Vec<Hit>>>,
    queries: usize,
    take: impl Fn(&mut Vec<Hit>, Vec<Hit>),
) -> Vec<Vec<Hit>> {
    let mut parts = parts.into_iter();
    let Some(mut all) = parts.next() else {
        return vec![Vec::new(); queries];
    };
    for part in parts {
        for (hits, more) in all.iter_mut().zip(part) {
            take(hits, more);
        }
    }
    all
}

/// Takes a row's similarities into the `room` best so far.
fn keep_best(best: &mut Vec<Hit>, room: usize, first: usize, row: &[f32]) {
    if best.len() >= room {
        let Some(worst) = best.last() else { return };
        // Most rows hold nothing of interest, and to see that is quick.
        let largest = row
            .iter()
            .fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b });
        if largest <= worst.similarity {
            return;
        }
    }
    for (lane, &similarity) in row.iter().enumerate() {
        let index = first + lane;
        insert(best, room, Hit { index, similarity });
    }
}

/// Takes in a hit if it is among the `room` best; hits of lower indices were there before.
fn insert(best: &mut Vec<Hit>, room: usize, hit: Hit) {
    if best.len() >= room
        && best
            .last()
            .is_some_and(|worst| hit.similarity <= worst.similarity)
    {
        return;
    }
    let at = best.partition_point(|other| other.similarity >= hit.similarity);
    if best.len() >= room {
        best.pop();
    }
    best.insert(at, hit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;
    use proptest::prelude::*;

    /// Coordinates of few values, so that many vectors are equal: ties.
    fn vectors(count: usize, dim: usize, values: u64, seed: u64) -> Vec<Embedding> {
        let mut random = SplitMix64::new(seed, 0);
        let mut next = || (random.draw() % values) as f32 - (values / 2) as f32 + 0.25;
        (0..count)
            .map(|_| Embedding::new((0..dim).map(|_| next()).collect()).unwrap())
            .collect()
    }

    fn filled(entries: &[Embedding], dim: usize) -> ExactSearch {
        let mut search = ExactSearch::new(dim);
        for entry in entries {
            search.push(entry).unwrap();
        }
        search
    }

    /// A product in the one order that the kernels keep.
    fn similarity(search: &ExactSearch, query: &Embedding, index: usize) -> f32 {
        search.at_least(&[query], f32::NEG_INFINITY).unwrap()[0][index].similarity
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        // The yardstick: all similarities sorted, stably, and each of them against f64.
        #[test]
        fn the_best_are_those_of_a_full_sort(
            n in 0_usize..200, m in 0_usize..20, k in 0_usize..12, dim in 1_usize..6,
            values in 2_u64..4, seed in any::<u64>(),
        ) {
            let entries = vectors(n, dim, values, seed);
            let queries = vectors(m, dim, values, !seed);
            let queries: Vec<&Embedding> = queries.iter().collect();
            let search = filled(&entries, dim);
            let found = search.top_k(&queries, k).unwrap();
            let all = search.at_least(&queries, -2.0).unwrap();
            prop_assert_eq!((found.len(), all.len()), (m, m));
            for ((query, found), all) in queries.iter().zip(&found).zip(&all) {
                prop_assert_eq!(all.len(), n);
                for (hit, entry) in all.iter().zip(&entries) {
                    let pairs = query.as_slice().iter().zip(entry.as_slice());
                    let exact: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    prop_assert!((f64::from(hit.similarity) - exact).abs() < 1e-6);
                }
                let mut sorted = all.clone();
                sorted.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
                sorted.truncate(k);
                prop_assert_eq!(found, &sorted);
            }
        }

        #[test]
        fn at_least_means_at_least(n in 0_usize..150, floor in -1.0_f32..1.0, seed in any::<u64>()) {
            let entries = vectors(n, 3, 5, seed);
            let query = &vectors(1, 3, 5, !seed)[0];
            let search = filled(&entries, 3);
            let found = &search.at_least(&[query], floor).unwrap()[0];
            let mut expected = search.at_least(&[query], -2.0).unwrap().remove(0);
            expected.retain(|hit| hit.similarity >= floor);
            prop_assert_eq!(found, &expected);
        }
    }

    // More than one part and more than one batch; every entry is there three times.
    #[test]
    fn threads_and_company_change_nothing() {
        let dim = 5;
        let mut entries = vectors(PART / 2, dim, 1000, 1);
        entries.extend(entries.clone());
        entries.extend(entries[..PART / 2].to_vec());
        let queries = vectors(BATCH + 9, dim, 1000, 2);
        let queries: Vec<&Embedding> = queries.iter().collect();
        let search = filled(&entries, dim);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| search.top_k(&queries, 7).unwrap())
        };
        let one = run(1);
        assert_eq!(one, run(3));
        for at in [0, BATCH - 1, BATCH, BATCH + 8] {
            assert_eq!(search.top_k(&queries[at..=at], 7).unwrap()[0], one[at]);
            let triples = &one[at][..6];
            for three in triples.chunks_exact(3) {
                assert!(
                    three
                        .iter()
                        .all(|hit| hit.similarity == three[0].similarity)
                );
                assert_eq!(three[1].index, three[0].index + PART / 2);
                assert_eq!(three[2].index, three[1].index + PART / 2);
            }
        }
    }

    #[test]
    fn entries_are_replaced_and_sizes_checked() {
        let entries = vectors(40, 4, 9, 3);
        let mut search = filled(&entries[..39], 4);
        search.set(5, &entries[39]).unwrap();
        let best = search.top_k(&[&entries[39]], 1).unwrap()[0][0];
        assert_eq!(best.similarity, similarity(&search, &entries[39], 5));
        let other = Embedding::new(vec![1.0; 3]).unwrap();
        let error = |role, index| SearchError::Size {
            role,
            index,
            expected: 4,
            found: 3,
        };
        assert_eq!(search.push(&other), Err(error("entry", 39)));
        assert_eq!(search.set(2, &other), Err(error("entry", 2)));
        assert_eq!(
            search.top_k(&[&entries[0], &other], 1),
            Err(error("query", 1))
        );
        assert_eq!(search.len(), 39);
        assert_eq!(
            error("query", 1).to_string(),
            "query 1 has 3 numbers, the gallery's entries have 4"
        );
    }
}
