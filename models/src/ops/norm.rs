//! Layer norm (Ba et al., 2016) over the last dimension.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};

use super::cpu;
#[cfg(feature = "cuda")]
use super::cuda;

/// Norms every row of `x` (`[.., size]`) to mean 0 and variance 1, times `weight` plus `bias`
/// (`[size]`).
///
/// candle's own subtracts squares that may be almost equal; with rows whose mean is large against
/// their spread, as those of deep transformers, that costs two digits.
///
/// # Errors
/// The shapes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let size = x.dims().last().copied().unwrap_or(0);
    if size == 0 || weight.dims() != [size] || bias.dims() != [size] {
        candle_core::bail!("layer norm of {:?} by {:?}", x.dims(), weight.dims());
    }
    let tracked = x.track_op() || weight.track_op() || bias.track_op();
    if tracked {
        return candle_nn::ops::layer_norm_slow(x, weight, bias, eps);
    }
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[x, weight, bias]) {
        return cuda::tensors::layer_norm(&device, x, weight, bias, eps);
    }
    let x = x.contiguous()?;
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        let op = CpuLayerNorm { eps };
        return x.apply_op3_no_bwd(&weight.contiguous()?, &bias.contiguous()?, &op);
    }
    candle_nn::ops::layer_norm(&x, weight, bias, eps)
}

struct CpuLayerNorm {
    eps: f32,
}

impl CustomOp3 for CpuLayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let normed = cpu::norm::layer_norm(
            numbers(x, x_layout)?,
            numbers(weight, weight_layout)?,
            numbers(bias, bias_layout)?,
            self.eps,
        );
        Ok((CpuStorage::F32(normed), x_layout.shape().clone()))
    }
}

fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&data[start..end]),
        _ => candle_core::bail!("fused layer norm needs contiguous f32"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::made_up;

    // By the definition, in double precision; rows around 0 and around 100.
    #[test]
    fn rows_get_mean_and_spread() {
        let size = 77;
        let weight = made_up("norm.weight", &[size]);
        let bias = made_up("norm.bias", &[size]);
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        for centre in [0.0_f32, 100.0] {
            let row: Vec<f32> = made_up("row.bias", &[size])
                .iter()
                .map(|v| v * 10.0 + centre)
                .collect();
            let wide: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
            let mean = wide.iter().sum::<f64>() / size as f64;
            let variance = wide.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / size as f64;
            let found = layer_norm(&tensor(&row), &tensor(&weight), &tensor(&bias), 1e-5).unwrap();
            for (index, found) in found.to_vec1::<f32>().unwrap().into_iter().enumerate() {
                let normed = (wide[index] - mean) / (variance + 1e-5).sqrt();
                let expected = normed * f64::from(weight[index]) + f64::from(bias[index]);
                // A number near 100 is itself rounded to 4e-6 of a spread of half of one.
                let off = (f64::from(found) - expected).abs();
                assert!(off < 2e-5, "{centre}, {index}: off by {off}");
            }
        }
        assert!(layer_norm(&tensor(&weight), &tensor(&bias[1..]), &tensor(&bias), 1e-5).is_err());
    }
}
