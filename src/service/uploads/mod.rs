//! Uploads: a video comes in, is tracked as `mtmc track` does it, and its results stay for a while.
//!
//! Whoever uploads needs a [`Permit`] from the first byte to the end of the work, so that memory, disk
//! and processors have a bound; beyond it an upload is refused. An upload that was accepted has a
//! [`Record`] on disk: it outlives its client and a crash of the service, and is begun anew then.

mod bounded;
mod name;
mod ranges;
mod receive;
mod record;
mod retention;
mod settings;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::{info, warn};
use uuid::Uuid;

use super::idempotency::{Claim, Idempotency, Key, Pending};
use super::messages::TaskStatus;
use super::networks::ServiceNetworks;
use super::problem::Problem;
use super::settings::ServiceSettings;
use record::KeyRecord;
use work::{Job, Outcome};

pub use name::{disposition, shown_name};
pub use ranges::Asked;
pub use receive::{Received, disk_problem, receive};
pub use record::{Failure, InferenceResponse, OUTPUTS, OutputKind, Record, output_url};
pub use settings::UploadSettings;

/// What messages call a stranger's file.
const SHOWN_PATH: &str = "the file";

/// Work on an upload is begun so often before the upload is taken for what ends the service.
const MAX_ATTEMPTS: u32 = 2;

/// Time between two looks for results that are too old.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The right to one upload, from its first byte to the end of the work on it.
#[derive(Debug)]
pub struct Permit(#[allow(dead_code, reason = "held, not looked at")] OwnedSemaphorePermit);

/// How the work on an upload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Not,
    /// Its record says how.
    Done,
    /// The service is being stopped; the next one goes on.
    Suspended,
}

/// One upload.
#[derive(Debug)]
pub struct Inference {
    /// Its ID.
    pub id: Uuid,
    record: Mutex<Record>,
    progress: Mutex<Progress>,
    stop: AtomicBool,
    /// Whether it is to be forgotten.
    removed: AtomicBool,
    end: watch::Sender<End>,
}

/// How far the work is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames that are done.
    pub frames: u64,
    /// Frames in all, as far as the file tells.
    pub total: Option<u64>,
}

impl Inference {
    fn new(record: Record) -> Self {
        let end = match record.status.is_final() {
            true => End::Done,
            false => End::Not,
        };
        Self {
            id: record.id,
            record: Mutex::new(record),
            progress: Mutex::default(),
            stop: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            end: watch::Sender::new(end),
        }
    }

    /// All that is known of it.
    pub fn record(&self) -> Record {
        lock(&self.record).clone()
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        *lock(&self.progress)
    }

    /// Waits for its end.
    pub async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        match end.wait_for(|end| *end != End::Not).await {
            Ok(end) => *end,
            Err(_) => End::Suspended,
        }
    }

    /// What the client gets who waited for it.
    pub fn response(&self) -> Response {
        let record = self.record();
        match (record.result, record.failure) {
            (Some(result), _) => axum::Json(result).into_response(),
            (None, Some(failure)) => failure.problem().into_response(),
            (None, None) => {
                let detail = format!(
                    "the service is being stopped; the result will be at {}",
                    status_url(self.id)
                );
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting-down", detail)
                    .retry_after(30)
                    .into_response()
            }
        }
    }
}

/// Where the status of an upload is.
pub fn status_url(id: Uuid) -> String {
    format!("/api/inference/video/{id}")
}

/// No room is left on the disk.
fn no_room() -> Failure {
    Failure::new(
        StatusCode::INSUFFICIENT_STORAGE,
        "insufficient-storage",
        "the service's disk is full: try again later",
    )
}

/// `true`, `false`, and what people write for them.
fn parse_flag(text: &str) -> Result<bool, &'static str> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be true or false"),
    }
}

