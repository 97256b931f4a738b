//! Pages of usage records, transfers and readings, for people. Loops and exports walk; see `usage`.

use galerne_model::ids::{ProjectId, TransferId};
use galerne_model::ledger::{Owner, Quantities, Reading, TransferKind, UsageRecord};
use galerne_model::limits::PAGE_MAX;
use sqlx::Row;

use super::cost::owner;
use super::spending::number_of;
use super::usage::{UsageFilter, columns, read};
use super::{
    PART_APPORTIONMENT, PART_CORRECTION, PART_IDLE, PART_OVERHEAD, PART_REVERSAL, PART_REVERSAL_ENERGY,
    read_quantities, refs, transfer_id,
};
use crate::error::StoreError;
use crate::store::Store;

const USAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM usage WHERE (source, sequence) < ($1, $2) ",
    "AND (CAST($3 AS BIGINT) IS NULL OR tenant_no = $3) AND (CAST($4 AS BIGINT) IS NULL OR project_no = $4) ",
    "AND started_at >= $5 AND started_at < $6 ORDER BY source DESC, sequence DESC LIMIT $7"
);
const TRANSFERS: &str = "SELECT to_no, from_no, source, sequence, part, prompt_tokens, cached_tokens, \
    completion_tokens, micros, picos, millijoules, co2e_micrograms FROM transfer \
    WHERE (to_no, from_no, source, sequence, part) > ($1, $2, $3, $4, $5) \
    AND (CAST($6 AS BIGINT) IS NULL OR to_no = $6 OR from_no = $6) \
    ORDER BY to_no, from_no, source, sequence, part LIMIT $7";
const READINGS: &str = "SELECT reading.no, reading.node_no, replica_reading.replica_no, reading.id, reading.started_at, \
    reading.ended_at, reading.millijoules, reading.method, reading.busy_cpu_micros, reading.zone, \
    reading.intensity_mg_per_kwh, reading.intensity_source FROM reading LEFT JOIN replica_reading \
    ON replica_reading.reading_no = reading.no WHERE reading.no < $1 ORDER BY reading.no DESC LIMIT $2";

/// Where a page of transfers goes on: the key of the last one seen.
pub type TransferKey = [i64; 5];

/// A transfer as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTransfer {
    /// Which one it is.
    pub id: TransferId,
    /// Why it was made.
    pub kind: TransferKind,
    /// Who gave.
    pub from: Owner,
    /// Who received.
    pub to: Owner,
    /// How much of everything.
    pub quantities: Quantities,
    /// Spool of the usage record; 0 for readings, -1 for reversals.
    pub source: i64,
    /// Position of the record, reading or reversal.
    pub sequence: i64,
    /// To go on after it.
    pub key: TransferKey,
}

impl Store {
    /// Usage records, the last of each spool first; `before` is (source, sequence) of the last one seen.
    pub async fn usage_page(
        &self,
        filter: &UsageFilter,
        before: Option<(i64, i64)>,
        limit: u32,
    ) -> Result<Vec<UsageRecord>, StoreError> {
        let mut reader = self.read_once().await?;
        let tenant_no = number_of(reader.conn(), filter.tenant_id.map(Into::into)).await?;
        let project_no = number_of(reader.conn(), filter.project_id.map(Into::into)).await?;
        let (source, sequence) = before.unwrap_or((i64::MAX, i64::MAX));
        let rows = sqlx::query(USAGE)
            .bind(source)
            .bind(sequence)
            .bind(tenant_no)
            .bind(project_no)
            .bind(filter.from.map_or(i64::MIN, jiff::Timestamp::as_microsecond))
            .bind(filter.until.map_or(i64::MAX, jiff::Timestamp::as_microsecond))
            .bind(i64::from(limit.clamp(1, PAGE_MAX)))
            .fetch_all(reader.conn())
            .await?;
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            records.push(read(self.refs(), &mut reader, row).await?);
        }
        Ok(records)
    }

    /// Transfers by owner; of one project only when it is named.
    pub async fn transfers_page(
        &self,
        project_id: Option<ProjectId>,
        after: Option<TransferKey>,
        limit: u32,
    ) -> Result<Vec<ListedTransfer>, StoreError> {
        let mut reader = self.read_once().await?;
        let project_no = number_of(reader.conn(), project_id.map(Into::into)).await?;
        let mut query = sqlx::query(TRANSFERS);
        for part in after.unwrap_or([i64::MIN; 5]) {
            query = query.bind(part);
        }
        let limit = i64::from(limit.clamp(1, PAGE_MAX));
        let rows = query.bind(project_no).bind(limit).fetch_all(reader.conn()).await?;
        let mut transfers = Vec::with_capacity(rows.len());
        for row in &rows {
            let key: TransferKey = [
                row.try_get("to_no")?,
                row.try_get("from_no")?,
                row.try_get("source")?,
                row.try_get("sequence")?,
                row.try_get("part")?,
            ];
            let [to_no, from_no, source, sequence, part] = key;
            transfers.push(ListedTransfer {
                id: transfer_id(source, sequence, part),
                kind: kind(part),
                from: owner(&mut reader, from_no).await?,
                to: owner(&mut reader, to_no).await?,
                quantities: read_quantities(row)?,
                source,
                sequence,
                key,
            });
        }
        Ok(transfers)
    }

    /// Readings with their numbers, newest first; `before` is the number of the last one seen.
    pub async fn readings_page(&self, before: Option<i64>, limit: u32) -> Result<Vec<(i64, Reading)>, StoreError> {
        let mut reader = self.read_once().await?;
        let rows = sqlx::query(READINGS)
            .bind(before.unwrap_or(i64::MAX))
            .bind(i64::from(limit.clamp(1, PAGE_MAX)))
            .fetch_all(reader.conn())
            .await?;
        let mut readings = Vec::with_capacity(rows.len());
        for row in &rows {
            let name = refs::name(reader.conn(), self.refs(), row.try_get("node_no")?).await?;
            let node_id =
                name.parse().map_err(|_| StoreError::Corrupt(format!("a reading names the node `{name}`")))?;
            let replica_id = match row.try_get::<Option<i64>, _>("replica_no")? {
                Some(no) => {
                    let name = refs::name(reader.conn(), self.refs(), no).await?;
                    Some(
                        name.parse()
                            .map_err(|_| StoreError::Corrupt(format!("a reading names the replica `{name}`")))?,
                    )
                }
                None => None,
            };
            readings.push((row.try_get("no")?, super::reading::read(row, node_id, replica_id)?));
        }
        Ok(readings)
    }
}

const fn kind(part: i64) -> TransferKind {
    match part {
        PART_IDLE | PART_APPORTIONMENT => TransferKind::Idle,
        PART_OVERHEAD => TransferKind::Overhead,
        PART_REVERSAL | PART_REVERSAL_ENERGY => TransferKind::Reversal,
        PART_CORRECTION => TransferKind::Correction,
        // What a charge exceeds its hold by is part of the usage.
        _ => TransferKind::Usage,
    }
}
