//! Pairs of points to calibrate from, and what can be wrong with them.

use std::fmt;

use super::matrix::Matrix3;
use super::plane::Homography;
use super::{ImagePoint, MapPoint};

/// Most pairs that are taken: bounds time and memory.
pub const MAX_PAIRS: usize = 100_000;

/// Fewest pairs that fix a homography.
pub const MIN_PAIRS: usize = 4;

/// Largest coordinate that is taken, in pixels or map units: Earth's girth in millimetres is less.
const MAX_COORDINATE: f64 = 1e12;

/// How far points may be off a line, relative to their extent, and still count as on it: half a
/// pixel in 500, about what can be clicked.
pub(super) const LINE: f64 = 1e-3;

/// A point of the picture and the place on the map that it shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PointPair {
    /// In the picture, in pixels.
    pub image: ImagePoint,
    /// On the map, in map units.
    pub map: MapPoint,
}

impl PointPair {
    /// The pair `u`, `v` (pixels), `x`, `y` (map units).
    pub fn new(u: f64, v: f64, x: f64, y: f64) -> Self {
        Self {
            image: ImagePoint { x: u, y: v },
            map: MapPoint { x, y },
        }
    }

    /// The same four numbers.
    pub fn numbers(&self) -> [f64; 4] {
        [self.image.x, self.image.y, self.map.x, self.map.y]
    }
}

/// Where points lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In the picture.
    Image,
    /// On the map.
    Map,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "in the image",
            Self::Map => "on the map",
        })
    }
}

impl Side {
    const BOTH: [Self; 2] = [Self::Image, Self::Map];

    fn of(self, pair: &PointPair) -> [f64; 2] {
        match self {
            Self::Image => [pair.image.x, pair.image.y],
            Self::Map => [pair.map.x, pair.map.y],
        }
    }
}

/// What is wrong with pairs of points. Points are numbered from 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PointsError {
    /// The lists do not belong together.
    #[error("{image} image points, but {map} map points")]
    Counts {
        /// Length of one list.
        image: usize,
        /// Length of the other.
        map: usize,
    },
    /// Too few for a homography.
    #[error("{count} point pairs; a homography needs at least {MIN_PAIRS}")]
    TooFew {
        /// How many there are.
        count: usize,
    },
    /// More than is sensible.
    #[error("{count} point pairs; at most {MAX_PAIRS} are taken")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// NaN, infinity or a number beyond all measure.
    #[error("point pair {index}: {value} is not a coordinate")]
    NotFinite {
        /// Which pair.
        index: usize,
        /// The number.
        value: f64,
    },
    /// The same point again and again.
    #[error(
        "only {distinct} different points {side} in {count} pairs; at least {MIN_PAIRS} are needed"
    )]
    Repeated {
        /// Where.
        side: Side,
        /// How many differ.
        distinct: usize,
        /// How many pairs there are.
        count: usize,
    },
    /// All on a line.
    #[error("all points {side} lie on one line: at least two must lie off it")]
    Collinear {
        /// Where.
        side: Side,
    },
    /// All on a line but one.
    #[error("all points {side} but number {index} lie on one line: at least two must lie off it")]
    AllButOneCollinear {
        /// Where.
        side: Side,
        /// The one that does not.
        index: usize,
    },
    /// No camera sees them so.
    #[error(
        "the points are in another order around each other in the image than on the map, so no \
         camera can see them like that: are two of them swapped?"
    )]
    Twisted,
    /// Nothing but noise.
    #[error(
        "no {} of {count} points agree within {threshold} pixels, so there is no telling right \
         points from wrong ones; fitted to all of them they are {mean:.1} pixels off on average, \
         number {worst} most, by {most:.1}",
        MIN_PAIRS + 1
    )]
    NoConsensus {
        /// How many points there are.
        count: usize,
        /// Within how many pixels they should agree.
        threshold: f64,
        /// Mean error in pixels of the best homography for all.
        mean: f64,
        /// The point farthest off.
        worst: usize,
        /// Its error in pixels.
        most: f64,
    },
    /// A setting, not a point.
    #[error("the RANSAC threshold must be a positive number of pixels, not {threshold}")]
    Threshold {
        /// What it is.
        threshold: f64,
    },
}

/// Pairs from two lists of coordinates.
///
/// # Errors
/// The lists are of different length.
pub fn pairs(image: &[[f64; 2]], map: &[[f64; 2]]) -> Result<Vec<PointPair>, PointsError> {
    if image.len() != map.len() {
        return Err(PointsError::Counts {
            image: image.len(),
            map: map.len(),
        });
    }
    let pair = |(i, m): (&[f64; 2], &[f64; 2])| PointPair::new(i[0], i[1], m[0], m[1]);
    Ok(image.iter().zip(map).map(pair).collect())
}

