//! The outbox: what a transaction decided must be done outside, kept until it was done.
//!
//! Delivery is at least once: a claim that is not acknowledged in time is given out again.

use galerne_model::limits::PAGE_MAX;
use jiff::Timestamp;
use sqlx::Row;

use crate::error::StoreError;
use crate::store::{Store, Tx};

const TAKE_NUMBER: &str = "UPDATE counter SET value = value + 1 WHERE name = 'outbox' RETURNING value";
const INSERT: &str = "INSERT INTO outbox (id, kind, key, payload, created_at, attempts, not_before, claim_epoch, \
    claimed_until) VALUES ($1, $2, $3, $4, $5, 0, $6, 0, 0) ON CONFLICT (kind, key) DO NOTHING";
// Two claimers that chose the same rows: the second waits, reads them again, and finds them claimed.
const CLAIM: &str = "UPDATE outbox SET claim_epoch = $2, claimed_until = $4, attempts = attempts + 1 \
    WHERE claimed_until <= $3 AND id IN (SELECT id FROM outbox WHERE kind = $1 AND not_before <= $3 \
    AND claimed_until <= $3 ORDER BY not_before, id LIMIT $5) RETURNING id, key, payload, attempts";
const ACK: &str = "DELETE FROM outbox WHERE id = $1 AND claim_epoch = $2";
const RETRY: &str = "UPDATE outbox SET not_before = $3, claimed_until = 0 WHERE id = $1 AND claim_epoch = $2";

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxItem {
    /// Who takes it, e.g. `webhook`.
    pub kind: String,
    /// What makes it one thing: the same kind and key waiting twice is one item.
    pub key: String,
    /// What the taker needs to know.
    pub payload: serde_json::Value,
    /// When it was decided.
    pub created_at: Timestamp,
    /// When it is due.
    pub not_before: Timestamp,
}

/// An item given out to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// Its number.
    pub id: i64,
    /// Its key.
    pub key: String,
    /// Its payload.
    pub payload: serde_json::Value,
    /// How many times it was given out, this one included.
    pub attempts: i64,
}

impl Tx {
    /// Adds an item, unless the same kind and key waits already; says whether it was added.
    pub async fn enqueue(&mut self, item: &OutboxItem) -> Result<bool, StoreError> {
        let id: i64 = sqlx::query(TAKE_NUMBER).fetch_one(self.conn()).await?.try_get("value")?;
        let done = sqlx::query(INSERT)
            .bind(id)
            .bind(item.kind.clone())
            .bind(item.key.clone())
            .bind(item.payload.to_string())
            .bind(item.created_at.as_microsecond())
            .bind(item.not_before.as_microsecond())
            .execute(self.conn())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

impl Store {
    /// Gives out due items of a kind to the holder of `epoch` until `until`.
    pub async fn outbox_claim(
        &self,
        kind: &str,
        epoch: i64,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Claimed>, StoreError> {
        let mut tx = self.begin().await?;
        let rows = sqlx::query(CLAIM)
            .bind(kind.to_owned())
            .bind(epoch)
            .bind(now.as_microsecond())
            .bind(until.as_microsecond())
            .bind(i64::from(limit.clamp(1, PAGE_MAX)))
            .fetch_all(tx.conn())
            .await?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in &rows {
            let id: i64 = row.try_get("id")?;
            let payload: String = row.try_get("payload")?;
            let payload = serde_json::from_str(&payload)
                .map_err(|error| StoreError::Corrupt(format!("outbox item {id} is unreadable: {error}")))?;
            claimed.push(Claimed { id, key: row.try_get("key")?, payload, attempts: row.try_get("attempts")? });
        }
        if !claimed.is_empty() {
            tx.commit().await?;
        }
        claimed.sort_by_key(|item| item.id);
        Ok(claimed)
    }

    /// Takes a done item away; false when another claim took it over.
    pub async fn outbox_ack(&self, id: i64, epoch: i64) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(ACK).bind(id).bind(epoch).execute(tx.conn()).await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Puts an item back until `not_before`; false when another claim took it over.
    pub async fn outbox_retry(&self, id: i64, epoch: i64, not_before: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(RETRY).bind(id).bind(epoch).bind(not_before.as_microsecond()).execute(tx.conn()).await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }
}
