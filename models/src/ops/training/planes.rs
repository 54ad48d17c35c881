//! Steps between convolutions with gradients of their own: means of planes, halving, sums of
//! streams by gates.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::tape::{Input, Step, computed};
use super::with_numbers;
use crate::ops::planes;

/// [`crate::ops::plane_means`].
pub(crate) fn means(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let size = height * width;
    let x = Input::new(x)?;
    let means = with_numbers(&x.numbers, |x| planes::means(x, size))?;
    computed(Means { size }, vec![x], means, (batch, channels))
}

struct Means {
    /// Numbers of a plane.
    size: usize,
}

impl Step for Means {
    fn name(&self) -> &'static str {
        "plane-means-training"
    }

    fn backward(&self, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let mut to_x = vec![0.0_f32; gradient.len() * self.size];
        let planes = to_x.par_chunks_exact_mut(self.size).zip(&gradient);
        planes.for_each(|(plane, gradient)| plane.fill(gradient / self.size as f32));
        Ok(vec![Some(to_x)])
    }
}

/// [`crate::ops::halve`], of at least two rows and columns.
pub(crate) fn halve(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let x = Input::new(x)?;
    let output = with_numbers(&x.numbers, |x| planes::halved(x, height, width))?;
    let shape = (batch, channels, height / 2, width / 2);
    let step = Halve { height, width };
    computed(step, vec![x], output, shape)
}

struct Halve {
    height: usize,
    width: usize,
}

impl Step for Halve {
    fn name(&self) -> &'static str {
        "halve-training"
    }

    fn backward(&self, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let Self { height, width } = *self;
        let (rows, columns) = (height / 2, width / 2);
        let planes = gradient.len() / (rows * columns);
        let mut to_x = vec![0.0_f32; planes * height * width];
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
        Ok(vec![Some(to_x)])
    }
}

/// [`crate::ops::gated_sum`] of at least one stream, all of the same shape and none empty.
pub(crate) fn gated_sum(streams: &[Tensor], gates: &Tensor) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for (pair, streams) in streams.chunks(2).enumerate() {
        let gates = gates.narrow(0, 2 * pair, streams.len())?;
        let part = gated(streams, &gates)?;
        total = Some(match total {
            Some(total) => (total + part)?,
            None => part,
        });
    }
    total.ok_or_else(|| candle_core::Error::Msg("no streams".to_string()))
}

/// One or two streams, every plane times its gate; gates: `[streams, batch, channels]`.
fn gated(streams: &[Tensor], gates: &Tensor) -> Result<Tensor> {
    let shape = streams[0].shape();
    let (batch, channels, height, width) = shape.dims4()?;
    let (planes, size) = (batch * channels, height * width);
    let mut inputs = Vec::with_capacity(streams.len() + 1);
    for stream in streams {
        inputs.push(Input::new(stream)?);
    }
    inputs.push(Input::new(gates)?);
    let wanted = inputs.iter().map(Input::is_tracked).collect();
    let mut numbers: Vec<Tensor> = inputs.iter().map(|input| input.numbers.clone()).collect();
    let Some(gates) = numbers.pop() else {
        candle_core::bail!("no gates");
    };
    let mut output = vec![0.0_f32; planes * size];
    for (index, stream) in numbers.iter().enumerate() {
        with_numbers(stream, |stream| {
            with_numbers(&gates, |gates| {
                let gates = &gates[index * planes..][..planes];
                let inputs = stream.par_chunks_exact(size).zip(gates);
                let jobs = output.par_chunks_exact_mut(size).zip(inputs);
                jobs.for_each(|(output, (stream, gate))| {
                    for (out, number) in output.iter_mut().zip(stream) {
                        *out += gate * number;
                    }
                });
            })
        })??;
    }
    let step = Gated {
        streams: numbers,
        gates,
        size,
        wanted,
    };
    computed(step, inputs, output, shape)
}

struct Gated {
    streams: Vec<Tensor>,
    gates: Tensor,
    /// Numbers of a plane.
    size: usize,
    /// Which gradients are asked for: the streams', the gates'.
    wanted: Vec<bool>,
}

impl Step for Gated {
    fn name(&self) -> &'static str {
        "gated-training"
    }

    fn backward(&self, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let planes = gradient.len() / self.size;
        let mut found = Vec::with_capacity(self.streams.len() + 1);
        let mut to_gates = vec![0.0_f32; self.streams.len() * planes];
        let parts = to_gates.chunks_exact_mut(planes).enumerate();
        for ((index, to_gates), stream) in parts.zip(&self.streams) {
            let mut to_stream = vec![0.0_f32; gradient.len()];
            with_numbers(stream, |stream| {
                with_numbers(&self.gates, |gates| {
                    let gates = &gates[index * planes..][..planes];
                    let inputs = gradient
                        .par_chunks_exact(self.size)
                        .zip(stream.par_chunks_exact(self.size));
                    let outputs = to_stream.par_chunks_exact_mut(self.size).zip(to_gates);
                    let jobs = outputs.zip(inputs).zip(gates);
                    jobs.for_each(|(((to_stream, to_gate), (gradient, stream)), gate)| {
                        for (to_stream, gradient) in to_stream.iter_mut().zip(gradient) {
                            *to_stream = gate * gradient;
                        }
                        *to_gate = crate::dot(gradient, stream);
                    });
                })
            })??;
            found.push(Some(to_stream));
        }
        found.push(Some(to_gates));
        for (found, wanted) in found.iter_mut().zip(&self.wanted) {
            if !wanted {
                *found = None;
            }
        }
        Ok(found)
    }
}
