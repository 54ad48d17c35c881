//! Ties the stations together: every camera's frames in step by their time, one detection and one
//! embedding batch over all of them, one tracker a camera, one [`World`] for all, results to the
//! sinks.
//!
//! Reading, the networks with tracking, and writing overlap: one reading and one writing thread a
//! camera, joined by bounded queues, so that memory does not grow with the length of a video and a
//! slow station holds back those before it. Results leave in the order of the frames.
//!
//! Which frames make a time step is for [`SyncMode`] to say: [`Lossless`](SyncMode::Lossless) timing
//! decides nothing and the same input gives the same tracks; [`Live`](SyncMode::Live) nobody waits
//! for long, and what comes too late is dropped and counted. A camera whose source fails is marked
//! and tried again where there is a way to; the others go on. Everything that happens is counted in
//! [`PipelineMetrics`].

mod build;
mod counts;
mod erasures;
mod histogram;
mod ids;
mod inbox;
mod line;
mod metrics;
mod reader;
mod replay;
mod snapshot;
mod stepping;
mod steps;
mod summary;
mod throttle;
mod world;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use mtmc_models::{DetectOptions, Detector, Embedder};

use crate::annotate::privacy::Privacy;
use crate::sink::{Sink, SinkError, WorldSink};
use crate::source::{Backoff, Delays, FrameSource, Reopen};
use crate::tracker::Tracker;
use crate::tracker::camera_motion::MotionEstimator;
use inbox::{Inbox, Overflow};
use line::{Equipment, Line};
use reader::Reading;
use snapshot::SavedCamera;
use stepping::{Member, Stepping};
use steps::{Clock, Ended, Steps};

pub use build::{BuildError, BuiltWorld};
pub use counts::{
    Associations, CameraSnapshot, CameraState, DroppedFrames, GallerySizes, Handoffs,
    MetricsSnapshot, Performance, Stage, Waiting,
};
pub use erasures::{Erasing, Erasures};
pub use histogram::{BUCKETS_MS, HistogramSnapshot};
pub use metrics::PipelineMetrics;
pub use replay::{RecordedCamera, Recording, ReplayError, ReplayOptions, replay};
pub use snapshot::{Fingerprint, SnapshotError, Snapshots, forget_saved};
pub use stepping::SyncMode;
pub use summary::{CameraSummary, Skipped, Stages, Summary};
pub use throttle::Throttle;
pub use world::{TrackIdentity, TrackedFrame, World, WorldEvent, WorldSeconds, WorldStep};

/// Everything that belongs to one camera.
pub struct Camera {
    /// Its name, in results and messages.
    pub name: String,
    /// Where its frames come from.
    pub source: Box<dyn FrameSource>,
    /// How its source is opened again after a failure, where
    /// [it cannot go on by itself](FrameSource::reopen); with neither a failure is its end.
    pub reopen: Option<Reopen>,
    /// Who follows its people.
    pub tracker: Box<dyn Tracker>,
    /// Who tells the camera's motion to a tracker that wants to know; `None` for one that stands
    /// still.
    pub motion: Option<MotionEstimator>,
    /// Where its results go.
    pub sinks: Vec<Box<dyn Sink>>,
    /// Class names by index.
    pub classes: Vec<String>,
    /// Added to its frames' times to get the environment's, in seconds. Frames whose time is when
    /// they arrive have the environment's already.
    pub start_offset: f64,
}

/// What all cameras share, and where what it finds goes.
pub struct Shared {
    /// Gallery, map and handoffs; cameras count in it as they do in the run.
    pub world: World,
    /// Where its results go.
    pub sinks: Vec<Box<dyn WorldSink>>,
}

