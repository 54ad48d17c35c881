//! What a task finds, on the way to the store: positions and tracks of every frame, people with how
//! they look, handoffs, identities that turned out to be one.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::RgbImage;
use mtmc_models::{BBox, Embedding};
use uuid::Uuid;

use crate::gallery::IdentityEvent;
use crate::handoff::HandoffEvent;
use crate::pipeline::{TrackIdentity, WorldEvent};
use crate::reid::crop_quality;
use crate::sink::{FrameResult, Sink, SinkError, StepOutcome, WorldSink, Written, jpeg_bytes};
use crate::store::{
    HandoffRecord, HandoffState, PersonRecord, PositionRecord, Record, TrackRecord,
};
use crate::tracker::Track;

use super::journal::Journal;

/// Frames after which a track's and a person's last sighting is stored anew; positions tell it in
/// the meantime.
const REFRESH: u64 = 25;

/// A picture replaces the one before if it is so much better.
const BETTER: f64 = 1.1;

/// Height of a stored picture in pixels.
const CROP_HEIGHT: u32 = 256;

/// Tracks and people that a camera remembers at most; the longest unseen go first.
const MEMORY: usize = 10_000;

/// What all sinks of a task share.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The task.
    pub task_id: Uuid,
    /// Its environment.
    pub environment_id: Arc<str>,
    /// The environment's time 0, in UTC milliseconds.
    pub start_ms: i64,
    /// Name of the network that makes vectors.
    pub model: Arc<str>,
    /// Quality of pictures, 1..=100; `None`: none are kept.
    pub crop_quality: Option<u8>,
}

impl Origin {
    fn ms(&self, seconds: f64) -> i64 {
        self.start_ms + (seconds * 1e3).round() as i64
    }
}

/// Stores what one camera sees.
pub struct KeepFrames {
    origin: Origin,
    journal: Arc<Journal>,
    camera_id: Arc<str>,
    /// Added to frames' times to get the environment's, in seconds.
    start_offset: f64,
    tracks: BTreeMap<u64, Followed>,
    /// The latest vector of each track that has not been stored: often it is not yet known whose it
    /// is when it is taken.
    vectors: BTreeMap<u64, Embedding>,
    people: BTreeMap<u64, Known>,
}

/// What is known of a track.
#[derive(Debug, Clone, Copy)]
struct Followed {
    first: (u64, i64),
    last: (u64, i64),
    global_id: Option<u64>,
    stored: u64,
}

/// What is known of a person.
#[derive(Debug, Clone, Copy)]
struct Known {
    first_ms: i64,
    last_ms: i64,
    last_frame: u64,
    crop_quality: f64,
    stored: u64,
}

impl KeepFrames {
    /// For a camera.
    pub fn new(origin: Origin, journal: Arc<Journal>, camera_id: &str, start_offset: f64) -> Self {
        Self {
            origin,
            journal,
            camera_id: Arc::from(camera_id),
            start_offset,
            tracks: BTreeMap::new(),
            vectors: BTreeMap::new(),
            people: BTreeMap::new(),
        }
    }

    fn position(
        &self,
        frame: u64,
        time_ms: i64,
        track: &Track,
        who: Option<&TrackIdentity>,
    ) -> Record {
        let BBox { x1, y1, x2, y2 } = track.bbox;
        let place = who.and_then(|who| who.place?.ok());
        Record::Position(PositionRecord {
            task_id: self.origin.task_id,
            camera_id: self.camera_id.clone(),
            frame: number(frame),
            track_id: number(track.track_id),
            time_ms,
            global_id: who.and_then(|who| who.global_id).map(number),
            bbox: [x1, y1, x2, y2].map(f64::from),
            score: f64::from(track.score),
            map: place.map(|place| [place.x, place.y]),
        })
    }

    /// Notes a track; a row if it is time for one.
    fn follow(
        &mut self,
        frame: u64,
        time_ms: i64,
        track: u64,
        global_id: Option<u64>,
    ) -> Option<Record> {
        let new = Followed {
            first: (frame, time_ms),
            last: (frame, time_ms),
            global_id,
            stored: 0,
        };
        let followed = self.tracks.entry(track).or_insert(new);
        followed.last = (frame, time_ms);
        let changed = followed.stored == 0 || followed.global_id != global_id;
        followed.global_id = global_id.or(followed.global_id);
        if !changed && frame - followed.stored.min(frame) < REFRESH {
            return None;
        }
        followed.stored = frame;
        let followed = *followed;
        Some(self.track_row(track, &followed))
    }

    fn track_row(&self, track: u64, followed: &Followed) -> Record {
        Record::Track(TrackRecord {
            task_id: self.origin.task_id,
            camera_id: self.camera_id.clone(),
            track_id: number(track),
            global_id: followed.global_id.map(number),
            first_frame: number(followed.first.0),
            last_frame: number(followed.last.0),
            first_ms: followed.first.1,
            last_ms: followed.last.1,
        })
    }

