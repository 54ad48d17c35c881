//! What places and looks rule out at once is what a comparison with everyone rules out.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::gallery::{GallerySettings, Topology};
use crate::sim::{Layout, Preset, SimSettings, Simulation, Step};

/// Pieces of evidence that were compared, of placed people and by looks alone.
static COMPARED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Called for every box of every gallery under test.
pub(super) fn compare_with_everyone(
    gallery: &Gallery,
    time: f64,
    camera: &CameraWork<'_>,
    prospects: &Prospects<'_>,
    index: usize,
    found: &[Evidence],
) {
    let model = gallery.settings.boxes();
    let mut all = Vec::new();
    for (person, known) in gallery.people.iter().enumerate() {
        let motion = prospects.motion(gallery, person);
        let expected = motion
            .filter(|_| !known.is_adrift())
            .zip(camera.view)
            .and_then(|(motion, view)| Expected::of(motion, view, &model));
        let place = motion.zip(expected.as_ref());
        let pair = Pair {
            gallery,
            time,
            camera,
            index,
            person,
            known,
            place,
        };
        if let Some(evidence) = pair.evidence() {
            COMPARED[usize::from(place.is_none())].fetch_add(1, Ordering::Relaxed);
            all.push(evidence);
        }
    }
    let key = |e: &Evidence| (e.person, e.cost, e.distance, e.similarity, e.hidden);
    let found: Vec<_> = found.iter().map(key).collect();
    assert_eq!(found, all.iter().map(key).collect::<Vec<_>>());
}

fn simulated(layout: Layout, people: usize) -> Simulation {
    let mut settings = SimSettings {
        layout,
        people,
        seconds: 6.0,
        frame_rate: 5.0,
        image_size: [960, 540],
        ..SimSettings::preset(Preset::Medium)
    };
    settings.looks.dim = 64;
    settings.walk.present = 0.9;
    Simulation::new(settings).unwrap()
}

/// Tracks are the true ones, but out of sight for a second now and then and new afterwards.
fn observations(step: &Step, camera: usize) -> Vec<Observation<'_>> {
    let seen = &step.cameras[camera];
    let mut all = Vec::new();
    for (index, truth) in seen.truth.iter().enumerate() {
        let Some(id) = truth else { continue };
        let phase = (step.frame + 7 * id + camera as u64) % 25;
        if phase < 5
            || all
                .iter()
                .any(|o: &Observation<'_>| o.track_id % 1_000 == *id)
        {
            continue;
        }
        let life = (step.frame + 7 * id + camera as u64) / 25;
        all.push(Observation {
            track_id: 1_000 * life + id,
            bbox: seen.detections[index].bbox,
            // Not in every step, as in life.
            embedding: seen
                .embeddings
                .get(index)
                .filter(|_| phase < 9 || phase.is_multiple_of(4)),
        });
    }
    all
}

fn run(simulation: Simulation, settings: GallerySettings, mapped: impl Fn(usize) -> bool) -> usize {
    let views = simulation.views().iter().enumerate();
    let views = views.map(|(camera, view)| mapped(camera).then(|| view.clone()));
    let mut gallery = Gallery::new(settings, Topology::default(), views.collect()).unwrap();
    let size = simulation.settings().image_size.map(f64::from);
    for step in simulation {
        let all: Vec<Vec<Observation<'_>>> = (0..step.cameras.len())
            .map(|camera| observations(&step, camera))
            .collect();
        let inputs: Vec<CameraInput<'_>> = all
            .iter()
            .enumerate()
            .map(|(camera, observations)| CameraInput {
                camera,
                frame_size: size,
                observations,
            })
            .collect();
        gallery.step(step.time, &inputs);
    }
    gallery.people().len()
}

#[test]
fn nobody_is_ruled_out_whom_a_comparison_would_not() {
    let settings = GallerySettings {
        similarity_threshold: 0.4,
        lost_steps: 20,
        missing_steps: 2,
        ..GallerySettings::default()
    };
    // A hall with all cameras on the map, with none, with some; rooms with a camera each.
    assert!(run(simulated(Layout::Ring, 25), settings.clone(), |_| true) > 5);
    assert!(run(simulated(Layout::Ring, 12), settings.clone(), |_| false) > 5);
    assert!(
        run(
            simulated(Layout::Ring, 25),
            settings.clone(),
            |camera| camera != 1
        ) > 5
    );
    assert!(run(simulated(Layout::Corridor, 25), settings, |_| true) > 5);
    for compared in &COMPARED {
        let compared = compared.load(Ordering::Relaxed);
        assert!(compared > 1_000, "only {compared} pieces of evidence");
    }
}
