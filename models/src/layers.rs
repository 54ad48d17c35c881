//! The layers that networks are written from.
//!
//! A layer decides how it runs: for training as plain candle operations that gradients flow
//! through, for inference through [`crate::ops`], batch norms folded into the convolutions before
//! them (see [`Mode`]). Networks mention neither mode nor device.

use candle_core::{DType, Device, Module, ModuleT, Result, Tensor};
use candle_nn::VarBuilder;

use crate::ops::{self, SampleShape, mixed};

pub use crate::ops::mixed::check as check_mixed;
pub use crate::ops::{Activation, Precision};

/// What a network is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch norms folded, fused operations, no gradients.
    Inference,
    /// Plain candle operations that gradients flow through; batch norms use the statistics in the
    /// weights, as in PyTorch's `eval()`.
    Evaluation,
    /// As [`Mode::Evaluation`], but batch norms use the batch's statistics and update their own.
    Training,
}

impl Mode {
    /// Whether layers run as plain candle operations.
    pub fn is_plain(self) -> bool {
        self != Self::Inference
    }
}

impl Precision {
    /// What a network whose numbers are to be `dtype` is built with on `device`: the type of its
    /// tensors and the precision of its products. On the CPU tensors are f32 in either case.
    ///
    /// # Errors
    /// The CPU has no instructions for products of `dtype`.
    pub fn on(device: &Device, dtype: DType) -> Result<(DType, Self)> {
        match (device.is_cpu(), dtype) {
            (true, DType::BF16) if Self::Bf16.available() => Ok((DType::F32, Self::Bf16)),
            (true, DType::BF16) => {
                candle_core::bail!("this CPU has no bfloat16 products (AVX512-BF16)")
            }
            _ => Ok((dtype, Self::F32)),
        }
    }
}

/// The weights of a network or a part of it, and how the part is to be built.
#[derive(Clone)]
pub struct Params {
    vb: VarBuilder<'static>,
    mode: Mode,
    batch_norm_eps: f64,
    precision: Precision,
}

impl Params {
    /// Weights from `vb`; `batch_norm_eps` is 1e-5 in PyTorch, 1e-3 in Ultralytics.
    pub fn new(vb: VarBuilder<'static>, mode: Mode, batch_norm_eps: f64) -> Self {
        Self {
            vb,
            mode,
            batch_norm_eps,
            precision: Precision::F32,
        }
    }

    /// The same, with products in `precision`: for inference where the CPU has a kernel for that,
    /// for training anywhere ([`check_mixed`]).
    #[must_use]
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Whether it is built for inference by the CPU's kernels, which take f32.
    pub fn has_cpu_kernels(&self) -> bool {
        !self.mode.is_plain() && self.device().is_cpu() && self.dtype() == DType::F32
    }

    /// What products are to be computed in.
    pub fn precision_of_products(&self) -> Precision {
        self.precision
    }

    /// What products are computed in where operations are plain: inference has kernels that know
    /// for themselves.
    pub fn plain_products(&self) -> Precision {
        if self.mode.is_plain() {
            self.precision
        } else {
            Precision::F32
        }
    }

    /// The part called `name`.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self {
            vb: self.vb.pp(name.to_string()),
            ..self.clone()
        }
    }

    /// The tensor `name` of this part, checked to have `shape`.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn get(&self, shape: impl Into<candle_core::Shape>, name: &str) -> Result<Tensor> {
        self.vb.get(shape.into(), name)
    }

    /// What is built.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where it is built.
    pub fn device(&self) -> &Device {
        self.vb.device()
    }

    /// The type that it computes in.
    pub fn dtype(&self) -> DType {
        self.vb.dtype()
    }
}

/// Sizes of a convolution with square kernel.
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Kernel side in pixels.
    pub kernel: usize,
    /// Step in pixels.
    pub stride: usize,
    /// Zeros around the input, in pixels.
    pub padding: usize,
    /// Further rows and columns of zeros at the far ends: even kernels keep the size by one.
    pub far: usize,
    /// Channel groups; equal to `input` for a depthwise convolution.
    pub groups: usize,
    /// The first so many input channels mostly come from a coarser level, see
    /// [`ops::Conv2d::forward_parts`]; 0 where none do.
    pub coarse: usize,
    /// What follows.
    pub activation: Activation,
}

