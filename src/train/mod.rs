//! Training of re-ID encoders: data, losses, optimisers, the loop, and watching it.

pub mod data;
pub mod watch;
