//! Results of uploads: whole, in parts, or not if the client has them already.
//!
//! Only files that a result lists are there, under the ID that was made for it: nothing of an
//! address reaches the file system.

use std::io::SeekFrom;
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::service::SharedApp;
use crate::service::problem::{PathPart, Problem};
use crate::service::uploads::{Asked, OutputKind, disposition};

/// Between parts; its content is no secret, since parts are told by their lengths.
const BOUNDARY: &str = "mtmc-part-5f2d0c0c3f1b4b8e";

/// Routes of this area.
pub fn routes() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(output))
}

/// A file of an upload's result.
#[utoipa::path(get, path = "/outputs/{inference_id}/{file}", tag = "inference", params(
    ("inference_id" = Uuid, Path),
    ("file" = String, Path, description = "A name of the result's `outputs`, such as `video.mp4`"),
    ("Range" = Option<String>, Header, description = "Parts of the file, in bytes"),
), responses(
    (status = 200, description = "The file", content(
        ([u8] = "video/mp4"), (String = "text/plain"),
        (String = "application/jsonl"), (serde_json::Value = "application/json"),
    )),
    (status = 206, description = "Parts of it", content(
        ([u8] = "video/mp4"), (String = "text/plain"), (String = "application/jsonl"),
        (String = "application/json"), ([u8] = "multipart/byteranges"),
    )),
    (status = 304, description = "The client has it"),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 416, body = Problem, content_type = "application/problem+json"),
))]
async fn output(
    State(app): State<SharedApp>,
    PathPart((id, name)): PathPart<(Uuid, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let missing = || {
        let detail = "there is no such file, or it is kept no more".to_string();
        Problem::not_found("output-not-found", detail)
    };
    let (path, kind) = app.uploads.output(id, &name).ok_or_else(missing)?;
    let inference = app.uploads.get(id).ok_or_else(missing)?;
    let shown = shown_name(&inference.record().file_name, kind);
    let facts = Facts::of(&path, id, kind, &shown).await;
    respond(&path, &facts.ok_or_else(missing)?, &headers).await
}

/// The name under which a file is to be saved: that of the video, and what it is.
fn shown_name(file_name: &str, kind: OutputKind) -> String {
    let stem = Path::new(file_name).file_stem();
    let stem = stem.unwrap_or_default().to_string_lossy();
    format!("{stem}-{}", kind.name)
}

/// What is told of a file.
struct Facts {
    kind: OutputKind,
    bytes: u64,
    modified: Timestamp,
    etag: String,
    disposition: String,
}

impl Facts {
    /// `None` unless a plain file lies there, and no link to another.
    async fn of(path: &Path, id: Uuid, kind: OutputKind, shown: &str) -> Option<Self> {
        let facts = tokio::fs::symlink_metadata(path).await.ok()?;
        if !facts.is_file() {
            return None;
        }
        let modified = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let modified = Timestamp::try_from(modified).ok()?;
        // What is under an ID never changes: ID, name, size and time tell it for sure.
        let (bytes, time) = (facts.len(), modified.as_nanosecond());
        Some(Self {
            kind,
            bytes,
            modified,
            etag: format!("\"{}-{}-{bytes:x}-{time:x}\"", id.simple(), kind.name),
            disposition: disposition(shown),
        })
    }

    /// Whether the client has it already (RFC 9110, sections 13.1.2 and 13.1.3).
    fn is_known(&self, request: &HeaderMap) -> bool {
        if let Some(tags) = request.get(header::IF_NONE_MATCH) {
            let tags = tags.to_str().unwrap_or_default();
            return tags
                .split(',')
                .map(str::trim)
                .any(|tag| tag == "*" || tag.trim_start_matches("W/") == self.etag);
        }
        let since = request.get(header::IF_MODIFIED_SINCE).and_then(time_of);
        since.is_some_and(|since| self.modified.as_second() <= since.as_second())
    }

    /// Whether the client's part is of this very file (RFC 9110, section 13.1.5).
    fn range_applies(&self, request: &HeaderMap) -> bool {
        let Some(condition) = request.get(header::IF_RANGE) else {
            return true;
        };
        if condition.as_bytes() == self.etag.as_bytes() {
            return true;
        }
        time_of(condition).is_some_and(|time| time.as_second() == self.modified.as_second())
    }

    fn content_range(&self, part: &Range<u64>) -> String {
        format!("bytes {}-{}/{}", part.start, part.end - 1, self.bytes)
    }

    /// A response with what all of them have.
    fn response(
        &self,
        status: StatusCode,
        content_type: &str,
        length: u64,
        body: Body,
    ) -> Result<Response, Problem> {
        let modified = DateTimePrinter::new().timestamp_to_rfc9110_string(&self.modified);
        let modified = modified.map_err(|error| Problem::internal(&error))?;
        Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::CONTENT_LENGTH, length)
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::ETAG, &self.etag)
            .header(header::LAST_MODIFIED, modified)
            .header(header::CACHE_CONTROL, "private, max-age=3600")
            .header(header::CONTENT_DISPOSITION, &self.disposition)
            .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .body(body)
            .map_err(|error| Problem::internal(&error))
    }
}

