//! What YOLOv8 is built from: convolution blocks, C2f blocks, pyramid pooling.

use candle_core::{Module, Result, Tensor};

use crate::layers::{Activation, Conv, ConvNormAct, Params};

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
        let conv = Conv::new(input, output, kernel)
            .stride(stride)
            .activation(Activation::Silu);
        let layer = ConvNormAct::new(conv, &params.pp("conv"), &params.pp("bn"))?;
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
        let y = self.second.forward(&self.first.forward(x)?)?;
        if self.shortcut { x + y } else { Ok(y) }
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
        let half = output / 2;
        let mut chain = Vec::with_capacity(repeats);
        for index in 0..repeats {
            let params = params.pp("m").pp(index);
            chain.push(Bottleneck::new(half, shortcut, &params)?);
        }
        Ok(Self {
            split: ConvBlock::new(input, 2 * half, 1, 1, &params.pp("cv1"))?,
            chain,
            merge: ConvBlock::new((2 + repeats) * half, output, 1, 1, &params.pp("cv2"))?,
            half,
        })
    }
}

impl Module for C2f {
    // [batch, input, height, width] -> [batch, output, height, width]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let both = self.split.forward(x)?;
        let mut last = both.narrow(1, self.half, self.half)?;
        let mut parts = vec![both];
        for bottleneck in &self.chain {
            last = bottleneck.forward(&last)?;
            parts.push(last.clone());
        }
        self.merge.forward(&Tensor::cat(&parts, 1)?)
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
        let mut parts = vec![self.reduce.forward(x)?];
        for index in 0..3 {
            parts.push(max_pool_5(&parts[index])?);
        }
        self.merge.forward(&Tensor::cat(&parts, 1)?)
    }
}

/// Maximum over 5×5 pixels around each, as far as they are inside. `x`: `[batch, channels,
/// height, width]`, shape kept.
///
/// Columns, then rows, from operations that gradients flow through; candle's own pooling has no
/// gradient for windows that overlap.
fn max_pool_5(x: &Tensor) -> Result<Tensor> {
    max_of_5(&max_of_5(x, 2)?, 3)
}

fn max_of_5(x: &Tensor, dim: usize) -> Result<Tensor> {
    let size = x.dim(dim)?;
    // Repeating the border changes no maximum: the border is inside every window that reaches it.
    let padded = x.pad_with_same(dim, 2, 2)?;
    let mut most = padded.narrow(dim, 0, size)?;
    for offset in 1..5 {
        most = most.maximum(&padded.narrow(dim, offset, size)?)?;
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    // By the definition of pooling, one pixel after the other.
    #[test]
    fn pooling_takes_the_maximum_of_what_is_inside() {
        let (height, width) = (7_usize, 3_usize);
        // Negative values, so that zeros from a padding would show.
        let value = |y: usize, x: usize| -1.0 - ((y * 31 + x * 17) % 23) as f32;
        let mut data = Vec::new();
        let mut expected = Vec::new();
        for y in 0..height {
            for x in 0..width {
                data.push(value(y, x));
                let mut most = f32::NEG_INFINITY;
                for yy in y.saturating_sub(2)..(y + 3).min(height) {
                    for xx in x.saturating_sub(2)..(x + 3).min(width) {
                        most = most.max(value(yy, xx));
                    }
                }
                expected.push(most);
            }
        }
        let x = Tensor::from_vec(data, (1, 1, height, width), &Device::Cpu).unwrap();
        let found = max_pool_5(&x).unwrap().flatten_all().unwrap();
        assert_eq!(found.to_vec1::<f32>().unwrap(), expected);
    }
}
