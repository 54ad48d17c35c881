//! `mtmc eval track` and `mtmc tune` from outside: on made-up pictures with made-up weights, where
//! what is found means nothing but all around it is the real thing, and on MOT17's detections.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights, shared};
use mtmc_models::{Description, expected_tensors};
use serde_json::Value;
use tempfile::TempDir;

fn mtmc(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
    command.args(arguments);
    // What the caller's environment sets must not reach the tests.
    for (name, _) in std::env::vars() {
        if ["MTMC_", "RTDETR_", "REID_"]
            .iter()
            .any(|p| name.starts_with(p))
        {
            command.env_remove(name);
        }
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    mtmc(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json_of(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn save_weights(path: &Path, description: &Description) {
    let made_up = made_up_weights(description, &expected_tensors(description).unwrap());
    let metadata = serde_json::to_string(description).unwrap();
    let metadata = [("mtmc".to_string(), metadata)].into_iter().collect();
    safetensors::serialize_to_file(made_up.tensors(), Some(metadata), path).unwrap();
}

/// A benchmark of one sequence, with pictures, and weights for the smallest networks.
struct Material {
    folder: TempDir,
}

const FRAMES: u32 = 6;

impl Material {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sequence = folder.path().join("data/lobby");
        std::fs::create_dir_all(sequence.join("gt")).unwrap();
        std::fs::create_dir(sequence.join("img1")).unwrap();
        let mut truth = String::new();
        for number in 1..=FRAMES {
            let picture = made_up_image(96, 64, number);
            let name = format!("img1/{number:06}.png");
            picture.save(sequence.join(name)).unwrap();
            truth.push_str(&format!("{number},1,10,10,20,40,1,1,1\n"));
        }
        std::fs::write(sequence.join("gt/gt.txt"), truth).unwrap();
        let info = format!(
            "[Sequence]\nname=lobby\nimDir=img1\nframeRate=30\nseqLength={FRAMES}\nimWidth=96\n\
             imHeight=64\nimExt=.png\n"
        );
        std::fs::write(sequence.join("seqinfo.ini"), info).unwrap();
        let detector = Description {
            classes: ["person", "bicycle"].map(str::to_string).to_vec(),
            input_height: 320,
            input_width: 320,
            ..made_up_description("deimv2-atto")
        };
        save_weights(&folder.path().join("atto.safetensors"), &detector);
        let encoder = Description {
            classes: Vec::new(),
            input_height: 64,
            input_width: 32,
            feature_dim: Some(512),
            ..made_up_description("osnet-x0.25")
        };
        save_weights(&folder.path().join("osnet.safetensors"), &encoder);
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().unwrap().to_string()
    }

    /// Runs both trackers on what the networks find.
    fn run(&self, more: &[&str]) -> (Value, String) {
        let paths = ["data", "atto.safetensors", "osnet.safetensors", "cache"];
        let [data, detector, encoder, cache] = paths.map(|name| self.path(name));
        let mut arguments = vec![
            "eval",
            "track",
            "--data",
            &data,
            "--weights",
            &detector,
            "--reid",
            &encoder,
            "--cache",
            &cache,
            "--tracker",
            "both",
            "--json",
            "--threads",
            "2",
        ];
        arguments.extend_from_slice(more);
        let output = run(&arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let json = serde_json::from_slice(&output.stdout).unwrap();
        (json, text(&output.stderr))
    }

    /// What is in the cache, by kind of content, and when it was written.
    fn cached(&self) -> BTreeMap<String, (PathBuf, SystemTime)> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(self.path("cache")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let kind = name.split('.').nth(1).unwrap().to_string();
            let written = std::fs::metadata(&path).unwrap().modified().unwrap();
            assert!(
                name.starts_with("lobby.") && name.ends_with(".safetensors"),
                "{name}"
            );
            assert!(
                files.insert(kind, (path.clone(), written)).is_none(),
                "two of a kind"
            );
        }
        files
    }
}

/// Makes a file unreadable as what it is, unnoticed by size and time of change.
fn spoil(path: &Path) {
    let metadata = std::fs::metadata(path).unwrap();
    std::fs::write(path, vec![7; metadata.len() as usize]).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
}

#[test]
fn networks_run_once_whatever_the_settings() {
    let material = Material::new();
    let out = material.path("tracks");
    // Made-up scores lie around a half.
    let low = [
        "--set",
        "bytetrack.track_thresh=0.2",
        "--set",
        "track_high_thresh=0.2",
    ];
    let low = [&low[..], &["--set", "new_track_thresh=0.2"]].concat();
    let (first, _) = material.run(&[&low[..], &["--out", &out]].concat());
    assert_eq!(first["split"], "all");
    let cached = material.cached();
    let kinds: Vec<&str> = cached.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["detections", "embeddings", "motion"]);
    let tracks = std::fs::read_to_string(format!("{out}/botsort/lobby.txt")).unwrap();
    assert!(tracks.lines().count() > 10, "{tracks}");
    let measured = json_of(&[
        "eval",
        "mot",
        "--gt",
        &material.path("data/lobby/gt/gt.txt"),
        "--tracks",
        &format!("{out}/botsort/lobby.txt"),
        "--json",
    ]);
    assert_eq!(measured, first["trackers"]["botsort"]["results"]);

    // From here on no picture can be read: whoever looked at one would find nothing.
    for number in 1..=FRAMES {
        spoil(Path::new(
            &material.path(&format!("data/lobby/img1/{number:06}.png")),
        ));
    }
    let (again, notices) = material.run(&low);
    assert_eq!(first, again);
    assert_eq!(notices, "");
    let (stricter, _) = material.run(&["--set", "match_thresh=0.3"]);
    let boxes = |json: &Value| json["trackers"]["bytetrack"]["results"]["boxes"].as_u64();
    assert!(boxes(&stricter) < boxes(&first), "{stricter}");
    let settings = &stricter["trackers"]["botsort"]["settings"];
    assert_eq!(
        (&settings["name"], &settings["match_thresh"]),
        (&"botsort".into(), &0.3.into())
    );
    assert_eq!(cached, material.cached(), "nothing was written");
}

#[test]
fn a_damaged_cache_is_noticed_and_made_again() {
    let material = Material::new();
    let (first, notices) = material.run(&[]);
    assert!(!notices.contains("made anew"), "{notices}");
    let cached = material.cached();
    for (kind, (path, _)) in &cached {
        let mut bytes = std::fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).unwrap();
        let (again, notices) = material.run(&[]);
        assert_eq!(first, again, "{kind}");
        let expected = "its checksum is wrong; made anew";
        assert!(
            notices.contains(expected) && notices.contains(kind),
            "{notices}"
        );
    }
    // Other weights are another key: old content stays beside the new.
    let floor = material.run(&["--score-floor", "0.3", "--embed-above", "0.3"]);
    assert!(!floor.1.contains("made anew"), "{}", floor.1);
    let files = std::fs::read_dir(material.path("cache")).unwrap().count();
    assert_eq!(files, 2 * cached.len());
}

#[test]
fn what_is_missing_is_named() {
    let material = Material::new();
    let (data, weights) = (material.path("data"), material.path("atto.safetensors"));
    let cache = material.path("cache");
    let common = [
        "eval",
        "track",
        "--data",
        &data,
        "--cache",
        &cache,
        "--weights",
        &weights,
    ];
    let error = |more: &[&str]| {
        let output = run(&[&common[..], more].concat());
        assert!(!output.status.success() && output.stdout.is_empty());
        text(&output.stderr)
    };
    let detections = error(&["--detections"]);
    assert!(
        detections.contains("lobby/det/det.txt: no such file"),
        "{detections}"
    );
    let unknown = error(&["--sequences", "hall"]);
    assert!(
        unknown.contains("no sequence `hall`; there are lobby"),
        "{unknown}"
    );
    let setting = error(&["--set", "max_age=3"]);
    assert!(
        setting.contains("max_age") && setting.contains("track_buffer"),
        "{setting}"
    );
    let motion = error(&["--tracker", "botsort", "--camera-motion", "file"]);
    assert!(motion.contains("gmc.txt"), "{motion}");
    std::fs::remove_dir_all(material.path("data/lobby/img1")).unwrap();
    let pictures = error(&[]);
    assert!(
        pictures.contains("no folder img1 of images and no videos"),
        "{pictures}"
    );
}

const PUBLIC: [&str; 2] = ["--detections", "det-frcnn/det.txt"];

// Half-split figures must be those of `eval mot` on nothing but that half: the tracks that are
// written hold its frames alone, and the whole's combination adds up.
#[test]
fn mot17_halves_are_tracked_and_measured_apart() {
    let Some(data) = shared("data/mot17") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let data = data.to_str().unwrap();
    let common = [
        "eval",
        "track",
        "--data",
        data,
        "--tracker",
        "both",
        "--json",
    ];
    let common = [&common[..], &PUBLIC[..]].concat();
    let of = |more: &[&str]| json_of(&[&common[..], more].concat());
    let second = of(&["--split", "second-half", "--out", out]);
    assert_eq!(second["split"], "second-half");
    let tracks = std::fs::read_to_string(folder.path().join("bytetrack/MOT17-02.txt")).unwrap();
    let first_frame = tracks.lines().next().unwrap().split(',').next().unwrap();
    // MOT17-02 has 600 frames: the first half ends with 301.
    assert!(
        (302..310).contains(&first_frame.parse::<u64>().unwrap()),
        "{first_frame}"
    );
    let first = of(&["--split", "first-half"]);
    let all = of(&[]);
    for tracker in ["bytetrack", "botsort"] {
        let combined = |json: &Value, key: &str| {
            let results = &json["trackers"][tracker]["results"];
            results["COMBINED"][key].as_f64().unwrap()
        };
        for key in ["frames", "gt_boxes"] {
            let halves = combined(&first, key) + combined(&second, key);
            assert_eq!(halves, combined(&all, key), "{tracker} {key}");
        }
        // What published trackers reach on these sequences with public detections.
        let hota = combined(&all, "hota");
        assert!((0.40..0.55).contains(&hota), "{tracker}: {hota}");
    }
}

#[test]
fn tuning_is_repeatable_and_its_settings_can_be_used() {
    let Some(data) = shared("data/mot17") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = data.to_str().unwrap();
    let tune = |threads: &str, name: &str| {
        let path = folder.path().join(name).to_str().unwrap().to_string();
        let mut command = mtmc(&[
            "tune", "--data", data, "--trials", "24", "--seed", "7", "--json",
        ]);
        command
            .args(PUBLIC)
            .args(["--metric", "idf1", "--sequences", "MOT17-09"]);
        command
            .args(["--out", &path])
            .env("RAYON_NUM_THREADS", threads);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (
            path,
            serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        )
    };
    let (path, one) = tune("1", "one.toml");
    let (_, two) = tune("2", "two.json");
    assert_eq!(one, two);
    assert_eq!(one["trials"], 24);
    let splits = &one["splits"];
    assert_eq!(
        (&splits[0]["held_out"], &splits[1]["held_out"]),
        (&false.into(), &true.into())
    );
    assert!(splits[0]["gain"].as_f64().unwrap() >= 0.0);
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written.starts_with("# Found by `mtmc tune`: 24 trials, seed 7, for idf1"),
        "{written}"
    );
    let used = json_of(&[
        "eval",
        "track",
        "--data",
        data,
        PUBLIC[0],
        PUBLIC[1],
        "--settings",
        &path,
        "--split",
        "second-half",
        "--sequences",
        "MOT17-09",
        "--json",
    ]);
    let results = &used["trackers"]["bytetrack"]["results"];
    assert_eq!(results["idf1"], splits[1]["best"]["idf1"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_search_gives_its_best_so_far() {
    let Some(data) = shared("data/mot17") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("best.toml");
    let data = data.to_str().unwrap();
    let mut command = mtmc(&["tune", "--data", data, "--trials", "1000000"]);
    command.args(PUBLIC).args(["--out", out.to_str().unwrap()]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Reading the benchmark takes a tenth of this; the search itself would take hours.
    std::thread::sleep(Duration::from_secs(3));
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("held out"),
        "{}",
        text(&output.stdout)
    );
    assert!(
        std::fs::read_to_string(out)
            .unwrap()
            .contains("name = \"bytetrack\"")
    );
}
