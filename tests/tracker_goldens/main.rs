//! ByteTrack and BoT-SORT give the IDs and boxes of their reference implementations, frame by
//! frame.
//!
//! The expected numbers are in `tests/goldens/bytetrack` and `tests/goldens/botsort`, written by
//! the oracles of these names, which run the references unchanged; `tests/oracle/tracking.py`
//! describes the format. Detections are those of public benchmarks, where they are at hand, and
//! made-up ones from generators that both sides have.

#![allow(clippy::unwrap_used)] // A golden that cannot be read fails its test.

use std::fmt::Write as _;
use std::path::Path;

use mtmc::tracker::camera_motion::CameraMotion;
use mtmc::tracker::mot::read_detections;
use mtmc::tracker::{FrameDetections, Track, TrackerSettings};
use mtmc_models::BBox;
use mtmc_models::testing::shared;
use serde::Deserialize;

use crowd::{MadeUp, made_up};

mod crowd;

/// A box's coordinates may differ by this much, in pixels: goldens have two decimals.
const TOLERANCE: f64 = 0.01;

/// First line of a golden.
#[derive(Deserialize)]
struct Header {
    /// MOT Challenge file, relative to the shared material.
    detections: Option<String>,
    /// Scores are divided by this and cut off at 1; 1 leaves them alone.
    #[serde(default = "one")]
    score_divisor: f32,
    /// Camera motions of every frame, relative to the shared material.
    motions: Option<String>,
    made_up: Option<MadeUp>,
    frames: u64,
    /// Whole boxes instead of IDs and a sum.
    rows: bool,
    settings: serde_json::Value,
}

fn one() -> f32 {
    1.0
}

/// The detections that a golden was made from, or `None` if they are not at hand.
fn load(header: &Header) -> Option<Vec<FrameDetections>> {
    if let Some(arguments) = &header.made_up {
        let looks = header.settings.get("appearance") == Some(&true.into());
        return Some(made_up(arguments, header.frames, looks));
    }
    let relative = header
        .detections
        .as_ref()
        .expect("a golden names its detections");
    let mut frames = read_detections(&shared(relative)?).unwrap();
    for frame in &mut frames {
        for detection in &mut frame.detections {
            if header.score_divisor != 1.0 {
                detection.score = (detection.score / header.score_divisor).min(1.0);
            }
        }
    }
    frames.resize_with(header.frames as usize, FrameDetections::default);
    if let Some(relative) = &header.motions {
        let motions = CameraMotion::read_file(&shared(relative)?).unwrap();
        for (frame, motion) in frames.iter_mut().zip(motions) {
            frame.camera_motion = Some(motion);
        }
    }
    Some(frames)
}

/// Ascending IDs as text, three or more in a row as `a-b`.
fn runs(ids: &[u64]) -> String {
    let mut text = String::new();
    let mut start = 0;
    while start < ids.len() {
        let mut end = start;
        while end + 1 < ids.len() && ids[end + 1] == ids[end] + 1 {
            end += 1;
        }
        if end == start + 1 {
            end = start;
        }
        let separator = if start == 0 { "" } else { " " };
        if end > start {
            write!(text, "{separator}{}-{}", ids[start], ids[end]).unwrap();
        } else {
            write!(text, "{separator}{}", ids[start]).unwrap();
        }
        start = end + 1;
    }
    text
}

fn coordinates(track: &Track) -> [f64; 4] {
    let BBox { x1, y1, x2, y2 } = track.bbox;
    [x1, y1, x2, y2].map(f64::from)
}

/// Compares with a line of `id left top right bottom;…`.
fn compare_rows(tracks: &[Track], line: &str, place: &str) {
    let rows: Vec<&str> = line.split(';').filter(|row| !row.is_empty()).collect();
    assert_eq!(tracks.len(), rows.len(), "{place}: number of tracks");
    for (track, row) in tracks.iter().zip(rows) {
        let numbers: Vec<f64> = row.split(' ').map(|v| v.parse().unwrap()).collect();
        assert_eq!(track.track_id as f64, numbers[0], "{place}: ID");
        for (found, expected) in coordinates(track).iter().zip(&numbers[1..]) {
            assert!(
                (found - expected).abs() <= TOLERANCE,
                "{place}: {track:?} is not {row}"
            );
        }
    }
}