impl Conv {
    /// A dense convolution that keeps the size at stride 1: padding `(kernel - 1) / 2`.
    pub fn new(input: usize, output: usize, kernel: usize) -> Self {
        Self {
            input,
            output,
            kernel,
            stride: 1,
            padding: (kernel - 1) / 2,
            far: 0,
            groups: 1,
            coarse: 0,
            activation: Activation::Identity,
        }
    }

    /// A depthwise convolution: one filter a channel.
    pub fn depthwise(channels: usize, kernel: usize) -> Self {
        Self {
            groups: channels,
            ..Self::new(channels, channels, kernel)
        }
    }

    /// The same with another stride.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// The same with another padding.
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The same with further zeros at the far ends.
    pub fn far(self, far: usize) -> Self {
        Self { far, ..self }
    }

    /// The same with another number of groups.
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// The same whose first `coarse` input channels mostly come from a coarser level.
    pub fn coarse(self, coarse: usize) -> Self {
        Self { coarse, ..self }
    }

    /// The same followed by an activation.
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Rows and columns of the output for those of the input; `None` where the kernel is larger.
    pub fn output_size(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        let side = |size: usize| {
            let places = (size + 2 * self.padding + self.far).checked_sub(self.kernel)?;
            Some(places / self.stride + 1)
        };
        Some((side(height)?, side(width)?))
    }

    /// `x` with its zeros at the far ends, and the convolution that is left for that.
    pub(crate) fn with_far_zeros(&self, x: &Tensor) -> Result<(Tensor, Self)> {
        if self.far == 0 {
            return Ok((x.clone(), *self));
        }
        let padded = x.pad_with_zeros(2, 0, self.far)?;
        Ok((padded.pad_with_zeros(3, 0, self.far)?, self.far(0)))
    }

    /// Shape of the weight: `[output, input / groups, kernel, kernel]`.
    pub fn weight_shape(&self) -> (usize, usize, usize, usize) {
        (
            self.output,
            self.input / self.groups,
            self.kernel,
            self.kernel,
        )
    }
}

/// Convolution, batch norm where there is one, activation.
pub struct ConvNormAct {
    form: ConvForm,
}

enum ConvForm {
    /// Weight and bias with the norm folded in.
    Fused(ops::Conv2d),
    Plain {
        conv: Conv,
        weight: Tensor,
        bias: Option<Tensor>,
        norm: Option<candle_nn::BatchNorm>,
        training: bool,
        precision: Precision,
    },
}

