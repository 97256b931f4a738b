//! Budgets of which several gateways spend: requests wait shortly for what this gateway lacks (docs/decisions/0039).
//!
//! A gateway in a process of its own spends its shares and asks its control plane for more; the control plane's own gateway
//! has what is not lent, and asks the others to give back. Both wait in the same way.
//! INVARIANT: a share is spent only while [`share::is_in_force`]; what is given back is spent no more, heard or not.
//! Deliberately absent: how much is lent (`core::share`), messages (`link`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use galerne_api::gateways::{ITEMS_MAX, ShareAsk, ShareTold, Supply};
use galerne_core::budget::BudgetBook;
use galerne_core::share::{Call, Purse, Turn};
use galerne_model::ids::BudgetId;
use galerne_model::money::Amounts;
use galerne_model::snapshot::{PeriodSpending, Spending};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

/// Longest wait of a request for a share: another gateway hears within a second that it should give back, and answers.
const SHARE_WAIT: Duration = Duration::from_secs(4);
/// How long requests are refused without asking again, once nothing was left.
const EXHAUSTED_FOR: Duration = Duration::from_millis(500);

/// Whether shares are in force at this moment.
pub(crate) type InForce = Arc<dyn Fn() -> bool + Send + Sync>;

/// Where this gateway's budgets come from.
pub(crate) enum Role {
    /// It has shares.
    Borrows(InForce),
    /// It has what is not lent.
    Lends,
}

/// What is asked for, what was answered, who waits.
pub(crate) struct Shares {
    role: OnceLock<Role>,
    state: Mutex<State>,
    /// A request began to wait.
    lacking: Notify,
    /// Counts answers.
    answers: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<u64, Lack>,
    next: u64,
    purses: BTreeMap<BudgetId, Purse>,
    told: BTreeMap<BudgetId, Told>,
    recalled: BTreeSet<BudgetId>,
    /// Something was not recalled by the answer before the last one.
    is_newly_recalled: bool,
}

#[derive(Clone, Copy)]
struct Told {
    supply: Supply,
    at: Instant,
    /// Which answer it came with.
    answer: u64,
}

/// What a request waits for.
#[derive(Debug, Clone)]
pub(crate) struct Lack {
    /// Budgets of which this gateway has too little.
    pub(crate) budgets: Vec<BudgetId>,
    /// What the request would hold under each.
    pub(crate) amounts: Amounts,
}

/// How long a request has waited already.
pub(crate) struct Patience {
    until: Instant,
    /// Answers heard before it began to wait.
    since: u64,
}

/// What becomes of a request that cannot be held now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It waits for an answer.
    Waits,
    /// Nothing is left.
    Final,
    /// Others have not given back in time.
    Slow,
    /// The control plane did not answer in time.
    Away,
}

impl Default for Shares {
    fn default() -> Self {
        Self { role: OnceLock::new(), state: Mutex::default(), lacking: Notify::new(), answers: watch::Sender::new(0) }
    }
}

impl Shares {
    /// Said once; later calls change nothing.
    pub(crate) fn play(&self, role: Role) {
        self.role.get_or_init(|| role);
    }

    /// Whether this gateway may spend under budgets at this moment.
    pub(crate) fn are_in_force(&self) -> bool {
        match self.role.get() {
            Some(Role::Borrows(in_force)) => in_force(),
            Some(Role::Lends) | None => true,
        }
    }

    /// Whether requests may wait for a share of this budget.
    pub(crate) fn may_come(&self, book: &mut BudgetBook, id: BudgetId) -> bool {
        match self.role.get() {
            Some(Role::Borrows(_)) => true,
            Some(Role::Lends) => book.period(id).is_some_and(|period| period.lent != Amounts::default()),
            None => false,
        }
    }

    /// A request holds so much under these budgets.
    pub(crate) fn took(&self, budgets: impl Iterator<Item = BudgetId>, amounts: &Amounts) {
        if let Some(Role::Borrows(_)) = self.role.get() {
            let mut state = self.state();
            for id in budgets {
                state.purses.entry(id).or_default().took(amounts);
            }
        }
    }

    /// Whether a request that lacks of these budgets waits.
    pub(crate) fn verdict(&self, budgets: &[BudgetId], patience: Option<&Patience>) -> Verdict {
        let state = self.state();
        let is_exhausted = |id| {
            state.told.get(id).is_some_and(|told| {
                let is_new = match patience {
                    Some(waited) => told.answer > waited.since,
                    None => told.at.elapsed() < EXHAUSTED_FOR,
                };
                is_new && told.supply == Supply::Exhausted
            })
        };
        if budgets.iter().any(is_exhausted) {
            return Verdict::Final;
        }
        match patience {
            Some(Patience { until, since }) if *until <= Instant::now() => {
                if *self.answers.borrow() > *since {
                    Verdict::Slow
                } else {
                    Verdict::Away
                }
            }
            Some(_) | None => Verdict::Waits,
        }
    }

    /// Waits for the next answer.
    pub(crate) async fn wait(&self, lack: Lack, patience: &mut Option<Patience>) {
        let mut answers = self.answers.subscribe();
        let since = *answers.borrow_and_update();
        let until = patience.get_or_insert_with(|| Patience { until: Instant::now() + SHARE_WAIT, since }).until;
        let _place = Place::take(self, lack);
        // The sender is in `self`. That it is over is seen by the clock.
        drop(timeout_at(until, answers.changed()).await);
    }

