//! Which of many numbers is the largest, and which are the `k` largest, row by row.

use candle_core::{DType, Device, Result, Tensor};

use super::cpu::simd::dispatch;
use super::planes::with_planes;

/// Indices of the `k` largest of `values`, largest first; equal ones by rising index, NaN last.
pub fn top_k(values: &[f32], k: usize) -> Vec<u32> {
    let key = |&index: &u32| {
        let value = values[index as usize];
        if value.is_nan() {
            f32::NEG_INFINITY
        } else {
            value
        }
    };
    let order = |a: &u32, b: &u32| key(b).total_cmp(&key(a)).then(a.cmp(b));
    let mut indices: Vec<u32> = (0..values.len() as u32).collect();
    let k = k.min(indices.len());
    if k == 0 {
        return Vec::new();
    }
    if k < indices.len() {
        indices.select_nth_unstable_by(k - 1, order);
        indices.truncate(k);
    }
    indices.sort_unstable_by(order);
    indices
}

/// Index and value of the largest number, the first of equal ones; NaN never is.
pub fn best(row: &[f32]) -> Option<(u32, f32)> {
    let mut best: Option<(u32, f32)> = None;
    for (index, &value) in row.iter().enumerate() {
        let larger = best.is_none_or(|(_, largest)| value > largest);
        if larger && !value.is_nan() {
            best = Some((index as u32, value));
        }
    }
    best
}

/// Index and value of a row's largest number; `None` if all are NaN or there are none.
pub type Best = Option<(u32, f32)>;

/// [`best`] of every row of `scores` (`[batch, rows, n]`); what a GPU holds is looked through there,
/// so that two numbers a row come back in place of `n`.
///
/// # Errors
/// The shape does not fit, or the device fails.
pub fn best_of_rows(scores: &Tensor) -> Result<Vec<Vec<Best>>> {
    #[cfg(feature = "cuda")]
    if let Some(device) = super::cuda::tensors::takes(&[scores])
        && scores.elem_count() > 0
    {
        let (batch, rows, _) = scores.dims3()?;
        let flat = scores.flatten(0, 1)?;
        let (indices, values) = super::cuda::tensors::best_of_rows(&device, &flat)?;
        let indices = indices.reshape((batch, rows))?.to_vec2::<u32>()?;
        let values = values.reshape((batch, rows))?.to_vec2::<f32>()?;
        let mut images = Vec::with_capacity(batch);
        for (indices, values) in indices.iter().zip(&values) {
            let both = indices.iter().zip(values);
            let found = both.map(|(&i, &value)| (i != u32::MAX).then_some((i, value)));
            images.push(found.collect());
        }
        return Ok(images);
    }
    let scores = scores.to_dtype(DType::F32)?.to_vec3::<f32>()?;
    let of_image = |image: &Vec<Vec<f32>>| image.iter().map(|row| best(row)).collect();
    Ok(scores.iter().map(of_image).collect())
}

/// [`best`] of every cell over the channels of `x` (`[batch, channels, height, width]`), an image's
/// cells row by row; `None` if `x` is not f32 on the CPU.
///
/// # Errors
/// The shape does not fit.
pub fn best_of_planes(x: &Tensor) -> Result<Option<Vec<Vec<Best>>>> {
    let (_, channels, height, width) = x.dims4()?;
    let cells = height * width;
    if channels * cells == 0 || channels > MOST_CHANNELS {
        return Ok(None);
    }
    with_planes(x, |numbers| {
        let images = numbers.chunks_exact(channels * cells);
        images.map(|planes| best_of(planes, cells)).collect()
    })
}

/// Channels that [`best_of_planes`] counts, exactly, in floating point.
const MOST_CHANNELS: usize = 1 << 24;

/// Cells that are looked through at a time: so many stay in registers.
const CELLS: usize = 64;

fn best_of(planes: &[f32], cells: usize) -> Vec<Best> {
    let mut bests = vec![(f32::NEG_INFINITY, -1.0); cells];
    best_cells(&mut bests, planes);
    let index = |(value, channel): (f32, f32)| (channel >= 0.0).then_some((channel as u32, value));
    bests.into_iter().map(index).collect()
}

