//! Market-1501's folders and file names (Zheng et al., "Scalable Person Re-identification: A
//! Benchmark", ICCV 2015), which other re-ID sets use too.
//!
//! `0002_c1s1_000451_03.jpg` is person 2 in camera 1, sequence 1, frame 451, box 3. Person `-1` is
//! junk (a bad box, to be ignored), person `0000` a distractor (background or somebody else).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::DataError;

mod prepare;

pub use prepare::{Metadata, Options, SplitCounts, prepare};

/// Person of a junk image: neither right nor wrong when it is found.
pub const JUNK: i64 = -1;

/// Person of a distractor: always wrong when it is found.
pub const DISTRACTOR: i64 = 0;

/// Folder of the training images.
pub const TRAIN: &str = "bounding_box_train";
/// Folder of the gallery.
pub const GALLERY: &str = "bounding_box_test";
/// Folder of the queries.
pub const QUERY: &str = "query";

/// What a name is made of, for error messages.
const PATTERN: &str = "PERSON_cCAMERAsSEQUENCE_FRAME_BOX.jpg, such as 0002_c1s1_000451_03.jpg or -1_c3s2_011203_07.jpg";

/// What is said of images of other names.
const MISNAMED: &str = "images that are not named PERSON_cCAMERAsSEQUENCE_FRAME_BOX.jpg (as \
                        0002_c1s1_000451_03.jpg)";

/// A folder with images of other names holds another data set: this many are told.
const MAX_WRONG_NAMES: usize = 1000;

/// What an image's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    /// The person; [`JUNK`] and [`DISTRACTOR`] are none.
    pub id: i64,
    /// Camera, from 1.
    pub camera: u32,
    /// Recording of that camera, from 1.
    pub sequence: u32,
    /// Frame of that recording.
    pub frame: u32,
    /// Number of the box, which tells names apart that agree in all else.
    pub bbox: u32,
}

impl ImageName {
    /// Whether the image shows somebody who is known: neither junk nor distractor.
    pub fn is_person(&self) -> bool {
        self.id > DISTRACTOR
    }
}

/// The name without its ending, as the data set writes it.
impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.id == JUNK {
            write!(f, "-1")?;
        } else {
            write!(f, "{:04}", self.id)?;
        }
        let Self {
            camera,
            sequence,
            frame,
            bbox,
            ..
        } = self;
        write!(f, "_c{camera}s{sequence}_{frame:06}_{bbox:02}")
    }
}

/// A file name that is not one of Market-1501's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not named {PATTERN}")]
pub struct NameError(String);

impl FromStr for ImageName {
    type Err = NameError;

    /// Reads a file's name, with `.jpg`, `.jpeg` or `.png` or without an ending.
    fn from_str(name: &str) -> Result<Self, NameError> {
        let stem = match name.rsplit_once('.') {
            Some((stem, _)) if has_image_ending(Path::new(name)) => stem,
            Some(_) => return Err(NameError(name.to_string())),
            None => name,
        };
        parse_stem(stem).ok_or_else(|| NameError(name.to_string()))
    }
}

fn parse_stem(stem: &str) -> Option<ImageName> {
    let mut parts = stem.split('_');
    let id = match parts.next()? {
        "-1" => JUNK,
        digits => i64::from(number(digits)?),
    };
    let place = parts.next()?.strip_prefix('c')?;
    let (camera, sequence) = place.split_once('s')?;
    let name = ImageName {
        id,
        camera: number(camera)?,
        sequence: number(sequence)?,
        frame: number(parts.next()?)?,
        bbox: number(parts.next()?)?,
    };
    let complete = parts.next().is_none() && name.camera > 0 && name.sequence > 0;
    complete.then_some(name)
}

/// Digits alone: no sign, no blank.
fn number(digits: &str) -> Option<u32> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// Whether the name ends like an image: `.jpg`, `.jpeg` or `.png`.
fn has_image_ending(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    let known = ["jpg", "jpeg", "png"];
    known.iter().any(|e| ending.eq_ignore_ascii_case(e))
}

/// One image of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// What its name says.
    pub name: ImageName,
}

