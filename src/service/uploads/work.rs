//! The work on one upload: what `mtmc track` does with a video, results into a folder.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use mtmc_models::{DetectOptions, Detector as _};
use uuid::Uuid;

use super::bounded::BoundedSource;
use super::record::{Failure, InferenceResponse, output_url, outputs_of};
use crate::config::Environment;
use crate::pipeline::{
    self, Camera, Control, Networks, Options, PipelineError, PipelineMetrics, Shared, Summary,
    SyncMode, World,
};
use crate::service::networks::ServiceNetworks;
use crate::service::settings::ServiceSettings;
use crate::sink::{EventSink, FrameResult, JsonLinesSink, MotSink, Sink, SinkError, VideoSink};
use crate::source::container::Container;
use crate::source::{self, Backoff, FrameSource};
use crate::tracker::VideoTracking;

/// Name of the only camera of an upload.
const CAMERA: &str = "video";

/// Frames a second of a video that does not tell.
const DEFAULT_RATE: f64 = 30.0;

/// One upload to work on.
pub struct Job<'a> {
    /// How the service runs.
    pub settings: &'a ServiceSettings,
    /// Its networks.
    pub networks: &'a ServiceNetworks,
    /// The upload.
    pub id: Uuid,
    /// Its file.
    pub file: &'a Path,
    /// What the file is.
    pub container: Container,
    /// Whether a video with boxes is wanted.
    pub visualize: bool,
    /// Folder of the results.
    pub out: &'a Path,
    /// Raised to stop.
    pub stop: &'a AtomicBool,
    /// Hears frames that are done, and how many there are as far as that is known.
    pub progress: &'a dyn Fn(u64, Option<u64>),
}

/// What came of a job.
pub enum Outcome {
    /// All of it.
    Done(Box<InferenceResponse>),
    /// Nothing.
    Failed(Failure),
    /// It was stopped.
    Stopped,
}

/// Opens an uploaded file and decodes its first frame.
///
/// # Errors
/// What is wrong with it.
pub fn open(
    file: &Path,
    container: Container,
    settings: &ServiceSettings,
) -> Result<BoundedSource, Failure> {
    let source = source::open_untrusted(file, container).map_err(|error| match error {
        source::SourceError::FfmpegMissing { .. } => Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "this service reads only MP4 files with H.264 and single images: it has no ffmpeg",
        ),
        error => unreadable(file, &error),
    })?;
    BoundedSource::new(source, &settings.uploads).map_err(Failure::unreadable)
}

/// The reason without the place where the file lies, which is nobody's business.
fn unreadable(file: &Path, reason: &dyn std::fmt::Display) -> Failure {
    let path = file.display().to_string();
    Failure::unreadable(reason.to_string().replace(&path, super::SHOWN_PATH))
}

