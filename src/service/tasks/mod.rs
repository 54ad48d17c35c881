//! Tasks: one is a run of the pipeline over an environment's cameras.
//!
//! [`Tasks`] starts them in the order in which they came, so many at a time; each has a thread of its
//! own. A [`Task`] is what others see of it: where it stands, how far it is, and how to stop it.

mod journal;
mod keep;
mod record;
mod task;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tracing::{info, warn};
use utoipa::ToSchema;
use uuid::Uuid;

use super::catalog::Catalog;
use super::messages::TaskStatus;
use super::networks::ServiceNetworks;
use super::settings::ServiceSettings;
use crate::config::Environment;
use crate::store::{
    Created, IdempotencyRecord, Page, Store, StoreError, TaskFilter, TaskRecord, global_ids,
};
use journal::Journal;

use task::End;
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

    /// Where a task's status is.
    pub fn status_url(self, id: Uuid) -> String {
        format!("{}/{id}/status", self.prefix())
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

/// Where a task's messages are sent.
pub fn websocket_url(id: Uuid) -> String {
    format!("/ws/detection-tracking/{id}")
}

/// What became of a wish for a task.
#[derive(Debug)]
pub enum Started {
    /// A new task.
    New(Arc<Task>),
    /// Its request was done before: what was answered then.
    Already(IdempotencyRecord),
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
    /// The task could not be stored, so it was not accepted.
    #[error("the task could not be stored: {0}")]
    Store(#[from] StoreError),
}

/// Why a person could not be erased from a task.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// It is busy with something else.
    #[error("task {0} has not got to erasing the person yet: try again")]
    Late(Uuid),
    /// A file cannot be read or written.
    #[error("the saved state of task {0} cannot be rewritten now: try again")]
    Snapshot(Uuid),
}

/// What the removal of an environment's tasks removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct CleanupReport {
    /// Tasks that ran or waited, and were stopped.
    pub stopped_tasks: u64,
    /// Tasks removed, with their messages.
    pub tasks: u64,
    /// People removed, with vectors and pictures.
    pub people: u64,
    /// Positions removed.
    pub positions: u64,
    /// Tracks removed.
    pub tracks: u64,
    /// Handoffs removed.
    pub handoffs: u64,
    /// Messages removed.
    pub events: u64,
    /// Files removed.
    pub files: u64,
}

/// The tasks: those of this process at hand, the others in the store.
pub struct Tasks {
    inner: Arc<Inner>,
    store: Store,
}

struct Inner {
    state: Mutex<State>,
    runner: work::Runner,
    max_running: usize,
    max_queued: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Those of this process, by ID, which rises with time.
    tasks: BTreeMap<Uuid, Arc<Task>>,
    queue: VecDeque<Arc<Task>>,
    /// Being stored, on the way into the queue.
    coming: usize,
    running: usize,
    closed: bool,
}

/// Ended tasks that are kept at hand with their latest messages; older ones are in the store alone.
const MAX_ENDED: usize = 64;

/// How long running tasks may take to save their state once the service is told to stop.
const LAST_WORK: Duration = Duration::from_secs(30);

impl Tasks {
    /// None yet. To be called within the runtime that the store works on.
    pub fn new(settings: &ServiceSettings, networks: Arc<ServiceNetworks>, store: Store) -> Self {
        let journal = Journal::new(store.clone(), Handle::current());
        let inner = Inner {
            state: Mutex::default(),
            runner: work::Runner::new(settings.clone(), networks, journal),
            max_running: settings.max_running,
            max_queued: settings.max_queued,
        };
        Self {
            inner: Arc::new(inner),
            store,
        }
    }

