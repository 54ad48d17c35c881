//! One task, as others see it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{TaskKind, TaskRequest};
use crate::config::Environment;
use crate::pipeline::Erasures;
use crate::service::live::{Hub, LiveSettings};
use crate::service::messages::{CameraProgress, StatusUpdate, TaskStatus};

/// Messages that a task may send between two times that it is stored: it is each second.
const SEQ_RESERVE: u64 = 100_000;

/// One task.
#[derive(Debug)]
pub struct Task {
    /// Its ID; of two the later one is greater.
    pub id: Uuid,
    /// Its number among all tasks ever, from 0: it decides the range of its global IDs.
    pub number: i64,
    /// What it does with its frames.
    pub kind: TaskKind,
    /// What was asked for.
    pub request: TaskRequest,
    /// Where: just the cameras that it is about.
    pub environment: Arc<Environment>,
    /// Its messages.
    pub hub: Arc<Hub>,
    /// People who are to be erased from it.
    pub erasures: Arc<Erasures>,
    /// Whether it goes on from a snapshot of an earlier process.
    pub resumed: bool,
    stop: AtomicBool,
    suspended: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
struct State {
    status: TaskStatus,
    current_step: String,
    error: Option<String>,
    progress: f64,
    cameras: BTreeMap<String, CameraProgress>,
    created: Timestamp,
    started: Option<Timestamp>,
    ended: Option<Timestamp>,
}

/// All that is known of a task.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TaskDetails {
    /// Its ID.
    pub task_id: Uuid,
    /// What it does with its frames.
    pub kind: TaskKind,
    /// Its environment.
    pub environment_id: String,
    /// Where it stands.
    pub status: TaskStatus,
    /// Percent of its frames that are done, 0..=100.
    pub progress: f64,
    /// What it does, for people.
    pub current_step: String,
    /// Its cameras by ID.
    pub camera_processing: BTreeMap<String, CameraProgress>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it began to work.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// What was asked for.
    pub request: TaskRequest,
    /// Where its messages are sent.
    pub websocket_url: String,
    /// Where its status is.
    pub status_url: String,
}

/// How a task ends.
#[derive(Debug)]
pub(super) enum End {
    /// All frames are done.
    Completed,
    /// Somebody stopped it.
    Stopped,
    /// Why it could not go on.
    Failed(String),
}

impl Task {
    /// A task that waits; `live` bounds what its sockets get.
    pub fn new(
        kind: TaskKind,
        number: i64,
        request: TaskRequest,
        environment: Arc<Environment>,
        live: &LiveSettings,
    ) -> Self {
        let id = Uuid::now_v7();
        let waiting = |camera: &crate::config::Camera| {
            let progress = CameraProgress {
                status: TaskStatus::Queued,
                frame: 0,
                error: None,
            };
            (camera.id.clone(), progress)
        };
        let state = State {
            status: TaskStatus::Queued,
            current_step: "Waiting for its turn".to_string(),
            error: None,
            progress: 0.0,
            cameras: environment.cameras.iter().map(waiting).collect(),
            created: now(),
            started: None,
            ended: None,
        };
        Self {
            id,
            number,
            kind,
            request,
            environment,
            hub: Arc::new(Hub::with_settings(id, 1, live.clone())),
            erasures: Arc::default(),
            resumed: false,
            stop: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// A task of an earlier process, which waits to go on; its messages go on above `first_seq`.
    pub(super) fn revived(
        known: TaskDetails,
        number: i64,
        first_seq: u64,
        environment: Arc<Environment>,
        live: &LiveSettings,
    ) -> Self {
        let mut task = Self::new(known.kind, number, known.request, environment, live);
        task.id = known.task_id;
        task.hub = Arc::new(Hub::with_settings(task.id, first_seq, live.clone()));
        task.resumed = true;
        {
            let mut state = task.state();
            state.created = known.created_at;
            // Frames' times count from it.
            state.started = known.started_at;
            state.progress = known.progress;
            state.current_step = "Waiting to go on".to_string();
        }
        task
    }

    /// A number that is above those of all messages that will be sent until it is stored anew.
    pub(super) fn reserved_seq(&self) -> i64 {
        let next = self.hub.next_seq().saturating_add(SEQ_RESERVE);
        i64::try_from(next).unwrap_or(i64::MAX)
    }

    /// Where it stands.
    pub fn status(&self) -> TaskStatus {
        self.state().status
    }

    /// All that is known of it.
    pub fn details(&self) -> TaskDetails {
        self.details_of(self.state().clone())
    }

    fn details_of(&self, state: State) -> TaskDetails {
        TaskDetails {
            task_id: self.id,
            kind: self.kind,
            environment_id: self.environment.id.clone(),
            status: state.status,
            progress: state.progress,
            current_step: state.current_step,
            camera_processing: state.cameras,
            error: state.error,
            created_at: state.created,
            started_at: state.started,
            ended_at: state.ended,
            request: self.request.clone(),
            websocket_url: super::websocket_url(self.id),
            status_url: self.kind.status_url(self.id),
        }
    }

    /// Its status, as sockets get it.
    pub fn status_update(&self) -> StatusUpdate {
        let state = self.state().clone();
        StatusUpdate {
            message_type: "status_update",
            task_id: self.id,
            timestamp: now(),
            status: state.status,
            progress: state.progress,
            current_step: state.current_step,
            camera_processing: state.cameras,
            seq: 0,
        }
    }

    /// Asks it to stop.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if !self.status().is_final() {
            self.set_status(TaskStatus::Stopping, "Stopping");
        }
    }

