//! The homography that most pairs of points agree on.
//!
//! Samples of four (M. A. Fischler, R. C. Bolles, Random sample consensus, 1981) are judged by the
//! truncated squares of their errors (MSAC; P. Torr, A. Zisserman, MLESAC, 2000), and every sample
//! that is the best so far is fitted to all that agree with it (O. Chum, J. Matas, J. Kittler,
//! Locally optimized RANSAC, 2003). Errors are distances in the picture, in pixels. Pairs are
//! sorted first and random numbers have a fixed seed: the result does not depend on the pairs'
//! order.

use super::fit::{least_squares, through_four};
use super::matrix::{Matrix3, inverse, scaled};
use super::plane::{Homography, project};
use super::points::{LINE, MIN_PAIRS, PairError, PointPair, PointsError, check};
use crate::random::SplitMix64;

/// `HOMOGRAPHY_RANSAC_THRESHOLD` where it is not set, in pixels.
pub const DEFAULT_THRESHOLD: f64 = 5.0;

/// Up to so many pairs all samples are tried: there are 4845 of 20.
const EXHAUSTIVE: usize = 20;

/// Samples that are tried at most, and at least, where there are more.
const SAMPLES: (usize, usize) = (20_000, 200);

/// Wanted probability of having drawn a sample without outliers.
const CONFIDENCE: f64 = 0.9999;

/// Rounds of fitting to those that agree; they end by themselves long before.
const MAX_ROUNDS: usize = 20;

/// Any; results with other seeds differ where chance matters.
const SEED: u64 = 0x6d74_6d63;

/// How far points off a line, relative to their extent, count as on it before outliers are known:
/// one far away makes all others look like one.
const LINE_WITH_OUTLIERS: f64 = 1e-12;

/// A homography found, and how well the pairs agree with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// What was found.
    pub homography: Homography,
    /// Which pairs it was fitted to, in the order they were given.
    pub inliers: Vec<bool>,
    /// How far off it is at each of them.
    pub errors: Vec<PairError>,
}

impl Estimate {
    /// The matrix from picture to map; its last entry is 1 if that can be.
    pub fn matrix(&self) -> Matrix3 {
        self.homography.matrix()
    }

    /// The errors of the inliers.
    pub fn inlier_errors(&self) -> Vec<PairError> {
        let errors = self.errors.iter().zip(&self.inliers);
        errors.filter_map(|(e, keep)| keep.then_some(*e)).collect()
    }
}

/// Finds the homography from the picture to the map that most pairs agree on within `threshold`
/// pixels.
///
/// Four pairs are met exactly. Of more, at least five have to agree: any four do.
///
/// # Errors
/// What is wrong with the pairs, or with the threshold.
pub fn find_homography(pairs: &[PointPair], threshold: f64) -> Result<Estimate, PointsError> {
    if !(threshold > 0.0 && threshold.is_finite()) {
        return Err(PointsError::Threshold { threshold });
    }
    check(pairs, LINE_WITH_OUTLIERS)?;
    if pairs.len() == MIN_PAIRS {
        return find_by_least_squares(pairs);
    }
    let mut sorted = pairs.to_vec();
    sorted.sort_by(compare);
    let Some(best) = search(&sorted, threshold) else {
        // Without one sample in general position, the points are all but one on a line.
        check(pairs, LINE)?;
        return Err(PointsError::Twisted);
    };
    if best.inliers.len() <= MIN_PAIRS {
        return Err(no_consensus(pairs, threshold, &best.matrix));
    }
    check_inliers(pairs, &best.matrix, threshold)?;
    estimate(pairs, &best.matrix, threshold)
}

/// The homography that fits all pairs best: least squared distances in the picture.
///
/// # Errors
/// What is wrong with the pairs.
pub fn find_by_least_squares(pairs: &[PointPair]) -> Result<Estimate, PointsError> {
    check(pairs, LINE)?;
    let mut sorted = pairs.to_vec();
    sorted.sort_by(compare);
    let exact = <&[PointPair; 4]>::try_from(sorted.as_slice()).ok();
    let found = match exact {
        Some(four) => through_four(four),
        None => least_squares(&sorted, None),
    };
    estimate(pairs, &found.ok_or(PointsError::Twisted)?, f64::INFINITY)
}

/// By all four coordinates, so that no order remains.
fn compare(a: &PointPair, b: &PointPair) -> std::cmp::Ordering {
    let pairs = a.numbers().into_iter().zip(b.numbers());
    pairs.fold(std::cmp::Ordering::Equal, |order, (a, b)| {
        order.then(a.total_cmp(&b))
    })
}

/// A candidate, map to picture.
struct Candidate {
    matrix: Matrix3,
    /// Sum over the pairs of the squared error, at most the squared threshold.
    cost: f64,
    inliers: Vec<PointPair>,
}

impl Candidate {
    fn new(matrix: Matrix3, pairs: &[PointPair], threshold: f64) -> Self {
        let mut cost = 0.0;
        let mut inliers = Vec::new();
        for pair in pairs {
            let error = squared_error(&matrix, pair);
            if error <= threshold * threshold {
                cost += error;
                inliers.push(*pair);
            } else {
                cost += threshold * threshold;
            }
        }
        Self {
            matrix,
            cost,
            inliers,
        }
    }

