//! SQLite or PostgreSQL behind one small face: the same SQL, `$1` placeholders, four types of values.
//!
//! sqlx's own `Any` is not used: it binds a missing `BIGINT` as a 32-bit one, which PostgreSQL then
//! expects for every later use of the statement.
//!
//! Reads have a pool of connections. All writes go through one connection, so that they follow each
//! other and whoever holds it knows that nobody else writes.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteArguments, SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Arguments as _, AssertSqlSafe, Postgres, Row as _, Sqlite};
use uuid::Uuid;

use super::error::StoreError;

/// Connections for reading.
const READERS: u32 = 4;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait for another process that writes to the same SQLite file.
const BUSY: Duration = Duration::from_secs(5);
/// The write-ahead log is cut to this when it has been written back.
const LOG_LIMIT: &str = "67108864";

/// A value of a statement.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Int(Option<i64>),
    Real(Option<f64>),
    Text(Option<String>),
    Blob(Option<Vec<u8>>),
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(Some(value.into()))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Self::$variant(value.map(Into::into))
            }
        }
    )*};
}
value_from!(i64 => Int, f64 => Real, String => Text, &str => Text, Vec<u8> => Blob);

impl From<Uuid> for Value {
    fn from(value: Uuid) -> Self {
        Self::Text(Some(value.to_string()))
    }
}

/// Values of a statement, in order.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::database::Value::from($value)),*] };
}
pub(super) use values;

/// A row of a result; columns by their index.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! column {
    ($name:ident, $type:ty) => {
        pub(super) fn $name(&self, index: usize) -> Result<$type, StoreError> {
            let value = match self {
                Self::Sqlite(row) => row.try_get(index),
                Self::Postgres(row) => row.try_get(index),
            };
            value.map_err(|error| StoreError::new("read a column", &error))
        }
    };
}

impl Row {
    column!(int, i64);
    column!(maybe_int, Option<i64>);
    column!(real, f64);
    column!(maybe_real, Option<f64>);
    column!(text, String);
    column!(maybe_text, Option<String>);
    column!(maybe_blob, Option<Vec<u8>>);

    pub(super) fn uuid(&self, index: usize) -> Result<Uuid, StoreError> {
        let text = self.text(index)?;
        Uuid::parse_str(&text).map_err(|_| StoreError::Data(format!("{text:?} is no UUID")))
    }
}

