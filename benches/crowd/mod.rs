//! A made-up crowd for the benches of trackers, here and in bench-peers: every person is seen in
//! every frame, with a little jitter, and some with poor scores.
//!
//! The crowd stands on a 1920×1080 frame; with 500 people in it the boxes overlap heavily.

use mtmc::tracker::camera_motion::CameraMotion;
use mtmc::tracker::{Detection, FrameDetections};
use mtmc_models::{BBox, Embedding};

/// Frames of a crowd; shown forth and back so that nobody jumps.
const FRAMES: usize = 64;

/// Length of the embeddings: CLIP-ReID's.
pub const DIM: usize = 512;

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

/// The frames of a crowd of so many people.
pub fn frames(people: usize) -> Vec<FrameDetections> {
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

/// Gives every frame a motion of the camera, next to none, so that nobody is lost by it.
pub fn add_motions(frames: &mut [FrameDetections]) {
    for frame in frames {
        frame.camera_motion = Some(CameraMotion {
            rows: [[1.0, -1e-5, 0.01], [1e-5, 1.0, -0.01]],
        });
    }
}

/// Gives every detection an embedding: its person's, and some noise.
pub fn add_looks(frames: &mut [FrameDetections], people: usize) {
    let mut rng = Lcg(people as u64 + 1);
    let mut vector =
        |spread: f32| -> Vec<f32> { (0..DIM).map(|_| spread * (rng.next() - 0.5)).collect() };
    let persons: Vec<Vec<f32>> = (0..people).map(|_| vector(1.0)).collect();
    for frame in frames {
        for person in &persons {
            let noise = vector(0.5);
            let seen = person.iter().zip(noise).map(|(a, b)| a + b).collect();
            frame.embeddings.push(Embedding::new(seen).ok());
        }
    }
}
