//! Convolution for inference: weights prepared once, bias and activation fused where a kernel is.

use candle_core::{DType, Result, Tensor};

use crate::layers::{Activation, Conv};

use super::cpu::block::Precision;
use super::cpu::conv::{Added, Joined, Packed, Size};
use super::cpu::product::{Begun, Source, is_pointwise};
#[cfg(feature = "cuda")]
use super::cuda;
use super::planes::{add_relu, fused, with_numbers};
use super::{joined, profile, reference, upsample_nearest};

/// A convolution with final weights.
pub struct Conv2d {
    conv: Conv,
    form: Form,
    /// What the activation gives is multiplied by the first and the second is added.
    scale: Option<(f32, f32)>,
}

enum Form {
    /// Weights as the CPU kernels want them; only for f32 on the CPU.
    Packed(Box<Packed>),
    /// The same, of the coarser level's channels and of all others: a pointwise convolution of
    /// up-sampled cells is computed once for each, before they are up-sampled.
    Levels(Box<[Packed; 2]>),
    Plain {
        weight: Tensor,
        bias: Option<Tensor>,
    },
}

impl Conv2d {
    /// `weight`: `[output, input / groups, kernel, kernel]`, `bias`: `[output]`.
    ///
    /// # Errors
    /// The shapes do not fit `conv`.
    pub fn new(conv: Conv, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Self::with_precision(conv, weight, bias, Precision::F32)
    }

    /// The same, with products in `precision` where the CPU has a kernel for them.
    ///
    /// # Errors
    /// The shapes do not fit `conv`.
    pub fn with_precision(
        conv: Conv,
        weight: &Tensor,
        bias: Option<&Tensor>,
        precision: Precision,
    ) -> Result<Self> {
        if weight.dims4()? != conv.weight_shape() {
            candle_core::bail!(
                "convolution weight: expected {:?}, found {:?}",
                conv.weight_shape(),
                weight.dims()
            );
        }
        let form = if weight.device().is_cpu() && weight.dtype() == DType::F32 {
            let bias = match bias {
                Some(bias) => bias.to_vec1::<f32>()?,
                None => vec![0.0; conv.output],
            };
            match packed_levels(&conv, weight, &bias, precision)? {
                Some(levels) => Form::Levels(levels),
                None => {
                    let weight = weight.flatten_all()?.to_vec1::<f32>()?;
                    Form::Packed(Box::new(Packed::new(&conv, weight, bias, precision)))
                }
            }
        } else {
            Form::Plain {
                weight: weight.clone(),
                bias: bias.cloned(),
            }
        };
        Ok(Self {
            conv,
            form,
            scale: None,
        })
    }

    /// The same by vector units of `level` at most.
    #[cfg(test)]
    pub(crate) fn at_level(
        conv: Conv,
        weight: &Tensor,
        bias: &Tensor,
        precision: Precision,
        level: super::cpu::simd::Level,
    ) -> Result<Self> {
        let weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let packed = Packed::at(&conv, weight, bias.to_vec1()?, precision, level);
        Ok(Self {
            conv,
            form: Form::Packed(Box::new(packed)),
            scale: None,
        })
    }

    /// The same with what the activation gives multiplied by `scale`, and `shift` added.
    #[must_use]
    pub fn scaled(mut self, scale: f32, shift: f32) -> Self {
        match &mut self.form {
            Form::Packed(packed) => packed.scale(scale, shift),
            Form::Levels(levels) => levels[1].scale(scale, shift),
            Form::Plain { .. } => {}
        }
        self.scale = Some((scale, shift));
        self
    }

