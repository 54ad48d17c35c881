//! Data sets: reading what others publish, preparing it for training and evaluation.
//!
//! [`market1501`] reads re-ID folders in Market-1501's format.

mod error;
pub mod market1501;

pub use error::DataError;
