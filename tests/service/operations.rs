//! Operating the service, against the real binary over real sockets: health, numbers, logs without
//! secrets, the guard of memory, and how it stops.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use mtmc_models::testing::made_up_image;
use serde_json::{Value, json};

use super::http;
use super::place::Place;
use super::server::{Server, TASKS, wait};

/// With so many pictures a camera, and made-up weights.
fn place(frames: u32) -> Place {
    let mut place = Place::new();
    let mut text = "id = \"hall\"\n".to_string();
    for camera in ["c09", "c12"] {
        let pictures = place.at(camera);
        std::fs::create_dir(&pictures).unwrap();
        for number in 1..=frames {
            let path = pictures.join(format!("{number:06}.png"));
            made_up_image(160, 120, number).save(path).unwrap();
        }
        let source = pictures.display();
        text += &format!("[[cameras]]\nid = \"{camera}\"\nsource = '{source}'\n");
    }
    place.add_environment("hall.toml", &text);
    place.add_made_up("--weights", "deimv2-atto", [320, 320]);
    place.add(&["--threads", "1", "--classes", "all", "--confidence", "0.01"]);
    place
}

/// Where it is, and the service itself; both are gone at the end.
fn serve(frames: u32, arguments: &[&str], variables: &[(&str, &str)]) -> (Place, Server) {
    let mut place = place(frames);
    place.add(arguments);
    for (name, value) in variables {
        place.set(name, value);
    }
    let server = place.serve();
    (place, server)
}

/// A task for the whole of `hall`.
fn hall() -> Value {
    json!({"environment_id": "hall"})
}

fn complete_task(server: &Server) {
    let task = server.start_task(&hall());
    server.wait_for_end(&task);
}

/// Samples of the text format: name with labels as they are written, and value.
struct Numbers {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Numbers {
    fn of_server(server: &Server) -> Self {
        let response = server.get("/metrics");
        assert_eq!(response.status, 200);
        let kind = response.header("content-type").unwrap();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        Self::parse(&response.text())
    }

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
    let (place, service) = serve(1, &[], &[]);
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
    let file = place.at("deimv2-atto.safetensors");
    assert_eq!(network["bytes"], std::fs::metadata(file).unwrap().len());
}

#[test]
fn with_encoder_and_calibration_everything_is_healthy() {
    let mut place = place(1);
    place.add_made_up("--reid", "osnet-x0.25", [256, 128]);
    // Four corners of a picture on a floor of 16 by 12 metres.
    let calibration = r#"{"calibration_points": {
        "image_points": [[0, 0], [160, 0], [160, 120], [0, 120]],
        "map_points": [[0, 0], [16, 0], [16, 12], [0, 12]]}}"#;
    std::fs::write(place.at("c09_homography.json"), calibration).unwrap();
    let folder = place.text("");
    place.set("HOMOGRAPHY_DATA_DIR", &folder);
    let service = place.serve();
    let detection = service.get("/health/detection");
    assert_eq!(detection.status, 200, "{}", detection.text());
    assert_eq!(detection.json()["status"], "healthy");
    assert_eq!(
        service.get("/info").json()["networks"][1]["role"],
        "embedder"
    );
}

#[test]
fn the_encoder_of_an_environment_is_taken_if_it_is_of_the_family_that_is_expected() {
    let place = place(1);
    let weights = place.made_up("osnet-x0.25", [256, 128]);
    let hall = place.at("hall.toml");
    let cameras = std::fs::read_to_string(&hall).unwrap();
    let with = |family: &str| {
        let reid = format!("{cameras}[reid]\nmodel = '{weights}'\ntype = \"{family}\"\n");
        std::fs::write(&hall, reid).unwrap();
    };
    with("osnet");
    let service = place.serve();
    let network = &service.get("/info").json()["networks"][1];
    assert_eq!(network["role"], "embedder");
    assert_eq!(network["architecture"], "osnet-x0.25");
    drop(service);
    with("clip");
    let told = place.refused();
    assert!(
        told.contains("holds osnet-x0.25, but environment hall expects clip"),
        "{told}"
    );
}

#[test]
fn a_start_whose_client_goes_away_is_done_whole_or_not_at_all() {
    let (_place, service) = serve(1, &["--max-queued", "64"], &[]);
    let body = hall().to_string();
    let length = body.len();
    let request = format!(
        "POST {TASKS}/start HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    for number in 0..24 {
        let mut socket = TcpStream::connect(&service.address).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        // Gone before, while and after it is done.
        std::thread::sleep(Duration::from_micros(250 * number));
    }
    // Nobody's task waits for ever, and the limit of tasks is not used up by any.
    complete_task(&service);
    wait("all that were begun", || {
        let tasks = service.json(&format!("{TASKS}?limit=100"));
        let tasks = tasks["tasks"].as_array().unwrap();
        assert!(!tasks.is_empty() && tasks.len() <= 25);
        tasks.iter().all(|task| task["status"] == "COMPLETED")
    });
}

