//! From f32 to the words that register blocks multiply, see [`super::block`].

#![allow(unsafe_code)] // vector instructions

use super::block::{COLUMNS, Precision, bits};
use super::simd::dispatch;
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};

/// Words of a vector.
const LANES: usize = 16;

/// The bits of a number as bfloat16, rounded to the nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub fn bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    // Only NaN is so large that this wraps, and it is not used then.
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    if x.is_nan() { quiet } else { rounded }
}

/// Where number `index` of a sum goes, in a word that holds zeros so far: the step, and its bits there.
pub fn place(precision: Precision, index: usize, number: f32) -> (usize, u32) {
    match precision {
        Precision::F32 => (index, number.to_bits()),
        Precision::Bf16 => (index / 2, bf16(number) << (index % 2 * 16)),
    }
}

#[inline(always)]
fn pairs_body(words: &mut [u32], first: &[f32], second: &[f32]) {
    for ((word, first), second) in words.iter_mut().zip(first).zip(second) {
        *word = bf16(*first) | bf16(*second) << 16;
    }
}

#[inline(always)]
fn singles_body(words: &mut [u32], numbers: &[f32]) {
    for (word, number) in words.iter_mut().zip(numbers) {
        *word = bf16(*number);
    }
}

#[inline(always)]
fn neighbours_body(words: &mut [u32], numbers: &[f32]) {
    let (pairs, rest) = numbers.as_chunks::<2>();
    for (word, [first, second]) in words.iter_mut().zip(pairs) {
        *word = bf16(*first) | bf16(*second) << 16;
    }
    if let ([last], Some(word)) = (rest, words.get_mut(pairs.len())) {
        *word = bf16(*last);
    }
}

dispatch! {
    fn plain_pairs(words: &mut [u32], first: &[f32], second: &[f32]) = pairs_body
}

/// Pairs of bfloat16, one number of each row a word.
pub fn pairs(words: &mut [u32], first: &[f32], second: &[f32]) {
    let count = words.len().min(first.len()).min(second.len());
    let done = by_vectors(count);
    #[cfg(target_arch = "x86_64")]
    if done > 0 {
        // SAFETY: the instructions are there, and all three have as many numbers.
        unsafe { x86::pairs(&mut words[..done], &first[..done], &second[..done]) };
    }
    plain_pairs(&mut words[done..], &first[done..], &second[done..]);
}

dispatch! {
    /// Pairs of a number, as bfloat16, and zero.
    pub fn singles(words: &mut [u32], numbers: &[f32]) = singles_body
}

/// Deals a row's numbers out to panels, [`COLUMNS`] to each; panels are `pitch` words apart, and `words`
/// begins with the row's first place in the first one.
///
/// # Panics
/// If there are too few panels for the row, or they overlap.
pub fn deal(words: &mut [u32], pitch: usize, row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        let last = row.len().saturating_sub(1);
        assert!(pitch >= COLUMNS);
        assert!(words.len() >= last / COLUMNS * pitch + row.len() - last / COLUMNS * COLUMNS);
        // SAFETY: the machine has the instructions, and the last panel has room for what is left.
        return unsafe { x86::deal(words, pitch, row) };
    }
    for (index, part) in row.chunks(COLUMNS).enumerate() {
        words[index * pitch..][..part.len()].copy_from_slice(bits(part));
    }
}

/// The same with pairs of numbers, as bfloat16, of two rows, or of one row and zeros.
///
/// # Panics
/// As [`deal`], or if rows differ in length.
pub fn deal_pairs(words: &mut [u32], pitch: usize, first: &[f32], second: Option<&[f32]>) {
    let Some(second) = second else {
        for (index, part) in first.chunks(COLUMNS).enumerate() {
            singles(&mut words[index * pitch..][..part.len()], part);
        }
        return;
    };
    assert_eq!(first.len(), second.len());
    // Panels that the instructions for it fill.
    let whole = first.len() / COLUMNS;
    let done = by_vectors(COLUMNS) / COLUMNS * whole;
    #[cfg(target_arch = "x86_64")]
    if done > 0 {
        assert!(words.len() >= (done - 1) * pitch + COLUMNS);
        // SAFETY: the instructions are there, and the panels have room.
        unsafe { x86::deal_pairs(words, pitch, first, second) };
    }
    let rows = first.chunks(COLUMNS).zip(second.chunks(COLUMNS));
    for (index, (first, second)) in rows.enumerate().skip(done) {
        pairs(&mut words[index * pitch..][..first.len()], first, second);
    }
}

