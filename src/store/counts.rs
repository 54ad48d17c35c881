//! Counts: how many people, where and when. Merged identities count once.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use uuid::Uuid;

use super::Store;
use super::database::Row;
use super::error::StoreError;
use super::filter::Conditions;
use super::people::Merges;

/// Most windows of one answer.
const MOST_BUCKETS: i64 = 10_000;

/// What to count.
#[derive(Debug, Clone, PartialEq)]
pub struct CountFilter {
    /// Only in this environment.
    pub environment_id: Option<String>,
    /// Only in this task.
    pub task_id: Option<Uuid>,
    /// Only in this camera.
    pub camera_id: Option<String>,
    /// From this time on.
    pub from_ms: i64,
    /// Up to this time, which is not part of it.
    pub to_ms: i64,
}

/// How full a zone was in one window of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Begin of the window.
    pub from_ms: i64,
    /// People who were in the zone.
    pub people: u64,
    /// Most people at the same millisecond; of cameras that do not take frames at the same time, the
    /// most of one camera.
    pub peak: u64,
}

/// How many people a camera saw in one window of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CameraCount {
    /// The camera.
    pub camera_id: String,
    /// Begin of the window.
    pub from_ms: i64,
    /// People whom it saw.
    pub people: u64,
    /// Positions, of known and unknown people.
    pub positions: u64,
}

impl Store {
    /// How many people were seen: people of tracks that were there at the time.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn unique_people(&self, filter: &CountFilter) -> Result<u64, StoreError> {
        let mut conditions = common(filter);
        conditions.add("last_ms >= ?", filter.from_ms);
        conditions.add("first_ms < ?", filter.to_ms);
        conditions.plain("global_id IS NOT NULL");
        let sql = format!("SELECT DISTINCT global_id FROM tracks{}", conditions.sql());
        let merges = self.merges().await?;
        let mut people = HashSet::new();
        self.each(&sql, conditions, |row| {
            people.insert(merges.stays(row.int(0)?));
            Ok(())
        })
        .await?;
        Ok(people.len() as u64)
    }

    /// How many people were inside a polygon of the map, for each window of `bucket_ms` from
    /// `from_ms` on; empty windows are left out. Points on the border may count as either.
    ///
    /// # Errors
    /// The polygon has fewer than three corners, there are too many windows, or the database cannot
    /// be read.
    pub async fn occupancy(
        &self,
        filter: &CountFilter,
        polygon: &[[f64; 2]],
        bucket_ms: i64,
    ) -> Result<Vec<Occupancy>, StoreError> {
        check_buckets(filter, bucket_ms)?;
        let Some([low, high]) = bounds(polygon) else {
            let text = "a zone needs at least three corners, all of them numbers";
            return Err(StoreError::TooMuch(text.to_string()));
        };
        let mut conditions = seen(filter);
        conditions.plain("global_id IS NOT NULL");
        conditions.add("map_x >= ?", low[0]);
        conditions.add("map_x <= ?", high[0]);
        conditions.add("map_y >= ?", low[1]);
        conditions.add("map_y <= ?", high[1]);
        let sql = format!(
            "SELECT time_ms, global_id, map_x, map_y FROM positions{} ORDER BY time_ms",
            conditions.sql()
        );
        let merges = self.merges().await?;
        let mut count = Counting::new(filter.from_ms, bucket_ms, &merges);
        self.each(&sql, conditions, |row| {
            if contains(polygon, [row.real(2)?, row.real(3)?]) {
                count.add(row.int(0)?, row.int(1)?);
            }
            Ok(())
        })
        .await?;
        Ok(count.finish())
    }

    /// How many people each camera saw, for each window of `bucket_ms` from `from_ms` on, in the order
    /// of time and camera; empty windows are left out.
    ///
    /// # Errors
    /// There are too many windows, or the database cannot be read.
    pub async fn camera_counts(
        &self,
        filter: &CountFilter,
        bucket_ms: i64,
    ) -> Result<Vec<CameraCount>, StoreError> {
        check_buckets(filter, bucket_ms)?;
        let conditions = seen(filter);
        let sql = format!(
            "SELECT (time_ms - {0}) / {bucket_ms}, camera_id, global_id, COUNT(*) \
             FROM positions{1} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            filter.from_ms,
            conditions.sql()
        );
        let merges = self.merges().await?;
        let mut counts: BTreeMap<(i64, String), (HashSet<i64>, u64)> = BTreeMap::new();
        let mut done: Vec<CameraCount> = Vec::new();
        let mut current = 0;
        self.each(&sql, conditions, |row| {
            let bucket = row.int(0)?;
            if bucket != current {
                close_bucket(&mut counts, &mut done, filter.from_ms, bucket_ms);
                current = bucket;
            }
            let count = counts.entry((bucket, row.text(1)?)).or_default();
            count.0.extend(row.maybe_int(2)?.map(|id| merges.stays(id)));
            count.1 += row.int(3)?.unsigned_abs();
            Ok(())
        })
        .await?;
        close_bucket(&mut counts, &mut done, filter.from_ms, bucket_ms);
        Ok(done)
    }

    async fn each(
        &self,
        sql: &str,
        conditions: Conditions,
        take: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let inner = &self.inner;
        let done = inner
            .database
            .each("count", sql, conditions.values, take)
            .await;
        inner.health.read(done)
    }
}

