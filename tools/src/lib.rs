//! Weights conversion and data preparation for `mtmc`.
//!
//! [`read`] reads foreign weights files and runs nothing that is in them; [`map`] gives their
//! tensors the names that `mtmc`'s networks use; [`convert`](mod@convert) writes the described
//! safetensors; [`fetch`](mod@fetch) does all that for weights known by name to [`registry`].
//! [`dataset`] reads and prepares data sets.

pub mod convert;
pub mod dataset;
pub mod error;
pub mod fetch;
pub mod map;
pub mod read;
pub mod registry;

pub use convert::{Report, convert};
pub use error::{Error, Malformed, Result};
pub use fetch::{Fetcher, Progress};
pub use map::Options;
