//! The similarity (shift, rotation, scale) that most pairs of points agree on.
//!
//! M. A. Fischler, R. C. Bolles, Random sample consensus, 1981, then least squares that weighs
//! pairs by how well they agree (Tukey's biweight). The random numbers have a fixed seed: the same
//! pairs give the same similarity.

use super::simd::vectorised;
use crate::random::SplitMix64;

/// Samples that are tried at most.
const MAX_SAMPLES: usize = 2000;
/// Wanted probability of having drawn a sample without outliers.
const CONFIDENCE: f64 = 0.99;
/// Rounds of weighing.
const ROUNDS: usize = 10;
/// Tukey's constant: 95 % efficiency where errors are normal.
const TUKEY: f64 = 4.685;
/// The median length of a normal error in the plane, in standard deviations of a coordinate.
const RAYLEIGH_MEDIAN: f64 = 1.1774;

/// Least standard deviation of a coordinate that is assumed, in pixels: of corners followed under
/// the best conditions.
const MIN_DEVIATION: f64 = 0.02;

/// x' = a·x − b·y + tx, y' = b·x + a·y + ty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Similarity {
    pub(super) a: f64,
    pub(super) b: f64,
    pub(super) tx: f64,
    pub(super) ty: f64,
}

impl Similarity {
    fn apply(&self, x: f64, y: f64) -> [f64; 2] {
        [
            self.a * x - self.b * y + self.tx,
            self.b * x + self.a * y + self.ty,
        ]
    }

    /// How much lengths grow.
    pub(super) fn scale(&self) -> f64 {
        self.a.hypot(self.b)
    }
}

/// Points and where they went, coordinate by coordinate.
#[derive(Debug, Clone, Default)]
pub(super) struct Pairs {
    x: Vec<f32>,
    y: Vec<f32>,
    to_x: Vec<f32>,
    to_y: Vec<f32>,
}

impl Pairs {
    pub(super) fn clear(&mut self) {
        for list in [&mut self.x, &mut self.y, &mut self.to_x, &mut self.to_y] {
            list.clear();
        }
    }

    pub(super) fn push(&mut self, from: [f32; 2], to: [f32; 2]) {
        self.x.push(from[0]);
        self.y.push(from[1]);
        self.to_x.push(to[0]);
        self.to_y.push(to[1]);
    }

    pub(super) fn len(&self) -> usize {
        self.x.len()
    }

    /// A point and where it went.
    pub(super) fn pair(&self, index: usize) -> [[f32; 2]; 2] {
        let from = [self.x[index], self.y[index]];
        [from, [self.to_x[index], self.to_y[index]]]
    }

    /// Says better where a point went.
    pub(super) fn set_target(&mut self, index: usize, to: [f32; 2]) {
        (self.to_x[index], self.to_y[index]) = (to[0], to[1]);
    }

    fn get(&self, index: usize) -> [f64; 4] {
        [&self.x, &self.y, &self.to_x, &self.to_y].map(|list| f64::from(list[index]))
    }

    /// Squared distance between where the similarity puts a point and where it went.
    fn squared_error(&self, similarity: &Similarity, index: usize) -> f64 {
        let [x, y, to_x, to_y] = self.get(index);
        let at = similarity.apply(x, y);
        (at[0] - to_x).powi(2) + (at[1] - to_y).powi(2)
    }

    /// How many pairs agree with the similarity to within the root of `limit`.
    #[inline(always)]
    fn count(&self, similarity: &Similarity, limit: f32) -> usize {
        let [a, b, tx, ty] =
            [similarity.a, similarity.b, similarity.tx, similarity.ty].map(|v| v as f32);
        let count = self.x.len();
        let (x, y) = (&self.x[..count], &self.y[..count]);
        let (to_x, to_y) = (&self.to_x[..count], &self.to_y[..count]);
        let mut agreeing = 0_u32;
        for i in 0..count {
            let dx = a * x[i] - b * y[i] + tx - to_x[i];
            let dy = b * x[i] + a * y[i] + ty - to_y[i];
            agreeing += u32::from(dx * dx + dy * dy < limit);
        }
        agreeing as usize
    }
}

