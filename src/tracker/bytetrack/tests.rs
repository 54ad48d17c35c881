//! What must hold of ByteTrack whatever the detections; equality with the reference is tested in
//! `tests/tracker_goldens`.

use proptest::prelude::*;

use super::*;
use crate::tracker::testing::{Noise, Watch, assert_same, frame, ids, person, places};
use crate::tracker::{MAX_DETECTIONS, TrackState};

fn tracker(changes: impl FnOnce(&mut ByteTrackSettings)) -> ByteTrack {
    let mut settings = ByteTrackSettings::default();
    changes(&mut settings);
    ByteTrack::new(settings).unwrap()
}

#[test]
fn a_walker_keeps_its_id_and_gets_a_velocity() {
    let mut tracker = tracker(|_| ());
    for step in 0..30_u8 {
        let x = 10.0 + 3.0 * f32::from(step);
        let other = person(500.0, 50.0, 0.8);
        let tracks = tracker.update(&frame(vec![other, person(x, 50.0, 0.9)]));
        assert_eq!(ids(&tracks), [1, 2]);
        assert_eq!(tracks[1].age, u64::from(step));
        assert_eq!(tracks[1].detection_index, Some(1));
        assert_eq!(
            (tracks[1].state, tracks[1].score),
            (TrackState::Tracked, 0.9)
        );
    }
    let walker = &tracker.kept()[1];
    assert!(
        (walker.velocity[0] - 3.0).abs() < 0.1,
        "{:?}",
        walker.velocity
    );
    assert!(walker.velocity[1].abs() < 0.1, "{:?}", walker.velocity);
    assert!((walker.bbox.x1 - 97.0).abs() < 1.0, "{:?}", walker.bbox);
}

/// Section 3 of the paper: a poor score keeps a track alive and begins none.
#[test]
fn poor_scores_keep_tracks_but_begin_none() {
    let mut tracker = tracker(|_| ());
    tracker.update(&frame(vec![person(10.0, 10.0, 0.9)]));
    let tracks = tracker.update(&frame(vec![
        person(10.0, 10.0, 0.2),
        person(300.0, 10.0, 0.2),
    ]));
    assert_eq!(ids(&tracks), [1]);
    // Above `track_thresh`, below the score that begins a track.
    let tracks = tracker.update(&frame(vec![
        person(10.0, 10.0, 0.2),
        person(300.0, 10.0, 0.55),
    ]));
    assert_eq!(ids(&tracks), [1]);
    assert_eq!(tracker.kept().len(), 1);
    // Neither good nor poor: equal to the threshold, or not above the lower one.
    for score in [0.5, 0.1] {
        assert!(
            tracker
                .update(&frame(vec![person(10.0, 10.0, score)]))
                .is_empty()
        );
    }
}

#[test]
fn after_the_first_frame_a_track_needs_two_detections() {
    let mut tracker = tracker(|_| ());
    assert!(tracker.update(&frame(vec![])).is_empty());
    assert!(
        tracker
            .update(&frame(vec![person(10.0, 10.0, 0.9)]))
            .is_empty()
    );
    assert_eq!(tracker.kept()[0].state, TrackState::Tentative);
    assert!(tracker.update(&frame(vec![])).is_empty());
    assert!(tracker.kept().is_empty());
    assert!(
        tracker
            .update(&frame(vec![person(10.0, 10.0, 0.9)]))
            .is_empty()
    );
    let tracks = tracker.update(&frame(vec![person(10.0, 10.0, 0.9)]));
    assert_eq!(
        ids(&tracks),
        [2],
        "the ID of the removed one is not used again"
    );
}

/// A box that is away for `away` frames and comes back at the same place: its IDs then.
fn after_absence(tracker: &mut ByteTrack, away: usize) -> Vec<u64> {
    for _ in 0..away {
        assert!(tracker.update(&frame(vec![])).is_empty());
    }
    ids(&tracker.update(&frame(vec![person(10.0, 10.0, 0.9)])))
}

#[test]
fn lost_tracks_are_kept_for_the_buffer_and_one_frame() {
    // 20 frames a second: int(20 / 30 * 9) = 6 frames.
    let small = |s: &mut ByteTrackSettings| (s.track_buffer, s.frame_rate) = (9, 20.0);
    for (away, expected) in [(6, vec![1]), (7, vec![1]), (8, vec![])] {
        let mut tracker = tracker(small);
        assert_eq!(tracker.settings().max_frames_lost(), 6);
        tracker.update(&frame(vec![person(10.0, 10.0, 0.9)]));
        assert_eq!(
            after_absence(&mut tracker, away),
            expected,
            "away for {away}"
        );
    }
    // Found after it expired, then lost again: dropped at once, so one frame away is too long.
    let mut tracker = tracker(small);
    tracker.update(&frame(vec![person(10.0, 10.0, 0.9)]));
    assert_eq!(after_absence(&mut tracker, 7), [1]);
    assert!(after_absence(&mut tracker, 1).is_empty());
}

