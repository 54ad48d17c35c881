//! Matrix products by Strassen's algorithm (Numerische Mathematik 13, 1969), one step of it: both operands are
//! halved both ways, and seven products of sums of quarters stand for the eight of quarters.
//!
//! Numbers are 16-bit integers (see [`super::fixed`]) where bfloat16 would do: sums of quarters are rounded once more,
//! and bfloat16 has no digits to spare for that. `docs/benchmarks.md` tells why f32 goes without.
//!
//! Which columns are multiplied together is a matter of their place in an image alone: no bit of a result depends on
//! batches or threads.

#![allow(unsafe_code)] // vector instructions

use std::ops::Range;

use super::aligned::Aligned;
use super::block::{COLUMNS, Precision, ROWS, Target, Unit};
use super::finish::End;
use super::fixed;
use super::pages::keep_in_large_pages;

/// Products of a step.
const PRODUCTS: usize = 7;

/// Words of half a part's sums at most: all panels of a part stay in the second-level cache, 344 KiB.
const STEPS: usize = 256;

/// Words that panels are apart beyond their length, lest all seven begin at the same place of the first-level
/// cache.
const GAP: usize = 80;

/// Words from one panel to the next.
const PANEL: usize = STEPS * COLUMNS + GAP;

/// Input channels and output channels below which sums of quarters cost more than a product.
const LEAST: (usize, usize) = (512, 192);

/// How often each quarter of the weights, of the upper outputs first, counts in each product.
const SUMS: [[f32; 4]; PRODUCTS] = [
    [1.0, 0.0, 0.0, 1.0],
    [0.0, 0.0, 1.0, 1.0],
    [1.0, 0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 1.0],
    [1.0, 1.0, 0.0, 0.0],
    [-1.0, 0.0, 1.0, 0.0],
    [0.0, 1.0, 0.0, -1.0],
];

/// All products.
const ALL: [usize; PRODUCTS] = [0, 1, 2, 3, 4, 5, 6];

/// Those that are left where there are no columns on the right.
const OF_LEFT: [usize; 4] = [0, 1, 3, 6];

/// A quarter of the output: channels above and below, columns on the left and on the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quarter {
    UpperLeft,
    UpperRight,
    LowerLeft,
    LowerRight,
}

/// Row by row.
const QUARTERS: [Quarter; 4] = [
    Quarter::UpperLeft,
    Quarter::UpperRight,
    Quarter::LowerLeft,
    Quarter::LowerRight,
];

/// Where sums of a block go, quarter by quarter in the order of [`QUARTERS`], and what follows the last ones.
pub type Outputs<'a> = [(Target, Option<End<'a>>); 4];

/// Columns that are multiplied together: so many on the left, at most [`COLUMNS`], and no more on the right.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    pub left: usize,
    pub right: usize,
}

impl Columns {
    /// The most that there can be.
    const MOST: usize = 2 * COLUMNS;

    /// How many of so many columns to take together: an even share of them, of whole vectors on both sides.
    pub fn together(all: usize) -> usize {
        let shares = all.div_ceil(Self::MOST).max(1);
        all.div_ceil(shares).next_multiple_of(2 * LANES).max(1)
    }

    /// So many, at most those [`Columns::together`]: those on the left fill vectors.
    pub fn of(count: usize) -> Self {
        let left = count.div_ceil(2).next_multiple_of(LANES).min(count);
        Self {
            left,
            right: count - left,
        }
    }

    /// Those on the left, filled up to whole vectors.
    fn pitch(self) -> usize {
        self.left.next_multiple_of(LANES)
    }
}

const LANES: usize = 16;

/// What a thread multiplies with.
pub struct Room {
    rows: Vec<*const f32>,
    words: Aligned, // [PRODUCTS, PANEL]
    units: [[f32; COLUMNS]; PRODUCTS],
    products: Aligned, // [PRODUCTS, ROWS, columns]
    columns: Columns,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            words: Aligned::default(),
            units: [[0.0; COLUMNS]; PRODUCTS],
            products: Aligned::default(),
            columns: Columns { left: 0, right: 0 },
        }
    }
}

