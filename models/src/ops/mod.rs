//! Operations that candle lacks or does slowly.
//!
//! Each has a plain candle version in [`mod@reference`]: the tests' yardstick, the way gradients go,
//! and what runs on devices without a kernel of their own.

mod activation;
mod attention;
mod cascade;
mod conv;
pub(crate) mod cpu;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
mod deformable;
mod linear;
pub(crate) mod mixed;
mod nms;
mod norm;
mod omni;
mod panels;
mod planes;
mod pool;
pub mod profile;
pub mod reference;
mod rows;
mod softmax;
mod topk;
pub(crate) mod training;
mod upsample;

pub use activation::Activation;
pub use attention::attention;
pub(crate) use cascade::{Cascade, Folded, Layer as CascadeLayer, Step as CascadeStep};
pub use conv::Conv2d;
pub(crate) use conv::conv2d_with_gradients;
pub use cpu::block::Precision;
pub use cpu::threads::{on_threads, set_threads};
pub use deformable::{SampleShape, ValueProjection, box_locations, deformable_attention};
pub use linear::{Dense, add_bias};
pub use nms::non_maximum_suppression;
pub use norm::layer_norm;
pub(crate) use omni::{BlockWeights, OmniScale, STREAMS, Weights as OmniScaleWeights};
pub use panels::{PANEL, Panels, Queries};
pub use planes::{add_relu, add_upsampled, gated_sum, halve, plane_means, with_planes};
pub use pool::{Window, max_of_four, max_pool2d};
pub use rows::{cells_to_rows, largest, rows_to_cells, silu_gated};
pub use softmax::{TOGETHER, expectations, expectations_of_rows, softmax};
pub use topk::{Best, best, best_of_planes, best_of_rows, top_k, top_k_indices};
pub use training::Adam;
pub use upsample::{joined, upsample_nearest};
