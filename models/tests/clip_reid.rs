//! CLIP-ReID's vision transformer with made-up weights against the reference's own code.
//!
//! Expected numbers: `tests/goldens/clip/outputs.json`, made by
//! `tests/oracle/clip/make_goldens.py` in double precision.

// A helper that cannot do its part must fail its test.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use mtmc_models::clip::{ClipVit, ClipVitConfig, ClipVitVariant, Feature, NAME, Neck};
use mtmc_models::embed::EmbeddingNetwork;
use mtmc_models::layers::{Mode, Params};
use mtmc_models::network::expected_tensors;
use mtmc_models::testing::{
    made_up, made_up_description, made_up_image, made_up_input, made_up_weights,
};
use mtmc_models::{Crop, Description, Embedder, LoadedEmbedder, Variant, Weights};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    variant: ClipVitVariant,
    sizes: Sizes,
    step: usize,
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Sizes {
    image: (usize, usize),
    patch: usize,
    width: usize,
    layers: usize,
    heads: usize,
    projection: usize,
}

#[derive(Deserialize)]
struct Image {
    seed: u32,
    camera: Option<u32>,
    length: f32,
    values: Vec<f32>,
}

fn cases(prefix: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/clip/outputs.json");
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    cases
        .into_iter()
        .filter(|case| case.name.starts_with(prefix))
        .collect()
}

fn config(case: &Case) -> ClipVitConfig {
    let sizes = &case.sizes;
    ClipVitConfig {
        image: sizes.image,
        patch: sizes.patch,
        width: sizes.width,
        layers: sizes.layers,
        heads: sizes.heads,
        projection: sizes.projection,
        text_layers: 0,
        text_heads: 0,
        variant: case.variant,
    }
}

fn description(variant: ClipVitVariant) -> Description {
    Description {
        classes: Vec::new(),
        input_height: 256,
        input_width: 128,
        mean: [0.5; 3],
        std: [0.5; 3],
        feature_dim: None,
        variant: Some(Variant::ClipVit(variant)),
        ..made_up_description(NAME)
    }
}

/// Whatever tensor is asked for, made up.
struct MadeUp;

