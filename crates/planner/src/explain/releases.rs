//! What ends when, as far as was said: by it the time is found at which nothing is in the way any more.

use std::collections::{BTreeMap, BTreeSet};

use super::Explainer;
use super::ask::Ask;
use super::census::{Place, holds, with_back};
use crate::fleet::{Amount, Lease};
use crate::pack::NodeFree;
use crate::planner::amount;
use crate::reason::{Awaited, Cause, ENDS_COUNTED};
use crate::request::Request;
use crate::state::topology::{NO_DOMAIN, NodeIx, narrow};
use crate::units::{At, LeaseId, QueueId};

/// Ends that are looked at for one shape, and in one pass. A look is some hundred nanoseconds, and the first in line
/// have a promise in any case: the limits keep a pass within its milliseconds, and what they leave out is not said.
const LOOKS_EACH: usize = 512;
const LOOKS: usize = 4096;
/// Leases without an end that are looked at for one shape.
const ENDLESS_LOOKS: usize = 512;

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Maintenance of a node.
    Hold(NodeIx),
    Lease(LeaseId),
    /// A grant of this pass, by its place.
    Taken(usize),
}

/// What ends beside leases that end as they said, in order; those stand in the state.
#[derive(Debug)]
pub(super) struct Releases {
    others: Vec<(At, What)>,
    looks_left: usize,
}

/// What is free once some of it has ended.
struct Future {
    at: At,
    free: BTreeMap<NodeIx, NodeFree>,
    served: BTreeSet<NodeIx>,
    /// How many of them are in each domain of the required level, and the most.
    domains: BTreeMap<u32, u32>,
    most: u32,
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

    /// Leases on nodes that could do, which never said when they end; the first ten.
    pub(super) fn endless(&self, ask: &Ask) -> Vec<LeaseId> {
        let state = self.facts.state;
        let endless = state.leases.ending(At::NEVER, At::NEVER).take(ENDLESS_LOOKS);
        let in_the_way = endless.filter(|(_, lease)| {
            let nodes = state.leases.find(*lease).map_or(&[][..], |held| &held.nodes);
            nodes.iter().any(|node| {
                state.nodes.in_service(*node)
                    && state.nodes.allowed(*node, &ask.shape)
                    && state.nodes.capacity[node.at()].could_hold(&ask.shape)
                    && !state.could_place(*node, &ask.shape)
            })
        });
        in_the_way.map(|(_, lease)| lease).take(ENDS_COUNTED as usize).collect()
    }

    /// Whether nothing is in the way once this lease has ended.
    pub(super) fn starts_without(&mut self, ask: &Ask, lease: LeaseId) -> bool {
        let mut future = self.future(ask);
        self.pass(ask, &mut future, self.facts.now, What::Lease(lease));
        let starts = self.starts_in(ask, &future);
        self.present(future);
        starts
    }

    fn list_releases(&self) -> Releases {
        let (now, state) = (self.facts.now, self.facts.state);
        let overdue = state.leases.ending(At(i64::MIN), now);
        let overdue =
            overdue.filter_map(|(_, lease)| Some((state.leases.find(lease)?.expected_end(now), What::Lease(lease))));
        let mut others: Vec<(At, What)> = overdue.collect();
        for (place, taken) in self.facts.taken.iter().enumerate() {
            if let Some(seconds) = taken.request.run_seconds {
                others.push((now.plus(i64::from(seconds)), What::Taken(place)));
            }
        }
        for row in self.census.rows() {
            if let Place::Held(until) = row.place {
                others.extend(row.nodes.iter().map(|node| (until, What::Hold(*node))));
            }
        }
        others.sort_unstable();
        Releases { others, looks_left: LOOKS }
    }

