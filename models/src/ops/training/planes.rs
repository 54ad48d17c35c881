//! Steps between convolutions with gradients of their own: means of planes, halving, sums of
//! streams by gates.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{numbers, with_numbers};
use crate::ops::cpu::math::sum;

/// [`crate::ops::plane_means`].
pub(crate) fn means(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Means)
}

struct Means;

impl CustomOp1 for Means {
    fn name(&self) -> &'static str {
        "plane-means-training"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let size = height * width;
        let planes = numbers(x, layout)?.par_chunks_exact(size);
        let means = planes.map(|plane| sum(plane) / size as f32).collect();
        Ok((CpuStorage::F32(means), Shape::from((batch, channels))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, height, width) = x.dims4()?;
        let size = height * width;
        let mut to_x = vec![0.0_f32; x.elem_count()];
        with_numbers(&gradient.contiguous()?, |gradient| {
            let planes = to_x.par_chunks_exact_mut(size).zip(gradient);
            planes.for_each(|(plane, gradient)| plane.fill(gradient / size as f32));
        })?;
        Ok(Some(Tensor::from_vec(to_x, x.shape(), x.device())?))
    }
}

/// [`crate::ops::halve`], of at least two rows and columns.
pub(crate) fn halve(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Halve)
}

struct Halve;

impl CustomOp1 for Halve {
    fn name(&self) -> &'static str {
        "halve-training"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let (rows, columns) = (height / 2, width / 2);
        let shape = Shape::from((batch, channels, rows, columns));
        let mut output = vec![0.0_f32; shape.elem_count()];
        let planes = numbers(x, layout)?.par_chunks_exact(height * width);
        let outputs = output.par_chunks_exact_mut(rows * columns);
        outputs.zip(planes).for_each(|(output, plane)| {
            let pairs = plane.chunks_exact(2 * width);
            for (row, pair) in output.chunks_exact_mut(columns).zip(pairs) {
                let (upper, lower) = pair.split_at(width);
                let squares = upper.chunks_exact(2).zip(lower.chunks_exact(2));
                for (out, (upper, lower)) in row.iter_mut().zip(squares) {
                    *out = (upper[0] + upper[1] + lower[0] + lower[1]) * 0.25;
                }
            }
        });
        Ok((CpuStorage::F32(output), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, height, width) = x.dims4()?;
        let (rows, columns) = (height / 2, width / 2);
        let mut to_x = vec![0.0_f32; x.elem_count()];
        with_numbers(&gradient.contiguous()?, |gradient| {
            let planes = to_x.par_chunks_exact_mut(height * width);
            let planes = planes.zip(gradient.par_chunks_exact(rows * columns));
            planes.for_each(|(plane, gradient)| {
                let pairs = plane.chunks_exact_mut(2 * width);
                for (pair, gradient) in pairs.zip(gradient.chunks_exact(columns)) {
                    for row in pair.chunks_exact_mut(width) {
                        for (two, gradient) in row.chunks_exact_mut(2).zip(gradient) {
                            two.fill(0.25 * gradient);
                        }
                    }
                }
            });
        })?;
        Ok(Some(Tensor::from_vec(to_x, x.shape(), x.device())?))
    }
}

/// [`crate::ops::gated_sum`] of at least one stream, all of the same shape.
pub(crate) fn gated_sum(streams: &[Tensor], gates: &Tensor) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for (pair, streams) in streams.chunks(2).enumerate() {
        let gates = gates.narrow(0, 2 * pair, streams.len())?.contiguous()?;
        let part = match streams {
            [a, b] => a.contiguous()?.apply_op3(&b.contiguous()?, &gates, Gated)?,
            _ => streams[0].contiguous()?.apply_op2(&gates, Gated)?,
        };
        total = Some(match total {
            Some(total) => (total + part)?,
            None => part,
        });
    }
    total.ok_or_else(|| candle_core::Error::Msg("no streams".to_string()))
}