    /// Ends when requests wait that nobody has asked for yet.
    pub(crate) async fn lacking(&self) {
        self.lacking.notified().await;
    }

    /// Budgets that requests wait for, with what all of them would hold.
    pub(crate) fn waiting(&self) -> BTreeMap<BudgetId, Amounts> {
        self.state().waiting()
    }

    /// What to ask for and to give back now.
    pub(crate) fn asks(&self, book: &mut BudgetBook, now_ms: u64) -> Vec<ShareAsk> {
        let mut state = self.state();
        let waiting = state.waiting();
        let State { purses, recalled, .. } = &mut *state;
        let known: BTreeSet<BudgetId> = purses.keys().chain(waiting.keys()).chain(recalled.iter()).copied().collect();
        let mut asks = Vec::new();
        for budget_id in known {
            let room = book.room(budget_id).unwrap_or_default();
            let waiting = waiting.get(&budget_id).copied().unwrap_or_default();
            let is_recalled = recalled.contains(&budget_id);
            let call = if is_recalled { Call::Recalled } else { Call::None };
            let purse = purses.entry(budget_id).or_default();
            let turn = purse.turn(&room, &waiting, call, now_ms);
            if purse.is_idle() && room == Amounts::default() {
                purses.remove(&budget_id);
            }
            if (is_recalled || turn != Turn::default()) && asks.len() < ITEMS_MAX {
                let Turn { give_back, need, spare } = turn;
                // What a lost report gave back is here again with the next answer: only then the recall is answered.
                let is_recalled = is_recalled && !book.has_given(budget_id);
                let give_back = book.give_back(budget_id, &give_back);
                asks.push(ShareAsk { budget_id, give_back, need, spare, is_recalled });
            }
        }
        asks
    }

    /// All that is free, for the end of the process.
    pub(crate) fn give_all_back(&self, book: &mut BudgetBook) -> Vec<ShareAsk> {
        let known: Vec<BudgetId> = self.state().told.keys().copied().collect();
        let nothing = Amounts::default();
        let ask = |budget_id| {
            let room = book.room(budget_id)?;
            let give_back = book.give_back(budget_id, &room);
            let ask = ShareAsk { budget_id, give_back, need: nothing, spare: nothing, is_recalled: false };
            (give_back != nothing).then_some(ask)
        };
        known.into_iter().filter_map(ask).take(ITEMS_MAX).collect()
    }

    /// Takes an answer over. Say so only once what is lent is in the books.
    pub(crate) fn heard(&self, told: impl Iterator<Item = (BudgetId, Supply, Called)>) {
        let answer = *self.answers.borrow() + 1;
        let mut state = self.state();
        state.told.clear();
        let before = std::mem::take(&mut state.recalled);
        for (id, supply, called) in told {
            state.told.insert(id, Told { supply, at: Instant::now(), answer });
            // A share that this process has not asked for is an earlier one's: it comes back when it is not used.
            if called != Called::Lender {
                state.purses.entry(id).or_default();
            }
            if called == Called::Recalled {
                state.recalled.insert(id);
            }
        }
        state.is_newly_recalled = !state.recalled.is_subset(&before);
        drop(state);
        self.answers.send_modify(|count| *count += 1);
    }

    /// Whether the control plane wants something back, and has not said so before.
    pub(crate) fn is_newly_recalled(&self) -> bool {
        self.state().is_newly_recalled
    }

    /// Whether requests wait.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves it whole, so a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What else an answer says of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    /// There is a share.
    Borrower,
    /// There is one, and it is wanted back as far as it is not used.
    Recalled,
    /// This gateway has what is not lent.
    Lender,
}

/// An answer as the books take it.
pub(crate) fn spending_of(settled_sequence: i64, shares: &[ShareTold]) -> Spending {
    let of = |told: &ShareTold| {
        let ShareTold { budget_id, subject, period_start, period_end, spent, share, .. } = *told;
        let lent = Amounts::default();
        (budget_id, PeriodSpending { subject, period_start, period_end, spent, lent, share: Some(share) })
    };
    Spending { settled_sequence, spent: shares.iter().map(of).collect(), ..Spending::default() }
}

impl State {
    fn waiting(&self) -> BTreeMap<BudgetId, Amounts> {
        let mut all: BTreeMap<BudgetId, Amounts> = BTreeMap::new();
        for lack in self.waiting.values() {
            for id in &lack.budgets {
                let sum = all.entry(*id).or_default();
                *sum = sum.saturating_add(lack.amounts);
            }
        }
        all
    }
}

/// A request that waits; it is forgotten when the request goes away.
struct Place<'a> {
    shares: &'a Shares,
    number: u64,
}

impl<'a> Place<'a> {
    fn take(shares: &'a Shares, lack: Lack) -> Self {
        let mut state = shares.state();
        let number = state.next;
        state.next += 1;
        state.waiting.insert(number, lack);
        drop(state);
        shares.lacking.notify_one();
        Self { shares, number }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shares.state().waiting.remove(&self.number);
    }
}