impl ConvNormAct {
    /// A convolution without bias under `conv` and its batch norm under `norm`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(conv: Conv, conv_params: &Params, norm_params: &Params) -> Result<Self> {
        let weight = conv_params.get(conv.weight_shape(), "weight")?;
        if conv_params.mode.is_plain() {
            let norm = plain_batch_norm(conv.output, norm_params)?;
            return Ok(Self {
                form: ConvForm::Plain {
                    conv,
                    weight,
                    bias: None,
                    norm: Some(norm),
                    training: conv_params.mode == Mode::Training,
                    precision: conv_params.precision,
                },
            });
        }
        let (weight, bias) = fold_batch_norm(&weight, None, norm_params)?;
        Self::packed(conv, &weight, Some(&bias), conv_params)
    }

    /// The same where one part holds both: the convolution as `conv`, the norm as `norm_name`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn with_norm(conv: Conv, params: &Params, norm_name: &str) -> Result<Self> {
        Self::new(conv, &params.pp("conv"), &params.pp(norm_name))
    }

    /// A convolution with neither bias nor norm, tensor `weight` under `params`.
    ///
    /// # Errors
    /// The tensor is missing or has the wrong shape.
    pub fn without_norm(conv: Conv, params: &Params) -> Result<Self> {
        let weight = params.get(conv.weight_shape(), "weight")?;
        if params.mode.is_plain() {
            return Ok(Self {
                form: ConvForm::Plain {
                    conv,
                    weight,
                    bias: None,
                    norm: None,
                    training: params.mode == Mode::Training,
                    precision: params.precision,
                },
            });
        }
        Self::packed(conv, &weight, None, params)
    }

    /// A convolution with bias and no norm, tensors `weight` and `bias` under `params`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn with_bias(conv: Conv, params: &Params) -> Result<Self> {
        let weight = params.get(conv.weight_shape(), "weight")?;
        let bias = params.get(conv.output, "bias")?;
        if params.mode.is_plain() {
            return Ok(Self {
                form: ConvForm::Plain {
                    conv,
                    weight,
                    bias: Some(bias),
                    norm: None,
                    training: params.mode == Mode::Training,
                    precision: params.precision,
                },
            });
        }
        Self::packed(conv, &weight, Some(&bias), params)
    }

    fn packed(conv: Conv, weight: &Tensor, bias: Option<&Tensor>, params: &Params) -> Result<Self> {
        let conv = ops::Conv2d::with_precision(conv, weight, bias, params.precision)?;
        Ok(Self {
            form: ConvForm::Fused(conv),
        })
    }

    /// The convolution of what [`Tensor::cat`] of `parts` over the channels would give; parts smaller than
    /// the last one are up-sampled to its size (nearest neighbour).
    ///
    /// # Errors
    /// The shapes do not fit, or the device fails.
    pub fn forward_parts(&self, parts: &[&Tensor]) -> Result<Tensor> {
        match &self.form {
            ConvForm::Fused(conv) => conv.forward_parts(parts),
            ConvForm::Plain { .. } => self.forward(&ops::joined(parts)?),
        }
    }

    /// [`ConvNormAct::forward_parts`] plus `added`, which has the shape of the result; `relu` makes
    /// zeros of what is then below zero.
    ///
    /// # Errors
    /// The shapes do not fit, or the device fails.
    pub fn forward_sum(&self, parts: &[&Tensor], added: &Tensor, relu: bool) -> Result<Tensor> {
        if let ConvForm::Fused(conv) = &self.form {
            return conv.forward_sum(parts, added, relu);
        }
        let y = self.forward_parts(parts)?;
        if relu {
            ops::add_relu(&y, added)
        } else {
            y + added
        }
    }

    /// The same with what the activation gives multiplied by `scale`, and `shift` added; only for
    /// inference.
    ///
    /// # Errors
    /// The layer was built for training.
    pub fn scaled(self, scale: f32, shift: f32) -> Result<Self> {
        match self.form {
            ConvForm::Fused(conv) => Ok(Self {
                form: ConvForm::Fused(conv.scaled(scale, shift)),
            }),
            ConvForm::Plain { .. } => candle_core::bail!("layers for training scale by tensors"),
        }
    }

    /// An inference convolution from weights that are final already, with products in `precision`.
    ///
    /// # Errors
    /// The shapes do not fit `conv`.
    pub fn fused(
        conv: Conv,
        weight: &Tensor,
        bias: Option<&Tensor>,
        precision: Precision,
    ) -> Result<Self> {
        let conv = ops::Conv2d::with_precision(conv, weight, bias, precision)?;
        Ok(Self {
            form: ConvForm::Fused(conv),
        })
    }
}

impl Module for ConvNormAct {
    // [batch, input, height, width] -> [batch, output, height', width']
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.form {
            ConvForm::Fused(conv) => conv.forward(x),
            ConvForm::Plain {
                conv,
                weight,
                bias,
                norm,
                training,
                precision,
            } => {
                let (x, conv) = &conv.with_far_zeros(x)?;
                let (x, weight) = &match precision {
                    Precision::F32 => (x.clone(), weight.clone()),
                    Precision::Bf16 => (mixed::operand(x)?, mixed::operand(weight)?),
                };
                let quick = *training && ops::training::takes(x, conv);
                if quick && let Some(norm) = norm.as_ref().and_then(learnt_norm) {
                    return ops::training::conv_norm(x, weight, &norm, conv);
                }
                let mut y = match bias {
                    None if quick => ops::training::conv2d(x, weight, conv)?,
                    _ => ops::conv2d_with_gradients(x, weight, None, conv)?,
                };
                if *precision == Precision::Bf16 {
                    y = mixed::result(&y)?;
                }
                if let Some(bias) = bias {
                    y = y.broadcast_add(&bias.reshape((1, conv.output, 1, 1))?)?;
                }
                if let Some(norm) = norm {
                    y = norm.forward_t(&y, *training)?;
                }
                conv.activation.apply(&y)
            }
        }
    }
}

