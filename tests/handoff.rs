//! The life of handoffs, from outside. Frames have 1000×600 pixels and boxes 100×200, so that shares
//! of boxes in zones can be read off: a box that begins at x = 650 lies half in a zone from 0.7 on.

#![allow(clippy::unwrap_used)]

use mtmc::config::Environment;
use mtmc::gallery::Link;
use mtmc::geometry::BBox;
use mtmc::handoff::{
    ExpiryReason, HandoffDetector, HandoffEvent, HandoffObservation, HandoffRules, HandoffSettings,
    Zone,
};
use proptest::prelude::*;

const OVERLAP: Link = Link {
    overlap: true,
    seconds: [0.0, 0.0],
};

const CORRIDOR: Link = Link {
    overlap: false,
    seconds: [5.0, 60.0],
};

/// Three cameras in a row: 0 overlaps with 1, a corridor leads from 1 to 2. All are left to the
/// right, 1 and 2 to the left too.
fn row(settings: HandoffSettings) -> HandoffDetector {
    let left = |to| Zone {
        to: vec![to],
        ..Zone::new([0.0, 0.3], [0.0, 1.0])
    };
    let right = |to| Zone {
        to: vec![to],
        ..Zone::new([0.7, 1.0], [0.0, 1.0])
    };
    let zones = vec![vec![right(1)], vec![left(0), right(2)], vec![left(1)]];
    let links = [
        (0, 1, OVERLAP),
        (1, 0, OVERLAP),
        (1, 2, CORRIDOR),
        (2, 1, CORRIDOR),
    ];
    HandoffDetector::new(settings, HandoffRules::new(zones, links).unwrap()).unwrap()
}

fn default_row() -> HandoffDetector {
    row(HandoffSettings::default())
}

/// Person `global_id` on track `track_id` of a camera, its box beginning at `x`.
fn seen(
    camera: usize,
    track_id: u64,
    global_id: impl Into<Option<u64>>,
    x: f32,
) -> HandoffObservation {
    HandoffObservation {
        camera,
        track_id,
        global_id: global_id.into(),
        bbox: BBox::from_tlwh(x, 200.0, 100.0, 200.0),
        frame_size: [1000.0, 600.0],
        confidence: 0.9,
    }
}

fn triggered(event: &HandoffEvent) -> (u64, Option<u64>, usize, u64, usize, Vec<usize>) {
    match event.clone() {
        HandoffEvent::Triggered {
            handoff_id,
            global_id,
            from,
            track_id,
            zone,
            candidates,
            ..
        } => (handoff_id, global_id, from, track_id, zone, candidates),
        other => panic!("{other:?}"),
    }
}

