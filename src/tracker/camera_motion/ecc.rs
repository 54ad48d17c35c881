//! All pixels of two pictures aligned by a rotation and a shift.
//!
//! G. D. Evangelidis, E. Z. Psarakis, Parametric image alignment using enhanced correlation
//! coefficient maximization, PAMI 2008: the warp under which the pictures, each less its mean,
//! correlate best, by steps of Gauss and Newton's kind; from coarse to fine, so that steps stay
//! small and few of them see all pixels. Brightness and contrast do not matter.

use super::plane::{Mask, Plane, Pyramid};
use super::simd::vectorised;
use super::similarity::Similarity;

/// Steps of a level.
const MAX_STEPS: usize = 50;
/// A level is done when a step moves no corner by more than this, in pixels.
const STEP: f64 = 0.01;
/// Pixels of a level that are looked at, more or less: of larger ones, every second or third each
/// way. Three numbers are to be found, and the pixels left out say the same.
const SAMPLES: f64 = 131_072.0;
/// Least correlation that is believed.
const MIN_CORRELATION: f64 = 0.5;
/// Least share of the samples that both pictures must see.
const MIN_OVERLAP: f64 = 0.25;
/// Least variance of a picture, in grey levels²: below it there is nothing to align.
const MIN_VARIANCE: f64 = 1.0;

/// Two pictures to align.
pub(super) struct Alignment<'a> {
    /// The frame before, and what moves by itself in it.
    pub(super) template: &'a Pyramid,
    pub(super) template_people: &'a Mask,
    /// The frame itself.
    pub(super) picture: &'a Pyramid,
    pub(super) picture_people: &'a Mask,
}

/// Angle and shift.
#[derive(Debug, Clone, Copy, Default)]
struct Warp {
    angle: f64,
    x: f64,
    y: f64,
}

/// Sums over all pixels that both pictures see; see [`Sums::step`] for what they are for.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    count: f64,
    template: f64,
    picture: f64,
    template_square: f64,
    picture_square: f64,
    product: f64,
    /// By angle, x and y: how the picture changes with the warp.
    slopes: [f64; 3],
    slopes_template: [f64; 3],
    slopes_picture: [f64; 3],
    slopes_slopes: [[f64; 3]; 3],
}

vectorised! {
    /// [`Alignment::sums`]
    fn sums<'a>(
        alignment: &'a Alignment<'a>,
        planes: [&'a Plane; 2],
        level: usize,
        warp: Warp,
        pitch: usize,
    ) -> Sums = Alignment::sums
}

impl Alignment<'_> {
    /// The rotation and shift from the template to the picture, `None` if they do not correlate.
    pub(super) fn find(&self) -> Option<Similarity> {
        let mut warp = Warp::default();
        let mut correlation = 0.0;
        let levels = self.template.levels().iter().zip(self.picture.levels());
        for (level, (template, picture)) in levels.enumerate().rev() {
            warp.x *= 2.0;
            warp.y *= 2.0;
            let reach = (template.width() as f64).hypot(template.height() as f64);
            let area = (template.width() * template.height()) as f64;
            let pitch = (area / SAMPLES).sqrt().round().max(1.0);
            let least = MIN_OVERLAP * area / (pitch * pitch);
            for _ in 0..MAX_STEPS {
                let sums = sums(self, [template, picture], level, warp, pitch as usize);
                if sums.count < least {
                    return None;
                }
                let step;
                (step, correlation) = sums.step()?;
                warp.angle += step[0];
                warp.x += step[1];
                warp.y += step[2];
                if reach * step[0].abs() + step[1].hypot(step[2]) < STEP {
                    break;
                }
            }
        }
        if correlation < MIN_CORRELATION {
            return None;
        }
        let (b, a) = warp.angle.sin_cos();
        Some(Similarity {
            a,
            b,
            tx: warp.x,
            ty: warp.y,
        })
    }

    /// The sums over every `pitch`th pixel each way.
    #[inline(always)]
    fn sums(
        &self,
        [template, picture]: [&Plane; 2],
        level: usize,
        warp: Warp,
        pitch: usize,
    ) -> Sums {
        let (sin, cos) = warp.angle.sin_cos();
        let mut sums = Sums::default();
        for y in (0..template.height()).step_by(pitch) {
            let row = template.row(0, y as isize, template.width());
            let start = (-sin * y as f64 + warp.x, cos * y as f64 + warp.y);
            for (x, grey) in row.iter().enumerate().step_by(pitch) {
                let along = x as f64;
                let position = (start.0 + cos * along, start.1 + sin * along);
                if self.template_people.covers(x << level, y << level) {
                    continue;
                }
                let Some(sample) = sample(picture, position) else {
                    continue;
                };
                let (to_x, to_y) = (position.0 as usize, position.1 as usize);
                if self.picture_people.covers(to_x << level, to_y << level) {
                    continue;
                }
                let [value, dx, dy] = sample;
                // How the position changes with the angle.
                let turn = [-(position.1 - warp.y), position.0 - warp.x];
                let slopes = [dx * turn[0] + dy * turn[1], dx, dy];
                sums.add(f64::from(*grey), value, slopes);
            }
        }
        sums
    }
}

