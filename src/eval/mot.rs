//! MOT Challenge text: reading, and the benchmark's preparation of truth and tracks.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::{EPS, EvalFrame, EvalSequence, best_pairs};
use crate::tracker::mot::{MotError, read_lines};

/// Which benchmark's rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Benchmark {
    /// All boxes whose flag is not 0 count.
    Mot15,
    /// Only pedestrians count; tracks on persons on vehicles, static persons, distractors and
    /// reflections are taken out.
    #[default]
    Mot17,
    /// As MOT17, and also tracks on non-motorised vehicles are taken out.
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
    frames: HashMap<u64, Vec<Row>>,
    last_frame: u64,
}

/// No sequence of the field is longer: a bound against a hostile frame number.
const MAX_FRAMES: u64 = 10_000_000;

impl Boxes {
    /// Reads truth or tracks.
    ///
    /// # Errors
    /// The file cannot be read; a line has too few or unreadable columns; a frame has an identity
    /// twice. The error names file and line.
    pub fn read(path: &Path) -> Result<Self, MotError> {
        let file = File::open(path).map_err(|source| MotError::io(path, source))?;
        let mut boxes = Self::default();
        read_lines(BufReader::new(file), path, |line| boxes.add(line))?;
        Ok(boxes)
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let mut numbers = Vec::with_capacity(10);
        for (column, text) in line
            .split([',', ' ', '\t'])
            .filter(|t| !t.is_empty())
            .enumerate()
        {
            let number: f64 = text
                .trim()
                .parse()
                .map_err(|_| format!("column {}: `{text}` is no number", column + 1))?;
            if !number.is_finite() {
                return Err(format!("column {}: `{text}` is not finite", column + 1));
            }
            numbers.push(number);
        }
        let &[frame, id, left, top, width, height, ..] = numbers.as_slice() else {
            return Err(format!("{} columns, at least 6 are needed", numbers.len()));
        };
        if frame < 1.0 || frame.fract() != 0.0 || frame > MAX_FRAMES as f64 {
            return Err(format!("frame {frame} is not within 1..={MAX_FRAMES}"));
        }
        let frame = frame as u64;
        let row = Row {
            id: id as i64,
            tlwh: [left, top, width, height],
            flag: numbers.get(6).copied().unwrap_or(1.0),
            class: numbers.get(7).map_or(-1, |class| *class as i64),
        };
        let rows = self.frames.entry(frame).or_default();
        if rows.iter().any(|other| other.id == row.id) {
            return Err(format!("identity {} stands twice in frame {frame}", row.id));
        }
        rows.push(row);
        self.last_frame = self.last_frame.max(frame);
        Ok(())
    }

    /// The highest frame number with a box; 0 without any.
    pub fn last_frame(&self) -> u64 {
        self.last_frame
    }

    fn frame(&self, frame: u64) -> &[Row] {
        self.frames.get(&frame).map_or(&[], Vec::as_slice)
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
    let length = length.unwrap_or(truth.last_frame.max(tracks.last_frame));
    let mut truth_ids = HashMap::new();
    let mut track_ids = HashMap::new();
    let mut frames = Vec::new();
    for number in 1..=length {
        let rows = truth.frame(number);
        let found = without_distractors(rows, tracks.frame(number), benchmark);
        let counts = |row: &&Row| {
            row.flag != 0.0 && (benchmark == Benchmark::Mot15 || row.class == PEDESTRIAN)
        };
        let wanted: Vec<&Row> = rows.iter().filter(counts).collect();
        let mut frame = EvalFrame::default();
        for row in &wanted {
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
    EvalSequence {
        frames,
        truths: truth_ids.len(),
        tracks: track_ids.len(),
    }
}

/// The index that stands for an identity, the next free one if it is new.
fn dense(ids: &mut HashMap<i64, usize>, id: i64) -> usize {
    let next = ids.len();
    *ids.entry(id).or_insert(next)
}

/// The tracks that are not best explained by a box that nobody has to find.
fn without_distractors<'a>(truth: &[Row], tracks: &'a [Row], benchmark: Benchmark) -> Vec<&'a Row> {
    let excused = |row: &Row| benchmark.distractors().contains(&row.class);
    if tracks.is_empty() || !truth.iter().any(excused) {
        return tracks.iter().collect();
    }
    let mut scores = Vec::with_capacity(truth.len() * tracks.len());
    for row in truth {
        for track in tracks {
            let overlap = iou(&row.tlwh, &track.tlwh);
            scores.push(if overlap < 0.5 - EPS { 0.0 } else { overlap });
        }
    }
    let mut keep = vec![true; tracks.len()];
    for (row, column) in best_pairs(&scores, tracks.len()) {
        if excused(&truth[row]) {
            keep[column] = false;
        }
    }
    let kept = tracks.iter().zip(keep);
    kept.filter_map(|(track, keep)| keep.then_some(track))
        .collect()
}