// The short form of the soak that docs/proof.md tells of. What is not freed with a task, a picture of
// 320×320 in f32 for example, is more than 1 MB a task.
#[test]
fn memory_stays_flat_over_tasks_back_to_back() {
    let variables = [("MALLOC_ARENA_MAX", "2")];
    let (_place, service) = serve(4, &["--snapshot-every", "2"], &variables);
    let mebibytes = || {
        let numbers = Numbers::of_server(&service);
        numbers.of("process_resident_memory_bytes") / f64::from(1 << 20)
    };
    for _ in 0..10 {
        complete_task(&service);
    }
    let before = mebibytes();
    for _ in 0..30 {
        complete_task(&service);
    }
    let after = mebibytes();
    assert!(after < before + 24.0, "{before} MiB, then {after} MiB");
}

#[test]
fn numbers_tell_what_a_task_did_and_nothing_that_clients_made_up() {
    let (_place, service) = serve(6, &[], &[]);
    let before = Numbers::of_server(&service);
    assert!(before.family("mtmc_frames_read_total").is_empty());
    complete_task(&service);
    assert_eq!(service.get("/made/up/by/a/client").status, 404);
    let numbers = Numbers::of_server(&service);
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
    complete_task(&service);
    let labels = "{environment=\"hall\",camera=\"c09\"}";
    let read = format!("mtmc_frames_read_total{labels}");
    assert_eq!(Numbers::of_server(&service).of(&read), 12.0);
}

#[test]
fn logs_are_json_lines_with_the_request_and_without_secrets() {
    let key = format!("mtmc_{}", "aB3-_".repeat(9));
    let arguments = ["--log-format", "json", "--log-level", "trace"];
    let variables = [("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIK7MDENG")];
    let (_place, service) = serve(1, &arguments, &variables);
    let headers = [
        ("X-Request-Id", "from-the-test-1"),
        ("Authorization", "Bearer hunter2hunter2"),
        ("X-Api-Key", key.as_str()),
        ("Cookie", "session=wJalrXUtnFEMIK7MDENG"),
    ];
    let path = "/info?token=t0psecretvalue&a=postgres://u:passw0rd@h/d";
    let answer = http::request(&service.address, "GET", path, &headers, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    complete_task(&service);
    service.wait_for_log("task ended");
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
    let (_place, service) = serve(1, &["--memory-soft", "0.01", "--memory-hard", "0.01"], &[]);
    wait("the limit", || service.get("/readyz").status == 503);
    assert_eq!(
        service.get("/readyz").json()["reasons"][0]["component"],
        "memory"
    );
    let refused = service.ask(&hall(), &[]);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["type"], "/problems/memory-exhausted");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(Numbers::of_server(&service).of("mtmc_memory_pressure"), 2.0);
    assert_eq!(service.get("/livez").status, 200);
}

#[test]
fn above_the_soft_limit_tasks_give_the_same() {
    let counts = |soft: &str, pressure: f64| {
        let arguments = ["--memory-soft", soft, "--memory-hard", "100"];
        let (_place, service) = serve(8, &arguments, &[]);
        let now = || Numbers::of_server(&service).of("mtmc_memory_pressure");
        wait("the pressure", || now() == pressure);
        complete_task(&service);
        let numbers = Numbers::of_server(&service);
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
    let (_place, mut service) = serve(400, &["--batch", "2"], &[]);
    let task = service.start_task(&hall());
    service.wait(&task, |state| state["status"] == "PROCESSING");
    // A request of which the end comes when the service is stopping.
    let mut held = TcpStream::connect(&service.address).unwrap();
    held.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        .unwrap();
    let (messages, code) = std::thread::scope(|scope| {
        let heard = scope.spawn(|| service.listen(&task, "?images=none"));
        let clients = || Numbers::of_server(&service).of("mtmc_websocket_clients");
        wait("the socket", || clients() == 1.0);
        service.terminate();
        service.wait_for_log("stopping");
        held.write_all(b"\r\n").unwrap();
        let ready = http::read(held);
        assert_eq!(ready.status, 503, "{}", ready.text());
        assert_eq!(ready.json()["reasons"][0]["component"], "shutting-down");
        heard.join().unwrap()
    });
    // Where the task stands: it goes on when the service starts again.
    let last = messages
        .iter()
        .rfind(|m| m["message_type"] == "status_update");
    assert_eq!(last.unwrap()["status"], "QUEUED");
    assert_eq!(code, Some(1001), "going away, RFC 6455");
    let status = service.ended(Duration::from_secs(45));
    assert_eq!(status.code(), Some(0), "{}", service.log());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (_place, mut service) = serve(1, &[], &[]);
    // A request that never ends: its body does not come.
    let mut held = TcpStream::connect(&service.address).unwrap();
    let head = format!(
        "POST {TASKS}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{"
    );
    held.write_all(head.as_bytes()).unwrap();
    // Until it is being answered there is nothing to hold the end back.
    let open = "mtmc_http_requests_open";
    let requests = || Numbers::of_server(&service).of(open);
    wait("the request", || requests() >= 2.0);
    service.terminate();
    service.wait_for_log("stopping");
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
        let (_place, mut service) = serve(1, &[], &variables);
        complete_task(&service);
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
            let (_place, mut service) = serve(1, &[], &variables);
            for _ in 0..100 {
                assert_eq!(service.get("/info").status, 200);
            }
            complete_task(&service);
            service.terminate();
            let status = service.ended(Duration::from_secs(30));
            assert_eq!(status.code(), Some(0), "{endpoint}: {}", service.log());
        }
    }
}
