//! From an image file's pixels to a network's input, changed a little each time.
//!
//! In the order of the published recipes (reid-strong-baseline): resize as Pillow does, mirror, pad
//! with black and crop, colours, normalise, erase a rectangle. What chance decides is drawn first
//! ([`Draws`]), so that each change can be compared with torchvision's under the same numbers.

use image::{Rgb, RgbImage};
use mtmc_models::preprocess::{Filter, resize_pil};

use crate::random::SplitMix64;

/// Attempts at a rectangle that fits.
const ERASE_ATTEMPTS: usize = 100;

/// How images are brought to the network, and what is left to chance.
#[derive(Debug, Clone, PartialEq)]
pub struct Augment {
    /// Height of the network's input.
    pub height: u32,
    /// Width of it.
    pub width: u32,
    /// Filter of the resize.
    pub filter: Filter,
    /// Mean of red, green and blue in 0..=1, which normalising takes away.
    pub mean: [f32; 3],
    /// What it divides by then.
    pub std: [f32; 3],
    /// Chance of the mirror image, 0..=1.
    pub flip: f64,
    /// Black pixels put around the image before a crop of the old size is taken; 0 for none.
    pub pad: u32,
    /// Changes of colour.
    pub jitter: Option<Jitter>,
    /// Rectangles that are hidden.
    pub erase: Option<Erase>,
}

/// Changes of colour, as torchvision's `ColorJitter` makes them of a Pillow image: each factor is
/// uniform in 1 ± its strength (0..=1; 0 leaves colours as they are); in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter {
    /// Strength of the change of brightness.
    pub brightness: f32,
    /// Of contrast.
    pub contrast: f32,
    /// Of saturation.
    pub saturation: f32,
    /// Chance that an image is changed at all, 0..=1.
    pub chance: f64,
}

/// Random erasing (Zhong et al., AAAI 2020).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Erase {
    /// Chance that an image gets a rectangle, 0..=1.
    pub chance: f64,
    /// Least and greatest share of the area, uniform.
    pub area: [f64; 2],
    /// Least and greatest height over width.
    pub ratio: [f64; 2],
    /// Whether the ratio is uniform in its logarithm, so that tall is as likely as wide.
    pub log_ratio: bool,
    /// What takes the pixels' place.
    pub fill: Fill,
}

/// What erased pixels become, after normalising.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// One value a channel.
    Value([f32; 3]),
    /// Normal noise of mean 0 and deviation 1, a number for every pixel and channel.
    Noise,
}

impl Default for Erase {
    /// As reid-strong-baseline: half of the images, 2 to 40 % of the area, ratio 0.3 to 1 / 0.3. Its
    /// filling is `ImageNet`'s mean put in after normalising, a light grey; kept, for published
    /// results were made with it.
    fn default() -> Self {
        Self {
            chance: 0.5,
            area: [0.02, 0.4],
            ratio: [0.3, 1.0 / 0.3],
            log_ratio: false,
            fill: Fill::Value([0.485, 0.456, 0.406]),
        }
    }
}

impl Erase {
    /// As timm's `RandomErasing` in mode `pixel`, which CLIP-ReID uses: half of the images, 2 to 33 %
    /// of the area, ratio 0.3 to 1 / 0.3 by its logarithm, noise.
    pub fn timm() -> Self {
        Self {
            area: [0.02, 1.0 / 3.0],
            log_ratio: true,
            fill: Fill::Noise,
            ..Self::default()
        }
    }
}

/// What chance decided for one image.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Draws {
    /// Mirrored?
    pub flip: bool,
    /// Left and top edge of the crop in the padded image.
    pub crop: [u32; 2],
    /// Changes of colour.
    pub jitter: Option<JitterFactors>,
    /// What is hidden.
    pub erase: Option<Rect>,
    /// Seed of the noise that hides it, if noise does.
    pub noise: u64,
}

