//! MOT Challenge text: reading, and the benchmark's preparation of truth and tracks.
//!
//! The preparation is MOT Challenge's, as TrackEval does it (MOT16, arXiv:1603.00831, section
//! 4.1.3): in each frame, tracks are first matched with *all* true boxes, and those that stand for
//! a box that nobody has to find are taken out ([`Benchmark`]); then the true boxes that do not
//! count are taken out. Visibility plays no part: a true box counts however much of it is hidden,
//! unless its flag is 0.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::Path;

use super::{EPS, EvalFrame, EvalSequence, Matcher};
use crate::tracker::mot::{MotError, read_lines};

/// Which benchmark's rules apply to classes and ignored boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Benchmark {
    /// No classes: all true boxes count whose flag (column 7) is not 0
    Mot15,
    /// True boxes count if they are pedestrians (class 1) and their flag is not 0. Tracks that stand
    /// for a person on a vehicle, a static person, a distractor or a reflection (classes 2, 7, 8, 12;
    /// IoU from 0.5) are taken out: neither right nor wrong. Visibility (column 9) plays no part
    #[default]
    Mot17,
    /// As mot17, and tracks on non-motorised vehicles (class 6) are taken out too
    Mot20,
}

/// The pedestrian among MOT17's classes.
const PEDESTRIAN: i64 = 1;

impl Benchmark {
    /// Classes whose boxes excuse a track: person on vehicle, static person, distractor,
    /// reflection; non-motorised vehicle.
    fn distractors(self) -> &'static [i64] {
        match self {
            Self::Mot15 => &[],
            Self::Mot17 => &[2, 7, 8, 12],
            Self::Mot20 => &[2, 7, 8, 12, 6],
        }
    }
}

/// One line of a file: `frame, id, left, top, width, height, flag or score, class, visibility`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    id: i64,
    tlwh: [f64; 4],
    /// Column 7: 0 marks a true box that is to be ignored.
    flag: f64,
    /// Column 8; -1 where the file has none.
    class: i64,
}

/// All boxes of one file, by frame.
#[derive(Debug, Clone, Default)]
pub struct Boxes {
    /// Frame n is at n - 1; ends with the last frame that has a box.
    frames: Vec<Vec<Row>>,
}

/// The classes of MOT16 and its successors.
const CLASSES: RangeInclusive<i64> = 1..=13;

/// No sequence of the field is longer: a bound against a hostile frame number.
const MAX_FRAMES: u64 = 1_000_000;

/// Columns that are read.
const COLUMNS: usize = 8;

/// Most boxes of one frame in one file, some ten times what the fullest benchmark has: every pair
/// of truth and track is looked at.
const MAX_BOXES: usize = 2_000;

impl Boxes {
    /// Reads tracks, or truth without a look at its classes.
    ///
    /// # Errors
    /// The file cannot be read; a line has too few or unreadable columns; a frame has an identity
    /// twice, or more than 2,000 boxes. The error names file and line.
    pub fn read(path: &Path) -> Result<Self, MotError> {
        let file = File::open(path).map_err(|source| MotError::io(path, source))?;
        Self::parse(BufReader::new(file), path)
    }

    /// As [`Boxes::read`], from text in memory or elsewhere; `path` is its name in errors.
    ///
    /// # Errors
    /// As [`Boxes::read`].
    pub fn parse(text: impl BufRead, path: &Path) -> Result<Self, MotError> {
        let mut boxes = Self::default();
        read_lines(text, path, |line| boxes.add(line).map(drop))?;
        Ok(boxes)
    }

    /// Reads truth in the format of `benchmark`.
    ///
    /// # Errors
    /// As [`Boxes::read`]; and a line has no flag, or a class that the benchmark does not know:
    /// measured by wrong rules, nothing would count and every figure would be 0.
    pub fn read_truth(path: &Path, benchmark: Benchmark) -> Result<Self, MotError> {
        let file = File::open(path).map_err(|source| MotError::io(path, source))?;
        let mut boxes = Self::default();
        read_lines(BufReader::new(file), path, |line| {
            let (row, columns) = boxes.add(line)?;
            if columns < 7 {
                return Err(format!(
                    "{columns} columns, truth needs at least 7: the last says whether the box counts"
                ));
            }
            if benchmark != Benchmark::Mot15 && !CLASSES.contains(&row.class) {
                return Err(format!(
                    "class {} (column 8) is none of 1 to 13; truth without classes is measured by \
                     the rules of MOT15 (`--benchmark mot15`)",
                    row.class
                ));
            }
            Ok(())
        })?;
        Ok(boxes)
    }

