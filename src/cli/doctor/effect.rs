//! That re-ID changes who is who: the same people with and without it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use mtmc_models::{DetectOptions, Detector as _, Embedder};

use super::Findings;
use super::networks::Loaded;
use crate::annotate::privacy::Privacy;
use crate::config::{Environment, Overrides};
use crate::gallery::{CameraInput, Gallery, GallerySettings, Link, Observation, Topology};
use crate::pipeline::{
    self, Associations, Camera, Control, Networks, Options, PipelineMetrics, Shared, SyncMode,
    World,
};
use crate::sim::{Layout, Preset, SimSettings, Simulation};
use crate::source::{self, Backoff, OpenOptions};
use crate::tracker::{FrameDetections, Track, TrackerSettings};

/// Follows made-up people through rooms that no two cameras share, so that only looks can tell who
/// comes back.
pub(super) fn made_up(findings: &mut Findings) {
    let counts = identities(true).and_then(|with| Ok((with, identities(false)?)));
    let advice = "this is a fault of the program: report it";
    match counts {
        Ok(((people, with), (_, without))) => {
            let what = format!(
                "{people} made-up people in 4 rooms: {with} identities with re-ID, {without} without"
            );
            if with < without {
                findings.ok("re-ID effect", what);
            } else {
                findings.fail("re-ID effect", what, advice);
            }
        }
        Err(error) => findings.fail("re-ID effect", format!("{error:#}"), advice),
    }
}

/// People who were tracked, and identities that they got.
fn identities(looks: bool) -> anyhow::Result<(usize, usize)> {
    let settings = SimSettings {
        layout: Layout::Corridor,
        people: 8,
        seconds: 60.0,
        frame_rate: 5.0,
        ..SimSettings::preset(Preset::Easy)
    };
    let similarity = f64::midpoint(
        settings.looks.other_camera,
        settings.looks.different_same_camera,
    );
    let frame_size = settings.image_size.map(f64::from);
    let simulation = Simulation::new(settings)?;
    let mut topology = Topology::default();
    for link in simulation.links() {
        let (overlap, seconds) = (link.overlap, link.seconds);
        topology.set(link.from, link.to, Link { overlap, seconds });
    }
    let count = simulation.cameras().len();
    let association = GallerySettings {
        similarity_threshold: similarity,
        lost_steps: 3_000,
        ..GallerySettings::default()
    };
    let mut gallery = Gallery::new(association, topology, vec![None; count])?;
    let tracker = TrackerSettings::default();
    let trackers: Result<Vec<_>, _> = (0..count).map(|_| tracker.build()).collect();
    let mut trackers = trackers?;
    let mut people: BTreeSet<u64> = BTreeSet::new();
    let mut found: BTreeSet<u64> = BTreeSet::new();
    for step in simulation {
        let mut tracks: Vec<Vec<Track>> = Vec::with_capacity(count);
        for (tracker, camera) in trackers.iter_mut().zip(&step.cameras) {
            tracks.push(tracker.update(&FrameDetections {
                frame: step.frame,
                detections: camera.detections.clone(),
                ..FrameDetections::default()
            }));
        }
        let mut observations: Vec<Vec<Observation<'_>>> = Vec::with_capacity(count);
        for (tracks, camera) in tracks.iter().zip(&step.cameras) {
            people.extend(camera.truth.iter().flatten().copied());
            let observe = |track: &Track| Observation {
                track_id: track.track_id,
                bbox: track.bbox,
                embedding: track
                    .detection_index
                    .filter(|_| looks)
                    .and_then(|index| camera.embeddings.get(index)),
            };
            observations.push(tracks.iter().map(observe).collect());
        }
        let inputs: Vec<CameraInput<'_>> = observations
            .iter()
            .enumerate()
            .map(|(camera, observations)| CameraInput {
                camera,
                frame_size,
                observations,
            })
            .collect();
        let result = gallery.step(step.time, &inputs);
        found.extend(
            result
                .identities
                .iter()
                .flatten()
                .filter_map(|i| i.global_id),
        );
    }
    Ok((people.len(), found.len()))
}

/// Tracks a video with and without the encoder.
pub(super) fn sample(spec: &str, frames: u64, loaded: &Loaded, findings: &mut Findings) {
    let advice = "name a readable video of people, and weights with --weights and --reid";
    let Some(embedder) = &loaded.embedder else {
        return findings.fail("sample", "no re-ID weights are loaded", advice);
    };
    let with = track(spec, frames, loaded, Some(embedder));
    let counts = with.and_then(|with| Ok((with, track(spec, frames, loaded, None)?)));
    let ((tracked, with), (_, without)) = match counts {
        Ok(counts) => counts,
        Err(error) => return findings.fail("sample", format!("{spec}: {error:#}"), advice),
    };
    let tell = |a: &Associations| {
        let (new, back) = (a.new, a.matched + a.returned);
        format!("{new} identities, {back} tracks known again")
    };
    let what = format!(
        "{tracked} boxes in {frames} frames; with re-ID {}; without {}",
        tell(&with),
        tell(&without)
    );
    if with == without {
        let advice = "nobody may have left and come back: try more frames (--sample-frames)";
        findings.warn("sample", format!("{what}: no difference"), advice);
    } else {
        findings.ok("sample", what);
    }
}

/// Boxes that were tracked, and how they came to identities.
fn track(
    spec: &str,
    frames: u64,
    loaded: &Loaded,
    embedder: Option<&dyn Embedder>,
) -> anyhow::Result<(u64, Associations)> {
    let detector = loaded.detector.as_ref().context("no detector is loaded")?;
    let source = source::open(spec, &OpenOptions::default())?;
    let (width, height) = source.info().size;
    let rate = source.info().frame_rate.unwrap_or(30.0);
    let name = "sample".to_string();
    let environment =
        Environment::of_cameras(std::slice::from_ref(&name), &Overrides::from_process())?;
    let built = World::of_environment(&environment, &[[f64::from(width), f64::from(height)]])?;
    let camera = Camera {
        name: name.clone(),
        source,
        reopen: None,
        tracker: environment.tracker.at_rate(rate).build()?,
        motion: None,
        sinks: Vec::new(),
        classes: detector.classes().to_vec(),
        start_offset: 0.0,
    };
    let shared = Shared {
        world: built.world,
        sinks: Vec::new(),
    };
    let options = Options {
        batch: 4,
        max_frames: Some(frames),
        detect: DetectOptions::default(),
        report_threshold: 0.5,
        tolerance: pipeline::tolerance([rate]),
        sync: SyncMode::Lossless,
        reconnect: Backoff::default(),
        privacy: Privacy::None,
    };
    let metrics = Arc::new(PipelineMetrics::new([name]));
    let control = Control {
        snapshots: None,
        metrics: metrics.clone(),
        throttle: Arc::default(),
        erasures: Arc::default(),
        stop: &AtomicBool::new(false),
        progress: &|_| {},
    };
    let networks = Networks { detector, embedder };
    let summary = pipeline::run(vec![camera], Some(shared), networks, &options, control)?;
    if let Some(error) = summary
        .cameras
        .iter()
        .find_map(|camera| camera.error.as_ref())
    {
        anyhow::bail!("{error}");
    }
    let snapshot = metrics.snapshot();
    let tracked = snapshot.cameras.iter().map(|camera| camera.tracked).sum();
    Ok((tracked, snapshot.associations))
}
