//! What the server keeps going beside requests: usage to the ledger, refusals to the event log, wakes to the loops, energy
//! readings, housekeeping.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use galerne_control::EnergySample;
use galerne_control::clock::Clock;
use galerne_gateway::{Gateway, UsageBatch, Wake};
use galerne_model::event::Event;
use galerne_model::ids::ReadingId;
use galerne_model::limits::{DENIAL_WRITE_INTERVAL_MS, READING_INTERVAL_MS};
use galerne_store::{Store, StoreError};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Meter;
use crate::app::App;
use crate::http::refusal::chain;

/// Pause before a settlement that failed is tried again; doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Pause when trying again cannot help by itself: a person is told, and what they mend is seen within it.
const STUCK_RETRY: Duration = Duration::from_secs(60);
/// Energy readings kept while the database takes none: an hour of them. Past it the meter is left alone, so that the
/// next reading covers the rest.
const UNBOOKED_MAX: usize = 360;
/// How often last uses are written and old idempotency keys forgotten.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(60);

const SETTLED: &str = "galerne_ledger_settled_records";
const SETTLE_FAILURES: &str = "galerne_ledger_settle_failures";
const STUCK: &str = "galerne_ledger_stuck";
const READINGS: &str = "galerne_energy_readings";
const READING_JOULES: &str = "galerne_energy_read_joules";

/// For display: the exact sum is in the ledger. One reading is far below the four megajoules that fit.
type Joules = Counter<f64, AtomicU64>;

/// Metrics these loops move.
#[derive(Clone)]
pub(super) struct LoopMetrics {
    settled: Counter,
    settle_failures: Counter,
    stuck: Gauge,
    readings: Counter,
    joules: Joules,
}

impl LoopMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            settled: Counter::default(),
            settle_failures: Counter::default(),
            stuck: Gauge::default(),
            readings: Counter::default(),
            joules: Joules::default(),
        };
        registry.register(SETTLED, "Usage records the ledger took", metrics.settled.clone());
        registry.register(
            SETTLE_FAILURES,
            "Settlements that failed and were tried again",
            metrics.settle_failures.clone(),
        );
        registry.register(
            STUCK,
            "1 while the ledger refuses usage for good and a person must look",
            metrics.stuck.clone(),
        );
        registry.register(READINGS, "Energy readings booked", metrics.readings.clone());
        registry.register(READING_JOULES, "Energy booked from readings of this host", metrics.joules.clone());
        metrics
    }
}

/// What the loops work with.
pub(super) struct Work {
    pub(super) app: App,
    pub(super) control: galerne_control::Handle,
    pub(super) gateway: Gateway,
    pub(super) meter: Meter,
    pub(super) woken: mpsc::Receiver<Wake>,
    pub(super) used: mpsc::Receiver<UsageBatch>,
    pub(super) metrics: LoopMetrics,
    pub(super) clock: Clock,
}

/// Starts them.
pub(super) fn spawn(tasks: &TaskTracker, stop: &CancellationToken, work: Work) {
    let Work { app, control, gateway, meter, mut woken, used, metrics, clock } = work;
    let (waker, stopped) = (control.clone(), stop.clone());
    tasks.spawn(async move {
        // The gateway's ends of this channel and of `used` outlive the drain: `stop` is what ends their readers.
        while let Some(wake) = next(&mut woken, &stopped).await {
            waker.wake(wake.endpoint_id);
        }
    });
    tasks.spawn(record_denials(app.store().clone(), gateway, stop.clone()));
    tasks.spawn(settle(control.clone(), used, stop.clone(), metrics.clone()));
    tasks.spawn(read_energy(control, meter, stop.clone(), metrics));
    tasks.spawn(crate::batches::engine::run(app.clone(), tasks.clone(), stop.clone()));
    tasks.spawn(crate::files::keep::run(app.clone(), stop.clone()));
    tasks.spawn(crate::app::lending::recall_for_own_requests(app.clone(), stop.clone()));
    tasks.spawn(keep_house(app, clock, stop.clone()));
}

