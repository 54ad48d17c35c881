//! Killed at any moment, the service goes on: what it acknowledged is there, and tasks find what they
//! would have found without the interruption. The expected rows are those of an undisturbed run.

#![allow(clippy::unwrap_used)]

mod http;
mod server;

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use server::Place;
use sqlx::Row as _;

const FRAMES: u64 = 50;

/// All that a task found, times counted from its first position.
fn rows(data: &Path) -> Vec<String> {
    let address = format!("sqlite://{}", data.join("store.sqlite").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let pool = sqlx::SqlitePool::connect(&address).await.unwrap();
        let mut rows = Vec::new();
        for sql in [
            "SELECT 'position ' || camera_id || ' ' || frame || ' ' || track_id || ' ' || \
             (time_ms - (SELECT MIN(time_ms) FROM positions)) || ' ' || \
             COALESCE(global_id, '-') || ' ' || x1 || ' ' || y1 || ' ' || x2 || ' ' || y2 || ' ' || \
             score FROM positions ORDER BY camera_id, frame, track_id",
            "SELECT 'track ' || camera_id || ' ' || track_id || ' ' || COALESCE(global_id, '-') \
             || ' ' || first_frame || ' ' || last_frame FROM tracks ORDER BY camera_id, track_id",
            "SELECT 'person ' || global_id || ' ' || first_camera || ' ' || \
             (last_ms - first_ms) || ' ' || COALESCE(merged_into, '-') \
             FROM people ORDER BY global_id",
        ] {
            for row in sqlx::query(sql).fetch_all(&pool).await.unwrap() {
                rows.push(row.get::<String, _>(0));
            }
        }
        rows
    })
}

#[test]
fn a_killed_service_goes_on_as_if_nothing_had_happened() {
    let (Some(whole), Some(place)) = (Place::new(), Place::new()) else {
        return;
    };
    let request = json!({"environment_id": "hall", "max_frames": FRAMES});
    let server = whole.serve();
    let task = server.start(&request);
    server.wait(&task, |status| status["status"] == "COMPLETED");
    drop(server);
    let expected = rows(&whole.data());
    let of = |kind: &str| expected.iter().filter(|row| row.starts_with(kind)).count();
    assert!(
        of("position") > 200 && of("person") > 2,
        "{}",
        expected.len()
    );

    let mut server = place.serve();
    let task = server.start(&request);
    // Acknowledged, and killed at once: it is known all the same.
    server.kill();
    // Moments spread over a task's steps, snapshots and writes, without a pattern.
    for (round, pause) in [37, 311, 150, 223].into_iter().enumerate() {
        server = place.serve();
        // Some time after it went on a little.
        let least = round as f64 * 15.0;
        server.wait(&task, |status| {
            status["progress"].as_f64().unwrap() > least || status["status"] == "COMPLETED"
        });
        std::thread::sleep(Duration::from_millis(pause));
        server.kill();
    }
    server = place.serve();
    let end = server.wait(&task, |status| {
        status["status"] != "QUEUED" && {
            let status = status["status"].as_str().unwrap();
            ["COMPLETED", "FAILED", "STOPPED"].contains(&status)
        }
    });
    assert_eq!(end["status"], "COMPLETED", "{end} {}", server.log());
    assert!(end["progress"].as_f64().unwrap() > 99.9, "{end}");
    drop(server);
    let found = rows(&place.data());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
    // Nothing is left of the snapshots.
    let left = std::fs::read_dir(place.data().join("tasks"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}
