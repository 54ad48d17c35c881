//! Query selection and the decoder: the surest cells become queries, and six layers of
//! self-attention and deformable attention refine a box for each.

use candle_core::{D, Device, Module, Result, Tensor};

use super::conv_norm;
use crate::layers::{
    Activation, Conv, ConvNormAct, DeformableAttention, LayerNorm, Linear, Mlp, MultiHeadAttention,
    Params, Precision,
};
use crate::ops::{SampleShape, cells_to_rows, largest, top_k_indices};

/// Sizes of the decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Channels of the encoder's levels.
    pub input: usize,
    /// Size of a query.
    pub hidden: usize,
    /// Heads of both attentions.
    pub heads: usize,
    /// Points that a head samples in each level.
    pub points: usize,
    /// Size of the feed-forward part.
    pub feed_forward: usize,
    /// Layers.
    pub layers: usize,
    /// Queries.
    pub queries: usize,
    /// Classes.
    pub classes: usize,
}

/// Levels that the decoder looks at.
const LEVELS: usize = 3;

/// Side of an anchor at the finest level, as a part of the image; doubles with each level.
const ANCHOR_SIZE: f64 = 0.05;

/// Anchors closer to 0 or 1 than this are no candidates.
const ANCHOR_MARGIN: f64 = 1e-2;

/// What the decoder did, for parity tests.
pub struct DecoderTrace {
    /// Best class score of every cell before the sigmoid: `[batch, cells]`.
    pub encoder_scores: Tensor,
    /// Output of every layer: `[batch, queries, hidden]`.
    pub layers: Vec<Tensor>,
    /// The last layer's class scores before the sigmoid: `[batch, queries, classes]`.
    pub logits: Tensor,
    /// The last layer's boxes, centre and size in 0..=1: `[batch, queries, 4]`.
    pub boxes: Tensor,
}

/// The decoder with its heads.
pub struct Decoder {
    config: DecoderConfig,
    input_proj: Vec<ConvNormAct>,
    enc_output: (Linear, LayerNorm),
    enc_score_head: Linear,
    enc_bbox_head: Mlp,
    query_pos_head: Mlp,
    layers: Vec<DecoderLayer>,
    score_heads: Vec<Linear>,
    bbox_heads: Vec<Mlp>,
}

