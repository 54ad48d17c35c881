//! Register blocks of matrix products in 16-bit integers with sums of 32 bits (AVX512-VNNI): as many products
//! an instruction as in bfloat16, of numbers with some three more bits. Minimal filtering, which magnifies
//! rounding errors tenfold, stays nearer to f32 with them than bfloat16 is without filtering.
//!
//! Every column, and every row of factors, is counted in units of its own, so many that the norms of both
//! are at most [`COLUMN_NORM`] and [`ROW_NORM`]. No sum then exceeds the product of these (Cauchy and Schwarz),
//! which fits 32 bits. Sums are exact, in whatever order they are taken, and depend on their row and column
//! alone.

#![allow(unsafe_code)] // vector instructions

use super::ahead::ask;
use super::block::{COLUMNS, ROWS};
use super::few::{self, FEW};
use super::simd::{Level, dispatch};

/// Units of a column's norm, and so of its largest number at most: what 16 bits hold.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // wanted by AVX-512 alone
pub const COLUMN_NORM: f32 = 32_700.0;

/// Added to a number it leaves, in the lower bits of the sum, the number rounded to an integer.
pub const ROUNDER: f32 = 12_582_912.0; // 1.5 · 2²³

/// Units of a row's norm at most. Rounding adds half of the root of a sum's length to either norm: their product
/// stays below 2³¹ for sums of up to 200,000 numbers.
const ROW_NORM: f64 = 65_000.0;

/// Columns of a vector.
pub const LANES: usize = 16;

/// Whether units of `level` of this machine multiply these.
pub fn available(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    return level == Level::Avx512 && is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _: Level = level;
        false
    }
}

/// Units of a row of factors: as few numbers a unit as fit. 0 where all are zeros, NaN where one is none.
pub fn row_unit(numbers: impl Iterator<Item = f32>) -> f64 {
    let (mut squares, mut largest) = (0.0, 0.0_f64);
    for number in numbers.map(f64::from) {
        squares += number * number;
        largest = largest.max(number.abs());
    }
    let unit = (squares.sqrt() / ROW_NORM).max(largest / f64::from(i16::MAX));
    if squares.is_nan() { f64::NAN } else { unit }
}

/// Two factors in units, in a word.
pub fn row_word(factors: [f32; 2], unit: f64) -> u32 {
    // Of nothing but zeros any unit is one.
    let scale = if unit > 0.0 { 1.0 / unit } else { 0.0 };
    // As `ROUNDER` does in f32, without a call of a library for each number.
    const ROUNDER: f64 = 6_755_399_441_055_744.0; // 1.5 · 2⁵²
    let [first, second] = factors.map(|number| {
        let integer = (f64::from(number) * scale + ROUNDER).to_bits() as u16;
        u32::from(integer)
    });
    first | second << 16
}

/// Writes a row of factors, an even count, into every [`ROWS`]-th of `words`, two to each; gives its unit.
pub fn pack_row(words: &mut [u32], numbers: &[f32]) -> f32 {
    let unit = row_unit(numbers.iter().copied());
    let words = words.iter_mut().step_by(ROWS);
    for (word, pair) in words.zip(numbers.as_chunks::<2>().0) {
        *word = row_word(*pair, unit);
    }
    unit as f32
}

#[inline(always)]
fn column_words_body(words: &mut [i16], numbers: &[f32], norm_of: usize, unit: &mut f32) {
    // Of patterns without sign the largest is that of the largest number, of an infinite one, or of none.
    let mut largest = 0;
    for number in numbers {
        largest = (number.to_bits() & 0x7FFF_FFFF).max(largest);
    }
    let largest = f32::from_bits(largest);
    let most = COLUMN_NORM / (norm_of as f32).sqrt();
    // Too small to be divided by is nothing.
    let scale = most / largest;
    if !(largest.is_finite() && scale.is_finite()) {
        words.fill(0);
        *unit = if largest.is_finite() { 0.0 } else { f32::NAN };
        return;
    }
    *unit = largest / most;
    for (word, number) in words.iter_mut().zip(numbers) {
        *word = (number * scale + ROUNDER).to_bits() as i16;
    }
}

