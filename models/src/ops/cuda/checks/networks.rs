//! Kernels of networks against the operations of the CPU.

use candle_core::{D, DType, Module, Result};

use super::programs::{self, Rows, Windows};
use super::{Conv, Draw, Executor, difference, run_one};
use crate::ops::{self, Activation, SampleShape, Window, reference};

const ACTIVATIONS: [Activation; 5] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::QuickGelu,
];

fn activation(draw: &mut Draw) -> Activation {
    ACTIVATIONS[draw.size(0, ACTIVATIONS.len() - 1)]
}

/// `[batch, queries, heads, size]` and levels for deformable attention.
pub(super) fn samples(draw: &mut Draw) -> ([usize; 4], SampleShape) {
    let [batch, queries, heads] = [draw.size(1, 2), draw.size(1, 9), draw.size(1, 3)];
    let size = draw.size(1, 33);
    let mut shape = SampleShape {
        levels: Vec::new(),
        points: Vec::new(),
    };
    for _ in 0..draw.size(1, 4) {
        shape.levels.push((draw.size(1, 7), draw.size(1, 9)));
        shape.points.push(draw.size(1, 4));
    }
    ([batch, queries, heads, size], shape)
}

pub(super) fn deformable(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let ([batch, queries, heads, size], shape) = samples(draw);
    let (cells, points) = (shape.total_cells(), shape.total_points());
    let value = draw.given(batch * cells * heads * size, dtype)?;
    // Outside of the levels too: in -0.5..1.5.
    let samples = batch * queries * heads * points;
    let places = draw.numbers(samples * 2).into_iter().map(|n| n + 0.5);
    let places = super::Given::new(places.collect(), dtype)?;
    let weights = draw.given(samples, dtype)?;
    let expected = ops::deformable_attention(
        &value.shaped(&[batch, cells, heads, size])?,
        &places.shaped(&[batch, queries, heads, points, 2])?,
        &weights.shaped(&[batch, queries, heads, points])?,
        &shape,
    )?;
    let program = programs::deformable(dtype, [batch, queries, heads, size], &shape)?;
    let found = run_one(executor, &program, &[&value, &places, &weights])?;
    difference(&found, &expected)
}

/// A convolution of random sizes, and a batch of images for it.
pub(super) fn sizes(draw: &mut Draw, depthwise: bool) -> (Conv, usize, (usize, usize)) {
    let channels = draw.size(1, 5);
    let kernel = [1, 3, 5, 7][draw.size(usize::from(depthwise), 3)];
    let conv = if depthwise {
        Conv::depthwise(channels, kernel)
    } else {
        Conv::new(channels, draw.size(1, 6), kernel)
    };
    let conv = conv.stride(draw.size(1, 3)).activation(activation(draw));
    let size = (draw.size(kernel, 19), draw.size(kernel, 23));
    let padding = draw.size(0, kernel / 2);
    (conv.padding(padding), draw.size(1, 3), size)
}

pub(super) fn depthwise(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let (conv, batch, (height, width)) = sizes(draw, true);
    let x = draw.given(batch * conv.input * height * width, dtype)?;
    let (out, of_group, kernel, _) = conv.weight_shape();
    let weight = draw.given(out * of_group * kernel * kernel, dtype)?;
    let bias = draw.given(out, dtype)?;
    let with_bias = draw.coin();
    let own = weight.shaped(&[out, of_group, kernel, kernel])?;
    let twin = ops::Conv2d::new(conv, &own, with_bias.then_some(&bias.wide))?;
    let expected = twin.forward(&x.shaped(&[batch, conv.input, height, width])?)?;
    let windows = Windows::of(&conv, batch, (height, width));
    let program = programs::depthwise(dtype, &windows, with_bias, conv.activation)?;
    let mut inputs = vec![&x, &weight];
    inputs.extend(with_bias.then_some(&bias));
    difference(&run_one(executor, &program, &inputs)?, &expected)
}

