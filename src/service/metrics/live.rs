//! Messages to sockets.

use std::sync::atomic::{AtomicU64, Ordering};

use super::family::{Families, Value};

/// What was sent to clients, and what was not.
#[derive(Debug, Default)]
pub struct LiveCounts {
    sent: AtomicU64,
    dropped_images: AtomicU64,
    dropped_messages: AtomicU64,
}

impl LiveCounts {
    /// Notes that a message went out.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes what a client missed because it was too slow.
    pub fn lost(&self, images: u64, messages: u64) {
        self.dropped_images.fetch_add(images, Ordering::Relaxed);
        self.dropped_messages.fetch_add(messages, Ordering::Relaxed);
    }

    /// Adds the numbers; `clients` listen now.
    pub fn collect(&self, clients: usize, families: &mut Families) {
        let help = "Sockets that are open";
        families.one("mtmc_websocket_clients", help, Value::Gauge(clients as f64));
        let help = "Messages sent to sockets";
        let sent = self.sent.load(Ordering::Relaxed) as f64;
        families.one("mtmc_websocket_messages_sent", help, Value::Counter(sent));
        let dropped = [
            ("image", &self.dropped_images),
            ("message", &self.dropped_messages),
        ];
        let samples = dropped.map(|(kind, count)| {
            let count = count.load(Ordering::Relaxed) as f64;
            (vec![("kind", kind.to_string())], Value::Counter(count))
        });
        let help = "Pictures and messages that clients missed because they were too slow";
        families.many("mtmc_websocket_dropped", help, samples);
    }
}
