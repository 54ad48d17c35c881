//! The order in which cameras are listed decides nothing: whichever it is, the same tracks are the
//! same people.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use mtmc::gallery::{CameraInput, Gallery, GallerySettings, Link, Observation, Topology};
use mtmc::sim::{Layout, Preset, SimSettings, Simulation};
use mtmc::tracker::{FrameDetections, Track, TrackerSettings};
use proptest::prelude::*;

/// Every track of every camera in every step that showed someone: whom.
type Outcome = BTreeMap<(u64, usize, u64), u64>;

fn settings(layout: Layout, seed: u64) -> SimSettings {
    let mut settings = SimSettings {
        layout,
        people: 14,
        seconds: 16.0,
        frame_rate: 5.0,
        seed,
        ..SimSettings::preset(Preset::Hard)
    };
    settings.looks.dim = 64;
    settings.walk.absence = 4.0;
    settings
}

/// Runs trackers and gallery; `order[camera]` is the index that a camera is listed by.
fn run(simulation: Simulation, order: &[usize], mapped: bool) -> Outcome {
    let mut topology = Topology::default();
    for link in simulation.links() {
        let (overlap, seconds) = (link.overlap, link.seconds);
        topology.set(order[link.from], order[link.to], Link { overlap, seconds });
    }
    let mut views = vec![None; order.len()];
    for (camera, view) in simulation.views().iter().enumerate() {
        views[order[camera]] = mapped.then(|| view.clone());
    }
    let settings = GallerySettings {
        similarity_threshold: 0.58,
        lost_steps: 1_000,
        ..GallerySettings::default()
    };
    let mut gallery = Gallery::new(settings, topology, views).unwrap();
    let frame_size = simulation.settings().image_size.map(f64::from);
    let mut trackers: Vec<_> = order
        .iter()
        .map(|_| TrackerSettings::default().build().unwrap())
        .collect();
    let mut outcome = Outcome::new();
    for step in simulation {
        let mut tracks: Vec<Vec<Track>> = Vec::new();
        for (tracker, camera) in trackers.iter_mut().zip(&step.cameras) {
            tracks.push(tracker.update(&FrameDetections {
                frame: step.frame,
                detections: camera.detections.clone(),
                ..FrameDetections::default()
            }));
        }
        let mut listed: Vec<(usize, Vec<Observation<'_>>)> = Vec::new();
        for (camera, (tracks, seen)) in tracks.iter().zip(&step.cameras).enumerate() {
            let observe = |track: &Track| Observation {
                track_id: track.track_id,
                bbox: track.bbox,
                embedding: track.detection_index.and_then(|i| seen.embeddings.get(i)),
            };
            listed.push((order[camera], tracks.iter().map(observe).collect()));
        }
        listed.sort_by_key(|(index, _)| *index);
        let inputs: Vec<CameraInput<'_>> = listed
            .iter()
            .map(|(camera, observations)| CameraInput {
                camera: *camera,
                frame_size,
                observations,
            })
            .collect();
        let found = gallery.step(step.time, &inputs);
        for (camera, &index) in order.iter().enumerate() {
            for (observation, identity) in inputs[index]
                .observations
                .iter()
                .zip(&found.identities[index])
            {
                if let Some(id) = identity.global_id {
                    outcome.insert((step.frame, camera, observation.track_id), id);
                }
            }
        }
    }
    outcome
}

/// Whether two outcomes are one but for what people are called.
fn same_people(a: &Outcome, b: &Outcome) -> bool {
    let (mut there, mut back) = (BTreeMap::new(), BTreeMap::new());
    a.len() == b.len()
        && a.iter().all(|(track, one)| {
            b.get(track).is_some_and(|other| {
                there.entry(*one).or_insert(*other) == other
                    && back.entry(*other).or_insert(*one) == one
            })
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn the_order_of_cameras_decides_nothing(
        order in Just(vec![0_usize, 1, 2, 3]).prop_shuffle(),
        seed in 0_u64..1_000,
        layout in prop::sample::select(vec![Layout::Ring, Layout::Campus, Layout::Corridor]),
        mapped in any::<bool>(),
    ) {
        let simulate = || Simulation::new(settings(layout, seed)).unwrap();
        let listed = run(simulate(), &[0, 1, 2, 3], mapped);
        prop_assert!(listed.len() > 100, "{} sightings", listed.len());
        let shuffled = run(simulate(), &order, mapped);
        prop_assert!(same_people(&listed, &shuffled));
    }
}
