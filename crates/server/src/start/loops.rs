//! What the server keeps going beside requests: usage to the ledger, wakes to the loops, energy readings, housekeeping.

use std::time::Duration;

use galerne_control::clock::Clock;
use galerne_gateway::{UsageBatch, Wake};
use galerne_model::limits::READING_INTERVAL_MS;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Meter;
use crate::app::App;
use crate::http::refusal::chain;

/// Pause before a settlement that failed is tried again; doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often last uses are written and old idempotency keys forgotten.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(60);

const SETTLED: &str = "galerne_ledger_settled_records";
const SETTLE_FAILURES: &str = "galerne_ledger_settle_failures";
const READINGS: &str = "galerne_energy_readings";
const READING_JOULES: &str = "galerne_energy_read_joules";

/// For display: the exact sum is in the ledger. One reading is far below the four megajoules that fit.
type Joules = Counter<f64, std::sync::atomic::AtomicU64>;

/// Counters these loops move.
pub(super) struct LoopMetrics {
    settled: Counter,
    settle_failures: Counter,
    readings: Counter,
    joules: Joules,
}

impl LoopMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            settled: Counter::default(),
            settle_failures: Counter::default(),
            readings: Counter::default(),
            joules: Joules::default(),
        };
        registry.register(SETTLED, "Usage records the ledger took", metrics.settled.clone());
        registry.register(
            SETTLE_FAILURES,
            "Settlements that failed and were tried again",
            metrics.settle_failures.clone(),
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
    pub(super) meter: Meter,
    pub(super) woken: mpsc::Receiver<Wake>,
    pub(super) used: mpsc::Receiver<UsageBatch>,
    pub(super) metrics: LoopMetrics,
    pub(super) clock: Clock,
}

/// Starts them.
pub(super) fn spawn(tasks: &TaskTracker, stop: &CancellationToken, work: Work) {
    let Work { app, control, meter, mut woken, used, metrics, clock } = work;
    let LoopMetrics { settled, settle_failures, readings, joules } = metrics;
    let (waker, stopped) = (control.clone(), stop.clone());
    tasks.spawn(async move {
        // The gateway's ends of this channel and of `used` outlive the drain: `stop` is what ends their readers.
        while let Some(wake) = next(&mut woken, &stopped).await {
            waker.wake(wake.endpoint_id);
        }
    });
    tasks.spawn(settle(control.clone(), used, stop.clone(), settled, settle_failures));
    tasks.spawn(read_energy(control, meter, stop.clone(), readings, joules));
    tasks.spawn(keep_house(app, clock, stop.clone()));
}

/// Every batch is settled before the next is taken, and acknowledged only once it is durable.
async fn settle(
    control: galerne_control::Handle,
    mut used: mpsc::Receiver<UsageBatch>,
    stop: CancellationToken,
    settled: Counter,
    failures: Counter,
) {
    while let Some(batch) = next(&mut used, &stop).await {
        let UsageBatch { records, ack } = batch;
        let count = records.len() as u64;
        let mut pause = RETRY_MIN;
        let through = loop {
            match control.accept(records.clone()).await {
                Ok(through) => break Some(through),
                Err(error) => {
                    failures.inc();
                    tracing::warn!(error = %chain(&error), "usage could not be settled and is tried again");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = stop.cancelled() => break None,
                    }
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        };
        // Without an answer the gateway keeps the records in its spool and sends them again.
        let Some(through) = through else { return };
        settled.inc_by(count);
        if ack.send(through).is_err() {
            tracing::debug!("the gateway ended before it heard that its usage is settled");
        }
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

async fn read_energy(
    control: galerne_control::Handle,
    meter: Meter,
    stop: CancellationToken,
    readings: Counter,
    joules: Joules,
) {
    let mut sample = meter.sample;
    let mut ticks = tokio::time::interval(Duration::from_millis(READING_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        let last = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
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
        let energy = read.millijoules.0;
        match control.book_reading(read).await {
            Ok(()) => {
                readings.inc();
                joules.inc_by(f64::from(u32::try_from(energy).unwrap_or(u32::MAX)) / 1_000.0);
            }
            Err(error) => tracing::error!(error = %chain(&error), "an energy reading could not be booked"),
        }
        if last {
            return;
        }
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
