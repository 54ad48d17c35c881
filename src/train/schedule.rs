//! How fast to learn, epoch by epoch.
//!
//! A rate is a function of the epoch alone, so a run that goes on needs no state of its schedule.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The rate over the epochs: the base rate times the warm-up's factor times the decay's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Rate that decays and warm-ups are relative to.
    pub base: f64,
    /// How the first epochs differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// How the rate falls.
    pub decay: Decay,
    /// Number of the first epoch: 1 where the schedule of an original is moved on before an epoch,
    /// not after it.
    #[serde(default)]
    pub first: u32,
}

/// Smaller rates at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// How the factor becomes 1.
    pub kind: WarmupKind,
    /// Epochs before it is 1.
    pub epochs: u32,
    /// What the rate is multiplied by in epoch 0.
    pub factor: f64,
}

/// How a warm-up's factor becomes 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmupKind {
    /// A little more in every epoch.
    Linear,
    /// At once, after the last epoch of the warm-up.
    Constant,
    /// A little more in every epoch up to the base rate, while nothing decays (timm's).
    LinearAlone,
}

/// How the rate falls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decay {
    /// Not at all.
    Constant,
    /// Times `gamma` at each of the `milestones`.
    MultiStep {
        /// Epochs, ascending.
        milestones: Vec<u32>,
        /// Factor at each.
        gamma: f64,
    },
    /// Times `gamma` every `every` epochs.
    Step {
        /// Epochs between two steps.
        every: u32,
        /// Factor at each.
        gamma: f64,
    },
    /// Down to `lowest` along half a cosine (Loshchilov and Hutter, 2017), and there it stays.
    Cosine {
        /// Epochs until the lowest rate.
        epochs: u32,
        /// The rate then.
        lowest: f64,
    },
}

impl Schedule {
    /// The rate of an epoch, the first being 0.
    pub fn rate(&self, epoch: u32) -> f64 {
        let epoch = epoch.saturating_add(self.first);
        match self.warmup {
            Some(Warmup {
                kind: WarmupKind::LinearAlone,
                epochs,
                ..
            }) if epoch < epochs => self.warmup_factor(epoch) * self.base,
            _ => self.warmup_factor(epoch) * self.decayed(epoch),
        }
    }

    fn warmup_factor(&self, epoch: u32) -> f64 {
        let Some(warmup) = self.warmup else {
            return 1.0;
        };
        if epoch >= warmup.epochs {
            return 1.0;
        }
        match warmup.kind {
            WarmupKind::Constant => warmup.factor,
            WarmupKind::Linear | WarmupKind::LinearAlone => {
                let reached = f64::from(epoch) / f64::from(warmup.epochs);
                warmup.factor + (1.0 - warmup.factor) * reached
            }
        }
    }

    fn decayed(&self, epoch: u32) -> f64 {
        match &self.decay {
            Decay::Constant => self.base,
            Decay::MultiStep { milestones, gamma } => {
                let passed = milestones.iter().filter(|at| **at <= epoch).count();
                self.base * gamma.powi(passed as i32)
            }
            Decay::Step { every, gamma } => self.base * gamma.powi((epoch / every.max(&1)) as i32),
            Decay::Cosine { epochs, lowest } => {
                let reached = f64::from(epoch.min(*epochs)) / f64::from((*epochs).max(1));
                lowest + (self.base - lowest) * (1.0 + (PI * reached).cos()) / 2.0
            }
        }
    }

    /// What about it makes no sense, if anything does.
    pub fn fault(&self) -> Option<String> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.base) {
            return Some(format!("schedule.base = {} is no rate", self.base));
        }
        if let Some(warmup) = self.warmup
            && !(warmup.factor.is_finite() && warmup.factor >= 0.0)
        {
            return Some(format!("schedule.warmup.factor = {}", warmup.factor));
        }
        match &self.decay {
            Decay::MultiStep { gamma, .. } | Decay::Step { gamma, .. } if !positive(*gamma) => {
                Some(format!("schedule.decay.gamma = {gamma}"))
            }
            Decay::Step { every: 0, .. } => Some("schedule.decay.every = 0".to_string()),
            Decay::Cosine { epochs: 0, .. } => Some("schedule.decay.epochs = 0".to_string()),
            Decay::Cosine { lowest, .. } if !(lowest.is_finite() && *lowest >= 0.0) => {
                Some(format!("schedule.decay.lowest = {lowest}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand, the strong baseline: 3.5e-4, from a hundredth of it over ten epochs, a tenth at 40
    // and 70.
    #[test]
    fn the_strong_recipe() {
        let schedule = Schedule {
            base: 3.5e-4,
            warmup: Some(Warmup {
                kind: WarmupKind::Linear,
                epochs: 10,
                factor: 0.01,
            }),
            decay: Decay::MultiStep {
                milestones: vec![40, 70],
                gamma: 0.1,
            },
            first: 0,
        };
        let expected = [
            (0, 3.5e-6),
            (5, 3.5e-4 * 0.505),
            (10, 3.5e-4),
            (39, 3.5e-4),
            (40, 3.5e-5),
            (70, 3.5e-6),
        ];
        for (epoch, rate) in expected {
            assert!((schedule.rate(epoch) / rate - 1.0).abs() < 1e-12, "{epoch}");
        }
        assert_eq!(schedule.fault(), None);
    }
}
