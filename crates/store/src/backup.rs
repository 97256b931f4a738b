//! Backup and restore: one file of JSON lines, the same for both engines, and a manifest with its digest.
//!
//! Read at one moment, so a backup of a running site is whole. A restore goes into an empty place, is compared with
//! the manifest, and is accepted only when the ledger in it closes.

use std::collections::BTreeMap;
use std::fs::TryLockError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::TryStreamExt;
use galerne_model::ids::BackupId;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::{Arguments, AssertSqlSafe, Column, Row, TypeInfo, ValueRef};
use tokio::fs;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::time::{Instant, sleep, timeout};

use crate::error::StoreError;
use crate::file;
use crate::lease::{Lease, SERVER_LEASE};
use crate::ledger::bulk::rows_text;
use crate::migration::{self, SCHEMA_VERSION};
use crate::store::{Reader, Store, Tx};
use crate::url::StoreUrl;

mod tables;

/// Name of the manifest in a backup.
const MANIFEST: &str = "manifest.json";
/// Name of the rows in a backup.
const ROWS: &str = "rows.jsonl";
/// Rows inserted together: 64 of the widest table are 1,728 values, far below both engines' limits.
const ROWS_AT_ONCE: usize = 64;
/// Time without a sign of life after which a restore is taken for dead.
const RESTORE_LEASE: SignedDuration = SignedDuration::from_secs(30);
/// The oldest schema whose backups are read: rows are loaded as they were, then brought up to date like a database.
const OLDEST_SCHEMA: i64 = 4;
/// Version of this format.
const FORMAT: i64 = 1;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupManifest {
    /// Its id.
    pub id: BackupId,
    /// Version of the format.
    pub format: i64,
    /// Schema version of the rows.
    pub schema_version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Number of the last event in it.
    pub last_event: i64,
    /// Rows by table.
    pub rows: BTreeMap<String, i64>,
    /// Its files.
    pub files: Vec<BackupFile>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Name inside the backup.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, in hex.
    pub sha256: String,
}

impl Store {
    /// Writes a backup into the folder `dest`, which must be empty or absent; its parent must exist.
    pub async fn backup(&self, dest: &Path, id: BackupId, now: Timestamp) -> Result<BackupManifest, StoreError> {
        make_empty(dest).await?;
        let path = dest.join(ROWS);
        let file = fs::File::create_new(&path).await.map_err(|error| StoreError::file(&path, error))?;
        let mut sink = Sink { path: &path, file: BufWriter::new(file), digest: Sha256::new(), bytes: 0 };
        let mut reader = self.reader().await?;
        let mut rows = BTreeMap::new();
        for table in tables::all() {
            rows.insert(table.name.to_owned(), dump(&mut reader, &table, &mut sink).await?);
        }
        let last_event = last_event(&mut reader).await?;
        drop(reader);
        let file = sink.finish().await?;
        let manifest = BackupManifest {
            id,
            format: FORMAT,
            schema_version: SCHEMA_VERSION,
            created_at: now,
            last_event,
            rows,
            files: vec![file],
        };
        // The manifest is last: a folder without one is a backup that did not finish.
        write_manifest(dest, &manifest).await?;
        Ok(manifest)
    }
}

