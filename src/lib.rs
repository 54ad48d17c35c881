//! Multi-target multi-camera tracking of people.
//!
//! Data flows one way: source → detector → embedder → tracker → sinks. Each module owns its state, takes
//! plain data and returns plain data; only [`pipeline`] knows all of them.

pub mod annotate;
pub mod cli;
pub mod config;
pub mod eval;
pub mod gallery;
pub mod geometry;
pub mod handoff;
pub mod homography;
pub mod pipeline;
pub mod reid;
pub mod service;
pub mod sim;
pub mod sink;
pub mod source;
pub mod store;
pub mod tracker;
pub mod train;

mod random;
