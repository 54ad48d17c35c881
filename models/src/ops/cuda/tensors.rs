//! The operations of [`crate::ops`] on tensors of a GPU, for inference.

use std::sync::OnceLock;

use candle_core::{CudaDevice, DType, Device, Result, Tensor};

use super::program::Program;
use super::programs::{self, Rows, Windows};
use super::{device, programs::MAX_HEAD};
use crate::layers::Conv;
use crate::ops::{Activation, SampleShape, Window};

/// Bytes of patches as columns that a convolution makes at once: with more, the batch goes in parts.
pub(super) const MAX_COLUMNS: usize = 1 << 30;

/// The device, if all tensors are on one, of one type that there are kernels for, and nobody asks for
/// gradients.
pub fn takes(tensors: &[&Tensor]) -> Option<CudaDevice> {
    let first = tensors.first()?;
    let Device::Cuda(device) = first.device() else {
        return None;
    };
    let dtype = first.dtype();
    let alike = tensors
        .iter()
        .all(|x| x.device().is_cuda() && x.dtype() == dtype && !x.track_op());
    let known = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    (alike && known).then(|| device.clone())
}

/// Runs a program with one output on contiguous copies of `inputs`.
fn one(device: &CudaDevice, program: &Program, inputs: &[&Tensor]) -> Result<Tensor> {
    let mut together = Vec::with_capacity(inputs.len());
    for input in inputs {
        together.push(input.contiguous()?);
    }
    let together: Vec<&Tensor> = together.iter().collect();
    first(device::run(device, program, &together)?)
}

fn first(outputs: Vec<Tensor>) -> Result<Tensor> {
    match outputs.into_iter().next() {
        Some(output) => Ok(output),
        None => candle_core::bail!("a program without an output"),
    }
}

/// As [`crate::ops::deformable_attention`].
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn deformable_attention(
    device: &CudaDevice,
    value: &Tensor,
    locations: &Tensor,
    weights: &Tensor,
    shape: &SampleShape,
) -> Result<Tensor> {
    let (batch, _, heads, size) = value.dims4()?;
    let queries = weights.dim(1)?;
    let dims = [batch, queries, heads, size];
    let program = programs::deformable(value.dtype(), dims, shape)?;
    let mixed = one(device, &program, &[value, locations, weights])?;
    mixed.reshape((batch, queries, heads * size))
}

/// A convolution with bias and activation: depthwise ones by a kernel of their own, the others as a
/// matrix product of cuBLAS with the bias and activation in one pass after it; `None` for groups of
/// another kind, for which there is nothing here.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn conv2d(
    device: &CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    conv: &Conv,
) -> Result<Option<Tensor>> {
    let (batch, _, height, width) = x.dims4()?;
    let windows = Windows::of(conv, batch, (height, width));
    let (out_height, out_width) = windows.out_size();
    let shape = (batch, conv.output, out_height, out_width);
    if conv.groups == conv.input && conv.output == conv.input && conv.groups > 1 {
        let program = programs::depthwise(x.dtype(), &windows, bias.is_some(), conv.activation)?;
        let mut inputs = vec![x, weight];
        inputs.extend(bias);
        return Ok(Some(one(device, &program, &inputs)?.reshape(shape)?));
    }
    if conv.groups != 1 {
        return Ok(None);
    }
    if x.dtype() != DType::F32 && way() == Way::Implicit {
        let parts = (bias.is_some(), false);
        let program = programs::implicit(x.dtype(), &windows, conv.output, parts, conv.activation)?;
        let mut inputs = vec![x, weight];
        inputs.extend(bias);
        return Ok(Some(one(device, &program, &inputs)?.reshape(shape)?));
    }
    let pixels = out_height * out_width;
    let rows = conv.input * conv.kernel * conv.kernel;
    let product = if conv.kernel == 1 && conv.stride == 1 && conv.padding == 0 {
        times(weight, &x.contiguous()?.reshape((batch, rows, pixels))?)?
    } else if way() == Way::Cudnn {
        x.conv2d(weight, conv.padding, conv.stride, 1, 1)?
    } else {
        by_columns(device, x, weight, &windows)?
    };
    if bias.is_none() && conv.activation == Activation::Identity {
        return Ok(Some(product.reshape(shape)?));
    }
    let program = programs::epilogue(
        x.dtype(),
        batch * conv.output * pixels,
        conv.output,
        pixels,
        (bias.is_some(), false),
        conv.activation,
    )?;
    let mut inputs = vec![&product];
    inputs.extend(bias);
    Ok(Some(one(device, &program, &inputs)?.reshape(shape)?))
}

/// How convolutions with more than one pixel under them, or in f16 and bf16, are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Patches as columns in memory, and cuBLAS.
    Columns,
    /// On the tensor cores without them, by a kernel of this project; f32 goes by columns.
    Implicit,
    /// cuDNN, with the feature `cudnn`; 1×1 by cuBLAS.
    Cudnn,
}