dispatch! {
    /// Writes numbers, of which `norm_of` at a time are a column, as integers of one unit, which is given
    /// too: by the largest number, as if all of a column were as large. What is not finite makes the unit NaN.
    pub fn column_words(words: &mut [i16], numbers: &[f32], norm_of: usize, unit: &mut f32) =
        column_words_body
}

/// Columns as integers.
pub struct Panel<'a> {
    /// `[steps, columns]`, two numbers a word.
    words: &'a [u32],
    /// Of every column.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // wanted by AVX-512 alone
    units: [f32; COLUMNS],
    /// A multiple of a vector, at most [`COLUMNS`], or [`FEW`].
    columns: usize,
}

impl<'a> Panel<'a> {
    /// `values`, an even number of rows of so many `columns`, into `words`.
    ///
    /// What is not finite makes its column's unit so, and with it all sums of the column.
    ///
    /// # Panics
    /// If there are too few words, or `columns` are none that are multiplied.
    pub fn pack(values: &[f32], columns: usize, words: &'a mut [u32]) -> Self {
        let steps = values.len() / columns / 2;
        assert!(matches!(columns, FEW | 16 | 32 | 48) && words.len() >= steps * columns);
        #[cfg(target_arch = "x86_64")]
        {
            let mut units = [0.0; COLUMNS];
            // SAFETY: panels are packed where `available`; values and words hold all steps.
            unsafe {
                let (values, words) = (values.as_ptr(), words.as_mut_ptr());
                match columns {
                    FEW => avx512::pack_few(values, steps, words, &mut units),
                    16 => avx512::pack::<1>(values, steps, words, &mut units),
                    32 => avx512::pack::<2>(values, steps, words, &mut units),
                    _ => avx512::pack::<3>(values, steps, words, &mut units),
                }
            }
            Self {
                words: &words[..steps * columns],
                units,
                columns,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("there are no such panels");
    }

    /// What was packed already, `[steps, columns]`, with the units of the columns.
    ///
    /// # Panics
    /// If `columns` are none that are multiplied.
    pub fn packed(words: &'a [u32], units: [f32; COLUMNS], columns: usize) -> Self {
        assert!(matches!(columns, 16 | 32 | 48));
        Self {
            words,
            units,
            columns,
        }
    }

    /// Sums of the products of [`FEW`] columns with blocks of `factors`, `[blocks, steps, ROWS]`, and their rows' units,
    /// into `sums`, `[blocks, ROWS, FEW]`.
    ///
    /// # Panics
    /// If an operand is too short, or there are other columns.
    pub fn multiply_few(&self, factors: (&[u32], &[[f32; ROWS]]), sums: &mut [f32]) {
        assert_eq!(self.columns, FEW);
        few::multiply_integers((self.words, &self.units), factors, sums);
    }

    /// Sums of the products with a block of `factors`, `[steps, ROWS]`, whose rows have these `units`, into
    /// `sums`, `[ROWS, columns]`; asks for lines that are `ahead`, one a step.
    ///
    /// # Panics
    /// If an operand is too short.
    pub fn multiply(
        &self,
        factors: &[u32],
        units: &[f32; ROWS],
        sums: &mut [f32],
        ahead: &[*const f32],
    ) {
        let steps = self.words.len() / self.columns;
        assert!(factors.len() >= steps * ROWS && sums.len() >= ROWS * self.columns);
        assert!(self.columns >= LANES);
        let (ahead, more) = ahead.split_at(ahead.len().min(steps));
        ask(more);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instructions are there, or there would be no panel; lengths as asserted.
        unsafe {
            let (factors, sums) = (factors.as_ptr(), sums.as_mut_ptr());
            match self.columns {
                16 => avx512::multiply::<1>(self, factors, units, sums, ahead),
                32 => avx512::multiply::<2>(self, factors, units, sums, ahead),
                _ => avx512::multiply::<3>(self, factors, units, sums, ahead),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("there are no such blocks: {units:?}, {ahead:?}");
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    use std::arch::x86_64::{
        __m512, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_mask_mov_epi16,
        _mm256_slli_epi32, _mm256_storeu_si256, _mm512_add_ps, _mm512_castsi512_si256,
        _mm512_cvtepi32_ps, _mm512_cvtps_epi32, _mm512_div_ps, _mm512_dpwssd_epi32,
        _mm512_extracti64x4_epi64, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_mask_mov_epi16, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_setzero_si512, _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_sqrt_ps,
        _mm512_storeu_ps, _mm512_storeu_si512,
    };

    use super::{COLUMN_NORM, COLUMNS, FEW, LANES, Panel, ROWS};

    /// The lower half of every word.
    const LOWER: u32 = 0x5555_5555;

    /// The integers of a unit for columns with such norms, whose units are written to the first of `units`. Of nothing
    /// but zeros it is infinite: they become NaN, and of that the lower half is zero, as an integer or as it is.
    ///
    /// # Panics
    /// If there are fewer units than columns.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn scale_of(norm: __m512, units: &mut [f32]) -> __m512 {
        let most = _mm512_set1_ps(COLUMN_NORM);
        let units = &mut units[..LANES];
        // SAFETY: a vector of the units.
        unsafe { _mm512_storeu_ps(units.as_mut_ptr(), _mm512_div_ps(norm, most)) };
        _mm512_div_ps(most, norm)
    }

    /// The lower halves of two words, in one.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn pair(first: __m512i, second: __m512i) -> __m512i {
        let second = _mm512_slli_epi32::<16>(second);
        _mm512_mask_mov_epi16(second, LOWER, first)
    }

    /// # Safety
    /// Values hold twice as many rows of `VECTORS` vectors as there are steps, words as many as steps.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn pack<const VECTORS: usize>(
        values: *const f32,
        steps: usize,
        words: *mut u32,
        units: &mut [f32; COLUMNS],
    ) {
        let pitch = VECTORS * LANES;
        let mut squares = [[_mm512_setzero_ps(); VECTORS]; 2];
        for step in 0..steps {
            for (half, squares) in squares.iter_mut().enumerate() {
                for (vector, squares) in squares.iter_mut().enumerate() {
                    // SAFETY: by this function's contract.
                    let value = unsafe {
                        _mm512_loadu_ps(values.add((2 * step + half) * pitch + vector * LANES))
                    };
                    *squares = _mm512_fmadd_ps(value, value, *squares);
                }
            }
        }
        let mut scales = [_mm512_setzero_ps(); VECTORS];
        for (vector, scale) in scales.iter_mut().enumerate() {
            let one = _mm512_set1_ps(1.0);
            let squares = _mm512_fmadd_ps(squares[0][vector], one, squares[1][vector]);
            *scale = scale_of(_mm512_sqrt_ps(squares), &mut units[vector * LANES..]);
        }
        for step in 0..steps {
            for (vector, scale) in scales.iter().enumerate() {
                // SAFETY: by this function's contract.
                unsafe {
                    let value = values.add(2 * step * pitch + vector * LANES);
                    let [first, second] = [value, value.add(pitch)].map(|value| {
                        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(value), *scale))
                    });
                    let both = pair(first, second);
                    _mm512_storeu_si512(words.add(step * pitch + vector * LANES).cast(), both);
                }
            }
        }
    }

