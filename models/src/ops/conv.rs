//! Convolution for inference: weights prepared once, bias and activation fused where a kernel is.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use crate::layers::Conv;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{cpu, reference};

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
            Form::Packed(cpu::conv::Packed::new(&conv, weight, bias))
        } else {
            Form::Plain {
                weight: weight.clone(),
                bias: bias.cloned(),
            }
        };
        Ok(Self { conv, form })
    }

    /// `x`: `[batch, input, height, width]`.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
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
        let (batch, _, height, width) = layout.shape().dims4()?;
        let (Some((start, end)), CpuStorage::F32(data)) = (layout.contiguous_offsets(), storage)
        else {
            candle_core::bail!("the fused convolution needs contiguous f32");
        };
        let size = cpu::conv::Size {
            batch,
            height,
            width,
        };
        let (output, height, width) = self.0.run(&data[start..end], size)?;
        let shape = Shape::from((batch, self.0.output_channels(), height, width));
        Ok((CpuStorage::F32(output), shape))
    }
}