/// The networks, shared by all cameras.
#[derive(Clone, Copy)]
pub struct Networks<'a> {
    /// Finds people.
    pub detector: &'a dyn Detector,
    /// Tells how they look to trackers that want to know; without it they do without.
    pub embedder: Option<&'a dyn Embedder>,
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most frames in one detection batch.
    pub batch: usize,
    /// Frames of each source after which to stop.
    pub max_frames: Option<u64>,
    /// What the detector reports to the trackers.
    pub detect: DetectOptions,
    /// Detections below this score reach the trackers but are not reported.
    pub report_threshold: f32,
    /// Frames of different cameras whose times differ by no more than this belong to one time step.
    pub tolerance: Duration,
    /// What decides which frames make a time step.
    pub sync: SyncMode,
    /// When sources that failed are tried again, and for how long.
    pub reconnect: Backoff,
    /// What is hidden of people in the frames that sinks get. Networks see them as they came.
    pub privacy: Privacy,
}

/// How a run is watched and stopped.
pub struct Control<'a> {
    /// Where the run is saved, if at all, and what it goes on from.
    pub snapshots: Option<Snapshots>,
    /// What counts everything, made for these cameras in this order; whoever keeps a copy can look
    /// at any time.
    pub metrics: Arc<PipelineMetrics>,
    /// Makes the run take less at once while it is on.
    pub throttle: Arc<Throttle>,
    /// People who are to be erased from the run while it is under way.
    pub erasures: Arc<Erasures>,
    /// Raised to stop the run.
    pub stop: &'a AtomicBool,
    /// Hears the number of frames done so far, after each batch and several times a second while no
    /// frame comes.
    pub progress: &'a dyn Fn(u64),
}

/// Frames belong to one time step if they differ by less than half the shortest interval: the
/// tolerance for cameras of these frame rates, in frames a second.
pub fn tolerance(frame_rates: impl IntoIterator<Item = f64>) -> Duration {
    let fastest = frame_rates.into_iter().fold(1.0, f64::max);
    Duration::from_secs_f64(0.49 / fastest)
}

