//! Which role a route takes: the one table of rights. What is not in it takes an admin.

use axum::http::Method;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a caller may do; a higher role may do all that a lower one may.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks: reads everything but keys, listens to sockets
    Viewer,
    /// Works: starts and stops tasks, uploads
    Operator,
    /// Decides: cleans up, erases people, makes and revokes keys
    Admin,
}

impl Role {
    /// As stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// Routes that anybody may read, besides the health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenRoutes {
    /// `/docs`, `/openapi.json` and `/asyncapi.json`: they say nothing about this installation.
    /// Default true.
    pub docs: bool,
    /// `/metrics`: it names cameras. Default false.
    pub metrics: bool,
}

impl Default for OpenRoutes {
    fn default() -> Self {
        Self {
            docs: true,
            metrics: false,
        }
    }
}

/// What a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing, and it is not limited: for probes.
    Health,
    /// Nothing.
    Open,
    /// This role or a higher one.
    Needs(Role),
}

/// What a request for this path takes.
pub fn needed(method: &Method, path: &str, open: OpenRoutes) -> Access {
    let reads = method == Method::GET || method == Method::HEAD;
    if reads && matches!(path, "/health" | "/livez" | "/readyz") {
        return Access::Health;
    }
    let docs =
        matches!(path, "/docs" | "/openapi.json" | "/asyncapi.json") || path.starts_with("/docs/");
    if reads && (open.docs && docs || open.metrics && path == "/metrics") {
        return Access::Open;
    }
    Access::Needs(role(method, path, reads))
}

fn role(method: &Method, path: &str, reads: bool) -> Role {
    let mut parts = path.split('/').skip(1);
    let first = [parts.next(), parts.next(), parts.next()];
    if first == [Some("api"), Some("v1"), Some("keys")] {
        return Role::Admin;
    }
    if reads {
        return Role::Viewer;
    }
    if *method == Method::POST {
        // Whoever may listen may have a ticket to listen with.
        if path == "/api/v1/tickets" {
            return Role::Viewer;
        }
        return Role::Operator;
    }
    if *method == Method::DELETE {
        let stops = path.ends_with("/stop") && !path.contains("/environment/");
        let upload = path.starts_with("/api/inference/");
        if stops || upload {
            return Role::Operator;
        }
    }
    Role::Admin
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Method, path, what it takes: the rule of the service's documentation, route by route.
    const TABLE: &[(&str, &str, Access)] = &[
        ("GET", "/health", Access::Health),
        ("HEAD", "/livez", Access::Health),
        ("GET", "/readyz", Access::Health),
        ("POST", "/health", Access::Needs(Role::Operator)),
        ("GET", "/health/detection", Access::Needs(Role::Viewer)),
        ("GET", "/metrics", Access::Needs(Role::Viewer)),
        ("GET", "/docs", Access::Open),
        ("GET", "/docs/swagger-ui.css", Access::Open),
        ("GET", "/docsecret", Access::Needs(Role::Viewer)),
        ("GET", "/openapi.json", Access::Open),
        ("GET", "/info", Access::Needs(Role::Viewer)),
        (
            "GET",
            "/ws/detection-tracking/x",
            Access::Needs(Role::Viewer),
        ),
        ("GET", "/outputs/x/video.mp4", Access::Needs(Role::Viewer)),
        ("GET", "/api/v1/people", Access::Needs(Role::Viewer)),
        (
            "POST",
            "/api/v1/people/search",
            Access::Needs(Role::Operator),
        ),
        ("DELETE", "/api/v1/people/7", Access::Needs(Role::Admin)),
        ("POST", "/api/v1/tickets", Access::Needs(Role::Viewer)),
        ("GET", "/api/v1/keys", Access::Needs(Role::Admin)),
        ("POST", "/api/v1/keys", Access::Needs(Role::Admin)),
        ("DELETE", "/api/v1/keys/k", Access::Needs(Role::Admin)),
        (
            "POST",
            "/api/inference/video",
            Access::Needs(Role::Operator),
        ),
        (
            "DELETE",
            "/api/inference/video/x",
            Access::Needs(Role::Operator),
        ),
        (
            "GET",
            "/api/v1/processing-tasks",
            Access::Needs(Role::Viewer),
        ),
        (
            "POST",
            "/api/v1/processing-tasks/start",
            Access::Needs(Role::Operator),
        ),
        (
            "DELETE",
            "/api/v1/processing-tasks/x/stop",
            Access::Needs(Role::Operator),
        ),
        (
            "DELETE",
            "/api/v1/processing-tasks/environment/e/cleanup",
            Access::Needs(Role::Admin),
        ),
        (
            "PATCH",
            "/api/v1/processing-tasks/x",
            Access::Needs(Role::Admin),
        ),
        ("BREW", "/anything", Access::Needs(Role::Admin)),
        ("OPTIONS", "/api/v1/people", Access::Needs(Role::Admin)),
    ];

    #[test]
    fn routes_take_their_roles() {
        for (method, path, expected) in TABLE {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let found = needed(&method, path, OpenRoutes::default());
            assert_eq!(found, *expected, "{method} {path}");
        }
        let closed = OpenRoutes {
            docs: false,
            metrics: true,
        };
        assert_eq!(needed(&Method::GET, "/metrics", closed), Access::Open);
        let docs = needed(&Method::GET, "/docs/", closed);
        assert_eq!(docs, Access::Needs(Role::Viewer));
    }

    #[test]
    fn roles_are_ordered_and_have_names() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            assert_eq!(Role::of(role.name()), Some(role));
        }
        assert_eq!(Role::of("Admin"), None);
        assert_eq!(Role::of("root"), None);
    }
}
