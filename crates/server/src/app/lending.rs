//! Lending of budgets to gateways in processes of their own: who gets how much, who gives back, what each is told.
//!
//! How much is `core::share`, the counting `core::budget`; what is lent is in the database before anybody is told.
//! INVARIANT: one report at a time, so that what a gateway gives back in one and has by the next are in that order.
//! INVARIANT: what is lent is counted in the book before it is written, and until the ledger's news contain it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use galerne_api::error::Code;
use galerne_api::gateways::{Report, Reported, SILENCE_MAX_MS, ShareAsk, ShareTold, Supply};
use galerne_core::budget::{BudgetBook, Wish};
use galerne_core::share::{self, Recalls};
use galerne_model::ids::BudgetId;
use galerne_model::money::{Amounts, Commodity};
use galerne_model::snapshot::{BudgetEntry, Snapshot};
use galerne_store::{ShareChange, SpoolShares};
use tokio_util::sync::CancellationToken;

use super::App;
use crate::http::refusal::Refusal;

/// How often requests of this process are told whether others may still give back what they lack.
const TELL_INTERVAL: Duration = Duration::from_millis(50);

/// What the control plane remembers of shares beside the database.
#[derive(Debug)]
pub(crate) struct Lending {
    /// Held by whoever changes shares.
    turn: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Known {
    recalls: Recalls,
    /// Spools that have a share, as far as their gateways reported since this process began.
    holders: BTreeMap<BudgetId, BTreeSet<i64>>,
    /// The last change of shares.
    number: i64,
}

/// What was decided on a report.
#[derive(Debug, Default)]
struct Decided {
    changes: Vec<ShareChange>,
    supplies: BTreeMap<BudgetId, Supply>,
    /// Something was lent of which nobody knows whether it is written.
    is_in_doubt: bool,
}

impl Default for Lending {
    fn default() -> Self {
        Self { turn: tokio::sync::Mutex::default(), known: Mutex::default(), began: Instant::now() }
    }
}

impl Lending {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change leaves it whole, so a panic elsewhere does no harm.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether gateways may not have said yet what they have.
    fn is_young(&self) -> bool {
        self.began.elapsed() < Duration::from_millis(SILENCE_MAX_MS)
    }
}

/// Takes a report over and answers it.
pub(crate) async fn report(app: &App, session: &str, report: Report) -> Result<Reported, Refusal> {
    let Report { number, busy, woken: _, shares: asks } = report;
    let lending = app.lending();
    let _turn = lending.turn.lock().await;
    let heard = app.fleet().report(session, number, busy).map_err(super::fleet::refused)?;
    if !heard.is_new {
        // What it gives back may have been lent again since, and what it is told would be old.
        return Err(Refusal::new(Code::InvalidValue, "a later report of this session was heard"));
    }
    let source = heard.source;
    let snapshot = app.snapshot().borrow().clone();
    // Those of the others may not have been told yet.
    let asks_early = lending.is_young() && !asks.is_empty();
    let own = if asks_early { app.store().shares_of(source).await? } else { SpoolShares::default() };
    let decided = decide(app, &snapshot, source, &asks, &own);
    let shares = if decided.changes.is_empty() && !decided.is_in_doubt {
        app.store().shares_of(source).await?
    } else {
        let written = app.store().change_shares(source, &decided.changes).await?;
        app.gateway().budgets(|book| book.lent(source, written.number));
        lending.known().number = written.number;
        written
    };
    Ok(answer(app, &snapshot, source, &decided, &shares))
}

/// The turn of whoever gives a gateway up: nothing is lent meanwhile.
pub(crate) struct Forsaking<'a> {
    lending: &'a Lending,
    source: i64,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

/// Waits for the turn to give a gateway up; refused while it may still spend of its shares.
pub(crate) async fn turn_to_forsake(app: &App, source: i64) -> Result<Forsaking<'_>, Refusal> {
    if source == app.gateway().source() {
        return Err(Refusal::new(Code::WrongState, "this is the server's own spool, which borrows nothing"));
    }
    let lending = app.lending();
    let turn = lending.turn.lock().await;
    // Nobody who was never heard by this process is known to be silent for longer than it runs.
    let silence = app.fleet().silence_of(source).unwrap_or_else(|| lending.began.elapsed());
    let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
    if !share::is_over(silence_ms) {
        let wait = Duration::from_millis((share::TERM_MS + share::MARGIN_MS).saturating_sub(silence_ms));
        let text = format!(
            "the gateway of spool {source} may still spend of its shares: it was heard, or this server began, {} s ago",
            silence.as_secs()
        );
        let hint = format!("stop the gateway if it still runs, and try again in {} s", wait.as_secs() + 1);
        return Err(Refusal::new(Code::WrongState, text).hint(hint));
    }
    Ok(Forsaking { lending, source, _turn: turn })
}

