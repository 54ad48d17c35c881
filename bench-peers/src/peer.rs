//! What is compared: mtmc's trackers, and the seam behind which those of other crates stand.

use std::sync::Arc;

use mtmc::tracker::{FrameDetections, Track, Tracker};

/// ID and box (left, top, right, bottom) of one track in one frame.
pub type Row = (u64, [f32; 4]);

/// One tracker.
pub trait Peer {
    /// One frame in the form that the tracker takes. Cloned before every update, off the clock,
    /// as some trackers consume it; what they only read stands behind an `Arc`.
    type Input: Clone;
    /// What an update returns.
    type Output;

    /// Brings a frame into the tracker's form.
    fn prepare(&self, frame: &FrameDetections) -> Self::Input;

    /// One frame; this is what is timed.
    fn update(&mut self, input: &mut Self::Input) -> Self::Output;

    /// The tracks of the frame, from what was given and what came out.
    fn rows(&self, input: &Self::Input, output: &Self::Output) -> Vec<Row>;

    /// Hands back what the tracker keeps for its caller alone; off the clock.
    fn clean_up(&mut self) {}
}

/// One of mtmc's own trackers.
pub struct Mtmc {
    /// The tracker.
    pub tracker: Box<dyn Tracker>,
    /// Report the boxes of the detections that were matched, as the Python package `trackers` does,
    /// and not the filtered ones.
    pub detected: bool,
}

impl Peer for Mtmc {
    type Input = Arc<FrameDetections>;
    type Output = Vec<Track>;

    fn prepare(&self, frame: &FrameDetections) -> Self::Input {
        Arc::new(frame.clone())
    }

    fn update(&mut self, input: &mut Self::Input) -> Self::Output {
        self.tracker.update(input)
    }

    fn rows(&self, input: &Self::Input, output: &Self::Output) -> Vec<Row> {
        let mut rows = Vec::new();
        for track in output {
            let matched = track.detection_index.and_then(|i| input.detections.get(i));
            let b = match matched {
                Some(detection) if self.detected => detection.bbox,
                _ => track.bbox,
            };
            rows.push((track.track_id, [b.x1, b.y1, b.x2, b.y2]));
        }
        rows
    }
}
