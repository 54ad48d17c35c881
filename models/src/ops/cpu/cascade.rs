//! Several layers together, row by row, channels last: a row of the last one asks for the rows that it sees,
//! these for theirs, and what lies between, a few rows of every layer, stays in the caches. For the
//! beginning of a detector, whose maps are so large that to write and to read them takes as long as what is
//! computed.
//!
//! Alwani, Chen, Ferdman and Milder, "Fused-Layer CNN Accelerators", 2016, keep rows in the same way.

#![allow(unsafe_code)] // vector instructions, and threads write into one output

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::aligned::Aligned;
use super::cells::{EIGHT, Group, Machine, Seen, Work, add_products, groups};
use super::conv::{Shared, Size};
use super::lanes::{Lanes, by_level};
use super::omni::Folded;
use super::product::Source;
use super::simd::Level;
use super::threads::share;
use crate::layers::Conv;
use crate::ops::{Activation, Window};

/// Most rows that one row of a dense layer sees, each of one input.
const LINES: usize = 32;

/// Numbers of a line of the cache.
const LINE: usize = 16;

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
    /// What a row sees: kernel, stride, padding.
    window: Conv,
}

enum Kind {
    /// The image, its planes apart from each other.
    Planes(usize),
    Dense {
        groups: Vec<Group>,
        /// Group by group, `[kernel row, input, kernel column, input channel, channels of the group]`.
        weight: Aligned,
        end: Finish,
    },
    Depthwise {
        groups: Vec<Group>,
        /// `[kernel row, kernel column, channels]`.
        weight: Aligned,
        end: Finish,
    },
    Largest {
        groups: Vec<Group>,
    },
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

/// How a node's rows lie in the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    height: usize,
    width: usize,
    /// Cells of zeros before a row.
    left: usize,
    /// Numbers of a row of a plane, with the zeros on both sides.
    pitch: usize,
    /// Planes of a row.
    planes: usize,
    /// How many rows are kept.
    kept: usize,
    /// Where they begin.
    start: usize,
}

impl Shape {
    /// Where a row of a plane begins, with its zeros.
    fn row(&self, row: usize, plane: usize) -> usize {
        self.start + (row % self.kept * self.planes + plane) * self.pitch
    }
}

/// What is to be done for some rows of the output.
struct Plan {
    shapes: Vec<Shape>,
    /// Nodes and their rows, in the order in which they are computed.
    order: Vec<(usize, usize)>,
    /// Numbers of the room: a row of zeros, then all nodes' rows.
    room: usize,
}

thread_local! {
    static ROOM: RefCell<Aligned> = RefCell::default();
}

