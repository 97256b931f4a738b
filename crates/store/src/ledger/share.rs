//! Shares of budgets that are lent to gateways: kept, changed, and taken from when usage is settled.
//!
//! INVARIANT: what a batch settles of a spool's usage leaves the spool's shares in the transaction that books it, so that at
//! every moment settled + lent is what it was, and a control plane that starts again knows what it has lent.
//! INVARIANT: all changes of a spool's shares hold the row of its cursor; each has a number, and a reader that sees a number
//! sees all changes up to it.

use std::collections::{BTreeMap, HashMap};

use galerne_model::ids::BudgetId;
use galerne_model::ledger::Quantities;
use galerne_model::money::{Amounts, BudgetSubject};
use galerne_model::share::BudgetShare;
use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::settle::{LOCK_CURSOR, MAKE_CURSOR, READ_CURSOR};
use super::spending::{Counted, subject_ref};
use super::too_large;
use crate::error::{StoreError, retry};
use crate::resource::instant;
use crate::store::{Reader, Store, Tx};

const OF_SOURCE: &str = "SELECT budget_id, subject_id, period_start, micros, picos, millijoules, co2e_micrograms \
    FROM budget_share WHERE source = $1 ORDER BY budget_id, subject_id, period_start";
const OF_BUDGET: &str = "SELECT source, budget_id, subject_id, period_start, micros, picos, millijoules, co2e_micrograms \
    FROM budget_share WHERE budget_id = $1 ORDER BY source, subject_id, period_start";
const PUT: &str = "INSERT INTO budget_share (source, budget_id, subject_id, period_start, micros, picos, millijoules, \
    co2e_micrograms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (source, budget_id, subject_id, period_start) \
    DO UPDATE SET micros = excluded.micros, picos = excluded.picos, millijoules = excluded.millijoules, \
    co2e_micrograms = excluded.co2e_micrograms";
const REMOVE: &str =
    "DELETE FROM budget_share WHERE source = $1 AND budget_id = $2 AND subject_id = $3 AND period_start = $4";
// Of a month that is over nothing is admitted any more, and what is settled late needs no share.
const REMOVE_EARLIER: &str =
    "DELETE FROM budget_share WHERE source = $1 AND budget_id = $2 AND subject_id = $3 AND period_start < $4";
const REMOVE_GONE: &str =
    "DELETE FROM budget_share WHERE source = $1 AND budget_id NOT IN (SELECT id FROM budget WHERE deleted_at IS NULL)";
const NEXT_NUMBER: &str = "INSERT INTO counter (name, value) VALUES ('budget_share', 1) \
    ON CONFLICT (name) DO UPDATE SET value = counter.value + 1 RETURNING value";
const LAST_NUMBER: &str = "SELECT value FROM counter WHERE name = 'budget_share'";
/// Whom the shares of a spool count: a subject, or every key of a line.
const COUNTED: &str = "SELECT ledger_ref.no, budget_share.budget_id, budget_share.subject_id, budget_share.period_start \
    FROM budget_share JOIN ledger_ref ON ledger_ref.id = budget_share.subject_id WHERE budget_share.source = $1 \
    UNION ALL SELECT ledger_ref.no, budget_share.budget_id, budget_share.subject_id, budget_share.period_start \
    FROM budget_share JOIN key_line ON key_line.line_id = budget_share.subject_id \
    JOIN ledger_ref ON ledger_ref.id = key_line.key_id WHERE budget_share.source = $1";
const LENT: &str = "SELECT budget_id, subject_id, period_start, CAST(SUM(micros) AS BIGINT) AS micros, \
    CAST(SUM(picos) AS BIGINT) AS picos, CAST(SUM(millijoules) AS BIGINT) AS millijoules, \
    CAST(SUM(co2e_micrograms) AS BIGINT) AS co2e_micrograms FROM budget_share GROUP BY budget_id, subject_id, period_start";
const FORSAKE: &str =
    "INSERT INTO forsaken_spool (source, forsaken_at) VALUES ($1, $2) ON CONFLICT (source) DO NOTHING";
const REMOVE_ALL: &str = "DELETE FROM budget_share WHERE source = $1";
const IS_FORSAKEN: &str = "SELECT 1 AS yes FROM forsaken_spool WHERE source = $1";

/// What one spool is lent of one budget in one period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LentShare {
    /// The budget.
    pub budget_id: BudgetId,
    /// Whose spending it counts, as an id.
    subject_id: String,
    /// Start of the period.
    pub period_start: Timestamp,
    /// How much, less what is settled of it.
    pub share: BudgetShare,
}

