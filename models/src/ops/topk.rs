//! Batched top-k: which of many numbers are the largest.

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