    /// Convolves what [`Tensor::cat`] of `parts` over the channels would give, where possible
    /// without making it. Parts smaller than the last one are up-sampled to its size (nearest
    /// neighbour); one, of [`Conv::coarse`] channels, takes a pointwise convolution little work.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward_parts(&self, parts: &[&Tensor]) -> Result<Tensor> {
        profile::timed(|| self.describe(parts), || self.of_parts(parts, None))
    }

    /// The same plus `added`, which has the shape of the result, in one go where possible; `relu`
    /// makes zeros of what is then below zero.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward_sum(&self, parts: &[&Tensor], added: &Tensor, relu: bool) -> Result<Tensor> {
        let sum = || {
            let adds = match &self.form {
                Form::Packed(packed) => packed.adds(),
                Form::Levels(levels) => levels[1].adds(),
                Form::Plain { .. } => false,
            };
            if adds && fused(&[added]) {
                return self.of_parts(parts, Some((added, relu)));
            }
            let y = self.of_parts(parts, None)?;
            if relu { add_relu(&y, added) } else { y + added }
        };
        profile::timed(|| self.describe(parts), sum)
    }

    fn of_parts(&self, parts: &[&Tensor], added: Option<(&Tensor, bool)>) -> Result<Tensor> {
        let channels = parts.iter().map(|part| part.dims4().map(|dims| dims.1));
        let channels = channels.collect::<Result<Vec<usize>>>()?;
        if channels.iter().sum::<usize>() != self.conv.input {
            candle_core::bail!(
                "convolution of {} channels was given {channels:?}",
                self.conv.input
            );
        }
        match &self.form {
            Form::Plain { .. } => self.plain(&joined(parts)?),
            Form::Packed(packed) => run(packed, parts, None, added),
            Form::Levels(levels) => of_levels(levels, parts, added),
        }
    }

    /// `x`: `[batch, input, height, width]`.
    ///
    /// # Errors
    /// The shape does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_parts(&[x])
    }

    /// For a profile: what it is, and its operations on `parts`.
    fn describe(&self, parts: &[&Tensor]) -> (String, f64) {
        let Conv {
            input,
            output,
            kernel,
            stride,
            groups,
            ..
        } = self.conv;
        let &[batch, _, height, width] = parts.last().map_or(&[0; 4][..], |x| x.dims()) else {
            return ("convolution".to_string(), 0.0);
        };
        let (rows, columns) = self.conv.output_size(height, width).unwrap_or_default();
        let cells = batch * rows * columns;
        let operations = 2 * cells * output * (input / groups) * kernel * kernel;
        let grouped = if groups > 1 {
            format!(" in {groups} groups")
        } else {
            String::new()
        };
        let what = format!(
            "conv {kernel}×{kernel} /{stride}, {input} → {output}{grouped}, {batch} × {height}×{width}"
        );
        (what, operations as f64)
    }

    /// Where there is no kernel for the CPU.
    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let Form::Plain { weight, bias } = &self.form else {
            candle_core::bail!("the weights of this convolution are packed");
        };
        let (x, conv) = self.conv.with_far_zeros(x)?;
        let y = match self.on_device(&x, weight, bias.as_ref(), &conv)? {
            Some(y) => y,
            None => {
                let y = reference::conv2d(&x, weight, bias.as_ref(), &conv)?;
                conv.activation.apply(&y)?
            }
        };
        match self.scale {
            Some((scale, shift)) => y.affine(f64::from(scale), f64::from(shift)),
            None => Ok(y),
        }
    }

    /// By a kernel for the GPU, if there is one.
    #[cfg(feature = "cuda")]
    fn on_device(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        conv: &Conv,
    ) -> Result<Option<Tensor>> {
        match cuda::tensors::takes(&[x, weight]) {
            Some(device) => cuda::tensors::conv2d(&device, x, weight, bias, conv),
            None => Ok(None),
        }
    }

    /// There are no kernels for a GPU.
    #[cfg(not(feature = "cuda"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn on_device(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: Option<&Tensor>,
        _: &Conv,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// The coarser level's channels and all others, where [`Conv::coarse`] says so and it pays.
