//! The way back through convolutions and deformable attention: which kernels run, and the matrix
//! products between them.
//!
//! Everything runs on whatever the [`Executor`] runs on: the tests take these same functions through
//! the emulator, with the products on the CPU.

use candle_core::{DType, Result, Tensor};

use super::checks::Executor;
use super::program::{Arg, Launch, Program, Role, count, suffix, tiles};
use super::programs::{self, MAX_BLOCKS, THREADS, WARP, Windows};
use crate::layers::Conv;
use crate::ops::SampleShape;

/// One launch of gradients.cu.
fn launch(kernel: &str, grid: [u32; 3], args: Vec<Arg>) -> Launch {
    Launch {
        module: "gradients",
        kernel: kernel.to_string(),
        grid,
        block: [THREADS, 1, 1],
        args,
    }
}

/// The way back of [`programs::columns`] image by image: `[batch, channels · kernel², out_height ·
/// out_width]` to `[batch, channels, height, width]`.
///
/// # Errors
/// No window fits, or there are too many numbers.
pub fn fold(dtype: DType, windows: &Windows) -> Result<Program> {
    let planes = windows.batch * windows.channels;
    let rows = planes * windows.window.kernel.pow(2);
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, rows * windows.out_pixels()),
        program.output(dtype, windows.inputs()),
        windows.words()?,
    ];
    let kernel = format!("fold_{}", suffix(dtype)?);
    let grid = over_cells(windows)?;
    program.launches.push(launch(&kernel, grid, args));
    Ok(program)
}

/// Blocks over planes and their cells.
fn over_cells(windows: &Windows) -> Result<[u32; 3]> {
    let cells = windows.size.0 * windows.size.1;
    // Cells are counted in 32 bits with the padding around them.
    count(cells + windows.window.padding)?;
    let planes = count(windows.batch * windows.channels)?;
    Ok([planes, tiles(cells, THREADS)?, 1])
}

/// The gradient of a depthwise convolution's input. Inputs: weights `[channels, 1, kernel, kernel]`,
/// the output's gradient.
///
/// # Errors
/// No window fits, or there are too many numbers.
pub fn depthwise_to_input(dtype: DType, windows: &Windows) -> Result<Program> {
    let planes = windows.batch * windows.channels;
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, windows.channels * windows.window.kernel.pow(2)),
        program.input(dtype, planes * windows.out_pixels()),
        program.output(dtype, windows.inputs()),
        windows.words()?,
    ];
    let kernel = format!("depthwise_to_input_{}", suffix(dtype)?);
    let grid = over_cells(windows)?;
    program.launches.push(launch(&kernel, grid, args));
    Ok(program)
}

/// The gradient of a depthwise convolution's weights. Inputs: images, the output's gradient.
///
/// # Errors
/// No window fits, or there are too many numbers.
pub fn depthwise_to_weight(dtype: DType, windows: &Windows) -> Result<Program> {
    let planes = windows.batch * windows.channels;
    let weights = windows.channels * windows.window.kernel.pow(2);
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, windows.inputs()),
        program.input(dtype, planes * windows.out_pixels()),
        program.output(dtype, weights),
        windows.words()?,
        Arg::u32(count(windows.batch)?),
    ];
    let kernel = format!("depthwise_to_weight_{}", suffix(dtype)?);
    let grid = [count(weights)?, 1, 1];
    let mut of_taps = launch(&kernel, grid, args);
    of_taps.block[0] = THREADS / 2;
    program.launches.push(of_taps);
    Ok(program)
}

