//! Which data set lies in a folder, and the images of its splits.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use mtmc_tools::dataset::DataError;
use mtmc_tools::dataset::market1501::{GALLERY, Image, JUNK, QUERY, TRAIN, list_named, list_split};
use serde::Deserialize;

use super::{counts, names};

/// Layout of a data set's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Whichever of the others it is, by its files.
    Detect,
    /// `bounding_box_train`, `query`, `bounding_box_test` with names as `0002_c1s1_000451_03.jpg`,
    /// as downloaded, cut out by `mtmc data crops` or drawn by `mtmc data synth-reid`.
    Market1501,
    /// What `mtmc data prepare market1501` writes: `train`, `val`, `query`, `gallery`.
    Prepared,
    /// The same folders as Market-1501 with names as `0001_c2_f0046182.jpg`.
    DukeMtmc,
    /// `list_train.txt`, `list_val.txt`, `list_query.txt`, `list_gallery.txt` and the folders `train`
    /// and `test` (`mask_train_v2`, `mask_test_v2` in the second version).
    Msmt17,
}

/// What the folders are called, for error messages.
const EXPECTED: &str = "\
  bounding_box_train/, query/, bounding_box_test/   Market-1501, DukeMTMC-reID, `mtmc data crops`,
                                                    `mtmc data synth-reid`
  train/, val/, query/, gallery/, metadata.json     `mtmc data prepare market1501`
  list_train.txt, list_val.txt, list_query.txt,     MSMT17
  list_gallery.txt, train/, test/";

/// Folders that MSMT17's archives unpack to, and their parts.
const MSMT17_VERSIONS: [(&str, &str, &str); 2] = [
    ("MSMT17_V1", "train", "test"),
    ("MSMT17_V2", "mask_train_v2", "mask_test_v2"),
];

/// Most lines of a list: ten times the largest of MSMT17's.
const MAX_LINES: usize = 1_000_000;

/// The images of a data set; junk and distractors are only in the gallery.
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) train: Vec<Image>,
    /// Images that were set apart for validation, of other people (prepared) or of the same
    /// (MSMT17).
    pub(super) val: Vec<Image>,
    pub(super) query: Vec<Image>,
    pub(super) gallery: Vec<Image>,
    /// In what it differs from the published data set.
    pub(super) warnings: Vec<String>,
}

/// The part of `metadata.json` that tells data sets apart.
#[derive(Deserialize)]
struct Metadata {
    data_set: String,
}

/// Reads the folder `root`.
///
/// # Errors
/// It is laid out otherwise, images are misnamed or missing (all of them are told).
pub(super) fn read(root: &Path, kind: Kind) -> Result<Found, DataError> {
    let kind = match kind {
        Kind::Detect => detect(root, TRAIN)?,
        kind => kind,
    };
    let mut found = match kind {
        Kind::Prepared => prepared(root)?,
        Kind::DukeMtmc => duke(root)?,
        Kind::Msmt17 => msmt17(root)?,
        Kind::Market1501 | Kind::Detect => market1501(root)?,
    };
    found.train.retain(|image| image.name.is_person());
    found.val.retain(|image| image.name.is_person());
    found.query.retain(|image| image.name.is_person());
    if !is_made_here(root) {
        found.warnings = counts::differences(&found);
    }
    Ok(found)
}

/// Reads queries and gallery alone; there need not be anybody to learn from.
///
/// # Errors
/// As [`read`].
pub(super) fn read_probe(root: &Path, kind: Kind) -> Result<(Vec<Image>, Vec<Image>), DataError> {
    let kind = match kind {
        Kind::Detect => detect(root, QUERY)?,
        kind => kind,
    };
    let (query, gallery) = match kind {
        Kind::Prepared => (
            list_split(&root.join(QUERY))?,
            list_split(&root.join("gallery"))?,
        ),
        Kind::DukeMtmc => (
            list_duke(&root.join(QUERY))?,
            list_duke(&root.join(GALLERY))?,
        ),
        Kind::Msmt17 => {
            let (folder, _, test) = msmt17_place(root, "list_query.txt")?;
            (
                read_list(&folder, "list_query.txt", test)?,
                read_list(&folder, "list_gallery.txt", test)?,
            )
        }
        Kind::Market1501 | Kind::Detect => (
            list_split(&root.join(QUERY))?,
            list_split(&root.join(GALLERY))?,
        ),
    };
    Ok((query, without_junk(gallery)))
}

