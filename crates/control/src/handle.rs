//! What the rest of the process says to the loops.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use galerne_model::ids::{EndpointId, ReadingId};
use galerne_model::ledger::{EnergyMethod, UsageRecord};
use galerne_model::units::Milliwatts;
use galerne_store::StoreError;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::bill::{Bill, EnergySample};
use crate::clock::Clock;
use crate::meters::{MeterTotals, ReadLocal};
use crate::weights::Weights;

/// What the gateway is doing on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Requests admitted and not ended, waiting ones among them.
    pub in_flight: u32,
    /// When the last one began or ended.
    pub last_request_at: Timestamp,
    /// None of those in flight began before this; absent when there are none.
    pub oldest_at: Option<Timestamp>,
}

/// Asks the gateway what it is doing.
pub type ActivityFeed = Arc<dyn Fn() -> Vec<Activity> + Send + Sync>;

/// Speaks to the running loops. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) demand: Arc<Demand>,
    pub(crate) bill: Arc<Bill>,
    pub(crate) clock: Clock,
    pub(crate) weights: Weights,
    pub(crate) local_meters: Arc<Mutex<Option<ReadLocal>>>,
}

impl Handle {
    /// An endpoint without a replica is wanted by a request.
    pub fn wake(&self, endpoint_id: EndpointId) {
        self.demand.wake(endpoint_id, self.clock.now());
    }

    /// Where to learn what the gateway is doing; it starts after the loops.
    pub fn set_activity(&self, feed: ActivityFeed) {
        *lock(&self.demand.feed) = Some(feed);
    }

    /// Settles usage records of this process's gateway in the ledger, each exactly once; returns the last sequence that
    /// is durable.
    pub async fn accept(&self, records: Vec<UsageRecord>) -> Result<i64, StoreError> {
        self.bill.accept(&records).await
    }

    /// The same for a gateway in a process of its own, whose spool has the number `source`.
    pub async fn accept_from(&self, source: i64, records: &[UsageRecord]) -> Result<i64, StoreError> {
        self.bill.accept_from(source, records).await
    }

    /// Books what the node's meters said over an interval. The id is the sample's own: the same again is booked once.
    pub async fn book_reading(&self, id: ReadingId, sample: EnergySample) -> Result<(), StoreError> {
        self.bill.book_reading(id, &sample).await
    }

    /// Removes weights that no model names any more, unless a download is at work or waits for its turn: then they go
    /// with the next call.
    pub async fn remove_unnamed_weights(&self) {
        self.weights.remove_unnamed().await;
    }

    /// How the counters of this host are read, for replicas whose meter they are.
    pub fn set_local_meters(&self, read: ReadLocal) {
        *lock(&self.local_meters) = Some(read);
    }

    /// What the meters of replicas have shown since this process began.
    pub fn meter_totals(&self) -> Vec<MeterTotals> {
        self.bill.meters.totals()
    }

    /// What a busy CPU of this node draws above idle, and how that is known.
    pub fn set_energy_rate(&self, active: Milliwatts, method: EnergyMethod) {
        self.bill.set_rate(active, method);
    }
}

/// Demand for endpoints: requests that wait for a replica, and what the gateway has in flight.
#[derive(Default)]
pub(crate) struct Demand {
    woken: Mutex<BTreeMap<EndpointId, Timestamp>>,
    feed: Mutex<Option<ActivityFeed>>,
    pub(crate) signal: Notify,
}

impl Demand {
    fn wake(&self, endpoint_id: EndpointId, now: Timestamp) {
        lock(&self.woken).insert(endpoint_id, now);
        self.signal.notify_one();
    }

    /// Requests in flight and the last sign of one, by endpoint.
    pub(crate) fn by_endpoint(&self) -> BTreeMap<EndpointId, (u32, Timestamp)> {
        let mut all: BTreeMap<EndpointId, (u32, Timestamp)> =
            lock(&self.woken).iter().map(|(id, at)| (*id, (0, *at))).collect();
        let feed = lock(&self.feed).clone();
        for activity in feed.map(|feed| feed()).unwrap_or_default() {
            let known = all.entry(activity.endpoint_id).or_insert((0, activity.last_request_at));
            *known = (activity.in_flight, known.1.max(activity.last_request_at));
        }
        all
    }

    /// When the oldest request in flight can have begun, by endpoint.
    pub(crate) fn oldest_by_endpoint(&self) -> BTreeMap<EndpointId, Timestamp> {
        let feed = lock(&self.feed).clone();
        let activities = feed.map(|feed| feed()).unwrap_or_default();
        activities.iter().filter_map(|activity| Some((activity.endpoint_id, activity.oldest_at?))).collect()
    }

    /// Forgets endpoints that are gone.
    pub(crate) fn keep_only(&self, known: impl Fn(&EndpointId) -> bool) {
        lock(&self.woken).retain(|id, _| known(id));
    }
}

/// Every change under these locks is one assignment, so that a panic elsewhere leaves them whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