/// Gradients of deformable attention; `dims` and the first three inputs as [`programs::deformable`]
/// has them, the fourth the output's gradient. Outputs: the gradients of values, locations, weights.
///
/// # Errors
/// Too many levels or numbers.
pub fn deformable_program(dtype: DType, dims: [usize; 4], shape: &SampleShape) -> Result<Program> {
    let [batch, queries, heads, size] = dims;
    let (cells, points) = (shape.total_cells(), shape.total_points());
    let (values, samples) = (
        batch * cells * heads * size,
        batch * queries * heads * points,
    );
    let total = batch * queries * heads * size;
    count(cells * heads * size)?;
    let mut numbers = Vec::new();
    for number in [queries, cells, heads, size, points] {
        numbers.push(Arg::u32(count(number)?));
    }
    let (levels, suffix) = (programs::levels(shape)?, suffix(dtype)?);
    let mut program = Program::default();
    let value = program.input(dtype, values);
    let locations = program.input(dtype, samples * 2);
    let weights = program.input(dtype, samples);
    let gradient = program.input(dtype, total);
    let to_value = program.output(dtype, values);
    let to_locations = program.output(dtype, samples * 2);
    let to_weights = program.output(dtype, samples);
    // Whole numbers of 64 bits, and the two largest sizes.
    let sums = program.buffer(DType::U32, 2 * values, Role::Scratch);
    let most = program.buffer(DType::U32, 2, Role::Scratch);
    // Four numbers a thread.
    let blocks = |count: u32| count.div_ceil(4 * THREADS).min(MAX_BLOCKS);
    let (values, samples, total) = (count(values)?, count(samples)?, count(total)?);

    let mut args = vec![value, locations.clone(), weights.clone(), gradient.clone()];
    args.extend([to_locations, to_weights, levels.clone(), Arg::u32(samples)]);
    args.extend(numbers.clone());
    let grid = [samples.div_ceil(THREADS / WARP), 1, 1];
    let kernel = format!("deformable_to_samples_{suffix}");
    program.launches.push(launch(&kernel, grid, args));

    let args = vec![sums.clone(), Arg::u32(values), most.clone()];
    let grid = [blocks(values), 1, 1];
    program.launches.push(launch("zero_sums", grid, args));
    for (which, (list, count)) in [(&gradient, total), (&weights, samples)].iter().enumerate() {
        let (which, length) = (Arg::u32(which as u32), Arg::u32(*count));
        let args = vec![(*list).clone(), most.clone(), which, length];
        let grid = [blocks(*count), 1, 1];
        let kernel = format!("largest_{suffix}");
        program.launches.push(launch(&kernel, grid, args));
    }
    let mut args = vec![locations, weights, gradient, most.clone(), sums.clone()];
    args.extend([levels, Arg::u32(total)]);
    args.extend(numbers);
    let grid = [total.div_ceil(THREADS), 1, 1];
    let kernel = format!("deformable_to_sums_{suffix}");
    program.launches.push(launch(&kernel, grid, args));

    let summands = Arg::u32(count(queries * points)?);
    let args = vec![sums, most, to_value, Arg::u32(values), summands];
    let grid = [blocks(values), 1, 1];
    let kernel = format!("sums_to_value_{suffix}");
    program.launches.push(launch(&kernel, grid, args));
    Ok(program)
}

/// Gradients of [`crate::ops::deformable_attention`]'s values, locations and weights.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn deformable(
    executor: &dyn Executor,
    [value, locations, weights, gradient]: [&Tensor; 4],
    shape: &SampleShape,
) -> Result<[Tensor; 3]> {
    let (batch, _, heads, size) = value.dims4()?;
    let dims = [batch, weights.dim(1)?, heads, size];
    let program = deformable_program(value.dtype(), dims, shape)?;
    let mut inputs = Vec::new();
    for input in [value, locations, weights, gradient] {
        inputs.push(input.contiguous()?);
    }
    match executor.run(&program, &inputs)?.as_slice() {
        [to_value, to_locations, to_weights] => Ok([
            to_value.reshape(value.shape())?,
            to_locations.reshape(locations.shape())?,
            to_weights.reshape(weights.shape())?,
        ]),
        _ => candle_core::bail!("deformable attention has three gradients"),
    }
}

/// Gradients of a convolution's input, if it is `wanted`, and weights: depthwise, or in one group.
/// `gradient` is the output's, `[batch, output, out_height, out_width]`; patches as columns take at
/// most `room` bytes at once, or one image's.
///
/// # Errors
/// The shapes do not fit, groups are of another kind, or the device fails.
pub fn convolution(
    executor: &dyn Executor,
    [x, weight, gradient]: [&Tensor; 3],
    conv: &Conv,
    wanted: bool,
    room: usize,
) -> Result<(Option<Tensor>, Tensor)> {
    let (batch, _, height, width) = x.dims4()?;
    let windows = Windows::of(conv, batch, (height, width));
    let (out_height, out_width) = windows.out_size();
    if gradient.dims() != [batch, conv.output, out_height, out_width] {
        candle_core::bail!("{:?} is no gradient of {conv:?}", gradient.dims());
    }
    let dense = Dense {
        executor,
        x: x.contiguous()?,
        weight: weight.contiguous()?,
        gradient: gradient.contiguous()?,
        windows,
        room,
    };
    if conv.groups == 1 {
        let to_input = if wanted {
            Some(dense.to_input()?)
        } else {
            None
        };
        return Ok((to_input, dense.to_weight()?));
    }
    if conv.groups != conv.input || conv.output != conv.input {
        candle_core::bail!("no kernel for the gradients of {conv:?}");
    }
    let Dense {
        x,
        weight,
        gradient,
        ..
    } = dense;
    let mut to_input = None;
    if wanted {
        let program = depthwise_to_input(x.dtype(), &windows)?;
        let found = first(executor.run(&program, &[weight.clone(), gradient.clone()])?)?;
        to_input = Some(found.reshape(x.shape())?);
    }
    let program = depthwise_to_weight(x.dtype(), &windows)?;
    let to_weight = first(executor.run(&program, &[x, gradient])?)?;
    Ok((to_input, to_weight.reshape(weight.shape())?))
}

