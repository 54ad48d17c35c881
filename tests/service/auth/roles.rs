//! Every role at every kind of route.

use mtmc::service::api;

use super::server::{assert_problem, guarded, open};
use crate::http;

const TASK: &str = "00000000-0000-4000-8000-000000000000";

/// Method, path, body, the lowest role that may (0 nobody named, 1 viewer, 2 operator, 3 admin): what
/// `docs/security.md` says.
const TABLE: &[(&str, &str, &str, usize)] = &[
    ("GET", "/health", "", 0),
    ("GET", "/livez", "", 0),
    ("GET", "/readyz", "", 0),
    ("GET", "/docs/", "", 0),
    ("GET", "/openapi.json", "", 0),
    ("GET", "/asyncapi.json", "", 0),
    ("GET", "/health/detection", "", 1),
    ("GET", "/info", "", 1),
    ("GET", "/metrics", "", 1),
    ("GET", "/api/v1/detection-processing-tasks", "", 1),
    (
        "GET",
        "/api/v1/detection-processing-tasks/environments",
        "",
        1,
    ),
    ("GET", "/api/v1/processing-tasks/TASK", "", 1),
    ("GET", "/api/v1/raw-processing-tasks/TASK/status", "", 1),
    ("GET", "/ws/detection-tracking/TASK", "", 1),
    ("GET", "/outputs/TASK/video.mp4", "", 1),
    ("GET", "/nowhere", "", 1),
    ("POST", "/api/v1/tickets", "", 1),
    ("POST", "/api/v1/raw-processing-tasks/start", "{}", 2),
    ("DELETE", "/api/v1/processing-tasks/TASK/stop", "", 2),
    ("POST", "/api/inference/video", "", 2),
    ("DELETE", "/api/inference/video/TASK", "", 2),
    ("POST", "/api/v1/people/search", "", 2),
    ("DELETE", "/api/v1/people/7", "", 3),
    (
        "DELETE",
        "/api/v1/processing-tasks/environment/none/cleanup",
        "",
        3,
    ),
    ("GET", "/api/v1/keys", "", 3),
    ("POST", "/api/v1/keys", "{}", 3),
    ("DELETE", "/api/v1/keys/none", "", 3),
    ("PUT", "/api/v1/keys", "{}", 3),
    ("DELETE", "/nowhere", "", 3),
];

#[test]
fn every_role_at_every_kind_of_route() {
    let server = guarded(Default::default());
    let keys = ["", &server.viewer, &server.operator, &server.admin];
    for (method, path, body, lowest) in TABLE {
        let path = path.replace("TASK", TASK);
        for (role, key) in keys.iter().enumerate() {
            let response = server.ask(key, method, &path, body);
            let what = format!("{method} {path} as {role}: {}", response.status);
            if role >= *lowest {
                assert!(!matches!(response.status, 401 | 403 | 429), "{what}");
                // Without networks and a healthy machine, 503 is right; a fault is not.
                assert_ne!(response.status, 500, "{what}");
            } else if role == 0 {
                assert_problem(&response, 401, "unauthorized");
                let challenge = response.header("www-authenticate");
                assert_eq!(challenge, Some(r#"Bearer realm="mtmc""#), "{what}");
            } else {
                assert_problem(&response, 403, "forbidden");
            }
        }
    }
}

/// No operation of the interface is left out: all that the OpenAPI document lists take a key, and all
/// that change something take more than looking.
#[test]
fn all_operations_of_the_document_are_guarded() {
    let server = guarded(Default::default());
    let (_, document) = api::router(server.app.clone());
    let document = serde_json::to_value(document).unwrap();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{task_id}", TASK).replace(['{', '}'], "");
        for method in ["get", "post", "put", "patch", "delete"] {
            if item.get(method).is_none() {
                continue;
            }
            operations += 1;
            let method = method.to_uppercase();
            let open = ["/health", "/livez", "/readyz", "/asyncapi.json"];
            let status = server.ask("", &method, &path, "").status;
            assert_eq!(
                status == 401,
                !open.contains(&path.as_str()),
                "{method} {path}: {status}"
            );
            let looks = method == "GET" && path != "/api/v1/keys" || path == "/api/v1/tickets";
            let status = server.ask(&server.viewer, &method, &path, "").status;
            assert_eq!(status == 403, !looks, "{method} {path}: {status}");
        }
    }
    assert!(operations > 25, "{operations} operations");
}

#[test]
fn routes_can_be_opened_and_closed() {
    let mut settings = mtmc::service::settings::ServiceSettings::default();
    settings.auth.open.docs = false;
    settings.auth.open.metrics = true;
    let server = guarded(settings);
    assert_eq!(server.get("/metrics", &[]).status, 200);
    assert_eq!(server.get("/docs/", &[]).status, 401);
    assert_eq!(server.get("/openapi.json", &[]).status, 401);
    assert_eq!(
        server
            .ask(&server.viewer, "GET", "/openapi.json", "")
            .status,
        200
    );
}

#[test]
fn without_keys_this_machine_may_do_everything_and_strange_pages_nothing() {
    let server = open(Default::default());
    assert_eq!(server.get("/api/v1/keys", &[]).status, 200);
    let evil = [("Origin", "https://evil.example")];
    assert_eq!(server.get("/api/v1/processing-tasks", &evil).status, 200);
    let body = br#"{"name":"x","role":"admin"}"#;
    let headers = [evil[0], ("Content-Type", "application/json")];
    let refused = http::request(&server.address, "POST", "/api/v1/keys", &headers, body);
    assert_problem(&refused, 403, "origin-not-allowed");
    let socket = format!("/ws/detection-tracking/{TASK}");
    assert_problem(&server.get(&socket, &evil), 403, "origin-not-allowed");
    // The first key closes the door behind it.
    let made = server.ask("", "POST", "/api/v1/keys", r#"{"name":"x","role":"admin"}"#);
    assert_eq!(made.status, 201);
    assert_problem(&server.get("/api/v1/keys", &[]), 401, "unauthorized");
}

#[test]
fn other_machines_are_not_let_in_without_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = mtmc::service::settings::ServiceSettings {
        listen: "0.0.0.0:0".parse().unwrap(),
        data_dir: folder.path().to_path_buf(),
        ..Default::default()
    };
    let refused = serve_at(settings.clone()).unwrap_err().to_string();
    assert!(refused.contains("mtmc keys create"), "{refused}");
    assert!(refused.contains("--insecure-no-auth"), "{refused}");
    settings.auth.insecure_no_auth = true;
    serve_at(settings.clone()).unwrap();
    settings.auth.insecure_no_auth = false;
    settings.auth.admin_key = Some("x".repeat(32).parse().unwrap());
    serve_at(settings.clone()).unwrap();
    settings.auth.admin_key = Some("short".parse().unwrap());
    let refused = serve_at(settings).unwrap_err().to_string();
    assert!(refused.contains("32 characters"), "{refused}");
}

/// Serves until it listens.
fn serve_at(settings: mtmc::service::settings::ServiceSettings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let catalog = Default::default();
        let app = mtmc::service::App::new(settings, catalog, Default::default()).await?;
        mtmc::service::serve(app, std::future::ready(()), |_| {}).await
    })
}