impl Cascade {
    /// Prepares layers that follow an image of so many planes for `level` of this machine; the last one is the
    /// output. `None` where there is no kernel for them, as for channels that do not come in eights.
    pub fn new(planes: usize, layers: Vec<Layer>, level: Level) -> Option<Self> {
        let image = Node {
            inputs: Vec::new(),
            kind: Kind::Planes(planes),
            channels: 1,
            window: Conv::new(planes, planes, 1),
        };
        let mut nodes = vec![image];
        if layers.is_empty() {
            return None;
        }
        for layer in layers {
            let node = Node::new(layer, &nodes, level)?;
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
        Self::new(conv.input, layers, level)
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
            Kind::Planes(_) | Kind::Largest { .. } => 0.0,
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
            // SAFETY: by this function's contract, and the machine has the level.
            unsafe { run(self.level, self, &pass) };
        });
    }

    /// What the `rows` of the output take; `None` where a layer has no output.
    fn plan(&self, size: Size, rows: Range<usize>) -> Option<Plan> {
        let sizes = self.sizes(size)?;
        // The first row of each that is seen.
        let mut first = vec![usize::MAX; self.nodes.len()];
        *first.last_mut()? = rows.start;
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let seen = first[index]
                .saturating_mul(node.window.stride)
                .saturating_sub(node.window.padding);
            for input in &node.inputs {
                first[*input] = first[*input].min(seen);
            }
        }
        let mut order = Vec::new();
        let last = self.nodes.len() - 1;
        for row in rows {
            self.demand(&sizes, (last, row), &mut first, &mut order);
        }
        // As many rows are kept as lie between the oldest that is still seen and the newest.
        let mut kept = vec![1; self.nodes.len()];
        let mut newest = vec![0; self.nodes.len()];
        for (index, row) in &order {
            newest[*index] = *row;
            let node = &self.nodes[*index];
            let oldest = (row * node.window.stride).saturating_sub(node.window.padding);
            for input in &node.inputs {
                kept[*input] = kept[*input].max((newest[*input] + 1).saturating_sub(oldest));
            }
        }
        let mut shapes = Vec::with_capacity(self.nodes.len());
        let mut room = 0;
        for (index, (height, width)) in sizes.iter().enumerate() {
            let (mut left, mut right) = (0, 0);
            for (node, (_, columns)) in self.nodes.iter().zip(&sizes) {
                if node.inputs.contains(&index) {
                    let Conv {
                        kernel,
                        stride,
                        padding,
                        ..
                    } = node.window;
                    left = left.max(padding);
                    let reach = (columns - 1) * stride + kernel;
                    right = right.max(reach.saturating_sub(padding + width));
                }
            }
            let node = &self.nodes[index];
            // An odd number of lines: the same place of neighbouring rows lies in different sets of the caches.
            let pitch = (((left + width + right) * node.channels).div_ceil(LINE) | 1) * LINE;
            shapes.push(Shape {
                height: *height,
                width: *width,
                left,
                pitch,
                planes: node.planes(),
                kept: kept[index],
                start: 0,
            });
            room = room.max(pitch * node.planes());
        }
        for shape in &mut shapes {
            shape.start = room;
            room += shape.kept * shape.planes * shape.pitch;
        }
        Some(Plan {
            shapes,
            order,
            room,
        })
    }

    /// Adds to `order` what leads to a node's rows up to `last`; `next`: the first rows that are not in it.
    fn demand(
        &self,
        sizes: &[(usize, usize)],
        (index, last): (usize, usize),
        next: &mut [usize],
        order: &mut Vec<(usize, usize)>,
    ) {
        let node = &self.nodes[index];
        while next[index] <= last {
            let row = next[index];
            next[index] += 1;
            let beyond = row * node.window.stride + node.window.kernel;
            for input in &node.inputs {
                // What lies beyond the image is zeros.
                let beyond = beyond
                    .saturating_sub(node.window.padding)
                    .min(sizes[*input].0);
                if let Some(seen) = beyond.checked_sub(1) {
                    self.demand(sizes, (*input, seen), next, order);
                }
            }
            order.push((index, row));
        }
    }
}

impl Node {
    fn planes(&self) -> usize {
        match self.kind {
            Kind::Planes(planes) => planes,
            _ => 1,
        }
    }

    /// Whether a convolution that sees the image takes plane by plane.
    fn has_few_planes(&self, conv: &Conv) -> bool {
        matches!(self.kind, Kind::Planes(planes) if planes <= conv.kernel)
    }

