//! The proof that the ledger closes: usage = transfers = balances, energy given out = energy read, no record lost,
//! none counted twice, every hold freed once.
//!
//! All of it is read at one moment. Sums are compared first; only where two differ are the rows searched, so that a
//! ledger of ten million records is proved in seconds and a finding still names its row. Sums by day are compared with
//! the records by a fingerprint (`fingerprint`), what budgets see is compared with the sums by day.

use std::collections::{BTreeMap, BTreeSet};

use galerne_model::ids::RequestId;
use galerne_model::ledger::Quantities;
use serde::Serialize;
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::refs;
use super::{APPORTIONMENT, COMMODITIES, IDLE, METER, OVERHEAD, OVERRUN};
use super::{add, negated, read_quantities, transfer_id, values};
use crate::error::StoreError;
use crate::store::{Reader, Store};

use beside::Reversed;
use fingerprint::Fingerprint;

mod beside;
mod fingerprint;
mod sql;

/// Rows named for one difference; more would not help a person.
const NAMED_MAX: i64 = 20;

/// What the check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Usage records.
    pub records: i64,
    /// Transfers.
    pub transfers: i64,
    /// Energy readings.
    pub readings: i64,
    /// Projects that used something.
    pub projects: usize,
    /// Everything the usage records say.
    pub usage: Quantities,
    /// Everything the meter gave out.
    pub metered: Quantities,
    /// What does not fit; empty when the ledger closes.
    pub findings: Vec<Finding>,
}

/// Something in the ledger that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable code.
    pub code: &'static str,
    /// What, and in which row.
    pub text: String,
}

