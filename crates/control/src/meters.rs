//! The meter loop: replicas that have a meter of their own are read every second, what they used is shared among the requests
//! that worked on them, and records that were settled by an estimate are corrected.
//!
//! A slice of energy is shared once every request that can have worked in it is known: those in flight began later, and the
//! others had time to be shipped. `galerne_core::energy::account` decides; the store books reading and corrections in one
//! transaction. INVARIANT: what was shared is kept until it is booked.
//! What is in memory when the process is killed is not read again: requests then keep their estimate.
//! Deliberately absent: the counters of this host, which its agent reads.

mod read;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use galerne_core::energy::account::{Account, Shared};
use galerne_core::energy::meter::{Meters, Slice, Taken};
use galerne_core::energy::work::{self, Weights};
use galerne_model::ids::{EndpointId, ReadingId, ReplicaId};
use galerne_model::ledger::{EnergyMethod, Reading, UsageRecord};
use galerne_model::power::{PowerSource, Shows};
use galerne_model::units::Milliwatts;
use galerne_store::{Correction, ReplicaReading, StoreError};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::bill::Bill;
use crate::clock::Clock;
use crate::handle::{Demand, lock};

pub use read::ReadLocal;
pub(crate) use read::Reader;

/// How often meters are read: GPUs refresh their counters ten times a second, and a request takes seconds.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a record may take from its end to here, and a gateway in another process to say what it has in flight.
const ARRIVAL: SignedDuration = SignedDuration::from_millis(2_500);
/// Longest time between two readings of a replica in the ledger, and shortest where requests wait for theirs.
const BOOK_AFTER: Duration = Duration::from_secs(10);
const BOOK_SOON: Duration = Duration::from_secs(2);
/// How long a replica that is gone is remembered, for the records that are still to come.
const FORGET_AFTER: Duration = Duration::from_secs(180);
/// Readings of one replica kept while the database takes none.
const UNBOOKED_MAX: usize = 360;

/// A replica with a meter of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metered {
    pub(crate) replica_id: ReplicaId,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) source: PowerSource,
    pub(crate) weights: Weights,
    /// Where the weights come from, in a word.
    pub(crate) weighed: &'static str,
    /// Whether it runs on this node, whose own meter sees its energy too.
    pub(crate) is_here: bool,
}

/// What the meter of a replica has shown since this process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterTotals {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Whether its meter could be read when it was last looked at.
    pub is_read: bool,
    /// Energy shared out.
    pub microjoules: i64,
    /// Of that, what nobody worked in.
    pub idle_microjoules: i64,
    /// Power between its last two readings; absent before the second, and while it cannot be read.
    pub power: Option<Milliwatts>,
}

/// Everything known of metered replicas.
#[derive(Debug, Default)]
pub(crate) struct MeterTable {
    replicas: Mutex<BTreeMap<ReplicaId, State>>,
}

#[derive(Debug)]
struct State {
    metered: Metered,
    meters: Meters,
    /// Requests by spool and sequence of their record.
    account: Account<(i64, i64)>,
    unbooked: VecDeque<ReplicaReading>,
    is_first: bool,
    shared_at: Option<Instant>,
    gone_at: Option<Instant>,
    /// Why it could not be read when it was last looked at.
    problem: Option<String>,
    microjoules: i64,
    idle: i64,
    /// Between its last two readings.
    power: Option<Milliwatts>,
}

impl MeterTable {
    /// Takes over which replicas are metered.
    pub(crate) fn set(&self, metered: Vec<Metered>) {
        let mut replicas = lock(&self.replicas);
        for state in replicas.values_mut().filter(|state| state.gone_at.is_none()) {
            if !metered.iter().any(|metered| metered.replica_id == state.metered.replica_id) {
                state.gone_at = Some(Instant::now());
            }
        }
        for metered in metered {
            let state = replicas.entry(metered.replica_id).or_insert_with(|| State::new(metered.clone()));
            state.gone_at = None;
            if state.metered.source != metered.source {
                state.meters = Meters::default();
            }
            state.metered = metered;
        }
    }

    /// Requests that were settled just now.
    pub(crate) fn settled(&self, records: &[UsageRecord]) {
        if records.iter().all(|record| record.work.is_none()) {
            return;
        }
        let mut replicas = lock(&self.replicas);
        for record in records {
            let state = record.replica_id.and_then(|id| replicas.get_mut(&id));
            if let Some(state) = state
                && let Some(spans) = work::spans(record, state.metered.weights)
            {
                state.account.worked((record.source, record.sequence), spans);
            }
        }
    }

