//! Kernels for the CPU: f32, parallel by rayon, compiled for several vector units.

pub mod conv;
pub mod deformable;
mod direct;
pub mod math;
pub mod pool;
mod simd;
pub mod threads;
