//! Softmax over the last dimension.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::cpu;
#[cfg(feature = "cuda")]
use super::cuda;
use super::planes::{fused, with_numbers};

pub use super::cpu::math::softmax as softmax_row;

/// Numbers that a thread takes at least.
const MIN_PER_THREAD: usize = 4 * 1024;

/// Every row of neighbours to positive numbers whose sum is 1; gradients flow through.
///
/// # Errors
/// `x` has no dimension, or the device fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[x]) {
        return cuda::tensors::softmax(&device, x);
    }
    let size = x.dim(D::Minus1)?;
    if !fused(&[x]) || size == 0 {
        return candle_nn::ops::softmax(x, D::Minus1);
    }
    let output = with_numbers(&[x], |numbers| {
        let mut output = numbers[0].to_vec();
        let together = (MIN_PER_THREAD / size).max(1) * size;
        output.par_chunks_mut(together).for_each(|rows| {
            rows.chunks_exact_mut(size).for_each(cpu::math::softmax);
        });
        output
    })?;
    Tensor::from_vec(output, x.shape(), x.device())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::made_up;

    // candle's softmax is the yardstick.
    #[test]
    fn rows_are_those_of_candle() {
        for shape in [[1, 1], [7, 33], [900, 80]] {
            let x = Tensor::from_vec(made_up("softmax.weight", &shape), &shape, &Device::Cpu);
            let x = (x.unwrap() * 20.0).unwrap();
            let expected = candle_nn::ops::softmax(&x, D::Minus1).unwrap();
            let off = (softmax(&x).unwrap() - expected).unwrap().abs().unwrap();
            let off = off.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-6, "{off}");
        }
    }
}
