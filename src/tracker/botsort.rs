//! BoT-SORT (Aharon et al., 2022, arXiv:2206.14651), to the letter of its reference implementation
//! (NirAharon/BoT-SORT, `tracker/bot_sort.py`, MIT): the same IDs on the same detections, camera
//! motions and embeddings.
//!
//! The association is ByteTrack's, [`super::byte`]. What is added:
//! - the Kalman filter knows width and height, [`XywhFilter`];
//! - the camera's motion moves all predictions, [`FrameDetections::camera_motion`];
//! - a good detection close to a track may be matched by how it looks: the cost of a pair is the
//!   lesser of that of its boxes and that of its looks, and a track's looks are a running mean.
//!
//! Where the reference holds a surprise, it is kept: a track is reported from its first frame on,
//! though not yet confirmed (see [`BotSortSettings::report_tentative`]).
//!
//! What the reference cannot meet is met as follows. A detection without embedding is matched by
//! its box alone, and so is one whose embedding is of another size than those the tracks have; the
//! latter is counted. A camera motion that is not finite, or wilder than between two frames of one
//! view (see [`plausible`]), counts as none.

use serde::{Deserialize, Serialize};

use super::byte::{AppearanceRules, Byte, Rules};
use super::camera_motion::CameraMotion;
use super::kalman::XywhFilter;
use super::settings::{check_buffer, check_limits, check_shares, scaled_buffer};
use super::{FrameDetections, Needs, SettingError, Track, Tracker, TrackerState};

/// How [`BotSort`] decides. The defaults are the reference's for MOT17.
///
/// Scores are compared in f32, as NumPy does for a detector's output.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BotSortSettings {
    /// Detections above this score take part in the first association, 0..=1. Default 0.6.
    pub track_high_thresh: f64,
    /// Detections above this score and below `track_high_thresh` take part in the second
    /// association, 0..=1. Default 0.1.
    pub track_low_thresh: f64,
    /// A detection begins a track from this score on, 0..=1. Default 0.7.
    pub new_track_thresh: f64,
    /// Cost limit of the first association, 0..1 without the ends. Default 0.8.
    pub match_thresh: f64,
    /// Cost limit (1 - IoU) of the second association, 0..1 without the ends. Default 0.5.
    pub second_match_thresh: f64,
    /// Cost limit of matching tentative tracks, 0..1 without the ends. Default 0.7.
    pub unconfirmed_match_thresh: f64,
    /// A tracked and a lost box with less than this (1 - IoU) between them are one object and the
    /// older track stays. Default 0.15.
    pub duplicate_thresh: f64,
    /// How long a lost track is kept, in frames at 30 frames a second: 1 second by default. At
    /// most 100,000.
    pub track_buffer: u32,
    /// Frames a second that the tracker gets; the buffer is scaled by it. Default 30.
    pub frame_rate: f64,
    /// Multiply IoU with the detection's score where good detections are matched. Default true;
    /// off is the reference's `mot20`.
    pub fuse_score: bool,
    /// Follow the camera's motion where it is given. Default true.
    pub camera_motion: bool,
    /// Match by appearance where embeddings are given. Default true; the reference's `with_reid`.
    pub appearance: bool,
    /// Boxes farther apart than this (1 - IoU) are not compared by their looks, 0..1 without the
    /// ends. Default 0.5.
    pub proximity_thresh: f64,
    /// Looks farther apart than this (half the cosine distance) say nothing, 0..=1. Default 0.25.
    pub appearance_thresh: f64,
    /// Share of a track's old vector that stays when it is seen again, 0..=1. Default 0.9.
    pub appearance_keep: f64,
    /// Report tracks in their first frame too, before a second detection confirms them, with
    /// [`TrackState::Tentative`](super::TrackState::Tentative). Default true, as in the reference;
    /// off, a frame's tracks are confirmed ones, as ByteTrack's are.
    pub report_tentative: bool,
}

impl Default for BotSortSettings {
    fn default() -> Self {
        Self {
            track_high_thresh: 0.6,
            track_low_thresh: 0.1,
            new_track_thresh: 0.7,
            match_thresh: 0.8,
            second_match_thresh: 0.5,
            unconfirmed_match_thresh: 0.7,
            duplicate_thresh: 0.15,
            track_buffer: 30,
            frame_rate: 30.0,
            fuse_score: true,
            camera_motion: true,
            appearance: true,
            proximity_thresh: 0.5,
            appearance_thresh: 0.25,
            appearance_keep: 0.9,
            report_tentative: true,
        }
    }
}

