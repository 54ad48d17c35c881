//! How rows are written: many to a statement, and the same row twice is the same as once.

use std::collections::HashSet;
use std::hash::Hash;

use super::database::{Transaction, Value, values};
use super::error::StoreError;
use super::records::{
    EventRecord, HandoffRecord, PersonRecord, PositionRecord, ProgressRecord, Record, TrackRecord,
};

const DOING: &str = "write rows";

/// Most rows of one statement. Fewer are written by the powers of two below, so that few different
/// statements have to be prepared.
const ROWS: usize = 64;

/// Rows of one table to be written by one statement.
struct Table {
    insert: &'static str,
    columns: usize,
    conflict: &'static str,
}

const TRACKS: Table = Table {
    insert: "INSERT INTO tracks (task_id, camera_id, track_id, global_id, first_frame, last_frame, \
             first_ms, last_ms) VALUES ",
    columns: 8,
    conflict: " ON CONFLICT (task_id, camera_id, track_id) DO UPDATE SET \
               global_id = COALESCE(excluded.global_id, tracks.global_id), \
               first_frame = CASE WHEN excluded.first_frame < tracks.first_frame \
                   THEN excluded.first_frame ELSE tracks.first_frame END, \
               last_frame = CASE WHEN excluded.last_frame > tracks.last_frame \
                   THEN excluded.last_frame ELSE tracks.last_frame END, \
               first_ms = CASE WHEN excluded.first_ms < tracks.first_ms \
                   THEN excluded.first_ms ELSE tracks.first_ms END, \
               last_ms = CASE WHEN excluded.last_ms > tracks.last_ms \
                   THEN excluded.last_ms ELSE tracks.last_ms END",
};

const POSITIONS: Table = Table {
    insert: "INSERT INTO positions (task_id, camera_id, frame, track_id, time_ms, global_id, \
             x1, y1, x2, y2, score, map_x, map_y) VALUES ",
    columns: 13,
    conflict: " ON CONFLICT (task_id, camera_id, frame, track_id) DO UPDATE SET \
               time_ms = excluded.time_ms, global_id = excluded.global_id, x1 = excluded.x1, \
               y1 = excluded.y1, x2 = excluded.x2, y2 = excluded.y2, score = excluded.score, \
               map_x = excluded.map_x, map_y = excluded.map_y",
};

/// In a hypertable the time is part of the key.
const POSITIONS_BY_TIME: Table = Table {
    conflict: " ON CONFLICT (task_id, camera_id, frame, track_id, time_ms) DO UPDATE SET \
               global_id = excluded.global_id, x1 = excluded.x1, y1 = excluded.y1, \
               x2 = excluded.x2, y2 = excluded.y2, score = excluded.score, \
               map_x = excluded.map_x, map_y = excluded.map_y",
    ..POSITIONS
};

/// Of cameras that see a person at one moment the one whose name comes first counts, whichever is
/// written first.
const PEOPLE: Table = Table {
    insert: "INSERT INTO people (global_id, task_id, environment_id, first_ms, last_ms, \
             first_camera, last_camera, model, vector, crop, crop_quality, merged_into) VALUES ",
    columns: 12,
    conflict: " ON CONFLICT (global_id) DO UPDATE SET \
               first_camera = CASE WHEN excluded.first_ms < people.first_ms \
                   OR (excluded.first_ms = people.first_ms \
                       AND excluded.first_camera < people.first_camera) \
                   THEN excluded.first_camera ELSE people.first_camera END, \
               first_ms = CASE WHEN excluded.first_ms < people.first_ms \
                   THEN excluded.first_ms ELSE people.first_ms END, \
               last_camera = CASE WHEN excluded.last_ms > people.last_ms \
                   OR (excluded.last_ms = people.last_ms \
                       AND excluded.last_camera < people.last_camera) \
                   THEN excluded.last_camera ELSE people.last_camera END, \
               last_ms = CASE WHEN excluded.last_ms >= people.last_ms \
                   THEN excluded.last_ms ELSE people.last_ms END, \
               model = CASE WHEN excluded.vector IS NOT NULL \
                   THEN excluded.model ELSE people.model END, \
               vector = COALESCE(excluded.vector, people.vector), \
               crop = CASE WHEN excluded.crop IS NOT NULL AND (people.crop IS NULL OR \
                   COALESCE(excluded.crop_quality, 0) >= COALESCE(people.crop_quality, 0)) \
                   THEN excluded.crop ELSE people.crop END, \
               crop_quality = CASE WHEN excluded.crop IS NOT NULL AND (people.crop IS NULL OR \
                   COALESCE(excluded.crop_quality, 0) >= COALESCE(people.crop_quality, 0)) \
                   THEN excluded.crop_quality ELSE people.crop_quality END, \
               merged_into = COALESCE(excluded.merged_into, people.merged_into)",
};

