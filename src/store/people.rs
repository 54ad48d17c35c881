//! People: lists, one person, vectors for search, who was merged with whom.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::Store;
use super::database::{Row, values};
use super::error::StoreError;
use super::filter::Conditions;
use super::records::{Page, PersonRecord, PersonSummary};
use super::tasks::{LONGEST_PAGE, page};
use super::upsert::vector_from;

/// Most identities that are one person; beyond, a chain of merges is broken off.
const MOST_MERGED: usize = 10_000;

/// Which people to list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PeopleFilter {
    /// Only of this environment.
    pub environment_id: Option<String>,
    /// Only of this task.
    pub task_id: Option<Uuid>,
    /// Only who was last seen then or later.
    pub from_ms: Option<i64>,
    /// Only who was first seen before.
    pub to_ms: Option<i64>,
    /// Also identities that turned out to be another one.
    pub merged: bool,
    /// [`Page::next`] of the page before.
    pub cursor: Option<i64>,
    /// Most people, 1..=1000.
    pub limit: usize,
}

impl Store {
    /// A page of people, newest identity first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn people(&self, filter: &PeopleFilter) -> Result<Page<PersonSummary>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.maybe("environment_id = ?", filter.environment_id.as_deref());
        conditions.maybe("task_id = ?", filter.task_id.map(|id| id.to_string()));
        conditions.maybe("last_ms >= ?", filter.from_ms);
        conditions.maybe("first_ms < ?", filter.to_ms);
        conditions.maybe("global_id < ?", filter.cursor);
        if !filter.merged {
            conditions.plain("merged_into IS NULL");
        }
        let limit = filter.limit.clamp(1, LONGEST_PAGE);
        let sql = format!(
            "SELECT global_id, task_id, environment_id, first_ms, last_ms, first_camera, \
             last_camera, model, CASE WHEN crop IS NULL THEN 0 ELSE 1 END + CAST(0 AS BIGINT), \
             merged_into FROM people{} ORDER BY global_id DESC LIMIT {}",
            conditions.sql(),
            limit + 1
        );
        let rows = self.rows("read people", &sql, conditions.values).await?;
        let mut people = Vec::new();
        for row in &rows {
            people.push(summary_from(row)?);
        }
        Ok(page(people, limit, |person| person.global_id))
    }

    /// One identity, with vector and picture; one that was merged says into whom.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn person(&self, global_id: i64) -> Result<Option<PersonRecord>, StoreError> {
        let sql = "SELECT global_id, task_id, environment_id, first_ms, last_ms, first_camera, \
                   last_camera, model, vector, crop, crop_quality, merged_into \
                   FROM people WHERE global_id = $1";
        let rows = self.rows("read a person", sql, values![global_id]).await?;
        rows.first().map(person_from).transpose()
    }

    /// Gives every vector of `model`, of one environment or of all, to `each`, in the order of the
    /// identities; identities that turned out to be another one are left out.
    ///
    /// # Errors
    /// The database cannot be read, or holds a broken vector.
    pub async fn each_vector(
        &self,
        model: &str,
        environment_id: Option<&str>,
        mut each: impl FnMut(i64, &[f32]),
    ) -> Result<(), StoreError> {
        let mut conditions = Conditions::default();
        conditions.add("model = ?", model);
        conditions.maybe("environment_id = ?", environment_id);
        conditions.plain("vector IS NOT NULL");
        conditions.plain("merged_into IS NULL");
        let sql = format!(
            "SELECT global_id, vector FROM people{} ORDER BY global_id",
            conditions.sql()
        );
        let take = |row: Row| {
            if let Some(bytes) = row.maybe_blob(1)? {
                each(row.int(0)?, &vector_from(&bytes)?);
            }
            Ok(())
        };
        let inner = &self.inner;
        let done = inner
            .database
            .each("read vectors", &sql, conditions.values, take)
            .await;
        inner.health.read(done)
    }

    /// All identities that are one person with this one, the one that stays first; just the given one
    /// if nothing is known of it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn identities(&self, global_id: i64) -> Result<Vec<i64>, StoreError> {
        let doing = "read merged people";
        let mut root = global_id;
        let mut passed = BTreeSet::from([root]);
        loop {
            let sql = "SELECT merged_into FROM people WHERE global_id = $1";
            let rows = self.rows(doing, sql, values![root]).await?;
            match rows.first().map_or(Ok(None), |row| row.maybe_int(0))? {
                Some(next) if passed.len() < MOST_MERGED && passed.insert(next) => root = next,
                _ => break,
            }
        }
        let mut found = vec![root];
        let mut next = 0;
        while next < found.len() && found.len() < MOST_MERGED {
            let sql = "SELECT global_id FROM people WHERE merged_into = $1 ORDER BY global_id";
            for row in self.rows(doing, sql, values![found[next]]).await? {
                let id = row.int(0)?;
                if !found.contains(&id) {
                    found.push(id);
                }
            }
            next += 1;
        }
        Ok(found)
    }

    /// Into whom each merged identity was merged.
    pub(super) async fn merges(&self) -> Result<Merges, StoreError> {
        let sql = "SELECT global_id, merged_into FROM people WHERE merged_into IS NOT NULL";
        let mut merges = HashMap::new();
        for row in self.rows("read merged people", sql, Vec::new()).await? {
            merges.insert(row.int(0)?, row.int(1)?);
        }
        Ok(Merges(merges))
    }
}

/// Into whom each merged identity was merged.
pub(super) struct Merges(HashMap<i64, i64>);

impl Merges {
    /// The identity that stays.
    pub(super) fn stays(&self, mut global_id: i64) -> i64 {
        for _ in 0..MOST_MERGED {
            match self.0.get(&global_id) {
                Some(into) => global_id = *into,
                None => break,
            }
        }
        global_id
    }
}

fn summary_from(row: &Row) -> Result<PersonSummary, StoreError> {
    Ok(PersonSummary {
        global_id: row.int(0)?,
        task_id: row.uuid(1)?,
        environment_id: row.text(2)?,
        first_ms: row.int(3)?,
        last_ms: row.int(4)?,
        first_camera: row.text(5)?,
        last_camera: row.text(6)?,
        model: row.maybe_text(7)?,
        has_crop: row.int(8)? != 0,
        merged_into: row.maybe_int(9)?,
    })
}

fn person_from(row: &Row) -> Result<PersonRecord, StoreError> {
    let vector = row.maybe_blob(8)?;
    Ok(PersonRecord {
        global_id: row.int(0)?,
        task_id: row.uuid(1)?,
        environment_id: row.text(2)?,
        first_ms: row.int(3)?,
        last_ms: row.int(4)?,
        first_camera: row.text(5)?,
        last_camera: row.text(6)?,
        model: row.maybe_text(7)?,
        vector: vector.map(|bytes| vector_from(&bytes)).transpose()?,
        crop: row.maybe_blob(9)?,
        crop_quality: row.maybe_real(10)?,
        merged_into: row.maybe_int(11)?,
    })
}
