//! The convolutions of an OSNet for inference on the CPU, all in one pass: its layers are so small
//! that a pass of its own for each would take longer than what is computed in it.

use candle_core::{Result, Tensor};

use super::cpu::conv::Size;
use super::cpu::{omni, simd};
use super::planes::with_numbers;

pub use super::cpu::omni::{BlockWeights, STREAMS, Weights};

/// From images to the means of the last planes.
pub struct OmniScale(omni::OmniScale);

impl OmniScale {
    /// Prepares `weights`; `None` where there is no kernel for so few channels.
    pub fn new(weights: &Weights) -> Option<Self> {
        omni::OmniScale::new(weights, simd::level()).map(Self)
    }

    /// `[batch, 3, height, width]` in f32 on the CPU to `[batch, channels]`. Gradients do not flow.
    ///
    /// # Errors
    /// The images are something else, or so small that nothing is left of them at the end.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (batch, planes, height, width) = images.dims4()?;
        if planes != 3 {
            candle_core::bail!("images have 3 planes, not {planes}");
        }
        let images = images.detach().contiguous()?;
        let size = Size {
            batch,
            height,
            width,
        };
        let means = with_numbers(&[&images], |numbers| self.0.run(numbers[0], size))?;
        let Some(means) = means else {
            candle_core::bail!("images of {height}×{width} are too small");
        };
        Tensor::from_vec(means, (batch, self.0.output()), images.device())
    }
}
