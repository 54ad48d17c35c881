//! The transforms of [`super::winograd`]: sixteen tiles at a time by AVX-512, in plain loops for others.

#![allow(unsafe_code)] // vector instructions

use super::block::COLUMNS;
use super::simd::Level;
use super::winograd::{SIDE, TILE};

mod plain;

const LANES: usize = 16;

/// Numbers of a row of inputs: those of all tiles, and what full vectors write beyond.
const ROW: usize = (COLUMNS + LANES) * TILE;

/// Neighbouring tiles of one row of tiles.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Image of the batch.
    pub image: usize,
    /// Row of tiles.
    pub row: usize,
    /// First tile in it.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// Place of the first one in the panel.
    pub lane: usize,
}

/// The tiles of a panel.
#[derive(Default)]
pub struct Tiles {
    segments: Vec<Segment>,
    /// Tiles that end a segment, by vector: what they see of the next tile lies elsewhere.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // for AVX-512 alone
    ends: [u16; COLUMNS / LANES],
    lanes: usize,
}

impl Tiles {
    /// `count` tiles from `first` on, at most [`COLUMNS`], counted through images of `rows` times
    /// `columns` tiles.
    pub fn set(&mut self, first: usize, count: usize, rows: usize, columns: usize) {
        assert!(count <= COLUMNS);
        self.segments.clear();
        let mut done = 0;
        while done < count {
            let (row, column) = ((first + done) / columns, (first + done) % columns);
            let here = (columns - column).min(count - done);
            self.segments.push(Segment {
                image: row / rows,
                row: row % rows,
                first: column,
                count: here,
                lane: done,
            });
            done += here;
        }
        self.lanes = count;
        self.ends = Default::default();
        for segment in &self.segments {
            let last = segment.lane + segment.count - 1;
            self.ends[last / LANES] |= 1 << (last % LANES);
        }
    }

    /// In the panel's order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// How many tiles.
    pub fn lanes(&self) -> usize {
        self.lanes
    }
}

/// Channels of a batch of images.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// `[batch, channels, height, width]`.
    pub data: &'a [f32],
    /// How many an image has.
    pub channels: usize,
    /// Rows and columns.
    pub height: usize,
    pub width: usize,
    /// Zeros around them.
    pub padding: usize,
}

/// Room for the transform of one channel: the numbers of all tiles, transformed along columns.
pub struct Scratch {
    /// Four columns of each tile, a tile after the other.
    rows: [[f32; ROW]; SIDE],
    /// The last two columns of the tiles that end segments.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // for AVX-512 alone
    last: [[[f32; COLUMNS + LANES]; SIDE - TILE]; SIDE],
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            rows: [[0.0; ROW]; SIDE],
            last: [[[0.0; COLUMNS + LANES]; SIDE - TILE]; SIDE],
        }
    }
}

/// Bᵀ · tile · B of all tiles in one channel: number `i` of tile `t` goes to `target[i * pitch + t]`;
/// up to a vector beyond the last tile is overwritten. The machine has the units of `level`.
///
/// # Panics
/// If `target` is too short or `images` do not have these tiles.
pub fn input(
    scratch: &mut Scratch,
    tiles: &Tiles,
    images: Images<'_>,
    channel: usize,
    target: &mut [f32],
    pitch: usize,
    level: Level,
) {
    assert!(target.len() >= (SIDE * SIDE - 1) * pitch + tiles.lanes + LANES);
    let last = tiles.segments.iter().map(|segment| segment.image).max();
    let planes = last.map_or(0, |last| last * images.channels + channel + 1);
    assert!(channel < images.channels && images.padding <= 2);
    assert!(images.data.len() >= planes * images.height * images.width);
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        // SAFETY: the machine has AVX-512; lengths as asserted.
        return unsafe { x86::input(scratch, tiles, images, channel, target, pitch) };
    }
    let _: Level = level;
    plain::input(scratch, tiles, images, channel, target, pitch);
}

