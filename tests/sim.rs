//! The simulator against its own settings: what is asked for is what comes out.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use mtmc::homography::{CameraView, MapPoint};
use mtmc::sim::{Layout, Preset, SimSettings, Simulation, Step};
use mtmc_models::BBox;

/// Small vectors, so that tests are quick.
fn settings(layout: Layout, people: usize, seconds: f64) -> SimSettings {
    let mut settings = SimSettings {
        layout,
        people,
        seconds,
        seed: 11,
        ..SimSettings::preset(Preset::Medium)
    };
    settings.looks.dim = 64;
    settings.looks.variety = 16;
    settings
}

fn run(settings: &SimSettings) -> Vec<Step> {
    Simulation::new(settings.clone()).unwrap().collect()
}

fn places(step: &Step) -> BTreeMap<u64, MapPoint> {
    step.people.iter().copied().collect()
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let settings = settings(Layout::Grid, 60, 5.0);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| run(&settings))
    };
    let one = on(1);
    assert_eq!(one.len(), 50);
    assert!(one == on(4), "4 threads");
    let other = SimSettings {
        seed: 12,
        ..settings.clone()
    };
    assert!(one != run(&other), "the seed decides");
}

// The camera's projection is the oracle: without noise, the middle of a box's bottom is where the
// person stands, and its top is as high as the head.
#[test]
fn without_noise_boxes_stand_where_people_do() {
    for layout in [Layout::Ring, Layout::Corridor, Layout::Campus, Layout::Grid] {
        let settings = settings(layout, 30, 6.0).without_noise();
        let simulation = Simulation::new(settings).unwrap();
        let views: Vec<CameraView> = simulation.views().to_vec();
        let mut boxes = 0;
        for step in simulation {
            let places = places(&step);
            for (camera, view) in step.cameras.iter().zip(&views) {
                for truth in &camera.truth_boxes {
                    let place = places[&truth.id];
                    let foot = CameraView::foot_point(&truth.bbox);
                    let image = view.to_image(place).unwrap();
                    let pixels = (foot.x - image.x).hypot(foot.y - image.y);
                    assert!(pixels < 1.0, "{layout:?}: {pixels} px");
                    let found = view.to_map(foot).unwrap();
                    let metres = (found.x - place.x).hypot(found.y - place.y);
                    assert!(metres < 0.01, "{layout:?}: {metres} m");
                    let tallest = view.head(place, 2.0).unwrap().y as f32;
                    let smallest = view.head(place, 1.45).unwrap().y as f32;
                    assert!((tallest..=smallest).contains(&truth.bbox.y1));
                    boxes += 1;
                }
                // Everyone of whom anything shows is detected, once and nobody else.
                let seen = camera.truth_boxes.iter().filter(|t| t.visibility > 0.0);
                let seen: BTreeSet<u64> = seen.map(|t| t.id).collect();
                let found: Vec<u64> = camera.truth.iter().map(|who| who.unwrap()).collect();
                assert_eq!(found.len(), seen.len());
                assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), seen);
            }
        }
        assert!(boxes > 500, "{layout:?}: {boxes} boxes");
    }
}

/// Whether a whole box is in a frame of 1920×1080.
fn is_inside(bbox: &BBox) -> bool {
    bbox.x1 >= 0.0 && bbox.y1 >= 0.0 && bbox.x2 <= 1920.0 && bbox.y2 <= 1080.0
}

#[test]
fn misses_and_false_alarms_are_as_many_as_asked_for() {
    let mut settings = settings(Layout::Ring, 12, 150.0);
    settings.looks.dim = 0;
    settings.detector.small_miss_rate = 0.0;
    settings.detector.miss_rate = 0.2;
    settings.detector.false_alarms = 0.8;
    let (mut full, mut missed, mut in_a_row) = (0_u32, 0_u32, 0_u32);
    let (mut frames, mut false_alarms) = (0_u32, 0_u32);
    let mut before: BTreeMap<(usize, u64), bool> = BTreeMap::new();
    for step in Simulation::new(settings.clone()).unwrap() {
        for (index, camera) in step.cameras.iter().enumerate() {
            assert!(camera.embeddings.is_empty());
            frames += 1;
            false_alarms += camera.truth.iter().filter(|who| who.is_none()).count() as u32;
            for truth in camera.truth_boxes.iter().filter(|t| t.visibility == 1.0) {
                let miss = !camera.truth.contains(&Some(truth.id));
                full += 1;
                missed += u32::from(miss);
                let last = before.insert((index, truth.id), miss);
                in_a_row += u32::from(miss && last == Some(true));
            }
        }
    }
    let rate = f64::from(missed) / f64::from(full);
    assert!(
        full > 10_000 && (rate - 0.2).abs() < 0.02,
        "{rate} of {full}"
    );
    // Half of the noise lasts: after a miss, another one is likelier than 0.2.
    let again = f64::from(in_a_row) / f64::from(missed);
    assert!((0.3..0.8).contains(&again), "{again}");
    let mean = f64::from(false_alarms) / f64::from(frames);
    // A box of which nothing is in the picture is not reported.
    assert!((mean - 0.8).abs() < 0.12, "{mean} a frame");
}

