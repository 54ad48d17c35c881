//! Max pooling over windows that may overlap, for which candle has no gradient.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::planes::{fused, with_numbers};
use super::{cpu, profile, reference, training};

/// Square windows of a pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Side in pixels.
    pub kernel: usize,
    /// Step in pixels.
    pub stride: usize,
    /// How far windows reach over the border, in pixels; what is outside is never the largest.
    pub padding: usize,
}

impl Window {
    /// Windows that fit into `size` pixels; the stride is not zero.
    pub fn count(&self, size: usize) -> usize {
        match (size + 2 * self.padding).checked_sub(self.kernel) {
            Some(room) => room / self.stride + 1,
            None => 0,
        }
    }
}

/// The largest number of every window: `[batch, channels, height, width]` in, the same with
/// [`Window::count`] rows and columns out. PyTorch's `max_pool2d`; gradients flow through.
///
/// # Errors
/// The padding is more than half of the kernel, no window fits, or the stride is zero.
pub fn max_pool2d(x: &Tensor, window: Window) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let (kernel, padding) = (window.kernel, window.padding);
    // With more padding, windows could lie outside altogether.
    let valid = kernel > 0 && window.stride > 0 && padding <= kernel / 2;
    let empty = |size: usize| size == 0 || window.count(size) == 0;
    if !valid || empty(height) || empty(width) {
        candle_core::bail!("max pooling: {window:?} does not fit {:?}", x.dims());
    }
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[x]) {
        return cuda::tensors::max_pool2d(&device, x, window);
    }
    let fused = x.device().is_cpu() && x.dtype() == DType::F32 && !x.track_op();
    if fused {
        return x.contiguous()?.apply_op1_no_bwd(&CpuMaxPool(window));
    }
    if training::on_cpu(x) {
        return training::max_pool2d(x, window);
    }
    reference::max_pool2d(x, window)
}

struct CpuMaxPool(Window);

impl CustomOp1 for CpuMaxPool {
    fn name(&self) -> &'static str {
        "max-pool2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let (Some((start, end)), CpuStorage::F32(data)) = (layout.contiguous_offsets(), storage)
        else {
            candle_core::bail!("fused max pooling needs contiguous f32");
        };
        let output = cpu::pool::max(&data[start..end], (height, width), self.0);
        let (rows, columns) = (self.0.count(height), self.0.count(width));
        let shape = Shape::from((batch, channels, rows, columns));
        Ok((CpuStorage::F32(output), shape))
    }
}

/// The largest of every number of the planes and its neighbours to the right, below, and both;
/// beyond the far ends lie zeros, which count.
///
/// # Errors
/// `x` has other than four dimensions, or the device fails.
pub fn max_of_four(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    if !fused(&[x]) || height * width == 0 {
        let window = Window {
            kernel: 2,
            stride: 1,
            padding: 0,
        };
        let padded = x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?;
        return max_pool2d(&padded, window);
    }
    let describe = || (format!("largest of four, {:?}", x.dims()), 0.0);
    let output = profile::timed(describe, || {
        with_numbers(&[x], |numbers| {
            cpu::pool::max_of_four(numbers[0], height, width)
        })
    })?;
    Tensor::from_vec(output, (batch, channels, height, width), x.device())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Those of `PP-HGNetv2`, `ResNet`, `YOLOv8`, and odd ones.
    const WINDOWS: [Window; 6] = [
        window(2, 1, 0),
        window(3, 2, 1),
        window(5, 1, 2),
        window(3, 3, 0),
        window(4, 3, 2),
        window(3, 5, 1),
    ];

    const fn window(kernel: usize, stride: usize, padding: usize) -> Window {
        Window {
            kernel,
            stride,
            padding,
        }
    }

    /// Negative numbers, so that zeros around would show; no two of a plane are equal.
    fn planes(height: usize, width: usize) -> Tensor {
        let count = 2 * 3 * height * width;
        let data: Vec<f32> = (0..count)
            .map(|index| -1.0 - ((index * 7919) % 10007) as f32)
            .collect();
        Tensor::from_vec(data, (2, 3, height, width), &Device::Cpu).unwrap()
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// candle's own pooling, minus infinity around.
    fn candle(x: &Tensor, window: Window) -> Tensor {
        let (batch, channels, height, width) = x.dims4().unwrap();
        let p = window.padding;
        let shape = (batch, channels, height + 2 * p, width + 2 * p);
        let around = Tensor::full(f32::NEG_INFINITY, shape, x.device()).unwrap();
        let inside = [0..batch, 0..channels, p..p + height, p..p + width];
        let padded = around.slice_assign(&inside, x).unwrap();
        padded
            .max_pool2d_with_stride(window.kernel, window.stride)
            .unwrap()
    }

    #[test]
    fn kernel_and_plain_version_equal_candles_pooling() {
        for window in WINDOWS {
            for (height, width) in [(4, 4), (7, 5), (8, 19), (33, 3)] {
                let x = planes(height, width);
                let expected = candle(&x, window);
                for found in [max_pool2d(&x, window), reference::max_pool2d(&x, window)] {
                    let found = found.unwrap();
                    assert_eq!(found.dims(), expected.dims(), "{window:?}");
                    assert_eq!(numbers(&found), numbers(&expected), "{window:?}");
                }
            }
        }
    }

    // By the definition: what a window's output receives goes to the window's largest number.
    #[test]
    fn gradients_go_to_the_largest_of_each_window() {
        let (height, width) = (7, 6);
        for window in WINDOWS {
            let x = Var::from_tensor(&planes(height, width)).unwrap();
            let y = max_pool2d(&x, window).unwrap();
            let values = numbers(&y);
            let weights: Vec<f32> = (0..values.len()).map(|i| 1.0 + (i % 13) as f32).collect();
            let data = numbers(&x);
            let mut expected = vec![0.0; data.len()];
            let out_plane = values.len() / 6;
            for (index, weight) in weights.iter().enumerate() {
                let plane = index / out_plane * height * width;
                // No two numbers of a plane are equal.
                let at = data[plane..plane + height * width]
                    .iter()
                    .position(|value| *value == values[index]);
                expected[plane + at.unwrap()] += weight;
            }
            let weights = Tensor::from_vec(weights, y.shape(), &Device::Cpu).unwrap();
            let loss = (y * weights).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let found = numbers(gradients.get(&x).unwrap());
            assert_eq!(found, expected, "{window:?}");
        }
    }

    // The plain version pads with zeros and pools.
    #[test]
    fn largest_of_four_counts_zeros_beyond_the_ends() {
        for (height, width) in [(1, 1), (1, 5), (4, 1), (7, 33)] {
            let x = (planes(height, width) - 0.5).unwrap();
            let tracked = Var::from_tensor(&x).unwrap();
            let expected = max_of_four(tracked.as_tensor()).unwrap();
            assert_eq!(expected.dims(), x.dims());
            assert_eq!(numbers(&max_of_four(&x).unwrap()), numbers(&expected));
        }
    }

    #[test]
    fn windows_that_do_not_fit_are_errors() {
        let x = planes(4, 3);
        for window in [window(4, 1, 0), window(3, 0, 0), window(2, 1, 2)] {
            let error = max_pool2d(&x, window).unwrap_err().to_string();
            assert!(error.contains("does not fit"), "{error}");
        }
    }
}