    /// Notes a person; a row if there is news.
    fn know(&mut self, seen: &Seen<'_>, global_id: u64) -> Option<Record> {
        let keep = self.origin.crop_quality;
        let known = self.people.entry(global_id).or_insert(Known {
            first_ms: seen.time_ms,
            last_ms: seen.time_ms,
            last_frame: seen.frame,
            crop_quality: 0.0,
            stored: 0,
        });
        known.last_ms = seen.time_ms;
        known.last_frame = seen.frame;
        let better = keep.is_some() && seen.quality > known.crop_quality * BETTER;
        let vector = self.vectors.remove(&seen.track_id);
        let due = known.stored == 0 || seen.frame - known.stored.min(seen.frame) >= REFRESH;
        if vector.is_none() && !better && !due {
            return None;
        }
        known.stored = seen.frame;
        let crop = match keep {
            Some(quality) if better => picture(seen.image, &seen.bbox, quality),
            _ => None,
        };
        if crop.is_some() {
            known.crop_quality = seen.quality;
        }
        let known = *known;
        Some(Record::Person(PersonRecord {
            model: vector.as_ref().map(|_| self.origin.model.to_string()),
            vector: vector.map(|vector| vector.as_slice().to_vec()),
            crop_quality: crop.as_ref().map(|_| seen.quality),
            crop,
            ..self.person_row(global_id, &known)
        }))
    }

    /// How far tracks and people went since they were stored.
    fn news(&mut self) -> Vec<Record> {
        let mut rows = Vec::new();
        for (&track, followed) in &self.tracks {
            if followed.stored < followed.last.0 {
                rows.push(self.track_row(track, followed));
            }
        }
        for (&global_id, known) in &self.people {
            if known.stored < known.last_frame {
                rows.push(Record::Person(self.person_row(global_id, known)));
            }
        }
        for followed in self.tracks.values_mut() {
            followed.stored = followed.last.0;
        }
        for known in self.people.values_mut() {
            known.stored = known.last_frame;
        }
        rows
    }

    fn person_row(&self, global_id: u64, known: &Known) -> PersonRecord {
        PersonRecord {
            global_id: number(global_id),
            task_id: self.origin.task_id,
            environment_id: self.origin.environment_id.to_string(),
            first_ms: known.first_ms,
            last_ms: known.last_ms,
            first_camera: self.camera_id.to_string(),
            last_camera: self.camera_id.to_string(),
            model: None,
            vector: None,
            crop: None,
            crop_quality: None,
            merged_into: None,
        }
    }

    /// Keeps what it remembers within bounds; a track that goes is stored as far as it went.
    fn forget(&mut self) -> Vec<Record> {
        let mut rows = Vec::new();
        while self.tracks.len() > MEMORY {
            let oldest = self.tracks.iter().min_by_key(|(_, track)| track.last.0);
            let Some((&track, &followed)) = oldest else {
                break;
            };
            self.tracks.remove(&track);
            self.vectors.remove(&track);
            rows.push(self.track_row(track, &followed));
        }
        while self.people.len() > MEMORY {
            let oldest = self.people.iter().min_by_key(|(_, known)| known.last_frame);
            let Some((&global_id, _)) = oldest else { break };
            self.people.remove(&global_id);
        }
        rows
    }
}

/// One sighting of a person.
struct Seen<'a> {
    track_id: u64,
    frame: u64,
    time_ms: i64,
    image: &'a RgbImage,
    bbox: BBox,
    quality: f64,
}

impl Sink for KeepFrames {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        let time_ms = self
            .origin
            .ms(result.timestamp.as_secs_f64() + self.start_offset);
        let frame = result.frame_number;
        let boxes: Vec<BBox> = result.tracks.iter().map(|track| track.bbox).collect();
        let size = [
            f64::from(result.image.width()),
            f64::from(result.image.height()),
        ];
        let mut rows = Vec::with_capacity(2 * boxes.len());
        for (index, track) in result.tracks.iter().enumerate() {
            let identity = result.identities.get(index);
            let global_id = identity.and_then(|identity| identity.global_id);
            if let Some(vector) = identity.and_then(|identity| identity.vector.as_ref()) {
                self.vectors.insert(track.track_id, vector.clone());
            }
            rows.push(self.position(frame, time_ms, track, identity));
            rows.extend(self.follow(frame, time_ms, track.track_id, global_id));
            if let Some(global_id) = global_id {
                let seen = Seen {
                    track_id: track.track_id,
                    frame,
                    time_ms,
                    image: result.image,
                    bbox: track.bbox,
                    quality: crop_quality(&track.bbox, &boxes, size),
                };
                rows.extend(self.know(&seen, global_id));
            }
        }
        rows.extend(self.forget());
        // What finds no room is counted there; a task goes on without it.
        self.journal.writer().push_blocking(rows);
        Ok(())
    }

    /// What a snapshot stands on must be in the store, as a run that is resumed does not find it
    /// again.
    fn checkpoint(&mut self) -> Result<Option<Written>, SinkError> {
        let news = self.news();
        self.journal.writer().push_blocking(news);
        self.journal.flush();
        Ok(None)
    }

    fn finish(mut self: Box<Self>) -> Result<(), SinkError> {
        let news = self.news();
        self.journal.writer().push_blocking(news);
        Ok(())
    }
}

