//! The ledger: usage records, the transfers they make, energy readings, balances.
//!
//! Every record makes one transfer of all its quantities from the meter to the project; what a charge exceeds its
//! hold by goes to the overrun account. A reading covers the energy of the requests settled since the one before;
//! its rest is idle. Sums by owner, by day and by spender are kept beside, and the check proves them.
//! Where a replica has a meter of its own, what it says corrects what its records were settled with.
//! INVARIANT: rows of `usage`, `transfer`, `reading`, `reversal`, `energy_correction` are only ever added.

pub(crate) mod refs;
pub(crate) mod settle;

pub(crate) mod bulk;
pub(crate) mod line;
pub(crate) mod share;
pub(crate) mod spending;

pub(crate) mod correct;
pub(crate) mod reading;
mod reversal;

pub(crate) mod cost;
pub(crate) mod listing;
pub(crate) mod report;
pub(crate) mod usage;

pub(crate) mod check;

use std::collections::BTreeMap;

use galerne_model::identity::ServiceTier;
use galerne_model::ids::TransferId;
use galerne_model::ledger::{Country, EnergyMethod, Operation, Outcome, Quantities, UsageTerms};
use galerne_model::money::TokenPrice;
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Picos, Tokens};
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::engine_sql::Engine;
use crate::error::StoreError;

/// Numbers of the owners that are not projects, as the schema writes them.
pub(crate) const METER: i64 = 1;
pub(crate) const IDLE: i64 = 2;
pub(crate) const OVERHEAD: i64 = 3;
pub(crate) const APPORTIONMENT: i64 = 4;
pub(crate) const OVERRUN: i64 = 5;

/// `source` of transfers that no spool made.
pub(crate) const SOURCE_READING: i64 = 0;
pub(crate) const SOURCE_REVERSAL: i64 = -1;

/// `part` of a transfer: which of the transfers that one source row made.
pub(crate) const PART_USAGE: i64 = 0;
pub(crate) const PART_OVERRUN: i64 = 1;
pub(crate) const PART_IDLE: i64 = 2;
pub(crate) const PART_OVERHEAD: i64 = 3;
pub(crate) const PART_APPORTIONMENT: i64 = 4;
pub(crate) const PART_REVERSAL: i64 = 5;
pub(crate) const PART_REVERSAL_ENERGY: i64 = 6;
pub(crate) const PART_CORRECTION: i64 = 7;

const INSERT_TRANSFER: &str = "INSERT INTO transfer (to_no, from_no, source, sequence, part, voided_micros, \
    prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/// One transfer to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) to_no: i64,
    pub(crate) from_no: i64,
    pub(crate) source: i64,
    pub(crate) sequence: i64,
    pub(crate) part: i64,
    pub(crate) voided_micros: i64,
    pub(crate) quantities: Quantities,
}

impl Transfer {
    pub(crate) fn columns(&self) -> [i64; 13] {
        let [prompt, cached, completion, micros, picos, millijoules, co2e] = values(&self.quantities);
        [
            self.to_no,
            self.from_no,
            self.source,
            self.sequence,
            self.part,
            self.voided_micros,
            prompt,
            cached,
            completion,
            micros,
            picos,
            millijoules,
            co2e,
        ]
    }
}

/// What owners gain and lose in one transaction; written in order of owner, so that two writers cannot deadlock.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    by_owner: BTreeMap<i64, Quantities>,
}

impl Postings {
    pub(crate) fn add(&mut self, transfer: &Transfer) -> Result<(), StoreError> {
        add(self.by_owner.entry(transfer.to_no).or_default(), &transfer.quantities)?;
        add(self.by_owner.entry(transfer.from_no).or_default(), &negated(&transfer.quantities))
    }

    pub(crate) async fn write(&self, engine: Engine, conn: &mut AnyConnection) -> Result<(), StoreError> {
        let mut rows = Vec::with_capacity(self.by_owner.len() * 8);
        for (owner, quantities) in &self.by_owner {
            rows.push(Some(*owner));
            rows.extend(values(quantities).map(Some));
        }
        bulk::BALANCE.insert(engine, conn, &rows).await
    }
}

/// Writes one transfer and remembers what it means for the balances.
pub(crate) async fn write_transfer(
    conn: &mut AnyConnection,
    postings: &mut Postings,
    transfer: &Transfer,
) -> Result<(), StoreError> {
    let mut query = sqlx::query(INSERT_TRANSFER);
    for value in transfer.columns() {
        query = query.bind(value);
    }
    query.execute(conn).await?;
    postings.add(transfer)
}

/// The id of a transfer says which one it is: part, source, sequence. Nothing is stored for it.
pub(crate) fn transfer_id(source: i64, sequence: i64, part: i64) -> TransferId {
    let high = (source.cast_unsigned() & ((1 << 56) - 1)) | (part.cast_unsigned() << 56);
    TransferId::from_uuid(Uuid::from_u64_pair(high, sequence.cast_unsigned()))
}

/// The source, sequence and part of [`transfer_id`].
pub(crate) fn transfer_key(id: TransferId) -> (i64, i64, i64) {
    let (high, low) = id.uuid().as_u64_pair();
    // Shifted up and back, so that the sign of the 56-bit source is kept.
    let source = (high << 8).cast_signed() >> 8;
    (source, low.cast_signed(), (high >> 56).cast_signed())
}

/// The commodities in the order of the columns.
pub(crate) const fn values(q: &Quantities) -> [i64; 7] {
    [
        q.prompt_tokens.0,
        q.cached_tokens.0,
        q.completion_tokens.0,
        q.micros.0,
        q.picos.0,
        q.millijoules.0,
        q.co2e_micrograms.0,
    ]
}

