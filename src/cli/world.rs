//! From an environment's description to the stations that its cameras share.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::snapshots::Outputs;
use crate::config::{Environment, Overrides};
use crate::gallery::Gallery;
use crate::homography::{Calibration, CameraView, MapPoint};
use crate::pipeline::{Shared, World};
use crate::reid::{Schedule, ScheduleSettings};
use crate::sink::{EventSink, MapSink, TrajectorySink, WorldSink};

/// The environment of a file, under the requirement document's environment variables.
pub fn load(file: &Path) -> anyhow::Result<Environment> {
    Ok(Environment::load(file, &Overrides::from_process())?)
}

/// An environment of cameras of which only names are known.
pub fn of_cameras(names: &[String]) -> anyhow::Result<Environment> {
    Ok(Environment::of_cameras(names, &Overrides::from_process())?)
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
    let mut views = Vec::with_capacity(sizes.len());
    for (camera, size) in sizes.iter().enumerate() {
        views.push(view(environment, camera, *size)?);
    }
    let has_map = views.iter().any(Option::is_some);
    let gallery = Gallery::new(
        environment.association.clone(),
        environment.topology(),
        views,
    )?;
    let handoff = environment.handoff_detector()?;
    let schedule = Schedule::new(ScheduleSettings {
        refresh_interval_frames: environment.reid.refresh_interval_frames,
        ..ScheduleSettings::default()
    });
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
        world: World::new(gallery, handoff, schedule),
        sinks,
    })
}

/// A camera's calibration, if it has one.
fn view(
    environment: &Environment,
    camera: usize,
    size: [f64; 2],
) -> anyhow::Result<Option<CameraView>> {
    let named = environment
        .cameras
        .get(camera)
        .map(|c| c.homography.is_some());
    let Some(path) = environment.homography_file(camera) else {
        return Ok(None);
    };
    if !environment.homography.enabled || (named == Some(false) && !path.exists()) {
        return Ok(None);
    }
    let threshold = environment.homography.ransac_threshold;
    let loaded = Calibration::read(&path, threshold).and_then(|loaded| {
        let view = loaded.calibration.view(size)?;
        Ok((view, loaded.warnings))
    });
    match loaded {
        Ok((view, warnings)) => {
            for warning in warnings {
                tell(&format!("{}: {warning}", path.display()))?;
            }
            let corners = &environment.map.valid_area;
            if corners.is_empty() {
                return Ok(Some(view));
            }
            let area = corners.iter().map(|&[x, y]| MapPoint { x, y }).collect();
            Ok(Some(view.with_area(area)))
        }
        Err(error) => {
            tell(&format!("no map for this camera: {error}"))?;
            Ok(None)
        }
    }
}

fn tell(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "warning: {text}").context("standard error")
}
