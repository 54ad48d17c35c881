//! PyTorch's format before 1.6: four pickles (a magic number, the protocol version, the system's
//! type sizes, the object), the list of storage keys, then every storage with its length before
//! it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::pickle::{MAX_PICKLE_BYTES, Node, Pickle};
use super::torch::{Contents, Region, assemble, contents};
use super::{Checkpoint, Format};
use crate::{Error, Malformed, Result};

/// `0x1950a86a20f9469cfc6c`, as a pickled integer's bytes.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Version of the format that PyTorch has written ever since.
const PROTOCOL: i64 = 1001;

/// Whether a file's first 16 bytes begin such a file.
pub fn recognise(head: &[u8]) -> bool {
    // PROTO 2, LONG1 of ten bytes.
    head.get(4..14) == Some(MAGIC.as_slice()) && head.starts_with(&[0x80, 0x02, 0x8a, 0x0a])
}

/// Opens a file and finds its tensors.
///
/// # Errors
/// A pickle or the list of storages is cut short, damaged or hostile; a tensor lies outside its
/// storage.
pub fn open(path: &Path, mut file: File) -> Result<Checkpoint> {
    let size = file.metadata().map_err(Error::io(path))?.len();
    let mut head = Vec::new();
    (&mut file)
        .take(MAX_PICKLE_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(Error::io(path))?;
    let (contents, keys, start) = pickles(&head).map_err(|fault| fault.at(path))?;
    drop(head);
    let regions =
        regions(&mut file, size, start, &contents, &keys).map_err(|fault| fault.at(path))?;
    assemble(path, Format::TorchLegacy, file, contents, &regions)
}

/// Reads all five pickles; gives the contents, the storages' keys and where their bytes begin.
fn pickles(head: &[u8]) -> Result<(Contents, Vec<String>, u64), Malformed> {
    let mut position = 0;
    let mut next = |what: &str| {
        let rest = head.get(position..).unwrap_or_default();
        let (pickle, used) =
            Pickle::parse(rest).map_err(|fault| Malformed(format!("{what}: {fault}")))?;
        position += used;
        Ok(pickle)
    };
    let magic = next("magic number")?;
    if !matches!(magic.node(magic.root()), Node::Long(bytes) if **bytes == MAGIC) {
        return Err(Malformed::new("its magic number is wrong"));
    }
    let protocol = next("protocol version")?;
    if protocol.int(protocol.root()) != Some(PROTOCOL) {
        return Err(Malformed::new("its protocol version is not 1001"));
    }
    let system = next("system information")?;
    let little = system.get(system.root(), "little_endian");
    if little.map(|id| system.node(id)) == Some(&Node::Bool(false)) {
        return Err(Malformed::new("its numbers are not little endian"));
    }
    let object = next("object")?;
    let contents = contents(&object)?;
    let list = next("list of storages")?;
    let fault = || Malformed::new("its list of storages is no list of strings");
    let mut keys = Vec::new();
    for id in list.sequence(list.root()).ok_or_else(fault)? {
        keys.push(list.text(*id).ok_or_else(fault)?.to_string());
    }
    Ok((contents, keys, position as u64))
}

/// Walks over the storages: eight bytes of length in numbers, then the numbers.
fn regions(
    file: &mut File,
    size: u64,
    start: u64,
    contents: &Contents,
    keys: &[String],
) -> Result<HashMap<String, Region>, Malformed> {
    let mut regions = HashMap::new();
    let mut position = start;
    for key in keys {
        let cut = || {
            Malformed(format!(
                "storage `{key}`: the file ends inside it: cut short"
            ))
        };
        let Some(dtype) = contents.storages.get(key) else {
            // Its type, hence its length, is known only from a tensor that uses it.
            return Err(Malformed(format!("storage `{key}` belongs to no tensor")));
        };
        file.seek(SeekFrom::Start(position)).map_err(|_| cut())?;
        let mut count = [0_u8; 8];
        file.read_exact(&mut count).map_err(|_| cut())?;
        position += 8;
        let length = u64::from_le_bytes(count).checked_mul(dtype.size() as u64);
        let end = length.and_then(|length| position.checked_add(length));
        let (Some(length), Some(end)) = (length, end.filter(|end| *end <= size)) else {
            return Err(cut());
        };
        let region = Region {
            start: position,
            length,
            checksum: None,
        };
        if regions.insert(key.clone(), region).is_some() {
            return Err(Malformed(format!("storage `{key}` is listed twice")));
        }
        position = end;
    }
    Ok(regions)
}
