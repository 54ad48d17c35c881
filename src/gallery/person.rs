//! What is known of one person: looks, place, and which tracks show it now.

use std::collections::BTreeSet;

use mtmc_models::Embedding;
use serde::{Deserialize, Serialize};

use super::motion::Motion;

/// Standard deviation of a place, in map units, from which on it says nothing of who someone is.
const ADRIFT: f64 = 1.0;

/// How a person looks: a moving mean of its vectors and a few that differ most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    mean: Embedding,
    exemplars: Vec<Embedding>,
    /// Vectors taken in.
    pub vectors: u64,
}

impl Look {
    /// Of a first vector.
    pub fn new(vector: &Embedding) -> Self {
        Self {
            mean: vector.clone(),
            exemplars: Vec::new(),
            vectors: 1,
        }
    }

    /// Takes a vector into a look, or begins one with it.
    pub fn take_in(look: &mut Option<Self>, vector: &Embedding, alpha: f64, most: usize) {
        match look {
            Some(look) => look.update(vector, alpha, most),
            None => *look = Some(Self::new(vector)),
        }
    }

    /// The mean, of length 1.
    pub fn mean(&self) -> &Embedding {
        &self.mean
    }

    /// The vectors kept beside the mean.
    pub fn exemplars(&self) -> &[Embedding] {
        &self.exemplars
    }

    /// Takes in a vector with weight `alpha`; one unlike all `most` exemplars replaces the one
    /// that is most like another.
    ///
    /// A vector of another size is of another network and changes nothing.
    pub fn update(&mut self, vector: &Embedding, alpha: f64, most: usize) {
        if vector.dim() != self.mean.dim() {
            return;
        }
        self.vectors += 1;
        let alpha = alpha as f32;
        let blend = |(old, new): (&f32, &f32)| (1.0 - alpha) * old + alpha * new;
        let pairs = self.mean.as_slice().iter().zip(vector.as_slice());
        // Opposite vectors may cancel out; the mean stays what it was then.
        if let Ok(mean) = Embedding::new(pairs.map(blend).collect()) {
            self.mean = mean;
        }
        self.keep(vector, most);
    }

    /// Keeps the vectors that are least like each other.
    fn keep(&mut self, vector: &Embedding, most: usize) {
        if most == 0 {
            return;
        }
        self.exemplars.push(vector.clone());
        if self.exemplars.len() <= most {
            return;
        }
        // The later one of the pair most alike goes, so that old looks are not washed away.
        let mut alike = (f32::MIN, self.exemplars.len() - 1);
        for later in 1..self.exemplars.len() {
            for earlier in 0..later {
                let cosine = self.exemplars[later].cosine(&self.exemplars[earlier]);
                if cosine > alike.0 {
                    alike = (cosine, later);
                }
            }
        }
        self.exemplars.remove(alike.1);
    }

    /// How alike a vector is: the best cosine with the mean or an exemplar; `None` for a vector
    /// of another size.
    pub fn similarity(&self, vector: &Embedding) -> Option<f64> {
        if vector.dim() != self.mean.dim() {
            return None;
        }
        let mut best = self.mean.cosine(vector);
        for exemplar in &self.exemplars {
            best = best.max(exemplar.cosine(vector));
        }
        Some(f64::from(best))
    }

    /// Takes over what another look of the same person knows; one of another network's vectors
    /// changes nothing.
    pub fn absorb(&mut self, other: &Self, most: usize) {
        if other.mean.dim() != self.mean.dim() {
            return;
        }
        self.update(&other.mean, 0.5, most);
        for exemplar in &other.exemplars {
            self.keep(exemplar, most);
        }
        self.vectors += other.vectors - 1;
    }
}

/// A track of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrackKey {
    /// Index of the camera.
    pub camera: usize,
    /// The track's ID there.
    pub track_id: u64,
}

/// Which gallery a person is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GalleryType {
    /// Seen now or a moment ago.
    Main,
    /// Out of sight, and to be known again.
    Lost,
}

/// One person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Person {
    /// Number within the gallery, in order of appearance; never used twice.
    pub key: u64,
    /// The identity, once the person is sure to be one.
    pub global_id: Option<u64>,
    /// Which gallery it is in.
    pub gallery: GalleryType,
    /// Looks, if a vector was taken.
    pub look: Option<Look>,
    /// Place on the map, if a camera with a map saw it.
    pub motion: Option<Motion>,
    /// Cameras that ever saw it.
    pub cameras: BTreeSet<usize>,
    /// The tracks that showed it when it was last seen, one a camera, by camera.
    pub tracks: Vec<TrackKey>,
    /// Time of the first sighting, in seconds.
    pub first_seen: f64,
    /// Time of the latest sighting, in seconds.
    pub last_seen: f64,
    /// Camera of the latest sighting; of several, the one that showed fewest people.
    pub last_camera: usize,
    /// Steps in which enough cameras saw it.
    pub(super) hits: u32,
    /// Steps since it was last seen.
    pub(super) missed: u32,
    /// Steps since it was last seen by as many cameras as should.
    pub(super) weak: u32,
}

impl Person {
    /// Whether it was seen in the latest step.
    pub fn is_seen(&self) -> bool {
        self.missed == 0
    }

    /// Whether it is out of sight for so long that its place says little, while its looks are
    /// known: it can come back anywhere, by looks.
    pub fn is_adrift(&self) -> bool {
        let lost = |motion: Motion| motion.uncertainty() > ADRIFT;
        !self.is_seen() && self.look.is_some() && self.motion.is_some_and(lost)
    }

    /// Whether it is out of sight and nothing but its looks will tell that it is back, where there
    /// is a map.
    pub fn is_to_return(&self) -> bool {
        !self.is_seen() && self.look.is_some() && (self.motion.is_none() || self.is_adrift())
    }

    /// The track of `camera` that shows it now, if there is one.
    pub fn track_in(&self, camera: usize) -> Option<u64> {
        let track = self.tracks.iter().find(|track| track.camera == camera)?;
        Some(track.track_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(x: f32, y: f32) -> Embedding {
        Embedding::new(vec![x, y]).unwrap()
    }

    // By hand: (1 - 0.5)·(1, 0) + 0.5·(0, 1), brought to length 1.
    #[test]
    fn the_mean_moves_by_alpha() {
        let mut look = Look::new(&vector(1.0, 0.0));
        look.update(&vector(0.0, 1.0), 0.5, 0);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert!((look.mean().as_slice()[0] - half).abs() < 1e-6);
        assert!(look.exemplars().is_empty());
        look.update(&Embedding::new(vec![1.0; 3]).unwrap(), 0.5, 0);
        assert_eq!(look.vectors, 2);
    }

    #[test]
    fn exemplars_are_those_least_alike() {
        let mut look = Look::new(&vector(1.0, 0.0));
        for angle in [0.0_f32, 0.1, 1.5, 0.05, 3.0] {
            look.update(&vector(angle.cos(), angle.sin()), 0.1, 3);
        }
        let angles: Vec<f32> = look
            .exemplars()
            .iter()
            .map(|e| e.as_slice()[1].atan2(e.as_slice()[0]))
            .collect();
        assert_eq!(angles.len(), 3);
        for (found, expected) in angles.iter().zip([0.0, 1.5, 3.0]) {
            assert!((found - expected).abs() < 1e-3, "{angles:?}");
        }
        // Someone seen from behind once is known from behind again.
        let behind = look
            .similarity(&vector(1.5_f32.cos(), 1.5_f32.sin()))
            .unwrap();
        assert!(behind > 0.999);
    }
}
