//! `mtmc data synth-reid`: a made-up re-ID set.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use mtmc_tools::dataset::market1501::{GALLERY, QUERY, TRAIN};

use super::Steps;
use crate::train::data::synth::{self, Settings};

/// Arguments of `mtmc data synth-reid`.
#[derive(Debug, Args)]
pub struct SynthReidArgs {
    /// New folder for `bounding_box_train`, query, `bounding_box_test` and manifest.json
    #[arg(short, long, env = "MTMC_OUT", value_name = "DIR")]
    out: PathBuf,

    /// People, those of queries and gallery among them
    #[arg(
        long,
        env = "MTMC_SYNTH_PEOPLE",
        value_name = "N",
        default_value_t = 60
    )]
    people: usize,

    /// How many of them are for training; half if not given
    #[arg(long, env = "MTMC_SYNTH_TRAIN_PEOPLE", value_name = "N")]
    train_people: Option<usize>,

    /// Pictures of each person, spread over the cameras
    #[arg(
        long,
        env = "MTMC_SYNTH_IMAGES_PER_PERSON",
        value_name = "N",
        default_value_t = 16
    )]
    images_per_person: usize,

    /// Cameras, each with light, colours and focus of its own
    #[arg(
        long,
        env = "MTMC_SYNTH_CAMERAS",
        value_name = "N",
        default_value_t = 4
    )]
    cameras: usize,

    /// Gallery pictures of nobody who is looked for
    #[arg(
        long,
        env = "MTMC_SYNTH_DISTRACTORS",
        value_name = "N",
        default_value_t = 0
    )]
    distractors: usize,

    /// Gallery pictures of boxes that went wrong, which evaluation passes over
    #[arg(long, env = "MTMC_SYNTH_JUNK", value_name = "N", default_value_t = 0)]
    junk: usize,

    /// Decides all that is left to chance: the same seed draws the same pictures
    #[arg(long, env = "MTMC_SEED", default_value_t = 0)]
    seed: u64,
}

/// Draws and writes.
///
/// # Errors
/// A number is out of range; the folder is not empty or cannot be written.
pub fn run(args: &SynthReidArgs, steps: &Steps) -> anyhow::Result<()> {
    let settings = Settings {
        people: args.people,
        train_people: args.train_people.unwrap_or(args.people / 2),
        images_per_person: args.images_per_person,
        cameras: args.cameras,
        distractors: args.distractors,
        junk: args.junk,
        seed: args.seed,
    };
    let counts = synth::write(&args.out, &settings, steps)?;
    steps.finish();
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{:<18} {:>7}", "FOLDER", "IMAGES")?;
    for folder in [TRAIN, QUERY, GALLERY] {
        let count = counts.get(folder).copied().unwrap_or_default();
        writeln!(stdout, "{folder:<18} {count:>7}")?;
    }
    writeln!(stdout, "written to {}", args.out.display())?;
    Ok(())
}
