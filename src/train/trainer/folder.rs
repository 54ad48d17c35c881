//! Files of a run.

use std::path::{Path, PathBuf};

use crate::train::TrainError;

/// Files of a run, in its folder.
#[derive(Debug, Clone)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        std::fs::create_dir_all(path).map_err(|error| TrainError::file(path, error))?;
        Ok(Self(path.to_path_buf()))
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    /// Weights after the epoch with the best mAP.
    pub fn best(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    /// Weights after the last epoch.
    pub fn last(&self) -> PathBuf {
        self.0.join("last.safetensors")
    }

    /// The resolved settings.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }
}
