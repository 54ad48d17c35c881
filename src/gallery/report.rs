//! What a gallery is given in a time step, and what it tells.

use mtmc_models::{BBox, Embedding};
use serde::{Deserialize, Serialize};

use super::IdentityEvent;
use crate::homography::MapPoint;

/// What a camera's tracker reports of one track.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The track's ID in its camera.
    pub track_id: u64,
    /// Its box in pixels.
    pub bbox: BBox,
    /// How it looks, if that was asked for in this step.
    pub embedding: Option<&'a Embedding>,
}

/// One camera's part of a time step.
#[derive(Debug, Clone, Copy)]
pub struct CameraInput<'a> {
    /// Index of the camera in the environment.
    pub camera: usize,
    /// Width and height of its frame in pixels.
    pub frame_size: [f64; 2],
    /// Its tracks in this frame; each ID once.
    pub observations: &'a [Observation<'a>],
}

/// How a track came to its identity in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AssociationType {
    /// The track shows whom it showed before.
    Continued,
    /// A track new to the person, who is in sight elsewhere or was a moment ago.
    Matched,
    /// The person was lost and is known again.
    Returned,
    /// The track was thought to show someone else.
    Split,
    /// Someone new.
    New,
    /// Nobody yet: not sure to be a person, or waiting for a vector.
    Pending,
}

/// One person that a track might show, with what speaks for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The identity, if it has one already.
    pub global_id: Option<u64>,
    /// The sum by which identities were assigned; the lower the likelier, below 0 acceptable.
    pub cost: f64,
    /// Squared Mahalanobis distance on the map, where there is one.
    pub distance: Option<f64>,
    /// Cosine similarity, where both have vectors.
    pub similarity: Option<f64>,
}

/// Whom a track shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The identity; `None` while it is not sure.
    pub global_id: Option<u64>,
    /// How it came to it.
    pub association: AssociationType,
    /// Cosine similarity to the person, where both have vectors.
    pub similarity: Option<f64>,
    /// How sure it is, 0..=1: the likelihood of this person among the candidates and someone new;
    /// as of the latest step that told. 0 without an identity.
    pub confidence: f64,
    /// The best candidates, the chosen one among them, by rising cost.
    pub candidates: Vec<Candidate>,
}

/// A person on the map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlacedPerson {
    /// The identity.
    pub global_id: u64,
    /// Where it is, by all cameras together.
    pub place: MapPoint,
    /// Velocity x, y in map units a second.
    pub velocity: [f64; 2],
    /// Standard deviation of the place, in map units.
    pub uncertainty: f64,
    /// Steps since it was seen; 0: now.
    pub missed: u32,
}

/// The outcome of a time step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepResult {
    /// Whom each observation shows, in the order of the input.
    pub identities: Vec<Vec<Identity>>,
    /// What happened to identities, in a fixed order.
    pub events: Vec<IdentityEvent>,
    /// Everyone on the map who was seen within the last [`COASTING_STEPS`](super::COASTING_STEPS), by identity.
    pub people: Vec<PlacedPerson>,
}
