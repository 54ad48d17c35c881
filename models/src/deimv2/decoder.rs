//! Query selection and the decoder: the surest cells become queries, and three layers of
//! self-attention and deformable attention refine a distribution over where each edge of its box
//! is (D-FINE's fine-grained distribution refinement).

use candle_core::{D, DType, Module, Result, Tensor};

use super::blocks::{Gate, RmsNorm, SwiGlu};
use crate::layers::{
    Activation, DeformableAttention, Linear, Mlp, MultiHeadAttention, Params, Precision,
};
use crate::ops::{self, SampleShape, top_k_indices};
use crate::rtdetr::{candidates, flatten_levels, inverse_sigmoid, pick};

/// Sizes of the decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Size of a query, and channels of the encoder's levels.
    pub hidden: usize,
    /// Heads of both attentions.
    pub heads: usize,
    /// Points that a head samples in each level, finest first.
    pub points: Vec<usize>,
    /// Size of the feed-forward part, gates and values together.
    pub feed_forward: usize,
    /// Layers.
    pub layers: usize,
    /// Queries.
    pub queries: usize,
    /// Classes.
    pub classes: usize,
    /// Cross-attention is mixed in through gates instead of added.
    pub gateway: bool,
    /// All layers have one box head.
    pub shared_bbox_head: bool,
}

/// Steps between the bins of an edge's distribution.
const STEPS: usize = 32;

/// Bins of an edge's distribution.
const BINS: usize = STEPS + 1;

/// The highest bins whose probabilities tell the quality of an edge.
const TOP_BINS: usize = 4;

/// Size of the quality head.
const QUALITY_HIDDEN: usize = 64;

/// The largest number of half precision: beyond it lies infinity, and the norm gives NaN.
const LIMIT: f64 = 65504.0;

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
    enc_score_head: Linear,
    enc_bbox_head: Mlp,
    query_pos_head: Mlp,
    pre_bbox_head: Mlp,
    layers: Vec<DecoderLayer>,
    bbox_heads: Vec<Mlp>,
    score_head: Linear,
    quality_head: Mlp,
    edges: EdgeDecoder,
}

