//! Identities across cameras: the field's metrics where one person has one identity everywhere.
//!
//! Boxes: a frame of the evaluation is one camera's picture at one time. IDF1 and HOTA's
//! association count over the pictures of all cameras together, with the identities that the files
//! name; so does the AI City Challenge (Tang et al. 2019, arXiv:1903.09254) for IDF1. CLEAR asks
//! whether a camera's tracks hold, so it is measured camera by camera and its counts are added:
//! MOTA, MT, PT, ML and Frag count a person once a camera, and an ID switch is one within a camera.
//! AI City's tool writes one camera's frames after the other's instead, so that its switches
//! between cameras depend on the cameras' order; here they are [`Handovers`], counted apart.
//!
//! With one camera everything equals the single camera's [`Measured`].
//!
//! [`aligned`] is HOTA as `reid-hota` (NIST) defines it; [`lines`] reads boxes of several cameras
//! from one file; [`handoffs`] are those that a run reported; [`map`] measures places on the ground instead of boxes.

pub mod aligned;
pub mod handoffs;
pub mod lines;
pub mod map;

use std::collections::HashMap;

use rayon::prelude::*;

use super::clear::{Clear, Rules};
use super::hota::Hota;
use super::mot::{Benchmark, Boxes, Names, prepare_named};
use super::report::Measured;
use super::{EvalFrame, EvalSequence};

/// Name of the row of all cameras with identities across them.
pub const ACROSS: &str = "ACROSS";

/// Name of the row of places on the map.
pub const MAP: &str = "MAP";

/// One camera, ready to be measured.
#[derive(Debug, Clone)]
pub struct Camera {
    /// Its name.
    pub name: String,
    /// Its frames; identities are its own indices.
    pub sequence: EvalSequence,
    /// What the files call these identities: the same name is the same person in every camera.
    pub names: Names,
}

impl Camera {
    /// Prepares a camera of `length` frames (or as many as there are boxes in either file) by the
    /// rules of a benchmark.
    pub fn new(
        name: &str,
        truth: &Boxes,
        tracks: &Boxes,
        benchmark: Benchmark,
        length: Option<u64>,
    ) -> Self {
        let length = length.unwrap_or(truth.last_frame().max(tracks.last_frame()));
        let (sequence, names) = prepare_named(truth, tracks, benchmark, 1..=length);
        Self {
            name: name.to_string(),
            sequence,
            names,
        }
    }
}

/// How often a person's track went along from camera to camera.
///
/// A person's *visit* to a camera is a run of that camera's frames in which the truth has them. At
/// a visit's first match, the person's latest match in another camera (of an earlier frame, or of
/// the same frame in a camera named before) has the same track or it has not: a handover, right or
/// wrong. Visits without a match, and a person's first ones, are none. This follows the split of
/// mismatches into those within and those between cameras of MCTA (Chen et al. 2017,
/// arXiv:1502.03532), for overlapping views as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handovers {
    /// All of them.
    pub all: u64,
    /// Those with another track than before.
    pub wrong: u64,
}

impl Handovers {
    /// Part of them that was right; 1 where there were none.
    pub fn accuracy(&self) -> f64 {
        1.0 - self.wrong as f64 / (self.all as f64).max(1.0)
    }
}

/// What was measured of several cameras.
#[derive(Debug, Clone, PartialEq)]
pub struct Across {
    /// Each camera alone, by name.
    pub cameras: Vec<(String, Measured)>,
    /// All cameras, identities across them.
    pub all: Measured,
    /// HOTA of all cameras with identities matched once for all ([`Hota::aligned`]).
    pub aligned: Hota,
    /// Tracks from camera to camera.
    pub handovers: Handovers,
}

impl Across {
    /// Measures all cameras, CLEAR by `rules`.
    pub fn of(cameras: Vec<Camera>, rules: Rules) -> Self {
        let measured: Vec<(Measured, Vec<Match>)> = cameras
            .par_iter()
            .map(|camera| measure(&camera.sequence, rules))
            .collect();
        let globals = Globals::of(&cameras);
        let matches: Vec<&[Match]> = measured.iter().map(|(_, found)| &found[..]).collect();
        let handovers = handovers(&cameras, &globals, &matches);
        let mut rows = Vec::new();
        let mut clear = Clear::default();
        for (camera, (measured, _)) in cameras.iter().zip(measured) {
            clear.add(&measured.clear);
            rows.push((camera.name.clone(), measured));
        }
        let all = join(cameras, &globals);
        Self {
            cameras: rows,
            all: Measured::with_clear(&all, clear),
            aligned: Hota::aligned(&all),
            handovers,
        }
    }

