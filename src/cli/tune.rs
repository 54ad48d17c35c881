//! `mtmc tune`: the settings of a tracker that suit a benchmark best.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use rayon::prelude::*;
use serde_json::json;

use super::eval::inputs::InputArgs;
use super::eval::output::{print_json, write_file};
use super::progress::{Progress, stop_on_ctrl_c};
use super::settings::{SettingsArgs, settings_text};
use crate::eval::folder::Split;
use crate::eval::report::{Figures, Measured};
use crate::eval::track::{SequenceInput, TrackError};
use crate::eval::tune::{Metric, Outcome, Range, Search, parameters, search};
use crate::pipeline::Interrupted;
use crate::tracker::TrackerSettings;

/// Arguments of `mtmc tune`.
///
/// Settings are searched on the first half of each sequence; the gain over the defaults is
/// reported on the second halves too, which the search does not see.
#[derive(Debug, Args)]
pub struct TuneArgs {
    #[command(flatten)]
    input: InputArgs,

    /// Whose settings to search
    #[arg(long, env = "MTMC_TRACKER", default_value = "bytetrack")]
    tracker: String,

    /// What is to be as large as possible
    #[arg(long, env = "MTMC_TUNE_METRIC", default_value = "hota")]
    metric: Metric,

    /// How many settings to try
    #[arg(long, env = "MTMC_TUNE_TRIALS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    trials: u32,

    /// Decides every draw: the same seed gives the same settings on any number of threads
    #[arg(long, env = "MTMC_TUNE_SEED", default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    settings: SettingsArgs,

    /// Where the best settings go, TOML or (.json) JSON; TRACKER-METRIC.toml if not given
    #[arg(short, long, env = "MTMC_TUNE_OUT", value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print JSON, ratios as fractions, instead of a table
    #[arg(long, env = "MTMC_JSON")]
    json: bool,
}

/// Figures of defaults and best settings on one split.
struct Comparison {
    split: Split,
    defaults: Figures,
    best: Figures,
}

/// Searches, writes the settings, prints the gain.
///
/// # Errors
/// The benchmark's folder, a file, weights or a setting are not usable; or the search was stopped,
/// after the best so far has been written and printed.
pub fn run(args: &TuneArgs) -> anyhow::Result<()> {
    let defaults: TrackerSettings = args.tracker.parse()?;
    let started = args.settings.apply(vec![defaults])?;
    let start = started.first().copied().unwrap_or(defaults);
    let loaded = args.input.load(&started)?;
    let stop = stop_on_ctrl_c("the best so far is reported")?;
    let wanted = Search {
        metric: args.metric,
        benchmark: args.input.benchmark,
        split: Split::FirstHalf,
        trials: args.trials as usize,
        seed: args.seed,
    };
    let progress = Progress::new(Some(u64::from(args.trials)), "trials", args.input.quiet);
    let found = search(
        &start,
        &loaded.sequences,
        &wanted,
        &stop,
        &mut |trials, best| {
            progress.message(format!("best {} {:.2}", name(args.metric), best * 100.0));
            progress.update(trials as u64);
        },
    );
    progress.finish();
    let outcome = found?;
    let mut comparisons = Vec::new();
    for split in [Split::FirstHalf, Split::SecondHalf] {
        let figures = |settings| figures(args, settings, &loaded.sequences, split);
        comparisons.push(Comparison {
            split,
            defaults: figures(&defaults)?,
            best: figures(&outcome.best.settings)?,
        });
    }
    let default_path = format!("{}-{}.toml", defaults.name(), name(args.metric));
    let path = args.out.clone().unwrap_or_else(|| default_path.into());
    let comment = comment(args, &loaded.made_from, &outcome, &comparisons);
    write_file(
        &path,
        &settings_text(&path, &outcome.best.settings, &comment)?,
    )?;
    if args.json {
        print_json(&json(args, &loaded.made_from, &outcome, &comparisons))?;
    } else {
        print(args, &path, &outcome, &comparisons)?;
    }
    if outcome.trials < wanted.trials {
        return Err(Interrupted.into());
    }
    Ok(())
}

fn name(metric: Metric) -> String {
    let value = metric.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_string())
}

fn value(metric: Metric, figures: &Figures) -> f64 {
    match metric {
        Metric::Hota => figures.hota,
        Metric::Mota => figures.mota,
        Metric::Idf1 => figures.idf1,
    }
}

