//! Convolution for inference: weights prepared once, bias and activation fused where a kernel is.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use crate::layers::Conv;

use super::cpu::block::Precision;
use super::cpu::product::Source;
#[cfg(feature = "cuda")]
use super::cuda;
use super::planes::{fused, with_numbers};
use super::{cpu, profile, reference};

/// A convolution with final weights.
pub struct Conv2d {
    conv: Conv,
    form: Form,
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
        Ok(Self { conv, form })
    }

    /// Convolves what [`Tensor::cat`] of `parts` over the channels would give, where possible
    /// without making it.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward_parts(&self, parts: &[&Tensor]) -> Result<Tensor> {
        profile::timed(|| self.describe(parts), || self.of_parts(parts))
    }

    fn of_parts(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let Form::Packed(packed) = &self.form else {
            return self.of_one(&Tensor::cat(parts, 1)?);
        };
        let (Some(first), true, true) = (parts.first(), packed.takes_parts(), fused(parts)) else {
            return self.of_one(&Tensor::cat(parts, 1)?);
        };
        let (batch, _, height, width) = first.dims4()?;
        let mut channels = Vec::with_capacity(parts.len());
        for part in parts {
            let found = part.dims4()?;
            if (found.0, found.2, found.3) != (batch, height, width) {
                candle_core::bail!("parts {:?} and {:?} do not fit", first.dims(), part.dims());
            }
            channels.push(found.1);
        }
        if channels.iter().sum::<usize>() != self.conv.input {
            candle_core::bail!(
                "convolution of {} channels was given {channels:?}",
                self.conv.input
            );
        }
        let size = cpu::conv::Size {
            batch,
            height,
            width,
        };
        let (output, height, width) = with_numbers(parts, |numbers| {
            let sources: Vec<_> = numbers
                .iter()
                .zip(&channels)
                .map(|(&data, &channels)| Source { data, channels })
                .collect();
            packed.run(&sources, size)
        })??;
        Tensor::from_vec(
            output,
            (batch, self.conv.output, height, width),
            first.device(),
        )
    }

    /// `x`: `[batch, input, height, width]`.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        profile::timed(|| self.describe(&[x]), || self.of_one(x))
    }

    /// For a profile: what it is, and its operations on `parts`.
    fn describe(&self, parts: &[&Tensor]) -> (String, f64) {
        let Conv {
            input,
            output,
            kernel,
            stride,
            groups,
            padding,
            ..
        } = self.conv;
        let &[batch, _, height, width] = parts.first().map_or(&[0; 4][..], |x| x.dims()) else {
            return ("convolution".to_string(), 0.0);
        };
        let side = |size: usize| ((size + 2 * padding).max(kernel) - kernel) / stride + 1;
        let cells = batch * side(height) * side(width);
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

    fn of_one(&self, x: &Tensor) -> Result<Tensor> {
        if x.dims4()?.1 != self.conv.input {
            candle_core::bail!(
                "convolution of {} channels was given {:?}",
                self.conv.input,
                x.dims()
            );
        }
        match &self.form {
            Form::Packed(packed) => x.contiguous()?.apply_op1_no_bwd(&CpuConv(packed)),
            Form::Plain { weight, bias } => {
                #[cfg(feature = "cuda")]
                if let Some(device) = cuda::tensors::takes(&[x, weight]) {
                    let (bias, conv) = (bias.as_ref(), &self.conv);
                    let y = cuda::tensors::conv2d(&device, x, weight, bias, conv)?;
                    if let Some(y) = y {
                        return Ok(y);
                    }
                }
                let y = reference::conv2d(x, weight, bias.as_ref(), &self.conv)?;
                self.conv.activation.apply(&y)
            }
        }
    }
}

struct CpuConv<'a>(&'a cpu::conv::Packed);

impl CustomOp1 for CpuConv<'_> {
    fn name(&self) -> &'static str {
        "conv2d-fused"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let (Some((start, end)), CpuStorage::F32(data)) = (layout.contiguous_offsets(), storage)
        else {
            candle_core::bail!("the fused convolution needs contiguous f32");
        };
        let size = cpu::conv::Size {
            batch,
            height,
            width,
        };
        let source = Source {
            data: &data[start..end],
            channels,
        };
        let (output, height, width) = self.0.run(&[source], size)?;
        let shape = Shape::from((batch, self.0.output_channels(), height, width));
        Ok((CpuStorage::F32(output), shape))
    }
}
