//! A real S3 server in this process (s3s-fs, on loopback) that misbehaves on demand.
//!
//! Requests pass through a layer of HTTP that counts them and, by rules, delays them, answers in
//! the server's stead, or breaks the answer's body off.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use mtmc::source::s3::{S3Credentials, S3Secret, S3Settings};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tower::ServiceExt as _;

pub const BUCKET: &str = "cameras";
pub const ACCESS_KEY: &str = "reader";
pub const SECRET_KEY: &str = "not-to-be-seen";

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is answered so much later.
    Delay(Duration),
    /// It is answered with this status and S3 code, and `Retry-After` in seconds.
    Status(u16, &'static str, Option<u64>),
    /// The answer breaks off after so many bytes.
    Cut(usize),
    /// The object is removed before it is answered.
    Remove,
    /// Never answered.
    Stall,
}

/// A fault for requests whose path ends so; for the first `times` of them.
#[derive(Debug, Clone)]
struct Rule {
    ending: String,
    times: usize,
    fault: Fault,
}

/// What is shared with the layer in front of the server.
#[derive(Default)]
pub struct Watch {
    rules: Mutex<Vec<Rule>>,
    /// Paths of objects that were asked for, with the range.
    gets: Mutex<Vec<(String, Option<String>)>>,
    /// Queries of listings.
    lists: Mutex<Vec<String>>,
}

/// The server; it is gone with this value.
pub struct Server {
    root: tempfile::TempDir,
    address: SocketAddr,
    watch: Arc<Watch>,
    running: Option<(
        tokio::sync::oneshot::Sender<()>,
        std::thread::JoinHandle<()>,
    )>,
}

impl Server {
    /// Starts with an empty bucket.
    pub fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut server = Self {
            root,
            address: ([127, 0, 0, 1], 0).into(),
            watch: Arc::default(),
            running: None,
        };
        server.revive();
        server
    }

    /// Listens again, where it did before.
    pub fn revive(&mut self) {
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(self.root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let front = Arc::new(Front {
            service: builder.build(),
            root: self.root.path().to_path_buf(),
            watch: Arc::clone(&self.watch),
        });
        let app = axum::Router::new().fallback(answer).with_state(front);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (started, address) = std::sync::mpsc::channel();
        let asked = self.address;
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind(asked).await.unwrap();
                started.send(listener.local_addr().unwrap()).unwrap();
                let serving = axum::serve(listener, app).into_future();
                tokio::select! {
                    _ = serving => {}
                    _ = stopped => {}
                }
            });
            // Connections die with the runtime.
        });
        self.address = address.recv().unwrap();
        self.running = Some((stop, thread));
    }

    /// Stops in the middle of whatever it does.
    pub fn kill(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            thread.join().unwrap();
        }
    }

    pub fn path(&self, key: &str) -> PathBuf {
        self.root.path().join(BUCKET).join(key)
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Settings that reach it, with short times.
    pub fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: Some(format!("http://{}", self.address)),
            credentials: S3Credentials::Keys {
                access_key_id: ACCESS_KEY.to_string(),
                secret_access_key: S3Secret::new(SECRET_KEY),
                session_token: None,
            },
            timeout: Duration::from_secs(10),
            attempts: 4,
            deadline: Duration::from_secs(30),
            ..S3Settings::default()
        }
    }

    /// From now on, `fault` for the first `times` requests whose path ends with `ending`.
    pub fn fault(&self, ending: &str, times: usize, fault: Fault) {
        self.watch.rules.lock().unwrap().push(Rule {
            ending: ending.to_string(),
            times,
            fault,
        });
    }

    /// Keys of images and videos that were asked for so far, in that order.
    pub fn gets(&self) -> Vec<String> {
        let gets = self.watch.gets.lock().unwrap();
        gets.iter().map(|(key, _)| key.clone()).collect()
    }

    /// Ranges that were asked for so far.
    pub fn ranges(&self) -> Vec<String> {
        let gets = self.watch.gets.lock().unwrap();
        gets.iter().filter_map(|(_, range)| range.clone()).collect()
    }

    /// Number of listing requests so far.
    pub fn lists(&self) -> usize {
        self.watch.lists.lock().unwrap().len()
    }

    /// Waits until so many objects were asked for.
    pub fn wait_for_gets(&self, count: usize) {
        let started = Instant::now();
        while self.gets().len() < count {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{:?}",
                self.gets()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Front {
    service: S3Service,
    root: PathBuf,
    watch: Arc<Watch>,
}

impl Front {
    fn fault(&self, path: &str) -> Option<Fault> {
        let mut rules = self.watch.rules.lock().unwrap();
        for rule in rules.iter_mut() {
            if rule.times > 0 && path.ends_with(&rule.ending) {
                rule.times -= 1;
                return Some(rule.fault.clone());
            }
        }
        None
    }
}

async fn answer(State(front): State<Arc<Front>>, request: Request) -> Response {
    let path = request.uri().path().to_string();
    let query = request.uri().query().unwrap_or_default().to_string();
    if query.contains("list-type=2") {
        front.watch.lists.lock().unwrap().push(query);
    } else if !path.ends_with(".ini") {
        let range = request.headers().get("range");
        let range = range.map(|range| range.to_str().unwrap().to_string());
        front.watch.gets.lock().unwrap().push((path.clone(), range));
    }
    let fault = front.fault(&path);
    match &fault {
        Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::Remove) => {
            let file = front.root.join(Path::new(path.trim_start_matches('/')));
            // A second request finds it gone already.
            let _ = std::fs::remove_file(file);
        }
        Some(Fault::Status(status, code, wait)) => return refusal(*status, code, *wait),
        Some(Fault::Cut(_)) | None => {}
    }
    let response = front.service.clone().oneshot(request).await.unwrap();
    let response = response.map(Body::new);
    let Some(Fault::Cut(length)) = fault else {
        return response;
    };
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let first: Result<Bytes, std::io::Error> = Ok(bytes.slice(..length.min(bytes.len())));
    let body = stream::once(async { first }).chain(stream::once(async {
        // What came before leaves only when nothing follows at once.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(std::io::ErrorKind::ConnectionReset.into())
    }));
    let body = Body::from_stream(body);
    Response::from_parts(parts, body)
}

fn refusal(status: u16, code: &str, wait: Option<u64>) -> Response {
    let text = format!("<Error><Code>{code}</Code><Message>as asked for</Message></Error>");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let headers = response.headers_mut();
    headers.insert("content-type", "application/xml".parse().unwrap());
    if let Some(seconds) = wait {
        headers.insert("retry-after", seconds.into());
    }
    response
}