/// Factors of a change of colour; 1 changes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JitterFactors {
    /// 0 is black.
    pub brightness: f32,
    /// 0 is the image's mean grey.
    pub contrast: f32,
    /// 0 is grey.
    pub saturation: f32,
}

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Augment {
    /// Only what a network needs: 256×128, bilinear.
    pub fn none(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self {
            height: 256,
            width: 128,
            filter: Filter::Bilinear,
            mean,
            std,
            flip: 0.0,
            pad: 0,
            jitter: None,
            erase: None,
        }
    }

    /// The strong recipe's: mirror half, pad 10 and crop, erase.
    pub fn strong(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self {
            flip: 0.5,
            pad: 10,
            erase: Some(Erase::default()),
            ..Self::none(mean, std)
        }
    }

    /// Numbers of one image's input: 3 × height × width.
    pub fn len(&self) -> usize {
        3 * self.plane()
    }

    /// Whether the input has no pixels.
    pub fn is_empty(&self) -> bool {
        self.plane() == 0
    }

    fn plane(&self) -> usize {
        self.height as usize * self.width as usize
    }

    /// Draws what chance decides, from `seed` alone. What one setting draws does not depend on the
    /// others.
    pub fn draw(&self, seed: u64) -> Draws {
        let mut random = SplitMix64::from_state(seed);
        let flip = random.unit() < self.flip;
        let places = 2 * self.pad as usize + 1;
        let crop = [random.below(places) as u32, random.below(places) as u32];
        let erase = self.draw_rect(&mut SplitMix64::from_state(random.draw()));
        let noise = random.draw();
        let jitter = self.jitter.and_then(|jitter| jitter.draw(&mut random));
        Draws {
            flip,
            crop,
            jitter,
            erase,
            noise,
        }
    }

    fn draw_rect(&self, random: &mut SplitMix64) -> Option<Rect> {
        let erase = self.erase?;
        if random.unit() >= erase.chance {
            return None;
        }
        let between = |[least, most]: [f64; 2], unit: f64| least + (most - least) * unit;
        for _ in 0..ERASE_ATTEMPTS {
            let area = between(erase.area, random.unit()) * self.plane() as f64;
            let ratio = if erase.log_ratio {
                between(erase.ratio.map(f64::ln), random.unit()).exp()
            } else {
                between(erase.ratio, random.unit())
            };
            let height = (area * ratio).sqrt().round_ties_even() as u32;
            let width = (area / ratio).sqrt().round_ties_even() as u32;
            if width < self.width && height < self.height {
                return Some(Rect {
                    top: random.below((self.height - height + 1) as usize) as u32,
                    left: random.below((self.width - width + 1) as usize) as u32,
                    width,
                    height,
                });
            }
        }
        None
    }

    /// Writes the image's input into `planes` ([`Self::len`] numbers: red, green, blue). The image
    /// must have pixels.
    pub fn apply(&self, image: &RgbImage, draws: &Draws, planes: &mut [f32]) {
        let resized = resize_pil(image, self.width, self.height, self.filter);
        let mut placed = self.place(&resized, draws);
        if let Some(factors) = &draws.jitter {
            factors.apply(&mut placed);
        }
        self.normalise(&placed, planes);
        if let (Some(rect), Some(erase)) = (&draws.erase, &self.erase) {
            self.hide(rect, erase.fill, draws.noise, planes);
        }
    }

    /// Mirrors, pads and crops.
    fn place(&self, image: &RgbImage, draws: &Draws) -> RgbImage {
        let (width, height) = (i64::from(self.width), i64::from(self.height));
        let [left, top] = draws.crop.map(|edge| i64::from(edge) - i64::from(self.pad));
        RgbImage::from_fn(self.width, self.height, |x, y| {
            let (x, y) = (i64::from(x) + left, i64::from(y) + top);
            if x < 0 || y < 0 || x >= width || y >= height {
                return Rgb([0; 3]);
            }
            let x = if draws.flip { width - 1 - x } else { x };
            *image.get_pixel(x as u32, y as u32)
        })
    }

    /// Interleaved bytes to planes of `(value / 255 - mean) / std`, rounded in PyTorch's order.
    fn normalise(&self, image: &RgbImage, planes: &mut [f32]) {
        for (channel, plane) in planes.chunks_exact_mut(self.plane()).enumerate() {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let table: [f32; 256] = std::array::from_fn(|v| (v as f32 / 255.0 - mean) / std);
            let values = image.as_raw().iter().skip(channel).step_by(3);
            for (out, &value) in plane.iter_mut().zip(values) {
                *out = table[usize::from(value)];
            }
        }
    }

    fn hide(&self, rect: &Rect, fill: Fill, seed: u64, planes: &mut [f32]) {
        let mut random = SplitMix64::from_state(seed);
        let width = self.width as usize;
        let columns = rect.left as usize..(rect.left + rect.width) as usize;
        let rows = rect.top as usize..(rect.top + rect.height) as usize;
        for (channel, plane) in planes.chunks_exact_mut(self.plane()).enumerate() {
            for row in plane
                .chunks_exact_mut(width)
                .take(rows.end)
                .skip(rows.start)
            {
                for value in &mut row[columns.clone()] {
                    *value = match fill {
                        Fill::Value(values) => values[channel],
                        Fill::Noise => random.normal() as f32,
                    };
                }
            }
        }
    }
}

