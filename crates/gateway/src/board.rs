//! What is counted of each replica: plain atomics, looked up once per attempt, added to at its end.
//!
//! Beside the counters, a few of their past values: what the live view tells of the last seconds and of the last minute.
//! INVARIANT: nothing is counted per token, and no lock is held while anything is counted.
//! INVARIANT: memory is bounded by the replicas that are ready; those that are gone are forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use galerne_core::routing::Ending;
use galerne_model::ids::{EndpointId, ReplicaId};
use tokio::time::Instant;

use crate::buckets::{Buckets, Counts};
use crate::meter::Counted;

/// Seconds over which rates are told.
pub(crate) const RATE_SECONDS: usize = 10;
/// Times to the first token are told over this many parts of a minute.
const PARTS: usize = 12;
/// Samples in a part.
const PART_SECONDS: u64 = 5;

/// How an attempt at a replica failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureClass {
    Connect,
    Broken,
    TimedOut,
    ServerError,
    Busy,
}

impl FailureClass {
    pub(crate) const ALL: [Self; 5] = [Self::Connect, Self::Broken, Self::TimedOut, Self::ServerError, Self::Busy];

    /// The class of an ending; nothing where the replica did not fail.
    pub(crate) fn of(ending: Ending) -> Option<Self> {
        match ending {
            Ending::ConnectFailed => Some(Self::Connect),
            Ending::Broken => Some(Self::Broken),
            Ending::TimedOut => Some(Self::TimedOut),
            Ending::ServerError(_) => Some(Self::ServerError),
            Ending::Busy => Some(Self::Busy),
            Ending::Answered | Ending::Cancelled => None,
        }
    }

    /// As series and logs name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::ServerError => "server_error",
            Self::Busy => "busy",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// Counters of one replica.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) first_token: Buckets,
    pub(crate) output_token: Buckets,
    pub(crate) upstream: Buckets,
    requests: AtomicU64,
    prompt: AtomicU64,
    cached: AtomicU64,
    completion: AtomicU64,
    failures: [AtomicU64; FailureClass::ALL.len()],
    past: Mutex<Past>,
}

/// Counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    /// Tokens of prompts, cached ones not included.
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
    pub(crate) completion: u64,
}

#[derive(Debug, Default)]
struct Past {
    samples: u64,
    totals: VecDeque<(Instant, Totals)>,
    first_token: VecDeque<Counts>,
}

/// What a replica did lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lately {
    /// Over which time the totals were counted.
    pub(crate) over: Duration,
    pub(crate) totals: Totals,
    /// Times to the first token in the last minute.
    pub(crate) first_token: Counts,
}

/// The counters of all replicas.
#[derive(Debug, Default)]
pub(crate) struct Board(RwLock<BTreeMap<ReplicaId, Arc<Cell>>>);

/// What a request had of a replica.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Had {
    pub(crate) counted: Counted,
    /// From the asking to the end.
    pub(crate) upstream: Duration,
    /// From admission to the first content, and from there to the end; only of streams that were answered whole.
    pub(crate) stream: Option<(Duration, Duration)>,
}

impl Board {
    /// The counters of a replica.
    pub(crate) fn cell(&self, endpoint_id: EndpointId, replica_id: ReplicaId) -> Arc<Cell> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&replica_id).map(Arc::clone);
        known.unwrap_or_else(|| {
            let mut cells = self.0.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cells.entry(replica_id).or_insert_with(|| Arc::new(Cell::new(endpoint_id))))
        })
    }

    /// All of them, in the order of their ids.
    pub(crate) fn cells(&self) -> Vec<(ReplicaId, Arc<Cell>)> {
        let cells = self.0.read().unwrap_or_else(PoisonError::into_inner);
        cells.iter().map(|(id, cell)| (*id, Arc::clone(cell))).collect()
    }

    /// Forgets replicas that are gone.
    pub(crate) fn keep_only(&self, known: impl Fn(ReplicaId) -> bool) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|id, _| known(*id));
    }

    /// Keeps what is counted now, for later. Called every second.
    pub(crate) fn sample(&self, now: Instant) {
        for (_, cell) in self.cells() {
            cell.sample(now);
        }
    }
}

impl Cell {
    fn new(endpoint_id: EndpointId) -> Self {
        Self {
            endpoint_id,
            first_token: Buckets::default(),
            output_token: Buckets::default(),
            upstream: Buckets::default(),
            requests: AtomicU64::new(0),
            prompt: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            completion: AtomicU64::new(0),
            failures: std::array::from_fn(|_| AtomicU64::new(0)),
            past: Mutex::default(),
        }
    }

