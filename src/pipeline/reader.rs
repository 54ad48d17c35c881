//! The beginning of a camera's line: a thread that reads its source, and comes back to it when it
//! failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inbox::{Inbox, Read};
use super::metrics::PipelineMetrics;
use crate::source::{Delays, Frame, FrameSource, Reopen, SkipCounts, with_causes};

/// How a source is read.
pub(super) struct Reading {
    /// Index in the run.
    pub(super) camera: usize,
    pub(super) name: String,
    pub(super) source: Box<dyn FrameSource>,
    pub(super) reopen: Option<Reopen>,
    pub(super) delays: Delays,
    /// Frames after which to stop, those of earlier runs among them.
    pub(super) limit: u64,
    /// When the run began, if a frame's time is when it arrives.
    pub(super) arrival: Option<Instant>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) metrics: Arc<PipelineMetrics>,
}

/// What an earlier run did.
#[derive(Clone, Copy)]
struct Behind {
    done: u64,
    repeat_last: bool,
}

/// Tells the inbox when a reader is gone, in whatever way.
struct Presence {
    inbox: Arc<Inbox>,
    camera: usize,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.inbox.reader_ended(self.camera);
    }
}

/// Where a source stands that may have been opened more than once.
#[derive(Default)]
struct Place {
    /// Frames read.
    count: u64,
    /// Number and time of the last one.
    last: u64,
    time: Duration,
    /// Added to numbers and times of a source that began anew.
    shift: (u64, Duration),
    /// When it failed, if it has given no frame since it was opened again.
    lost: Option<Instant>,
    /// Frames skipped by the sources before this one.
    skipped: SkipCounts,
}

/// The outcome of an attempt to go on after a failure.
enum Attempt {
    Back,
    /// It may be tried again; the reason, if there is a new one.
    NotYet(Option<String>),
    /// There is no way to.
    Never,
}

/// Why reading ends.
enum Ending {
    /// The source ended or failed for good.
    Source(Option<String>),
    /// Nobody listens any more.
    Run,
}

impl Reading {
    /// Starts the thread. It is not joined: a source may be stuck for longer than anyone waits.
    ///
    /// Frames up to the number `done` (0 for none) were done by an earlier run; `repeat_last`: the
    /// last one of those is passed on once more.
    pub(super) fn spawn(self, done: u64, repeat_last: bool) {
        let inbox = self.inbox.clone();
        let camera = self.camera;
        inbox.reader_began();
        let presence = Presence {
            inbox: inbox.clone(),
            camera,
        };
        let thread = std::thread::Builder::new().name(format!("read {}", self.name));
        let spawned = thread.spawn(move || {
            self.run(Behind { done, repeat_last });
            drop(presence);
        });
        // The presence is gone with the closure, and has told an end already.
        if let Err(error) = spawned {
            tracing::error!(camera, %error, "no reading thread");
        }
    }

    fn run(mut self, behind: Behind) {
        self.inbox.set_halt(self.camera, self.source.halt());
        let inbox = self.inbox.clone();
        let camera = self.camera;
        let ending = self.read(behind);
        // The source is gone before its end is told: what follows may open the same again.
        drop(self);
        if let Ending::Source(error) = ending {
            inbox.push(camera, Read::End(error));
        }
    }

    /// Reads until the source ends for good, its limit is reached, or the run is over.
    fn read(&mut self, behind: Behind) -> Ending {
        let mut place = Place::default();
        let mut opened = Instant::now();
        while place.count < self.limit {
            if self.inbox.is_over() {
                return Ending::Run;
            }
            let started = Instant::now();
            let outcome = self.source.next_frame();
            let seconds = started.elapsed().as_secs_f64();
            self.note_skipped(&place);
            let loss = match outcome {
                Ok(Some(frame)) => {
                    let frame = self.placed(frame, &mut place);
                    if !self.pass_on(frame, seconds, behind) {
                        return Ending::Run;
                    }
                    continue;
                }
                Ok(None) if self.source.is_live() => None,
                Ok(None) => return Ending::Source(None),
                Err(error) => Some(with_causes(&error)),
            };
            self.delays.lasted(opened.elapsed());
            if let Err(ending) = self.come_back(loss, &mut place) {
                return ending;
            }
            opened = Instant::now();
        }
        Ending::Source(None)
    }

