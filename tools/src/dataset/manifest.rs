//! The list of a data set's files with size and SHA-256, by which it can be verified later.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::folder::write_json;
use super::{DataError, Progress};
use crate::fetch::sha256;

/// The manifest's own name; it is not listed in itself.
pub const FILE_NAME: &str = "manifest.json";

/// Version of the file's layout.
const FORMAT: u32 = 1;

/// Largest manifest that is read: two million files.
const MAX_BYTES: u64 = 256 << 20;

/// All files of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// What it is: `mot17`, `market1501`, `crops`.
    pub data_set: String,
    /// What wrote it.
    pub program: String,
    /// The files, sorted by path.
    pub files: Vec<FileEntry>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path from the manifest's folder, with `/` between names.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Files of the manifest.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are not there.
    pub missing: Vec<String>,
    /// Files with another content, and what is different.
    pub changed: Vec<String>,
    /// Files that are not in the manifest.
    pub extra: Vec<String>,
}

impl Verification {
    /// Whether all is as it was.
    pub fn is_good(&self) -> bool {
        self.missing.is_empty() && self.changed.is_empty() && self.extra.is_empty()
    }
}

impl Manifest {
    /// The manifest of what is in `folder` now.
    ///
    /// # Errors
    /// The folder or a file in it cannot be read; a name is no Unicode.
    pub fn of(folder: &Path, data_set: &str, progress: &dyn Progress) -> Result<Self, DataError> {
        let paths = walk(folder)?;
        progress.begin("files hashed", paths.len() as u64);
        let files = paths
            .into_par_iter()
            .map(|path| {
                let entry = entry_of(folder, path)?;
                progress.advance();
                Ok(entry)
            })
            .collect::<Result<Vec<_>, DataError>>()?;
        Ok(Self {
            format: FORMAT,
            data_set: data_set.to_string(),
            program: format!("mtmc {}", env!("CARGO_PKG_VERSION")),
            files,
        })
    }

    /// Writes the manifest into `folder`, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), DataError> {
        write_json(&folder.join(FILE_NAME), self)
    }

    /// Reads the manifest of `folder`.
    ///
    /// # Errors
    /// There is none; it is damaged, of a later version, or names files outside the folder.
    pub fn read(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join(FILE_NAME);
        let metadata = std::fs::metadata(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => DataError::file(
                folder,
                format!("no {FILE_NAME} here: only what `mtmc data` prepared can be verified"),
            ),
            _ => DataError::io(&path)(error),
        })?;
        if metadata.len() > MAX_BYTES {
            let reason = format!("{} bytes are too many for a manifest", metadata.len());
            return Err(DataError::file(&path, reason));
        }
        let bytes = std::fs::read(&path).map_err(DataError::io(&path))?;
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| DataError::file(&path, format!("no manifest: {error}")))?;
        manifest
            .check()
            .map_err(|reason| DataError::file(&path, reason))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            let found = self.format;
            return Err(format!("a manifest of format {found}, {FORMAT} is known"));
        }
        let mut seen = BTreeSet::new();
        for entry in &self.files {
            let path = &entry.path;
            let inside = Path::new(path)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if path.is_empty() || !inside {
                return Err(format!("`{path}` is not a path inside the folder"));
            }
            if !seen.insert(path) {
                return Err(format!("`{path}` is listed twice"));
            }
        }
        Ok(())
    }

    /// Compares the manifest with what is in `folder` now. A file that cannot be read counts as
    /// changed.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn verify(
        &self,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<Verification, DataError> {
        let present: BTreeSet<String> = walk(folder)?.into_iter().collect();
        let listed: BTreeSet<&String> = self.files.iter().map(|entry| &entry.path).collect();
        let extra = present.iter().filter(|path| !listed.contains(path));
        let mut verification = Verification {
            files: self.files.len(),
            bytes: self.files.iter().map(|entry| entry.size).sum(),
            extra: extra.cloned().collect(),
            ..Verification::default()
        };
        progress.begin("files verified", self.files.len() as u64);
        let differences: Vec<Option<String>> = self
            .files
            .par_iter()
            .map(|entry| {
                let known = present.contains(&entry.path);
                let difference = known.then(|| entry.difference(folder)).flatten();
                progress.advance();
                difference
            })
            .collect();
        for (entry, difference) in self.files.iter().zip(differences) {
            if !present.contains(&entry.path) {
                verification.missing.push(entry.path.clone());
            } else if let Some(difference) = difference {
                let path = &entry.path;
                verification.changed.push(format!("{path}: {difference}"));
            }
        }
        Ok(verification)
    }
}

