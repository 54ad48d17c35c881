//! The kernels of [`super`] for AVX-512 with its permutations of bytes (VBMI) and dot products of
//! bytes (VNNI): Ice Lake and later, Zen 4 and later.

#![allow(unsafe_code)] // vector instructions

use std::arch::x86_64::*;

use super::groups::{DIGITS, Fours, Mix, Pairs, Sum};
use super::{STEP, TOGETHER};
use crate::ops::cpu::simd::{Level, level};

/// Whether the machine has the instructions, and they are allowed.
pub fn available() -> bool {
    level() == Level::Avx512
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
}

/// Bytes of `row` from `at` on, zeros after its end.
#[target_feature(enable = "avx512f,avx512bw")]
fn load(row: &[u8], at: usize) -> __m512i {
    const VECTOR: usize = size_of::<__m512i>();
    if let Some(bytes) = row.get(at..at + VECTOR) {
        // SAFETY: all of them are in the row.
        return unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
    }
    let rest = row.get(at..).unwrap_or_default();
    let mask = (1_u64 << rest.len()) - 1;
    // SAFETY: those that the mask has are in the row, others are not read.
    unsafe { _mm512_maskz_loadu_epi8(mask, rest.as_ptr().cast()) }
}

/// The bytes of `row` from `at` on that `index` names and `mask` has; zeros elsewhere. `WIDE`: from
/// two vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn pick<const WIDE: bool>(row: &[u8], at: usize, index: __m512i, mask: u64) -> __m512i {
    let first = load(row, at);
    if WIDE {
        let second = load(row, at + size_of::<__m512i>());
        return _mm512_maskz_permutex2var_epi8(mask, first, index, second);
    }
    _mm512_maskz_permutexvar_epi8(mask, index, first)
}

/// A line of a table.
#[target_feature(enable = "avx512f")]
fn line<T, const N: usize>(table: &super::groups::Line<T, N>) -> __m512i {
    const { assert!(N * size_of::<T>() == size_of::<__m512i>()) };
    // SAFETY: it is as long as a vector, and begins where a line of the cache does.
    unsafe { _mm512_load_si512((&raw const table.0).cast()) }
}

