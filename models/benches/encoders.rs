//! Crops a second of the encoders, network alone and from frames on, with made-up weights.
//!
//! ```text
//! cargo bench -p mtmc-models --bench encoders -- [ARCHITECTURE …] [BATCH …] [threads=N] [bf16] [profile]
//! python tests/oracle/encoder_speed.py …   # the same for PyTorch and ONNX Runtime
//! ```

#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use mtmc_models::layers::Mode;
use mtmc_models::network::is_embedder;
use mtmc_models::ops::profile;
use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights};
use mtmc_models::{BBox, Crop, Description, Embedder, LoadedEmbedder, expected_tensors};

/// Seconds that each case runs at least.
const SECONDS: f64 = 2.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut names = Vec::new();
    let mut batches = Vec::new();
    let mut threads = std::thread::available_parallelism()?.get();
    let (mut dtype, mut profile) = (DType::F32, false);
    for argument in std::env::args().skip(1) {
        if let Ok(batch) = argument.parse::<usize>() {
            batches.push(batch);
        } else if let Some(count) = argument.strip_prefix("threads=") {
            threads = count.parse()?;
        } else if argument == "bf16" {
            dtype = DType::BF16;
        } else if argument == "profile" {
            profile = true;
        } else if is_embedder(&argument) {
            names.push(argument);
        }
    }
    if names.is_empty() {
        names.push("osnet-x0.25".to_string());
    }
    if batches.is_empty() {
        batches.extend([1, 8, 32]);
    }
    mtmc_models::ops::set_threads(threads, Mode::Inference)?;
    println!("{threads} threads, {dtype:?}");
    for name in names {
        let embedder = embedder(&name, dtype)?;
        for &batch in &batches {
            network(&name, &embedder, batch)?;
            if profile {
                layers(&embedder, batch)?;
                continue;
            }
            whole(&name, &embedder, batch)?;
        }
    }
    Ok(())
}

fn embedder(name: &str, dtype: DType) -> mtmc_models::Result<LoadedEmbedder> {
    let description = Description {
        classes: Vec::new(),
        input_height: 256,
        input_width: 128,
        ..made_up_description(name)
    };
    let weights = made_up_weights(&description, &expected_tensors(&description)?);
    LoadedEmbedder::new(&weights, &Device::Cpu, dtype)
}

fn network(name: &str, embedder: &LoadedEmbedder, batch: usize) -> mtmc_models::Result<()> {
    let input = Tensor::rand(-2.0_f32, 2.0, (batch, 3, 256, 128), &Device::Cpu)?;
    report(&format!("{name}, batch {batch}, network"), batch, || {
        embedder.network().forward(&input)?;
        Ok(())
    })
}

/// Where a pass goes, layer by layer.
fn layers(embedder: &LoadedEmbedder, batch: usize) -> mtmc_models::Result<()> {
    let input = Tensor::rand(-2.0_f32, 2.0, (batch, 3, 256, 128), &Device::Cpu)?;
    profile::start();
    embedder.network().forward(&input)?;
    for sum in profile::sums(&profile::stop()) {
        println!(
            "{:8.2} ms {:7.1} GFLOP/s {:3} times {}",
            sum.seconds * 1e3,
            sum.operations / sum.seconds / 1e9,
            sum.count,
            sum.layer
        );
    }
    Ok(())
}

fn whole(name: &str, embedder: &LoadedEmbedder, batch: usize) -> mtmc_models::Result<()> {
    let frame = made_up_image(1920, 1080, 1);
    let crops: Vec<_> = (0..batch)
        .map(|index| Crop {
            image: &frame,
            bbox: BBox::from_tlwh(50.0 * index as f32, 100.0, 110.0, 280.0),
        })
        .collect();
    report(
        &format!("{name}, batch {batch}, from frames"),
        batch,
        || {
            embedder.embed(&crops)?;
            Ok(())
        },
    )
}

/// The best of all rounds: what the machine can do while nobody else uses it.
fn report(
    what: &str,
    batch: usize,
    mut run: impl FnMut() -> mtmc_models::Result<()>,
) -> mtmc_models::Result<()> {
    run()?;
    let start = Instant::now();
    let mut rounds = Vec::new();
    while start.elapsed().as_secs_f64() < SECONDS || rounds.len() < 3 {
        let round = Instant::now();
        run()?;
        rounds.push(round.elapsed().as_secs_f64());
    }
    rounds.sort_by(f64::total_cmp);
    let (best, median) = (rounds[0], rounds[rounds.len() / 2]);
    println!(
        "{what}: {:.1} crops/s at best, {:.1} in the median ({:.2} ms)",
        batch as f64 / best,
        batch as f64 / median,
        1e3 * median
    );
    Ok(())
}
