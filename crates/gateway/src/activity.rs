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
}

#[derive(Debug, Default)]
pub(crate) struct ActivityTable {
    endpoints: Mutex<BTreeMap<EndpointId, EndpointActivity>>,
}

impl ActivityTable {
    pub(crate) fn snapshot(&self) -> Vec<EndpointActivity> {
        self.lock().values().copied().collect()
    }

    /// Counts a request from now to the drop of the guard.
    pub(crate) fn begin(self: &Arc<Self>, endpoint_id: EndpointId, now: Timestamp) -> Busy {
        self.change(endpoint_id, now, |activity| activity.in_flight += 1);
        Busy { table: Arc::clone(self), endpoint_id, now }
    }

    /// Lets a request wait for a replica, unless `most` do.
    pub(crate) fn wait(self: &Arc<Self>, endpoint_id: EndpointId, now: Timestamp, most: usize) -> Option<Waiting> {
        let mut full = false;
        self.change(endpoint_id, now, |activity| {
            full = activity.waiting >= most;
            activity.waiting += usize::from(!full);
        });
        (!full).then(|| Waiting { table: Arc::clone(self), endpoint_id })
    }

    /// Forgets endpoints that are gone.
    pub(crate) fn keep_only(&self, known: impl Fn(EndpointId) -> bool) {
        self.lock().retain(|id, activity| activity.in_flight > 0 || known(*id));
    }

    fn change(&self, endpoint_id: EndpointId, now: Timestamp, change: impl FnOnce(&mut EndpointActivity)) {
        let mut endpoints = self.lock();
        let idle = EndpointActivity { endpoint_id, in_flight: 0, waiting: 0, last_request_at: now };
        let activity = endpoints.entry(endpoint_id).or_insert(idle);
        activity.last_request_at = activity.last_request_at.max(now);
        change(activity);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, EndpointActivity>> {
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
}

impl Busy {
    /// Says when the request ended, for `last_request_at`.
    pub(crate) fn end_at(&mut self, now: Timestamp) {
        self.now = now;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.table
            .change(self.endpoint_id, self.now, |activity| activity.in_flight = activity.in_flight.saturating_sub(1));
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
        if let Some(activity) = self.table.lock().get_mut(&self.endpoint_id) {
            activity.waiting = activity.waiting.saturating_sub(1);
        }
    }
}
