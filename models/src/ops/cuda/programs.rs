//! From shapes to launches: one function a kernel. Order and types of arguments are those of the
//! `.cu` files; the emulator's tests run every one of them.

use candle_core::{DType, Result};

use super::program::{Arg, Launch, Program, Role, count, suffix, tiles};
use crate::layers::Conv;
use crate::ops::{Activation, SampleShape, Window};

/// Threads of a block where nothing else decides.
pub(super) const THREADS: u32 = 256;
/// Threads that run together.
pub(super) const WARP: u32 = 32;
/// Levels that deformable attention can sample (`MAX_LEVELS`).
const MAX_LEVELS: usize = 8;
/// Numbers of a head that attention can take (`MAX_HEAD`).
pub const MAX_HEAD: usize = 128;
/// Largest k of top-k (`MAX_K`).
pub const MAX_K: usize = 1024;
/// Most boxes that suppression can take (`MAX_WORDS` words of 32).
pub const MAX_BOXES: usize = 256 * 32;
/// Streams that a gated sum can take.
pub const MAX_STREAMS: usize = 4;
/// Blocks of an epilogue, each of which takes several numbers if there are more.
pub(super) const MAX_BLOCKS: u32 = 65_535;

/// `enum Activation` of common.cuh.
fn activation_number(activation: Activation) -> Arg {
    Arg::u32(match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Silu => 2,
        Activation::Gelu => 3,
        Activation::QuickGelu => 4,
    })
}

/// `Levels` of levels.cuh.
pub(super) fn levels(shape: &SampleShape) -> Result<Arg> {
    if shape.levels.len() > MAX_LEVELS || shape.levels.len() != shape.points.len() {
        candle_core::bail!("deformable attention over {} levels", shape.levels.len());
    }
    let mut levels = vec![0; 1 + 3 * MAX_LEVELS];
    levels[0] = shape.levels.len() as u32;
    for (index, (&(height, width), &points)) in shape.levels.iter().zip(&shape.points).enumerate() {
        levels[1 + index] = count(height)?;
        levels[1 + MAX_LEVELS + index] = count(width)?;
        levels[1 + 2 * MAX_LEVELS + index] = points as u32;
    }
    Ok(Arg::Words(levels))
}

/// Deformable attention; `dims` is `[batch, queries, heads, size]`.
///
/// Inputs: values `[batch, cells, heads, size]`, locations `[batch, queries, heads, points, 2]`,
/// weights `[batch, queries, heads, points]`. Output: `[batch, queries, heads · size]`.
///
/// # Errors
/// Too many levels or numbers.
pub fn deformable(dtype: DType, dims: [usize; 4], shape: &SampleShape) -> Result<Program> {
    let [batch, queries, heads, size] = dims;
    let (cells, points) = (shape.total_cells(), shape.total_points());
    let levels = levels(shape)?;
    let samples = batch * queries * heads * points;
    let total = count(batch * queries * heads * size)?;
    // Places of values are counted in 32 bits within an image.
    count(cells * heads * size)?;
    let mut program = Program::default();
    let mut args = vec![
        program.input(dtype, batch * cells * heads * size),
        program.input(dtype, samples * 2),
        program.input(dtype, samples),
        program.output(dtype, total as usize),
        levels,
        Arg::u32(total),
    ];
    for number in [queries, cells, heads, size, points] {
        args.push(Arg::u32(count(number)?));
    }
    program.launches.push(Launch {
        module: "deformable",
        kernel: format!("deformable_{}", suffix(dtype)?),
        grid: [total.div_ceil(THREADS), 1, 1],
        block: [THREADS, 1, 1],
        args,
    });
    Ok(program)
}

/// Planes and the windows that pass over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Images.
    pub batch: usize,
    /// Channels of each.
    pub channels: usize,
    /// Height and width of the planes.
    pub size: (usize, usize),
    /// The windows.
    pub window: Window,
}

