//! CLIP-ReID's training against its authors' own code (`tests/oracle/train_clip.py`), and runs of both
//! stages that are stopped and resumed.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor, Var};
use mtmc::train::config::Config;
use mtmc::train::data::{Kind, TrainSet, synth};
use mtmc::train::loss::contrastive;
use mtmc::train::optim::{Gradients, Method, Optimizer, Parameter};
use mtmc::train::trainer::{
    Ending, Learning, Losses, Network, Observer, RunFolder, Trainer, initial, is_learnt, losses,
    prompt_losses,
};
use mtmc::train::watch::{Epoch, Step};
use mtmc_models::clip::{CONTEXT, ClipVitConfig, ClipVitVariant, TextConfig, TextEncoder};
use mtmc_models::layers::{Mode, Params};
use mtmc_models::testing::made_up;
use mtmc_models::{Description, TensorSpec, Variant, Weights};
use serde_json::Value;

const PEOPLE: usize = 4;
const IMAGES: usize = 2;
/// Numbers of the tiny projection, and of a word.
const WIDTH: usize = 32;

const TINY: [&str; 4] = [
    "model.architecture=clip-reid-vit-tiny",
    "model.height=64",
    "model.width=32",
    "prompts.epochs=3",
];

fn load(settings: &[&str]) -> Config {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    Config::load(None, &settings).unwrap()
}

fn golden(name: &str) -> Value {
    let path = format!(
        "{}/tests/goldens/train/clip.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all[name].clone()
}

fn list(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list.iter().map(|number| number.as_f64().unwrap()).collect()
}

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(made_up(name, shape), shape, &Device::Cpu).unwrap()
}

fn numbers(x: &Tensor) -> Vec<f64> {
    let flat: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
    flat.into_iter().map(f64::from).collect()
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let off = (found - expected).abs();
        assert!(off < tolerance, "{what}: {found} instead of {expected}");
    }
}

/// A CLIP with its text encoder, made up.
fn made_up_clip(description: &Description) -> Weights {
    let mut whole = description.clone();
    whole.variant = Some(Variant::ClipVit(ClipVitVariant {
        text: true,
        ..ClipVitVariant::default()
    }));
    whole.mean = [0.4; 3];
    whole.source = "made up".to_string();
    let mut tensors = HashMap::new();
    for TensorSpec { name, shape } in mtmc_models::expected_tensors(&whole).unwrap() {
        tensors.insert(name.clone(), tensor(&name, &shape));
    }
    Weights::from_tensors(whole, tensors)
}

fn text_encoder(description: &Description) -> TextEncoder {
    let weights = made_up_clip(description);
    let config = ClipVitConfig::of(description).unwrap();
    let vb = weights.var_builder(DType::F32, &Device::Cpu);
    let params = Params::new(vb, Mode::Training, 1e-5);
    TextEncoder::new(&TextConfig::beside(&config), &params).unwrap()
}

fn contexts(width: usize) -> Tensor {
    tensor("prompt_learner.cls_ctx", &[PEOPLE, CONTEXT, width])
}

// The reference computes all 77 places.
#[test]
fn texts_are_the_references() {
    let texts = golden("texts");
    let tiny = load(&TINY).description();
    let found = text_encoder(&tiny).vectors(&contexts(WIDTH)).unwrap();
    assert_near(&numbers(&found), &list(&texts["tiny"]), 1e-5, "tiny");
    let base = load(&["model.architecture=clip-reid-vit-b16"]).description();
    let two = contexts(512).narrow(0, 0, 2).unwrap();
    let found = numbers(&text_encoder(&base).vectors(&two).unwrap());
    let some: Vec<f64> = found.into_iter().step_by(8).collect();
    assert_near(&some, &list(&texts["base"]), 2e-5, "base");
}

#[test]
fn the_contrastive_loss_is_the_references() {
    let golden = golden("contrastive");
    let rows = Var::from_tensor(&tensor("rows", &[5, 6])).unwrap();
    let columns = Var::from_tensor(&tensor("columns", &[7, 6])).unwrap();
    let (people, others) = ([0, 1, 0, 2, 2], [2, 1, 0, 0, 2, 1, 3]);
    let scaled = (rows.as_tensor() * 4.0).unwrap();
    let loss = contrastive(&scaled, &columns, &people, &others).unwrap();
    let value = golden["value"].as_f64().unwrap();
    assert_near(&numbers(&loss), &[value], 1e-5, "value");
    let gradients = loss.backward().unwrap();
    for (var, name) in [(&rows, "rows"), (&columns, "columns")] {
        let found = numbers(gradients.get(var).unwrap());
        assert_near(&found, &list(&golden[name]), 1e-5, name);
    }
}