    fn walk(&mut self, ask: &Ask, obstacles: &[Cause], releases: &mut Releases) -> Option<(At, Awaited)> {
        let (now, state) = (self.facts.now, self.facts.state);
        let last = At(At::NEVER.0 - 1);
        let mut leases = state.leases.ending(now.plus(1), last).map(|(at, lease)| (at, What::Lease(lease))).peekable();
        let mut others = releases.others.iter().copied().peekable();
        let mut following = || match (leases.peek(), others.peek()) {
            (Some(lease), Some(other)) if other < lease => others.next(),
            (Some(_), _) => leases.next(),
            (None, _) => others.next(),
        };
        let mut future = self.future(ask);
        let by_power = obstacles.iter().any(|cause| matches!(cause, Cause::Power { .. }));
        let (mut found, mut helps) = (None, false);
        let mut looks = LOOKS_EACH.min(releases.looks_left);
        let mut next = following();
        while let Some((end, what)) = next.filter(|_| looks > 0) {
            looks -= 1;
            releases.looks_left -= 1;
            helps |= self.pass(ask, &mut future, end, what) | by_power;
            next = following();
            // All that ends in the same second ends together.
            if next.is_some_and(|(other, _)| other == end) || !helps {
                continue;
            }
            helps = false;
            if self.starts_in(ask, &future) {
                found = Some((end, what));
                break;
            }
        }
        self.present(future);
        let (end, what) = found?;
        let mut alone = self.future(ask);
        self.pass(ask, &mut alone, end, what);
        let is_enough = self.starts_in(ask, &alone);
        self.present(alone);
        Some((end, self.awaited(what, is_enough)))
    }

    fn awaited(&self, what: What, is_enough: bool) -> Awaited {
        match what {
            What::Lease(lease) if self.is_overdue(lease) => Awaited::Overdue(lease),
            What::Lease(lease) if is_enough => Awaited::Lease(lease),
            What::Lease(last) => Awaited::Leases { last },
            What::Taken(place) => Awaited::Request(self.facts.taken[place].request.id),
            What::Hold(node) => Awaited::Maintenance(self.facts.state.topology.id(node)),
        }
    }

    fn is_overdue(&self, lease: LeaseId) -> bool {
        let ends_at = self.facts.state.leases.find(lease).and_then(|held| held.lease.ends_at);
        ends_at.is_some_and(|at| at <= self.facts.now)
    }

    /// Nothing has ended yet.
    fn future(&self, ask: &Ask) -> Future {
        let mut future = Future {
            at: self.facts.now,
            free: BTreeMap::new(),
            served: BTreeSet::new(),
            domains: BTreeMap::new(),
            most: 0,
            freed: BTreeMap::new(),
            watts: Vec::new(),
        };
        for node in self.candidates(ask) {
            self.take_in(ask, &mut future, node);
        }
        future
    }

    /// Commits again what was given back.
    fn present(&mut self, future: Future) {
        for (leaf, class, watts) in future.watts {
            self.facts.power.add(leaf, class, watts);
        }
    }

    /// Something ends; whether that could matter to this ask.
    fn pass(&mut self, ask: &Ask, future: &mut Future, end: At, what: What) -> bool {
        future.at = end;
        let state = self.facts.state;
        match what {
            What::Hold(node) => self.serve(ask, future, node),
            What::Lease(lease) => {
                let Some(held) = state.leases.find(lease) else { return false };
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
            if ask.queue.is_some_and(|own| above(own).any(|own| own == queue)) {
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
        let free = future.free.entry(node).or_insert_with(|| state.nodes.free[node.at()]);
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
            self.take_in(ask, future, node);
        }
        fits
    }

    fn take_in(&self, ask: &Ask, future: &mut Future, node: NodeIx) {
        future.served.insert(node);
        let topology = &self.facts.state.topology;
        let domain = match ask.shape.within.map(|level| topology.table_of(level)) {
            None => 0,
            Some(None) => return,
            Some(Some(table)) => topology.tables()[table].domain_of[node.at()],
        };
        if domain != NO_DOMAIN {
            let count = future.domains.entry(domain).or_default();
            *count += 1;
            future.most = future.most.max(*count);
        }
    }

    fn starts_in(&mut self, ask: &Ask, future: &Future) -> bool {
        let needed = ask.needed() as usize;
        if (future.most as usize) < needed {
            return false;
        }
        let within_quota = self.quotas(ask).all(|(queue, cause)| {
            let Cause::Quota { resource, limit, used, asked, .. } = cause else { return true };
            let freed = future.freed.get(&queue).copied().unwrap_or_default();
            used - freed.of(resource) + asked <= limit
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
