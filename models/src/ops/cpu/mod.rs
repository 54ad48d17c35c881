//! Kernels for the CPU: f32 and, for matrix products, bfloat16; parallel by rayon, compiled for
//! several vector units.

mod ahead;
mod aligned;
pub mod amx;
pub mod attention;
mod awake;
mod bands;
pub mod block;
pub mod cascade;
mod cells;
pub mod conv;
pub mod deformable;
mod depthwise;
mod direct;
mod few;
pub mod finish;
mod fixed;
mod lanes;
mod light;
pub mod linear;
pub mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod norm;
pub mod omni;
mod pages;
pub mod panels;
pub mod pixels;
pub mod pool;
pub mod product;
pub mod simd;
pub mod square;
mod strassen;
pub mod threads;
mod tiles;
pub mod value;
mod winograd;
pub mod words;
