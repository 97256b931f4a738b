//! The bill loop's inputs: usage records from the gateway's spool, readings from the node's meters.
//!
//! INVARIANT: a record or reading is acknowledged only when it is durable; sent again it is counted once.

use std::sync::{Arc, Mutex};

use galerne_core::energy::apart::Apart;
use galerne_core::energy::{self, Counted};
use galerne_drivers::grid::{Grid, Scope};
use galerne_model::ids::{NodeId, ReadingId};
use galerne_model::ledger::{EnergyMethod, Reading, UsageRecord};
use galerne_model::snapshot::EnergyRate;
use galerne_model::units::{Millijoules, Milliwatts};
use galerne_store::{ReplicaReading, Store, StoreError};
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::handle::lock;
use crate::meters::MeterTable;

pub(crate) use uses::Uses;

mod uses;

/// What the meters of this node said over an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnergySample {
    /// Start of the interval.
    pub started_at: Timestamp,
    /// End of the interval.
    pub ended_at: Timestamp,
    /// Energy of the node in it.
    pub millijoules: Millijoules,
    /// How it was obtained.
    pub method: EnergyMethod,
    /// CPU time the node was busy in it, in microseconds.
    pub busy_cpu_micros: i64,
    /// Power of one busy CPU above idle, by the node's model.
    pub active: Milliwatts,
    /// What the counters of its processors said, where they could be read.
    pub counted: Option<Counted>,
}

/// Settles usage and books energy.
pub(crate) struct Bill {
    store: Store,
    source: i64,
    pub(crate) node_id: NodeId,
    pub(crate) zone: String,
    pue_thousandths: i64,
    grid: Grid,
    rate: Mutex<Rates>,
    /// Replicas with meters of their own.
    pub(crate) meters: MeterTable,
    /// Energy of this node that the meters of its replicas have booked, and its own reading has not left out yet.
    booked_apart: Mutex<Apart>,
    /// Last uses of keys, written by themselves: no acknowledgement waits for them.
    pub(crate) uses: Arc<Uses>,
    /// The energy rate changed by more than a sample differs from the next.
    pub(crate) rate_changed: Arc<Notify>,
}

type Rate = (Milliwatts, Option<EnergyMethod>);

/// The rate of requests.
#[derive(Debug)]
struct Rates {
    now: Rate,
    /// The last one that was worth a new snapshot.
    told: Rate,
}

/// A rate that differs by less than this waits for the next snapshot: counters give another one with each reading, a
/// snapshot reads every key and budget, and the ledger books what rates leave over in any case.
const NEWS_PERCENT: i64 = 5;

/// What [`Bill`] is made of.
pub(crate) struct BillInputs {
    pub(crate) store: Store,
    pub(crate) source: i64,
    pub(crate) node_id: NodeId,
    pub(crate) zone: String,
    pub(crate) pue_thousandths: i64,
    pub(crate) grid: Grid,
}

impl Bill {
    pub(crate) fn new(inputs: BillInputs) -> Self {
        let BillInputs { store, source, node_id, zone, pue_thousandths, grid } = inputs;
        let unknown = (Milliwatts::ZERO, None);
        let rate = Mutex::new(Rates { now: unknown, told: unknown });
        let uses = Arc::default();
        let (meters, booked_apart) = (MeterTable::default(), Mutex::default());
        let rate_changed = Arc::default();
        Self { store, source, node_id, zone, pue_thousandths, grid, rate, meters, booked_apart, uses, rate_changed }
    }

    pub(crate) async fn accept(&self, records: &[UsageRecord]) -> Result<i64, StoreError> {
        self.accept_from(self.source, records).await
    }

    pub(crate) async fn accept_from(&self, source: i64, records: &[UsageRecord]) -> Result<i64, StoreError> {
        let settled = self.store.settle_batch(source, records).await?;
        if settled.overruns > 0 {
            tracing::warn!(count = settled.overruns, "charges exceeded their holds, the provider bears the rest");
        }
        self.uses.note(records);
        // Those before were settled earlier.
        self.meters.settled(&records[records.len().saturating_sub(settled.settled)..]);
        Ok(settled.through)
    }

