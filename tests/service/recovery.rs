//! Killed at any moment, the service goes on: what it acknowledged is there, and tasks find what they
//! would have found without the interruption. The expected rows are those of an undisturbed run.

use std::path::Path;
use std::time::Duration;

use mtmc_models::testing::shared_video;
use serde_json::json;
use sqlx::Row as _;

use super::place::Place;
use super::server::TASKS;

const FRAMES: u64 = 50;

/// Both cameras of `hall` show one real video of people; weights are real, and states are saved often.
fn place() -> Option<Place> {
    let video = shared_video("data/vtest-pets09-s2l1/vtest.avi")?;
    let mut place = Place::new();
    place.add_detector()?;
    place.add_encoder()?;
    let mut text = "id = \"hall\"\n".to_string();
    for camera in ["c09", "c12"] {
        let source = video.display();
        text += &format!("[[cameras]]\nid = \"{camera}\"\nsource = '{source}'\n");
    }
    place.add_environment("hall.toml", &text);
    place.add(&["--snapshot-every", "10"]);
    Some(place)
}

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
    let (Some(whole), Some(place)) = (place(), place()) else {
        return;
    };
    let request = json!({"environment_id": "hall", "max_frames": FRAMES});
    let server = whole.serve();
    let task = server.start_task(&request);
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
    let key = [("Idempotency-Key", "first")];
    let accepted = server.ask(&request, &key);
    // Acknowledged, and killed at once: it is known all the same, and so is what was answered.
    server.kill();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let task = accepted.json()["task_id"].as_str().unwrap().to_string();
    server = place.serve();
    let again = server.ask(&request, &key);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.text(), accepted.text());
    assert_eq!(server.json(TASKS)["count"], 1);
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
    let more: Vec<&String> = found.iter().filter(|row| !expected.contains(row)).collect();
    let missing: Vec<&String> = expected.iter().filter(|row| !found.contains(row)).collect();
    assert!(
        found == expected,
        "missing: {missing:#?}, but there are: {more:#?}"
    );
    // Nothing is left of the snapshots.
    let left = std::fs::read_dir(place.data().join("tasks"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}
