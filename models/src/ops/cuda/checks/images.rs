//! Preprocessing against the CPU's: equal to the last bit in f32.

use candle_core::{DType, Device, Result, Tensor};
use image::{GenericImageView, RgbImage};

use super::resize::{self, Filter, Job, Target};
use super::{Draw, Executor, difference, one};
use crate::preprocess::{Filter as PilFilter, resize_opencv_bilinear, resize_pil};
use crate::testing::made_up_image;

pub(super) fn pil_bilinear(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    images(draw, dtype, executor, Filter::PilBilinear)
}

pub(super) fn pil_bicubic(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    images(draw, dtype, executor, Filter::PilBicubic)
}

pub(super) fn opencv(draw: &mut Draw, dtype: DType, executor: &dyn Executor) -> Result<f64> {
    images(draw, dtype, executor, Filter::OpencvBilinear)
}

/// Parts of frames of different sizes, put anywhere into inputs of one size.
fn images(draw: &mut Draw, dtype: DType, executor: &dyn Executor, filter: Filter) -> Result<f64> {
    let target = Target {
        width: draw.size(8, 30),
        height: draw.size(8, 30),
        filter,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        border: 114,
        dtype,
    };
    let (mut jobs, mut bytes, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..draw.size(1, 3) {
        let frame = made_up_image(
            draw.size(4, 90) as u32,
            draw.size(4, 90) as u32,
            seed as u32,
        );
        let job = job(draw, &target, &frame, bytes.len());
        expected.extend(twin(&frame, &job, &target));
        bytes.extend_from_slice(frame.as_raw());
        jobs.push(job);
    }
    let plan = resize::resize(&jobs, bytes.len(), &target)?;
    let (count, words) = (bytes.len(), plan.jobs.len());
    let inputs = [
        Tensor::from_vec(bytes, count, &Device::Cpu)?,
        Tensor::from_vec(plan.jobs, words, &Device::Cpu)?,
    ];
    let found = one(executor.run(&plan.program, &inputs)?)?;
    let count = expected.len();
    let expected = Tensor::from_vec(expected, count, &Device::Cpu)?.to_dtype(dtype)?;
    difference(&found, &expected)
}

fn job(draw: &mut Draw, target: &Target, frame: &RgbImage, first: usize) -> Job {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let part = (draw.size(1, width), draw.size(1, height));
    let inner = (draw.size(1, target.width), draw.size(1, target.height));
    let rows = part.1 as i64 - inner.1 as i64;
    Job {
        frame: first,
        frame_width: width,
        part_at: (draw.size(0, width - part.0), draw.size(0, height - part.1)),
        part,
        inner,
        inner_at: (
            draw.size(0, target.width - inner.0),
            draw.size(0, target.height - inner.1),
        ),
        // Pillow 13's rule, as preprocess/pil.rs has it.
        rows_first: rows > 0 && rows > 2 * (part.0 as i64 - inner.0 as i64),
    }
}

/// What the CPU makes of it: `[3, height, width]`.
fn twin(frame: &RgbImage, job: &Job, target: &Target) -> Vec<f32> {
    let [left, top] = [job.part_at.0 as u32, job.part_at.1 as u32];
    let part = frame.view(left, top, job.part.0 as u32, job.part.1 as u32);
    let part = part.to_image();
    let (width, height) = (job.inner.0 as u32, job.inner.1 as u32);
    let inner = match target.filter {
        Filter::PilBilinear => resize_pil(&part, width, height, PilFilter::Bilinear),
        Filter::PilBicubic => resize_pil(&part, width, height, PilFilter::Bicubic),
        Filter::OpencvBilinear => resize_opencv_bilinear(&part, width, height),
    };
    let mut planes = Vec::new();
    for channel in 0..3 {
        for y in 0..target.height {
            for x in 0..target.width {
                let (x, y) = (
                    x.wrapping_sub(job.inner_at.0),
                    y.wrapping_sub(job.inner_at.1),
                );
                let byte = if x < job.inner.0 && y < job.inner.1 {
                    inner.get_pixel(x as u32, y as u32).0[channel]
                } else {
                    target.border
                };
                let unit = f32::from(byte) / 255.0;
                planes.push((unit - target.mean[channel]) / target.std[channel]);
            }
        }
    }
    planes
}