/// Loads the backup in `src` into the empty place `target`.
///
/// A SQLite file appears under its name only when everything in it was verified.
pub async fn restore(src: &Path, target: &StoreUrl) -> Result<BackupManifest, StoreError> {
    let manifest = read_manifest(src).await?;
    verify(src, &manifest).await?;
    match target {
        StoreUrl::Postgres(_) => load(src, &manifest, target).await?,
        StoreUrl::Sqlite(path) => {
            if fs::try_exists(path).await.map_err(|error| StoreError::file(path, error))? {
                return Err(taken(path));
            }
            let unfinished = beside(path, ".restoring");
            let _alone = lock(&beside(path, ".restoring.lock")).await?;
            remove_sqlite(&unfinished).await?;
            load(src, &manifest, &StoreUrl::sqlite(&unfinished)).await?;
            name(&unfinished, path).await?;
            sync_folder(path.parent().unwrap_or_else(|| Path::new("."))).await?;
        }
    }
    Ok(manifest)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn taken(path: &Path) -> StoreError {
    StoreError::Backup(format!("`{}` exists: restore into an empty place", path.display()))
}

/// Keeps other restores from the same place until it is dropped.
async fn lock(path: &Path) -> Result<std::fs::File, StoreError> {
    let failed = |error| StoreError::file(path, error);
    let file = fs::File::create(path).await.map_err(failed)?.into_std().await;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Backup(format!("another restore is at work on `{}`", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Gives a finished file its name. Not by a rename, which would replace what a server has made there meanwhile.
async fn name(unfinished: &Path, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::file(path, error);
    match fs::hard_link(unfinished, path).await {
        Ok(()) => fs::remove_file(unfinished).await.map_err(|error| StoreError::file(unfinished, error))?,
        Err(error) => match error.kind() {
            ErrorKind::AlreadyExists => return Err(taken(path)),
            // A file system without links.
            ErrorKind::Unsupported | ErrorKind::PermissionDenied if !fs::try_exists(path).await.map_err(failed)? => {
                fs::rename(unfinished, path).await.map_err(failed)?;
            }
            _ => return Err(failed(error)),
        },
    }
    let lock = beside(path, ".restoring.lock");
    fs::remove_file(&lock).await.map_err(|error| StoreError::file(&lock, error))
}

/// Fills a database while nobody serves it, and keeps everybody from serving it meanwhile.
async fn load(src: &Path, manifest: &BackupManifest, target: &StoreUrl) -> Result<(), StoreError> {
    let store = Store::open(target).await?;
    let holder = format!("`galerne restore` (process {})", std::process::id());
    let Some(lease) = store.lease_acquire(SERVER_LEASE, &holder, RESTORE_LEASE, Timestamp::now()).await? else {
        return Err(match store.lease(SERVER_LEASE, Timestamp::now()).await? {
            Some(Lease { holder, since, .. }) => StoreError::Served { holder, since },
            None => StoreError::Backup("another server or restore had this database a moment ago".to_owned()),
        });
    };
    let filled = match target {
        // Nobody else opens a file of this name, and `fill` holds the one connection that could renew.
        StoreUrl::Sqlite(_) => fill(src, manifest, target, &store).await,
        StoreUrl::Postgres(_) => tokio::select! {
            filled = fill(src, manifest, target, &store) => filled,
            lost = keep(&store, lease.epoch, RESTORE_LEASE) => Err(lost),
        },
    };
    store.lease_release(SERVER_LEASE, lease.epoch).await?;
    store.close().await;
    filled
}

/// Renews the lease until it is lost: somebody has it, or nothing was heard of it for all its time.
async fn keep(store: &Store, epoch: i64, ttl: SignedDuration) -> StoreError {
    let lost = || StoreError::Fenced { name: SERVER_LEASE.to_owned(), epoch };
    let pause = ttl.unsigned_abs() / 3;
    let mut renewed_at = Instant::now();
    loop {
        sleep(pause).await;
        let asked = Instant::now();
        let left = ttl.unsigned_abs().saturating_sub(renewed_at.elapsed());
        match timeout(left, store.lease_renew(SERVER_LEASE, epoch, ttl, Timestamp::now())).await {
            Ok(Ok(true)) => renewed_at = asked,
            Ok(Ok(false)) | Err(_) => return lost(),
            Ok(Err(error)) if renewed_at.elapsed() >= ttl.unsigned_abs() => return error,
            Ok(Err(error)) => tracing::warn!(error = %error, "the lease of a restore is renewed later"),
        }
    }
}

async fn fill(src: &Path, manifest: &BackupManifest, target: &StoreUrl, store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    if last_event(&mut tx).await? != 0 || !tables::is_empty(tx.conn()).await? {
        return Err(StoreError::Backup(format!("`{target}` holds data: restore into an empty database")));
    }
    tables::clear(tx.conn()).await?;
    let rows = load_rows(&src.join(ROWS), manifest.schema_version, &mut tx).await?;
    // A table that came later is not in an older manifest, and empty.
    let named = |table: &String| manifest.rows.get(table).copied().unwrap_or(0);
    if rows.iter().any(|(table, count)| *count != named(table))
        || manifest.rows.keys().any(|table| !rows.contains_key(table))
    {
        return Err(StoreError::Backup("the backup does not hold the rows its manifest names".to_owned()));
    }
    migration::fill_after(tx.conn(), manifest.schema_version).await?;
    file::forget_mark(&mut tx).await?;
    // Before the commit: a database that holds what does not close would be there to be used.
    let report = tx.ledger_check().await?;
    if let Some(finding) = report.findings.first() {
        return Err(StoreError::Backup(format!("the ledger in the backup does not close: {}", finding.text)));
    }
    tx.commit().await?;
    Ok(())
}

/// Where the rows go: a file, its digest and its size.
struct Sink<'a> {
    path: &'a Path,
    file: BufWriter<fs::File>,
    digest: Sha256,
    bytes: u64,
}

impl Sink<'_> {
    async fn line(&mut self, line: &str) -> Result<(), StoreError> {
        self.digest.update(line.as_bytes());
        self.bytes += line.len() as u64;
        self.file.write_all(line.as_bytes()).await.map_err(|error| StoreError::file(self.path, error))
    }

    async fn finish(mut self) -> Result<BackupFile, StoreError> {
        let failed = |error| StoreError::file(self.path, error);
        self.file.flush().await.map_err(failed)?;
        self.file.get_ref().sync_all().await.map_err(failed)?;
        Ok(BackupFile { name: ROWS.to_owned(), bytes: self.bytes, sha256: hex::encode(self.digest.finalize()) })
    }
}

/// Writes a table, one line `["table", [values…]]` per row; returns their number.
async fn dump(reader: &mut Reader, table: &tables::Table, sink: &mut Sink<'_>) -> Result<i64, StoreError> {
    let mut count = 0;
    let mut rows = sqlx::query(table.select).fetch(reader.conn());
    while let Some(row) = rows.try_next().await? {
        let mut line = Value::Array(vec![table.name.into(), row_values(&row)?]).to_string();
        line.push('\n');
        sink.line(&line).await?;
        count += 1;
    }
    Ok(count)
}

fn row_values(row: &AnyRow) -> Result<Value, StoreError> {
    let mut values = Vec::with_capacity(row.columns().len());
    for column in row.columns() {
        let at = column.ordinal();
        let raw = row.try_get_raw(at)?;
        let value = if raw.is_null() {
            Value::Null
        } else if raw.type_info().name() == "TEXT" {
            row.try_get::<String, _>(at)?.into()
        } else {
            row.try_get::<i64, _>(at)?.into()
        };
        values.push(value);
    }
    Ok(Value::Array(values))
}

async fn load_rows(path: &Path, schema: i64, tx: &mut Tx) -> Result<BTreeMap<String, i64>, StoreError> {
    let file = fs::File::open(path).await.map_err(|error| StoreError::file(path, error))?;
    let mut lines = BufReader::new(file).lines();
    let tables = tables::at(schema);
    let mut counts: BTreeMap<String, i64> = tables.iter().map(|table| (table.name.to_owned(), 0)).collect();
    let mut rows = Rows { table: tables[0], count: 0, arguments: AnyArguments::default(), full: None };
    while let Some(line) = lines.next_line().await.map_err(|error| StoreError::file(path, error))? {
        let (name, values): (String, Vec<Value>) = serde_json::from_str(&line).map_err(|_| damaged())?;
        if rows.table.name != name {
            rows.insert(tx).await?;
            rows.table = *tables.iter().find(|table| table.name == name).ok_or_else(damaged)?;
            rows.full = None;
        }
        rows.add(&values)?;
        if rows.count == ROWS_AT_ONCE {
            rows.insert(tx).await?;
        }
        *counts.entry(name).or_default() += 1;
    }
    rows.insert(tx).await?;
    Ok(counts)
}

/// Rows of one table that are inserted together.
struct Rows {
    table: tables::Table,
    count: usize,
    arguments: AnyArguments,
    /// The statement of `ROWS_AT_ONCE` rows, once it was needed.
    full: Option<Arc<str>>,
}

impl Rows {
    fn add(&mut self, values: &[Value]) -> Result<(), StoreError> {
        if values.len() != self.table.columns.len() {
            return Err(damaged());
        }
        for (value, kind) in values.iter().zip(self.table.columns) {
            bind(&mut self.arguments, value, *kind).ok_or_else(damaged)??;
        }
        self.count += 1;
        Ok(())
    }

    async fn insert(&mut self, tx: &mut Tx) -> Result<(), StoreError> {
        if self.count == 0 {
            return Ok(());
        }
        let columns = self.table.insert.split_once(" VALUES ").expect("an insertion has values").0;
        let text = |rows| rows_text(tx.engine(), &format!("{columns} VALUES "), self.table.columns.len(), rows);
        let text: Arc<str> = match &self.full {
            _ if self.count < ROWS_AT_ONCE => text(self.count).into(),
            Some(full) => Arc::clone(full),
            None => Arc::clone(self.full.insert(text(ROWS_AT_ONCE).into())),
        };
        let arguments = std::mem::take(&mut self.arguments);
        self.count = 0;
        sqlx::query_with(AssertSqlSafe(text), arguments).execute(tx.conn()).await?;
        Ok(())
    }
}

fn damaged() -> StoreError {
    StoreError::Backup("the backup holds a line that is no row".to_owned())
}

/// Binds a value as the type of its column; nothing when it is of another one.
fn bind(arguments: &mut AnyArguments, value: &Value, kind: tables::Type) -> Option<Result<(), StoreError>> {
    let added = match (kind, value) {
        (tables::Type::Text, Value::Null) => arguments.add(Option::<String>::None),
        (tables::Type::Text, Value::String(text)) => arguments.add(text.clone()),
        (tables::Type::Number, Value::Null) => arguments.add(Option::<i64>::None),
        (tables::Type::Number, Value::Number(number)) => arguments.add(number.as_i64()?),
        _ => return None,
    };
    Some(added.map_err(|error| StoreError::from(sqlx::Error::Encode(error))))
}

async fn last_event(reader: &mut Reader) -> Result<i64, StoreError> {
    Ok(sqlx::query(tables::LAST_EVENT).fetch_one(reader.conn()).await?.try_get("value")?)
}

async fn make_empty(dest: &Path) -> Result<(), StoreError> {
    match fs::create_dir(dest).await {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StoreError::file(dest, error)),
    }
    let mut entries = fs::read_dir(dest).await.map_err(|error| StoreError::file(dest, error))?;
    match entries.next_entry().await.map_err(|error| StoreError::file(dest, error))? {
        None => Ok(()),
        Some(_) => Err(StoreError::Backup(format!("`{}` is not empty", dest.display()))),
    }
}

async fn write_manifest(dest: &Path, manifest: &BackupManifest) -> Result<(), StoreError> {
    let path = dest.join(MANIFEST);
    let text = serde_json::to_string_pretty(manifest).map_err(|error| StoreError::Backup(error.to_string()))?;
    let failed = |error| StoreError::file(&path, error);
    let mut file = fs::File::create_new(&path).await.map_err(failed)?;
    file.write_all(text.as_bytes()).await.map_err(failed)?;
    file.sync_all().await.map_err(failed)?;
    sync_folder(dest).await
}

async fn read_manifest(src: &Path) -> Result<BackupManifest, StoreError> {
    let path = src.join(MANIFEST);
    let text = fs::read_to_string(&path).await.map_err(|error| StoreError::file(&path, error))?;
    let manifest: BackupManifest = serde_json::from_str(&text)
        .map_err(|error| StoreError::Backup(format!("`{}` is no manifest: {error}", path.display())))?;
    if manifest.format != FORMAT || manifest.schema_version > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { found: manifest.schema_version, known: SCHEMA_VERSION });
    }
    if manifest.schema_version < OLDEST_SCHEMA {
        let version = manifest.schema_version;
        return Err(StoreError::Backup(format!(
            "the backup has schema version {version}: restore it with the release that made it"
        )));
    }
    Ok(manifest)
}