/// Runs `layers` one after the other.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn forward_all<M: Module>(layers: &[M], x: &Tensor) -> Result<Tensor> {
    let mut x = x.clone();
    for layer in layers {
        x = layer.forward(&x)?;
    }
    Ok(x)
}

/// The tensors of a norm, if it has all of them.
fn learnt_norm(norm: &candle_nn::BatchNorm) -> Option<ops::training::Norm<'_>> {
    let (weight, bias) = norm.weight_and_bias()?;
    Some(ops::training::Norm {
        weight,
        bias,
        running_mean: norm.running_mean(),
        running_var: norm.running_var(),
        eps: norm.eps(),
    })
}

fn plain_batch_norm(channels: usize, params: &Params) -> Result<candle_nn::BatchNorm> {
    let config = candle_nn::BatchNormConfig {
        eps: params.batch_norm_eps,
        ..Default::default()
    };
    candle_nn::batch_norm(channels, config, params.vb.clone())
}

/// A batch norm that follows no convolution, such as the neck of a re-identification network.
pub struct BatchNorm {
    form: NormForm,
}

enum NormForm {
    /// `[channels]` each.
    Fused { scale: Tensor, shift: Tensor },
    Plain {
        norm: candle_nn::BatchNorm,
        training: bool,
    },
}

impl BatchNorm {
    /// Tensors `weight`, `bias`, `running_mean` and `running_var` under `params`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(channels: usize, params: &Params) -> Result<Self> {
        if params.mode.is_plain() {
            let norm = plain_batch_norm(channels, params)?;
            let training = params.mode == Mode::Training;
            return Ok(Self {
                form: NormForm::Plain { norm, training },
            });
        }
        let ones = Tensor::ones((channels, 1, 1, 1), params.dtype(), params.device())?;
        let (scale, shift) = fold_batch_norm(&ones, None, params)?;
        let scale = scale.flatten_all()?;
        Ok(Self {
            form: NormForm::Fused { scale, shift },
        })
    }
}

impl Module for BatchNorm {
    // [batch, channels, ..] -> the same
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.form {
            NormForm::Plain { norm, training } => norm.forward_t(x, *training),
            NormForm::Fused { scale, shift } => {
                let shape = channel_shape(x)?;
                let scaled = x.broadcast_mul(&scale.reshape(shape.as_slice())?)?;
                scaled.broadcast_add(&shift.reshape(shape.as_slice())?)
            }
        }
    }
}

/// `[1, channels, 1, ..]`: the shape of one number a channel, beside `x`.
fn channel_shape(x: &Tensor) -> Result<Vec<usize>> {
    let mut shape = vec![1; x.rank()];
    shape[1] = x.dim(1)?;
    Ok(shape)
}

/// Instance norm (Ulyanov et al., 2016) with weight and bias: every channel of every image gets
/// mean 0 and variance 1 before them. Keeps no statistics, so it never folds.
pub struct InstanceNorm {
    weight: Tensor, // [1, channels, 1]
    bias: Tensor,   // [1, channels, 1]
}

impl InstanceNorm {
    const EPS: f64 = 1e-5;

    /// Tensors `weight` and `bias` under `params`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(channels: usize, params: &Params) -> Result<Self> {
        let shape = (1, channels, 1);
        Ok(Self {
            weight: params.get(channels, "weight")?.reshape(shape)?,
            bias: params.get(channels, "bias")?.reshape(shape)?,
        })
    }
}

impl Module for InstanceNorm {
    // [batch, channels, height, width] -> the same
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let flat = x.flatten_from(2)?;
        let centred = flat.broadcast_sub(&flat.mean_keepdim(2)?)?;
        let variance = centred.sqr()?.mean_keepdim(2)?;
        let scale = self
            .weight
            .broadcast_div(&(variance + Self::EPS)?.sqrt()?)?;
        centred
            .broadcast_mul(&scale)?
            .broadcast_add(&self.bias)?
            .reshape(x.shape())
    }
}

