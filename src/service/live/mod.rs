//! What tasks find, live: each task has a [`Hub`] that numbers its messages and keeps the latest, and
//! sockets listen to it.

mod hub;

use utoipa_axum::router::OpenApiRouter;

use super::SharedApp;

pub use hub::Hub;

/// Routes of the sockets.
pub fn routes() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
}
