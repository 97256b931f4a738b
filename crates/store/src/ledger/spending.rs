//! What tenants, projects and keys spent, in euros, energy and carbon, in all and by month of admission: budgets are compared with it without a scan.
//!
//! Kept for every subject, with or without a budget, so that a new budget knows the past at once.

use std::collections::{BTreeMap, HashMap};

use futures_util::TryStreamExt;
use galerne_model::ids::BudgetId;
use galerne_model::ledger::Quantities;
use galerne_model::money::{Amounts, Budget, BudgetPeriod, BudgetSubject};
use galerne_model::snapshot::{PeriodSpending, Spending};
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, PICOS_PER_MICRO, Picos, Tokens};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::refs::{self, RefId};
use super::{bulk, too_large};
use crate::engine_sql::Engine;
use crate::error::StoreError;
use crate::resource::Filter;
use crate::store::{Reader, Store};

// Tenants and projects are in no line, so one text serves them and keys.
const READ: &str = "SELECT CAST(COALESCE(SUM(micros), 0) AS BIGINT) AS micros, \
    CAST(COALESCE(SUM(picos), 0) AS BIGINT) AS picos, \
    CAST(COALESCE(SUM(millijoules), 0) AS BIGINT) AS millijoules, \
    CAST(COALESCE(SUM(co2e_micrograms), 0) AS BIGINT) AS co2e_micrograms FROM spending \
    JOIN ledger_ref ON ledger_ref.no = spending.subject_no WHERE period_start = $2 AND ledger_ref.id IN \
    (SELECT CAST($1 AS TEXT) UNION ALL SELECT key_id FROM key_line WHERE line_id = $1)";

const READ_ALL: &str = "SELECT ledger_ref.id, spending.period_start, spending.micros, spending.picos, \
    spending.millijoules, spending.co2e_micrograms FROM spending \
    JOIN ledger_ref ON ledger_ref.no = spending.subject_no WHERE period_start = $1 OR period_start = $2";

/// Budgets from which on all spending is read at once: a question takes 50 µs, a row two.
const AT_ONCE: usize = 200;

/// `period_start` of what is never counted anew.
pub(crate) const TOTAL: i64 = 0;

/// What budgets count of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    micros: i64,
    picos: i64,
    millijoules: i64,
    co2e_micrograms: i64,
}

impl Counted {
    pub(crate) const fn of(quantities: &Quantities) -> Self {
        Self {
            micros: quantities.micros.0,
            picos: quantities.picos.0,
            millijoules: quantities.millijoules.0,
            co2e_micrograms: quantities.co2e_micrograms.0,
        }
    }

    pub(crate) fn read(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            micros: row.try_get("micros")?,
            picos: row.try_get("picos")?,
            millijoules: row.try_get("millijoules")?,
            co2e_micrograms: row.try_get("co2e_micrograms")?,
        })
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<(), StoreError> {
        let sum = |a: i64, b: i64| a.checked_add(b).ok_or_else(too_large);
        *self = Self {
            micros: sum(self.micros, other.micros)?,
            picos: sum(self.picos, other.picos)?,
            millijoules: sum(self.millijoules, other.millijoules)?,
            co2e_micrograms: sum(self.co2e_micrograms, other.co2e_micrograms)?,
        };
        Ok(())
    }

    pub(crate) const fn quantities(&self) -> Quantities {
        Quantities {
            prompt_tokens: Tokens::ZERO,
            cached_tokens: Tokens::ZERO,
            completion_tokens: Tokens::ZERO,
            micros: Micros(self.micros),
            picos: Picos(self.picos),
            millijoules: Millijoules(self.millijoules),
            co2e_micrograms: MicrogramsCo2e(self.co2e_micrograms),
        }
    }

    /// What is spent, and what is lent of it besides: rounded up once, so that a settlement changes nothing in all.
    fn with_lent(&self, lent: &Self) -> Result<(Amounts, Amounts), StoreError> {
        let mut sum = *self;
        sum.add(lent)?;
        let (spent, all) = (self.amounts(), sum.amounts());
        let lent = Amounts {
            micros: all.micros - spent.micros,
            millijoules: all.millijoules - spent.millijoules,
            co2e_micrograms: all.co2e_micrograms - spent.co2e_micrograms,
        };
        Ok((spent, lent))
    }

    /// With what is below a micro rounded up, so that a budget never sees less than was spent.
    const fn amounts(&self) -> Amounts {
        let whole = (self.picos + PICOS_PER_MICRO - 1).div_euclid(PICOS_PER_MICRO);
        Amounts {
            micros: Micros(self.micros + whole),
            millijoules: Millijoules(self.millijoules),
            co2e_micrograms: MicrogramsCo2e(self.co2e_micrograms),
        }
    }
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { micros, picos, millijoules, co2e_micrograms } = self;
        write!(f, "{micros} micros, {picos} picos, {millijoules} mJ and {co2e_micrograms} µg")
    }
}

