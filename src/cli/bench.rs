//! `mtmc bench`: how fast the networks are on a device: forward passes with made-up weights, and
//! whole frames through the detector.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use candle_core::{DType, Device, Tensor};
use clap::Args;
use mtmc_models::detect::DetectionNetwork;
use mtmc_models::layers::Mode;
use mtmc_models::network::is_embedder;
use mtmc_models::ops::Precision;
use mtmc_models::ops::profile::{self, LayerSum};
use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights};
use mtmc_models::{DetectOptions, Detector as _, LoadedDetector, LoadedEmbedder, expected_tensors};
use serde::Serialize;

use super::options::{ComputeArgs, names};

mod training;

use training::Training;

/// Networks and batches of the table, as docs/cuda.md has it.
const TABLE: [(&str, &[usize]); 4] = [
    ("rtdetr-l", &[1, 4, 16, 64]),
    ("rtdetr-r50", &[1, 4, 16, 64]),
    ("clip-reid-vit-b16", &[64, 256]),
    ("resnet50-reid", &[64, 256]),
];

/// Images of a training step, as re-ID's recipes have them.
const TRAINING_BATCH: usize = 64;

/// Arguments of `mtmc bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    compute: ComputeArgs,

    /// Networks to time, by the architectures' names, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    network: Vec<String>,

    /// Images of a batch, separated by commas
    #[arg(long, value_name = "COUNT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Vec<u16>,

    /// Seconds that each line is timed, after warming up
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,

    /// On the CPU: where the time of a forward pass goes, layer by layer, with the share of what the
    /// machine's matrix products could reach
    #[arg(long, env = "MTMC_PROFILE", conflicts_with = "json")]
    profile: bool,

    /// A training step of each encoder too, in f32 and with 64 crops: forwards, backwards, AdamW
    #[arg(long, env = "MTMC_BENCH_TRAINING")]
    training: bool,

    /// JSON, one object a line, in place of a table
    #[arg(long, env = "MTMC_JSON")]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err("must be a number of seconds, more than 0 and at most 3600".to_string()),
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    network: String,
    device: String,
    precision: String,
    /// What is timed: `forward` (numbers on the device already), `frames` (from 1080p frames in main
    /// memory to detections) or `train` (a training step).
    what: &'static str,
    batch: usize,
    /// Median of a batch.
    milliseconds: f64,
    images_per_second: f64,
    /// Times that were taken.
    rounds: usize,
}

/// Times and prints.
///
/// # Errors
/// A network is unknown, or the device fails.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    args.compute.start_threads(Mode::Inference)?;
    let (device, dtype) = args.compute.device()?;
    let (name, precision) = names((&device, dtype));
    let mut out = std::io::stdout().lock();
    if !args.json {
        let (side, rate) = matrix_rate(&device, dtype, args.seconds)?;
        writeln!(
            out,
            "{name}, {precision}; its matrix products of {side}: {rate:.2} TFLOP/s"
        )?;
        writeln!(
            out,
            "{:<18} {:<7} {:<7} {:>5} {:>10} {:>10}",
            "network", "numbers", "what", "batch", "ms", "images/s"
        )?;
    }
    for (network, batches) in wanted(args) {
        let dtype = args
            .compute
            .dtype((&device, dtype), &made_up_description(&network));
        let (_, precision) = names((&device, dtype));
        let row = |what, batch, times: &[f64]| {
            let seconds = times[times.len() / 2];
            Row {
                network: network.clone(),
                device: name.clone(),
                precision: precision.clone(),
                what,
                batch,
                milliseconds: seconds * 1e3,
                images_per_second: batch as f64 / seconds,
                rounds: times.len(),
            }
        };
        let bench = Bench::new(&network, &device, dtype)?;
        for batch in batches {
            for what in bench.kinds() {
                let times = bench.times(what, batch, args.seconds)?;
                print(&row(what, batch, &times), args.json, &mut out)?;
                if args.profile && device.is_cpu() && *what == "forward" {
                    print_layers(&bench.layers(batch)?, dtype, &mut out)?;
                }
            }
        }
        drop(bench);
        if args.training && is_embedder(&network) && dtype == DType::F32 {
            let batch = args
                .batch
                .first()
                .map_or(TRAINING_BATCH, |&batch| usize::from(batch));
            let training = Training::new(&network, batch, &device)?;
            let round = || {
                training.step()?;
                Ok(device.synchronize()?)
            };
            let times = measure(round, args.seconds)?;
            print(&row("train", batch, &times), args.json, &mut out)?;
        }
    }
    Ok(())
}

