//! The encoders: from the backbone's levels to two fused ones of strides 16 and 32.

use candle_core::{Module, Result, Tensor};

use super::blocks::{FusionBlock, conv_norm_silu};
use crate::layers::{Activation, Conv, ConvNormAct, Params};
use crate::ops::{add_upsampled, plane_means};
use crate::rtdetr::{self, AttentionLayer, CellOrder, conv_norm};

/// How the coarse level comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncoderKind {
    /// Pooled from the backbone's only level, and fused with its mean.
    Lite,
    /// The backbone's own, attending to itself as in RT-DETR.
    Hybrid {
        /// Heads of the attention.
        heads: usize,
        /// Size of the attention layer's feed-forward part.
        feed_forward: usize,
    },
}

/// Sizes of the encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// How the coarse level comes about.
    pub kind: EncoderKind,
    /// Channels of the backbone's levels, finest first.
    pub input: Vec<usize>,
    /// Channels of all levels inside and after it.
    pub hidden: usize,
    /// Channels inside the fusion blocks.
    pub inner: usize,
}

/// The encoder.
pub enum Encoder {
    /// [`EncoderKind::Lite`].
    Lite(Box<LiteEncoder>),
    /// [`EncoderKind::Hybrid`].
    Hybrid(Box<HybridEncoder>),
}

impl Encoder {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape, or the levels do not fit the kind.
    pub fn new(config: &EncoderConfig, params: &Params) -> Result<Self> {
        match (config.kind, config.input.as_slice()) {
            (EncoderKind::Lite, &[input]) => {
                let encoder = LiteEncoder::new(config, input, params)?;
                Ok(Self::Lite(Box::new(encoder)))
            }
            (EncoderKind::Hybrid { .. }, &[fine, coarse]) => {
                let encoder = HybridEncoder::new(config, [fine, coarse], params)?;
                Ok(Self::Hybrid(Box::new(encoder)))
            }
            (kind, input) => candle_core::bail!("encoder {kind:?} cannot take levels {input:?}"),
        }
    }

    /// Fuses `levels`, finest first, each `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// The shapes do not fit, or the device fails.
    pub fn forward(&self, levels: &[Tensor]) -> Result<Vec<Tensor>> {
        match (self, levels) {
            (Self::Lite(encoder), [level]) => encoder.forward(level),
            (Self::Hybrid(encoder), [fine, coarse]) => encoder.forward(fine, coarse),
            _ => candle_core::bail!("the encoder was built for other levels"),
        }
    }
}

/// Pools one coarse level, gives it the mean of the image, and fuses both levels both ways.
pub struct LiteEncoder {
    input_proj: ConvNormAct,
    down_sample1: DownSample,
    down_sample2: DownSample,
    bi_fusion: ConvNormAct,
    fpn_block: FusionBlock,
    pan_block: FusionBlock,
}

impl LiteEncoder {
    fn new(config: &EncoderConfig, input: usize, params: &Params) -> Result<Self> {
        let (hidden, inner) = (config.hidden, config.inner);
        let input_proj = params.pp("input_proj").pp(0);
        let pointwise = Conv::new(hidden, hidden, 1);
        Ok(Self {
            input_proj: conv_norm(Conv::new(input, hidden, 1), &input_proj)?,
            down_sample1: DownSample::new(hidden, &params.pp("down_sample1"))?,
            down_sample2: DownSample::new(hidden, &params.pp("down_sample2"))?,
            bi_fusion: conv_norm_silu(pointwise, &params.pp("bi_fusion").pp("cv"))?,
            fpn_block: FusionBlock::new(hidden, inner, &params.pp("fpn_block"))?,
            pan_block: FusionBlock::new(hidden, inner, &params.pp("pan_block"))?,
        })
    }

    fn forward(&self, level: &Tensor) -> Result<Vec<Tensor>> {
        let fine = self.input_proj.forward(level)?;
        let coarse = self.down_sample1.forward(&fine)?;
        let mean = plane_means(&coarse)?.unsqueeze(2)?.unsqueeze(3)?;
        let coarse = self.bi_fusion.forward(&coarse.broadcast_add(&mean)?)?;
        let fine = self.fpn_block.forward(&add_upsampled(&fine, &coarse)?)?;
        let coarse = self.down_sample2.forward_sum(&fine, &coarse)?;
        let coarse = self.pan_block.forward(&coarse)?;
        Ok(vec![fine, coarse])
    }
}

/// Mean of 3×3 cells at stride 2, zeros around counted in, then a pointwise convolution.
struct DownSample {
    /// For inference.
    means: Option<ConvNormAct>,
    conv: ConvNormAct,
}

