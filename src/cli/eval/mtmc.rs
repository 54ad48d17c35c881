//! `mtmc eval mtmc`: identities across cameras, on boxes and on the map.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::handoffs::{self, HandoffArgs};
use super::mot::check_length;
use super::output::{Output, figures_table, print_json};
use crate::eval::across::lines::CameraLines;
use crate::eval::across::map::{DISTANCE, MapMeasured, Places};
use crate::eval::across::{ACROSS, Across, Camera, MAP};
use crate::eval::clear::Rules;
use crate::eval::folder::{FolderError, sequences};
use crate::eval::hota::{ALPHAS, Hota, mean};
use crate::eval::mot::{Benchmark, Boxes};
use crate::eval::report::Measured;

/// HOTA's threshold of 0.5 among the others.
const HALF: usize = 9;

/// Most pairs of a true place and a track's over all frames: 4 GB.
const MAX_PAIRS: u64 = 500_000_000;

/// Arguments of `mtmc eval mtmc`.
#[derive(Debug, Args)]
pub struct MtmcArgs {
    /// Ground truth: a folder with CAMERA/gt/gt.txt or CAMERA.txt (MOT Challenge text), or a file
    /// with a box a line: camera, identity, frame, left, top, width, height and perhaps the place
    /// x, y. With --map, a file of places
    #[arg(long, env = "MTMC_EVAL_GT", value_name = "FILE|DIR")]
    gt: PathBuf,

    /// Tracks: a folder with CAMERA.txt for each camera of the truth, or a file as for --gt. An
    /// identity is the same person in all cameras
    #[arg(long, env = "MTMC_EVAL_TRACKS", value_name = "FILE|DIR")]
    tracks: PathBuf,

    /// Measure places on the ground alone. Lines of both files: frame, identity, x, y; or MOT
    /// Challenge text with world coordinates in columns 8 and 9; or camera, identity, frame, box, x,
    /// y
    #[arg(long, env = "MTMC_EVAL_MAP")]
    map: bool,

    /// Distance up to which a place may stand for a true one, in the map's unit; the similarity
    /// is 1 at no distance, 0.5 at this one, 0 at twice this one
    #[arg(long, env = "MTMC_EVAL_DISTANCE", default_value_t = DISTANCE, value_parser = distance)]
    distance: f64,

    /// Whose rules apply to classes and ignored boxes
    #[arg(long, env = "MTMC_EVAL_BENCHMARK", default_value = "mot15")]
    benchmark: Benchmark,

    /// Whose small print CLEAR follows (MOTA, ID switches, Frag)
    #[arg(long, env = "MTMC_EVAL_CLEAR_RULES", default_value = "trackeval")]
    clear_rules: Rules,

    /// Only these cameras, separated by commas
    #[arg(
        long,
        env = "MTMC_EVAL_CAMERAS",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    cameras: Vec<String>,

    #[command(flatten)]
    handoffs: HandoffArgs,

    #[command(flatten)]
    output: Output,
}

/// A distance of the command line.
fn distance(text: &str) -> Result<f64, String> {
    let distance: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if distance.is_finite() && distance > 0.0 {
        Ok(distance)
    } else {
        Err("must be above 0".to_string())
    }
}

