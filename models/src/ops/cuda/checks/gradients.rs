//! The way back against plain loops over the definitions, which the tests here hold against candle's
//! own gradients.

use candle_core::{DType, Device, Result, Tensor};

use super::networks::{samples, sizes};
use super::programs::{self, Windows};
use super::{Conv, Draw, Executor, Given, difference, run_one};
use crate::ops::SampleShape;
use crate::ops::cuda::gradients;

fn flat(numbers: Vec<f32>) -> Result<Tensor> {
    let count = numbers.len();
    Tensor::from_vec(numbers, count, &Device::Cpu)
}

/// Calls `of(image, channel, tap, pixel, cell)` for every tap of every window that sees a cell.
fn each_tap(windows: &Windows, mut of: impl FnMut(usize, usize, usize, usize, usize)) {
    let (height, width) = windows.size;
    let (out_height, out_width) = windows.out_size();
    let window = windows.window;
    for image in 0..windows.batch {
        for channel in 0..windows.channels {
            for tap in 0..window.kernel.pow(2) {
                for pixel in 0..out_height * out_width {
                    let y = pixel / out_width * window.stride + tap / window.kernel;
                    let x = pixel % out_width * window.stride + tap % window.kernel;
                    let y = y.wrapping_sub(window.padding);
                    let x = x.wrapping_sub(window.padding);
                    if y < height && x < width {
                        of(image, channel, tap, pixel, y * width + x);
                    }
                }
            }
        }
    }
}

pub(super) fn fold(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let (conv, batch, size) = sizes(draw, false);
    let windows = Windows::of(&conv, batch, size);
    let (pixels, cells) = (windows.out_pixels(), size.0 * size.1);
    let taps = conv.kernel * conv.kernel;
    let columns = draw.given(batch * conv.input * taps * pixels, dtype)?;
    let numbers = columns.wide.to_vec1::<f32>()?;
    let mut expected = vec![0.0_f32; windows.inputs()];
    each_tap(&windows, |image, channel, tap, pixel, cell| {
        let plane = image * conv.input + channel;
        expected[plane * cells + cell] += numbers[(plane * taps + tap) * pixels + pixel];
    });
    let program = gradients::fold(dtype, &windows)?;
    difference(&run_one(executor, &program, &[&columns])?, &flat(expected)?)
}

/// The same numbers as image by image, in another order.
pub(super) fn columns_together(
    draw: &mut Draw,
    dtype: DType,
    executor: &dyn Executor,
) -> Result<f64> {
    let (conv, batch, size) = sizes(draw, false);
    let windows = Windows::of(&conv, batch, size);
    let pixels = windows.out_pixels();
    let taps = conv.kernel * conv.kernel;
    let x = draw.given(windows.inputs(), dtype)?;
    let numbers = x.wide.to_vec1::<f32>()?;
    let mut expected = vec![0.0_f32; batch * conv.input * taps * pixels];
    each_tap(&windows, |image, channel, tap, pixel, cell| {
        let row = channel * taps + tap;
        expected[(row * batch + image) * pixels + pixel] =
            numbers[(image * conv.input + channel) * size.0 * size.1 + cell];
    });
    let program = programs::columns(dtype, &windows, true)?;
    difference(&run_one(executor, &program, &[&x])?, &flat(expected)?)
}

/// Gradients of input and weights by the definition of a convolution in one group, or depthwise.
fn convolution_twin(
    x: &[f32],
    weight: &[f32],
    gradient: &[f32],
    conv: &Conv,
    windows: &Windows,
) -> (Vec<f32>, Vec<f32>) {
    let (pixels, cells) = (windows.out_pixels(), windows.size.0 * windows.size.1);
    let taps = conv.kernel * conv.kernel;
    let mut to_x = vec![0.0_f64; x.len()];
    let mut to_weight = vec![0.0_f64; weight.len()];
    each_tap(windows, |image, channel, tap, pixel, cell| {
        let x_at = (image * conv.input + channel) * cells + cell;
        // The filters that read this channel, and its place in them.
        let (filters, within) = if conv.groups == 1 {
            (0..conv.output, channel)
        } else {
            (channel..channel + 1, 0)
        };
        for filter in filters {
            let weight_at = (filter * (conv.input / conv.groups) + within) * taps + tap;
            let coming = f64::from(gradient[(image * conv.output + filter) * pixels + pixel]);
            to_x[x_at] += coming * f64::from(weight[weight_at]);
            to_weight[weight_at] += coming * f64::from(x[x_at]);
        }
    });
    let narrow = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
    (narrow(to_x), narrow(to_weight))
}

