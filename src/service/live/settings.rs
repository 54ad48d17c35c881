//! Bounds of what sockets are given and may take.

use std::time::Duration;

/// Bounds of what sockets are given and may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSettings {
    /// Most messages of a task that are kept for clients that come back. Default 4,096.
    pub history_messages: usize,
    /// Most bytes of those. Beyond, the oldest lose their pictures first; texts alone may take half.
    /// Default 128 MiB.
    pub history_bytes: usize,
    /// The same once the task has ended. Default 4 MiB.
    pub ended_history_bytes: usize,
    /// Messages that wait for a client beyond which it gets no pictures but each camera's latest.
    /// Default 32.
    pub image_backlog: usize,
    /// Messages that wait for a client beyond which of the `detection_update`s it gets only each
    /// camera's latest. Default 256.
    pub message_backlog: usize,
    /// How long one message may take to be sent; then the socket is closed. Default 10 s.
    pub send_timeout: Duration,
    /// Most sockets of one task. Default 256.
    pub max_clients_per_task: usize,
    /// Most sockets in all. Default 1,024.
    pub max_clients: usize,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self {
            history_messages: 4_096,
            history_bytes: 128 << 20,
            ended_history_bytes: 4 << 20,
            image_backlog: 32,
            message_backlog: 256,
            send_timeout: Duration::from_secs(10),
            max_clients_per_task: 256,
            max_clients: 1_024,
        }
    }
}
