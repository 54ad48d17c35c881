//! A file as if it were a camera: its frames come when their time has come.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Frame, FrameSource, Halt, SkipCounts, SourceError, SourceInfo};

/// Gives a source's frames no earlier than their timestamps, counted from the first call.
///
/// Frames keep their own timestamps, so that several such sources stay in step.
pub struct PacedSource {
    source: Box<dyn FrameSource>,
    /// Added to the timestamps.
    offset: Duration,
    started: Option<Instant>,
    halted: Arc<Halted>,
}

#[derive(Default)]
struct Halted {
    flag: Mutex<bool>,
    raised: Condvar,
}

impl PacedSource {
    /// Paces `source`; its first frame comes `offset` after the first call.
    pub fn new(source: Box<dyn FrameSource>, offset: Duration) -> Self {
        Self {
            source,
            offset,
            started: None,
            halted: Arc::default(),
        }
    }

    /// Waits until `due` or until it is halted.
    fn wait_until(&self, due: Instant) {
        let guard = self.halted.flag.lock();
        let mut guard = guard.unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if *guard || left.is_zero() {
                return;
            }
            let waited = self.halted.raised.wait_timeout(guard, left);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl FrameSource for PacedSource {
    fn info(&self) -> &SourceInfo {
        self.source.info()
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let started = *self.started.get_or_insert_with(Instant::now);
        // Decoded first: the time that takes is no delay then.
        let Some(frame) = self.source.next_frame()? else {
            return Ok(None);
        };
        let due = self.offset.saturating_add(frame.timestamp);
        if let Some(due) = started.checked_add(due) {
            self.wait_until(due);
        }
        Ok(Some(frame))
    }

    fn skipped(&self) -> &SkipCounts {
        self.source.skipped()
    }

    fn halt(&self) -> Option<Halt> {
        let halted = self.halted.clone();
        let inner = self.source.halt();
        Some(Box::new(move || {
            *halted.flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
            halted.raised.notify_all();
            if let Some(inner) = &inner {
                inner();
            }
        }))
    }
}