impl Decoder {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &DecoderConfig, params: &Params) -> Result<Self> {
        // Scores and boxes come from here, of a few hundred rows: little to win, digits to lose.
        let params = &params.clone().precision(Precision::F32);
        let hidden = config.hidden;
        let Some(last) = config.layers.checked_sub(1) else {
            candle_core::bail!("a decoder needs layers")
        };
        let mlp = |sizes: &[usize], params: Params| Mlp::new(sizes, Activation::Silu, &params);
        let head = |output: usize, params: Params| mlp(&[hidden, hidden, hidden, output], params);
        let mut layers = Vec::new();
        for index in 0..config.layers {
            let params = params.pp("decoder").pp("layers").pp(index);
            layers.push(DecoderLayer::new(config, &params)?);
        }
        let heads = if config.shared_bbox_head {
            1
        } else {
            config.layers
        };
        let mut bbox_heads = Vec::new();
        for index in 0..heads {
            bbox_heads.push(head(4 * BINS, params.pp("dec_bbox_head").pp(index))?);
        }
        let quality = params
            .pp("decoder")
            .pp("lqe_layers")
            .pp(last)
            .pp("reg_conf");
        let score = params.pp("dec_score_head").pp(last);
        Ok(Self {
            config: config.clone(),
            enc_score_head: Linear::new(hidden, config.classes, &params.pp("enc_score_head"))?,
            enc_bbox_head: head(4, params.pp("enc_bbox_head"))?,
            query_pos_head: mlp(&[4, hidden, hidden, hidden], params.pp("query_pos_head"))?,
            pre_bbox_head: head(4, params.pp("pre_bbox_head"))?,
            layers,
            bbox_heads,
            score_head: Linear::new(hidden, config.classes, &score)?,
            quality_head: mlp(&[4 * (TOP_BINS + 1), QUALITY_HIDDEN, 1], quality)?,
            edges: EdgeDecoder::new(params)?,
        })
    }

    /// Decodes the encoder's levels, finest first.
    ///
    /// # Errors
    /// The shapes do not fit, there are fewer cells than queries, or the device fails.
    pub fn trace(&self, levels: &[Tensor]) -> Result<DecoderTrace> {
        let points = &self.config.points;
        if levels.len() != points.len() {
            candle_core::bail!("the decoder was built for {} levels", points.len());
        }
        let (memory, shape) = flatten_levels(levels, points.clone())?;
        let (queries, selected, encoder_scores) = self.select(&memory, &shape)?;
        let (layers, corners, boxes) = self.refine(queries, &selected, &memory, &shape)?;
        let Some(x) = layers.last() else {
            candle_core::bail!("a decoder needs layers")
        };
        let quality = self.quality_head.forward(&quality_features(&corners)?)?;
        let logits = self.score_head.forward(x)?.broadcast_add(&quality)?;
        Ok(DecoderTrace {
            encoder_scores,
            layers,
            logits,
            boxes,
        })
    }

    /// Features and boxes (before the sigmoid) of the cells with the highest class score, and all
    /// cells' scores.
    fn select(&self, memory: &Tensor, shape: &SampleShape) -> Result<(Tensor, Tensor, Tensor)> {
        let queries = self.config.queries;
        let (masked, anchors) = candidates(memory, shape, queries)?;
        let scores = self.enc_score_head.forward(&masked)?;
        let scores = ops::largest(&scores, 1)?.squeeze(D::Minus1)?;
        let chosen = top_k_indices(&scores, queries)?; // [batch, queries]
        let features = pick(&masked, &chosen)?;
        let boxes = (self.enc_bbox_head.forward(&features)? + pick(&anchors, &chosen)?)?;
        Ok((features.detach(), boxes.detach(), scores))
    }

    /// Runs the layers: every layer's output, the last one's edge distributions before the
    /// softmax (`[batch, queries, 4 * BINS]`) and its boxes.
    fn refine(
        &self,
        queries: Tensor,
        selected: &Tensor,
        memory: &Tensor,
        shape: &SampleShape,
    ) -> Result<(Vec<Tensor>, Tensor, Tensor)> {
        let mut reference = candle_nn::ops::sigmoid(selected)?; // [batch, queries, 4]
        let position = self
            .query_pos_head
            .forward(&reference)?
            .clamp(-10.0, 10.0)?;
        let mut x = queries;
        let mut outputs: Vec<Tensor> = Vec::new();
        let mut before: Option<(Tensor, Tensor)> = None; // first boxes, edge distributions
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &position, &reference.detach(), memory, shape)?;
            let head = &self.bbox_heads[index.min(self.bbox_heads.len() - 1)];
            let (first, corners) = match (before, outputs.last()) {
                (Some((first, corners)), Some(previous)) => {
                    let change = head.forward(&(&x + previous.detach())?)?;
                    (first, (change + corners)?)
                }
                _ => {
                    let delta = self.pre_bbox_head.forward(&x)?;
                    let first = (delta + inverse_sigmoid(&reference)?)?;
                    let first = candle_nn::ops::sigmoid(&first)?.detach();
                    (first, head.forward(&x)?)
                }
            };
            reference = self.edges.boxes(&first, &corners)?;
            outputs.push(x.clone());
            before = Some((first, corners));
        }
        let Some((_, corners)) = before else {
            candle_core::bail!("a decoder needs layers")
        };
        Ok((outputs, corners, reference))
    }
}

/// Turns edge distributions into boxes.
struct EdgeDecoder {
    /// Offset that each bin stands for: `[BINS]`.
    offsets: Tensor,
    /// How many times a unit offset goes into the box's side.
    reg_scale: f64,
}

impl EdgeDecoder {
    /// From the stored `up` and `reg_scale`, each `[1]`.
    fn new(params: &Params) -> Result<Self> {
        let number = |name: &str| -> Result<f32> {
            let tensor = params.get(1, name)?.to_dtype(DType::F32)?;
            tensor.squeeze(0)?.to_scalar::<f32>()
        };
        let (up, reg_scale) = (number("up")?, number("reg_scale")?.abs());
        let offsets = Tensor::new(
            weighting_function(up, reg_scale).as_slice(),
            params.device(),
        )?;
        Ok(Self {
            offsets: offsets.to_dtype(params.dtype())?,
            reg_scale: f64::from(reg_scale),
        })
    }

    /// Boxes (centre and size, `[batch, queries, 4]`) whose edges lie off those of `first` by the
    /// means of `corners` (`[batch, queries, 4 * BINS]`, before the softmax).
    fn boxes(&self, first: &Tensor, corners: &Tensor) -> Result<Tensor> {
        let (batch, queries, _) = first.dims3()?;
        let corners = corners.reshape((batch * queries * 4, BINS))?;
        let offsets = ops::expectations_of_rows(&corners, &self.offsets)?;
        let offsets = offsets.reshape((batch, queries, 4))?;
        let distances = offsets.affine(1.0 / self.reg_scale, 0.5)?; // in sides of the box
        let center = first.narrow(2, 0, 2)?;
        let size = first.narrow(2, 2, 2)?;
        let before = (distances.narrow(2, 0, 2)? * &size)?; // left, top
        let after = (distances.narrow(2, 2, 2)? * &size)?; // right, bottom
        let center = (center + ((&after - &before)? * 0.5)?)?;
        Tensor::cat(&[&center, &(before + after)?], 2)
    }
}

