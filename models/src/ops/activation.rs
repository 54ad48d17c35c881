//! Activation functions, as plain candle operations and as numbers for fused kernels.

use candle_core::{Module, Result, Tensor};

/// Slope of [`Activation::QuickGelu`]'s sigmoid.
pub(crate) const QUICK_GELU_SLOPE: f64 = 1.702;

/// What follows a convolution or a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// max(x, 0).
    Relu,
    /// x · sigmoid(x), also called swish.
    Silu,
    /// x · Φ(x), by the error function (PyTorch's default).
    Gelu,
    /// x · sigmoid(1.702 x), OpenAI CLIP's approximation of the one before.
    QuickGelu,
}

impl Activation {
    /// Applies it to every element, by candle's operations.
    ///
    /// # Errors
    /// The device fails.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(x.clone()),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu_erf(),
            Self::QuickGelu => x * candle_nn::ops::sigmoid(&(x * QUICK_GELU_SLOPE)?)?,
        }
    }
}

impl Module for Activation {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x)
    }
}
