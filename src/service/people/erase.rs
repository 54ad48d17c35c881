//! Erasing a person wherever the service keeps it: running tasks, their snapshots and latest
//! messages, then the store.
//!
//! The tasks come first: when the store forgets who was merged with whom, nobody must need to know.
//! What was uploaded is not touched: identities of uploads are their own, and an upload is removed as a
//! whole (`DELETE /api/inference/video/{id}`).

use axum::http::StatusCode;
use tracing::{info, warn};

use crate::service::SharedApp;
use crate::service::problem::Problem;
use crate::service::tasks::ForgetError;
use crate::store::{Erased, StoreError};

/// Times that a person's identities are looked up anew, since they may be merged meanwhile.
const ROUNDS: usize = 3;

/// Erases a person under all of its identities; what went, and from how many tasks. `None` if it is
/// not known.
///
/// # Errors
/// A task does not get to it in time, or the store cannot write. A second call does the rest.
pub async fn erase(app: &SharedApp, global_id: i64) -> Result<Option<(Erased, u64)>, Problem> {
    // What was seen so far must be in the store to be found there; a database that is away says so
    // below.
    flush(app).await;
    let mut tasks = 0;
    let mut done: Vec<i64> = Vec::new();
    for _ in 0..ROUNDS {
        let failed = |error: StoreError| Problem::store(&error);
        let ids = app.store.identities(global_id).await.map_err(failed)?;
        if ids.iter().all(|id| done.contains(id)) {
            break;
        }
        let person = app.store.person(global_id).await.map_err(failed)?;
        let owner = person.map(|person| person.task_id);
        let forgotten = app.tasks.forget(&ids, owner).await;
        tasks = tasks.max(forgotten.map_err(|error| late(&error))?);
        done = ids;
        flush(app).await;
    }
    let erased = app.store.erase_person(global_id).await;
    let Some(erased) = erased.map_err(|error| Problem::store(&error))? else {
        return Ok(None);
    };
    info!(global_id, tasks, "a person was erased");
    Ok(Some((erased, tasks)))
}

async fn flush(app: &SharedApp) {
    if let Err(error) = app.store.writer().flush().await {
        warn!(%error, "results wait to be stored");
    }
}

fn late(error: &ForgetError) -> Problem {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Problem::new(status, "not-erased-yet", error.to_string()).retry_after(10)
}
