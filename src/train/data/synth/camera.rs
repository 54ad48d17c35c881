//! What a camera does to what it sees: place, light, colours, focus, noise.

use image::RgbImage;

use super::canvas::{Canvas, Colour, mix, scaled};
use crate::random::SplitMix64;

/// One camera of a data set.
#[derive(Debug, Clone)]
pub(super) struct Camera {
    /// Gain of red, green and blue: the white balance.
    cast: Colour,
    brightness: f32,
    contrast: f32,
    /// Deviation of the blur, in pixels of the finished picture.
    blur: f32,
    noise: f32,
    wall: Colour,
    ground: Colour,
    /// Where the ground begins, 0 at the top.
    horizon: f32,
    /// Distance of joints in wall and ground, of the picture's width.
    joints: f32,
}

impl Camera {
    pub(super) fn new(random: &mut SplitMix64) -> Self {
        let mut between = |least: f32, most: f32| least + (most - least) * random.unit() as f32;
        let warm = between(-0.13, 0.13);
        let green = between(-0.05, 0.05);
        let mut surface = |darkest: f32| {
            let light = between(darkest, 0.8);
            [
                light * between(0.9, 1.1),
                light * between(0.9, 1.1),
                light * between(0.85, 1.1),
            ]
        };
        let (wall, ground) = (surface(0.25), surface(0.3));
        Self {
            cast: [1.0 + warm, 1.0 + green, 1.0 - warm],
            brightness: between(0.75, 1.2),
            contrast: between(0.75, 1.1),
            blur: between(0.3, 1.0),
            noise: between(0.01, 0.035),
            wall,
            ground,
            horizon: between(0.2, 0.6),
            joints: between(0.3, 0.9),
        }
    }

    /// What is behind the person, somewhere else each time.
    pub(super) fn background(
        &self,
        width: usize,
        height: usize,
        random: &mut SplitMix64,
    ) -> Canvas {
        let mut canvas = Canvas::new(width, height);
        let (w, h) = (width as f32, height as f32);
        let shift = w * random.unit() as f32;
        let horizon = h * (self.horizon + 0.1 * (random.unit() as f32 - 0.5));
        let light = 0.85 + 0.3 * random.unit() as f32;
        let spacing = self.joints * w;
        canvas.fill([0.0, 0.0], [w, h], |x, y| {
            let is_wall = y < horizon;
            let surface = if is_wall { self.wall } else { self.ground };
            // Joints stand upright in the wall and run away from us on the ground.
            let across = if is_wall {
                x
            } else {
                x + (x - w / 2.0) * (y - horizon) / h
            };
            let is_joint = (across + shift).rem_euclid(spacing) < 0.03 * w;
            let shade = light * (0.9 + 0.2 * y / h);
            Some(scaled(surface, if is_joint { 0.8 * shade } else { shade }))
        });
        if random.unit() < 0.3 {
            self.post(&mut canvas, random);
        }
        canvas
    }

    /// Something upright behind the person: a post, a door.
    fn post(&self, canvas: &mut Canvas, random: &mut SplitMix64) {
        let (w, h) = (canvas.width as f32, canvas.height as f32);
        let left = w * random.unit() as f32;
        let right = left + w * (0.05 + 0.2 * random.unit() as f32);
        let colour = mix(self.wall, [random.unit() as f32; 3], 0.5);
        canvas.fill([left, 0.0], [right, h * 0.8], |_, _| Some(colour));
    }

    /// Something before the person: the lower or a side part is hidden.
    pub(super) fn occlude(&self, canvas: &mut Canvas, random: &mut SplitMix64) {
        let (w, h) = (canvas.width as f32, canvas.height as f32);
        let colour = mix(self.ground, [0.2, 0.25, 0.2], random.unit() as f32);
        let size = 0.1 + 0.2 * random.unit() as f32;
        let (from, to) = match random.below(3) {
            0 => ([0.0, h * (1.0 - size)], [w, h]),
            1 => ([0.0, 0.0], [w * size, h]),
            _ => ([w * (1.0 - size), 0.0], [w, h]),
        };
        canvas.fill(from, to, |_, _| Some(colour));
    }

    /// The picture that the camera takes: blurred, coloured, noisy.
    pub(super) fn expose(&self, canvas: &mut Canvas, random: &mut SplitMix64) -> RgbImage {
        canvas.blur(self.blur * (0.8 + 0.6 * random.unit() as f32));
        let gain = self.brightness * (0.9 + 0.2 * random.unit() as f32);
        for pixel in &mut canvas.pixels {
            for (value, cast) in pixel.iter_mut().zip(self.cast) {
                let lit = 0.5 + (*value * gain * cast - 0.5) * self.contrast;
                // Two uniform numbers' difference is near enough to normal, and cheap.
                let noise = random.unit() as f32 - random.unit() as f32;
                *value = lit + 2.4 * self.noise * noise;
            }
        }
        canvas.to_image()
    }
}