/// Fills the arguments of one of the two databases.
macro_rules! arguments {
    ($type:ty, $values:expr) => {{
        let mut arguments = <$type>::default();
        for value in $values {
            match value {
                Value::Int(value) => arguments.add(value),
                Value::Real(value) => arguments.add(value),
                Value::Text(value) => arguments.add(value),
                Value::Blob(value) => arguments.add(value),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        arguments
    }};
}

/// Runs a statement, gives how many rows it changed.
macro_rules! run {
    ($arguments:ty, $sql:expr, $values:expr, $executor:expr) => {{
        let arguments = arguments!($arguments, $values);
        let query = sqlx::query_with(AssertSqlSafe($sql.to_string()), arguments);
        query.execute($executor).await?.rows_affected()
    }};
}

/// Runs a query, gives each row to `each` as it comes.
macro_rules! each_row {
    ($arguments:ty, $kind:ident, $sql:expr, $values:expr, $executor:expr, $each:expr) => {{
        let arguments = arguments!($arguments, $values);
        let query = sqlx::query_with(AssertSqlSafe($sql.to_string()), arguments);
        let mut rows = query.fetch($executor);
        while let Some(row) = rows.try_next().await? {
            if let Err(error) = $each(Row::$kind(row)) {
                return Ok(Err(error));
            }
        }
    }};
}

/// Connections to the database.
pub(super) enum Database {
    Sqlite {
        reads: SqlitePool,
        writes: SqlitePool,
        file: DatabaseFile,
    },
    Postgres {
        reads: PgPool,
        writes: PgPool,
    },
}

impl Database {
    /// Connects to `postgres://…` or to the SQLite file of `sqlite:PATH` or plain `PATH`, which is
    /// made if it is not there.
    pub(super) async fn connect(address: &str) -> Result<Self, StoreError> {
        if address.starts_with("postgres:") || address.starts_with("postgresql:") {
            return Self::connect_postgres(address).await;
        }
        let path = address.strip_prefix("sqlite:").unwrap_or(address);
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains("://") {
            let text = "give the path of a SQLite file or postgres://…";
            return Err(StoreError::Address(text.to_string()));
        }
        Self::connect_sqlite(Path::new(path)).await
    }

    async fn connect_sqlite(path: &Path) -> Result<Self, StoreError> {
        let common = SqliteConnectOptions::new()
            .filename(path)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let writing = common
            .clone()
            .create_if_missing(true)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is on the disk when it returns: what was acknowledged survives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .pragma("secure_delete", "ON")
            .pragma("journal_size_limit", LOG_LIMIT);
        let open = |error: sqlx::Error| StoreError::new("open the database", &error);
        let writes = SqlitePoolOptions::new().max_connections(1);
        let writes = writes.acquire_timeout(CONNECT).idle_timeout(None);
        let writes = writes.max_lifetime(None);
        let writes = writes.connect_with(writing).await.map_err(open)?;
        // Readers stay: the last connection that ends removes the log, and on a full disk it could not
        // be made again.
        let reads = SqlitePoolOptions::new().max_connections(READERS);
        let reads = reads.min_connections(1).acquire_timeout(CONNECT);
        let reads = reads.idle_timeout(None).max_lifetime(None);
        let reads = reads.connect_with(common).await.map_err(open)?;
        let file = DatabaseFile::new(path)?;
        Ok(Self::Sqlite {
            reads,
            writes,
            file,
        })
    }

    async fn connect_postgres(address: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(address)
            .map_err(|_| StoreError::Address("not a valid PostgreSQL URL".to_string()))?
            .application_name("mtmc");
        let writes = PgPoolOptions::new().max_connections(1);
        let writes = writes.acquire_timeout(CONNECT);
        let writes = writes.connect_with(options.clone()).await;
        let writes = writes.map_err(|error| StoreError::new("open the database", &error))?;
        let reads = PgPoolOptions::new().max_connections(READERS);
        let reads = reads.acquire_timeout(CONNECT).connect_lazy_with(options);
        Ok(Self::Postgres { reads, writes })
    }

    /// Whether it is PostgreSQL.
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres { .. })
    }

    /// Begins to write: nobody else writes until the transaction is committed or dropped.
    pub(super) async fn begin(&self, doing: &'static str) -> Result<Transaction, StoreError> {
        let begun = match self {
            Self::Sqlite { writes, file, .. } => {
                file.check(doing)?;
                SqliteTransaction::begin(writes)
                    .await
                    .map(Transaction::Sqlite)
            }
            Self::Postgres { writes, .. } => writes.begin().await.map(Transaction::Postgres),
        };
        begun.map_err(|error| StoreError::new(doing, &error))
    }

    /// All rows of a query.
    pub(super) async fn rows(
        &self,
        doing: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        let keep = |row| {
            rows.push(row);
            Ok(())
        };
        self.each(doing, sql, values, keep).await?;
        Ok(rows)
    }

    /// Gives each row of a query to `each` as it comes; its error ends the query.
    pub(super) async fn each(
        &self,
        doing: &'static str,
        sql: &str,
        values: Vec<Value>,
        each: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let done = self.each_raw(sql, values, each).await;
        done.map_err(|error| StoreError::new(doing, &error))?
    }

    async fn each_raw(
        &self,
        sql: &str,
        values: Vec<Value>,
        mut each: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<Result<(), StoreError>, sqlx::Error> {
        match self {
            Self::Sqlite { reads, .. } => {
                each_row!(SqliteArguments, Sqlite, sql, values, reads, each);
            }
            Self::Postgres { reads, .. } => {
                each_row!(PgArguments, Postgres, sql, values, reads, each);
            }
        }
        Ok(Ok(()))
    }

    /// Runs statements that cannot be in a transaction, on the connection that writes.
    pub(super) async fn maintain(&self, sql: &'static str) -> Result<(), StoreError> {
        let done = match self {
            Self::Sqlite { writes, .. } => sqlx::raw_sql(sql).execute(writes).await.map(|_| ()),
            Self::Postgres { writes, .. } => sqlx::raw_sql(sql).execute(writes).await.map(|_| ()),
        };
        done.map_err(|error| StoreError::new("maintain the database", &error))
    }

    /// Writes SQLite's log back into the database file and cuts it to nothing; whether that worked,
    /// which takes that nobody reads an older state. True on PostgreSQL.
    pub(super) async fn empty_log(&self) -> Result<bool, StoreError> {
        let Self::Sqlite { writes, .. } = self else {
            return Ok(true);
        };
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)");
        let row = row.fetch_one(writes).await;
        let row = row.map_err(|error| StoreError::new("write the log back", &error))?;
        Ok(Row::Sqlite(row).int(0)? == 0)
    }

    /// Writes as much of SQLite's log back as readers allow, so that the log's space can be used again:
    /// on a full disk that may be all there is. What cannot be done now is left.
    pub(super) async fn make_room(&self) {
        if let Self::Sqlite { writes, .. } = self {
            let checkpoint = sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)");
            let _ = checkpoint.execute(writes).await;
        }
    }

    /// Ends all connections.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { reads, writes, .. } => {
                reads.close().await;
                writes.close().await;
            }
            Self::Postgres { reads, writes } => {
                reads.close().await;
                writes.close().await;
            }
        }
    }
}

