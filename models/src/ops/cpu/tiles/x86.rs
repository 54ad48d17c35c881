//! The transforms by AVX-512, sixteen tiles at a time.

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi32, _mm512_add_ps, _mm512_alignr_epi32,
    _mm512_castps_si512, _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_fmadd_ps,
    _mm512_fnmadd_ps, _mm512_insertf32x8, _mm512_loadu_ps, _mm512_mask_expand_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_permutex2var_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setr_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

use super::super::simd::within;
use super::{COLUMNS, Images, LANES, ROW, SEEN, SIDE, Scratch, Segment, TILE, Tiles};

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

/// Bᵀ · d at stride 2 for the points 0, 1, −1 and 2.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn four_points(d: [__m512; TILE]) -> [__m512; TILE] {
    let two = _mm512_set1_ps(2.0);
    let three = _mm512_set1_ps(3.0);
    let t = _mm512_sub_ps(d[3], d[1]);
    [
        _mm512_fmadd_ps(two, _mm512_sub_ps(d[0], d[2]), t),
        _mm512_sub_ps(t, _mm512_add_ps(d[1], d[2])),
        _mm512_fmadd_ps(three, _mm512_sub_ps(d[1], d[2]), t),
        t,
    ]
}

/// Bᵀ · d at stride 2, of even rows and odd ones in turn.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn both_halves(d: [__m512; SEEN]) -> [__m512; SEEN] {
    let [a, b, c, t] = four_points([d[0], d[2], d[4], d[6]]);
    let [p, q, r, s] = four_points([d[1], d[3], d[5], d[7]]);
    let infinity = _mm512_fnmadd_ps(_mm512_set1_ps(2.0), t, _mm512_sub_ps(d[8], d[4]));
    [a, p, b, q, c, r, t, s, infinity]
}

/// Aᵀ · m. With five products the one of the point −2 is left out.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn four<const COUNT: usize>(m: [__m512; COUNT]) -> [__m512; TILE] {
    let a = _mm512_add_ps(m[1], m[2]);
    let b = _mm512_sub_ps(m[1], m[2]);
    let (c, d) = if COUNT == SIDE {
        (_mm512_add_ps(m[3], m[4]), _mm512_sub_ps(m[3], m[4]))
    } else {
        (m[3], m[3])
    };
    [
        _mm512_add_ps(_mm512_add_ps(m[0], a), c),
        _mm512_fmadd_ps(_mm512_set1_ps(2.0), d, b),
        _mm512_fmadd_ps(_mm512_set1_ps(4.0), c, a),
        _mm512_add_ps(_mm512_fmadd_ps(_mm512_set1_ps(8.0), d, b), m[COUNT - 1]),
    ]
}

/// `COUNT` rows of sixteen columns of an image, as a segment of tiles sees them from its column `at` on,
/// with what pads them.
///
/// # Safety
/// As [`super::input`] asserts.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn read<const COUNT: usize>(
    images: Images<'_>,
    channel: usize,
    segment: &Segment,
    step: usize,
    at: usize,
) -> [__m512; COUNT] {
    let (height, width) = (images.height, images.width);
    let plane = (segment.image * images.channels + channel) * height * width;
    let column = (segment.first * step + at) as isize - images.padding as isize;
    let mask = within(column, width);
    std::array::from_fn(|row| {
        let y = (segment.row * step + row).wrapping_sub(images.padding);
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
    })
}

