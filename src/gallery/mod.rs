//! One identity across cameras: who is who, on the map and by looks.
//!
//! A [`Gallery`] belongs to an environment. Each time step it gets what all cameras' trackers
//! report ([`CameraInput`]) and says whom each track shows ([`Identity`]), what happened to
//! identities ([`IdentityEvent`]) and where people are. People who were seen a moment ago are in
//! the main gallery, those out of sight in the lost one, from which they return by looks, place and
//! time.
//!
//! The same input gives the same identities. All that is kept is bounded: people by
//! [`GallerySettings::capacity`], tracks by the people they show.

mod associate;
mod birth;
mod entries;
mod event;
mod life;
mod looks;
mod measure;
mod merge;
mod motion;
mod pair;
mod person;
mod report;
mod returns;
pub mod search;
mod settings;
mod strangers;
mod topology;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::homography::{CameraView, MapPoint};
use crate::tracker::SettingError;

use associate::CameraWork;
pub use event::IdentityEvent;
use looks::PackedLooks;
pub use motion::Motion;
use pair::Evidence;
pub use person::{GalleryType, Look, Person, TrackKey};
pub use report::{
    AssociationType, CameraInput, Candidate, Identity, Observation, PlacedPerson, StepResult,
};
pub use settings::GallerySettings;
use strangers::Strangers;
pub use topology::{Link, Passage, Topology};

/// Steps for which someone out of sight is still reported on the map, where motion takes him.
pub const COASTING_STEPS: u32 = 3;

/// Seconds after which a person is missed though none of its cameras had a frame since: they may be
/// gone.
const SILENT_SECONDS: f64 = 2.0;

/// Weight of a new vector in the mean of a track that shows nobody yet.
const NEW_ALPHA: f64 = 0.5;

/// Steps that a track keeps its person without being explained by it.
const PATIENCE: u32 = 2;

/// Steps for which a track out of sight keeps its person: longer than trackers keep lost tracks.
const TRACK_MEMORY: u32 = 300;

/// Whom a track shows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Binding {
    person: u64,
    /// Steps since it was last assigned so, of those in which the track was there.
    unexplained: u32,
    /// Steps since the track was there, of those in which its camera had a frame.
    absent: u32,
    /// How sure it is, 0..=1.
    confidence: f64,
}

/// A track of nobody yet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Waiting {
    /// For how many steps.
    steps: u32,
    /// How it looks, by the vectors that were taken of it.
    look: Option<Look>,
}

/// An environment's people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gallery {
    settings: GallerySettings,
    topology: Topology,
    #[serde(skip)]
    views: Vec<Option<CameraView>>,
    /// In order of appearance.
    people: Vec<Person>,
    #[serde(with = "entries")]
    bindings: BTreeMap<TrackKey, Binding>,
    /// Tracks of nobody.
    #[serde(with = "entries")]
    waiting: BTreeMap<TrackKey, Waiting>,
    /// Pairs of people in one place, by keys, and for how many steps.
    #[serde(with = "entries")]
    meetings: BTreeMap<(u64, u64), u32>,
    strangers: Strangers,
    next_key: u64,
    next_global_id: u64,
    time: Option<f64>,
    /// Whether vectors were ever given.
    uses_looks: bool,
    /// What `people` look like, as of the last step with vectors.
    #[serde(skip)]
    looks: PackedLooks,
}

