//! Identities on the map: places on the ground instead of boxes.
//!
//! Two places are similar by their distance d: `max(0, 1 - d / (2 * D))`, as TrackEval and the AI
//! City Challenge's 3-D HOTA have it, where D is the distance at which a similarity of 0.5 is
//! reached. CLEAR and Identity match up to D; HOTA's thresholds of 0.05 … 0.95 are distances of
//! 1.9 D … 0.1 D. D is 0.5 m unless set, about a person's radius, as in WILDTRACK's metric of
//! detections on the ground (Chavdarova et al. 2018).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::super::clear::Rules;
use super::super::hota::Hota;
use super::super::mot::{dense, read_numbers};
use super::super::report::Measured;
use super::super::{EvalFrame, EvalSequence};
use super::lines::{Line, Means, WITH_PLACE};
use crate::tracker::mot::{MAX_FRAME, MotError, read_lines};

/// Distance up to which a place may stand for a true one, unless set: half a metre.
pub const DISTANCE: f64 = 0.5;

/// Most people of one frame in one file: every pair of truth and track is looked at.
const MAX_PEOPLE: usize = 2_000;

/// Columns of MOT Challenge text up to the second world coordinate and with the third.
const MOT_COLUMNS: usize = 10;

/// Column, from 0, of the flag that says whether a true one counts.
const MOT_FLAG: usize = 6;

/// Largest whole number that a file's number is sure to mean.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// A person's place in a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    id: i64,
    /// On the ground, in the map's unit.
    at: [f64; 2],
}

/// Where everyone was in every frame.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Places {
    /// Frame n is at n - 1; ends with the last frame that has a place.
    frames: Vec<Vec<Place>>,
}

impl Places {
    /// Adds a place; `frame` counts from 1. A frame's identities must differ.
    pub fn push(&mut self, frame: u64, id: i64, at: [f64; 2]) {
        self.frame_mut(frame).push(Place { id, at });
    }

    /// Reads places, of one kind in the whole file, told apart by the number of columns:
    ///
    /// - 4 or 5: `frame, identity, x, y` and a height that is not read;
    /// - 9: `camera, identity, frame, left, top, width, height, x, y`, as
    ///   [`CameraLines`](super::lines::CameraLines) has them;
    /// - from 10 on: MOT Challenge text with world coordinates, `frame, identity, left, top, width,
    ///   height, flag, x, y, z`, as the CMC data's `GT_WORLD_CENTROID.txt` has them (-1 for the
    ///   box); lines with a flag of 0 do not count.
    ///
    /// # Errors
    /// The file cannot be read; a line has another number of columns, or another kind than the
    /// first; a number is none or not finite; a frame has an identity twice or more than 2,000. The
    /// error names file and line.
    pub fn read(path: &Path) -> Result<Self, MotError> {
        let file = File::open(path).map_err(|source| MotError::io(path, source))?;
        Self::parse(BufReader::new(file), path)
    }

    /// As [`Places::read`], from text in memory or elsewhere; `path` is its name in errors.
    ///
    /// # Errors
    /// As [`Places::read`].
    pub fn parse(text: impl BufRead, path: &Path) -> Result<Self, MotError> {
        let mut places = Self::default();
        let mut means = Means::default();
        let mut first = None;
        read_lines(text, path, |line| {
            let mut numbers = [0.0; MOT_COLUMNS];
            let columns = read_numbers(line, &mut numbers)?;
            let kind = Kind::of(columns)?;
            if *first.get_or_insert(kind) != kind {
                return Err(format!("{columns} columns, unlike the first line"));
            }
            match kind {
                Kind::Plain => places.add(&numbers, [2, 3]),
                Kind::Mot if numbers[MOT_FLAG] == 0.0 => Ok(()),
                Kind::Mot => places.add(&numbers, [7, 8]),
                Kind::Cameras => {
                    means.add(&Line::parse(line)?);
                    Ok(())
                }
            }
        })?;
        if first == Some(Kind::Cameras) {
            return Ok(means.places());
        }
        Ok(places)
    }

