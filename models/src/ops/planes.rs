//! Steps between convolutions, each in one pass over the planes of its inputs: means, sums with
//! gates, shortcuts, halving.

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use rayon::prelude::*;

use super::cpu::math::sum;
#[cfg(feature = "cuda")]
use super::cuda;
use super::{Activation, training};

/// Whether tensors are of the kind that the passes here take: f32 in order on the CPU, and nobody
/// asks for gradients.
pub(super) fn fused(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|x| {
        x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous() && !x.track_op()
    })
}

/// Runs `pass` over the numbers of tensors that [`fused`] accepted.
pub(super) fn with_numbers<T>(tensors: &[&Tensor], pass: impl FnOnce(&[&[f32]]) -> T) -> Result<T> {
    let mut guards = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        guards.push(tensor.storage_and_layout());
    }
    let mut slices = Vec::with_capacity(tensors.len());
    for (storage, layout) in &guards {
        match (&**storage, layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::F32(numbers)), Some((start, end))) => {
                slices.push(&numbers[start..end]);
            }
            _ => candle_core::bail!("a pass over planes needs contiguous f32 on the CPU"),
        }
    }
    Ok(pass(&slices))
}

/// The numbers of a tensor, if it is f32 in order on the CPU.
///
/// # Errors
/// The tensor is not what it says it is.
pub fn with_planes<T>(x: &Tensor, pass: impl FnOnce(&[f32]) -> T) -> Result<Option<T>> {
    if !fused(&[x]) {
        return Ok(None);
    }
    with_numbers(&[x], |numbers| pass(numbers[0])).map(Some)
}

/// Mean of every plane: `[batch, channels, height, width]` to `[batch, channels]`.
///
/// # Errors
/// `x` has other dimensions or empty planes, or the device fails.
pub fn plane_means(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    let size = height * width;
    if size == 0 {
        candle_core::bail!("planes of {height}×{width} have no mean");
    }
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[x]) {
        return cuda::tensors::plane_means(&device, x);
    }
    if x.track_op() && training::on_cpu(x) {
        return training::planes::means(x);
    }
    if !fused(&[x]) {
        return x.flatten_from(2)?.mean(2);
    }
    let means = with_numbers(&[x], |numbers| means(numbers[0], size))?;
    Tensor::from_vec(means, (batch, channels), x.device())
}

/// Of every `size` numbers.
pub(super) fn means(x: &[f32], size: usize) -> Vec<f32> {
    let planes = x.par_chunks_exact(size);
    planes.map(|plane| sum(plane) / size as f32).collect()
}

/// The sum of `streams`, each `[batch, channels, height, width]`, every plane times its gate;
/// `gates`: `[streams, batch, channels]`.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn gated_sum(streams: &[Tensor], gates: &Tensor) -> Result<Tensor> {
    let Some(first) = streams.first() else {
        candle_core::bail!("no streams to add");
    };
    let (batch, channels, height, width) = first.dims4()?;
    let alike = streams.iter().all(|stream| stream.dims() == first.dims());
    if !alike || gates.dims3()? != (streams.len(), batch, channels) {
        candle_core::bail!("gates {:?} do not fit {:?}", gates.dims(), first.dims());
    }
    let mut tensors: Vec<&Tensor> = streams.iter().collect();
    tensors.push(gates);
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&tensors)
        && streams.len() <= cuda::programs::MAX_STREAMS
    {
        return cuda::tensors::gated_sum(&device, &tensors[..streams.len()], gates);
    }
    let tracked = tensors.iter().any(|x| x.track_op());
    if tracked && tensors.iter().all(|x| training::on_cpu(x)) && first.elem_count() > 0 {
        return training::planes::gated_sum(streams, gates);
    }
    if !fused(&tensors) {
        let mut total = None;
        for (index, stream) in streams.iter().enumerate() {
            let gate = gates.get(index)?.reshape((batch, channels, 1, 1))?;
            let gated = stream.broadcast_mul(&gate)?;
            total = Some(match total {
                Some(total) => (total + gated)?,
                None => gated,
            });
        }
        return total.ok_or_else(|| candle_core::Error::Msg("no streams".to_string()));
    }
    let size = height * width;
    let mut output = vec![0.0_f32; first.elem_count()];
    with_numbers(&tensors, |numbers| {
        let (gates, streams) = (numbers[streams.len()], &numbers[..streams.len()]);
        let planes = output.par_chunks_exact_mut(size.max(1)).enumerate();
        planes.for_each(|(plane, output)| {
            for (index, stream) in streams.iter().enumerate() {
                let gate = gates[index * batch * channels + plane];
                let stream = &stream[plane * size..(plane + 1) * size];
                for (out, number) in output.iter_mut().zip(stream) {
                    *out += gate * number;
                }
            }
        });
    })?;
    Tensor::from_vec(output, first.shape(), first.device())
}

