//! 1×1 convolution as a matrix product of the weights with panels of cells: those of the images, whose
//! channels may lie in several tensors; at larger strides those that are seen, copied first.
//!
//! A part of a few panels stays in the second-level cache while weights of that part pass by. Wide layers in
//! bfloat16 are halved, see [`strassen`].

#![allow(unsafe_code)] // threads write into one output

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::ahead::{self, Ahead};
use super::aligned::Aligned;
use super::amx::{self, Tiles};
use super::block::{
    self, Block, COLUMNS, Factors, Next, Operands, Precision, ROWS, STEPS, Target, Unit,
};
use super::conv::{Joined, Shared, Size};
use super::finish::{Bias, End, Finish};
use super::strassen::{self, Columns};
use super::threads::share;
use super::words;
use crate::layers::Conv;

/// Products below which a job of its own costs more than it brings.
const PRODUCTS_A_JOB: usize = 1 << 20;

/// Blocks that panels pass by together; packing panels once more for the next ones costs little.
const BLOCKS_TOGETHER: usize = 64;

/// Panels that are taken together at most: their rows are read in longer pieces, and weights once for
/// all of them.
const PANELS_TOGETHER: usize = 4;

/// Bytes of outputs that stay in the second-level cache from one part of their sums to the next.
const OUTPUT_BYTES: usize = 256 * 1024;

/// The same part of some panels.
struct Room {
    panels: Aligned, // [PANELS_TOGETHER, STEPS, COLUMNS]
    halves: strassen::Room,
    ahead: Ahead,
}

/// Words of a part of a panel.
const PANEL: usize = STEPS * COLUMNS;

thread_local! {
    static ROOM: RefCell<Room> = RefCell::new(Room {
        panels: Aligned::default(),
        halves: strassen::Room::default(),
        ahead: Ahead::default(),
    });
}

/// Weights of a 1×1 convolution without groups and padding.
pub struct Product {
    unit: Unit,
    conv: Conv,
    weight: Weight,
}

enum Weight {
    /// For blocks of vectors, see [`pack_weight`].
    Blocks(Vec<u32>),
    /// For seven products of quarters in place of eight, where that pays.
    Halves(strassen::Weights),
    /// For tiles, where the machine has them.
    Tiles(Box<amx::Weights>),
}

/// Whether outputs see one cell each.
pub fn sees_one_cell(conv: &Conv) -> bool {
    (conv.kernel, conv.padding, conv.far, conv.groups) == (1, 0, 0, 1)
}

/// Whether the input's cells are the matrix already.
pub fn is_pointwise(conv: &Conv) -> bool {
    sees_one_cell(conv) && conv.stride == 1
}

/// Channels of the input that lie in one tensor.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// `[batch, channels, height, width]`.
    pub data: &'a [f32],
    /// How many.
    pub channels: usize,
}

/// Sums that a product goes on from: what other channels give, of images as large or smaller by a
/// whole factor, whose cells stand for squares of cells (nearest-neighbour up-sampling).
#[derive(Clone, Copy)]
pub struct Begun<'a> {
    /// `[batch, output, height / factor, width / factor]`.
    pub data: &'a [f32],
    /// Cells of the output along a side that begin with the same number.
    pub factor: usize,
}

impl Begun<'_> {
    /// Whether they are those of so many `planes` of `height` by `width`.
    pub fn fits(&self, planes: usize, (height, width): (usize, usize)) -> bool {
        let factor = self.factor;
        let whole = factor > 0 && height.is_multiple_of(factor) && width.is_multiple_of(factor);
        whole && self.data.len() * factor * factor == planes * height * width
    }
}

/// Where the cells of an image lie.
#[derive(Clone, Copy)]
pub struct Grid {
    /// The input.
    pub size: Size,
    /// Rows and columns of the output.
    pub output: (usize, usize),
}

/// Panels, counted through the images, and blocks of output channels.
struct Job {
    panels: Range<usize>,
    blocks: Range<usize>,
}

/// What is packed and multiplied at once.
struct Portion {
    image: usize,
    /// Cells of the image's outputs, at most [`PANELS_TOGETHER`] panels.
    place: Range<usize>,
    /// Steps of the sums.
    taken: Range<usize>,
}

/// The portions of some panels: their sums part by part, a few panels after the other.
struct Portions {
    /// Of an image.
    cells: usize,
    /// Panels of a portion.
    together: usize,
    /// Those that are left.
    panels: Range<usize>,
    /// Steps of a part, of all, and those which the first of the panels that are left have taken.
    part: usize,
    steps: usize,
    taken: usize,
}

impl Iterator for Portions {
    type Item = Portion;

