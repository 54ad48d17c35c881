//! Keys of the interface, and requests that are not to be done twice.

use super::Store;
use super::database::{Row, Transaction, values};
use super::error::StoreError;
use super::records::{ApiKeyRecord, IdempotencyRecord};

impl Store {
    /// Stores a new key.
    ///
    /// # Errors
    /// The database cannot write, or knows a key of that ID.
    pub async fn add_api_key(&self, key: &ApiKeyRecord) -> Result<(), StoreError> {
        let sql = "INSERT INTO api_keys (id, name, role, hash, created_ms, revoked_ms) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let values = values![
            key.id.as_str(),
            key.name.as_str(),
            key.role.as_str(),
            key.hash.as_str(),
            key.created_ms,
            key.revoked_ms,
        ];
        self.write_once("store a key", sql, values).await?;
        Ok(())
    }

    /// All keys, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn api_keys(&self) -> Result<Vec<ApiKeyRecord>, StoreError> {
        let sql = "SELECT id, name, role, hash, created_ms, revoked_ms FROM api_keys \
                   ORDER BY created_ms, id";
        let rows = self.rows("read keys", sql, Vec::new()).await?;
        rows.iter().map(key_from).collect()
    }

    /// One key.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn api_key(&self, id: &str) -> Result<Option<ApiKeyRecord>, StoreError> {
        let sql = "SELECT id, name, role, hash, created_ms, revoked_ms FROM api_keys \
                   WHERE id = $1";
        let rows = self.rows("read a key", sql, values![id]).await?;
        rows.first().map(key_from).transpose()
    }

    /// Revokes a key; whether there was one that was not revoked.
    ///
    /// # Errors
    /// The database cannot write.
    pub async fn revoke_api_key(&self, id: &str, now_ms: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE api_keys SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL";
        let done = self
            .write_once("revoke a key", sql, values![id, now_ms])
            .await?;
        Ok(done > 0)
    }

    /// What was answered to a request with this key.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn idempotent(
        &self,
        scope: &str,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let rows = self
            .rows("read a request", ONCE, values![scope, key])
            .await?;
        rows.first().map(once_from).transpose()
    }

    /// Notes what was answered to a request; if its key was used before, nothing is noted, and what
    /// was answered then is given. For a new task use [`create_task`](Self::create_task).
    ///
    /// # Errors
    /// The database cannot write.
    pub async fn put_idempotent(
        &self,
        record: &IdempotencyRecord,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let doing = "note a request";
        let work = async {
            let mut transaction = self.inner.database.begin(doing).await?;
            let before = put_once(&mut transaction, record).await?;
            transaction.commit(doing).await?;
            Ok(before)
        };
        self.inner.health.wrote(work.await)
    }

    /// Runs one statement in a transaction of its own.
    async fn write_once(
        &self,
        doing: &'static str,
        sql: &str,
        values: Vec<super::database::Value>,
    ) -> Result<u64, StoreError> {
        let work = async {
            let mut transaction = self.inner.database.begin(doing).await?;
            let done = transaction.run(doing, sql, values).await?;
            transaction.commit(doing).await?;
            Ok(done)
        };
        self.inner.health.wrote(work.await)
    }
}

const ONCE: &str = "SELECT scope, key, request_hash, status, response, created_ms \
                    FROM idempotency WHERE scope = $1 AND key = $2";

/// Notes a request, or gives what was noted for its key before.
pub(super) async fn put_once(
    transaction: &mut Transaction,
    record: &IdempotencyRecord,
) -> Result<Option<IdempotencyRecord>, StoreError> {
    let doing = "note a request";
    let sql = "INSERT INTO idempotency (scope, key, request_hash, status, response, created_ms) \
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (scope, key) DO NOTHING";
    let values = values![
        record.scope.as_str(),
        record.key.as_str(),
        record.request_hash.as_str(),
        i64::from(record.status),
        record.response.as_str(),
        record.created_ms,
    ];
    if transaction.run(doing, sql, values).await? > 0 {
        return Ok(None);
    }
    let values = values![record.scope.as_str(), record.key.as_str()];
    let rows = transaction.rows(doing, ONCE, values).await?;
    rows.first().map(once_from).transpose()
}

fn key_from(row: &Row) -> Result<ApiKeyRecord, StoreError> {
    Ok(ApiKeyRecord {
        id: row.text(0)?,
        name: row.text(1)?,
        role: row.text(2)?,
        hash: row.text(3)?,
        created_ms: row.int(4)?,
        revoked_ms: row.maybe_int(5)?,
    })
}

fn once_from(row: &Row) -> Result<IdempotencyRecord, StoreError> {
    let status = row.int(3)?;
    let status = u16::try_from(status);
    Ok(IdempotencyRecord {
        scope: row.text(0)?,
        key: row.text(1)?,
        request_hash: row.text(2)?,
        status: status.map_err(|_| StoreError::Data("no HTTP status".to_string()))?,
        response: row.text(4)?,
        created_ms: row.int(5)?,
    })
}