fn assert_losses(losses: &Losses, names: &[&str], expected: &Value, step: usize) {
    let found: Vec<&str> = losses.parts.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, names);
    let values: Vec<f64> = losses.parts.iter().map(|(_, x)| numbers(x)[0]).collect();
    assert_near(&values, &list(expected), 1e-4, &format!("step {step}"));
}

#[test]
fn steps_of_the_first_stage_are_the_references() {
    let golden = golden("prompts");
    let encoder = text_encoder(&load(&TINY).description());
    let contexts = Var::from_tensor(&contexts(WIDTH)).unwrap();
    let parameter = Parameter {
        name: "contexts".to_string(),
        var: contexts.clone(),
        rate_factor: 1.0,
        decay: 1e-4,
    };
    let mut optimizer = Optimizer::new(Method::adam(), vec![parameter]).unwrap();
    let features = tensor("features", &[12, WIDTH]);
    let steps = golden["steps"].as_array().unwrap();
    for (step, expected) in steps.iter().enumerate() {
        let chosen: Vec<u32> = (0..6).map(|row| (row * 5 + step as u32) % 12).collect();
        let people: Vec<u32> = chosen.iter().map(|row| row % PEOPLE as u32).collect();
        let chosen = Tensor::new(chosen, &Device::Cpu).unwrap();
        let images = features.index_select(&chosen, 0).unwrap();
        let losses = prompt_losses(&encoder, &contexts, &images, &people).unwrap();
        assert_losses(&losses, &["i2t", "t2i"], expected, step);
        let mut store = losses.total.backward().unwrap();
        let gradients = Gradients::take(&mut store, optimizer.parameters());
        optimizer.step(&gradients, 3.5e-4).unwrap();
    }
    let found: Vec<f64> = numbers(&contexts).into_iter().step_by(4).collect();
    assert_near(&found, &list(&golden["contexts"]), 1e-4, "contexts");
}

#[test]
fn steps_of_the_second_stage_are_the_references() {
    let golden = golden("images");
    let config = load(&[TINY.as_slice(), &["loss.id=0.25"]].concat());
    let description = config.description_from(None).unwrap();
    let learnt = config.learnt(&description);
    let mut tensors = HashMap::new();
    for spec in mtmc_models::expected_tensors(&learnt).unwrap() {
        tensors.insert(spec.name.clone(), tensor(&spec.name, &spec.shape));
    }
    for (name, dim) in [("classifier.weight", 48), ("classifier_proj.weight", WIDTH)] {
        tensors.insert(name.to_string(), tensor(name, &[PEOPLE, dim]));
    }
    let weights = Weights::from_tensors(learnt.clone(), tensors);
    let (variables, start) = initial(&learnt, PEOPLE, 0, Some(&weights), &Device::Cpu).unwrap();
    assert_eq!((start.missing.len(), start.left_over.len()), (0, 0));
    let learning = Learning::default();
    let mut network = Network::new(&learnt, &variables, learning, &Device::Cpu).unwrap();
    let texts = text_encoder(&description).vectors(&contexts(WIDTH));
    network.set_texts(texts.unwrap());
    let mut parameters = Vec::new();
    for (name, var) in &variables {
        if is_learnt(name, &variables) {
            parameters.push(Parameter {
                name: name.clone(),
                var: var.clone(),
                rate_factor: if name.ends_with("bias") { 2.0 } else { 1.0 },
                decay: 1e-4,
            });
        }
    }
    let mut optimizer = Optimizer::new(Method::adam(), parameters).unwrap();
    let people: Vec<u32> = (0..PEOPLE as u32).flat_map(|one| [one; IMAGES]).collect();
    let steps = golden["steps"].as_array().unwrap();
    for (step, expected) in steps.iter().enumerate() {
        let pixels = tensor(&format!("pixels.{step}"), &[PEOPLE * IMAGES, 3, 64, 32]);
        let output = network.forward(&(pixels * 40.0).unwrap(), 0).unwrap();
        assert_eq!((output.metrics.len(), output.logits.len()), (3, 2));
        let losses = losses(&config.loss, &output, &people, None).unwrap();
        assert_losses(&losses, &["id", "triplet", "i2t"], expected, step);
        let mut store = losses.total.backward().unwrap();
        let gradients = Gradients::take(&mut store, optimizer.parameters());
        optimizer.step(&gradients, 1e-4).unwrap();
    }
    let expected = golden["mean_and_norm"].as_object().unwrap();
    assert_eq!(expected.len(), variables.len());
    for (name, var) in &variables {
        let found = numbers(var);
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        let norm = found.iter().map(|value| value * value).sum::<f64>().sqrt();
        let [expected_mean, expected_norm] = list(&expected[name])[..] else {
            panic!("{name}")
        };
        assert!((mean - expected_mean).abs() < 1e-4, "{name}: mean {mean}");
        let off = (norm - expected_norm).abs() / (1.0 + expected_norm);
        assert!(off < 1e-4, "{name}: norm {norm} instead of {expected_norm}");
    }
}