/// `max(a + b, 0)`: the end of a block with a shortcut.
///
/// # Errors
/// The shapes differ, or the device fails.
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    /// Numbers that a thread takes at once.
    const PART: usize = 16 * 1024;
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::tensors::takes(&[a, b])
        && a.dims() == b.dims()
    {
        return cuda::tensors::add_relu(&device, a, b);
    }
    if a.dims() == b.dims() && training::on_cpu(a) && (a.track_op() || b.track_op()) {
        return training::add_relu(a, b);
    }
    if a.dims() != b.dims() || !fused(&[a, b]) {
        return Activation::Relu.apply(&(a + b)?);
    }
    let mut output = vec![0.0_f32; a.elem_count()];
    with_numbers(&[a, b], |numbers| {
        let parts = numbers[0].par_chunks(PART).zip(numbers[1].par_chunks(PART));
        output
            .par_chunks_mut(PART)
            .zip(parts)
            .for_each(|(out, (a, b))| {
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = (a + b).max(0.0);
                }
            });
    })?;
    Tensor::from_vec(output, a.shape(), a.device())
}

/// `fine` plus `coarse`, whose sides are `fine`'s divided by a whole number: each of its cells is
/// added to as many of `fine`'s as lie in it.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn add_upsampled(fine: &Tensor, coarse: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = fine.dims4()?;
    let (rows, columns) = (coarse.dim(2)?, coarse.dim(3)?);
    let whole = rows * columns > 0 && height.is_multiple_of(rows) && width.is_multiple_of(columns);
    let same = (coarse.dim(0)?, coarse.dim(1)?) == (batch, channels);
    if !whole || !same || !fused(&[fine, coarse]) {
        return fine + super::upsample_nearest(coarse, height, width)?;
    }
    let (down, across) = (height / rows, width / columns);
    let mut output = vec![0.0_f32; fine.elem_count()];
    with_numbers(&[fine, coarse], |numbers| {
        output
            .par_chunks_exact_mut(height * width)
            .zip(numbers[0].par_chunks_exact(height * width))
            .zip(numbers[1].par_chunks_exact(rows * columns))
            .for_each(|((output, fine), coarse)| {
                let lines = output.chunks_exact_mut(width).zip(fine.chunks_exact(width));
                for (y, (output, fine)) in lines.enumerate() {
                    let coarse = &coarse[y / down * columns..][..columns];
                    let groups = output.chunks_exact_mut(across);
                    for ((output, fine), more) in groups.zip(fine.chunks_exact(across)).zip(coarse)
                    {
                        for (out, number) in output.iter_mut().zip(fine) {
                            *out = number + more;
                        }
                    }
                }
            });
    })?;
    Tensor::from_vec(output, fine.shape(), fine.device())
}

/// Mean of every 2×2 square: both sides halved, an odd last row or column left out.
///
/// # Errors
/// `x` has other than four dimensions, or the device fails.
pub fn halve(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    if height >= 2 && width >= 2 && x.track_op() && training::on_cpu(x) {
        return training::planes::halve(x);
    }
    if height < 2 || width < 2 || !fused(&[x]) {
        return x.avg_pool2d(2);
    }
    let halved = with_numbers(&[x], |numbers| halved(numbers[0], height, width))?;
    Tensor::from_vec(halved, (batch, channels, height / 2, width / 2), x.device())
}