#[test]
fn boxes_scatter_as_asked_for() {
    let mut settings = settings(Layout::Ring, 10, 60.0);
    settings.looks.dim = 0;
    settings.detector.box_noise = 0.04;
    settings.detector.stride = 0.0;
    let (mut count, mut squares) = (0.0, [0.0_f64; 4]);
    for step in run(&settings) {
        for camera in &step.cameras {
            let truths: BTreeMap<u64, BBox> = camera
                .truth_boxes
                .iter()
                .filter(|t| t.visibility == 1.0 && is_inside(&t.bbox))
                .map(|t| (t.id, t.bbox))
                .collect();
            for (detection, who) in camera.detections.iter().zip(&camera.truth) {
                let Some(truth) = who.as_ref().and_then(|id| truths.get(id)) else {
                    continue;
                };
                let found = &detection.bbox;
                let errors = [
                    (found.x1 - truth.x1) / truth.width(),
                    (found.y1 - truth.y1) / truth.height(),
                    (found.x2 - truth.x2) / truth.width(),
                    (found.y2 - truth.y2) / truth.height(),
                ];
                for (sum, error) in squares.iter_mut().zip(errors) {
                    *sum += f64::from(error * error);
                }
                count += 1.0;
            }
        }
    }
    for sum in squares {
        let deviation = (sum / count).sqrt();
        assert!((deviation - 0.04).abs() < 0.006, "{deviation}");
    }
}

#[test]
fn scores_tell_who_is_easily_seen() {
    let settings = settings(Layout::Ring, 30, 30.0);
    let mut scores: [Vec<f32>; 3] = Default::default();
    for step in run(&settings) {
        for camera in &step.cameras {
            for (detection, who) in camera.detections.iter().zip(&camera.truth) {
                let truth = camera.truth_boxes.iter().find(|t| Some(t.id) == *who);
                let kind = match truth {
                    Some(t) if t.visibility > 0.95 => 0,
                    Some(t) if t.visibility < 0.5 => 1,
                    Some(_) => continue,
                    None => 2,
                };
                scores[kind].push(detection.score);
            }
        }
    }
    let [full, hidden, nobody] =
        scores.map(|scores| scores.iter().sum::<f32>() / scores.len() as f32);
    assert!(
        full > hidden + 0.1 && hidden > nobody,
        "{full} {hidden} {nobody}"
    );
    assert!((full - 0.82).abs() < 0.05, "{full}");
}

#[test]
fn the_nearer_hides_the_farther() {
    let settings = settings(Layout::Ring, 40, 10.0);
    let simulation = Simulation::new(settings).unwrap();
    let cameras = simulation.cameras().to_vec();
    let (mut hidden, mut by_nobody) = (0, 0);
    for step in simulation {
        let places = places(&step);
        for (camera, step) in cameras.iter().zip(&step.cameras) {
            for truth in &step.truth_boxes {
                let inside = truth.bbox.clamp_to(1920.0, 1080.0).area() / truth.bbox.area();
                assert!(truth.visibility <= inside + 1e-3, "{truth:?}");
                if truth.visibility > inside - 1e-3 {
                    continue;
                }
                hidden += 1;
                let distance = camera.distance(places[&truth.id]);
                let in_front = step.truth_boxes.iter().any(|other| {
                    camera.distance(places[&other.id]) < distance
                        && other.bbox.iou(&truth.bbox) > 0.0
                });
                by_nobody += u32::from(!in_front);
            }
        }
    }
    assert!(hidden > 300, "{hidden}");
    // Some are hidden by people at the edge, too little of whom shows to be in the truth.
    assert!(by_nobody * 50 < hidden, "{by_nobody} of {hidden}");
}

// Expected: what the settings ask for; white noise and misses as in use, people in full view.
#[test]
fn looks_are_as_similar_as_asked_for() {
    let mut settings = settings(Layout::Ring, 30, 20.0);
    settings.frame_rate = 0.5;
    settings.looks.dim = 256;
    settings.looks.variety = 32;
    let looks = settings.looks.clone();
    // Sum and count: same person and camera, other camera, other person, both other.
    let mut sums = [(0.0, 0.0); 4];
    let mut seen = Vec::new();
    for step in run(&settings) {
        for (index, camera) in step.cameras.iter().enumerate() {
            for ((who, vector), detection) in camera
                .truth
                .iter()
                .zip(&camera.embeddings)
                .zip(&camera.detections)
            {
                let norm: f32 = vector.as_slice().iter().map(|v| v * v).sum();
                assert!((norm - 1.0).abs() < 1e-4 && detection.bbox.is_finite());
                let whole = |id: &u64| {
                    let truth = camera.truth_boxes.iter().find(|t| t.id == *id);
                    truth.is_some_and(|t| t.visibility == 1.0)
                };
                if let Some(id) = who.filter(whole) {
                    seen.push((id, index, step.time, vector.clone()));
                }
            }
        }
    }
    for (first, (id, camera, time, vector)) in seen.iter().enumerate() {
        for (other_id, other_camera, other_time, other) in &seen[..first] {
            let kind = usize::from(id != other_id) * 2 + usize::from(camera != other_camera);
            // Postures seconds apart are independent.
            if kind > 0 || (time - other_time).abs() >= 4.0 {
                sums[kind].0 += f64::from(vector.cosine(other));
                sums[kind].1 += 1.0;
            }
        }
    }
    let expected = [
        looks.same_camera,
        looks.other_camera,
        looks.different_same_camera,
        looks.different,
    ];
    for ((sum, count), expected) in sums.into_iter().zip(expected) {
        let mean = sum / count;
        assert!(
            count > 100.0 && (mean - expected).abs() < 0.03,
            "{mean} {expected} {count}"
        );
    }
}