    /// Adds one box, in pixels; `frame` counts from 1. A frame's identities must differ.
    pub fn push(&mut self, frame: u64, id: i64, tlwh: [f64; 4]) {
        self.rows(frame).push(Row {
            id,
            tlwh,
            flag: 1.0,
            class: PEDESTRIAN,
        });
    }

    /// As [`Boxes::push`], of foreign data: a frame's identities must differ, and it holds 2,000
    /// boxes at most. `shown` is the frame's number in errors.
    pub(super) fn try_push(
        &mut self,
        frame: u64,
        shown: f64,
        id: i64,
        tlwh: [f64; 4],
    ) -> Result<(), String> {
        let row = Row {
            id,
            tlwh,
            flag: 1.0,
            class: PEDESTRIAN,
        };
        put(self.rows(frame), row, shown)
    }

    /// Whether there is no box at all.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The boxes of a frame, which is made if it is not there.
    fn rows(&mut self, frame: u64) -> &mut Vec<Row> {
        let index = frame.saturating_sub(1) as usize;
        if self.frames.len() <= index {
            self.frames.resize_with(index + 1, Vec::new);
        }
        &mut self.frames[index]
    }

    /// Takes in one line; gives it back with its number of columns.
    fn add(&mut self, line: &str) -> Result<(Row, usize), String> {
        let mut numbers = [0.0; COLUMNS];
        // Visibility and world coordinates are not read.
        let columns = read_numbers(line, &mut numbers)?;
        if columns < 6 {
            return Err(format!("{columns} columns, at least 6 are needed"));
        }
        let [frame, id, left, top, width, height, flag, class] = numbers;
        if frame < 1.0 || frame.fract() != 0.0 || frame > MAX_FRAMES as f64 {
            return Err(format!("frame {frame} is not within 1..={MAX_FRAMES}"));
        }
        let row = Row {
            id: id as i64,
            tlwh: [left, top, width, height],
            flag: if columns > 6 { flag } else { 1.0 },
            class: if columns > 7 { class as i64 } else { -1 },
        };
        put(self.rows(frame as u64), row, frame)?;
        Ok((row, columns))
    }

    /// The highest frame number with a box; 0 without any.
    pub fn last_frame(&self) -> u64 {
        self.frames.len() as u64
    }

    fn frame(&self, frame: u64) -> &[Row] {
        let index = frame.checked_sub(1);
        let rows = index.and_then(|index| self.frames.get(index as usize));
        rows.map_or(&[], Vec::as_slice)
    }
}

/// Adds a box to its frame, which `frame` names in errors.
fn put(rows: &mut Vec<Row>, row: Row, frame: f64) -> Result<(), String> {
    if rows.len() == MAX_BOXES {
        return Err(format!("more than {MAX_BOXES} boxes in frame {frame}"));
    }
    if rows.iter().any(|other| other.id == row.id) {
        return Err(format!("identity {} stands twice in frame {frame}", row.id));
    }
    rows.push(row);
    Ok(())
}

/// Reads the first columns of a line as numbers, separated by commas, spaces or tabs; gives back
/// how many columns the line has.
pub(super) fn read_numbers(line: &str, numbers: &mut [f64]) -> Result<usize, String> {
    let mut columns = 0;
    let fields = line.as_bytes().split(|byte| b", \t".contains(byte));
    for field in fields.filter(|field| !field.is_empty()) {
        if let Some(number) = numbers.get_mut(columns) {
            *number = parse_number(field).map_err(|reason| {
                let text = String::from_utf8_lossy(field);
                format!("column {}: `{text}` is {reason}", columns + 1)
            })?;
        }
        columns += 1;
    }
    Ok(columns)
}

/// A field's number, or what it is instead.
fn parse_number(field: &[u8]) -> Result<f64, &'static str> {
    // Most fields are short whole numbers.
    if field.len() <= 15 && field.iter().all(u8::is_ascii_digit) {
        let digits = field.iter().map(|byte| u64::from(byte - b'0'));
        return Ok(digits.fold(0, |number, digit| number * 10 + digit) as f64);
    }
    let text = std::str::from_utf8(field).map_err(|_| "no number")?;
    let number: f64 = text.trim().parse().map_err(|_| "no number")?;
    if number.is_finite() {
        Ok(number)
    } else {
        Err("not finite")
    }
}

