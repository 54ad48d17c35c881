//! When a person is looked at: new tracks first, others now and then, the best crops before poor
//! ones, and never more in a time step than the budget allows.

use std::collections::BTreeMap;

use mtmc_models::BBox;
use serde::{Deserialize, Serialize};

/// How often people are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSettings {
    /// Frames of its camera after which a track is looked at anew, at least 1. Default 30
    /// (`REID_REFRESH_INTERVAL_FRAMES`).
    pub refresh_interval_frames: u32,
    /// Most crops in a time step, over all cameras, at least 1. Default 64.
    pub budget: usize,
    /// Crops below this quality ([`crop_quality`]) are left for a better frame, 0..=1. Default 0.5.
    pub least_quality: f64,
    /// Frames for which a new track waits for a better crop. Default 15.
    pub patience_frames: u32,
}

impl Default for ScheduleSettings {
    fn default() -> Self {
        Self {
            refresh_interval_frames: 30,
            budget: 64,
            least_quality: 0.5,
            patience_frames: 15,
        }
    }
}

/// One track that could be looked at in a time step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sight {
    /// Index of the camera.
    pub camera: usize,
    /// Number of the camera's frame.
    pub frame: u64,
    /// The track.
    pub track_id: u64,
    /// How good the crop is, see [`crop_quality`].
    pub quality: f64,
}

/// Remembers when each track was looked at.
///
/// Tracks that were not seen for [`FORGET_FRAMES`] of their camera's frames are forgotten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    settings: ScheduleSettings,
    /// By camera, by track.
    tracks: BTreeMap<usize, BTreeMap<u64, Looked>>,
}

/// Frames of a camera after which a track out of sight is forgotten.
pub const FORGET_FRAMES: u64 = 3_000;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Looked {
    first_seen: u64,
    last_seen: u64,
    last_look: Option<u64>,
}

impl Schedule {
    /// Nobody was looked at yet.
    pub fn new(settings: ScheduleSettings) -> Self {
        Self {
            settings,
            tracks: BTreeMap::new(),
        }
    }

    /// The frame in which a track was last looked at, if it was.
    pub fn last_look(&self, camera: usize, track_id: u64) -> Option<u64> {
        self.tracks.get(&camera)?.get(&track_id)?.last_look
    }

    /// Whether a track should be looked at: never done, or too long ago.
    pub fn is_due(&self, camera: usize, frame: u64, track_id: u64) -> bool {
        match self.last_look(camera, track_id) {
            Some(last) => frame >= last + u64::from(self.settings.refresh_interval_frames),
            None => true,
        }
    }

    /// Chooses whom to look at in a time step: indices into `sights`, rising. Each chosen track is
    /// to be reported by [`looked`](Self::looked) if a vector came of it.
    pub fn choose(&mut self, sights: &[Sight]) -> Vec<usize> {
        let mut wanted = Vec::new();
        for (index, sight) in sights.iter().enumerate() {
            let looked = self.note(sight);
            if !self.is_due(sight.camera, sight.frame, sight.track_id) {
                continue;
            }
            let is_new = looked.last_look.is_none();
            let waited = sight.frame.saturating_sub(looked.first_seen);
            let impatient = is_new && waited >= u64::from(self.settings.patience_frames);
            if sight.quality >= self.settings.least_quality || impatient {
                wanted.push((!is_new, index));
            }
        }
        wanted.sort_by(|a, b| {
            let better = sights[b.1].quality.total_cmp(&sights[a.1].quality);
            a.0.cmp(&b.0).then(better).then(a.1.cmp(&b.1))
        });
        wanted.truncate(self.settings.budget);
        let mut chosen: Vec<usize> = wanted.into_iter().map(|(_, index)| index).collect();
        chosen.sort_unstable();
        chosen
    }

    /// Notes that a vector of this track was taken.
    pub fn looked(&mut self, sight: &Sight) {
        let tracks = self.tracks.entry(sight.camera).or_default();
        if let Some(looked) = tracks.get_mut(&sight.track_id) {
            looked.last_look = Some(sight.frame);
        }
    }

    /// A track is to be looked at as if that had never been done.
    pub fn look_anew(&mut self, camera: usize, track_id: u64) {
        let looked = self
            .tracks
            .get_mut(&camera)
            .and_then(|t| t.get_mut(&track_id));
        if let Some(looked) = looked {
            looked.last_look = None;
        }
    }

