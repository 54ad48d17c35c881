//! What must hold of BoT-SORT whatever the detections; equality with the reference is tested in
//! `tests/tracker_goldens`.

use proptest::prelude::*;

use super::*;
use crate::tracker::testing::{
    Noise, Watch, assert_same, embedding, frame, ids, moved, person, places,
};
use crate::tracker::{Detection, TrackState};

fn tracker(changes: impl FnOnce(&mut BotSortSettings)) -> BotSort {
    let mut settings = BotSortSettings::default();
    changes(&mut settings);
    BotSort::new(settings).unwrap()
}

fn shift(x: f64, y: f64) -> CameraMotion {
    CameraMotion {
        rows: [[1.0, 0.0, x], [0.0, 1.0, y]],
    }
}

#[test]
fn what_it_needs_follows_its_settings() {
    let needs = tracker(|s| s.track_high_thresh = 0.5).needs();
    assert_eq!(needs.embeddings_above, Some(0.5));
    assert!(needs.camera_motion);
    let needs = tracker(|s| (s.appearance, s.camera_motion) = (false, false)).needs();
    assert_eq!(needs, Needs::default());
}

#[test]
fn settings_out_of_range_are_named() {
    type Change = fn(&mut BotSortSettings);
    let cases: [(&str, Change); 8] = [
        ("track_high_thresh", |s| s.track_high_thresh = 1.5),
        ("new_track_thresh", |s| s.new_track_thresh = f64::NAN),
        ("appearance_thresh", |s| s.appearance_thresh = -0.1),
        ("appearance_keep", |s| s.appearance_keep = 1.1),
        ("match_thresh", |s| s.match_thresh = 1.0),
        ("proximity_thresh", |s| s.proximity_thresh = 1.0),
        ("frame_rate", |s| s.frame_rate = 0.0),
        ("track_buffer", |s| s.track_buffer = 1_000_000),
    ];
    for (name, change) in cases {
        let mut settings = BotSortSettings::default();
        change(&mut settings);
        assert_eq!(BotSort::new(settings).unwrap_err().setting, name);
    }
}

/// As in the reference's `update`, which returns also what is not activated.
#[test]
fn a_track_is_reported_from_its_first_frame_on_or_when_confirmed() {
    for report_tentative in [true, false] {
        let mut tracker = tracker(|s| s.report_tentative = report_tentative);
        tracker.update(&frame(vec![]));
        let tracks = tracker.update(&frame(vec![person(10.0, 10.0, 0.9)]));
        let states: Vec<TrackState> = tracks.iter().map(|t| t.state).collect();
        let expected = [TrackState::Tentative];
        assert_eq!(states, expected[..usize::from(report_tentative)]);
        let tracks = tracker.update(&frame(vec![person(10.0, 10.0, 0.9)]));
        assert_eq!(ids(&tracks), [1]);
        assert_eq!(tracks[0].state, TrackState::Tracked);
    }
}

/// Two people stand side by side and change places at once: boxes say nothing happened, looks say
/// they crossed. With looks the IDs go along.
#[test]
fn looks_decide_between_boxes_that_overlap() {
    let (red, blue) = (embedding(&[1.0, 0.1]), embedding(&[0.1, 1.0]));
    let both = |first: &_, second: &_| FrameDetections {
        detections: vec![person(100.0, 50.0, 0.9), person(110.0, 50.0, 0.9)],
        embeddings: vec![Option::clone(first), Option::clone(second)],
        ..FrameDetections::default()
    };
    for (appearance, expected, matches) in [(true, [2, 1], 1), (false, [1, 2], 0)] {
        let mut tracker = tracker(|s| s.appearance = appearance);
        tracker.update(&both(&red, &blue));
        let mut tracks = tracker.update(&both(&blue, &red));
        tracks.sort_by_key(|t| t.detection_index);
        assert_eq!(ids(&tracks), expected);
        for track in &tracks {
            assert_eq!(track.appearance.matches, matches);
            assert_eq!(track.appearance.embeddings, 2 * u64::from(appearance));
        }
    }
}

/// Looks find nobody who is not where motion says: (41 - 27) / (41 + 27) of the two
/// boxes, 0.21, overlap here, less than the half that looks are asked from on.
#[test]
fn looks_count_only_close_by() {
    let red = embedding(&[1.0, 0.1]);
    let at = |x: f32| FrameDetections {
        detections: vec![person(x, 50.0, 0.9)],
        embeddings: vec![red.clone()],
        ..FrameDetections::default()
    };
    let mut near = tracker(|s| s.proximity_thresh = 0.8);
    let mut far = tracker(|_| ());
    for tracker in [&mut near, &mut far] {
        tracker.update(&at(100.0));
    }
    // The box's cost is 1 - 0.21 · 0.9, above the limit of 0.8.
    assert_eq!(ids(&near.update(&at(127.0))), [1]);
    assert_eq!(ids(&far.update(&at(127.0))), [2]);
    assert_eq!(near.kept()[0].appearance.matches, 1);
}

