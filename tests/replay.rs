//! `mtmc replay` from outside: simulated places replayed, identities measured against the truth,
//! the same files whatever the threads, and what is said of wrong input.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mtmc::eval::across::{Across, Camera};
use mtmc::eval::clear::Rules;
use mtmc::eval::mot::{Benchmark, Boxes};

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

/// Simulates `layout` in `folder`: 40 s of 12 people at 5 frames a second, small vectors.
fn simulate(folder: &Path, layout: &str, preset: &str) {
    let out = folder.to_str().unwrap();
    let numbers = ["--people", "12", "--seconds", "40", "--fps", "5"];
    let mut arguments = vec!["sim", "--layout", layout, "--preset", preset, "--seed", "1"];
    arguments.extend(numbers);
    arguments.extend(["--set", "looks.dim=128", "--quiet", "--out", out]);
    let output = mtmc(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn replay(folder: &Path, environment: &str, out: &Path, more: &[&str]) -> Output {
    let environment = folder.join(environment);
    let mut arguments = vec![
        "replay",
        "--environment",
        environment.to_str().unwrap(),
        "--detections",
        folder.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--quiet",
    ];
    arguments.extend(more);
    mtmc(&arguments)
}

/// IDF1 of identities across cameras.
fn idf1(folder: &Path, out: &Path) -> f64 {
    let mut cameras = Vec::new();
    let global = std::fs::read_dir(out.join("global")).unwrap();
    let mut names: Vec<PathBuf> = global.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for tracks in names {
        let name = tracks.file_stem().unwrap().to_str().unwrap();
        let truth = folder.join(name).join("gt/gt.txt");
        let truth = Boxes::read_truth(&truth, Benchmark::Mot15).unwrap();
        let tracks = Boxes::read(&tracks).unwrap();
        cameras.push(Camera::new(
            name,
            &truth,
            &tracks,
            Benchmark::Mot15,
            Some(200),
        ));
    }
    Across::of(cameras, Rules::TrackEval).all.figures().idf1
}

/// Every file of results but the summary, which has times in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("summary.json") {
                let name = path.strip_prefix(folder).unwrap().to_path_buf();
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn run(folder: &Path, out: &str, more: &[&str]) -> f64 {
    let out = folder.join(out);
    let output = replay(folder, "environment.toml", &out, more);
    assert!(output.status.success(), "{}", text(&output.stderr));
    idf1(folder, &out)
}

// Thresholds: measured values less a margin of about 0.08; `docs/cross-camera.md` has more seeds.
#[test]
fn people_keep_their_identity_across_cameras() {
    for (layout, both, map, looks) in [("ring", 0.85, 0.85, 0.85), ("corridor", 0.76, 0.6, 0.75)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        simulate(folder, layout, "easy");
        let found = [
            run(folder, "both", &[]),
            run(folder, "map", &["--ignore-appearance"]),
            run(folder, "looks", &["--ignore-map"]),
        ];
        eprintln!("{layout}: {found:?}");
        for (found, least) in found.iter().zip([both, map, looks]) {
            assert!(*found > least, "{layout}: {found} instead of {least}");
        }
    }
}

#[test]
fn the_same_files_come_of_any_number_of_threads_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    simulate(folder, "campus", "medium");
    let first = folder.join("first");
    assert!(
        replay(folder, "environment.toml", &first, &[])
            .status
            .success()
    );
    let again = Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .env("RAYON_NUM_THREADS", "1")
        .args(["replay", "--quiet", "--environment"])
        .arg(folder.join("environment.toml"))
        .arg("--detections")
        .arg(folder)
        .arg("--out")
        .arg(folder.join("again"))
        .output()
        .unwrap();
    assert!(again.status.success());
    let (first, again) = (files(&first), files(&folder.join("again")));
    let names: Vec<String> = first
        .keys()
        .map(|path| path.display().to_string())
        .collect();
    for name in [
        "c09.txt",
        "global/c16.txt",
        "events.jsonl",
        "map.svg",
        "map.txt",
    ] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    assert!(first == again, "the files differ");
}

// Identities are numbered otherwise, and ties may fall otherwise, but who is who stays.
#[test]
fn the_order_of_cameras_hardly_matters() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    simulate(folder, "ring", "easy");
    let there = run(folder, "there", &[]);
    let text = std::fs::read_to_string(folder.join("environment.toml")).unwrap();
    let mut parts: Vec<&str> = text.split("\n[[cameras]]").collect();
    // The links follow the last camera.
    let last = parts.pop().unwrap();
    let (last, links) = last.split_at(last.find("\n[[links]]").unwrap_or(last.len()));
    let mut cameras: Vec<&str> = parts.split_off(1);
    cameras.push(last);
    cameras.reverse();
    let cameras: Vec<String> = cameras
        .iter()
        .map(|c| format!("\n[[cameras]]{c}"))
        .collect();
    let reversed = format!("{}{}{links}", parts[0], cameras.concat());
    std::fs::write(folder.join("reversed.toml"), reversed).unwrap();
    let out = folder.join("back");
    let output = replay(folder, "reversed.toml", &out, &[]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let back = idf1(folder, &out);
    assert!((there - back).abs() < 0.05, "{there} and {back}");
}

#[test]
fn steps_can_be_limited() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    simulate(folder, "corridor", "easy");
    let out = folder.join("out");
    assert!(
        replay(folder, "environment.toml", &out, &["--max-steps", "7"])
            .status
            .success()
    );
    let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["frames"], 4 * 7);
    assert!(summary["cameras"][0]["embeddings"].as_u64().unwrap() > 0);
}

#[test]
fn wrong_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let environment = |more: &str| {
        let text = format!("id = \"e\"\n[[cameras]]\nid = \"door\"\n{more}");
        std::fs::write(folder.join("environment.toml"), text).unwrap();
    };
    let fails = |expected: &str| {
        let output = replay(folder, "environment.toml", &folder.join("out"), &[]);
        let message = text(&output.stderr);
        assert!(!output.status.success());
        assert!(message.contains(expected), "{message}");
    };
    environment("");
    fails("camera `door`: no detections");
    std::fs::write(
        folder.join("door.txt"),
        "2 -1 1 2 3 4 -1\n1 -1 1 2 3 4 -1\n",
    )
    .unwrap();
    fails("frames a second are not known");
    environment("frame_rate = 4.0\n");
    fails("the size of its pictures is not known");
    // Settings of the file may be given as flags.
    let flag = ["--min-bbox-overlap-ratio-in-quadrant", "0"];
    let output = replay(folder, "environment.toml", &folder.join("out"), &flag);
    let message = text(&output.stderr);
    assert!(!output.status.success());
    assert!(
        message.contains("--min-bbox-overlap-ratio-in-quadrant: min_overlap_ratio = 0: must be"),
        "{message}"
    );
    std::fs::create_dir_all(folder.join("door/det")).unwrap();
    let info = "[Sequence]\nname=door\nimDir=img1\nframeRate=4\nseqLength=3\nimWidth=640\n\
                imHeight=480\nimExt=.jpg\n";
    std::fs::write(folder.join("door/seqinfo.ini"), info).unwrap();
    fails("door.txt, line 2: frame 1 after frame 2: sort the file by frames");
    std::fs::write(folder.join("door.txt"), "4 -1 1 2 3 4 -1\n").unwrap();
    fails("line 1: frame 4, but seqinfo.ini says 3 frames");
    std::fs::write(folder.join("door/det/det.txt"), "1,-1,1,2,3,4,1\n").unwrap();
    std::fs::write(folder.join("door/det/embeddings.safetensors"), "no").unwrap();
    fails("embeddings.safetensors");
}
