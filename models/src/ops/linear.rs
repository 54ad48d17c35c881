//! Linear layers: whole ones with packed weights for inference, and the end of plain ones, bias and
//! activation in one pass over what the matrix product left.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, InplaceOp2, Layout, Result, Shape, Tensor,
};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Activation, Precision, cpu, profile};

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

/// A linear layer with final weights, packed for the CPU.
pub struct Dense(cpu::linear::Packed);

impl Dense {
    /// `weight`: `[output, input]`, `bias`: `[output]`; products in `precision`. `None` where there
    /// is no kernel for it: on other devices, in other types, without AVX-512.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn new(weight: &Tensor, bias: &Tensor, precision: Precision) -> Result<Option<Self>> {
        if weight.dims2()?.0 != bias.dims1()? {
            candle_core::bail!("a bias of {:?} for {:?}", bias.dims(), weight.dims());
        }
        if !weight.device().is_cpu() || weight.dtype() != DType::F32 {
            return Ok(None);
        }
        let weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let packed = cpu::linear::Packed::new(precision, &weight, bias.to_vec1()?);
        Ok(packed.map(Self))
    }

    /// `x`: `[.., input]` to `[.., output]`, followed by `activation`.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        if x.dims().last() != Some(&self.0.sizes().0) {
            candle_core::bail!("a linear layer of {:?} on {:?}", self.0.sizes(), x.dims());
        }
        profile::timed(
            || {
                let (input, output) = self.0.sizes();
                let rows = x.elem_count() / input;
                let operations = 2 * rows * input * output;
                (
                    format!("linear {input} → {output}, {rows} rows"),
                    operations as f64,
                )
            },
            || {
                x.contiguous()?
                    .apply_op1_no_bwd(&Forward(&self.0, activation))
            },
        )
    }
}

struct Forward<'a>(&'a cpu::linear::Packed, Activation);

impl CustomOp1 for Forward<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (Some((start, end)), CpuStorage::F32(data)) = (layout.contiguous_offsets(), storage)
        else {
            candle_core::bail!("a packed linear layer needs contiguous f32");
        };
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.0.sizes().1;
        }
        let output = self.0.run(&data[start..end], self.1);
        Ok((CpuStorage::F32(output), Shape::from(dims)))
    }
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
    use proptest::prelude::*;

    use super::*;

    // The yardstick: candle's matrix product, in f32, of numbers rounded as the kernel rounds them.
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn packed_layers_give_the_products(
            rows in 1_usize..200, input in 1_usize..70, output in 1_usize..150, bf16: bool,
        ) {
            let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
            let run = || -> Result<()> {
                let device = &Device::Cpu;
                let x = Tensor::randn(0_f32, 1.0, (rows, input), device)?;
                let weight = Tensor::randn(0_f32, 1.0, (output, input), device)?;
                let bias = Tensor::randn(0_f32, 1.0, output, device)?;
                let Some(dense) = Dense::new(&weight, &bias, precision)? else {
                    assert!(!precision.available());
                    return Ok(());
                };
                let rounded = |x: &Tensor| match precision {
                    Precision::F32 => Ok(x.clone()),
                    Precision::Bf16 => x.to_dtype(DType::BF16)?.to_dtype(DType::F32),
                };
                let product = rounded(&x)?.matmul(&rounded(&weight)?.t()?)?;
                let expected = product.broadcast_add(&bias)?.relu()?;
                let found = dense.forward(&x, Activation::Relu)?;
                assert_eq!(found.dims(), expected.dims());
                let off = (found - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(off < 1e-4, "off by {off}");
                Ok(())
            };
            run().unwrap();
        }
    }

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
