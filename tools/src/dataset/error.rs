//! What can go wrong with a data set: every message names the file or folder, and what was
//! expected there.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// How many problems of one kind a message lists; the rest is counted.
const MAX_LISTED: usize = 20;

/// Why a data set cannot be read, prepared or verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder is not laid out as the data set is.
    #[error("{}: {found}\nexpected:\n{expected}", path.display())]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What was found instead.
        found: String,
        /// The tree with its names.
        expected: &'static str,
    },
    /// A file is not what its name promises.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of a text file is wrong.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Several files are missing or broken, all told at once.
    #[error("{}: {what}: {}{}", path.display(), problems.len(), list(problems))]
    Many {
        /// The folder.
        path: PathBuf,
        /// What they have in common.
        what: &'static str,
        /// One a file.
        problems: Vec<String>,
    },
    /// There is not as much as was published.
    #[error("{}: incomplete or another data set:{}", path.display(), list(problems))]
    Counts {
        /// The folder.
        path: PathBuf,
        /// Expected and found, one a count.
        problems: Vec<String>,
    },
    /// What the rest of the crate says.
    #[error(transparent)]
    Other(#[from] crate::Error),
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
}

impl DataError {
    /// Turns what the system said about `path` into an error.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// The file `path` is not what its name promises.
    pub(crate) fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    /// `problems` as one error, if there are any.
    ///
    /// # Errors
    /// [`Self::Many`].
    pub(crate) fn none_of(
        path: &Path,
        what: &'static str,
        problems: Vec<String>,
    ) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        Err(Self::Many {
            path: path.to_path_buf(),
            what,
            problems,
        })
    }
}

/// The first problems, a line each.
fn list(problems: &[String]) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    for problem in problems.iter().take(MAX_LISTED) {
        let _ = write!(text, "\n  {problem}");
    }
    if problems.len() > MAX_LISTED {
        let _ = write!(text, "\n  and {} more", problems.len() - MAX_LISTED);
    }
    text
}
