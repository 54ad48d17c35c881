//! Coming back to a source that failed: how to open it again, and when to try.

use std::time::Duration;

use super::ffmpeg::name_of_address;
use super::{Frame, FrameSource, OpenOptions, SkipCounts, SourceError, SourceInfo};
use crate::random::SplitMix64;

/// Opens a source again. It is told the number of the last frame that was read, 0 if there was none.
///
/// A source that can go on behind that frame does so, with numbers and timestamps as if nothing had
/// happened; one that cannot begins at 1 again, and its frames are numbered on by whoever reads it.
pub type Reopen = Box<dyn FnMut(u64) -> Result<Box<dyn FrameSource>, SourceError> + Send>;

/// A source that may last longer than its connection.
pub struct Lasting {
    /// The source.
    pub source: Box<dyn FrameSource>,
    /// How it is opened again, if it is live.
    pub reopen: Option<Reopen>,
    /// Why it is not there yet: it stands in for one that is tried again.
    pub absence: Option<String>,
}

/// Opens a source as [`open`](super::open) does, a live one so that it can come back. With
/// `may_be_absent` a live one that is not there yet is no error: there are others to go on with.
///
/// # Errors
/// As [`open`](super::open).
pub fn open_lasting(
    spec: &str,
    options: OpenOptions,
    may_be_absent: bool,
) -> Result<Lasting, SourceError> {
    let opened = super::open(spec, &options);
    if !super::is_live(spec) {
        return Ok(Lasting {
            source: opened?,
            reopen: None,
            absence: None,
        });
    }
    let mut absence = None;
    let source: Box<dyn FrameSource> = match opened {
        Err(error) if may_be_absent && can_come_back(&error) => {
            absence = Some(error.to_string());
            Box::new(AbsentSource::new(spec, error))
        }
        opened => opened?,
    };
    let spec = spec.to_string();
    Ok(Lasting {
        source,
        reopen: Some(Box::new(move |_| super::open(&spec, &options))),
        absence,
    })
}

/// Whether a source that cannot be opened may be there later.
fn can_come_back(error: &SourceError) -> bool {
    !matches!(error, SourceError::FfmpegMissing { .. })
}

/// Times between attempts: the first, then twice as long each time, up to the longest; each shortened
/// by up to a half by chance, so that many cameras behind one switch do not come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first attempt.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// How long after the failure to give up; `None` for never.
    pub give_up: Option<Duration>,
}

impl Default for Backoff {
    /// From half a second to half a minute, for five minutes.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            give_up: Some(Duration::from_secs(300)),
        }
    }
}

/// The times of one source.
#[derive(Debug)]
pub(crate) struct Delays {
    backoff: Backoff,
    next: Duration,
    random: SplitMix64,
}

impl Delays {
    /// `stream` tells sources from each other.
    pub(crate) fn new(backoff: Backoff, stream: u64) -> Self {
        Self {
            backoff,
            next: backoff.first,
            random: SplitMix64::new(0x7265_6f70_656e, stream),
        }
    }

    /// How long to wait before the next attempt; `None` if it is time to give up, so long after the
    /// failure.
    pub(crate) fn next(&mut self, since_failure: Duration) -> Option<Duration> {
        let delay = self.next.mul_f64(0.5 + 0.5 * self.random.unit());
        self.next = self.next.saturating_mul(2).min(self.backoff.longest);
        match self.backoff.give_up {
            Some(limit) if since_failure.saturating_add(delay) > limit => None,
            _ => Some(delay),
        }
    }

    /// The source was there for so long: a while of peace and the delays are short again. One that
    /// fails over and over right after it was opened does not get there.
    pub(crate) fn lasted(&mut self, time: Duration) {
        if time >= self.backoff.longest {
            self.next = self.backoff.first;
        }
    }
}

/// Stands in for a live source that is not there when a run begins: it fails at once, and is opened
/// again like any other that fails.
#[derive(Debug)]
pub struct AbsentSource {
    info: SourceInfo,
    error: Option<SourceError>,
    skipped: SkipCounts,
}

impl AbsentSource {
    /// For an address that could not be opened. Its size is given as 0×0.
    pub fn new(address: &str, error: SourceError) -> Self {
        Self {
            info: SourceInfo {
                name: name_of_address(address),
                frame_rate: None,
                frame_count: None,
                size: (0, 0),
            },
            error: Some(error),
            skipped: SkipCounts::default(),
        }
    }
}

impl FrameSource for AbsentSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        match self.error.take() {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    fn skipped(&self) -> &SkipCounts {
        &self.skipped
    }

    fn is_live(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(give_up: Option<u64>) -> Backoff {
        Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(8),
            give_up: give_up.map(Duration::from_secs),
        }
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let mut delays = Delays::new(backoff(None), 3);
        for most in [1.0, 2.0, 4.0, 8.0, 8.0, 8.0] {
            let delay = delays.next(Duration::MAX).unwrap().as_secs_f64();
            assert!(delay >= most / 2.0 && delay <= most, "{delay} of {most}");
        }
        delays.lasted(Duration::from_secs(7));
        assert!(delays.next(Duration::ZERO).unwrap() >= Duration::from_secs(4));
        delays.lasted(Duration::from_secs(8));
        assert!(delays.next(Duration::ZERO).unwrap() <= Duration::from_secs(1));
    }

    #[test]
    fn cameras_do_not_come_back_at_once() {
        let first = |stream| Delays::new(backoff(None), stream).next(Duration::ZERO);
        assert_ne!(first(0), first(1));
        assert_eq!(first(1), first(1));
    }

    #[test]
    fn it_ends_some_time() {
        let mut delays = Delays::new(backoff(Some(60)), 0);
        assert!(delays.next(Duration::from_secs(58)).is_some());
        assert!(delays.next(Duration::from_secs(60)).is_none());
    }
}
