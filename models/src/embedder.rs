//! The seam between the networks that recognise people and everything behind them.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::{BBox, Result};

/// One person in a frame.
#[derive(Debug, Clone, Copy)]
pub struct Crop<'a> {
    /// The whole frame.
    pub image: &'a RgbImage,
    /// Where the person is, in pixels of the frame; it may reach beyond its edges.
    pub bbox: BBox,
}

impl<'a> Crop<'a> {
    /// An image that is a crop already, as the data sets of re-identification hold them.
    pub fn whole(image: &'a RgbImage) -> Self {
        let bbox = BBox::from_xyxy(0.0, 0.0, image.width() as f32, image.height() as f32);
        Self { image, bbox }
    }
}

/// Why no vector can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// Nothing is left of the box inside the frame.
    #[error("the box has no pixels inside the frame")]
    EmptyCrop,
    /// The vector holds NaN or infinity.
    #[error("the feature vector holds NaN or infinity")]
    NotFinite,
    /// The vector has no direction.
    #[error("the feature vector is zero")]
    Zero,
}

/// How a person looks: a finite vector of length 1 (L2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f32>", into = "Vec<f32>")]
pub struct Embedding(Vec<f32>);

impl Embedding {
    /// Brings `vector` to length 1.
    ///
    /// # Errors
    /// [`EmbedError::NotFinite`] or [`EmbedError::Zero`].
    pub fn new(mut vector: Vec<f32>) -> Result<Self, EmbedError> {
        // In f64, so that neither large nor small vectors overflow or vanish when squared.
        let squares: f64 = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        if !squares.is_finite() {
            return Err(EmbedError::NotFinite);
        }
        if squares == 0.0 {
            return Err(EmbedError::Zero);
        }
        let scale = 1.0 / squares.sqrt();
        for value in &mut vector {
            *value = (f64::from(*value) * scale) as f32;
        }
        Ok(Self(vector))
    }

    /// The numbers.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// How many numbers there are.
    pub fn dim(&self) -> usize {
        self.0.len()
    }

    /// Cosine similarity, -1..=1.
    ///
    /// # Panics
    /// If the two are not of one size: vectors of different networks.
    pub fn cosine(&self, other: &Self) -> f32 {
        assert_eq!(self.dim(), other.dim(), "vectors of different networks");
        dot(&self.0, &other.0)
    }
}

/// Scalar product in sixteen sums, which the compiler puts side by side: with one sum every
/// addition would wait for the one before. What one is longer by does not count.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

impl TryFrom<Vec<f32>> for Embedding {
    type Error = EmbedError;

    fn try_from(vector: Vec<f32>) -> Result<Self, EmbedError> {
        Self::new(vector)
    }
}

impl From<Embedding> for Vec<f32> {
    fn from(embedding: Embedding) -> Self {
        embedding.0
    }
}

/// A network that tells people apart: a batch of crops in, one vector a crop out.
///
/// Crops of one batch may come from frames of different cameras and sizes. A batch gives what its
/// crops give one by one, up to rounding.
pub trait Embedder: Send + Sync {
    /// Embeds every crop; one that cannot be embedded gets its reason and costs the others
    /// nothing.
    ///
    /// # Errors
    /// A failure of the device.
    fn embed(&self, crops: &[Crop<'_>]) -> Result<Vec<Result<Embedding, EmbedError>>>;

    /// Length of the vectors.
    fn dim(&self) -> usize;

    /// Height and width that crops are brought to, in pixels.
    fn input_size(&self) -> (usize, usize);
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: 3-4-5.
    #[test]
    fn vectors_get_length_one_or_an_error() {
        for scale in [1.0_f32, 1e30, 1e-30] {
            let embedding = Embedding::new(vec![3.0 * scale, 4.0 * scale]).unwrap();
            assert!(
                (embedding.as_slice()[0] - 0.6).abs() < 1e-6,
                "{embedding:?}"
            );
            assert!(
                (embedding.as_slice()[1] - 0.8).abs() < 1e-6,
                "{embedding:?}"
            );
        }
        assert_eq!(Embedding::new(vec![0.0; 4]), Err(EmbedError::Zero));
        assert_eq!(
            Embedding::new(vec![1.0, f32::NAN]),
            Err(EmbedError::NotFinite)
        );
        assert!(serde_json::from_str::<Embedding>("[0.0, 0.0]").is_err());
    }

    // By hand: 0 + 1 + … + 36; two whole strands and a rest.
    #[test]
    fn scalar_products_take_the_rest_too() {
        let one: Vec<f32> = (0..37).map(|v| v as f32).collect();
        assert_eq!(dot(&one, &[1.0; 37]), 666.0);
    }
}
