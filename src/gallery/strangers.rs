//! How alike people look who are not one: what a likeness must exceed to say anything.
//!
//! Learned from people who are seen at once, as different people: what one of them looks like
//! against all that is kept of another, as association compares it. A camera makes everyone
//! it shows alike, so people it has shown before count apart.

use serde::{Deserialize, Serialize};

use super::associate::CameraWork;
use super::{Gallery, Person};

/// Comparisons after which old ones begin to be forgotten.
const MEMORY: f64 = 5_000.0;

/// Comparisons without which nothing is known.
const LEAST: f64 = 100.0;

/// Standard deviations above the mean from which on a likeness is rare among strangers.
const RARE: f64 = 1.5;

/// People whom one vector is compared with, about: enough to learn from, and little to do.
const MOST_COMPARED: usize = 32;

/// Mean and spread of likenesses.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Spread {
    weight: f64,
    mean: f64,
    squares: f64,
}

impl Spread {
    fn record(&mut self, value: f64) {
        if self.weight >= MEMORY {
            let kept = (MEMORY - 1.0) / self.weight;
            self.weight *= kept;
            self.squares *= kept;
        }
        self.weight += 1.0;
        let before = value - self.mean;
        self.mean += before / self.weight;
        self.squares += before * (value - self.mean);
    }

    fn level(&self, deviations: f64) -> Option<f64> {
        let deviation = (self.squares / self.weight).sqrt();
        (self.weight >= LEAST).then_some(self.mean + deviations * deviation)
    }
}

/// Likenesses of different people.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Strangers {
    /// To people whom the camera has never shown, and to those whom it has.
    by_camera: [Spread; 2],
}

impl Strangers {
    /// Takes in how alike a vector was to somebody else; `known_there`: the vector's camera has
    /// shown him before.
    pub fn record(&mut self, similarity: f64, known_there: bool) {
        self.by_camera[usize::from(known_there)].record(similarity);
    }

    /// The likeness that few strangers exceed; `None` while too little is known.
    pub fn level(&self, known_there: bool, deviations: f64) -> Option<f64> {
        self.by_camera[usize::from(known_there)].level(deviations)
    }
}

impl Gallery {
    /// The least likeness of a vector from `camera` that speaks for a person where looks alone do.
    pub(super) fn likeness_needed(&self, camera: usize, person: &Person) -> f64 {
        let known_there = person.cameras.contains(&camera);
        let least = self.settings.similarity_threshold;
        let level = self.strangers.level(known_there, RARE);
        level.map_or(least, |level| level.max(least))
    }

    /// Learns how alike those are who are seen at once.
    pub(super) fn compare_strangers(&mut self, work: &[CameraWork<'_>]) {
        let seen: Vec<usize> = (0..self.people.len())
            .filter(|&i| self.people[i].is_seen() && self.people[i].global_id.is_some())
            .collect();
        for camera in work {
            for (index, observation) in camera.observations.iter().enumerate() {
                let (Some(vector), Some(evidence)) = (observation.embedding, &camera.now[index])
                else {
                    continue;
                };
                let stride = seen.len().div_ceil(MOST_COMPARED).max(1);
                for &other in seen.iter().step_by(stride) {
                    let person = &self.people[other];
                    let Some(look) = person.look.as_ref().filter(|_| other != evidence.person)
                    else {
                        continue;
                    };
                    if let Some(similarity) = look.similarity(vector) {
                        let known_there = person.cameras.contains(&camera.camera);
                        self.strangers.record(similarity, known_there);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: mean 0.5, standard deviation 0.1.
    #[test]
    fn the_level_is_mean_and_deviations() {
        let mut strangers = Strangers::default();
        for number in 0..100 {
            assert_eq!(strangers.level(true, 1.5), None, "{number}");
            strangers.record(if number % 2 == 0 { 0.4 } else { 0.6 }, true);
        }
        let level = strangers.level(true, 1.5).unwrap();
        assert!((level - 0.65).abs() < 1e-9, "{level}");
        assert_eq!(strangers.level(false, 1.5), None);
        // Another light: what was learned before is washed out.
        for _ in 0..50_000 {
            strangers.record(0.2, true);
        }
        let level = strangers.level(true, 1.5).unwrap();
        assert!((level - 0.2).abs() < 0.01, "{level}");
    }
}
