//! Which network an architecture's name stands for.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use crate::clip::{self, ClipVit, ClipVitConfig, TextConfig, TextEncoder};
use crate::deimv2::{Deimv2, Deimv2Config};
use crate::detect::DetectionNetwork;
use crate::embed::EmbeddingNetwork;
use crate::layers::{Mode, Params};
use crate::osnet::{OsNet, OsNetConfig};
use crate::resnet50::{self, Layers, ResNet50, ResNet50Config};
use crate::rtdetr::{RtDetr, RtDetrConfig};
use crate::weights::Recorder;
use crate::yolov8::{YoloV8, YoloV8Config};
use crate::{Description, Error, Result, TensorSpec};

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

/// Names of all architectures that recognise people, for messages and for the converter.
pub const EMBEDDERS: &[&str] = &[
    "osnet-x0.25",
    "osnet-x0.5",
    "osnet-x0.75",
    "osnet-x1.0",
    "osnet-ibn-x1.0",
    "osnet-ain-x0.25",
    "osnet-ain-x0.5",
    "osnet-ain-x0.75",
    "osnet-ain-x1.0",
    resnet50::NAME,
    "resnet18-reid",
    "resnet18-reid-x0.25",
    clip::NAME,
    clip::TINY,
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

/// Builds the network that `description` names and that gives a vector for each person.
///
/// # Errors
/// The architecture is unknown, or a tensor is missing or has a wrong shape.
pub fn build_embedder(
    description: &Description,
    params: &Params,
) -> Result<Box<dyn EmbeddingNetwork>> {
    check_is_embedder(description)?;
    let name = description.architecture.as_str();
    if let Some(config) = OsNetConfig::named(name) {
        return Ok(Box::new(OsNet::new(&config, params)?));
    }
    if let (Some(layers), Some(config)) = (Layers::named(name), ResNet50Config::of(description)) {
        return Ok(Box::new(ResNet50::with_layers(layers, &config, params)?));
    }
    if let Some(config) = ClipVitConfig::of(description) {
        return Ok(Box::new(ClipVit::new(&config, params)?));
    }
    Err(Error::Input(format!("`{name}` cannot be built")))
}

/// Whether an architecture gives vectors, not detections.
pub fn is_embedder(architecture: &str) -> bool {
    EMBEDDERS.contains(&architecture)
}

pub(crate) fn check_is_embedder(description: &Description) -> Result<()> {
    let name = &description.architecture;
    if is_embedder(name) {
        return Ok(());
    }
    Err(Error::Input(format!(
        "`{name}` is no architecture that tells people apart; known are {}",
        EMBEDDERS.join(", ")
    )))
}

/// Length of the vectors of the encoder that `description` names.
///
/// # Errors
/// The architecture is unknown.
pub fn embedding_dim(description: &Description) -> Result<usize> {
    let (params, _) = recording();
    Ok(build_embedder(description, &params)?.dim())
}

/// Names and shapes of the tensors that the network of a description needs.
///
/// # Errors
/// The architecture is unknown.
pub fn expected_tensors(description: &Description) -> Result<Vec<TensorSpec>> {
    let (params, specs) = recording();
    if is_embedder(&description.architecture) {
        build_embedder(description, &params)?;
        if let Some(config) = ClipVitConfig::of(description).filter(|one| one.variant.text) {
            TextEncoder::new(&TextConfig::beside(&config), &params)?;
        }
    } else {
        build(description, &params)?;
    }
    let specs = specs
        .lock()
        .map_err(|_| Error::Input("a thread panicked while listing tensors".to_string()))?;
    Ok(specs.clone())
}

/// Zeros under every name, and the list of those that were asked for.
fn recording() -> (Params, Arc<Mutex<Vec<TensorSpec>>>) {
    let specs = Arc::new(Mutex::new(Vec::new()));
    let recorder = Box::new(Recorder(specs.clone()));
    let vb = VarBuilder::from_backend(recorder, DType::F32, Device::Cpu);
    // Building for training records the raw tensors without folding or packing anything.
    (Params::new(vb, Mode::Training, 1e-5), specs)
}
