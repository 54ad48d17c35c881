//! OSNet with made-up weights against torchreid's own network, and what every encoder promises.
//!
//! Expected numbers: `tests/goldens/osnet/`, made by `tests/oracle/osnet/make_goldens.py` in double
//! precision.

// A helper that cannot do its part must fail its test.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use image::RgbImage;
use mtmc_models::embed::{EmbeddingNetwork, MAX_BATCH};
use mtmc_models::layers::{Mode, Params};
use mtmc_models::network::{build_embedder, expected_tensors};
use mtmc_models::osnet::{OsNet, OsNetConfig};
use mtmc_models::testing::{digest, made_up_description, made_up_image, made_up_weights};
use mtmc_models::{
    BBox, Crop, Description, EmbedError, Embedder, Embedding, LoadedEmbedder, Weights,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    architecture: String,
    seed: u32,
    every_8th: Vec<f32>,
}

#[derive(Deserialize)]
struct Tensors {
    tensors: usize,
    parameters: usize,
    digest: String,
}

fn golden<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/goldens/osnet")
        .join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn description(architecture: &str) -> Description {
    Description {
        classes: Vec::new(),
        input_height: 256,
        input_width: 128,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        feature_dim: Some(512),
        ..made_up_description(architecture)
    }
}

fn weights(architecture: &str) -> Weights {
    let description = description(architecture);
    made_up_weights(&description, &expected_tensors(&description).unwrap())
}

fn embedder(architecture: &str) -> LoadedEmbedder {
    LoadedEmbedder::new(&weights(architecture), &Device::Cpu, DType::F32).unwrap()
}

fn embed(embedder: &LoadedEmbedder, crops: &[Crop]) -> Vec<Embedding> {
    let results = embedder.embed(crops).unwrap();
    results.into_iter().map(Result::unwrap).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

// PyTorch's own single precision is off by up to 7e-8.
#[test]
fn vectors_are_those_of_torchreid() {
    let cases: Vec<Case> = golden("made-up.json");
    for pair in cases.chunks(2) {
        let name = pair[0].architecture.as_str();
        let images: Vec<_> = pair
            .iter()
            .map(|case| made_up_image(128, 256, case.seed))
            .collect();
        let crops: Vec<_> = images.iter().map(Crop::whole).collect();
        let found = embed(&embedder(name), &crops);
        for (case, found) in pair.iter().zip(&found) {
            let sampled: Vec<f32> = found.as_slice().iter().step_by(8).copied().collect();
            let off = largest_difference(&sampled, &case.every_8th);
            assert!(off < 1e-6, "{name}, image {}: off by {off}", case.seed);
        }
        // Else equality would say little.
        let other = largest_difference(&pair[0].every_8th, &pair[1].every_8th);
        assert!(other > 1e-3, "{name}: images differ by {other}");
    }
    assert_eq!(cases.len(), 18);
}

#[test]
fn all_sizes_have_torchreids_tensors() {
    let golden: BTreeMap<String, Tensors> = golden("tensors.json");
    assert_eq!(golden.len(), 9);
    for (name, expected) in golden {
        let specs = expected_tensors(&description(&name)).unwrap();
        assert_eq!(specs.len(), expected.tensors, "{name}");
        let parameters: usize = specs
            .iter()
            .filter(|spec| !spec.name.contains(".running_"))
            .map(|spec| spec.shape.iter().product::<usize>())
            .sum();
        assert_eq!(parameters, expected.parameters, "{name}");
        assert_eq!(digest(&specs), expected.digest, "{name}");
    }
}

// Plain candle operations, batch norms not folded, are the yardstick of the fused ones.
#[test]
fn fused_and_plain_layers_agree() {
    for name in ["osnet-x0.25", "osnet-ibn-x1.0", "osnet-ain-x0.25"] {
        let description = description(name);
        let weights = weights(name);
        let forward = |mode| {
            let vb = weights.var_builder(DType::F32, &Device::Cpu);
            let network = build_embedder(&description, &Params::new(vb, mode, 1e-5)).unwrap();
            let input = mtmc_models::testing::made_up_input(64, 96, 3);
            let output = network.forward(&input).unwrap();
            let vector = output.squeeze(0).unwrap().to_vec1::<f32>().unwrap();
            Embedding::new(vector).unwrap()
        };
        let (fused, plain) = (forward(Mode::Inference), forward(Mode::Evaluation));
        let off = largest_difference(fused.as_slice(), plain.as_slice());
        assert!(off < 1e-6, "{name}: off by {off}");
    }
}

// More crops than pass at once, out of frames of several sizes.
#[test]
fn a_batch_gives_what_single_crops_give() {
    let embedder = embedder("osnet-x0.25");
    let frames = [made_up_image(320, 200, 1), made_up_image(90, 240, 2)];
    let mut crops = Vec::new();
    for index in 0..MAX_BATCH + 3 {
        let (x, y) = ((index % 5) as f32 * 7.3, (index / 5) as f32 * 11.9);
        crops.push(Crop {
            image: &frames[index % 2],
            bbox: BBox::from_tlwh(x, y, 40.0 + x, 100.0 + y),
        });
    }
    let together = embed(&embedder, &crops);
    for (index, crop) in crops.iter().enumerate().step_by(6) {
        let alone = embed(&embedder, &[*crop]).remove(0);
        assert_eq!(alone, together[index], "crop {index}");
        let length: f32 = alone.as_slice().iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5, "crop {index}: {length}");
    }
    assert_eq!((embedder.dim(), embedder.input_size()), (512, (256, 128)));
    assert!(embedder.embed(&[]).unwrap().is_empty());
}

