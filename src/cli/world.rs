//! From an environment's description to the stations that its cameras share.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::snapshots::Outputs;
use crate::config::{Environment, Overrides};
use crate::pipeline::{Shared, World};
use crate::sink::{EventSink, MapSink, TrajectorySink, WorldSink};

/// The environment of a file, under variables and flags.
pub fn load(file: &Path, overrides: &Overrides) -> anyhow::Result<Environment> {
    Ok(Environment::load(file, overrides)?)
}

/// An environment of cameras of which only names are known.
pub fn of_cameras(names: &[String], overrides: &Overrides) -> anyhow::Result<Environment> {
    Ok(Environment::of_cameras(names, overrides)?)
}

/// Gallery, map and handoffs of an environment, writing into `out`; `sizes` are the cameras'
/// frame sizes in pixels.
///
/// A camera whose calibration is missing or broken goes on without a map; the latter is told.
pub fn shared(environment: &Environment, sizes: &[[f64; 2]], out: &Path) -> anyhow::Result<Shared> {
    shared_into(environment, sizes, &Outputs::new(out))
}

/// The same, going on where the files of `outputs` do.
pub fn shared_into(
    environment: &Environment,
    sizes: &[[f64; 2]],
    outputs: &Outputs,
) -> anyhow::Result<Shared> {
    let built = World::of_environment(environment, sizes)?;
    for warning in &built.warnings {
        tell(warning)?;
    }
    let has_map = built.calibrations.iter().any(Option::is_some);
    let mut sinks: Vec<Box<dyn WorldSink>> =
        vec![Box::new(EventSink::to(outputs.file("events.jsonl")?))];
    if has_map {
        let picture = outputs.path("map.svg");
        let mut picture = TrajectorySink::create(&picture, &environment.map.unit)?;
        if let Some(bytes) = outputs.written("map.txt") {
            picture.take_in(&outputs.path("map.txt"), bytes)?;
        }
        sinks.push(Box::new(MapSink::to(outputs.file("map.txt")?)));
        sinks.push(Box::new(picture));
    }
    Ok(Shared {
        world: built.world,
        sinks,
    })
}

fn tell(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "warning: {text}").context("standard error")
}
