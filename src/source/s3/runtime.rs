//! The few threads that talk to object stores, for all sources of this process.
//!
//! Sources are read synchronously, from any thread, also from one that a runtime of the caller's
//! own drives. So nothing here blocks on a future: work is handed to these threads, and the caller
//! waits for a message.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::mpsc;

use tokio::runtime::{Builder, Handle, Runtime};

use super::super::SourceError;

/// The work is waiting and a little hashing and decryption.
const THREADS: usize = 2;

/// Lives as long as the process: a runtime must not be dropped within another.
static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();

/// Where to spawn.
pub(super) fn handle() -> Result<&'static Handle, SourceError> {
    let runtime = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("mtmc-s3")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())
    });
    match runtime {
        Ok(runtime) => Ok(runtime.handle()),
        Err(error) => Err(SourceError::Unreachable {
            address: "s3://".to_string(),
            reason: format!("no threads for it: {error}"),
        }),
    }
}

/// Runs `work` on those threads and waits for it.
pub(super) fn wait<T: Send + 'static>(
    work: impl Future<Output = Result<T, SourceError>> + Send + 'static,
) -> Result<T, SourceError> {
    let (done, answer) = mpsc::sync_channel(1);
    handle()?.spawn(async move {
        // The caller waits; it cannot have gone.
        let _ = done.send(work.await);
    });
    answer.recv().unwrap_or_else(|_| Err(stopped()))
}

/// The error where a task ended without its message.
pub(super) fn stopped() -> SourceError {
    SourceError::Unreachable {
        address: "s3://".to_string(),
        reason: "the task that reads it stopped".to_string(),
    }
}