impl Decoder {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &DecoderConfig, params: &Params) -> Result<Self> {
        // Final scores and boxes come from the heads, of a few hundred rows: little to win there, digits to
        // lose. What all cells pass, to be chosen from, is no more exact than the cells are.
        let exact = params.clone().precision(Precision::F32);
        let hidden = config.hidden;
        let mut input_proj = Vec::new();
        for index in 0..LEVELS {
            let params = params.pp("input_proj").pp(index);
            let conv = Conv::new(config.input, hidden, 1);
            input_proj.push(conv_norm(conv, &params)?);
        }
        let box_sizes = [hidden, hidden, hidden, 4];
        let mut layers = Vec::new();
        let mut bbox_heads = Vec::new();
        let mut score_heads = Vec::new();
        for index in 0..config.layers {
            let layer = params.pp("decoder").pp("layers").pp(index);
            layers.push(DecoderLayer::new(config, &layer)?);
            let head = exact.pp("dec_score_head").pp(index);
            score_heads.push(Linear::new(hidden, config.classes, &head)?);
            let head = exact.pp("dec_bbox_head").pp(index);
            bbox_heads.push(Mlp::new(&box_sizes, Activation::Relu, &head)?);
        }
        let enc_output = params.pp("enc_output");
        Ok(Self {
            config: config.clone(),
            input_proj,
            enc_output: (
                Linear::new(hidden, hidden, &enc_output.pp(0))?,
                LayerNorm::new(hidden, &enc_output.pp(1))?,
            ),
            enc_score_head: Linear::new(hidden, config.classes, &params.pp("enc_score_head"))?,
            enc_bbox_head: Mlp::new(&box_sizes, Activation::Relu, &exact.pp("enc_bbox_head"))?,
            query_pos_head: Mlp::new(
                &[4, 2 * hidden, hidden],
                Activation::Relu,
                &params.pp("query_pos_head"),
            )?,
            layers,
            score_heads,
            bbox_heads,
        })
    }

    /// Decodes the encoder's levels, finest first.
    ///
    /// # Errors
    /// The shapes do not fit, there are fewer cells than queries, or the device fails.
    pub fn trace(&self, levels: &[Tensor]) -> Result<DecoderTrace> {
        let mut projected = Vec::new();
        for (level, proj) in levels.iter().zip(&self.input_proj) {
            projected.push(proj.forward(level)?);
        }
        let points = vec![self.config.points; projected.len()];
        let (memory, shape) = flatten_levels(&projected, points)?;
        let (mut x, selected_boxes, encoder_scores) = self.select(&memory, &shape)?;
        let mut reference = candle_nn::ops::sigmoid(&selected_boxes)?; // [batch, queries, 4]
        let mut outputs = Vec::new();
        let memory = match self.layers.first() {
            Some(layer) => layer.cross_attn.sampled(&memory)?,
            None => memory,
        };
        for (layer, head) in self.layers.iter().zip(&self.bbox_heads) {
            let position = self.query_pos_head.forward(&reference)?;
            x = layer.forward(&x, &position, &reference, &memory, &shape)?;
            let delta = head.forward(&x)?;
            reference = candle_nn::ops::sigmoid(&(delta + inverse_sigmoid(&reference)?)?)?;
            outputs.push(x.clone());
        }
        // The heads before the last serve only the training loss.
        let Some(score_head) = self.score_heads.last() else {
            candle_core::bail!("a decoder needs layers")
        };
        Ok(DecoderTrace {
            encoder_scores,
            layers: outputs,
            logits: score_head.forward(&x)?,
            boxes: reference,
        })
    }

    /// Uncertainty-minimal query selection: features and boxes (before the sigmoid) of the cells
    /// with the highest class score, and all cells' scores.
    fn select(&self, memory: &Tensor, shape: &SampleShape) -> Result<(Tensor, Tensor, Tensor)> {
        let queries = self.config.queries;
        let (masked, anchors) = candidates(memory, shape, queries)?;
        let features = self.enc_output.0.forward(&masked)?;
        let features = self.enc_output.1.forward(&features)?;
        let scores = largest(&self.enc_score_head.forward(&features)?, 1)?.squeeze(D::Minus1)?;
        let chosen = top_k_indices(&scores, queries)?; // [batch, queries]
        let queries_in = pick(&features, &chosen)?;
        let boxes = (self.enc_bbox_head.forward(&queries_in)? + pick(&anchors, &chosen)?)?;
        Ok((queries_in.detach(), boxes.detach(), scores))
    }
}

/// All cells of `levels`, one level after the other, `[batch, cells, hidden]`, and where they are;
/// a head samples `points` of each level.
pub(crate) fn flatten_levels(
    levels: &[Tensor],
    points: Vec<usize>,
) -> Result<(Tensor, SampleShape)> {
    let mut sizes = Vec::new();
    for level in levels {
        let (_, _, height, width) = level.dims4()?;
        sizes.push((height, width));
    }
    let shape = SampleShape {
        levels: sizes,
        points,
    };
    let levels: Vec<&Tensor> = levels.iter().collect();
    Ok((cells_to_rows(&levels)?, shape))
}

/// What `queries` are chosen from: the cells' features, zero where a cell is no candidate, and
/// their anchors before the sigmoid, `[batch, cells, 4]`.
pub(crate) fn candidates(
    memory: &Tensor,
    shape: &SampleShape,
    queries: usize,
) -> Result<(Tensor, Tensor)> {
    let (batch, cells, _) = memory.dims3()?;
    if cells < queries {
        candle_core::bail!("{cells} cells are too few for {queries} queries");
    }
    let (anchors, valid) = anchors(shape, memory.device())?;
    let anchors = anchors.to_dtype(memory.dtype())?;
    let masked = match valid {
        Some(valid) => memory.broadcast_mul(&valid.to_dtype(memory.dtype())?)?,
        None => memory.clone(),
    };
    let anchors = anchors.broadcast_as((batch, cells, 4))?.contiguous()?;
    Ok((masked, anchors))
}