/// Which layout it is; where the folders alone do not tell, by a name in the folder `images`.
fn detect(root: &Path, images: &str) -> Result<Kind, DataError> {
    let mut msmt17 = MSMT17_VERSIONS.map(|(name, ..)| root.join(name)).to_vec();
    msmt17.push(root.to_path_buf());
    if msmt17.iter().any(|folder| is_msmt17(folder)) {
        return Ok(Kind::Msmt17);
    }
    let learnt = if images == TRAIN { "train" } else { QUERY };
    if [learnt, QUERY, "gallery"]
        .iter()
        .all(|name| root.join(name).is_dir())
    {
        return Ok(Kind::Prepared);
    }
    let folder = root.join(images);
    if !folder.is_dir() {
        let found = if root.is_dir() {
            "no such folders"
        } else {
            "no such folder"
        };
        return Err(DataError::Layout {
            path: root.to_path_buf(),
            found: found.to_string(),
            expected: EXPECTED,
        });
    }
    // One name is enough to tell the two apart; whether all are right is seen when they are read.
    let entries = std::fs::read_dir(&folder).map_err(|source| io(&folder, source))?;
    for entry in entries.take(MAX_LINES) {
        let entry = entry.map_err(|source| io(&folder, source))?;
        if names::duke(&entry.file_name().to_string_lossy()).is_some() {
            return Ok(Kind::DukeMtmc);
        }
        if entry
            .file_name()
            .to_string_lossy()
            .parse::<mtmc_tools::dataset::market1501::ImageName>()
            .is_ok()
        {
            return Ok(Kind::Market1501);
        }
    }
    Ok(Kind::Market1501)
}

fn is_msmt17(root: &Path) -> bool {
    let lists = ["list_train.txt", "list_query.txt"];
    lists.iter().any(|list| root.join(list).is_file())
}

/// Whether this program drew or cut the data set, so that no size was published.
fn is_made_here(root: &Path) -> bool {
    let text = std::fs::read(root.join("metadata.json")).unwrap_or_default();
    let metadata: Result<Metadata, _> = serde_json::from_slice(&text);
    metadata.is_ok_and(|metadata| metadata.data_set != "market1501")
}

fn market1501(root: &Path) -> Result<Found, DataError> {
    Ok(Found {
        kind: Kind::Market1501,
        train: list_split(&root.join(TRAIN))?,
        val: Vec::new(),
        query: optional(&root.join(QUERY), list_split)?,
        gallery: optional(&root.join(GALLERY), list_split)?,
        warnings: Vec::new(),
    })
}

fn list_duke(folder: &Path) -> Result<Vec<Image>, DataError> {
    list_named(folder, &names::duke, names::DUKE_MISNAMED)
}

fn duke(root: &Path) -> Result<Found, DataError> {
    Ok(Found {
        kind: Kind::DukeMtmc,
        train: list_duke(&root.join(TRAIN))?,
        val: Vec::new(),
        query: optional(&root.join(QUERY), list_duke)?,
        gallery: optional(&root.join(GALLERY), list_duke)?,
        warnings: Vec::new(),
    })
}

/// A set without queries can be learnt from as well.
fn optional(
    folder: &Path,
    list: impl Fn(&Path) -> Result<Vec<Image>, DataError>,
) -> Result<Vec<Image>, DataError> {
    if folder.is_dir() {
        list(folder)
    } else {
        Ok(Vec::new())
    }
}

fn prepared(root: &Path) -> Result<Found, DataError> {
    let val = root.join("val");
    let found = Found {
        kind: Kind::Prepared,
        train: list_split(&root.join("train"))?,
        // With `--val-share 0` there is a folder without images.
        val: if is_filled(&val) {
            list_split(&val)?
        } else {
            Vec::new()
        },
        query: list_split(&root.join(QUERY))?,
        gallery: list_split(&root.join("gallery"))?,
        warnings: Vec::new(),
    };
    none_missing(root, &root.join("trainval_labels.csv"))?;
    Ok(found)
}

