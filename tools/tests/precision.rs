//! What products in bfloat16 change, with published weights on real images: DEIMv2's detections
//! against those in f32, OSNet's vectors against those in f32.
//!
//! The project's bounds for doing so unasked are a mean average precision of 0.99 at an IoU of 0.5 if
//! the f32 detections count as the truth, scores that differ by less than 0.01 in the mean, and a
//! cosine above 0.999. DEIMv2 meets them since its narrow layers stay in f32 (see `ops::Conv2d`):
//! atto with 0.9987 and 0.0070, femto with 0.9955 and 0.0052. OSNet misses the last one in bfloat16
//! (0.998 at least with the weights of MSMT17, 0.9996 with those of Market-1501), so it computes in
//! f32 whatever is asked for.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::PathBuf;

use candle_core::{DType, Device};
use image::RgbImage;
use mtmc_models::ops::Precision;
use mtmc_models::testing::shared;
use mtmc_models::{
    BBox, Crop, DetectOptions, Detection, Detector as _, Embedder as _, LoadedDetector,
    LoadedEmbedder, Weights,
};
use mtmc_tools::{Options, convert};

/// Detections in f32 from this score on are the truth.
const TRUTH: f32 = 0.3;

/// Overlap from which a detection is the same.
const SAME: f32 = 0.5;

fn weights(file: &str) -> Option<Weights> {
    let published = shared(&format!("weights/{file}"))?;
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("weights.safetensors");
    convert(&published, &output, &Options::default()).unwrap();
    Some(Weights::load(&output, &Device::Cpu).unwrap())
}

/// All pictures under `data/detect-images`, in the order of their paths.
fn pictures() -> Option<Vec<RgbImage>> {
    let mut folders = vec![shared("data/detect-images")?];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "jpg") {
                files.push(path);
            }
        }
    }
    files.sort();
    Some(files.iter().map(|path| jpeg(path)).collect())
}

fn jpeg(path: &std::path::Path) -> RgbImage {
    let bytes = std::fs::read(path).unwrap();
    let options = zune_jpeg::zune_core::options::DecoderOptions::default()
        .jpeg_set_out_colorspace(zune_jpeg::zune_core::colorspace::ColorSpace::RGB);
    let cursor = std::io::Cursor::new(&bytes);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(cursor, options);
    let pixels = decoder.decode().unwrap();
    let info = decoder.info().unwrap();
    RgbImage::from_raw(u32::from(info.width), u32::from(info.height), pixels).unwrap()
}

fn detections(weights: &Weights, dtype: DType, pictures: &[RgbImage]) -> Vec<Vec<Detection>> {
    let detector = LoadedDetector::new(weights, &Device::Cpu, dtype).unwrap();
    let options = DetectOptions {
        score_floor: 0.1,
        classes: Vec::new(),
        nms_iou: None,
    };
    let one = |picture| detector.detect(&[picture], &options).unwrap().remove(0);
    pictures.iter().map(one).collect()
}

/// What the detections of one class are worth: average precision, area under the precision's upper
/// hull over recall; and the differences of the scores of those that are found.
fn average_precision(
    truth: &[Vec<Detection>],
    found: &[Vec<Detection>],
    class: u32,
    differences: &mut Vec<f32>,
) -> Option<f64> {
    let wanted = |d: &&Detection| d.class == class && d.score >= TRUTH;
    let total = truth.iter().flatten().filter(wanted).count();
    if total == 0 {
        return None;
    }
    let mut candidates: Vec<(usize, &Detection)> = Vec::new();
    for (picture, list) in found.iter().enumerate() {
        candidates.extend(
            list.iter()
                .filter(|d| d.class == class)
                .map(|d| (picture, d)),
        );
    }
    candidates.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
    let mut taken: Vec<Vec<bool>> = truth.iter().map(|list| vec![false; list.len()]).collect();
    let (mut right, mut curve) = (0, Vec::new());
    for (rank, (picture, candidate)) in candidates.iter().enumerate() {
        let mut best: Option<(usize, f32)> = None;
        for (index, one) in truth[*picture].iter().enumerate() {
            let overlap = candidate.bbox.iou(&one.bbox);
            let better = best.is_none_or(|(_, most)| overlap > most);
            if wanted(&one) && !taken[*picture][index] && overlap >= SAME && better {
                best = Some((index, overlap));
            }
        }
        if let Some((index, _)) = best {
            taken[*picture][index] = true;
            right += 1;
            differences.push((candidate.score - truth[*picture][index].score).abs());
        }
        curve.push((
            right as f64 / total as f64,
            f64::from(right) / (rank + 1) as f64,
        ));
    }
    let (mut area, mut last, mut most) = (0.0, 1.0, 0.0_f64);
    for (index, (recall, precision)) in curve.iter().enumerate().rev() {
        if index + 1 == curve.len() {
            last = *recall;
        }
        area += (last - recall) * most;
        most = most.max(*precision);
        last = *recall;
    }
    Some(area + last * most)
}

