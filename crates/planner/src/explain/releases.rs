//! What ends when, as far as was said: by it the time is found at which nothing is in the way any more.

use std::collections::{BTreeMap, BTreeSet};

use super::Explainer;
use super::ask::Ask;
use super::census::{Place, holds, with_back};
use crate::fleet::{Amount, Lease};
use crate::pack::NodeFree;
use crate::planner::amount;
use crate::reason::{Awaited, Cause};
use crate::request::Request;
use crate::state::topology::{NodeIx, narrow};
use crate::units::{At, LeaseId, QueueId};

/// Ends that are looked at in one pass. A look is some tens of nanoseconds, and waits are foretold for requests with
/// a promise in any case: the limit keeps a pass within its milliseconds, and what it leaves out is not said.
const LOOKS: usize = 40_000;

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Maintenance of a node.
    Hold(NodeIx),
    /// A lease, by its place among those with an end.
    Lease(usize),
    /// A grant of this pass, by its place.
    Taken(usize),
}

/// Everything that ends, in order.
#[derive(Debug)]
pub(super) struct Releases {
    ends: Vec<(At, What)>,
    leases: Vec<LeaseId>,
    looks_left: usize,
}

/// What is free once some of it has ended.
struct Future {
    at: At,
    free: BTreeMap<NodeIx, NodeFree>,
    served: BTreeSet<NodeIx>,
    freed: BTreeMap<QueueId, Amount>,
    /// What was given back to the power tree, to be committed again.
    watts: Vec<(crate::units::PowerId, crate::units::TenantClass, i64)>,
}