    /// Goes on with what an earlier process left: its tasks are resumed from their snapshots where
    /// their sources can be read again, and marked as failed where not.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn recover(&self, catalog: &Catalog) -> Result<(), StoreError> {
        let unfinished = self.store.unfinished_tasks().await?;
        let ids = unfinished.iter().map(|task| task.task_id).collect();
        self.inner.runner.remove_leftovers(&ids);
        for stored in unfinished {
            let task = match self.inner.runner.revive(&stored, catalog) {
                Ok(task) => Arc::new(task),
                Err(reason) => {
                    warn!(task_id = %stored.task_id, "{reason}");
                    let ended = record::failed(stored, &reason);
                    self.store.update_task(&ended).await?;
                    self.inner.runner.remove_files(ended.task_id);
                    continue;
                }
            };
            info!(task_id = %task.id, "resuming");
            let mut state = self.inner.state();
            state.tasks.insert(task.id, task.clone());
            state.queue.push_back(task);
            self.inner.clone().launch(&mut state);
        }
        Ok(())
    }

    /// Puts a task into the queue, or at once to work. Its environment holds just the cameras that
    /// it is about. It is in the store when this returns, and with it what `note` says of its
    /// request, if that is not to be done twice.
    ///
    /// # Errors
    /// The queue is full, the service is being stopped, or the task could not be stored.
    pub async fn start(
        &self,
        kind: TaskKind,
        request: TaskRequest,
        environment: Arc<Environment>,
        note: impl FnOnce(&Task) -> Option<IdempotencyRecord>,
    ) -> Result<Started, StartError> {
        let place = self.inner.clone().reserve()?;
        let number = self.store.next_task_number().await?;
        let live = self.inner.runner.live();
        let task = Arc::new(Task::new(kind, number, request, environment, live));
        let (record, once) = (record::record(&task), note(&task));
        match self.store.create_task(&record, once.as_ref()).await? {
            Created::New => {}
            Created::Already(before) => return Ok(Started::Already(before)),
        }
        place.take(&task);
        Ok(Started::New(task))
    }

    /// One of this process.
    pub fn get(&self, id: Uuid) -> Option<Arc<Task>> {
        self.inner.state().tasks.get(&id).cloned()
    }

    /// Those of this process, newest first.
    pub fn at_hand(&self) -> Vec<Arc<Task>> {
        self.inner.state().tasks.values().rev().cloned().collect()
    }

    /// All that is known of a task, of whatever process.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn details(&self, id: Uuid) -> Result<Option<TaskDetails>, StoreError> {
        if let Some(task) = self.get(id) {
            return Ok(Some(task.details()));
        }
        Ok(self
            .store
            .task(id)
            .await?
            .and_then(|stored| readable(&stored)))
    }

    /// A page of tasks, newest first, of whatever process.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn list(&self, wanted: &TaskFilter) -> Result<Page<TaskDetails>, StoreError> {
        let stored = self.store.tasks(wanted).await?;
        let mut items = Vec::with_capacity(stored.items.len());
        for record in &stored.items {
            // What runs is known better than it is stored.
            match self.get(record.task_id) {
                Some(task) => items.push(task.details()),
                None => items.extend(readable(record)),
            }
        }
        Ok(Page {
            items,
            next: stored.next,
        })
    }

    /// Tells a task to stop; one that has ended stays as it is.
    ///
    /// # Errors
    /// That cannot be stored.
    pub async fn stop(&self, task: &Arc<Task>) -> Result<(), StoreError> {
        if self.inner.dequeue(task) {
            task.set_status(TaskStatus::Stopped, "Stopped before it began");
        } else {
            task.stop();
        }
        self.store.update_task(&record::record(task)).await?;
        Ok(())
    }

    /// Stops an environment's tasks, waits for them within bounds, and removes all that they left.
    ///
    /// # Errors
    /// The store cannot be changed.
    pub async fn clean_up(&self, environment_id: &str) -> Result<CleanupReport, StoreError> {
        let mine = |task: &&Arc<Task>| task.environment.id == environment_id;
        let tasks: Vec<Arc<Task>> = self.at_hand().iter().filter(mine).cloned().collect();
        let mut report = CleanupReport::default();
        for task in tasks.iter().filter(|task| !task.status().is_final()) {
            self.stop(task).await?;
            report.stopped_tasks += 1;
        }
        wait_for(LAST_WORK, || {
            tasks.iter().all(|task| task.status().is_final())
        })
        .await;
        let ids = self.ids_of(environment_id).await?;
        let removed = self.store.erase_environment(environment_id).await?;
        report.tasks = removed.tasks;
        report.people = removed.people;
        report.positions = removed.positions;
        report.tracks = removed.tracks;
        report.handoffs = removed.handoffs;
        report.events = removed.events;
        for id in ids {
            report.files += self.inner.runner.remove_files(id);
        }
        let mut state = self.inner.state();
        for task in tasks {
            state.tasks.remove(&task.id);
        }
        Ok(report)
    }

    /// Erases people from tasks that may know them: their memory, their snapshots and their latest
    /// messages; from how many. `owner` is the task that saw them, which may have ended long ago.
    ///
    /// # Errors
    /// A task does not get to it in time, or a snapshot cannot be rewritten.
    pub async fn forget(&self, ids: &[i64], owner: Option<Uuid>) -> Result<u64, ForgetError> {
        let mut tasks = 0;
        for task in self.at_hand() {
            let range = global_ids(task.number);
            let mine: Vec<u64> = ids
                .iter()
                .filter(|id| range.contains(id))
                .filter_map(|id| u64::try_from(*id).ok())
                .collect();
            if mine.is_empty() {
                continue;
            }
            if !task.status().is_final() {
                let (inner, working) = (self.inner.clone(), task.clone());
                let work = move || inner.runner.forget(&working, &mine);
                let done = tokio::task::spawn_blocking(work).await;
                done.map_err(|_| ForgetError::Late(task.id))??;
            }
            task.hub.forget();
            tasks += 1;
        }
        if let Some(id) = owner.filter(|id| self.get(*id).is_none()) {
            // Nobody goes on from what it left.
            self.inner.runner.remove_files(id);
        }
        Ok(tasks)
    }

    /// Tasks of an environment, of whatever process.
    async fn ids_of(&self, environment_id: &str) -> Result<Vec<Uuid>, StoreError> {
        let mut ids = Vec::new();
        let mut filter = TaskFilter {
            environment_id: Some(environment_id.to_string()),
            limit: 1000,
            ..TaskFilter::default()
        };
        loop {
            let page = self.store.tasks(&filter).await?;
            ids.extend(page.items.iter().map(|task| task.task_id));
            if page.next.is_none() {
                return Ok(ids);
            }
            filter.cursor = page.next;
        }
    }

    /// Stops all of them with a snapshot, and waits within bounds until they have ended: those that
    /// can be resumed are when the service starts again.
    pub async fn shut_down(&self) {
        {
            let mut state = self.inner.state();
            state.closed = true;
            state.queue.clear();
            for task in state.tasks.values() {
                task.suspend();
            }
        }
        let ended = wait_for(LAST_WORK, || self.inner.state().running == 0).await;
        if !ended {
            warn!("tasks still run after {} s", LAST_WORK.as_secs());
        }
    }
}

