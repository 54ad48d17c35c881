//! What an environment's cameras share: who is who, where on the map, and who goes from camera to
//! camera.

use std::time::Instant;

use image::RgbImage;
use mtmc_models::{Crop, Detection, Embedder, Embedding};
use serde::{Deserialize, Serialize};

use super::Stage;
use crate::gallery::{
    AssociationType, CameraInput, Candidate, Gallery, GalleryType, Identity, IdentityEvent,
    Observation, PlacedPerson, TrackKey,
};
use crate::handoff::{HandoffDetector, HandoffEvent, HandoffObservation};
use crate::homography::{CameraView, MapPoint, NoMapPoint};
use crate::reid::{Schedule, Sight, crop_quality};
use crate::tracker::Track;

/// The stations behind the trackers, with all that they remember.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct World {
    gallery: Gallery,
    handoff: HandoffDetector,
    schedule: Schedule,
}

/// One camera's frame of a time step, tracked.
#[derive(Debug, Clone, Copy)]
pub struct TrackedFrame<'a> {
    /// Index of the camera.
    pub camera: usize,
    /// Number of its frame.
    pub number: u64,
    /// The picture; without it nobody new can be looked at.
    pub image: Option<&'a RgbImage>,
    /// Width and height of the picture in pixels.
    pub frame_size: [f64; 2],
    /// What was found in it.
    pub detections: &'a [Detection],
    /// How the detections look, as far as the tracker asked; may be empty.
    pub embeddings: &'a [Option<Embedding>],
    /// Who was tracked in it.
    pub tracks: &'a [Track],
}

/// Whom a track shows, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackIdentity {
    /// The identity across cameras; `None` while it is not sure.
    pub global_id: Option<u64>,
    /// How the track came to it.
    pub association: AssociationType,
    /// Cosine similarity to the person, where both have vectors.
    pub similarity: Option<f64>,
    /// How sure it is, 0..=1 ([`Identity::confidence`]).
    pub confidence: f64,
    /// Who it might be, by rising cost.
    pub candidates: Vec<Candidate>,
    /// Where its feet are on the map, or why they are not; `None` for a camera without calibration.
    pub place: Option<Result<MapPoint, NoMapPoint>>,
    /// Frame of its latest vector.
    pub last_reid_frame: Option<u64>,
    /// Whether it should be looked at anew.
    pub reid_refresh_due: bool,
    /// Whether a handoff of it is waited for.
    pub handoff_triggered: bool,
    /// Its vector, if one was taken in this step.
    pub vector: Option<Embedding>,
    /// The gallery that the person is in, if there is one.
    pub gallery: Option<GalleryType>,
    /// When any camera saw the person first, in the environment's seconds.
    pub first_seen: Option<f64>,
    /// Camera of the person's latest sighting; of several, the first.
    pub last_camera: Option<usize>,
}

/// Something that happened in a time step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WorldEvent {
    /// To an identity.
    Identity(IdentityEvent),
    /// To a handoff.
    Handoff(HandoffEvent),
}

impl WorldEvent {
    /// When it happened in seconds, where the event itself says so; else at its step's time.
    pub fn time(&self) -> Option<f64> {
        match self {
            Self::Identity(_) => None,
            Self::Handoff(event) => Some(event.time()),
        }
    }
}

/// The outcome of a time step.
#[derive(Debug, Clone, Default)]
pub struct WorldStep {
    /// Whom each track shows, frame by frame in the order of the input.
    pub identities: Vec<Vec<TrackIdentity>>,
    /// What happened, in a fixed order.
    pub events: Vec<WorldEvent>,
    /// Everyone on the map.
    pub people: Vec<PlacedPerson>,
    /// Vectors that were made for the gallery, and how many could not be made.
    pub embedded: [u64; 2],
    /// How long it took.
    pub seconds: WorldSeconds,
}

/// Seconds in the parts of a time step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WorldSeconds {
    /// Cropping and embedding.
    pub embed: f64,
    /// Who is who.
    pub association: f64,
    /// Who goes from camera to camera.
    pub handoff: f64,
    /// Where on the map everyone is.
    pub homography: f64,
}

impl WorldSeconds {
    /// By the stages that they are counted as.
    pub(super) fn stages(&self) -> [(Stage, f64); 4] {
        [
            (Stage::GalleryEmbed, self.embed),
            (Stage::Association, self.association),
            (Stage::Handoff, self.handoff),
            (Stage::Homography, self.homography),
        ]
    }
}

/// Times one thing after the other.
struct Laps(Instant);

impl Laps {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the start or the lap before.
    fn lap(&mut self) -> f64 {
        let before = std::mem::replace(&mut self.0, Instant::now());
        (self.0 - before).as_secs_f64()
    }
}

