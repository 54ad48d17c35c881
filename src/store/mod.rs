//! The store: tasks, tracks, positions, people, handoffs and messages, in SQLite or PostgreSQL.
//!
//! It knows neither the pipeline nor HTTP: it takes plain [records](Record) and gives plain data.
//! Rows go through a bounded queue ([`Store::writer`]) and are written in batches; what
//! [`Writer::flush`] has confirmed, and every state of a task, survives a killed process and a power
//! cut. While the database is full or away, [`Store::health`] says so, rows wait in the queue, and
//! writing goes on by itself when it can. `docs/store.md` has the schema and what was measured.

mod counts;
mod database;
mod erase;
mod error;
mod filter;
mod health;
mod journey;
mod keys;
mod people;
mod queue;
mod records;
mod retention;
mod schema;
mod tasks;
mod upsert;
mod writer;

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;
use uuid::Uuid;

pub use counts::{CameraCount, CountFilter, Occupancy};
pub use erase::{Erased, Removed};
pub use error::StoreError;
pub use health::Health;
pub use journey::{Journey, JourneyBounds, PathPoint, Stay};
pub use people::PeopleFilter;
pub use queue::{Pushed, WriterCounts};
pub use records::*;
pub use retention::{Retained, RetentionPolicy};
pub use tasks::{Created, TaskFilter, Written};
pub use writer::Writer;

use database::{Database, values};
use health::HealthState;
use queue::Queue;

/// How the store is opened.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreSettings {
    /// Path of a SQLite file, which is made if it is not there, or `postgres://…`.
    pub address: String,
    /// Most positions that wait to be written; other rows may use a quarter more. Default 50,000: some
    /// 10 MB, half a minute of 100 people in 4 cameras at 4 frames a second.
    pub queue_rows: usize,
    /// Most rows of one transaction. Default 2,000.
    pub batch_rows: usize,
    /// Longest time that a row waits for others to be written with. Default 250 ms.
    pub batch_every: Duration,
    /// Longest time that a push waits for room. Default 200 ms.
    pub patience: Duration,
    /// Longest time that a flush, or closing the store, waits. Default 10 s.
    pub flush_patience: Duration,
}

impl StoreSettings {
    /// Defaults for a database.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            queue_rows: 50_000,
            batch_rows: 2_000,
            batch_every: Duration::from_millis(250),
            patience: Duration::from_millis(200),
            flush_patience: Duration::from_secs(10),
        }
    }
}

/// The store; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What all clones, writers and the writing task share.
struct Inner {
    settings: StoreSettings,
    database: Database,
    /// Whether a position's time is part of its key.
    time_in_key: bool,
    health: HealthState,
    queue: Queue,
    erased: RwLock<Arc<HashSet<i64>>>,
    late: Mutex<LateTasks>,
    writing: Mutex<Option<JoinHandle<()>>>,
}

/// Newest states of tasks that could not be written yet.
#[derive(Default)]
struct LateTasks {
    tasks: BTreeMap<Uuid, (u64, TaskRecord)>,
    /// Number of the newest state.
    number: u64,
}

impl Store {
    /// Opens the database, makes it if it is new, and brings its schema up to date.
    ///
    /// # Errors
    /// The database cannot be reached or made, or it is newer than this program.
    pub async fn open(settings: StoreSettings) -> Result<Self, StoreError> {
        let database = Database::connect(&settings.address).await?;
        schema::migrate(&database, now_ms()).await?;
        let time_in_key = schema::time_in_key(&database).await?;
        let mut erased = HashSet::new();
        let sql = "SELECT global_id FROM erased";
        for row in database.rows("open the database", sql, Vec::new()).await? {
            erased.insert(row.int(0)?);
        }
        let inner = Arc::new(Inner {
            queue: Queue::new(settings.queue_rows, settings.patience),
            settings,
            database,
            time_in_key,
            health: HealthState::default(),
            erased: RwLock::new(Arc::new(erased)),
            late: Mutex::default(),
            writing: Mutex::default(),
        });
        let writing = tokio::spawn(writer::run(inner.clone()));
        *lock(&inner.writing) = Some(writing);
        Ok(Self { inner })
    }

    /// A handle that queues rows.
    pub fn writer(&self) -> Writer {
        Writer {
            inner: self.inner.clone(),
        }
    }

    /// Whether the database can be written and read, as far as is known from the last tries; while it
    /// cannot, it is tried at least every 5 s.
    pub fn health(&self) -> Health {
        self.inner.health.health()
    }

    /// Writes to the database now, to see whether that works.
    ///
    /// # Errors
    /// It does not.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.inner.health.wrote(self.inner.probe().await)
    }

    /// Writes what is queued, then ends all connections. Rows that cannot be written within
    /// [`flush_patience`](StoreSettings::flush_patience) are lost.
    ///
    /// # Errors
    /// Rows were lost.
    pub async fn close(&self) -> Result<(), StoreError> {
        let flushed = self.writer().flush().await;
        let late = self.inner.write_late_tasks().await;
        self.inner.queue.close();
        let writing = lock(&self.inner.writing).take();
        if let Some(mut writing) = writing {
            let patience = self.inner.settings.flush_patience;
            if flushed.is_err() || tokio::time::timeout(patience, &mut writing).await.is_err() {
                writing.abort();
            }
        }
        self.inner.database.close().await;
        flushed?;
        late
    }
}

impl Inner {
    /// People who were erased.
    fn erased(&self) -> Arc<HashSet<i64>> {
        let erased = self.erased.read();
        erased.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes people as erased, or takes that back.
    fn set_erased(&self, ids: &[i64], gone: bool) {
        let mut guard = self.erased.write().unwrap_or_else(PoisonError::into_inner);
        let mut erased = HashSet::clone(&guard);
        for id in ids {
            if gone {
                erased.insert(*id);
            } else {
                erased.remove(id);
            }
        }
        *guard = Arc::new(erased);
    }

    /// A write that changes nothing.
    async fn probe(&self) -> Result<(), StoreError> {
        let doing = "write";
        let work = async {
            let mut transaction = self.database.begin(doing).await?;
            let sql = "UPDATE counters SET value = value + 1 WHERE name = $1";
            transaction.run(doing, sql, values!["probe"]).await?;
            transaction.commit(doing).await
        };
        self.in_time(doing, Duration::from_secs(10), work).await
    }

    /// The result of `work`, or an error after `limit`: a server may stop answering without closing the
    /// connection. SQLite has no such server.
    async fn in_time<T>(
        &self,
        doing: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if !self.database.is_postgres() {
            return work.await;
        }
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Unavailable {
                doing,
                reason: format!("no answer within {} s", limit.as_secs()),
            }),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Now, in UTC milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
