//! The end of a camera's line: a thread that writes its results.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

use mtmc_models::Detection;

use super::TrackIdentity;
use super::counts::Stage;
use super::metrics::PipelineMetrics;
use crate::annotate::privacy::{Hider, Tracked};
use crate::sink::{FrameResult, Sink, SinkError, Written};
use crate::source::Frame;
use crate::tracker::Track;

/// What the writing thread gets.
pub(super) enum Work {
    /// A frame with its results.
    Frame(Box<Done>),
    /// Make safe what came before, and say how much it is.
    Checkpoint(SyncSender<Vec<Written>>),
}

/// One frame with its results, on the way to the sinks.
pub(super) struct Done {
    pub(super) frame: Frame,
    pub(super) detections: Vec<Detection>,
    pub(super) tracks: Vec<Track>,
    pub(super) identities: Vec<TrackIdentity>,
    pub(super) processing_time_ms: f64,
}

/// How a camera's results are written.
pub(super) struct Writing {
    /// Index in the run.
    pub(super) camera: usize,
    pub(super) sinks: Vec<Box<dyn Sink>>,
    pub(super) name: String,
    pub(super) classes: Vec<String>,
    /// Detections below this score are not reported.
    pub(super) report_threshold: f32,
    /// Hides people from the sinks.
    pub(super) hider: Hider,
    pub(super) metrics: Arc<PipelineMetrics>,
}

impl Writing {
    /// Writes until the results end, then finishes every sink.
    pub(super) fn run(mut self, results: &Receiver<Work>) -> Result<(), SinkError> {
        let mut failure = None;
        while let Ok(work) = results.recv() {
            let outcome = match work {
                Work::Frame(done) => self.write(*done),
                Work::Checkpoint(answer) => self.checkpoint().map(|files| {
                    // Nobody waits for it only if the run failed already.
                    let _ = answer.send(files);
                }),
            };
            if let Err(error) = outcome {
                failure = Some(error);
                break;
            }
        }
        for sink in self.sinks {
            // What can be saved is saved, whatever failed before.
            if let Err(error) = sink.finish() {
                failure = failure.or(Some(error));
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn write(&mut self, mut done: Done) -> Result<(), SinkError> {
        let started = Instant::now();
        if let Some(counters) = self.metrics.cameras().get(self.camera) {
            counters.results_waiting.lower();
        }
        if self.hider.hides() {
            hide(&mut self.hider, &mut done);
        }
        done.detections.retain(|d| d.score >= self.report_threshold);
        let result = FrameResult {
            camera: self.camera,
            source: &self.name,
            frame_number: done.frame.number,
            timestamp: done.frame.timestamp,
            image: &done.frame.image,
            jpeg: done.frame.jpeg.as_deref(),
            detections: &done.detections,
            tracks: &done.tracks,
            identities: &done.identities,
            classes: &self.classes,
            processing_time_ms: done.processing_time_ms,
        };
        for sink in &mut self.sinks {
            sink.write(&result)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.observe(Stage::Write, seconds);
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

/// Hides everybody who was detected, however unsurely, or tracked. The file that the frame came from
/// shows them: it goes no further.
fn hide(hider: &mut Hider, done: &mut Done) {
    let tracks = done.tracks.iter().map(|track| Tracked {
        track_id: track.track_id,
        bbox: track.bbox,
        velocity: track.velocity,
    });
    let found = done.detections.iter().map(|detection| detection.bbox);
    hider.hide(&mut done.frame.image, done.frame.number, found, tracks);
    done.frame.jpeg = None;
}