/// Every batch is settled before the next is taken, and acknowledged only once it is durable.
async fn settle(
    control: galerne_control::Handle,
    mut used: mpsc::Receiver<UsageBatch>,
    stop: CancellationToken,
    metrics: LoopMetrics,
) {
    while let Some(batch) = next(&mut used, &stop).await {
        let UsageBatch { records, ack } = batch;
        let count = records.len() as u64;
        let mut retry = Retry { pause: RETRY_MIN, is_told: false };
        let through = loop {
            match control.accept(records.clone()).await {
                Ok(through) => break Some(through),
                Err(error) => {
                    metrics.settle_failures.inc();
                    tokio::select! {
                        () = tokio::time::sleep(retry.after(&error, &metrics.stuck)) => {}
                        () = stop.cancelled() => break None,
                    }
                }
            }
        };
        metrics.stuck.set(0);
        // Without an answer the gateway keeps the records in its spool and sends them again.
        let Some(through) = through else { return };
        metrics.settled.inc_by(count);
        if ack.send(through).is_err() {
            tracing::debug!("the gateway ended before it heard that its usage is settled");
        }
    }
}

/// Writes what the gateway refused into the event log, and the rest of it at the end. While the database takes nothing the
/// gateway counts on, within its bounds.
async fn record_denials(store: Store, gateway: Gateway, stop: CancellationToken) {
    let mut unwritten = VecDeque::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(DENIAL_WRITE_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        if unwritten.is_empty() {
            unwritten.push_back(gateway.denials());
        }
        // One attempt: the next tick is the next one, and the end waits for none of them.
        let written = tokio::select! {
            written = write_batches(&store, &mut unwritten) => written,
            () = stop.cancelled() => break,
        };
        if let Err(error) = written {
            tracing::warn!(error = %chain(&error), waiting = count(&unwritten), "refusals are recorded later");
        }
    }
    // On its own: what was tried before may have been written, and this was not.
    unwritten.push_back(gateway.last_denials());
    if let Err(error) = write_batches(&store, &mut unwritten).await {
        tracing::error!(error = %chain(&error), count = count(&unwritten), "events of refusals are lost");
    }
}

fn count(batches: &VecDeque<Vec<Event>>) -> usize {
    batches.iter().map(Vec::len).sum()
}

