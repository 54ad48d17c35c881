//! The kernels: a row of a layer after another, as planned.

use super::plan::{Plan, Shape};
use super::{Cascade, Finish, Kind, LINE, LINES, Node};
use crate::layers::Conv;
use crate::ops::cpu::ahead::ask_at_once;
#[cfg(target_arch = "x86_64")]
use crate::ops::cpu::cells::Avx512Vnni;
use crate::ops::cpu::cells::{Each, Group, Machine, Seen, Work, add_products, each};
use crate::ops::cpu::fixed;
use crate::ops::cpu::lanes::{Lanes, by_level};

/// One run.
pub(super) struct Pass<'a> {
    /// Those of the image.
    pub planes: &'a [&'a [f32]],
    pub plan: &'a Plan,
    /// As much as the plan says, zeros.
    pub room: *mut f32,
    pub output: Output,
}

/// Where an image's output is, all of it.
#[derive(Clone, Copy)]
pub(super) enum Output {
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

/// Where a row of a layer starts to see a row of an input, of numbers or of words.
#[derive(Clone, Copy)]
struct Line {
    start: *const f32,
    seen: Seen,
    /// Of integers.
    unit: f32,
}

/// A row of a dense layer.
struct Row<'a> {
    lines: &'a [Line],
    weight: *const f32,
    /// Of the weights of every channel, where these are integers.
    units: *const f32,
    end: &'a Finish,
    /// Columns that an output sees of each line, and those from one output to the next.
    window: [usize; 2],
    count: usize,
    channels: usize,
    output: *mut f32,
}

