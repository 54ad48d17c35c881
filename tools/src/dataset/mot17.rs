//! MOT17 (Milan et al., arXiv:1603.00831; <https://motchallenge.net/data/MOT17/>) for training and
//! evaluation: COCO annotations, splits, metadata.
//!
//! Of the three copies of every sequence, which differ in their detections alone, the one with
//! Faster R-CNN's is taken. Two splits are written: by sequence (`train`, `val`: sequences 11 and
//! 13) and by halves of every sequence (`train_half`, `val_half`), cut where ByteTrack's published
//! preparation cuts: the first half has the middle frame.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::coco::{Annotation, Coco, Image, Info, Video, pedestrian};
use super::folder::{Staging, describe, link_or_copy, names};
use super::mot::{PEDESTRIAN, SequenceInfo, TruthBox, TruthFormat, read_truth};
use super::{DataError, Progress};

/// The sequences with truth, and how many frames each has.
const PUBLISHED: [(&str, u64); 7] = [
    ("MOT17-02-FRCNN", 600),
    ("MOT17-04-FRCNN", 1050),
    ("MOT17-05-FRCNN", 837),
    ("MOT17-09-FRCNN", 525),
    ("MOT17-10-FRCNN", 654),
    ("MOT17-11-FRCNN", 900),
    ("MOT17-13-FRCNN", 750),
];

/// The sequences of the validation split.
const VALIDATION: [&str; 2] = ["MOT17-11-FRCNN", "MOT17-13-FRCNN"];

/// Which copy of a sequence is taken.
const DETECTOR: &str = "-FRCNN";

const TREE: &str = "\
  MOT17/
    train/
      MOT17-02-FRCNN/   and 04, 05, 09, 10, 11, 13 (copies -DPM and -SDP are not needed)
        seqinfo.ini
        gt/gt.txt
        img1/000001.jpg …";

/// How to prepare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on with a warning where sequences are missing or of another length.
    pub allow_incomplete: bool,
    /// Write annotations alone, and ask for no images.
    pub without_images: bool,
}

/// What was prepared: also the content of `annotations/metadata.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metadata {
    /// `mot17`.
    pub data_set: &'static str,
    /// Counts of every annotation file.
    pub splits: BTreeMap<&'static str, SplitCounts>,
    /// The sequences.
    pub sequences: Vec<SequenceCounts>,
    /// In what the data set differs from the published one.
    pub warnings: Vec<String>,
}

/// Counts of one annotation file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SplitCounts {
    /// Frames.
    pub images: u64,
    /// Boxes.
    pub boxes: u64,
    /// Identities with a box.
    pub tracks: u64,
    /// The sequences.
    pub sequences: Vec<String>,
}

/// Counts of one sequence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SequenceCounts {
    /// Its name.
    pub name: String,
    /// `train` or `val`.
    pub split: &'static str,
    /// Frames.
    pub frames: u64,
    /// Frames of the first half.
    pub frames_in_first_half: u64,
    /// Frames a second.
    pub frame_rate: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pedestrians' boxes that were written.
    pub boxes: u64,
    /// Those among them that do not count.
    pub ignored_boxes: u64,
    /// Identities.
    pub tracks: u64,
    /// Mean visibility of the boxes, 0..=1.
    pub mean_visibility: f64,
    /// Boxes that reached beyond the frame and were cut there.
    pub boxes_cut: u64,
    /// Pedestrians' boxes entirely outside the frame, left out.
    pub boxes_outside: u64,
    /// Boxes of other classes, left out, by class.
    pub other_classes: BTreeMap<i64, u64>,
}

/// One sequence as it was found.
struct Sequence {
    folder: PathBuf,
    info: SequenceInfo,
    truth: Vec<TruthBox>,
}

impl Sequence {
    fn split(&self) -> &'static str {
        if VALIDATION.contains(&self.info.name.as_str()) {
            "val"
        } else {
            "train"
        }
    }

    /// How many frames the first half has.
    fn first_half(&self) -> u64 {
        (self.info.frames / 2 + 1).min(self.info.frames)
    }

    /// The folder of its images in the prepared data set, from the folder of all images.
    fn image_folder(&self) -> String {
        format!("{}/{}", self.split(), self.info.name)
    }
}

