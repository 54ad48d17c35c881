//! Deformable attention's sampling: gathers and mixes, without a grid in between.

#![allow(unsafe_code)] // vector instructions

use half::bf16;
use rayon::prelude::*;

use super::block::Precision;
use super::simd::dispatch;
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};
use crate::ops::SampleShape;

/// Queries that one thread takes at a time.
const QUERIES: usize = 16;

/// See [`crate::ops::deformable_attention`]; `dims` is `[batch, queries, heads, size]`.
pub fn run(
    value: &[f32],
    locations: &[f32],
    weights: &[f32],
    shape: &SampleShape,
    dims: [usize; 4],
) -> Vec<f32> {
    let [batch, queries, heads, size] = dims;
    let row = heads * size;
    let cells = shape.total_cells();
    let samples = Samples {
        locations,
        weights,
        shape,
    };
    let mut output = vec![0.0; batch * queries * row];
    for (image, output) in output.chunks_exact_mut((queries * row).max(1)).enumerate() {
        let value = &value[image * cells * row..(image + 1) * cells * row];
        output
            .par_chunks_mut(QUERIES * row)
            .enumerate()
            .for_each(|(chunk, output)| {
                let first = (image * queries + chunk * QUERIES) * heads;
                let mut found = Vec::with_capacity(4 * shape.total_points());
                for (index, sums) in output.chunks_exact_mut(size).enumerate() {
                    samples.corners(first + index, row, &mut found);
                    let head = (first + index) % heads;
                    mix(&value[head * size..], &found, sums);
                }
            });
    }
    output
}

/// Where a corner's numbers begin, and their factor.
pub type Corner = (usize, f32);

/// Where the heads of all queries look, and how they weigh what is there.
#[derive(Clone, Copy)]
pub struct Samples<'a> {
    /// `[batch, queries, heads, points, 2]`.
    pub locations: &'a [f32],
    /// `[batch, queries, heads, points]`.
    pub weights: &'a [f32],
    /// The levels.
    pub shape: &'a SampleShape,
}

impl Samples<'_> {
    /// The corners that lie inside, of all samples of head `index`, counted through all queries; cells
    /// are `row` numbers apart.
    pub fn corners(&self, index: usize, row: usize, corners: &mut Vec<Corner>) {
        inner_corners(self, index, row, corners);
    }
}

dispatch! {
    // With an instruction that rounds down.
    fn inner_corners(samples: &Samples<'_>, index: usize, row: usize, corners: &mut Vec<Corner>) = inner_corners_body
}

#[inline(always)]
fn inner_corners_body(samples: &Samples<'_>, index: usize, row: usize, corners: &mut Vec<Corner>) {
    corners.clear();
    let shape = samples.shape;
    let points = shape.total_points();
    let at = index * points;
    let locations = &samples.locations[at * 2..(at + points) * 2];
    let mut samples = locations
        .chunks_exact(2)
        .zip(&samples.weights[at..at + points]);
    let mut first_cell = 0;
    for (&(height, width), &count) in shape.levels.iter().zip(&shape.points) {
        for (location, weight) in samples.by_ref().take(count) {
            let x = location[0] * width as f32 - 0.5;
            let y = location[1] * height as f32 - 0.5;
            let (x0, y0) = (x.floor(), y.floor());
            let (fx, fy) = (x - x0, y - y0);
            for (dx, dy, near) in [
                (0.0, 0.0, (1.0 - fx) * (1.0 - fy)),
                (1.0, 0.0, fx * (1.0 - fy)),
                (0.0, 1.0, (1.0 - fx) * fy),
                (1.0, 1.0, fx * fy),
            ] {
                let (cx, cy) = (x0 + dx, y0 + dy);
                // Also false for NaN: such a sample counts as outside.
                let inside = cx >= 0.0 && cy >= 0.0 && cx < width as f32 && cy < height as f32;
                if inside {
                    let cell = first_cell + cy as usize * width + cx as usize;
                    corners.push((cell * row, near * weight));
                }
            }
        }
        first_cell += height * width;
    }
}

/// The sum of the corners' numbers times their factors, from each corner's start in `value` on.
pub fn mix(value: &[f32], corners: &[Corner], sums: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: the machine has the instructions.
        return unsafe { avx512::mix(value, corners, sums) };
    }
    mix_plain(value, corners, sums);
}

