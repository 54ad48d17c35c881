//! What can go wrong in this crate, with the file and tensor it went wrong at.

use std::path::PathBuf;

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of loading or running a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A weights file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A weights file is not a safetensors file, is cut short or is damaged.
    #[error("{}: not a readable safetensors file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A weights file has no or a wrong description in its metadata.
    #[error("{}: {reason}", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the network needs is not in the file, or has another shape.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The shape that the network needs.
        expected: String,
        /// The shape in the file, or `nothing`.
        found: String,
    },
    /// Input that a network cannot take.
    #[error("{0}")]
    Input(String),
    /// A failure inside candle: shapes, device, memory.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
