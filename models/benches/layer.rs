//! One convolution alone, over and over: what a kernel reaches with made-up numbers.
//!
//! ```text
//! cargo bench -p mtmc-models --bench layer -- INPUT,OUTPUT,KERNEL,STRIDE,HEIGHT,WIDTH … [threads=N] [batch=N] [bf16]
//! ```

#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_core::{Device, Tensor};
use mtmc_models::layers::{Activation, Conv};
use mtmc_models::ops::{self, Conv2d, Precision};

/// Seconds that each case runs at least.
const SECONDS: f64 = 1.5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut threads, mut batch, mut precision) = (1, 1, Precision::F32);
    let mut layers = Vec::new();
    for argument in std::env::args().skip(1) {
        let numbers: Vec<usize> = argument.split(',').filter_map(|n| n.parse().ok()).collect();
        if let Ok(layer) = <[usize; 6]>::try_from(numbers) {
            layers.push(layer);
        } else if let Some(count) = argument.strip_prefix("threads=") {
            threads = count.parse()?;
        } else if let Some(images) = argument.strip_prefix("batch=") {
            batch = images.parse()?;
        } else if argument == "bf16" {
            precision = Precision::Bf16;
        }
    }
    ops::set_threads(threads)?;
    if let Some(peak) = ops::profile::peak(precision) {
        println!("a core's limit: {:.1} GFLOP/s", peak / 1e9);
    }
    for [input, output, kernel, stride, height, width] in layers {
        let conv = Conv::new(input, output, kernel).stride(stride);
        let conv = conv.activation(Activation::Relu);
        let device = Device::Cpu;
        let weight = Tensor::randn(0.0_f32, 1.0, conv.weight_shape(), &device)?;
        let layer = Conv2d::with_precision(conv, &weight, None, precision)?;
        let x = Tensor::randn(0.0_f32, 1.0, (batch, input, height, width), &device)?;
        let cells = layer.forward(&x)?.elem_count();
        let operations = 2.0 * (cells * input * kernel * kernel) as f64;
        let (start, mut rounds) = (Instant::now(), Vec::new());
        while start.elapsed().as_secs_f64() < SECONDS || rounds.len() < 3 {
            let round = Instant::now();
            std::hint::black_box(layer.forward(&x)?);
            rounds.push(round.elapsed().as_secs_f64());
        }
        rounds.sort_by(f64::total_cmp);
        let (best, median) = (rounds[0], rounds[rounds.len() / 2]);
        println!(
            "{input} → {output}, {kernel}×{kernel} /{stride}, {batch} × {height}×{width}, {precision:?}: {:.3} ms at best, {:.3} in the median, {:.1} GFLOP/s",
            best * 1e3,
            median * 1e3,
            operations / median / 1e9,
        );
    }
    Ok(())
}
