//! One task's messages, in order and without gaps.

use uuid::Uuid;

use crate::service::messages::StatusUpdate;

/// One task's messages. Whoever publishes never waits.
#[derive(Debug)]
pub struct Hub {
    task_id: Uuid,
}

impl Hub {
    /// Of a task that has said nothing yet.
    pub fn new(task_id: Uuid) -> Self {
        Self { task_id }
    }

    /// Tells how the task does.
    pub fn status(&self, update: &StatusUpdate) {
        tracing::debug!(task_id = %self.task_id, status = ?update.status, "status");
    }

    /// The task has ended: nothing more comes.
    pub fn close(&self) {}
}
