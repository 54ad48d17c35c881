//! Between the reading threads and the steps: a bounded queue a camera, all under one lock, so that
//! the steps can look at every camera's next frame at once and wait for any of them.
//!
//! Frames are moved in and out, never copied: the lock is held for microseconds.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::metrics::{CameraMetrics, PipelineMetrics};
use super::throttle::Throttle;
use crate::source::{Frame, Halt};

/// What a reading thread sends.
pub(super) enum Read {
    /// The next frame, and how long it took.
    Frame { frame: Frame, seconds: f64 },
    /// The last frame of an earlier run, which only the estimator of the camera's motion looks at.
    Before(Frame),
    /// The source failed, for this reason, and is being opened again.
    Lost(String),
    /// The last message: the source ended, or failed for good.
    End(Option<String>),
}

/// What waits of one camera.
pub(super) struct Queue {
    messages: VecDeque<Read>,
    /// Frames among the messages.
    frames: usize,
    /// No message follows.
    closed: bool,
    halt: Option<Halt>,
    /// Wakes its reader.
    room: Arc<Condvar>,
    metrics: Arc<PipelineMetrics>,
    camera: usize,
}

/// What a reader does when its queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overflow {
    /// Waits.
    Wait,
    /// Drops the oldest frame.
    DropOldest,
}

/// The queues of all cameras.
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Wakes the steps.
    news: Condvar,
    room: Vec<Arc<Condvar>>,
    /// Most frames in a queue.
    bound: usize,
    overflow: Overflow,
    throttle: Arc<Throttle>,
}

/// What the lock guards.
pub(super) struct State {
    pub(super) queues: Vec<Queue>,
    /// The run is over: nobody takes anything any more.
    over: bool,
    /// Readers at work.
    readers: usize,
}

impl Queue {
    pub(super) fn new(metrics: Arc<PipelineMetrics>, camera: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            frames: 0,
            closed: false,
            halt: None,
            room: Arc::default(),
            metrics,
            camera,
        }
    }

    /// The counters of its camera.
    pub(super) fn counters(&self) -> Option<&CameraMetrics> {
        self.metrics.cameras().get(self.camera)
    }

    /// The next message.
    pub(super) fn head(&self) -> Option<&Read> {
        self.messages.front()
    }

    /// Takes the next message.
    pub(super) fn pop(&mut self) -> Option<Read> {
        let message = self.messages.pop_front()?;
        if matches!(message, Read::Frame { .. }) {
            self.frame_gone();
        }
        Some(message)
    }

    pub(super) fn push(&mut self, message: Read) {
        match message {
            Read::Frame { .. } => {
                self.frames += 1;
                if let Some(counters) = self.counters() {
                    counters.frames_waiting.raise();
                }
            }
            Read::End(_) => self.closed = true,
            Read::Before(_) | Read::Lost(_) => {}
        }
        self.messages.push_back(message);
    }

    fn frame_gone(&mut self) {
        self.frames -= 1;
        if let Some(counters) = self.counters() {
            counters.frames_waiting.lower();
        }
        self.room.notify_one();
    }

    fn drop_oldest(&mut self) {
        let is_frame = |message: &Read| matches!(message, Read::Frame { .. });
        let Some(oldest) = self.messages.iter().position(is_frame) else {
            return;
        };
        self.messages.remove(oldest);
        self.frame_gone();
        if let Some(counters) = self.counters() {
            counters.overrun.add(1);
        }
    }
}

impl Inbox {
    /// Queues of at least one frame each, a camera of `metrics`.
    pub(super) fn new(
        metrics: &Arc<PipelineMetrics>,
        bound: usize,
        overflow: Overflow,
        throttle: Arc<Throttle>,
    ) -> Self {
        let cameras = 0..metrics.cameras().len();
        let queues: Vec<Queue> = cameras.map(|c| Queue::new(metrics.clone(), c)).collect();
        Self {
            room: queues.iter().map(|queue| queue.room.clone()).collect(),
            state: Mutex::new(State {
                queues,
                over: false,
                readers: 0,
            }),
            news: Condvar::new(),
            bound: bound.max(1),
            overflow,
            throttle,
        }
    }

    /// The queues. Nothing panics while it holds the lock, so a poisoned one is as good.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a message of any camera; the flag tells that none came within `most`.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> (MutexGuard<'a, State>, bool) {
        let waited = self.news.wait_timeout(state, most);
        let (state, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
        (state, outcome.timed_out())
    }

    /// Puts a message in, where the queue is full after waiting or dropping. False once the run is
    /// over.
    pub(super) fn push(&self, camera: usize, message: Read) -> bool {
        let mut state = self.lock();
        if matches!(message, Read::Frame { .. }) {
            while !state.over && state.queues[camera].frames >= self.throttle.limit(self.bound) {
                match self.overflow {
                    Overflow::DropOldest => state.queues[camera].drop_oldest(),
                    Overflow::Wait => {
                        let waited = self.room[camera].wait(state);
                        state = waited.unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
        if state.over {
            return false;
        }
        state.queues[camera].push(message);
        drop(state);
        self.news.notify_one();
        true
    }

    /// Lets a reader pause; false once the run is over.
    pub(super) fn pause(&self, camera: usize, duration: Duration) -> bool {
        let state = self.lock();
        let waited = self.room[camera].wait_timeout_while(state, duration, |state| !state.over);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.over
    }

    /// Whether the run is over.
    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Tells how a camera's source is made to stop waiting.
    pub(super) fn set_halt(&self, camera: usize, halt: Option<Halt>) {
        let mut state = self.lock();
        if !state.over {
            state.queues[camera].halt = halt;
            return;
        }
        drop(state);
        if let Some(halt) = halt {
            halt();
        }
    }

    /// A reader is at work, until [`reader_ended`](Self::reader_ended).
    pub(super) fn reader_began(&self) {
        self.lock().readers += 1;
    }

    /// A reader is gone; if it said nothing of an end, that is told.
    pub(super) fn reader_ended(&self, camera: usize) {
        let mut state = self.lock();
        state.readers -= 1;
        let queue = &mut state.queues[camera];
        if !queue.closed {
            let reason = "the reading thread ended unexpectedly".to_string();
            queue.push(Read::End(Some(reason)));
        }
        drop(state);
        self.news.notify_one();
    }

    /// Ends the run: readers stop as soon as their sources let them, for which they get at most
    /// `patience`. One whose source is stuck is left behind; it ends when the source returns.
    pub(super) fn close(&self, patience: Duration) {
        let mut state = self.lock();
        state.over = true;
        let halts: Vec<Halt> = state
            .queues
            .iter_mut()
            .filter_map(|queue| queue.halt.take())
            .collect();
        drop(state);
        for room in &self.room {
            room.notify_all();
        }
        for halt in halts {
            halt();
        }
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while state.readers > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wait(state, left).0;
        }
    }
}
