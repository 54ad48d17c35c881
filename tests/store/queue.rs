//! The queue while the database is locked, moved away, newer, or closed.

use std::time::Duration;

use mtmc::store::{CountFilter, Health, Record, Store, StoreError, StoreSettings, Written};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::material::{BEGIN, id, person, position, stored_task};
use crate::{open_file, settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_drops_positions_and_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::open(StoreSettings {
        queue_rows: 100,
        patience: Duration::from_millis(50),
        flush_patience: Duration::from_secs(30),
        ..settings(path.to_str().unwrap())
    });
    let store = store.await.unwrap();
    let mut task = stored_task(&store, "house").await;

    // Another program writes for long.
    let options = SqliteConnectOptions::new().filename(&path);
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let writer = store.writer();
    let mut rows = Vec::new();
    for second in 0..150 {
        let row = position(&task, "hall", second, 1, Some(id(&task, 1)), None);
        rows.push(Record::Position(row));
    }
    let pushed = writer.push(rows.clone()).await;
    assert_eq!((pushed.queued, pushed.dropped), (100, 50));
    // A thread is told the same, and a person finds room where positions do not.
    let blocking = writer.clone();
    rows.truncate(3);
    let again = tokio::task::spawn_blocking(move || blocking.push_blocking(rows));
    assert_eq!(again.await.unwrap().dropped, 3);
    let who = Record::Person(person(&task, id(&task, 1)));
    assert_eq!(writer.push(vec![who]).await.queued, 1);
    // A task's state waits for its turn and is not lost.
    task.status = "PROCESSING".to_string();
    let written = store.update_task(&task).await.unwrap();
    assert!(matches!(written, Written::Late(_)), "{written:?}");
    assert!(matches!(store.health(), Health::Degraded { .. }));

    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    let counts = writer.flush().await.unwrap();
    assert_eq!((counts.dropped_rows, counts.dropped_others), (53, 0));
    assert_eq!(
        (counts.settled, counts.waiting, counts.rejected),
        (101, 0, 0)
    );
    store.check().await.unwrap();
    assert_eq!(store.health(), Health::Ok);
    let stored = loop {
        let stored = store.task(task.task_id).await.unwrap().unwrap();
        if stored.status != "QUEUED" {
            break stored;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(stored, task);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_moved_away_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let away = folder.path().join("away.db");
    let store = Store::open(StoreSettings {
        flush_patience: Duration::from_secs(2),
        ..settings(path.to_str().unwrap())
    });
    let store = store.await.unwrap();
    let task = stored_task(&store, "house").await;
    std::fs::rename(&path, &away).unwrap();
    let row = position(&task, "hall", 1, 1, None, None);
    store.writer().push(vec![Record::Position(row)]).await;
    let flushed = store.writer().flush().await;
    assert!(
        matches!(flushed, Err(StoreError::NotDurable { rows: 1, .. })),
        "{flushed:?}"
    );
    let Health::Degraded { since_ms, reason } = store.health() else {
        panic!("healthy without a file");
    };
    assert!(since_ms > BEGIN && reason.contains("store.db"), "{reason}");
    std::fs::rename(&away, &path).unwrap();
    while store.writer().flush().await.is_err() {}
    assert_eq!(store.health(), Health::Ok);
    let filter = CountFilter {
        environment_id: None,
        task_id: None,
        camera_id: None,
        from_ms: 0,
        to_ms: i64::MAX,
    };
    let counts = store.camera_counts(&filter, i64::MAX).await.unwrap();
    assert_eq!(counts[0].positions, 1);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_or_foreign_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    open_file(&path).await.close().await.unwrap();
    let options = SqliteConnectOptions::new().filename(&path);
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    for (change, expected) in [
        (
            "INSERT INTO schema_steps VALUES (99, 'x', 0)",
            StoreError::Newer {
                found: 99,
                known: 1,
            },
        ),
        (
            "DELETE FROM schema_steps WHERE version = 99; UPDATE schema_steps SET checksum = 'x'",
            StoreError::Foreign { version: 1 },
        ),
    ] {
        sqlx::raw_sql(change).execute(&mut other).await.unwrap();
        let opened = Store::open(settings(path.to_str().unwrap())).await;
        assert_eq!(opened.err(), Some(expected));
    }
}

#[tokio::test]
async fn wrong_addresses_say_so_without_the_password() {
    for address in ["", "mysql://u:secret@h/d", "postgres://u:secret@[/d"] {
        let error = Store::open(StoreSettings::new(address))
            .await
            .err()
            .unwrap();
        assert!(
            matches!(error, StoreError::Address(_)),
            "{address}: {error}"
        );
        assert!(!error.to_string().contains("secret"));
    }
    let error = Store::open(StoreSettings::new("postgres://u:secret@127.0.0.1:1/d")).await;
    let error = error.err().unwrap();
    assert!(error.is_transient(), "{error}");
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test]
async fn a_closed_store_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_file(&folder.path().join("store.db")).await;
    let task = stored_task(&store, "house").await;
    store.close().await.unwrap();
    let row = position(&task, "hall", 1, 1, None, None);
    let pushed = store.writer().push(vec![Record::Position(row)]).await;
    assert_eq!((pushed.queued, pushed.dropped), (0, 1));
    assert!(store.task(task.task_id).await.is_err());
}
