//! OSNet: omni-scale networks that tell people apart (Zhou et al., "Omni-Scale Feature Learning
//! for Person Re-Identification", ICCV 2019; OSNet-AIN: "Learning Generalisable Omni-Scale
//! Representations for Person Re-Identification", TPAMI 2021).
//!
//! Blocks look at every place through four streams of one to four light convolutions, so at four
//! sizes, and one small gate weighs the channels of all four. The vector is what the fully
//! connected layer with its batch norm and ReLU gives: 512 numbers, none of them negative.
//!
//! Tensor names are torchreid's, whose plain and AIN networks call the same parts differently.

mod block;
mod fused;

use candle_core::{Module, Result, Tensor};

use crate::embed::EmbeddingNetwork;
use crate::layers::{
    Activation, Conv, ConvNormAct, InstanceNorm, LinearNormAct, Params, Precision, forward_all,
};
use crate::ops::{OmniScale, Window, halve, max_pool2d, on_threads, plane_means};

use block::{Block, BlockConfig, conv_relu};

/// Length of the vectors of every published OSNet.
const FEATURES: usize = 512;

/// Blocks of each of the three stages.
const BLOCKS: usize = 2;

/// Where a network normalises single images instead of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// Nowhere.
    None,
    /// After the first convolution and after each block of the first stage (IBN-Net's way).
    Ibn,
    /// After the first convolution and inside the blocks that the authors' search chose.
    Ain,
}

/// Sizes of an OSNet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsNetConfig {
    /// Channels after the first convolution and after each stage.
    pub channels: [usize; 4],
    /// Where instance norms are.
    pub instances: Instances,
}

impl OsNetConfig {
    /// The published sizes by name: `osnet-x0.25`, `-x0.5`, `-x0.75`, `-x1.0`, the same as
    /// `osnet-ain-…`, and `osnet-ibn-x1.0`.
    pub fn named(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("osnet-")?;
        let (instances, width) = match rest.split_once('-') {
            None => (Instances::None, rest),
            Some(("ain", width)) => (Instances::Ain, width),
            Some(("ibn", width)) => (Instances::Ibn, width),
            Some(_) => return None,
        };
        let channels = match width {
            "x0.25" => [16, 64, 96, 128],
            "x0.5" => [32, 128, 192, 256],
            "x0.75" => [48, 192, 288, 384],
            "x1.0" => [64, 256, 384, 512],
            _ => return None,
        };
        if instances == Instances::Ibn && width != "x1.0" {
            return None;
        }
        Some(Self {
            channels,
            instances,
        })
    }

    fn block(&self, stage: usize, index: usize) -> BlockConfig {
        // From the architecture search of the AIN paper.
        let inside = [[true, true], [false, true], [true, false]];
        BlockConfig {
            input: self.channels[if index == 0 { stage } else { stage + 1 }],
            output: self.channels[stage + 1],
            ain: self.instances == Instances::Ain,
            norm_inside: self.instances == Instances::Ain && inside[stage][index],
            norm_after: self.instances == Instances::Ibn && stage == 0,
        }
    }
}

/// The first convolution, with a batch or an instance norm.
enum Stem {
    Batch(ConvNormAct),
    Instance(ConvNormAct, InstanceNorm),
}

/// Blocks, and between stages a convolution after which both sides are halved.
struct Stage {
    blocks: Vec<Block>,
    transition: Option<ConvNormAct>,
}

/// The network.
pub struct OsNet {
    convolutions: Convolutions,
    fc: LinearNormAct,
}

/// All before the fully connected layer.
enum Convolutions {
    /// In one pass: inference on the CPU.
    Fused(Box<OmniScale>),
    /// Layer by layer.
    Layers(Box<Layers>),
}

struct Layers {
    stem: Stem,
    stages: Vec<Stage>,
    last: ConvNormAct,
}

impl OsNet {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &OsNetConfig, params: &Params) -> Result<Self> {
        // In bfloat16 vectors turn too far: a cosine of 0.998 to those in f32 with the published
        // weights of MSMT17, where the largest part of the time goes into other work anyway.
        let params = &params.clone().precision(Precision::F32);
        let fused = if params.has_cpu_kernels() && config.instances == Instances::None {
            fused::convolutions(config, params)?
        } else {
            None
        };
        Ok(Self {
            convolutions: match fused {
                Some(fused) => Convolutions::Fused(Box::new(fused)),
                None => Convolutions::Layers(Box::new(Layers::new(config, params)?)),
            },
            fc: LinearNormAct::new(
                config.channels[3],
                FEATURES,
                Activation::Relu,
                &params.pp("fc.0"),
                &params.pp("fc.1"),
            )?,
        })
    }

    fn vectors(&self, images: &Tensor) -> Result<Tensor> {
        let means = match &self.convolutions {
            Convolutions::Fused(all) => all.forward(images)?,
            Convolutions::Layers(layers) => layers.forward(images)?,
        };
        self.fc.forward(&means)
    }
}

impl Layers {
    fn new(config: &OsNetConfig, params: &Params) -> Result<Self> {
        let mut stages = Vec::new();
        for stage in 0..3 {
            stages.push(Stage::new(config, stage, params)?);
        }
        let channels = config.channels[3];
        Ok(Self {
            stem: Stem::new(config, &params.pp("conv1"))?,
            stages,
            last: conv_relu(Conv::new(channels, channels, 1), &params.pp("conv5"))?,
        })
    }

    /// The means of the last planes: `[batch, channels]`.
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let pool = Window {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        let mut x = max_pool2d(&self.stem.forward(images)?, pool)?;
        for stage in &self.stages {
            x = stage.forward(&x)?;
        }
        plane_means(&self.last.forward(&x)?)
    }
}

impl EmbeddingNetwork for OsNet {
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        on_threads(images, || self.vectors(images))
    }

    fn dim(&self) -> usize {
        FEATURES
    }
}

impl Stem {
    fn new(config: &OsNetConfig, params: &Params) -> Result<Self> {
        let conv = Conv::new(3, config.channels[0], 7).stride(2);
        if config.instances == Instances::None {
            return Ok(Self::Batch(conv_relu(conv, params)?));
        }
        Ok(Self::Instance(
            ConvNormAct::without_norm(conv, &params.pp("conv"))?,
            InstanceNorm::new(config.channels[0], &params.pp("bn"))?,
        ))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Batch(conv) => conv.forward(x),
            Self::Instance(conv, norm) => Activation::Relu.apply(&norm.forward(&conv.forward(x)?)?),
        }
    }
}

impl Stage {
    /// Stage 0, 1 or 2: torchreid's `conv2`, `conv3`, `conv4`.
    fn new(config: &OsNetConfig, stage: usize, params: &Params) -> Result<Self> {
        let own = params.pp(format!("conv{}", stage + 2));
        let mut blocks = Vec::new();
        for index in 0..BLOCKS {
            let block = config.block(stage, index);
            blocks.push(Block::new(&block, &own.pp(index))?);
        }
        let transition = if stage < 2 {
            let part = match config.instances {
                Instances::Ain => params.pp(format!("pool{}.0", stage + 2)),
                _ => own.pp(format!("{BLOCKS}.0")),
            };
            let channels = config.channels[stage + 1];
            Some(conv_relu(Conv::new(channels, channels, 1), &part)?)
        } else {
            None
        };
        Ok(Self { blocks, transition })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = forward_all(&self.blocks, x)?;
        match &self.transition {
            Some(conv) => halve(&conv.forward(&y)?),
            None => Ok(y),
        }
    }
}
