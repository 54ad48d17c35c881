//! BYTE, the association that ByteTrack (Zhang et al., ECCV 2022, arXiv:2110.06864) brought and
//! BoT-SORT (Aharon et al., 2022, arXiv:2206.14651) kept: the life of tracks from their first
//! detection to their removal.
//!
//! Every detection counts, also a poor one: those with good scores are matched first, with all
//! confirmed and lost tracks; tracks that are then left over, and were seen in the frame before,
//! may take a detection with a poor score. Only good ones begin tracks.
//!
//! Both reference implementations (ifzhang/ByteTrack and NirAharon/BoT-SORT, MIT) are followed to
//! the letter. Where they hold a surprise, it is kept, and the code says so:
//! - a score that equals the threshold is neither good nor poor;
//! - tentative tracks are matched where they were first seen, without a prediction;
//! - a track that has expired can still be found again in the frame after; once lost another
//!   time it is dropped at once.
//!
//! Two things differ. The references keep every removed track for ever to know the third case;
//! here the track itself remembers. And detections that would break their arithmetic (not finite,
//! without extent) never enter.

mod appearance;
mod candidates;
mod matching;

use std::mem;

use mtmc_models::{BBox, Embedding};
use serde::{Deserialize, Serialize};

use super::kalman::BoxFilter;
use super::overlap::Corners;
use super::{FrameDetections, Track, TrackState};
pub(super) use appearance::AppearanceRules;
use appearance::Looks;
use candidates::{Candidate, Candidates};
use matching::{Matching, Pricing};

/// What a tracker's settings come down to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Scores above this are good.
    pub high_thresh: f32,
    /// Scores above this and below `high_thresh` are poor.
    pub low_thresh: f32,
    /// Scores from this on begin a track.
    pub begin_thresh: f32,
    /// Cost limit of the first association.
    pub match_limit: f64,
    /// Cost limit of the second one.
    pub second_limit: f64,
    /// Cost limit of the association of tentative tracks.
    pub tentative_limit: f64,
    /// A tracked and a lost box less than this apart (1 - IoU) are one object.
    pub duplicate_limit: f64,
    /// Frames that a lost track is kept for.
    pub max_frames_lost: u64,
    /// Multiply IoU with the score where good detections are matched.
    pub fuse_score: bool,
    /// Match good detections by their looks too.
    pub appearance: Option<AppearanceRules>,
    /// Report tentative tracks too.
    pub report_tentative: bool,
}

/// The tracks of one camera, and what happens to them in a frame.
///
/// What it keeps is bounded: tracks seen in the latest frame (at most
/// [`super::MAX_DETECTIONS`]), and lost ones, each for [`Rules::max_frames_lost`] frames and one
/// more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Byte<F> {
    /// Updates so far; the time that everything below is told in.
    time: u64,
    /// Tracks ever begun, and so the latest ID.
    tracks_begun: u64,
    dropped_detections: u64,
    dropped_embeddings: u64,
    /// Tracks of the latest frame, tentative ones among them.
    tracked: Vec<Tracklet<F>>,
    /// Tracks out of sight.
    lost: Vec<Tracklet<F>>,
    #[serde(skip)]
    scratch: Scratch,
}

/// One track, from its first detection to its removal.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tracklet<F> {
    id: u64,
    state: TrackState,
    /// It has been removed before: when lost again it is dropped at once.
    expired: bool,
    filter: F,
    score: f32,
    class: u32,
    /// Time of the first detection.
    first_seen: u64,
    /// Time of the latest detection.
    last_seen: u64,
    /// Index of the latest detection in its frame.
    detection: usize,
    looks: Looks,
}

/// Memory that updates reuse; empty between them as far as anybody is concerned.
#[derive(Debug, Clone, Default)]
struct Scratch {
    candidates: Candidates,
    /// Places of the tracks that are being matched, in `tracked`.
    rows: Vec<usize>,
    matching: Matching,
    drop_tracked: Vec<bool>,
    drop_lost: Vec<bool>,
}

impl Rules {
    /// How good detections are matched.
    fn pricing<'a>(&self, limit: f64, embeddings: &'a [Option<Embedding>]) -> Pricing<'a> {
        Pricing {
            limit,
            fuse_score: self.fuse_score,
            appearance: self.appearance,
            embeddings,
        }
    }
}

impl<F: BoxFilter> Tracklet<F> {
    /// A detection is this track's.
    fn see(&mut self, candidate: &Candidate, time: u64) {
        self.filter.update(candidate.measurement);
        self.state = TrackState::Tracked;
        self.score = candidate.score;
        self.class = candidate.class;
        self.last_seen = time;
        self.detection = candidate.index;
    }

    /// Takes in how a good detection looks.
    fn look(&mut self, candidate: &Candidate, by_looks: bool, pricing: &Pricing<'_>) {
        self.looks.counts.matches += u64::from(by_looks);
        let embedding = candidate.embedding(pricing.embeddings);
        if let (Some(embedding), Some(rules)) = (embedding, &pricing.appearance) {
            self.looks.take(embedding, rules.keep);
        }
    }

