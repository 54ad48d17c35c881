//! How a track looked so far, and how far a detection's looks are from that.

use mtmc_models::{Embedding, dot};
use serde::{Deserialize, Serialize};

use super::super::AppearanceCounts;

/// How appearance takes part in matching: BoT-SORT, section 3.3.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct AppearanceRules {
    /// Boxes farther apart (1 - IoU) are not compared by their looks.
    pub proximity_limit: f64,
    /// Looks farther apart than this (half the cosine distance) say nothing.
    pub appearance_limit: f64,
    /// Share of the old vector that stays when a track is seen again.
    pub keep: f64,
}

/// A track's looks: a running mean of its embeddings, of length 1.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Looks {
    /// Empty before the first embedding.
    mean: Vec<f32>,
    pub counts: AppearanceCounts,
}

impl Looks {
    /// Length of the vector; `None` before the first embedding.
    pub fn dim(&self) -> Option<usize> {
        (!self.mean.is_empty()).then_some(self.mean.len())
    }

    /// As before the first embedding; what was counted stays.
    pub fn forget(&mut self) {
        self.mean = Vec::new();
    }

    /// Takes an embedding in: `keep` of the old mean and the rest of it, brought to length 1.
    pub fn take(&mut self, embedding: &Embedding, keep: f64) {
        self.counts.embeddings += 1;
        let new = embedding.as_slice();
        if self.mean.len() != new.len() {
            self.mean.clear();
            self.mean.extend_from_slice(new);
            return;
        }
        // In f32 throughout, as NumPy does with an encoder's output.
        let (old_share, new_share) = (keep as f32, (1.0 - keep) as f32);
        for (mean, value) in self.mean.iter_mut().zip(new) {
            *mean = old_share * *mean + new_share * value;
        }
        let length = dot(&self.mean, &self.mean).sqrt();
        if length > 0.0 {
            for mean in &mut self.mean {
                *mean /= length;
            }
        } else {
            // Two opposite vectors, half and half: only the new one tells anything.
            self.mean.copy_from_slice(new);
        }
    }

    /// Half the cosine distance, 0..=1; `None` if there is nothing to compare.
    pub fn distance(&self, embedding: &Embedding) -> Option<f64> {
        if self.mean.is_empty() || self.mean.len() != embedding.dim() {
            return None;
        }
        let similarity = f64::from(dot(&self.mean, embedding.as_slice()));
        Some((1.0 - similarity).max(0.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(vector: &[f32]) -> Embedding {
        Embedding::new(vector.to_vec()).unwrap()
    }

    /// By hand: 0.9·(1, 0) + 0.1·(0, 1), of length sqrt(0.82).
    #[test]
    fn the_mean_moves_slowly_and_keeps_its_length() {
        let mut looks = Looks::default();
        assert_eq!(looks.distance(&embedding(&[1.0, 0.0])), None);
        looks.take(&embedding(&[1.0, 0.0]), 0.9);
        assert_eq!(looks.distance(&embedding(&[0.0, 3.0])), Some(0.5));
        assert_eq!(looks.distance(&embedding(&[-1.0, 0.0])), Some(1.0));
        looks.take(&embedding(&[0.0, 2.0]), 0.9);
        let expected = [0.9 / 0.82_f32.sqrt(), 0.1 / 0.82_f32.sqrt()];
        for (found, expected) in looks.mean.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{looks:?}");
        }
        assert_eq!(looks.counts.embeddings, 2);
    }

    #[test]
    fn opposite_vectors_leave_the_new_one() {
        let mut looks = Looks::default();
        looks.take(&embedding(&[1.0, 0.0]), 0.5);
        looks.take(&embedding(&[-1.0, 0.0]), 0.5);
        assert_eq!(looks.mean, [-1.0, 0.0]);
    }

    #[test]
    fn vectors_of_another_size_are_not_compared() {
        let mut looks = Looks::default();
        looks.take(&embedding(&[1.0, 0.0]), 0.9);
        assert_eq!(looks.distance(&embedding(&[1.0, 0.0, 0.0])), None);
    }

    /// Sizes with and without a rest, against a plain sum in f64.
    #[test]
    fn lanes_sum_what_a_plain_loop_sums() {
        for size in [1, 15, 16, 33, 512] {
            let a: Vec<f32> = (0..size).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..size).map(|i| (i as f32 * 0.11).cos()).collect();
            let pairs = a.iter().zip(&b);
            let plain: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(dot(&a, &b)) - plain).abs() < 1e-4, "{size}");
        }
    }
}