impl Explainer<'_> {
    /// When nothing is in the way any more if everything ends when it said, and the last end that it takes.
    pub(super) fn wait(&mut self, ask: &Ask, obstacles: &[Cause]) -> Option<(At, Awaited)> {
        let mut releases = match self.releases.take() {
            Some(releases) => releases,
            None => self.list_releases(),
        };
        let found = self.walk(ask, obstacles, &mut releases);
        self.releases = Some(releases);
        found
    }

    /// Leases on nodes that could do, which never said when they end.
    pub(super) fn ends_unknown(&self, ask: &Ask) -> u32 {
        narrow(self.endless(ask).len())
    }

    /// The same, by number.
    pub(super) fn endless(&self, ask: &Ask) -> Vec<LeaseId> {
        let state = self.facts.state;
        let endless = state.leases.iter().filter(|held| held.lease.ends_at.is_none());
        let in_the_way = endless.filter(|held| {
            held.nodes.iter().any(|node| {
                state.nodes.in_service(*node)
                    && state.nodes.allowed(*node, &ask.shape)
                    && state.nodes.capacity[node.at()].could_hold(&ask.shape)
                    && !state.could_place(*node, &ask.shape)
            })
        });
        in_the_way.map(|held| held.lease.id).collect()
    }

    /// Whether nothing is in the way once this lease has ended.
    pub(super) fn starts_without(&mut self, ask: &Ask, lease: LeaseId) -> bool {
        let mut future = self.future(ask);
        self.pass(ask, &mut future, self.facts.now, What::Lease(0), &[lease]);
        let starts = self.starts_in(ask, &future);
        self.present(future);
        starts
    }

    fn list_releases(&self) -> Releases {
        let now = self.facts.now;
        let mut ends = Vec::new();
        let mut leases = Vec::new();
        for held in self.facts.state.leases.iter() {
            let end = held.expected_end(now);
            if end != At::NEVER {
                ends.push((end, What::Lease(leases.len())));
                leases.push(held.lease.id);
            }
        }
        for (place, taken) in self.facts.taken.iter().enumerate() {
            if let Some(seconds) = taken.request.run_seconds {
                ends.push((now.plus(i64::from(seconds)), What::Taken(place)));
            }
        }
        for row in self.census().rows() {
            if let Place::Held(until) = row.place {
                ends.extend(row.nodes.iter().map(|node| (until, What::Hold(*node))));
            }
        }
        ends.sort_unstable();
        Releases { ends, leases, looks_left: LOOKS }
    }

    fn walk(&mut self, ask: &Ask, obstacles: &[Cause], releases: &mut Releases) -> Option<(At, Awaited)> {
        let mut future = self.future(ask);
        let by_power = obstacles.iter().any(|cause| matches!(cause, Cause::Power { .. }));
        let mut found = None;
        let mut at = 0;
        while at < releases.ends.len() && releases.looks_left > 0 {
            // All that ends in the same second ends together.
            let end = releases.ends[at].0;
            let mut helps = by_power;
            while at < releases.ends.len() && releases.ends[at].0 == end {
                helps |= self.pass(ask, &mut future, end, releases.ends[at].1, &releases.leases);
                releases.looks_left = releases.looks_left.saturating_sub(1);
                at += 1;
            }
            if helps && self.starts_in(ask, &future) {
                found = Some((end, at - 1));
                break;
            }
        }
        self.present(future);
        let (end, last) = found?;
        let (_, what) = releases.ends[last];
        let mut alone = self.future(ask);
        self.pass(ask, &mut alone, end, what, &releases.leases);
        let is_enough = self.starts_in(ask, &alone);
        self.present(alone);
        Some((end, self.awaited(what, is_enough, &releases.leases)))
    }

    fn awaited(&self, what: What, is_enough: bool, leases: &[LeaseId]) -> Awaited {
        match what {
            What::Lease(place) if is_enough => Awaited::Lease(leases[place]),
            What::Lease(place) => Awaited::Leases { last: leases[place] },
            What::Taken(place) => Awaited::Request(self.facts.taken[place].request.id),
            What::Hold(node) => Awaited::Maintenance(self.facts.state.topology.id(node)),
        }
    }

    /// Nothing has ended yet.
    fn future(&self, ask: &Ask) -> Future {
        let served = self.candidates(ask).into_iter().collect();
        Future { at: self.facts.now, free: BTreeMap::new(), served, freed: BTreeMap::new(), watts: Vec::new() }
    }

    /// Commits again what was given back.
    fn present(&mut self, future: Future) {
        for (leaf, class, watts) in future.watts {
            self.facts.power.add(leaf, class, watts);
        }
    }

    /// Something ends; whether that could matter to this ask.
    fn pass(&mut self, ask: &Ask, future: &mut Future, end: At, what: What, leases: &[LeaseId]) -> bool {
        future.at = end;
        let state = self.facts.state;
        match what {
            What::Hold(node) => self.serve(ask, future, node),
            What::Lease(place) => {
                let Some(held) = state.leases.find(leases[place]) else { return false };
                let Lease { request, grants, .. } = &held.lease;
                let mut helps = self.refund(ask, future, request, grants.len());
                for (grant, node) in grants.iter().zip(&held.nodes) {
                    helps |= self.give(ask, future, *node, grant.gpus, request);
                }
                helps
            }
            What::Taken(place) => {
                let taken = self.facts.taken[place];
                let helps = self.refund(ask, future, taken.request, 1);
                helps | self.give(ask, future, taken.node, taken.gpus, taken.request)
            }
        }
    }

    fn refund(&self, ask: &Ask, future: &mut Future, request: &Request, nodes: usize) -> bool {
        let amount = amount(self.facts.spec, &request.shape, i64::from(narrow(nodes)));
        let queues = &self.facts.spec.queues;
        let above = |queue: QueueId| {
            let up = |queue: &QueueId| queues.get(queue.0 as usize).and_then(|spec| spec.parent);
            std::iter::successors(Some(queue), up).take(queues.len())
        };
        let mut helps = false;
        for queue in above(request.queue) {
            if above(ask.queue).any(|own| own == queue) {
                let freed = future.freed.entry(queue).or_default();
                *freed = freed.plus(&amount);
                helps = true;
            }
        }
        helps
    }

    fn give(
        &mut self,
        ask: &Ask,
        future: &mut Future,
        node: NodeIx,
        gpus: crate::plan::GpuGrant,
        request: &Request,
    ) -> bool {
        let state = self.facts.state;
        if request.shape.peak_watts > 0 && ask.shape.peak_watts > 0 {
            let (leaf, watts) = (state.nodes.power[node.at()], i64::from(request.shape.peak_watts));
            self.facts.power.remove(leaf, request.class, watts);
            future.watts.push((leaf, request.class, watts));
        }
        let free = future.free.entry(node).or_insert(state.nodes.free[node.at()]);
        *free = with_back(free, gpus, &request.shape);
        self.serve(ask, future, node)
    }

    /// Notes that a node would take a member from now on, if it does.
    fn serve(&self, ask: &Ask, future: &mut Future, node: NodeIx) -> bool {
        let state = self.facts.state;
        let at = node.at();
        let promised_away = state.nodes.reserved[at].is_some_and(|request| request != ask.request);
        let in_service = state.nodes.health[at] == crate::fleet::Health::Ready
            && state.nodes.held_until[at].is_none_or(|until| until <= future.at);
        if promised_away || !in_service || future.served.contains(&node) || !state.nodes.allowed(node, &ask.shape) {
            return false;
        }
        let free = future.free.get(&node).unwrap_or(&state.nodes.free[at]);
        let fits = holds(self.facts.spec, state.nodes.model[at], free, &ask.shape);
        if fits {
            future.served.insert(node);
        }
        fits
    }

    fn starts_in(&mut self, ask: &Ask, future: &Future) -> bool {
        let needed = ask.needed() as usize;
        if future.served.len() < needed {
            return false;
        }
        let within_quota = self.quotas(ask).all(|(queue, cause)| match cause {
            Cause::Quota { resource, limit, used, asked, .. } => {
                let freed = future.freed.get(&queue).copied().unwrap_or_default();
                used - freed.of(resource) + asked <= limit
            }
            _ => true,
        });
        if !within_quota {
            return false;
        }
        let nodes: Vec<NodeIx> = future.served.iter().copied().collect();
        let domains = self.domains(ask, &nodes);
        let enough = domains.iter().filter(|best| best.nodes.len() >= needed);
        let mut enough = enough.map(|best| best.nodes.as_slice());
        if ask.shape.peak_watts == 0 {
            return enough.next().is_some();
        }
        enough.any(|nodes| self.powered_first(ask, nodes, needed).0 == needed)
    }
}
