//! A stranger's video, read within bounds.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::source::{Frame, FrameSource, SkipCounts, SourceError, SourceInfo};

use super::settings::UploadSettings;

/// A source that ends with an error beyond its bounds.
pub struct BoundedSource {
    source: Box<dyn FrameSource>,
    max_frames: u64,
    max_duration: Duration,
    max_work: Duration,
    started: Instant,
}

impl BoundedSource {
    /// Begins to count the time of the work.
    ///
    /// # Errors
    /// What the file says of its length is beyond the bounds already.
    pub fn new(source: Box<dyn FrameSource>, settings: &UploadSettings) -> Result<Self, String> {
        let bounded = Self {
            source,
            max_frames: settings.max_frames,
            max_duration: settings.max_duration,
            max_work: settings.max_work,
            started: Instant::now(),
        };
        let info = bounded.source.info();
        let frames = info.frame_count.unwrap_or(0);
        let seconds = info.frame_rate.map_or(0.0, |rate| frames as f64 / rate);
        bounded.check(frames, seconds)?;
        Ok(bounded)
    }

    fn check(&self, frames: u64, seconds: f64) -> Result<(), String> {
        if frames > self.max_frames {
            let most = self.max_frames;
            return Err(format!("it has more frames than are taken: at most {most}"));
        }
        let most = self.max_duration.as_secs_f64();
        if seconds > most {
            return Err(format!("it is longer than is taken: at most {most} s"));
        }
        Ok(())
    }
}

impl FrameSource for BoundedSource {
    fn info(&self) -> &SourceInfo {
        self.source.info()
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let refused = |reason| SourceError::Unsupported {
            path: Path::new(super::SHOWN_PATH).to_path_buf(),
            reason,
        };
        if self.started.elapsed() > self.max_work {
            let most = self.max_work.as_secs_f64();
            return Err(refused(format!(
                "the work on it takes longer than {most} s"
            )));
        }
        let Some(frame) = self.source.next_frame()? else {
            return Ok(None);
        };
        self.check(frame.number, frame.timestamp.as_secs_f64())
            .map_err(refused)?;
        Ok(Some(frame))
    }

    fn skipped(&self) -> &SkipCounts {
        self.source.skipped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Black frames at one a second, without end.
    struct Endless(SourceInfo, SkipCounts, u64);

    impl FrameSource for Endless {
        fn info(&self) -> &SourceInfo {
            &self.0
        }
        fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
            self.2 += 1;
            Ok(Some(Frame {
                number: self.2,
                timestamp: Duration::from_secs(self.2 - 1),
                image: image::RgbImage::new(1, 1),
                jpeg: None,
            }))
        }
        fn skipped(&self) -> &SkipCounts {
            &self.1
        }
    }

    fn endless(claims: Option<u64>) -> Box<dyn FrameSource> {
        let info = SourceInfo {
            name: "endless".to_string(),
            frame_rate: Some(1.0),
            frame_count: claims,
            size: (1, 1),
        };
        Box::new(Endless(info, SkipCounts::default(), 0))
    }

    fn frames_until_refused(settings: &UploadSettings) -> (usize, String) {
        let mut source = BoundedSource::new(endless(None), settings).unwrap();
        let mut frames = 0;
        loop {
            match source.next_frame() {
                Ok(_) => frames += 1,
                Err(error) => return (frames, error.to_string()),
            }
        }
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let most = |max_frames, seconds| UploadSettings {
            max_frames,
            max_duration: Duration::from_secs(seconds),
            ..UploadSettings::default()
        };
        let (frames, reason) = frames_until_refused(&most(5, 1000));
        assert_eq!(frames, 5);
        assert!(reason.contains("at most 5"), "{reason}");
        let (frames, reason) = frames_until_refused(&most(1000, 7));
        assert_eq!(frames, 8, "from second 0 to second 7");
        assert!(reason.contains("at most 7 s"), "{reason}");
        let late = UploadSettings {
            max_work: Duration::ZERO,
            ..UploadSettings::default()
        };
        assert_eq!(frames_until_refused(&late).0, 0);
    }

    #[test]
    fn who_claims_too_much_is_not_read_at_all() {
        let settings = UploadSettings::default();
        assert!(BoundedSource::new(endless(Some(1_000_000)), &settings).is_err());
        // Two hours and a second, at one frame a second.
        assert!(BoundedSource::new(endless(Some(7201)), &settings).is_err());
        assert!(BoundedSource::new(endless(Some(7200)), &settings).is_ok());
    }
}