impl Gallery {
    /// An empty gallery; `views` holds each camera's calibration, by index.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(
        settings: GallerySettings,
        topology: Topology,
        views: Vec<Option<CameraView>>,
    ) -> Result<Self, SettingError> {
        settings.validate()?;
        Ok(Self {
            settings,
            topology,
            views,
            people: Vec::new(),
            bindings: BTreeMap::new(),
            waiting: BTreeMap::new(),
            meetings: BTreeMap::new(),
            strangers: Strangers::default(),
            next_key: 1,
            next_global_id: 1,
            time: None,
            uses_looks: false,
            looks: PackedLooks::default(),
        })
    }

    /// Lets identities begin at `first`, so that several galleries can share out the numbers; 1
    /// without it. IDs never go back: below the next one that would be given, it changes nothing.
    pub fn begin_ids_at(&mut self, first: u64) {
        self.next_global_id = self.next_global_id.max(first);
    }

    /// The identity that the next new person gets: above all that were ever given.
    pub fn next_global_id(&self) -> u64 {
        self.next_global_id
    }

    /// Gives a gallery that was read back its calibrations, which are not stored with it.
    pub fn set_views(&mut self, views: Vec<Option<CameraView>>) {
        self.views = views;
    }

    /// Hands over the calibrations.
    pub(crate) fn take_views(&mut self) -> Vec<Option<CameraView>> {
        std::mem::take(&mut self.views)
    }

    /// Sets anew who may pass from camera to camera, as travel times are learned.
    pub fn set_topology(&mut self, topology: Topology) {
        self.topology = topology;
    }

    /// Everyone known, in order of appearance.
    pub fn people(&self) -> &[Person] {
        &self.people
    }

    /// The person that a track shows, if it shows one.
    pub fn person_of(&self, track: TrackKey) -> Option<&Person> {
        let binding = self.bindings.get(&track)?;
        Some(&self.people[self.index_of(binding.person)?])
    }

    /// The index of a person by its key.
    fn index_of(&self, key: u64) -> Option<usize> {
        index_of(&self.people, key)
    }

    /// A camera's calibration, if it has one.
    pub fn view(&self, camera: usize) -> Option<&CameraView> {
        self.views.get(camera)?.as_ref()
    }

    /// Advances to `time` (seconds, not before the last one) with what the cameras saw.
    ///
    /// Cameras that have no frame in this step are left out of `inputs`.
    pub fn step(&mut self, time: f64, inputs: &[CameraInput<'_>]) -> StepResult {
        let elapsed = self.time.map_or(0.0, |before| (time - before).max(0.0));
        self.time = Some(time);
        let mut observations = inputs.iter().flat_map(|input| input.observations);
        if observations.any(|o| o.embedding.is_some()) {
            self.uses_looks = true;
            self.looks.update(&self.people);
        }
        let model = self.settings.motion();
        for motion in self.people.iter_mut().filter_map(|p| p.motion.as_mut()) {
            motion.predict(elapsed, &model);
        }
        // Lent to the step, so that people may change meanwhile.
        let views = self.take_views();
        let result = self.step_with(time, inputs, &views);
        self.views = views;
        result
    }

    fn step_with(
        &mut self,
        time: f64,
        inputs: &[CameraInput<'_>],
        views: &[Option<CameraView>],
    ) -> StepResult {
        let mut work: Vec<CameraWork<'_>> = inputs
            .iter()
            .enumerate()
            .map(|(place, input)| {
                let view = views.get(input.camera).and_then(Option::as_ref);
                CameraWork::new(self, view, place, input)
            })
            .collect();
        associate::put_in_order(&mut work);
        self.keep_looks(&work);
        associate::associate(self, time, &mut work);
        let mut groups = birth::groups(self, &work);
        returns::known_again(self, time, &mut work, &mut groups);
        let newcomers = birth::newcomers(self, &work, groups);
        associate::correct(&mut self.people, &work, &self.settings.motion());
        let mut events = Vec::new();
        let kinds = self.take_in(time, &work, &mut events);
        self.compare_strangers(&work);
        for newcomer in &newcomers {
            self.admit(time, &work, newcomer);
        }
        self.confirm(&mut events);
        self.merge(&mut events);
        let identities = self.identities(&work, &kinds, inputs);
        let people = self.placed(views);
        self.retire(&mut events);
        StepResult {
            identities,
            events,
            people,
        }
    }

    /// Notes who was seen by what, and updates looks; tells how each track came to its person.
    fn take_in(
        &mut self,
        time: f64,
        work: &[CameraWork<'_>],
        events: &mut Vec<IdentityEvent>,
    ) -> Vec<Vec<AssociationType>> {
        let mut sightings: Vec<Vec<TrackKey>> = vec![Vec::new(); self.people.len()];
        let mut whole = vec![0_usize; self.people.len()];
        let mut kinds = Vec::with_capacity(work.len());
        for camera in work {
            let mut row = Vec::with_capacity(camera.observations.len());
            for (index, observation) in camera.observations.iter().enumerate() {
                let track = camera.track(index);
                let Some(evidence) = &camera.now[index] else {
                    row.push(AssociationType::Pending);
                    continue;
                };
                row.push(self.bind(time, camera, index, evidence, events));
                sightings[evidence.person].push(track);
                whole[evidence.person] += usize::from(!evidence.hidden);
                if let Some(vector) = observation.embedding {
                    let look = &mut self.people[evidence.person].look;
                    Look::take_in(
                        look,
                        vector,
                        self.settings.ema_alpha,
                        self.settings.exemplars,
                    );
                }
            }
            kinds.push(row);
        }
        let cameras: BTreeSet<usize> = work.iter().map(|camera| camera.camera).collect();
        for (index, tracks) in sightings.into_iter().enumerate() {
            if tracks.is_empty() {
                let person = &mut self.people[index];
                // Cameras may be slower than others: who is not in a step's frames is not missed.
                let looked = |track: &TrackKey| cameras.contains(&track.camera);
                let silent = time - person.last_seen > SILENT_SECONDS;
                if !person.tracks.is_empty() && !silent && !person.tracks.iter().any(looked) {
                    continue;
                }
                person.missed = person.missed.saturating_add(1);
                person.weak = person.weak.saturating_add(1);
                continue;
            }
            let seeing = self.seeing(work, index);
            let enough = self.settings.least_views.min(seeing.max(1));
            let person = &mut self.people[index];
            person.missed = 0;
            person.gallery = GalleryType::Main;
            person.last_seen = time;
            person.last_camera = tracks[0].camera;
            person
                .cameras
                .extend(tracks.iter().map(|track| track.camera));
            if tracks.len() >= enough {
                person.hits = person.hits.saturating_add(1);
            }
            // Boxes that show only parts are easily someone else's.
            let sure = whole[index] >= enough || tracks.len() > enough;
            person.weak = if sure {
                0
            } else {
                person.weak.saturating_add(1)
            };
            person.tracks = tracks;
            person.tracks.sort_unstable();
        }
        self.forget_tracks(work);
        kinds
    }

    /// Notes that a track shows a person.
    fn bind(
        &mut self,
        time: f64,
        camera: &CameraWork<'_>,
        index: usize,
        evidence: &Evidence,
        events: &mut Vec<IdentityEvent>,
    ) -> AssociationType {
        let (track, before) = (camera.track(index), camera.before[index]);
        let confidence = camera.confidence(index, evidence);
        self.show(track, self.people[evidence.person].key, confidence);
        let person = &self.people[evidence.person];
        if before == Some(evidence.person) {
            return AssociationType::Continued;
        }
        if let Some(before) = before {
            let from = self.people.get(before).and_then(|p| p.global_id);
            if let (Some(from), Some(to)) = (from, person.global_id) {
                events.push(IdentityEvent::Split { track, from, to });
            }
            return AssociationType::Split;
        }
        if person.gallery == GalleryType::Main {
            return AssociationType::Matched;
        }
        if let Some(global_id) = person.global_id {
            // Several cameras may find him again in one step: it is told once.
            let told = |event: &IdentityEvent| matches!(event, IdentityEvent::Returned { global_id: id, .. } if *id == global_id);
            if !events.iter().any(told) {
                events.push(IdentityEvent::Returned {
                    global_id,
                    track,
                    seconds: time - person.last_seen,
                });
            }
        }
        AssociationType::Returned
    }

    /// Notes that a track shows the person of this key, as of now. Returns how it looked until now.
    fn show(&mut self, track: TrackKey, person: u64, confidence: f64) -> Option<Look> {
        let binding = Binding {
            person,
            confidence,
            unexplained: 0,
            absent: 0,
        };
        self.bindings.insert(track, binding);
        self.waiting.remove(&track)?.look
    }

    /// Lets go of tracks that are gone or that nobody explains.
    fn forget_tracks(&mut self, work: &[CameraWork<'_>]) {
        let mut unexplained = BTreeSet::new();
        let mut present = BTreeSet::new();
        let mut cameras = BTreeSet::new();
        for camera in work {
            cameras.insert(camera.camera);
            for index in 0..camera.observations.len() {
                present.insert(camera.track(index));
                if camera.now[index].is_none() {
                    unexplained.insert(camera.track(index));
                }
            }
        }
        // A track that its tracker lost may come back under its ID: it stays as long as its person.
        let longest = self.settings.missing_steps.max(TRACK_MEMORY);
        self.bindings.retain(|track, binding| {
            if present.contains(track) {
                binding.absent = 0;
            } else if cameras.contains(&track.camera) {
                binding.absent += 1;
            }
            if unexplained.contains(track) {
                binding.unexplained += 1;
            }
            binding.unexplained <= PATIENCE && binding.absent <= longest
        });
        self.waiting
            .retain(|track, _| present.contains(track) || !cameras.contains(&track.camera));
        for track in unexplained {
            if !self.bindings.contains_key(&track) {
                self.waiting.entry(track).or_default().steps += 1;
            }
        }
    }

    /// Steps for which a track has shown nobody.
    fn waited(&self, track: TrackKey) -> u32 {
        self.waiting.get(&track).map_or(0, |waiting| waiting.steps)
    }

    /// How a track of nobody looks.
    fn unbound_look(&self, track: TrackKey) -> Option<&Look> {
        self.waiting.get(&track)?.look.as_ref()
    }

    /// Keeps the vectors of tracks of nobody until it is known whom they show.
    fn keep_looks(&mut self, work: &[CameraWork<'_>]) {
        let (alpha, most) = (NEW_ALPHA, self.settings.exemplars);
        for camera in work {
            for (index, observation) in camera.observations.iter().enumerate() {
                let track = camera.track(index);
                let Some(vector) = observation.embedding else {
                    continue;
                };
                if camera.before[index].is_none() {
                    let waiting = self.waiting.entry(track).or_default();
                    Look::take_in(&mut waiting.look, vector, alpha, most);
                }
            }
        }
    }

    /// How many of the step's cameras should see a person: those that its place is in sight of, and
    /// those that saw it without a map.
    fn seeing(&self, work: &[CameraWork<'_>], person: usize) -> usize {
        let Some(motion) = &self.people[person].motion else {
            return 1;
        };
        cameras_seeing(work, motion.position())
    }

    /// How many cameras must see someone new at a place.
    fn views_needed(&self, work: &[CameraWork<'_>], place: Option<MapPoint>) -> usize {
        let Some(place) = place else { return 1 };
        let seeing = cameras_seeing(work, place);
        self.settings.least_views.min(seeing).max(1)
    }

    /// Whom every observation shows, in the order of the input.
    fn identities(
        &self,
        work: &[CameraWork<'_>],
        kinds: &[Vec<AssociationType>],
        inputs: &[CameraInput<'_>],
    ) -> Vec<Vec<Identity>> {
        let mut all = vec![Vec::new(); inputs.len()];
        for (camera, kinds) in work.iter().zip(kinds) {
            let mut row = Vec::with_capacity(kinds.len());
            for (index, &kind) in kinds.iter().enumerate() {
                row.push(self.identity(camera, index, kind));
            }
            all[camera.place_in_input] = row;
        }
        all
    }

    fn identity(&self, camera: &CameraWork<'_>, index: usize, kind: AssociationType) -> Identity {
        let track = camera.track(index);
        let binding = self.bindings.get(&track);
        let confidence = binding.map_or(0.0, |binding| binding.confidence);
        let person = binding.and_then(|binding| self.index_of(binding.person));
        let person = person.map(|index| &self.people[index]);
        // A track that nobody explains keeps its person, unless another track shows it.
        let person = person.filter(|p| {
            p.track_in(camera.camera)
                .is_none_or(|t| t == track.track_id)
        });
        let global_id = person.and_then(|person| person.global_id);
        let association = match kind {
            AssociationType::Pending if global_id.is_some() => AssociationType::Continued,
            AssociationType::Pending if person.is_some() => AssociationType::New,
            _ if global_id.is_none() => AssociationType::Pending,
            kind => kind,
        };
        let mut candidates = Vec::new();
        for candidate in &camera.candidates[index] {
            candidates.push(Candidate {
                global_id: candidate.global_id,
                cost: candidate.cost,
                distance: candidate.distance,
                similarity: candidate.similarity,
            });
        }
        Identity {
            global_id,
            association,
            similarity: camera.now[index].as_ref().and_then(|e| e.similarity),
            confidence: global_id.map_or(0.0, |_| confidence),
            candidates,
        }
    }

    /// Everyone on the map, by identity.
    fn placed(&self, views: &[Option<CameraView>]) -> Vec<PlacedPerson> {
        let mut placed = Vec::new();
        for person in &self.people {
            let (Some(global_id), Some(motion)) = (person.global_id, &person.motion) else {
                continue;
            };
            let shown = person.gallery == GalleryType::Main && person.missed <= COASTING_STEPS;
            if shown && in_area(views, motion.position()) {
                placed.push(PlacedPerson {
                    global_id,
                    place: motion.position(),
                    velocity: motion.velocity(),
                    uncertainty: motion.uncertainty(),
                    missed: person.missed,
                });
            }
        }
        placed.sort_by_key(|person| person.global_id);
        placed
    }
}

/// How many of a step's cameras have a place in sight.
fn cameras_seeing(work: &[CameraWork<'_>], place: MapPoint) -> usize {
    let sees = |camera: &&CameraWork<'_>| camera.view.is_some_and(|view| view.sees(place));
    work.iter().filter(sees).count()
}

/// The index of a person by its key: keys rise with the index.
fn index_of(people: &[Person], key: u64) -> Option<usize> {
    people.binary_search_by_key(&key, |person| person.key).ok()
}

/// Whether a place is in any calibrated camera's area.
fn in_area(views: &[Option<CameraView>], place: MapPoint) -> bool {
    views.iter().flatten().any(|view| view.in_area(place))
}
