//! `mtmc track`: videos in, tracks out, as MOT text, JSON lines and annotated video.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use mtmc_models::Embedder;
use mtmc_models::layers::Mode;

use super::options::{DetectionArgs, ModelArgs, SyncArgs, unit};
use super::progress::{Progress, stop_on_ctrl_c};
use super::settings::read_settings;
use super::snapshots::{Outputs, add_environment, add_weights, snapshots};
use super::sources::{NamedSource, Opening, total_frames};
use super::world;
use crate::annotate::privacy::Privacy;
use crate::config::{Environment, Overrides};
use crate::pipeline::{
    self, Camera, CameraState, Control, Fingerprint, Interrupted, Networks, Options,
    PipelineMetrics, Summary, SyncMode,
};
use crate::sink::{JpegSink, JsonLinesSink, MotSink, Sink, VideoSink};
use crate::tracker::camera_motion::{MotionEstimator, MotionMethod, MotionSettings};
use crate::tracker::{TrackerSettings, VideoTracking};

/// Arguments of `mtmc track`.
#[derive(Debug, Args)]
pub struct TrackArgs {
    /// Videos, folders of images, or stream addresses; one camera each. With --environment:
    /// CAMERA=SOURCE, instead of the source that the file names
    #[arg(required_unless_present = "environment", value_name = "SOURCE")]
    sources: Vec<String>,

    /// A place that the cameras share (TOML): cameras, calibrations, zones, links; people get one
    /// identity across them, a place on the map, and handoffs
    #[arg(long, env = "MTMC_ENVIRONMENT", value_name = "FILE")]
    environment: Option<PathBuf>,

    #[command(flatten)]
    overrides: Overrides,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    detection: DetectionArgs,

    /// Re-ID weights: a .safetensors file, or a name of `mtmc models list`, fetched if absent.
    /// Trackers that use appearance get it; by default the environment's `reid.model`, else off
    #[arg(long, env = "REID_MODEL_PATH", value_name = "WEIGHTS")]
    reid: Option<String>,

    /// Folder of the results: NAME.txt, NAME.jsonl and NAME.mp4 a source, and summary.json
    #[arg(
        short,
        long,
        env = "MTMC_OUT",
        value_name = "DIR",
        default_value = "out"
    )]
    out: PathBuf,

    /// Pictures with boxes and IDs: an MP4, a folder of JPEGs, or none
    #[arg(long, env = "MTMC_VIDEO", default_value = "mp4")]
    video: VideoOutput,

    /// What is hidden of people in these pictures
    #[arg(
        long,
        env = "MTMC_PRIVACY",
        value_name = "WHAT",
        default_value = "none"
    )]
    privacy: Privacy,

    /// Frames that the detector takes at once
    #[arg(long, env = "MTMC_BATCH", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,

    /// Frames a second of a folder of images; videos have their own
    #[arg(long, env = "MTMC_FRAME_RATE")]
    frame_rate: Option<f64>,

    /// Stop after this many frames of each source
    #[arg(long, env = "MTMC_MAX_FRAMES")]
    max_frames: Option<u64>,

    /// Lowest score that the tracker sees at all: ByteTrack revives tracks with weak boxes (0..1)
    #[arg(long, env = "MTMC_SCORE_FLOOR", default_value_t = 0.1, value_parser = unit)]
    score_floor: f32,

    /// Who follows people: `bytetrack` by boxes alone, `botsort` by boxes, looks (with --reid) and
    /// the camera's motion. By default botsort with --reid and bytetrack without
    #[arg(long, env = "MTMC_TRACKER")]
    tracker: Option<TrackerName>,

    /// How botsort tells the camera's motion (none, sparse_flow, orb, ecc); cameras that stand
    /// still need none
    #[arg(long, env = "MTMC_CAMERA_MOTION", default_value = "none")]
    camera_motion: MotionMethod,

    /// Looks farther apart than this (half the cosine distance, 0..1) do not continue a track; what
    /// suits depends on the re-ID weights
    #[arg(long, env = "MTMC_APPEARANCE_THRESHOLD", default_value_t = 0.1, value_parser = unit)]
    appearance_threshold: f32,

    /// A tracker's settings, TOML or JSON, as `mtmc tune` writes them, instead of the options here
    #[arg(long, env = "MTMC_TRACKER_SETTINGS", value_name = "FILE", conflicts_with_all = ["tracker", "track_buffer", "match_threshold", "appearance_threshold"])]
    tracker_settings: Option<PathBuf>,

    /// Frames that a lost track is kept, at 30 frames a second
    #[arg(long, env = "MTMC_TRACK_BUFFER", default_value_t = 30)]
    track_buffer: u32,

    /// Cost (1 - IoU · score) above which a box does not continue a track (0..1)
    #[arg(long, env = "MTMC_MATCH_THRESHOLD", default_value_t = 0.8, value_parser = unit)]
    match_threshold: f32,

    /// Write OUT/state.mtmc after at least this many frames, of all cameras together, so that a run
    /// that was stopped or killed can go on from there; 0 for never
    #[arg(
        long,
        env = "MTMC_SNAPSHOT_EVERY",
        value_name = "FRAMES",
        default_value_t = 0
    )]
    snapshot_every: u64,

    /// Go on from the snapshot in OUT, if there is one: with the same options the same results as
    /// without the interruption, but for videos, which go on as NAME-from-FRAME.mp4
    #[arg(long, env = "MTMC_RESUME")]
    resume: bool,

    #[command(flatten)]
    sync: SyncArgs,

    /// No progress, only the summary
    #[arg(short, long, env = "MTMC_QUIET")]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TrackerName {
    #[value(name = "bytetrack")]
    ByteTrack,
    #[value(name = "botsort")]
    BotSort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VideoOutput {
    Mp4,
    Jpeg,
    None,
}

