//! ByteTrack gives the IDs and boxes of the reference implementation, frame by frame.
//!
//! The expected numbers are in `tests/goldens/bytetrack`, written by
//! `tests/oracle/bytetrack/make_goldens.py`, which runs the reference unchanged and describes
//! the format. Detections are those of public benchmarks, where they are at hand, and made-up ones
//! from a generator that both programs have.

#![allow(clippy::unwrap_used)] // A golden that cannot be read fails its test.

use std::fmt::Write as _;
use std::path::Path;

use mtmc::tracker::mot::read_detections;
use mtmc::tracker::{ByteTrack, ByteTrackSettings, Detection, FrameDetections, Track, Tracker};
use mtmc_models::BBox;
use mtmc_models::testing::shared;
use serde::Deserialize;

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
    made_up: Option<MadeUp>,
    frames: u64,
    /// Whole boxes instead of IDs and a sum.
    rows: bool,
    settings: ByteTrackSettings,
}

/// Arguments of the generator.
#[derive(Deserialize)]
struct MadeUp {
    seed: u64,
    targets: u64,
}

fn one() -> f32 {
    1.0
}

/// Knuth's MMIX linear congruential generator, as in `make_goldens.py`.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as i64 % limit
    }
}

/// A person of the made-up crowd; lengths in 1/64 pixel.
struct Person {
    x: i64,
    y: i64,
    vx: i64,
    vy: i64,
    width: i64,
    height: i64,
    /// Frames that it stays out of sight.
    hidden: i64,
}

fn detection(x: i64, y: i64, width: i64, height: i64, score: i64) -> Detection {
    let pixels = |v: i64| v as f32 / 64.0;
    Detection {
        bbox: BBox::from_xyxy(pixels(x), pixels(y), pixels(x + width), pixels(y + height)),
        score: score as f32 / 1024.0,
        class: 0,
    }
}

fn crowd(rng: &mut Lcg, targets: u64) -> Vec<Person> {
    let mut people = Vec::new();
    for _ in 0..targets {
        let (x, y) = (rng.below(600 * 64), rng.below(400 * 64));
        let (vx, vy) = (rng.below(512) - 256, rng.below(256) - 128);
        let width = 20 * 64 + rng.below(30 * 64);
        people.push(Person {
            x,
            y,
            vx,
            vy,
            width,
            height: width * 5 / 2,
            hidden: 0,
        });
    }
    people
}

/// One step of a person; its detection, unless it hides.
fn step(rng: &mut Lcg, p: &mut Person) -> Option<Detection> {
    p.x += p.vx;
    p.y += p.vy;
    if p.x < 0 || p.x > 640 * 64 {
        p.vx = -p.vx;
    }
    if p.y < 0 || p.y > 480 * 64 {
        p.vy = -p.vy;
    }
    if p.hidden > 0 {
        p.hidden -= 1;
        return None;
    }
    if rng.below(40) == 0 {
        p.hidden = 1 + rng.below(40);
    }
    let (x, y) = (p.x + rng.below(128) - 64, p.y + rng.below(128) - 64);
    let (width, height) = (
        p.width + rng.below(128) - 64,
        p.height + rng.below(256) - 128,
    );
    let score = if rng.below(4) == 0 {
        50 + rng.below(700)
    } else {
        600 + rng.below(424)
    };
    Some(detection(x, y, width, height, score))
}

/// The twin of `made_up` in `make_goldens.py`.
fn made_up(arguments: &MadeUp, frames: u64) -> Vec<FrameDetections> {
    let mut rng = Lcg(arguments.seed);
    let mut people = crowd(&mut rng, arguments.targets);
    let mut result = Vec::new();
    for frame in 1..=frames {
        let mut detections = Vec::new();
        for person in &mut people {
            detections.extend(step(&mut rng, person));
        }
        for _ in 0..rng.below(3) {
            let (x, y) = (rng.below(640 * 64), rng.below(480 * 64));
            let width = 10 * 64 + rng.below(60 * 64);
            detections.push(detection(x, y, width, 2 * width, rng.below(1024)));
        }
        result.push(FrameDetections {
            frame,
            detections,
            ..FrameDetections::default()
        });
    }
    result
}

/// The detections that a golden was made from, or `None` if they are not at hand.
fn load(header: &Header) -> Option<Vec<FrameDetections>> {
    if let Some(arguments) = &header.made_up {
        return Some(made_up(arguments, header.frames));
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
fn compare(name: &str) {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/bytetrack/{name}.txt"));
    let text = std::fs::read_to_string(&file).unwrap();
    let (first, body) = text.split_once('\n').unwrap();
    let header: Header = serde_json::from_str(first.trim_start_matches("# ")).unwrap();
    let Some(frames) = load(&header) else { return };
    let lines: Vec<&str> = body.lines().collect();
    assert_eq!(lines.len(), frames.len(), "{name}: a line a frame");

    let mut tracker = ByteTrack::new(header.settings).unwrap();
    let mut before = String::new();
    for (i, (frame, line)) in frames.iter().zip(lines).enumerate() {
        let mut tracks = tracker.update(frame);
        tracks.sort_by_key(|t| t.track_id);
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
}

#[test]
fn made_up_crowds() {
    for name in ["rows", "crowd", "short-buffer", "unfused"] {
        compare(&format!("made-up-{name}"));
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
        compare(name);
    }
}

/// Boosted trees' detections, many and poor, at whole pixels; scores as they are for one.
#[test]
fn mot15_public_detections() {
    for sequence in ["KITTI-13", "KITTI-17", "TUD-Campus", "TUD-Stadtmitte"] {
        compare(&format!("{sequence}-det"));
    }
    compare("KITTI-17-raw");
}

/// The detections that SORT was published with; scores from 0.5 to 1.
#[test]
fn mot15_faster_rcnn() {
    for sequence in ["KITTI-13", "KITTI-17", "TUD-Campus", "TUD-Stadtmitte"] {
        compare(&format!("{sequence}-sort"));
    }
}
