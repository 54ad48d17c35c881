//! How the service runs: one checked struct, filled by `mtmc serve` from flags and variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::auth::AuthSettings;
use super::limits::LimitSettings;
use super::live::LiveSettings;
use super::memory::MemoryLimits;
use super::metrics::Watch;
use super::tls::TlsSettings;
use super::uploads::UploadSettings;
use crate::annotate::privacy::Privacy;
use crate::config::Overrides;
use crate::store::RetentionPolicy;

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
    /// Where tasks, people and messages are kept: a SQLite file or `postgres://…`. Default
    /// `store.sqlite` in the data folder.
    pub database: Option<String>,
    /// Whether a picture of each person is kept, for people who search. Default true.
    pub keep_crops: bool,
    /// What of it goes, and when. Default: requests that must not be done twice after a day, nothing
    /// else.
    pub retention: RetentionPolicy,
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
    /// What counts and restrains whatever runs; shared by all copies of these settings.
    pub watch: Watch,
    /// Percent of memory above which the service takes less, and no more. Default 80 and 90.
    pub memory: MemoryLimits,
    /// Bytes that must be free on the disk of the data folder for the service to be ready. Default
    /// 256 MiB.
    pub min_free_disk: u64,
    /// Time between two heartbeats of a socket. Default 15 s.
    pub heartbeat: Duration,
    /// Bounds of what sockets are given and may take.
    pub live: LiveSettings,
    /// Bounds of uploads and their results.
    pub uploads: UploadSettings,
    /// How callers are recognised.
    pub auth: AuthSettings,
    /// What callers may ask for.
    pub limits: LimitSettings,
    /// Certificate and key; `None` for plain HTTP. Default `None`.
    pub tls: Option<TlsSettings>,
    /// What is hidden of people in every picture that leaves (`MTMC_PRIVACY`). Default nothing.
    pub privacy: Privacy,
    /// The requirement document's variables and flags, laid over every environment.
    pub overrides: Overrides,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            data_dir: PathBuf::from("mtmc-data"),
            source_template: None,
            database: None,
            keep_crops: true,
            retention: RetentionPolicy {
                idempotency_ms: Some(24 * 60 * 60 * 1000),
                ..RetentionPolicy::default()
            },
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
            watch: Watch::default(),
            memory: MemoryLimits::default(),
            min_free_disk: 256 << 20,
            heartbeat: Duration::from_secs(15),
            live: LiveSettings::default(),
            uploads: UploadSettings::default(),
            auth: AuthSettings::default(),
            limits: LimitSettings::default(),
            tls: None,
            privacy: Privacy::None,
            overrides: Overrides::default(),
        }
    }
}

impl ServiceSettings {
    /// Where the store is.
    pub fn database_address(&self) -> String {
        match &self.database {
            Some(address) => address.clone(),
            None => self
                .data_dir
                .join("store.sqlite")
                .to_string_lossy()
                .into_owned(),
        }
    }
}
