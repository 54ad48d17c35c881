//! Tasks as the store keeps them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Task, TaskDetails, TaskKind, TaskRequest};
use crate::service::messages::{CameraProgress, TaskStatus};
use crate::store::TaskRecord;

/// A stored task that this program cannot read.
#[derive(Debug, thiserror::Error)]
#[error("task {task_id} is stored with {field} `{value}`, which this program does not know")]
pub struct ForeignTask {
    task_id: uuid::Uuid,
    field: &'static str,
    value: String,
}

/// A task as it is now.
pub fn record(task: &Task) -> TaskRecord {
    record_as(task, task.details())
}

/// A task as `details` tell it.
pub fn record_as(task: &Task, details: TaskDetails) -> TaskRecord {
    TaskRecord {
        task_id: task.id,
        number: task.number,
        route: details.kind.name().to_string(),
        environment_id: details.environment_id,
        status: details.status.word(),
        progress: details.progress,
        current_step: details.current_step,
        cameras: text(&details.camera_processing),
        request: text(&details.request),
        error: details.error,
        created_ms: details.created_at.as_millisecond(),
        started_ms: details.started_at.map(Timestamp::as_millisecond),
        ended_ms: details.ended_at.map(Timestamp::as_millisecond),
        next_seq: task.reserved_seq(),
    }
}

/// What clients are told of a stored task.
///
/// # Errors
/// It holds something that this program does not know.
pub fn details(record: &TaskRecord) -> Result<TaskDetails, ForeignTask> {
    let foreign = |field, value: &str| ForeignTask {
        task_id: record.task_id,
        field,
        value: value.to_string(),
    };
    let kind = kind(&record.route).ok_or_else(|| foreign("route", &record.route))?;
    let status = status(&record.status).ok_or_else(|| foreign("status", &record.status))?;
    let cameras: BTreeMap<String, CameraProgress> =
        parsed(&record.cameras).ok_or_else(|| foreign("cameras", &record.cameras))?;
    let request: TaskRequest =
        parsed(&record.request).ok_or_else(|| foreign("request", &record.request))?;
    let time = |ms| Timestamp::from_millisecond(ms).ok();
    let created = time(record.created_ms)
        .ok_or_else(|| foreign("created_ms", &record.created_ms.to_string()))?;
    Ok(TaskDetails {
        task_id: record.task_id,
        kind,
        environment_id: record.environment_id.clone(),
        status,
        progress: record.progress,
        current_step: record.current_step.clone(),
        camera_processing: cameras,
        error: record.error.clone(),
        created_at: created,
        started_at: record.started_ms.and_then(time),
        ended_at: record.ended_ms.and_then(time),
        request,
        websocket_url: super::websocket_url(record.task_id),
        status_url: kind.status_url(record.task_id),
    })
}

/// A stored task that cannot go on, as it is to be stored.
pub fn failed(stored: TaskRecord, reason: &str) -> TaskRecord {
    let stopping = stored.status == TaskStatus::Stopping.word();
    let (status, error) = if stopping {
        (TaskStatus::Stopped, None)
    } else {
        (TaskStatus::Failed, Some(reason.to_string()))
    };
    TaskRecord {
        status: status.word(),
        current_step: reason.to_string(),
        error,
        ended_ms: Some(Timestamp::now().as_millisecond()),
        ..stored
    }
}

/// The kind whose routes have this name.
pub fn kind(route: &str) -> Option<TaskKind> {
    TaskKind::ALL.into_iter().find(|kind| kind.name() == route)
}

fn status(word: &str) -> Option<TaskStatus> {
    parsed(&format!("\"{word}\""))
}

fn parsed<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// As JSON. None of these types can fail: their maps have keys of text, their numbers are finite.
pub fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