/// Refuses what no homography can be fitted to. `tolerance`: how far off a line, relative to their
/// extent, points count as on it.
pub(super) fn check(pairs: &[PointPair], tolerance: f64) -> Result<(), PointsError> {
    let count = pairs.len();
    if count < MIN_PAIRS {
        return Err(PointsError::TooFew { count });
    }
    check_coordinates(pairs)?;
    for side in Side::BOTH {
        check_side(pairs, side, tolerance)?;
    }
    Ok(())
}

/// Refuses more pairs than are taken, and numbers that are no coordinates.
pub(super) fn check_coordinates(pairs: &[PointPair]) -> Result<(), PointsError> {
    let count = pairs.len();
    if count > MAX_PAIRS {
        return Err(PointsError::TooMany { count });
    }
    for (index, pair) in (1..).zip(pairs) {
        let wild = |value: &f64| !value.is_finite() || value.abs() > MAX_COORDINATE;
        if let Some(value) = pair.numbers().into_iter().find(wild) {
            return Err(PointsError::NotFinite { index, value });
        }
    }
    Ok(())
}

fn check_side(pairs: &[PointPair], side: Side, tolerance: f64) -> Result<(), PointsError> {
    let points: Vec<[f64; 2]> = pairs.iter().map(|pair| side.of(pair)).collect();
    let mut sorted = points.clone();
    sorted.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    sorted.dedup();
    if sorted.len() < MIN_PAIRS {
        return Err(PointsError::Repeated {
            side,
            distinct: sorted.len(),
            count: points.len(),
        });
    }
    let reach = tolerance * extent(&points);
    // If all points but one are on a line, two of any three that differ are. The farthest apart
    // show the line's direction best.
    let first = sorted[0];
    let second = farthest(&points, |p| distance(p, first));
    let third = farthest(&points, |p| off_line(p, first, second).abs());
    for [a, b] in [[first, second], [first, third], [second, third]] {
        if distance(a, b) <= reach {
            continue;
        }
        let mut off = (1..)
            .zip(&points)
            .filter(|(_, p)| off_line(**p, a, b).abs() > reach);
        match (off.next(), off.next()) {
            (None, _) => return Err(PointsError::Collinear { side }),
            (Some((index, one)), another) => {
                // The odd one may be named more than once.
                if another.is_none() || off_repeats(&points, *one, a, b, reach) {
                    return Err(PointsError::AllButOneCollinear { side, index });
                }
            }
        }
    }
    Ok(())
}

/// Whether all points off the line through `a` and `b` are `one`.
fn off_repeats(points: &[[f64; 2]], one: [f64; 2], a: [f64; 2], b: [f64; 2], reach: f64) -> bool {
    let mut off = points.iter().filter(|p| off_line(**p, a, b).abs() > reach);
    off.all(|p| *p == one)
}

fn farthest(points: &[[f64; 2]], measure: impl Fn([f64; 2]) -> f64) -> [f64; 2] {
    let mut best = ([0.0; 2], -1.0);
    for &point in points {
        let value = measure(point);
        if value > best.1 {
            best = (point, value);
        }
    }
    best.0
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Distance of `p` from the line through `a` and `b`, with a sign for its side.
pub(super) fn off_line(p: [f64; 2], a: [f64; 2], b: [f64; 2]) -> f64 {
    let cross = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]);
    cross / distance(a, b)
}

/// The longer side of the points' bounding box.
pub(super) fn extent(points: &[[f64; 2]]) -> f64 {
    let side = |axis: usize| {
        let values = points.iter().map(|p| p[axis]);
        let low = values.clone().fold(f64::INFINITY, f64::min);
        values.fold(f64::NEG_INFINITY, f64::max) - low
    };
    side(0).max(side(1))
}

/// How far a homography is off at one pair of points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairError {
    /// Distance in pixels between the point and where its place appears; infinite where it is
    /// behind the camera.
    pub pixels: f64,
    /// Distance in map units between the place and what the point shows; infinite on the horizon
    /// and above.
    pub map: f64,
}

impl Homography {
    /// How far this homography is off at each pair.
    pub fn errors(&self, pairs: &[PointPair]) -> Vec<PairError> {
        let error = |pair: &PointPair| {
            let [u, v, x, y] = pair.numbers();
            let seen = self.to_image(pair.map);
            let shown = self.to_map(pair.image);
            PairError {
                pixels: seen.map_or(f64::INFINITY, |p| (p.x - u).hypot(p.y - v)),
                map: shown.map_or(f64::INFINITY, |p| (p.x - x).hypot(p.y - y)),
            }
        };
        pairs.iter().map(error).collect()
    }

    /// From a matrix that most of the pairs' image points are in front of.
    pub fn at_pairs(matrix: &Matrix3, pairs: &[PointPair]) -> Option<Self> {
        let points: Vec<ImagePoint> = pairs.iter().map(|pair| pair.image).collect();
        Self::with_points(matrix, &points)
    }
}
