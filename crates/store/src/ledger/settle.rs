//! Settlement: usage records become rows, transfers and sums, each exactly once.
//!
//! INVARIANT: `spool_cursor` moves in the transaction that writes the records, so a batch sent again adds nothing.

use std::collections::BTreeMap;

use galerne_model::ledger::{Country, Outcome, Quantities, UsageRecord};
use galerne_model::money::TokenPrice;
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Picos};
use sqlx::AnyConnection;
use sqlx::Row;

use super::refs::{RefCache, Refs};
use super::{METER, OVERRUN, PART_OVERRUN, PART_USAGE};
use super::{
    Postings, Transfer, bulk, method_code, operation_code, outcome_code, share, spending, tier_code, too_large, values,
};
use crate::engine_sql::Engine;
use crate::error::{StoreError, retry};
use crate::store::{Reader, Store};

pub(super) const MAKE_CURSOR: &str =
    "INSERT INTO spool_cursor (source, through) VALUES ($1, 0) ON CONFLICT (source) DO NOTHING";
// A write, not a read: two shippers of one spool take turns here.
pub(super) const LOCK_CURSOR: &str = "UPDATE spool_cursor SET through = through WHERE source = $1 RETURNING through";
pub(super) const READ_CURSOR: &str = "SELECT through FROM spool_cursor WHERE source = $1";
const MOVE_CURSOR: &str = "UPDATE spool_cursor SET through = $2 WHERE source = $1";
pub(super) const ADD_PENDING: &str = "INSERT INTO energy_pending (node_no, millijoules, co2e_micrograms) VALUES ($1, $2, $3) \
    ON CONFLICT (node_no) DO UPDATE SET millijoules = energy_pending.millijoules + excluded.millijoules, \
    co2e_micrograms = energy_pending.co2e_micrograms + excluded.co2e_micrograms";

pub(crate) const MICROS_PER_DAY: i64 = 86_400_000_000;

/// What a settlement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// All records of this spool up to here are in the ledger.
    pub through: i64,
    /// Records written now.
    pub settled: usize,
    /// Records that were in the ledger already.
    pub duplicates: usize,
    /// Records whose charge exceeded their hold; the excess is the provider's.
    pub overruns: usize,
}

/// Where the sums of a day are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DailyKey {
    pub(crate) day: i64,
    pub(crate) project_no: i64,
    pub(crate) endpoint_no: i64,
    pub(crate) key_no: i64,
    pub(crate) principal_no: i64,
    pub(crate) tenant_no: i64,
}

/// Everything one batch adds.
#[derive(Debug, Default)]
struct Batch {
    refs: Refs,
    usage: Vec<Option<i64>>,
    transfers: Vec<Option<i64>>,
    postings: Postings,
    daily: BTreeMap<DailyKey, (i64, Quantities)>,
    spending: spending::Spent,
    pending: BTreeMap<i64, (i64, i64)>,
    overruns: usize,
}

impl Store {
    /// Books usage records of one spool, in order. Records booked before are skipped; a missing one is refused.
    pub async fn settle_batch(&self, source: i64, records: &[UsageRecord]) -> Result<Settled, StoreError> {
        retry(|| self.settle_once(source, records)).await
    }

    /// All records of a spool up to here are in the ledger.
    pub async fn settled_through(&self, source: i64) -> Result<i64, StoreError> {
        self.read_once().await?.settled_through(source).await
    }

    async fn settle_once(&self, source: i64, records: &[UsageRecord]) -> Result<Settled, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(MAKE_CURSOR).bind(source).execute(tx.conn()).await?;
        let before: i64 = sqlx::query(LOCK_CURSOR).bind(source).fetch_one(tx.conn()).await?.try_get("through")?;
        if share::is_forsaken(tx.conn(), source).await? {
            return Err(StoreError::Forsaken { spool: source });
        }
        let mut through = before;
        let mut batch = Batch::default();
        for record in records {
            check(source, record)?;
            if record.sequence <= through {
                continue;
            }
            if record.sequence != through + 1 {
                return Err(StoreError::Gap { spool: source, expected: through + 1, got: record.sequence });
            }
            batch.add(tx.conn(), self.refs(), record).await?;
            through = record.sequence;
        }
        let settled = usize::try_from(through - before).expect("one per record of the batch");
        let overruns = batch.overruns;
        if settled > 0 {
            batch.write(self.engine(), tx.conn()).await?;
            share::settle(tx.conn(), source, batch.spending.by_subject()).await?;
            sqlx::query(MOVE_CURSOR).bind(source).bind(through).execute(tx.conn()).await?;
            tx.commit().await?;
            self.refs().learn(batch.refs);
        }
        Ok(Settled { through, settled, duplicates: records.len() - settled, overruns })
    }
}

