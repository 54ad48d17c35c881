//! What the service counts, for monitoring: Prometheus' text format at `/metrics`.
//!
//! Requests are counted as they come ([`http`]). Everything else is collected when it is asked for:
//! the counters of running tasks and the totals of those that ended, the process
//! itself, memory and tasks. Labels are few and known in advance: environments and cameras of
//! the catalog, routes as they are written in the program. Nothing that a client sends becomes one.

mod family;
pub mod http;
mod live;
mod process;
mod runs;
mod scrape;

use std::sync::Arc;

use crate::pipeline::Throttle;

pub use http::HttpMetrics;
pub use live::LiveCounts;
pub use process::ProcessProbe;
pub use runs::Runs;
pub use scrape::{CONTENT_TYPE, scrape};

/// What the service's work is given to be watched by; copies share it.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// Makes it take less at once while memory is short.
    pub throttle: Arc<Throttle>,
}

/// What is counted as it happens.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests.
    pub http: HttpMetrics,
    /// Runs of the pipeline.
    pub runs: Runs,
    /// Messages to sockets.
    pub live: LiveCounts,
}