    fn new(layer: Layer, before: &[Self], level: Level) -> Option<Self> {
        let inputs = layer.inputs;
        let all: Option<Vec<&Self>> = inputs.iter().map(|input| before.get(*input)).collect();
        let all = all?;
        let depth: usize = all.iter().map(|node| node.planes() * node.channels).sum();
        let single = match *all.as_slice() {
            [node] if !matches!(node.kind, Kind::Planes(_)) => Some(node.channels),
            _ => None,
        };
        match layer.step {
            Step::Largest(window, far) => {
                let channels = single?;
                let shape = Conv::depthwise(channels, window.kernel).stride(window.stride);
                Some(Self {
                    inputs,
                    kind: Kind::Largest {
                        groups: groups(channels, level),
                    },
                    channels,
                    window: shape.padding(window.padding).far(far),
                })
            }
            Step::Conv(conv, Folded { weight, bias }, scale) => {
                let least = match conv.activation {
                    Activation::Identity => f32::NEG_INFINITY,
                    Activation::Relu => 0.0,
                    _ => return None,
                };
                let taps = conv.kernel * conv.kernel;
                let channels = conv.output;
                let fits = channels.is_multiple_of(EIGHT)
                    && channels > 0
                    && conv.input == depth
                    && bias.len() == channels
                    && weight.len() == channels * depth / conv.groups * taps;
                if !fits {
                    return None;
                }
                let end = Finish {
                    bias: Aligned::of(&bias),
                    least,
                    scale,
                };
                let blocks = groups(channels, level);
                let mut packed = Vec::with_capacity(weight.len());
                let kind = if conv.groups == 1 {
                    let lines = |node: &&Self| match node.kind {
                        Kind::Planes(planes) => planes.min(conv.kernel),
                        _ => 1,
                    };
                    if conv.kernel * all.iter().map(lines).sum::<usize>() > LINES {
                        return None;
                    }
                    for (index, group) in blocks.iter().enumerate() {
                        let end = blocks.get(index + 1).map_or(channels, |next| next.first);
                        // In the order of `Cascade::lines`.
                        for ky in 0..conv.kernel {
                            let mut first = 0;
                            for node in &all {
                                let channels = node.planes() * node.channels;
                                for step in 0..conv.kernel * channels {
                                    let (kx, input) = if node.has_few_planes(&conv) {
                                        (step % conv.kernel, step / conv.kernel)
                                    } else {
                                        (step / channels, step % channels)
                                    };
                                    let input = first + input;
                                    let tap = ky * conv.kernel + kx;
                                    let of =
                                        |channel| weight[(channel * depth + input) * taps + tap];
                                    packed.extend((group.first..end).map(of));
                                }
                                first += channels;
                            }
                        }
                    }
                    Kind::Dense {
                        groups: blocks,
                        weight: Aligned::of(&packed),
                        end,
                    }
                } else if Some(conv.groups) == single && conv.groups == channels {
                    for tap in 0..taps {
                        packed.extend((0..channels).map(|channel| weight[channel * taps + tap]));
                    }
                    Kind::Depthwise {
                        groups: blocks,
                        weight: Aligned::of(&packed),
                        end,
                    }
                } else {
                    return None;
                };
                Some(Self {
                    inputs,
                    kind,
                    channels,
                    window: conv,
                })
            }
        }
    }
}

/// One run.
struct Pass<'a> {
    /// Those of the image.
    planes: &'a [&'a [f32]],
    plan: &'a Plan,
    /// As much as the plan says, zeros.
    room: *mut f32,
    output: Output,
}

/// Where an image's output is, all of it.
#[derive(Clone, Copy)]
enum Output {
    /// `[channels, height, width]`.
    Planes(*mut f32),
    /// `[height, width, channels]`.
    Cells(*mut f32),
}

impl Pass<'_> {
    /// A row of a plane of the image.
    #[inline(always)]
    fn row(&self, plane: usize, row: usize, shape: &Shape) -> &[f32] {
        &self.planes[plane][row * shape.width..][..shape.width]
    }
}

/// Where a row of a layer starts to see a row of an input.
#[derive(Clone, Copy)]
struct Line {
    start: *const f32,
    seen: Seen,
}

/// A row of a dense layer.
struct Row<'a> {
    lines: &'a [Line],
    weight: *const f32,
    end: &'a Finish,
    count: usize,
    channels: usize,
    output: *mut f32,
}

