//! Kernels for the CPU: f32, parallel by rayon, compiled for several vector units.

pub mod attention;
pub mod conv;
pub mod deformable;
mod depthwise;
mod direct;
pub mod math;
pub mod norm;
pub mod panels;
pub mod pool;
mod simd;
pub mod threads;
