//! What a service is given: a folder with networks, environments, calibrations and its data.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mtmc_models::testing::{made_up_description, made_up_weights, shared};
use mtmc_models::{Description, expected_tensors};
use tempfile::TempDir;

use super::server::Server;

/// The binary; what the caller's environment sets does not reach it.
pub fn mtmc() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
    for (name, _) in std::env::vars_os() {
        let settings = ["MTMC_", "REID_", "RTDETR_", "HOMOGRAPHY_", "AWS_", "OTEL_"];
        let told = name.to_string_lossy();
        if settings.iter().any(|prefix| told.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the binary to its good end.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

/// A folder with all that a service is given and keeps, and what it is told.
pub struct Place {
    folder: TempDir,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Place {
    /// Without networks and environments.
    pub fn new() -> Self {
        let mut place = Self {
            folder: tempfile::tempdir().unwrap(),
            arguments: Vec::new(),
            variables: Vec::new(),
        };
        place.add(&["--data-dir", &place.text("data")]);
        place
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.at(name).to_string_lossy().into_owned()
    }

    pub fn data(&self) -> PathBuf {
        self.at("data")
    }

    /// Gives the service more arguments.
    pub fn add(&mut self, arguments: &[&str]) {
        for argument in arguments {
            self.arguments.push((*argument).to_string());
        }
    }

    /// Gives the service a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_string(), value.to_string()));
    }

    /// An environment's file.
    pub fn add_environment(&mut self, name: &str, toml: &str) {
        std::fs::write(self.at(name), toml).unwrap();
        self.add(&["--environment", &self.text(name)]);
    }

    /// A real detector, `femto.safetensors`. `None` without the shared data.
    pub fn add_detector(&mut self) -> Option<()> {
        let onnx = shared("weights/deimv2/deimv2_hgnetv2_femto_coco.onnx")?;
        self.convert("--weights", &onnx, "femto.safetensors");
        Some(())
    }

    /// A real encoder, `osnet.safetensors`. `None` without the shared data.
    pub fn add_encoder(&mut self) -> Option<()> {
        let encoder = shared("weights/reid-osnet/osnet_x0_25_market1501.pth")?;
        self.convert("--reid", &encoder, "osnet.safetensors");
        Some(())
    }

    fn convert(&mut self, flag: &str, from: &Path, name: &str) {
        let to = self.text(name);
        let mut command = mtmc();
        run(command.args(["models", "convert", "--out", &to]).arg(from));
        self.add(&[flag, &to]);
    }

    /// A network of made-up weights: the smallest detectors find something everywhere.
    pub fn add_made_up(&mut self, flag: &str, architecture: &str, size: [usize; 2]) {
        let weights = self.made_up(architecture, size);
        self.add(&[flag, &weights]);
    }

    /// The path of such weights.
    pub fn made_up(&self, architecture: &str, [height, width]: [usize; 2]) -> String {
        let encoder = architecture.starts_with("osnet");
        let classes = if encoder {
            &[][..]
        } else {
            &["person", "bicycle"]
        };
        let description = Description {
            classes: classes.iter().map(ToString::to_string).collect(),
            input_height: height,
            input_width: width,
            feature_dim: encoder.then_some(512),
            licence: "made up".to_string(),
            ..made_up_description(architecture)
        };
        let made_up = made_up_weights(&description, &expected_tensors(&description).unwrap());
        let name = format!("{architecture}.safetensors");
        let metadata = serde_json::to_string(&description).unwrap();
        let metadata = [("mtmc".to_string(), metadata)].into_iter().collect();
        let tensors = made_up.tensors();
        safetensors::serialize_to_file(tensors, Some(metadata), &self.at(&name)).unwrap();
        self.text(&name)
    }

    /// Calibrations, `calibrations`, of cameras that all show the video of PETS09-S2L1: every so many
    /// of the truth's own places. `None` without the shared data.
    pub fn calibrate(&self, cameras: &[&str]) -> Option<()> {
        let truth = shared("data/vtest-pets09-s2l1/gt/gt.txt")?;
        let truth = std::fs::read_to_string(truth).unwrap();
        let mut pairs = Vec::new();
        for line in truth.lines().step_by(37) {
            let v: Vec<f64> = line.split(',').map(|v| v.trim().parse().unwrap()).collect();
            let foot = [v[2] + v[4] / 2.0, v[3] + v[5]];
            writeln!(pairs, "{},{},{},{}", foot[0], foot[1], v[7], v[8]).unwrap();
        }
        std::fs::write(self.at("pairs.csv"), pairs).unwrap();
        for camera in cameras {
            let mut command = mtmc();
            command.args(["calibrate", "--camera", camera, "--image-size", "768x576"]);
            command.args(["--pairs", &self.text("pairs.csv")]);
            run(command.args(["--out", &self.text("calibrations")]));
        }
        Some(())
    }

    /// Starts a service here; the one before must be gone.
    pub fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    /// The same with more arguments.
    pub fn serve_with(&self, more: &[&str]) -> Server {
        Server::start(self.command().args(more))
    }

    /// What a service does not start with is told on standard error.
    pub fn refused(&self) -> String {
        let output = self.command().output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    fn command(&self) -> Command {
        let mut command = mtmc();
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        command.args(&self.arguments);
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }
}