    /// Forgets tracks of a camera that were not seen for long.
    pub fn forget(&mut self, camera: usize, frame: u64) {
        if let Some(tracks) = self.tracks.get_mut(&camera) {
            tracks.retain(|_, looked| looked.last_seen + FORGET_FRAMES >= frame);
        }
    }

    fn note(&mut self, sight: &Sight) -> Looked {
        let tracks = self.tracks.entry(sight.camera).or_default();
        let looked = tracks.entry(sight.track_id).or_insert(Looked {
            first_seen: sight.frame,
            last_seen: sight.frame,
            last_look: None,
        });
        looked.last_seen = sight.frame;
        *looked
    }
}

/// Height in pixels from which on a crop loses nothing for being small.
const FULL_HEIGHT: f64 = 96.0;

/// How good a crop is for recognition, 0..=1: the share of the box that is inside the frame and not
/// behind someone nearer, times its height over 96 pixels if it is smaller.
///
/// Nearer is whoever stands lower in the picture.
pub fn crop_quality(bbox: &BBox, others: &[BBox], frame_size: [f64; 2]) -> f64 {
    let area = f64::from(bbox.area());
    if area <= 0.0 || !area.is_finite() {
        return 0.0;
    }
    let inside = f64::from(
        bbox.clamp_to(frame_size[0] as f32, frame_size[1] as f32)
            .area(),
    ) / area;
    let mut hidden: f64 = 0.0;
    for other in others {
        if other.y2 > bbox.y2 {
            hidden = hidden.max(f64::from(bbox.intersection(other)) / area);
        }
    }
    let size = (f64::from(bbox.height()) / FULL_HEIGHT).min(1.0);
    (inside - hidden).max(0.0) * size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(track_id: u64, frame: u64, quality: f64) -> Sight {
        Sight {
            camera: 0,
            frame,
            track_id,
            quality,
        }
    }

    #[test]
    fn new_tracks_come_first_then_those_due_then_nobody() {
        let mut schedule = Schedule::new(ScheduleSettings {
            budget: 2,
            ..ScheduleSettings::default()
        });
        let sights = [sight(1, 1, 0.9), sight(2, 1, 0.2), sight(3, 1, 0.8)];
        let chosen = schedule.choose(&sights);
        assert_eq!(chosen, [0, 2]);
        for index in chosen {
            schedule.looked(&sights[index]);
        }
        // Nobody is due, and the poor crop waits its 15 frames.
        assert!(
            schedule
                .choose(&[sight(1, 15, 0.9), sight(2, 15, 0.2)])
                .is_empty()
        );
        assert_eq!(
            schedule.choose(&[sight(1, 16, 0.9), sight(2, 16, 0.2)]),
            [1]
        );
        // Refresh after 30 frames of that track, not at multiples of 30.
        assert!(!schedule.is_due(0, 30, 1) && schedule.is_due(0, 31, 1));
        let sights = [sight(1, 31, 0.6), sight(3, 31, 0.7), sight(4, 31, 0.5)];
        assert_eq!(schedule.choose(&sights), [1, 2]);
        schedule.forget(0, 31 + FORGET_FRAMES);
        assert_eq!(schedule.last_look(0, 1), Some(1));
        schedule.forget(0, 32 + FORGET_FRAMES);
        assert_eq!(schedule.last_look(0, 1), None);
    }

    // By hand: a 40×100 box, its left quarter behind someone nearer; a farther one hides nothing.
    #[test]
    fn hidden_and_small_crops_are_poor() {
        let bbox = BBox::from_xyxy(100.0, 100.0, 140.0, 200.0);
        let nearer = BBox::from_xyxy(60.0, 90.0, 110.0, 250.0);
        let farther = BBox::from_xyxy(100.0, 90.0, 140.0, 190.0);
        let frame = [640.0, 480.0];
        assert!((crop_quality(&bbox, &[nearer, farther], frame) - 0.75).abs() < 1e-6);
        let small = BBox::from_xyxy(0.0, 0.0, 20.0, 48.0);
        assert!((crop_quality(&small, &[], frame) - 0.5).abs() < 1e-6);
        let outside = BBox::from_xyxy(-20.0, 0.0, 20.0, 96.0);
        assert!((crop_quality(&outside, &[], frame) - 0.5).abs() < 1e-6);
    }
}