/// A vector a track of a frame, of those that were looked at.
type Vectors = Vec<Option<Embedding>>;

impl World {
    /// Stations that have seen nobody yet.
    pub fn new(gallery: Gallery, handoff: HandoffDetector, schedule: Schedule) -> Self {
        Self {
            gallery,
            handoff,
            schedule,
        }
    }

    /// Goes on where stations that were read back stood, with the calibrations of these, which are
    /// not stored.
    pub fn restore(&mut self, saved: Self) {
        let views = self.gallery.take_views();
        *self = saved;
        self.gallery.set_views(views);
    }

    /// Everyone who is known.
    pub fn gallery(&self) -> &Gallery {
        &self.gallery
    }

    /// Lets identities begin at `first`: see [`Gallery::begin_ids_at`].
    pub fn begin_ids_at(&mut self, first: u64) {
        self.gallery.begin_ids_at(first);
    }

    /// Erases a person from gallery and handoffs: see [`Gallery::forget`]. Tracks that showed it are
    /// looked at anew. `false` if nobody has this identity.
    pub fn forget(&mut self, global_id: u64) -> bool {
        for track in self.gallery.tracks_of(global_id) {
            self.schedule.look_anew(track.camera, track.track_id);
        }
        self.handoff.forget(global_id);
        self.gallery.forget(global_id)
    }

    /// Whether a track shows somebody with an identity.
    pub(super) fn knows(&self, camera: usize, track_id: u64) -> bool {
        let person = self.gallery.person_of(TrackKey { camera, track_id });
        person.is_some_and(|person| person.global_id.is_some())
    }