/// The run was stopped from outside; what was done until then is written.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Why a run failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The detector failed.
    #[error("detection failed: {0}")]
    Detect(#[source] mtmc_models::Error),
    /// The embedder failed.
    #[error("re-identification failed: {0}")]
    Embed(#[source] mtmc_models::Error),
    /// A result could not be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The counters are not those of this run's cameras: a bug of this program.
    #[error("internal error: counters for {found} cameras in a run of {expected}")]
    Metrics {
        /// Cameras of the run.
        expected: usize,
        /// Cameras that are counted.
        found: usize,
    },
    /// A thread ended by a panic: a bug of this program.
    #[error("internal error: the {0} thread panicked")]
    Panicked(&'static str),
}

/// How long a run that ends waits for sources that are stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs all cameras to their end, or until it is stopped. With snapshots a run that is stopped can
/// be resumed.
///
/// A camera whose source fails is marked in the summary and the others go on. Stopping is prompt,
/// also while sources are silent: a source that is stuck and cannot be
/// [halted](FrameSource::halt) is left behind after two seconds, with the thread that reads it.
///
/// # Errors
/// A network fails or a result cannot be written.
pub fn run(
    cameras: Vec<Camera>,
    mut shared: Option<Shared>,
    networks: Networks<'_>,
    options: &Options,
    control: Control<'_>,
) -> Result<Summary, PipelineError> {
    let Control {
        mut snapshots,
        metrics,
        throttle,
        erasures,
        stop,
        progress,
    } = control;
    let (expected, found) = (cameras.len(), metrics.cameras().len());
    if expected != found {
        return Err(PipelineError::Metrics { expected, found });
    }
    let _running = erasures.begin();
    let start = resume(&mut shared, snapshots.as_mut(), &metrics);
    let mut states = start.cameras.into_iter();
    let (inbox, began) = (inbox(options, &metrics, &throttle), Instant::now());
    std::thread::scope(|scope| {
        let mut lines = Vec::with_capacity(cameras.len());
        let mut members = Vec::with_capacity(cameras.len());
        for (index, camera) in cameras.into_iter().enumerate() {
            let state = states.next();
            let done = state.as_ref().map_or(0, |state| state.last_frame);
            let (reading, member, equipment) =
                take_apart(index, camera, options, began, &inbox, &metrics);
            let line = Line::start(scope, index, equipment, state, options, &metrics);
            reading.spawn(done, line.motion.is_some());
            lines.push(line);
            members.push(member);
        }
        let mut work = Steps {
            stepping: Stepping::new(options.sync, options.tolerance, began, members),
            inbox: inbox.clone(),
            lines,
            shared,
            networks,
            options,
            snapshots,
            metrics: metrics.clone(),
            throttle,
            erasures: erasures.clone(),
            stop,
            progress,
            number: start.step,
            clock: start.clock,
        };
        let outcome = work.run();
        let elapsed = work.clock.elapsed();
        let world_outcome = finish_world(work.shared);
        inbox.close(PATIENCE);
        // The writers finish their files in any case; their errors come first, since a failed
        // writer is what makes the steps end early.
        let mut failure = None;
        for line in work.lines {
            if let Err(error) = line.finish() {
                failure = failure.or(Some(error));
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let ended = outcome?;
        world_outcome?;
        let interrupted = ended == Ended::Stopped;
        if let Some(snapshots) = work.snapshots.filter(|_| !interrupted) {
            snapshots.remove();
        }
        Ok(Summary::new(&metrics.snapshot(), elapsed, interrupted))
    })
}

/// The queues between readers and steps.
fn inbox(
    options: &Options,
    metrics: &Arc<PipelineMetrics>,
    throttle: &Arc<Throttle>,
) -> Arc<Inbox> {
    let (bound, overflow) = match options.sync {
        SyncMode::Lossless => (options.batch, Overflow::Wait),
        SyncMode::Live { queue, .. } => (queue, Overflow::DropOldest),
    };
    let throttle = throttle.clone();
    Arc::new(Inbox::new(metrics, bound, overflow, throttle))
}

/// What reads a camera, what is to be known to keep it in step, and the rest of it.
fn take_apart(
    index: usize,
    camera: Camera,
    options: &Options,
    began: Instant,
    inbox: &Arc<Inbox>,
    metrics: &Arc<PipelineMetrics>,
) -> (Reading, Member, Equipment) {
    let of_now = camera.source.is_live();
    let arrival = (of_now && options.sync.is_live()).then_some(began);
    let rate = camera.source.info().frame_rate.filter(|rate| *rate > 0.0);
    let offset = match arrival {
        Some(_) => 0.0,
        None => camera.start_offset,
    };
    let member = Member::new(offset, rate.map(|rate| 1.0 / rate), of_now);
    let reading = Reading {
        camera: index,
        name: camera.name.clone(),
        source: camera.source,
        reopen: camera.reopen,
        delays: Delays::new(options.reconnect, index as u64),
        limit: options.max_frames.unwrap_or(u64::MAX),
        arrival,
        inbox: inbox.clone(),
        metrics: metrics.clone(),
    };
    let equipment = Equipment {
        name: camera.name,
        tracker: camera.tracker,
        motion: camera.motion,
        sinks: camera.sinks,
        classes: camera.classes,
    };
    (reading, member, equipment)
}

/// Where a run begins.
struct Start {
    cameras: Vec<SavedCamera>,
    step: u64,
    clock: Clock,
}

/// Takes what the snapshot of an earlier run holds, if there is one.
fn resume(
    shared: &mut Option<Shared>,
    snapshots: Option<&mut Snapshots>,
    metrics: &PipelineMetrics,
) -> Start {
    let Some(snapshot) = snapshots.and_then(Snapshots::take) else {
        return Start {
            cameras: Vec::new(),
            step: 0,
            clock: Clock::since(Duration::ZERO),
        };
    };
    if let (Some(shared), Some(world)) = (shared, snapshot.world) {
        shared.world.restore(world);
    }
    metrics.restore(&snapshot.metrics);
    Start {
        cameras: snapshot.cameras,
        step: snapshot.step,
        clock: Clock::since(snapshot.elapsed),
    }
}

/// Completes the files of what the cameras share.
fn finish_world(shared: Option<Shared>) -> Result<(), PipelineError> {
    let mut outcome = Ok(());
    for sink in shared.into_iter().flat_map(|shared| shared.sinks) {
        // What can be saved is saved, whatever failed before.
        if let Err(error) = sink.finish() {
            outcome = outcome.and(Err(error.into()));
        }
    }
    outcome
}