impl TrackArgs {
    fn tracker_name(&self) -> TrackerName {
        match (self.tracker, &self.reid) {
            (Some(name), _) => name,
            (None, Some(_)) => TrackerName::BotSort,
            (None, None) => TrackerName::ByteTrack,
        }
    }

    fn opening(&self, cameras: usize) -> anyhow::Result<Opening> {
        let rate = self.frame_rate;
        if rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1000.0)) {
            bail!("--frame-rate must be above 0 and at most 1000");
        }
        Ok(Opening {
            frame_rate: rate,
            realtime: self.sync.realtime,
            resumable: self.resume || self.snapshot_every > 0,
            several: cameras > 1,
        })
    }

    /// How the sources are kept in step.
    fn sync_mode(&self, sources: &[NamedSource]) -> anyhow::Result<SyncMode> {
        let live = sources.iter().any(|source| source.source.is_live());
        let mode = self.sync.mode(live);
        if mode.is_live() && (self.resume || self.snapshot_every > 0) {
            bail!(
                "--sync live: timing decides which frames are tracked, so there is no resuming: \
                 leave out --snapshot-every and --resume"
            );
        }
        Ok(mode)
    }

    /// What decides the results.
    fn fingerprint(
        &self,
        sources: &[NamedSource],
        trackers: &[TrackerSettings],
        reid: Option<&str>,
    ) -> anyhow::Result<Fingerprint> {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add("version", env!("CARGO_PKG_VERSION"));
        let mut described = String::new();
        for source in sources {
            let NamedSource { name, spec, .. } = source;
            let place = Path::new(spec).canonicalize();
            let place = place.unwrap_or_else(|_| PathBuf::from(spec));
            let (size, rate) = (source.size(), source.frame_rate());
            described += &format!("{name} {} {size:?} {rate}\n", place.display());
        }
        fingerprint.add("sources", &described);
        add_weights(&mut fingerprint, "--weights", Some(&self.model.weights))?;
        add_weights(&mut fingerprint, "--reid", reid)?;
        let compute = &self.model.compute;
        let settings = [
            ("--input-size", format!("{:?}", self.model.input_size)),
            ("--device", compute.device.clone()),
            ("--precision", format!("{:?}", compute.precision)),
            ("--confidence", self.detection.confidence.to_string()),
            ("--nms", format!("{:?}", self.detection.nms)),
            ("--classes", self.detection.classes.clone()),
            ("--score-floor", self.score_floor.to_string()),
            ("--camera-motion", self.camera_motion.to_string()),
            ("tracker", format!("{trackers:?}")),
            ("--privacy", format!("{:?}", self.privacy)),
        ];
        for (name, value) in settings {
            fingerprint.add(name, &value);
        }
        Ok(fingerprint)
    }

    /// Options that would do nothing are told, not ignored.
    fn check_tracker(&self) -> anyhow::Result<()> {
        if self.camera_motion == MotionMethod::None || self.environment.is_some() {
            return Ok(());
        }
        let tracker = match &self.tracker_settings {
            Some(file) => read_settings(file)?.name(),
            None if self.tracker_name() == TrackerName::BotSort => "botsort",
            None => "bytetrack",
        };
        if tracker != "botsort" {
            bail!("--camera-motion: {tracker} does not use it; choose --tracker botsort");
        }
        Ok(())
    }
}

