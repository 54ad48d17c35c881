//! Corners that can be followed well: the smaller eigenvalue of the gradients around a pixel.
//!
//! J. Shi, C. Tomasi, Good features to track, CVPR 1994. The gradients are Sobel's, the
//! neighbourhood is 3 × 3, as in OpenCV's `goodFeaturesToTrack` with `blockSize` 3.

use super::plane::{Mask, Plane};
use super::simd::vectorised;

/// Corners are not looked for this close to the edge, in pixels.
const MARGIN: usize = 2;

/// How many corners, how good and how far apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct CornerLimits {
    /// Most corners.
    pub(super) count: usize,
    /// Least quality, as a share of the best corner's.
    pub(super) quality: f32,
    /// Least distance between two, in pixels of the plane.
    pub(super) distance: f32,
}

/// A local maximum of the smaller eigenvalue.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    quality: f32,
    x: u32,
    y: u32,
}

/// Finds corners; keeps its memory from frame to frame.
#[derive(Debug, Clone, Default)]
pub(super) struct CornerFinder {
    gradients: Gradients,
    /// Qualities of three rows; row y is at y modulo 3.
    qualities: [Vec<f32>; 3],
    flags: Vec<u8>,
    candidates: Vec<Candidate>,
    cells: Vec<Vec<[f32; 2]>>,
}

/// Products of gradients, three rows of each; row y is at y modulo 3.
#[derive(Debug, Clone, Default)]
struct Gradients {
    smooth: Vec<i16>,
    slope: Vec<i16>,
    /// ∂x², ∂x∂y and ∂y² of one row.
    products: [Vec<f32>; 3],
    /// The same, each summed with its left and right neighbour.
    sums: [[Vec<f32>; 3]; 3],
}

vectorised! {
    /// [`CornerFinder::collect`]
    fn collect<'a>(finder: &'a mut CornerFinder, plane: &'a Plane, mask: &'a Mask, quality: f32)
        -> () = CornerFinder::collect
}

impl CornerFinder {
    /// The best corners of `plane` outside `mask`, the best first, as `[x, y]` in its pixels.
    pub(super) fn find(
        &mut self,
        plane: &Plane,
        mask: &Mask,
        limits: CornerLimits,
        corners: &mut Vec<[f32; 2]>,
    ) {
        corners.clear();
        self.candidates.clear();
        if plane.width().min(plane.height()) <= 2 * MARGIN {
            return;
        }
        collect(self, plane, mask, limits.quality);
        let best = self.candidates.iter().map(|c| c.quality);
        let least = limits.quality * best.fold(0.0, f32::max);
        self.candidates.retain(|c| c.quality > least);
        if limits.distance > 1.0 {
            sort(&mut self.candidates);
            self.take_apart(plane, limits, corners);
            return;
        }
        // Two pixels are at least 1 apart anyway.
        if self.candidates.len() > limits.count {
            self.candidates.select_nth_unstable_by(limits.count, better);
            self.candidates.truncate(limits.count);
        }
        sort(&mut self.candidates);
        corners.extend(self.candidates.iter().map(|c| [c.x as f32, c.y as f32]));
    }

