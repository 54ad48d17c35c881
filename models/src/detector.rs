//! The seam between the networks that find people and everything behind them.

use image::RgbImage;

use crate::{BBox, Result};

/// One object found in one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Where it is, in pixels of the image that was given.
    pub bbox: BBox,
    /// The network's confidence, 0..=1.
    pub score: f32,
    /// Index into the weights' class list; 0 is `person` in COCO.
    pub class: u32,
}

/// What a detector reports, whatever its network.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectOptions {
    /// Detections below this score are dropped, 0..=1.
    pub score_floor: f32,
    /// Only these classes are reported; empty means all.
    pub classes: Vec<u32>,
    /// Boxes of one class that overlap more than this (IoU) are suppressed, the best stays.
    /// `None` leaves duplicates alone: the default of DETR-like networks, which need no NMS.
    pub nms_iou: Option<f32>,
}

impl DetectOptions {
    /// Whether a detection of that class and score is reported.
    pub(crate) fn wants(&self, class: u32, score: f32) -> bool {
        score >= self.score_floor && (self.classes.is_empty() || self.classes.contains(&class))
    }
}

impl Default for DetectOptions {
    fn default() -> Self {
        Self {
            score_floor: 0.1,
            classes: vec![0],
            nms_iou: None,
        }
    }
}

/// A network that finds objects: a batch of RGB images in, one list a image out.
///
/// Images of a batch may differ in size. Each list is sorted by falling score. A batch gives
/// what its images give one by one, up to rounding.
pub trait Detector: Send + Sync {
    /// Finds the objects in `images`.
    ///
    /// # Errors
    /// An image without pixels, or a failure of the device.
    fn detect(&self, images: &[&RgbImage], options: &DetectOptions) -> Result<Vec<Vec<Detection>>>;

    /// Names of the classes, by index.
    fn classes(&self) -> &[String];
}