#[test]
fn detections_without_usable_embedding_are_matched_by_their_boxes() {
    let mut tracker = tracker(|_| ());
    let with = |embeddings| FrameDetections {
        detections: vec![person(10.0, 10.0, 0.9), person(300.0, 10.0, 0.9)],
        embeddings,
        ..FrameDetections::default()
    };
    let two = embedding(&[1.0, 0.0]);
    let frames = [
        (vec![two.clone(), None], 0),
        (vec![None, None], 0),
        (vec![], 0),
        // Fewer and more than there are detections.
        (vec![two.clone()], 0),
        (vec![two.clone(), two.clone(), two.clone()], 0),
        // Of another size than the tracks'.
        (vec![embedding(&[1.0, 0.0, 0.0]), two.clone()], 1),
        (vec![embedding(&[1.0]), embedding(&[1.0])], 3),
    ];
    for (embeddings, dropped) in frames {
        let tracks = tracker.update(&with(embeddings));
        assert_eq!(ids(&tracks), [1, 2]);
        assert_eq!(tracker.dropped_embeddings(), dropped);
    }
    let taken: Vec<u64> = tracker
        .kept()
        .iter()
        .map(|t| t.appearance.embeddings)
        .collect();
    assert_eq!(taken, [3, 2]);
    assert_eq!(tracker.dropped_detections(), 0);
}

/// Poor detections are half hidden; their looks would spoil the mean.
#[test]
fn looks_of_poor_detections_are_not_taken_in() {
    let mut tracker = tracker(|_| ());
    for score in [0.9, 0.3, 0.9] {
        tracker.update(&FrameDetections {
            detections: vec![person(10.0, 10.0, score)],
            embeddings: vec![embedding(&[1.0, 0.0])],
            ..FrameDetections::default()
        });
    }
    assert_eq!(tracker.kept()[0].appearance.embeddings, 2);
}

/// A camera that jumps by 60 pixels a frame, forth and back: boxes of 40 pixels never overlap
/// where they were.
#[test]
fn a_known_motion_of_the_camera_keeps_ids() {
    let seen = |step: i32| {
        let x = 200.0 + 60.0 * (step % 2) as f32;
        let mut frame = frame(vec![person(x, 50.0, 0.9), person(x + 400.0, 50.0, 0.9)]);
        let jump = if step % 2 == 1 { 60.0 } else { -60.0 };
        frame.camera_motion = (step > 0).then_some(shift(jump, 0.0));
        frame
    };
    let mut following = tracker(|_| ());
    let mut blind = tracker(|s| s.camera_motion = false);
    for step in 0..20 {
        let tracks = following.update(&seen(step));
        assert_eq!(ids(&tracks), [1, 2]);
        assert!(
            tracks[0].velocity[0].abs() < 1e-3,
            "{:?}",
            tracks[0].velocity
        );
        blind.update(&seen(step));
    }
    assert!(blind.kept().iter().any(|t| t.track_id > 2));
}

