//! From an environment's description to the stations that its cameras share.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use mtmc_models::LoadedEmbedder;
use mtmc_models::weights::read_description;

use super::options::{ComputeArgs, weights_path};
use super::snapshots::Outputs;
use crate::config::{EncoderType, Environment, Overrides};
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

/// The weights of the one encoder there is: the flag's, else those that environments name (`reid.model`).
///
/// # Errors
/// Two environments name different ones.
pub fn encoder_weights(
    flag: Option<&str>,
    environments: &[Environment],
) -> anyhow::Result<Option<String>> {
    if let Some(weights) = flag {
        return Ok(Some(weights.to_string()));
    }
    let mut named: Option<(&Environment, &Path)> = None;
    for environment in environments {
        let Some(model) = environment.reid.model.as_deref() else {
            continue;
        };
        match named {
            Some((other, before)) if before != model => bail!(
                "environments {} and {} name different encoders, {} and {}, but there is one for \
                 all of them: say which with --reid",
                other.id,
                environment.id,
                before.display(),
                model.display()
            ),
            _ => named = Some((environment, model)),
        }
    }
    Ok(named.map(|(_, model)| model.to_string_lossy().into_owned()))
}

/// Loads that encoder.
///
/// # Errors
/// It cannot be loaded, or an environment expects one of another family (`reid.type`).
pub fn load_encoder(
    compute: &ComputeArgs,
    weights: &str,
    environments: &[Environment],
) -> anyhow::Result<LoadedEmbedder> {
    let is = read_description(&weights_path(weights)?)?.architecture;
    for environment in environments {
        let Some(expected) = environment.reid.kind else {
            continue;
        };
        let family = match expected {
            EncoderType::Clip => "clip",
            EncoderType::ResNet50 => "resnet50",
            EncoderType::OsNet => "osnet",
        };
        if !is.starts_with(family) {
            bail!(
                "{weights} holds {is}, but environment {} expects {family} (reid.type, \
                 REID_MODEL_TYPE)",
                environment.id
            );
        }
    }
    compute.embedder(weights)
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
