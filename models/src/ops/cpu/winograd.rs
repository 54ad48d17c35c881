//! 3×3 convolution by minimal filtering, F(4×4, 3×3) at stride 1 (Lavin and Gray, "Fast Algorithms
//! for Convolutional Neural Networks", CVPR 2016): 36 products for 16 outputs, not 144. At stride 2, see
//! [`super::tiles`], 81.
//!
//! Tiles of 6×6 or 9×9 inputs are transformed, multiplied with the transformed weights, 36 or 25 matrix
//! products one after the other, and transformed to 4×4 outputs. A job takes some panels of tiles
//! through all of it. Rounding errors are some ten times those of plain sums, about 1e-6 of the output's size.
//! Where products may be less exact, they are taken of 16-bit integers, see [`super::fixed`].

#![allow(unsafe_code)] // vector instructions, and threads write into one output

use std::cell::RefCell;

use rayon::prelude::*;

use super::ahead;
use super::aligned::Aligned;
use super::block::{self, COLUMNS, Factors, Next, Operands, Precision, ROWS, Target, Unit};
use super::conv::{Added, Shared, Size};
use super::few::{self, FEW};
use super::finish::{self, Finish, LineEnd};
use super::fixed;
use super::pages::keep_in_large_pages;
use super::simd::Level;
use super::tiles::{self, Form, Line, TILE};
use crate::layers::Conv;

/// Weights of a 3×3 convolution, transformed.
pub struct Winograd {
    unit: Unit,
    conv: Conv,
    form: Form,
    positions: Vec<Position>,
    /// By pairs of lines, see [`Form::lines`]: their position, and how many others come before them in the
    /// order of positions.
    terms: Vec<(usize, usize)>,
    weight: Weight,
}

enum Weight {
    /// Of each position `[output / ROWS, depth, ROWS]`.
    Exact(Aligned),
    /// As 16-bit integers, two a word, of each position `[output / ROWS, depth / 2, ROWS]`; the units of rows,
    /// `[positions, output / ROWS]`.
    Fixed(Aligned, Vec<[f32; ROWS]>),
}

/// One of the products of a tile: a sum over all channels, or over those of several pairs of lines.
#[derive(Debug, Clone, Copy)]
struct Position {
    /// Numbers of the sum.
    depth: usize,
    /// Those of the positions before it.
    before: usize,
}

/// Weights of a convolution at stride 2 up to which this pays, and only with AVX-512: transformed they are nine
/// times as many, and come from memory.
const HALVED_WEIGHTS: usize = 9 * 256 * 256;

/// Most positions.
const POSITIONS: usize = tiles::SIDE * tiles::SIDE;

/// Tiles up to which rows of weights fill the vectors, see [`few`]; of integers [`FEW`]. An image of 16×8, the last map of
/// an encoder, has eight; its weights then pass by as fast as memory gives them.
const FEW_TILES: usize = 32;

/// Panels that a job takes together at most.
const GROUP: usize = 2;

/// Numbers that a position's values in panels are apart from where they would lie without gaps: a line for each
/// position, as the transform writes all positions of a channel, and lines that lie a multiple of 4 KiB
/// apart would push each other out of the first-level cache.
const GAP: usize = 16;

/// Numbers from one position's products to the next, of `blocks` of rows of `columns`: a line more,
/// for the same reason as values.
fn products_pitch(blocks: usize, columns: usize) -> usize {
    blocks * ROWS * columns + GAP
}

/// Room for a panel, kept by its thread.
#[derive(Default)]
struct Room {
    tiles: tiles::Tiles,
    /// Columns of the panel: [`COLUMNS`], or fewer for up to [`FEW_TILES`].
    columns: usize,
    places: Vec<usize>, // of the values of pairs of lines
    values: Aligned,    // of each position [depth, columns], and a gap
    words: Aligned,     // [depth / 2, columns] of one position, where products are of integers
    products: Aligned,  // [positions, blocks, ROWS, columns], see `products_pitch`
    scratch: tiles::Scratch,
}

thread_local! {
    static ROOMS: RefCell<[Room; GROUP]> = RefCell::default();
}

/// Sizes of a run.
#[derive(Clone, Copy)]
struct Extent {
    size: Size,
    out_height: usize,
    out_width: usize,
    /// Tiles along both sides.
    rows: usize,
    columns: usize,
}

