//! A folder of images as a source: one file a frame, in natural order of their names.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::with_causes;
use super::image_file::{decode_image, has_image_ending, image_size, is_jpeg, read_bytes};
use super::{Frame, FrameSource, OpenOptions, SkipCounts, SourceError, SourceInfo, stem};

/// Frames a second where neither `seqinfo.ini` nor the options say.
pub const DEFAULT_FRAME_RATE: f64 = 30.0;

/// Largest `seqinfo.ini` that is read; real ones have a few hundred bytes.
pub(super) const MAX_SEQINFO_BYTES: u64 = 64 << 10;

/// The images of a folder, or a single image.
///
/// Files that end in `.jpg`, `.jpeg`, `.jpe` or `.png` are frames, all others are ignored, and
/// sub-folders are not entered. They are ordered naturally: runs of digits by their value
/// (`9.jpg` before `10.jpg`), the rest by character. The frame number is the place in that
/// order, from 1. Images may differ in size; [`SourceInfo::size`] is that of the first.
///
/// MOT Challenge sequences are known: given the sequence's folder (with its `seqinfo.ini`) or
/// the `img1` in it, name and frame rate come from `seqinfo.ini`.
#[derive(Debug)]
pub struct FolderSource {
    info: SourceInfo,
    skipped: SkipCounts,
    files: Vec<PathBuf>,
    next: usize,
    frame_rate: f64,
    keep_jpeg: bool,
}

impl FolderSource {
    /// Opens a folder, or an image file as a source of one frame.
    ///
    /// # Errors
    /// When `path` cannot be read, or holds no image whose header can be read.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, SourceError> {
        let sequence = Sequence::of(path)?;
        let files = if path.is_dir() {
            list_images(&sequence.images)?
        } else {
            vec![path.to_path_buf()]
        };
        let size = first_size(&sequence.images, &files)?;
        let frame_rate = frame_rate(options, sequence.frame_rate);
        Ok(Self {
            info: SourceInfo {
                name: sequence.name,
                frame_rate: Some(frame_rate),
                frame_count: Some(files.len() as u64),
                size,
            },
            skipped: SkipCounts::default(),
            files,
            next: 0,
            frame_rate,
            keep_jpeg: options.keep_jpeg,
        })
    }

    fn read(&self, index: usize) -> Result<Frame, String> {
        let path = &self.files[index];
        let bytes = read_bytes(path).map_err(|error| with_causes(&error))?;
        frame_of(index as u64 + 1, self.frame_rate, bytes, self.keep_jpeg)
            .map_err(|why| format!("{}: {why}", path.display()))
    }
}

/// Frames a second of single images: what the options say, else what the sequence `told`.
pub(super) fn frame_rate(options: &OpenOptions, told: Option<f64>) -> f64 {
    options
        .frame_rate
        .or(told)
        .filter(|rate| rate.is_finite() && *rate > 0.0)
        .unwrap_or(DEFAULT_FRAME_RATE)
}

/// The frame that an image file of a sequence is; `number` counts from 1.
pub(super) fn frame_of(
    number: u64,
    frame_rate: f64,
    bytes: Vec<u8>,
    keep_jpeg: bool,
) -> Result<Frame, String> {
    Ok(Frame {
        number,
        timestamp: Duration::from_secs_f64((number - 1) as f64 / frame_rate),
        image: decode_image(&bytes)?,
        jpeg: (keep_jpeg && is_jpeg(&bytes)).then_some(bytes),
    })
}

impl FrameSource for FolderSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        while self.next < self.files.len() {
            let index = self.next;
            self.next += 1;
            match self.read(index) {
                Ok(frame) => return Ok(Some(frame)),
                Err(reason) => self.skipped.add(index as u64 + 1, reason),
            }
        }
        Ok(None)
    }

    fn skipped(&self) -> &SkipCounts {
        &self.skipped
    }
}

/// Where a sequence's images lie and what is known of it.
struct Sequence {
    images: PathBuf,
    name: String,
    frame_rate: Option<f64>,
}

impl Sequence {
    fn of(path: &Path) -> Result<Self, SourceError> {
        let mut sequence = Self {
            images: path.to_path_buf(),
            name: folder_name(path),
            frame_rate: None,
        };
        if !path.is_dir() {
            sequence.name = stem(path, "image");
            return Ok(sequence);
        }
        if let Some(seqinfo) = Seqinfo::read(&path.join("seqinfo.ini"))? {
            // The sequence's own folder: its images lie one deeper, unless they lie right here.
            let deeper = path.join(&seqinfo.image_folder);
            if seqinfo.is_plain_folder() && deeper.is_dir() {
                sequence.images = deeper;
            }
            sequence.name = seqinfo.name.unwrap_or(sequence.name);
            sequence.frame_rate = seqinfo.frame_rate;
            return Ok(sequence);
        }
        // The image folder of a sequence: `seqinfo.ini` lies beside it.
        let absolute = path
            .canonicalize()
            .map_err(|error| SourceError::io(path, error))?;
        let (Some(parent), Some(own_name)) = (absolute.parent(), absolute.file_name()) else {
            return Ok(sequence);
        };
        if let Some(seqinfo) = Seqinfo::read(&parent.join("seqinfo.ini"))?
            && own_name.to_string_lossy() == seqinfo.image_folder
        {
            sequence.name = seqinfo.name.unwrap_or_else(|| folder_name(parent));
            sequence.frame_rate = seqinfo.frame_rate;
        }
        Ok(sequence)
    }
}