/// Prepares the MOT17 in `folder` (`MOT17` or its `train`) as the new folder `out`:
/// `annotations/{train,val,train_half,val_half,metadata}.json`, `images/{train,val}/SEQUENCE/` and
/// the manifest.
///
/// # Errors
/// `folder` is not laid out so; sequences are missing or of another length than published (unless
/// that is allowed); a file is damaged; images are missing (all of them are told); `out` holds
/// something already or cannot be written.
pub fn prepare(
    folder: &Path,
    out: &Path,
    options: Options,
    progress: &dyn Progress,
) -> Result<Metadata, DataError> {
    let staging = Staging::begin(out)?;
    let train = train_folder(folder)?;
    let sequences = read_sequences(&train)?;
    let warnings = count_problems(&sequences);
    if !warnings.is_empty() && !options.allow_incomplete {
        return Err(DataError::Counts {
            path: train,
            problems: warnings,
        });
    }
    if !options.without_images {
        check_images(&train, &sequences)?;
        place_images(&staging, &sequences, progress)?;
    }
    let metadata = annotate(&staging, &sequences, warnings)?;
    staging.finish("mot17", progress)?;
    Ok(metadata)
}

/// The folder with the sequences: `folder/train` or `folder` itself.
fn train_folder(folder: &Path) -> Result<PathBuf, DataError> {
    let with_sequences = |folder: &Path| {
        let names = names(folder).unwrap_or_default();
        names.iter().any(|name| name.ends_with(DETECTOR))
    };
    for candidate in [folder.join("train"), folder.to_path_buf()] {
        if with_sequences(&candidate) {
            return Ok(candidate);
        }
    }
    Err(DataError::Layout {
        path: folder.to_path_buf(),
        found: format!("no MOT17 here: {}", describe(folder)),
        expected: TREE,
    })
}

/// All FRCNN sequences of `train`, by name.
fn read_sequences(train: &Path) -> Result<Vec<Sequence>, DataError> {
    let names = names(train)?;
    let mut incomplete = Vec::new();
    let mut complete = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(DETECTOR)) {
        let folder = train.join(name);
        let missing = ["seqinfo.ini", "gt/gt.txt"]
            .into_iter()
            .filter(|file| !folder.join(file).is_file());
        let before = incomplete.len();
        incomplete.extend(missing.map(|file| format!("{name}/{file}")));
        if incomplete.len() == before {
            complete.push((name, folder));
        }
    }
    if !incomplete.is_empty() {
        return Err(DataError::Layout {
            path: train.to_path_buf(),
            found: format!("missing are {}", incomplete.join(", ")),
            expected: TREE,
        });
    }
    let mut sequences = Vec::new();
    for (name, folder) in complete {
        let info_path = folder.join("seqinfo.ini");
        let info = SequenceInfo::read(&info_path)?;
        if info.name != *name {
            let reason = format!("name={} in the folder {name}", info.name);
            return Err(DataError::file(&info_path, reason));
        }
        let truth_path = folder.join("gt/gt.txt");
        let truth = read_truth(&truth_path, TruthFormat::Mot17)?;
        let last = truth.iter().map(|found| found.frame).max().unwrap_or(0);
        if last > info.frames {
            let reason = format!(
                "a box in frame {last}, but seqinfo.ini says seqLength={}",
                info.frames
            );
            return Err(DataError::file(&truth_path, reason));
        }
        sequences.push(Sequence {
            folder,
            info,
            truth,
        });
    }
    Ok(sequences)
}

/// In what the sequences differ from the published ones.
fn count_problems(sequences: &[Sequence]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, frames) in PUBLISHED {
        match sequences.iter().find(|sequence| sequence.info.name == name) {
            None => problems.push(format!("{name}: missing ({frames} frames)")),
            Some(sequence) if sequence.info.frames != frames => {
                let found = sequence.info.frames;
                problems.push(format!("{name}: {frames} frames expected, {found} found"));
            }
            Some(_) => {}
        }
    }
    for sequence in sequences {
        let name = &sequence.info.name;
        if !PUBLISHED.iter().any(|(known, _)| known == name) {
            problems.push(format!("{name}: not one of MOT17's training sequences"));
        }
    }
    problems
}

