//! Crops chosen from made-up truths.

use super::*;

fn person(frame: u64, id: i64, tlwh: [f64; 4]) -> TruthBox {
    TruthBox {
        frame,
        id,
        tlwh,
        consider: true,
        class: PEDESTRIAN,
        visibility: None,
    }
}

/// People 1 to 3 side by side in 60 frames; person 3 only in the first 20.
fn truth() -> Vec<TruthBox> {
    let mut truth = Vec::new();
    for frame in 1..=60 {
        for id in 1..=3 {
            if id < 3 || frame <= 20 {
                truth.push(person(frame, id, [50.0 * id as f64, 10.0, 20.0, 60.0]));
            }
        }
    }
    truth
}

fn settings() -> Settings {
    Settings {
        cameras: 3,
        gap: 5,
        ..Settings::default()
    }
}

fn count(crops: &[PlannedCrop], folder: &str, id: i64) -> usize {
    let own = crops
        .iter()
        .filter(|c| c.folder == folder && c.name.id == id);
    own.count()
}

// By hand: 3 spans of 20 frames, 4 crops each, one of them the query; person 3 is in one span
// only and cannot be looked for elsewhere.
#[test]
fn every_camera_has_its_query_and_its_gallery() {
    let crops = plan(&truth(), 300, 100, &settings()).unwrap();
    for id in [1, 2] {
        assert_eq!(
            (count(&crops, QUERY, id), count(&crops, GALLERY, id)),
            (3, 9)
        );
    }
    assert_eq!((count(&crops, QUERY, 3), count(&crops, GALLERY, 3)), (0, 4));
    let frames = |camera: u32| -> Vec<u64> {
        let own = crops
            .iter()
            .filter(|c| c.name.id == 1 && c.name.camera == camera);
        own.map(|crop| crop.frame).collect()
    };
    // Middles of 4 parts of frames 1..=20, and of 26..=40 behind the gap.
    assert_eq!(frames(1), [3, 8, 13, 18]);
    assert_eq!(frames(2), [27, 31, 35, 39]);
    let names: BTreeSet<String> = crops.iter().map(PlannedCrop::path).collect();
    assert_eq!(names.len(), crops.len());
    assert!(names.contains("query/0001_c1s1_000013_02.jpg"), "{names:?}");
}

#[test]
fn training_people_are_nowhere_else() {
    let all = Settings {
        train_ids: 1,
        min_visibility: 0.0,
        ..settings()
    };
    let crops = plan(&truth(), 300, 100, &all).unwrap();
    let train: BTreeSet<i64> = crops
        .iter()
        .filter(|crop| crop.folder == TRAIN)
        .map(|crop| crop.name.id)
        .collect();
    assert_eq!(train.len(), 1);
    let others = crops.iter().filter(|crop| crop.folder != TRAIN);
    assert!(others.clone().count() > 0);
    assert!(others.clone().all(|crop| !train.contains(&crop.name.id)));
}

// By hand: a box of 20×60 = 1200.
#[test]
fn whoever_is_nearer_hides_what_is_behind() {
    let own = person(1, 1, [0.0, 0.0, 20.0, 60.0]);
    let near = person(1, 2, [10.0, 30.0, 20.0, 60.0]); // hides 10×30
    let nearer = person(1, 3, [0.0, 30.0, 15.0, 90.0]); // hides 15×30, 5×30 of it again
    let far = person(1, 4, [0.0, 0.0, 20.0, 50.0]);
    let all = [&own, &near, &nearer, &far];
    let seen = |others: &[&TruthBox]| visibility(&own, others, &[], [100, 200]);
    assert!((seen(&all[..1]) - 1.0).abs() < 1e-12);
    assert!((seen(&all[..2]) - (1.0 - 300.0 / 1200.0)).abs() < 1e-12);
    assert!((seen(&all) - (1.0 - 600.0 / 1200.0)).abs() < 1e-12);
    // Half of it inside the frame.
    assert!((visibility(&own, &[], &[], [10, 200]) - 0.5).abs() < 1e-12);
    let stated = TruthBox {
        visibility: Some(0.3),
        ..own
    };
    assert!((visibility(&stated, &all, &[], [100, 200]) - 0.3).abs() < 1e-12);
    assert!(
        visibility(
            &person(1, 1, [-30.0, 0.0, 20.0, 60.0]),
            &[],
            &[],
            [100, 200]
        ) == 0.0
    );
}

// By hand: the thing covers 10×20 of 20×60, unless it stands behind.
#[test]
fn things_in_the_scene_hide_who_is_behind_them() {
    let own = person(1, 1, [0.0, 0.0, 20.0, 60.0]);
    let mut thing = Thing {
        tlwh: [10.0, 10.0, 30.0, 20.0],
        base: 61.0,
    };
    let seen = visibility(&own, &[], &[thing], [100, 200]);
    assert!((seen - (1.0 - 200.0 / 1200.0)).abs() < 1e-12);
    thing.base = 59.0;
    assert!((visibility(&own, &[], &[thing], [100, 200]) - 1.0).abs() < 1e-12);
}

#[test]
fn who_comes_back_is_one_person_unless_both_are_there_at_once() {
    let mut boxes = truth();
    for found in &mut boxes {
        if found.id == 1 && found.frame > 20 {
            found.id = 8;
        }
    }
    let same = |groups: &[&[i64]]| Settings {
        same: groups.iter().map(|group| group.to_vec()).collect(),
        ..settings()
    };
    let crops = plan(&boxes, 300, 100, &same(&[&[1, 8]])).unwrap();
    assert_eq!(crops, plan(&truth(), 300, 100, &settings()).unwrap());
    for (groups, word) in [
        (vec![&[1, 2][..]], "both in frame"),
        (vec![&[1, 8][..], &[8, 2][..]], "twice"),
        (vec![&[1, 99][..]], "no box"),
    ] {
        let error = plan(&boxes, 300, 100, &same(&groups)).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn hidden_small_and_ignored_boxes_are_left_out() {
    let mut boxes = truth();
    for found in &mut boxes {
        match (found.id, found.frame) {
            (1, 1..=20) => found.consider = false,
            (1, 21..=40) => found.tlwh[3] = 20.0,
            (2, 41..) => found.class = 7,
            _ => {}
        }
    }
    let crops = plan(&boxes, 300, 100, &settings()).unwrap();
    assert!(
        crops
            .iter()
            .all(|crop| crop.name.id != 1 || crop.name.camera == 3)
    );
    assert!(
        crops
            .iter()
            .all(|crop| crop.name.id != 2 || crop.name.camera < 3)
    );
    assert_eq!(count(&crops, QUERY, 1), 0);
}

#[test]
fn settings_and_truths_without_a_query_are_refused() {
    let one = Settings {
        cameras: 1,
        ..settings()
    };
    assert!(plan(&truth(), 300, 100, &one).is_err());
    let nan = Settings {
        min_visibility: f64::NAN,
        ..settings()
    };
    assert!(plan(&truth(), 300, 100, &nan).is_err());
    assert!(plan(&[], 300, 100, &settings()).is_err());
    let once: Vec<TruthBox> = truth().into_iter().filter(|b| b.frame <= 3).collect();
    let error = plan(&once, 300, 100, &settings()).unwrap_err().to_string();
    assert!(error.contains("two of the cameras"), "{error}");
}