/// The folder's own name, also for `.` and `a/..`.
fn folder_name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    match absolute.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => "frames".to_string(),
    }
}

/// What this program uses of MOT Challenge's `seqinfo.ini`.
#[derive(Debug, PartialEq)]
pub(super) struct Seqinfo {
    pub(super) name: Option<String>,
    pub(super) image_folder: String,
    pub(super) frame_rate: Option<f64>,
}

impl Seqinfo {
    /// `None` when there is no such file.
    fn read(path: &Path) -> Result<Option<Self>, SourceError> {
        let Ok(metadata) = std::fs::metadata(path) else {
            return Ok(None);
        };
        if !metadata.is_file() || metadata.len() > MAX_SEQINFO_BYTES {
            return Ok(None);
        }
        let bytes = std::fs::read(path).map_err(|error| SourceError::io(path, error))?;
        Ok(Some(Self::parse(&String::from_utf8_lossy(&bytes))))
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut seqinfo = Self {
            name: None,
            image_folder: "img1".to_string(),
            frame_rate: None,
        };
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let value = value.trim();
            match key.trim().to_ascii_lowercase().as_str() {
                // The name becomes a file's name, so it must not lead elsewhere.
                "name" if is_plain_name(value) => seqinfo.name = Some(value.to_string()),
                "imdir" => seqinfo.image_folder = value.trim_end_matches('/').to_string(),
                "framerate" => seqinfo.frame_rate = value.parse().ok(),
                _ => {}
            }
        }
        seqinfo
    }

    pub(super) fn is_plain_folder(&self) -> bool {
        is_plain_name(&self.image_folder)
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

fn list_images(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let entries = std::fs::read_dir(folder).map_err(|error| SourceError::io(folder, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|error| SourceError::io(folder, error))?
            .path();
        if has_image_ending(&path) && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(SourceError::NoImages {
            path: folder.to_path_buf(),
            reason: "no images in this folder (names ending in .jpg, .jpeg or .png)".to_string(),
        });
    }
    files.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(files)
}

/// Size of the first image whose header can be read.
fn first_size(folder: &Path, files: &[PathBuf]) -> Result<(u32, u32), SourceError> {
    let mut first_reason = None;
    for path in files {
        let size = match read_bytes(path) {
            Ok(bytes) => image_size(&bytes),
            Err(error) => Err(with_causes(&error)),
        };
        match size {
            Ok(size) => return Ok(size),
            Err(reason) => first_reason.get_or_insert(reason),
        };
    }
    if let [only] = files {
        return Err(SourceError::bad_image(
            only,
            first_reason.unwrap_or_default(),
        ));
    }
    Err(SourceError::NoImages {
        path: folder.to_path_buf(),
        reason: format!(
            "none of the {} images in this folder can be read; the first: {}",
            files.len(),
            first_reason.unwrap_or_default()
        ),
    })
}

/// Orders names with runs of digits by their value; ties (`1` and `01`) by character.
pub(super) fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    while let (Some(first_a), Some(first_b)) = (rest_a.chars().next(), rest_b.chars().next()) {
        if first_a.is_ascii_digit() && first_b.is_ascii_digit() {
            let (digits_a, after_a) = split_digits(rest_a);
            let (digits_b, after_b) = split_digits(rest_b);
            let value_a = digits_a.trim_start_matches('0');
            let value_b = digits_b.trim_start_matches('0');
            let order = value_a.len().cmp(&value_b.len()).then(value_a.cmp(value_b));
            if order != Ordering::Equal {
                return order;
            }
            (rest_a, rest_b) = (after_a, after_b);
            continue;
        }
        if first_a != first_b {
            return first_a.cmp(&first_b);
        }
        rest_a = &rest_a[first_a.len_utf8()..];
        rest_b = &rest_b[first_b.len_utf8()..];
    }
    rest_a.len().cmp(&rest_b.len()).then(a.cmp(b))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_naturally() {
        let mut names = [
            "b2", "a10.png", "a9.jpg", "a09.jpg", "b", "a", "é1", "a1b3", "a1b20",
        ];
        names.sort_by(|a, b| natural_order(a, b));
        let expected = [
            "a", "a1b3", "a1b20", "a09.jpg", "a9.jpg", "a10.png", "b", "b2", "é1",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn seqinfo_is_read_as_mot_challenge_writes_it() {
        let text = "[Sequence]\nname=MOT17-02\nimDir=img1\nframeRate=30\nseqLength=600\n";
        let expected = Seqinfo {
            name: Some("MOT17-02".to_string()),
            image_folder: "img1".to_string(),
            frame_rate: Some(30.0),
        };
        assert_eq!(Seqinfo::parse(text), expected);
    }

    #[test]
    fn seqinfo_cannot_lead_elsewhere() {
        let seqinfo = Seqinfo::parse("name=../../etc/x\nimDir=../..\n");
        assert_eq!(seqinfo.name, None);
        assert!(!seqinfo.is_plain_folder());
    }
}
