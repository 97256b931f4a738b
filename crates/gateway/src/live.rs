//! What the gateway is doing now, as operators look at it.
//!
//! Sampled, not counted anew: a task keeps a few past values of the counters, and whoever looks reads what is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use galerne_core::routing::{BreakerState, ReplicaSeen};
use galerne_model::ids::{EndpointId, ReplicaId};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::board::{Lately, Totals};
use crate::buckets::Counts;
use crate::config::Shared;

/// How often counters are kept.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// What was done in the last seconds, and how soon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveRates {
    /// Thousandths of requests that ended, per second.
    pub requests_milli: u64,
    /// Thousandths of prompt tokens per second, cached ones included.
    pub prompt_tokens_milli: u64,
    /// Of these, cached ones.
    pub cached_tokens_milli: u64,
    /// Thousandths of generated tokens per second.
    pub completion_tokens_milli: u64,
    /// Micros to the first token of half of the streams of the last minute; nothing without any.
    pub first_token_p50_micros: Option<u64>,
    /// The same of 99 in a hundred.
    pub first_token_p99_micros: Option<u64>,
}

/// A replica now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveReplica {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Whether it gets requests; those that had none are closed.
    pub breaker: BreakerState,
    /// How often its breaker has opened.
    pub opened: u64,
    /// Requests of this gateway in flight there.
    pub in_flight: u32,
    /// Requests of others, by its last report.
    pub others: u32,
    /// Requests that wait inside it, by its last report.
    pub waiting: u32,
    /// Thousandths of its KV cache in use, by its last report.
    pub kv_thousandths: Option<u32>,
    /// What it did lately.
    pub rates: LiveRates,
}

/// An endpoint now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEndpoint {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Requests admitted and not ended.
    pub in_flight: u32,
    /// Of these, the ones that wait for a replica to be ready.
    pub waiting: u32,
    /// Requests that wait for a seat and are not admitted.
    pub in_line: u32,
    /// What all its replicas did lately.
    pub rates: LiveRates,
    /// Its ready replicas.
    pub replicas: Vec<LiveReplica>,
}

/// Keeps past values of the counters until the gateway stops.
pub(crate) async fn sample(shared: Arc<Shared>) {
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stopped() => return,
            _ = ticks.tick() => shared.board.sample(Instant::now()),
        }
    }
}

/// Every endpoint that the gateway knows, in the order of their ids.
pub(crate) fn view(shared: &Shared) -> Vec<LiveEndpoint> {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let now = Instant::now();
    let seen: BTreeMap<ReplicaId, ReplicaSeen> =
        shared.replicas().seen(shared.now()).into_iter().map(|seen| (seen.replica_id, seen)).collect();
    let lately: BTreeMap<ReplicaId, Lately> =
        shared.board.cells().into_iter().map(|(id, cell)| (id, cell.lately(now))).collect();
    let mut endpoints: Vec<LiveEndpoint> = Vec::with_capacity(snapshot.endpoints.len());
    for endpoint in snapshot.endpoints.values() {
        let mut sum = Lately::default();
        let replicas = endpoint.replicas.iter().map(|replica| {
            let lately = lately.get(&replica.id).cloned().unwrap_or_default();
            sum.add(&lately);
            of_replica(replica.id, seen.get(&replica.id), &lately)
        });
        let replicas = replicas.collect();
        let activity = shared.activity.of(endpoint.id);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        endpoints.push(LiveEndpoint {
            endpoint_id: endpoint.id,
            in_flight: activity.map_or(0, |activity| number(activity.in_flight)),
            waiting: activity.map_or(0, |activity| number(activity.waiting)),
            in_line: number(shared.lines.in_line(endpoint.id)),
            rates: LiveRates::of(&sum),
            replicas,
        });
    }
    endpoints.sort_by_key(|endpoint| endpoint.endpoint_id);
    endpoints
}

fn of_replica(replica_id: ReplicaId, seen: Option<&ReplicaSeen>, lately: &Lately) -> LiveReplica {
    LiveReplica {
        replica_id,
        breaker: seen.map_or(BreakerState::Closed, |seen| seen.breaker),
        opened: seen.map_or(0, |seen| seen.opened),
        in_flight: seen.map_or(0, |seen| seen.in_flight),
        others: seen.map_or(0, |seen| seen.others),
        waiting: seen.map_or(0, |seen| seen.waiting),
        kv_thousandths: seen.and_then(|seen| seen.kv_thousandths),
        rates: LiveRates::of(lately),
    }
}

impl LiveRates {
    fn of(lately: &Lately) -> Self {
        let Lately { over, totals, first_token } = lately;
        let Totals { requests, prompt, cached, completion } = *totals;
        // Less than a part of a second says nothing yet.
        let millis = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(500);
        let rate = |count: u64| count.saturating_mul(1_000_000) / millis;
        let percentile = |counts: &Counts, percent| counts.percentile(percent);
        Self {
            requests_milli: rate(requests),
            prompt_tokens_milli: rate(prompt + cached),
            cached_tokens_milli: rate(cached),
            completion_tokens_milli: rate(completion),
            first_token_p50_micros: percentile(first_token, 50),
            first_token_p99_micros: percentile(first_token, 99),
        }
    }
}

impl Lately {
    fn add(&mut self, other: &Self) {
        self.over = self.over.max(other.over);
        self.totals.requests += other.totals.requests;
        self.totals.prompt += other.totals.prompt;
        self.totals.cached += other.totals.cached;
        self.totals.completion += other.totals.completion;
        self.first_token.add(&other.first_token);
    }
}
