//! ByteTrack (Zhang et al., ECCV 2022, arXiv:2110.06864), to the letter of its reference
//! implementation (ifzhang/ByteTrack, `yolox/tracker`, MIT): the same IDs on the same detections.
//!
//! Every detection counts, also a poor one: those with good scores are matched first, with all
//! confirmed tracks; tracks that are then left over, and were seen in the frame before, may take a
//! detection with a poor score. Only good ones begin tracks.
//!
//! Where the reference holds a surprise, it is kept, and the code says so:
//! - a score that equals `track_thresh` is neither good nor poor;
//! - tentative tracks are matched where they were first seen, without a prediction;
//! - a track that has expired can still be found again in the frame after; once lost another
//!   time it is dropped at once.
//!
//! Two things differ. The reference keeps every removed track for ever to know the third case; here
//! the track itself remembers. And detections that would break its arithmetic (not finite, without
//! extent) never enter.

use std::mem;

use mtmc_models::{BBox, Detection};
use serde::{Deserialize, Serialize};

use super::assignment::{Assignment, SparseCosts};
use super::kalman::{KalmanState, Xyah};
use super::overlap::{Corners, OverlapIndex};
use super::{
    AppearanceCounts, FrameDetections, MAX_DETECTIONS, SettingError, Track, TrackState, Tracker,
};

/// How [`ByteTrack`] decides. The defaults are the reference's.
///
/// Scores are compared in f32, as NumPy does for a detector's output.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ByteTrackSettings {
    /// Detections above this score take part in the first association, 0..=1. Default 0.5; the
    /// reference's runs on MOT17 use 0.6.
    pub track_thresh: f64,
    /// Detections above this score and below `track_thresh` take part in the second association.
    /// Default 0.1.
    pub low_thresh: f64,
    /// A detection begins a track from `track_thresh` plus this on. Default 0.1.
    pub new_track_margin: f64,
    /// Cost limit of the first association, 0..1 without the ends. Default 0.8; the reference's
    /// runs on MOT17 use 0.9.
    pub match_thresh: f64,
    /// Cost limit (1 - IoU) of the second association, 0..1 without the ends. Default 0.5.
    pub second_match_thresh: f64,
    /// Cost limit of matching tentative tracks, 0..1 without the ends. Default 0.7.
    pub unconfirmed_match_thresh: f64,
    /// A tracked and a lost box with less than this (1 - IoU) between them are one object and the
    /// older track stays. Default 0.15.
    pub duplicate_thresh: f64,
    /// How long a lost track is kept, in frames at 30 frames a second: 1 second by default. At
    /// most 100,000.
    pub track_buffer: u32,
    /// Frames a second that the tracker gets; the buffer is scaled by it. Default 30.
    pub frame_rate: f64,
    /// Multiply IoU with the detection's score where good detections are matched. Default true;
    /// off is the reference's `mot20`.
    pub fuse_score: bool,
}

impl Default for ByteTrackSettings {
    fn default() -> Self {
        Self {
            track_thresh: 0.5,
            low_thresh: 0.1,
            new_track_margin: 0.1,
            match_thresh: 0.8,
            second_match_thresh: 0.5,
            unconfirmed_match_thresh: 0.7,
            duplicate_thresh: 0.15,
            track_buffer: 30,
            frame_rate: 30.0,
            fuse_score: true,
        }
    }
}

