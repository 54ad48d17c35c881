//! PyTorch's zip format (`torch.save` since 1.6): `NAME/data.pkl` beside one stored entry a
//! storage, `NAME/data/KEY`.
//!
//! PyTorch stores numbers without compression, and nothing else is read: a zip bomb has no way in, and no
//! entry can be longer than the file. Entries are looked up by name inside the archive and never
//! written anywhere.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{MAX_PICKLE_BYTES, Pickle};
use super::torch::{Region, assemble, contents};
use super::{Checkpoint, Format};
use crate::{Error, Malformed, Result};

/// Most entries in the archive.
const MAX_ENTRIES: usize = 200_000;

/// Opens a file and finds its tensors.
///
/// # Errors
/// The archive or the pickle in it is cut short, damaged or hostile; a tensor lies outside its
/// storage.
pub fn open(path: &Path, file: File) -> Result<Checkpoint> {
    let mut file = file;
    let entries = entries(&mut file).map_err(|fault| fault.at(path))?;
    let (root, pickle) = find_pickle(&entries).map_err(|fault| fault.at(path))?;
    let bytes = read_pickle(&mut file, pickle).map_err(Error::io(path))?;
    if pickle.checksum != Some(crc32fast::hash(&bytes)) {
        let fault = "its pickle does not match its checksum: damaged";
        return Err(Malformed::new(fault).at(path));
    }
    check_byte_order(&mut file, &entries, root).map_err(|fault| fault.at(path))?;
    let (pickle, _) = Pickle::parse(&bytes).map_err(|fault| fault.at(path))?;
    let contents = contents(&pickle).map_err(|fault| fault.at(path))?;
    let prefix = format!("{root}data/");
    let mut regions = HashMap::new();
    for (name, region) in &entries {
        if let Some(key) = name.strip_prefix(&prefix) {
            regions.insert(key.to_string(), *region);
        }
    }
    assemble(path, Format::TorchZip, file, contents, &regions)
}

/// Where each entry's bytes stand.
fn entries(file: &mut File) -> Result<HashMap<String, Region>, Malformed> {
    let damaged = |error: String| Malformed(format!("not a sound zip archive: {error}"));
    let size = file.metadata().map_err(|e| damaged(e.to_string()))?.len();
    let mut archive = ZipArchive::new(&mut *file).map_err(|e| damaged(e.to_string()))?;
    if archive.len() > MAX_ENTRIES {
        return Err(Malformed(format!(
            "the archive has {} entries",
            archive.len()
        )));
    }
    let mut entries = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive
            .by_index_raw(index)
            .map_err(|e| damaged(e.to_string()))?;
        let name = entry.name().map_err(|e| damaged(e.to_string()))?;
        let name = name.into_owned();
        check_name(&name)?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            if is_source_code(&name) {
                continue;
            }
            return Err(Malformed(format!(
                "entry `{name}` is compressed or encrypted, as PyTorch never writes them"
            )));
        }
        let (start, length) = (entry.data_start(), entry.size());
        let start = start.ok_or_else(|| Malformed(format!("entry `{name}` has no data")))?;
        let end = start.checked_add(length);
        if entry.compressed_size() != length || end.is_none_or(|end| end > size) {
            return Err(Malformed(format!(
                "entry `{name}` claims {length} bytes at {start}, the file has {size}"
            )));
        }
        let region = Region {
            start,
            length,
            checksum: Some(entry.crc32()),
        };
        if entries.insert(name.clone(), region).is_some() {
            return Err(Malformed(format!("entry `{name}` is there twice")));
        }
    }
    check_overlaps(&entries)?;
    Ok(entries)
}

/// Whether an entry belongs to the programs in a TorchScript archive, the only entries that PyTorch
/// compresses. Nobody reads them here, let alone runs them.
fn is_source_code(name: &str) -> bool {
    name.split('/').nth(1) == Some("code")
}

/// Nothing is written to disk, so that such names could do no harm; but no honest file has them.
fn check_name(name: &str) -> Result<(), Malformed> {
    let climbs = name.split(['/', '\\']).any(|part| part == "..");
    if climbs || name.starts_with('/') || name.contains(['\\', '\0', ':']) {
        return Err(Malformed(format!(
            "entry {name:?} has a path that leads out of the archive"
        )));
    }
    Ok(())
}

fn check_overlaps(entries: &HashMap<String, Region>) -> Result<(), Malformed> {
    let mut sorted: Vec<_> = entries.iter().filter(|(_, r)| r.length > 0).collect();
    sorted.sort_by_key(|(_, region)| region.start);
    for pair in sorted.windows(2) {
        let [(first, a), (second, b)] = pair else {
            continue;
        };
        if a.start + a.length > b.start {
            return Err(Malformed(format!(
                "entries `{first}` and `{second}` overlap"
            )));
        }
    }
    Ok(())
}

/// The folder (with its slash) and place of the one `data.pkl`.
fn find_pickle(entries: &HashMap<String, Region>) -> Result<(&str, Region), Malformed> {
    let mut found = None;
    for (name, region) in entries {
        let Some(root) = name.strip_suffix("data.pkl") else {
            continue;
        };
        if !(root.is_empty() || root.ends_with('/')) {
            continue;
        }
        if found.is_some() {
            return Err(Malformed::new("the archive has more than one data.pkl"));
        }
        found = Some((root, *region));
    }
    let (root, region) = found
        .ok_or_else(|| Malformed::new("a zip archive, but not PyTorch's: it has no data.pkl"))?;
    if region.length > MAX_PICKLE_BYTES as u64 {
        return Err(Malformed(format!("its pickle has {} bytes", region.length)));
    }
    Ok((root, region))
}

fn read_pickle(file: &mut File, region: Region) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(region.start))?;
    let mut bytes = Vec::new();
    file.take(region.length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_byte_order(
    file: &mut File,
    entries: &HashMap<String, Region>,
    root: &str,
) -> Result<(), Malformed> {
    let Some(region) = entries.get(&format!("{root}byteorder")) else {
        return Ok(()); // files of PyTorch before 2.1 are little endian
    };
    let region = Region {
        length: region.length.min(16),
        ..*region
    };
    let order = read_pickle(file, region).map_err(|error| Malformed(error.to_string()))?;
    if order != b"little" {
        return Err(Malformed::new("its numbers are not little endian"));
    }
    Ok(())
}