/// Weights of the seven products.
pub struct Weights {
    input: usize,
    output: usize,
    /// Channels of half a part.
    half: usize,
    /// `[parts, blocks, PRODUCTS, half / 2, ROWS]`.
    words: Aligned,
    /// Of the rows, `[parts, blocks, PRODUCTS]`.
    units: Vec<[f32; ROWS]>,
}

impl Weights {
    /// Whether this pays for weights of such a size by `unit`.
    pub fn suits(unit: Unit, input: usize, output: usize) -> bool {
        let integers = unit.precision == Precision::Bf16 && fixed::available(unit.level);
        integers && input >= LEAST.0 && output >= LEAST.1
    }

    /// `weight`: `[output, input]`.
    pub fn new(weight: &[f32], input: usize) -> Self {
        let output = weight.len() / input;
        let parts = input.div_ceil(4 * STEPS);
        // Two numbers a word.
        let half = input.div_ceil(2 * parts).next_multiple_of(2);
        let mut weights = Self {
            input,
            output,
            half,
            words: Aligned::default(),
            units: Vec::new(),
        };
        let (blocks, size) = (weights.blocks(), weights.size());
        weights.words.grow(parts * blocks * PRODUCTS * size);
        let mut places = weights.words.chunks_exact_mut(size);
        let mut numbers = vec![0.0; half];
        for (part, block) in (0..parts).flat_map(|part| (0..blocks).map(move |block| (part, block)))
        {
            for (counts, place) in SUMS.iter().zip(&mut places) {
                let mut units = [0.0; ROWS];
                for (row, unit) in units.iter_mut().enumerate() {
                    numbers.fill(0.0);
                    for (quarter, count) in counts.iter().enumerate() {
                        let row = (quarter / 2 * blocks + block) * ROWS + row;
                        let first = (2 * part + quarter % 2) * half;
                        // A number that is none counts where it is wanted alone.
                        if *count != 0.0 && row < output && first < input {
                            let row = &weight[row * input..(row + 1) * input];
                            for (sum, number) in numbers.iter_mut().zip(&row[first..]) {
                                *sum += count * number;
                            }
                        }
                    }
                    *unit = fixed::pack_row(&mut place[row..], &numbers);
                }
                weights.units.push(units);
            }
        }
        keep_in_large_pages(&weights.words);
        weights
    }

    /// Words of a block of factors.
    fn size(&self) -> usize {
        self.half / 2 * ROWS
    }

    /// Blocks of rows, each of the upper and of the lower half: pairs of them.
    pub fn blocks(&self) -> usize {
        self.output.div_ceil(2 * ROWS)
    }

    /// The first row of a block of either half.
    pub fn rows(&self, block: usize) -> [usize; 2] {
        [block * ROWS, (self.blocks() + block) * ROWS]
    }

    /// How many parts sums are taken in.
    pub fn parts(&self) -> usize {
        self.input.div_ceil(2 * self.half)
    }

    /// The channels of a part.
    pub fn channels(&self, part: usize) -> Range<usize> {
        2 * part * self.half..(2 * (part + 1) * self.half).min(self.input)
    }