pub(super) fn depthwise(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    whole_convolution(draw, dtype, executor, true)
}

/// With matrix products, where the CPU has them; in parts of a few images.
pub(super) fn convolution(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    whole_convolution(draw, dtype, executor, false)
}

fn whole_convolution(
    draw: &mut Draw,
    dtype: DType,
    executor: &dyn Executor,
    depthwise: bool,
) -> Result<f64> {
    let (conv, batch, (height, width)) = sizes(draw, depthwise);
    let windows = Windows::of(&conv, batch, (height, width));
    let (out_height, out_width) = windows.out_size();
    let (out, of_group, kernel, _) = conv.weight_shape();
    let x = draw.given(windows.inputs(), dtype)?;
    let weight = draw.given(out * of_group * kernel * kernel, dtype)?;
    let gradient = draw.given(batch * out * out_height * out_width, dtype)?;
    let numbers = |given: &Given| given.wide.to_vec1::<f32>();
    let (to_x, to_weight) = convolution_twin(
        &numbers(&x)?,
        &numbers(&weight)?,
        &numbers(&gradient)?,
        &conv,
        &windows,
    );
    let shaped = [
        &x.narrow.reshape((batch, conv.input, height, width))?,
        &weight.narrow.reshape((out, of_group, kernel, kernel))?,
        &gradient
            .narrow
            .reshape((batch, out, out_height, out_width))?,
    ];
    // Room for the columns of none, some or all images.
    let room = draw.size(0, 3) * conv.input * kernel.pow(2) * out_height * out_width * 4;
    let (found_x, found_weight) = gradients::convolution(executor, shaped, &conv, true, room)?;
    let Some(found_x) = found_x else {
        return Ok(f64::INFINITY);
    };
    let off = difference(&found_x.flatten_all()?, &flat(to_x)?)?;
    Ok(off.max(difference(&found_weight.flatten_all()?, &flat(to_weight)?)?))
}

/// Numbers of one case of deformable attention: values, locations, weights, the output's gradient.
struct Samples {
    dims: [usize; 4],
    shape: SampleShape,
    numbers: [Given; 4],
}

fn made_up_samples(draw: &mut Draw, dtype: DType, sizes: [f32; 2]) -> Result<Samples> {
    let (dims, shape) = samples(draw);
    let [batch, queries, heads, size] = dims;
    let count = batch * queries * heads * shape.total_points();
    let scaled = |draw: &mut Draw, count: usize, by: f32| {
        let numbers = draw.numbers(count).into_iter().map(|n| n * by);
        Given::new(numbers.collect(), dtype)
    };
    let value = draw.given(batch * shape.total_cells() * heads * size, dtype)?;
    // Outside of the levels too: in -0.5..1.5.
    let places = draw.numbers(count * 2).into_iter().map(|n| n + 0.5);
    let places = Given::new(places.collect(), dtype)?;
    let weights = scaled(draw, count, sizes[0])?;
    let gradient = scaled(draw, batch * queries * heads * size, sizes[1])?;
    let numbers = [value, places, weights, gradient];
    Ok(Samples {
        dims,
        shape,
        numbers,
    })
}

