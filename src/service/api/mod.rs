//! The interface over HTTP: one file an area, each with its part of the OpenAPI document.

mod counts;
mod document;
mod environments;
pub mod health;
mod inference;
mod keys;
mod outputs;
mod people;
pub mod tasks;

use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, Uri};
use axum::{Router, middleware};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, PathItem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use super::SharedApp;
use super::problem::Problem;
use super::tasks::TaskKind;

/// All routes, and the document that describes them.
pub fn router(app: SharedApp) -> (Router, OpenApi) {
    let info = InfoBuilder::new()
        .title("mtmc")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Multi-target multi-camera tracking of people."))
        .build();
    let document = OpenApiBuilder::new().info(info).build();
    let mut routes = OpenApiRouter::with_openapi(document).merge(health::routes());
    for kind in TaskKind::ALL {
        let area = tasks::routes(app.clone(), kind).merge(environments::routes(app.clone(), kind));
        routes = routes.nest(kind.prefix(), named(area, kind));
    }
    let routes = routes
        .merge(inference::routes())
        .merge(outputs::routes())
        .merge(keys::routes())
        .merge(people::routes())
        .merge(counts::routes())
        .merge(super::live::routes());
    let (router, mut document) = routes.with_state(app.clone()).split_for_parts();
    document::describe(&mut document);
    let router = router
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document.clone()))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(app.settings.limits.max_body))
        .layer(middleware::from_fn_with_state(
            app.clone(),
            super::limits::bound,
        ))
        .layer(middleware::from_fn_with_state(
            app.clone(),
            super::auth::guard::guard,
        ))
        .layer(middleware::from_fn_with_state(
            app.clone(),
            super::metrics::http::observe,
        ));
    (super::envelope::around(router, app), document)
}

/// The same operations exist for each kind of task: their IDs must differ.
fn named(mut area: OpenApiRouter<SharedApp>, kind: TaskKind) -> OpenApiRouter<SharedApp> {
    for item in area.get_openapi_mut().paths.paths.values_mut() {
        for operation in operations(item) {
            if let Some(id) = &mut operation.operation_id {
                *id = format!("{}_{id}", kind.name());
            }
            operation.tags = Some(vec![format!("{} tasks", kind.name())]);
        }
    }
    area
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut utoipa::openapi::path::Operation> {
    [
        &mut item.get,
        &mut item.post,
        &mut item.put,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found("not-found", format!("there is nothing at {}", uri.path()))
}

async fn method_not_allowed(uri: Uri) -> Problem {
    let detail = format!("{} does not take this method", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}