impl LentShare {
    /// Whether it is a share of a budget on `subject` in the period that began then. A budget may be given another subject,
    /// and its period turns.
    pub fn is_of(&self, subject: &BudgetSubject, period_start: Timestamp) -> bool {
        self.period_start == period_start && self.subject_id == subject_ref(subject).to_string()
    }
}

/// The shares of one spool at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpoolShares {
    /// What is settled up to this record is taken from them.
    pub settled_sequence: i64,
    /// The number of the last change of anybody's shares.
    pub number: i64,
    /// The shares, of all periods and subjects.
    pub shares: Vec<LentShare>,
}

/// A change of one spool's share of one budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareChange {
    /// The budget.
    pub budget_id: BudgetId,
    /// Whose spending it counts; of a key, the first one of its line.
    pub subject: BudgetSubject,
    /// Start of the period.
    pub period_start: Timestamp,
    /// Comes back unspent.
    pub give_back: Amounts,
    /// Is lent in addition.
    pub lend: Amounts,
}

/// Budget, subject, start of the period.
type ShareKey = (String, String, i64);

impl Store {
    /// Changes the shares of a spool, all or none of them.
    pub async fn change_shares(&self, source: i64, changes: &[ShareChange]) -> Result<SpoolShares, StoreError> {
        retry(|| self.change_shares_once(source, changes)).await
    }

    /// The shares of a spool.
    pub async fn shares_of(&self, source: i64) -> Result<SpoolShares, StoreError> {
        let mut reader = self.reader().await?;
        let settled_sequence = reader.settled_through(source).await?;
        let number = reader.last_share_change().await?;
        let shares = lent(&read(reader.conn(), source).await?)?;
        Ok(SpoolShares { settled_sequence, number, shares })
    }

    /// Whether a spool was given up.
    pub async fn is_forsaken(&self, source: i64) -> Result<bool, StoreError> {
        is_forsaken(self.read_once().await?.conn(), source).await
    }

    async fn change_shares_once(&self, source: i64, changes: &[ShareChange]) -> Result<SpoolShares, StoreError> {
        let mut tx = self.begin().await?;
        let settled_sequence = lock(tx.conn(), source).await?;
        sqlx::query(REMOVE_GONE).bind(source).execute(tx.conn()).await?;
        for change in changes {
            let (budget, subject) = (change.budget_id.to_string(), subject_ref(&change.subject).to_string());
            let start = change.period_start.as_microsecond();
            let query = sqlx::query(REMOVE_EARLIER).bind(source).bind(budget.clone()).bind(subject.clone()).bind(start);
            query.execute(tx.conn()).await?;
            let known = read(tx.conn(), source).await?;
            let key = (budget, subject, start);
            let mut share = known.get(&key).copied().unwrap_or_default();
            share.give_back(&change.give_back);
            share.lend(&change.lend);
            put(tx.conn(), source, &key, share).await?;
        }
        let shares = lent(&read(tx.conn(), source).await?)?;
        let number = sqlx::query(NEXT_NUMBER).fetch_one(tx.conn()).await?.try_get("value")?;
        tx.commit().await?;
        Ok(SpoolShares { settled_sequence, number, shares })
    }
}

impl Tx {
    /// Gives a spool up: what it was lent is free again, and nothing of it is settled any more. Says what it was lent.
    pub async fn forsake_spool(&mut self, source: i64, now: Timestamp) -> Result<SpoolShares, StoreError> {
        let known = sqlx::query(READ_CURSOR).bind(source).fetch_optional(self.conn()).await?;
        let shares = lent(&read(self.conn(), source).await?)?;
        if known.is_none() && shares.is_empty() {
            return Err(StoreError::NotFound { kind: "spool", id: source.to_string() });
        }
        let settled_sequence = lock(self.conn(), source).await?;
        let shares = lent(&read(self.conn(), source).await?)?;
        sqlx::query(REMOVE_ALL).bind(source).execute(self.conn()).await?;
        sqlx::query(FORSAKE).bind(source).bind(now.as_microsecond()).execute(self.conn()).await?;
        let number = sqlx::query(NEXT_NUMBER).fetch_one(self.conn()).await?.try_get("value")?;
        Ok(SpoolShares { settled_sequence, number, shares })
    }
}

impl Reader {
    /// The number of the last change of shares that this reader sees.
    pub(crate) async fn last_share_change(&mut self) -> Result<i64, StoreError> {
        let row = sqlx::query(LAST_NUMBER).fetch_optional(self.conn()).await?;
        Ok(row.map(|row| row.try_get("value")).transpose()?.unwrap_or(0))
    }