    /// What meters have shown, by replica.
    pub(crate) fn totals(&self) -> Vec<MeterTotals> {
        let replicas = lock(&self.replicas);
        let living = replicas.values().filter(|state| state.gone_at.is_none());
        living
            .map(|state| MeterTotals {
                replica_id: state.metered.replica_id,
                is_read: state.problem.is_none(),
                microjoules: state.microjoules,
                idle_microjoules: state.idle,
                power: state.power.filter(|_| state.problem.is_none()),
            })
            .collect()
    }
}

impl State {
    fn new(metered: Metered) -> Self {
        Self {
            metered,
            meters: Meters::default(),
            account: Account::default(),
            unbooked: VecDeque::new(),
            is_first: true,
            shared_at: None,
            gone_at: None,
            problem: None,
            microjoules: 0,
            idle: 0,
            power: None,
        }
    }

    fn tell(&mut self, problem: Option<String>) {
        let replica_id = self.metered.replica_id;
        let source = &self.metered.source;
        match &problem {
            Some(why) if self.problem.as_ref() != Some(why) => {
                tracing::warn!(%replica_id, %source, why, "the meter of a replica cannot be read: requests keep their estimate");
            }
            None if self.problem.is_some() => {
                tracing::info!(%replica_id, %source, "the meter of a replica is read again")
            }
            Some(_) | None => {}
        }
        self.problem = problem;
    }

    fn is_due(&self) -> bool {
        let wait = if self.account.waiting_requests() > 0 { BOOK_SOON } else { BOOK_AFTER };
        self.shared_at.is_none_or(|at| at.elapsed() >= wait) && self.unbooked.len() < UNBOOKED_MAX
    }

    fn is_over(&self) -> bool {
        let is_past = self.gone_at.is_some_and(|at| at.elapsed() > FORGET_AFTER);
        is_past && self.unbooked.is_empty()
    }

    fn how(&self) -> String {
        let Metered { source, weights, weighed, .. } = &self.metered;
        format!(
            "{source}; shared by tokens, prompt ones weigh {} and generated ones {} ({weighed})",
            weights.prefill, weights.decode
        )
    }
}

/// Mean power over a slice.
fn power_of(slice: &Slice) -> Option<Milliwatts> {
    let micros = slice.to_micros.checked_sub(slice.from_micros).filter(|micros| *micros > 0)?;
    // Microjoules in a microsecond are watts.
    slice.microjoules.checked_mul(1_000).map(|scaled| Milliwatts(scaled / micros))
}

/// The loop.
pub(crate) struct MeterLoop {
    pub(crate) bill: Arc<Bill>,
    pub(crate) demand: Arc<Demand>,
    pub(crate) clock: Clock,
    pub(crate) reader: Reader,
}

