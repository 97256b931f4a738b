//! Schema versions: numbered texts, applied once and in order, all pending ones in one transaction.
//!
//! Forward only. A database newer than this program is refused: its rows may mean something we do not know.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::AnyConnection;
use sqlx::{Connection, Row};

use crate::engine_sql::{self, Engine};
use crate::error::StoreError;

mod key_lines;
mod spending;

/// One schema change.
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: [Migration; 12] = [
    Migration { version: 1, name: "resources", sql: include_str!("../migrations/0001_resources.sql") },
    Migration { version: 2, name: "events", sql: include_str!("../migrations/0002_events.sql") },
    Migration { version: 3, name: "coordination", sql: include_str!("../migrations/0003_coordination.sql") },
    Migration { version: 4, name: "ledger", sql: include_str!("../migrations/0004_ledger.sql") },
    Migration { version: 5, name: "key lines", sql: include_str!("../migrations/0005_key_lines.sql") },
    Migration { version: 6, name: "lease since", sql: include_str!("../migrations/0006_lease_since.sql") },
    Migration { version: 7, name: "event request", sql: include_str!("../migrations/0007_event_request.sql") },
    Migration { version: 8, name: "spending energy", sql: include_str!("../migrations/0008_spending_energy.sql") },
    Migration { version: 9, name: "energy correction", sql: include_str!("../migrations/0009_energy_correction.sql") },
    Migration { version: 10, name: "files", sql: include_str!("../migrations/0010_files.sql") },
    Migration { version: 11, name: "usage terms", sql: include_str!("../migrations/0011_usage_terms.sql") },
    Migration { version: 12, name: "budget shares", sql: include_str!("../migrations/0012_budget_shares.sql") },
];

/// The newest schema version this program knows.
pub const SCHEMA_VERSION: i64 = MIGRATIONS[MIGRATIONS.len() - 1].version;

const CREATE_VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_version (
    version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, applied_at BIGINT NOT NULL)";
const VERSIONS: &str = "SELECT version, digest FROM schema_version ORDER BY version";
const ADD_VERSION: &str = "INSERT INTO schema_version (version, name, digest, applied_at) VALUES ($1, $2, $3, $4)";

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Version before; 0 for an empty database.
    pub from: i64,
    /// Version now.
    pub to: i64,
    /// The copy of the SQLite file made before, when it held anything.
    pub copy: Option<PathBuf>,
}

/// Version of the schema, 0 for an empty database.
pub(crate) async fn version(engine: Engine, conn: &mut AnyConnection) -> Result<i64, StoreError> {
    if !engine_sql::has_table(engine, conn, "schema_version").await? {
        return Ok(0);
    }
    let mut applied = Vec::new();
    for row in sqlx::query(VERSIONS).fetch_all(&mut *conn).await? {
        applied.push((row.try_get::<i64, _>("version")?, row.try_get::<String, _>("digest")?));
    }
    let found = applied.last().map_or(0, |(version, _)| *version);
    // First: a newer program may also have replaced an older text, and what a person must do is start that program.
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { found, known: SCHEMA_VERSION });
    }
    for (version, text) in applied {
        let known = MIGRATIONS.iter().find(|migration| migration.version == version);
        if known.is_some_and(|migration| digest(migration.sql) != text) {
            return Err(StoreError::Corrupt(format!(
                "schema change {version} was applied with another text: the database was made by another build of Galerne"
            )));
        }
    }
    Ok(found)
}

/// Brings the schema to [`SCHEMA_VERSION`]; does nothing when it is there already.
pub(crate) async fn migrate(
    engine: Engine,
    conn: &mut AnyConnection,
    sqlite_path: Option<&Path>,
) -> Result<Migrated, StoreError> {
    let before = version(engine, conn).await?;
    if before == SCHEMA_VERSION {
        // Nothing to write: a second process may open the store while the first one writes.
        return Ok(Migrated { from: before, to: before, copy: None });
    }
    let mut copy = None;
    if let (Some(path), true) = (sqlite_path, before > 0) {
        copy = Some(copy_before(conn, path, before).await?);
    }
    let mut tx = conn.begin_with(engine.begin_write()).await?;
    if engine == Engine::Postgres {
        sqlx::query(engine_sql::POSTGRES_MIGRATION_LOCK).execute(&mut *tx).await?;
    }
    // Read again under the lock: another process may have migrated meanwhile.
    let from = version(engine, &mut tx).await?;
    if from < SCHEMA_VERSION {
        sqlx::query(CREATE_VERSIONS).execute(&mut *tx).await?;
        for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
            sqlx::raw_sql(engine.migration_text(migration.sql)).execute(&mut *tx).await?;
            sqlx::query(ADD_VERSION)
                .bind(migration.version)
                .bind(migration.name)
                .bind(digest(migration.sql))
                .bind(Timestamp::now().as_microsecond())
                .execute(&mut *tx)
                .await?;
        }
        fill_after(&mut tx, from).await?;
    }
    tx.commit().await?;
    if from < SCHEMA_VERSION {
        tracing::info!(from, to = SCHEMA_VERSION, "schema migrated");
    }
    Ok(Migrated { from, to: SCHEMA_VERSION, copy })
}

/// What schema changes after `version` do with rows that were there before them.
pub(crate) async fn fill_after(conn: &mut AnyConnection, version: i64) -> Result<(), StoreError> {
    if version < key_lines::VERSION {
        key_lines::fill(conn).await?;
    }
    if version < spending::VERSION {
        spending::fill(conn).await?;
    }
    Ok(())
}

async fn copy_before(conn: &mut AnyConnection, path: &Path, version: i64) -> Result<PathBuf, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-schema-{}", version + 1));
    let copy = PathBuf::from(name);
    // A copy left by an attempt that did not finish is older than what is in force now.
    match std::fs::remove_file(&copy) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(StoreError::file(&copy, error)),
    }
    let text = copy.to_str().ok_or_else(|| StoreError::Backup("the database path is not UTF-8".to_owned()))?;
    sqlx::query(engine_sql::SQLITE_COPY).bind(text.to_owned()).execute(conn).await?;
    // `VACUUM INTO` does not sync what it writes.
    std::fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(|error| StoreError::file(&copy, error))?;
    Ok(copy)
}

fn digest(sql: &str) -> String {
    hex::encode(Sha256::digest(sql.as_bytes()))
}

/// Takes all schema changes after the ledger back, as if this database were an older release's.
#[cfg(test)]
pub(crate) async fn forget_all_after_the_ledger(conn: &mut AnyConnection) {
    let undo = "DROP TABLE budget_share; DROP TABLE forsaken_spool; DROP INDEX usage_started; ALTER TABLE usage DROP COLUMN prompt_price; \
        ALTER TABLE usage DROP COLUMN cached_price; ALTER TABLE usage DROP COLUMN completion_price; \
        ALTER TABLE usage DROP COLUMN service_tier; ALTER TABLE usage DROP COLUMN country; DROP TABLE file; DROP TABLE file_storage; DROP TABLE batch; DROP TABLE batch_segment; \
        ALTER TABLE usage DROP COLUMN batch_no; ALTER TABLE usage DROP COLUMN price_percent; \
        DROP INDEX event_request; DROP TABLE key_line; ALTER TABLE lease DROP COLUMN since; \
        ALTER TABLE spending DROP COLUMN millijoules; ALTER TABLE spending DROP COLUMN co2e_micrograms; \
        DROP TABLE replica_reading; DROP TABLE energy_correction; \
        DELETE FROM schema_version WHERE version > 4";
    sqlx::raw_sql(undo).execute(conn).await.expect("undoes");
}
