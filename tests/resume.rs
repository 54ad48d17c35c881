//! `mtmc track` from outside: killed at any moment and resumed it writes what it would have written
//! without; and its results depend on neither batches nor threads.
//!
//! Two cameras of different frame rates, made-up pictures and weights: what is found means nothing,
//! but trackers, gallery, map and files do real work.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use image::imageops;
use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights};
use mtmc_models::{Description, expected_tensors};
use serde_json::Value;
use tempfile::TempDir;

/// Frames of the two cameras, which last equally long.
const FRAMES: [u32; 2] = [40, 16];

const ENVIRONMENT: &str = r#"
id = "house"

# Boxes of made-up weights get made-up scores; above this there are some ten in each frame.
[tracker]
name = "botsort"
track_high_thresh = 0.36
track_low_thresh = 0.35
new_track_thresh = 0.36
proximity_thresh = 0.95
report_tentative = false

[association]
least_views = 1
confirm_steps = 1

[[cameras]]
id = "hall"
source = "hall"
frame_rate = 10
zones = [{ x_min = 0.6, to = ["yard"] }]

[[cameras]]
id = "yard"
source = "yard"
frame_rate = 4
start_offset = 0.3
zones = [{ x_max = 0.4, to = ["hall"] }]

[[links]]
cameras = ["hall", "yard"]
travel_seconds = [0.1, 3]
"#;

/// Both cameras look down from 73 units above the floor, the horizon 32 pixels above the picture: the
/// made-up boxes, two pixels high, are of people's size then.
const CALIBRATION: &str = r#"{
  "image_size": [96, 64],
  "matrix": [[73, 0, -3504], [0, 0, 3650], [0, 1, 32]],
  "calibration_points": {
    "image_points": [[0, 0], [96, 0], [96, 64], [0, 64]],
    "map_points": [[-109.5, 114.0625], [109.5, 114.0625], [36.5, 38.020833], [-36.5, 38.020833]]
  }
}"#;

/// A folder with pictures, weights, calibrations and an environment.
struct Material {
    folder: TempDir,
}

fn save_weights(path: &Path, description: &Description) {
    let made_up = made_up_weights(description, &expected_tensors(description).unwrap());
    let metadata = serde_json::to_string(description).unwrap();
    let metadata = [("mtmc".to_string(), metadata)].into_iter().collect();
    safetensors::serialize_to_file(made_up.tensors(), Some(metadata), path).unwrap();
}