/// What one transaction adds to spending.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    by_subject: BTreeMap<(i64, i64), Counted>,
    month: Option<(Timestamp, Timestamp, i64)>,
}

impl Spent {
    /// By subject and start of the period.
    pub(crate) const fn by_subject(&self) -> &BTreeMap<(i64, i64), Counted> {
        &self.by_subject
    }

    pub(crate) fn add(&mut self, subjects: [i64; 3], at: Timestamp, charged: &Quantities) -> Result<(), StoreError> {
        let month = self.month_start(at);
        let charged = Counted::of(charged);
        for subject in subjects {
            for period in [TOTAL, month] {
                self.by_subject.entry((subject, period)).or_default().add(&charged)?;
            }
        }
        Ok(())
    }

    /// Records of a batch are mostly of one month, so the calendar is asked once.
    fn month_start(&mut self, at: Timestamp) -> i64 {
        if let Some((from, until, start)) = self.month
            && from <= at
            && at < until
        {
            return start;
        }
        let (from, until) = month_of(at);
        self.month = Some((from, until, from.as_microsecond()));
        from.as_microsecond()
    }

    pub(crate) async fn write(&self, engine: Engine, conn: &mut AnyConnection) -> Result<(), StoreError> {
        let rows: Vec<_> = self
            .by_subject
            .iter()
            .flat_map(|((subject, period), spent)| {
                let Counted { micros, picos, millijoules, co2e_micrograms } = *spent;
                [*subject, *period, micros, picos, millijoules, co2e_micrograms].map(Some)
            })
            .collect();
        bulk::SPENDING.insert(engine, conn, &rows).await
    }
}

/// The calendar month in UTC that holds an instant: its start and its end.
pub(crate) fn month_of(at: Timestamp) -> (Timestamp, Timestamp) {
    let first = at.to_zoned(TimeZone::UTC).date().first_of_month();
    let next = first.last_of_month().tomorrow();
    let instant =
        |date: jiff::civil::Date| date.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp());
    (instant(first), next.map_or(Timestamp::MAX, instant))
}

impl Reader {
    /// What a subject spent in the period that is running at `now`; what is below a micro is rounded up. Keys of one
    /// line spend together: the answer is about the line, under the name of its first key.
    pub async fn spent(
        &mut self,
        subject: &BudgetSubject,
        period: BudgetPeriod,
        now: Timestamp,
    ) -> Result<PeriodSpending, StoreError> {
        self.spent_and_lent(subject, period, now, &|_, _| Counted::default()).await
    }

    /// The same with what is lent of it, as `lent` says for a subject and the start of a period.
    async fn spent_and_lent(
        &mut self,
        subject: &BudgetSubject,
        period: BudgetPeriod,
        now: Timestamp,
        lent: &(dyn Fn(&BudgetSubject, Timestamp) -> Counted + Sync),
    ) -> Result<PeriodSpending, StoreError> {
        let subject = match *subject {
            BudgetSubject::Key { key_id } => BudgetSubject::Key { key_id: self.key_line(key_id).await? },
            other @ (BudgetSubject::Tenant { .. } | BudgetSubject::Project { .. }) => other,
        };
        let id = subject_ref(&subject);
        let (period_start, period_end) = period_at(period, now);
        let row =
            sqlx::query(READ).bind(id.to_string()).bind(period_start.as_microsecond()).fetch_one(self.conn()).await?;
        let (spent, lent) = Counted::read(&row)?.with_lent(&lent(&subject, period_start))?;
        Ok(PeriodSpending { subject, period_start, period_end, spent, lent, share: None })
    }

    /// What every living budget spent in its running period, and up to which record of a spool that is counted.
    pub async fn spending(&mut self, source: i64, now: Timestamp) -> Result<Spending, StoreError> {
        let settled_sequence = self.settled_through(source).await?;
        let loans = self.last_share_change().await?;
        let mut spending = Spending { settled_sequence, loans, ..Spending::default() };
        let budgets = self.list_all::<Budget>(&Filter::default()).await?;
        let lent = self.lent().await?;
        if budgets.len() >= AT_ONCE {
            spending.spent = self.spent_under(&budgets, &lent, now).await?;
            return Ok(spending);
        }
        for budget in budgets {
            let of = |subject: &BudgetSubject, start| lent_of(&lent, budget.id, subject, start);
            let spent = self.spent_and_lent(&budget.spec.subject, budget.spec.period, now, &of).await?;
            spending.spent.insert(budget.id, spent);
        }
        Ok(spending)
    }

