//! Options for operating the service: its log, its memory, its disk; and how it is told to stop.

use anyhow::bail;
use clap::Args;

use crate::service::logs::{self, LogFormat};
use crate::service::memory::MemoryLimits;
use crate::service::settings::ServiceSettings;

/// How the service is operated.
#[derive(Debug, Args)]
#[command(next_help_heading = "Operating")]
pub struct OperatingArgs {
    /// Form of the log on standard error
    #[arg(long, env = "MTMC_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or parts such as `info,mtmc::service=debug`
    #[arg(long, env = "MTMC_LOG", value_name = "FILTER", default_value = logs::DEFAULT_FILTER)]
    pub log_level: String,

    /// Percent of memory (of the machine, or of the control group if that is fuller) above which
    /// tasks take smaller batches
    #[arg(long, env = "MTMC_MEMORY_SOFT", value_name = "PERCENT", default_value_t = 80.0, value_parser = percent)]
    pub memory_soft: f64,

    /// Percent of memory above which no new task is taken
    #[arg(long, env = "MTMC_MEMORY_HARD", value_name = "PERCENT", default_value_t = 90.0, value_parser = percent)]
    pub memory_hard: f64,

    /// MiB that must be free on the data folder's disk for the service to be ready
    #[arg(
        long,
        env = "MTMC_MIN_FREE_DISK",
        value_name = "MIB",
        default_value_t = 256
    )]
    pub min_free_disk: u32,
}

/// Parses a percentage.
fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 100.0 => Ok(value),
        _ => Err("must be a number above 0 and at most 100".to_string()),
    }
}

/// The log, and the traces that are sent; sends the last of them when it is dropped.
#[derive(Debug)]
pub struct Log {
    #[cfg(feature = "otel")]
    _traces: Option<crate::service::traces::Traces>,
}

impl OperatingArgs {
    /// Starts the log, and the traces if a collector is named.
    ///
    /// # Errors
    /// The filter, or a variable of the traces, makes no sense.
    #[cfg(feature = "otel")]
    pub fn start_log(&self) -> anyhow::Result<Log> {
        let (layers, traces) = match crate::service::traces::start()? {
            Some((layer, traces)) => (vec![layer], Some(traces)),
            None => (Vec::new(), None),
        };
        logs::start(self.log_format, &self.log_level, layers)?;
        Ok(Log { _traces: traces })
    }

    /// Starts the log.
    ///
    /// # Errors
    /// The filter makes no sense.
    #[cfg(not(feature = "otel"))]
    pub fn start_log(&self) -> anyhow::Result<Log> {
        logs::start(self.log_format, &self.log_level, Vec::new())?;
        if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() {
            tracing::warn!("no traces are sent: this program was built without `--features otel`");
        }
        Ok(Log {})
    }

    /// Lays them into the settings.
    ///
    /// # Errors
    /// The hard limit is below the soft one.
    pub fn apply(&self, settings: &mut ServiceSettings) -> anyhow::Result<()> {
        let (soft, hard) = (self.memory_soft, self.memory_hard);
        if hard < soft {
            bail!("--memory-hard {hard} is below --memory-soft {soft}");
        }
        settings.memory = MemoryLimits { soft, hard };
        settings.min_free_disk = u64::from(self.min_free_disk) << 20;
        Ok(())
    }
}

/// Completes at Ctrl-C or SIGTERM; a second one ends the process at once.
pub async fn told_to_stop() {
    signal().await;
    tokio::spawn(async {
        let code = signal().await;
        tracing::warn!("told to stop again: ending at once");
        std::process::exit(code);
    });
}

/// The exit code of shells for the signal that came: 128 and its number.
async fn signal() -> i32 {
    let interrupt = async {
        // Without a handler there is no stopping but by force.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        130
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
        143
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<i32>();
    tokio::select! {
        code = interrupt => code,
        code = terminate => code,
    }
}
