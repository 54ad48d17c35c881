//! A PostgreSQL server of this test's own, and what happens when it goes away.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mtmc::store::{CountFilter, Health, Record, Store, StoreSettings, Written};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tempfile::TempDir;

use crate::material::{BEGIN, position, stored_task};
use crate::{settings, skipped};

/// A server that listens on a socket in a temporary folder.
pub struct Server {
    folder: TempDir,
    postgres: PathBuf,
    child: Child,
}

impl Server {
    /// Starts one, if PostgreSQL is installed and a user for it can be had.
    pub fn start() -> Option<Self> {
        let Some(postgres) = find("postgres").and_then(|path| path.canonicalize().ok()) else {
            skipped("PostgreSQL is not installed");
            return None;
        };
        let folder = tempfile::Builder::new()
            .prefix("mtmc-pg")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let data = folder.path().join("data");
        let made = as_user(&postgres.with_file_name("initdb"))
            .args([
                "--username=mtmc",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "-D",
            ])
            .arg(&data)
            .stdout(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            skipped("no PostgreSQL database can be made as this user");
            return None;
        }
        let child = spawn(&postgres, folder.path());
        Some(Self {
            folder,
            postgres,
            child,
        })
    }

    fn url(&self, database: &str) -> String {
        let folder = self.folder.path().display();
        format!("postgres:///{database}?host={folder}&user=mtmc")
    }

    /// A store in a new database.
    pub async fn store(&self, database: &str) -> Store {
        let mut tries = 0;
        let mut connection = loop {
            match PgConnection::connect(&self.url("postgres")).await {
                Ok(connection) => break connection,
                Err(error) => assert!(tries < 200, "{error}"),
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let sql = format!("CREATE DATABASE {database}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        let settings = StoreSettings {
            flush_patience: Duration::from_secs(3),
            ..settings(&self.url(database))
        };
        Store::open(settings).await.unwrap()
    }

    /// Ends it without a word to anyone.
    fn stop(&mut self) {
        // SIGQUIT: the server ends at once, as after a crash, but with its children.
        let _ = Command::new("kill")
            .args(["-QUIT", &self.child.id().to_string()])
            .status();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.child = spawn(&self.postgres, self.folder.path());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(postgres: &Path, folder: &Path) -> Child {
    as_user(postgres)
        .arg("-D")
        .arg(folder.join("data"))
        // Only processes die here, never the machine: nothing needs to be forced to the disk.
        .args(["-c", "fsync=off", "-c", "listen_addresses=", "-k"])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// PostgreSQL refuses to run as root: it runs as the user `postgres` then.
fn as_user(program: &Path) -> Command {
    let root = std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0);
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    // The server ends with the test that started it, however that ends.
    command
        .args(["--pdeathsig=QUIT", "--"])
        .arg(program)
        .current_dir("/");
    command
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.exists())
}

/// The server dies under load and is started again: everything is there.
pub async fn a_lost_server_comes_back(mut server: Server) {
    let store = server.store("lost").await;
    let mut task = stored_task(&store, "house").await;
    let writer = store.writer();
    let rows = |from: i64| {
        let mut rows = Vec::new();
        for second in from..from + 500 {
            rows.push(Record::Position(position(
                &task, "hall", second, 1, None, None,
            )));
        }
        rows
    };
    writer.push(rows(0)).await;
    writer.flush().await.unwrap();
    writer.push(rows(500)).await;
    server.stop();
    writer.push(rows(1000)).await;
    let lost = writer.flush().await;
    assert!(lost.is_err(), "{lost:?}");
    let Health::Degraded { .. } = store.health() else {
        panic!("healthy without a server");
    };
    task.status = "STOPPED".to_string();
    let written = store.update_task(&task).await.unwrap();
    assert!(matches!(written, Written::Late(_)), "{written:?}");
    assert!(store.task(task.task_id).await.is_err());

    server.restart();
    let mut tries = 0;
    while writer.flush().await.is_err() {
        tries += 1;
        assert!(tries < 20, "{:?}", store.health());
    }
    let filter = CountFilter {
        environment_id: None,
        task_id: None,
        camera_id: None,
        from_ms: BEGIN,
        to_ms: i64::MAX,
    };
    let counts = store.camera_counts(&filter, i64::MAX).await.unwrap();
    assert_eq!(counts[0].positions, 1500);
    let mut waited = 0;
    while store.task(task.task_id).await.unwrap().unwrap().status != "STOPPED" {
        waited += 1;
        assert!(waited < 100);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.health(), Health::Ok);
    store.close().await.unwrap();
}
