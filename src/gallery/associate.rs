//! Who is who in one time step: every camera's boxes against everyone known, one to one.
//!
//! Each camera is an assignment of its own, since a person may be seen by several. They depend on
//! each other through where people are: a camera is decided with the places that the other cameras
//! give, in rounds until nothing changes (coordinate ascent on the joint likelihood).
//!
//! Boxes are not compared with everyone: places rule out most people for all boxes of a camera at
//! once, and whoever cannot be placed must look like the box, which one search a step tells for all
//! boxes. Neither rules out anyone whom a comparison would not.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use mtmc_models::{BBox, Embedding};
use rayon::prelude::*;

use super::measure::{Expected, Outline, SeenBox, place_of};
use super::motion::{Measurement, Motion, MotionModel};
use super::pair::{Evidence, Pair, SURE};
use super::person::{Person, TrackKey};
use super::{CameraInput, Gallery, Observation};
use crate::homography::{CameraView, MapPoint};
use crate::tracker::assignment::{Assignment, SparseCosts};

/// Rounds over all cameras, at most; two are enough but for crowds.
const MAX_ROUNDS: usize = 3;

/// One camera's boxes in one step.
pub struct CameraWork<'a> {
    /// Index of the camera.
    pub camera: usize,
    /// Its place among the step's cameras, as they came.
    pub place_in_input: usize,
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
    pub fn new(
        gallery: &Gallery,
        view: Option<&'a CameraView>,
        place_in_input: usize,
        input: &CameraInput<'a>,
    ) -> Self {
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
            place_in_input,
            view,
            observations: input.observations,
            boxes,
            places,
            before,
            now: vec![None; count],
            candidates: vec![Vec::new(); count],
        }
    }

    /// Takes more people into those that a box might have been.
    pub fn add_candidates(&mut self, index: usize, more: impl Iterator<Item = Evidence>) {
        let candidates = &mut self.candidates[index];
        candidates.extend(more);
        keep_best(candidates);
    }

    /// How sure it is that a box is who was chosen, 0..=1: costs are squared distances, so half of
    /// them is minus the logarithm of a likelihood; that of someone new is 1.
    pub fn confidence(&self, index: usize, chosen: &Evidence) -> f64 {
        let likelihood = |cost: f64| (-cost / 2.0).min(300.0).exp();
        let own = likelihood(chosen.cost);
        let others = self.candidates[index].iter();
        let others = others.filter(|other| other.person != chosen.person);
        own / (own + 1.0 + others.map(|other| likelihood(other.cost)).sum::<f64>())
    }

    /// The track of a box.
    pub fn track(&self, index: usize) -> TrackKey {
        TrackKey {
            camera: self.camera,
            track_id: self.observations[index].track_id,
        }
    }
}

/// Sorts a step's cameras by what they see, those with the fewest boxes first, where there is least
/// to mix up: the order in which an environment lists its cameras decides nothing.
pub fn put_in_order(work: &mut [CameraWork<'_>]) {
    let corners = |observation: &Observation<'_>| {
        let BBox { x1, y1, x2, y2 } = observation.bbox;
        [x1, y1, x2, y2]
    };
    work.sort_by(|a, b| {
        let by_count = a.observations.len().cmp(&b.observations.len());
        let left = a.observations.iter().flat_map(corners);
        let right = b.observations.iter().flat_map(corners);
        by_count.then_with(|| {
            let mut pairs = left.zip(right).map(|(l, r)| l.total_cmp(&r));
            pairs.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        })
    });
}

