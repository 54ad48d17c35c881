//! Identities across cameras and on the map against published tools' figures, and `mtmc eval mtmc`
//! from outside.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mtmc::eval::across::lines::CameraLines;
use mtmc::eval::across::map::{MapMeasured, Places};
use mtmc::eval::across::{Across, Camera};
use mtmc::eval::clear::Rules;
use mtmc::eval::csv::columns;
use mtmc::eval::hota::Hota;
use mtmc::eval::mot::{Benchmark, Boxes, prepare};
use mtmc::eval::report::Measured;
use mtmc_models::testing::shared;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/eval_mtmc");
    folder.join(name)
}

// tests/oracle/eval_mtmc/make_goldens.py made it, with reid_hota 0.3.6, TrackEval 1.3.0 and
// motmetrics 1.4.0.
fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden("expected.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let Some(list) = value.as_array() else {
        return vec![value.as_f64().unwrap()];
    };
    list.iter().map(|number| number.as_f64().unwrap()).collect()
}

fn assert_near(what: &str, ours: &[f64], expected: &Value) {
    let expected = numbers(expected);
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (ours, expected) in ours.iter().zip(expected) {
        let error = (ours - expected).abs() / expected.abs().max(1.0);
        assert!(error <= 1e-6, "{what}: {ours}, expected {expected}");
    }
}

fn cameras(name: &str) -> Vec<Camera> {
    let read =
        |kind: &str| CameraLines::read(&golden(&format!("boxes-{name}-{kind}.txt"))).unwrap();
    let (truth, tracks) = (read("truth"), read("tracks"));
    assert_eq!(truth.cameras.len(), 3);
    let prepared = truth.cameras.iter().map(|(id, boxes)| {
        let found = &tracks.cameras[id];
        Camera::new(&id.to_string(), boxes, found, Benchmark::Mot15, None)
    });
    prepared.collect()
}

/// All of `reid-hota`'s figures; its LocA of no match is 0, HOTA's is 1.
fn assert_reid_hota(what: &str, ours: &Hota, expected: &Value) {
    let reached = ours.true_positives;
    let loc_a = ours.loc_a.iter().zip(reached);
    let loc_a = loc_a.map(|(loc, tp)| if tp > 0.0 { *loc } else { 0.0 });
    for (name, values) in [
        ("TP", ours.true_positives.to_vec()),
        ("FN", ours.false_negatives.to_vec()),
        ("FP", ours.false_positives.to_vec()),
        ("LocA", loc_a.collect()),
        ("HOTA", ours.hota().to_vec()),
        ("AssA", ours.ass_a.to_vec()),
        ("AssRe", ours.ass_re.to_vec()),
        ("AssPr", ours.ass_pr.to_vec()),
        ("DetA", ours.det_a().to_vec()),
        ("OWTA", ours.owta().to_vec()),
        ("IDF1", ours.f1().to_vec()),
    ] {
        assert_near(&format!("{what} {name}"), &values, &expected[name]);
    }
}

#[test]
fn boxes_across_cameras_equal_reid_hota() {
    let expected = expected();
    for name in ["overlap", "corridor"] {
        let expected = &expected["boxes"][name]["reid_hota"];
        let cameras = cameras(name);
        for camera in &cameras {
            let alone = Hota::aligned(&camera.sequence);
            let what = format!("{name} {}", camera.name);
            assert_reid_hota(&what, &alone, &expected["cameras"][&camera.name]);
        }
        let across = Across::of(cameras, Rules::TrackEval);
        assert_reid_hota(name, &across.aligned, &expected["global"]);
    }
}

/// Every figure that TrackEval gives: single numbers and HOTA's curves.
fn assert_trackeval(what: &str, measured: &Measured, expected: &Value) {
    let ours: std::collections::HashMap<String, f64> = columns(measured).into_iter().collect();
    let mut compared = 0;
    for (name, value) in expected.as_object().unwrap() {
        let values = if value.is_array() {
            let steps = (1..=19).map(|step| ours.get(&format!("{name}___{}", step * 5)));
            steps.flatten().copied().collect()
        } else {
            Vec::from_iter(ours.get(name).copied())
        };
        if values.is_empty() {
            // What TrackEval counts under another name than in its CSV.
            continue;
        }
        compared += 1;
        assert_near(&format!("{what} {name}"), &values, value);
    }
    assert!(compared >= 20, "{what}: only {compared} figures");
}

#[test]
fn boxes_across_cameras_equal_trackeval_on_all_pictures() {
    let expected = expected();
    for name in ["overlap", "corridor"] {
        let across = Across::of(cameras(name), Rules::TrackEval);
        assert_trackeval(name, &across.all, &expected["boxes"][name]["trackeval"]);
        assert!(across.handovers.all > 0 && across.handovers.wrong > 0);
    }
}

