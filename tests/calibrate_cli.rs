//! `mtmc calibrate` from outside.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use image::RgbImage;
use mtmc_models::testing::shared;
use serde_json::Value;
use tempfile::TempDir;

/// Runs in a folder of its own, where `homography_data` is the default.
fn mtmc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .arg("calibrate")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn succeed(folder: &Path, args: &[&str]) -> String {
    let run = mtmc(folder, args);
    assert!(run.status.success(), "{}", text(&run.stderr));
    text(&run.stdout)
}

fn fail(folder: &Path, args: &[&str]) -> String {
    let run = mtmc(folder, args);
    assert!(!run.status.success(), "{}", text(&run.stdout));
    text(&run.stderr)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A floor of 2 × 2 m, in a picture of 200 × 200 pixels in which a metre is 100 pixels; the last
/// point is 30 pixels wrong.
const PAIRS: &str = "u,v,x,y\n0,0,0,2\n200,0,2,2\n200,200,2,0\n0,200,0,0\n100,100,1,1\n50,100,0.5,1\n150,30,1.5,2\n";

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("pairs.csv"), PAIRS).unwrap();
    RgbImage::new(200, 200)
        .save(folder.path().join("frame.png"))
        .unwrap();
    folder
}

#[test]
fn points_become_a_calibration_and_a_picture() {
    let folder = folder();
    let args = [
        "--camera",
        "c09",
        "--pairs",
        "pairs.csv",
        "--image",
        "frame.png",
    ];
    let out = succeed(folder.path(), &args);
    assert!(out.contains("6 of 7 points agree: mean 0.000 px"), "{out}");
    let wrong = out.lines().find(|line| line.contains("left out")).unwrap();
    let columns: Vec<&str> = wrong.split_whitespace().collect();
    assert_eq!(
        columns[..7],
        ["7", "150.0", "30.0", "1.500", "2.000", "30.000", "0.3000"]
    );

    let written = json(&folder.path().join("homography_data/c09_homography.json"));
    let matrix: [[f64; 3]; 3] = serde_json::from_value(written["matrix"].clone()).unwrap();
    let expected = [[0.01, 0.0, 0.0], [0.0, -0.01, 2.0], [0.0, 0.0, 1.0]];
    for (value, expected) in matrix.iter().flatten().zip(expected.iter().flatten()) {
        assert!((value - expected).abs() < 1e-12, "{matrix:?}");
    }
    assert_eq!(written["camera_id"], "c09");
    assert_eq!(written["image_size"], serde_json::json!([200.0, 200.0]));
    assert_eq!(written["map_units"], "m");
    assert_eq!(
        written["calibration_points"]["image_points"][1],
        serde_json::json!([200.0, 0.0])
    );
    assert_eq!(written["calibration_points"]["inliers"][6], false);
    assert_eq!(written["error"]["inliers"], 6);

    let picture = image::open(folder.path().join("homography_data/c09_homography.png"));
    let picture = picture.unwrap().to_rgb8();
    assert_eq!(picture.dimensions(), (200, 200));
    let drawn = picture.pixels().filter(|pixel| pixel.0 != [0; 3]).count();
    assert!(drawn > 1000, "{drawn} pixels drawn");
}

#[test]
fn an_existing_calibration_is_shown_again() {
    let folder = folder();
    succeed(
        folder.path(),
        &[
            "-c",
            "c09",
            "--pairs",
            "pairs.csv",
            "--image-size",
            "200x200",
        ],
    );
    let args = [
        "-c",
        "c09",
        "--valid-area",
        "0,0 2,0 2,2 0,2",
        "--units",
        "metres",
        "--json",
    ];
    let report: Value = serde_json::from_str(&succeed(folder.path(), &args)).unwrap();
    assert_eq!(report[0]["camera"], "c09");
    assert_eq!(report[0]["points"][6]["inlier"], false);
    let written = json(&folder.path().join("homography_data/c09_homography.json"));
    assert_eq!(written["map_units"], "metres");
    assert_eq!(written["valid_area"].as_array().unwrap().len(), 4);
    assert_eq!(written["image_size"], serde_json::json!([200.0, 200.0]));
}

