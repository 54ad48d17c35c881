//! Options of uploads: what is taken, how much at once, and how long results are kept.

use std::time::Duration;

use clap::Args;

use crate::service::uploads::UploadSettings;

/// Bounds of uploads and their results.
#[derive(Debug, Args)]
#[command(next_help_heading = "Uploads")]
pub struct UploadArgs {
    /// Largest file that is taken, in MiB
    #[arg(long, env = "MTMC_UPLOAD_MAX_MIB", value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    upload_max_mib: u32,

    /// Most frames of a video
    #[arg(long, env = "MTMC_UPLOAD_MAX_FRAMES", value_name = "FRAMES", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    upload_max_frames: u64,

    /// Longest video, in seconds
    #[arg(long, env = "MTMC_UPLOAD_MAX_SECONDS", value_name = "SECONDS", default_value_t = 7200, value_parser = clap::value_parser!(u32).range(1..))]
    upload_max_seconds: u32,

    /// Longest time that the work on one video may take, in seconds
    #[arg(long, env = "MTMC_UPLOAD_MAX_WORK", value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..))]
    upload_max_work: u32,

    /// Longest pause of an upload on its way in, in seconds
    #[arg(long, env = "MTMC_UPLOAD_IDLE", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    upload_idle: u32,

    /// Most videos that are worked on at once
    #[arg(long, env = "MTMC_UPLOAD_RUNNING", value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    upload_running: u16,

    /// Most videos that come in or wait beside those; beyond, an upload is refused
    #[arg(
        long,
        env = "MTMC_UPLOAD_WAITING",
        value_name = "COUNT",
        default_value_t = 8
    )]
    upload_waiting: u16,

    /// MiB of the disk that uploads leave free
    #[arg(
        long,
        env = "MTMC_UPLOAD_MIN_FREE",
        value_name = "MIB",
        default_value_t = 512
    )]
    upload_min_free: u32,

    /// Hours for which results are kept
    #[arg(
        long,
        env = "MTMC_OUTPUTS_KEEP_HOURS",
        value_name = "HOURS",
        default_value_t = 168
    )]
    outputs_keep_hours: u32,

    /// MiB of results that are kept; beyond, the oldest go
    #[arg(
        long,
        env = "MTMC_OUTPUTS_KEEP_MIB",
        value_name = "MIB",
        default_value_t = 20_480
    )]
    outputs_keep_mib: u32,
}

impl UploadArgs {
    /// As the service takes them.
    pub fn settings(&self) -> UploadSettings {
        let mib = |count: u32| u64::from(count) << 20;
        let seconds = |count: u32| Duration::from_secs(u64::from(count));
        UploadSettings {
            max_bytes: mib(self.upload_max_mib),
            max_frames: self.upload_max_frames,
            max_duration: seconds(self.upload_max_seconds),
            max_work: seconds(self.upload_max_work),
            idle: seconds(self.upload_idle),
            max_running: usize::from(self.upload_running),
            max_waiting: usize::from(self.upload_waiting),
            min_free: mib(self.upload_min_free),
            keep_for: Duration::from_secs(u64::from(self.outputs_keep_hours) * 3600),
            keep_bytes: mib(self.outputs_keep_mib),
        }
    }
}
