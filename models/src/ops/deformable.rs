//! Multi-scale deformable attention (Zhu et al., Deformable DETR, 2021): bilinear samples of a
//! few points a query, from every level, mixed by attention weights.

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::cpu::value::Cells;
#[cfg(feature = "cuda")]
use super::cuda;
use super::planes::{fused, with_numbers};
use super::{Precision, cpu, reference};

/// The levels that are sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleShape {
    /// Height and width of each level, in the order in which they stand in the values.
    pub levels: Vec<(usize, usize)>,
    /// Points a head samples in each level.
    pub points: Vec<usize>,
}

impl SampleShape {
    /// Points of all levels together.
    pub fn total_points(&self) -> usize {
        self.points.iter().sum()
    }

    /// Cells of all levels together.
    pub fn total_cells(&self) -> usize {
        self.levels.iter().map(|(h, w)| h * w).sum()
    }

    /// How many queries look, if locations and weights are those of so many images, cells and heads.
    fn check(
        &self,
        [batch, cells, heads]: [usize; 3],
        locations: &Tensor,
        weights: &Tensor,
    ) -> Result<usize> {
        let (_, queries, _, points) = weights.dims4()?;
        if cells != self.total_cells()
            || points != self.total_points()
            || weights.dims() != [batch, queries, heads, points]
            || locations.dims() != [batch, queries, heads, points, 2]
        {
            candle_core::bail!(
                "deformable attention: {cells} cells of {batch} images in {heads} heads, locations {:?}, \
                 weights {:?} do not fit {self:?}",
                locations.dims(),
                weights.dims()
            );
        }
        Ok(queries)
    }
}

/// Samples `value` (`[batch, cells, heads, size]`) at `locations`
/// (`[batch, queries, heads, points, 2]`, x and y in 0..=1 of the level) and sums the samples with
/// `weights` (`[batch, queries, heads, points]`). The result is `[batch, queries, heads * size]`.
///
/// Bilinear, half-pixel centres, zero outside: PyTorch's `grid_sample` with
/// `align_corners=False`.
///
/// # Errors
/// The shapes do not fit.
pub fn deformable_attention(
    value: &Tensor,
    locations: &Tensor,
    weights: &Tensor,
    shape: &SampleShape,
) -> Result<Tensor> {
    let (batch, cells, heads, size) = value.dims4()?;
    let queries = shape.check([batch, cells, heads], locations, weights)?;
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[value, locations, weights]) {
        return cuda::tensors::deformable_attention(&device, value, locations, weights, shape);
    }
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::training::takes(&[value, locations, weights]) {
        let all = [value, locations, weights];
        return cuda::training::deformable_attention(&device, all, shape);
    }
    let tracked = value.track_op() || locations.track_op() || weights.track_op();
    let fused = value.device().is_cpu() && value.dtype() == DType::F32 && !tracked;
    if !fused {
        return reference::deformable_attention(value, locations, weights, shape);
    }
    let tensors = [
        &value.contiguous()?,
        &locations.contiguous()?,
        &weights.contiguous()?,
    ];
    let output = with_numbers(&tensors, |numbers| {
        let dims = [batch, queries, heads, size];
        cpu::deformable::run(numbers[0], numbers[1], numbers[2], shape, dims)
    })?;
    Tensor::from_vec(output, (batch, queries, heads * size), value.device())
}

/// A value projection with final weights, packed for the CPU: [`deformable_attention`] of a linear layer
/// of the cells, computed as a linear layer of what the samples of the cells give.
pub struct ValueProjection(cpu::value::Projection);

