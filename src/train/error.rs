//! Why a training cannot begin or go on.

use std::path::{Path, PathBuf};

use mtmc_tools::dataset::DataError;

use super::data::LoadError;
use crate::eval::reid::ReidError;

/// An error of training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting that makes no sense, by its name.
    #[error("{0}")]
    Setting(String),
    /// A file of the run that cannot be read or written, or does not fit.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A loss or a weight is no number any more.
    #[error(
        "epoch {epoch}, step {step}: {what} is {value}; the last checkpoint is kept (a lower \
         schedule.base or optimizer.clip may help)"
    )]
    NotFinite {
        /// Epoch, from 0.
        epoch: u32,
        /// Step of the epoch, from 0.
        step: usize,
        /// Which loss or which tensor.
        what: String,
        /// What it is.
        value: f64,
    },
    /// The data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An image.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The evaluation.
    #[error(transparent)]
    Evaluation(#[from] ReidError),
    /// The networks.
    #[error(transparent)]
    Model(#[from] mtmc_models::Error),
    /// A failure inside candle: shapes, device, memory.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl TrainError {
    pub(super) fn file(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::File {
            path: path.to_path_buf(),
            reason: reason.to_string(),
        }
    }
}