fn packed_levels(
    conv: &Conv,
    weight: &Tensor,
    bias: &[f32],
    precision: Precision,
) -> Result<Option<Box<[Packed; 2]>>> {
    if conv.coarse == 0 || conv.coarse >= conv.input || !is_pointwise(conv) {
        return Ok(None);
    }
    let part = |conv: Conv, first: usize, bias: Vec<f32>| {
        let weight = weight.narrow(1, first, conv.input)?.flatten_all()?;
        let weight = weight.to_vec1::<f32>()?;
        Ok::<_, candle_core::Error>(Packed::new(&conv, weight, bias, precision))
    };
    let [coarse, fine] = [conv.coarse, conv.input - conv.coarse].map(|input| Conv {
        input,
        coarse: 0,
        ..*conv
    });
    let fine = part(fine, conv.coarse, bias.to_vec())?;
    if !fine.goes_on() {
        return Ok(None);
    }
    let coarse = coarse.activation(Activation::Identity);
    let coarse = part(coarse, 0, vec![0.0; conv.output])?;
    Ok(Some(Box::new([coarse, fine])))
}

/// By the weights of two levels; the first part is all of the coarser one.
fn of_levels(
    levels: &[Packed; 2],
    parts: &[&Tensor],
    added: Option<(&Tensor, bool)>,
) -> Result<Tensor> {
    let [coarse, fine] = levels;
    let [first, others @ ..] = parts else {
        candle_core::bail!("convolution of nothing");
    };
    if others.is_empty() || first.dim(1)? != coarse.input_channels() {
        // All in one tensor, or parts that are cut elsewhere.
        let x = joined(parts)?;
        let [of_coarse, of_fine] = [coarse, fine].map(Packed::input_channels);
        let parts = [x.narrow(1, 0, of_coarse)?, x.narrow(1, of_coarse, of_fine)?];
        return of_levels(levels, &[&parts[0], &parts[1]], added);
    }
    let mut begun = run(coarse, &[first], None, None)?;
    let (_, _, height, width) = others[others.len() - 1].dims4()?;
    let (_, _, rows, columns) = begun.dims4()?;
    let whole = rows > 0 && height % rows == 0;
    if !whole || columns * (height / rows) != width {
        begun = upsample_nearest(&begun, height, width)?;
    }
    run(fine, others, Some(&begun), added)
}

/// By packed weights, of parts in one tensor if they are not of the kind that the kernels take; sums go
/// on from `begun`, whose cells stand for as many of the output's along each side as it is smaller.
fn run(
    packed: &Packed,
    parts: &[&Tensor],
    begun: Option<&Tensor>,
    added: Option<(&Tensor, bool)>,
) -> Result<Tensor> {
    let Some(last) = parts.last() else {
        candle_core::bail!("convolution of nothing");
    };
    let (batch, _, height, width) = last.dims4()?;
    let mut alike = true;
    for part in parts {
        let found = part.dims4()?;
        alike &= (found.2, found.3) == (height, width);
        if found.0 != batch {
            candle_core::bail!("parts {:?} and {:?} do not fit", part.dims(), last.dims());
        }
    }
    if !fused(parts) || !alike || parts.len() > 1 && !packed.takes_parts() {
        let x = joined(parts)?.contiguous()?.detach();
        if !fused(&[&x]) {
            candle_core::bail!("the fused convolution needs f32 on the CPU");
        }
        return run(packed, &[&x], begun, added);
    }
    let channels = parts.iter().map(|part| part.dim(1));
    let channels = channels.collect::<Result<Vec<usize>>>()?;
    let size = Size {
        batch,
        height,
        width,
    };
    let factor = match begun {
        Some(begun) => height / begun.dim(2)?.max(1),
        None => 1,
    };
    let mut tensors = parts.to_vec();
    tensors.extend(begun);
    tensors.extend(added.map(|(added, _)| added));
    let (output, height, width) = with_numbers(&tensors, |numbers| {
        let (parts, mut others) = (&numbers[..channels.len()], &numbers[channels.len()..]);
        let mut other = || others.split_off_first().copied().unwrap_or_default();
        let sources: Vec<_> = parts
            .iter()
            .zip(&channels)
            .map(|(&data, &channels)| Source { data, channels })
            .collect();
        let begun = begun.map(|_| Begun {
            data: other(),
            factor,
        });
        let added = added.map(|(_, relu)| Added {
            data: other(),
            relu,
        });
        packed.run(&sources, size, Joined { begun, added })
    })??;
    let shape = (batch, packed.output_channels(), height, width);
    Tensor::from_vec(output, shape, last.device())
}

