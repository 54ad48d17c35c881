//! A full disk: a small `tmpfs`, which takes the right to mount one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mtmc::store::{CountFilter, Health, Record, Store, StoreSettings};

use crate::material::{BEGIN, person, position, stored_task};
use crate::{settings, skipped};

/// A mounted file system of 3 MB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_path_buf()));
        }
        skipped("a full disk needs the right to mount a tmpfs");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_degrades_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::new(folder.path()) else {
        return;
    };
    let path = disk.0.join("store.db");
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![1; 1_500_000]).unwrap();
    let store = Store::open(StoreSettings {
        flush_patience: Duration::from_millis(1500),
        ..settings(path.to_str().unwrap())
    });
    let store = store.await.unwrap();
    let task = stored_task(&store, "house").await;
    let writer = store.writer();
    let mut pushed = 0;
    let mut acknowledged = 0;
    while pushed < 40 {
        pushed += 1;
        let mut rows = Vec::new();
        for second in 0..100 {
            let row = position(&task, "hall", second, pushed, None, None);
            rows.push(Record::Position(row));
        }
        rows.push(Record::Person(person(&task, pushed)));
        writer.push(rows).await;
        if writer.flush().await.is_err() {
            break;
        }
        acknowledged = pushed;
    }
    assert!(
        acknowledged > 0 && pushed > acknowledged,
        "{acknowledged} {pushed}"
    );
    let Health::Degraded { reason, .. } = store.health() else {
        panic!("healthy on a full disk");
    };
    assert!(
        reason.contains("full") || reason.contains("I/O"),
        "{reason}"
    );
    // What was acknowledged can be read all the while.
    assert!(positions(&store).await >= (acknowledged * 100) as u64);

    // Room again: everything that waited is written by itself.
    std::fs::remove_file(&filler).unwrap();
    let mut tries = 0;
    while let Err(error) = writer.flush().await {
        tries += 1;
        assert!(
            tries < 10,
            "{error}, {:?}, {:?}",
            store.health(),
            sizes(&disk.0)
        );
    }
    assert_eq!(store.health(), Health::Ok);
    assert_eq!(positions(&store).await, (pushed * 100) as u64);
    let counts = writer.counts();
    assert_eq!(
        (counts.dropped_rows, counts.rejected, counts.waiting),
        (0, 0, 0)
    );
    store.close().await.unwrap();
}

/// Bytes of the files.
fn sizes(folder: &Path) -> Vec<(String, u64)> {
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        sizes.push((name, entry.metadata().unwrap().len()));
    }
    sizes
}

async fn positions(store: &Store) -> u64 {
    let filter = CountFilter {
        environment_id: None,
        task_id: None,
        camera_id: None,
        from_ms: BEGIN,
        to_ms: i64::MAX,
    };
    let counts = store.camera_counts(&filter, i64::MAX).await.unwrap();
    counts.iter().map(|count| count.positions).sum()
}
