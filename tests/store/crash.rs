//! A process that is killed has lost nothing of what it acknowledged.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mtmc::store::{CountFilter, Record, Written};

use crate::material::{BEGIN, position, stored_task};
use crate::open_file;

/// Where the child writes.
const PLACE: &str = "MTMC_TEST_STORE";
/// Rows that are acknowledged together.
const ROWS: i64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    for milliseconds in [10, 60, 135, 220, 340] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let acknowledged = write_and_kill(&path, Duration::from_millis(milliseconds));
        let store = open_file(&path).await;
        let tasks = store.unfinished_tasks().await.unwrap();
        assert_eq!(tasks.len(), 1);
        assert!(
            tasks[0].next_seq >= acknowledged,
            "{} {acknowledged}",
            tasks[0].next_seq
        );
        let filter = CountFilter {
            environment_id: None,
            task_id: Some(tasks[0].task_id),
            camera_id: None,
            from_ms: BEGIN,
            to_ms: BEGIN + acknowledged * ROWS * 1000,
        };
        let counts = store.camera_counts(&filter, i64::MAX).await.unwrap();
        let positions: u64 = counts.iter().map(|count| count.positions).sum();
        assert_eq!(
            positions,
            (acknowledged * ROWS) as u64,
            "after {milliseconds} ms"
        );
        store.close().await.unwrap();
    }
}

/// Runs the child, kills it so long after its first word; the last number that it acknowledged.
fn write_and_kill(path: &Path, after: Duration) -> i64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_writes", "--ignored", "--nocapture"])
        .env(PLACE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut killed = None;
    let mut acknowledged = 0;
    while let Some(Ok(line)) = lines.next() {
        let Some((_, number)) = line.split_once("acknowledged ") else {
            continue;
        };
        acknowledged = number.parse().unwrap();
        let kill = *killed.get_or_insert(Instant::now() + after);
        if Instant::now() >= kill {
            // SIGKILL; what is in the pipe already was acknowledged and is read to its end.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged > 0);
    acknowledged
}

/// The child: writes and acknowledges until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test, which kills it"]
async fn child_writes() {
    let Ok(path) = std::env::var(PLACE) else {
        return;
    };
    let store = open_file(Path::new(&path)).await;
    let mut task = stored_task(&store, "house").await;
    let writer = store.writer();
    for number in 1.. {
        let mut rows = Vec::new();
        for second in (number - 1) * ROWS..number * ROWS {
            rows.push(Record::Position(position(
                &task, "hall", second, 1, None, None,
            )));
        }
        writer.push(rows).await;
        task.next_seq = number;
        assert_eq!(store.update_task(&task).await.unwrap(), Written::Durable);
        writer.flush().await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {number}").unwrap();
        out.flush().unwrap();
    }
}
