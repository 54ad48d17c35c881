//! Layers in training mode on the CPU, with gradients of their own.
//!
//! candle's gradients of convolutions run tap by tap, one group after the other, and its batch norm
//! makes a dozen passes over its input. Here a convolution with its batch norm and ReLU is one
//! step: forwards the inference kernels run, backwards matrix products; what is needed again is
//! kept once. Sums are taken in an order that does not depend on the number of threads.

mod adam;
mod cells;
mod conv;
mod depthwise;
mod halo;
mod norm;
pub(crate) mod planes;
mod pool;
mod tile;
mod unfolded;
mod weights;

use std::sync::Mutex;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, Var,
};
use rayon::prelude::*;

pub use self::adam::Adam;
use self::conv::Sizes;
use super::{Window, cpu};
use crate::layers::{Activation, Conv};

/// Numbers that a thread takes at once in passes over all of them.
const PART: usize = 16 * 1024;

/// Whether [`conv_norm`], [`conv2d`] and the others take such tensors.
pub(crate) fn takes(x: &Tensor, conv: &Conv) -> bool {
    let depthwise = conv.groups == conv.input && conv.input == conv.output;
    (conv.groups == 1 || depthwise || tile::available()) && conv.padding < conv.kernel && on_cpu(x)
}

/// Whether `x` is what all operations here compute in.
pub(crate) fn on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Tensors of a batch norm.
pub(crate) struct Norm<'a> {
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    /// Updated with momentum 0.1, the variance without bias, as PyTorch does.
    pub running_mean: &'a Tensor,
    pub running_var: &'a Tensor,
    pub eps: f64,
}

/// Share of a batch's statistics in the running ones.
const MOMENTUM: f64 = 0.1;

/// Convolution without bias, batch norm by the batch's statistics, then `conv.activation`: ReLU in the
/// same step, others by candle after it.
///
/// # Errors
/// The shapes do not fit.
pub(crate) fn conv_norm(x: &Tensor, weight: &Tensor, norm: &Norm, conv: &Conv) -> Result<Tensor> {
    let relu = match conv.activation {
        Activation::Relu => true,
        Activation::Identity => false,
        other => {
            let conv = conv.activation(Activation::Identity);
            return other.apply(&conv_norm(x, weight, norm, &conv)?);
        }
    };
    let x = x.contiguous()?;
    let raw = plain_conv(&x, weight, conv)?;
    let affine = Tensor::stack(&[norm.weight, norm.bias], 0)?;
    let (channels, size) = channels_and_plane(&raw)?;
    let affine_numbers = affine.flatten_all()?.to_vec1::<f32>()?;
    if affine_numbers.len() != 2 * channels {
        candle_core::bail!("a norm of {:?} for {:?}", affine.dims(), raw.dims());
    }
    let (output, stats) = with_numbers(&raw, |raw| {
        norm::forward(raw, &affine_numbers, size, norm.eps, relu)
    })?;
    update_running(norm, &stats, raw.elem_count() / channels)?;
    let op = ConvNorm {
        conv: *conv,
        shape: raw.shape().clone(),
        raw,
        mean: stats.mean,
        inverse: stats.inverse,
        relu,
        output: Mutex::new(Some(output)),
    };
    x.apply_op3(weight, &affine, op)
}

/// Convolution without bias and activation.
///
/// # Errors
/// The shapes do not fit.
pub(crate) fn conv2d(x: &Tensor, weight: &Tensor, conv: &Conv) -> Result<Tensor> {
    let x = x.contiguous()?;
    let sizes = Sizes::new(&x, weight, conv)?;
    x.apply_op2(&weight.contiguous()?, ConvAlone { sizes })
}

/// `max(a + b, 0)`.
///
/// # Errors
/// The shapes differ.
pub(crate) fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, AddRelu)
}

/// [`super::max_pool2d`].
///
/// # Errors
/// The shape does not fit.
pub(crate) fn max_pool2d(x: &Tensor, window: Window) -> Result<Tensor> {
    x.contiguous()?.apply_op1(MaxPool(window))
}

