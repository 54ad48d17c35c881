//! Sparse optical flow: where points of one picture lie in the next.
//!
//! B. D. Lucas, T. Kanade, An iterative image registration technique with an application to stereo
//! vision, IJCAI 1981, from coarse to fine as in J.-Y. Bouguet, Pyramidal implementation of the
//! Lucas Kanade feature tracker, 2000. Limits are those of OpenCV's `calcOpticalFlowPyrLK`; its
//! arithmetic is not (floating point here, and gradients of the window instead of planes of them).
//!
//! Sums run in a fixed order of lanes and no multiply-adds are fused, so that every machine finds
//! the same flow.

use super::plane::{BORDER, Plane, Pyramid};
use super::simd::vectorised;
use super::similarity::Pairs;

/// Pixels of a window's side.
const WINDOW: usize = 21;
/// Pixels from its centre to its edge.
const HALF: usize = WINDOW / 2;
/// Numbers that are computed for a row of the window, those too many being 0 or not looked at.
const LANES: usize = 24;
/// Steps of a level.
const MAX_STEPS: usize = 30;
/// A level is done when a step is shorter than this, in pixels.
const STEP: f32 = 0.01;
/// Least of the smaller eigenvalue of the mean product of gradients, in (grey levels a pixel)².
/// OpenCV's default in its own units is 10⁻⁴, in these 0.1.
const MIN_EIGENVALUE: f32 = 0.1;

/// How far a match may be moved, in pixels a coordinate: both its corners are at whole pixels.
const POLISH: f32 = 1.5;

// A window's template reaches HALF + 1 pixels to the left, and is read LANES + 1 wide from there.
const _: () = assert!(BORDER > HALF && BORDER + HALF >= LANES);

type Row = [f32; LANES];

/// 1 within the window, 0 beyond it.
const INSIDE: Row = {
    let mut row = [0.0; LANES];
    let mut i = 0;
    while i < WINDOW {
        row[i] = 1.0;
        i += 1;
    }
    row
};

/// A row at the start of a cache line, so that no vector of it lies in two.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line<const N: usize>([f32; N]);

/// Where each of `points` of `previous`' picture lies in `next`'s, `None` where it was lost.
///
/// Points are `[x, y]` in pixels of the finest plane. Both pyramids must be of the same size.
pub(super) fn follow(
    previous: &Pyramid,
    next: &Pyramid,
    points: &[[f32; 2]],
    found: &mut Vec<Option<[f32; 2]>>,
) {
    found.clear();
    found.resize(points.len(), None);
    follow_points(previous, next, points, found);
}

vectorised! {
    fn follow_points<'a>(
        previous: &'a Pyramid,
        next: &'a Pyramid,
        points: &'a [[f32; 2]],
        found: &'a mut [Option<[f32; 2]>],
    ) -> () = follow_each
}

#[inline(always)]
fn follow_each(
    previous: &Pyramid,
    next: &Pyramid,
    points: &[[f32; 2]],
    found: &mut [Option<[f32; 2]>],
) {
    let mut window = Window::default();
    for (point, found) in points.iter().zip(found) {
        *found = follow_point(previous, next, *point, &mut window);
    }
}

#[inline(always)]
fn follow_point(
    previous: &Pyramid,
    next: &Pyramid,
    point: [f32; 2],
    window: &mut Window,
) -> Option<[f32; 2]> {
    let levels = previous.levels().iter().zip(next.levels());
    let mut flow = [0.0; 2];
    let mut found = None;
    for (level, (from, to)) in levels.enumerate().rev() {
        let scale = 1.0 / (1_u32 << level) as f32;
        let start = [point[0] * scale, point[1] * scale];
        flow = [2.0 * flow[0], 2.0 * flow[1]];
        // What a coarse level cannot tell, a finer one may.
        let step = window
            .set(from, start)
            .and_then(|()| window.refine(to, start, flow));
        if let Some(better) = step {
            flow = better;
        }
        found = step;
    }
    found.map(|flow| [point[0] + flow[0], point[1] + flow[1]])
}