    fn next(&mut self) -> Option<Portion> {
        if self.panels.is_empty() {
            return None;
        }
        let panels_an_image = self.cells.div_ceil(COLUMNS);
        let (image, start) = (
            self.panels.start / panels_an_image,
            self.panels.start % panels_an_image,
        );
        let left = self.panels.len().min(panels_an_image - start);
        let count = self.together.min(left);
        let portion = Portion {
            image,
            place: start * COLUMNS..((start + count) * COLUMNS).min(self.cells),
            taken: self.taken..(self.taken + self.part).min(self.steps),
        };
        self.taken = portion.taken.end;
        if self.taken == self.steps {
            self.taken = 0;
            self.panels.start += count;
        }
        Some(portion)
    }
}

/// What all jobs of a run share.
struct Pass<'a> {
    sources: &'a [Source<'a>],
    grid: Grid,
    bias: &'a [f32], // filled up to whole blocks
    finish: Finish,
    joined: Joined<'a>,
    output: Shared,
}

/// Weights `[output, depth]` as blocks want them, part by part of their sums (see
/// [`block::part_of`]): `[parts, output / ROWS, steps of the part, ROWS]`, filled up with zeros.
pub fn pack_weight(precision: Precision, weight: &[f32], depth: usize) -> Vec<u32> {
    let steps = precision.steps(depth);
    let part = block::part_of(steps);
    let rows = weight.len() / depth.max(1);
    let blocks = rows.div_ceil(ROWS);
    let mut packed = vec![0; blocks * steps * ROWS];
    for (row, numbers) in weight.chunks_exact(depth.max(1)).enumerate() {
        for (at, number) in numbers.iter().enumerate() {
            let (step, word) = words::place(precision, at, *number);
            let taken = step / part * part..(step / part * part + part).min(steps);
            let start = factors(blocks, row / ROWS, &taken).start;
            packed[start + (step - taken.start) * ROWS + row % ROWS] |= word;
        }
    }
    packed
}

/// Where in packed weights of so many blocks the factors of one lie for the steps `taken`, a part.
pub fn factors(blocks: usize, block: usize, taken: &Range<usize>) -> Range<usize> {
    let start = (taken.start * blocks + block * taken.len()) * ROWS;
    start..start + taken.len() * ROWS
}

impl Product {
    /// `weight`: `[output, input, kernel, kernel]`.
    pub fn new(unit: Unit, weight: &[f32], conv: &Conv) -> Self {
        Self::by(unit, Tiles::of(unit), weight, conv)
    }

    /// The same by tiles, if any.
    pub(super) fn by(unit: Unit, tiles: Option<Tiles>, weight: &[f32], conv: &Conv) -> Self {
        assert!(sees_one_cell(conv));
        let depth = conv.input;
        let weight = match tiles {
            Some(tiles) => Weight::Tiles(Box::new(amx::Weights::new(tiles, weight, depth))),
            None if strassen::Weights::suits(unit, depth, conv.output) => {
                Weight::Halves(strassen::Weights::new(weight, depth))
            }
            None => Weight::Blocks(pack_weight(unit.precision, weight, depth)),
        };
        Self {
            unit,
            conv: *conv,
            weight,
        }
    }

    /// Output channels of a block.
    fn height(&self) -> usize {
        match self.weight {
            Weight::Blocks(_) => ROWS,
            Weight::Halves(_) => 2 * ROWS,
            Weight::Tiles(_) => amx::ROWS,
        }
    }

    /// How many of an image's cells are multiplied together.
    fn width(&self, cells: usize) -> usize {
        match self.weight {
            Weight::Halves(_) => Columns::together(cells),
            _ => COLUMNS,
        }
    }

    /// Words of a sum, and those of its parts.
    fn steps(&self) -> (usize, usize) {
        if let Weight::Tiles(tiles) = &self.weight {
            return tiles.steps();
        }
        let steps = self.unit.precision.steps(self.conv.input);
        (steps, block::part_of(steps))
    }

