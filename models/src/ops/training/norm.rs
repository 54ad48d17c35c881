//! Batch norm by the batch's statistics, with an optional ReLU, and back.
//!
//! Arrays are `[batch, channels, size]`. A channel is one thread's, through all passes, so that it
//! comes from memory once; sums are taken in one order, over some thousand numbers in single
//! precision, beyond that in double.

#![allow(unsafe_code)] // threads write the planes of their channels

use rayon::prelude::*;

use super::cells::Shared;
use super::conv::written;
use crate::ops::cpu::simd::dispatch;

/// Mean of every channel, and one over its deviation.
pub(super) struct Statistics {
    pub mean: Vec<f32>,
    /// Biased.
    pub variance: Vec<f32>,
    pub inverse: Vec<f32>,
}

/// Sums side by side, so that they need not wait for each other.
const LANES: usize = 64;

/// Numbers that are summed up in single precision.
const BLOCK: usize = 2048;

/// Where the planes of a channel lie.
#[derive(Clone, Copy)]
struct Channel {
    index: usize,
    channels: usize,
    /// Numbers of a plane.
    size: usize,
}

impl Channel {
    /// Where the plane of every image begins.
    fn planes(self, numbers: usize) -> impl Iterator<Item = usize> {
        let Self {
            index,
            channels,
            size,
        } = self;
        (0..numbers / (channels * size)).map(move |image| (image * channels + index) * size)
    }

    fn count(self, numbers: usize) -> f64 {
        (numbers / self.channels) as f64
    }
}

/// Single-precision sums over a few numbers, and their total.
#[derive(Clone, Copy)]
struct Sum {
    lanes: [f32; LANES],
    total: f64,
}

impl Sum {
    const ZERO: Self = Self {
        lanes: [0.0; LANES],
        total: 0.0,
    };

    #[inline(always)]
    fn add(&mut self, numbers: &[f32; LANES]) {
        for (lane, number) in self.lanes.iter_mut().zip(numbers) {
            *lane += number;
        }
    }

    #[inline(always)]
    fn flush(&mut self) {
        let mut width = LANES / 2;
        while width > 0 {
            let (first, second) = self.lanes.split_at_mut(width);
            for (first, second) in first.iter_mut().zip(second) {
                *first += *second;
            }
            width /= 2;
        }
        self.total += f64::from(self.lanes[0]);
        self.lanes = [0.0; LANES];
    }
}

/// Sums over a channel.
trait Pass {
    /// Adds the `count` numbers from `at` on, at most [`LANES`].
    fn add(&mut self, at: usize, count: usize);

    /// Comes after every [`BLOCK`] and at the end.
    fn flush(&mut self);
}

/// Takes all planes of a channel through a pass.
#[inline(always)]
fn run(pass: &mut impl Pass, channel: Channel, numbers: usize) {
    let mut waiting = 0;
    for plane in channel.planes(numbers) {
        let mut at = 0;
        while at < channel.size {
            let count = LANES.min(channel.size - at);
            pass.add(plane + at, count);
            at += count;
            waiting += LANES;
            if waiting >= BLOCK {
                pass.flush();
                waiting = 0;
            }
        }
    }
    pass.flush();
}

/// [`LANES`] numbers from `at` on, of which `count` are there; the others are `filler`.
#[inline(always)]
fn load(numbers: &[f32], at: usize, count: usize, filler: f32) -> [f32; LANES] {
    if count == LANES
        && let Some(found) = numbers[at..].first_chunk::<LANES>()
    {
        return *found;
    }
    let mut lanes = [filler; LANES];
    lanes[..count].copy_from_slice(&numbers[at..at + count]);
    lanes
}

/// For the mean.
struct Total<'a> {
    raw: &'a [f32],
    sum: Sum,
}

impl Pass for Total<'_> {
    #[inline(always)]
    fn add(&mut self, at: usize, count: usize) {
        self.sum.add(&load(self.raw, at, count, 0.0));
    }

    #[inline(always)]
    fn flush(&mut self) {
        self.sum.flush();
    }
}

