//! The crowd that speed is measured on, which is that of benches/tracker.rs: forth and back, and as
//! Python reads it.

#[path = "../../benches/crowd/mod.rs"]
mod crowd;

use mtmc::tracker::FrameDetections;

pub use crowd::DIM;

/// Frames of a crowd forth and back, each with the camera's motion, and with looks if wanted.
pub fn frames(people: usize, with_looks: bool) -> Vec<FrameDetections> {
    let mut frames = crowd::frames(people);
    crowd::add_motions(&mut frames);
    if with_looks {
        crowd::add_looks(&mut frames, people);
    }
    let back: Vec<_> = frames.iter().rev().cloned().collect();
    frames.extend(back);
    frames
}

/// A scene as the Python side reads it: for every person of every frame x1, y1, x2, y2, score and
/// then the look, as little-endian f32.
pub fn bytes(frames: &[FrameDetections]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut push = |value: f32| bytes.extend_from_slice(&value.to_le_bytes());
    for frame in frames {
        for (place, d) in frame.detections.iter().enumerate() {
            for value in [d.bbox.x1, d.bbox.y1, d.bbox.x2, d.bbox.y2, d.score] {
                push(value);
            }
            if let Some(Some(look)) = frame.embeddings.get(place) {
                for value in look.as_slice() {
                    push(*value);
                }
            }
        }
    }
    bytes
}
