//! `mtmc serve`: the service.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use mtmc_models::layers::Mode;

use super::keeping::KeepingArgs;
use super::live::LiveArgs;
use super::operating::{OperatingArgs, told_to_stop};
use super::options::{DetectionArgs, ModelArgs, names, weights_path};
use super::security::SecurityArgs;
use super::uploads::UploadArgs;
use super::world;
use crate::config::{Environment, Overrides};
use crate::service::catalog::Catalog;
use crate::service::logs::LogFormat;
use crate::service::networks::{NetworkInfo, ServiceNetworks};
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

    #[command(flatten)]
    overrides: Overrides,

    /// Source of cameras that name none, such as `s3://bucket/{environment}/{camera}/`
    #[arg(long, env = "MTMC_SOURCE_TEMPLATE", value_name = "TEMPLATE")]
    source_template: Option<String>,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    detection: DetectionArgs,

    /// Re-ID weights: a .safetensors file, or a name of `mtmc models list`, fetched if absent; by
    /// default the environments' `reid.model`
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

    #[command(flatten)]
    uploads: UploadArgs,

    #[command(flatten)]
    keeping: KeepingArgs,

    #[command(flatten)]
    live: LiveArgs,

    #[command(flatten)]
    operating: OperatingArgs,

    #[command(flatten)]
    security: SecurityArgs,
}

/// How long work in the background may take once everything else has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until Ctrl-C or SIGTERM.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    args.model.compute.start_threads(Mode::Inference)?;
    let operating = &args.operating;
    let _log = operating.start_log()?;
    let mut settings = settings(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the service's threads")?;
    // Weights take seconds to load: what fails anyway fails before.
    runtime.block_on(service::check_address(&settings))?;
    let environments = environments(args)?;
    let reid = world::encoder_weights(args.reid.as_deref(), &environments)?;
    let detector = args.model.load()?;
    let embedder = match &reid {
        Some(weights) => {
            let compute = &args.model.compute;
            Some(world::load_encoder(compute, weights, &environments)?)
        }
        None => None,
    };
    let catalog = Catalog::new(environments, args.source_template.as_deref())?;
    let detect = args.detection.options(&detector, 0.1)?;
    settings.score_floor = detect.score_floor;
    settings.nms = detect.nms_iou;
    settings.classes = detect.classes;
    let scheme = if settings.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let compute = &args.model.compute;
    let (device, dtype) = compute.device()?;
    let dtype = compute.dtype((&device, dtype), detector.description());
    let (device, precision) = names((&device, dtype));
    let mut about = vec![network("detector", &args.model.weights)?];
    if let Some(weights) = &reid {
        about.push(network("embedder", weights)?);
    }
    let networks = ServiceNetworks {
        detector: Some(detector),
        detector_name: args.model.weights.clone(),
        embedder,
        embedder_name: reid.unwrap_or_default(),
        about,
        device,
        precision,
    };
    let text = operating.log_format == LogFormat::Text;
    let served = runtime.block_on(async {
        let app = App::new(settings, catalog, networks).await?;
        service::serve(app, told_to_stop(), |address| {
            if text {
                let _ = writeln!(std::io::stderr(), "listening on {scheme}://{address}");
            } else {
                tracing::info!(%address, "listening");
            }
        })
        .await
    });
    // What still waits for a disk or a network must not hold the end back.
    runtime.shutdown_timeout(LAST_WORDS);
    served
}

/// All settings but those that the detector's classes decide.
fn settings(args: &ServeArgs) -> anyhow::Result<ServiceSettings> {
    let mut settings = ServiceSettings {
        listen: args.listen,
        data_dir: args.data_dir.clone(),
        max_running: usize::from(args.max_running),
        max_queued: usize::from(args.max_queued),
        batch: usize::from(args.batch),
        confidence: args.detection.confidence,
        uploads: args.uploads.settings(),
        ..ServiceSettings::default()
    };
    args.keeping.apply(&mut settings);
    args.live.apply(&mut settings);
    args.operating.apply(&mut settings)?;
    args.security.apply(&mut settings)?;
    Ok(settings)
}

/// What `/info` says of weights.
fn network(role: &'static str, weights: &str) -> anyhow::Result<NetworkInfo> {
    let file = weights_path(weights)?;
    let about = mtmc_models::weights::read_description(&file)?;
    Ok(NetworkInfo::new(role, &file, &about))
}

fn environments(args: &ServeArgs) -> anyhow::Result<Vec<Environment>> {
    if args.environments.is_empty() {
        return Ok(vec![Environment::standard_with(&args.overrides)?]);
    }
    args.environments
        .iter()
        .map(|file| world::load(file, &args.overrides))
        .collect()
}
