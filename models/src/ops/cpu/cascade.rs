//! Several layers together, row by row, channels last: a row of the last one asks for the rows that it sees,
//! these for theirs, and what lies between, a few rows of every layer, stays in the caches. For the
//! beginning of a detector, whose maps are so large that to write and to read them takes as long as what is
//! computed.
//!
//! Where bfloat16 is asked for, the rows that dense layers see are kept as 16-bit integers besides, see [`super::fixed`],
//! each in units of its own: these layers are the first ones, and narrow, and bfloat16 would show in the
//! results. What is seen of the image stays f32, and so do depthwise layers and the largest of windows.
//!
//! Alwani, Chen, Ferdman and Milder, "Fused-Layer CNN Accelerators", 2016, keep rows in the same way.

#![allow(unsafe_code)] // vector instructions, and threads write into one output

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::block::Precision;
use super::cells::{EIGHT, Group, groups};
use super::conv::{Shared, Size};
use super::fixed;
use super::lanes::Lanes;
use super::product::Source;
use super::simd::Level;
use super::threads::share;
use crate::layers::Conv;
use crate::ops::{Activation, Window};

mod pass;
mod plan;

#[cfg(target_arch = "x86_64")]
use pass::run_integers;
use pass::{Output, Pass, run};

/// Most rows that one row of a dense layer sees, each of one input.
const LINES: usize = 32;

/// Numbers of a line of the cache.
const LINE: usize = 16;

/// A convolution with its norm folded in.
#[derive(Debug, Clone, Default)]
pub struct Folded {
    /// `[output, input / groups, kernel, kernel]`.
    pub weight: Vec<f32>,
    /// `[output]`.
    pub bias: Vec<f32>,
}

/// A layer, and which ones it follows.
#[derive(Clone)]
pub struct Layer {
    /// The layers whose channels it sees, one after the other: 0 is the image, `n` the `n`-th layer.
    pub inputs: Vec<usize>,
    /// What it computes.
    pub step: Step,
}

/// What a layer computes.
#[derive(Clone)]
pub enum Step {
    /// A convolution, dense or depthwise, followed by ReLU or nothing, times the first number plus the second.
    Conv(Conv, Folded, [f32; 2]),
    /// The largest number of every window, with so many further rows and columns at the far ends. What is
    /// outside counts as zero: after ReLU it is never the largest alone.
    Largest(Window, usize),
}

/// The layers, prepared.
pub struct Cascade {
    /// The image and all layers.
    nodes: Vec<Node>,
    level: Level,
}

struct Node {
    inputs: Vec<usize>,
    kind: Kind,
    /// Of the output; of a plane of the image 1.
    channels: usize,
    /// The channels; of the image none.
    groups: Vec<Group>,
    /// What a row sees: kernel, stride, padding.
    window: Conv,
    /// Most numbers of its rows that another layer's sum takes of a line as integers; 0 where none does.
    seen_as_integers: usize,
}

enum Kind {
    /// The image, its planes apart from each other.
    Planes(usize),
    Dense {
        /// Group by group, `[kernel row, input, kernel column, input channel, channels of the group]`; of integers
        /// two input channels a word.
        weight: Aligned,
        end: Finish,
        /// Of integers `[channels]`, or none.
        units: Aligned,
    },
    Depthwise {
        /// `[kernel row, kernel column, channels]`.
        weight: Aligned,
        end: Finish,
    },
    Largest,
}

/// What precedes sums and what follows them.
struct Finish {
    bias: Aligned, // [channels]
    /// What is less becomes this.
    least: f32,
    scale: [f32; 2],
}

impl Finish {
    #[inline(always)]
    unsafe fn of<V: Lanes>(&self, sum: V) -> V {
        let [scale, shift] = self.scale;
        // SAFETY: by the contract of `Lanes`.
        unsafe {
            let sum = sum.or_more(V::splat(self.least));
            V::splat(shift).fma(sum, V::splat(scale))
        }
    }
}

thread_local! {
    /// Room for rows, kept by its thread.
    static ROOM: RefCell<Aligned> = RefCell::default();
}

