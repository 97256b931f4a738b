//! Lending of budgets to gateways in processes of their own, and giving back (docs/decisions/0039).
//!
//! Who lends reserves first, in this book, and then writes: what is written and not yet heard from the ledger is a
//! [`Promise`]. Who gives back spends it no more from that moment on, heard or not.

use galerne_model::ids::BudgetId;
use galerne_model::money::{Amounts, Commodity};
use galerne_model::snapshot::{BudgetEntry, PeriodSpending};
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules};
use jiff::Timestamp;

use super::parts::Parts;
use super::{BudgetBook, HoldError};
use crate::share;

/// What a gateway asks to be lent of a budget, besides what it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// Requests wait for it.
    pub need: Amounts,
    /// Requests that are likely to come would take it.
    pub spare: Amounts,
}

/// What is lent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loan {
    /// The period of the budget, and what is settled in it.
    pub period: PeriodSpending,
    /// How much; may be nothing.
    pub amounts: Amounts,
    /// It is less than what requests wait for.
    pub is_short: bool,
}

/// Lent to a gateway, and not yet in what the ledger says.
#[derive(Debug)]
pub(super) struct Promise {
    source: i64,
    budget_id: BudgetId,
    period_start: Timestamp,
    parts: Parts,
    /// The number of the change that wrote it, once it is known to be written.
    written: Option<i64>,
}

impl BudgetBook {
    /// Lends a gateway of what is left, and counts it from now on. `parties` are the gateways that may ask for some, this
    /// one's own included; `more_comes` says that others were asked to give back.
    ///
    /// [`BudgetBook::lent`] must follow, whatever became of it.
    pub fn lend(
        &mut self,
        source: i64,
        entry: &BudgetEntry,
        wish: &Wish,
        (parties, more_comes): (u32, bool),
        now: Timestamp,
    ) -> Result<Loan, HoldError> {
        let not_loaded = || HoldError::NotLoaded { name: entry.name.clone() };
        self.catch_up(entry.id);
        self.enter_periods(&[entry], now)?;
        let period = self.period(entry.id).ok_or_else(not_loaded)?;
        // A clock that jumped back: what is lent in the account's period is not in the news.
        if self.news.spent.get(&entry.id).is_none_or(|news| news.period_start != period.period_start) {
            return Err(not_loaded());
        }
        let is_short = entry.limits.iter().any(|(commodity, limit)| {
            let left = self.left(entry.id, commodity, limit).unwrap_or(0);
            Parts::whole(commodity, wish.need.of(commodity)) > left.max(0)
        });
        let mut amounts = Amounts::default();
        for (commodity, limit) in entry.limits.iter() {
            let left = self.left(entry.id, commodity, limit).unwrap_or(0);
            let left = Parts::rounded_down(commodity, left.max(0));
            let (need, spare) = (wish.need.of(commodity).max(0), wish.spare.of(commodity).max(0));
            // Part of what somebody needs helps nobody while the rest may come, to this one or to another.
            let lent = if is_short && more_comes { 0 } else { share::chunk(left, need, spare, parties) };
            put(&mut amounts, commodity, lent);
        }
        let parts = Parts::of(&amounts);
        if parts != Parts::default() {
            let (budget_id, period_start) = (entry.id, period.period_start);
            self.promises.push(Promise { source, budget_id, period_start, parts, written: None });
        }
        Ok(Loan { period, amounts, is_short })
    }

    /// All that was lent to `source` is written, by the change with this number or before it, or never will be.
    pub fn lent(&mut self, source: i64, number: i64) {
        for promise in self.promises.iter_mut().filter(|promise| promise.source == source) {
            promise.written.get_or_insert(number);
        }
        self.forget_promises();
    }

    /// Whether something was lent to `source` of which nobody knows whether it is written.
    pub fn is_in_doubt(&self, source: i64) -> bool {
        self.promises.iter().any(|promise| promise.source == source && promise.written.is_none())
    }

    /// The number of the last change of shares that the ledger's news contain.
    pub fn loans_heard(&self) -> i64 {
        self.news.loans
    }

    /// The running period of a budget, and what is settled in it.
    pub fn period(&mut self, id: BudgetId) -> Option<PeriodSpending> {
        self.catch_up(id);
        let account = self.accounts.get(&id)?;
        let (subject, period_start, period_end) = (account.subject, account.period_start, account.period_end);
        let (spent, lent) = (account.settled.rounded_up(), account.lent.rounded_up());
        Some(PeriodSpending { subject, period_start, period_end, spent, lent, share: None })
    }