/// Transforms all tiles along columns, which are `step` apart from one tile to the next.
///
/// # Safety
/// As [`super::input`] asserts.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn by_columns<const COUNT: usize>(
    scratch: &mut Scratch,
    tiles: &Tiles,
    images: Images<'_>,
    channel: usize,
    step: usize,
    transform: impl Fn([__m512; COUNT]) -> [__m512; COUNT],
) {
    for (index, segment) in tiles.segments.iter().enumerate() {
        // SAFETY: by this function's contract.
        let read = |at| unsafe { transform(read(images, channel, segment, step, at)) };
        let end = segment.count * step;
        for at in (0..end).step_by(LANES) {
            for (row, numbers) in scratch.rows.iter_mut().zip(read(at)) {
                let target = row[segment.lane * step + at..][..LANES].as_mut_ptr();
                // SAFETY: there is room for a vector. What is beyond the segment is the next one's.
                unsafe { _mm512_storeu_ps(target, numbers) };
            }
        }
        for (last, numbers) in scratch.last.iter_mut().zip(read(end)) {
            let [first, second] = last
                .each_mut()
                .map(|last| last[index..][..LANES].as_mut_ptr());
            // SAFETY: as above.
            unsafe {
                _mm512_storeu_ps(first, numbers);
                // At stride 2 tiles share one column.
                if COUNT == SIDE {
                    _mm512_storeu_ps(second, one_on(numbers, numbers));
                }
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
    places: &[usize],
) {
    // SAFETY: by this function's contract.
    unsafe { by_columns(scratch, tiles, images, channel, TILE, |d| six(d)) };
    let places = places.chunks_exact(SIDE);
    for ((numbers, last), places) in scratch.rows.iter().zip(&scratch.last).zip(places) {
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
            for (place, value) in places.iter().zip(six(d)) {
                // SAFETY: `target` has room for a vector beyond the last tile.
                unsafe { _mm512_storeu_ps(target.as_mut_ptr().add(place + vector * LANES), value) };
            }
        }
    }
}

/// The same at stride 2.
///
/// # Safety
/// As [`super::input`] asserts.
#[target_feature(enable = "avx512f,avx512dq")]
pub unsafe fn halves(
    scratch: &mut Scratch,
    tiles: &Tiles,
    images: Images<'_>,
    channel: usize,
    target: &mut [f32],
    places: &[usize],
) {
    // SAFETY: by this function's contract.
    unsafe {
        by_columns(scratch, tiles, images, channel, 2 * TILE, |d| {
            both_halves(d)
        });
    }
    let places = places.chunks_exact(SEEN);
    for ((numbers, [last, _]), places) in scratch.rows.iter().zip(&scratch.last).zip(places) {
        let mut segment = 0;
        let mut here = half_residues(numbers, 0);
        let vectors = tiles.lanes.div_ceil(LANES);
        for (vector, ends) in tiles.ends[..vectors].iter().enumerate() {
            let next = if vector + 1 < vectors {
                half_residues(numbers, vector + 1)
            } else {
                here
            };
            // SAFETY: there are as many numbers.
            let last = unsafe { _mm512_loadu_ps(last[segment..][..LANES].as_ptr()) };
            let beyond = _mm512_mask_expand_ps(one_on(here[0], next[0]), *ends, last);
            segment += ends.count_ones() as usize;
            let [a, b, c, d, e, f, g, h] = here;
            here = next;
            let lanes = (tiles.lanes - vector * LANES).min(LANES);
            let mask = u16::MAX >> (LANES - lanes);
            for (place, value) in places
                .iter()
                .zip(both_halves([a, b, c, d, e, f, g, h, beyond]))
            {
                // What is beyond the last tile may be another term's first one.
                // SAFETY: `target` has room for all tiles.
                unsafe {
                    let target = target.as_mut_ptr().add(place + vector * LANES);
                    _mm512_mask_storeu_ps(target, mask, value);
                }
            }
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

/// The same of every eighth number.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn half_residues(row: &[f32; ROW], vector: usize) -> [__m512; 2 * TILE] {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    let split = |a, b| {
        [
            _mm512_permutex2var_ps(a, even, b),
            _mm512_permutex2var_ps(a, odd, b),
        ]
    };
    let row = &row[vector * LANES * 2 * TILE..(vector + 1) * LANES * 2 * TILE];
    // SAFETY: there are as many numbers as eight vectors have.
    let read = |part: usize| unsafe { _mm512_loadu_ps(row.as_ptr().add(part * LANES)) };
    // Numbers of 32 slots: every second one, every fourth one, every eighth one.
    let twos: [[__m512; 2]; 4] = std::array::from_fn(|at| split(read(2 * at), read(2 * at + 1)));
    let four = |at: usize, residue: usize| split(twos[at][residue], twos[at + 1][residue]);
    let eight = |residue: usize| {
        let (low, high) = (four(0, residue), four(2, residue));
        [split(low[0], high[0]), split(low[1], high[1])]
    };
    let ([[a, e], [c, g]], [[b, f], [d, h]]) = (eight(0), eight(1));
    [a, b, c, d, e, f, g, h]
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
pub unsafe fn output<const COUNT: usize>(
    products: &[&[f32]],
    lanes: usize,
    lines: &mut [[f32; COLUMNS * TILE]; TILE],
) {
    let products = &products[..COUNT * COUNT];
    for at in (0..lanes).step_by(LANES) {
        let mut halves = [[_mm512_set1_ps(0.0); COUNT]; TILE];
        for column in 0..COUNT {
            // SAFETY: `at` is a vector's start within COLUMNS numbers.
            let m: [__m512; COUNT] = std::array::from_fn(|row| unsafe {
                _mm512_loadu_ps(products[row * COUNT + column].as_ptr().add(at))
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
