//! Videos that come by upload: `POST /api/inference/video`, and what becomes of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::service::SharedApp;
use crate::service::idempotency::{Claim, Key, Known, Pending, request_hash};
use crate::service::messages::TaskStatus;
use crate::service::problem::{PathPart, Problem, QueryOf};
use crate::service::uploads::{
    End, Inference, InferenceResponse, Permit, Received, flag, receive, status_url,
};

/// Most uploads of a list.
const MAX_LISTED: usize = 1000;

/// Routes of this area.
pub fn routes() -> OpenApiRouter<SharedApp> {
    // Uploads have a bound of their own, on the file.
    let upload = OpenApiRouter::new()
        .routes(routes!(upload))
        .layer(DefaultBodyLimit::disable());
    OpenApiRouter::new()
        .merge(upload)
        .routes(routes!(list))
        .routes(routes!(inference))
        .routes(routes!(remove))
}

/// The form of an upload.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form; it is read piece by piece")]
struct UploadForm {
    /// The file: MP4, QuickTime, Matroska, WebM, AVI, JPEG or PNG.
    #[schema(value_type = String, format = Binary)]
    video: Vec<u8>,
    /// Whether a video with boxes and IDs is made; true if left out.
    visualize: Option<bool>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct UploadQuery {
    /// Whether a video with boxes and IDs is made; true if left out.
    #[param(value_type = Option<bool>)]
    visualize: Option<String>,
    /// Whether to answer as soon as the file is accepted, as `Prefer: respond-async` asks too.
    #[param(value_type = Option<bool>)]
    #[serde(rename = "async")]
    respond_async: Option<String>,
}

/// Where an upload stands.
#[derive(Debug, Serialize, ToSchema)]
struct InferenceState {
    /// Its ID.
    inference_id: Uuid,
    /// Where it stands.
    status: TaskStatus,
    /// Percent of its frames that are done, 0..=100, as far as their number is known.
    progress: f64,
    /// Frames that are done.
    frames: u64,
    /// What it does, for people.
    current_step: String,
    /// The user's name for the file.
    file_name: String,
    /// Size of the file.
    bytes: u64,
    /// Whether a video with boxes was asked for.
    visualize: bool,
    /// When it came.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
    /// What came of it.
    result: Option<InferenceResponse>,
    /// Why nothing came of it.
    error: Option<Problem>,
}

impl InferenceState {
    fn of(inference: &Inference) -> Self {
        let record = inference.record();
        let progress = inference.progress();
        let frames = match &record.result {
            Some(result) => result.total_frames,
            None => progress.frames,
        };
        let percent = match (record.status, progress.total) {
            (TaskStatus::Completed, _) => 100.0,
            (_, Some(total)) => (frames as f64 / total.max(1) as f64 * 100.0).min(100.0),
            (_, None) => 0.0,
        };
        let current_step = match (record.status, progress.total) {
            (TaskStatus::Queued, _) => "Waiting for its turn".to_string(),
            (TaskStatus::Completed, _) => "All frames are done".to_string(),
            (TaskStatus::Failed, _) => "Failed".to_string(),
            (TaskStatus::Stopped, _) => "Stopped".to_string(),
            (_, Some(total)) => format!("Tracking frame {frames}/{total}"),
            (_, None) => format!("Tracking frame {frames}"),
        };
        Self {
            inference_id: record.id,
            status: record.status,
            progress: percent,
            frames,
            current_step,
            file_name: record.file_name,
            bytes: record.bytes,
            visualize: record.visualize,
            created_at: record.created_at,
            ended_at: record.ended_at,
            result: record.result,
            error: record.failure.map(|failure| failure.problem()),
        }
    }
}

/// The uploads that are known, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct InferenceList {
    /// At most 1000 of them.
    inferences: Vec<InferenceState>,
    /// Their number in all.
    total_count: usize,
}

/// What a request to upload asks for, but for the file.
struct Wanted {
    visualize: Option<bool>,
    respond_async: bool,
    preferred: bool,
}

impl Wanted {
    fn of(query: &UploadQuery, headers: &HeaderMap) -> Result<Self, Problem> {
        let by_query = flag("async", query.respond_async.as_deref())?;
        let preferred = headers.get_all("prefer").iter().any(|value| {
            let text = value.to_str().unwrap_or_default();
            let mut wishes = text.split(',');
            wishes.any(|wish| wish.trim().eq_ignore_ascii_case("respond-async"))
        });
        Ok(Self {
            visualize: flag("visualize", query.visualize.as_deref())?,
            respond_async: by_query.unwrap_or(preferred),
            preferred,
        })
    }

    /// Address and form may both say it, but not differ.
    fn visualize(&self, received: &Received) -> Result<bool, Problem> {
        match (self.visualize, received.visualize) {
            (Some(query), Some(form)) if query != form => Err(Problem::invalid(
                "visualize: the address and the form say different things",
            )),
            (query, form) => Ok(query.or(form).unwrap_or(true)),
        }
    }
}

