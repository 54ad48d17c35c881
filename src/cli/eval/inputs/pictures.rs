//! Where a sequence's pictures are, and what tells them from others.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::eval::cache::Key;
use crate::eval::folder::Sequence;

/// Where a sequence's pictures are.
pub(super) struct Pictures {
    pub(super) path: PathBuf,
    /// Names, sizes and times of change of all their files.
    pub(super) identity: serde_json::Value,
}

/// The folder of images that seqinfo.ini names (img1 where there is none), or the only video.
pub(super) fn pictures(folder: &Sequence) -> anyhow::Result<Pictures> {
    let name = folder
        .info
        .as_ref()
        .map_or("img1", |info| &info.image_folder);
    let images = folder.folder.join(name);
    if images.is_dir() {
        let mut files = list_files(&images)?;
        files.sort();
        let digest = Key::new(json!(files).to_string());
        return Ok(Pictures {
            path: images,
            identity: json!({ "files": files.len(), "list": digest.digest() }),
        });
    }
    let mut videos = list_files(&folder.folder)?;
    videos.retain(|file| is_video(Path::new(&file.0)));
    match videos.as_slice() {
        [video] => Ok(Pictures {
            path: folder.folder.join(&video.0),
            identity: json!(video),
        }),
        videos => bail!(
            "{}: no folder {name} of images and {} videos, so nothing can be detected; \
             `--detections FILE` takes detections from a file",
            folder.folder.display(),
            if videos.is_empty() {
                "no".to_string()
            } else {
                videos.len().to_string()
            }
        ),
    }
}

fn is_video(path: &Path) -> bool {
    let endings = [
        "mp4", "avi", "mkv", "mov", "webm", "m4v", "mpg", "mpeg", "ts",
    ];
    let ending = path.extension().map(OsStr::to_ascii_lowercase);
    ending.is_some_and(|ending| endings.iter().any(|known| ending == *known))
}

/// Name, size and nanoseconds since 1970 of the last change of every file in a folder.
fn list_files(folder: &Path) -> anyhow::Result<Vec<(String, u64, u64)>> {
    let name = || folder.display().to_string();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(name)? {
        let entry = entry.with_context(name)?;
        // Follows links, as data sets often are.
        let metadata = std::fs::metadata(entry.path()).with_context(name)?;
        if !metadata.is_file() {
            continue;
        }
        let changed = metadata.modified().ok();
        let since = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let nanoseconds = since.map_or(0, |since| since.as_nanos() as u64);
        let file = entry.file_name().to_string_lossy().into_owned();
        files.push((file, metadata.len(), nanoseconds));
    }
    Ok(files)
}