/// The box's picture as JPEG, at most [`CROP_HEIGHT`] high; `None` where nothing of it is inside.
fn picture(image: &RgbImage, bbox: &BBox, quality: u8) -> Option<Vec<u8>> {
    let inside = bbox.clamp_to(image.width() as f32, image.height() as f32);
    let (left, top) = (inside.x1.floor() as u32, inside.y1.floor() as u32);
    let (width, height) = (inside.width().ceil() as u32, inside.height().ceil() as u32);
    if width == 0 || height == 0 {
        return None;
    }
    let cut = image::imageops::crop_imm(image, left, top, width, height).to_image();
    let cut = if height > CROP_HEIGHT {
        let narrow = (u64::from(width) * u64::from(CROP_HEIGHT) / u64::from(height)).max(1);
        let filter = image::imageops::FilterType::Triangle;
        image::imageops::resize(&cut, narrow as u32, CROP_HEIGHT, filter)
    } else {
        cut
    };
    jpeg_bytes(&cut, quality).ok()
}

/// Stores what happens between cameras.
pub struct KeepWorld {
    origin: Origin,
    journal: Arc<Journal>,
    camera_ids: Vec<String>,
}

impl KeepWorld {
    /// For cameras in the order of the run.
    pub fn new(origin: Origin, journal: Arc<Journal>, camera_ids: Vec<String>) -> Self {
        Self {
            origin,
            journal,
            camera_ids,
        }
    }

    fn camera(&self, index: usize) -> String {
        self.camera_ids.get(index).cloned().unwrap_or_default()
    }

    fn row(&self, event: &WorldEvent) -> Option<Record> {
        match event {
            WorldEvent::Identity(IdentityEvent::Merged { from, into }) => {
                Some(Record::Person(self.merged(*from, *into)))
            }
            WorldEvent::Identity(_) => None,
            WorldEvent::Handoff(event) => Some(Record::Handoff(self.handoff(event))),
        }
    }

    /// A person who turned out to be another. When and where it was seen is left to the cameras'
    /// rows, whatever comes first.
    fn merged(&self, from: u64, into: u64) -> PersonRecord {
        PersonRecord {
            global_id: number(from),
            task_id: self.origin.task_id,
            environment_id: self.origin.environment_id.to_string(),
            first_ms: i64::MAX,
            last_ms: i64::MIN,
            first_camera: String::new(),
            last_camera: String::new(),
            model: None,
            vector: None,
            crop: None,
            crop_quality: None,
            merged_into: Some(number(into)),
        }
    }

    fn handoff(&self, event: &HandoffEvent) -> HandoffRecord {
        let blank = |handoff_id: u64, state, from: usize| HandoffRecord {
            task_id: self.origin.task_id,
            handoff_id: number(handoff_id),
            state,
            from_camera: self.camera(from),
            to_camera: None,
            candidates: None,
            track_id: None,
            global_id: None,
            triggered_ms: None,
            ended_ms: None,
            confidence: None,
            reason: None,
        };
        match event {
            HandoffEvent::Triggered {
                handoff_id,
                time,
                global_id,
                from,
                track_id,
                candidates,
                ..
            } => {
                let names: Vec<String> = candidates.iter().map(|&to| self.camera(to)).collect();
                HandoffRecord {
                    candidates: Some(super::record::text(&names)),
                    track_id: Some(number(*track_id)),
                    global_id: global_id.map(number),
                    triggered_ms: Some(self.origin.ms(*time)),
                    ..blank(*handoff_id, HandoffState::Triggered, *from)
                }
            }
            HandoffEvent::Completed {
                handoff_id,
                time,
                global_id,
                from,
                to,
                confidence,
                ..
            } => HandoffRecord {
                to_camera: Some(self.camera(*to)),
                global_id: Some(number(*global_id)),
                ended_ms: Some(self.origin.ms(*time)),
                confidence: Some(*confidence),
                ..blank(*handoff_id, HandoffState::Completed, *from)
            },
            HandoffEvent::Expired {
                handoff_id,
                time,
                global_id,
                from,
                reason,
                ..
            } => HandoffRecord {
                global_id: global_id.map(number),
                ended_ms: Some(self.origin.ms(*time)),
                reason: Some(super::record::text(reason).trim_matches('"').to_string()),
                ..blank(*handoff_id, HandoffState::Expired, *from)
            },
        }
    }
}

impl WorldSink for KeepWorld {
    fn write(&mut self, outcome: &StepOutcome<'_>) -> Result<(), SinkError> {
        let rows = outcome.events.iter().filter_map(|event| self.row(event));
        let rows: Vec<Record> = rows.collect();
        if !rows.is_empty() {
            self.journal.writer().push_blocking(rows);
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Option<Written>, SinkError> {
        self.journal.flush();
        Ok(None)
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

/// IDs and frame numbers as the store has them: they stay far below 2^63.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
