//! Which frames make a time step.
//!
//! A step is the earliest frame that waits and the frames of other cameras that are later by no more
//! than the tolerance. How long cameras without a waiting frame are waited for is the
//! [`SyncMode`]'s to say.
//!
//! Live, a step waits for a camera only
//! - until the longest wait is over, counted from when the step's first frame was noticed,
//! - if the camera is not away already: lost, or left out of a step and not in time since then,
//! - if its next frame can belong to the step: nearly an interval after its last one at the earliest,
//!   and, where a frame's time is when it arrives, before the step's time is over.

use std::time::{Duration, Instant};

use super::counts::CameraState;
use super::inbox::{Queue, Read};
use crate::source::Frame;

/// How cameras are kept in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// Every frame is tracked, each step waits for every camera: for files. A source that failed
    /// and can go on where it stopped is waited for; a live one is not. Timing decides nothing, the
    /// same input gives the same results.
    #[default]
    Lossless,
    /// Nobody waits for long: for cameras that go on whether or not anyone looks. Which frames are
    /// tracked depends on timing, so that two runs differ.
    Live {
        /// How long a time step waits for a camera that has no frame; then the others go on without
        /// it. What it gives later for this step or before is dropped as late.
        max_wait: Duration,
        /// Most frames of a camera that wait for the networks; then the oldest is dropped.
        queue: usize,
    },
}

impl SyncMode {
    /// How long to wait for cameras on a network, unless there are reasons for another time.
    pub const MAX_WAIT: Duration = Duration::from_millis(500);

    /// Live, with so few frames waiting that results are fresh.
    pub fn live(max_wait: Duration) -> Self {
        Self::Live { max_wait, queue: 2 }
    }

    /// Whether frames may be dropped.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Live { .. })
    }
}

/// Where a camera stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It gives frames.
    Expected,
    /// Live: it gave none in time.
    LeftOut,
    /// Its source failed and is being opened again.
    Lost,
    Ended,
}

/// What decides when a camera's next frame belongs to a step.
#[derive(Debug)]
pub(super) struct Member {
    /// Added to its frames' times.
    pub(super) offset: f64,
    /// Seconds from frame to frame, if the source tells.
    pub(super) interval: Option<f64>,
    /// Its source is of now: see [`FrameSource::is_live`](crate::source::FrameSource::is_live).
    pub(super) live: bool,
    standing: Standing,
    /// Time of its last frame in a step.
    last: Option<f64>,
    /// It had a frame in the latest step.
    served: bool,
}

impl Member {
    pub(super) fn new(offset: f64, interval: Option<f64>, live: bool) -> Self {
        Self {
            offset,
            interval,
            live,
            standing: Standing::Expected,
            last: None,
            served: false,
        }
    }
}

/// Forms the steps of a run.
pub(super) struct Stepping {
    mode: SyncMode,
    /// In seconds.
    tolerance: f64,
    /// When the run began: live sources' times count from here.
    began: Instant,
    members: Vec<Member>,
    /// Time of the latest step, and until when frames belonged to it.
    latest: f64,
    over: f64,
    /// When the next step's first frame was noticed.
    noticed: Option<Instant>,
}

/// Frames of one time step.
pub(super) struct Step {
    /// In seconds; never before that of an earlier step.
    pub(super) time: f64,
    /// Camera, frame and the seconds that reading it took, in the order of the cameras.
    pub(super) frames: Vec<(usize, Frame, f64)>,
}

/// What there is to do.
pub(super) enum Next {
    Step(Step),
    /// A frame that only the estimator of a camera's motion is to see.
    Before(usize, Frame),
    /// To wait for frames, no longer than this.
    Wait(Duration),
    /// The next step has more frames than there is room for.
    Full,
    /// Every camera has ended.
    Over,
}

/// A camera's next frame comes no earlier than this part of an interval after its last one.
const EARLIEST: f64 = 0.9;

/// There is nothing to do before a message comes.
const UNTIL_NEWS: Duration = Duration::MAX;

impl Stepping {
    pub(super) fn new(
        mode: SyncMode,
        tolerance: Duration,
        began: Instant,
        members: Vec<Member>,
    ) -> Self {
        Self {
            mode,
            tolerance: tolerance.as_secs_f64(),
            began,
            members,
            latest: f64::NEG_INFINITY,
            over: f64::NEG_INFINITY,
            noticed: None,
        }
    }

    /// The next step, if it can be formed now, taken out of the queues; `room`: how many frames it
    /// may have, if that matters.
    pub(super) fn next(&mut self, queues: &mut [Queue], room: Option<usize>, now: Instant) -> Next {
        for (camera, queue) in queues.iter_mut().enumerate() {
            if let Some(frame) = self.digest(camera, queue) {
                return Next::Before(camera, frame);
            }
        }
        let times: Vec<Option<f64>> = queues
            .iter()
            .zip(&self.members)
            .map(|(queue, member)| head_time(queue, member))
            .collect();
        let Some(time) = times.iter().flatten().copied().min_by(f64::total_cmp) else {
            let ended = |member: &Member| member.standing == Standing::Ended;
            if self.members.iter().all(ended) {
                return Next::Over;
            }
            return Next::Wait(UNTIL_NEWS);
        };
        let due = time + self.tolerance;
        if let Some(wait) = self.wait(&times, due, queues, now) {
            return Next::Wait(wait);
        }
        let present = |next: &Option<f64>| next.is_some_and(|next| next <= due);
        let count = times.iter().filter(|next| present(next)).count();
        if room.is_some_and(|room| count > room) {
            return Next::Full;
        }
        self.noticed = None;
        self.latest = time.max(self.latest);
        self.over = due.max(self.over);
        let mut frames = Vec::with_capacity(count);
        for (camera, (queue, member)) in queues.iter_mut().zip(&mut self.members).enumerate() {
            member.served = present(&times[camera]);
            if !member.served {
                continue;
            }
            if let Some(Read::Frame { frame, seconds }) = queue.pop() {
                member.last = times[camera];
                member.standing = Standing::Expected;
                if let Some(counters) = queue.counters() {
                    counters.set_state(CameraState::Running);
                    counters.set_error(None);
                }
                frames.push((camera, frame, seconds));
            }
        }
        Next::Step(Step {
            time: self.latest,
            frames,
        })
    }

