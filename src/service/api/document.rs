//! What the handlers' own annotations do not say in the OpenAPI document: errors that come from around
//! them (rights, rates, sizes, time), and that pictures and videos are bytes.

use axum::http::Method;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, OpenApi, PathItem, Ref, RefOr, ResponseBuilder};

use crate::service::auth::access::{Access, OpenRoutes, needed};

/// Whatever is asked for.
const ALWAYS: &[(&str, &str)] = &[
    ("413", "The body is too large."),
    ("414", "The address is too long."),
    ("431", "The headers are too large."),
    ("500", "A fault of the service; its log says more."),
    ("503", "Too busy, or it took too long."),
];

/// Where callers must be known.
const GUARDED: &[(&str, &str)] = &[
    ("401", "Nobody known: a key or token is missing or wrong."),
    ("403", "Somebody known who may not do this."),
    (
        "429",
        "Too many requests; `Retry-After` says when to come back.",
    ),
];

/// Where a body is taken.
const WITH_BODY: &[(&str, &str)] = &[
    ("400", "The request cannot be read."),
    ("408", "The body took too long to come."),
    ("415", "The body is of a type that is not taken here."),
    ("422", "The request can be read but makes no sense."),
];

/// Adds what each operation's own annotation does not name; what it names stays.
pub fn describe(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in methods(item) {
            add(operation, ALWAYS);
            if needed(&method, path, OpenRoutes::default()) != Access::Health {
                add(operation, GUARDED);
            }
            if operation.request_body.is_some() {
                add(operation, WITH_BODY);
            }
            bytes(operation);
        }
    }
}

fn methods(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::DELETE, &mut item.delete),
        (Method::PATCH, &mut item.patch),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn add(operation: &mut Operation, errors: &[(&str, &str)]) {
    for (status, description) in errors {
        let problem = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new()
            .description(*description)
            .content("application/problem+json", problem)
            .build();
        let all = &mut operation.responses.responses;
        all.entry((*status).to_string())
            .or_insert_with(|| response.into());
    }
}

/// Takes the schema from contents that JSON Schema cannot describe, as OpenAPI 3.1 has it: they would be
/// lists of numbers otherwise.
fn bytes(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else {
            continue;
        };
        for (media_type, content) in &mut response.content {
            let kind = media_type.split('/').next().unwrap_or_default();
            if ["image", "video", "multipart"].contains(&kind) {
                *content = RefOr::T(Content::new::<Ref>(None));
            }
        }
    }
}