/// Grey and gradient of the plane between its pixels, `None` outside.
#[inline(always)]
fn sample(plane: &Plane, position: (f64, f64)) -> Option<[f64; 3]> {
    let inside = position.0 >= 0.0
        && position.1 >= 0.0
        && position.0 <= (plane.width() - 1) as f64
        && position.1 <= (plane.height() - 1) as f64;
    if !inside {
        return None;
    }
    let (x, y) = (position.0 as usize, position.1 as usize);
    let (right, down) = (position.0 - x as f64, position.1 - y as f64);
    let mut grid = [[0.0; 4]; 4];
    for (dy, line) in (-1..).zip(&mut grid) {
        let row = plane.row(x as isize - 1, y as isize + dy, 4);
        for (value, pixel) in line.iter_mut().zip(row) {
            *value = f64::from(*pixel);
        }
    }
    let mix = |a: f64, b: f64, share: f64| a + share * (b - a);
    let across = grid.map(|line| mix(line[1], line[2], right));
    let slope = |line: [f64; 4]| mix(line[2] - line[0], line[3] - line[1], right) / 2.0;
    Some([
        mix(across[1], across[2], down),
        mix(slope(grid[1]), slope(grid[2]), down),
        mix(across[2] - across[0], across[3] - across[1], down) / 2.0,
    ])
}

impl Sums {
    #[inline(always)]
    fn add(&mut self, template: f64, picture: f64, slopes: [f64; 3]) {
        self.count += 1.0;
        self.template += template;
        self.picture += picture;
        self.template_square += template * template;
        self.picture_square += picture * picture;
        self.product += template * picture;
        for i in 0..3 {
            self.slopes[i] += slopes[i];
            self.slopes_template[i] += slopes[i] * template;
            self.slopes_picture[i] += slopes[i] * picture;
            for j in i..3 {
                self.slopes_slopes[i][j] += slopes[i] * slopes[j];
            }
        }
    }

    /// The next step of the warp (the paper's equations 18 and 21), and the correlation before it;
    /// `None` if the pictures are flat or do not correlate.
    fn step(&self) -> Option<([f64; 3], f64)> {
        let (template_mean, picture_mean) = (self.template / self.count, self.picture / self.count);
        let template_norm = self.template_square - self.count * template_mean * template_mean;
        let picture_norm = self.picture_square - self.count * picture_mean * picture_mean;
        let least = MIN_VARIANCE * self.count;
        if template_norm < least || picture_norm < least {
            return None;
        }
        let product = self.product - self.count * template_mean * picture_mean;
        let mut by_template = [0.0; 3];
        let mut by_picture = [0.0; 3];
        for i in 0..3 {
            by_template[i] = self.slopes_template[i] - template_mean * self.slopes[i];
            by_picture[i] = self.slopes_picture[i] - picture_mean * self.slopes[i];
        }
        let solved_template = solve(&self.slopes_slopes, by_template)?;
        let solved_picture = solve(&self.slopes_slopes, by_picture)?;
        let dot = |a: [f64; 3], b: [f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
        let above = picture_norm - dot(by_picture, solved_picture);
        let below = product - dot(by_template, solved_picture);
        if below <= 0.0 {
            return None;
        }
        let contrast = above / below;
        let mut step = [0.0; 3];
        for i in 0..3 {
            step[i] = contrast * solved_template[i] - solved_picture[i];
        }
        let correlation = product / (template_norm * picture_norm).sqrt();
        step.iter()
            .all(|value| value.is_finite())
            .then_some((step, correlation))
    }
}

/// The solution of a symmetric system, of which the upper half is given; `None` if it has none.
fn solve(matrix: &[[f64; 3]; 3], right: [f64; 3]) -> Option<[f64; 3]> {
    let [[a, b, c], [_, d, e], [_, _, f]] = *matrix;
    let cofactors = [
        [d * f - e * e, c * e - b * f, b * e - c * d],
        [c * e - b * f, a * f - c * c, b * c - a * e],
        [b * e - c * d, b * c - a * e, a * d - b * b],
    ];
    let determinant = a * cofactors[0][0] + b * cofactors[0][1] + c * cofactors[0][2];
    // Far below the product of the diagonal, it is rounding.
    if determinant <= 1e-12 * a * d * f {
        return None;
    }
    Some(
        cofactors
            .map(|row| (row[0] * right[0] + row[1] * right[1] + row[2] * right[2]) / determinant),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_solved() {
        let matrix = [[4.0, 1.0, 2.0], [1.0, 3.0, 0.5], [2.0, 0.5, 5.0]];
        let x = [1.0, -2.0, 3.0];
        let right = matrix.map(|row: [f64; 3]| row[0] * x[0] + row[1] * x[1] + row[2] * x[2]);
        let found = solve(&matrix, right).unwrap();
        for (found, expected) in found.iter().zip(x) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(
            solve(&[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], x),
            None
        );
    }
}