    /// Convolves images whose channels are those of all `sources`, one after the other. `bias` is filled
    /// up to whole blocks of [`ROWS`]; `output`: `[batch, output, cells]`, and so is what is added; what
    /// sums go on from fits them.
    ///
    /// # Safety
    /// The output may be written, all of it, by nobody else.
    pub unsafe fn run(
        &self,
        sources: &[Source<'_>],
        bias: &[f32],
        finish: Finish,
        grid: Grid,
        joined: Joined<'_>,
        output: *mut f32,
    ) {
        let channels: usize = sources.iter().map(|source| source.channels).sum();
        assert_eq!(channels, self.conv.input);
        let (batch, cells) = (grid.size.batch, grid.output.0 * grid.output.1);
        assert!(bias.len() >= self.conv.output.next_multiple_of(ROWS));
        if let Some(added) = joined.added {
            assert_eq!(added.data.len(), batch * self.conv.output * cells);
        }
        let seen: Vec<Vec<f32>> = if self.conv.stride > 1 {
            let seen = |source| seen(source, grid, self.conv.stride);
            sources.iter().map(seen).collect()
        } else {
            Vec::new()
        };
        let copied = sources.iter().zip(&seen);
        let copied: Vec<Source<'_>> = copied
            .map(|(source, data)| Source { data, ..*source })
            .collect();
        let run = Pass {
            sources: if seen.is_empty() { sources } else { &copied },
            grid,
            bias,
            finish,
            joined,
            output: Shared(output),
        };
        let jobs = self.jobs(batch, cells);
        if let [job] = jobs.as_slice() {
            ROOM.with_borrow_mut(|room| self.job(&run, job, room));
            return;
        }
        jobs.into_par_iter()
            .with_max_len(1)
            .for_each(|job| ROOM.with_borrow_mut(|room| self.job(&run, &job, room)));
    }

    /// As many jobs as keep all threads busy: of panels, and where there are few of them, of
    /// blocks.
    fn jobs(&self, batch: usize, cells: usize) -> Vec<Job> {
        let threads = rayon::current_num_threads();
        let panels = batch * cells.div_ceil(self.width(cells));
        let blocks = self.conv.output.div_ceil(self.height());
        // Sums of quarters take as long to pack as a block of them to multiply, so that few jobs should.
        let (panels_a_band, blocks_a_part) = match self.weight {
            Weight::Halves(_) => (1, 16),
            _ => (3, 4),
        };
        let products = batch * cells * self.conv.input * self.conv.output;
        let wanted = if threads == 1 {
            1
        } else {
            (products / PRODUCTS_A_JOB).clamp(1, 4 * threads)
        };
        let bands = wanted.min(panels / panels_a_band).max(1);
        let parts = wanted.div_ceil(bands);
        let parts = parts.clamp(1, (blocks / blocks_a_part).max(1));
        let parts = |band: usize| {
            (0..parts).map(move |part| Job {
                panels: share(panels, bands, band),
                blocks: share(blocks, parts, part),
            })
        };
        (0..bands).flat_map(parts).collect()
    }

    fn job(&self, run: &Pass<'_>, job: &Job, room: &mut Room) {
        if let Weight::Halves(weights) = &self.weight {
            return self.halves(run, weights, job, room);
        }
        let (steps, part) = self.steps();
        let mut tiles = match &self.weight {
            Weight::Tiles(tiles) => Some(tiles.blocks()),
            _ => None,
        };
        room.panels.grow(PANELS_TOGETHER * PANEL);
        for first in job.blocks.clone().step_by(BLOCKS_TOGETHER) {
            let blocks = first..(first + BLOCKS_TOGETHER).min(job.blocks.end);
            let mut portions = Portions {
                cells: run.grid.output.0 * run.grid.output.1,
                together: (OUTPUT_BYTES / (blocks.len() * size_of::<Block>()))
                    .clamp(1, PANELS_TOGETHER),
                panels: job.panels.clone(),
                part,
                steps,
                taken: 0,
            }
            .peekable();
            while let Some(portion) = portions.next() {
                room.ahead.clear();
                self.pack(run, &portion, &mut room.panels);
                if let Some(next) = portions.peek() {
                    self.look_ahead(run, next, &mut room.ahead);
                }
                let panels = portion.place.len().div_ceil(COLUMNS);
                room.ahead.share(panels * blocks.len());
                self.multiply(run, blocks.clone(), &portion, room, tiles.as_mut());
            }
        }
    }

    /// Multiplies a portion with some blocks.
    fn multiply(
        &self,
        run: &Pass<'_>,
        blocks: Range<usize>,
        portion: &Portion,
        room: &mut Room,
        mut tiles: Option<&mut amx::Blocks<'_>>,
    ) {
        let ((steps, _), rows) = (self.steps(), self.height());
        let cells = run.grid.output.0 * run.grid.output.1;
        let Joined { begun, added } = run.joined;
        let Portion {
            image,
            place,
            taken,
        } = portion;
        let all = self.conv.output.div_ceil(ROWS);
        let starts = place.clone().step_by(COLUMNS);
        for (panel, start) in room.panels.chunks_exact(PANEL).zip(starts) {
            for index in blocks.clone() {
                let lines = room.ahead.take();
                let channel = index * rows;
                let at = (image * self.conv.output + channel) * cells + start;
                let end = End {
                    bias: Bias::Rows(&run.bias[channel..]),
                    finish: run.finish,
                    added: added.map(|added| (added.data[at..].as_ptr(), cells)),
                    relu: added.is_some_and(|added| added.relu),
                };
                let end = (taken.end == steps).then_some(&end);
                // SAFETY: channels and cells of this job, which no other job has; what is added
                // is as large as the output.
                unsafe {
                    let target = Target {
                        start: run.output.at(at),
                        pitch: cells,
                        rows: rows.min(self.conv.output - channel),
                        columns: COLUMNS.min(place.end - start),
                        resumed: taken.start > 0 || begun.is_some(),
                    };
                    if let Some(begun) = begun.filter(|_| taken.start == 0) {
                        let plane = image * self.conv.output + channel;
                        begin(&begun, target, plane, start, run.grid);
                    }
                    if let Some(tiles) = &mut tiles {
                        ahead::ask(lines);
                        tiles.multiply(panel, index, taken, target, end);
                        continue;
                    }
                    let Weight::Blocks(weight) = &self.weight else {
                        continue;
                    };
                    let weight = &weight[factors(all, index, taken)];
                    let operands = Operands {
                        panel,
                        factors: Factors::Packed(weight),
                        steps: taken.len(),
                        next: Next::behind(weight, weight.len()),
                        ahead: lines,
                    };
                    block::multiply(self.unit, &operands, target, end);
                }
            }
        }
    }

    /// The same by sums of quarters; panels are those of both halves.
    fn halves(&self, run: &Pass<'_>, weights: &strassen::Weights, job: &Job, room: &mut Room) {
        let cells = run.grid.output.0 * run.grid.output.1;
        let width = self.width(cells);
        let panels_an_image = cells.div_ceil(width);
        let rows_of = |panel: usize| {
            let first = panel % panels_an_image * width;
            Rows {
                sources: run.sources,
                image: panel / panels_an_image,
                cells,
                first,
                count: width.min(cells - first),
            }
        };
        let parts = || 0..weights.parts();
        let panels = job.panels.clone();
        let mut portions = panels
            .flat_map(|panel| parts().map(move |part| (panel, part)))
            .peekable();
        let Joined { begun, added } = run.joined;
        while let Some((panel, part)) = portions.next() {
            let rows = rows_of(panel);
            let columns = Columns::of(rows.count);
            let wanted = weights.channels(part);
            weights.pack(columns, |take| rows.each(wanted, take), &mut room.halves);
            room.ahead.clear();
            if let Some((panel, part)) = portions.peek() {
                let wanted = weights.channels(*part);
                rows_of(*panel).each(wanted, |row| room.ahead.expect(row));
            }
            room.ahead.share(job.blocks.len());
            for block in job.blocks.clone() {
                let [upper, lower] = weights.rows(block);
                let left = (rows.first, columns.left);
                let right = (rows.first + columns.left, columns.right);
                // In the order of the quarters.
                let places = [(upper, left), (upper, right), (lower, left), (lower, right)];
                let plane = |channel: usize| rows.image * self.conv.output + channel;
                let outputs = places.map(|(channel, (start, count))| {
                    let at = plane(channel) * cells + start;
                    let target = Target {
                        start: run.output.0.wrapping_add(at),
                        pitch: cells,
                        rows: ROWS.min(self.conv.output.saturating_sub(channel)),
                        columns: count,
                        resumed: part > 0 || begun.is_some(),
                    };
                    let end = End {
                        bias: Bias::Rows(run.bias.get(channel..).unwrap_or_default()),
                        finish: run.finish,
                        added: added.map(|added| (added.data.as_ptr().wrapping_add(at), cells)),
                        relu: added.is_some_and(|added| added.relu),
                    };
                    (target, (part + 1 == weights.parts()).then_some(end))
                });
                if let Some(begun) = begun.filter(|_| part == 0) {
                    for ((target, _), (channel, (start, _))) in outputs.iter().zip(places) {
                        // SAFETY: as below.
                        unsafe { begin(&begun, *target, plane(channel), start, run.grid) };
                    }
                }
                weights.multiply(part, block, &mut room.halves, &outputs, room.ahead.take());
                // SAFETY: channels and cells of this job, which no other job has; what is added
                // is as large as the output.
                unsafe { room.halves.store(&outputs) };
            }
        }
    }

    /// The rows that a portion takes from its image.
    fn rows<'a>(&self, run: &Pass<'a>, portion: &Portion) -> (Rows<'a>, Range<usize>) {
        let Portion {
            image,
            place,
            taken,
        } = portion;
        let numbers = match self.unit.precision {
            Precision::F32 => taken.clone(),
            Precision::Bf16 => 2 * taken.start..(2 * taken.end).min(self.conv.input),
        };
        let rows = Rows {
            sources: run.sources,
            image: *image,
            cells: run.grid.output.0 * run.grid.output.1,
            first: place.start,
            count: place.len(),
        };
        (rows, numbers)
    }

