//! Preparation of Market-1501: junk out, training identities split, statistics, camera map.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use mtmc_models::preprocess::{Filter, resize_pil};
use rayon::prelude::*;
use serde::Serialize;

use super::{DISTRACTOR, GALLERY, Image, JUNK, QUERY, TRAIN, list_split};
use crate::dataset::draw::draw;
use crate::dataset::folder::{Staging, describe, link_or_copy};
use crate::dataset::pictures::{Decode, Normalisation, PixelSums, write_jpeg};
use crate::dataset::{DataError, Progress};

const TREE: &str = "\
  Market-1501-v15.09.15/
    bounding_box_train/   12936 images such as 0002_c1s1_000451_03.jpg
    query/                 3368 images
    bounding_box_test/    19732 images, 3819 of them junk (-1_c….jpg)";

/// The published counts.
const TRAIN_IMAGES: usize = 12_936;
const QUERY_IMAGES: usize = 3_368;
const GALLERY_IMAGES: usize = 15_913;
const GALLERY_WITH_JUNK: usize = 19_732;
const TRAIN_IDENTITIES: usize = 751;
const TEST_IDENTITIES: usize = 750;

/// How to prepare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Share of the training identities that validation gets, 0..1.
    pub val_share: f64,
    /// Which of them: another seed, another choice.
    pub seed: u64,
    /// Go on with a warning where counts are not the published ones.
    pub allow_incomplete: bool,
    /// Write images resized to this width and height (Pillow's bilinear filter, JPEG of quality
    /// 95) instead of linking them as they are.
    pub resize: Option<(u32, u32)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            val_share: 0.2,
            seed: 0,
            allow_incomplete: false,
            resize: None,
        }
    }
}

/// What was prepared: also the content of `metadata.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metadata {
    /// `market1501`.
    pub data_set: &'static str,
    /// Counts of `train`, `val`, `query` and `gallery`.
    pub splits: BTreeMap<&'static str, SplitCounts>,
    /// Colours of the images of `train` (validation is not among them).
    pub normalisation: Normalisation,
    /// Index from 0 of every camera, by its number in the names.
    pub cameras: BTreeMap<u32, usize>,
    /// Images of junk that were left out.
    pub junk: usize,
    /// Gallery images of nobody who is looked for.
    pub distractors: usize,
    /// Queries whose person is in no other camera of the gallery.
    pub queries_without_match: usize,
    /// Share of the training identities that validation got.
    pub val_share: f64,
    /// Decides which ones.
    pub seed: u64,
    /// Width and height that images were resized to.
    pub resized: Option<(u32, u32)>,
    /// In what the data set differs from the published one.
    pub warnings: Vec<String>,
}

/// Counts of one split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitCounts {
    /// Images.
    pub images: usize,
    /// People; distractors are none.
    pub identities: usize,
    /// Images of every camera.
    pub cameras: BTreeMap<u32, usize>,
}

impl SplitCounts {
    fn of(images: &[Image]) -> Self {
        let mut cameras = BTreeMap::new();
        for image in images {
            *cameras.entry(image.name.camera).or_default() += 1;
        }
        Self {
            images: images.len(),
            identities: identities(images).len(),
            cameras,
        }
    }
}

/// The three folders without junk.
struct Found {
    train: Vec<Image>,
    query: Vec<Image>,
    gallery: Vec<Image>,
    junk: usize,
    gallery_with_junk: usize,
}