dispatch! {
    /// The largest number of every cell over planes of as many cells, and its channel; -1 if there is
    /// none.
    fn best_cells(bests: &mut [(f32, f32)], planes: &[f32]) = best_cells_body
}

#[inline(always)]
fn best_cells_body(bests: &mut [(f32, f32)], planes: &[f32]) {
    let cells = bests.len();
    for (bests, start) in bests.chunks_mut(CELLS).zip((0..).step_by(CELLS)) {
        let mut values = [f32::NEG_INFINITY; CELLS];
        let mut channels = [-1.0_f32; CELLS];
        for (plane, channel) in planes.chunks_exact(cells).zip(0..) {
            let channel = channel as f32;
            let numbers = &plane[start..start + bests.len()];
            if let Ok(numbers) = <&[f32; CELLS]>::try_from(numbers) {
                larger(&mut values, &mut channels, numbers, channel);
            } else {
                larger(&mut values, &mut channels, numbers, channel);
            }
        }
        for (best, both) in bests.iter_mut().zip(values.into_iter().zip(channels)) {
            *best = both;
        }
    }
}

/// Takes what is larger than what is known, or the first that is a number.
#[inline(always)]
fn larger(values: &mut [f32; CELLS], channels: &mut [f32; CELLS], numbers: &[f32], channel: f32) {
    let known = values.iter_mut().zip(channels);
    for ((value, known), &number) in known.zip(numbers) {
        let takes = number > *value || (*known < 0.0 && number == *value);
        *known = if takes { channel } else { *known };
        *value = if takes { number } else { *value };
    }
}

/// Per row of `scores` (`[batch, n]`) the indices of its `k` largest: `[batch, k]`, u32, on the
/// same device.
///
/// # Errors
/// `k` is larger than `n`, or the device fails.
pub fn top_k_indices(scores: &Tensor, k: usize) -> Result<Tensor> {
    let (batch, n) = scores.dims2()?;
    if k > n {
        candle_core::bail!("top-{k} of {n}");
    }
    #[cfg(feature = "cuda")]
    if let Some(device) = super::cuda::tensors::takes(&[scores])
        && let Some(indices) = super::cuda::tensors::top_k_indices(&device, scores, k)?
    {
        return Ok(indices);
    }
    // A few thousand numbers: the way to the host and back costs less than a device-wide sort.
    let rows = scores
        .to_dtype(DType::F32)?
        .to_device(&Device::Cpu)?
        .to_vec2::<f32>()?;
    let mut indices = Vec::with_capacity(batch * k);
    for row in &rows {
        indices.extend(top_k(row, k));
    }
    Tensor::from_vec(indices, (batch, k), scores.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_go_to_the_lower_index_and_nan_comes_last() {
        let values = [1.0, f32::NAN, 3.0, 3.0, -1.0];
        assert_eq!(top_k(&values, 3), [2, 3, 0]);
        assert_eq!(top_k(&values, 9), [2, 3, 0, 4, 1]);
    }

    proptest! {
        #[test]
        fn cells_have_their_best_channel(
            channels in 1_usize..9,
            height in 1_usize..12,
            width in 1_usize..12,
            numbers in prop::collection::vec(-3_i8..5, 2 * 8 * 11 * 11),
        ) {
            let count = 2 * channels * height * width;
            // A few NaN and infinities among them.
            let number = |number: &i8| match number {
                -3 => f32::NAN,
                -2 => f32::NEG_INFINITY,
                number => f32::from(*number),
            };
            let numbers: Vec<f32> = numbers[..count].iter().map(number).collect();
            let x = Tensor::from_vec(numbers, (2, channels, height, width), &Device::Cpu).unwrap();
            let rows = x.flatten_from(2).unwrap().transpose(1, 2).unwrap();
            let expected = best_of_rows(&rows.contiguous().unwrap()).unwrap();
            prop_assert_eq!(best_of_planes(&x).unwrap().unwrap(), expected);
        }

        #[test]
        fn equals_a_full_sort(values in prop::collection::vec(-100_i32..100, 0..200), k in 0_usize..220) {
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            let mut sorted: Vec<u32> = (0..values.len() as u32).collect();
            sorted.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
            sorted.truncate(k);
            prop_assert_eq!(top_k(&values, k), sorted);
        }
    }
}