impl Jitter {
    fn draw(&self, random: &mut SplitMix64) -> Option<JitterFactors> {
        let changed = random.unit() < self.chance;
        let mut factor = |strength: f32| {
            let unit = random.unit() as f32;
            (1.0 + strength * (2.0 * unit - 1.0)).max(0.0)
        };
        let factors = JitterFactors {
            brightness: factor(self.brightness),
            contrast: factor(self.contrast),
            saturation: factor(self.saturation),
        };
        changed.then_some(factors)
    }
}

impl JitterFactors {
    fn apply(&self, image: &mut RgbImage) {
        blend_each(image, self.brightness, |_| 0);
        let mean = mean_grey(image);
        blend_each(image, self.contrast, |_| mean);
        blend_each(image, self.saturation, grey);
    }
}

/// Luma as Pillow computes it: ITU-R 601-2 in 16-bit fixed point.
fn grey(pixel: &Rgb<u8>) -> u8 {
    let [r, g, b] = pixel.0.map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// Mean luma, rounded half up as Pillow's `ImageEnhance.Contrast` does.
fn mean_grey(image: &RgbImage) -> u8 {
    let sum: u64 = image.pixels().map(|pixel| u64::from(grey(pixel))).sum();
    let count = image.pixels().len().max(1);
    (sum as f64 / count as f64 + 0.5) as u8
}

/// From what `base` says of a pixel (factor 0) to the pixel (factor 1) and beyond, cut off to bytes
/// as Pillow's `Image.blend` does.
fn blend_each(image: &mut RgbImage, factor: f32, base: impl Fn(&Rgb<u8>) -> u8) {
    if (factor - 1.0).abs() < f32::EPSILON {
        return;
    }
    for pixel in image.pixels_mut() {
        let base = f32::from(base(pixel));
        for value in &mut pixel.0 {
            let blended = base + factor * (f32::from(*value) - base);
            // A cast cuts off and saturates.
            *value = blended as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 × 2 pixels, red counting from 1 row by row, nothing normalised but the range.
    fn small() -> (Augment, RgbImage) {
        let image = RgbImage::from_fn(2, 4, |x, y| Rgb([(1 + x + 2 * y) as u8, 0, 0]));
        let augment = Augment {
            height: 4,
            width: 2,
            pad: 1,
            ..Augment::none([0.0; 3], [1.0 / 255.0; 3])
        };
        (augment, image)
    }

    fn red(augment: &Augment, image: &RgbImage, draws: &Draws) -> Vec<i32> {
        let mut planes = vec![0.0; augment.len()];
        augment.apply(image, draws, &mut planes);
        planes[..8]
            .iter()
            .map(|value| value.round() as i32)
            .collect()
    }

    // By hand.
    #[test]
    fn mirror_crop_and_erasing_are_where_they_should_be() {
        let (mut augment, image) = small();
        let middle = Draws {
            crop: [1, 1],
            ..Draws::default()
        };
        assert_eq!(red(&augment, &image, &middle), [1, 2, 3, 4, 5, 6, 7, 8]);
        let mirrored = Draws {
            flip: true,
            ..middle
        };
        assert_eq!(red(&augment, &image, &mirrored), [2, 1, 4, 3, 6, 5, 8, 7]);
        // The padded image's corner: a row and a column of black.
        let corner = Draws::default();
        assert_eq!(red(&augment, &image, &corner), [0, 0, 0, 1, 0, 3, 0, 5]);
        let corner = Draws {
            crop: [2, 2],
            ..mirrored
        };
        assert_eq!(red(&augment, &image, &corner), [3, 0, 5, 0, 7, 0, 0, 0]);
        augment.erase = Some(Erase {
            fill: Fill::Value([9.0, 0.0, 0.0]),
            ..Erase::default()
        });
        let hidden = Draws {
            erase: Some(Rect {
                left: 1,
                top: 1,
                width: 1,
                height: 2,
            }),
            ..middle
        };
        assert_eq!(red(&augment, &image, &hidden), [1, 2, 3, 9, 5, 9, 7, 8]);
    }

    #[test]
    fn what_is_drawn_lies_within_its_bounds_and_is_spread() {
        let mut augment = Augment::strong([0.0; 3], [1.0; 3]);
        augment.jitter = Some(Jitter {
            brightness: 0.2,
            contrast: 0.1,
            saturation: 0.0,
            chance: 1.0,
        });
        let (mut flips, mut erased, mut area) = (0, 0, 0.0);
        let mut crops = [[u32::MAX, 0]; 2];
        for seed in 0..4000 {
            let draws = augment.draw(seed);
            assert_eq!(draws, augment.draw(seed));
            flips += u32::from(draws.flip);
            for (seen, edge) in crops.iter_mut().zip(draws.crop) {
                *seen = [seen[0].min(edge), seen[1].max(edge)];
            }
            let factors = draws.jitter.unwrap();
            assert!((0.8..=1.2).contains(&factors.brightness));
            assert!((factors.saturation - 1.0).abs() < 1e-6);
            if let Some(rect) = draws.erase {
                assert!(rect.left + rect.width <= 128 && rect.top + rect.height <= 256);
                erased += 1;
                area += f64::from(rect.width * rect.height) / (128.0 * 256.0);
            }
        }
        // Binomial, n = 4000, p = 0.5: five deviations are 158.
        assert!((1842..=2158).contains(&flips), "{flips}");
        assert!((1842..=2158).contains(&erased), "{erased}");
        assert_eq!(crops, [[0, 20], [0, 20]]);
        // Uniform in 0.02..0.4, less what does not fit: a little below 0.21.
        let mean = area / f64::from(erased);
        assert!((0.17..0.215).contains(&mean), "{mean}");
    }

    // timm's, on a square: at most a third of the area, and by its logarithm tall as often as wide;
    // uniform ratios in 0.3..3.33 would be wide, below 1, in less than a quarter of all cases.
    #[test]
    fn timms_rectangles_are_tall_as_often_as_wide() {
        let augment = Augment {
            height: 128,
            erase: Some(Erase::timm()),
            ..Augment::none([0.5; 3], [0.5; 3])
        };
        let (mut erased, mut wide) = (0_u32, 0);
        for seed in 0..4000 {
            let Some(rect) = augment.draw(seed).erase else {
                continue;
            };
            erased += 1;
            wide += u32::from(rect.width > rect.height);
            // Sides are rounded.
            let most = (128.0 * 128.0 / 3.0_f64).sqrt() + 1.0;
            assert!(
                f64::from(rect.width * rect.height).sqrt() < most,
                "{rect:?}"
            );
        }
        assert!((1842..=2158).contains(&erased), "{erased}");
        let share = f64::from(wide) / f64::from(erased);
        assert!((0.42..0.56).contains(&share), "{share}");
    }

    // Luma by ITU-R 601-2: 0.299 · 100 + 0.587 · 150 + 0.114 · 200 = 140.75.
    #[test]
    fn grey_is_rounded_luma() {
        assert_eq!(grey(&Rgb([100, 150, 200])), 141);
        let mut image = RgbImage::from_pixel(1, 1, Rgb([100, 150, 250]));
        blend_each(&mut image, 1.2, |_| 0);
        assert_eq!(image.get_pixel(0, 0).0, [120, 180, 255]);
    }
}
