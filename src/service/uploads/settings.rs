//! What is taken from strangers, how much of it at once, and how long it is kept.

use std::time::Duration;

/// Bounds of uploads and their results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadSettings {
    /// Largest file in bytes. Default 2 GiB.
    pub max_bytes: u64,
    /// Most frames of a video. Default 200,000.
    pub max_frames: u64,
    /// Longest video. Default 2 h.
    pub max_duration: Duration,
    /// Longest time that the work on one video may take. Default 1 h.
    pub max_work: Duration,
    /// Longest time without a byte of an upload that has begun. Default 30 s.
    pub idle: Duration,
    /// Most videos that are worked on at once. Default 2.
    pub max_running: usize,
    /// Most that are received or wait beside those; beyond, an upload is refused. Default 8.
    pub max_waiting: usize,
    /// Free bytes of the disk that uploads leave to others. Default 512 MiB.
    pub min_free: u64,
    /// How long results are kept. Default 7 days.
    pub keep_for: Duration,
    /// Most bytes of results that are kept; the oldest go first. Default 20 GiB.
    pub keep_bytes: u64,
}

impl Default for UploadSettings {
    fn default() -> Self {
        Self {
            max_bytes: 2 << 30,
            max_frames: 200_000,
            max_duration: Duration::from_secs(2 * 3600),
            max_work: Duration::from_secs(3600),
            idle: Duration::from_secs(30),
            max_running: 2,
            max_waiting: 8,
            min_free: 512 << 20,
            keep_for: Duration::from_secs(7 * 24 * 3600),
            keep_bytes: 20 << 30,
        }
    }
}
