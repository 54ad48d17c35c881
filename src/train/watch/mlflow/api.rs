//! The calls of MLflow's REST API that a run needs (mlflow.org/docs/latest/rest-api.html).

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::http::{Method, Request};
use ureq::{Agent, AsSendBody};

use super::{Credentials, MlflowSettings, Outcome};

/// Longest wait for a connection, and for an answer to what is not a file.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(20);

/// Longest time for a file.
const UPLOAD: Duration = Duration::from_secs(600);

/// Largest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;

/// Most parameters in one call, by the API's limits.
const PARAMETERS: usize = 100;

/// Longest parameter that servers of all versions take.
const PARAMETER_LENGTH: usize = 500;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may work later: no connection, a fault of the server.
    Later(String),
    /// It will not: the server understands and refuses.
    Refused { status: u16, reason: String },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Later(reason) => f.write_str(reason),
            Self::Refused { status, reason } => write!(f, "{status}: {reason}"),
        }
    }
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Metric {
    pub(super) key: String,
    pub(super) value: f64,
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    pub(super) step: u64,
}

/// A run as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) run_id: String,
    pub(super) artifact_uri: String,
}

/// A server.
pub(super) struct Api {
    agent: Agent,
    base: String,
    authorization: Option<String>,
}

impl Api {
    pub(super) fn new(settings: &MlflowSettings) -> Self {
        let base = settings.uri.trim_end_matches('/').to_string();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("mtmc/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT));
        // No proxy stands between this machine and itself.
        let config = if base.starts_with("http://127.0.0.1") || base.starts_with("http://localhost")
        {
            config.proxy(None)
        } else {
            config
        };
        let authorization = match &settings.credentials {
            Credentials::None => None,
            Credentials::Token(token) => Some(format!("Bearer {token}")),
            Credentials::Password { user, password } => {
                let pair = format!("{user}:{password}");
                let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
                Some(format!("Basic {encoded}"))
            }
        };
        Self {
            agent: config.build().into(),
            base,
            authorization,
        }
    }

    /// ID of the experiment of that name, which is made if need be.
    pub(super) fn experiment(&self, name: &str) -> Result<String, Failure> {
        let wanted = format!("experiments/get-by-name?experiment_name={}", encoded(name));
        match self.call(Method::GET, &wanted, None) {
            Ok(answer) => text(&answer["experiment"]["experiment_id"], "experiment_id"),
            Err(Failure::Refused { status: 404, .. }) => {
                let body = json!({ "name": name });
                let answer = self.call(Method::POST, "experiments/create", Some(&body))?;
                text(&answer["experiment_id"], "experiment_id")
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn create_run(
        &self,
        experiment: &str,
        name: &str,
        time: i64,
    ) -> Result<Run, Failure> {
        let body = json!({
            "experiment_id": experiment,
            "run_name": name,
            "start_time": time,
            "tags": [{ "key": "mlflow.source.name", "value": "mtmc" }],
        });
        let answer = self.call(Method::POST, "runs/create", Some(&body))?;
        let info = &answer["run"]["info"];
        Ok(Run {
            run_id: text(&info["run_id"], "run_id")?,
            artifact_uri: text(&info["artifact_uri"], "artifact_uri")?,
        })
    }

    /// Logs settings; the server refuses those that change in a run that goes on.
    pub(super) fn parameters(&self, run: &Run, all: &[(String, String)]) -> Result<(), Failure> {
        for some in all.chunks(PARAMETERS) {
            let listed = some.iter().map(|(key, value)| {
                let value: String = value.chars().take(PARAMETER_LENGTH).collect();
                json!({ "key": allowed(key), "value": value })
            });
            let body = json!({ "run_id": run.run_id, "params": listed.collect::<Vec<_>>() });
            self.call(Method::POST, "runs/log-batch", Some(&body))?;
        }
        Ok(())
    }

    pub(super) fn metrics(&self, run: &Run, metrics: &[Metric]) -> Result<(), Failure> {
        let body = json!({ "run_id": run.run_id, "metrics": metrics });
        self.call(Method::POST, "runs/log-batch", Some(&body))?;
        Ok(())
    }

    pub(super) fn begin_again(&self, run: &Run) -> Result<(), Failure> {
        let body = json!({ "run_id": run.run_id, "status": "RUNNING" });
        self.call(Method::POST, "runs/update", Some(&body))?;
        Ok(())
    }

    pub(super) fn end(&self, run: &Run, outcome: Outcome, time: i64) -> Result<(), Failure> {
        let status = match outcome {
            Outcome::Finished => "FINISHED",
            Outcome::Failed => "FAILED",
            Outcome::Interrupted => "KILLED",
        };
        let body = json!({ "run_id": run.run_id, "status": status, "end_time": time });
        self.call(Method::POST, "runs/update", Some(&body))?;
        Ok(())
    }

    /// Sends a file through the server's artifact proxy, which is what it does by default; a server
    /// that wants clients to write to its store themselves cannot be served.
    pub(super) fn artifact(&self, run: &Run, path: &Path) -> Result<(), Failure> {
        let refused = |reason: String| Failure::Refused { status: 0, reason };
        let Some(folder) = run.artifact_uri.strip_prefix("mlflow-artifacts:") else {
            return Err(refused(format!(
                "artifacts of this server go to {}, not through it (start it with --serve-artifacts)",
                run.artifact_uri
            )));
        };
        // mlflow-artifacts:/1/ID/artifacts, or with a server's name after two slashes.
        let folder = match folder.strip_prefix("//") {
            Some(rest) => rest.split_once('/').map_or("", |(_, folder)| folder),
            None => folder.trim_start_matches('/'),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file =
            File::open(path).map_err(|error| refused(format!("{}: {error}", path.display())))?;
        let address = format!("mlflow-artifacts/artifacts/{folder}/{}", encoded(&name));
        let request = self.request(Method::PUT, &address, "application/octet-stream", file)?;
        self.run(request, UPLOAD)?;
        Ok(())
    }

    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let path = format!("mlflow/{path}");
        let answer = match body {
            Some(body) => {
                let text = body.to_string();
                let request = self.request(method, &path, "application/json", text)?;
                self.run(request, ANSWER)?
            }
            None => self.run(self.request(method, &path, "application/json", ())?, ANSWER)?,
        };
        Ok(serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    fn request<B>(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: B,
    ) -> Result<Request<B>, Failure> {
        let address = format!("{}/api/2.0/{path}", self.base);
        let mut request = Request::builder()
            .method(method)
            .uri(address)
            .header("content-type", kind);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        request.body(body).map_err(|error| Failure::Refused {
            status: 0,
            reason: format!("{}: {error}", self.base),
        })
    }

    fn run(
        &self,
        request: Request<impl AsSendBody>,
        patience: Duration,
    ) -> Result<String, Failure> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(patience))
            .build();
        let mut answer = self
            .agent
            .run(request)
            .map_err(|error| Failure::Later(error.to_string()))?;
        let status = answer.status();
        let body = answer
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_string();
        let body = body.map_err(|error| Failure::Later(error.to_string()))?;
        if status.is_success() {
            return Ok(body);
        }
        let said: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
        let reason: String = match said["message"].as_str() {
            Some(message) => message.chars().take(300).collect(),
            None => status.canonical_reason().unwrap_or("refused").to_string(),
        };
        // Too many requests and slow ones may pass later.
        if status.is_server_error() || [408, 429].contains(&status.as_u16()) {
            return Err(Failure::Later(format!("{status}: {reason}")));
        }
        Err(Failure::Refused {
            status: status.as_u16(),
            reason,
        })
    }
}

fn text(value: &Value, what: &str) -> Result<String, Failure> {
    let found = value.as_str().map(ToString::to_string);
    found.ok_or_else(|| Failure::Later(format!("the answer has no {what}; is this MLflow?")))
}

/// A key of nothing but what MLflow allows.
pub(super) fn allowed(key: &str) -> String {
    let known = |c: char| c.is_ascii_alphanumeric() || "_-. /".contains(c);
    key.chars()
        .map(|c| if known(c) { c } else { '_' })
        .collect()
}

/// Percent-encoded for a part of an address.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
