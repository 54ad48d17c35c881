//! What can go wrong while weights are read, mapped, checked and written.

use std::path::{Path, PathBuf};

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a file's content, without the file's name: parsers work on bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Malformed {
    /// The fault in words.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// The same fault, said to be in file `path`.
    pub fn at(self, path: &Path) -> Error {
        Error::Malformed {
            path: path.to_path_buf(),
            reason: self.0,
        }
    }
}

/// An error of this crate; every message names the file and, where there is one, the tensor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is cut short, damaged, hostile or of no known format.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// One tensor of a file cannot be used.
    #[error("{}: tensor `{tensor}`: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name, as the file or (if it is missing there) the network calls it.
        tensor: String,
        /// What is wrong with it: expected and found shapes where it is about those.
        reason: String,
    },
    /// A file's tensors belong to no network that is known, or not to the one asked for.
    #[error("{}: {reason}", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What was looked for and what was found.
        reason: String,
    },
    /// The network's own list of tensors cannot be had.
    #[error(transparent)]
    Network(#[from] mtmc_models::Error),
    /// A download failed.
    #[error("{0}")]
    Fetch(String),
}

impl Error {
    /// Turns what the system said about `path` into an error.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// An error about one tensor of `path`.
    pub fn tensor(path: &Path, tensor: &str, reason: impl Into<String>) -> Self {
        Self::Tensor {
            path: path.to_path_buf(),
            tensor: tensor.to_string(),
            reason: reason.into(),
        }
    }
}
