//! Optimal assignment with a cost limit: which track takes which detection.
//!
//! A pair may be matched if its cost is at most the limit, and staying unmatched is worth half a
//! limit to each side, so the solution minimises the sum of `cost - limit` over matched pairs.
//! That is what `lap.lapjv(cost, extend_cost=True, cost_limit=limit)` minimises, which trackers
//! in Python use; where several solutions are equally good, either may be found.
//!
//! Solved by shortest augmenting paths with dual prices, one row at a time (Jonker and Volgenant
//! 1987, in the rectangular form of Crouse 2016, doi:10.1109/TAES.2016.140952). Every row has, next
//! to its pairs, the way out of staying unmatched at cost 0. Costs are sparse, and a search
//! touches only what its row can reach, so separate groups of boxes are solved separately without
//! being looked for.

/// Costs of the pairs that may be matched, row by row.
#[derive(Debug, Clone, Default)]
pub struct SparseCosts {
    /// Pairs of all rows: column and cost.
    pairs: Vec<(usize, f64)>,
    /// Where each row's pairs end.
    row_ends: Vec<usize>,
    columns: usize,
}

impl SparseCosts {
    /// Drops all rows and starts anew with this number of columns.
    pub fn clear(&mut self, columns: usize) {
        self.pairs.clear();
        self.row_ends.clear();
        self.columns = columns;
    }

    /// Adds a pair to the row being written. Costs that are not finite and columns out of range
    /// are not matched and left out; of two pairs of one column the cheaper one counts.
    pub fn push(&mut self, column: usize, cost: f64) {
        if column < self.columns && cost.is_finite() {
            self.pairs.push((column, cost));
        }
    }

    /// Ends the row being written; the next pair belongs to the next row.
    pub fn end_row(&mut self) {
        self.row_ends.push(self.pairs.len());
    }

    /// Number of rows written.
    pub fn rows(&self) -> usize {
        self.row_ends.len()
    }

    fn row(&self, row: usize) -> &[(usize, f64)] {
        let start = if row == 0 { 0 } else { self.row_ends[row - 1] };
        &self.pairs[start..self.row_ends[row]]
    }
}

/// Solves a dense problem: `cost` has `columns` entries a row; returns each row's column.
///
/// # Panics
/// If `cost` is not a multiple of `columns` long.
pub fn assign(cost: &[f64], columns: usize, limit: f64) -> Vec<Option<usize>> {
    if columns == 0 {
        return Vec::new();
    }
    assert!(
        cost.len().is_multiple_of(columns),
        "rows of different lengths"
    );
    let mut costs = SparseCosts::default();
    costs.clear(columns);
    for row in cost.chunks_exact(columns) {
        for (column, &cost) in row.iter().enumerate() {
            costs.push(column, cost);
        }
        costs.end_row();
    }
    let mut assignment = Assignment::default();
    assignment.solve(&costs, limit);
    assignment.column_of_row
}

/// A solver; it keeps its memory from one problem to the next, and the latest solution.
#[derive(Debug, Clone, Default)]
pub struct Assignment {
    column_of_row: Vec<Option<usize>>,
    row_of_column: Vec<Option<usize>>,
    row_price: Vec<f64>,
    column_price: Vec<f64>,
    /// Length of the shortest path found so far to each column; infinite if there is none.
    distance: Vec<f64>,
    /// The row before each column on that path.
    predecessor: Vec<usize>,
    /// Columns whose shortest path is final.
    scanned: Vec<bool>,
    /// Columns with a finite distance, to clear no more than was touched.
    touched: Vec<usize>,
}

/// Where a shortest augmenting path ends.
enum PathEnd {
    /// At a column that no row has.
    Column(usize),
    /// At a row that gives its column away and stays unmatched.
    Row(usize),
}

impl Assignment {
    /// Finds the matching with the least sum of `cost - limit`.
    ///
    /// O(rows × pairs) and less: the searches of rows that nobody competes with are one step.
    pub fn solve(&mut self, costs: &SparseCosts, limit: f64) {
        let (rows, columns) = (costs.rows(), costs.columns);
        refill(&mut self.column_of_row, rows, None);
        refill(&mut self.row_of_column, columns, None);
        refill(&mut self.row_price, rows, 0.0);
        refill(&mut self.column_price, columns, 0.0);
        refill(&mut self.distance, columns, f64::INFINITY);
        refill(&mut self.predecessor, columns, 0);
        refill(&mut self.scanned, columns, false);
        for row in 0..rows {
            if !costs.row(row).is_empty() {
                self.add_row(costs, limit, row);
            }
        }
    }

