//! Budgets: hold the worst case before work starts, settle what was used, free the rest.
//!
//! Every budget above a request applies, and all of them are checked before any is touched.
//! INVARIANT: of money, for every budget, settled + unsettled + held ≤ limit, counted in picos, so that not even the
//! fractions of a micro that rating leaves over can add up to an overspend.
//! INVARIANT: of energy and carbon, settled + unsettled + held ≤ limit at every admission. What was used is booked whole,
//! also above its hold, so between two admissions a limit is passed by at most what the requests in flight at the last
//! one used above their holds; then nothing more is admitted (docs/decisions/0033).
//! INVARIANT: a [`Hold`] ends exactly once. It cannot be cloned and `settle` and `void` consume it, so a second
//! settlement does not compile; one that is dropped stays in [`BudgetBook::outstanding`] and is found there.
//!
//! ```compile_fail
//! # use galerne_core::budget::{BudgetBook, Hold, Used};
//! fn settle_twice(book: &mut BudgetBook, hold: Hold) {
//!     book.settle(hold, 1, Used::default());
//!     book.settle(hold, 2, Used::default());
//! }
//! ```
//!
//! A request counts in the period in which it was admitted: [`Hold::admitted_at`], which becomes the
//! `started_at` of its usage record. It never lies before the period that a request has entered, so a clock that jumps
//! back cannot spend a month twice.
//! Accounts are kept only of budgets that a request came under, and what the ledger says is taken over when one does: the
//! work for a request, or for news from the ledger, does not grow with the number of budgets.
//! Deliberately absent: the ledger. What it has settled arrives as a [`Spending`].
//!
//! Two kinds of gateway keep such a book. The control plane's own has the whole limit and lends of it to the others
//! ([`BudgetBook::lend`]): INVARIANT: settled + unsettled + held + lent ≤ limit. A gateway in a process of its own has its
//! share for a limit ([`PeriodSpending::share`]): INVARIANT: unsettled + held + given back ≤ share.

use std::collections::BTreeMap;
use std::sync::Arc;

use galerne_model::ids::{BudgetId, KeyId, ProjectId, TenantId};
use galerne_model::money::{Amounts, BudgetPeriod, BudgetSubject, Commodity, TokenPrice};
use galerne_model::snapshot::{BudgetEntry, EnergyBound, PeriodSpending, Spending};
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Tokens};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::energy;
use crate::rating::{self, Charge, RatingError, WorkBound};

mod alert;
mod lending;
mod parts;

pub use alert::{Alert, alerts};
use lending::Promise;
pub use lending::{Loan, Wish};
use parts::Parts;

/// News from the ledger between two looks for budgets that are gone: a request under one closes its account at once.
const FORGET_EVERY: u64 = 1_000;

/// What one gateway holds and has spent since the ledger last spoke.
#[derive(Debug, Default)]
pub struct BudgetBook {
    accounts: BTreeMap<BudgetId, Account>,
    /// The accounts that count a subject's requests.
    by_subject: BTreeMap<BudgetSubject, Vec<BudgetId>>,
    /// What the ledger said last, and how often it has spoken.
    news: Arc<Spending>,
    heard: u64,
    holds: BTreeMap<u64, Held>,
    /// By sequence in the gateway's spool.
    unsettled: BTreeMap<i64, Spent>,
    next_hold: u64,
    settled_sequence: i64,
    /// Lent, and not yet in what the ledger says.
    promises: Vec<Promise>,
    /// Given back, and not yet in what the control plane says.
    given: BTreeMap<BudgetId, Parts>,
}

/// Money, energy and carbon reserved for one request. Ends by [`BudgetBook::settle`] or [`BudgetBook::void`].
#[derive(Debug)]
#[must_use = "a hold that is dropped reserves its amounts for ever: settle or void it"]
pub struct Hold {
    id: u64,
    amounts: Amounts,
    admitted_at: Timestamp,
}

/// Who pays for a request: every budget on one of the three counts it, also one that is made later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payer {
    /// The key's tenant.
    pub tenant_id: TenantId,
    /// The key's project.
    pub project_id: ProjectId,
    /// The first key of the key's line: a key and those that follow it by rotation spend together.
    pub line_id: KeyId,
}

/// What a request asks budgets for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// What tokens cost.
    pub price: &'a TokenPrice,
    /// The most it can consume.
    pub work: WorkBound,
    /// The most energy a token is expected to take; absent when its energy will not be known.
    pub energy: Option<EnergyBound>,
    /// What a kilowatt-hour emits, in milligrams.
    pub intensity_mg_per_kwh: i64,
}