/// What `MTMC_CUDA_CONVOLUTION` says (`columns`, `implicit`, `cudnn`): which is quicker, only a GPU
/// can tell. By default cuDNN where it is built in, else columns.
fn way() -> Way {
    static WAY: OnceLock<Way> = OnceLock::new();
    *WAY.get_or_init(|| {
        let built_in = cfg!(feature = "cudnn");
        match std::env::var("MTMC_CUDA_CONVOLUTION").as_deref() {
            Ok("columns") => Way::Columns,
            Ok("implicit") => Way::Implicit,
            _ if built_in => Way::Cudnn,
            _ => Way::Columns,
        }
    })
}

/// `weight` (`[output, ..]`) as a matrix times each of `columns` (`[batch, rows, pixels]`):
/// `[batch, output, pixels]`.
fn times(weight: &Tensor, columns: &Tensor) -> Result<Tensor> {
    let (batch, rows, _) = columns.dims3()?;
    let output = weight.dim(0)?;
    // One and the same matrix for all images, by a stride of 0.
    let weight = weight.contiguous()?.reshape((1, output, rows))?;
    weight.broadcast_as((batch, output, rows))?.matmul(columns)
}

fn by_columns(
    device: &CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    windows: &Windows,
) -> Result<Tensor> {
    let (height, width) = windows.out_size();
    let (rows, pixels) = (
        windows.channels * windows.window.kernel.pow(2),
        height * width,
    );
    let of_image = rows * pixels * x.dtype().size_in_bytes();
    let together = (MAX_COLUMNS / of_image.max(1)).clamp(1, windows.batch.max(1));
    let mut parts = Vec::new();
    for start in (0..windows.batch).step_by(together) {
        let batch = together.min(windows.batch - start);
        let program = programs::columns(x.dtype(), &Windows { batch, ..*windows }, false)?;
        let columns = one(device, &program, &[&x.narrow(0, start, batch)?])?;
        parts.push(times(weight, &columns.reshape((batch, rows, pixels))?)?);
    }
    match parts.as_slice() {
        [only] => Ok(only.clone()),
        _ => Tensor::cat(&parts, 0),
    }
}

/// As [`crate::ops::add_bias`]: `x` is `[rows, size]`.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn add_bias(
    device: &CudaDevice,
    x: &Tensor,
    bias: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    let (rows, size) = x.dims2()?;
    let parts = (true, false);
    let program = programs::epilogue(x.dtype(), rows * size, size, 1, parts, activation)?;
    one(device, &program, &[x, bias])?.reshape((rows, size))
}

/// As [`crate::ops::add_relu`].
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn add_relu(device: &CudaDevice, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (total, parts) = (a.elem_count(), (false, true));
    let program = programs::epilogue(a.dtype(), total, 1, 1, parts, Activation::Relu)?;
    one(device, &program, &[a, b])?.reshape(a.shape())
}

/// As [`crate::ops::layer_norm`].
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn layer_norm(
    device: &CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
) -> Result<Tensor> {
    let size = weight.elem_count();
    let program = programs::layer_norm(x.dtype(), x.elem_count() / size, size, eps)?;
    one(device, &program, &[x, weight, bias])?.reshape(x.shape())
}

/// Softmax over the last dimension.
///
/// # Errors
/// There is none, or the device fails.
pub fn softmax(device: &CudaDevice, x: &Tensor) -> Result<Tensor> {
    let size = x.dim(candle_core::D::Minus1)?;
    let program = programs::softmax(x.dtype(), x.elem_count() / size.max(1), size)?;
    one(device, &program, &[x])?.reshape(x.shape())
}

/// As [`crate::ops::max_pool2d`].
///
/// # Errors
/// The windows do not fit, or the device fails.
pub fn max_pool2d(device: &CudaDevice, x: &Tensor, window: Window) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let windows = Windows {
        batch,
        channels,
        size: (height, width),
        window,
    };
    let (rows, columns) = windows.out_size();
    let program = programs::max_pool(x.dtype(), &windows)?;
    one(device, &program, &[x])?.reshape((batch, channels, rows, columns))
}

/// As [`crate::ops::plane_means`].
///
/// # Errors
/// The shape does not fit, or the device fails.
pub fn plane_means(device: &CudaDevice, x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let program = programs::means(x.dtype(), batch * channels, height * width)?;
    one(device, &program, &[x])?.reshape((batch, channels))
}

/// As [`crate::ops::gated_sum`].
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn gated_sum(device: &CudaDevice, streams: &[&Tensor], gates: &Tensor) -> Result<Tensor> {
    let (count, batch, channels) = gates.dims3()?;
    let Some(stream) = streams.first() else {
        candle_core::bail!("no streams to add");
    };
    let size = stream.elem_count() / (batch * channels).max(1);
    let program = programs::gated_sum(stream.dtype(), count, batch * channels, size)?;
    let mut inputs = streams.to_vec();
    inputs.push(gates);
    one(device, &program, &inputs)?.reshape(stream.shape())
}

