//! YOLOv8, sizes n, s, m, l and x (Jocher, Chaurasia, Qiu, "Ultralytics YOLOv8", 2023;
//! architecture in Terven et al., "A Comprehensive Review of YOLO Architectures", 2023):
//! predictions everywhere, sorted out by NMS.
//!
//! A backbone of C2f blocks gives levels of strides 8, 16 and 32; a neck passes them up and down
//! (PAN); an anchor-free head predicts for every cell the classes' scores and, for each side of
//! the box, a distribution over distances (distribution focal loss).
//!
//! Tensor names are those of Ultralytics' state dicts: layers are numbered as in its model file,
//! and layers without weights (up-sampling, concatenation) count.

mod blocks;
mod head;

use candle_core::{Module, Result, Tensor};

use crate::detect::{self, DenseNetwork, DenseOutput};
use crate::layers::Params;
use crate::ops::on_threads;
use crate::{DetectOptions, Detection};
use head::Predictions;

pub use blocks::{C2f, ConvBlock, Sppf};
pub use head::{Head, decode};

/// Names of the published sizes, smallest first.
pub const NAMES: [&str; 5] = ["yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x"];

/// Pixels a cell of each of the three levels.
pub const STRIDES: [usize; 3] = [8, 16, 32];

/// Sizes of a YOLOv8.
#[derive(Debug, Clone, PartialEq)]
pub struct YoloV8Config {
    /// Channels of the backbone at strides 2, 4, 8, 16 and 32.
    pub channels: [usize; 5],
    /// Bottlenecks in each C2f block, as (strides 4 and 32 and the neck, strides 8 and 16).
    pub depth: (usize, usize),
    /// Number of classes, at least 1.
    pub classes: usize,
}

impl YoloV8Config {
    /// The published sizes by name, one of [`NAMES`].
    pub fn named(name: &str, classes: usize) -> Option<Self> {
        // Depth and width factors in hundredths, and the cap on channels before scaling.
        let (depth, width, most_channels) = match name {
            "yolov8n" => (33, 25, 1024),
            "yolov8s" => (33, 50, 1024),
            "yolov8m" => (67, 75, 768),
            "yolov8l" => (100, 100, 512),
            "yolov8x" => (100, 125, 512),
            _ => return None,
        };
        // All products are multiples of 8 already, which the sizes' definition asks for.
        let channels = [64, 128, 256, 512, 1024]
            .map(|channels: usize| channels.min(most_channels) * width / 100);
        let repeats = |count: usize| (count * depth + 50) / 100;
        Some(Self {
            channels,
            depth: (repeats(3), repeats(6)),
            classes,
        })
    }
}

/// The network.
pub struct YoloV8 {
    backbone: Backbone,
    neck: Neck,
    head: Head,
}

impl YoloV8 {
    /// Builds it from weights.
    ///
    /// # Errors
    /// No classes; a tensor is missing or has the wrong shape.
    pub fn new(config: &YoloV8Config, params: &Params) -> Result<Self> {
        if config.classes == 0 {
            candle_core::bail!("YOLOv8 needs at least one class");
        }
        let layers = params.pp("model");
        let [_, _, c3, c4, c5] = config.channels;
        Ok(Self {
            backbone: Backbone::new(config, &layers)?,
            neck: Neck::new(config, &layers)?,
            head: Head::new([c3, c4, c5], config.classes, &layers.pp(22))?,
        })
    }

    /// The backbone's levels of strides 8, 16 and 32 for `images` as in
    /// [`DenseNetwork::forward`]: `[batch, channels, height / stride, width / stride]`.
    ///
    /// # Errors
    /// A side is no multiple of 32, or the device fails.
    pub fn backbone(&self, images: &Tensor) -> Result<[Tensor; 3]> {
        let (_, _, height, width) = images.dims4()?;
        if height == 0 || width == 0 || height % 32 != 0 || width % 32 != 0 {
            candle_core::bail!("YOLOv8 needs sides that are multiples of 32, not {height}×{width}");
        }
        self.backbone.forward(images)
    }
}

