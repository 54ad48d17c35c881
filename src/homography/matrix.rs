//! Matrices of three rows, and the small systems of equations that fitting needs.

/// A 3×3 matrix, row by row.
pub type Matrix3 = [[f64; 3]; 3];

/// A 3×4 matrix, row by row.
pub type Projection = [[f64; 4]; 3];

/// How many roundings a determinant may be off.
const ROUNDINGS: f64 = 8.0;

pub(super) fn multiply(matrix: &Matrix3, vector: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum())
}

pub(super) fn product(a: &Matrix3, b: &Matrix3) -> Matrix3 {
    let column = |index: usize| b.map(|row| row[index]);
    a.map(|row| std::array::from_fn(|index| dot(row, column(index))))
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The inverse by cofactors; `None` if there is none, up to rounding.
///
/// The test does not depend on the units of rows and columns, which differ by many powers of ten
/// where pixels meet metres.
pub(super) fn inverse(m: &Matrix3) -> Option<Matrix3> {
    let minor = |row: usize, column: usize| {
        let (r, s) = ((row + 1) % 3, (row + 2) % 3);
        let (c, d) = ((column + 1) % 3, (column + 2) % 3);
        (m[r][c] * m[s][d], m[r][d] * m[s][c])
    };
    let mut determinant = 0.0;
    let mut size = 0.0;
    for (column, value) in m[0].iter().enumerate() {
        let (plus, minus) = minor(0, column);
        determinant += value * (plus - minus);
        size += (value * plus).abs() + (value * minus).abs();
    }
    let singular = determinant.abs() <= ROUNDINGS * f64::EPSILON * size;
    if singular || !determinant.is_finite() {
        return None;
    }
    let inverse: Matrix3 = std::array::from_fn(|row| {
        std::array::from_fn(|column| {
            let (plus, minus) = minor(column, row);
            (plus - minus) / determinant
        })
    });
    is_finite(&inverse).then_some(inverse)
}

pub(super) fn is_finite(matrix: &Matrix3) -> bool {
    matrix.iter().flatten().all(|value| value.is_finite())
}

/// The matrix as it is usually written: its last entry 1, or, where that is next to nothing, the
/// squares of its entries summing up to 1.
pub(super) fn scaled(matrix: &Matrix3) -> Matrix3 {
    let norm = matrix.iter().flatten().map(|v| v * v).sum::<f64>().sqrt();
    let last = matrix[2][2];
    let divisor = if last.abs() > 1e-9 * norm { last } else { norm };
    matrix.map(|row| row.map(|value| value / divisor))
}

/// Solves a symmetric, positive definite system by Cholesky's decomposition; `None` where it is
/// not positive definite. Only the lower triangle of `matrix` is read.
#[expect(clippy::needless_range_loop, reason = "indices as in the formula")]
pub(super) fn solve<const N: usize>(
    mut matrix: [[f64; N]; N],
    mut right: [f64; N],
) -> Option<[f64; N]> {
    for row in 0..N {
        for column in 0..=row {
            let mut sum = matrix[row][column];
            for k in 0..column {
                sum -= matrix[row][k] * matrix[column][k];
            }
            if row != column {
                matrix[row][column] = sum / matrix[column][column];
                continue;
            }
            if sum.is_nan() || sum <= 0.0 {
                return None;
            }
            matrix[row][row] = sum.sqrt();
        }
    }
    for row in 0..N {
        for k in 0..row {
            right[row] -= matrix[row][k] * right[k];
        }
        right[row] /= matrix[row][row];
    }
    for row in (0..N).rev() {
        for k in row + 1..N {
            right[row] -= matrix[k][row] * right[k];
        }
        right[row] /= matrix[row][row];
    }
    right.iter().all(|v| v.is_finite()).then_some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: the determinant is 1·(3·2 − 1·1) − 2·(0·2 − 1·1) + 0 = 7.
    #[test]
    fn inverses_are_right() {
        let m = [[1.0, 2.0, 0.0], [0.0, 3.0, 1.0], [1.0, 1.0, 2.0]];
        let expected = [[5.0, -4.0, 2.0], [1.0, 2.0, -1.0], [-3.0, 1.0, 3.0]];
        let found = inverse(&m).unwrap();
        for (row, expected) in found.iter().zip(expected) {
            for (value, expected) in row.iter().zip(expected) {
                assert!((value * 7.0 - expected).abs() < 1e-12, "{found:?}");
            }
        }
    }

    #[test]
    fn singular_matrices_have_none_whatever_their_units() {
        // The third row is the sum of the others; 0.1 + 0.2 is not 0.3 in binary.
        let mut m = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.7], [0.5, 0.7, 1.0]];
        assert_eq!(inverse(&m), None);
        for row in &mut m {
            row[0] *= 1e-9;
        }
        m[1] = m[1].map(|v| v * 1e12);
        assert_eq!(inverse(&m), None);
        assert_eq!(inverse(&[[f64::NAN; 3]; 3]), None);
        // A map in kilometres and a picture in pixels: not singular at all.
        let small = [[1e-9, 0.0, 0.1], [0.0, 1e-9, 0.1], [1e-12, 1e-10, 1.0]];
        assert!(inverse(&small).is_some());
    }

    // L·Lᵀ with L = [[2, 0], [1, 3]], times [1, −2].
    #[test]
    fn systems_are_solved() {
        let matrix = [[4.0, f64::NAN], [2.0, 10.0]];
        assert_eq!(solve(matrix, [0.0, -18.0]), Some([1.0, -2.0]));
        assert_eq!(solve([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0]), None);
        assert_eq!(solve([[f64::NAN]], [1.0]), None);
    }

    #[test]
    fn scaling_ends_in_one_where_it_can() {
        let m = [[2.0, 0.0, 4.0], [0.0, 2.0, 0.0], [0.0, 0.0, -2.0]];
        assert_eq!(scaled(&m)[0], [-1.0, 0.0, -2.0]);
        let without = [[3.0, 0.0, 0.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]];
        assert_eq!(scaled(&without)[1], [0.0, 0.0, 0.8]);
    }
}
