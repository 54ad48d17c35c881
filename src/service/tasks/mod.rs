//! Tasks: one is a run of the pipeline over an environment's cameras.
//!
//! [`Tasks`] starts them in the order in which they came, so many at a time; each has a thread of its
//! own. A [`Task`] is what others see of it: where it stands, how far it is, and how to stop it.

mod task;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use utoipa::ToSchema;
use uuid::Uuid;

use super::messages::TaskStatus;
use super::networks::ServiceNetworks;
use super::settings::ServiceSettings;
use crate::config::Environment;

pub use task::{Task, TaskDetails};

/// What a task does with its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// All of it, from detection to the map.
    Detection,
    /// The same, under the address that this one replaces.
    Processing,
    /// Frames alone, without detection.
    Raw,
}

impl TaskKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Detection, Self::Processing, Self::Raw];

    /// Its name in addresses of operations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detection => "detection",
            Self::Processing => "processing",
            Self::Raw => "raw",
        }
    }

    /// Where its routes are.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Detection => "/api/v1/detection-processing-tasks",
            Self::Processing => "/api/v1/processing-tasks",
            Self::Raw => "/api/v1/raw-processing-tasks",
        }
    }
}

/// What a client may say of a new task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskRequest {
    /// The environment.
    #[schema(example = "default")]
    pub environment_id: String,
    /// Only these of its cameras; all if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cameras: Vec<String>,
    /// Frames of each camera after which to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_frames: Option<u64>,
}

/// Why a task could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Too many wait already.
    #[error("{0} tasks wait already: try again when one has ended, or stop one")]
    QueueFull(usize),
    /// The service is being stopped.
    #[error("the service is being stopped")]
    ShuttingDown,
}

/// The tasks of this process.
#[derive(Debug)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    runner: work::Runner,
    max_running: usize,
    max_queued: usize,
}

#[derive(Debug, Default)]
struct State {
    /// All that are known, by ID, which rises with time.
    tasks: BTreeMap<Uuid, Arc<Task>>,
    queue: VecDeque<Arc<Task>>,
    running: usize,
    closed: bool,
}

impl Tasks {
    /// None yet.
    pub fn new(settings: &ServiceSettings, networks: Arc<ServiceNetworks>) -> Self {
        let inner = Inner {
            state: Mutex::default(),
            runner: work::Runner::new(settings.clone(), networks),
            max_running: settings.max_running,
            max_queued: settings.max_queued,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Puts a task into the queue, or at once to work. Its environment holds just the cameras that
    /// it is about.
    ///
    /// # Errors
    /// The queue is full, or the service is being stopped.
    pub fn start(
        &self,
        kind: TaskKind,
        request: TaskRequest,
        environment: Arc<Environment>,
    ) -> Result<Arc<Task>, StartError> {
        let mut state = self.inner.state();
        if state.closed {
            return Err(StartError::ShuttingDown);
        }
        if state.queue.len() >= self.inner.max_queued && state.running >= self.inner.max_running {
            return Err(StartError::QueueFull(state.queue.len()));
        }
        let task = Arc::new(Task::new(kind, request, environment));
        state.tasks.insert(task.id, task.clone());
        state.queue.push_back(task.clone());
        self.inner.clone().launch(&mut state);
        Ok(task)
    }

    /// One of them.
    pub fn get(&self, id: Uuid) -> Option<Arc<Task>> {
        self.inner.state().tasks.get(&id).cloned()
    }

    /// All of them, newest first.
    pub fn list(&self) -> Vec<Arc<Task>> {
        self.inner.state().tasks.values().rev().cloned().collect()
    }

    /// Tells a task to stop; one that has ended stays as it is.
    pub fn stop(&self, task: &Arc<Task>) {
        let mut state = self.inner.state();
        let waiting = state.queue.iter().position(|waiting| waiting.id == task.id);
        if let Some(place) = waiting {
            state.queue.remove(place);
            task.set_status(TaskStatus::Stopped, "Stopped before it began");
            return;
        }
        drop(state);
        task.stop();
    }

    /// Stops all of them and waits, within bounds, until they have ended.
    pub async fn shut_down(&self) {
        {
            let mut state = self.inner.state();
            state.closed = true;
            for task in std::mem::take(&mut state.queue) {
                task.set_status(TaskStatus::Stopped, "The service was stopped");
            }
            for task in state.tasks.values() {
                task.stop();
            }
        }
        for _ in 0..300 {
            if self.inner.state().running == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        warn!("tasks still run after 30 s");
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole, whatever panicked after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets to work whoever is next, as long as there is room.
    fn launch(self: Arc<Self>, state: &mut State) {
        while state.running < self.max_running {
            let Some(task) = state.queue.pop_front() else {
                return;
            };
            state.running += 1;
            let inner = self.clone();
            let name = format!("task-{}", task.id);
            let working = task.clone();
            let spawned = std::thread::Builder::new().name(name).spawn(move || {
                inner.runner.run(&working);
                info!(task_id = %working.id, status = ?working.status(), "task ended");
                let mut state = inner.state();
                state.running -= 1;
                inner.clone().launch(&mut state);
            });
            if let Err(error) = spawned {
                state.running -= 1;
                task.fail(&format!("no thread for it: {error}"));
            }
        }
    }
}