    /// Fitted to all that agree, as long as that makes it better.
    fn refined(mut self, pairs: &[PointPair], threshold: f64) -> Self {
        for _ in 0..MAX_ROUNDS {
            if self.inliers.len() <= MIN_PAIRS {
                break;
            }
            let Some(matrix) = least_squares(&self.inliers, Some(&self.matrix)) else {
                break;
            };
            let next = Self::new(matrix, pairs, threshold);
            if next.cost >= self.cost {
                break;
            }
            self = next;
        }
        self
    }
}

fn squared_error(matrix: &Matrix3, pair: &PointPair) -> f64 {
    let seen = project(matrix, pair.map.x, pair.map.y);
    seen.map_or(f64::INFINITY, |[u, v]| {
        (u - pair.image.x).powi(2) + (v - pair.image.y).powi(2)
    })
}

/// The best candidate; `None` if no four pairs fix a homography.
fn search(pairs: &[PointPair], threshold: f64) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    let mut consider = |sample: [usize; 4]| -> Option<usize> {
        let matrix = through_four(&sample.map(|index| pairs[index]))?;
        let candidate = Candidate::new(matrix, pairs, threshold);
        if best
            .as_ref()
            .is_some_and(|best| candidate.cost >= best.cost)
        {
            return None;
        }
        let refined = candidate.refined(pairs, threshold);
        let agreeing = refined.inliers.len();
        best = Some(refined);
        Some(agreeing)
    };
    if pairs.len() <= EXHAUSTIVE {
        for sample in all_samples(pairs.len()) {
            consider(sample);
        }
        return best;
    }
    let mut random = SplitMix64::new(SEED, 0);
    let mut enough = SAMPLES.0;
    let mut drawn = 0;
    while drawn < enough {
        drawn += 1;
        if let Some(agreeing) = consider(draw(&mut random, pairs.len())) {
            enough = samples_needed(agreeing as f64 / pairs.len() as f64);
        }
    }
    best
}

/// All choices of four of `count`.
fn all_samples(count: usize) -> Vec<[usize; 4]> {
    let mut samples = Vec::new();
    for a in 0..count {
        for b in a + 1..count {
            for c in b + 1..count {
                samples.extend((c + 1..count).map(|d| [a, b, c, d]));
            }
        }
    }
    samples
}

/// Four different numbers below `count`, which is more than four.
fn draw(random: &mut SplitMix64, count: usize) -> [usize; 4] {
    let mut sample = [usize::MAX; 4];
    for place in 0..4 {
        while sample[place] == usize::MAX {
            let index = ((random.unit() * count as f64) as usize).min(count - 1);
            if !sample[..place].contains(&index) {
                sample[place] = index;
            }
        }
    }
    sample
}

/// After how many samples one of inliers alone has been drawn, if `share` are inliers.
fn samples_needed(share: f64) -> usize {
    let miss = 1.0 - share.powi(4);
    let needed = ((1.0 - CONFIDENCE).ln() / miss.ln()).ceil();
    // NaN and infinity: no inliers, or nothing but inliers.
    if needed.is_finite() {
        (needed as usize).clamp(SAMPLES.1, SAMPLES.0)
    } else if share > 0.5 {
        SAMPLES.1
    } else {
        SAMPLES.0
    }
}

fn no_consensus(pairs: &[PointPair], threshold: f64, sample: &Matrix3) -> PointsError {
    let all = least_squares(pairs, None).unwrap_or(*sample);
    let errors: Vec<f64> = pairs
        .iter()
        .map(|p| squared_error(&all, p).sqrt())
        .collect();
    let mut worst = 0;
    for (index, error) in errors.iter().enumerate() {
        if *error > errors[worst] {
            worst = index;
        }
    }
    PointsError::NoConsensus {
        count: pairs.len(),
        threshold,
        mean: errors.iter().sum::<f64>() / errors.len() as f64,
        worst: worst + 1,
        most: errors[worst],
    }
}

/// The pairs that agree must fix a homography without the help of those that do not.
fn check_inliers(pairs: &[PointPair], matrix: &Matrix3, threshold: f64) -> Result<(), PointsError> {
    let agrees = |pair: &&PointPair| squared_error(matrix, pair) <= threshold * threshold;
    let inliers: Vec<PointPair> = pairs.iter().filter(agrees).copied().collect();
    check(&inliers, LINE)
}

/// What `matrix` (map to picture) means for the pairs.
fn estimate(
    pairs: &[PointPair],
    matrix: &Matrix3,
    threshold: f64,
) -> Result<Estimate, PointsError> {
    let agrees = |pair: &PointPair| squared_error(matrix, pair) <= threshold * threshold;
    let inliers: Vec<bool> = pairs.iter().map(agrees).collect();
    let to_map = inverse(matrix).ok_or(PointsError::Twisted)?;
    let used: Vec<PointPair> = pairs
        .iter()
        .zip(&inliers)
        .filter_map(|(pair, keep)| keep.then_some(*pair))
        .collect();
    let homography = Homography::at_pairs(&scaled(&to_map), &used).ok_or(PointsError::Twisted)?;
    Ok(Estimate {
        errors: homography.errors(pairs),
        homography,
        inliers,
    })
}
