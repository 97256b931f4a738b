//! Why a request waits, and what would help: a tree from the state that a pass left behind.
//!
//! The tree says what is in the way of one request of a (shape, queue); all that ask the same wait for the same.
//! Advice is tried, not guessed: each step is put to the same questions as the request itself, with that one thing
//! changed, and is given only where an obstacle is gone then. Nodes are asked by groups of equal ones, so that a
//! question costs what the few fitting nodes cost.
//!
//! Deliberately absent: words, and decisions; nothing here changes what starts.

use std::collections::BTreeMap;

use crate::fair::Shares;
use crate::fleet::FleetSpec;
use crate::plan::GpuGrant;
use crate::planner::spanned;
use crate::power::PowerTree;
use crate::reason::{ADVISED, Awaited, Cause, Mark, Next, Step, Then, Why};
use crate::request::{Request, Shape};
use crate::reserve::Promises;
use crate::state::State;
use crate::state::topology::{NodeIx, narrow};
use crate::units::{At, GPU_MILLI, LeaseId, RequestId, TenantClass};

mod ask;
mod census;
mod releases;
mod steps;

use ask::Ask;
pub(crate) use census::Census;
use census::{Lack, Place, Row, Stand, whole_on};
use releases::Timeline;
use steps::Scope;

/// What a pass left behind. Watts are committed and given back while questions are asked; they end as they were.
pub(crate) struct Facts<'a> {
    pub(crate) spec: &'a FleetSpec,
    pub(crate) state: &'a State,
    pub(crate) power: &'a mut PowerTree,
    pub(crate) shares: &'a Shares,
    pub(crate) promises: &'a Promises,
    /// What the pass gave and nobody has carried out yet.
    pub(crate) taken: &'a [Taken<'a>],
    pub(crate) now: At,
}

/// A grant of this pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken<'a> {
    pub(crate) request: &'a Request,
    pub(crate) node: NodeIx,
    pub(crate) gpus: GpuGrant,
}

/// What holds back one request, whatever its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Own {
    /// Only what holds back all of its shape.
    Nothing,
    NotBefore(At),
    BetterHour(At),
    /// So many leases stop for it; one of them.
    Preempting {
        leases: u32,
        lease: LeaseId,
    },
}

/// How much of a tree is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What is in the way.
    Obstacles,
    /// That, and what would help: of the first `ADVISED` shapes.
    Advice,
}

/// Builds the trees of one pass.
pub(crate) struct Explainer<'a> {
    facts: Facts<'a>,
    census: &'a Census,
    /// What is in the way of a shape and class, quotas aside.
    places: BTreeMap<(Shape, TenantClass), Found>,
    /// Listed when the first wait is looked for.
    timeline: Option<Timeline>,
    /// To be filled for one end alone.
    spare: Option<Timeline>,
    depth: Depth,
    joint_left: usize,
}

/// What was found of a shape, quotas aside.
#[derive(Debug, Clone)]
struct Found {
    obstacles: Vec<Cause>,
    parts: Vec<Why>,
    next: Vec<Next>,
}

/// Requests over a quota for which steps are tried together with it, in one pass; for others only those about places.
/// A try costs some ten microseconds.
const JOINT: usize = 32;

impl<'a> Explainer<'a> {
    pub(crate) fn new(facts: Facts<'a>, census: &'a Census, depth: Depth) -> Self {
        Self { facts, census, places: BTreeMap::new(), timeline: None, spare: None, depth, joint_left: JOINT }
    }