/// Gradients of values, locations and weights by the definition; at a cell's centre towards the next
/// one, as PyTorch has it.
fn deformable_twin(samples: &Samples) -> Result<[Vec<f32>; 3]> {
    let [batch, queries, heads, size] = samples.dims;
    let shape = &samples.shape;
    let (cells, points) = (shape.total_cells(), shape.total_points());
    let mut lists = Vec::new();
    for given in &samples.numbers {
        lists.push(given.wide.to_vec1::<f32>()?);
    }
    let [value, locations, weights, gradient] = &lists[..] else {
        candle_core::bail!("four lists");
    };
    let mut to_value = vec![0.0_f64; value.len()];
    let mut to_locations = vec![0.0_f64; locations.len()];
    let mut to_weights = vec![0.0_f64; weights.len()];
    for sample in 0..batch * queries * heads * points {
        let (point, of_head) = (sample % points, sample / points);
        let (head, image) = (of_head % heads, of_head / heads / queries);
        let (mut level, mut first_cell, mut first_point) = (0, 0, 0);
        while point >= first_point + shape.points[level] {
            first_point += shape.points[level];
            first_cell += shape.levels[level].0 * shape.levels[level].1;
            level += 1;
        }
        let (height, width) = shape.levels[level];
        // In f32 as everywhere, so that a place falls into the same cell.
        let x = locations[2 * sample] * width as f32 - 0.5;
        let y = locations[2 * sample + 1] * height as f32 - 0.5;
        let (left, top) = (x.floor(), y.floor());
        let (right_part, lower_part) = (f64::from(x - left), f64::from(y - top));
        let weight = f64::from(weights[sample]);
        for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let (column, row) = (left as i64 + dx, top as i64 + dy);
            if column < 0 || row < 0 || column >= width as i64 || row >= height as i64 {
                continue;
            }
            let cell = first_cell + row as usize * width + column as usize;
            let (across, along_x) = [(1.0 - right_part, -1.0), (right_part, 1.0)][dx as usize];
            let (down, along_y) = [(1.0 - lower_part, -1.0), (lower_part, 1.0)][dy as usize];
            for channel in 0..size {
                let at = ((image * cells + cell) * heads + head) * size + channel;
                let coming = f64::from(gradient[of_head * size + channel]);
                let seen = f64::from(value[at]);
                to_value[at] += coming * weight * across * down;
                to_weights[sample] += coming * seen * across * down;
                let shared = coming * weight * seen;
                to_locations[2 * sample] += shared * along_x * down * width as f64;
                to_locations[2 * sample + 1] += shared * along_y * across * height as f64;
            }
        }
    }
    let narrow = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
    Ok([narrow(to_value), narrow(to_locations), narrow(to_weights)])
}

fn run_samples(samples: &Samples, executor: &dyn Executor) -> Result<[Tensor; 3]> {
    let [batch, queries, heads, size] = samples.dims;
    let (cells, points) = (samples.shape.total_cells(), samples.shape.total_points());
    let [value, locations, weights, gradient] = &samples.numbers;
    let shaped = [
        &value.narrow.reshape((batch, cells, heads, size))?,
        &locations
            .narrow
            .reshape(&[batch, queries, heads, points, 2][..])?,
        &weights.narrow.reshape((batch, queries, heads, points))?,
        &gradient.narrow.reshape((batch, queries, heads * size))?,
    ];
    gradients::deformable(executor, shaped, &samples.shape)
}

pub(super) fn deformable(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    let samples = made_up_samples(draw, dtype, [1.0, 1.0])?;
    let expected = deformable_twin(&samples)?;
    let mut worst = 0.0_f64;
    for (found, expected) in run_samples(&samples, executor)?.iter().zip(expected) {
        worst = worst.max(difference(&found.flatten_all()?, &flat(expected)?)?);
    }
    Ok(worst)
}

