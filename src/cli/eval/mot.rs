//! `mtmc eval mot`: tracks in MOT Challenge text against ground truth.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::eval::mot::{Benchmark, Boxes, prepare};
use crate::eval::report::{Figures, Measured, table};

/// Arguments of `mtmc eval mot`.
#[derive(Debug, Args)]
pub struct MotArgs {
    /// Ground truth: a file, or a benchmark's folder with SEQUENCE/gt/gt.txt
    #[arg(long, value_name = "FILE|DIR")]
    gt: PathBuf,

    /// Tracks: a file, or a folder with SEQUENCE.txt for each sequence of the benchmark
    #[arg(long, value_name = "FILE|DIR")]
    tracks: PathBuf,

    /// Whose rules apply to classes and ignored boxes
    #[arg(long, default_value = "mot17")]
    benchmark: Benchmark,

    /// Print JSON, ratios as fractions, instead of a table
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
///
/// # Errors
/// A file is missing or broken; the error names file and line.
pub fn run(args: &MotArgs) -> anyhow::Result<()> {
    let mut names = Vec::new();
    let mut measured = Vec::new();
    for pair in pairs(args)? {
        let truth = Boxes::read(&pair.truth)?;
        let tracks = Boxes::read(&pair.tracks)?;
        let sequence = prepare(
            &truth,
            &tracks,
            args.benchmark,
            sequence_length(&pair.truth),
        );
        names.push(pair.name);
        measured.push(Measured::of(&sequence));
    }
    let mut rows: Vec<(String, Figures)> = names
        .into_iter()
        .zip(measured.iter().map(Measured::figures))
        .collect();
    if rows.len() > 1 {
        rows.push((
            "COMBINED".to_string(),
            Measured::combine(&measured).figures(),
        ));
    }
    let mut stdout = std::io::stdout().lock();
    if args.json {
        let json: serde_json::Value = match rows.as_slice() {
            [(_, figures)] => serde_json::to_value(figures)?,
            rows => serde_json::to_value(
                rows.iter()
                    .cloned()
                    .collect::<std::collections::BTreeMap<_, _>>(),
            )?,
        };
        writeln!(stdout, "{}", serde_json::to_string_pretty(&json)?)?;
    } else {
        write!(stdout, "{}", table(&rows))?;
    }
    Ok(())
}

struct Pair {
    name: String,
    truth: PathBuf,
    tracks: PathBuf,
}

/// Truth and tracks of every sequence that is to be measured.
fn pairs(args: &MotArgs) -> anyhow::Result<Vec<Pair>> {
    if args.gt.is_file() {
        let name = args.tracks.file_stem().unwrap_or_default();
        return Ok(vec![Pair {
            name: name.to_string_lossy().into_owned(),
            truth: args.gt.clone(),
            tracks: args.tracks.clone(),
        }]);
    }
    let mut pairs = Vec::new();
    let entries = std::fs::read_dir(&args.gt).with_context(|| args.gt.display().to_string())?;
    for entry in entries {
        let folder = entry?.path();
        let truth = folder.join("gt").join("gt.txt");
        if !truth.is_file() {
            continue;
        }
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let tracks = args.tracks.join(format!("{name}.txt"));
        if !tracks.is_file() {
            bail!("{}: no tracks of sequence {name}", tracks.display());
        }
        pairs.push(Pair {
            name,
            truth,
            tracks,
        });
    }
    if pairs.is_empty() {
        bail!(
            "{}: neither a file nor a folder with SEQUENCE/gt/gt.txt in it",
            args.gt.display()
        );
    }
    pairs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pairs)
}

/// The number of frames that `seqinfo.ini` beside the truth's folder states.
fn sequence_length(truth: &Path) -> Option<u64> {
    let folder = truth.parent()?.parent()?;
    let text = std::fs::read_to_string(folder.join("seqinfo.ini")).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("seqLength="))?;
    value.trim().parse().ok()
}
