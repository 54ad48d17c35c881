//! YOLOv8 against Ultralytics, with made-up weights.
//!
//! Expected numbers: `tests/goldens/yolov8/`, made by `tests/oracle/yolov8/make_goldens.py`.

// A helper that cannot do its part must fail its test.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use mtmc_models::detect::{DenseNetwork, DenseOutput, DetectionNetwork, LoadedDetector};
use mtmc_models::layers::{Mode, Params};
use mtmc_models::testing::{
    digest, made_up_description, made_up_image, made_up_input, made_up_weights,
};
use mtmc_models::yolov8::{NAMES, YoloV8, YoloV8Config};
use mtmc_models::{
    Description, DetectOptions, Detector, Interpolation, ResizeMode, Weights, expected_tensors,
};
use serde::Deserialize;

/// Ultralytics' epsilon of batch norms.
const EPS: f64 = 1e-3;

#[derive(Deserialize)]
struct Outputs {
    images: Vec<Image>,
    batch: Batch,
}

#[derive(Deserialize)]
struct Image {
    width: u32,
    height: u32,
    seed: u32,
    #[serde(flatten)]
    output: Expected,
}

#[derive(Deserialize)]
struct Batch {
    width: u32,
    height: u32,
    seeds: Vec<u32>,
    outputs: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    cells: usize,
    mean_box: [f64; 4],
    mean_score: f64,
    samples: Vec<Sample>,
    best: Vec<Best>,
}

#[derive(Deserialize)]
struct Sample {
    cell: usize,
    #[serde(rename = "box")]
    corners: [f32; 4],
    first_class: usize,
    scores: [f32; 4],
}

#[derive(Deserialize)]
struct Best {
    cell: usize,
    class: usize,
    score: f32,
    #[serde(rename = "box")]
    corners: [f32; 4],
}

#[derive(Deserialize)]
struct Tensors {
    tensors: usize,
    parameters: usize,
    digest: String,
}

fn golden<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/goldens/yolov8")
        .join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn description(name: &str) -> Description {
    Description {
        classes: (0..80).map(|index| index.to_string()).collect(),
        input_height: 320,
        input_width: 320,
        resize: ResizeMode::Letterbox,
        interpolation: Interpolation::OpencvBilinear,
        batch_norm_eps: Some(EPS),
        ..made_up_description(name)
    }
}

fn weights() -> Weights {
    let description = description("yolov8n");
    made_up_weights(&description, &expected_tensors(&description).unwrap())
}

fn network(weights: &Weights, mode: Mode) -> YoloV8 {
    let vb = weights.var_builder(DType::F32, &Device::Cpu);
    let config = YoloV8Config::named("yolov8n", 80).unwrap();
    YoloV8::new(&config, &Params::new(vb, mode, EPS)).unwrap()
}

/// Boxes and scores of image `index` of a batch, a row a cell.
fn rows(output: &DenseOutput, index: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let boxes = output.boxes.get(index).unwrap().to_vec2().unwrap();
    let scores = output.scores.get(index).unwrap().to_vec2().unwrap();
    (boxes, scores)
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let limit = tolerance * expected.abs().max(1.0);
        assert!(
            (found - expected).abs() <= limit,
            "{what}: {found} is not {expected}"
        );
    }
}

fn assert_matches(output: &DenseOutput, index: usize, expected: &Expected, what: &str) {
    let (boxes, scores) = rows(output, index);
    assert_eq!(boxes.len(), expected.cells, "{what}");
    for sample in &expected.samples {
        let what = format!("{what}, cell {}", sample.cell);
        let found = &scores[sample.cell][sample.first_class..sample.first_class + 4];
        assert_near(found, &sample.scores, 1e-4, &what);
        assert_near(&boxes[sample.cell], &sample.corners, 1e-4, &what);
    }
    for best in &expected.best {
        let what = format!("{what}, best cell {}", best.cell);
        let score = scores[best.cell][best.class];
        assert_near(&[score], &[best.score], 1e-4, &what);
        assert_near(&boxes[best.cell], &best.corners, 1e-4, &what);
    }
    let best = expected.best[0].cell;
    let highest = |row: &Vec<f32>| row.iter().copied().fold(0.0, f32::max);
    let found = scores.iter().map(highest).fold(0.0, f32::max);
    assert_near(&[found], &[highest(&scores[best])], 1e-4, what);
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    for (side, &expected) in expected.mean_box.iter().enumerate() {
        let found = mean(boxes.iter().map(|row| f64::from(row[side])).collect());
        assert_near(&[found as f32], &[expected as f32], 1e-4, what);
    }
    let found = mean(scores.iter().flatten().map(|&x| f64::from(x)).collect());
    assert_near(&[found as f32], &[expected.mean_score as f32], 1e-5, what);
}

#[test]
fn outputs_are_those_of_ultralytics() {
    let network = network(&weights(), Mode::Inference);
    let outputs: Outputs = golden("outputs.json");
    for image in &outputs.images {
        let what = format!("{}×{}", image.width, image.height);
        let input = made_up_input(image.width, image.height, image.seed);
        let output = network.forward(&input).unwrap();
        assert_matches(&output, 0, &image.output, &what);
    }
}