    /// Numbers and times a frame behind those before it, whoever gave them.
    fn placed(&self, mut frame: Frame, place: &mut Place) -> Frame {
        if let Some(lost) = place.lost.take() {
            place.shift = (0, Duration::ZERO);
            if frame.number <= place.last {
                let rate = self.source.info().frame_rate.unwrap_or(30.0);
                let interval = Duration::try_from_secs_f64(1.0 / rate).unwrap_or_default();
                place.shift = (place.last, place.time + lost.elapsed().max(interval));
            }
        }
        frame.number += place.shift.0;
        frame.timestamp += place.shift.1;
        if let Some(began) = self.arrival {
            frame.timestamp = began.elapsed();
        }
        place.count += 1;
        place.last = frame.number;
        place.time = frame.timestamp;
        if let Some(counters) = self.metrics.cameras().get(self.camera) {
            counters.read.add(1);
        }
        frame
    }

    /// False when nobody listens any more.
    fn pass_on(&self, frame: Frame, seconds: f64, behind: Behind) -> bool {
        if frame.number > behind.done {
            return self.inbox.push(self.camera, Read::Frame { frame, seconds });
        }
        if frame.number == behind.done && behind.repeat_last {
            return self.inbox.push(self.camera, Read::Before(frame));
        }
        true
    }

    /// Goes on with the source or opens it again, however often that takes. `failure` is `None` for a
    /// live source that ended in good order: if nobody may try again, that is an end like others.
    fn come_back(&mut self, failure: Option<String>, place: &mut Place) -> Result<(), Ending> {
        let lost = Instant::now();
        // A source that cannot come back says so at once.
        let mut reason = match self.attempt(true, lost, place) {
            Attempt::Back => return Ok(()),
            Attempt::Never => return Err(Ending::Source(failure)),
            Attempt::NotYet(None) => failure,
            Attempt::NotYet(error) => error,
        };
        let camera = self.name.clone();
        let told = reason.clone().unwrap_or("the stream ended".to_string());
        tracing::warn!(camera, reason = told, "camera lost");
        if !self.inbox.push(self.camera, Read::Lost(told)) {
            return Err(Ending::Run);
        }
        let mut attempts = 0;
        while let Some(delay) = self.delays.next(lost.elapsed()) {
            if !self.inbox.pause(self.camera, delay) {
                return Err(Ending::Run);
            }
            attempts += 1;
            match self.attempt(false, lost, place) {
                Attempt::Back => {
                    tracing::info!(camera, attempts, "camera back");
                    return Ok(());
                }
                Attempt::NotYet(error) => reason = error.or(reason),
                Attempt::Never => {}
            }
            tracing::debug!(camera, attempts, reason, "camera still lost");
        }
        let seconds = lost.elapsed().as_secs();
        let tried =
            |reason| format!("{reason} (given up after {attempts} attempts in {seconds} s)");
        Err(Ending::Source(reason.map(tried)))
    }

    /// One attempt to go on: the source itself, or else whoever can open it anew, who waits for the
    /// first delay.
    fn attempt(&mut self, first: bool, lost: Instant, place: &mut Place) -> Attempt {
        match self.source.reopen() {
            Ok(true) => {}
            Err(error) => return Attempt::NotYet(Some(with_causes(&error))),
            Ok(false) => {
                let Some(reopen) = &mut self.reopen else {
                    return Attempt::Never;
                };
                if first {
                    return Attempt::NotYet(None);
                }
                match reopen(place.last) {
                    Ok(source) => {
                        add_skipped(&mut place.skipped, self.source.skipped());
                        place.lost = Some(lost);
                        self.source = source;
                        self.inbox.set_halt(self.camera, self.source.halt());
                    }
                    Err(error) => return Attempt::NotYet(Some(with_causes(&error))),
                }
            }
        }
        if let Some(counters) = self.metrics.cameras().get(self.camera) {
            counters.reconnects.add(1);
        }
        Attempt::Back
    }

    fn note_skipped(&self, place: &Place) {
        let Some(counters) = self.metrics.cameras().get(self.camera) else {
            return;
        };
        if place.skipped.count == 0 {
            counters.set_skipped(self.source.skipped());
            return;
        }
        let mut all = place.skipped.clone();
        add_skipped(&mut all, self.source.skipped());
        counters.set_skipped(&all);
    }
}

/// Adds the frames that a further source skipped.
fn add_skipped(all: &mut SkipCounts, more: &SkipCounts) {
    all.count += more.count;
    for (kind, count) in &more.kinds {
        *all.kinds.entry(*kind).or_default() += count;
    }
    let room = SkipCounts::MAX_EXAMPLES.saturating_sub(all.examples.len());
    all.examples
        .extend(more.examples.iter().take(room).cloned());
}
