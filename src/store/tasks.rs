//! Tasks: made and changed directly, never through the queue.

use std::time::Duration;

use uuid::Uuid;

use super::database::{Row, Value, values};
use super::error::StoreError;
use super::filter::Conditions;
use super::records::{IdempotencyRecord, Page, TaskRecord};
use super::{Inner, Store, keys, lock};

/// Longest time that the write of a task's state may take.
const LONGEST_WRITE: Duration = Duration::from_secs(10);
/// Most items of one page.
pub(super) const LONGEST_PAGE: usize = 1_000;

const COLUMNS: &str = "task_id, number, route, environment_id, status, progress, current_step, \
                       cameras, request, error, created_ms, started_ms, ended_ms, next_seq";

/// Which tasks to list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskFilter {
    /// Only with this status.
    pub status: Option<String>,
    /// Only of this environment.
    pub environment_id: Option<String>,
    /// Only of this route.
    pub route: Option<String>,
    /// [`Page::next`] of the page before.
    pub cursor: Option<i64>,
    /// Most tasks, 1..=1000.
    pub limit: usize,
}

/// What became of a new task.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// It is stored.
    New,
    /// The same key was used before: nothing was stored, this was answered then.
    Already(IdempotencyRecord),
}

/// What became of a task's new state.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It is durable.
    Durable,
    /// The database cannot write now. The newest state of each task is kept in memory and written as
    /// soon as it can.
    Late(StoreError),
}

impl Store {
    /// The next task's number, from 0; none is given twice.
    ///
    /// # Errors
    /// The database cannot write.
    pub async fn next_task_number(&self) -> Result<i64, StoreError> {
        let doing = "number a task";
        let inner = &self.inner;
        let work = async {
            let mut transaction = inner.database.begin(doing).await?;
            let sql = "UPDATE counters SET value = value + 1 WHERE name = $1 RETURNING value - 1";
            let rows = transaction.rows(doing, sql, values!["task_number"]).await?;
            transaction.commit(doing).await?;
            match rows.first() {
                Some(row) => row.int(0),
                None => Err(StoreError::Data("no counter of tasks".to_string())),
            }
        };
        inner
            .health
            .wrote(inner.in_time(doing, LONGEST_WRITE, work).await)
    }

    /// Stores a new task, and with it, if given, that its request is not to be done twice.
    ///
    /// # Errors
    /// It is not stored: the database cannot write, or knows such a task or number already.
    pub async fn create_task(
        &self,
        task: &TaskRecord,
        once: Option<&IdempotencyRecord>,
    ) -> Result<Created, StoreError> {
        let doing = "store a task";
        let inner = &self.inner;
        let work = async {
            let mut transaction = inner.database.begin(doing).await?;
            if let Some(once) = once
                && let Some(before) = keys::put_once(&mut transaction, once).await?
            {
                return Ok(Created::Already(before));
            }
            let places = super::upsert::placeholders(1, 14);
            let sql = format!("INSERT INTO tasks ({COLUMNS}) VALUES ({places})");
            transaction.run(doing, &sql, task_values(task)).await?;
            transaction.commit(doing).await?;
            Ok(Created::New)
        };
        inner
            .health
            .wrote(inner.in_time(doing, LONGEST_WRITE, work).await)
    }

    /// Stores a task's new state: all but its number, route, environment, request and time of
    /// creation. Its `next_seq` never falls. A state that cannot be written now is kept and written
    /// later, unless a newer one comes.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn update_task(&self, task: &TaskRecord) -> Result<Written, StoreError> {
        {
            let mut late = lock(&self.inner.late);
            late.number += 1;
            let number = late.number;
            let waiting = late.tasks.get(&task.task_id);
            // Once ended, it stays so, whoever comes late.
            let ended = waiting.is_some_and(|(_, waiting)| waiting.ended_ms.is_some());
            if !ended || task.ended_ms.is_some() {
                late.tasks.insert(task.task_id, (number, task.clone()));
            }
        }
        match self.inner.write_late_task(task.task_id).await {
            Ok(()) => Ok(Written::Durable),
            Err(error) if error.is_transient() => Ok(Written::Late(error)),
            Err(error) => Err(error),
        }
    }

    /// One task.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn task(&self, task_id: Uuid) -> Result<Option<TaskRecord>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.add("task_id = ?", task_id);
        let tasks = self.select_tasks(&conditions, "").await?;
        Ok(tasks.into_iter().next())
    }

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<Page<TaskRecord>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.maybe("status = ?", filter.status.as_deref());
        conditions.maybe("environment_id = ?", filter.environment_id.as_deref());
        conditions.maybe("route = ?", filter.route.as_deref());
        conditions.maybe("number < ?", filter.cursor);
        let limit = filter.limit.clamp(1, LONGEST_PAGE);
        let tail = format!(" ORDER BY number DESC LIMIT {}", limit + 1);
        let items = self.select_tasks(&conditions, &tail).await?;
        Ok(page(items, limit, |task| task.number))
    }

    /// Tasks that have not ended, oldest first: after a start, those that the last process left.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn unfinished_tasks(&self) -> Result<Vec<TaskRecord>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.plain("ended_ms IS NULL");
        self.select_tasks(&conditions, " ORDER BY number").await
    }

    async fn select_tasks(
        &self,
        conditions: &Conditions,
        tail: &str,
    ) -> Result<Vec<TaskRecord>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM tasks{}{tail}", conditions.sql());
        let rows = self
            .rows("read tasks", &sql, conditions.values.clone())
            .await?;
        rows.iter().map(task_from).collect()
    }

    /// All rows of a query, noted in the health.
    pub(super) async fn rows(
        &self,
        doing: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.inner.database.rows(doing, sql, values).await;
        self.inner.health.read(rows)
    }
}