#[test]
fn cameras_of_a_corridor_share_nobody_and_links_hold() {
    let mut settings = settings(Layout::Corridor, 25, 240.0);
    settings.frame_rate = 5.0;
    settings.looks.dim = 0;
    let simulation = Simulation::new(settings).unwrap();
    let links = simulation.links();
    assert!(links.iter().all(|link| !link.overlap), "{links:?}");
    let linked: BTreeSet<(usize, usize)> = links.iter().map(|l| (l.from, l.to)).collect();
    let chain = BTreeSet::from([(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]);
    assert!(linked.is_superset(&chain), "{linked:?}");
    // Beyond the next room one gets only close by its camera, along the wall, and later.
    let least = |from: usize, to: usize| {
        let link = links.iter().find(|l| (l.from, l.to) == (from, to));
        link.unwrap().seconds[0]
    };
    assert!(least(0, 1) > 3.0 && least(0, 2) > least(0, 1) + 3.0);
    let mut last: BTreeMap<u64, (usize, f64)> = BTreeMap::new();
    let mut there: BTreeSet<u64> = BTreeSet::new();
    let mut ways = 0;
    for step in simulation {
        // Who went out may be anywhere next.
        let now: BTreeSet<u64> = step.people.iter().map(|person| person.0).collect();
        last.retain(|id, _| now.contains(id) && there.contains(id));
        there = now;
        let mut in_step = BTreeSet::new();
        for (camera, seen) in step.cameras.iter().enumerate() {
            for truth in &seen.truth_boxes {
                assert!(in_step.insert(truth.id), "in two cameras at once");
                let before = last.insert(truth.id, (camera, step.time));
                let Some((from, left)) = before.filter(|(from, _)| *from != camera) else {
                    continue;
                };
                let link = links.iter().find(|l| (l.from, l.to) == (from, camera));
                let [least, most] = link.unwrap().seconds;
                let seconds = step.time - left;
                assert!(
                    (least..=most).contains(&seconds),
                    "{seconds} of {least}..{most}"
                );
                ways += 1;
            }
        }
    }
    assert!(ways >= 15, "{ways}");
}

#[test]
fn the_campus_is_the_chain_of_the_requirement() {
    let settings = settings(Layout::Campus, 40, 60.0);
    let simulation = Simulation::new(settings).unwrap();
    let ids: Vec<&str> = simulation.cameras().iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, ["c09", "c12", "c13", "c16"]);
    let links = simulation.links();
    let overlap = |from: usize, to: usize| {
        let link = links.iter().find(|l| (l.from, l.to) == (from, to));
        link.is_some_and(|link| link.overlap)
    };
    assert!(overlap(0, 1) && overlap(2, 3) && !overlap(0, 2) && !overlap(0, 3));
    // Who walks east leaves c09 at the right and is in c12 at the left.
    let mut in_both = 0;
    for step in simulation {
        let [first, second, ..] = step.cameras.as_slice() else {
            panic!("four cameras");
        };
        for truth in &first.truth_boxes {
            if let Some(other) = second.truth_boxes.iter().find(|t| t.id == truth.id) {
                assert!(truth.bbox.center().0 > other.bbox.center().0);
                in_both += 1;
            }
        }
    }
    assert!(in_both > 100, "{in_both}");
}

#[test]
fn people_come_back_as_who_they_were() {
    let mut settings = settings(Layout::Ring, 20, 400.0);
    settings.frame_rate = 1.0;
    settings.looks.dim = 0;
    let mut visits: BTreeMap<u64, u32> = BTreeMap::new();
    let mut before: BTreeSet<u64> = BTreeSet::new();
    for step in run(&settings) {
        let now: BTreeSet<u64> = step.people.iter().map(|person| person.0).collect();
        assert_eq!(now.len(), step.people.len(), "each once");
        assert!(now.len() <= 20);
        for id in now.difference(&before) {
            *visits.entry(*id).or_default() += 1;
        }
        before = now;
    }
    let back = visits.values().filter(|&&count| count > 1).count();
    assert!(
        visits.len() > 20 && back > 8,
        "{} people, {back} came back",
        visits.len()
    );
}
