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
mod tape;
mod tile;
mod unfolded;
mod weights;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, Var};
use rayon::prelude::*;

pub use self::adam::Adam;
use self::conv::Sizes;
use self::tape::{Input, Step, computed};
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
    let affine = Tensor::stack(&[norm.weight, norm.bias], 0)?;
    let inputs = [Input::new(x)?, Input::new(weight)?, Input::new(&affine)?];
    let [x, weight, affine] = &inputs;
    let sizes = Sizes::new(&x.numbers, &weight.numbers, conv)?;
    let size = sizes.output.cells();
    let raw = plain_conv(&x.numbers, &weight.numbers, &sizes)?;
    let affine = affine.numbers.flatten_all()?.to_vec1::<f32>()?;
    if affine.len() != 2 * conv.output {
        candle_core::bail!("a norm of {} numbers for {conv:?}", affine.len());
    }
    let (output, stats) = norm::forward(&raw, &affine, size, norm.eps, relu);
    update_running(norm, &stats, raw.len() / conv.output)?;
    let step = ConvNorm {
        conv: Convolution::new(x, weight, sizes),
        raw,
        mean: stats.mean,
        inverse: stats.inverse,
        affine,
        relu,
    };
    computed(step, inputs.into(), output, sizes.dims())
}

/// Convolution without bias and activation.
///
/// # Errors
/// The shapes do not fit.
pub(crate) fn conv2d(x: &Tensor, weight: &Tensor, conv: &Conv) -> Result<Tensor> {
    let inputs = [Input::new(x)?, Input::new(weight)?];
    let [x, weight] = &inputs;
    let sizes = Sizes::new(&x.numbers, &weight.numbers, conv)?;
    let output = plain_conv(&x.numbers, &weight.numbers, &sizes)?;
    let step = Convolution::new(x, weight, sizes);
    computed(step, inputs.into(), output, sizes.dims())
}

/// `max(a + b, 0)`.
///
/// # Errors
/// The shapes differ.
pub(crate) fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        candle_core::bail!("{:?} and {:?} added", a.dims(), b.dims());
    }
    let shape = a.shape();
    let inputs = [Input::new(a)?, Input::new(b)?];
    let [a, b] = [&inputs[0].numbers, &inputs[1].numbers];
    let output = with_numbers(a, |a| {
        with_numbers(b, |b| zip_parts(a, b, |a, b| (a + b).max(0.0)))
    })??;
    let step = AddRelu {
        a: a.clone(),
        b: b.clone(),
        wanted: [inputs[0].is_tracked(), inputs[1].is_tracked()],
    };
    computed(step, inputs.into(), output, shape)
}

/// [`super::max_pool2d`].
///
/// # Errors
/// The shape does not fit.
pub(crate) fn max_pool2d(x: &Tensor, window: Window) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let x = Input::new(x)?;
    let output = with_numbers(&x.numbers, |x| cpu::pool::max(x, (height, width), window))?;
    let (rows, columns) = (window.count(height), window.count(width));
    let step = MaxPool {
        x: x.numbers.clone(),
        window,
    };
    computed(step, vec![x], output, (batch, channels, rows, columns))
}

/// Without bias and activation.
fn plain_conv(x: &Tensor, weight: &Tensor, sizes: &Sizes) -> Result<Vec<f32>> {
    with_numbers(x, |x| {
        with_numbers(weight, |weight| conv::forward(x, weight, sizes))
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

/// A convolution alone, and as a part of others.
struct Convolution {
    x: Tensor,
    weight: Tensor,
    sizes: Sizes,
    /// Whether anybody asks for the input's gradient.
    to_input: bool,
}

impl Convolution {
    fn new(x: &Input, weight: &Input, sizes: Sizes) -> Self {
        Self {
            x: x.numbers.clone(),
            weight: weight.numbers.clone(),
            sizes,
            to_input: x.is_tracked(),
        }
    }

    /// Gradients of input and weight.
    fn back(&self, gradient: &[f32]) -> Result<[Option<Vec<f32>>; 2]> {
        let sizes = &self.sizes;
        let to_input = if self.to_input {
            Some(with_numbers(&self.weight, |weight| {
                conv::to_input(weight, gradient, sizes)
            })?)
        } else {
            None
        };
        let to_weight = with_numbers(&self.x, |x| conv::to_weight(x, gradient, sizes))?;
        Ok([to_input, Some(to_weight)])
    }
}

impl Step for Convolution {
    fn name(&self) -> &'static str {
        "conv-training"
    }

    fn backward(&self, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        Ok(self.back(&gradient)?.into())
    }
}

struct ConvNorm {
    conv: Convolution,
    /// What the convolution gave.
    raw: Vec<f32>,
    mean: Vec<f32>,
    inverse: Vec<f32>,
    /// All weights, then all biases.
    affine: Vec<f32>,
    relu: bool,
}

impl Step for ConvNorm {
    fn name(&self) -> &'static str {
        "conv-norm-training"
    }

    fn backward(&self, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let saved = norm::Saved {
            raw: &self.raw,
            relu: self.relu,
            mean: &self.mean,
            inverse: &self.inverse,
            affine: &self.affine,
            size: self.conv.sizes.output.cells(),
        };
        let (to_raw, to_affine) = norm::backward(&saved, &gradient);
        drop(gradient);
        let [to_x, to_weight] = self.conv.back(&to_raw)?;
        Ok(vec![to_x, to_weight, Some(to_affine)])
    }
}

struct AddRelu {
    a: Tensor,
    b: Tensor,
    wanted: [bool; 2],
}

impl Step for AddRelu {
    fn name(&self) -> &'static str {
        "add-relu-training"
    }

    fn backward(&self, mut gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        with_numbers(&self.a, |a| {
            with_numbers(&self.b, |b| {
                let inputs = a.par_chunks(PART).zip(b.par_chunks(PART));
                let jobs = gradient.par_chunks_mut(PART).zip(inputs);
                jobs.for_each(|(gradient, (a, b))| {
                    for ((gradient, a), b) in gradient.iter_mut().zip(a).zip(b) {
                        *gradient = if a + b > 0.0 { *gradient } else { 0.0 };
                    }
                });
            })
        })??;
        let [to_a, to_b] = self.wanted;
        Ok(match (to_a, to_b) {
            (true, true) => vec![Some(gradient.clone()), Some(gradient)],
            (true, false) => vec![Some(gradient), None],
            (false, _) => vec![None, Some(gradient)],
        })
    }
}

struct MaxPool {
    x: Tensor,
    window: Window,
}

impl Step for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool-training"
    }

    fn backward(&self, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let (_, _, height, width) = self.x.dims4()?;
        let to_x = with_numbers(&self.x, |x| {
            pool::backward(x, &gradient, (height, width), self.window)
        })?;
        Ok(vec![Some(to_x)])
    }
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
