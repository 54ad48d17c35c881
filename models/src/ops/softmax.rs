//! Softmax over the last dimension.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::cpu;
use super::cpu::math::exp;
use super::cpu::simd::dispatch;
#[cfg(feature = "cuda")]
use super::cuda;
use super::planes::{fused, with_numbers};

/// Cells that [`expectations`] takes at a time: so many stay in registers.
pub const TOGETHER: usize = 16;

/// Numbers that a thread takes at least.
const MIN_PER_THREAD: usize = 4 * 1024;

/// Every row of neighbours to positive numbers whose sum is 1; gradients flow through.
///
/// # Errors
/// `x` has no dimension, or the device fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[x]) {
        return cuda::tensors::softmax(&device, x);
    }
    let size = x.dim(D::Minus1)?;
    if !fused(&[x]) || size == 0 {
        return candle_nn::ops::softmax(x, D::Minus1);
    }
    let output = with_numbers(&[x], |numbers| {
        let mut output = numbers[0].to_vec();
        let together = (MIN_PER_THREAD / size).max(1) * size;
        output.par_chunks_mut(together).for_each(|rows| {
            rows.chunks_exact_mut(size).for_each(cpu::math::softmax);
        });
        output
    })?;
    Tensor::from_vec(output, x.shape(), x.device())
}

/// The mean of `values`, `[n]`, under the softmax of every row: `[rows, n]` to `[rows]`.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn expectations_of_rows(x: &Tensor, values: &Tensor) -> Result<Tensor> {
    let (rows, size) = x.dims2()?;
    if values.dims1()? != size {
        candle_core::bail!("{:?} values for rows of {size}", values.dims());
    }
    if !fused(&[x, values]) || size == 0 {
        return softmax(x)?.matmul(&values.unsqueeze(1)?)?.squeeze(1);
    }
    let output: Vec<f32> = with_numbers(&[x, values], |numbers| {
        let rows = numbers[0].chunks_exact(size);
        rows.map(|row| cpu::math::expectation(row, numbers[1]))
            .collect()
    })?;
    Tensor::from_vec(output, rows, x.device())
}

dispatch! {
    /// The means of neighbouring cells, at most [`TOGETHER`], under the softmax over planes, each of which stands
    /// for one of `values`. `planes` begins with the first of the cells; planes are `pitch` numbers apart.
    ///
    /// # Panics
    /// If the planes are too few or too short.
    pub fn expectations(means: &mut [f32], planes: &[f32], pitch: usize, values: &[f32]) =
        expectations_body
}

#[inline(always)]
fn expectations_body(means: &mut [f32], planes: &[f32], pitch: usize, values: &[f32]) {
    let all = if means.len() == TOGETHER {
        means_of(TOGETHER, planes, pitch, values)
    } else {
        means_of(means.len(), planes, pitch, values)
    };
    means.copy_from_slice(&all[..means.len()]);
}

