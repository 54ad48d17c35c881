//! Deformable attention's sampling: gathers and mixes, without a grid in between.

#![allow(unsafe_code)] // vector instructions

use rayon::prelude::*;

use super::simd::{Level, dispatch, level};
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
    let mut output = vec![0.0; batch * queries * row];
    for (image, output) in output.chunks_exact_mut((queries * row).max(1)).enumerate() {
        let value = &value[image * cells * row..(image + 1) * cells * row];
        output
            .par_chunks_mut(QUERIES * row)
            .enumerate()
            .for_each(|(chunk, output)| {
                let first = image * queries + chunk * QUERIES;
                let block = Block {
                    value,
                    locations,
                    weights,
                    shape,
                    first,
                    heads,
                    size,
                };
                sample(output, block);
            });
    }
    output
}

#[derive(Clone, Copy)]
struct Block<'a> {
    value: &'a [f32],
    locations: &'a [f32],
    weights: &'a [f32],
    shape: &'a SampleShape,
    /// Index of the first query of this block, over the whole batch.
    first: usize,
    heads: usize,
    size: usize,
}

/// Where a corner's numbers begin, and their factor.
type Corner = (usize, f32);

/// The corners of all samples of one head of one query that lie inside.
#[inline(always)]
fn corners(block: &Block<'_>, index: usize, corners: &mut Vec<Corner>) {
    corners.clear();
    let points = block.shape.total_points();
    let head = index % block.heads;
    let at = (block.first * block.heads + index) * points;
    let locations = &block.locations[at * 2..(at + points) * 2];
    let mut samples = locations
        .chunks_exact(2)
        .zip(&block.weights[at..at + points]);
    let mut first_cell = 0;
    for (&(height, width), &count) in block.shape.levels.iter().zip(&block.shape.points) {
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
                    corners.push(((cell * block.heads + head) * block.size, near * weight));
                }
            }
        }
        first_cell += height * width;
    }
}

#[inline(always)]
fn sample_plain_body(output: &mut [f32], block: Block<'_>) {
    let mut found = Vec::with_capacity(4 * block.shape.total_points());
    for (index, sum) in output.chunks_exact_mut(block.size).enumerate() {
        corners(&block, index, &mut found);
        for &(start, factor) in &found {
            let source = &block.value[start..start + block.size];
            for (out, value) in sum.iter_mut().zip(source) {
                *out += factor * value;
            }
        }
    }
}

dispatch! {
    fn sample_plain(output: &mut [f32], block: Block<'_>) = sample_plain_body
}

fn sample(output: &mut [f32], block: Block<'_>) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: the machine has the instructions.
        return unsafe { avx512(output, block) };
    }
    sample_plain(output, block);
}

/// The same with sums in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512(output: &mut [f32], block: Block<'_>) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps,
    };
    const LANES: usize = 16;
    let mut found = Vec::with_capacity(4 * block.shape.total_points());
    for (index, sums) in output.chunks_exact_mut(block.size).enumerate() {
        corners(&block, index, &mut found);
        for (part, sums) in sums.chunks_mut(LANES).enumerate() {
            let mask = u16::MAX >> (LANES - sums.len());
            let mut sum = _mm512_setzero_ps();
            for &(start, factor) in &found {
                let source = &block.value[start..start + block.size];
                // SAFETY: masks leave out what is beyond the head's numbers.
                let value = unsafe {
                    _mm512_maskz_loadu_ps(mask, source.as_ptr().wrapping_add(part * LANES))
                };
                sum = _mm512_fmadd_ps(value, _mm512_set1_ps(factor), sum);
            }
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(sums.as_mut_ptr(), mask, sum) };
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
