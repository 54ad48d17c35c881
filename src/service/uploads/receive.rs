//! An upload on its way in: streamed to disk under a name of ours, within bounds of size, time,
//! memory and room, and refused as soon as its first bytes are of nothing that is taken.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest as _, Multipart, Request};
use axum::http::{StatusCode, header};
use futures_util::Stream;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use uuid::Uuid;

use super::name::shown_name;
use super::settings::UploadSettings;
use crate::service::disk::free_bytes;
use crate::service::idempotency::hex;
use crate::service::problem::Problem;
use crate::source::container::{Container, HEAD_BYTES};

/// Bytes of the body that may be read before they are used: multipart headers have no other bound.
const MAX_AHEAD: u64 = 256 << 10;

/// Bytes that are taken and thrown away after an upload was refused.
const MAX_DRAINED: u64 = 16 << 20;

/// Most fields of a form.
const MAX_FIELDS: usize = 8;

/// Longest value of a field that is no file.
const MAX_VALUE_BYTES: usize = 64;

/// What multipart headers and other fields may add to the file's size.
const MAX_OVERHEAD: u64 = 1 << 20;

/// Bytes between two looks at the disk's room.
const ROOM_EVERY: u64 = 8 << 20;

/// A file on disk that goes unless it is kept.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    kept: bool,
}

impl Incoming {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its final place.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn keep(mut self, place: &Path) -> std::io::Result<()> {
        std::fs::rename(&self.path, place)?;
        self.kept = true;
        Ok(())
    }

    /// Moves it, still to go unless it is kept.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn rename(&mut self, place: &Path) -> std::io::Result<()> {
        std::fs::rename(&self.path, place)?;
        self.path = place.to_path_buf();
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A file that has arrived.
#[derive(Debug)]
pub struct Received {
    /// The ID that it will have.
    pub id: Uuid,
    /// The file.
    pub file: Incoming,
    /// What it is, by its first bytes.
    pub container: Container,
    /// The user's name for it, harmless.
    pub file_name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub digest: String,
    /// The form's field `visualize`.
    pub visualize: Option<bool>,
}

/// Receives the form of a request into `folder`.
///
/// # Errors
/// Whatever is wrong with form, file or disk, as a problem.
pub async fn receive(
    request: Request,
    folder: &Path,
    settings: &UploadSettings,
) -> Result<Received, Problem> {
    check_length(&request, folder, settings)?;
    let (parts, body) = request.into_parts();
    let ahead = Ahead::default();
    let paced = PacedBody::new(body.into_data_stream(), ahead.clone());
    let request = Request::from_parts(parts, Body::from_stream(paced));
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|rejection| {
        let kind = match rejection.status() {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported-media-type",
            _ => "invalid-request",
        };
        Problem::new(rejection.status(), kind, rejection.body_text())
    })?;
    let mut reader = Reader {
        folder,
        settings,
        ahead,
        file: None,
        visualize: None,
    };
    let read = reader.read(&mut form).await;
    if let Err(problem) = read {
        reader.drain(&mut form).await;
        return Err(problem);
    }
    let mut received = reader.file.ok_or_else(|| {
        Problem::invalid("the form has no field `video` with a file; send multipart/form-data")
    })?;
    received.visualize = reader.visualize;
    Ok(received)
}

/// Refuses before the first byte what cannot end well.
fn check_length(
    request: &Request,
    folder: &Path,
    settings: &UploadSettings,
) -> Result<(), Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let length = length.unwrap_or(0);
    if length > settings.max_bytes.saturating_add(MAX_OVERHEAD) {
        return Err(too_large(settings));
    }
    check_room(folder, settings, length)
}

fn too_large(settings: &UploadSettings) -> Problem {
    let detail = format!("a file may have {} bytes at most", settings.max_bytes);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload-too-large", detail)
}

fn check_room(folder: &Path, settings: &UploadSettings, bytes: u64) -> Result<(), Problem> {
    match free_bytes(folder) {
        Ok(free) if free < settings.min_free.saturating_add(bytes) => {
            Err(super::no_room().problem().retry_after(60))
        }
        _ => Ok(()),
    }
}

/// Reads a form.
struct Reader<'a> {
    folder: &'a Path,
    settings: &'a UploadSettings,
    ahead: Ahead,
    file: Option<Received>,
    visualize: Option<bool>,
}