/// What a request used, as its record says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Its price.
    pub charge: Charge,
    /// Its energy.
    pub energy: Millijoules,
    /// Its carbon.
    pub carbon: MicrogramsCo2e,
}

/// A charge held inside its hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded {
    /// What the caller pays: at most the hold.
    pub charged: Charge,
    /// What the work cost beyond its hold; the provider bears it.
    pub overrun: Charge,
}

/// A hold that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutstandingHold {
    /// What it reserves.
    pub amounts: Amounts,
    /// When it was made.
    pub admitted_at: Timestamp,
    /// Who pays.
    pub payer: Payer,
}

/// Why a hold was not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// A budget has less left than the request may cost.
    #[error("{0}")]
    Refused(Box<BudgetRefused>),
    /// The ledger has not yet said what was spent under a budget in this period: true for a moment after a
    /// start and after the turn of a month.
    #[error("the spending of budget `{name}` is not known yet")]
    NotLoaded {
        /// Name of the budget.
        name: String,
    },
    /// A budget limits energy or carbon, and what the request will use of it would not be known.
    #[error("budget `{name}` limits {}", unmetered(*commodity))]
    Unmetered {
        /// Name of the budget.
        name: String,
        /// What it limits.
        commodity: Commodity,
    },
    /// The worst case cannot be priced.
    #[error("the request cannot be priced")]
    Unpriceable(#[source] RatingError),
}

/// The numbers behind a refusal, in the base unit of the commodity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetRefused {
    /// The budget with the least left of the commodity.
    pub budget_id: BudgetId,
    /// Its name.
    pub name: String,
    /// Whose spending it counts.
    pub subject: BudgetSubject,
    /// What there is too little of.
    pub commodity: Commodity,
    /// The most that may be spent in the period.
    pub limit: i64,
    /// Spent in the period, rounded up.
    pub spent: i64,
    /// Held for requests in flight, or lent to other gateways.
    pub held: i64,
    /// What the request may take.
    pub asked: i64,
    /// What is left, rounded down; nothing when more than the limit is used.
    pub available: i64,
    /// The largest `max_tokens` that every budget would admit now; absent when not even the prompt fits.
    pub fits_max_tokens: Option<Tokens>,
    /// When the budget starts again.
    pub resets_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Account {
    subject: BudgetSubject,
    period_start: Timestamp,
    period_end: Option<Timestamp>,
    settled: Parts,
    unsettled: Parts,
    held: Parts,
    /// By this book's owner to others.
    lent: Parts,
    /// To this book's owner by the control plane: the limit that is in force here.
    share: Option<Parts>,
    /// What [`BudgetBook::heard`] was when the news about this budget was taken over.
    heard: u64,
}

#[derive(Debug)]
struct Held {
    amounts: Amounts,
    admitted_at: Timestamp,
    payer: Payer,
}

#[derive(Debug)]
struct Spent {
    parts: Parts,
    admitted_at: Timestamp,
    payer: Payer,
}

/// Start and end of the period of a budget that contains `now`. A `Total` budget has one period without end.
pub fn period_at(period: BudgetPeriod, now: Timestamp) -> (Timestamp, Option<Timestamp>) {
    match period {
        BudgetPeriod::Total => (Timestamp::UNIX_EPOCH, None),
        BudgetPeriod::Month => {
            let first = now.to_zoned(TimeZone::UTC).date().first_of_month();
            let instant = |date: jiff::civil::Date| date.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp());
            let start = instant(first).unwrap_or(Timestamp::MIN);
            // Fails only in December 9999, the last month there is.
            let end = first.checked_add(jiff::Span::new().months(1)).and_then(instant).ok();
            (start, end)
        }
    }
}

impl Payer {
    /// Whom budgets can be on that count this payer's requests.
    pub const fn subjects(self) -> [BudgetSubject; 3] {
        [
            BudgetSubject::Tenant { tenant_id: self.tenant_id },
            BudgetSubject::Project { project_id: self.project_id },
            BudgetSubject::Key { key_id: self.line_id },
        ]
    }

    /// Whether a budget on `subject`, as snapshots name it, counts this payer's requests.
    pub fn is_under(self, subject: &BudgetSubject) -> bool {
        match subject {
            BudgetSubject::Tenant { tenant_id } => *tenant_id == self.tenant_id,
            BudgetSubject::Project { project_id } => *project_id == self.project_id,
            BudgetSubject::Key { key_id } => *key_id == self.line_id,
        }
    }
}

