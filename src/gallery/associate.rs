//! Who is who in one time step: every camera's boxes against everyone known, one to one.
//!
//! Each camera is an assignment of its own, since a person may be seen by several. They depend on
//! each other through where people are: a camera is decided with the places that the other cameras
//! give, in rounds until nothing changes (coordinate ascent on the joint likelihood).

use super::measure::{Expected, SeenBox, place_of};
use super::motion::{Measurement, Motion};
use super::person::{GalleryType, Person, TrackKey};
use super::{CameraInput, Gallery, Observation};
use crate::homography::{CameraView, MapPoint};
use crate::tracker::assignment::{Assignment, SparseCosts};

/// Rounds over all cameras, at most; two are enough but for crowds.
const MAX_ROUNDS: usize = 3;

/// A measurement that is this much wider than its noise (ln det S / det R) still counts in full;
/// what is wider says less and less of who it is.
const FREE_SPREAD: f64 = 4.0;

/// Distance that boxes and places may be off beyond what speed allows, in map units.
const PLACE_SLACK: f64 = 1.5;

/// Why a box may be a person, piece by piece.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// Index of the person.
    pub person: usize,
    /// Its identity, if it has one.
    pub global_id: Option<u64>,
    /// The sum that was assigned by; below 0 is acceptable.
    pub cost: f64,
    /// Squared Mahalanobis distance of the box, where there is a map.
    pub distance: Option<f64>,
    /// Cosine similarity, where both have vectors.
    pub similarity: Option<f64>,
    measurement: Option<Measurement>,
    /// Whether the box shows the person only in part.
    pub hidden: bool,
}

/// One camera's boxes in one step.
pub struct CameraWork<'a> {
    /// Index of the camera.
    pub camera: usize,
    /// Its calibration.
    pub view: Option<&'a CameraView>,
    /// What its tracker reported.
    pub observations: &'a [Observation<'a>],
    /// The same as boxes with edges.
    pub boxes: Vec<SeenBox>,
    /// Where each stands by its feet.
    pub places: Vec<Option<MapPoint>>,
    /// The person that each one's track was before.
    pub before: Vec<Option<usize>>,
    /// The person that each one is now, and why.
    pub now: Vec<Option<Evidence>>,
    /// Who else it might have been: the best few, by cost.
    pub candidates: Vec<Vec<Evidence>>,
}

/// Others that are kept to explain a decision.
const KEPT_CANDIDATES: usize = 3;

impl<'a> CameraWork<'a> {
    /// Looks up what is known of one camera's tracks.
    pub fn new(gallery: &Gallery, view: Option<&'a CameraView>, input: &CameraInput<'a>) -> Self {
        let model = gallery.settings.boxes();
        let mut boxes = Vec::with_capacity(input.observations.len());
        let mut places = Vec::with_capacity(input.observations.len());
        let mut before = Vec::with_capacity(input.observations.len());
        for observation in input.observations {
            let seen = SeenBox::new(&observation.bbox, input.frame_size);
            boxes.push(seen);
            places.push(view.and_then(|view| place_of(&seen, view, &model)));
            let track = TrackKey {
                camera: input.camera,
                track_id: observation.track_id,
            };
            let bound = gallery.bindings.get(&track);
            before.push(bound.and_then(|binding| gallery.index_of(binding.person)));
        }
        let count = boxes.len();
        Self {
            camera: input.camera,
            view,
            observations: input.observations,
            boxes,
            places,
            before,
            now: vec![None; count],
            candidates: vec![Vec::new(); count],
        }
    }

    /// The track of a box.
    pub fn track(&self, index: usize) -> TrackKey {
        TrackKey {
            camera: self.camera,
            track_id: self.observations[index].track_id,
        }
    }

    /// What this camera measured of a person in this step.
    fn measurement_of(&self, person: usize) -> Option<&Measurement> {
        let evidence = self.now.iter().flatten().find(|e| e.person == person)?;
        evidence.measurement.as_ref()
    }
}