    /// ID switches within the cameras and between them.
    pub fn id_switches(&self) -> u64 {
        self.all.clear.id_switches + self.handovers.wrong
    }

    /// MOTA with the wrong handovers counted as ID switches.
    pub fn mota(&self) -> f64 {
        let clear = Clear {
            id_switches: self.id_switches(),
            ..self.all.clear
        };
        clear.mota()
    }
}

/// A match of CLEAR: frame from 0, and the camera's own indices of both identities.
#[derive(Debug, Clone, Copy)]
struct Match {
    frame: usize,
    truth: usize,
    track: usize,
}

fn measure(sequence: &EvalSequence, rules: Rules) -> (Measured, Vec<Match>) {
    let mut matches = Vec::new();
    let clear = Clear::with_matches(sequence, rules, |frame, truth, track| {
        matches.push(Match {
            frame,
            truth,
            track,
        });
    });
    (Measured::with_clear(sequence, clear), matches)
}

/// Indices of the identities over all cameras.
struct Globals {
    /// For each camera, by its own index.
    truth: Vec<Vec<usize>>,
    track: Vec<Vec<usize>>,
    truths: usize,
    tracks: usize,
}

impl Globals {
    fn of(cameras: &[Camera]) -> Self {
        let mut truths = HashMap::new();
        let mut tracks = HashMap::new();
        let mut globals = Self {
            truth: Vec::new(),
            track: Vec::new(),
            truths: 0,
            tracks: 0,
        };
        for camera in cameras {
            globals.truth.push(number(&camera.names.truth, &mut truths));
            globals.track.push(number(&camera.names.track, &mut tracks));
        }
        globals.truths = truths.len();
        globals.tracks = tracks.len();
        globals
    }
}

/// The index of every name, the next free one for a new name.
fn number(names: &[i64], indices: &mut HashMap<i64, usize>) -> Vec<usize> {
    let mut numbers = Vec::with_capacity(names.len());
    for &name in names {
        numbers.push(super::mot::dense(indices, name));
    }
    numbers
}

/// All pictures in one sequence, in order of time and then of cameras.
fn join(mut cameras: Vec<Camera>, globals: &Globals) -> EvalSequence {
    let length = |camera: &Camera| camera.sequence.frames.len();
    let longest = cameras.iter().map(length).max().unwrap_or(0);
    let mut frames = Vec::with_capacity(cameras.iter().map(length).sum());
    for time in 0..longest {
        for (index, camera) in cameras.iter_mut().enumerate() {
            let Some(frame) = camera.sequence.frames.get_mut(time) else {
                continue;
            };
            let frame: EvalFrame = std::mem::take(frame);
            let truth = frame.truth.iter().map(|&id| globals.truth[index][id]);
            let track = frame.track.iter().map(|&id| globals.track[index][id]);
            frames.push(EvalFrame {
                truth: truth.collect(),
                track: track.collect(),
                similarity: frame.similarity,
            });
        }
    }
    EvalSequence {
        frames,
        truths: globals.truths,
        tracks: globals.tracks,
    }
}

/// A person's latest matches: the latest of all, and the latest in another camera than that one;
/// camera and track of each.
type Latest = [Option<(usize, usize)>; 2];

/// Who is in one camera's view.
struct Views {
    /// Number of the last frame, from 1, that has the person.
    present: Vec<usize>,
    /// The visit has had no match yet.
    unmatched: Vec<bool>,
    /// Matches that were looked at.
    done: usize,
}

