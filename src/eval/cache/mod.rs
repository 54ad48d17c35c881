//! What networks found in a benchmark's frames, kept on disk: trackers are tried a thousand times
//! on detections that were computed once.
//!
//! A file a sequence and kind, `SEQUENCE.KIND.KEY.safetensors`. Its metadata has one entry,
//! `mtmc-cache`, a JSON object:
//!
//! | key | |
//! |---|---|
//! | `format` | version of this format, now 1 |
//! | `made_from` | everything that decides what is in it: the frames' files with size and time of change (or their digest), the digest of the weights, thresholds, and so on |
//! | `sha256` | digest of all tensors: for each by name its name, type, shape and bytes |
//!
//! `KEY` is the digest of `made_from`, shortened; the whole of it is compared when a file is read.
//! Tensors of the kinds, n boxes in f frames:
//!
//! | kind | tensors |
//! |---|---|
//! | `detections` | `counts` I64 `[f]`: boxes of each frame; `boxes` F32 `[n, 4]`: corners x1, y1, x2, y2 in pixels; `scores` F32 `[n]`; `classes` I64 `[n]` |
//! | `embeddings` | `made` I64 `[n]`: whether there is one; `vectors` F32 `[number made, dim]`, of length 1 |
//! | `motion` | `rows` F64 `[f, 6]`: see [`CameraMotion::rows`](crate::tracker::camera_motion::CameraMotion::rows) |
//!
//! Files appear under their name only when they are whole. The oldest are removed when all together
//! pass [`MAX_BYTES`].

mod content;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use safetensors::tensor::{SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use content::{Content, Detections, Embeddings, Motions, StoredTensor, Tensors};

/// Version of the files' format.
pub const FORMAT: u32 = 1;

/// Bytes that a cache folder may hold: detections and 512-D embeddings of some 100 sequences.
pub const MAX_BYTES: u64 = 8 << 30;

/// Key of the only entry in the metadata.
const METADATA_KEY: &str = "mtmc-cache";

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder or a file in it cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The content cannot be put into a file: a bug of this program.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What a look into the cache gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Found<T> {
    /// It is there.
    Entry(T),
    /// It is not there.
    Nothing,
    /// A file is there but cannot be trusted; the reason.
    Damaged(String),
}

/// Everything that decides what is in a file, as readable text, and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    made_from: String,
    digest: String,
}

impl Key {
    /// From a description of all that the content depends on.
    pub fn new(made_from: String) -> Self {
        let digest = format!(
            "{:x}",
            HexDigest(Sha256::digest(made_from.as_bytes()).into())
        );
        Self { made_from, digest }
    }

    /// The whole digest, for keys of what is made from this.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// 32 bytes that print as hexadecimal digits.
struct HexDigest([u8; 32]);

impl std::fmt::LowerHex for HexDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    format: u32,
    made_from: String,
    sha256: String,
}

/// A folder of cached content.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Uses `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: &Path) -> Result<Self, CacheError> {
        std::fs::create_dir_all(folder).map_err(|error| io(folder, error))?;
        Ok(Self {
            folder: folder.to_path_buf(),
        })
    }

    /// Where the content of a sequence is or will be.
    pub fn path<T: Content>(&self, sequence: &str, key: &Key) -> PathBuf {
        let short = key.digest.get(..16).unwrap_or_default();
        let name = format!("{sequence}.{}.{short}.safetensors", T::KIND);
        self.folder.join(name)
    }

    /// Looks for the content of a sequence.
    ///
    /// # Errors
    /// A file is there but cannot be read.
    pub fn load<T: Content>(&self, sequence: &str, key: &Key) -> Result<Found<T>, CacheError> {
        let path = self.path::<T>(sequence, key);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Found::Nothing);
            }
            Err(error) => return Err(io(&path, error)),
        };
        Ok(match parse(&bytes, key) {
            Ok(Some(content)) => Found::Entry(content),
            Ok(None) => Found::Nothing,
            Err(reason) => Found::Damaged(format!("{}: {reason}", path.display())),
        })
    }

    /// Keeps the content of a sequence.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store<T: Content>(
        &self,
        sequence: &str,
        key: &Key,
        content: &T,
    ) -> Result<(), CacheError> {
        let path = self.path::<T>(sequence, key);
        let format = |reason: String| CacheError::Format {
            path: path.clone(),
            reason,
        };
        let stored = content.tensors();
        let mut views = Vec::with_capacity(stored.len());
        for tensor in &stored {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes)
                .map_err(|error| format(error.to_string()))?;
            views.push((tensor.name, view));
        }
        let metadata = Metadata {
            format: FORMAT,
            made_from: key.made_from.clone(),
            sha256: checksum(&views),
        };
        let metadata =
            serde_json::to_string(&metadata).map_err(|error| format(error.to_string()))?;
        let metadata = HashMap::from([(METADATA_KEY.to_string(), metadata)]);
        let bytes = safetensors::serialize(views, Some(metadata))
            .map_err(|error| format(error.to_string()))?;
        // Processes that work side by side must not write into one file.
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, &path));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&part);
            return Err(io(&path, error));
        }
        self.shrink(&path, MAX_BYTES)
    }

    /// Removes the oldest files but `keep` until the rest has at most `limit` bytes.
    fn shrink(&self, keep: &Path, limit: u64) -> Result<(), CacheError> {
        let mut files: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
        let entries = std::fs::read_dir(&self.folder).map_err(|error| io(&self.folder, error))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let ours = path
                .extension()
                .is_some_and(|ending| ending == "safetensors");
            if let (true, true, Ok(time)) = (ours, metadata.is_file(), metadata.modified()) {
                files.push((time, path, metadata.len()));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|file| file.2).sum();
        for (_, path, bytes) in files {
            if total <= limit {
                break;
            }
            if path != keep && std::fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
        }
        Ok(())
    }
}

