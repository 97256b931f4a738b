//! Energy readings: what the meter of a node said, split into what requests used and what nobody did.
//!
//! A reading covers the energy of the requests settled since the reading before it. Its rest goes to the idle
//! account; where the requests' estimates exceed the meter, the difference is taken back by the apportionment
//! account. The facility's overhead comes on top. Whatever integer division leaves is carried to the next reading.
//! INVARIANT: usage + idle − apportionment = reading, to the last millijoule and microgram.

use galerne_model::ids::{NodeId, ReadingId, ReplicaId};
use galerne_model::ledger::{Quantities, Reading};
use galerne_model::units::{MILLIJOULES_PER_KWH, MicrogramsCo2e, Millijoules};
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::refs::{self, Refs};
use super::{APPORTIONMENT, IDLE, METER, OVERHEAD, PART_APPORTIONMENT, PART_IDLE, PART_OVERHEAD, SOURCE_READING};
use super::{Postings, Transfer, method, method_code, too_large, write_transfer};
use crate::engine_sql::Engine;
use crate::error::{StoreError, retry};
use crate::resource::instant;
use crate::store::Store;

const TAKE_NUMBER: &str = "UPDATE counter SET value = value + 1 WHERE name = 'reading' RETURNING value";
const FIND: &str = "SELECT millijoules, co2e_micrograms, usage_millijoules, usage_co2e_micrograms, \
    overhead_millijoules, overhead_co2e_micrograms FROM reading WHERE id = $1";
const LAST: &str = "SELECT id, started_at, ended_at, millijoules, method, busy_cpu_micros, zone, \
    intensity_mg_per_kwh, intensity_source, carry_co2e, carry_overhead, carry_overhead_co2e \
    FROM reading WHERE node_no = $1 AND NOT EXISTS (SELECT 1 FROM replica_reading WHERE reading_no = reading.no) \
    ORDER BY no DESC LIMIT 1";
const LAST_OF_REPLICA: &str = "SELECT carry_co2e, carry_overhead, carry_overhead_co2e FROM reading WHERE no = \
    (SELECT MAX(reading_no) FROM replica_reading WHERE replica_no = $1)";
// The row of the node is taken whole, so that a settlement running beside is covered by this reading or the next.
const TAKE_PENDING: &str = "DELETE FROM energy_pending WHERE node_no = $1 RETURNING millijoules, co2e_micrograms";
const INSERT: &str = "INSERT INTO reading (no, id, node_no, started_at, ended_at, millijoules, co2e_micrograms, \
    usage_millijoules, usage_co2e_micrograms, overhead_millijoules, overhead_co2e_micrograms, carry_co2e, \
    carry_overhead, carry_overhead_co2e, pue_thousandths, method, busy_cpu_micros, zone, intensity_mg_per_kwh, \
    intensity_source) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";

/// Millijoules × milligrams per kWh that make one microgram: 3.6·10⁹ mJ/kWh ÷ 1000 µg/mg.
const CO2E_DIVISOR: i128 = MILLIJOULES_PER_KWH as i128 / 1000;

/// Where the energy and carbon of a reading went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Posted {
    /// To the requests settled since the reading before.
    pub usage: Quantities,
    /// To nobody.
    pub idle: Quantities,
    /// What the requests' estimates had too much.
    pub apportionment: Quantities,
    /// To the facility, on top of the reading.
    pub overhead: Quantities,
}

/// What integer division left at the reading before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carry {
    co2e: i64,
    overhead: i64,
    overhead_co2e: i64,
}

/// The amounts of one reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amounts {
    co2e: i64,
    overhead: i64,
    overhead_co2e: i64,
    carry: Carry,
}

impl Store {
    /// Books a reading; the same reading again is not booked twice.
    ///
    /// `pue_thousandths` is the facility's energy per energy of its machines, 1000 when it adds nothing.
    pub async fn post_reading(&self, reading: &Reading, pue_thousandths: i64) -> Result<Posted, StoreError> {
        retry(|| self.post_once(reading, pue_thousandths)).await
    }

    /// The newest reading of a node.
    pub async fn last_reading(&self, node_id: NodeId) -> Result<Option<Reading>, StoreError> {
        let mut reader = self.read_once().await?;
        let Some(node_no) = refs::find(reader.conn(), node_id.into()).await? else { return Ok(None) };
        let row = sqlx::query(LAST).bind(node_no).fetch_optional(reader.conn()).await?;
        row.map(|row| read(&row, node_id, None)).transpose()
    }