/// Looks closer where each of `pairs` went, from `previous` to `next`.
///
/// What would go further than [`POLISH`] stays where it was.
pub(super) fn polish(previous: &Plane, next: &Plane, pairs: &mut Pairs) {
    polish_pairs(previous, next, pairs);
}

vectorised! {
    fn polish_pairs<'a>(previous: &'a Plane, next: &'a Plane, pairs: &'a mut Pairs) -> ()
        = polish_each
}

#[inline(always)]
fn polish_each(previous: &Plane, next: &Plane, pairs: &mut Pairs) {
    let mut window = Window::default();
    for index in 0..pairs.len() {
        let [from, to] = pairs.pair(index);
        let flow = [to[0] - from[0], to[1] - from[1]];
        let better = window
            .set(previous, from)
            .and_then(|()| window.refine(next, from, flow));
        let Some(better) = better else { continue };
        let change = [better[0] - flow[0], better[1] - flow[1]];
        if change[0].abs().max(change[1].abs()) <= POLISH {
            pairs.set_target(index, [from[0] + better[0], from[1] + better[1]]);
        }
    }
}

/// A window of the previous picture with its gradients.
#[derive(Debug, Clone)]
struct Window {
    /// One pixel larger on all sides; those behind LANES are 0.
    around: [Line<{ LANES + 2 }>; WINDOW + 2],
    grey: [Line<LANES>; WINDOW],
    /// Gradients, 0 beyond the window.
    dx: [Line<LANES>; WINDOW],
    dy: [Line<LANES>; WINDOW],
    /// The inverse of the summed products of gradients: ∂x², ∂x∂y, ∂y².
    inverse: [f32; 3],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            around: [Line([0.0; LANES + 2]); WINDOW + 2],
            grey: [Line([0.0; LANES]); WINDOW],
            dx: [Line([0.0; LANES]); WINDOW],
            dy: [Line([0.0; LANES]); WINDOW],
            inverse: [0.0; 3],
        }
    }
}

/// The pixel that `position` lies in and how far into it, if it is inside the plane.
#[inline(always)]
fn split(plane: &Plane, position: [f32; 2]) -> Option<([isize; 2], [f32; 2])> {
    let (x, y) = (position[0].floor(), position[1].floor());
    let inside = |at: f32, side: usize| at >= 0.0 && at < side as f32;
    // Not finite is not inside.
    (inside(x, plane.width()) && inside(y, plane.height()))
        .then(|| ([x as isize, y as isize], [position[0] - x, position[1] - y]))
}

/// `LANES` pixels from `at` on, each `share` of the way to its right neighbour.
#[inline(always)]
fn between(data: &[u8], at: usize, share: f32) -> Row {
    let mut row = [0.0; LANES];
    let Some(bytes) = data[at..].first_chunk::<{ LANES + 1 }>() else {
        return row;
    };
    for i in 0..LANES {
        let (left, right) = (f32::from(bytes[i]), f32::from(bytes[i + 1]));
        row[i] = left + share * (right - left);
    }
    row
}

/// The sum of all lanes, always in the same order.
#[inline(always)]
fn sum(lanes: &Row) -> f32 {
    let mut eight = [0.0_f32; 8];
    for i in 0..8 {
        eight[i] = lanes[i] + lanes[i + 8] + lanes[i + 16];
    }
    (eight[0] + eight[4]) + (eight[1] + eight[5]) + ((eight[2] + eight[6]) + (eight[3] + eight[7]))
}