async fn verify(src: &Path, manifest: &BackupManifest) -> Result<(), StoreError> {
    for expected in &manifest.files {
        if expected.name != ROWS {
            return Err(StoreError::Backup(format!("the manifest names `{}`, which no backup has", expected.name)));
        }
        let path = src.join(&expected.name);
        let failed = |error| StoreError::file(&path, error);
        let mut file = BufReader::new(fs::File::open(&path).await.map_err(failed)?);
        let mut digest = Sha256::new();
        loop {
            let chunk = file.fill_buf().await.map_err(failed)?;
            if chunk.is_empty() {
                break;
            }
            digest.update(chunk);
            let length = chunk.len();
            file.consume(length);
        }
        if hex::encode(digest.finalize()) != expected.sha256 {
            return Err(StoreError::Backup(format!("`{}` was changed since the backup was made", path.display())));
        }
    }
    Ok(())
}

async fn remove_sqlite(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm"] {
        let file = beside(path, suffix);
        match fs::remove_file(&file).await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::file(&file, error)),
        }
    }
    Ok(())
}

async fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::file(folder, error);
    fs::File::open(folder).await.map_err(failed)?.sync_all().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_restore_replaces_nothing_and_is_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (from, backup) = (folder.path().join("from.db"), folder.path().join("backup"));
        let store = Store::open(&StoreUrl::sqlite(&from)).await.expect("opens");
        store.backup(&backup, BackupId::from_uuid(uuid::Uuid::now_v7()), Timestamp::now()).await.expect("backs up");
        store.close().await;
        let path = folder.path().join("x.db");
        let target = StoreUrl::sqlite(&path);
        let other = lock(&beside(&path, ".restoring.lock")).await.expect("nobody else");
        let refused = restore(&backup, &target).await.expect_err("another restore is at work").to_string();
        assert!(refused.starts_with("another restore is at work"), "{refused}");
        drop(other);
        // A server has begun there while the restore was at work.
        let unfinished = beside(&path, ".restoring");
        fs::write(&unfinished, "restored").await.expect("written");
        fs::write(&path, "served").await.expect("written");
        assert!(matches!(name(&unfinished, &path).await, Err(StoreError::Backup(_))));
        assert_eq!(fs::read_to_string(&path).await.expect("there"), "served");
        fs::remove_file(&path).await.expect("removed");
        restore(&backup, &target).await.expect("restores");
        let left = std::fs::read_dir(folder.path()).expect("there").map(|entry| entry.expect("there").file_name());
        let mut left: Vec<_> = left.map(|name| name.into_string().expect("text")).collect();
        left.sort();
        assert_eq!(left, ["backup", "from.db", "x.db"], "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_restore_keeps_its_lease_through_a_pause_of_the_database_and_loses_it_with_its_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&StoreUrl::sqlite(folder.path().join("x.db"))).await.expect("opens");
        let ttl = SignedDuration::from_millis(900);
        let take = async || {
            let lease = store.lease_acquire(SERVER_LEASE, "restore", ttl, Timestamp::now()).await;
            lease.expect("asks").expect("it is free").epoch
        };
        let epoch = take().await;
        let kept = timeout(Duration::from_secs(2), async {
            let pause = async {
                let busy = store.begin().await.expect("begins");
                sleep(Duration::from_millis(500)).await;
                drop(busy);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                lost = keep(&store, epoch, ttl) => lost,
                () = pause => unreachable!("it waits for ever"),
            }
        });
        assert!(kept.await.is_err(), "one late renewal ends nothing");
        let epoch = take().await;
        let busy = store.begin().await.expect("begins");
        let lost = timeout(Duration::from_secs(5), keep(&store, epoch, ttl)).await.expect("its time is over");
        assert!(matches!(lost, StoreError::Fenced { .. }), "{lost:?}");
        drop(busy);
        let epoch = take().await;
        store.lease_acquire(SERVER_LEASE, "restore", ttl, Timestamp::now()).await.expect("asks").expect("its own name");
        let lost = timeout(Duration::from_secs(5), keep(&store, epoch, ttl)).await.expect("another has it");
        assert!(matches!(lost, StoreError::Fenced { .. }), "{lost:?}");
    }
}
