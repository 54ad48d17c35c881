//! `mtmc models` from outside: what it prints, what it writes, how it fails.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use mtmc_models::layers::Precision;
use mtmc_models::testing::shared;
use mtmc_models::weights::read_description;
use tempfile::TempDir;

/// Runs `mtmc models ARGS` with `cache` as cache and no way out to the network.
fn models(cache: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .arg("models")
        .args(args)
        .env("MTMC_CACHE", cache)
        .env("HF_HOME", cache)
        .env("HF_ENDPOINT", "http://127.0.0.1:9") // the discard port: nobody listens
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn converts_describes_and_names_what_it_left_out() {
    let Some(input) = shared("weights/deimv2/deimv2_hgnetv2_atto_coco.onnx") else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("atto.safetensors");
    let (input, output) = (input.to_str().unwrap(), file.to_str().unwrap());
    let args = ["convert", input, "--out", output, "--licence", "Apache-2.0"];
    let run = models(folder.path(), &args);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let said = text(&run.stdout);
    assert!(
        said.contains("deimv2-atto") && said.contains("left out"),
        "{said}"
    );
    let about = read_description(&file).unwrap();
    assert_eq!(about.architecture, "deimv2-atto");
    assert_eq!((about.input_width, about.classes.len()), (320, 80));
    assert_eq!(about.licence, "Apache-2.0");
    assert_eq!(about.source, "deimv2_hgnetv2_atto_coco.onnx");
    let run = models(folder.path(), &["info", output]);
    let said = text(&run.stdout);
    assert!(
        said.contains("320×320") && said.contains("person, bicycle"),
        "{said}"
    );
}

#[test]
fn an_encoder_tells_its_input_and_the_size_of_its_vectors() {
    let Some(input) = shared("weights/reid-osnet/osnet_x0_25_market1501.pth") else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("osnet.safetensors");
    let (input, output) = (input.to_str().unwrap(), file.to_str().unwrap());
    let run = models(folder.path(), &["convert", input, "--out", output]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let run = models(folder.path(), &["info", output]);
    let said = text(&run.stdout);
    for word in [
        "osnet-x0.25",
        "128×256",
        "PilBilinear",
        "vectors of 512 numbers",
        "0.485",
    ] {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    assert!(!said.contains("classes"), "{said}");
}

#[test]
fn a_failed_conversion_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let input = folder.path().join("broken.pt");
    std::fs::write(&input, b"PK\x03\x04 and then nothing").unwrap();
    let output = folder.path().join("out.safetensors");
    let args = [
        "convert",
        input.to_str().unwrap(),
        "--out",
        output.to_str().unwrap(),
    ];
    let run = models(folder.path(), &args);
    assert_eq!(run.status.code(), Some(1));
    let said = text(&run.stderr);
    assert!(said.contains("broken.pt") && said.contains("zip"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn lists_what_can_be_fetched() {
    let folder = TempDir::new().unwrap();
    let run = models(folder.path(), &["list"]);
    let said = text(&run.stdout);
    for word in [
        "deimv2-femto",
        "rtdetr-l",
        "AGPL-3.0",
        "63.4",
        "PekingU/rtdetr_r50vd",
    ] {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

#[test]
fn offline_it_says_what_to_download_and_where_to_put_it() {
    let folder = TempDir::new().unwrap();
    let run = models(folder.path(), &["fetch", "deimv2-femto"]);
    assert_eq!(run.status.code(), Some(1));
    let said = text(&run.stderr);
    let address = "Intellindust/DEIMv2_HGNetv2_FEMTO_COCO/resolve/main/model.safetensors";
    let place = folder
        .path()
        .join("downloads/deimv2-femto/model.safetensors");
    assert!(
        said.contains(address) && said.contains(place.to_str().unwrap()),
        "{said}"
    );
}

// As `Description::keeps_results_in_bf16` says, which `tools/tests/precision.rs` proves.
#[test]
fn auto_takes_bf16_where_results_stay() {
    let run = Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .args(["bench", "--device", "cpu", "--precision", "auto", "--json"])
        .args(["--network", "deimv2-atto,osnet-x0.25"])
        .args(["--batch", "1", "--seconds", "0.01"])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    let rows = text(&run.stdout);
    let rows: Vec<serde_json::Value> = rows
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let quick = if Precision::Bf16.available() {
        "bf16"
    } else {
        "f32"
    };
    for (network, expected) in [("deimv2-atto", quick), ("osnet-x0.25", "f32")] {
        let mut rows = rows.iter().filter(|row| row["network"] == network);
        assert_eq!(rows.next().unwrap()["precision"], expected, "{network}");
    }
}