/// All figures of the sequences together.
fn figures(
    args: &TuneArgs,
    settings: &TrackerSettings,
    sequences: &[SequenceInput],
    split: Split,
) -> Result<Figures, TrackError> {
    let measured: Result<Vec<Measured>, TrackError> = sequences
        .par_iter()
        .map(|sequence| {
            let text = sequence.track_text(settings, split)?;
            let prepared = sequence.prepare(&text, args.input.benchmark, split)?;
            Ok(Measured::of(&prepared))
        })
        .collect();
    Ok(Measured::combine(&measured?).figures())
}

fn comment(
    args: &TuneArgs,
    made_from: &str,
    outcome: &Outcome,
    comparisons: &[Comparison],
) -> String {
    let mut text = format!(
        "Found by `mtmc tune`: {} trials, seed {}, for {} on {made_from}.\n",
        outcome.trials,
        args.seed,
        name(args.metric)
    );
    for comparison in comparisons {
        text.push_str(&format!(
            "{}: {:.2}, defaults {:.2}.\n",
            comparison.split,
            value(args.metric, &comparison.best) * 100.0,
            value(args.metric, &comparison.defaults) * 100.0
        ));
    }
    text
}

fn json(
    args: &TuneArgs,
    made_from: &str,
    outcome: &Outcome,
    comparisons: &[Comparison],
) -> serde_json::Value {
    let splits: Vec<_> = comparisons
        .iter()
        .map(|comparison| {
            let gain =
                value(args.metric, &comparison.best) - value(args.metric, &comparison.defaults);
            json!({
                "split": comparison.split,
                "held_out": comparison.split != Split::FirstHalf,
                "defaults": comparison.defaults,
                "best": comparison.best,
                "gain": gain,
            })
        })
        .collect();
    json!({
        "metric": args.metric,
        "detections": made_from,
        "seed": args.seed,
        "trials": outcome.trials,
        "best": outcome.best,
        "splits": splits,
    })
}

fn print(
    args: &TuneArgs,
    path: &Path,
    outcome: &Outcome,
    comparisons: &[Comparison],
) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{} trials: {}, written to {}",
        outcome.trials,
        match outcome.best.number {
            Some(0) => "none better than the start".to_string(),
            Some(number) => format!("number {number} is the best"),
            None => "the middle of the best few".to_string(),
        },
        path.display()
    )?;
    let best = serde_json::to_value(outcome.best.settings)?;
    let defaults: TrackerSettings = args.tracker.parse()?;
    let defaults = serde_json::to_value(defaults)?;
    for (name, range) in parameters(&outcome.best.settings) {
        let range = match range {
            Range::Linear(low, high) | Range::Whole(low, high) => format!("{low} to {high}"),
            Range::Switch => "on or off".to_string(),
        };
        let best = best[*name].to_string();
        let default = defaults[*name].to_string();
        writeln!(
            stdout,
            "  {name:<26} {best:>7}  (default {default}; searched {range})"
        )?;
    }
    for comparison in comparisons {
        let use_of = if comparison.split == Split::FirstHalf {
            "searched on"
        } else {
            "held out"
        };
        writeln!(stdout, "\n{} ({use_of})", comparison.split)?;
        writeln!(stdout, "{:<10}{:>8}{:>8}{:>8}", "", "HOTA", "MOTA", "IDF1")?;
        let row = |f: &Figures| [f.hota, f.mota, f.idf1].map(|ratio| ratio * 100.0);
        let (defaults, best) = (row(&comparison.defaults), row(&comparison.best));
        let gain = std::array::from_fn(|index| best[index] - defaults[index]);
        for (name, [hota, mota, idf1]) in [("defaults", defaults), ("best", best)] {
            writeln!(stdout, "{name:<10}{hota:>8.2}{mota:>8.2}{idf1:>8.2}")?;
        }
        let [hota, mota, idf1]: [f64; 3] = gain;
        writeln!(stdout, "{:<10}{hota:>+8.2}{mota:>+8.2}{idf1:>+8.2}", "gain")?;
    }
    let held_out = comparisons.last();
    let lost = held_out.is_some_and(|comparison| {
        value(args.metric, &comparison.best) <= value(args.metric, &comparison.defaults)
    });
    if lost {
        writeln!(
            stdout,
            "\nNothing is gained on frames that the search did not see: keep the defaults, or \
             search on more sequences."
        )?;
    }
    Ok(())
}
