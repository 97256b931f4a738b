//! Promises: when a blocked request starts at the latest, and on which nodes.
//!
//! A node's GPUs become free when its leases end as they said. Of each domain of the level that can hold the gang,
//! the instant at which the last node needed becomes free is its start; the domain with the earliest is promised.
//! Promised nodes are kept: others use them only for runs that end before the start.
//!
//! INVARIANT: a node is promised to at most one request; a promise goes only when its request starts, leaves or asks
//! for something else, a node is lost or held, a lease stays longer than it said, leases give way for an earlier start,
//! ten minutes have passed since it should have begun, or nobody was told of it.
//! Deliberately absent: who may be promised something, and in which order.

use std::collections::BTreeMap;

use crate::fleet::{Amount, Health};
use crate::request::Shape;
use crate::state::State;
use crate::state::tenants::OVERRUN_SECONDS;
use crate::state::topology::{NodeIx, narrow};
use crate::units::{At, LeaseId, QueueId, RequestId};

/// A promise that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) starts_at: At,
    pub(crate) nodes: Vec<NodeIx>,
    /// Leases that stop for it, by number; none where it waits for others to end.
    pub(crate) stops: Vec<LeaseId>,
    /// It could start, and waits for nearness.
    pub(crate) for_nearness: bool,
    /// Charged to this queue while it is kept.
    pub(crate) queue: QueueId,
    pub(crate) amount: Amount,
    /// Told back by the caller; until then it is a proposal.
    pub(crate) told: bool,
    /// Which of its nodes was not free when last asked.
    pub(crate) missing: usize,
}

/// All promises, by request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Promises {
    by_request: BTreeMap<RequestId, Promise>,
}

impl Promises {
    /// What a request was promised.
    pub(crate) fn get(&self, request: RequestId) -> Option<&Promise> {
        self.by_request.get(&request)
    }

    /// What a request was promised.
    pub(crate) fn get_mut(&mut self, request: RequestId) -> Option<&mut Promise> {
        self.by_request.get_mut(&request)
    }

    /// All, by request.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RequestId, &Promise)> {
        self.by_request.iter().map(|(request, promise)| (*request, promise))
    }

    /// All, by request, to be changed in what nobody else sees.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (RequestId, &mut Promise)> {
        self.by_request.iter_mut().map(|(request, promise)| (*request, promise))
    }

    /// Leases that stop for somebody.
    pub(crate) fn stopping(&self) -> impl Iterator<Item = LeaseId> {
        self.by_request.values().flat_map(|promise| promise.stops.iter().copied())
    }

    /// A lease has ended.
    pub(crate) fn forget_lease(&mut self, lease: LeaseId) {
        self.by_request.values_mut().for_each(|promise| promise.stops.retain(|other| *other != lease));
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.by_request.len()
    }

    /// Keeps the nodes.
    pub(crate) fn insert(&mut self, state: &mut State, request: RequestId, promise: Promise) {
        for node in &promise.nodes {
            state.reserve(*node, Some((request, promise.starts_at)));
        }
        self.by_request.insert(request, promise);
    }

    /// Takes a promise out and keeps its nodes from others.
    pub(crate) fn remove_keeping_nodes(&mut self, request: RequestId) -> Option<Promise> {
        self.by_request.remove(&request)
    }

    /// Gives the nodes to all again.
    pub(crate) fn remove(&mut self, state: &mut State, request: RequestId) -> Option<Promise> {
        let promise = self.by_request.remove(&request)?;
        for node in &promise.nodes {
            state.reserve(*node, None);
        }
        Some(promise)
    }
}

mod near;

pub(crate) use near::{Near, nearest};

/// What is kept from one search to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scratch {
    kinds: Vec<FreeTimes>,
    /// The kind that is replaced next.
    oldest: usize,
    /// The kind that was asked for last.
    latest: usize,
    domain: Vec<Candidate>,
    best: Vec<Candidate>,
}

/// A node by when it is free, how often it fails, and its place, the last first.
type Candidate = (At, u8, std::cmp::Reverse<NodeIx>);

