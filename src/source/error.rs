//! What can go wrong on the way in: every error names the file, and the frame where there is one.

use std::path::{Path, PathBuf};

/// Why a source could not be opened, or could not go on.
///
/// A single broken frame is not an error: it is skipped and counted (see
/// [`SkipCounts`](super::SkipCounts)).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nothing lies at the given path.
    #[error("{path}: no such file or folder", path = path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A folder holds no image that can be read.
    #[error("{path}: {reason}", path = path.display())]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// An image file that is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    BadImage {
        /// The image file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A video that the built-in decoder does not handle, though another may.
    #[error("{path}: {reason}", path = path.display())]
    Unsupported {
        /// The video file.
        path: PathBuf,
        /// What it would take.
        reason: String,
    },
    /// A video file that cannot be read on from some frame.
    #[error("{path}: broken at frame {frame}: {reason}", path = path.display())]
    Broken {
        /// The video file.
        path: PathBuf,
        /// Number of the frame that could not be read, from 1.
        frame: u64,
        /// What is wrong.
        reason: String,
    },
    /// A store does not answer, or only with failures; it may later.
    #[error("{address}: cannot be reached: {reason}")]
    Unreachable {
        /// The store's address.
        address: String,
        /// What the last attempt met with.
        reason: String,
    },
    /// A store answers, but does not give what was asked for.
    #[error("{address}: {reason}")]
    Refused {
        /// The address of what was asked for.
        address: String,
        /// What the store says, or what is wrong with the address.
        reason: String,
    },
    /// A setting is wrong.
    #[error("{name}: {reason}")]
    Setting {
        /// The environment variable.
        name: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// `ffmpeg` is needed and is not installed.
    #[error(
        "{input}: {reason}; reading it takes the program ffmpeg, which is not installed \
         (Debian and Ubuntu: `apt install ffmpeg`; macOS: `brew install ffmpeg`; \
         other systems: https://ffmpeg.org/download.html)"
    )]
    FfmpegMissing {
        /// The file or address that was to be read.
        input: String,
        /// Why the built-in readers do not do.
        reason: String,
    },
    /// `ffmpeg` gave up.
    #[error("{input}: ffmpeg stopped after {frames} frames: {message}")]
    Ffmpeg {
        /// The file or address that was being read.
        input: String,
        /// Frames that it delivered before.
        frames: u64,
        /// The last lines of what it printed.
        message: String,
    },
}

impl SourceError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::NotFound {
            return Self::NotFound {
                path: path.to_path_buf(),
            };
        }
        Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(super) fn unsupported(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    pub(super) fn bad_image(path: &Path, reason: impl Into<String>) -> Self {
        Self::BadImage {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}

/// An error with what caused it, each cause once.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