impl BotSortSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of range, its value and the range.
    pub fn validate(&self) -> Result<(), SettingError> {
        check_shares(&[
            ("track_high_thresh", self.track_high_thresh),
            ("track_low_thresh", self.track_low_thresh),
            ("new_track_thresh", self.new_track_thresh),
            ("appearance_thresh", self.appearance_thresh),
            ("appearance_keep", self.appearance_keep),
        ])?;
        check_limits(&[
            ("match_thresh", self.match_thresh),
            ("second_match_thresh", self.second_match_thresh),
            ("unconfirmed_match_thresh", self.unconfirmed_match_thresh),
            ("duplicate_thresh", self.duplicate_thresh),
            ("proximity_thresh", self.proximity_thresh),
        ])?;
        check_buffer(self.frame_rate, self.track_buffer)
    }

    /// Frames that a lost track is kept for: the buffer, scaled by the frame rate, rounded down.
    pub fn max_frames_lost(&self) -> u64 {
        scaled_buffer(self.frame_rate, self.track_buffer)
    }

    fn rules(&self) -> Rules {
        let appearance = AppearanceRules {
            proximity_limit: self.proximity_thresh,
            appearance_limit: self.appearance_thresh,
            keep: self.appearance_keep,
        };
        Rules {
            high_thresh: self.track_high_thresh as f32,
            low_thresh: self.track_low_thresh as f32,
            begin_thresh: self.new_track_thresh as f32,
            match_limit: self.match_thresh,
            second_limit: self.second_match_thresh,
            tentative_limit: self.unconfirmed_match_thresh,
            duplicate_limit: self.duplicate_thresh,
            max_frames_lost: self.max_frames_lost(),
            fuse_score: self.fuse_score,
            appearance: self.appearance.then_some(appearance),
            report_tentative: self.report_tentative,
        }
    }
}

/// The BoT-SORT tracker of one camera.
///
/// What it keeps is bounded: tracks seen in the latest frame (at most
/// [`MAX_DETECTIONS`](super::MAX_DETECTIONS)), and lost ones, each for
/// [`BotSortSettings::max_frames_lost`] frames and one more; with appearance, one vector a track.
/// Serialised, it can go on later where it stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BotSort {
    settings: BotSortSettings,
    tracks: Byte<XywhFilter>,
}

impl BotSort {
    /// A tracker that has seen nothing yet.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(settings: BotSortSettings) -> Result<Self, SettingError> {
        settings.validate()?;
        Ok(Self {
            settings,
            tracks: Byte::new(),
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &BotSortSettings {
        &self.settings
    }

    /// All tracks that are kept: those of the latest frame, tentative ones among them, then those
    /// out of sight.
    pub fn kept(&self) -> Vec<Track> {
        self.tracks.kept()
    }
}

impl Tracker for BotSort {
    fn update(&mut self, frame: &FrameDetections) -> Vec<Track> {
        self.tracks.predict();
        if self.settings.camera_motion
            && let Some(motion) = frame.camera_motion.filter(plausible)
        {
            for filter in self.tracks.filters_mut() {
                filter.follow_camera(&motion);
            }
        }
        self.tracks.associate(&self.settings.rules(), frame)
    }

    fn dropped_detections(&self) -> u64 {
        self.tracks.dropped_detections()
    }

    fn dropped_embeddings(&self) -> u64 {
        self.tracks.dropped_embeddings()
    }

    fn needs(&self) -> Needs {
        let from = self.settings.track_high_thresh as f32;
        Needs {
            embeddings_above: self.settings.appearance.then_some(from),
            camera_motion: self.settings.camera_motion,
        }
    }

    fn forget_looks(&mut self, keeps: &dyn Fn(u64) -> bool) {
        self.tracks.forget_looks(keeps);
    }

    fn save(&self) -> TrackerState {
        TrackerState::BotSort(self.clone())
    }
}

/// Whether a motion may be one between two frames of one view: numbers that are finite, a zoom of
/// area between 1/16 and 16 (so no mirror), no number of the linear part above 4 and no shift above 100,000 pixels.
/// Anything else would send the tracks, or their numbers, where nothing finds them again.
fn plausible(motion: &CameraMotion) -> bool {
    let [[a, b, x], [c, d, y]] = motion.rows;
    let zoom = a * d - b * c;
    // Comparisons with NaN are false.
    [a, b, c, d].iter().all(|v| v.abs() <= 4.0)
        && [x, y].iter().all(|v| v.abs() <= 1e5)
        && (1.0 / 16.0..=16.0).contains(&zoom)
}

#[cfg(test)]
mod tests;