impl ByteTrackSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of range, its value and the range.
    pub fn validate(&self) -> Result<(), SettingError> {
        let shares = [
            ("track_thresh", self.track_thresh),
            ("low_thresh", self.low_thresh),
            ("new_track_margin", self.new_track_margin),
        ];
        for (setting, value) in shares {
            check(setting, value, "in 0..=1", (0.0..=1.0).contains(&value))?;
        }
        // Boxes that do not touch cost 1: a limit of 1 would match anything with anything.
        let limits = [
            ("match_thresh", self.match_thresh),
            ("second_match_thresh", self.second_match_thresh),
            ("unconfirmed_match_thresh", self.unconfirmed_match_thresh),
            ("duplicate_thresh", self.duplicate_thresh),
        ];
        for (setting, value) in limits {
            let inside = value > 0.0 && value < 1.0;
            check(setting, value, "above 0 and below 1", inside)?;
        }
        let rate = self.frame_rate;
        let possible = rate > 0.0 && rate <= 1000.0;
        check("frame_rate", rate, "above 0 and at most 1000", possible)?;
        let buffer = f64::from(self.track_buffer);
        check("track_buffer", buffer, "at most 100000", buffer <= 1e5)
    }

    /// Frames that a lost track is kept for: the buffer, scaled by the frame rate, rounded down.
    pub fn max_frames_lost(&self) -> u64 {
        (self.frame_rate / 30.0 * f64::from(self.track_buffer)) as u64
    }
}

fn check(
    setting: &'static str,
    value: f64,
    expected: &'static str,
    holds: bool,
) -> Result<(), SettingError> {
    if holds {
        return Ok(());
    }
    Err(SettingError {
        setting,
        value,
        expected,
    })
}

/// The ByteTrack tracker of one camera.
///
/// What it keeps is bounded: tracks seen in the latest frame (at most [`MAX_DETECTIONS`]), and lost
/// ones, each for [`ByteTrackSettings::max_frames_lost`] frames and one more. Serialised, it can go
/// on later where it stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ByteTrack {
    settings: ByteTrackSettings,
    /// Updates so far; the time that everything below is told in.
    time: u64,
    /// Tracks ever begun, and so the latest ID.
    tracks_begun: u64,
    dropped: u64,
    /// Tracks of the latest frame, tentative ones among them.
    tracked: Vec<Tracklet>,
    /// Tracks out of sight.
    lost: Vec<Tracklet>,
    #[serde(skip)]
    scratch: Scratch,
}

/// One track, from its first detection to its removal.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tracklet {
    id: u64,
    state: TrackState,
    /// It has been removed before: when lost again it is dropped at once.
    expired: bool,
    kalman: KalmanState,
    score: f32,
    class: u32,
    /// Time of the first detection.
    first_seen: u64,
    /// Time of the latest detection.
    last_seen: u64,
    /// Index of the latest detection in its frame.
    detection: usize,
}

/// A detection in the form that matching needs.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    corners: Corners,
    measurement: Xyah,
    score: f32,
    class: u32,
    /// Index in the frame.
    index: usize,
}

/// Memory that updates reuse; empty between them as far as anybody is concerned.
#[derive(Debug, Clone, Default)]
struct Scratch {
    /// Candidates with good scores; as they are matched, the rest moves on.
    high: Vec<Candidate>,
    /// Candidates with poor scores.
    low: Vec<Candidate>,
    /// Places of the tracks that are being matched, in `tracked`.
    rows: Vec<usize>,
    begun: Vec<Tracklet>,
    found_again: Vec<Tracklet>,
    index: OverlapIndex,
    costs: SparseCosts,
    assignment: Assignment,
    drop_tracked: Vec<bool>,
    drop_lost: Vec<bool>,
}

impl Candidate {
    /// A detection's numbers, widened; `None` if they are not finite or the box has no extent.
    fn new(index: usize, detection: &Detection) -> Option<Self> {
        let BBox { x1, y1, x2, y2 } = detection.bbox;
        // Sizes in f32 and all else in f64: what the reference does with a detector's output.
        let (width, height) = (x2 - x1, y2 - y1);
        let finite = [x1, y1, width, height, detection.score]
            .iter()
            .all(|v| v.is_finite());
        if !finite || width <= 0.0 || height <= 0.0 {
            return None;
        }
        let [left, top, width, height] = [x1, y1, width, height].map(f64::from);
        Some(Self {
            corners: [left, top, left + width, top + height],
            measurement: [
                left + width / 2.0,
                top + height / 2.0,
                width / height,
                height,
            ],
            score: detection.score,
            class: detection.class,
            index,
        })
    }
}

