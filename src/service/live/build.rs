//! From a task's environment to its [`Feed`].

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::feed::{Feed, PictureSettings};
use super::frame::{CameraFacts, TaskFacts, homography_data};
use super::hub::Hub;
use crate::config::Environment;
use crate::pipeline::BuiltWorld;
use crate::service::networks::ServiceNetworks;
use crate::service::settings::ServiceSettings;

impl Feed {
    /// The feed of a task over an environment's cameras, whose time 0 is the moment `origin`.
    pub fn of_task(
        hub: Arc<Hub>,
        origin: Timestamp,
        environment: &Environment,
        settings: &ServiceSettings,
        networks: &ServiceNetworks,
    ) -> Arc<Self> {
        let cameras = environment.cameras.iter();
        let task = TaskFacts {
            task_id: hub.task_id(),
            origin,
            feature_model: networks.embedder.as_ref().map(|_| model_name(networks)),
            embedding_dimension: networks.embedder().map(mtmc_models::Embedder::dim),
            ema_alpha: environment.association.ema_alpha,
            coordinate_system: TaskFacts::coordinate_system(&environment.map.unit),
            cameras: cameras.map(|camera| camera.id.as_str().into()).collect(),
        };
        let pictures = PictureSettings {
            originals: settings.originals,
            annotate: settings.annotate,
            jpeg_quality: settings.jpeg_quality,
        };
        Self::new(hub, task, pictures)
    }
}

impl CameraFacts {
    /// Of a camera of an environment, with the frame rate of its source and its calibration in the
    /// stations that were built for it.
    pub fn of_camera(
        environment: &Environment,
        index: usize,
        frame_rate: f64,
        built: &BuiltWorld,
    ) -> Option<Self> {
        let camera = environment.cameras.get(index)?;
        let view = built.world.gallery().view(index);
        let calibration = built.calibrations.get(index).and_then(Option::as_ref);
        Some(Self {
            id: camera.id.as_str().into(),
            start_offset: camera.start_offset,
            frame_rate,
            homography: view.zip(calibration).map(|(v, c)| homography_data(v, c)),
        })
    }
}

/// A network's name for people: of a file its name without the ending.
fn model_name(networks: &ServiceNetworks) -> String {
    let name = &networks.embedder_name;
    let stem = Path::new(name).file_stem();
    stem.map_or_else(|| name.clone(), |stem| stem.to_string_lossy().into_owned())
}