    /// The column matched with `row` in the latest solution.
    pub fn column_of(&self, row: usize) -> Option<usize> {
        self.column_of_row.get(row).copied().flatten()
    }

    /// The row matched with `column` in the latest solution.
    pub fn row_of(&self, column: usize) -> Option<usize> {
        self.row_of_column.get(column).copied().flatten()
    }

    /// Extends an optimal matching of the rows before `start` to one that includes `start`.
    fn add_row(&mut self, costs: &SparseCosts, limit: f64, start: usize) {
        let (end, length) = self.shortest_path(costs, limit, start);
        self.raise_prices(start, length);
        self.augment(start, &end);
        for &column in &self.touched {
            self.distance[column] = f64::INFINITY;
            self.scanned[column] = false;
        }
        self.touched.clear();
    }

    /// Dijkstra's search over reduced costs, from `start` to the nearest end, and its length.
    fn shortest_path(&mut self, costs: &SparseCosts, limit: f64, start: usize) -> (PathEnd, f64) {
        let (mut row, mut reached) = (start, 0.0);
        let (mut way_out, mut way_out_length) = (start, f64::INFINITY);
        loop {
            let unmatched_length = reached - self.row_price[row];
            if unmatched_length < way_out_length {
                (way_out, way_out_length) = (row, unmatched_length);
            }
            self.relax(costs, limit, row, reached);
            // At equal lengths more is matched rather than less.
            let nearest = self.nearest_column();
            let Some(column) = nearest.filter(|&c| self.distance[c] <= way_out_length) else {
                return (PathEnd::Row(way_out), way_out_length);
            };
            self.scanned[column] = true;
            reached = self.distance[column];
            match self.row_of_column[column] {
                None => return (PathEnd::Column(column), reached),
                Some(owner) => row = owner,
            }
        }
    }

    /// Shortens the paths to `row`'s columns by those that lead through `row`.
    fn relax(&mut self, costs: &SparseCosts, limit: f64, row: usize, reached: f64) {
        for &(column, cost) in costs.row(row) {
            if self.scanned[column] || cost > limit {
                continue;
            }
            let reduced = (cost - limit) - self.row_price[row] - self.column_price[column];
            let length = reached + reduced;
            if length < self.distance[column] {
                if self.distance[column] == f64::INFINITY {
                    self.touched.push(column);
                }
                self.distance[column] = length;
                self.predecessor[column] = row;
            }
        }
    }

    fn nearest_column(&self) -> Option<usize> {
        let mut nearest = None;
        let mut least = f64::INFINITY;
        for &column in &self.touched {
            if !self.scanned[column] && self.distance[column] < least {
                (nearest, least) = (Some(column), self.distance[column]);
            }
        }
        nearest
    }

    /// Keeps all reduced costs at least 0, and those of matched pairs 0, for the next search.
    fn raise_prices(&mut self, start: usize, length: f64) {
        self.row_price[start] += length;
        for &column in &self.touched {
            if !self.scanned[column] {
                continue;
            }
            let rise = length - self.distance[column];
            self.column_price[column] -= rise;
            if let Some(row) = self.row_of_column[column] {
                self.row_price[row] += rise;
            }
        }
    }

    /// Hands the columns along the path on, from its end back to `start`.
    fn augment(&mut self, start: usize, end: &PathEnd) {
        let mut free = match *end {
            PathEnd::Column(column) => Some(column),
            PathEnd::Row(row) => self.column_of_row[row].take(),
        };
        while let Some(column) = free {
            let row = self.predecessor[column];
            free = self.column_of_row[row].replace(column);
            self.row_of_column[column] = Some(row);
            if row == start {
                return;
            }
        }
    }
}

fn refill<T: Clone>(values: &mut Vec<T>, length: usize, value: T) {
    values.clear();
    values.resize(length, value);
}

#[cfg(test)]
mod tests {
    use pathfinding::kuhn_munkres::kuhn_munkres_min;
    use pathfinding::matrix::Matrix;
    use proptest::prelude::*;

    use super::*;

    /// Sum of `cost - limit` over matched pairs; checks that the matching is one.
    fn value(cost: &[f64], columns: usize, limit: f64, matching: &[Option<usize>]) -> f64 {
        let mut taken = vec![false; columns];
        let mut sum = 0.0;
        for (row, column) in matching.iter().enumerate() {
            let Some(column) = *column else { continue };
            assert!(!taken[column], "column {column} is matched twice");
            taken[column] = true;
            let cost = cost[row * columns + column];
            assert!(cost <= limit, "a pair above the limit is matched");
            sum += cost - limit;
        }
        sum
    }