/// Decides all cameras of a step.
pub fn associate(gallery: &Gallery, time: f64, work: &mut [CameraWork<'_>]) {
    let mut solver = Assignment::default();
    for _ in 0..MAX_ROUNDS {
        let mut changed = false;
        for index in 0..work.len() {
            let priors = priors(gallery, work, index);
            changed |= decide(gallery, time, &mut work[index], &priors, &mut solver);
        }
        if !changed || work.len() < 2 {
            return;
        }
    }
}

/// Where everyone is, by all cameras but one.
fn priors(gallery: &Gallery, work: &[CameraWork<'_>], but: usize) -> Vec<Option<Motion>> {
    let mut priors: Vec<Option<Motion>> = gallery.people.iter().map(|p| p.motion).collect();
    for (index, camera) in work.iter().enumerate() {
        if index == but {
            continue;
        }
        for evidence in camera.now.iter().flatten() {
            if let (Some(motion), Some(measurement)) =
                (&mut priors[evidence.person], &evidence.measurement)
            {
                motion.correct(measurement);
            }
        }
    }
    priors
}

/// Assigns one camera's boxes; true if anything became different.
fn decide(
    gallery: &Gallery,
    time: f64,
    camera: &mut CameraWork<'_>,
    priors: &[Option<Motion>],
    solver: &mut Assignment,
) -> bool {
    let expected = expectations(gallery, camera, priors);
    let mut costs = SparseCosts::default();
    costs.clear(gallery.people.len());
    let mut all = Vec::with_capacity(camera.boxes.len());
    for index in 0..camera.boxes.len() {
        let mut evidence = Vec::new();
        for (person, known) in gallery.people.iter().enumerate() {
            let pair = Pair {
                gallery,
                time,
                camera,
                index,
                person,
                known,
                place: priors[person].as_ref().zip(expected[person].as_ref()),
            };
            if let Some(found) = pair.evidence() {
                costs.push(person, found.cost);
                evidence.push(found);
            }
        }
        costs.end_row();
        all.push(evidence);
    }
    solver.solve(&costs, 0.0);
    let mut changed = false;
    for (index, mut evidence) in all.into_iter().enumerate() {
        let column = solver.column_of(index);
        let now = evidence.iter().find(|e| Some(e.person) == column).copied();
        changed |= now.map(|e| e.person) != camera.now[index].map(|e| e.person);
        camera.now[index] = now;
        evidence.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.person.cmp(&b.person)));
        evidence.truncate(KEPT_CANDIDATES);
        camera.candidates[index] = evidence;
    }
    changed
}

/// How everyone should look in a camera; `None` where there is no map or nothing to be seen.
fn expectations(
    gallery: &Gallery,
    camera: &CameraWork<'_>,
    priors: &[Option<Motion>],
) -> Vec<Option<Expected>> {
    let model = gallery.settings.boxes();
    let expect = |motion: &Option<Motion>| {
        let motion = motion.as_ref()?;
        Expected::of(motion, camera.view?, &model)
    };
    priors.iter().map(expect).collect()
}

/// One box and one person.
struct Pair<'a> {
    gallery: &'a Gallery,
    time: f64,
    camera: &'a CameraWork<'a>,
    index: usize,
    person: usize,
    known: &'a Person,
    place: Option<(&'a Motion, &'a Expected)>,
}

