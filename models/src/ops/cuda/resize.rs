//! Launches of preprocess.cu: frames of bytes to a network's input.

use candle_core::{DType, Result};

use super::program::{Arg, Launch, Program, Role, count, suffix, tiles};

/// Threads of a block.
const THREADS: u32 = 256;

/// How pixels are mixed; `enum Filter` of preprocess.cu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Pillow's bilinear.
    PilBilinear,
    /// Pillow's bicubic.
    PilBicubic,
    /// OpenCV's bilinear.
    OpencvBilinear,
}

impl Filter {
    fn number(self) -> u32 {
        match self {
            Self::PilBilinear => 0,
            Self::PilBicubic => 1,
            Self::OpencvBilinear => 2,
        }
    }

    /// Most numbers that the table has for a target position: start, count, weights.
    fn table_size(self, source: usize, target: usize) -> usize {
        let half = match self {
            Self::OpencvBilinear => return 4,
            Self::PilBilinear => 1.0,
            Self::PilBicubic => 2.0,
        };
        let stretch = (source as f64 / target as f64).max(1.0);
        2 + (2.0 * half * stretch).ceil() as usize + 1
    }
}

/// One image of the batch: a part of a frame and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// First byte of the frame among all frames' bytes.
    pub frame: usize,
    /// Width of the frame in pixels.
    pub frame_width: usize,
    /// Left and upper edge of the part.
    pub part_at: (usize, usize),
    /// Width and height of the part.
    pub part: (usize, usize),
    /// Width and height that it is resized to.
    pub inner: (usize, usize),
    /// Left and upper edge of that in the input.
    pub inner_at: (usize, usize),
    /// Whether Pillow resizes rows before columns.
    pub rows_first: bool,
}

/// What is common to a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Width of the input.
    pub width: usize,
    /// Height of the input.
    pub height: usize,
    /// How pixels are mixed.
    pub filter: Filter,
    /// Subtracted from each channel in 0..=1.
    pub mean: [f32; 3],
    /// What each channel is divided by after that.
    pub std: [f32; 3],
    /// Grey around the inner part.
    pub border: u8,
    /// Type of the output.
    pub dtype: DType,
}

/// A program, and the descriptions of its images, which it takes as its second input.
#[derive(Debug, Clone)]
pub struct Resize {
    /// Inputs: the frames' bytes, [`Resize::jobs`] (u32). Output: `[images, 3, height, width]`.
    pub program: Program,
    /// The images' descriptions.
    pub jobs: Vec<u32>,
}

/// Where things of the images lie in buffers that all share.
#[derive(Default)]
struct Layout {
    jobs: Vec<u32>,
    tables: usize,
    between: usize,
    /// Most positions of a table, most pixels between the passes.
    positions: usize,
    pixels: usize,
}

impl Layout {
    /// `struct Job` of preprocess.cu.
    fn add(&mut self, job: &Job, filter: Filter) -> Result<()> {
        let (width, height) = job.part;
        let (inner_width, inner_height) = job.inner;
        let (left, top) = job.part_at;
        let pitch = job.frame_width * 3;
        let column_size = filter.table_size(width, inner_width);
        let row_size = filter.table_size(height, inner_height);
        let pixels = if job.rows_first {
            width * inner_height
        } else {
            inner_width * height
        };
        let numbers = [
            job.frame + top * pitch + left * 3,
            pitch,
            width,
            height,
            inner_width,
            inner_height,
            job.inner_at.0,
            job.inner_at.1,
            usize::from(job.rows_first),
            self.between,
            self.tables,
            self.tables + inner_width * column_size,
            column_size,
            row_size,
        ];
        for number in numbers {
            let Ok(word) = u32::try_from(number) else {
                candle_core::bail!("the frames of a batch have too many pixels");
            };
            self.jobs.push(word);
        }
        self.tables += inner_width * column_size + inner_height * row_size;
        if filter != Filter::OpencvBilinear {
            self.between += pixels * 3;
            self.pixels = self.pixels.max(pixels);
        }
        self.positions = self.positions.max(inner_width).max(inner_height);
        Ok(())
    }
}

/// Resizes and normalises `jobs`, parts of frames with `bytes` bytes together.
///
/// # Errors
/// There are none, one has no pixels or lies outside, or there are too many pixels.
pub fn resize(jobs: &[Job], bytes: usize, target: &Target) -> Result<Resize> {
    let mut layout = Layout::default();
    for job in jobs {
        let (right, bottom) = (job.part_at.0 + job.part.0, job.part_at.1 + job.part.1);
        let inside = right <= job.frame_width
            && job.frame + bottom * job.frame_width * 3 <= bytes
            && job.inner_at.0 + job.inner.0 <= target.width
            && job.inner_at.1 + job.inner.1 <= target.height;
        if !inside || job.part.0 * job.part.1 * job.inner.0 * job.inner.1 == 0 {
            candle_core::bail!("no part of a frame: {job:?}");
        }
        layout.add(job, target.filter)?;
    }
    let images = tiles(jobs.len(), 1)?;
    let pixels = target.width * target.height;
    let mut program = Program::default();
    let frames = program.input(DType::U8, bytes);
    let descriptions = program.input(DType::U32, layout.jobs.len());
    let tables = program.buffer(DType::U32, layout.tables, Role::Scratch);
    let between = program.buffer(DType::U8, layout.between.max(1), Role::Scratch);
    let output = program.output(target.dtype, jobs.len() * 3 * pixels);
    let filter = Arg::u32(target.filter.number());
    let launch = |kernel: String, grid: [u32; 3], args: Vec<Arg>| Launch {
        module: "preprocess",
        kernel,
        grid,
        block: [THREADS, 1, 1],
        args,
    };
    let blocks = |numbers: usize| Ok::<_, candle_core::Error>(count(numbers)?.div_ceil(THREADS));
    program.launches.push(launch(
        "resize_tables".to_string(),
        [blocks(layout.positions)?, images, 2],
        vec![descriptions.clone(), tables.clone(), filter.clone()],
    ));
    if target.filter != Filter::OpencvBilinear {
        program.launches.push(launch(
            "resize_first".to_string(),
            [blocks(layout.pixels)?, images, 1],
            vec![
                frames.clone(),
                descriptions.clone(),
                tables.clone(),
                between.clone(),
            ],
        ));
    }
    let normal = target.mean.iter().chain(&target.std);
    program.launches.push(launch(
        format!("resize_last_{}", suffix(target.dtype)?),
        [blocks(pixels)?, images, 1],
        vec![
            frames,
            descriptions,
            tables,
            between,
            output,
            Arg::Words(normal.map(|number| number.to_bits()).collect()),
            filter,
            Arg::u32(count(target.width)?),
            Arg::u32(count(target.height)?),
            Arg::u32(u32::from(target.border)),
        ],
    ));
    let jobs = layout.jobs;
    Ok(Resize { program, jobs })
}