/// Without bias and activation.
fn plain_conv(x: &Tensor, weight: &Tensor, conv: &Conv) -> Result<Tensor> {
    let sizes = Sizes::new(x, weight, conv)?;
    let output = with_numbers(x, |x| {
        with_numbers(&weight.contiguous()?, |weight| {
            conv::forward(x, weight, &sizes)
        })
    })??;
    Tensor::from_vec(output, sizes.dims(), x.device())
}

/// Gradients of a convolution's input, unless nobody asks for it, and of its weights. `gradient`:
/// contiguous, of the output's shape.
fn back_through(
    x: &Tensor,
    weight: &Tensor,
    gradient: &Tensor,
    conv: &Conv,
) -> Result<(Option<Tensor>, Tensor)> {
    let sizes = Sizes::new(x, weight, conv)?;
    let contiguous = weight.contiguous()?;
    with_numbers(gradient, |gradient| {
        let to_x = if x.track_op() {
            let numbers = with_numbers(&contiguous, |weight| {
                conv::to_input(weight, gradient, &sizes)
            })?;
            Some(Tensor::from_vec(numbers, x.shape(), x.device())?)
        } else {
            None
        };
        let numbers = with_numbers(x, |x| conv::to_weight(x, gradient, &sizes))?;
        let to_weight = Tensor::from_vec(numbers, weight.shape(), x.device())?;
        Ok((to_x, to_weight))
    })?
}

fn update_running(norm: &Norm, stats: &norm::Statistics, count: usize) -> Result<()> {
    let unbiased = count as f64 / (count as f64 - 1.0).max(1.0);
    for (running, batch, factor) in [
        (norm.running_mean, &stats.mean, 1.0),
        (norm.running_var, &stats.variance, unbiased),
    ] {
        let old = running.flatten_all()?.to_vec1::<f32>()?;
        let new: Vec<f32> = old
            .iter()
            .zip(batch)
            .map(|(&old, &batch)| {
                let (old, batch) = (f64::from(old), f64::from(batch) * factor);
                ((1.0 - MOMENTUM) * old + MOMENTUM * batch) as f32
            })
            .collect();
        let new = Tensor::from_vec(new, running.shape(), running.device())?;
        // A variable is changed in place; anything else is a copy that nobody sees.
        Var::from_tensor(running)?.set(&new)?;
    }
    Ok(())
}

struct ConvNorm {
    conv: Conv,
    /// Of the output.
    shape: Shape,
    /// What the convolution gave.
    raw: Tensor,
    mean: Vec<f32>,
    inverse: Vec<f32>,
    relu: bool,
    /// Computed before the operation is noted down.
    output: Mutex<Option<Vec<f32>>>,
}

impl CustomOp3 for ConvNorm {
    fn name(&self) -> &'static str {
        "conv-norm-training"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        take(&self.output, &self.shape)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        affine: &Tensor,
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, size) = channels_and_plane(output)?;
        let gradient = gradient.contiguous()?;
        let affine_numbers = affine.flatten_all()?.to_vec1::<f32>()?;
        let (to_raw, to_affine) = with_numbers(&self.raw, |raw| {
            with_numbers(&gradient, |gradient| {
                let saved = norm::Saved {
                    raw,
                    relu: self.relu,
                    mean: &self.mean,
                    inverse: &self.inverse,
                    affine: &affine_numbers,
                    size,
                };
                norm::backward(&saved, gradient)
            })
        })??;
        let to_raw = Tensor::from_vec(to_raw, &self.shape, x.device())?;
        let to_affine = Tensor::from_vec(to_affine, affine.shape(), x.device())?;
        let (to_x, to_weight) = back_through(x, weight, &to_raw, &self.conv)?;
        Ok((to_x, Some(to_weight), Some(to_affine)))
    }
}

struct ConvAlone {
    sizes: Sizes,
}