/// Measures and prints.
///
/// # Errors
/// A file is missing or broken; the error names file and line.
pub fn run(args: &MtmcArgs) -> anyhow::Result<()> {
    let loaded = load(args)?;
    if let Some((truth, tracks)) = &loaded.places {
        check_pairs(truth, tracks)?;
    }
    let handoffs = args.handoffs.measure(loaded.cameras.as_deref())?;
    let across = loaded
        .cameras
        .map(|cameras| Across::of(cameras, args.clear_rules));
    let map = loaded
        .places
        .map(|(truth, tracks)| MapMeasured::of(&truth, &tracks, args.distance, args.clear_rules));
    let mut rows: Vec<(String, Measured)> = Vec::new();
    if let Some(across) = &across {
        rows.extend(across.cameras.iter().cloned());
        rows.push((ACROSS.to_string(), across.all.clone()));
    }
    if let Some(map) = &map {
        rows.push((MAP.to_string(), map.measured.clone()));
    }
    args.output.files(&rows, "", None)?;
    if args.output.json {
        let mut json = json_of(across.as_ref(), map.as_ref())?;
        if let Some(handoffs) = &handoffs {
            json["handoffs"] = handoffs::json_of(handoffs);
        }
        return print_json(&json);
    }
    let mut text = figures_table(&rows);
    text.push_str(&notes(across.as_ref(), map.as_ref()));
    if let Some(handoffs) = &handoffs {
        text.push_str(&handoffs::note(handoffs));
    }
    write!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

/// What is to be measured.
#[derive(Default)]
struct Loaded {
    cameras: Option<Vec<Camera>>,
    /// Truth and tracks.
    places: Option<(Places, Places)>,
}

fn load(args: &MtmcArgs) -> anyhow::Result<Loaded> {
    if args.map {
        return load_places(args);
    }
    for path in [&args.gt, &args.tracks] {
        // What is not there is neither file nor folder, and should be said to be missing.
        std::fs::metadata(path).with_context(|| path.display().to_string())?;
    }
    match (args.gt.is_dir(), args.tracks.is_dir()) {
        (true, true) => Ok(Loaded {
            cameras: Some(load_folders(args)?),
            places: None,
        }),
        (false, false) => load_lines(args),
        _ => bail!(
            "--gt {} and --tracks {}: both must be folders with a file a camera, or both files \
             with all cameras' lines",
            args.gt.display(),
            args.tracks.display()
        ),
    }
}

fn load_places(args: &MtmcArgs) -> anyhow::Result<Loaded> {
    if !args.cameras.is_empty() {
        bail!("--cameras chooses among cameras' boxes, but --map measures places without them");
    }
    for path in [&args.gt, &args.tracks] {
        if path.is_dir() {
            bail!(
                "{}: a folder; --map takes one file of places",
                path.display()
            );
        }
    }
    let truth = Places::read(&args.gt)?;
    let tracks = Places::read(&args.tracks)?;
    if truth.is_empty() {
        bail!(
            "{}: no places, nothing to measure against",
            args.gt.display()
        );
    }
    note_empty(&args.tracks, tracks.is_empty())?;
    Ok(Loaded {
        cameras: None,
        places: Some((truth, tracks)),
    })
}

/// Every pair of a frame is held in memory, 8 bytes each.
fn check_pairs(truth: &Places, tracks: &Places) -> anyhow::Result<()> {
    let pairs = truth.pairs(tracks);
    if pairs > MAX_PAIRS {
        bail!(
            "the frames have {pairs} pairs of a true place and a track's, at most {MAX_PAIRS} can be \
             measured at once: split the files by frames"
        );
    }
    Ok(())
}

/// A tracker that found nobody is a result, if a poor one.
fn note_empty(path: &Path, empty: bool) -> anyhow::Result<()> {
    if empty {
        writeln!(
            std::io::stderr(),
            "{}: nobody in it; every person counts as missed",
            path.display()
        )?;
    }
    Ok(())
}

fn load_lines(args: &MtmcArgs) -> anyhow::Result<Loaded> {
    let named = |lines: &mut CameraLines| -> BTreeMap<String, Boxes> {
        let cameras = std::mem::take(&mut lines.cameras).into_iter();
        cameras.map(|(id, boxes)| (id.to_string(), boxes)).collect()
    };
    let mut truth = CameraLines::read(&args.gt)?;
    let mut tracks = CameraLines::read(&args.tracks)?;
    let order: Vec<String> = truth.cameras.keys().map(i64::to_string).collect();
    let truth_boxes = named(&mut truth);
    let mut track_boxes = named(&mut tracks);
    if truth_boxes.is_empty() {
        bail!(
            "{}: no boxes, nothing to measure against",
            args.gt.display()
        );
    }
    note_empty(&args.tracks, track_boxes.is_empty())?;
    let chosen = choose(
        args,
        order,
        &track_boxes.keys().cloned().collect::<Vec<_>>(),
    )?;
    let mut cameras = Vec::new();
    for name in &chosen {
        // A camera in which the tracker found nobody has no lines.
        let found = track_boxes.remove(name).unwrap_or_default();
        if let Some(truth) = truth_boxes.get(name) {
            cameras.push(Camera::new(name, truth, &found, args.benchmark, None));
        }
    }
    // Places are of all cameras together.
    let places = match (truth.places, tracks.places) {
        (Some(truth), Some(tracks)) if args.cameras.is_empty() => Some((truth, tracks)),
        _ => None,
    };
    Ok(Loaded {
        cameras: Some(cameras),
        places,
    })
}

/// The truth's cameras that are to be measured; tracks of others are refused, as nothing could be
/// right in them.
fn choose(args: &MtmcArgs, known: Vec<String>, tracked: &[String]) -> anyhow::Result<Vec<String>> {
    if args.cameras.is_empty() {
        let strange: Vec<&str> = tracked
            .iter()
            .filter(|name| !known.contains(name))
            .map(String::as_str)
            .collect();
        if !strange.is_empty() {
            bail!(
                "{}: tracks of cameras without truth: {} (`--cameras` measures only some)",
                args.tracks.display(),
                strange.join(", ")
            );
        }
        return Ok(known);
    }
    for name in &args.cameras {
        if !known.contains(name) {
            bail!(
                "{}: no camera `{name}`; there are {}",
                args.gt.display(),
                known.join(", ")
            );
        }
    }
    Ok(known
        .into_iter()
        .filter(|name| args.cameras.contains(name))
        .collect())
}

/// One camera's files.
struct Pair {
    name: String,
    truth: PathBuf,
    tracks: PathBuf,
    length: Option<u64>,
}

fn load_folders(args: &MtmcArgs) -> anyhow::Result<Vec<Camera>> {
    let mut truths = truth_files(&args.gt)?;
    let tracked = text_files(&args.tracks)?;
    let names: Vec<String> = tracked.keys().cloned().collect();
    let mut pairs = Vec::new();
    let mut missing = Vec::new();
    for name in choose(args, truths.keys().cloned().collect(), &names)? {
        let (Some((truth, length)), Some(tracks)) = (truths.remove(&name), tracked.get(&name))
        else {
            missing.push(format!("{name}.txt"));
            continue;
        };
        pairs.push(Pair {
            name,
            truth,
            tracks: tracks.clone(),
            length,
        });
    }
    if !missing.is_empty() {
        bail!(
            "{}: no tracks of {} cameras: {} (`--cameras` measures only some)",
            args.tracks.display(),
            missing.len(),
            missing.join(", ")
        );
    }
    let loaded: Vec<anyhow::Result<Camera>> = pairs
        .par_iter()
        .map(|pair| pair.load(args.benchmark))
        .collect();
    loaded.into_iter().collect()
}

/// The truth's files by camera, and how many frames each camera has where that is known.
fn truth_files(folder: &Path) -> anyhow::Result<BTreeMap<String, (PathBuf, Option<u64>)>> {
    let found = match sequences(folder, &[]) {
        Ok(found) => found,
        Err(error @ FolderError::Empty { .. }) => {
            let files = text_files(folder)?;
            if files.is_empty() {
                return Err(error).context("neither CAMERA.txt nor CAMERA/gt/gt.txt");
            }
            let unknown = files.into_iter();
            return Ok(unknown.map(|(name, path)| (name, (path, None))).collect());
        }
        Err(error) => return Err(error.into()),
    };
    let mut files = BTreeMap::new();
    for sequence in found {
        let (truth, length) = (sequence.truth(), sequence.length());
        files.insert(sequence.name, (truth, length));
    }
    Ok(files)
}

/// The `.txt` files right in a folder, by their names without the ending.
fn text_files(folder: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        let is_text = path.extension().is_some_and(|ending| ending == "txt");
        if let (true, Some(stem)) = (is_text && path.is_file(), path.file_stem()) {
            files.insert(stem.to_string_lossy().into_owned(), path.clone());
        }
    }
    Ok(files)
}

