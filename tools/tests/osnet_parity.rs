//! OSNet x0.25 with its published weights, from the checkpoint to the vectors of people in frames.
//!
//! Expected numbers: `tests/goldens/osnet/crops.json`, made by `tests/oracle/osnet/make_goldens.py`
//! with torchreid's network, Pillow and torchvision.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;

use candle_core::{DType, Device};
use image::RgbImage;
use mtmc_models::preprocess::{Filter, Region, resize_pil};
use mtmc_models::testing::{made_up_image, shared};
use mtmc_models::{
    BBox, Crop, Description, Embedder, Embedding, Interpolation, LoadedEmbedder, ResizeMode,
    Weights,
};
use mtmc_tools::{Options, Report, convert};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    picture: String,
    crops: Vec<Expected>,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Expected {
    frame: String,
    #[serde(rename = "box")]
    corners: [f32; 4],
    sum: u64,
    every_997th: Vec<u8>,
}

#[derive(Deserialize)]
struct Vector {
    weights: String,
    crop: usize,
    vector: Vec<f32>,
}

impl Expected {
    fn bbox(&self) -> BBox {
        let [x1, y1, x2, y2] = self.corners;
        BBox::from_xyxy(x1, y1, x2, y2)
    }
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/osnet/crops.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A frame a crop; `None` without the shared test material.
fn frames(golden: &Golden) -> Option<Vec<RgbImage>> {
    let picture = image::open(shared(&golden.picture)?).unwrap().to_rgb8();
    let frame = |name: &str| {
        let numbers = name.strip_prefix("made-up ")?;
        let numbers: Vec<u32> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        Some(made_up_image(numbers[0], numbers[1], numbers[2]))
    };
    let frames = golden.crops.iter();
    let frames = frames.map(|crop| frame(&crop.frame).unwrap_or_else(|| picture.clone()));
    Some(frames.collect())
}

fn converted(file: &str) -> Option<(Report, Weights)> {
    let checkpoint = shared(&format!("weights/reid-osnet/{file}"))?;
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("osnet.safetensors");
    let report = convert(&checkpoint, &output, &Options::default()).unwrap();
    Some((report, Weights::load(&output, &Device::Cpu).unwrap()))
}

#[test]
fn both_forms_of_a_checkpoint_give_the_same_weights() {
    for name in ["market1501", "msmt17"] {
        let Some((report, torch)) = converted(&format!("osnet_x0_25_{name}.pth")) else {
            return;
        };
        let file = format!("osnet_x0_25_{name}.safetensors");
        let Some((_, safetensors)) = converted(&file) else {
            return;
        };
        let about = torch.description();
        let expected = Description {
            architecture: "osnet-x0.25".to_string(),
            classes: Vec::new(),
            input_height: 256,
            input_width: 128,
            resize: ResizeMode::Stretch,
            interpolation: Interpolation::PilBilinear,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            feature_dim: Some(512),
            batch_norm_eps: None,
            source: format!("osnet_x0_25_{name}.pth"),
            licence: "unknown".to_string(),
            ..about.clone()
        };
        assert_eq!(about, &expected);
        // By hand: all 567 tensors of the file but 80 counters and the classifier's two.
        assert_eq!((report.tensors, report.dropped.len()), (485, 82));
        let numbers = |weights: &Weights, tensor: &str| {
            let tensor = weights.tensors()[tensor].flatten_all().unwrap();
            tensor.to_vec1::<f32>().unwrap()
        };
        assert_eq!(torch.tensors().len(), safetensors.tensors().len());
        for tensor in torch.tensors().keys() {
            assert_eq!(numbers(&torch, tensor), numbers(&safetensors, tensor));
        }
    }
}

#[test]
fn crops_are_resized_as_pillow_does_it() {
    let golden = golden();
    let Some(frames) = frames(&golden) else {
        return;
    };
    for (expected, frame) in golden.crops.iter().zip(&frames) {
        let crop = Region::of(&expected.bbox(), frame).unwrap().cut(frame);
        let resized = resize_pil(&crop, 128, 256, Filter::Bilinear);
        let sum: u64 = resized.as_raw().iter().map(|v| u64::from(*v)).sum();
        assert_eq!(sum, expected.sum, "{:?}", expected.corners);
        let sampled: Vec<u8> = resized.as_raw().iter().step_by(997).copied().collect();
        assert_eq!(sampled, expected.every_997th, "{:?}", expected.corners);
    }
}

// torchreid's own single precision is off by up to 2.2e-7.
#[test]
fn vectors_of_frames_and_boxes_are_those_of_torchreid() {
    let golden = golden();
    let Some(frames) = frames(&golden) else {
        return;
    };
    let crops = golden.crops.iter().zip(&frames);
    let crops: Vec<_> = crops
        .map(|(expected, image)| Crop {
            image,
            bbox: expected.bbox(),
        })
        .collect();
    for name in ["market1501", "msmt17"] {
        let Some((_, weights)) = converted(&format!("osnet_x0_25_{name}.pth")) else {
            return;
        };
        let embedder = LoadedEmbedder::new(&weights, &Device::Cpu, DType::F32).unwrap();
        let found = embedder.embed(&crops).unwrap();
        for expected in golden.vectors.iter().filter(|v| v.weights == name) {
            let found = found[expected.crop].as_ref().unwrap();
            let pairs = found.as_slice().iter().zip(&expected.vector);
            let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let cosine = found.cosine(&Embedding::new(expected.vector.clone()).unwrap());
            println!(
                "{name}, crop {}: cosine {cosine}, off by {off:.1e}",
                expected.crop
            );
            assert!(
                cosine > 0.99999 && off < 1e-6,
                "{name}, crop {}",
                expected.crop
            );
        }
    }
    assert_eq!(golden.vectors.len(), 10);
}
