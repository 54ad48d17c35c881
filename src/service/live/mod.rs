//! What tasks find, live: each task has a [`Hub`] that numbers its messages and keeps the latest, and
//! sockets listen to it.
//!
//! Results come in by the sinks of a [`Feed`], on the pipeline's threads, which never wait for a
//! socket. Each socket reads the hub at its own speed ([`Subscription`]): one that is too slow loses
//! pictures first, then frames, and is told so.

mod build;
mod feed;
mod frame;
mod hub;
mod message;
mod settings;
mod socket;
mod subscription;
mod tracks;
mod upgrade;

pub use feed::{Feed, PictureSettings};
pub use frame::{CameraFacts, TaskFacts, homography_data, patience};
pub use hub::{End, Extent, Hub};
pub use message::{Draft, Images, Kind, Message};
pub use settings::LiveSettings;
pub use subscription::{Batch, Loss, Outgoing, Range, Subscription, Wishes};
pub use upgrade::{Sockets, routes};
