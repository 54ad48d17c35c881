//! ByteTrack (Zhang et al., ECCV 2022, arXiv:2110.06864), to the letter of its reference
//! implementation (ifzhang/ByteTrack, `yolox/tracker`, MIT): the same IDs on the same detections.
//!
//! The association is [`super::byte`]; its Kalman filter is [`XyahFilter`]. Camera motion and
//! appearance play no part.

use serde::{Deserialize, Serialize};

use super::byte::{Byte, Rules};
use super::kalman::XyahFilter;
use super::settings::{check_buffer, check_limits, check_shares, scaled_buffer};
use super::{FrameDetections, SettingError, Track, Tracker, TrackerState};

/// How [`ByteTrack`] decides. The defaults are the reference's.
///
/// Scores are compared in f32, as NumPy does for a detector's output.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ByteTrackSettings {
    /// Detections above this score take part in the first association, 0..=1. Default 0.5; the
    /// reference's runs on MOT17 use 0.6.
    pub track_thresh: f64,
    /// Detections above this score and below `track_thresh` take part in the second association.
    /// Default 0.1.
    pub low_thresh: f64,
    /// A detection begins a track from `track_thresh` plus this on. Default 0.1.
    pub new_track_margin: f64,
    /// Cost limit of the first association, 0..1 without the ends. Default 0.8; the reference's
    /// runs on MOT17 use 0.9.
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
}

impl Default for ByteTrackSettings {
    fn default() -> Self {
        Self {
            track_thresh: 0.5,
            low_thresh: 0.1,
            new_track_margin: 0.1,
            match_thresh: 0.8,
            second_match_thresh: 0.5,
            unconfirmed_match_thresh: 0.7,
            duplicate_thresh: 0.15,
            track_buffer: 30,
            frame_rate: 30.0,
            fuse_score: true,
        }
    }
}

impl ByteTrackSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of range, its value and the range.
    pub fn validate(&self) -> Result<(), SettingError> {
        check_shares(&[
            ("track_thresh", self.track_thresh),
            ("low_thresh", self.low_thresh),
            ("new_track_margin", self.new_track_margin),
        ])?;
        check_limits(&[
            ("match_thresh", self.match_thresh),
            ("second_match_thresh", self.second_match_thresh),
            ("unconfirmed_match_thresh", self.unconfirmed_match_thresh),
            ("duplicate_thresh", self.duplicate_thresh),
        ])?;
        check_buffer(self.frame_rate, self.track_buffer)
    }

    /// Frames that a lost track is kept for: the buffer, scaled by the frame rate, rounded down.
    pub fn max_frames_lost(&self) -> u64 {
        scaled_buffer(self.frame_rate, self.track_buffer)
    }

    fn rules(&self) -> Rules {
        Rules {
            high_thresh: self.track_thresh as f32,
            low_thresh: self.low_thresh as f32,
            begin_thresh: (self.track_thresh + self.new_track_margin) as f32,
            match_limit: self.match_thresh,
            second_limit: self.second_match_thresh,
            tentative_limit: self.unconfirmed_match_thresh,
            duplicate_limit: self.duplicate_thresh,
            max_frames_lost: self.max_frames_lost(),
            fuse_score: self.fuse_score,
            appearance: None,
            report_tentative: false,
        }
    }
}

/// The ByteTrack tracker of one camera.
///
/// What it keeps is bounded: tracks seen in the latest frame (at most
/// [`MAX_DETECTIONS`](super::MAX_DETECTIONS)), and lost ones, each for
/// [`ByteTrackSettings::max_frames_lost`] frames and one more. Serialised, it can go on later where
/// it stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ByteTrack {
    settings: ByteTrackSettings,
    tracks: Byte<XyahFilter>,
}

impl ByteTrack {
    /// A tracker that has seen nothing yet.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(settings: ByteTrackSettings) -> Result<Self, SettingError> {
        settings.validate()?;
        Ok(Self {
            settings,
            tracks: Byte::new(),
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &ByteTrackSettings {
        &self.settings
    }

    /// All tracks that are kept: those of the latest frame, tentative ones among them, then those
    /// out of sight.
    pub fn kept(&self) -> Vec<Track> {
        self.tracks.kept()
    }
}

impl Tracker for ByteTrack {
    fn update(&mut self, frame: &FrameDetections) -> Vec<Track> {
        self.tracks.predict();
        self.tracks.associate(&self.settings.rules(), frame)
    }

    fn dropped_detections(&self) -> u64 {
        self.tracks.dropped_detections()
    }

    fn save(&self) -> TrackerState {
        TrackerState::ByteTrack(self.clone())
    }
}

#[cfg(test)]
mod tests;