impl Windows {
    /// Those of a convolution of images of `size`.
    pub fn of(conv: &Conv, batch: usize, size: (usize, usize)) -> Self {
        let window = Window {
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
        };
        Self {
            batch,
            channels: conv.input,
            size,
            window,
        }
    }

    /// Height and width of what comes out.
    pub fn out_size(&self) -> (usize, usize) {
        (
            self.window.count(self.size.0),
            self.window.count(self.size.1),
        )
    }

    /// `ConvSizes` of common.cuh.
    pub(super) fn words(&self) -> Result<Arg> {
        let (height, width) = self.out_size();
        let Window {
            kernel,
            stride,
            padding,
        } = self.window;
        let numbers = [
            self.channels,
            self.size.0,
            self.size.1,
            height,
            width,
            kernel,
            stride,
        ];
        let mut words = Vec::with_capacity(8);
        for number in numbers {
            words.push(count(number)?);
        }
        words.push(padding as u32);
        Ok(Arg::Words(words))
    }

    pub(super) fn inputs(&self) -> usize {
        self.batch * self.channels * self.size.0 * self.size.1
    }

    pub(super) fn out_pixels(&self) -> usize {
        let (height, width) = self.out_size();
        height * width
    }
}

/// A depthwise convolution with what follows it. Inputs: images `[batch, channels, height, width]`,
/// weights `[channels, 1, kernel, kernel]`, a bias `[channels]` if there is one.
///
/// # Errors
/// No window fits, or there are too many numbers.
pub fn depthwise(
    dtype: DType,
    windows: &Windows,
    bias: bool,
    activation: Activation,
) -> Result<Program> {
    let (planes, kernel) = (windows.batch * windows.channels, windows.window.kernel);
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, windows.inputs()),
        program.input(dtype, windows.channels * kernel * kernel),
        program.optional(bias, dtype, windows.channels),
        program.output(dtype, planes * windows.out_pixels()),
        windows.words()?,
        activation_number(activation),
    ];
    program.launches.push(Launch {
        module: "convolution",
        kernel: format!("depthwise_{}", suffix(dtype)?),
        grid: [count(planes)?, tiles(windows.out_pixels(), THREADS)?, 1],
        block: [THREADS, 1, 1],
        args,
    });
    Ok(program)
}

/// The pixels under every tap: `[batch, channels, height, width]` to
/// `[batch, channels · kernel², out_height · out_width]`, or, `together`, to
/// `[channels · kernel², batch · out_height · out_width]`.
///
/// # Errors
/// No window fits, or there are too many numbers.
pub fn columns(dtype: DType, windows: &Windows, together: bool) -> Result<Program> {
    let rows = windows.batch * windows.channels * windows.window.kernel.pow(2);
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, windows.inputs()),
        program.output(dtype, rows * windows.out_pixels()),
        windows.words()?,
        Arg::u32(if together { count(windows.batch)? } else { 0 }),
    ];
    program.launches.push(Launch {
        module: "convolution",
        kernel: format!("columns_{}", suffix(dtype)?),
        grid: [count(rows)?, tiles(windows.out_pixels(), THREADS)?, 1],
        block: [THREADS, 1, 1],
        args,
    });
    Ok(program)
}

