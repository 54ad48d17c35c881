//! A benchmark's folder: a folder a sequence, as MOT Challenge lays them out.
//!
//! ```text
//! DIR/SEQUENCE/gt/gt.txt      truth
//! DIR/SEQUENCE/det/det.txt    detections (optional)
//! DIR/SEQUENCE/seqinfo.ini    frames, frame rate, folder of the images (optional)
//! DIR/SEQUENCE/img1/          images (optional)
//! DIR/SEQUENCE/gmc.txt        how the camera moved (optional)
//! ```
//!
//! `DIR` may also be one sequence itself.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use mtmc_tools::dataset::DataError;
use mtmc_tools::dataset::mot::SequenceInfo;
use serde::Serialize;

/// One sequence of a benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// Name of its folder.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What `seqinfo.ini` says, where there is one.
    pub info: Option<SequenceInfo>,
}

/// Why a benchmark's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It holds no sequence.
    #[error(
        "{}: no sequence here; expected SEQUENCE/gt/gt.txt in it, or gt/gt.txt itself",
        path.display()
    )]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A sequence was asked for that is not there.
    #[error("{}: no sequence `{name}`; there are {}", path.display(), known.join(", "))]
    Unknown {
        /// The folder.
        path: PathBuf,
        /// The name that was asked for.
        name: String,
        /// The names that are there.
        known: Vec<String>,
    },
    /// A `seqinfo.ini` makes no sense.
    #[error(transparent)]
    Info(#[from] DataError),
}

impl Sequence {
    /// The truth's file.
    pub fn truth(&self) -> PathBuf {
        self.folder.join("gt").join("gt.txt")
    }

    fn open(folder: &Path, name: String) -> Result<Self, FolderError> {
        Ok(Self {
            name,
            folder: folder.to_path_buf(),
            info: read_info(folder)?,
        })
    }

    /// Number of frames, where that is known.
    pub fn length(&self) -> Option<u64> {
        self.info.as_ref().map(|info| info.frames)
    }
}

/// The sequences of a benchmark's folder, sorted by name; only those in `names` unless that is
/// empty.
///
/// # Errors
/// The folder cannot be read or holds no sequence, one that was asked for is not there, or a
/// `seqinfo.ini` makes no sense.
pub fn sequences(folder: &Path, names: &[String]) -> Result<Vec<Sequence>, FolderError> {
    let io = |error| FolderError::Io {
        path: folder.to_path_buf(),
        error,
    };
    let mut found = Vec::new();
    if has_truth(folder) {
        let absolute = folder.canonicalize().map_err(io)?;
        found.push((file_name(&absolute), folder.to_path_buf()));
    } else {
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if has_truth(&path) {
                found.push((file_name(&path), path));
            }
        }
    }
    if found.is_empty() {
        return Err(FolderError::Empty {
            path: folder.to_path_buf(),
        });
    }
    found.sort();
    if let Some(name) = names
        .iter()
        .find(|name| !found.iter().any(|f| f.0 == **name))
    {
        return Err(FolderError::Unknown {
            path: folder.to_path_buf(),
            name: name.clone(),
            known: found.into_iter().map(|(name, _)| name).collect(),
        });
    }
    let mut sequences = Vec::new();
    for (name, path) in found {
        if names.is_empty() || names.contains(&name) {
            sequences.push(Sequence::open(&path, name)?);
        }
    }
    Ok(sequences)
}

fn has_truth(folder: &Path) -> bool {
    folder.join("gt").join("gt.txt").is_file()
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What the `seqinfo.ini` of a sequence's folder says; nothing where there is none.
///
/// # Errors
/// It cannot be read or makes no sense.
pub fn read_info(folder: &Path) -> Result<Option<SequenceInfo>, DataError> {
    let path = folder.join("seqinfo.ini");
    if !path.exists() {
        return Ok(None);
    }
    SequenceInfo::read(&path).map(Some)
}

/// Which frames of each sequence are used; every report names its split.
///
/// The halves are those that published numbers use (CenterTrack, Zhou et al. 2020, and ByteTrack
/// after it): of n frames, the first half has n/2 + 1, rounded down, the second the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// All frames
    #[default]
    All,
    /// Frames 1 to n/2 + 1
    FirstHalf,
    /// Frames n/2 + 2 to n
    SecondHalf,
}

impl Split {
    /// The frames of a sequence that has `length` of them, from 1.
    pub fn frames(self, length: u64) -> RangeInclusive<u64> {
        let middle = (length / 2 + 1).min(length);
        match self {
            Self::All => 1..=length,
            Self::FirstHalf => 1..=middle,
            Self::SecondHalf => middle + 1..=length,
        }
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::All => "all frames",
            Self::FirstHalf => "first half of each sequence",
            Self::SecondHalf => "second half of each sequence",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // MOT17's half split as published: 2,664 frames of 5,316 in the first halves, 2,652 in the
    // second; by hand from the lengths of the seven sequences.
    #[test]
    fn halves_of_mot17_are_as_published() {
        let lengths = [600, 1050, 837, 525, 654, 900, 750];
        let count = |split: Split| -> u64 {
            let frames = lengths.map(|length| split.frames(length).count() as u64);
            frames.iter().sum()
        };
        assert_eq!(count(Split::All), 5316);
        assert_eq!(
            count(Split::FirstHalf),
            300 + 525 + 418 + 262 + 327 + 450 + 375 + 7
        );
        assert_eq!(count(Split::FirstHalf) + count(Split::SecondHalf), 5316);
        assert_eq!(Split::FirstHalf.frames(1), 1..=1);
        assert_eq!(Split::SecondHalf.frames(1).count(), 0);
    }

    #[test]
    fn folders_and_infos_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let message = sequences(path, &[]).unwrap_err().to_string();
        assert!(message.contains("SEQUENCE/gt/gt.txt"), "{message}");
        for name in ["b", "a"] {
            std::fs::create_dir_all(path.join(name).join("gt")).unwrap();
            std::fs::write(path.join(name).join("gt/gt.txt"), "").unwrap();
        }
        let info = "[Sequence]\nname=a\nimDir=img1\nframeRate=14\nseqLength = 837\r\n\
                    imWidth=640\nimHeight=480\nimExt=.jpg\n";
        std::fs::write(path.join("a/seqinfo.ini"), info).unwrap();
        let found = sequences(path, &[]).unwrap();
        assert_eq!((found[0].name.as_str(), found[1].name.as_str()), ("a", "b"));
        assert_eq!(found[0].length(), Some(837));
        assert_eq!(found[0].info.as_ref().unwrap().frame_rate, 14.0);
        assert_eq!(found[1].info, None);
        let one = sequences(&path.join("b"), &[]).unwrap();
        assert_eq!(one[0].name, "b");
        let unknown = sequences(path, &["c".to_string()]).unwrap_err().to_string();
        assert!(
            unknown.ends_with("no sequence `c`; there are a, b"),
            "{unknown}"
        );
        std::fs::write(path.join("a/seqinfo.ini"), "[Sequence]\nseqLength=0\n").unwrap();
        let message = sequences(path, &[]).unwrap_err().to_string();
        assert!(message.contains("seqinfo.ini"), "{message}");
    }
}