    /// Asks it to save its state and end, for a later process to go on.
    pub(super) fn suspend(&self) {
        self.suspended.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it is to go on in a later process, unless it was stopped for good.
    pub(super) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Relaxed) && self.status() != TaskStatus::Stopping
    }

    /// Raised when it is to stop.
    pub(super) fn stop_flag(&self) -> &AtomicBool {
        &self.stop
    }

    /// Notes where it stands, and says so; a task that has ended stays as it is.
    pub(super) fn set_status(&self, status: TaskStatus, step: &str) {
        {
            let mut state = self.state();
            if state.status.is_final() {
                return;
            }
            state.turn(status, step);
        }
        self.hub.status(&self.status_update());
        if status.is_final() {
            self.hub.close();
        }
    }

    /// Ends it: what it will be is handed to `store` before anybody is told, so that whoever sees its
    /// end finds it, and all results, after a crash too. A task that has ended stays as it is.
    pub(super) fn end(&self, end: End, store: impl FnOnce(TaskDetails)) {
        let mut state = self.state().clone();
        if state.status.is_final() {
            return;
        }
        match end {
            End::Completed => state.turn(TaskStatus::Completed, "All frames are done"),
            End::Stopped => state.turn(TaskStatus::Stopped, "Stopped"),
            End::Failed(error) => {
                state.turn(TaskStatus::Failed, &format!("Error: {error}"));
                state.error = Some(error);
            }
        }
        store(self.details_of(state.clone()));
        *self.state() = state;
        self.hub.status(&self.status_update());
        self.hub.close();
    }

    /// Notes how far it is.
    pub(super) fn advance(&self, progress: f64, step: String) {
        {
            let mut state = self.state();
            state.progress = progress;
            state.current_step = step;
        }
        self.hub.status(&self.status_update());
    }

    /// Notes how a camera does.
    pub(super) fn set_camera(&self, id: &str, progress: CameraProgress) {
        if let Some(camera) = self.state().cameras.get_mut(id) {
            *camera = progress;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole, whatever panicked after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&mut self, status: TaskStatus, step: &str) {
        self.status = status;
        self.current_step = step.to_string();
        if status != TaskStatus::Queued && self.started.is_none() {
            self.started = Some(now());
        }
        if status.is_final() {
            self.ended = Some(now());
        }
        if status == TaskStatus::Completed {
            // Also if frames were skipped.
            self.progress = 100.0;
        }
        for camera in self.cameras.values_mut() {
            if !camera.status.is_final() {
                camera.status = status;
            }
        }
    }
}

/// Now, in whole milliseconds, as the messages say it.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
