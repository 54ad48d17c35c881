//! Corners matched by what is around them, however far they moved.
//!
//! E. Rublee et al., ORB: an efficient alternative to SIFT or SURF, ICCV 2011: FAST-9 corners
//! (E. Rosten, T. Drummond, Machine learning for high-speed corner detection, ECCV 2006), turned by
//! the intensity centroid, described by 256 comparisons (M. Calonder et al., BRIEF, ECCV 2010)
//! whose places are drawn from the normal distribution of BRIEF's paper, not learnt. One scale:
//! from frame to frame, size hardly changes.

use super::plane::{Mask, Plane};
use super::simd::vectorised;
use super::similarity::Pairs;
use crate::random::SplitMix64;

/// Least contrast of a corner, in grey levels.
const CONTRAST: i16 = 20;
/// Pixels of the circle in a row that must be brighter or darker.
const ARC: usize = 9;
/// Reach of a patch; comparisons and the centroid stay inside this radius.
const RADIUS: isize = 15;
/// Corners are not looked for this close to the edge, in pixels.
const MARGIN: usize = RADIUS as usize + 1;
/// Directions that patches are turned to.
const DIRECTIONS: usize = 30;
/// Bits of a descriptor.
const BITS: usize = 256;
/// Cells that share the corners among them, across and down.
const CELLS: (usize, usize) = (8, 6);
/// A match's distance must be below this share of the second best's.
const RATIO: f32 = 0.9;
/// Greatest shift, as a share of the frame's sides.
const MAX_SHIFT: f32 = 0.25;

/// The circle of FAST, clockwise from the top.
const CIRCLE: [(isize, isize); 16] = [
    (0, -3),
    (1, -3),
    (2, -2),
    (3, -1),
    (3, 0),
    (3, 1),
    (2, 2),
    (1, 3),
    (0, 3),
    (-1, 3),
    (-2, 2),
    (-3, 1),
    (-3, 0),
    (-3, -1),
    (-2, -2),
    (-1, -3),
];

type Descriptor = [u64; BITS / 64];

/// Where a comparison looks: two places relative to the corner, x and y each.
type Comparison = [[i8; 2]; 2];

/// Corners of one frame with their descriptors.
#[derive(Debug, Clone, Default)]
pub(super) struct Features {
    points: Vec<[f32; 2]>,
    descriptors: Vec<Descriptor>,
}

impl Features {
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    contrast: i16,
    x: u32,
    y: u32,
}

/// Finds, describes and matches features; keeps its memory from frame to frame.
#[derive(Debug, Clone, Default)]
pub(super) struct Orb {
    /// The comparisons, turned to each direction; made at first use.
    comparisons: Vec<[Comparison; BITS]>,
    smooth: Plane,
    sums: Vec<u16>,
    flags: Vec<u8>,
    /// Contrast of each pixel of the plane that is a corner, else 0.
    contrasts: Vec<i16>,
    candidates: Vec<Candidate>,
}

impl Orb {
    /// The up to `count` most contrasty corners of `plane` outside `mask`, spread over it.
    pub(super) fn describe(
        &mut self,
        plane: &Plane,
        mask: &Mask,
        count: usize,
        features: &mut Features,
    ) {
        features.points.clear();
        features.descriptors.clear();
        if plane.width().min(plane.height()) <= 2 * MARGIN {
            return;
        }
        if self.comparisons.is_empty() {
            self.comparisons = comparisons();
        }
        find_corners(self, plane, mask);
        self.smooth.set_smooth(plane, &mut self.sums);
        self.keep_best(plane, count, &mut features.points);
        for point in &features.points {
            features.descriptors.push(self.descriptor(plane, *point));
        }
    }

    /// Gathers the corners that are the most contrasty of their 3 × 3 pixels.
    #[inline(always)]
    fn find_corners(&mut self, plane: &Plane, mask: &Mask) {
        let (width, height) = (plane.width(), plane.height());
        self.contrasts.clear();
        self.contrasts.resize(width * height, 0);
        self.flags.clear();
        self.flags.resize(width + 8, 0);
        self.candidates.clear();
        let stride = plane.stride() as isize;
        let circle = CIRCLE.map(|(x, y)| y * stride + x);
        for y in MARGIN..height - MARGIN {
            flag_contrasty(plane, y, &mut self.flags[MARGIN..width - MARGIN]);
            for (block, flags) in self.flags.as_chunks::<8>().0.iter().enumerate() {
                if u64::from_ne_bytes(*flags) == 0 {
                    continue;
                }
                for (x, _) in (8 * block..).zip(flags).filter(|(_, flag)| **flag != 0) {
                    let at = plane.offset(x as isize, y as isize);
                    let contrast = contrast(plane.data(), at, &circle);
                    if contrast <= CONTRAST || mask.covers(x, y) {
                        continue;
                    }
                    self.contrasts[y * width + x] = contrast;
                    self.candidates.push(Candidate {
                        contrast,
                        x: x as u32,
                        y: y as u32,
                    });
                }
            }
        }
        let contrasts = &self.contrasts;
        self.candidates.retain(|corner| {
            let at = corner.y as usize * width + corner.x as usize;
            let before = [at - width - 1, at - width, at - width + 1, at - 1];
            let after = [at + 1, at + width - 1, at + width, at + width + 1];
            // Of equals, the last.
            before.iter().all(|&at| contrasts[at] <= corner.contrast)
                && after.iter().all(|&at| contrasts[at] < corner.contrast)
        });
    }

