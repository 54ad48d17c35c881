//! How people look to cameras: vectors with the similarities that the settings ask for.
//!
//! A vector is a sum of parts at right angles to each other. Their squared lengths follow from the
//! mean similarities asked for: two vectors' mean cosine is the sum of the parts that they share.
//!
//! | part | the same for | squared length |
//! |---|---|---|
//! | common | everything | `different` |
//! | camera | a camera | `different_same_camera` - `different` |
//! | identity | a person | `other_camera` - `different` |
//! | view | a person in a camera | what `same_camera` has more than the three above |
//! | posture, white noise | a moment | 1 - `same_camera` |
//!
//! Identity, view and posture are in one space of few dimensions (`variety`), where people differ
//! and resemble each other as the vectors of real encoders do.

use mtmc_models::Embedding;

use super::noise::{Purpose, generator, neighbours, period_key, rough_normal};
use super::settings::LookSettings;

/// Makes the vectors of one simulation.
#[derive(Debug)]
pub(super) struct Looks {
    settings: LookSettings,
    seed: u64,
    /// One for each number of a vector: the space in which people differ, spread over all numbers.
    signs: Vec<f64>,
    /// What each camera makes of everything, the common part included.
    cameras: Vec<Vec<f64>>,
    identity: f64,
    view: f64,
    posture: f64,
    white: f64,
}

/// A moment of someone in a camera.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) camera: usize,
    pub(super) frame: u64,
    pub(super) time: f64,
    /// Share that is visible, 0..=1.
    pub(super) visibility: f64,
    /// Who hides the rest.
    pub(super) behind: Option<u64>,
}

/// What a vector is of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject {
    Person(u64),
    /// One of a camera's places where the detector errs.
    Spot(u64),
    /// Something else in each frame.
    Clutter(u64),
}

impl Subject {
    fn parts(self, camera: usize) -> (Purpose, [u64; 2]) {
        match self {
            Self::Person(id) => (Purpose::Identity, [id, 0]),
            Self::Spot(spot) => (Purpose::SpotLook, [spot, camera as u64]),
            Self::Clutter(number) => (Purpose::Clutter, [number, camera as u64]),
        }
    }
}

impl Looks {
    pub(super) fn new(settings: &LookSettings, cameras: usize, seed: u64) -> Self {
        let camera = settings.different_same_camera - settings.different;
        let rest = 1.0 - settings.same_camera;
        let mut looks = Self {
            settings: settings.clone(),
            seed,
            signs: Vec::with_capacity(settings.dim),
            cameras: Vec::new(),
            identity: (settings.other_camera - settings.different).max(0.0).sqrt(),
            view: (settings.same_camera - settings.other_camera - camera)
                .max(0.0)
                .sqrt(),
            posture: (rest * settings.posture_share).sqrt(),
            white: (rest * (1.0 - settings.posture_share)).sqrt(),
        };
        let mut chance = generator(seed, Purpose::Subspace, &[]);
        for _ in 0..settings.dim {
            looks
                .signs
                .push(if chance.unit() < 0.5 { -1.0 } else { 1.0 });
        }
        if settings.dim > 0 {
            looks.look_of_cameras(cameras, camera.max(0.0).sqrt());
        }
        looks
    }

    /// Whether there are vectors at all.
    pub(super) fn are_asked_for(&self) -> bool {
        self.settings.dim > 0
    }

    fn look_of_cameras(&mut self, count: usize, camera_length: f64) {
        let common = self.outside(Purpose::CommonLook, &[], None);
        let common_length = self.settings.different.sqrt();
        for index in 0..count {
            let own = self.outside(Purpose::CameraLook, &[index as u64], Some(&common));
            let sum = common.iter().zip(&own);
            let sum = sum.map(|(common, own)| common_length * common + camera_length * own);
            self.cameras.push(sum.collect());
        }
    }

