//! A task at work: its cameras opened, the pipeline run, its end told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use mtmc_models::{DetectOptions, Detector};
use tracing::warn;

use super::TaskKind;
use super::task::Task;
use crate::pipeline::{
    self, BuiltWorld, Camera, CameraSnapshot, CameraState, Control, Networks, Options,
    PipelineMetrics, Shared, SyncMode, World,
};
use crate::service::live::{CameraFacts, Feed, patience};
use crate::service::messages::{CameraProgress, TaskStatus, moment};
use crate::service::networks::{NoDetector, ServiceNetworks};
use crate::service::settings::ServiceSettings;
use crate::source::{self, Backoff, FrameSource, OpenOptions, VideoDecoder};

/// Runs tasks.
pub struct Runner {
    settings: ServiceSettings,
    networks: Arc<ServiceNetworks>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

impl Runner {
    /// With these networks.
    pub fn new(settings: ServiceSettings, networks: Arc<ServiceNetworks>) -> Self {
        Self { settings, networks }
    }

    /// Runs a task to its end; whatever happens, it has a final status then.
    pub fn run(&self, task: &Arc<Task>) {
        let work = std::panic::AssertUnwindSafe(|| self.work(task));
        match std::panic::catch_unwind(work) {
            Ok(Ok(status)) => {
                let step = match status {
                    TaskStatus::Completed => "All frames are done",
                    _ => "Stopped",
                };
                task.set_status(status, step);
            }
            Ok(Err(error)) => task.fail(&format!("{error:#}")),
            Err(_) => task.fail("internal error; the service's log says more"),
        }
    }

    /// Folder of what a task keeps while it runs.
    pub fn folder(&self, task: &Task) -> PathBuf {
        let tasks = self.settings.data_dir.join("tasks");
        tasks.join(task.id.to_string())
    }

    fn work(&self, task: &Arc<Task>) -> anyhow::Result<TaskStatus> {
        task.set_status(TaskStatus::Initializing, "Making ready");
        let folder = self.folder(task);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let detector: &dyn Detector = match (task.kind, &self.networks.detector) {
            (TaskKind::Raw, _) => &NoDetector,
            (_, Some(detector)) => detector,
            (_, None) => bail!("the service has no detector: start it with --weights"),
        };
        task.set_status(TaskStatus::Downloading, "Opening the sources");
        let sources = self.open_sources(task)?;
        let total = total_frames(&sources, task.request.max_frames);
        let tolerance =
            pipeline::tolerance(sources.iter().filter_map(|source| source.info().frame_rate));
        let options = Options {
            batch: self.settings.batch,
            max_frames: task.request.max_frames,
            detect: DetectOptions {
                score_floor: self.settings.score_floor,
                classes: self.settings.classes.clone(),
                nms_iou: self.settings.nms,
            },
            report_threshold: self.settings.confidence,
            tolerance,
            sync: SyncMode::Lossless,
            reconnect: Backoff::default(),
        };
        let sizes: Vec<[f64; 2]> = sources.iter().map(|source| size(source.as_ref())).collect();
        let built = World::of_environment(&task.environment, &sizes)?;
        for warning in &built.warnings {
            warn!(task_id = %task.id, "{warning}");
        }
        let feed = self.feed(task);
        let cameras = self.cameras(task, sources, detector, &built, &feed)?;
        let shared = Shared {
            world: built.world,
            sinks: vec![feed.world_sink()],
        };
        let networks = Networks {
            detector,
            embedder: self.networks.embedder(),
        };
        task.set_status(TaskStatus::Processing, "Running detection");
        let names = cameras.iter().map(|camera| camera.name.as_str());
        let metrics = Arc::new(PipelineMetrics::new(names));
        let progress = |frames: u64| {
            for camera in metrics.snapshot().cameras {
                task.set_camera(&camera.name, camera_progress(&camera));
            }
            let share = total.map_or(0.0, |total| frames as f64 / total.max(1) as f64);
            let step = match total {
                Some(total) => format!("Running RT-DETR detection on frame {frames}/{total}"),
                None => format!("Running RT-DETR detection on frame {frames}"),
            };
            task.advance((share * 100.0).min(100.0), step);
        };
        let control = Control {
            snapshots: None,
            metrics: metrics.clone(),
            stop: task.stop_flag(),
            progress: &progress,
        };
        let summary = pipeline::run(cameras, Some(shared), networks, &options, control)?;
        let ended: BTreeMap<_, _> = summary
            .cameras
            .iter()
            .map(|camera| (camera.name.clone(), camera))
            .collect();
        for (id, camera) in ended {
            let status = match camera.error {
                Some(_) => TaskStatus::Failed,
                None => TaskStatus::Completed,
            };
            task.set_camera(
                &id,
                CameraProgress {
                    status,
                    frame: camera.frames,
                    error: camera.error.clone(),
                },
            );
        }
        if summary.interrupted {
            return Ok(TaskStatus::Stopped);
        }
        if let Some(error) = summary
            .cameras
            .iter()
            .find_map(|camera| camera.error.as_ref())
            && summary.cameras.iter().all(|camera| camera.error.is_some())
        {
            bail!("no camera could be read to its end; the first says: {error}");
        }
        Ok(TaskStatus::Completed)
    }

    fn open_sources(&self, task: &Task) -> anyhow::Result<Vec<Box<dyn FrameSource>>> {
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
            let opened = source::open(spec, &options);
            sources.push(opened.with_context(|| format!("camera `{}`", camera.id))?);
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
        sources: Vec<Box<dyn FrameSource>>,
        detector: &dyn Detector,
        built: &BuiltWorld,
        feed: &Arc<Feed>,
    ) -> anyhow::Result<Vec<Camera>> {
        let mut cameras = Vec::with_capacity(sources.len());
        for (index, source) in sources.into_iter().enumerate() {
            let camera = &task.environment.cameras[index];
            let rate = source.info().frame_rate.unwrap_or(30.0);
            let tracker = task.environment.tracker.at_rate(rate);
            let facts = CameraFacts::of_camera(&task.environment, index, rate, built);
            let sinks = facts.map(|facts| feed.camera_sink(facts, patience(&tracker)));
            cameras.push(Camera {
                name: camera.id.clone(),
                source,
                reopen: None,
                tracker: tracker.build()?,
                motion: None,
                sinks: sinks.into_iter().collect(),
                classes: detector.classes().to_vec(),
                start_offset: camera.start_offset,
            });
        }
        Ok(cameras)
    }
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

fn total_frames(sources: &[Box<dyn FrameSource>], limit: Option<u64>) -> Option<u64> {
    let mut total = 0;
    for source in sources {
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