/// When each node could hold one member of a kind.
#[derive(Debug, Clone)]
struct FreeTimes {
    /// A shape of the kind: what lies beyond one member does not matter.
    shape: Shape,
    classes: u64,
    /// By node: `NOW` where it has room; `LATE` where only overrun leases are in the way; `NEVER` where nobody knows or
    /// it is not allowed.
    at: Vec<At>,
    /// Nodes with an overrun lease, seen otherwise each second.
    again: Vec<NodeIx>,
    /// Seen from then.
    as_of: At,
    /// What the journal said up to here is in it.
    journal_end: u64,
}

/// Kinds of members kept: a fleet's gangs ask for a few.
const KINDS: usize = 16;
/// Changed nodes that a step takes over before anybody asks.
const FOLLOWED: usize = 24;
/// It has room.
const NOW: At = At(i64::MIN);
/// All on it have overrun or will have within the minute that an overrun is thought to last.
const LATE: At = At(i64::MIN + 1);

/// The earliest start of a shape's least gang, and its nodes; `None` when nobody can say.
pub(crate) fn earliest(
    state: &mut State,
    shape: &Shape,
    classes: u64,
    now: At,
    scratch: &mut Scratch,
) -> Option<(At, Vec<NodeIx>)> {
    let needed = usize::from(shape.nodes.min);
    let kind = scratch.kind(state, shape, classes, now);
    let Scratch { kinds, domain: members, best: nodes, .. } = scratch;
    let times = &kinds[kind].at;
    let after_overrun = now.plus(OVERRUN_SECONDS);
    let free_at = |node: &NodeIx| seen(times[node.at()], after_overrun);
    for table in &state.topology.order(shape.within, shape.prefer).tables {
        let table = &state.topology.tables()[usize::from(*table)];
        let mut best: Option<(At, usize, std::cmp::Reverse<u32>)> = None;
        for domain in 0..narrow(table.len()) {
            let all = table.members(domain);
            // Only a domain that has enough by the best instant so far can be as good.
            let latest = best.map_or(At(At::NEVER.0 - 1), |(at, _, _)| at);
            if all.len() < needed || in_time(times, all, latest, after_overrun) < needed {
                continue;
            }
            members.clear();
            let soon = all.iter().filter(|node| free_at(node) <= latest);
            members.extend(soon.map(|node| (free_at(node), state.nodes.rank[node.at()], std::cmp::Reverse(*node))));
            let (_, last, _) = members.select_nth_unstable(needed - 1);
            let key = (last.0, all.len(), std::cmp::Reverse(domain));
            if best.is_none_or(|best| key < best) {
                best = Some(key);
                std::mem::swap(nodes, members);
            }
        }
        if let Some((starts_at, _, _)) = best {
            let mut nodes: Vec<NodeIx> = nodes[..needed].iter().map(|(_, _, node)| node.0).collect();
            nodes.sort_unstable();
            return Some((starts_at.max(now), nodes));
        }
    }
    None
}

/// What is kept of a node, as an instant.
fn seen(at: At, after_overrun: At) -> At {
    if at == LATE { after_overrun } else { at }
}

/// How many of these nodes are free by `latest`. Most domains are a row of nodes: then it is a scan.
fn in_time(times: &[At], nodes: &[NodeIx], latest: At, after_overrun: At) -> usize {
    let waits_for_late = after_overrun <= latest;
    let is_soon = |at: At| at <= latest && (waits_for_late || at != LATE);
    match nodes {
        [first, .., last] if last.at() - first.at() + 1 == nodes.len() => {
            times[first.at()..=last.at()].iter().filter(|at| is_soon(**at)).count()
        }
        _ => nodes.iter().filter(|node| is_soon(times[node.at()])).count(),
    }
}

impl Scratch {
    /// Takes over some of what changed for the kind that was asked for last, so that the next promise finds little left
    /// to do.
    pub(crate) fn follow(&mut self, state: &mut State, now: At) {
        if let Some(kind) = self.kinds.get_mut(self.latest) {
            kind.follow(state, now);
        }
    }