/// What the pairs agree on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consensus {
    pub(super) similarity: Similarity,
    /// How many pairs agree.
    pub(super) inliers: usize,
    /// Standard deviation of a coordinate; with the weight, the middle and the spread of those that
    /// agree it makes [`Consensus::error_at`].
    deviation: f64,
    weight: f64,
    middle: [f64; 2],
    spread: f64,
}

impl Consensus {
    /// Standard error of where the point (x, y) is put, in pixels: it grows with the distance from
    /// the pairs, fast if they lie close together.
    pub(super) fn error_at(&self, x: f64, y: f64) -> f64 {
        let distance = (x - self.middle[0]).powi(2) + (y - self.middle[1]).powi(2);
        self.deviation * (1.0 / self.weight + distance / self.spread).sqrt()
    }
}

/// The similarity that most pairs agree on to within `threshold` pixels; `None` when there is
/// none, as with fewer than two pairs apart from each other.
pub(super) fn fit(pairs: &Pairs, threshold: f64) -> Option<Consensus> {
    let sample = draw(pairs, threshold)?;
    refine(pairs, sample, threshold)
}

vectorised! {
    fn draw<'a>(pairs: &'a Pairs, threshold: f64) -> Option<Similarity> = best_sample
}

/// The similarity of two pairs that most others agree with.
#[inline(always)]
fn best_sample(pairs: &Pairs, threshold: f64) -> Option<Similarity> {
    let count = pairs.len();
    if count < 2 {
        return None;
    }
    let limit = (threshold * threshold) as f32;
    let mut random = SplitMix64::from_state(0);
    let mut best = None;
    let mut most = 0;
    let mut needed = MAX_SAMPLES;
    let mut drawn = 0;
    while drawn < needed {
        drawn += 1;
        let (first, mut second) = (random.below(count), random.below(count - 1));
        second += usize::from(second >= first);
        let Some(similarity) = through(pairs.get(first), pairs.get(second)) else {
            continue;
        };
        let agreeing = pairs.count(&similarity, limit);
        if agreeing > most {
            most = agreeing;
            best = Some(similarity);
            needed = samples_needed(agreeing as f64 / count as f64);
        }
    }
    best
}

/// Samples that hold one without outliers with the wanted probability.
fn samples_needed(share: f64) -> usize {
    let miss = 1.0 - share * share;
    if miss <= 0.0 {
        return 1;
    }
    let needed = (1.0 - CONFIDENCE).ln() / miss.ln();
    (needed.ceil() as usize).clamp(1, MAX_SAMPLES)
}

/// The similarity that takes both points where they went.
fn through(first: [f64; 4], second: [f64; 4]) -> Option<Similarity> {
    let [x1, y1, u1, v1] = first;
    let [x2, y2, u2, v2] = second;
    let (x, y, u, v) = (x2 - x1, y2 - y1, u2 - u1, v2 - v1);
    let square = x * x + y * y;
    if square < 1.0 {
        return None;
    }
    let (a, b) = ((x * u + y * v) / square, (x * v - y * u) / square);
    Some(Similarity {
        a,
        b,
        tx: u1 - a * x1 + b * y1,
        ty: v1 - b * x1 - a * y1,
    })
}

/// Least squares from `start` on, with weights by agreement; nothing beyond `threshold` counts.
fn refine(pairs: &Pairs, start: Similarity, threshold: f64) -> Option<Consensus> {
    let limit = threshold * threshold;
    let mut similarity = start;
    let mut consensus = None;
    let mut errors = Vec::with_capacity(pairs.len());
    for _ in 0..ROUNDS {
        errors.clear();
        let all = (0..pairs.len()).map(|index| pairs.squared_error(&similarity, index));
        errors.extend(all.filter(|error| *error < limit));
        if errors.is_empty() {
            return None;
        }
        let inliers = errors.len();
        let (_, median, _) = errors.select_nth_unstable_by(inliers / 2, f64::total_cmp);
        let deviation = (median.sqrt() / RAYLEIGH_MEDIAN).max(MIN_DEVIATION);
        let cut = (TUKEY * deviation).powi(2).min(limit);
        let better = least_squares(pairs, &similarity, cut)?;
        consensus = Some(Consensus {
            similarity: better.similarity,
            inliers,
            deviation,
            ..better
        });
        let change =
            (better.similarity.a - similarity.a).abs() + (better.similarity.b - similarity.b).abs();
        similarity = better.similarity;
        if change < 1e-9 {
            break;
        }
    }
    consensus
}

