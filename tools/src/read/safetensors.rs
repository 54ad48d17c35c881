//! Safetensors files as Hugging Face and others write them.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use ::safetensors::tensor::{Dtype as Stored, Metadata};

use super::{
    Checkpoint, Dtype, Facts, Format, MAX_TENSORS, Place, TensorInfo, count_elements, row_major,
};
use crate::{Error, Malformed, Result};

/// Largest header that is read.
const MAX_HEADER_BYTES: u64 = 64 << 20;

/// Opens a file; its tensors are checked to lie within it.
///
/// # Errors
/// The header is cut short, damaged or absurd, a tensor lies beyond the file's end or has a type
/// that no network here uses.
pub fn open(path: &Path, mut file: File) -> Result<Checkpoint> {
    let size = file.metadata().map_err(Error::io(path))?.len();
    let mut prefix = [0_u8; 8];
    file.read_exact(&mut prefix).map_err(Error::io(path))?;
    let length = u64::from_le_bytes(prefix);
    if length > MAX_HEADER_BYTES || length > size.saturating_sub(8) {
        let fault = Malformed(format!(
            "its header claims {length} bytes, the file has {size}: cut short or damaged"
        ));
        return Err(fault.at(path));
    }
    let mut bytes = Vec::new();
    (&mut file)
        .take(length)
        .read_to_end(&mut bytes)
        .map_err(Error::io(path))?;
    let header: Metadata = serde_json::from_slice(&bytes)
        .map_err(|error| Malformed(format!("its header is damaged: {error}")).at(path))?;
    let tensors = list(path, &header, 8 + length, size)?;
    let facts = Facts {
        metadata: header.metadata().clone().unwrap_or_default(),
        ..Facts::default()
    };
    Checkpoint::from_file(
        path,
        Format::Safetensors,
        file,
        tensors,
        HashMap::new(),
        facts,
    )
}

fn list(
    path: &Path,
    header: &Metadata,
    data_start: u64,
    size: u64,
) -> Result<Vec<(String, TensorInfo, Place)>> {
    let infos = header.tensors();
    if infos.len() > MAX_TENSORS {
        return Err(Malformed(format!("holds {} tensors", infos.len())).at(path));
    }
    let mut tensors = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let dtype = match info.dtype {
            Stored::F64 => Dtype::F64,
            Stored::F32 => Dtype::F32,
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::Bf16,
            Stored::I64 => Dtype::I64,
            Stored::I32 => Dtype::I32,
            Stored::I16 => Dtype::I16,
            Stored::I8 => Dtype::I8,
            Stored::U8 => Dtype::U8,
            Stored::BOOL => Dtype::Bool,
            other => {
                let reason = format!("type {other:?} is not supported");
                return Err(Error::tensor(path, &name, reason));
            }
        };
        let count = count_elements(&info.shape)
            .map_err(|fault| Error::tensor(path, &name, fault.to_string()))?;
        let (begin, end) = info.data_offsets;
        let needed = count as u64 * dtype.size() as u64;
        let given = (end as u64).checked_sub(begin as u64);
        let last = data_start.checked_add(end as u64);
        if given != Some(needed) || last.is_none_or(|last| last > size) {
            let reason = format!(
                "needs {needed} bytes, the header gives it {begin}..{end} and the file ends at \
                 {}: cut short or damaged",
                size.saturating_sub(data_start)
            );
            return Err(Error::tensor(path, &name, reason));
        }
        let place = Place {
            start: data_start + begin as u64,
            offset: 0,
            strides: row_major(&info.shape),
        };
        let shape = info.shape.clone();
        tensors.push((name, TensorInfo { shape, dtype }, place));
    }
    Ok(tensors)
}