fn is_filled(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// Every file in the first column of a table of labels is there.
fn none_missing(root: &Path, table: &Path) -> Result<(), DataError> {
    let text = std::fs::read_to_string(table).map_err(|source| io(table, source))?;
    let rows = text.lines().skip(1).take(MAX_LINES);
    let files = rows.filter_map(|row| row.split(',').next());
    let missing: Vec<String> = files
        .filter(|file| !root.join(file).is_file())
        .map(ToString::to_string)
        .collect();
    many(
        root,
        "images that trainval_labels.csv names are missing",
        missing,
    )
}

/// The folder of MSMT17's lists, and those of the images of training and test below it.
fn msmt17_place(
    root: &Path,
    list: &str,
) -> Result<(PathBuf, &'static str, &'static str), DataError> {
    let mut places = vec![
        (root.to_path_buf(), "train", "test"),
        (root.to_path_buf(), "mask_train_v2", "mask_test_v2"),
    ];
    for (name, train, test) in MSMT17_VERSIONS {
        places.push((root.join(name), train, test));
    }
    let there = |(folder, train, test): &(PathBuf, &str, &str)| {
        let images = if list == "list_train.txt" {
            train
        } else {
            test
        };
        folder.join(list).is_file() && folder.join(images).is_dir()
    };
    places
        .into_iter()
        .find(there)
        .ok_or_else(|| DataError::Layout {
            path: root.to_path_buf(),
            found: format!("no {list} beside a folder with its images"),
            expected: EXPECTED,
        })
}

fn msmt17(root: &Path) -> Result<Found, DataError> {
    let (folder, train, test) = msmt17_place(root, "list_train.txt")?;
    Ok(Found {
        kind: Kind::Msmt17,
        train: read_list(&folder, "list_train.txt", train)?,
        val: read_list(&folder, "list_val.txt", train)?,
        query: read_list(&folder, "list_query.txt", test)?,
        gallery: read_list(&folder, "list_gallery.txt", test)?,
        warnings: Vec::new(),
    })
}

/// Images of a list with `PATH PERSON` a line, below the folder `images`.
fn read_list(folder: &Path, list: &str, images: &str) -> Result<Vec<Image>, DataError> {
    let path = folder.join(list);
    let text = std::fs::read_to_string(&path).map_err(|source| io(&path, source))?;
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for (line, number) in text.lines().take(MAX_LINES).zip(1_u64..) {
        if line.trim().is_empty() {
            continue;
        }
        let Some(image) = read_line(line, &folder.join(images)) else {
            return Err(DataError::Line {
                path,
                line: number,
                reason: "not PATH PERSON, such as 0000/0000_000_01_0303morning_0008_0.jpg 0"
                    .to_string(),
            });
        };
        if image.path.is_file() {
            found.push(image);
        } else {
            missing.push(line.to_string());
        }
    }
    many(&path, "images that are missing", missing)?;
    Ok(found)
}

fn read_line(line: &str, images: &Path) -> Option<Image> {
    let (file, person) = line.trim_end().rsplit_once(' ')?;
    // Nothing outside the data set is opened.
    let inside = Path::new(file)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return None;
    }
    let name = names::msmt17(file, person.parse().ok()?)?;
    let path = images.join(file);
    Some(Image { path, name })
}

/// `problems` as one error, if there are any.
pub(super) fn many(
    path: &Path,
    what: &'static str,
    problems: Vec<String>,
) -> Result<(), DataError> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(DataError::Many {
        path: path.to_path_buf(),
        what,
        problems,
    })
}

pub(super) fn io(path: &Path, source: std::io::Error) -> DataError {
    DataError::Io {
        path: PathBuf::from(path),
        source,
    }
}

/// People of these images; junk and distractors are none.
pub(super) fn people(images: &[Image]) -> BTreeSet<i64> {
    let people = images.iter().filter(|image| image.name.is_person());
    people.map(|image| image.name.id).collect()
}

/// Images without junk.
pub(super) fn without_junk(images: Vec<Image>) -> Vec<Image> {
    let kept = images.into_iter().filter(|image| image.name.id != JUNK);
    kept.collect()
}
