//! PP-HGNetv2 (PaddleClas), sizes L and X: blocks that keep the output of every layer, join them
//! and squeeze the result.

use candle_core::{Module, Result, Tensor};

use super::forward_all;
use crate::layers::{Activation, Conv, ConvNormAct, Params};

/// Sizes of one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageConfig {
    /// Channels in.
    pub input: usize,
    /// Channels of the layers inside a block.
    pub middle: usize,
    /// Channels out.
    pub output: usize,
    /// Blocks; all but the first add their input.
    pub blocks: usize,
    /// Halves the resolution first.
    pub downsample: bool,
    /// Layers are a pointwise and a depthwise convolution instead of a dense one.
    pub light: bool,
    /// Kernel side of the layers.
    pub kernel: usize,
}

/// Sizes of the backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct HgNetConfig {
    /// Channels inside the stem and after it.
    pub stem: (usize, usize),
    /// The four stages.
    pub stages: Vec<StageConfig>,
}

/// Layers in every block of sizes L and X.
const LAYERS: usize = 6;

impl HgNetConfig {
    /// Size L.
    pub fn l() -> Self {
        Self::scaled(
            (32, 48),
            [48, 48, 128],
            [96, 512],
            [192, 1024, 3],
            [384, 2048, 1],
        )
    }

    /// Size X.
    pub fn x() -> Self {
        Self::scaled(
            (32, 64),
            [64, 64, 128],
            [128, 512],
            [256, 1024, 5],
            [512, 2048, 2],
        )
    }

    fn scaled(
        stem: (usize, usize),
        [input, middle1, output1]: [usize; 3],
        [middle2, output2]: [usize; 2],
        [middle3, output3, blocks3]: [usize; 3],
        [middle4, output4, blocks4]: [usize; 3],
    ) -> Self {
        let stage = |input, middle, output, blocks, light| StageConfig {
            input,
            middle,
            output,
            blocks,
            downsample: true,
            light,
            kernel: if light { 5 } else { 3 },
        };
        let blocks2 = if middle2 == 128 { 2 } else { 1 };
        Self {
            stem,
            stages: vec![
                StageConfig {
                    downsample: false,
                    ..stage(input, middle1, output1, 1, false)
                },
                stage(output1, middle2, output2, blocks2, false),
                stage(output2, middle3, output3, blocks3, true),
                stage(output3, middle4, output4, blocks4, true),
            ],
        }
    }

    /// Channels of the levels with strides 8, 16 and 32.
    pub fn output_channels(&self) -> Vec<usize> {
        self.stages[1..].iter().map(|stage| stage.output).collect()
    }
}

/// The backbone.
pub struct HgNet {
    stem: Stem,
    stages: Vec<Stage>,
}

impl HgNet {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &HgNetConfig, params: &Params) -> Result<Self> {
        let mut stages = Vec::new();
        for (index, stage) in config.stages.iter().enumerate() {
            stages.push(Stage::new(stage, &params.pp("stages").pp(index))?);
        }
        Ok(Self {
            stem: Stem::new(config.stem, &params.pp("stem"))?,
            stages,
        })
    }

    /// Levels of strides 8, 16, 32 of `[batch, 3, height, width]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn forward(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut x = self.stem.forward(images)?;
        let mut levels = Vec::new();
        for (index, stage) in self.stages.iter().enumerate() {
            x = stage.forward(&x)?;
            if index > 0 {
                levels.push(x.clone());
            }
        }
        Ok(levels)
    }
}

/// A convolution with its norm as `conv` and `bn`.
fn conv_bn(conv: Conv, params: &Params) -> Result<ConvNormAct> {
    ConvNormAct::new(conv, &params.pp("conv"), &params.pp("bn"))
}

struct Stem {
    stem1: ConvNormAct,
    stem2a: ConvNormAct,
    stem2b: ConvNormAct,
    stem3: ConvNormAct,
    stem4: ConvNormAct,
}