/// Weight and bias of a convolution with its batch norm folded in.
///
/// # Errors
/// A tensor of the norm is missing or has the wrong shape.
pub fn fold_batch_norm(
    weight: &Tensor,
    bias: Option<&Tensor>,
    norm: &Params,
) -> Result<(Tensor, Tensor)> {
    let channels = weight.dim(0)?;
    // In double precision, so that folding rounds once and not at every step.
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64);
    let gamma = wide(&norm.get(channels, "weight")?)?;
    let beta = wide(&norm.get(channels, "bias")?)?;
    let mean = wide(&norm.get(channels, "running_mean")?)?;
    let variance = wide(&norm.get(channels, "running_var")?)?;
    let scale = (gamma / (variance + norm.batch_norm_eps)?.sqrt()?)?;
    let mean = match bias {
        Some(bias) => (mean - wide(bias)?)?,
        None => mean,
    };
    let folded = wide(weight)?.broadcast_mul(&scale.reshape((channels, 1, 1, 1))?)?;
    let bias = (beta - (mean * scale)?)?;
    let dtype = weight.dtype();
    Ok((folded.to_dtype(dtype)?, bias.to_dtype(dtype)?))
}

/// A convolution without bias, `weight` under `params`, with its batch norm folded in.
///
/// # Errors
/// A tensor is missing or has the wrong shape.
pub(crate) fn folded_convolution(
    conv: &Conv,
    params: &Params,
    norm: &Params,
) -> Result<ops::Folded> {
    let weight = params.get(conv.weight_shape(), "weight")?;
    let (weight, bias) = fold_batch_norm(&weight, None, norm)?;
    Ok(ops::Folded {
        weight: weight.flatten_all()?.to_vec1()?,
        bias: bias.to_vec1()?,
    })
}

/// A linear layer with bias and activation: `x · weightᵀ + bias`.
pub struct Linear {
    form: Product,
    activation: Activation,
}

enum Product {
    /// For inference.
    Packed(ops::Dense),
    Plain {
        weight: Tensor, // [output, input]
        bias: Tensor,   // [output]
        precision: Precision,
    },
}

impl Linear {
    /// Tensors `weight` and `bias` under `params`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(input: usize, output: usize, params: &Params) -> Result<Self> {
        Self::from_tensors(
            params.get((output, input), "weight")?,
            params.get(output, "bias")?,
            params,
        )
    }

    /// A layer from tensors that are loaded already, built as `params` says.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn from_tensors(weight: Tensor, bias: Tensor, params: &Params) -> Result<Self> {
        let dense = if params.mode.is_plain() {
            None
        } else {
            ops::Dense::new(&weight, &bias, params.precision)?
        };
        Ok(Self {
            form: match dense {
                Some(dense) => Product::Packed(dense),
                None => Product::Plain {
                    weight,
                    bias,
                    precision: params.plain_products(),
                },
            },
            activation: Activation::Identity,
        })
    }

    /// The same followed by an activation.
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }
}

impl Module for Linear {
    // [.., input] -> [.., output]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias, precision) = match &self.form {
            Product::Packed(dense) => return dense.forward(x, self.activation),
            Product::Plain {
                weight,
                bias,
                precision,
            } => (weight, bias, *precision),
        };
        let dims = x.dims().to_vec();
        let Some((&input, leading)) = dims.split_last() else {
            candle_core::bail!("a linear layer needs at least one dimension")
        };
        let rows: usize = leading.iter().product();
        // One matrix product over all leading dimensions: candle runs batched ones one by one.
        let y = mixed::matmul(&x.reshape((rows, input))?, &weight.t()?, precision)?;
        let mut shape = leading.to_vec();
        shape.push(bias.dim(0)?);
        ops::add_bias(y, bias, self.activation)?.reshape(shape)
    }
}

/// Linear layer, batch norm, activation: what makes a vector of a network's last features.
pub struct LinearNormAct {
    form: LinearForm,
}

enum LinearForm {
    /// Folded, as a pointwise convolution of images of one pixel: it takes image by image, so that
    /// no bit of a vector depends on the batch it came in.
    Fused(ops::Conv2d),
    Plain {
        linear: Linear,
        norm: BatchNorm,
        activation: Activation,
    },
}