/// Raises a flag after some steps; keeps what it hears.
struct Counter<'a> {
    stop_after: u64,
    stop: &'a AtomicBool,
    steps: Vec<Step>,
    epochs: Vec<Epoch>,
}

impl Observer for Counter<'_> {
    fn step(&mut self, step: &Step) {
        self.steps.push(step.clone());
        if self.steps.len() as u64 == self.stop_after {
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    fn epoch(&mut self, epoch: &Epoch) {
        self.epochs.push(epoch.clone());
    }
}

fn run(trainer: &mut Trainer, folder: &RunFolder, steps: u64) -> (Ending, Vec<Step>, Vec<Epoch>) {
    let stop = AtomicBool::new(false);
    let mut counter = Counter {
        stop_after: steps,
        stop: &stop,
        steps: Vec::new(),
        epochs: Vec::new(),
    };
    let ending = trainer.run(folder, &mut counter, &stop).unwrap();
    (ending, counter.steps, counter.epochs)
}

fn trainer(settings: &[&str], set: &TrainSet, start: Option<&Weights>, threads: usize) -> Trainer {
    let small = [
        "epochs=2",
        "prompts.batch=24",
        "prompts.schedule.base=0.01",
        "data.people=4",
        "data.images=4",
        "data.pad=2",
        "data.erase_like=timm",
        "data.resize=bicubic",
        "optimizer.new_rate=5",
        "run.evaluate_every=1",
        "schedule.base=1e-3",
        "schedule.warmup.epochs=0",
    ];
    let config = load(&[TINY.as_slice(), &small, settings].concat());
    let made = Trainer::new(config, set.clone(), start, &Device::Cpu, threads);
    made.unwrap().0
}

#[test]
fn both_stages_go_on_where_they_were_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let settings = synth::Settings {
        people: 16,
        train_people: 8,
        images_per_person: 8,
        cameras: 2,
        distractors: 0,
        junk: 0,
        seed: 7,
    };
    synth::write(&folder.path().join("set"), &settings, &()).unwrap();
    let set = TrainSet::open(&folder.path().join("set"), Kind::Detect).unwrap();
    let start = made_up_clip(&load(&TINY).description());
    // What chance leaves out is part of it, and what is rounded.
    let settings = [
        "model.dropout=0.1",
        "model.drop_path=0.2",
        "model.precision=bf16",
    ];
    let straight = RunFolder::create(&folder.path().join("straight")).unwrap();
    let mut whole = trainer(&settings, &set, Some(&start), 1);
    let planned = whole.steps();
    let (ending, steps, epochs) = run(&mut whole, &straight, u64::MAX);
    assert_eq!(ending, Ending::Complete);
    // 64 images are 3 batches of 24, and about 4 of 4 people with 4.
    assert_eq!(planned, 3 * 3 + 2 * 4);
    let all = steps.len() as u64;
    assert!((16..=17).contains(&all));
    assert_eq!((epochs.len(), epochs[4].epoch), (5, 4));
    // Texts come closer to their people's images.
    let total = |step: &Step| step.losses.last().unwrap().1;
    assert!(total(&steps[8]) < total(&steps[0]), "{steps:?}");

    // In the first stage, at its end, in the second.
    let stopped = RunFolder::create(&folder.path().join("stopped")).unwrap();
    let mut run_again = trainer(&settings, &set, Some(&start), 3);
    for (more, done) in [(4, 4), (5, 9), (6, 15)] {
        let (ending, steps, _) = run(&mut run_again, &stopped, more);
        assert_eq!((ending, steps.len() as u64), (Ending::Stopped, more));
        assert_eq!(run_again.state().step, done);
        // Without the weights that it began from.
        run_again = trainer(&settings, &set, None, 2);
        run_again.resume(&stopped.checkpoint()).unwrap();
    }
    assert_eq!(run(&mut run_again, &stopped, u64::MAX).0, Ending::Complete);
    for name in [
        "checkpoint.safetensors",
        "last.safetensors",
        "best.safetensors",
    ] {
        let read = |run: &str| std::fs::read(folder.path().join(run).join(name)).unwrap();
        assert!(read("straight") == read("stopped"), "{name} differs");
    }
    let weights = Weights::load(&stopped.last(), &Device::Cpu).unwrap();
    let description = weights.description();
    assert_eq!(description.feature_dim, Some(WIDTH));
    assert_eq!(description.mean, [0.4; 3]);
    assert_eq!(description.source, "mtmc train reid, from made up");
}
