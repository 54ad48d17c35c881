//! `mtmc sim` from outside: its files are what the rest of the program reads.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mtmc::config::{Environment, Overrides};
use mtmc::homography::{Calibration, MapPoint};
use mtmc::sim::{SimSettings, Simulation};
use mtmc::tracker::mot::read_detections;
use safetensors::SafeTensors;

fn mtmc(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
    command.args(arguments);
    for (name, _) in std::env::vars() {
        if name.starts_with("MTMC_") {
            command.env_remove(name);
        }
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Simulates a campus into `folder`; small vectors.
fn simulate(folder: &Path, more: &[&str]) -> String {
    let mut arguments = vec![
        "sim",
        "--layout",
        "campus",
        "--people",
        "30",
        "--seconds",
        "4",
    ];
    arguments.extend([
        "--seed",
        "3",
        "--set",
        "looks.dim=32",
        "--set",
        "looks.variety=8",
    ]);
    arguments.extend(["--out", folder.to_str().unwrap()]);
    arguments.extend(more);
    let output = mtmc(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// All files below a folder with their content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_path_buf();
            all.insert(name, std::fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn its_files_hold_the_simulation() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let printed = simulate(folder, &["--json"]);
    let counts: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let settings = std::fs::read_to_string(folder.join("settings.toml")).unwrap();
    let settings: SimSettings = toml::from_str(&settings).unwrap();
    assert_eq!((settings.people, settings.looks.dim), (30, 32));
    let simulation = Simulation::new(settings).unwrap();
    let views = simulation.views().to_vec();
    let steps: Vec<_> = simulation.collect();
    assert_eq!(counts["frames"], 40);
    let mut detections = 0;
    for (index, id) in ["c09", "c12", "c13", "c16"].iter().enumerate() {
        let det = folder.join(id).join("det");
        let frames = read_detections(&det.join("det.txt")).unwrap();
        let bytes = std::fs::read(det.join("embeddings.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let vectors = tensors.tensor("embeddings").unwrap();
        let mut row = 0;
        for frame in &frames {
            let step = &steps[frame.frame as usize - 1].cameras[index];
            assert_eq!(frame.detections.len(), step.detections.len());
            for (read, (made, vector)) in frame
                .detections
                .iter()
                .zip(step.detections.iter().zip(&step.embeddings))
            {
                assert!((read.bbox.x1 - made.bbox.x1).abs() < 0.02);
                assert!((read.score - made.score).abs() < 1e-4);
                let start = row * 32 * 4;
                let first: [u8; 4] = vectors.data()[start..start + 4].try_into().unwrap();
                assert_eq!(f32::from_le_bytes(first), vector.as_slice()[0]);
                row += 1;
            }
        }
        assert_eq!(vectors.shape(), [row, 32]);
        detections += row;
        let truth = std::fs::read_to_string(folder.join(id).join("gt/gt.txt")).unwrap();
        let boxes: usize = steps
            .iter()
            .map(|s| s.cameras[index].truth_boxes.len())
            .sum();
        assert_eq!(truth.lines().count(), boxes);
        for line in truth.lines() {
            let row: Vec<f64> = line.split(',').map(|v| v.parse().unwrap()).collect();
            assert!(row[2] >= 0.0 && row[2] + row[4] <= 1920.011, "{line}");
            assert!(row[3] >= 0.0 && row[3] + row[5] <= 1080.011, "{line}");
        }
        let path = folder.join(format!("{id}_homography.json"));
        let loaded = Calibration::read(&path, 5.0).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let view = loaded.calibration.view([1920.0, 1080.0]).unwrap();
        let place = MapPoint { x: 35.0, y: 10.0 };
        let [read, made] = [&view, &views[index]].map(|v| v.to_image(place).unwrap());
        assert!((read.x - made.x).hypot(read.y - made.y) < 1e-6);
        assert!(view.head(place, 1.7).unwrap().y < read.y);
    }
    assert_eq!(counts["detections"], detections);
    let map = std::fs::read_to_string(folder.join("truth_map.txt")).unwrap();
    let people: usize = steps.iter().map(|step| step.people.len()).sum();
    assert_eq!(map.lines().count(), people);
    let seen = std::fs::read_to_string(folder.join("truth_map_seen.txt")).unwrap();
    let counting = |step: &mtmc::sim::Step| {
        let boxes = step.cameras.iter().flat_map(|camera| &camera.truth_boxes);
        let ids: BTreeSet<u64> = boxes.filter(|t| t.counts).map(|t| t.id).collect();
        ids.len()
    };
    let counting: usize = steps.iter().map(counting).sum();
    assert!(counting < people && seen.lines().count() == counting);
    let svg = std::fs::read_to_string(folder.join("plan.svg")).unwrap();
    assert!(svg.contains(">c16<") && svg.contains("<polyline"));
}

#[test]
fn the_environment_file_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    simulate(folder.path(), &[]);
    let path = folder.path().join("environment.toml");
    let environment = Environment::load(&path, &Overrides::default()).unwrap();
    let ids: Vec<&str> = environment.cameras.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, ["c09", "c12", "c13", "c16"]);
    for index in 0..4 {
        assert!(environment.homography_file(index).unwrap().is_file());
    }
    // The zones of the first requirement document.
    let sides: Vec<usize> = environment.cameras.iter().map(|c| c.zones.len()).collect();
    assert_eq!(sides, [1, 2, 2, 1]);
    assert_eq!(environment.cameras[0].zones[0].x_min, 0.7);
    // Two thirds of the way from 0.42 to 0.76; five absences of 60 seconds at the frame rate.
    let association = &environment.association;
    assert_eq!(association.similarity_threshold, 0.65);
    let rate = environment.cameras[0].frame_rate.unwrap();
    assert_eq!(f64::from(association.lost_steps), 300.0 * rate);
    let topology = environment.topology();
    assert!(topology.overlap(0, 1) && topology.overlap(2, 3) && !topology.overlap(0, 3));
}

#[test]
fn the_same_settings_give_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, third] = ["1", "2", "3"].map(|name| folder.path().join(name));
    simulate(&first, &[]);
    let settings = first.join("settings.toml");
    // Over another preset, which the file's settings replace.
    let again = mtmc(&[
        "sim",
        "--preset",
        "hard",
        "--settings",
        settings.to_str().unwrap(),
        "--out",
        second.to_str().unwrap(),
    ]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(files(&first) == files(&second));
    simulate(&third, &["--set", "detector.miss_rate=0.5"]);
    assert!(files(&first) != files(&third));
}

#[test]
fn wrong_settings_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "[walk]\nspede = 1.0\n").unwrap();
    let file = file.to_str().unwrap();
    let out = folder.path().join("out");
    for (arguments, expected) in [
        (
            vec!["--layout", "campus", "--cameras", "5"],
            "cameras = 5: must be 4",
        ),
        (vec!["--fps", "0"], "frame_rate = 0"),
        (
            vec!["--set", "detector.mis=1"],
            "there is no such setting; there are box_noise",
        ),
        (vec!["--set", "detector=1"], "there is no such setting"),
        (vec!["--set", "people=many"], "neither a number"),
        (
            vec!["--set", "walk.speed=9"],
            "walk.speed = 9: must be in 0.8..=1.8",
        ),
        (
            vec!["--settings", file],
            "wrong.toml: unknown field `spede`",
        ),
        (
            vec!["--preset", "brutal"],
            "possible values: easy, medium, hard",
        ),
    ] {
        let mut all = vec!["sim", "--out", out.to_str().unwrap()];
        all.extend(&arguments);
        let output = mtmc(&all);
        let error = text(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert!(!out.exists());
    }
}
