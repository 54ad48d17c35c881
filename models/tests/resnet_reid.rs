//! ResNet50 encoders with made-up weights against the networks of four projects.
//!
//! Expected numbers: `tests/goldens/resnet50/outputs.json`, made by
//! `tests/oracle/resnet50/make_goldens.py` in double precision.

// A helper that cannot do its part must fail its test.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use mtmc_models::embed::EmbeddingNetwork;
use mtmc_models::layers::{Mode, Params};
use mtmc_models::network::expected_tensors;
use mtmc_models::resnet50::{NAME, Pooling, ResNet50, ResNet50Config, Stem};
use mtmc_models::testing::{made_up_description, made_up_image, made_up_input, made_up_weights};
use mtmc_models::{Crop, Description, Embedder, LoadedEmbedder, Variant, Weights};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    config: ResNet50Config,
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Image {
    seed: u32,
    length: f32,
    every_8th: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/resnet50/outputs.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn description(config: ResNet50Config) -> Description {
    Description {
        classes: Vec::new(),
        input_height: 256,
        input_width: 128,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        feature_dim: Some(config.dim()),
        variant: Some(Variant::Resnet50(config)),
        ..made_up_description(NAME)
    }
}

fn weights(config: ResNet50Config) -> Weights {
    let description = description(config);
    let weights = made_up_weights(&description, &expected_tensors(&description).unwrap());
    let (Stem::Ceiling, Some(dim)) = (config.stem, config.reduced) else {
        return weights;
    };
    // fastreid's reduction is a convolution without bias.
    let mut tensors = weights.tensors().clone();
    let zeros = Tensor::zeros(dim, DType::F32, &Device::Cpu).unwrap();
    tensors.insert("fc.bias".to_string(), zeros);
    Weights::from_tensors(description, tensors)
}

fn network(config: ResNet50Config, mode: Mode) -> ResNet50 {
    let vb = weights(config).var_builder(DType::F32, &Device::Cpu);
    ResNet50::new(&config, &Params::new(vb, mode, 1e-5)).unwrap()
}

/// Largest difference, relative to the expected numbers' root mean square.
fn relative(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let square: f32 = expected.iter().map(|e| e * e).sum();
    let rms = (square / expected.len() as f32).sqrt();
    let off = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    off.fold(0.0, f32::max) / rms
}

// The whole way: an image of the network's size is not resized, and vectors have length 1.
// PyTorch's own single precision is off by up to 2.9e-6.
#[test]
fn vectors_are_those_of_the_references() {
    let cases = cases();
    assert_eq!(cases.len(), 7);
    let mut worst = 0.0_f32;
    for case in &cases {
        let weights = weights(case.config);
        let embedder = LoadedEmbedder::new(&weights, &Device::Cpu, DType::F32).unwrap();
        assert_eq!(embedder.dim(), case.config.dim(), "{}", case.name);
        let frames: Vec<_> = case
            .images
            .iter()
            .map(|image| made_up_image(128, 256, image.seed))
            .collect();
        let crops: Vec<_> = frames.iter().map(Crop::whole).collect();
        let found = embedder.embed(&crops).unwrap();
        for (found, image) in found.into_iter().zip(&case.images) {
            let found = found.unwrap();
            let sampled: Vec<f32> = found
                .as_slice()
                .iter()
                .step_by(8)
                .map(|v| v * image.length)
                .collect();
            let off = relative(&sampled, &image.every_8th);
            worst = worst.max(off);
            assert!(
                off < 2e-5,
                "{}, image {}: off by {off}",
                case.name,
                image.seed
            );
        }
    }
    assert!(worst > 0.0, "nothing was compared");
}

// Plain candle operations, batch norms not folded, are the yardstick of the fused ones.
#[test]
fn fused_and_plain_layers_agree() {
    for case in cases()
        .iter()
        .filter(|case| ["512", "fastreid-gem-512"].contains(&case.name.as_str()))
    {
        // Even and odd maps before the pooling.
        let input = made_up_input(64, 98, 3);
        let vector = |mode| {
            let output = network(case.config, mode).forward(&input).unwrap();
            output.squeeze(0).unwrap().to_vec1::<f32>().unwrap()
        };
        let off = relative(&vector(Mode::Inference), &vector(Mode::Evaluation));
        assert!(off < 1e-5, "{}: off by {off}", case.name);
    }
}

#[test]
fn a_batch_gives_what_single_images_give() {
    let config = ResNet50Config {
        reduced: Some(512),
        ..ResNet50Config::default()
    };
    let network = network(config, Mode::Inference);
    let images = [1, 2, 3].map(|seed| made_up_input(64, 128, seed));
    let together = network.forward(&Tensor::cat(&images, 0).unwrap()).unwrap();
    for (index, image) in images.iter().enumerate() {
        let alone = network.forward(image).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(
            alone[0],
            together.get(index).unwrap().to_vec1::<f32>().unwrap()
        );
    }
}

#[test]
fn gradients_reach_all_weights() {
    let config = ResNet50Config {
        pooling: Pooling::GeneralizedMean,
        reduced: Some(32),
        ..ResNet50Config::default()
    };
    let mut vars = HashMap::new();
    for (name, values) in weights(config).tensors() {
        vars.insert(name.clone(), Var::from_tensor(values).unwrap());
    }
    let tensors = vars
        .iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().clone()));
    let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let network = ResNet50::new(&config, &Params::new(vb, Mode::Training, 1e-5)).unwrap();
    let images = [1, 2].map(|seed| made_up_input(32, 48, seed));
    let pooled = network.pooled(&Tensor::cat(&images, 0).unwrap()).unwrap();
    let output = network.finish(&pooled).unwrap();
    let loss = output.powf(3.0).unwrap().mean_all().unwrap();
    let gradients = loss.backward().unwrap();
    for (name, var) in &vars {
        let found = gradients.get(var.as_tensor()).is_some();
        assert_eq!(found, !name.contains(".running_"), "{name}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let good = weights(ResNet50Config::default());
    for config in [
        ResNet50Config {
            last_stride: 3,
            ..ResNet50Config::default()
        },
        ResNet50Config {
            reduced: Some(0),
            ..ResNet50Config::default()
        },
        ResNet50Config {
            reduced: Some(usize::MAX),
            ..ResNet50Config::default()
        },
        ResNet50Config {
            relu: true,
            ..ResNet50Config::default()
        },
    ] {
        let wrong = Weights::from_tensors(description(config), good.tensors().clone());
        let error = LoadedEmbedder::new(&wrong, &Device::Cpu, DType::F32)
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("no ResNet50 can be built"),
            "{error}"
        );
    }
}