impl Pair {
    fn load(&self, benchmark: Benchmark) -> anyhow::Result<Camera> {
        let truth = Boxes::read_truth(&self.truth, benchmark)?;
        let tracks = Boxes::read(&self.tracks)?;
        note_empty(&self.tracks, tracks.is_empty())?;
        for (boxes, path) in [(&truth, &self.truth), (&tracks, &self.tracks)] {
            check_length(boxes, path, &self.name, self.length)?;
        }
        Ok(Camera::new(
            &self.name,
            &truth,
            &tracks,
            benchmark,
            self.length,
        ))
    }
}

/// `cameras`, `across` and `map`, each with the figures of a single camera and its own.
fn json_of(across: Option<&Across>, map: Option<&MapMeasured>) -> anyhow::Result<Value> {
    let mut json = json!({});
    if let Some(across) = across {
        let cameras: BTreeMap<&str, _> = across
            .cameras
            .iter()
            .map(|(name, measured)| (name.as_str(), measured.report()))
            .collect();
        json["cameras"] = serde_json::to_value(cameras)?;
        let mut all = serde_json::to_value(across.all.report())?;
        all["aligned"] = aligned_json(&across.aligned);
        all["handovers"] = across.handovers.all.into();
        all["wrong_handovers"] = across.handovers.wrong.into();
        all["idsw_across"] = across.id_switches().into();
        all["mota_across"] = across.mota().into();
        json["across"] = all;
    }
    if let Some(map) = map {
        let mut all = serde_json::to_value(map.measured.report())?;
        all["aligned"] = aligned_json(&map.aligned);
        all["distance"] = map.distance.into();
        all["mean_distance"] = map.mean_distance().into();
        json["map"] = all;
    }
    Ok(json)
}