/// Inlined for a count that is known, loops over cells become vectors.
#[inline(always)]
fn means_of(count: usize, planes: &[f32], pitch: usize, values: &[f32]) -> [f32; TOGETHER] {
    let plane = |index: usize| &planes[index * pitch..index * pitch + count];
    let mut most = [f32::NEG_INFINITY; TOGETHER];
    for index in 0..values.len() {
        for (most, x) in most[..count].iter_mut().zip(plane(index)) {
            *most = most.max(*x);
        }
    }
    let (mut sums, mut means) = ([0.0_f32; TOGETHER], [0.0_f32; TOGETHER]);
    for (index, value) in values.iter().enumerate() {
        let cells = sums[..count].iter_mut().zip(&mut means).zip(&most);
        for (((sum, mean), most), x) in cells.zip(plane(index)) {
            let share = exp(x - most);
            *sum += share;
            *mean += share * value;
        }
    }
    for (mean, sum) in means.iter_mut().zip(sums) {
        *mean /= sum;
    }
    means
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::made_up;

    // candle's softmax is the yardstick.
    #[test]
    fn rows_are_those_of_candle() {
        for shape in [[1, 1], [7, 33], [900, 80]] {
            let x = Tensor::from_vec(made_up("softmax.weight", &shape), &shape, &Device::Cpu);
            let x = (x.unwrap() * 20.0).unwrap();
            let expected = candle_nn::ops::softmax(&x, D::Minus1).unwrap();
            let off = (softmax(&x).unwrap() - expected).unwrap().abs().unwrap();
            let off = off.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-6, "{off}");
        }
    }

    proptest! {
        // By the definition, in double precision; numbers of any size, cells anywhere.
        #[test]
        fn expectations_are_those_of_the_definition(
            cells in 1_usize..=TOGETHER, planes in 1_usize..20, more in 0_usize..9, size in -3_i32..5,
        ) {
            let pitch = cells + more;
            let numbers = made_up("expectations.weight", &[planes, pitch]);
            let numbers: Vec<f32> = numbers.iter().map(|x| x * 4_f32.powi(size)).collect();
            let values: Vec<f32> = (0..planes).map(|at| at as f32 - 2.5).collect();
            let mut means = vec![0.0; cells];
            let numbers = &numbers[..(planes - 1) * pitch + cells];
            expectations(&mut means, numbers, pitch, &values);
            for (cell, mean) in means.iter().enumerate() {
                let exps = numbers[cell..].iter().step_by(pitch).map(|x| f64::from(*x).exp());
                let (mut sum, mut expected) = (0.0, 0.0);
                for (share, value) in exps.zip(&values) {
                    sum += share;
                    expected += share * f64::from(*value);
                }
                let off = (f64::from(*mean) - expected / sum).abs();
                prop_assert!(off < 2e-5, "{mean} is not {}", expected / sum);
            }
        }
    }

    proptest! {
        // By the definition, in double precision; the plain way too, which a gradient that is asked for forces.
        #[test]
        fn expectations_of_rows_are_those_of_the_definition(
            rows in 1_usize..9, count in 1_usize..70, size in -3_i32..5, plain: bool,
        ) {
            let numbers = made_up("expectations.weight", &[rows, count]);
            let numbers: Vec<f32> = numbers.iter().map(|x| x * 4_f32.powi(size)).collect();
            let values: Vec<f32> = (0..count).map(|at| (at % 7) as f32 - 2.5).collect();
            let device = &Device::Cpu;
            let x = Tensor::from_slice(&numbers, (rows, count), device).unwrap();
            let x = if plain { Var::from_tensor(&x).unwrap().into_inner() } else { x };
            let of_values = Tensor::from_slice(&values, count, device).unwrap();
            let means = expectations_of_rows(&x, &of_values).unwrap().to_vec1::<f32>().unwrap();
            for (row, mean) in numbers.chunks_exact(count).zip(means) {
                let exps = row.iter().map(|x| f64::from(*x).exp());
                let sum: f64 = exps.clone().sum();
                let expected = exps.zip(&values).map(|(exp, value)| exp * f64::from(*value)).sum::<f64>() / sum;
                prop_assert!((f64::from(mean) - expected).abs() < 2e-5, "{mean} is not {expected}");
            }
        }
    }

    #[test]
    fn rows_and_values_that_differ_in_length_are_errors() {
        let row = |count: usize| Tensor::zeros((1, count), DType::F32, &Device::Cpu).unwrap();
        let values = row(5).squeeze(0).unwrap();
        assert!(expectations_of_rows(&row(5), &values).is_ok());
        assert!(expectations_of_rows(&row(6), &values).is_err());
    }

    #[test]
    fn what_is_no_number_has_no_mean() {
        let mut means = [0.0; 2];
        expectations(&mut means, &[1.0, f32::NAN, 2.0, 0.0], 2, &[0.0, 1.0]);
        assert!(means[0].is_finite() && means[1].is_nan());
        assert!(cpu::math::expectation(&[1.0, f32::NAN, 0.0], &[0.0, 1.0, 2.0]).is_nan());
    }
}
