//! Milliseconds a frame of the detectors, network alone, with made-up weights; with `profile` where
//! they go, layer by layer. Of dense predictions with the boxes of all classes above the usual floor,
//! before suppression.
//!
//! ```text
//! cargo bench -p mtmc-models --bench detectors -- [ARCHITECTURE …] [THREADS] [batch=N] [size=N] [bf16] [profile]
//! ```

#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use mtmc_models::detect::DetectionNetwork;
use mtmc_models::layers::Mode;
use mtmc_models::testing::{made_up_description, made_up_weights};
use mtmc_models::{Description, DetectOptions, LoadedDetector, expected_tensors, network, ops};

/// Seconds that each case runs at least.
const SECONDS: f64 = 6.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut names = Vec::new();
    let (mut threads, mut batch, mut dtype) = (1, 1, DType::F32);
    let (mut profile, mut side) = (false, 640);
    for argument in std::env::args().skip(1) {
        if let Ok(count) = argument.parse::<usize>() {
            threads = count;
        } else if let Some(count) = argument.strip_prefix("batch=") {
            batch = count.parse()?;
        } else if let Some(pixels) = argument.strip_prefix("size=") {
            side = pixels.parse()?;
        } else if argument == "profile" {
            profile = true;
        } else if argument == "bf16" {
            dtype = DType::BF16;
        } else if network::DETECTORS.contains(&argument.as_str()) {
            names.push(argument);
        }
    }
    if names.is_empty() {
        names.push("rtdetr-l".to_string());
    }
    ops::set_threads(threads, Mode::Inference)?;
    for name in names {
        let detector = detector(&name, dtype)?;
        let shape = (batch, 3, side, side);
        let input = Tensor::rand(0.0_f32, 1.0, shape, &Device::Cpu)?;
        let options = DetectOptions {
            classes: Vec::new(),
            ..DetectOptions::default()
        };
        let run = || -> candle_core::Result<()> {
            match detector.network() {
                DetectionNetwork::Detr(network) => network.forward(&input).map(drop),
                DetectionNetwork::Dense(network) => network.candidates(&input, &options).map(drop),
            }
        };
        run()?;
        let (start, mut rounds) = (Instant::now(), Vec::new());
        let (busy, faults) = (cpu_seconds(), page_faults());
        while start.elapsed().as_secs_f64() < SECONDS || rounds.len() < 3 {
            let round = Instant::now();
            run()?;
            rounds.push(round.elapsed().as_secs_f64() * 1e3 / batch as f64);
        }
        let busy = (cpu_seconds() - busy) * 1e3 / (rounds.len() * batch) as f64;
        let faults = (page_faults() - faults) / rounds.len() as f64;
        if profile {
            ops::profile::start();
            run()?;
            for sum in ops::profile::sums(&ops::profile::stop()) {
                println!(
                    "{:8.2} ms {:7.1} GFLOP/s {:3} times {}",
                    sum.seconds * 1e3,
                    sum.operations / sum.seconds / 1e9,
                    sum.count,
                    sum.layer
                );
            }
        }
        rounds.sort_by(f64::total_cmp);
        let (best, median) = (rounds[0], rounds[rounds.len() / 2]);
        println!(
            "{name}, {dtype:?}, batch {batch} of {side}², {threads} threads: {best:.1} ms a frame at best, {median:.1} in the median, {busy:.0} ms of CPU time, {faults:.0} page faults a pass"
        );
    }
    Ok(())
}

/// Seconds that this process has computed: on a machine that others use too, a better measure of
/// one thread's work than the time that passed.
fn cpu_seconds() -> f64 {
    // User time is the 12th field, system time the 13th, in ticks.
    (stat(12) + stat(13)) / 100.0
}

/// Pages that the system has given to this process without reading them from anywhere.
fn page_faults() -> f64 {
    stat(8)
}

/// The field of that number, from one on, after the name in brackets of the process's status.
fn stat(number: usize) -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let field = fields.split_whitespace().nth(number - 1);
    field
        .and_then(|field| field.parse().ok())
        .unwrap_or(f64::NAN)
}

fn detector(name: &str, dtype: DType) -> mtmc_models::Result<LoadedDetector> {
    let description = Description {
        batch_norm_eps: Some(1e-3),
        ..made_up_description(name)
    };
    let weights = made_up_weights(&description, &expected_tensors(&description)?);
    LoadedDetector::new(&weights, &Device::Cpu, dtype)
}