impl Pair<'_> {
    /// What speaks for the two being one; `None` if something speaks against it or nothing for it.
    fn evidence(&self) -> Option<Evidence> {
        let settings = &self.gallery.settings;
        let before = self.camera.before[self.index];
        let stays = before == Some(self.person);
        // Whoever is lost can come back only by a track that nobody has.
        if self.known.gallery == GalleryType::Lost && before.is_some() && !stays {
            return None;
        }
        // Where there is no map, the camera's own tracker is what there is to trust.
        let habit = match self.place {
            Some(_) => settings.continuity,
            None => settings.trust,
        };
        let mut cost = match before {
            Some(_) if stays => -habit,
            Some(_) => habit / 2.0,
            None => 0.0,
        };
        let mut found = Evidence {
            person: self.person,
            global_id: self.known.global_id,
            cost: 0.0,
            distance: None,
            similarity: None,
            measurement: None,
            hidden: false,
        };
        let mut reason = stays;
        match self.place {
            Some((motion, expected)) => {
                cost += self.place_cost(motion, expected, &mut found)?;
                reason = true;
            }
            None if !stays && !self.may_pass() => return None,
            None => {}
        }
        let vector = self.camera.observations[self.index].embedding;
        let similarity = vector
            .zip(self.known.look.as_ref())
            .and_then(|(vector, look)| look.similarity(vector));
        if let Some(similarity) = similarity {
            let mut unlike =
                settings.appearance_weight * (settings.similarity_threshold - similarity);
            if stays && self.place.is_none() {
                // Looks change; alone they end nothing, unless someone else looks more like it.
                unlike = unlike.min(habit * 0.9);
            }
            cost += unlike;
            found.similarity = Some(similarity);
            reason = true;
        }
        found.cost = cost;
        (reason && cost < 0.0).then_some(found)
    }

    /// Cost of the place: negative as far as it speaks for the two, `None` beyond the gate.
    fn place_cost(
        &self,
        motion: &Motion,
        expected: &Expected,
        found: &mut Evidence,
    ) -> Option<f64> {
        let settings = &self.gallery.settings;
        let seen = &self.camera.boxes[self.index];
        let size = expected.height().unwrap_or_else(|| seen.height());
        // Far beside where anyone would be: saves the arithmetic.
        let sure = motion.uncertainty() < 1.0;
        if sure && (seen.middle() - expected.middle()).abs() > 1.5 * size.max(seen.height()) {
            return None;
        }
        if !self.near_enough() {
            return None;
        }
        let model = settings.boxes();
        let (measurement, hidden) = expected.measure(seen, motion, &model)?;
        let fit = motion.fit(&measurement);
        let hidden_cost = if hidden { settings.hidden_cost } else { 0.0 };
        let cost = fit.distance + hidden_cost - settings.gate;
        if cost >= 0.0 {
            return None;
        }
        found.distance = Some(fit.distance);
        found.measurement = Some(measurement);
        found.hidden = hidden;
        // A place that is hardly known fits everyone and speaks for nobody.
        Some((cost + (fit.spread - FREE_SPREAD).max(0.0)).min(0.0))
    }

    /// Whether someone out of sight can have come here since.
    fn near_enough(&self) -> bool {
        if self.known.is_seen() {
            return true;
        }
        let (Some(place), Some(motion)) = (self.camera.places[self.index], &self.known.motion)
        else {
            return true;
        };
        let last = motion.position();
        let way = (place.x - last.x).hypot(place.y - last.y);
        let seconds = (self.time - self.known.last_seen).max(0.0);
        way <= self.gallery.settings.largest_speed * seconds + PLACE_SLACK + motion.uncertainty()
    }

    /// Whether the cameras' layout allows it.
    fn may_pass(&self) -> bool {
        let camera = self.camera.camera;
        let topology = &self.gallery.topology;
        if self.known.is_seen() {
            let mut others = self.known.tracks.iter().filter(|t| t.camera != camera);
            return others.all(|track| topology.overlap(track.camera, camera));
        }
        let seconds = self.time - self.known.last_seen;
        topology.allows(self.known.last_camera, camera, seconds)
    }
}

/// Takes the step's measurements into everyone's place.
pub fn correct(people: &mut [Person], work: &[CameraWork<'_>]) {
    for (index, person) in people.iter_mut().enumerate() {
        let Some(motion) = &mut person.motion else {
            continue;
        };
        for camera in work {
            if let Some(measurement) = camera.measurement_of(index) {
                motion.correct(measurement);
            }
        }
    }
}
