//! A homography fitted to pairs of points: exactly to four, by least squares to more.
//!
//! The normalised direct linear transform (R. Hartley, In defense of the eight-point algorithm,
//! 1997; Hartley and Zisserman 2004, 4.4) is the start of K. Levenberg's and D. Marquardt's descent
//! (1944, 1963), which minimises the squared distances in the picture between its points and where
//! the map's places appear. All matrices in here map the map to the picture.

use super::matrix::{Matrix3, inverse, multiply, product, solve};
use super::plane::project;
use super::points::{LINE, PointPair, extent, off_line};

/// Most steps of the descent; a good start needs fewer than ten.
const MAX_STEPS: usize = 100;

/// Damping at the start, and where no smaller step helps.
const DAMPING: (f64, f64) = (1e-4, 1e12);

/// A step that makes the sum of squares smaller by less than this share is the last.
const LEAST_GAIN: f64 = 1e-15;

/// Shifts points into the origin and scales them to a mean distance of √2 from it.
#[derive(Debug, Clone, Copy)]
struct Normaliser {
    centre: [f64; 2],
    scale: f64,
}

impl Normaliser {
    fn of(points: &[[f64; 2]]) -> Self {
        let count = points.len() as f64;
        let centre = [0, 1].map(|axis| points.iter().map(|p| p[axis]).sum::<f64>() / count);
        let length = |p: &[f64; 2]| (p[0] - centre[0]).hypot(p[1] - centre[1]);
        let mean = points.iter().map(length).sum::<f64>() / count;
        let scale = if mean > 0.0 {
            std::f64::consts::SQRT_2 / mean
        } else {
            1.0
        };
        Self { centre, scale }
    }

    fn apply(&self, point: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| (point[axis] - self.centre[axis]) * self.scale)
    }

    fn matrix(&self) -> Matrix3 {
        let [x, y] = self.centre;
        let s = self.scale;
        [[s, 0.0, -s * x], [0.0, s, -s * y], [0.0, 0.0, 1.0]]
    }

    fn inverse_matrix(&self) -> Matrix3 {
        let [x, y] = self.centre;
        let s = 1.0 / self.scale;
        [[s, 0.0, x], [0.0, s, y], [0.0, 0.0, 1.0]]
    }
}

/// Pairs in coordinates in which fitting is well conditioned.
struct Normalised {
    image: Normaliser,
    map: Normaliser,
    /// Image point, map point.
    pairs: Vec<[[f64; 2]; 2]>,
}

impl Normalised {
    fn new(pairs: &[PointPair]) -> Self {
        let split: Vec<[[f64; 2]; 2]> = pairs
            .iter()
            .map(|pair| [[pair.image.x, pair.image.y], [pair.map.x, pair.map.y]])
            .collect();
        let side = |index: usize| {
            let points: Vec<[f64; 2]> = split.iter().map(|pair| pair[index]).collect();
            Normaliser::of(&points)
        };
        let (image, map) = (side(0), side(1));
        let pairs = split
            .iter()
            .map(|[i, m]| [image.apply(*i), map.apply(*m)])
            .collect();
        Self { image, map, pairs }
    }

    /// A matrix between normalised coordinates in the coordinates of before.
    fn undo(&self, matrix: &Matrix3) -> Matrix3 {
        let right = product(matrix, &self.map.matrix());
        product(&self.image.inverse_matrix(), &right)
    }
}

/// The homography of four pairs, map to picture, the third coordinate positive at all four.
///
/// `None` if three of them are on a line on either side, up to what can be clicked, or if they lie
/// on both sides of the horizon, which no camera sees.
pub(super) fn through_four(pairs: &[PointPair; 4]) -> Option<Matrix3> {
    let normalised = Normalised::new(pairs);
    let side =
        |index: usize| -> [[f64; 2]; 4] { std::array::from_fn(|i| normalised.pairs[i][index]) };
    let (image, map) = (side(0), side(1));
    if nearly_collinear(&image) || nearly_collinear(&map) {
        return None;
    }
    // The first three points as a basis, scaled so that their sum is the fourth (Hartley and
    // Zisserman 2004, 2.3): what carries one basis into the other carries all four points.
    let (image_basis, image_weights) = basis(&image)?;
    let (map_basis, map_weights) = basis(&map)?;
    // At point i the third coordinate is the quotient of weights, at the fourth it is 1.
    let in_front = image_weights
        .iter()
        .zip(map_weights)
        .all(|(i, m)| i / m > 0.0);
    if !in_front {
        return None;
    }
    Some(normalised.undo(&product(&image_basis, &inverse(&map_basis)?)))
}

/// Whether three of four points are on a line.
fn nearly_collinear(points: &[[f64; 2]; 4]) -> bool {
    let reach = LINE * extent(points);
    let triples = [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]];
    // Least over the three heights of a triangle; NaN where two points are one.
    let flat = |[a, b, c]: [usize; 3]| {
        let [a, b, c] = [points[a], points[b], points[c]];
        let heights = [off_line(a, b, c), off_line(b, a, c), off_line(c, a, b)];
        !heights.iter().all(|height| height.abs() > reach)
    };
    triples.into_iter().any(flat)
}

/// The matrix of the first three points as columns, each times its weight, so that their sum is the
/// fourth; and the weights.
fn basis(points: &[[f64; 2]; 4]) -> Option<(Matrix3, [f64; 3])> {
    let [a, b, c, d] = points;
    let columns: Matrix3 = [[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1.0; 3]];
    let weights = multiply(&inverse(&columns)?, [d[0], d[1], 1.0]);
    let weighted = columns.map(|row| std::array::from_fn(|i| row[i] * weights[i]));
    Some((weighted, weights))
}

