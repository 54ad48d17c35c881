//! Tracks a benchmark's public detections with every tracker and evaluates them all alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use mtmc::eval::mot::{Benchmark, Boxes, prepare};
use mtmc::eval::report::{Figures, Measured};
use mtmc::tracker::camera_motion::CameraMotion;
use mtmc::tracker::mot::read_detections;
use mtmc::tracker::{BotSortSettings, ByteTrackSettings, FrameDetections, TrackerSettings};
use serde::Serialize;
use serde::de::DeserializeOwned;
use trackforge::trackers::botsort::{BotSort, BotSortParams};
use trackforge::trackers::byte_track::ByteTrackParams;
use trackforge::trackers::common::CommonParams;

use crate::crates::{ForgeBotSort, ForgeByteTrack, SimilariSort};
use crate::peer::{Mtmc, Peer};
use crate::python;

/// Arguments of `quality`.
#[derive(Debug, Args)]
pub struct QualityArgs {
    /// Folder with SEQUENCE/gt/gt.txt, SEQUENCE/det-frcnn/det.txt (or det/det.txt),
    /// SEQUENCE/seqinfo.ini and SEQUENCE/gmc.txt
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Where the tracks go: TRACKER/SEQUENCE.txt, which `mtmc eval mot` reads
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Python with requirements.txt installed; without it only Rust trackers run
    #[arg(long, env = "MTMC_BENCH_PYTHON", value_name = "FILE")]
    python: Option<PathBuf>,

    /// Other settings for mtmc's ByteTrack, as JSON: {"match_thresh": 0.8}
    #[arg(long, value_name = "JSON", default_value = "{}")]
    bytetrack: String,

    /// Other settings for mtmc's BoT-SORT, as JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    botsort: String,

    /// Only trackers whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// The settings of the reference's runs on MOT17: what peers.py calls BYTETRACK.
pub fn byte_track_settings() -> ByteTrackSettings {
    ByteTrackSettings {
        track_thresh: 0.6,
        match_thresh: 0.9,
        ..ByteTrackSettings::default()
    }
}

/// mtmc's BoT-SORT, whose defaults are peers.py's BOTSORT, without what the Python packages do not
/// report: tracks that no second detection has confirmed.
pub fn bot_sort_settings() -> BotSortSettings {
    BotSortSettings {
        report_tentative: false,
        ..BotSortSettings::default()
    }
}

/// One of mtmc's trackers; `detected` as in [`Mtmc`].
pub fn own(settings: TrackerSettings, detected: bool) -> Mtmc {
    Mtmc {
        tracker: settings.build().expect("the settings were checked"),
        detected,
    }
}

/// The settings with those replaced that a JSON object names.
fn replace_settings<S: Serialize + DeserializeOwned>(settings: S, json: &str) -> anyhow::Result<S> {
    let mut all = serde_json::to_value(settings)?;
    let given: serde_json::Value = serde_json::from_str(json).with_context(|| json.to_owned())?;
    if let (Some(all), Some(given)) = (all.as_object_mut(), given.as_object()) {
        all.extend(given.clone());
    }
    serde_json::from_value(all).with_context(|| json.to_owned())
}

/// trackforge's ByteTrack with those settings.
pub fn forge_byte_track() -> trackforge::trackers::byte_track::ByteTrack {
    trackforge::trackers::byte_track::ByteTrack::from_params(ByteTrackParams {
        common: CommonParams::new(30, 1),
        track_thresh: 0.6,
        match_thresh: 0.9,
        det_thresh: 0.7,
        second_match_thresh: 0.5,
    })
}

/// trackforge's BoT-SORT with peers.py's BOTSORT.
pub fn forge_bot_sort() -> BotSort {
    BotSort::from_params(BotSortParams {
        common: CommonParams::new(30, 1),
        track_thresh: 0.6,
        match_thresh: 0.8,
        det_thresh: 0.7,
        ..BotSortParams::default()
    })
}

/// One sequence of the benchmark.
struct Sequence {
    name: String,
    folder: PathBuf,
    length: u64,
    frame_rate: f64,
    frames: Vec<FrameDetections>,
}

impl Sequence {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let info = folder.join("seqinfo.ini");
        let text = fs::read_to_string(&info).with_context(|| info.display().to_string())?;
        let value = |key: &str| {
            let line = text.lines().find_map(|l| l.trim().strip_prefix(key));
            line.and_then(|v| v.trim().parse::<f64>().ok())
                .with_context(|| format!("{}: no {key}", info.display()))
        };
        let length = value("seqLength=")? as u64;
        let places = ["det-frcnn", "det"].map(|name| folder.join(name).join("det.txt"));
        let Some(detections) = places.iter().find(|path| path.is_file()) else {
            bail!(
                "{}: no det-frcnn/det.txt and no det/det.txt",
                folder.display()
            );
        };
        let mut frames = read_detections(detections)?;
        while (frames.len() as u64) < length {
            frames.push(FrameDetections {
                frame: frames.len() as u64 + 1,
                ..FrameDetections::default()
            });
        }
        let motions = CameraMotion::read_file(&folder.join("gmc.txt"))?;
        for (frame, motion) in frames.iter_mut().zip(motions) {
            frame.camera_motion = Some(motion);
        }
        Ok(Self {
            name: folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            folder: folder.to_path_buf(),
            length,
            frame_rate: value("frameRate=")?,
            frames,
        })
    }
}

