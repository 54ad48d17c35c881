//! The service at work: asked, watched, stopped and killed.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::http::{self, Response};

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub const TASKS: &str = "/api/v1/detection-processing-tasks";

/// Waits until something is so.
pub fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running service; killed when it is dropped.
pub struct Server {
    child: Child,
    pub address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Returns when it listens.
    pub fn start(command: &mut Command) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                *kept.lock().unwrap() += &format!("{line}\n");
            }
        });
        let mut server = Self {
            child,
            address: String::new(),
            log,
        };
        wait("the address", || {
            let ended = server.child.try_wait().unwrap();
            let log = server.log();
            assert!(ended.is_none(), "{log}");
            server.address = log.lines().find_map(address).unwrap_or_default();
            !server.address.is_empty()
        });
        server
    }

    /// All that it told so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it tells something.
    pub fn wait_for_log(&self, text: &str) {
        wait(text, || self.log().contains(text));
    }

    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        http::request(&self.address, method, path, headers, body)
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }

    /// What a path shows, which there must be.
    pub fn json(&self, path: &str) -> Value {
        let response = self.get(path);
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()
    }

    /// Asks for a task.
    pub fn ask(&self, request: &Value, more: &[(&str, &str)]) -> Response {
        let headers = [&[("Content-Type", "application/json")], more].concat();
        let path = format!("{TASKS}/start");
        self.send("POST", &path, &headers, request.to_string().as_bytes())
    }

    /// Starts a task and gives its ID.
    pub fn start_task(&self, request: &Value) -> String {
        let response = self.ask(request, &[]);
        assert_eq!(response.status, 202, "{}", response.text());
        response.json()["task_id"].as_str().unwrap().to_string()
    }

    pub fn status(&self, task: &str) -> Value {
        self.json(&format!("{TASKS}/{task}/status"))
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

    /// Waits for a task's end, which must be a good one.
    pub fn wait_for_end(&self, task: &str) -> Value {
        let end = self.wait(task, |state| {
            ["COMPLETED", "FAILED", "STOPPED"].contains(&state["status"].as_str().unwrap())
        });
        assert_eq!(end["status"], "COMPLETED", "{end} {}", self.log());
        end
    }

    /// Everything that a socket gives, and the code of its close.
    pub fn listen(&self, task: &str, query: &str) -> (Vec<Value>, Option<u16>) {
        let address = format!("ws://{}/ws/detection-tracking/{task}{query}", self.address);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(read_to_close(&address))
    }

    /// As `kill -TERM` does.
    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.unwrap().success());
    }

    /// How it ended, which it must within `most`.
    pub fn ended(&mut self, most: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < most, "still there: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
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

/// The address that a line of the log tells, in either form.
fn address(line: &str) -> Option<String> {
    if let Some(address) = line.strip_prefix("listening on http://") {
        return Some(address.to_string());
    }
    let line: Value = serde_json::from_str(line).ok()?;
    let listening = line["message"] == "listening";
    listening.then(|| line["address"].as_str().unwrap().to_string())
}

async fn read_to_close(address: &str) -> (Vec<Value>, Option<u16>) {
    let config = WebSocketConfig::default().max_message_size(None);
    let connected = tokio_tungstenite::connect_async_with_config(address, Some(config), false);
    let (mut socket, _) = connected.await.unwrap();
    let mut messages = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, socket.next()).await;
        match next.unwrap() {
            Some(Ok(Message::Text(text))) => messages.push(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(frame))) => {
                return (messages, frame.map(|frame| frame.code.into()));
            }
            Some(Ok(_)) => {}
            // Killed: there is no close.
            Some(Err(_)) | None => return (messages, None),
        }
    }
}