/// A page of what was read with one item more than its limit.
pub(super) fn page<T>(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> i64) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(cursor) } else { None };
    Page { items, next }
}

impl Inner {
    /// Whether states of tasks wait to be written.
    pub(super) fn has_late_tasks(&self) -> bool {
        !lock(&self.late).tasks.is_empty()
    }

    /// Forgets states of tasks that wait to be written.
    pub(super) fn forget_late_tasks(&self, gone: impl Fn(&TaskRecord) -> bool) {
        lock(&self.late).tasks.retain(|_, (_, task)| !gone(task));
    }

    /// Writes all states of tasks that wait.
    pub(super) async fn write_late_tasks(&self) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = lock(&self.late).tasks.keys().copied().collect();
        for id in ids {
            match self.write_late_task(id).await {
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => tracing::error!(%error, %id, "state of a task refused"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Writes the newest state of a task, if one waits. A refused one does not wait any more.
    async fn write_late_task(&self, id: Uuid) -> Result<(), StoreError> {
        let doing = "store a task's state";
        let mut number = 0;
        let work = async {
            let mut transaction = self.database.begin(doing).await?;
            // Taken once nobody else writes, so that an older state never follows a newer one.
            let Some((newest, task)) = lock(&self.late).tasks.get(&id).cloned() else {
                return Ok(());
            };
            number = newest;
            transaction.run(doing, UPDATE, update_values(&task)).await?;
            transaction.commit(doing).await
        };
        let written = self.in_time(doing, LONGEST_WRITE, work).await;
        if !written.as_ref().is_err_and(StoreError::is_transient) {
            let mut late = lock(&self.late);
            if late
                .tasks
                .get(&id)
                .is_some_and(|(newest, _)| *newest == number)
            {
                late.tasks.remove(&id);
            }
        }
        self.health.wrote(written)
    }
}

const UPDATE: &str = "UPDATE tasks SET status = $2, progress = $3, current_step = $4, \
                      cameras = $5, error = $6, started_ms = $7, ended_ms = $8, \
                      next_seq = CASE WHEN next_seq < $9 THEN $9 ELSE next_seq END \
                      WHERE task_id = $1 AND (ended_ms IS NULL OR $8 IS NOT NULL)";

fn update_values(task: &TaskRecord) -> Vec<Value> {
    values![
        task.task_id,
        task.status.as_str(),
        task.progress,
        task.current_step.as_str(),
        task.cameras.as_str(),
        task.error.as_deref(),
        task.started_ms,
        task.ended_ms,
        task.next_seq,
    ]
}

fn task_values(task: &TaskRecord) -> Vec<Value> {
    values![
        task.task_id,
        task.number,
        task.route.as_str(),
        task.environment_id.as_str(),
        task.status.as_str(),
        task.progress,
        task.current_step.as_str(),
        task.cameras.as_str(),
        task.request.as_str(),
        task.error.as_deref(),
        task.created_ms,
        task.started_ms,
        task.ended_ms,
        task.next_seq,
    ]
}

fn task_from(row: &Row) -> Result<TaskRecord, StoreError> {
    Ok(TaskRecord {
        task_id: row.uuid(0)?,
        number: row.int(1)?,
        route: row.text(2)?,
        environment_id: row.text(3)?,
        status: row.text(4)?,
        progress: row.real(5)?,
        current_step: row.text(6)?,
        cameras: row.text(7)?,
        request: row.text(8)?,
        error: row.maybe_text(9)?,
        created_ms: row.int(10)?,
        started_ms: row.maybe_int(11)?,
        ended_ms: row.maybe_int(12)?,
        next_seq: row.int(13)?,
    })
}
