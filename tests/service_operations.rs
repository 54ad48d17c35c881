//! Operating the service, against the real binary over real sockets: health, numbers, logs without
//! secrets, the guard of memory, and how it stops.

#![allow(clippy::unwrap_used)]

mod http;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http::Response;
use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights};
use mtmc_models::{Description, expected_tensors};
use serde_json::Value;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{Error, Message};

const TASKS: &str = "/api/v1/detection-processing-tasks";

/// Longest wait for anything that must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Weights of the smallest networks, which find something everywhere.
fn weights(folder: &Path, architecture: &str, size: [usize; 2]) -> PathBuf {
    let encoder = architecture.starts_with("osnet");
    let description = Description {
        classes: match encoder {
            true => Vec::new(),
            false => ["person", "bicycle"].map(str::to_string).to_vec(),
        },
        input_height: size[0],
        input_width: size[1],
        feature_dim: encoder.then_some(512),
        licence: "made up".to_string(),
        ..made_up_description(architecture)
    };
    let made_up = made_up_weights(&description, &expected_tensors(&description).unwrap());
    let path = folder.join(format!("{architecture}.safetensors"));
    let metadata = serde_json::to_string(&description).unwrap();
    let metadata = [("mtmc".to_string(), metadata)].into_iter().collect();
    safetensors::serialize_to_file(made_up.tensors(), Some(metadata), &path).unwrap();
    path
}