impl Winograd {
    /// Whether a convolution is one that this pays for by units of `level`.
    pub fn suits(conv: &Conv, level: Level) -> bool {
        let shape = conv.kernel == 3 && conv.groups == 1 && conv.padding <= 2 && conv.far == 0;
        let pays = match conv.stride {
            1 => true,
            2 => level == Level::Avx512 && 9 * conv.input * conv.output <= HALVED_WEIGHTS,
            _ => false,
        };
        let least = if level == Level::Avx512 { 16 } else { 32 };
        shape && pays && conv.input >= least && conv.output >= least
    }

    /// `weight`: `[output, input, 3, 3]`. In bfloat16 products are of integers where `unit` has those, and
    /// f32 otherwise.
    pub fn new(unit: Unit, conv: &Conv, weight: &[f32]) -> Self {
        let form = if conv.stride == 1 {
            Form::Single
        } else {
            Form::Halves
        };
        let (positions, terms) = order(form, conv.input);
        let rows = conv.output.next_multiple_of(ROWS);
        let mut packed = Aligned::new(terms.len() * conv.input * rows);
        let numbers = packed.numbers_mut();
        for (at, kernel) in weight.as_chunks::<9>().0.iter().enumerate() {
            let (output, input) = (at / conv.input, at % conv.input);
            for ((position, term), value) in terms.iter().zip(transformed(form, kernel)) {
                let Position { depth, before } = positions[*position];
                let step = term * conv.input + input - before;
                let place = before * rows + (output / ROWS * depth + step) * ROWS;
                numbers[place + output % ROWS] = value;
            }
        }
        let fixed = unit.precision == Precision::Bf16
            && fixed::available(unit.level)
            && conv.input.is_multiple_of(2);
        let weight = if fixed {
            integers(&positions, &packed, rows)
        } else {
            Weight::Exact(packed)
        };
        let (Weight::Exact(words) | Weight::Fixed(words, _)) = &weight;
        keep_in_large_pages(words);
        Self {
            unit: Unit {
                precision: Precision::F32,
                ..unit
            },
            conv: *conv,
            form,
            positions,
            terms,
            weight,
        }
    }