/// A convolution of f16 or bf16 in one group on the tensor cores, with what follows it. Inputs: images,
/// weights `[output, channels, kernel, kernel]`, a bias `[output]` and a residual of the output's
/// shape, each `parts` of them that is there. Output: `[batch, output, out_height, out_width]`.
///
/// # Errors
/// The type is another one, no window fits, or there are too many numbers.
pub fn implicit(
    dtype: DType,
    windows: &Windows,
    output: usize,
    parts: (bool, bool),
    activation: Activation,
) -> Result<Program> {
    /// Output channels and pixels of a block.
    const BLOCK: (u32, u32) = (64, 128);
    if !matches!(dtype, DType::F16 | DType::BF16) {
        candle_core::bail!("tensor cores are used for f16 and bf16, not {dtype:?}");
    }
    let pixels = windows.batch * windows.out_pixels();
    let inputs = windows.channels * windows.window.kernel.pow(2);
    // Places of patches are counted in 32 bits, up to the end of the last step.
    count(inputs + THREADS as usize)?;
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, windows.inputs()),
        program.input(dtype, output * inputs),
        program.optional(parts.0, dtype, output),
        program.optional(parts.1, dtype, pixels * output),
        program.output(dtype, pixels * output),
        windows.words()?,
        Arg::u32(count(output)?),
        Arg::u32(count(pixels)?),
        activation_number(activation),
    ];
    program.launches.push(Launch {
        module: "implicit",
        kernel: format!("implicit_{}", suffix(dtype)?),
        grid: [count(pixels)?.div_ceil(BLOCK.1), tiles(output, BLOCK.0)?, 1],
        block: [THREADS, 1, 1],
        args,
    });
    Ok(program)
}

/// `activation(x + bias + residual)` over `total` numbers, of which `inner` beside each other belong
/// to one of `channels` channels. Inputs: x, the bias and the residual if they are there.
///
/// # Errors
/// There are too many numbers.
pub fn epilogue(
    dtype: DType,
    total: usize,
    channels: usize,
    inner: usize,
    parts: (bool, bool),
    activation: Activation,
) -> Result<Program> {
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, total),
        program.optional(parts.0, dtype, channels),
        program.optional(parts.1, dtype, total),
        program.output(dtype, total),
        Arg::u32(count(total)?),
        Arg::u32(count(channels)?),
        Arg::u32(count(inner)?),
        activation_number(activation),
    ];
    let blocks = count(total)?.div_ceil(THREADS).min(MAX_BLOCKS);
    program.launches.push(Launch {
        module: "convolution",
        kernel: format!("epilogue_{}", suffix(dtype)?),
        grid: [blocks, 1, 1],
        block: [THREADS, 1, 1],
        args,
    });
    Ok(program)
}

/// A launch of one of rows.cu, one warp a row.
fn rows_launch(kernel: &str, dtype: DType, rows: usize, args: Vec<Arg>) -> Result<Launch> {
    Ok(Launch {
        module: "rows",
        kernel: format!("{kernel}_{}", suffix(dtype)?),
        grid: [count(rows)?.div_ceil(THREADS / WARP), 1, 1],
        block: [THREADS, 1, 1],
        args,
    })
}

/// Layer norm. Inputs: `[rows, size]`, weight and bias `[size]`.
///
/// # Errors
/// There are too many numbers.
pub fn layer_norm(dtype: DType, rows: usize, size: usize, eps: f32) -> Result<Program> {
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, rows * size),
        program.input(dtype, size),
        program.input(dtype, size),
        program.output(dtype, rows * size),
        Arg::u32(count(rows)?),
        Arg::u32(count(size)?),
        Arg::f32(eps),
    ];
    let launch = rows_launch("layer_norm", dtype, rows, args)?;
    program.launches.push(launch);
    Ok(program)
}

/// Softmax of every row of `[rows, size]`.
///
/// # Errors
/// There are too many numbers.
pub fn softmax(dtype: DType, rows: usize, size: usize) -> Result<Program> {
    of_rows("softmax", dtype, rows, size, rows * size)
}

/// Mean of every row: `[rows, size]` to `[rows]`.
///
/// # Errors
/// There are too many numbers.
pub fn means(dtype: DType, rows: usize, size: usize) -> Result<Program> {
    of_rows("means", dtype, rows, size, rows)
}

/// Where the largest number of every row of `[rows, size]` is, the first of equal ones, and what it is:
/// `[rows]`, u32 and f32. NaN never is; a row of nothing else has [`u32::MAX`].
///
/// # Errors
/// There are too many numbers.
pub fn best(dtype: DType, rows: usize, size: usize) -> Result<Program> {
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, rows * size),
        program.output(DType::U32, rows),
        program.output(DType::F32, rows),
        Arg::u32(count(rows)?),
        Arg::u32(count(size)?),
    ];
    let launch = rows_launch("best", dtype, rows, args)?;
    program.launches.push(launch);
    Ok(program)
}

