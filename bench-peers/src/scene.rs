//! The crowd that speed is measured on: the one of benches/tracker.rs, with looks if wanted.
//!
//! People walk on a 1920×1080 frame and are all seen in every frame, with two pixels of jitter and
//! a tenth of them with poor scores; with 500 people the boxes overlap heavily. A look is a
//! direction of the person's own and noise of the frame's: cosine 0.9 between two of one person,
//! around 0 between two people.

use mtmc::tracker::{Detection, FrameDetections};
use mtmc_models::{BBox, Embedding};

/// Frames of a scene; shown forth and back so that nobody jumps.
pub const FRAMES: usize = 64;

/// Knuth's MMIX linear congruential generator; 0..1.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u32 << 24) as f32
    }
}

/// Frames of a crowd, forth and back: twice [`FRAMES`]. `dim` is the length of the looks, 0 for
/// none.
pub fn frames(people: usize, dim: usize) -> Vec<FrameDetections> {
    let mut frames = boxes(people);
    add_looks(&mut frames, people, dim);
    let back: Vec<_> = frames.iter().rev().cloned().collect();
    frames.extend(back);
    frames
}

fn boxes(people: usize) -> Vec<FrameDetections> {
    let mut rng = Lcg(people as u64);
    let mut crowd = Vec::new();
    for _ in 0..people {
        let height = 80.0 + 120.0 * rng.next();
        let (vx, vy) = (4.0 * rng.next() - 2.0, 2.0 * rng.next() - 1.0);
        crowd.push((1840.0 * rng.next(), 900.0 * rng.next(), vx, vy, height));
    }
    let mut frames = Vec::new();
    for frame in 0..FRAMES {
        let mut detections = Vec::new();
        for (x, y, vx, vy, height) in &mut crowd {
            *x += *vx;
            *y += *vy;
            let (left, top) = (*x + 2.0 * rng.next(), *y + 2.0 * rng.next());
            let score = if rng.next() < 0.1 {
                0.3
            } else {
                0.7 + 0.3 * rng.next()
            };
            detections.push(Detection {
                bbox: BBox::from_tlwh(left, top, 0.4 * *height, *height),
                score,
                class: 0,
            });
        }
        frames.push(FrameDetections {
            frame: frame as u64,
            detections,
            ..FrameDetections::default()
        });
    }
    frames
}

fn add_looks(frames: &mut [FrameDetections], people: usize, dim: usize) {
    if dim == 0 {
        return;
    }
    let mut rng = Lcg(1 + people as u64);
    let mut own = Vec::new();
    for _ in 0..people * dim {
        own.push(2.0 * rng.next() - 1.0);
    }
    for frame in frames {
        for person in own.chunks(dim) {
            let noisy = person.iter().map(|v| v + 0.33 * (2.0 * rng.next() - 1.0));
            frame.embeddings.push(Embedding::new(noisy.collect()).ok());
        }
    }
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
