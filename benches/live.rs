//! How long a frame's message takes from the pipeline to clients on loopback: four cameras of ten
//! frames a second, with two pictures of 100 KB each, and one client or 200 of them; all clients of a
//! run get everything (as JSON, about 280 KB a message) or, of 200, all but four no pictures.
//!
//!     cargo bench --bench live
//!
//! Results are in docs/benchmarks.md.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use mtmc::config::{Environment, Overrides};
use mtmc::service::catalog::Catalog;
use mtmc::service::live::{Draft, Hub, Kind};
use mtmc::service::networks::ServiceNetworks;
use mtmc::service::settings::ServiceSettings;
use mtmc::service::tasks::{Started, TaskKind, TaskRequest};
use mtmc::service::{self, App};
use serde::Serialize;
use tokio_tungstenite::connect_async;

const CAMERAS: [&str; 4] = ["c09", "c12", "c13", "c16"];
const FRAMES: usize = 100;
const INTERVAL: Duration = Duration::from_millis(100);
const PICTURE: usize = 100_000;

#[derive(Serialize)]
struct Frame {
    message_type: &'static str,
    camera_id: &'static str,
    original_image_b64: Option<()>,
    annotated_image_b64: Option<()>,
    published_us: u64,
    seq: u64,
}

fn main() -> anyhow::Result<()> {
    // `cargo test` runs benches too: nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for (clients, pictured) in [(1, 1), (4, 4), (200, 4)] {
            run(clients, pictured).await?;
        }
        Ok(())
    })
}

/// So many clients, of whom the first few get pictures.
async fn run(clients: usize, pictured: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut settings = ServiceSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: folder.path().to_path_buf(),
        max_running: 0,
        ..ServiceSettings::default()
    };
    settings.limits.rate = None;
    let environment = Environment::standard_with(&Overrides::default())?;
    let catalog = Catalog::new([environment.clone()], None)?;
    let app = App::new(settings, catalog, ServiceNetworks::default()).await?;
    let (tell, told) = tokio::sync::oneshot::channel();
    let served = service::serve(app.clone(), std::future::pending(), |address| {
        let _ = tell.send(address);
    });
    let served = tokio::spawn(served);
    let address = told.await?;
    let request = TaskRequest {
        environment_id: environment.id.clone(),
        cameras: Vec::new(),
        max_frames: None,
    };
    let task = app
        .tasks
        .start(TaskKind::Raw, request, Arc::new(environment), |_| None);
    let Started::New(task) = task.await? else {
        anyhow::bail!("a task without a key was there before");
    };
    let origin = Instant::now();
    let mut listening = Vec::new();
    for index in 0..clients {
        let images = if index < pictured { "both" } else { "none" };
        let id = task.id;
        let url = format!("ws://{address}/ws/detection-tracking/{id}?images={images}&since=0");
        let (socket, _) = connect_async(url).await?;
        listening.push(tokio::spawn(listen(socket, origin)));
    }
    let hub = task.hub.clone();
    tokio::task::spawn_blocking(move || publish(&hub, origin)).await??;
    let mut latencies = Vec::new();
    for client in listening {
        latencies.extend(client.await??);
    }
    served.abort();
    report(clients, pictured, &mut latencies)
}

fn publish(hub: &Hub, origin: Instant) -> anyhow::Result<()> {
    for number in 0..FRAMES {
        let due = origin + INTERVAL * number as u32 + Duration::from_millis(500);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        for camera_id in CAMERAS {
            let (original, annotated) = (vec![1; PICTURE], vec![2; PICTURE]);
            let frame = Frame {
                message_type: "detection_update",
                camera_id,
                original_image_b64: None,
                annotated_image_b64: None,
                published_us: origin.elapsed().as_micros() as u64,
                seq: 0,
            };
            let draft = Draft::new(Kind::Frame, vec![camera_id.into()], &frame)?;
            hub.publish(draft.with_pictures(Some(original), Some(annotated)));
        }
    }
    hub.close();
    Ok(())
}

/// Microseconds from publishing to having the whole message, of each.
async fn listen<S>(mut socket: S, origin: Instant) -> anyhow::Result<Vec<u64>>
where
    S: futures_util::Stream<
            Item = Result<
                tokio_tungstenite::tungstenite::Message,
                tokio_tungstenite::tungstenite::Error,
            >,
        > + Unpin,
{
    let mut latencies = Vec::new();
    while let Some(message) = socket.next().await {
        let message = message?;
        if !message.is_text() {
            continue;
        }
        let now = origin.elapsed().as_micros() as u64;
        // Only its end is read, so that the clients' own work does not count.
        let text = message.to_text()?;
        let (_, published) = text.rsplit_once("\"published_us\":").context("no frame")?;
        let (published, _) = published.split_once(',').context("no number")?;
        latencies.push(now - published.parse::<u64>()?);
    }
    anyhow::ensure!(
        latencies.len() == FRAMES * CAMERAS.len(),
        "{}",
        latencies.len()
    );
    Ok(latencies)
}

fn report(clients: usize, pictured: usize, latencies: &mut [u64]) -> anyhow::Result<()> {
    use std::io::Write as _;
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies[place.min(latencies.len() - 1)] as f64 / 1e3
    };
    writeln!(
        std::io::stdout(),
        "{clients} clients, {pictured} with pictures: median {:.1} ms, p99 {:.1} ms, most {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    )?;
    Ok(())
}
