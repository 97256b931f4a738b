//! Events on their way to the operator's own log: queued in the transaction that writes them, handed out in order.
//!
//! Each event of a site that forwards gets an item in the outbox. A receiver that is away for long does not fill the
//! database with copies: past [`FORWARD_BACKLOG_MAX`] no more items are made, and what is missing is read from the event
//! log, which keeps everything. INVARIANT: events are handed out without gaps, from the one after the last done.

use galerne_model::event::Event;
use jiff::Timestamp;
use sqlx::Row;

use crate::error::StoreError;
use crate::event::EventFilter;
use crate::outbox::OutboxItem;
use crate::store::{Store, Tx};

/// Kind of the items.
const KIND: &str = "event";
/// Items waiting at once: about 60 MB.
pub const FORWARD_BACKLOG_MAX: i64 = 100_000;

// From now on: what happened before somebody asked for it is in the event log only.
const BEGIN: &str = "INSERT INTO counter (name, value) SELECT 'event_forwarded', value FROM counter \
    WHERE name = 'event' ON CONFLICT (name) DO NOTHING";
const READ: &str = "SELECT value FROM counter WHERE name = 'event_forwarded'";
const MOVE: &str = "UPDATE counter SET value = $1 WHERE name = 'event_forwarded' AND value < $1";
const BACKLOG: &str = "SELECT e.value - f.value AS n FROM counter e CROSS JOIN counter f \
    WHERE e.name = 'event' AND f.name = 'event_forwarded'";
const DONE: &str = "DELETE FROM outbox WHERE id = $1 AND kind = 'event'";
const RELEASE: &str = "UPDATE outbox SET claimed_until = 0 WHERE id = $1 AND kind = 'event'";

/// Events handed out to be forwarded.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// In order, without gaps.
    pub events: Vec<Event>,
    /// Items of the outbox that were claimed for them, with the number of their event.
    items: Vec<(i64, i64)>,
}

impl Outgoing {
    /// Whether there is nothing to send and nothing to take away.
    pub const fn is_empty(&self) -> bool {
        self.events.is_empty() && self.items.is_empty()
    }
}

impl Store {
    /// From now on every event is queued to be forwarded; the first time, from the next event on.
    pub async fn forward_events(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(BEGIN).execute(tx.conn()).await?;
        tx.commit().await?;
        self.set_forwarding();
        Ok(())
    }

    /// Hands out the events that come next to the holder of `epoch`, until `until`.
    pub async fn forward_claim(
        &self,
        epoch: i64,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> Result<Outgoing, StoreError> {
        let claimed = self.outbox_claim(KIND, epoch, now, until, limit).await?;
        let through = self.forwarded_through().await?;
        let mut out = Outgoing::default();
        let (mut next, mut in_order) = (through + 1, true);
        for item in claimed {
            let event: Event = serde_json::from_value(item.payload)
                .map_err(|error| StoreError::Corrupt(format!("outbox item {} is no event: {error}", item.id)))?;
            out.items.push((event.sequence, item.id));
            in_order &= event.sequence <= next;
            // One that is done already is only taken away, and one behind a gap only given back.
            if in_order && event.sequence == next {
                next += 1;
                out.events.push(event);
            }
        }
        if out.events.is_empty() {
            // Nothing queued here, or not the next one: it was not queued, or a dead process still has it.
            let after = EventFilter { after: Some(through), ..EventFilter::default() };
            out.events = self.events_forward(&after, limit).await?;
        }
        Ok(out)
    }

    /// Marks everything up to event `through` as forwarded, and gives back what else was handed out. `epoch` is the
    /// lease's now: what was handed out before it changed hands may still be marked.
    pub async fn forward_done(&self, lease: &str, epoch: i64, out: &Outgoing, through: i64) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        tx.require_epoch(lease, epoch).await?;
        for (sequence, id) in &out.items {
            let sql = if *sequence <= through { DONE } else { RELEASE };
            sqlx::query(sql).bind(*id).execute(tx.conn()).await?;
        }
        sqlx::query(MOVE).bind(through).execute(tx.conn()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Events written and not forwarded.
    pub async fn forward_backlog(&self) -> Result<i64, StoreError> {
        let mut reader = self.read_once().await?;
        let row = sqlx::query(BACKLOG).fetch_optional(reader.conn()).await?;
        Ok(row.map(|row| row.try_get("n")).transpose()?.unwrap_or(0))
    }

    /// All events up to this one are forwarded.
    pub async fn forwarded_through(&self) -> Result<i64, StoreError> {
        let mut reader = self.read_once().await?;
        let row = sqlx::query(READ).fetch_optional(reader.conn()).await?;
        Ok(row.map(|row| row.try_get("value")).transpose()?.unwrap_or(0))
    }
}

/// Queues the events of a transaction; `last` is the number of the last one.
pub(crate) async fn enqueue(tx: &mut Tx, events: &[Event], last: i64) -> Result<(), StoreError> {
    let row = sqlx::query(READ).fetch_optional(tx.conn()).await?;
    let through: i64 = row.map(|row| row.try_get("value")).transpose()?.unwrap_or(0);
    let count = i64::try_from(events.len()).expect("events of one transaction fit in memory");
    for (event, sequence) in events.iter().zip(last - count + 1..) {
        if sequence - through > FORWARD_BACKLOG_MAX {
            return Ok(());
        }
        let event = Event { sequence, ..event.clone() };
        let payload = serde_json::to_value(&event)
            .map_err(|error| StoreError::Corrupt(format!("an event cannot be written as JSON: {error}")))?;
        let item = OutboxItem {
            kind: KIND.to_owned(),
            key: event.id.to_string(),
            payload,
            created_at: event.at,
            // Due at once and all alike, so that they are handed out in the order of their numbers.
            not_before: Timestamp::UNIX_EPOCH,
        };
        tx.enqueue(&item).await?;
    }
    Ok(())
}
