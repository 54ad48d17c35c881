//! The networks of the service: loaded once, shared by all tasks.

use image::RgbImage;
use mtmc_models::{DetectOptions, Detection, Detector, Embedder, LoadedDetector, LoadedEmbedder};

/// The networks.
pub struct ServiceNetworks {
    /// Finds people; none: only raw tasks can be started.
    pub detector: Option<LoadedDetector>,
    /// Its name for people.
    pub detector_name: String,
    /// Tells how people look; none: identities go by place alone.
    pub embedder: Option<LoadedEmbedder>,
    /// Its name for people (`feature_model`).
    pub embedder_name: String,
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
