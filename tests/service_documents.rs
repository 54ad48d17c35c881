//! The documents of the interfaces are committed and true: `docs/openapi.json`, `docs/asyncapi.json`.
//!
//! `MTMC_UPDATE_DOCS=1 cargo test --test service_documents` writes them anew.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use mtmc::config::Environment;
use mtmc::service::App;
use mtmc::service::api::router;
use mtmc::service::catalog::Catalog;
use mtmc::service::messages::asyncapi;
use mtmc::service::networks::ServiceNetworks;
use mtmc::service::settings::ServiceSettings;
use serde_json::Value;

fn committed(name: &str, document: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    let found = serde_json::to_string_pretty(document).unwrap() + "\n";
    if std::env::var_os("MTMC_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is not what the types say: run \
         `MTMC_UPDATE_DOCS=1 cargo test --test service_documents` and commit it"
    );
}

#[tokio::test]
async fn openapi_is_as_committed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ServiceSettings {
        data_dir: folder.path().to_path_buf(),
        ..ServiceSettings::default()
    };
    let catalog = Catalog::new([Environment::standard()], None).unwrap();
    let app = App::new(settings, catalog, ServiceNetworks::default())
        .await
        .unwrap();
    let (_, document) = router(app);
    let document = serde_json::to_value(document).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    every_reference_leads_somewhere(&document, &document);
    committed("openapi.json", &document);
}

#[test]
fn asyncapi_is_as_committed() {
    let document = asyncapi::document();
    assert_eq!(document["asyncapi"], "3.0.0");
    every_reference_leads_somewhere(&document, &document);
    committed("asyncapi.json", &document);
}

fn every_reference_leads_somewhere(document: &Value, part: &Value) {
    match part {
        Value::Object(entries) => {
            if let Some(place) = entries.get("$ref").and_then(Value::as_str) {
                let target = document.pointer(place.trim_start_matches('#'));
                assert!(target.is_some(), "{place}");
            }
            for value in entries.values() {
                every_reference_leads_somewhere(document, value);
            }
        }
        Value::Array(list) => {
            for value in list {
                every_reference_leads_somewhere(document, value);
            }
        }
        _ => {}
    }
}
