//! Results out: MOT Challenge text, JSON lines, annotated video or JPEG files.
//!
//! A file is written beside its place with `.part` behind its name and moved there by
//! [`Sink::finish`], so that what stands under the final name is whole. What an interrupted
//! run leaves as `.part` can still be read up to where it stopped, video included.

mod jpegs;
mod jsonl;
mod mot;
pub(crate) mod part;
mod video;
mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use image::RgbImage;
use mtmc_models::Detection;
use serde::{Deserialize, Serialize};

use crate::annotate::Label;
use crate::pipeline::TrackIdentity;
use crate::tracker::Track;

pub use jpegs::JpegSink;
pub(crate) use jpegs::jpeg_bytes;
pub(crate) use jsonl::rounded;
pub use jsonl::{
    BoxEntry, DetectionData, DetectionEntry, JsonLinesSink, MapCoords, detection_data,
};
pub use mot::{MotSink, mot_line};
pub use part::{PartFile, close_part};
pub use video::VideoSink;
pub use world::{EventSink, MapSink, StepOutcome, TrajectorySink, WorldSink};

/// Where the results of one source go, frame after frame.
pub trait Sink: Send {
    /// Takes the results of one frame. Frames come in order.
    ///
    /// # Errors
    /// When they cannot be written; the sink is of no further use then, but for
    /// [`finish`](Self::finish).
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError>;

    /// Puts what was written where it outlives a crash and says how much it is, so that a further
    /// run can go on from there; `None` where that run takes no heed of it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn checkpoint(&mut self) -> Result<Option<Written>, SinkError> {
        Ok(None)
    }

    /// Completes the file and moves it to its place.
    ///
    /// # Errors
    /// When it cannot be completed; what is there stays under the name with `.part`.
    fn finish(self: Box<Self>) -> Result<(), SinkError>;
}

/// How much of a file is safely written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Where the file will stand when it is whole.
    pub path: PathBuf,
    /// Bytes from its beginning.
    pub bytes: u64,
}

/// Everything that is known of one frame, lent to the sinks.
#[derive(Debug, Clone, Copy)]
pub struct FrameResult<'a> {
    /// Index of the camera in the run.
    pub camera: usize,
    /// Name of the source.
    pub source: &'a str,
    /// Number of the frame in its source, from 1.
    pub frame_number: u64,
    /// Time since the source's first frame.
    pub timestamp: Duration,
    /// The frame, as it came.
    pub image: &'a RgbImage,
    /// The JPEG file that the frame came from, byte for byte, where the source kept it
    /// ([`Frame::jpeg`](crate::source::Frame::jpeg)).
    pub jpeg: Option<&'a [u8]>,
    /// What was detected and is to be reported.
    pub detections: &'a [Detection],
    /// What was tracked. Each track's `detection_index` counts in `detections`; one beyond
    /// their end stands for a detection that is not reported.
    pub tracks: &'a [Track],
    /// Whom each track shows across cameras, in the order of `tracks`; empty where nobody asked.
    pub identities: &'a [TrackIdentity],
    /// Class names by class index.
    pub classes: &'a [String],
    /// How long detection and tracking took for this frame.
    pub processing_time_ms: f64,
}

/// Why results could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The operating system refused.
    #[error("cannot write {path}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A frame could not be encoded.
    #[error("{path}: cannot encode frame {frame}: {reason}", path = path.display())]
    Encode {
        /// The file that it was for.
        path: PathBuf,
        /// Number of the frame, from 1.
        frame: u64,
        /// What the encoder says.
        reason: String,
    },
}

impl SinkError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    fn encode(path: &Path, frame: u64, reason: &impl ToString) -> Self {
        Self::Encode {
            path: path.to_path_buf(),
            frame,
            reason: reason.to_string(),
        }
    }
}

/// What is drawn for each track: the identity across cameras if it is known, else the track's ID
/// with its camera's mark, and the score, in the identity's colour.
pub(crate) fn track_labels(result: &FrameResult<'_>) -> Vec<Label> {
    let mut labels = Vec::with_capacity(result.tracks.len());
    for (index, track) in result.tracks.iter().enumerate() {
        let global_id = result.identities.get(index).and_then(|i| i.global_id);
        let (name, color_key) = match global_id {
            Some(id) => (format!("#{id}"), id),
            None if result.identities.is_empty() => {
                (format!("#{}", track.track_id), track.track_id)
            }
            None => ("#?".to_string(), 0),
        };
        labels.push(Label {
            bbox: track.bbox,
            text: format!("{name} {:.2}", track.score),
            color_key,
        });
    }
    labels
}

/// The name of a class, or its number where it has none.
fn class_name(classes: &[String], class: u32) -> String {
    match classes.get(class as usize) {
        Some(name) => name.clone(),
        None => class.to_string(),
    }
}
