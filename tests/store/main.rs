//! The store from outside: the same suite on SQLite files and, where PostgreSQL is installed, on a
//! server of this test's own; then what only happens to one of them.

#![allow(clippy::unwrap_used)]

mod crash;
mod disk;
mod erasure;
mod material;
mod postgres;
mod queue;
mod suite;

use std::io::Write as _;

use mtmc::store::{Store, StoreSettings};

/// Runs every part of the suite on SQLite, one test each, and all of them on PostgreSQL.
macro_rules! suites {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let folder = tempfile::tempdir().unwrap();
                    let store = super::open_file(&folder.path().join("store.db")).await;
                    super::suite::$name(&store).await;
                    store.close().await.unwrap();
                }
            )*
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn postgresql() {
            let Some(server) = postgres::Server::start() else {
                return;
            };
            $(
                eprintln!("{}", stringify!($name));
                let store = server.store(stringify!($name)).await;
                suite::$name(&store).await;
                store.close().await.unwrap();
            )*
            postgres::a_lost_server_comes_back(server).await;
        }
    };
}

suites!(
    tasks_come_back,
    a_state_does_not_undo_another,
    a_request_is_done_once,
    rows_twice_are_rows_once,
    people_and_their_journeys,
    counts_of_people,
    old_and_too_much_goes,
    erased_people_stay_away,
    environments_are_removed,
    keys_come_back,
    one_refused_row_is_alone,
);

/// Opens a SQLite file.
async fn open_file(path: &std::path::Path) -> Store {
    Store::open(settings(path.to_str().unwrap())).await.unwrap()
}

/// Settings that do not make tests wait.
fn settings(address: &str) -> StoreSettings {
    StoreSettings {
        batch_every: std::time::Duration::from_millis(20),
        ..StoreSettings::new(address)
    }
}

/// Says why a test is skipped; not by `eprintln!`, which the harness hides when a test passes.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
