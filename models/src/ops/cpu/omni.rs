//! All convolutions of an OSNet, channels last, one image after the other: an image's numbers stay in
//! the second-level cache from block to block, and nothing is allocated for a layer.
//!
//! Threads share images out, and rows and streams of one image where there are fewer images than
//! threads. No sum depends on how.

#![allow(unsafe_code)] // threads write into one output

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::aligned::Aligned;
use super::cascade::{Cascade, Folded};
use super::cells::{Cells, EIGHT, Product};
use super::conv::{Shared, Size};
use super::light::{self, Light};
use super::math::exp;
use super::simd::Level;
use crate::layers::Conv;
use crate::ops::profile::timed;
use crate::ops::{Activation, Window};

/// Streams of a block; stream `n` has `n + 1` light convolutions.
pub const STREAMS: usize = 4;

/// Cells that pass through two steps together: what lies between stays in the first-level cache.
const TOGETHER: usize = 96;

/// A block's weights.
pub struct BlockWeights {
    /// 1×1 to fewer channels, ReLU.
    pub narrow: Folded,
    /// By stream, its light convolutions: 1×1 without bias, then depthwise 3×3, ReLU.
    pub streams: [Vec<(Vec<f32>, Folded)>; STREAMS],
    /// The gate's two layers, with ReLU between them and a sigmoid at the end.
    pub gate: [Folded; 2],
    /// 1×1 of the gated sum.
    pub widen: Folded,
    /// 1×1 of the block's input, where it is not added as it is.
    pub shortcut: Option<Folded>,
}

/// All weights.
pub struct Weights {
    /// 7×7 at stride 2, ReLU.
    pub stem: Folded,
    /// Blocks by stage.
    pub stages: Vec<Vec<BlockWeights>>,
    /// 1×1, ReLU, both sides halved: between stages.
    pub transitions: Vec<Folded>,
    /// 1×1, ReLU: after the last stage.
    pub last: Folded,
}

/// The convolutions, prepared.
pub struct OmniScale {
    stem: Cascade,
    stages: Vec<Vec<Block>>,
    transitions: Vec<Product>,
    last: Product,
    rooms: Mutex<Vec<Room>>,
}

struct Block {
    narrow: Product,
    streams: [Vec<Light>; STREAMS],
    gate: [Folded; 2],
    /// Of the gated sum, and of the block's input where the shortcut is a convolution.
    widen: Product,
    projects: bool,
}

/// What an image needs, kept for the next one.
#[derive(Default)]
struct Room {
    /// `[height, width, channels]`: where a step reads, and where it writes.
    input: Aligned,
    output: Aligned,
    narrow: Aligned,
    streams: [Aligned; STREAMS],
}

thread_local! {
    /// What a job needs besides.
    static SCRATCH: RefCell<Aligned> = RefCell::default();
}

/// An image on its way.
#[derive(Clone, Copy)]
struct Extent {
    height: usize,
    width: usize,
    /// Parts that threads share out.
    parts: usize,
}

impl Extent {
    fn cells(&self) -> usize {
        self.height * self.width
    }
}

/// Runs `job` over `0..count`, in parts.
fn in_parts(count: usize, parts: usize, job: impl Fn(Range<usize>) + Sync) {
    if parts <= 1 || count <= 1 {
        return job(0..count);
    }
    let part = count.div_ceil(parts);
    (0..count.div_ceil(part))
        .into_par_iter()
        .for_each(|index| job(index * part..((index + 1) * part).min(count)));
}

impl OmniScale {
    /// Prepares weights for `level` of this machine; `None` where channels do not come in eights.
    pub fn new(weights: &Weights, level: Level) -> Option<Self> {
        let pointwise = |layer: &Folded| Product::new(&[&layer.weight], &layer.bias, level);
        let blocks = weights.stages.iter().flatten();
        let mut layers = vec![&weights.stem, &weights.last];
        layers.extend(&weights.transitions);
        layers.extend(blocks.flat_map(|block| [&block.narrow, &block.widen]));
        let fits =
            |layer: &&Folded| !layer.bias.is_empty() && layer.bias.len().is_multiple_of(EIGHT);
        if !layers.iter().all(fits) {
            return None;
        }
        let stage = |blocks: &Vec<BlockWeights>| {
            let block = |block| Block::new(block, level);
            blocks.iter().map(block).collect()
        };
        Some(Self {
            stem: stem(&weights.stem, level)?,
            stages: weights.stages.iter().map(stage).collect(),
            transitions: weights.transitions.iter().map(pointwise).collect(),
            last: pointwise(&weights.last),
            rooms: Mutex::default(),
        })
    }

