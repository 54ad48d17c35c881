//! Tracks as MOT Challenge text: what TrackEval and py-motmetrics read.

use std::path::Path;

use super::part::PartFile;
use super::{FrameResult, Sink, SinkError};
use crate::tracker::Track;

/// One track in one frame: a line with its end.
pub fn mot_line(frame: u64, track: &Track) -> String {
    let bbox = &track.bbox;
    format!(
        "{frame},{},{:.2},{:.2},{:.2},{:.2},{:.2},-1,-1,-1\n",
        track.track_id,
        bbox.x1,
        bbox.y1,
        bbox.width(),
        bbox.height(),
        track.score
    )
}

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
            self.text.push_str(&mot_line(result.frame_number, track));
        }
        self.file.write(self.text.as_bytes())
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        self.file.finish()
    }
}
