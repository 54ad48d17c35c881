//! Inner products of a panel of vectors with many others: sums stay in registers while the numbers
//! of both pass by.
//!
//! Every sum is taken in one order, from the first number to the last, whatever it is computed
//! together with; with fused multiply-add (AVX2 and later, 64-bit ARM) it is the same to the last bit on every machine.

#![allow(unsafe_code)] // vector instructions

use super::simd::{Level, level};

/// Vectors of a panel, which lie interleaved: `[dim, PANEL]`.
pub const PANEL: usize = 32;

/// Vectors of a group on the other side: `[dim, GROUP]`.
pub const GROUP: usize = 12;

/// Products of a panel with the first `count` vectors of a group: `output` is `[count, PANEL]`.
///
/// # Panics
/// If `count` is more than [`GROUP`] or `output` is too short.
pub fn products(panel: &[f32], group: &[f32], count: usize, output: &mut [f32]) {
    products_at(level(), panel, group, count, output);
}

fn products_at(level: Level, panel: &[f32], group: &[f32], count: usize, output: &mut [f32]) {
    assert!(count <= GROUP, "{count} vectors of a group of {GROUP}");
    let mut first = 0;
    while first < count {
        let output = &mut output[first * PANEL..count * PANEL];
        first += match level {
            // SAFETY: the features that these need were found.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512_part(panel, group, first, output) },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2_part(panel, group, first, output) },
            _ => {
                plain(panel, group, first, output);
                1
            }
        };
    }
}

/// As many vectors as fit the registers and `output` has room for; tells how many.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512_part(panel: &[f32], group: &[f32], first: usize, output: &mut [f32]) -> usize {
    match output.len() / PANEL {
        12.. => avx512::<12>(panel, group, first, output),
        8.. => avx512::<8>(panel, group, first, output),
        4.. => avx512::<4>(panel, group, first, output),
        2.. => avx512::<2>(panel, group, first, output),
        _ => avx512::<1>(panel, group, first, output),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512<const Q: usize>(panel: &[f32], group: &[f32], first: usize, output: &mut [f32]) -> usize {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    const LANES: usize = 16;
    let mut sums = [[_mm512_setzero_ps(); PANEL / LANES]; Q];
    for (values, factors) in panel.chunks_exact(PANEL).zip(group.chunks_exact(GROUP)) {
        let Some(factors) = factors[first..].first_chunk::<Q>() else {
            break;
        };
        // SAFETY: `values` holds PANEL numbers, loads need no alignment.
        let values: [_; PANEL / LANES] = std::array::from_fn(|vector| unsafe {
            _mm512_loadu_ps(values[vector * LANES..].as_ptr())
        });
        for (sums, factor) in sums.iter_mut().zip(factors) {
            let factor = _mm512_set1_ps(*factor);
            for (sum, value) in sums.iter_mut().zip(&values) {
                *sum = _mm512_fmadd_ps(*value, factor, *sum);
            }
        }
    }
    for (output, sum) in output.chunks_exact_mut(LANES).zip(sums.iter().flatten()) {
        // SAFETY: the chunk holds LANES numbers, stores need no alignment.
        unsafe { _mm512_storeu_ps(output.as_mut_ptr(), *sum) };
    }
    Q
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_part(panel: &[f32], group: &[f32], first: usize, output: &mut [f32]) -> usize {
    match output.len() / PANEL {
        6.. => avx2::<6>(panel, group, first, output),
        4.. => avx2::<4>(panel, group, first, output),
        2.. => avx2::<2>(panel, group, first, output),
        _ => avx2::<1>(panel, group, first, output),
    }
}

/// Half a panel at a time: there are only 16 registers of 8 numbers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<const Q: usize>(panel: &[f32], group: &[f32], first: usize, output: &mut [f32]) -> usize {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    const LANES: usize = 8;
    const HALF: usize = PANEL / 2;
    for start in [0, HALF] {
        let mut sums = [[_mm256_setzero_ps(); HALF / LANES]; Q];
        for (values, factors) in panel.chunks_exact(PANEL).zip(group.chunks_exact(GROUP)) {
            let Some(factors) = factors[first..].first_chunk::<Q>() else {
                break;
            };
            // SAFETY: `values` holds PANEL numbers, loads need no alignment.
            let values: [_; HALF / LANES] = std::array::from_fn(|vector| unsafe {
                _mm256_loadu_ps(
                    values[start + vector * LANES..start + (vector + 1) * LANES].as_ptr(),
                )
            });
            for (sums, factor) in sums.iter_mut().zip(factors) {
                let factor = _mm256_set1_ps(*factor);
                for (sum, value) in sums.iter_mut().zip(&values) {
                    *sum = _mm256_fmadd_ps(*value, factor, *sum);
                }
            }
        }
        for (output, sums) in output.chunks_exact_mut(PANEL).zip(&sums) {
            let output = &mut output[start..start + HALF];
            for (output, sum) in output.chunks_exact_mut(LANES).zip(sums) {
                // SAFETY: the chunk holds LANES numbers, stores need no alignment.
                unsafe { _mm256_storeu_ps(output.as_mut_ptr(), *sum) };
            }
        }
    }
    Q
}

/// One vector of the group, without special instructions.
fn plain(panel: &[f32], group: &[f32], first: usize, output: &mut [f32]) {
    // Where there is no instruction for it, a fused multiply-add is a slow call.
    let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    let mut sums = [0.0_f32; PANEL];
    for (values, factors) in panel.chunks_exact(PANEL).zip(group.chunks_exact(GROUP)) {
        let factor = factors[first];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = if fused {
                value.mul_add(factor, *sum)
            } else {
                value * factor + *sum
            };
        }
    }
    output[..PANEL].copy_from_slice(&sums);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// In f64, number by number.
    fn naive(panel: &[f32], group: &[f32], count: usize) -> Vec<f64> {
        let mut output = vec![0.0; count * PANEL];
        for (values, factors) in panel.chunks_exact(PANEL).zip(group.chunks_exact(GROUP)) {
            for query in 0..count {
                for lane in 0..PANEL {
                    output[query * PANEL + lane] +=
                        f64::from(values[lane]) * f64::from(factors[query]);
                }
            }
        }
        output
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_kernel_gives_the_products(dim in 1_usize..70, count in 1_usize..=GROUP, seed in 0_u32..1000) {
            let number = |i: usize| ((i as f32 + seed as f32) * 12.9898).sin();
            let panel: Vec<f32> = (0..dim * PANEL).map(number).collect();
            let group: Vec<f32> = (0..dim * GROUP).map(|i| number(i * 7 + 3)).collect();
            let expected = naive(&panel, &group, count);
            let levels = [Level::Plain, Level::Avx2, Level::Avx512];
            let mut fused: Option<Vec<f32>> = None;
            for level in levels.into_iter().filter(|wanted| *wanted <= level()) {
                let mut output = vec![0.0; count * PANEL];
                products_at(level, &panel, &group, count, &mut output);
                for (a, b) in output.iter().zip(&expected) {
                    prop_assert!((f64::from(*a) - b).abs() < 1e-4, "{level:?}: {a} {b}");
                }
                if level == Level::Plain {
                    continue;
                }
                if let Some(before) = &fused {
                    prop_assert_eq!(before, &output);
                }
                fused = Some(output);
            }
        }
    }
}
