//! Idempotency keys: the same request twice does its work once and gets the same answer.
//!
//! INVARIANT: the key, the work and the answer are in one transaction, so there is no moment between them.

use galerne_model::ids::PrincipalId;
use galerne_model::limits::IDEMPOTENCY_TTL_HOURS;
use jiff::{SignedDuration, Timestamp};
use sqlx::Row;

use crate::error::StoreError;
use crate::store::{Store, Tx};

// A twin that comes while the first is not committed waits here, then reads the first one's answer.
const TAKE: &str = "INSERT INTO idempotency (principal_id, key, digest, expires_at) VALUES ($1, $2, $3, $5) \
    ON CONFLICT (principal_id, key) DO UPDATE SET digest = $3, status = NULL, body = NULL, expires_at = $5 \
    WHERE idempotency.expires_at <= $4";
const READ: &str = "SELECT digest, status, body FROM idempotency WHERE principal_id = $1 AND key = $2";
const FINISH: &str = "UPDATE idempotency SET status = $3, body = $4 WHERE principal_id = $1 AND key = $2";
const PRUNE: &str = "DELETE FROM idempotency WHERE expires_at <= $1";

/// What is known of a request with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idempotency {
    /// Not seen before: do the work, then [`Tx::finish_idempotent`], then commit.
    Fresh,
    /// Done before: give this answer again.
    Replay {
        /// HTTP status.
        status: u16,
        /// Body.
        body: String,
    },
    /// The key was used for another request.
    Mismatch,
}

impl Tx {
    /// Claims a key for the request whose digest is given.
    pub async fn begin_idempotent(
        &mut self,
        principal_id: PrincipalId,
        key: &str,
        digest: &str,
        now: Timestamp,
    ) -> Result<Idempotency, StoreError> {
        let expires_at =
            now.saturating_add(SignedDuration::from_hours(IDEMPOTENCY_TTL_HOURS)).unwrap_or(Timestamp::MAX);
        let taken = sqlx::query(TAKE)
            .bind(principal_id.to_string())
            .bind(key.to_owned())
            .bind(digest.to_owned())
            .bind(now.as_microsecond())
            .bind(expires_at.as_microsecond())
            .execute(self.conn())
            .await?;
        if taken.rows_affected() == 1 {
            return Ok(Idempotency::Fresh);
        }
        let row = sqlx::query(READ).bind(principal_id.to_string()).bind(key.to_owned()).fetch_one(self.conn()).await?;
        if row.try_get::<String, _>("digest")? != digest {
            return Ok(Idempotency::Mismatch);
        }
        let status: Option<i64> = row.try_get("status")?;
        let body: Option<String> = row.try_get("body")?;
        match (status.and_then(|status| u16::try_from(status).ok()), body) {
            (Some(status), Some(body)) => Ok(Idempotency::Replay { status, body }),
            _ => Err(StoreError::Corrupt(format!("idempotency key `{key}` was kept without its answer"))),
        }
    }

    /// Keeps the answer of a request that [`Tx::begin_idempotent`] called fresh in this transaction.
    pub async fn finish_idempotent(
        &mut self,
        principal_id: PrincipalId,
        key: &str,
        status: u16,
        body: &str,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(FINISH)
            .bind(principal_id.to_string())
            .bind(key.to_owned())
            .bind(i64::from(status))
            .bind(body.to_owned())
            .execute(self.conn())
            .await?;
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::NotFound { kind: "idempotency key", id: key.to_owned() })
        }
    }
}

impl Store {
    /// Forgets answers whose time is over; returns how many.
    pub async fn prune(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(PRUNE).bind(now.as_microsecond()).execute(tx.conn()).await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}
