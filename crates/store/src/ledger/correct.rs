//! Readings of a replica's own meter, and the corrections they lead to: a record that was settled by an estimate gets the
//! energy it was then measured to have used, by a transfer of the difference.
//!
//! What a request has from its replica's meter is no longer owed by its node's: `energy_pending` of the node falls by the
//! estimate, that of the replica rises by the share until the reading that covers it.
//! INVARIANT: a record is corrected at most once, in the transaction of the reading that says so; its row is not touched.
//! INVARIANT: over all readings of a replica, what its requests have of them + idle − apportionment = readings.

use galerne_model::ledger::{EnergyMethod, Quantities, Reading};
use galerne_model::units::{MicrogramsCo2e, Millijoules};
use sqlx::AnyConnection;
use sqlx::Row;

use super::reading::{self, Booking, Posted};
use super::refs::Refs;
use super::settle::{ADD_PENDING, DailyKey, day};
use super::spending::Spent;
use super::{METER, PART_CORRECTION, Postings, Transfer, bulk, method_code};
use crate::engine_sql::Engine;
use crate::error::{StoreError, retry};
use crate::resource::instant;
use crate::store::{Reader, Store};

const RECORD: &str = "SELECT project_no, tenant_no, key_no, endpoint_no, principal_no, started_at, millijoules, \
    co2e_micrograms FROM usage WHERE source = $1 AND sequence = $2 \
    AND NOT EXISTS (SELECT 1 FROM reversal WHERE of_source = $1 AND of_sequence = $2) \
    AND NOT EXISTS (SELECT 1 FROM energy_correction WHERE source = $1 AND sequence = $2)";
// A write, not a read: reversals wait for it, and it for them, so that none comes between a record and its correction.
const NO_REVERSAL: &str = "UPDATE counter SET value = value WHERE name = 'reversal'";
const INSERT: &str = "INSERT INTO energy_correction (source, sequence, reading_no, millijoules, co2e_micrograms, method) \
    VALUES ($1, $2, $3, $4, $5, $6)";
const INSERT_REPLICA: &str = "INSERT INTO replica_reading (reading_no, replica_no, how) VALUES ($1, $2, $3)";
const CORRECTION: &str = "SELECT energy_correction.millijoules, energy_correction.co2e_micrograms, replica_reading.how \
    FROM energy_correction JOIN replica_reading ON replica_reading.reading_no = energy_correction.reading_no \
    WHERE energy_correction.source = $1 AND energy_correction.sequence = $2";

/// What the meter of one replica said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaReading {
    /// The reading; it names the replica.
    pub reading: Reading,
    /// Where it was read and how it was shared, in words.
    pub how: String,
    /// What requests have of it, those that are still at work included.
    pub used: (Millijoules, MicrogramsCo2e),
    /// The first of this process: what an earlier one had given to requests and not booked is idle.
    pub is_first: bool,
    /// Requests of which the meter has said all it will.
    pub corrections: Vec<Correction>,
}

/// What the meter said of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correction {
    /// The spool of its record.
    pub source: i64,
    /// The position of its record.
    pub sequence: i64,
    /// Its share.
    pub metered: (Millijoules, MicrogramsCo2e),
    /// Time in which it worked.
    pub worked_micros: i64,
    /// Of that, the time the meter knows of. For the rest its estimate stays.
    pub metered_micros: i64,
    /// How its energy is now known.
    pub method: EnergyMethod,
}

/// How a record was corrected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrected {
    /// What its energy changed by.
    pub millijoules: Millijoules,
    /// What its carbon changed by.
    pub co2e_micrograms: MicrogramsCo2e,
    /// Where its energy was read and how it was shared, in words.
    pub how: String,
}

/// What one reading's corrections add up to.
#[derive(Debug, Default)]
struct Batch {
    postings: Postings,
    daily: Vec<(DailyKey, Quantities)>,
    spent: Spent,
    /// Metered energy of requests that cannot be corrected: it stays with the replica.
    refused: (i64, i64),
    /// Estimates that the meter has replaced.
    replaced: (i64, i64),
    metered: (i64, i64),
}

impl Store {
    /// Books the reading of a replica's own meter with the corrections it leads to; the same again is not booked twice.
    /// Records that were reversed, or corrected before, are left as they are.
    pub async fn post_replica_reading(
        &self,
        reading: &ReplicaReading,
        pue_thousandths: i64,
    ) -> Result<Posted, StoreError> {
        retry(|| self.post_replica_once(reading, pue_thousandths)).await
    }

    /// How a record was corrected, if it was.
    pub async fn correction(&self, source: i64, sequence: i64) -> Result<Option<Corrected>, StoreError> {
        self.read_once().await?.correction(source, sequence).await
    }

