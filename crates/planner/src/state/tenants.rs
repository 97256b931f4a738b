//! What lies on each node, and until when: leases and proposed placements alike, so that the end of each is known
//! without asking who they are.
//!
//! INVARIANT: what is free on a node and what its tenants have are together its capacity.

use crate::plan::GpuGrant;
use crate::state::topology::NodeIx;
use crate::units::At;

/// A part of a node that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenant {
    pub(crate) gpus: GpuGrant,
    pub(crate) cpu_milli: u32,
    pub(crate) memory_mib: u32,
    /// `NEVER` when nobody said.
    pub(crate) ends_at: At,
}

/// An overrun lease is expected to last so many seconds more: a minute, after which it is asked again.
pub(crate) const OVERRUN_SECONDS: i64 = 60;

/// When something that should end at `ends_at` is expected to, seen from `now`.
pub(crate) fn expected_end(ends_at: At, now: At) -> At {
    if ends_at > now { ends_at } else { now.plus(OVERRUN_SECONDS) }
}

/// All tenants, by node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tenants {
    of: Vec<Vec<Tenant>>,
    /// By node: the first and the last end; both `NEVER` on an empty node.
    first_end: Vec<At>,
    last_end: Vec<At>,
}

impl Tenants {
    /// Nobody anywhere.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { of: vec![Vec::new(); nodes], first_end: vec![At::NEVER; nodes], last_end: vec![At::NEVER; nodes] }
    }

    /// Those on a node, in no order.
    pub(crate) fn on(&self, node: NodeIx) -> &[Tenant] {
        &self.of[node.at()]
    }

    /// When the whole node is expected to be empty, where somebody is on it.
    pub(crate) fn all_gone_at(&self, node: NodeIx, now: At) -> At {
        let (first, last) = (self.first_end[node.at()], self.last_end[node.at()]);
        // Of several that have overrun none ends before the others: the last end decides, but not before a minute.
        if first > now { last } else { last.max(now.plus(OVERRUN_SECONDS)) }
    }

    /// Whether somebody on a node should have left by now.
    pub(crate) fn has_overrun(&self, node: NodeIx, now: At) -> bool {
        self.first_end[node.at()] <= now
    }

    /// Whether somebody should have left by now, and all others within the time that he is thought to stay.
    pub(crate) fn all_overrun_by(&self, node: NodeIx, now: At) -> bool {
        self.has_overrun(node, now) && self.last_end[node.at()] <= now.plus(OVERRUN_SECONDS)
    }

    /// One more.
    pub(crate) fn insert(&mut self, node: NodeIx, tenant: Tenant) {
        let is_first = self.of[node.at()].is_empty();
        self.of[node.at()].push(tenant);
        let (first, last) = (&mut self.first_end[node.at()], &mut self.last_end[node.at()]);
        *first = (*first).min(tenant.ends_at);
        *last = if is_first { tenant.ends_at } else { (*last).max(tenant.ends_at) };
    }

    /// One less.
    pub(crate) fn remove(&mut self, node: NodeIx, tenant: Tenant) {
        let all = &mut self.of[node.at()];
        if let Some(place) = all.iter().position(|other| *other == tenant) {
            all.swap_remove(place);
        } else {
            debug_assert!(false, "{tenant:?} is not on {node:?}");
        }
        self.first_end[node.at()] = all.iter().map(|tenant| tenant.ends_at).min().unwrap_or(At::NEVER);
        self.last_end[node.at()] = all.iter().map(|tenant| tenant.ends_at).max().unwrap_or(At::NEVER);
    }
}
