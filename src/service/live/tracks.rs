//! What one camera's messages remember of its tracks: their way through the picture, their latest
//! vector, when they began and whether they ended.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mtmc_models::Embedding;

use crate::pipeline::TrackIdentity;
use crate::service::messages::TrajectoryPoint;

/// Places kept of one track's way.
pub const TRAJECTORY: usize = 32;

/// One camera's tracks: those seen within the time that its tracker may find them again.
#[derive(Debug)]
pub struct TrackBook {
    tracks: BTreeMap<u64, TrackMemory>,
    /// Frames without a track after which it has ended.
    patience: u64,
}

/// What is remembered of one track.
#[derive(Debug, Clone)]
pub struct TrackMemory {
    /// The first frame that showed it.
    pub first_frame: u64,
    /// The last one.
    pub last_frame: u64,
    /// Time of the last one in the environment, in seconds.
    pub last_time: f64,
    /// The identity that it had last.
    pub global_id: Option<u64>,
    /// Its way, oldest first.
    pub trajectory: VecDeque<TrajectoryPoint>,
    /// Its latest vector, little-endian f32 in base64.
    pub vector: Option<String>,
    /// Similarity of that vector to the person.
    pub similarity: Option<f64>,
}

impl TrackBook {
    /// Of a camera whose tracker finds a track again after so many frames at most.
    pub fn new(patience: u64) -> Self {
        Self {
            tracks: BTreeMap::new(),
            patience,
        }
    }

    /// Notes a track of a frame; what is known of it now, and whether it is new.
    pub fn see(
        &mut self,
        track_id: u64,
        frame: u64,
        time: f64,
        point: TrajectoryPoint,
        identity: Option<&TrackIdentity>,
    ) -> (&TrackMemory, bool) {
        let mut is_new = false;
        let memory = self.tracks.entry(track_id).or_insert_with(|| {
            is_new = true;
            TrackMemory {
                first_frame: frame,
                last_frame: frame,
                last_time: time,
                global_id: None,
                trajectory: VecDeque::new(),
                vector: None,
                similarity: None,
            }
        });
        memory.last_frame = frame;
        memory.last_time = time;
        memory.trajectory.push_back(point);
        if memory.trajectory.len() > TRAJECTORY {
            memory.trajectory.pop_front();
        }
        if let Some(identity) = identity {
            memory.identify(identity);
        }
        (memory, is_new)
    }

    /// Takes out the tracks that have ended by `frame`, by ID.
    pub fn ended(&mut self, frame: u64) -> Vec<(u64, TrackMemory)> {
        let patience = self.patience;
        let over = |_: &u64, m: &mut TrackMemory| m.last_frame + patience < frame;
        self.tracks.extract_if(.., over).collect()
    }

    /// Takes out all tracks, by ID.
    pub fn end_all(&mut self) -> Vec<(u64, TrackMemory)> {
        std::mem::take(&mut self.tracks).into_iter().collect()
    }
}

impl TrackMemory {
    fn identify(&mut self, identity: &TrackIdentity) {
        if identity.global_id != self.global_id {
            self.similarity = None;
            if self.global_id.is_some() {
                // Somebody else, or nobody since the person was erased: the looks were that person's.
                self.vector = None;
            }
            if identity.global_id.is_none() {
                let now = self.trajectory.pop_back();
                self.trajectory.clear();
                self.trajectory.extend(now);
            }
        }
        self.global_id = identity.global_id;
        if let Some(vector) = &identity.vector {
            self.vector = Some(base64_of(vector));
        }
        self.similarity = identity.similarity.or(self.similarity);
    }
}

/// A vector as messages have it: little-endian f32 in base64.
fn base64_of(vector: &Embedding) -> String {
    let mut bytes = Vec::with_capacity(vector.dim() * 4);
    for value in vector.as_slice() {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_little_endian() {
        let vector = Embedding::new(vec![1.0, 0.0]).unwrap();
        // 1.0f32 is 00 00 80 3f, 0.0 is 00 00 00 00.
        assert_eq!(base64_of(&vector), "AACAPwAAAAA=");
    }

    #[test]
    fn tracks_end_and_ways_are_bounded() {
        let mut book = TrackBook::new(5);
        let point = TrajectoryPoint {
            x: 0.0,
            y: 0.0,
            timestamp: jiff::Timestamp::UNIX_EPOCH,
        };
        for frame in 1..=100 {
            let (memory, is_new) = book.see(1, frame, 0.0, point, None);
            assert_eq!(is_new, frame == 1);
            assert!(memory.trajectory.len() <= TRAJECTORY);
        }
        assert!(book.ended(105).is_empty());
        let ended = book.ended(106);
        assert_eq!(ended.len(), 1);
        assert_eq!((ended[0].1.first_frame, ended[0].1.last_frame), (1, 100));
        assert!(book.end_all().is_empty());
    }
}
