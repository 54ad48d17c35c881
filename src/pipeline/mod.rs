//! Ties the stations together: every camera's frames in step, one detection and one embedding
//! batch over all of them, one tracker a camera, results to the sinks.
//!
//! Reading, the networks with tracking, and writing overlap: one reading and one writing thread a
//! camera, joined by bounded channels, so that memory does not grow with the length of a video
//! and a slow station holds back those before it. Results leave in the order of the frames, and
//! timing decides nothing: the same input gives the same tracks.

mod summary;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use mtmc_models::{BBox, DetectOptions, Detection, Detector, Embedder};
use rayon::prelude::*;

use crate::reid::{self, Embedded, Request};
use crate::sink::{FrameResult, Sink, SinkError};
use crate::source::{Frame, FrameSource, SkipCounts};
use crate::tracker::camera_motion::{CameraMotion, MotionEstimator};
use crate::tracker::{FrameDetections, Track, Tracker};

pub use summary::{CameraSummary, Stages, Summary};

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

/// What the reading thread sends.
enum Read {
    Frame {
        frame: Frame,
        seconds: f64,
    },
    End {
        skipped: SkipCounts,
        error: Option<String>,
    },
}

/// One frame with its results, on the way to the sinks.
struct Done {
    frame: Frame,
    detections: Vec<Detection>,
    tracks: Vec<Track>,
    processing_time_ms: f64,
}

/// Runs all cameras to their end, or until `stop` is raised; `progress` hears the number of
/// frames done so far.
///
/// A camera whose source fails is marked in the summary and the others go on.
///
/// # Errors
/// A network fails or a result cannot be written.
pub fn run(
    cameras: Vec<Camera>,
    networks: Networks<'_>,
    options: &Options,
    stop: &AtomicBool,
    progress: impl Fn(u64),
) -> Result<Summary, PipelineError> {
    let started = Instant::now();
    // Raised on any way out, so that no reading thread waits for a partner that is gone.
    let abandoned = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let halted = || stop.load(Ordering::Relaxed) || abandoned.load(Ordering::Relaxed);
        let mut lines: Vec<Line<'_>> = cameras
            .into_iter()
            .map(|camera| Line::start(scope, camera, options, halted))
            .collect();
        let outcome = steps(&mut lines, networks, options, &progress);
        abandoned.store(true, Ordering::Relaxed);
        // The writers finish their files in any case; their errors come first, since a failed
        // writer is what makes the steps end early.
        let mut summaries = Vec::new();
        let mut stages = Stages::default();
        let mut failure = None;
        for line in lines {
            match line.finish(&mut stages) {
                Ok(summary) => summaries.push(summary),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        outcome?;
        let interrupted = stop.load(Ordering::Relaxed);
        Ok(Summary::new(
            summaries,
            stages,
            started.elapsed(),
            interrupted,
        ))
    })
}

/// One camera at work.
struct Line<'scope> {
    frames: Receiver<Read>,
    tracker: Box<dyn Tracker>,
    motion: Option<MotionEstimator>,
    results: SyncSender<Done>,
    writer: ScopedJoinHandle<'scope, Result<f64, SinkError>>,
    ended: bool,
    summary: CameraSummary,
    ids: IdSet,
    read_seconds: f64,
    network_seconds: NetworkSeconds,
    track_seconds: f64,
}

/// One frame's share of the networks' time.
#[derive(Debug, Clone, Copy, Default)]
struct NetworkSeconds {
    detect: f64,
    embed: f64,
}

/// What is known of a frame beside its detections.
#[derive(Default)]
struct Context {
    embedded: Embedded,
    camera_motion: Option<CameraMotion>,
    motion_seconds: f64,
}

