//! Corrections: a transfer is never changed, another one cancels it.
//!
//! Money and tokens go back to the meter. Energy and carbon were really used, so they go to the idle account:
//! the sum over all owners stays what the meters said.

use galerne_model::ids::{RequestId, TransferId};
use galerne_model::ledger::Quantities;
use galerne_model::units::{MicrogramsCo2e, Millijoules};
use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::Row;

use super::bulk;
use super::settle::{DailyKey, day};
use super::spending::Spent;
use super::{IDLE, METER, PART_REVERSAL, PART_REVERSAL_ENERGY, PART_USAGE, SOURCE_REVERSAL};
use super::{Postings, Transfer, negated, read_quantities, transfer_id, transfer_key, write_transfer};
use crate::engine_sql::Engine;
use crate::error::{StoreError, retry};
use crate::resource::instant;
use crate::store::{Store, Tx};

const FIND: &str = "SELECT usage.project_no, usage.tenant_no, usage.key_no, usage.endpoint_no, usage.principal_no, \
    usage.started_at, transfer.prompt_tokens, transfer.cached_tokens, \
    transfer.completion_tokens, transfer.micros, transfer.picos, \
    transfer.millijoules + COALESCE((SELECT c.millijoules FROM energy_correction c WHERE c.source = $1 AND c.sequence = $2), 0) \
    AS millijoules, transfer.co2e_micrograms + COALESCE((SELECT c.co2e_micrograms FROM energy_correction c \
    WHERE c.source = $1 AND c.sequence = $2), 0) AS co2e_micrograms FROM usage JOIN transfer ON transfer.to_no = usage.project_no AND transfer.from_no = 1 \
    AND transfer.source = usage.source AND transfer.sequence = usage.sequence AND transfer.part = 0 \
    WHERE usage.source = $1 AND usage.sequence = $2";
const FIND_REVERSAL: &str = "SELECT no FROM reversal WHERE of_source = $1 AND of_sequence = $2";
const TAKE_NUMBER: &str = "UPDATE counter SET value = value + 1 WHERE name = 'reversal' RETURNING value";
const INSERT: &str = "INSERT INTO reversal (no, of_source, of_sequence, at) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (of_source, of_sequence) DO NOTHING";
const OF_REQUEST: &str =
    "SELECT source, sequence FROM usage WHERE request_high = $1 AND request_low = $2 ORDER BY source, sequence LIMIT 1";

impl Store {
    /// Cancels the transfer of a usage record and returns the id of the one that does; the same again changes nothing.
    pub async fn reverse(&self, id: TransferId, now: Timestamp) -> Result<TransferId, StoreError> {
        retry(|| self.reverse_once(id, now)).await
    }

    /// The transfer that charged a request.
    pub async fn usage_transfer(&self, request_id: RequestId) -> Result<Option<TransferId>, StoreError> {
        let (high, low) = request_id.uuid().as_u64_pair();
        let mut reader = self.read_once().await?;
        let row = sqlx::query(OF_REQUEST)
            .bind(high.cast_signed())
            .bind(low.cast_signed())
            .fetch_optional(reader.conn())
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(transfer_id(row.try_get("source")?, row.try_get("sequence")?, PART_USAGE)))
    }

    async fn reverse_once(&self, id: TransferId, now: Timestamp) -> Result<TransferId, StoreError> {
        let mut tx = self.begin().await?;
        let by = tx.reverse(id, now).await?;
        tx.commit().await?;
        Ok(by)
    }
}

impl Tx {
    /// See [`Store::reverse`]; to be committed with the event that tells of it.
    pub async fn reverse(&mut self, id: TransferId, now: Timestamp) -> Result<TransferId, StoreError> {
        let not_found = || StoreError::NotFound { kind: "transfer of a usage record", id: id.to_string() };
        let (source, sequence, part) = transfer_key(id);
        if part != PART_USAGE {
            return Err(not_found());
        }
        // First: who corrects records waits here, so that neither reads what the other is about to change.
        let no: i64 = sqlx::query(TAKE_NUMBER).fetch_one(self.conn()).await?.try_get("value")?;
        let row = sqlx::query(FIND).bind(source).bind(sequence).fetch_optional(self.conn()).await?;
        let row = row.ok_or_else(not_found)?;
        let inserted = sqlx::query(INSERT)
            .bind(no)
            .bind(source)
            .bind(sequence)
            .bind(now.as_microsecond())
            .execute(self.conn())
            .await?;
        if inserted.rows_affected() == 0 {
            let before = sqlx::query(FIND_REVERSAL).bind(source).bind(sequence).fetch_one(self.conn()).await?;
            return Ok(transfer_id(SOURCE_REVERSAL, before.try_get("no")?, PART_REVERSAL));
        }
        let project_no: i64 = row.try_get("project_no")?;
        let charged = read_quantities(&row)?;
        let engine = self.engine();
        write(engine, self.conn(), no, project_no, &charged).await?;
        let started: i64 = row.try_get("started_at")?;
        let key = DailyKey {
            day: day(started),
            project_no,
            endpoint_no: row.try_get("endpoint_no")?,
            key_no: row.try_get("key_no")?,
            principal_no: row.try_get("principal_no")?,
            tenant_no: row.try_get("tenant_no")?,
        };
        bulk::DAILY.insert(engine, self.conn(), &key.row(0, &negated(&charged))).await?;
        let mut spent = Spent::default();
        spent.add([key.tenant_no, project_no, key.key_no], instant(started)?, &negated(&charged))?;
        spent.write(engine, self.conn()).await?;
        Ok(transfer_id(SOURCE_REVERSAL, no, PART_REVERSAL))
    }
}

async fn write(
    engine: Engine,
    conn: &mut AnyConnection,
    no: i64,
    project_no: i64,
    charged: &Quantities,
) -> Result<(), StoreError> {
    let energy = Quantities {
        millijoules: charged.millijoules,
        co2e_micrograms: charged.co2e_micrograms,
        ..Quantities::default()
    };
    let rest = Quantities { millijoules: Millijoules(0), co2e_micrograms: MicrogramsCo2e(0), ..*charged };
    let mut postings = Postings::default();
    for (to_no, part, quantities) in [(METER, PART_REVERSAL, rest), (IDLE, PART_REVERSAL_ENERGY, energy)] {
        let transfer = Transfer {
            to_no,
            from_no: project_no,
            source: SOURCE_REVERSAL,
            sequence: no,
            part,
            voided_micros: 0,
            quantities,
        };
        write_transfer(conn, &mut postings, &transfer).await?;
    }
    postings.write(engine, conn).await
}
