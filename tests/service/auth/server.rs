//! A service in this process, and keys for it.

use std::net::SocketAddr;

use mtmc::service::auth::access::Role;
use mtmc::service::auth::keys::NewKey;
use mtmc::service::catalog::Catalog;
use mtmc::service::networks::ServiceNetworks;
use mtmc::service::settings::ServiceSettings;
use mtmc::service::{self, App, SharedApp};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::http::{self, Response};

/// A service that knows three keys, one of each role.
pub struct Server {
    pub app: SharedApp,
    pub address: String,
    pub viewer: String,
    pub operator: String,
    pub admin: String,
    runtime: Runtime,
    _stop: oneshot::Sender<()>,
    _folder: TempDir,
}

/// A service that knows no key.
pub fn open(settings: ServiceSettings) -> Server {
    start(settings, false)
}

/// A service with keys.
pub fn guarded(settings: ServiceSettings) -> Server {
    start(settings, true)
}

fn start(settings: ServiceSettings, with_keys: bool) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let settings = ServiceSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir: folder.path().join("data"),
        ..settings
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let networks = ServiceNetworks::default();
    let app = runtime
        .block_on(App::new(settings, Catalog::default(), networks))
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (tell, told) = oneshot::channel();
    let served = app.clone();
    runtime.spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        let listening = |address: SocketAddr| tell.send(address).unwrap();
        service::serve(served, shutdown, listening).await.unwrap();
    });
    let address = runtime.block_on(told).unwrap().to_string();
    let mut server = Server {
        app,
        address,
        viewer: String::new(),
        operator: String::new(),
        admin: String::new(),
        runtime,
        _stop: stop,
        _folder: folder,
    };
    if with_keys {
        server.viewer = server.key("v", Role::Viewer);
        server.operator = server.key("o", Role::Operator);
        server.admin = server.key("a", Role::Admin);
    }
    server
}

impl Server {
    /// Makes a key as `mtmc keys create` does, and lets the service know at once.
    pub fn key(&self, name: &str, role: Role) -> String {
        let new = NewKey::make(name, role, 1).unwrap();
        self.runtime.block_on(async {
            self.app.store.add_api_key(&new.record).await.unwrap();
            self.app.auth.refresh().await.unwrap();
        });
        new.secret.expose().to_string()
    }

    /// A request with a key, or none if it is empty.
    pub fn ask(&self, key: &str, method: &str, path: &str, body: &str) -> Response {
        let bearer = format!("Bearer {key}");
        let mut headers = vec![("Content-Type", "application/json")];
        if !key.is_empty() {
            headers.push(("Authorization", &bearer));
        }
        http::request(&self.address, method, path, &headers, body.as_bytes())
    }

    /// A request for something that is there to be read.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        http::request(&self.address, "GET", path, headers, b"")
    }
}

/// Asserts that it is an error in the one form of errors.
pub fn assert_problem(response: &Response, status: u16, kind: &str) {
    let text = response.text();
    assert_eq!(response.status, status, "{text}");
    let form = response.header("content-type");
    assert_eq!(form, Some("application/problem+json"), "{text}");
    assert_eq!(response.json()["type"], format!("/problems/{kind}"));
    assert_eq!(response.json()["status"], status);
}