#[test]
fn a_box_without_pixels_costs_its_own_vector_alone() {
    let embedder = embedder("osnet-x0.25");
    let frame = made_up_image(100, 100, 1);
    let none = RgbImage::new(0, 0);
    let crop = |x1, y1, x2, y2| Crop {
        image: &frame,
        bbox: BBox::from_xyxy(x1, y1, x2, y2),
    };
    let crops = [
        crop(10.0, 10.0, 40.0, 90.0),
        crop(120.0, 10.0, 140.0, 90.0),
        crop(50.0, 10.0, 50.9, 90.0),
        crop(f32::NAN, 10.0, 50.0, 90.0),
        Crop::whole(&none),
        crop(60.0, 10.0, 90.0, 90.0),
    ];
    let results = embedder.embed(&crops).unwrap();
    let empty = results[1..5].iter();
    assert!(empty.clone().all(|r| *r == Err(EmbedError::EmptyCrop)));
    let alone = embed(&embedder, &[crops[0], crops[5]]);
    assert_eq!(results[0].as_ref().unwrap(), &alone[0]);
    assert_eq!(results[5].as_ref().unwrap(), &alone[1]);
}

/// Made-up weights with `change` made to the tensor `name`.
fn changed(name: &str, change: impl Fn(&Tensor) -> Tensor) -> Weights {
    let weights = weights("osnet-x0.25");
    let mut tensors = weights.tensors().clone();
    let tensor = change(&tensors[name]);
    tensors.insert(name.to_string(), tensor);
    Weights::from_tensors(weights.description().clone(), tensors)
}

fn load_error(weights: &Weights) -> String {
    let loaded = LoadedEmbedder::new(weights, &Device::Cpu, DType::F32);
    loaded.err().unwrap().to_string()
}

#[test]
fn vectors_that_are_no_numbers_are_errors() {
    let frame = made_up_image(100, 100, 1);
    let embed = |weights: Weights| {
        let embedder = LoadedEmbedder::new(&weights, &Device::Cpu, DType::F32).unwrap();
        embedder.embed(&[Crop::whole(&frame)]).unwrap().remove(0)
    };
    // Finite weights, but not their sums.
    let huge = changed("fc.1.weight", |t| t.affine(2e38, 0.0).unwrap());
    assert_eq!(embed(huge), Err(EmbedError::NotFinite));
    // All below zero, where ReLU leaves nothing.
    let dead = changed("fc.1.bias", |t| t.affine(1.0, -1e6).unwrap());
    assert_eq!(embed(dead), Err(EmbedError::Zero));
}

#[test]
fn weights_that_cannot_work_are_refused() {
    let name = "conv3.1.conv2d.2.conv2.weight";
    let nan = load_error(&changed(name, |t| (t * f64::NAN).unwrap()));
    assert!(nan.contains(name) && nan.contains("NaN"), "{nan}");
    let shape = load_error(&changed(name, |t| t.narrow(0, 0, 3).unwrap()));
    assert!(
        shape.contains(name) && shape.contains("[3, 1, 3, 3]"),
        "{shape}"
    );
    let good = weights("osnet-x0.25");
    let with = |description| Weights::from_tensors(description, good.tensors().clone());
    let size = load_error(&with(Description {
        feature_dim: Some(2048),
        ..description("osnet-x0.25")
    }));
    assert!(size.contains("2048") && size.contains("512"), "{size}");
    let kind = load_error(&with(description("rtdetr-l")));
    assert!(
        kind.contains("rtdetr-l") && kind.contains("osnet-x0.25"),
        "{kind}"
    );
}

// ReLU of few made-up channels may leave a single weight without a slope, but never a tensor.
#[test]
fn gradients_reach_all_weights() {
    for name in ["osnet-x0.25", "osnet-ibn-x1.0", "osnet-ain-x0.25"] {
        let weights = weights(name);
        let mut vars = HashMap::new();
        for (name, values) in weights.tensors() {
            vars.insert(name.clone(), Var::from_tensor(values).unwrap());
        }
        let tensors = vars
            .iter()
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
        let config = OsNetConfig::named(name).unwrap();
        let network = OsNet::new(&config, &Params::new(vb, Mode::Training, 1e-5)).unwrap();
        // Two images: batch norms take the batch's statistics.
        let images = [1, 2].map(|seed| mtmc_models::testing::made_up_input(48, 64, seed));
        let output = network.forward(&Tensor::cat(&images, 0).unwrap()).unwrap();
        let loss = output.sqr().unwrap().mean_all().unwrap();
        let gradients = loss.backward().unwrap();
        for (tensor, var) in &vars {
            let found = gradients.get(var.as_tensor());
            let learnt = !tensor.contains(".running_");
            assert_eq!(found.is_some(), learnt, "{name}: {tensor}");
        }
    }
}
