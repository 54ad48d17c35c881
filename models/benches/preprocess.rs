//! What comes before a detector's forward pass and after it, on one thread: a 1920×1080 frame to the
//! input, and the output to boxes, with made-up weights.
//!
//! ```text
//! cargo bench -p mtmc-models --bench preprocess
//! ```

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use candle_core::{DType, Device};
use mtmc_models::Interpolation::{OpencvBilinear, PilBicubic, PilBilinear};
use mtmc_models::ResizeMode::{Letterbox, Stretch};
use mtmc_models::detect::DetectionNetwork;
use mtmc_models::layers::Mode;
use mtmc_models::ops::profile;
use mtmc_models::preprocess::Preprocessor;
use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights};
use mtmc_models::{Description, DetectOptions, Detector, LoadedDetector, expected_tensors};

/// Seconds that each case runs at least.
const SECONDS: f64 = 1.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mtmc_models::ops::set_threads(1, Mode::Inference)?;
    let frame = made_up_image(1920, 1080, 1);
    let cases = [
        ("as OpenCV, stretched", 640, Stretch, OpencvBilinear),
        ("as OpenCV, letterbox", 640, Letterbox, OpencvBilinear),
        ("as Pillow, stretched", 640, Stretch, PilBilinear),
        ("as Pillow, stretched", 416, Stretch, PilBilinear),
        ("as Pillow, bicubic", 416, Stretch, PilBicubic),
    ];
    for (name, side, resize, interpolation) in cases {
        let description = Description {
            input_width: side,
            input_height: side,
            resize,
            interpolation,
            ..made_up_description("rtdetr-l")
        };
        let preprocessor = Preprocessor::new(&description).trimmed((1920, 1080), 32)?;
        let (width, height) = preprocessor.input();
        let (fastest, median) = times(|| {
            let _ = black_box(preprocessor.batch(&[black_box(&frame)], &Device::Cpu));
        });
        println!("{name}, {width}x{height}: fastest {fastest:.2} ms, median {median:.2} ms");
    }
    for name in ["rtdetr-r18", "yolov8n", "deimv2-femto"] {
        after(name, &frame, None)?;
    }
    // Made-up weights find something everywhere; a street may have some hundred candidates.
    after("yolov8n", &frame, Some(300))
}

/// Prints what a detector takes from its network's output to boxes: of all candidates, or of the surest so many
/// without those that overlap.
fn after(
    name: &str,
    frame: &image::RgbImage,
    candidates: Option<usize>,
) -> Result<(), Box<dyn std::error::Error>> {
    let description = made_up_description(name);
    let weights = made_up_weights(&description, &expected_tensors(&description)?);
    let detector = LoadedDetector::new(&weights, &Device::Cpu, DType::F32)?;
    let mut options = DetectOptions {
        score_floor: 0.1,
        classes: Vec::new(),
        nms_iou: None,
    };
    let mut name = name.to_string();
    if let (Some(count), DetectionNetwork::Dense(network)) = (candidates, detector.network()) {
        let preprocessor = Preprocessor::new(&description).trimmed(frame.dimensions(), 32)?;
        let (input, _) = preprocessor.batch(&[frame], &Device::Cpu)?;
        let found = network.candidates(&input, &options)?;
        let mut scores: Vec<f32> = found[0].iter().map(|found| found.score).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        options.score_floor = *scores.get(count - 1).ok_or("too few candidates")?;
        let left = scores.iter().filter(|score| **score >= options.score_floor);
        name = format!("{name}, {} of {} candidates", left.count(), scores.len());
    }
    let mut times = Vec::new();
    let mut boxes = 0;
    for _ in 0..5 {
        profile::start();
        boxes = detector.detect(&[frame], &options)?[0].len();
        let sums = profile::sums(&profile::stop());
        let after = sums.iter().find(|sum| sum.layer == "after the network");
        times.extend(after.map(|sum| sum.seconds * 1e3));
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("{name}, after the network, {boxes} boxes: median {median:.2} ms");
    Ok(())
}

/// Milliseconds of a run, the fastest and the median.
fn times(mut run: impl FnMut()) -> (f64, f64) {
    run();
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < SECONDS || times.len() < 5 {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}