    /// The same of [`FEW`] columns: two rows lie in a vector. To the last bit as if others were zeros.
    ///
    /// # Safety
    /// Values hold twice as many rows as there are steps, words as many as steps.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub unsafe fn pack_few(
        values: *const f32,
        steps: usize,
        words: *mut u32,
        units: &mut [f32; COLUMNS],
    ) {
        let mut squares = _mm512_setzero_ps();
        for step in 0..steps {
            // SAFETY: by this function's contract.
            let value = unsafe { _mm512_loadu_ps(values.add(step * LANES)) };
            squares = _mm512_fmadd_ps(value, value, squares);
        }
        // Sums of both rows, in both halves.
        let others = _mm512_shuffle_f32x4::<0b01_00_11_10>(squares, squares);
        let norm = _mm512_sqrt_ps(_mm512_add_ps(squares, others));
        let scale = scale_of(norm, units);
        for step in 0..steps {
            // SAFETY: by this function's contract.
            unsafe {
                let value = _mm512_loadu_ps(values.add(step * LANES));
                let both = _mm512_cvtps_epi32(_mm512_mul_ps(value, scale));
                let first = _mm512_castsi512_si256(both);
                let second = _mm256_slli_epi32::<16>(_mm512_extracti64x4_epi64::<1>(both));
                let both = _mm256_mask_mov_epi16(second, LOWER as u16, first);
                _mm256_storeu_si256(words.add(step * FEW).cast(), both);
            }
        }
    }

    /// # Safety
    /// The panel has `VECTORS` vectors of columns; factors hold [`ROWS`] words a step, sums as many rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn multiply<const VECTORS: usize>(
        panel: &Panel<'_>,
        factors: *const u32,
        units: &[f32; ROWS],
        sums: *mut f32,
        ahead: &[*const f32],
    ) {
        let pitch = VECTORS * LANES;
        let steps = panel.words.len() / pitch;
        let words = panel.words.as_ptr();
        let next = factors.wrapping_add(steps * ROWS);
        let mut totals = [[_mm512_setzero_si512(); VECTORS]; ROWS];
        for step in 0..steps {
            // SAFETY: by this function's contract; a prefetch does not fault.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(step * ROWS).cast());
                if let Some(line) = ahead.get(step) {
                    _mm_prefetch::<_MM_HINT_T1>(line.cast());
                }
                let values: [_; VECTORS] = std::array::from_fn(|vector| {
                    _mm512_loadu_si512(words.add(step * pitch + vector * LANES).cast())
                });
                for (row, totals) in totals.iter_mut().enumerate() {
                    let factor = (*factors.add(step * ROWS + row)).cast_signed();
                    let factor = _mm512_set1_epi32(factor);
                    for (total, value) in totals.iter_mut().zip(values) {
                        *total = _mm512_dpwssd_epi32(*total, value, factor);
                    }
                }
            }
        }
        for (row, totals) in totals.iter().enumerate() {
            for (vector, total) in totals.iter().enumerate() {
                let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(*total), _mm512_set1_ps(units[row]));
                // SAFETY: a vector of units; sums by this function's contract.
                unsafe {
                    let column = _mm512_loadu_ps(panel.units[vector * LANES..].as_ptr());
                    let to = sums.add(row * pitch + vector * LANES);
                    _mm512_storeu_ps(to, _mm512_mul_ps(sum, column));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::made_up_numbers;
    use super::*;
    use crate::ops::cpu::simd;

    /// Sums of a block: rows of factors `[ROWS, depth]` with columns `[depth, columns]`.
    fn products(rows: &[f32], values: &[f32], columns: usize) -> Vec<f32> {
        let depth = values.len() / columns;
        let mut factors = vec![0; depth / 2 * ROWS];
        let mut units = [0.0; ROWS];
        for (row, numbers) in rows.chunks_exact(depth).enumerate() {
            units[row] = pack_row(&mut factors[row..], numbers);
        }
        let mut words = vec![0; depth / 2 * columns];
        let mut sums = vec![f32::NAN; ROWS * columns];
        Panel::pack(values, columns, &mut words).multiply(&factors, &units, &mut sums, &[]);
        sums
    }

    /// The sum of a row and a column in double precision, and the product of their norms.
    fn exact(row: &[f32], column: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
        let pairs = row.iter().zip(column.clone());
        let sum = pairs.map(|(a, b)| f64::from(*a) * f64::from(b)).sum();
        let square = |x: f32| f64::from(x) * f64::from(x);
        let row: f64 = row.iter().map(|x| square(*x)).sum();
        (sum, (row * column.map(square).sum::<f64>()).sqrt())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        // Each number is off by half a unit at most, so a row or column by half the root of its length: in
        // units of its norm by that through COLUMN_NORM, or for rows, whose largest number may need larger units, through
        // i16::MAX. Rows and columns differ in size by twelve orders of magnitude.
        #[test]
        fn sums_are_off_by_half_a_unit_a_number(
            steps in 1_usize..300, columns in prop_oneof![Just(16_usize), Just(32), Just(48)],
            seed in 0_u32..1000,
        ) {
            if !available(simd::level()) {
                return Ok(());
            }
            let depth = 2 * steps;
            let size = |index: usize| 10_f32.powi((index % 13) as i32 - 6);
            let mut rows = made_up_numbers(ROWS * depth, seed);
            let mut values = made_up_numbers(depth * columns, seed + 1);
            rows.iter_mut().enumerate().for_each(|(at, number)| *number *= size(at / depth));
            values.iter_mut().enumerate().for_each(|(at, number)| *number *= size(at % columns));
            let sums = products(&rows, &values, columns);
            for (row, numbers) in rows.chunks_exact(depth).enumerate() {
                for column in 0..columns {
                    let column_of = values[column..].iter().step_by(columns).copied();
                    let (sum, norms) = exact(numbers, column_of);
                    let bound = 1.01 * (depth as f64).sqrt() / f64::from(COLUMN_NORM) * norms;
                    let off = (f64::from(sums[row * columns + column]) - sum).abs();
                    prop_assert!(off <= bound, "off by {off}, not {bound}");
                }
            }
        }
    }

    proptest! {
        // By the definition; and any `norm_of` neighbours are no longer together than a column may be.
        #[test]
        fn numbers_are_nearest_integers_of_a_unit(
            count in 1_usize..200, norm_of in 2_usize..600, power in -45_i32..35, seed in 0_u32..1000,
        ) {
            let mut numbers = made_up_numbers(count, seed);
            numbers.iter_mut().for_each(|number| *number *= 10_f32.powi(power));
            let largest = numbers.iter().fold(0.0, |most: f32, number| most.max(number.abs()));
            let (mut words, mut unit) = (vec![1; count], -1.0);
            column_words(&mut words, &numbers, norm_of, &mut unit);
            if unit == 0.0 {
                prop_assert!(largest < 1e-33 && words.iter().all(|word| *word == 0));
                return Ok(());
            }
            let most = f64::from(COLUMN_NORM) / (norm_of as f64).sqrt();
            for (word, number) in words.iter().zip(&numbers) {
                let units = f64::from(*number) / f64::from(unit);
                prop_assert!((f64::from(*word) - units).abs() < 0.51, "{word} of {units}");
                prop_assert!(f64::from(*word).abs() <= most + 0.51);
            }
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                numbers[count / 2] = wrong;
                column_words(&mut words, &numbers, norm_of, &mut unit);
                prop_assert!(unit.is_nan());
            }
            column_words(&mut words, &vec![0.0; count], norm_of, &mut unit);
            prop_assert!(unit == 0.0 && words.iter().all(|word| *word == 0));
        }
    }

    // Equal rows and columns have the largest sums that there are.
    #[test]
    fn the_largest_sums_fit() {
        if !available(simd::level()) {
            return;
        }
        for depth in [2, 64, 1024, 4096] {
            for alone in [false, true] {
                let mut row = made_up_numbers(depth, 5);
                if alone {
                    row[1..].fill(0.0);
                }
                let rows = row.repeat(ROWS);
                let values: Vec<f32> = row.iter().flat_map(|number| [*number; 16]).collect();
                let (sum, _) = exact(&row, row.iter().copied());
                for found in products(&rows, &values, 16) {
                    let off = (f64::from(found) - sum).abs() / sum;
                    assert!(off < 2e-3, "{depth} numbers: {found}, not {sum}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_in_its_row_and_column() {
        if !available(simd::level()) {
            return;
        }
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut rows = vec![1.0; ROWS * 4];
            let mut values = vec![1.0; 4 * 16];
            rows[2 * 4 + 1] = wrong;
            values[16 + 5] = wrong;
            // A column of zeros.
            values
                .iter_mut()
                .skip(7)
                .step_by(16)
                .for_each(|value| *value = 0.0);
            let sums = products(&rows, &values, 16);
            for (at, sum) in sums.iter().enumerate() {
                let (row, column) = (at / 16, at % 16);
                if row == 2 || column == 5 {
                    assert!(!sum.is_finite(), "{row}, {column}: {sum}");
                } else {
                    let expected = if column == 7 { 0.0 } else { 4.0 };
                    assert!((sum - expected).abs() < 1e-3, "{row}, {column}: {sum}");
                }
            }
        }
    }
}