impl Ask<'_> {
    /// Whether the record will say how much was used of it.
    const fn knows(&self, commodity: Commodity) -> bool {
        match commodity {
            Commodity::Money => true,
            Commodity::Energy => self.energy.is_some(),
            // No grid emits nothing: 0 is an intensity that nobody knows.
            Commodity::Carbon => self.energy.is_some() && self.intensity_mg_per_kwh > 0,
        }
    }

    /// The worst case of `work` at these rates.
    pub fn worst_case(&self, work: WorkBound) -> Result<Amounts, RatingError> {
        let micros = rating::worst_case(self.price, work)?;
        let energy = self.energy.map(|bound| energy::worst_case(&bound, work));
        Ok(Amounts {
            micros,
            millijoules: energy.unwrap_or_default(),
            co2e_micrograms: energy
                .map_or(MicrogramsCo2e::ZERO, |energy| energy::carbon_bound(energy, self.intensity_mg_per_kwh)),
        })
    }
}

impl Used {
    /// Of a request without energy.
    pub const fn charge(charge: Charge) -> Self {
        Self { charge, energy: Millijoules::ZERO, carbon: MicrogramsCo2e::ZERO }
    }
}

impl Hold {
    /// Money it reserves.
    pub fn amount(&self) -> Micros {
        self.amounts.micros
    }

    /// All it reserves.
    pub fn amounts(&self) -> Amounts {
        self.amounts
    }

    /// When the request counts as admitted; the usage record's `started_at`.
    pub fn admitted_at(&self) -> Timestamp {
        self.admitted_at
    }

    /// Splits a charge into what this hold covers and what the provider bears.
    pub fn bound(&self, charge: Charge) -> Bounded {
        let picos = charge.in_picos();
        let covered = picos.clamp(0, micros_in_picos(self.amounts.micros));
        let part = |picos| Charge::from_picos(picos).unwrap_or(Charge::ZERO);
        Bounded { charged: part(covered), overrun: part(picos - covered) }
    }
}

impl BudgetBook {
    /// An empty book: it grants nothing under a budget until the ledger has spoken.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reserves the worst case of a request in all `budgets`, or in none of them.
    pub fn try_hold(
        &mut self,
        payer: Payer,
        budgets: &[&BudgetEntry],
        ask: &Ask<'_>,
        now: Timestamp,
    ) -> Result<Hold, HoldError> {
        let amounts = ask.worst_case(ask.work).map_err(HoldError::Unpriceable)?;
        for entry in budgets {
            if let Some((commodity, _)) = entry.limits.iter().find(|(commodity, _)| !ask.knows(*commodity)) {
                return Err(HoldError::Unmetered { name: entry.name.clone(), commodity });
            }
        }
        for entry in budgets {
            self.catch_up(entry.id);
        }
        let admitted_at = self.enter_periods(budgets, now)?;
        if let Some(refused) = self.refusal(budgets, ask, &amounts) {
            return Err(HoldError::Refused(Box::new(refused)));
        }
        let parts = Parts::of(&amounts);
        self.for_accounts(payer, admitted_at, |account| account.held += parts);
        let id = self.next_hold;
        self.next_hold += 1;
        self.holds.insert(id, Held { amounts, admitted_at, payer });
        Ok(Hold { id, amounts, admitted_at })
    }

    /// Ends a hold with what was used. `sequence` is the usage record's place in the gateway's spool.
    ///
    /// More money than the hold is not charged: see [`Hold::bound`]. More energy than the hold is.
    #[expect(clippy::needless_pass_by_value, reason = "consuming the hold is what forbids settling it twice")]
    pub fn settle(&mut self, hold: Hold, sequence: i64, used: Used) {
        let parts = Parts::used(&Used { charge: hold.bound(used.charge).charged, ..used });
        let Some(held) = self.release(hold.id) else { return };
        // The ledger may have been faster than this call; then it has counted the record already.
        if sequence > self.settled_sequence {
            self.spend(sequence, Spent { parts, admitted_at: held.admitted_at, payer: held.payer });
        }
    }

    /// Ends a hold of a request that cost nothing and leaves no record.
    #[expect(clippy::needless_pass_by_value, reason = "consuming the hold is what forbids ending it twice")]
    pub fn void(&mut self, hold: Hold) {
        self.release(hold.id);
    }

    /// Counts a record that was in the spool when the gateway started and is not settled yet.
    pub fn recover(&mut self, sequence: i64, admitted_at: Timestamp, used: Used, payer: Payer) {
        if sequence > self.settled_sequence && !self.unsettled.contains_key(&sequence) {
            self.spend(sequence, Spent { parts: Parts::used(&used), admitted_at, payer });
        }
    }

