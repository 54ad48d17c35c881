//! `mtmc sim`: people who walk through a place seen by several cameras, with the truth.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::eval::output::print_json;
use super::progress::{Progress, stop_on_ctrl_c};
use crate::pipeline::Interrupted;
use crate::sim::{Layout, Preset, SimSettings, SimWriter, Simulation, Step};

/// Arguments of `mtmc sim`.
///
/// Writes for each camera detections with vectors of how people look, the truth and the
/// calibration; for all together an environment file, the truth on the map and a picture. The same
/// settings give the same files.
#[derive(Debug, Args)]
pub struct SimArgs {
    /// The place and its cameras
    #[arg(long, env = "MTMC_SIM_LAYOUT")]
    layout: Option<Layout>,

    /// How many cameras; `campus` has 4
    #[arg(long, env = "MTMC_SIM_CAMERAS", value_name = "N")]
    cameras: Option<usize>,

    /// How many people are there or will come back
    #[arg(long, env = "MTMC_SIM_PEOPLE", value_name = "N")]
    people: Option<usize>,

    /// How long it lasts
    #[arg(long, env = "MTMC_SIM_SECONDS")]
    seconds: Option<f64>,

    /// Frames a second
    #[arg(long, env = "MTMC_SIM_FPS")]
    fps: Option<f64>,

    /// Decides all that is left to chance
    #[arg(long, env = "MTMC_SIM_SEED")]
    seed: Option<u64>,

    /// How hard it is to tell people apart
    #[arg(long, env = "MTMC_SIM_PRESET", default_value = "medium")]
    preset: Preset,

    /// Settings over the preset's, TOML, as `settings.toml` of an earlier run
    #[arg(long, env = "MTMC_SIM_SETTINGS", value_name = "FILE")]
    settings: Option<PathBuf>,

    /// One setting, over what the file says, such as `detector.miss_rate=0.2`; may be given several
    /// times
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,

    /// Folder for the files, made if need be
    #[arg(short, long, env = "MTMC_SIM_OUT", value_name = "DIR")]
    out: PathBuf,

    /// Print JSON instead of lines
    #[arg(long, env = "MTMC_JSON")]
    json: bool,

    /// Show no progress
    #[arg(short, long, env = "MTMC_QUIET")]
    quiet: bool,
}

/// What was written.
#[derive(Debug, Default)]
struct Counts {
    frames: u64,
    detections: u64,
    false_alarms: u64,
    truth_boxes: u64,
    identities: u64,
}

impl Counts {
    fn add(&mut self, step: &Step) {
        self.frames += 1;
        for camera in &step.cameras {
            self.detections += camera.detections.len() as u64;
            let false_alarms = camera.truth.iter().filter(|who| who.is_none());
            self.false_alarms += false_alarms.count() as u64;
            self.truth_boxes += camera.truth_boxes.len() as u64;
        }
        // Identities count from 1 in the order in which people come.
        let last = step.people.last().map_or(0, |person| person.0);
        self.identities = self.identities.max(last);
    }
}

/// Simulates and writes.
///
/// # Errors
/// A setting or a file is wrong, or it was stopped: what was simulated until then is written.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let mut simulation = Simulation::new(settings)?;
    let stop = stop_on_ctrl_c("what was simulated so far is written")?;
    let frames = simulation.settings().frames();
    let progress = Progress::new(Some(frames), "frames", args.quiet);
    let mut writer = SimWriter::create(&args.out, &simulation)?;
    let mut counts = Counts::default();
    while !stop.load(Ordering::SeqCst) {
        let Some(step) = simulation.next() else { break };
        writer.write(&step)?;
        counts.add(&step);
        progress.update(step.frame);
    }
    progress.finish();
    writer.finish(&simulation)?;
    if args.json {
        print_json(&counts_json(&counts, &simulation))?;
    } else {
        print(&counts, &simulation, &args.out)?;
    }
    if counts.frames < frames {
        return Err(Interrupted.into());
    }
    Ok(())
}

fn print(counts: &Counts, simulation: &Simulation, out: &Path) -> anyhow::Result<()> {
    let settings = simulation.settings();
    writeln!(
        std::io::stdout().lock(),
        "{}: {} cameras, {} frames each, {} people\n{} boxes in truth, {} detections, {} of them \
         false alarms\nwritten to {}",
        settings.layout.name(),
        simulation.cameras().len(),
        counts.frames,
        counts.identities,
        counts.truth_boxes,
        counts.detections,
        counts.false_alarms,
        out.display()
    )?;
    Ok(())
}

fn counts_json(counts: &Counts, simulation: &Simulation) -> Value {
    json!({
        "settings": simulation.settings(),
        "frames": counts.frames,
        "identities": counts.identities,
        "truth_boxes": counts.truth_boxes,
        "detections": counts.detections,
        "false_alarms": counts.false_alarms,
    })
}

impl SimArgs {
    /// The preset, the file over it, then `--set`, then the flags of their own.
    fn settings(&self) -> anyhow::Result<SimSettings> {
        let Value::Object(mut values) = serde_json::to_value(SimSettings::preset(self.preset))?
        else {
            bail!("the settings cannot be listed");
        };
        if let Some(path) = &self.settings {
            let name = || path.display().to_string();
            let text = std::fs::read_to_string(path).with_context(name)?;
            let read: Map<String, Value> = toml::from_str(&text).with_context(name)?;
            put_over(&mut values, read);
            // Here, so that an error names the file.
            let _: SimSettings =
                serde_json::from_value(values.clone().into()).with_context(name)?;
        }
        for assignment in &self.set {
            assign(&mut values, assignment)
                .and_then(|()| Ok(serde_json::from_value(values.clone().into())?))
                .map(|_: SimSettings| ())
                .with_context(|| format!("--set {assignment}"))?;
        }
        let mut settings: SimSettings = serde_json::from_value(values.into())?;
        settings.layout = self.layout.unwrap_or(settings.layout);
        settings.cameras = self.cameras.unwrap_or(settings.cameras);
        settings.people = self.people.unwrap_or(settings.people);
        settings.seconds = self.seconds.unwrap_or(settings.seconds);
        settings.frame_rate = self.fps.unwrap_or(settings.frame_rate);
        settings.seed = self.seed.unwrap_or(settings.seed);
        Ok(settings)
    }
}

/// Puts the values of a file over others, table by table.
fn put_over(values: &mut Map<String, Value>, read: Map<String, Value>) {
    for (name, value) in read {
        match (values.get_mut(&name), value) {
            (Some(Value::Object(table)), Value::Object(read)) => put_over(table, read),
            (_, value) => {
                values.insert(name, value);
            }
        }
    }
}

/// Carries out one `NAME=VALUE`.
fn assign(values: &mut Map<String, Value>, assignment: &str) -> anyhow::Result<()> {
    let Some((name, text)) = assignment.split_once('=') else {
        bail!("must be NAME=VALUE");
    };
    let value: Value = serde_json::from_str(text.trim())
        .with_context(|| format!("`{text}` is neither a number nor true or false"))?;
    let mut table = values;
    let mut path: Vec<&str> = name.trim().split('.').collect();
    let last = path.pop().unwrap_or_default();
    for part in path {
        table = match table.get_mut(part) {
            Some(Value::Object(table)) => table,
            _ => bail!("there is no group of settings called {part}"),
        };
    }
    match table.get_mut(last) {
        Some(old) if !old.is_object() => *old = value,
        _ => {
            let names: Vec<&str> = table.keys().map(String::as_str).collect();
            bail!("there is no such setting; there are {}", names.join(", "));
        }
    }
    Ok(())
}