    /// Takes in what is before a camera's next frame: how its source fares, and live what is too
    /// late. Gives a frame that is for the motion estimator alone.
    fn digest(&mut self, camera: usize, queue: &mut Queue) -> Option<Frame> {
        while let Some(message) = queue.head() {
            if matches!(message, Read::Frame { .. }) && !self.is_late(camera, queue) {
                return None;
            }
            let message = queue.pop()?;
            let counters = queue.counters();
            let member = &mut self.members[camera];
            match message {
                Read::Before(frame) => return Some(frame),
                Read::Frame { .. } => {
                    if let Some(counters) = counters {
                        counters.late.add(1);
                    }
                }
                Read::Lost(reason) => {
                    member.standing = Standing::Lost;
                    if let Some(counters) = counters {
                        counters.set_state(CameraState::Degraded);
                        counters.set_error(Some(reason));
                    }
                }
                Read::End(error) => {
                    member.standing = Standing::Ended;
                    if let Some(counters) = counters {
                        counters.set_state(match error {
                            Some(_) => CameraState::Failed,
                            None => CameraState::Ended,
                        });
                        counters.set_error(error);
                    }
                }
            }
        }
        None
    }

    /// Live: whether a camera's next frame belongs to a step that is over and went without it.
    fn is_late(&self, camera: usize, queue: &Queue) -> bool {
        let member = &self.members[camera];
        self.mode.is_live()
            && !member.served
            && head_time(queue, member).is_some_and(|time| time <= self.over)
    }

    /// How long the step is to wait for cameras that have no frame; `None` if for none of them.
    fn wait(
        &mut self,
        times: &[Option<f64>],
        due: f64,
        queues: &[Queue],
        now: Instant,
    ) -> Option<Duration> {
        let waited = now.saturating_duration_since(*self.noticed.get_or_insert(now));
        let clock = now.saturating_duration_since(self.began).as_secs_f64();
        let mut longest = None;
        for (camera, member) in self.members.iter_mut().enumerate() {
            if times[camera].is_some() {
                continue;
            }
            let wait = match self.mode {
                SyncMode::Lossless => member.lossless_wait(),
                SyncMode::Live { max_wait, .. } => {
                    let left = max_wait.saturating_sub(waited);
                    let wait = member.live_wait(due, clock);
                    if member.is_away(wait, left, clock, max_wait) {
                        member.standing = Standing::LeftOut;
                        if let Some(counters) = queues[camera].counters() {
                            counters.set_state(CameraState::Degraded);
                        }
                        continue;
                    }
                    wait.map(|wait| wait.min(left))
                }
            };
            longest = longest.max(wait);
        }
        longest
    }
}

impl Member {
    /// How long to wait for a frame; `None` if not at all.
    fn lossless_wait(&self) -> Option<Duration> {
        match self.standing {
            Standing::Expected => Some(UNTIL_NEWS),
            Standing::Lost if !self.live => Some(UNTIL_NEWS),
            _ => None,
        }
    }

    /// How long a frame can still be expected that belongs to a step that is due; `None` if there
    /// will be none. `clock`: seconds since the run began.
    fn live_wait(&self, due: f64, clock: f64) -> Option<Duration> {
        if self.standing != Standing::Expected {
            return None;
        }
        if let (Some(last), Some(interval)) = (self.last, self.interval)
            && last + EARLIEST * interval > due
        {
            return None;
        }
        if !self.live {
            return Some(UNTIL_NEWS);
        }
        // What arrives from now on is of now.
        let left = due - clock;
        (left > 0.0).then(|| Duration::try_from_secs_f64(left).unwrap_or(UNTIL_NEWS))
    }

    /// Whether a camera that should give frames is one to go on without.
    fn is_away(
        &self,
        wait: Option<Duration>,
        left: Duration,
        clock: f64,
        max_wait: Duration,
    ) -> bool {
        if self.standing != Standing::Expected {
            return false;
        }
        let silent = clock - self.last.unwrap_or(0.0);
        match wait {
            Some(_) => left.is_zero(),
            None => self.live && silent > max_wait.as_secs_f64() + self.interval.unwrap_or(0.0),
        }
    }
}

/// Time of a camera's next frame in the environment, in seconds, if it is there.
fn head_time(queue: &Queue, member: &Member) -> Option<f64> {
    match queue.head()? {
        Read::Frame { frame, .. } => Some(frame.timestamp.as_secs_f64() + member.offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