    /// Notes the rows of the portion that comes next.
    fn look_ahead(&self, run: &Pass<'_>, next: &Portion, ahead: &mut Ahead) {
        let (rows, numbers) = self.rows(run, next);
        rows.each(numbers, |row| ahead.expect(row));
    }

    /// Packs a portion into panels.
    fn pack(&self, run: &Pass<'_>, portion: &Portion, panels: &mut [u32]) {
        let (rows, numbers) = self.rows(run, portion);
        // The words of one step lie in all panels at the same place.
        let mut step = 0;
        if self.unit.precision == Precision::F32 {
            rows.each(numbers, |row| {
                words::deal(&mut panels[step * COLUMNS..], PANEL, row);
                step += 1;
            });
            return;
        }
        let packed = Precision::Bf16.steps(numbers.len());
        let mut before: Option<&[f32]> = None;
        rows.each(numbers, |row| {
            if let Some(first) = before.take() {
                words::deal_pairs(&mut panels[step * COLUMNS..], PANEL, first, Some(row));
                step += 1;
            } else {
                before = Some(row);
            }
        });
        if let Some(last) = before {
            words::deal_pairs(&mut panels[step * COLUMNS..], PANEL, last, None);
        }
        // Tiles are filled up.
        for panel in panels.chunks_exact_mut(PANEL) {
            panel[packed * COLUMNS..portion.taken.len() * COLUMNS].fill(0);
        }
    }
}