impl Stem {
    fn new((middle, output): (usize, usize), params: &Params) -> Result<Self> {
        let relu = |conv: Conv| conv.activation(Activation::Relu);
        let two = |input, output| relu(Conv::new(input, output, 2).padding(0));
        Ok(Self {
            stem1: conv_bn(relu(Conv::new(3, middle, 3).stride(2)), &params.pp("stem1"))?,
            stem2a: conv_bn(two(middle, middle / 2), &params.pp("stem2a"))?,
            stem2b: conv_bn(two(middle / 2, middle), &params.pp("stem2b"))?,
            stem3: conv_bn(
                relu(Conv::new(2 * middle, middle, 3).stride(2)),
                &params.pp("stem3"),
            )?,
            stem4: conv_bn(relu(Conv::new(middle, output, 1)), &params.pp("stem4"))?,
        })
    }

    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        // Even kernels keep the size by a row and a column of zeros at the far ends.
        let pad = |x: &Tensor| x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1);
        let x = pad(&self.stem1.forward(images)?)?;
        let branch = self.stem2a.forward(&x)?;
        let branch = self.stem2b.forward(&pad(&branch)?)?;
        let pooled = x.max_pool2d_with_stride(2, 1)?;
        let x = Tensor::cat(&[&pooled, &branch], 1)?;
        self.stem4.forward(&self.stem3.forward(&x)?)
    }
}

struct Stage {
    downsample: Option<ConvNormAct>,
    blocks: Vec<Block>,
}

impl Stage {
    fn new(config: &StageConfig, params: &Params) -> Result<Self> {
        let downsample = if config.downsample {
            let conv = Conv::depthwise(config.input, 3).stride(2);
            Some(conv_bn(conv, &params.pp("downsample"))?)
        } else {
            None
        };
        let mut blocks = Vec::new();
        for index in 0..config.blocks {
            let input = if index == 0 {
                config.input
            } else {
                config.output
            };
            let params = params.pp("blocks").pp(index);
            blocks.push(Block::new(config, input, index > 0, &params)?);
        }
        Ok(Self { downsample, blocks })
    }
}

impl Module for Stage {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.downsample {
            Some(downsample) => forward_all(&self.blocks, &downsample.forward(x)?),
            None => forward_all(&self.blocks, x),
        }
    }
}

struct Block {
    layers: Vec<Vec<ConvNormAct>>,
    squeeze: ConvNormAct,
    excite: ConvNormAct,
    residual: bool,
}

impl Block {
    fn new(config: &StageConfig, input: usize, residual: bool, params: &Params) -> Result<Self> {
        let middle = config.middle;
        let mut layers = Vec::new();
        for index in 0..LAYERS {
            let input = if index == 0 { input } else { middle };
            let params = params.pp("layers").pp(index);
            layers.push(if config.light {
                let depthwise = Conv::depthwise(middle, config.kernel).activation(Activation::Relu);
                vec![
                    conv_bn(Conv::new(input, middle, 1), &params.pp("conv1"))?,
                    conv_bn(depthwise, &params.pp("conv2"))?,
                ]
            } else {
                let conv = Conv::new(input, middle, config.kernel).activation(Activation::Relu);
                vec![conv_bn(conv, &params)?]
            });
        }
        let total = input + LAYERS * middle;
        let params = params.pp("aggregation");
        let pointwise = |input, output| Conv::new(input, output, 1).activation(Activation::Relu);
        Ok(Self {
            layers,
            squeeze: conv_bn(pointwise(total, config.output / 2), &params.pp(0))?,
            excite: conv_bn(pointwise(config.output / 2, config.output), &params.pp(1))?,
            residual,
        })
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut outputs = vec![x.clone()];
        let mut y = x.clone();
        for layer in &self.layers {
            y = forward_all(layer, &y)?;
            outputs.push(y.clone());
        }
        let y = self.squeeze.forward(&Tensor::cat(&outputs, 1)?)?;
        let y = self.excite.forward(&y)?;
        if self.residual { y + x } else { Ok(y) }
    }
}