    /// Takes over what the ledger says. Older news than already known is ignored.
    pub fn merge(&mut self, spending: &Arc<Spending>) {
        if spending.settled_sequence < self.settled_sequence {
            return;
        }
        self.settled_sequence = spending.settled_sequence;
        let still_unsettled = self.unsettled.split_off(&spending.settled_sequence.saturating_add(1));
        let settled = std::mem::replace(&mut self.unsettled, still_unsettled);
        for record in settled.values() {
            self.for_accounts(record.payer, record.admitted_at, |account| {
                account.unsettled -= record.parts;
                account.settled += record.parts;
            });
        }
        self.news = Arc::clone(spending);
        self.heard += 1;
        self.given.clear();
        self.forget_promises();
        if self.heard.is_multiple_of(FORGET_EVERY) {
            let gone: Vec<BudgetId> =
                self.accounts.keys().filter(|id| !spending.spent.contains_key(id)).copied().collect();
            for id in gone {
                self.close(id);
            }
        }
    }

    /// Holds that have not ended, oldest first: exactly the requests in flight, or a hold was lost.
    pub fn outstanding(&self) -> impl Iterator<Item = OutstandingHold> + '_ {
        self.holds.values().map(|held| OutstandingHold {
            amounts: held.amounts,
            admitted_at: held.admitted_at,
            payer: held.payer,
        })
    }

    /// What is held or lent and what is spent (settled or not, rounded up) in the running period of a budget.
    pub fn position(&mut self, budget: BudgetId) -> Option<(Amounts, Amounts)> {
        self.catch_up(budget);
        let account = self.accounts.get(&budget)?;
        let held = account.held + account.lent + self.promised(budget);
        Some((held.rounded_up(), (account.settled + account.unsettled).rounded_up()))
    }

    /// Says when the request counts as admitted, if every budget's period is known for that moment.
    fn enter_periods(&self, budgets: &[&BudgetEntry], now: Timestamp) -> Result<Timestamp, HoldError> {
        let accounts = || budgets.iter().map(|entry| (entry, self.accounts.get(&entry.id)));
        let starts = accounts().filter_map(|(_, account)| account.map(|account| account.period_start));
        let admitted_at = starts.fold(now, Timestamp::max);
        for (entry, account) in accounts() {
            let running = account.is_some_and(|account| account.is_running(admitted_at, &entry.subject));
            if !running {
                return Err(HoldError::NotLoaded { name: entry.name.clone() });
            }
        }
        Ok(admitted_at)
    }

    /// Takes over the last news about a budget; one that the ledger does not know has no account.
    fn catch_up(&mut self, id: BudgetId) {
        let known = self.accounts.get_mut(&id);
        if known.as_ref().is_some_and(|account| account.heard == self.heard) {
            return;
        }
        let Some(news) = self.news.spent.get(&id).copied() else {
            return self.close(id);
        };
        let (settled, lent) = (Parts::of(&news.spent), Parts::of(&news.lent));
        // An account of another subject counted other requests.
        match known.filter(|account| account.subject == news.subject) {
            Some(account) if account.period_start == news.period_start => {
                account.settled = settled;
                account.lent = lent;
                account.share = news.share.as_ref().map(Parts::of);
                account.heard = self.heard;
            }
            // A clock that jumped back speaks of a period that is over. `Total` budgets begin at the epoch.
            Some(account) if news.period_start < account.period_start && news.period_start != Timestamp::UNIX_EPOCH => {
                account.heard = self.heard;
            }
            Some(_) | None => self.open(id, news),
        }
    }

    /// Begins a period: only what was admitted in it counts.
    fn open(&mut self, id: BudgetId, news: PeriodSpending) {
        let PeriodSpending { subject, period_start, period_end, spent, lent, share } = news;
        let counts = |at: Timestamp, payer: Payer| at >= period_start && payer.is_under(&subject);
        let held = self.holds.values().filter(|held| counts(held.admitted_at, held.payer));
        let unsettled = self.unsettled.values().filter(|spent| counts(spent.admitted_at, spent.payer));
        let account = Account {
            subject,
            period_start,
            period_end,
            settled: Parts::of(&spent),
            lent: Parts::of(&lent),
            share: share.as_ref().map(Parts::of),
            unsettled: unsettled.map(|spent| spent.parts).sum(),
            held: held.map(|held| Parts::of(&held.amounts)).sum(),
            heard: self.heard,
        };
        self.close(id);
        self.accounts.insert(id, account);
        self.by_subject.entry(subject).or_default().push(id);
    }

    fn close(&mut self, id: BudgetId) {
        let Some(account) = self.accounts.remove(&id) else { return };
        if let Some(ids) = self.by_subject.get_mut(&account.subject) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_subject.remove(&account.subject);
            }
        }
    }

    fn release(&mut self, id: u64) -> Option<Held> {
        let held = self.holds.remove(&id)?;
        let parts = Parts::of(&held.amounts);
        self.for_accounts(held.payer, held.admitted_at, |account| account.held -= parts);
        Some(held)
    }

    fn spend(&mut self, sequence: i64, spent: Spent) {
        self.for_accounts(spent.payer, spent.admitted_at, |account| account.unsettled += spent.parts);
        self.unsettled.insert(sequence, spent);
    }

    /// Does something to the accounts that count a request: the same ones at its admission, at its end, and when one is
    /// opened between.
    fn for_accounts(&mut self, payer: Payer, admitted_at: Timestamp, mut act: impl FnMut(&mut Account)) {
        for subject in payer.subjects() {
            for id in self.by_subject.get(&subject).into_iter().flatten() {
                if let Some(account) = self.accounts.get_mut(id).filter(|account| admitted_at >= account.period_start) {
                    act(account);
                }
            }
        }
    }

    /// What is refused, if any budget has less left of anything than is asked: the first commodity there is too little of,
    /// and the budget with the least of it.
    fn refusal(&mut self, budgets: &[&BudgetEntry], ask: &Ask<'_>, asked: &Amounts) -> Option<BudgetRefused> {
        let wanted = Parts::of(asked);
        let book = &*self;
        let limits = || {
            budgets.iter().flat_map(|entry| {
                let left =
                    move |(commodity, limit)| Some((commodity, book.left(entry.id, commodity, limit)?, limit, *entry));
                entry.limits.iter().filter_map(left)
            })
        };
        let (commodity, left, limit, entry) = limits()
            .filter(|(commodity, left, ..)| wanted.at(*commodity) > *left)
            .min_by_key(|(commodity, left, _, entry)| (*commodity, *left, entry.id))?;
        let fits = |work: WorkBound| {
            ask.worst_case(work).is_ok_and(|amounts| {
                let parts = Parts::of(&amounts);
                limits().all(|(commodity, left, ..)| parts.at(commodity) <= left)
            })
        };
        let fits_max_tokens = rating::largest_that(ask.work, fits);
        let available = Parts::rounded_down(commodity, left.max(0));
        let has_share = self.accounts.get(&entry.id).is_some_and(|account| account.share.is_some());
        let (held, spent) = self.position(entry.id).unwrap_or_default();
        let spent = spent.of(commodity);
        // What others hold of it is not known one by one where there is a share.
        let elsewhere = limit.saturating_sub(spent).saturating_sub(available).max(0);
        Some(BudgetRefused {
            budget_id: entry.id,
            name: entry.name.clone(),
            subject: entry.subject,
            commodity,
            limit,
            spent,
            held: if has_share { elsewhere } else { held.of(commodity) },
            asked: asked.of(commodity),
            available,
            fits_max_tokens,
            resets_at: self.accounts.get(&entry.id).and_then(|account| account.period_end),
        })
    }
}