impl Tracklet {
    fn see(&mut self, candidate: &Candidate, time: u64) {
        self.kalman.update(candidate.measurement);
        self.state = TrackState::Tracked;
        self.score = candidate.score;
        self.class = candidate.class;
        self.last_seen = time;
        self.detection = candidate.index;
    }

    fn age(&self) -> u64 {
        self.last_seen - self.first_seen
    }

    fn report(&self, time: u64) -> Track {
        let [x1, y1, x2, y2] = self.kalman.corners().map(|v| v as f32);
        let [vx, vy, ..] = self.kalman.velocity.map(|v| v as f32);
        Track {
            track_id: self.id,
            bbox: BBox { x1, y1, x2, y2 },
            score: self.score,
            class: self.class,
            state: self.state,
            age: self.age(),
            velocity: [vx, vy],
            detection_index: (self.last_seen == time).then_some(self.detection),
            appearance: AppearanceCounts::default(),
        }
    }
}

impl Scratch {
    /// Matches boxes of tracks with candidates; the solution is then in `assignment`.
    fn solve(
        &mut self,
        rows: impl Iterator<Item = Corners>,
        candidates: &[Candidate],
        fuse_score: bool,
        limit: f64,
    ) {
        self.index.fill(candidates.iter().map(|c| c.corners));
        self.costs.clear(candidates.len());
        for corners in rows {
            self.index.query(&corners, |column, iou| {
                let mut cost = 1.0 - iou;
                if fuse_score {
                    // Not `iou * score`: the reference rounds here.
                    cost = 1.0 - (1.0 - cost) * f64::from(candidates[column].score);
                }
                if cost <= limit {
                    self.costs.push(column, cost);
                }
            });
            self.costs.end_row();
        }
        self.assignment.solve(&self.costs, limit);
    }

    /// Drops the candidates that the latest solution matched with a track.
    fn drop_matched(candidates: &mut Vec<Candidate>, assignment: &Assignment) {
        let mut column = 0;
        candidates.retain(|_| {
            column += 1;
            assignment.row_of(column - 1).is_none()
        });
    }
}

