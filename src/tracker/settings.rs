//! Which tracker, with which settings; and the checks that the trackers' settings share.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{BotSort, BotSortSettings, ByteTrack, ByteTrackSettings, Tracker};

/// A tracker and its settings, as a settings file names them:
/// `{"name": "botsort", "match_thresh": 0.7}`; what is not given is the tracker's default.
///
/// Read from a bare name (`bytetrack`, `botsort`) it is that tracker with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum TrackerSettings {
    /// Boxes alone.
    ByteTrack(ByteTrackSettings),
    /// Boxes, the camera's motion and appearance.
    BotSort(BotSortSettings),
}

impl TrackerSettings {
    /// Names that can be read.
    pub const NAMES: [&'static str; 2] = ["bytetrack", "botsort"];

    /// The tracker's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ByteTrack(_) => "bytetrack",
            Self::BotSort(_) => "botsort",
        }
    }

    /// The same for another frame rate, in frames a second.
    #[must_use]
    pub fn at_rate(mut self, frame_rate: f64) -> Self {
        match &mut self {
            Self::ByteTrack(settings) => settings.frame_rate = frame_rate,
            Self::BotSort(settings) => settings.frame_rate = frame_rate,
        }
        self
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of range, its value and the range.
    pub fn validate(&self) -> Result<(), SettingError> {
        match self {
            Self::ByteTrack(settings) => settings.validate(),
            Self::BotSort(settings) => settings.validate(),
        }
    }

    /// A tracker for one camera.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn build(&self) -> Result<Box<dyn Tracker>, SettingError> {
        Ok(match *self {
            Self::ByteTrack(settings) => Box::new(ByteTrack::new(settings)?),
            Self::BotSort(settings) => Box::new(BotSort::new(settings)?),
        })
    }
}

/// What matters of both trackers for a single video, with what suits videos.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoTracking {
    /// Lowest score that starts a track, 0..=1. Default 0.5.
    pub confidence: f32,
    /// Lowest score that continues one, 0..=1. Default 0.1.
    pub score_floor: f32,
    /// Cost (1 - IoU · score) above which a box does not continue a track, 0..=1. Default 0.8.
    pub match_threshold: f32,
    /// Looks farther apart than this (half the cosine distance, 0..=1) do not continue a track.
    /// Default 0.1.
    pub appearance_threshold: f32,
    /// Frames that a lost track is kept, at 30 frames a second. Default 30.
    pub track_buffer: u32,
}

impl Default for VideoTracking {
    fn default() -> Self {
        Self {
            confidence: 0.5,
            score_floor: 0.1,
            match_threshold: 0.8,
            appearance_threshold: 0.1,
            track_buffer: 30,
        }
    }
}

impl VideoTracking {
    /// By boxes alone, at so many frames a second.
    pub fn bytetrack(&self, frame_rate: f64) -> TrackerSettings {
        TrackerSettings::ByteTrack(ByteTrackSettings {
            track_thresh: f64::from(self.confidence),
            low_thresh: f64::from(self.score_floor),
            match_thresh: f64::from(self.match_threshold),
            track_buffer: self.track_buffer,
            frame_rate,
            ..ByteTrackSettings::default()
        })
    }

    /// By boxes and looks, at so many frames a second.
    pub fn botsort(&self, frame_rate: f64) -> TrackerSettings {
        let confidence = f64::from(self.confidence);
        TrackerSettings::BotSort(BotSortSettings {
            track_high_thresh: confidence,
            track_low_thresh: f64::from(self.score_floor),
            new_track_thresh: (confidence + 0.1).min(1.0),
            match_thresh: f64::from(self.match_threshold),
            track_buffer: self.track_buffer,
            frame_rate,
            // The reference compares looks only where boxes overlap by half, which is where they are
            // needed least; see the README's table of both.
            proximity_thresh: 0.95,
            appearance_thresh: f64::from(self.appearance_threshold),
            report_tentative: false,
            ..BotSortSettings::default()
        })
    }
}

impl Default for TrackerSettings {
    fn default() -> Self {
        Self::ByteTrack(ByteTrackSettings::default())
    }
}

impl FromStr for TrackerSettings {
    type Err = UnknownTracker;

    fn from_str(name: &str) -> Result<Self, UnknownTracker> {
        match name {
            "bytetrack" => Ok(Self::ByteTrack(ByteTrackSettings::default())),
            "botsort" => Ok(Self::BotSort(BotSortSettings::default())),
            _ => Err(UnknownTracker {
                name: name.to_owned(),
            }),
        }
    }
}

