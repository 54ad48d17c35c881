//! A task at work: its cameras opened, the pipeline run, its end told and stored.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mtmc_models::{DetectOptions, Detector};
use tracing::{info_span, warn};
use uuid::Uuid;

use super::journal::Journal;
use super::keep::{KeepFrames, KeepWorld, Origin};
use super::task::{End, Task};
use super::{ForgetError, TaskKind, record};
use crate::pipeline::{
    self, BuiltWorld, Camera, CameraSnapshot, CameraState, Control, Erasing, Fingerprint, Networks,
    Options, PipelineMetrics, Shared, Snapshots, Summary, SyncMode, World, forget_saved,
};
use crate::service::catalog::Catalog;
use crate::service::live::{CameraFacts, Feed, LiveSettings, patience};
use crate::service::messages::{CameraProgress, TaskStatus, moment};
use crate::service::networks::{NoDetector, ServiceNetworks};
use crate::service::settings::ServiceSettings;
use crate::sink::Sink;
use crate::source::{self, Backoff, FrameSource, OpenOptions, Reopen, VideoDecoder};
use crate::store::{TaskRecord, global_ids};

/// Time between two times that a task's progress is stored, in milliseconds.
const STORE_EVERY_MS: i64 = 1_000;

/// How long a running task may take to erase a person: a batch or two, and a snapshot.
const FORGET_WITHIN: Duration = Duration::from_secs(20);

/// Runs tasks.
pub struct Runner {
    settings: ServiceSettings,
    networks: Arc<ServiceNetworks>,
    journal: Arc<Journal>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

/// A camera's source, opened.
struct Opened {
    source: Box<dyn FrameSource>,
    reopen: Option<Reopen>,
}

impl Runner {
    /// With these networks.
    pub fn new(
        settings: ServiceSettings,
        networks: Arc<ServiceNetworks>,
        journal: Journal,
    ) -> Self {
        Self {
            settings,
            networks,
            journal: Arc::new(journal),
        }
    }

    /// Bounds of what tasks' sockets get.
    pub fn live(&self) -> &LiveSettings {
        &self.settings.live
    }

    /// Runs a task to its end; whatever happens, it has a final status then, unless it is to go on
    /// in a later process.
    pub fn run(&self, task: &Arc<Task>) {
        let environment_id = task.environment.id.as_str();
        let _span = info_span!("task", task_id = %task.id, environment_id).entered();
        let work = std::panic::AssertUnwindSafe(|| self.work(task));
        let end = match std::panic::catch_unwind(work) {
            Ok(Ok(End::Stopped)) if task.is_suspended() => {
                task.set_status(TaskStatus::Queued, "Goes on when the service starts again");
                task.hub.suspend();
                self.journal.put(task);
                return;
            }
            Ok(Ok(end)) => end,
            Ok(Err(error)) => End::Failed(format!("{error:#}")),
            Err(_) => End::Failed("internal error; the service's log says more".to_string()),
        };
        task.end(end, |details| self.journal.put_as(task, details));
        self.remove_files(task.id);
    }

    /// A task of an earlier process, ready to go on.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn revive(&self, stored: &TaskRecord, catalog: &Catalog) -> Result<Task, String> {
        if stored.status == TaskStatus::Stopping.word() {
            return Err("Stopped".to_string());
        }
        let known = record::details(stored).map_err(|foreign| foreign.to_string())?;
        let id = &known.environment_id;
        let Some(environment) = catalog.get(id) else {
            return Err(format!(
                "the service ended, and there is no environment `{id}` any more"
            ));
        };
        let environment = environment.only(&known.request.cameras).map_err(|camera| {
            format!("the service ended, and `{id}` has no camera `{camera}` any more")
        })?;
        let sources = environment
            .cameras
            .iter()
            .filter_map(|camera| camera.source.as_deref());
        if let Some(live) = sources.into_iter().find(|spec| source::is_live(spec)) {
            let scheme = live.split("://").next().unwrap_or_default();
            return Err(format!(
                "the service ended, and a live source ({scheme}) cannot be read again: start the \
                 task anew"
            ));
        }
        let first_seq = u64::try_from(stored.next_seq).unwrap_or(1).max(1);
        Ok(Task::revived(
            known,
            stored.number,
            first_seq,
            Arc::new(environment),
            &self.settings.live,
        ))
    }

