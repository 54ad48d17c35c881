//! Weights conversion and data preparation for `mtmc`.
//!
//! [`read`] reads foreign weights files and runs nothing that is in them; [`map`] gives their
//! tensors the names that `mtmc`'s networks use; [`convert`] writes the described safetensors.

pub mod convert;
pub mod error;
pub mod map;
pub mod read;

pub use convert::{Report, convert};
pub use error::{Error, Malformed, Result};
pub use map::Options;