#[test]
fn pairs_come_as_flags_too_and_settings_from_the_environment() {
    let folder = folder();
    let run = Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .args(["calibrate", "--camera", "door", "--image-size", "200x200"])
        .args([
            "--pair",
            "0,0,0,2",
            "--pair",
            "200,0,2,2",
            "--pair=200,200,2,0",
            "--pair",
            "0,200,0,0",
        ])
        .args(["--pair", "130,100,1,1"])
        .env("HOMOGRAPHY_DATA_DIR", "maps")
        .env("HOMOGRAPHY_RANSAC_THRESHOLD", "40")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    let written = json(&folder.path().join("maps/door_homography.json"));
    assert_eq!(written["error"]["inliers"], 5);
    assert_eq!(written["ransac_threshold"], 40.0);
    assert!(!folder.path().join("homography_data").exists());
}

#[test]
fn matrices_are_taken_over() {
    let folder = folder();
    fs::write(folder.path().join("m.txt"), "0.01 0 0\n0 -0.01 2\n0 0 1\n").unwrap();
    fs::write(
        folder.path().join("back.json"),
        "[[100,0,0],[0,-100,200],[0,0,1]]",
    )
    .unwrap();
    let size = ["--image-size", "200x200"];
    succeed(
        folder.path(),
        &[&["-c", "a", "--matrix", "m.txt"], &size[..]].concat(),
    );
    succeed(
        folder.path(),
        &[
            &["-c", "b", "--matrix", "back.json", "--from-map"],
            &size[..],
        ]
        .concat(),
    );
    let [a, b] = ["a", "b"].map(|camera| {
        let path = folder
            .path()
            .join(format!("homography_data/{camera}_homography.json"));
        let matrix = json(&path)["matrix"].clone();
        serde_json::from_value::<Vec<Vec<f64>>>(matrix)
            .unwrap()
            .concat()
    });
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
    // Without a picture's size there is a warning, since frames may have any.
    let run = mtmc(folder.path(), &["-c", "a", "--matrix", "m.txt"]);
    assert!(run.status.success() && text(&run.stderr).contains("--image-size"));
}

#[test]
fn what_cannot_be_calibrated_is_said() {
    let folder = folder();
    fs::write(
        folder.path().join("line.csv"),
        "0,0,0,0\n1,1,1,1\n2,2,2,2\n3,3,3,3\n",
    )
    .unwrap();
    fs::write(folder.path().join("flat.json"), "[[1,2,3],[2,4,6],[0,0,1]]").unwrap();
    fs::write(
        folder.path().join("p.json"),
        r#"{"cam1": [[1,0,0,0],[0,1,0,0],[0,0,1,1]]}"#,
    )
    .unwrap();
    let cases: [(&[&str], &str); 10] = [
        (&["--pairs", "pairs.csv"], "--camera is missing"),
        (
            &["-c", "../a", "--pairs", "pairs.csv"],
            "cannot be a camera's name",
        ),
        (
            &["-c", "a", "--pairs", "line.csv"],
            "all points in the image lie on one line",
        ),
        (&["-c", "a", "--pair", "1,2,3"], "3 numbers instead of four"),
        (
            &["-c", "a", "--pair", "1,2,3,4"],
            "1 point pairs; a homography needs at least 4",
        ),
        (&["-c", "a", "--matrix", "flat.json"], "has no inverse"),
        (&["-c", "a", "--projection", "p.json"], "only cam1"),
        (&["-c", "a"], "nothing to calibrate from"),
        (
            &[
                "-c",
                "a",
                "--pairs",
                "pairs.csv",
                "--image",
                "frame.png",
                "--heights",
            ],
            "straight down",
        ),
        (
            &["-c", "a", "--pairs", "pairs.csv", "--valid-area", "0,0 1,1"],
            "three corners",
        ),
    ];
    for (args, expected) in cases {
        let error = fail(folder.path(), args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    assert!(
        !folder.path().join("homography_data").exists(),
        "nothing is written on failure"
    );
}

#[test]
fn all_cameras_of_a_projection_file_are_calibrated() {
    let Some(path) = shared("data/multicam-cmc/projection_matrices.json") else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let path = path.to_str().unwrap();
    let out = succeed(
        folder.path(),
        &["--projection", path, "--image-size", "1920x1024"],
    );
    assert_eq!(out.matches("written to").count(), 4, "{out}");
    let first = json(&folder.path().join("homography_data/cam1_homography.json"));
    assert_eq!(first["projection"][0].as_array().unwrap().len(), 4);
    let run = mtmc(folder.path(), &["-c", "cam9", "--projection", path]);
    assert!(text(&run.stderr).contains("only cam1, cam2, cam3, cam4"));
}
