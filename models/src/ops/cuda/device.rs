//! Runs programs on a GPU: kernels loaded once a device, launched on candle's stream, without
//! waiting for them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaView, LaunchArgs, LaunchConfig, PushKernelArg as _,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice, WrapErr as _};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Storage, Tensor};
use half::{bf16, f16};

use super::checks::Executor;
use super::program::{Arg, Launch, Program, Role};

/// The kernels' files, compiled: name and fat binary.
static MODULES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/cuda_modules.rs"));

/// Kernels that are loaded, by device and name.
static LOADED: Mutex<Option<HashMap<(usize, String), CudaFunction>>> = Mutex::new(None);

/// Opens the CUDA device `ordinal` with one stream for all threads, without events around its tensors.
///
/// [`Device::new_cuda`] takes the stream of whichever thread is at work: nothing would order what one
/// thread does after what another one did, as when weights are loaded by one and used by another. And
/// each tensor would have two events, made and destroyed with it, to no end.
///
/// # Errors
/// There is no such device, or it cannot be used.
#[allow(unsafe_code)]
pub fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: events order streams among each other. All tensors of this device are made, used and
    // freed on its only stream, in the order in which that is asked for.
    unsafe { device.disable_event_tracking() };
    Ok(Device::Cuda(device))
}

/// The kernel of a launch, loaded with its whole file if it was not.
fn function(device: &CudaDevice, launch: &Launch) -> Result<CudaFunction> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.get_or_insert_default();
    let key = (context.ordinal(), launch.kernel.clone());
    if let Some(function) = loaded.get(&key) {
        return Ok(function.clone());
    }
    let Some((_, binary)) = MODULES.iter().find(|(name, _)| *name == launch.module) else {
        candle_core::bail!("no file of CUDA kernels is called {}", launch.module);
    };
    let module = context.load_module(Ptx::from_binary(binary.to_vec())).w()?;
    let function = module.load_function(&launch.kernel).w()?;
    loaded.insert(key, function.clone());
    Ok(function)
}

