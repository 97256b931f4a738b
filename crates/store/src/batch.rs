//! Batches, and what is done of those that run.
//!
//! INVARIANT: of a batch's row, `cancel_at` is written by who cancels and the rest by the engine, so neither undoes the other.

use std::collections::BTreeMap;

use galerne_model::batch::Batch;
use galerne_model::ids::{BatchId, FileId, ProjectId};
use galerne_model::ledger::UsageRecord;
use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::error::StoreError;
use crate::file::{Order, from_json, json};
use crate::resource::instant;
use crate::store::{Reader, Store, Tx};

const INSERT: &str = "INSERT INTO batch (id, project_id, ended, cancel_at, body) VALUES ($1, $2, $3, NULL, $4)";
const UPDATE: &str = "UPDATE batch SET ended = $2, body = $3 WHERE id = $1 AND ended = 0";
const CANCEL: &str = "UPDATE batch SET cancel_at = $2 WHERE id = $1 AND ended = 0 AND cancel_at IS NULL";
const DELETE: &str = "DELETE FROM batch WHERE id = $1 AND ended = 1";
const GET: &str = "SELECT cancel_at, body FROM batch WHERE id = $1";
const OPEN: &str = "SELECT cancel_at, body FROM batch WHERE ended = 0 ORDER BY id";
const OPEN_COUNT: &str = "SELECT COUNT(*) AS n FROM batch WHERE ended = 0 AND project_id = $1";
const SEGMENT_INSERT: &str = "INSERT INTO batch_segment (batch_id, number, object, lines, records, settled) \
    VALUES ($1, $2, $3, $4, $5, 0)";
const SEGMENT_SETTLED: &str = "UPDATE batch_segment SET settled = 1, records = '[]' \
    WHERE batch_id = $1 AND number <= $2 AND settled = 0";
const SEGMENTS: &str = "SELECT number, object, lines FROM batch_segment WHERE batch_id = $1 ORDER BY number";
const SEGMENTS_DELETE: &str = "DELETE FROM batch_segment WHERE batch_id = $1";
const UNSETTLED: &str = "SELECT records FROM batch_segment WHERE settled = 0 ORDER BY batch_id, number";
const SEGMENT_KNOWN: &str = "SELECT COUNT(*) AS n FROM batch_segment WHERE object = $1";

macro_rules! list {
    ($compare:literal, $order:literal) => {
        concat!(
            "SELECT cancel_at, body FROM batch WHERE project_id = $1 AND (CAST($2 AS TEXT) IS NULL OR id ",
            $compare,
            " $2) ORDER BY id ",
            $order,
            " LIMIT $3"
        )
    };
}

const OLDEST: &str = list!(">", "ASC");
const NEWEST: &str = list!("<", "DESC");

/// Which batches of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchQuery {
    /// The project.
    pub project_id: ProjectId,
    /// Only those after this one, in the order asked for.
    pub after: Option<BatchId>,
    /// In which order.
    pub order: Order,
    /// Most batches.
    pub limit: i64,
}

/// Some answers of a batch, durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its place among those of the batch, from 1.
    pub number: i64,
    /// The object with the answers.
    pub object: String,
    /// The lines that are done with it, counted from 0 over all inputs.
    pub lines: Vec<u64>,
}

impl Tx {
    /// Writes a new batch.
    pub async fn batch_insert(&mut self, batch: &Batch) -> Result<(), StoreError> {
        sqlx::query(INSERT)
            .bind(batch.id.to_string())
            .bind(batch.project_id.to_string())
            .bind(i64::from(batch.has_ended()))
            .bind(json(batch)?)
            .execute(self.conn())
            .await?;
        Ok(())
    }

    /// Writes what the engine made of a batch that has not ended; one that has is never changed.
    pub async fn batch_update(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let done = sqlx::query(UPDATE)
            .bind(batch.id.to_string())
            .bind(i64::from(batch.has_ended()))
            .bind(json(batch)?)
            .execute(self.conn())
            .await?;
        let missing = || StoreError::NotFound { kind: "batch that has not ended", id: batch.id.to_string() };
        if done.rows_affected() == 1 { Ok(()) } else { Err(missing()) }
    }

