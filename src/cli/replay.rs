//! `mtmc replay`: identities across cameras from recorded detections, without pictures.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use super::progress::{Progress, stop_on_ctrl_c};
use super::track::write_summary;
use super::world;
use crate::config::{Environment, Overrides};
use crate::eval::folder::read_info;
use crate::homography::Calibration;
use crate::pipeline::{
    self, Interrupted, RecordedCamera, Recording, ReplayOptions, Summary, replay,
};
use crate::sink::MotSink;

/// Arguments of `mtmc replay`.
///
/// Runs trackers, gallery, map and handoffs of an environment on detections that were recorded or
/// simulated, and writes what `mtmc track` writes but for pictures: `CAMERA.txt`,
/// `global/CAMERA.txt`, `events.jsonl`, `map.txt`, `map.svg`, `summary.json`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The environment's file: cameras, map, links, settings
    #[arg(short, long, env = "MTMC_ENVIRONMENT", value_name = "FILE.toml")]
    environment: PathBuf,

    #[command(flatten)]
    overrides: Overrides,

    /// Folder with CAMERA/det/det.txt (and perhaps CAMERA/det/embeddings.safetensors and
    /// CAMERA/seqinfo.ini, as `mtmc sim` writes them) or CAMERA.txt for every camera: MOT Challenge
    /// text in order of frames, with commas or blanks; a score of -1 means unknown and counts as 1
    #[arg(short, long, env = "MTMC_DETECTIONS", value_name = "DIR")]
    detections: PathBuf,

    /// Folder for the results, made if need be
    #[arg(
        short,
        long,
        env = "MTMC_OUT",
        default_value = "out",
        value_name = "DIR"
    )]
    out: PathBuf,

    /// Stop after so many time steps
    #[arg(long, env = "MTMC_MAX_STEPS", value_name = "N")]
    max_steps: Option<u64>,

    /// Go without calibrations: who is who by looks and habit alone
    #[arg(long, env = "MTMC_IGNORE_MAP")]
    ignore_map: bool,

    /// Go without vectors: who is who by place and habit alone
    #[arg(long, env = "MTMC_IGNORE_APPEARANCE")]
    ignore_appearance: bool,

    /// Go without links: everyone may be anywhere at any time, and nobody is handed over
    #[arg(long, env = "MTMC_IGNORE_LINKS")]
    ignore_links: bool,

    /// No progress, only the summary
    #[arg(short, long, env = "MTMC_QUIET")]
    quiet: bool,
}

/// Replays and writes.
///
/// # Errors
/// The environment or a file of detections is wrong, or results cannot be written.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let mut environment = world::load(&args.environment, &args.overrides)?;
    let described = describe(args, &environment)?;
    if args.ignore_map {
        environment.homography.enabled = false;
    }
    if args.ignore_links {
        environment.links.clear();
        environment.handoff.enabled = false;
    }
    let global = args.out.join("global");
    std::fs::create_dir_all(&global).with_context(|| global.display().to_string())?;
    let sizes: Vec<[f64; 2]> = described.iter().map(|camera| camera.frame_size).collect();
    let shared = world::shared(&environment, &sizes, &args.out)?;
    let tolerance = pipeline::tolerance(described.iter().map(|camera| camera.frame_rate));
    let total = described.iter().map(|camera| camera.length).max().flatten();
    let mut cameras = Vec::with_capacity(described.len());
    for (described, camera) in described.into_iter().zip(&environment.cameras) {
        let name = format!("{}.txt", camera.id);
        cameras.push(RecordedCamera {
            name: camera.id.clone(),
            recording: Recording::open(
                &described.detections,
                described.vectors.as_deref(),
                described.length,
            )?,
            frame_rate: described.frame_rate,
            frame_size: described.frame_size,
            start_offset: camera.start_offset,
            tracker: environment.tracker.at_rate(described.frame_rate).build()?,
            sinks: vec![
                MotSink::create(&args.out.join(&name))?,
                MotSink::global(&global.join(&name))?,
            ],
        });
    }
    let options = ReplayOptions {
        max_steps: args.max_steps,
        tolerance,
    };
    let stop = stop_on_ctrl_c("finishing the files")?;
    let total = match (total, args.max_steps) {
        (Some(total), Some(most)) => Some(total.min(most)),
        (total, most) => total.or(most),
    };
    let progress = Progress::new(total, "steps", args.quiet);
    let summary = replay(cameras, shared, &options, &stop, |steps| {
        progress.update(steps);
    })?;
    progress.finish();
    report(&args.out, &summary)
}

