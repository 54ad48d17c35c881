//! PP-HGNetv2, Baidu's backbone (PaddleClas, PaddleDetection): blocks that keep the output of
//! every layer, join them and squeeze the result. RT-DETR has the sizes L and X, DEIMv2 B0 and
//! smaller ones with a learnable affine block behind each activation.
//!
//! Tensor names are those of the PyTorch versions: `stem.stem1.conv`, `stages.0.blocks.0.layers.0`.

use candle_core::{DType, Module, Result, Tensor};

use crate::layers::{Activation, Conv, ConvNormAct, Params, forward_all};
use crate::ops::{Cascade, max_of_four};

mod together;

/// Sizes of one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageConfig {
    /// Channels of the layers inside a block.
    pub middle: usize,
    /// Channels out.
    pub output: usize,
    /// Blocks; all but the first add their input.
    pub blocks: usize,
}

/// Sizes of the backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct HgNetV2Config {
    /// Channels inside the stem and after it.
    pub stem: (usize, usize),
    /// Layers in every block.
    pub layers: usize,
    /// The stages, strides 4, 8, 16, 32.
    pub stages: Vec<StageConfig>,
    /// Kernel side of the light layers, pointwise then depthwise, in the third and fourth stage;
    /// the first two have dense layers of 3×3.
    pub light_kernel: usize,
    /// Index of the first stage whose output is one of the backbone's; all after it are too.
    pub first_returned: usize,
    /// Whether activations are scaled and shifted by two learnt numbers.
    pub affine: bool,
}

impl HgNetV2Config {
    /// Size L: strides 8, 16, 32.
    pub fn l() -> Self {
        let stages = [(48, 128, 1), (96, 512, 1), (192, 1024, 3), (384, 2048, 1)];
        Self::large((32, 48), stages)
    }

    /// Size X: strides 8, 16, 32.
    pub fn x() -> Self {
        let stages = [(64, 128, 1), (128, 512, 2), (256, 1024, 5), (512, 2048, 2)];
        Self::large((32, 64), stages)
    }

    /// Three stages, 256 channels of stride 16.
    pub fn atto() -> Self {
        Self::small(&[(64, 256, 1)], 3)
    }

    /// Three stages, 512 channels of stride 16.
    pub fn femto() -> Self {
        Self::small(&[(64, 512, 1)], 5)
    }

    /// Three stages, the last with two blocks.
    pub fn pico() -> Self {
        Self::small(&[(64, 512, 2)], 5)
    }

    /// All four stages: strides 16 and 32.
    pub fn b0() -> Self {
        Self::small(&[(64, 512, 2), (128, 1024, 1)], 5)
    }

    fn large(stem: (usize, usize), stages: [(usize, usize, usize); 4]) -> Self {
        Self {
            stem,
            layers: 6,
            stages: stages.map(StageConfig::new).to_vec(),
            light_kernel: 5,
            first_returned: 1,
            affine: false,
        }
    }

    /// `light`: the stages behind the two that all small sizes share.
    fn small(light: &[(usize, usize, usize)], light_kernel: usize) -> Self {
        let mut stages = vec![(16, 64, 1), (32, 256, 1)];
        stages.extend(light);
        Self {
            stem: (16, 16),
            layers: 3,
            stages: stages.into_iter().map(StageConfig::new).collect(),
            light_kernel,
            first_returned: 2,
            affine: true,
        }
    }

    /// Channels of the levels that are returned, finest first.
    pub fn output_channels(&self) -> Vec<usize> {
        let returned = self.stages.iter().skip(self.first_returned);
        returned.map(|stage| stage.output).collect()
    }
}

impl StageConfig {
    fn new((middle, output, blocks): (usize, usize, usize)) -> Self {
        Self {
            middle,
            output,
            blocks,
        }
    }
}

/// The backbone.
pub struct HgNetV2 {
    beginning: Beginning,
    /// What is left of the stages after that.
    stages: Vec<Stage>,
    /// Index among these.
    first_returned: usize,
}

/// What precedes the stages.
enum Beginning {
    Layers(Box<Stem>),
    /// The stem and, of the small sizes, all up to the second stage's blocks.
    Together(Cascade),
}

impl HgNetV2 {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(config: &HgNetV2Config, params: &Params) -> Result<Self> {
        let together = together::beginning(config, params)?;
        let (beginning, done) = match together {
            Some((cascade, stages)) => (Beginning::Together(cascade), stages),
            None => {
                let stem = Stem::new(config, &params.pp("stem"))?;
                (Beginning::Layers(Box::new(stem)), 0)
            }
        };
        let mut stages: Vec<Stage> = Vec::new();
        let mut input = config.stem.1;
        for (index, stage) in config.stages.iter().enumerate() {
            if index >= done {
                let halved = match stages.last() {
                    Some(before) => before.halves(),
                    None => true,
                };
                let place = Place {
                    index,
                    input,
                    halved,
                };
                stages.push(Stage::new(config, place, &params.pp("stages"))?);
            }
            input = stage.output;
        }
        Ok(Self {
            beginning,
            stages,
            first_returned: config.first_returned - done,
        })
    }

