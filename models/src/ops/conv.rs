//! Convolution for inference: weights prepared once, bias and activation fused where a kernel is.

use candle_core::{DType, Result, Tensor};

use crate::layers::Conv;

use super::cpu::block::Precision;
use super::cpu::conv::{Added, Size};
use super::cpu::product::Source;
#[cfg(feature = "cuda")]
use super::cuda;
use super::planes::{add_relu, fused, with_numbers};
use super::{cpu, profile, reference};

/// A convolution with final weights.
pub struct Conv2d {
    conv: Conv,
    form: Form,
    /// What the activation gives is multiplied by the first and the second is added.
    scale: Option<(f32, f32)>,
}

enum Form {
    /// Weights as the CPU kernels want them; only for f32 on the CPU.
    Packed(cpu::conv::Packed),
    Plain {
        weight: Tensor,
        bias: Option<Tensor>,
    },
}

impl Conv2d {
    /// `weight`: `[output, input / groups, kernel, kernel]`, `bias`: `[output]`.
    ///
    /// # Errors
    /// The shapes do not fit `conv`.
    pub fn new(conv: Conv, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Self::with_precision(conv, weight, bias, Precision::F32)
    }

    /// The same, with products in `precision` where the CPU has a kernel for them.
    ///
    /// # Errors
    /// The shapes do not fit `conv`.
    pub fn with_precision(
        conv: Conv,
        weight: &Tensor,
        bias: Option<&Tensor>,
        precision: Precision,
    ) -> Result<Self> {
        if weight.dims4()? != conv.weight_shape() {
            candle_core::bail!(
                "convolution weight: expected {:?}, found {:?}",
                conv.weight_shape(),
                weight.dims()
            );
        }
        let form = if weight.device().is_cpu() && weight.dtype() == DType::F32 {
            let bias = match bias {
                Some(bias) => bias.to_vec1::<f32>()?,
                None => vec![0.0; conv.output],
            };
            let weight = weight.flatten_all()?.to_vec1::<f32>()?;
            Form::Packed(cpu::conv::Packed::new(&conv, weight, bias, precision))
        } else {
            Form::Plain {
                weight: weight.clone(),
                bias: bias.cloned(),
            }
        };
        Ok(Self {
            conv,
            form,
            scale: None,
        })
    }

    /// The same by vector units of `level` at most.
    #[cfg(test)]
    pub(crate) fn at_level(
        conv: Conv,
        weight: &Tensor,
        bias: &Tensor,
        precision: Precision,
        level: cpu::simd::Level,
    ) -> Result<Self> {
        let weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let packed = cpu::conv::Packed::at(&conv, weight, bias.to_vec1()?, precision, level);
        Ok(Self {
            conv,
            form: Form::Packed(packed),
            scale: None,
        })
    }

    /// The same with what the activation gives multiplied by `scale`, and `shift` added.
    #[must_use]
    pub fn scaled(mut self, scale: f32, shift: f32) -> Self {
        if let Form::Packed(packed) = &mut self.form {
            packed.scale(scale, shift);
        }
        self.scale = Some((scale, shift));
        self
    }