const HANDOFFS: Table = Table {
    insert: "INSERT INTO handoffs (task_id, handoff_id, state, from_camera, to_camera, candidates, \
             track_id, global_id, triggered_ms, ended_ms, confidence, reason) VALUES ",
    columns: 12,
    conflict: " ON CONFLICT (task_id, handoff_id) DO UPDATE SET \
               state = CASE WHEN excluded.state = 'triggered' \
                   THEN handoffs.state ELSE excluded.state END, \
               from_camera = excluded.from_camera, \
               to_camera = COALESCE(excluded.to_camera, handoffs.to_camera), \
               candidates = COALESCE(excluded.candidates, handoffs.candidates), \
               track_id = COALESCE(excluded.track_id, handoffs.track_id), \
               global_id = COALESCE(excluded.global_id, handoffs.global_id), \
               triggered_ms = COALESCE(excluded.triggered_ms, handoffs.triggered_ms), \
               ended_ms = COALESCE(excluded.ended_ms, handoffs.ended_ms), \
               confidence = COALESCE(excluded.confidence, handoffs.confidence), \
               reason = COALESCE(excluded.reason, handoffs.reason)",
};

const EVENTS: Table = Table {
    insert: "INSERT INTO events (task_id, seq, time_ms, kind, body) VALUES ",
    columns: 5,
    conflict: " ON CONFLICT (task_id, seq) DO UPDATE SET \
               time_ms = excluded.time_ms, kind = excluded.kind, body = excluded.body",
};

const EVENT_PEOPLE: Table = Table {
    insert: "INSERT INTO event_people (task_id, seq, global_id) VALUES ",
    columns: 3,
    conflict: " ON CONFLICT (global_id, task_id, seq) DO NOTHING",
};

const PROGRESS: &str = "UPDATE tasks SET progress = $2, current_step = $3, cameras = $4, \
                        next_seq = CASE WHEN next_seq < $5 THEN $5 ELSE next_seq END \
                        WHERE task_id = $1 AND ended_ms IS NULL";

/// Rows by table.
#[derive(Default)]
pub(super) struct Batch<'a> {
    progress: Vec<&'a ProgressRecord>,
    tracks: Vec<(&'a TrackRecord, Option<i64>)>,
    positions: Vec<&'a PositionRecord>,
    people: Vec<&'a PersonRecord>,
    handoffs: Vec<&'a HandoffRecord>,
    events: Vec<&'a EventRecord>,
    /// Rows left out because they name a person who was erased.
    pub(super) erased: u64,
}

impl<'a> Batch<'a> {
    /// Sorts records, leaves out what names anybody of `erased`.
    pub(super) fn new(records: &'a [Record], erased: &HashSet<i64>) -> Self {
        let gone = |id: Option<i64>| id.is_some_and(|id| erased.contains(&id));
        let mut batch = Self::default();
        for record in records {
            match record {
                Record::Progress(row) => batch.progress.push(row),
                // The track stays, without whose it was.
                Record::Track(row) if gone(row.global_id) => batch.tracks.push((row, None)),
                Record::Track(row) => batch.tracks.push((row, row.global_id)),
                Record::Position(row) if !gone(row.global_id) => batch.positions.push(row),
                Record::Person(row) if !gone(Some(row.global_id)) && !gone(row.merged_into) => {
                    batch.people.push(row);
                }
                Record::Handoff(row) if !gone(row.global_id) => batch.handoffs.push(row),
                Record::Event(row) if row.global_ids.iter().all(|id| !erased.contains(id)) => {
                    batch.events.push(row);
                }
                _ => batch.erased += 1,
            }
        }
        batch
    }

    /// Writes all of it.
    pub(super) async fn write(
        &self,
        transaction: &mut Transaction,
        time_in_key: bool,
    ) -> Result<(), StoreError> {
        write(
            transaction,
            &PEOPLE,
            &self.people,
            |row| row.global_id,
            person,
        )
        .await?;
        let key = |(row, _): &(&TrackRecord, _)| (row.task_id, row.camera_id.clone(), row.track_id);
        write(transaction, &TRACKS, &self.tracks, key, |(row, id)| {
            track(row, *id)
        })
        .await?;
        let table = if time_in_key {
            &POSITIONS_BY_TIME
        } else {
            &POSITIONS
        };
        let key =
            |row: &&PositionRecord| (row.task_id, row.camera_id.clone(), row.frame, row.track_id);
        write(transaction, table, &self.positions, key, position).await?;
        let key = |row: &&HandoffRecord| (row.task_id, row.handoff_id);
        write(transaction, &HANDOFFS, &self.handoffs, key, handoff).await?;
        let key = |row: &&EventRecord| (row.task_id, row.seq);
        write(transaction, &EVENTS, &self.events, key, event).await?;
        let mut named = Vec::new();
        for row in &self.events {
            named.extend(row.global_ids.iter().map(|id| (row.task_id, row.seq, *id)));
        }
        let value = |(task, seq, id): &(uuid::Uuid, i64, i64)| values![*task, *seq, *id];
        write(transaction, &EVENT_PEOPLE, &named, |row| *row, value).await?;
        for row in &self.progress {
            transaction.run(DOING, PROGRESS, progress(row)).await?;
        }
        Ok(())
    }
}

