//! Operations on tensors of a GPU whose gradients are asked for: forwards as in [`super::tensors`],
//! backwards by the kernels of [`super::gradients`].
//!
//! candle's own way back through a convolution goes channel by channel where it is depthwise, and
//! image by image with copies where it is not; through deformable attention it goes back over some
//! 60 operations a level.

use std::sync::Mutex;

use candle_core::backend::BackendStorage as _;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp2, CustomOp3, DType, Device, InplaceOp1, Layout,
    Result, Shape, Tensor,
};

use super::checks::Executor;
use super::program::Program;
use super::{device, gradients, tensors};
use crate::layers::{Activation, Conv};
use crate::ops::SampleShape;

/// The device, if all tensors are on one, of one type that there are kernels for, and gradients are
/// asked for.
pub fn takes(tracked: &[&Tensor]) -> Option<CudaDevice> {
    let first = tracked.first()?;
    let Device::Cuda(device) = first.device() else {
        return None;
    };
    let dtype = first.dtype();
    let alike = tracked
        .iter()
        .all(|x| x.device().is_cuda() && x.dtype() == dtype);
    let known = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    let asked = tracked.iter().any(|x| x.track_op());
    (alike && known && asked).then(|| device.clone())
}

/// Runs programs on the device and leaves the outputs there.
struct There<'a>(&'a CudaDevice);

impl Executor for There<'_> {
    fn run(&self, program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        device::run(self.0, program, &inputs)
    }
}

/// Convolution without bias and activation, in one group or depthwise; `None` for others.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn conv2d(
    device: &CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    conv: &Conv,
) -> Result<Option<Tensor>> {
    let conv = conv.activation(Activation::Identity);
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let output = tensors::conv2d(device, &x.detach(), &weight.detach(), None, &conv)?;
    let Some(output) = output else {
        return Ok(None);
    };
    let output = Computed::new(output);
    x.apply_op2(&weight, Convolution { conv, output }).map(Some)
}

/// As [`crate::ops::deformable_attention`].
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn deformable_attention(
    device: &CudaDevice,
    [value, locations, weights]: [&Tensor; 3],
    shape: &SampleShape,
) -> Result<Tensor> {
    let output = tensors::deformable_attention(
        device,
        &value.detach(),
        &locations.detach(),
        &weights.detach(),
        shape,
    )?;
    let op = Deformable {
        shape: shape.clone(),
        output: Computed::new(output),
    };
    value.apply_op3(locations, weights, op)
}

/// What an operation gives, computed before it is noted down.
struct Computed(Mutex<Option<Tensor>>);

impl Computed {
    fn new(output: Tensor) -> Self {
        Self(Mutex::new(Some(output)))
    }

    /// The numbers, moved out of their tensor.
    fn take(&self) -> Result<(CudaStorage, Shape)> {
        let taken = self.0.lock().ok().and_then(|mut output| output.take());
        let Some(output) = taken else {
            candle_core::bail!("an operation of training ran twice");
        };
        let output = output.contiguous()?;
        let steal = Steal(Mutex::new(None));
        output.inplace_op1(&steal)?;
        match steal.0.into_inner() {
            Ok(Some(storage)) => Ok((storage, output.shape().clone())),
            _ => candle_core::bail!("a tensor without numbers"),
        }
    }
}

/// Takes a tensor's storage and leaves it an empty one.
struct Steal(Mutex<Option<CudaStorage>>);

impl InplaceOp1 for Steal {
    fn name(&self) -> &'static str {
        "take-storage"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("training on a GPU was given numbers of the CPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        if layout.start_offset() != 0 {
            candle_core::bail!("a result that begins inside other numbers");
        }
        let empty = device::alloc(storage.device(), storage.dtype(), 1)?;
        let taken = std::mem::replace(storage, empty);
        if let Ok(mut to) = self.0.lock() {
            *to = Some(taken);
        }
        Ok(())
    }
}

fn device_of(x: &Tensor) -> Result<CudaDevice> {
    match x.device() {
        Device::Cuda(device) => Ok(device.clone()),
        _ => candle_core::bail!("training on a GPU was given numbers of another device"),
    }
}

struct Convolution {
    conv: Conv,
    output: Computed,
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "conv2d-training-cuda"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("training on a GPU was given numbers of the CPU")
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.output.take()
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let device = device_of(x)?;
        let all = [&x.detach(), &weight.detach(), &gradient.detach()];
        let (to_x, to_weight) = gradients::convolution(
            &There(&device),
            all,
            &self.conv,
            x.track_op(),
            tensors::MAX_COLUMNS,
        )?;
        Ok((to_x, Some(to_weight)))
    }
}

struct Deformable {
    shape: SampleShape,
    output: Computed,
}

impl CustomOp3 for Deformable {
    fn name(&self) -> &'static str {
        "deformable-attention-training-cuda"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("training on a GPU was given numbers of the CPU")
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.output.take()
    }

    fn bwd(
        &self,
        value: &Tensor,
        locations: &Tensor,
        weights: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let device = device_of(value)?;
        let all = [
            &value.detach(),
            &locations.detach(),
            &weights.detach(),
            &gradient.detach(),
        ];
        let [to_value, to_locations, to_weights] =
            gradients::deformable(&There(&device), all, &self.shape)?;
        Ok((Some(to_value), Some(to_locations), Some(to_weights)))
    }
}