    /// Why a request that the pass did not start waits.
    pub(crate) fn why(&mut self, request: &Request, own: Own) -> Why {
        let mut ask = Ask::new(request);
        let mut over: Vec<Cause> = self.quotas(&ask).map(|(_, cause)| cause).collect();
        let is_own = |cause: &Cause| matches!(cause, Cause::Quota { queue, .. } if *queue == request.queue);
        // Told where it holds, all of it.
        let own_quota = over.iter().find(|cause| is_own(cause)).copied();
        over.retain(Cause::is_over);
        let mut why = Why::blocks(Cause::Waits);
        match own {
            Own::Preempting { leases, lease } => {
                why.because.push(Why::blocks(Cause::Preempting { leases, lease }));
                let step = Step::Wait { until: At::NEVER, on: Awaited::Stop(lease) };
                why.next.push(Next { step, then: Then::Starts });
                return why;
            }
            Own::NotBefore(at) => return self.only_until(&ask, over, Cause::NotBefore { at }, at),
            Own::BetterHour(until) => return self.only_until(&ask, over, Cause::BetterHour { until }, until),
            Own::Nothing => {}
        }
        if let Some(why) = self.for_nearness(request, own_quota) {
            return why;
        }
        let found = match self.facts.promises.get(request.id) {
            Some(promise) => {
                let nodes = narrow(promise.nodes.len());
                why.because.push(Why::holds(Cause::Promised { starts_at: promise.starts_at, nodes }));
                self.find(&ask.without_quota(), Scope::Promised, self.depth)
            }
            // It may fit a gap before a promise, and only its quota be in the way: its own run time is asked.
            None if !over.is_empty() && request.run_seconds.is_some() && self.joint_left > 0 => {
                ask.run_seconds = request.run_seconds;
                self.find(&ask.without_quota(), Scope::All, self.depth)
            }
            None => self.place(&ask),
        };
        why.because.reserve_exact(found.parts.len() + over.len() + 1);
        if !over.iter().any(is_own) {
            why.because.extend(own_quota.map(Why::holds));
        }
        if over.is_empty() {
            // Parts that are rounded up may take more of a quota than the whole.
            why.next = found.next;
            why.next.retain(|next| {
                let Step::Spread { nodes, .. } = next.step else { return true };
                let parts = ask.with(ask.shape.spread(u8::try_from(nodes).unwrap_or(u8::MAX)));
                self.over_quota(&parts).is_empty()
            });
        } else {
            why.next = self.beside_quota(&ask, &over, &found);
            why.because.extend(over.into_iter().map(Why::blocks));
        }
        why.because.extend(found.parts);
        if why.obstacles().next().is_none() { self.only_promised(&ask, why) } else { why }
    }

    /// What is in the way of a shape and class, quotas aside; steps are looked for once, and for the first few.
    fn place(&mut self, ask: &Ask) -> Found {
        let key = (ask.shape, ask.class);
        if let Some(found) = self.places.get(&key) {
            return found.clone();
        }
        if self.depth == Depth::Obstacles || self.places.len() >= ADVISED {
            return self.find(&ask.without_quota(), Scope::All, Depth::Obstacles);
        }
        let found = self.find(&ask.without_quota(), Scope::All, Depth::Advice);
        self.places.insert(key, found.clone());
        found
    }

    fn find(&mut self, ask: &Ask, scope: Scope, depth: Depth) -> Found {
        let obstacles = self.obstacles(ask);
        let next = match depth {
            Depth::Obstacles => Vec::new(),
            Depth::Advice => self.steps(ask, &obstacles, scope),
        };
        let by_place = |cause: &Cause| matches!(cause, Cause::Nodes { .. } | Cause::Apart { .. });
        let mut parts = Vec::new();
        for cause in &obstacles {
            let part = Why::blocks(*cause);
            parts.push(if by_place(cause) { self.with_nodes(part, ask, &next, depth) } else { part });
        }
        if !obstacles.iter().any(by_place) {
            parts.extend(self.enough_nodes(ask));
        }
        Found { obstacles, parts, next }
    }

    /// Steps where a quota is in the way, alone or with others.
    fn beside_quota(&mut self, ask: &Ask, over: &[Cause], found: &Found) -> Vec<Next> {
        if self.depth == Depth::Obstacles {
            return Vec::new();
        }
        let all: Vec<Cause> = over.iter().chain(&found.obstacles).copied().collect();
        if self.joint_left > 0 {
            self.joint_left -= 1;
            return self.steps(ask, &all, Scope::All);
        }
        let left = narrow(all.len() - 1);
        let then = if left == 0 { Then::Starts } else { Then::Clears { left } };
        let raised = over.iter().filter_map(|cause| {
            let Cause::Quota { queue, resource, limit, used, asked } = *cause else { return None };
            let step = Step::RaiseQuota { queue, resource, by: used + asked - limit };
            Some(Next { step, then })
        });
        raised.collect()
    }

    /// A gang that could start, and waits for what it was promised over fewer domains of the level that it prefers.
    fn for_nearness(&mut self, request: &Request, own_quota: Option<Cause>) -> Option<Why> {
        let promise = self.facts.promises.get(request.id)?;
        let (level, until) = (request.shape.prefer?, promise.starts_at);
        let domains = spanned(self.facts.state, level, &promise.nodes)?;
        // It may wait though it fits before promised starts.
        let ask = Ask { run_seconds: request.run_seconds, ..Ask::new(request) };
        if until <= self.facts.now || !self.obstacles(&ask).is_empty() {
            return None;
        }
        let instead_of = self.spanned_now(&ask, level)?;
        if domains >= instead_of {
            return None;
        }
        let mut why = Why::blocks(Cause::Waits)
            .because(Why::holds(Cause::Promised { starts_at: until, nodes: narrow(promise.nodes.len()) }))
            .because(Why::blocks(Cause::ForNearness { until, level, domains, instead_of }));
        why.because.extend(own_quota.map(Why::holds));
        why.because.extend(self.enough_nodes(&ask));
        if self.depth == Depth::Advice {
            why.next = self.steps_to_start_apart(&ask, level);
        }
        Some(why)
    }

