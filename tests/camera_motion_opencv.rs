//! Camera motion found in real pictures, beside what OpenCV finds in them.
//!
//! OpenCV's figures are in `tests/goldens/camera_motion.json`, written by
//! `tests/oracle/camera_motion/make_goldens.py`, which describes them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use image::{Rgb, RgbImage};
use mtmc::source::{self, OpenOptions, read_image};
use mtmc::tracker::camera_motion::{
    CameraMotion, MotionEstimator, MotionMethod, MotionOutcome, MotionSettings,
};
use mtmc::tracker::mot::read_detections;
use mtmc_models::BBox;
use mtmc_models::testing::{shared, shared_video};
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    pairs: Vec<Pair>,
    views: Vec<View>,
}

/// Two frames that follow each other.
#[derive(Deserialize)]
struct Pair {
    sequence: String,
    /// The later one's index, from 0.
    frame: usize,
    /// What OpenCV finds.
    rows: [[f64; 3]; 2],
}

/// A picture, and the same after a known motion.
#[derive(Deserialize)]
struct View {
    sequence: String,
    degrees: f64,
    scale: f64,
    shift: [f64; 2],
    /// Mean distance of OpenCV's motion from the truth at the corners, in pixels, by method.
    opencv_errors: BTreeMap<String, f64>,
}

fn goldens() -> Goldens {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/camera_motion.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn frame(sequence: &str, index: usize) -> Option<RgbImage> {
    let name = format!("data/mot17/{sequence}/img1-first/{:06}.jpg", index + 1);
    Some(read_image(&shared(&name)?).unwrap())
}

/// How far apart two motions put the corners of a frame, on average, in pixels.
fn corner_distance(a: &CameraMotion, b: &CameraMotion, width: f64, height: f64) -> f64 {
    let corners = [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)];
    let distance = |(x, y): (f64, f64)| {
        let (p, q) = (a.apply(x, y), b.apply(x, y));
        (p.0 - q.0).hypot(p.1 - q.1)
    };
    corners.map(distance).iter().sum::<f64>() / 4.0
}

/// The motion from one frame to the next.
fn motion(method: MotionMethod, before: &RgbImage, after: &RgbImage) -> CameraMotion {
    let mut estimator = MotionEstimator::new(method, MotionSettings::default()).unwrap();
    estimator.next(before, &[]);
    let motion = estimator.next(after, &[]);
    assert_eq!(estimator.last(), Some(MotionOutcome::Estimated), "{method}");
    motion
}

const VIEW: (u32, u32) = (960, 540);

fn similarity(degrees: f64, scale: f64, shift: [f64; 2]) -> CameraMotion {
    let (sin, cos) = degrees.to_radians().sin_cos();
    let (a, b) = (scale * cos, scale * sin);
    let (x, y) = (f64::from(VIEW.0) / 2.0, f64::from(VIEW.1) / 2.0);
    CameraMotion {
        rows: [
            [a, -b, x - a * x + b * y + shift[0]],
            [b, a, y - b * x - a * y + shift[1]],
        ],
    }
}

/// Catmull-Rom's weights of four pixels, `t` of the way between the middle two.
fn weights(t: f64) -> [f64; 4] {
    [
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]
}

/// The middle of the frame in grey, after a motion: `view` of the oracle script.
fn view(frame: &RgbImage, motion: &CameraMotion) -> RgbImage {
    let width = frame.width() as usize;
    let grey: Vec<f64> = frame
        .pixels()
        .map(|Rgb([r, g, b])| {
            let sum = 4899 * u32::from(*r) + 9617 * u32::from(*g) + 1868 * u32::from(*b);
            f64::from((sum + 8192) >> 14)
        })
        .collect();
    let left = f64::from((frame.width() - VIEW.0) / 2);
    let top = f64::from((frame.height() - VIEW.1) / 2);
    let back = motion.inverse().unwrap();
    RgbImage::from_fn(VIEW.0, VIEW.1, |x, y| {
        let (x, y) = back.apply(f64::from(x), f64::from(y));
        let (x, y) = (x + left, y + top);
        let (across, down) = (weights(x - x.floor()), weights(y - y.floor()));
        let start = (y.floor() as usize - 1) * width + x.floor() as usize - 1;
        let mut total = 0.0;
        for (row, weight) in down.iter().enumerate() {
            let line = &grey[start + row * width..][..4];
            total += weight * line.iter().zip(across).map(|(v, w)| v * w).sum::<f64>();
        }
        Rgb([(total + 0.5).floor().clamp(0.0, 255.0) as u8; 3])
    })
}

const METHODS: [MotionMethod; 3] = [
    MotionMethod::SparseFlow,
    MotionMethod::Orb,
    MotionMethod::Ecc,
];