fn handovers(cameras: &[Camera], globals: &Globals, matches: &[&[Match]]) -> Handovers {
    let mut handovers = Handovers::default();
    let mut latest: Vec<Latest> = vec![[None; 2]; globals.truths];
    let mut views: Vec<Views> = Vec::new();
    for camera in cameras {
        views.push(Views {
            present: vec![0; camera.sequence.truths],
            unmatched: vec![false; camera.sequence.truths],
            done: 0,
        });
    }
    let lengths = cameras.iter().map(|camera| camera.sequence.frames.len());
    for time in 0..lengths.max().unwrap_or(0) {
        for (index, (camera, view)) in cameras.iter().zip(&mut views).enumerate() {
            let Some(frame) = camera.sequence.frames.get(time) else {
                continue;
            };
            for &truth in &frame.truth {
                if view.present[truth] != time || time == 0 {
                    view.unmatched[truth] = true;
                }
                view.present[truth] = time + 1;
            }
            for found in &matches[index][view.done..] {
                if found.frame != time {
                    break;
                }
                view.done += 1;
                let track = globals.track[index][found.track];
                let person = &mut latest[globals.truth[index][found.truth]];
                if std::mem::take(&mut view.unmatched[found.truth]) {
                    let elsewhere = person.iter().flatten().find(|(at, _)| *at != index);
                    handovers.all += u64::from(elsewhere.is_some());
                    handovers.wrong += u64::from(elsewhere.is_some_and(|(_, had)| *had != track));
                }
                if person[0].is_some_and(|(at, _)| at != index) {
                    person[1] = person[0];
                }
                person[0] = Some((index, track));
            }
        }
    }
    handovers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxes(rows: &[(u64, i64)]) -> Boxes {
        let mut boxes = Boxes::default();
        for &(frame, id) in rows {
            boxes.push(frame, id, [id as f64 % 7.0 * 100.0, 0.0, 20.0, 40.0]);
        }
        boxes
    }

    fn camera(name: &str, truth: &[(u64, i64)], tracks: &[(u64, i64)]) -> Camera {
        Camera::new(name, &boxes(truth), &boxes(tracks), Benchmark::Mot15, None)
    }

    // By hand. Person 1 walks from a to b and back to a; her track (1, 8 lie in the same place) is
    // 1 in a, 8 in b, 1 again in a: two handovers, both wrong. Person 2 is in b all the time.
    #[test]
    fn handovers_are_counted_at_the_first_match_of_a_visit() {
        let a = [(1, 1), (2, 1), (5, 1), (6, 1)];
        let b_truth = [(3, 1), (4, 1), (3, 2), (4, 2)];
        let b_tracks = [(3, 8), (4, 8), (3, 2), (4, 2)];
        let cameras = vec![camera("a", &a, &a), camera("b", &b_truth, &b_tracks)];
        let measured = Across::of(cameras, Rules::TrackEval);
        assert_eq!(measured.handovers, Handovers { all: 2, wrong: 2 });
        assert_eq!(measured.handovers.accuracy(), 0.0);
        // Within the cameras all is well, and 8 boxes are right.
        assert_eq!(measured.all.clear.id_switches, 0);
        assert_eq!(measured.all.clear.mota(), 1.0);
        assert_eq!(measured.id_switches(), 2);
        assert_eq!(measured.mota(), (8.0 - 2.0) / 8.0);
        // Person 1 is track 1 in four of her six boxes, track 8 in two: 6 of 8 right.
        assert_eq!(measured.all.identity.true_positives, 6);
        for (_, alone) in &measured.cameras {
            assert_eq!(alone.identity.idf1(), 1.0);
        }
    }

    // By hand. Two cameras see the person from the first frame on, and agree; then b's track
    // changes, which is a switch within b and no handover: the visit had its first match.
    #[test]
    fn overlapping_views_hand_over_once_a_visit() {
        let a = [(1, 1), (2, 1), (3, 1), (4, 1)];
        let b = [(1, 1), (2, 1), (3, 8), (4, 8)];
        let cameras = vec![camera("a", &a, &a), camera("b", &a, &b)];
        let measured = Across::of(cameras, Rules::TrackEval);
        assert_eq!(measured.handovers, Handovers { all: 1, wrong: 0 });
        assert_eq!(measured.id_switches(), 1);
        assert_eq!(measured.all.identity.true_positives, 6);
        assert_eq!((measured.all.truths, measured.all.tracks), (1, 2));
    }

    #[test]
    fn no_cameras_measure_nothing() {
        let measured = Across::of(Vec::new(), Rules::TrackEval);
        assert!(measured.cameras.is_empty());
        assert_eq!(measured.all.truth_boxes, 0);
        assert_eq!(measured.handovers.accuracy(), 1.0);
    }
}