impl Forsaking<'_> {
    /// It is given up, by the change of shares with this number.
    pub(crate) fn done(self, number: i64) {
        let mut known = self.lending.known();
        known.number = number;
        for holders in known.holders.values_mut() {
            holders.remove(&self.source);
        }
    }
}

/// While requests of this process lack of what is lent: asks the others to give back, and tells the requests what came of it.
pub(crate) async fn recall_for_own_requests(app: App, stop: CancellationToken) {
    loop {
        let lacking = tokio::select! {
            () = stop.cancelled() => return,
            lacking = app.gateway().lacking() => lacking,
        };
        let supplies: Vec<(BudgetId, Supply)> = {
            let mut known = app.lending().known();
            let mut supply =
                |id: BudgetId| match may_come(&app, &mut known, id, app.gateway().source(), &Amounts::default()) {
                    true => (id, Supply::MayCome),
                    false => (id, Supply::Exhausted),
                };
            lacking.into_iter().map(&mut supply).collect()
        };
        app.gateway().tell_supply(&supplies);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TELL_INTERVAL) => {}
        }
    }
}

/// Asks all others that have a share of a budget to give back what they do not use. Says whether more of it may be free in a
/// moment.
fn may_come(app: &App, known: &mut Known, id: BudgetId, asker: i64, own: &Amounts) -> bool {
    let (lending, fleet) = (app.lending(), app.fleet());
    let now_ms = lending.now_ms();
    let holders = known.holders.get(&id).into_iter().flatten().copied().filter(|holder| fleet.is_heard(*holder));
    let waits = known.recalls.call(id, asker, holders, now_ms);
    let (is_behind, lent) = app.gateway().budgets(|book| {
        (book.loans_heard() < known.number, book.period(id).map_or_else(Amounts::default, |period| period.lent))
    });
    // One more is what rounding makes of the asker's own.
    let is_lent = Commodity::ALL.into_iter().any(|of| lent.of(of) - own.of(of) > 1);
    waits || is_behind || (lending.is_young() && is_lent)
}

fn decide(app: &App, snapshot: &Snapshot, source: i64, asks: &[ShareAsk], own: &SpoolShares) -> Decided {
    let mut decided = Decided::default();
    let mut known = app.lending().known();
    let now_ms = app.lending().now_ms();
    known.recalls.forget(|holder| app.fleet().is_heard(holder), now_ms);
    let entries = if asks.is_empty() { BTreeMap::new() } else { by_id(snapshot) };
    for ask in asks {
        let Some(entry) = entries.get(&ask.budget_id) else { continue };
        if ask.is_recalled {
            known.recalls.answered(entry.id, source, now_ms);
        }
        let of_budget = own.shares.iter().filter(|share| share.budget_id == entry.id);
        let own = of_budget.fold(Amounts::default(), |sum, share| sum.saturating_add(share.share.rounded_down()));
        let (supply, change) = decide_one(app, &mut known, (source, &own), entry, ask);
        decided.supplies.insert(entry.id, supply);
        decided.changes.extend(change);
    }
    decided.is_in_doubt = app.gateway().budgets(|book| book.is_in_doubt(source));
    decided
}

