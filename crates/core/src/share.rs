//! Shares of budgets: how much is lent at once, who gives back when, and for how long a share holds.
//!
//! The control plane keeps a budget's book and lends of it to gateways in processes of their own; each spends its share
//! without asking. A share is the gateway's until it gives it back or its usage is settled. INVARIANT: the control plane
//! takes nothing back by itself, because only the gateway's spool says what was spent: what is lent to a gateway that is
//! silent stays lent until its spool is shipped, or an operator forsakes it (docs/decisions/0039).
//! Deliberately absent: the arithmetic of shares ([`galerne_model::share`]), the books ([`crate::budget`]), messages.

use std::collections::BTreeMap;

use galerne_model::ids::BudgetId;
use galerne_model::money::{Amounts, Commodity};
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules};

/// How long a gateway spends of its shares after it sent the last report that was answered: long enough for an upgrade of
/// the control plane, short enough that an operator who forsakes a gateway need not wait long.
pub const TERM_MS: u64 = 5 * 60_000;
/// How much later the control plane takes a share for over than the gateway does. Clocks since boot differ by some
/// thousandths of a per cent; this is a tenth of the term.
pub const MARGIN_MS: u64 = TERM_MS / 10;
/// What is likely to be needed is measured over so long.
pub const BEAT_MS: u64 = 1_000;
/// A gateway asks for what so many beats like the busiest of late would take.
const BEATS_AHEAD: i64 = 8;
/// It asks before less than so many beats are left.
const BEATS_LOW: i64 = 4;
/// A share of which nothing was taken for so many beats is given back.
const BEATS_IDLE: u32 = 10;
/// Who gave back is not asked again for so long: two gateways that both lack do not empty each other without end.
const RECALL_PAUSE_MS: u64 = 1_000;

/// Whether a gateway may spend of its shares. `silence_ms` is the time since it sent the last report that was answered.
pub const fn is_in_force(silence_ms: u64) -> bool {
    silence_ms < TERM_MS
}

/// Whether it is certain that a gateway has stopped spending. `silence_ms` is the time since its last report was
/// answered, or since the control plane began when it does not know.
pub const fn is_over(silence_ms: u64) -> bool {
    silence_ms >= TERM_MS + MARGIN_MS
}

/// How much is lent of what is `left`: what is needed, and of what is likely to be needed at most half of an even part. So
/// shares become small as what is left does, and one gateway does not take what the others need.
pub fn chunk(left: i64, need: i64, spare: i64, parties: u32) -> i64 {
    if need >= left {
        return left.max(0);
    }
    let fair = left / (2 * i64::from(parties.max(1)));
    need + spare.min(fair - need).max(0)
}

/// What a gateway has of one budget: when to ask for more, when to give back.
#[derive(Debug, Clone, Default)]
pub struct Purse {
    /// Held by requests since the last beat.
    taken: Amounts,
    /// Held in a beat, lately: the most, halved with each beat.
    pace: Amounts,
    beat_at_ms: u64,
    idle_beats: u32,
}

/// What to say in the next report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    /// Spend this no more.
    pub give_back: Amounts,
    /// Requests wait for it.
    pub need: Amounts,
    /// It is likely to be needed.
    pub spare: Amounts,
}

/// Whether the control plane wants shares back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Somebody lacks what this gateway may not need, or the limit was lowered.
    Recalled,
    /// Nobody does.
    None,
}

impl Purse {
    /// A request took so much of the share.
    pub fn took(&mut self, amounts: &Amounts) {
        self.taken = self.taken.saturating_add(*amounts);
    }

