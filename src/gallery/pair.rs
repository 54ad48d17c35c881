//! What speaks for one box being one person, and what against it.

use super::associate::CameraWork;
use super::measure::Expected;
use super::motion::{Measurement, Motion};
use super::person::{GalleryType, Person};
use super::{Gallery, Passage};

/// A measurement that is this much wider than its noise (ln det S / det R) still counts in full;
/// what is wider says less and less of who it is.
const FREE_SPREAD: f64 = 4.0;

/// Whoever's place is known better than this, in map units, is looked for only near it.
pub const SURE: f64 = 1.0;

/// Distance that boxes and places may be off beyond what speed allows, in map units.
const PLACE_SLACK: f64 = 1.5;

/// Cost of being where the cameras' layout does not expect someone: a twentieth of similarity, with
/// the usual weight.
const UNEXPECTED: f64 = 2.0;

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
    /// What is measured of the place, where there is a map.
    pub measurement: Option<Measurement>,
    /// Whether the box shows the person only in part.
    pub hidden: bool,
}

impl Evidence {
    /// Of someone who is known by looks alone.
    pub fn by_looks(person: usize, global_id: Option<u64>, cost: f64, similarity: f64) -> Self {
        Self {
            person,
            global_id,
            cost,
            distance: None,
            similarity: Some(similarity),
            measurement: None,
            hidden: false,
        }
    }
}

/// One box and one person.
pub struct Pair<'a> {
    /// Everyone.
    pub gallery: &'a Gallery,
    /// Of the step, in seconds.
    pub time: f64,
    /// The box's camera.
    pub camera: &'a CameraWork<'a>,
    /// The box.
    pub index: usize,
    /// The person's index.
    pub person: usize,
    /// The person.
    pub known: &'a Person,
    /// Where the person is, and where the camera would show it.
    pub place: Option<(&'a Motion, &'a Expected)>,
}

impl Pair<'_> {
    /// What speaks for the two being one; `None` if something speaks against it or nothing for it.
    pub fn evidence(&self) -> Option<Evidence> {
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
            None if stays => {}
            None if self.comes_with_others() => return None,
            None => cost += self.coming()?,
        }
        let vector = self.camera.observations[self.index].embedding;
        let similarity = vector
            .zip(self.known.look.as_ref())
            .and_then(|(vector, look)| look.similarity(vector));
        if let Some(similarity) = similarity {
            let needed = match self.place {
                None if !stays => self.gallery.likeness_needed(self.camera.camera, self.known),
                _ => settings.similarity_threshold,
            };
            let mut unlike = settings.appearance_weight * (needed - similarity);
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
        // Far beside where anyone would be: saves the arithmetic.
        let sure = motion.uncertainty() < SURE;
        if expected.outline().rules_out(seen, sure) {
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

    /// Whether all boxes of a place decide together if they are this person: see
    /// [`returns`](super::returns).
    fn comes_with_others(&self) -> bool {
        self.camera.view.is_some() && self.known.is_to_return()
    }

    /// Cost of the person's being here, as far as layout, time and way tell; `None`: he cannot.
    fn coming(&self) -> Option<f64> {
        let cost = match self.passage() {
            Passage::Impossible => return None,
            Passage::Unexpected => UNEXPECTED,
            Passage::Expected => 0.0,
        };
        self.near_enough().then_some(cost)
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

    /// What the cameras' layout says of it.
    fn passage(&self) -> Passage {
        let camera = self.camera.camera;
        let topology = &self.gallery.topology;
        if self.known.is_seen() {
            let mut others = self.known.tracks.iter().filter(|t| t.camera != camera);
            let overlap = others.all(|track| topology.overlap(track.camera, camera));
            return if overlap {
                Passage::Expected
            } else {
                Passage::Impossible
            };
        }
        let seconds = self.time - self.known.last_seen;
        topology.passage(self.known.last_camera, camera, seconds)
    }
}

/// Cost of a person's being in a camera's box, as far as layout, time and way tell; `None`: he
/// cannot.
pub fn coming(
    gallery: &Gallery,
    time: f64,
    camera: &CameraWork<'_>,
    index: usize,
    known: &Person,
) -> Option<f64> {
    let pair = Pair {
        gallery,
        time,
        camera,
        index,
        person: 0,
        known,
        place: None,
    };
    pair.coming()
}
