//! Blocks that the encoder and the decoder are put together from.

use candle_core::{D, Module, Result, Tensor};

use crate::layers::{Activation, Conv, ConvNormAct, Linear, Params, forward_all};
use crate::ops::silu_gated;
use crate::rtdetr::{RepConv, conv_norm};

/// A convolution with its norm as `conv` and `norm`, followed by SiLU.
pub fn conv_norm_silu(conv: Conv, params: &Params) -> Result<ConvNormAct> {
    conv_norm(conv.activation(Activation::Silu), params)
}

/// GELAN fusion block with re-parameterised CSP parts (Wang et al., YOLOv9, 2024):
/// `RepNCSPELAN4` in the authors' code.
pub struct FusionBlock {
    cv1: ConvNormAct,
    cv2: (CspLayer, ConvNormAct),
    cv3: (CspLayer, ConvNormAct),
    cv4: ConvNormAct,
}

impl FusionBlock {
    /// `hidden` channels in and out, `inner` in its parts.
    pub fn new(hidden: usize, inner: usize, params: &Params) -> Result<Self> {
        let part = |name: &str, input: usize| -> Result<(CspLayer, ConvNormAct)> {
            let params = params.pp(name);
            Ok((
                CspLayer::new(input, inner, &params.pp(0))?,
                conv_norm_silu(Conv::new(inner, inner, 3), &params.pp(1))?,
            ))
        };
        let joined = 2 * hidden + 2 * inner;
        Ok(Self {
            cv1: conv_norm_silu(Conv::new(hidden, 2 * hidden, 1), &params.pp("cv1"))?,
            cv2: part("cv2", hidden)?,
            cv3: part("cv3", inner)?,
            cv4: conv_norm_silu(Conv::new(joined, hidden, 1), &params.pp("cv4"))?,
        })
    }
}

impl Module for FusionBlock {
    // [batch, hidden, height, width] -> the same
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let first = self.cv1.forward(x)?; // twice the channels
        let hidden = first.dim(1)? / 2;
        let second = first.narrow(1, hidden, hidden)?.contiguous()?;
        let third = self.cv2.1.forward(&self.cv2.0.forward(&second)?)?;
        let fourth = self.cv3.1.forward(&self.cv3.0.forward(&third)?)?;
        self.cv4.forward_parts(&[&first, &third, &fourth])
    }
}

/// Re-parameterised layers in every CSP part.
const CSP_LAYERS: usize = 2;

/// Half of a pointwise convolution's output, plus the other half sent through `CSP_LAYERS`
/// re-parameterised layers: `CSPLayer2` in the authors' code.
struct CspLayer {
    conv1: ConvNormAct,
    bottlenecks: Vec<RepConv>,
}

impl CspLayer {
    fn new(input: usize, output: usize, params: &Params) -> Result<Self> {
        let mut bottlenecks = Vec::new();
        for index in 0..CSP_LAYERS {
            bottlenecks.push(RepConv::new(output, &params.pp("bottlenecks").pp(index))?);
        }
        Ok(Self {
            conv1: conv_norm_silu(Conv::new(input, 2 * output, 1), &params.pp("conv1"))?,
            bottlenecks,
        })
    }
}

impl Module for CspLayer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.conv1.forward(x)?;
        let half = y.dim(1)? / 2;
        let deep = y.narrow(1, half, half)?.contiguous()?;
        forward_all(&self.bottlenecks, &deep)? + y.narrow(1, 0, half)?
    }
}

/// Root mean square norm over the last dimension (Zhang and Sennrich, 2019), epsilon 1e-6; its
/// weight is called `scale`.
pub struct RmsNorm {
    scale: Tensor,
    plain: bool,
}

impl RmsNorm {
    const EPS: f32 = 1e-6;

    /// Tensor `scale` under `params`.
    pub fn new(size: usize, params: &Params) -> Result<Self> {
        Ok(Self {
            scale: params.get(size, "scale")?,
            plain: params.mode().is_plain(),
        })
    }
}

impl Module for RmsNorm {
    // [.., size] -> [.., size]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.plain {
            return candle_nn::ops::rms_norm_slow(x, &self.scale, Self::EPS);
        }
        candle_nn::ops::rms_norm(&x.contiguous()?, &self.scale, Self::EPS)
    }
}

/// Gated feed-forward part (Shazeer, "GLU Variants Improve Transformer", 2020).
pub struct SwiGlu {
    w12: Linear,
    w3: Linear,
}

impl SwiGlu {
    /// `size` features in and out, `inner` between.
    pub fn new(size: usize, inner: usize, params: &Params) -> Result<Self> {
        Ok(Self {
            w12: Linear::new(size, 2 * inner, &params.pp("w12"))?,
            w3: Linear::new(inner, size, &params.pp("w3"))?,
        })
    }
}

impl Module for SwiGlu {
    // [.., size] -> [.., size]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.w3.forward(&silu_gated(&self.w12.forward(x)?)?)
    }
}

/// Mixes a query with what its cross-attention found, by learnt gates, and norms the sum.
pub struct Gate {
    gate: Linear,
    norm: RmsNorm,
}

impl Gate {
    /// For queries of `size`.
    pub fn new(size: usize, params: &Params) -> Result<Self> {
        Ok(Self {
            gate: Linear::new(2 * size, 2 * size, &params.pp("gate"))?,
            norm: RmsNorm::new(size, &params.pp("norm"))?,
        })
    }

    /// `query`, `found`: `[batch, queries, size]`, and so is the result.
    pub fn forward(&self, query: &Tensor, found: &Tensor) -> Result<Tensor> {
        let size = query.dim(D::Minus1)?;
        let both = Tensor::cat(&[query, found], D::Minus1)?;
        let gates = candle_nn::ops::sigmoid(&self.gate.forward(&both)?)?;
        let kept = (gates.narrow(D::Minus1, 0, size)? * query)?;
        let added = (gates.narrow(D::Minus1, size, size)? * found)?;
        self.norm.forward(&(kept + added)?)
    }
}
