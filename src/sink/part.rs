//! A file that appears under its name only when it is whole.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Error, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{SinkError, Written};

/// A file being written under its name and `.part`.
#[derive(Debug)]
pub struct PartFile {
    writer: BufWriter<File>,
    path: PathBuf,
    part: PathBuf,
}

impl PartFile {
    /// Begins the file at `path`, replacing what an earlier run left unfinished.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self, SinkError> {
        let part = part_path(path);
        let file = File::create(&part).map_err(|error| SinkError::io(&part, error))?;
        Ok(Self::of(file, path))
    }

    /// Goes on behind the first `bytes` bytes of what an earlier run wrote, finished or not; what
    /// comes after them is cut off.
    ///
    /// # Errors
    /// When there is no such file or it is shorter than that.
    pub fn resume(path: &Path, bytes: u64) -> Result<Self, SinkError> {
        let part = part_path(path);
        // The earlier run may have been stopped between finishing this file and being done.
        if !part.exists() && path.exists() {
            std::fs::rename(path, &part).map_err(|error| SinkError::io(&part, error))?;
        }
        let file = cut(&part, bytes).map_err(|error| SinkError::io(&part, error))?;
        Ok(Self::of(file, path))
    }

    fn of(file: File, path: &Path) -> Self {
        Self {
            writer: BufWriter::with_capacity(1 << 16, file),
            path: path.to_path_buf(),
            part: part_path(path),
        }
    }

    /// Where the file will stand.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts what was written where it outlives a power failure, and says how much that is.
    pub(crate) fn checkpoint(&mut self) -> Result<Written, SinkError> {
        let failed = |error| SinkError::io(&self.part, error);
        let bytes = self.writer.stream_position().map_err(failed)?;
        self.writer.flush().map_err(failed)?;
        self.writer.get_ref().sync_data().map_err(failed)?;
        Ok(Written {
            path: self.path.clone(),
            bytes,
        })
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

/// Opens a file for writing behind its first `bytes` bytes, the rest cut off.
fn cut(path: &Path, bytes: u64) -> std::io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let there = file.metadata()?.len();
    if there < bytes {
        let short = format!("{there} bytes are there of the {bytes} that were written");
        return Err(Error::new(ErrorKind::UnexpectedEof, short));
    }
    file.set_len(bytes)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

pub(crate) fn part_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Gives a file of a run that was stopped its name, with its first `bytes` bytes: it is not
/// continued. One that was finished is left as it is; one that holds nothing goes.
///
/// # Errors
/// When the file is shorter than that or cannot be renamed.
pub fn close_part(path: &Path, bytes: u64) -> Result<(), SinkError> {
    let part = part_path(path);
    if !part.exists() {
        return Ok(());
    }
    let closed = if bytes == 0 {
        std::fs::remove_file(&part)
    } else {
        cut(&part, bytes).and_then(|_| std::fs::rename(&part, path))
    };
    closed.map_err(|error| SinkError::io(&part, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_goes_on_where_its_checkpoint_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let mut file = PartFile::create(&path).unwrap();
        file.write(b"kept,").unwrap();
        let written = file.checkpoint().unwrap();
        assert_eq!((&written.path, written.bytes), (&path, 5));
        file.write(b"lost").unwrap();
        file.flush().unwrap();
        drop(file);
        assert_eq!(text(&part_path(&path)), "kept,lost");

        let mut file = PartFile::resume(&path, written.bytes).unwrap();
        file.write(b"anew").unwrap();
        assert_eq!(file.checkpoint().unwrap().bytes, 9);
        file.finish().unwrap();
        assert_eq!(text(&path), "kept,anew");

        // A finished file is taken back.
        let file = PartFile::resume(&path, 4).unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        assert_eq!(text(&path), "kept");
    }

    #[test]
    fn a_file_that_lost_its_end_is_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        assert!(PartFile::resume(&path, 0).is_err());
        std::fs::write(part_path(&path), "short").unwrap();
        let error = PartFile::resume(&path, 6).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("5 bytes"), "{source}");
        assert_eq!(text(&part_path(&path)), "short", "nothing is touched");
    }
}