/// Least squares with Tukey's weights of the errors under `current`, 0 from `cut` (squared) on.
fn least_squares(pairs: &Pairs, current: &Similarity, cut: f64) -> Option<Consensus> {
    let weight = |index: usize| {
        let share = pairs.squared_error(current, index) / cut;
        if share < 1.0 {
            (1.0 - share).powi(2)
        } else {
            0.0
        }
    };
    let mut sums = [0.0; 4];
    let mut total = 0.0;
    for index in 0..pairs.len() {
        let w = weight(index);
        total += w;
        for (sum, value) in sums.iter_mut().zip(pairs.get(index)) {
            *sum += w * value;
        }
    }
    if total <= 0.0 {
        return None;
    }
    let middle = sums.map(|sum| sum / total);
    let (mut along, mut across, mut spread) = (0.0, 0.0, 0.0);
    for index in 0..pairs.len() {
        let w = weight(index);
        let [x, y, u, v] = pairs.get(index);
        let (x, y, u, v) = (x - middle[0], y - middle[1], u - middle[2], v - middle[3]);
        along += w * (x * u + y * v);
        across += w * (x * v - y * u);
        spread += w * (x * x + y * y);
    }
    if spread <= 0.0 {
        return None;
    }
    let (a, b) = (along / spread, across / spread);
    let similarity = Similarity {
        a,
        b,
        tx: middle[2] - a * middle[0] + b * middle[1],
        ty: middle[3] - b * middle[0] - a * middle[1],
    };
    Some(Consensus {
        similarity,
        inliers: 0,
        deviation: 0.0,
        weight: total,
        middle: [middle[0], middle[1]],
        spread,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Many pairs go astray; the rest decide.
        #[test]
        fn outliers_do_not_matter(
            (a, b) in (0.9..1.1_f64, -0.1..0.1_f64),
            (tx, ty) in (-30.0..30.0_f64, -30.0..30.0_f64),
            points in prop::collection::vec((0.0..640.0_f32, 0.0..480.0_f32), 40..200),
            wild in prop::collection::vec((0.0..640.0_f32, 0.0..480.0_f32), 0..30),
        ) {
            let truth = Similarity { a, b, tx, ty };
            let mut pairs = Pairs::default();
            for (x, y) in points {
                let to = truth.apply(f64::from(x), f64::from(y));
                pairs.push([x, y], to.map(|value| value as f32));
            }
            for (x, y) in &wild {
                pairs.push([*x, *y], [640.0 - *y, *x]);
            }
            let found = fit(&pairs, 3.0).unwrap();
            for (x, y) in [(0.0, 0.0), (640.0, 480.0)] {
                let (at, expected) = (found.similarity.apply(x, y), truth.apply(x, y));
                prop_assert!((at[0] - expected[0]).hypot(at[1] - expected[1]) < 0.01);
            }
        }
    }

    #[test]
    fn too_little_is_nothing() {
        let mut pairs = Pairs::default();
        assert!(fit(&pairs, 3.0).is_none());
        pairs.push([5.0, 5.0], [6.0, 6.0]);
        assert!(fit(&pairs, 3.0).is_none());
        pairs.push([5.0, 5.0], [6.0, 6.0]);
        assert!(fit(&pairs, 3.0).is_none());
    }

    #[test]
    fn points_close_together_are_uncertain_far_away() {
        let mut pairs = Pairs::default();
        for i in 0..100_u8 {
            let (x, y) = (f32::from(i % 10), f32::from(i / 10));
            let noise = [0.3, -0.3][usize::from(i % 2)];
            pairs.push([x, y], [x + noise, y]);
        }
        let found = fit(&pairs, 3.0).unwrap();
        assert!(found.error_at(5.0, 5.0) < 0.1);
        assert!(found.error_at(900.0, 500.0) > 3.0);
    }
}
