//! What is kept of one upload: a small file beside its results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::service::messages::TaskStatus;
use crate::service::problem::Problem;
use crate::sink::{PartFile, SinkError};
use crate::source::container::Container;

/// The record's file; never served.
const FILE: &str = "record.json";

/// Largest record that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The result of an upload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InferenceResponse {
    /// Frames that were tracked.
    pub total_frames: u64,
    /// Different tracks.
    pub total_tracks: u64,
    /// Frames a second of the work.
    pub avg_fps: f64,
    /// Where the video with boxes is; empty if it was not asked for.
    #[schema(example = "/outputs/01932c07-209c-7a05-8b4b-2f3c0b6f2c11/video.mp4")]
    pub output_video_path: String,
    /// Numbers by name: see the documentation of uploads.
    pub statistics: BTreeMap<String, f64>,
    /// The ID under which the result stays, below `/api/inference/video/`.
    pub inference_id: Uuid,
    /// Where all its files are.
    pub outputs: Vec<String>,
}

/// Why an upload came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Status of the response.
    pub status: u16,
    /// Kind of the problem.
    pub kind: String,
    /// What is wrong.
    pub detail: String,
}

impl Failure {
    /// Of a kind such as `unreadable-video`.
    pub fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            kind: kind.to_string(),
            detail: detail.into(),
        }
    }

    /// The file is at fault.
    pub fn unreadable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unreadable-video", detail)
    }

    /// This program or its machine is at fault; the cause goes to the log.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        let problem = Problem::internal(cause);
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal-error",
            problem.detail,
        )
    }

    /// As it leaves.
    pub fn problem(&self) -> Problem {
        let status = StatusCode::from_u16(self.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Problem::new(status, &self.kind, self.detail.clone())
    }
}

/// Which key a request had, so that its answer can be found again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Whose key, for what.
    pub scope: String,
    /// The key.
    pub key: String,
    /// Hash of the request.
    pub request: String,
}

/// All that is known of one upload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its ID; of two the later one is greater.
    pub id: Uuid,
    /// The user's name for the file, to be shown.
    pub file_name: String,
    /// Its size.
    pub bytes: u64,
    /// What it is.
    pub container: Container,
    /// Whether a video with boxes is wanted.
    pub visualize: bool,
    /// Where it stands.
    pub status: TaskStatus,
    /// When it came.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How often work on it began.
    pub attempts: u32,
    /// Bytes of its results.
    pub output_bytes: u64,
    /// What came of it.
    pub result: Option<InferenceResponse>,
    /// Why nothing came of it.
    pub failure: Option<Failure>,
    /// The key of a request that waits for the result.
    pub key: Option<KeyRecord>,
}

impl Record {
    /// Writes it into the folder of its results, so that it outlives a crash.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), SinkError> {
        let path = folder.join(FILE);
        let text = serde_json::to_vec(self)
            .map_err(|error| SinkError::io(&path, std::io::Error::other(error)))?;
        let mut file = PartFile::create(&path)?;
        file.write(&text)?;
        file.checkpoint()?;
        file.finish()
    }

    /// Reads it; `None` where there is none that makes sense.
    pub fn load(folder: &Path) -> Option<Self> {
        let path = folder.join(FILE);
        let facts = std::fs::symlink_metadata(&path).ok()?;
        if !facts.is_file() || facts.len() > MAX_BYTES {
            return None;
        }
        serde_json::from_slice(&std::fs::read(&path).ok()?).ok()
    }

    /// Name of the uploaded file on this machine: nothing of it comes from the user.
    pub fn stored_name(&self) -> String {
        format!("{}.{}", self.id, self.container.ending())
    }
}

/// A file of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputKind {
    /// Its name.
    pub name: &'static str,
    /// Its media type.
    pub content_type: &'static str,
}

/// All files of results that are served.
pub const OUTPUTS: [OutputKind; 6] = [
    OutputKind {
        name: "video.mp4",
        content_type: "video/mp4",
    },
    OutputKind {
        name: "tracks.txt",
        content_type: "text/plain; charset=utf-8",
    },
    OutputKind {
        name: "people.txt",
        content_type: "text/plain; charset=utf-8",
    },
    OutputKind {
        name: "tracks.jsonl",
        content_type: "application/jsonl",
    },
    OutputKind {
        name: "events.jsonl",
        content_type: "application/jsonl",
    },
    OutputKind {
        name: "summary.json",
        content_type: "application/json",
    },
];

/// Where a file of the results is fetched.
pub fn output_url(id: Uuid, name: &str) -> String {
    format!("/outputs/{id}/{name}")
}

/// Bytes of all files that lie in a folder, and the paths of those that are served.
pub fn outputs_of(id: Uuid, folder: &Path) -> (u64, Vec<String>) {
    let mut bytes = 0;
    let mut urls = Vec::new();
    for kind in OUTPUTS {
        let path: PathBuf = folder.join(kind.name);
        let Ok(facts) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if facts.is_file() {
            bytes += facts.len();
            urls.push(output_url(id, kind.name));
        }
    }
    (bytes, urls)
}