#[test]
fn a_batch_gives_what_ultralytics_and_single_images_give() {
    let network = network(&weights(), Mode::Inference);
    let batch = golden::<Outputs>("outputs.json").batch;
    let singles: Vec<Tensor> = batch
        .seeds
        .iter()
        .map(|&seed| made_up_input(batch.width, batch.height, seed))
        .collect();
    let together = network.forward(&Tensor::cat(&singles, 0).unwrap()).unwrap();
    for (index, single) in singles.iter().enumerate() {
        let what = format!("image {index}");
        assert_matches(&together, index, &batch.outputs[index], &what);
        let alone = network.forward(single).unwrap();
        let (boxes, scores) = rows(&together, index);
        let (boxes_alone, scores_alone) = rows(&alone, 0);
        assert_near(&boxes.concat(), &boxes_alone.concat(), 1e-5, &what);
        assert_near(&scores.concat(), &scores_alone.concat(), 1e-5, &what);
    }
}

// Plain candle operations, batch norms not folded, are the yardstick of the fused ones.
#[test]
fn fused_and_plain_layers_agree() {
    let weights = weights();
    let input = made_up_input(96, 64, 6);
    let fused = network(&weights, Mode::Inference).forward(&input).unwrap();
    let plain = network(&weights, Mode::Evaluation).forward(&input).unwrap();
    let ((boxes, scores), (plain_boxes, plain_scores)) = (rows(&fused, 0), rows(&plain, 0));
    assert_near(&boxes.concat(), &plain_boxes.concat(), 1e-4, "boxes");
    assert_near(&scores.concat(), &plain_scores.concat(), 1e-4, "scores");
}

#[test]
fn all_sizes_have_ultralytics_tensors() {
    let golden: std::collections::BTreeMap<String, Tensors> = golden("tensors.json");
    for name in NAMES {
        let specs = expected_tensors(&description(name)).unwrap();
        let expected = &golden[name];
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

// The yardstick is the slope between two points along the gradient. The first layer's goes
// through everything; those of layers 9 and 12 through pooling and up-sampling.
#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let weights = weights();
    let variables = candle_nn::VarMap::new();
    for (name, tensor) in weights.tensors() {
        let variable = Var::from_tensor(tensor).unwrap();
        let mut data = variables.data().lock().unwrap();
        data.insert(name.clone(), variable);
    }
    let vb = candle_nn::VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let config = YoloV8Config::named("yolov8n", 80).unwrap();
    let network = YoloV8::new(&config, &Params::new(vb, Mode::Evaluation, EPS)).unwrap();
    let input = made_up_input(64, 64, 7);
    let loss = || {
        let output = network.forward(&input).unwrap();
        let scores = output.scores.sqr().unwrap().mean_all().unwrap();
        (scores + (output.boxes.sqr().unwrap().mean_all().unwrap() * 1e-4).unwrap()).unwrap()
    };
    let gradients = loss().backward().unwrap();
    for name in [
        "model.0.conv.weight",
        "model.9.cv1.conv.weight",
        "model.12.cv2.conv.weight",
        "model.15.cv1.conv.weight",
    ] {
        let variable = variables.data().lock().unwrap()[name].clone();
        let start = variable.as_tensor().copy().unwrap();
        let gradient = gradients.get(&variable).unwrap();
        let length = gradient.sqr().unwrap().sum_all().unwrap();
        let length = f64::from(length.to_scalar::<f32>().unwrap()).sqrt();
        let at = |step: f64| {
            let offset = (gradient * (step / length)).unwrap();
            variable.set(&(&start + offset).unwrap()).unwrap();
            f64::from(loss().to_scalar::<f32>().unwrap())
        };
        let step = 1e-3;
        let slope = (at(step) - at(-step)) / (2.0 * step);
        at(0.0);
        assert!(length > 0.0, "{name}");
        let ratio = slope / length;
        assert!(
            (ratio - 1.0).abs() < 0.02,
            "{name}: {slope} is not {length}"
        );
    }
}

#[test]
fn sides_must_be_multiples_of_32() {
    let network = network(&weights(), Mode::Inference);
    for (width, height) in [(48, 64), (64, 40)] {
        let error = network
            .forward(&made_up_input(width, height, 1))
            .err()
            .unwrap();
        assert!(error.to_string().contains("multiples of 32"), "{error}");
    }
}

// Through the whole detector, with a weights file's description: an image of the input's size,
// so that every reported box is one of the network's, clamped to the image.
#[test]
fn the_detector_reports_what_the_network_finds() {
    let weights = weights();
    let detector = LoadedDetector::new(&weights, &Device::Cpu, DType::F32).unwrap();
    assert!(matches!(detector.network(), DetectionNetwork::Dense(_)));
    let image = golden::<Outputs>("outputs.json").images.remove(0);
    let options = DetectOptions {
        score_floor: 0.5,
        classes: Vec::new(),
        nms_iou: None,
    };
    let frame = made_up_image(image.width, image.height, image.seed);
    let found = detector.detect(&[&frame], &options).unwrap().remove(0);
    // Nothing suppresses the best of all.
    let best = &image.output.best[0];
    assert_eq!(found[0].class as usize, best.class);
    assert!((found[0].score - best.score).abs() < 1e-4);
    let side = |value: f32, size: u32| value.clamp(0.0, size as f32);
    let bbox = found[0].bbox;
    let corners = [
        side(best.corners[0], image.width),
        side(best.corners[1], image.height),
        side(best.corners[2], image.width),
        side(best.corners[3], image.height),
    ];
    assert_near(&[bbox.x1, bbox.y1, bbox.x2, bbox.y2], &corners, 1e-4, "box");
    assert!(found.len() <= 300);
    assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
}
