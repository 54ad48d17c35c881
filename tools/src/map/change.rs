//! Numbers that are not copied as they are.

/// What happens to a tensor on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Rows become columns.
    Transpose {
        /// Rows before.
        rows: usize,
        /// Columns before.
        columns: usize,
    },
    /// The grid of a position embedding, whose first row is the class token's, gets other sides.
    Positions {
        /// Rows and columns before.
        side: usize,
        /// Rows and columns after.
        to: (usize, usize),
        /// Numbers a position.
        width: usize,
    },
    /// Some rows of a table, in this order.
    Rows {
        /// Which.
        rows: Vec<u32>,
        /// Rows that the table has.
        of: usize,
        /// Numbers a row.
        width: usize,
    },
}

impl Change {
    /// The changed numbers; `None` if there are not as many as the change is for.
    pub fn apply(&self, values: &[f32]) -> Option<Vec<f32>> {
        match *self {
            Self::Rows {
                ref rows,
                of,
                width,
            } => {
                if values.len() != of * width {
                    return None;
                }
                let mut changed = Vec::with_capacity(rows.len() * width);
                for &row in rows {
                    changed.extend(values.chunks_exact(width).nth(row as usize)?);
                }
                Some(changed)
            }
            Self::Transpose { rows, columns } => {
                (values.len() == rows * columns).then(|| transpose(values, rows, columns))
            }
            Self::Positions { side, to, width } => {
                let expected = (1 + side * side) * width;
                (values.len() == expected).then(|| resample(values, side, to, width))
            }
        }
    }
}

fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut changed = Vec::with_capacity(values.len());
    for column in 0..columns {
        for row in 0..rows {
            changed.push(values[row * columns + column]);
        }
    }
    changed
}

/// Bilinear with half-pixel centres and without antialiasing: PyTorch's
/// `interpolate(mode="bilinear")`, which CLIP-ReID uses.
fn resample(values: &[f32], side: usize, to: (usize, usize), width: usize) -> Vec<f32> {
    let (class, cells) = values.split_at(width);
    let mut changed = class.to_vec();
    for row in 0..to.0 {
        let (top, bottom, down) = taps(row, to.0, side);
        for column in 0..to.1 {
            let (left, right, across) = taps(column, to.1, side);
            for at in 0..width {
                let cell = |y: usize, x: usize| f64::from(cells[(y * side + x) * width + at]);
                let above = cell(top, left) * (1.0 - across) + cell(top, right) * across;
                let below = cell(bottom, left) * (1.0 - across) + cell(bottom, right) * across;
                changed.push((above * (1.0 - down) + below * down) as f32);
            }
        }
    }
    changed
}

/// The two neighbours of a new cell among `side` old ones, and how far it is towards the second.
fn taps(index: usize, count: usize, side: usize) -> (usize, usize, f64) {
    let place = ((index as f64 + 0.5) * side as f64 / count as f64 - 0.5).max(0.0);
    let first = (place as usize).min(side - 1);
    (first, (first + 1).min(side - 1), place - first as f64)
}

#[cfg(test)]
mod tests {
    use mtmc_models::testing::made_up;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        rows: usize,
        columns: usize,
        values: Vec<f32>,
    }

    // tests/oracle/clip/make_goldens.py ran CLIP-ReID's own function.
    #[test]
    fn positions_are_resampled_as_the_reference_does_it() {
        let golden = include_str!("../../../tests/goldens/clip/positions.json");
        let cases: Vec<Case> = serde_json::from_str(golden).unwrap();
        assert_eq!(cases.len(), 2);
        let values = made_up("positional_embedding", &[197, 3]);
        for case in cases {
            let change = Change::Positions {
                side: 14,
                to: (case.rows, case.columns),
                width: 3,
            };
            let found = change.apply(&values).unwrap();
            assert_eq!(found.len(), case.values.len());
            for (found, expected) in found.iter().zip(&case.values) {
                assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
            }
            assert_eq!(change.apply(&values[1..]), None);
        }
    }

    #[test]
    fn rows_are_picked() {
        let change = |rows: &[u32]| Change::Rows {
            rows: rows.to_vec(),
            of: 3,
            width: 2,
        };
        let table = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let found = change(&[2, 0, 2]).apply(&table);
        assert_eq!(found, Some(vec![5.0, 6.0, 1.0, 2.0, 5.0, 6.0]));
        assert_eq!(change(&[3]).apply(&table), None);
        assert_eq!(change(&[0]).apply(&table[1..]), None);
    }

    #[test]
    fn rows_become_columns() {
        let change = Change::Transpose {
            rows: 2,
            columns: 3,
        };
        let found = change.apply(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(found, Some(vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
        assert_eq!(change.apply(&[1.0]), None);
    }
}