    /// Who is lent how much of a budget, of all its periods and subjects.
    pub async fn shares_of_budget(&mut self, budget_id: BudgetId) -> Result<Vec<(i64, LentShare)>, StoreError> {
        let rows = sqlx::query(OF_BUDGET).bind(budget_id.to_string()).fetch_all(self.conn()).await?;
        let mut shares = Vec::new();
        for row in &rows {
            let one = BTreeMap::from([(key(row)?, share(row)?)]);
            let source: i64 = row.try_get("source")?;
            shares.extend(lent(&one)?.into_iter().map(|share| (source, share)));
        }
        Ok(shares)
    }

    /// What is lent of every budget, by budget, subject and period.
    pub(crate) async fn lent(&mut self) -> Result<HashMap<ShareKey, Counted>, StoreError> {
        let rows = sqlx::query(LENT).fetch_all(self.conn()).await?;
        rows.iter().map(|row| Ok((key(row)?, Counted::read(row)?))).collect()
    }
}

/// Takes what was charged from the shares of a spool. The caller holds the row of the spool's cursor.
pub(super) async fn settle(
    conn: &mut AnyConnection,
    source: i64,
    charged: &BTreeMap<(i64, i64), Counted>,
) -> Result<(), StoreError> {
    let mut of_share: BTreeMap<ShareKey, Quantities> = BTreeMap::new();
    for row in sqlx::query(COUNTED).bind(source).fetch_all(&mut *conn).await? {
        let (key, no): (ShareKey, i64) = (key(&row)?, row.try_get("no")?);
        if let Some(counted) = charged.get(&(no, key.2)) {
            super::add(of_share.entry(key).or_default(), &counted.quantities())?;
        }
    }
    if of_share.is_empty() {
        return Ok(());
    }
    let known = read(conn, source).await?;
    for (key, charged) in &of_share {
        let mut share = known.get(key).copied().unwrap_or_default();
        share.settle(charged);
        put(conn, source, key, share).await?;
    }
    Ok(())
}

/// Whether nothing of a spool may be settled any more.
pub(super) async fn is_forsaken(conn: &mut AnyConnection, source: i64) -> Result<bool, StoreError> {
    Ok(sqlx::query(IS_FORSAKEN).bind(source).fetch_optional(conn).await?.is_some())
}

/// Says up to which record the spool is settled, and keeps settlements and other changes waiting.
async fn lock(conn: &mut AnyConnection, source: i64) -> Result<i64, StoreError> {
    sqlx::query(MAKE_CURSOR).bind(source).execute(&mut *conn).await?;
    Ok(sqlx::query(LOCK_CURSOR).bind(source).fetch_one(conn).await?.try_get("through")?)
}

async fn read(conn: &mut AnyConnection, source: i64) -> Result<BTreeMap<ShareKey, BudgetShare>, StoreError> {
    let rows = sqlx::query(OF_SOURCE).bind(source).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((key(row)?, share(row)?))).collect()
}

fn share(row: &AnyRow) -> Result<BudgetShare, StoreError> {
    let of = |name| row.try_get::<i64, _>(name);
    Ok(BudgetShare::from_kept([of("micros")?, of("picos")?, of("millijoules")?, of("co2e_micrograms")?]))
}

async fn put(
    conn: &mut AnyConnection,
    source: i64,
    (budget, subject, start): &ShareKey,
    share: BudgetShare,
) -> Result<(), StoreError> {
    let text = if share.is_nothing() { REMOVE } else { PUT };
    let query = sqlx::query(text).bind(source).bind(budget.clone()).bind(subject.clone()).bind(*start);
    let query = if share.is_nothing() {
        query
    } else {
        let [micros, picos, millijoules, co2e] = share.kept().ok_or_else(too_large)?;
        query.bind(micros).bind(picos).bind(millijoules).bind(co2e)
    };
    query.execute(conn).await?;
    Ok(())
}

fn key(row: &AnyRow) -> Result<ShareKey, StoreError> {
    Ok((row.try_get("budget_id")?, row.try_get("subject_id")?, row.try_get("period_start")?))
}

fn lent(rows: &BTreeMap<ShareKey, BudgetShare>) -> Result<Vec<LentShare>, StoreError> {
    let share = |((budget, subject, start), share): (&ShareKey, &BudgetShare)| {
        let budget_id =
            budget.parse().map_err(|_| StoreError::Corrupt(format!("a share names the budget `{budget}`")))?;
        Ok(LentShare { budget_id, subject_id: subject.clone(), period_start: instant(*start)?, share: *share })
    };
    rows.iter().map(share).collect()
}