impl ByteTrack {
    /// A tracker that has seen nothing yet.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(settings: ByteTrackSettings) -> Result<Self, SettingError> {
        settings.validate()?;
        Ok(Self {
            settings,
            time: 0,
            tracks_begun: 0,
            dropped: 0,
            tracked: Vec::new(),
            lost: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &ByteTrackSettings {
        &self.settings
    }

    /// All tracks that are kept: those of the latest frame, tentative ones among them, then those
    /// out of sight.
    pub fn kept(&self) -> Vec<Track> {
        let all = self.tracked.iter().chain(&self.lost);
        all.map(|track| track.report(self.time)).collect()
    }

    /// Sorts the frame's detections into those with good and those with poor scores.
    fn take_candidates(&mut self, detections: &[Detection]) {
        let (high, low) = (&mut self.scratch.high, &mut self.scratch.low);
        high.clear();
        low.clear();
        let best;
        let mut chosen = detections.len();
        if detections.len() > MAX_DETECTIONS {
            best = best_by_score(detections);
            chosen = MAX_DETECTIONS;
        } else {
            best = Vec::new();
        }
        self.dropped += (detections.len() - chosen) as u64;
        let track_thresh = self.settings.track_thresh as f32;
        let low_thresh = self.settings.low_thresh as f32;
        for place in 0..chosen {
            let index = best.get(place).copied().unwrap_or(place);
            let Some(candidate) = Candidate::new(index, &detections[index]) else {
                self.dropped += 1;
                continue;
            };
            if candidate.score > track_thresh {
                high.push(candidate);
            } else if candidate.score > low_thresh && candidate.score < track_thresh {
                low.push(candidate);
            }
        }
    }

    /// One frame passes for all confirmed tracks; tentative ones stay where they were seen.
    fn predict(&mut self) {
        for track in self.tracked.iter_mut().chain(&mut self.lost) {
            if track.state == TrackState::Tentative {
                continue;
            }
            if track.state != TrackState::Tracked {
                track.kalman.stop_height();
            }
            track.kalman.predict();
        }
    }

    /// First association: confirmed and lost tracks with good detections. Afterwards `rows` holds
    /// the confirmed tracks that are left, `high` the detections.
    fn associate_high(&mut self) {
        let mut rows = mem::take(&mut self.scratch.rows);
        let mut high = mem::take(&mut self.scratch.high);
        rows.clear();
        rows.extend(
            (0..self.tracked.len()).filter(|&i| self.tracked[i].state == TrackState::Tracked),
        );
        let confirmed = rows.iter().map(|&i| self.tracked[i].kalman.corners());
        let pool = confirmed.chain(self.lost.iter().map(|t| t.kalman.corners()));
        let (fuse, limit) = (self.settings.fuse_score, self.settings.match_thresh);
        self.scratch.solve(pool, &high, fuse, limit);

        let assignment = &self.scratch.assignment;
        for (row, &place) in rows.iter().enumerate() {
            if let Some(column) = assignment.column_of(row) {
                self.tracked[place].see(&high[column], self.time);
            }
        }
        for (row, track) in self.lost.iter_mut().enumerate() {
            if let Some(column) = assignment.column_of(rows.len() + row) {
                track.see(&high[column], self.time);
            }
        }
        Scratch::drop_matched(&mut high, assignment);
        rows.retain(|&i| self.tracked[i].last_seen != self.time);
        self.scratch.rows = rows;
        self.scratch.high = high;
    }

    /// Second association: confirmed tracks that are left with poor detections. Those that find
    /// none are lost.
    fn associate_low(&mut self) {
        let rows = mem::take(&mut self.scratch.rows);
        let low = mem::take(&mut self.scratch.low);
        let boxes = rows.iter().map(|&i| self.tracked[i].kalman.corners());
        let limit = self.settings.second_match_thresh;
        self.scratch.solve(boxes, &low, false, limit);
        for (row, &place) in rows.iter().enumerate() {
            let track = &mut self.tracked[place];
            match self.scratch.assignment.column_of(row) {
                Some(column) => track.see(&low[column], self.time),
                None => track.state = TrackState::Lost,
            }
        }
        self.scratch.rows = rows;
        self.scratch.low = low;
    }

    /// Tentative tracks with the good detections that are left: confirmed now, or removed.
    fn associate_tentative(&mut self) {
        let mut rows = mem::take(&mut self.scratch.rows);
        let mut high = mem::take(&mut self.scratch.high);
        rows.clear();
        rows.extend(
            (0..self.tracked.len()).filter(|&i| self.tracked[i].state == TrackState::Tentative),
        );
        let boxes = rows.iter().map(|&i| self.tracked[i].kalman.corners());
        let (fuse, limit) = (
            self.settings.fuse_score,
            self.settings.unconfirmed_match_thresh,
        );
        self.scratch.solve(boxes, &high, fuse, limit);
        for (row, &place) in rows.iter().enumerate() {
            let track = &mut self.tracked[place];
            match self.scratch.assignment.column_of(row) {
                Some(column) => track.see(&high[column], self.time),
                None => track.state = TrackState::Removed,
            }
        }
        Scratch::drop_matched(&mut high, &self.scratch.assignment);
        self.scratch.rows = rows;
        self.scratch.high = high;
    }

    /// Good detections that nobody took begin tracks; in the very first frame they are confirmed.
    fn begin_tracks(&mut self) {
        let threshold = (self.settings.track_thresh + self.settings.new_track_margin) as f32;
        let state = if self.time == 1 {
            TrackState::Tracked
        } else {
            TrackState::Tentative
        };
        for candidate in &self.scratch.high {
            if candidate.score < threshold {
                continue;
            }
            self.tracks_begun += 1;
            self.scratch.begun.push(Tracklet {
                id: self.tracks_begun,
                state,
                expired: false,
                kalman: KalmanState::initiate(candidate.measurement),
                score: candidate.score,
                class: candidate.class,
                first_seen: self.time,
                last_seen: self.time,
                detection: candidate.index,
            });
        }
    }

    /// Moves every track to the list where it now belongs, in the reference's order.
    fn settle(&mut self) {
        let max_frames_lost = self.settings.max_frames_lost();
        for track in &mut self.lost {
            if self.time - track.last_seen > max_frames_lost {
                track.state = TrackState::Removed;
            }
        }
        let found_again = &mut self.scratch.found_again;
        found_again.extend(self.lost.extract_if(.., |t| t.state == TrackState::Tracked));
        self.lost
            .extend(self.tracked.extract_if(.., |t| t.state == TrackState::Lost));
        self.tracked.retain(|t| t.state != TrackState::Removed);
        self.tracked.append(&mut self.scratch.begun);
        self.tracked.append(found_again);
        // The tracks removed in this frame stay for one more, as in the reference, whose list of
        // removed tracks grows only after this.
        self.lost.retain(|t| !t.expired);
        for track in &mut self.lost {
            track.expired = track.state == TrackState::Removed;
        }
    }

    /// Where a tracked and a lost box lie on each other, only the older track stays.
    fn drop_duplicates(&mut self) {
        if self.lost.is_empty() || self.tracked.is_empty() {
            return;
        }
        let Scratch {
            index,
            drop_tracked,
            drop_lost,
            ..
        } = &mut self.scratch;
        refill(drop_tracked, self.tracked.len());
        refill(drop_lost, self.lost.len());
        index.fill(self.lost.iter().map(|t| t.kalman.corners()));
        for (place, track) in self.tracked.iter().enumerate() {
            index.query(&track.kalman.corners(), |other, iou| {
                let duplicate = 1.0 - iou < self.settings.duplicate_thresh;
                if !duplicate {
                    return;
                }
                if track.age() > self.lost[other].age() {
                    drop_lost[other] = true;
                } else {
                    drop_tracked[place] = true;
                }
            });
        }
        drop_marked(&mut self.tracked, drop_tracked);
        drop_marked(&mut self.lost, drop_lost);
    }
}

impl Tracker for ByteTrack {
    fn update(&mut self, frame: &FrameDetections) -> Vec<Track> {
        self.time += 1;
        self.take_candidates(&frame.detections);
        self.predict();
        self.associate_high();
        self.associate_low();
        self.associate_tentative();
        self.begin_tracks();
        self.settle();
        self.drop_duplicates();
        let mut tracks = Vec::with_capacity(self.tracked.len());
        for track in &self.tracked {
            if track.state == TrackState::Tracked {
                tracks.push(track.report(self.time));
            }
        }
        tracks
    }

    fn dropped_detections(&self) -> u64 {
        self.dropped
    }
}

/// Indices of the [`MAX_DETECTIONS`] detections with the best scores, in the frame's order.
fn best_by_score(detections: &[Detection]) -> Vec<usize> {
    let score = |i: usize| {
        let score = detections[i].score;
        if score.is_finite() {
            score
        } else {
            f32::NEG_INFINITY
        }
    };
    let mut best: Vec<usize> = (0..detections.len()).collect();
    best.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    best.truncate(MAX_DETECTIONS);
    best.sort_unstable();
    best
}

fn refill(marks: &mut Vec<bool>, length: usize) {
    marks.clear();
    marks.resize(length, false);
}

fn drop_marked(tracks: &mut Vec<Tracklet>, marks: &[bool]) {
    let mut place = 0;
    tracks.retain(|_| {
        place += 1;
        !marks[place - 1]
    });
}

#[cfg(test)]
mod tests;
