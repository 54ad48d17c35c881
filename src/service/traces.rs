//! Traces for an OpenTelemetry collector (OTLP over HTTP, protobuf): a span a request and a task,
//! with the stages of a task below it.
//!
//! Spans are sent in batches by a thread of their own from a bounded queue: a collector that is
//! slow or gone costs spans and nothing else.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;

use super::logs::Extra;

/// The variable that says where the collector is.
pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Longest time that one batch may take to be sent.
const PATIENCE: Duration = Duration::from_secs(3);

/// Longest time that the last spans may take when the service ends.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Largest answer of a collector that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// Sends the last spans when it is dropped.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS) {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// What collects spans, if [`ENDPOINT`] names a collector; the SDK's other variables (`OTEL_…`)
/// hold too.
///
/// # Errors
/// A variable makes no sense.
pub fn start() -> anyhow::Result<Option<(Extra, Traces)>> {
    if std::env::var_os(ENDPOINT).is_none_or(|endpoint| endpoint.is_empty()) {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client::default())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(PATIENCE)
        .build()
        .with_context(|| format!("{ENDPOINT}: no traces can be sent there"))?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let mut resource = Resource::builder().with_attribute(version);
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("mtmc");
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    // Ours alone: what clients of HTTP and databases say would be about sending spans, too.
    let ours = Targets::new().with_target("mtmc", Level::INFO);
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("mtmc"))
        .with_filter(ours)
        .boxed();
    Ok(Some((layer, Traces(provider))))
}

/// Sends batches with the client that fetches weights, too; it waits, but in the exporter's thread.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Default for Client {
    fn default() -> Self {
        let settings = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .build();
        Self(settings.into())
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let answer = self.0.run(Request::from_parts(parts, body.to_vec()))?;
        let (parts, mut body) = answer.into_parts();
        let bytes = body.with_config().limit(MAX_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(parts, Bytes::from(bytes)))
    }
}