fn aligned_json(hota: &Hota) -> Value {
    let (curves, f1): (_, [f64; ALPHAS]) = (hota.hota(), hota.f1());
    json!({
        "hota": mean(&curves),
        "deta": mean(&hota.det_a()),
        "assa": mean(&hota.ass_a),
        "loca": mean(&hota.loc_a),
        "idf1": mean(&f1),
        "idf1_at_half": f1[HALF],
        "curves": {
            "hota": curves,
            "deta": hota.det_a(),
            "assa": hota.ass_a,
            "loca": hota.loc_a,
            "idf1": f1,
        },
    })
}

/// What the table has no column for.
fn notes(across: Option<&Across>, map: Option<&MapMeasured>) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    if let Some(across) = across {
        let handovers = &across.handovers;
        let _ = writeln!(
            text,
            "{ACROSS}: {} handovers between cameras, {} wrong; with these IDSW {}, MOTA {:.2}",
            handovers.all,
            handovers.wrong,
            across.id_switches(),
            across.mota() * 100.0
        );
        text.push_str(&aligned_note(ACROSS, &across.aligned));
    }
    if let Some(map) = map {
        let mean = map.mean_distance();
        let mean = mean.map_or("none".to_string(), |mean| format!("{mean:.3}"));
        let _ = writeln!(
            text,
            "{MAP}: matched up to a distance of {}, mean {mean}",
            map.distance
        );
        text.push_str(&aligned_note(MAP, &map.aligned));
    }
    text
}

fn aligned_note(name: &str, hota: &Hota) -> String {
    format!(
        "{name}: identities matched once for all: HOTA {:.2} DetA {:.2} AssA {:.2} IDF1 {:.2}\n",
        mean(&hota.hota()) * 100.0,
        mean(&hota.det_a()) * 100.0,
        mean(&hota.ass_a) * 100.0,
        hota.f1()[HALF] * 100.0
    )
}
