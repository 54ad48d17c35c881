//! A small re-ID set out of one video whose truth is known.
//!
//! The video's time is cut into spans of equal length that stand for cameras; of every person a few
//! boxes a span are chosen, evenly in time, among those where enough of the person can be seen.
//! They get Market-1501's names and folders. Between two spans some frames are left out, since a
//! person looks the same just before and after the cut. One camera's light, height and background
//! make such a set easier than one of real cameras: it tells whether an encoder works, not how well
//! it does elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use mtmc_models::BBox;

use super::DataError;
use super::draw::draw;
use super::market1501::{GALLERY, ImageName, QUERY, TRAIN};
use super::mot::{PEDESTRIAN, TruthBox};

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Spans of time that stand for cameras, from 2.
    pub cameras: u32,
    /// Most crops of a person in a span.
    pub per_camera: usize,
    /// Frames left out between two spans.
    pub gap: u64,
    /// Least visible share of a box, 0..=1.
    pub min_visibility: f64,
    /// Least width of a box in pixels.
    pub min_width: f64,
    /// Least height of a box in pixels.
    pub min_height: f64,
    /// How many people are for training; the others are queries and gallery.
    pub train_ids: usize,
    /// Decides who they are.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cameras: 6,
            per_camera: 4,
            gap: 14,
            min_visibility: 0.7,
            min_width: 12.0,
            min_height: 32.0,
            train_ids: 0,
            seed: 0,
        }
    }
}

/// One crop that is to be cut.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedCrop {
    /// Frame of the video, from 1.
    pub frame: u64,
    /// The box in pixels of the frame; it may reach beyond its edges.
    pub bbox: BBox,
    /// Folder of the split.
    pub folder: &'static str,
    /// Name in that folder.
    pub name: ImageName,
}

impl PlannedCrop {
    /// Path from the data set's folder.
    pub fn path(&self) -> String {
        format!("{}/{}.jpg", self.folder, self.name)
    }
}

/// Chooses the crops of a video with frames of `width` × `height` pixels, sorted by frame.
///
/// Where the truth does not state how much of a person can be seen, it is estimated: whoever
/// stands lower in the picture is nearer and hides what is behind the own box.
///
/// # Errors
/// A setting is out of its range, an identity cannot be written in Market-1501's names, or nobody
/// is seen well enough in two spans.
pub fn plan(
    truth: &[TruthBox],
    width: u32,
    height: u32,
    settings: &Settings,
) -> Result<Vec<PlannedCrop>, DataError> {
    check(settings)?;
    let candidates = candidates(truth, width, height, settings)?;
    let people: BTreeSet<i64> = candidates.keys().map(|(id, _)| *id).collect();
    let train = draw(&people, settings.train_ids, settings.seed);
    let mut crops = Vec::new();
    for id in people {
        let cameras: Vec<(u32, Vec<&TruthBox>)> = candidates
            .range((id, 0)..=(id, u32::MAX))
            .map(|((_, camera), boxes)| (*camera, evenly(boxes, settings.per_camera)))
            .collect();
        let is_query = !train.contains(&id) && cameras.len() > 1;
        for (camera, boxes) in cameras {
            // One of several: a single one stays in the gallery for the other cameras' queries.
            let query = (is_query && boxes.len() > 1).then_some(boxes.len() / 2);
            for (index, found) in boxes.into_iter().enumerate() {
                let folder = match query {
                    _ if train.contains(&id) => TRAIN,
                    Some(query) if query == index => QUERY,
                    _ => GALLERY,
                };
                crops.push(crop(found, camera, index, folder)?);
            }
        }
    }
    if !crops.iter().any(|crop| crop.folder == QUERY) {
        return Err(DataError::Setting(
            "nobody is seen well enough in two of the cameras, so that there is no query: take \
             fewer cameras, or less visibility, height or width"
                .to_string(),
        ));
    }
    crops.sort_by(|a, b| (a.frame, a.name).cmp(&(b.frame, b.name)));
    Ok(crops)
}