    /// Adds a line whose place is in the columns `at`.
    fn add(&mut self, numbers: &[f64; MOT_COLUMNS], at: [usize; 2]) -> Result<(), String> {
        let frame = numbers[0];
        check_frame(frame, 1.0)?;
        let place = Place {
            id: whole(numbers[1], "identity")?,
            at: at.map(|column| numbers[column]),
        };
        let places = self.frame_mut(frame as u64);
        if places.len() == MAX_PEOPLE {
            return Err(format!("more than {MAX_PEOPLE} people in frame {frame}"));
        }
        if places.iter().any(|other| other.id == place.id) {
            return Err(format!(
                "identity {} stands twice in frame {frame}",
                place.id
            ));
        }
        places.push(place);
        Ok(())
    }

    /// Whether there is no place at all.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The highest frame number with a place; 0 without any.
    pub fn last_frame(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Pairs of a place here and one there in the same frame, over all frames: what [`prepare`] holds
    /// a similarity of.
    pub fn pairs(&self, other: &Self) -> u64 {
        let frames = self.frames.iter().zip(&other.frames);
        frames.map(|(a, b)| a.len() as u64 * b.len() as u64).sum()
    }

    fn frame_mut(&mut self, frame: u64) -> &mut Vec<Place> {
        let index = frame.saturating_sub(1) as usize;
        if self.frames.len() <= index {
            self.frames.resize_with(index + 1, Vec::new);
        }
        &mut self.frames[index]
    }
}

/// What a file's lines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Cameras,
    Mot,
}

impl Kind {
    fn of(columns: usize) -> Result<Self, String> {
        match columns {
            4 | 5 => Ok(Self::Plain),
            WITH_PLACE => Ok(Self::Cameras),
            MOT_COLUMNS.. => Ok(Self::Mot),
            _ => Err(format!(
                "{columns} columns; places have 4 (frame, identity, x, y), 9 (camera, identity, \
                 frame, left, top, width, height, x, y) or from 10 on (MOT Challenge text with \
                 world coordinates)"
            )),
        }
    }
}

/// Refuses what is no frame's number.
pub(super) fn check_frame(frame: f64, first: f64) -> Result<(), String> {
    if frame < first || frame.fract() != 0.0 || frame >= MAX_FRAME as f64 + first {
        return Err(format!(
            "frame {frame} is not a whole number from {first} on, of {MAX_FRAME} at most"
        ));
    }
    Ok(())
}

/// A whole number out of a file.
pub(super) fn whole(number: f64, name: &str) -> Result<i64, String> {
    if number.fract() != 0.0 || number.abs() > MAX_WHOLE {
        return Err(format!("{name} {number} is not a whole number up to 2^53"));
    }
    Ok(number as i64)
}

/// Prepares places for the metrics: `length` frames, or as many as there are in either; similarity
/// 0.5 at `distance`, in the places' unit.
pub fn prepare(
    truth: &Places,
    tracks: &Places,
    distance: f64,
    length: Option<u64>,
) -> EvalSequence {
    let length = length.unwrap_or(truth.last_frame().max(tracks.last_frame()));
    let mut truth_ids = HashMap::new();
    let mut track_ids = HashMap::new();
    let mut frames = Vec::new();
    let places = |places: &Places, index: u64| -> Vec<Place> {
        places
            .frames
            .get(index as usize)
            .cloned()
            .unwrap_or_default()
    };
    for index in 0..length {
        let (people, found) = (places(truth, index), places(tracks, index));
        let mut frame = EvalFrame::default();
        for person in &people {
            frame.truth.push(dense(&mut truth_ids, person.id));
            for place in &found {
                frame
                    .similarity
                    .push(similarity(person.at, place.at, distance));
            }
        }
        for place in &found {
            frame.track.push(dense(&mut track_ids, place.id));
        }
        frames.push(frame);
    }
    EvalSequence {
        frames,
        truths: truth_ids.len(),
        tracks: track_ids.len(),
    }
}