#[test]
fn known_motions_are_found_as_well_as_by_opencv() {
    for golden in goldens().views {
        let Some(frame) = frame(&golden.sequence, 0) else {
            return;
        };
        let truth = similarity(golden.degrees, golden.scale, golden.shift);
        let (before, after) = (view(&frame, &CameraMotion::STILL), view(&frame, &truth));
        for (method, opencv_error) in golden.opencv_errors {
            let found = motion(method.parse().unwrap(), &before, &after);
            let (width, height) = (f64::from(VIEW.0), f64::from(VIEW.1));
            let error = corner_distance(&found, &truth, width, height);
            let limit = 1.2 * opencv_error + 0.05;
            assert!(
                error <= limit,
                "{} {}° ×{} {:?}, {method}: {error:.3} px, OpenCV {opencv_error:.3} px",
                golden.sequence,
                golden.degrees,
                golden.scale,
                golden.shift
            );
        }
    }
}

/// Against the motions that BoT-SORT was published with, which another program made: for moving
/// cameras before streets there is no one truth, since no similarity fits near and far.
#[test]
fn moving_cameras_of_mot17() {
    let (mut ours, mut theirs, mut count) = (0.0, 0.0, 0.0);
    for golden in goldens().pairs {
        if !golden.sequence.starts_with("MOT17") {
            continue;
        }
        let (Some(before), Some(after), Some(file)) = (
            frame(&golden.sequence, golden.frame - 1),
            frame(&golden.sequence, golden.frame),
            shared(&format!("data/mot17/{}/gmc.txt", golden.sequence)),
        ) else {
            return;
        };
        let published = CameraMotion::read_file(&file).unwrap()[golden.frame];
        let (width, height) = (f64::from(after.width()), f64::from(after.height()));
        let off = |motion: &CameraMotion| corner_distance(motion, &published, width, height);
        let opencv = CameraMotion { rows: golden.rows };
        let name = format!("{} {}", golden.sequence, golden.frame);
        let flow = off(&motion(MotionMethod::SparseFlow, &before, &after));
        assert!(flow < 0.8, "{name}: {flow}");
        let orb = off(&motion(MotionMethod::Orb, &before, &after));
        assert!(orb < 1.0, "{name}: {orb}");
        (ours, theirs, count) = (ours + flow, theirs + off(&opencv), count + 1.0);
    }
    let (ours, theirs) = (ours / count, theirs / count);
    assert!(ours < 0.3, "{ours} px, OpenCV {theirs} px");
    assert!(theirs > ours, "{ours} px, OpenCV {theirs} px");
}

/// A camera on a mast, people walking before it.
#[test]
fn a_still_camera_stands_still() {
    let name = "data/vtest-pets09-s2l1";
    let (Some(video), Some(boxes)) = (
        shared_video(&format!("{name}/vtest.avi")),
        shared(&format!("{name}/det/det.txt")),
    ) else {
        return;
    };
    let boxes = read_detections(&boxes).unwrap();
    let pairs: Vec<Pair> = goldens().pairs;
    let pairs: Vec<&Pair> = pairs.iter().filter(|p| p.sequence == "vtest").collect();
    let last = pairs.iter().map(|pair| pair.frame).max().unwrap();
    let images = first_frames(&video, last + 1);
    let off = |motion: &CameraMotion| corner_distance(motion, &CameraMotion::STILL, 768.0, 576.0);
    for pair in pairs {
        for method in METHODS {
            let mut estimator = MotionEstimator::new(method, MotionSettings::default()).unwrap();
            let mut found = CameraMotion::STILL;
            for index in [pair.frame - 1, pair.frame] {
                let people: Vec<BBox> = boxes[index].detections.iter().map(|d| d.bbox).collect();
                found = estimator.next(&images[index], &people);
            }
            assert_eq!(estimator.last(), Some(MotionOutcome::Estimated), "{method}");
            let distance = off(&found);
            let limit = if method == MotionMethod::Ecc {
                0.1
            } else {
                0.02
            };
            assert!(
                distance < limit,
                "{method}, frame {}: {distance} px",
                pair.frame
            );
            // Everything moves a little for OpenCV, which has no masks.
            let opencv = off(&CameraMotion { rows: pair.rows });
            assert!(
                distance < opencv + 0.02,
                "{method}: {distance} px, OpenCV {opencv} px"
            );
        }
    }
}

fn first_frames(video: &Path, count: usize) -> Vec<RgbImage> {
    let mut video = source::open(video.to_str().unwrap(), &OpenOptions::default()).unwrap();
    let mut images = Vec::new();
    while images.len() < count {
        images.push(video.next_frame().unwrap().unwrap().image);
    }
    images
}
