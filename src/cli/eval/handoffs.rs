//! `mtmc eval mtmc --handoffs`: the handoffs of a run against the truth.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::world;
use crate::config::{Environment, Overrides};
use crate::eval::across::Camera;
use crate::eval::across::handoffs::{Clock, Handoffs, Reported};

/// Where handoffs are.
#[derive(Debug, Args)]
pub struct HandoffArgs {
    /// Measure handoffs, too: the `events.jsonl` of a run. Needs --environment, and folders for
    /// --gt and --tracks
    #[arg(
        long,
        env = "MTMC_EVAL_HANDOFFS",
        value_name = "FILE",
        requires = "environment"
    )]
    handoffs: Option<PathBuf>,

    /// The environment file of that run: order and frame rates of its cameras
    #[arg(long, env = "MTMC_EVAL_ENVIRONMENT", value_name = "FILE")]
    environment: Option<PathBuf>,
}

/// A line of `events.jsonl`, as far as it is read.
#[derive(Deserialize)]
struct Line {
    kind: String,
    event: String,
    time: f64,
    global_id: Option<i64>,
    from: Option<Value>,
    to: Option<usize>,
    seconds: Option<f64>,
    confidence: Option<f64>,
}

impl HandoffArgs {
    /// Measures, if that was asked for.
    ///
    /// # Errors
    /// A file is missing or broken, or the cameras are others.
    pub fn measure(&self, cameras: Option<&[Camera]>) -> anyhow::Result<Option<Handoffs>> {
        let (Some(events), Some(environment)) = (&self.handoffs, &self.environment) else {
            return Ok(None);
        };
        let Some(cameras) = cameras else {
            bail!("--handoffs compares boxes of cameras, but --map measures places without them");
        };
        let environment = world::load(environment, &Overrides::from_process())?;
        let (cameras, clocks) = in_order(&environment, cameras)?;
        let reported = read(events)?;
        Ok(Some(Handoffs::of(&cameras, &clocks, &reported)))
    }
}

/// The environment's cameras in its order, with their clocks.
fn in_order(
    environment: &Environment,
    cameras: &[Camera],
) -> anyhow::Result<(Vec<Camera>, Vec<Clock>)> {
    let mut ordered = Vec::new();
    let mut clocks = Vec::new();
    for known in &environment.cameras {
        let Some(camera) = cameras.iter().find(|camera| camera.name == known.id) else {
            bail!("--handoffs: camera {} has no truth or no tracks", known.id);
        };
        let Some(rate) = known.frame_rate else {
            bail!(
                "--handoffs: the environment gives camera {} no `frame_rate`",
                known.id
            );
        };
        ordered.push(camera.clone());
        clocks.push(Clock {
            rate,
            start: known.start_offset,
        });
    }
    Ok((ordered, clocks))
}

/// The completed handoffs of a file of events.
fn read(path: &Path) -> anyhow::Result<Vec<Reported>> {
    let name = || path.display().to_string();
    let mut reported = Vec::new();
    let lines = BufReader::new(File::open(path).with_context(name)?).lines();
    for (number, line) in lines.enumerate() {
        let place = || format!("{}, line {}", path.display(), number + 1);
        let line: Line = serde_json::from_str(&line.with_context(place)?).with_context(place)?;
        if line.kind != "handoff" || line.event != "completed" {
            continue;
        }
        let from = line.from.as_ref().and_then(Value::as_u64);
        let (Some(global_id), Some(from), Some(to)) = (line.global_id, from, line.to) else {
            bail!("{}: a completed handoff without whom, from or to", place());
        };
        reported.push(Reported {
            time: line.time,
            global_id,
            from: usize::try_from(from).with_context(place)?,
            to,
            seconds: line.seconds.unwrap_or(0.0),
            confidence: line.confidence.unwrap_or(0.0),
        });
    }
    Ok(reported)
}

/// One line of text.
pub fn note(handoffs: &Handoffs) -> String {
    let seconds = handoffs
        .median_error()
        .map_or("none".to_string(), |error| format!("{error:.2} s"));
    let sure = handoffs
        .confidence
        .map(|mean| mean.map_or("none".to_string(), |mean| format!("{mean:.2}")));
    format!(
        "handoffs: {} reported, {} right (precision {:.2}), {} of {} true ones found (recall {:.2}), \
         time wrong by {seconds} (median), mean confidence {} of the right, {} of the wrong\n",
        handoffs.reported,
        handoffs.right,
        handoffs.precision() * 100.0,
        handoffs.found,
        handoffs.truths,
        handoffs.recall() * 100.0,
        sure[0],
        sure[1],
    )
}

/// The same for programs.
pub fn json_of(handoffs: &Handoffs) -> Value {
    json!({
        "reported": handoffs.reported,
        "right": handoffs.right,
        "precision": handoffs.precision(),
        "true": handoffs.truths,
        "found": handoffs.found,
        "recall": handoffs.recall(),
        "median_time_error": handoffs.median_error(),
        "confidence_right": handoffs.confidence[0],
        "confidence_wrong": handoffs.confidence[1],
    })
}
