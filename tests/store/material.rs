//! Made-up rows.

use std::sync::Arc;

use mtmc::store::{
    EventRecord, HandoffRecord, HandoffState, IDS_PER_TASK, PersonRecord, PositionRecord,
    ProgressRecord, Record, Store, TaskRecord, TrackRecord,
};
use uuid::Uuid;

/// Begin of all that is made up: 2026-01-01T00:00:00Z.
pub const BEGIN: i64 = 1_767_225_600_000;

/// A task that waits, with a number of the store's.
pub async fn task(store: &Store, environment: &str) -> TaskRecord {
    let number = store.next_task_number().await.unwrap();
    TaskRecord {
        task_id: Uuid::now_v7(),
        number,
        route: "detection".to_string(),
        environment_id: environment.to_string(),
        status: "QUEUED".to_string(),
        progress: 0.0,
        current_step: "Waiting".to_string(),
        cameras: "{}".to_string(),
        request: r#"{"environment_id":"house"}"#.to_string(),
        error: None,
        created_ms: BEGIN,
        started_ms: None,
        ended_ms: None,
        next_seq: 0,
    }
}

/// A stored task that waits.
pub async fn stored_task(store: &Store, environment: &str) -> TaskRecord {
    let task = task(store, environment).await;
    store.create_task(&task, None).await.unwrap();
    task
}

/// The task's `n`-th identity, from 1.
pub fn id(task: &TaskRecord, n: i64) -> i64 {
    task.number * IDS_PER_TASK + n
}

/// A position at second `second`, of a track that is a person if `global_id` says so.
pub fn position(
    task: &TaskRecord,
    camera: &str,
    second: i64,
    track_id: i64,
    global_id: Option<i64>,
    map: Option<[f64; 2]>,
) -> PositionRecord {
    PositionRecord {
        task_id: task.task_id,
        camera_id: Arc::from(camera),
        frame: second * 10,
        track_id,
        time_ms: BEGIN + second * 1000,
        global_id,
        bbox: [1.5, 2.0, 33.25, 80.0],
        score: 0.75,
        map,
    }
}

/// A track from second to second.
pub fn track(
    task: &TaskRecord,
    camera: &str,
    track_id: i64,
    global_id: Option<i64>,
    [first, last]: [i64; 2],
) -> TrackRecord {
    TrackRecord {
        task_id: task.task_id,
        camera_id: Arc::from(camera),
        track_id,
        global_id,
        first_frame: first * 10,
        last_frame: last * 10,
        first_ms: BEGIN + first * 1000,
        last_ms: BEGIN + last * 1000,
    }
}

/// A person with a vector and a picture of bytes that follow from the identity.
pub fn person(task: &TaskRecord, global_id: i64) -> PersonRecord {
    PersonRecord {
        global_id,
        task_id: task.task_id,
        environment_id: task.environment_id.clone(),
        first_ms: BEGIN,
        last_ms: BEGIN + 1000,
        first_camera: "hall".to_string(),
        last_camera: "yard".to_string(),
        model: Some("clip".to_string()),
        vector: Some(vector(global_id, 512)),
        crop: Some(crop(global_id, 3000)),
        crop_quality: Some(0.5),
        merged_into: None,
    }
}

/// A vector that nobody else has.
pub fn vector(seed: i64, length: usize) -> Vec<f32> {
    let mut state = seed as u64;
    (0..length)
        .map(|_| draw(&mut state) as f32 / u64::MAX as f32)
        .collect()
}

/// Bytes of a picture that nobody else has.
pub fn crop(seed: i64, length: usize) -> Vec<u8> {
    let mut state = !seed as u64;
    (0..length).map(|_| draw(&mut state) as u8).collect()
}

/// The generator splitmix64 (Steele, Lea, Flood 2014).
pub fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What a task of two cameras and four people writes in seconds `seconds`, of each second in the same
/// order.
pub fn run(task: &TaskRecord, seconds: std::ops::Range<i64>) -> Vec<Record> {
    let mut rows = Vec::new();
    for second in seconds {
        for (index, camera) in ["hall", "yard"].into_iter().enumerate() {
            for n in 1..=4 {
                // Two of them cannot be placed, and are nobody for their first seconds.
                let map = (n < 3).then_some([n as f64, second as f64]);
                let global_id = (second > 2).then(|| id(task, n));
                let track_id = 10 * index as i64 + n;
                let row = position(task, camera, second, track_id, global_id, map);
                rows.push(Record::Position(row));
                let row = track(task, camera, track_id, global_id, [0, second]);
                rows.push(Record::Track(row));
            }
        }
        if second > 2 {
            let n = 1 + second % 4;
            rows.extend(about(task, second, id(task, n)));
        }
        rows.push(Record::Progress(ProgressRecord {
            task_id: task.task_id,
            progress: second as f64,
            current_step: format!("second {second}"),
            cameras: format!(r#"{{"hall":{second}}}"#),
            next_seq: second,
        }));
    }
    rows
}

/// News of one person.
fn about(task: &TaskRecord, second: i64, global_id: i64) -> Vec<Record> {
    let time_ms = BEGIN + second * 1000;
    let mut seen = person(task, global_id);
    seen.last_ms = time_ms;
    seen.vector = Some(vector(global_id ^ second, 16));
    seen.crop = Some(crop(global_id ^ second, 64));
    seen.crop_quality = Some((second % 7) as f64);
    let ended = second % 2 == 0;
    let handoff = HandoffRecord {
        task_id: task.task_id,
        handoff_id: second / 2,
        state: if ended {
            HandoffState::Triggered
        } else {
            HandoffState::Completed
        },
        from_camera: "hall".to_string(),
        to_camera: (!ended).then(|| "yard".to_string()),
        candidates: ended.then(|| r#"["yard"]"#.to_string()),
        track_id: Some(1),
        global_id: Some(global_id),
        triggered_ms: ended.then_some(time_ms),
        ended_ms: (!ended).then_some(time_ms),
        confidence: (!ended).then_some(0.5),
        reason: None,
    };
    let event = EventRecord {
        task_id: task.task_id,
        seq: second,
        time_ms,
        kind: "handoff".to_string(),
        body: format!(r#"{{"global_id":{global_id}}}"#),
        global_ids: vec![global_id],
    };
    vec![
        Record::Person(seen),
        Record::Handoff(handoff),
        Record::Event(event),
    ]
}
