//! SQL that only one engine understands. Everything else in this crate is one text for both.

use std::fmt::Write;

use sqlx::AnyConnection;
use sqlx::{AssertSqlSafe, Row, SqlSafeStr, SqlStr};

use crate::error::StoreError;

/// The database below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// One file, one writer.
    Sqlite,
    /// A server.
    Postgres,
}

impl Engine {
    /// Starts a transaction that writes. SQLite takes the write lock at once: taking it later can fail half-way.
    pub(crate) const fn begin_write(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED",
        }
    }

    /// Starts a transaction whose reads all see one moment.
    pub(crate) const fn begin_read(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }

    /// The place of the `n`th value in a statement of many rows.
    pub(crate) fn placeholder(self, n: usize, text: &mut String) {
        match self {
            Self::Sqlite => text.push('?'),
            Self::Postgres => write!(text, "${n}").expect("a String takes all text"),
        }
    }

    /// A migration's text for this engine: `/*sqlite: … */` is a comment to PostgreSQL and text to SQLite.
    pub(crate) fn migration_text(self, sql: &'static str) -> SqlStr {
        match self {
            Self::Postgres => sql.into_sql_str(),
            Self::Sqlite => {
                let mut text = String::with_capacity(sql.len());
                let mut rest = sql;
                while let Some((before, marked)) = rest.split_once("/*sqlite:") {
                    let (inside, after) = marked.split_once("*/").expect("migrations close their comments");
                    text.push_str(before);
                    text.push_str(inside);
                    rest = after;
                }
                text.push_str(rest);
                // The text comes from the migrations compiled in, never from outside.
                AssertSqlSafe(text).into_sql_str()
            }
        }
    }
}

/// Settings of a SQLite connection that writes: every commit reaches the disk before it is acknowledged.
pub(crate) const SQLITE_WRITE_SETTINGS: [&str; 6] = [
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 5000",
    // 8 MB: the pages a settlement touches stay in memory, and the whole program below 60 MB.
    "PRAGMA cache_size = -8000",
    // 16 MB of log between checkpoints: a page changed by many batches is copied back once.
    "PRAGMA wal_autocheckpoint = 4000",
];

/// Settings of a SQLite connection that reads.
pub(crate) const SQLITE_READ_SETTINGS: [&str; 3] =
    ["PRAGMA query_only = ON", "PRAGMA busy_timeout = 5000", "PRAGMA cache_size = -2000"];

/// Makes every PostgreSQL migration wait for the one before; released with its transaction.
pub(crate) const POSTGRES_MIGRATION_LOCK: &str = "SELECT 1 FROM (SELECT pg_advisory_xact_lock(4704627381)) AS locked";

/// Writes a whole, compact copy of a SQLite database into the file `$1`.
pub(crate) const SQLITE_COPY: &str = "VACUUM INTO $1";

/// Microseconds since 1970 by PostgreSQL's clock, which all its clients share.
const POSTGRES_NOW: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT) AS now";

/// Whether a table exists.
const SQLITE_HAS_TABLE: &str = "SELECT COUNT(*) AS n FROM sqlite_master WHERE type = 'table' AND name = $1";
const POSTGRES_HAS_TABLE: &str =
    "SELECT COUNT(*) AS n FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = $1";

/// The clock that leases live by: the database's where several processes share it, else the caller's.
pub(crate) async fn shared_now(engine: Engine, conn: &mut AnyConnection, caller: i64) -> Result<i64, StoreError> {
    match engine {
        Engine::Sqlite => Ok(caller),
        Engine::Postgres => Ok(sqlx::query(POSTGRES_NOW).fetch_one(conn).await?.try_get("now")?),
    }
}

pub(crate) async fn has_table(engine: Engine, conn: &mut AnyConnection, table: &str) -> Result<bool, StoreError> {
    let sql = match engine {
        Engine::Sqlite => SQLITE_HAS_TABLE,
        Engine::Postgres => POSTGRES_HAS_TABLE,
    };
    let count: i64 = sqlx::query(sql).bind(table.to_owned()).fetch_one(conn).await?.try_get("n")?;
    Ok(count > 0)
}
