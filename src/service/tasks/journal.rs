//! What becomes of tasks, written to the store by the threads that run them.

use tokio::runtime::Handle;
use tracing::{error, warn};

use super::{Task, TaskDetails, record};
use crate::store::{ProgressRecord, Record, Store, Writer, Written};

/// Writes what becomes of tasks. Its methods may block: they are not for the runtime's own threads.
pub struct Journal {
    store: Store,
    writer: Writer,
    runtime: Handle,
}

impl Journal {
    /// For a store that works on this runtime.
    pub fn new(store: Store, runtime: Handle) -> Self {
        let writer = store.writer();
        Self {
            store,
            writer,
            runtime,
        }
    }

    /// Where results go.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Waits, within bounds, until everything that was queued is durable.
    pub fn flush(&self) {
        if let Err(error) = self.runtime.block_on(self.writer.flush()) {
            warn!(%error, "results wait to be stored: those of a crash now would be missing");
        }
    }

    /// Stores a task as it is now, behind all results that were written before.
    pub fn put(&self, task: &Task) {
        self.put_as(task, task.details());
    }

    /// Stores a task as `details` tell it, behind all results that were written before.
    pub fn put_as(&self, task: &Task, details: TaskDetails) {
        let record = record::record_as(task, details);
        let written = self.runtime.block_on(async {
            if let Err(error) = self.writer.flush().await {
                warn!(task_id = %task.id, %error, "results wait to be stored");
            }
            self.store.update_task(&record).await
        });
        match written {
            Ok(Written::Durable) => {}
            Ok(Written::Late(error)) => {
                warn!(task_id = %task.id, %error, "the task's state waits to be stored");
            }
            Err(error) => error!(task_id = %task.id, %error, "the task's state is not stored"),
        }
    }

    /// Stores how far a task is, some time soon.
    pub fn progress(&self, task: &Task) {
        let details = task.details();
        let progress = ProgressRecord {
            task_id: task.id,
            progress: details.progress,
            current_step: details.current_step,
            cameras: record::text(&details.camera_processing),
            next_seq: task.reserved_seq(),
        };
        // One that finds no room is as good as the next.
        self.writer.push_blocking(vec![Record::Progress(progress)]);
    }
}
