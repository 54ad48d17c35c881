//! Whether the service is well. Nothing is loaded to find out.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::service::SharedApp;

/// The service's health in one word.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `healthy`: whoever is not does not answer.
    #[schema(example = "healthy")]
    pub status: &'static str,
}

/// Routes of this area.
pub fn routes() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new().routes(routes!(health))
}

/// Whether the service answers.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = Health)))]
async fn health() -> Json<Health> {
    Json(Health { status: "healthy" })
}
