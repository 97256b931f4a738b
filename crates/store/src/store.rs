//! Opening a store; transactions that write and readers that see one moment.
//!
//! SQLite has one writer: a pool of one connection makes writers queue in order instead of failing on its lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use galerne_model::event::Event;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, ConnectOptions, Connection, Transaction};
use tokio::sync::watch;

use crate::engine_sql::{self, Engine};
use crate::error::StoreError;
use crate::ledger::refs::RefCache;
use crate::migration::{self, Migrated, SCHEMA_VERSION};
use crate::url::{StoreUrl, sqlite_driver_url};

/// Readers of one SQLite file at once: the check uses two, the rest is for requests.
const SQLITE_READERS: u32 = 4;
/// Connections to PostgreSQL per process; its default limit of 100 must serve several processes.
const POSTGRES_CONNECTIONS: u32 = 10;
/// Connections of each process for leases alone: a lease must not wait for whoever reads, and one of them may hang.
const POSTGRES_LEASE_CONNECTIONS: u32 = 2;
/// Longest wait for a free connection or the write lock.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Any read: a transaction sees the moment of its first one.
const PIN: &str = "SELECT value FROM counter WHERE name = 'event'";

/// The state of a site. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    write: AnyPool,
    read: AnyPool,
    /// For leases alone on PostgreSQL; SQLite has one writer.
    lease: AnyPool,
    changed: watch::Sender<u64>,
    refs: RefCache,
    /// Whether events are queued to be forwarded.
    forwards: AtomicBool,
    /// Held by whoever takes two readers: two of them waiting for each other's second would wait for ever.
    pair: tokio::sync::Mutex<()>,
}

/// Reads. One taken with [`Store::reader`] sees one moment however many reads it makes.
#[derive(Debug)]
pub struct Reader {
    held: Held,
}

#[derive(Debug)]
enum Held {
    Connection(PoolConnection<Any>),
    Transaction(Transaction<'static, Any>),
}

/// A transaction that writes; dropped without [`Tx::commit`] it changes nothing.
#[derive(Debug)]
pub struct Tx {
    reader: Reader,
    events: Vec<Event>,
    store: Store,
}

impl Store {
    /// Opens the state at `url`, making it when there is none.
    ///
    /// A SQLite file with an older schema is copied, then migrated. An older PostgreSQL schema is refused:
    /// several processes may use it, so a person says when ([`Store::migrate`]).
    pub async fn open(url: &StoreUrl) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        match url {
            StoreUrl::Sqlite(path) => Self::open_sqlite(path).await,
            StoreUrl::Postgres(text) => Self::open_postgres(text).await,
        }
    }

    /// Brings the schema at `url` to the version this program needs.
    pub async fn migrate(url: &StoreUrl) -> Result<Migrated, StoreError> {
        sqlx::any::install_default_drivers();
        let (engine, driver_url, path) = match url {
            StoreUrl::Sqlite(path) => {
                let path = absolute(path)?;
                (Engine::Sqlite, sqlite_driver_url(&path), Some(path))
            }
            StoreUrl::Postgres(text) => (Engine::Postgres, text.clone(), None),
        };
        let mut conn = options(&driver_url)?.connect().await?;
        if engine == Engine::Sqlite {
            apply_settings(&mut conn, &engine_sql::SQLITE_WRITE_SETTINGS).await?;
        }
        let migrated = migration::migrate(engine, &mut conn, path.as_deref()).await?;
        conn.close().await?;
        Ok(migrated)
    }