fn of_rows(kernel: &str, dtype: DType, rows: usize, size: usize, out: usize) -> Result<Program> {
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, rows * size),
        program.output(dtype, out),
        Arg::u32(count(rows)?),
        Arg::u32(count(size)?),
    ];
    let launch = rows_launch(kernel, dtype, rows, args)?;
    program.launches.push(launch);
    Ok(program)
}

/// Max pooling of `[batch, channels, height, width]`.
///
/// # Errors
/// No window fits, or there are too many numbers.
pub fn max_pool(dtype: DType, windows: &Windows) -> Result<Program> {
    let planes = windows.batch * windows.channels;
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, windows.inputs()),
        program.output(dtype, planes * windows.out_pixels()),
        windows.words()?,
    ];
    program.launches.push(Launch {
        module: "planes",
        kernel: format!("max_pool_{}", suffix(dtype)?),
        grid: [count(planes)?, tiles(windows.out_pixels(), THREADS)?, 1],
        block: [THREADS, 1, 1],
        args,
    });
    Ok(program)
}

/// The sum of `streams` of `[planes, size]`, every plane times its gate. Inputs: the streams, the
/// gates `[streams, planes]`.
///
/// # Errors
/// There are none, more than [`MAX_STREAMS`], or too many numbers.
pub fn gated_sum(dtype: DType, streams: usize, planes: usize, size: usize) -> Result<Program> {
    if streams == 0 || streams > MAX_STREAMS {
        candle_core::bail!("a gated sum of {streams} streams");
    }
    let mut program = Program::default();
    let mut args = Vec::new();
    for stream in 0..MAX_STREAMS {
        args.push(program.optional(stream < streams, dtype, planes * size));
    }
    args.push(program.input(dtype, streams * planes));
    args.push(program.output(dtype, planes * size));
    args.push(Arg::u32(count(planes)?));
    args.push(Arg::u32(count(size)?));
    program.launches.push(Launch {
        module: "planes",
        kernel: format!("gated_sum_{}", suffix(dtype)?),
        grid: [count(planes)?, tiles(size, THREADS)?, 1],
        block: [THREADS, 1, 1],
        args,
    });
    Ok(program)
}

/// Rows of attention's queries, keys or values: `[batch, rows, heads · head]`, perhaps inside larger
/// ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// How many there are in an image.
    pub rows: usize,
    /// Numbers from one image's to the next one's.
    pub batch_stride: usize,
    /// Numbers from one row to the next.
    pub row_stride: usize,
}

impl Rows {
    /// Numbers from the first to the last of them.
    fn span(&self, batch: usize, size: usize) -> usize {
        (batch - 1) * self.batch_stride + (self.rows - 1) * self.row_stride + size
    }
}

/// Attention of `batch` images with `heads` heads of `head` numbers. Inputs: queries, keys, values.
/// Output: `[batch, queries, heads · head]`.
///
/// # Errors
/// Heads are larger than [`MAX_HEAD`], or there are too many numbers.
pub fn attention(
    dtype: DType,
    [batch, heads, head]: [usize; 3],
    query: Rows,
    key: Rows,
    value: Rows,
) -> Result<Program> {
    /// Queries of a block: four warps with four each.
    const QUERIES: u32 = 16;
    let size = heads * head;
    if head > MAX_HEAD || batch * heads * head * query.rows * key.rows == 0 {
        candle_core::bail!("attention of {heads} heads of {head} in {batch} images");
    }
    let mut sizes = Vec::new();
    for number in [query.rows, key.rows, heads, head] {
        sizes.push(count(number)?);
    }
    for rows in [query, key, value] {
        for stride in [rows.batch_stride, rows.row_stride] {
            // A stride of one row or image alone may be anything.
            sizes.push(u32::try_from(stride).unwrap_or(0));
        }
        count(rows.span(batch, size))?;
    }
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, query.span(batch, size)),
        program.input(dtype, key.span(batch, size)),
        program.input(dtype, value.span(batch, size)),
        program.output(dtype, batch * query.rows * size),
        Arg::Words(sizes),
        Arg::f32((1.0 / (head as f64).sqrt()) as f32),
    ];
    program.launches.push(Launch {
        module: "attention",
        kernel: format!("attention_{}", suffix(dtype)?),
        grid: [
            count(query.rows)?.div_ceil(QUERIES),
            tiles(heads, 1)?,
            tiles(batch, 1)?,
        ],
        block: [4 * WARP, 1, 1],
        args,
    });
    Ok(program)
}