impl DownSample {
    fn new(hidden: usize, params: &Params) -> Result<Self> {
        // Places in the authors' `Sequential`: 0 is the pooling, 1 the convolution, 2 its norm.
        let conv = Conv::new(hidden, hidden, 1).activation(Activation::Silu);
        let means = if params.mode().is_plain() {
            None
        } else {
            let conv = Conv::depthwise(hidden, 3).stride(2);
            let ninth = Tensor::full(1.0_f32 / 9.0, conv.weight_shape(), params.device())?;
            let ninth = ninth.to_dtype(params.dtype())?;
            Some(ConvNormAct::fused(
                conv,
                &ninth,
                None,
                params.precision_of_products(),
            )?)
        };
        Ok(Self {
            means,
            conv: ConvNormAct::new(conv, &params.pp(1), &params.pp(2))?,
        })
    }
}

impl DownSample {
    /// The same plus `added`.
    fn forward_sum(&self, x: &Tensor, added: &Tensor) -> Result<Tensor> {
        self.conv.forward_sum(&[&self.means(x)?], added, false)
    }

    fn means(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(means) = &self.means {
            return means.forward(x);
        }
        let (batch, channels, height, width) = x.dims4()?;
        // As a convolution of single channels: candle's pooling has no gradient if windows overlap.
        let kernel = Tensor::full(1.0_f32 / 9.0, (1, 1, 3, 3), x.device())?;
        let kernel = kernel.to_dtype(x.dtype())?;
        let planes = x.reshape((batch * channels, 1, height, width))?;
        let means = planes.conv2d(&kernel, 1, 2, 1, 1)?;
        let (_, _, height, width) = means.dims4()?;
        means.reshape((batch, channels, height, width))
    }
}

impl Module for DownSample {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.conv.forward(&self.means(x)?)
    }
}

/// RT-DETR's hybrid encoder on two levels, added where RT-DETR joins.
pub struct HybridEncoder {
    input_proj: [ConvNormAct; 2],
    attention: AttentionLayer,
    lateral: ConvNormAct,
    fpn_block: FusionBlock,
    downsample: [ConvNormAct; 2],
    pan_block: FusionBlock,
}

impl HybridEncoder {
    fn new(config: &EncoderConfig, [fine, coarse]: [usize; 2], params: &Params) -> Result<Self> {
        let EncoderKind::Hybrid {
            heads,
            feed_forward,
        } = config.kind
        else {
            candle_core::bail!("not a hybrid encoder");
        };
        let (hidden, inner) = (config.hidden, config.inner);
        let attention = rtdetr::EncoderConfig {
            input: config.input.clone(),
            hidden,
            heads,
            feed_forward,
            expansion: 1.0,
        };
        let layer = params.pp("encoder").pp(0).pp("layers").pp(0);
        let input_proj = params.pp("input_proj");
        let downsample = params.pp("downsample_convs").pp(0).pp(0);
        let lateral = params.pp("lateral_convs").pp(0);
        let pointwise = Conv::new(hidden, hidden, 1);
        Ok(Self {
            input_proj: [
                conv_norm(Conv::new(fine, hidden, 1), &input_proj.pp(0))?,
                conv_norm(Conv::new(coarse, hidden, 1), &input_proj.pp(1))?,
            ],
            attention: AttentionLayer::new(&attention, &layer)?,
            lateral: conv_norm(pointwise, &lateral)?,
            fpn_block: FusionBlock::new(hidden, inner, &params.pp("fpn_blocks").pp(0))?,
            downsample: [
                conv_norm(pointwise, &downsample.pp("cv1"))?,
                conv_norm(Conv::depthwise(hidden, 3).stride(2), &downsample.pp("cv2"))?,
            ],
            pan_block: FusionBlock::new(hidden, inner, &params.pp("pan_blocks").pp(0))?,
        })
    }

    fn forward(&self, fine: &Tensor, coarse: &Tensor) -> Result<Vec<Tensor>> {
        let fine = self.input_proj[0].forward(fine)?;
        let coarse = self.input_proj[1].forward(coarse)?;
        let coarse = self.attention.forward_map(&coarse, CellOrder::Columns)?;
        let coarse = self.lateral.forward(&coarse)?;
        let fine = self.fpn_block.forward(&add_upsampled(&fine, &coarse)?)?;
        let down = self.downsample[1].forward(&self.downsample[0].forward(&fine)?)?;
        let coarse = self.pan_block.forward(&(coarse + down)?)?;
        Ok(vec![fine, coarse])
    }
}