impl Cascade {
    /// Prepares layers that follow an image of so many planes for `level` of this machine; the last one is the
    /// output. `None` where there is no kernel for them, as for channels that do not come in eights. In bfloat16
    /// products are of integers where the level has those, and f32 otherwise.
    pub fn new(
        planes: usize,
        layers: Vec<Layer>,
        level: Level,
        precision: Precision,
    ) -> Option<Self> {
        let integers = precision == Precision::Bf16 && fixed::available(level);
        let image = Node {
            inputs: Vec::new(),
            kind: Kind::Planes(planes),
            channels: 1,
            groups: Vec::new(),
            window: Conv::new(planes, planes, 1),
            seen_as_integers: 0,
        };
        let mut nodes = vec![image];
        if layers.is_empty() {
            return None;
        }
        for layer in layers {
            let node = Node::new(layer, &nodes, level, integers)?;
            if node.multiplies_integers() {
                for input in &node.inputs {
                    let input = &mut nodes[*input];
                    let seen = node.window.kernel * input.channels;
                    input.seen_as_integers = seen.max(input.seen_as_integers);
                }
            }
            nodes.push(node);
        }
        Some(Self { nodes, level })
    }

    /// A convolution, and the largest of windows of what it gives, which is not below zero.
    pub fn with_pool(conv: Conv, weights: Folded, window: Window, level: Level) -> Option<Self> {
        let layers = vec![
            Layer {
                inputs: vec![0],
                step: Step::Conv(conv, weights, [1.0, 0.0]),
            },
            Layer {
                inputs: vec![1],
                step: Step::Largest(window, 0),
            },
        ];
        // The image is seen as it is.
        Self::new(conv.input, layers, level, Precision::F32)
    }

    /// Planes of an image.
    pub fn planes(&self) -> usize {
        self.nodes.first().map_or(0, Node::planes)
    }