/// Decides all cameras of a step.
pub fn associate(gallery: &Gallery, time: f64, work: &mut [CameraWork<'_>]) {
    let alike = alike(gallery, work);
    let expected: Vec<Vec<Outlook>> = work
        .par_iter()
        .map(|camera| {
            let motions = gallery.people.iter().enumerate();
            let motions = motions.filter_map(|(person, p)| Some((person, p.motion.as_ref()?)));
            outlooks(gallery, camera, motions)
        })
        .collect();
    let mut solver = Assignment::default();
    for _ in 0..MAX_ROUNDS {
        let mut changed = false;
        for index in 0..work.len() {
            let moved = moved(gallery, work, index);
            let prospects = Prospects {
                expected: &expected[index],
                moved: &moved,
                alike: &alike[index],
            };
            changed |= decide(gallery, time, &mut work[index], &prospects, &mut solver);
        }
        if !changed || work.len() < 2 {
            return;
        }
    }
}

/// Who each camera's boxes look like: people above the threshold, by index. Nobody else becomes a
/// box's person by looks.
fn alike(gallery: &Gallery, work: &[CameraWork<'_>]) -> Vec<Vec<Vec<usize>>> {
    let settings = &gallery.settings;
    let observations = work.iter().flat_map(|camera| camera.observations);
    let vectors: Vec<&Embedding> = observations.filter_map(|o| o.embedding).collect();
    let mut found = if settings.appearance_weight > 0.0 {
        let (looks, threshold) = (&gallery.looks, settings.similarity_threshold);
        looks.alike(&gallery.people, &vectors, threshold)
    } else {
        Vec::new()
    }
    .into_iter();
    let mut next = |o: &Observation<'_>| o.embedding.and_then(|_| found.next()).unwrap_or_default();
    work.iter()
        .map(|camera| camera.observations.iter().map(&mut next).collect())
        .collect()
}

/// Someone who may be in one of a camera's boxes, by his place.
struct Outlook {
    person: usize,
    expected: Expected,
    /// Variance of each edge from not knowing the place.
    variances: [f64; 3],
}

/// Who of some people, given with their places by rising index, may be in one of a camera's boxes.
fn outlooks<'a>(
    gallery: &Gallery,
    camera: &CameraWork<'_>,
    motions: impl Iterator<Item = (usize, &'a Motion)>,
) -> Vec<Outlook> {
    let Some(view) = camera.view else {
        return Vec::new();
    };
    let (model, gate) = (gallery.settings.boxes(), gallery.settings.gate);
    let outlook = |(person, motion): (usize, &Motion)| {
        if gallery.people[person].is_adrift() {
            return None;
        }
        let outline = Outline::of(motion, view, &model)?;
        let sure = motion.uncertainty() < SURE;
        if camera
            .boxes
            .iter()
            .all(|seen| outline.rules_out(seen, sure))
        {
            return None;
        }
        let expected = outline.expected(motion, view, &model)?;
        let variances = expected.variances(motion);
        let may_fit = |seen: &SeenBox| expected.may_fit(seen, &variances, &model, gate);
        camera.boxes.iter().any(may_fit).then_some(Outlook {
            person,
            expected,
            variances,
        })
    };
    motions.filter_map(outlook).collect()
}

/// Where those are whom other cameras see in this step, by all cameras but one; by rising index.
fn moved(gallery: &Gallery, work: &[CameraWork<'_>], but: usize) -> Vec<(usize, Motion)> {
    let mut measured: Vec<(usize, &Measurement)> = Vec::new();
    for (index, camera) in work.iter().enumerate() {
        if index == but {
            continue;
        }
        for evidence in camera.now.iter().flatten() {
            if let Some(measurement) = &evidence.measurement {
                measured.push((evidence.person, measurement));
            }
        }
    }
    // Stable: a person's measurements stay in the order of the cameras.
    measured.sort_by_key(|&(person, _)| person);
    let mut moved = Vec::new();
    for of_one in measured.chunk_by(|a, b| a.0 == b.0) {
        let person = of_one[0].0;
        if let Some(mut motion) = gallery.people[person].motion {
            for (_, measurement) in of_one {
                motion.correct(measurement);
            }
            moved.push((person, motion));
        }
    }
    moved
}

/// Who may be in one camera's boxes. All others are ruled out by place or by looks.
struct Prospects<'a> {
    /// By the places that everyone had before the step.
    expected: &'a [Outlook],
    /// Places of those whom other cameras see.
    moved: &'a [(usize, Motion)],
    /// People who look like each box.
    alike: &'a [Vec<usize>],
}

impl Prospects<'_> {
    fn moved_motions(&self) -> impl Iterator<Item = (usize, &Motion)> {
        self.moved.iter().map(|(person, motion)| (*person, motion))
    }

    /// Who may be in the camera's boxes, and where: `moved` are those of the people whom other
    /// cameras see.
    fn placed<'a>(
        &'a self,
        gallery: &'a Gallery,
        moved: &'a [Outlook],
    ) -> Vec<(&'a Outlook, &'a Motion)> {
        let stays = |outlook: &&Outlook| {
            let person = outlook.person;
            self.moved.binary_search_by_key(&person, |m| m.0).is_err()
        };
        let stayed = self.expected.iter().filter(stays);
        let place = |outlook: &'a Outlook| Some((outlook, self.motion(gallery, outlook.person)?));
        stayed.chain(moved).filter_map(place).collect()
    }

    /// A person's place by all other cameras.
    fn motion<'a>(&'a self, gallery: &'a Gallery, person: usize) -> Option<&'a Motion> {
        match self
            .moved
            .binary_search_by_key(&person, |&(moved, _)| moved)
        {
            Ok(at) => Some(&self.moved[at].1),
            Err(_) => gallery.people[person].motion.as_ref(),
        }
    }
}

