//! `mtmc data` from outside, on made-up data sets, and on people cut out of a real video.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use image::RgbImage;
use mtmc_models::testing::{made_up_image, shared, shared_video};
use mtmc_tools::dataset::market1501::{GALLERY, ImageName, QUERY, list_split};
use mtmc_tools::dataset::pictures::write_jpeg;
use serde_json::Value;
use tempfile::TempDir;

fn mtmc(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs and gives standard output.
fn succeed(args: &[&str]) -> String {
    let run = mtmc(args);
    assert!(run.status.success(), "{}", text(&run.stderr));
    text(&run.stdout)
}

/// Runs and gives standard error.
fn fail(args: &[&str]) -> String {
    let run = mtmc(args);
    assert_eq!(run.status.code(), Some(1), "{}", text(&run.stdout));
    text(&run.stderr)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Five training people in two cameras, two test people, junk, a distractor, Windows' leavings.
fn market() -> TempDir {
    let folder = TempDir::new().unwrap();
    let write = |split: &str, name: &str, seed: u32| {
        let split = folder.path().join(split);
        fs::create_dir_all(&split).unwrap();
        write_jpeg(&split.join(name), &made_up_image(16, 32, seed)).unwrap();
    };
    for id in 1..=5 {
        for camera in [1, 3] {
            let name = format!("{id:04}_c{camera}s1_000{id}00_01.jpg");
            write("bounding_box_train", &name, id * 10 + camera);
        }
    }
    for id in [7, 9] {
        write("query", &format!("{id:04}_c1s1_000001_00.jpg"), id);
        let name = format!("{id:04}_c6s2_000001_01.jpg");
        write("bounding_box_test", &name, id + 100);
    }
    write("bounding_box_test", "-1_c2s1_000001_01.jpg", 1);
    write("bounding_box_test", "-1_c2s1_000002_01.jpg", 2);
    write("bounding_box_test", "0000_c2s1_000003_01.jpg", 3);
    fs::write(folder.path().join("bounding_box_train/Thumbs.db"), b"x").unwrap();
    folder
}

/// The path of `name` in a folder that goes away with the test.
fn place(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_string()
}

fn prepare_market(source: &TempDir, out: &str, more: &[&str]) -> Vec<String> {
    let folder = source.path().to_str().unwrap();
    let fixed = ["data", "prepare", "market1501", folder, "--out", out];
    fixed.iter().chain(more).map(ToString::to_string).collect()
}

fn refs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

// By hand from `market`: 0.4 of five people are two.
#[test]
fn market1501_is_split_by_person_without_junk() {
    let (source, target) = (market(), TempDir::new().unwrap());
    let out = place(&target, "market");
    let more = ["--allow-incomplete", "--val-share", "0.4"];
    let said = succeed(&refs(&prepare_market(&source, &out, &more)));
    assert!(
        said.contains("2 images of junk left out, 1 distractors"),
        "{said}"
    );
    let out = Path::new(&out);
    let count = |split: &str| fs::read_dir(out.join(split)).unwrap().count();
    assert_eq!(
        ["train", "val", "query", "gallery"].map(count),
        [6, 4, 2, 3]
    );
    let metadata = json(&out.join("metadata.json"));
    assert_eq!(metadata["splits"]["train"]["identities"], 3);
    assert_eq!(metadata["splits"]["val"]["identities"], 2);
    assert_eq!(metadata["splits"]["gallery"]["identities"], 2);
    assert_eq!(
        metadata["cameras"],
        serde_json::json!({"1": 0, "2": 1, "3": 2, "6": 3})
    );
    assert_eq!(metadata["queries_without_match"], 0);

    let labels = |name: &str| -> Vec<Vec<String>> {
        let text = fs::read_to_string(out.join(name)).unwrap();
        let rows = text.lines().skip(1);
        rows.map(|row| row.split(',').map(str::to_string).collect())
            .collect()
    };
    let mut people = Vec::new();
    for (name, rows) in [("train_labels.csv", 6), ("val_labels.csv", 4)] {
        let table = labels(name);
        assert_eq!(table.len(), rows);
        for row in &table {
            assert!(out.join(&row[0]).is_file(), "{row:?}");
            people.push((row[1].clone(), name));
        }
    }
    people.sort();
    people.dedup();
    assert_eq!(people.len(), 5, "nobody is in both: {people:?}");
    let all = labels("trainval_labels.csv");
    assert!(
        all.iter().any(|row| row[2] == "4") && all.len() == 10,
        "{all:?}"
    );
}

// The statistics are recomputed here from the images that were kept for training.
#[test]
fn statistics_are_those_of_the_training_images() {
    let (source, target) = (market(), TempDir::new().unwrap());
    let out = place(&target, "market");
    succeed(&refs(&prepare_market(
        &source,
        &out,
        &["--allow-incomplete"],
    )));
    let mut values: [Vec<f64>; 3] = Default::default();
    for entry in fs::read_dir(Path::new(&out).join("train")).unwrap() {
        let image: RgbImage = mtmc::source::read_image(&entry.unwrap().path()).unwrap();
        for pixel in image.pixels() {
            for channel in 0..3 {
                values[channel].push(f64::from(pixel[channel]) / 255.0);
            }
        }
    }
    let metadata = json(&Path::new(&out).join("metadata.json"));
    for (channel, values) in values.iter().enumerate() {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares = values.iter().map(|v| (v - mean) * (v - mean));
        let std = (squares.sum::<f64>() / values.len() as f64).sqrt();
        let found = |key: &str| metadata["normalisation"][key][channel].as_f64().unwrap();
        assert!((found("mean") - mean).abs() < 1e-9, "{metadata}");
        assert!((found("std") - std).abs() < 1e-9, "{metadata}");
    }
}

#[test]
fn images_can_be_resized_as_the_document_asks() {
    let (source, target) = (market(), TempDir::new().unwrap());
    let out = place(&target, "market");
    let more = ["--allow-incomplete", "--resize", "256x128"];
    succeed(&refs(&prepare_market(&source, &out, &more)));
    let path = Path::new(&out).join("query/0007_c1s1_000001_00.jpg");
    let image = mtmc::source::read_image(&path).unwrap();
    assert_eq!(image.dimensions(), (128, 256));
}

#[test]
fn broken_and_misnamed_images_are_told_all_at_once() {
    let (source, target) = (market(), TempDir::new().unwrap());
    let out = place(&target, "market");
    let args = prepare_market(&source, &out, &["--allow-incomplete"]);
    let train = source.path().join("bounding_box_train");
    for name in ["0001_c1s1_000100_01.jpg", "0004_c3s1_000400_01.jpg"] {
        let bytes = fs::read(train.join(name)).unwrap();
        fs::write(train.join(name), &bytes[..bytes.len() - 20]).unwrap();
    }
    let said = fail(&refs(&args));
    for part in ["broken images: 2", "0001_c1s1", "0004_c3s1", "cut short"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    fs::write(train.join("dog.jpg"), b"").unwrap();
    fs::write(train.join("cat.jpg"), b"").unwrap();
    let said = fail(&refs(&args));
    assert!(
        said.contains("cat.jpg") && said.contains("dog.jpg"),
        "{said}"
    );
    // Neither try left anything behind.
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn incomplete_folders_are_refused_with_what_was_expected() {
    let (source, target) = (market(), TempDir::new().unwrap());
    let out = place(&target, "market");
    let args = prepare_market(&source, &out, &[]);
    let said = fail(&refs(&args));
    for part in [
        "images in bounding_box_train: 12936 expected, 10 found",
        "people in query: 750 expected, 2 found",
        "15913 expected (19732 with junk), 3 found (5 with junk)",
        "--allow-incomplete",
    ] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    fs::rename(source.path().join("query"), source.path().join("queries")).unwrap();
    let said = fail(&refs(&args));
    for part in ["no folder query", "queries", "bounding_box_test/", "19732"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let said = fail(&["data", "prepare", "mot17", &place(&source, "nowhere")]);
    assert!(
        said.contains("nowhere") && said.contains("seqinfo.ini"),
        "{said}"
    );
}

#[test]
fn verify_finds_what_changed() {
    let (source, target) = (market(), TempDir::new().unwrap());
    let out = place(&target, "market");
    succeed(&refs(&prepare_market(
        &source,
        &out,
        &["--allow-incomplete"],
    )));
    let said = succeed(&["data", "verify", &out]);
    assert!(said.contains("as they were prepared"), "{said}");

    let folder = Path::new(&out);
    fs::remove_file(folder.join("query/0007_c1s1_000001_00.jpg")).unwrap();
    fs::write(folder.join("gallery/new.jpg"), b"").unwrap();
    fs::write(folder.join("metadata.json"), b"{}").unwrap();
    let run = mtmc(&["data", "verify", &out, "--json"]);
    assert_eq!(run.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(found["missing"][0], "query/0007_c1s1_000001_00.jpg");
    assert_eq!(found["extra"][0], "gallery/new.jpg");
    assert_eq!(found["changed"].as_array().unwrap().len(), 1);
    let said = text(&run.stderr);
    assert!(
        said.contains("1 of 19 files missing, 1 changed, 1 extra"),
        "{said}"
    );

    let said = fail(&["data", "verify", source.path().to_str().unwrap()]);
    assert!(said.contains("no manifest.json"), "{said}");
}

/// Twelve frames with two people, red and green, who swap sides half way.
fn street() -> TempDir {
    let folder = TempDir::new().unwrap();
    let frames = folder.path().join("img1");
    fs::create_dir_all(&frames).unwrap();
    let mut truth = String::new();
    for frame in 1..=12 {
        let mut image = made_up_image(100, 80, 5);
        for (id, color) in [(1, [250, 0, 0]), (2, [0, 250, 0])] {
            let left = if (id == 1) == (frame <= 6) { 10 } else { 60 };
            let person = RgbImage::from_pixel(20, 50, image::Rgb(color));
            image::imageops::replace(&mut image, &person, left, 20);
            truth += &format!("{frame},{id},{left},20,20,50,1,-1,-1,-1\n");
        }
        write_jpeg(&frames.join(format!("{frame:06}.jpg")), &image).unwrap();
    }
    fs::write(folder.path().join("gt.txt"), truth).unwrap();
    folder
}

// By hand: two spans of six frames, two crops each, one of them the query.
#[test]
fn crops_show_the_people_they_are_named_after() {
    let (source, target) = (street(), TempDir::new().unwrap());
    let (video, gt) = (place(&source, "img1"), place(&source, "gt.txt"));
    let out = place(&target, "crops");
    let mut args = vec![
        "data", "crops", "--video", &video, "--gt", &gt, "--out", &out,
    ];
    args.extend(["--cameras", "2", "--per-camera", "2", "--gap", "0"]);
    succeed(&args);
    for (folder, bbox) in [("query", 1), ("bounding_box_test", 0)] {
        let entries = fs::read_dir(Path::new(&out).join(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        // Middles of two halves of six frames: the 2nd and the 5th.
        let frame = if bbox == 0 { 2 } else { 5 };
        let mut expected = Vec::new();
        for id in [1, 2] {
            for camera in [1, 2] {
                let frame = frame + 6 * (camera - 1);
                expected.push(format!("{id:04}_c{camera}s1_{frame:06}_{bbox:02}.jpg"));
            }
        }
        assert_eq!(names, expected);
        for name in names {
            let path = Path::new(&out).join(folder).join(&name);
            let image = mtmc::source::read_image(&path).unwrap();
            assert_eq!(image.dimensions(), (20, 50));
            let middle = image.get_pixel(10, 25);
            let red = middle[0] > middle[1];
            assert_eq!(red, name.starts_with("0001"), "{name}: {middle:?}");
        }
    }
    assert!(succeed(&["data", "verify", &out]).contains("9 files of crops"));
    // Nothing is overwritten.
    assert!(fail(&args).contains("already"));
}

#[test]
fn crops_of_another_video_are_refused() {
    let (source, target) = (street(), TempDir::new().unwrap());
    let (video, gt) = (place(&source, "img1"), place(&source, "gt.txt"));
    let out = place(&target, "crops");
    for frame in 9..=12 {
        fs::remove_file(source.path().join(format!("img1/{frame:06}.jpg"))).unwrap();
    }
    let mut args = vec![
        "data", "crops", "--video", &video, "--gt", &gt, "--out", &out,
    ];
    args.extend(["--cameras", "2", "--gap", "0"]);
    let said = fail(&args);
    assert!(
        said.contains("frames with true boxes are not there"),
        "{said}"
    );
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    args.extend(["--same", "1=2"]);
    let said = fail(&args);
    assert!(said.contains("both in frame 1"), "{said}");
}

/// The people of PETS09-S2L1, whose truth gives those who leave and come back new identities: 19
/// identities are 10 people, as the pictures show.
const SAME: [&str; 7] = ["1=19", "2=13", "3=11", "4=12", "5=9", "6=10", "8=14=15=18"];

/// A sign and its pole, which stand before whoever walks above line 390.
const SIGN: [&str; 2] = ["414,203,32,42,390", "427,20,8,370"];

// No published figures exist for this set. The bounds are far above chance, which is computed, and
// a little below what was measured: rank-1 97.7 and mAP 80.8 with Market-1501's weights, 95.5 and
// 86.6 with MSMT17's.
#[test]
fn osnet_knows_the_people_of_pets_again() {
    let Some(video) = shared_video("data/vtest-pets09-s2l1/vtest.avi") else {
        return;
    };
    let gt = video.with_file_name("gt").join("gt.txt");
    let target = TempDir::new().unwrap();
    let out = place(&target, "people");
    let (video, gt) = (video.to_str().unwrap(), gt.to_str().unwrap());
    let mut args = vec!["data", "crops", "--video", video, "--gt", gt, "--out", &out];
    for same in SAME {
        args.extend(["--same", same]);
    }
    for thing in SIGN {
        args.extend(["--hidden-by", thing]);
    }
    let said = succeed(&args);
    assert!(
        said.contains("query                   44      10        6"),
        "{said}"
    );
    let chance = chance(Path::new(&out));
    assert!(chance < 0.2, "{chance}");

    for (set, least_map) in [("market1501", 0.75), ("msmt17", 0.8)] {
        let checkpoint = shared(&format!("weights/reid-osnet/osnet_x0_25_{set}.pth")).unwrap();
        let weights = place(&target, &format!("{set}.safetensors"));
        let checkpoint = checkpoint.to_str().unwrap();
        succeed(&["models", "convert", checkpoint, "--out", &weights]);
        let said = succeed(&["eval", "reid", "--data", &out, "--reid", &weights, "--json"]);
        let figures: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(figures["queries"], 44, "{figures}");
        assert!(figures["rank1"].as_f64().unwrap() > 0.9, "{set}: {figures}");
        assert!(
            figures["map"].as_f64().unwrap() > least_map,
            "{set}: {figures}"
        );
    }
}

/// The rank-1 of guessing: for every query the share of its person among the gallery's images that
/// are not of that person in the same camera.
fn chance(folder: &Path) -> f64 {
    let list = |split: &str| list_split(&folder.join(split)).unwrap();
    let (queries, gallery) = (list(QUERY), list(GALLERY));
    let mut sum = 0.0;
    for query in &queries {
        let same = |name: &ImageName| name.id == query.name.id;
        let ranked: Vec<&ImageName> = gallery
            .iter()
            .map(|image| &image.name)
            .filter(|name| !(same(name) && name.camera == query.name.camera))
            .collect();
        let right = ranked.iter().filter(|name| same(name)).count();
        sum += right as f64 / ranked.len() as f64;
    }
    sum / queries.len() as f64
}