/// Grouped convolution with bias, without activation, on any device, with gradients: by kernels where
/// a GPU has them, else by candle. `x`: `[batch, input, height, width]`.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub(crate) fn conv2d_with_gradients(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    conv: &Conv,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(device) = cuda::training::takes(&[x, weight])
        && let Some(y) = cuda::training::conv2d(&device, x, weight, conv)?
    {
        return match bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, bias.dim(0)?, 1, 1))?),
            None => Ok(y),
        };
    }
    reference::conv2d(x, weight, bias, conv)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        // The yardstick: the plain convolution of candle's up-sampled and joined tensors.
        #[test]
        fn coarser_parts_count_as_up_sampled(
            coarse in 1_usize..70, fine in 1_usize..70, output in 1_usize..70, batch in 1_usize..3,
            (height, width) in (1_usize..9, 1_usize..30), (down, across, more) in (1_usize..4, 1_usize..4, 0_usize..2),
            hinted: bool, split: bool, relu: bool, threads in prop_oneof![Just(1), Just(3)],
        ) {
            let run = || -> Result<f32> {
                let device = &Device::Cpu;
                // Multiples, alike on both sides or not, and what is none.
                let (rows, columns) = (height * down + more, width * across);
                let conv = Conv::new(coarse + fine, output, 1).activation(Activation::Silu);
                let conv = conv.coarse(if hinted { coarse } else { 0 });
                let weight = Tensor::randn(0_f32, 0.2, conv.weight_shape(), device)?;
                let bias = Tensor::randn(0_f32, 1.0, output, device)?;
                let first = Tensor::randn(0_f32, 1.0, (batch, coarse, height, width), device)?;
                let second = Tensor::randn(0_f32, 1.0, (batch, fine, rows, columns), device)?;
                let added = Tensor::randn(0_f32, 1.0, (batch, output, rows, columns), device)?;
                let layer = Conv2d::new(conv, &weight, Some(&bias))?.scaled(0.75, -0.5);
                let x = first.upsample_nearest2d(rows, columns)?;
                let x = Tensor::cat(&[&x, &second], 1)?;
                let expected = reference::conv2d(&x, &weight, Some(&bias), &conv)?.silu()?;
                let expected = (expected.affine(0.75, -0.5)? + &added)?;
                let expected = if relu { expected.relu()? } else { expected };
                let cut = [second.narrow(1, 0, fine / 2)?, second.narrow(1, fine / 2, fine - fine / 2)?];
                let parts = if split && fine > 1 {
                    vec![&first, &cut[0], &cut[1]]
                } else {
                    vec![&first, &second]
                };
                let off = |found: Tensor| -> Result<f32> {
                    assert_eq!(found.dims(), expected.dims());
                    (found - &expected)?.abs()?.max_all()?.to_scalar::<f32>()
                };
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.map_err(candle_core::Error::wrap)?;
                let found = pool.install(|| layer.forward_sum(&parts, &added, relu))?;
                Ok(off(found)?.max(off(layer.forward_sum(&[&x], &added, relu)?)?))
            };
            let off = run().unwrap();
            prop_assert!(off < 2e-5, "off by {}", off);
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_errors() -> Result<()> {
        let device = &Device::Cpu;
        let conv = Conv::new(5, 3, 1).coarse(2);
        let layer = Conv2d::new(
            conv,
            &Tensor::zeros((3, 5, 1, 1), DType::F32, device)?,
            None,
        )?;
        let part = |channels, side| Tensor::zeros((1, channels, side, side), DType::F32, device);
        assert!(layer.forward_parts(&[&part(2, 2)?, &part(3, 4)?]).is_ok());
        assert!(layer.forward_parts(&[&part(2, 2)?, &part(4, 4)?]).is_err());
        assert!(layer.forward_parts(&[&part(2, 2)?]).is_err());
        assert!(layer.forward_parts(&[]).is_err());
        let other = Tensor::zeros((2, 3, 4, 4), DType::F32, device)?;
        assert!(layer.forward_parts(&[&part(2, 2)?, &other]).is_err());
        Ok(())
    }
}