    /// Channels of the result.
    pub fn output(&self) -> usize {
        self.last.output()
    }

    /// Means of the last convolution's planes, `[batch, channels]`, of images
    /// `[batch, 3, height, width]`; `None` if they are too small.
    pub fn run(&self, images: &[f32], size: Size) -> Option<Vec<f32>> {
        let mut smallest = self.stem.output_size(size)?;
        for _ in &self.transitions {
            smallest = (smallest.0 / 2, smallest.1 / 2);
        }
        if smallest.0 == 0 || smallest.1 == 0 {
            return None;
        }
        let channels = self.output();
        let mut means = vec![0.0; size.batch * channels];
        let planes = 3 * size.cells();
        let threads = rayon::current_num_threads();
        let parts = threads.div_ceil(size.batch.max(1));
        let image = |means: &mut [f32], image: &[f32]| {
            let room = {
                let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
                rooms.pop()
            };
            let mut room = room.unwrap_or_default();
            self.image(image, size, parts, &mut room, means);
            let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
            rooms.push(room);
        };
        if threads == 1 || size.batch == 1 {
            let both = means
                .chunks_exact_mut(channels)
                .zip(images.chunks_exact(planes));
            both.for_each(|(means, one)| image(means, one));
        } else {
            let means = means.par_chunks_exact_mut(channels);
            let both = means.zip(images.par_chunks_exact(planes));
            both.for_each(|(means, one)| image(means, one));
        }
        Some(means)
    }

    fn image(&self, image: &[f32], size: Size, parts: usize, room: &mut Room, means: &mut [f32]) {
        let Some((height, width)) = self.stem.output_size(size) else {
            return;
        };
        let mut extent = Extent {
            height,
            width,
            parts,
        };
        timed(
            || self.describe("stem", extent),
            || self.stem(image, size, extent, room),
        );
        for (index, blocks) in self.stages.iter().enumerate() {
            for block in blocks {
                timed(|| block.describe(extent), || block.run(extent, room));
            }
            if let Some(transition) = self.transitions.get(index) {
                timed(
                    || self.describe("transition", extent),
                    || halved(transition, extent, room),
                );
                extent.height /= 2;
                extent.width /= 2;
            }
        }
        timed(
            || self.describe("last", extent),
            || self.means(extent, room, means),
        );
    }

    fn describe(&self, what: &str, extent: Extent) -> (String, f64) {
        let Extent { height, width, .. } = extent;
        (format!("OSNet {what}, {height}×{width}"), 0.0)
    }

    fn stem(&self, image: &[f32], size: Size, extent: Extent, room: &mut Room) {
        let output = room.output.room(extent.cells() * self.stem.output());
        let output = Shared(output.as_mut_ptr());
        in_parts(extent.height, extent.parts, |rows| {
            // SAFETY: no other job has these rows.
            unsafe { self.stem.rows(image, size, rows, output.at(0)) };
        });
        std::mem::swap(&mut room.input, &mut room.output);
    }

    /// The last convolution, and the mean of each of its planes.
    fn means(&self, extent: Extent, room: &mut Room, means: &mut [f32]) {
        let channels = self.last.output();
        let output = room.output.room(extent.cells() * channels);
        pointwise(&self.last, extent, &room.input, output);
        means.fill(0.0);
        // Sums of rows first: their errors are smaller.
        let mut sums = vec![0.0; channels];
        for row in output.chunks_exact(extent.width * channels) {
            sums.fill(0.0);
            for cell in row.chunks_exact(channels) {
                for (sum, number) in sums.iter_mut().zip(cell) {
                    *sum += number;
                }
            }
            for (mean, sum) in means.iter_mut().zip(&sums) {
                *mean += sum;
            }
        }
        for mean in means {
            *mean /= extent.cells() as f32;
        }
    }
}