impl ValueProjection {
    /// `weight`: `[heads * size, input]`, `bias`: `[heads * size]`. `None` where there is no kernel
    /// for it: on other devices, in other types, without vector units. In bfloat16 where `precision` says so
    /// and the machine can.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn new(
        weight: &Tensor,
        bias: &Tensor,
        heads: usize,
        precision: Precision,
    ) -> Result<Option<Self>> {
        let (output, input) = weight.dims2()?;
        if output != bias.dims1()? || heads == 0 || output % heads != 0 || output * input == 0 {
            candle_core::bail!(
                "a value projection of {:?} and {:?} for {heads} heads",
                weight.dims(),
                bias.dims()
            );
        }
        if !weight.device().is_cpu() || weight.dtype() != DType::F32 {
            return Ok(None);
        }
        let weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let bias = bias.to_vec1::<f32>()?;
        Ok(cpu::value::Projection::new(&weight, &bias, heads, precision).map(Self))
    }

    /// `memory` in the type that is sampled, for all layers that sample it.
    ///
    /// # Errors
    /// It is no f32.
    pub fn sampled(&self, memory: &Tensor) -> Result<Tensor> {
        if self.0.precision() == Precision::F32 || memory.dtype() == DType::BF16 {
            return Ok(memory.clone());
        }
        /// Numbers that a thread takes at a time.
        const TOGETHER: usize = 64 * 1024;
        let mut halves = vec![bf16::ZERO; memory.elem_count()];
        with_numbers(&[&memory.contiguous()?], |numbers| {
            halves
                .par_chunks_mut(TOGETHER)
                .zip(numbers[0].par_chunks(TOGETHER))
                .for_each(|(halves, numbers)| cpu::words::halves(halves, numbers));
        })?;
        Tensor::from_vec(halves, memory.shape(), memory.device())
    }

    /// As [`deformable_attention`], of the projection of `memory` (`[batch, cells, input]`), or of what
    /// [`Self::sampled`] made of it.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn attend(
        &self,
        memory: &Tensor,
        locations: &Tensor,
        weights: &Tensor,
        shape: &SampleShape,
    ) -> Result<Tensor> {
        let (batch, cells, numbers) = memory.dims3()?;
        let [input, heads, size] = self.0.sizes();
        if numbers != input {
            candle_core::bail!(
                "a value projection of {input} numbers on {:?}",
                memory.dims()
            );
        }
        let queries = shape.check([batch, cells, heads], locations, weights)?;
        let memory = self.sampled(memory)?.contiguous()?;
        let (storage, layout) = memory.storage_and_layout();
        let (start, end) = (
            layout.start_offset(),
            layout.start_offset() + memory.elem_count(),
        );
        let sampled = match (&*storage, self.0.precision()) {
            (Storage::Cpu(CpuStorage::F32(numbers)), Precision::F32) => {
                Cells::Numbers(&numbers[start..end])
            }
            (Storage::Cpu(CpuStorage::BF16(halves)), Precision::Bf16) => {
                Cells::Halves(&halves[start..end])
            }
            (_, precision) => candle_core::bail!(
                "a value projection in {precision:?} of {:?}",
                memory.dtype()
            ),
        };
        let tensors = [&locations.contiguous()?, &weights.contiguous()?];
        let output = with_numbers(&tensors, |numbers| {
            let samples = cpu::deformable::Samples {
                locations: numbers[0],
                weights: numbers[1],
                shape,
            };
            self.0.run(sampled, &samples, batch, queries)
        })?;
        Tensor::from_vec(output, (batch, queries, heads * size), memory.device())
    }
}

/// Where the samples of boxes lie: centres plus `offsets` times half the boxes' sides times the
/// points' scale.
///
/// `offsets`: `[batch, queries, heads, points, 2]`; `boxes`: centre and size, `[batch, queries, 4]`;
/// `scale`: `[points, 1]`. The result has the shape of the offsets.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn box_locations(offsets: &Tensor, boxes: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let &[batch, queries, heads, points, 2] = offsets.dims() else {
        candle_core::bail!("offsets {:?} are no pairs", offsets.dims());
    };
    if boxes.dims() != [batch, queries, 4] || scale.dims() != [points, 1] {
        candle_core::bail!(
            "boxes {:?} and scale {:?} do not fit offsets {:?}",
            boxes.dims(),
            scale.dims(),
            offsets.dims()
        );
    }
    if !fused(&[offsets, boxes, scale]) || offsets.elem_count() == 0 {
        let offsets = offsets.broadcast_mul(scale)?;
        let shape = (batch, queries, 1, 1, 2);
        let center = boxes.narrow(2, 0, 2)?.reshape(shape)?;
        let half = (boxes.narrow(2, 2, 2)? * 0.5)?.reshape(shape)?;
        return offsets.broadcast_mul(&half)?.broadcast_add(&center);
    }
    let output = with_numbers(&[offsets, boxes, scale], |numbers| {
        let mut output = numbers[0].to_vec();
        let queries = output.chunks_exact_mut(heads * points * 2);
        for (locations, corners) in queries.zip(numbers[1].chunks_exact(4)) {
            let (x, y) = (corners[0], corners[1]);
            let (width, height) = (corners[2] * 0.5, corners[3] * 0.5);
            for head in locations.chunks_exact_mut(points * 2) {
                for (pair, scale) in head.chunks_exact_mut(2).zip(numbers[2]) {
                    pair[0] = pair[0] * scale * width + x;
                    pair[1] = pair[1] * scale * height + y;
                }
            }
        }
        output
    })?;
    Tensor::from_vec(output, offsets.shape(), offsets.device())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    // candle's operations, which run where gradients are asked for, are the yardstick.
    #[test]
    fn locations_are_those_of_candle() {
        let device = &Device::Cpu;
        let offsets = Tensor::randn(0_f32, 1.0, (2, 5, 3, 4, 2), device).unwrap();
        let boxes = Tensor::rand(0_f32, 1.0, (2, 5, 4), device).unwrap();
        let scale = Tensor::rand(0_f32, 1.0, (4, 1), device).unwrap();
        let tracked = Var::from_tensor(&offsets).unwrap();
        let expected = box_locations(tracked.as_tensor(), &boxes, &scale).unwrap();
        let found = box_locations(&offsets, &boxes, &scale).unwrap();
        let off = (found - expected).unwrap().abs().unwrap();
        let off = off.flatten_all().unwrap().max(0).unwrap();
        assert!(off.to_scalar::<f32>().unwrap() < 1e-6);
        assert!(box_locations(&offsets, &boxes, &boxes).is_err());
    }
}