fn print(row: &Row, json: bool, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    if json {
        writeln!(out, "{}", serde_json::to_string(row)?)?;
    } else {
        writeln!(
            out,
            "{:<18} {:<7} {:<7} {:>5} {:>10.2} {:>10.1}",
            row.network,
            row.precision,
            row.what,
            row.batch,
            row.milliseconds,
            row.images_per_second
        )?;
    }
    out.flush()?;
    Ok(())
}

/// The layers of a pass with their shares of its time and of what all threads could reach together.
fn print_layers(
    layers: &[LayerSum],
    dtype: DType,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    let precision = match dtype {
        DType::BF16 => Precision::Bf16,
        _ => Precision::F32,
    };
    let threads = mtmc_models::ops::profile::threads() as f64;
    // Without a kernel of its own there is no limit to compare with.
    let limit = profile::peak(precision).map_or(f64::NAN, |one| one * threads);
    let total: f64 = layers.iter().map(|layer| layer.seconds).sum();
    writeln!(out, "  limit: {:.0} GFLOP/s", limit / 1e9)?;
    writeln!(
        out,
        "  {:>8} {:>6} {:>8} {:>6} {:>5}  layer",
        "ms", "time", "GFLOP/s", "limit", "times"
    )?;
    for layer in layers {
        let rate = layer.operations / layer.seconds;
        writeln!(
            out,
            "  {:>8.2} {:>5.1}% {:>8.1} {:>5.0}% {:>5}  {}",
            layer.seconds * 1e3,
            100.0 * layer.seconds / total,
            rate / 1e9,
            100.0 * rate / limit,
            layer.count,
            layer.layer
        )?;
    }
    out.flush()?;
    Ok(())
}

/// What was asked for, or the table.
fn wanted(args: &BenchArgs) -> Vec<(String, Vec<usize>)> {
    let batches = |own: &[usize]| -> Vec<usize> {
        if args.batch.is_empty() {
            return own.to_vec();
        }
        args.batch.iter().map(|batch| usize::from(*batch)).collect()
    };
    if args.network.is_empty() {
        let row = |(name, own): &(&str, &[usize])| ((*name).to_string(), batches(own));
        return TABLE.iter().map(row).collect();
    }
    let mut rows = Vec::new();
    for name in &args.network {
        let own = TABLE.iter().find(|(known, _)| known == name);
        rows.push((name.clone(), batches(own.map_or(&[1], |(_, own)| own))));
    }
    rows
}

/// A network with made-up weights.
struct Bench {
    network: Network,
    /// Height and width of its input.
    size: (usize, usize),
    device: Device,
    dtype: DType,
}

enum Network {
    Detector(Box<LoadedDetector>),
    Embedder(Box<LoadedEmbedder>),
}

impl Bench {
    fn new(name: &str, device: &Device, dtype: DType) -> anyhow::Result<Self> {
        let mut description = made_up_description(name);
        let embedder = is_embedder(name);
        if embedder {
            (description.input_height, description.input_width) = (256, 128);
        }
        let size = (description.input_height, description.input_width);
        let specs = expected_tensors(&description)
            .with_context(|| format!("--network {name}: see `mtmc models list`"))?;
        let weights = made_up_weights(&description, &specs);
        let network = if embedder {
            Network::Embedder(Box::new(LoadedEmbedder::new(&weights, device, dtype)?))
        } else {
            Network::Detector(Box::new(LoadedDetector::new(&weights, device, dtype)?))
        };
        Ok(Self {
            network,
            size,
            device: device.clone(),
            dtype,
        })
    }