/// D-FINE's weighting function W(n): the offset that each of an edge's 33 bins stands for, fine
/// around zero and coarse far out.
///
/// `up` bounds the offsets, in parts of the box's side; `reg_scale` is how many times an offset
/// of one goes into that side.
pub fn weighting_function(up: f32, reg_scale: f32) -> Vec<f32> {
    let bound = f64::from(up.abs() * reg_scale.abs());
    let base = (bound + 1.0).powf(2.0 / (STEPS as f64 - 2.0));
    let half = STEPS / 2;
    let mut values = vec![(-2.0 * bound) as f32];
    values.extend((1..half).rev().map(|i| (1.0 - base.powi(i as i32)) as f32));
    values.push(0.0);
    values.extend((1..half).map(|i| (base.powi(i as i32) - 1.0) as f32));
    values.push((2.0 * bound) as f32);
    values
}

/// What the quality head sees of the distributions `[batch, queries, 4 * BINS]`: per edge the
/// highest probabilities, falling, and their mean: `[batch, queries, 4 * (TOP_BINS + 1)]`.
fn quality_features(corners: &Tensor) -> Result<Tensor> {
    let (batch, queries, _) = corners.dims3()?;
    let chances = corners.reshape((batch, queries, 4, BINS))?;
    let chances = ops::softmax(&chances)?;
    let top = ops::largest(&chances, TOP_BINS)?;
    let mean = top.mean_keepdim(D::Minus1)?;
    Tensor::cat(&[&top, &mean], D::Minus1)?.reshape((batch, queries, 4 * (TOP_BINS + 1)))
}

struct DecoderLayer {
    self_attn: MultiHeadAttention,
    norm1: RmsNorm,
    cross_attn: DeformableAttention,
    join: Join,
    swish_ffn: SwiGlu,
    norm3: RmsNorm,
}

/// How cross-attention reaches the query.
enum Join {
    /// Added, then normed (`norm2`).
    Sum(RmsNorm),
    /// Through gates (`gateway`).
    Gate(Gate),
}

impl DecoderLayer {
    fn new(config: &DecoderConfig, params: &Params) -> Result<Self> {
        let hidden = config.hidden;
        let join = if config.gateway {
            Join::Gate(Gate::new(hidden, &params.pp("gateway"))?)
        } else {
            Join::Sum(RmsNorm::new(hidden, &params.pp("norm2"))?)
        };
        let inner = config.feed_forward / 2;
        Ok(Self {
            self_attn: MultiHeadAttention::new(hidden, config.heads, &params.pp("self_attn"))?,
            norm1: RmsNorm::new(hidden, &params.pp("norm1"))?,
            cross_attn: DeformableAttention::new(
                hidden,
                config.heads,
                &config.points,
                false,
                &params.pp("cross_attn"),
            )?,
            join,
            swish_ffn: SwiGlu::new(hidden, inner, &params.pp("swish_ffn"))?,
            norm3: RmsNorm::new(hidden, &params.pp("norm3"))?,
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
        let found = self.cross_attn.forward(&query, reference, memory, shape)?;
        let x = match &self.join {
            Join::Sum(norm) => norm.forward(&(x + found)?)?,
            Join::Gate(gate) => gate.forward(&x, &found)?,
        };
        let x = (&x + self.swish_ffn.forward(&x)?)?;
        self.norm3.forward(&x.clamp(-LIMIT, LIMIT)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand for up = 0.5, reg_scale = 4: bound 2, base 3^(1/15), so W(1) = -(base^15 - 1) = -2
    // and the outermost are twice the bound.
    #[test]
    fn bins_are_symmetric_and_reach_twice_the_bound() {
        let values = weighting_function(0.5, 4.0);
        assert_eq!(values.len(), BINS);
        assert_eq!((values[0], values[16], values[32]), (-4.0, 0.0, 4.0));
        assert!((values[1] + 2.0).abs() < 1e-6);
        assert!((values[17] - (3.0_f32.powf(1.0 / 15.0) - 1.0)).abs() < 1e-6);
        for index in 0..BINS {
            assert_eq!(values[index], -values[BINS - 1 - index]);
        }
    }
}