pub(crate) const fn quantities(v: [i64; 7]) -> Quantities {
    Quantities {
        prompt_tokens: Tokens(v[0]),
        cached_tokens: Tokens(v[1]),
        completion_tokens: Tokens(v[2]),
        micros: Micros(v[3]),
        picos: Picos(v[4]),
        millijoules: Millijoules(v[5]),
        co2e_micrograms: MicrogramsCo2e(v[6]),
    }
}

/// Names of the commodity columns, for findings.
pub(crate) const COMMODITIES: [&str; 7] =
    ["prompt tokens", "cached tokens", "completion tokens", "micros", "picos", "millijoules", "micrograms of CO2e"];

pub(crate) fn read_quantities(row: &AnyRow) -> Result<Quantities, StoreError> {
    Ok(quantities([
        row.try_get("prompt_tokens")?,
        row.try_get("cached_tokens")?,
        row.try_get("completion_tokens")?,
        row.try_get("micros")?,
        row.try_get("picos")?,
        row.try_get("millijoules")?,
        row.try_get("co2e_micrograms")?,
    ]))
}

pub(crate) fn add(sum: &mut Quantities, more: &Quantities) -> Result<(), StoreError> {
    let (a, b) = (values(sum), values(more));
    let mut out = [0; 7];
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = a.checked_add(b).ok_or_else(too_large)?;
    }
    *sum = quantities(out);
    Ok(())
}

pub(crate) fn negated(q: &Quantities) -> Quantities {
    quantities(values(q).map(i64::saturating_neg))
}

pub(crate) fn too_large() -> StoreError {
    StoreError::Corrupt("a sum leaves the range of 64 bits".to_owned())
}

pub(crate) const fn method_code(method: EnergyMethod) -> i64 {
    match method {
        EnergyMethod::Measured => 0,
        EnergyMethod::Apportioned => 1,
        EnergyMethod::Estimated => 2,
        EnergyMethod::Unknown => 3,
    }
}

pub(crate) fn method(code: i64) -> Result<EnergyMethod, StoreError> {
    match code {
        0 => Ok(EnergyMethod::Measured),
        1 => Ok(EnergyMethod::Apportioned),
        2 => Ok(EnergyMethod::Estimated),
        3 => Ok(EnergyMethod::Unknown),
        _ => Err(StoreError::Corrupt(format!("{code} is no energy method"))),
    }
}

pub(crate) const fn outcome_code(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Completed => 0,
        Outcome::Cancelled => 1,
        Outcome::Failed => 2,
        Outcome::Interrupted => 3,
    }
}

pub(crate) fn outcome(code: i64) -> Result<Outcome, StoreError> {
    match code {
        0 => Ok(Outcome::Completed),
        1 => Ok(Outcome::Cancelled),
        2 => Ok(Outcome::Failed),
        3 => Ok(Outcome::Interrupted),
        _ => Err(StoreError::Corrupt(format!("{code} is no outcome"))),
    }
}

pub(crate) const fn tier_code(tier: ServiceTier) -> i64 {
    match tier {
        ServiceTier::Flex => 0,
        ServiceTier::Default => 1,
        ServiceTier::Priority => 2,
    }
}

pub(crate) fn tier(code: i64) -> Result<ServiceTier, StoreError> {
    match code {
        0 => Ok(ServiceTier::Flex),
        1 => Ok(ServiceTier::Default),
        2 => Ok(ServiceTier::Priority),
        _ => Err(StoreError::Corrupt(format!("{code} is no service tier"))),
    }
}

/// The terms that a row names; nothing where it is of before they were kept.
pub(crate) fn read_terms(row: &AnyRow) -> Result<Option<UsageTerms>, StoreError> {
    let Some(code) = row.try_get::<Option<i64>, _>("service_tier")? else { return Ok(None) };
    let number: Option<i64> = row.try_get("country")?;
    let wrong = || StoreError::Corrupt(format!("{number:?} is no country"));
    let country = number.map(|number| Country::of_number(number).ok_or_else(wrong)).transpose()?;
    let price = TokenPrice {
        prompt: Micros(row.try_get("prompt_price")?),
        cached: Micros(row.try_get("cached_price")?),
        completion: Micros(row.try_get("completion_price")?),
    };
    Ok(Some(UsageTerms { price, service_tier: tier(code)?, country }))
}

pub(crate) const fn operation_code(operation: Operation) -> i64 {
    match operation {
        Operation::Chat => 0,
        Operation::Completion => 1,
        Operation::Embedding => 2,
        Operation::Fim => 3,
        Operation::Tokenise => 4,
        Operation::Detokenise => 5,
    }
}

pub(crate) fn operation(code: i64) -> Result<Operation, StoreError> {
    match code {
        0 => Ok(Operation::Chat),
        1 => Ok(Operation::Completion),
        2 => Ok(Operation::Embedding),
        3 => Ok(Operation::Fim),
        4 => Ok(Operation::Tokenise),
        5 => Ok(Operation::Detokenise),
        _ => Err(StoreError::Corrupt(format!("{code} is no operation"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_id_says_which_transfer_it_is() {
        for key in [(1, 1, 0), (7, i64::MAX, 1), (0, 12, 4), (-1, 3, 5)] {
            let id = transfer_id(key.0, key.1, key.2);
            assert_eq!(transfer_key(id), key, "{id}");
        }
    }
}