/// Compares with a line of `ids|sum`; `before` are the IDs of the frame before.
fn compare_sums(tracks: &[Track], before: &mut String, line: &str, place: &str) {
    let (ids, sum) = line.split_once('|').unwrap_or(("", "0"));
    if ids != "=" {
        ids.clone_into(before);
    }
    let found: Vec<u64> = tracks.iter().map(|t| t.track_id).collect();
    assert_eq!(&runs(&found), before, "{place}: IDs");
    let (mut total, mut weights) = (0.0, 0.0);
    for (i, track) in tracks.iter().enumerate() {
        let weight = (i + 1) as f64;
        total += weight * coordinates(track).iter().sum::<f64>();
        weights += weight;
    }
    let expected: f64 = sum.parse().unwrap();
    assert!(
        (total - expected).abs() <= TOLERANCE * weights.max(1.0),
        "{place}: boxes, {total} is not {expected}"
    );
}

/// Runs ours on a golden's detections and compares every frame.
fn compare(tracker: &str, name: &str) {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let file = goldens.join(tracker).join(format!("{name}.txt"));
    let text = std::fs::read_to_string(&file).unwrap();
    let (first, body) = text.split_once('\n').unwrap();
    let mut header: Header = serde_json::from_str(first.trim_start_matches("# ")).unwrap();
    let Some(frames) = load(&header) else { return };
    let lines: Vec<&str> = body.lines().collect();
    assert_eq!(lines.len(), frames.len(), "{name}: a line a frame");

    let by_looks = header.settings.get("appearance") == Some(&true.into());
    header.settings["name"] = tracker.into();
    let settings: TrackerSettings = serde_json::from_value(header.settings).unwrap();
    let mut tracker = settings.build().unwrap();
    let (mut before, mut matches) = (String::new(), 0);
    for (i, (frame, line)) in frames.iter().zip(lines).enumerate() {
        let mut tracks = tracker.update(frame);
        tracks.sort_by_key(|t| t.track_id);
        matches += tracks.iter().map(|t| t.appearance.matches).sum::<u64>();
        let place = format!("{name}, frame {}", i + 1);
        if header.rows {
            compare_rows(&tracks, line, &place);
        } else {
            compare_sums(&tracks, &mut before, line, &place);
        }
    }
    assert_eq!(
        tracker.dropped_detections(),
        0,
        "{name}: every detection counts"
    );
    assert_eq!(tracker.dropped_embeddings(), 0, "{name}: embeddings");
    assert_eq!(matches > 0, by_looks, "{name}: looks decide if given");
}

#[test]
fn made_up_crowds() {
    for name in ["rows", "crowd", "short-buffer", "unfused"] {
        compare("bytetrack", &format!("made-up-{name}"));
    }
}

/// Real detections with scores from 0.05 to 1; the reference's settings for MOT17.
#[test]
fn mot17_faster_rcnn() {
    for name in [
        "mot17-02",
        "mot17-05",
        "mot17-09",
        "mot17-11",
        "mot17-09-mot20",
    ] {
        compare("bytetrack", name);
    }
}

/// Boosted trees' detections, many and poor, at whole pixels; scores as they are for one.
#[test]
fn mot15_public_detections() {
    for sequence in ["KITTI-13", "KITTI-17", "TUD-Campus", "TUD-Stadtmitte"] {
        compare("bytetrack", &format!("{sequence}-det"));
    }
    compare("bytetrack", "KITTI-17-raw");
}

/// The detections that SORT was published with; scores from 0.5 to 1.
#[test]
fn mot15_faster_rcnn() {
    for sequence in ["KITTI-13", "KITTI-17", "TUD-Campus", "TUD-Stadtmitte"] {
        compare("bytetrack", &format!("{sequence}-sort"));
    }
}

/// Real detections and camera motions; the reference's settings for MOT17.
#[test]
fn botsort_mot17_faster_rcnn() {
    for name in ["mot17-02", "mot17-05", "mot17-09", "mot17-11"] {
        compare("botsort", name);
    }
    compare("botsort", "mot17-09-still");
}

/// With looks and a camera that shakes.
#[test]
fn botsort_made_up_crowds() {
    for name in ["rows", "looks", "camera", "strict"] {
        compare("botsort", &format!("made-up-{name}"));
    }
}
