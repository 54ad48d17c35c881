//! The route of the sockets: what a client asks for is checked before anything is upgraded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::message::Images;
use super::socket::{self, Protocol};
use super::subscription::{Subscription, Wishes};
use crate::service::SharedApp;
use crate::service::messages::asyncapi;
use crate::service::problem::{PathPart, Problem, QueryOf};
use crate::service::tasks::Task;

/// Largest message of a client, in bytes; none is of any matter.
const MAX_CLIENT_MESSAGE: usize = 64 << 10;

/// Most frames a second that `max_fps` can ask for.
const MAX_FPS: f64 = 1_000.0;

/// The sockets that are open, over all tasks.
#[derive(Debug, Clone, Default)]
pub struct Sockets(Arc<AtomicUsize>);

impl Sockets {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until the guard is dropped; `None` beyond `most`.
    fn open(&self, most: usize) -> Option<Open> {
        let add = |count| (count < most).then_some(count + 1);
        let added = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        added.ok().map(|_| Open(self.clone()))
    }
}

/// A socket that is counted.
#[derive(Debug)]
struct Open(Sockets);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Routes of the sockets.
pub fn routes() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(listen))
        .routes(routes!(document))
}

/// Which pictures come with frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ImagesWish {
    None,
    Annotated,
    Original,
    Both,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListenQuery {
    /// Number of the last message that the client has: what comes behind it is sent, after a `gap`
    /// if it is not all kept any more; 0 for all. Left out: what comes from now on.
    since: Option<u64>,
    /// Only messages about these cameras (IDs with commas between them), and those about the task.
    #[param(example = "c09,c12")]
    cameras: Option<String>,
    /// Which pictures come with frames; both if left out.
    #[param(inline)]
    images: Option<ImagesWish>,
    /// At most so many frames a second of each camera.
    #[param(minimum = 0, maximum = 1000)]
    max_fps: Option<f64>,
}

/// A task's messages over a WebSocket.
///
/// Subprotocols: `mtmc.json.v1` (default) and `mtmc.binary.v1`. The messages are described by
/// `/asyncapi.json`.
#[utoipa::path(get, path = "/ws/detection-tracking/{task_id}", tag = "messages",
    params(("task_id" = Uuid, Path), ListenQuery), responses(
    (status = 101, description = "The connection is a WebSocket now"),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 410, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 426, body = Problem, content_type = "application/problem+json"),
    (status = 429, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn listen(
    State(app): State<SharedApp>,
    PathPart(id): PathPart<Uuid>,
    QueryOf(query): QueryOf<ListenQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let Some(task) = app.tasks.get(id) else {
        return Err(no_messages(&app, id).await);
    };
    let wishes = wishes(&query, &task)?;
    let upgrade = upgrade.map_err(|rejection| {
        let status = StatusCode::UPGRADE_REQUIRED;
        Problem::new(status, "upgrade-required", rejection.body_text())
    })?;
    let Some(open) = app.sockets.open(app.settings.live.max_clients) else {
        let detail = "too many clients listen already";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Err(Problem::new(status, "too-many-clients", detail).retry_after(10));
    };
    let Some(subscription) = Subscription::open(&task.hub, wishes) else {
        let detail = "too many clients listen to this task already";
        let status = StatusCode::TOO_MANY_REQUESTS;
        return Err(Problem::new(status, "too-many-clients", detail).retry_after(10));
    };
    let heartbeat = app.settings.heartbeat;
    let metrics = app.metrics.clone();
    let upgrade = upgrade
        .protocols(Protocol::NAMES)
        .max_message_size(MAX_CLIENT_MESSAGE)
        .max_frame_size(MAX_CLIENT_MESSAGE);
    Ok(upgrade.on_upgrade(async move |stream| {
        let name = stream.protocol().and_then(|name| name.to_str().ok());
        let protocol = Protocol::of(name);
        socket::serve(stream, subscription, protocol, heartbeat, metrics).await;
        drop(open);
    }))
}

/// Why a task has no messages here: there is none, or it ended long ago.
async fn no_messages(app: &SharedApp, id: Uuid) -> Problem {
    match app.tasks.details(id).await {
        Ok(Some(_)) => {
            let detail = format!("task {id} has ended, and its messages are not kept any more");
            Problem::new(StatusCode::GONE, "messages-gone", detail)
        }
        Ok(None) => Problem::not_found("task-not-found", format!("there is no task {id}")),
        Err(error) => Problem::store(&error),
    }
}

fn wishes(query: &ListenQuery, task: &Task) -> Result<Wishes, Problem> {
    let mut wishes = Wishes {
        since: query.since,
        images: match query.images {
            Some(ImagesWish::None) => Images::None,
            Some(ImagesWish::Annotated) => Images::Annotated,
            Some(ImagesWish::Original) => Images::Original,
            Some(ImagesWish::Both) | None => Images::Both,
        },
        ..Wishes::default()
    };
    if let Some(list) = &query.cameras {
        let mut cameras = BTreeSet::new();
        for id in list.split(',') {
            if !task
                .environment
                .cameras
                .iter()
                .any(|camera| camera.id == id)
            {
                let detail = format!("cameras: the task has no camera `{id}`");
                return Err(Problem::invalid(detail));
            }
            cameras.insert(id.to_string());
        }
        wishes.cameras = Some(cameras);
    }
    if let Some(rate) = query.max_fps {
        if !(rate > 0.0 && rate <= MAX_FPS) {
            let detail = format!("max_fps = {rate}: must be above 0 and at most {MAX_FPS}");
            return Err(Problem::invalid(detail));
        }
        // 1e-6: a rate so low is one frame and no more.
        wishes.interval = Some(Duration::from_secs_f64(1.0 / rate.max(1e-6)));
    }
    Ok(wishes)
}

/// What the messages look like: an AsyncAPI 3.0 document.
#[utoipa::path(get, path = "/asyncapi.json", tag = "messages", responses((status = 200, body = serde_json::Value)))]
async fn document() -> Json<serde_json::Value> {
    Json(asyncapi::document())
}