    /// Whether more than the limit is spent, held or lent: it was lowered.
    pub fn is_over(&mut self, entry: &BudgetEntry) -> bool {
        self.catch_up(entry.id);
        let mut limits = entry.limits.iter();
        limits.any(|(commodity, limit)| self.left(entry.id, commodity, limit).is_some_and(|left| left < 0))
    }

    /// What is free of the share of a budget, rounded down, and nothing where more is taken than there is; absent where
    /// there is no share.
    pub fn room(&mut self, id: BudgetId) -> Option<Amounts> {
        self.catch_up(id);
        self.accounts.get(&id)?.share?;
        let mut room = Amounts::default();
        for commodity in Commodity::ALL {
            let left = self.left(id, commodity, 0)?;
            put(&mut room, commodity, Parts::rounded_down(commodity, left.max(0)));
        }
        Some(room)
    }

    /// Whether the running period of a budget is known.
    pub fn is_loaded(&mut self, entry: &BudgetEntry, now: Timestamp) -> bool {
        self.catch_up(entry.id);
        self.enter_periods(&[entry], now).is_ok()
    }

    /// How much must be lent before `asked` can be held under a budget.
    pub fn lacking(&mut self, entry: &BudgetEntry, asked: &Amounts) -> Amounts {
        self.catch_up(entry.id);
        let mut lacking = Amounts::default();
        for (commodity, limit) in entry.limits.iter() {
            let left = self.left(entry.id, commodity, limit).unwrap_or(0);
            let short = Parts::whole(commodity, asked.of(commodity)) - left;
            put(&mut lacking, commodity, Parts::whole_up(commodity, short.max(0)));
        }
        lacking
    }

    /// Gives back of the share of a budget, at most what is free: it is spent no more from now on, whether or not the
    /// control plane ever hears of it. What that says next replaces it.
    pub fn give_back(&mut self, id: BudgetId, amounts: &Amounts) -> Amounts {
        let Some(room) = self.room(id) else { return Amounts::default() };
        let mut given = Amounts::default();
        for commodity in Commodity::ALL {
            put(&mut given, commodity, amounts.of(commodity).clamp(0, room.of(commodity)));
        }
        *self.given.entry(id).or_default() += Parts::of(&given);
        given
    }

    /// Whether something was given back of which the control plane has not said that it has it: a report was lost, or its
    /// answer.
    pub fn has_given(&self, id: BudgetId) -> bool {
        self.given.get(&id).is_some_and(|given| *given != Parts::default())
    }

    /// What may still be held or lent of a commodity, in parts; below nothing when more than the limit is taken.
    pub(super) fn left(&self, id: BudgetId, commodity: Commodity, limit: i64) -> Option<i128> {
        let left = self.accounts.get(&id)?.left(commodity, limit);
        let given = self.given.get(&id).map_or(0, |given| given.at(commodity));
        Some(left - given - self.promised(id).at(commodity))
    }

    /// Lent in the running period, and not yet in what the ledger says.
    pub(super) fn promised(&self, id: BudgetId) -> Parts {
        if self.promises.is_empty() {
            return Parts::default();
        }
        let Some(start) = self.accounts.get(&id).map(|account| account.period_start) else { return Parts::default() };
        let counted = self.promises.iter().filter(|promise| promise.budget_id == id && promise.period_start >= start);
        counted.map(|promise| promise.parts).sum()
    }

    /// Those that the ledger's news contain; of a budget whose news are older than the promise, none.
    pub(super) fn forget_promises(&mut self) {
        let news = &self.news;
        self.promises.retain(|promise| {
            let is_heard = promise.written.is_some_and(|number| number <= news.loans);
            let of = news.spent.get(&promise.budget_id);
            !is_heard || of.is_some_and(|of| of.period_start < promise.period_start)
        });
    }
}

fn put(amounts: &mut Amounts, commodity: Commodity, amount: i64) {
    match commodity {
        Commodity::Money => amounts.micros = Micros(amount),
        Commodity::Energy => amounts.millijoules = Millijoules(amount),
        Commodity::Carbon => amounts.co2e_micrograms = MicrogramsCo2e(amount),
    }
}
