//! Requests: counted, timed and logged, each in a span of its own.

use std::sync::atomic::AtomicI64;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing::{Instrument as _, info, info_span};

use crate::service::SharedApp;

/// Upper bounds of the buckets of latency in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

/// Counters of requests, by the route as it is written in the program.
#[derive(Debug)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    open: Gauge<i64, AtomicI64>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            open: Gauge::default(),
        }
    }
}

impl HttpMetrics {
    /// Makes the counters known.
    pub fn register(&self, registry: &mut Registry) {
        let requests = self.requests.clone();
        registry.register("mtmc_http_requests", "Requests answered", requests);
        let help = "Time from a request's head to its answer's";
        registry.register("mtmc_http_request_seconds", help, self.seconds.clone());
        let help = "Requests that are being answered";
        registry.register("mtmc_http_requests_open", help, self.open.clone());
    }

    fn answered(&self, method: &'static str, route: &str, status: u16, seconds: f64) {
        let route = route.to_string();
        let labels = RouteLabels {
            method,
            route: route.clone(),
        };
        self.seconds.get_or_create(&labels).observe(seconds);
        let labels = RequestLabels {
            method,
            route,
            status,
        };
        self.requests.get_or_create(&labels).inc();
    }
}

/// Lowers the number of open requests also where the client goes before the answer.
struct Open(Gauge<i64, AtomicI64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts, times and logs a request. The address is not logged beyond its route: what a client puts
/// there may be a secret.
pub async fn observe(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method(request.method());
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_string(),
        None => "unmatched".to_string(),
    };
    let request_id = request_id(request.headers());
    let span = info_span!("request", request_id, method, route, "otel.kind" = "server");
    let metrics = &app.metrics.http;
    metrics.open.inc();
    let open = Open(metrics.open.clone());
    let quiet = matches!(
        route.as_str(),
        "/health" | "/health/detection" | "/livez" | "/readyz" | "/metrics"
    );
    let answer = async {
        let response = next.run(request).await;
        let status = response.status().as_u16();
        let seconds = started.elapsed().as_secs_f64();
        metrics.answered(method, &route, status, seconds);
        let ms = (seconds * 1e6).round() / 1e3;
        // Whatever asks every few seconds would hide the rest.
        if quiet && status < 400 {
            tracing::debug!(status, ms, "answered");
        } else {
            info!(status, ms, "answered");
        }
        response
    };
    let response = answer.instrument(span).await;
    drop(open);
    response
}

/// The methods that there are; whatever else a client thinks of is one more.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The request's ID, as far as it is one.
fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (id.len() <= 128 && id.chars().all(plain)).then_some(id)
}
