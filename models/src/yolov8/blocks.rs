//! What YOLOv8 is built from: convolution blocks, C2f blocks, pyramid pooling.

use candle_core::{Module, Result, Tensor};

use crate::layers::{Activation, Conv, ConvNormAct, Params};
use crate::ops::{Window, max_pool2d};

/// Convolution (`conv`), batch norm (`bn`), `SiLU`.
pub struct ConvBlock(ConvNormAct);

impl ConvBlock {
    /// A square kernel of `kernel` pixels with padding that keeps the size at stride 1.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        params: &Params,
    ) -> Result<Self> {
        Self::of(Conv::new(input, output, kernel).stride(stride), params)
    }

    /// The block of a convolution.
    fn of(conv: Conv, params: &Params) -> Result<Self> {
        let conv = conv.activation(Activation::Silu);
        let layer = ConvNormAct::with_norm(conv, params, "bn")?;
        Ok(Self(layer))
    }
}

impl Module for ConvBlock {
    // [batch, input, height, width] -> [batch, output, height', width']
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

/// Two 3×3 convolutions, with the input added where `shortcut` is set.
struct Bottleneck {
    first: ConvBlock,
    second: ConvBlock,
    shortcut: bool,
}

impl Bottleneck {
    fn new(channels: usize, shortcut: bool, params: &Params) -> Result<Self> {
        Ok(Self {
            first: ConvBlock::new(channels, channels, 3, 1, &params.pp("cv1"))?,
            second: ConvBlock::new(channels, channels, 3, 1, &params.pp("cv2"))?,
            shortcut,
        })
    }
}

impl Module for Bottleneck {
    // [batch, channels, height, width], shape kept
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.first.forward(x)?;
        if self.shortcut {
            return self.second.0.forward_sum(&[&y], x, false);
        }
        self.second.forward(&y)
    }
}

/// A cross-stage-partial block: half of the channels go through a chain of bottlenecks, and every
/// link of the chain goes into the output.
pub struct C2f {
    split: ConvBlock,
    chain: Vec<Bottleneck>,
    merge: ConvBlock,
    half: usize,
}

impl C2f {
    /// `repeats` bottlenecks of half the output's channels.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(
        input: usize,
        output: usize,
        repeats: usize,
        shortcut: bool,
        params: &Params,
    ) -> Result<Self> {
        let split = Conv::new(input, output / 2 * 2, 1);
        Self::of(split, output, repeats, shortcut, params)
    }

    /// The same without shortcuts, of a coarser level and a finer one, with so many channels.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn upwards(
        [coarse, fine]: [usize; 2],
        output: usize,
        repeats: usize,
        params: &Params,
    ) -> Result<Self> {
        let split = Conv::new(coarse + fine, output / 2 * 2, 1).coarse(coarse);
        Self::of(split, output, repeats, false, params)
    }

    fn of(
        split: Conv,
        output: usize,
        repeats: usize,
        shortcut: bool,
        params: &Params,
    ) -> Result<Self> {
        let half = output / 2;
        let mut chain = Vec::with_capacity(repeats);
        for index in 0..repeats {
            let params = params.pp("m").pp(index);
            chain.push(Bottleneck::new(half, shortcut, &params)?);
        }
        Ok(Self {
            split: ConvBlock::of(split, &params.pp("cv1"))?,
            chain,
            merge: ConvBlock::new((2 + repeats) * half, output, 1, 1, &params.pp("cv2"))?,
            half,
        })
    }
}

impl C2f {
    /// `parts`: `[batch, channels, height, width]`, with all input channels in turn; what is smaller than the
    /// last one is up-sampled to its size. The result: `[batch, output, height, width]`.
    ///
    /// # Errors
    /// The shapes do not fit, or the device fails.
    pub fn forward_parts(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let both = self.split.0.forward_parts(parts)?;
        let mut last = both.narrow(1, self.half, self.half)?;
        let mut parts = vec![both];
        for bottleneck in &self.chain {
            last = bottleneck.forward(&last)?;
            parts.push(last.clone());
        }
        self.merge
            .0
            .forward_parts(&parts.iter().collect::<Vec<_>>())
    }
}

impl Module for C2f {
    // [batch, input, height, width] -> [batch, output, height, width]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_parts(&[x])
    }
}

/// Spatial pyramid pooling in its quick form: three poolings in a row stand for three of growing
/// size (5, 9 and 13 pixels).
pub struct Sppf {
    reduce: ConvBlock,
    merge: ConvBlock,
}

impl Sppf {
    /// Keeps `channels`, works on half of them.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(channels: usize, params: &Params) -> Result<Self> {
        let half = channels / 2;
        Ok(Self {
            reduce: ConvBlock::new(channels, half, 1, 1, &params.pp("cv1"))?,
            merge: ConvBlock::new(4 * half, channels, 1, 1, &params.pp("cv2"))?,
        })
    }
}

impl Module for Sppf {
    // [batch, channels, height, width], shape kept
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pool = Window {
            kernel: 5,
            stride: 1,
            padding: 2,
        };
        let mut parts = vec![self.reduce.forward(x)?];
        for index in 0..3 {
            parts.push(max_pool2d(&parts[index], pool)?);
        }
        self.merge
            .0
            .forward_parts(&parts.iter().collect::<Vec<_>>())
    }
}
