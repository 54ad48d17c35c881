//! Losses, optimisers and schedules against PyTorch (`tests/oracle/train_losses.py`,
//! `train_optim.py`).
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor, Var};
use mtmc::train::loss::{self, Margin, TripletDistance};
use mtmc::train::optim::{Gradients, Method, Optimizer, Parameter};
use mtmc::train::schedule::{Decay, Schedule, Warmup, WarmupKind};
use mtmc_models::testing::made_up;
use serde_json::Value;

const ROWS: usize = 12;
const CLASSES: usize = 7;
const DIM: usize = 6;

fn goldens(name: &str) -> Value {
    let path = format!("{}/tests/goldens/train/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list.iter().map(|number| number.as_f64().unwrap()).collect()
}

fn variable(name: &str, shape: &[usize]) -> Var {
    let tensor = Tensor::from_vec(made_up(name, shape), shape, &Device::Cpu).unwrap();
    Var::from_tensor(&tensor).unwrap()
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_near(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let off = (f64::from(*found) - expected).abs();
        assert!(off < tolerance, "{what}: {found} instead of {expected}");
    }
}

fn check(loss: &Tensor, inputs: &[(&Var, &str)], golden: &Value, what: &str) {
    let value = loss.to_scalar::<f32>().unwrap();
    assert_near(&[value], &[golden["value"].as_f64().unwrap()], 1e-5, what);
    let gradients = loss.backward().unwrap();
    for (input, name) in inputs {
        let found = flat(gradients.get(input).unwrap());
        assert_near(&found, &numbers(&golden[*name]), 1e-5, what);
    }
}

fn labels() -> Tensor {
    let labels: Vec<u32> = (0..ROWS).map(|row| ((row * 5) % CLASSES) as u32).collect();
    Tensor::new(labels, &Device::Cpu).unwrap()
}

#[test]
fn cross_entropy_is_pytorchs() {
    let goldens = goldens("losses.json");
    for (name, smoothing) in [("cross_entropy", 0.0), ("cross_entropy_smooth", 0.1)] {
        let logits = variable("logits", &[ROWS, CLASSES]);
        let scaled = (logits.as_tensor() * 3.0).unwrap();
        let loss = loss::cross_entropy(&scaled, &labels(), smoothing).unwrap();
        check(&loss, &[(&logits, "gradient")], &goldens[name], name);
    }
}

#[test]
fn triplets_are_pytorchs() {
    let goldens = goldens("losses.json");
    let people: Vec<u32> = (0..ROWS).map(|row| (row / 3) as u32).collect();
    let (euclidean, cosine) = (TripletDistance::Euclidean, TripletDistance::Cosine);
    for (name, margin, distance) in [
        ("triplet_euclidean", Margin::Hard(0.3), euclidean),
        ("triplet_euclidean_soft", Margin::Soft, euclidean),
        ("triplet_cosine", Margin::Hard(0.3), cosine),
        ("triplet_cosine_soft", Margin::Soft, cosine),
    ] {
        let features = variable("features", &[ROWS, DIM]);
        let loss = loss::triplet(&features, &people, margin, distance).unwrap();
        check(&loss, &[(&features, "gradient")], &goldens[name], name);
    }
}

#[test]
fn centres_are_pytorchs() {
    let features = variable("features", &[ROWS, DIM]);
    let centres = variable("centres", &[CLASSES, DIM]);
    let loss = loss::centre(&features, &labels(), &centres).unwrap();
    let inputs = [(&features, "gradient"), (&centres, "centres")];
    check(&loss, &inputs, &goldens("losses.json")["centre"], "centre");
}

/// As `run` of the oracle.
fn steps(method: Method, clip: Option<f64>) -> Vec<Vec<f32>> {
    let parameter = |name: &str, rate_factor: f64, decay: f64| Parameter {
        name: name.to_string(),
        var: variable(name, &[3, 4]),
        rate_factor,
        decay,
    };
    let parameters = vec![parameter("a", 1.0, 0.05), parameter("b", 2.0, 0.0)];
    let mut optimizer = Optimizer::new(method, parameters.clone()).unwrap();
    let mut found = Vec::new();
    for step in 0..20 {
        let gradient = |name: &str| {
            let numbers = made_up(&format!("{name}.gradient.{step}"), &[3, 4]);
            Some(Tensor::from_vec(numbers, (3, 4), &Device::Cpu).unwrap())
        };
        let mut gradients = Gradients::from_tensors(vec![gradient("a"), gradient("b")]);
        if let Some(most) = clip {
            gradients.clip(most).unwrap();
        }
        optimizer.step(&gradients, 0.01).unwrap();
        if step % 5 == 4 {
            let both = [flat(&parameters[0].var), flat(&parameters[1].var)];
            found.push(both.concat());
        }
        // In mid-run everything is carried over to a new optimiser.
        if step == 9 {
            let memory = optimizer.memory();
            optimizer = Optimizer::new(method, parameters.clone()).unwrap();
            optimizer.remember(memory).unwrap();
        }
    }
    found
}

#[test]
fn twenty_steps_of_each_optimiser_are_pytorchs() {
    let goldens = goldens("optim.json");
    let Method::Adam { beta1, beta2, eps } = Method::adam() else {
        unreachable!()
    };
    let sgd = |momentum, nesterov| Method::Sgd { momentum, nesterov };
    for (name, method, clip) in [
        ("adam", Method::adam(), None),
        ("adamw", Method::AdamW { beta1, beta2, eps }, None),
        ("sgd", sgd(0.0, false), None),
        ("sgd_momentum", sgd(0.9, false), None),
        ("sgd_nesterov", sgd(0.9, true), None),
        ("adam_clipped", Method::adam(), Some(0.5)),
    ] {
        let expected = goldens[name].as_array().unwrap();
        let found = steps(method, clip);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert_near(found, &numbers(expected), 1e-5, name);
        }
    }
}

#[test]
fn twenty_epochs_of_each_schedule_are_pytorchs() {
    let goldens = goldens("optim.json");
    let warmup = |kind, epochs, factor| {
        Some(Warmup {
            kind,
            epochs,
            factor,
        })
    };
    let multi_step = Decay::MultiStep {
        milestones: vec![8, 14],
        gamma: 0.1,
    };
    let step = Decay::Step {
        every: 6,
        gamma: 0.5,
    };
    let cosine = Decay::Cosine {
        epochs: 20,
        lowest: 0.001,
    };
    for (name, warmup, decay) in [
        (
            "multi_step_linear",
            warmup(WarmupKind::Linear, 5, 0.01),
            multi_step,
        ),
        ("step_constant", warmup(WarmupKind::Constant, 3, 0.25), step),
        ("cosine", None, cosine),
    ] {
        let schedule = Schedule {
            base: 0.1,
            warmup,
            decay,
            first: 0,
        };
        assert_eq!(schedule.fault(), None);
        for (epoch, expected) in numbers(&goldens[name]).into_iter().enumerate() {
            let off = schedule.rate(epoch as u32) / expected - 1.0;
            assert!(off.abs() < 1e-5, "{name}, epoch {epoch}");
        }
    }
}