/// Compares the images that are there with those that `seqinfo.ini` promises.
fn check_images(train: &Path, sequences: &[Sequence]) -> Result<(), DataError> {
    let mut problems = Vec::new();
    for sequence in sequences {
        let info = &sequence.info;
        let folder = sequence.folder.join(&info.image_folder);
        let place = format!("{}/{}", info.name, info.image_folder);
        let found: BTreeSet<String> = match names(&folder) {
            Ok(names) => names.into_iter().collect(),
            Err(_) => {
                problems.push(format!("{place}: no such folder"));
                continue;
            }
        };
        let wanted: BTreeSet<String> = (1..=info.frames).map(|n| info.image_name(n)).collect();
        for name in wanted.difference(&found) {
            problems.push(format!("{place}/{name}: missing"));
        }
        for name in found.difference(&wanted) {
            if name.ends_with(&info.image_ending) {
                let frames = info.frames;
                problems.push(format!("{place}/{name}: beyond seqLength={frames}"));
            }
        }
        for name in wanted.intersection(&found) {
            if std::fs::metadata(folder.join(name)).is_ok_and(|data| data.len() == 0) {
                problems.push(format!("{place}/{name}: empty"));
            }
        }
    }
    DataError::none_of(train, "missing or wrong images", problems)
}

fn place_images(
    staging: &Staging,
    sequences: &[Sequence],
    progress: &dyn Progress,
) -> Result<(), DataError> {
    let frames = sequences.iter().map(|sequence| sequence.info.frames).sum();
    progress.begin("images linked", frames);
    for sequence in sequences {
        let info = &sequence.info;
        let from = sequence.folder.join(&info.image_folder);
        let to = format!("images/{}", sequence.image_folder());
        let to = staging.place(to)?;
        std::fs::create_dir_all(&to).map_err(DataError::io(&to))?;
        (1..=info.frames).into_par_iter().try_for_each(|number| {
            let name = info.image_name(number);
            link_or_copy(&from.join(&name), &to.join(&name))?;
            progress.advance();
            Ok::<(), DataError>(())
        })?;
    }
    Ok(())
}

/// The annotation files being made, and where the counting of images and boxes stands.
struct Writer {
    files: BTreeMap<&'static str, (Coco, SplitCounts)>,
    images: u64,
    boxes: u64,
    tracks: u64,
}

/// The annotation files.
const SPLITS: [&str; 4] = ["train", "val", "train_half", "val_half"];

fn annotate(
    staging: &Staging,
    sequences: &[Sequence],
    warnings: Vec<String>,
) -> Result<Metadata, DataError> {
    let empty = |split: &'static str| {
        let coco = Coco {
            info: Info {
                description: format!("MOT17 {split}"),
            },
            categories: pedestrian(),
            ..Coco::default()
        };
        (split, (coco, SplitCounts::default()))
    };
    let mut writer = Writer {
        files: SPLITS.into_iter().map(empty).collect(),
        images: 0,
        boxes: 0,
        tracks: 0,
    };
    let mut counts = Vec::new();
    for (number, sequence) in (1..).zip(sequences) {
        counts.push(writer.add(number, sequence));
    }
    let mut splits = BTreeMap::new();
    for (split, (coco, split_counts)) in writer.files {
        staging.write_json(&format!("annotations/{split}.json"), &coco)?;
        splits.insert(split, split_counts);
    }
    let metadata = Metadata {
        data_set: "mot17",
        splits,
        sequences: counts,
        warnings,
    };
    staging.write_json("annotations/metadata.json", &metadata)?;
    Ok(metadata)
}

impl Writer {
    /// Adds a sequence to the files of its splits.
    fn add(&mut self, video_id: u64, sequence: &Sequence) -> SequenceCounts {
        let info = &sequence.info;
        let mut counts = SequenceCounts {
            name: info.name.clone(),
            split: sequence.split(),
            frames: info.frames,
            frames_in_first_half: sequence.first_half(),
            frame_rate: info.frame_rate,
            width: info.width,
            height: info.height,
            boxes: 0,
            ignored_boxes: 0,
            tracks: 0,
            mean_visibility: 0.0,
            boxes_cut: 0,
            boxes_outside: 0,
            other_classes: BTreeMap::new(),
        };
        let annotations = self.annotations(sequence, &mut counts);
        let halves = if sequence.first_half() < info.frames {
            vec![
                ("train_half", 1, sequence.first_half()),
                ("val_half", sequence.first_half() + 1, info.frames),
            ]
        } else {
            vec![("train_half", 1, info.frames)]
        };
        let whole = (sequence.split(), 1, info.frames);
        for (split, first, last) in std::iter::once(whole).chain(halves) {
            // All of `SPLITS` are there.
            let Some((coco, split_counts)) = self.files.get_mut(split) else {
                continue;
            };
            coco.videos.push(Video {
                id: video_id,
                file_name: info.name.clone(),
                frame_rate: info.frame_rate,
            });
            for frame in first..=last {
                coco.images.push(Image {
                    id: self.images + frame,
                    file_name: format!("{}/{}", sequence.image_folder(), info.image_name(frame)),
                    width: info.width,
                    height: info.height,
                    video_id,
                    frame_id: frame,
                });
            }
            let within = (self.images + first)..=(self.images + last);
            let before = coco.annotations.len();
            let boxes = annotations.iter().filter(|a| within.contains(&a.image_id));
            coco.annotations.extend(boxes.cloned());
            let added = &coco.annotations[before..];
            let tracks: BTreeSet<u64> = added.iter().map(|a| a.track_id).collect();
            split_counts.images += last + 1 - first;
            split_counts.boxes += added.len() as u64;
            split_counts.tracks += tracks.len() as u64;
            split_counts.sequences.push(info.name.clone());
        }
        self.images += info.frames;
        counts
    }

