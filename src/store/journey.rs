//! A person's journey: stays in cameras in the order of time, and the way on the map.

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use super::Store;
use super::database::Row;
use super::error::StoreError;
use super::filter::Conditions;

/// Most identities in one query.
const IDS: usize = 500;

/// Bounds of a journey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JourneyBounds {
    /// Sightings in one camera that are this close are one stay. Default 10 s.
    pub gap_ms: i64,
    /// Most stays, the newest of all. Default 1,000.
    pub max_stays: usize,
    /// Most points of the way. Default 500.
    pub max_points: usize,
}

impl Default for JourneyBounds {
    fn default() -> Self {
        Self {
            gap_ms: 10_000,
            max_stays: 1_000,
            max_points: 500,
        }
    }
}

/// Time in one camera.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stay {
    /// The task.
    pub task_id: Uuid,
    /// The camera.
    pub camera_id: String,
    /// First seen.
    pub first_ms: i64,
    /// Last seen.
    pub last_ms: i64,
    /// Tracks of it.
    pub tracks: u64,
}

/// A point of the way on the map.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathPoint {
    /// When.
    pub time_ms: i64,
    /// Which camera saw it.
    pub camera_id: String,
    /// Place on the map.
    pub map: [f64; 2],
}

/// Where a person was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Journey {
    /// The identity that stays.
    pub global_id: i64,
    /// Identities that turned out to be this one.
    pub merged: Vec<i64>,
    /// Stays in the order of their begin; those in overlapping cameras overlap.
    pub stays: Vec<Stay>,
    /// Older stays that were left out.
    pub left_out: usize,
    /// The way, in the order of time, evenly thinned: every n-th point and the last.
    pub path: Vec<PathPoint>,
    /// Points before thinning.
    pub points: u64,
}

impl Store {
    /// Where a person was, under all of its identities; `None` if nothing is known. Tracks whose
    /// positions were removed by age or size still count as stays.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn journey(
        &self,
        global_id: i64,
        bounds: JourneyBounds,
    ) -> Result<Option<Journey>, StoreError> {
        let ids = self.identities(global_id).await?;
        let mut stays = self.stays(&ids, bounds.gap_ms).await?;
        if stays.is_empty() && self.person(global_id).await?.is_none() {
            return Ok(None);
        }
        let left_out = stays.len().saturating_sub(bounds.max_stays);
        stays.drain(..left_out);
        let (path, points) = self.path(&ids, bounds.max_points).await?;
        Ok(Some(Journey {
            global_id: ids[0],
            merged: ids[1..].to_vec(),
            stays,
            left_out,
            path,
            points,
        }))
    }

    /// Stays in the order of their begin.
    async fn stays(&self, ids: &[i64], gap_ms: i64) -> Result<Vec<Stay>, StoreError> {
        let doing = "read a journey";
        // What positions say is exact even if a track changed its person; tracks stay longer.
        let mut sightings: HashMap<(Uuid, String, i64), (i64, i64)> = HashMap::new();
        for ids in ids.chunks(IDS) {
            let mut conditions = Conditions::default();
            conditions.one_of("global_id", ids);
            let sql = format!(
                "SELECT task_id, camera_id, track_id, MIN(time_ms), MAX(time_ms) FROM positions{} \
                 GROUP BY task_id, camera_id, track_id",
                conditions.sql()
            );
            for row in self.rows(doing, &sql, conditions.values.clone()).await? {
                let (first, last) = (row.int(3)?, row.int(4)?);
                let times = sightings.entry(key(&row)?).or_insert((first, last));
                *times = (times.0.min(first), times.1.max(last));
            }
            let sql = format!(
                "SELECT task_id, camera_id, track_id, first_ms, last_ms FROM tracks{}",
                conditions.sql()
            );
            for row in self.rows(doing, &sql, conditions.values).await? {
                let times = (row.int(3)?, row.int(4)?);
                sightings.entry(key(&row)?).or_insert(times);
            }
        }
        Ok(join_sightings(sightings, gap_ms))
    }

    /// Points of the way and how many there are.
    async fn path(&self, ids: &[i64], most: usize) -> Result<(Vec<PathPoint>, u64), StoreError> {
        // More identities than this of one person are not one journey any more.
        let ids = &ids[..ids.len().min(IDS)];
        let mut conditions = Conditions::default();
        conditions.one_of("global_id", ids);
        conditions.plain("map_x IS NOT NULL");
        conditions.plain("map_y IS NOT NULL");
        let sql = format!(
            "SELECT time_ms, camera_id, map_x, map_y FROM positions{} \
             ORDER BY time_ms, camera_id, task_id, frame, track_id",
            conditions.sql()
        );
        let mut thinned = Thinned::new(most);
        let take = |row: Row| {
            thinned.push(PathPoint {
                time_ms: row.int(0)?,
                camera_id: row.text(1)?,
                map: [row.real(2)?, row.real(3)?],
            });
            Ok(())
        };
        let inner = &self.inner;
        let done = inner
            .database
            .each("read a journey", &sql, conditions.values, take)
            .await;
        inner.health.read(done)?;
        Ok(thinned.finish())
    }
}