/// The cells that outputs see at a stride, in the order of the outputs.
fn seen(source: &Source<'_>, grid: Grid, stride: usize) -> Vec<f32> {
    let ((height, width), cells) = (grid.output, grid.size.cells());
    let mut seen = vec![0.0; grid.size.batch * source.channels * height * width];
    let planes = seen.par_chunks_exact_mut((height * width).max(1));
    planes
        .zip(source.data.par_chunks_exact(cells.max(1)))
        .with_min_len(64)
        .for_each(|(seen, plane)| {
            let rows = plane.chunks_exact(grid.size.width).step_by(stride);
            for (seen, row) in seen.chunks_exact_mut(width).zip(rows) {
                words::every(seen, row, stride);
            }
        });
    seen
}

/// Writes what is begun to a target, whose first row is of `plane`, from cell `start` on.
///
/// # Safety
/// The target may be written by this thread alone.
unsafe fn begin(begun: &Begun<'_>, target: Target, plane: usize, start: usize, grid: Grid) {
    let ((height, width), factor) = (grid.output, begun.factor);
    let (rows, columns) = (height / factor, width / factor);
    let planes = begun.data.chunks_exact(rows * columns);
    let mut done = 0;
    while done < target.columns {
        let (y, x) = ((start + done) / width, (start + done) % width);
        let count = (width - x).min(target.columns - done);
        for (row, plane) in planes.clone().skip(plane).take(target.rows).enumerate() {
            let numbers = &plane[y / factor * columns..][..columns];
            // SAFETY: a part of a row of the target.
            unsafe {
                let to = target.start.add(row * target.pitch + done);
                if factor == 2 && x.is_multiple_of(2) {
                    words::write_twice(to, &numbers[x / 2..], count);
                } else {
                    for at in 0..count {
                        to.add(at).write(numbers[(x + at) / factor]);
                    }
                }
            }
        }
        done += count;
    }
}

/// Cells of an image, channel by channel through all sources.
struct Rows<'a> {
    sources: &'a [Source<'a>],
    image: usize,
    /// Cells of a channel, the first one that is wanted, and how many.
    cells: usize,
    first: usize,
    count: usize,
}

impl<'a> Rows<'a> {
    /// Gives `take` the cells of the channels `wanted`.
    fn each(&self, wanted: Range<usize>, mut take: impl FnMut(&'a [f32])) {
        let mut before = 0;
        for source in self.sources {
            let channels = before..before + source.channels;
            let from = wanted.start.max(channels.start);
            let to = wanted.end.min(channels.end);
            let planes = &source.data[self.image * source.channels * self.cells..];
            for channel in from..to {
                let start = (channel - channels.start) * self.cells + self.first;
                take(&planes[start..start + self.count]);
            }
            before = channels.end;
        }
    }
}
