//! Tasks: start, look, stop.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::config::Environment;
use crate::service::SharedApp;
use crate::service::idempotency::{Answer, CallerId, Key, Known, Once, Stored, request_hash};
use crate::service::messages::{CameraProgress, TaskStatus};
use crate::service::problem::{Body, PathPart, Problem, QueryOf};
use crate::service::tasks::{
    CleanupReport, StartError, Started, Task, TaskDetails, TaskKind, TaskRequest, websocket_url,
};
use crate::store::TaskFilter;

/// What handlers of this area get: the kind of task is part of the address.
#[derive(Clone)]
struct Area {
    app: SharedApp,
    kind: TaskKind,
}

/// Routes of this area.
pub fn routes(app: SharedApp, kind: TaskKind) -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(list))
        .routes(routes!(details))
        .routes(routes!(status))
        .routes(routes!(stop))
        .routes(routes!(clean_up))
        .with_state(Area { app, kind })
}

/// A task that was accepted.
#[derive(Debug, Serialize, ToSchema)]
struct TaskAccepted {
    task_id: Uuid,
    status: TaskStatus,
    environment_id: String,
    status_url: String,
    websocket_url: String,
    message: String,
}

/// Where a task stands.
#[derive(Debug, Serialize, ToSchema)]
struct TaskState {
    task_id: Uuid,
    status: TaskStatus,
    progress: f64,
    current_step: String,
    camera_processing: std::collections::BTreeMap<String, CameraProgress>,
    error: Option<String>,
}

/// A page of tasks, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct TaskList {
    tasks: Vec<TaskDetails>,
    /// Number of `tasks`.
    count: usize,
    /// For the next page's `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only tasks that stand so.
    status: Option<TaskStatus>,
    /// Only tasks of this environment.
    environment_id: Option<String>,
    /// Most tasks of the page, 1..=1000; 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<i64>,
}

/// Start a task.
#[utoipa::path(post, path = "/start", request_body = TaskRequest, params(
    ("Idempotency-Key" = Option<String>, Header, description = "The same key and request again: the same answer, without a second task"),
), responses(
    (status = 202, body = TaskAccepted, headers(("Location" = String, description = "The task's status"))),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 429, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn start(
    State(Area { app, kind }): State<Area>,
    headers: HeaderMap,
    caller: Option<Extension<CallerId>>,
    Body(request): Body<TaskRequest>,
) -> Result<Response, Problem> {
    let operation = format!("start/{}", kind.name());
    let caller = caller.as_ref().map(|Extension(caller)| caller);
    let key = Key::of(&headers, caller, &operation)?;
    let content = serde_json::to_vec(&request).map_err(|error| Problem::internal(&error))?;
    let hash = request_hash(&[&content]);
    let keys = app.idempotency.clone();
    let work = |once| begin(app, kind, request, hash.clone(), once);
    keys.once(key, &hash, work).await
}

async fn begin(
    app: SharedApp,
    kind: TaskKind,
    request: TaskRequest,
    hash: String,
    once: Option<Once>,
) -> Result<Response, Problem> {
    app.memory.admit()?;
    if kind == TaskKind::Raw && app.settings.privacy.hides() {
        // Nobody is looked for in raw frames, so nobody could be hidden.
        let detail = "this service hides people, which raw tasks cannot: start a detection task";
        return Err(Problem::conflict("privacy", detail));
    }
    let environment = environment_of(&app, &request)?;
    let note = |task: &Task| once.map(|once| once.record(&accepted(task)));
    let started = app.tasks.start(kind, request, environment, note).await;
    let started = started.map_err(|error| match error {
        StartError::QueueFull(_) => {
            let status = StatusCode::TOO_MANY_REQUESTS;
            Problem::new(status, "too-many-tasks", error.to_string()).retry_after(10)
        }
        StartError::ShuttingDown => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Problem::new(status, "shutting-down", error.to_string()).retry_after(30)
        }
        StartError::Store(error) => Problem::store(&error),
    })?;
    match started {
        Started::New(task) => {
            let mut response = accepted(&task).response();
            response.extensions_mut().insert(Stored);
            Ok(response)
        }
        // By another process of the same store.
        Started::Already(record) => match Known::stored(record) {
            Some(known) => known.answer(&hash),
            None => Err(Problem::internal(&"an answer in the store cannot be read")),
        },
    }
}

/// What is answered to whoever asked for a task.
fn accepted(task: &Task) -> Answer {
    let status_url = task.kind.status_url(task.id);
    let accepted = TaskAccepted {
        task_id: task.id,
        status: TaskStatus::Queued,
        environment_id: task.environment.id.clone(),
        status_url: status_url.clone(),
        websocket_url: websocket_url(task.id),
        message: "The task was accepted".to_string(),
    };
    Answer {
        status: StatusCode::ACCEPTED.as_u16(),
        location: Some(status_url),
        content_type: Some("application/json".to_string()),
        // None of its fields can fail.
        body: serde_json::to_string(&accepted).unwrap_or_default(),
    }
}