by_level! {
    fn run(cascade: &Cascade, pass: &Pass<'_>) = body
}

/// # Safety
/// The machine has the units; pointers lead to as much as is said of them.
#[inline(always)]
unsafe fn body<M: Machine>(cascade: &Cascade, pass: &Pass<'_>) {
    let shapes = &pass.plan.shapes;
    let last = shapes.len() - 1;
    let mut lines = [Line {
        start: std::ptr::null(),
        seen: Seen::default(),
    }; LINES];
    for (index, row) in &pass.plan.order {
        let (node, shape) = (&cascade.nodes[*index], &shapes[*index]);
        let sizes = [node.window.stride, node.channels];
        // SAFETY: the plan's rows lie in the room; what they see is there, or zeros in its stead.
        unsafe {
            let output = pass
                .room
                .add(shape.row(*row, 0) + shape.left * node.channels);
            match &node.kind {
                Kind::Planes(planes) => {
                    for plane in 0..*planes {
                        let from = pass.row(plane, *row, shape);
                        let to = pass.room.add(shape.row(*row, plane) + shape.left);
                        std::ptr::copy_nonoverlapping(from.as_ptr(), to, shape.width);
                    }
                }
                Kind::Dense {
                    groups,
                    weight,
                    end,
                } => {
                    let count = cascade.lines(node, *row, pass, &mut lines);
                    let lines = &lines[..count];
                    let depth: usize = lines.iter().map(|line| line.seen.count).sum();
                    for group in groups {
                        let row = Row {
                            lines,
                            weight: weight.numbers().as_ptr().add(group.first * depth),
                            end,
                            count: shape.width,
                            channels: node.channels,
                            output,
                        };
                        M::group(*group, false, &row);
                    }
                }
                Kind::Depthwise {
                    groups,
                    weight,
                    end,
                } => {
                    let count = cascade.lines(node, *row, pass, &mut lines);
                    let lines = &lines[..count];
                    let weight = weight.numbers().as_ptr();
                    each::<M>(
                        groups,
                        &EachColumn {
                            lines,
                            weight,
                            end,
                            sizes,
                            count: shape.width,
                            output,
                        },
                    );
                }
                Kind::Largest { groups } => {
                    let count = cascade.lines(node, *row, pass, &mut lines);
                    let lines = &lines[..count];
                    each::<M>(
                        groups,
                        &Largest {
                            lines,
                            sizes,
                            count: shape.width,
                            output,
                        },
                    );
                }
            }
            if *index == last {
                let (channels, count) = (node.channels, shape.width);
                match pass.output {
                    Output::Planes(planes) => {
                        let to = planes.add(row * count);
                        to_planes(output, channels, count, to, shape.height * count);
                    }
                    Output::Cells(cells) => {
                        let to = cells.add(row * count * channels);
                        std::ptr::copy_nonoverlapping(output, to, count * channels);
                    }
                }
            }
        }
    }
}

/// Cells of a row, channels last, into planes `pitch` apart.
///
/// # Safety
/// There are as many, and may be written.
#[inline(always)]
unsafe fn to_planes(cells: *const f32, channels: usize, count: usize, to: *mut f32, pitch: usize) {
    // A line of the cache each at a time.
    for first in (0..channels).step_by(LINE) {
        for channel in first..(first + LINE).min(channels) {
            for cell in 0..count {
                // SAFETY: by this function's contract.
                unsafe { *to.add(channel * pitch + cell) = *cells.add(cell * channels + channel) };
            }
        }
    }
}

impl Cascade {
    /// The lines that a row of a layer sees, in the order of its weights; gives their number.
    ///
    /// # Safety
    /// `pass` has room for its plan.
    unsafe fn lines(
        &self,
        node: &Node,
        row: usize,
        pass: &Pass<'_>,
        all: &mut [Line; LINES],
    ) -> usize {
        let Conv {
            kernel,
            stride,
            padding,
            ..
        } = node.window;
        let mut count = 0;
        for ky in 0..kernel {
            let row = (row * stride + ky).wrapping_sub(padding);
            for input in &node.inputs {
                let shape = &pass.plan.shapes[*input];
                let input = &self.nodes[*input];
                let from = if row < shape.height {
                    shape.row(row, 0) + (shape.left - padding) * input.channels
                } else {
                    0
                };
                // SAFETY: the room begins with zeros as many as the longest row has.
                let start = unsafe { pass.room.add(from).cast_const() };
                // As few lines as possible: one for each plane, or for each column of the kernel.
                let (lines, apart, seen) = match input.kind {
                    Kind::Planes(planes) if input.has_few_planes(&node.window) => {
                        let seen = Seen {
                            count: kernel,
                            step: 1,
                            pitch: stride,
                        };
                        (planes, shape.pitch, seen)
                    }
                    Kind::Planes(planes) => {
                        let seen = Seen {
                            count: planes,
                            step: shape.pitch,
                            pitch: stride,
                        };
                        (kernel, 1, seen)
                    }
                    _ => {
                        let seen = Seen {
                            count: kernel * input.channels,
                            step: 1,
                            pitch: stride * input.channels,
                        };
                        (1, 0, seen)
                    }
                };
                for line in 0..lines {
                    all[count] = Line {
                        start: start.wrapping_add(line * apart),
                        seen,
                    };
                    count += 1;
                }
            }
        }
        count
    }
}

impl Work for Row<'_> {
    // The last outputs are computed once more where blocks of `CELLS` do not divide the row.
    #[inline(always)]
    unsafe fn blocks<V: Lanes, const VECTORS: usize, const CELLS: usize, const PITCH: usize>(
        &self,
        group: Group,
    ) {
        let mut cell = 0;
        // SAFETY: by the contract of `body`.
        unsafe {
            while cell < self.count {
                if self.count >= CELLS {
                    let at = cell.min(self.count - CELLS);
                    block::<V, VECTORS, CELLS>(group, self, at);
                    cell = at + CELLS;
                } else {
                    block::<V, VECTORS, 1>(group, self, cell);
                    cell += 1;
                }
            }
        }
    }
}