/// What is known of a camera before its detections are read.
struct Described {
    detections: PathBuf,
    vectors: Option<PathBuf>,
    frame_rate: f64,
    frame_size: [f64; 2],
    length: Option<u64>,
}

fn describe(args: &ReplayArgs, environment: &Environment) -> anyhow::Result<Vec<Described>> {
    let mut described = Vec::with_capacity(environment.cameras.len());
    for (index, camera) in environment.cameras.iter().enumerate() {
        let one = describe_one(args, environment, index)
            .with_context(|| format!("camera `{}`", camera.id))?;
        described.push(one);
    }
    Ok(described)
}

fn describe_one(
    args: &ReplayArgs,
    environment: &Environment,
    index: usize,
) -> anyhow::Result<Described> {
    let camera = &environment.cameras[index];
    let folder = args.detections.join(&camera.id);
    let nested = folder.join("det").join("det.txt");
    let flat = args.detections.join(format!("{}.txt", camera.id));
    let detections = match [&nested, &flat].into_iter().find(|path| path.is_file()) {
        Some(path) => path.clone(),
        None => bail!(
            "no detections: neither {} nor {} is there",
            nested.display(),
            flat.display()
        ),
    };
    let vectors = detections.with_file_name("embeddings.safetensors");
    let vectors =
        (!args.ignore_appearance && detections == nested && vectors.is_file()).then_some(vectors);
    let info = read_info(&folder)?;
    let rate = camera
        .frame_rate
        .or(info.as_ref().map(|info| info.frame_rate));
    let Some(frame_rate) = rate else {
        bail!(
            "frames a second are not known: give frame_rate in the environment or frameRate in {}",
            folder.join("seqinfo.ini").display()
        );
    };
    let size = match &info {
        Some(info) => Some([f64::from(info.width), f64::from(info.height)]),
        None => calibrated_size(environment, index)?,
    };
    let Some(frame_size) = size else {
        bail!(
            "the size of its pictures is not known: give imWidth and imHeight in {}, or \
             image_size in its calibration",
            folder.join("seqinfo.ini").display()
        );
    };
    Ok(Described {
        detections,
        vectors,
        frame_rate,
        frame_size,
        length: info.map(|info| info.frames),
    })
}

/// The size of the pictures by the camera's calibration, if there is one.
fn calibrated_size(environment: &Environment, camera: usize) -> anyhow::Result<Option<[f64; 2]>> {
    let Some(path) = environment
        .homography_file(camera)
        .filter(|path| path.exists())
    else {
        return Ok(None);
    };
    let loaded = Calibration::read(&path, environment.homography.ransac_threshold)?;
    Ok(loaded.calibration.image_size)
}

fn report(out: &Path, summary: &Summary) -> anyhow::Result<()> {
    write_summary(out, summary)?;
    let mut stdout = std::io::stdout().lock();
    for camera in &summary.cameras {
        writeln!(
            stdout,
            "{}: {} frames, {} detections, {} tracks",
            camera.name, camera.frames, camera.detections, camera.tracks
        )?;
    }
    writeln!(
        stdout,
        "{} frames in {:.1} s, {:.1} a second; identities {:.3} ms a frame\nresults in {}",
        summary.frames,
        summary.seconds,
        summary.frames_per_second,
        summary.stages.world_ms,
        out.display()
    )?;
    if summary.interrupted {
        return Err(Interrupted.into());
    }
    Ok(())
}