    /// The returned levels of `[batch, 3, height, width]`, finest first.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn forward(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut x = match &self.beginning {
            Beginning::Layers(stem) => stem.forward(images)?,
            Beginning::Together(cascade) => cascade.forward(&[images])?,
        };
        let mut levels = Vec::new();
        for (index, stage) in self.stages.iter().enumerate() {
            x = stage.forward(&x)?;
            if index >= self.first_returned {
                levels.push(x.clone());
            }
        }
        Ok(levels)
    }
}

/// One number times the activations plus another: `lab.scale` and `lab.bias`, each `[1]`.
struct Affine {
    scale: Tensor,
    bias: Tensor,
}

impl Affine {
    /// That of a layer, if it has one.
    fn new(conv: &Conv, affine: bool, params: &Params) -> Result<Option<Self>> {
        if !affine || conv.activation == Activation::Identity {
            return Ok(None);
        }
        let params = params.pp("lab");
        let (scale, bias) = (params.get(1, "scale")?, params.get(1, "bias")?);
        Ok(Some(Self { scale, bias }))
    }

    fn numbers(&self) -> Result<[f32; 2]> {
        let number = |x: &Tensor| x.to_dtype(DType::F32)?.squeeze(0)?.to_scalar::<f32>();
        Ok([number(&self.scale)?, number(&self.bias)?])
    }
}

/// Convolution `conv`, batch norm `bn`, and, after an activation, the affine block `lab` of the
/// sizes that have it; by itself for training alone.
struct ConvLayer {
    conv: ConvNormAct,
    affine: Option<Affine>,
}

impl ConvLayer {
    fn new(conv: Conv, affine: bool, params: &Params) -> Result<Self> {
        let layer = ConvNormAct::with_norm(conv, params, "bn")?;
        match Affine::new(&conv, affine, params)? {
            Some(affine) if !params.mode().is_plain() => {
                let [scale, shift] = affine.numbers()?;
                Ok(Self {
                    conv: layer.scaled(scale, shift)?,
                    affine: None,
                })
            }
            affine => Ok(Self {
                conv: layer,
                affine,
            }),
        }
    }

    fn relu(conv: Conv, affine: bool, params: &Params) -> Result<Self> {
        Self::new(conv.activation(Activation::Relu), affine, params)
    }

    /// The layer on the channels of all `parts`.
    fn forward_parts(&self, parts: &[&Tensor]) -> Result<Tensor> {
        self.finish(self.conv.forward_parts(parts)?)
    }

    /// The layer plus `added`.
    fn forward_sum(&self, x: &Tensor, added: &Tensor) -> Result<Tensor> {
        if self.affine.is_some() {
            return self.forward(x)? + added;
        }
        self.conv.forward_sum(&[x], added, false)
    }

    fn finish(&self, y: Tensor) -> Result<Tensor> {
        match &self.affine {
            Some(Affine { scale, bias }) => y.broadcast_mul(scale)?.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl Module for ConvLayer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.finish(self.conv.forward(x)?)
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
    fn new(config: &HgNetV2Config, params: &Params) -> Result<Self> {
        let layer = |(name, conv)| ConvLayer::new(conv, config.affine, &params.pp(name));
        let [stem1, stem2a, stem2b, stem3, stem4] = Self::convolutions(config);
        Ok(Self {
            stem1: layer(stem1)?,
            stem2a: layer(stem2a)?,
            stem2b: layer(stem2b)?,
            stem3: layer(stem3)?,
            stem4: layer(stem4)?,
        })
    }

    /// Its convolutions and their names.
    fn convolutions(config: &HgNetV2Config) -> [(&'static str, Conv); 5] {
        let (middle, output) = config.stem;
        // Even kernels keep the size by a row and a column of zeros at the far ends.
        let two = |input, output| Conv::new(input, output, 2).padding(0).far(1);
        [
            ("stem1", Conv::new(3, middle, 3).stride(2)),
            ("stem2a", two(middle, middle / 2)),
            ("stem2b", two(middle / 2, middle)),
            ("stem3", Conv::new(2 * middle, middle, 3).stride(2)),
            ("stem4", Conv::new(middle, output, 1)),
        ]
        .map(|(name, conv)| (name, conv.activation(Activation::Relu)))
    }

    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let x = self.stem1.forward(images)?;
        let branch = self.stem2b.forward(&self.stem2a.forward(&x)?)?;
        let pooled = max_of_four(&x)?;
        let x = self.stem3.forward_parts(&[&pooled, &branch])?;
        self.stem4.forward(&x)
    }
}

struct Stage {
    downsample: Option<ConvLayer>,
    blocks: Vec<Block>,
}

/// Where a stage is.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    /// Channels that it sees.
    input: usize,
    /// Whether the resolution is halved already, by what comes before.
    halved: bool,
}

impl Stage {
    /// `stages`: weights of all stages.
    fn new(config: &HgNetV2Config, place: Place, stages: &Params) -> Result<Self> {
        let Place {
            index,
            input,
            halved,
        } = place;
        let (stage, own) = (&config.stages[index], stages.pp(index));
        let downsample = if halved {
            None
        } else {
            let conv = halving(input);
            Some(ConvLayer::new(conv, config.affine, &own.pp("downsample"))?)
        };
        let last = index >= config.first_returned || index + 1 == config.stages.len();
        let mut blocks = Vec::new();
        for block in 0..stage.blocks {
            let residual = block > 0;
            let input = if residual { stage.output } else { input };
            let params = own.pp("blocks").pp(block);
            let convs = aggregating(config, input, stage);
            let aggregated = params.pp("aggregation");
            let together = if last || stage.blocks > 1 {
                None
            } else {
                let next = stages.pp(index + 1).pp("downsample");
                together::aggregation(config, convs, &aggregated, &next)?
            };
            blocks.push(Block {
                layers: layers(
                    config,
                    index >= 2,
                    input,
                    stage.middle,
                    &params.pp("layers"),
                )?,
                aggregation: match together {
                    Some(cascade) => Aggregation::Together(cascade),
                    None => Aggregation::new(config, convs, &aggregated)?,
                },
                residual,
            });
        }
        Ok(Self { downsample, blocks })
    }

