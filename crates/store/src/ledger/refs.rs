//! Ids in small: the ledger's rows carry numbers from `ledger_ref`, and this remembers them.
//!
//! A number is remembered only after the transaction that made it was committed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use galerne_model::ids::{
    BatchId, EndpointId, KeyId, NodeId, PriceBookId, PrincipalId, ProjectId, ReplicaId, TenantId,
};
use galerne_model::inference::ReplicaSpec;
use sqlx::AnyConnection;
use sqlx::Row;

use crate::error::StoreError;

const FIND: &str = "SELECT no FROM ledger_ref WHERE id = $1";
const NAME: &str = "SELECT id FROM ledger_ref WHERE no = $1";
const TAKE_NUMBER: &str = "UPDATE counter SET value = value + 1 WHERE name = 'ledger_ref' RETURNING value";
const INSERT: &str = "INSERT INTO ledger_ref (no, id) VALUES ($1, $2)";
const REPLICA: &str = "SELECT spec FROM replica WHERE id = $1";

/// Ids remembered at once; past it the memory starts again. 100,000 take about 10 MB.
const REMEMBERED_MAX: usize = 100_000;

/// An id of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RefId {
    prefix: &'static str,
    uuid: u128,
}

macro_rules! ref_ids {
    ($($id:ident),*) => {$(
        impl From<$id> for RefId {
            fn from(id: $id) -> Self {
                Self { prefix: $id::PREFIX, uuid: id.uuid().as_u128() }
            }
        }
    )*};
}

ref_ids!(BatchId, TenantId, ProjectId, PrincipalId, KeyId, EndpointId, ReplicaId, PriceBookId, NodeId);

impl fmt::Display for RefId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{:032x}", self.prefix, self.uuid)
    }
}

/// What this process knows of `ledger_ref`, and which node a replica ran on.
#[derive(Debug, Default)]
pub(crate) struct RefCache {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    numbers: HashMap<RefId, i64>,
    names: HashMap<i64, Arc<str>>,
    node_of: HashMap<i64, i64>,
}

/// Numbers used in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Refs {
    numbers: HashMap<RefId, i64>,
    fresh: Vec<(RefId, i64)>,
    node_of: HashMap<i64, i64>,
}

impl RefCache {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // The maps stay whole wherever a thread panics, so a poisoned lock is as good as another.
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Remembers what a committed transaction learned.
    pub(crate) fn learn(&self, refs: Refs) {
        let mut known = self.lock();
        if known.numbers.len() > REMEMBERED_MAX {
            *known = Known::default();
        }
        known.numbers.extend(refs.fresh);
        known.node_of.extend(refs.node_of);
    }
}

impl Refs {
    /// The number of an id, made if it is new.
    pub(crate) async fn number(
        &mut self,
        conn: &mut AnyConnection,
        cache: &RefCache,
        id: RefId,
    ) -> Result<i64, StoreError> {
        if let Some(&no) = self.numbers.get(&id) {
            return Ok(no);
        }
        let remembered = cache.lock().numbers.get(&id).copied();
        let no = match remembered {
            Some(no) => no,
            None => {
                let no = find_or_insert(conn, id).await?;
                self.fresh.push((id, no));
                no
            }
        };
        self.numbers.insert(id, no);
        Ok(no)
    }

    /// The number of the node a replica runs on; 0 for one outside our meters.
    pub(crate) async fn node_of(
        &mut self,
        conn: &mut AnyConnection,
        cache: &RefCache,
        replica_id: ReplicaId,
    ) -> Result<i64, StoreError> {
        let replica_no = self.number(conn, cache, replica_id.into()).await?;
        let remembered = cache.lock().node_of.get(&replica_no).copied();
        if let Some(node_no) = self.node_of.get(&replica_no).copied().or(remembered) {
            return Ok(node_no);
        }
        let row = sqlx::query(REPLICA).bind(replica_id.to_string()).fetch_optional(&mut *conn).await?;
        let spec: Option<ReplicaSpec> = match row {
            Some(row) => Some(
                serde_json::from_str(&row.try_get::<String, _>("spec")?)
                    .map_err(|error| StoreError::Corrupt(format!("replica `{replica_id}` is unreadable: {error}")))?,
            ),
            None => None,
        };
        let node_no = match spec.and_then(|spec| spec.node_id) {
            Some(node_id) => self.number(conn, cache, node_id.into()).await?,
            None => 0,
        };
        self.node_of.insert(replica_no, node_no);
        Ok(node_no)
    }
}

async fn find_or_insert(conn: &mut AnyConnection, id: RefId) -> Result<i64, StoreError> {
    if let Some(no) = find(conn, id).await? {
        return Ok(no);
    }
    // The counter's row is the lock: whoever waited here sees what the other inserted.
    let no: i64 = sqlx::query(TAKE_NUMBER).fetch_one(&mut *conn).await?.try_get("value")?;
    if let Some(no) = find(conn, id).await? {
        return Ok(no);
    }
    sqlx::query(INSERT).bind(no).bind(id.to_string()).execute(conn).await?;
    Ok(no)
}

/// The number of an id that may never have been used.
pub(crate) async fn find(conn: &mut AnyConnection, id: RefId) -> Result<Option<i64>, StoreError> {
    let row = sqlx::query(FIND).bind(id.to_string()).fetch_optional(conn).await?;
    Ok(row.map(|row| row.try_get("no")).transpose()?)
}

/// The id behind a number.
pub(crate) async fn name_uncached(conn: &mut AnyConnection, no: i64) -> Result<String, StoreError> {
    let row = sqlx::query(NAME).bind(no).fetch_optional(conn).await?;
    let row = row.ok_or_else(|| StoreError::Corrupt(format!("the ledger has no id for its number {no}")))?;
    Ok(row.try_get("id")?)
}

/// The id behind a number that is asked for often.
pub(crate) async fn name(conn: &mut AnyConnection, cache: &RefCache, no: i64) -> Result<Arc<str>, StoreError> {
    if let Some(name) = cache.lock().names.get(&no) {
        return Ok(Arc::clone(name));
    }
    let name: Arc<str> = name_uncached(conn, no).await?.into();
    let mut known = cache.lock();
    if known.names.len() > REMEMBERED_MAX {
        known.names.clear();
    }
    known.names.insert(no, Arc::clone(&name));
    Ok(name)
}
