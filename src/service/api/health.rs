//! Whether the service is well, ready and what it is; and its numbers. Nothing is loaded to find out.

use std::io::ErrorKind;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Environment;
use crate::homography::Calibration;
use crate::service::disk::free_bytes;
use crate::service::memory::Pressure;
use crate::service::networks::NetworkInfo;
use crate::service::problem::Problem;
use crate::service::{App, SharedApp, metrics};
use crate::store::Health;

/// The service's health in one word.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub struct OverallHealth {
    /// Always `healthy`: whoever is not does not answer.
    #[schema(example = "healthy")]
    pub status: &'static str,
}

/// The health of what tracking needs.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetectionHealth {
    /// `healthy` if all components are, else `unhealthy`.
    #[schema(example = "healthy")]
    pub status: &'static str,
    /// Each of them.
    pub components: DetectionComponents,
    /// When, in UTC.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
}

/// What tracking needs: whether it is there.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct DetectionComponents {
    /// The detector is loaded.
    pub rtdetr_model: bool,
    /// The re-ID encoder is loaded.
    pub reid_model: bool,
    /// At least one camera has a calibration that can be used.
    pub homography_data: bool,
    /// The trackers of all environments can be made.
    pub camera_trackers: bool,
}

/// Whether the process lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct Liveness {
    /// Always `alive`.
    #[schema(example = "alive")]
    pub status: &'static str,
}

/// Whether work can be taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not; empty if it can.
    pub reasons: Vec<NotReady>,
}

/// One reason why no work can be taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct NotReady {
    /// `shutting-down`, `store`, `networks`, `disk` or `memory`.
    #[schema(example = "disk")]
    pub component: &'static str,
    /// What is wrong.
    pub detail: String,
}

/// What the service is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Info {
    /// Always `mtmc`.
    pub name: &'static str,
    /// Of the program.
    pub version: &'static str,
    /// What it was built with.
    pub features: Vec<&'static str>,
    /// On what it computes, such as `cpu` or `cuda:0`.
    #[schema(example = "cpu")]
    pub device: String,
    /// With which numbers: `f32`, `f16` or `bf16`.
    #[schema(example = "f32")]
    pub precision: String,
    /// Threads that compute.
    pub threads: usize,
    /// The networks that are loaded.
    pub networks: Vec<NetworkInfo>,
    /// Bounds of what it takes.
    pub limits: Limits,
    /// Seconds since it started.
    pub uptime_seconds: f64,
}

/// Bounds of what the service takes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Limits {
    /// Most tasks that run at once.
    pub max_running: usize,
    /// Most tasks that wait.
    pub max_queued: usize,
    /// Most frames in one batch.
    pub batch: usize,
    /// Percent of memory above which less is taken at once.
    pub memory_soft: f64,
    /// Percent of memory above which no task is taken.
    pub memory_hard: f64,
    /// Bytes that must be free on the disk of the data folder.
    pub min_free_disk: u64,
}

/// Routes of this area.
pub fn routes() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(detection_health))
        .routes(routes!(alive))
        .routes(routes!(ready))
        .routes(routes!(info))
        .routes(routes!(numbers))
}

/// Whether the service answers.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = OverallHealth)))]
async fn health() -> Json<OverallHealth> {
    Json(OverallHealth { status: "healthy" })
}

/// Whether the process lives: for whoever restarts it.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, body = Liveness)))]
async fn alive() -> Json<Liveness> {
    Json(Liveness { status: "alive" })
}

/// Whether everything that tracking needs is there.
#[utoipa::path(get, path = "/health/detection", tag = "health", responses(
    (status = 200, body = DetectionHealth),
    (status = 503, body = DetectionHealth, description = "Something is missing"),
))]
async fn detection_health(State(app): State<SharedApp>) -> Response {
    // Calibrations are small files, but files.
    let shared = app.clone();
    let looked = tokio::task::spawn_blocking(move || {
        (any_calibration(&shared), trackers_can_be_made(&shared))
    });
    let (homography_data, camera_trackers) = looked.await.unwrap_or_default();
    let components = DetectionComponents {
        rtdetr_model: app.networks.detector.is_some(),
        reid_model: app.networks.embedder.is_some(),
        homography_data,
        camera_trackers,
    };
    let healthy = components.rtdetr_model
        && components.reid_model
        && components.homography_data
        && components.camera_trackers;
    let body = DetectionHealth {
        status: if healthy { "healthy" } else { "unhealthy" },
        components,
        timestamp: Timestamp::now(),
    };
    (code(healthy), Json(body)).into_response()
}