fn map_case(name: &str) -> Option<(Places, Places)> {
    let truth = match name {
        "cmc1" => shared("data/multicam-cmc/CMC1/GT_WORLD_CENTROID.txt")?,
        _ => golden(&format!("map-{name}-truth.txt")),
    };
    let tracks = golden(&format!("map-{name}-tracks.txt"));
    Some((
        Places::read(&truth).unwrap(),
        Places::read(&tracks).unwrap(),
    ))
}

#[test]
fn places_equal_trackeval_and_motmetrics() {
    let expected = expected();
    for name in ["crowd", "cmc1"] {
        let Some((truth, tracks)) = map_case(name) else {
            return;
        };
        for (distance, expected) in expected["map"][name].as_object().unwrap() {
            let what = format!("{name} at {distance}");
            let limit = distance.parse().unwrap();
            let map = MapMeasured::of(&truth, &tracks, limit, Rules::TrackEval);
            assert_trackeval(&what, &map.measured, &expected["trackeval"]);
            let expected = &expected["motmetrics"];
            let f = map.measured.figures();
            let mut figures = vec![
                ("idf1", f.idf1),
                ("idp", f.idp),
                ("idr", f.idr),
                ("idtp", f.idtp as f64),
                ("idfp", f.idfp as f64),
                ("idfn", f.idfn as f64),
            ];
            if name == "cmc1" {
                // The crowd's pairs that are lost and found part motmetrics' CLEAR from
                // TrackEval's.
                figures.extend([
                    ("mota", f.mota),
                    ("motp", map.mean_distance().unwrap()),
                    ("num_false_positives", f.fp as f64),
                    ("num_misses", f.r#fn as f64),
                    ("num_switches", f.idsw as f64),
                    ("mostly_tracked", f.mt as f64),
                    ("mostly_lost", f.ml as f64),
                ]);
            }
            for (name, ours) in figures {
                assert_near(&format!("{what} {name}"), &[ours], &expected[name]);
            }
        }
    }
}

// ../shared/data/multicam-cmc: a truth is perfect against itself, whatever the format's blank lines.
#[test]
fn truth_on_the_map_is_perfect_against_itself() {
    for sequence in ["CMC1", "CMC2"] {
        let path = format!("data/multicam-cmc/{sequence}/GT_WORLD_CENTROID.txt");
        let Some(path) = shared(&path) else {
            return;
        };
        let truth = Places::read(&path).unwrap();
        let map = MapMeasured::of(&truth, &truth, 0.5, Rules::TrackEval);
        let f = map.measured.figures();
        assert!(f.gt_boxes > 100, "{sequence}: {f:?}");
        assert_eq!((f.hota, f.mota, f.idf1), (1.0, 1.0, 1.0), "{sequence}");
        assert_eq!(map.mean_distance(), Some(0.0));
    }
}

/// A box: camera, frame, identity, grid column.
type Row = (usize, u64, i64, u32);

/// Boxes of a few people in three cameras, on a coarse grid so that many overlap.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0..3_usize, 1..8_u64, 1..5_i64, 0..6_u32);
    let key = row.clone().prop_map(|row| (row.0, row.1, row.2));
    prop::collection::btree_map(key, row, 1..60).prop_map(|rows| {
        rows.into_iter()
            .map(|((camera, frame, id), (.., column))| (camera, frame, id, column))
            .collect()
    })
}

fn boxes(rows: &[Row], camera: usize, name: impl Fn(usize, i64) -> i64) -> Boxes {
    let mut boxes = Boxes::default();
    for &(_, frame, id, column) in rows.iter().filter(|row| row.0 == camera) {
        let tlwh = [f64::from(column) * 8.0, 0.0, 20.0, 40.0];
        boxes.push(frame, name(camera, id), tlwh);
    }
    boxes
}

fn across(truth: &[Row], tracks: &[Row], name: impl Fn(usize, i64) -> i64) -> Across {
    let cameras = (0..3).map(|camera| {
        let (truth, found) = (
            boxes(truth, camera, |_, id| id),
            boxes(tracks, camera, &name),
        );
        Camera::new(
            &camera.to_string(),
            &truth,
            &found,
            Benchmark::Mot15,
            Some(8),
        )
    });
    Across::of(cameras.collect(), Rules::TrackEval)
}