    async fn post_replica_once(&self, replica: &ReplicaReading, pue_thousandths: i64) -> Result<Posted, StoreError> {
        let reading = &replica.reading;
        reading::check(reading, pue_thousandths)?;
        let Some(replica_id) = reading.replica_id else {
            return Err(StoreError::BadRecord { sequence: 0, why: "a replica's reading names none".to_owned() });
        };
        let mut tx = self.begin().await?;
        if let Some(before) = reading::posted(tx.conn(), reading.id).await? {
            return Ok(before);
        }
        if !replica.corrections.is_empty() {
            sqlx::query(NO_REVERSAL).execute(tx.conn()).await?;
        }
        let mut refs = Refs::default();
        let node_no = refs.number(tx.conn(), self.refs(), reading.node_id.into()).await?;
        let replica_no = refs.number(tx.conn(), self.refs(), replica_id.into()).await?;
        let meter_before = refs.node_of(tx.conn(), self.refs(), replica_id).await?;
        let no = reading::take_number(tx.conn()).await?;
        let mut batch = Batch::default();
        for correction in &replica.corrections {
            batch.correct(tx.conn(), no, correction).await?;
        }
        let left = if replica.is_first { reading::take_pending(tx.conn(), replica_no).await? } else { (0, 0) };
        let used = (replica.used.0.0 - batch.refused.0 + left.0, replica.used.1.0 - batch.refused.1 + left.1);
        let carry = reading::carry_of_replica(tx.conn(), replica_no).await?;
        let amounts = reading::amounts(reading, pue_thousandths, carry)?;
        let posted = reading::split(reading.millijoules.0, used, &amounts);
        reading::insert(tx.conn(), reading, &Booking { no, node_no, used, amounts, pue_thousandths }).await?;
        sqlx::query(INSERT_REPLICA).bind(no).bind(replica_no).bind(&replica.how).execute(tx.conn()).await?;
        reading::transfer(self.engine(), tx.conn(), no, &posted).await?;
        let given = (batch.metered.0 + left.0 - used.0, batch.metered.1 + left.1 - used.1);
        for (owed_no, (millijoules, co2e)) in
            [(meter_before, (-batch.replaced.0, -batch.replaced.1)), (replica_no, given)]
        {
            if (millijoules, co2e) != (0, 0) {
                sqlx::query(ADD_PENDING).bind(owed_no).bind(millijoules).bind(co2e).execute(tx.conn()).await?;
            }
        }
        batch.write(self.engine(), tx.conn()).await?;
        tx.commit().await?;
        self.refs().learn(refs);
        Ok(posted)
    }
}

impl Reader {
    /// See [`Store::correction`].
    pub async fn correction(&mut self, source: i64, sequence: i64) -> Result<Option<Corrected>, StoreError> {
        let row = sqlx::query(CORRECTION).bind(source).bind(sequence).fetch_optional(self.conn()).await?;
        row.map(|row| {
            Ok(Corrected {
                millijoules: Millijoules(row.try_get("millijoules")?),
                co2e_micrograms: MicrogramsCo2e(row.try_get("co2e_micrograms")?),
                how: row.try_get("how")?,
            })
        })
        .transpose()
    }
}

impl Batch {
    async fn correct(&mut self, conn: &mut AnyConnection, no: i64, by: &Correction) -> Result<(), StoreError> {
        let metered = (by.metered.0.0, by.metered.1.0);
        let row = sqlx::query(RECORD).bind(by.source).bind(by.sequence).fetch_optional(&mut *conn).await?;
        let Some(row) = row else {
            self.refused = (self.refused.0 + metered.0, self.refused.1 + metered.1);
            return Ok(());
        };
        let settled: (i64, i64) = (row.try_get("millijoules")?, row.try_get("co2e_micrograms")?);
        let kept = (kept(settled.0, by), kept(settled.1, by));
        let change = (kept.0 + metered.0 - settled.0, kept.1 + metered.1 - settled.1);
        let insert = sqlx::query(INSERT).bind(by.source).bind(by.sequence).bind(no).bind(change.0).bind(change.1);
        insert.bind(method_code(by.method)).execute(&mut *conn).await?;
        self.replaced = (self.replaced.0 + settled.0 - kept.0, self.replaced.1 + settled.1 - kept.1);
        self.metered = (self.metered.0 + metered.0, self.metered.1 + metered.1);
        let quantities = Quantities {
            millijoules: Millijoules(change.0),
            co2e_micrograms: MicrogramsCo2e(change.1),
            ..Quantities::default()
        };
        if quantities == Quantities::default() {
            return Ok(());
        }
        let started: i64 = row.try_get("started_at")?;
        let key = DailyKey {
            day: day(started),
            project_no: row.try_get("project_no")?,
            endpoint_no: row.try_get("endpoint_no")?,
            key_no: row.try_get("key_no")?,
            principal_no: row.try_get("principal_no")?,
            tenant_no: row.try_get("tenant_no")?,
        };
        let transfer = Transfer {
            to_no: key.project_no,
            from_no: METER,
            source: by.source,
            sequence: by.sequence,
            part: PART_CORRECTION,
            voided_micros: 0,
            quantities,
        };
        super::write_transfer(conn, &mut self.postings, &transfer).await?;
        self.daily.push((key, quantities));
        self.spent.add([key.tenant_no, key.project_no, key.key_no], instant(started)?, &quantities)
    }

    async fn write(&self, engine: Engine, conn: &mut AnyConnection) -> Result<(), StoreError> {
        let mut sums = std::collections::BTreeMap::new();
        for (key, quantities) in &self.daily {
            super::add(sums.entry(*key).or_insert_with(Quantities::default), quantities)?;
        }
        let rows: Vec<_> = sums.iter().flat_map(|(key, sum)| key.row(0, sum)).collect();
        self.postings.write(engine, conn).await?;
        bulk::DAILY.insert(engine, conn, &rows).await?;
        self.spent.write(engine, conn).await
    }
}

/// The part of an estimate that stays: that of the time no meter knows of. Rounded down.
fn kept(estimate: i64, by: &Correction) -> i64 {
    let unmetered = (by.worked_micros - by.metered_micros).clamp(0, by.worked_micros.max(0));
    let kept = (i128::from(estimate) * i128::from(unmetered)).checked_div(i128::from(by.worked_micros.max(0)));
    i64::try_from(kept.unwrap_or(0)).unwrap_or(estimate)
}