/// Numbers whose products are very small or very large, and such as are not finite, go through the
/// sums in whole numbers unharmed: scaled by powers of two, the values' gradient is scaled so.
pub(super) fn extremes(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    // What the type can hold: f16 ends at 2¹⁶.
    let far = if dtype == DType::F16 { 7 } else { 60 };
    let up = draw.size(0, far) as i32;
    let down = draw.size(0, far) as i32;
    let scale = |exponent: i32| 2.0_f32.powi(exponent);
    let samples = made_up_samples(draw, dtype, [scale(-down), scale(up)])?;
    let [expected, ..] = deformable_twin(&samples)?;
    let back = f64::from(scale(down - up));
    let [found, ..] = run_samples(&samples, executor)?;
    let rescaled = |x: &Tensor| -> Result<Tensor> { x.to_dtype(DType::F32)?.flatten_all()? * back };
    let off = difference(&rescaled(&found)?, &rescaled(&flat(expected)?)?)?;
    let mut broken = samples;
    let [.., gradient] = &mut broken.numbers;
    let mut numbers = gradient.wide.to_vec1::<f32>()?;
    numbers[0] = [f32::NAN, f32::INFINITY][draw.size(0, 1)];
    *gradient = Given::new(numbers, dtype)?;
    let [found, ..] = run_samples(&broken, executor)?;
    let found = found
        .flatten_all()?
        .to_dtype(DType::F32)?
        .to_vec1::<f32>()?;
    Ok(if found.iter().all(|number| number.is_nan()) {
        off
    } else {
        f64::INFINITY
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::ops::reference;

    fn near(found: &[f32], expected: &Tensor, what: &str) {
        let found = flat(found.to_vec()).unwrap();
        let off = difference(&found, expected).unwrap();
        assert!(off < 2e-5, "{what}: off by {off}");
    }

    // The loops above are the yardstick of the kernels; candle's gradients are theirs. Sizes that
    // leave no rest at a stride, with which candle's are wrong.
    #[test]
    fn twins_have_candles_gradients() {
        let mut draw = Draw {
            name: "twins".to_string(),
            draws: 0,
        };
        let convs = [
            Conv::new(3, 4, 3),
            Conv::new(3, 4, 3).stride(2),
            Conv::new(2, 3, 1),
            Conv::depthwise(4, 5),
            Conv::depthwise(4, 3).stride(2),
        ];
        for conv in convs {
            let windows = Windows::of(&conv, 2, (9, 7));
            let (out, of_group, kernel, _) = conv.weight_shape();
            let x = draw.given(windows.inputs(), DType::F32).unwrap();
            let x = x.shaped(&[2, conv.input, 9, 7]).unwrap();
            let weight = draw.given(out * of_group * kernel * kernel, DType::F32);
            let weight = weight
                .unwrap()
                .shaped(&[out, of_group, kernel, kernel])
                .unwrap();
            let (x, weight) = (
                Var::from_tensor(&x).unwrap(),
                Var::from_tensor(&weight).unwrap(),
            );
            let y = reference::conv2d(&x, &weight, None, &conv).unwrap();
            let gradient = draw.given(y.elem_count(), DType::F32).unwrap();
            let loss = (&y * gradient.shaped(y.dims()).unwrap()).unwrap();
            let expected = loss.sum_all().unwrap().backward().unwrap();
            let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (to_x, to_weight) = convolution_twin(
                &numbers(&x),
                &numbers(&weight),
                &numbers(&gradient.wide),
                &conv,
                &windows,
            );
            let what = format!("{conv:?}");
            near(&to_x, expected.get(&x).unwrap(), &what);
            near(&to_weight, expected.get(&weight).unwrap(), &what);
        }
        for _ in 0..4 {
            let samples = made_up_samples(&mut draw, DType::F32, [1.0, 1.0]).unwrap();
            let [batch, queries, heads, size] = samples.dims;
            let (cells, points) = (samples.shape.total_cells(), samples.shape.total_points());
            let var = |index: usize, shape: &[usize]| {
                Var::from_tensor(&samples.numbers[index].shaped(shape).unwrap()).unwrap()
            };
            let value = var(0, &[batch, cells, heads, size]);
            let locations = var(1, &[batch, queries, heads, points, 2]);
            let weights = var(2, &[batch, queries, heads, points]);
            let y = reference::deformable_attention(&value, &locations, &weights, &samples.shape);
            let coming = samples.numbers[3].shaped(&[batch, queries, heads * size]);
            let loss = (y.unwrap() * coming.unwrap()).unwrap();
            let expected = loss.sum_all().unwrap().backward().unwrap();
            let found = deformable_twin(&samples).unwrap();
            for (found, var) in found.iter().zip([&value, &locations, &weights]) {
                near(found, expected.get(var).unwrap(), "deformable attention");
            }
        }
    }

    // A gradient that is not wanted is not computed.
    #[test]
    fn only_what_is_wanted_comes_back() {
        let Some(emulator) = crate::ops::cuda::emulator::emulator() else {
            return;
        };
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let conv = Conv::new(2, 3, 1);
        let (x, weight) = (ones(&[1, 2, 4, 4]), ones(&[3, 2, 1, 1]));
        let gradient = ones(&[1, 3, 4, 4]);
        let all = [&x, &weight, &gradient];
        let (to_x, to_weight) =
            gradients::convolution(&emulator, all, &conv, false, 1 << 20).unwrap();
        assert!(to_x.is_none());
        // By hand: 16 pixels of 1 · 1.
        assert_eq!(
            to_weight.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [16.0; 6]
        );
        let wrong = [&x, &weight, &ones(&[1, 3, 4, 3])];
        assert!(gradients::convolution(&emulator, wrong, &conv, true, 1 << 20).is_err());
    }
}
