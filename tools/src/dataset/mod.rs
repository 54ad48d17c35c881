//! Data sets: reading what others publish, preparing it for training and evaluation.
//!
//! [`market1501`] reads and prepares re-ID folders in Market-1501's format, [`mot17`] the tracking
//! benchmark; [`crops`] chooses people to cut out of a video whose truth ([`mot`]) is known. What
//! is prepared gets a [`manifest`], by which it can be verified later.

pub mod coco;
pub mod crops;
pub mod draw;
mod error;
pub mod folder;
pub mod manifest;
pub mod market1501;
pub mod mot;
pub mod mot17;
pub mod pictures;
mod progress;

pub use error::DataError;
pub use progress::Progress;
