//! A small re-ID set out of one video whose truth is known.
//!
//! The video's time is cut into spans of equal length that stand for cameras; of every person a few
//! boxes a span are chosen, evenly in time, among those where enough of the person can be seen.
//! They get Market-1501's names and folders. Between two spans some frames are left out, since a
//! person looks the same just before and after the cut. One camera's light, height and background
//! make such a set easier than one of real cameras: it tells whether an encoder works, not how well
//! it does elsewhere.
//!
//! A tracking truth has two faults for this use, which only somebody who looks at the pictures can
//! make good: who leaves and comes back may have a new identity ([`Settings::same`]), and the scene
//! itself hides people ([`Settings::hiding`]).

use std::collections::{BTreeMap, BTreeSet};

use mtmc_models::BBox;
use serde::Serialize;

use super::DataError;
use super::draw::draw;
use super::market1501::{GALLERY, ImageName, QUERY, TRAIN};
use super::mot::{PEDESTRIAN, TruthBox};

/// How to choose.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// Groups of identities that are one person, who gets the first of them.
    pub same: Vec<Vec<i64>>,
    /// Things in the scene that hide people.
    pub hiding: Vec<Thing>,
}

/// A thing that stands in the scene, such as a sign on a pole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Thing {
    /// Left, top, width and height in pixels.
    pub tlwh: [f64; 4],
    /// Where it meets the ground, in pixels from the top: it hides those whose feet are above.
    pub base: f64,
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
            same: Vec::new(),
            hiding: Vec::new(),
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
/// A setting is out of its range, identities that shall be one person are in one frame, an identity
/// cannot be written in Market-1501's names, or nobody is seen well enough in two spans.
pub fn plan(
    truth: &[TruthBox],
    width: u32,
    height: u32,
    settings: &Settings,
) -> Result<Vec<PlannedCrop>, DataError> {
    check(settings)?;
    let truth = merged(truth, &settings.same)?;
    let candidates = candidates(&truth, width, height, settings)?;
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
    crops.sort_by_key(|crop| (crop.frame, crop.name));
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

/// The truth with one identity a person.
fn merged(truth: &[TruthBox], same: &[Vec<i64>]) -> Result<Vec<TruthBox>, DataError> {
    let mut names: BTreeMap<i64, i64> = BTreeMap::new();
    for group in same {
        let Some(&first) = group.first() else {
            continue;
        };
        for &id in group {
            if names.insert(id, first).is_some() {
                let reason = format!("identity {id} is said to be the same as others twice");
                return Err(DataError::Setting(reason));
            }
            if !truth.iter().any(|found| found.id == id) {
                let reason = format!("identity {id}, said to be the same as others, has no box");
                return Err(DataError::Setting(reason));
            }
        }
    }
    let mut merged = truth.to_vec();
    let mut seen: BTreeMap<(u64, i64), i64> = BTreeMap::new();
    for found in &mut merged {
        let own = found.id;
        found.id = names.get(&own).copied().unwrap_or(own);
        if let Some(other) = seen.insert((found.frame, found.id), own) {
            return Err(DataError::Setting(format!(
                "identities {other} and {own} are both in frame {}: they cannot be one person",
                found.frame
            )));
        }
    }
    Ok(merged)
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
            if visibility(found, &boxes, &settings.hiding, [width, height])
                >= settings.min_visibility
            {
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
/// frame of `[width, height]` and not behind a thing.
fn visibility(found: &TruthBox, all: &[&TruthBox], things: &[Thing], frame: [u32; 2]) -> f64 {
    let own = corners(&found.tlwh);
    let frame = [0.0, 0.0, f64::from(frame[0]), f64::from(frame[1])];
    let whole = area(&own);
    let Some(inside) = intersection(&own, &frame) else {
        return 0.0;
    };
    let mut hidden = Vec::new();
    for thing in things {
        if thing.base > own[3] {
            hidden.extend(intersection(&inside, &corners(&thing.tlwh)));
        }
    }
    if let Some(stated) = found.visibility {
        return stated.min((area(&inside) - union_area(&hidden)) / whole);
    }
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
mod tests;