fn time_of(value: &HeaderValue) -> Option<Timestamp> {
    let time = DateTimeParser::new().parse_timestamp(value.to_str().ok()?);
    time.ok()
}

async fn respond(path: &Path, facts: &Facts, request: &HeaderMap) -> Result<Response, Problem> {
    if facts.is_known(request) {
        let none = Body::empty();
        let mut response =
            facts.response(StatusCode::NOT_MODIFIED, facts.kind.content_type, 0, none)?;
        response.headers_mut().remove(header::CONTENT_LENGTH);
        return Ok(response);
    }
    let range = match facts.range_applies(request) {
        true => request.get(header::RANGE).and_then(|v| v.to_str().ok()),
        false => None,
    };
    let content_type = facts.kind.content_type;
    match Asked::of(range, facts.bytes) {
        Asked::Whole => {
            let body = body_of(path, 0..facts.bytes).await?;
            facts.response(StatusCode::OK, content_type, facts.bytes, body)
        }
        Asked::Unsatisfiable => Ok(unsatisfiable(facts)),
        Asked::Parts(parts) => match parts.as_slice() {
            [part] => {
                let (part, length) = (part.clone(), part.end - part.start);
                let content_range = facts.content_range(&part);
                let body = body_of(path, part).await?;
                let status = StatusCode::PARTIAL_CONTENT;
                let mut response = facts.response(status, content_type, length, body)?;
                let value = HeaderValue::from_str(&content_range);
                let value = value.map_err(|error| Problem::internal(&error))?;
                response.headers_mut().insert(header::CONTENT_RANGE, value);
                Ok(response)
            }
            _ => several(path, facts, parts),
        },
    }
}

fn unsatisfiable(facts: &Facts) -> Response {
    let detail = format!("the file has {} bytes", facts.bytes);
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    let problem = Problem::new(status, "range-not-satisfiable", detail);
    let mut response = problem.into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{}", facts.bytes)) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// Several parts, as RFC 9110, section 14.6 has them.
fn several(path: &Path, facts: &Facts, parts: Vec<Range<u64>>) -> Result<Response, Problem> {
    let end = Bytes::from(format!("\r\n--{BOUNDARY}--\r\n"));
    let mut length = end.len() as u64;
    let mut headed = Vec::with_capacity(parts.len());
    for part in parts {
        let head = format!(
            "\r\n--{BOUNDARY}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
            facts.kind.content_type,
            facts.content_range(&part)
        );
        length += head.len() as u64 + (part.end - part.start);
        headed.push((Bytes::from(head), part));
    }
    let path = path.to_path_buf();
    let pieces = stream::iter(headed)
        .then(move |(head, part)| {
            let path = path.clone();
            async move {
                let head = stream::iter([Ok(head)]);
                // One that cannot be read ends the response, which then is too short.
                match open_part(&path, part).await {
                    Ok(content) => head.chain(content).boxed(),
                    Err(error) => stream::iter([Err(error)]).boxed(),
                }
            }
        })
        .flatten()
        .chain(stream::iter([Ok(end)]));
    let content_type = format!("multipart/byteranges; boundary={BOUNDARY}");
    let body = Body::from_stream(pieces);
    facts.response(StatusCode::PARTIAL_CONTENT, &content_type, length, body)
}

async fn body_of(path: &Path, part: Range<u64>) -> Result<Body, Problem> {
    let content = open_part(path, part).await;
    let content = content.map_err(|error| Problem::internal(&error))?;
    Ok(Body::from_stream(content))
}

/// A part of a file: no more than was promised, should the file grow.
async fn open_part(
    path: &Path,
    part: Range<u64>,
) -> std::io::Result<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>> {
    let mut file = File::open(path).await?;
    file.seek(SeekFrom::Start(part.start)).await?;
    Ok(ReaderStream::with_capacity(
        file.take(part.end - part.start),
        64 << 10,
    ))
}
