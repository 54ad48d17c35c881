//! The middle of a run: all cameras' frames in steps by their time, through the networks in
//! batches, to the trackers and the world; and when to take a snapshot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mtmc_models::{BBox, Detection, Embedder};
use rayon::prelude::*;

use super::line::{Context, Line, Motion, NetworkSeconds, Tracked};
use super::snapshot::{Snapshot, Snapshots};
use super::{Networks, Options, PipelineError, Shared, TrackedFrame, world};
use crate::reid::{self, Request};
use crate::sink::StepOutcome;
use crate::source::Frame;

/// A run at work.
pub(super) struct Steps<'scope, 'a> {
    pub(super) lines: Vec<Line<'scope>>,
    pub(super) shared: Option<Shared>,
    pub(super) networks: Networks<'a>,
    pub(super) options: &'a Options,
    pub(super) snapshots: Option<Snapshots>,
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

/// A batch: each time step with its number of frames, and all frames with their cameras.
struct Batch {
    times: Vec<(f64, usize)>,
    frames: Vec<(usize, Frame)>,
}

impl Steps<'_, '_> {
    /// Goes through the cameras' time steps, batch after batch.
    pub(super) fn run(
        &mut self,
        stop: &AtomicBool,
        progress: &impl Fn(u64),
    ) -> Result<Ended, PipelineError> {
        loop {
            let stopped = stop.load(Ordering::Relaxed);
            let batch = (!stopped).then(|| self.next_batch());
            // Once a reader was halted, its camera would be missing in steps that it has frames
            // for: such a batch is not done, so that a further run can do it right.
            let cut = self.lines.iter().any(|line| line.cut);
            let Some(batch) = batch.filter(|_| !cut) else {
                self.snapshot(true)?;
                return Ok(Ended::Stopped);
            };
            if batch.frames.is_empty() || !self.batch(batch)? {
                return Ok(Ended::Done);
            }
            progress(self.frames_done());
            if !self.snapshot(false)? {
                return Ok(Ended::Done);
            }
        }
    }

    fn frames_done(&self) -> u64 {
        self.lines.iter().map(|line| line.summary.frames).sum()
    }

    /// Does one batch. False when a writer is gone.
    fn batch(&mut self, batch: Batch) -> Result<bool, PipelineError> {
        let Batch { times, frames } = batch;
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
        let seconds = NetworkSeconds {
            detect,
            embed: share(started),
        };
        let people_above = self.options.report_threshold;
        camera_motions(
            &mut self.lines,
            &frames,
            &lists,
            people_above,
            &mut contexts,
        );
        let mut work = frames.into_iter().zip(lists).zip(contexts);
        for (time, count) in times {
            self.number += 1;
            let mut step = Vec::with_capacity(count);
            for (((camera, frame), detections), context) in work.by_ref().take(count) {
                let line = &mut self.lines[camera];
                step.push(line.track(camera, frame, detections, context, seconds));
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
                let summary = &mut self.lines[first.camera].summary;
                summary.embeddings += result.embedded[0];
                summary.refused_embeddings += result.embedded[1];
            }
            identities = result.identities;
        }
        let seconds = started.elapsed().as_secs_f64() / step.len().max(1) as f64;
        identities.resize_with(step.len(), Vec::new);
        for (tracked, identities) in step.into_iter().zip(identities) {
            let line = &mut self.lines[tracked.camera];
            line.seconds.world += seconds;
            if !line.send(tracked, identities, seconds) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whole time steps, as many as fit into a batch but at least one.
    fn next_batch(&mut self) -> Batch {
        let lines = &mut self.lines;
        let mut times = Vec::new();
        let mut frames = Vec::new();
        while let Some(time) = earliest(lines) {
            let due = time + self.options.tolerance.as_secs_f64();
            let before = frames.len();
            let cameras: Vec<usize> = (0..lines.len())
                .filter(|&camera| lines[camera].next_time().is_some_and(|next| next <= due))
                .collect();
            if before > 0 && before + cameras.len() > self.options.batch {
                break;
            }
            for camera in cameras {
                if let Some(frame) = lines[camera].waiting.take() {
                    frames.push((camera, frame));
                }
            }
            times.push((time, frames.len() - before));
            if frames.len() >= self.options.batch {
                break;
            }
        }
        Batch { times, frames }
    }

    /// Takes a snapshot if one is due, or if it is the `last` chance. False when a writer is gone.
    ///
    /// All files are made safe first, so that none is shorter than the snapshot says.
    fn snapshot(&mut self, last: bool) -> Result<bool, PipelineError> {
        let frames = self.frames_done();
        let Some(snapshots) = &mut self.snapshots else {
            return Ok(true);
        };
        if !snapshots.is_due(frames, last) {
            return Ok(true);
        }
        let answers: Vec<_> = self.lines.iter().map(Line::checkpoint).collect();
        let mut files = Vec::new();
        let mut cameras = Vec::with_capacity(self.lines.len());
        for (line, answer) in self.lines.iter().zip(answers) {
            let Some(checkpoint) = answer.and_then(|answer| answer.recv().ok()) else {
                return Ok(false);
            };
            files.extend(checkpoint.files);
            cameras.push(line.state(checkpoint.seconds));
        }
        if let Some(shared) = &mut self.shared {
            for sink in &mut shared.sinks {
                files.extend(sink.checkpoint()?);
            }
        }
        snapshots.write(Snapshot {
            step: self.number,
            elapsed: self.clock.elapsed(),
            cameras,
            world: self.shared.as_ref().map(|shared| &shared.world),
            files,
        });
        Ok(true)
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