/// How one tracker is run.
enum Run {
    /// In this process, made anew for each sequence.
    Rust(Box<dyn Fn(&Sequence) -> String>),
    /// By quality.py: the peer's name and further arguments.
    Python(&'static str, Vec<&'static str>),
}

fn rust<P: Peer>(build: impl Fn(&Sequence) -> P + 'static) -> Run {
    Run::Rust(Box::new(move |sequence| {
        let mut peer = build(sequence);
        let mut text = String::new();
        for frame in &sequence.frames {
            let mut input = peer.prepare(frame);
            let output = peer.update(&mut input);
            for (id, [x1, y1, x2, y2]) in peer.rows(&input, &output) {
                let (width, height, number) = (x2 - x1, y2 - y1, frame.frame);
                text +=
                    &format!("{number},{id},{x1:.3},{y1:.3},{width:.3},{height:.3},1,-1,-1,-1\n");
            }
        }
        text
    }))
}

/// All trackers that are compared, by name.
fn runs(byte: ByteTrackSettings, bot: BotSortSettings) -> Vec<(&'static str, Run)> {
    // What boxmot and trackers do otherwise, as found by trying: see docs/comparison.md.
    let as_boxmot = ByteTrackSettings {
        new_track_margin: 0.0,
        ..byte
    };
    let as_trackers = ByteTrackSettings {
        low_thresh: 0.0,
        second_match_thresh: byte.match_thresh,
        unconfirmed_match_thresh: byte.match_thresh,
        fuse_score: false,
        ..byte
    };
    let as_reference = BotSortSettings {
        report_tentative: true,
        ..bot
    };
    let plain = |name| (name, Run::Python(name, Vec::new()));
    let moving = |name| (name, Run::Python(name, vec!["--motion"]));
    vec![
        ("mtmc-bytetrack", byte_run(byte, false)),
        plain("ultralytics-bytetrack"),
        ("mtmc-bytetrack-as-boxmot", byte_run(as_boxmot, false)),
        plain("boxmot-bytetrack"),
        ("mtmc-bytetrack-detected", byte_run(byte, true)),
        ("mtmc-bytetrack-as-trackers", byte_run(as_trackers, true)),
        plain("trackers-bytetrack"),
        (
            "trackforge-bytetrack",
            rust(|_| ForgeByteTrack(forge_byte_track())),
        ),
        ("similari-sort", rust(|_| SimilariSort::new(1))),
        ("mtmc-botsort", bot_run(bot, false)),
        ("mtmc-botsort-tentative", bot_run(as_reference, false)),
        ("mtmc-botsort-detected", bot_run(bot, true)),
        moving("ultralytics-botsort"),
        moving("boxmot-botsort"),
        moving("trackers-botsort"),
        (
            "trackforge-botsort",
            rust(|_| ForgeBotSort(forge_bot_sort())),
        ),
    ]
}

