//! What happened to a handoff.

use serde::{Deserialize, Serialize};

/// One moment in the life of a handoff. Cameras are indices, times are the steps' in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum HandoffEvent {
    /// A person is leaving, or left, through a zone that leads to other cameras.
    Triggered {
        /// Number of the handoff, from 1, never used twice.
        handoff_id: u64,
        /// When.
        time: f64,
        /// Who, if it is known already.
        global_id: Option<u64>,
        /// The camera that is left.
        from: usize,
        /// The person's track there.
        track_id: u64,
        /// Index of the zone among the camera's.
        zone: usize,
        /// Cameras where the person may turn up, in order.
        candidates: Vec<usize>,
    },
    /// The person was seen at one of the candidates.
    Completed {
        /// Number of the handoff.
        handoff_id: u64,
        /// When.
        time: f64,
        /// Who.
        global_id: u64,
        /// The camera that was left.
        from: usize,
        /// The camera where the person is.
        to: usize,
        /// The person's track there.
        track_id: u64,
        /// Seconds from the last sighting at the one to the first at the other; 0 if both saw the
        /// person at once.
        seconds: f64,
        /// How sure it is, 0..=1: the new sighting's confidence times how well the time fits
        /// ([`TravelTimes::plausibility`](super::TravelTimes::plausibility)).
        confidence: f64,
    },
    /// The handoff came to nothing.
    Expired {
        /// Number of the handoff.
        handoff_id: u64,
        /// When.
        time: f64,
        /// Who, if that was known.
        global_id: Option<u64>,
        /// The camera that was, or was not, left.
        from: usize,
        /// Seconds since the person was last seen there.
        seconds: f64,
        /// Why.
        reason: ExpiryReason,
    },
}

/// Why a handoff came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpiryReason {
    /// Nobody came for as long as anyone may take.
    Timeout,
    /// The person went back into the picture.
    Returned,
    /// Too many handoffs were waited for; this was the oldest.
    Crowded,
}

impl HandoffEvent {
    /// Number of the handoff.
    pub fn handoff_id(&self) -> u64 {
        match *self {
            Self::Triggered { handoff_id, .. }
            | Self::Completed { handoff_id, .. }
            | Self::Expired { handoff_id, .. } => handoff_id,
        }
    }

    /// When it happened, in seconds.
    pub fn time(&self) -> f64 {
        match *self {
            Self::Triggered { time, .. }
            | Self::Completed { time, .. }
            | Self::Expired { time, .. } => time,
        }
    }
}
