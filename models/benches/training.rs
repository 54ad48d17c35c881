//! Steps of training a re-ID encoder on made-up images of 256×128: forwards with cross-entropy and
//! batch-hard triplets, back, Adam.
//!
//! ```text
//! cargo bench -p mtmc-models --bench training -- [ARCHITECTURE] [BATCH] [threads=N]
//! python bench-peers/training.py …   # in turn with PyTorch
//! ```
//!
//! `turns` waits for a line of standard input before every step and ends with the input, so that
//! another program can compute in turn.

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::io::BufRead as _;
use std::time::Instant;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use mtmc_models::embed::EmbeddingNetwork;
use mtmc_models::layers::{Mode, Params};
use mtmc_models::network::{build_embedder, embedding_dim, is_embedder};
use mtmc_models::ops::Adam;
use mtmc_models::testing::{made_up, made_up_description};
use mtmc_models::{Description, expected_tensors};

const PEOPLE: usize = 751;
const IMAGES_A_PERSON: usize = 4;
const RATE: f64 = 3.5e-4;

/// Steps without `turns`.
const STEPS: usize = 5;

struct Training {
    network: Box<dyn EmbeddingNetwork>,
    classifier: Var,
    learnt: Vec<(Var, Tensor)>,
    pixels: Tensor,
    labels: Tensor,
    batch: usize,
    steps: i32,
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut name = "resnet50-reid".to_string();
    let (mut batch, mut threads, mut turns) = (8, 1, false);
    for argument in std::env::args().skip(1) {
        if let Ok(count) = argument.parse::<usize>() {
            batch = count;
        } else if let Some(count) = argument.strip_prefix("threads=") {
            threads = count.parse()?;
        } else if argument == "turns" {
            turns = true;
        } else if is_embedder(&argument) {
            name = argument;
        }
    }
    mtmc_models::ops::set_threads(threads, Mode::Training)?;
    let mut training = Training::new(&name, batch)?;
    if turns {
        for line in std::io::stdin().lock().lines() {
            line?;
            println!("{}", training.step()?);
        }
        return Ok(());
    }
    println!("{name}, batch {batch}, {threads} threads");
    for _ in 0..STEPS {
        println!("{}", training.step()?);
    }
    Ok(())
}

impl Training {
    fn new(name: &str, batch: usize) -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let description = Description {
            classes: Vec::new(),
            input_height: 256,
            input_width: 128,
            ..made_up_description(name)
        };
        let device = Device::Cpu;
        let mut tensors = HashMap::new();
        let mut learnt = Vec::new();
        let mut variable = |name: &str, shape: &[usize]| -> Result<Var> {
            let var = Var::from_tensor(&Tensor::from_vec(made_up(name, shape), shape, &device)?)?;
            if !name.contains("running_") {
                let memory = Tensor::zeros((2, var.elem_count()), DType::F32, &device)?;
                learnt.push((var.clone(), memory));
            }
            Ok(var)
        };
        for spec in expected_tensors(&description)? {
            let var = variable(&spec.name, &spec.shape)?;
            tensors.insert(spec.name, var.as_tensor().clone());
        }
        let dim = embedding_dim(&description)?;
        let classifier = variable("classifier.weight", &[PEOPLE, dim])?;
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &device);
        let network = build_embedder(&description, &Params::new(vb, Mode::Training, 1e-5))?;
        let labels: Vec<u32> = (0..batch).map(|at| (at / IMAGES_A_PERSON) as u32).collect();
        Ok(Self {
            network,
            classifier,
            learnt,
            pixels: Tensor::rand(-2.0_f32, 2.0, (batch, 3, 256, 128), &device)?,
            labels: Tensor::new(labels.as_slice(), &device)?,
            batch,
            steps: 0,
        })
    }

    /// What it took: seconds of each part, seconds of processor time, pages that had to be made,
    /// images a second.
    fn step(&mut self) -> Result<String> {
        let (busy, faults) = usage();
        let start = Instant::now();
        let loss = self.loss()?;
        let forward = start.elapsed().as_secs_f64();
        let mut gradients = loss.backward()?;
        let backward = start.elapsed().as_secs_f64();
        self.steps += 1;
        let adam = Adam {
            betas: (0.9, 0.999),
            rate: RATE / (1.0 - 0.9_f64.powi(self.steps)),
            root: (1.0 - 0.999_f64.powi(self.steps)).sqrt(),
            eps: 1e-8,
            decay: 5e-4,
            kept: 1.0,
        };
        for (var, memory) in &self.learnt {
            if let Some(gradient) = gradients.remove(var.as_tensor()) {
                adam.apply(var, &gradient.detach().contiguous()?, memory)?;
            }
        }
        let all = start.elapsed().as_secs_f64();
        let loss = loss.to_scalar::<f32>()?;
        drop(gradients);
        let (busy_after, faults_after) = usage();
        Ok(format!(
            "{all:.3} s: forwards {forward:.3}, back {:.3}, update {:.3}; {:.2} s busy, {} pages, \
             {:.2} images/s, loss {loss:.4}",
            backward - forward,
            all - backward,
            busy_after - busy,
            faults_after - faults,
            self.batch as f64 / all,
        ))
    }

    fn loss(&self) -> Result<Tensor> {
        let features = self.network.forward(&self.pixels)?;
        let logits = features.matmul(&self.classifier.as_tensor().t()?)?;
        let identity = candle_nn::loss::cross_entropy(&logits, &self.labels)?;
        identity + self.triplet(&features)?
    }

    /// Batch-hard triplets with a margin of 0.3.
    fn triplet(&self, features: &Tensor) -> Result<Tensor> {
        let squares = features.sqr()?.sum_keepdim(1)?;
        let products = (features.matmul(&features.t()?)? * 2.0)?;
        let distances = squares.broadcast_add(&squares.t()?)?.sub(&products)?;
        let distances = distances.maximum(1e-6)?.sqrt()?;
        let column = self.labels.unsqueeze(1)?;
        let same = column.broadcast_eq(&self.labels.unsqueeze(0)?)?;
        let same = same.to_dtype(DType::F32)?;
        let positive = (&distances * &same)?.max(D::Minus1)?;
        let negative = (&distances + (&same * 1e6)?)?.min(D::Minus1)?;
        ((positive - negative)? + 0.3)?.relu()?.mean_all()
    }
}

/// Seconds of processor time and minor page faults of this process so far, where Linux tells them.
fn usage() -> (f64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let field = |index: usize| -> u64 {
        let text = fields.get(index).copied().unwrap_or_default();
        text.parse().unwrap_or(0)
    };
    // Ticks are hundredths of a second wherever this runs.
    ((field(11) + field(12)) as f64 / 100.0, field(7))
}