    /// The best corners, no cell giving more than twice its share.
    fn keep_best(&mut self, plane: &Plane, count: usize, points: &mut Vec<[f32; 2]>) {
        self.candidates.sort_unstable_by(|a, b| {
            b.contrast
                .cmp(&a.contrast)
                .then((a.y, a.x).cmp(&(b.y, b.x)))
        });
        let share = (2 * count).div_ceil(CELLS.0 * CELLS.1);
        let mut taken = [0_usize; CELLS.0 * CELLS.1];
        for corner in &self.candidates {
            let (x, y) = (corner.x as usize, corner.y as usize);
            let cell = (y * CELLS.1 / plane.height()) * CELLS.0 + x * CELLS.0 / plane.width();
            if taken[cell] >= share {
                continue;
            }
            taken[cell] += 1;
            points.push([corner.x as f32, corner.y as f32]);
            if points.len() >= count {
                return;
            }
        }
    }

    fn descriptor(&self, plane: &Plane, point: [f32; 2]) -> Descriptor {
        let (x, y) = (point[0] as isize, point[1] as isize);
        let (mut across, mut down) = (0_i32, 0_i32);
        for dy in -RADIUS..=RADIUS {
            let half = ((RADIUS * RADIUS - dy * dy) as f32).sqrt() as isize;
            let row = plane.row(x - half, y + dy, 2 * half as usize + 1);
            let mut total = 0;
            for (dx, value) in (-half as i32..).zip(row) {
                across += dx * i32::from(*value);
                total += i32::from(*value);
            }
            down += dy as i32 * total;
        }
        let turn = (down as f32).atan2(across as f32) / std::f32::consts::TAU;
        let direction = (turn * DIRECTIONS as f32).round() as isize;
        let direction = direction.rem_euclid(DIRECTIONS as isize) as usize;
        let mut descriptor = Descriptor::default();
        let (data, centre) = (self.smooth.data(), self.smooth.offset(x, y) as isize);
        let stride = self.smooth.stride() as isize;
        let value =
            |[dx, dy]: [i8; 2]| data[(centre + dy as isize * stride + dx as isize) as usize];
        for (bit, [first, second]) in self.comparisons[direction].iter().enumerate() {
            let less = value(*first) < value(*second);
            descriptor[bit / 64] |= u64::from(less) << (bit % 64);
        }
        descriptor
    }

    /// Pairs features that look alike, clearly more so than any other, and are not too far apart.
    pub(super) fn match_features(
        previous: &Features,
        current: &Features,
        plane: &Plane,
        pairs: &mut Pairs,
    ) {
        pairs.clear();
        let reach_x = MAX_SHIFT * plane.width() as f32;
        let reach_y = MAX_SHIFT * plane.height() as f32;
        match_within(previous, current, [reach_x, reach_y], pairs);
    }
}

vectorised! {
    /// [`Orb::find_corners`]
    fn find_corners<'a>(orb: &'a mut Orb, plane: &'a Plane, mask: &'a Mask) -> ()
        = Orb::find_corners
}
vectorised! {
    fn match_within<'a>(
        previous: &'a Features,
        current: &'a Features,
        reach: [f32; 2],
        pairs: &'a mut Pairs,
    ) -> () = match_each
}

#[inline(always)]
fn match_each(previous: &Features, current: &Features, reach: [f32; 2], pairs: &mut Pairs) {
    for (from, descriptor) in previous.points.iter().zip(&previous.descriptors) {
        let Some(to) = best_match(descriptor, current) else {
            continue;
        };
        let (dx, dy) = ((to[0] - from[0]).abs(), (to[1] - from[1]).abs());
        if dx < reach[0] && dy < reach[1] {
            pairs.push(*from, to);
        }
    }
}

/// Where the feature most like `descriptor` is, if the second best is clearly less so.
#[inline(always)]
fn best_match(descriptor: &Descriptor, features: &Features) -> Option<[f32; 2]> {
    let (mut best, mut second, mut at) = (u32::MAX, u32::MAX, 0);
    for (index, other) in features.descriptors.iter().enumerate() {
        let mut distance = 0;
        for (a, b) in descriptor.iter().zip(other) {
            distance += (a ^ b).count_ones();
        }
        if distance < best {
            (second, best, at) = (best, distance, index);
        } else {
            second = second.min(distance);
        }
    }
    if best as f32 >= RATIO * second as f32 {
        return None;
    }
    features.points.get(at).copied()
}