impl Window {
    /// Takes the window around `centre` of `plane`; `None` if it cannot be followed.
    #[inline(always)]
    fn set(&mut self, plane: &Plane, centre: [f32; 2]) -> Option<()> {
        let ([x, y], [right, down]) = split(plane, centre)?;
        let reach = HALF as isize + 1;
        let mut at = plane.offset(x - reach, y - reach);
        let mut upper = between(plane.data(), at, right);
        for row in &mut self.around {
            at += plane.stride();
            let lower = between(plane.data(), at, right);
            for i in 0..LANES {
                row.0[i] = upper[i] + down * (lower[i] - upper[i]);
            }
            upper = lower;
        }
        let (mut xx, mut xy, mut yy) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for row in 0..WINDOW {
            let [above, middle, below] = [row, row + 1, row + 2].map(|row| &self.around[row].0);
            // Written at once at the end: nothing that is read can be written in between.
            let (mut grey, mut dx, mut dy) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            for i in 0..LANES {
                grey[i] = middle[i + 1];
                // Scharr's kernel.
                let across = 3.0 * ((above[i + 2] - above[i]) + (below[i + 2] - below[i]))
                    + 10.0 * (middle[i + 2] - middle[i]);
                let down = 3.0 * ((below[i] - above[i]) + (below[i + 2] - above[i + 2]))
                    + 10.0 * (below[i + 1] - above[i + 1]);
                dx[i] = across * (INSIDE[i] / 32.0);
                dy[i] = down * (INSIDE[i] / 32.0);
            }
            for i in 0..LANES {
                xx[i] += dx[i] * dx[i];
                xy[i] += dx[i] * dy[i];
                yy[i] += dy[i] * dy[i];
            }
            (self.grey[row].0, self.dx[row].0, self.dy[row].0) = (grey, dx, dy);
        }
        let (xx, xy, yy) = (sum(&xx), sum(&xy), sum(&yy));
        let spread = ((xx - yy) * (xx - yy) + 4.0 * xy * xy).sqrt();
        let eigenvalue = (xx + yy - spread) / (2 * WINDOW * WINDOW) as f32;
        let determinant = xx * yy - xy * xy;
        if eigenvalue < MIN_EIGENVALUE || determinant < f32::EPSILON {
            return None;
        }
        self.inverse = [yy / determinant, -xy / determinant, xx / determinant];
        Some(())
    }

    /// Finds the window in `plane`, beginning at `start` plus `flow`; gives the better flow, or
    /// `None` when it left the plane.
    #[inline(always)]
    fn refine(&self, plane: &Plane, start: [f32; 2], mut flow: [f32; 2]) -> Option<[f32; 2]> {
        let mut last = [0.0_f32; 2];
        for _ in 0..MAX_STEPS {
            let position = [start[0] + flow[0], start[1] + flow[1]];
            let step = self.step(plane, position)?;
            flow = [flow[0] + step[0], flow[1] + step[1]];
            if step[0] * step[0] + step[1] * step[1] <= STEP * STEP {
                break;
            }
            // Forth and back: the truth is in the middle.
            if (step[0] + last[0]).abs() < STEP && (step[1] + last[1]).abs() < STEP {
                flow = [flow[0] - 0.5 * step[0], flow[1] - 0.5 * step[1]];
                break;
            }
            last = step;
        }
        split(plane, [start[0] + flow[0], start[1] + flow[1]]).map(|_| flow)
    }

    /// How far the window is from its best place, if it were at `position` of `plane`.
    #[inline(always)]
    fn step(&self, plane: &Plane, position: [f32; 2]) -> Option<[f32; 2]> {
        let ([x, y], [right, down]) = split(plane, position)?;
        let mut at = plane.offset(x - HALF as isize, y - HALF as isize);
        let mut upper = between(plane.data(), at, right);
        let (mut bx, mut by) = ([0.0; LANES], [0.0; LANES]);
        for row in 0..WINDOW {
            at += plane.stride();
            let lower = between(plane.data(), at, right);
            let (greys, dx, dy) = (&self.grey[row].0, &self.dx[row].0, &self.dy[row].0);
            for i in 0..LANES {
                let grey = upper[i] + down * (lower[i] - upper[i]);
                let difference = greys[i] - grey;
                bx[i] += difference * dx[i];
                by[i] += difference * dy[i];
            }
            upper = lower;
        }
        let (bx, by) = (sum(&bx), sum(&by));
        let [xx, xy, yy] = self.inverse;
        Some([xx * bx + xy * by, xy * bx + yy * by])
    }
}
