//! PP-HGNetv2 backbone (Baidu, PaddleDetection): blocks that keep the output of every layer, join
//! them and squeeze the result. The small ones scale and shift each activation by two learnt
//! numbers (learnable affine block).

use candle_core::{DType, Module, Result, Tensor};

use super::forward_all;
use crate::layers::{Activation, Conv, ConvNormAct, Mode, Params};

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
    /// Its output is one of the backbone's.
    pub returned: bool,
}

/// Sizes of the backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneConfig {
    /// Channels inside the stem and after it.
    pub stem: (usize, usize),
    /// Layers in every block.
    pub layers: usize,
    /// The stages, strides 4, 8, 16, 32.
    pub stages: Vec<StageConfig>,
}

impl BackboneConfig {
    /// Three stages, 256 channels of stride 16.
    pub fn atto() -> Self {
        Self::small(256, 1, 3)
    }

    /// Three stages, 512 channels of stride 16.
    pub fn femto() -> Self {
        Self::small(512, 1, 5)
    }

    /// Three stages, the last with two blocks.
    pub fn pico() -> Self {
        Self::small(512, 2, 5)
    }

    /// All four stages, strides 16 and 32 returned.
    pub fn b0() -> Self {
        let mut config = Self::pico();
        config.stages.push(StageConfig {
            input: 512,
            middle: 128,
            output: 1024,
            blocks: 1,
            downsample: true,
            light: true,
            kernel: 5,
            returned: true,
        });
        config
    }

    fn small(output: usize, blocks: usize, kernel: usize) -> Self {
        let first = StageConfig {
            input: 16,
            middle: 16,
            output: 64,
            blocks: 1,
            downsample: false,
            light: false,
            kernel: 3,
            returned: false,
        };
        let second = StageConfig {
            input: 64,
            middle: 32,
            output: 256,
            downsample: true,
            ..first.clone()
        };
        let third = StageConfig {
            input: 256,
            middle: 64,
            output,
            blocks,
            downsample: true,
            light: true,
            kernel,
            returned: true,
        };
        Self {
            stem: (16, 16),
            layers: 3,
            stages: vec![first, second, third],
        }
    }

    /// Channels of the levels that are returned, finest first.
    pub fn output_channels(&self) -> Vec<usize> {
        let returned = self.stages.iter().filter(|stage| stage.returned);
        returned.map(|stage| stage.output).collect()
    }
}

/// The backbone.
pub struct Backbone {
    stem: Stem,
    stages: Vec<(Stage, bool)>,
}

impl Backbone {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &BackboneConfig, params: &Params) -> Result<Self> {
        let mut stages = Vec::new();
        for (index, stage) in config.stages.iter().enumerate() {
            let params = params.pp("stages").pp(index);
            stages.push((Stage::new(stage, config.layers, &params)?, stage.returned));
        }
        Ok(Self {
            stem: Stem::new(config.stem, &params.pp("stem"))?,
            stages,
        })
    }

    /// The returned levels of `[batch, 3, height, width]`, finest first.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn forward(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut x = self.stem.forward(images)?;
        let mut levels = Vec::new();
        for (stage, returned) in &self.stages {
            x = stage.forward(&x)?;
            if *returned {
                levels.push(x.clone());
            }
        }
        Ok(levels)
    }
}

/// One number times the activations plus another: `lab.scale` and `lab.bias`, each `[1]`.
enum Affine {
    Numbers { scale: f64, bias: f64 },
    Tensors { scale: Tensor, bias: Tensor },
}

impl Affine {
    fn new(params: &Params) -> Result<Self> {
        let scale = params.get(1, "scale")?;
        let bias = params.get(1, "bias")?;
        if params.mode() == Mode::Training {
            return Ok(Self::Tensors { scale, bias });
        }
        let number = |x: Tensor| x.to_dtype(DType::F32)?.squeeze(0)?.to_scalar::<f32>();
        Ok(Self::Numbers {
            scale: f64::from(number(scale)?),
            bias: f64::from(number(bias)?),
        })
    }
}

impl Module for Affine {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Numbers { scale, bias } => x.affine(*scale, *bias),
            Self::Tensors { scale, bias } => x.broadcast_mul(scale)?.broadcast_add(bias),
        }
    }
}

/// Convolution `conv`, batch norm `bn`, and, after an activation, the affine block `lab`.
struct ConvLayer {
    conv: ConvNormAct,
    affine: Option<Affine>,
}

