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

/// Sums that the compiler puts side by side.
const LANES: usize = 16;

/// Sum of `of` a plane's numbers.
#[inline(always)]
fn plane_sum(plane: &[f32], of: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = plane.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += of(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += of(*value);
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
                sum += plane_sum(plane, |value| value);
            }
            let mean = (sum / count) as f32;
            let mut squares = 0.0;
            for plane in planes(raw, channels, size, channel) {
                squares += plane_sum(plane, |value| (value - mean) * (value - mean));
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
    let masked;
    let gradient = match saved.output {
        Some(output) => {
            masked = super::zip_parts(output, gradient, |y, g| if y > 0.0 { g } else { 0.0 });
            &masked
        }
        None => gradient,
    };
    let sums: Vec<(f64, f64)> = (0..channels)
        .into_par_iter()
        .map(|channel| {
            let (mean, inverse) = (saved.mean[channel], saved.inverse[channel]);
            let (mut of_bias, mut of_weight) = (0.0, 0.0);
            let images = planes(gradient, channels, size, channel)
                .zip(planes(saved.raw, channels, size, channel));
            for (gradient, raw) in images {
                of_bias += plane_sum(gradient, |value| value);
                of_weight += centred_product(gradient, raw, mean);
            }
            (of_weight * f64::from(inverse), of_bias)
        })
        .collect();
    let mut to_raw = vec![0.0_f32; gradient.len()];
    to_raw
        .par_chunks_exact_mut(size)
        .zip(gradient.par_chunks_exact(size))
        .zip(saved.raw.par_chunks_exact(size))
        .enumerate()
        .for_each(|(plane, ((to_raw, gradient), raw))| {
            let channel = plane % channels;
            let (of_weight, of_bias) = sums[channel];
            let (mean, inverse) = (saved.mean[channel], saved.inverse[channel]);
            let scale = saved.weight[channel] * inverse;
            let centre = (of_bias / count) as f32;
            let slope = (of_weight / count) as f32 * inverse;
            for (to_raw, (gradient, raw)) in to_raw.iter_mut().zip(gradient.iter().zip(raw)) {
                *to_raw = scale * (gradient - centre - (raw - mean) * slope);
            }
        });
    let mut to_affine: Vec<f32> = sums.iter().map(|sums| sums.0 as f32).collect();
    to_affine.extend(sums.iter().map(|sums| sums.1 as f32));
    (to_raw, to_affine)
}

/// Sum of gradient × (raw - mean) over a plane.
#[inline(always)]
fn centred_product(gradient: &[f32], raw: &[f32], mean: f32) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let (gradients, gradient_rest) = gradient.as_chunks::<LANES>();
    let (raws, raw_rest) = raw.as_chunks::<LANES>();
    for (gradient, raw) in gradients.iter().zip(raws) {
        for lane in 0..LANES {
            lanes[lane] += gradient[lane] * (raw[lane] - mean);
        }
    }
    for (lane, (gradient, raw)) in lanes.iter_mut().zip(gradient_rest.iter().zip(raw_rest)) {
        *lane += gradient * (raw - mean);
    }
    f64::from(lanes.iter().sum::<f32>())
}
