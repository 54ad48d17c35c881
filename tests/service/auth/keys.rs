//! API keys over REST and on the command line; tickets.

use std::process::Command;

use mtmc::service::settings::ServiceSettings;
use serde_json::{Value, json};

use super::server::{assert_problem, guarded};

#[test]
fn a_key_is_made_used_and_revoked() {
    let server = guarded(ServiceSettings::default());
    let asked = json!({"name": "front desk", "role": "operator"}).to_string();
    let made = server.ask(&server.admin, "POST", "/api/v1/keys", &asked);
    assert_eq!(made.status, 201);
    let (key, id) = (made.json()["key"].clone(), made.json()["id"].clone());
    let (key, id) = (key.as_str().unwrap(), id.as_str().unwrap());
    assert_eq!((key.len(), &key[..5]), (48, "mtmc_"));
    assert_eq!(made.header("cache-control"), Some("no-store"));

    let list = server.ask(&server.admin, "GET", "/api/v1/keys", "");
    assert!(!list.text().contains(key), "a key is shown once");
    let keys = list.json()["keys"].clone();
    let entry = keys
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["id"] == id)
        .unwrap();
    assert_eq!(
        (&entry["name"], &entry["role"]),
        (&json!("front desk"), &json!("operator"))
    );
    assert_eq!(entry["revoked"], Value::Null);
    // What is stored is not the key.
    let data = &server.app.settings.data_dir;
    for file in std::fs::read_dir(data).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes
                .windows(key.len())
                .any(|window| window == key.as_bytes());
            assert!(!found, "the key stands in {}", path.display());
        }
    }

    let path = "/api/v1/processing-tasks";
    assert_eq!(server.ask(key, "GET", path, "").status, 200);
    assert_eq!(server.get(path, &[("X-API-Key", key)]).status, 200);
    assert_eq!(
        server
            .get(path, &[("authorization", &format!("bearer {key}"))])
            .status,
        200
    );
    let both = [("X-API-Key", key), ("Authorization", "Bearer x")];
    assert_problem(&server.get(path, &both), 401, "unauthorized");
    // A key does not belong into an address.
    assert_problem(
        &server.get(&format!("{path}?token={key}"), &[]),
        401,
        "unauthorized",
    );

    let revoke = format!("/api/v1/keys/{id}");
    assert_eq!(server.ask(&server.admin, "DELETE", &revoke, "").status, 204);
    assert_eq!(server.ask(&server.admin, "DELETE", &revoke, "").status, 204);
    let refused = server.ask(key, "GET", path, "");
    assert_problem(&refused, 401, "unauthorized");
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.contains("invalid_token"), "{challenge}");
    let unknown = server.ask(&server.admin, "DELETE", "/api/v1/keys/nobody", "");
    assert_problem(&unknown, 404, "key-not-found");
}

#[test]
fn wrong_requests_for_keys_are_refused() {
    let server = guarded(ServiceSettings::default());
    let wrong = [
        r#"{"name":"","role":"viewer"}"#.to_string(),
        r#"{"name":"x","role":"root"}"#.to_string(),
        r#"{"name":"x"}"#.to_string(),
        r#"{"name":"x","role":"viewer","more":1}"#.to_string(),
        json!({"name": "x".repeat(101), "role": "viewer"}).to_string(),
        json!({"name": "a\u{7}b", "role": "viewer"}).to_string(),
    ];
    for body in wrong {
        let response = server.ask(&server.admin, "POST", "/api/v1/keys", &body);
        assert_problem(&response, 422, "invalid-request");
    }
}