impl CustomOp2 for ConvAlone {
    fn name(&self) -> &'static str {
        "conv-training"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (numbers(x, x_layout)?, numbers(weight, weight_layout)?);
        let output = conv::forward(x, weight, &self.sizes);
        Ok((CpuStorage::F32(output), Shape::from(self.sizes.dims())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (to_x, to_weight) = back_through(x, weight, &gradient.contiguous()?, &self.sizes.conv)?;
        Ok((to_x, Some(to_weight)))
    }
}

struct AddRelu;

impl CustomOp2 for AddRelu {
    fn name(&self) -> &'static str {
        "add-relu-training"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (numbers(a, a_layout)?, numbers(b, b_layout)?);
        if a_layout.dims() != b_layout.dims() {
            candle_core::bail!("{:?} and {:?} added", a_layout.dims(), b_layout.dims());
        }
        let sums = zip_parts(a, b, |a, b| (a + b).max(0.0));
        Ok((CpuStorage::F32(sums), a_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let masked = with_numbers(output, |output| {
            with_numbers(&gradient, |gradient| {
                zip_parts(output, gradient, |y, g| if y > 0.0 { g } else { 0.0 })
            })
        })??;
        let masked = Tensor::from_vec(masked, output.shape(), output.device())?;
        Ok((Some(masked.clone()), Some(masked)))
    }
}

struct MaxPool(Window);

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool-training"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let output = cpu::pool::max(numbers(x, layout)?, (height, width), self.0);
        let (rows, columns) = (self.0.count(height), self.0.count(width));
        let shape = Shape::from((batch, channels, rows, columns));
        Ok((CpuStorage::F32(output), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, height, width) = x.dims4()?;
        let gradient = gradient.contiguous()?;
        let to_x = with_numbers(x, |x| {
            with_numbers(&gradient, |gradient| {
                pool::backward(x, gradient, (height, width), self.0)
            })
        })??;
        Ok(Some(Tensor::from_vec(to_x, x.shape(), x.device())?))
    }
}

/// What was computed before.
fn take(output: &Mutex<Option<Vec<f32>>>, shape: &Shape) -> Result<(CpuStorage, Shape)> {
    let taken = output.lock().ok().and_then(|mut output| output.take());
    match taken {
        Some(output) => Ok((CpuStorage::F32(output), shape.clone())),
        None => candle_core::bail!("an operation of training ran twice"),
    }
}

fn channels_and_plane(x: &Tensor) -> Result<(usize, usize)> {
    let (_, channels, height, width) = x.dims4()?;
    if x.elem_count() == 0 {
        candle_core::bail!("nothing to learn from in {:?}", x.dims());
    }
    Ok((channels, height * width))
}

fn zip_parts(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    let mut found = vec![0.0_f32; a.len()];
    let inputs = a.par_chunks(PART).zip(b.par_chunks(PART));
    found
        .par_chunks_mut(PART)
        .zip(inputs)
        .for_each(|(found, (a, b))| {
            for ((found, a), b) in found.iter_mut().zip(a).zip(b) {
                *found = of(*a, *b);
            }
        });
    found
}

fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&numbers[start..end]),
        _ => candle_core::bail!("training on the CPU needs contiguous f32"),
    }
}

fn numbers_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&mut numbers[start..end]),
        _ => candle_core::bail!("training on the CPU needs contiguous f32"),
    }
}