    /// Convolves what [`Tensor::cat`] of `parts` over the channels would give, where possible
    /// without making it.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward_parts(&self, parts: &[&Tensor]) -> Result<Tensor> {
        profile::timed(|| self.describe(parts), || self.of_parts(parts, None))
    }

    /// The same plus `added`, which has the shape of the result, in one go where possible; `relu`
    /// makes zeros of what is then below zero.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward_sum(&self, parts: &[&Tensor], added: &Tensor, relu: bool) -> Result<Tensor> {
        let sum = || {
            if let Form::Packed(packed) = &self.form
                && packed.adds()
                && fused(&[added])
            {
                return self.of_parts(parts, Some((added, relu)));
            }
            let y = self.of_parts(parts, None)?;
            if relu { add_relu(&y, added) } else { y + added }
        };
        profile::timed(|| self.describe(parts), sum)
    }

    fn of_parts(&self, parts: &[&Tensor], added: Option<(&Tensor, bool)>) -> Result<Tensor> {
        let channels = parts.iter().map(|part| part.dims4().map(|dims| dims.1));
        let channels = channels.collect::<Result<Vec<usize>>>()?;
        if channels.iter().sum::<usize>() != self.conv.input {
            candle_core::bail!(
                "convolution of {} channels was given {channels:?}",
                self.conv.input
            );
        }
        let Form::Packed(packed) = &self.form else {
            return self.plain(&joined(parts)?);
        };
        if !fused(parts) {
            let x = joined(parts)?.contiguous()?.detach();
            if !fused(&[&x]) {
                candle_core::bail!("the fused convolution needs f32 on the CPU");
            }
            return self.of_parts(&[&x], added);
        }
        let Some(first) = parts.first() else {
            candle_core::bail!("convolution of nothing");
        };
        if parts.len() > 1 && !packed.takes_parts() {
            return self.of_parts(&[&joined(parts)?], added);
        }
        let (batch, _, height, width) = first.dims4()?;
        for part in parts {
            let found = part.dims4()?;
            if (found.0, found.2, found.3) != (batch, height, width) {
                candle_core::bail!("parts {:?} and {:?} do not fit", first.dims(), part.dims());
            }
        }
        let size = Size {
            batch,
            height,
            width,
        };
        let mut tensors = parts.to_vec();
        tensors.extend(added.map(|(added, _)| added));
        let (output, height, width) = with_numbers(&tensors, |numbers| {
            let sources: Vec<_> = numbers
                .iter()
                .zip(&channels)
                .map(|(&data, &channels)| Source { data, channels })
                .collect();
            let added = added.map(|(_, relu)| Added {
                data: numbers[parts.len()],
                relu,
            });
            packed.run(&sources, size, added)
        })??;
        let shape = (batch, packed.output_channels(), height, width);
        Tensor::from_vec(output, shape, first.device())
    }

    /// `x`: `[batch, input, height, width]`.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_parts(&[x])
    }

    /// For a profile: what it is, and its operations on `parts`.
    fn describe(&self, parts: &[&Tensor]) -> (String, f64) {
        let Conv {
            input,
            output,
            kernel,
            stride,
            groups,
            ..
        } = self.conv;
        let &[batch, _, height, width] = parts.first().map_or(&[0; 4][..], |x| x.dims()) else {
            return ("convolution".to_string(), 0.0);
        };
        let (rows, columns) = self.conv.output_size(height, width).unwrap_or_default();
        let cells = batch * rows * columns;
        let operations = 2 * cells * output * (input / groups) * kernel * kernel;
        let grouped = if groups > 1 {
            format!(" in {groups} groups")
        } else {
            String::new()
        };
        let what = format!(
            "conv {kernel}×{kernel} /{stride}, {input} → {output}{grouped}, {batch} × {height}×{width}"
        );
        (what, operations as f64)
    }

    /// Where there is no kernel for the CPU.
    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let Form::Plain { weight, bias } = &self.form else {
            candle_core::bail!("the weights of this convolution are packed");
        };
        let (x, conv) = self.conv.with_far_zeros(x)?;
        let y = match self.on_device(&x, weight, bias.as_ref(), &conv)? {
            Some(y) => y,
            None => {
                let y = reference::conv2d(&x, weight, bias.as_ref(), &conv)?;
                conv.activation.apply(&y)?
            }
        };
        match self.scale {
            Some((scale, shift)) => y.affine(f64::from(scale), f64::from(shift)),
            None => Ok(y),
        }
    }

    /// By a kernel for the GPU, if there is one.
    #[cfg(feature = "cuda")]
    fn on_device(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        conv: &Conv,
    ) -> Result<Option<Tensor>> {
        match cuda::tensors::takes(&[x, weight]) {
            Some(device) => cuda::tensors::conv2d(&device, x, weight, bias, conv),
            None => Ok(None),
        }
    }

    /// There are no kernels for a GPU.
    #[cfg(not(feature = "cuda"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn on_device(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: Option<&Tensor>,
        _: &Conv,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// Grouped convolution with bias, without activation, on any device, with gradients: by kernels where
/// a GPU has them, else by candle. `x`: `[batch, input, height, width]`.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub(crate) fn conv2d_with_gradients(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    conv: &Conv,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::training::takes(&[x, weight])
        && let Some(y) = cuda::training::conv2d(&device, x, weight, conv)?
    {
        return match bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, bias.dim(0)?, 1, 1))?),
            None => Ok(y),
        };
    }
    reference::conv2d(x, weight, bias, conv)
}

/// One tensor of the channels of all `parts`.
fn joined(parts: &[&Tensor]) -> Result<Tensor> {
    match parts {
        [part] => Ok((*part).clone()),
        _ => Tensor::cat(parts, 1),
    }
}
