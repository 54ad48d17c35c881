//! `mtmc eval mot`: tracks in MOT Challenge text against ground truth.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use rayon::prelude::*;

use super::output::Output;
use crate::eval::clear::Rules;
use crate::eval::folder::{Sequence, read_info, sequences};
use crate::eval::mot::{Benchmark, Boxes, prepare};
use crate::eval::report::{Measured, with_combined};

/// Arguments of `mtmc eval mot`.
#[derive(Debug, Args)]
pub struct MotArgs {
    /// Ground truth: a file, or a benchmark's folder with SEQUENCE/gt/gt.txt
    #[arg(long, env = "MTMC_EVAL_GT", value_name = "FILE|DIR")]
    gt: PathBuf,

    /// Tracks: a file, or a folder with SEQUENCE.txt for each sequence of the benchmark
    #[arg(long, env = "MTMC_EVAL_TRACKS", value_name = "FILE|DIR")]
    tracks: PathBuf,

    /// Whose rules apply to classes and ignored boxes
    #[arg(long, env = "MTMC_EVAL_BENCHMARK", default_value = "mot17")]
    benchmark: Benchmark,

    /// Whose small print CLEAR follows (MOTA, ID switches, Frag)
    #[arg(long, env = "MTMC_EVAL_CLEAR_RULES", default_value = "trackeval")]
    clear_rules: Rules,

    /// Only these sequences of the folder, separated by commas
    #[arg(
        long,
        env = "MTMC_EVAL_SEQUENCES",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    sequences: Vec<String>,

    #[command(flatten)]
    output: Output,
}

/// Measures and prints.
///
/// # Errors
/// A file is missing or broken; the error names file and line.
pub fn run(args: &MotArgs) -> anyhow::Result<()> {
    let pairs = pairs(args)?;
    let measured: Vec<anyhow::Result<Measured>> = pairs
        .par_iter()
        .map(|pair| measure(pair, args.benchmark, args.clear_rules))
        .collect();
    let mut rows = Vec::new();
    for (pair, measured) in pairs.into_iter().zip(measured) {
        rows.push((pair.name, measured?));
    }
    args.output.write(&with_combined(rows))
}

/// One sequence's files.
struct Pair {
    name: String,
    truth: PathBuf,
    tracks: PathBuf,
    length: Option<u64>,
}

fn measure(pair: &Pair, benchmark: Benchmark, rules: Rules) -> anyhow::Result<Measured> {
    let truth = Boxes::read_truth(&pair.truth, benchmark)?;
    let tracks = Boxes::read(&pair.tracks)?;
    if truth.is_empty() {
        bail!(
            "{}: no boxes, nothing to measure against",
            pair.truth.display()
        );
    }
    if tracks.is_empty() {
        // A tracker that found nobody is a result, if a poor one.
        writeln!(
            std::io::stderr(),
            "{}: no boxes; every person counts as missed",
            pair.tracks.display()
        )?;
    }
    for (boxes, path) in [(&truth, &pair.truth), (&tracks, &pair.tracks)] {
        check_length(boxes, path, &pair.name, pair.length)?;
    }
    let sequence = prepare(&truth, &tracks, benchmark, pair.length);
    Ok(Measured::by(&sequence, rules))
}

/// Refuses boxes after the end of the sequence, where that is known.
pub(super) fn check_length(
    boxes: &Boxes,
    path: &Path,
    name: &str,
    length: Option<u64>,
) -> anyhow::Result<()> {
    if let Some(length) = length.filter(|length| boxes.last_frame() > *length) {
        bail!(
            "{}: a box in frame {}, but seqinfo.ini says that {name} has {length} frames",
            path.display(),
            boxes.last_frame()
        );
    }
    Ok(())
}

/// Truth and tracks of every sequence that is to be measured.
fn pairs(args: &MotArgs) -> anyhow::Result<Vec<Pair>> {
    if args.gt.is_file() {
        if !args.sequences.is_empty() {
            bail!("--sequences chooses from a folder, but --gt is a file");
        }
        return Ok(vec![single(&args.gt, &args.tracks)?]);
    }
    let sequences = sequences(&args.gt, &args.sequences)?;
    if let ([sequence], true) = (sequences.as_slice(), args.tracks.is_file()) {
        return Ok(vec![pair(sequence, args.tracks.clone())]);
    }
    if args.tracks.is_file() {
        bail!(
            "{}: one file of tracks for {} sequences; a folder with SEQUENCE.txt is needed",
            args.tracks.display(),
            sequences.len()
        );
    }
    let mut pairs = Vec::new();
    let mut missing = Vec::new();
    for sequence in &sequences {
        let tracks = args.tracks.join(format!("{}.txt", sequence.name));
        if tracks.is_file() {
            pairs.push(pair(sequence, tracks));
        } else {
            missing.push(format!("{}.txt", sequence.name));
        }
    }
    if !missing.is_empty() {
        bail!(
            "{}: no tracks of {} of {} sequences: {} (`--sequences` measures only some)",
            args.tracks.display(),
            missing.len(),
            sequences.len(),
            missing.join(", ")
        );
    }
    Ok(pairs)
}

fn pair(sequence: &Sequence, tracks: PathBuf) -> Pair {
    Pair {
        name: sequence.name.clone(),
        truth: sequence.truth(),
        tracks,
        length: sequence.length(),
    }
}

/// Two files; the truth's sequence tells its length where it lies in a benchmark's folder.
fn single(truth: &Path, tracks: &Path) -> anyhow::Result<Pair> {
    let name = tracks.file_stem().unwrap_or_default();
    let mut length = None;
    if let Some(folder) = truth.parent().and_then(Path::parent) {
        length = read_info(folder)?.map(|info| info.frames);
    }
    Ok(Pair {
        name: name.to_string_lossy().into_owned(),
        truth: truth.to_path_buf(),
        tracks: tracks.to_path_buf(),
        length,
    })
}