impl YoloV8 {
    /// The head's predictions for `images` as in [`DenseNetwork::forward`].
    fn predict(&self, images: &Tensor) -> Result<Predictions> {
        on_threads(images, || {
            let levels = self.neck.forward(&self.backbone(images)?)?;
            self.head.predict(&levels)
        })
    }
}

impl DenseNetwork for YoloV8 {
    fn forward(&self, images: &Tensor) -> Result<DenseOutput> {
        let predictions = self.predict(images)?;
        on_threads(images, || self.head.decode(&predictions))
    }

    fn candidates(&self, images: &Tensor, options: &DetectOptions) -> Result<Vec<Vec<Detection>>> {
        let predictions = self.predict(images)?;
        detect::after_network(|| match self.head.candidates(&predictions, options)? {
            Some(found) => Ok(found),
            None => detect::candidates(&self.head.decode(&predictions)?, options),
        })
    }
}

/// Layers 0 to 9.
struct Backbone {
    stem: ConvBlock,
    stages: Vec<(ConvBlock, C2f)>,
    pooling: Sppf,
}

impl Backbone {
    fn new(config: &YoloV8Config, layers: &Params) -> Result<Self> {
        let channels = config.channels;
        let (short, long) = config.depth;
        let mut stages = Vec::with_capacity(4);
        for (stage, repeats) in [short, long, long, short].into_iter().enumerate() {
            let (input, output) = (channels[stage], channels[stage + 1]);
            let first = 2 * stage + 1;
            stages.push((
                ConvBlock::new(input, output, 3, 2, &layers.pp(first))?,
                C2f::new(output, output, repeats, true, &layers.pp(first + 1))?,
            ));
        }
        Ok(Self {
            stem: ConvBlock::new(3, channels[0], 3, 2, &layers.pp(0))?,
            stages,
            pooling: Sppf::new(channels[4], &layers.pp(9))?,
        })
    }

    // [batch, 3, height, width] -> levels of strides 8, 16, 32
    fn forward(&self, images: &Tensor) -> Result<[Tensor; 3]> {
        let mut x = self.stem.forward(images)?;
        let mut levels = Vec::with_capacity(self.stages.len());
        for (down, block) in &self.stages {
            x = block.forward(&down.forward(&x)?)?;
            levels.push(x.clone());
        }
        let [_, p3, p4, p5] = &levels[..] else {
            candle_core::bail!("the backbone needs four stages");
        };
        Ok([p3.clone(), p4.clone(), self.pooling.forward(p5)?])
    }
}

/// Layers 10 to 21: from coarse to fine and back.
struct Neck {
    fuse_up4: C2f,
    fuse_up3: C2f,
    shrink3: ConvBlock,
    fuse_down4: C2f,
    shrink4: ConvBlock,
    fuse_down5: C2f,
}

impl Neck {
    fn new(config: &YoloV8Config, layers: &Params) -> Result<Self> {
        let [_, _, c3, c4, c5] = config.channels;
        let (repeats, _) = config.depth;
        Ok(Self {
            fuse_up4: C2f::upwards([c5, c4], c4, repeats, &layers.pp(12))?,
            fuse_up3: C2f::upwards([c4, c3], c3, repeats, &layers.pp(15))?,
            shrink3: ConvBlock::new(c3, c3, 3, 2, &layers.pp(16))?,
            fuse_down4: C2f::new(c3 + c4, c4, repeats, false, &layers.pp(18))?,
            shrink4: ConvBlock::new(c4, c4, 3, 2, &layers.pp(19))?,
            fuse_down5: C2f::new(c4 + c5, c5, repeats, false, &layers.pp(21))?,
        })
    }

    fn forward(&self, [p3, p4, p5]: &[Tensor; 3]) -> Result<[Tensor; 3]> {
        let n4 = self.fuse_up4.forward_parts(&[p5, p4])?;
        let n3 = self.fuse_up3.forward_parts(&[&n4, p3])?;
        let n4 = self
            .fuse_down4
            .forward_parts(&[&self.shrink3.forward(&n3)?, &n4])?;
        let n5 = self
            .fuse_down5
            .forward_parts(&[&self.shrink4.forward(&n4)?, p5])?;
        Ok([n3, n4, n5])
    }
}
