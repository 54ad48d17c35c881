//! The picture of a search: taken in within bounds, alone or as a form's field.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Multipart, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt as _;

use crate::service::problem::Problem;

/// Largest request in bytes, a form's frame included.
pub const MAX_BYTES: usize = 16 << 20;

/// Most fields of a form.
const MAX_FIELDS: usize = 8;

/// The bytes of the picture; what they are is for decoding to say.
///
/// # Errors
/// The request is too large, breaks off, or holds no picture.
pub async fn receive(request: Request) -> Result<Bytes, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let is_form = essence == "multipart/form-data";
    if !is_form && !matches!(essence.as_str(), "image/jpeg" | "image/png") {
        let detail = "send a picture as image/jpeg or image/png, or as the field `image` of a \
                      multipart/form-data form";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Problem::new(status, "unsupported-media-type", detail));
    }
    let (parts, body) = request.into_parts();
    // All of it first: so whatever a form holds is bounded too.
    let bytes = read(body).await?;
    if !is_form {
        return Ok(bytes);
    }
    let request = Request::from_parts(parts, Body::from(bytes));
    let form = Multipart::from_request(request, &()).await;
    let form = form.map_err(|rejection| broken(&rejection.body_text()))?;
    field(form).await
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| {
            let detail = format!("the picture did not arrive whole: {error}");
            Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", detail)
        })?;
        if bytes.len() + piece.len() > MAX_BYTES {
            let detail = format!("the picture may have {MAX_BYTES} bytes at most");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Problem::new(status, "payload-too-large", detail));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

async fn field(mut form: Multipart) -> Result<Bytes, Problem> {
    for _ in 0..MAX_FIELDS {
        let next = form.next_field().await;
        let Some(field) = next.map_err(|error| broken(&error.body_text()))? else {
            break;
        };
        if field.name() == Some("image") {
            let content = field.bytes().await;
            return content.map_err(|error| broken(&error.body_text()));
        }
    }
    Err(Problem::invalid(
        "the form has no field `image` with a picture",
    ))
}

fn broken(reason: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-request", reason)
}