    /// Nothing is in the way but its promise: it waits for that, over no more domains than it could have now.
    fn only_promised(&mut self, ask: &Ask, mut why: Why) -> Why {
        let Some(part) = why.because.iter_mut().find(|part| matches!(part.cause, Cause::Promised { .. })) else {
            return why;
        };
        part.mark = Mark::Blocks;
        if self.depth == Depth::Advice {
            why.next.extend(self.await_promised(ask));
        }
        why
    }

    /// It waits for an instant; what is in the way even so is told too.
    fn only_until(&mut self, ask: &Ask, over: Vec<Cause>, cause: Cause, until: At) -> Why {
        let mut why = Why::blocks(Cause::Waits).because(Why::blocks(cause));
        let found = self.place(ask);
        let left = narrow(over.len() + found.obstacles.len());
        let then = match left {
            0 => Some(Then::Starts),
            _ if self.depth == Depth::Obstacles => None,
            _ if self.is_clear_by(ask, &over, &found, until) => Some(Then::Starts),
            1 => Some(Then::Clears { left }),
            // Which of several are gone by then is not known.
            _ => None,
        };
        let step = Step::Wait { until, on: Awaited::Begin };
        why.next.extend(then.map(|then| Next { step, then }));
        why.because.extend(over.into_iter().map(Why::blocks));
        why.because.extend(found.parts);
        why
    }

    /// Whether what is in the way now ends before an instant.
    fn is_clear_by(&mut self, ask: &Ask, over: &[Cause], found: &Found, until: At) -> bool {
        let ends_at = if over.is_empty() {
            let waits = found.next.iter().filter_map(|next| {
                let Step::Wait { until, .. } = next.step else { return None };
                Some(until)
            });
            waits.min()
        } else {
            self.wait(ask).map(|(ends_at, _)| ends_at)
        };
        ends_at.is_some_and(|ends_at| ends_at <= until)
    }

    /// That enough nodes are free, as a part that holds.
    fn enough_nodes(&self, ask: &Ask) -> Option<Why> {
        let (free, could) = (self.free_count(ask), self.could(ask));
        let needed = u32::from(ask.shape.nodes.min);
        (free >= needed).then(|| Why::holds(Cause::Nodes { needed, free, could }))
    }

    /// Adds what the nodes that could do are doing; the numbers add up to `could`.
    fn with_nodes(&mut self, mut part: Why, ask: &Ask, next: &[Next], depth: Depth) -> Why {
        let shape = &ask.shape;
        let mut sums = Sums::default();
        for stand in self.census.suited(self.facts.spec, shape) {
            self.count(stand, ask, &mut sums);
        }
        part.because.extend(sums.parts(ask));
        if let Some(reserved) = part.because.iter_mut().find(|part| matches!(part.cause, Cause::Reserved { .. })) {
            let gap = next.iter().find_map(|next| {
                let Step::SayRunTime { seconds } = next.step else { return None };
                Some(seconds)
            });
            reserved.because.extend(gap.map(|seconds| Why::blocks(Cause::Gap { seconds })));
        }
        part.because.extend(self.models(ask));
        if depth == Depth::Advice && !next.iter().any(|next| matches!(next.step, Step::Wait { .. })) {
            let leases = narrow(self.endless(ask).len());
            if leases > 0 && ask.request_has_no_promise(&self.facts) {
                part.because.push(Why::blocks(Cause::EndsUnknown { leases }));
            }
        }
        part
    }

    /// Where several models are allowed by name: what is free of each.
    fn models(&self, ask: &Ask) -> Vec<Why> {
        if ask.shape.models.count_ones() < 2 {
            return Vec::new();
        }
        let allowed = (0..64_u8).filter(|bit| ask.shape.models >> bit & 1 == 1);
        let of_one = allowed.map(|bit| {
            let mut one = *ask;
            one.shape.models = 1 << bit;
            let (total, free) = (self.could(&one), self.free_count(&one));
            let cause = Cause::Model { model: crate::units::ModelId(bit), total, free };
            if free >= u32::from(ask.shape.nodes.min) { Why::holds(cause) } else { Why::blocks(cause) }
        });
        of_one.collect()
    }

    fn count(&self, stand: &Stand, ask: &Ask, sums: &mut Sums) {
        match stand.place {
            Place::Down => sums.down += stand.nodes,
            Place::Cordoned => sums.cordoned += stand.nodes,
            Place::Held(until) => {
                sums.held += stand.nodes;
                sums.held_until = Some(sums.held_until.map_or(until, |at| at.min(until)));
            }
            Place::Open | Place::Promised(_) => self.count_serving(stand, ask, sums),
        }
    }