/// Writes every number twice, `count` of them in all.
///
/// # Safety
/// As many may be written.
///
/// # Panics
/// If there are too few numbers.
pub unsafe fn write_twice(to: *mut f32, numbers: &[f32], count: usize) {
    assert!(numbers.len() >= count.div_ceil(2));
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: by this function's contract; the machine has the instructions.
        return unsafe { x86::write_twice(to, numbers.as_ptr(), count) };
    }
    for at in 0..count {
        // SAFETY: by this function's contract.
        unsafe { to.add(at).write(numbers[at / 2]) };
    }
}

#[inline(always)]
fn every_second_body(target: &mut [f32], numbers: &[f32]) {
    for (target, pair) in target.iter_mut().zip(numbers.chunks(2)) {
        *target = pair[0];
    }
}

dispatch! {
    fn every_second_plain(target: &mut [f32], numbers: &[f32]) = every_second_body
}

/// Every `step`-th of `numbers` from the first one on, as many as fit `target`.
pub fn every(target: &mut [f32], numbers: &[f32], step: usize) {
    if step == 1 {
        let count = target.len().min(numbers.len());
        target[..count].copy_from_slice(&numbers[..count]);
        return;
    }
    if step != 2 {
        for (target, number) in target.iter_mut().zip(numbers.iter().step_by(step)) {
            *target = *number;
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        let count = target.len().min(numbers.len().div_ceil(2));
        // SAFETY: the machine has the instructions.
        return unsafe { x86::every_second(&mut target[..count], numbers) };
    }
    every_second_plain(target, numbers);
}

/// Pairs of bfloat16 of every `step`-th number of two rows, from the first ones on, as many as fit
/// `words`; zeros where there is no second row.
pub fn pairs_of_every(words: &mut [u32], first: &[f32], second: Option<&[f32]>, step: usize) {
    /// Numbers that are taken at once.
    const PIECE: usize = 64;
    if step == 1 {
        return match second {
            Some(second) => pairs(words, first, second),
            None => singles(words, first),
        };
    }
    let mut numbers = [[0.0_f32; PIECE]; 2];
    let [one, other] = &mut numbers;
    for (index, words) in words.chunks_mut(PIECE).enumerate() {
        let from = index * PIECE * step;
        let (one, other) = (&mut one[..words.len()], &mut other[..words.len()]);
        every(one, &first[from..], step);
        let Some(second) = second else {
            singles(words, one);
            continue;
        };
        every(other, &second[from..], step);
        pairs(words, one, other);
    }
}

dispatch! {
    fn plain_neighbours(words: &mut [u32], numbers: &[f32]) = neighbours_body
}

/// Pairs of bfloat16 of a row's neighbours; an odd last number is paired with zero.
pub fn neighbours(words: &mut [u32], numbers: &[f32]) {
    let count = words.len().min(numbers.len() / 2);
    let done = by_vectors(count);
    #[cfg(target_arch = "x86_64")]
    if done > 0 {
        // SAFETY: the instructions are there, and there are two numbers for each word.
        unsafe { x86::neighbours(&mut words[..done], &numbers[..2 * done]) };
    }
    plain_neighbours(&mut words[done..], &numbers[2 * done..]);
}

#[inline(always)]
fn halves_body(output: &mut [half::bf16], numbers: &[f32]) {
    for (half, number) in output.iter_mut().zip(numbers) {
        *half = half::bf16::from_bits(bf16(*number) as u16);
    }
}

dispatch! {
    /// Numbers as bfloat16.
    pub fn halves(output: &mut [half::bf16], numbers: &[f32]) = halves_body
}

/// How many of `count` words the instructions for it make: whole vectors, none where there are none.
fn by_vectors(count: usize) -> usize {
    if Precision::Bf16.available() {
        count / LANES * LANES
    } else {
        0
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::in_turn;

/// By the instructions for it, which take numbers below 1e-38 for zero.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_permutex2var_ps, _mm512_permutexvar_epi16,
        _mm512_permutexvar_ps, _mm512_set_epi16, _mm512_setr_epi32, _mm512_storeu_ps,
        _mm512_storeu_si512,
    };

    use super::{COLUMNS, LANES};

    /// # Safety
    /// There are half as many numbers as may be written, which is `count`.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn write_twice(to: *mut f32, numbers: *const f32, count: usize) {
        let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        for at in (0..count).step_by(LANES) {
            let lanes = LANES.min(count - at);
            let (read, written) = (
                u16::MAX >> (LANES - lanes.div_ceil(2)),
                u16::MAX >> (LANES - lanes),
            );
            // SAFETY: masks leave out what is beyond the ends.
            unsafe {
                let numbers = _mm512_maskz_loadu_ps(read, numbers.add(at / 2));
                let numbers = _mm512_permutexvar_ps(twice, numbers);
                _mm512_mask_storeu_ps(to.add(at), written, numbers);
            }
        }
    }

    /// `target` has at most as many numbers as there are pairs, the last one perhaps in part.
    #[target_feature(enable = "avx512f")]
    pub fn every_second(target: &mut [f32], numbers: &[f32]) {
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let whole = target.len().min(numbers.len() / 2) / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            // SAFETY: whole vectors that lie in both.
            unsafe {
                let source = numbers.as_ptr().add(2 * at);
                let (low, high) = (_mm512_loadu_ps(source), _mm512_loadu_ps(source.add(LANES)));
                let both = _mm512_permutex2var_ps(low, even, high);
                _mm512_storeu_ps(target.as_mut_ptr().add(at), both);
            }
        }
        for at in (whole..target.len()).step_by(LANES) {
            let lanes = LANES.min(target.len() - at);
            let left = numbers.len() - 2 * at;
            let part = |from: usize| u16::MAX >> (LANES - left.saturating_sub(from).min(LANES));
            let mask = |from: usize| if left > from { part(from) } else { 0 };
            // SAFETY: masks leave out what is beyond the ends of both.
            unsafe {
                let source = numbers.as_ptr().add(2 * at);
                let low = _mm512_maskz_loadu_ps(mask(0), source);
                let high = _mm512_maskz_loadu_ps(mask(LANES), source.wrapping_add(LANES));
                let both = _mm512_permutex2var_ps(low, even, high);
                let target = target.as_mut_ptr().add(at);
                _mm512_mask_storeu_ps(target, u16::MAX >> (LANES - lanes), both);
            }
        }
    }

    /// # Safety
    /// There are as many panels as the row needs, the last one perhaps in part.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn deal(words: &mut [u32], pitch: usize, row: &[f32]) {
        let (whole, rest) = row.as_chunks::<COLUMNS>();
        let mut panel = words.as_mut_ptr().cast::<f32>();
        for part in whole {
            for at in (0..COLUMNS).step_by(LANES) {
                // SAFETY: whole vectors of both.
                unsafe { _mm512_storeu_ps(panel.add(at), _mm512_loadu_ps(part.as_ptr().add(at))) };
            }
            panel = panel.wrapping_add(pitch);
        }
        for (index, part) in rest.chunks(LANES).enumerate() {
            let mask = u16::MAX >> (LANES - part.len());
            // SAFETY: masks leave out what is beyond the ends of both.
            unsafe {
                let part = _mm512_maskz_loadu_ps(mask, part.as_ptr());
                _mm512_mask_storeu_ps(panel.add(index * LANES), mask, part);
            }
        }
    }

    /// Whole panels only.
    ///
    /// # Safety
    /// There are as many panels as whole ones in the rows, which are of the same length.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn deal_pairs(words: &mut [u32], pitch: usize, first: &[f32], second: &[f32]) {
        let rows = first.as_chunks::<COLUMNS>().0.iter();
        for (index, (first, second)) in rows.zip(second.as_chunks::<COLUMNS>().0).enumerate() {
            // SAFETY: by this function's contract.
            unsafe {
                let panel = words.as_mut_ptr().add(index * pitch);
                pairs(
                    std::slice::from_raw_parts_mut(panel, COLUMNS),
                    first,
                    second,
                );
            }
        }
    }

    /// # Safety
    /// All have the same length, a multiple of [`LANES`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn pairs(words: &mut [u32], first: &[f32], second: &[f32]) {
        for at in (0..words.len()).step_by(LANES) {
            // SAFETY: by this function's contract.
            unsafe {
                let first = _mm512_loadu_ps(first.as_ptr().add(at));
                let second = _mm512_loadu_ps(second.as_ptr().add(at));
                let both = in_turn(first, second);
                _mm512_storeu_si512(words.as_mut_ptr().add(at).cast(), both);
            }
        }
    }

    /// One number of each in turn, as bfloat16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn in_turn(first: __m512, second: __m512) -> __m512i {
        let turns = _mm512_set_epi16(
            31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20,
            4, 19, 3, 18, 2, 17, 1, 16, 0,
        );
        // SAFETY: every pattern is valid for both types.
        let both: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) };
        _mm512_permutexvar_epi16(turns, both)
    }

    /// # Safety
    /// There are as many words as pairs of numbers, a multiple of [`LANES`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn neighbours(words: &mut [u32], numbers: &[f32]) {
        for at in (0..words.len()).step_by(LANES) {
            // SAFETY: as above.
            unsafe {
                let source = numbers.as_ptr().add(2 * at);
                let low = _mm512_loadu_ps(source);
                let high = _mm512_loadu_ps(source.add(LANES));
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(words.as_mut_ptr().add(at).cast(), both);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_second_number_is_taken(count in 0_usize..80, room in 0_usize..50, step in 1_usize..4) {
            let numbers: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let mut found = vec![-1.0; room];
            every(&mut found, &numbers, step);
            for (index, found) in found.into_iter().enumerate() {
                let expected = numbers.get(index * step).copied().unwrap_or(-1.0);
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn every_number_is_written_twice(count in 0_usize..100, more in 0_usize..20) {
            let numbers: Vec<f32> = (0..count.div_ceil(2)).map(|i| i as f32).collect();
            let mut found = vec![-1.0; count + more];
            // SAFETY: there are so many.
            unsafe { write_twice(found.as_mut_ptr(), &numbers, count) };
            for (at, number) in found.into_iter().enumerate() {
                prop_assert_eq!(number, if at < count { (at / 2) as f32 } else { -1.0 });
            }
        }

        #[test]
        fn rows_are_dealt_out(count in 0_usize..200, more in 0_usize..20) {
            let row: Vec<f32> = (1..=count).map(|i| i as f32).collect();
            let pitch = COLUMNS + more;
            let mut found = vec![0; count.div_ceil(COLUMNS) * pitch];
            deal(&mut found, pitch, &row);
            let expected = row.chunks(COLUMNS).flat_map(|part| {
                let beyond = std::iter::repeat_n(0, pitch - part.len());
                part.iter().map(|number| number.to_bits()).chain(beyond)
            });
            prop_assert_eq!(found, expected.collect::<Vec<u32>>());
        }

        // Rounded by the same rule whatever the instructions; no number here is close to zero.
        #[test]
        fn vectors_are_rounded_as_numbers_are(numbers in prop::collection::vec(-9_f32..9.0, 0..120)) {
            let (first, second) = numbers.split_at(numbers.len() / 2);
            let mut found = vec![7; first.len()];
            pairs(&mut found, first, second);
            for ((word, first), second) in found.iter().zip(first).zip(second) {
                prop_assert_eq!(*word, bf16(*first) | bf16(*second) << 16);
            }
            let mut found = vec![half::bf16::ZERO; numbers.len()];
            halves(&mut found, &numbers);
            for (half, number) in found.iter().zip(&numbers) {
                prop_assert_eq!(u32::from(half.to_bits()), bf16(*number));
            }
            let mut found = vec![7; numbers.len().div_ceil(2)];
            neighbours(&mut found, &numbers);
            for (word, pair) in found.iter().zip(numbers.chunks(2)) {
                let second = pair.get(1).copied().unwrap_or(0.0);
                prop_assert_eq!(*word, bf16(pair[0]) | bf16(second) << 16);
            }
        }

        // `half` is the yardstick.
        #[test]
        fn rounds_as_half_does(bits in prop_oneof![any::<u32>(), 0xFFFF_0000_u32..]) {
            let x = f32::from_bits(bits);
            let expected = half::bf16::from_f32(x);
            let found = half::bf16::from_bits(bf16(x) as u16);
            prop_assert!(found == expected || found.is_nan() && expected.is_nan());
        }
    }
}
