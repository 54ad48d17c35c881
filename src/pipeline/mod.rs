//! Ties the stations together: every camera's frames in step by their time, one detection and one
//! embedding batch over all of them, one tracker a camera, one [`World`] for all, results to the
//! sinks.
//!
//! Reading, the networks with tracking, and writing overlap: one reading and one writing thread a
//! camera, joined by bounded channels, so that memory does not grow with the length of a video
//! and a slow station holds back those before it. Results leave in the order of the frames, and
//! timing decides nothing: the same input gives the same tracks.

mod build;
mod ends;
mod line;
mod replay;
mod snapshot;
mod steps;
mod summary;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mtmc_models::{DetectOptions, Detector, Embedder};

use crate::sink::{Sink, SinkError, WorldSink};
use crate::source::FrameSource;
use crate::tracker::Tracker;
use crate::tracker::camera_motion::MotionEstimator;
use line::Line;
use snapshot::CameraState;
use steps::{Clock, Ended, Steps};
use summary::IdSet;

pub use build::{BuildError, BuiltWorld};
pub use replay::{RecordedCamera, Recording, ReplayError, ReplayOptions, replay};
pub use snapshot::{Fingerprint, SnapshotError, Snapshots};
pub use summary::{CameraSummary, Stages, Summary};
pub use world::{TrackIdentity, TrackedFrame, World, WorldEvent, WorldStep};

/// Everything that belongs to one camera.
pub struct Camera {
    /// Its name, in results and messages.
    pub name: String,
    /// Where its frames come from.
    pub source: Box<dyn FrameSource>,
    /// Who follows its people.
    pub tracker: Box<dyn Tracker>,
    /// Who tells the camera's motion to a tracker that wants to know; `None` for one that stands
    /// still.
    pub motion: Option<MotionEstimator>,
    /// Where its results go.
    pub sinks: Vec<Box<dyn Sink>>,
    /// Class names by index.
    pub classes: Vec<String>,
    /// Added to its frames' times to get the environment's, in seconds.
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
    /// A thread ended by a panic: a bug of this program.
    #[error("internal error: the {0} thread panicked")]
    Panicked(&'static str),
}

/// Runs all cameras to their end, or until `stop` is raised; `progress` hears the number of
/// frames done so far. With `snapshots` a run that is stopped can be resumed.
///
/// A camera whose source fails is marked in the summary and the others go on.
///
/// # Errors
/// A network fails or a result cannot be written.
pub fn run(
    cameras: Vec<Camera>,
    mut shared: Option<Shared>,
    networks: Networks<'_>,
    options: &Options,
    mut snapshots: Option<Snapshots>,
    stop: &AtomicBool,
    progress: impl Fn(u64),
) -> Result<Summary, PipelineError> {
    let start = resume(&mut shared, snapshots.as_mut());
    let mut states = start.cameras.into_iter();
    // Raised on any way out, so that no reading thread waits for a partner that is gone.
    let abandoned = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let halted = || stop.load(Ordering::Relaxed) || abandoned.load(Ordering::Relaxed);
        let lines = cameras
            .into_iter()
            .enumerate()
            .map(|(index, camera)| {
                Line::start(scope, index, camera, states.next(), options, halted)
            })
            .collect();
        let mut work = Steps {
            lines,
            shared,
            networks,
            options,
            snapshots,
            number: start.step,
            clock: start.clock,
        };
        let outcome = work.run(stop, &progress);
        let elapsed = work.clock.elapsed();
        let world_outcome = finish_world(work.shared);
        abandoned.store(true, Ordering::Relaxed);
        // The writers finish their files in any case; their errors come first, since a failed
        // writer is what makes the steps end early.
        let mut summaries = Vec::new();
        let mut stages = Stages::default();
        let mut failure = None;
        for line in work.lines {
            match line.finish(&mut stages) {
                Ok(summary) => summaries.push(summary),
                Err(error) => failure = failure.or(Some(error)),
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
        Ok(Summary::new(summaries, stages, elapsed, interrupted))
    })
}

/// Where a run begins.
struct Start {
    cameras: Vec<CameraState>,
    step: u64,
    clock: Clock,
}

/// Takes what the snapshot of an earlier run holds, if there is one.
fn resume(shared: &mut Option<Shared>, snapshots: Option<&mut Snapshots>) -> Start {
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
