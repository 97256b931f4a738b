//! What can go wrong in the store, sorted by what a caller does about it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the store did not do what was asked. Nothing half-done is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed the resource first.
    #[error("the resource was changed meanwhile: its generation is now {current}")]
    Conflict {
        /// The generation in force.
        current: i64,
    },
    /// It does not exist, was deleted, or lies outside the filter.
    #[error("there is no {kind} `{id}`")]
    NotFound {
        /// Kind of resource.
        kind: &'static str,
        /// What was looked for.
        id: String,
    },
    /// The name is taken among the living resources of this owner.
    #[error("a {kind} named `{name}` exists already")]
    Exists {
        /// Kind of resource.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The lease went to another holder: this one must stop.
    #[error("lease `{name}` is no longer held at epoch {epoch}")]
    Fenced {
        /// The lease.
        name: String,
        /// The epoch that was believed.
        epoch: i64,
    },
    /// Another Galerne serves this database.
    #[error("the database is served by {holder} since {since}")]
    Served {
        /// Which one.
        holder: String,
        /// Since when.
        since: jiff::Timestamp,
    },
    /// Usage records before these are missing.
    #[error("usage record {expected} of spool {spool} is missing: the batch goes on with {got}")]
    Gap {
        /// The spool.
        spool: i64,
        /// The sequence that must come next.
        expected: i64,
        /// The sequence that came.
        got: i64,
    },
    /// An operator has given the spool up: what it was lent is free, and its usage would be spent twice.
    #[error("spool {spool} was forsaken by an operator: its usage is not settled any more")]
    Forsaken {
        /// The spool.
        spool: i64,
    },
    /// A usage record or reading that cannot be booked.
    #[error("cannot book record {sequence}: {why}")]
    BadRecord {
        /// Its sequence.
        sequence: i64,
        /// Why.
        why: String,
    },
    /// A lock was not free in time, or the database asked to try again.
    #[error("the database is busy")]
    Busy(#[source] sqlx::Error),
    /// No room on the disk; the transaction was rolled back whole.
    #[error("the disk of the database is full")]
    DiskFull(#[source] sqlx::Error),
    /// Written by a newer Galerne.
    #[error("the database has schema version {found}, this program knows only {known}")]
    NewerSchema {
        /// Version in the database.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// A PostgreSQL schema that waits for an explicit migration.
    #[error("the database has schema version {found}, this program needs {known}")]
    OldSchema {
        /// Version in the database.
        found: i64,
        /// Version needed.
        known: i64,
    },
    /// What is stored cannot be right.
    #[error("the database is damaged: {0}")]
    Corrupt(String),
    /// A backup that cannot be used, or a place that cannot take one.
    #[error("{0}")]
    Backup(String),
    /// A file could not be read or written.
    #[error("cannot use `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// Anything else the database said.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the same transaction may succeed when tried again from its beginning.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy(_))
    }

    /// Whether the database refuses these very values, whenever they are written: others may be taken.
    pub fn refuses_values(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else { return false };
        match error.code().as_deref() {
            // SQLSTATE: data exceptions, violated constraints.
            Some(state) if state.len() == 5 => state.starts_with("22") || state.starts_with("23"),
            // SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH, below their extensions.
            Some(code) => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 18..=20)),
            None => false,
        }
    }

    pub(crate) fn file(path: &Path, error: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), error }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = match &error {
            sqlx::Error::Database(database) => database.code().map(|code| code.into_owned()),
            sqlx::Error::PoolTimedOut => return Self::Busy(error),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => return Self::Corrupt(error.to_string()),
            _ => None,
        };
        match code.as_deref() {
            // SQLITE_BUSY, _BUSY_RECOVERY, _BUSY_SNAPSHOT, SQLITE_LOCKED, _LOCKED_SHAREDCACHE;
            // PostgreSQL serialization failure, deadlock, lock not available.
            Some("5" | "261" | "517" | "6" | "262" | "40001" | "40P01" | "55P03") => Self::Busy(error),
            // SQLITE_FULL, SQLITE_IOERR_SHMSIZE (the WAL index cannot grow), PostgreSQL disk full.
            Some("13" | "4874" | "53100") => Self::DiskFull(error),
            // SQLITE_CORRUPT, SQLITE_NOTADB, PostgreSQL data corrupted, index corrupted.
            Some("11" | "26" | "XX001" | "XX002") => Self::Corrupt(error.to_string()),
            _ => Self::Database(error),
        }
    }
}

/// Attempts of one transaction: contention clears within milliseconds, so more would hide a fault.
const ATTEMPTS: u32 = 6;
/// Wait before the second attempt, doubled before each later one: 310 ms in all.
const FIRST_WAIT: Duration = Duration::from_millis(10);

/// Runs `attempt` until it succeeds, fails for good, or was tried six times.
pub async fn retry<T, F, Fut>(mut attempt: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let mut wait = FIRST_WAIT;
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(error) if error.is_retryable() => {
                tracing::debug!(error = %error, "transaction is tried again");
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            done => return done,
        }
    }
    attempt().await
}
