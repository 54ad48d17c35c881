//! One layer alone, over and over: what a kernel reaches with made-up numbers. Six numbers are a
//! convolution, three a linear layer.
//!
//! ```text
//! cargo bench -p mtmc-models --bench layer -- INPUT,OUTPUT,KERNEL,STRIDE,HEIGHT,WIDTH … [threads=N] [batch=N] [bf16] [cold]
//! cargo bench -p mtmc-models --bench layer -- ROWS,INPUT,OUTPUT … [threads=N] [batch=N] [bf16] [cold]
//! ```
//!
//! With `cold` the caches are swept before every run: inputs and weights come from memory, as many do in a network.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_core::{Device, Tensor};
use mtmc_models::layers::{Activation, Conv, Mode};
use mtmc_models::ops::{self, Conv2d, Dense, Precision};

/// Seconds that each case runs at least.
const SECONDS: f64 = 1.5;

type Error = Box<dyn std::error::Error>;

/// Numbers that fill all caches.
const SWEPT: usize = 32 << 20;

/// What is asked for.
struct Options {
    threads: usize,
    batch: usize,
    precision: Precision,
    cold: bool,
}

fn main() -> Result<(), Error> {
    let mut options = Options {
        threads: 1,
        batch: 1,
        precision: Precision::F32,
        cold: false,
    };
    let mut layers = Vec::new();
    for argument in std::env::args().skip(1) {
        if let Some(count) = argument.strip_prefix("threads=") {
            options.threads = count.parse()?;
        } else if let Some(images) = argument.strip_prefix("batch=") {
            options.batch = images.parse()?;
        } else if argument == "bf16" {
            options.precision = Precision::Bf16;
        } else if argument == "cold" {
            options.cold = true;
        } else if argument.contains(',') {
            let numbers: Result<Vec<usize>, _> = argument.split(',').map(str::parse).collect();
            layers.push(numbers?);
        }
    }
    ops::set_threads(options.threads, Mode::Inference)?;
    if let Some(peak) = ops::profile::peak(options.precision) {
        println!("a core's limit: {:.1} GFLOP/s", peak / 1e9);
    }
    for layer in layers {
        match *layer.as_slice() {
            [input, output, kernel, stride, height, width] => {
                let conv = Conv::new(input, output, kernel).stride(stride);
                convolution(conv, (height, width), &options)?;
            }
            [rows, input, output] => linear(rows, (input, output), &options)?,
            _ => return Err(format!("neither three numbers nor six: {layer:?}").into()),
        }
    }
    Ok(())
}

fn convolution(
    conv: Conv,
    (height, width): (usize, usize),
    options: &Options,
) -> Result<(), Error> {
    let Options {
        batch, precision, ..
    } = *options;
    let conv = conv.activation(Activation::Relu);
    let weight = Tensor::randn(0.0_f32, 1.0, conv.weight_shape(), &Device::Cpu)?;
    let layer = Conv2d::with_precision(conv, &weight, None, precision)?;
    let Conv {
        input,
        output,
        kernel,
        stride,
        ..
    } = conv;
    let x = Tensor::randn(0.0_f32, 1.0, (batch, input, height, width), &Device::Cpu)?;
    let products = layer.forward(&x)?.elem_count() * input * kernel * kernel;
    let name = format!(
        "{input} → {output}, {kernel}×{kernel} /{stride}, {batch} × {height}×{width}, {precision:?}"
    );
    report(&name, products, options.cold, || layer.forward(&x))
}

fn linear(rows: usize, (input, output): (usize, usize), options: &Options) -> Result<(), Error> {
    let Options {
        batch, precision, ..
    } = *options;
    let weight = Tensor::randn(0.0_f32, 1.0, (output, input), &Device::Cpu)?;
    let bias = Tensor::randn(0.0_f32, 1.0, output, &Device::Cpu)?;
    let layer = Dense::new(&weight, &bias, precision)?
        .ok_or("this machine has no kernel for packed linear layers")?;
    let x = Tensor::randn(0.0_f32, 1.0, (batch, rows, input), &Device::Cpu)?;
    let name = format!("linear {input} → {output}, {batch} × {rows} rows, {precision:?}");
    report(&name, batch * rows * input * output, options.cold, || {
        layer.forward(&x, Activation::Relu)
    })
}

/// Runs a layer of so many products for a while, and prints what it took.
fn report(
    name: &str,
    products: usize,
    cold: bool,
    forward: impl Fn() -> candle_core::Result<Tensor>,
) -> Result<(), Error> {
    let (start, mut rounds) = (Instant::now(), Vec::new());
    let mut swept = vec![0_u32; if cold { SWEPT } else { 0 }];
    while start.elapsed().as_secs_f64() < SECONDS || rounds.len() < 3 {
        for number in &mut swept {
            *number += 1;
        }
        std::hint::black_box(&swept);
        let round = Instant::now();
        std::hint::black_box(forward()?);
        rounds.push(round.elapsed().as_secs_f64());
    }
    rounds.sort_by(f64::total_cmp);
    let (best, median) = (rounds[0], rounds[rounds.len() / 2]);
    println!(
        "{name}: {:.3} ms at best, {:.3} in the median, {:.1} GFLOP/s",
        best * 1e3,
        median * 1e3,
        2.0 * products as f64 / median / 1e9,
    );
    Ok(())
}