/// The images of a split's folder, sorted by file name; junk and distractors are among them.
///
/// Files that are no images (`Thumbs.db`, `readme.txt`) are passed over, and sub-folders are not
/// entered.
///
/// # Errors
/// The folder cannot be read or holds no image; images are not named as Market-1501's (all of
/// them are told).
pub fn list_split(folder: &Path) -> Result<Vec<Image>, DataError> {
    list_named(folder, &|name| name.parse().ok(), MISNAMED)
}

/// As [`list_split`], for data sets of other names: `parse` reads one, and `misnamed` tells people of
/// those that it does not know (`images that are not named …`).
///
/// # Errors
/// The folder cannot be read or holds no image; `parse` does not know names (all of them are told).
pub fn list_named(
    folder: &Path,
    parse: &dyn Fn(&str) -> Option<ImageName>,
    misnamed: &'static str,
) -> Result<Vec<Image>, DataError> {
    let mut images = Vec::new();
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io(folder))? {
        let path = entry.map_err(DataError::io(folder))?.path();
        if !has_image_ending(&path) || !path.is_file() {
            continue;
        }
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        match parse(&file_name) {
            Some(name) => images.push(Image { path, name }),
            None if wrong.len() < MAX_WRONG_NAMES => wrong.push(file_name.into_owned()),
            None => {}
        }
    }
    wrong.sort();
    DataError::none_of(folder, misnamed, wrong)?;
    if images.is_empty() {
        return Err(DataError::file(
            folder,
            format!("no images in this folder, and no {misnamed} either"),
        ));
    }
    images.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Names as the data set's own description gives them.
    #[test]
    fn names_are_read_and_written() {
        let names = [
            ("0002_c1s1_000451_03.jpg", (2, 1, 1, 451, 3)),
            ("-1_c3s2_011203_07.jpg", (JUNK, 3, 2, 11_203, 7)),
            ("0000_c6s4_002852_01.png", (DISTRACTOR, 6, 4, 2852, 1)),
            ("1501_c6s4_001902_01", (1501, 6, 4, 1902, 1)),
        ];
        for (text, (id, camera, sequence, frame, bbox)) in names {
            let expected = ImageName {
                id,
                camera,
                sequence,
                frame,
                bbox,
            };
            let name: ImageName = text.parse().unwrap();
            assert_eq!(name, expected);
            let stem = text.split('.').next().unwrap();
            assert_eq!(name.to_string(), stem);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "Thumbs.db",
            "0002_c1s1_000451_03.txt",
            "0002_c1_f0046182.jpg", // DukeMTMC-reID
            "0002_c0s1_000451_03.jpg",
            "0002_c1s1_000451.jpg",
            "0002_c1s1_000451_03_9.jpg",
            "-2_c1s1_000451_03.jpg",
            "+2_c1s1_000451_03.jpg",
            "0002_c1s1_99999999999_03.jpg",
            "0002_c1s1_ 451_03.jpg",
        ] {
            assert!(name.parse::<ImageName>().is_err(), "accepted `{name}`");
        }
    }

    #[test]
    fn a_folder_is_listed_by_name_without_what_is_no_image() {
        let folder = tempfile::TempDir::new().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), b"").unwrap();
        for name in [
            "0007_c2s1_000001_01.jpg",
            "-1_c1s1_000002_01.jpg",
            "Thumbs.db",
        ] {
            write(name);
        }
        write("0002_c6s3_000009_00.jpg");
        let images = list_split(folder.path()).unwrap();
        let ids: Vec<i64> = images.iter().map(|image| image.name.id).collect();
        assert_eq!(ids, [JUNK, 2, 7]);

        write("cat.jpg");
        let error = list_split(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("cat.jpg") && error.contains("0002_c1s1"),
            "{error}"
        );
    }

    #[test]
    fn missing_and_empty_folders_are_named() {
        let folder = tempfile::TempDir::new().unwrap();
        let error = list_split(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no images"), "{error}");
        let error = list_split(&folder.path().join("query")).unwrap_err();
        assert!(error.to_string().contains("query"), "{error}");
    }
}
