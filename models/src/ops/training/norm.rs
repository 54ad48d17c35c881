//! Batch norm by the batch's statistics, with an optional ReLU, and back.
//!
//! Arrays are `[batch, channels, size]`. Every channel is summed up by one thread, image by image,
//! in double precision.

use rayon::prelude::*;

/// Mean and (biased) variance of every channel.
pub(super) struct Statistics {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
}

/// Sum of a plane in strands that the compiler puts side by side.
#[inline(always)]
fn plane_sum(values: impl ExactSizeIterator<Item = f32>) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0_f32; LANES];
    for (index, value) in values.enumerate() {
        lanes[index % LANES] += value;
    }
    f64::from(lanes.iter().sum::<f32>())
}

/// The planes of a channel, image by image.
fn planes(
    all: &[f32],
    channels: usize,
    size: usize,
    channel: usize,
) -> impl Iterator<Item = &[f32]> {
    all.chunks_exact(channels * size)
        .map(move |image| &image[channel * size..][..size])
}

pub(super) fn statistics(raw: &[f32], channels: usize, size: usize) -> Statistics {
    let count = (raw.len() / channels) as f64;
    let pairs: Vec<(f32, f32)> = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let mut sum = 0.0;
            for plane in planes(raw, channels, size, channel) {
                sum += plane_sum(plane.iter().copied());
            }
            let mean = (sum / count) as f32;
            let mut squares = 0.0;
            for plane in planes(raw, channels, size, channel) {
                squares += plane_sum(plane.iter().map(|value| (value - mean) * (value - mean)));
            }
            (mean, (squares / count) as f32)
        })
        .collect();
    let (mean, variance) = pairs.into_iter().unzip();
    Statistics { mean, variance }
}

/// One over the deviation of every channel.
pub(super) fn inverse_deviations(stats: &Statistics, eps: f64) -> Vec<f32> {
    let inverse = |variance: &f32| (1.0 / (f64::from(*variance) + eps).sqrt()) as f32;
    stats.variance.iter().map(inverse).collect()
}

/// `affine`: all weights, then all biases.
pub(super) fn forward(
    raw: &[f32],
    mean: &[f32],
    inverse: &[f32],
    affine: &[f32],
    size: usize,
    relu: bool,
) -> Vec<f32> {
    let channels = mean.len();
    let (weight, bias) = affine.split_at(channels);
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let mut output = vec![0.0_f32; raw.len()];
    output
        .par_chunks_exact_mut(size)
        .zip(raw.par_chunks_exact(size))
        .enumerate()
        .for_each(|(plane, (output, raw))| {
            let channel = plane % channels;
            let scale = weight[channel] * inverse[channel];
            let (mean, bias) = (mean[channel], bias[channel]);
            for (output, raw) in output.iter_mut().zip(raw) {
                *output = ((raw - mean) * scale + bias).max(floor);
            }
        });
    output
}

/// What [`backward`] needs again.
pub(super) struct Saved<'a> {
    pub raw: &'a [f32],
    /// Where a ReLU followed.
    pub output: Option<&'a [f32]>,
    pub mean: &'a [f32],
    pub inverse: &'a [f32],
    pub weight: &'a [f32],
    /// Numbers of a plane.
    pub size: usize,
}

/// Gradients of the norm's input, and of its weights and biases.
pub(super) fn backward(saved: &Saved, gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (channels, size) = (saved.mean.len(), saved.size);
    let count = (gradient.len() / channels) as f64;
    // After a ReLU only what got through counts.
    let passed = |at: usize, value: f32| match saved.output {
        Some(output) if output[at] <= 0.0 => 0.0,
        _ => value,
    };
    let sums: Vec<(f64, f64)> = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let (mean, inverse) = (saved.mean[channel], saved.inverse[channel]);
            let (mut of_bias, mut of_weight) = (0.0, 0.0);
            for image in 0..gradient.len() / (channels * size) {
                let start = (image * channels + channel) * size;
                let range = start..start + size;
                of_bias += plane_sum(range.clone().map(|at| passed(at, gradient[at])));
                of_weight += plane_sum(
                    range.map(|at| passed(at, gradient[at]) * ((saved.raw[at] - mean) * inverse)),
                );
            }
            (of_weight, of_bias)
        })
        .collect();
    let mut to_raw = vec![0.0_f32; gradient.len()];
    to_raw
        .par_chunks_exact_mut(size)
        .enumerate()
        .for_each(|(plane, to_raw)| {
            let channel = plane % channels;
            let (of_weight, of_bias) = sums[channel];
            let (mean, inverse) = (saved.mean[channel], saved.inverse[channel]);
            let scale = saved.weight[channel] * inverse;
            let centre = (of_bias / count) as f32;
            let slope = (of_weight / count) as f32 * inverse;
            let start = plane * size;
            let gradient = &gradient[start..start + size];
            let raw = &saved.raw[start..start + size];
            for (index, (to_raw, (gradient, raw))) in
                to_raw.iter_mut().zip(gradient.iter().zip(raw)).enumerate()
            {
                let gradient = passed(start + index, *gradient);
                *to_raw = scale * (gradient - centre - (raw - mean) * slope);
            }
        });
    let mut to_affine: Vec<f32> = sums.iter().map(|sums| sums.0 as f32).collect();
    to_affine.extend(sums.iter().map(|sums| sums.1 as f32));
    (to_raw, to_affine)
}