/// 7×7 at stride 2, ReLU, and the largest of 3×3 at stride 2.
fn stem(weights: &Folded, level: Level) -> Option<Cascade> {
    let conv = Conv::new(3, weights.bias.len(), 7)
        .stride(2)
        .activation(Activation::Relu);
    let window = Window {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    Cascade::with_pool(conv, weights.clone(), window, level)
}

/// 1×1 convolution and ReLU of `[cells, channels]`.
fn pointwise(product: &Product, extent: Extent, input: &Aligned, output: &mut [f32]) {
    let depth = product.depth();
    let input = Shared(input.numbers().as_ptr().cast_mut());
    let output = Shared(output.as_mut_ptr());
    in_parts(extent.cells(), extent.parts, |cells| {
        // SAFETY: cells of this job, which no other one writes.
        unsafe {
            product.run(&Cells {
                count: cells.len(),
                inputs: [input.at(cells.start * depth), std::ptr::null()],
                added: std::ptr::null(),
                relu: true,
                output: output.at(cells.start * product.output()),
            });
        }
    });
}

/// 1×1 convolution, ReLU, and the mean of every 2×2 square.
fn halved(product: &Product, extent: Extent, room: &mut Room) {
    let (depth, channels) = (product.depth(), product.output());
    let (rows, columns) = (extent.height / 2, extent.width / 2);
    let output = room.output.room(rows * columns * channels);
    let output = Shared(output.as_mut_ptr());
    let input = Shared(room.input.numbers().as_ptr().cast_mut());
    in_parts(rows, extent.parts, |rows| {
        SCRATCH.with_borrow_mut(|scratch| {
            let pair = scratch.room(2 * extent.width * channels);
            for row in rows {
                // SAFETY: two rows of the input, and a row of the output that no other job has.
                let output = unsafe {
                    product.run(&Cells {
                        count: 2 * extent.width,
                        inputs: [input.at(2 * row * extent.width * depth), std::ptr::null()],
                        added: std::ptr::null(),
                        relu: true,
                        output: pair.as_mut_ptr(),
                    });
                    let output = output.at(row * columns * channels);
                    std::slice::from_raw_parts_mut(output, columns * channels)
                };
                let (upper, lower) = pair.split_at(extent.width * channels);
                let squares = upper.chunks_exact(2 * channels);
                let squares = squares.zip(lower.chunks_exact(2 * channels));
                for (output, (upper, lower)) in output.chunks_exact_mut(channels).zip(squares) {
                    let (a, b) = upper.split_at(channels);
                    let (c, d) = lower.split_at(channels);
                    for (at, output) in output.iter_mut().enumerate() {
                        *output = (a[at] + b[at] + c[at] + d[at]) * 0.25;
                    }
                }
            }
        });
    });
    std::mem::swap(&mut room.input, &mut room.output);
}

impl Block {
    fn new(weights: &BlockWeights, level: Level) -> Self {
        let narrow = &weights.narrow;
        let light = |(pointwise, depthwise): &(Vec<f32>, Folded)| {
            Light::new(pointwise, &depthwise.weight, &depthwise.bias, level)
        };
        let stream = |stream: &Vec<(Vec<f32>, Folded)>| stream.iter().map(light).collect();
        let widen = &weights.widen;
        let widen = match &weights.shortcut {
            None => Product::new(&[&widen.weight], &widen.bias, level),
            Some(shortcut) => {
                let biases = widen.bias.iter().zip(&shortcut.bias);
                let bias: Vec<f32> = biases.map(|(a, b)| a + b).collect();
                Product::new(&[&widen.weight, &shortcut.weight], &bias, level)
            }
        };
        Self {
            narrow: Product::new(&[&narrow.weight], &narrow.bias, level),
            streams: std::array::from_fn(|index| stream(&weights.streams[index])),
            gate: weights.gate.clone(),
            widen,
            projects: weights.shortcut.is_some(),
        }
    }

    fn describe(&self, extent: Extent) -> (String, f64) {
        let Extent { height, width, .. } = extent;
        let (input, middle) = (self.narrow.depth(), self.narrow.output());
        let output = self.widen.output();
        let lights = self.streams.iter().map(Vec::len).sum::<usize>();
        let shortcut = if self.projects { input * output } else { 0 };
        let products = (input + output) * middle + shortcut + lights * middle * (middle + 9);
        (
            format!("OSNet block, {input} → {output}, {height}×{width}"),
            (2 * products * extent.cells()) as f64,
        )
    }

    /// From the room's input to its input.
    fn run(&self, extent: Extent, room: &mut Room) {
        let channels = self.narrow.output();
        let count = extent.cells() * channels;
        pointwise(&self.narrow, extent, &room.input, room.narrow.room(count));
        let mut sums = vec![0.0; STREAMS * channels];
        self.streams(extent, room, &mut sums);
        let gates = self.gates(&sums, extent.cells());
        self.join(extent, room, &gates);
        std::mem::swap(&mut room.input, &mut room.output);
    }

    /// All streams, and the sums of their planes.
    fn streams(&self, extent: Extent, room: &mut Room, sums: &mut [f32]) {
        /// The longest and the shortest first: two threads are done at the same time.
        const ORDER: [usize; STREAMS] = [3, 0, 2, 1];
        let channels = self.narrow.output();
        let input = Shared(room.narrow.numbers().as_ptr().cast_mut());
        let sums = Shared(sums.as_mut_ptr());
        let outputs = room.streams.each_mut();
        let outputs =
            outputs.map(|stream| Shared(stream.room(extent.cells() * channels).as_mut_ptr()));
        let jobs = if extent.parts > 2 {
            STREAMS
        } else {
            extent.parts
        };
        in_parts(STREAMS, jobs, |turns| {
            for stream in turns.map(|turn| ORDER[turn]) {
                let lights = &self.streams[stream];
                for (index, light) in lights.iter().enumerate() {
                    let last = index + 1 == lights.len();
                    SCRATCH.with_borrow_mut(|scratch| {
                        // SAFETY: a stream's numbers and sums are its job's alone; from the second
                        // convolution on they are changed in place.
                        unsafe {
                            let output = outputs[stream].at(0);
                            light.run(&light::Pass {
                                height: extent.height,
                                width: extent.width,
                                input: if index == 0 { input.at(0) } else { output },
                                output,
                                sums: if last {
                                    sums.at(stream * channels)
                                } else {
                                    std::ptr::null_mut()
                                },
                                room: scratch.room(light.room(extent.width)).as_mut_ptr(),
                            });
                        }
                    });
                }
            }
        });
    }

    /// Weights of all channels by stream.
    fn gates(&self, sums: &[f32], cells: usize) -> Vec<f32> {
        let channels = self.narrow.output();
        let [squeeze, excite] = &self.gate;
        let inner = squeeze.bias.len();
        let mut gates = Vec::with_capacity(sums.len());
        for sums in sums.chunks_exact(channels) {
            let mut squeezed = squeeze.bias.clone();
            for (number, weights) in squeezed.iter_mut().zip(squeeze.weight.chunks(channels)) {
                for (weight, sum) in weights.iter().zip(sums) {
                    *number += weight * (sum / cells as f32);
                }
                *number = number.max(0.0);
            }
            for (bias, weights) in excite.bias.iter().zip(excite.weight.chunks(inner)) {
                let mut sum = *bias;
                for (weight, number) in weights.iter().zip(&squeezed) {
                    sum += weight * number;
                }
                gates.push(1.0 / (1.0 + exp(-sum)));
            }
        }
        gates
    }

    /// The gated sum of the streams, widened, and the shortcut; ReLU.
    fn join(&self, extent: Extent, room: &mut Room, gates: &[f32]) {
        let (middle, channels) = (self.narrow.output(), self.widen.output());
        let depth = self.narrow.depth();
        let output = room.output.room(extent.cells() * channels);
        let output = Shared(output.as_mut_ptr());
        let input = Shared(room.input.numbers().as_ptr().cast_mut());
        let streams = room.streams.each_ref();
        let streams = streams.map(|stream| Shared(stream.numbers().as_ptr().cast_mut()));
        in_parts(extent.cells(), extent.parts, |cells| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mixed = scratch.room(TOGETHER * middle);
                for first in cells.clone().step_by(TOGETHER) {
                    let count = TOGETHER.min(cells.end - first);
                    // SAFETY: numbers of these cells, which are written by this job alone.
                    unsafe {
                        let streams = streams.map(|stream| {
                            let stream = stream.at(first * middle).cast_const();
                            std::slice::from_raw_parts(stream, count * middle)
                        });
                        mix(&mut mixed[..count * middle], streams, gates);
                        let shortcut = input.at(first * depth).cast_const();
                        let none = std::ptr::null();
                        self.widen.run(&Cells {
                            count,
                            inputs: [mixed.as_ptr(), if self.projects { shortcut } else { none }],
                            added: if self.projects { none } else { shortcut },
                            relu: true,
                            output: output.at(first * channels),
                        });
                    }
                }
            });
        });
    }
}

