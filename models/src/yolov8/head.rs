//! The head: for every cell the classes' scores and a distribution over each side's distance.

use candle_core::{D, DType, Device, Module, Result, Tensor};

use crate::detect::DenseOutput;
use crate::layers::{Conv, ConvNormAct, Params};
use crate::ops;

use super::STRIDES;
use super::blocks::ConvBlock;

/// Bins of a distance's distribution, one cell apart.
pub const BINS: usize = 16;

/// Predicts boxes (`cv2`) and classes (`cv3`) for three levels.
pub struct Head {
    boxes: Vec<Branch>,
    classes: Vec<Branch>,
    /// The distance that each bin stands for, in cells: `[BINS]`, f32.
    bins: Tensor,
}

impl Head {
    /// `channels` of the three levels, finest first.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(channels: [usize; 3], classes: usize, params: &Params) -> Result<Self> {
        let box_channels = (channels[0] / 4).max(4 * BINS);
        let class_channels = channels[0].max(classes.min(100));
        let mut head = Self {
            boxes: Vec::with_capacity(channels.len()),
            classes: Vec::with_capacity(channels.len()),
            bins: params
                .get((1, BINS, 1, 1), "dfl.conv.weight")?
                .to_dtype(DType::F32)?
                .reshape(BINS)?,
        };
        for (level, &input) in channels.iter().enumerate() {
            let boxes = [input, box_channels, 4 * BINS];
            let scores = [input, class_channels, classes];
            let box_params = params.pp("cv2").pp(level);
            head.boxes.push(Branch::new(boxes, &box_params)?);
            let class_params = params.pp("cv3").pp(level);
            head.classes.push(Branch::new(scores, &class_params)?);
        }
        Ok(head)
    }

    /// `levels` of strides 8, 16 and 32: `[batch, channels, height, width]`. Cells are in the
    /// order of the levels, each row by row.
    ///
    /// # Errors
    /// The shapes do not fit, or the device fails.
    pub fn forward(&self, levels: &[Tensor; 3]) -> Result<DenseOutput> {
        let mut distances = Vec::with_capacity(levels.len());
        let mut logits = Vec::with_capacity(levels.len());
        let mut sizes = [(0, 0); 3];
        for (index, level) in levels.iter().enumerate() {
            let (_, _, height, width) = level.dims4()?;
            sizes[index] = (height, width);
            distances.push(cells_last(&self.boxes[index].forward(level)?)?);
            logits.push(cells_last(&self.classes[index].forward(level)?)?);
        }
        // Coordinates and scores need f32 whatever the network computes in.
        let distances = Tensor::cat(&distances, 1)?.to_dtype(DType::F32)?;
        let logits = Tensor::cat(&logits, 1)?.to_dtype(DType::F32)?;
        Ok(DenseOutput {
            boxes: decode(&distances, &self.bins, &sizes)?,
            scores: candle_nn::ops::sigmoid(&logits)?,
        })
    }
}

/// Two 3×3 convolution blocks and a 1×1 convolution with bias.
struct Branch {
    first: ConvBlock,
    second: ConvBlock,
    predict: ConvNormAct,
}

impl Branch {
    fn new([input, hidden, output]: [usize; 3], params: &Params) -> Result<Self> {
        let predict = Conv::new(hidden, output, 1);
        Ok(Self {
            first: ConvBlock::new(input, hidden, 3, 1, &params.pp(0))?,
            second: ConvBlock::new(hidden, hidden, 3, 1, &params.pp(1))?,
            predict: ConvNormAct::with_bias(predict, &params.pp(2))?,
        })
    }
}

impl Module for Branch {
    // [batch, input, height, width] -> [batch, output, height, width]
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.second.forward(&self.first.forward(x)?)?;
        self.predict.forward(&x)
    }
}

/// `[batch, channels, height, width]` as `[batch, height * width, channels]`.
fn cells_last(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.transpose(1, 2)
}

/// Boxes from the head's distributions.
///
/// `distances`: `[batch, cells, 4 * bins]`, logits for the distances from a cell's centre to the
/// left, top, right and bottom side, in cells; `bins`: `[bins]`, what each bin stands for;
/// `sizes`: (height, width) of the levels of strides 8, 16 and 32. The result is x1, y1, x2, y2
/// in pixels of the input: `[batch, cells, 4]`.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn decode(distances: &Tensor, bins: &Tensor, sizes: &[(usize, usize); 3]) -> Result<Tensor> {
    let (batch, cells, _) = distances.dims3()?;
    let distances = distances.reshape((batch, cells, 4, bins.dim(0)?))?;
    let distances = ops::softmax(&distances)?
        .broadcast_mul(bins)?
        .sum(D::Minus1)?; // [batch, cells, 4]
    let (centres, strides) = cell_grid(sizes, distances.device())?;
    let near = centres.broadcast_sub(&distances.narrow(2, 0, 2)?)?;
    let far = centres.broadcast_add(&distances.narrow(2, 2, 2)?)?;
    Tensor::cat(&[near, far], 2)?.broadcast_mul(&strides)
}

/// Centres of all cells, in cells of their level (`[cells, 2]`), and the levels' strides in
/// pixels (`[cells, 1]`).
fn cell_grid(sizes: &[(usize, usize); 3], device: &Device) -> Result<(Tensor, Tensor)> {
    let mut centres = Vec::new();
    let mut strides = Vec::new();
    for (&(height, width), stride) in sizes.iter().zip(STRIDES) {
        for y in 0..height {
            for x in 0..width {
                centres.extend([x as f32 + 0.5, y as f32 + 0.5]);
                strides.push(stride as f32);
            }
        }
    }
    let cells = strides.len();
    Ok((
        Tensor::from_vec(centres, (cells, 2), device)?,
        Tensor::from_vec(strides, (cells, 1), device)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: distances 1, 2, 3 and 4 around the centre (1.5, 0.5) of the first level's second
    // cell give (0.5, -1.5, 4.5, 4.5) cells of 8 pixels.
    #[test]
    fn distances_open_a_box_around_the_centre() {
        let sizes = [(1, 2), (1, 1), (1, 1)];
        let mut logits = vec![0.0_f32; 4 * 4 * BINS];
        for side in 0..4 {
            logits[(4 + side) * BINS + side + 1] = 1000.0;
        }
        let distances = Tensor::from_vec(logits, (1, 4, 4 * BINS), &Device::Cpu).unwrap();
        let bins = Tensor::arange(0.0_f32, BINS as f32, &Device::Cpu).unwrap();
        let boxes = decode(&distances, &bins, &sizes).unwrap();
        let boxes = boxes.to_vec3::<f32>().unwrap();
        assert_eq!(boxes[0][1], [4.0, -12.0, 36.0, 36.0]);
        // Undecided: the mean bin is 7.5, around (0.5, 0.5) of the level of stride 32.
        assert_eq!(boxes[0][3], [-224.0, -224.0, 256.0, 256.0]);
    }
}
