//! The losses of a batch, and figures of steps and epochs.

use candle_core::{Result, Tensor};

use super::Output;
use crate::train::config::LossConfig;
use crate::train::loss;
use crate::train::watch::{Epoch, Step};

/// The losses of a batch, weighted.
pub(super) struct Losses {
    parts: Vec<(&'static str, Tensor)>,
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

/// The losses that `config` asks for.
pub(super) fn losses(
    config: &LossConfig,
    output: &Output,
    labels: &[u32],
    centres: Option<&candle_core::Var>,
) -> Result<Losses> {
    let classes = Tensor::from_slice(labels, labels.len(), output.logits.device())?;
    let mut parts = Vec::new();
    if config.id > 0.0 {
        let loss = loss::cross_entropy(&output.logits, &classes, config.smoothing)?;
        parts.push(("id", (loss * config.id)?));
    }
    if config.triplet > 0.0 {
        let loss = loss::triplet(&output.metric, labels, config.margin, config.distance)?;
        parts.push(("triplet", (loss * config.triplet)?));
    }
    if let Some(centres) = centres {
        let loss = loss::centre(&output.metric, &classes, centres)?;
        parts.push(("centre", (loss * config.centre)?));
    }
    let mut total: Option<Tensor> = None;
    for (_, part) in &parts {
        total = Some(match total {
            Some(total) => (total + part)?,
            None => part.clone(),
        });
    }
    let Some(total) = total else {
        candle_core::bail!("no loss has a weight above 0");
    };
    Ok(Losses {
        parts,
        total,
        accuracy: loss::accuracy(&output.logits, &classes)?,
    })
}

impl Losses {
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
