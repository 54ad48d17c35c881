//! The two ends of a camera's line, each a thread: reading and writing.

use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use mtmc_models::Detection;

use super::TrackIdentity;
use crate::sink::{FrameResult, Sink, SinkError, Written};
use crate::source::{Frame, FrameSource, SkipCounts};
use crate::tracker::Track;

/// What the reading thread sends.
pub(super) enum Read {
    /// The next frame, and how long it took.
    Frame { frame: Frame, seconds: f64 },
    /// The last frame of an earlier run, which only the estimator of the camera's motion looks at.
    Before(Frame),
    /// The last message.
    End {
        skipped: SkipCounts,
        error: Option<String>,
        /// The run was halted; the source may have more.
        cut: bool,
    },
}

/// What the writing thread gets.
pub(super) enum Work {
    /// A frame with its results.
    Frame(Box<Done>),
    /// Make safe what came before, and say how much it is.
    Checkpoint(SyncSender<Checkpoint>),
}

/// One frame with its results, on the way to the sinks.
pub(super) struct Done {
    pub(super) frame: Frame,
    pub(super) detections: Vec<Detection>,
    pub(super) tracks: Vec<Track>,
    pub(super) identities: Vec<TrackIdentity>,
    pub(super) processing_time_ms: f64,
}

/// A writer's answer.
pub(super) struct Checkpoint {
    /// How much of each file is safe.
    pub(super) files: Vec<Written>,
    /// Seconds that the writer was busy since the run began.
    pub(super) seconds: f64,
}

/// How a source is read.
pub(super) struct Reading {
    pub(super) source: Box<dyn FrameSource>,
    /// Frames after which to stop, those of earlier runs among them.
    pub(super) limit: u64,
    /// Frames up to this number were done by an earlier run; 0 if none was.
    pub(super) done: u64,
    /// Pass the last one of those on once more.
    pub(super) repeat_last: bool,
}

impl Reading {
    /// Reads until the source ends, its limit is reached, or `halted`.
    pub(super) fn run(mut self, frames: &SyncSender<Read>, halted: impl Fn() -> bool) {
        let mut error = None;
        let mut cut = false;
        let mut count = 0;
        while count < self.limit {
            if halted() {
                cut = true;
                break;
            }
            let started = Instant::now();
            match self.source.next_frame() {
                Ok(Some(frame)) => {
                    count += 1;
                    let seconds = started.elapsed().as_secs_f64();
                    if !self.pass_on(frame, seconds, frames) {
                        return;
                    }
                }
                Ok(None) => break,
                Err(failure) => {
                    error = Some(failure.to_string());
                    break;
                }
            }
        }
        let skipped = self.source.skipped().clone();
        // Nobody listens any more only if the run failed already.
        let _ = frames.send(Read::End {
            skipped,
            error,
            cut,
        });
    }

    /// False when nobody listens any more.
    fn pass_on(&self, frame: Frame, seconds: f64, frames: &SyncSender<Read>) -> bool {
        if frame.number > self.done {
            return frames.send(Read::Frame { frame, seconds }).is_ok();
        }
        if frame.number == self.done && self.repeat_last {
            return frames.send(Read::Before(frame)).is_ok();
        }
        true
    }
}

/// How a camera's results are written.
pub(super) struct Writing {
    pub(super) sinks: Vec<Box<dyn Sink>>,
    pub(super) name: String,
    pub(super) classes: Vec<String>,
    /// Detections below this score are not reported.
    pub(super) report_threshold: f32,
}

impl Writing {
    /// Writes until the results end, then finishes every sink; gives the seconds it took.
    pub(super) fn run(mut self, results: &Receiver<Work>) -> Result<f64, SinkError> {
        let mut busy = Duration::ZERO;
        let mut failure = None;
        while let Ok(work) = results.recv() {
            let started = Instant::now();
            let outcome = match work {
                Work::Frame(done) => self.write(*done),
                Work::Checkpoint(answer) => self.checkpoint().map(|files| {
                    let seconds = (busy + started.elapsed()).as_secs_f64();
                    // Nobody waits for it only if the run failed already.
                    let _ = answer.send(Checkpoint { files, seconds });
                }),
            };
            busy += started.elapsed();
            if let Err(error) = outcome {
                failure = Some(error);
                break;
            }
        }
        let started = Instant::now();
        for sink in self.sinks {
            // What can be saved is saved, whatever failed before.
            if let Err(error) = sink.finish() {
                failure = failure.or(Some(error));
            }
        }
        busy += started.elapsed();
        match failure {
            Some(error) => Err(error),
            None => Ok(busy.as_secs_f64()),
        }
    }

    fn write(&mut self, mut done: Done) -> Result<(), SinkError> {
        done.detections.retain(|d| d.score >= self.report_threshold);
        let result = FrameResult {
            source: &self.name,
            frame_number: done.frame.number,
            timestamp: done.frame.timestamp,
            image: &done.frame.image,
            detections: &done.detections,
            tracks: &done.tracks,
            identities: &done.identities,
            classes: &self.classes,
            processing_time_ms: done.processing_time_ms,
        };
        for sink in &mut self.sinks {
            sink.write(&result)?;
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Vec<Written>, SinkError> {
        let mut files = Vec::new();
        for sink in &mut self.sinks {
            files.extend(sink.checkpoint()?);
        }
        Ok(files)
    }
}
