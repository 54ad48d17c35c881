//! Kernels for CUDA: what candle lacks there, or needs several passes for.
//!
//! - `*.cu`: the kernels, for f32, f16 and bf16; compiled by `build.rs` with the feature `cuda`.
//! - [`program`]: what a launch is, as plain data: buffers, grid, arguments.
//! - [`programs`]: one function a kernel, from shapes to launches.
//! - [`gradients`]: the way back through convolutions and deformable attention.
//! - [`checks`]: every kernel against its CPU twin, over random shapes and all types.
//! - `device` (feature `cuda`): runs programs on a GPU.
//! - `tensors` (feature `cuda`): the operations of [`super`] on tensors of a GPU.
//! - `training` (feature `cuda`): operations on tensors of a GPU whose gradients are asked for.
//! - `emulator`: runs programs on the CPU, from the same sources, for the tests.
//!
//! Because launches are plain data, the emulator proves everything up to the driver: the kernels'
//! arithmetic and indices, grids, the order of arguments. It does not prove what only a GPU shows:
//! races that no order of turns reveals, occupancy, speed.

pub mod checks;
#[cfg(feature = "cuda")]
pub mod device;
#[cfg(test)]
pub(crate) mod emulator;
pub mod gradients;
pub mod program;
pub mod programs;
pub mod resize;
#[cfg(feature = "cuda")]
pub mod tensors;
#[cfg(feature = "cuda")]
pub mod training;
#[cfg(feature = "cuda")]
pub mod upload;