    /// Advances to `time`, in seconds, with what the cameras' trackers report.
    ///
    /// # Errors
    /// The embedder fails.
    pub fn step(
        &mut self,
        time: f64,
        frames: &[TrackedFrame<'_>],
        embedder: Option<&dyn Embedder>,
    ) -> mtmc_models::Result<WorldStep> {
        let mut clock = Laps::start();
        let (vectors, embedded) = self.look(frames, embedder)?;
        let embed = clock.lap();
        let observations: Vec<Vec<Observation<'_>>> = frames
            .iter()
            .zip(&vectors)
            .map(|(frame, vectors)| observations(frame, vectors))
            .collect();
        let inputs: Vec<CameraInput<'_>> = frames
            .iter()
            .zip(&observations)
            .map(|(frame, observations)| CameraInput {
                camera: frame.camera,
                frame_size: frame.frame_size,
                observations,
            })
            .collect();
        let found = self.gallery.step(time, &inputs);
        let association = clock.lap();
        let mut events: Vec<WorldEvent> =
            found.events.into_iter().map(WorldEvent::Identity).collect();
        for event in &events {
            if let WorldEvent::Identity(IdentityEvent::Merged { from, into }) = event {
                self.handoff.merge(*from, *into);
            }
        }
        let handoffs = self.handoff.step(time, &leavers(frames, &found.identities));
        let learned = |event: &HandoffEvent| matches!(event, HandoffEvent::Completed { .. });
        if handoffs.iter().any(learned) {
            self.gallery
                .set_topology(self.handoff.travel_times().topology());
        }
        events.extend(handoffs.into_iter().map(WorldEvent::Handoff));
        let handoff = clock.lap();
        let mut identities = Vec::with_capacity(frames.len());
        for ((frame, row), vectors) in frames.iter().zip(found.identities).zip(vectors) {
            let mut described = Vec::with_capacity(row.len());
            for ((track, identity), vector) in frame.tracks.iter().zip(row).zip(vectors) {
                described.push(self.describe(frame, track, identity, vector));
            }
            identities.push(described);
        }
        Ok(WorldStep {
            identities,
            events,
            people: found.people,
            embedded,
            seconds: WorldSeconds {
                embed,
                association,
                handoff,
                homography: clock.lap(),
            },
        })
    }

    /// Takes vectors of those who are to be looked at: the tracker's where it has them, new ones
    /// in one batch over all cameras.
    fn look(
        &mut self,
        frames: &[TrackedFrame<'_>],
        embedder: Option<&dyn Embedder>,
    ) -> mtmc_models::Result<(Vec<Vectors>, [u64; 2])> {
        let mut vectors: Vec<Vectors> = frames
            .iter()
            .map(|frame| vec![None; frame.tracks.len()])
            .collect();
        let mut sights = Vec::new();
        let mut places = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            let pictured = embedder.is_some() && frame.image.is_some();
            if !pictured && frame.embeddings.is_empty() {
                continue;
            }
            self.schedule.forget(frame.camera, frame.number);
            let boxes: Vec<_> = frame.tracks.iter().map(|t| seen_box(frame, t)).collect();
            for (position, track) in frame.tracks.iter().enumerate() {
                if !pictured && known_vector(frame, track).is_none() {
                    continue;
                }
                sights.push(Sight {
                    camera: frame.camera,
                    frame: frame.number,
                    track_id: track.track_id,
                    quality: crop_quality(&boxes[position], &boxes, frame.frame_size),
                });
                places.push((index, position));
            }
        }
        let mut crops = Vec::new();
        let mut missing = Vec::new();
        for chosen in self.schedule.choose(&sights) {
            let (index, position) = places[chosen];
            let frame = &frames[index];
            let track = &frame.tracks[position];
            if let Some(known) = known_vector(frame, track) {
                vectors[index][position] = Some(known.clone());
                self.schedule.looked(&sights[chosen]);
            } else if let Some(image) = frame.image {
                crops.push(Crop {
                    image,
                    bbox: seen_box(frame, track),
                });
                missing.push(chosen);
            }
        }
        let mut counts = [0, 0];
        let Some(embedder) = embedder.filter(|_| !crops.is_empty()) else {
            return Ok((vectors, counts));
        };
        for (chosen, vector) in missing.into_iter().zip(embedder.embed(&crops)?) {
            let (index, position) = places[chosen];
            match vector {
                Ok(vector) => {
                    vectors[index][position] = Some(vector);
                    self.schedule.looked(&sights[chosen]);
                    counts[0] += 1;
                }
                Err(_) => counts[1] += 1,
            }
        }
        Ok((vectors, counts))
    }

    fn describe(
        &self,
        frame: &TrackedFrame<'_>,
        track: &Track,
        identity: Identity,
        vector: Option<Embedding>,
    ) -> TrackIdentity {
        let view = self.gallery.view(frame.camera);
        let bbox = seen_box(frame, track);
        let (camera, id) = (frame.camera, track.track_id);
        let person = self.gallery.person_of(TrackKey {
            camera,
            track_id: id,
        });
        let person = person.filter(|person| person.global_id == identity.global_id);
        TrackIdentity {
            global_id: identity.global_id,
            association: identity.association,
            similarity: identity.similarity,
            confidence: identity.confidence,
            candidates: identity.candidates,
            place: view.map(|view| view.to_map(CameraView::foot_point(&bbox))),
            last_reid_frame: self.schedule.last_look(camera, id),
            reid_refresh_due: self.schedule.is_due(camera, frame.number, id),
            handoff_triggered: self.handoff.is_leaving(camera, id),
            vector,
            gallery: person.map(|person| person.gallery),
            first_seen: person.map(|person| person.first_seen),
            last_camera: person.map(|person| person.last_camera),
        }
    }
}

/// The vector that the tracker was given for a track's detection.
fn known_vector<'a>(frame: &TrackedFrame<'a>, track: &Track) -> Option<&'a Embedding> {
    frame.embeddings.get(track.detection_index?)?.as_ref()
}

/// A track's box as it was detected: the filtered one lags behind where frames are few.
fn seen_box(frame: &TrackedFrame<'_>, track: &Track) -> mtmc_models::BBox {
    let detection = track
        .detection_index
        .and_then(|index| frame.detections.get(index));
    detection.map_or(track.bbox, |detection| detection.bbox)
}

/// Width and height of a picture.
pub(super) fn size(image: &RgbImage) -> [f64; 2] {
    [f64::from(image.width()), f64::from(image.height())]
}

fn observations<'a>(
    frame: &TrackedFrame<'_>,
    vectors: &'a [Option<Embedding>],
) -> Vec<Observation<'a>> {
    let mut observations = Vec::with_capacity(frame.tracks.len());
    for (track, vector) in frame.tracks.iter().zip(vectors) {
        observations.push(Observation {
            track_id: track.track_id,
            bbox: seen_box(frame, track),
            embedding: vector.as_ref(),
        });
    }
    observations
}

/// Everyone in the step, as handoffs see them.
fn leavers(frames: &[TrackedFrame<'_>], identities: &[Vec<Identity>]) -> Vec<HandoffObservation> {
    let mut leavers = Vec::new();
    for (frame, row) in frames.iter().zip(identities) {
        for (track, identity) in frame.tracks.iter().zip(row) {
            leavers.push(HandoffObservation {
                camera: frame.camera,
                track_id: track.track_id,
                global_id: identity.global_id,
                bbox: seen_box(frame, track),
                frame_size: frame.frame_size,
                confidence: identity.confidence,
            });
        }
    }
    leavers
}