    /// Gathers all local maxima that reach `quality` times the best one so far.
    #[inline(always)]
    fn collect(&mut self, plane: &Plane, mask: &Mask, quality: f32) {
        let (width, height) = (plane.width(), plane.height());
        self.gradients.set_width(width);
        for row in &mut self.qualities {
            row.resize(width, 0.0);
        }
        self.flags.clear();
        // A tail of zeros: flags are read eight at a time.
        self.flags.resize(width + 8, 0);
        let mut best = 0.0_f32;
        for y in 0..height {
            self.gradients.set_row(plane, y);
            if y < 2 {
                continue;
            }
            self.gradients.qualities(&mut self.qualities[(y - 1) % 3]);
            // Rows up to y - 1 have qualities: y - 2 knows its neighbours.
            if y < MARGIN + 2 || y - 2 + MARGIN >= height {
                continue;
            }
            let [above, row, below] = [y - 3, y - 2, y - 1].map(|y| &self.qualities[y % 3]);
            flag_maxima(above, row, below, quality * best, &mut self.flags[..width]);
            for (block, flags) in self.flags.as_chunks::<8>().0.iter().enumerate() {
                if u64::from_ne_bytes(*flags) == 0 {
                    continue;
                }
                for (x, _) in (8 * block..).zip(flags).filter(|(_, flag)| **flag != 0) {
                    if mask.covers(x, y - 2) {
                        continue;
                    }
                    best = best.max(row[x]);
                    self.candidates.push(Candidate {
                        quality: row[x],
                        x: x as u32,
                        y: (y - 2) as u32,
                    });
                }
            }
        }
    }

    /// Takes candidates from the best on, leaving out those too close to one that was taken.
    fn take_apart(&mut self, plane: &Plane, limits: CornerLimits, corners: &mut Vec<[f32; 2]>) {
        // Whatever is too close lies in the same cell or in one beside it.
        let side = limits.distance.max(1.0);
        let columns = (plane.width() as f32 / side) as usize + 1;
        let rows = (plane.height() as f32 / side) as usize + 1;
        self.cells.iter_mut().for_each(Vec::clear);
        self.cells.resize_with(columns * rows, Vec::new);
        for candidate in &self.candidates {
            let [x, y] = [candidate.x as f32, candidate.y as f32];
            let (column, row) = ((x / side) as usize, (y / side) as usize);
            let mut free = true;
            for row in row.saturating_sub(1)..(row + 2).min(rows) {
                for column in column.saturating_sub(1)..(column + 2).min(columns) {
                    for taken in &self.cells[row * columns + column] {
                        let (dx, dy) = (taken[0] - x, taken[1] - y);
                        free &= dx * dx + dy * dy >= side * side;
                    }
                }
            }
            if !free {
                continue;
            }
            self.cells[row * columns + column].push([x, y]);
            corners.push([x, y]);
            if corners.len() >= limits.count {
                return;
            }
        }
    }
}

/// The better first; of equals the upper, then the left one.
fn better(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.quality
        .total_cmp(&a.quality)
        .then((a.y, a.x).cmp(&(b.y, b.x)))
}

fn sort(candidates: &mut [Candidate]) {
    candidates.sort_unstable_by(better);
}

impl Gradients {
    fn set_width(&mut self, width: usize) {
        self.smooth.resize(width + 4, 0);
        self.slope.resize(width + 4, 0);
        for row in &mut self.products {
            row.resize(width + 2, 0.0);
        }
        for row in self.sums.iter_mut().flatten() {
            row.resize(width, 0.0);
        }
    }

    /// Products of the gradients of row `y`, of the plane.
    #[inline(always)]
    fn set_row(&mut self, plane: &Plane, y: usize) {
        let count = self.smooth.len();
        let row = |dy: isize| plane.row(-2, y as isize + dy, count);
        let (above, middle, below) = (row(-1), row(0), row(1));
        let (smooth, slope) = (&mut self.smooth[..count], &mut self.slope[..count]);
        for x in 0..count {
            let (a, m, b) = (
                i16::from(above[x]),
                i16::from(middle[x]),
                i16::from(below[x]),
            );
            smooth[x] = a + 2 * m + b;
            slope[x] = b - a;
        }
        let count = count - 2;
        let [xx, xy, yy] = &mut self.products;
        let (xx, xy, yy) = (&mut xx[..count], &mut xy[..count], &mut yy[..count]);
        let (smooth, slope) = (&smooth[..count + 2], &slope[..count + 2]);
        for x in 0..count {
            let gx = f32::from(smooth[x + 2] - smooth[x]);
            let gy = f32::from(slope[x] + 2 * slope[x + 1] + slope[x + 2]);
            xx[x] = gx * gx;
            xy[x] = gx * gy;
            yy[x] = gy * gy;
        }
        for (products, sums) in self.products.iter().zip(&mut self.sums[y % 3]) {
            for (sum, three) in sums.iter_mut().zip(products.windows(3)) {
                *sum = three[0] + three[1] + three[2];
            }
        }
    }

