//! Tracks as MOT Challenge text: what TrackEval and py-motmetrics read.

use std::path::Path;

use super::part::PartFile;
use super::{FrameResult, Sink, SinkError, Written};
use crate::pipeline::TrackIdentity;
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
    /// Identities across cameras instead of the tracks' own; tracks without one are left out.
    global: bool,
    /// Reused for each frame.
    text: String,
}

impl MotSink {
    /// Begins the file at `path`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self, SinkError> {
        Ok(Self::to(PartFile::create(path)?))
    }

    /// Writes to a file that was begun.
    pub fn to(file: PartFile) -> Self {
        Self {
            file,
            global: false,
            text: String::new(),
        }
    }

    /// Begins a file of identities across cameras; tracks whose identity is not known are left out.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn global(path: &Path) -> Result<Self, SinkError> {
        Ok(Self::global_to(PartFile::create(path)?))
    }

    /// The same to a file that was begun.
    pub fn global_to(file: PartFile) -> Self {
        Self {
            global: true,
            ..Self::to(file)
        }
    }

    /// Writes one frame's tracks; `identities` are in their order, or empty where nobody asked.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_tracks(
        &mut self,
        frame: u64,
        tracks: &[Track],
        identities: &[TrackIdentity],
    ) -> Result<(), SinkError> {
        self.text.clear();
        for (index, track) in tracks.iter().enumerate() {
            let mut track = *track;
            if self.global {
                let identity = identities.get(index);
                let Some(global_id) = identity.and_then(|identity| identity.global_id) else {
                    continue;
                };
                track.track_id = global_id;
            }
            self.text.push_str(&mot_line(frame, &track));
        }
        self.file.write(self.text.as_bytes())
    }
}

impl Sink for MotSink {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        self.write_tracks(result.frame_number, result.tracks, result.identities)
    }

    fn checkpoint(&mut self) -> Result<Option<Written>, SinkError> {
        self.file.checkpoint().map(Some)
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        self.file.finish()
    }
}