    /// Least value by trying everything, row by row.
    fn brute_force(cost: &[f64], columns: usize, limit: f64, taken: &mut [bool]) -> f64 {
        if cost.is_empty() {
            return 0.0;
        }
        let mut least = brute_force(&cost[columns..], columns, limit, taken);
        for column in 0..columns {
            if taken[column] || cost[column] > limit {
                continue;
            }
            taken[column] = true;
            let rest = brute_force(&cost[columns..], columns, limit, taken);
            least = least.min(cost[column] - limit + rest);
            taken[column] = false;
        }
        least
    }

    fn problem(sides: std::ops::Range<usize>) -> impl Strategy<Value = (Vec<f64>, usize, f64)> {
        (sides.clone(), sides, 0.05f64..1.0).prop_flat_map(|(rows, columns, limit)| {
            // Some costs are equal on purpose, and many are above the limit.
            let cost = prop_oneof![-1.0f64..1.2, (0u8..6).prop_map(|v| f64::from(v) / 5.0)];
            let costs = prop::collection::vec(cost, rows * columns);
            (costs, Just(columns), Just(limit))
        })
    }

    proptest! {
        #[test]
        fn as_good_as_trying_everything((cost, columns, limit) in problem(1..7)) {
            let matching = assign(&cost, columns, limit);
            let expected = brute_force(&cost, columns, limit, &mut vec![false; columns]);
            let found = value(&cost, columns, limit, &matching);
            prop_assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        }

        /// The crate `pathfinding` solves whole numbers, square, without a limit: extended as
        /// lapjv does it, rows and columns may stay unmatched at half the limit each.
        #[test]
        fn as_good_as_pathfindings_kuhn_munkres((cost, columns, limit) in problem(1..40)) {
            let rows = cost.len() / columns;
            let scaled = |v: f64| (v * 2.0e6).round() as i64;
            let half = scaled(limit) / 2;
            let extended = Matrix::from_fn(rows + columns, rows + columns, |(i, j)| {
                match (i < rows, j < columns) {
                    (true, true) => scaled(cost[i * columns + j]),
                    (false, false) => 0,
                    _ => half,
                }
            });
            let (total, _) = kuhn_munkres_min(&extended);
            let expected = (total - half * (rows + columns) as i64) as f64 / 2.0e6;
            let matching = assign(&cost, columns, limit);
            let found = value(&cost, columns, limit, &matching);
            prop_assert!((found - expected).abs() < 1e-4, "{found}, not {expected}");
        }

        /// One solver for one problem after another gives what new ones give.
        #[test]
        fn nothing_is_left_of_the_problem_before(problems in prop::collection::vec(problem(1..9), 1..4)) {
            let mut solver = Assignment::default();
            let mut costs = SparseCosts::default();
            for (cost, columns, limit) in &problems {
                costs.clear(*columns);
                for row in cost.chunks_exact(*columns) {
                    for (column, &cost) in row.iter().enumerate() {
                        costs.push(column, cost);
                    }
                    costs.end_row();
                }
                solver.solve(&costs, *limit);
                prop_assert_eq!(&solver.column_of_row, &assign(cost, *columns, *limit));
                for row in 0..costs.rows() {
                    if let Some(column) = solver.column_of(row) {
                        prop_assert_eq!(solver.row_of(column), Some(row));
                    }
                }
            }
        }
    }

    /// By hand: the greedy choice (0.1) would leave the second row with nothing below the limit.
    #[test]
    fn the_sum_counts_not_the_best_pair() {
        let cost = [0.1, 0.2, 0.15, 0.9];
        assert_eq!(assign(&cost, 2, 0.8), [Some(1), Some(0)]);
    }

    /// `lap.lapjv([[0.1, 0.75], [0.75, 0.79]], extend_cost=True, cost_limit=0.8)` (lap 0.5.13)
    /// gives x = [0, 1]: a costly pair is matched as long as it is below the limit.
    #[test]
    fn pairs_up_to_the_limit_are_matched() {
        assert_eq!(assign(&[0.1, 0.75, 0.75, 0.79], 2, 0.8), [Some(0), Some(1)]);
        assert_eq!(assign(&[0.1, 0.75, 0.75, 0.81], 2, 0.8), [Some(0), None]);
        assert_eq!(assign(&[0.7], 1, 0.7), [Some(0)]);
    }

    #[test]
    fn nothing_and_nonsense_are_not_matched() {
        assert!(assign(&[], 3, 0.5).is_empty());
        assert!(assign(&[], 0, 0.5).is_empty());
        let cost = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        assert_eq!(assign(&cost, 3, 0.5), [None]);
    }
}