impl Mix {
    /// See [`super::MixColumns::run`].
    pub fn run(&self, target: &mut [i16], row: &[u8]) {
        // SAFETY: there are groups only where the instructions are.
        unsafe {
            if self.wide {
                mix::<true>(target, row, &self.groups);
            } else {
                mix::<false>(target, row, &self.groups);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn mix<const WIDE: bool>(target: &mut [i16], row: &[u8], groups: &[Pairs]) {
    /// The lower byte of each word; the upper one becomes zero.
    const LOWER: u64 = 0x5555_5555_5555_5555;
    for (target, group) in target.as_chunks_mut::<STEP>().0.iter_mut().zip(groups) {
        let pairs = pick::<WIDE>(row, group.at, line(&group.index), LOWER);
        let sums = _mm512_madd_epi16(pairs, line(&group.weights));
        let words = _mm512_cvtepi32_epi16(_mm512_srai_epi32::<4>(sums));
        // SAFETY: sixteen words fit.
        unsafe { _mm256_storeu_si256(target.as_mut_ptr().cast(), words) };
    }
}

impl Sum {
    /// See [`super::SumColumns::run`]; a target row has `room` bytes, sixteen at a time.
    pub fn run(&self, targets: &mut [u8], room: usize, rows: &[&[u8]]) {
        let (together, single) = rows.as_chunks::<TOGETHER>();
        let (some, rest) = targets.split_at_mut(together.len() * TOGETHER * room);
        for (targets, rows) in some.chunks_exact_mut(TOGETHER * room).zip(together) {
            // SAFETY: there are groups only where the instructions are.
            unsafe { self.some(targets, room, rows) };
        }
        for (target, row) in rest.chunks_exact_mut(room).zip(single) {
            // SAFETY: as above.
            unsafe { self.some(target, room, &[row]) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
    fn some<const ROWS: usize>(&self, targets: &mut [u8], room: usize, rows: &[&[u8]; ROWS]) {
        if self.wide {
            self.sums::<ROWS, true>(targets, room, rows);
        } else {
            self.sums::<ROWS, false>(targets, room, rows);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
    fn sums<const ROWS: usize, const WIDE: bool>(
        &self,
        targets: &mut [u8],
        room: usize,
        rows: &[&[u8]; ROWS],
    ) {
        let bits = _mm_cvtsi32_si128(self.bits as i32);
        let half = _mm512_set1_epi32(1 << (self.bits - 1));
        let groups = self.groups.chunks_exact(self.fours);
        for (fours, at) in groups.zip((0..room).step_by(STEP)) {
            let sums = digits::<ROWS, WIDE>(fours, rows);
            for (row, [low, middle, high]) in sums.into_iter().enumerate() {
                let middle = _mm512_slli_epi32::<8>(middle);
                let high = _mm512_slli_epi32::<16>(high);
                let sum =
                    _mm512_add_epi32(_mm512_add_epi32(half, low), _mm512_add_epi32(middle, high));
                let whole = _mm512_sra_epi32(sum, bits);
                let bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole, _mm512_setzero_si512()));
                let target = &mut targets[row * room + at..][..STEP];
                // SAFETY: sixteen bytes fit.
                unsafe { _mm_storeu_si128(target.as_mut_ptr().cast(), bytes) };
            }
        }
    }
}

/// Sums of sixteen target bytes in each of some rows, by each digit of the weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn digits<const ROWS: usize, const WIDE: bool>(
    fours: &[Fours],
    rows: &[&[u8]; ROWS],
) -> [[__m512i; DIGITS]; ROWS] {
    let mut sums = [[_mm512_setzero_si512(); DIGITS]; ROWS];
    for four in fours {
        let index = line(&four.index);
        let weights = [
            line(&four.digits[0]),
            line(&four.digits[1]),
            line(&four.digits[2]),
        ];
        for (sums, row) in sums.iter_mut().zip(rows) {
            let bytes = pick::<WIDE>(row, four.at, index, u64::MAX);
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm512_dpbusd_epi32(*sum, bytes, weights);
            }
        }
    }
    sums
}

/// [`super::Spread`] without its tables: quotients by multiplication with the inverse and one
/// correction, which gives each of the 256 values as division does, or is not used.
#[derive(Debug)]
pub struct Spread {
    mean: [f32; 3],
    std: [f32; 3],
}

impl Spread {
    /// `None` if the machine lacks instructions, or a value is not the table's.
    pub fn new(mean: [f32; 3], std: [f32; 3], tables: &[[f32; 256]; 3]) -> Option<Self> {
        if !available() {
            return None;
        }
        let spread = Self { mean, std };
        let bytes: Vec<u8> = (0..=u8::MAX).flat_map(|value| [value; 3]).collect();
        let mut found = [[0.0_f32; 256]; 3];
        spread.run(found.each_mut().map(<[f32; 256]>::as_mut_slice), &bytes);
        let same = found.as_flattened().iter().zip(tables.as_flattened());
        let mut same = same.map(|(a, b)| a.to_bits() == b.to_bits());
        same.all(|same| same).then_some(spread)
    }

    /// See [`super::Spread::run`].
    pub fn run(&self, planes: [&mut [f32]; 3], bytes: &[u8]) {
        // SAFETY: there is one only where the instructions are.
        unsafe { self.spread(planes, bytes) };
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn spread(&self, planes: [&mut [f32]; 3], bytes: &[u8]) {
        /// The lowest byte of each double word; the others become zero.
        const LOWEST: u64 = 0x1111_1111_1111_1111;
        let pixels = planes.iter().map(|plane| plane.len()).min().unwrap_or(0);
        let pixels = pixels.min(bytes.len() / 3);
        let thirds = _mm512_mullo_epi32(
            _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
            _mm512_set1_epi32(3),
        );
        let mut planes = planes;
        let mut channels = [Channel::default(); 3];
        for (channel, (mean, std)) in channels.iter_mut().zip(self.mean.iter().zip(self.std)) {
            *channel = Channel {
                mean: *mean,
                std,
                inverse: 1.0 / std,
            };
        }
        for start in (0..pixels).step_by(STEP) {
            let source = load(bytes, 3 * start);
            let count = (pixels - start).min(STEP);
            let mask = u16::MAX >> (STEP - count);
            for (at, (plane, channel)) in planes.iter_mut().zip(&channels).enumerate() {
                let index = _mm512_add_epi32(thirds, _mm512_set1_epi32(at as i32));
                let values = _mm512_maskz_permutexvar_epi8(LOWEST, index, source);
                let values = channel.normalised(_mm512_cvtepi32_ps(values));
                let target = &mut plane[start..start + count];
                // SAFETY: the mask has as many numbers as the target.
                unsafe { _mm512_mask_storeu_ps(target.as_mut_ptr(), mask, values) };
            }
        }
    }
}

/// How values of a channel become numbers.
#[derive(Clone, Copy, Default)]
struct Channel {
    mean: f32,
    std: f32,
    /// Of the standard deviation.
    inverse: f32,
}

impl Channel {
    #[target_feature(enable = "avx512f")]
    fn normalised(&self, values: __m512) -> __m512 {
        let unit = quotient(values, 255.0, 1.0 / 255.0);
        let centred = _mm512_sub_ps(unit, _mm512_set1_ps(self.mean));
        quotient(centred, self.std, self.inverse)
    }
}

/// `x / divisor`, nearly always as division rounds it.
#[target_feature(enable = "avx512f")]
fn quotient(x: __m512, divisor: f32, inverse: f32) -> __m512 {
    let inverse = _mm512_set1_ps(inverse);
    let quotient = _mm512_mul_ps(x, inverse);
    let rest = _mm512_fnmadd_ps(quotient, _mm512_set1_ps(divisor), x);
    _mm512_fmadd_ps(rest, inverse, quotient)
}