impl LinearNormAct {
    /// Tensors `weight` and `bias` under `linear`, a batch norm under `norm`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(
        input: usize,
        output: usize,
        activation: Activation,
        linear: &Params,
        norm: &Params,
    ) -> Result<Self> {
        if linear.mode.is_plain() {
            return Ok(Self {
                form: LinearForm::Plain {
                    linear: Linear::new(input, output, linear)?,
                    norm: BatchNorm::new(output, norm)?,
                    activation,
                },
            });
        }
        let conv = Conv::new(input, output, 1).activation(activation);
        let weight = linear.get((output, input), "weight")?;
        let weight = weight.reshape(conv.weight_shape())?;
        let bias = linear.get(output, "bias")?;
        let (weight, bias) = fold_batch_norm(&weight, Some(&bias), norm)?;
        Ok(Self {
            form: LinearForm::Fused(ops::Conv2d::with_precision(
                conv,
                &weight,
                Some(&bias),
                linear.precision,
            )?),
        })
    }
}

impl Module for LinearNormAct {
    // [batch, input] -> [batch, output]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.form {
            LinearForm::Fused(conv) => {
                let (batch, input) = x.dims2()?;
                conv.forward(&x.reshape((batch, input, 1, 1))?)?
                    .flatten_from(1)
            }
            LinearForm::Plain {
                linear,
                norm,
                activation,
            } => activation.apply(&norm.forward(&linear.forward(x)?)?),
        }
    }
}

/// Linear layers with an activation between them (the heads of DETR-like networks).
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// Layers `layers.0` … under `params`, through `sizes` (first the input's).
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(sizes: &[usize], activation: Activation, params: &Params) -> Result<Self> {
        let mut layers = Vec::new();
        for (index, pair) in sizes.windows(2).enumerate() {
            let layer = Linear::new(pair[0], pair[1], &params.pp("layers").pp(index))?;
            let last = index + 2 == sizes.len();
            layers.push(if last {
                layer
            } else {
                layer.activation(activation)
            });
        }
        Ok(Self { layers })
    }
}

impl Module for Mlp {
    // [.., first] -> [.., last]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        forward_all(&self.layers, x)
    }
}

/// Layer norm over the last dimension, epsilon 1e-5.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    const EPS: f32 = 1e-5;

    /// Tensors `weight` and `bias` under `params`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(size: usize, params: &Params) -> Result<Self> {
        Ok(Self {
            weight: params.get(size, "weight")?,
            bias: params.get(size, "bias")?,
        })
    }
}

impl Module for LayerNorm {
    // [.., size] -> [.., size]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let describe = || (format!("layer norm, {:?}", x.dims()), 0.0);
        ops::profile::timed(describe, || {
            ops::layer_norm(x, &self.weight, &self.bias, Self::EPS)
        })
    }
}

/// Multi-head attention with PyTorch's packed projection (`in_proj_weight`, `in_proj_bias`,
/// `out_proj`), without mask or dropout.
pub struct MultiHeadAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
    precision: Precision,
}

impl MultiHeadAttention {
    /// `size` features in `heads` heads.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(size: usize, heads: usize, params: &Params) -> Result<Self> {
        let weight = params.get((3 * size, size), "in_proj_weight")?;
        let bias = params.get(3 * size, "in_proj_bias")?;
        let part = |index: usize| -> Result<Linear> {
            Linear::from_tensors(
                weight.narrow(0, index * size, size)?.contiguous()?,
                bias.narrow(0, index * size, size)?.contiguous()?,
                params,
            )
        };
        Ok(Self {
            query: part(0)?,
            key: part(1)?,
            value: part(2)?,
            out: Linear::new(size, size, &params.pp("out_proj"))?,
            heads,
            precision: params.precision,
        })
    }

    /// `query`, `key`, `value`: `[batch, length, size]`; the result has the query's shape.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let query = self.query.forward(query)?;
        let key = self.key.forward(key)?;
        let value = self.value.forward(value)?;
        let mixed = ops::attention(&query, &key, &value, self.heads, self.precision)?;
        self.out.forward(&mixed)
    }
}

/// Multi-scale deformable attention (Zhu et al., Deformable DETR, 2021) of boxes.
pub struct DeformableAttention {
    sampling_offsets: Linear,
    attention_weights: Linear,
    /// Before and after the sampling; without them the levels are sampled as they are.
    projections: Option<(Values, Linear)>,
    heads: usize,
    /// One over the number of points of a sample's level: `[points, 1]`.
    point_scale: Tensor,
}