    /// A random direction outside of the space in which people differ, and at right angles to
    /// `other`.
    fn outside(&self, purpose: Purpose, parts: &[u64], other: Option<&[f64]>) -> Vec<f64> {
        let variety = self.settings.variety;
        let mut chance = generator(self.seed, purpose, parts);
        let mut vector: Vec<f64> = self
            .signs
            .iter()
            .map(|_| rough_normal(&mut chance))
            .collect();
        for axis in 0..variety {
            let along = || (axis..vector.len()).step_by(variety);
            let count = along().count() as f64;
            let mean = along().map(|i| vector[i] * self.signs[i]).sum::<f64>() / count;
            for index in along() {
                vector[index] -= mean * self.signs[index];
            }
        }
        if let Some(other) = other {
            remove_from(&mut vector, other);
        }
        make_unit(&mut vector);
        vector
    }

    /// The vector of something at a moment.
    pub(super) fn embed(&self, subject: Subject, moment: &Moment) -> Embedding {
        let (dim, variety) = (self.settings.dim, self.settings.variety);
        let mut inner = self.inner(subject, moment);
        let hidden = self.settings.hidden_share * (1.0 - moment.visibility.clamp(0.0, 1.0));
        if let Some(other) = moment.behind.filter(|_| hidden > 0.0) {
            let front = self.inner(Subject::Person(other), moment);
            for (value, front) in inner.iter_mut().zip(&front) {
                *value = (1.0 - hidden).sqrt() * *value + hidden.sqrt() * front;
            }
        }
        let (purpose, [a, b]) = subject.parts(moment.camera);
        let parts = [purpose as u64, a, b, moment.camera as u64, moment.frame];
        let mut chance = generator(self.seed, Purpose::White, &parts);
        let white = self.white / (dim as f64).sqrt();
        let spread = (variety as f64 / dim as f64).sqrt();
        let mut vector = Vec::with_capacity(dim);
        for (index, base) in self.cameras[moment.camera].iter().enumerate() {
            let noise = if white > 0.0 {
                white * rough_normal(&mut chance)
            } else {
                0.0
            };
            let own = spread * self.signs[index] * inner[index % variety];
            vector.push((base + own + noise) as f32);
        }
        // Without white noise the parts are at right angles and at least one is there.
        Embedding::new(vector).expect("a vector of finite parts that are not all zero")
    }

    /// The part in the space in which people differ.
    fn inner(&self, subject: Subject, moment: &Moment) -> Vec<f64> {
        let camera = moment.camera as u64;
        let (purpose, [a, b]) = subject.parts(moment.camera);
        let identity = self.direction(purpose, &[a, b], &[]);
        let view = self.direction(Purpose::View, &[purpose as u64, a, b, camera], &[&identity]);
        let mut sum: Vec<f64> = identity
            .iter()
            .zip(&view)
            .map(|(identity, view)| self.identity * identity + self.view * view)
            .collect();
        if self.posture > 0.0 {
            let parts = [purpose as u64, a, b, camera];
            let posture = self.posture_at(&parts, moment.time, &identity, &view);
            for (value, posture) in sum.iter_mut().zip(&posture) {
                *value += self.posture * posture;
            }
        }
        sum
    }

    /// Turns from one random direction to the next.
    fn posture_at(&self, parts: &[u64], time: f64, identity: &[f64], view: &[f64]) -> Vec<f64> {
        let key = period_key(self.seed, Purpose::Pose, parts);
        let mut sum = vec![0.0; self.settings.variety];
        for (number, weight) in neighbours(key, time, self.settings.posture_period) {
            let mut all = parts.to_vec();
            all.push(number);
            let posture = self.direction(Purpose::Pose, &all, &[identity, view]);
            for (value, posture) in sum.iter_mut().zip(&posture) {
                *value += weight * posture;
            }
        }
        make_unit(&mut sum);
        sum
    }