    /// Convolves `[batch, input, height, width]` into `output`, `[batch, output, ..]`, whose sizes
    /// are those of the convolution, and of what is `added`.
    ///
    /// # Safety
    /// The output may be written, all of it, by nobody else.
    pub unsafe fn run(
        &self,
        input: &[f32],
        bias: &[f32],
        finish: Finish,
        size: Size,
        added: Option<Added<'_>>,
        output: *mut f32,
    ) {
        let extent = self.extent(size);
        let Extent { rows, columns, .. } = extent;
        assert!(bias.len() >= self.conv.output);
        let tiles = size.batch * rows * columns;
        let panels = tiles.div_ceil(COLUMNS);
        let blocks = self.conv.output.div_ceil(ROWS);
        // Few tiles: threads share them out by output channels, and transform them twice.
        let parts = rayon::current_num_threads().div_ceil(panels.max(1));
        let part = blocks.div_ceil(parts.clamp(1, (blocks / 4).max(1)));
        let parts = blocks.div_ceil(part.max(1));
        // Weights are read once for a group, but there must be work for all threads. At stride 2 one panel's
        // values fill the second-level cache; weights that are integers are half as many.
        let shares = self.form == Form::Single && matches!(self.weight, Weight::Exact(_));
        let group = if shares && panels >= 4 * rayon::current_num_threads() {
            GROUP
        } else {
            1
        };
        let shared = Shared(output);
        (0..panels.div_ceil(group) * parts)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|index| {
                let end = LineEnd {
                    finish: &finish,
                    bias: 0.0,
                    relu: added.is_some_and(|added| added.relu),
                };
                let start = index % parts * part;
                let blocks = start..(start + part).min(blocks);
                let first = index / parts * group;
                ROOMS.with_borrow_mut(|rooms| {
                    let rooms = &mut rooms[..group.min(panels - first)];
                    for (panel, room) in rooms.iter_mut().enumerate() {
                        let first = (first + panel) * COLUMNS;
                        let count = COLUMNS.min(tiles - first);
                        room.tiles.set(first, count, extent.rows, extent.columns);
                        room.columns = match &self.weight {
                            Weight::Fixed(..) if count <= FEW => FEW,
                            Weight::Fixed(..) => count.next_multiple_of(fixed::LANES),
                            Weight::Exact(_)
                                if count <= FEW_TILES && self.unit.level == Level::Avx512 =>
                            {
                                count.next_multiple_of(FEW)
                            }
                            Weight::Exact(_) => COLUMNS,
                        };
                        self.transform_inputs(room, input, extent);
                    }
                    self.multiply(rooms, blocks.clone());
                    for room in rooms {
                        // SAFETY: no other job has these tiles of these channels.
                        unsafe {
                            let blocks = blocks.clone();
                            let ends = (bias, end, added);
                            self.transform_outputs(room, blocks, extent, ends, shared);
                        }
                    }
                });
            });
    }

    fn extent(&self, size: Size) -> Extent {
        let Conv {
            padding, stride, ..
        } = self.conv;
        let out_height = (size.height + 2 * padding - 3) / stride + 1;
        let out_width = (size.width + 2 * padding - 3) / stride + 1;
        Extent {
            size,
            out_height,
            out_width,
            rows: out_height.div_ceil(TILE),
            columns: out_width.div_ceil(TILE),
        }
    }

    fn transform_inputs(&self, room: &mut Room, input: &[f32], extent: Extent) {
        let channels = self.conv.input;
        let columns = room.columns;
        room.values
            .grow(self.terms.len() * channels * columns + self.positions.len() * GAP);
        let places = self.terms.iter();
        let places = places.map(|(position, term)| term * channels * columns + position * GAP);
        room.places.clear();
        room.places.extend(places);
        let images = tiles::Images {
            data: input,
            channels,
            height: extent.size.height,
            width: extent.size.width,
            padding: self.conv.padding,
        };
        for channel in 0..channels {
            // The next channel's place follows, and a line after the last one's.
            let target = &mut room.values.numbers_mut()[channel * columns..];
            tiles::input(
                &mut room.scratch,
                &room.tiles,
                images,
                channel,
                target,
                &room.places,
                (self.form, self.unit.level),
            );
        }
    }

    fn multiply(&self, rooms: &mut [Room], part: std::ops::Range<usize>) {
        for room in rooms.iter_mut() {
            let pitch = products_pitch(part.len(), room.columns);
            room.products.grow(self.positions.len() * pitch);
        }
        let rows = self.conv.output.next_multiple_of(ROWS);
        for (index, position) in self.positions.iter().enumerate() {
            let Position { depth, before } = *position;
            match &self.weight {
                Weight::Exact(weight) => {
                    let weight = &weight[before * rows..][..depth * rows];
                    self.multiply_exact(rooms, part.clone(), index, weight);
                }
                Weight::Fixed(weight, units) => {
                    let weight = &weight[before / 2 * rows..][..depth / 2 * rows];
                    let units = &units[index * (rows / ROWS)..];
                    self.multiply_integers(rooms, part.clone(), index, (weight, units));
                }
            }
        }
    }

    /// The products of position `index`, whose weights are `[output / ROWS, depth, ROWS]`.
    fn multiply_exact(
        &self,
        rooms: &mut [Room],
        part: std::ops::Range<usize>,
        index: usize,
        weights: &[u32],
    ) {
        let Position { depth, before } = self.positions[index];
        let pitch = products_pitch(part.len(), COLUMNS);
        for room in rooms.iter_mut().filter(|room| room.columns < COLUMNS) {
            self.multiply_few(room, part.clone(), index, weights);
        }
        let taken = block::part_of(depth);
        for from in (0..depth).step_by(taken) {
            let to = (from + taken).min(depth);
            let blocks = weights.chunks_exact(depth * ROWS).skip(part.start);
            for (block, weight) in blocks.take(part.len()).enumerate() {
                for room in rooms.iter_mut().filter(|room| room.columns == COLUMNS) {
                    let panel = &room.values[before * COLUMNS + index * GAP..];
                    let factors = &weight[from * ROWS..to * ROWS];
                    let operands = Operands {
                        panel: &panel[from * COLUMNS..to * COLUMNS],
                        factors: Factors::Packed(factors),
                        steps: to - from,
                        next: Next::behind(factors, weight.len()),
                        ahead: &[],
                    };
                    let start = index * pitch + block * ROWS * COLUMNS;
                    let products = &mut room.products.numbers_mut()[start..start + ROWS * COLUMNS];
                    let target = Target {
                        start: products.as_mut_ptr(),
                        pitch: COLUMNS,
                        rows: ROWS,
                        columns: room.tiles.lanes(),
                        resumed: from > 0,
                    };
                    // SAFETY: the target is a whole block.
                    unsafe { block::multiply(self.unit, &operands, target, None) };
                }
            }
        }
    }

    /// The same of integers, with the units of rows.
    fn multiply_integers(
        &self,
        rooms: &mut [Room],
        part: std::ops::Range<usize>,
        index: usize,
        (weights, units): (&[u32], &[[f32; ROWS]]),
    ) {
        let Position { depth, before } = self.positions[index];
        for room in rooms {
            let Room {
                columns,
                values,
                words,
                products,
                ..
            } = room;
            let pitch = products_pitch(part.len(), *columns);
            let values = &values.numbers()[before * *columns + index * GAP..][..depth * *columns];
            words.grow(depth / 2 * *columns);
            let panel = fixed::Panel::pack(values, *columns, words);
            let products = &mut products.numbers_mut()[index * pitch..][..pitch - GAP];
            if *columns == FEW {
                let weights = &weights[part.start * depth / 2 * ROWS..];
                panel.multiply_few((weights, &units[part.start..]), products);
                continue;
            }
            let products = products.chunks_exact_mut(ROWS * *columns);
            let blocks = weights.chunks_exact(depth / 2 * ROWS).zip(units);
            for ((weight, units), products) in blocks.skip(part.start).zip(products) {
                panel.multiply(weight, units, products, &[]);
            }
        }
    }

    /// The same for a panel of up to [`FEW_TILES`].
    fn multiply_few(
        &self,
        room: &mut Room,
        part: std::ops::Range<usize>,
        index: usize,
        weights: &[u32],
    ) {
        let Position { depth, before } = self.positions[index];
        let columns = room.columns;
        let pitch = products_pitch(part.len(), columns);
        let sizes = few::Sizes {
            columns,
            steps: depth,
            blocks: part.len(),
        };
        let values = &room.values.numbers()[before * columns + index * GAP..][..depth * columns];
        let products = &mut room.products.numbers_mut()[index * pitch..][..pitch];
        few::multiply(
            values,
            &weights[part.start * depth * ROWS..],
            sizes,
            products,
        );
    }

    /// # Safety
    /// The outputs of the room's tiles in these channels may be written, by nobody else; what is added is
    /// as large as the output.
    unsafe fn transform_outputs(
        &self,
        room: &Room,
        part: std::ops::Range<usize>,
        extent: Extent,
        (bias, end, added): (&[f32], LineEnd<'_>, Option<Added<'_>>),
        output: Shared,
    ) {
        let mut lines = tiles::Lines::default();
        let columns = room.columns;
        let products = room.products.numbers();
        let pitch = products_pitch(part.len(), columns);
        let lanes = room.tiles.lanes();
        let plane_size = extent.out_height * extent.out_width;
        let channels = part.start * ROWS..(part.end * ROWS).min(self.conv.output);
        // Rows of eight columns lie so near to each other that a vector takes two.
        let together = if columns == FEW { 2 } else { 1 };
        for (index, channel) in channels.enumerate() {
            let turn = index % together;
            if turn == 0 {
                let positions = self.positions.len();
                let products: [&[f32]; POSITIONS] = std::array::from_fn(|at| {
                    let at = at.min(positions - 1);
                    &products[at * pitch + index * columns..]
                });
                let lanes = (together - 1) * columns + lanes;
                let way = (self.form, self.unit.level);
                tiles::output(&products[..positions], lanes, &mut lines, way);
            }
            let end = LineEnd {
                bias: bias[channel],
                ..end
            };
            for segment in room.tiles.segments() {
                let plane = segment.image * self.conv.output + channel;
                for (index, line) in lines.0.iter().enumerate() {
                    let y = segment.row * TILE + index;
                    if y >= extent.out_height {
                        break;
                    }
                    let x = segment.first * TILE;
                    let count = (segment.count * TILE).min(extent.out_width - x);
                    let at = plane * plane_size + y * extent.out_width + x;
                    let line = &line[(turn * columns + segment.lane) * TILE..][..count];
                    let more = added.map(|added| added.data[at..at + count].as_ptr());
                    // SAFETY: tiles of this job, of which these columns lie in the image; as many numbers are
                    // added.
                    unsafe {
                        let to = output.at(at);
                        // The same place two channels on.
                        ahead::ask_at_once(to.wrapping_add(2 * plane_size), count);
                        finish::line(to, line, more, end);
                    }
                }
            }
        }
    }
}