    /// Packs the channels of a part, which `rows` gives one after the other, each of so many columns.
    ///
    /// # Panics
    /// If rows are too short or too many.
    pub fn pack<'a>(
        &self,
        columns: Columns,
        rows: impl FnOnce(&mut dyn FnMut(&'a [f32])),
        room: &mut Room,
    ) {
        static ZEROS: [f32; Columns::MOST] = [0.0; Columns::MOST];
        room.rows.clear();
        rows(&mut |row: &[f32]| {
            assert!(row.len() >= columns.left + columns.right);
            room.rows.push(row.as_ptr());
        });
        assert!(columns.left <= COLUMNS && columns.right <= columns.left);
        assert!(room.rows.len() <= 2 * self.half);
        room.rows.resize(2 * self.half, ZEROS.as_ptr());
        room.words.grow(PRODUCTS * PANEL);
        room.columns = columns;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the instructions, or there would be no such weights; rows are as long
        // as columns, panels hold all steps.
        unsafe {
            match columns.pitch() / LANES {
                0 | 1 => avx512::pack::<1>(room),
                2 => avx512::pack::<2>(room),
                _ => avx512::pack::<3>(room),
            }
        }
    }

    /// The seven products of a block with what was packed, a part; asks for the places of the
    /// quarters and for lines that are `ahead` meanwhile.
    pub fn multiply(
        &self,
        part: usize,
        block: usize,
        room: &mut Room,
        outputs: &Outputs<'_>,
        ahead: &[*const f32],
    ) {
        let (pitch, size) = (room.columns.pitch(), self.size());
        let block = (part * self.blocks() + block) * PRODUCTS;
        room.products.grow(PRODUCTS * ROWS * pitch);
        let wanted = if room.columns.right > 0 {
            &ALL[..]
        } else {
            &OF_LEFT[..]
        };
        let mut lines = ahead.chunks(ahead.len().div_ceil(wanted.len()).max(1));
        let mut outputs = outputs.iter();
        for &product in wanted {
            if let Some((target, end)) = outputs.next() {
                target.ask();
                if let Some((added, pitch)) = end.and_then(|end| end.added) {
                    let start = added.cast_mut();
                    let added = Target {
                        start,
                        pitch,
                        ..*target
                    };
                    added.ask();
                }
            }
            let words = &room.words[product * PANEL..][..self.half / 2 * pitch];
            let panel = fixed::Panel::packed(words, room.units[product], pitch);
            let factors = &self.words[(block + product) * size..][..size];
            let sums = &mut room.products.numbers_mut()[product * ROWS * pitch..][..ROWS * pitch];
            let units = &self.units[block + product];
            panel.multiply(factors, units, sums, lines.next().unwrap_or_default());
        }
    }
}

impl Room {
    /// The sums of all quarters, from the last products, to where they go.
    ///
    /// # Safety
    /// As for [`super::block::multiply`].
    ///
    /// # Panics
    /// If a target is larger than a block.
    pub unsafe fn store(&self, outputs: &Outputs<'_>) {
        let pitch = self.columns.pitch();
        let right = self.columns.right > 0;
        let products = &self.products.numbers()[..PRODUCTS * ROWS * pitch];
        for ((target, end), quarter) in outputs.iter().zip(QUARTERS) {
            if target.rows == 0 || target.columns == 0 {
                continue;
            }
            assert!(target.rows <= ROWS && target.columns <= pitch);
            // It may have gone to the second-level cache meanwhile.
            target.ask();
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instructions, or there would be no such products; the
            // target by this function's contract.
            unsafe {
                use avx512::store;
                let (products, end) = (products.as_ptr(), end.as_ref());
                match pitch / LANES {
                    1 => store::<1>(products, quarter, right, target, end),
                    2 => store::<2>(products, quarter, right, target, end),
                    _ => store::<3>(products, quarter, right, target, end),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            unreachable!(
                "there are no such products: {products:?}, {quarter:?}, {right}, {}",
                end.is_some()
            );
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_castps_si512, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_sqrt_ps, _mm512_storeu_si512, _mm512_sub_ps,
    };

    use super::super::block::Target;
    use super::super::finish::avx512::{biases_of, lanes, row_of};
    use super::super::finish::{Bias, End};
    use super::super::fixed;
    use super::super::fixed::avx512::{pair, scale_of};
    use super::super::simd::within;
    use super::{Columns, LANES, PANEL, PRODUCTS, Quarter, ROWS, Room};

    /// Where the vectors of a row lie, and which of their numbers exist.
    struct Vectors<const VECTORS: usize> {
        right: usize,
        masks: [[u16; VECTORS]; 2],
    }

    impl<const VECTORS: usize> Vectors<VECTORS> {
        fn of(columns: Columns) -> Self {
            let masks = [columns.left, columns.right].map(|count| {
                std::array::from_fn(|vector| within((vector * LANES) as isize, count))
            });
            Self {
                right: columns.left,
                masks,
            }
        }

        /// The vector of so many, of the columns on the left and on the right.
        ///
        /// # Safety
        /// The row is as long as the columns.
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load(&self, row: *const f32, vector: usize) -> [__m512; 2] {
            let at = row.wrapping_add(vector * LANES);
            // SAFETY: what masks leave out is not read.
            unsafe {
                [
                    _mm512_maskz_loadu_ps(self.masks[0][vector], at),
                    _mm512_maskz_loadu_ps(self.masks[1][vector], at.wrapping_add(self.right)),
                ]
            }
        }
    }

    /// What each product takes of the quarters.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sums([a, b]: [__m512; 2], [c, d]: [__m512; 2]) -> [__m512; PRODUCTS] {
        [
            _mm512_add_ps(a, d),
            a,
            _mm512_sub_ps(b, d),
            _mm512_sub_ps(c, a),
            d,
            _mm512_add_ps(a, b),
            _mm512_add_ps(c, d),
        ]
    }

    /// Packs the room's rows, with the units of columns. No norm of a sum exceeds the sum of the norms.
    ///
    /// # Safety
    /// Rows are as long as the columns, and four times as many as some number; panels hold so many steps.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn pack<const VECTORS: usize>(room: &mut Room) {
        let vectors = Vectors::<VECTORS>::of(room.columns);
        let (first, second) = room.rows.split_at(room.rows.len() / 2);
        let mut squares = [[[_mm512_setzero_ps(); 2]; 2]; VECTORS];
        for (first, second) in first.iter().zip(second) {
            for (vector, squares) in squares.iter_mut().enumerate() {
                for (row, squares) in [first, second].into_iter().zip(squares) {
                    // SAFETY: by this function's contract.
                    let numbers = unsafe { vectors.load(*row, vector) };
                    for (number, square) in numbers.into_iter().zip(squares) {
                        *square = _mm512_fmadd_ps(number, number, *square);
                    }
                }
            }
        }
        let mut scales = [[_mm512_setzero_ps(); PRODUCTS]; VECTORS];
        for (vector, (scales, squares)) in scales.iter_mut().zip(squares).enumerate() {
            let [[a, b], [c, d]] = squares.map(|row| row.map(|square| _mm512_sqrt_ps(square)));
            let norms = [
                _mm512_add_ps(a, d),
                a,
                _mm512_add_ps(b, d),
                _mm512_add_ps(c, a),
                d,
                _mm512_add_ps(a, b),
                _mm512_add_ps(c, d),
            ];
            for ((scale, norm), units) in scales.iter_mut().zip(norms).zip(&mut room.units) {
                *scale = scale_of(norm, &mut units[vector * LANES..]);
            }
        }
        let rounder = _mm512_set1_ps(fixed::ROUNDER);
        let words = room.words.as_mut_ptr();
        let pitch = VECTORS * LANES;
        let pairs = first
            .as_chunks::<2>()
            .0
            .iter()
            .zip(second.as_chunks::<2>().0);
        for (step, (first, second)) in pairs.enumerate() {
            for (vector, scales) in scales.iter().enumerate() {
                // SAFETY: by this function's contract.
                unsafe {
                    let [a, b] = [first[0], first[1]];
                    let [c, d] = [second[0], second[1]];
                    let even = sums(vectors.load(a, vector), vectors.load(c, vector));
                    let odd = sums(vectors.load(b, vector), vectors.load(d, vector));
                    let to = words.add(step * pitch + vector * LANES);
                    for product in 0..PRODUCTS {
                        let scale = scales[product];
                        let even = _mm512_fmadd_ps(even[product], scale, rounder);
                        let odd = _mm512_fmadd_ps(odd[product], scale, rounder);
                        let both = pair(_mm512_castps_si512(even), _mm512_castps_si512(odd));
                        _mm512_storeu_si512(to.add(product * PANEL).cast(), both);
                    }
                }
            }
        }
    }

    /// # Safety
    /// There are [`PRODUCTS`] products of [`ROWS`] rows of `VECTORS` vectors, those of the right unless there
    /// are none; rows and columns of the target, at most as many, may be written, and what `end` adds is as large.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn store<const VECTORS: usize>(
        products: *const f32,
        quarter: Quarter,
        right: bool,
        target: &Target,
        end: Option<&End<'_>>,
    ) {
        // Fewer columns than vectors hold may leave out whole ones.
        // SAFETY: by this function's contract.
        unsafe {
            match (VECTORS, target.columns.div_ceil(LANES)) {
                (3, 2) => store_rows::<VECTORS, 2>(products, quarter, right, target, end),
                (2 | 3, 1) => store_rows::<VECTORS, 1>(products, quarter, right, target, end),
                _ => store_rows::<VECTORS, VECTORS>(products, quarter, right, target, end),
            }
        }
    }

