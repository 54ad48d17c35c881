//! Whether the store works.

use std::sync::{Mutex, PoisonError};

use super::error::StoreError;

/// Whether the store works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok,
    /// It cannot write, or cannot read: what is queued waits, and reads give errors. It recovers by
    /// itself.
    Degraded {
        /// Since when, in UTC milliseconds since 1970.
        since_ms: i64,
        /// What the database said last.
        reason: String,
    },
}

/// What goes wrong at the moment: since when, and the last error, of writes and of reads.
#[derive(Debug, Default)]
pub(super) struct HealthState(Mutex<Faults>);

#[derive(Debug, Default)]
struct Faults {
    write: Option<Fault>,
    read: Option<Fault>,
}

#[derive(Debug)]
struct Fault {
    since_ms: i64,
    reason: String,
}

impl HealthState {
    pub(super) fn health(&self) -> Health {
        let faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match faults.write.as_ref().or(faults.read.as_ref()) {
            None => Health::Ok,
            Some(fault) => Health::Degraded {
                since_ms: fault.since_ms,
                reason: fault.reason.clone(),
            },
        }
    }

    /// Notes how a write went.
    pub(super) fn wrote<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            // Who can write can read.
            Ok(_) => {
                if faults.write.is_some() {
                    tracing::info!("the store can write again");
                }
                *faults = Faults::default();
            }
            Err(error) => note(&mut faults.write, error),
        }
        drop(faults);
        result
    }

    /// Notes how a read went.
    pub(super) fn read<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Ok(_) => faults.read = None,
            Err(error) => note(&mut faults.read, error),
        }
        drop(faults);
        result
    }

    /// Whether something was wrong at the last try.
    pub(super) fn is_degraded(&self) -> bool {
        self.health() != Health::Ok
    }
}

/// Only what may pass is a matter of health: a refused row says nothing of the database.
fn note(fault: &mut Option<Fault>, error: &StoreError) {
    if !matches!(error, StoreError::Unavailable { .. }) {
        return;
    }
    let reason = error.to_string();
    if let Some(fault) = fault {
        fault.reason = reason;
        return;
    }
    tracing::error!(reason, "the store is degraded");
    let since_ms = super::now_ms();
    *fault = Some(Fault { since_ms, reason });
}
