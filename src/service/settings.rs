//! How the service runs: one checked struct, filled by `mtmc serve` from flags and variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::auth::AuthSettings;
use super::limits::LimitSettings;
use super::memory::MemoryLimits;
use super::tls::TlsSettings;
use super::uploads::UploadSettings;
use crate::config::Overrides;

/// How the service runs.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    /// Where it listens. Default `127.0.0.1:8000`.
    pub listen: SocketAddr,
    /// Folder of all that it keeps: store, snapshots, uploads, outputs. Default `mtmc-data`.
    pub data_dir: PathBuf,
    /// Source of a camera that names none: `{environment}` and `{camera}` stand for the IDs, such as
    /// `s3://bucket/{environment}/{camera}/`.
    pub source_template: Option<String>,
    /// Most tasks that run at once. Default 2.
    pub max_running: usize,
    /// Most tasks that wait to run; beyond, a start is refused. Default 16.
    pub max_queued: usize,
    /// Most frames in one detection batch. Default 4.
    pub batch: usize,
    /// Lowest score that trackers see. Default 0.1.
    pub score_floor: f32,
    /// Lowest score of a detection that is reported. Default 0.5 (`RTDETR_CONFIDENCE_THRESHOLD`).
    pub confidence: f32,
    /// IoU above which the weaker of two boxes is dropped, if at all (`RTDETR_NMS_THRESHOLD`).
    pub nms: Option<f32>,
    /// Indices of the classes that are looked for; empty for all.
    pub classes: Vec<u32>,
    /// Frames of all cameras together after which a task's state is saved. Default 300.
    pub snapshot_every: u64,
    /// Whether annotated pictures are made (`DETECTION_ANNOTATION_ENABLED`). Default true.
    pub annotate: bool,
    /// Whether original pictures are passed on (`DETECTION_SAVE_ORIGINAL_FRAMES`). Default true.
    pub originals: bool,
    /// Quality of annotated JPEGs, 1..=100. Default 85.
    pub jpeg_quality: u8,
    /// Time between two heartbeats of a socket. Default 15 s.
    /// Percent of memory above which the service takes less, and no more. Default 80 and 90.
    pub memory: MemoryLimits,
    /// Bytes that must be free on the disk of the data folder for the service to be ready. Default
    /// 256 MiB.
    pub min_free_disk: u64,
    pub heartbeat: Duration,
    /// Bounds of uploads and their results.
    pub uploads: UploadSettings,
    /// The requirement document's variables and flags, laid over every environment.
    pub overrides: Overrides,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            data_dir: PathBuf::from("mtmc-data"),
            source_template: None,
            max_running: 2,
            max_queued: 16,
            batch: 4,
            score_floor: 0.1,
            confidence: 0.5,
            nms: None,
            classes: vec![0],
            snapshot_every: 300,
            annotate: true,
            originals: true,
            jpeg_quality: 85,
            heartbeat: Duration::from_secs(15),
            uploads: UploadSettings::default(),
            overrides: Overrides::default(),
        }
    }
}
            memory: MemoryLimits::default(),
            min_free_disk: 256 << 20,