/// `CELLS` outputs from column `first` on.
///
/// # Safety
/// As [`Work::blocks`].
#[inline(always)]
unsafe fn block<V: Lanes, const VECTORS: usize, const CELLS: usize>(
    group: Group,
    row: &Row<'_>,
    first: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        let bias = row.end.bias.numbers().as_ptr().add(group.first);
        let bias: [V; VECTORS] = std::array::from_fn(|v| V::load(bias.add(v * V::COUNT)));
        let mut sums = [bias; CELLS];
        let mut weight = row.weight;
        for line in row.lines {
            let input = line.start.add(first * line.seen.pitch);
            // Neighbours are a case of their own, whose addresses take fewer instructions.
            let seen = Seen {
                step: 1,
                ..line.seen
            };
            weight = if line.seen.step == 1 {
                add_products(&mut sums, weight, input, seen)
            } else {
                add_products(&mut sums, weight, input, line.seen)
            };
        }
        for (cell, sums) in sums.into_iter().enumerate() {
            let output = row.output.add((first + cell) * row.channels + group.first);
            for (v, sum) in sums.into_iter().enumerate() {
                row.end.of(sum).store(output.add(v * V::COUNT));
            }
        }
    }
}

/// What is done for every vector of channels alone.
trait Each {
    /// # Safety
    /// As [`body`]; the vector's channels are there.
    unsafe fn channels<V: Lanes>(&self, first: usize);
}

#[inline(always)]
unsafe fn each<M: Machine>(groups: &[Group], work: &impl Each) {
    for group in groups {
        for vector in 0..group.vectors {
            // SAFETY: by the contract of `body`.
            unsafe {
                if group.wide {
                    work.channels::<M::Wide>(group.first + vector * M::Wide::COUNT);
                } else {
                    work.channels::<M::Narrow>(group.first + vector * M::Narrow::COUNT);
                }
            }
        }
    }
}

/// A row of a depthwise layer.
struct EachColumn<'a> {
    lines: &'a [Line],
    weight: *const f32,
    end: &'a Finish,
    /// Stride and channels.
    sizes: [usize; 2],
    count: usize,
    output: *mut f32,
}

