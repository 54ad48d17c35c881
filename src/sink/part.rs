//! A file that appears under its name only when it is whole.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::SinkError;

/// A file being written under its name and `.part`.
#[derive(Debug)]
pub(crate) struct PartFile {
    writer: BufWriter<File>,
    path: PathBuf,
    part: PathBuf,
}

impl PartFile {
    /// Begins the file at `path`, replacing what an earlier run left unfinished.
    pub(crate) fn create(path: &Path) -> Result<Self, SinkError> {
        let part = part_path(path);
        let file = File::create(&part).map_err(|error| SinkError::io(&part, error))?;
        Ok(Self {
            writer: BufWriter::with_capacity(1 << 16, file),
            path: path.to_path_buf(),
            part,
        })
    }

    /// Where the file will stand.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.writer
            .write_all(bytes)
            .map_err(|error| SinkError::io(&self.part, error))
    }

    /// Hands what was written to the operating system, so that it outlives this program.
    pub(crate) fn flush(&mut self) -> Result<(), SinkError> {
        self.writer
            .flush()
            .map_err(|error| SinkError::io(&self.part, error))
    }

    /// Replaces the file's first bytes.
    pub(crate) fn overwrite_start(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let replaced = self
            .writer
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.writer.write_all(bytes))
            .and_then(|()| self.writer.seek(SeekFrom::End(0)));
        replaced
            .map(drop)
            .map_err(|error| SinkError::io(&self.part, error))
    }

    /// Moves the file to its place, over what may be there.
    pub(crate) fn finish(mut self) -> Result<(), SinkError> {
        self.flush()?;
        std::fs::rename(&self.part, &self.path).map_err(|error| SinkError::io(&self.path, error))
    }

    /// Removes the unfinished file.
    pub(crate) fn discard(self) -> Result<(), SinkError> {
        std::fs::remove_file(&self.part).map_err(|error| SinkError::io(&self.part, error))
    }
}

fn part_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}
