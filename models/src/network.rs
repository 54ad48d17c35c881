//! Which network an architecture's name stands for.

use crate::deimv2::{Deimv2, Deimv2Config};
use crate::detect::DetectionNetwork;
use crate::layers::Params;
use crate::rtdetr::{RtDetr, RtDetrConfig};
use crate::yolov8::{YoloV8, YoloV8Config};
use crate::{Description, Error, Result};

/// Names of all detection architectures, for messages and for the converter.
pub const DETECTORS: &[&str] = &[
    "rtdetr-l",
    "rtdetr-x",
    "rtdetr-r18",
    "rtdetr-r34",
    "rtdetr-r50",
    "rtdetr-r101",
    "deimv2-atto",
    "deimv2-femto",
    "deimv2-pico",
    "deimv2-n",
    "yolov8n",
    "yolov8s",
    "yolov8m",
    "yolov8l",
    "yolov8x",
];

/// Builds the detection network that `description` names.
///
/// # Errors
/// The architecture is unknown, or a tensor is missing or has a wrong shape.
pub fn build(description: &Description, params: &Params) -> Result<DetectionNetwork> {
    let name = description.architecture.as_str();
    let classes = description.classes.len();
    if let Some(config) = RtDetrConfig::named(name, classes) {
        return Ok(DetectionNetwork::Detr(Box::new(RtDetr::new(
            &config, params,
        )?)));
    }
    if let Some(config) = Deimv2Config::named(name, classes) {
        return Ok(DetectionNetwork::Detr(Box::new(Deimv2::new(
            &config, params,
        )?)));
    }
    if let Some(config) = YoloV8Config::named(name, classes) {
        let network = YoloV8::new(&config, params)?;
        return Ok(DetectionNetwork::Dense(Box::new(network)));
    }
    Err(Error::Input(format!(
        "`{name}` is no detection architecture; known are {}",
        DETECTORS.join(", ")
    )))
}
