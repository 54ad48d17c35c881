//! What stays of uploads, and for how long.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use tracing::{info, warn};
use uuid::Uuid;

use super::record::Failure;
use super::{Inference, Inner, MAX_ATTEMPTS, Record, lock};
use crate::service::messages::TaskStatus;

/// Most results that are kept, however small.
const MAX_KEPT: usize = 10_000;

impl Inner {
    /// Takes in what an earlier service left. Files of uploads that it had not accepted go, as do
    /// folders without a record.
    pub(super) fn load(&self) -> anyhow::Result<()> {
        let mut waiting = HashSet::new();
        let outputs = self.outputs();
        let entries = std::fs::read_dir(&outputs);
        for entry in entries.with_context(|| outputs.display().to_string())? {
            let entry = entry?;
            let Some(id) = id_of(&entry.file_name().to_string_lossy()) else {
                continue;
            };
            let Some(mut record) = Record::load(&entry.path()).filter(|record| record.id == id)
            else {
                warn!(%id, "removes results without a record");
                let _ = std::fs::remove_dir_all(entry.path());
                continue;
            };
            self.make_ready(&mut record);
            if !record.status.is_final() {
                waiting.insert(record.stored_name());
            }
            lock(&self.known).insert(id, Arc::new(Inference::new(record)));
        }
        let folder = self.folder();
        let entries = std::fs::read_dir(&folder);
        for entry in entries.with_context(|| folder.display().to_string())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let stem = name.split('.').next().unwrap_or_default();
            if id_of(stem).is_some() && !waiting.contains(&name) {
                let _ = std::fs::remove_file(folder.join(&name));
            }
        }
        Ok(())
    }

    /// An upload that was not done is to be done, unless its file is gone or it may be what ended
    /// the service.
    fn make_ready(&self, record: &mut Record) {
        if record.status.is_final() {
            return;
        }
        record.status = TaskStatus::Queued;
        let there = self.folder().join(record.stored_name()).is_file();
        if there && record.attempts < MAX_ATTEMPTS {
            return;
        }
        let cause = format!("upload {} cannot be gone on with", record.id);
        record.failure = Some(Failure::internal(&cause));
        record.status = TaskStatus::Failed;
        record.ended_at = Some(Timestamp::now());
        if let Err(error) = record.save(&self.out(record.id)) {
            warn!(%error, "cannot note that an upload failed");
        }
    }

    /// Removes results that are too old or too many.
    pub(super) fn sweep(&self) {
        let ended: Vec<Record> = lock(&self.known)
            .values()
            .map(|inference| inference.record())
            .filter(|record| record.status.is_final())
            .collect();
        let bounds = &self.settings.uploads;
        let keep_for = i64::try_from(bounds.keep_for.as_secs()).unwrap_or(i64::MAX);
        let now = Timestamp::now().as_second();
        let facts: Vec<Kept> = ended
            .iter()
            .map(|record| Kept {
                id: record.id,
                ended: record.ended_at.unwrap_or(record.created_at).as_second(),
                bytes: record.output_bytes,
            })
            .collect();
        for id in expired(facts, now.saturating_sub(keep_for), bounds.keep_bytes) {
            info!(inference_id = %id, "removes old results");
            let Some(inference) = lock(&self.known).remove(&id) else {
                continue;
            };
            self.remove_files(&inference);
        }
    }
}

/// The ID that a file's name is, in the only form in which it is written.
fn id_of(name: &str) -> Option<Uuid> {
    let id = Uuid::parse_str(name).ok()?;
    (id.to_string() == name).then_some(id)
}

/// One result.
#[derive(Debug, Clone, Copy)]
struct Kept {
    id: Uuid,
    /// Seconds since 1970.
    ended: i64,
    bytes: u64,
}

/// Which results go: those that ended before `oldest`, and the oldest beyond `most` bytes.
fn expired(mut kept: Vec<Kept>, oldest: i64, most: u64) -> Vec<Uuid> {
    kept.sort_by_key(|result| (std::cmp::Reverse(result.ended), result.id));
    let mut total = 0_u64;
    let mut gone = Vec::new();
    for (count, result) in kept.iter().enumerate() {
        total = total.saturating_add(result.bytes);
        if result.ended < oldest || total > most || count >= MAX_KEPT {
            gone.push(result.id);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let kept = |number: u128, ended, bytes| Kept {
            id: Uuid::from_u128(number),
            ended,
            bytes,
        };
        let all = vec![kept(1, 100, 10), kept(2, 300, 10), kept(3, 200, 10)];
        let ids = |numbers: &[u128]| -> Vec<Uuid> {
            numbers.iter().copied().map(Uuid::from_u128).collect()
        };
        assert!(expired(all.clone(), 0, 30).is_empty());
        assert_eq!(expired(all.clone(), 150, 30), ids(&[1]));
        assert_eq!(expired(all.clone(), 0, 29), ids(&[1]));
        assert_eq!(expired(all.clone(), 0, 15), ids(&[3, 1]));
        assert_eq!(expired(all, 1000, u64::MAX).len(), 3);
    }

    #[test]
    fn only_our_own_names_are_ours() {
        assert!(id_of("01932c07-209c-7a05-8b4b-2f3c0b6f2c11").is_some());
        for other in [
            "01932C07-209C-7A05-8B4B-2F3C0B6F2C11",
            "01932c07209c7a058b4b2f3c0b6f2c11",
            "x",
            "",
        ] {
            assert!(id_of(other).is_none(), "{other}");
        }
    }
}
