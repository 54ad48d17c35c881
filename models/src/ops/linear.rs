//! The end of a linear layer: bias and activation, in one pass over what the matrix product left.

use candle_core::{CpuStorage, CudaStorage, DType, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Activation, cpu};

/// Numbers below which threads cost more than they bring.
const MIN_PER_THREAD: usize = 16 * 1024;

/// Adds `bias` (`[size]`) to every row of `x` (`[rows, size]`) and applies the activation.
///
/// `x` is taken by value because it is changed in place where no gradient is asked for: nobody
/// else may hold it.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn add_bias(x: Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[&x, bias]) {
        return cuda::tensors::add_bias(&device, &x, bias, activation);
    }
    let fused = x.device().is_cpu()
        && x.dtype() == DType::F32
        && x.is_contiguous()
        && !x.track_op()
        && !bias.track_op();
    if !fused {
        return activation.apply(&x.broadcast_add(bias)?);
    }
    if x.dims2()?.1 != bias.dims1()? {
        candle_core::bail!("a bias of {:?} does not fit {:?}", bias.dims(), x.dims());
    }
    x.inplace_op2(&bias.contiguous()?, &AddBias(activation))?;
    Ok(x)
}

struct AddBias(Activation);

impl InplaceOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(
        &self,
        rows: &mut CpuStorage,
        rows_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (
            CpuStorage::F32(rows),
            Some((start, end)),
            CpuStorage::F32(bias),
            Some((bias_start, bias_end)),
        ) = (
            rows,
            rows_layout.contiguous_offsets(),
            bias,
            bias_layout.contiguous_offsets(),
        )
        else {
            candle_core::bail!("a fused bias needs contiguous f32");
        };
        let bias = &bias[bias_start..bias_end];
        if bias.is_empty() {
            return Ok(());
        }
        let together = (MIN_PER_THREAD / bias.len()).max(1) * bias.len();
        rows[start..end].par_chunks_mut(together).for_each(|rows| {
            for row in rows.chunks_exact_mut(bias.len()) {
                cpu::math::row_epilogue(row, bias, self.0);
            }
        });
        Ok(())
    }

    fn cuda_fwd(&self, _: &mut CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("the fused bias runs on the CPU alone")
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    // A variable's gradient forces the plain way, so both are here.
    #[test]
    fn both_ways_are_one() {
        let numbers: Vec<f32> = (0..35).map(|i| i as f32 * 0.3 - 4.0).collect();
        let bias = Tensor::new(&[0.5_f32, -1.0, 0.0, 2.0, 0.25], &Device::Cpu).unwrap();
        let x = Tensor::from_vec(numbers, (7, 5), &Device::Cpu).unwrap();
        for activation in [
            Activation::Identity,
            Activation::Relu,
            Activation::QuickGelu,
        ] {
            let plain = Var::from_tensor(&x).unwrap();
            let plain = add_bias(plain.as_tensor().clone(), &bias, activation).unwrap();
            let fused = add_bias(x.copy().unwrap(), &bias, activation).unwrap();
            let off = (plain - fused).unwrap().abs().unwrap();
            let off = off.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 2e-6, "{activation:?}: {off}");
        }
        let short = bias.narrow(0, 0, 3).unwrap();
        assert!(add_bias(x, &short, Activation::Identity).is_err());
    }
}