/// Reads the numbers of a contiguous tensor on the CPU.
fn with_numbers<T>(x: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(numbers(storage, layout)?)),
        _ => candle_core::bail!("training on the CPU was given another device"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::reference;
    use crate::testing::made_up;

    fn variable(name: &str, shape: &[usize]) -> Var {
        let tensor = Tensor::from_vec(made_up(name, shape), shape, &Device::Cpu).unwrap();
        Var::from_tensor(&tensor).unwrap()
    }

    fn assert_near(found: &Tensor, expected: &Tensor, what: &str) {
        assert_eq!(found.dims(), expected.dims(), "{what}");
        let most = |x: &Tensor| {
            let most = x.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            most.to_scalar::<f32>().unwrap()
        };
        let off = most(&(found - expected).unwrap()) / most(expected).max(1e-3);
        assert!(off < 2e-5, "{what}: off by {off}");
    }

    /// A loss that weighs every output differently.
    fn loss(y: &Tensor) -> Tensor {
        let weights = made_up("loss.weights", y.dims());
        let weights = Tensor::from_vec(weights, y.shape(), &Device::Cpu).unwrap();
        (y * weights).unwrap().sum_all().unwrap()
    }

    /// Those of `ResNet` and `OSNet` among them, and odd ones; numbers of images; sizes. Candle's
    /// own gradients need heights and widths that leave the same rest at a stride.
    fn convs() -> Vec<(Conv, usize, [usize; 2])> {
        let convs = [
            (Conv::new(5, 7, 3), 3),
            (Conv::new(5, 7, 3).stride(2), 2),
            (Conv::new(6, 4, 1), 9),
            (Conv::new(6, 4, 1).stride(2), 4),
            (Conv::new(3, 8, 7).stride(2), 2),
            (Conv::new(4, 3, 2).stride(3).padding(1), 2),
            (Conv::depthwise(6, 3), 3),
            (Conv::depthwise(6, 5).padding(1), 2),
        ];
        let mut cases = Vec::new();
        for (conv, batch) in convs {
            for size in [[13, 7], [14, 8]] {
                cases.push((conv, batch, size));
            }
        }
        cases
    }

    // candle's own convolution and gradients are the yardstick.
    #[test]
    fn convolutions_have_candles_gradients() {
        for (conv, batch, [height, width]) in convs() {
            let x = variable("x", &[batch, conv.input, height, width]);
            let (o, i, k, l) = conv.weight_shape();
            let weight = variable("weight", &[o, i, k, l]);
            let found = conv2d(&x, &weight, &conv).unwrap();
            let expected = reference::conv2d(&x, &weight, None, &conv).unwrap();
            let what = format!("{conv:?}");
            assert_near(&found, &expected, &what);
            let found = loss(&found).backward().unwrap();
            let expected = loss(&expected).backward().unwrap();
            for var in [&x, &weight] {
                assert_near(found.get(var).unwrap(), expected.get(var).unwrap(), &what);
            }
        }
    }

    // candle's convolution, batch norm and ReLU are the yardstick.
    #[test]
    fn norms_have_candles_gradients_and_statistics() {
        for (conv, batch, [height, width]) in convs() {
            for activation in [Activation::Identity, Activation::Relu] {
                let conv = conv.activation(activation);
                let x = variable("x", &[batch, conv.input, height, width]);
                let (o, i, k, l) = conv.weight_shape();
                let weight = variable("weight", &[o, i, k, l]);
                let (gamma, beta) = (variable("norm.weight", &[o]), variable("norm.bias", &[o]));
                let statistics = || {
                    let mean = variable("norm.running_mean", &[o]);
                    (mean, variable("norm.running_var", &[o]))
                };
                let (mean, var) = statistics();
                let norm = Norm {
                    weight: &gamma,
                    bias: &beta,
                    running_mean: &mean,
                    running_var: &var,
                    eps: 1e-5,
                };
                let found = conv_norm(&x, &weight, &norm, &conv).unwrap();
                let (plain_mean, plain_var) = statistics();
                let plain = candle_nn::BatchNorm::new(
                    o,
                    plain_mean.as_tensor().clone(),
                    plain_var.as_tensor().clone(),
                    gamma.as_tensor().clone(),
                    beta.as_tensor().clone(),
                    1e-5,
                )
                .unwrap();
                let expected = reference::conv2d(&x, &weight, None, &conv).unwrap();
                let expected = plain.forward_train(&expected).unwrap();
                let expected = activation.apply(&expected).unwrap();
                let what = format!("{conv:?}");
                assert_near(&found, &expected, &what);
                assert_near(&mean, &plain_mean, &what);
                assert_near(&var, &plain_var, &what);
                let found = loss(&found).backward().unwrap();
                let expected = loss(&expected).backward().unwrap();
                for var in [&x, &weight, &gamma, &beta] {
                    assert_near(found.get(var).unwrap(), expected.get(var).unwrap(), &what);
                }
            }
        }
    }

    #[test]
    fn sums_with_relu_have_candles_gradients() {
        let (a, b) = (variable("a", &[2, 3, 5, 4]), variable("b", &[2, 3, 5, 4]));
        let found = add_relu(&a, &b).unwrap();
        let expected = (a.as_tensor() + b.as_tensor()).unwrap().relu().unwrap();
        assert_near(&found, &expected, "sum");
        let found = loss(&found).backward().unwrap();
        let expected = loss(&expected).backward().unwrap();
        for var in [&a, &b] {
            assert_near(found.get(var).unwrap(), expected.get(var).unwrap(), "sum");
        }
    }
}