    /// The same for a target of `WANTED` vectors.
    ///
    /// # Safety
    /// As [`store`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn store_rows<const VECTORS: usize, const WANTED: usize>(
        products: *const f32,
        quarter: Quarter,
        right: bool,
        target: &Target,
        end: Option<&End<'_>>,
    ) {
        let mask = within(((WANTED - 1) * LANES) as isize, target.columns);
        let mut biases = end.map_or([_mm512_setzero_ps(); WANTED], |end| biases_of(end, mask));
        for row in 0..target.rows {
            let mut sums = [_mm512_setzero_ps(); WANTED];
            for (vector, sum) in sums.iter_mut().enumerate() {
                // SAFETY: by this function's contract.
                *sum = unsafe {
                    let at = products.add((row * VECTORS + vector) * LANES);
                    quarter_of::<VECTORS>(at, quarter, right)
                };
                if target.resumed {
                    // SAFETY: what the mask leaves out is not read.
                    let before = unsafe {
                        let at = target.start.add(row * target.pitch + vector * LANES);
                        _mm512_maskz_loadu_ps(lanes::<WANTED>(vector, mask), at)
                    };
                    *sum = _mm512_add_ps(before, *sum);
                }
            }
            let Some(end) = end else {
                for (vector, sum) in sums.into_iter().enumerate() {
                    // SAFETY: rows and columns of the target.
                    unsafe {
                        let at = target.start.add(row * target.pitch + vector * LANES);
                        _mm512_mask_storeu_ps(at, lanes::<WANTED>(vector, mask), sum);
                    }
                }
                continue;
            };
            if let Bias::Rows(bias) = end.bias {
                biases = [_mm512_set1_ps(bias[row]); WANTED];
            }
            // SAFETY: rows and columns of the target, and of what is added.
            unsafe { row_of(sums, &biases, end, (target, row), mask) };
        }
    }