/// Aᵀ · tile · A of the first `lanes` tiles of a panel: `products` by position, `lines` the four rows
/// of all tiles.
///
/// # Panics
/// If products are too short, as vectors are read, or lanes are more than [`COLUMNS`].
pub fn output(
    products: &[&[f32]; SIDE * SIDE],
    lanes: usize,
    lines: &mut [[f32; COLUMNS * TILE]; TILE],
    level: Level,
) {
    let read = lanes.next_multiple_of(LANES);
    assert!(lanes <= COLUMNS && products.iter().all(|row| row.len() >= read));
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        // SAFETY: as above.
        return unsafe { x86::output(products, lanes, lines) };
    }
    let _: Level = level;
    plain::output(products, lanes, lines);
}

/// Copies numbers, plus as many of `added`: a few at a time, without a call of the C library for each. With
/// `relu` what is then below zero becomes zero. Lines `ahead` numbers after those that are written are
/// asked for.
///
/// # Safety
/// As many may be written.
pub unsafe fn copy(
    from: &[f32],
    added: Option<&[f32]>,
    relu: bool,
    to: *mut f32,
    ahead: usize,
    level: Level,
) {
    assert!(added.is_none_or(|added| added.len() == from.len()));
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        let added = added.map(<[f32]>::as_ptr);
        // SAFETY: by this function's contract; the machine has AVX-512.
        return unsafe { x86::copy(from.as_ptr(), added, relu, to, from.len(), ahead) };
    }
    let _: (usize, Level) = (ahead, level);
    // SAFETY: by this function's contract; room needs to hold no numbers.
    unsafe {
        match added {
            Some(added) => {
                let to = std::slice::from_raw_parts_mut(to.cast(), from.len());
                plain::add(to, from, added, relu);
            }
            None => std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi32, _mm512_add_ps, _mm512_alignr_epi32,
        _mm512_castps_si512, _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_fmadd_ps,
        _mm512_fnmadd_ps, _mm512_insertf32x8, _mm512_loadu_ps, _mm512_mask_expand_ps,
        _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_permutex2var_ps,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_storeu_ps, _mm512_sub_ps,
    };

    use super::super::simd::within;
    use super::{COLUMNS, Images, LANES, ROW, SIDE, Scratch, TILE, Tiles};

    /// Bᵀ · d.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn six(d: [__m512; SIDE]) -> [__m512; SIDE] {
        let two = _mm512_set1_ps(2.0);
        let four = _mm512_set1_ps(4.0);
        let five = _mm512_set1_ps(5.0);
        // 4 d0 − 5 d2 + d4 and its like for the odd ones.
        let even = _mm512_fnmadd_ps(five, d[2], _mm512_fmadd_ps(four, d[0], d[4]));
        let odd = _mm512_fnmadd_ps(five, d[3], _mm512_fmadd_ps(four, d[1], d[5]));
        // d4 − 4 d2 ± (d3 − 4 d1)
        let a = _mm512_fnmadd_ps(four, d[2], d[4]);
        let b = _mm512_fnmadd_ps(four, d[1], d[3]);
        // d4 − d2 ± 2 (d3 − d1)
        let e = _mm512_sub_ps(d[4], d[2]);
        let f = _mm512_sub_ps(d[3], d[1]);
        [
            even,
            _mm512_add_ps(a, b),
            _mm512_sub_ps(a, b),
            _mm512_fmadd_ps(two, f, e),
            _mm512_fnmadd_ps(two, f, e),
            odd,
        ]
    }

    /// Aᵀ · m.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn four(m: [__m512; SIDE]) -> [__m512; TILE] {
        let a = _mm512_add_ps(m[1], m[2]);
        let b = _mm512_sub_ps(m[1], m[2]);
        let c = _mm512_add_ps(m[3], m[4]);
        let d = _mm512_sub_ps(m[3], m[4]);
        [
            _mm512_add_ps(_mm512_add_ps(m[0], a), c),
            _mm512_fmadd_ps(_mm512_set1_ps(2.0), d, b),
            _mm512_fmadd_ps(_mm512_set1_ps(4.0), c, a),
            _mm512_add_ps(_mm512_fmadd_ps(_mm512_set1_ps(8.0), d, b), m[5]),
        ]
    }

    /// Bᵀ · the inputs of all tiles of a channel, a segment after the other.
    ///
    /// # Safety
    /// As [`super::input`] asserts.
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn columns(scratch: &mut Scratch, tiles: &Tiles, images: Images<'_>, channel: usize) {
        let (height, width) = (images.height, images.width);
        for (index, segment) in tiles.segments.iter().enumerate() {
            let plane = (segment.image * images.channels + channel) * height * width;
            let first = (segment.first * TILE) as isize - images.padding as isize;
            // Six rows of sixteen columns, with what pads them.
            let read = |at: usize| {
                let column = first + at as isize;
                let mask = within(column, width);
                let rows: [__m512; SIDE] = std::array::from_fn(|row| {
                    let y = (segment.row * TILE + row).wrapping_sub(images.padding);
                    let mask = if y < height { mask } else { 0 };
                    let start = plane.wrapping_add(y.wrapping_mul(width));
                    let source = images.data.as_ptr().wrapping_add(start);
                    let source = source.wrapping_offset(column);
                    // The same place two channels on, far from here.
                    let ahead = source.wrapping_add(2 * height * width);
                    // SAFETY: a prefetch does not fault; what the mask leaves out is not read.
                    unsafe {
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                        _mm512_maskz_loadu_ps(mask, source)
                    }
                });
                six(rows)
            };
            let end = segment.count * TILE;
            for at in (0..end).step_by(LANES) {
                for (row, numbers) in scratch.rows.iter_mut().zip(read(at)) {
                    let target = row[segment.lane * TILE + at..][..LANES].as_mut_ptr();
                    // SAFETY: there is room for a vector. What is beyond the segment is the next one's.
                    unsafe { _mm512_storeu_ps(target, numbers) };
                }
            }
            for (last, numbers) in scratch.last.iter_mut().zip(read(end)) {
                let [fifth, sixth] = last
                    .each_mut()
                    .map(|last| last[index..][..LANES].as_mut_ptr());
                // SAFETY: as above.
                unsafe {
                    _mm512_storeu_ps(fifth, numbers);
                    _mm512_storeu_ps(sixth, one_on(numbers, numbers));
                }
            }
        }
    }

    /// # Safety
    /// As [`super::input`] asserts.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub unsafe fn input(
        scratch: &mut Scratch,
        tiles: &Tiles,
        images: Images<'_>,
        channel: usize,
        target: &mut [f32],
        pitch: usize,
    ) {
        // SAFETY: by this function's contract.
        unsafe { columns(scratch, tiles, images, channel) };
        for (row, (numbers, last)) in scratch.rows.iter().zip(&scratch.last).enumerate() {
            let mut segment = 0;
            let mut here = residues(numbers, 0);
            let vectors = tiles.lanes.div_ceil(LANES);
            for (vector, ends) in tiles.ends[..vectors].iter().enumerate() {
                // The panel's last tile ends a segment.
                let next = if vector + 1 < vectors {
                    residues(numbers, vector + 1)
                } else {
                    here
                };
                let beyond: [__m512; SIDE - TILE] = std::array::from_fn(|column| {
                    let last = last[column][segment..][..LANES].as_ptr();
                    // SAFETY: there are as many numbers.
                    let last = unsafe { _mm512_loadu_ps(last) };
                    _mm512_mask_expand_ps(one_on(here[column], next[column]), *ends, last)
                });
                segment += ends.count_ones() as usize;
                let d = [here[0], here[1], here[2], here[3], beyond[0], beyond[1]];
                here = next;
                for (column, value) in six(d).into_iter().enumerate() {
                    let start = (row * SIDE + column) * pitch + vector * LANES;
                    // SAFETY: `target` has room for a vector beyond the last tile.
                    unsafe { _mm512_storeu_ps(target.as_mut_ptr().add(start), value) };
                }
            }
        }
    }

    /// # Safety
    /// As [`super::copy`].
    #[target_feature(enable = "avx512f")]
    pub unsafe fn copy(
        from: *const f32,
        added: Option<*const f32>,
        relu: bool,
        to: *mut f32,
        count: usize,
        ahead: usize,
    ) {
        let least = _mm512_set1_ps(if relu { 0.0 } else { f32::NEG_INFINITY });
        for at in (0..count).step_by(LANES) {
            let mask = u16::MAX >> (LANES - LANES.min(count - at));
            // SAFETY: by this function's contract; what the mask leaves out is not touched.
            unsafe {
                let mut numbers = _mm512_maskz_loadu_ps(mask, from.add(at));
                if let Some(added) = added {
                    numbers = _mm512_add_ps(numbers, _mm512_maskz_loadu_ps(mask, added.add(at)));
                    // Of a number that is none the second argument is given back.
                    numbers = _mm512_max_ps(least, numbers);
                }
                _mm_prefetch::<_MM_HINT_T0>(to.wrapping_add(at + ahead).cast());
                _mm512_mask_storeu_ps(to.add(at), mask, numbers);
            }
        }
    }

    /// The numbers of sixteen slots by residue: every fourth one from 0, 1, 2 and 3 on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn residues(row: &[f32; ROW], vector: usize) -> [__m512; TILE] {
        let first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
        let row = &row[vector * LANES * TILE..(vector + 1) * LANES * TILE];
        // SAFETY: there are as many numbers as four vectors have.
        let parts: [__m512; TILE] =
            std::array::from_fn(|part| unsafe { _mm512_loadu_ps(row.as_ptr().add(part * LANES)) });
        std::array::from_fn(|residue| {
            let index = _mm512_add_epi32(first, _mm512_set1_epi32(residue as i32));
            let low = _mm512_permutex2var_ps(parts[0], index, parts[1]);
            let high = _mm512_permutex2var_ps(parts[2], index, parts[3]);
            _mm512_insertf32x8::<1>(low, _mm512_castps512_ps256(high))
        })
    }

    /// Fifteen numbers from the second one on, and the first of `next`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn one_on(here: __m512, next: __m512) -> __m512 {
        let (here, next) = (_mm512_castps_si512(here), _mm512_castps_si512(next));
        _mm512_castsi512_ps(_mm512_alignr_epi32::<1>(next, here))
    }

    /// # Safety
    /// The machine has the features.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub unsafe fn output(
        products: &[&[f32]; SIDE * SIDE],
        lanes: usize,
        lines: &mut [[f32; COLUMNS * TILE]; TILE],
    ) {
        for at in (0..lanes).step_by(LANES) {
            let mut halves = [[_mm512_set1_ps(0.0); SIDE]; TILE];
            for column in 0..SIDE {
                // SAFETY: `at` is a vector's start within COLUMNS numbers.
                let m = std::array::from_fn(|row| unsafe {
                    _mm512_loadu_ps(products[row * SIDE + column].as_ptr().add(at))
                });
                for (half, value) in halves.iter_mut().zip(four(m)) {
                    half[column] = value;
                }
            }
            for (line, half) in lines.iter_mut().zip(halves) {
                join(&mut line[at * TILE..(at + LANES) * TILE], four(half));
            }
        }
    }

    /// The first numbers of all four, then the second, and so on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn join(line: &mut [f32], columns: [__m512; TILE]) {
        // Of two vectors one number each in turn, first those of the lower halves.
        let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        // The same of pairs.
        let low_pairs = _mm512_setr_epi32(0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
        let high_pairs =
            _mm512_setr_epi32(8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31);
        let [a, b, c, d] = columns;
        let mut chunks = line.chunks_exact_mut(LANES);
        for half in [low, high] {
            let left = _mm512_permutex2var_ps(a, half, b);
            let right = _mm512_permutex2var_ps(c, half, d);
            for pairs in [low_pairs, high_pairs] {
                let joined = _mm512_permutex2var_ps(left, pairs, right);
                if let Some(chunk) = chunks.next() {
                    // SAFETY: the chunk holds LANES numbers.
                    unsafe { _mm512_storeu_ps(chunk.as_mut_ptr(), joined) };
                }
            }
        }
    }
}
