//! The middle of a run: all cameras' frames in steps by their time, through the networks in
//! batches, to the trackers and the world; and when to take a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mtmc_models::{BBox, Detection, Embedder};
use rayon::prelude::*;

use super::counts::Stage;
use super::erasures::Erasures;
use super::inbox::Inbox;
use super::line::{Context, Line, Motion, SecondsBefore, Tracked};
use super::metrics::PipelineMetrics;
use super::snapshot::{self, Snapshot, Snapshots};
use super::stepping::{Next, Stepping};
use super::throttle::Throttle;
use super::{Networks, Options, PipelineError, Shared, TrackedFrame, World, world};
use crate::reid::{self, Request};
use crate::sink::{StepOutcome, Written};
use crate::source::Frame;

/// A run at work.
pub(super) struct Steps<'scope, 'a> {
    pub(super) inbox: Arc<Inbox>,
    pub(super) stepping: Stepping,
    pub(super) lines: Vec<Line<'scope>>,
    pub(super) shared: Option<Shared>,
    pub(super) networks: Networks<'a>,
    pub(super) options: &'a Options,
    pub(super) snapshots: Option<Snapshots>,
    pub(super) metrics: Arc<PipelineMetrics>,
    pub(super) throttle: Arc<Throttle>,
    pub(super) erasures: Arc<Erasures>,
    pub(super) stop: &'a AtomicBool,
    pub(super) progress: &'a dyn Fn(u64),
    /// Time steps so far.
    pub(super) number: u64,
    pub(super) clock: Clock,
}

/// How long a run has taken, those that it resumes among it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    before: Duration,
    started: Instant,
}

impl Clock {
    pub(super) fn since(before: Duration) -> Self {
        Self {
            before,
            started: Instant::now(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.before + self.started.elapsed()
    }
}

/// Why the steps ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Every camera has ended, or a writer is gone, whose error the camera's end tells.
    Done,
    /// From outside, between two batches.
    Stopped,
}

/// A batch: each time step with its number of frames, and all frames with their cameras and the
/// seconds that reading them took.
#[derive(Default)]
struct Batch {
    times: Vec<(f64, usize)>,
    frames: Vec<(usize, Frame)>,
    read: Vec<f64>,
}

/// How soon a run that waits for frames notices that it is to stop.
const POLL: Duration = Duration::from_millis(50);

impl Steps<'_, '_> {
    /// Goes through the cameras' time steps, batch after batch.
    pub(super) fn run(&mut self) -> Result<Ended, PipelineError> {
        loop {
            if !self.erase()? {
                return Ok(Ended::Done);
            }
            // What was taken out of the queues for a batch that is cut short is not done: a further
            // run reads it again.
            let Some(batch) = self.next_batch() else {
                self.snapshot(true)?;
                return Ok(Ended::Stopped);
            };
            if batch.frames.is_empty() || !self.batch(batch)? {
                return Ok(Ended::Done);
            }
            (self.progress)(self.metrics.frames());
            if !self.snapshot(false)? {
                return Ok(Ended::Done);
            }
        }
    }