    /// The same as [`Reader::spent`] for many budgets.
    async fn spent_under(
        &mut self,
        budgets: &[Budget],
        lent: &HashMap<(String, String, i64), Counted>,
        now: Timestamp,
    ) -> Result<HashMap<BudgetId, PeriodSpending>, StoreError> {
        let lines = self.key_lines().await?;
        let line_names: HashMap<String, String> =
            lines.iter().map(|(key, line)| (key.to_string(), line.to_string())).collect();
        let month = month_of(now).0.as_microsecond();
        let mut by_name: HashMap<(String, i64), Counted> = HashMap::new();
        let mut rows = sqlx::query(READ_ALL).bind(TOTAL).bind(month).fetch(self.conn());
        while let Some(row) = rows.try_next().await? {
            let (name, period): (String, i64) = (row.try_get("id")?, row.try_get("period_start")?);
            let name = line_names.get(&name).cloned().unwrap_or(name);
            by_name.entry((name, period)).or_default().add(&Counted::read(&row)?)?;
        }
        drop(rows);
        let of = |budget: &Budget| {
            let subject = match budget.spec.subject {
                BudgetSubject::Key { key_id } => {
                    BudgetSubject::Key { key_id: lines.get(&key_id).copied().unwrap_or(key_id) }
                }
                other @ (BudgetSubject::Tenant { .. } | BudgetSubject::Project { .. }) => other,
            };
            let (period_start, period_end) = period_at(budget.spec.period, now);
            let key = (subject_ref(&subject).to_string(), period_start.as_microsecond());
            let lent = lent_of(lent, budget.id, &subject, period_start);
            let (spent, lent) = by_name.get(&key).copied().unwrap_or_default().with_lent(&lent)?;
            Ok((budget.id, PeriodSpending { subject, period_start, period_end, spent, lent, share: None }))
        };
        budgets.iter().map(of).collect()
    }
}

fn lent_of(
    lent: &HashMap<(String, String, i64), Counted>,
    budget_id: BudgetId,
    subject: &BudgetSubject,
    period_start: Timestamp,
) -> Counted {
    if lent.is_empty() {
        return Counted::default();
    }
    let key = (budget_id.to_string(), subject_ref(subject).to_string(), period_start.as_microsecond());
    lent.get(&key).copied().unwrap_or_default()
}

pub(crate) fn subject_ref(subject: &BudgetSubject) -> RefId {
    match *subject {
        BudgetSubject::Tenant { tenant_id } => RefId::from(tenant_id),
        BudgetSubject::Project { project_id } => RefId::from(project_id),
        BudgetSubject::Key { key_id } => RefId::from(key_id),
    }
}

/// Start and end of the running period.
fn period_at(period: BudgetPeriod, now: Timestamp) -> (Timestamp, Option<Timestamp>) {
    match period {
        BudgetPeriod::Total => (Timestamp::UNIX_EPOCH, None),
        BudgetPeriod::Month => {
            let (start, end) = month_of(now);
            (start, Some(end))
        }
    }
}

impl Store {
    /// See [`Reader::spent`].
    pub async fn spent(
        &self,
        subject: &BudgetSubject,
        period: BudgetPeriod,
        now: Timestamp,
    ) -> Result<PeriodSpending, StoreError> {
        self.read_once().await?.spent(subject, period, now).await
    }

    /// See [`Reader::spending`]; all of it at one moment.
    pub async fn spending(&self, source: i64, now: Timestamp) -> Result<Spending, StoreError> {
        self.reader().await?.spending(source, now).await
    }
}

/// Whether an id was ever used in the ledger.
pub(crate) async fn number_of(conn: &mut AnyConnection, id: Option<RefId>) -> Result<Option<i64>, StoreError> {
    match id {
        // A number no row has: an id that was never used matches nothing, rather than everything.
        Some(id) => Ok(Some(refs::find(conn, id).await?.unwrap_or(-1))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_runs_from_its_first_instant_to_the_next_one() {
        let at: Timestamp = "2024-02-29T23:59:59.999999Z".parse().expect("an instant");
        let (from, until) = month_of(at);
        assert_eq!(from.to_string(), "2024-02-01T00:00:00Z");
        assert_eq!(until.to_string(), "2024-03-01T00:00:00Z");
        assert_eq!(month_of(until).0, until);
    }
}
