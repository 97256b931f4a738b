//! What the last pass proposed and nobody has carried out yet: it stays taken until the next call.

use crate::plan::GpuGrant;
use crate::request::Shape;
use crate::reserve::Promise;
use crate::state::tenants::Tenant;
use crate::state::topology::NodeIx;
use crate::units::{At, RequestId};

use super::Planner;
use super::requests::Slot;

/// A placement that was proposed.
#[derive(Debug, Clone)]
pub(super) struct Proposal {
    pub(super) slot: Slot,
    /// When it will end, if it starts now.
    pub(super) ends_at: At,
    /// Its grants: a range of `Proposals::grants`.
    pub(super) grants: std::ops::Range<usize>,
    /// The promise that it made good.
    pub(super) promise: Option<Promise>,
    /// Carried out.
    pub(super) told: bool,
}

/// All that was proposed.
#[derive(Debug, Clone, Default)]
pub(super) struct Proposals {
    pub(super) placed: Vec<Proposal>,
    pub(super) grants: Vec<(NodeIx, GpuGrant)>,
    /// Promises made in the last pass, and those that they replaced.
    pub(super) promised: Vec<(RequestId, Option<Promise>)>,
}

impl Proposals {
    /// A proposal's grants.
    pub(super) fn grants_of(&self, proposal: &Proposal) -> &[(NodeIx, GpuGrant)] {
        &self.grants[proposal.grants.clone()]
    }
}

impl Planner {
    /// Takes what was found for a request: its watts are committed by then.
    pub(super) fn propose(&mut self, slot: Slot, grants: impl Iterator<Item = (NodeIx, GpuGrant)>) {
        let start = self.proposals.grants.len();
        self.proposals.grants.extend(grants);
        let grants = start..self.proposals.grants.len();
        let waiting = self.requests.get(slot);
        let (shape, queue, id) = (waiting.request.shape, waiting.request.queue, waiting.request.id);
        let run_seconds = waiting.request.run_seconds;
        let ends_at = run_seconds.map_or(At::NEVER, |seconds| self.pass.now.plus(i64::from(seconds)));
        for (node, gpus) in &self.proposals.grants[grants.clone()] {
            self.state.take(*node, tenant(&shape, *gpus, ends_at));
        }
        let promise = self.make_good(id);
        let amount = self.amount(&shape, grants.len());
        self.shares.charge(queue, &amount);
        self.requests.get_mut(slot).proposal = Some(crate::state::topology::narrow(self.proposals.placed.len()));
        self.proposals.placed.push(Proposal { slot, ends_at, grants, promise, told: false });
    }

    /// Forgets a promise; its queue is not charged for it any more.
    pub(super) fn drop_promise(&mut self, request: RequestId) -> Option<Promise> {
        let promise = self.promises.remove(&mut self.state, request)?;
        self.shares.refund(promise.queue, &promise.amount);
        self.stamps.promises += 1;
        Some(promise)
    }

    /// Takes out the promise of a request that starts. Nodes that it does not need after all go to others only after
    /// the round: who comes first in it must not depend on which lists were known to be hopeless when it began.
    fn make_good(&mut self, request: RequestId) -> Option<Promise> {
        let promise = self.promises.remove_keeping_nodes(request)?;
        self.shares.refund(promise.queue, &promise.amount);
        self.pass.kept.extend_from_slice(&promise.nodes);
        Some(promise)
    }

    /// Takes out a promise that another replaces. Nodes that the other does not need go to others after the round, too.
    pub(super) fn leave_promise(&mut self, request: RequestId, needed: &[NodeIx]) -> Option<Promise> {
        let promise = self.promises.remove_keeping_nodes(request)?;
        self.shares.refund(promise.queue, &promise.amount);
        self.stamps.promises += 1;
        self.pass.kept.extend(promise.nodes.iter().filter(|node| needed.binary_search(node).is_err()));
        Some(promise)
    }

    /// A request was promised something in this pass; what it was promised before the pass stands first.
    pub(super) fn note_promised(&mut self, request: RequestId, before: Option<Promise>) {
        if self.proposals.promised.iter().all(|(other, _)| *other != request) {
            self.proposals.promised.push((request, before));
        }
    }

    /// Gives such nodes to all; `false` where there are none.
    pub(super) fn release_kept(&mut self) -> bool {
        let mut kept = std::mem::take(&mut self.pass.kept);
        let is_any = !kept.is_empty();
        for node in kept.drain(..) {
            self.state.reserve(node, None);
        }
        self.stamps.promises += u64::from(is_any);
        self.pass.kept = kept;
        is_any
    }

    /// Keeps a promise; its queue is charged for it.
    pub(super) fn keep_promise(&mut self, request: RequestId, promise: Promise) {
        self.shares.charge(promise.queue, &promise.amount);
        self.promises.insert(&mut self.state, request, promise);
    }

    /// Gives back what was proposed and not carried out.
    pub(super) fn settle(&mut self) {
        let mut proposals = std::mem::take(&mut self.proposals);
        let mut replaced = Vec::new();
        for (request, before) in proposals.promised.drain(..).rev() {
            if self.promises.get(request).is_some_and(|promise| promise.told) {
                continue;
            }
            self.drop_promise(request);
            // It may have started instead, or left.
            let Some(slot) = self.requests.find(request) else { continue };
            let shape = self.requests.get(slot).request.shape;
            replaced.extend(before.filter(|before| before.told).map(|before| (request, shape, before)));
        }
        let mut displaced = Vec::new();
        while let Some(mut proposal) = proposals.placed.pop() {
            if proposal.told {
                continue;
            }
            self.take_back(&proposal, proposals.grants_of(&proposal));
            let request = &self.requests.get(proposal.slot).request;
            let (id, shape) = (request.id, request.shape);
            self.stamps.power += 1;
            self.stamps.promises += 1;
            // One that nobody was told of goes with the answer that made it.
            let kept = proposal.promise.take().filter(|promise| promise.told);
            displaced.extend(kept.map(|promise| (id, shape, promise)));
        }
        proposals.grants.clear();
        self.proposals = proposals;
        for (request, shape, promise) in replaced.into_iter().chain(displaced) {
            if self.can_be_kept(&promise, &shape) {
                self.keep_promise(request, promise);
            }
        }
    }

    /// Gives back the nodes, watts and quota of a proposal.
    pub(super) fn take_back(&mut self, proposal: &Proposal, grants: &[(NodeIx, GpuGrant)]) {
        let waiting = self.requests.get_mut(proposal.slot);
        waiting.proposal = None;
        let (shape, queue, class) = (waiting.request.shape, waiting.request.queue, waiting.request.class);
        for (node, gpus) in grants {
            self.power.remove(self.state.nodes.power[node.at()], class, i64::from(shape.peak_watts));
            self.state.give(*node, tenant(&shape, *gpus, proposal.ends_at));
        }
        let amount = self.amount(&shape, grants.len());
        self.shares.refund(queue, &amount);
    }

    /// Whether a promise that was to be made good can stand again: since its nodes were given to all, somebody else may
    /// have been promised them, or been started there for longer.
    fn can_be_kept(&self, promise: &Promise, shape: &Shape) -> bool {
        promise.nodes.iter().all(|node| {
            self.state.nodes.reserved[node.at()].is_none()
                && self.state.free_at(*node, shape, At(i64::MIN)) <= promise.starts_at
        })
    }
}

/// What one member of a shape is to its node.
pub(super) fn tenant(shape: &Shape, gpus: GpuGrant, ends_at: At) -> Tenant {
    Tenant { gpus, cpu_milli: shape.cpu_milli, memory_mib: shape.memory_mib, ends_at }
}
