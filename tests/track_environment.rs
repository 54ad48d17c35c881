//! `mtmc track --environment` from outside: real pictures, real weights, two cameras of one place.
//!
//! The two cameras are the same video of PETS09-S2L1, calibrated by the truth's own places, so that
//! what must come out is known: in every frame both give everyone the same identity, and the map
//! shows people where the truth has them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mtmc_models::testing::{shared, shared_video};
use tempfile::TempDir;

const FRAMES: u64 = 40;

struct Place {
    folder: TempDir,
    video: PathBuf,
    truth: PathBuf,
}

fn mtmc(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
    command.args(arguments);
    for (name, _) in std::env::vars() {
        // What the caller's environment sets must not reach the tests.
        if ["MTMC_", "REID_", "RTDETR_", "HOMOGRAPHY_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Frame, foot point in the picture and place in metres of every true box.
fn truth(path: &Path) -> Vec<(u64, [f64; 2], [f64; 2])> {
    let mut rows = Vec::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let v: Vec<f64> = line.split(',').map(|v| v.trim().parse().unwrap()).collect();
        rows.push((v[0] as u64, [v[2] + v[4] / 2.0, v[3] + v[5]], [v[7], v[8]]));
    }
    rows
}

/// A folder with two calibrated cameras, converted weights and an environment's file.
fn place() -> Option<Place> {
    let video = shared_video("data/vtest-pets09-s2l1/vtest.avi")?;
    let data = video.parent()?;
    let onnx = shared("weights/deimv2/deimv2_hgnetv2_femto_coco.onnx")?;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let weights = at("femto.safetensors");
    let output = mtmc(&["models", "convert", str(&onnx), "--out", str(&weights)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let truth_file = data.join("gt/gt.txt");
    let mut pairs = String::new();
    for (_, [u, v], [x, y]) in truth(&truth_file).iter().step_by(37) {
        writeln!(pairs, "{u},{v},{x},{y}").unwrap();
    }
    std::fs::write(at("pairs.csv"), pairs).unwrap();
    for camera in ["left", "right"] {
        let output = mtmc(&[
            "calibrate",
            "--camera",
            camera,
            "--pairs",
            str(&at("pairs.csv")),
            "--image-size",
            "768x576",
            "--out",
            str(&at("calibrations")),
        ]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let environment = "id = \"pets\"\n\
        [homography]\ndata_dir = \"calibrations\"\n\
        [[cameras]]\nid = \"left\"\n\
        [[cameras]]\nid = \"right\"\n\
        [[links]]\ncameras = [\"left\", \"right\"]\noverlap = true\n";
    std::fs::write(at("pets.toml"), environment).unwrap();
    Some(Place {
        folder,
        video,
        truth: truth_file,
    })
}

impl Place {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn track(&self, out: &Path, sources: &[String]) -> Output {
        let (environment, weights) = (self.at("pets.toml"), self.at("femto.safetensors"));
        let frames = FRAMES.to_string();
        let mut arguments = vec![
            "track",
            "--environment",
            str(&environment),
            "--weights",
            str(&weights),
            "--video",
            "none",
            "--max-frames",
            &frames,
            "--out",
            str(out),
        ];
        arguments.extend(sources.iter().map(String::as_str));
        mtmc(&arguments)
    }

    fn sources(&self) -> Vec<String> {
        ["left", "right"]
            .map(|camera| format!("{camera}={}", str(&self.video)))
            .to_vec()
    }
}

#[test]
fn two_views_of_one_place_give_everyone_one_identity_and_place() {
    let Some(place) = place() else { return };
    let out = place.at("out");
    let output = place.track(&out, &place.sources());
    assert!(output.status.success(), "{}", text(&output.stderr));

    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let left = read("global/left.txt");
    assert_eq!(left, read("global/right.txt"));
    assert!(left.lines().count() > 80, "{left}");

    // Everyone on the map is where the truth has someone, but for those it does not count.
    let mut people: BTreeMap<u64, Vec<[f64; 2]>> = BTreeMap::new();
    for (frame, _, at) in truth(&place.truth) {
        people.entry(frame).or_default().push(at);
    }
    let (mut near, mut all) = (0, 0);
    for line in read("map.txt").lines() {
        let v: Vec<f64> = line.split(' ').map(|v| v.parse().unwrap()).collect();
        let step = v[0] as u64;
        all += 1;
        let close = people[&step]
            .iter()
            .any(|at| (at[0] - v[2]).hypot(at[1] - v[3]) < 0.75);
        near += usize::from(close);
    }
    assert!(all > 80 && near * 10 >= all * 9, "{near} of {all} near");
    assert!(read("events.jsonl").contains("\"event\":\"new\""));
    assert!(read("map.svg").starts_with("<svg"));
    let line: serde_json::Value =
        serde_json::from_str(read("left.jsonl").lines().last().unwrap()).unwrap();
    let found = line["detection_data"]["detections"].as_array().unwrap();
    assert!(
        found
            .iter()
            .any(|entry| entry["global_id"].is_u64() && entry["map_coords"]["map_x"].is_f64())
    );
}

#[test]
fn wrong_sources_are_told_and_a_broken_calibration_costs_only_the_map() {
    let Some(place) = place() else { return };
    let out = place.at("out");
    let fails = |sources: &[String], part: &str| {
        let output = place.track(&out, sources);
        let told = text(&output.stderr);
        assert!(!output.status.success() && told.contains(part), "{told}");
    };
    fails(&[], "camera `left` has no source");
    fails(&["door=x.mp4".to_string()], "no camera `door`");
    fails(&["x.mp4".to_string()], "CAMERA=SOURCE");

    std::fs::write(place.at("calibrations/right_homography.json"), "{").unwrap();
    let output = place.track(&out, &place.sources());
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("right_homography.json"), "{told}");
    let lines = std::fs::read_to_string(out.join("right.jsonl")).unwrap();
    assert!(!lines.contains("map_x"));
    let lines = std::fs::read_to_string(out.join("left.jsonl")).unwrap();
    assert!(lines.contains("map_x"));
}
