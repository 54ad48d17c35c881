//! Which environments tasks can be started for.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Environment;
use crate::service::SharedApp;
use crate::service::tasks::TaskKind;

/// The environments.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnvironmentList {
    /// By ID.
    pub environments: Vec<EnvironmentEntry>,
    /// Their number.
    pub total_count: usize,
}

/// One environment.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnvironmentEntry {
    /// Its ID, for `start`.
    #[schema(example = "default")]
    pub environment_id: String,
    /// For people.
    pub name: String,
    /// Its cameras.
    pub cameras: Vec<CameraEntry>,
    /// Their number.
    pub camera_count: usize,
    /// Whether every camera has a source, so that a task can be started.
    pub available: bool,
}

/// One camera.
#[derive(Debug, Serialize, ToSchema)]
pub struct CameraEntry {
    /// Its ID.
    #[schema(example = "c09")]
    pub camera_id: String,
    /// For people.
    pub name: String,
    /// Whether it has a source.
    pub has_source: bool,
    /// Whether a calibration file is there for it.
    pub has_homography: bool,
}

impl EnvironmentEntry {
    fn of(environment: &Environment) -> Self {
        let mut cameras = Vec::with_capacity(environment.cameras.len());
        for (index, camera) in environment.cameras.iter().enumerate() {
            let file = environment.homography_file(index);
            cameras.push(CameraEntry {
                camera_id: camera.id.clone(),
                name: camera.name.clone(),
                has_source: camera.source.is_some(),
                has_homography: file.is_some_and(|file| file.exists()),
            });
        }
        Self {
            environment_id: environment.id.clone(),
            name: environment.name.clone(),
            camera_count: cameras.len(),
            available: cameras.iter().all(|camera| camera.has_source),
            cameras,
        }
    }
}

/// Routes of this area.
pub fn routes(_app: SharedApp, _kind: TaskKind) -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(environments))
}

/// The environments that a task can be started for.
#[utoipa::path(get, path = "/environments", responses((status = 200, body = EnvironmentList)))]
async fn environments(State(app): State<SharedApp>) -> Json<EnvironmentList> {
    let environments: Vec<EnvironmentEntry> = app
        .catalog
        .iter()
        .map(|environment| EnvironmentEntry::of(environment))
        .collect();
    Json(EnvironmentList {
        total_count: environments.len(),
        environments,
    })
}
