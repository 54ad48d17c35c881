//! The efficient hybrid encoder: attention within the coarsest level (AIFI), convolutional fusion
//! between the levels (CCFM), top-down and bottom-up.

use candle_core::{Device, Module, Result, Tensor};

use super::conv_norm;
use crate::layers::{
    Activation, Conv, ConvNormAct, LayerNorm, Linear, MultiHeadAttention, Params, fold_batch_norm,
    forward_all,
};
use crate::ops::{cells_to_rows, rows_to_cells};

/// Sizes of the encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Channels of the backbone's levels, finest first.
    pub input: Vec<usize>,
    /// Channels of all levels inside and after it.
    pub hidden: usize,
    /// Heads of the attention.
    pub heads: usize,
    /// Size of the attention layer's feed-forward part.
    pub feed_forward: usize,
    /// Channels inside the fusion blocks, as a part of `hidden`.
    pub expansion: f64,
}

/// Re-parameterised layers in every fusion block.
const FUSION_LAYERS: usize = 3;

/// The encoder.
pub struct HybridEncoder {
    input_proj: Vec<ConvNormAct>,
    attention: AttentionLayer,
    lateral_convs: Vec<ConvNormAct>,
    fpn_blocks: Vec<FusionBlock>,
    downsample_convs: Vec<ConvNormAct>,
    pan_blocks: Vec<FusionBlock>,
}

impl HybridEncoder {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &EncoderConfig, params: &Params) -> Result<Self> {
        let hidden = config.hidden;
        let mut input_proj = Vec::new();
        for (index, &channels) in config.input.iter().enumerate() {
            let params = params.pp("input_proj").pp(index);
            let conv = Conv::new(channels, hidden, 1);
            input_proj.push(ConvNormAct::new(conv, &params.pp(0), &params.pp(1))?);
        }
        let silu = |conv: Conv| conv.activation(Activation::Silu);
        let mut lateral_convs = Vec::new();
        let mut fpn_blocks = Vec::new();
        let mut downsample_convs = Vec::new();
        let mut pan_blocks = Vec::new();
        for index in 0..config.input.len().saturating_sub(1) {
            let part = |name: &str| params.pp(name).pp(index);
            let lateral = silu(Conv::new(hidden, hidden, 1));
            let downsample = silu(Conv::new(hidden, hidden, 3).stride(2));
            lateral_convs.push(conv_norm(lateral, &part("lateral_convs"))?);
            fpn_blocks.push(FusionBlock::new(config, true, &part("fpn_blocks"))?);
            downsample_convs.push(conv_norm(downsample, &part("downsample_convs"))?);
            pan_blocks.push(FusionBlock::new(config, false, &part("pan_blocks"))?);
        }
        let layer = params.pp("encoder").pp(0).pp("layers").pp(0);
        Ok(Self {
            input_proj,
            attention: AttentionLayer::new(config, &layer)?,
            lateral_convs,
            fpn_blocks,
            downsample_convs,
            pan_blocks,
        })
    }

    /// Fuses `levels`, finest first, each `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// The shapes do not fit, or the device fails.
    pub fn forward(&self, levels: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut projected = Vec::new();
        for (level, proj) in levels.iter().zip(&self.input_proj) {
            projected.push(proj.forward(level)?);
        }
        let Some(coarsest) = projected.pop() else {
            candle_core::bail!("the encoder needs levels")
        };
        let mut top = self.attention.forward_map(&coarsest, CellOrder::Rows)?;
        let mut laterals = Vec::new(); // coarsest first
        for (lateral, fpn) in self.lateral_convs.iter().zip(&self.fpn_blocks) {
            let Some(fine) = projected.pop() else {
                candle_core::bail!("the encoder was built for other levels")
            };
            let high = lateral.forward(&top)?;
            top = fpn.forward(&[&high, &fine])?;
            laterals.push(high);
        }
        let mut outputs = vec![top];
        for (down, pan) in self.downsample_convs.iter().zip(&self.pan_blocks) {
            let (Some(fine), Some(lateral)) = (outputs.last(), laterals.pop()) else {
                candle_core::bail!("the encoder was built for other levels")
            };
            let low = down.forward(fine)?;
            outputs.push(pan.forward(&[&low, &lateral])?);
        }
        Ok(outputs)
    }
}

/// A transformer encoder layer, norms after the residuals.
pub(crate) struct AttentionLayer {
    self_attn: MultiHeadAttention,
    linear1: Linear,
    linear2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
}

impl AttentionLayer {
    pub(crate) fn new(config: &EncoderConfig, params: &Params) -> Result<Self> {
        let (hidden, inner) = (config.hidden, config.feed_forward);
        Ok(Self {
            self_attn: MultiHeadAttention::new(hidden, config.heads, &params.pp("self_attn"))?,
            linear1: Linear::new(hidden, inner, &params.pp("linear1"))?
                .activation(Activation::Gelu),
            linear2: Linear::new(inner, hidden, &params.pp("linear2"))?,
            norm1: LayerNorm::new(hidden, &params.pp("norm1"))?,
            norm2: LayerNorm::new(hidden, &params.pp("norm2"))?,
        })
    }

