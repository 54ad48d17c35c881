//! Keeping the store small: what is old or too much goes, oldest first.

use super::database::{Database, values};
use super::error::StoreError;
use super::filter::Conditions;
use super::{Inner, Store};

/// Positions deleted in one transaction, so that others get to write in between.
const CHUNK: u64 = 5_000;
/// Rounds of deleting and measuring; each aims at the whole excess.
const ROUNDS: usize = 8;

/// What may stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Positions older than this go.
    pub positions_ms: Option<i64>,
    /// Tasks that ended longer ago than this go, with all that is theirs: people, messages, tracks.
    pub tasks_ms: Option<i64>,
    /// Answers to requests that are not to be done twice older than this go.
    pub idempotency_ms: Option<i64>,
    /// Above this the positions of the tasks that ended first go, then those tasks.
    pub max_bytes: Option<u64>,
}

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Positions, but for those of tasks that went.
    pub positions: u64,
    /// Tasks.
    pub tasks: u64,
    /// People of those tasks.
    pub people: u64,
    /// Requests.
    pub idempotency: u64,
    /// Bytes in use now.
    pub bytes: u64,
}

impl Store {
    /// Bytes that the database uses, without free pages.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn bytes(&self) -> Result<u64, StoreError> {
        self.inner.health.read(bytes(&self.inner.database).await)
    }

    /// Removes what the policy lets go at the time `now_ms`. Running tasks stay, but for positions
    /// that are too old. To be called every now and then.
    ///
    /// # Errors
    /// The database cannot write; what was removed before stays removed.
    pub async fn retain(
        &self,
        policy: &RetentionPolicy,
        now_ms: i64,
    ) -> Result<Retained, StoreError> {
        let inner = &self.inner;
        let retained = inner.health.wrote(inner.retain(policy, now_ms).await)?;
        Ok(Retained {
            bytes: self.bytes().await?,
            ..retained
        })
    }
}

impl Inner {
    async fn retain(&self, policy: &RetentionPolicy, now_ms: i64) -> Result<Retained, StoreError> {
        let mut retained = Retained::default();
        if let Some(age) = policy.tasks_ms {
            let mut ended = Conditions::default();
            ended.add("ended_ms < ?", now_ms.saturating_sub(age));
            let removed = self.delete_tasks(ended).await?;
            retained.tasks += removed.tasks;
            retained.people += removed.people;
        }
        if let Some(age) = policy.positions_ms {
            let mut old = Conditions::default();
            old.add("time_ms < ?", now_ms.saturating_sub(age));
            retained.positions += self.delete_positions(&old, u64::MAX).await?;
        }
        if let Some(age) = policy.idempotency_ms {
            let doing = "remove old requests";
            let mut transaction = self.database.begin(doing).await?;
            let sql = "DELETE FROM idempotency WHERE created_ms < $1";
            let before = values![now_ms.saturating_sub(age)];
            retained.idempotency = transaction.run(doing, sql, before).await?;
            transaction.commit(doing).await?;
        }
        if let Some(most) = policy.max_bytes {
            self.shrink(most, &mut retained).await?;
        }
        if retained != Retained::default() {
            self.give_back().await?;
        }
        Ok(retained)
    }

    /// Removes positions of the tasks that ended first, then these tasks, until `most` bytes are in use
    /// or only running tasks are left.
    async fn shrink(&self, most: u64, retained: &mut Retained) -> Result<(), StoreError> {
        for _ in 0..ROUNDS {
            let excess = bytes(&self.database).await?.saturating_sub(most);
            if excess == 0 {
                return Ok(());
            }
            let removed = self.shrink_positions(excess).await?;
            retained.positions += removed;
            if removed == 0 {
                break;
            }
            if self.database.is_postgres() {
                // Only a rewritten table is smaller.
                self.database.maintain("VACUUM FULL positions").await?;
            }
        }
        while bytes(&self.database).await? > most {
            let mut oldest = Conditions::default();
            oldest.plain(
                "task_id = (SELECT task_id FROM tasks WHERE ended_ms IS NOT NULL \
                 ORDER BY ended_ms, number LIMIT 1)",
            );
            let removed = self.delete_tasks(oldest).await?;
            if removed.tasks == 0 {
                return Ok(());
            }
            retained.tasks += removed.tasks;
            retained.people += removed.people;
            self.give_back().await?;
        }
        Ok(())
    }

    /// Removes about as many positions of ended tasks as use `excess` bytes; how many.
    async fn shrink_positions(&self, excess: u64) -> Result<u64, StoreError> {
        let doing = "look for old positions";
        // What a position takes with its three indices, for the next round to correct.
        let bytes_each = 400;
        let mut left = excess.div_ceil(bytes_each);
        let mut removed = 0;
        let sql = "SELECT t.task_id FROM tasks t WHERE t.ended_ms IS NOT NULL AND EXISTS \
                   (SELECT 1 FROM positions p WHERE p.task_id = t.task_id) \
                   ORDER BY t.ended_ms, t.number";
        for row in self.database.rows(doing, sql, Vec::new()).await? {
            if left == 0 {
                break;
            }
            let mut of_task = Conditions::default();
            of_task.add("task_id = ?", row.text(0)?);
            let count = self.delete_positions(&of_task, left).await?;
            left -= count.min(left);
            removed += count;
        }
        Ok(removed)
    }

    /// Deletes at most `most` positions, oldest frames of a camera first, in chunks; how many.
    async fn delete_positions(&self, which: &Conditions, most: u64) -> Result<u64, StoreError> {
        let doing = "remove positions";
        let mut removed = 0;
        while removed < most {
            let chunk = CHUNK.min(most - removed);
            let sql = format!(
                "DELETE FROM positions WHERE (task_id, camera_id, frame, track_id) IN \
                 (SELECT task_id, camera_id, frame, track_id FROM positions{} LIMIT {chunk})",
                which.sql()
            );
            let mut transaction = self.database.begin(doing).await?;
            let count = transaction.run(doing, &sql, which.values.clone()).await?;
            transaction.commit(doing).await?;
            removed += count;
            if count < chunk {
                break;
            }
        }
        Ok(removed)
    }

    /// Gives free space back to the file system.
    async fn give_back(&self) -> Result<(), StoreError> {
        if self.database.is_postgres() {
            for sql in [
                "VACUUM positions",
                "VACUUM people",
                "VACUUM events",
                "VACUUM tracks",
            ] {
                self.database.maintain(sql).await?;
            }
            return Ok(());
        }
        self.database.maintain("PRAGMA incremental_vacuum").await?;
        // A reader may keep the log as it is: the next time will do.
        self.database.empty_log().await?;
        Ok(())
    }
}

async fn bytes(database: &Database) -> Result<u64, StoreError> {
    let sql = if database.is_postgres() {
        "SELECT SUM(pg_total_relation_size(oid))::BIGINT FROM pg_class \
         WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')"
    } else {
        "SELECT (SELECT page_count FROM pragma_page_count()) * \
         (SELECT page_size FROM pragma_page_size()) - \
         (SELECT freelist_count FROM pragma_freelist_count()) * \
         (SELECT page_size FROM pragma_page_size())"
    };
    let rows = database
        .rows("measure the database", sql, Vec::new())
        .await?;
    let bytes = rows.first().map_or(Ok(0), |row| row.int(0))?;
    Ok(bytes.unsigned_abs())
}
