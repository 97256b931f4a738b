//! Waiting for nearness: a gang that could start over more domains of the level it prefers than it needs may rather
//! wait a while for a promise over fewer.
//!
//! It waits only for a promise: nodes that are known to be free in time are kept for it, and others use them until then
//! if they end before. When the promised instant has passed it starts wherever it can, so that it waits at most its
//! patience for this, unless leases stay longer than they said.
//! Deliberately absent: gangs of no fixed size, which take what there is, and those that are to be near a lease.

use crate::fleet::Level;
use crate::request::{Request, Shape};
use crate::reserve::{self, Near, Promise};
use crate::state::State;
use crate::state::topology::{NO_DOMAIN, NodeIx, narrow};
use crate::units::At;

use super::Planner;
use super::pass::seconds;
use super::requests::Slot;

impl Planner {
    /// Takes nodes that were found for a gang, unless it waits for nearness: then their watts are given back.
    pub(super) fn propose_near(&mut self, slot: Slot, shape: &Shape, chosen: &[NodeIx]) {
        if !self.waits_for_nearness(slot, shape, chosen) {
            return self.propose_chosen(slot, shape, chosen);
        }
        let request = &self.requests.get(slot).request;
        let class = request.class;
        self.pass.choosy.push(request.id);
        for node in chosen {
            self.power.remove(self.state.nodes.power[node.at()], class, i64::from(shape.peak_watts));
        }
    }

    /// Instead of a promise that was found, one over fewer domains within the patience after it, or one over as many
    /// that starts earlier: what was found may lie nearer than was preferred.
    pub(super) fn nearer(&mut self, slot: Slot, starts_at: At, nodes: Vec<NodeIx>) -> (At, Vec<NodeIx>) {
        let request = &self.requests.get(slot).request;
        let spanned = self.spanned(&request.shape, &nodes);
        let Some((latest, spanned)) = self.latest_for_nearness(request, starts_at).zip(spanned) else {
            return (starts_at, nodes);
        };
        self.nearest(slot, latest, spanned + 1).unwrap_or((starts_at, nodes))
    }

    /// Whether a gang that could start on these nodes waits for a promise over fewer domains; it gets one where it has
    /// none, or only one that is too far.
    fn waits_for_nearness(&mut self, slot: Slot, shape: &Shape, chosen: &[NodeIx]) -> bool {
        let now = self.pass.now;
        let request = &self.requests.get(slot).request;
        let (id, queue) = (request.id, request.queue);
        let Some(latest) = self.latest_for_nearness(request, now) else { return false };
        let Some(spanned) = self.beyond_fewest(shape, chosen) else { return false };
        match self.promises.get(id) {
            // Its instant has passed: something else than time is in the way.
            Some(promise) if promise.starts_at <= now => return false,
            Some(promise) if promise.starts_at <= latest => {
                return self.spanned(shape, &promise.nodes).is_some_and(|promised| promised < spanned);
            }
            Some(_) | None if self.pass.nearness_left == 0 => return false,
            Some(_) | None => {}
        }
        // What is free now and was not chosen lacks something else.
        let found = self.nearest(slot, latest, spanned).filter(|(starts_at, _)| *starts_at > now);
        let Some((starts_at, nodes)) = found else { return false };
        let before = self.leave_promise(id, &nodes);
        self.pass.nearness_left = self.pass.nearness_left.saturating_sub(1);
        self.pass.longest_gap = self.pass.longest_gap.max(seconds(starts_at.since(now)));
        self.note_promised(id, before);
        let amount = self.amount(shape, nodes.len());
        let (stops, for_nearness) = (Vec::new(), true);
        self.keep_promise(
            id,
            Promise { starts_at, nodes, stops, for_nearness, queue, amount, told: false, missing: 0 },
        );
        true
    }

    fn nearest(&mut self, slot: Slot, latest: At, below: u32) -> Option<(At, Vec<NodeIx>)> {
        let waiting = self.requests.get(slot);
        let (shape, request) = (waiting.request.shape, waiting.request.id);
        let classes = self.shapes.get(self.requests.list(waiting.list).shape).classes;
        let own = self.promises.get(request).map_or(&[][..], |promise| &promise.nodes);
        let near = Near { latest, below, own };
        reserve::nearest(&mut self.state, &shape, classes, self.pass.now, &near, &mut self.reserve_scratch)
    }

    /// Until when a request that could start then may wait for nearness; `None`: not at all.
    fn latest_for_nearness(&self, request: &Request, start: At) -> Option<At> {
        let policy = &self.spec.policy;
        let nodes = request.shape.nodes;
        if nodes.min != nodes.max || nodes.max < 2 || request.near.is_some() || policy.nearness_milli == 0 {
            return None;
        }
        let most = i64::from(policy.nearness_seconds);
        let run_seconds = request.run_seconds.map(i64::from);
        let share = run_seconds.map_or(most, |run| run.saturating_mul(i64::from(policy.nearness_milli)) / 1000);
        let latest = start.plus(share.min(most));
        // A deadline is not missed for it; without a run time nobody knows.
        let in_time =
            request.deadline.map_or(latest, |at| run_seconds.map_or(start, |run| At(at.0.saturating_sub(run))));
        Some(latest.min(in_time)).filter(|latest| *latest > start)
    }

    /// Domains of the preferred level that nodes span, where fewer could hold as many.
    fn beyond_fewest(&self, shape: &Shape, nodes: &[NodeIx]) -> Option<u32> {
        let table = &self.state.topology.tables()[self.state.topology.table_of(shape.prefer?)?];
        let largest = (0..narrow(table.len())).map(|domain| table.members(domain).len()).max()?;
        let fewest = narrow(nodes.len().div_ceil(largest.max(1)));
        self.spanned(shape, nodes).filter(|spanned| *spanned > fewest)
    }

    /// Domains of the preferred level that nodes span.
    fn spanned(&self, shape: &Shape, nodes: &[NodeIx]) -> Option<u32> {
        spanned(&self.state, shape.prefer?, nodes)
    }
}

/// Domains of a level that nodes span; `None` where some stand in none.
pub(crate) fn spanned(state: &State, level: Level, nodes: &[NodeIx]) -> Option<u32> {
    let table = &state.topology.tables()[state.topology.table_of(level)?];
    let mut domains: Vec<u32> = nodes.iter().map(|node| table.domain_of[node.at()]).collect();
    domains.sort_unstable();
    domains.dedup();
    (domains.last() != Some(&NO_DOMAIN)).then(|| narrow(domains.len()))
}

#[cfg(test)]
mod tests;
