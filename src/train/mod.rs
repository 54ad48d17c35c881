//! Training of re-ID encoders: data, losses, optimisers, the loop, and watching it.

pub mod checkpoint;
pub mod config;
pub mod data;
mod error;
pub mod export;
pub mod loss;
pub mod optim;
pub mod schedule;
pub mod trainer;
pub mod watch;

pub use self::error::TrainError;