/// Assigns one camera's boxes; true if anything became different.
fn decide(
    gallery: &Gallery,
    time: f64,
    camera: &mut CameraWork<'_>,
    prospects: &Prospects<'_>,
    solver: &mut Assignment,
) -> bool {
    let moved = outlooks(gallery, camera, prospects.moved_motions());
    let placed = prospects.placed(gallery, &moved);
    let mut costs = SparseCosts::default();
    costs.clear(gallery.people.len());
    let mut all = Vec::with_capacity(camera.boxes.len());
    for index in 0..camera.boxes.len() {
        let evidence = evidence(gallery, time, camera, prospects, &placed, index);
        #[cfg(test)]
        tests::compare_with_everyone(gallery, time, camera, prospects, index, &evidence);
        for found in &evidence {
            costs.push(found.person, found.cost);
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
        keep_best(&mut evidence);
        camera.candidates[index] = evidence;
    }
    changed
}

/// Keeps the few that cost least.
fn keep_best(candidates: &mut Vec<Evidence>) {
    candidates.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.person.cmp(&b.person)));
    candidates.truncate(KEPT_CANDIDATES);
}

/// What speaks for a box being this or that person, by rising index.
fn evidence(
    gallery: &Gallery,
    time: f64,
    camera: &CameraWork<'_>,
    prospects: &Prospects<'_>,
    placed: &[(&Outlook, &Motion)],
    index: usize,
) -> Vec<Evidence> {
    let seen = &camera.boxes[index];
    let (model, gate) = (gallery.settings.boxes(), gallery.settings.gate);
    let pair = |person: usize, place: Option<(&Motion, &Expected)>| {
        let known = &gallery.people[person];
        let pair = Pair {
            gallery,
            time,
            camera,
            index,
            person,
            known,
            place,
        };
        pair.evidence()
    };
    let mut all = Vec::new();
    for &(outlook, motion) in placed {
        let expected = &outlook.expected;
        if expected.may_fit(seen, &outlook.variances, &model, gate) {
            all.extend(pair(outlook.person, Some((motion, expected))));
        }
    }
    // The track's own person, and whom it looks like, unless their places are known here.
    let own = camera.before[index].iter();
    let mut others: Vec<usize> = own.chain(&prospects.alike[index]).copied().collect();
    others.sort_unstable();
    others.dedup();
    for person in others {
        let motion = prospects.motion(gallery, person);
        let placed = motion.filter(|_| !gallery.people[person].is_adrift());
        let expected = placed
            .zip(camera.view)
            .and_then(|(m, view)| Expected::of(m, view, &model));
        // Whom the camera can show was among those above, if he may fit.
        if expected.is_none() {
            all.extend(pair(person, None));
        }
    }
    all.sort_by_key(|found| found.person);
    all
}

/// Takes the step's measurements into everyone's place, in the order of the cameras.
pub fn correct(people: &mut [Person], work: &[CameraWork<'_>], model: &MotionModel) {
    relocate(people, work, model);
    for evidence in work.iter().flat_map(|camera| camera.now.iter().flatten()) {
        if let (Some(motion), Some(measurement)) =
            (&mut people[evidence.person].motion, &evidence.measurement)
        {
            motion.correct(measurement);
        }
    }
}

/// Whoever was known by looks begins anew on the map where the boxes stand: what is left of an old
/// place says nothing, and a filter cannot be corrected over such a distance.
fn relocate(people: &mut [Person], work: &[CameraWork<'_>], model: &MotionModel) {
    let mut places: BTreeMap<usize, Vec<MapPoint>> = BTreeMap::new();
    for camera in work {
        for (evidence, place) in camera.now.iter().zip(&camera.places) {
            let (Some(evidence), Some(place)) = (evidence, place) else {
                continue;
            };
            let person = &people[evidence.person];
            let unplaced = person.motion.is_none() || person.is_adrift();
            if unplaced && camera.view.is_some_and(|view| view.in_area(*place)) {
                places.entry(evidence.person).or_default().push(*place);
            }
        }
    }
    for (person, places) in places {
        let count = places.len() as f64;
        let mean = MapPoint {
            x: places.iter().map(|place| place.x).sum::<f64>() / count,
            y: places.iter().map(|place| place.y).sum::<f64>() / count,
        };
        people[person].motion = Some(Motion::at(mean, model));
    }
}

#[cfg(test)]
mod tests;
