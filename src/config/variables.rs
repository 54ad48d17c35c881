//! Environment variables and flags that override an environment's file: all of them, in one table.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::checks::Checked;
use super::environment::Environment;
use super::pairs::parse_pairs;
use super::problem::{Place, Problem};

/// A setting that an environment variable or a flag can override.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// The environment variable.
    pub name: &'static str,
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The setting in the file: table and key.
    pub setting: &'static str,
    /// What it is, for people.
    pub help: &'static str,
    apply: Apply,
}

/// Puts a text into an environment; the error says what is wrong with the text.
type Apply = fn(&mut Environment, &str) -> Result<(), String>;

/// Every variable, by the names of the requirement document.
pub const VARIABLES: [Variable; 12] = [
    Variable {
        name: "REID_MODEL_PATH",
        flag: "reid-model-path",
        setting: "reid.model",
        help: "Weights of the re-identification encoder",
        apply: |environment, text| {
            environment.reid.model = Some(PathBuf::from(text));
            Ok(())
        },
    },
    Variable {
        name: "REID_MODEL_TYPE",
        flag: "reid-model-type",
        setting: "reid.type",
        help: "What those weights are expected to be: clip, resnet50 or osnet",
        apply: |environment, text| {
            let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
            let kind = Deserialize::deserialize(text).map_err(|error| error.to_string())?;
            environment.reid.kind = Some(kind);
            Ok(())
        },
    },
    Variable {
        name: "REID_SIMILARITY_THRESHOLD",
        flag: "reid-similarity-threshold",
        setting: "association.similarity_threshold",
        help: "Cosine similarity above which two vectors speak for one person (-1..1)",
        apply: |environment, text| {
            number(text, &mut environment.association, |settings, value| {
                settings.similarity_threshold = value;
            })
        },
    },
    Variable {
        name: "REID_REFRESH_INTERVAL_FRAMES",
        flag: "reid-refresh-interval-frames",
        setting: "reid.refresh_interval_frames",
        help: "Frames after which a track's appearance is taken anew",
        apply: |environment, text| {
            number(text, &mut environment.reid, |settings, value| {
                settings.refresh_interval_frames = value;
            })
        },
    },
    Variable {
        name: "REID_GALLERY_EMA_ALPHA",
        flag: "reid-gallery-ema-alpha",
        setting: "association.ema_alpha",
        help: "Weight of the new vector in a person's mean vector (0..1)",
        apply: |environment, text| {
            number(text, &mut environment.association, |settings, value| {
                settings.ema_alpha = value;
            })
        },
    },
    Variable {
        name: "REID_LOST_TRACK_BUFFER_FRAMES",
        flag: "reid-lost-track-buffer-frames",
        setting: "association.lost_steps",
        help: "Time steps that the lost gallery keeps a person for",
        apply: |environment, text| {
            number(text, &mut environment.association, |settings, value| {
                settings.lost_steps = value;
            })
        },
    },
    Variable {
        name: "HOMOGRAPHY_DATA_DIR",
        flag: "homography-data-dir",
        setting: "homography.data_dir",
        help: "Folder of the cameras' calibrations, {camera}_homography.json",
        apply: |environment, text| {
            environment.homography.data_dir = PathBuf::from(text);
            Ok(())
        },
    },
    Variable {
        name: "ENABLE_BEV_MAP_PROJECTION",
        flag: "enable-bev-map-projection",
        setting: "homography.enabled",
        help: "Whether people are projected to the map (true or false)",
        apply: |environment, text| {
            environment.homography.enabled = truth(text)?;
            Ok(())
        },
    },
    Variable {
        name: "HOMOGRAPHY_RANSAC_THRESHOLD",
        flag: "homography-ransac-threshold",
        setting: "homography.ransac_threshold",
        help: "Error in pixels up to which a calibration point counts",
        apply: |environment, text| {
            number(text, &mut environment.homography, |settings, value| {
                settings.ransac_threshold = value;
            })
        },
    },
    Variable {
        name: "MIN_BBOX_OVERLAP_RATIO_IN_QUADRANT",
        flag: "min-bbox-overlap-ratio-in-quadrant",
        setting: "handoff.min_overlap_ratio",
        help: "Share of a box that must lie in a zone for the person to be in it (0..1)",
        apply: |environment, text| {
            number(text, &mut environment.handoff, |settings, value| {
                settings.min_overlap_ratio = value;
            })
        },
    },
    Variable {
        name: "CAMERA_HANDOFF_RULES_ENABLED",
        flag: "camera-handoff-rules-enabled",
        setting: "handoff.enabled",
        help: "Whether handoffs between cameras are looked for (true or false)",
        apply: |environment, text| {
            environment.handoff.enabled = truth(text)?;
            Ok(())
        },
    },
    Variable {
        name: "POSSIBLE_CAMERA_OVERLAPS",
        flag: "possible-camera-overlaps",
        setting: "links",
        help: "Pairs of cameras that overlap, in place of those of the file: c09-c12,c12-c13 or \
               [(\"c09\", \"c12\"), (\"c12\", \"c13\")]",
        apply: |environment, text| {
            let cameras = environment.cameras.iter();
            let known: Vec<&str> = cameras.map(|camera| camera.id.as_str()).collect();
            let pairs = parse_pairs(text, &known)?;
            environment.set_overlaps(&pairs);
            Ok(())
        },
    },
];