    fn row(&self) -> (Corners, &Looks) {
        (self.filter.corners(), &self.looks)
    }

    fn age(&self) -> u64 {
        self.last_seen - self.first_seen
    }

    fn report(&self, time: u64) -> Track {
        let [x1, y1, x2, y2] = self.filter.corners().map(|v| v as f32);
        Track {
            track_id: self.id,
            bbox: BBox { x1, y1, x2, y2 },
            score: self.score,
            class: self.class,
            state: self.state,
            age: self.age(),
            velocity: self.filter.velocity().map(|v| v as f32),
            detection_index: (self.last_seen == time).then_some(self.detection),
            appearance: self.looks.counts,
        }
    }
}

impl<F: BoxFilter> Byte<F> {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            time: 0,
            tracks_begun: 0,
            dropped_detections: 0,
            dropped_embeddings: 0,
            tracked: Vec::new(),
            lost: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    pub fn dropped_detections(&self) -> u64 {
        self.dropped_detections
    }

    pub fn dropped_embeddings(&self) -> u64 {
        self.dropped_embeddings
    }

    /// All tracks that are kept: those of the latest frame, tentative ones among them, then those
    /// out of sight.
    pub fn kept(&self) -> Vec<Track> {
        let all = self.tracked.iter().chain(&self.lost);
        all.map(|track| track.report(self.time)).collect()
    }

    /// Time goes on by one frame. Confirmed and lost tracks move; tentative ones stay where they
    /// were seen.
    pub fn predict(&mut self) {
        self.time += 1;
        for track in self.tracked.iter_mut().chain(&mut self.lost) {
            if track.state == TrackState::Tentative {
                continue;
            }
            if track.state != TrackState::Tracked {
                track.filter.stop_size();
            }
            track.filter.predict();
        }
    }

    /// The filters of all tracks.
    pub fn filters_mut(&mut self) -> impl Iterator<Item = &mut F> {
        let all = self.tracked.iter_mut().chain(&mut self.lost);
        all.map(|track| &mut track.filter)
    }

    /// Erases the looks of all tracks but those that `keeps` says.
    pub fn forget_looks(&mut self, keeps: impl Fn(u64) -> bool) {
        for track in self.tracked.iter_mut().chain(&mut self.lost) {
            if !keeps(track.id) {
                track.looks.forget();
            }
        }
    }

    /// Matches the frame's detections with the tracks where they are now, and returns the tracks
    /// that were seen.
    pub fn associate(&mut self, rules: &Rules, frame: &FrameDetections) -> Vec<Track> {
        let dim = self.dim(rules);
        let dropped = self.scratch.candidates.take(rules, frame, dim);
        self.dropped_detections += dropped.detections;
        self.dropped_embeddings += dropped.embeddings;
        let embeddings = &frame.embeddings;
        self.associate_high(&rules.pricing(rules.match_limit, embeddings));
        self.associate_low(rules.second_limit);
        self.associate_tentative(&rules.pricing(rules.tentative_limit, embeddings));
        self.begin_tracks(rules.begin_thresh, &rules.pricing(0.0, embeddings));
        self.settle(rules.max_frames_lost);
        self.drop_duplicates(rules.duplicate_limit);
        let mut tracks = Vec::with_capacity(self.tracked.len());
        for track in &self.tracked {
            if track.state == TrackState::Tracked || rules.report_tentative {
                tracks.push(track.report(self.time));
            }
        }
        tracks
    }

    /// Size of the embeddings that tracks were given so far.
    fn dim(&self, rules: &Rules) -> Option<usize> {
        rules.appearance.as_ref()?;
        let mut all = self.tracked.iter().chain(&self.lost);
        all.find_map(|track| track.looks.dim())
    }

    /// Puts the places of the tracked ones in a state into `rows`.
    fn select(&self, rows: &mut Vec<usize>, state: TrackState) {
        rows.clear();
        rows.extend((0..self.tracked.len()).filter(|&i| self.tracked[i].state == state));
    }

    /// First association: confirmed and lost tracks with good detections. Afterwards `rows` holds
    /// the confirmed tracks that are left, `high` the detections.
    fn associate_high(&mut self, pricing: &Pricing<'_>) {
        let mut rows = mem::take(&mut self.scratch.rows);
        self.select(&mut rows, TrackState::Tracked);
        let high = &mut self.scratch.candidates.high;
        let matching = &mut self.scratch.matching;
        let confirmed = rows.iter().map(|&i| self.tracked[i].row());
        let pool = confirmed.chain(self.lost.iter().map(Tracklet::row));
        matching.solve(pool, high, pricing);
        for (row, &place) in rows.iter().enumerate() {
            if let Some((column, by_looks)) = matching.column_of(row) {
                let track = &mut self.tracked[place];
                track.see(&high[column], self.time);
                track.look(&high[column], by_looks, pricing);
            }
        }
        for (row, track) in self.lost.iter_mut().enumerate() {
            if let Some((column, by_looks)) = matching.column_of(rows.len() + row) {
                track.see(&high[column], self.time);
                track.look(&high[column], by_looks, pricing);
            }
        }
        matching.drop_matched(high);
        rows.retain(|&i| self.tracked[i].last_seen != self.time);
        self.scratch.rows = rows;
    }