    /// `[batch, hidden, height, width]` in and out.
    pub(crate) fn forward_map(&self, map: &Tensor, order: CellOrder) -> Result<Tensor> {
        let (_, hidden, height, width) = map.dims4()?;
        let x = cells_to_rows(&[map])?; // [batch, cells, hidden]
        let position = position_embedding((width, height), hidden, order, map.device())?;
        let position = position.to_dtype(x.dtype())?;
        let query = x.broadcast_add(&position)?;
        let x = (&x + self.self_attn.forward(&query, &query, &x)?)?;
        let x = self.norm1.forward(&x)?;
        let x = (&x + self.linear2.forward(&self.linear1.forward(&x)?)?)?;
        let x = self.norm2.forward(&x)?;
        rows_to_cells(&x, height, width)
    }
}

/// In which order the position embedding counts the cells of a map. For square maps both are the
/// same, for others the features, which stand row by row, get other positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CellOrder {
    /// Row by row, row first: Hugging Face and Ultralytics.
    Rows,
    /// Column by column, column first: the authors of RT-DETR, and DEIMv2 after them.
    Columns,
}

/// Sines and cosines of a cell's two coordinates, `[1, width * height, size]`.
fn position_embedding(
    (width, height): (usize, usize),
    size: usize,
    order: CellOrder,
    device: &Device,
) -> Result<Tensor> {
    let quarter = size / 4;
    let (outer, inner) = match order {
        CellOrder::Rows => (height, width),
        CellOrder::Columns => (width, height),
    };
    // One row of sines and cosines for every value that a coordinate takes.
    let omega = |k: usize| 1.0 / 10_000_f32.powf(k as f32 / quarter as f32);
    let omegas: Vec<f32> = (0..quarter).map(omega).collect();
    let mut waves = Vec::new();
    for position in 0..outer.max(inner) {
        waves.extend(omegas.iter().map(|omega| (position as f32 * omega).sin()));
        waves.extend(omegas.iter().map(|omega| (position as f32 * omega).cos()));
    }
    let wave = |position: usize| &waves[position * 2 * quarter..(position + 1) * 2 * quarter];
    let mut data = Vec::with_capacity(width * height * size);
    for first in 0..outer {
        for second in 0..inner {
            data.extend_from_slice(wave(first));
            data.extend_from_slice(wave(second));
        }
    }
    Tensor::from_vec(data, (1, width * height, size), device)
}

/// CSPRepLayer: two pointwise branches, one through re-parameterised 3×3 layers, added.
struct FusionBlock {
    conv1: ConvNormAct,
    conv2: ConvNormAct,
    bottlenecks: Vec<RepConv>,
    conv3: Option<ConvNormAct>,
}

impl FusionBlock {
    /// `upwards` where the first of the levels is the coarser one.
    fn new(config: &EncoderConfig, upwards: bool, params: &Params) -> Result<Self> {
        let hidden = config.hidden;
        let inner = (hidden as f64 * config.expansion) as usize;
        let pointwise = |input, output| Conv::new(input, output, 1).activation(Activation::Silu);
        let both = pointwise(2 * hidden, inner).coarse(if upwards { hidden } else { 0 });
        let mut bottlenecks = Vec::new();
        for index in 0..FUSION_LAYERS {
            bottlenecks.push(RepConv::new(inner, &params.pp("bottlenecks").pp(index))?);
        }
        let conv3 = if inner == hidden {
            None
        } else {
            Some(conv_norm(pointwise(inner, hidden), &params.pp("conv3"))?)
        };
        Ok(Self {
            conv1: conv_norm(both, &params.pp("conv1"))?,
            conv2: conv_norm(both, &params.pp("conv2"))?,
            bottlenecks,
            conv3,
        })
    }
}

impl FusionBlock {
    /// Fuses two levels; the first one may be coarser.
    fn forward(&self, levels: &[&Tensor]) -> Result<Tensor> {
        let deep = forward_all(&self.bottlenecks, &self.conv1.forward_parts(levels)?)?;
        let sum = self.conv2.forward_sum(levels, &deep, false)?;
        match &self.conv3 {
            Some(conv) => conv.forward(&sum),
            None => Ok(sum),
        }
    }
}

/// RepVGG layer (Ding et al., 2021): 3×3 and 1×1 side by side, one 3×3 at inference.
pub(crate) enum RepConv {
    Merged(Box<ConvNormAct>),
    Branches(Box<[ConvNormAct; 2]>),
}

impl RepConv {
    pub(crate) fn new(channels: usize, params: &Params) -> Result<Self> {
        let (three, one) = (
            Conv::new(channels, channels, 3),
            Conv::new(channels, channels, 1),
        );
        let (params3, params1) = (params.pp("conv1"), params.pp("conv2"));
        if params.mode().is_plain() {
            let branches = [conv_norm(three, &params3)?, conv_norm(one, &params1)?];
            return Ok(Self::Branches(Box::new(branches)));
        }
        let weight3 = params3.pp("conv").get(three.weight_shape(), "weight")?;
        let weight1 = params1.pp("conv").get(one.weight_shape(), "weight")?;
        let (weight3, bias3) = fold_batch_norm(&weight3, None, &params3.pp("norm"))?;
        let (weight1, bias1) = fold_batch_norm(&weight1, None, &params1.pp("norm"))?;
        // The 1×1 kernel is the centre of a 3×3 one.
        let weight1 = weight1.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
        let merged = ConvNormAct::fused(
            three.activation(Activation::Silu),
            &(weight3 + weight1)?,
            Some(&(bias3 + bias1)?),
            params.precision_of_products(),
        )?;
        Ok(Self::Merged(Box::new(merged)))
    }
}

impl Module for RepConv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Merged(conv) => conv.forward(x),
            Self::Branches(branches) => {
                let [three, one] = &**branches;
                Activation::Silu.apply(&(three.forward(x)? + one.forward(x)?)?)
            }
        }
    }
}