/// The positions of a form with so many input channels, and its terms, see [`Winograd::terms`].
fn order(form: Form, channels: usize) -> (Vec<Position>, Vec<(usize, usize)>) {
    let side = form.side();
    let pairs = || {
        let rows = form.lines().iter();
        rows.flat_map(|row| form.lines().iter().map(move |column| (row, column)))
    };
    let position = |row: &Line, column: &Line| row.position * side + column.position;
    let mut positions: Vec<Position> = Vec::with_capacity(side * side);
    for at in 0..side * side {
        let terms = pairs().filter(|(row, column)| position(row, column) == at);
        let before = positions.last().map_or(0, |last| last.before + last.depth);
        positions.push(Position {
            depth: terms.count() * channels,
            before,
        });
    }
    let mut taken = vec![0; positions.len()];
    let terms = pairs().map(|(row, column)| {
        let at = position(row, column);
        taken[at] += 1;
        (at, positions[at].before / channels + taken[at] - 1)
    });
    let terms = terms.collect();
    (positions, terms)
}

/// Packed weights of so many `rows` as integers.
fn integers(positions: &[Position], packed: &Aligned, rows: usize) -> Weight {
    let mut words = Aligned::new(packed.len() / 2);
    let mut units = vec![[0.0; ROWS]; positions.len() * (rows / ROWS)];
    let mut row = Vec::new();
    for (Position { depth, before }, units) in
        positions.iter().zip(units.chunks_exact_mut(rows / ROWS))
    {
        let blocks = packed.numbers()[before * rows..].chunks_exact(depth * ROWS);
        let words = words[before / 2 * rows..].chunks_exact_mut(depth / 2 * ROWS);
        for ((block, words), units) in blocks.zip(words).zip(units) {
            for (index, unit) in units.iter_mut().enumerate() {
                row.clear();
                row.extend(block[index..].iter().step_by(ROWS));
                *unit = fixed::pack_row(&mut words[index..], &row);
            }
        }
    }
    Weight::Fixed(words, units)
}