fn first(outputs: Vec<Tensor>) -> Result<Tensor> {
    match outputs.into_iter().next() {
        Some(output) => Ok(output),
        None => candle_core::bail!("a program without an output"),
    }
}

/// A convolution in one group on its way back; all tensors contiguous.
struct Dense<'a> {
    executor: &'a dyn Executor,
    x: Tensor,
    weight: Tensor,
    gradient: Tensor,
    windows: Windows,
    room: usize,
}

impl Dense<'_> {
    /// Rows of patches as columns, and pixels of an output.
    fn sizes(&self) -> (usize, usize) {
        let rows = self.windows.channels * self.windows.window.kernel.pow(2);
        (rows, self.windows.out_pixels())
    }

    /// Whether patches are the pixels themselves.
    fn is_plain(&self) -> bool {
        let window = self.windows.window;
        (window.kernel, window.stride, window.padding) == (1, 1, 0)
    }

    /// First and number of the images of each part that there is room for.
    fn parts(&self) -> Vec<(usize, usize)> {
        let (rows, pixels) = self.sizes();
        let of_image = rows * pixels * self.x.dtype().size_in_bytes();
        let batch = self.windows.batch;
        let together = (self.room / of_image.max(1)).clamp(1, batch.max(1));
        let starts = (0..batch).step_by(together);
        starts
            .map(|start| (start, together.min(batch - start)))
            .collect()
    }

    /// The transposed weights times the gradient, image by image, and each cell's share of it.
    fn to_input(&self) -> Result<Tensor> {
        let (rows, pixels) = self.sizes();
        let output = self.gradient.dim(1)?;
        let weight = self.weight.reshape((1, output, rows))?.t()?;
        let mut folded = Vec::new();
        for (start, batch) in self.parts() {
            let gradient = self.gradient.narrow(0, start, batch)?;
            let gradient = gradient.reshape((batch, output, pixels))?;
            let columns = weight
                .broadcast_as((batch, rows, output))?
                .matmul(&gradient)?; // [batch, rows, pixels]
            if self.is_plain() {
                folded.push(columns);
                continue;
            }
            let windows = Windows {
                batch,
                ..self.windows
            };
            let program = fold(self.x.dtype(), &windows)?;
            let cells = first(self.executor.run(&program, &[columns.flatten_all()?])?)?;
            let cells_of = windows.size.0 * windows.size.1;
            folded.push(cells.reshape((batch, windows.channels, cells_of))?);
        }
        let whole = match folded.as_slice() {
            [only] => only.clone(),
            _ => Tensor::cat(&folded, 0)?,
        };
        whole.reshape(self.x.shape())
    }

    /// The gradient times the transposed patches of all images of a part beside each other; parts are
    /// added in their order.
    fn to_weight(&self) -> Result<Tensor> {
        let (rows, pixels) = self.sizes();
        let output = self.gradient.dim(1)?;
        let mut sum: Option<Tensor> = None;
        for (start, batch) in self.parts() {
            let x = self.x.narrow(0, start, batch)?;
            let columns = if self.is_plain() {
                channels_first(&x)?
            } else {
                let windows = Windows {
                    batch,
                    ..self.windows
                };
                let program = programs::columns(x.dtype(), &windows, true)?;
                first(self.executor.run(&program, &[x.contiguous()?])?)?
            };
            let columns = columns.reshape((rows, batch * pixels))?;
            let gradient = channels_first(&self.gradient.narrow(0, start, batch)?)?;
            let part = gradient
                .reshape((output, batch * pixels))?
                .matmul(&columns.t()?)?; // [output, rows]
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        match sum {
            Some(sum) => sum.reshape(self.weight.shape()),
            None => self.weight.zeros_like(),
        }
    }
}

/// `[batch, channels, height, width]` as `[channels, batch, height · width]`, contiguous.
fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.transpose(0, 1)?.contiguous()
}
