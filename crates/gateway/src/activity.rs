//! Who is busy: requests per endpoint, in flight or waiting for a replica. The endpoint loop scales by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use galerne_model::ids::EndpointId;
use jiff::Timestamp;

/// What an endpoint is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointActivity {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Requests admitted and not ended; those waiting for a replica count.
    pub in_flight: usize,
    /// Of these, the ones that wait for a replica.
    pub waiting: usize,
    /// When the last request began or ended.
    pub last_request_at: Timestamp,
    /// None of those in flight began before this; absent when there are none. It lags behind by at most the time of the
    /// longest one.
    pub oldest_at: Option<Timestamp>,
    /// Of those in flight, the ones that this process made itself.
    pub errands: usize,
    /// When the last request that came in ended: those that this process made itself do not count.
    pub last_live_at: Option<Timestamp>,
}

/// Requests that began from a moment on, and have not ended.
#[derive(Debug, Clone, Copy)]
struct Era {
    since: Timestamp,
    count: usize,
}

/// Requests in flight in two eras: when the older one is empty the younger takes its place. So it is known since when
/// requests can have been in flight without a list of them.
#[derive(Debug)]
struct Entry {
    activity: EndpointActivity,
    older: Era,
    younger: Era,
    /// The number of the younger era; those of the older have the one before.
    number: u64,
}

impl Entry {
    fn begin(&mut self, now: Timestamp) -> u64 {
        if self.older.count == 0 {
            self.older = self.younger;
            self.younger = Era { since: now, count: 0 };
            self.number += 1;
        }
        // A clock that was set back.
        self.younger.since = self.younger.since.min(now);
        self.younger.count += 1;
        self.activity.in_flight += 1;
        self.number
    }

    fn end(&mut self, number: u64) {
        let era = if number == self.number { &mut self.younger } else { &mut self.older };
        era.count = era.count.saturating_sub(1);
        self.activity.in_flight = self.activity.in_flight.saturating_sub(1);
    }

    fn seen(&self) -> EndpointActivity {
        let eras = [self.older, self.younger];
        let oldest_at = eras.into_iter().filter(|era| era.count > 0).map(|era| era.since).min();
        EndpointActivity { oldest_at, ..self.activity }
    }
}

#[derive(Debug, Default)]
pub(crate) struct ActivityTable {
    endpoints: Mutex<BTreeMap<EndpointId, Entry>>,
}

impl ActivityTable {
    pub(crate) fn snapshot(&self) -> Vec<EndpointActivity> {
        self.lock().values().map(Entry::seen).collect()
    }

    pub(crate) fn of(&self, endpoint_id: EndpointId) -> Option<EndpointActivity> {
        self.lock().get(&endpoint_id).map(Entry::seen)
    }

    /// Counts a request from now to the drop of the guard.
    pub(crate) fn begin(self: &Arc<Self>, endpoint_id: EndpointId, now: Timestamp) -> Busy {
        let mut era = 0;
        self.change(endpoint_id, now, |entry| era = entry.begin(now));
        Busy { table: Arc::clone(self), endpoint_id, now, era, is_live: true }
    }

    /// Lets a request wait for a replica, unless `most` do.
    pub(crate) fn wait(self: &Arc<Self>, endpoint_id: EndpointId, now: Timestamp, most: usize) -> Option<Waiting> {
        let mut full = false;
        self.change(endpoint_id, now, |entry| {
            full = entry.activity.waiting >= most;
            entry.activity.waiting += usize::from(!full);
        });
        (!full).then(|| Waiting { table: Arc::clone(self), endpoint_id })
    }

    /// Forgets endpoints that are gone.
    pub(crate) fn keep_only(&self, known: impl Fn(EndpointId) -> bool) {
        self.lock().retain(|id, entry| entry.activity.in_flight > 0 || known(*id));
    }

    fn change(&self, endpoint_id: EndpointId, now: Timestamp, change: impl FnOnce(&mut Entry)) {
        let mut endpoints = self.lock();
        let entry = endpoints.entry(endpoint_id).or_insert_with(|| {
            let none = Era { since: now, count: 0 };
            let activity = EndpointActivity {
                endpoint_id,
                in_flight: 0,
                waiting: 0,
                last_request_at: now,
                oldest_at: None,
                errands: 0,
                last_live_at: None,
            };
            Entry { activity, older: none, younger: none, number: 0 }
        });
        entry.activity.last_request_at = entry.activity.last_request_at.max(now);
        change(entry);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Entry>> {
        // Counters stay whole whatever panics: every change is one assignment.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request in flight on an endpoint.
#[derive(Debug)]
pub(crate) struct Busy {
    table: Arc<ActivityTable>,
    endpoint_id: EndpointId,
    now: Timestamp,
    era: u64,
    is_live: bool,
}

impl Busy {
    /// This process made the request itself.
    pub(crate) fn is_errand(&mut self) {
        self.is_live = false;
        self.table.change(self.endpoint_id, self.now, |entry| entry.activity.errands += 1);
    }

    /// Says when the request ended, for `last_request_at`.
    pub(crate) fn end_at(&mut self, now: Timestamp) {
        self.now = now;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let live_at = self.is_live.then_some(self.now);
        self.table.change(self.endpoint_id, self.now, |entry| {
            entry.end(self.era);
            let activity = &mut entry.activity;
            activity.errands = activity.errands.saturating_sub(usize::from(!self.is_live));
            activity.last_live_at = activity.last_live_at.max(live_at);
        });
    }
}

/// One request that waits for a replica.
#[derive(Debug)]
pub(crate) struct Waiting {
    table: Arc<ActivityTable>,
    endpoint_id: EndpointId,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(entry) = self.table.lock().get_mut(&self.endpoint_id) {
            entry.activity.waiting = entry.activity.waiting.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_in_flight_never_began_before_the_oldest_time_told() {
        let table = Arc::new(ActivityTable::default());
        let endpoint_id = EndpointId::from_uuid(Uuid::nil());
        let at = |second| Timestamp::from_second(second).expect("in range");
        let oldest = || table.snapshot()[0].oldest_at;
        let mut living: Vec<(i64, Busy)> = Vec::new();
        for second in 0..400 {
            living.push((second, table.begin(endpoint_id, at(second))));
            if second % 3 == 0 || second % 7 == 0 {
                let first = usize::try_from(second % 5).expect("small").min(living.len() - 1);
                living.remove(first);
            }
            if second % 50 == 49 {
                living.clear();
                assert_eq!(oldest(), None);
            }
            if let Some(first) = living.iter().map(|(second, _)| *second).min() {
                let told = oldest().expect("some are in flight");
                assert!(told <= at(first), "{told} is after {first}");
            }
        }
        // It catches up when those it speaks of have ended.
        living.clear();
        let long = table.begin(endpoint_id, at(500));
        let short = table.begin(endpoint_id, at(600));
        drop(long);
        drop(table.begin(endpoint_id, at(601)));
        assert!(oldest().expect("one is in flight") >= at(500));
        drop(short);
        assert_eq!(oldest(), None);
    }
}
