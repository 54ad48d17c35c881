//! Softmax over the last dimension.

use candle_core::{D, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;

/// Every row of neighbours to positive numbers whose sum is 1; gradients flow through.
///
/// # Errors
/// `x` has no dimension, or the device fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[x]) {
        return cuda::tensors::softmax(&device, x);
    }
    candle_nn::ops::softmax(x, D::Minus1)
}