/// A buffer on the device.
enum Held<'a> {
    U8(CudaView<'a, u8>),
    U32(CudaView<'a, u32>),
    F16(CudaView<'a, f16>),
    Bf16(CudaView<'a, bf16>),
    F32(CudaView<'a, f32>),
    Own(CudaStorage),
}

/// The numbers of a storage from `start` on, of which the program reads `count`.
fn view<T: CudaDType>(
    storage: &CudaStorage,
    start: usize,
    count: usize,
) -> Result<CudaView<'_, T>> {
    let slice: &CudaSlice<T> = storage.as_cuda_slice()?;
    match slice.try_slice(start..start + count) {
        Some(view) => Ok(view),
        None => candle_core::bail!("a kernel needs {count} numbers from {start} on"),
    }
}

fn held(storage: &CudaStorage, start: usize, count: usize) -> Result<Held<'_>> {
    Ok(match storage.dtype() {
        DType::U8 => Held::U8(view(storage, start, count)?),
        DType::U32 => Held::U32(view(storage, start, count)?),
        DType::F16 => Held::F16(view(storage, start, count)?),
        DType::BF16 => Held::Bf16(view(storage, start, count)?),
        DType::F32 => Held::F32(view(storage, start, count)?),
        dtype => candle_core::bail!("no kernel takes {dtype:?}"),
    })
}

/// Room for `count` numbers, whose values are undefined.
#[allow(unsafe_code)]
pub(super) fn alloc(device: &CudaDevice, dtype: DType, count: usize) -> Result<CudaStorage> {
    // SAFETY: every number of an output or scratch buffer is written by a kernel before it is read;
    // the emulator's tests fill such buffers with marks and compare all of them.
    let slice = unsafe {
        match dtype {
            DType::U8 => CudaStorageSlice::U8(device.alloc(count)?),
            DType::U32 => CudaStorageSlice::U32(device.alloc(count)?),
            DType::F16 => CudaStorageSlice::F16(device.alloc(count)?),
            DType::BF16 => CudaStorageSlice::BF16(device.alloc(count)?),
            DType::F32 => CudaStorageSlice::F32(device.alloc(count)?),
            _ => candle_core::bail!("no kernel takes {dtype:?}"),
        }
    };
    let device = device.clone();
    Ok(CudaStorage { slice, device })
}

fn push<'a>(builder: &mut LaunchArgs<'a>, held: &'a Held<'a>) -> Result<()> {
    match held {
        Held::U8(view) => builder.arg(view),
        Held::U32(view) => builder.arg(view),
        Held::F16(view) => builder.arg(view),
        Held::Bf16(view) => builder.arg(view),
        Held::F32(view) => builder.arg(view),
        Held::Own(storage) => match &storage.slice {
            CudaStorageSlice::U8(slice) => builder.arg(slice),
            CudaStorageSlice::U32(slice) => builder.arg(slice),
            CudaStorageSlice::F16(slice) => builder.arg(slice),
            CudaStorageSlice::BF16(slice) => builder.arg(slice),
            CudaStorageSlice::F32(slice) => builder.arg(slice),
            _ => candle_core::bail!("no kernel takes {:?}", storage.dtype()),
        },
    };
    Ok(())
}

#[allow(unsafe_code)]
fn start(device: &CudaDevice, launch: &Launch, buffers: &[Held<'_>]) -> Result<()> {
    /// What `Arg::Null` points to.
    const NULL: &u64 = &0;
    let function = function(device, launch)?;
    let stream = device.cuda_stream();
    let mut builder = stream.launch_builder(&function);
    for arg in &launch.args {
        match arg {
            Arg::Buffer(index) => match buffers.get(*index) {
                Some(held) => push(&mut builder, held)?,
                None => candle_core::bail!("{}: no buffer {index}", launch.kernel),
            },
            Arg::Null => {
                builder.arg(NULL);
            }
            // The driver copies as many bytes as the kernel's argument has, from here on.
            Arg::Words(words) => match words.first() {
                Some(first) => {
                    builder.arg(first);
                }
                None => candle_core::bail!("{}: an argument without numbers", launch.kernel),
            },
        }
    }
    let ([x, y, z], [bx, by, bz]) = (launch.grid, launch.block);
    let config = LaunchConfig {
        grid_dim: (x, y, z),
        block_dim: (bx, by, bz),
        shared_mem_bytes: 0,
    };
    // SAFETY: `programs` and `resize` give each kernel its arguments in order and type, and buffers
    // of the size that it reads and writes; the emulator's tests run all of them with bounds checked.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// Runs `program` on tensors of `device` and returns its outputs as flat tensors there, as soon as
/// everything is queued.
///
/// Inputs may be views; a program reads from their first number on.
///
/// # Errors
/// Inputs that do not fit the program, no memory, or a failure of the device.
pub fn run(device: &CudaDevice, program: &Program, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let mut guards = Vec::with_capacity(inputs.len());
    for input in inputs {
        guards.push(input.storage_and_layout());
    }
    let mut given = guards.iter();
    let mut buffers = Vec::with_capacity(program.buffers.len());
    for buffer in &program.buffers {
        if buffer.role != Role::Input {
            buffers.push(Held::Own(alloc(device, buffer.dtype, buffer.count)?));
            continue;
        }
        let Some((storage, layout)) = given.next() else {
            candle_core::bail!("a program with too few inputs");
        };
        let Storage::Cuda(storage) = &**storage else {
            candle_core::bail!("a CUDA kernel was given numbers of another device");
        };
        if storage.dtype() != buffer.dtype {
            candle_core::bail!("{:?} instead of {:?}", storage.dtype(), buffer.dtype);
        }
        buffers.push(held(storage, layout.start_offset(), buffer.count)?);
    }
    for launch in &program.launches {
        start(device, launch, &buffers)?;
    }
    let mut outputs = Vec::new();
    for (held, buffer) in buffers.into_iter().zip(&program.buffers) {
        if let (Held::Own(storage), Role::Output) = (held, buffer.role) {
            let storage = Storage::Cuda(storage);
            outputs.push(Tensor::from_storage(
                storage,
                buffer.count,
                BackpropOp::none(),
                false,
            ));
        }
    }
    Ok(outputs)
}

impl Executor for CudaDevice {
    fn run(&self, program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let device = Device::Cuda(self.clone());
        let mut there = Vec::with_capacity(inputs.len());
        for input in inputs {
            there.push(input.contiguous()?.to_device(&device)?);
        }
        let there: Vec<&Tensor> = there.iter().collect();
        let outputs = run(self, program, &there)?;
        outputs.iter().map(|x| x.to_device(&Device::Cpu)).collect()
    }
}
