//! Leases: who leads, and until when. Every change of hands raises the epoch, and old epochs cannot write.
//!
//! The clock is the database's on PostgreSQL, where holders are on several machines; on SQLite the caller's. Leases have
//! connections of their own, so that nobody loses one because others read.

use jiff::{SignedDuration, Timestamp};
use sqlx::Row;

use crate::engine_sql;
use crate::error::StoreError;
use crate::resource::instant;
use crate::store::{Store, Tx};

// A holder that comes back under its own name need not wait for its own lease to end: the epoch fences its past.
const ACQUIRE: &str = "INSERT INTO lease (name, holder, epoch, expires_at, since) VALUES ($1, $2, 1, $4, $3) \
    ON CONFLICT (name) DO UPDATE SET holder = $2, epoch = lease.epoch + 1, expires_at = $4, since = $3 \
    WHERE lease.expires_at <= $3 OR lease.holder = $2 RETURNING epoch";
const READ: &str = "SELECT holder, epoch, expires_at, since FROM lease WHERE name = $1 AND expires_at > $2";
const RENEW: &str = "UPDATE lease SET expires_at = $4 WHERE name = $1 AND epoch = $2 AND expires_at > $3";
const RETAKE: &str = "UPDATE lease SET epoch = epoch + 1, expires_at = $4, since = $3 \
    WHERE name = $1 AND holder = $2 AND epoch = $5 AND expires_at <= $3 RETURNING epoch";
const RELEASE: &str = "UPDATE lease SET expires_at = 0 WHERE name = $1 AND epoch = $2";
const END_ALL: &str = "UPDATE lease SET expires_at = 0";
// A write, not a read: it holds the row until the transaction ends, so nobody takes the lease meanwhile.
const REQUIRE: &str = "UPDATE lease SET epoch = epoch WHERE name = $1 AND epoch = $2";

/// The lease of whoever serves a database: budgets are kept in one process, so there is one.
pub const SERVER_LEASE: &str = "server";

/// A lease held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// +1 per change of hands.
    pub epoch: i64,
    /// When it ends unless renewed.
    pub expires_at: Timestamp,
    /// When it came to this holder.
    pub since: Timestamp,
}

impl Store {
    /// Takes the lease if it is free, over, or this holder's own; nothing when somebody else holds it.
    pub async fn lease_acquire(
        &self,
        name: &str,
        holder: &str,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        self.hand_over(name, holder, None, ttl, now).await
    }

    /// The lease as it stands, while somebody holds it.
    pub async fn lease(&self, name: &str, now: Timestamp) -> Result<Option<Lease>, StoreError> {
        let engine = self.engine();
        let mut reader = self.read_lease().await?;
        let now = engine_sql::shared_now(engine, reader.conn(), now.as_microsecond()).await?;
        let row = sqlx::query(READ).bind(name.to_owned()).bind(now).fetch_optional(reader.conn()).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Lease {
            name: name.to_owned(),
            holder: row.try_get("holder")?,
            epoch: row.try_get("epoch")?,
            expires_at: instant(row.try_get("expires_at")?)?,
            since: instant(row.try_get("since")?)?,
        }))
    }

    /// Extends a lease; false when it is over or went to somebody else.
    pub async fn lease_renew(
        &self,
        name: &str,
        epoch: i64,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let engine = self.engine();
        let mut tx = self.begin_lease().await?;
        let now = engine_sql::shared_now(engine, tx.conn(), now.as_microsecond()).await?;
        let done = sqlx::query(RENEW)
            .bind(name.to_owned())
            .bind(epoch)
            .bind(now)
            .bind(now.saturating_add(micros(ttl)))
            .execute(tx.conn())
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Takes a lease again that ended at this epoch, if nobody had it since.
    pub async fn lease_retake(
        &self,
        name: &str,
        holder: &str,
        epoch: i64,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        self.hand_over(name, holder, Some(epoch), ttl, now).await
    }

    /// Gives the lease to `holder` at the next epoch: as anybody, or as who had it last, at the epoch `after`.
    async fn hand_over(
        &self,
        name: &str,
        holder: &str,
        after: Option<i64>,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        let engine = self.engine();
        let mut tx = self.begin_lease().await?;
        let now = engine_sql::shared_now(engine, tx.conn(), now.as_microsecond()).await?;
        let expires = now.saturating_add(micros(ttl));
        let statement = if after.is_some() { RETAKE } else { ACQUIRE };
        let mut query = sqlx::query(statement).bind(name.to_owned()).bind(holder.to_owned()).bind(now).bind(expires);
        if let Some(epoch) = after {
            query = query.bind(epoch);
        }
        let row = query.fetch_optional(tx.conn()).await?;
        let Some(row) = row else { return Ok(None) };
        let epoch = row.try_get("epoch")?;
        tx.commit().await?;
        let (expires_at, since) = (instant(expires)?, instant(now)?);
        Ok(Some(Lease { name: name.to_owned(), holder: holder.to_owned(), epoch, expires_at, since }))
    }

    /// Gives a lease back, so that the next holder need not wait; false when it was not held any more.
    pub async fn lease_release(&self, name: &str, epoch: i64) -> Result<bool, StoreError> {
        let mut tx = self.begin_lease().await?;
        let done = sqlx::query(RELEASE).bind(name.to_owned()).bind(epoch).execute(tx.conn()).await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Ends every lease, whatever the clock says: for whoever knows by a lock that no holder lives.
    pub async fn leases_end(&self) -> Result<(), StoreError> {
        let mut tx = self.begin_lease().await?;
        sqlx::query(END_ALL).execute(tx.conn()).await?;
        tx.commit().await?;
        Ok(())
    }
}

impl Tx {
    /// Lets this transaction go on only while the lease is at this epoch, up to its commit.
    pub async fn require_epoch(&mut self, name: &str, epoch: i64) -> Result<(), StoreError> {
        let done = sqlx::query(REQUIRE).bind(name.to_owned()).bind(epoch).execute(self.conn()).await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Fenced { name: name.to_owned(), epoch }) }
    }
}

fn micros(ttl: SignedDuration) -> i64 {
    i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)
}