/// Writes rows in order. A statement may not meet a key twice, so a row that comes again begins the
/// next one.
async fn write<R, K: Eq + Hash>(
    transaction: &mut Transaction,
    table: &Table,
    rows: &[R],
    key: impl Fn(&R) -> K,
    row_values: impl Fn(&R) -> Vec<Value>,
) -> Result<(), StoreError> {
    let mut start = 0;
    while start < rows.len() {
        let count = distinct(&rows[start..], &key);
        // The greatest power of two.
        let count = 1 << count.ilog2();
        let chunk = &rows[start..start + count];
        let mut values = Vec::with_capacity(count * table.columns);
        for row in chunk {
            values.extend(row_values(row));
        }
        transaction
            .run(DOING, &statement(table, count), values)
            .await?;
        start += count;
    }
    Ok(())
}

/// How many of the first rows, at most [`ROWS`], have keys of their own; at least 1.
fn distinct<R, K: Eq + Hash>(rows: &[R], key: impl Fn(&R) -> K) -> usize {
    let mut keys = HashSet::new();
    for row in rows.iter().take(ROWS) {
        if !keys.insert(key(row)) {
            break;
        }
    }
    keys.len().max(1)
}

/// The statement for `rows` rows.
fn statement(table: &Table, rows: usize) -> String {
    let mut sql = table.insert.to_string();
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        let first = row * table.columns + 1;
        sql.push_str(&placeholders(first, table.columns));
        sql.push(')');
    }
    sql.push_str(table.conflict);
    sql
}

/// `$first, …`, so many.
pub(super) fn placeholders(first: usize, count: usize) -> String {
    let names: Vec<String> = (first..first + count).map(|n| format!("${n}")).collect();
    names.join(", ")
}

fn person(row: &&PersonRecord) -> Vec<Value> {
    values![
        row.global_id,
        row.task_id,
        row.environment_id.as_str(),
        row.first_ms,
        row.last_ms,
        row.first_camera.as_str(),
        row.last_camera.as_str(),
        row.model.as_deref(),
        row.vector.as_deref().map(vector_bytes),
        row.crop.clone(),
        row.crop_quality,
        row.merged_into,
    ]
}

fn track(row: &TrackRecord, global_id: Option<i64>) -> Vec<Value> {
    values![
        row.task_id,
        &*row.camera_id,
        row.track_id,
        global_id,
        row.first_frame,
        row.last_frame,
        row.first_ms,
        row.last_ms,
    ]
}

fn position(row: &&PositionRecord) -> Vec<Value> {
    let [x1, y1, x2, y2] = row.bbox;
    values![
        row.task_id,
        &*row.camera_id,
        row.frame,
        row.track_id,
        row.time_ms,
        row.global_id,
        x1,
        y1,
        x2,
        y2,
        row.score,
        row.map.map(|[x, _]| x),
        row.map.map(|[_, y]| y),
    ]
}

fn handoff(row: &&HandoffRecord) -> Vec<Value> {
    values![
        row.task_id,
        row.handoff_id,
        row.state.name(),
        row.from_camera.as_str(),
        row.to_camera.as_deref(),
        row.candidates.as_deref(),
        row.track_id,
        row.global_id,
        row.triggered_ms,
        row.ended_ms,
        row.confidence,
        row.reason.as_deref(),
    ]
}

fn event(row: &&EventRecord) -> Vec<Value> {
    values![
        row.task_id,
        row.seq,
        row.time_ms,
        row.kind.as_str(),
        row.body.as_str(),
    ]
}

fn progress(row: &ProgressRecord) -> Vec<Value> {
    values![
        row.task_id,
        row.progress,
        row.current_step.as_str(),
        row.cameras.as_str(),
        row.next_seq,
    ]
}

/// A vector as it is stored: f32, little-endian.
pub(super) fn vector_bytes(vector: &[f32]) -> Vec<u8> {
    vector
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A vector as it was stored.
pub(super) fn vector_from(bytes: &[u8]) -> Result<Vec<f32>, StoreError> {
    let (values, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        let text = format!("a vector has {} bytes, no multiple of 4", bytes.len());
        return Err(StoreError::Data(text));
    }
    Ok(values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect())
}
