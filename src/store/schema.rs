//! The schema's steps: numbered files, applied in order, each in a transaction.

use sha2::{Digest as _, Sha256};

use super::database::{Database, Transaction, values};
use super::error::StoreError;

/// A step of the schema.
struct Step {
    version: i64,
    sql: &'static str,
}

/// All steps, oldest first. A step that was published is never changed: a new one follows.
const STEPS: [Step; 1] = [Step {
    version: 1,
    sql: include_str!("migrations/0001_first.sql"),
}];

/// Key of the lock that keeps two programs from changing a PostgreSQL schema at once.
const LOCK: i64 = 0x6d74_6d63;

/// Brings the schema to the newest version.
///
/// # Errors
/// The database is newer than the program, holds steps of another one, or cannot be changed.
pub(super) async fn migrate(database: &Database, now_ms: i64) -> Result<(), StoreError> {
    let doing = "check the schema";
    let mut transaction = database.begin(doing).await?;
    if database.is_postgres() {
        let lock = "SELECT pg_advisory_xact_lock($1)";
        transaction.run(doing, lock, values![LOCK]).await?;
    }
    let table = "CREATE TABLE IF NOT EXISTS schema_steps (version BIGINT PRIMARY KEY, \
                 checksum TEXT NOT NULL, applied_ms BIGINT NOT NULL)";
    transaction.run(doing, table, Vec::new()).await?;
    let applied = applied(&mut transaction).await?;
    for step in &STEPS {
        if !applied.contains(&step.version) {
            apply(&mut transaction, step, database.is_postgres(), now_ms).await?;
        }
    }
    transaction.commit(doing).await?;
    if database.is_postgres() && applied.is_empty() {
        make_hypertable(database).await?;
    }
    Ok(())
}

/// Versions that the database has.
async fn applied(transaction: &mut Transaction) -> Result<Vec<i64>, StoreError> {
    let known = STEPS[STEPS.len() - 1].version;
    let sql = "SELECT version, checksum FROM schema_steps ORDER BY version DESC";
    let mut versions = Vec::new();
    for row in transaction
        .rows("check the schema", sql, Vec::new())
        .await?
    {
        let version = row.int(0)?;
        let Some(step) = STEPS.iter().find(|step| step.version == version) else {
            return Err(StoreError::Newer {
                found: version,
                known,
            });
        };
        if row.text(1)? != checksum(step) {
            return Err(StoreError::Foreign { version });
        }
        versions.push(version);
    }
    Ok(versions)
}

async fn apply(
    transaction: &mut Transaction,
    step: &Step,
    postgres: bool,
    now_ms: i64,
) -> Result<(), StoreError> {
    let sql = if postgres {
        step.sql.replace(" BLOB", " BYTEA")
    } else {
        step.sql.to_string()
    };
    transaction.script(sql).await?;
    let note = "INSERT INTO schema_steps (version, checksum, applied_ms) VALUES ($1, $2, $3)";
    let values = values![step.version, checksum(step), now_ms];
    transaction.run("change the schema", note, values).await?;
    Ok(())
}

fn checksum(step: &Step) -> String {
    let digest = Sha256::digest(step.sql.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes `positions` a TimescaleDB hypertable of one-day chunks where that extension can be had.
///
/// Its partition column must be part of the key there. Without the extension, or without the right to
/// create it, the table stays as it is.
async fn make_hypertable(database: &Database) -> Result<(), StoreError> {
    let available = "SELECT COUNT(*) FROM pg_available_extensions WHERE name = 'timescaledb'";
    let rows = database
        .rows("look for TimescaleDB", available, Vec::new())
        .await?;
    if rows.first().map_or(Ok(0), |row| row.int(0))? == 0 {
        return Ok(());
    }
    let sql = "BEGIN;
        CREATE EXTENSION IF NOT EXISTS timescaledb;
        ALTER TABLE positions DROP CONSTRAINT positions_pkey;
        ALTER TABLE positions ADD PRIMARY KEY (task_id, camera_id, frame, track_id, time_ms);
        SELECT create_hypertable('positions', 'time_ms', chunk_time_interval => 86400000);
        COMMIT;";
    if let Err(error) = database.maintain(sql).await {
        database.maintain("ROLLBACK").await?;
        tracing::warn!(%error, "positions stay a plain table");
    }
    Ok(())
}

/// Whether a position's time is part of its key, as in a hypertable.
pub(super) async fn time_in_key(database: &Database) -> Result<bool, StoreError> {
    if !database.is_postgres() {
        return Ok(false);
    }
    let sql = "SELECT COUNT(*) FROM pg_index i JOIN pg_attribute a \
               ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
               WHERE i.indrelid = 'positions'::regclass AND i.indisprimary \
               AND a.attname = 'time_ms'";
    let rows = database.rows("check the schema", sql, Vec::new()).await?;
    Ok(rows.first().map_or(Ok(0), |row| row.int(0))? > 0)
}