/// Track the people of a video.
///
/// Answers when all is done, or at once with `async=true`. Whoever goes away in between finds the
/// result under the ID of the upload.
#[utoipa::path(post, path = "/api/inference/video", tag = "inference", params(UploadQuery,
    ("Idempotency-Key" = Option<String>, Header, description = "The same key and file again: the same answer, without the work"),
    ("Prefer" = Option<String>, Header, description = "`respond-async`: as `async=true`"),
), request_body(content = UploadForm, content_type = "multipart/form-data"), responses(
    (status = 200, body = InferenceResponse, headers(("Content-Location" = String, description = "Where the result stays"))),
    (status = 202, body = InferenceState, headers(("Location" = String, description = "Where the upload's status is"))),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 408, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json"),
    (status = 413, body = Problem, content_type = "application/problem+json"),
    (status = 415, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 429, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
    (status = 507, body = Problem, content_type = "application/problem+json"),
))]
async fn upload(
    State(app): State<SharedApp>,
    QueryOf(query): QueryOf<UploadQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted = Wanted::of(&query, request.headers())?;
    app.memory.admit()?;
    let permit = app.uploads.admit()?;
    let (parts, body) = request.into_parts();
    let claim = match Key::of_parts(&parts, "upload")? {
        Some(key) => Some(app.idempotency.claim(key).await?),
        None => None,
    };
    let request = Request::from_parts(parts, body);
    let folder = app.uploads.folder();
    let received = receive(request, &folder, &app.settings.uploads).await?;
    let visualize = wanted.visualize(&received)?;
    let hash = request_hash(&[
        received.digest.as_bytes(),
        &[u8::from(visualize), u8::from(wanted.respond_async)],
    ]);
    let pending = match claim {
        Some(Claim::Known(known)) => return answered(&known, &hash, received).await,
        Some(Claim::Fresh(pending)) => Some(pending),
        None => None,
    };
    if wanted.respond_async {
        return begin_async(app, received, visualize, pending, hash, permit, &wanted).await;
    }
    let pending = pending.map(|pending| (pending, hash));
    let inference = begin(&app, received, visualize, pending, permit).await?;
    // A client that goes away ends this wait, not the work.
    if inference.ended().await == End::Suspended {
        return Ok(inference.response());
    }
    let mut response = inference.response();
    note_place(&mut response, header::CONTENT_LOCATION, inference.id)?;
    Ok(response)
}

/// The answer to a file that was sent before.
async fn answered(known: &Known, hash: &str, received: Received) -> Result<Response, Problem> {
    let answer = known.answer(hash);
    // It is of no further use; removing it may take a moment.
    let _ = tokio::task::spawn_blocking(move || drop(received)).await;
    answer
}

async fn begin(
    app: &SharedApp,
    received: Received,
    visualize: bool,
    pending: Option<(Pending, String)>,
    permit: Permit,
) -> Result<Arc<Inference>, Problem> {
    app.uploads
        .begin(received, visualize, pending, permit)
        .await
}

/// Accepts, whether or not the client waits for the answer.
async fn begin_async(
    app: SharedApp,
    received: Received,
    visualize: bool,
    pending: Option<Pending>,
    hash: String,
    permit: Permit,
    wanted: &Wanted,
) -> Result<Response, Problem> {
    let accepted = tokio::spawn(async move {
        let begun = begin(&app, received, visualize, None, permit).await;
        let response = match begun {
            Ok(inference) => accepted(&inference),
            Err(problem) => problem.into_response(),
        };
        match pending {
            Some(pending) => pending.settle(&hash, response).await,
            None => response,
        }
    });
    let mut response = accepted.await.map_err(|error| Problem::internal(&error))?;
    if wanted.preferred && response.status() == StatusCode::ACCEPTED {
        let applied = HeaderValue::from_static("respond-async");
        response.headers_mut().insert("preference-applied", applied);
    }
    Ok(response)
}

fn accepted(inference: &Inference) -> Response {
    let state = Json(InferenceState::of(inference));
    let mut response = (StatusCode::ACCEPTED, state).into_response();
    match note_place(&mut response, header::LOCATION, inference.id) {
        Ok(()) => response,
        Err(problem) => problem.into_response(),
    }
}

fn note_place(response: &mut Response, name: header::HeaderName, id: Uuid) -> Result<(), Problem> {
    let place = HeaderValue::from_str(&status_url(id));
    let place = place.map_err(|error| Problem::internal(&error))?;
    response.headers_mut().insert(name, place);
    Ok(())
}

/// The uploads that are known, newest first.
#[utoipa::path(get, path = "/api/inference/video", tag = "inference", operation_id = "list_inferences",
    responses((status = 200, body = InferenceList)))]
async fn list(State(app): State<SharedApp>) -> Json<InferenceList> {
    let known = app.uploads.list();
    let mut inferences = Vec::new();
    for inference in known.iter().take(MAX_LISTED) {
        inferences.push(InferenceState::of(inference));
    }
    Json(InferenceList {
        inferences,
        total_count: known.len(),
    })
}

fn missing(id: Uuid) -> Problem {
    Problem::not_found("inference-not-found", format!("there is no upload {id}"))
}

/// Where an upload stands, and what came of it.
#[utoipa::path(get, path = "/api/inference/video/{inference_id}", tag = "inference",
    params(("inference_id" = Uuid, Path)), responses(
    (status = 200, body = InferenceState),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn inference(
    State(app): State<SharedApp>,
    PathPart(id): PathPart<Uuid>,
) -> Result<Json<InferenceState>, Problem> {
    let inference = app.uploads.get(id).ok_or_else(|| missing(id))?;
    Ok(Json(InferenceState::of(&inference)))
}

/// Forget an upload and all its files. One that is worked on is stopped.
#[utoipa::path(delete, path = "/api/inference/video/{inference_id}", tag = "inference",
    operation_id = "remove_inference", params(("inference_id" = Uuid, Path)), responses(
    (status = 204, description = "It is gone"),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn remove(
    State(app): State<SharedApp>,
    PathPart(id): PathPart<Uuid>,
) -> Result<StatusCode, Problem> {
    let removed = tokio::task::spawn_blocking(move || app.uploads.remove(id)).await;
    match removed.map_err(|error| Problem::internal(&error))? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(missing(id)),
    }
}