    /// Second association: confirmed tracks that are left with poor detections, by their boxes
    /// alone. Those that find none are lost.
    fn associate_low(&mut self, limit: f64) {
        let Scratch {
            candidates: Candidates { low, .. },
            rows,
            matching,
            ..
        } = &mut self.scratch;
        let boxes = rows.iter().map(|&i| self.tracked[i].row());
        let pricing = Pricing {
            limit,
            fuse_score: false,
            appearance: None,
            embeddings: &[],
        };
        matching.solve(boxes, low, &pricing);
        for (row, &place) in rows.iter().enumerate() {
            let track = &mut self.tracked[place];
            match matching.column_of(row) {
                // Looks of poor detections, half hidden as they are, are not taken in.
                Some((column, _)) => track.see(&low[column], self.time),
                None => track.state = TrackState::Lost,
            }
        }
    }

    /// Tentative tracks with the good detections that are left: confirmed now, or removed.
    fn associate_tentative(&mut self, pricing: &Pricing<'_>) {
        let mut rows = mem::take(&mut self.scratch.rows);
        self.select(&mut rows, TrackState::Tentative);
        let high = &mut self.scratch.candidates.high;
        let matching = &mut self.scratch.matching;
        matching.solve(rows.iter().map(|&i| self.tracked[i].row()), high, pricing);
        for (row, &place) in rows.iter().enumerate() {
            let track = &mut self.tracked[place];
            match matching.column_of(row) {
                Some((column, by_looks)) => {
                    track.see(&high[column], self.time);
                    track.look(&high[column], by_looks, pricing);
                }
                None => track.state = TrackState::Removed,
            }
        }
        matching.drop_matched(high);
        self.scratch.rows = rows;
    }

    /// Good detections that nobody took begin tracks; in the very first frame they are confirmed.
    fn begin_tracks(&mut self, begin_thresh: f32, pricing: &Pricing<'_>) {
        let state = if self.time == 1 {
            TrackState::Tracked
        } else {
            TrackState::Tentative
        };
        for candidate in &self.scratch.candidates.high {
            if candidate.score < begin_thresh {
                continue;
            }
            self.tracks_begun += 1;
            let mut track = Tracklet {
                id: self.tracks_begun,
                state,
                expired: false,
                filter: F::initiate(candidate.measurement),
                score: candidate.score,
                class: candidate.class,
                first_seen: self.time,
                last_seen: self.time,
                detection: candidate.index,
                looks: Looks::default(),
            };
            track.look(candidate, false, pricing);
            self.tracked.push(track);
        }
    }

    /// Moves every track to the list where it now belongs, in the references' order: seen before,
    /// begun, found again.
    fn settle(&mut self, max_frames_lost: u64) {
        for track in &mut self.lost {
            if self.time - track.last_seen > max_frames_lost {
                track.state = TrackState::Removed;
            }
        }
        let found_again = self.lost.extract_if(.., |t| t.state == TrackState::Tracked);
        self.tracked.extend(found_again);
        self.lost
            .extend(self.tracked.extract_if(.., |t| t.state == TrackState::Lost));
        self.tracked.retain(|t| t.state != TrackState::Removed);
        // The tracks removed in this frame stay for one more, as in the references, whose list of
        // removed tracks grows only after this.
        self.lost.retain(|t| !t.expired);
        for track in &mut self.lost {
            track.expired = track.state == TrackState::Removed;
        }
    }

    /// Where a tracked and a lost box lie on each other, only the older track stays.
    fn drop_duplicates(&mut self, limit: f64) {
        if self.lost.is_empty() || self.tracked.is_empty() {
            return;
        }
        let Scratch {
            matching: Matching { index, .. },
            drop_tracked,
            drop_lost,
            ..
        } = &mut self.scratch;
        refill(drop_tracked, self.tracked.len());
        refill(drop_lost, self.lost.len());
        index.fill(self.lost.iter().map(|t| t.filter.corners()));
        for (place, track) in self.tracked.iter().enumerate() {
            index.query(&track.filter.corners(), |other, iou| {
                let duplicate = 1.0 - iou < limit;
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

fn refill(marks: &mut Vec<bool>, length: usize) {
    marks.clear();
    marks.resize(length, false);
}

fn drop_marked<F>(tracks: &mut Vec<Tracklet<F>>, marks: &[bool]) {
    let mut place = 0;
    tracks.retain(|_| {
        place += 1;
        !marks[place - 1]
    });
}
