//! The transforms of [`super::winograd`], sixteen tiles at a time.

#![allow(unsafe_code)] // vector instructions

use super::block::COLUMNS;
use super::winograd::{SIDE, TILE};

const LANES: usize = 16;

/// Numbers of a row of inputs: those of a panel's tiles, and what full vectors read beyond.
const ROW: usize = COLUMNS * TILE + 2 * LANES * TILE;

/// Tiles with one more, and what full vectors write beyond.
const COLUMN: usize = COLUMNS + 2 * LANES;

/// Room for the transform of one channel's neighbouring tiles.
pub struct Scratch {
    /// The input rows of the tiles, with what pads them.
    pub rows: [[f32; ROW]; SIDE],
    /// One transformed row by residue: every fourth number from 0, 1, 2, 3 on.
    residues: [[f32; COLUMN]; TILE],
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            rows: [[0.0; ROW]; SIDE],
            residues: [[0.0; COLUMN]; TILE],
        }
    }
}

/// Bᵀ · tile · B of the `count` tiles in `scratch`: number `i` of tile `t` goes to
/// `target[i * pitch + t]`.
///
/// # Panics
/// If `count` is more than a panel has, or `target` is too short.
pub fn input(scratch: &mut Scratch, target: &mut [f32], pitch: usize, count: usize) {
    assert!(count <= COLUMNS && target.len() >= (SIDE * SIDE - 1) * pitch + count);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: AVX-512 was asked for before any weights were made for this; lengths as asserted.
    unsafe {
        x86::input(scratch, target, pitch, count);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!(
        "there are no vectors for this machine: {}",
        scratch.rows.len()
    );
}

/// Aᵀ · tile · A of a panel: `products` by position, `lines` the four rows of all tiles.
pub fn output(
    products: &[&[f32; COLUMNS]; SIDE * SIDE],
    lines: &mut [[f32; COLUMNS * TILE]; TILE],
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        x86::output(products, lines);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("there are no vectors for this machine: {products:?} {lines:?}");
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_castps512_ps256, _mm512_fmadd_ps, _mm512_fnmadd_ps,
        _mm512_insertf32x8, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_permutex2var_ps,
        _mm512_set1_ps, _mm512_setr_epi32, _mm512_storeu_ps, _mm512_sub_ps,
    };

    use super::{COLUMNS, LANES, SIDE, Scratch, TILE};

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

    /// # Safety
    /// As [`super::input`] asserts.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub unsafe fn input(scratch: &mut Scratch, target: &mut [f32], pitch: usize, count: usize) {
        let numbers = count * TILE + 2;
        for at in (0..numbers).step_by(LANES) {
            // SAFETY: rows have room for full vectors beyond a panel's numbers.
            unsafe {
                let d =
                    std::array::from_fn(|row| _mm512_loadu_ps(scratch.rows[row].as_ptr().add(at)));
                for (row, value) in scratch.rows.iter_mut().zip(six(d)) {
                    _mm512_storeu_ps(row.as_mut_ptr().add(at), value);
                }
            }
        }
        for row in 0..SIDE {
            split(scratch, row, count);
            for at in (0..count).step_by(LANES) {
                let left = count - at;
                let mask = if left >= LANES {
                    u16::MAX
                } else {
                    (1 << left) - 1
                };
                let residue = |index: usize, at: usize| {
                    // SAFETY: residues have room for full vectors beyond a panel's tiles.
                    unsafe { _mm512_loadu_ps(scratch.residues[index].as_ptr().add(at)) }
                };
                let d = [
                    residue(0, at),
                    residue(1, at),
                    residue(2, at),
                    residue(3, at),
                    residue(0, at + 1),
                    residue(1, at + 1),
                ];
                for (column, value) in six(d).into_iter().enumerate() {
                    let start = (row * SIDE + column) * pitch + at;
                    // SAFETY: `target` holds `count` numbers of every position, the mask leaves
                    // out what is beyond.
                    unsafe {
                        _mm512_mask_storeu_ps(target.as_mut_ptr().add(start), mask, value);
                    }
                }
            }
        }
    }

    /// Every fourth number of a row, from 0, 1, 2 and 3 on, for `count` tiles and one more.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn split(scratch: &mut Scratch, row: usize, count: usize) {
        let first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
        for at in (0..=count).step_by(LANES) {
            // SAFETY: rows and residues have room for full vectors beyond a panel's tiles.
            unsafe {
                let source = scratch.rows[row].as_ptr().add(at * TILE);
                let parts: [__m512; TILE] =
                    std::array::from_fn(|part| _mm512_loadu_ps(source.add(part * LANES)));
                for (residue, target) in scratch.residues.iter_mut().enumerate() {
                    let step = std::arch::x86_64::_mm512_set1_epi32(residue as i32);
                    let index = std::arch::x86_64::_mm512_add_epi32(first, step);
                    let low = _mm512_permutex2var_ps(parts[0], index, parts[1]);
                    let high = _mm512_permutex2var_ps(parts[2], index, parts[3]);
                    let both = _mm512_insertf32x8::<1>(low, _mm512_castps512_ps256(high));
                    _mm512_storeu_ps(target.as_mut_ptr().add(at), both);
                }
            }
        }
    }

    /// # Safety
    /// The machine has the features.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub unsafe fn output(
        products: &[&[f32; COLUMNS]; SIDE * SIDE],
        lines: &mut [[f32; COLUMNS * TILE]; TILE],
    ) {
        for at in (0..COLUMNS).step_by(LANES) {
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
