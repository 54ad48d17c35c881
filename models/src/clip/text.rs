//! The text encoder of CLIP (Radford et al., 2021) with CLIP-ReID's prompts: "A photo of a X X X X
//! person." where four learnt vectors of a person stand in for the X's words.
//!
//! Only training needs it. A token sees those before it alone, and the text's vector is that of its
//! last token: whatever fills the rest of the 77 places is never looked at, so only the twelve tokens
//! of the prompt are computed.
//!
//! Tensor names are CLIP-ReID's: `prompt_learner.token_prefix`, `prompt_learner.token_suffix`,
//! `text_encoder.…`.

use candle_core::{Module, Result, Tensor};

use super::ClipVitConfig;
use super::block::Block;
use crate::layers::{LayerNorm, Params, Precision};
use crate::ops::mixed;

/// Vectors of the prompt that are learnt for each person.
pub const CONTEXT: usize = 4;

/// Tokens of CLIP's vocabulary before them: the start of a text, "a", "photo", "of", "a".
pub const PREFIX: [u32; 5] = [49406, 320, 1125, 539, 320];

/// After them: "person", ".", the end of the text.
pub const SUFFIX: [u32; 3] = [2533, 269, 49407];

/// What fills CLIP's places after a text.
pub const FILLING: u32 = 0;

/// Sizes of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextConfig {
    /// Numbers a token.
    pub width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Heads of their attention.
    pub heads: usize,
    /// Places for tokens, at least the prompt's.
    pub places: usize,
    /// Length of the projection.
    pub projection: usize,
}

impl TextConfig {
    /// The text encoder beside an image encoder.
    pub fn beside(images: &ClipVitConfig) -> Self {
        Self {
            width: images.projection,
            layers: images.text_layers,
            heads: images.text_heads,
            places: 77,
            projection: images.projection,
        }
    }

    /// Rows of the suffix, what fills the places among them.
    pub fn suffix(&self) -> usize {
        self.places.saturating_sub(PREFIX.len() + CONTEXT)
    }
}

/// The encoder, with the words of the prompt that are the same for everybody.
pub struct TextEncoder {
    prefix: Tensor,    // [1, 5, width]
    suffix: Tensor,    // [1, 3, width]
    positions: Tensor, // [12, width]
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    projection: Tensor, // [width, projection]
    precision: Precision,
}

impl TextEncoder {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape, or the sizes make no sense.
    pub fn new(config: &TextConfig, params: &Params) -> Result<Self> {
        let sound = config.suffix() >= SUFFIX.len()
            && config.heads > 0
            && config.width.is_multiple_of(config.heads);
        if !sound {
            candle_core::bail!("no text encoder can be built as {config:?}");
        }
        let (width, places) = (config.width, config.places);
        let words = params.pp("prompt_learner");
        let encoder = params.pp("text_encoder");
        let layers = encoder.pp("transformer").pp("resblocks");
        let mut blocks = Vec::new();
        for index in 0..config.layers {
            blocks.push(Block::causal(width, config.heads, &layers.pp(index))?);
        }
        let suffix = words.get((1, config.suffix(), width), "token_suffix")?;
        let positions = encoder.get((places, width), "positional_embedding")?;
        Ok(Self {
            prefix: words.get((1, PREFIX.len(), width), "token_prefix")?,
            suffix: suffix.narrow(1, 0, SUFFIX.len())?,
            positions: positions.narrow(0, 0, PREFIX.len() + CONTEXT + SUFFIX.len())?,
            blocks,
            ln_final: LayerNorm::new(width, &encoder.pp("ln_final"))?,
            projection: encoder.get((width, config.projection), "text_projection")?,
            precision: params.plain_products(),
        })
    }

    /// The texts' vectors, `[people, projection]`, of people whose learnt vectors are `contexts`,
    /// `[people, 4, width]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn vectors(&self, contexts: &Tensor) -> Result<Tensor> {
        let (people, _, width) = contexts.dims3()?;
        let of_all = |words: &Tensor| words.broadcast_as((people, words.dim(1)?, width));
        let (prefix, suffix) = (of_all(&self.prefix)?, of_all(&self.suffix)?);
        let tokens = Tensor::cat(&[&prefix, contexts, &suffix], 1)?;
        let mut x = tokens.broadcast_add(&self.positions)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let last = x.narrow(1, x.dim(1)? - 1, 1)?.squeeze(1)?;
        let last = self.ln_final.forward(&last)?;
        mixed::matmul(&last, &self.projection, self.precision)
    }
}