    /// How many layers.
    pub fn layers(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Channels of the output.
    pub fn output(&self) -> usize {
        self.nodes.last().map_or(0, |node| node.channels)
    }

    /// Rows and columns of the output; `None` where a layer has none.
    pub fn output_size(&self, size: Size) -> Option<(usize, usize)> {
        self.sizes(size)?.last().copied()
    }

    /// Rows and columns of all nodes.
    fn sizes(&self, size: Size) -> Option<Vec<(usize, usize)>> {
        let mut sizes: Vec<(usize, usize)> = vec![(size.height, size.width)];
        for node in &self.nodes[1..] {
            let (height, width) = sizes[node.inputs[0]];
            let alike = node
                .inputs
                .iter()
                .all(|input| sizes[*input] == (height, width));
            let (height, width) = node.window.output_size(height, width)?;
            if !alike || height == 0 || width == 0 {
                return None;
            }
            sizes.push((height, width));
        }
        (size.cells() > 0).then_some(sizes)
    }

    /// Operations, as products and sums by the definition.
    pub fn operations(&self, size: Size) -> f64 {
        let Some(sizes) = self.sizes(size) else {
            return 0.0;
        };
        let of = |(node, (height, width)): (&Node, &(usize, usize))| match node.kind {
            Kind::Planes(_) | Kind::Largest => 0.0,
            Kind::Dense { .. } | Kind::Depthwise { .. } => {
                let Conv {
                    input,
                    groups,
                    kernel,
                    ..
                } = node.window;
                2.0 * (height * width * node.channels * input / groups * kernel * kernel) as f64
            }
        };
        size.batch as f64 * self.nodes.iter().zip(&sizes).map(of).sum::<f64>()
    }

    /// From images, whose planes are those of all `sources`, one after the other, to `[batch, channels, height,
    /// width]` of the output; `None` where a layer has no output.
    ///
    /// # Panics
    /// If there are other planes.
    pub fn run(&self, sources: &[Source<'_>], size: Size) -> Option<Vec<f32>> {
        let (height, width) = self.output_size(size)?;
        let planes: usize = sources.iter().map(|source| source.channels).sum();
        assert_eq!(planes, self.planes());
        let whole =
            |source: &Source<'_>| source.data.len() == size.batch * source.channels * size.cells();
        assert!(sources.iter().all(whole));
        let channels = self.output();
        let count = size.batch * channels * height * width;
        let mut output: Vec<f32> = Vec::with_capacity(count);
        let target = Shared(output.as_mut_ptr());
        // Those of one image.
        let planes = |image: usize| {
            let mut planes = Vec::with_capacity(planes);
            for source in sources {
                let of = source.data.chunks_exact(size.cells());
                planes.extend(of.skip(image * source.channels).take(source.channels));
            }
            planes
        };
        // Where parts meet some rows are computed twice, to the same bits.
        let parts = rayon::current_num_threads()
            .div_ceil(size.batch.max(1))
            .min(height);
        let job = |index: usize| {
            let (at, part) = (index / parts, index % parts);
            // SAFETY: an image's part of the output, rows of which no other job has.
            unsafe {
                let output = Output::Planes(target.at(at * channels * height * width));
                self.part(&planes(at), size, share(height, parts, part), output);
            }
        };
        let jobs = size.batch * parts;
        if rayon::current_num_threads() == 1 {
            (0..jobs).for_each(job);
        } else {
            (0..jobs).into_par_iter().for_each(job);
        }
        // SAFETY: jobs have written all rows of all images.
        unsafe { output.set_len(count) };
        Some(output)
    }

    /// Some rows of the output of one image, `[planes, height, width]`, into the whole of it, `[height, width,
    /// channels]`; nothing where a layer has no output.
    ///
    /// # Safety
    /// The output may be written, these rows by nobody else.
    pub unsafe fn rows(&self, image: &[f32], size: Size, rows: Range<usize>, output: *mut f32) {
        let planes: Vec<&[f32]> = image.chunks_exact(size.cells().max(1)).collect();
        assert_eq!(planes.len(), self.planes());
        // SAFETY: by this function's contract.
        unsafe { self.part(&planes, size, rows, Output::Cells(output)) };
    }

    /// # Safety
    /// The output may be written, these rows by nobody else.
    unsafe fn part(&self, planes: &[&[f32]], size: Size, rows: Range<usize>, output: Output) {
        let Some(plan) = self.plan(size, rows) else {
            return;
        };
        ROOM.with_borrow_mut(|room| {
            let room = room.room(plan.room);
            room.fill(0.0);
            let pass = Pass {
                planes,
                plan: &plan,
                room: room.as_mut_ptr(),
                output,
            };
            #[cfg(target_arch = "x86_64")]
            if self.nodes.iter().any(Node::multiplies_integers) {
                // SAFETY: by this function's contract, and the machine has the instructions.
                return unsafe { run_integers(self, &pass) };
            }
            // SAFETY: by this function's contract, and the machine has the level.
            unsafe { run(self.level, self, &pass) };
        });
    }
}

impl Node {
    fn planes(&self) -> usize {
        match self.kind {
            Kind::Planes(planes) => planes,
            _ => 1,
        }
    }

    fn is_image(&self) -> bool {
        matches!(self.kind, Kind::Planes(_))
    }

    /// Whether a convolution that sees the image takes plane by plane.
    fn has_few_planes(&self, conv: &Conv) -> bool {
        matches!(self.kind, Kind::Planes(planes) if planes <= conv.kernel)
    }

    fn multiplies_integers(&self) -> bool {
        matches!(&self.kind, Kind::Dense { units, .. } if !units.is_empty())
    }

    /// `integers`: multiplies these where it can.
    fn new(layer: Layer, before: &[Self], level: Level, integers: bool) -> Option<Self> {
        let inputs = layer.inputs;
        let all: Option<Vec<&Self>> = inputs.iter().map(|input| before.get(*input)).collect();
        let all = all?;
        // Of the only input, if that lies channels last.
        let single = match *all.as_slice() {
            [node] if !node.is_image() => Some(node.channels),
            _ => None,
        };
        let (kind, window) = match layer.step {
            Step::Largest(window, far) => {
                let channels = single?;
                let shape = Conv::depthwise(channels, window.kernel).stride(window.stride);
                (Kind::Largest, shape.padding(window.padding).far(far))
            }
            Step::Conv(conv, weights, scale) => {
                let end = Finish {
                    bias: Aligned::of(&weights.bias),
                    least: match conv.activation {
                        Activation::Identity => f32::NEG_INFINITY,
                        Activation::Relu => 0.0,
                        _ => return None,
                    },
                    scale,
                };
                if !fits(&conv, &weights, &all) {
                    return None;
                }
                let kind = if conv.groups == 1 {
                    let groups = groups(conv.output, level);
                    let weight = dense(&conv, &weights.weight, &all, &groups);
                    let (weight, units) = if integers && !all.iter().any(|node| node.is_image()) {
                        let lines: Vec<usize> = all.iter().map(|node| node.channels).collect();
                        as_integers(&weight, &conv, &lines, &groups)
                    } else {
                        (weight, Aligned::default())
                    };
                    Kind::Dense { weight, end, units }
                } else if Some(conv.groups) == single && conv.groups == conv.output {
                    Kind::Depthwise {
                        weight: depthwise(&conv, &weights.weight),
                        end,
                    }
                } else {
                    return None;
                };
                (kind, conv)
            }
        };
        let lines = |node: &&Self| match node.kind {
            Kind::Planes(planes) => planes.min(window.kernel),
            _ => 1,
        };
        let lines = window.kernel * all.iter().map(lines).sum::<usize>();
        (1..=LINES).contains(&lines).then_some(Self {
            inputs,
            kind,
            channels: window.output,
            groups: groups(window.output, level),
            window,
            seen_as_integers: 0,
        })
    }
}

/// Whether a convolution of `inputs` has these weights, and channels that come in eights.
fn fits(conv: &Conv, weights: &Folded, inputs: &[&Node]) -> bool {
    let depth: usize = inputs
        .iter()
        .map(|node| node.planes() * node.channels)
        .sum();
    let count = conv.output * depth / conv.groups.max(1) * conv.kernel * conv.kernel;
    conv.output > 0
        && conv.output.is_multiple_of(EIGHT)
        && conv.input == depth
        && weights.bias.len() == conv.output
        && weights.weight.len() == count
}

/// As [`Kind::Dense`] wants them: in the order of the lines that a row sees.
fn dense(conv: &Conv, weight: &[f32], inputs: &[&Node], groups: &[Group]) -> Aligned {
    let Conv {
        input: depth,
        output,
        kernel,
        ..
    } = *conv;
    let mut packed = Vec::with_capacity(weight.len());
    for (index, group) in groups.iter().enumerate() {
        let end = groups.get(index + 1).map_or(output, |next| next.first);
        for ky in 0..kernel {
            let mut first = 0;
            for node in inputs {
                let channels = node.planes() * node.channels;
                for step in 0..kernel * channels {
                    let (kx, input) = if node.has_few_planes(conv) {
                        (step % kernel, step / kernel)
                    } else {
                        (step / channels, step % channels)
                    };
                    let (input, tap) = (first + input, ky * kernel + kx);
                    let of = |channel| weight[(channel * depth + input) * kernel * kernel + tap];
                    packed.extend((group.first..end).map(of));
                }
                first += channels;
            }
        }
    }
    Aligned::of(&packed)
}

/// Dense weights as integers, and the units of all output channels; `inputs`: their channels.
fn as_integers(
    weight: &Aligned,
    conv: &Conv,
    inputs: &[usize],
    groups: &[Group],
) -> (Aligned, Aligned) {
    let (output, depth) = (conv.output, conv.input * conv.kernel * conv.kernel);
    // Sums are of a line, the kernel's row in one of the inputs: units fit the largest.
    let mut lines = Vec::new();
    let mut first = 0;
    for _ in 0..conv.kernel {
        for channels in inputs {
            let end = first + conv.kernel * channels;
            lines.push(first..end);
            first = end;
        }
    }
    let mut packed = Aligned::new(depth / 2 * output);
    let mut units = Vec::with_capacity(output);
    for (index, group) in groups.iter().enumerate() {
        let end = groups.get(index + 1).map_or(output, |next| next.first);
        let channels = end - group.first;
        let numbers = &weight.numbers()[group.first * depth..end * depth];
        let words = &mut packed[group.first * depth / 2..end * depth / 2];
        for channel in 0..channels {
            let number = |step: usize| numbers[step * channels + channel];
            let unit = |line: &Range<usize>| fixed::row_unit(line.clone().map(number));
            let larger = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
            let unit = lines.iter().map(unit).fold(0.0, larger);
            for step in 0..depth / 2 {
                let pair = [number(2 * step), number(2 * step + 1)];
                words[step * channels + channel] = fixed::row_word(pair, unit);
            }
            units.push(unit as f32);
        }
    }
    (packed, Aligned::of(&units))
}

/// As [`Kind::Depthwise`] wants them.
fn depthwise(conv: &Conv, weight: &[f32]) -> Aligned {
    let taps = conv.kernel * conv.kernel;
    let mut packed = Vec::with_capacity(weight.len());
    for tap in 0..taps {
        packed.extend((0..conv.output).map(|channel| weight[channel * taps + tap]));
    }
    Aligned::of(&packed)
}

#[cfg(test)]
mod tests;
