//! The few threads that talk to object stores, for all sources of this process.
//!
//! Sources are read synchronously, from any thread, also from one that a runtime of the caller's
//! own drives. So nothing here blocks on a future: work is handed to these threads, and the caller
//! waits for a message.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;

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

/// Work on those threads whose outcome is not there yet.
pub(super) struct Started<T> {
    task: AbortHandle,
    answer: Receiver<Result<T, SourceError>>,
}

impl<T> Started<T> {
    /// What stops the work.
    pub(super) fn task(&self) -> AbortHandle {
        self.task.clone()
    }

    /// Waits for the outcome; an error where the work was stopped.
    pub(super) fn wait(self) -> Result<T, SourceError> {
        self.answer.recv().unwrap_or_else(|_| Err(stopped()))
    }
}

/// Starts `work` on those threads.
pub(super) fn start<T: Send + 'static>(
    work: impl Future<Output = Result<T, SourceError>> + Send + 'static,
) -> Result<Started<T>, SourceError> {
    let (done, answer) = mpsc::sync_channel(1);
    let task = handle()?.spawn(async move {
        // Nobody waits any more only if the caller gave up.
        let _ = done.send(work.await);
    });
    Ok(Started {
        task: task.abort_handle(),
        answer,
    })
}

/// Runs `work` on those threads and waits for it.
pub(super) fn wait<T: Send + 'static>(
    work: impl Future<Output = Result<T, SourceError>> + Send + 'static,
) -> Result<T, SourceError> {
    start(work)?.wait()
}

/// The error where a task ended without its message.
pub(super) fn stopped() -> SourceError {
    SourceError::Unreachable {
        address: "s3://".to_string(),
        reason: "the task that reads it stopped".to_string(),
    }
}