/// As [`crate::ops::attention`], of rows of neighbours: in f32 in one pass; in f16 and bf16, and with
/// heads that are too large, by the matrix products of cuBLAS, which use the tensor cores.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn attention(
    device: &CudaDevice,
    [query, key, value]: [&Tensor; 3],
    heads: usize,
) -> Result<Tensor> {
    let (batch, queries, size) = query.dims3()?;
    let head = size / heads;
    if head > MAX_HEAD || query.dtype() != DType::F32 {
        return attention_by_products(device, [query, key, value], heads);
    }
    let rows = |x: &Tensor| {
        let [batch_stride, row_stride, 1] = x.stride() else {
            candle_core::bail!("attention needs rows of neighbours");
        };
        Ok(Rows {
            rows: x.dim(1)?,
            batch_stride: *batch_stride,
            row_stride: *row_stride,
        })
    };
    let dims = [batch, heads, head];
    let program = programs::attention(query.dtype(), dims, rows(query)?, rows(key)?, rows(value)?)?;
    let mixed = first(device::run(device, &program, &[query, key, value])?)?;
    mixed.reshape((batch, queries, size))
}

fn attention_by_products(
    device: &CudaDevice,
    [query, key, value]: [&Tensor; 3],
    heads: usize,
) -> Result<Tensor> {
    let (batch, queries, size) = query.dims3()?;
    let head = size / heads;
    let split = |x: &Tensor| -> Result<Tensor> {
        // [batch, rows, size] -> [batch * heads, rows, head]
        let rows = x.dim(1)?;
        let heads_first = x.reshape((batch, rows, heads, head))?.transpose(1, 2)?;
        heads_first
            .contiguous()?
            .reshape((batch * heads, rows, head))
    };
    let scaled = (split(query)? * (1.0 / (head as f64).sqrt()))?;
    let scores = scaled.matmul(&split(key)?.t()?)?; // [batch * heads, queries, keys]
    let mixed = softmax(device, &scores)?.matmul(&split(value)?)?;
    let mixed = mixed
        .reshape((batch, heads, queries, head))?
        .transpose(1, 2)?;
    mixed.reshape((batch, queries, size))
}

/// As [`crate::ops::top_k_indices`]; `None` for a `k` that is too large for the kernel.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn top_k_indices(device: &CudaDevice, scores: &Tensor, k: usize) -> Result<Option<Tensor>> {
    let (batch, n) = scores.dims2()?;
    if k == 0 || k > programs::MAX_K {
        return Ok(None);
    }
    let program = programs::top_k(scores.dtype(), batch, n, k)?;
    Ok(Some(one(device, &program, &[scores])?.reshape((batch, k))?))
}

/// As [`programs::best`]: indices and numbers of the rows of `x`, which is `[rows, size]`.
///
/// # Errors
/// The shape does not fit, or the device fails.
pub fn best_of_rows(device: &CudaDevice, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, size) = x.dims2()?;
    let program = programs::best(x.dtype(), rows, size)?;
    let mut outputs = device::run(device, &program, &[&x.contiguous()?])?.into_iter();
    match (outputs.next(), outputs.next()) {
        (Some(indices), Some(values)) => Ok((indices, values)),
        _ => candle_core::bail!("a program without an output"),
    }
}

/// The `k` vectors of `gallery` (`[n, dim]`) most similar to each of `queries` (`[m, dim]`), all of
/// length 1: their indices and cosines, `[m, k]`, most similar first. No bit depends on what is
/// searched for together.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn nearest(
    device: &CudaDevice,
    queries: &Tensor,
    gallery: &Tensor,
    k: usize,
) -> Result<(Tensor, Tensor)> {
    let ((m, dim), (n, _)) = (queries.dims2()?, gallery.dims2()?);
    let program = programs::products(queries.dtype(), m, n, dim)?;
    let cosines = one(device, &program, &[queries, gallery])?.reshape((m, n))?;
    let program = programs::top_k(DType::F32, m, n, k)?;
    let indices = one(device, &program, &[&cosines])?.reshape((m, k))?;
    let cosines = cosines.gather(&indices, 1)?;
    Ok((indices, cosines))
}

/// Which boxes (`[batch, boxes, 4]`, f32, corners, by falling score) of which classes
/// (`[batch, boxes]`, u32) non-maximum suppression leaves: `[batch, boxes]`, u8.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn suppression(
    device: &CudaDevice,
    boxes: &Tensor,
    classes: &Tensor,
    iou: f32,
) -> Result<Tensor> {
    let (batch, count) = classes.dims2()?;
    let program = programs::suppression(batch, count, iou)?;
    one(device, &program, &[boxes, classes])?.reshape((batch, count))
}