/// The environment that a request is about, with just the cameras that it names.
fn environment_of(app: &SharedApp, request: &TaskRequest) -> Result<Arc<Environment>, Problem> {
    let id = &request.environment_id;
    let Some(environment) = app.catalog.get(id) else {
        let known: Vec<&str> = app.catalog.iter().map(|known| known.id.as_str()).collect();
        let detail = format!(
            "there is no environment `{id}`; there are: {}",
            known.join(", ")
        );
        return Err(Problem::not_found("environment-not-found", detail));
    };
    if request.max_frames == Some(0) {
        return Err(Problem::invalid("max_frames: must be at least 1"));
    }
    let environment = environment.only(&request.cameras).map_err(|unknown| {
        Problem::invalid(format!("cameras: `{id}` has no camera `{unknown}`"))
    })?;
    for camera in &environment.cameras {
        if camera.source.is_none() {
            let detail = format!(
                "camera `{}` of `{id}` has no source: name one in the environment's file, or start \
                 the service with --source-template",
                camera.id
            );
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "no-source",
                detail,
            ));
        }
    }
    Ok(Arc::new(environment))
}

/// The tasks, newest first.
#[utoipa::path(get, path = "", params(ListQuery), responses(
    (status = 200, body = TaskList),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    State(Area { app, kind }): State<Area>,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<TaskList>, Problem> {
    let limit = query.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::invalid(format!(
            "limit = {limit}: must be in 1..=1000"
        )));
    }
    let filter = TaskFilter {
        status: query.status.map(TaskStatus::word),
        environment_id: query.environment_id,
        route: Some(kind.name().to_string()),
        cursor: query.cursor,
        limit,
    };
    let page = app
        .tasks
        .list(&filter)
        .await
        .map_err(|error| Problem::store(&error))?;
    Ok(Json(TaskList {
        count: page.items.len(),
        tasks: page.items,
        next_cursor: page.next,
    }))
}

impl Area {
    async fn details(&self, id: Uuid) -> Result<TaskDetails, Problem> {
        let found = self.app.tasks.details(id).await;
        let found = found.map_err(|error| Problem::store(&error))?;
        let mine = found.filter(|task| task.kind == self.kind);
        mine.ok_or_else(|| Problem::not_found("task-not-found", format!("there is no task {id}")))
    }
}

/// All that is known of a task.
#[utoipa::path(get, path = "/{task_id}", params(("task_id" = Uuid, Path)), responses(
    (status = 200, body = TaskDetails),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn details(
    State(area): State<Area>,
    PathPart(id): PathPart<Uuid>,
) -> Result<Json<TaskDetails>, Problem> {
    Ok(Json(area.details(id).await?))
}

/// Where a task stands.
#[utoipa::path(get, path = "/{task_id}/status", params(("task_id" = Uuid, Path)), responses(
    (status = 200, body = TaskState),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn status(
    State(area): State<Area>,
    PathPart(id): PathPart<Uuid>,
) -> Result<Json<TaskState>, Problem> {
    Ok(Json(state(area.details(id).await?)))
}

fn state(details: TaskDetails) -> TaskState {
    TaskState {
        task_id: details.task_id,
        status: details.status,
        progress: details.progress,
        current_step: details.current_step,
        camera_processing: details.camera_processing,
        error: details.error,
    }
}

/// Stop a task. One that has ended stays as it is.
#[utoipa::path(delete, path = "/{task_id}/stop", params(("task_id" = Uuid, Path)), responses(
    (status = 200, body = TaskState),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn stop(
    State(area): State<Area>,
    PathPart(id): PathPart<Uuid>,
) -> Result<Json<TaskState>, Problem> {
    let details = area.details(id).await?;
    let Some(task) = area.app.tasks.get(id) else {
        return Ok(Json(state(details)));
    };
    let stopped = area.app.tasks.stop(&task).await;
    stopped.map_err(|error| Problem::store(&error))?;
    Ok(Json(state(task.details())))
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
struct CleanupResult {
    environment_id: String,
    removed: CleanupReport,
    message: String,
}

/// Stop an environment's tasks, of whatever kind, and remove all that they left.
#[utoipa::path(delete, path = "/environment/{environment_id}/cleanup", params(("environment_id" = String, Path)), responses(
    (status = 200, body = CleanupResult),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn clean_up(
    State(Area { app, .. }): State<Area>,
    PathPart(environment_id): PathPart<String>,
) -> Result<Json<CleanupResult>, Problem> {
    let cleaned = app.tasks.clean_up(&environment_id).await;
    let removed = cleaned.map_err(|error| Problem::store(&error))?;
    // What an environment left is removed also after it went from the configuration.
    if removed.tasks == 0 && app.catalog.get(&environment_id).is_none() {
        let detail = format!("there is no environment `{environment_id}`");
        return Err(Problem::not_found("environment-not-found", detail));
    }
    let message = format!(
        "{} tasks removed, {} of them stopped",
        removed.tasks, removed.stopped_tasks
    );
    Ok(Json(CleanupResult {
        environment_id,
        removed,
        message,
    }))
}