impl MeterLoop {
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let begun = Instant::now();
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_last = tokio::select! {
                _ = ticks.tick() => false,
                () = cancel.cancelled() => true,
            };
            self.look(begun).await;
            self.share(is_last);
            self.book().await;
            if is_last {
                return;
            }
        }
    }

    /// Reads every meter.
    async fn look(&self, begun: Instant) {
        let living: Vec<(ReplicaId, PowerSource)> = {
            let replicas = lock(&self.bill.meters.replicas);
            let living = replicas.values().filter(|state| state.gone_at.is_none());
            living.map(|state| (state.metered.replica_id, state.metered.source.clone())).collect()
        };
        if living.is_empty() {
            return;
        }
        for (replica_id, shown) in self.reader.read(living).await {
            // The moment of each look is its own: meters that answer late are read late.
            let (at, shown) = match shown {
                Ok((at, shown)) => (at, Ok(shown)),
                Err(why) => (Instant::now(), Err(why)),
            };
            let wall = self.clock.now().checked_sub(SignedDuration::try_from(at.elapsed()).unwrap_or_default());
            let wall = wall.unwrap_or_else(|_| self.clock.now());
            self.take(replica_id, wall, at.saturating_duration_since(begun), shown);
        }
    }

    fn take(&self, replica_id: ReplicaId, wall: Timestamp, steady: Duration, shown: Result<Vec<Shows>, String>) {
        let intensity = self.bill.intensity(wall).0;
        let mut replicas = lock(&self.bill.meters.replicas);
        let Some(state) = replicas.get_mut(&replica_id) else { return };
        let shown = match shown {
            Ok(shown) => shown,
            Err(why) => return state.tell(Some(why)),
        };
        state.tell(None);
        let steady = i64::try_from(steady.as_micros()).unwrap_or(i64::MAX);
        match state.meters.take(wall.as_microsecond(), steady, &shown) {
            Taken::Slice(slice) => {
                state.power = power_of(&slice);
                state.account.read(slice, intensity);
            }
            Taken::Begins(why) => {
                state.power = None;
                tracing::debug!(%replica_id, ?why, "the meter of a replica counts from here");
            }
            Taken::Late => {}
        }
    }

    /// Shares what can be shared.
    fn share(&self, is_last: bool) {
        let now = self.clock.now();
        let oldest = self.demand.oldest_by_endpoint();
        let mut replicas = lock(&self.bill.meters.replicas);
        for state in replicas.values_mut().filter(|state| is_last || state.is_due()) {
            let arrived = now.checked_sub(ARRIVAL).unwrap_or(now).as_microsecond();
            let in_flight = oldest.get(&state.metered.endpoint_id).map_or(i64::MAX, |at| at.as_microsecond());
            let until = if is_last { i64::MAX } else { arrived.min(in_flight) };
            while let Some(shared) = state.account.share(until) {
                state.microjoules = state.microjoules.saturating_add(shared.microjoules);
                state.idle = state.idle.saturating_add(shared.idle_microjoules);
                let reading = self.reading(state, &shared);
                state.is_first = false;
                state.shared_at = Some(Instant::now());
                state.unbooked.push_back(reading);
            }
        }
        replicas.retain(|_, state| !state.is_over());
    }

    fn reading(&self, state: &State, shared: &Shared<(i64, i64)>) -> ReplicaReading {
        let instant = |micros: i64| Timestamp::from_microsecond(micros).unwrap_or_else(|_| self.clock.now());
        let (started_at, ended_at) = (instant(shared.from_micros), instant(shared.to_micros));
        let method = |is_measured| if is_measured { EnergyMethod::Measured } else { EnergyMethod::Estimated };
        let (_, intensity_source) = self.bill.intensity(ended_at);
        let corrections = shared.ended.iter().filter(|ended| ended.metered_micros > 0).map(|ended| Correction {
            source: ended.key.0,
            sequence: ended.key.1,
            metered: (ended.millijoules, ended.carbon),
            worked_micros: ended.worked_micros,
            metered_micros: ended.metered_micros,
            // A share of what was measured; with a part that was not, an estimate.
            method: match ended.is_measured && ended.metered_micros >= ended.worked_micros {
                true => EnergyMethod::Apportioned,
                false => EnergyMethod::Estimated,
            },
        });
        ReplicaReading {
            reading: Reading {
                id: ReadingId::from_uuid(Uuid::now_v7()),
                node_id: self.bill.node_id,
                replica_id: Some(state.metered.replica_id),
                started_at,
                ended_at: ended_at.max(started_at),
                millijoules: shared.millijoules,
                method: method(shared.is_measured),
                busy_cpu_micros: 0,
                zone: self.bill.zone.clone(),
                intensity_mg_per_kwh: shared.intensity_mg_per_kwh,
                intensity_source,
            },
            how: state.how(),
            used: (shared.used, shared.used_carbon),
            is_first: state.is_first,
            corrections: corrections.collect(),
        }
    }

    /// Books what was shared, oldest first, until something cannot be booked now.
    async fn book(&self) {
        loop {
            let next = {
                let replicas = lock(&self.bill.meters.replicas);
                let waiting = replicas.iter().find_map(|(id, state)| Some((*id, state.unbooked.front()?.clone())));
                let is_here = |id: &ReplicaId| replicas.get(id).is_some_and(|state| state.metered.is_here);
                waiting.map(|(id, reading)| (id, is_here(&id), reading))
            };
            let Some((replica_id, is_here, reading)) = next else { return };
            match self.bill.book_replica_reading(&reading, is_here).await {
                Ok(()) => {}
                Err(error @ StoreError::BadRecord { .. }) => {
                    let millijoules = reading.reading.millijoules.0;
                    tracing::error!(error = %error, %replica_id, millijoules, "a replica's energy reading is left out");
                }
                Err(error) => {
                    tracing::warn!(error = %error, %replica_id, "a replica's energy reading is booked later");
                    return;
                }
            }
            if let Some(state) = lock(&self.bill.meters.replicas).get_mut(&replica_id) {
                state.unbooked.pop_front();
            }
        }
    }
}
