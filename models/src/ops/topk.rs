//! Which of many numbers is the largest, and which are the `k` largest, row by row.

use candle_core::{DType, Device, Result, Tensor};

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
        fn equals_a_full_sort(values in prop::collection::vec(-100_i32..100, 0..200), k in 0_usize..220) {
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            let mut sorted: Vec<u32> = (0..values.len() as u32).collect();
            sorted.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
            sorted.truncate(k);
            prop_assert_eq!(top_k(&values, k), sorted);
        }
    }
}