/// Writes batches in order and takes away what is written. One that the database refuses for what it holds is written
/// event by event, and what is refused even so is left out: it would keep all later ones waiting for ever.
async fn write_batches(store: &Store, batches: &mut VecDeque<Vec<Event>>) -> Result<(), StoreError> {
    while let Some(batch) = batches.front() {
        match write_events(store, batch).await {
            Ok(()) => drop(batches.pop_front()),
            Err(error) if error.refuses_values() => {
                let mut batch = batches.pop_front().unwrap_or_default();
                if let [event] = &batch[..] {
                    let (event_id, action) = (event.id, &event.action);
                    tracing::error!(error = %chain(&error), %event_id, action, "the database refuses an event: it is left out");
                    continue;
                }
                while let Some(event) = batch.pop() {
                    batches.push_front(vec![event]);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes events, all of them or none, each once.
pub(crate) async fn write_events(store: &Store, events: &[Event]) -> Result<(), StoreError> {
    let Some(first) = events.first() else { return Ok(()) };
    let mut tx = store.begin().await?;
    // An earlier attempt may have been committed before its answer was lost.
    if tx.event(first.id).await?.is_none() {
        events.iter().for_each(|event| tx.record(event.clone()));
        tx.commit().await?;
    }
    Ok(())
}

/// Where the retries of one batch stand. They never end: a record that is given up is work nobody pays.
struct Retry {
    pause: Duration,
    is_told: bool,
}

impl Retry {
    /// Tells of a failure and says how long to wait after it.
    fn after(&mut self, error: &StoreError, stuck: &Gauge) -> Duration {
        let Some(hint) = way_out(error) else {
            stuck.set(0);
            tracing::warn!(error = %chain(error), "usage could not be settled and is tried again");
            let pause = self.pause;
            self.pause = (pause * 2).min(RETRY_MAX);
            return pause;
        };
        stuck.set(1);
        if !self.is_told {
            tracing::error!(error = %chain(error), hint, "the ledger refuses usage: it stays in the spool until this is mended");
            self.is_told = true;
        }
        STUCK_RETRY
    }
}

/// What a person can do about a settlement that the same attempt cannot mend; none when trying again may help.
const fn way_out(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Gap { .. } => Some(
            "the database is older than the spool, or spool files are missing: stop the server and restore the database or the files that belong together",
        ),
        StoreError::Forsaken { .. } => {
            Some("an operator has forsaken this server's own spool: move the spool folder away")
        }
        StoreError::BadRecord { .. } => Some(
            "a usage record of this spool cannot be booked: keep a copy of the spool folder and report this, with the sequence",
        ),
        StoreError::Corrupt(_) => Some("run `galerne ledger check`, then restore the newest backup"),
        StoreError::NewerSchema { .. } | StoreError::OldSchema { .. } => {
            Some("the database belongs to another version of Galerne: start that version")
        }
        StoreError::Busy(_)
        | StoreError::DiskFull(_)
        | StoreError::Database(_)
        | StoreError::File { .. }
        | StoreError::Backup(_)
        | StoreError::Conflict { .. }
        | StoreError::NotFound { .. }
        | StoreError::Exists { .. }
        | StoreError::Fenced { .. }
        | StoreError::Served { .. } => None,
    }
}

/// The next message; none once the channel has ended, or is empty and `stop` was asked.
async fn next<T>(channel: &mut mpsc::Receiver<T>, stop: &CancellationToken) -> Option<T> {
    tokio::select! {
        biased;
        message = channel.recv() => message,
        () = stop.cancelled() => None,
    }
}

async fn read_energy(control: galerne_control::Handle, meter: Meter, stop: CancellationToken, metrics: LoopMetrics) {
    let mut unbooked = VecDeque::new();
    let mut sample = meter.sample;
    let mut ticks = tokio::time::interval(Duration::from_millis(READING_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        let last = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        if unbooked.len() >= UNBOOKED_MAX && !last {
            book(&control, &mut unbooked, &metrics).await;
            continue;
        }
        // Counters are files and drivers: off the async threads.
        let taken = tokio::task::spawn_blocking(move || {
            let read = sample();
            (sample, read)
        });
        let read = match taken.await {
            Ok((again, read)) => {
                sample = again;
                read
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "the energy meter broke: no more readings");
                return;
            }
        };
        unbooked.push_back((ReadingId::from_uuid(Uuid::now_v7()), read));
        book(&control, &mut unbooked, &metrics).await;
        if last {
            if !unbooked.is_empty() {
                let millijoules: i64 = unbooked.iter().map(|(_, sample)| sample.millijoules.0).sum();
                tracing::error!(
                    count = unbooked.len(),
                    millijoules,
                    "energy readings are lost: the database took none"
                );
            }
            return;
        }
    }
}

/// Books samples, oldest first, until one cannot be booked now. Each keeps its id, so that none is booked twice.
async fn book(
    control: &galerne_control::Handle,
    unbooked: &mut VecDeque<(ReadingId, EnergySample)>,
    metrics: &LoopMetrics,
) {
    while let Some((id, sample)) = unbooked.front().copied() {
        match control.book_reading(id, sample).await {
            Ok(()) => {
                metrics.readings.inc();
                metrics.joules.inc_by(f64::from(u32::try_from(sample.millijoules.0).unwrap_or(u32::MAX)) / 1_000.0);
            }
            // A clock that was set back, or a broken meter: no later attempt can book this one, and others wait.
            Err(error @ StoreError::BadRecord { .. }) => {
                tracing::error!(error = %chain(&error), millijoules = sample.millijoules.0, "an energy reading is left out");
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), waiting = unbooked.len(), "an energy reading is booked later");
                return;
            }
        }
        unbooked.pop_front();
    }
}

async fn keep_house(app: App, clock: Clock, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = clock.now();
        if let Err(error) = app.directory().write_uses(app.store(), now).await {
            tracing::warn!(error = %chain(&error), "uses of keys could not be written");
        }
        if let Err(error) = app.store().prune(now).await {
            tracing::warn!(error = %chain(&error), "old idempotency keys could not be forgotten");
        }
    }
}

#[cfg(test)]
mod tests {
    use galerne_model::event::{Actor, Decision};
    use galerne_model::ids::EventId;
    use galerne_store::{EventFilter, StoreUrl};
    use jiff::Timestamp;
    use sqlx::Connection;

    use super::*;

    fn denial(text: &str) -> Event {
        Event {
            id: EventId::from_uuid(Uuid::now_v7()),
            sequence: 0,
            at: Timestamp::now(),
            actor: Actor::component("gateway"),
            action: "key.use".to_owned(),
            tenant_id: None,
            project_id: None,
            resource: None,
            decision: Decision::Denied,
            before_digest: None,
            after_digest: None,
            text: text.to_owned(),
        }
    }

    async fn texts(store: &Store) -> Vec<String> {
        let events = store.events_forward(&EventFilter::default(), 50).await.expect("lists");
        events.into_iter().map(|event| event.text).collect()
    }

    #[tokio::test]
    async fn an_event_that_is_refused_for_good_keeps_no_other_waiting() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.db");
        let store = Store::open(&StoreUrl::sqlite(&path)).await.expect("opens");
        let mut conn = sqlx::AnyConnection::connect(&format!("sqlite://{}", path.display())).await.expect("opens");
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON event WHEN NEW.text = 'bad' \
            BEGIN SELECT RAISE(ABORT, 'never'); END";
        sqlx::raw_sql(refuse).execute(&mut conn).await.expect("made");
        conn.close().await.expect("closes");
        let mut batches = VecDeque::from([vec![denial("a"), denial("bad"), denial("b")], vec![denial("c")]]);
        write_batches(&store, &mut batches).await.expect("the rest is taken");
        assert_eq!(texts(&store).await, ["a", "b", "c"]);
        assert_eq!(count(&batches), 0);
    }

    #[tokio::test]
    async fn what_was_written_unheard_is_not_written_again_and_hides_nothing_new() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&StoreUrl::sqlite(folder.path().join("x.db"))).await.expect("opens");
        let before = vec![denial("a"), denial("b")];
        // Its answer was lost: the batch is still among those that wait.
        write_events(&store, &before).await.expect("written");
        let mut batches = VecDeque::from([before, vec![denial("c")]]);
        write_batches(&store, &mut batches).await.expect("written");
        assert_eq!(texts(&store).await, ["a", "b", "c"]);
        store.close().await;
        let mut batches = VecDeque::from([vec![denial("d")]]);
        write_batches(&store, &mut batches).await.expect_err("the database is away");
        assert_eq!(count(&batches), 1, "it is kept");
    }

    #[test]
    fn a_record_refused_for_good_is_told_once_and_tried_slowly() {
        let stuck = Gauge::default();
        let mut retry = Retry { pause: RETRY_MIN, is_told: false };
        let gap = StoreError::Gap { spool: 1, expected: 2, got: 4 };
        assert_eq!((retry.after(&gap, &stuck), stuck.get(), retry.is_told), (STUCK_RETRY, 1, true));
        let bad = StoreError::BadRecord { sequence: 2, why: "negative".into() };
        assert_eq!((retry.after(&bad, &stuck), stuck.get()), (STUCK_RETRY, 1));
        let file = StoreError::File { path: "x".into(), error: std::io::Error::other("gone") };
        assert_eq!((retry.after(&file, &stuck), stuck.get()), (RETRY_MIN, 0), "this one may pass");
        assert_eq!(retry.after(&file, &stuck), RETRY_MIN * 2);
    }
}