impl Reader {
    /// See [`Store::settled_through`].
    pub async fn settled_through(&mut self, source: i64) -> Result<i64, StoreError> {
        let row = sqlx::query(READ_CURSOR).bind(source).fetch_optional(self.conn()).await?;
        Ok(row.map(|row| row.try_get("through")).transpose()?.unwrap_or(0))
    }
}

impl Batch {
    async fn add(
        &mut self,
        conn: &mut AnyConnection,
        cache: &RefCache,
        record: &UsageRecord,
    ) -> Result<(), StoreError> {
        let tenant_no = self.refs.number(conn, cache, record.tenant_id.into()).await?;
        let project_no = self.refs.number(conn, cache, record.project_id.into()).await?;
        let principal_no = self.refs.number(conn, cache, record.principal_id.into()).await?;
        let key_no = self.refs.number(conn, cache, record.key_id.into()).await?;
        let endpoint_no = self.refs.number(conn, cache, record.endpoint_id.into()).await?;
        let replica_no = match record.replica_id {
            Some(id) => Some(self.refs.number(conn, cache, id.into()).await?),
            None => None,
        };
        let price_book_no = match record.price_book_id {
            Some(id) => Some(self.refs.number(conn, cache, id.into()).await?),
            None => None,
        };
        let batch_no = match record.batch {
            Some(batch) => Some(self.refs.number(conn, cache, batch.batch_id.into()).await?),
            None => None,
        };
        let node_no = match record.replica_id {
            Some(id) => self.refs.node_of(conn, cache, id).await?,
            None => 0,
        };
        let numbers = Numbers {
            tenant_no,
            project_no,
            principal_no,
            key_no,
            endpoint_no,
            replica_no,
            price_book_no,
            batch_no,
            node_no,
        };
        self.book(record, &numbers)
    }

    /// The arithmetic of one record.
    fn book(&mut self, record: &UsageRecord, numbers: &Numbers) -> Result<(), StoreError> {
        // An interrupted request is not charged: its hold is freed whole.
        let used = if record.outcome == Outcome::Interrupted { Quantities::default() } else { record.quantities };
        // Nothing above the hold is charged, not even part of a micro: a budget counts it rounded up.
        let over = used.micros > record.held_micros || (used.micros == record.held_micros && used.picos > Picos(0));
        let overrun = if over { (used.micros - record.held_micros, used.picos) } else { (Micros(0), Picos(0)) };
        let charged = Quantities { micros: used.micros - overrun.0, picos: used.picos - overrun.1, ..used };
        self.usage.extend(usage_columns(record, &used, overrun, numbers));
        self.transfer(Transfer {
            to_no: numbers.project_no,
            from_no: METER,
            source: record.source,
            sequence: record.sequence,
            part: PART_USAGE,
            voided_micros: record.held_micros.0 - charged.micros.0,
            quantities: charged,
        })?;
        if over {
            self.overruns += 1;
            self.transfer(Transfer {
                to_no: OVERRUN,
                from_no: METER,
                source: record.source,
                sequence: record.sequence,
                part: PART_OVERRUN,
                voided_micros: 0,
                quantities: Quantities { micros: overrun.0, picos: overrun.1, ..Quantities::default() },
            })?;
        }
        let key = DailyKey {
            day: day(record.started_at.as_microsecond()),
            project_no: numbers.project_no,
            endpoint_no: numbers.endpoint_no,
            key_no: numbers.key_no,
            principal_no: numbers.principal_no,
            tenant_no: numbers.tenant_no,
        };
        let (requests, sum) = self.daily.entry(key).or_default();
        *requests += 1;
        super::add(sum, &charged)?;
        let subjects = [numbers.tenant_no, numbers.project_no, numbers.key_no];
        self.spending.add(subjects, record.started_at, &charged)?;
        let (millijoules, co2e) = self.pending.entry(numbers.node_no).or_default();
        *millijoules = millijoules.checked_add(used.millijoules.0).ok_or_else(too_large)?;
        *co2e = co2e.checked_add(used.co2e_micrograms.0).ok_or_else(too_large)?;
        Ok(())
    }

    fn transfer(&mut self, transfer: Transfer) -> Result<(), StoreError> {
        self.transfers.extend(transfer.columns().map(Some));
        self.postings.add(&transfer)
    }

