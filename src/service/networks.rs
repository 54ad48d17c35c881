//! The networks of the service: loaded once, shared by all tasks.

use std::path::Path;

use image::RgbImage;
use mtmc_models::weights::Description;
use mtmc_models::{DetectOptions, Detection, Detector, Embedder, LoadedDetector, LoadedEmbedder};
use serde::Serialize;
use utoipa::ToSchema;

/// The networks; by default none.
#[derive(Default)]
pub struct ServiceNetworks {
    /// Finds people; none: only raw tasks can be started.
    pub detector: Option<LoadedDetector>,
    /// Its name for people.
    pub detector_name: String,
    /// Tells how people look; none: identities go by place alone.
    pub embedder: Option<LoadedEmbedder>,
    /// Its name for people (`feature_model`).
    pub embedder_name: String,
    /// What is loaded, for `/info`.
    pub about: Vec<NetworkInfo>,
    /// On what they compute, such as `cpu` or `cuda:0`.
    pub device: String,
    /// With which numbers, such as `f32`.
    pub precision: String,
}

/// What a network is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NetworkInfo {
    /// `detector` or `embedder`.
    #[schema(example = "detector")]
    pub role: &'static str,
    /// Name of its weights' file.
    #[schema(example = "rtdetr-l.safetensors")]
    pub name: String,
    /// Architecture and size.
    #[schema(example = "rtdetr-l")]
    pub architecture: String,
    /// Bytes of its weights' file.
    pub bytes: u64,
    /// Height and width of its input in pixels.
    pub input_size: [usize; 2],
    /// Length of its vectors, of an encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_dim: Option<usize>,
    /// Where the weights come from.
    pub source: String,
    /// Their licence.
    pub licence: String,
}

impl NetworkInfo {
    /// Of weights in a file.
    pub fn new(role: &'static str, file: &Path, about: &Description) -> Self {
        let name = file.file_name().unwrap_or_default();
        Self {
            role,
            name: name.to_string_lossy().into_owned(),
            architecture: about.architecture.clone(),
            bytes: std::fs::metadata(file).map_or(0, |file| file.len()),
            input_size: [about.input_height, about.input_width],
            feature_dim: about.feature_dim,
            source: about.source.clone(),
            licence: about.licence.clone(),
        }
    }
}

impl ServiceNetworks {
    /// The encoder, as the pipeline wants it.
    pub fn embedder(&self) -> Option<&dyn Embedder> {
        self.embedder
            .as_ref()
            .map(|embedder| embedder as &dyn Embedder)
    }
}

/// Finds nobody: for tasks that pass frames on as they are.
#[derive(Debug, Clone, Copy)]
pub struct NoDetector;

impl Detector for NoDetector {
    fn detect(
        &self,
        images: &[&RgbImage],
        _options: &DetectOptions,
    ) -> mtmc_models::Result<Vec<Vec<Detection>>> {
        Ok(images.iter().map(|_| Vec::new()).collect())
    }

    fn classes(&self) -> &[String] {
        &[]
    }
}