#[test]
fn motions_that_cannot_be_are_ignored() {
    let rows = |rows| CameraMotion { rows };
    let wild = [
        shift(f64::NAN, 0.0),
        shift(0.0, f64::INFINITY),
        shift(1e9, 0.0),
        rows([[0.0; 3]; 2]),
        // A mirror.
        rows([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        rows([[100.0, 0.0, 0.0], [0.0, 0.01, 0.0]]),
        rows([[f64::NAN; 3]; 2]),
    ];
    let mut tracker = tracker(|_| ());
    for motion in [CameraMotion::STILL].into_iter().chain(wild) {
        let mut frame = frame(vec![person(10.0, 10.0, 0.9)]);
        frame.camera_motion = Some(motion);
        let tracks = tracker.update(&frame);
        assert_eq!(ids(&tracks), [1], "{motion:?}");
        assert!((tracks[0].bbox.x1 - 10.0).abs() < 1e-3, "{motion:?}");
    }
}

/// A frame of noise: boxes, embeddings of which some are missing or of a wrong size, and a shaky
/// camera that is at times unknown.
fn noisy(noise: &mut Noise, boxes: Vec<Detection>) -> FrameDetections {
    let mut frame = frame(boxes);
    for _ in 0..frame.detections.len() {
        let embedding = match noise.below(20) {
            0 => None,
            1 => noise.embedding(5),
            _ => noise.embedding(8),
        };
        frame.embeddings.push(embedding);
    }
    let (x, y) = (
        noise.below(400) as f64 / 20.0,
        noise.below(400) as f64 / 20.0,
    );
    let turn = noise.below(200) as f64 / 1000.0 - 0.1;
    let rows = [[1.0, -turn, x - 10.0], [turn, 1.0, y - 10.0]];
    frame.camera_motion = (noise.below(5) > 0).then_some(CameraMotion { rows });
    frame
}

#[test]
fn noise_leaves_a_bounded_state() {
    let mut noise = Noise(1);
    let mut tracker = tracker(|s| s.track_buffer = 20);
    let mut watch = Watch::default();
    for _ in 0..10_000 {
        let count = noise.below(30);
        let boxes = noise.boxes(count);
        let tracks = tracker.update(&noisy(&mut noise, boxes));
        watch.look(&tracks, &tracker.kept());
    }
    assert!(watch.latest > 10_000, "noise begins tracks all the time");
    // At most 29 tracks are begun a frame, and none is kept for more than 20 + 1 lost frames.
    assert!(watch.most <= 29 * 22, "{} tracks kept", watch.most);
    assert!(tracker.dropped_embeddings() > 0);
    for _ in 0..22 {
        tracker.update(&frame(vec![]));
    }
    assert!(tracker.kept().is_empty());
}

#[test]
fn a_restored_tracker_goes_on_as_if_nothing_had_been() {
    let mut noise = Noise(2);
    let mut tracker = tracker(|_| ());
    let mut boxes = noise.boxes(60);
    let looks: Vec<_> = (0..60).map(|_| noise.embedding(8)).collect();
    let mut next = |noise: &mut Noise| {
        noise.push(&mut boxes);
        let mut frame = noisy(noise, boxes.clone());
        frame.embeddings.clone_from(&looks);
        frame
    };
    for _ in 0..50 {
        tracker.update(&next(&mut noise));
    }
    let text = serde_json::to_string(&tracker).unwrap();
    let mut restored: BotSort = serde_json::from_str(&text).unwrap();
    for _ in 0..50 {
        let frame = next(&mut noise);
        assert_same(&restored.update(&frame), &tracker.update(&frame));
    }
    let matches: u64 = tracker.kept().iter().map(|t| t.appearance.matches).sum();
    assert!(matches > 100, "looks decide {matches} matches");
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
        let looks: Vec<_> = (0..15).map(|_| noise.embedding(8)).collect();
        for _ in 0..40 {
            noise.push(&mut boxes);
            let mut frame = noisy(&mut noise, boxes.clone());
            frame.embeddings.clone_from(&looks);
            let expected = straight.update(&frame);
            for i in (1..boxes.len()).rev() {
                let j = noise.below(i as u64 + 1) as usize;
                frame.detections.swap(i, j);
                frame.embeddings.swap(i, j);
            }
            let found = shuffled.update(&frame);
            prop_assert_eq!(places(&found), places(&expected));
        }
    }

    /// A scene seen by a camera that wanders, with the way told, has the IDs of the scene seen by
    /// one that stands still, and its boxes, moved.
    #[test]
    fn a_scene_moved_with_its_camera_has_the_same_ids(seed in any::<u64>()) {
        let mut noise = Noise(seed);
        let (mut still, mut wandering) = (tracker(|_| ()), tracker(|_| ()));
        let mut boxes = noise.boxes(25);
        let (mut x, mut y) = (0.0_f32, 0.0_f32);
        for _ in 0..60 {
            noise.push(&mut boxes);
            let (dx, dy) = (noise.below(200) as f32 - 100.0, noise.below(100) as f32 - 50.0);
            (x, y) = (x + dx, y + dy);
            let mut there = boxes.clone();
            for detection in &mut there {
                detection.bbox = moved(&detection.bbox, x, y);
            }
            let mut there = frame(there);
            there.camera_motion = Some(shift(f64::from(dx), f64::from(dy)));
            let expected = still.update(&frame(boxes.clone()));
            let found = wandering.update(&there);
            prop_assert_eq!(ids(&found), ids(&expected));
            for (found, expected) in found.iter().zip(&expected) {
                let back = moved(&found.bbox, -x, -y);
                prop_assert!((back.x1 - expected.bbox.x1).abs() < 0.1);
                prop_assert!((back.y2 - expected.bbox.y2).abs() < 0.1);
            }
        }
    }
}