impl Account {
    /// Whether a request under a budget on `subject` counts here. A share is of the subject for which it was lent: a
    /// snapshot with another one may be heard before or after it.
    fn is_running(&self, at: Timestamp, subject: &BudgetSubject) -> bool {
        let counts = self.share.is_none() || self.subject == *subject;
        counts && self.period_end.is_none_or(|end| at < end)
    }

    fn left(&self, commodity: Commodity, limit: i64) -> i128 {
        match &self.share {
            Some(share) => share.at(commodity) - (self.unsettled + self.held).at(commodity),
            None => {
                let taken = self.settled + self.unsettled + self.held + self.lent;
                Parts::whole(commodity, limit) - taken.at(commodity)
            }
        }
    }
}

impl std::fmt::Display for BudgetRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |amount| self.commodity.text(amount);
        let (limit, spent, held, asked) = (text(self.limit), text(self.spent), text(self.held), text(self.asked));
        let (name, takes) = (&self.name, if self.commodity == Commodity::Money { "cost" } else { "take" });
        write!(
            f,
            "budget `{name}` has {limit}, of which {spent} are spent and {held} held; this request may {takes} {asked}"
        )
    }
}

const fn unmetered(commodity: Commodity) -> &'static str {
    match commodity {
        Commodity::Money => "money, and nothing says what requests to this endpoint cost",
        Commodity::Energy => "energy, and nothing says what requests to this endpoint use",
        Commodity::Carbon => "carbon, and nothing says what requests to this endpoint emit",
    }
}

fn micros_in_picos(micros: Micros) -> i128 {
    Parts::whole(Commodity::Money, micros.0)
}

#[cfg(test)]
mod tests;