/// Patches as columns from the device, the matrix product in f32 here, the epilogue on the device.
pub(super) fn convolution(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let (conv, batch, (height, width)) = sizes(draw, false);
    let x = draw.given(batch * conv.input * height * width, dtype)?;
    let (out, input, kernel, _) = conv.weight_shape();
    let weight = draw.given(out * input * kernel * kernel, dtype)?;
    let bias = draw.given(out, dtype)?;
    let own = weight.shaped(&[out, input, kernel, kernel])?;
    let twin = ops::Conv2d::new(conv, &own, Some(&bias.wide))?;
    let expected = twin.forward(&x.shaped(&[batch, conv.input, height, width])?)?;
    let windows = Windows::of(&conv, batch, (height, width));
    let (rows, pixels) = (input * kernel * kernel, expected.elem_count() / batch / out);
    let columns = run_one(executor, &programs::columns(dtype, &windows, false)?, &[&x])?;
    let columns = columns.reshape((batch, rows, pixels))?;
    let weight = weight.shaped(&[1, out, rows])?;
    let product = weight.broadcast_as((batch, out, rows))?;
    let product = product.matmul(&columns.to_dtype(DType::F32)?)?;
    let narrow = product.to_dtype(dtype)?.flatten_all()?;
    let program = programs::epilogue(
        dtype,
        narrow.elem_count(),
        out,
        pixels,
        (true, false),
        conv.activation,
    )?;
    let found = executor.run(&program, &[narrow, bias.narrow])?;
    // The product is rounded once more than the twin's.
    Ok(difference(&super::one(found)?, &expected)? / if dtype == DType::F32 { 1.0 } else { 2.0 })
}

/// On the tensor cores, in one launch; with channels, outputs and pixels beyond one block's too.
pub(super) fn implicit(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let kernel = [1, 3, 5][draw.size(0, 2)];
    let conv = Conv::new(draw.size(1, 80 / kernel / kernel), draw.size(1, 70), kernel);
    let conv = conv
        .stride(draw.size(1, 2))
        .padding(draw.size(0, kernel / 2));
    let (height, width) = (draw.size(kernel, 13), draw.size(kernel, 11));
    let batch = draw.size(1, 2);
    let x = draw.given(batch * conv.input * height * width, dtype)?;
    let (out, input, ..) = conv.weight_shape();
    let weight = draw.given(out * input * kernel * kernel, dtype)?;
    let bias = draw.given(out, dtype)?;
    let windows = Windows::of(&conv, batch, (height, width));
    let residual = draw.given(batch * out * windows.out_pixels(), dtype)?;
    let (with_bias, with_residual) = (draw.coin(), draw.coin());
    let activation = activation(draw);
    let own = weight.shaped(&[out, input, kernel, kernel])?;
    let x_wide = x.shaped(&[batch, conv.input, height, width])?;
    let mut expected = reference::conv2d(&x_wide, &own, with_bias.then_some(&bias.wide), &conv)?;
    let mut inputs = vec![&x, &weight];
    inputs.extend(with_bias.then_some(&bias));
    if with_residual {
        expected = (&expected + residual.shaped(expected.dims())?)?;
        inputs.push(&residual);
    }
    let parts = (with_bias, with_residual);
    let program = programs::implicit(dtype, &windows, out, parts, activation)?;
    let found = run_one(executor, &program, &inputs)?;
    difference(&found, &activation.apply(&expected)?)
}

pub(super) fn epilogue(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let [batch, channels, inner] = [draw.size(1, 4), draw.size(1, 9), draw.size(1, 70)];
    let total = batch * channels * inner;
    let (with_bias, with_residual) = (draw.coin(), draw.coin());
    let (x, bias) = (draw.given(total, dtype)?, draw.given(channels, dtype)?);
    let residual = draw.given(total, dtype)?;
    let activation = activation(draw);
    let mut expected = (x.shaped(&[batch, channels, inner])? * 1.0)?;
    let mut inputs = vec![&x];
    if with_bias {
        expected = expected.broadcast_add(&bias.shaped(&[1, channels, 1])?)?;
        inputs.push(&bias);
    }
    if with_residual {
        expected = (expected + residual.shaped(&[batch, channels, inner])?)?;
        inputs.push(&residual);
    }
    let parts = (with_bias, with_residual);
    let program = programs::epilogue(dtype, total, channels, inner, parts, activation)?;
    let found = run_one(executor, &program, &inputs)?;
    difference(&found, &activation.forward(&expected)?)
}

pub(super) fn layer_norm(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let (rows, size) = (draw.size(1, 20), draw.size(2, 150));
    let x = draw.given(rows * size, dtype)?;
    let (weight, bias) = (draw.given(size, dtype)?, draw.given(size, dtype)?);
    let eps = 1e-5;
    let expected = ops::layer_norm(&x.shaped(&[rows, size])?, &weight.wide, &bias.wide, eps)?;
    let program = programs::layer_norm(dtype, rows, size, eps)?;
    difference(
        &run_one(executor, &program, &[&x, &weight, &bias])?,
        &expected,
    )
}