fn byte_run(settings: ByteTrackSettings, detected: bool) -> Run {
    rust(move |sequence| {
        let frame_rate = sequence.frame_rate;
        let settings = ByteTrackSettings {
            frame_rate,
            ..settings
        };
        own(TrackerSettings::ByteTrack(settings), detected)
    })
}

fn bot_run(settings: BotSortSettings, detected: bool) -> Run {
    rust(move |sequence| {
        let frame_rate = sequence.frame_rate;
        let settings = BotSortSettings {
            frame_rate,
            ..settings
        };
        own(TrackerSettings::BotSort(settings), detected)
    })
}

/// Runs and evaluates all; a table on stdout.
///
/// # Errors
/// Data is missing or broken, or Python fails.
pub fn run(args: &QualityArgs) -> anyhow::Result<()> {
    let byte = replace_settings(byte_track_settings(), &args.bytetrack)?;
    let bot = replace_settings(bot_sort_settings(), &args.botsort)?;
    byte.validate()?;
    bot.validate()?;
    let mut sequences = Vec::new();
    for entry in fs::read_dir(&args.data).with_context(|| args.data.display().to_string())? {
        let folder = entry?.path();
        if folder.join("seqinfo.ini").is_file() {
            sequences.push(Sequence::read(&folder)?);
        }
    }
    sequences.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<String> = sequences.iter().map(|s| format!(" {} |", s.name)).collect();
    println!("HOTA / MOTA / IDF1, percent\n");
    println!("| |{} combined | ID switches |", names.concat());
    println!("|---|{}---|---|", "---|".repeat(sequences.len()));
    for (name, run) in runs(byte, bot) {
        if !name.contains(&args.only) {
            continue;
        }
        let out = args.out.join(name);
        fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
        match run {
            Run::Rust(track) => {
                for sequence in &sequences {
                    let path = out.join(format!("{}.txt", sequence.name));
                    fs::write(&path, track(sequence))
                        .with_context(|| path.display().to_string())?;
                }
            }
            Run::Python(peer, extra) => {
                let Some(python) = &args.python else { continue };
                run_python(python, peer, &extra, &args.data, &out)?;
            }
        }
        println!("{}", evaluate(name, &sequences, &out)?);
    }
    Ok(())
}

fn run_python(
    python: &Path,
    peer: &str,
    extra: &[&str],
    data: &Path,
    out: &Path,
) -> anyhow::Result<()> {
    let status = Command::new(python)
        .arg(python::scripts().join("quality.py"))
        .args([peer, "--data"])
        .arg(data)
        .arg("--out")
        .arg(out)
        .args(extra)
        .stdout(Stdio::null())
        .status()
        .with_context(|| python.display().to_string())?;
    if !status.success() {
        bail!("{peer}: quality.py failed");
    }
    Ok(())
}

/// The tracker's row of the table.
fn evaluate(name: &str, sequences: &[Sequence], out: &Path) -> anyhow::Result<String> {
    let mut measured = Vec::new();
    let mut line = format!("| {name} |");
    for sequence in sequences {
        let truth = Boxes::read(&sequence.folder.join("gt").join("gt.txt"))?;
        let tracks = Boxes::read(&out.join(format!("{}.txt", sequence.name)))?;
        let prepared = prepare(&truth, &tracks, Benchmark::Mot17, Some(sequence.length));
        measured.push(Measured::of(&prepared));
    }
    for one in &measured {
        line += &cell(&one.figures());
    }
    let combined = Measured::combine(&measured).figures();
    Ok(format!("{line}{} {} |", cell(&combined), combined.idsw))
}

fn cell(figures: &Figures) -> String {
    let [hota, mota, idf1] = [figures.hota, figures.mota, figures.idf1].map(|v| 100.0 * v);
    format!(" {hota:.2} / {mota:.2} / {idf1:.2} |")
}
