//! ResNet50 that tells people apart: the baseline of person re-identification.
//!
//! The backbone is ResNet-50 (He et al., 2016), mostly with the last stage at stride 1 instead of
//! 2 ("bag of tricks", Luo et al., 2019): twice the resolution for the same weights. Its last map
//! is averaged to 2048 numbers; a head may norm them (BNNeck) or reduce them. Projects differ in
//! small things that no tensor shows, so [`ResNet50Config`] names them and weights files carry it.
//!
//! Smaller ones ([`Layers`]) are for trying out, for tests and for machines without a GPU.
//!
//! Tensor names: torchvision's under `backbone`, then `pool.p`, `bn`, `fc`, `bn_feat`, whichever
//! the configuration has. Attention blocks (non-local) and instance norms (IBN) are not there.

mod backbone;
mod head;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::embed::EmbeddingNetwork;
use crate::layers::Params;
use crate::ops::on_threads;
use crate::{Description, Variant};

pub use backbone::Backbone;
pub use head::Head;

/// The architecture's name in descriptions.
pub const NAME: &str = "resnet50-reid";

/// Channels of ResNet-50's last map.
pub const CHANNELS: usize = 2048;

/// Longest vectors that a description may ask for.
const MAX_DIM: usize = 1 << 16;

/// Depth and width of a backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// Blocks of the four stages.
    pub blocks: [usize; 4],
    /// Blocks narrow to a quarter inside.
    pub bottleneck: bool,
    /// Channels inside the first stage's blocks; each stage doubles them.
    pub width: usize,
}

impl Layers {
    /// ResNet-50.
    pub const FIFTY: Self = Self {
        blocks: [3, 4, 6, 3],
        bottleneck: true,
        width: 64,
    };

    /// By the architecture's name: [`NAME`]; `resnet18-reid`; `resnet18-reid-x0.25`, the same with a
    /// quarter of the channels.
    pub fn named(name: &str) -> Option<Self> {
        let eighteen = |width| Self {
            blocks: [2; 4],
            bottleneck: false,
            width,
        };
        match name {
            NAME => Some(Self::FIFTY),
            "resnet18-reid" => Some(eighteen(64)),
            "resnet18-reid-x0.25" => Some(eighteen(16)),
            _ => None,
        }
    }

    /// How much wider a block's output is than its inside.
    pub fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }

    /// Channels of the last map.
    pub fn channels(&self) -> usize {
        (self.width << 3) * self.expansion()
    }
}

/// What follows the first convolution and its norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// ReLU, then 3×3 maxima with a border (torchvision, torchreid).
    Standard,
    /// The same without ReLU (reid-strong-baseline and what descends from it).
    WithoutRelu,
    /// ReLU, then 3×3 maxima that begin at the corner and run over the far edge (fastreid).
    Ceiling,
}

/// How the last map becomes one number a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean.
    Average,
    /// The generalised mean (GeM, Radenović et al., 2018) with a learnt exponent, `pool.p`.
    GeneralizedMean,
}

/// How a ResNet50 encoder is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResNet50Config {
    /// Stride of the last stage, 1 or 2.
    pub last_stride: usize,
    /// What follows the first convolution.
    pub stem: Stem,
    /// How the last map is pooled.
    pub pooling: Pooling,
    /// Whether the pooled vector goes through a batch norm of its own (BNNeck), `bn`.
    pub neck: bool,
    /// Length that a linear layer, `fc`, and a batch norm, `bn_feat`, then reduce it to.
    pub reduced: Option<usize>,
    /// Whether a ReLU follows the reduction (torchreid's `resnet50_fc512`).
    pub relu: bool,
}

impl Default for ResNet50Config {
    /// The recipe to train with: last stride 1, average, BNNeck.
    fn default() -> Self {
        Self {
            last_stride: 1,
            stem: Stem::Standard,
            pooling: Pooling::Average,
            neck: true,
            reduced: None,
            relu: false,
        }
    }
}

impl ResNet50Config {
    /// What a description says; `None` if it is of another architecture.
    pub fn of(description: &Description) -> Option<Self> {
        Layers::named(&description.architecture)?;
        match &description.variant {
            Some(Variant::Resnet50(config)) => Some(*config),
            Some(Variant::ClipVit(_)) => None,
            None => Some(Self::default()),
        }
    }

    /// Length of a ResNet-50's vectors.
    pub fn dim(&self) -> usize {
        self.dim_of(CHANNELS)
    }

    fn dim_of(&self, channels: usize) -> usize {
        self.reduced.unwrap_or(channels)
    }
}

/// The network.
pub struct ResNet50 {
    backbone: Backbone,
    head: Head,
    dim: usize,
}

impl ResNet50 {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape, or the configuration makes no sense.
    pub fn new(config: &ResNet50Config, params: &Params) -> Result<Self> {
        Self::with_layers(Layers::FIFTY, config, params)
    }

    /// The same with a backbone of another size.
    ///
    /// # Errors
    /// As [`ResNet50::new`].
    pub fn with_layers(layers: Layers, config: &ResNet50Config, params: &Params) -> Result<Self> {
        let dim = config.dim_of(layers.channels());
        let sensible = (1..=2).contains(&config.last_stride)
            && (1..=MAX_DIM).contains(&dim)
            && (config.reduced.is_some() || !config.relu);
        if !sensible {
            candle_core::bail!("no ResNet50 can be built as {config:?}");
        }
        Ok(Self {
            backbone: Backbone::new(layers, config, &params.pp("backbone"))?,
            head: Head::new(layers.channels(), config, params)?,
            dim,
        })
    }

    /// The pooled map before neck and reduction, which metric losses are computed on:
    /// `[batch, 3, height, width]` to `[batch, channels]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn pooled(&self, images: &Tensor) -> Result<Tensor> {
        self.head.pool(&self.backbone.forward(images)?)
    }

    /// The head of [`ResNet50::pooled`] vectors: `[batch, channels]` to `[batch, dim]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn finish(&self, pooled: &Tensor) -> Result<Tensor> {
        self.head.finish(pooled)
    }
}

impl EmbeddingNetwork for ResNet50 {
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        on_threads(images, || self.finish(&self.pooled(images)?))
    }

    fn dim(&self) -> usize {
        self.dim
    }
}