    /// Erases people from a task that has not ended, also from its snapshots. To be called where one
    /// may block.
    ///
    /// # Errors
    /// It does not get to it in time, or its snapshots cannot be rewritten.
    pub fn forget(&self, task: &Task, ids: &[u64]) -> Result<(), ForgetError> {
        match task.erasures.erase(ids, FORGET_WITHIN) {
            Erasing::Done => return Ok(()),
            Erasing::Late => return Err(ForgetError::Late(task.id)),
            Erasing::Idle => {}
        }
        let folder = self.folder(task.id);
        let rewritten = task.erasures.while_idle(|| forget_saved(&folder, ids));
        match rewritten {
            Some(Ok(_)) => Ok(()),
            // It ended just now, and its folder with it.
            Some(Err(_)) if !folder.exists() => Ok(()),
            Some(Err(error)) => {
                warn!(task_id = %task.id, %error, "a person could not be erased from a snapshot");
                Err(ForgetError::Snapshot(task.id))
            }
            // It began just now, and goes on from what was not rewritten.
            None => match task.erasures.erase(&[], FORGET_WITHIN) {
                Erasing::Done => Ok(()),
                _ => Err(ForgetError::Late(task.id)),
            },
        }
    }

    /// Removes what a task keeps while it runs; how many files there were.
    pub fn remove_files(&self, id: Uuid) -> u64 {
        let folder = self.folder(id);
        let files = match std::fs::read_dir(&folder) {
            Ok(entries) => entries.count() as u64,
            Err(_) => return 0,
        };
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            warn!(task_id = %id, %error, "the task's folder could not be removed");
        }
        files
    }

    /// Removes what tasks left that ended just before the service did; `unfinished` ones keep theirs.
    pub fn remove_leftovers(&self, unfinished: &BTreeSet<Uuid>) {
        let Ok(entries) = std::fs::read_dir(self.settings.data_dir.join("tasks")) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| Uuid::parse_str(name).ok());
            if let Some(id) = id
                && !unfinished.contains(&id)
            {
                self.remove_files(id);
            }
        }
    }

    /// Folder of what a task keeps while it runs.
    fn folder(&self, id: Uuid) -> PathBuf {
        self.settings.data_dir.join("tasks").join(id.to_string())
    }

    fn work(&self, task: &Arc<Task>) -> anyhow::Result<End> {
        task.set_status(TaskStatus::Initializing, "Making ready");
        self.journal.put(task);
        let folder = self.folder(task.id);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let detector: &dyn Detector = match (task.kind, &self.networks.detector) {
            (TaskKind::Raw, _) => &NoDetector,
            (_, Some(detector)) => detector,
            (_, None) => bail!("the service has no detector: start it with --weights"),
        };
        task.set_status(TaskStatus::Downloading, "Opening the sources");
        let sources = info_span!("sources").in_scope(|| self.open_sources(task))?;
        let total = total_frames(&sources, task.request.max_frames);
        let options = self.options(task, &sources);
        let sizes: Vec<[f64; 2]> = sources
            .iter()
            .map(|opened| size(opened.source.as_ref()))
            .collect();
        let mut built = World::of_environment(&task.environment, &sizes)?;
        for warning in &built.warnings {
            warn!(task_id = %task.id, "{warning}");
        }
        built.world.begin_ids_at(first_id(task.number));
        let snapshots = self.snapshots(task, &options)?;
        let feed = self.feed(task);
        let origin = self.origin(task);
        let cameras = self.cameras(task, sources, detector, &built, &feed, &origin)?;
        let names = task
            .environment
            .cameras
            .iter()
            .map(|camera| camera.id.clone());
        let kept = KeepWorld::new(origin, self.journal.clone(), names.collect());
        let shared = Shared {
            world: built.world,
            sinks: vec![feed.world_sink(), Box::new(kept)],
        };
        let networks = Networks {
            detector,
            embedder: self.networks.embedder(),
        };
        task.set_status(TaskStatus::Processing, "Running detection");
        self.journal.put(task);
        let metrics = Arc::new(PipelineMetrics::new(
            cameras.iter().map(|camera| camera.name.as_str()),
        ));
        let runs = &self.settings.watch.metrics.runs;
        let _counted = runs.begin(&task.environment.id, metrics.clone());
        let stored_ms = AtomicI64::new(0);
        let progress = |frames: u64| {
            note_cameras(task, &metrics);
            note_progress(task, frames, total);
            let now = moment::now().as_millisecond();
            if now - stored_ms.load(Ordering::Relaxed) >= STORE_EVERY_MS {
                stored_ms.store(now, Ordering::Relaxed);
                self.journal.progress(task);
            }
        };
        let control = Control {
            snapshots,
            metrics: metrics.clone(),
            throttle: self.settings.watch.throttle.clone(),
            erasures: task.erasures.clone(),
            stop: task.stop_flag(),
            progress: &progress,
        };
        let summary = info_span!("pipeline")
            .in_scope(|| pipeline::run(cameras, Some(shared), networks, &options, control))?;
        note_cameras(task, &metrics);
        outcome(&summary)
    }

    fn options(&self, task: &Task, sources: &[Opened]) -> Options {
        let infos = sources.iter().map(|opened| opened.source.info());
        let sync = if sources.iter().any(|opened| opened.source.is_live()) {
            SyncMode::live(SyncMode::MAX_WAIT)
        } else {
            SyncMode::Lossless
        };
        Options {
            batch: self.settings.batch,
            max_frames: task.request.max_frames,
            detect: DetectOptions {
                score_floor: self.settings.score_floor,
                classes: self.settings.classes.clone(),
                nms_iou: self.settings.nms,
            },
            report_threshold: self.settings.confidence,
            tolerance: pipeline::tolerance(infos.filter_map(|info| info.frame_rate)),
            sync,
            reconnect: Backoff::default(),
            privacy: self.settings.privacy,
        }
    }

    /// Where the task's state is saved, and what it goes on from; `None` where it cannot be resumed.
    fn snapshots(&self, task: &Task, options: &Options) -> anyhow::Result<Option<Snapshots>> {
        if options.sync.is_live() {
            return Ok(None);
        }
        let mut fingerprint = Fingerprint::default();
        fingerprint.add("version", env!("CARGO_PKG_VERSION"));
        fingerprint.add("request", &record::text(&task.request));
        fingerprint.add("environment", &format!("{:?}", task.environment));
        fingerprint.add("detector", &self.networks.detector_name);
        fingerprint.add("re-ID", &self.networks.embedder_name);
        fingerprint.add("settings", &format!("{options:?}"));
        let folder = self.folder(task.id);
        let every = self.settings.snapshot_every;
        let mut snapshots = Snapshots::new(&folder, every, fingerprint, |text| warn!("{text}"));
        if task.resumed {
            snapshots
                .load()
                .context("the service ended while the task ran")?;
        }
        Ok(Some(snapshots))
    }

    /// Of what is stored.
    fn origin(&self, task: &Task) -> Origin {
        let started = task.details().started_at.unwrap_or_else(moment::now);
        Origin {
            task_id: task.id,
            environment_id: Arc::from(task.environment.id.as_str()),
            start_ms: started.as_millisecond(),
            model: Arc::from(self.networks.embedder_name.as_str()),
            crop_quality: self
                .settings
                .keep_crops
                .then_some(self.settings.jpeg_quality),
        }
    }

    fn open_sources(&self, task: &Task) -> anyhow::Result<Vec<Opened>> {
        let several = task.environment.cameras.len() > 1;
        let mut sources = Vec::new();
        for camera in &task.environment.cameras {
            let Some(spec) = &camera.source else {
                bail!("camera `{}` has no source", camera.id);
            };
            let options = OpenOptions {
                frame_rate: camera.frame_rate,
                keep_jpeg: self.settings.originals,
                decoder: VideoDecoder::Auto,
            };
            let opened = source::open_lasting(spec, options, several)
                .with_context(|| format!("camera `{}`", camera.id))?;
            if let Some(absence) = opened.absence {
                warn!(task_id = %task.id, camera_id = %camera.id, "{absence}; going on without it");
            }
            sources.push(Opened {
                source: opened.source,
                reopen: opened.reopen,
            });
        }
        Ok(sources)
    }

    /// Where the task's results go. Frames' times count from when the task began, also if it is
    /// resumed.
    fn feed(&self, task: &Task) -> Arc<Feed> {
        let started = task.details().started_at.unwrap_or_else(moment::now);
        let (settings, networks) = (&self.settings, &self.networks);
        Feed::of_task(
            task.hub.clone(),
            started,
            &task.environment,
            settings,
            networks,
        )
    }

    fn cameras(
        &self,
        task: &Task,
        sources: Vec<Opened>,
        detector: &dyn Detector,
        built: &BuiltWorld,
        feed: &Arc<Feed>,
        origin: &Origin,
    ) -> anyhow::Result<Vec<Camera>> {
        let mut cameras = Vec::with_capacity(sources.len());
        for (index, Opened { source, reopen }) in sources.into_iter().enumerate() {
            let camera = &task.environment.cameras[index];
            let rate = source.info().frame_rate.unwrap_or(30.0);
            let tracker = task.environment.tracker.at_rate(rate);
            let facts = CameraFacts::of_camera(&task.environment, index, rate, built);
            let kept = KeepFrames::new(
                origin.clone(),
                self.journal.clone(),
                &camera.id,
                camera.start_offset,
            );
            let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(kept)];
            sinks.extend(facts.map(|facts| feed.camera_sink(facts, patience(&tracker))));
            cameras.push(Camera {
                name: camera.id.clone(),
                source,
                reopen,
                tracker: tracker.build()?,
                motion: None,
                sinks,
                classes: detector.classes().to_vec(),
                start_offset: camera.start_offset,
            });
        }
        Ok(cameras)
    }
}

