//! Erased means: not a byte of it in any file of the store.

use std::path::Path;

use mtmc::store::{EventRecord, Record, Store, TaskRecord};

use crate::material::{BEGIN, crop, draw, id, person, position, stored_task, vector};
use crate::open_file;

/// People of the test; enough for pages to be split and merged again and again.
const PEOPLE: i64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_an_erased_person_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open_file(&path).await;
    let task = stored_task(&store, "house").await;
    write_much(&store, &task).await;

    let gone = [7, 150, 299].map(|n| id(&task, n));
    for who in gone {
        assert_eq!(
            traces(folder.path(), who),
            [true; 3],
            "the search finds what is there"
        );
        store.erase_person(who).await.unwrap().unwrap();
        assert_eq!(traces(folder.path(), who), [false; 3], "{who}");
    }
    assert_eq!(
        traces(folder.path(), id(&task, 8)),
        [true; 3],
        "others stay"
    );
    // The log is empty, not merely written back.
    let log = std::fs::metadata(folder.path().join("store.db-wal")).unwrap();
    assert_eq!(log.len(), 0);
    // Neither writing on nor closing brings anything back.
    write_much(&store, &task).await;
    store.close().await.unwrap();
    for who in gone {
        assert_eq!(
            traces(folder.path(), who),
            [false; 3],
            "{who} after closing"
        );
    }
}

/// With a reader in the middle of a query, the log cannot be cut before it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_does_not_keep_anything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_file(&folder.path().join("store.db")).await;
    let task = stored_task(&store, "house").await;
    write_much(&store, &task).await;
    let reading = store.clone();
    let (begun, wait) = tokio::sync::oneshot::channel();
    let reader = tokio::spawn(async move {
        let mut begun = Some(begun);
        let slow = |_: i64, _: &[f32]| {
            if let Some(begun) = begun.take() {
                begun.send(()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(700));
            }
        };
        reading.each_vector("clip", None, slow).await.unwrap();
    });
    wait.await.unwrap();
    let who = id(&task, 42);
    store.erase_person(who).await.unwrap().unwrap();
    assert_eq!(traces(folder.path(), who), [false; 3]);
    reader.await.unwrap();
    store.close().await.unwrap();
}

/// Writes everybody three times, in another order and with vectors and pictures of other sizes.
async fn write_much(store: &Store, task: &TaskRecord) {
    let mut state = 1;
    for round in 0..3 {
        let mut order: Vec<i64> = (1..=PEOPLE).collect();
        order.sort_by_cached_key(|_| draw(&mut state));
        for n in order {
            let who = id(task, n);
            let mut row = person(task, who);
            let length = 300 + (draw(&mut state) % 3_000) as usize;
            // Every round's bytes begin with the same marker.
            row.crop = Some(crop(who, length));
            row.vector = Some(vector(who, 64 + (draw(&mut state) % 500) as usize));
            let event = EventRecord {
                task_id: task.task_id,
                seq: n,
                time_ms: BEGIN,
                kind: "track_started".to_string(),
                body: format!(r#"{{"note":"{}"}}"#, note(who)),
                global_ids: vec![who],
            };
            let place = position(task, "hall", round, n, Some(who), Some([1.0, 2.0]));
            let rows = vec![
                Record::Person(row),
                Record::Event(event),
                Record::Position(place),
            ];
            store.writer().push(rows).await;
        }
        store.writer().flush().await.unwrap();
    }
}

/// Text that only this person's message holds.
fn note(who: i64) -> String {
    let mut state = who as u64;
    format!("{:016x}{:016x}", draw(&mut state), draw(&mut state))
}

/// Whether any file holds the beginning of the vector, of the picture, or the message's text.
fn traces(folder: &Path, who: i64) -> [bool; 3] {
    let vector: Vec<u8> = vector(who, 4)
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let marks = [vector, crop(who, 24), note(who).into_bytes()];
    let mut found = [false; 3];
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for (found, mark) in found.iter_mut().zip(&marks) {
            *found |= bytes
                .windows(mark.len())
                .any(|window| window == mark.as_slice());
        }
    }
    found
}
