//! The head: for every cell the classes' scores and a distribution over each side's distance.

use std::ops::Range;

use candle_core::{D, DType, Device, Module, Result, Tensor};

use crate::detect::DenseOutput;
use crate::layers::{Conv, ConvNormAct, Params};
use crate::ops::{self, Best, TOGETHER, best_of_planes, expectations, with_planes};
use crate::{BBox, DetectOptions, Detection};

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

    /// Predictions for `levels` of strides 8, 16 and 32: `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// The shapes do not fit, or the device fails.
    pub fn predict(&self, levels: &[Tensor; 3]) -> Result<Predictions> {
        let mut distances = Vec::with_capacity(levels.len());
        let mut logits = Vec::with_capacity(levels.len());
        for (index, level) in levels.iter().enumerate() {
            distances.push(self.boxes[index].forward(level)?);
            logits.push(self.classes[index].forward(level)?);
        }
        Ok(Predictions { distances, logits })
    }

    /// Boxes and scores of all cells, in the order of the levels, each row by row.
    ///
    /// # Errors
    /// The shapes do not fit, or the device fails.
    pub fn decode(&self, predictions: &Predictions) -> Result<DenseOutput> {
        let rows = |levels: &[Tensor]| {
            let rows = levels.iter().map(cells_last);
            Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 1)
        };
        let mut sizes = [(0, 0); 3];
        for (size, level) in sizes.iter_mut().zip(&predictions.logits) {
            let (_, _, height, width) = level.dims4()?;
            *size = (height, width);
        }
        // Coordinates and scores need f32 whatever the network computes in.
        let distances = rows(&predictions.distances)?.to_dtype(DType::F32)?;
        let logits = rows(&predictions.logits)?.to_dtype(DType::F32)?;
        Ok(DenseOutput {
            boxes: decode(&distances, &self.bins, &sizes)?,
            scores: candle_nn::ops::sigmoid(&logits)?,
        })
    }

    /// Each image's cells whose best class is one that is asked for, in the same order: without
    /// computing what nobody asks for. `None` where predictions are not f32 on the CPU.
    ///
    /// # Errors
    /// The device fails.
    pub fn candidates(
        &self,
        predictions: &Predictions,
        options: &DetectOptions,
    ) -> Result<Option<Vec<Vec<Detection>>>> {
        let mut images = Vec::new();
        let bins = self.bins.to_vec1::<f32>()?;
        let levels = predictions.logits.iter().zip(&predictions.distances);
        for ((logits, distances), stride) in levels.zip(STRIDES) {
            let Some(bests) = best_of_planes(logits)? else {
                return Ok(None);
            };
            images.resize_with(bests.len(), Vec::new);
            let (_, _, height, width) = logits.dims4()?;
            let level = Level {
                width,
                stride: stride as f32,
                bins: &bins,
            };
            let found = with_planes(distances, |planes| {
                let planes = planes.chunks_exact((4 * BINS * height * width).max(1));
                for ((found, bests), planes) in images.iter_mut().zip(&bests).zip(planes) {
                    level.candidates(planes, bests, options, found);
                }
            })?;
            if found.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(images))
    }
}

/// What the head gives for a batch, the finest level first.
pub struct Predictions {
    /// Logits for the distances to the sides: `[batch, 4 * BINS, height, width]`.
    distances: Vec<Tensor>,
    /// Scores before the sigmoid: `[batch, classes, height, width]`.
    logits: Vec<Tensor>,
}

/// One level's cells.
struct Level<'a> {
    /// Cells in a row.
    width: usize,
    /// Pixels a cell.
    stride: f32,
    /// The distance that each bin stands for, in cells.
    bins: &'a [f32],
}