/// The rows of `x` (`[batch, cells, size]`) whose indices are `chosen` (`[batch, queries]`).
pub(crate) fn pick(x: &Tensor, chosen: &Tensor) -> Result<Tensor> {
    let (batch, queries) = chosen.dims2()?;
    if batch == 1 && x.device().is_cpu() {
        return x
            .squeeze(0)?
            .index_select(&chosen.squeeze(0)?, 0)?
            .unsqueeze(0);
    }
    let index = chosen
        .unsqueeze(2)?
        .broadcast_as((batch, queries, x.dim(2)?))?
        .contiguous()?;
    x.gather(&index, 1)
}

/// One anchor a cell before the sigmoid, `[1, cells, 4]`, infinite where it is no candidate, and
/// 1 or 0 for that, `[1, cells, 1]`, unless all are.
fn anchors(shape: &SampleShape, device: &Device) -> Result<(Tensor, Option<Tensor>)> {
    let cells = shape.total_cells();
    let mut boxes = Vec::with_capacity(cells * 4);
    let mut valid = Vec::with_capacity(cells);
    for (level, &(height, width)) in shape.levels.iter().enumerate() {
        let side = ANCHOR_SIZE * f64::from(1_u32 << level);
        for y in 0..height {
            for x in 0..width {
                let cx = (x as f64 + 0.5) / width as f64;
                let cy = (y as f64 + 0.5) / height as f64;
                let anchor = [cx, cy, side, side];
                let inside = anchor
                    .iter()
                    .all(|v| *v > ANCHOR_MARGIN && *v < 1.0 - ANCHOR_MARGIN);
                valid.push(if inside { 1.0_f32 } else { 0.0 });
                boxes.extend(anchor.map(|v| {
                    if inside {
                        (v / (1.0 - v)).ln() as f32
                    } else {
                        f32::INFINITY
                    }
                }));
            }
        }
    }
    let valid = if valid.iter().all(|valid| *valid == 1.0) {
        None
    } else {
        Some(Tensor::from_vec(valid, (1, cells, 1), device)?)
    };
    Ok((Tensor::from_vec(boxes, (1, cells, 4), device)?, valid))
}

/// The logit, finite at 0 and 1.
pub(crate) fn inverse_sigmoid(x: &Tensor) -> Result<Tensor> {
    const EPS: f64 = 1e-5;
    let x = x.clamp(0.0, 1.0)?;
    let above = x.clamp(EPS, 1.0)?;
    let below = x.affine(-1.0, 1.0)?.clamp(EPS, 1.0)?;
    (above / below)?.log()
}

struct DecoderLayer {
    self_attn: MultiHeadAttention,
    norm1: LayerNorm,
    cross_attn: DeformableAttention,
    norm2: LayerNorm,
    linear1: Linear,
    linear2: Linear,
    norm3: LayerNorm,
}

impl DecoderLayer {
    fn new(config: &DecoderConfig, params: &Params) -> Result<Self> {
        let (hidden, inner) = (config.hidden, config.feed_forward);
        Ok(Self {
            self_attn: MultiHeadAttention::new(hidden, config.heads, &params.pp("self_attn"))?,
            norm1: LayerNorm::new(hidden, &params.pp("norm1"))?,
            cross_attn: DeformableAttention::new(
                hidden,
                config.heads,
                &[config.points; LEVELS],
                true,
                &params.pp("cross_attn"),
            )?,
            norm2: LayerNorm::new(hidden, &params.pp("norm2"))?,
            linear1: Linear::new(hidden, inner, &params.pp("linear1"))?
                .activation(Activation::Relu),
            linear2: Linear::new(inner, hidden, &params.pp("linear2"))?,
            norm3: LayerNorm::new(hidden, &params.pp("norm3"))?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        position: &Tensor,
        reference: &Tensor,
        memory: &Tensor,
        shape: &SampleShape,
    ) -> Result<Tensor> {
        let query = (x + position)?;
        let x = (x + self.self_attn.forward(&query, &query, x)?)?;
        let x = self.norm1.forward(&x)?;
        let query = (&x + position)?;
        let x = (&x + self.cross_attn.forward(&query, reference, memory, shape)?)?;
        let x = self.norm2.forward(&x)?;
        let x = (&x + self.linear2.forward(&self.linear1.forward(&x)?)?)?;
        self.norm3.forward(&x)
    }
}