pub(super) fn softmax(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let (rows, size) = (draw.size(1, 20), draw.size(1, 150));
    // Far apart, so that none but the largest may be subtracted.
    let numbers = draw.numbers(rows * size).into_iter().map(|n| n * 200.0);
    let x = super::Given::new(numbers.collect(), dtype)?;
    let expected = candle_nn::ops::softmax(&x.shaped(&[rows, size])?, D::Minus1)?;
    let program = programs::softmax(dtype, rows, size)?;
    difference(&run_one(executor, &program, &[&x])?, &expected)
}

pub(super) fn means(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let [batch, channels] = [draw.size(1, 3), draw.size(1, 9)];
    let (height, width) = (draw.size(1, 12), draw.size(1, 12));
    let x = draw.given(batch * channels * height * width, dtype)?;
    let expected = ops::plane_means(&x.shaped(&[batch, channels, height, width])?)?;
    let program = programs::means(dtype, batch * channels, height * width)?;
    difference(&run_one(executor, &program, &[&x])?, &expected)
}

pub(super) fn max_pool(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let kernel = draw.size(1, 5);
    let windows = Windows {
        batch: draw.size(1, 3),
        channels: draw.size(1, 4),
        size: (draw.size(kernel, 17), draw.size(kernel, 17)),
        window: Window {
            kernel,
            stride: draw.size(1, 3),
            padding: draw.size(0, kernel / 2),
        },
    };
    let (batch, channels, (height, width)) = (windows.batch, windows.channels, windows.size);
    let x = draw.given(batch * channels * height * width, dtype)?;
    let twin = x.shaped(&[batch, channels, height, width])?;
    let expected = ops::max_pool2d(&twin, windows.window)?;
    let program = programs::max_pool(dtype, &windows)?;
    difference(&run_one(executor, &program, &[&x])?, &expected)
}

pub(super) fn gated_sum(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let count = draw.size(1, programs::MAX_STREAMS);
    let [batch, channels] = [draw.size(1, 3), draw.size(1, 9)];
    let (height, width) = (draw.size(1, 20), draw.size(1, 20));
    let shape = [batch, channels, height, width];
    let mut streams = Vec::new();
    let mut twins = Vec::new();
    for _ in 0..count {
        let stream = draw.given(batch * channels * height * width, dtype)?;
        twins.push(stream.shaped(&shape)?);
        streams.push(stream);
    }
    let gates = draw.given(count * batch * channels, dtype)?;
    let expected = ops::gated_sum(&twins, &gates.shaped(&[count, batch, channels])?)?;
    let program = programs::gated_sum(dtype, count, batch * channels, height * width)?;
    let mut inputs: Vec<_> = streams.iter().collect();
    inputs.push(&gates);
    difference(&run_one(executor, &program, &inputs)?, &expected)
}

/// Out of one tensor, as a joint projection leaves queries, keys and values beside each other.
pub(super) fn attention(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let [batch, heads, head] = [draw.size(1, 3), draw.size(1, 3), draw.size(1, 65)];
    let (queries, keys) = (draw.size(1, 40), draw.size(1, 70));
    let size = heads * head;
    let all = draw.given(batch * queries.max(keys) * 3 * size, dtype)?;
    let twin = all.shaped(&[batch, queries.max(keys), 3 * size])?;
    let part = |index: usize, rows: usize| twin.narrow(2, index * size, size)?.narrow(1, 0, rows);
    let (query, key, value) = (part(0, queries)?, part(1, keys)?, part(2, keys)?);
    let expected = reference::attention(&query, &key, &value, heads)?;
    let rows = |rows: usize| Rows {
        rows,
        batch_stride: queries.max(keys) * 3 * size,
        row_stride: 3 * size,
    };
    let program = programs::attention(
        dtype,
        [batch, heads, head],
        rows(queries),
        rows(keys),
        rows(keys),
    )?;
    // Views begin inside the same numbers; each buffer ends with the last number of its view.
    let mut inputs = Vec::new();
    for index in 0..3 {
        let count = program.buffers[index].count;
        inputs.push(all.narrow.narrow(0, index * size, count)?);
    }
    difference(&super::one(executor.run(&program, &inputs)?)?, &expected)
}
