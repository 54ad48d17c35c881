//! Options of what the service keeps: where, how much, and for how long.

use std::time::Duration;

use clap::Args;

use crate::service::settings::ServiceSettings;
use crate::store::RetentionPolicy;

/// What the service keeps.
#[derive(Debug, Args)]
pub struct KeepingArgs {
    /// Where tasks, people and messages are kept: a SQLite file, or `postgres://…`; by default
    /// store.sqlite in the data folder
    #[arg(
        long,
        env = "MTMC_DATABASE",
        value_name = "ADDRESS",
        hide_env_values = true
    )]
    database: Option<String>,

    /// Frames of a task, all cameras together, after which its state is saved to go on from
    #[arg(long, env = "MTMC_SNAPSHOT_EVERY", value_name = "FRAMES", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    snapshot_every: u64,

    /// Keep no pictures of people in the store
    #[arg(long, env = "MTMC_NO_CROPS")]
    no_crops: bool,

    /// Days that positions are kept; for ever if not given
    #[arg(long, env = "MTMC_KEEP_POSITIONS_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    keep_positions_days: Option<u32>,

    /// Days that ended tasks are kept, with their people and messages; for ever if not given
    #[arg(long, env = "MTMC_KEEP_TASKS_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    keep_tasks_days: Option<u32>,

    /// Largest size of the store in MiB: beyond, positions of the oldest ended tasks go first; no
    /// bound if not given
    #[arg(long, env = "MTMC_STORE_MAX_MIB", value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    store_max_mib: Option<u32>,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl KeepingArgs {
    /// Into the settings.
    pub fn apply(&self, settings: &mut ServiceSettings) {
        let days = |days: Option<u32>| days.map(|days| i64::from(days) * DAY.as_millis() as i64);
        settings.database.clone_from(&self.database);
        settings.snapshot_every = self.snapshot_every;
        settings.keep_crops = !self.no_crops;
        settings.retention = RetentionPolicy {
            positions_ms: days(self.keep_positions_days),
            tasks_ms: days(self.keep_tasks_days),
            idempotency_ms: days(Some(1)),
            max_bytes: self.store_max_mib.map(|mib| u64::from(mib) << 20),
        };
    }
}
