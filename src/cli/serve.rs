//! `mtmc serve`: the service.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::options::{DetectionArgs, ModelArgs};
use super::world;
use crate::config::{Environment, Overrides};
use crate::service::catalog::Catalog;
use crate::service::networks::ServiceNetworks;
use crate::service::settings::ServiceSettings;
use crate::service::{self, App};

/// Arguments of `mtmc serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on
    #[arg(long, env = "MTMC_LISTEN", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// Folder of all that the service keeps: store, snapshots, uploads, outputs
    #[arg(
        long,
        env = "MTMC_DATA_DIR",
        value_name = "DIR",
        default_value = "mtmc-data"
    )]
    data_dir: PathBuf,

    /// Environments (TOML); without any there is one, `default`, of cameras c09, c12, c13 and c16
    #[arg(
        long = "environment",
        env = "MTMC_ENVIRONMENTS",
        value_name = "FILE",
        value_delimiter = ','
    )]
    environments: Vec<PathBuf>,

    /// Source of cameras that name none, such as `s3://bucket/{environment}/{camera}/`
    #[arg(long, env = "MTMC_SOURCE_TEMPLATE", value_name = "TEMPLATE")]
    source_template: Option<String>,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    detection: DetectionArgs,

    /// Re-ID weights: a .safetensors file, or a name of `mtmc models list`, fetched if absent
    #[arg(long, env = "REID_MODEL_PATH", value_name = "WEIGHTS")]
    reid: Option<String>,

    /// Frames that the detector takes at once
    #[arg(long, env = "MTMC_BATCH", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,

    /// Most tasks that run at once
    #[arg(long, env = "MTMC_MAX_RUNNING", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    max_running: u16,

    /// Most tasks that wait for their turn; beyond, a start is refused
    #[arg(long, env = "MTMC_MAX_QUEUED", default_value_t = 16)]
    max_queued: u16,
}

/// Serves until Ctrl-C or SIGTERM.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    args.model.compute.start_threads()?;
    let catalog = Catalog::new(environments(args)?, args.source_template.as_deref())?;
    let detector = args.model.load()?;
    let embedder = match &args.reid {
        Some(weights) => Some(args.model.compute.embedder(weights)?),
        None => None,
    };
    let detect = args.detection.options(&detector, 0.1)?;
    let settings = ServiceSettings {
        listen: args.listen,
        data_dir: args.data_dir.clone(),
        max_running: usize::from(args.max_running),
        max_queued: usize::from(args.max_queued),
        batch: usize::from(args.batch),
        score_floor: detect.score_floor,
        confidence: args.detection.confidence,
        nms: detect.nms_iou,
        classes: detect.classes,
        ..ServiceSettings::default()
    };
    let networks = ServiceNetworks {
        detector: Some(detector),
        detector_name: args.model.weights.clone(),
        embedder,
        embedder_name: args.reid.clone().unwrap_or_default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the service's threads")?;
    runtime.block_on(async {
        let app = App::new(settings, catalog, networks)?;
        service::serve(app, shutdown(), |address| {
            let _ = writeln!(std::io::stderr(), "listening on http://{address}");
        })
        .await
    })
}

fn environments(args: &ServeArgs) -> anyhow::Result<Vec<Environment>> {
    if args.environments.is_empty() {
        return Ok(vec![
            Environment::standard_with(&Overrides::from_process())?,
        ]);
    }
    args.environments
        .iter()
        .map(|file| world::load(file))
        .collect()
}

/// Completes at Ctrl-C or SIGTERM.
async fn shutdown() {
    let interrupt = async {
        // Without a handler there is no stopping but by force.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}
