//! Squares of 16 × 16 numbers, turned in registers.

#![allow(unsafe_code)] // vector instructions

/// Numbers along a side.
pub const SIDE: usize = 16;

/// Writes `[columns, target_pitch]` from `[rows, pitch]`: rows become columns. Other numbers of the target
/// stay as they are.
///
/// # Panics
/// If a side is too short.
pub fn transpose(
    source: &[f32],
    pitch: usize,
    (rows, columns): (usize, usize),
    target: &mut [f32],
    target_pitch: usize,
) {
    if rows * columns == 0 {
        return;
    }
    assert!(pitch >= columns && target_pitch >= rows);
    assert!(source.len() >= (rows - 1) * pitch + columns);
    assert!(target.len() >= (columns - 1) * target_pitch + rows);
    #[cfg(target_arch = "x86_64")]
    if super::simd::level() == super::simd::Level::Avx512 && rows.min(columns) >= SIDE {
        for row in starts(rows) {
            for column in starts(columns) {
                // SAFETY: the machine has the instructions; a square within both sides.
                unsafe {
                    let source = source.as_ptr().add(row * pitch + column);
                    let target = target.as_mut_ptr().add(column * target_pitch + row);
                    x86::transpose(source, pitch, SIDE, target, target_pitch);
                }
            }
        }
        return;
    }
    for first in (0..rows).step_by(SIDE) {
        let end = (first + SIDE).min(rows);
        for column in 0..columns {
            let target = &mut target[column * target_pitch..][first..end];
            for (number, row) in target.iter_mut().zip(first..) {
                *number = source[row * pitch + column];
            }
        }
    }
}

/// Where squares begin along a side that is no shorter than one: the last one may cover some of the one
/// before again.
#[cfg(target_arch = "x86_64")]
fn starts(side: usize) -> impl Iterator<Item = usize> {
    (0..side)
        .step_by(SIDE)
        .map(move |start| start.min(side - SIDE))
}

/// By AVX-512.
#[cfg(target_arch = "x86_64")]
pub mod x86 {
    use std::arch::x86_64::{
        __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_setzero_ps,
        _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
        _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    use super::SIDE;

    /// Turns `count` rows of 16 numbers, `pitch` apart, into 16 rows of 16, `target_pitch` apart; rows
    /// that are not there count as zeros.
    ///
    /// # Safety
    /// Both are as long as that.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose(
        source: *const f32,
        pitch: usize,
        count: usize,
        target: *mut f32,
        target_pitch: usize,
    ) {
        let rows: [__m512; SIDE] = std::array::from_fn(|row| {
            if row < count {
                // SAFETY: by this function's contract.
                unsafe { _mm512_loadu_ps(source.add(row * pitch)) }
            } else {
                _mm512_setzero_ps()
            }
        });
        for (row, values) in square(rows).into_iter().enumerate() {
            // SAFETY: by this function's contract.
            unsafe { _mm512_storeu_ps(target.add(row * target_pitch), values) };
        }
    }

    /// The transpose of 16 × 16 numbers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn square(rows: [__m512; SIDE]) -> [__m512; SIDE] {
        let mut pairs = rows;
        for at in 0..SIDE / 2 {
            pairs[2 * at] = _mm512_unpacklo_ps(rows[2 * at], rows[2 * at + 1]);
            pairs[2 * at + 1] = _mm512_unpackhi_ps(rows[2 * at], rows[2 * at + 1]);
        }
        // In every quarter of a vector: one column of four rows.
        let mut fours = pairs;
        for at in 0..SIDE / 4 {
            for half in 0..2 {
                let upper = _mm512_castps_pd(pairs[4 * at + half]);
                let lower = _mm512_castps_pd(pairs[4 * at + half + 2]);
                fours[4 * at + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(upper, lower));
                fours[4 * at + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(upper, lower));
            }
        }
        let mut columns = fours;
        for at in 0..4 {
            let [a, b, c, d] = [fours[at], fours[at + 4], fours[at + 8], fours[at + 12]];
            let even_upper = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
            let odd_upper = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            let even_lower = _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d);
            let odd_lower = _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d);
            columns[at] = _mm512_shuffle_f32x4::<0b10_00_10_00>(even_upper, even_lower);
            columns[at + 8] = _mm512_shuffle_f32x4::<0b11_01_11_01>(even_upper, even_lower);
            columns[at + 4] = _mm512_shuffle_f32x4::<0b10_00_10_00>(odd_upper, odd_lower);
            columns[at + 12] = _mm512_shuffle_f32x4::<0b11_01_11_01>(odd_upper, odd_lower);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_become_columns_and_nothing_else_changes(
            rows in 0_usize..50, columns in 0_usize..50, wider in 0_usize..5, taller in 0_usize..5,
        ) {
            let (pitch, target_pitch) = (columns + wider, rows + taller);
            let source: Vec<f32> = (0..rows * pitch).map(|at| at as f32).collect();
            let mut target = vec![-1.0; columns * target_pitch];
            transpose(&source, pitch, (rows, columns), &mut target, target_pitch);
            for (at, number) in target.iter().enumerate() {
                let (column, row) = (at / target_pitch, at % target_pitch);
                let expected = if row < rows { (row * pitch + column) as f32 } else { -1.0 };
                prop_assert_eq!(*number, expected);
            }
        }
    }
}
