//! The convolutions of a ResNet, with torchvision's names.

use candle_core::{Module as _, Result, Tensor};

use super::{Layers, ResNet50Config, Stem};
use crate::layers::{Activation, Conv, ConvNormAct, Params, folded_convolution, forward_all};
use crate::ops::{Cascade, Window, max_pool2d};
use crate::rtdetr::{ResidualBlock, Shortcut};

/// The backbone: `[batch, 3, height, width]` to `[batch, channels, height / 16, width / 16]`, or
/// `/ 32` with last stride 2; [`Layers::channels`] (2048 for ResNet-50).
pub struct Backbone {
    beginning: Beginning,
    blocks: Vec<ResidualBlock>,
}

/// What precedes the blocks.
enum Beginning {
    Layers(ConvNormAct, Stem),
    /// The same by one pass.
    Together(Cascade),
}

impl Beginning {
    fn new(width: usize, stem: Stem, params: &Params) -> Result<Self> {
        let activation = match stem {
            Stem::WithoutRelu => Activation::Identity,
            Stem::Standard | Stem::Ceiling => Activation::Relu,
        };
        let conv = Conv::new(3, width, 7).stride(2).activation(activation);
        let (own, norm) = (params.pp("conv1"), params.pp("bn1"));
        if params.has_cpu_kernels() && stem == Stem::Standard {
            let folded = folded_convolution(&conv, &own, &norm)?;
            if let Some(cascade) = Cascade::with_pool(conv, folded, window(1)) {
                return Ok(Self::Together(cascade));
            }
        }
        Ok(Self::Layers(ConvNormAct::new(conv, &own, &norm)?, stem))
    }

    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (conv, stem) = match self {
            Self::Together(cascade) => return cascade.forward(&[images]),
            Self::Layers(conv, stem) => (conv, stem),
        };
        let x = conv.forward(images)?;
        match stem {
            Stem::Standard | Stem::WithoutRelu => max_pool2d(&x, window(1)),
            Stem::Ceiling => max_pool2d(&over_the_edge(&x)?, window(0)),
        }
    }
}

impl Backbone {
    /// Builds it from weights.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(layers: Layers, config: &ResNet50Config, params: &Params) -> Result<Self> {
        let mut blocks = Vec::new();
        let mut input = layers.width;
        for (stage, count) in layers.blocks.into_iter().enumerate() {
            let width = layers.width << stage;
            let stride = match stage {
                0 => 1,
                3 => config.last_stride,
                _ => 2,
            };
            let params = params.pp(format!("layer{}", stage + 1));
            for index in 0..count {
                let stride = if index == 0 { stride } else { 1 };
                let output = width * layers.expansion();
                blocks.push(block(
                    layers,
                    [input, width, output],
                    stride,
                    &params.pp(index),
                )?);
                input = output;
            }
        }
        Ok(Self {
            beginning: Beginning::new(layers.width, config.stem, params)?,
            blocks,
        })
    }

    /// The last map.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let x = self.beginning.forward(images)?;
        forward_all(&self.blocks, &x)
    }
}

fn window(padding: usize) -> Window {
    Window {
        kernel: 3,
        stride: 2,
        padding,
    }
}

/// Zeros after the far edges, so that the last window, which begins inside, ends inside too. After
/// a ReLU they are never the largest number alone.
fn over_the_edge(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    // Three wide at every second pixel: with an even size the last one lacks one.
    let missing = |size: usize| usize::from(size.is_multiple_of(2));
    x.pad_with_zeros(2, 0, missing(height))?
        .pad_with_zeros(3, 0, missing(width))
}

/// Two 3×3 convolutions, of which the first strides; or 1×1, 3×3, 1×1, of which the 3×3 strides
/// (torchvision's variant "v1.5"). The channels are those before, inside and after.
fn block(
    layers: Layers,
    [input, width, output]: [usize; 3],
    stride: usize,
    params: &Params,
) -> Result<ResidualBlock> {
    let layer = |number: usize, conv: Conv| {
        let (conv_params, norm_params) = (
            params.pp(format!("conv{number}")),
            params.pp(format!("bn{number}")),
        );
        ConvNormAct::new(conv, &conv_params, &norm_params)
    };
    let relu = |conv: Conv| conv.activation(Activation::Relu);
    let branch = if layers.bottleneck {
        vec![
            layer(1, relu(Conv::new(input, width, 1)))?,
            layer(2, relu(Conv::new(width, width, 3).stride(stride)))?,
            layer(3, Conv::new(width, output, 1))?,
        ]
    } else {
        vec![
            layer(1, relu(Conv::new(input, width, 3).stride(stride)))?,
            layer(2, Conv::new(width, output, 3))?,
        ]
    };
    let short = if stride != 1 || input != output {
        let conv = Conv::new(input, output, 1).stride(stride);
        let params = params.pp("downsample");
        Some(Shortcut {
            pool: false,
            conv: ConvNormAct::new(conv, &params.pp(0), &params.pp(1))?,
        })
    } else {
        None
    };
    Ok(ResidualBlock { branch, short })
}
