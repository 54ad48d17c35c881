//! OSNet's building block: four streams of light convolutions, weighed by one gate.

use candle_core::{Module, Result, Tensor};

use crate::layers::{Activation, Conv, ConvNormAct, InstanceNorm, Params, forward_all};
use crate::ops::{STREAMS, add_relu, gated_sum, plane_means};

/// Blocks narrow to a quarter inside, gates to a sixteenth of that.
const BLOCK_REDUCTION: usize = 4;
pub(super) const GATE_REDUCTION: usize = 16;

/// Sizes of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockConfig {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Streams are named as in torchreid's AIN networks.
    pub ain: bool,
    /// An instance norm takes the place of the last batch norm.
    pub norm_inside: bool,
    /// An instance norm follows the sum of block and shortcut.
    pub norm_after: bool,
}

impl BlockConfig {
    /// Channels of the streams.
    pub(super) fn middle(&self) -> usize {
        self.output / BLOCK_REDUCTION
    }
}

/// A convolution, its batch norm as `bn`, ReLU.
pub(super) fn conv_relu(conv: Conv, params: &Params) -> Result<ConvNormAct> {
    ConvNormAct::with_norm(conv.activation(Activation::Relu), params, "bn")
}

/// The block.
pub(super) struct Block {
    narrow: ConvNormAct,
    streams: Vec<Vec<LightConv>>,
    gate: Gate,
    widen: ConvNormAct,
    norm_inside: Option<InstanceNorm>,
    shortcut: Option<ConvNormAct>,
    norm_after: Option<InstanceNorm>,
}

impl Block {
    pub(super) fn new(config: &BlockConfig, params: &Params) -> Result<Self> {
        let (input, output) = (config.input, config.output);
        let middle = config.middle();
        let mut streams = Vec::new();
        for stream in 0..STREAMS {
            streams.push(light_convs(middle, stream, config.ain, params)?);
        }
        let widen = Conv::new(middle, output, 1);
        let conv3 = params.pp("conv3");
        let norm = |wanted: bool| -> Result<Option<InstanceNorm>> {
            wanted
                .then(|| InstanceNorm::new(output, &params.pp("IN")))
                .transpose()
        };
        let shortcut = if input == output {
            None
        } else {
            let conv = Conv::new(input, output, 1);
            Some(ConvNormAct::with_norm(
                conv,
                &params.pp("downsample"),
                "bn",
            )?)
        };
        Ok(Self {
            narrow: conv_relu(Conv::new(input, middle, 1), &params.pp("conv1"))?,
            streams,
            gate: Gate::new(middle, &params.pp("gate"))?,
            widen: if config.norm_inside {
                ConvNormAct::without_norm(widen, &conv3.pp("conv"))?
            } else {
                ConvNormAct::with_norm(widen, &conv3, "bn")?
            },
            norm_inside: norm(config.norm_inside)?,
            shortcut,
            norm_after: norm(config.norm_after)?,
        })
    }
}

impl Module for Block {
    // [batch, input, height, width] -> [batch, output, height, width]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let narrow = self.narrow.forward(x)?;
        let mut streams = Vec::with_capacity(STREAMS);
        for stream in &self.streams {
            streams.push(forward_all(stream, &narrow)?);
        }
        let mixed = self.gate.weigh(&streams)?;
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)?,
            None => x.clone(),
        };
        match (&self.norm_inside, &self.norm_after) {
            (None, None) => self.widen.forward_sum(&[&mixed], &x, true),
            (None, Some(norm)) => norm
                .forward(&self.widen.forward_sum(&[&mixed], &x, false)?)?
                .relu(),
            (Some(inside), after) => {
                let y = inside.forward(&self.widen.forward(&mixed)?)?;
                match after {
                    Some(norm) => norm.forward(&(y + x)?)?.relu(),
                    None => add_relu(&y, &x),
                }
            }
        }
    }
}

/// The light convolutions of stream `stream`.
fn light_convs(
    channels: usize,
    stream: usize,
    ain: bool,
    params: &Params,
) -> Result<Vec<LightConv>> {
    let mut convs = Vec::new();
    for index in 0..=stream {
        let name = light_conv_name(ain, stream, index);
        convs.push(LightConv::new(channels, &params.pp(name))?);
    }
    Ok(convs)
}

/// What torchreid calls light convolution `index` of stream `stream`.
pub(super) fn light_conv_name(ain: bool, stream: usize, index: usize) -> String {
    match (ain, stream) {
        (true, _) => format!("conv2.{stream}.layers.{index}"),
        (false, 0) => "conv2a".to_string(),
        (false, 1) => format!("conv2b.{index}"),
        (false, 2) => format!("conv2c.{index}"),
        (false, _) => format!("conv2d.{index}"),
    }
}

/// A 3×3 convolution in two: all channels at one place, then every channel alone.
struct LightConv {
    pointwise: ConvNormAct,
    depthwise: ConvNormAct,
}

impl LightConv {
    fn new(channels: usize, params: &Params) -> Result<Self> {
        let pointwise = Conv::new(channels, channels, 1);
        let depthwise = Conv::depthwise(channels, 3).activation(Activation::Relu);
        Ok(Self {
            pointwise: ConvNormAct::without_norm(pointwise, &params.pp("conv1"))?,
            depthwise: ConvNormAct::new(depthwise, &params.pp("conv2"), &params.pp("bn"))?,
        })
    }
}

impl Module for LightConv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.depthwise.forward(&self.pointwise.forward(x)?)
    }
}

/// Gives every channel of a stream a weight in 0..=1 that follows from the channels' means; one
/// gate serves all streams.
struct Gate {
    squeeze: ConvNormAct,
    excite: ConvNormAct,
}

impl Gate {
    fn new(channels: usize, params: &Params) -> Result<Self> {
        let inner = channels / GATE_REDUCTION;
        let squeeze = Conv::new(channels, inner, 1).activation(Activation::Relu);
        Ok(Self {
            squeeze: ConvNormAct::with_bias(squeeze, &params.pp("fc1"))?,
            excite: ConvNormAct::with_bias(Conv::new(inner, channels, 1), &params.pp("fc2"))?,
        })
    }

    /// The sum of all streams, `[batch, channels, height, width]` each, by their weights.
    fn weigh(&self, streams: &[Tensor]) -> Result<Tensor> {
        let mut means = Vec::with_capacity(streams.len());
        for stream in streams {
            means.push(plane_means(stream)?);
        }
        let means = Tensor::cat(&means, 0)?; // [streams · batch, channels]
        let (rows, channels) = means.dims2()?;
        let means = means.reshape((rows, channels, 1, 1))?;
        let weights = self.excite.forward(&self.squeeze.forward(&means)?)?;
        let weights = candle_nn::ops::sigmoid(&weights)?;
        let shape = (streams.len(), rows / streams.len().max(1), channels);
        gated_sum(streams, &weights.reshape(shape)?)
    }
}