    fn kinds(&self) -> &'static [&'static str] {
        match self.network {
            Network::Detector(_) => &["forward", "frames"],
            Network::Embedder(_) => &["forward"],
        }
    }

    /// One forward pass on the CPU, like layers together, what runs between them last.
    fn layers(&self, batch: usize) -> anyhow::Result<Vec<LayerSum>> {
        let (height, width) = self.size;
        let input = Tensor::rand(0.0_f32, 1.0, (batch, 3, height, width), &Device::Cpu)?;
        let pass = || self.forward(&input);
        pass()?;
        profile::start();
        let started = Instant::now();
        let done = pass();
        let seconds = started.elapsed().as_secs_f64();
        let mut layers = profile::sums(&profile::stop());
        done?;
        let inside: f64 = layers.iter().map(|layer| layer.seconds).sum();
        layers.push(LayerSum {
            layer: "between layers".to_string(),
            count: 1,
            operations: 0.0,
            seconds: seconds - inside,
        });
        Ok(layers)
    }

    /// One forward pass; of dense predictions with the boxes of all classes above the usual floor.
    fn forward(&self, input: &Tensor) -> anyhow::Result<()> {
        match &self.network {
            Network::Detector(detector) => match detector.network() {
                DetectionNetwork::Detr(network) => drop(network.forward(input)?),
                DetectionNetwork::Dense(network) => {
                    let options = DetectOptions {
                        classes: Vec::new(),
                        ..DetectOptions::default()
                    };
                    drop(network.candidates(input, &options)?);
                }
            },
            Network::Embedder(embedder) => drop(embedder.network().forward(input)?),
        }
        Ok(())
    }

    /// Seconds of each round, rising.
    fn times(&self, what: &str, batch: usize, limit: f64) -> anyhow::Result<Vec<f64>> {
        let (height, width) = self.size;
        let input = Tensor::rand(0.0_f32, 1.0, (batch, 3, height, width), &Device::Cpu)?;
        let dtype = if self.device.is_cpu() {
            DType::F32
        } else {
            self.dtype
        };
        let input = input.to_dtype(dtype)?.to_device(&self.device)?;
        let frame = made_up_image(1920, 1080, 1);
        let frames = vec![&frame; batch];
        let options = DetectOptions::default();
        let round = || -> anyhow::Result<()> {
            match (&self.network, what) {
                (Network::Detector(detector), "frames") => {
                    detector.detect(&frames, &options)?;
                }
                _ => self.forward(&input)?,
            }
            // A GPU is only asked before; what counts is when it is done.
            Ok(self.device.synchronize()?)
        };
        measure(round, limit)
    }
}

/// Seconds of each round, rising, after two that do not count.
fn measure(round: impl Fn() -> anyhow::Result<()>, limit: f64) -> anyhow::Result<Vec<f64>> {
    for _ in 0..2 {
        round()?;
    }
    let mut times = Vec::new();
    let started = Instant::now();
    let limit = Duration::from_secs_f64(limit);
    while times.len() < 3 || (started.elapsed() < limit && times.len() < 10_000) {
        let start = Instant::now();
        round()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// What the device's matrix products reach, as the limit of everything else: their side and TFLOP/s.
fn matrix_rate(device: &Device, dtype: DType, limit: f64) -> anyhow::Result<(usize, f64)> {
    // A CPU's is measured with less, so that it is over in time.
    let (side, dtype) = match device {
        Device::Cpu => (1024, DType::F32),
        _ => (4096, dtype),
    };
    let a = Tensor::rand(0.0_f32, 1.0, (side, side), device)?.to_dtype(dtype)?;
    let times = measure(
        || {
            drop(a.matmul(&a)?);
            Ok(device.synchronize()?)
        },
        limit.min(2.0),
    )?;
    let Some(best) = times.first() else {
        bail!("no matrix product was timed");
    };
    Ok((side, 2.0 * (side as f64).powi(3) / best / 1e12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_sorted_and_at_least_three() {
        let times = measure(|| Ok(()), 1e-9).unwrap();
        assert!(times.len() >= 3 && times.is_sorted());
        assert!(measure(|| bail!("lost"), 1.0).is_err());
    }
}