fn expired(event: &HandoffEvent) -> (u64, f64, ExpiryReason) {
    match *event {
        HandoffEvent::Expired {
            handoff_id,
            seconds,
            reason,
            ..
        } => (handoff_id, seconds, reason),
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn half_a_box_in_the_zone_is_enough_and_once_per_stay() {
    let mut detector = default_row();
    assert!(detector.step(0.0, &[seen(0, 1, 7, 500.0)]).is_empty());
    assert!(detector.step(0.1, &[seen(0, 1, 7, 649.0)]).is_empty());
    let events = detector.step(0.2, &[seen(0, 1, 7, 650.0)]);
    assert_eq!(events.len(), 1);
    assert_eq!(triggered(&events[0]), (1, Some(7), 0, 1, 0, vec![1]));
    assert!(detector.is_leaving(0, 1) && !detector.is_leaving(1, 1));
    // Back and forth over the border is one stay: it ends below a quarter of the box.
    for (time, x) in [(0.3, 640.0), (0.4, 660.0), (0.5, 626.0), (0.6, 900.0)] {
        assert!(detector.step(time, &[seen(0, 1, 7, x)]).is_empty(), "{x}");
    }
    let events = detector.step(0.7, &[seen(0, 1, 7, 624.0)]);
    assert_eq!(expired(&events[0]), (1, 0.0, ExpiryReason::Returned));
    assert_eq!(detector.pending_count(), 0);
    // The next stay is a new one.
    let events = detector.step(0.8, &[seen(0, 1, 7, 700.0)]);
    assert_eq!(triggered(&events[0]).0, 2);
}

#[test]
fn overlapping_cameras_complete_at_once() {
    let mut detector = default_row();
    detector.step(0.0, &[seen(0, 1, 7, 500.0)]);
    detector.step(0.5, &[seen(0, 1, 7, 700.0)]);
    let events = detector.step(1.0, &[seen(0, 1, 7, 800.0), seen(1, 4, 7, 10.0)]);
    let expected = HandoffEvent::Completed {
        handoff_id: 1,
        time: 1.0,
        global_id: 7,
        from: 0,
        to: 1,
        track_id: 4,
        seconds: 0.0,
        confidence: 0.9,
    };
    assert_eq!(events, [expected]);
    // While both go on nothing more happens; nor when the first track ends, though in the zone.
    assert!(
        detector
            .step(1.5, &[seen(0, 1, 7, 850.0), seen(1, 4, 7, 60.0)])
            .is_empty()
    );
    assert!(detector.step(2.5, &[seen(1, 4, 7, 150.0)]).is_empty());
    assert!(detector.step(3.5, &[seen(1, 4, 7, 250.0)]).is_empty());
    assert_eq!(detector.travel_times().count(0, 1), 0);
}

#[test]
fn who_was_in_both_before_completes_in_the_same_step() {
    let mut detector = default_row();
    detector.step(0.0, &[seen(0, 1, 7, 500.0), seen(1, 4, 7, 400.0)]);
    let events = detector.step(0.5, &[seen(0, 1, 7, 700.0), seen(1, 4, 7, 450.0)]);
    assert_eq!(events.len(), 2);
    assert_eq!(triggered(&events[0]).0, 1);
    assert!(matches!(
        events[1],
        HandoffEvent::Completed {
            seconds: 0.0,
            to: 1,
            ..
        }
    ));
}

#[test]
fn a_way_that_no_camera_sees_takes_its_time() {
    let mut detector = default_row();
    detector.step(0.0, &[seen(1, 1, 7, 500.0)]);
    detector.step(1.0, &[seen(1, 1, 7, 700.0)]);
    detector.step(2.0, &[seen(1, 1, 7, 890.0)]);
    for time in 3..20 {
        assert!(detector.step(f64::from(time), &[]).is_empty(), "{time}");
    }
    // From the last sighting at 2 s to the first at 20 s; who it is, is known only at 21 s.
    assert!(detector.step(20.0, &[seen(2, 9, None, 50.0)]).is_empty());
    let fits = detector.travel_times().plausibility(1, 2, 18.0);
    let events = detector.step(21.0, &[seen(2, 9, 7, 120.0)]);
    let HandoffEvent::Completed {
        seconds,
        confidence,
        to,
        track_id,
        ..
    } = events[0]
    else {
        panic!("{events:?}")
    };
    assert_eq!((to, track_id, seconds), (2, 9, 18.0));
    // ln 19 against the middle of ln 6 and ln 61, in sixths of their distance.
    let deviation = (61.0_f64.ln() - 6.0_f64.ln()) / 6.0;
    let apart = (19.0_f64.ln() - (61.0_f64.ln() + 6.0_f64.ln()) / 2.0) / deviation;
    assert!((fits - (-0.5 * apart * apart).exp()).abs() < 1e-12);
    assert!((confidence - 0.9 * fits).abs() < 1e-12);
    assert_eq!(detector.travel_times().count(1, 2), 1);
    assert_eq!(detector.travel_times().count(2, 1), 0);
}

#[test]
fn a_poor_sighting_teaches_nothing() {
    let mut detector = default_row();
    detector.step(0.0, &[seen(1, 1, 7, 500.0)]);
    detector.step(1.0, &[seen(1, 1, 7, 700.0)]);
    let unsure = HandoffObservation {
        confidence: 0.4,
        ..seen(2, 9, 7, 50.0)
    };
    let events = detector.step(20.0, &[unsure]);
    assert!(
        matches!(events[0], HandoffEvent::Completed { .. }),
        "{events:?}"
    );
    assert_eq!(detector.travel_times().count(1, 2), 0);
}

#[test]
fn nobody_is_at_both_ends_of_a_corridor_at_once() {
    let mut detector = default_row();
    // Someone at camera 2 is taken for the person who is still at camera 1: no arrival.
    detector.step(0.0, &[seen(1, 1, 7, 500.0), seen(2, 9, 7, 500.0)]);
    for step in 1..40 {
        let time = f64::from(step) * 0.5;
        let events = detector.step(time, &[seen(1, 1, 7, 800.0), seen(2, 9, 7, 500.0)]);
        assert!(
            events
                .iter()
                .all(|event| matches!(event, HandoffEvent::Triggered { .. }))
        );
    }
    // A track that begins after the person left is one.
    let events = detector.step(30.0, &[seen(2, 10, 7, 100.0)]);
    assert!(
        matches!(events[0], HandoffEvent::Completed { seconds: 10.5, .. }),
        "{events:?}"
    );
}

#[test]
fn handoffs_expire_after_the_longest_way() {
    let mut detector = default_row();
    for (camera, wait) in [(0, 30.0), (1, 60.0)] {
        let start = f64::from(camera as u8) * 100.0;
        detector.step(start, &[seen(camera, 1, 7, 500.0)]);
        let events = detector.step(start + 1.0, &[seen(camera, 1, 7, 800.0)]);
        assert_eq!(triggered(&events[0]).2, camera);
        assert!(detector.step(start + 1.0 + wait, &[]).is_empty());
        let events = detector.step(start + 1.5 + wait, &[]);
        assert_eq!(expired(&events[0]).1, wait + 0.5);
        assert_eq!(expired(&events[0]).2, ExpiryReason::Timeout);
        assert_eq!(detector.pending_count(), 0);
    }
    // Who stays in the zone is not timed out.
    detector.step(200.0, &[seen(0, 2, 8, 500.0)]);
    detector.step(201.0, &[seen(0, 2, 8, 800.0)]);
    for minute in 1..10 {
        let time = 201.0 + 60.0 * f64::from(minute);
        assert!(detector.step(time, &[seen(0, 2, 8, 800.0)]).is_empty());
    }
}

#[test]
fn who_begins_in_a_zone_leaves_only_by_ending_there() {
    let mut detector = default_row();
    detector.step(0.0, &[seen(0, 1, 7, 800.0), seen(0, 2, 8, 850.0)]);
    // 7 came through the zone and walks on, 8 turns round in it.
    assert!(
        detector
            .step(0.5, &[seen(0, 1, 7, 600.0), seen(0, 2, 8, 800.0)])
            .is_empty()
    );
    assert!(
        detector
            .step(1.0, &[seen(0, 1, 7, 400.0), seen(0, 2, 8, 890.0)])
            .is_empty()
    );
    assert!(detector.step(2.0, &[seen(0, 1, 7, 300.0)]).is_empty());
    let events = detector.step(2.1, &[seen(0, 1, 7, 300.0)]);
    assert_eq!(triggered(&events[0]), (1, Some(8), 0, 2, 0, vec![1]));
    // It ended at 1 s, and is seen elsewhere since 3 s.
    let events = detector.step(3.0, &[seen(0, 1, 7, 300.0), seen(1, 5, 8, 20.0)]);
    assert!(
        matches!(events[0], HandoffEvent::Completed { seconds: 2.0, .. }),
        "{events:?}"
    );
    // 7 ends in the middle of the picture: nothing.
    assert!(detector.step(10.0, &[seen(1, 5, 8, 500.0)]).is_empty());
    assert_eq!(detector.track_count(), 1);
}

#[test]
fn a_broken_track_is_still_the_same_handoff() {
    let mut detector = default_row();
    detector.step(0.0, &[seen(1, 1, 7, 500.0)]);
    assert_eq!(detector.step(1.0, &[seen(1, 1, 7, 750.0)]).len(), 1);
    // Track 1 breaks off, 2 goes on with it; first its identity is not known.
    assert!(detector.step(1.5, &[seen(1, 2, None, 800.0)]).is_empty());
    assert!(detector.step(2.0, &[seen(1, 2, 7, 850.0)]).is_empty());
    assert!(detector.is_leaving(1, 2) && !detector.is_leaving(1, 1));
    for time in 3..8 {
        assert!(detector.step(f64::from(time), &[]).is_empty());
    }
    let events = detector.step(10.0, &[seen(2, 1, 7, 20.0)]);
    assert!(matches!(
        events[0],
        HandoffEvent::Completed {
            handoff_id: 1,
            seconds: 8.0,
            ..
        }
    ));
    // Broken after the handoff was completed: no second one.
    let mut detector = default_row();
    detector.step(0.0, &[seen(0, 1, 7, 500.0)]);
    detector.step(1.0, &[seen(0, 1, 7, 750.0), seen(1, 1, 7, 20.0)]);
    assert!(
        detector
            .step(1.5, &[seen(0, 2, 7, 800.0), seen(1, 1, 7, 50.0)])
            .is_empty()
    );
    for time in 3..8 {
        let events = detector.step(f64::from(time), &[seen(1, 1, 7, 500.0)]);
        assert!(events.is_empty(), "{events:?}");
    }
}

#[test]
fn identities_may_come_late_and_may_be_merged() {
    let mut detector = default_row();
    detector.step(0.0, &[seen(0, 1, None, 500.0)]);
    let events = detector.step(0.5, &[seen(0, 1, None, 700.0)]);
    assert_eq!(triggered(&events[0]).1, None);
    assert!(detector.step(0.6, &[seen(0, 1, 7, 720.0)]).is_empty());
    detector.merge(7, 3);
    let events = detector.step(5.0, &[seen(1, 1, 3, 20.0)]);
    assert!(
        matches!(events[0], HandoffEvent::Completed { global_id: 3, .. }),
        "{events:?}"
    );
}

#[test]
fn switched_off_nothing_happens() {
    let settings = HandoffSettings {
        enabled: false,
        ..HandoffSettings::default()
    };
    let mut detector = row(settings);
    detector.step(0.0, &[seen(0, 1, 7, 500.0)]);
    assert!(detector.step(0.5, &[seen(0, 1, 7, 700.0)]).is_empty());
    assert_eq!((detector.track_count(), detector.pending_count()), (0, 0));
    let bbox = seen(0, 1, 7, 700.0).bbox;
    assert!(detector.leads_to(0, &bbox, [1000.0, 600.0]).is_empty());
    assert_eq!(default_row().leads_to(0, &bbox, [1000.0, 600.0]), [1]);
}

#[test]
fn foreign_numbers_are_left_out() {
    let mut detector = default_row();
    let far = seen(0, 2, 8, 5000.0);
    let nan = seen(0, 3, 9, f32::NAN);
    let nowhere = seen(5, 1, 7, 500.0);
    let flat = HandoffObservation {
        frame_size: [0.0, 600.0],
        ..seen(0, 4, 7, 500.0)
    };
    let unsure = HandoffObservation {
        confidence: f64::NAN,
        ..seen(0, 1, 7, 500.0)
    };
    assert!(
        detector
            .step(f64::NAN, &[far, nan, nowhere, flat, unsure, unsure])
            .is_empty()
    );
    assert_eq!((detector.track_count(), detector.ignored()), (1, 5));
    // Time never goes back.
    let events = detector.step(5.0, &[seen(0, 1, 7, 700.0)]);
    assert_eq!(events.len(), 1);
    let events = detector.step(2.0, &[seen(0, 1, 7, 100.0)]);
    assert!(
        matches!(events[0], HandoffEvent::Expired { time: 5.0, .. }),
        "{events:?}"
    );
}

#[test]
fn a_million_sightings_leave_no_more_than_the_capacity() {
    let capacity = 500;
    let mut detector = row(HandoffSettings {
        capacity,
        expire_seconds: 1e6,
        ..HandoffSettings::default()
    });
    let mut crowded = 0;
    let mut largest = 0;
    for step in 0..2_500_u64 {
        // 400 new tracks a step, of 400 new people, half of whom go into a zone.
        let time = step as f64 * 0.1;
        let x = if step % 2 == 0 { 500.0 } else { 800.0 };
        let first = step / 2 * 400;
        let crowd: Vec<_> = (first..first + 400).map(|id| seen(0, id, id, x)).collect();
        for event in detector.step(time, &crowd) {
            if let HandoffEvent::Expired { reason, .. } = event {
                assert_eq!(reason, ExpiryReason::Crowded);
                crowded += 1;
            }
        }
        assert!(detector.pending_count() <= capacity && detector.track_count() <= capacity);
        if step % 250 == 249 {
            largest = largest.max(serde_json::to_string(&detector).unwrap().len());
        }
    }
    assert_eq!(crowded, 2_500 / 2 * 400 - capacity);
    assert!(largest < 300_000, "{largest} bytes of state");
}

#[test]
fn the_standard_environment_hands_over_along_the_row() {
    let mut detector = Environment::standard().handoff_detector().unwrap();
    let mut completed = Vec::new();
    // One person walks through all four pictures, each camera beginning where the last one ends.
    for step in 0..400_u16 {
        let mut observations = Vec::new();
        for camera in 0..4_u16 {
            let x = f32::from(step) * 10.0 - f32::from(camera) * 800.0;
            if (0.0..=900.0).contains(&x) {
                observations.push(seen(usize::from(camera), 1, 7, x));
            }
        }
        for event in detector.step(f64::from(step) * 0.1, &observations) {
            if let HandoffEvent::Completed { from, to, .. } = event {
                completed.push((from, to));
            }
        }
    }
    assert_eq!(completed, [(0, 1), (1, 2), (2, 3)]);
}

/// What happens in a made-up world: people who wander, of whom each camera sees a stretch.
fn world(seeds: &[u8]) -> Vec<Vec<HandoffObservation>> {
    let mut steps = Vec::new();
    let mut places: Vec<f32> = (0..6_u8).map(|person| f32::from(person) * 400.0).collect();
    for (step, seed) in seeds.iter().enumerate() {
        let mut observations = Vec::new();
        for (person, place) in places.iter_mut().enumerate() {
            let stride = f32::from((seed >> person) & 1) * 260.0 - 110.0;
            *place = (*place + stride).clamp(-200.0, 2_900.0);
            for camera in 0..3_u8 {
                let x = *place - f32::from(camera) * 900.0;
                let hidden = (usize::from(*seed) + person * 7 + step) % 11 == 0;
                if (0.0..=900.0).contains(&x) && !hidden {
                    let track = (person + 10 * (step / 20)) as u64;
                    let known = (seed % 5 != 0).then_some(person as u64);
                    observations.push(seen(usize::from(camera), track, known, x));
                }
            }
        }
        steps.push(observations);
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_order_of_cameras_does_not_matter(seeds in prop::collection::vec(any::<u8>(), 1..120), turn in 0..20_usize) {
        let (mut one, mut other) = (default_row(), default_row());
        for (step, observations) in world(&seeds).iter().enumerate() {
            let mut turned = observations.clone();
            turned.reverse();
            let by = turn % turned.len().max(1);
            turned.rotate_left(by);
            let time = step as f64 * 0.7;
            prop_assert_eq!(one.step(time, observations), other.step(time, &turned));
        }
        prop_assert_eq!(one, other);
    }

    #[test]
    fn every_handoff_has_one_life(seeds in prop::collection::vec(any::<u8>(), 1..200)) {
        let mut detector = default_row();
        let mut open = std::collections::BTreeMap::new();
        let mut last = 0;
        for (step, observations) in world(&seeds).iter().enumerate() {
            for event in detector.step(step as f64 * 0.7, observations) {
                let id = event.handoff_id();
                match event {
                    HandoffEvent::Triggered { candidates, .. } => {
                        prop_assert_eq!(id, last + 1);
                        last = id;
                        open.insert(id, candidates);
                    }
                    HandoffEvent::Completed { to, seconds, confidence, .. } => {
                        let candidates = open.remove(&id);
                        prop_assert!(candidates.is_some_and(|all| all.contains(&to)));
                        prop_assert!(seconds >= 0.0 && (0.0..=1.0).contains(&confidence));
                    }
                    HandoffEvent::Expired { seconds, .. } => {
                        prop_assert!(open.remove(&id).is_some() && seconds >= 0.0);
                    }
                }
            }
            prop_assert_eq!(detector.pending_count(), open.len());
        }
    }

    // A detector that was written and read back in the middle goes on as one that was not.
    #[test]
    fn a_snapshot_goes_on_as_if_nothing_happened(seeds in prop::collection::vec(any::<u8>(), 2..120)) {
        let mut detector = default_row();
        let mut copy = detector.clone();
        let steps = world(&seeds);
        for (step, observations) in steps.iter().enumerate() {
            let time = step as f64 * 0.7;
            if step % 7 == 3 {
                let text = serde_json::to_string(&copy).unwrap();
                copy = serde_json::from_str(&text).unwrap();
            }
            prop_assert_eq!(detector.step(time, observations), copy.step(time, observations));
        }
        prop_assert_eq!(detector, copy);
    }
}
