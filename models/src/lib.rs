//! The networks of `mtmc`, written in candle: no async, no HTTP, no files but weights.
//!
//! A network is written once, from the layers in [`layers`], and mentions no device. Layers run
//! as plain candle operations where gradients are needed and through [`ops`] for inference.

pub mod clip;
pub mod deimv2;
pub mod detect;
pub mod embed;
pub mod hgnetv2;
pub mod layers;
pub mod network;
pub mod ops;
pub mod osnet;
pub mod preprocess;
pub mod resnet50;
pub mod rtdetr;
#[doc(hidden)]
pub mod testing;
pub mod weights;
pub mod yolov8;

mod bbox;
mod detector;
mod embedder;
mod error;
mod memory;

pub use bbox::BBox;
pub use detect::LoadedDetector;
pub use detector::{DetectOptions, Detection, Detector};
pub use embed::LoadedEmbedder;
pub use embedder::{Crop, EmbedError, Embedder, Embedding, dot};
pub use error::{Error, Result};
pub use network::expected_tensors;
pub use weights::{Description, Interpolation, ResizeMode, TensorSpec, Variant, Weights};
