//! Transformer layers with the norms first: attention, then two linear layers with QuickGELU.

use candle_core::{Module, Result, Tensor};

use super::Drops;
use crate::layers::{Activation, LayerNorm, Linear, Params, Precision};
use crate::ops::{attention, reference};

/// One layer over all tokens.
pub struct Block {
    ln_1: LayerNorm,
    attention: SelfAttention,
    rest: FeedForward,
}

impl Block {
    /// `width` numbers a token in `heads` heads.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(width: usize, heads: usize, params: &Params) -> Result<Self> {
        let (in_proj, out_proj) = projections(width, params)?;
        Ok(Self {
            ln_1: LayerNorm::new(width, &params.pp("ln_1"))?,
            attention: SelfAttention {
                in_proj: Linear::from_tensors(in_proj.0, in_proj.1, params)?,
                out_proj,
                mix: Mix::new(heads, params),
            },
            rest: FeedForward::new(width, params)?,
        })
    }

    /// The same where a token sees itself and those before it alone.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn causal(width: usize, heads: usize, params: &Params) -> Result<Self> {
        let mut block = Self::new(width, heads, params)?;
        block.attention.mix.causal = true;
        Ok(block)
    }

    /// As `forward`, with what chance leaves out; the whole branches with chance `path`.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn forward_dropped(&self, x: &Tensor, path: f64, drops: &mut Drops) -> Result<Tensor> {
        let mixed = self.attention.forward(&self.ln_1.forward(x)?)?;
        let mixed = drops.numbers(mixed)?;
        let x = (x + drops.rows(mixed, path)?)?;
        self.rest.forward_dropped(&x, path, drops)
    }
}

impl Module for Block {
    // [batch, tokens, width] -> the same
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_dropped(x, 0.0, &mut Drops::none())
    }
}

/// The last layer, of which only the class token is wanted: the others need no query, no output
/// and no feed-forward part, five sixths of a layer.
pub struct LastBlock {
    ln_1: LayerNorm,
    query: Linear,
    key_value: Linear,
    out_proj: Linear,
    mix: Mix,
    rest: FeedForward,
}

impl LastBlock {
    /// As [`Block::new`], with the same tensors.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn new(width: usize, heads: usize, params: &Params) -> Result<Self> {
        let ((weight, bias), out_proj) = projections(width, params)?;
        // Views: training changes the tensors in place.
        let part = |first: usize, count: usize| -> Result<Linear> {
            Linear::from_tensors(
                weight.narrow(0, first, count)?,
                bias.narrow(0, first, count)?,
                params,
            )
        };
        Ok(Self {
            ln_1: LayerNorm::new(width, &params.pp("ln_1"))?,
            query: part(0, width)?,
            key_value: part(width, 2 * width)?,
            out_proj,
            mix: Mix::new(heads, params),
            rest: FeedForward::new(width, params)?,
        })
    }

    /// As [`Block::forward_dropped`].
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    // [batch, tokens, width] -> [batch, width]
    pub fn forward_dropped(&self, x: &Tensor, path: f64, drops: &mut Drops) -> Result<Tensor> {
        let (batch, _, width) = x.dims3()?;
        let normed = self.ln_1.forward(x)?;
        let query = self.query.forward(&normed.narrow(1, 0, 1)?.contiguous()?)?;
        let key_value = self.key_value.forward(&normed)?;
        let key = key_value.narrow(2, 0, width)?;
        let value = key_value.narrow(2, width, width)?;
        let mixed = self.mix.forward(&query, &key, &value)?; // [batch, 1, width]
        let mixed = self.out_proj.forward(&mixed.reshape((batch, width))?)?;
        let mixed = drops.numbers(mixed)?;
        let class = x.narrow(1, 0, 1)?.squeeze(1)?;
        let x = (class + drops.rows(mixed, path)?)?;
        self.rest.forward_dropped(&x, path, drops)
    }
}

/// A weight and its bias.
type Packed = (Tensor, Tensor);

/// PyTorch's packed projection of queries, keys and values, and the one after the attention.
fn projections(width: usize, params: &Params) -> Result<(Packed, Linear)> {
    let params = params.pp("attn");
    let weight = params.get((3 * width, width), "in_proj_weight")?;
    let bias = params.get(3 * width, "in_proj_bias")?;
    let out_proj = Linear::new(width, width, &params.pp("out_proj"))?;
    Ok(((weight, bias), out_proj))
}

/// How queries, keys and values become one.
#[derive(Clone, Copy)]
struct Mix {
    heads: usize,
    causal: bool,
    /// Of plain operations, and of the CPU's kernel.
    precision: Precision,
    kernel: Precision,
}

impl Mix {
    fn new(heads: usize, params: &Params) -> Self {
        Self {
            heads,
            causal: false,
            precision: params.plain_products(),
            kernel: params.precision_of_products(),
        }
    }

    fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        if !self.causal && self.precision == Precision::F32 {
            return attention(query, key, value, self.heads, self.kernel);
        }
        reference::attention_with(query, key, value, self.heads, self.causal, self.precision)
    }
}

/// Attention of tokens to each other, with one matrix product for queries, keys and values.
struct SelfAttention {
    in_proj: Linear,
    out_proj: Linear,
    mix: Mix,
}

impl Module for SelfAttention {
    // [batch, tokens, width] -> the same
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let width = x.dim(2)?;
        let joint = self.in_proj.forward(x)?;
        let part = |index: usize| joint.narrow(2, index * width, width);
        let mixed = self.mix.forward(&part(0)?, &part(1)?, &part(2)?)?;
        self.out_proj.forward(&mixed)
    }
}

/// The second half of a layer, with what it is added to.
struct FeedForward {
    ln_2: LayerNorm,
    c_fc: Linear,
    c_proj: Linear,
}

impl FeedForward {
    fn new(width: usize, params: &Params) -> Result<Self> {
        let mlp = params.pp("mlp");
        let c_fc = Linear::new(width, 4 * width, &mlp.pp("c_fc"))?;
        Ok(Self {
            ln_2: LayerNorm::new(width, &params.pp("ln_2"))?,
            c_fc: c_fc.activation(Activation::QuickGelu),
            c_proj: Linear::new(4 * width, width, &mlp.pp("c_proj"))?,
        })
    }

    // [.., width] -> the same
    fn forward_dropped(&self, x: &Tensor, path: f64, drops: &mut Drops) -> Result<Tensor> {
        let inner = drops.numbers(self.c_fc.forward(&self.ln_2.forward(x)?)?)?;
        let outer = drops.numbers(self.c_proj.forward(&inner)?)?;
        x + drops.rows(outer, path)?
    }
}
