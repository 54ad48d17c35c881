//! The losses of a batch, and figures of steps and epochs.

use candle_core::{Result, Tensor};

use super::Output;
use crate::train::config::LossConfig;
use crate::train::loss;
use crate::train::watch::{Epoch, Step};

/// The losses of a batch, weighted.
pub struct Losses {
    /// Each by its name.
    pub parts: Vec<(&'static str, Tensor)>,
    /// Their sum.
    pub total: Tensor,
    accuracy: f64,
}

/// Figures of a batch, or sums over several.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    losses: Vec<(String, f64)>,
    accuracy: f64,
    images: usize,
    batches: usize,
}

/// The losses that `config` asks for, of what a network gave for images of people `labels`.
///
/// # Errors
/// The shapes do not fit, a label is no class, or no loss has a weight.
pub fn losses(
    config: &LossConfig,
    output: &Output,
    labels: &[u32],
    centres: Option<&candle_core::Var>,
) -> Result<Losses> {
    let (Some(first), Some(logits)) = (output.metrics.first(), output.logits.first()) else {
        candle_core::bail!("a network without features");
    };
    let classes = Tensor::from_slice(labels, labels.len(), logits.device())?;
    let mut parts = Vec::new();
    if config.id > 0.0 {
        let one = |logits: &Tensor| loss::cross_entropy(logits, &classes, config.smoothing);
        let loss = sum_of(output.logits.iter().map(one))?;
        parts.push(("id", (loss * config.id)?));
    }
    if config.triplet > 0.0 {
        let one = |x: &Tensor| loss::triplet(x, labels, config.margin, config.distance);
        let loss = sum_of(output.metrics.iter().map(one))?;
        parts.push(("triplet", (loss * config.triplet)?));
    }
    if let Some(texts) = output.texts.as_ref().filter(|_| config.i2t > 0.0) {
        let loss = loss::cross_entropy(texts, &classes, config.smoothing)?;
        parts.push(("i2t", (loss * config.i2t)?));
    }
    if let Some(centres) = centres {
        let loss = loss::centre(first, &classes, centres)?;
        parts.push(("centre", (loss * config.centre)?));
    }
    let accuracy = loss::accuracy(output.texts.as_ref().unwrap_or(logits), &classes)?;
    Losses::of(parts, accuracy)
}

/// The sum of numbers, of which there is at least one.
fn sum_of(parts: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for part in parts {
        total = Some(match total {
            Some(total) => (total + part?)?,
            None => part?,
        });
    }
    total.ok_or_else(|| candle_core::Error::msg("no loss has a weight above 0"))
}

impl Losses {
    /// Losses by name; `accuracy`: share of images for which the right person is the likeliest.
    pub(super) fn of(parts: Vec<(&'static str, Tensor)>, accuracy: f64) -> Result<Self> {
        let total = sum_of(parts.iter().map(|(_, part)| Ok(part.clone())))?;
        Ok(Self {
            parts,
            total,
            accuracy,
        })
    }

    pub(super) fn figures(&self, images: usize) -> Result<Figures> {
        let mut losses = Vec::new();
        for (name, part) in &self.parts {
            losses.push(((*name).to_string(), f64::from(part.to_scalar::<f32>()?)));
        }
        let total = f64::from(self.total.to_scalar::<f32>()?);
        losses.push(("total".to_string(), total));
        Ok(Figures {
            losses,
            accuracy: self.accuracy,
            images,
            batches: 1,
        })
    }
}

impl Figures {
    /// The first loss that is NaN or infinite.
    pub(super) fn not_finite(&self) -> Option<(String, f64)> {
        let found = self.losses.iter().find(|(_, value)| !value.is_finite());
        found.cloned()
    }

    pub(super) fn add(&mut self, other: &Self) {
        if self.losses.is_empty() {
            *self = other.clone();
            return;
        }
        for ((_, sum), (_, value)) in self.losses.iter_mut().zip(&other.losses) {
            *sum += value;
        }
        self.accuracy += other.accuracy;
        self.images += other.images;
        self.batches += other.batches;
    }

    /// Means over the batches; all images count.
    pub(super) fn mean(mut self) -> Self {
        let batches = self.batches.max(1) as f64;
        for (_, sum) in &mut self.losses {
            *sum /= batches;
        }
        self.accuracy /= batches;
        self.batches = 1;
        self
    }

    pub(super) fn step(&self, epoch: u32, step: u64, rate: f64, seconds: f64) -> Step {
        Step {
            epoch: u64::from(epoch),
            step,
            losses: self.losses.clone(),
            accuracy: self.accuracy,
            lr: rate,
            images_per_second: self.images as f64 / seconds.max(1e-9),
        }
    }
}

/// Sums over an epoch's steps.
#[derive(Debug, Default)]
pub(super) struct Sums(Figures);

impl Sums {
    pub(super) fn add(&mut self, figures: &Figures) {
        self.0.add(figures);
    }

    pub(super) fn epoch(self, epoch: u32, step: u64, rate: f64, seconds: f64) -> Epoch {
        let means = self.0.mean();
        Epoch {
            epoch: u64::from(epoch),
            step,
            losses: means.losses,
            accuracy: means.accuracy,
            lr: rate,
            images_per_second: means.images as f64 / seconds.max(1e-9),
            seconds,
            rank1: None,
            map: None,
        }
    }
}
