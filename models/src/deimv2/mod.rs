//! DEIMv2 with HGNetv2 backbones, sizes atto, femto, pico and n (Huang et al., "Real-Time Object
//! Detection Meets DINOv3", 2025): small detectors of the RT-DETR family.
//!
//! A convolutional backbone gives one level of stride 16 (n: also 32); an encoder makes and fuses
//! levels of strides 16 and 32; the surest cells become queries of a three-layer decoder that
//! refines a distribution over each box edge (Peng et al., D-FINE, 2024). No NMS.
//!
//! Tensor names are those of the authors' PyTorch code, without what only training needs: the
//! denoising embedding and the score heads of all layers but the last. Sizes with a shared box
//! head store it once, as `decoder.dec_bbox_head.0`.

mod blocks;
mod decoder;
mod encoder;

use candle_core::{Result, Tensor};

use crate::detect::{DetrNetwork, DetrOutput};
use crate::hgnetv2::{HgNetV2, HgNetV2Config};

use crate::layers::Params;
use crate::ops::on_threads;

pub use decoder::{Decoder, DecoderConfig, DecoderTrace, weighting_function};
pub use encoder::{Encoder, EncoderConfig, EncoderKind};

/// Names of the published sizes, smallest first.
pub const NAMES: [&str; 4] = ["deimv2-atto", "deimv2-femto", "deimv2-pico", "deimv2-n"];

/// Sizes of a DEIMv2.
#[derive(Debug, Clone, PartialEq)]
pub struct Deimv2Config {
    /// Side of the square input that the published weights were trained for, in pixels; the
    /// network takes any sides that are multiples of 32.
    pub input_side: usize,
    /// The backbone.
    pub backbone: HgNetV2Config,
    /// The encoder.
    pub encoder: EncoderConfig,
    /// The decoder.
    pub decoder: DecoderConfig,
}

impl Deimv2Config {
    /// The published sizes by name, one of [`NAMES`].
    pub fn named(name: &str, classes: usize) -> Option<Self> {
        // Numbers: configs/deimv2/deimv2_hgnetv2_*_coco.yml of the authors' repository.
        let (input_side, backbone, hidden, queries, feed_forward) = match name {
            "deimv2-atto" => (320, HgNetV2Config::atto(), 64, 100, 160),
            "deimv2-femto" => (416, HgNetV2Config::femto(), 96, 150, 256),
            "deimv2-pico" => (640, HgNetV2Config::pico(), 112, 200, 320),
            "deimv2-n" => (640, HgNetV2Config::b0(), 128, 300, 512),
            _ => return None,
        };
        let largest = name == "deimv2-n";
        let kind = if largest {
            EncoderKind::Hybrid {
                heads: 8,
                feed_forward: 512,
            }
        } else {
            EncoderKind::Lite
        };
        Some(Self {
            input_side,
            encoder: EncoderConfig {
                kind,
                input: backbone.output_channels(),
                hidden,
                // 0.34 of the hidden size, halved and rounded down.
                inner: (0.34 * hidden as f64 / 2.0) as usize,
            },
            backbone,
            decoder: DecoderConfig {
                hidden,
                heads: 8,
                points: if largest { vec![6, 6] } else { vec![4, 2] },
                feed_forward,
                layers: 3,
                queries,
                classes,
                gateway: largest,
                shared_bbox_head: !largest,
            },
        })
    }
}

/// The network.
pub struct Deimv2 {
    backbone: HgNetV2,
    encoder: Encoder,
    decoder: Decoder,
}

/// What passes between the parts, for parity tests and profiling.
pub struct Deimv2Trace {
    /// The backbone's levels that the encoder takes: `[batch, channels, height, width]`.
    pub backbone: Vec<Tensor>,
    /// The encoder's levels of strides 16 and 32, all with its hidden size.
    pub encoder: Vec<Tensor>,
    /// What the decoder did.
    pub decoder: DecoderTrace,
}

impl Deimv2 {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &Deimv2Config, params: &Params) -> Result<Self> {
        Ok(Self {
            backbone: HgNetV2::new(&config.backbone, &params.pp("backbone"))?,
            encoder: Encoder::new(&config.encoder, &params.pp("encoder"))?,
            decoder: Decoder::new(&config.decoder, &params.pp("decoder"))?,
        })
    }

    /// The forward pass with everything between the parts. `images`: `[batch, 3, height, width]`,
    /// RGB in 0..=1.
    ///
    /// # Errors
    /// The image's sides are no multiples of 32, it has fewer cells than the network has queries,
    /// or the device fails.
    pub fn trace(&self, images: &Tensor) -> Result<Deimv2Trace> {
        let (_, _, height, width) = images.dims4()?;
        if height % 32 != 0 || width % 32 != 0 {
            candle_core::bail!("DEIMv2 needs sides that are multiples of 32, not {height}×{width}");
        }
        let backbone = self.backbone.forward(images)?;
        let encoder = self.encoder.forward(&backbone)?;
        let decoder = self.decoder.trace(&encoder)?;
        Ok(Deimv2Trace {
            backbone,
            encoder,
            decoder,
        })
    }
}

impl DetrNetwork for Deimv2 {
    fn forward(&self, images: &Tensor) -> Result<DetrOutput> {
        let trace = on_threads(images, || self.trace(images))?;
        Ok(DetrOutput {
            logits: trace.decoder.logits,
            boxes: trace.decoder.boxes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Hand calculation of round(0.34 · hidden // 2): 10.88, 16.32, 19.04, 21.76, rounded down.
    #[test]
    fn sizes_are_the_published_ones() {
        let inner = NAMES.map(|name| Deimv2Config::named(name, 80).unwrap().encoder.inner);
        assert_eq!(inner, [10, 16, 19, 21]);
        assert_eq!(Deimv2Config::named("deimv2-s", 80), None);
    }
}