impl FileEntry {
    /// What is different in `folder`, if anything.
    fn difference(&self, folder: &Path) -> Option<String> {
        let path = folder.join(&self.path);
        let size = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) => return Some(error.to_string()),
        };
        if size != self.size {
            return Some(format!("{size} bytes instead of {}", self.size));
        }
        match sha256(&path) {
            Ok(found) if found == self.sha256 => None,
            Ok(_) => Some("another content of the same size".to_string()),
            Err(error) => Some(error.to_string()),
        }
    }
}

fn entry_of(folder: &Path, path: String) -> Result<FileEntry, DataError> {
    let file = folder.join(&path);
    let metadata = std::fs::metadata(&file).map_err(DataError::io(&file))?;
    Ok(FileEntry {
        size: metadata.len(),
        sha256: sha256(&file)?,
        path,
    })
}

/// All files below `folder` but the manifest, as sorted paths with `/`. Symbolic links count as
/// files: they are not followed into other folders.
fn walk(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut files = Vec::new();
    let mut open = vec![String::new()];
    while let Some(prefix) = open.pop() {
        let here = folder.join(&prefix);
        for entry in std::fs::read_dir(&here).map_err(DataError::io(&here))? {
            let entry = entry.map_err(DataError::io(&here))?;
            let name = entry.file_name().into_string().map_err(|name| {
                let reason = format!("the name {} is no Unicode", name.display());
                DataError::file(&here, reason)
            })?;
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(DataError::io(&here))?;
            if kind.is_dir() {
                open.push(format!("{path}/"));
            } else if path != FILE_NAME {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/abc"), b"abc").unwrap();
        std::fs::write(folder.path().join("a/empty"), b"").unwrap();
        std::fs::write(folder.path().join("z"), b"1234").unwrap();
        folder
    }

    // The digests of "" and "abc": FIPS 180-4's examples.
    #[test]
    fn files_are_listed_with_size_and_digest() {
        let folder = folder();
        let manifest = Manifest::of(folder.path(), "test", &()).unwrap();
        let listed: Vec<(&str, u64, &str)> = manifest
            .files
            .iter()
            .map(|e| (e.path.as_str(), e.size, &e.sha256[..8]))
            .collect();
        assert_eq!(listed[0], ("a/b/abc", 3, "ba7816bf"));
        assert_eq!(listed[1], ("a/empty", 0, "e3b0c442"));
        assert_eq!((listed.len(), listed[2].0), (3, "z"));

        manifest.write(folder.path()).unwrap();
        let read = Manifest::read(folder.path()).unwrap();
        assert_eq!(read, manifest);
        let verification = read.verify(folder.path(), &()).unwrap();
        assert!(verification.is_good(), "{verification:?}");
        assert_eq!((verification.files, verification.bytes), (3, 7));
    }

    #[test]
    fn every_difference_is_found() {
        let folder = folder();
        let manifest = Manifest::of(folder.path(), "test", &()).unwrap();
        std::fs::remove_file(folder.path().join("a/empty")).unwrap();
        std::fs::write(folder.path().join("z"), b"1235").unwrap();
        std::fs::write(folder.path().join("a/b/abc"), b"abcd").unwrap();
        std::fs::write(folder.path().join("a/new"), b"").unwrap();
        let found = manifest.verify(folder.path(), &()).unwrap();
        assert!(!found.is_good());
        assert_eq!(found.missing, ["a/empty"]);
        assert_eq!(found.extra, ["a/new"]);
        assert_eq!(
            found.changed,
            [
                "a/b/abc: 4 bytes instead of 3",
                "z: another content of the same size"
            ]
        );
    }

    #[test]
    fn manifests_that_lead_elsewhere_are_refused() {
        let folder = folder();
        let mut manifest = Manifest::of(folder.path(), "test", &()).unwrap();
        for path in ["../secret", "/etc/passwd", "a/../../b", ""] {
            manifest.files[0].path = path.to_string();
            manifest.write(folder.path()).unwrap();
            let error = Manifest::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains("inside the folder"), "{path}: {error}");
        }
        manifest.files[0].path = "z".to_string();
        manifest.write(folder.path()).unwrap();
        let error = Manifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("twice"), "{error}");
        std::fs::write(folder.path().join(FILE_NAME), b"{").unwrap();
        assert!(Manifest::read(folder.path()).is_err());
        std::fs::remove_file(folder.path().join(FILE_NAME)).unwrap();
        let error = Manifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no manifest.json"), "{error}");
    }
}