    fn count_serving(&self, stand: &Stand, ask: &Ask, sums: &mut Sums) {
        let shape = &ask.shape;
        for (place, shelf, lack) in self.census.without_gpus(stand, shape) {
            let largest = narrow(whole_on(place)) * u32::from(GPU_MILLI);
            sums.add_lack(lack, shelf.nodes, (largest, shelf.free_milli));
            for row in self.census.given(shelf) {
                self.count_row(stand, row, (narrow(row.nodes.len()), row.nodes[0]), ask, sums);
            }
        }
        for row in self.census.with_gpus(stand, shape) {
            if matches!(shape.gpus, crate::request::Gpus::Slice(_)) {
                for node in &row.nodes {
                    self.count_row(stand, row, (1, *node), ask, sums);
                }
            } else {
                self.count_row(stand, row, (narrow(row.nodes.len()), row.nodes[0]), ask, sums);
            }
        }
    }

    fn count_row(&self, stand: &Stand, row: &Row, (number, node): (u32, NodeIx), ask: &Ask, sums: &mut Sums) {
        let free = &row.free;
        match (stand.place, stand.lack(row, &self.facts, node, &ask.shape)) {
            (Place::Promised(request), Lack::Nothing) if request != ask.request => {
                let starts_at = self.facts.promises.get(request).map_or(At::NEVER, |promise| promise.starts_at);
                sums.reserved += number;
                sums.promises.push((starts_at, request));
            }
            (_, Lack::Nothing) => sums.free += number,
            _ if row.fitted_before(&ask.shape) => sums.behind += number,
            (_, Lack::Cpu) => {
                sums.cpu += number;
                sums.cpu_largest = sums.cpu_largest.max(free.cpu_milli);
            }
            (_, Lack::Memory) => {
                sums.memory += number;
                sums.memory_largest = sums.memory_largest.max(free.memory_mib);
            }
            (_, lack) => {
                let free_milli = i64::from(free.total_milli) * i64::from(number);
                sums.add_lack(lack, number, (free.largest(&ask.shape), free_milli));
            }
        }
    }
}

/// Nodes that could do, each counted once.
#[derive(Debug, Default)]
struct Sums {
    free: u32,
    busy: u32,
    behind: u32,
    scattered: u32,
    scattered_largest: u32,
    scattered_free: i64,
    cpu: u32,
    cpu_largest: u32,
    memory: u32,
    memory_largest: u32,
    reserved: u32,
    promises: Vec<(At, RequestId)>,
    cordoned: u32,
    held: u32,
    held_until: Option<At>,
    down: u32,
}

impl Sums {
    /// So many nodes have too few GPUs free: most on one of them, and all together, in thousandths.
    fn add_lack(&mut self, lack: Lack, nodes: u32, (largest_milli, free_milli): (u32, i64)) {
        if nodes == 0 {
            return;
        }
        if lack == (Lack::Gpus { partly: true }) {
            self.scattered += nodes;
            self.scattered_largest = self.scattered_largest.max(largest_milli);
            self.scattered_free += free_milli;
        } else {
            self.busy += nodes;
        }
    }

    fn parts(mut self, ask: &Ask) -> Vec<Why> {
        let shape = &ask.shape;
        self.promises.sort_unstable();
        self.promises.dedup();
        let needed_milli = u32::try_from(ask.gpu_milli()).unwrap_or(u32::MAX);
        let (starts_at, request) = self.promises.first().copied().unwrap_or_default();
        let blocks = [
            (self.busy, Cause::Busy { nodes: self.busy }),
            (self.behind, Cause::Behind { nodes: self.behind }),
            (
                self.scattered,
                Cause::Scattered {
                    nodes: self.scattered,
                    needed_milli,
                    largest_milli: self.scattered_largest,
                    free_milli: self.scattered_free,
                },
            ),
            (self.cpu, Cause::Cpu { nodes: self.cpu, needed_milli: shape.cpu_milli, largest_milli: self.cpu_largest }),
            (
                self.memory,
                Cause::Memory { nodes: self.memory, needed_mib: shape.memory_mib, largest_mib: self.memory_largest },
            ),
            (
                self.reserved,
                Cause::Reserved { nodes: self.reserved, requests: narrow(self.promises.len()), request, starts_at },
            ),
            (
                self.cordoned + self.held + self.down,
                Cause::OutOfService {
                    cordoned: self.cordoned,
                    held: self.held,
                    held_until: self.held_until,
                    down: self.down,
                },
            ),
        ];
        let free = (self.free > 0).then(|| Why::holds(Cause::Free { nodes: self.free }));
        let blocks = blocks.into_iter().filter(|(nodes, _)| *nodes > 0).map(|(_, cause)| Why::blocks(cause));
        free.into_iter().chain(blocks).collect()
    }
}

#[cfg(test)]
mod tests;
