//! `mtmc doctor` from outside: what is well, what is not, and its exit code.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mtmc_models::testing::{made_up_description, made_up_weights};
use mtmc_models::{Description, expected_tensors};
use serde_json::Value;

/// Weights of the smallest detector.
fn weights(folder: &Path) -> PathBuf {
    let description = Description {
        classes: ["person", "bicycle"].map(str::to_string).to_vec(),
        input_height: 320,
        input_width: 320,
        ..made_up_description("deimv2-atto")
    };
    let made_up = made_up_weights(&description, &expected_tensors(&description).unwrap());
    let path = folder.join("atto.safetensors");
    let metadata = serde_json::to_string(&description).unwrap();
    let metadata = [("mtmc".to_string(), metadata)].into_iter().collect();
    safetensors::serialize_to_file(made_up.tensors(), Some(metadata), &path).unwrap();
    path
}

fn doctor(folder: &Path, weights: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .args(["doctor", "--threads", "1"])
        .arg("--weights")
        .arg(weights)
        .arg("--data-dir")
        .arg(folder.join("data"))
        .args(arguments)
        .output()
        .unwrap()
}

fn checks(output: &Output) -> Vec<Value> {
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    json["checks"].as_array().unwrap().clone()
}

fn of<'a>(checks: &'a [Value], name: &str) -> Vec<&'a Value> {
    checks
        .iter()
        .filter(|check| check["check"] == name)
        .collect()
}

#[test]
fn a_service_that_can_run_passes_and_reid_is_shown_to_matter() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path());
    let output = doctor(
        folder.path(),
        &weights,
        &["--listen", "127.0.0.1:0", "--json"],
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{errors}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let checks = checks(&output);
    for name in [
        "processor",
        "device",
        "disk",
        "clock",
        "port",
        "detector",
        "store",
    ] {
        let found = of(&checks, name);
        assert!(!found.is_empty(), "{name}");
        assert!(
            found.iter().all(|check| check["verdict"] != "fail"),
            "{found:?}"
        );
    }
    let effect = of(&checks, "re-ID effect");
    assert_eq!(effect[0]["verdict"], "ok", "{effect:?}");
    // Nothing but what belongs there is left behind.
    for file in std::fs::read_dir(folder.path().join("data")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with("store.sqlite"), "{name}");
    }
}

#[test]
fn what_does_not_work_fails_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.safetensors");
    std::fs::write(&broken, b"no weights").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let environment = folder.path().join("hall.toml");
    let text = "id = \"hall\"\n[[cameras]]\nid = \"c09\"\nsource = '/not/there'\n";
    std::fs::write(&environment, text).unwrap();
    let environment = environment.to_str().unwrap();
    let arguments = ["--listen", &listen, "--environment", environment, "--json"];
    let output = doctor(folder.path(), &broken, &arguments);
    assert_eq!(output.status.code(), Some(1));
    let checks = checks(&output);
    for name in ["port", "detector", "source"] {
        let failed = of(&checks, name)
            .into_iter()
            .find(|check| check["verdict"] == "fail");
        let failed = failed.unwrap_or_else(|| panic!("{name}: {checks:?}"));
        assert!(!failed["advice"].as_str().unwrap().is_empty(), "{failed}");
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("3 checks failed"), "{errors}");
}

#[test]
fn the_encoder_that_an_environment_names_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path());
    let environment = folder.path().join("hall.toml");
    let text =
        "id = \"hall\"\n[reid]\nmodel = '/not/there.safetensors'\n[[cameras]]\nid = \"c09\"\n";
    std::fs::write(&environment, text).unwrap();
    let environment = environment.to_str().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--json"];
    let output = doctor(
        folder.path(),
        &weights,
        &[&arguments[..], &["--environment", environment]].concat(),
    );
    let checks = checks(&output);
    let encoder = of(&checks, "re-ID")[0];
    assert_eq!(encoder["verdict"], "fail", "{encoder}");
    assert!(
        encoder["what"].as_str().unwrap().contains("/not/there"),
        "{encoder}"
    );
}

#[test]
fn the_table_has_no_passwords() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path());
    // Nothing listens on port 1.
    let store = "postgres://mtmc:s3cr3t-word@127.0.0.1:1/mtmc";
    let arguments = ["--listen", "127.0.0.1:0", "--database", store];
    let output = doctor(folder.path(), &weights, &arguments);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout);
    let line = table.lines().find(|line| line.contains("store")).unwrap();
    assert!(line.starts_with("FAIL"), "{table}");
    assert!(!table.contains("s3cr3t-word"), "{table}");
}
