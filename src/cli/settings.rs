//! Settings of trackers from files and flags.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value};

use crate::tracker::TrackerSettings;

/// Which settings differ from the trackers' defaults.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// Settings of a tracker, TOML or JSON, as `mtmc tune` writes them; the file names its tracker.
    /// Several files are separated by commas
    #[arg(
        long,
        env = "MTMC_TRACKER_SETTINGS",
        value_name = "FILE",
        value_delimiter = ','
    )]
    settings: Vec<PathBuf>,

    /// One setting, over what files say, such as `track_buffer=60`, or for one tracker alone
    /// `botsort.match_thresh=0.7`; may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

impl SettingsArgs {
    /// The trackers with the settings that were given, checked.
    ///
    /// # Errors
    /// A file cannot be read or is of none of these trackers; a name or value is wrong.
    pub fn apply(
        &self,
        mut trackers: Vec<TrackerSettings>,
    ) -> anyhow::Result<Vec<TrackerSettings>> {
        for path in &self.settings {
            let read = read_settings(path)?;
            let name = read.name();
            match trackers.iter_mut().find(|tracker| tracker.name() == name) {
                Some(tracker) => *tracker = read,
                None => bail!("{}: settings of {name}, which is not used", path.display()),
            }
        }
        for assignment in &self.set {
            assign(&mut trackers, assignment).with_context(|| format!("--set {assignment}"))?;
        }
        for tracker in &trackers {
            tracker.validate().with_context(|| tracker.name())?;
        }
        Ok(trackers)
    }
}

/// Reads a settings file: JSON if it is named so, else TOML.
///
/// # Errors
/// The file cannot be read, or a setting is unknown, of a wrong kind or out of range.
pub fn read_settings(path: &Path) -> anyhow::Result<TrackerSettings> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(name)?;
    let settings: TrackerSettings = if is_json(path) {
        serde_json::from_str(&text).with_context(name)?
    } else {
        toml::from_str(&text).with_context(name)?
    };
    settings.validate().with_context(name)?;
    Ok(settings)
}

/// Settings as the text of a file of that name, under a comment where the format knows them.
///
/// # Errors
/// They cannot be written in that format: a bug of this program.
pub fn settings_text(
    path: &Path,
    settings: &TrackerSettings,
    comment: &str,
) -> anyhow::Result<String> {
    if is_json(path) {
        return Ok(serde_json::to_string_pretty(settings)? + "\n");
    }
    let mut text = String::new();
    for line in comment.lines() {
        text.push_str(&format!("# {line}\n"));
    }
    Ok(text + &toml::to_string(settings)?)
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "json")
}

/// Carries out one `NAME=VALUE` on every tracker that has the setting.
fn assign(trackers: &mut [TrackerSettings], assignment: &str) -> anyhow::Result<()> {
    let Some((name, text)) = assignment.split_once('=') else {
        bail!("must be NAME=VALUE");
    };
    let (only, name) = match name.trim().split_once('.') {
        Some((tracker, name)) => (Some(tracker), name),
        None => (None, name.trim()),
    };
    let value: Value = serde_json::from_str(text.trim())
        .with_context(|| format!("`{text}` is neither a number nor true or false"))?;
    let mut known = Vec::new();
    let mut done = false;
    for tracker in trackers {
        if only.is_some_and(|only| only != tracker.name()) {
            continue;
        }
        let Value::Object(mut values) = serde_json::to_value(*tracker)? else {
            bail!("the settings of {} cannot be listed", tracker.name());
        };
        // The name of the tracker is no setting.
        if name != "name" && values.contains_key(name) {
            values.insert(name.to_string(), value.clone());
            *tracker = serde_json::from_value(Value::Object(values))?;
            done = true;
        } else {
            known.push(format!("{}: {}", tracker.name(), names(&values)));
        }
    }
    if !done {
        bail!(
            "no tracker in use has this setting; there are {}",
            known.join("; ")
        );
    }
    Ok(())
}

fn names(values: &Map<String, Value>) -> String {
    let names = values.keys().map(String::as_str);
    names
        .filter(|name| *name != "name")
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::{BotSortSettings, ByteTrackSettings};

    fn both() -> Vec<TrackerSettings> {
        let trackers = TrackerSettings::NAMES.map(|name| name.parse().unwrap());
        trackers.to_vec()
    }

    fn args(settings: &[&Path], set: &[&str]) -> SettingsArgs {
        SettingsArgs {
            settings: settings.iter().map(|path| path.to_path_buf()).collect(),
            set: set.iter().map(|text| (*text).to_string()).collect(),
        }
    }

    #[test]
    fn flags_reach_the_trackers_that_have_the_setting() {
        let set = [
            "match_thresh=0.7",
            "botsort.track_buffer=60",
            "track_thresh = 0.3",
        ];
        let trackers = args(&[], &set).apply(both()).unwrap();
        let byte = ByteTrackSettings {
            match_thresh: 0.7,
            track_thresh: 0.3,
            ..ByteTrackSettings::default()
        };
        let bot = BotSortSettings {
            match_thresh: 0.7,
            track_buffer: 60,
            ..BotSortSettings::default()
        };
        assert_eq!(
            trackers,
            [
                TrackerSettings::ByteTrack(byte),
                TrackerSettings::BotSort(bot)
            ]
        );
        for (wrong, expected) in [
            ("match_thresh", "NAME=VALUE"),
            ("match_thresh=high", "neither a number"),
            ("max_age=3", "track_thresh, "),
            ("name=\"botsort\"", "no tracker in use"),
            ("track_buffer=1.5", "1.5"),
            ("match_thresh=1", "above 0 and below 1"),
        ] {
            let error = format!("{:#}", args(&[], &[wrong]).apply(both()).unwrap_err());
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }

    #[test]
    fn files_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let settings = TrackerSettings::BotSort(BotSortSettings {
            match_thresh: 0.65,
            track_buffer: 45,
            ..BotSortSettings::default()
        });
        for name in ["bot.toml", "bot.json"] {
            let path = folder.path().join(name);
            let text = settings_text(&path, &settings, "two\nlines").unwrap();
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_settings(&path).unwrap(), settings, "{name}");
            let trackers = args(&[&path], &[]).apply(both()).unwrap();
            assert_eq!(trackers[1], settings);
            let unused = args(&[&path], &[]).apply(vec![both()[0]]).unwrap_err();
            assert!(
                unused.to_string().contains("botsort, which is not used"),
                "{unused}"
            );
        }
        let path = folder.path().join("wrong.toml");
        for (text, expected) in [
            ("name = \"botsort\"\nmax_age = 3\n", "max_age"),
            ("name = \"sort\"\n", "sort"),
            (
                "name = \"bytetrack\"\nmatch_thresh = 2.0\n",
                "match_thresh = 2",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", read_settings(&path).unwrap_err());
            assert!(
                error.contains(expected) && error.contains("wrong.toml"),
                "{error}"
            );
        }
    }
}