/// 1 where two of the circle's top, right, bottom and left pixels are brighter, or two darker:
/// nothing else can have an arc of nine.
#[inline(always)]
fn flag_contrasty(plane: &Plane, y: usize, flags: &mut [u8]) {
    let (x, y, count) = (MARGIN as isize, y as isize, flags.len());
    let centre = plane.row(x, y, count);
    let up = plane.row(x, y - 3, count);
    let down = plane.row(x, y + 3, count);
    let left = plane.row(x - 3, y, count);
    let right = plane.row(x + 3, y, count);
    let contrast = CONTRAST as u8;
    for i in 0..count {
        let bright = centre[i].saturating_add(contrast);
        let dark = centre[i].saturating_sub(contrast);
        let around = [up[i], down[i], left[i], right[i]];
        let (mut brighter, mut darker) = (0_u8, 0_u8);
        for value in around {
            brighter += u8::from(value > bright);
            darker += u8::from(value < dark);
        }
        flags[i] = u8::from((brighter > 1) | (darker > 1));
    }
}

/// The greatest contrast with which the pixel at `at` is still a corner; 0 if with none above
/// [`CONTRAST`].
#[inline(always)]
fn contrast(data: &[u8], at: usize, circle: &[isize; 16]) -> i16 {
    let centre = i16::from(data[at]);
    let mut differences = [0_i16; 16];
    let (mut brighter, mut darker) = (0_u32, 0_u32);
    for (i, offset) in circle.iter().enumerate() {
        let difference = i16::from(data[at.wrapping_add_signed(*offset)]) - centre;
        differences[i] = difference;
        brighter |= u32::from(difference > CONTRAST) << i;
        darker |= u32::from(difference < -CONTRAST) << i;
    }
    let sign = if has_arc(brighter) {
        1
    } else if has_arc(darker) {
        -1
    } else {
        return 0;
    };
    let mut greatest = 0;
    for start in 0..16 {
        let arc = (start..start + ARC).map(|i| sign * differences[i % 16]);
        greatest = greatest.max(arc.min().unwrap_or(0));
    }
    greatest
}

/// Whether nine neighbours of the circle's sixteen bits are set.
#[inline(always)]
fn has_arc(bits: u32) -> bool {
    let ring = bits | bits << 16;
    let two = ring & ring >> 1;
    let four = two & two >> 2;
    let eight = four & four >> 4;
    eight & ring >> 8 != 0
}

/// The comparisons of BRIEF, both places normal with a variance of 1/25 of the squared side of the
/// patch, turned to each direction.
fn comparisons() -> Vec<[Comparison; BITS]> {
    let mut random = SplitMix64::from_state(1);
    // Almost normal: the sum of twelve uniform numbers has variance 1.
    let mut normal = || {
        let sum: usize = (0..12).map(|_| random.below(1 << 16)).sum();
        sum as f64 / f64::from(1 << 16) - 6.0
    };
    let deviation = (2 * RADIUS + 1) as f64 / 5.0;
    let mut place = || loop {
        let (x, y) = (deviation * normal(), deviation * normal());
        // A turned place is rounded: half a pixel more.
        if x.hypot(y) < RADIUS as f64 - 0.75 {
            return [x, y];
        }
    };
    let drawn: Vec<_> = (0..BITS).map(|_| [place(), place()]).collect();
    let turned = |direction: usize| {
        let angle = std::f64::consts::TAU * direction as f64 / DIRECTIONS as f64;
        let (sin, cos) = angle.sin_cos();
        let mut all = [Comparison::default(); BITS];
        for (comparison, places) in all.iter_mut().zip(&drawn) {
            *comparison = places.map(|[x, y]| {
                [cos * x - sin * y, sin * x + cos * y].map(|value| value.round() as i8)
            });
        }
        all
    };
    (0..DIRECTIONS).map(turned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arcs_go_round() {
        assert!(has_arc(0b1_1111_1111));
        assert!(has_arc(0b1111_0000_0001_1111));
        assert!(!has_arc(0b1111_0000_0000_1111));
        assert!(!has_arc(0b1111_1110_1111_1111 & !1));
        assert!(has_arc(0xFFFF));
    }

    #[test]
    fn comparisons_stay_in_the_patch() {
        let all = comparisons();
        assert_eq!(all.len(), DIRECTIONS);
        for [x, y] in all.iter().flatten().flatten() {
            let square = i32::from(*x).pow(2) + i32::from(*y).pow(2);
            assert!(square <= (RADIUS * RADIUS) as i32, "{x}, {y}");
        }
    }
}