/// A tracker with all that it remembers, to be stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackerState {
    /// Boxes alone.
    ByteTrack(ByteTrack),
    /// Boxes, the camera's motion and appearance.
    BotSort(BotSort),
}

impl TrackerState {
    /// The tracker, which goes on where the saved one was.
    pub fn restore(self) -> Box<dyn Tracker> {
        match self {
            Self::ByteTrack(tracker) => Box::new(tracker),
            Self::BotSort(tracker) => Box::new(tracker),
        }
    }
}

/// There is no tracker of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no tracker is called {name:?}: there are {}", TrackerSettings::NAMES.join(" and "))]
pub struct UnknownTracker {
    /// What was asked for.
    pub name: String,
}

/// A tracker was asked for with a setting that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{setting} = {value}: must be {expected}")]
pub struct SettingError {
    /// Name of the setting.
    pub setting: &'static str,
    /// What was given.
    pub value: f64,
    /// What is allowed.
    pub expected: &'static str,
}

/// Settings with their names.
pub(super) type Named = (&'static str, f64);

/// Scores and shares: 0..=1.
pub(super) fn check_shares(settings: &[Named]) -> Result<(), SettingError> {
    for &(setting, value) in settings {
        check(setting, value, "in 0..=1", (0.0..=1.0).contains(&value))?;
    }
    Ok(())
}

/// Limits of a cost. Boxes that do not touch cost 1: a limit of 1 would match anything with
/// anything.
pub(super) fn check_limits(settings: &[Named]) -> Result<(), SettingError> {
    for &(setting, value) in settings {
        let inside = value > 0.0 && value < 1.0;
        check(setting, value, "above 0 and below 1", inside)?;
    }
    Ok(())
}

/// How long lost tracks are kept, which bounds what a tracker remembers.
pub(super) fn check_buffer(frame_rate: f64, track_buffer: u32) -> Result<(), SettingError> {
    let possible = frame_rate > 0.0 && frame_rate <= 1000.0;
    check(
        "frame_rate",
        frame_rate,
        "above 0 and at most 1000",
        possible,
    )?;
    let buffer = f64::from(track_buffer);
    check("track_buffer", buffer, "at most 100000", buffer <= 1e5)
}

/// A buffer at 30 frames a second in frames at another rate, rounded down.
pub(super) fn scaled_buffer(frame_rate: f64, track_buffer: u32) -> u64 {
    (frame_rate / 30.0 * f64::from(track_buffer)) as u64
}

/// A setting: name, value, least, most, and the range in words.
pub(crate) type Ranged = (&'static str, f64, f64, f64, &'static str);

/// Settings within ranges, ends included; NaN is in no range.
pub(crate) fn check_ranges(settings: &[Ranged]) -> Result<(), SettingError> {
    for &(setting, value, least, most, expected) in settings {
        check(setting, value, expected, (least..=most).contains(&value))?;
    }
    Ok(())
}

/// A setting of which it is known whether it `holds`.
pub(crate) fn check(
    setting: &'static str,
    value: f64,
    expected: &'static str,
    holds: bool,
) -> Result<(), SettingError> {
    if holds {
        return Ok(());
    }
    Err(SettingError {
        setting,
        value,
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags_are_the_same_words() {
        for name in TrackerSettings::NAMES {
            let settings: TrackerSettings = name.parse().unwrap();
            assert_eq!(settings.name(), name);
            assert!(settings.build().is_ok());
            let text = serde_json::to_string(&settings).unwrap();
            assert!(
                text.starts_with(&format!("{{\"name\":\"{name}\",")),
                "{text}"
            );
            assert_eq!(
                serde_json::from_str::<TrackerSettings>(&text).unwrap(),
                settings
            );
            let bare = format!("{{\"name\": \"{name}\"}}");
            assert_eq!(
                serde_json::from_str::<TrackerSettings>(&bare).unwrap(),
                settings
            );
            let wrong = format!("{{\"name\": \"{name}\", \"max_age\": 3}}");
            let error = serde_json::from_str::<TrackerSettings>(&wrong).unwrap_err();
            assert!(error.to_string().contains("max_age"), "{error}");
        }
        let error = "deepsort".parse::<TrackerSettings>().unwrap_err();
        assert!(
            error.to_string().contains("bytetrack and botsort"),
            "{error}"
        );
    }

    #[test]
    fn a_tracker_with_a_wrong_setting_is_not_built() {
        let text = r#"{"name": "botsort", "proximity_thresh": 1.0}"#;
        let settings: TrackerSettings = serde_json::from_str(text).unwrap();
        assert_eq!(settings.build().err().unwrap().setting, "proximity_thresh");
    }
}
