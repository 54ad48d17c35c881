//! Folders: one that appears only when it is whole, files that are linked or copied, listings.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::manifest::Manifest;
use super::{DataError, Progress};

/// A folder that grows beside its target and is moved there when it is complete; without that it
/// is removed.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    part: PathBuf,
    finished: bool,
}

impl Staging {
    /// Begins the folder `target`.
    ///
    /// # Errors
    /// Something is there already; the folder cannot be made.
    pub fn begin(target: &Path) -> Result<Self, DataError> {
        refuse_filled(target)?;
        let Some(name) = target.file_name() else {
            return Err(DataError::file(target, "not a name for a new folder"));
        };
        let mut part_name = name.to_os_string();
        part_name.push(format!(".part-{}", std::process::id()));
        let part = target.with_file_name(part_name);
        std::fs::create_dir_all(&part).map_err(DataError::io(&part))?;
        Ok(Self {
            target: target.to_path_buf(),
            part,
            finished: false,
        })
    }

    /// Where `relative` grows; its folder is made.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn place(&self, relative: impl AsRef<Path>) -> Result<PathBuf, DataError> {
        let path = self.part.join(relative);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        }
        Ok(path)
    }

    /// Writes `value` as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_json(&self, relative: &str, value: &impl Serialize) -> Result<(), DataError> {
        write_json(&self.place(relative)?, value)
    }

    /// Lists all files with their digests in a manifest and moves the folder to its target.
    ///
    /// # Errors
    /// A file cannot be read, the folder not be moved.
    pub fn finish(
        mut self,
        data_set: &str,
        progress: &dyn Progress,
    ) -> Result<Manifest, DataError> {
        let manifest = Manifest::of(&self.part, data_set, progress)?;
        manifest.write(&self.part)?;
        std::fs::rename(&self.part, &self.target).map_err(DataError::io(&self.target))?;
        self.finished = true;
        Ok(manifest)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.finished {
            // Why it was not finished is the news, not whether the rest could be removed.
            let _ = std::fs::remove_dir_all(&self.part);
        }
    }
}

/// # Errors
/// There is something at `target` other than an empty folder.
fn refuse_filled(target: &Path) -> Result<(), DataError> {
    let mut entries = match std::fs::read_dir(target) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DataError::io(target)(error)),
    };
    if entries.next().is_some() {
        return Err(DataError::file(
            target,
            "there is something in this folder already; remove it or name another one",
        ));
    }
    Ok(())
}

/// Writes `value` as JSON, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DataError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".part-{}", std::process::id()));
    let part = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&part)?);
        serde_json::to_writer_pretty(&mut out, value)?;
        out.write_all(b"\n")?;
        out.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_all()?;
        std::fs::rename(&part, path)
    };
    write().map_err(|error| {
        // The reason counts, not whether the rest could be removed.
        let _ = std::fs::remove_file(&part);
        DataError::io(path)(error)
    })
}

/// Brings the file `from` to `to` without using space if the file system can do that: as a hard
/// link, else as a copy.
///
/// # Errors
/// Neither is possible.
pub(super) fn link_or_copy(from: &Path, to: &Path) -> Result<(), DataError> {
    // A link to a symbolic link would point from elsewhere, at something else.
    let is_symlink = std::fs::symlink_metadata(from)
        .map_err(DataError::io(from))?
        .is_symlink();
    if !is_symlink && std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to).map_err(DataError::io(from))?;
    Ok(())
}

/// The names in a folder, sorted; names that are no Unicode are shown with replacements.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io(folder))? {
        let entry = entry.map_err(DataError::io(folder))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What is in a folder, in a few words for an error.
pub(super) fn describe(folder: &Path) -> String {
    const SHOWN: usize = 8;
    let names = match names(folder) {
        Ok(names) => names,
        Err(DataError::Io { source, .. }) => return format!("it cannot be listed: {source}"),
        Err(error) => return error.to_string(),
    };
    if names.is_empty() {
        return "it is empty".to_string();
    }
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>();
    let rest = names.len() - shown.len();
    let more = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    format!("in it are {}{more}", shown.join(", "))
}
