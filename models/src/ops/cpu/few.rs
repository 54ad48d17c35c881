//! Products of up to eight columns with packed rows of factors: the roles of [`super::block`] and [`super::fixed`] are
//! swapped, so that rows fill the vectors, not columns. What minimal filtering of a small image needs.
//!
//! Sums are taken in the same order, and are the same to the last bit.

#![allow(unsafe_code)] // vector instructions

use super::block::ROWS;

/// Columns that are multiplied together.
pub const FEW: usize = 8;

/// Sizes of a product.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Columns of the panel, a multiple of [`FEW`].
    pub columns: usize,
    /// Numbers of a sum.
    pub steps: usize,
    /// Blocks of rows.
    pub blocks: usize,
}

/// Multiplies `panel`, `[steps, columns]`, with blocks of factors, `[blocks, steps, ROWS]`, into
/// `sums`, `[blocks, ROWS, columns]`. Only for AVX-512.
///
/// # Panics
/// If an operand is too short.
pub fn multiply(panel: &[f32], factors: &[u32], sizes: Sizes, sums: &mut [f32]) {
    let Sizes {
        columns,
        steps,
        blocks,
    } = sizes;
    assert!(columns.is_multiple_of(FEW) && sums.len() >= blocks * ROWS * columns);
    assert!(panel.len() >= steps * columns && factors.len() >= blocks * steps * ROWS);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: AVX-512 was asked for before any weights were made for this; lengths as asserted.
    unsafe {
        let (panel, factors) = (panel.as_ptr(), factors.as_ptr().cast());
        avx512::multiply(panel, factors, sizes, sums.as_mut_ptr());
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("there are no vectors for this machine: {blocks}");
}

/// The same of 16-bit integers for [`FEW`] columns: `words`, `[steps, FEW]`, with blocks of factors, `[blocks, steps, ROWS]`,
/// in the `units` of columns and `of_rows`. Only where [`super::fixed::available`].
///
/// # Panics
/// If an operand is too short.
pub fn multiply_integers(
    (words, units): (&[u32], &[f32]),
    (factors, of_rows): (&[u32], &[[f32; ROWS]]),
    sums: &mut [f32],
) {
    let (steps, blocks) = (words.len() / FEW, sums.len() / (ROWS * FEW));
    assert!(factors.len() >= blocks * steps * ROWS && of_rows.len() >= blocks);
    assert!(units.len() >= FEW);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the machine has the instructions, or there would be no such words; lengths as asserted.
    unsafe {
        let mut of_rows = of_rows.chunks(avx512::TOGETHER);
        for (index, sums) in sums.chunks_mut(avx512::TOGETHER * ROWS * FEW).enumerate() {
            let factors = factors[index * avx512::TOGETHER * steps * ROWS..].as_ptr();
            let of_rows = of_rows.next().unwrap_or_default();
            match sums.len() / (ROWS * FEW) {
                0 => {}
                1 => avx512::some_integers::<1>((words, units), factors, of_rows, sums),
                2 => avx512::some_integers::<2>((words, units), factors, of_rows, sums),
                _ => avx512::some_integers::<{ avx512::TOGETHER }>(
                    (words, units),
                    factors,
                    of_rows,
                    sums,
                ),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("there are no vectors for this machine: {blocks}");
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m256, __m256i, _MM_HINT_T1, _mm_prefetch, _mm256_castpd_ps, _mm256_castps_pd,
        _mm256_cvtepi32_ps, _mm256_dpwssd_epi32, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_loadu_si256, _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_storeu_ps,
        _mm256_unpackhi_pd, _mm256_unpackhi_ps, _mm256_unpacklo_pd, _mm256_unpacklo_ps,
    };

    use super::{FEW, ROWS, Sizes};

    /// Blocks whose sums are in registers together.
    pub const TOGETHER: usize = 3;

    /// # Safety
    /// As [`super::multiply`] asserts.
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub unsafe fn multiply(panel: *const f32, factors: *const f32, sizes: Sizes, sums: *mut f32) {
        let mut block = 0;
        while block < sizes.blocks {
            let together = TOGETHER.min(sizes.blocks - block);
            for first in (0..sizes.columns).step_by(FEW) {
                // SAFETY: by this function's contract.
                unsafe {
                    let panel = panel.add(first);
                    let factors = factors.add(block * sizes.steps * ROWS);
                    let sums = sums.add(block * ROWS * sizes.columns + first);
                    match together {
                        1 => some::<1>(panel, factors, sizes, sums),
                        2 => some::<2>(panel, factors, sizes, sums),
                        _ => some::<TOGETHER>(panel, factors, sizes, sums),
                    }
                }
            }
            block += together;
        }
    }

    /// [`FEW`] columns of `BLOCKS` blocks.
    ///
    /// # Safety
    /// As [`multiply`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    unsafe fn some<const BLOCKS: usize>(
        panel: *const f32,
        factors: *const f32,
        sizes: Sizes,
        sums: *mut f32,
    ) {
        let Sizes { columns, steps, .. } = sizes;
        let mut found = [[_mm256_setzero_ps(); FEW]; BLOCKS];
        // Factors pass by once: those of the next blocks are asked for meanwhile.
        let ahead = BLOCKS * steps * ROWS;
        for step in 0..steps {
            // SAFETY: by this function's contract; a prefetch does not fault.
            unsafe {
                let rows: [__m256; BLOCKS] = std::array::from_fn(|block| {
                    let row = factors.add((block * steps + step) * ROWS);
                    _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(ahead).cast());
                    _mm256_loadu_ps(row)
                });
                for column in 0..FEW {
                    let number = _mm256_set1_ps(*panel.add(step * columns + column));
                    for (found, row) in found.iter_mut().zip(rows) {
                        found[column] = _mm256_fmadd_ps(number, row, found[column]);
                    }
                }
            }
        }
        for (block, found) in found.into_iter().enumerate() {
            for (row, numbers) in turned(found).into_iter().enumerate() {
                // SAFETY: sums of this block.
                unsafe { _mm256_storeu_ps(sums.add((block * ROWS + row) * columns), numbers) };
            }
        }
    }

    /// [`FEW`] columns of `BLOCKS` blocks of integers.
    ///
    /// # Safety
    /// Factors and sums are of so many blocks, and there are units of all rows and columns.
    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2")]
    pub unsafe fn some_integers<const BLOCKS: usize>(
        (words, units): (&[u32], &[f32]),
        factors: *const u32,
        of_rows: &[[f32; ROWS]],
        sums: &mut [f32],
    ) {
        let steps = words.len() / FEW;
        let mut found = [[_mm256_setzero_si256(); FEW]; BLOCKS];
        let ahead = BLOCKS * steps * ROWS;
        for (step, words) in words.as_chunks::<FEW>().0.iter().enumerate() {
            // SAFETY: by this function's contract; a prefetch does not fault.
            let rows: [__m256i; BLOCKS] = std::array::from_fn(|block| unsafe {
                let row = factors.add((block * steps + step) * ROWS);
                _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(ahead).cast());
                _mm256_loadu_si256(row.cast())
            });
            for (column, word) in words.iter().enumerate() {
                let word = _mm256_set1_epi32(word.cast_signed());
                for (found, row) in found.iter_mut().zip(rows) {
                    found[column] = _mm256_dpwssd_epi32(found[column], row, word);
                }
            }
        }
        let blocks = found.into_iter().zip(of_rows);
        for ((found, of_rows), sums) in blocks.zip(sums.as_chunks_mut::<{ ROWS * FEW }>().0) {
            // SAFETY: as many units as rows.
            let of_rows = unsafe { _mm256_loadu_ps(of_rows.as_ptr()) };
            let mut numbers = [_mm256_setzero_ps(); FEW];
            for ((number, found), unit) in numbers.iter_mut().zip(found).zip(units) {
                // In the order of `fixed`.
                let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(found), of_rows);
                *number = _mm256_mul_ps(sum, _mm256_set1_ps(*unit));
            }
            for (numbers, sums) in turned(numbers)
                .into_iter()
                .zip(sums.as_chunks_mut::<FEW>().0)
            {
                // SAFETY: a row of sums.
                unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), numbers) };
            }
        }
    }

    /// Rows to columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn turned(a: [__m256; 8]) -> [__m256; 8] {
        let low = |x, y| _mm256_unpacklo_ps(x, y);
        let high = |x, y| _mm256_unpackhi_ps(x, y);
        let pairs = |x, y| {
            let (x, y) = (_mm256_castps_pd(x), _mm256_castps_pd(y));
            [_mm256_unpacklo_pd(x, y), _mm256_unpackhi_pd(x, y)].map(|z| _mm256_castpd_ps(z))
        };
        // By four rows, within each half: columns 0 and 4, 1 and 5, 2 and 6, 3 and 7.
        let four = |a: [__m256; 4]| {
            let [first, second] = pairs(low(a[0], a[1]), low(a[2], a[3]));
            let [third, fourth] = pairs(high(a[0], a[1]), high(a[2], a[3]));
            [first, second, third, fourth]
        };
        let (upper, lower) = (
            four([a[0], a[1], a[2], a[3]]),
            four([a[4], a[5], a[6], a[7]]),
        );
        std::array::from_fn(|column| {
            let (x, y) = (upper[column % 4], lower[column % 4]);
            if column < 4 {
                _mm256_permute2f128_ps::<0x20>(x, y)
            } else {
                _mm256_permute2f128_ps::<0x31>(x, y)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::block::bits;
    use super::super::fixed;
    use super::super::lanes::made_up_numbers;
    use super::super::simd::{Level, machine};
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        // The first columns of sixteen, of which the others are zeros, by the kernel that has rows of columns: to the
        // last bit.
        #[test]
        fn integers_are_those_of_wide_panels(
            depth in 1_usize..80, blocks in 1_usize..8, seed in 0_u32..1000, nothing: bool,
        ) {
            if !fixed::available(machine()) {
                return Ok(());
            }
            let depth = 2 * depth;
            let mut values = made_up_numbers(depth * FEW, seed);
            if nothing {
                values.iter_mut().skip(3).step_by(FEW).for_each(|x| *x = 0.0);
            }
            let (mut factors, mut of_rows) = (vec![0; blocks * depth / 2 * ROWS], Vec::new());
            for (block, factors) in factors.chunks_exact_mut(depth / 2 * ROWS).enumerate() {
                let row = |row: usize| made_up_numbers(depth, seed + (block * ROWS + row) as u32);
                of_rows.push(std::array::from_fn(|index| fixed::pack_row(&mut factors[index..], &row(index))));
            }
            let mut wide = vec![0.0; depth * fixed::LANES];
            for (wide, row) in wide.chunks_exact_mut(fixed::LANES).zip(values.chunks_exact(FEW)) {
                wide[..FEW].copy_from_slice(row);
            }
            let (mut words, mut of_wide) = (vec![0; depth / 2 * FEW], vec![0; depth / 2 * fixed::LANES]);
            let panel = fixed::Panel::pack(&values, FEW, &mut words);
            let mut sums = vec![7.0; blocks * ROWS * FEW];
            panel.multiply_few((&factors, &of_rows), &mut sums);
            let panel = fixed::Panel::pack(&wide, fixed::LANES, &mut of_wide);
            for (block, sums) in sums.chunks_exact(ROWS * FEW).enumerate() {
                let mut expected = vec![0.0; ROWS * fixed::LANES];
                let factors = &factors[block * depth / 2 * ROWS..];
                panel.multiply(factors, &of_rows[block], &mut expected, &[]);
                for (found, expected) in sums.chunks_exact(FEW).zip(expected.chunks_exact(fixed::LANES)) {
                    prop_assert_eq!(found, &expected[..FEW]);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        // By the definition, with fused sums in the same order: to the last bit.
        #[test]
        fn products_are_sums_of_products(
            eights in 1_usize..5, steps in 1_usize..40, blocks in 1_usize..8, seed in 0_u32..1000,
        ) {
            if machine() < Level::Avx512 {
                return Ok(());
            }
            let columns = eights * FEW;
            let panel = made_up_numbers(steps * columns, seed);
            let factors = made_up_numbers(blocks * steps * ROWS, seed + 1);
            let mut sums = vec![7.0; blocks * ROWS * columns + 1];
            let sizes = Sizes { columns, steps, blocks };
            multiply(&panel, bits(&factors), sizes, &mut sums);
            prop_assert_eq!(sums.pop(), Some(7.0));
            for (at, found) in sums.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let mut sum = 0.0_f32;
                for step in 0..steps {
                    let factor = factors[(row / ROWS * steps + step) * ROWS + row % ROWS];
                    sum = panel[step * columns + column].mul_add(factor, sum);
                }
                prop_assert_eq!(*found, sum);
            }
        }
    }
}
