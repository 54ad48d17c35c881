//! Identities on the map for real cameras: the CMC data's four overlapping views, detections in,
//! places with identities out, against its truth on the floor, by the commands that
//! `docs/cross-camera.md` gives.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use mtmc::eval::across::map::{DISTANCE, MapMeasured, Places};
use mtmc::eval::clear::Rules;
use mtmc_models::testing::shared;

fn mtmc<S: AsRef<OsStr>>(args: &[S]) {
    let run = Command::new(env!("CARGO_BIN_EXE_mtmc")).args(args).output();
    let run = run.unwrap();
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{errors}");
}

fn measure(data: &Path, folder: &Path, sequence: &str) -> MapMeasured {
    let out = folder.join(sequence);
    mtmc(&[
        OsStr::new("replay"),
        OsStr::new("--environment"),
        folder.join("cmc.toml").as_os_str(),
        OsStr::new("--detections"),
        data.join(sequence).as_os_str(),
        OsStr::new("--out"),
        out.as_os_str(),
        OsStr::new("--quiet"),
    ]);
    let truth = Places::read(&data.join(sequence).join("GT_WORLD_CENTROID.txt")).unwrap();
    let found = Places::read(&out.join("map.txt")).unwrap();
    MapMeasured::of(&truth, &found, DISTANCE, Rules::TrackEval)
}

// At half a metre; `docs/cross-camera.md` has what was measured.
#[test]
fn people_keep_their_identity_on_the_map() {
    let Some(data) = shared("data/multicam-cmc") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("cmc.toml"), include_str!("../docs/cmc.toml")).unwrap();
    mtmc(&[
        OsStr::new("calibrate"),
        OsStr::new("--projection"),
        data.join("projection_matrices.json").as_os_str(),
        OsStr::new("--image-size"),
        OsStr::new("1920x1024"),
        OsStr::new("--out"),
        folder.as_os_str(),
    ]);
    for (sequence, least) in [("CMC1", 0.95), ("CMC2", 0.85)] {
        let figures = measure(&data, folder, sequence).measured.figures();
        assert!(figures.idf1 > least, "{sequence}: {figures:?}");
    }
}