    async fn post_once(&self, reading: &Reading, pue_thousandths: i64) -> Result<Posted, StoreError> {
        check(reading, pue_thousandths)?;
        let mut tx = self.begin().await?;
        if let Some(before) = posted(tx.conn(), reading.id).await? {
            return Ok(before);
        }
        let mut refs = Refs::default();
        let node_no = refs.number(tx.conn(), self.refs(), reading.node_id.into()).await?;
        let used = take_pending(tx.conn(), node_no).await?;
        let carry = carry(sqlx::query(LAST).bind(node_no).fetch_optional(tx.conn()).await?)?;
        let amounts = amounts(reading, pue_thousandths, carry)?;
        let posted = split(reading.millijoules.0, used, &amounts);
        let no = take_number(tx.conn()).await?;
        insert(tx.conn(), reading, &Booking { no, node_no, used, amounts, pue_thousandths }).await?;
        transfer(self.engine(), tx.conn(), no, &posted).await?;
        tx.commit().await?;
        self.refs().learn(refs);
        Ok(posted)
    }
}

/// What was posted for a reading that is in the ledger already.
pub(super) async fn posted(conn: &mut AnyConnection, id: ReadingId) -> Result<Option<Posted>, StoreError> {
    let row = sqlx::query(FIND).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(|row| posted_before(&row)).transpose()
}

pub(super) async fn take_number(conn: &mut AnyConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query(TAKE_NUMBER).fetch_one(conn).await?.try_get("value")?)
}

/// Energy and carbon that no reading of a meter has covered yet.
pub(super) async fn take_pending(conn: &mut AnyConnection, meter_no: i64) -> Result<(i64, i64), StoreError> {
    match sqlx::query(TAKE_PENDING).bind(meter_no).fetch_optional(conn).await? {
        Some(row) => Ok((row.try_get("millijoules")?, row.try_get("co2e_micrograms")?)),
        None => Ok((0, 0)),
    }
}

pub(super) async fn carry_of_replica(conn: &mut AnyConnection, replica_no: i64) -> Result<Carry, StoreError> {
    carry(sqlx::query(LAST_OF_REPLICA).bind(replica_no).fetch_optional(conn).await?)
}

fn carry(row: Option<AnyRow>) -> Result<Carry, StoreError> {
    let Some(row) = row else { return Ok(Carry::default()) };
    Ok(Carry {
        co2e: row.try_get("carry_co2e")?,
        overhead: row.try_get("carry_overhead")?,
        overhead_co2e: row.try_get("carry_overhead_co2e")?,
    })
}

/// What a row of `reading` holds beside the reading itself.
pub(super) struct Booking {
    pub(super) no: i64,
    pub(super) node_no: i64,
    pub(super) used: (i64, i64),
    pub(super) amounts: Amounts,
    pub(super) pue_thousandths: i64,
}

pub(super) fn check(reading: &Reading, pue_thousandths: i64) -> Result<(), StoreError> {
    let bad = |why: &str| Err(StoreError::BadRecord { sequence: 0, why: why.to_owned() });
    if reading.millijoules < Millijoules::ZERO || reading.intensity_mg_per_kwh < 0 {
        return bad("a reading is negative");
    }
    if reading.ended_at < reading.started_at {
        return bad("a reading ends before it starts");
    }
    if pue_thousandths < 1000 {
        return bad("a facility uses at least what its machines use: the factor is 1000 or more");
    }
    Ok(())
}

/// Carbon and overhead of a reading. Rounded down; what is left is carried to the next reading of the node.
pub(super) fn amounts(reading: &Reading, pue_thousandths: i64, carry: Carry) -> Result<Amounts, StoreError> {
    let energy = i128::from(reading.millijoules.0);
    let intensity = i128::from(reading.intensity_mg_per_kwh);
    let co2e = energy * intensity + i128::from(carry.co2e);
    let overhead = energy * i128::from(pue_thousandths - 1000) + i128::from(carry.overhead);
    let overhead_co2e = overhead / 1000 * intensity + i128::from(carry.overhead_co2e);
    let narrow = |value: i128| i64::try_from(value).map_err(|_| too_large());
    Ok(Amounts {
        co2e: narrow(co2e / CO2E_DIVISOR)?,
        overhead: narrow(overhead / 1000)?,
        overhead_co2e: narrow(overhead_co2e / CO2E_DIVISOR)?,
        carry: Carry {
            co2e: narrow(co2e % CO2E_DIVISOR)?,
            overhead: narrow(overhead % 1000)?,
            overhead_co2e: narrow(overhead_co2e % CO2E_DIVISOR)?,
        },
    })
}