fn io(path: &Path, error: std::io::Error) -> CacheError {
    CacheError::Io {
        path: path.to_path_buf(),
        error,
    }
}

/// The content of a file; nothing if it was made from something else.
fn parse<T: Content>(bytes: &[u8], key: &Key) -> Result<Option<T>, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let entries = header.metadata().as_ref();
    let text = entries.and_then(|entries| entries.get(METADATA_KEY));
    let text = text.ok_or("it does not say what it is")?;
    let metadata: Metadata = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if metadata.format != FORMAT || metadata.made_from != key.made_from {
        return Ok(None);
    }
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let found = checksum(&tensors.tensors());
    if found != metadata.sha256 {
        return Err("its checksum is wrong".to_string());
    }
    T::from_tensors(&Tensors(tensors)).map(Some)
}

/// Digest of tensors with their names, types and shapes.
fn checksum<N: AsRef<str>>(tensors: &[(N, TensorView<'_>)]) -> String {
    let mut sorted: Vec<(&str, &TensorView<'_>)> = tensors
        .iter()
        .map(|(name, view)| (name.as_ref(), view))
        .collect();
    sorted.sort_by_key(|(name, _)| *name);
    let mut hasher = Sha256::new();
    for (name, view) in sorted {
        hasher.update(format!("{name} {:?} {:?}\n", view.dtype(), view.shape()));
        hasher.update(view.data());
    }
    format!("{:x}", HexDigest(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::camera_motion::CameraMotion;
    use mtmc_models::{BBox, Detection, Embedding};

    fn detections() -> Detections {
        let detection = |x: f32, class| Detection {
            bbox: BBox::from_xyxy(x, 1.5, x + 10.0, 30.0),
            score: 0.1 + x / 100.0,
            class,
        };
        Detections(vec![
            vec![detection(1.0, 0), detection(2.0, 3)],
            vec![],
            vec![detection(-4.25, 0)],
        ])
    }

    fn open() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("eval")).unwrap();
        (folder, cache)
    }

    #[test]
    fn what_is_stored_comes_back() {
        let (_folder, cache) = open();
        let key = Key::new("frames, weights".to_string());
        assert_eq!(cache.load::<Detections>("A", &key).unwrap(), Found::Nothing);
        cache.store("A", &key, &detections()).unwrap();
        let found = cache.load("A", &key).unwrap();
        assert_eq!(found, Found::Entry(detections()));
        let other = Key::new("other weights".to_string());
        let found = cache.load::<Detections>("A", &other).unwrap();
        assert_eq!(found, Found::Nothing);

        let vector = |x: f32| Some(Embedding::new(vec![x, 1.0, 2.0]).unwrap());
        let embeddings = Embeddings(vec![vector(1.0), None, vector(-3.0)]);
        cache.store("A", &key, &embeddings).unwrap();
        let Found::Entry(found) = cache.load::<Embeddings>("A", &key).unwrap() else {
            panic!("no embeddings");
        };
        // Brought to length 1 a second time, they may move by a rounding.
        for (ours, stored) in found.0.iter().zip(&embeddings.0) {
            assert_eq!(ours.is_some(), stored.is_some());
            if let (Some(ours), Some(stored)) = (ours, stored) {
                assert!((ours.cosine(stored) - 1.0).abs() < 1e-6);
            }
        }
        let none = Embeddings(vec![None; 2]);
        cache.store("B", &key, &none).unwrap();
        assert_eq!(cache.load("B", &key).unwrap(), Found::Entry(none));
        let motions = Motions(vec![CameraMotion::STILL; 2]);
        cache.store("A", &key, &motions).unwrap();
        assert_eq!(cache.load("A", &key).unwrap(), Found::Entry(motions));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let (_folder, cache) = open();
        let key = Key::new("frames".to_string());
        cache.store("A", &key, &detections()).unwrap();
        let path = cache.path::<Detections>("A", &key);
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            let found = cache.load::<Detections>("A", &key).unwrap();
            // A change in what it was made from makes it another file's content; spaces that pad
            // the header mean nothing.
            assert!(
                found != Found::Entry(detections()) || whole[at] == b' ',
                "byte {at}"
            );
        }
        for length in [0, 7, 8, 40, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let found = cache.load::<Detections>("A", &key).unwrap();
            assert!(
                matches!(found, Found::Damaged(_)),
                "{length} bytes: {found:?}"
            );
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let (_folder, cache) = open();
        let key = Key::new("frames".to_string());
        for (age, name) in ["A", "B", "C"].into_iter().enumerate() {
            cache.store(name, &key, &detections()).unwrap();
            let file = std::fs::File::open(cache.path::<Detections>(name, &key)).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + age as u64);
            file.set_modified(time).unwrap();
        }
        let keep = cache.path::<Detections>("A", &key);
        let bytes = std::fs::metadata(&keep).unwrap().len();
        cache.shrink(&keep, 2 * bytes).unwrap();
        let there = ["A", "B", "C"].map(|name| cache.path::<Detections>(name, &key).exists());
        assert_eq!(there, [true, false, true]);
    }
}