impl<'scope> Line<'scope> {
    fn start<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        camera: Camera,
        options: &Options,
        halted: impl Fn() -> bool + Send + Copy + 'scope,
    ) -> Self {
        let (frames_in, frames) = sync_channel(options.batch);
        let (results, results_out) = sync_channel(options.batch);
        let limit = options.max_frames.unwrap_or(u64::MAX);
        let source = camera.source;
        scope.spawn(move || read(source, &frames_in, limit, halted));
        let threshold = options.report_threshold;
        let summary = CameraSummary::named(&camera.name);
        let (sinks, writer_name, class_names) = (camera.sinks, camera.name, camera.classes);
        let writer =
            scope.spawn(move || write(sinks, &results_out, &writer_name, &class_names, threshold));
        Self {
            summary,
            frames,
            motion: camera
                .motion
                .filter(|_| camera.tracker.needs().camera_motion),
            tracker: camera.tracker,
            results,
            writer,
            ended: false,
            ids: IdSet::default(),
            read_seconds: 0.0,
            network_seconds: NetworkSeconds::default(),
            track_seconds: 0.0,
        }
    }

    /// The camera's next frame, waited for; `None` once it has ended.
    fn next(&mut self) -> Option<Frame> {
        if self.ended {
            return None;
        }
        match self.frames.recv() {
            Ok(Read::Frame { frame, seconds }) => {
                self.read_seconds += seconds;
                Some(frame)
            }
            Ok(Read::End { skipped, error }) => {
                self.end(&skipped, error);
                None
            }
            Err(_) => {
                self.summary.error = Some("the reading thread ended unexpectedly".to_string());
                self.ended = true;
                None
            }
        }
    }

    /// Notes how the source ended.
    fn end(&mut self, skipped: &SkipCounts, error: Option<String>) {
        self.summary.skipped = skipped.count;
        self.summary.skipped_frames = skipped.examples.iter().map(Into::into).collect();
        self.summary.error = error;
        self.ended = true;
    }

    /// Tracks one frame and passes it on. False when the writer is gone.
    fn track(
        &mut self,
        frame: Frame,
        detections: Vec<Detection>,
        context: Context,
        networks: NetworkSeconds,
    ) -> bool {
        let started = Instant::now();
        let found = FrameDetections {
            frame: frame.number,
            detections,
            embeddings: context.embedded.embeddings,
            camera_motion: context.camera_motion,
        };
        let tracks = self.tracker.update(&found);
        let seconds = started.elapsed().as_secs_f64() + context.motion_seconds;
        self.network_seconds.detect += networks.detect;
        self.network_seconds.embed += networks.embed;
        self.track_seconds += seconds;
        self.summary.frames += 1;
        self.summary.embeddings += context.embedded.made;
        self.summary.refused_embeddings += context.embedded.refused;
        self.summary.detections += found.detections.len() as u64;
        for track in &tracks {
            self.ids.insert(track.track_id);
        }
        let processing_time_ms = (networks.detect + networks.embed + seconds) * 1e3;
        self.results
            .send(Done {
                frame,
                detections: found.detections,
                tracks,
                processing_time_ms,
            })
            .is_ok()
    }

    fn finish(mut self, stages: &mut Stages) -> Result<CameraSummary, PipelineError> {
        // Frees a reader that waits for room, and learns how the source ended if it was cut off.
        while let Ok(message) = self.frames.recv() {
            if let Read::End { skipped, error } = message {
                self.end(&skipped, error);
            }
        }
        drop(self.results);
        let write_seconds = match self.writer.join() {
            Ok(written) => written?,
            Err(_) => return Err(PipelineError::Panicked("writing")),
        };
        stages.add(
            self.summary.frames,
            [
                self.read_seconds,
                self.network_seconds.detect,
                self.network_seconds.embed,
                self.track_seconds,
                write_seconds,
            ],
        );
        self.summary.dropped_detections = self.tracker.dropped_detections();
        self.summary.tracks = self.ids.len();
        Ok(self.summary)
    }
}

/// Which track IDs were seen: one bit each, since IDs count up from 1.
#[derive(Default)]
struct IdSet {
    words: Vec<u64>,
}

