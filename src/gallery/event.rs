//! What happened to identities: never a silent rewrite.

use serde::{Deserialize, Serialize};

use super::person::TrackKey;

/// Something that happened to an identity in one time step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum IdentityEvent {
    /// A new person got its identity.
    New {
        /// The identity.
        global_id: u64,
    },
    /// A person out of sight was known again.
    Returned {
        /// The identity.
        global_id: u64,
        /// The track that shows it.
        track: TrackKey,
        /// Seconds that it was out of sight.
        seconds: f64,
    },
    /// A track turned out to show another person than was thought: a wrong match undone.
    Split {
        /// The track.
        track: TrackKey,
        /// Whom it was thought to show.
        from: u64,
        /// Whom it shows.
        to: u64,
    },
    /// Two identities turned out to be one person; `from` is not used any more.
    Merged {
        /// The identity that ends.
        from: u64,
        /// The older identity, which stays.
        into: u64,
    },
    /// A person moved to the lost gallery.
    Lost {
        /// The identity.
        global_id: u64,
    },
    /// A person was forgotten: lost for too long, or the galleries were full.
    Removed {
        /// The identity.
        global_id: u64,
    },
}
