//! DEIMv2 of all four sizes with made-up weights gives what the authors' PyTorch code gives with
//! the same. Expected numbers: `tests/oracle/deimv2/make_goldens.py`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use candle_core::{DType, Device, Tensor};
use mtmc_models::deimv2::{Deimv2, Deimv2Config, NAMES};
use mtmc_models::layers::{Mode, Params};
use mtmc_models::ops::top_k;
use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights};
use mtmc_models::{Weights, expected_tensors};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    height: u32,
    width: u32,
    made_up_seeds: Vec<u32>,
    backbone: Vec<Samples>,
    encoder: Vec<Samples>,
    encoder_scores: Samples,
    logits: Samples,
    boxes: Samples,
}

/// Every `step`-th number of a tensor.
#[derive(Deserialize)]
struct Samples {
    shape: Vec<usize>,
    mean_abs: f32,
    step: usize,
    values: Vec<f32>,
}

impl Samples {
    /// The largest difference, relative to the tensor's mean magnitude.
    fn difference(&self, tensor: &Tensor) -> f32 {
        assert_eq!(tensor.dims(), self.shape);
        let found = numbers(tensor);
        let sum: f64 = found.iter().map(|x| f64::from(x.abs())).sum();
        let mean = (sum / found.len() as f64) as f32;
        let mut worst = (mean - self.mean_abs).abs();
        for (found, expected) in found.iter().step_by(self.step).zip(&self.values) {
            worst = worst.max((found - expected).abs());
        }
        worst / self.mean_abs
    }
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn golden(name: &str) -> Golden {
    let size = name.strip_prefix("deimv2-").unwrap();
    let path = format!(
        "{}/../tests/goldens/deimv2/{size}-made-up.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn made_up(name: &str) -> Weights {
    let description = made_up_description(name);
    let specs = expected_tensors(&description).unwrap();
    made_up_weights(&description, &specs)
}

fn network(name: &str) -> Deimv2 {
    let vb = made_up(name).var_builder(DType::F32, &Device::Cpu);
    let config = Deimv2Config::named(name, 80).unwrap();
    Deimv2::new(&config, &Params::new(vb, Mode::Inference, 1e-5)).unwrap()
}

/// A batch of made-up images, `[seeds, 3, height, width]` in 0..=1.
fn images(width: u32, height: u32, seeds: &[u32]) -> Tensor {
    let (w, h) = (width as usize, height as usize);
    let batch: Vec<Tensor> = seeds
        .iter()
        .map(|&seed| {
            let pixels = made_up_image(width, height, seed).into_raw();
            let pixels: Vec<f32> = pixels.iter().map(|&p| f32::from(p) / 255.0).collect();
            let image = Tensor::from_vec(pixels, (h, w, 3), &Device::Cpu).unwrap();
            image.permute((2, 0, 1)).unwrap().contiguous().unwrap()
        })
        .collect();
    Tensor::stack(&batch, 0).unwrap()
}

/// The queries' outputs in the order of the cells that they came from: the order by score is a
/// matter of rounding where scores are near ties.
fn by_cell(outputs: &Tensor, scores: &Tensor) -> Tensor {
    let (batch, queries, size) = outputs.dims3().unwrap();
    let scores = scores.to_vec2::<f32>().unwrap();
    let mut order: Vec<u32> = Vec::new();
    for row in &scores {
        let cells = top_k(row, queries);
        let mut ranks: Vec<u32> = (0..queries as u32).collect();
        ranks.sort_by_key(|&rank| cells[rank as usize]);
        order.extend(ranks);
    }
    let order = Tensor::from_vec(order, (batch, queries, 1), &Device::Cpu).unwrap();
    let order = order.broadcast_as((batch, queries, size)).unwrap();
    outputs.gather(&order.contiguous().unwrap(), 1).unwrap()
}

#[test]
fn made_up_weights_give_what_the_authors_code_gives() {
    for name in NAMES {
        let golden = golden(name);
        let images = images(golden.width, golden.height, &golden.made_up_seeds);
        let trace = network(name).trace(&images).unwrap();
        let decoder = &trace.decoder;
        let mut pairs = vec![(
            "encoder scores",
            &golden.encoder_scores,
            decoder.encoder_scores.clone(),
        )];
        assert_eq!(golden.backbone.len(), trace.backbone.len());
        for (expected, found) in golden.backbone.iter().zip(&trace.backbone) {
            pairs.push(("backbone", expected, found.clone()));
        }
        for (expected, found) in golden.encoder.iter().zip(&trace.encoder) {
            pairs.push(("encoder", expected, found.clone()));
        }
        let ordered = |tensor: &Tensor| by_cell(tensor, &decoder.encoder_scores);
        pairs.push(("logits", &golden.logits, ordered(&decoder.logits)));
        pairs.push(("boxes", &golden.boxes, ordered(&decoder.boxes)));
        for (part, expected, found) in pairs {
            let difference = expected.difference(&found);
            println!("{name}, {part}: {difference:.1e}");
            assert!(difference <= 3e-5, "{name}, {part}: off by {difference}");
        }
    }
}

#[test]
fn a_batch_gives_what_its_images_give() {
    let network = network("deimv2-n");
    let together = network.trace(&images(384, 256, &[1, 2])).unwrap().decoder;
    for (index, seed) in [1, 2].into_iter().enumerate() {
        let alone = network.trace(&images(384, 256, &[seed])).unwrap().decoder;
        for (a, b) in [
            (&together.logits, &alone.logits),
            (&together.boxes, &alone.boxes),
        ] {
            let a = numbers(&a.get(index).unwrap());
            for (a, b) in a.iter().zip(numbers(b)) {
                assert!((a - b).abs() <= 1e-5, "{a} {b}");
            }
        }
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let network = network("deimv2-atto");
    // 90 is no multiple of 32; 64 × 64 has 20 cells for 100 queries.
    for side in [90, 64] {
        let image = Tensor::zeros((1, 3, side, side), DType::F32, &Device::Cpu).unwrap();
        let error = network.trace(&image).err().unwrap().to_string();
        assert!(
            error.contains("multiples of 32") || error.contains("20 cells"),
            "{error}"
        );
    }
}