#[test]
fn bf16_finds_what_f32_finds() {
    if !Precision::Bf16.available() {
        println!("skipped: this CPU has no AVX512-BF16");
        return;
    }
    let Some(pictures) = pictures() else { return };
    for size in ["atto", "femto"] {
        let Some(weights) = weights(&format!("deimv2/deimv2_hgnetv2_{size}_coco.onnx")) else {
            return;
        };
        // What `--precision auto` goes by.
        assert!(weights.description().keeps_results_in_bf16());
        let truth = detections(&weights, DType::F32, &pictures);
        let found = detections(&weights, DType::BF16, &pictures);
        assert_ne!(truth, found, "bfloat16 that changes nothing is none");
        let mut differences = Vec::new();
        let precisions: Vec<f64> = (0..80)
            .filter_map(|class| average_precision(&truth, &found, class, &mut differences))
            .collect();
        let map = precisions.iter().sum::<f64>() / precisions.len() as f64;
        let off = differences.iter().sum::<f32>() / differences.len() as f32;
        println!(
            "{size}: mAP {map:.4} over {} classes, scores differ by {off:.4} in the mean of {}",
            precisions.len(),
            differences.len()
        );
        assert!(differences.len() > 20, "too little to judge by");
        assert!(map >= 0.99, "{size}: {map}");
        assert!(off < 0.01, "{size}: {off}");
    }
}

#[test]
fn bf16_vectors_point_where_f32_vectors_do() {
    if !Precision::Bf16.available() {
        println!("skipped: this CPU has no AVX512-BF16");
        return;
    }
    let Some(pictures) = pictures() else { return };
    let Some(detector) = weights("deimv2/deimv2_hgnetv2_femto_coco.onnx") else {
        return;
    };
    let people = detections(&detector, DType::F32, &pictures);
    for name in ["market1501", "msmt17"] {
        let weights = weights(&format!("reid-osnet/osnet_x0_25_{name}.pth")).unwrap();
        let exact = LoadedEmbedder::new(&weights, &Device::Cpu, DType::F32).unwrap();
        let quick = LoadedEmbedder::new(&weights, &Device::Cpu, DType::BF16).unwrap();
        let mut crops = Vec::new();
        for (image, people) in pictures.iter().zip(&people) {
            let people = people.iter().filter(|d| d.class == 0 && d.score >= TRUTH);
            crops.extend(people.map(|d| Crop {
                image,
                bbox: d.bbox,
            }));
        }
        assert!(crops.len() > 20, "too little to judge by");
        let pairs = exact.embed(&crops).unwrap().into_iter();
        let pairs = pairs.zip(quick.embed(&crops).unwrap());
        let mut least = 1.0_f32;
        for (exact, quick) in pairs {
            least = least.min(exact.unwrap().cosine(&quick.unwrap()));
        }
        println!("{name}: least cosine {least:.6} of {} crops", crops.len());
        assert!(least > 0.999, "{name}: {least}");
    }
}

// By hand: two found of two, one beside them ranked between; then the same ranked last.
#[test]
fn average_precision_is_the_area_under_the_hull() {
    let detection = |x: f32, score: f32| Detection {
        bbox: BBox::from_tlwh(x, 0.0, 10.0, 10.0),
        score,
        class: 3,
    };
    let truth = [vec![detection(0.0, 0.9), detection(50.0, 0.8)]];
    let between = [vec![
        detection(0.0, 0.9),
        detection(90.0, 0.85),
        detection(50.0, 0.7),
    ]];
    let last = [vec![
        detection(0.0, 0.9),
        detection(90.0, 0.2),
        detection(50.0, 0.7),
    ]];
    let mut differences = Vec::new();
    let found = average_precision(&truth, &between, 3, &mut differences).unwrap();
    assert!((found - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-9, "{found}");
    assert!((differences[1] - 0.1).abs() < 1e-6);
    let found = average_precision(&truth, &last, 3, &mut differences).unwrap();
    assert!((found - 1.0).abs() < 1e-9, "{found}");
    assert_eq!(average_precision(&truth, &last, 4, &mut differences), None);
}
