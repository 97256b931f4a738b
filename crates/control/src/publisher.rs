//! The publisher: gives the gateway a new view after each change that concerns it.
//!
//! Every change of a resource writes an event, so the newest event's number tells whether the snapshot is stale.
//! A commit without an event (a settlement) only moves the spending. INVARIANT: spending is published before the
//! snapshot that names its budgets, so that a budget is never known without what was spent under it.

use std::sync::Arc;
use std::time::Duration;

use galerne_model::snapshot::{Snapshot, Spending};
use galerne_store::{EventFilter, Store, StoreError};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::bill::Bill;
use crate::clock::Clock;
use crate::snapshot;

/// Longest time between two looks: other processes' commits, the turn of an hour on the grid.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Commits closer together than this become one publication.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Age after which a snapshot is made anew for the sake of the grid's intensity.
const REFRESH: Duration = Duration::from_secs(60);

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
    version: u64,
    event: Option<i64>,
    at: Option<Instant>,
    /// When the first budget period of the snapshot ends.
    period_end: Option<Timestamp>,
}

impl Publisher {
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut changed = self.store.changed();
        let rate_changed = Arc::clone(&self.bill.rate_changed);
        loop {
            let until = Instant::now() + self.patience();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = rate_changed.notified() => self.last.at = None,
                // Not cancel-safe only in what it would report, and nobody asks for that.
                _ = timeout_at(until, changed.changed()) => {}
            }
            sleep(DEBOUNCE).await;
            changed.mark_unchanged();
            if let Err(error) = self.publish().await {
                tracing::warn!(error = %error, "snapshot not published, the gateway keeps the last one");
                sleep(LOOK_AGAIN / 10).await;
            }
        }
    }

    /// Publishes what has changed.
    pub(crate) async fn publish(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut reader = self.store.reader().await?;
        let newest = reader.events(&EventFilter::default(), 1).await?.first().map(|event| event.sequence);
        let spending = reader.spending(self.source, now).await?;
        let is_stale = self.last.event != newest
            || self.last.at.is_none_or(|at| at.elapsed() >= REFRESH)
            || self.last.period_end.is_some_and(|end| end <= now);
        let rows = if is_stale { Some(snapshot::load(&mut reader).await?) } else { None };
        drop(reader);
        self.spending.send_if_modified(|known| {
            let differs = **known != spending;
            if differs {
                *known = Arc::new(spending);
            }
            differs
        });
        if let Some(rows) = rows {
            let version = self.last.version + 1;
            let snapshot = snapshot::build(&rows, self.bill.energy_rate(now), version, now);
            let period_end = snapshot.budgets.iter().filter_map(|budget| budget.period_end).min();
            self.last = Published { version, event: newest, at: Some(Instant::now()), period_end };
            self.snapshot.send_replace(Arc::new(snapshot));
        }
        Ok(())
    }

    /// How long nothing needs to be looked at.
    fn patience(&self) -> Duration {
        let to_period_end = self.last.period_end.map(|end| end.duration_since(self.clock.now()));
        let to_period_end = to_period_end.map(|left| Duration::try_from(left).unwrap_or(Duration::ZERO));
        to_period_end.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN))
    }
}