    /// Does one batch. False when a writer is gone.
    fn batch(&mut self, batch: Batch) -> Result<bool, PipelineError> {
        let Batch {
            times,
            frames,
            read,
        } = batch;
        let share = |started: Instant| started.elapsed().as_secs_f64() / frames.len() as f64;
        let started = Instant::now();
        let images: Vec<_> = frames.iter().map(|(_, frame)| &frame.image).collect();
        let lists = self
            .networks
            .detector
            .detect(&images, &self.options.detect)
            .map_err(PipelineError::Detect)?;
        let detect = share(started);
        let started = Instant::now();
        let mut contexts = embed(&self.lines, self.networks.embedder, &frames, &lists)?;
        let embed = share(started);
        let people_above = self.options.report_threshold;
        camera_motions(
            &mut self.lines,
            &frames,
            &lists,
            people_above,
            &mut contexts,
        );
        let mut work = frames.into_iter().zip(read).zip(lists).zip(contexts);
        for (time, count) in times {
            self.number += 1;
            let mut step = Vec::with_capacity(count);
            for ((((camera, frame), read), detections), context) in work.by_ref().take(count) {
                let before = SecondsBefore {
                    read,
                    detect,
                    embed,
                };
                let line = &mut self.lines[camera];
                step.push(line.track(frame, detections, context, before));
            }
            if !self.finish_step(time, step)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells the world what the cameras saw in a time step, and passes the results on. False when
    /// a writer is gone.
    fn finish_step(&mut self, time: f64, step: Vec<Tracked>) -> Result<bool, PipelineError> {
        let started = Instant::now();
        let mut identities = Vec::new();
        if let Some(shared) = &mut self.shared {
            let frames: Vec<TrackedFrame<'_>> = step.iter().map(tracked_frame).collect();
            let result = shared
                .world
                .step(time, &frames, self.networks.embedder)
                .map_err(PipelineError::Embed)?;
            let outcome = StepOutcome {
                number: self.number,
                time,
                events: &result.events,
                people: &result.people,
            };
            for sink in &mut shared.sinks {
                sink.write(&outcome)?;
            }
            if let Some(first) = step.first() {
                self.lines[first.camera].count_embeddings(result.embedded);
            }
            self.metrics.count_world(&result, step.len());
            identities = result.identities;
        }
        let gallery = self.shared.as_ref().map(|shared| shared.world.gallery());
        self.metrics.count_step(gallery);
        let seconds = started.elapsed().as_secs_f64() / step.len().max(1) as f64;
        identities.resize_with(step.len(), Vec::new);
        for (tracked, identities) in step.into_iter().zip(identities) {
            self.metrics.observe(Stage::World, seconds);
            if !self.lines[tracked.camera].send(tracked, identities, seconds) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whole time steps, as many as fit into a batch but at least one; empty when every camera has
    /// ended. `None` if the run is to stop.
    fn next_batch(&mut self) -> Option<Batch> {
        let inbox = self.inbox.clone();
        let live = self.options.sync.is_live();
        let most = self.throttle.limit(self.options.batch);
        let mut batch = Batch::default();
        let mut state = inbox.lock();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let filled = batch.frames.len();
            let room = (filled > 0).then(|| most - filled);
            let next = self.stepping.next(&mut state.queues, room, Instant::now());
            match next {
                Next::Step(step) => {
                    batch.times.push((step.time, step.frames.len()));
                    for (camera, frame, seconds) in step.frames {
                        batch.frames.push((camera, frame));
                        batch.read.push(seconds);
                    }
                    if batch.frames.len() >= most {
                        return Some(batch);
                    }
                }
                Next::Before(camera, frame) => {
                    drop(state);
                    if let Some(motion) = &mut self.lines[camera].motion {
                        motion.estimator.next(&frame.image, &motion.people);
                    }
                    state = inbox.lock();
                }
                Next::Full | Next::Over => return Some(batch),
                // Live, frames that are there do not wait for others to fill the batch.
                Next::Wait(_) if live && filled > 0 => return Some(batch),
                Next::Wait(most) => {
                    let (waited, in_vain) = inbox.wait(state, most.min(POLL));
                    state = waited;
                    if in_vain {
                        drop(state);
                        (self.progress)(self.metrics.frames());
                        // What it cannot do now, it cannot do after the batch either, and is told then.
                        let _ = self.erase();
                        state = inbox.lock();
                    }
                }
            }
        }
    }

    /// Erases whom it was asked to: from the world, the trackers and the snapshots. When it returns,
    /// all that was found before is with the sinks. False when a writer is gone.
    fn erase(&mut self) -> Result<bool, PipelineError> {
        let Some(taken) = self.erasures.take() else {
            return Ok(true);
        };
        if let Some(shared) = &mut self.shared {
            let trackers = self.lines.iter_mut().map(|line| &mut line.tracker);
            snapshot::forget(&mut shared.world, &taken.ids, trackers);
        }
        let Some(files) = self.checkpoint()? else {
            return Ok(false);
        };
        if let Some(mut snapshots) = self.snapshots.take() {
            snapshots.replace(self.state(files));
            self.snapshots = Some(snapshots);
        }
        self.erasures.settle(&taken);
        Ok(true)
    }

    /// Takes a snapshot if one is due, or if it is the `last` chance. False when a writer is gone.
    fn snapshot(&mut self, last: bool) -> Result<bool, PipelineError> {
        let frames = self.metrics.frames();
        let due = |snapshots: &Snapshots| snapshots.is_due(frames, last);
        if !self.snapshots.as_ref().is_some_and(due) {
            return Ok(true);
        }
        let Some(files) = self.checkpoint()? else {
            return Ok(false);
        };
        if let Some(mut snapshots) = self.snapshots.take() {
            snapshots.write(self.state(files));
            self.snapshots = Some(snapshots);
        }
        Ok(true)
    }

    /// Has all files made safe, so that none is shorter than a snapshot says, and tells how much of
    /// each there is. `None` when a writer is gone.
    fn checkpoint(&mut self) -> Result<Option<Vec<Written>>, PipelineError> {
        let answers: Vec<_> = self.lines.iter().map(Line::checkpoint).collect();
        let mut files = Vec::new();
        for answer in answers {
            let Some(written) = answer.and_then(|answer| answer.recv().ok()) else {
                return Ok(None);
            };
            files.extend(written);
        }
        if let Some(shared) = &mut self.shared {
            for sink in &mut shared.sinks {
                files.extend(sink.checkpoint()?);
            }
        }
        Ok(Some(files))
    }

    /// All that a further run needs, right after a checkpoint.
    fn state(&self, files: Vec<Written>) -> Snapshot<&World> {
        Snapshot {
            step: self.number,
            elapsed: self.clock.elapsed(),
            cameras: self.lines.iter().map(Line::state).collect(),
            // The writers have nothing to do now: what they count is of the same frames.
            metrics: self.metrics.snapshot(),
            world: self.shared.as_ref().map(|shared| &shared.world),
            files,
        }
    }
}

fn tracked_frame(tracked: &Tracked) -> TrackedFrame<'_> {
    TrackedFrame {
        camera: tracked.camera,
        number: tracked.frame.number,
        image: Some(&tracked.frame.image),
        frame_size: world::size(&tracked.frame.image),
        detections: &tracked.found.detections,
        embeddings: &tracked.found.embeddings,
        tracks: &tracked.tracks,
    }
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
    let mut moving: Vec<(&mut Motion, Vec<(usize, &mut Context)>)> = Vec::new();
    let mut place_of = vec![None; lines.len()];
    for (camera, line) in lines.iter_mut().enumerate() {
        if let Some(motion) = &mut line.motion {
            place_of[camera] = Some(moving.len());
            moving.push((motion, Vec::new()));
        }
    }
    for (index, context) in contexts.iter_mut().enumerate() {
        if let Some(place) = place_of[frames[index].0] {
            moving[place].1.push((index, context));
        }
    }
    moving.into_par_iter().for_each(|(motion, work)| {
        for (index, context) in work {
            let started = Instant::now();
            let people: Vec<BBox> = lists[index]
                .iter()
                .filter(|detection| detection.score >= people_above)
                .map(|detection| detection.bbox)
                .collect();
            let image = &frames[index].1.image;
            context.camera_motion = Some(motion.estimator.next(image, &people));
            motion.people = people;
            context.motion_seconds = started.elapsed().as_secs_f64();
        }
    });
}
