//! `mtmc train reid` from outside: a run that is killed and resumed ends as one that was not, and
//! its weights are what `--reid` takes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SETTINGS: [&str; 9] = [
    "epochs=5",
    "model.architecture=resnet18-reid-x0.25",
    "model.height=64",
    "model.width=32",
    "data.people=4",
    "data.images=4",
    "data.pad=2",
    "run.evaluate_every=2",
    "schedule.warmup.epochs=1",
];

fn mtmc(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
    command.args(args).env_remove("MLFLOW_TRACKING_URI");
    command
}

fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    output
}

fn train(set: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = mtmc(&["train", "reid", "--quiet", "--device", "cpu", "--data"]);
    command.arg(set).arg("--out").arg(out).args(more);
    command
}

fn settings() -> Vec<&'static str> {
    SETTINGS.iter().flat_map(|one| ["--set", *one]).collect()
}

#[test]
fn a_killed_run_that_is_resumed_ends_as_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut draw = mtmc(&["data", "synth-reid", "--quiet", "--people", "20"]);
    done(
        draw.args(["--images-per-person", "8"])
            .arg("--out")
            .arg(at("set")),
    );
    let output = done(&mut train(&at("set"), &at("straight"), &settings()));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("5 epochs") && told.contains("best mAP"),
        "{told}"
    );

    let mut running = train(&at("set"), &at("killed"), &settings());
    let mut running = running.stdout(Stdio::null()).spawn().unwrap();
    let checkpoint = at("killed").join("checkpoint.safetensors");
    let started = Instant::now();
    while !checkpoint.exists() {
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "no checkpoint"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    // Nobody goes over a run by accident.
    let again = train(&at("set"), &at("killed"), &settings())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && told.contains("--resume"),
        "{told}"
    );
    done(&mut train(
        &at("set"),
        &at("killed"),
        &["--resume", "--threads", "1"],
    ));
    for name in [
        "last.safetensors",
        "best.safetensors",
        "checkpoint.safetensors",
    ] {
        let read = |run: &str| std::fs::read(at(run).join(name)).unwrap();
        assert!(read("straight") == read("killed"), "{name} differs");
    }

    let mut eval = mtmc(&[
        "eval", "reid", "--quiet", "--json", "--device", "cpu", "--data",
    ]);
    let eval = eval.arg(at("set")).arg("--reid");
    let output = done(eval.arg(at("killed").join("last.safetensors")));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["dim"], 128);
    assert!(found["map"].as_f64().unwrap() > 0.1, "{found}");
}

#[test]
fn wrong_settings_are_told_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let failed = train(folder.path(), &out, &["--set", "schedule.bsae=1"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && told.contains("bsae"), "{told}");
    assert!(!out.join("config.toml").exists());
}