/// For the variance.
struct Squares<'a> {
    raw: &'a [f32],
    mean: f32,
    sum: Sum,
}

impl Pass for Squares<'_> {
    #[inline(always)]
    fn add(&mut self, at: usize, count: usize) {
        let numbers = load(self.raw, at, count, self.mean);
        self.sum
            .add(&numbers.map(|value| (value - self.mean) * (value - self.mean)));
    }

    #[inline(always)]
    fn flush(&mut self) {
        self.sum.flush();
    }
}

/// What [`forward`] does to one channel.
struct Forward<'a> {
    raw: &'a [f32],
    channel: Channel,
    eps: f64,
    weight: f32,
    bias: f32,
    /// The least number of the output.
    floor: f32,
    output: Shared,
}

/// `found`: mean, variance and one over the deviation.
#[inline(always)]
fn forward_body(job: &Forward<'_>, found: &mut [f32; 3]) {
    let (raw, channel) = (job.raw, job.channel);
    let count = channel.count(raw.len());
    let mut total = Total {
        raw,
        sum: Sum::ZERO,
    };
    run(&mut total, channel, raw.len());
    let mean = (total.sum.total / count) as f32;
    let mut squares = Squares {
        raw,
        mean,
        sum: Sum::ZERO,
    };
    run(&mut squares, channel, raw.len());
    let variance = (squares.sum.total / count) as f32;
    let inverse = (1.0 / (f64::from(variance) + job.eps).sqrt()) as f32;
    let scale = job.weight * inverse;
    for plane in channel.planes(raw.len()) {
        let raw = &raw[plane..plane + channel.size];
        // SAFETY: `forward` gives each channel to one job.
        let output =
            unsafe { std::slice::from_raw_parts_mut(job.output.0.add(plane), channel.size) };
        for (output, raw) in output.iter_mut().zip(raw) {
            *output = normed(*raw, mean, scale, job.bias).max(job.floor);
        }
    }
    *found = [mean, variance, inverse];
}

#[inline(always)]
fn normed(raw: f32, mean: f32, scale: f32, bias: f32) -> f32 {
    (raw - mean) * scale + bias
}

dispatch! {
    fn forward_channel(job: &Forward<'_>, found: &mut [f32; 3]) = forward_body
}

/// The output and the statistics. `affine`: all weights, then all biases; `size`: numbers of a
/// plane.
pub(super) fn forward(
    raw: &[f32],
    affine: &[f32],
    size: usize,
    eps: f64,
    relu: bool,
) -> (Vec<f32>, Statistics) {
    let channels = affine.len() / 2;
    assert!(raw.len().is_multiple_of(channels * size));
    let mut found = vec![[0.0; 3]; channels];
    // SAFETY: the planes of all channels are the whole output.
    let output = unsafe {
        written(raw.len(), |output| {
            let jobs = found.par_iter_mut().enumerate();
            jobs.for_each(|(index, found)| {
                let job = Forward {
                    raw,
                    channel: Channel {
                        index,
                        channels,
                        size,
                    },
                    eps,
                    weight: affine[index],
                    bias: affine[channels + index],
                    floor: if relu { 0.0 } else { f32::NEG_INFINITY },
                    output,
                };
                forward_channel(&job, found);
            });
        })
    };
    let column = |index: usize| found.iter().map(|found| found[index]).collect();
    let statistics = Statistics {
        mean: column(0),
        variance: column(1),
        inverse: column(2),
    };
    (output, statistics)
}

/// What [`backward`] needs again.
pub(super) struct Saved<'a> {
    pub raw: &'a [f32],
    /// Whether a ReLU followed.
    pub relu: bool,
    pub mean: &'a [f32],
    pub inverse: &'a [f32],
    /// All weights, then all biases.
    pub affine: &'a [f32],
    /// Numbers of a plane.
    pub size: usize,
}

/// What [`backward`] does to one channel.
struct Backward<'a> {
    raw: &'a [f32],
    gradient: &'a [f32],
    channel: Channel,
    mean: f32,
    inverse: f32,
    weight: f32,
    bias: f32,
    to_raw: Shared,
}