/// A service of its own with one environment, `hall`, of two cameras; killed at the end.
struct Service {
    folder: TempDir,
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Service {
    /// With so many pictures a camera.
    fn start(frames: u32, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text = "id = \"hall\"\n".to_string();
        for camera in ["c09", "c12"] {
            let pictures = folder.path().join(camera);
            std::fs::create_dir(&pictures).unwrap();
            for number in 1..=frames {
                let path = pictures.join(format!("{number:06}.png"));
                made_up_image(160, 120, number).save(path).unwrap();
            }
            text += &format!(
                "[[cameras]]\nid = \"{camera}\"\nsource = '{}'\n",
                pictures.display()
            );
        }
        let environment = folder.path().join("hall.toml");
        std::fs::write(&environment, text).unwrap();
        let detector = weights(folder.path(), "deimv2-atto", [320, 320]);
        let mut child = Command::new(env!("CARGO_BIN_EXE_mtmc"))
            .args(["serve", "--listen", "127.0.0.1:0", "--threads", "1"])
            .args(["--classes", "all", "--confidence", "0.01"])
            .arg("--environment")
            .arg(&environment)
            .arg("--weights")
            .arg(detector)
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(arguments)
            .envs(variables.iter().copied())
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
        let mut service = Self {
            folder,
            child,
            address: String::new(),
            log,
        };
        service.address = service.await_address();
        service
    }

    /// From the log, in either form.
    fn await_address(&mut self) -> String {
        let started = Instant::now();
        loop {
            let log = self.log();
            let text = log
                .lines()
                .find_map(|line| line.strip_prefix("listening on http://"));
            let json = log
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["message"] == "listening");
            if let Some(address) = text {
                return address.to_string();
            }
            if let Some(line) = json {
                return line["address"].as_str().unwrap().to_string();
            }
            assert!(self.child.try_wait().unwrap().is_none(), "{log}");
            assert!(started.elapsed() < PATIENCE, "{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn get(&self, path: &str) -> Response {
        http::request(&self.address, "GET", path, &[], b"")
    }

    fn start_task(&self) -> Response {
        let headers = [("Content-Type", "application/json")];
        let body = br#"{"environment_id":"hall"}"#;
        http::request(
            &self.address,
            "POST",
            &format!("{TASKS}/start"),
            &headers,
            body,
        )
    }

    /// Starts a task and waits for its end.
    fn complete_task(&self) {
        let accepted = self.start_task();
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        let url = accepted.json()["status_url"].as_str().unwrap().to_string();
        let started = Instant::now();
        loop {
            let state = self.get(&url).json();
            match state["status"].as_str().unwrap() {
                "COMPLETED" => return,
                "FAILED" | "STOPPED" => panic!("{state}"),
                _ => assert!(started.elapsed() < PATIENCE, "{state}"),
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn numbers(&self) -> Numbers {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200);
        let kind = response.header("content-type").unwrap();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        Numbers::parse(&response.text())
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// How it ended, which it must within `most`.
    fn ended(&mut self, most: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < most, "still there: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Samples of the text format: name with labels as they are written, and value.
struct Numbers {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Numbers {
    fn parse(text: &str) -> Self {
        assert!(text.ends_with("# EOF\n"));
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let before = samples.insert(name.to_string(), value.parse().unwrap());
            assert!(before.is_none(), "{name} twice");
        }
        Self {
            text: text.to_string(),
            samples,
        }
    }

    fn of(&self, name: &str) -> f64 {
        let found = self.samples.get(name);
        *found.unwrap_or_else(|| panic!("no {name} in\n{}", self.text))
    }

    /// All samples whose names begin so.
    fn family(&self, prefix: &str) -> BTreeMap<&str, f64> {
        let samples = self.samples.iter();
        let of = |(name, value): (&String, &f64)| (name.starts_with(prefix), *value);
        samples
            .filter(|(name, value)| of((name, value)).0)
            .map(|(name, value)| (name.as_str(), *value))
            .collect()
    }
}

#[test]
fn health_is_told_in_the_words_of_the_requirement_document() {
    let service = Service::start(1, &[], &[]);
    let health = service.get("/health");
    assert_eq!(
        (health.status, health.text().as_str()),
        (200, r#"{"status":"healthy"}"#)
    );
    assert_eq!(service.get("/livez").status, 200);
    let ready = service.get("/readyz");
    assert_eq!(
        (ready.status, &ready.json()["ready"]),
        (200, &Value::Bool(true))
    );
    // Section 8.7.2: these keys and no others; there are neither an encoder nor calibrations here.
    let detection = service.get("/health/detection");
    assert_eq!(detection.status, 503);
    let body = detection.json();
    assert_eq!(body["status"], "unhealthy");
    let expected = serde_json::json!({
        "rtdetr_model": true,
        "reid_model": false,
        "homography_data": false,
        "camera_trackers": true,
    });
    assert_eq!(body["components"], expected);
    let time: jiff::Timestamp = body["timestamp"].as_str().unwrap().parse().unwrap();
    assert!((jiff::Timestamp::now().as_second() - time.as_second()).abs() < 60);
    let info = service.get("/info").json();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&info["device"], &info["precision"]),
        (&"cpu".into(), &"f32".into())
    );
    let network = &info["networks"][0];
    assert_eq!(network["architecture"], "deimv2-atto");
    assert_eq!(network["licence"], "made up");
    let file = service.folder.path().join("deimv2-atto.safetensors");
    assert_eq!(network["bytes"], std::fs::metadata(file).unwrap().len());
}

#[test]
fn with_encoder_and_calibration_everything_is_healthy() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = weights(folder.path(), "osnet-x0.25", [256, 128]);
    // Four corners of a picture on a floor of 16 by 12 metres.
    let calibration = r#"{"calibration_points": {
        "image_points": [[0, 0], [160, 0], [160, 120], [0, 120]],
        "map_points": [[0, 0], [16, 0], [16, 12], [0, 12]]}}"#;
    std::fs::write(folder.path().join("c09_homography.json"), calibration).unwrap();
    let arguments = ["--reid", encoder.to_str().unwrap()];
    let data = folder.path().to_str().unwrap();
    let service = Service::start(1, &arguments, &[("HOMOGRAPHY_DATA_DIR", data)]);
    let detection = service.get("/health/detection");
    assert_eq!(detection.status, 200, "{}", detection.text());
    assert_eq!(detection.json()["status"], "healthy");
    assert_eq!(
        service.get("/info").json()["networks"][1]["role"],
        "embedder"
    );
}

#[test]
fn numbers_tell_what_a_task_did_and_nothing_that_clients_made_up() {
    let service = Service::start(6, &[], &[]);
    let before = service.numbers();
    assert!(before.family("mtmc_frames_read_total").is_empty());
    service.complete_task();
    assert_eq!(service.get("/made/up/by/a/client").status, 404);
    let numbers = service.numbers();
    for camera in ["c09", "c12"] {
        let labels = format!("{{environment=\"hall\",camera=\"{camera}\"}}");
        assert_eq!(numbers.of(&format!("mtmc_frames_read_total{labels}")), 6.0);
        assert_eq!(
            numbers.of(&format!("mtmc_frames_processed_total{labels}")),
            6.0
        );
        assert_eq!(
            numbers.of(&format!("mtmc_source_reconnects_total{labels}")),
            0.0
        );
    }
    let skipped = numbers.family("mtmc_frames_skipped_total");
    assert_eq!((skipped.len(), skipped.values().sum::<f64>()), (6, 0.0));
    assert_eq!(
        numbers.of("mtmc_stage_seconds_count{stage=\"detect\"}"),
        12.0
    );
    let all = numbers.of("mtmc_stage_seconds_bucket{le=\"+Inf\",stage=\"detect\"}");
    assert_eq!(all, 12.0);
    assert_eq!(
        numbers.of("mtmc_time_steps_total{environment=\"hall\"}"),
        6.0
    );
    assert_eq!(numbers.of("mtmc_tasks{state=\"completed\"}"), 1.0);
    assert_eq!(numbers.of("mtmc_store_up"), 1.0);
    assert_eq!(numbers.of("mtmc_websocket_clients"), 0.0);
    let started = format!(
        "mtmc_http_requests_total{{method=\"POST\",route=\"{TASKS}/start\",status=\"202\"}}"
    );
    assert_eq!(numbers.of(&started), 1.0);
    let unmatched = "mtmc_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"}";
    assert_eq!(numbers.of(unmatched), 1.0);
    assert!(!numbers.text.contains("made/up"), "{}", numbers.text);
    assert!(
        numbers.text.contains("{task_id}"),
        "routes as they are written"
    );
    // A program with networks takes more than a megabyte, and this one has read files.
    assert!(numbers.of("process_resident_memory_bytes") > 1e6);
    assert!(numbers.of("process_open_fds") >= 3.0);
    assert!(numbers.of("process_cpu_seconds_total") > 0.0);
    // A second task adds to the first.
    service.complete_task();
    let labels = "{environment=\"hall\",camera=\"c09\"}";
    let read = format!("mtmc_frames_read_total{labels}");
    assert_eq!(service.numbers().of(&read), 12.0);
}

#[test]
fn logs_are_json_lines_with_the_request_and_without_secrets() {
    let key = format!("mtmc_{}", "aB3-_".repeat(9));
    let arguments = ["--log-format", "json", "--log-level", "trace"];
    let variables = [("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIK7MDENG")];
    let service = Service::start(1, &arguments, &variables);
    let headers = [
        ("X-Request-Id", "from-the-test-1"),
        ("Authorization", "Bearer hunter2hunter2"),
        ("X-Api-Key", key.as_str()),
        ("Cookie", "session=wJalrXUtnFEMIK7MDENG"),
    ];
    let path = "/info?token=t0psecretvalue&a=postgres://u:passw0rd@h/d";
    let answer = http::request(&service.address, "GET", path, &headers, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    service.complete_task();
    let started = Instant::now();
    while !service.log().contains("task ended") {
        assert!(started.elapsed() < PATIENCE, "{}", service.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = service.log();
    for secret in [
        key.as_str(),
        "hunter2hunter2",
        "t0psecretvalue",
        "passw0rd",
        "wJalrXUtnFEMI",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let mut answered = None;
    let mut of_task = 0;
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["message"] == "answered" && line["span"]["request_id"] == "from-the-test-1" {
            answered = Some(line.clone());
        }
        let ended = line["message"] == "task ended" && line["task_id"].is_string();
        of_task += usize::from(ended);
    }
    let answered = answered.unwrap();
    assert_eq!(answered["span"]["route"], "/info");
    assert_eq!(answered["span"]["method"], "GET");
    assert_eq!(answered["status"], 200);
    assert!(answered["ms"].as_f64().unwrap() > 0.0);
    assert_eq!(of_task, 1);
}

#[test]
fn above_the_hard_limit_no_task_is_taken() {
    // Every machine uses more than a ten-thousandth of its memory.
    let service = Service::start(1, &["--memory-soft", "0.01", "--memory-hard", "0.01"], &[]);
    let started = Instant::now();
    while service.get("/readyz").status != 503 {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(
        service.get("/readyz").json()["reasons"][0]["component"],
        "memory"
    );
    let refused = service.start_task();
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["type"], "/problems/memory-exhausted");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(service.numbers().of("mtmc_memory_pressure"), 2.0);
    assert_eq!(service.get("/livez").status, 200);
}

#[test]
fn above_the_soft_limit_tasks_give_the_same() {
    let counts = |soft: &str, pressure: f64| {
        let arguments = ["--memory-soft", soft, "--memory-hard", "100"];
        let service = Service::start(8, &arguments, &[]);
        let started = Instant::now();
        while service.numbers().of("mtmc_memory_pressure") != pressure {
            assert!(started.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(50));
        }
        service.complete_task();
        let numbers = service.numbers();
        let mut counts: BTreeMap<String, f64> = BTreeMap::new();
        for prefix in [
            "mtmc_detections",
            "mtmc_tracks",
            "mtmc_associations",
            "mtmc_time_steps",
        ] {
            let family = numbers.family(prefix);
            counts.extend(
                family
                    .iter()
                    .map(|(name, value)| ((*name).to_string(), *value)),
            );
        }
        counts
    };
    let usual = counts("100", 0.0);
    assert!(usual.values().sum::<f64>() > 100.0, "{usual:?}");
    assert_eq!(counts("0.01", 1.0), usual);
}

#[test]
fn a_service_told_to_stop_ends_its_tasks_and_itself() {
    let mut service = Service::start(400, &["--batch", "2"], &[]);
    let accepted = service.start_task();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let url = accepted.json()["status_url"].as_str().unwrap().to_string();
    let started = Instant::now();
    while service.get(&url).json()["status"] != "PROCESSING" {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    let socket = accepted.json()["websocket_url"]
        .as_str()
        .unwrap()
        .to_string();
    let socket = format!("ws://{}{socket}?images=none", service.address);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (status, code) = runtime.block_on(async {
        let (mut socket, _) = tokio_tungstenite::connect_async(socket).await.unwrap();
        let first = socket.next().await.unwrap().unwrap();
        assert!(first.is_text(), "{first:?}");
        service.terminate();
        until_close(socket).await
    });
    // Where the task stands: it goes on when the service starts again.
    assert_eq!(status.as_deref(), Some("QUEUED"));
    assert_eq!(code, Some(1001), "going away, RFC 6455");
    let status = service.ended(Duration::from_secs(45));
    assert_eq!(status.code(), Some(0), "{}", service.log());
    assert!(service.log().contains("stopping"), "{}", service.log());
}

/// The last status that was told, and the code of the close.
async fn until_close(
    mut socket: impl futures_util::Stream<Item = Result<Message, Error>> + Unpin,
) -> (Option<String>, Option<u16>) {
    let mut status = None;
    while let Ok(Some(Ok(message))) = tokio::time::timeout(PATIENCE, socket.next()).await {
        match message {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                if message["type"] == "status_update" || message["message_type"] == "status_update"
                {
                    status = message["status"].as_str().map(str::to_string);
                }
            }
            Message::Close(frame) => return (status, frame.map(|frame| frame.code.into())),
            _ => {}
        }
    }
    (status, None)
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut service = Service::start(1, &[], &[]);
    // A request that never ends: its body does not come.
    let mut held = TcpStream::connect(&service.address).unwrap();
    let head = format!(
        "POST {TASKS}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{"
    );
    held.write_all(head.as_bytes()).unwrap();
    // Until it is being answered there is nothing to hold the end back.
    let open = "mtmc_http_requests_open";
    let started = Instant::now();
    while service.numbers().of(open) < 2.0 {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    service.terminate();
    let started = Instant::now();
    while !service.log().contains("stopping") {
        assert!(started.elapsed() < PATIENCE, "{}", service.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    service.terminate();
    let status = service.ended(Duration::from_secs(8));
    // 128 + SIGTERM, as shells say it.
    assert_eq!(status.code(), Some(143), "{}", service.log());
}

/// What a build with `--features otel` sends, and what becomes of it.
#[cfg(feature = "otel")]
mod traces {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A collector that keeps what it is sent, and answers if it is asked to.
    fn collector(answers: bool) -> (String, Receiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (got, kept) = channel();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                if answers {
                    let _ = got.send(take(&mut socket));
                }
                open.push(socket);
            }
        });
        (endpoint, kept)
    }

    /// Reads one request and says that it is well.
    fn take(socket: &mut TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        loop {
            let count = socket.read(&mut part).unwrap_or(0);
            bytes.extend_from_slice(&part[..count]);
            let text = String::from_utf8_lossy(&bytes).to_lowercase();
            let head = text.find("\r\n\r\n");
            let length = text.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
            let whole = head.zip(length).is_some_and(|(_, length)| {
                let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
                end.is_some_and(|end| bytes.len() >= end + 4 + length)
            });
            if whole || count == 0 {
                break;
            }
        }
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        bytes
    }

    #[test]
    fn spans_of_requests_and_tasks_reach_the_collector() {
        let (endpoint, got) = collector(true);
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ];
        let mut service = Service::start(1, &[], &variables);
        service.complete_task();
        service.terminate();
        assert_eq!(service.ended(Duration::from_secs(45)).code(), Some(0));
        let mut all = Vec::new();
        while let Ok(sent) = got.recv_timeout(Duration::from_secs(2)) {
            assert!(sent.starts_with(b"POST /v1/traces HTTP/1.1\r\n"));
            all.extend(sent);
        }
        // Names stand in protobuf as they are.
        let text = String::from_utf8_lossy(&all);
        for name in [
            "mtmc", "request", "/start", "task_id", "sources", "pipeline",
        ] {
            assert!(text.contains(name), "no {name}");
        }
    }

    #[test]
    fn a_collector_that_is_dead_or_dumb_costs_nothing_else() {
        let (dumb, _kept) = collector(false);
        // Nothing listens on port 1.
        for endpoint in ["http://127.0.0.1:1", dumb.as_str()] {
            let variables = [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                ("OTEL_BSP_SCHEDULE_DELAY", "50"),
                ("OTEL_BSP_MAX_QUEUE_SIZE", "16"),
                ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
            ];
            let mut service = Service::start(1, &[], &variables);
            for _ in 0..100 {
                assert_eq!(service.get("/info").status, 200);
            }
            service.complete_task();
            service.terminate();
            let status = service.ended(Duration::from_secs(30));
            assert_eq!(status.code(), Some(0), "{endpoint}: {}", service.log());
        }
    }
}