/// Prepares the Market-1501 in `folder` as the new folder `out`: `train`, `val`, `query`,
/// `gallery`, `{train,val,trainval}_labels.csv`, `metadata.json` and the manifest.
///
/// # Errors
/// `folder` is not laid out so; counts are not the published ones (unless that is allowed);
/// images are misnamed or broken (all of them are told); a setting is out of its range; `out`
/// holds something already or cannot be written.
pub fn prepare(
    folder: &Path,
    out: &Path,
    options: &Options,
    decode: Decode<'_>,
    progress: &dyn Progress,
) -> Result<Metadata, DataError> {
    if !(0.0..1.0).contains(&options.val_share) {
        return Err(DataError::Setting(format!(
            "a validation share of {} is not within 0..1",
            options.val_share
        )));
    }
    let staging = Staging::begin(out)?;
    let found = find(folder)?;
    let warnings = count_problems(&found);
    if !warnings.is_empty() && !options.allow_incomplete {
        return Err(DataError::Counts {
            path: folder.to_path_buf(),
            problems: warnings,
        });
    }
    let (train, val) = split(&found.train, options.val_share, options.seed);
    let splits = [
        ("train", train),
        ("val", val),
        ("query", found.query),
        ("gallery", found.gallery),
    ];
    let sums = place(folder, &staging, &splits, options, decode, progress)?;
    let Some(normalisation) = sums.normalisation() else {
        return Err(DataError::file(folder, "no training images are left"));
    };
    write_labels(&staging, &splits[..2])?;
    let metadata = Metadata {
        data_set: "market1501",
        normalisation,
        cameras: camera_map(&splits),
        junk: found.junk,
        distractors: distractors(&splits[3].1),
        queries_without_match: queries_without_match(&splits[2].1, &splits[3].1),
        splits: splits
            .iter()
            .map(|(name, images)| (*name, SplitCounts::of(images)))
            .collect(),
        val_share: options.val_share,
        seed: options.seed,
        resized: options.resize,
        warnings,
    };
    staging.write_json("metadata.json", &metadata)?;
    staging.finish("market1501", progress)?;
    Ok(metadata)
}

fn find(folder: &Path) -> Result<Found, DataError> {
    let missing: Vec<&str> = [TRAIN, QUERY, GALLERY]
        .into_iter()
        .filter(|name| !folder.join(name).is_dir())
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(DataError::Layout {
            path: folder.to_path_buf(),
            found: format!("no folder {missing}: {}", describe(folder)),
            expected: TREE,
        });
    }
    let mut train = list_split(&folder.join(TRAIN))?;
    let mut query = list_split(&folder.join(QUERY))?;
    let mut gallery = list_split(&folder.join(GALLERY))?;
    let gallery_with_junk = gallery.len();
    let before = train.len() + query.len() + gallery.len();
    for images in [&mut train, &mut query, &mut gallery] {
        images.retain(|image| image.name.id != JUNK);
    }
    let junk = before - train.len() - query.len() - gallery.len();
    // Nobody in particular: nothing to learn from, nothing to look for.
    train.retain(|image| image.name.is_person());
    query.retain(|image| image.name.is_person());
    Ok(Found {
        train,
        query,
        gallery,
        junk,
        gallery_with_junk,
    })
}

fn identities(images: &[Image]) -> BTreeSet<i64> {
    let people = images.iter().filter(|image| image.name.is_person());
    people.map(|image| image.name.id).collect()
}

/// In what the folders differ from the published ones.
fn count_problems(found: &Found) -> Vec<String> {
    let train = identities(&found.train);
    let query = identities(&found.query);
    let gallery = identities(&found.gallery);
    let counts = [
        (
            "images in bounding_box_train",
            TRAIN_IMAGES,
            found.train.len(),
        ),
        (
            "people in bounding_box_train",
            TRAIN_IDENTITIES,
            train.len(),
        ),
        ("images in query", QUERY_IMAGES, found.query.len()),
        ("people in query", TEST_IDENTITIES, query.len()),
        (
            "people in bounding_box_test",
            TEST_IDENTITIES,
            gallery.len(),
        ),
    ];
    let mut problems = Vec::new();
    for (what, expected, count) in counts {
        if count != expected {
            problems.push(format!("{what}: {expected} expected, {count} found"));
        }
    }
    let whole = [GALLERY_WITH_JUNK, GALLERY_IMAGES].contains(&found.gallery_with_junk);
    if found.gallery.len() != GALLERY_IMAGES || !whole {
        problems.push(format!(
            "images in bounding_box_test: {GALLERY_IMAGES} expected ({GALLERY_WITH_JUNK} with \
             junk), {} found ({} with junk)",
            found.gallery.len(),
            found.gallery_with_junk
        ));
    }
    let test: BTreeSet<i64> = query.union(&gallery).copied().collect();
    let both = train.intersection(&test).count();
    if both > 0 {
        problems.push(format!("{both} people are in training and in test"));
    }
    problems
}