impl IdSet {
    fn insert(&mut self, id: u64) {
        let word = (id / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (id % 64);
    }

    fn len(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }
}

/// Steps through all cameras, batch after batch.
fn steps(
    lines: &mut [Line<'_>],
    networks: Networks<'_>,
    options: &Options,
    progress: &impl Fn(u64),
) -> Result<(), PipelineError> {
    let mut done = 0;
    loop {
        let frames = next_batch(lines, options.batch);
        if frames.is_empty() {
            return Ok(());
        }
        let share = |started: Instant| started.elapsed().as_secs_f64() / frames.len() as f64;
        let started = Instant::now();
        let images: Vec<_> = frames.iter().map(|(_, frame)| &frame.image).collect();
        let lists = networks
            .detector
            .detect(&images, &options.detect)
            .map_err(PipelineError::Detect)?;
        let detect = share(started);
        let started = Instant::now();
        let embedded = embed(lines, networks.embedder, &frames, &lists)?;
        let seconds = NetworkSeconds {
            detect,
            embed: share(started),
        };
        let mut contexts = embedded;
        camera_motions(
            lines,
            &frames,
            &lists,
            options.report_threshold,
            &mut contexts,
        );
        for (((camera, frame), detections), context) in frames.into_iter().zip(lists).zip(contexts)
        {
            if !lines[camera].track(frame, detections, context, seconds) {
                return Ok(()); // the writer's error is collected by `finish`
            }
            done += 1;
        }
        progress(done);
    }
}

/// One frame of each camera that still has some, and the next ones while there is room: camera
/// and frame.
fn next_batch(lines: &mut [Line<'_>], size: usize) -> Vec<(usize, Frame)> {
    let mut batch = Vec::with_capacity(size);
    let mut index = 0;
    while batch.len() < size && lines.iter().any(|line| !line.ended) {
        let camera = index % lines.len();
        if let Some(frame) = lines[camera].next() {
            batch.push((camera, frame));
        }
        index += 1;
    }
    batch
}

/// Embeds what each frame's tracker wants; nothing without an embedder.
fn embed(
    lines: &[Line<'_>],
    embedder: Option<&dyn Embedder>,
    frames: &[(usize, Frame)],
    lists: &[Vec<Detection>],
) -> Result<Vec<Context>, PipelineError> {
    let Some(embedder) = embedder else {
        return Ok(frames.iter().map(|_| Context::default()).collect());
    };
    let mut requests = Vec::with_capacity(frames.len());
    for ((camera, frame), detections) in frames.iter().zip(lists) {
        requests.push(Request {
            image: &frame.image,
            detections,
            above: lines[*camera].tracker.needs().embeddings_above,
        });
    }
    let embedded = reid::embed(embedder, &requests).map_err(PipelineError::Embed)?;
    let context = |embedded| Context {
        embedded,
        ..Context::default()
    };
    Ok(embedded.into_iter().map(context).collect())
}

/// Tells how each camera moved from frame to frame, for trackers that want to know: all cameras
/// at once, a camera's frames in order.
fn camera_motions(
    lines: &mut [Line<'_>],
    frames: &[(usize, Frame)],
    lists: &[Vec<Detection>],
    people_above: f32,
    contexts: &mut [Context],
) {
    let mut moving: Vec<(&mut MotionEstimator, Vec<(usize, &mut Context)>)> = Vec::new();
    let mut place_of = vec![None; lines.len()];
    for (camera, line) in lines.iter_mut().enumerate() {
        if let Some(estimator) = &mut line.motion {
            place_of[camera] = Some(moving.len());
            moving.push((estimator, Vec::new()));
        }
    }
    for (index, context) in contexts.iter_mut().enumerate() {
        if let Some(place) = place_of[frames[index].0] {
            moving[place].1.push((index, context));
        }
    }
    moving.into_par_iter().for_each(|(estimator, work)| {
        for (index, context) in work {
            let started = Instant::now();
            let people: Vec<BBox> = lists[index]
                .iter()
                .filter(|detection| detection.score >= people_above)
                .map(|detection| detection.bbox)
                .collect();
            context.camera_motion = Some(estimator.next(&frames[index].1.image, &people));
            context.motion_seconds = started.elapsed().as_secs_f64();
        }
    });
}

fn read(
    mut source: Box<dyn FrameSource>,
    frames: &SyncSender<Read>,
    limit: u64,
    halted: impl Fn() -> bool,
) {
    let mut error = None;
    let mut count = 0;
    while count < limit && !halted() {
        let started = Instant::now();
        match source.next_frame() {
            Ok(Some(frame)) => {
                let seconds = started.elapsed().as_secs_f64();
                if frames.send(Read::Frame { frame, seconds }).is_err() {
                    return;
                }
                count += 1;
            }
            Ok(None) => break,
            Err(failure) => {
                error = Some(failure.to_string());
                break;
            }
        }
    }
    let skipped = source.skipped().clone();
    // Nobody listens any more only if the run failed already.
    let _ = frames.send(Read::End { skipped, error });
}

/// Writes until the results end, then finishes every sink; gives the seconds it took.
fn write(
    mut sinks: Vec<Box<dyn Sink>>,
    results: &Receiver<Done>,
    name: &str,
    classes: &[String],
    report_threshold: f32,
) -> Result<f64, SinkError> {
    let mut busy = Duration::ZERO;
    let mut failure = None;
    while let Ok(mut done) = results.recv() {
        let started = Instant::now();
        done.detections.retain(|d| d.score >= report_threshold);
        let result = FrameResult {
            source: name,
            frame_number: done.frame.number,
            timestamp: done.frame.timestamp,
            image: &done.frame.image,
            detections: &done.detections,
            tracks: &done.tracks,
            classes,
            processing_time_ms: done.processing_time_ms,
        };
        for sink in &mut sinks {
            if let Err(error) = sink.write(&result) {
                failure = Some(error);
                break;
            }
        }
        busy += started.elapsed();
        if failure.is_some() {
            break;
        }
    }
    let started = Instant::now();
    for sink in sinks {
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
