//! RT-DETR: real-time detection transformer (Zhao et al., "DETRs Beat YOLOs on Real-time Object
//! Detection", CVPR 2024).
//!
//! A convolutional backbone gives three levels (strides 8, 16, 32); a hybrid encoder lets the
//! coarsest attend to itself (AIFI) and fuses all three (CCFM); the 300 cells that are most surely
//! an object become queries of a decoder with deformable attention. No NMS.
//!
//! Tensor names are those of the authors' PyTorch code. The HGNetv2 backbones are the ones that
//! Ultralytics publishes as `rtdetr-l` and `rtdetr-x`, the ResNet-vd ones the authors' `r18` to
//! `r101`.

mod decoder;
mod encoder;
mod resnet;

use candle_core::{Result, Tensor};

use crate::detect::{DetrNetwork, DetrOutput};
use crate::hgnetv2::{HgNetV2, HgNetV2Config};

use crate::layers::{Conv, ConvNormAct, Params};
use crate::ops::on_threads;

pub use decoder::{Decoder, DecoderConfig, DecoderTrace};
pub(crate) use decoder::{candidates, flatten_levels, inverse_sigmoid, pick};
pub(crate) use encoder::{AttentionLayer, CellOrder, RepConv};
pub use encoder::{EncoderConfig, HybridEncoder};
pub(crate) use resnet::{Block as ResidualBlock, Shortcut};
pub use resnet::{ResNet, ResNetConfig};

/// Which backbone, with its sizes.
#[derive(Debug, Clone, PartialEq)]
pub enum BackboneConfig {
    /// PP-HGNetv2.
    HgNet(HgNetV2Config),
    /// ResNet-vd.
    ResNet(ResNetConfig),
}

/// Sizes of an RT-DETR.
#[derive(Debug, Clone, PartialEq)]
pub struct RtDetrConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// The hybrid encoder.
    pub encoder: EncoderConfig,
    /// The decoder.
    pub decoder: DecoderConfig,
}

impl RtDetrConfig {
    /// The published sizes by name: `rtdetr-l`, `-x`, `-r18`, `-r34`, `-r50`, `-r101`.
    pub fn named(name: &str, classes: usize) -> Option<Self> {
        let resnet = |depth| Some(BackboneConfig::ResNet(ResNetConfig::depth(depth)?));
        let (backbone, hidden, feed_forward, expansion, layers) = match name {
            "rtdetr-l" => (BackboneConfig::HgNet(HgNetV2Config::l()), 256, 1024, 1.0, 6),
            "rtdetr-x" => (BackboneConfig::HgNet(HgNetV2Config::x()), 384, 2048, 1.0, 6),
            "rtdetr-r18" => (resnet(18)?, 256, 1024, 0.5, 3),
            "rtdetr-r34" => (resnet(34)?, 256, 1024, 0.5, 4),
            "rtdetr-r50" => (resnet(50)?, 256, 1024, 1.0, 6),
            "rtdetr-r101" => (resnet(101)?, 384, 2048, 1.0, 6),
            _ => return None,
        };
        let input = match &backbone {
            BackboneConfig::HgNet(config) => config.output_channels(),
            BackboneConfig::ResNet(config) => config.output_channels(),
        };
        Some(Self {
            backbone,
            encoder: EncoderConfig {
                input,
                hidden,
                heads: 8,
                feed_forward,
                expansion,
            },
            decoder: DecoderConfig {
                input: hidden,
                hidden: 256,
                heads: 8,
                points: 4,
                feed_forward: 1024,
                layers,
                queries: 300,
                classes,
            },
        })
    }
}

enum Backbone {
    HgNet(Box<HgNetV2>),
    ResNet(Box<ResNet>),
}

/// The network.
pub struct RtDetr {
    backbone: Backbone,
    encoder: HybridEncoder,
    decoder: Decoder,
}

/// What passes between the parts, for parity tests and profiling.
pub struct RtDetrTrace {
    /// Backbone levels of strides 8, 16, 32: `[batch, channels, height, width]`.
    pub backbone: Vec<Tensor>,
    /// Encoder levels of the same strides, all with the encoder's hidden size.
    pub encoder: Vec<Tensor>,
    /// What the decoder did.
    pub decoder: DecoderTrace,
}

impl RtDetr {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &RtDetrConfig, params: &Params) -> Result<Self> {
        let backbone_params = params.pp("backbone");
        let backbone = match &config.backbone {
            BackboneConfig::HgNet(config) => {
                Backbone::HgNet(Box::new(HgNetV2::new(config, &backbone_params)?))
            }
            BackboneConfig::ResNet(config) => {
                Backbone::ResNet(Box::new(ResNet::new(config, &backbone_params)?))
            }
        };
        Ok(Self {
            backbone,
            encoder: HybridEncoder::new(&config.encoder, &params.pp("encoder"))?,
            decoder: Decoder::new(&config.decoder, &params.pp("decoder"))?,
        })
    }

    /// The forward pass with everything between the parts.
    ///
    /// # Errors
    /// The image's sides are no multiples of 32, or the device fails.
    pub fn trace(&self, images: &Tensor) -> Result<RtDetrTrace> {
        let (_, _, height, width) = images.dims4()?;
        if height % 32 != 0 || width % 32 != 0 {
            candle_core::bail!(
                "RT-DETR needs sides that are multiples of 32, not {height}×{width}"
            );
        }
        let backbone = match &self.backbone {
            Backbone::HgNet(network) => network.forward(images)?,
            Backbone::ResNet(network) => network.forward(images)?,
        };
        let encoder = self.encoder.forward(&backbone)?;
        let decoder = self.decoder.trace(&encoder)?;
        Ok(RtDetrTrace {
            backbone,
            encoder,
            decoder,
        })
    }
}

impl DetrNetwork for RtDetr {
    fn forward(&self, images: &Tensor) -> Result<DetrOutput> {
        let trace = on_threads(images, || self.trace(images))?;
        Ok(DetrOutput {
            logits: trace.decoder.logits,
            boxes: trace.decoder.boxes,
        })
    }
}

/// A convolution with its norm as `conv` and `norm`, the names of the authors' code.
pub(crate) fn conv_norm(conv: Conv, params: &Params) -> Result<ConvNormAct> {
    ConvNormAct::with_norm(conv, params, "norm")
}