impl Job<'_> {
    /// Works on it to its end.
    pub fn run(&self) -> Outcome {
        match self.work() {
            Ok(Some(result)) => Outcome::Done(Box::new(result)),
            Ok(None) => Outcome::Stopped,
            Err(failure) => Outcome::Failed(failure),
        }
    }

    fn work(&self) -> Result<Option<InferenceResponse>, Failure> {
        let Some(detector) = &self.networks.detector else {
            return Err(Failure::internal(&"there is no detector"));
        };
        let source = open(self.file, self.container, self.settings)?;
        let total = source.info().frame_count;
        let counts = Arc::new(Mutex::new(Counts::default()));
        let shared = self.shared(&source)?;
        let embedder = self.networks.embedder();
        let rate = source.info().frame_rate.unwrap_or(DEFAULT_RATE);
        let tracking = VideoTracking {
            confidence: self.settings.confidence,
            score_floor: self.settings.score_floor,
            ..VideoTracking::default()
        };
        let tracker = match embedder {
            Some(_) => tracking.botsort(rate),
            None => tracking.bytetrack(rate),
        };
        let camera = Camera {
            name: CAMERA.to_string(),
            tracker: tracker.build().map_err(|error| Failure::internal(&error))?,
            sinks: self.sinks(rate, shared.is_some(), &counts)?,
            source: Box::new(source),
            reopen: None,
            motion: None,
            classes: detector.classes().to_vec(),
            start_offset: 0.0,
        };
        let options = self.options(rate);
        let networks = Networks { detector, embedder };
        let progress = |frames| (self.progress)(frames, total);
        let metrics = Arc::new(PipelineMetrics::new([CAMERA]));
        let runs = &self.settings.watch.metrics.runs;
        let _counted = runs.begin("uploads", metrics.clone());
        let control = Control {
            snapshots: None,
            metrics,
            throttle: self.settings.watch.throttle.clone(),
            erasures: Arc::default(),
            stop: self.stop,
            progress: &progress,
        };
        let summary = pipeline::run(vec![camera], shared, networks, &options, control)
            .map_err(|error| pipeline_failure(&error))?;
        if summary.interrupted {
            return Ok(None);
        }
        self.check(&summary)?;
        self.write_summary(&summary)?;
        let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(self.response(&summary, &counts)))
    }

    fn options(&self, rate: f64) -> Options {
        Options {
            batch: self.settings.batch,
            max_frames: None,
            detect: DetectOptions {
                score_floor: self.settings.score_floor,
                classes: self.settings.classes.clone(),
                nms_iou: self.settings.nms,
            },
            report_threshold: self.settings.confidence,
            tolerance: pipeline::tolerance([rate]),
            sync: SyncMode::Lossless,
            reconnect: Backoff::default(),
            privacy: self.settings.privacy,
        }
    }

    /// Identities, where looks can be told.
    fn shared(&self, source: &BoundedSource) -> Result<Option<Shared>, Failure> {
        if self.networks.embedder.is_none() {
            return Ok(None);
        }
        let internal = |error: &dyn std::fmt::Display| Failure::internal(error);
        let names = [CAMERA.to_string()];
        let environment = Environment::of_cameras(&names, &self.settings.overrides)
            .map_err(|error| internal(&error))?;
        let (width, height) = source.info().size;
        let sizes = [[f64::from(width), f64::from(height)]];
        let built =
            World::of_environment(&environment, &sizes).map_err(|error| internal(&error))?;
        let events = EventSink::create(&self.out.join("events.jsonl"));
        Ok(Some(Shared {
            world: built.world,
            sinks: vec![Box::new(events.map_err(|error| sink_failure(&error))?)],
        }))
    }

    fn sinks(
        &self,
        rate: f64,
        identities: bool,
        counts: &Arc<Mutex<Counts>>,
    ) -> Result<Vec<Box<dyn Sink>>, Failure> {
        let path = |name: &str| -> PathBuf { self.out.join(name) };
        let failed = |error| sink_failure(&error);
        let mut sinks: Vec<Box<dyn Sink>> = vec![
            Box::new(MotSink::create(&path("tracks.txt")).map_err(failed)?),
            Box::new(JsonLinesSink::create(&path("tracks.jsonl")).map_err(failed)?),
            Box::new(CountSink(counts.clone())),
        ];
        if identities {
            sinks.push(Box::new(
                MotSink::global(&path("people.txt")).map_err(failed)?,
            ));
        }
        if self.visualize {
            let video = VideoSink::create(&path("video.mp4"), rate);
            sinks.push(Box::new(video.map_err(failed)?));
        }
        Ok(sinks)
    }

    /// A file that could not be read to its end has no result: half of one would be taken for
    /// whole.
    fn check(&self, summary: &Summary) -> Result<(), Failure> {
        for camera in &summary.cameras {
            if let Some(error) = &camera.error {
                return Err(unreadable(self.file, error));
            }
        }
        if summary.frames == 0 {
            return Err(Failure::unreadable(
                "there is no frame in it that can be decoded",
            ));
        }
        Ok(())
    }

    fn write_summary(&self, summary: &Summary) -> Result<(), Failure> {
        let text =
            serde_json::to_string_pretty(summary).map_err(|error| Failure::internal(&error))?;
        let path = self.out.join("summary.json");
        std::fs::write(&path, text + "\n").map_err(|error| {
            let error = SinkError::io(&path, error);
            sink_failure(&error)
        })
    }

    fn response(&self, summary: &Summary, counts: &Counts) -> InferenceResponse {
        let mut statistics = BTreeMap::new();
        let mut note = |name: &str, value: f64| {
            statistics.insert(name.to_string(), value);
        };
        let mut total_tracks = 0;
        for camera in &summary.cameras {
            total_tracks += camera.tracks;
            note("detections", counts.detections as f64);
            note("skipped_frames", camera.skipped as f64);
            note("embeddings", camera.embeddings as f64);
        }
        note("seconds", summary.seconds);
        note("most_people_at_once", counts.most_at_once as f64);
        note(
            "mean_people_per_frame",
            counts.tracked as f64 / summary.frames.max(1) as f64,
        );
        if self.networks.embedder.is_some() {
            note("people", counts.people.len() as f64);
        }
        for (stage, milliseconds) in summary.stages.rows() {
            note(&format!("{stage}_ms"), milliseconds);
        }
        let (_, outputs) = outputs_of(self.id, self.out);
        InferenceResponse {
            total_frames: summary.frames,
            total_tracks,
            avg_fps: summary.frames_per_second,
            output_video_path: if self.visualize {
                output_url(self.id, "video.mp4")
            } else {
                String::new()
            },
            statistics,
            inference_id: self.id,
            outputs,
        }
    }
}

fn pipeline_failure(error: &PipelineError) -> Failure {
    match error {
        PipelineError::Sink(error) => sink_failure(error),
        error => Failure::internal(error),
    }
}

/// A full disk is told as such.
fn sink_failure(error: &SinkError) -> Failure {
    if let SinkError::Io { source, .. } = error
        && source.kind() == std::io::ErrorKind::StorageFull
    {
        tracing::error!(%error, "no room for results");
        return super::no_room();
    }
    Failure::internal(error)
}

/// What is counted on the way.
#[derive(Debug, Default)]
struct Counts {
    detections: u64,
    tracked: u64,
    most_at_once: usize,
    people: HashSet<u64>,
}

/// Counts who is there.
struct CountSink(Arc<Mutex<Counts>>);

impl Sink for CountSink {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.detections += result.detections.len() as u64;
        counts.tracked += result.tracks.len() as u64;
        counts.most_at_once = counts.most_at_once.max(result.tracks.len());
        for identity in result.identities {
            counts.people.extend(identity.global_id);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}
