//! Ties the stations together: every camera's frames in step by their time, one detection and one
//! embedding batch over all of them, one tracker a camera, one [`World`] for all, results to the
//! sinks.
//!
//! Reading, the networks with tracking, and writing overlap: one reading and one writing thread a
//! camera, joined by bounded channels, so that memory does not grow with the length of a video
//! and a slow station holds back those before it. Results leave in the order of the frames, and
//! timing decides nothing: the same input gives the same tracks.

mod summary;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use mtmc_models::{BBox, DetectOptions, Detection, Detector, Embedder};
use rayon::prelude::*;

use crate::reid::{self, Embedded, Request};
use crate::sink::{FrameResult, Sink, SinkError, StepOutcome, WorldSink};
use crate::source::{Frame, FrameSource, SkipCounts};
use crate::tracker::camera_motion::{CameraMotion, MotionEstimator};
use crate::tracker::{FrameDetections, Track, Tracker};

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
    identities: Vec<TrackIdentity>,
    processing_time_ms: f64,
}

/// One camera's frame in a time step, tracked.
struct Tracked {
    camera: usize,
    frame: Frame,
    found: FrameDetections,
    tracks: Vec<Track>,
    seconds: f64,
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
    mut shared: Option<Shared>,
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
        let outcome = steps(&mut lines, &mut shared, networks, options, &progress);
        let world_outcome = finish_world(shared);
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
        world_outcome?;
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
    /// The next frame, if it was looked at already.
    waiting: Option<Frame>,
    start_offset: f64,
    summary: CameraSummary,
    ids: IdSet,
    read_seconds: f64,
    network_seconds: NetworkSeconds,
    track_seconds: f64,
    world_seconds: f64,
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
            waiting: None,
            start_offset: camera.start_offset,
            ids: IdSet::default(),
            read_seconds: 0.0,
            network_seconds: NetworkSeconds::default(),
            track_seconds: 0.0,
            world_seconds: 0.0,
        }
    }

    /// Time of the camera's next frame in the environment, in seconds; waits for it. `None` once
    /// the camera has ended.
    fn next_time(&mut self) -> Option<f64> {
        if self.waiting.is_none() {
            self.waiting = self.receive();
        }
        let frame = self.waiting.as_ref()?;
        Some(frame.timestamp.as_secs_f64() + self.start_offset)
    }

    /// The camera's next frame, waited for; `None` once it has ended.
    fn receive(&mut self) -> Option<Frame> {
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

    /// Tracks one frame.
    fn track(
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
        Tracked {
            camera,
            frame,
            found,
            tracks,
            seconds: networks.detect + networks.embed + seconds,
        }
    }

    /// Passes a frame's results on. False when the writer is gone.
    fn send(&self, tracked: Tracked, identities: Vec<TrackIdentity>, world_seconds: f64) -> bool {
        self.results
            .send(Done {
                frame: tracked.frame,
                detections: tracked.found.detections,
                tracks: tracked.tracks,
                identities,
                processing_time_ms: (tracked.seconds + world_seconds) * 1e3,
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
                self.world_seconds,
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

/// Goes through the cameras' time steps, batch after batch.
fn steps(
    lines: &mut [Line<'_>],
    shared: &mut Option<Shared>,
    networks: Networks<'_>,
    options: &Options,
    progress: &impl Fn(u64),
) -> Result<(), PipelineError> {
    let mut done = 0;
    let mut number = 0;
    loop {
        let (times, frames) = next_batch(lines, options);
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
        let mut contexts = embed(lines, networks.embedder, &frames, &lists)?;
        let seconds = NetworkSeconds {
            detect,
            embed: share(started),
        };
        camera_motions(
            lines,
            &frames,
            &lists,
            options.report_threshold,
            &mut contexts,
        );
        done += frames.len() as u64;
        let mut work = frames.into_iter().zip(lists).zip(contexts);
        for (time, count) in times {
            number += 1;
            let mut step = Vec::with_capacity(count);
            for (((camera, frame), detections), context) in work.by_ref().take(count) {
                step.push(lines[camera].track(camera, frame, detections, context, seconds));
            }
            if !finish_step(lines, shared, networks.embedder, number, time, step)? {
                return Ok(()); // the writer's error is collected by `finish`
            }
        }
        progress(done);
    }
}

/// Tells the world what the cameras saw in a time step, and passes the results on. False when a
/// writer is gone.
fn finish_step(
    lines: &mut [Line<'_>],
    shared: &mut Option<Shared>,
    embedder: Option<&dyn Embedder>,
    number: u64,
    time: f64,
    step: Vec<Tracked>,
) -> Result<bool, PipelineError> {
    let started = Instant::now();
    let mut identities = Vec::new();
    if let Some(shared) = shared {
        let frames: Vec<TrackedFrame<'_>> = step
            .iter()
            .map(|tracked| TrackedFrame {
                camera: tracked.camera,
                number: tracked.frame.number,
                image: Some(&tracked.frame.image),
                frame_size: world::size(&tracked.frame.image),
                detections: &tracked.found.detections,
                embeddings: &tracked.found.embeddings,
                tracks: &tracked.tracks,
            })
            .collect();
        let result = shared
            .world
            .step(time, &frames, embedder)
            .map_err(PipelineError::Embed)?;
        let outcome = StepOutcome {
            number,
            time,
            events: &result.events,
            people: &result.people,
        };
        for sink in &mut shared.sinks {
            sink.write(&outcome)?;
        }
        if let Some(first) = step.first() {
            let summary = &mut lines[first.camera].summary;
            summary.embeddings += result.embedded[0];
            summary.refused_embeddings += result.embedded[1];
        }
        identities = result.identities;
    }
    let seconds = started.elapsed().as_secs_f64() / step.len().max(1) as f64;
    identities.resize_with(step.len(), Vec::new);
    for (tracked, identities) in step.into_iter().zip(identities) {
        let line = &mut lines[tracked.camera];
        line.world_seconds += seconds;
        if !line.send(tracked, identities, seconds) {
            return Ok(false);
        }
    }
    Ok(true)
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

/// A batch: each time step with its number of frames, and all frames with their cameras.
type Batch = (Vec<(f64, usize)>, Vec<(usize, Frame)>);

/// Whole time steps, as many as fit into a batch but at least one.
fn next_batch(lines: &mut [Line<'_>], options: &Options) -> Batch {
    let mut times = Vec::new();
    let mut frames = Vec::new();
    while let Some(time) = earliest(lines) {
        let due = time + options.tolerance.as_secs_f64();
        let before = frames.len();
        let cameras: Vec<usize> = (0..lines.len())
            .filter(|&camera| lines[camera].next_time().is_some_and(|next| next <= due))
            .collect();
        if before > 0 && before + cameras.len() > options.batch {
            break;
        }
        for camera in cameras {
            if let Some(frame) = lines[camera].waiting.take() {
                frames.push((camera, frame));
            }
        }
        times.push((time, frames.len() - before));
        if frames.len() >= options.batch {
            break;
        }
    }
    (times, frames)
}

/// The time of the earliest frame that any camera has next.
fn earliest(lines: &mut [Line<'_>]) -> Option<f64> {
    lines
        .iter_mut()
        .filter_map(Line::next_time)
        .min_by(f64::total_cmp)
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
            identities: &done.identities,
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