    async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        let options = options(&sqlite_driver_url(&path))?;
        // Alone first: a pool would try a file that is no database again and again.
        let mut conn = options.connect().await?;
        apply_settings(&mut conn, &engine_sql::SQLITE_WRITE_SETTINGS).await?;
        migration::migrate(Engine::Sqlite, &mut conn, Some(&path)).await?;
        conn.close().await?;
        let write = sqlite_pool(1, &engine_sql::SQLITE_WRITE_SETTINGS).connect_with(options.clone()).await?;
        let read = sqlite_pool(SQLITE_READERS, &engine_sql::SQLITE_READ_SETTINGS).connect_with(options).await?;
        Ok(Self::from_pools(Engine::Sqlite, write.clone(), read, write))
    }

    async fn open_postgres(text: &str) -> Result<Self, StoreError> {
        let options = options(text)?;
        let mut conn = options.connect().await?;
        match migration::version(Engine::Postgres, &mut conn).await? {
            SCHEMA_VERSION => {}
            // Nothing to lose: an empty database gets the schema.
            0 => {
                migration::migrate(Engine::Postgres, &mut conn, None).await?;
            }
            found => return Err(StoreError::OldSchema { found, known: SCHEMA_VERSION }),
        }
        conn.close().await?;
        let sized = |connections| AnyPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = sized(POSTGRES_CONNECTIONS).connect_with(options.clone()).await?;
        let lease = sized(POSTGRES_LEASE_CONNECTIONS).connect_lazy_with(options);
        Ok(Self::from_pools(Engine::Postgres, pool.clone(), pool, lease))
    }

    fn from_pools(engine: Engine, write: AnyPool, read: AnyPool, lease: AnyPool) -> Self {
        let changed = watch::Sender::new(0);
        Self {
            inner: Arc::new(Inner {
                engine,
                write,
                read,
                lease,
                changed,
                refs: RefCache::default(),
                forwards: AtomicBool::new(false),
                pair: tokio::sync::Mutex::new(()),
            }),
        }
    }

    /// The database below.
    pub fn engine(&self) -> Engine {
        self.inner.engine
    }

    /// Starts a transaction that writes.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_on(&self.inner.write).await
    }

    /// The same for a lease, which waits for no other work.
    pub(crate) async fn begin_lease(&self) -> Result<Tx, StoreError> {
        self.begin_on(&self.inner.lease).await
    }

    async fn begin_on(&self, pool: &AnyPool) -> Result<Tx, StoreError> {
        let transaction = begin(pool, self.inner.engine.begin_write()).await?;
        let reader = Reader { held: Held::Transaction(transaction) };
        Ok(Tx { reader, events: Vec::new(), store: self.clone() })
    }

    /// Starts reads that all see one moment.
    pub async fn reader(&self) -> Result<Reader, StoreError> {
        let transaction = begin(&self.inner.read, self.inner.engine.begin_read()).await?;
        Ok(Reader { held: Held::Transaction(transaction) })
    }

    /// Two readers of the same moment where that makes reading faster, else one.
    ///
    /// On SQLite both begin while the write lock is held, so no commit lies between them.
    pub(crate) async fn reader_pair(&self) -> Result<(Reader, Option<Reader>), StoreError> {
        if self.inner.engine == Engine::Postgres {
            return Ok((self.reader().await?, None));
        }
        let _turn = self.inner.pair.lock().await;
        let mut first = self.reader().await?;
        let mut second = self.reader().await?;
        let lock = begin(&self.inner.write, self.inner.engine.begin_write()).await?;
        for reader in [&mut first, &mut second] {
            sqlx::query(PIN).fetch_one(reader.conn()).await?;
        }
        lock.rollback().await?;
        Ok((first, Some(second)))
    }

    /// A connection for a single read.
    pub(crate) async fn read_once(&self) -> Result<Reader, StoreError> {
        let connection = self.inner.read.acquire().await?;
        Ok(Reader { held: Held::Connection(connection) })
    }

    /// A connection to look at a lease.
    pub(crate) async fn read_lease(&self) -> Result<Reader, StoreError> {
        let connection = self.inner.lease.acquire().await?;
        Ok(Reader { held: Held::Connection(connection) })
    }

    /// A counter that moves after every commit of this process; other processes' commits are found by polling.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    pub(crate) fn set_forwarding(&self) {
        self.inner.forwards.store(true, Ordering::Release);
    }

    pub(crate) fn refs(&self) -> &RefCache {
        &self.inner.refs
    }

    /// Closes all connections. SQLite's log is merged into its file.
    pub async fn close(&self) {
        self.inner.read.close().await;
        self.inner.write.close().await;
        self.inner.lease.close().await;
    }
}

impl Reader {
    pub(crate) fn conn(&mut self) -> &mut AnyConnection {
        match &mut self.held {
            Held::Connection(connection) => connection,
            Held::Transaction(transaction) => transaction,
        }
    }
}

impl std::ops::Deref for Tx {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl std::ops::DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Reader {
        &mut self.reader
    }
}

impl Tx {
    /// Adds an event to this transaction; it gets its number at commit.
    pub fn record(&mut self, event: Event) {
        self.events.push(event);
    }

    pub(crate) fn engine(&self) -> Engine {
        self.store.engine()
    }

    /// Makes everything durable, or nothing. Returns the number of the last event written, 0 without events.
    ///
    /// An error that is neither `Busy` nor `DiskFull` leaves open whether a PostgreSQL server committed before
    /// the connection broke: read before writing again, or use an idempotency key.
    pub async fn commit(mut self) -> Result<i64, StoreError> {
        // The counter of events is the one row every writer wants: it is taken last and held shortest.
        let events = std::mem::take(&mut self.events);
        let last = if events.is_empty() { 0 } else { crate::event::append(self.conn(), &events).await? };
        if !events.is_empty() && self.store.inner.forwards.load(Ordering::Acquire) {
            crate::forward::enqueue(&mut self, &events, last).await?;
        }
        match self.reader.held {
            Held::Transaction(transaction) => transaction.commit().await?,
            Held::Connection(_) => {}
        }
        self.store.inner.changed.send_modify(|count| *count = count.wrapping_add(1));
        Ok(last)
    }
}

/// Begins a transaction on a connection that is in none.
///
/// When a disk is full SQLite may end a transaction by itself. The driver does not notice, and would count that
/// connection as busy with it for ever; such a connection is closed, and the pool opens another one.
async fn begin(pool: &AnyPool, text: &'static str) -> Result<Transaction<'static, Any>, StoreError> {
    for _ in 0..=SQLITE_READERS {
        match pool.begin_with(text).await {
            Err(sqlx::Error::InvalidSavePointStatement) => pool.acquire().await?.close().await?,
            begun => return Ok(begun?),
        }
    }
    Ok(pool.begin_with(text).await?)
}

fn options(driver_url: &str) -> Result<AnyConnectOptions, StoreError> {
    // Statements are traced where they fail; a slow check or backup is no warning.
    Ok(driver_url.parse::<AnyConnectOptions>()?.disable_statement_logging())
}

fn sqlite_pool(connections: u32, settings: &'static [&'static str]) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(move |conn, _| Box::pin(apply_settings(conn, settings)))
}

async fn apply_settings(conn: &mut AnyConnection, settings: &'static [&'static str]) -> Result<(), sqlx::Error> {
    for setting in settings {
        sqlx::raw_sql(*setting).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Resolves the folder, so that the driver's URL parser finds nothing to normalise.
fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let folder = folder.canonicalize().map_err(|error| StoreError::file(folder, error))?;
    match path.file_name() {
        Some(name) => Ok(folder.join(name)),
        None => Err(StoreError::file(path, std::io::ErrorKind::IsADirectory.into())),
    }
}

#[cfg(test)]
mod tests;