/// Training and validation images: no person is in both.
fn split(images: &[Image], share: f64, seed: u64) -> (Vec<Image>, Vec<Image>) {
    let people = identities(images);
    let count = (people.len() as f64 * share).round() as usize;
    let chosen = draw(&people, count, seed);
    let all = images.iter().cloned();
    all.partition(|image| !chosen.contains(&image.name.id))
}

type Splits = [(&'static str, Vec<Image>); 4];

/// Decodes every image, so that broken ones are found, and brings it to its split's folder; gives
/// the sums over the training images.
fn place(
    folder: &Path,
    staging: &Staging,
    splits: &Splits,
    options: &Options,
    decode: Decode<'_>,
    progress: &dyn Progress,
) -> Result<PixelSums, DataError> {
    let total: usize = splits.iter().map(|(_, images)| images.len()).sum();
    progress.begin("images read", total as u64);
    let mut sums = PixelSums::default();
    let mut broken = Vec::new();
    for (split, images) in splits {
        let target = staging.place(split)?;
        std::fs::create_dir_all(&target).map_err(DataError::io(&target))?;
        let results = images
            .par_iter()
            .map(|image| {
                let result = place_image(image, &target, options.resize, decode);
                progress.advance();
                result
            })
            .collect::<Result<Vec<_>, DataError>>()?;
        for result in results {
            match result {
                Ok(own) if *split == "train" => sums.add(&own),
                Ok(_) => {}
                Err(problem) => broken.push(problem),
            }
        }
    }
    DataError::none_of(folder, "broken images", broken)?;
    Ok(sums)
}

/// One image to its split's folder; what is wrong with the image itself comes back as words.
fn place_image(
    image: &Image,
    target: &Path,
    resize: Option<(u32, u32)>,
    decode: Decode<'_>,
) -> Result<Result<PixelSums, String>, DataError> {
    let pixels = match decode(&image.path) {
        Ok(pixels) => pixels,
        Err(reason) => return Ok(Err(reason)),
    };
    match resize {
        Some((width, height)) => {
            let path = target.join(format!("{}.jpg", image.name));
            let resized = resize_pil(&pixels, width, height, Filter::Bilinear);
            write_jpeg(&path, &resized)?;
        }
        None => link_or_copy(&image.path, &target.join(file_name(image)))?,
    }
    Ok(Ok(PixelSums::of(&pixels)))
}

fn file_name(image: &Image) -> String {
    let name = image.path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Index from 0 of every camera of the whole data set, in the order of their numbers.
fn camera_map(splits: &Splits) -> BTreeMap<u32, usize> {
    let images = splits.iter().flat_map(|(_, images)| images);
    let numbers: BTreeSet<u32> = images.map(|image| image.name.camera).collect();
    numbers.into_iter().zip(0..).collect()
}

fn distractors(gallery: &[Image]) -> usize {
    let distractors = gallery.iter().filter(|image| image.name.id == DISTRACTOR);
    distractors.count()
}

fn queries_without_match(query: &[Image], gallery: &[Image]) -> usize {
    let mut places: BTreeMap<i64, BTreeSet<u32>> = BTreeMap::new();
    for image in gallery {
        let cameras = places.entry(image.name.id).or_default();
        cameras.insert(image.name.camera);
    }
    let lonely = query.iter().filter(|image| {
        let cameras = places.get(&image.name.id);
        !cameras.is_some_and(|cameras| cameras.iter().any(|c| *c != image.name.camera))
    });
    lonely.count()
}

/// `train_labels.csv`, `val_labels.csv` and, for training on everybody, `trainval_labels.csv`. A
/// label counts the people of its file from 0.
fn write_labels(staging: &Staging, splits: &[(&'static str, Vec<Image>)]) -> Result<(), DataError> {
    for (split, images) in splits {
        write_csv(staging, split, &[(*split, images)])?;
    }
    let all: Vec<_> = splits
        .iter()
        .map(|(split, images)| (*split, images))
        .collect();
    write_csv(staging, "trainval", &all)
}

fn write_csv(
    staging: &Staging,
    name: &str,
    splits: &[(&'static str, &Vec<Image>)],
) -> Result<(), DataError> {
    let mut people = BTreeSet::new();
    for (_, images) in splits {
        people.extend(identities(images));
    }
    let labels: BTreeMap<i64, usize> = people.into_iter().zip(0..).collect();
    let mut text = "file,person_id,label,camera,sequence,frame\n".to_string();
    for (split, images) in splits {
        for image in *images {
            let label = labels.get(&image.name.id).copied().unwrap_or_default();
            let super::ImageName {
                id,
                camera,
                sequence,
                frame,
                ..
            } = image.name;
            let file = file_name(image);
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "{split}/{file},{id},{label},{camera},{sequence},{frame}"
            );
        }
    }
    let path = staging.place(format!("{name}_labels.csv"))?;
    std::fs::write(&path, text).map_err(DataError::io(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> Image {
        Image {
            path: name.into(),
            name: name.parse().unwrap(),
        }
    }

    #[test]
    fn a_split_separates_people_and_depends_on_the_seed_alone() {
        let mut images = Vec::new();
        for id in 1..=751 {
            for frame in 0..3 {
                images.push(image(&format!("{id:04}_c1s1_{frame:06}_01.jpg")));
            }
        }
        let (train, val) = split(&images, 0.2, 7);
        let (people, others) = (identities(&train), identities(&val));
        // 751 · 0.2 = 150.2
        assert_eq!((people.len(), others.len()), (601, 150));
        assert!(people.is_disjoint(&others));
        assert_eq!(train.len() + val.len(), images.len());
        images.reverse();
        let (_, again) = split(&images, 0.2, 7);
        assert_eq!(identities(&again), others);
        assert_ne!(identities(&split(&images, 0.2, 8).1), others);
        assert_eq!(split(&images, 0.0, 7).1, []);
    }

    /// A data set of the published size: images dealt out to people in turn.
    fn published() -> Found {
        let deal = |count: usize, first: usize, people: usize| -> Vec<Image> {
            (0..count)
                .map(|n| image(&format!("{:04}_c1s1_{n:06}_01.jpg", first + n % people)))
                .collect()
        };
        let mut gallery = deal(GALLERY_IMAGES - 2798, 752, TEST_IDENTITIES);
        let distractor = image("0000_c1s1_000001_01.jpg");
        gallery.extend(std::iter::repeat_n(distractor, 2798));
        Found {
            train: deal(TRAIN_IMAGES, 1, TRAIN_IDENTITIES),
            query: deal(QUERY_IMAGES, 752, TEST_IDENTITIES),
            gallery,
            junk: 3819,
            gallery_with_junk: GALLERY_WITH_JUNK,
        }
    }

    // 12,936 · 4/5 = 10,349: the document's ~10,350 and ~2,586.
    #[test]
    fn the_published_size_is_accepted_with_and_without_junk() {
        let mut found = published();
        assert_eq!(count_problems(&found), [""; 0]);
        found.gallery_with_junk = GALLERY_IMAGES;
        assert_eq!(count_problems(&found), [""; 0]);
        let (train, val) = split(&found.train, 0.2, 0);
        assert!(train.len().abs_diff(10_350) < 20, "{}", train.len());
        assert!(val.len().abs_diff(2_586) < 20, "{}", val.len());
    }

    #[test]
    fn other_sizes_are_told() {
        let mut found = published();
        found.query.pop();
        found.gallery_with_junk -= 1;
        found.train[0] = image("0752_c1s1_000000_01.jpg");
        let problems = count_problems(&found);
        for part in [
            "query: 3368 expected, 3367 found",
            "people in bounding_box_train: 751 expected, 752 found",
            "15913 found (19731 with junk)",
            "1 people are in training and in test",
        ] {
            assert!(
                problems.iter().any(|p| p.contains(part)),
                "{part}: {problems:?}"
            );
        }
    }

    #[test]
    fn queries_need_their_person_in_another_camera() {
        let query = [
            image("0001_c1s1_000001_00.jpg"),
            image("0002_c1s1_000001_00.jpg"),
            image("0003_c1s1_000001_00.jpg"),
        ];
        let gallery = [
            image("0001_c2s1_000001_01.jpg"),
            image("0002_c1s1_000009_01.jpg"),
            image("0000_c2s1_000001_01.jpg"),
        ];
        assert_eq!(queries_without_match(&query, &gallery), 2);
        assert_eq!(distractors(&gallery), 1);
    }
}