/// A flag of the address or of a form.
///
/// # Errors
/// Says what it is called and what it may be.
pub fn flag(name: &str, text: Option<&str>) -> Result<Option<bool>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let value = parse_flag(text);
    value
        .map(Some)
        .map_err(|reason| Problem::invalid(format!("{name} = `{}`: {reason}", shown_name(text))))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is whole, whatever panicked after it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All uploads of this service.
#[derive(Clone)]
pub struct Uploads {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ServiceSettings,
    networks: Arc<ServiceNetworks>,
    keys: Idempotency,
    known: Mutex<BTreeMap<Uuid, Arc<Inference>>>,
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    closed: AtomicBool,
}

impl Uploads {
    /// What an earlier service left: results, and uploads that it had accepted. Whatever it was in
    /// the middle of receiving goes.
    ///
    /// # Errors
    /// The folders cannot be made or read.
    pub fn new(
        settings: &ServiceSettings,
        networks: Arc<ServiceNetworks>,
        keys: Idempotency,
    ) -> anyhow::Result<Self> {
        let bounds = &settings.uploads;
        let inner = Inner {
            settings: settings.clone(),
            networks,
            keys,
            known: Mutex::default(),
            admitted: Arc::new(Semaphore::new(bounds.max_running + bounds.max_waiting)),
            running: Arc::new(Semaphore::new(bounds.max_running)),
            closed: AtomicBool::new(false),
        };
        for folder in [inner.folder(), inner.outputs()] {
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        inner.load()?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Goes on with what was accepted, and looks now and then for results that are too old. Within
    /// the service's runtime.
    pub fn start(&self) {
        let waiting: Vec<Arc<Inference>> = lock(&self.inner.known)
            .values()
            .filter(|inference| !inference.record().status.is_final())
            .cloned()
            .collect();
        for inference in waiting {
            info!(inference_id = %inference.id, "goes on with an upload");
            let inner = self.inner.clone();
            tokio::spawn(async move {
                let pending = inner.claim_again(&inference).await;
                inner.work(inference, pending, None).await;
            });
        }
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                let Some(inner) = inner.upgrade() else { return };
                let swept = tokio::task::spawn_blocking(move || inner.sweep()).await;
                if let Err(error) = swept {
                    warn!(%error, "could not look for old results");
                }
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        });
    }