    /// The place of a kind's times, as they are now.
    fn kind(&mut self, state: &mut State, shape: &Shape, classes: u64, now: At) -> usize {
        let known = self.kinds.iter().position(|kind| kind.is_of(shape));
        let place = known.unwrap_or_else(|| {
            let nobody =
                FreeTimes { shape: *shape, classes, at: Vec::new(), again: Vec::new(), as_of: now, journal_end: 0 };
            if self.kinds.len() < KINDS {
                self.kinds.push(nobody);
                return self.kinds.len() - 1;
            }
            let place = self.oldest;
            self.oldest = (place + 1) % KINDS;
            self.kinds[place] = nobody;
            place
        });
        self.kinds[place].refresh(state, now);
        self.latest = place;
        place
    }
}

impl FreeTimes {
    fn is_of(&self, shape: &Shape) -> bool {
        let kind = |shape: &Shape| (shape.gpus, shape.cpu_milli, shape.memory_mib, shape.models, shape.residencies);
        kind(&self.shape) == kind(shape)
    }

    /// Takes over what changed, and what time changes: leases that should have ended are thought to last a little.
    fn refresh(&mut self, state: &mut State, now: At) {
        let end = state.journal.end();
        let state = &*state;
        let Some(changed) = state.journal.since(self.journal_end).filter(|_| now >= self.as_of && !self.at.is_empty())
        else {
            self.at.clear();
            self.at.resize(state.nodes.len(), At::NEVER);
            self.again.clear();
            (0..state.nodes.len()).map(NodeIx::new).for_each(|node| self.look(state, node, now));
            (self.as_of, self.journal_end) = (now, end);
            return;
        };
        for node in changed {
            self.look(state, *node, now);
        }
        if now > self.as_of {
            let mut again = std::mem::take(&mut self.again);
            again.sort_unstable();
            again.dedup();
            again.into_iter().for_each(|node| self.look(state, node, now));
            // Those that overran since, and those whose last end came near enough for an overrun to outlast it.
            let (from, minute) = (self.as_of.plus(1), OVERRUN_SECONDS);
            let near = state.leases.ending(from.plus(minute), now.plus(minute));
            for (_, lease) in state.leases.ending(from, now.min(self.as_of.plus(minute))).chain(near) {
                let nodes = state.leases.find(lease).into_iter().flat_map(|held| &held.nodes);
                nodes.for_each(|node| self.look(state, *node, now));
            }
        }
        (self.as_of, self.journal_end) = (now, end);
    }

    /// Takes over nodes that changed first, a step's share of them. What time changes waits for the next refresh.
    fn follow(&mut self, state: &mut State, now: At) {
        // Told, so that what changes from here on is noted though it was the last that changed before.
        state.journal.end();
        let state = &*state;
        let Some(changed) = state.journal.since(self.journal_end).filter(|_| now >= self.as_of && !self.at.is_empty())
        else {
            return;
        };
        let first = &changed[..changed.len().min(FOLLOWED)];
        first.iter().for_each(|node| self.look(state, *node, now));
        self.journal_end += first.len() as u64;
    }

    /// Takes over what is known of one node.
    fn look(&mut self, state: &State, node: NodeIx, now: At) {
        let free_at = node_free_at(state, &self.shape, self.classes, node, now);
        self.at[node.at()] = free_at;
        if !matches!(free_at, NOW | LATE | At::NEVER) && state.tenants.has_overrun(node, now) {
            self.again.push(node);
        }
    }
}

/// When a node that is not promised yet could hold one member.
fn node_free_at(state: &State, shape: &Shape, classes: u64, node: NodeIx, now: At) -> At {
    if state.nodes.reserved[node.at()].is_some() {
        return At::NEVER;
    }
    kept_free_at(state, shape, classes, node, now)
}

/// The same for whom it is promised to.
fn kept_free_at(state: &State, shape: &Shape, classes: u64, node: NodeIx, now: At) -> At {
    let at = node.at();
    if state.nodes.health[at] != Health::Ready
        || classes >> state.nodes.class[at] & 1 == 0
        || !state.nodes.allowed(node, shape)
        || !state.nodes.capacity[at].could_hold(shape)
    {
        return At::NEVER;
    }
    let free_at = state.free_at(node, shape, now);
    let is_held = state.nodes.held_until[at].is_some();
    let free_at = if free_at == now {
        NOW
    } else if !is_held && state.tenants.all_overrun_by(node, now) && state.must_be_empty(node, shape) {
        LATE
    } else {
        free_at
    };
    state.nodes.held_until[at].map_or(free_at, |until| until.max(free_at))
}