by_level! {
    pub(super) fn run(cascade: &Cascade, pass: &Pass<'_>) = body
}

/// The same with layers that multiply integers.
///
/// # Safety
/// As `body`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
pub(super) unsafe fn run_integers(cascade: &Cascade, pass: &Pass<'_>) {
    // SAFETY: by this function's contract.
    unsafe { body::<Avx512Vnni>(cascade, pass) }
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
        unit: 0.0,
    }; LINES];
    for (index, row) in &pass.plan.order {
        let (node, shape) = (&cascade.nodes[*index], &shapes[*index]);
        let sizes = [node.window.stride, node.channels];
        // SAFETY: the plan's rows lie in the room; what they see is there, or zeros in its stead.
        unsafe {
            let output = pass
                .room
                .add(shape.row(*row, 0) + shape.left * node.channels);
            let seen = cascade.lines(node, *row, pass, &mut lines);
            let (lines, count) = (&lines[..seen], shape.width);
            match &node.kind {
                Kind::Planes(planes) => {
                    for plane in 0..*planes {
                        let from = pass.row(plane, *row, shape);
                        let to = pass.room.add(shape.row(*row, plane) + shape.left);
                        // Two rows ahead: the next one may be wanted at once.
                        if *row + 2 < shape.height {
                            let ahead = pass.row(plane, *row + 2, shape);
                            ask_at_once(ahead.as_ptr(), ahead.len());
                        }
                        std::ptr::copy_nonoverlapping(from.as_ptr(), to, shape.width);
                    }
                }
                Kind::Dense { weight, end, units } => {
                    let depth: usize = lines.iter().map(|line| line.seen.count).sum();
                    for group in &node.groups {
                        let row = Row {
                            lines,
                            weight: weight.numbers().as_ptr().add(group.first * depth),
                            units: units.numbers().as_ptr().wrapping_add(group.first),
                            end,
                            window: [node.window.kernel, node.window.stride],
                            count,
                            channels: node.channels,
                            output,
                        };
                        if node.multiplies_integers() {
                            M::Integers::group(*group, false, &row);
                        } else {
                            M::group(*group, false, &row);
                        }
                    }
                }
                Kind::Depthwise { weight, end } => {
                    let weight = weight.numbers().as_ptr();
                    let row = EachColumn {
                        lines,
                        weight,
                        end,
                        sizes,
                        count,
                        output,
                    };
                    each::<M>(&node.groups, &row);
                }
                Kind::Largest => {
                    let row = Largest {
                        lines,
                        sizes,
                        count,
                        output,
                    };
                    each::<M>(&node.groups, &row);
                }
            }
            if node.seen_as_integers > 0 {
                let numbers = count * node.channels;
                let start = shape.words(*row) + shape.left * node.channels / 2;
                fixed::column_words(
                    std::slice::from_raw_parts_mut(pass.room.add(start).cast(), numbers),
                    std::slice::from_raw_parts(output, numbers),
                    node.seen_as_integers,
                    &mut *pass.room.add(shape.unit(*row)),
                );
            }
            if *index == last {
                let channels = node.channels;
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
                // Of integers a cell's channels are half as many words.
                let integers = node.multiplies_integers();
                let (first, channels) = if integers {
                    (shape.words(row), input.channels / 2)
                } else {
                    (shape.row(row, 0), input.channels)
                };
                let from = if row < shape.height {
                    first + (shape.left - padding) * channels
                } else {
                    0
                };
                // SAFETY: the room begins with zeros as many as the longest row has.
                let start = unsafe { pass.room.add(from).cast_const() };
                let unit = if integers && row < shape.height {
                    // SAFETY: as above.
                    unsafe { *pass.room.add(shape.unit(row)) }
                } else {
                    0.0
                };
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
                            count: kernel * channels,
                            step: 1,
                            pitch: stride * channels,
                        };
                        (1, 0, seen)
                    }
                };
                for line in 0..lines {
                    all[count] = Line {
                        start: start.wrapping_add(line * apart),
                        seen,
                        unit,
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
        let read = |numbers: *const f32| -> [V; VECTORS] {
            std::array::from_fn(|v| V::load(numbers.add(v * V::COUNT)))
        };
        let bias = read(row.end.bias.numbers().as_ptr().add(group.first));
        let none = V::splat(0.0);
        let mut sums = [if V::INTEGERS { [none; VECTORS] } else { bias }; CELLS];
        let mut weight = row.weight;
        for line in row.lines {
            let input = line.start.add(first * line.seen.pitch);
            if V::INTEGERS {
                let mut products = [[none; VECTORS]; CELLS];
                weight = add_integers(&mut products, weight, input, (line.seen, row.window));
                let unit = V::splat(line.unit);
                for cell in 0..CELLS {
                    for v in 0..VECTORS {
                        sums[cell][v] = sums[cell][v].fma(products[cell][v].numbers(), unit);
                    }
                }
                continue;
            }
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
        if V::INTEGERS {
            let units = read(row.units);
            for sums in &mut sums {
                for v in 0..VECTORS {
                    sums[v] = bias[v].fma(sums[v], units[v]);
                }
            }
        }
        for (cell, sums) in sums.into_iter().enumerate() {
            let output = row.output.add((first + cell) * row.channels + group.first);
            for (v, sum) in sums.into_iter().enumerate() {
                row.end.of(sum).store(output.add(v * V::COUNT));
            }
        }
    }
}

/// [`add_products`] of a line of neighbours, in the way that suits it: with one vector of outputs products would wait
/// for what is seen, of which neighbouring outputs see much in common. Sums of integers are the same either way.
///
/// # Safety
/// As [`add_products`].
#[inline(always)]
unsafe fn add_integers<V: Lanes, const VECTORS: usize, const CELLS: usize>(
    sums: &mut [[V; VECTORS]; CELLS],
    weight: *const f32,
    input: *const f32,
    (seen, window): (Seen, [usize; 2]),
) -> *const f32 {
    // SAFETY: by this function's contract.
    unsafe {
        match window {
            [2, 1] if VECTORS == 1 => {
                add_columns::<V, VECTORS, CELLS, 2, 1>(sums, weight, input, seen)
            }
            [3, 1] if VECTORS == 1 => {
                add_columns::<V, VECTORS, CELLS, 3, 1>(sums, weight, input, seen)
            }
            [3, 2] if VECTORS == 1 => {
                add_columns::<V, VECTORS, CELLS, 3, 2>(sums, weight, input, seen)
            }
            _ => add_products(sums, weight, input, Seen { step: 1, ..seen }),
        }
    }
}

/// As [`add_products`] of lines of `KERNEL` columns, where the next cell's are `STRIDE` further on: column by column.
///
/// # Safety
/// As [`add_products`].
#[inline(always)]
unsafe fn add_columns<
    V: Lanes,
    const VECTORS: usize,
    const CELLS: usize,
    const KERNEL: usize,
    const STRIDE: usize,
>(
    sums: &mut [[V; VECTORS]; CELLS],
    weight: *const f32,
    input: *const f32,
    seen: Seen,
) -> *const f32 {
    let words = seen.count / KERNEL;
    // SAFETY: by this function's contract.
    unsafe {
        for word in 0..words {
            let weights: [[V; VECTORS]; KERNEL] = std::array::from_fn(|column| {
                let at = weight.add((column * words + word) * VECTORS * V::COUNT);
                std::array::from_fn(|v| V::load(at.add(v * V::COUNT)))
            });
            let read = |column: usize| V::splat(*input.add(column * words + word));
            let mut columns: [V; KERNEL] = std::array::from_fn(read);
            for (cell, sums) in sums.iter_mut().enumerate() {
                if cell > 0 {
                    columns = std::array::from_fn(|column| match columns.get(column + STRIDE) {
                        Some(before) => *before,
                        None => read(cell * STRIDE + column),
                    });
                }
                for (weights, column) in weights.into_iter().zip(columns) {
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = sum.dot(weight, column);
                    }
                }
            }
        }
        weight.add(seen.count * VECTORS * V::COUNT)
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
        // SAFETY: by the contract of `body`.
        unsafe {
            match *self.lines {
                [a, b] => self.of::<V, _>([a, b], first),
                [a, b, c] => self.of::<V, _>([a, b, c], first),
                _ => self.of::<V, _>(self.lines, first),
            }
        }
    }
}

impl Largest<'_> {
    /// The channels from `first` on. In an array of `lines` their number is known when this is compiled.
    ///
    /// # Safety
    /// As [`Each::channels`].
    #[inline(always)]
    unsafe fn of<V: Lanes, L: AsRef<[Line]>>(&self, lines: L, first: usize) {
        let [stride, channels] = self.sizes;
        let lines = lines.as_ref();
        // SAFETY: by this function's contract.
        unsafe {
            for cell in 0..self.count {
                let start = cell * stride * channels + first;
                let mut most = V::load(lines[0].start.add(start));
                for line in lines {
                    for column in 0..lines.len() {
                        let at = line.start.add(start + column * channels);
                        most = most.or_more(V::load(at));
                    }
                }
                most.store(self.output.add(cell * channels + first));
            }
        }
    }
}