/// What a kernel counts in each pair of lines, in double precision, rounded once.
fn transformed(form: Form, kernel: &[f32; 9]) -> impl Iterator<Item = f32> {
    let of = |row: &Line, column: &Line| {
        let mut sum = 0.0;
        for (y, left) in row.factors.iter().enumerate() {
            for (x, right) in column.factors.iter().enumerate() {
                sum += left * right * f64::from(kernel[y * 3 + x]);
            }
        }
        sum as f32
    };
    let rows = form.lines().iter();
    rows.flat_map(move |row| form.lines().iter().map(move |column| of(row, column)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::block::Precision;
    use super::super::lanes::made_up_numbers;
    use super::*;
    use crate::ops::Activation;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        // To the last bit: images alone have few tiles, and together they have many.
        #[test]
        fn few_tiles_give_what_many_give(
            input in 16_usize..50, output in 16_usize..60, padding in 0_usize..3,
            batch in 2_usize..7, height in 3_usize..22, width in 3_usize..22,
            stride in 1_usize..3, threads in prop_oneof![Just(1), Just(3)], integers: bool,
        ) {
            let conv = Conv::new(input, output, 3).padding(padding).stride(stride);
            let precision = if integers { Precision::Bf16 } else { Precision::F32 };
            let Some(unit) = Unit::at(precision, Level::Avx512) else { return Ok(()) };
            if !Winograd::suits(&conv, unit.level) {
                return Ok(());
            }
            let layer = Winograd::new(unit, &conv, &made_up_numbers(output * input * 9, 1));
            let bias = made_up_numbers(output.next_multiple_of(ROWS), 2);
            let (rows, columns) = conv.output_size(height, width).unwrap();
            let images = made_up_numbers(batch * input * height * width, 3);
            let run = |images: &[f32], batch: usize| {
                let mut found = vec![7.0; batch * output * rows * columns];
                let target = Shared(found.as_mut_ptr());
                let finish = Finish::new(Activation::Relu);
                let size = Size { batch, height, width };
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap().install(|| {
                    // SAFETY: the output is as large as the convolution's.
                    unsafe { layer.run(images, &bias, finish, size, None, target.at(0)) };
                });
                found
            };
            let together = run(&images, batch);
            let singles = images.chunks_exact(images.len() / batch);
            let singles: Vec<f32> = singles.flat_map(|image| run(image, 1)).collect();
            prop_assert!(singles == together);
        }
    }
}
