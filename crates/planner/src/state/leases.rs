//! Who has what: leases, and those on each node.
//!
//! INVARIANT: a node's list holds the leases with a grant on it, by lease number; places in the slab say nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::{Amount, Lease};
use crate::request::Stop;
use crate::state::tenants::expected_end;
use crate::state::topology::{NodeIx, narrow};
use crate::units::{At, LeaseId, QueueId, RequestId};

/// A lease's place in the slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LeaseIx(u32);

/// A lease and the places of its nodes, in the order of its grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) nodes: Vec<NodeIx>,
    /// What its queue is charged for it.
    pub(crate) amount: Amount,
}

impl Held {
    /// When it is expected to end, seen from `now`.
    pub(crate) fn expected_end(&self, now: At) -> At {
        expected_end(self.lease.ends_at.unwrap_or(At::NEVER), now)
    }
}

/// All leases.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leases {
    slots: Vec<Option<Held>>,
    vacant: Vec<u32>,
    by_id: BTreeMap<LeaseId, LeaseIx>,
    by_request: BTreeMap<RequestId, LeaseIx>,
    on_node: Vec<Vec<LeaseIx>>,
    /// All by their end as it was said; `NEVER` where nobody said.
    ends: BTreeSet<(At, LeaseId)>,
    /// Those that may be stopped, by queue and priority.
    stoppable: BTreeMap<(QueueId, i16), Band>,
    /// What all leases of a queue are charged together.
    charged: BTreeMap<QueueId, Amount>,
}

/// Leases of one queue and priority that may be stopped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Band {
    leases: BTreeSet<LeaseIx>,
    /// Their nodes, each as often as it has one of them.
    pub(crate) nodes: usize,
    /// What their queue is charged for them.
    pub(crate) amount: Amount,
}

impl Band {
    /// In no order that means anything.
    pub(crate) fn leases(&self) -> impl Iterator<Item = LeaseIx> {
        self.leases.iter().copied()
    }
}

impl Leases {
    /// None yet.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { on_node: vec![Vec::new(); nodes], ..Self::default() }
    }

    /// The lease with this number.
    pub(crate) fn find(&self, id: LeaseId) -> Option<&Held> {
        self.by_id.get(&id).map(|ix| self.get(*ix))
    }

    /// The lease that came from this request.
    pub(crate) fn of_request(&self, request: RequestId) -> Option<&Held> {
        self.by_request.get(&request).map(|ix| self.get(*ix))
    }

    /// The lease with this number, to be changed in what it does not hold by: its ends.
    pub(crate) fn find_mut(&mut self, id: LeaseId) -> Option<&mut Held> {
        let ix = *self.by_id.get(&id)?;
        self.slots[ix.0 as usize].as_mut()
    }

    /// A lease by its place.
    pub(crate) fn get(&self, ix: LeaseIx) -> &Held {
        self.slots[ix.0 as usize].as_ref().expect("a place is given out only while it is filled")
    }

    /// All, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.by_id.values().map(|ix| self.get(*ix))
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Those with a grant on a node, by number.
    pub(crate) fn on_node(&self, node: NodeIx) -> impl ExactSizeIterator<Item = &Held> {
        self.on_node[node.at()].iter().map(|ix| self.get(*ix))
    }

    /// Those that end within a range of instants, by their end.
    pub(crate) fn ending(&self, from: At, to: At) -> impl Iterator<Item = (At, LeaseId)> {
        self.ends.range((from, LeaseId(0))..=(to, LeaseId(u64::MAX))).copied()
    }

    /// Another end; answers with the one of before.
    pub(crate) fn set_end(&mut self, id: LeaseId, ends_at: Option<At>) -> Option<At> {
        let held = self.find_mut(id)?;
        let before = std::mem::replace(&mut held.lease.ends_at, ends_at).unwrap_or(At::NEVER);
        self.ends.remove(&(before, id));
        self.ends.insert((ends_at.unwrap_or(At::NEVER), id));
        Some(before)
    }

    /// Those of a queue that may be stopped and have a lower priority; those with the lowest first.
    pub(crate) fn below(&self, queue: QueueId, priority: i16) -> impl Iterator<Item = &Band> {
        self.stoppable.range((queue, i16::MIN)..(queue, priority)).map(|(_, band)| band)
    }

    /// Whether some lease may be stopped.
    pub(crate) fn is_any_stoppable(&self) -> bool {
        !self.stoppable.is_empty()
    }

    /// Those of a queue that may be stopped; those with the lowest priority first.
    pub(crate) fn stoppable(&self, queue: QueueId) -> impl Iterator<Item = &Band> {
        self.stoppable.range((queue, i16::MIN)..=(queue, i16::MAX)).map(|(_, band)| band)
    }

    /// What the leases of each queue are charged together, by queue.
    pub(crate) fn charged(&self) -> impl Iterator<Item = (QueueId, &Amount)> {
        self.charged.iter().map(|(queue, amount)| (*queue, amount))
    }

    fn count(&mut self, ix: LeaseIx) {
        let held = self.get(ix);
        let (request, nodes, amount) = (&held.lease.request, held.nodes.len(), held.amount);
        let (queue, key, stop) = (request.queue, (request.queue, request.priority), request.stop);
        let charged = self.charged.entry(queue).or_default();
        *charged = charged.plus(&amount);
        if stop != Stop::Never {
            let band = self.stoppable.entry(key).or_default();
            band.leases.insert(ix);
            band.nodes += nodes;
            band.amount = band.amount.plus(&amount);
        }
    }

    fn uncount(&mut self, ix: LeaseIx, held: &Held) {
        let request = &held.lease.request;
        if let Some(charged) = self.charged.get_mut(&request.queue) {
            *charged = charged.minus(&held.amount);
        }
        let key = (request.queue, request.priority);
        let Some(band) = self.stoppable.get_mut(&key) else { return };
        if !band.leases.remove(&ix) {
            return;
        }
        band.nodes -= held.nodes.len();
        band.amount = band.amount.minus(&held.amount);
        if band.leases.is_empty() {
            self.stoppable.remove(&key);
        }
    }

    /// One more.
    pub(crate) fn insert(&mut self, held: Held) {
        let (id, request) = (held.lease.id, held.lease.request.id);
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            narrow(self.slots.len() - 1)
        });
        let ix = LeaseIx(slot);
        for node in &held.nodes {
            let slots = &self.slots;
            let list = &mut self.on_node[node.at()];
            let number = |other: &LeaseIx| slots[other.0 as usize].as_ref().map(|held| held.lease.id);
            let place = list.partition_point(|other| number(other) < Some(id));
            list.insert(place, ix);
        }
        self.ends.insert((held.lease.ends_at.unwrap_or(At::NEVER), id));
        self.slots[slot as usize] = Some(held);
        self.by_id.insert(id, ix);
        self.by_request.insert(request, ix);
        self.count(ix);
    }

    /// One less.
    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<Held> {
        let ix = self.by_id.remove(&id)?;
        let held = self.slots[ix.0 as usize].take()?;
        self.by_request.remove(&held.lease.request.id);
        self.ends.remove(&(held.lease.ends_at.unwrap_or(At::NEVER), id));
        self.uncount(ix, &held);
        for node in &held.nodes {
            self.on_node[node.at()].retain(|other| *other != ix);
        }
        self.vacant.push(ix.0);
        Some(held)
    }
}