super::simd::dispatch! {
    /// `[cells, channels]`: the sum of the streams, by their gates, `[STREAMS, channels]`.
    fn mix(mixed: &mut [f32], streams: [&[f32]; STREAMS], gates: &[f32]) = mix_body
}

#[inline(always)]
fn mix_body(mixed: &mut [f32], streams: [&[f32]; STREAMS], gates: &[f32]) {
    let channels = gates.len() / STREAMS;
    let [a, b, c, d] = streams.map(|stream| stream.chunks_exact(channels));
    let (first, second) = gates.split_at(2 * channels);
    let ((ga, gb), (gc, gd)) = (first.split_at(channels), second.split_at(channels));
    let cells = mixed.chunks_exact_mut(channels).zip(a).zip(b).zip(c).zip(d);
    for ((((mixed, a), b), c), d) in cells {
        for (at, mixed) in mixed.iter_mut().enumerate() {
            *mixed = a[at] * ga[at] + b[at] * gb[at] + c[at] * gc[at] + d[at] * gd[at];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{levels, made_up_numbers};
    use super::*;

    fn folded(input: usize, output: usize, kernel: usize, seed: u32) -> Folded {
        let depth = input * kernel * kernel;
        let scale = (3.0 / depth as f32).sqrt();
        let mut weight = made_up_numbers(output * depth, seed);
        weight.iter_mut().for_each(|weight| *weight *= scale);
        Folded {
            weight,
            bias: made_up_numbers(output, seed + 1),
        }
    }

    /// Two stages, the blocks with and without a convolution as shortcut.
    fn weights() -> Weights {
        let block = |input: usize, output: usize, seed: u32| {
            let middle = output / 4;
            let light = |at: u32| {
                let depthwise = folded(1, middle, 3, seed + 20 + at);
                (folded(middle, middle, 1, seed + 10 + at).weight, depthwise)
            };
            BlockWeights {
                narrow: folded(input, middle, 1, seed),
                streams: std::array::from_fn(|stream| (0..=stream as u32).map(light).collect()),
                gate: [
                    folded(middle, 2, 1, seed + 1),
                    folded(2, middle, 1, seed + 2),
                ],
                widen: folded(middle, output, 1, seed + 3),
                shortcut: (input != output).then(|| folded(input, output, 1, seed + 4)),
            }
        };
        Weights {
            stem: folded(3, 16, 7, 1),
            stages: vec![
                vec![block(16, 64, 100), block(64, 64, 200)],
                vec![block(64, 96, 300), block(96, 96, 400)],
            ],
            transitions: vec![folded(64, 64, 1, 2)],
            last: folded(96, 40, 1, 3),
        }
    }

    // To the last bit; odd sides, so that halving leaves something out. By the definition it is
    // checked with the network.
    #[test]
    fn batches_and_threads_change_nothing() {
        let size = |batch: usize| Size {
            batch,
            height: 45,
            width: 39,
        };
        let images = made_up_numbers(3 * 3 * 45 * 39, 9);
        let mut before: Option<Vec<f32>> = None;
        for level in levels() {
            let network = OmniScale::new(&weights(), level).unwrap();
            let run = |threads: usize, images: &[f32], batch: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let pool = pool.build().unwrap();
                pool.install(|| network.run(images, size(batch))).unwrap()
            };
            let expected = run(1, &images, 3);
            assert_eq!(expected.len(), 3 * network.output());
            for threads in [2, 5] {
                assert_eq!(run(threads, &images, 3), expected, "{threads} threads");
                let singles = images.chunks_exact(images.len() / 3);
                let singles: Vec<f32> = singles.flat_map(|image| run(threads, image, 1)).collect();
                assert_eq!(singles, expected, "{threads} threads");
            }
            for (a, b) in before.iter().flatten().zip(&expected) {
                assert!(
                    (a - b).abs() < 1e-5 * a.abs().max(1.0),
                    "{level:?}: {a} {b}"
                );
            }
            before = Some(expected);
        }
    }

    #[test]
    fn images_too_small_and_odd_channels_are_refused() {
        let level = Level::Plain;
        let network = OmniScale::new(&weights(), level).unwrap();
        for (height, width) in [(0, 40), (40, 0), (4, 40), (40, 4)] {
            let size = Size {
                batch: 1,
                height,
                width,
            };
            assert!(network.run(&vec![0.0; 3 * size.cells()], size).is_none());
        }
        let mut odd = weights();
        odd.last = folded(96, 36, 1, 3);
        assert!(OmniScale::new(&odd, level).is_none());
    }
}