impl Each for EachColumn<'_> {
    #[inline(always)]
    unsafe fn channels<V: Lanes>(&self, first: usize) {
        /// Outputs whose sums are in registers together.
        const TOGETHER: usize = 4;
        let [stride, channels] = self.sizes;
        let kernel = self.lines.len();
        // SAFETY: by the contract of `body`.
        unsafe {
            let bias = V::load(self.end.bias.numbers().as_ptr().add(first));
            let mut cell = 0;
            while cell < self.count {
                let at = cell.min(self.count.saturating_sub(TOGETHER));
                let together = TOGETHER.min(self.count);
                let mut sums = [bias; TOGETHER];
                for (ky, line) in self.lines.iter().enumerate() {
                    let input = line.start.add(at * stride * channels + first);
                    let weight = self.weight.add(ky * kernel * channels + first);
                    for kx in 0..kernel {
                        let weight = V::load(weight.add(kx * channels));
                        for (cell, sum) in sums.iter_mut().enumerate().take(together) {
                            let input = input.add((cell * stride + kx) * channels);
                            *sum = sum.fma(V::load(input), weight);
                        }
                    }
                }
                for (cell, sum) in sums.into_iter().enumerate().take(together) {
                    let output = self.output.add((at + cell) * channels + first);
                    self.end.of(sum).store(output);
                }
                cell = at + together;
            }
        }
    }
}

/// A row of the largest of windows.
struct Largest<'a> {
    lines: &'a [Line],
    /// Stride and channels.
    sizes: [usize; 2],
    count: usize,
    output: *mut f32,
}