    /// Asks for a batch to be cancelled; false when it has ended or was asked before.
    pub async fn batch_cancel(&mut self, id: BatchId, now: Timestamp) -> Result<bool, StoreError> {
        let done = sqlx::query(CANCEL).bind(id.to_string()).bind(now.as_microsecond()).execute(self.conn()).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets a batch that has ended; false when it has not.
    pub async fn batch_delete(&mut self, id: BatchId) -> Result<bool, StoreError> {
        let done = sqlx::query(DELETE).bind(id.to_string()).execute(self.conn()).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Adds answers with the usage records of their requests.
    pub async fn segment_insert(
        &mut self,
        batch_id: BatchId,
        segment: &Segment,
        records: &[UsageRecord],
    ) -> Result<(), StoreError> {
        sqlx::query(SEGMENT_INSERT)
            .bind(batch_id.to_string())
            .bind(segment.number)
            .bind(segment.object.clone())
            .bind(json(&segment.lines)?)
            .bind(json(&records)?)
            .execute(self.conn())
            .await?;
        Ok(())
    }

    /// The gateway has the records of all segments up to this one.
    pub async fn segments_settled(&mut self, batch_id: BatchId, through: i64) -> Result<(), StoreError> {
        sqlx::query(SEGMENT_SETTLED).bind(batch_id.to_string()).bind(through).execute(self.conn()).await?;
        Ok(())
    }

    /// Forgets the segments of a batch, whose files are written.
    pub async fn segments_delete(&mut self, batch_id: BatchId) -> Result<(), StoreError> {
        sqlx::query(SEGMENTS_DELETE).bind(batch_id.to_string()).execute(self.conn()).await?;
        Ok(())
    }
}

impl Reader {
    /// A batch, if there is one.
    pub async fn batch(&mut self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        let row = sqlx::query(GET).bind(id.to_string()).fetch_optional(self.conn()).await?;
        row.as_ref().map(read).transpose()
    }

    /// Batches of a project.
    pub async fn batches(&mut self, query: &BatchQuery) -> Result<Vec<Batch>, StoreError> {
        let text = match query.order {
            Order::Newest => NEWEST,
            Order::Oldest => OLDEST,
        };
        let rows = sqlx::query(text)
            .bind(query.project_id.to_string())
            .bind(query.after.map(|id| id.to_string()))
            .bind(query.limit)
            .fetch_all(self.conn())
            .await?;
        rows.iter().map(read).collect()
    }

    /// Batches of a project that have not ended.
    pub async fn batches_open_in(&mut self, project_id: ProjectId) -> Result<u64, StoreError> {
        let row = sqlx::query(OPEN_COUNT).bind(project_id.to_string()).fetch_one(self.conn()).await?;
        Ok(row.try_get::<i64, _>("n")?.unsigned_abs())
    }

    /// Batches that have not ended.
    pub async fn batches_open(&mut self) -> Result<Vec<Batch>, StoreError> {
        let rows = sqlx::query(OPEN).fetch_all(self.conn()).await?;
        rows.iter().map(read).collect()
    }

    /// The segments of a batch, in order.
    pub async fn segments(&mut self, batch_id: BatchId) -> Result<Vec<Segment>, StoreError> {
        let rows = sqlx::query(SEGMENTS).bind(batch_id.to_string()).fetch_all(self.conn()).await?;
        rows.iter()
            .map(|row| {
                let lines = from_json("segment of a batch", &row.try_get::<String, _>("lines")?)?;
                Ok(Segment { number: row.try_get("number")?, object: row.try_get("object")?, lines })
            })
            .collect()
    }

    /// A batch that has not ended and reads this file.
    pub async fn batch_reading(&mut self, file: FileId) -> Result<Option<BatchId>, StoreError> {
        let open = self.batches_open().await?;
        Ok(open.into_iter().find(|batch| batch.inputs.contains(&file)).map(|batch| batch.id))
    }
}

impl Store {
    /// See [`Reader::batch`].
    pub async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        self.read_once().await?.batch(id).await
    }

    /// See [`Reader::batches`].
    pub async fn batches(&self, query: &BatchQuery) -> Result<Vec<Batch>, StoreError> {
        self.read_once().await?.batches(query).await
    }

    /// See [`Reader::batches_open`].
    pub async fn batches_open(&self) -> Result<Vec<Batch>, StoreError> {
        self.read_once().await?.batches_open().await
    }

    /// See [`Reader::segments`].
    pub async fn segments(&self, batch_id: BatchId) -> Result<Vec<Segment>, StoreError> {
        self.read_once().await?.segments(batch_id).await
    }

    /// Usage records of answers that are durable, which the gateway may not have written: by their request.
    pub async fn records_unsettled(&self) -> Result<BTreeMap<galerne_model::ids::RequestId, UsageRecord>, StoreError> {
        let mut reader = self.read_once().await?;
        let rows = sqlx::query(UNSETTLED).fetch_all(reader.conn()).await?;
        let mut all = BTreeMap::new();
        for row in rows {
            let records: Vec<UsageRecord> = from_json("segment of a batch", &row.try_get::<String, _>("records")?)?;
            all.extend(records.into_iter().map(|record| (record.request_id, record)));
        }
        Ok(all)
    }

    /// Whether a segment is in this object.
    pub async fn segment_is_known(&self, object: &str) -> Result<bool, StoreError> {
        let mut reader = self.read_once().await?;
        let row = sqlx::query(SEGMENT_KNOWN).bind(object.to_owned()).fetch_one(reader.conn()).await?;
        Ok(row.try_get::<i64, _>("n")? > 0)
    }
}

fn read(row: &AnyRow) -> Result<Batch, StoreError> {
    let mut batch: Batch = from_json("batch", &row.try_get::<String, _>("body")?)?;
    batch.status.cancel_at = row.try_get::<Option<i64>, _>("cancel_at")?.map(instant).transpose()?;
    Ok(batch)
}