#[test]
fn a_ticket_opens_one_socket() {
    let server = guarded(ServiceSettings::default());
    let made = server.ask(&server.viewer, "POST", "/api/v1/tickets", "");
    assert_eq!(made.status, 201);
    assert_eq!(made.json()["expires_in"], 60);
    let ticket = made.json()["ticket"].as_str().unwrap().to_string();
    // It is no key for anything else, and trying does not use it up.
    let rest = server.get(&format!("/api/v1/processing-tasks?token={ticket}"), &[]);
    assert_problem(&rest, 401, "unauthorized");
    let path = "/ws/detection-tracking/00000000-0000-4000-8000-000000000000";
    let with_ticket = format!("{path}?token={ticket}&images=none");
    assert_problem(&server.get(&with_ticket, &[]), 404, "task-not-found");
    assert_problem(&server.get(&with_ticket, &[]), 401, "unauthorized");
    // The key itself as a subprotocol, as browsers can send it.
    let name = "Sec-WebSocket-Protocol";
    let value = format!("mtmc.json.v1, bearer.{}", server.viewer);
    assert_problem(&server.get(path, &[(name, &value)]), 404, "task-not-found");
    let wrong = [(name, "mtmc.json.v1, bearer.nonsense")];
    assert_problem(&server.get(path, &wrong), 401, "unauthorized");
    assert_problem(&server.get(path, &[]), 401, "unauthorized");
}

#[test]
fn a_ticket_dies_with_its_key() {
    let server = guarded(ServiceSettings::default());
    let made = server.ask(&server.viewer, "POST", "/api/v1/tickets", "");
    let ticket = made.json()["ticket"].as_str().unwrap().to_string();
    let list = server.ask(&server.admin, "GET", "/api/v1/keys", "").json();
    let keys = list["keys"].as_array().unwrap().clone();
    let viewer = keys.iter().find(|key| key["name"] == "v").unwrap()["id"].clone();
    let revoke = format!("/api/v1/keys/{}", viewer.as_str().unwrap());
    assert_eq!(server.ask(&server.admin, "DELETE", &revoke, "").status, 204);
    let path = "/ws/detection-tracking/00000000-0000-4000-8000-000000000000";
    let response = server.get(&format!("{path}?token={ticket}"), &[]);
    assert_problem(&response, 401, "unauthorized");
}

fn mtmc(arguments: &[&str], folder: &std::path::Path) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .arg("keys")
        .args(arguments)
        .arg("--data-dir")
        .arg(folder)
        .env_remove("MTMC_DATABASE")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_command_line_makes_lists_and_revokes_keys() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (ok, _, error) = mtmc(&["list"], &data);
    assert!(!ok && error.contains("--data-dir"), "{error}");
    let (ok, key, error) = mtmc(&["create", "--name", "desk", "--role", "admin"], &data);
    assert!(ok, "{error}");
    let key = key.trim();
    assert_eq!((key.len(), &key[..5]), (48, "mtmc_"));
    assert!(
        !error.contains(key),
        "the key goes to standard output alone"
    );
    let (ok, list, _) = mtmc(&["list", "--json"], &data);
    assert!(ok && !list.contains(key));
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        (&list[0]["name"], &list[0]["role"]),
        (&json!("desk"), &json!("admin"))
    );

    // The service of that folder knows it.
    let settings = ServiceSettings {
        data_dir: data.clone(),
        ..ServiceSettings::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let app = mtmc::service::App::new(settings, Default::default(), Default::default());
    let app = runtime.block_on(app).unwrap();
    assert!(app.auth.is_required());
    assert_eq!(app.auth.keys().find(key).unwrap().name, "desk");

    let id = list[0]["id"].as_str().unwrap();
    let (ok, said, error) = mtmc(&["revoke", id], &data);
    assert!(ok && said.contains("is revoked"), "{said}{error}");
    let (ok, said, _) = mtmc(&["revoke", id], &data);
    assert!(ok && said.contains("was revoked before"), "{said}");
    let (ok, _, error) = mtmc(&["revoke", "nobody"], &data);
    assert!(!ok && error.contains("no key nobody"), "{error}");
    let (ok, table, _) = mtmc(&["list"], &data);
    assert!(
        ok && table.lines().count() == 2 && table.contains("desk"),
        "{table}"
    );
    runtime.block_on(app.auth.refresh()).unwrap();
    assert_eq!(app.auth.keys().find(key), None);
    assert!(
        app.auth.is_required(),
        "revoking the last key opens nothing"
    );
    let (ok, _, error) = mtmc(&["create", "--name", "x", "--role", "root"], &data);
    assert!(!ok && error.contains("viewer"), "{error}");
}
