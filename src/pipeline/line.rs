//! One camera at work: its next frame, its tracker, what it counts.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use mtmc_models::{BBox, Detection};

use super::ends::{Checkpoint, Done, Read, Reading, Work, Writing};
use super::snapshot::CameraState;
use super::summary::{IdSet, Seconds};
use super::{Camera, CameraSummary, Options, PipelineError, Stages, TrackIdentity};
use crate::reid::Embedded;
use crate::sink::SinkError;
use crate::source::{Frame, SkipCounts};
use crate::tracker::camera_motion::{CameraMotion, MotionEstimator};
use crate::tracker::{FrameDetections, Track, Tracker};

/// One camera at work.
pub(super) struct Line<'scope> {
    frames: Receiver<Read>,
    pub(super) tracker: Box<dyn Tracker>,
    pub(super) motion: Option<Motion>,
    results: SyncSender<Work>,
    writer: ScopedJoinHandle<'scope, Result<f64, SinkError>>,
    ended: bool,
    /// The reader was stopped before its source ended.
    pub(super) cut: bool,
    /// The next frame, if it was looked at already.
    pub(super) waiting: Option<Frame>,
    start_offset: f64,
    pub(super) summary: CameraSummary,
    ids: IdSet,
    last_frame: u64,
    pub(super) seconds: Seconds,
}

/// How a camera moves.
pub(super) struct Motion {
    pub(super) estimator: MotionEstimator,
    /// Boxes of people in the frame that the estimator saw last.
    pub(super) people: Vec<BBox>,
}

/// One camera's frame in a time step, tracked.
pub(super) struct Tracked {
    pub(super) camera: usize,
    pub(super) frame: Frame,
    pub(super) found: FrameDetections,
    pub(super) tracks: Vec<Track>,
    pub(super) seconds: f64,
}

