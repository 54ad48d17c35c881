//! When a person counts as leaving a camera, and for how long the next camera is waited for.

use serde::{Deserialize, Serialize};

use crate::tracker::{SettingError, check, check_ranges};

/// How [`HandoffDetector`](super::HandoffDetector) decides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandoffSettings {
    /// Whether handoffs are looked for at all. Default true (`CAMERA_HANDOFF_RULES_ENABLED`).
    pub enabled: bool,
    /// Share of a person's box that must lie in a zone for the person to be in it, above 0 and at
    /// most 1. Default 0.5 (`MIN_BBOX_OVERLAP_RATIO_IN_QUADRANT`). Who is in a zone leaves it again
    /// below half of this share, so that a box at a zone's border does not come and go.
    pub min_overlap_ratio: f64,
    /// Seconds for which a person who left is waited for at cameras that overlap with the one left,
    /// above 0. At others the longest travel time of the link counts. Default 30.
    pub expire_seconds: f64,
    /// Seconds without a sighting after which a track has ended, above 0. Default 1.
    pub track_end_seconds: f64,
    /// Handoffs whose new sighting is at least this sure teach travel times, 0..=1. Default 0.5.
    pub learn_above: f64,
    /// Most tracks that are followed, and most handoffs that are waited for; of more, the oldest go.
    /// 1..=1,000,000. Default 10,000.
    pub capacity: usize,
}

impl Default for HandoffSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            min_overlap_ratio: 0.5,
            expire_seconds: 30.0,
            track_end_seconds: 1.0,
            learn_above: 0.5,
            capacity: 10_000,
        }
    }
}

impl HandoffSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of range, its value and the range.
    pub fn validate(&self) -> Result<(), SettingError> {
        let ratio = self.min_overlap_ratio;
        check(
            "min_overlap_ratio",
            ratio,
            "above 0 and at most 1",
            ratio > 0.0 && ratio <= 1.0,
        )?;
        for (setting, seconds) in [
            ("expire_seconds", self.expire_seconds),
            ("track_end_seconds", self.track_end_seconds),
        ] {
            let holds = seconds > 0.0 && seconds <= MAX_SECONDS;
            check(setting, seconds, "above 0 and at most 1,000,000", holds)?;
        }
        check_ranges(&[
            ("learn_above", self.learn_above, 0.0, 1.0, "in 0..=1"),
            (
                "capacity",
                self.capacity as f64,
                1.0,
                1e6,
                "in 1..=1,000,000",
            ),
        ])
    }
}

/// Longest time that may be set, in seconds: eleven days.
pub const MAX_SECONDS: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        assert_eq!(HandoffSettings::default().validate(), Ok(()));
        for (wrong, setting) in [
            (r#"{"min_overlap_ratio": 0.0}"#, "min_overlap_ratio"),
            (r#"{"min_overlap_ratio": 1.1}"#, "min_overlap_ratio"),
            (r#"{"expire_seconds": 0}"#, "expire_seconds"),
            (r#"{"track_end_seconds": 2e6}"#, "track_end_seconds"),
            (r#"{"learn_above": -0.1}"#, "learn_above"),
            (r#"{"capacity": 0}"#, "capacity"),
        ] {
            let settings: HandoffSettings = serde_json::from_str(wrong).unwrap();
            assert_eq!(settings.validate().unwrap_err().setting, setting);
        }
        let nan = HandoffSettings {
            expire_seconds: f64::NAN,
            ..HandoffSettings::default()
        };
        assert_eq!(nan.validate().unwrap_err().setting, "expire_seconds");
    }
}
