//! The publisher: gives the gateway a new view after each change that concerns it.
//!
//! Every change of a resource writes an event, so a new event tells that the snapshot is stale; a denied one changed
//! nothing, and strangers can make any number of those.
//! A commit without an event (a settlement) only moves the spending. INVARIANT: spending is published before the
//! snapshot that names its budgets, so that a budget is never known without what was spent under it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use galerne_core::budget;
use galerne_model::event::{Decision, Event};
use galerne_model::ids::BudgetId;
use galerne_model::money::{Amounts, Budget, BudgetStatus};
use galerne_model::snapshot::{PeriodSpending, Snapshot, Spending};
use galerne_store::{EventFilter, Reader, Store, StoreError, Tx};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::bill::Bill;
use crate::clock::Clock;
use crate::event::{Fact, about};
use crate::snapshot;

/// Longest time between two looks: other processes' commits, the turn of an hour on the grid.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Commits closer together than this become one publication.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Age after which a snapshot is made anew for the sake of the grid's intensity.
const REFRESH: Duration = Duration::from_secs(60);

/// How stale the spending in a budget's own status may be: one write per budget and this long, however busy it is.
const STATUS_STALE: Duration = Duration::from_secs(1);

pub(crate) struct Publisher {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) source: i64,
    pub(crate) bill: Arc<Bill>,
    pub(crate) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(crate) spending: watch::Sender<Arc<Spending>>,
    pub(crate) last: Published,
}

/// What the last snapshot was made of.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// The newest event looked at; what was allowed up to here is in the snapshot.
    event: Option<i64>,
    at: Option<Instant>,
    /// When the first budget period of the snapshot ends.
    period_end: Option<Timestamp>,
    statuses: Statuses,
}

/// What the statuses of budgets say was spent.
#[derive(Debug, Default)]
struct Statuses {
    seen: BTreeMap<BudgetId, Seen>,
    /// Of the budgets in the last snapshot.
    generations: BTreeMap<BudgetId, i64>,
    written_at: Option<Instant>,
    /// Some are stale and were written too short a time ago.
    are_behind: bool,
}

/// What a status was last written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    spent: Amounts,
    period_start: Timestamp,
    /// A changed limit or threshold may be reached by what was spent before.
    generation: i64,
}

