//! `mtmc train reid` from outside: a run that is killed and resumed ends as one that was not, and
//! its weights are what `--reid` takes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use mtmc_models::clip::ClipVitVariant;
use mtmc_models::testing::{made_up_description, made_up_weights};
use mtmc_models::{Description, Variant, expected_tensors};

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

/// A made-up set of so many people with so many pictures each.
fn draw(set: &Path, people: &str, images: &str) {
    let mut draw = mtmc(&["data", "synth-reid", "--quiet", "--people", people]);
    done(draw.args(["--images-per-person", images, "--out"]).arg(set));
}

/// That two runs left the same bits.
fn assert_same(one: &Path, other: &Path) {
    for name in [
        "last.safetensors",
        "best.safetensors",
        "checkpoint.safetensors",
    ] {
        let read = |run: &Path| std::fs::read(run.join(name)).unwrap();
        assert!(read(one) == read(other), "{name} differs");
    }
}

/// What weights are worth on a set.
fn evaluated(set: &Path, weights: &Path) -> serde_json::Value {
    let mut eval = mtmc(&["eval", "reid", "--quiet", "--json", "--device", "cpu"]);
    let eval = eval.arg("--data").arg(set).arg("--reid").arg(weights);
    serde_json::from_slice(&done(eval).stdout).unwrap()
}

/// Runs until something is there, and no longer.
fn kill_when(mut command: Command, there: impl Fn() -> bool) {
    let mut running = command.stdout(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !there() {
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "no checkpoint"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn a_killed_run_that_is_resumed_ends_as_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    draw(&at("set"), "20", "8");
    let output = done(&mut train(&at("set"), &at("straight"), &settings()));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("5 epochs") && told.contains("best mAP"),
        "{told}"
    );

    let killed = train(&at("set"), &at("killed"), &settings());
    let checkpoint = at("killed").join("checkpoint.safetensors");
    kill_when(killed, || checkpoint.exists());
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
    assert_same(&at("straight"), &at("killed"));

    let found = evaluated(&at("set"), &at("killed").join("last.safetensors"));
    assert_eq!(found["dim"], 128);
    assert!(found["map"].as_f64().unwrap() > 0.1, "{found}");
}

/// A tiny CLIP with its text encoder, as `mtmc models convert` would write a large one.
fn save_clip(path: &Path) {
    let description = Description {
        input_height: 64,
        input_width: 32,
        classes: vec![],
        variant: Some(Variant::ClipVit(ClipVitVariant {
            text: true,
            ..ClipVitVariant::default()
        })),
        ..made_up_description("clip-reid-vit-tiny")
    };
    let made_up = made_up_weights(&description, &expected_tensors(&description).unwrap());
    let metadata = serde_json::to_string(&description).unwrap();
    let metadata = [("mtmc".to_string(), metadata)].into_iter().collect();
    safetensors::serialize_to_file(made_up.tensors(), Some(metadata), path).unwrap();
}

// The settings of CLIP-ReID's file, scaled down; killed in both stages.
#[test]
fn clip_reid_goes_on_through_both_stages() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    draw(&at("set"), "16", "6");
    save_clip(&at("clip.safetensors"));
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/clip-reid.toml");
    let (config, clip) = (config.display().to_string(), at("clip.safetensors"));
    let clip = clip.display().to_string();
    let mut begin = vec!["--config", &config, "--start", &clip];
    for setting in [
        "epochs=4",
        "prompts.epochs=6",
        "prompts.batch=16",
        "model.architecture=clip-reid-vit-tiny",
        "model.height=64",
        "model.width=32",
        "data.people=4",
        "data.images=2",
        "run.checkpoint_every=1",
        "run.evaluate_every=2",
    ] {
        begin.extend(["--set", setting]);
    }
    let output = done(&mut train(&at("set"), &at("straight"), &begin));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("10 epochs"), "{told}");

    let checkpoint = at("killed").join("checkpoint.safetensors");
    let is_at = |stage: &str| {
        let bytes = std::fs::read(&checkpoint).unwrap_or_default();
        let wanted = format!("\\\"stage\\\":\\\"{stage}\\\"");
        let mut windows = bytes.windows(wanted.len());
        windows.any(|window| window == wanted.as_bytes())
    };
    let killed = train(&at("set"), &at("killed"), &begin);
    kill_when(killed, || checkpoint.exists());
    let resume = ["--resume", "--threads", "1"];
    kill_when(train(&at("set"), &at("killed"), &resume), || {
        is_at("images")
    });
    done(&mut train(&at("set"), &at("killed"), &["--resume"]));
    assert_same(&at("straight"), &at("killed"));

    let found = evaluated(&at("set"), &at("killed").join("last.safetensors"));
    assert_eq!(found["dim"], 32);

    // Weights without texts are no start for it.
    let last = at("killed").join("last.safetensors").display().to_string();
    begin[3] = &last;
    let failed = train(&at("set"), &at("third"), &begin).output().unwrap();
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        !failed.status.success() && told.contains("text encoder"),
        "{told}"
    );
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