impl CheckReport {
    /// Whether the ledger closes.
    pub fn closes(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Sums of the usage records of a project.
#[derive(Debug, Default)]
struct UsageSums {
    count: i64,
    held: i64,
    overrun: (i64, i64),
    quantities: Quantities,
    fingerprint: i64,
}

/// Sums of the transfers from one owner to another.
#[derive(Debug, Default)]
struct TransferSums {
    count: i64,
    voided: i64,
    quantities: Quantities,
}

/// Everything the comparison needs.
#[derive(Debug)]
struct Sums {
    fingerprint: Fingerprint,
    usage: BTreeMap<i64, UsageSums>,
    spools: BTreeMap<i64, (i64, i64)>,
    /// By (to, from).
    transfers: BTreeMap<(i64, i64), TransferSums>,
    duplicates: Vec<(RequestId, i64)>,
}

impl Store {
    /// Proves that the ledger closes, or says what does not.
    pub async fn ledger_check(&self) -> Result<CheckReport, StoreError> {
        let (mut reader, second) = self.reader_pair().await?;
        let mut sums = Sums::new();
        match second {
            Some(mut other) => {
                let mut transfers = Sums::new();
                tokio::try_join!(sums.read_usage(&mut reader), transfers.read_transfers(&mut other))?;
                sums.transfers = transfers.transfers;
                sums.duplicates = transfers.duplicates;
            }
            None => {
                sums.read_usage(&mut reader).await?;
                sums.read_transfers(&mut reader).await?;
            }
        }
        prove(&mut reader, sums).await
    }
}

impl Reader {
    /// The same within one transaction, which sees what it has written itself.
    pub(crate) async fn ledger_check(&mut self) -> Result<CheckReport, StoreError> {
        let mut sums = Sums::new();
        sums.read_usage(self).await?;
        sums.read_transfers(self).await?;
        prove(self, sums).await
    }
}

/// Compares everything with everything.
async fn prove(reader: &mut Reader, sums: Sums) -> Result<CheckReport, StoreError> {
    let mut check = Check { reader, sums, findings: Vec::new() };
    check.usage_against_transfers().await?;
    check.requests_counted_twice();
    check.spools().await?;
    let balances = check.balances().await?;
    let reversed = check.reversals().await?;
    check.sums_beside(&balances, &reversed).await?;
    let readings = check.energy().await?;
    check.report(&balances, readings)
}

impl Sums {
    fn new() -> Self {
        Self {
            fingerprint: Fingerprint::draw(),
            usage: BTreeMap::new(),
            spools: BTreeMap::new(),
            transfers: BTreeMap::new(),
            duplicates: Vec::new(),
        }
    }

    async fn read_usage(&mut self, reader: &mut Reader) -> Result<(), StoreError> {
        let has_corrections = sqlx::query(sql::HAS_CORRECTIONS).fetch_optional(reader.conn()).await?.is_some();
        let text = if has_corrections { sql::USAGE_CORRECTED } else { sql::USAGE };
        let query = self.fingerprint.multipliers().fold(sqlx::query(text), |query, value| query.bind(value));
        for row in query.fetch_all(reader.conn()).await? {
            let (count, last): (i64, i64) = (row.try_get("n")?, row.try_get("last_sequence")?);
            let project = self.usage.entry(row.try_get("project_no")?).or_default();
            project.count += count;
            project.held += row.try_get::<i64, _>("held_micros")?;
            project.overrun.0 += row.try_get::<i64, _>("overrun_micros")?;
            project.overrun.1 += row.try_get::<i64, _>("overrun_picos")?;
            add(&mut project.quantities, &read_quantities(&row)?)?;
            project.fingerprint = Fingerprint::sum(project.fingerprint, row.try_get("fingerprint")?);
            let spool = self.spools.entry(row.try_get("source")?).or_default();
            *spool = (spool.0 + count, spool.1.max(last));
        }
        Ok(())
    }

    async fn read_transfers(&mut self, reader: &mut Reader) -> Result<(), StoreError> {
        for row in sqlx::query(sql::TRANSFERS).fetch_all(reader.conn()).await? {
            let sums = TransferSums {
                count: row.try_get("n")?,
                voided: row.try_get("voided_micros")?,
                quantities: read_quantities(&row)?,
            };
            self.transfers.insert((row.try_get("to_no")?, row.try_get("from_no")?), sums);
        }
        for row in sqlx::query(sql::DUPLICATES).bind(NAMED_MAX).fetch_all(reader.conn()).await? {
            self.duplicates.push((request(&row)?, row.try_get("n")?));
        }
        Ok(())
    }

    fn between(&self, to_no: i64, from_no: i64) -> Quantities {
        self.transfers.get(&(to_no, from_no)).map_or_else(Quantities::default, |sums| sums.quantities)
    }
}

/// A check under way.
struct Check<'a> {
    reader: &'a mut Reader,
    sums: Sums,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn find(&mut self, code: &'static str, text: String) {
        self.findings.push(Finding { code, text });
    }

    /// Compares two sums of all commodities; says whether they are the same.
    fn same(&mut self, code: &'static str, left: &str, a: &Quantities, right: &str, b: &Quantities) -> bool {
        let differing = COMMODITIES.iter().zip(values(a)).zip(values(b)).filter(|((_, a), b)| a != b);
        let parts: Vec<String> = differing.map(|((name, a), b)| format!("{a} against {b} {name}")).collect();
        if parts.is_empty() {
            return true;
        }
        self.find(code, format!("{left} and {right} differ: {}", parts.join(", ")));
        false
    }

    async fn usage_against_transfers(&mut self) -> Result<(), StoreError> {
        let mut projects: BTreeSet<i64> = self.sums.usage.keys().copied().collect();
        projects
            .extend(self.sums.transfers.keys().filter(|(to, from)| *to > OVERRUN && *from == METER).map(|key| key.0));
        let mut overrun = Quantities::default();
        for no in projects {
            let usage = self.sums.usage.remove(&no).unwrap_or_default();
            let transfers = self.sums.transfers.get(&(no, METER));
            let (count, voided, booked) =
                transfers.map(|sums| (sums.count, sums.voided, sums.quantities)).unwrap_or_default();
            let mut charged = usage.quantities;
            charged.micros.0 -= usage.overrun.0;
            charged.picos.0 -= usage.overrun.1;
            overrun.micros.0 += usage.overrun.0;
            overrun.picos.0 += usage.overrun.1;
            let name = refs::name_uncached(self.reader.conn(), no).await?;
            let same = self.same("usage_transfers", &format!("usage of `{name}`"), &charged, "its transfers", &booked);
            let freed = booked.micros.0 + voided;
            if freed != usage.held {
                self.find("hold_lost", format!("of `{name}`, {} micros were held and {freed} freed", usage.held));
            }
            if count != usage.count {
                let text = format!("`{name}` has {} usage records and {count} transfers", usage.count);
                self.find("usage_transfers", text);
            }
            if !same || freed != usage.held || count != usage.count {
                self.name_rows(no).await?;
            }
            self.sums.usage.insert(no, usage);
        }
        let booked = self.sums.between(OVERRUN, METER);
        self.same("overrun", "what charges exceed their holds by", &overrun, "the overrun account", &booked);
        Ok(())
    }

    /// Finds the rows behind a difference in one project.
    async fn name_rows(&mut self, project_no: i64) -> Result<(), StoreError> {
        let rows = sqlx::query(sql::DIFFERING).bind(project_no).bind(NAMED_MAX).fetch_all(self.reader.conn()).await?;
        for row in rows {
            let (source, sequence): (i64, i64) = (row.try_get("source")?, row.try_get("sequence")?);
            let name = format!("usage record {source}/{sequence} of {}", request(&row)?);
            match row.try_get::<i64, _>("what")? {
                1 => self.find("transfer_missing", format!("{name} has no transfer")),
                2 => self.find("hold_lost", format!("{name} held money that its transfer does not free exactly")),
                _ => self.find("transfer_differs", format!("{name} and its transfer differ")),
            }
        }
        let rows = sqlx::query(sql::CORRECTIONS).bind(project_no).bind(NAMED_MAX).fetch_all(self.reader.conn()).await?;
        for row in rows {
            let (source, sequence): (i64, i64) = (row.try_get("source")?, row.try_get("sequence")?);
            self.find("correction_differs", format!("the correction of {source}/{sequence} and its transfer differ"));
        }
        let rows = sqlx::query(sql::STRAY).bind(project_no).bind(NAMED_MAX).fetch_all(self.reader.conn()).await?;
        for row in rows {
            let (source, sequence): (i64, i64) = (row.try_get("source")?, row.try_get("sequence")?);
            let id = transfer_id(source, sequence, row.try_get("part")?);
            self.find("settled_twice", format!("{id} ({source}/{sequence}) books usage that no record has"));
        }
        Ok(())
    }

    fn requests_counted_twice(&mut self) {
        for (request, count) in std::mem::take(&mut self.sums.duplicates) {
            self.find("settled_twice", format!("{request} was settled {count} times"));
        }
    }

    async fn spools(&mut self) -> Result<(), StoreError> {
        let mut cursors = BTreeMap::new();
        for row in sqlx::query(sql::CURSORS).fetch_all(self.reader.conn()).await? {
            cursors.insert(row.try_get::<i64, _>("source")?, row.try_get::<i64, _>("through")?);
        }
        let sources: BTreeSet<i64> = cursors.keys().chain(self.sums.spools.keys()).copied().collect();
        for source in sources {
            let (count, last) = self.sums.spools.get(&source).copied().unwrap_or_default();
            let through = cursors.get(&source).copied().unwrap_or_default();
            if through != last {
                self.find("cursor", format!("spool {source} is settled through {through}, its last record is {last}"));
            }
            // Sequences are unique and at least 1, so as many as the last means all of them.
            if count != last {
                let first = sqlx::query(sql::FIRST_GAP).bind(source).fetch_optional(self.reader.conn()).await?;
                let first: Option<i64> = first.map(|row| row.try_get("missing")).transpose()?;
                let first = first.map_or_else(|| "1".to_owned(), |missing| missing.to_string());
                let text = format!("spool {source} has {count} records of {last}; the first missing one is {first}");
                self.find("record_lost", text);
            }
        }
        Ok(())
    }

    /// Compares balances with transfers; returns what the transfers say.
    async fn balances(&mut self) -> Result<BTreeMap<i64, Quantities>, StoreError> {
        let mut computed: BTreeMap<i64, Quantities> = BTreeMap::new();
        for ((to, from), sums) in &self.sums.transfers {
            add(computed.entry(*to).or_default(), &sums.quantities)?;
            add(computed.entry(*from).or_default(), &negated(&sums.quantities))?;
        }
        let kept = keyed(self.reader.conn(), sql::BALANCES).await?;
        let owners: BTreeSet<i64> = kept.keys().chain(computed.keys()).copied().collect();
        for owner in owners {
            let (kept, computed) = (at(&kept, owner), at(&computed, owner));
            if kept != computed {
                let name = refs::name_uncached(self.reader.conn(), owner).await?;
                self.same("balance", &format!("the balance of `{name}`"), &kept, "its transfers", &computed);
            }
        }
        Ok(computed)
    }

    /// Compares what projects gave back with what was reversed; returns each reversed charge.
    async fn reversals(&mut self) -> Result<Vec<Reversed>, StoreError> {
        let reversed = beside::reversed(self.reader).await?;
        let mut expected = Quantities::default();
        for one in &reversed {
            add(&mut expected, &one.charged)?;
        }
        let mut booked = Quantities::default();
        for ((_, from), sums) in &self.sums.transfers {
            if *from > OVERRUN {
                add(&mut booked, &sums.quantities)?;
            }
        }
        self.same("reversal", "what projects gave back", &booked, "what was reversed", &expected);
        Ok(reversed)
    }

    /// Compares the energy of requests, readings and transfers; returns the number of readings.
    async fn energy(&mut self) -> Result<i64, StoreError> {
        let read = sqlx::query(sql::READINGS).fetch_one(self.reader.conn()).await?;
        let pending = energy(&sqlx::query(sql::PENDING).fetch_one(self.reader.conn()).await?, "")?;
        let mut covered = energy(&read, "usage_")?;
        add(&mut covered, &pending)?;
        let mut used = Quantities::default();
        for sums in self.sums.usage.values() {
            add(&mut used, &energy_of(&sums.quantities))?;
        }
        self.same("energy_usage", "the energy of requests", &used, "what readings cover and will cover", &covered);
        for (to_no, from_no, prefix, name) in [
            (IDLE, METER, "idle_", "idle energy"),
            (OVERHEAD, METER, "overhead_", "overhead energy"),
            (METER, APPORTIONMENT, "apportionment_", "apportionment"),
        ] {
            let booked = self.sums.between(to_no, from_no);
            let expected = energy(&read, prefix)?;
            self.same("energy_reading", name, &booked, "the readings' part of it", &expected);
        }
        // The whole: what all owners but the meter have is what the meters said, and what they will say.
        let mut owned = Quantities::default();
        for ((to, from), sums) in &self.sums.transfers {
            if *from == METER {
                add(&mut owned, &energy_of(&sums.quantities))?;
            }
            if *to == METER {
                add(&mut owned, &negated(&energy_of(&sums.quantities)))?;
            }
        }
        let mut metered = energy(&read, "")?;
        add(&mut metered, &energy(&read, "overhead_")?)?;
        add(&mut metered, &pending)?;
        self.same("energy_total", "the energy of all owners", &owned, "the readings", &metered);
        Ok(read.try_get("n")?)
    }

    fn report(self, balances: &BTreeMap<i64, Quantities>, readings: i64) -> Result<CheckReport, StoreError> {
        let mut usage = Quantities::default();
        for sums in self.sums.usage.values() {
            add(&mut usage, &sums.quantities)?;
        }
        Ok(CheckReport {
            records: self.sums.usage.values().map(|sums| sums.count).sum(),
            transfers: self.sums.transfers.values().map(|sums| sums.count).sum(),
            readings,
            projects: self.sums.usage.len(),
            usage,
            metered: negated(&at(balances, METER)),
            findings: self.findings,
        })
    }
}

fn at(sums: &BTreeMap<i64, Quantities>, no: i64) -> Quantities {
    sums.get(&no).copied().unwrap_or_default()
}

/// Sums of all commodities by a number.
async fn keyed(conn: &mut AnyConnection, sql: &'static str) -> Result<BTreeMap<i64, Quantities>, StoreError> {
    let rows = sqlx::query(sql).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get("no")?, read_quantities(row)?))).collect()
}

/// The two columns of energy whose names begin with `prefix`.
fn energy(row: &AnyRow, prefix: &str) -> Result<Quantities, StoreError> {
    let column = |name: &str| row.try_get::<i64, _>(format!("{prefix}{name}").as_str());
    Ok(super::quantities([0, 0, 0, 0, 0, column("millijoules")?, column("co2e_micrograms")?]))
}

fn energy_of(q: &Quantities) -> Quantities {
    Quantities { millijoules: q.millijoules, co2e_micrograms: q.co2e_micrograms, ..Quantities::default() }
}

fn request(row: &AnyRow) -> Result<RequestId, StoreError> {
    let (high, low): (i64, i64) = (row.try_get("request_high")?, row.try_get("request_low")?);
    Ok(RequestId::from_uuid(Uuid::from_u64_pair(high.cast_unsigned(), low.cast_unsigned())))
}