/// The homography with the least squared distances in the picture, map to picture, the third
/// coordinate positive at all pairs; `None` if the pairs do not fix one, or are on both sides of
/// the horizon.
///
/// `start` helps where the direct linear transform, which does not know of the horizon, fails.
pub(super) fn least_squares(pairs: &[PointPair], start: Option<&Matrix3>) -> Option<Matrix3> {
    let normalised = Normalised::new(pairs);
    let own = direct_linear_transform(&normalised.pairs);
    let given = start.and_then(|matrix| {
        let right = product(matrix, &normalised.map.inverse_matrix());
        let matrix = product(&normalised.image.matrix(), &right);
        let last = matrix[2][2];
        // The centroid of points in front of the horizon is in front of it.
        (last > 0.0).then(|| parameters(&matrix.map(|row| row.map(|v| v / last))))
    });
    let mut best: Option<(f64, [f64; 8])> = None;
    for candidate in [own, given].into_iter().flatten() {
        let cost = cost(&candidate, &normalised.pairs);
        if cost.is_finite() && best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, candidate));
        }
    }
    let (start_cost, start) = best?;
    let refined = descend(start, start_cost, &normalised.pairs);
    Some(normalised.undo(&matrix_of(&refined)))
}

/// The first eight entries of a matrix whose last is 1.
fn parameters(m: &Matrix3) -> [f64; 8] {
    [
        m[0][0], m[0][1], m[0][2], m[1][0], m[1][1], m[1][2], m[2][0], m[2][1],
    ]
}

fn matrix_of(p: &[f64; 8]) -> Matrix3 {
    [[p[0], p[1], p[2]], [p[3], p[4], p[5]], [p[6], p[7], 1.0]]
}

/// Sums Jᵀ·J and Jᵀ·r over rows.
struct NormalEquations {
    matrix: [[f64; 8]; 8],
    right: [f64; 8],
}

impl NormalEquations {
    fn new() -> Self {
        Self {
            matrix: [[0.0; 8]; 8],
            right: [0.0; 8],
        }
    }

    fn add(&mut self, row: &[f64; 8], value: f64) {
        for i in 0..8 {
            for j in 0..=i {
                self.matrix[i][j] += row[i] * row[j];
            }
            self.right[i] += row[i] * value;
        }
    }
}

/// The two rows of a pair: how its image point, times the third coordinate, depends on the
/// parameters.
fn rows([u, v]: [f64; 2], [x, y]: [f64; 2]) -> [[f64; 8]; 2] {
    [
        [x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y],
        [0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y],
    ]
}

/// Least squares of the equations times the third coordinate. The last entry of the matrix is 1:
/// that is the third coordinate of the places' centroid, which is never on the horizon.
fn direct_linear_transform(pairs: &[[[f64; 2]; 2]]) -> Option<[f64; 8]> {
    let mut equations = NormalEquations::new();
    for &[image, map] in pairs {
        let [first, second] = rows(image, map);
        equations.add(&first, image[0]);
        equations.add(&second, image[1]);
    }
    solve(equations.matrix, equations.right)
}

/// Sum of squared distances in the picture; infinite if a place is behind the horizon.
fn cost(parameters: &[f64; 8], pairs: &[[[f64; 2]; 2]]) -> f64 {
    let matrix = matrix_of(parameters);
    let mut sum = 0.0;
    for [image, map] in pairs {
        let Some(seen) = project(&matrix, map[0], map[1]) else {
            return f64::INFINITY;
        };
        sum += (seen[0] - image[0]).powi(2) + (seen[1] - image[1]).powi(2);
    }
    sum
}

/// Levenberg's and Marquardt's descent, from a start with finite cost.
fn descend(start: [f64; 8], start_cost: f64, pairs: &[[[f64; 2]; 2]]) -> [f64; 8] {
    let (mut at, mut least) = (start, start_cost);
    let mut damping = DAMPING.0;
    for _ in 0..MAX_STEPS {
        let equations = slopes(&at, pairs);
        let mut gain = None;
        while damping < DAMPING.1 {
            let mut damped = equations.matrix;
            for (i, row) in damped.iter_mut().enumerate() {
                row[i] *= 1.0 + damping;
            }
            let step = solve(damped, equations.right).unwrap_or([f64::NAN; 8]);
            let next = std::array::from_fn(|i| at[i] + step[i]);
            let cost = cost(&next, pairs);
            if cost < least {
                gain = Some(least - cost);
                (at, least) = (next, cost);
                damping *= 0.1;
                break;
            }
            damping *= 10.0;
        }
        if gain.is_none_or(|gain| gain < LEAST_GAIN * least) {
            break;
        }
    }
    at
}

/// Normal equations of a step from `at`, which has all places in front of the horizon.
fn slopes(at: &[f64; 8], pairs: &[[[f64; 2]; 2]]) -> NormalEquations {
    let matrix = matrix_of(at);
    let mut equations = NormalEquations::new();
    for [image, map] in pairs {
        let [u, v, w] = multiply(&matrix, [map[0], map[1], 1.0]);
        let seen = [u / w, v / w];
        let slopes = rows(seen, *map).map(|row| row.map(|value| value / w));
        for axis in 0..2 {
            equations.add(&slopes[axis], image[axis] - seen[axis]);
        }
    }
    equations
}