    /// Lets one more upload in.
    ///
    /// # Errors
    /// There are too many, there is no detector, or the service is being stopped.
    pub fn admit(&self) -> Result<Permit, Problem> {
        if self.inner.closed.load(Ordering::Relaxed) {
            let detail = "the service is being stopped";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting-down", detail);
            return Err(problem.retry_after(30));
        }
        if self.inner.networks.detector.is_none() {
            let detail = "the service has no detector: start it with --weights";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Problem::new(status, "no-detector", detail));
        }
        let permit = self.inner.admitted.clone().try_acquire_owned();
        permit.map(Permit).map_err(|_| {
            let bounds = &self.inner.settings.uploads;
            let detail = format!(
                "{} uploads are being worked on or wait already",
                bounds.max_running + bounds.max_waiting
            );
            let status = StatusCode::TOO_MANY_REQUESTS;
            Problem::new(status, "too-many-uploads", detail).retry_after(10)
        })
    }

    /// Folder of files that come in.
    pub fn folder(&self) -> PathBuf {
        self.inner.folder()
    }

    /// Accepts a file that has arrived, after a look into it, and puts it to work. `pending` is the
    /// key of a client that waits for the end.
    ///
    /// # Errors
    /// The file is not what it seems, or there is no room for it.
    pub async fn begin(
        &self,
        received: Received,
        visualize: bool,
        pending: Option<(Pending, String)>,
        permit: Permit,
    ) -> Result<Arc<Inference>, Problem> {
        let key = pending.as_ref().map(|(pending, request)| KeyRecord {
            scope: pending.key().scope.clone(),
            key: pending.key().key.clone(),
            request: request.clone(),
        });
        let inner = self.inner.clone();
        let accepted =
            tokio::task::spawn_blocking(move || inner.accept(received, visualize, key)).await;
        let inference = accepted.map_err(|error| Problem::internal(&error))??;
        let pending = pending.map(|(pending, _)| pending);
        let work = self
            .inner
            .clone()
            .work(inference.clone(), pending, Some(permit));
        tokio::spawn(work);
        Ok(inference)
    }

    /// One of them.
    pub fn get(&self, id: Uuid) -> Option<Arc<Inference>> {
        lock(&self.inner.known).get(&id).cloned()
    }

    /// All of them, newest first.
    pub fn list(&self) -> Vec<Arc<Inference>> {
        lock(&self.inner.known).values().rev().cloned().collect()
    }

    /// Where a file of a result lies; `None` if there is no such result or file.
    pub fn output(&self, id: Uuid, name: &str) -> Option<(PathBuf, OutputKind)> {
        let kind = OUTPUTS.into_iter().find(|kind| kind.name == name)?;
        let inference = self.get(id)?;
        let url = output_url(id, kind.name);
        let result = inference.record().result?;
        if !result.outputs.contains(&url) {
            return None;
        }
        Some((self.inner.out(id).join(kind.name), kind))
    }

    /// Forgets an upload with all its files; one that is worked on is stopped first. False if there
    /// is none.
    pub fn remove(&self, id: Uuid) -> bool {
        let Some(inference) = lock(&self.inner.known).remove(&id) else {
            return false;
        };
        inference.removed.store(true, Ordering::SeqCst);
        inference.stop.store(true, Ordering::SeqCst);
        // Whoever works on it removes its files; here only those that nobody works on.
        if *inference.end.borrow() != End::Not {
            self.inner.remove_files(&inference);
        }
        true
    }

    /// Stops all work and waits, within bounds, until it has ended; the next service goes on.
    pub async fn shut_down(&self) {
        self.inner.closed.store(true, Ordering::SeqCst);
        for inference in lock(&self.inner.known).values() {
            inference.stop.store(true, Ordering::SeqCst);
        }
        let all = self.inner.settings.uploads.max_running as u32;
        let ended = tokio::time::timeout(
            Duration::from_secs(30),
            self.inner.running.acquire_many(all),
        );
        if ended.await.is_err() {
            warn!("uploads are still worked on after 30 s");
        }
    }
}

impl Inner {
    fn folder(&self) -> PathBuf {
        self.settings.data_dir.join("uploads")
    }

    fn outputs(&self) -> PathBuf {
        self.settings.data_dir.join("outputs")
    }

    /// Folder of an upload's results.
    fn out(&self, id: Uuid) -> PathBuf {
        self.outputs().join(id.to_string())
    }

    /// Looks into a file and notes it; from here on it outlives a crash.
    fn accept(
        &self,
        mut received: Received,
        visualize: bool,
        key: Option<KeyRecord>,
    ) -> Result<Arc<Inference>, Problem> {
        let record = Record {
            id: received.id,
            file_name: received.file_name.clone(),
            bytes: received.bytes,
            container: received.container,
            visualize,
            status: TaskStatus::Queued,
            created_at: Timestamp::now(),
            ended_at: None,
            attempts: 0,
            output_bytes: 0,
            result: None,
            failure: None,
            key,
        };
        let path = self.folder().join(record.stored_name());
        let failed = |error: std::io::Error| disk_problem(&error);
        received.file.rename(&path).map_err(failed)?;
        let opened = work::open(&path, record.container, &self.settings);
        drop(opened.map_err(|failure| failure.problem())?);
        let out = self.out(record.id);
        std::fs::create_dir(&out).map_err(failed)?;
        if let Err(error) = record.save(&out) {
            let _ = std::fs::remove_dir_all(&out);
            return Err(Problem::internal(&error));
        }
        received.file.keep(&path).map_err(failed)?;
        let inference = Arc::new(Inference::new(record));
        lock(&self.known).insert(inference.id, inference.clone());
        Ok(inference)
    }