/// Indices of the `k` largest of every row of `[rows, n]`: `[rows, k]`, u32.
///
/// # Errors
/// `k` is 0, larger than `n` or than [`MAX_K`], or there are too many numbers.
pub fn top_k(dtype: DType, rows: usize, n: usize, k: usize) -> Result<Program> {
    if k > n || k > MAX_K {
        candle_core::bail!("top-{k} of {n}");
    }
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, rows * n),
        program.output(DType::U32, rows * k),
        Arg::u32(count(n)?),
        Arg::u32(count(k)?),
    ];
    program.launches.push(Launch {
        module: "top_k",
        kernel: format!("top_k_{}", suffix(dtype)?),
        grid: [count(rows)?, 1, 1],
        block: [512, 1, 1],
        args,
    });
    Ok(program)
}

/// Which boxes non-maximum suppression leaves. Inputs: corners `[batch, boxes, 4]`, f32, by falling
/// score, and their classes `[batch, boxes]`, u32. Output: `[batch, boxes]`, u8, 1 for those that
/// stay.
///
/// # Errors
/// There are more than [`MAX_BOXES`], or none.
pub fn suppression(batch: usize, boxes: usize, iou: f32) -> Result<Program> {
    if boxes > MAX_BOXES {
        candle_core::bail!("suppression among {boxes} boxes");
    }
    let words = boxes.div_ceil(WARP as usize);
    let mut program = Program::default();
    let corners = program.input(DType::F32, batch * boxes * 4);
    let classes = program.input(DType::U32, batch * boxes);
    let mask = program.buffer(DType::U32, batch * boxes * words, Role::Scratch);
    let kept = program.output(DType::U8, batch * boxes);
    let number = Arg::u32(count(boxes)?);
    program.launches.push(Launch {
        module: "suppression",
        kernel: "overlaps".to_string(),
        grid: [words as u32, words as u32, tiles(batch, 1)?],
        block: [WARP, 1, 1],
        args: vec![
            corners,
            classes,
            mask.clone(),
            number.clone(),
            Arg::f32(iou),
        ],
    });
    program.launches.push(Launch {
        module: "suppression",
        kernel: "suppress".to_string(),
        grid: [count(batch)?, 1, 1],
        block: [WARP, 1, 1],
        args: vec![mask, kept, number],
    });
    Ok(program)
}

/// Inner products of `[m, dim]` with `[n, dim]`: `[m, n]`, f32.
///
/// # Errors
/// There are too many numbers.
pub fn products(dtype: DType, m: usize, n: usize, dim: usize) -> Result<Program> {
    const SIDE: u32 = 64;
    let mut program = Program::default();
    let args = vec![
        program.input(dtype, m * dim),
        program.input(dtype, n * dim),
        program.output(DType::F32, m * n),
        Arg::u32(count(m)?),
        Arg::u32(count(n)?),
        Arg::u32(count(dim)?),
    ];
    program.launches.push(Launch {
        module: "products",
        kernel: format!("products_{}", suffix(dtype)?),
        grid: [count(n)?.div_ceil(SIDE), tiles(m, SIDE)?, 1],
        block: [16, 16, 1],
        args,
    });
    Ok(program)
}
