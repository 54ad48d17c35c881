//! A picture of floats that shapes are painted on, without anti-aliasing: it is drawn larger
//! and averaged down.

use image::{Rgb, RgbImage};

/// Red, green and blue in 0..=1.
pub(super) type Colour = [f32; 3];

/// A point: x to the right, y downwards, in pixels.
pub(super) type Point = [f32; 2];

#[derive(Debug, Clone)]
pub(super) struct Canvas {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Vec<Colour>,
}

/// A limb or a body: a segment that is `radii` thick at its ends, and round there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capsule {
    pub(super) from: Point,
    pub(super) to: Point,
    pub(super) radii: [f32; 2],
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            pixels: vec![[0.0; 3]; width * height],
        }
    }

    /// Paints every pixel for whose middle `paint` has a colour, within the box `from..to`.
    pub(super) fn fill(
        &mut self,
        from: Point,
        to: Point,
        paint: impl Fn(f32, f32) -> Option<Colour>,
    ) {
        let clip = |value: f32, limit: usize| value.clamp(0.0, limit as f32) as usize;
        let columns = clip(from[0].floor(), self.width)..clip(to[0].ceil(), self.width);
        for y in clip(from[1].floor(), self.height)..clip(to[1].ceil(), self.height) {
            for x in columns.clone() {
                if let Some(colour) = paint(x as f32 + 0.5, y as f32 + 0.5) {
                    self.pixels[y * self.width + x] = colour;
                }
            }
        }
    }

    /// Paints a capsule; `paint` gets the place across (-1..=1) and along it (0..=1).
    pub(super) fn capsule(&mut self, shape: &Capsule, paint: impl Fn(f32, f32) -> Colour) {
        let Capsule { from, to, radii } = *shape;
        let reach = radii[0].max(radii[1]);
        let axis = [to[0] - from[0], to[1] - from[1]];
        let squared = (axis[0] * axis[0] + axis[1] * axis[1]).max(1e-6);
        let length = squared.sqrt();
        let least = [from[0].min(to[0]) - reach, from[1].min(to[1]) - reach];
        let most = [from[0].max(to[0]) + reach, from[1].max(to[1]) + reach];
        self.fill(least, most, |x, y| {
            let (dx, dy) = (x - from[0], y - from[1]);
            let along = ((dx * axis[0] + dy * axis[1]) / squared).clamp(0.0, 1.0);
            let (ox, oy) = (dx - along * axis[0], dy - along * axis[1]);
            let radius = radii[0] + (radii[1] - radii[0]) * along;
            if ox * ox + oy * oy > radius * radius {
                return None;
            }
            let across = (dx * axis[1] - dy * axis[0]) / (length * radius);
            Some(paint(across.clamp(-1.0, 1.0), along))
        });
    }

    pub(super) fn ellipse(
        &mut self,
        middle: Point,
        radii: Point,
        paint: impl Fn(f32, f32) -> Colour,
    ) {
        let least = [middle[0] - radii[0], middle[1] - radii[1]];
        let most = [middle[0] + radii[0], middle[1] + radii[1]];
        self.fill(least, most, |x, y| {
            let u = (x - middle[0]) / radii[0];
            let v = (y - middle[1]) / radii[1];
            (u * u + v * v <= 1.0).then(|| paint(u, v))
        });
    }

    /// Makes what is in an ellipse darker.
    pub(super) fn shade(&mut self, middle: Point, radii: Point, factor: f32) {
        for y in 0..self.height {
            for x in 0..self.width {
                let u = (x as f32 + 0.5 - middle[0]) / radii[0];
                let v = (y as f32 + 0.5 - middle[1]) / radii[1];
                if u * u + v * v <= 1.0 {
                    let pixel = &mut self.pixels[y * self.width + x];
                    *pixel = scaled(*pixel, factor);
                }
            }
        }
    }

    /// Averages `factor` × `factor` pixels.
    pub(super) fn reduced(&self, factor: usize) -> Self {
        let mut small = Self::new(self.width / factor, self.height / factor);
        let share = 1.0 / (factor * factor) as f32;
        for y in 0..small.height * factor {
            for x in 0..small.width * factor {
                let target = &mut small.pixels[y / factor * small.width + x / factor];
                for (sum, value) in target.iter_mut().zip(self.pixels[y * self.width + x]) {
                    *sum += value * share;
                }
            }
        }
        small
    }

    /// Blurs with a Gaussian of deviation `sigma`, in pixels.
    pub(super) fn blur(&mut self, sigma: f32) {
        if sigma < 0.2 {
            return;
        }
        let reach = (2.5 * sigma).ceil() as isize;
        let mut weights: Vec<f32> = (-reach..=reach)
            .map(|offset| (-0.5 * (offset as f32 / sigma).powi(2)).exp())
            .collect();
        let sum: f32 = weights.iter().sum();
        for weight in &mut weights {
            *weight /= sum;
        }
        self.convolve(&weights, reach, [1, 0]);
        self.convolve(&weights, reach, [0, 1]);
    }

    fn convolve(&mut self, weights: &[f32], reach: isize, step: [isize; 2]) {
        let (width, height) = (self.width as isize, self.height as isize);
        let mut blurred = vec![[0.0; 3]; self.pixels.len()];
        for y in 0..height {
            for x in 0..width {
                let target = &mut blurred[(y * width + x) as usize];
                for (weight, offset) in weights.iter().zip(-reach..) {
                    let from_x = (x + offset * step[0]).clamp(0, width - 1);
                    let from_y = (y + offset * step[1]).clamp(0, height - 1);
                    let source = self.pixels[(from_y * width + from_x) as usize];
                    for (sum, value) in target.iter_mut().zip(source) {
                        *sum += weight * value;
                    }
                }
            }
        }
        self.pixels = blurred;
    }

    pub(super) fn to_image(&self) -> RgbImage {
        RgbImage::from_fn(self.width as u32, self.height as u32, |x, y| {
            let pixel = self.pixels[y as usize * self.width + x as usize];
            Rgb(pixel.map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8))
        })
    }
}

/// `a` and so much (0..=1) of `b`.
pub(super) fn mix(a: Colour, b: Colour, share: f32) -> Colour {
    std::array::from_fn(|c| a[c] + (b[c] - a[c]) * share)
}

/// A colour lightened or darkened.
pub(super) fn scaled(colour: Colour, factor: f32) -> Colour {
    colour.map(|value| value * factor)
}
