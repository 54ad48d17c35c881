//! `mtmc eval track`: trackers on a benchmark's detections, and what they are worth.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use rayon::prelude::*;
use serde_json::json;

use super::inputs::InputArgs;
use super::output::{Output, figures_table, json as rows_json, print_json, write_file};
use crate::cli::settings::SettingsArgs;
use crate::eval::clear::Rules;
use crate::eval::folder::Split;
use crate::eval::report::{Measured, with_combined};
use crate::eval::track::SequenceInput;
use crate::tracker::TrackerSettings;

/// Arguments of `mtmc eval track`.
#[derive(Debug, Args)]
pub struct EvalTrackArgs {
    #[command(flatten)]
    input: InputArgs,

    /// Which trackers to run
    #[arg(long, env = "MTMC_TRACKER", default_value = "bytetrack")]
    tracker: Trackers,

    #[command(flatten)]
    settings: SettingsArgs,

    /// Which frames of each sequence to track and measure
    #[arg(long, env = "MTMC_EVAL_SPLIT", default_value = "all")]
    split: Split,

    /// Keep the tracks here: TRACKER/SEQUENCE.txt, MOT Challenge text
    #[arg(short, long, env = "MTMC_EVAL_OUT", value_name = "DIR")]
    out: Option<PathBuf>,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Trackers {
    Bytetrack,
    Botsort,
    Both,
}

impl Trackers {
    fn defaults(self) -> anyhow::Result<Vec<TrackerSettings>> {
        let names: &[&str] = match self {
            Self::Bytetrack => &["bytetrack"],
            Self::Botsort => &["botsort"],
            Self::Both => &TrackerSettings::NAMES,
        };
        let parsed: Result<Vec<TrackerSettings>, _> =
            names.iter().map(|name| name.parse()).collect();
        Ok(parsed?)
    }
}

/// What one tracker made of one sequence.
struct Tracked {
    text: String,
    measured: Measured,
}

/// Tracks, measures and prints.
///
/// # Errors
/// The benchmark's folder, a file, weights or a setting are not usable.
pub fn run(args: &EvalTrackArgs) -> anyhow::Result<()> {
    let trackers = args.settings.apply(args.tracker.defaults()?)?;
    let loaded = args.input.load(&trackers)?;
    let mut tables = String::new();
    let mut results = BTreeMap::new();
    for settings in &trackers {
        let tracked: Vec<anyhow::Result<Tracked>> = loaded
            .sequences
            .par_iter()
            .map(|sequence| track(args, settings, sequence))
            .collect();
        let mut rows = Vec::new();
        for (sequence, tracked) in loaded.sequences.iter().zip(tracked) {
            let tracked = tracked.with_context(|| sequence.name.clone())?;
            if let Some(out) = &args.out {
                let folder = out.join(settings.name());
                std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
                write_file(
                    &folder.join(format!("{}.txt", sequence.name)),
                    &tracked.text,
                )?;
            }
            rows.push((sequence.name.clone(), tracked.measured));
        }
        let rows = with_combined(rows);
        let heading = format!("{}, {}, {}", settings.name(), loaded.made_from, args.split);
        let several = (trackers.len() > 1).then(|| settings.name());
        args.output.files(&rows, &heading, several)?;
        tables.push_str(&format!("{heading}\n{}\n", figures_table(&rows)));
        let result = json!({ "settings": settings, "results": rows_json(&rows)? });
        results.insert(settings.name(), result);
    }
    if args.output.json {
        return print_json(&json!({
            "split": args.split,
            "detections": loaded.made_from,
            "trackers": results,
        }));
    }
    write!(
        std::io::stdout().lock(),
        "{}",
        tables.trim_end_matches('\n')
    )?;
    writeln!(std::io::stdout())?;
    Ok(())
}

fn track(
    args: &EvalTrackArgs,
    settings: &TrackerSettings,
    sequence: &SequenceInput,
) -> anyhow::Result<Tracked> {
    let text = sequence.track_text(settings, args.split)?;
    let prepared = sequence.prepare(&text, args.input.benchmark, args.split)?;
    let measured = Measured::by(&prepared, Rules::TrackEval);
    Ok(Tracked { text, measured })
}
