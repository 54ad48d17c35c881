//! One camera at work: its tracker, how it moves, where its results go.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use mtmc_models::{BBox, Detection};

use super::counts::Stage;
use super::ids::IdSet;
use super::metrics::{CameraMetrics, PipelineMetrics};
use super::snapshot::SavedCamera;
use super::writer::{Done, Work, Writing};
use super::{Options, PipelineError, TrackIdentity};
use crate::annotate::privacy::Hider;
use crate::reid::Embedded;
use crate::sink::{Sink, SinkError, Written};
use crate::source::Frame;
use crate::tracker::camera_motion::{CameraMotion, MotionEstimator};
use crate::tracker::{FrameDetections, Track, Tracker};

/// One camera at work.
pub(super) struct Line<'scope> {
    index: usize,
    pub(super) tracker: Box<dyn Tracker>,
    pub(super) motion: Option<Motion>,
    results: SyncSender<Work>,
    writer: ScopedJoinHandle<'scope, Result<(), SinkError>>,
    ids: IdSet,
    last_frame: u64,
    /// Detections below this score are not reported.
    report_threshold: f32,
    metrics: Arc<PipelineMetrics>,
}

/// How a camera moves.
pub(super) struct Motion {
    pub(super) estimator: MotionEstimator,
    /// Boxes of people in the frame that the estimator saw last.
    pub(super) people: Vec<BBox>,
}

/// A camera without its source.
pub(super) struct Equipment {
    pub(super) name: String,
    pub(super) tracker: Box<dyn Tracker>,
    pub(super) motion: Option<MotionEstimator>,
    pub(super) sinks: Vec<Box<dyn Sink>>,
    pub(super) classes: Vec<String>,
}

/// One camera's frame in a time step, tracked.
pub(super) struct Tracked {
    pub(super) camera: usize,
    pub(super) frame: Frame,
    pub(super) found: FrameDetections,
    pub(super) tracks: Vec<Track>,
    pub(super) seconds: f64,
}

/// One frame's share of the time that it took before its tracker.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SecondsBefore {
    pub(super) read: f64,
    pub(super) detect: f64,
    pub(super) embed: f64,
}

/// What is known of a frame beside its detections.
#[derive(Default)]
pub(super) struct Context {
    pub(super) embedded: Embedded,
    pub(super) camera_motion: Option<CameraMotion>,
    pub(super) motion_seconds: f64,
}

impl<'scope> Line<'scope> {
    /// Sets a camera to work, behind what an earlier run did of it.
    pub(super) fn start<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        index: usize,
        equipment: Equipment,
        resumed: Option<SavedCamera>,
        options: &Options,
        metrics: &Arc<PipelineMetrics>,
    ) -> Self {
        let state = resumed.unwrap_or_else(|| SavedCamera {
            last_frame: 0,
            tracker: equipment.tracker.save(),
            ids: IdSet::default(),
            people: Vec::new(),
        });
        let tracker = state.tracker.restore();
        let wanted = tracker.needs().camera_motion;
        let motion = equipment.motion.filter(|_| wanted).map(|estimator| Motion {
            estimator,
            people: state.people,
        });
        let (results, results_out) = sync_channel(options.batch);
        let writing = Writing {
            camera: index,
            sinks: equipment.sinks,
            name: equipment.name,
            classes: equipment.classes,
            report_threshold: options.report_threshold,
            hider: Hider::new(options.privacy),
            metrics: metrics.clone(),
        };
        let writer = scope.spawn(move || writing.run(&results_out));
        Self {
            index,
            tracker,
            motion,
            results,
            writer,
            ids: state.ids,
            last_frame: state.last_frame,
            report_threshold: options.report_threshold,
            metrics: metrics.clone(),
        }
    }

    fn counters(&self) -> Option<&CameraMetrics> {
        self.metrics.cameras().get(self.index)
    }

    /// Tracks one frame.
    pub(super) fn track(
        &mut self,
        frame: Frame,
        detections: Vec<Detection>,
        context: Context,
        before: SecondsBefore,
    ) -> Tracked {
        let started = Instant::now();
        let found = FrameDetections {
            frame: frame.number,
            detections,
            embeddings: context.embedded.embeddings,
            camera_motion: context.camera_motion,
        };
        let tracks = self.tracker.update(&found);
        let seconds = started.elapsed().as_secs_f64() + context.motion_seconds;
        self.last_frame = frame.number;
        for track in &tracks {
            self.ids.insert(track.track_id);
        }
        let stages = [
            (Stage::Read, before.read),
            (Stage::Detect, before.detect),
            (Stage::Embed, before.embed),
            (Stage::Track, seconds),
        ];
        for (stage, seconds) in stages {
            self.metrics.observe(stage, seconds);
        }
        if let Some(counters) = self.counters() {
            let scores = found.detections.iter().map(|detection| detection.score);
            let reported = scores.filter(|score| *score >= self.report_threshold);
            counters.frames.add(1);
            counters.last_frame.set(frame.number);
            counters.detections.add(found.detections.len() as u64);
            counters.reported.add(reported.count() as u64);
            counters.embeddings.add(context.embedded.made);
            counters.refused_embeddings.add(context.embedded.refused);
            counters
                .dropped_detections
                .set(self.tracker.dropped_detections());
            counters.tracked.add(tracks.len() as u64);
            counters.tracks.set(self.ids.len());
        }
        Tracked {
            camera: self.index,
            frame,
            found,
            tracks,
            seconds: before.detect + before.embed + seconds,
        }
    }

    /// Notes vectors that were made for the gallery, and how many could not be made.
    pub(super) fn count_embeddings(&self, [made, refused]: [u64; 2]) {
        if let Some(counters) = self.counters() {
            counters.embeddings.add(made);
            counters.refused_embeddings.add(refused);
        }
    }

    /// Passes a frame's results on. False when the writer is gone.
    pub(super) fn send(
        &self,
        tracked: Tracked,
        identities: Vec<TrackIdentity>,
        world_seconds: f64,
    ) -> bool {
        let seconds = tracked.seconds + world_seconds;
        self.metrics.frame_done(seconds);
        if let Some(counters) = self.counters() {
            counters.results_waiting.raise();
        }
        let done = Done {
            frame: tracked.frame,
            detections: tracked.found.detections,
            tracks: tracked.tracks,
            identities,
            processing_time_ms: seconds * 1e3,
        };
        self.results.send(Work::Frame(Box::new(done))).is_ok()
    }

    /// Asks the writer to make safe what it got so far, and to say then how much of each file that
    /// is. `None` when it is gone.
    pub(super) fn checkpoint(&self) -> Option<Receiver<Vec<Written>>> {
        let (answer, answered) = sync_channel(1);
        self.results.send(Work::Checkpoint(answer)).ok()?;
        Some(answered)
    }

    /// All that a further run needs to go on, beside what is counted.
    pub(super) fn state(&self) -> SavedCamera {
        SavedCamera {
            last_frame: self.last_frame,
            tracker: self.tracker.save(),
            ids: self.ids.clone(),
            people: match &self.motion {
                Some(motion) => motion.people.clone(),
                None => Vec::new(),
            },
        }
    }

    /// Lets the writer finish.
    pub(super) fn finish(self) -> Result<(), PipelineError> {
        drop(self.results);
        match self.writer.join() {
            Ok(written) => Ok(written?),
            Err(_) => Err(PipelineError::Panicked("writing")),
        }
    }
}