    /// A random direction, at right angles to `others`.
    fn direction(&self, purpose: Purpose, parts: &[u64], others: &[&[f64]]) -> Vec<f64> {
        let mut chance = generator(self.seed, purpose, parts);
        let count = self.settings.variety;
        let mut vector: Vec<f64> = (0..count).map(|_| rough_normal(&mut chance)).collect();
        for other in others {
            remove_from(&mut vector, other);
        }
        make_unit(&mut vector);
        vector
    }
}

/// Takes away what lies along the unit vector `other`.
fn remove_from(vector: &mut [f64], other: &[f64]) {
    let along: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
    for (value, other) in vector.iter_mut().zip(other) {
        *value -= along * other;
    }
}

fn make_unit(vector: &mut [f64]) {
    let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
    if length > 0.0 {
        for value in vector {
            *value /= length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::settings::Preset;

    fn moment(camera: usize, frame: u64) -> Moment {
        Moment {
            camera,
            frame,
            // Ten seconds apart: postures have nothing in common.
            time: frame as f64 * 10.0,
            visibility: 1.0,
            behind: None,
        }
    }

    fn mean_cosine(looks: &Looks, mut pair: impl FnMut(u64) -> [(u64, Moment); 2]) -> f64 {
        let count = 1_500;
        let mut sum = 0.0;
        for index in 0..count {
            let [a, b] = pair(index).map(|(id, at)| looks.embed(Subject::Person(id), &at));
            sum += f64::from(a.cosine(&b));
        }
        sum / count as f64
    }

    // Expected: what the settings ask for.
    #[test]
    fn similarities_are_those_asked_for() {
        for preset in [Preset::Easy, Preset::Medium, Preset::Hard] {
            let settings = LookSettings::preset(preset);
            let looks = Looks::new(&settings, 4, 5);
            let same = mean_cosine(&looks, |i| [(i, moment(0, 1)), (i, moment(0, 2))]);
            let other = mean_cosine(&looks, |i| [(i, moment(0, 1)), (i, moment(1, 2))]);
            let near = mean_cosine(&looks, |i| [(i, moment(2, 1)), (i + 1, moment(2, 1))]);
            let far = mean_cosine(&looks, |i| [(i, moment(2, 1)), (i + 1, moment(3, 1))]);
            for (found, expected) in [
                (same, settings.same_camera),
                (other, settings.other_camera),
                (near, settings.different_same_camera),
                (far, settings.different),
            ] {
                assert!(
                    (found - expected).abs() < 0.015,
                    "{preset:?}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn who_is_hidden_looks_like_who_hides_him() {
        let looks = Looks::new(&LookSettings::preset(Preset::Hard), 1, 5);
        let hidden = Moment {
            visibility: 0.2,
            behind: Some(9),
            ..moment(0, 1)
        };
        let free = looks.embed(Subject::Person(3), &moment(0, 2));
        let other = looks.embed(Subject::Person(9), &moment(0, 2));
        let seen = looks.embed(Subject::Person(3), &hidden);
        let before = looks.embed(Subject::Person(3), &moment(0, 1));
        assert!(seen.cosine(&free) < before.cosine(&free));
        assert!(seen.cosine(&other) > before.cosine(&other) + 0.1);
    }

    #[test]
    fn posture_changes_slowly() {
        let looks = Looks::new(&LookSettings::preset(Preset::Hard), 1, 5);
        let at = |frame: u64, time: f64| Moment {
            time,
            ..moment(0, frame)
        };
        let (mut near, mut far) = (0.0, 0.0);
        for id in 0..300 {
            let embed = |moment| looks.embed(Subject::Person(id), &moment);
            let first = embed(at(1, 50.0));
            near += f64::from(first.cosine(&embed(at(2, 50.1))));
            far += f64::from(first.cosine(&embed(at(3, 60.0))));
        }
        assert!(near / 300.0 > far / 300.0 + 0.1, "{near} {far}");
    }
}