/// A transaction that writes. Dropped without [`commit`](Self::commit) it leaves nothing.
pub(super) enum Transaction {
    Sqlite(SqliteTransaction),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Transaction {
    /// Runs a statement; how many rows it changed.
    pub(super) async fn run(
        &mut self,
        doing: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<u64, StoreError> {
        let done = self.run_raw(sql, values).await;
        done.map_err(|error| StoreError::new(doing, &error))
    }

    async fn run_raw(&mut self, sql: &str, values: Vec<Value>) -> Result<u64, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(inner) => {
                run!(SqliteArguments, sql, values, &mut *inner.connection)
            }
            Self::Postgres(inner) => run!(PgArguments, sql, values, &mut **inner),
        })
    }

    /// All rows of a query.
    pub(super) async fn rows(
        &mut self,
        doing: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.rows_raw(sql, values).await;
        rows.map_err(|error| StoreError::new(doing, &error))?
    }

    async fn rows_raw(
        &mut self,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Result<Vec<Row>, StoreError>, sqlx::Error> {
        let mut rows = Vec::new();
        let mut keep = |row| {
            rows.push(row);
            Ok(())
        };
        match self {
            Self::Sqlite(inner) => {
                each_row!(
                    SqliteArguments,
                    Sqlite,
                    sql,
                    values,
                    &mut *inner.connection,
                    keep
                );
            }
            Self::Postgres(inner) => {
                each_row!(PgArguments, Postgres, sql, values, &mut **inner, keep);
            }
        }
        Ok(Ok(rows))
    }

    /// Runs several statements without values, such as a step of the schema.
    pub(super) async fn script(&mut self, sql: String) -> Result<(), StoreError> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        let done = match self {
            Self::Sqlite(inner) => query.execute(&mut *inner.connection).await.map(|_| ()),
            Self::Postgres(inner) => query.execute(&mut **inner).await.map(|_| ()),
        };
        done.map_err(|error| StoreError::new("change the schema", &error))
    }

    /// Makes it durable.
    pub(super) async fn commit(self, doing: &'static str) -> Result<(), StoreError> {
        let done = match self {
            Self::Sqlite(inner) => inner.commit().await,
            Self::Postgres(inner) => inner.commit().await,
        };
        done.map_err(|error| StoreError::new(doing, &error))
    }
}

/// A transaction of SQLite.
///
/// Not sqlx's: where SQLite has rolled back by itself, as on a full disk, that one cannot roll back,
/// and its connection could never begin another. Here a transaction that is not committed takes its
/// connection with it.
pub(super) struct SqliteTransaction {
    connection: PoolConnection<Sqlite>,
    committed: bool,
}

impl SqliteTransaction {
    async fn begin(pool: &SqlitePool) -> Result<Self, sqlx::Error> {
        let mut begun = Self {
            connection: pool.acquire().await?,
            committed: false,
        };
        let begin = sqlx::raw_sql("BEGIN IMMEDIATE");
        begin.execute(&mut *begun.connection).await?;
        Ok(begun)
    }

    async fn commit(mut self) -> Result<(), sqlx::Error> {
        let commit = sqlx::raw_sql("COMMIT");
        commit.execute(&mut *self.connection).await?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        if !self.committed {
            self.connection.close_on_drop();
        }
    }
}

/// SQLite's file as it was opened: if it is moved away or replaced, what is written would be lost
/// without an error.
pub(super) struct DatabaseFile {
    path: PathBuf,
    #[cfg(unix)]
    identity: (u64, u64),
}

impl DatabaseFile {
    fn new(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_path_buf();
        #[cfg(unix)]
        let identity = identity(&path, "open the database")?;
        Ok(Self {
            path,
            #[cfg(unix)]
            identity,
        })
    }

    /// Whether the file is still where it was.
    #[cfg(unix)]
    fn check(&self, doing: &'static str) -> Result<(), StoreError> {
        if identity(&self.path, doing)? == self.identity {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            doing,
            reason: format!("{} is another file now", self.path.display()),
        })
    }

    #[cfg(not(unix))]
    fn check(&self, doing: &'static str) -> Result<(), StoreError> {
        let found = std::fs::metadata(&self.path);
        found.map(|_| ()).map_err(|error| StoreError::Unavailable {
            doing,
            reason: format!("{}: {error}", self.path.display()),
        })
    }
}

/// Device and inode of a file.
#[cfg(unix)]
fn identity(path: &Path, doing: &'static str) -> Result<(u64, u64), StoreError> {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino())),
        Err(error) => Err(StoreError::Unavailable {
            doing,
            reason: format!("{}: {error}", path.display()),
        }),
    }
}