    /// A request that this replica worked on ended.
    pub(crate) fn ended(&self, had: &Had) {
        let Had { counted, upstream, stream } = *had;
        let add = |counter: &AtomicU64, tokens: i64| {
            counter.fetch_add(u64::try_from(tokens).unwrap_or(0), Ordering::Relaxed);
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        add(&self.prompt, counted.prompt - counted.cached);
        add(&self.cached, counted.cached);
        add(&self.completion, counted.completion);
        self.upstream.add(upstream);
        if let Some((first, rest)) = stream {
            self.first_token.add(first);
            // The first token came with the first content.
            if let Some(others) = u32::try_from(counted.completion - 1).ok().filter(|others| *others > 0) {
                self.output_token.add(rest / others);
            }
        }
    }

    pub(crate) fn failed(&self, class: FailureClass) {
        self.failures[class.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failures(&self, class: FailureClass) -> u64 {
        self.failures[class.index()].load(Ordering::Relaxed)
    }

    pub(crate) fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            requests: read(&self.requests),
            prompt: read(&self.prompt),
            cached: read(&self.cached),
            completion: read(&self.completion),
        }
    }

    fn sample(&self, now: Instant) {
        let totals = self.totals();
        let mut past = self.past();
        past.totals.push_back((now, totals));
        if past.totals.len() > RATE_SECONDS {
            past.totals.pop_front();
        }
        if past.samples.is_multiple_of(PART_SECONDS) {
            past.first_token.push_back(self.first_token.now());
            if past.first_token.len() > PARTS {
                past.first_token.pop_front();
            }
        }
        past.samples += 1;
    }

    /// What it did lately; what came before the first sample is not known to be late.
    pub(crate) fn lately(&self, now: Instant) -> Lately {
        let (totals, first_token) = (self.totals(), self.first_token.now());
        let past = self.past();
        let since = past.totals.front().map(|(at, before)| (now.saturating_duration_since(*at), totals.since(before)));
        let (over, totals) = since.unwrap_or_default();
        let first_token = past.first_token.front().map(|before| first_token.since(before)).unwrap_or_default();
        Lately { over, totals, first_token }
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        // A panic between two pushes leaves one sample out.
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            prompt: self.prompt.saturating_sub(before.prompt),
            cached: self.cached.saturating_sub(before.cached),
            completion: self.completion.saturating_sub(before.completion),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn had(completion: i64, millis: u64) -> Had {
        let counted = Counted { prompt: 10, cached: 4, completion, cpu_micros: None };
        let first = Duration::from_millis(millis);
        Had { counted, upstream: 2 * first, stream: Some((first, first)) }
    }

    #[test]
    fn rates_are_of_the_last_seconds_and_first_tokens_of_the_last_minute() {
        let board = Board::default();
        let (endpoint_id, replica_id) = (EndpointId::from_uuid(Uuid::nil()), ReplicaId::from_uuid(Uuid::nil()));
        let cell = board.cell(endpoint_id, replica_id);
        let begun = Instant::now();
        assert_eq!(cell.lately(begun), Lately::default());
        let mut now = begun;
        // A slow minute, then a fast one.
        for second in 0..120 {
            board.sample(now);
            cell.ended(&had(11, if second < 60 { 1_000 } else { 100 }));
            now += SECOND;
        }
        let lately = cell.lately(now);
        assert_eq!(lately.over, 10 * SECOND);
        assert_eq!(lately.totals, Totals { requests: 10, prompt: 60, cached: 40, completion: 110 });
        assert_eq!(lately.first_token.total(), 60, "no more than a minute");
        assert!(lately.first_token.percentile(99).expect("some") < 200_000, "the slow minute is over");
        assert_eq!(board.cell(endpoint_id, replica_id).totals().requests, 120, "the same cell");
        board.keep_only(|_| false);
        assert!(board.cells().is_empty());
    }

    #[test]
    fn a_token_takes_what_lies_between_the_first_and_the_last() {
        let cell = Cell::new(EndpointId::from_uuid(Uuid::nil()));
        cell.ended(&had(11, 1_000));
        cell.ended(&had(1, 1_000));
        let each = cell.output_token.now();
        assert_eq!(each.total(), 1, "one token alone has no pace");
        assert!(each.percentile(50).expect("one").abs_diff(100_000) < 20_000);
        cell.failed(FailureClass::Busy);
        assert_eq!(FailureClass::ALL.map(|class| cell.failures(class)), [0, 0, 0, 0, 1]);
    }
}
