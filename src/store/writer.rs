//! Writes queued rows in batches, off the hot path, and keeps trying while the database is away.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::error::StoreError;
use super::queue::{Pushed, WriterCounts};
use super::records::Record;
use super::upsert::Batch;

/// First pause after a failed write; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a writer without work looks whether there is something to repair.
const IDLE: Duration = Duration::from_secs(1);
/// A write that takes longer has failed; rows can be written twice, so trying again is harmless.
const LONGEST_WRITE: Duration = Duration::from_secs(60);

/// A handle to queue rows; cheap to clone, for any thread.
#[derive(Clone)]
pub struct Writer {
    pub(super) inner: Arc<Inner>,
}

impl Writer {
    /// Queues rows. If the queue is full it waits for room for at most
    /// [`patience`](super::StoreSettings::patience), then drops and counts what finds none: positions
    /// first, since for other rows a quarter of the queue's size is kept free.
    pub async fn push(&self, records: Vec<Record>) -> Pushed {
        self.inner.queue.push(records).await
    }

    /// [`push`](Self::push) for a thread outside the asynchronous runtime.
    pub fn push_blocking(&self, records: Vec<Record>) -> Pushed {
        self.inner.queue.push_blocking(records)
    }

    /// Returns once everything that was queued before is durable, but for rows that the database
    /// refused ([`WriterCounts::rejected`]).
    ///
    /// # Errors
    /// Not durable within [`flush_patience`](super::StoreSettings::flush_patience): the rows stay
    /// queued and are written as soon as the database can.
    pub async fn flush(&self) -> Result<WriterCounts, StoreError> {
        let waited = self.inner.settings.flush_patience;
        let flushed = self.inner.queue.flush(waited).await;
        flushed.map_err(|rows| StoreError::NotDurable { rows, waited })?;
        Ok(self.counts())
    }

    /// What became of all rows so far.
    pub fn counts(&self) -> WriterCounts {
        self.inner.queue.counts()
    }
}

/// Writes until the queue is closed and empty. A closed queue that cannot be written is given up after
/// `flush_patience`.
pub(super) async fn run(inner: Arc<Inner>) {
    let settings = &inner.settings;
    while let Some(rows) = inner
        .queue
        .take(settings.batch_rows, settings.batch_every, IDLE)
        .await
    {
        if rows.is_empty() {
            repair(&inner).await;
            continue;
        }
        let (rejected, erased) = write_until_done(&inner, &rows).await;
        inner.queue.settle(rows.len(), rejected, erased);
    }
}

/// Without rows to write: task states that wait, and whether a degraded store works again.
async fn repair(inner: &Inner) {
    if inner.has_late_tasks() {
        // An error is noted in the health; the next round tries again.
        let _ = inner.write_late_tasks().await;
    } else if inner.health.is_degraded() {
        let _ = inner.health.wrote(inner.probe().await);
    }
}

/// Writes rows, however long the database is away; how many it refused, and how many were left out.
async fn write_until_done(inner: &Inner, rows: &[Record]) -> (u64, u64) {
    let mut rejected = 0;
    let mut erased = 0;
    let mut pause = FIRST_PAUSE;
    // Ranges that are still to be written, the next one last.
    let all = 0..rows.len();
    let mut ranges = vec![all];
    while let Some(range) = ranges.pop() {
        let written = inner.health.wrote(write(inner, &rows[range.clone()]).await);
        match written {
            Ok(left_out) => {
                erased += left_out;
                pause = FIRST_PAUSE;
                if inner.has_late_tasks() {
                    let _ = inner.write_late_tasks().await;
                }
            }
            Err(StoreError::Unavailable { .. }) => {
                ranges.push(range);
                inner.database.make_room().await;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            // One row among them is refused: the others are not to suffer.
            Err(_) if range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                ranges.push(middle..range.end);
                ranges.push(range.start..middle);
            }
            Err(error) => {
                tracing::error!(%error, row = ?kind(&rows[range.start]), "row refused");
                rejected += 1;
            }
        }
    }
    (rejected, erased)
}

/// Writes rows in one transaction; how many were left out.
async fn write(inner: &Inner, rows: &[Record]) -> Result<u64, StoreError> {
    let doing = "write rows";
    let work = async {
        let mut transaction = inner.database.begin(doing).await?;
        // Looked up now that nobody else writes: an erasure is either known or comes after.
        let erased = inner.erased();
        let batch = Batch::new(rows, &erased);
        batch.write(&mut transaction, inner.time_in_key).await?;
        transaction.commit(doing).await?;
        Ok(batch.erased)
    };
    inner.in_time(doing, LONGEST_WRITE, work).await
}

/// What a row is, without what it holds.
fn kind(record: &Record) -> &'static str {
    match record {
        Record::Progress(_) => "progress",
        Record::Track(_) => "track",
        Record::Position(_) => "position",
        Record::Person(_) => "person",
        Record::Handoff(_) => "handoff",
        Record::Event(_) => "event",
    }
}