fn decide_one(
    app: &App,
    known: &mut Known,
    (source, own): (i64, &Amounts),
    entry: &BudgetEntry,
    ask: &ShareAsk,
) -> (Supply, Option<ShareChange>) {
    let nothing = Amounts::default();
    let gateway = app.gateway();
    // Another server may hold the lease of the database: then this one lends nothing.
    let may_lend = gateway.may_admit().is_ok();
    let Some(period) = gateway.budgets(|book| book.period(entry.id)) else { return (Supply::MayCome, None) };
    let mut change = ShareChange {
        budget_id: entry.id,
        subject: period.subject,
        period_start: period.period_start,
        give_back: ask.give_back,
        lend: nothing,
    };
    let mut supply = Supply::Given;
    if ask.need != nothing || ask.spare != nothing {
        let is_short = gateway.budgets(|book| book.lacking(entry, &ask.need) != nothing);
        let more_comes = is_short && may_come(app, known, entry.id, source, own);
        // What somebody lacks is not lent to another for later.
        let spare = if known.recalls.is_contended(entry.id) { nothing } else { ask.spare };
        let wish = Wish { need: ask.need, spare };
        let parties = u32::try_from(app.fleet().heard_count()).unwrap_or(u32::MAX).saturating_add(1);
        let lend = |book: &mut BudgetBook| book.lend(source, entry, &wish, (parties, more_comes), App::now());
        let loan = may_lend.then(|| gateway.budgets(lend).ok()).flatten();
        supply = match &loan {
            Some(loan) if !loan.is_short => Supply::Given,
            Some(_) if !more_comes => Supply::Exhausted,
            Some(_) | None => Supply::MayCome,
        };
        change.lend = loan.map_or(nothing, |loan| loan.amounts);
    }
    let is_change = change.give_back != nothing || change.lend != nothing;
    (supply, is_change.then_some(change))
}

fn answer(app: &App, snapshot: &Snapshot, source: i64, decided: &Decided, shares: &SpoolShares) -> Reported {
    let settled_sequence = shares.settled_sequence;
    if shares.shares.is_empty() && decided.supplies.is_empty() {
        for holders in app.lending().known().holders.values_mut() {
            holders.remove(&source);
        }
        return Reported { settled_sequence, shares: Vec::new() };
    }
    let entries = by_id(snapshot);
    let mut known = app.lending().known();
    let recalled: BTreeSet<BudgetId> = known.recalls.asked_of(source).collect();
    let mut told: BTreeMap<BudgetId, ShareTold> = BTreeMap::new();
    app.gateway().budgets(|book| {
        let lent = shares.shares.iter().map(|share| share.budget_id);
        for id in lent.chain(decided.supplies.keys().copied()).collect::<BTreeSet<_>>() {
            let (Some(entry), Some(period)) = (entries.get(&id), book.period(id)) else { continue };
            let mut of = shares.shares.iter().filter(|share| share.budget_id == id);
            let share = of.find(|share| share.is_of(&period.subject, period.period_start));
            let share = share.map_or_else(Amounts::default, |share| share.share.rounded_down());
            let has_some = share != Amounts::default();
            let one = ShareTold {
                budget_id: id,
                subject: period.subject,
                period_start: period.period_start,
                period_end: period.period_end,
                spent: period.spent,
                share,
                is_recalled: has_some && (recalled.contains(&id) || book.is_over(entry)),
                supply: decided.supplies.get(&id).copied().unwrap_or(Supply::Given),
            };
            if !has_some {
                known.recalls.answered(id, source, app.lending().now_ms());
            }
            told.insert(id, one);
        }
    });
    for (id, holders) in &mut known.holders {
        if !told.get(id).is_some_and(|told| told.share != Amounts::default()) {
            holders.remove(&source);
        }
    }
    for one in told.values().filter(|one| one.share != Amounts::default()) {
        known.holders.entry(one.budget_id).or_default().insert(source);
    }
    known.holders.retain(|_, holders| !holders.is_empty());
    Reported { settled_sequence, shares: told.into_values().collect() }
}

fn by_id(snapshot: &Snapshot) -> BTreeMap<BudgetId, &BudgetEntry> {
    snapshot.budgets.values().flatten().map(|entry| (entry.id, entry)).collect()
}