fn check(settings: &Settings) -> Result<(), DataError> {
    let wrong = |what: &str| Err(DataError::Setting(what.to_string()));
    if settings.cameras < 2 {
        return wrong("at least 2 cameras are needed: a person is looked for in another one");
    }
    if settings.per_camera < 2 {
        return wrong("at least 2 crops a camera are needed: one is the query");
    }
    if !(0.0..=1.0).contains(&settings.min_visibility) {
        return wrong("the least visibility must be within 0..=1");
    }
    if !(settings.min_width >= 1.0 && settings.min_height >= 1.0) {
        return wrong("the least width and height must be at least 1 pixel");
    }
    Ok(())
}

/// The boxes that may be cut, by person and camera, in the order of their frames.
fn candidates<'a>(
    truth: &'a [TruthBox],
    width: u32,
    height: u32,
    settings: &Settings,
) -> Result<BTreeMap<(i64, u32), Vec<&'a TruthBox>>, DataError> {
    let frames = truth.iter().map(|found| found.frame).max().unwrap_or(0);
    if frames < u64::from(settings.cameras) {
        return Err(DataError::Setting(format!(
            "{frames} frames cannot be split into {} cameras",
            settings.cameras
        )));
    }
    let mut by_frame: BTreeMap<u64, Vec<&TruthBox>> = BTreeMap::new();
    for found in truth {
        by_frame.entry(found.frame).or_default().push(found);
    }
    let mut candidates: BTreeMap<(i64, u32), Vec<&TruthBox>> = BTreeMap::new();
    for (frame, boxes) in by_frame {
        let Some(camera) = camera_of(frame, frames, settings) else {
            continue;
        };
        for found in &boxes {
            let [_, _, box_width, box_height] = found.tlwh;
            let large = box_width >= settings.min_width && box_height >= settings.min_height;
            if !found.consider || found.class != PEDESTRIAN || !large {
                continue;
            }
            if visibility(found, &boxes, width, height) >= settings.min_visibility {
                candidates
                    .entry((found.id, camera))
                    .or_default()
                    .push(found);
            }
        }
    }
    Ok(candidates)
}

/// The camera, from 1, whose span holds `frame`; `None` in the gap at a span's start.
fn camera_of(frame: u64, frames: u64, settings: &Settings) -> Option<u32> {
    let cameras = u64::from(settings.cameras);
    let index = (frame - 1) * cameras / frames;
    // The first frame, from 0, whose index is this one.
    let start = (index * frames).div_ceil(cameras);
    let in_gap = index > 0 && frame - 1 - start < settings.gap;
    (!in_gap).then_some(index as u32 + 1)
}

/// How much of a person can be seen: what the truth states, and never more than what is inside the
/// frame.
fn visibility(found: &TruthBox, all: &[&TruthBox], width: u32, height: u32) -> f64 {
    let own = corners(&found.tlwh);
    let frame = [0.0, 0.0, f64::from(width), f64::from(height)];
    let whole = area(&own);
    let Some(inside) = intersection(&own, &frame) else {
        return 0.0;
    };
    if let Some(stated) = found.visibility {
        return stated.min(area(&inside) / whole);
    }
    let mut hidden = Vec::new();
    for other in all {
        let theirs = corners(&other.tlwh);
        let nearer = (theirs[3], other.id) > (own[3], found.id);
        if nearer {
            hidden.extend(intersection(&inside, &theirs));
        }
    }
    (area(&inside) - union_area(&hidden)) / whole
}

fn corners(tlwh: &[f64; 4]) -> [f64; 4] {
    [tlwh[0], tlwh[1], tlwh[0] + tlwh[2], tlwh[1] + tlwh[3]]
}

fn area(corners: &[f64; 4]) -> f64 {
    (corners[2] - corners[0]) * (corners[3] - corners[1])
}

fn intersection(a: &[f64; 4], b: &[f64; 4]) -> Option<[f64; 4]> {
    let both = [
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ];
    (both[0] < both[2] && both[1] < both[3]).then_some(both)
}

