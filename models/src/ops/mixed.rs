//! Products in bfloat16 with f32 around them, for training (Micikevicius et al., "Mixed Precision
//! Training", 2018; bfloat16 needs no scaling of the loss).
//!
//! Parameters, sums, norms, losses and what an optimiser remembers stay f32. The operands of a product
//! are rounded to bfloat16, and so is what it gives; gradients take the same way back. On a GPU
//! products run in bfloat16. A CPU rounds and multiplies in f32: the same numbers but for the order of
//! sums, at no gain of speed.

use candle_core::{DType, Device, Result, Tensor};

use super::Precision;

/// `a · b` over the last two dimensions.
///
/// # Errors
/// The shapes do not fit, or the device has no bfloat16.
pub(crate) fn matmul(a: &Tensor, b: &Tensor, precision: Precision) -> Result<Tensor> {
    match precision {
        Precision::F32 => a.matmul(b),
        Precision::Bf16 => result(&operand(a)?.matmul(&operand(b)?)?),
    }
}

/// A product's operand as it is multiplied.
///
/// # Errors
/// The device has no bfloat16.
pub(crate) fn operand(x: &Tensor) -> Result<Tensor> {
    let rounded = x.to_dtype(DType::BF16)?;
    if x.device().is_cpu() {
        // Gradients are rounded on their way back through both.
        return rounded.to_dtype(DType::F32);
    }
    Ok(rounded)
}

/// What a product of such operands gives, as f32.
///
/// # Errors
/// The device fails.
pub(crate) fn result(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::BF16)?.to_dtype(DType::F32)
}

/// Whether `device` multiplies in bfloat16 when networks learn.
///
/// # Errors
/// It does not.
pub fn check(device: &Device) -> Result<()> {
    if device.is_cpu() {
        return Ok(());
    }
    let attempt = || -> Result<()> {
        let ones = Tensor::ones((8, 8), DType::F32, device)?;
        let sum = matmul(&ones, &ones, Precision::Bf16)?.sum_all()?;
        if sum.to_scalar::<f32>()? != 512.0 {
            candle_core::bail!("its sum of 512 ones is another");
        }
        Ok(())
    };
    attempt().map_err(|error| {
        candle_core::Error::msg(format!("this device does not compute in bfloat16: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    // By hand: 1 + 2^-9 has no bfloat16, whose numbers near 1 are 2^-7 apart above it; 1.5 has.
    #[test]
    fn operands_and_gradients_are_rounded() {
        let fine = 1.0 + f32::powi(2.0, -9);
        let a = Var::new(&[[fine, 1.5_f32]], &Device::Cpu).unwrap();
        let b = Var::new(&[[1.0_f32], [fine]], &Device::Cpu).unwrap();
        let product = matmul(&a, &b, Precision::Bf16).unwrap();
        assert_eq!(product.to_vec2::<f32>().unwrap(), [[2.5]]);
        let gradients = product.backward().unwrap();
        let of = |var: &Var| gradients.get(var).unwrap().flatten_all().unwrap();
        assert_eq!(of(&a).to_vec1::<f32>().unwrap(), [1.0, 1.0]);
        assert_eq!(of(&b).to_vec1::<f32>().unwrap(), [1.0, 1.5]);
        let exact = matmul(&a, &b, Precision::F32).unwrap();
        assert_eq!(exact.to_vec2::<f32>().unwrap(), [[fine + 1.5 * fine]]);
        check(&Device::Cpu).unwrap();
    }
}