/// One frame's share of the networks' time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NetworkSeconds {
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
        camera: Camera,
        resumed: Option<CameraState>,
        options: &Options,
        halted: impl Fn() -> bool + Send + Copy + 'scope,
    ) -> Self {
        let state = resumed.unwrap_or_else(|| CameraState {
            last_frame: 0,
            tracker: camera.tracker.save(),
            summary: CameraSummary::named(&camera.name),
            ids: IdSet::default(),
            seconds: Seconds::default(),
            people: Vec::new(),
        });
        let tracker = state.tracker.restore();
        let wanted = tracker.needs().camera_motion;
        let motion = camera.motion.filter(|_| wanted).map(|estimator| Motion {
            estimator,
            people: state.people,
        });
        let (frames_in, frames) = sync_channel(options.batch);
        let (results, results_out) = sync_channel(options.batch);
        let reading = Reading {
            source: camera.source,
            limit: options.max_frames.unwrap_or(u64::MAX),
            done: state.last_frame,
            repeat_last: motion.is_some(),
        };
        scope.spawn(move || reading.run(&frames_in, halted));
        let writing = Writing {
            sinks: camera.sinks,
            name: camera.name,
            classes: camera.classes,
            report_threshold: options.report_threshold,
        };
        let writer = scope.spawn(move || writing.run(&results_out));
        Self {
            frames,
            tracker,
            motion,
            results,
            writer,
            ended: false,
            cut: false,
            waiting: None,
            start_offset: camera.start_offset,
            summary: state.summary,
            ids: state.ids,
            last_frame: state.last_frame,
            seconds: state.seconds,
        }
    }

    /// Time of the camera's next frame in the environment, in seconds; waits for it. `None` once
    /// the camera has ended.
    pub(super) fn next_time(&mut self) -> Option<f64> {
        if self.waiting.is_none() {
            self.waiting = self.receive();
        }
        let frame = self.waiting.as_ref()?;
        Some(frame.timestamp.as_secs_f64() + self.start_offset)
    }

    /// The camera's next frame, waited for; `None` once it has ended.
    fn receive(&mut self) -> Option<Frame> {
        while !self.ended {
            match self.frames.recv() {
                Ok(Read::Frame { frame, seconds }) => {
                    self.seconds.read += seconds;
                    return Some(frame);
                }
                Ok(Read::Before(frame)) => {
                    if let Some(Motion { estimator, people }) = &mut self.motion {
                        estimator.next(&frame.image, people);
                    }
                }
                Ok(Read::End {
                    skipped,
                    error,
                    cut,
                }) => self.end(&skipped, error, cut),
                Err(_) => {
                    self.summary.error = Some("the reading thread ended unexpectedly".to_string());
                    self.ended = true;
                }
            }
        }
        None
    }

    /// Notes how the source ended.
    fn end(&mut self, skipped: &SkipCounts, error: Option<String>, cut: bool) {
        self.summary.skipped = skipped.count;
        self.summary.skipped_frames = skipped.examples.iter().map(Into::into).collect();
        self.summary.error = error;
        self.ended = true;
        self.cut = cut;
    }

    /// Tracks one frame.
    pub(super) fn track(
        &mut self,
        camera: usize,
        frame: Frame,
        detections: Vec<Detection>,
        context: Context,
        networks: NetworkSeconds,
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
        self.seconds.detect += networks.detect;
        self.seconds.embed += networks.embed;
        self.seconds.track += seconds;
        self.last_frame = frame.number;
        self.summary.frames += 1;
        self.summary.embeddings += context.embedded.made;
        self.summary.refused_embeddings += context.embedded.refused;
        self.summary.detections += found.detections.len() as u64;
        for track in &tracks {
            self.ids.insert(track.track_id);
        }
        Tracked {
            camera,
            frame,
            found,
            tracks,
            seconds: networks.detect + networks.embed + seconds,
        }
    }

    /// Passes a frame's results on. False when the writer is gone.
    pub(super) fn send(
        &self,
        tracked: Tracked,
        identities: Vec<TrackIdentity>,
        world_seconds: f64,
    ) -> bool {
        let done = Done {
            frame: tracked.frame,
            detections: tracked.found.detections,
            tracks: tracked.tracks,
            identities,
            processing_time_ms: (tracked.seconds + world_seconds) * 1e3,
        };
        self.results.send(Work::Frame(Box::new(done))).is_ok()
    }

    /// Asks the writer to make safe what it got so far, and to answer then. `None` when it is gone.
    pub(super) fn checkpoint(&self) -> Option<Receiver<Checkpoint>> {
        let (answer, answered) = sync_channel(1);
        self.results.send(Work::Checkpoint(answer)).ok()?;
        Some(answered)
    }

    /// All that a further run needs to go on; the writer was busy for so many seconds in this one.
    pub(super) fn state(&self, write_seconds: f64) -> CameraState {
        CameraState {
            last_frame: self.last_frame,
            tracker: self.tracker.save(),
            summary: self.summary.clone(),
            ids: self.ids.clone(),
            seconds: Seconds {
                write: self.seconds.write + write_seconds,
                ..self.seconds
            },
            people: match &self.motion {
                Some(motion) => motion.people.clone(),
                None => Vec::new(),
            },
        }
    }

    pub(super) fn finish(mut self, stages: &mut Stages) -> Result<CameraSummary, PipelineError> {
        // Frees a reader that waits for room, and learns how the source ended if it was cut off.
        while let Ok(message) = self.frames.recv() {
            if let Read::End {
                skipped,
                error,
                cut,
            } = message
            {
                self.end(&skipped, error, cut);
            }
        }
        drop(self.results);
        self.seconds.write += match self.writer.join() {
            Ok(written) => written?,
            Err(_) => return Err(PipelineError::Panicked("writing")),
        };
        stages.add(self.summary.frames, self.seconds.in_order());
        self.summary.dropped_detections = self.tracker.dropped_detections();
        self.summary.tracks = self.ids.len();
        Ok(self.summary)
    }
}
