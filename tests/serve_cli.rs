//! `mtmc serve` from outside: how it fails before it serves.

#![allow(clippy::unwrap_used)]

use std::process::Command;

// There are no weights either: were they loaded first, the complaint would be about them.
#[test]
fn an_address_without_keys_is_refused_before_weights_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .args(["serve", "--listen", "0.0.0.0:0", "--weights"])
        .arg(folder.path().join("missing.safetensors"))
        .arg("--data-dir")
        .arg(folder.path())
        .env_remove("MTMC_ADMIN_KEY")
        .output()
        .unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success());
    assert!(said.contains("mtmc keys create"), "{said}");
    // This machine alone needs no key.
    let run = Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .args(["serve", "--listen", "127.0.0.1:0", "--weights"])
        .arg(folder.path().join("missing.safetensors"))
        .arg("--data-dir")
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success());
    assert!(said.contains("missing.safetensors"), "{said}");
}
