//! The real binary as a service: a place with two cameras, served, killed, served again.

#![allow(dead_code)] // every test uses a part of it

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mtmc_models::testing::shared;
use serde_json::Value;
use tempfile::TempDir;

use super::http::{self, Response};

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const TASKS: &str = "/api/v1/detection-processing-tasks";

fn convert(from: &Path, to: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_mtmc"))
        .args(["models", "convert"])
        .arg(from)
        .arg("--out")
        .arg(to)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

/// One environment, `hall`, of the cameras c09 and c12, and all that a service keeps of it.
pub struct Place {
    folder: TempDir,
    arguments: Vec<String>,
}

impl Place {
    /// Both cameras show one real video of people; weights are real. `None` without the shared data.
    pub fn new() -> Option<Self> {
        let video = shared("data/vtest-pets09-s2l1/vtest.avi")?;
        let detector = shared("weights/deimv2/deimv2_hgnetv2_femto_coco.onnx")?;
        let encoder = shared("weights/reid-osnet/osnet_x0_25_market1501.pth")?;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (femto, osnet) = (at("femto.safetensors"), at("osnet.safetensors"));
        convert(&detector, &femto);
        convert(&encoder, &osnet);
        let mut text = "id = \"hall\"\n".to_string();
        for camera in ["c09", "c12"] {
            let source = video.display();
            text += &format!("[[cameras]]\nid = \"{camera}\"\nsource = '{source}'\n");
        }
        std::fs::write(at("hall.toml"), text).unwrap();
        let mut arguments = Vec::new();
        for argument in ["serve", "--listen", "127.0.0.1:0", "--snapshot-every", "10"] {
            arguments.push(argument.to_string());
        }
        for (flag, name) in [
            ("--environment", "hall.toml"),
            ("--weights", "femto.safetensors"),
            ("--reid", "osnet.safetensors"),
            ("--data-dir", "data"),
        ] {
            let path = at(name).to_string_lossy().into_owned();
            arguments.extend([flag.to_string(), path]);
        }
        Some(Self { folder, arguments })
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn serve(&self) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mtmc"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                *kept.lock().unwrap() += &format!("{line}\n");
            }
        });
        let mut server = Server {
            child,
            address: String::new(),
            log,
        };
        server.address = server.await_address();
        server
    }
}

/// The service at work; killed when it is dropped.
pub struct Server {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    fn await_address(&mut self) -> String {
        let started = Instant::now();
        loop {
            let log = self.log();
            let mut lines = log.lines();
            if let Some(address) = lines.find_map(|l| l.strip_prefix("listening on http://")) {
                return address.to_string();
            }
            assert!(self.child.try_wait().unwrap().is_none(), "{log}");
            assert!(started.elapsed() < PATIENCE, "{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn get(&self, path: &str) -> Response {
        http::request(&self.address, "GET", path, &[], b"")
    }

    /// Starts a task and gives its ID.
    pub fn start(&self, request: &Value) -> String {
        let headers = [("Content-Type", "application/json")];
        let path = format!("{TASKS}/start");
        let body = request.to_string();
        let response = http::request(&self.address, "POST", &path, &headers, body.as_bytes());
        assert_eq!(response.status, 202, "{}", response.text());
        response.json()["task_id"].as_str().unwrap().to_string()
    }

    pub fn status(&self, task: &str) -> Value {
        let response = self.get(&format!("{TASKS}/{task}/status"));
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    /// Waits until a task's status satisfies `so`.
    pub fn wait(&self, task: &str, so: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let status = self.status(task);
            if so(&status) {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "{status} {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
