//! Tracks as MOT Challenge text: what TrackEval and py-motmetrics read.

use std::fmt::Write as _;
use std::path::Path;

use super::part::PartFile;
use super::{FrameResult, Sink, SinkError};

/// Writes one line a track and frame:
/// `frame,id,left,top,width,height,score,-1,-1,-1`, numbers from 1, pixels and score with two
/// decimals.
#[derive(Debug)]
pub struct MotSink {
    file: PartFile,
    /// Reused for each frame.
    text: String,
}

impl MotSink {
    /// Begins the file at `path`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self, SinkError> {
        Ok(Self {
            file: PartFile::create(path)?,
            text: String::new(),
        })
    }
}

impl Sink for MotSink {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        self.text.clear();
        for track in result.tracks {
            let bbox = &track.bbox;
            // Writing into a String cannot fail.
            let _ = writeln!(
                self.text,
                "{},{},{:.2},{:.2},{:.2},{:.2},{:.2},-1,-1,-1",
                result.frame_number,
                track.track_id,
                bbox.x1,
                bbox.y1,
                bbox.width(),
                bbox.height(),
                track.score
            );
        }
        self.file.write(self.text.as_bytes())
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        self.file.finish()
    }
}
