//! Plain candle versions of the operations: slow, differentiable, on every device.

use candle_core::{D, DType, Result, Tensor};

use crate::layers::Conv;

use super::{Precision, SampleShape, Window, mixed};

/// Grouped convolution with bias, without activation. `x`: `[batch, input, height, width]`.
///
/// # Errors
/// The shapes do not fit.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: &Conv) -> Result<Tensor> {
    let y = x.conv2d(weight, conv.padding, conv.stride, 1, conv.groups)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, bias.dim(0)?, 1, 1))?),
        None => Ok(y),
    }
}

/// Attention; arguments as [`super::attention`].
///
/// # Errors
/// The shapes do not fit.
pub fn attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize) -> Result<Tensor> {
    attention_with(query, key, value, heads, false, Precision::F32)
}

/// The same, `causal` where a query sees no key after its own place, with products in `precision`.
///
/// # Errors
/// The shapes do not fit.
pub fn attention_with(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    causal: bool,
    precision: Precision,
) -> Result<Tensor> {
    let (batch, queries, size) = query.dims3()?;
    let head = size / heads;
    let split = |x: &Tensor| -> Result<Tensor> {
        // [batch, rows, size] -> [batch, heads, rows, head]
        x.reshape((batch, x.dim(1)?, heads, head))?
            .transpose(1, 2)?
            .contiguous()
    };
    let scale = 1.0 / (head as f64).sqrt();
    // [batch, heads, queries, keys]
    let mut scores = mixed::matmul(&(split(query)? * scale)?, &split(key)?.t()?, precision)?;
    if causal {
        let mask = later(queries, key.dim(1)?, &scores)?;
        scores = scores.broadcast_add(&mask)?;
    }
    let scores = candle_nn::ops::softmax(&scores, D::Minus1)?;
    mixed::matmul(&scores, &split(value)?, precision)?
        .transpose(1, 2)?
        .reshape((batch, queries, size))
}

/// Minus infinity where a key comes after its query, `[queries, keys]`.
fn later(queries: usize, keys: usize, like: &Tensor) -> Result<Tensor> {
    let mut mask = Vec::with_capacity(queries * keys);
    for query in 0..queries {
        for key in 0..keys {
            mask.push(if key > query { f32::NEG_INFINITY } else { 0.0 });
        }
    }
    Tensor::from_vec(mask, (queries, keys), like.device())?.to_dtype(like.dtype())
}

/// Max pooling, rows and columns one after the other, by maxima of shifted views.
///
/// Arguments as [`super::max_pool2d`].
///
/// # Errors
/// The shape does not fit.
pub fn max_pool2d(x: &Tensor, window: Window) -> Result<Tensor> {
    max_along(&max_along(x, 2, window)?, 3, window)
}

/// The largest of every `window.kernel` numbers along `dim`.
fn max_along(x: &Tensor, dim: usize, window: Window) -> Result<Tensor> {
    let Window {
        kernel,
        stride,
        padding,
    } = window;
    let size = x.dim(dim)?;
    let count = window.count(size);
    // Repeating the border changes no maximum: the border is inside every window that reaches it.
    // The far end is padded on until whole strides lie in line; what no window needs is not read.
    let strides = (size + 2 * padding).max(count * stride).div_ceil(stride);
    let far = strides * stride - size - padding;
    let padded = x.pad_with_same(dim, padding, far)?;
    let mut shape = padded.dims().to_vec();
    shape.splice(dim..=dim, [strides, stride]);
    let padded = padded.reshape(shape)?;
    // The number `offset` of every window.
    let shifted = |offset: usize| -> Result<Tensor> {
        padded
            .narrow(dim, offset / stride, count)?
            .narrow(dim + 1, offset % stride, 1)?
            .squeeze(dim + 1)
    };
    let mut most = shifted(0)?;
    for offset in 1..kernel {
        most = most.maximum(&shifted(offset)?)?;
    }
    Ok(most)
}

/// Multi-scale deformable attention by gathering the four neighbours of every sample.
///
/// Arguments as [`super::deformable_attention`].
///
/// # Errors
/// The shapes do not fit.
pub fn deformable_attention(
    value: &Tensor,
    locations: &Tensor,
    weights: &Tensor,
    shape: &SampleShape,
) -> Result<Tensor> {
    let (batch, _, heads, size) = value.dims4()?;
    let queries = locations.dim(1)?;
    let mut sum: Option<Tensor> = None;
    let mut first_value = 0;
    let mut first_point = 0;
    for (&(height, width), &points) in shape.levels.iter().zip(&shape.points) {
        let level = value
            .narrow(1, first_value, height * width)?
            .transpose(1, 2)? // [batch, heads, height * width, size]
            .contiguous()?;
        let at = locations
            .narrow(3, first_point, points)?
            .transpose(1, 2)? // [batch, heads, queries, points, 2]
            .contiguous()?;
        let weight = weights
            .narrow(3, first_point, points)?
            .transpose(1, 2)? // [batch, heads, queries, points]
            .contiguous()?;
        let x = ((at.narrow(D::Minus1, 0, 1)? * width as f64)? - 0.5)?.squeeze(D::Minus1)?;
        let y = ((at.narrow(D::Minus1, 1, 1)? * height as f64)? - 0.5)?.squeeze(D::Minus1)?;
        let (x0, y0) = (x.floor()?, y.floor()?);
        for (dx, dy) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
            let (xi, yi) = ((&x0 + dx)?, (&y0 + dy)?);
            let near = ((x.sub(&xi)?.abs()?.affine(-1.0, 1.0)?)
                * y.sub(&yi)?.abs()?.affine(-1.0, 1.0)?)?;
            let inside = (xi.ge(0.0)?
                * xi.le((width - 1) as f64)?
                * yi.ge(0.0)?
                * yi.le((height - 1) as f64)?)?
            .to_dtype(value.dtype())?;
            let index = (yi.clamp(0.0, (height - 1) as f64)? * width as f64)?
                .add(&xi.clamp(0.0, (width - 1) as f64)?)?
                .to_dtype(DType::U32)?
                .reshape((batch, heads, queries * points, 1))?
                .broadcast_as((batch, heads, queries * points, size))?
                .contiguous()?;
            let sampled = level
                .gather(&index, 2)?
                .reshape((batch, heads, queries, points, size))?;
            let factor = ((near * inside)? * &weight)?.unsqueeze(D::Minus1)?;
            let part = sampled.broadcast_mul(&factor)?.sum(3)?; // [batch, heads, queries, size]
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        first_value += height * width;
        first_point += points;
    }
    let Some(sum) = sum else {
        candle_core::bail!("deformable attention needs at least one level")
    };
    sum.transpose(1, 2)?.reshape((batch, queries, heads * size))
}