impl Level<'_> {
    /// Adds to `found` the cells of an image whose best logit is of a class and a score that are
    /// asked for; `planes`: `[4 * BINS, cells]`.
    fn candidates(
        &self,
        planes: &[f32],
        bests: &[Best],
        options: &DetectOptions,
        found: &mut Vec<Detection>,
    ) {
        let mut near = Sides::default();
        for (cell, best) in bests.iter().enumerate() {
            let &Some((class, logit)) = best else {
                continue;
            };
            // As candle's sigmoid computes it.
            let score = 1.0 / (1.0 + (-logit).exp());
            if options.wants(class, score) {
                // Neighbours take as long together as one alone, and where one is wanted, others are.
                if !near.cells.contains(&cell) {
                    near = self.sides(planes, cell, bests.len());
                }
                let bbox = self.bbox(cell, near.of(cell));
                found.push(Detection { bbox, score, class });
            }
        }
    }

    /// The distances of a cell and its next neighbours.
    fn sides(&self, planes: &[f32], first: usize, cells: usize) -> Sides {
        let mut sides = Sides {
            cells: first..(first + TOGETHER).min(cells),
            distances: Default::default(),
        };
        let planes = planes.chunks_exact(BINS * cells);
        for (distances, planes) in sides.distances.iter_mut().zip(planes) {
            let distances = &mut distances[..sides.cells.len()];
            expectations(distances, &planes[first..], cells, self.bins);
        }
        sides
    }

    /// A cell's box in pixels of the input.
    fn bbox(&self, cell: usize, [left, top, right, bottom]: [f32; 4]) -> BBox {
        let x = (cell % self.width) as f32 + 0.5;
        let y = (cell / self.width) as f32 + 0.5;
        let corners = [x - left, y - top, x + right, y + bottom];
        let [x1, y1, x2, y2] = corners.map(|side| side * self.stride);
        BBox::from_xyxy(x1, y1, x2, y2)
    }
}

/// Distances from the centres of neighbouring cells to the sides of their boxes, in cells.
#[derive(Default)]
struct Sides {
    cells: Range<usize>,
    distances: [[f32; TOGETHER]; 4],
}

impl Sides {
    /// Those of one of the cells: left, top, right and bottom.
    fn of(&self, cell: usize) -> [f32; 4] {
        self.distances
            .map(|distances| distances[cell - self.cells.start])
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
    use crate::testing::made_up;

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

    // The yardstick is what comes of decoding everything.
    #[test]
    fn candidates_are_those_among_all_cells() {
        let sizes = [(4, 6), (2, 3), (1, 2)];
        let tensor = |name: &str, channels: usize, (height, width): (usize, usize)| {
            let shape = [2, channels, height, width];
            let numbers = made_up(&format!("{name}{height}.weight"), &shape);
            let x = Tensor::from_vec(numbers, &shape, &Device::Cpu).unwrap();
            (x * 30.0).unwrap()
        };
        let predictions = Predictions {
            distances: sizes.map(|size| tensor("sides", 4 * BINS, size)).to_vec(),
            logits: sizes.map(|size| tensor("scores", 5, size)).to_vec(),
        };
        let head = Head {
            boxes: Vec::new(),
            classes: Vec::new(),
            bins: Tensor::arange(0.0_f32, BINS as f32, &Device::Cpu).unwrap(),
        };
        let all = head.decode(&predictions).unwrap();
        for (score_floor, classes) in [(0.0, vec![]), (0.8, vec![1, 3, 4]), (1.1, vec![])] {
            let options = DetectOptions {
                score_floor,
                classes,
                nms_iou: None,
            };
            let found = head.candidates(&predictions, &options).unwrap().unwrap();
            let expected = crate::detect::candidates(&all, &options).unwrap();
            assert_eq!(found.len(), 2);
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    assert_eq!((found.class, found.score), (expected.class, expected.score));
                    let (found, expected) = (found.bbox, expected.bbox);
                    let off = (found.x1 - expected.x1)
                        .abs()
                        .max((found.y2 - expected.y2).abs());
                    assert!(off < 1e-3, "{found:?} is not {expected:?}");
                }
            }
        }
    }
}