    /// The pedestrians of a sequence, by frame and identity.
    fn annotations(&mut self, sequence: &Sequence, counts: &mut SequenceCounts) -> Vec<Annotation> {
        let info = &sequence.info;
        let mut truth = sequence.truth.clone();
        truth.sort_by_key(|found| (found.frame, found.id));
        let mut tracks = HashMap::new();
        let mut annotations = Vec::new();
        let mut visibility_sum = 0.0;
        for found in &truth {
            if found.class != PEDESTRIAN {
                *counts.other_classes.entry(found.class).or_default() += 1;
                continue;
            }
            let Some(bbox) = clip(&found.tlwh, info.width, info.height) else {
                counts.boxes_outside += 1;
                continue;
            };
            if bbox != found.tlwh {
                counts.boxes_cut += 1;
            }
            if !found.consider {
                counts.ignored_boxes += 1;
            }
            let visibility = found.visibility.unwrap_or(1.0);
            visibility_sum += visibility;
            self.boxes += 1;
            let next = self.tracks + tracks.len() as u64 + 1;
            annotations.push(Annotation {
                id: self.boxes,
                image_id: self.images + found.frame,
                category_id: 1,
                bbox,
                area: bbox[2] * bbox[3],
                iscrowd: u8::from(!found.consider),
                track_id: *tracks.entry(found.id).or_insert(next),
                mot_id: found.id,
                consider: found.consider,
                visibility,
            });
        }
        counts.boxes = annotations.len() as u64;
        counts.tracks = tracks.len() as u64;
        counts.mean_visibility = visibility_sum / counts.boxes.max(1) as f64;
        self.tracks += counts.tracks;
        annotations
    }
}

/// The part of a box inside the frame, if there is one; the box itself, to the last bit, if all
/// of it is.
fn clip(tlwh: &[f64; 4], width: u32, height: u32) -> Option<[f64; 4]> {
    let [left, top, box_width, box_height] = *tlwh;
    let (right, bottom) = (left + box_width, top + box_height);
    let (width, height) = (f64::from(width), f64::from(height));
    if left >= 0.0 && top >= 0.0 && right <= width && bottom <= height {
        return Some(*tlwh);
    }
    let (x1, y1) = (left.max(0.0), top.max(0.0));
    let (x2, y2) = (right.min(width), bottom.min(height));
    (x2 > x1 && y2 > y1).then_some([x1, y1, x2 - x1, y2 - y1])
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand.
    #[test]
    fn boxes_are_cut_at_the_frame() {
        let inside = [0.1, 0.2, 9.7, 5.3];
        assert_eq!(clip(&inside, 10, 8), Some(inside));
        assert_eq!(
            clip(&[-2.0, -1.0, 5.0, 20.0], 10, 8),
            Some([0.0, 0.0, 3.0, 8.0])
        );
        assert_eq!(clip(&[10.0, 0.0, 5.0, 5.0], 10, 8), None);
        assert_eq!(clip(&[-5.0, 0.0, 5.0, 5.0], 10, 8), None);
    }

    #[test]
    fn published_counts_add_up() {
        let all: u64 = PUBLISHED.iter().map(|(_, frames)| frames).sum();
        let validation = PUBLISHED
            .iter()
            .filter(|(name, _)| VALIDATION.contains(name));
        assert_eq!(all, 5316);
        assert_eq!(validation.map(|(_, frames)| frames).sum::<u64>(), 1650);
    }
}
