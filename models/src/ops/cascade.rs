//! The first layers of a detector for inference on the CPU, row by row: their maps are so large that a pass of
//! its own for each would wait for memory.

use candle_core::{Device, Result, Tensor};

use super::cpu::conv::Size;
use super::cpu::product::Source;
use super::cpu::simd::Level;
use super::cpu::{cascade, simd};
use super::planes::with_numbers;
use super::{Precision, Window, profile};
use crate::layers::Conv;

pub use super::cpu::cascade::{Folded, Layer, Step};

/// Layers that are computed together.
pub struct Cascade(cascade::Cascade);

impl Cascade {
    /// Prepares layers that follow images of so many planes; `None` where they are faster one by one: without the
    /// vectors of x86, and where there is no kernel for them. In bfloat16 products are of 16-bit integers
    /// where the machine has those, and f32 otherwise.
    pub fn new(planes: usize, layers: Vec<Layer>, precision: Precision) -> Option<Self> {
        cascade::Cascade::new(planes, layers, wide()?, precision).map(Self)
    }

    /// The same of a convolution, and the largest of windows of what it gives, which is not below zero.
    pub fn with_pool(conv: Conv, weights: Folded, window: Window) -> Option<Self> {
        cascade::Cascade::with_pool(conv, weights, window, wide()?).map(Self)
    }

    /// The last layer's `[batch, channels, height, width]` of images whose planes are those of all `parts`, one
    /// after the other, each `[batch, planes, height, width]` in f32 on the CPU. Gradients do not flow.
    ///
    /// # Errors
    /// The images are something else, or so small that nothing is left of them at the end.
    pub fn forward(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let mut planes = Vec::with_capacity(parts.len());
        let mut images = Vec::with_capacity(parts.len());
        let mut sizes = Vec::with_capacity(parts.len());
        for part in parts {
            let (batch, channels, height, width) = part.dims4()?;
            planes.push(channels);
            images.push(part.detach().contiguous()?);
            sizes.push((batch, height, width));
        }
        let all: usize = planes.iter().sum();
        let alike = sizes.windows(2).all(|pair| pair[0] == pair[1]);
        let (true, Some((batch, height, width))) = (alike, sizes.first().copied()) else {
            candle_core::bail!("parts of images differ in their sizes: {sizes:?}");
        };
        if all != self.0.planes() {
            candle_core::bail!("images have {} planes, not {all}", self.0.planes());
        }
        let size = Size {
            batch,
            height,
            width,
        };
        let describe = || {
            let (layers, output) = (self.0.layers(), self.0.output());
            let name =
                format!("{layers} layers row by row, {all} → {output}, {batch} × {height}×{width}");
            (name, self.0.operations(size))
        };
        let images: Vec<&Tensor> = images.iter().collect();
        let output = profile::timed(describe, || {
            with_numbers(&images, |numbers| {
                let mut sources = Vec::with_capacity(numbers.len());
                for (data, channels) in numbers.iter().zip(planes) {
                    sources.push(Source { data, channels });
                }
                self.0.run(&sources, size)
            })
        })?;
        match (output, self.0.output_size(size)) {
            (Some(output), Some((height, width))) => {
                let shape = (batch, self.0.output(), height, width);
                Tensor::from_vec(output, shape, &Device::Cpu)
            }
            _ => candle_core::bail!("images of {height}×{width} are too small"),
        }
    }
}

/// The machine's level, where that has vectors.
fn wide() -> Option<Level> {
    let level = simd::level();
    (level >= Level::Avx2).then_some(level)
}