/// Conditions on tracks as well as on positions.
fn common(filter: &CountFilter) -> Conditions {
    let mut conditions = Conditions::default();
    let environment = filter.environment_id.as_deref();
    conditions.maybe(
        "task_id IN (SELECT task_id FROM tasks WHERE environment_id = ?)",
        environment,
    );
    conditions.maybe("task_id = ?", filter.task_id.map(|id| id.to_string()));
    conditions.maybe("camera_id = ?", filter.camera_id.as_deref());
    conditions
}

/// Conditions on positions.
fn seen(filter: &CountFilter) -> Conditions {
    let mut conditions = common(filter);
    conditions.add("time_ms >= ?", filter.from_ms);
    conditions.add("time_ms < ?", filter.to_ms);
    conditions
}

fn check_buckets(filter: &CountFilter, bucket_ms: i64) -> Result<(), StoreError> {
    let span = filter.to_ms.saturating_sub(filter.from_ms);
    if bucket_ms < 1 || span / bucket_ms.max(1) >= MOST_BUCKETS {
        return Err(StoreError::TooMuch(format!(
            "{span} ms in windows of {bucket_ms} ms: between 1 and {MOST_BUCKETS} windows are counted"
        )));
    }
    Ok(())
}

fn close_bucket(
    counts: &mut BTreeMap<(i64, String), (HashSet<i64>, u64)>,
    done: &mut Vec<CameraCount>,
    from_ms: i64,
    bucket_ms: i64,
) {
    for ((bucket, camera_id), (people, positions)) in std::mem::take(counts) {
        done.push(CameraCount {
            camera_id,
            from_ms: from_ms + bucket * bucket_ms,
            people: people.len() as u64,
            positions,
        });
    }
}

/// Counts people in the order of time.
struct Counting<'a> {
    from_ms: i64,
    bucket_ms: i64,
    merges: &'a Merges,
    bucket: i64,
    people: HashSet<i64>,
    time_ms: i64,
    present: HashSet<i64>,
    peak: usize,
    done: Vec<Occupancy>,
}

impl<'a> Counting<'a> {
    fn new(from_ms: i64, bucket_ms: i64, merges: &'a Merges) -> Self {
        Self {
            from_ms,
            bucket_ms,
            merges,
            bucket: 0,
            people: HashSet::new(),
            time_ms: 0,
            present: HashSet::new(),
            peak: 0,
            done: Vec::new(),
        }
    }

    fn add(&mut self, time_ms: i64, global_id: i64) {
        let bucket = (time_ms - self.from_ms) / self.bucket_ms;
        if bucket != self.bucket {
            self.close();
            self.bucket = bucket;
        }
        if time_ms != self.time_ms {
            self.present.clear();
            self.time_ms = time_ms;
        }
        let person = self.merges.stays(global_id);
        self.people.insert(person);
        self.present.insert(person);
        self.peak = self.peak.max(self.present.len());
    }

    fn close(&mut self) {
        if !self.people.is_empty() {
            self.done.push(Occupancy {
                from_ms: self.from_ms + self.bucket * self.bucket_ms,
                people: self.people.len() as u64,
                peak: self.peak as u64,
            });
        }
        self.people.clear();
        self.present.clear();
        self.peak = 0;
    }

    fn finish(mut self) -> Vec<Occupancy> {
        self.close();
        self.done
    }
}

/// Lowest and highest corner of a polygon; `None` if it is none.
fn bounds(polygon: &[[f64; 2]]) -> Option<[[f64; 2]; 2]> {
    if polygon.len() < 3 || polygon.iter().flatten().any(|value| !value.is_finite()) {
        return None;
    }
    let mut low = polygon[0];
    let mut high = polygon[0];
    for corner in polygon {
        for axis in 0..2 {
            low[axis] = low[axis].min(corner[axis]);
            high[axis] = high[axis].max(corner[axis]);
        }
    }
    Some([low, high])
}

/// Whether a point is inside a polygon: a ray from it crosses the border an odd number of times.
fn contains(polygon: &[[f64; 2]], [x, y]: [f64; 2]) -> bool {
    let mut inside = false;
    let mut before = polygon.len() - 1;
    for (index, &[x2, y2]) in polygon.iter().enumerate() {
        let [x1, y1] = polygon[before];
        if (y1 > y) != (y2 > y) && x < (x1 - x2) * (y - y2) / (y1 - y2) + x2 {
            inside = !inside;
        }
        before = index;
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notch_is_outside() {
        // A square of side 4 with a notch from the top down to its middle.
        let zone = [[0., 0.], [4., 0.], [4., 4.], [2., 2.], [0., 4.]];
        assert!(contains(&zone, [1., 1.]));
        assert!(contains(&zone, [3.5, 3.]));
        assert!(!contains(&zone, [2., 3.]));
        assert!(!contains(&zone, [5., 1.]));
        assert!(!contains(&zone, [-1., 2.]));
    }
}