/// Puts a number into a table of settings that then must hold.
fn number<T, N>(text: &str, settings: &mut T, set: fn(&mut T, N)) -> Result<(), String>
where
    T: Checked,
    N: FromStr,
{
    let text = text.trim();
    let value = text
        .parse()
        .map_err(|_| format!("{text:?}: must be {}", kind::<N>()))?;
    set(settings, value);
    settings.check()
}

fn kind<N>() -> &'static str {
    if std::any::type_name::<N>() == "u32" {
        return "a whole number";
    }
    "a number"
}

/// `True` and `False` as Python writes them, and what else is usual.
pub(crate) fn truth(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?}: must be true or false")),
    }
}

/// What variables and flags say.
///
/// As [`clap::Args`] it adds a flag for each of [`VARIABLES`] to a command; each flag wins over its
/// variable. An empty variable counts as none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Index of the variable, text, and where it was said.
    given: Vec<(usize, String, Place)>,
}

impl Overrides {
    /// What environment variables say, by a function that gives their values.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut overrides = Self::default();
        for (index, variable) in VARIABLES.iter().enumerate() {
            if let Some(value) = lookup(variable.name).filter(|value| !value.is_empty()) {
                let text = value.to_string_lossy().into_owned();
                overrides.put(index, text, Place::Variable(variable.name));
            }
        }
        overrides
    }

    /// What the variables of this process say.
    pub fn from_process() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// These, and those of `stronger` over them.
    #[must_use]
    pub fn overridden_by(mut self, stronger: &Self) -> Self {
        for (index, text, place) in &stronger.given {
            self.put(*index, text.clone(), place.clone());
        }
        self
    }

    fn put(&mut self, index: usize, text: String, place: Place) {
        self.given.retain(|(other, _, _)| *other != index);
        self.given.push((index, text, place));
        self.given.sort_by_key(|(index, _, _)| *index);
    }

    /// Puts all of them into an environment; returns what is wrong.
    pub(super) fn apply(&self, environment: &mut Environment) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, text, place) in &self.given {
            let Some(variable) = VARIABLES.get(*index) else {
                continue;
            };
            if let Err(message) = (variable.apply)(environment, text) {
                problems.push(Problem {
                    place: place.clone(),
                    message,
                });
            }
        }
        problems
    }
}

impl clap::Args for Overrides {
    fn augment_args(command: Command) -> Command {
        command.args(VARIABLES.iter().map(|variable| {
            Arg::new(variable.name)
                .long(variable.flag)
                .env(variable.name)
                .help(variable.help)
                .value_name("VALUE")
                .help_heading("Over the environment's file")
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut overrides = Self::default();
        overrides.update_from_arg_matches(matches)?;
        Ok(overrides)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (index, variable) in VARIABLES.iter().enumerate() {
            let Some(text) = matches.get_one::<String>(variable.name) else {
                continue;
            };
            let flag = matches.value_source(variable.name) == Some(ValueSource::CommandLine);
            if flag {
                self.put(index, text.clone(), Place::Flag(variable.flag));
            } else if !text.is_empty() {
                self.put(index, text.clone(), Place::Variable(variable.name));
            }
        }
        Ok(())
    }
}
