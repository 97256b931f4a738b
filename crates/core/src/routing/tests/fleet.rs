//! A fleet of simulated engines under a virtual clock, and routers to compare: round robin, fewest in flight, ours, and an
//! oracle that has one cache as large as all of theirs together, which no router can beat.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use galerne_model::ids::{EndpointId, ReplicaId};
use galerne_model::snapshot::{ReplicaEnergy, ReplicaEntry};
use jiff::Timestamp;
use uuid::Uuid;

use super::super::prompt::Block;
use super::super::siphash::{self, Secret};
use super::super::*;

pub(super) const SECOND: u64 = 1_000_000;
/// 256 bytes at 4 each.
const BLOCK_TOKENS: u64 = 64;
const PREFILL_PER_SECOND: u64 = 8_000;
const TOKEN_MICROS: u64 = 10_000;
/// What one more sequence adds to a step.
const CROWD_MICROS: u64 = 400;
pub(super) const SECRET: Secret = Secret([11, 13]);

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) at: u64,
    pub(super) blocks: Vec<u64>,
    pub(super) completion: u64,
}

pub(super) enum Router {
    RoundRobin(usize),
    FewestInFlight,
    Ours(Box<ReplicaBook>),
    Oracle,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Outcome {
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) busy: Vec<u64>,
    pub(super) requests: Vec<u64>,
    pub(super) first_micros: Vec<u64>,
}

#[derive(Debug)]
struct Engine {
    cache: Cache,
    free_at: u64,
    running: u32,
    waiting: u32,
    speed: u64,
    joins_at: u64,
}

/// Blocks, the one used longest ago goes first.
#[derive(Debug)]
struct Cache {
    most: usize,
    used: BTreeMap<u64, u64>,
    by_use: BTreeSet<(u64, u64)>,
    clock: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    FirstToken(usize),
    End(usize),
    Report,
}

struct Live {
    engine: usize,
    seat: Option<Seat>,
    counts: Counts,
}

pub(super) struct Fleet {
    engines: Vec<Engine>,
    entries: Vec<ReplicaEntry>,
}

pub(super) fn now(micros: u64) -> Timestamp {
    let micros = i64::try_from(micros).expect("small");
    Timestamp::from_microsecond(1_780_000_000_000_000 + micros).expect("in range")
}

pub(super) fn entry(n: usize) -> ReplicaEntry {
    let id = ReplicaId::from_uuid(Uuid::from_u128(u128::try_from(n).expect("small") + 1));
    ReplicaEntry {
        id,
        url: String::new(),
        energy: ReplicaEnergy::Unknown,
        kv_events: None,
        is_metered: false,
        seats: None,
    }
}

pub(super) fn endpoint() -> EndpointId {
    EndpointId::from_uuid(Uuid::from_u128(77))
}

pub(super) fn prompt(blocks: &[u64]) -> Prompt {
    let hashed = blocks.iter().map(|id| Block(siphash::hash(SECRET, *id, &[]))).collect();
    Prompt { blocks: hashed, bytes: 256 * u64::try_from(blocks.len()).expect("small") }
}

pub(super) fn ours() -> Router {
    Router::Ours(Box::new(ReplicaBook::new(SECRET, 4 << 20)))
}

impl Fleet {
    pub(super) fn new(count: usize, cache_blocks: usize) -> Self {
        let engine = |_| Engine {
            cache: Cache { most: cache_blocks, used: BTreeMap::new(), by_use: BTreeSet::new(), clock: 0 },
            free_at: 0,
            running: 0,
            waiting: 0,
            speed: 1,
            joins_at: 0,
        };
        Self { engines: (0..count).map(engine).collect(), entries: (0..count).map(entry).collect() }
    }

    /// One engine takes this many times as long as the others.
    pub(super) fn slow(mut self, engine: usize, times: u64) -> Self {
        self.engines[engine].speed = times;
        self
    }

    /// One engine is there only from this moment on.
    pub(super) fn joins(mut self, engine: usize, at: u64) -> Self {
        self.engines[engine].joins_at = at;
        self
    }

    /// Serves all requests, which are in order of time.
    pub(super) fn run(mut self, router: &mut Router, requests: &[Request]) -> Outcome {
        let count = self.engines.len();
        let mut outcome = Outcome { busy: vec![0; count], requests: vec![0; count], ..Outcome::default() };
        let mut events = BinaryHeap::from([Reverse((SECOND, Event::Report))]);
        let mut live: Vec<Live> = Vec::new();
        for request in requests {
            while events.peek().is_some_and(|Reverse((at, _))| *at <= request.at) {
                let Some(Reverse((at, event))) = events.pop() else { break };
                self.happen(router, &mut live, &mut events, at, &event);
            }
            let (at, seat) = self.choose(router, request);
            let (first, cached) = self.engines[at].take(request, &mut outcome, at);
            let Engine { running, .. } = self.engines[at];
            let token_micros = (TOKEN_MICROS + CROWD_MICROS * u64::from(running)) * self.engines[at].speed;
            let end = first + request.completion * token_micros;
            events.push(Reverse((first, Event::FirstToken(live.len()))));
            events.push(Reverse((end, Event::End(live.len()))));
            let prompt = BLOCK_TOKENS * u64::try_from(request.blocks.len()).expect("small");
            let counts = Counts { prompt, cached, completion: request.completion };
            live.push(Live { engine: at, seat, counts });
        }
        outcome
    }