    /// Twice the smaller eigenvalue of the summed products over the three latest rows.
    ///
    /// The sums are whole numbers below 2²⁴: exact, in whatever order they are made.
    #[inline(always)]
    fn qualities(&self, out: &mut [f32]) {
        let count = out.len();
        let part = |product: usize| [0, 1, 2].map(|row: usize| &self.sums[row][product][..count]);
        let ([a0, a1, a2], [b0, b1, b2], [c0, c1, c2]) = (part(0), part(1), part(2));
        for x in 0..count {
            let a = a0[x] + a1[x] + a2[x];
            let b = b0[x] + b1[x] + b2[x];
            let c = c0[x] + c1[x] + c2[x];
            let difference = a - c;
            out[x] = (a + c) - (difference * difference + 4.0 * b * b).sqrt();
        }
    }
}

/// 1 where `row` is above `least` and the greatest of its 3 × 3 pixels; of equals, the last.
#[inline(always)]
fn flag_maxima(above: &[f32], row: &[f32], below: &[f32], least: f32, flags: &mut [u8]) {
    let count = row.len() - 2 * MARGIN;
    let (a, r, b) = (
        &above[MARGIN - 1..][..count + 2],
        &row[MARGIN - 1..][..count + 2],
        &below[MARGIN - 1..][..count + 2],
    );
    let flags = &mut flags[MARGIN..][..count];
    for x in 0..count {
        let value = r[x + 1];
        let up = a[x].max(a[x + 1]).max(a[x + 2]).max(r[x]);
        let down = b[x].max(b[x + 1]).max(b[x + 2]).max(r[x + 2]);
        flags[x] = u8::from((value > least) & (value >= up) & (value > down));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    /// White rectangles on black.
    fn picture() -> RgbImage {
        RgbImage::from_fn(96, 64, |x, y| {
            let inside = (20..50).contains(&x) && (10..40).contains(&y);
            Rgb([if inside { 255 } else { 0 }; 3])
        })
    }

    fn corners(limits: CornerLimits, people: &[mtmc_models::BBox]) -> Vec<[f32; 2]> {
        let (mut plane, mut mask) = (Plane::default(), Mask::default());
        plane.set_grey(&picture(), 1);
        mask.set(&plane, people, 1);
        let mut found = Vec::new();
        CornerFinder::default().find(&plane, &mask, limits, &mut found);
        found
    }

    const LIMITS: CornerLimits = CornerLimits {
        count: 100,
        quality: 0.1,
        distance: 8.0,
    };

    #[test]
    fn a_rectangle_has_four_corners() {
        let mut found = corners(LIMITS, &[]);
        found.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert_eq!(found.len(), 4, "{found:?}");
        for (corner, expected) in found.iter().zip([(20, 10), (20, 39), (49, 10), (49, 39)]) {
            assert!((corner[0] - expected.0 as f32).abs() <= 1.0, "{found:?}");
            assert!((corner[1] - expected.1 as f32).abs() <= 1.0, "{found:?}");
        }
    }

    #[test]
    fn limits_and_masks_hold() {
        let two = CornerLimits { count: 2, ..LIMITS };
        assert_eq!(corners(two, &[]).len(), 2);
        let left = mtmc_models::BBox::from_xyxy(0.0, 0.0, 30.0, 64.0);
        let found = corners(LIMITS, &[left]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|corner| corner[0] > 40.0));
        let all = mtmc_models::BBox::from_xyxy(0.0, 0.0, 96.0, 64.0);
        assert!(corners(LIMITS, &[all]).is_empty());
    }
}
