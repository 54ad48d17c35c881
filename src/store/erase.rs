//! Erasing people and environments, down to the bytes of the files.

use std::time::Duration;

use super::database::{Transaction, Value, values};
use super::error::StoreError;
use super::filter::Conditions;
use super::{Inner, Store};

/// How long readers may keep the log from being cut.
const READERS_END: Duration = Duration::from_secs(30);
/// Pause between two tries to cut it.
const PAUSE: Duration = Duration::from_millis(100);

/// What was erased with a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// Identities, all of the same person.
    pub global_ids: Vec<i64>,
    /// Rows of people, each with vector and picture.
    pub people: u64,
    /// Positions.
    pub positions: u64,
    /// Tracks that do not say any more whose they were.
    pub tracks: u64,
    /// Handoffs.
    pub handoffs: u64,
    /// Messages that named the person.
    pub events: u64,
}

/// What was removed with an environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Tasks.
    pub tasks: u64,
    /// Tracks.
    pub tracks: u64,
    /// Positions.
    pub positions: u64,
    /// People.
    pub people: u64,
    /// Handoffs.
    pub handoffs: u64,
    /// Messages.
    pub events: u64,
}

impl Store {
    /// Erases a person under all of its identities: vectors, pictures, positions, whose the tracks
    /// were, handoffs and messages. Rows that name the person and come later are not written. Then the
    /// files are rewritten, so that no byte of it is left in them; that takes time in proportion to the
    /// database's size, and writes wait meanwhile. `None` if the person is not known.
    ///
    /// On PostgreSQL the tables are rewritten; the server's own log and backups are not this program's.
    ///
    /// # Errors
    /// The database cannot write; if only the rewriting failed, a second call does it.
    pub async fn erase_person(&self, global_id: i64) -> Result<Option<Erased>, StoreError> {
        let ids = self.identities(global_id).await?;
        let inner = &self.inner;
        let erased = inner.health.wrote(inner.delete_people(ids).await)?;
        if erased.people == 0 && erased.positions == 0 && erased.tracks == 0 {
            // Nothing, or a second call after the first could not rewrite the files.
            if !inner.erased().contains(&global_id) {
                return Ok(None);
            }
        }
        inner.scrub().await?;
        Ok(Some(erased))
    }

    /// Removes all tasks of an environment and everything that is theirs, then rewrites the files as
    /// [`erase_person`](Self::erase_person) does. Its tasks should have ended: what still comes from
    /// them is refused.
    ///
    /// # Errors
    /// The database cannot write.
    pub async fn erase_environment(&self, environment_id: &str) -> Result<Removed, StoreError> {
        let inner = &self.inner;
        inner.forget_late_tasks(|task| task.environment_id == environment_id);
        let mut conditions = Conditions::default();
        conditions.add("environment_id = ?", environment_id);
        let removed = inner.health.wrote(inner.delete_tasks(conditions).await)?;
        if removed.tasks > 0 {
            inner.scrub().await?;
        }
        Ok(removed)
    }
}

impl Inner {
    async fn delete_people(&self, ids: Vec<i64>) -> Result<Erased, StoreError> {
        let doing = "erase a person";
        let mut transaction = self.database.begin(doing).await?;
        let mut erased = Erased::default();
        for id in &ids {
            let sql = "DELETE FROM events WHERE EXISTS (SELECT 1 FROM event_people p \
                       WHERE p.global_id = $1 AND p.task_id = events.task_id \
                       AND p.seq = events.seq)";
            erased.events += transaction.run(doing, sql, values![*id]).await?;
            let sql = "DELETE FROM handoffs WHERE global_id = $1";
            erased.handoffs += transaction.run(doing, sql, values![*id]).await?;
            let sql = "DELETE FROM positions WHERE global_id = $1";
            erased.positions += transaction.run(doing, sql, values![*id]).await?;
            let sql = "UPDATE tracks SET global_id = NULL WHERE global_id = $1";
            erased.tracks += transaction.run(doing, sql, values![*id]).await?;
            let sql = "DELETE FROM people WHERE global_id = $1";
            erased.people += transaction.run(doing, sql, values![*id]).await?;
        }
        if erased == Erased::default() {
            return Ok(erased);
        }
        for id in &ids {
            let sql = "INSERT INTO erased (global_id, erased_ms) VALUES ($1, $2) \
                       ON CONFLICT (global_id) DO NOTHING";
            transaction
                .run(doing, sql, values![*id, super::now_ms()])
                .await?;
        }
        // Known before the commit lets anybody else write.
        self.set_erased(&ids, true);
        if let Err(error) = transaction.commit(doing).await {
            self.set_erased(&ids, false);
            return Err(error);
        }
        erased.global_ids = ids;
        Ok(erased)
    }

    /// Deletes tasks and everything that is theirs.
    pub(super) async fn delete_tasks(&self, which: Conditions) -> Result<Removed, StoreError> {
        let doing = "remove tasks";
        let mut transaction = self.database.begin(doing).await?;
        let tasks = format!("SELECT task_id FROM tasks{}", which.sql());
        let values = &which.values;
        // Foreign keys would delete these too, without saying how many.
        let removed = Removed {
            positions: delete(&mut transaction, "positions", &tasks, values).await?,
            events: delete(&mut transaction, "events", &tasks, values).await?,
            handoffs: delete(&mut transaction, "handoffs", &tasks, values).await?,
            people: delete(&mut transaction, "people", &tasks, values).await?,
            tracks: delete(&mut transaction, "tracks", &tasks, values).await?,
            tasks: delete(&mut transaction, "tasks", &tasks, values).await?,
        };
        transaction.commit(doing).await?;
        Ok(removed)
    }

    /// Rewrites the files, so that nothing of what was deleted is left in them.
    ///
    /// SQLite overwrites deleted cells with zeros (`secure_delete`), but moving cells between pages
    /// leaves copies in the pages' free space: only `VACUUM` writes every page anew. It goes through
    /// the log, which is then written back and cut.
    async fn scrub(&self) -> Result<(), StoreError> {
        if self.database.is_postgres() {
            for sql in [
                "VACUUM FULL people",
                "VACUUM FULL events",
                "VACUUM FULL event_people",
                "VACUUM FULL handoffs",
                "VACUUM FULL positions",
                "VACUUM FULL tracks",
            ] {
                self.database.maintain(sql).await?;
            }
            return Ok(());
        }
        self.health.wrote(self.database.maintain("VACUUM").await)?;
        self.cut_log().await
    }

    /// Cuts SQLite's log to nothing, once no reader needs it.
    pub(super) async fn cut_log(&self) -> Result<(), StoreError> {
        let mut waited = Duration::ZERO;
        while !self.database.empty_log().await? {
            if waited >= READERS_END {
                return Err(StoreError::Unavailable {
                    doing: "cut the log",
                    reason: "a reader does not end".to_string(),
                });
            }
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
        Ok(())
    }
}

/// Deletes the rows of tasks from a table.
async fn delete(
    transaction: &mut Transaction,
    table: &str,
    tasks: &str,
    values: &[Value],
) -> Result<u64, StoreError> {
    let sql = format!("DELETE FROM {table} WHERE task_id IN ({tasks})");
    transaction.run("remove tasks", &sql, values.to_vec()).await
}