/// A stored task, unless this program cannot read it.
fn readable(stored: &TaskRecord) -> Option<TaskDetails> {
    match record::details(stored) {
        Ok(details) => Some(details),
        Err(foreign) => {
            warn!("{foreign}");
            None
        }
    }
}

/// Waits until something is so; false when it was not within `limit`.
async fn wait_for(limit: Duration, so: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !so() {
        if started.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// A place in the queue, given back if nobody takes it.
struct Place {
    inner: Arc<Inner>,
}

impl Place {
    fn take(self, task: &Arc<Task>) {
        let mut state = self.inner.state();
        state.tasks.insert(task.id, task.clone());
        if state.closed {
            // It is stored: it begins when the service starts again.
            return;
        }
        state.queue.push_back(task.clone());
        self.inner.clone().launch(&mut state);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.state().coming -= 1;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole, whatever panicked after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(self: Arc<Self>) -> Result<Place, StartError> {
        let mut state = self.state();
        if state.closed {
            return Err(StartError::ShuttingDown);
        }
        let waiting = state.queue.len() + state.coming;
        if waiting + state.running >= self.max_queued + self.max_running {
            return Err(StartError::QueueFull(waiting));
        }
        state.coming += 1;
        drop(state);
        Ok(Place { inner: self })
    }

    /// Takes a task out of the queue; false if it is not in it.
    fn dequeue(&self, task: &Task) -> bool {
        let mut state = self.state();
        let place = state.queue.iter().position(|waiting| waiting.id == task.id);
        place.and_then(|place| state.queue.remove(place)).is_some()
    }

    /// Sets to work whoever is next, as long as there is room.
    fn launch(self: Arc<Self>, state: &mut State) {
        while state.running < self.max_running && !state.closed {
            let Some(task) = state.queue.pop_front() else {
                return;
            };
            state.running += 1;
            let inner = self.clone();
            let name = format!("task-{}", task.number);
            let working = task.clone();
            let spawned = std::thread::Builder::new().name(name).spawn(move || {
                inner.runner.run(&working);
                info!(task_id = %working.id, status = ?working.status(), "task ended");
                let mut state = inner.state();
                state.running -= 1;
                state.forget_oldest();
                inner.clone().launch(&mut state);
            });
            if let Err(error) = spawned {
                state.running -= 1;
                // It stays in the store as it was, to be tried by the next process.
                task.end(End::Failed(format!("no thread for it: {error}")), drop);
            }
        }
    }
}

impl State {
    /// Ended tasks beyond [`MAX_ENDED`] are in the store alone.
    fn forget_oldest(&mut self) {
        let ended: Vec<Uuid> = self
            .tasks
            .values()
            .filter(|task| task.status().is_final())
            .map(|task| task.id)
            .collect();
        for id in ended.iter().take(ended.len().saturating_sub(MAX_ENDED)) {
            self.tasks.remove(id);
        }
    }
}