    /// Decides. `room` is what is free of the share, `waiting` what requests would take that wait for it.
    pub fn turn(&mut self, room: &Amounts, waiting: &Amounts, call: Call, now_ms: u64) -> Turn {
        if now_ms.saturating_sub(self.beat_at_ms) >= BEAT_MS {
            let is_idle = self.taken == Amounts::default() && *waiting == Amounts::default();
            self.idle_beats = if is_idle { self.idle_beats.saturating_add(1) } else { 0 };
            self.pace = each(|of| (self.pace.of(of) / 2).max(self.taken.of(of)));
            self.taken = Amounts::default();
            self.beat_at_ms = now_ms;
        }
        if call == Call::Recalled {
            // Also what its own requests wait for: it asks for that anew, behind who asked before it.
            return Turn { give_back: *room, need: *waiting, spare: Amounts::default() };
        }
        let need = each(|of| (waiting.of(of) - room.of(of)).max(0));
        let pace = each(|of| self.pace.of(of).max(self.taken.of(of)));
        if need != Amounts::default() {
            let spare = each(|of| pace.of(of).max(waiting.of(of)).saturating_mul(BEATS_AHEAD));
            return Turn { need, spare, ..Turn::default() };
        }
        if self.idle_beats >= BEATS_IDLE {
            return Turn { give_back: *room, ..Turn::default() };
        }
        let is_low = Commodity::ALL.into_iter().any(|of| room.of(of) < pace.of(of).saturating_mul(BEATS_LOW));
        if !is_low {
            return Turn::default();
        }
        let spare = each(|of| (pace.of(of).saturating_mul(BEATS_AHEAD) - room.of(of)).max(0));
        Turn { spare, ..Turn::default() }
    }

    /// Whether nothing was taken for so long that the share is given back.
    pub fn is_idle(&self) -> bool {
        self.idle_beats >= BEATS_IDLE
    }
}

/// Who was asked to give back of which budget.
#[derive(Debug, Default)]
pub struct Recalls(BTreeMap<BudgetId, BTreeMap<i64, Recall>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recall {
    Asked,
    Answered { at_ms: u64 },
}

impl Recalls {
    /// Somebody lacks of a budget: all `holders` but itself are asked to give back what they do not use. Says whether one
    /// of them has not answered yet.
    pub fn call(&mut self, budget: BudgetId, asker: i64, holders: impl Iterator<Item = i64>, now_ms: u64) -> bool {
        let mut waits = false;
        for holder in holders.filter(|holder| *holder != asker) {
            let recall = self.0.entry(budget).or_default().entry(holder).or_insert(Recall::Asked);
            if let Recall::Answered { at_ms } = *recall
                && now_ms.saturating_sub(at_ms) >= RECALL_PAUSE_MS
            {
                *recall = Recall::Asked;
            }
            waits |= *recall == Recall::Asked;
        }
        waits
    }

    /// What a gateway is to be told: again with each answer, until it says that it has heard.
    pub fn asked_of(&self, holder: i64) -> impl Iterator<Item = BudgetId> + '_ {
        let is_asked = move |of: &BTreeMap<i64, Recall>| of.get(&holder) == Some(&Recall::Asked);
        self.0.iter().filter(move |(_, of)| is_asked(of)).map(|(budget, _)| *budget)
    }

    /// A gateway gave back what it did not use.
    pub fn answered(&mut self, budget: BudgetId, holder: i64, now_ms: u64) {
        if let Some(recall) = self.0.get_mut(&budget).and_then(|of| of.get_mut(&holder)) {
            *recall = Recall::Answered { at_ms: now_ms };
        }
    }

    /// Whether somebody lacks of a budget, or did a moment ago: nothing is lent for later then.
    pub fn is_contended(&self, budget: BudgetId) -> bool {
        self.0.contains_key(&budget)
    }

    /// Forgets what no longer matters: answers of some time ago, and whoever is not heard any more.
    pub fn forget(&mut self, is_heard: impl Fn(i64) -> bool, now_ms: u64) {
        for of in self.0.values_mut() {
            of.retain(|holder, recall| match *recall {
                Recall::Asked => is_heard(*holder),
                Recall::Answered { at_ms } => now_ms.saturating_sub(at_ms) < RECALL_PAUSE_MS,
            });
        }
        self.0.retain(|_, of| !of.is_empty());
    }
}

fn each(amount: impl Fn(Commodity) -> i64) -> Amounts {
    Amounts {
        micros: Micros(amount(Commodity::Money)),
        millijoules: Millijoules(amount(Commodity::Energy)),
        co2e_micrograms: MicrogramsCo2e(amount(Commodity::Carbon)),
    }
}

#[cfg(test)]
mod tests;
