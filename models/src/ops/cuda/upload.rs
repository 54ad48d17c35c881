//! Bytes to a GPU through page-locked memory, from which it fetches them by itself, at the bus's speed
//! and while the host goes on: out of ordinary memory the driver would first copy them once more.
//!
//! Copies go on the stream that computes: the first kernel of a batch needs all of its bytes, and the
//! next batch is only asked for when this one's results are there.

#![allow(unsafe_code)] // memory whose numbers are not set yet, and cudarc's trait for what is copied

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendDevice as _;
use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, HostSlice, PinnedHostSlice, SyncOnDrop,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, DeviceLocation, Result, Storage, Tensor};

use super::device::alloc;

/// Most bytes that are page-locked for one device: some forty 1080p frames. What is larger goes out of
/// ordinary memory.
const MAX_PINNED: usize = 256 << 20;

/// One buffer a device, filled again as soon as the copy before is over.
static BUFFERS: Mutex<Option<HashMap<usize, PinnedHostSlice<u8>>>> = Mutex::new(None);

/// The first bytes of a page-locked buffer.
struct Head<'a> {
    buffer: &'a mut PinnedHostSlice<u8>,
    count: usize,
}

impl HostSlice<u8> for Head<'_> {
    fn len(&self) -> usize {
        self.count
    }

    unsafe fn stream_synced_slice<'a>(
        &'a self,
        stream: &'a CudaStream,
    ) -> (&'a [u8], SyncOnDrop<'a>) {
        // SAFETY: what the caller promises for these bytes holds for the whole buffer.
        let (all, sync) = unsafe { self.buffer.stream_synced_slice(stream) };
        (&all[..self.count], sync)
    }

    unsafe fn stream_synced_mut_slice<'a>(
        &'a mut self,
        stream: &'a CudaStream,
    ) -> (&'a mut [u8], SyncOnDrop<'a>) {
        // SAFETY: as above.
        let (all, sync) = unsafe { self.buffer.stream_synced_mut_slice(stream) };
        (&mut all[..self.count], sync)
    }
}

/// All `parts`, one after the other, as a flat tensor of bytes on `device`.
///
/// # Errors
/// There is nothing, no memory, or the device fails.
pub fn bytes(device: &CudaDevice, parts: &[&[u8]]) -> Result<Tensor> {
    let count = parts.iter().map(|part| part.len()).sum();
    let mut there = alloc(device, DType::U8, count)?;
    let to = there.as_cuda_slice_mut::<u8>()?;
    let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    let buffers = buffers.get_or_insert_default();
    let DeviceLocation::Cuda { gpu_id } = device.location() else {
        candle_core::bail!("a CUDA device that is elsewhere");
    };
    if count <= MAX_PINNED && buffers.get(&gpu_id).is_none_or(|own| own.len() < count) {
        let size = count.next_power_of_two();
        let context = device.cuda_stream().context().clone();
        // The old one goes first, and waits for its last copy. SAFETY: bytes are written before they
        // are read.
        buffers.remove(&gpu_id);
        if let Ok(buffer) = unsafe { context.alloc_pinned::<u8>(size) } {
            buffers.insert(gpu_id, buffer);
        }
    }
    match buffers.get_mut(&gpu_id).filter(|own| own.len() >= count) {
        Some(buffer) => {
            // Waits until the device has fetched what was written last.
            let mut rest = buffer.as_mut_slice().w()?;
            for part in parts {
                let (own, behind) = rest.split_at_mut(part.len());
                own.copy_from_slice(part);
                rest = behind;
            }
            device.memcpy_htod(&Head { buffer, count }, to)?;
        }
        // No page-locked memory to be had, or too much to copy.
        None => device.memcpy_htod(&parts.concat(), to)?,
    }
    Ok(tensor(there, count))
}

fn tensor(storage: CudaStorage, count: usize) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), count, BackpropOp::none(), false)
}
