//! Pictures of a data set: their colours' mean and spread, JPEG files.

use std::path::Path;

use image::RgbImage;
use jpeg_encoder::{ColorType, Encoder};
use serde::Serialize;

use super::DataError;

/// Reads an image file, or says what is wrong with it. Decoding is the caller's: this crate has no
/// decoder of its own.
pub type Decode<'a> = &'a (dyn Fn(&Path) -> Result<RgbImage, String> + Sync);

/// JPEG quality of written images, of 100: compression must not become what a network learns.
const QUALITY: u8 = 95;

/// Sums over pixels: exact, so that they do not depend on any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PixelSums {
    pixels: u64,
    sums: [u64; 3],
    squares: [u64; 3],
}

/// Mean and standard deviation of red, green and blue over all pixels, in 0..=1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Normalisation {
    /// Mean of each channel.
    pub mean: [f64; 3],
    /// Standard deviation of each channel (of all pixels, not of images' means).
    pub std: [f64; 3],
}

impl PixelSums {
    /// Of one image.
    pub fn of(image: &RgbImage) -> Self {
        let mut all = Self {
            pixels: u64::from(image.width()) * u64::from(image.height()),
            ..Self::default()
        };
        for pixel in image.pixels() {
            for (channel, &value) in pixel.0.iter().enumerate() {
                let value = u64::from(value);
                all.sums[channel] += value;
                all.squares[channel] += value * value;
            }
        }
        all
    }

    /// Adds another image's sums.
    pub fn add(&mut self, other: &Self) {
        self.pixels += other.pixels;
        for channel in 0..3 {
            self.sums[channel] += other.sums[channel];
            self.squares[channel] += other.squares[channel];
        }
    }

    /// Mean and standard deviation; `None` without pixels.
    pub fn normalisation(&self) -> Option<Normalisation> {
        if self.pixels == 0 {
            return None;
        }
        let count = self.pixels as f64;
        let mean = self.sums.map(|sum| sum as f64 / count);
        let mut std = [0.0; 3];
        for channel in 0..3 {
            let variance = self.squares[channel] as f64 / count - mean[channel] * mean[channel];
            std[channel] = variance.max(0.0).sqrt() / 255.0;
        }
        Some(Normalisation {
            mean: mean.map(|value| value / 255.0),
            std,
        })
    }
}

/// Writes `image` as JPEG of quality 95.
///
/// # Errors
/// The file cannot be written; a side is 0 or above 65535.
pub fn write_jpeg(path: &Path, image: &RgbImage) -> Result<(), DataError> {
    let (Ok(width), Ok(height)) = (image.width().try_into(), image.height().try_into()) else {
        return Err(DataError::file(
            path,
            "a JPEG has at most 65535 pixels a side",
        ));
    };
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, QUALITY)
        .encode(image, width, height, ColorType::Rgb)
        .map_err(|error| DataError::file(path, error.to_string()))?;
    std::fs::write(path, bytes).map_err(DataError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: red 0 and 255, green 51 = 0.2 throughout, blue 0, 0, 255, 255.
    #[test]
    fn mean_and_spread_are_those_of_all_pixels() {
        let black = RgbImage::from_pixel(2, 1, image::Rgb([0, 51, 0]));
        let mut other = RgbImage::from_pixel(1, 2, image::Rgb([255, 51, 255]));
        let mut sums = PixelSums::of(&black);
        sums.add(&PixelSums::of(&other));
        let found = sums.normalisation().unwrap();
        assert_eq!(found.mean, [0.5, 0.2, 0.5]);
        assert!((found.std[0] - 0.5).abs() < 1e-12, "{found:?}");
        assert!(found.std[1].abs() < 1e-6, "{found:?}");

        other.put_pixel(0, 0, image::Rgb([0, 51, 255]));
        let mut swapped = PixelSums::of(&other);
        swapped.add(&PixelSums::of(&black));
        // Red 0, 0, 0, 255: mean 1/4, variance 3/16.
        let found = swapped.normalisation().unwrap();
        assert!((found.mean[0] - 0.25).abs() < 1e-12, "{found:?}");
        assert!(
            (found.std[0] - (3.0_f64 / 16.0).sqrt()).abs() < 1e-12,
            "{found:?}"
        );
        assert_eq!(PixelSums::default().normalisation(), None);
    }
}