/// Tracks and writes.
pub fn run(args: &TrackArgs) -> anyhow::Result<()> {
    args.check_tracker()?;
    args.model.compute.start_threads(Mode::Inference)?;
    // What can be wrong with the sources is told before minutes go into weights.
    let file = match &args.environment {
        Some(file) => Some(world::load(file, &args.overrides)?),
        None => None,
    };
    let sources = match &file {
        Some(environment) => {
            let opening = args.opening(environment.cameras.len())?;
            opening.of_environment(environment, &args.sources)?
        }
        None => {
            let opening = args.opening(args.sources.len())?;
            opening.named_by_themselves(&args.sources)?
        }
    };
    let sync = args.sync_mode(&sources)?;
    let detector = args.model.load()?;
    let described = file.as_slice();
    let reid = world::encoder_weights(args.reid.as_deref(), described)?;
    let embedder = match &reid {
        Some(weights) => Some(world::load_encoder(
            &args.model.compute,
            weights,
            described,
        )?),
        None => None,
    };
    let options = Options {
        batch: usize::from(args.batch),
        max_frames: args.max_frames,
        detect: args.detection.options(&detector, args.score_floor)?,
        report_threshold: args.detection.confidence,
        tolerance: pipeline::tolerance(sources.iter().map(NamedSource::frame_rate)),
        sync,
        reconnect: args.sync.backoff(),
        privacy: args.privacy,
    };
    let environment = match &file {
        Some(environment) => Some(environment.clone()),
        None if embedder.is_some() => {
            let names: Vec<String> = sources.iter().map(|source| source.name.clone()).collect();
            Some(world::of_cameras(&names, &args.overrides)?)
        }
        None => None,
    };
    let trackers = sources
        .iter()
        .map(|source| tracker_settings(args, file.as_ref(), source.frame_rate()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let snapshots = snapshots(&args.out, args.snapshot_every, args.resume, || {
        let mut fingerprint = args.fingerprint(&sources, &trackers, reid.as_deref())?;
        if let Some(environment) = &environment {
            add_environment(&mut fingerprint, environment)?;
        }
        Ok(fingerprint)
    })?;
    let outputs = Outputs::of(&args.out, snapshots.as_ref())?;
    let shared = match &environment {
        Some(environment) => {
            let sizes: Vec<[f64; 2]> = sources.iter().map(NamedSource::size).collect();
            Some(world::shared_into(environment, &sizes, &outputs)?)
        }
        None => None,
    };
    let total = total_frames(&sources, args.max_frames);
    let mut cameras = Vec::new();
    for (index, (source, tracker)) in sources.into_iter().zip(trackers).enumerate() {
        let done = snapshots.as_ref().map_or(0, |s| s.last_frame(index));
        let name = source.name.clone();
        let mut camera = camera(args, source, &tracker, &outputs, done)?;
        camera.classes = detector.description().classes.clone();
        if shared.is_some() {
            let folder = outputs.path("global");
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            let global = outputs.file(&format!("global/{name}.txt"))?;
            camera.sinks.push(Box::new(MotSink::global_to(global)));
        }
        if let Some(described) = file.as_ref().and_then(|file| file.cameras.get(index)) {
            camera.start_offset = described.start_offset;
        }
        cameras.push(camera);
    }
    let networks = Networks {
        detector: &detector,
        embedder: embedder.as_ref().map(|embedder| embedder as &dyn Embedder),
    };
    let stop = stop_on_ctrl_c("finishing the files")?;
    let progress = Progress::new(total, "frames", args.quiet);
    let names = cameras.iter().map(|camera| camera.name.as_str());
    let metrics = Arc::new(PipelineMetrics::new(names));
    let told = |frames| {
        progress.message(away(&metrics));
        progress.update(frames);
    };
    let control = Control {
        snapshots,
        metrics: metrics.clone(),
        throttle: Arc::default(),
        erasures: Arc::default(),
        stop: &stop,
        progress: &told,
    };
    let summary = pipeline::run(cameras, shared, networks, &options, control)?;
    progress.finish();
    conclude(args, &summary)
}

/// The cameras that the others go on without.
fn away(metrics: &PipelineMetrics) -> String {
    let mut text = String::new();
    for (name, state) in metrics.states() {
        if state == CameraState::Degraded {
            text += if text.is_empty() { "without " } else { ", " };
            text += name;
        }
    }
    text
}

/// Tells what was done, and how it ended.
fn conclude(args: &TrackArgs, summary: &Summary) -> anyhow::Result<()> {
    write_summary(&args.out, summary)?;
    print_summary(&args.out, summary)?;
    if summary.cameras.iter().all(|camera| camera.error.is_some()) {
        bail!(
            "no source could be read to its end; what was tracked is in {}",
            args.out.display()
        );
    }
    if summary.interrupted {
        return Err(Interrupted.into());
    }
    Ok(())
}

/// A camera whose first `done` frames an earlier run did.
fn camera(
    args: &TrackArgs,
    source: NamedSource,
    tracker: &TrackerSettings,
    outputs: &Outputs,
    done: u64,
) -> anyhow::Result<Camera> {
    let frame_rate = source.frame_rate();
    let name = source.name;
    let motion = match args.camera_motion {
        MotionMethod::None => None,
        method => Some(MotionEstimator::new(method, MotionSettings::default())?),
    };
    let mut sinks: Vec<Box<dyn Sink>> = vec![
        Box::new(MotSink::to(outputs.file(&format!("{name}.txt"))?)),
        Box::new(JsonLinesSink::to(outputs.file(&format!("{name}.jsonl"))?)),
    ];
    match args.video {
        VideoOutput::Mp4 => {
            let file = match done {
                0 => format!("{name}.mp4"),
                _ => format!("{name}-from-{}.mp4", done + 1),
            };
            sinks.push(Box::new(VideoSink::create(
                &outputs.path(&file),
                frame_rate,
            )?));
        }
        VideoOutput::Jpeg => sinks.push(Box::new(JpegSink::create(&outputs.path(&name))?)),
        VideoOutput::None => {}
    }
    Ok(Camera {
        name,
        source: source.source,
        reopen: source.reopen,
        tracker: tracker.build()?,
        motion,
        sinks,
        classes: Vec::new(),
        start_offset: 0.0,
    })
}

fn tracker_settings(
    args: &TrackArgs,
    environment: Option<&Environment>,
    frame_rate: f64,
) -> anyhow::Result<TrackerSettings> {
    // A name on the command line is stronger than the environment's file.
    if let (Some(environment), None, None) = (environment, args.tracker, &args.tracker_settings) {
        return Ok(environment.tracker.at_rate(frame_rate));
    }
    if let Some(file) = &args.tracker_settings {
        return Ok(read_settings(file)?.at_rate(frame_rate));
    }
    Ok(settings_of_options(args, frame_rate))
}

fn settings_of_options(args: &TrackArgs, frame_rate: f64) -> TrackerSettings {
    let settings = VideoTracking {
        confidence: args.detection.confidence,
        score_floor: args.score_floor,
        match_threshold: args.match_threshold,
        appearance_threshold: args.appearance_threshold,
        track_buffer: args.track_buffer,
    };
    match args.tracker_name() {
        TrackerName::ByteTrack => settings.bytetrack(frame_rate),
        TrackerName::BotSort => settings.botsort(frame_rate),
    }
}

/// Writes `summary.json`.
pub fn write_summary(out: &Path, summary: &Summary) -> anyhow::Result<()> {
    let path = out.join("summary.json");
    let text = serde_json::to_string_pretty(summary)?;
    std::fs::write(&path, text + "\n").with_context(|| path.display().to_string())
}

fn print_summary(out: &Path, summary: &Summary) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    for camera in &summary.cameras {
        writeln!(
            stdout,
            "{}: {} frames ({} skipped), {} detections, {} tracks",
            camera.name, camera.frames, camera.skipped, camera.detections, camera.tracks
        )?;
        for frame in &camera.skipped_frames {
            writeln!(stdout, "  frame {} skipped: {}", frame.number, frame.reason)?;
        }
        let dropped = camera.dropped;
        if dropped.overrun + dropped.late > 0 {
            writeln!(
                stdout,
                "  {} frames dropped for newer ones, {} that came too late",
                dropped.overrun, dropped.late
            )?;
        }
        if camera.reconnects > 0 {
            writeln!(stdout, "  lost and back {} times", camera.reconnects)?;
        }
        if let Some(error) = &camera.error {
            writeln!(stdout, "  stopped: {error}")?;
        }
    }
    writeln!(
        stdout,
        "{} frames in {:.1} s, {:.1} a second",
        summary.frames, summary.seconds, summary.frames_per_second
    )?;
    writeln!(stdout, "time of the stages, in ms a frame (they overlap):")?;
    for (stage, milliseconds) in summary.stages.rows() {
        writeln!(stdout, "  {stage:<10} {milliseconds:>8.2}")?;
    }
    writeln!(stdout, "results in {}", out.display())?;
    Ok(())
}
