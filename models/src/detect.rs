//! From images to detections: what all detection networks share around their forward pass.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;

use crate::layers::{Mode, Params, Precision};
use crate::memory::in_halves;
use crate::ops::{best_of_rows, non_maximum_suppression, profile, top_k};
use crate::preprocess::{Placement, Preprocessor};
use crate::{BBox, Description, DetectOptions, Detection, Detector, Result, Weights};
use crate::{expected_tensors, network};

/// Most detections that one image can give: COCO's evaluation and DETR's post-processing use 300.
pub const MAX_DETECTIONS: usize = 300;

/// What a network with queries gives for a batch.
pub struct DetrOutput {
    /// Before the sigmoid: `[batch, queries, classes]`.
    pub logits: Tensor,
    /// Centre x, centre y, width, height in 0..=1 of the input: `[batch, queries, 4]`.
    pub boxes: Tensor,
}

/// A detection network with queries and no need for NMS: RT-DETR and its family.
pub trait DetrNetwork: Send + Sync {
    /// `images`: `[batch, 3, height, width]`, preprocessed.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    fn forward(&self, images: &Tensor) -> candle_core::Result<DetrOutput>;
}

/// What a network with dense predictions gives for a batch.
pub struct DenseOutput {
    /// Corners x1, y1, x2, y2 in pixels of the input: `[batch, anchors, 4]`.
    pub boxes: Tensor,
    /// After the sigmoid: `[batch, anchors, classes]`.
    pub scores: Tensor,
}

/// A detection network that predicts everywhere and relies on NMS: YOLOv8.
pub trait DenseNetwork: Send + Sync {
    /// `images`: `[batch, 3, height, width]`, preprocessed.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    fn forward(&self, images: &Tensor) -> candle_core::Result<DenseOutput>;

    /// Of each image what its cells find that `options` ask for, before suppression, in the order of
    /// the cells: boxes in pixels of the input.
    ///
    /// # Errors
    /// As [`DenseNetwork::forward`].
    fn candidates(
        &self,
        images: &Tensor,
        options: &DetectOptions,
    ) -> candle_core::Result<Vec<Vec<Detection>>> {
        let output = self.forward(images)?;
        after_network(|| candidates(&output, options))
    }
}

/// What [`DenseNetwork::candidates`] gives for an output.
pub(crate) fn candidates(
    output: &DenseOutput,
    options: &DetectOptions,
) -> candle_core::Result<Vec<Vec<Detection>>> {
    // A cell stands for its best class alone. What is left is too little for a GPU: the boxes
    // above the floor are some hundreds, and are wanted here.
    let bests = best_of_rows(&output.scores)?;
    if output.boxes.dims3()?.2 != 4 {
        candle_core::bail!("a box needs 4 numbers");
    }
    let boxes = output.boxes.to_dtype(DType::F32)?.flatten_from(1)?;
    let boxes = boxes.to_vec2::<f32>()?;
    let mut lists = Vec::with_capacity(bests.len());
    for (bests, boxes) in bests.iter().zip(&boxes) {
        let mut found = Vec::new();
        for (best, &[x1, y1, x2, y2]) in bests.iter().zip(boxes.as_chunks::<4>().0) {
            if let &Some((class, score)) = best
                && options.wants(class, score)
            {
                let bbox = BBox::from_xyxy(x1, y1, x2, y2);
                found.push(Detection { bbox, score, class });
            }
        }
        lists.push(found);
    }
    Ok(lists)
}

/// Runs what follows a network's forward pass; a profile tells how long that took.
pub(crate) fn after_network<T>(run: impl FnOnce() -> T) -> T {
    // It does not multiply much.
    profile::timed(|| ("after the network".to_string(), 0.0), run)
}

/// A detection network of either kind.
pub enum DetectionNetwork {
    /// With queries.
    Detr(Box<dyn DetrNetwork>),
    /// With dense predictions.
    Dense(Box<dyn DenseNetwork>),
}

/// Pixels of the input that a cell of the coarsest level stands for.
const STRIDE: u32 = 32;

/// IoU above which dense predictions suppress each other if nothing else is asked for; the
/// default of the first requirement document's `RTDETR_NMS_THRESHOLD`.
const DEFAULT_NMS_IOU: f32 = 0.45;

/// A loaded detector: preprocessing, network, postprocessing.
pub struct LoadedDetector {
    network: DetectionNetwork,
    description: Description,
    preprocessor: Preprocessor,
    device: Device,
    dtype: DType,
}

impl LoadedDetector {
    /// Builds the network that `weights` describes, for inference in `dtype` on `device`.
    ///
    /// # Errors
    /// The architecture is unknown or no detector, or a tensor is missing or has a wrong shape.
    pub fn new(weights: &Weights, device: &Device, dtype: DType) -> Result<Self> {
        let description = weights.description();
        weights.check(&expected_tensors(description)?)?;
        let (dtype, precision) = Precision::on(device, dtype)?;
        let params = Params::new(
            weights.var_builder(dtype, device),
            Mode::Inference,
            description.batch_norm_eps.unwrap_or(1e-5),
        )
        .precision(precision);
        let network = network::build(description, &params)?;
        Ok(Self {
            network,
            description: description.clone(),
            preprocessor: Preprocessor::new(description),
            device: device.clone(),
            dtype,
        })
    }

