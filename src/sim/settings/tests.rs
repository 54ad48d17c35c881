//! Presets are valid, wrong settings are named, text comes back.

use super::*;

#[test]
fn presets_are_valid() {
    for preset in [Preset::Easy, Preset::Medium, Preset::Hard] {
        SimSettings::preset(preset).validate().unwrap();
        let exact = SimSettings::preset(preset).without_noise();
        exact.validate().unwrap();
    }
}

#[test]
fn what_makes_no_sense_is_named() {
    type Change = fn(&mut SimSettings);
    let wrong: [(Change, &str); 8] = [
        (|s| s.cameras = 0, "cameras = 0: must be in 1..=1,000"),
        (
            |s| s.layout = Layout::Campus,
            "cameras = 3: must be 4 in the layout campus",
        ),
        (|s| s.frame_rate = f64::NAN, "frame_rate = NaN"),
        (|s| s.walk.speed = 2.5, "walk.speed = 2.5"),
        (|s| s.detector.miss_rate = -0.1, "detector.miss_rate = -0.1"),
        (|s| s.looks.dim = 3, "looks.dim = 3: must be 0 or in"),
        (|s| s.looks.other_camera = 0.95, "looks.other_camera = 0.95"),
        (
            |s| s.looks.different_same_camera = 0.1,
            "looks.different_same_camera = 0.1: must be at least looks.different",
        ),
    ];
    for (change, expected) in wrong {
        let mut settings = SimSettings {
            cameras: 3,
            ..SimSettings::default()
        };
        settings.validate().unwrap();
        change(&mut settings);
        let error = settings.validate().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn settings_come_back_from_text() {
    let settings = SimSettings::preset(Preset::Hard);
    let text = toml::to_string(&settings).unwrap();
    assert_eq!(toml::from_str::<SimSettings>(&text).unwrap(), settings);
    assert!(toml::from_str::<SimSettings>("[walk]\nspede = 1.0\n").is_err());
}