    fn choose(&mut self, router: &mut Router, request: &Request) -> (usize, Option<Seat>) {
        let ready: Vec<usize> = (0..self.engines.len()).filter(|at| self.engines[*at].joins_at <= request.at).collect();
        match router {
            Router::RoundRobin(turn) => {
                *turn += 1;
                (ready[*turn % ready.len()], None)
            }
            Router::FewestInFlight => {
                let load = |at: &usize| (self.engines[*at].running + self.engines[*at].waiting, *at);
                (ready.into_iter().min_by_key(load).expect("one is ready"), None)
            }
            Router::Oracle => (0, None),
            Router::Ours(book) => {
                let prompt = prompt(&request.blocks);
                let wanted = Wanted { endpoint_id: endpoint(), prompt: &prompt };
                let entries: Vec<ReplicaEntry> = ready.iter().map(|at| self.entries[*at].clone()).collect();
                let chance = siphash::hash(SECRET, request.at, &[1]);
                let seat = book.choose(&wanted, &entries, &[], chance, now(request.at)).expect("one is ready");
                let at = self.entries.iter().position(|entry| entry.id == seat.replica()).expect("known");
                (at, Some(seat))
            }
        }
    }

    fn happen(
        &mut self,
        router: &mut Router,
        live: &mut [Live],
        events: &mut BinaryHeap<Reverse<(u64, Event)>>,
        at: u64,
        event: &Event,
    ) {
        match *event {
            Event::FirstToken(number) => {
                let Live { engine, seat, .. } = &mut live[number];
                self.engines[*engine].waiting -= 1;
                self.engines[*engine].running += 1;
                if let (Router::Ours(book), Some(seat)) = (router, seat) {
                    book.first_token(seat, now(at));
                }
            }
            Event::End(number) => {
                let Live { engine, seat, counts } = &mut live[number];
                self.engines[*engine].running -= 1;
                if let (Router::Ours(book), Some(seat)) = (router, seat.take()) {
                    book.release(seat, Ending::Answered, Some(*counts), now(at));
                }
            }
            Event::Report => {
                if let Router::Ours(book) = router {
                    for (engine, entry) in self.engines.iter().zip(&self.entries) {
                        let report = Report {
                            running: engine.running,
                            waiting: engine.waiting,
                            kv_thousandths: None,
                            decoded: None,
                        };
                        book.report(entry.id, report, now(at));
                    }
                    book.judge(endpoint(), &self.entries, now(at));
                }
                events.push(Reverse((at + SECOND, Event::Report)));
            }
        }
    }
}

impl Engine {
    /// Takes a request; says when its first token comes, and how many tokens were cached.
    fn take(&mut self, request: &Request, outcome: &mut Outcome, at: usize) -> (u64, u64) {
        let cached = self.cache.touch(&request.blocks);
        let all = u64::try_from(request.blocks.len()).expect("small");
        let prefill = (all - cached) * BLOCK_TOKENS * SECOND / PREFILL_PER_SECOND * self.speed;
        let begin = self.free_at.max(request.at);
        self.free_at = begin + prefill;
        self.waiting += 1;
        outcome.prompt_tokens += all * BLOCK_TOKENS;
        outcome.cached_tokens += cached * BLOCK_TOKENS;
        outcome.busy[at] += prefill + request.completion * CROWD_MICROS * self.speed;
        outcome.requests[at] += 1;
        let first = self.free_at + TOKEN_MICROS;
        outcome.first_micros.push(first - request.at);
        (first, cached * BLOCK_TOKENS)
    }
}

impl Cache {
    /// How many of the leading blocks are here; all of them are afterwards.
    fn touch(&mut self, blocks: &[u64]) -> u64 {
        let had = blocks.iter().take_while(|block| self.used.contains_key(block)).count();
        // The end of a prompt goes first, as engines do it.
        for block in blocks.iter().rev() {
            self.clock += 1;
            if let Some(before) = self.used.insert(*block, self.clock) {
                self.by_use.remove(&(before, *block));
            }
            self.by_use.insert((self.clock, *block));
        }
        while self.used.len() > self.most {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.used.remove(&oldest);
        }
        u64::try_from(had).expect("small")
    }
}

impl Outcome {
    /// Cached of all prompt tokens, in thousandths.
    pub(super) fn hit(&self) -> u64 {
        self.cached_tokens * 1_000 / self.prompt_tokens.max(1)
    }

    /// The busiest engine's work over the mean, in thousandths.
    pub(super) fn imbalance(&self) -> u64 {
        let sum: u64 = self.busy.iter().sum();
        let count = u64::try_from(self.busy.len()).expect("small");
        self.busy.iter().max().copied().unwrap_or(0) * 1_000 * count / sum.max(1)
    }

    /// Mean time to the first token, in micros.
    pub(super) fn mean_first(&self) -> u64 {
        self.first_micros.iter().sum::<u64>() / u64::try_from(self.first_micros.len()).expect("small").max(1)
    }
}