/// Every plane of `height` × `width` numbers, at least two each, by the means of its squares.
pub(super) fn halved(x: &[f32], height: usize, width: usize) -> Vec<f32> {
    let (rows, columns) = (height / 2, width / 2);
    let mut output = vec![0.0_f32; x.len() / (height * width) * rows * columns];
    let planes = x.par_chunks_exact(height * width);
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
    output
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn made_up(seed: usize, shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        let numbers: Vec<f32> = (0..count)
            .map(|index| ((index * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0)
            .collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
    }

    /// Variables of the same numbers: in f32, for the passes of training, and in double precision,
    /// for candle's own operations.
    fn variables(x: &Tensor) -> [Tensor; 2] {
        let wide = x.to_dtype(DType::F64).unwrap();
        [x, &wide].map(|x| Var::from_tensor(x).unwrap().as_tensor().clone())
    }

    fn assert_same(fused: &Tensor, plain: &Tensor) {
        let off = off(fused, plain);
        assert!(off < 1e-6, "{off}");
    }

    fn off(fused: &Tensor, plain: &Tensor) -> f64 {
        assert_eq!(fused.dims(), plain.dims());
        let [fused, plain] = [fused, plain].map(|x| x.to_dtype(DType::F64).unwrap());
        let off = (fused - plain).unwrap().abs().unwrap();
        let off = off.flatten_all().unwrap().max(0).unwrap();
        off.to_scalar::<f64>().unwrap()
    }

    // Candle's own operations in double precision are the yardstick, for gradients too.
    #[test]
    fn gradients_are_candles() {
        for (height, width) in [(2, 2), (4, 8), (6, 10)] {
            for count in 1..5 {
                let shape = [2, 3, height, width];
                let streams: Vec<_> = (0..count)
                    .map(|seed| variables(&made_up(seed, &shape)))
                    .collect();
                let gates = variables(&made_up(9, &[count, 2, 3]));
                let mut found = Vec::new();
                for kind in 0..2 {
                    let inputs: Vec<Tensor> =
                        streams.iter().map(|stream| stream[kind].clone()).collect();
                    let sum = gated_sum(&inputs, &gates[kind]).unwrap();
                    let means = plane_means(&sum.sqr().unwrap()).unwrap();
                    let halves = halve(&sum.sin().unwrap()).unwrap();
                    let loss = means.sqr().unwrap().sum_all().unwrap();
                    let loss = (loss + halves.sqr().unwrap().sum_all().unwrap()).unwrap();
                    let gradients = loss.backward().unwrap();
                    let mut of_all = vec![loss, gradients.get(&gates[kind]).unwrap().clone()];
                    of_all.extend(inputs.iter().map(|x| gradients.get(x).unwrap().clone()));
                    found.push(of_all);
                }
                for (fused, plain) in found[0].iter().zip(&found[1]) {
                    let scale = plain.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
                    let scale = 1.0 + scale.to_scalar::<f64>().unwrap();
                    let off = off(fused, plain) / scale;
                    assert!(off < 1e-5, "{count} of {height}×{width}: {off}");
                }
            }
        }
    }

    // By hand; candle's own gradient spreads over the odd row and column too.
    #[test]
    fn what_halving_leaves_out_gets_no_gradient() {
        let x = Var::from_tensor(&made_up(1, &[1, 1, 3, 5])).unwrap();
        let gradients = halve(&x).unwrap().sum_all().unwrap().backward().unwrap();
        let found = gradients.get(&x).unwrap().flatten_all().unwrap();
        let row = [0.25, 0.25, 0.25, 0.25, 0.0];
        let expected = [row, row, [0.0; 5]].concat();
        assert_eq!(found.to_vec1::<f32>().unwrap(), expected);
    }

    #[test]
    fn one_pass_gives_what_candle_gives() {
        for (height, width) in [(1, 1), (3, 5), (4, 8), (7, 6), (16, 9)] {
            let shape = [2, 3, height, width];
            let (a, b) = (made_up(1, &shape), made_up(2, &shape));
            let [[_, plain_a], [_, plain_b]] = [variables(&a), variables(&b)];
            assert_same(&plane_means(&a).unwrap(), &plane_means(&plain_a).unwrap());
            let found = add_relu(&a, &b).unwrap();
            assert_same(&found, &add_relu(&plain_a, &plain_b).unwrap());
            let gates = made_up(3, &[2, 2, 3]);
            let found = gated_sum(&[a.clone(), b], &gates).unwrap();
            let gates = gates.to_dtype(DType::F64).unwrap();
            let plain = gated_sum(&[plain_a.clone(), plain_b], &gates).unwrap();
            assert_same(&found, &plain);
            for (down, across) in [(1, 1), (2, 2), (2, 3)] {
                let fine = made_up(4, &[2, 3, height * down, width * across]);
                let [_, plain_fine] = variables(&fine);
                let plain = add_upsampled(&plain_fine, &plain_a).unwrap();
                assert_same(&add_upsampled(&fine, &a).unwrap(), &plain);
            }
            if height > 1 {
                assert_same(&halve(&a).unwrap(), &halve(&plain_a).unwrap());
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let (a, b) = (made_up(1, &[1, 2, 4, 4]), made_up(1, &[1, 2, 4, 5]));
        assert!(add_relu(&a, &b).is_err());
        assert!(gated_sum(&[], &made_up(1, &[0, 1, 2])).is_err());
        let gates = made_up(1, &[2, 1, 2]);
        assert!(gated_sum(&[a.clone(), b], &gates).is_err());
        assert!(gated_sum(&[a], &gates).is_err());
        assert!(plane_means(&made_up(1, &[1, 2, 0, 4])).is_err());
    }
}