#[test]
fn of_two_tracks_on_one_object_the_older_stays() {
    let mut tracker = tracker(|_| ());
    for _ in 0..5 {
        tracker.update(&frame(vec![
            person(10.0, 10.0, 0.9),
            person(300.0, 10.0, 0.9),
        ]));
    }
    // Two boxes on one object: one takes the track, the other begins one, confirmed next frame.
    for _ in 0..2 {
        tracker.update(&frame(vec![
            person(10.0, 10.0, 0.9),
            person(12.0, 10.0, 0.85),
        ]));
    }
    assert_eq!(tracker.kept().len(), 3);
    // One box again: the track that goes without is lost on top of the other, and dropped.
    let tracks = tracker.update(&frame(vec![person(10.0, 10.0, 0.9)]));
    assert_eq!(ids(&tracks), [1]);
    let lost: Vec<u64> = tracker.kept().iter().skip(1).map(|t| t.track_id).collect();
    assert_eq!(lost, [2], "the younger of the two is gone");
}

#[test]
fn broken_boxes_are_dropped_and_counted() {
    let mut tracker = tracker(|_| ());
    let mut boxes = vec![person(10.0, 10.0, 0.9); 7];
    boxes[0].bbox.x1 = f32::NAN;
    boxes[1].bbox.y2 = f32::INFINITY;
    boxes[2].score = f32::NAN;
    boxes[3].bbox.x2 = 10.0;
    boxes[4].bbox.y2 = 5.0;
    (boxes[5].bbox.x1, boxes[5].bbox.x2) = (f32::MIN, f32::MAX);
    let tracks = tracker.update(&frame(boxes));
    assert_eq!(ids(&tracks), [1]);
    assert_eq!(tracks[0].detection_index, Some(6));
    assert_eq!(tracker.dropped_detections(), 6);
}

#[test]
fn of_too_many_detections_the_best_are_taken() {
    let mut tracker = tracker(|_| ());
    let mut boxes = Vec::new();
    for i in 0..MAX_DETECTIONS + 10 {
        let score = if i < 10 { 0.7 } else { 0.9 };
        boxes.push(person(60.0 * i as f32, 10.0, score));
    }
    let tracks = tracker.update(&frame(boxes));
    assert_eq!(tracks.len(), MAX_DETECTIONS);
    assert_eq!(tracks[0].detection_index, Some(10));
    assert_eq!(tracker.dropped_detections(), 10);
}

#[test]
fn settings_out_of_range_are_named() {
    type Change = fn(&mut ByteTrackSettings);
    let cases: [(&str, Change); 6] = [
        ("track_thresh", |s| s.track_thresh = 1.5),
        ("low_thresh", |s| s.low_thresh = f64::NAN),
        ("match_thresh", |s| s.match_thresh = 1.0),
        ("duplicate_thresh", |s| s.duplicate_thresh = 0.0),
        ("frame_rate", |s| s.frame_rate = 0.0),
        ("track_buffer", |s| s.track_buffer = 1_000_000),
    ];
    for (name, change) in cases {
        let mut settings = ByteTrackSettings::default();
        change(&mut settings);
        let error = ByteTrack::new(settings).unwrap_err();
        assert_eq!(error.setting, name);
        assert!(error.to_string().starts_with(name), "{error}");
    }
}

#[test]
fn noise_leaves_a_bounded_state() {
    let mut noise = Noise(1);
    let mut tracker = tracker(|s| s.track_buffer = 20);
    let mut watch = Watch::default();
    for _ in 0..10_000 {
        let count = noise.below(30);
        let tracks = tracker.update(&frame(noise.boxes(count)));
        watch.look(&tracks, &tracker.kept());
    }
    assert!(watch.latest > 10_000, "noise begins tracks all the time");
    // At most 29 tracks are begun a frame, and none is kept for more than 20 + 1 lost frames.
    assert!(watch.most <= 29 * 22, "{} tracks kept", watch.most);
    for _ in 0..22 {
        tracker.update(&frame(vec![]));
    }
    assert!(tracker.kept().is_empty());
}

#[test]
fn a_restored_tracker_goes_on_as_if_nothing_had_been() {
    let mut noise = Noise(2);
    let mut tracker = tracker(|_| ());
    for _ in 0..50 {
        tracker.update(&frame(noise.boxes(20)));
    }
    let text = serde_json::to_string(&tracker).unwrap();
    let mut restored: ByteTrack = serde_json::from_str(&text).unwrap();
    for _ in 0..50 {
        let next = frame(noise.boxes(20));
        assert_same(&restored.update(&next), &tracker.update(&next));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The order of detections decides which new track gets which number, and nothing else (but
    /// where two solutions of the assignment are equally good, which noise does not give).
    #[test]
    fn the_order_of_detections_decides_numbers_only(seed in any::<u64>()) {
        let mut noise = Noise(seed);
        let (mut straight, mut shuffled) = (tracker(|_| ()), tracker(|_| ()));
        let mut boxes = noise.boxes(15);
        for _ in 0..40 {
            noise.push(&mut boxes);
            let expected = straight.update(&frame(boxes.clone()));
            for i in (1..boxes.len()).rev() {
                boxes.swap(i, noise.below(i as u64 + 1) as usize);
            }
            let found = shuffled.update(&frame(boxes.clone()));
            prop_assert_eq!(places(&found), places(&expected));
        }
    }
}