    /// What the weights say of themselves.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The network alone, for parity tests and benches.
    pub fn network(&self) -> &DetectionNetwork {
        &self.network
    }

    fn detr(
        &self,
        output: &DetrOutput,
        placements: &[Placement],
        options: &DetectOptions,
    ) -> candle_core::Result<Vec<Vec<Detection>>> {
        let (_, _, classes) = output.logits.dims3()?;
        let scores = candle_nn::ops::sigmoid(&output.logits.to_dtype(DType::F32)?)?;
        let scores = scores.flatten_from(1)?.to_vec2::<f32>()?;
        let boxes = output.boxes.to_dtype(DType::F32)?.to_vec3::<f32>()?;
        let mut lists = Vec::with_capacity(placements.len());
        for (image, placement) in placements.iter().enumerate() {
            let mut found = Vec::new();
            // A query may be reported for several classes, as RT-DETR's own post-processing does.
            for index in top_k(&scores[image], MAX_DETECTIONS) {
                let score = scores[image][index as usize];
                let class = index % classes as u32;
                if score < options.score_floor || score.is_nan() {
                    break;
                }
                if !options.classes.is_empty() && !options.classes.contains(&class) {
                    continue;
                }
                let [cx, cy, w, h] = boxes[image][index as usize / classes][..] else {
                    candle_core::bail!("a box needs 4 numbers");
                };
                let input = BBox::from_cxcywh(cx, cy, w, h);
                found.push(Detection {
                    bbox: placement.from_unit(&input),
                    score,
                    class,
                });
            }
            if let Some(iou) = options.nms_iou {
                found = non_maximum_suppression(found, iou, MAX_DETECTIONS);
            }
            lists.push(found);
        }
        Ok(lists)
    }

    /// Candidates in pixels of the input to detections in pixels of the images.
    fn dense(
        candidates: Vec<Vec<Detection>>,
        placements: &[Placement],
        options: &DetectOptions,
    ) -> Vec<Vec<Detection>> {
        let mut lists = Vec::with_capacity(placements.len());
        for (mut found, placement) in candidates.into_iter().zip(placements) {
            for detection in &mut found {
                detection.bbox = placement.from_input(&detection.bbox);
            }
            let iou = options.nms_iou.unwrap_or(DEFAULT_NMS_IOU);
            lists.push(non_maximum_suppression(found, iou, MAX_DETECTIONS));
        }
        lists
    }
}

impl Detector for LoadedDetector {
    fn detect(&self, images: &[&RgbImage], options: &DetectOptions) -> Result<Vec<Vec<Detection>>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        if self.device.is_cpu() {
            // Each by itself stays in its thread's cache, and threads wait for each other once, not
            // after every layer.
            let lists = images.par_iter();
            let lists = lists.map(|image| Ok(self.together(&[*image], options)?.remove(0)));
            return lists.collect();
        }
        in_halves(images, &|images| self.together(images, options))
    }

    fn classes(&self) -> &[String] {
        &self.description.classes
    }
}

impl LoadedDetector {
    /// Detects in all images at once, or, for a dense network, in those at once whose letterboxes
    /// are alike: an image's detections do not depend on what else is in the batch.
    fn together(
        &self,
        images: &[&RgbImage],
        options: &DetectOptions,
    ) -> Result<Vec<Vec<Detection>>> {
        if matches!(self.network, DetectionNetwork::Detr(_)) {
            return self.in_one(images, &self.preprocessor, options);
        }
        let mut alike: BTreeMap<(u32, u32), (Preprocessor, Vec<usize>)> = BTreeMap::new();
        for (index, image) in images.iter().enumerate() {
            let trimmed = self.preprocessor.trimmed(image.dimensions(), STRIDE)?;
            let (_, group) = alike
                .entry(trimmed.input())
                .or_insert_with(|| (trimmed, Vec::new()));
            group.push(index);
        }
        let mut lists = vec![Vec::new(); images.len()];
        for (preprocessor, group) in alike.values() {
            let images: Vec<&RgbImage> = group.iter().map(|&index| images[index]).collect();
            let found = self.in_one(&images, preprocessor, options)?;
            for (&index, found) in group.iter().zip(found) {
                lists[index] = found;
            }
        }
        Ok(lists)
    }

    fn in_one(
        &self,
        images: &[&RgbImage],
        preprocessor: &Preprocessor,
        options: &DetectOptions,
    ) -> Result<Vec<Vec<Detection>>> {
        let (input, placements) = profile::timed(
            || ("before the network".to_string(), 0.0),
            || preprocessor.batch(images, &self.device),
        )?;
        let input = input.to_dtype(self.dtype)?;
        let mut lists = match &self.network {
            DetectionNetwork::Detr(network) => {
                let output = network.forward(&input)?;
                after_network(|| self.detr(&output, &placements, options))?
            }
            DetectionNetwork::Dense(network) => {
                let candidates = network.candidates(&input, options)?;
                after_network(|| Self::dense(candidates, &placements, options))
            }
        };
        for (list, image) in lists.iter_mut().zip(images) {
            let (width, height) = (image.width() as f32, image.height() as f32);
            list.retain_mut(|detection| {
                detection.bbox = detection.bbox.clamp_to(width, height);
                detection.bbox.is_finite() && detection.bbox.area() > 0.0
            });
        }
        Ok(lists)
    }
}
