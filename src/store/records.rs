//! What is stored, as plain data. Times are UTC milliseconds since 1970.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

/// Global IDs that each task has for itself.
pub const IDS_PER_TASK: i64 = 10_000_000;

/// Global IDs of the task of that number (from 0): they never meet another task's.
pub fn global_ids(number: i64) -> RangeInclusive<i64> {
    number * IDS_PER_TASK + 1..=(number + 1) * IDS_PER_TASK
}

/// A task. It has ended once `ended_ms` is set; the store reads nothing else into its status.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// Its ID.
    pub task_id: Uuid,
    /// Its number, of [`Store::next_task_number`](super::Store::next_task_number).
    pub number: i64,
    /// By which route it came: `detection`, `processing`, `raw`, `inference`.
    pub route: String,
    /// Its environment.
    pub environment_id: String,
    /// Where it stands, such as `QUEUED`.
    pub status: String,
    /// Percent that is done, 0..=100.
    pub progress: f64,
    /// What it does, for people.
    pub current_step: String,
    /// Its cameras, as JSON.
    pub cameras: String,
    /// What was asked for, as JSON.
    pub request: String,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_ms: i64,
    /// When it began to work.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// Number of its next message.
    pub next_seq: i64,
}

/// How far a running task is: changes too often to be written by itself. Nothing happens to a task
/// that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressRecord {
    /// The task.
    pub task_id: Uuid,
    /// Percent that is done, 0..=100.
    pub progress: f64,
    /// What it does, for people.
    pub current_step: String,
    /// Its cameras, as JSON.
    pub cameras: String,
    /// Number of its next message; the stored one never falls.
    pub next_seq: i64,
}

/// A track of one camera.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackRecord {
    /// The task.
    pub task_id: Uuid,
    /// The camera.
    pub camera_id: Arc<str>,
    /// The track's ID in that camera.
    pub track_id: i64,
    /// The person, once known; `None` leaves what is stored.
    pub global_id: Option<i64>,
    /// First frame of it.
    pub first_frame: i64,
    /// Last frame of it.
    pub last_frame: i64,
    /// Time of the first frame.
    pub first_ms: i64,
    /// Time of the last frame.
    pub last_ms: i64,
}

/// Where one track was in one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionRecord {
    /// The task.
    pub task_id: Uuid,
    /// The camera.
    pub camera_id: Arc<str>,
    /// The camera's frame.
    pub frame: i64,
    /// The track's ID in that camera.
    pub track_id: i64,
    /// Time of the frame.
    pub time_ms: i64,
    /// The person, if known.
    pub global_id: Option<i64>,
    /// Box in pixels: left, top, right, bottom.
    pub bbox: [f64; 4],
    /// The detection's score, 0..=1.
    pub score: f64,
    /// Place on the map, if it is known.
    pub map: Option<[f64; 2]>,
}

/// A person. Written again and again as more is seen: the first and the last sighting widen, a vector
/// replaces the one before, a crop does if its quality is as good; `None` leaves what is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct PersonRecord {
    /// The identity.
    pub global_id: i64,
    /// The task whose identity it is.
    pub task_id: Uuid,
    /// That task's environment.
    pub environment_id: String,
    /// First seen.
    pub first_ms: i64,
    /// Last seen.
    pub last_ms: i64,
    /// Camera of the first sighting.
    pub first_camera: String,
    /// Camera of the last sighting.
    pub last_camera: String,
    /// Name of the network that made the vector; vectors of different ones cannot be compared.
    pub model: Option<String>,
    /// Appearance, L2-normalised.
    pub vector: Option<Vec<f32>>,
    /// Picture of the person as JPEG.
    pub crop: Option<Vec<u8>>,
    /// How good that picture is; more is better.
    pub crop_quality: Option<f64>,
    /// The identity that this one turned out to be.
    pub merged_into: Option<i64>,
}

/// A person without vector and picture, for lists.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PersonSummary {
    /// The identity.
    pub global_id: i64,
    /// The task whose identity it is.
    pub task_id: Uuid,
    /// That task's environment.
    pub environment_id: String,
    /// First seen.
    pub first_ms: i64,
    /// Last seen.
    pub last_ms: i64,
    /// Camera of the first sighting.
    pub first_camera: String,
    /// Camera of the last sighting.
    pub last_camera: String,
    /// Name of the network that made the vector.
    pub model: Option<String>,
    /// Whether there is a picture.
    pub has_crop: bool,
    /// The identity that this one turned out to be.
    pub merged_into: Option<i64>,
}

/// Where a handoff stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandoffState {
    /// The person is leaving, or left.
    Triggered,
    /// The person was seen at another camera.
    Completed,
    /// It came to nothing.
    Expired,
}

impl HandoffState {
    /// As stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Triggered => "triggered",
            Self::Completed => "completed",
            Self::Expired => "expired",
        }
    }
}

/// A handoff, or news of it: `None` leaves what is stored, and one that has ended stays so.
#[derive(Debug, Clone, PartialEq)]
pub struct HandoffRecord {
    /// The task.
    pub task_id: Uuid,
    /// Its number in the task.
    pub handoff_id: i64,
    /// Where it stands.
    pub state: HandoffState,
    /// The camera that is left.
    pub from_camera: String,
    /// The camera where the person was seen.
    pub to_camera: Option<String>,
    /// Cameras where the person may turn up, as JSON.
    pub candidates: Option<String>,
    /// The person's track in the camera that is left.
    pub track_id: Option<i64>,
    /// The person, if known.
    pub global_id: Option<i64>,
    /// When it began.
    pub triggered_ms: Option<i64>,
    /// When it was completed or expired.
    pub ended_ms: Option<i64>,
    /// How sure it is, 0..=1.
    pub confidence: Option<f64>,
    /// Why it came to nothing.
    pub reason: Option<String>,
}

/// A message of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRecord {
    /// The task.
    pub task_id: Uuid,
    /// Its number in the task.
    pub seq: i64,
    /// When.
    pub time_ms: i64,
    /// What kind, such as `handoff`.
    pub kind: String,
    /// The message as JSON.
    pub body: String,
    /// Everybody whom the message names: erased with any of them.
    pub global_ids: Vec<i64>,
}

/// What the writer takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// How far a task is.
    Progress(ProgressRecord),
    /// A track.
    Track(TrackRecord),
    /// A position: the only kind that is refused when the queue is full.
    Position(PositionRecord),
    /// A person.
    Person(PersonRecord),
    /// A handoff.
    Handoff(HandoffRecord),
    /// A message.
    Event(EventRecord),
}

/// A key of the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Its public part.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// Hash of its secret part.
    pub hash: String,
    /// When it was made.
    pub created_ms: i64,
    /// When it was revoked.
    pub revoked_ms: Option<i64>,
}

/// A request that must not be done twice, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Whose key it is, and of which operation.
    pub scope: String,
    /// The client's key.
    pub key: String,
    /// Hash of the request, to tell another one with the same key.
    pub request_hash: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// Body of the answer.
    pub response: String,
    /// When.
    pub created_ms: i64,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// Its items.
    pub items: Vec<T>,
    /// Where the next part begins; `None` at the end.
    pub next: Option<i64>,
}