impl Material {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let detector = Description {
            classes: ["person", "bicycle"].map(str::to_string).to_vec(),
            input_height: 320,
            input_width: 320,
            ..made_up_description("deimv2-atto")
        };
        save_weights(&path("atto.safetensors"), &detector);
        let encoder = Description {
            classes: Vec::new(),
            input_height: 64,
            input_width: 32,
            feature_dim: Some(512),
            ..made_up_description("osnet-x0.25")
        };
        save_weights(&path("osnet.safetensors"), &encoder);
        std::fs::create_dir(path("homography_data")).unwrap();
        for (seed, (name, frames)) in (1..).zip(["hall", "yard"].into_iter().zip(FRAMES)) {
            std::fs::create_dir(path(name)).unwrap();
            // A camera that turns slowly.
            let scene = made_up_image(240, 64, seed);
            for number in 1..=frames {
                let picture = imageops::crop_imm(&scene, number * 3, 0, 96, 64).to_image();
                let file = path(name).join(format!("{number:06}.png"));
                picture.save(file).unwrap();
            }
            let file = format!("homography_data/{name}_homography.json");
            std::fs::write(path(&file), CALIBRATION).unwrap();
        }
        std::fs::write(path("house.toml"), ENVIRONMENT).unwrap();
        Self { folder }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `mtmc track` with results in the folder `out`.
    fn track(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
        command.current_dir(self.folder.path()).arg("track");
        command.args(["--environment", "house.toml", "--out", out, "--quiet"]);
        command.args([
            "--weights",
            "atto.safetensors",
            "--reid",
            "osnet.safetensors",
        ]);
        command.args(["--classes", "person", "--confidence", "0.36"]);
        command.args(["--score-floor", "0.35"]);
        command.args(["--camera-motion", "sparse_flow"]);
        command.env("MTMC_VIDEO", "none").args(more);
        for name in [
            "RTDETR_CONFIDENCE_THRESHOLD",
            "MTMC_SNAPSHOT_EVERY",
            "MTMC_RESUME",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// The same, run to its end.
    fn run(&self, out: &str, more: &[&str]) -> Output {
        self.track(out, more).output().unwrap()
    }

    /// Runs it and gives its results.
    fn results(&self, out: &str, more: &[&str]) -> Results {
        let output = self.run(out, more);
        assert!(output.status.success(), "{}", text(&output.stderr));
        Results::of(&self.out(out))
    }

    /// Runs it until a snapshot was written and a little longer, and kills it. False if it ended
    /// by itself.
    fn run_and_kill(&self, out: &str, more: &[&str], wait: Duration) -> bool {
        let state = self.out(out).join("state.mtmc");
        let before = changed(&state);
        let mut child = self
            .track(out, more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while changed(&state) == before {
            if ended(&mut child) {
                return false;
            }
            assert!(started.elapsed() < Duration::from_secs(120), "no snapshot");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(wait);
        if ended(&mut child) {
            return false;
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        true
    }
}

fn ended(child: &mut Child) -> bool {
    let status = child.try_wait().unwrap();
    if let Some(status) = status {
        assert!(status.success(), "{status}");
    }
    status.is_some()
}

fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a run wrote, but for times that it took.
#[derive(Debug, PartialEq)]
struct Results {
    files: Vec<(&'static str, String)>,
    cameras: Value,
}

impl Results {
    fn of(out: &Path) -> Self {
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        let names = [
            "hall.txt",
            "yard.txt",
            "global/hall.txt",
            "global/yard.txt",
            "events.jsonl",
            "map.txt",
            "map.svg",
        ];
        let mut files: Vec<_> = names.map(|name| (name, read(name))).to_vec();
        for name in ["hall.jsonl", "yard.jsonl"] {
            files.push((name, without_times(&read(name))));
        }
        let summary: Value = serde_json::from_str(&read("summary.json")).unwrap();
        assert_eq!(summary["interrupted"], false);
        assert_eq!(summary["frames"], u64::from(FRAMES[0] + FRAMES[1]));
        for left in [
            "state.mtmc",
            "state.mtmc.1",
            "hall.txt.part",
            "map.txt.part",
        ] {
            assert!(!out.join(left).exists(), "{left} stays behind");
        }
        Self {
            files,
            cameras: summary["cameras"].clone(),
        }
    }

    fn file(&self, name: &str) -> &str {
        let found = self.files.iter().find(|(known, _)| *known == name);
        &found.unwrap().1
    }

    /// Names the first file that differs.
    fn assert_same(&self, other: &Self, what: &str) {
        for ((name, mine), (_, theirs)) in self.files.iter().zip(&other.files) {
            let lines = mine.lines().zip(theirs.lines());
            let at = lines.take_while(|(a, b)| a == b).count();
            assert!(
                mine == theirs,
                "{what}: {name} differs from line {}",
                at + 1
            );
        }
        assert_eq!(self.cameras, other.cameras, "{what}");
    }
}

fn without_times(lines: &str) -> String {
    let mut kept = String::new();
    for line in lines.lines() {
        let (before, after) = line.split_once("\"processing_time_ms\":").unwrap();
        kept.push_str(before);
        kept.push_str(after.trim_start_matches(|c: char| c.is_ascii_digit() || "+-.e".contains(c)));
        kept.push('\n');
    }
    kept
}

/// The made-up world must have something in it, or the tests here would compare nothing.
fn assert_rich(results: &Results) {
    let lines = |name| results.file(name).lines().count();
    assert!(lines("hall.txt") > 200, "{} lines", lines("hall.txt"));
    assert!(lines("global/hall.txt") > 100);
    assert!(lines("global/yard.txt") > 20);
    assert!(lines("map.txt") > 150);
    assert!(lines("events.jsonl") > 80);
    assert_eq!(lines("hall.jsonl"), FRAMES[0] as usize);
    assert!(results.cameras[0]["embeddings"].as_u64().unwrap() > 20);
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let material = Material::new();
    let whole = material.results("whole", &[]);
    assert_rich(&whole);
    // Waits after a snapshot by a generator (Knuth's MMIX), so that kills hit all kinds of moments.
    let mut random = 20_260_721_u64;
    for (every, batch) in [("3", "1"), ("1", "4")] {
        let out = format!("killed-{every}");
        let mut kills = 0;
        let more = ["--snapshot-every", every, "--batch", batch, "--resume"];
        for _ in 0..5 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let wait = Duration::from_millis((random >> 33) % 60);
            if !material.run_and_kill(&out, &more, wait) {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 2, "the run was over too soon");
        if material.out(&out).join("state.mtmc").exists() {
            let output = material.run(&out, &more);
            assert!(output.status.success(), "{}", text(&output.stderr));
            assert!(text(&output.stderr).contains("resuming after "));
        }
        whole.assert_same(&Results::of(&material.out(&out)), &out);
    }
}

#[test]
fn a_damaged_snapshot_is_told_and_the_one_before_taken() {
    let material = Material::new();
    let whole = material.results("whole", &[]);
    let more = ["--snapshot-every", "2", "--resume"];
    let out = material.out("damaged");
    let [newest, older] = ["state.mtmc", "state.mtmc.1"].map(|name| out.join(name));
    while !older.exists() {
        assert!(material.run_and_kill("damaged", &more, Duration::ZERO));
    }
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&newest, &bytes).unwrap();

    let other = material.run("damaged", &["--resume", "--nms", "0.9"]);
    assert_eq!(other.status.code(), Some(1));
    let told = text(&other.stderr);
    assert!(told.contains("other settings (--nms"), "{told}");

    let output = material.run("damaged", &more);
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("state.mtmc is damaged"), "{told}");
    assert!(told.contains("state.mtmc.1"), "{told}");
    whole.assert_same(&Results::of(&out), "resumed from the older one");
}

#[test]
fn snapshots_that_are_all_damaged_are_an_error() {
    let material = Material::new();
    std::fs::create_dir(material.out("lost")).unwrap();
    for name in ["state.mtmc", "state.mtmc.1"] {
        std::fs::write(material.out("lost").join(name), "mtmcSNAP nonsense").unwrap();
    }
    let output = material.run("lost", &["--resume"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("start it anew without --resume"), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    // Without it they are of a run that is over.
    material.results("lost", &[]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_is_resumed_where_it_stopped() {
    let material = Material::new();
    let whole = material.results("whole", &["--video", "mp4"]);
    let more = ["--snapshot-every", "1000", "--video", "mp4"];
    let mut child = material
        .track("stopped", &more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Its first results are written while it goes on.
    let begun = material.out("stopped").join("hall.txt.part");
    while !begun.exists() {
        assert!(!ended(&mut child));
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(400));
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let lines = std::fs::read_to_string(material.out("stopped").join("hall.jsonl")).unwrap();
    let done = lines.lines().count();
    assert!(done > 0 && done < FRAMES[0] as usize, "{done} frames");

    let output = material.run("stopped", &["--resume", "--video", "mp4"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    whole.assert_same(&Results::of(&material.out("stopped")), "resumed");
    let video = |name: &str| material.out("stopped").join(name).metadata().unwrap().len();
    assert!(video("hall.mp4") > 100);
    assert!(video(&format!("hall-from-{}.mp4", done + 1)) > 100);
}

#[test]
fn results_depend_on_neither_batch_nor_threads() {
    let material = Material::new();
    let expected = material.results("expected", &["--batch", "1", "--threads", "1"]);
    assert_rich(&expected);
    for (batch, threads) in [("1", "2"), ("3", "1"), ("3", "2"), ("8", "1"), ("8", "2")] {
        let out = format!("b{batch}t{threads}");
        let results = material.results(&out, &["--batch", batch, "--threads", threads]);
        expected.assert_same(&results, &out);
    }
}

#[test]
fn what_cannot_be_resumed_is_told() {
    let material = Material::new();
    let output = material.run(
        "none",
        &["yard=rtsp://camera.example/1", "--snapshot-every", "9"],
    );
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains("rtsp://camera.example/1: a live source"),
        "{told}"
    );
    let output = material.run("none", &["--resume", "--max-frames", "2"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("nothing to resume"));
}
