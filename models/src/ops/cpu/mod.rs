//! Kernels for the CPU: f32 and, for matrix products, bfloat16; parallel by rayon, compiled for
//! several vector units.

mod ahead;
mod aligned;
pub mod attention;
pub mod block;
pub mod conv;
pub mod deformable;
mod depthwise;
mod direct;
pub mod finish;
pub mod linear;
pub mod math;
pub mod norm;
pub mod panels;
pub mod pixels;
pub mod pool;
pub mod product;
pub mod simd;
pub mod threads;
mod tiles;
mod winograd;
mod words;