impl candle_nn::var_builder::SimpleBackend for MadeUp {
    fn get(
        &self,
        shape: candle_core::Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        Tensor::from_vec(made_up(name, shape.dims()), shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn network(config: &ClipVitConfig, mode: Mode) -> ClipVit {
    let vb = VarBuilder::from_backend(Box::new(MadeUp), DType::F32, Device::Cpu);
    ClipVit::new(config, &Params::new(vb, mode, 1e-5)).unwrap()
}

/// A made-up image as the network takes it.
fn input((height, width): (usize, usize), seed: u32) -> Tensor {
    made_up_input(width as u32, height as u32, seed)
        .affine(2.0, -1.0)
        .unwrap()
}

fn row(vectors: &Tensor, index: usize) -> Vec<f32> {
    vectors.get(index).unwrap().to_vec1().unwrap()
}

/// Largest difference, relative to the expected numbers' root mean square.
fn relative(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let square: f32 = expected.iter().map(|e| e * e).sum();
    let rms = (square / expected.len() as f32).sqrt();
    let off = found.iter().zip(expected).map(|(f, e)| (f - e).abs());
    off.fold(0.0, f32::max) / rms
}

fn assert_case(case: &Case, network: &ClipVit) {
    for image in &case.images {
        let camera = image.camera.map(|camera| vec![camera]);
        let vectors = network.vectors(&input(case.sizes.image, image.seed), camera.as_deref());
        let vector = row(&vectors.unwrap(), 0);
        assert_eq!(vector.len(), network.dim());
        let sampled: Vec<f32> = vector.iter().step_by(case.step).copied().collect();
        let off = relative(&sampled, &image.values);
        // PyTorch's own single precision is off by up to 2.1e-6.
        assert!(
            off < 1e-5,
            "{}, image {}: off by {off}",
            case.name,
            image.seed
        );
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!(
            (length / image.length - 1.0).abs() < 1e-5,
            "{}: {length}",
            case.name
        );
    }
}

#[test]
fn small_networks_give_what_the_reference_gives() {
    let cases = cases("small");
    assert_eq!(cases.len(), 3);
    for case in &cases {
        for mode in [Mode::Inference, Mode::Evaluation] {
            assert_case(case, &network(&config(case), mode));
        }
    }
}

// One set of weights, with side information that two of the cases do not use, serves all.
#[test]
fn the_published_size_gives_what_the_reference_gives() {
    let cases = cases("base");
    assert_eq!(cases.len(), 3);
    let known = ClipVitVariant {
        cameras: 6,
        ..ClipVitVariant::default()
    };
    let description = description(known);
    let weights = made_up_weights(&description, &expected_tensors(&description).unwrap());
    let weights = Arc::new(weights);
    for case in &cases {
        let vb = weights.var_builder(DType::F32, &Device::Cpu);
        let network = ClipVit::new(&config(case), &Params::new(vb, Mode::Inference, 1e-5)).unwrap();
        assert_case(case, &network);
        if case.name == "base-proj" {
            assert_whole_way(case, &weights);
        }
    }
}

/// The same from an image on: one of the network's size is not resized.
fn assert_whole_way(case: &Case, weights: &Weights) {
    let embedder = LoadedEmbedder::new(weights, &Device::Cpu, DType::F32).unwrap();
    assert_eq!((embedder.dim(), embedder.input_size()), (512, (256, 128)));
    let expected = &case.images[0];
    let image = made_up_image(128, 256, expected.seed);
    let found = embedder
        .embed(&[Crop::whole(&image)])
        .unwrap()
        .remove(0)
        .unwrap();
    let sampled: Vec<f32> = found
        .as_slice()
        .iter()
        .step_by(case.step)
        .map(|v| v * expected.length)
        .collect();
    let off = relative(&sampled, &expected.values);
    assert!(off < 1e-5, "off by {off}");
}

#[test]
fn a_batch_gives_what_single_images_give() {
    // Wide enough for the routines that the published size meets.
    let config = ClipVitConfig {
        image: (64, 32),
        width: 384,
        layers: 2,
        heads: 6,
        projection: 300,
        ..ClipVitConfig::base(
            (64, 32),
            ClipVitVariant {
                feature: Feature::Full,
                ..ClipVitVariant::default()
            },
        )
    };
    let network = network(&config, Mode::Inference);
    let images: Vec<_> = (0..5).map(|seed| input(config.image, seed)).collect();
    for count in [2, 3, 5] {
        let together = network
            .forward(&Tensor::cat(&images[..count], 0).unwrap())
            .unwrap();
        for (index, image) in images[..count].iter().enumerate() {
            let alone = row(&network.forward(image).unwrap(), 0);
            assert_eq!(alone, row(&together, index), "image {index} of {count}");
        }
    }
}

// Cameras of one batch differ, and what belongs to no camera gets nothing.
#[test]
fn side_information_is_each_images_own() {
    let cases = cases("small-overlap");
    let network = network(&config(&cases[0]), Mode::Inference);
    let image = input(cases[0].sizes.image, 4);
    let pair = Tensor::cat(&[&image, &image], 0).unwrap();
    let vectors = network.vectors(&pair, Some(&[14, 3])).unwrap();
    let alone = |camera| row(&network.vectors(&image, camera).unwrap(), 0);
    assert_eq!(row(&vectors, 0), alone(Some(&[14][..])));
    assert_eq!(row(&vectors, 1), alone(Some(&[3][..])));
    assert_ne!(row(&vectors, 0), row(&vectors, 1));
    assert_eq!(row(&network.forward(&image).unwrap(), 0), alone(None));
    for wrong in [&[15, 0][..], &[1], &[]] {
        assert!(network.vectors(&pair, Some(wrong)).is_err(), "{wrong:?}");
    }
    let other = input((64, 48), 4);
    assert!(network.forward(&other).is_err());
}

/// The same as variables, kept by name.
#[derive(Clone, Default)]
struct Learnt(Arc<Mutex<HashMap<String, Var>>>);

impl candle_nn::var_builder::SimpleBackend for Learnt {
    fn get(
        &self,
        shape: candle_core::Shape,
        name: &str,
        init: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let var = Var::from_tensor(&MadeUp.get(shape, name, init, dtype, device)?)?;
        let tensor = var.as_tensor().clone();
        self.0.lock().unwrap().insert(name.to_string(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

#[test]
fn gradients_reach_all_weights() {
    let cases = cases("small-overlap");
    let config = config(&cases[0]);
    let learnt = Learnt::default();
    let vb = VarBuilder::from_backend(Box::new(learnt.clone()), DType::F32, Device::Cpu);
    let network = ClipVit::new(&config, &Params::new(vb, Mode::Training, 1e-5)).unwrap();
    let images = Tensor::cat(&[input(config.image, 1), input(config.image, 2)], 0).unwrap();
    let output = network.vectors(&images, Some(&[1, 2])).unwrap();
    let gradients = output
        .powf(3.0)
        .unwrap()
        .mean_all()
        .unwrap()
        .backward()
        .unwrap();
    for (name, var) in learnt.0.lock().unwrap().iter() {
        let found = gradients.get(var.as_tensor()).is_some();
        assert_eq!(found, !name.contains(".running_"), "{name}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let base = ClipVitVariant::default();
    for variant in [
        ClipVitVariant { stride: 0, ..base },
        ClipVitVariant { stride: 17, ..base },
        ClipVitVariant {
            cameras: usize::MAX,
            ..base
        },
        ClipVitVariant {
            camera_weight: f64::NAN,
            ..base
        },
    ] {
        let error = expected_tensors(&description(variant))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no vision transformer"), "{error}");
    }
    let narrow = Description {
        input_width: 15,
        ..description(base)
    };
    assert!(expected_tensors(&narrow).is_err());
    let after = ClipVitVariant {
        neck: Neck::After,
        ..base
    };
    let specs = expected_tensors(&description(after)).unwrap();
    assert!(
        specs
            .iter()
            .any(|spec| spec.name == "bottleneck_proj.running_var")
    );
    assert!(
        specs
            .iter()
            .all(|spec| !spec.name.starts_with("bottleneck."))
    );
}