    /// Books a sample as the reading `id`; the same again is not booked twice.
    pub(crate) async fn book_reading(&self, id: ReadingId, sample: &EnergySample) -> Result<(), StoreError> {
        let signal = self.intensity(sample.ended_at);
        let apart = lock(&self.booked_apart).leave_out(id, sample.ended_at, sample.millijoules);
        let reading = Reading {
            id,
            node_id: self.node_id,
            replica_id: None,
            started_at: sample.started_at,
            ended_at: sample.ended_at,
            // What the meters of single replicas have booked is not booked again.
            millijoules: Millijoules(sample.millijoules.0 - apart.0),
            method: sample.method,
            busy_cpu_micros: sample.busy_cpu_micros,
            zone: self.zone.clone(),
            intensity_mg_per_kwh: signal.0,
            intensity_source: signal.1,
        };
        self.store.post_reading(&reading, self.pue_thousandths).await?;
        lock(&self.booked_apart).done(id);
        // From now on the rate of requests. Where processors are counted, by their counters; GPUs may still be estimated,
        // and then all of the reading is.
        match sample.counted.as_ref().and_then(energy::measured_rate) {
            Some(rate) => self.set_rate(rate, of_requests(sample.method)),
            None => self.set_rate(sample.active, of_the_model(sample.method)),
        }
        Ok(())
    }

    /// Books what the meter of one replica said, with the corrections of requests; the same again is not booked twice.
    pub(crate) async fn book_replica_reading(&self, reading: &ReplicaReading, is_here: bool) -> Result<(), StoreError> {
        self.store.post_replica_reading(reading, self.pue_thousandths).await?;
        if is_here {
            lock(&self.booked_apart).booked(reading.reading.millijoules);
        }
        Ok(())
    }

    pub(crate) fn set_rate(&self, active: Milliwatts, method: EnergyMethod) {
        let new = (active, Some(method));
        let mut rates = lock(&self.rate);
        rates.now = new;
        if is_news(rates.told, new) {
            rates.told = new;
            self.rate_changed.notify_one();
        }
    }

    /// Energy and carbon of CPU time now.
    pub(crate) fn energy_rate(&self, now: Timestamp) -> EnergyRate {
        let (active, method) = lock(&self.rate).now;
        let (intensity_mg_per_kwh, _) = self.intensity(now);
        EnergyRate { active, method, intensity_mg_per_kwh }
    }

    /// Intensity and its source in words. An unknown zone emits nothing that could be stated, and says so.
    pub(crate) fn intensity(&self, at: Timestamp) -> (i64, String) {
        match self.grid.intensity(&self.zone, at, Scope::Lifecycle) {
            Ok(signal) => (signal.mg_per_kwh, signal.words()),
            Err(error) => (0, format!("unknown: {error}")),
        }
    }
}

fn is_news(told: Rate, new: Rate) -> bool {
    let (was, is) = (told.0.0, new.0.0);
    told.1 != new.1 || is.abs_diff(was) > was.unsigned_abs().saturating_mul(NEWS_PERCENT.unsigned_abs()) / 100
}

/// Without counters of the processors a request's energy is the model's, whatever else of the node was measured.
fn of_the_model(method: EnergyMethod) -> EnergyMethod {
    match method {
        EnergyMethod::Measured | EnergyMethod::Apportioned | EnergyMethod::Estimated => EnergyMethod::Estimated,
        EnergyMethod::Unknown => EnergyMethod::Unknown,
    }
}

/// A request gets a share of what the node used: a share of a measured quantity is apportioned.
fn of_requests(method: EnergyMethod) -> EnergyMethod {
    match method {
        EnergyMethod::Measured | EnergyMethod::Apportioned => EnergyMethod::Apportioned,
        EnergyMethod::Estimated => EnergyMethod::Estimated,
        EnergyMethod::Unknown => EnergyMethod::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_news_when_its_method_or_more_than_the_noise_changes() {
        let rate = |active, method| (Milliwatts(active), Some(method));
        let told = rate(10_000, EnergyMethod::Apportioned);
        for same in [10_000, 10_499, 9_501] {
            assert!(!is_news(told, rate(same, EnergyMethod::Apportioned)), "{same}");
        }
        for other in [10_501, 9_499, 0] {
            assert!(is_news(told, rate(other, EnergyMethod::Apportioned)), "{other}");
        }
        assert!(is_news(told, rate(10_000, EnergyMethod::Estimated)));
        assert!(is_news((Milliwatts::ZERO, None), rate(1, EnergyMethod::Estimated)), "the first one");
        let zero = rate(0, EnergyMethod::Estimated);
        assert!(!is_news(zero, zero) && is_news(zero, rate(1, EnergyMethod::Estimated)));
    }
}