impl Publisher {
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut changed = self.store.changed();
        let rate_changed = Arc::clone(&self.bill.rate_changed);
        let mut took = Duration::ZERO;
        loop {
            let until = Instant::now() + self.patience();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = rate_changed.notified() => self.last.at = None,
                // Not cancel-safe only in what it would report, and nobody asks for that.
                _ = timeout_at(until, changed.changed()) => {}
            }
            // On a site with very many budgets a view takes its time: at most half of a processor's is spent on views.
            sleep(DEBOUNCE.max(took)).await;
            changed.mark_unchanged();
            let begun = Instant::now();
            let published = self.publish().await;
            took = begun.elapsed();
            if let Err(error) = published {
                tracing::warn!(error = %error, "snapshot not published, the gateway keeps the last one");
                sleep(LOOK_AGAIN / 10).await;
            }
        }
    }

    /// Publishes what has changed.
    pub(crate) async fn publish(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut reader = self.store.reader().await?;
        let newest = newest(&mut reader, EventFilter::default()).await?;
        let spending = reader.spending(self.source, now).await?;
        let is_stale = self.has_news(&mut reader, newest).await?
            || self.last.at.is_none_or(|at| at.elapsed() >= REFRESH)
            || self.last.period_end.is_some_and(|end| end <= now);
        let rows = if is_stale { Some(snapshot::load(&mut reader, now).await?) } else { None };
        drop(reader);
        self.spending.send_if_modified(|known| {
            let differs = **known != spending;
            if differs {
                *known = Arc::new(spending);
            }
            differs
        });
        if let Some(rows) = rows {
            self.last.statuses.generations = rows.budget_generations();
            self.bill.meters.set(snapshot::metered(&rows, self.bill.node_id));
            let snapshot = snapshot::build(&rows, self.bill.energy_rate(now), &self.bill.zone, now);
            let period_end = snapshot.budgets.values().flatten().filter_map(|budget| budget.period_end).min();
            self.last.at = Some(Instant::now());
            self.last.period_end = period_end;
            self.snapshot.send_replace(Arc::new(snapshot));
        }
        self.last.event = newest;
        self.write_statuses(now).await
    }

    /// Whether something was allowed since the last look. Only events after it are read, so that refusals do not
    /// add up to a scan.
    async fn has_news(&self, reader: &mut Reader, seen: Option<i64>) -> Result<bool, StoreError> {
        if self.last.event == seen {
            return Ok(false);
        }
        let allowed =
            EventFilter { decision: Some(Decision::Allowed), after: self.last.event, ..EventFilter::default() };
        Ok(newest(reader, allowed).await?.is_some())
    }

    /// Writes what was spent into the statuses of budgets, for those who read them through the API, and tells which of
    /// their thresholds are newly reached.
    async fn write_statuses(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let spending = Arc::clone(&self.spending.borrow());
        let known = &mut self.last.statuses;
        known.seen.retain(|id, _| spending.spent.contains_key(id));
        let now_seen = |(id, period): (&BudgetId, &PeriodSpending)| {
            let generation = known.generations.get(id).copied().unwrap_or(0);
            (*id, Seen { spent: period.spent, period_start: period.period_start, generation })
        };
        let mut news: Vec<(BudgetId, Seen)> =
            spending.spent.iter().map(now_seen).filter(|(id, seen)| known.seen.get(id) != Some(seen)).collect();
        news.sort_unstable_by_key(|(id, _)| *id);
        known.are_behind = !news.is_empty() && known.written_at.is_some_and(|at| at.elapsed() < STATUS_STALE);
        if news.is_empty() || known.are_behind {
            return Ok(());
        }
        known.written_at = Some(Instant::now());
        let mut tx = self.store.begin().await?;
        for (id, seen) in &news {
            match write_status(&mut tx, *id, seen, now).await {
                // Deleted meanwhile: the next spending does not name it.
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        tx.commit().await?;
        self.last.statuses.seen.extend(news);
        Ok(())
    }

    /// How long nothing needs to be looked at.
    fn patience(&self) -> Duration {
        let longest = if self.last.statuses.are_behind { STATUS_STALE } else { LOOK_AGAIN };
        let to_period_end = self.last.period_end.map(|end| end.duration_since(self.clock.now()));
        let to_period_end = to_period_end.map(|left| Duration::try_from(left).unwrap_or(Duration::ZERO));
        to_period_end.map_or(longest, |left| left.min(longest))
    }
}

/// INVARIANT: what was told is in the status, written with the events that tell it: a threshold is told once, also when
/// this process ends between any two lines or another one writes the same.
async fn write_status(tx: &mut Tx, id: BudgetId, seen: &Seen, now: Timestamp) -> Result<(), StoreError> {
    let budget = tx.get::<Budget>(id).await?;
    let (alerts, alerted) =
        budget::alerts(&budget.spec, seen.period_start, &seen.spent, budget.status.alerted.as_ref());
    let status = BudgetStatus {
        spent_micros: seen.spent.micros,
        spent_millijoules: seen.spent.millijoules,
        spent_co2e_micrograms: seen.spent.co2e_micrograms,
        alerted,
    };
    tx.update_status::<Budget>(id, &status, now).await?;
    for alert in &alerts {
        tx.record(alert_event(&budget, alert, now));
    }
    Ok(())
}

fn alert_event(budget: &Budget, alert: &budget::Alert, now: Timestamp) -> Event {
    let budget::Alert { told, spent } = alert;
    let text = format!(
        "budget `{}` has reached {} % of its limit: {} of {} are spent; why: galerne why budget/{}",
        budget.name,
        told.percent,
        told.commodity.text(*spent),
        told.commodity.text(told.limit),
        budget.name
    );
    about(Fact { component: "budget", action: "budget.alert", text }, Some(budget), None, now)
}

async fn newest(reader: &mut Reader, filter: EventFilter) -> Result<Option<i64>, StoreError> {
    Ok(reader.events(&filter, 1).await?.first().map(|event| event.sequence))
}