/// The same of bfloat16, which memory gives twice as fast; sums are f32, and rounded to bfloat16 in the end,
/// two neighbours a word.
///
/// # Panics
/// On machines without [`super::block::Precision::Bf16`].
pub fn mix_halves(value: &[bf16], corners: &[Corner], words: &mut [u32]) {
    assert!(Precision::Bf16.available());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the machine has the instructions.
    unsafe {
        avx512::mix_halves(value, corners, words);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _: (&[bf16], &[Corner], &mut [u32]) = (value, corners, words);
}

#[inline(always)]
fn mix_plain_body(value: &[f32], corners: &[Corner], sums: &mut [f32]) {
    /// Sums that registers hold.
    const TOGETHER: usize = 64;
    for (part, sums) in sums.chunks_mut(TOGETHER).enumerate() {
        let mut together = [0.0; TOGETHER];
        for &(start, factor) in corners {
            let source = &value[start + part * TOGETHER..][..sums.len()];
            if let Ok(source) = <&[f32; TOGETHER]>::try_from(source) {
                for (sum, value) in together.iter_mut().zip(source) {
                    *sum += factor * value;
                }
                continue;
            }
            for (sum, value) in together.iter_mut().zip(source) {
                *sum += factor * value;
            }
        }
        sums.copy_from_slice(&together[..sums.len()]);
    }
}

dispatch! {
    fn mix_plain(value: &[f32], corners: &[Corner], sums: &mut [f32]) = mix_plain_body
}

/// The same with sums in registers.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps,
        _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi32,
        _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_slli_epi32,
    };

    use half::bf16;

    use super::Corner;
    use crate::ops::cpu::simd::within;
    use crate::ops::cpu::words::in_turn;

    const LANES: usize = 16;

    /// Corners that are asked for before their turn.
    const AHEAD: usize = 2;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub fn mix(value: &[f32], corners: &[Corner], sums: &mut [f32]) {
        for (part, sums) in sums.chunks_mut(16 * LANES).enumerate() {
            let value = &value[part * 16 * LANES..];
            match sums.len().div_ceil(LANES) {
                1 => vectors::<1>(value, corners, sums),
                2 => vectors::<2>(value, corners, sums),
                3 | 4 => vectors::<4>(value, corners, sums),
                5..=8 => vectors::<8>(value, corners, sums),
                _ => vectors::<16>(value, corners, sums),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn vectors<const VECTORS: usize>(value: &[f32], corners: &[Corner], sums: &mut [f32]) {
        let masks: [u16; VECTORS] =
            std::array::from_fn(|vector| within((vector * LANES) as isize, sums.len()));
        let mut together = [_mm512_setzero_ps(); VECTORS];
        for (index, &(start, factor)) in corners.iter().enumerate() {
            let source = value[start..start + sums.len()].as_ptr();
            let ahead = corners
                .get(index + AHEAD)
                .map_or(source, |corner| value.as_ptr().wrapping_add(corner.0));
            let factor = _mm512_set1_ps(factor);
            for vector in 0..VECTORS {
                // SAFETY: masks leave out what is beyond the sums; a prefetch does not fault.
                let value = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(vector * LANES).cast());
                    _mm512_maskz_loadu_ps(masks[vector], source.wrapping_add(vector * LANES))
                };
                together[vector] = _mm512_fmadd_ps(value, factor, together[vector]);
            }
        }
        for (vector, sum) in together.iter().enumerate() {
            let target = sums.as_mut_ptr().wrapping_add(vector * LANES);
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(target, masks[vector], *sum) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub fn mix_halves(value: &[bf16], corners: &[Corner], words: &mut [u32]) {
        for (part, words) in words.chunks_mut(8 * LANES).enumerate() {
            let value = &value[part * 2 * 8 * LANES..];
            match words.len().div_ceil(LANES) {
                1 => pairs::<1>(value, corners, words),
                2 => pairs::<2>(value, corners, words),
                3 | 4 => pairs::<4>(value, corners, words),
                _ => pairs::<8>(value, corners, words),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    fn pairs<const VECTORS: usize>(value: &[bf16], corners: &[Corner], words: &mut [u32]) {
        let upper = _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed());
        let masks: [u16; VECTORS] =
            std::array::from_fn(|vector| within((vector * LANES) as isize, words.len()));
        let mut even = [_mm512_setzero_ps(); VECTORS];
        let mut odd = [_mm512_setzero_ps(); VECTORS];
        for (index, &(start, factor)) in corners.iter().enumerate() {
            let source = value[start..start + 2 * words.len()].as_ptr();
            let ahead = corners
                .get(index + AHEAD)
                .map_or(source, |corner| value.as_ptr().wrapping_add(corner.0));
            let factor = _mm512_set1_ps(factor);
            for vector in 0..VECTORS {
                // SAFETY: masks leave out what is beyond the words; a prefetch does not fault.
                let both = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(vector * 2 * LANES).cast());
                    let source = source.wrapping_add(vector * 2 * LANES);
                    _mm512_maskz_loadu_epi32(masks[vector], source.cast())
                };
                let first = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(both));
                let second = _mm512_castsi512_ps(_mm512_and_si512(both, upper));
                even[vector] = _mm512_fmadd_ps(first, factor, even[vector]);
                odd[vector] = _mm512_fmadd_ps(second, factor, odd[vector]);
            }
        }
        for (vector, (even, odd)) in even.into_iter().zip(odd).enumerate() {
            let target = words.as_mut_ptr().wrapping_add(vector * LANES).cast();
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_epi32(target, masks[vector], in_turn(even, odd)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Result, Tensor};

    use crate::ops::{SampleShape, deformable_attention, reference};

    // The plain version follows PyTorch's grid_sample; the whole network's parity proves that.
    #[test]
    fn equals_the_plain_version_inside_and_outside() -> Result<()> {
        let device = Device::Cpu;
        let shape = SampleShape {
            levels: vec![(7, 5), (4, 3), (1, 2)],
            points: vec![4, 3, 2],
        };
        for (batch, queries, heads, size) in [(1, 1, 1, 1), (2, 37, 3, 8), (3, 16, 8, 32)] {
            let value = Tensor::randn(
                0_f32,
                1.0,
                (batch, shape.total_cells(), heads, size),
                &device,
            )?;
            // A fifth of the samples and more lie outside.
            let locations = Tensor::rand(-0.3_f32, 1.3, (batch, queries, heads, 9, 2), &device)?;
            let weights = Tensor::rand(0_f32, 1.0, (batch, queries, heads, 9), &device)?;
            let expected = reference::deformable_attention(&value, &locations, &weights, &shape)?;
            let found = deformable_attention(&value, &locations, &weights, &shape)?;
            let error = (expected - found)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(error < 1e-5, "off by {error}");
        }
        Ok(())
    }
}