impl Each for Largest<'_> {
    #[inline(always)]
    unsafe fn channels<V: Lanes>(&self, first: usize) {
        let [stride, channels] = self.sizes;
        // SAFETY: by the contract of `body`.
        unsafe {
            for cell in 0..self.count {
                let start = cell * stride * channels + first;
                let mut most = V::load(self.lines[0].start.add(start));
                for line in self.lines {
                    for column in 0..self.lines.len() {
                        let at = line.start.add(start + column * channels);
                        most = most.or_more(V::load(at));
                    }
                }
                most.store(self.output.add(cell * channels + first));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::super::lanes::{levels, made_up_numbers};
    use super::*;
    use crate::ops::{max_of_four, max_pool2d, reference};

    type Result<T> = candle_core::Result<T>;

    /// Layers, and what the plain way gives for each of them.
    struct Both {
        layers: Vec<Layer>,
        /// The image, and every layer's output.
        tensors: Vec<Tensor>,
        seed: u32,
    }

    impl Both {
        fn of(planes: usize, size: Size, seed: u32) -> Result<Self> {
            let count = size.batch * planes * size.cells();
            let shape = (size.batch, planes, size.height, size.width);
            let image = Tensor::from_vec(made_up_numbers(count, seed), shape, &Device::Cpu)?;
            Ok(Self {
                layers: Vec::new(),
                tensors: vec![image],
                seed,
            })
        }

        fn conv(&mut self, inputs: &[usize], conv: Conv, scale: [f32; 2]) -> Result<usize> {
            self.seed += 2;
            let (output, input, kernel, _) = conv.weight_shape();
            // Outputs about as large as inputs.
            let factor = 1.0 / ((input * kernel * kernel) as f32).sqrt();
            let weight = made_up_numbers(output * input * kernel * kernel, self.seed);
            let weight: Vec<f32> = weight.into_iter().map(|x| x * factor).collect();
            let bias = made_up_numbers(output, self.seed + 1);
            let parts: Vec<&Tensor> = inputs.iter().map(|input| &self.tensors[*input]).collect();
            let (x, plain) = conv.with_far_zeros(&Tensor::cat(&parts, 1)?)?;
            let tensor = Tensor::from_vec(weight.clone(), conv.weight_shape(), &Device::Cpu)?;
            let added = Tensor::new(bias.clone(), &Device::Cpu)?;
            let y = reference::conv2d(&x, &tensor, Some(&added), &plain)?;
            let y = conv.activation.apply(&y)?;
            let y = y.affine(scale[0].into(), scale[1].into())?;
            Ok(self.push(inputs, Step::Conv(conv, Folded { weight, bias }, scale), y))
        }

        fn push(&mut self, inputs: &[usize], step: Step, output: Tensor) -> usize {
            self.layers.push(Layer {
                inputs: inputs.to_vec(),
                step,
            });
            self.tensors.push(output);
            self.layers.len()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        // By candle, layer by layer: branches that meet, rows that see past the image's edges, more threads than
        // one to the last bit as one.
        #[test]
        fn layers_together_are_layers_one_by_one(
            planes in 1_usize..12, eights in prop::array::uniform4(1_usize..6),
            kernel in 1_usize..8, strides in prop::array::uniform3(1_usize..3),
            batch in 1_usize..3, height in 1_usize..26, width in 1_usize..40,
            least in prop_oneof![Just(Activation::Relu), Just(Activation::Identity)],
            seed in 0_u32..1000,
        ) {
            let size = Size { batch, height, width };
            let [first, second, third, fourth] = eights.map(|eights| eights * EIGHT);
            let check = || -> Result<()> {
                let mut both = Both::of(planes, size, seed)?;
                let conv = Conv::new(planes, first, kernel).stride(strides[0]).activation(least);
                if conv.output_size(height, width).is_none() {
                    return Ok(());
                }
                let x = both.conv(&[0], conv, [1.0, 0.0])?;
                if kernel * kernel.min(planes) > LINES {
                    assert!(Cascade::new(planes, both.layers, Level::Plain).is_none());
                    return Ok(());
                }
                let padded = both.tensors[x].pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
                let inside = Window { kernel: 3, stride: 2, padding: 0 };
                let pooled = max_pool2d(&padded, inside)?;
                let window = Window { padding: 1, ..inside };
                let x = both.push(&[x], Step::Largest(window, 0), pooled);
                let most = max_of_four(&both.tensors[x])?;
                let window = Window { kernel: 2, stride: 1, padding: 0 };
                let most = both.push(&[x], Step::Largest(window, 1), most);
                let two = Conv::new(first, second, 2).padding(0).far(1);
                let branch = both.conv(&[x], two.activation(Activation::Relu), [0.7, -0.2])?;
                let joined = Conv::new(first + second, third, 3).stride(strides[1]);
                let x = both.conv(&[most, branch], joined.activation(least), [1.0, 0.0])?;
                let side = Conv::depthwise(third, 3).stride(strides[2]);
                let x = both.conv(&[x], side, [1.3, 0.1])?;
                let y = both.conv(&[x], Conv::new(third, fourth, 3), [1.0, 0.0])?;
                let last = Conv::new(third + fourth, first, 1).activation(Activation::Relu);
                let y = both.conv(&[x, y], last, [1.0, 0.0])?;
                let expected = both.tensors[y].flatten_all()?.to_vec1::<f32>()?;
                let image = both.tensors[0].flatten_all()?.to_vec1::<f32>()?;
                for level in levels() {
                    let cascade = Cascade::new(planes, both.layers.clone(), level).unwrap();
                    let sources = [Source { data: &image, channels: planes }];
                    let run = |threads: usize| {
                        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                        pool.build().unwrap().install(|| cascade.run(&sources, size)).unwrap()
                    };
                    let found = run(1);
                    assert_eq!(found.len(), expected.len());
                    for (found, expected) in found.iter().zip(&expected) {
                        let off = (found - expected).abs();
                        assert!(off <= 2e-5 * expected.abs().max(1.0), "{found} {expected}");
                    }
                    assert_eq!(found, run(3));
                }
                Ok(())
            };
            check().unwrap();
        }
    }
}