    async fn write(&self, engine: Engine, conn: &mut AnyConnection) -> Result<(), StoreError> {
        bulk::USAGE.insert(engine, conn, &self.usage).await?;
        bulk::TRANSFER.insert(engine, conn, &self.transfers).await?;
        for (node_no, (millijoules, co2e)) in &self.pending {
            sqlx::query(ADD_PENDING).bind(*node_no).bind(*millijoules).bind(*co2e).execute(&mut *conn).await?;
        }
        self.postings.write(engine, conn).await?;
        let daily: Vec<_> = self.daily.iter().flat_map(|(key, (requests, sum))| key.row(*requests, sum)).collect();
        bulk::DAILY.insert(engine, conn, &daily).await?;
        self.spending.write(engine, conn).await
    }
}

impl DailyKey {
    /// A row that adds to the sums of a day.
    pub(crate) fn row(&self, requests: i64, sum: &Quantities) -> [Option<i64>; 14] {
        let [prompt, cached, completion, micros, picos, millijoules, co2e] = values(sum);
        [
            self.day,
            self.project_no,
            self.endpoint_no,
            self.key_no,
            self.principal_no,
            self.tenant_no,
            requests,
            prompt,
            cached,
            completion,
            micros,
            picos,
            millijoules,
            co2e,
        ]
        .map(Some)
    }
}

/// The ids of one record, as numbers.
struct Numbers {
    tenant_no: i64,
    project_no: i64,
    principal_no: i64,
    key_no: i64,
    endpoint_no: i64,
    replica_no: Option<i64>,
    price_book_no: Option<i64>,
    batch_no: Option<i64>,
    node_no: i64,
}

fn usage_columns(
    record: &UsageRecord,
    used: &Quantities,
    overrun: (Micros, Picos),
    numbers: &Numbers,
) -> [Option<i64>; 35] {
    let [prompt, cached, completion, micros, picos, millijoules, co2e] = values(used);
    let (high, low) = record.request_id.uuid().as_u64_pair();
    let started = record.started_at.as_microsecond();
    [
        Some(numbers.project_no),
        Some(record.source),
        Some(record.sequence),
        Some(record.held_micros.0),
        Some(overrun.0.0),
        Some(overrun.1.0),
        Some(prompt),
        Some(cached),
        Some(completion),
        Some(micros),
        Some(picos),
        Some(millijoules),
        Some(co2e),
        Some(high.cast_signed()),
        Some(low.cast_signed()),
        Some(started),
        Some(record.ended_at.as_microsecond() - started),
        Some(numbers.tenant_no),
        Some(numbers.principal_no),
        Some(numbers.key_no),
        Some(numbers.endpoint_no),
        numbers.replica_no,
        numbers.price_book_no,
        Some(operation_code(record.operation)),
        Some(outcome_code(record.outcome)),
        Some(i64::from(record.http_status)),
        Some(method_code(record.energy_method)),
        record.first_token_micros,
        numbers.batch_no,
        record.batch.map(|batch| i64::from(batch.price_percent)),
        record.terms.map(|terms| terms.price.prompt.0),
        record.terms.map(|terms| terms.price.cached.0),
        record.terms.map(|terms| terms.price.completion.0),
        record.terms.map(|terms| tier_code(terms.service_tier)),
        record.terms.and_then(|terms| terms.country).map(Country::number),
    ]
}

/// The UTC day of an instant, counted from 1970-01-01.
pub(crate) const fn day(micros: i64) -> i64 {
    micros.div_euclid(MICROS_PER_DAY)
}

/// Refuses a record that no gateway may write.
fn check(source: i64, record: &UsageRecord) -> Result<(), StoreError> {
    let bad = |why: &str| Err(StoreError::BadRecord { sequence: record.sequence, why: why.to_owned() });
    if source < 1 || record.source != source {
        return bad("it names another spool");
    }
    if record.sequence < 1 {
        return bad("sequences begin at 1");
    }
    if record.held_micros < Micros::ZERO || values(&record.quantities).iter().any(|&value| value < 0) {
        return bad("a quantity is negative");
    }
    let is_negative = |price: TokenPrice| [price.prompt, price.cached, price.completion].iter().any(|part| part.0 < 0);
    if record.terms.is_some_and(|terms| is_negative(terms.price)) {
        return bad("a price is negative");
    }
    if record.quantities.picos.0 >= galerne_model::units::PICOS_PER_MICRO {
        return bad("the remainder is a whole micro or more");
    }
    if record.quantities.millijoules > Millijoules::ZERO || record.quantities.co2e_micrograms > MicrogramsCo2e::ZERO {
        // Energy without a replica has no meter it could come from.
        if record.replica_id.is_none() {
            return bad("it has energy but no replica");
        }
    }
    Ok(())
}
