//! What the trackers' tests share: people, noise and ways to look at tracks.

use std::collections::HashSet;

use mtmc_models::{BBox, Embedding};

use super::{Detection, FrameDetections, Track};

/// A box of 40×100 pixels.
pub fn person(x: f32, y: f32, score: f32) -> Detection {
    Detection {
        bbox: BBox::from_tlwh(x, y, 40.0, 100.0),
        score,
        class: 0,
    }
}

pub fn frame(detections: Vec<Detection>) -> FrameDetections {
    FrameDetections {
        detections,
        ..FrameDetections::default()
    }
}

pub fn embedding(vector: &[f32]) -> Option<Embedding> {
    Some(Embedding::new(vector.to_vec()).unwrap())
}

pub fn ids(tracks: &[Track]) -> Vec<u64> {
    tracks.iter().map(|t| t.track_id).collect()
}

/// A frame's tracked boxes without their IDs, in an order of their own.
pub fn places(tracks: &[Track]) -> Vec<String> {
    let mut places: Vec<String> = tracks
        .iter()
        .map(|t| format!("{:?} {} {:?}", t.bbox, t.age, t.appearance))
        .collect();
    places.sort();
    places
}

/// A restored tracker's tracks are the original's.
pub fn assert_same(found: &[Track], expected: &[Track]) {
    assert_eq!(ids(found), ids(expected));
    for (found, expected) in found.iter().zip(expected) {
        // serde_json may be off by a last digit when it reads a float.
        assert!((found.bbox.x1 - expected.bbox.x1).abs() < 1e-3);
        assert_eq!((found.state, found.age), (expected.state, expected.age));
        assert_eq!(found.appearance, expected.appearance);
    }
}

/// Watches that IDs rise, that none comes back once it is gone, and that boxes are finite.
#[derive(Default)]
pub struct Watch {
    kept: HashSet<u64>,
    /// The greatest ID so far.
    pub latest: u64,
    /// The most tracks that were kept at once.
    pub most: usize,
}

impl Watch {
    /// One frame: the tracks that were reported and all that are kept.
    pub fn look(&mut self, reported: &[Track], kept: &[Track]) {
        let mut now = HashSet::new();
        for track in kept {
            let known = self.kept.contains(&track.track_id);
            let new = track.track_id > self.latest;
            assert!(known || new, "an ID used twice: {track:?}");
            assert!(
                now.insert(track.track_id),
                "an ID twice in a frame: {track:?}"
            );
            let BBox { x1, y1, x2, y2 } = track.bbox;
            assert!([x1, y1, x2, y2].iter().all(|v| v.is_finite()), "{track:?}");
        }
        let reported_ids: HashSet<u64> = reported.iter().map(|t| t.track_id).collect();
        assert_eq!(
            reported_ids.len(),
            reported.len(),
            "an ID twice in one frame"
        );
        assert!(reported_ids.is_subset(&now));
        self.latest = now.iter().copied().max().unwrap_or(0).max(self.latest);
        self.most = self.most.max(kept.len());
        self.kept = now;
    }
}

/// Knuth's MMIX generator: noise that is the same on every machine.
pub struct Noise(pub u64);

impl Noise {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) % limit
    }

    pub fn boxes(&mut self, count: u64) -> Vec<Detection> {
        let mut boxes = Vec::new();
        for _ in 0..count {
            let (x, y) = (self.below(1900) as f32, self.below(1000) as f32);
            boxes.push(person(x, y, self.below(1000) as f32 / 1000.0));
        }
        boxes
    }

    /// Boxes move on by up to 5 pixels to the right and 2 down, and get new scores.
    pub fn push(&mut self, boxes: &mut [Detection]) {
        for detection in boxes {
            let (dx, dy) = (
                self.below(1000) as f32 / 200.0,
                self.below(1000) as f32 / 500.0,
            );
            detection.bbox = moved(&detection.bbox, dx, dy);
            detection.score = self.below(10_000) as f32 / 10_000.0;
        }
    }

    /// A vector of random direction.
    pub fn embedding(&mut self, dim: usize) -> Option<Embedding> {
        let vector: Vec<f32> = (0..dim).map(|_| self.below(2001) as f32 - 1000.5).collect();
        embedding(&vector)
    }
}

pub fn moved(bbox: &BBox, dx: f32, dy: f32) -> BBox {
    BBox::from_xyxy(bbox.x1 + dx, bbox.y1 + dy, bbox.x2 + dx, bbox.y2 + dy)
}