/// Area that rectangles cover together: strip by strip between their vertical edges.
fn union_area(rectangles: &[[f64; 4]]) -> f64 {
    let mut edges: Vec<f64> = rectangles.iter().flat_map(|r| [r[0], r[2]]).collect();
    edges.sort_by(f64::total_cmp);
    let mut sorted = rectangles.to_vec();
    sorted.sort_by(|a, b| a[1].total_cmp(&b[1]));
    let mut total = 0.0;
    for strip in edges.windows(2) {
        let (left, right) = (strip[0], strip[1]);
        let mut covered = 0.0;
        let mut reached = f64::NEG_INFINITY;
        for r in sorted.iter().filter(|r| r[0] <= left && r[2] >= right) {
            covered += (r[3] - r[1].max(reached)).max(0.0);
            reached = reached.max(r[3]);
        }
        total += covered * (right - left);
    }
    total
}

/// At most `count` of `boxes`, from the middles of as many equal parts.
fn evenly<'a>(boxes: &[&'a TruthBox], count: usize) -> Vec<&'a TruthBox> {
    let count = count.min(boxes.len());
    let middles = (0..count).map(|part| (2 * part + 1) * boxes.len() / (2 * count));
    middles
        .filter_map(|index| boxes.get(index).copied())
        .collect()
}