/// How a run ended.
fn outcome(summary: &Summary) -> anyhow::Result<End> {
    if summary.interrupted {
        return Ok(End::Stopped);
    }
    let errors: Vec<&String> = summary
        .cameras
        .iter()
        .filter_map(|c| c.error.as_ref())
        .collect();
    match errors.first() {
        Some(error) if errors.len() == summary.cameras.len() => {
            bail!("no camera could be read to its end; the first says: {error}")
        }
        _ => Ok(End::Completed),
    }
}

/// The first of a task's global IDs.
fn first_id(number: i64) -> u64 {
    u64::try_from(*global_ids(number).start()).unwrap_or(1)
}

fn note_cameras(task: &Task, metrics: &PipelineMetrics) {
    for camera in metrics.snapshot().cameras {
        task.set_camera(&camera.name, camera_progress(&camera));
    }
}

fn note_progress(task: &Task, frames: u64, total: Option<u64>) {
    let share = total.map_or(0.0, |total| frames as f64 / total.max(1) as f64);
    let doing = match task.kind {
        TaskKind::Raw => "Passing on",
        _ => "Running RT-DETR detection on",
    };
    let step = match total {
        Some(total) => format!("{doing} frame {frames}/{total}"),
        None => format!("{doing} frame {frames}"),
    };
    task.advance((share * 100.0).min(100.0), step);
}

/// How a camera does while its task runs.
fn camera_progress(camera: &CameraSnapshot) -> CameraProgress {
    let status = match camera.state {
        CameraState::Waiting | CameraState::Running | CameraState::Degraded => {
            TaskStatus::Processing
        }
        CameraState::Ended => TaskStatus::Completed,
        CameraState::Failed => TaskStatus::Failed,
    };
    CameraProgress {
        status,
        frame: camera.last_frame,
        error: camera.error.clone(),
    }
}

fn size(source: &dyn FrameSource) -> [f64; 2] {
    let (width, height) = source.info().size;
    [f64::from(width), f64::from(height)]
}

fn total_frames(sources: &[Opened], limit: Option<u64>) -> Option<u64> {
    let mut total = 0;
    for Opened { source, .. } in sources {
        let frames = match (source.info().frame_count, limit) {
            (Some(count), Some(limit)) => count.min(limit),
            (Some(count), None) => count,
            (None, Some(limit)) => limit,
            (None, None) => return None,
        };
        total += frames;
    }
    Some(total)
}
