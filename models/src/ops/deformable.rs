//! Multi-scale deformable attention (Zhu et al., Deformable DETR, 2021): bilinear samples of a
//! few points a query, from every level, mixed by attention weights.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{cpu, reference};

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
    let (batch, cells, heads, _) = value.dims4()?;
    let (_, queries, _, points) = weights.dims4()?;
    if cells != shape.total_cells()
        || points != shape.total_points()
        || locations.dims() != [batch, queries, heads, points, 2]
    {
        candle_core::bail!(
            "deformable attention: values {:?}, locations {:?}, weights {:?} do not fit {shape:?}",
            value.dims(),
            locations.dims(),
            weights.dims()
        );
    }
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[value, locations, weights]) {
        return cuda::tensors::deformable_attention(&device, value, locations, weights, shape);
    }
    let tracked = value.track_op() || locations.track_op() || weights.track_op();
    let fused = value.device().is_cpu() && value.dtype() == DType::F32 && !tracked;
    if !fused {
        return reference::deformable_attention(value, locations, weights, shape);
    }
    value.contiguous()?.apply_op3_no_bwd(
        &locations.contiguous()?,
        &weights.contiguous()?,
        &CpuDeformable(shape),
    )
}

struct CpuDeformable<'a>(&'a SampleShape);

impl CustomOp3 for CpuDeformable<'_> {
    fn name(&self) -> &'static str {
        "deformable-attention"
    }

    fn cpu_fwd(
        &self,
        value: &CpuStorage,
        value_layout: &Layout,
        locations: &CpuStorage,
        locations_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, _, heads, size) = value_layout.shape().dims4()?;
        let (_, queries, _, _) = weights_layout.shape().dims4()?;
        let output = cpu::deformable::run(
            slice(value, value_layout)?,
            slice(locations, locations_layout)?,
            slice(weights, weights_layout)?,
            self.0,
            [batch, queries, heads, size],
        );
        let shape = Shape::from((batch, queries, heads * size));
        Ok((CpuStorage::F32(output), shape))
    }
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(data)) => Ok(&data[start..end]),
        _ => candle_core::bail!("deformable attention needs contiguous f32"),
    }
}
