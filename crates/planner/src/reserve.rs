//! Promises: when a blocked request starts at the latest, and on which nodes.
//!
//! A node's GPUs become free when its leases end as they said. Of each domain of the level that can hold the gang,
//! the instant at which the last node needed becomes free is its start; the domain with the earliest is promised.
//! Promised nodes are kept: others use them only for runs that end before the start.
//!
//! INVARIANT: a node is promised to at most one request; a promise goes only when its request starts or leaves, a
//! node is lost, or a lease stays longer than it said.
//! Deliberately absent: who may be promised something, and in which order.

use std::collections::BTreeMap;

use crate::fleet::{Amount, Health};
use crate::request::Shape;
use crate::state::State;
use crate::state::topology::{NodeIx, narrow};
use crate::units::{At, QueueId, RequestId};

/// A promise that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) starts_at: At,
    pub(crate) nodes: Vec<NodeIx>,
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

/// Lists that are filled again and again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scratch {
    /// By node: when it could hold a member; `NEVER` where nobody knows or it is not allowed.
    free_at: Vec<At>,
    domain: Vec<(At, u8, std::cmp::Reverse<NodeIx>)>,
    best: Vec<(At, u8, std::cmp::Reverse<NodeIx>)>,
}

/// The earliest start of a shape's least gang, and its nodes; `None` when nobody can say.
pub(crate) fn earliest(
    state: &State,
    shape: &Shape,
    classes: u64,
    now: At,
    scratch: &mut Scratch,
) -> Option<(At, Vec<NodeIx>)> {
    let needed = usize::from(shape.nodes.min);
    scratch.free_at.clear();
    scratch
        .free_at
        .extend((0..state.nodes.len()).map(NodeIx::new).map(|node| node_free_at(state, shape, classes, node, now)));
    for table in &state.topology.order(shape.within, shape.prefer).tables {
        let table = &state.topology.tables()[usize::from(*table)];
        let mut best: Option<(At, usize, std::cmp::Reverse<u32>)> = None;
        for domain in 0..narrow(table.len()) {
            scratch.domain.clear();
            let members = table.members(domain).iter().filter(|node| scratch.free_at[node.at()] != At::NEVER);
            scratch.domain.extend(
                members.map(|node| (scratch.free_at[node.at()], state.nodes.rank[node.at()], std::cmp::Reverse(*node))),
            );
            if scratch.domain.len() < needed {
                continue;
            }
            let (_, last, _) = scratch.domain.select_nth_unstable(needed - 1);
            let key = (last.0, table.members(domain).len(), std::cmp::Reverse(domain));
            if best.is_none_or(|best| key < best) {
                best = Some(key);
                std::mem::swap(&mut scratch.best, &mut scratch.domain);
            }
        }
        if let Some((starts_at, _, _)) = best {
            let mut nodes: Vec<NodeIx> = scratch.best[..needed].iter().map(|(_, _, node)| node.0).collect();
            nodes.sort_unstable();
            return Some((starts_at.max(now), nodes));
        }
    }
    None
}

/// When a node that is not promised yet could hold one member.
fn node_free_at(state: &State, shape: &Shape, classes: u64, node: NodeIx, now: At) -> At {
    let at = node.at();
    if state.nodes.reserved[at].is_some()
        || state.nodes.health[at] != Health::Ready
        || classes >> state.nodes.class[at] & 1 == 0
        || !state.nodes.allowed(node, shape)
        || !state.nodes.capacity[at].could_hold(shape)
    {
        return At::NEVER;
    }
    let free_at = state.free_at(node, shape, now);
    state.nodes.held_until[at].map_or(free_at, |until| until.max(free_at))
}
