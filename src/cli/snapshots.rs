//! How `mtmc track` goes on after a crash: what the run is known by, and where its files go on.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::bail;
use mtmc_tools::fetch::sha256;

use super::options::weights_path;
use crate::config::Environment;
use crate::pipeline::{Fingerprint, Snapshots};
use crate::sink::{PartFile, SinkError, close_part};
use crate::source;

/// Where result files begin: anew, or where the run that is resumed left them.
#[derive(Debug)]
pub struct Outputs {
    folder: PathBuf,
    written: BTreeMap<PathBuf, u64>,
}

impl Outputs {
    /// All files anew.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
            written: BTreeMap::new(),
        }
    }

    /// Where the run that `snapshots` resumes left them, if it does. Its videos, which cannot be
    /// continued, get their names.
    pub fn of(folder: &Path, snapshots: Option<&Snapshots>) -> Result<Self, SinkError> {
        let mut outputs = Self::new(folder);
        let files = snapshots.map(Snapshots::files).unwrap_or_default();
        for file in files {
            if file.path.extension().is_some_and(|e| e == "mp4") {
                close_part(&file.path, file.bytes)?;
            } else {
                outputs.written.insert(file.path, file.bytes);
            }
        }
        Ok(outputs)
    }

    /// Path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// How much of a file the earlier run wrote, if it is continued.
    pub fn written(&self, name: &str) -> Option<u64> {
        self.written.get(&self.path(name)).copied()
    }

    /// The file, begun or continued.
    pub fn file(&self, name: &str) -> Result<PartFile, SinkError> {
        match self.written(name) {
            Some(bytes) => PartFile::resume(&self.path(name), bytes),
            None => PartFile::create(&self.path(name)),
        }
    }
}

/// The snapshots of a run with results in `folder`: read if `resume`, taken every so many frames.
/// `None` if neither; those of earlier runs, whose files are begun anew, are removed.
pub fn snapshots(
    folder: &Path,
    every: u64,
    resume: bool,
    fingerprint: impl FnOnce() -> anyhow::Result<Fingerprint>,
) -> anyhow::Result<Option<Snapshots>> {
    if every == 0 && !resume {
        Snapshots::new(folder, 0, Fingerprint::default(), warn).remove();
        return Ok(None);
    }
    let mut snapshots = Snapshots::new(folder, every, fingerprint()?, warn);
    if !resume {
        snapshots.remove();
        return Ok(Some(snapshots));
    }
    let mut stderr = std::io::stderr();
    if snapshots.load()? {
        let frames = snapshots.frames_done();
        writeln!(stderr, "resuming after {frames} frames")?;
    } else {
        let folder = folder.display();
        writeln!(stderr, "nothing to resume in {folder}: from the beginning")?;
    }
    Ok(Some(snapshots))
}

/// A source that cannot be read again from its beginning cannot be resumed.
pub fn check_source(spec: &str) -> anyhow::Result<()> {
    if spec == "-" || source::is_live(spec) {
        bail!(
            "{spec}: a live source cannot be read again from its beginning, so there is no resuming \
             it: leave out --snapshot-every and --resume"
        );
    }
    Ok(())
}

/// Adds weights, which are known by what they hold.
pub fn add_weights(
    fingerprint: &mut Fingerprint,
    option: &str,
    weights: Option<&str>,
) -> anyhow::Result<()> {
    let digest = match weights {
        Some(weights) => sha256(&weights_path(weights)?)?,
        None => String::new(),
    };
    fingerprint.add(option, &digest);
    Ok(())
}

/// Adds an environment with its calibrations.
pub fn add_environment(
    fingerprint: &mut Fingerprint,
    environment: &Environment,
) -> anyhow::Result<()> {
    fingerprint.add("environment", &format!("{environment:?}"));
    for (index, camera) in environment.cameras.iter().enumerate() {
        let file = environment.homography_file(index);
        if let Some(path) = file.filter(|path| path.exists()) {
            let name = format!("calibration of {}", camera.id);
            fingerprint.add(&name, &sha256(&path)?);
        }
    }
    Ok(())
}

fn warn(text: &str) {
    // Nothing can be done where not even this is heard.
    let _ = writeln!(std::io::stderr(), "warning: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_sources_are_not_resumed() {
        for spec in ["a.mp4", "folder", "https://host/a.mp4"] {
            assert!(check_source(spec).is_ok(), "{spec}");
        }
        for spec in ["-", "rtsp://host/stream", "udp://host:1"] {
            assert!(check_source(spec).is_err(), "{spec}");
        }
    }
}