    /// A vector of a quarter's sums, which lies in all products at the same place.
    ///
    /// # Safety
    /// Products of [`ROWS`] rows of `VECTORS` vectors follow each other.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn quarter_of<const VECTORS: usize>(
        at: *const f32,
        quarter: Quarter,
        right: bool,
    ) -> __m512 {
        let size = ROWS * VECTORS * LANES;
        // SAFETY: by this function's contract.
        unsafe {
            match quarter {
                Quarter::UpperLeft => {
                    let mut sum =
                        _mm512_add_ps(_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(3 * size)));
                    if right {
                        sum = _mm512_sub_ps(sum, _mm512_loadu_ps(at.add(4 * size)));
                    }
                    _mm512_add_ps(sum, _mm512_loadu_ps(at.add(6 * size)))
                }
                Quarter::UpperRight => _mm512_add_ps(
                    _mm512_loadu_ps(at.add(2 * size)),
                    _mm512_loadu_ps(at.add(4 * size)),
                ),
                Quarter::LowerLeft => _mm512_add_ps(
                    _mm512_loadu_ps(at.add(size)),
                    _mm512_loadu_ps(at.add(3 * size)),
                ),
                Quarter::LowerRight => {
                    let sum = _mm512_sub_ps(_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(size)));
                    let sum = _mm512_add_ps(sum, _mm512_loadu_ps(at.add(2 * size)));
                    _mm512_add_ps(sum, _mm512_loadu_ps(at.add(5 * size)))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::finish::{Bias, Finish};
    use super::super::lanes::made_up_numbers;
    use super::*;
    use crate::ops::Activation;
    use crate::ops::cpu::simd;

    /// Products of weights with the columns of `values`, `[input, columns]`, packed part by part; `begun` are sums that
    /// they go on from, one number is added in the end.
    fn products(weights: &Weights, values: &[f32], columns: usize, begun: f32) -> Vec<f32> {
        let (mut room, bias) = (Room::default(), vec![0.25; weights.output + ROWS]);
        let mut output = vec![begun; weights.output * columns];
        let wanted = Columns::of(columns);
        for part in 0..weights.parts() {
            let rows = &values[weights.channels(part).start * columns..];
            let rows = rows[..weights.channels(part).len() * columns].chunks_exact(columns);
            weights.pack(wanted, |take| rows.for_each(take), &mut room);
            for block in 0..weights.blocks() {
                let [upper, lower] = weights.rows(block);
                let places = [
                    (upper, 0),
                    (upper, wanted.left),
                    (lower, 0),
                    (lower, wanted.left),
                ];
                let outputs = places.map(|(row, column)| {
                    let target = Target {
                        start: output.as_mut_ptr().wrapping_add(row * columns + column),
                        pitch: columns,
                        rows: ROWS.min(weights.output.saturating_sub(row)),
                        columns: if column == 0 {
                            wanted.left
                        } else {
                            wanted.right
                        },
                        resumed: true,
                    };
                    let end = End {
                        bias: Bias::Rows(&bias),
                        finish: Finish::new(Activation::Identity),
                        added: None,
                        relu: false,
                    };
                    (target, (part + 1 == weights.parts()).then_some(end))
                });
                weights.multiply(part, block, &mut room, &outputs, &[]);
                // SAFETY: rows and columns of the output.
                unsafe { room.store(&outputs) };
            }
        }
        output
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        // Each product is off by what `fixed` promises, half a unit a number, in terms of the norms of what is
        // multiplied; those of sums are no more than the sums of the norms, and four products meet in a sum at most.
        #[test]
        fn sums_are_those_of_the_plain_product(
            input in 1_usize..1300, output in 1_usize..50, columns in 1_usize..=96, seed in 0_u32..1000,
        ) {
            if !fixed::available(simd::level()) {
                return Ok(());
            }
            let weight = made_up_numbers(output * input, seed);
            let values = made_up_numbers(input * columns, seed + 1);
            let weights = Weights::new(&weight, input);
            let found = products(&weights, &values, columns, 0.5);
            let norm = |numbers: &mut dyn Iterator<Item = f32>| {
                numbers.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
            };
            let rows = weight.chunks_exact(input).map(|row| norm(&mut row.iter().copied()));
            let of_column = |column: usize| values[column..].iter().step_by(columns).copied();
            let largest = (0..columns).map(|column| norm(&mut of_column(column)));
            let norms = 2.0 * rows.fold(0.0, f64::max) * 2.0 * largest.fold(0.0, f64::max);
            let bound = 4.0 * 1.01 * (input as f64).sqrt() / f64::from(fixed::COLUMN_NORM) * norms;
            for (row, numbers) in weight.chunks_exact(input).enumerate() {
                for column in 0..columns {
                    let pairs = numbers.iter().zip(of_column(column));
                    let sum: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(b)).sum();
                    let off = (f64::from(found[row * columns + column]) - sum - 0.75).abs();
                    prop_assert!(off <= bound + 1e-5, "off by {off}, not {bound}");
                }
            }
        }
    }

    // A seventh of the products is saved where columns fill vectors, whatever the size of the image.
    #[test]
    fn shares_are_even_and_of_whole_vectors() {
        for (all, together) in [
            (1600, 96),
            (400, 96),
            (128, 64),
            (96, 96),
            (100, 64),
            (7, 32),
        ] {
            assert_eq!(Columns::together(all), together, "of {all}");
        }
        for count in 1..=Columns::MOST {
            let Columns { left, right } = Columns::of(count);
            assert!(left + right == count && right <= left && left <= COLUMNS);
            assert!(right == 0 || left.is_multiple_of(LANES));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        if !fixed::available(simd::level()) {
            return;
        }
        let (input, output, columns) = (40, 20, 50);
        let weights = Weights::new(&made_up_numbers(output * input, 1), input);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = made_up_numbers(input * columns, 2);
            values[3 * columns + 5] = bad;
            let found = products(&weights, &values, columns, 0.0);
            for row in found.chunks_exact(columns) {
                assert!(!row[5].is_finite(), "{bad} became {}", row[5]);
                // Columns are multiplied together with one other each, here the 32nd after it.
                assert!(row[6..32].iter().all(|x| x.is_finite()));
            }
        }
    }
}