fn iou(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let width = (a[0] + a[2]).min(b[0] + b[2]) - a[0].max(b[0]);
    let height = (a[1] + a[3]).min(b[1] + b[3]) - a[1].max(b[1]);
    let shared = width.max(0.0) * height.max(0.0);
    let all = a[2] * a[3] + b[2] * b[3] - shared;
    // Boxes without area overlap nothing.
    if a[2] * a[3] <= EPS || b[2] * b[3] <= EPS || all <= EPS {
        return 0.0;
    }
    shared / all
}

/// Prepares a sequence of `length` frames (or as many as there are boxes in either file).
pub fn prepare(
    truth: &Boxes,
    tracks: &Boxes,
    benchmark: Benchmark,
    length: Option<u64>,
) -> EvalSequence {
    let length = length.unwrap_or(truth.last_frame().max(tracks.last_frame()));
    prepare_frames(truth, tracks, benchmark, 1..=length)
}

/// As [`prepare`], of some frames of the sequence: what lies outside is not looked at.
pub fn prepare_frames(
    truth: &Boxes,
    tracks: &Boxes,
    benchmark: Benchmark,
    numbers: RangeInclusive<u64>,
) -> EvalSequence {
    prepare_named(truth, tracks, benchmark, numbers).0
}

/// Identities of a prepared sequence as its files call them, by their dense index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// True identities.
    pub truth: Vec<i64>,
    /// The tracker's.
    pub track: Vec<i64>,
}

/// As [`prepare_frames`], with the identities' names: those of several cameras can be told to be
/// the same.
pub fn prepare_named(
    truth: &Boxes,
    tracks: &Boxes,
    benchmark: Benchmark,
    numbers: RangeInclusive<u64>,
) -> (EvalSequence, Names) {
    let mut truth_ids = HashMap::new();
    let mut track_ids = HashMap::new();
    let mut matcher = Matcher::default();
    let mut frames = Vec::new();
    for number in numbers {
        let rows = truth.frame(number);
        let found = without_distractors(rows, tracks.frame(number), benchmark, &mut matcher);
        let counts = |row: &&Row| {
            row.flag != 0.0 && (benchmark == Benchmark::Mot15 || row.class == PEDESTRIAN)
        };
        let mut frame = EvalFrame::default();
        for row in rows.iter().filter(counts) {
            frame.truth.push(dense(&mut truth_ids, row.id));
            for track in &found {
                frame.similarity.push(iou(&row.tlwh, &track.tlwh));
            }
        }
        for track in &found {
            frame.track.push(dense(&mut track_ids, track.id));
        }
        frames.push(frame);
    }
    let sequence = EvalSequence {
        frames,
        truths: truth_ids.len(),
        tracks: track_ids.len(),
    };
    let names = Names {
        truth: names(truth_ids),
        track: names(track_ids),
    };
    (sequence, names)
}

/// The identities by the indices that stand for them.
pub(super) fn names(ids: HashMap<i64, usize>) -> Vec<i64> {
    let mut names = vec![0; ids.len()];
    for (id, index) in ids {
        names[index] = id;
    }
    names
}

/// The index that stands for an identity, the next free one if it is new.
pub(super) fn dense(ids: &mut HashMap<i64, usize>, id: i64) -> usize {
    let next = ids.len();
    *ids.entry(id).or_insert(next)
}

/// The tracks that are not best explained by a box that nobody has to find.
fn without_distractors<'a>(
    truth: &[Row],
    tracks: &'a [Row],
    benchmark: Benchmark,
    matcher: &mut Matcher,
) -> Vec<&'a Row> {
    let excused = |row: &Row| benchmark.distractors().contains(&row.class);
    if tracks.is_empty() || !truth.iter().any(excused) {
        return tracks.iter().collect();
    }
    let score = |row: usize, column: usize| {
        let overlap = iou(&truth[row].tlwh, &tracks[column].tlwh);
        if overlap < 0.5 - EPS { 0.0 } else { overlap }
    };
    let mut keep = vec![true; tracks.len()];
    for &(row, column) in matcher.best_pairs(truth.len(), tracks.len(), score) {
        if excused(&truth[row]) {
            keep[column] = false;
        }
    }
    let kept = tracks.iter().zip(keep);
    kept.filter_map(|(track, keep)| keep.then_some(track))
        .collect()
}