impl Backward<'_> {
    /// After a ReLU only what got through counts; the forward pass computed the same number.
    #[inline(always)]
    fn passed<const RELU: bool>(&self, gradient: f32, raw: f32) -> f32 {
        let scale = self.weight * self.inverse;
        if RELU && normed(raw, self.mean, scale, self.bias) <= 0.0 {
            0.0
        } else {
            gradient
        }
    }
}

/// For the gradients of weight and bias.
struct Products<'a, const RELU: bool> {
    job: &'a Backward<'a>,
    of_bias: Sum,
    of_weight: Sum,
}

impl<const RELU: bool> Pass for Products<'_, RELU> {
    #[inline(always)]
    fn add(&mut self, at: usize, count: usize) {
        let job = self.job;
        let mut gradients = load(job.gradient, at, count, 0.0);
        let mut products = load(job.raw, at, count, job.mean);
        for (gradient, product) in gradients.iter_mut().zip(&mut products) {
            *gradient = job.passed::<RELU>(*gradient, *product);
            *product = *gradient * (*product - job.mean);
        }
        self.of_bias.add(&gradients);
        self.of_weight.add(&products);
    }

    #[inline(always)]
    fn flush(&mut self) {
        self.of_bias.flush();
        self.of_weight.flush();
    }
}

/// `found`: what the weight and the bias receive.
#[inline(always)]
fn backward_body<const RELU: bool>(job: &Backward<'_>, found: &mut [f32; 2]) {
    let &Backward {
        raw,
        gradient,
        channel,
        mean,
        inverse,
        ..
    } = job;
    let mut products = Products::<RELU> {
        job,
        of_bias: Sum::ZERO,
        of_weight: Sum::ZERO,
    };
    run(&mut products, channel, raw.len());
    let count = channel.count(raw.len());
    let of_bias = products.of_bias.total;
    let of_weight = products.of_weight.total * f64::from(inverse);
    let scale = job.weight * inverse;
    let centre = (of_bias / count) as f32;
    let slope = (of_weight / count) as f32 * inverse;
    for plane in channel.planes(raw.len()) {
        let inputs = gradient[plane..plane + channel.size]
            .iter()
            .zip(&raw[plane..plane + channel.size]);
        // SAFETY: `backward` gives each channel to one job.
        let to_raw =
            unsafe { std::slice::from_raw_parts_mut(job.to_raw.0.add(plane), channel.size) };
        for (to_raw, (gradient, raw)) in to_raw.iter_mut().zip(inputs) {
            let gradient = job.passed::<RELU>(*gradient, *raw);
            *to_raw = scale * (gradient - centre - (raw - mean) * slope);
        }
    }
    *found = [of_weight as f32, of_bias as f32];
}

dispatch! {
    fn backward_plain(job: &Backward<'_>, found: &mut [f32; 2]) = backward_body::<false>
}

dispatch! {
    fn backward_relu(job: &Backward<'_>, found: &mut [f32; 2]) = backward_body::<true>
}

/// Gradients of the norm's input, and of its weights and biases.
pub(super) fn backward(saved: &Saved, gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (channels, size) = (saved.mean.len(), saved.size);
    assert!(saved.raw.len() == gradient.len() && gradient.len().is_multiple_of(channels * size));
    let mut found = vec![[0.0; 2]; channels];
    // SAFETY: the planes of all channels are the whole gradient.
    let to_raw = unsafe {
        written(gradient.len(), |to_raw| {
            let jobs = found.par_iter_mut().enumerate();
            jobs.for_each(|(index, found)| {
                let job = Backward {
                    raw: saved.raw,
                    gradient,
                    channel: Channel {
                        index,
                        channels,
                        size,
                    },
                    mean: saved.mean[index],
                    inverse: saved.inverse[index],
                    weight: saved.affine[index],
                    bias: saved.affine[channels + index],
                    to_raw,
                };
                if saved.relu {
                    backward_relu(&job, found);
                } else {
                    backward_plain(&job, found);
                }
            });
        })
    };
    let column = |index: usize| found.iter().map(move |found| found[index]);
    (to_raw, column(0).chain(column(1)).collect())
}