    /// Whether its output has half of its resolution: that with which the next one begins.
    fn halves(&self) -> bool {
        let last = self.blocks.last().map(|block| &block.aggregation);
        matches!(last, Some(Aggregation::Together(_)))
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
    /// One after the other; a light layer is two convolutions.
    layers: Vec<Vec<ConvLayer>>,
    aggregation: Aggregation,
    residual: bool,
}

/// Squeezes a block's input and all its layers' outputs, then excites.
enum Aggregation {
    Layers(Box<[ConvLayer; 2]>),
    /// And halves the resolution for the next stage.
    Together(Cascade),
}

/// A block's layers, on `input` channels the first, on `middle` all others.
fn layers(
    config: &HgNetV2Config,
    light: bool,
    input: usize,
    middle: usize,
    params: &Params,
) -> Result<Vec<Vec<ConvLayer>>> {
    let affine = config.affine;
    let mut layers = Vec::new();
    for index in 0..config.layers {
        let input = if index == 0 { input } else { middle };
        let params = params.pp(index);
        layers.push(if light {
            let pointwise = Conv::new(input, middle, 1);
            let depthwise = Conv::depthwise(middle, config.light_kernel);
            vec![
                ConvLayer::new(pointwise, affine, &params.pp("conv1"))?,
                ConvLayer::relu(depthwise, affine, &params.pp("conv2"))?,
            ]
        } else {
            vec![ConvLayer::relu(
                Conv::new(input, middle, 3),
                affine,
                &params,
            )?]
        });
    }
    Ok(layers)
}

impl Aggregation {
    /// The layers one by one.
    fn new(config: &HgNetV2Config, convs: [Conv; 2], params: &Params) -> Result<Self> {
        let layer = |conv, index: usize| ConvLayer::new(conv, config.affine, &params.pp(index));
        let [squeeze, excite] = convs;
        let layers = [layer(squeeze, 0)?, layer(excite, 1)?];
        Ok(Self::Layers(Box::new(layers)))
    }
}

/// The convolutions of the aggregation of a block on `input` channels.
fn aggregating(config: &HgNetV2Config, input: usize, stage: &StageConfig) -> [Conv; 2] {
    let squeezed = input + config.layers * stage.middle;
    let output = stage.output;
    let pointwise = |input, output| Conv::new(input, output, 1).activation(Activation::Relu);
    [
        pointwise(squeezed, output / 2),
        pointwise(output / 2, output),
    ]
}

/// What all stages but the first begin with.
fn halving(channels: usize) -> Conv {
    Conv::depthwise(channels, 3).stride(2)
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut outputs = vec![x.clone()];
        let mut y = x.clone();
        for layer in &self.layers {
            y = forward_all(layer, &y)?;
            outputs.push(y.clone());
        }
        let outputs: Vec<&Tensor> = outputs.iter().collect();
        let [squeeze, excite] = match &self.aggregation {
            Aggregation::Together(cascade) => return cascade.forward(&outputs),
            Aggregation::Layers(layers) => &**layers,
        };
        let y = squeeze.forward_parts(&outputs)?;
        if self.residual {
            excite.forward_sum(&y, x)
        } else {
            excite.forward(&y)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Channels of the published backbones: `HGNetv2.arch_configs` and `return_idx` in the
    // RT-DETR's and DEIMv2's authors' code.
    #[test]
    fn returned_levels_are_the_published_ones() {
        let l = HgNetV2Config::l().output_channels();
        assert_eq!(l, [512, 1024, 2048]);
        assert_eq!(HgNetV2Config::x().output_channels(), l);
        assert_eq!(HgNetV2Config::atto().output_channels(), [256]);
        assert_eq!(HgNetV2Config::femto().output_channels(), [512]);
        assert_eq!(HgNetV2Config::b0().output_channels(), [512, 1024]);
    }
}