/// Equal but for the order in which sums of fractions are made.
fn assert_same(a: &Measured, b: &Measured) {
    assert_eq!(a.clear, b.clear);
    assert_eq!(a.identity, b.identity);
    for ((name, a), (_, b)) in columns(a).into_iter().zip(columns(b)) {
        assert!((a - b).abs() <= 1e-9, "{name}: {a} {b}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Names of identities mean nothing, as long as they are the same in all cameras.
    #[test]
    fn renamed_identities_measure_the_same(truth in rows(), tracks in rows()) {
        let a = across(&truth, &tracks, |_, id| id);
        let b = across(&truth, &tracks, |_, id| 1000 - 7 * id);
        assert_same(&a.all, &b.all);
        prop_assert_eq!(a.handovers, b.handovers);
        prop_assert!(a.handovers.wrong <= a.handovers.all);
    }

    /// One camera is the single-camera tool, to the last bit; a camera's row is so among others too.
    #[test]
    fn one_camera_is_the_single_camera_tool(truth in rows(), tracks in rows()) {
        let all = across(&truth, &tracks, |_, id| id);
        for camera in 0..3 {
            let (a, b) = (boxes(&truth, camera, |_, id| id), boxes(&tracks, camera, |_, id| id));
            let single = Measured::of(&prepare(&a, &b, Benchmark::Mot15, Some(8)));
            prop_assert_eq!(&all.cameras[camera].1, &single);
            let one = Camera::new("one", &a, &b, Benchmark::Mot15, Some(8));
            let one = Across::of(vec![one], Rules::TrackEval);
            prop_assert_eq!(&one.all, &single);
            prop_assert_eq!(one.handovers.all, 0);
        }
    }

    /// Identities that a camera alone calls otherwise cost across cameras, but not in any camera.
    #[test]
    fn swapped_identities_in_one_camera_cost_across_cameras_alone(truth in rows()) {
        // Everyone is in all cameras at the end, and always apart from each other.
        let mut truth = truth;
        truth.retain(|row| row.1 < 7);
        for row in &mut truth {
            row.3 = row.2 as u32 * 4;
        }
        for camera in 0..3 {
            truth.extend((1..5).map(|id| (camera, 7, id, id as u32 * 4)));
        }
        let right = across(&truth, &truth, |_, id| id);
        let swapped = across(&truth, &truth, |camera, id| if camera == 1 { id % 4 + 1 } else { id });
        for (right, swapped) in right.cameras.iter().zip(&swapped.cameras) {
            assert_same(&right.1, &swapped.1);
            prop_assert_eq!(swapped.1.identity.idf1(), 1.0);
        }
        prop_assert_eq!(right.all.identity.idf1(), 1.0);
        prop_assert!(swapped.all.identity.idf1() < 1.0);
        prop_assert!(swapped.all.figures().assa < right.all.figures().assa);
        prop_assert!(swapped.handovers.wrong > 0);
        prop_assert!(swapped.mota() < right.mota());
    }
}

/// Runs `mtmc eval mtmc`.
fn eval(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
    command.args(["eval", "mtmc"]).args(arguments);
    command.output().unwrap()
}

fn stdout_of(arguments: &[&str]) -> String {
    let output = eval(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

fn error_of(arguments: &[&str]) -> String {
    let output = eval(arguments);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

/// Files by name in a new folder.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn lines_of_all_cameras_are_printed_as_table_json_and_csv() {
    let path = |kind: &str| {
        golden(&format!("boxes-overlap-{kind}.txt"))
            .display()
            .to_string()
    };
    let (gt, tracks) = (path("truth"), path("tracks"));
    let out = tempfile::tempdir().unwrap();
    let csv = out.path().join("all.csv").display().to_string();
    let table = stdout_of(&["--gt", &gt, "--tracks", &tracks, "--csv", &csv]);
    let names: Vec<&str> = table
        .lines()
        .skip(1)
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let notes = ["ACROSS:", "ACROSS:", "MAP:", "MAP:"];
    assert_eq!(
        names,
        [&["1", "2", "5", "ACROSS", "MAP"], &notes[..]].concat(),
        "{table}"
    );
    let csv = std::fs::read_to_string(csv).unwrap();
    assert_eq!(csv.lines().count(), 6, "{csv}");

    let json = stdout_of(&["--gt", &gt, "--tracks", &tracks, "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let across = Across::of(cameras("overlap"), Rules::TrackEval);
    let f = across.all.figures();
    assert_near("hota", &[f.hota], &json["across"]["hota"]);
    assert_near("mota", &[across.mota()], &json["across"]["mota_across"]);
    assert_eq!(json["across"]["wrong_handovers"], across.handovers.wrong);
    assert_eq!(json["cameras"].as_object().unwrap().len(), 3);
    assert_eq!(json["map"]["distance"], 0.5);
    // Places of three cameras are one place: fewer than the boxes.
    assert!(json["map"]["gt_boxes"].as_u64().unwrap() * 2 < f.gt_boxes);

    let one = stdout_of(&["--gt", &gt, "--tracks", &tracks, "--json", "--cameras", "2"]);
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["cameras"]["2"]["hota"], one["across"]["hota"]);
    assert!(one.get("map").is_none());
}

#[test]
fn folders_of_cameras_are_read_in_both_layouts() {
    let (a, b) = (
        "1,1,10,10,20,40,1\n2,1,12,10,20,40,1\n",
        "3,1,10,10,20,40,1\n",
    );
    let other = "3,9,10,10,20,40,1\n";
    let files = folder(&[
        ("plain/a.txt", a),
        ("plain/b.txt", b),
        ("nested/a/gt/gt.txt", a),
        ("nested/b/gt/gt.txt", b),
        ("tracks/a.txt", a),
        ("tracks/b.txt", other),
        ("less/a.txt", a),
        ("more/a.txt", a),
        ("more/b.txt", b),
        ("more/c.txt", b),
    ]);
    let path = |name: &str| files.path().join(name).display().to_string();
    for gt in ["plain", "nested"] {
        let json = stdout_of(&["--gt", &path(gt), "--tracks", &path("tracks"), "--json"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        // By hand: 2 of 3 boxes of the one person are track 1; the handover is wrong.
        assert_near("idf1", &[2.0 / 3.0], &json["across"]["idf1"]);
        assert_near("mota", &[1.0], &json["across"]["mota"]);
        assert_near("mota", &[2.0 / 3.0], &json["across"]["mota_across"]);
        assert_eq!(json["across"]["handovers"], 1);
        assert_eq!(json["cameras"]["b"]["idf1"], 1.0);
        let error = error_of(&["--gt", &path(gt), "--tracks", &path("less")]);
        assert!(error.contains("no tracks of 1 cameras: b.txt"), "{error}");
        let error = error_of(&["--gt", &path(gt), "--tracks", &path("more")]);
        assert!(error.contains("cameras without truth: c"), "{error}");
        stdout_of(&[
            "--gt",
            &path(gt),
            "--tracks",
            &path("less"),
            "--cameras",
            "a",
        ]);
    }
}

#[test]
fn places_alone_are_measured_with_map() {
    let files = folder(&[
        (
            "truth.txt",
            "1 1 -1 -1 -1 -1 -1 1.0 2.0 0.8\n\n2 1 -1 -1 -1 -1 -1 1.5 2.0 0.8\n",
        ),
        ("tracks.txt", "1 4 1.0 2.3\n2 4 1.5 2.9\n"),
        ("nan.txt", "1 4 1.0 2.3\n2 4 nan 2.9\n"),
        ("empty.txt", "\n"),
    ]);
    let path = |name: &str| files.path().join(name).display().to_string();
    let (gt, tracks) = (path("truth.txt"), path("tracks.txt"));
    let measure = |distance: &str| -> Value {
        let text = stdout_of(&[
            "--gt",
            &gt,
            "--tracks",
            &tracks,
            "--map",
            "--json",
            "--distance",
            distance,
        ]);
        serde_json::from_str(&text).unwrap()
    };
    // By hand: the places are 0.3 and 0.9 m apart.
    let json = measure("0.5");
    assert_near("idf1", &[0.5], &json["map"]["idf1"]);
    assert_near("distance", &[0.3], &json["map"]["mean_distance"]);
    assert!(json.get("across").is_none());
    let json = measure("1");
    assert_near("idf1", &[1.0], &json["map"]["idf1"]);
    assert_near("distance", &[0.6], &json["map"]["mean_distance"]);

    let table = stdout_of(&["--gt", &gt, "--tracks", &tracks, "--map"]);
    assert!(
        table.contains("matched up to a distance of 0.5, mean 0.300"),
        "{table}"
    );
    let error = error_of(&["--gt", &gt, "--tracks", &path("nan.txt"), "--map"]);
    assert!(
        error.contains("nan.txt, line 2: column 3: `nan` is not finite"),
        "{error}"
    );
    let error = error_of(&["--gt", &path("empty.txt"), "--tracks", &tracks, "--map"]);
    assert!(error.contains("nothing to measure against"), "{error}");
    let error = error_of(&["--gt", &gt, "--tracks", &tracks, "--map", "--distance", "0"]);
    assert!(error.contains("above 0"), "{error}");
    // A tracker that found nobody is measured all the same.
    let table = stdout_of(&["--gt", &gt, "--tracks", &path("empty.txt"), "--map"]);
    assert!(table.contains("mean none"), "{table}");
    let error = error_of(&["--gt", &path("missing.txt"), "--tracks", &tracks]);
    assert!(error.contains("missing.txt"), "{error}");
    // Places are no boxes.
    let error = error_of(&["--gt", &gt, "--tracks", &tracks]);
    assert!(error.contains("truth.txt, line 1: 10 columns"), "{error}");
}