fn key(row: &Row) -> Result<(Uuid, String, i64), StoreError> {
    Ok((row.uuid(0)?, row.text(1)?, row.int(2)?))
}

/// Joins what tracks of one camera saw into stays.
fn join_sightings(sightings: HashMap<(Uuid, String, i64), (i64, i64)>, gap_ms: i64) -> Vec<Stay> {
    let mut ordered = Vec::new();
    for ((task_id, camera_id, _), (first_ms, last_ms)) in sightings {
        ordered.push(Stay {
            task_id,
            camera_id,
            first_ms,
            last_ms,
            tracks: 1,
        });
    }
    ordered.sort_by(|a, b| {
        let camera = (a.task_id, &a.camera_id).cmp(&(b.task_id, &b.camera_id));
        camera.then((a.first_ms, a.last_ms).cmp(&(b.first_ms, b.last_ms)))
    });
    let mut stays: Vec<Stay> = Vec::new();
    for sighting in ordered {
        match stays.last_mut() {
            Some(stay)
                if stay.task_id == sighting.task_id
                    && stay.camera_id == sighting.camera_id
                    && sighting.first_ms - stay.last_ms <= gap_ms =>
            {
                stay.last_ms = stay.last_ms.max(sighting.last_ms);
                stay.tracks += 1;
            }
            _ => stays.push(sighting),
        }
    }
    stays.sort_by(|a, b| {
        let begin = (a.first_ms, a.last_ms).cmp(&(b.first_ms, b.last_ms));
        begin.then_with(|| (&a.camera_id, a.task_id).cmp(&(&b.camera_id, b.task_id)))
    });
    stays
}

/// Keeps every n-th point and the last; n doubles whenever there are too many.
struct Thinned {
    most: usize,
    every: u64,
    seen: u64,
    kept: Vec<PathPoint>,
    last: Option<PathPoint>,
}

impl Thinned {
    fn new(most: usize) -> Self {
        Self {
            // One is for the last point.
            most: most.max(2) - 1,
            every: 1,
            seen: 0,
            kept: Vec::new(),
            last: None,
        }
    }

    fn push(&mut self, point: PathPoint) {
        if self.seen.is_multiple_of(self.every) {
            if self.kept.len() == self.most {
                self.every *= 2;
                let mut index = 0;
                self.kept.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
            }
            if self.seen.is_multiple_of(self.every) {
                self.kept.push(point);
                self.last = None;
                self.seen += 1;
                return;
            }
        }
        self.last = Some(point);
        self.seen += 1;
    }

    fn finish(mut self) -> (Vec<PathPoint>, u64) {
        self.kept.extend(self.last);
        (self.kept, self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_way_keeps_first_last_and_even_steps() {
        for (count, most) in [
            (1, 10),
            (10, 10),
            (11, 10),
            (1_000, 10),
            (1_003, 64),
            (5, 2),
        ] {
            let mut thinned = Thinned::new(most);
            for time_ms in 0..count {
                thinned.push(PathPoint {
                    time_ms,
                    camera_id: "hall".to_string(),
                    map: [0.0, 0.0],
                });
            }
            let (path, points) = thinned.finish();
            let times: Vec<i64> = path.iter().map(|point| point.time_ms).collect();
            assert_eq!(points, count as u64);
            assert!(times.len() <= most, "{count} {most} {times:?}");
            assert_eq!((times[0], times[times.len() - 1]), (0, count - 1));
            let steps: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let even = &steps[..steps.len().saturating_sub(1)];
            assert!(even.windows(2).all(|pair| pair[0] == pair[1]), "{times:?}");
            // Not thinned more than twice as much as was needed.
            assert!(
                times.len() as i64 >= count.min(most as i64) / 2,
                "{times:?}"
            );
        }
    }
}
