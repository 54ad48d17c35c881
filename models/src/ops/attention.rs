//! Scaled dot-product attention (Vaswani et al., 2017) without mask.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Precision, cpu, profile, reference};

/// Softmax of the queries' products with the keys, applied to the values.
///
/// `query`: `[batch, queries, size]`; `key`, `value`: `[batch, keys, size]`, views into larger
/// tensors too. Heads lie side by side in each row. The result has the query's shape. The kernel of the CPU
/// multiplies in `precision` where the machine can; softmax and sums are f32.
///
/// # Errors
/// The shapes do not fit.
pub fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    precision: Precision,
) -> Result<Tensor> {
    let (batch, queries, size) = query.dims3()?;
    let (key_batch, keys, key_size) = key.dims3()?;
    let fits = key.dims() == value.dims()
        && (key_batch, key_size) == (batch, size)
        && heads > 0
        && size.is_multiple_of(heads);
    if !fits || batch * queries * keys * size == 0 {
        candle_core::bail!(
            "attention of {heads} heads: queries {:?}, keys {:?}, values {:?} do not fit",
            query.dims(),
            key.dims(),
            value.dims()
        );
    }
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[query, key, value]) {
        let [q, k, v] = [neighbours(query)?, neighbours(key)?, neighbours(value)?];
        return cuda::tensors::attention(&device, [&q, &k, &v], heads);
    }
    let tracked = query.track_op() || key.track_op() || value.track_op();
    let fused = query.device().is_cpu() && query.dtype() == DType::F32 && !tracked;
    if !fused {
        return reference::attention(query, key, value, heads);
    }
    let describe = || {
        let operations = 4 * query.elem_count() * keys;
        let name = format!("attention, {:?} on {keys} keys", query.dims());
        (name, operations as f64)
    };
    profile::timed(describe, || {
        neighbours(query)?.apply_op3_no_bwd(
            &neighbours(key)?,
            &neighbours(value)?,
            &CpuAttention { heads, precision },
        )
    })
}

/// The tensor with its rows' numbers beside each other.
fn neighbours(x: &Tensor) -> Result<Tensor> {
    if x.stride().last() == Some(&1) {
        return Ok(x.clone());
    }
    x.contiguous()
}

struct CpuAttention {
    heads: usize,
    precision: Precision,
}

impl CustomOp3 for CpuAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, queries, size) = query_layout.shape().dims3()?;
        let shape = cpu::attention::Shape {
            batch,
            heads: self.heads,
            head: size / self.heads,
        };
        let scale = (1.0 / (shape.head as f64).sqrt()) as f32;
        let tensors = [
            rows(query, query_layout)?,
            rows(key, key_layout)?,
            rows(value, value_layout)?,
        ];
        let mixed = cpu::attention::run(tensors, shape, scale, self.precision);
        Ok((CpuStorage::F32(mixed), Shape::from((batch, queries, size))))
    }
}

fn rows<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<cpu::attention::Rows<'a>> {
    let (CpuStorage::F32(data), [batch_stride, row_stride, 1]) = (storage, layout.stride()) else {
        candle_core::bail!("fused attention needs f32 in rows of neighbours");
    };
    Ok(cpu::attention::Rows {
        data: &data[layout.start_offset()..],
        rows: layout.shape().dims3()?.1,
        batch_stride: *batch_stride,
        row_stride: *row_stride,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::testing::made_up;

    fn close(found: &Tensor, expected: &Tensor, most: f32) {
        let off = (found - expected).unwrap().abs().unwrap();
        let off = off.flatten_all().unwrap().max(0).unwrap();
        let off = off.to_scalar::<f32>().unwrap();
        assert!(off < most, "off by {off}");
    }

    // Out of one tensor, as a joint projection leaves it, and keys apart; one query and many.
    #[test]
    fn equals_the_plain_version() {
        for (queries, keys, heads, size) in [(7, 7, 3, 12), (1, 9, 2, 16), (40, 33, 4, 64)] {
            let shape = (2, queries.max(keys), 3 * size);
            let values = made_up("attention.weight", &[shape.0, shape.1, shape.2]);
            let all = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            let all = (all * 5.0).unwrap();
            let part = |first: usize, rows: usize| {
                let part = all.narrow(2, first * size, size).unwrap();
                part.narrow(1, 0, rows).unwrap()
            };
            let (query, key, value) = (part(0, queries), part(1, keys), part(2, keys));
            let found = attention(&query, &key, &value, heads, Precision::F32).unwrap();
            let expected = reference::attention(&query, &key, &value, heads).unwrap();
            assert_eq!(found.dims(), [2, queries, size]);
            close(&found, &expected, 2e-6);
            // What nobody tracks is fused, whatever a variable does beside it.
            let tracked = Var::from_tensor(&query.contiguous().unwrap()).unwrap();
            let found = attention(&tracked, &key, &value, heads, Precision::F32).unwrap();
            close(&found, &expected, 2e-6);
            // With rounded operands; what is left is that the softmax's results are rounded too, to 2⁻⁹ of them:
            // values are 2.5 at most.
            let found = attention(&query, &key, &value, heads, Precision::Bf16).unwrap();
            let rounded = |x: &Tensor, scale: f64| {
                let x = (x * scale).unwrap().to_dtype(DType::BF16).unwrap();
                (x.to_dtype(DType::F32).unwrap() / scale).unwrap()
            };
            let scale = 1.0 / ((size / heads) as f64).sqrt();
            let (query, key) = (rounded(&query, 1.0), rounded(&key, scale));
            let expected = reference::attention(&query, &key, &rounded(&value, 1.0), heads);
            if Precision::Bf16.available() {
                close(&found, &expected.unwrap(), 5e-3);
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let zeros = |rows: usize, size: usize| {
            Tensor::zeros((1, rows, size), DType::F32, &Device::Cpu).unwrap()
        };
        let (a, b) = (zeros(3, 8), zeros(3, 6));
        assert!(attention(&a, &b, &b, 2, Precision::F32).is_err());
        assert!(attention(&a, &a, &b, 2, Precision::F32).is_err());
        assert!(attention(&a, &a, &a, 3, Precision::F32).is_err());
        assert!(attention(&a, &a, &a, 0, Precision::F32).is_err());
        assert!(attention(&a, &zeros(0, 8), &zeros(0, 8), 2, Precision::F32).is_err());
    }
}