fn code(well: bool) -> StatusCode {
    if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn any_calibration(app: &App) -> bool {
    app.catalog.iter().any(|environment| {
        let mut cameras = 0..environment.cameras.len();
        cameras.any(|camera| has_calibration(environment, camera))
    })
}

fn has_calibration(environment: &Environment, camera: usize) -> bool {
    let threshold = environment.homography.ransac_threshold;
    environment
        .homography_file(camera)
        .filter(|file| file.exists())
        .is_some_and(|file| Calibration::read(&file, threshold).is_ok())
}

fn trackers_can_be_made(app: &App) -> bool {
    app.catalog
        .iter()
        .all(|environment| environment.tracker.build().is_ok())
}

/// Whether work can be taken: for whoever sends it.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, body = Readiness),
    (status = 503, body = Readiness, description = "No work can be taken, and why"),
))]
async fn ready(State(app): State<SharedApp>) -> Response {
    let reasons = not_ready(&app);
    let ready = reasons.is_empty();
    (code(ready), Json(Readiness { ready, reasons })).into_response()
}

fn not_ready(app: &App) -> Vec<NotReady> {
    let mut reasons = Vec::new();
    let mut say = |component, detail: String| reasons.push(NotReady { component, detail });
    if app.is_stopping() {
        say("shutting-down", "the service is being stopped".to_string());
    }
    if app.networks.detector.is_none() {
        say("networks", "no detector is loaded".to_string());
    }
    if let Health::Degraded { reason, .. } = app.store.health() {
        say("store", reason);
    }
    match free_bytes(&app.settings.data_dir) {
        Ok(free) if free < app.settings.min_free_disk => {
            let wanted = app.settings.min_free_disk;
            say(
                "disk",
                format!("{free} bytes are free for the data folder, {wanted} are wanted"),
            );
        }
        Ok(_) => {}
        // Nothing is known of it, so nothing is wrong.
        Err(error) if error.kind() == ErrorKind::Unsupported => {}
        Err(error) => say(
            "disk",
            format!("the data folder cannot be looked at: {error}"),
        ),
    }
    if app.memory.pressure() == Pressure::Hard {
        let percent = app.memory.limits().hard;
        say("memory", format!("more than {percent:.0} % are in use"));
    }
    reasons
}

/// What the service is: its version, device, networks and bounds.
#[utoipa::path(get, path = "/info", tag = "health", responses((status = 200, body = Info)))]
async fn info(State(app): State<SharedApp>) -> Json<Info> {
    let settings = &app.settings;
    let memory = app.memory.limits();
    let mut features = Vec::new();
    if cfg!(feature = "cuda") {
        features.push("cuda");
    }
    if cfg!(feature = "otel") {
        features.push("otel");
    }
    Json(Info {
        name: "mtmc",
        version: env!("CARGO_PKG_VERSION"),
        features,
        device: app.networks.device.clone(),
        precision: app.networks.precision.clone(),
        threads: rayon::current_num_threads(),
        networks: app.networks.about.clone(),
        limits: Limits {
            max_running: settings.max_running,
            max_queued: settings.max_queued,
            batch: settings.batch,
            memory_soft: memory.soft,
            memory_hard: memory.hard,
            min_free_disk: settings.min_free_disk,
        },
        uptime_seconds: app.started.elapsed().as_secs_f64(),
    })
}

/// The service's numbers, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"),
    (status = 500, body = Problem, content_type = "application/problem+json"),
))]
async fn numbers(State(app): State<SharedApp>) -> Result<Response, Problem> {
    let text = tokio::task::spawn_blocking(move || metrics::scrape(&app)).await;
    let text = text.map_err(|error| Problem::internal(&error))?;
    let text = text.map_err(|error| Problem::internal(&error))?;
    let headers = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    Ok((headers, text).into_response())
}