/// 1 for the same place, 0.5 at `distance`, 0 from twice that on.
fn similarity(a: [f64; 2], b: [f64; 2], distance: f64) -> f64 {
    let apart = (a[0] - b[0]).hypot(a[1] - b[1]);
    (1.0 - apart / (2.0 * distance)).max(0.0)
}

/// What was measured on the map.
#[derive(Debug, Clone, PartialEq)]
pub struct MapMeasured {
    /// The metrics; LocA, MOTP and sMOTA are of similarities.
    pub measured: Measured,
    /// HOTA with identities matched once for all ([`Hota::aligned`]).
    pub aligned: Hota,
    /// Distance at which the similarity is 0.5, in the places' unit.
    pub distance: f64,
}

impl MapMeasured {
    /// Measures places against the truth's; CLEAR and Identity match up to `distance`, which is
    /// positive and in the places' unit.
    pub fn of(truth: &Places, tracks: &Places, distance: f64, rules: Rules) -> Self {
        let sequence = prepare(truth, tracks, distance, None);
        Self {
            measured: Measured::by(&sequence, rules),
            aligned: Hota::aligned(&sequence),
            distance,
        }
    }

    /// Mean distance of CLEAR's matches, in the places' unit; none without a match. `motmetrics`
    /// calls it MOTP.
    pub fn mean_distance(&self) -> Option<f64> {
        let clear = &self.measured.clear;
        (clear.true_positives > 0).then(|| (1.0 - clear.motp()) * 2.0 * self.distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Places, String> {
        Places::parse(text.as_bytes(), Path::new("x.txt")).map_err(|error| error.to_string())
    }

    #[test]
    fn all_kinds_of_lines_are_read() {
        let mut expected = Places::default();
        expected.push(2, 7, [1.5, -2.0]);
        for text in [
            "2 7 1.5 -2\n",
            "2,7,1.5,-2,0.9\n",
            "\n2 7 -1 -1 -1 -1 -1 1.5 -2.0 0.8 0.5 0.5 0.8\n",
            "2,7,10,10,20,40,1,1.5,-2,0\n2,8,10,10,20,40,0,1.5,-2,0\n",
            "4 7 1 10 10 20 40 1 -1\n5 7 1 10 10 20 40 2 -3\n",
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong() {
        for (line, expected) in [
            ("1 7 0", "3 columns"),
            ("1 7 0 0 0 0 0 0 0", "unlike the first line"),
            ("2 7 inf 0", "column 3: `inf` is not finite"),
            ("0 7 0 0", "frame 0"),
            ("1000001 7 0 0", "frame 1000001"),
            ("1 7 0 0", "identity 7 stands twice in frame 1"),
            ("1 0.5 0 0", "identity 0.5"),
        ] {
            let error = parse(&format!("1 7 0 0\n{line}\n")).unwrap_err();
            assert!(error.starts_with("x.txt, line 2: "), "{error}");
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    // By hand: a 3-4-5 triangle of 0.3 and 0.4 m is 0.5 m: just still a match at 0.5, which is the
    // similarity 0.5; HOTA's thresholds above it have none.
    #[test]
    fn the_distance_is_where_the_similarity_is_a_half() {
        let mut truth = Places::default();
        let mut tracks = Places::default();
        truth.push(1, 1, [0.0, 0.0]);
        tracks.push(1, 5, [0.3, 0.4]);
        let near = MapMeasured::of(&truth, &tracks, 0.5, Rules::TrackEval);
        assert_eq!(near.measured.clear.true_positives, 1);
        assert_eq!(near.measured.identity.true_positives, 1);
        assert_eq!(near.mean_distance(), Some(0.5));
        assert_eq!(truth.pairs(&tracks), 1);
        let reached = near.measured.hota.true_positives;
        assert_eq!(reached.iter().sum::<f64>(), 10.0);
        let far = MapMeasured::of(&truth, &tracks, 0.4, Rules::TrackEval);
        assert_eq!(far.measured.clear.true_positives, 0);
        assert_eq!(far.mean_distance(), None);
    }
}