impl ConvLayer {
    fn new(conv: Conv, params: &Params) -> Result<Self> {
        let affine = if conv.activation == Activation::Identity {
            None
        } else {
            Some(Affine::new(&params.pp("lab"))?)
        };
        Ok(Self {
            conv: ConvNormAct::new(conv, &params.pp("conv"), &params.pp("bn"))?,
            affine,
        })
    }

    fn relu(conv: Conv, params: &Params) -> Result<Self> {
        Self::new(conv.activation(Activation::Relu), params)
    }
}

impl Module for ConvLayer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.conv.forward(x)?;
        match &self.affine {
            Some(affine) => affine.forward(&y),
            None => Ok(y),
        }
    }
}

struct Stem {
    stem1: ConvLayer,
    stem2a: ConvLayer,
    stem2b: ConvLayer,
    stem3: ConvLayer,
    stem4: ConvLayer,
}

impl Stem {
    fn new((middle, output): (usize, usize), params: &Params) -> Result<Self> {
        let layer = |name: &str, conv| ConvLayer::relu(conv, &params.pp(name));
        let two = |input, output| Conv::new(input, output, 2).padding(0);
        Ok(Self {
            stem1: layer("stem1", Conv::new(3, middle, 3).stride(2))?,
            stem2a: layer("stem2a", two(middle, middle / 2))?,
            stem2b: layer("stem2b", two(middle / 2, middle))?,
            stem3: layer("stem3", Conv::new(2 * middle, middle, 3).stride(2))?,
            stem4: layer("stem4", Conv::new(middle, output, 1))?,
        })
    }

    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        // Even kernels keep the size by a row and a column of zeros at the far ends.
        let pad = |x: &Tensor| x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1);
        let x = pad(&self.stem1.forward(images)?)?;
        let branch = self.stem2a.forward(&x)?;
        let branch = self.stem2b.forward(&pad(&branch)?)?;
        let pooled = max_of_neighbours(&max_of_neighbours(&x, 2)?, 3)?;
        let x = Tensor::cat(&[&pooled, &branch], 1)?;
        self.stem4.forward(&self.stem3.forward(&x)?)
    }
}

/// The larger of each two neighbours along `dim`, one fewer than before. Twice, along rows and
/// columns, it is a 2×2 max pooling at stride 1, for which candle has no gradient.
fn max_of_neighbours(x: &Tensor, dim: usize) -> Result<Tensor> {
    let count = x.dim(dim)? - 1;
    x.narrow(dim, 0, count)?.maximum(&x.narrow(dim, 1, count)?)
}

struct Stage {
    downsample: Option<ConvLayer>,
    blocks: Vec<Block>,
}

impl Stage {
    fn new(config: &StageConfig, layers: usize, params: &Params) -> Result<Self> {
        let downsample = if config.downsample {
            let conv = Conv::depthwise(config.input, 3).stride(2);
            Some(ConvLayer::new(conv, &params.pp("downsample"))?)
        } else {
            None
        };
        let mut blocks = Vec::new();
        for index in 0..config.blocks {
            let params = params.pp("blocks").pp(index);
            blocks.push(Block::new(config, layers, index > 0, &params)?);
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
    layers: Vec<Vec<ConvLayer>>,
    squeeze: ConvLayer,
    excite: ConvLayer,
    residual: bool,
}

impl Block {
    /// A block behind another one of its stage takes the stage's output and adds it to its own.
    fn new(config: &StageConfig, count: usize, residual: bool, params: &Params) -> Result<Self> {
        let middle = config.middle;
        let input = if residual {
            config.output
        } else {
            config.input
        };
        let mut layers = Vec::new();
        for index in 0..count {
            let input = if index == 0 { input } else { middle };
            let params = params.pp("layers").pp(index);
            layers.push(if config.light {
                let pointwise = Conv::new(input, middle, 1);
                let depthwise = Conv::depthwise(middle, config.kernel);
                vec![
                    ConvLayer::new(pointwise, &params.pp("conv1"))?,
                    ConvLayer::relu(depthwise, &params.pp("conv2"))?,
                ]
            } else {
                let dense = Conv::new(input, middle, config.kernel);
                vec![ConvLayer::relu(dense, &params)?]
            });
        }
        let half = config.output / 2;
        let params = params.pp("aggregation");
        Ok(Self {
            layers,
            squeeze: ConvLayer::relu(Conv::new(input + count * middle, half, 1), &params.pp(0))?,
            excite: ConvLayer::relu(Conv::new(half, config.output, 1), &params.pp(1))?,
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