/// One or two streams, every plane times its gate; gates: `[streams, batch, channels]`.
struct Gated;

impl Gated {
    fn forward(streams: &[&[f32]], gates: &[f32], shape: &Shape) -> Result<CpuStorage> {
        let size = plane_size(shape)?;
        let planes = shape.elem_count() / size;
        let mut output = vec![0.0_f32; shape.elem_count()];
        let jobs = output.par_chunks_exact_mut(size).enumerate();
        jobs.for_each(|(plane, output)| {
            for (stream, gates) in streams.iter().zip(gates.chunks_exact(planes)) {
                let stream = &stream[plane * size..][..size];
                for (out, number) in output.iter_mut().zip(stream) {
                    *out += gates[plane] * number;
                }
            }
        });
        Ok(CpuStorage::F32(output))
    }

    /// Gradients of the streams and of the gates.
    fn backward(
        streams: &[&Tensor],
        gates: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        let size = plane_size(gradient.shape())?;
        let gradient = gradient.contiguous()?;
        let planes = gradient.elem_count() / size;
        let mut to_streams = Vec::with_capacity(streams.len());
        let mut to_gates = vec![0.0_f32; gates.elem_count()];
        let parts = to_gates.chunks_exact_mut(planes).enumerate();
        for ((index, to_gates), stream) in parts.zip(streams) {
            let mut to_stream = vec![0.0_f32; gradient.elem_count()];
            with_numbers(&gradient, |gradient| {
                with_numbers(stream, |stream| {
                    with_numbers(gates, |gates| {
                        let gates = &gates[index * planes..][..planes];
                        let inputs = gradient
                            .par_chunks_exact(size)
                            .zip(stream.par_chunks_exact(size));
                        let outputs = to_stream.par_chunks_exact_mut(size).zip(to_gates);
                        let jobs = outputs.zip(inputs).zip(gates);
                        jobs.for_each(|(((to_stream, to_gate), (gradient, stream)), gate)| {
                            for (to_stream, gradient) in to_stream.iter_mut().zip(gradient) {
                                *to_stream = gate * gradient;
                            }
                            *to_gate = crate::dot(gradient, stream);
                        });
                    })
                })
            })???;
            to_streams.push(Tensor::from_vec(
                to_stream,
                stream.shape(),
                stream.device(),
            )?);
        }
        let to_gates = Tensor::from_vec(to_gates, gates.shape(), gates.device())?;
        Ok((to_streams, to_gates))
    }
}

fn plane_size(shape: &Shape) -> Result<usize> {
    let (_, _, height, width) = shape.dims4()?;
    if shape.elem_count() == 0 {
        candle_core::bail!("nothing to learn from in {:?}", shape.dims());
    }
    Ok(height * width)
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated-training"
    }

    fn cpu_fwd(
        &self,
        stream: &CpuStorage,
        layout: &Layout,
        gates: &CpuStorage,
        gates_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let streams = [numbers(stream, layout)?];
        let gates = numbers(gates, gates_layout)?;
        let output = Self::forward(&streams, gates, layout.shape())?;
        Ok((output, layout.shape().clone()))
    }

    fn bwd(
        &self,
        stream: &Tensor,
        gates: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut to_streams, to_gates) = Self::backward(&[stream], gates, gradient)?;
        Ok((to_streams.pop(), Some(to_gates)))
    }
}

impl CustomOp3 for Gated {
    fn name(&self) -> &'static str {
        "gated-pair-training"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
        gates: &CpuStorage,
        gates_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let streams = [numbers(a, a_layout)?, numbers(b, b_layout)?];
        let gates = numbers(gates, gates_layout)?;
        let output = Self::forward(&streams, gates, a_layout.shape())?;
        Ok((output, a_layout.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        gates: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (mut to_streams, to_gates) = Self::backward(&[a, b], gates, gradient)?;
        let to_b = to_streams.pop();
        Ok((to_streams.pop(), to_b, Some(to_gates)))
    }
}