impl Reader<'_> {
    async fn read(&mut self, form: &mut Multipart) -> Result<(), Problem> {
        for _ in 0..MAX_FIELDS {
            let next = timeout(self.settings.idle, form.next_field()).await;
            let Some(field) = next
                .map_err(|_| self.idle())?
                .map_err(|e| self.broken(&e))?
            else {
                return Ok(());
            };
            match field.name() {
                Some("video") if self.file.is_some() => {
                    return Err(Problem::invalid("the form has two fields `video`"));
                }
                Some("video") => self.file = Some(self.read_file(field).await?),
                Some("visualize") => {
                    let text = self.read_text(field).await?;
                    let value = super::parse_flag(&text);
                    self.visualize = Some(value.map_err(|reason| {
                        Problem::invalid(format!("visualize = `{text}`: {reason}"))
                    })?);
                }
                other => {
                    let name = shown_name(other.unwrap_or_default());
                    let detail = format!("the form has an unknown field `{name}`");
                    return Err(Problem::invalid(detail));
                }
            }
        }
        let detail = format!("the form has more than {MAX_FIELDS} fields");
        Err(Problem::invalid(detail))
    }

    /// The next piece of a field.
    async fn piece(&self, field: &mut Field<'_>) -> Result<Option<Bytes>, Problem> {
        let piece = timeout(self.settings.idle, field.chunk()).await;
        let piece = piece.map_err(|_| self.idle())?;
        let piece = piece.map_err(|error| self.broken(&error))?;
        if let Some(bytes) = &piece {
            self.ahead.used(bytes.len());
        }
        Ok(piece)
    }

    async fn read_text(&self, mut field: Field<'_>) -> Result<String, Problem> {
        let mut text = Vec::new();
        while let Some(bytes) = self.piece(&mut field).await? {
            text.extend_from_slice(&bytes);
            if text.len() > MAX_VALUE_BYTES {
                return Err(Problem::invalid("a field's value is too long"));
            }
        }
        String::from_utf8(text).map_err(|_| Problem::invalid("a field's value is not UTF-8"))
    }

    async fn read_file(&self, mut field: Field<'_>) -> Result<Received, Problem> {
        let id = Uuid::now_v7();
        let file_name = shown_name(field.file_name().unwrap_or_default());
        let incoming = Incoming {
            path: self.folder.join(format!("{id}.part")),
            kept: false,
        };
        let failed = |error: std::io::Error| disk_problem(&error);
        let mut file = File::create_new(&incoming.path).await.map_err(failed)?;
        let mut hash = Sha256::new();
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let mut bytes = 0;
        let mut looked = 0;
        let mut container = None;
        while let Some(piece) = self.piece(&mut field).await? {
            bytes += piece.len() as u64;
            if bytes > self.settings.max_bytes {
                return Err(too_large(self.settings));
            }
            if bytes - looked >= ROOM_EVERY {
                looked = bytes;
                check_room(self.folder, self.settings, 0)?;
            }
            if container.is_none() {
                let missing = HEAD_BYTES - head.len();
                head.extend_from_slice(&piece[..piece.len().min(missing)]);
                if head.len() == HEAD_BYTES {
                    container = Some(kind_of(&head)?);
                }
            }
            hash.update(&piece);
            file.write_all(&piece).await.map_err(failed)?;
        }
        if bytes == 0 {
            return Err(unreadable("the file is empty"));
        }
        let container = match container {
            Some(container) => container,
            None => kind_of(&head)?,
        };
        file.sync_data().await.map_err(failed)?;
        Ok(Received {
            id,
            file: incoming,
            container,
            file_name,
            bytes,
            digest: hex(&hash.finalize()),
            visualize: None,
        })
    }

    /// Takes some more of what nobody wants, so that a client that does not read while it writes
    /// gets to see the answer.
    async fn drain(&self, form: &mut Multipart) {
        const MOST: Duration = Duration::from_secs(2);
        if self.ahead.is_refused() {
            return;
        }
        self.ahead.drain();
        let take = async { while let Ok(Some(_)) = form.next_field().await {} };
        let _ = timeout(MOST, take).await;
    }

    fn idle(&self) -> Problem {
        let seconds = self.settings.idle.as_secs_f64();
        let detail = format!("nothing came for {seconds} s");
        Problem::new(StatusCode::REQUEST_TIMEOUT, "upload-timeout", detail)
    }

    fn broken(&self, error: &MultipartError) -> Problem {
        if self.ahead.is_refused() {
            return Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid-request",
                "the form's headers are too long",
            );
        }
        let detail = format!("the form is broken or breaks off: {}", error.body_text());
        Problem::new(StatusCode::BAD_REQUEST, "invalid-request", detail)
    }
}

fn kind_of(head: &[u8]) -> Result<Container, Problem> {
    Container::of(head).ok_or_else(|| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "the file is neither a video (MP4, QuickTime, Matroska, WebM, AVI) nor an image (JPEG, \
             PNG)",
        )
    })
}

fn unreadable(detail: &str) -> Problem {
    super::Failure::unreadable(detail).problem()
}

/// A full disk is told as such.
pub fn disk_problem(error: &std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            super::no_room().problem().retry_after(60)
        }
        _ => Problem::internal(error),
    }
}

/// How many bytes were read and not used yet.
#[derive(Debug, Clone, Default)]
struct Ahead(Arc<AheadState>);

#[derive(Debug, Default)]
struct AheadState {
    bytes: AtomicU64,
    refused: AtomicBool,
    draining: AtomicBool,
}

impl Ahead {
    fn read(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn used(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// From now on nothing is used.
    fn drain(&self) {
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// How many bytes may be read and not used.
    fn limit(&self) -> u64 {
        match self.0.draining.load(Ordering::Relaxed) {
            true => MAX_DRAINED,
            false => MAX_AHEAD,
        }
    }

    fn is_refused(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// A body that pauses while too much of it was read ahead: the parser of forms takes all that it can
/// get, and has no bound of its own for headers.
struct PacedBody {
    body: BodyDataStream,
    ahead: Ahead,
    pauses: u32,
}

impl PacedBody {
    /// The parser is asked again so often before what it does not use is taken for hostile.
    const MAX_PAUSES: u32 = 100;

    fn new(body: BodyDataStream, ahead: Ahead) -> Self {
        Self {
            body,
            ahead,
            pauses: 0,
        }
    }
}

impl Stream for PacedBody {
    type Item = Result<Bytes, axum::BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ahead.0.bytes.load(Ordering::Relaxed) > self.ahead.limit() {
            self.pauses += 1;
            if self.pauses > Self::MAX_PAUSES {
                self.ahead.0.refused.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err("headers too long".into())));
            }
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pauses = 0;
        match Pin::new(&mut self.body).poll_next(context) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.ahead.read(bytes.len());
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
