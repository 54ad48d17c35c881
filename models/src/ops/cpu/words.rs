//! From f32 to the words that register blocks multiply, see [`super::block`].

#![allow(unsafe_code)] // vector instructions

use super::block::Precision;
use super::simd::dispatch;

/// Words of a vector.
const LANES: usize = 16;

/// The bits of a number as bfloat16, rounded to the nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub fn bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    if x.is_nan() { quiet } else { rounded }
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
fn bits_body(words: &mut [u32], numbers: &[f32]) {
    for (word, number) in words.iter_mut().zip(numbers) {
        *word = number.to_bits();
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
    let done = converted(count, Precision::Bf16.available(), |count| {
        // SAFETY: the instructions are there, and all three have `count` numbers.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            x86::pairs(&mut words[..count], &first[..count], &second[..count]);
        }
    });
    plain_pairs(&mut words[done..], &first[done..], &second[done..]);
}

dispatch! {
    /// Pairs of a number, as bfloat16, and zero.
    pub fn singles(words: &mut [u32], numbers: &[f32]) = singles_body
}

dispatch! {
    /// The numbers' own bits.
    pub fn bits(words: &mut [u32], numbers: &[f32]) = bits_body
}

dispatch! {
    fn plain_neighbours(words: &mut [u32], numbers: &[f32]) = neighbours_body
}

/// Pairs of bfloat16 of a row's neighbours; an odd last number is paired with zero.
pub fn neighbours(words: &mut [u32], numbers: &[f32]) {
    let count = words.len().min(numbers.len() / 2);
    let done = converted(count, Precision::Bf16.available(), |count| {
        // SAFETY: the instructions are there, and there are two numbers for each of `count` words.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            x86::neighbours(&mut words[..count], &numbers[..2 * count]);
        }
    });
    plain_neighbours(&mut words[done..], &numbers[2 * done..]);
}

/// How many of `count` words `convert` made, whole vectors of them, where it is `available`.
fn converted(count: usize, available: bool, convert: impl FnOnce(usize)) -> usize {
    let done = if available { count / LANES * LANES } else { 0 };
    if done > 0 {
        convert(done);
    }
    done
}

/// By the instructions for it, which take numbers below 1e-38 for zero.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh,
        _mm512_loadu_ps, _mm512_or_si512, _mm512_slli_epi32, _mm512_storeu_si512,
    };

    use super::LANES;

    /// # Safety
    /// All have the same length, a multiple of [`LANES`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn pairs(words: &mut [u32], first: &[f32], second: &[f32]) {
        for at in (0..words.len()).step_by(LANES) {
            // SAFETY: by this function's contract; every pattern is valid for all types here.
            unsafe {
                let wide = |numbers: &[f32]| {
                    let narrow = _mm512_cvtneps_pbh(_mm512_loadu_ps(numbers.as_ptr().add(at)));
                    let narrow: __m256i = std::mem::transmute(narrow);
                    _mm512_cvtepu16_epi32(narrow)
                };
                let both = _mm512_or_si512(wide(first), _mm512_slli_epi32::<16>(wide(second)));
                _mm512_storeu_si512(words.as_mut_ptr().add(at).cast(), both);
            }
        }
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
        // Rounded by the same rule whatever the instructions; no number here is close to zero.
        #[test]
        fn vectors_are_rounded_as_numbers_are(numbers in prop::collection::vec(-9_f32..9.0, 0..120)) {
            let (first, second) = numbers.split_at(numbers.len() / 2);
            let mut found = vec![7; first.len()];
            pairs(&mut found, first, second);
            for ((word, first), second) in found.iter().zip(first).zip(second) {
                prop_assert_eq!(*word, bf16(*first) | bf16(*second) << 16);
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
        fn rounds_as_half_does(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            let expected = half::bf16::from_f32(x);
            let found = half::bf16::from_bits(bf16(x) as u16);
            prop_assert!(found == expected || found.is_nan() && expected.is_nan());
        }
    }
}