/// The projection of what is sampled.
enum Values {
    /// Of all cells, before.
    Cells(Linear),
    /// Of the samples, afterwards: for inference.
    Samples(ops::ValueProjection),
}

impl Values {
    fn new(size: usize, heads: usize, params: &Params) -> Result<Self> {
        let weight = params.get((size, size), "weight")?;
        let bias = params.get(size, "bias")?;
        if !params.mode.is_plain()
            && let Some(projection) =
                ops::ValueProjection::new(&weight, &bias, heads, params.precision)?
        {
            return Ok(Self::Samples(projection));
        }
        Ok(Self::Cells(Linear::from_tensors(weight, bias, params)?))
    }
}

impl DeformableAttention {
    /// `size` features in `heads` heads, which sample `points` points of each level; `projected`
    /// where there are `value_proj` and `output_proj`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(
        size: usize,
        heads: usize,
        points: &[usize],
        projected: bool,
        params: &Params,
    ) -> Result<Self> {
        let mut scale = Vec::new();
        for &count in points {
            scale.extend(std::iter::repeat_n(1.0 / count as f32, count));
        }
        let samples = heads * scale.len();
        let scale_shape = (scale.len(), 1);
        let projections = if projected {
            Some((
                Values::new(size, heads, &params.pp("value_proj"))?,
                Linear::new(size, size, &params.pp("output_proj"))?,
            ))
        } else {
            None
        };
        Ok(Self {
            sampling_offsets: Linear::new(size, samples * 2, &params.pp("sampling_offsets"))?,
            attention_weights: Linear::new(size, samples, &params.pp("attention_weights"))?,
            projections,
            heads,
            point_scale: Tensor::from_vec(scale, scale_shape, params.device())?
                .to_dtype(params.dtype())?,
        })
    }

    /// What layers like this one sample of `memory`, made once for all of them.
    ///
    /// # Errors
    /// The device fails.
    pub fn sampled(&self, memory: &Tensor) -> Result<Tensor> {
        match &self.projections {
            Some((Values::Samples(projection), _)) => projection.sampled(memory),
            _ => Ok(memory.clone()),
        }
    }

    /// `query`: `[batch, queries, size]`; `reference`: boxes, centre and size in 0..=1,
    /// `[batch, queries, 4]`; `memory`: the levels of `shape` one after the other,
    /// `[batch, cells, size]`, as they are or [`Self::sampled`]. The result has the query's shape.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(
        &self,
        query: &Tensor,
        reference: &Tensor,
        memory: &Tensor,
        shape: &SampleShape,
    ) -> Result<Tensor> {
        let (batch, queries, size) = query.dims3()?;
        let (heads, points) = (self.heads, shape.total_points());
        let weights = self.attention_weights.forward(query)?;
        let weights = weights.reshape((batch, queries, heads, points))?;
        let weights = ops::softmax(&weights)?;
        // Offsets are in half boxes, shared out over the points of a level.
        let offsets = self.sampling_offsets.forward(query)?;
        let offsets = offsets.reshape((batch, queries, heads, points, 2))?;
        let locations = ops::box_locations(&offsets, &reference.contiguous()?, &self.point_scale)?;
        let cells = shape.total_cells();
        let sample = |value: &Tensor| {
            let describe = || {
                let operations = 8 * points * query.elem_count();
                (
                    format!("deformable attention, {queries} queries"),
                    operations as f64,
                )
            };
            let value = value.reshape((batch, cells, heads, size / heads))?;
            ops::profile::timed(describe, || {
                ops::deformable_attention(&value, &locations, &weights, shape)
            })
        };
        let mixed = match &self.projections {
            None => sample(memory)?,
            Some((Values::Cells(projection), _)) => sample(&projection.forward(memory)?)?,
            Some((Values::Samples(projection), _)) => {
                let describe = || {
                    let operations =
                        8 * points * query.elem_count() + 2 * memory.elem_count() * size;
                    (
                        format!(
                            "deformable attention, {queries} queries, projection of {cells} cells"
                        ),
                        operations as f64,
                    )
                };
                ops::profile::timed(describe, || {
                    projection.attend(memory, &locations, &weights, shape)
                })?
            }
        };
        match &self.projections {
            Some((_, output_proj)) => output_proj.forward(&mixed),
            None => Ok(mixed),
        }
    }
}
