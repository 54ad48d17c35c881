//! RT-DETR against other implementations, with made-up weights: Hugging Face's for ResNet-vd
//! backbones, Ultralytics' for HGNetv2.
//!
//! Expected numbers: `tests/goldens/rtdetr/`, made by `tests/oracle/rtdetr/make_goldens.py` in
//! double precision.

// A helper that cannot do its part must fail its test.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use mtmc_models::layers::{Mode, Params};
use mtmc_models::ops::top_k;
use mtmc_models::rtdetr::{RtDetr, RtDetrConfig};
use mtmc_models::testing::{digest, made_up_description, made_up_input, made_up_weights};
use mtmc_models::{Description, expected_tensors};
use serde::Deserialize;

const CLASSES: usize = 80;
const QUERIES: usize = 300;

#[derive(Deserialize)]
struct Case {
    architecture: String,
    width: u32,
    height: u32,
    seed: u32,
    gap: f32,
    backbone: Vec<Level>,
    encoder: Vec<Level>,
    cells: Vec<u32>,
    cell_scores: Vec<f32>,
    mean_box: Vec<f32>,
    mean_logit: f32,
    queries: Vec<Query>,
}

#[derive(Deserialize)]
struct Level {
    shape: Vec<usize>,
    rms: f32,
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Query {
    cell: u32,
    class: usize,
    logit: f32,
    logits: Vec<f32>,
    #[serde(rename = "box")]
    bbox: Vec<f32>,
}

#[derive(Deserialize)]
struct Tensors {
    tensors: usize,
    parameters: usize,
    digest: String,
}

fn golden<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/goldens/rtdetr")
        .join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn description(name: &str) -> Description {
    let ultralytics = ["rtdetr-l", "rtdetr-x"].contains(&name);
    Description {
        batch_norm_eps: ultralytics.then_some(1e-3),
        ..made_up_description(name)
    }
}

fn network(name: &str) -> RtDetr {
    let description = description(name);
    let weights = made_up_weights(&description, &expected_tensors(&description).unwrap());
    let vb = weights.var_builder(DType::F32, &Device::Cpu);
    let params = Params::new(
        vb,
        Mode::Inference,
        description.batch_norm_eps.unwrap_or(1e-5),
    );
    let config = RtDetrConfig::named(name, CLASSES).unwrap();
    RtDetr::new(&config, &params).unwrap()
}

/// Each number within `tolerance` of its expected one.
fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= tolerance,
            "{what}: {found} is not {expected}"
        );
    }
}

/// Sampled numbers of a level within 1e-4 of its root mean square.
fn assert_level(found: &Tensor, expected: &Level, what: &str) {
    let found = found.get(0).unwrap();
    assert_eq!(found.dims(), expected.shape, "{what}");
    let values = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let square: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
    let rms = (square / values.len() as f64).sqrt() as f32;
    assert_near(&[rms], &[expected.rms], 1e-5 * expected.rms, what);
    let count = expected.values.len();
    let picked: Vec<f32> = (0..count)
        .map(|index| values[index * (values.len() - 1) / (count - 1)])
        .collect();
    assert_near(&picked, &expected.values, 1e-4 * expected.rms, what);
}

fn check(network: &RtDetr, file: &str) {
    let case: Case = golden(file);
    let trace = network
        .trace(&made_up_input(case.width, case.height, case.seed))
        .unwrap();
    for (index, level) in trace.backbone.iter().enumerate() {
        assert_level(
            level,
            &case.backbone[index],
            &format!("{file}, backbone {index}"),
        );
    }
    for (index, level) in trace.encoder.iter().enumerate() {
        assert_level(
            level,
            &case.encoder[index],
            &format!("{file}, encoder {index}"),
        );
    }
    let scores: Vec<f32> = trace
        .decoder
        .encoder_scores
        .get(0)
        .unwrap()
        .to_vec1()
        .unwrap();
    let cells = top_k(&scores, QUERIES);
    let set = |cells: &[u32]| cells.iter().copied().collect::<BTreeSet<u32>>();
    assert_eq!(set(&cells), set(&case.cells), "gap {}", case.gap);
    let found: Vec<f32> = case
        .cells
        .iter()
        .step_by(20)
        .map(|&cell| scores[cell as usize])
        .collect();
    assert_near(&found, &case.cell_scores, 1e-4, "cells' scores");

    let logits: Vec<Vec<f32>> = trace.decoder.logits.get(0).unwrap().to_vec2().unwrap();
    let boxes: Vec<Vec<f32>> = trace.decoder.boxes.get(0).unwrap().to_vec2().unwrap();
    for query in &case.queries {
        let what = format!("{file}, query of cell {}", query.cell);
        let row = cells.iter().position(|&cell| cell == query.cell).unwrap();
        assert_near(&[logits[row][query.class]], &[query.logit], 1e-3, &what);
        let sampled: Vec<f32> = logits[row].iter().copied().step_by(20).collect();
        assert_near(&sampled, &query.logits, 1e-3, &what);
        assert_near(&boxes[row], &query.bbox, 1e-3, &what);
    }
    let mean = |values: Vec<f32>| {
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        (sum / values.len() as f64) as f32
    };
    assert_near(
        &[mean(logits.concat())],
        &[case.mean_logit],
        1e-4,
        "mean logit",
    );
    for side in 0..4 {
        let found = mean(boxes.iter().map(|bbox| bbox[side]).collect());
        assert_near(&[found], &case.mean_box[side..=side], 1e-4, "mean box");
    }
    assert!(file.starts_with(&case.architecture));
}

#[test]
fn r18_gives_what_hugging_face_gives() {
    let network = network("rtdetr-r18");
    check(&network, "rtdetr-r18-320x320.json");
    check(&network, "rtdetr-r18-640x640.json");
}

// Hugging Face and Ultralytics count the position embedding's cells row by row, row first; for
// square maps that is the same as the authors' column by column, column first.
#[test]
fn sides_may_differ() {
    check(&network("rtdetr-r18"), "rtdetr-r18-320x256.json");
}

// Bottleneck blocks, six decoder layers, the encoder's full width.
#[test]
fn r50_gives_what_hugging_face_gives() {
    check(&network("rtdetr-r50"), "rtdetr-r50-320x320.json");
}

#[test]
fn x_gives_what_ultralytics_gives() {
    let network = network("rtdetr-x");
    check(&network, "rtdetr-x-320x320.json");
    check(&network, "rtdetr-x-640x640.json");
}

#[test]
fn all_sizes_have_the_tensors_of_their_origin() {
    let expected: BTreeMap<String, Tensors> = golden("tensors.json");
    assert_eq!(expected.len(), 6);
    for (name, expected) in &expected {
        let specs = expected_tensors(&description(name)).unwrap();
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
