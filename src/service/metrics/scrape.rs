//! Everything that can be told at one moment, as text.

use std::collections::BTreeMap;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::family::{Families, Labels, Value};
use super::process::ProcessProbe;
use crate::service::App;
use crate::service::messages::TaskStatus;
use crate::store::Health;

/// Media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All numbers of the service.
///
/// # Errors
/// A number could not be written: a bug of this program.
pub fn scrape(app: &App) -> Result<String, std::fmt::Error> {
    let mut families = Families::default();
    service(app, &mut families);
    tasks(app, &mut families);
    store(app, &mut families);
    app.metrics.live.collect(app.sockets.count(), &mut families);
    memory(app, &mut families);
    app.metrics.runs.collect(&app.catalog, &mut families);
    ProcessProbe::default().collect(&mut families);
    let mut registry = Registry::default();
    app.metrics.http.register(&mut registry);
    registry.register_collector(families.collector());
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn service(app: &App, families: &mut Families) {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_string())];
    let help = "The program's version; always 1";
    families.many("mtmc_build", help, [(version, Value::Gauge(1.0))]);
    let uptime = app.started.elapsed().as_secs_f64();
    let help = "Time since the service started";
    families.one("mtmc_uptime_seconds", help, Value::Gauge(uptime));
    let stopping = if app.is_stopping() { 1.0 } else { 0.0 };
    let help = "1 while the service is being stopped";
    families.one("mtmc_stopping", help, Value::Gauge(stopping));
}

fn tasks(app: &App, families: &mut Families) {
    let states = [
        TaskStatus::Queued,
        TaskStatus::Initializing,
        TaskStatus::Downloading,
        TaskStatus::Processing,
        TaskStatus::Stopping,
        TaskStatus::Completed,
        TaskStatus::Failed,
        TaskStatus::Stopped,
    ];
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for state in states {
        counts.insert(name(state), 0.0);
    }
    for task in app.tasks.at_hand() {
        *counts.entry(name(task.status())).or_default() += 1.0;
    }
    let samples = counts
        .into_iter()
        .map(|(state, count)| (vec![("state", state)], Value::Gauge(count)));
    families.many("mtmc_tasks", "Tasks that are known, by state", samples);
}

fn name(status: TaskStatus) -> String {
    format!("{status:?}").to_lowercase()
}

fn store(app: &App, families: &mut Families) {
    let up = if app.store.health() == Health::Ok {
        1.0
    } else {
        0.0
    };
    let help = "1 while the store takes and gives what it is asked for";
    families.one("mtmc_store_up", help, Value::Gauge(up));
    let counts = app.store.writer().counts();
    let help = "Rows that wait to be written";
    families.one(
        "mtmc_store_waiting_rows",
        help,
        Value::Gauge(counts.waiting as f64),
    );
    let samples = [
        ("taken", counts.queued),
        ("settled", counts.settled),
        ("rejected", counts.rejected),
        ("erased", counts.erased),
        ("dropped_positions", counts.dropped_rows),
        ("dropped_others", counts.dropped_others),
    ]
    .map(|(outcome, count)| {
        let labels: Labels = vec![("outcome", outcome.to_string())];
        (labels, Value::Counter(count as f64))
    });
    families.many("mtmc_store_rows", "What became of rows", samples);
}

fn memory(app: &App, families: &mut Families) {
    let guard = &app.memory;
    if let Some(reading) = guard.reading() {
        let samples = [("used", reading.used), ("limit", reading.limit)]
            .map(|(kind, bytes)| (vec![("kind", kind.to_string())], Value::Gauge(bytes as f64)));
        let help = "Memory of the machine or of the control group, whichever is fuller";
        families.many("mtmc_memory_bytes", help, samples);
    }
    let pressure = f64::from(guard.pressure() as u8);
    let help = "0: below both limits of memory, 1: above the soft one, 2: above the hard one";
    families.one("mtmc_memory_pressure", help, Value::Gauge(pressure));
    let device = device_memory().map(|(free, total)| [("used", total - free), ("limit", total)]);
    let samples = device.into_iter().flatten().map(|(kind, bytes)| {
        let labels: Labels = vec![("kind", kind.to_string())];
        (labels, Value::Gauge(bytes as f64))
    });
    let help = "Memory of the CUDA device, of all programs together";
    families.many("mtmc_device_memory_bytes", help, samples);
}

/// Free and all bytes of the first CUDA device.
#[cfg(feature = "cuda")]
fn device_memory() -> Option<(usize, usize)> {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    CudaContext::new(0).ok()?.mem_get_info().ok()
}

/// Built without CUDA.
#[cfg(not(feature = "cuda"))]
fn device_memory() -> Option<(usize, usize)> {
    None
}