    /// The key of a request whose client waited when an earlier service ended: it will ask again.
    async fn claim_again(&self, inference: &Inference) -> Option<Pending> {
        let KeyRecord { scope, key, .. } = inference.record().key?;
        match self.keys.claim(Key { scope, key }).await {
            Ok(Claim::Fresh(pending)) => Some(pending),
            _ => None,
        }
    }

    /// Waits for its turn and works on an upload. Never ends early: whoever asked may be gone.
    async fn work(
        self: Arc<Self>,
        inference: Arc<Inference>,
        pending: Option<Pending>,
        permit: Option<Permit>,
    ) {
        let Ok(turn) = self.running.clone().acquire_owned().await else {
            return;
        };
        let working = inference.clone();
        let inner = self.clone();
        let worked = tokio::task::spawn_blocking(move || inner.run(&working)).await;
        let end = worked.unwrap_or_else(|error| {
            self.finish(&inference, Outcome::Failed(Failure::internal(&error)))
        });
        if let Some(pending) = pending {
            let request = inference.record().key.map(|key| key.request);
            if let (End::Done, Some(request)) = (end, request) {
                pending.settle(&request, inference.response()).await;
            }
        }
        inference.end.send_replace(end);
        if inference.removed.load(Ordering::SeqCst) {
            self.remove_files(&inference);
        }
        drop((turn, permit));
    }

    fn run(&self, inference: &Inference) -> End {
        if inference.stop.load(Ordering::SeqCst) {
            return self.finish(inference, Outcome::Stopped);
        }
        let out = self.out(inference.id);
        let record = {
            let mut record = lock(&inference.record);
            record.status = TaskStatus::Processing;
            record.attempts += 1;
            record.clone()
        };
        if let Err(error) = record.save(&out) {
            return self.finish(inference, Outcome::Failed(Failure::internal(&error)));
        }
        let file = self.folder().join(record.stored_name());
        let progress = |frames, total| *lock(&inference.progress) = Progress { frames, total };
        let job = Job {
            settings: &self.settings,
            networks: &self.networks,
            id: record.id,
            file: &file,
            container: record.container,
            visualize: record.visualize,
            out: &out,
            stop: &inference.stop,
            progress: &progress,
        };
        self.finish(inference, job.run())
    }

    /// Notes what came of an upload, and removes what is not needed any more.
    fn finish(&self, inference: &Inference, outcome: Outcome) -> End {
        let out = self.out(inference.id);
        let stopped = matches!(outcome, Outcome::Stopped);
        if stopped && !inference.removed.load(Ordering::SeqCst) {
            // The file stays: the next service begins anew.
            return End::Suspended;
        }
        let record = {
            let mut record = lock(&inference.record);
            record.ended_at = Some(Timestamp::now());
            match outcome {
                Outcome::Done(result) => {
                    record.status = TaskStatus::Completed;
                    record.output_bytes = record::outputs_of(record.id, &out).0;
                    record.result = Some(*result);
                }
                Outcome::Failed(failure) => {
                    record.status = TaskStatus::Failed;
                    record.failure = Some(failure);
                }
                Outcome::Stopped => record.status = TaskStatus::Stopped,
            }
            record.clone()
        };
        info!(
            inference_id = %record.id, status = ?record.status, bytes = record.bytes,
            "upload ended"
        );
        if record.status != TaskStatus::Completed {
            empty(&out);
        }
        if let Err(error) = record.save(&out) {
            warn!(inference_id = %record.id, %error, "cannot note how an upload ended");
        }
        let _ = std::fs::remove_file(self.folder().join(record.stored_name()));
        End::Done
    }

    fn remove_files(&self, inference: &Inference) {
        let file = self.folder().join(inference.record().stored_name());
        let _ = std::fs::remove_file(file);
        if let Err(error) = std::fs::remove_dir_all(self.out(inference.id)) {
            warn!(inference_id = %inference.id, %error, "cannot remove results");
        }
    }
}

/// Removes the files of a folder.
fn empty(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
}
