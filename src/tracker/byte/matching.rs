//! Who takes which detection: what a pair costs, and the cheapest way to pair them.

use mtmc_models::Embedding;

use super::super::assignment::{Assignment, SparseCosts};
use super::super::overlap::{Corners, OverlapIndex};
use super::appearance::{AppearanceRules, Looks};
use super::candidates::Candidate;

/// Costs of one association and its solution; the memory is used again by the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Matching {
    pub index: OverlapIndex,
    costs: SparseCosts,
    assignment: Assignment,
    /// Pairs (row, column) whose looks cost less than their boxes, by rising row.
    by_looks: Vec<(usize, usize)>,
}

/// How the pairs of one association cost.
pub(super) struct Pricing<'a> {
    /// Pairs that cost more are not matched.
    pub limit: f64,
    /// Multiply IoU with the score.
    pub fuse_score: bool,
    /// Compare looks too.
    pub appearance: Option<AppearanceRules>,
    /// Of the frame.
    pub embeddings: &'a [Option<Embedding>],
}

impl Pricing<'_> {
    /// Cost of a pair of overlapping boxes, and whether it is that of their looks.
    fn cost(&self, looks: &Looks, candidate: &Candidate, iou: f64) -> (f64, bool) {
        let distance = 1.0 - iou;
        let mut cost = distance;
        if self.fuse_score {
            // Not `iou * score`: the references round here.
            cost = 1.0 - (1.0 - distance) * f64::from(candidate.score);
        }
        let Some(rules) = &self.appearance else {
            return (cost, false);
        };
        if distance > rules.proximity_limit {
            return (cost, false);
        }
        let embedding = candidate.embedding(self.embeddings);
        match embedding.and_then(|embedding| looks.distance(embedding)) {
            Some(apart) if apart <= rules.appearance_limit && apart < cost => (apart, true),
            _ => (cost, false),
        }
    }
}

impl Matching {
    /// Matches tracks, given by boxes and looks, with candidates.
    pub fn solve<'a>(
        &mut self,
        rows: impl Iterator<Item = (Corners, &'a Looks)>,
        candidates: &[Candidate],
        pricing: &Pricing<'_>,
    ) {
        self.index.fill(candidates.iter().map(|c| c.corners));
        self.costs.clear(candidates.len());
        self.by_looks.clear();
        for (row, (corners, looks)) in rows.enumerate() {
            self.index.query(&corners, |column, iou| {
                let (cost, by_looks) = pricing.cost(looks, &candidates[column], iou);
                if cost > pricing.limit {
                    return;
                }
                self.costs.push(column, cost);
                if by_looks {
                    self.by_looks.push((row, column));
                }
            });
            self.costs.end_row();
        }
        self.assignment.solve(&self.costs, pricing.limit);
        let assignment = &self.assignment;
        self.by_looks
            .retain(|&(row, column)| assignment.column_of(row) == Some(column));
    }

    /// Column matched with a row, and whether looks decided it.
    pub fn column_of(&self, row: usize) -> Option<(usize, bool)> {
        let column = self.assignment.column_of(row)?;
        let by_looks = self.by_looks.binary_search(&(row, column)).is_ok();
        Some((column, by_looks))
    }

    /// Drops the candidates that were matched.
    pub fn drop_matched(&self, candidates: &mut Vec<Candidate>) {
        let mut column = 0;
        candidates.retain(|_| {
            column += 1;
            self.assignment.row_of(column - 1).is_none()
        });
    }
}