fn crop(
    found: &TruthBox,
    camera: u32,
    index: usize,
    folder: &'static str,
) -> Result<PlannedCrop, DataError> {
    if found.id < 1 {
        return Err(DataError::Setting(format!(
            "identity {}: Market-1501's names have people from 1 (0 is a distractor)",
            found.id
        )));
    }
    let [left, top, width, height] = found.tlwh.map(|value| value as f32);
    Ok(PlannedCrop {
        frame: found.frame,
        bbox: BBox::from_tlwh(left, top, width, height),
        folder,
        name: ImageName {
            id: found.id,
            camera,
            sequence: 1,
            frame: u32::try_from(found.frame).unwrap_or(u32::MAX),
            bbox: index as u32,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(frame: u64, id: i64, tlwh: [f64; 4]) -> TruthBox {
        TruthBox {
            frame,
            id,
            tlwh,
            consider: true,
            class: PEDESTRIAN,
            visibility: None,
        }
    }

    /// People 1 to 3 side by side in 60 frames; person 3 only in the first 20.
    fn truth() -> Vec<TruthBox> {
        let mut truth = Vec::new();
        for frame in 1..=60 {
            for id in 1..=3 {
                if id < 3 || frame <= 20 {
                    truth.push(person(frame, id, [50.0 * id as f64, 10.0, 20.0, 60.0]));
                }
            }
        }
        truth
    }

    fn settings() -> Settings {
        Settings {
            cameras: 3,
            gap: 5,
            ..Settings::default()
        }
    }

    fn count(crops: &[PlannedCrop], folder: &str, id: i64) -> usize {
        let own = crops
            .iter()
            .filter(|c| c.folder == folder && c.name.id == id);
        own.count()
    }

    // By hand: 3 spans of 20 frames, 4 crops each, one of them the query; person 3 is in one span
    // only and cannot be looked for elsewhere.
    #[test]
    fn every_camera_has_its_query_and_its_gallery() {
        let crops = plan(&truth(), 300, 100, &settings()).unwrap();
        for id in [1, 2] {
            assert_eq!(
                (count(&crops, QUERY, id), count(&crops, GALLERY, id)),
                (3, 9)
            );
        }
        assert_eq!((count(&crops, QUERY, 3), count(&crops, GALLERY, 3)), (0, 4));
        let frames = |camera: u32| -> Vec<u64> {
            let own = crops
                .iter()
                .filter(|c| c.name.id == 1 && c.name.camera == camera);
            own.map(|crop| crop.frame).collect()
        };
        // Middles of 4 parts of frames 1..=20, and of 26..=40 behind the gap.
        assert_eq!(frames(1), [3, 8, 13, 18]);
        assert_eq!(frames(2), [27, 31, 35, 39]);
        let names: BTreeSet<String> = crops.iter().map(PlannedCrop::path).collect();
        assert_eq!(names.len(), crops.len());
        assert!(names.contains("query/0001_c1s1_000013_02.jpg"), "{names:?}");
    }

    #[test]
    fn training_people_are_nowhere_else() {
        let all = Settings {
            train_ids: 1,
            min_visibility: 0.0,
            ..settings()
        };
        let crops = plan(&truth(), 300, 100, &all).unwrap();
        let train: BTreeSet<i64> = crops
            .iter()
            .filter(|crop| crop.folder == TRAIN)
            .map(|crop| crop.name.id)
            .collect();
        assert_eq!(train.len(), 1);
        let others = crops.iter().filter(|crop| crop.folder != TRAIN);
        assert!(others.clone().count() > 0);
        assert!(others.clone().all(|crop| !train.contains(&crop.name.id)));
    }

    // By hand: a box of 20×60 = 1200.
    #[test]
    fn whoever_is_nearer_hides_what_is_behind() {
        let own = person(1, 1, [0.0, 0.0, 20.0, 60.0]);
        let near = person(1, 2, [10.0, 30.0, 20.0, 60.0]); // hides 10×30
        let nearer = person(1, 3, [0.0, 30.0, 15.0, 90.0]); // hides 15×30, 5×30 of it again
        let far = person(1, 4, [0.0, 0.0, 20.0, 50.0]);
        let all = [&own, &near, &nearer, &far];
        let seen = |others: &[&TruthBox]| visibility(&own, others, 100, 200);
        assert!((seen(&all[..1]) - 1.0).abs() < 1e-12);
        assert!((seen(&all[..2]) - (1.0 - 300.0 / 1200.0)).abs() < 1e-12);
        assert!((seen(&all) - (1.0 - 600.0 / 1200.0)).abs() < 1e-12);
        // Half of it inside the frame.
        assert!((visibility(&own, &[], 10, 200) - 0.5).abs() < 1e-12);
        let stated = TruthBox {
            visibility: Some(0.3),
            ..own
        };
        assert!((visibility(&stated, &all, 100, 200) - 0.3).abs() < 1e-12);
        assert!(visibility(&person(1, 1, [-30.0, 0.0, 20.0, 60.0]), &[], 100, 200) == 0.0);
    }

    #[test]
    fn hidden_small_and_ignored_boxes_are_left_out() {
        let mut boxes = truth();
        for found in &mut boxes {
            match (found.id, found.frame) {
                (1, 1..=20) => found.consider = false,
                (1, 21..=40) => found.tlwh[3] = 20.0,
                (2, 41..) => found.class = 7,
                _ => {}
            }
        }
        let crops = plan(&boxes, 300, 100, &settings()).unwrap();
        assert!(
            crops
                .iter()
                .all(|crop| crop.name.id != 1 || crop.name.camera == 3)
        );
        assert!(
            crops
                .iter()
                .all(|crop| crop.name.id != 2 || crop.name.camera < 3)
        );
        assert_eq!(count(&crops, QUERY, 1), 0);
    }

    #[test]
    fn settings_and_truths_without_a_query_are_refused() {
        let one = Settings {
            cameras: 1,
            ..settings()
        };
        assert!(plan(&truth(), 300, 100, &one).is_err());
        let nan = Settings {
            min_visibility: f64::NAN,
            ..settings()
        };
        assert!(plan(&truth(), 300, 100, &nan).is_err());
        assert!(plan(&[], 300, 100, &settings()).is_err());
        let once: Vec<TruthBox> = truth().into_iter().filter(|b| b.frame <= 3).collect();
        let error = plan(&once, 300, 100, &settings()).unwrap_err().to_string();
        assert!(error.contains("two of the cameras"), "{error}");
    }
}