/// Shares a reading out. Energy and carbon are split each for itself.
pub(super) fn split(millijoules: i64, used: (i64, i64), amounts: &Amounts) -> Posted {
    let rest = (millijoules - used.0, amounts.co2e - used.1);
    let energy = |millijoules: i64, co2e: i64| Quantities {
        millijoules: Millijoules(millijoules),
        co2e_micrograms: MicrogramsCo2e(co2e),
        ..Quantities::default()
    };
    Posted {
        usage: energy(used.0, used.1),
        idle: energy(rest.0.max(0), rest.1.max(0)),
        apportionment: energy((-rest.0).max(0), (-rest.1).max(0)),
        overhead: energy(amounts.overhead, amounts.overhead_co2e),
    }
}

pub(super) async fn insert(conn: &mut AnyConnection, reading: &Reading, row: &Booking) -> Result<(), StoreError> {
    sqlx::query(INSERT)
        .bind(row.no)
        .bind(reading.id.to_string())
        .bind(row.node_no)
        .bind(reading.started_at.as_microsecond())
        .bind(reading.ended_at.as_microsecond())
        .bind(reading.millijoules.0)
        .bind(row.amounts.co2e)
        .bind(row.used.0)
        .bind(row.used.1)
        .bind(row.amounts.overhead)
        .bind(row.amounts.overhead_co2e)
        .bind(row.amounts.carry.co2e)
        .bind(row.amounts.carry.overhead)
        .bind(row.amounts.carry.overhead_co2e)
        .bind(row.pue_thousandths)
        .bind(method_code(reading.method))
        .bind(reading.busy_cpu_micros)
        .bind(reading.zone.clone())
        .bind(reading.intensity_mg_per_kwh)
        .bind(reading.intensity_source.clone())
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn transfer(
    engine: Engine,
    conn: &mut AnyConnection,
    no: i64,
    posted: &Posted,
) -> Result<(), StoreError> {
    let mut postings = Postings::default();
    let parts = [
        (IDLE, METER, PART_IDLE, posted.idle),
        (OVERHEAD, METER, PART_OVERHEAD, posted.overhead),
        (METER, APPORTIONMENT, PART_APPORTIONMENT, posted.apportionment),
    ];
    for (to_no, from_no, part, quantities) in parts {
        if quantities == Quantities::default() {
            continue;
        }
        let transfer =
            Transfer { to_no, from_no, source: SOURCE_READING, sequence: no, part, voided_micros: 0, quantities };
        write_transfer(conn, &mut postings, &transfer).await?;
    }
    postings.write(engine, conn).await
}

fn posted_before(row: &AnyRow) -> Result<Posted, StoreError> {
    let used = (row.try_get("usage_millijoules")?, row.try_get("usage_co2e_micrograms")?);
    let amounts = Amounts {
        co2e: row.try_get("co2e_micrograms")?,
        overhead: row.try_get("overhead_millijoules")?,
        overhead_co2e: row.try_get("overhead_co2e_micrograms")?,
        carry: Carry::default(),
    };
    Ok(split(row.try_get("millijoules")?, used, &amounts))
}

pub(super) fn read(row: &AnyRow, node_id: NodeId, replica_id: Option<ReplicaId>) -> Result<Reading, StoreError> {
    let id: String = row.try_get("id")?;
    Ok(Reading {
        id: id.parse().map_err(|_| StoreError::Corrupt(format!("reading `{id}` has an unreadable id")))?,
        node_id,
        replica_id,
        started_at: instant(row.try_get("started_at")?)?,
        ended_at: instant(row.try_get("ended_at")?)?,
        millijoules: Millijoules(row.try_get("millijoules")?),
        method: method(row.try_get("method")?)?,
        busy_cpu_micros: row.try_get("busy_cpu_micros")?,
        zone: row.try_get("zone")?,
        intensity_mg_per_kwh: row.try_get("intensity_mg_per_kwh")?,
        intensity_source: row.try_get("intensity_source")?,
    })
}
