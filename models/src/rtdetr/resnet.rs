//! ResNet-vd (He et al., "Bag of Tricks for Image Classification", 2019, variant D): a stem of
//! three convolutions, and shortcuts that average before they project.

use candle_core::{Module, Result, Tensor};

use super::conv_norm;
use crate::layers::{Activation, Conv, ConvNormAct, Params, forward_all};
use crate::ops::{Window, max_pool2d};

/// Sizes of the backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct ResNetConfig {
    /// Blocks of the four stages.
    pub blocks: [usize; 4],
    /// Blocks narrow to a quarter inside (depth 50 and more).
    pub bottleneck: bool,
}

/// Channels inside the blocks of the four stages.
const WIDTHS: [usize; 4] = [64, 128, 256, 512];

impl ResNetConfig {
    /// The published depths: 18, 34, 50, 101.
    pub fn depth(depth: usize) -> Option<Self> {
        let blocks = match depth {
            18 => [2, 2, 2, 2],
            34 | 50 => [3, 4, 6, 3],
            101 => [3, 4, 23, 3],
            _ => return None,
        };
        Some(Self {
            blocks,
            bottleneck: depth >= 50,
        })
    }

    fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }

    /// Channels of the levels with strides 8, 16 and 32.
    pub fn output_channels(&self) -> Vec<usize> {
        WIDTHS[1..].iter().map(|w| w * self.expansion()).collect()
    }
}

/// The backbone.
pub struct ResNet {
    stem: Vec<ConvNormAct>,
    stages: Vec<Vec<Block>>,
}

impl ResNet {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &ResNetConfig, params: &Params) -> Result<Self> {
        let relu = |conv: Conv| conv.activation(Activation::Relu);
        let stem_params = params.pp("conv1");
        let stem = vec![
            conv_norm(
                relu(Conv::new(3, 32, 3).stride(2)),
                &stem_params.pp("conv1_1"),
            )?,
            conv_norm(relu(Conv::new(32, 32, 3)), &stem_params.pp("conv1_2"))?,
            conv_norm(relu(Conv::new(32, 64, 3)), &stem_params.pp("conv1_3"))?,
        ];
        let mut stages = Vec::new();
        let mut input = 64;
        for (index, (&width, &count)) in WIDTHS.iter().zip(&config.blocks).enumerate() {
            let params = params.pp("res_layers").pp(index).pp("blocks");
            let mut blocks = Vec::new();
            for block in 0..count {
                let stride = if block == 0 && index > 0 { 2 } else { 1 };
                let params = params.pp(block);
                blocks.push(Block::new(
                    config,
                    input,
                    width,
                    stride,
                    block == 0,
                    &params,
                )?);
                input = width * config.expansion();
            }
            stages.push(blocks);
        }
        Ok(Self { stem, stages })
    }

    /// Levels of strides 8, 16, 32 of `[batch, 3, height, width]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn forward(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let pool = Window {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        let mut x = max_pool2d(&forward_all(&self.stem, images)?, pool)?;
        let mut levels = Vec::new();
        for (index, blocks) in self.stages.iter().enumerate() {
            x = forward_all(blocks, &x)?;
            if index > 0 {
                levels.push(x.clone());
            }
        }
        Ok(levels)
    }
}

/// A residual block: what the branch adds to the input or to its projection, then ReLU.
pub(crate) struct Block {
    /// The convolutions; the last one has no activation.
    pub branch: Vec<ConvNormAct>,
    /// Only where the branch changes the shape.
    pub short: Option<Shortcut>,
}

/// The projection of a block's input.
pub(crate) struct Shortcut {
    /// Whether 2×2 averages come first (ResNet-vd).
    pub pool: bool,
    /// The projection.
    pub conv: ConvNormAct,
}

impl Block {
    fn new(
        config: &ResNetConfig,
        input: usize,
        width: usize,
        stride: usize,
        project: bool,
        params: &Params,
    ) -> Result<Self> {
        let relu = |conv: Conv| conv.activation(Activation::Relu);
        let output = width * config.expansion();
        let (a, b, c) = (
            params.pp("branch2a"),
            params.pp("branch2b"),
            params.pp("branch2c"),
        );
        let branch = if config.bottleneck {
            vec![
                conv_norm(relu(Conv::new(input, width, 1)), &a)?,
                conv_norm(relu(Conv::new(width, width, 3).stride(stride)), &b)?,
                conv_norm(Conv::new(width, output, 1), &c)?,
            ]
        } else {
            vec![
                conv_norm(relu(Conv::new(input, width, 3).stride(stride)), &a)?,
                conv_norm(Conv::new(width, output, 3), &b)?,
            ]
        };
        let short = if project {
            let pool = stride == 2;
            // A pooled shortcut is named `short.conv`, a plain one `short`.
            let params = params.pp("short");
            let params = if pool { params.pp("conv") } else { params };
            Some(Shortcut {
                pool,
                conv: conv_norm(Conv::new(input, output, 1), &params)?,
            })
        } else {
            None
        };
        Ok(Self { branch, short })
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Some((last, before)) = self.branch.split_last() else {
            candle_core::bail!("a block without convolutions")
        };
        let short = match &self.short {
            Some(short) if short.pool => short.conv.forward(&x.avg_pool2d(2)?)?,
            Some(short) => short.conv.forward(x)?,
            None => x.clone(),
        };
        last.forward_sum(&[&forward_all(before, x)?], &short, true)
    }
}
