//! What can go wrong in the store.

use std::time::Duration;

/// An error of the store. Texts never hold the database's address, which may hold a password.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The address is none that is understood.
    #[error("the store's address: {0}")]
    Address(String),
    /// A newer program has changed the database in ways that this one does not know.
    #[error("the database is of version {found}, this program knows versions up to {known}")]
    Newer {
        /// Version of the database.
        found: i64,
        /// Newest version that this program knows.
        known: i64,
    },
    /// The database holds a step of its schema that is not this program's.
    #[error("schema step {version} of the database is not the one of this program")]
    Foreign {
        /// Version of the step.
        version: i64,
    },
    /// The database cannot be reached or cannot write now: lost, full, locked. Trying again later may
    /// help.
    #[error("the store cannot {doing} now: {reason}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        reason: String,
    },
    /// The database will never take this: a constraint or a type is violated.
    #[error("the store refuses to {doing}: {reason}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        reason: String,
    },
    /// A stored value is not what it should be.
    #[error("the store holds a wrong value: {0}")]
    Data(String),
    /// More is asked for than one answer may hold.
    #[error("{0}")]
    TooMuch(String),
    /// Rows were not durable in time; they stay queued.
    #[error("{rows} rows are not written after {} s", waited.as_secs())]
    NotDurable {
        /// Rows that wait.
        rows: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NotDurable { .. })
    }

    /// What `error` means for whoever was `doing` something.
    pub(super) fn new(doing: &'static str, error: &sqlx::Error) -> Self {
        let reason = error.to_string();
        match error {
            sqlx::Error::Database(inner) if is_of_data(inner.as_ref()) => {
                Self::Refused { doing, reason }
            }
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => Self::Data(reason),
            sqlx::Error::Encode(_) => Self::Refused { doing, reason },
            _ => Self::Unavailable { doing, reason },
        }
    }
}

/// Whether the data are to blame, and not the database's state.
fn is_of_data(error: &dyn sqlx::error::DatabaseError) -> bool {
    let Some(code) = error.code() else {
        return false;
    };
    if error
        .try_downcast_ref::<sqlx::sqlite::SqliteError>()
        .is_some()
    {
        // Primary result codes of SQLite: ERROR, TOOBIG, CONSTRAINT, MISMATCH, RANGE.
        let primary = code.parse::<i64>().map_or(0, |code| code & 0xff);
        return matches!(primary, 1 | 18 | 19 | 20 | 25);
    }
    // Classes of SQLSTATE: data exception, integrity constraint, syntax or access rule.
    ["22", "23", "42"]
        .iter()
        .any(|class| code.starts_with(class))
}
