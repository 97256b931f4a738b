//! Who may ask for what, and what is there once all have left that stop already.
//!
//! Deliberately absent: which leases would go, and whether that is worth it.

use std::collections::BTreeSet;

use crate::fleet::Amount;
use crate::preempt;
use crate::request::Shape;
use crate::state::topology::{NodeIx, narrow};
use crate::units::{LeaseId, PowerId, QueueId, TenantClass};

use super::super::Planner;
use super::super::requests::{ListIx, Slot};

/// Who may ask for what, in one pass; counted again when leases have given way to somebody.
#[derive(Debug, Clone, Default)]
pub(super) struct Rights {
    /// By queue: what requests of it, not of those below it, were promised.
    promised: Vec<Amount>,
    /// By queue: what it is charged for beside leases that stay.
    pub(super) pending: Vec<Amount>,
    /// By queue: whether its leases have more than it is guaranteed.
    is_borrowing: Vec<bool>,
    /// Leases that stop already, those that give way in this pass among them.
    pub(super) stopping: BTreeSet<LeaseId>,
    pub(super) leaving: Leaving,
}

/// What changes when those have left that stop, and all for whom they do have started.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaving {
    /// By queue: what is given back in it and below it. What they stop for is charged already.
    pub(super) amounts: Vec<Amount>,
    watts: Vec<Watts>,
    /// Nodes on which somebody found room who asked before.
    pub(super) awaited: BTreeSet<NodeIx>,
}

/// Watts that will be drawn at a point, or no more.
#[derive(Debug, Clone, Copy)]
struct Watts {
    point: PowerId,
    class: TenantClass,
    watts: i64,
    is_drawn: bool,
}

/// Somebody who waits for nodes that are being freed for others.
#[derive(Debug, Clone)]
pub(super) struct Awaiting {
    pub(super) slot: Slot,
    pub(super) nodes: Vec<NodeIx>,
}

impl Planner {
    /// Who owes whom, as leases and promises are now.
    pub(super) fn rights(&self, awaiting: &[Awaiting]) -> Rights {
        let queues = self.requests.queues();
        let mut rights = Rights {
            promised: vec![Amount::default(); queues],
            stopping: self.promises.stopping().collect(),
            ..Rights::default()
        };
        rights.leaving = self.leaving(&rights.stopping, awaiting);
        for (_, promise) in self.promises.iter() {
            let sum = &mut rights.promised[promise.queue.0 as usize];
            *sum = sum.plus(&promise.amount);
        }
        let all = || (0..queues).map(|queue| QueueId(narrow(queue)));
        let is_owed = |queue: QueueId| {
            let back = Amount::default().minus(&rights.promised[queue.0 as usize]);
            !self.requests.lists_of(queue).is_empty()
                && self.shares.above(queue).any(|above| self.shares.is_guaranteed(above, &back))
        };
        if !all().any(is_owed) {
            rights.pending = vec![Amount::default(); queues];
            rights.is_borrowing = vec![false; queues];
            return rights;
        }
        rights.pending = all().map(|queue| self.shares.used(queue)).collect();
        for (queue, amount) in self.state.leases.charged() {
            for above in self.shares.above(queue) {
                let pending = &mut rights.pending[above.0 as usize];
                *pending = pending.minus(amount);
            }
        }
        for held in rights.stopping.iter().filter_map(|lease| self.state.leases.find(*lease)) {
            for above in self.shares.above(held.lease.request.queue) {
                let pending = &mut rights.pending[above.0 as usize];
                *pending = pending.plus(&held.amount);
            }
        }
        rights.is_borrowing =
            all().map(|queue| self.shares.is_borrowing(queue, &rights.pending[queue.0 as usize])).collect();
        rights
    }

    fn leaving(&self, stopping: &BTreeSet<LeaseId>, awaiting: &[Awaiting]) -> Leaving {
        let mut leaving = Leaving { amounts: vec![Amount::default(); self.requests.queues()], ..Leaving::default() };
        for held in stopping.iter().filter_map(|lease| self.state.leases.find(*lease)) {
            let request = &held.lease.request;
            for above in self.shares.above(request.queue) {
                let amount = &mut leaving.amounts[above.0 as usize];
                *amount = amount.plus(&held.amount);
            }
            leaving.watts.extend(self.draws(&held.nodes, request.class, &request.shape, false));
        }
        for (id, promise) in self.promises.iter().filter(|(_, promise)| !promise.stops.is_empty()) {
            let Some(slot) = self.requests.find(id) else { continue };
            let request = &self.requests.get(slot).request;
            leaving.watts.extend(self.draws(&promise.nodes, request.class, &request.shape, true));
        }
        for one in awaiting {
            let request = &self.requests.get(one.slot).request;
            let amount = self.amount(&request.shape, one.nodes.len());
            for above in self.shares.above(request.queue) {
                let left = &mut leaving.amounts[above.0 as usize];
                *left = left.minus(&amount);
            }
            leaving.watts.extend(self.draws(&one.nodes, request.class, &request.shape, true));
            leaving.awaited.extend(&one.nodes);
        }
        leaving
    }

    /// What members of a shape draw on these nodes.
    fn draws(
        &self,
        nodes: &[NodeIx],
        class: TenantClass,
        shape: &Shape,
        is_drawn: bool,
    ) -> impl Iterator<Item = Watts> {
        let watts = i64::from(shape.peak_watts);
        nodes.iter().map(move |node| Watts { point: self.state.nodes.power[node.at()], class, watts, is_drawn })
    }

    /// Changes the power tree to what it will be once they have left, or back.
    pub(super) fn let_leave(&mut self, leaving: &Leaving, is_back: bool) {
        for one in &leaving.watts {
            if one.is_drawn == is_back {
                self.power.remove(one.point, one.class, one.watts);
            } else {
                self.power.add(one.point, one.class, one.watts);
            }
        }
    }

    /// Of a list's queue and those above it: which would stay within their guarantee, whatever a request of it was
    /// promised; a bit each, from below.
    pub(super) fn owed_to(&self, list: ListIx, rights: &Rights) -> u32 {
        let asking = self.requests.list(list);
        let shape = &self.shapes.get(asking.shape).kind.shape;
        let amount = self.amount(shape, usize::from(shape.nodes.min));
        let asked = amount.minus(&rights.promised[asking.queue.0 as usize]);
        let above = self.shares.above(asking.queue).zip(0_u32..32);
        let owed = above.filter(|(queue, _)| self.shares.is_guaranteed(*queue, &asked));
        owed.fold(0, |bits, (_, depth)| bits | 1 << depth)
    }

    /// Queues whose leases may be stopped for these of the queues above one; by number.
    pub(super) fn lenders(&self, queue: QueueId, owed: u32, rights: &Rights) -> Vec<QueueId> {
        let lends = |lender: &QueueId| {
            let Some((asking, _)) = self.shares.fork(queue, *lender) else { return false };
            let depth = self.shares.above(queue).position(|above| above == asking);
            depth.is_some_and(|depth| owed >> depth.min(31) & 1 == 1)
                && preempt::lenders(&self.shares, queue, *lender).all(|queue| rights.is_borrowing[queue.0 as usize])
        };
        let with_leases = self.state.leases.charged().map(|(queue, _)| queue);
        with_leases.filter(lends).collect()
    }
}
