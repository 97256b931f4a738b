//! What ends when, as far as was said: by it the time is found at which nothing is in the way any more.
//!
//! Ends are written down once for a pass, in order, each with what its nodes have free from then on. More nodes, more
//! of a quota and more watts only ever help: so the first instant at which all is there is the latest of those at which
//! each is, and where watts are short it lies between two that are halved.

use std::collections::BTreeMap;

use super::Explainer;
use super::ask::Ask;
use super::census::{Free, Place, has_slice, with_back};
use crate::fleet::{Amount, Health};
use crate::pack::NodeFree;
use crate::planner::amount;
use crate::reason::{Awaited, Cause, ENDS_COUNTED};
use crate::request::{Gpus, Request};
use crate::state::topology::{NO_DOMAIN, NodeIx, narrow};
use crate::units::{At, LeaseId, ModelId, QueueId, RequestId, ResidencyId, TenantClass};

/// Ends that are looked at in one pass; the first in line have a promise in any case. The limit keeps a pass within its
/// milliseconds, and what it leaves out is not said.
const LOOKS: usize = 512;
/// Leases without an end that are looked at for one shape.
const ENDLESS_LOOKS: usize = 512;
/// Room for so many nodes at first.
const SERVED_USUAL: usize = 256;

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Maintenance of a node.
    Hold(NodeIx),
    Lease(LeaseId),
    /// A grant of this pass, by its place.
    Taken(usize),
}

/// Something ends.
#[derive(Debug, Clone)]
struct Release {
    at: At,
    what: What,
    /// Its freed nodes: a range of `Timeline::freed`.
    freed: std::ops::Range<usize>,
    /// What its queue gets back.
    back: Option<(QueueId, Amount)>,
    /// What each node draws less.
    watts: i64,
    /// What all draw less from here on.
    watts_back: i64,
    class: TenantClass,
}

/// What a node has free from some end on.
#[derive(Debug, Clone, Copy)]
struct Freed {
    node: NodeIx,
    /// The place of what ends.
    release: u32,
    model: ModelId,
    residency: ResidencyId,
    free: Free,
    /// Whether it is in service by then.
    is_ready: bool,
    promised: Option<RequestId>,
}

/// What ends, in order.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    releases: Vec<Release>,
    freed: Vec<Freed>,
    /// GPU by GPU, by the place in `freed`.
    after: Vec<NodeFree>,
    /// Those of `freed` that may serve: of one node at one instant the last.
    open: Vec<u32>,
    /// By node: one more than the place of what it has free last; zero: nothing has ended there.
    last: Vec<u32>,
    marks: Marks,
}

/// What one walk has seen, by its number: nothing is cleared between walks.
#[derive(Debug, Default)]
struct Marks {
    walk: u32,
    /// By node: the last walk in which it would take a member.
    served: Vec<u32>,
    /// By domain: the last walk that counted, and nodes in it that would take a member.
    domains: Vec<(u32, u32)>,
}

/// Nodes that would take a member, in the order in which they come to that.
#[derive(Debug, Default)]
struct Served {
    nodes: Vec<NodeIx>,
    /// The end from which on each would.
    from: Vec<u32>,
    /// Most in one domain.
    most: u32,
}

impl Explainer<'_> {
    /// When nothing is in the way any more if everything ends when it said, and the last end that it takes. Nothing is
    /// imagined beside, but that it may be kept to its promised nodes.
    pub(super) fn wait(&mut self, ask: &Ask) -> Option<(At, Awaited)> {
        // A run that would end before a promised start when it began now does not when it begins later.
        let ask = &Ask { run_seconds: None, ..*ask };
        let mut timeline = match self.timeline.take() {
            Some(timeline) => timeline,
            None => self.list_releases(),
        };
        let found = self.walk(ask, &mut timeline);
        self.timeline = Some(timeline);
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
        self.starts_after(ask, self.facts.now, What::Lease(lease))
    }

    fn list_releases(&self) -> Timeline {
        let (now, state) = (self.facts.now, self.facts.state);
        let overdue = state.leases.ending(At(i64::MIN), now);
        let overdue =
            overdue.filter_map(|(_, lease)| Some((state.leases.find(lease)?.expected_end(now), What::Lease(lease))));
        let said = state.leases.ending(now.plus(1), At(At::NEVER.0 - 1)).take(LOOKS);
        let mut ends: Vec<(At, What)> = overdue.chain(said.map(|(at, lease)| (at, What::Lease(lease)))).collect();
        for (place, taken) in self.facts.taken.iter().enumerate() {
            if let Some(seconds) = taken.request.run_seconds {
                ends.push((now.plus(i64::from(seconds)), What::Taken(place)));
            }
        }
        for stand in self.census.stands() {
            if let Place::Held(until) = stand.place {
                ends.extend(self.census.nodes(stand).map(|node| (until, What::Hold(node))));
            }
        }
        if ends.len() > LOOKS {
            ends.select_nth_unstable(LOOKS - 1);
            ends.truncate(LOOKS);
        }
        ends.sort_unstable();
        let nodes = state.nodes.len();
        let mut timeline = Timeline { last: vec![0; nodes], ..Timeline::default() };
        timeline.marks.served = vec![0; nodes];
        for (at, what) in ends {
            self.release(&mut timeline, at, what);
        }
        let Timeline { releases, freed, open, .. } = &mut timeline;
        let mut later = vec![None; nodes];
        for (place, one) in freed.iter().enumerate().rev().filter(|(_, one)| one.is_ready) {
            let at = Some(releases[one.release as usize].at);
            if std::mem::replace(&mut later[one.node.at()], at) != at {
                open.push(narrow(place));
            }
        }
        open.reverse();
        timeline
    }

    /// Writes down one end and what is free after it.
    fn release(&self, timeline: &mut Timeline, at: At, what: What) {
        let first = timeline.freed.len();
        let mut release = Release {
            at,
            what,
            freed: first..first,
            back: None,
            watts: 0,
            watts_back: timeline.releases.last().map_or(0, |last| last.watts_back),
            class: TenantClass::default(),
        };
        let mut of = |request: &Request, nodes: usize| {
            let amount = amount(self.facts.spec, &request.shape, i64::from(narrow(nodes)));
            release.back = Some((request.queue, amount));
            (release.watts, release.class) = (i64::from(request.shape.peak_watts), request.class);
        };
        match what {
            What::Hold(node) => self.free_more(timeline, at, node, |free| *free),
            What::Lease(lease) => {
                let Some(held) = self.facts.state.leases.find(lease) else { return };
                let request = &held.lease.request;
                of(request, held.nodes.len());
                for (grant, node) in held.lease.grants.iter().zip(&held.nodes) {
                    self.free_more(timeline, at, *node, |free| with_back(free, grant.gpus, &request.shape));
                }
            }
            What::Taken(place) => {
                let taken = self.facts.taken[place];
                of(taken.request, 1);
                self.free_more(timeline, at, taken.node, |free| with_back(free, taken.gpus, &taken.request.shape));
            }
        }
        release.freed = first..timeline.freed.len();
        release.watts_back += release.watts * i64::from(narrow(release.freed.len()));
        timeline.releases.push(release);
    }

    fn free_more(&self, timeline: &mut Timeline, at: At, node: NodeIx, more: impl FnOnce(&NodeFree) -> NodeFree) {
        let nodes = &self.facts.state.nodes;
        let place = node.at();
        let last = timeline.last[place];
        let gpus = more(if last == 0 { &nodes.free[place] } else { &timeline.after[last as usize - 1] });
        timeline.freed.push(Freed {
            node,
            release: narrow(timeline.releases.len()),
            model: nodes.model[place],
            residency: nodes.residency[place],
            free: Free::of(&gpus, nodes.gpus[place]),
            is_ready: nodes.health[place] == Health::Ready && nodes.held_until[place].is_none_or(|until| until <= at),
            promised: nodes.reserved[place],
        });
        timeline.after.push(gpus);
        timeline.last[place] = narrow(timeline.freed.len());
    }

    fn walk(&mut self, ask: &Ask, timeline: &mut Timeline) -> Option<(At, Awaited)> {
        let Timeline { releases, freed, after, open, marks, .. } = timeline;
        let mut served = self.serving_now(ask, marks);
        let mut ends = open.iter().map(|place| (&freed[*place as usize], &after[*place as usize])).peekable();
        let mut by_nodes = 0;
        while served.most < ask.needed() {
            let (one, gpus) = ends.next()?;
            self.serve(ask, one, gpus, marks, &mut served);
            by_nodes = one.release as usize;
        }
        let by_quota = self.allowed_from(ask, releases)?;
        let mut place = last_of_instant(releases, by_nodes.max(by_quota))?;
        if ask.shape.peak_watts > 0 {
            while let Some((one, gpus)) = ends.next_if(|(one, _)| one.release as usize <= place) {
                self.serve(ask, one, gpus, marks, &mut served);
            }
            if !self.has_power(ask, &served.nodes) {
                let from = self.watts_from(ask, releases, place)?;
                for (one, gpus) in ends {
                    self.serve(ask, one, gpus, marks, &mut served);
                }
                place = self.powered_from(ask, releases, freed, &served, from)?;
            }
        }
        let Release { at, what, .. } = releases[place];
        let is_enough =
            matches!(what, What::Lease(lease) if !self.is_overdue(lease) && self.starts_after(ask, at, what));
        Some((at, self.awaited(what, is_enough)))
    }

    /// The first end from which on limits allow what is asked.
    fn allowed_from(&self, ask: &Ask, releases: &[Release]) -> Option<usize> {
        let quota = self.quotas_of(ask);
        if quota.is_empty() {
            return Some(0);
        }
        let mut returned = BTreeMap::new();
        releases.iter().position(|release| {
            self.give_back(ask, release, &quota, &mut returned);
            fits(&quota, &returned)
        })
    }

    /// The first end, from that of `first` on, at which the point above all others could have the watts; what ends
    /// gives it no more room than its own watts.
    fn watts_from(&self, ask: &Ask, releases: &[Release], first: usize) -> Option<usize> {
        let Some(root) = self.facts.state.feeder() else { return Some(first) };
        let asked = i64::from(ask.shape.peak_watts) * i64::from(ask.needed());
        let missing = asked - self.facts.power.room(root, ask.class);
        let from = first.max(releases.partition_point(|release| release.watts_back < missing));
        (from < releases.len()).then_some(from)
    }

    /// The first instant, from that of `first` on, at which enough of the nodes served by then have power: halved
    /// between those known not to be and to be so.
    fn powered_from(
        &mut self,
        ask: &Ask,
        releases: &[Release],
        freed: &[Freed],
        served: &Served,
        first: usize,
    ) -> Option<usize> {
        let mut ended = 0;
        let mut powered = |this: &mut Self, place: usize| {
            let place = last_of_instant(releases, place).unwrap_or(place);
            let reach = served.from.partition_point(|from| *from as usize <= place);
            this.end_until(releases, freed, &mut ended, place + 1);
            this.has_power(ask, &served.nodes[..reach])
        };
        // Doubling steps first: most that wait, wait for something near.
        let (mut low, mut high, mut step) = (first, first, 1);
        while !powered(self, high) {
            low = high + 1;
            if low == releases.len() {
                break;
            }
            high = (high + step).min(releases.len() - 1);
            step *= 2;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if powered(self, middle) { high = middle } else { low = middle + 1 }
        }
        self.end_until(releases, freed, &mut ended, 0);
        last_of_instant(releases, low)
    }

    /// Gives the watts of the first so many ends back to the power tree, or commits those after them again.
    fn end_until(&mut self, releases: &[Release], freed: &[Freed], ended: &mut usize, until: usize) {
        let (from, to, is_back) = if *ended < until { (*ended, until, true) } else { (until, *ended, false) };
        for release in releases[from..to].iter().filter(|release| release.watts > 0) {
            for freed in &freed[release.freed.clone()] {
                let leaf = self.facts.state.nodes.power[freed.node.at()];
                if is_back {
                    self.facts.power.remove(leaf, release.class, release.watts);
                } else {
                    self.facts.power.add(leaf, release.class, release.watts);
                }
            }
        }
        *ended = until;
    }

    /// Whether it starts when this alone has ended by then.
    fn starts_after(&mut self, ask: &Ask, at: At, what: What) -> bool {
        let nodes = self.facts.state.nodes.len();
        let mut alone = self.spare.take().unwrap_or_default();
        alone.last.resize(nodes, 0);
        alone.marks.served.resize(nodes, 0);
        self.release(&mut alone, at, what);
        let Timeline { releases, freed, after, marks, last, .. } = &mut alone;
        let mut served = self.serving_now(ask, marks);
        let quota = self.quotas_of(ask);
        let mut returned = BTreeMap::new();
        for release in &*releases {
            self.give_back(ask, release, &quota, &mut returned);
        }
        for (freed, gpus) in freed.iter().zip(&*after) {
            self.serve(ask, freed, gpus, marks, &mut served);
        }
        let mut starts = served.most >= ask.needed() && fits(&quota, &returned);
        if starts && ask.shape.peak_watts > 0 && !self.has_power(ask, &served.nodes) {
            let mut ended = 0;
            self.end_until(releases, freed, &mut ended, releases.len());
            starts = self.has_power(ask, &served.nodes);
            self.end_until(releases, freed, &mut ended, 0);
        }
        freed.drain(..).for_each(|freed| last[freed.node.at()] = 0);
        releases.clear();
        after.clear();
        self.spare = Some(alone);
        starts
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

    /// Nodes that would take a member before anything ends; a new walk begins.
    fn serving_now(&self, ask: &Ask, marks: &mut Marks) -> Served {
        marks.walk += 1;
        let mut served =
            Served { nodes: Vec::with_capacity(SERVED_USUAL), from: Vec::with_capacity(SERVED_USUAL), most: 0 };
        self.each_candidate(ask, |nodes| {
            for node in nodes {
                self.take_in(ask, *node, 0, marks, &mut served);
            }
        });
        served
    }

    /// Notes that a node would take a member from now on, if it does.
    #[inline]
    fn serve(&self, ask: &Ask, freed: &Freed, gpus: &NodeFree, marks: &mut Marks, served: &mut Served) {
        let shape = &ask.shape;
        let is_enough = match shape.gpus {
            Gpus::Slice(_) => gpus.could_hold(shape) && has_slice(self.facts.spec, freed.model, gpus, shape),
            Gpus::Whole(_) | Gpus::Milli(_) => freed.free.has_all(shape),
        };
        let is_allowed = (shape.models == 0 || shape.models >> (freed.model.0 & 63) & 1 == 1)
            && (shape.residencies == 0 || shape.residencies >> (freed.residency.0 & 63) & 1 == 1);
        if is_enough
            && is_allowed
            && freed.is_ready
            && freed.promised.map_or_else(|| !ask.needs_promised(), |request| request == ask.request)
            && marks.served[freed.node.at()] != marks.walk
        {
            self.take_in(ask, freed.node, freed.release, marks, served);
        }
    }

    fn take_in(&self, ask: &Ask, node: NodeIx, from: u32, marks: &mut Marks, served: &mut Served) {
        marks.served[node.at()] = marks.walk;
        let Some(domain) = self.domain_of(ask, node) else { return };
        if marks.domains.len() <= domain {
            marks.domains.resize(domain + 1, (0, 0));
        }
        let (walk, count) = &mut marks.domains[domain];
        *count = if *walk == marks.walk { *count + 1 } else { 1 };
        *walk = marks.walk;
        served.most = served.most.max(*count);
        served.nodes.push(node);
        served.from.push(from);
    }

    /// The domain of the required level that a node lies in; the whole fleet where none is required.
    fn domain_of(&self, ask: &Ask, node: NodeIx) -> Option<usize> {
        let Some(level) = ask.shape.within else { return Some(0) };
        let topology = &self.facts.state.topology;
        let domain = topology.tables()[topology.table_of(level)?].domain_of[node.at()];
        (domain != NO_DOMAIN).then_some(domain as usize)
    }

    /// Whether enough of these nodes have power together, within one domain where that is required.
    fn has_power(&mut self, ask: &Ask, nodes: &[NodeIx]) -> bool {
        let needed = ask.needed() as usize;
        if ask.shape.within.is_none() {
            return self.powered_first(ask, nodes, needed).0 == needed;
        }
        let domains = self.domains(ask, nodes.to_vec());
        let mut enough = domains.iter().filter(|best| best.nodes.len() >= needed);
        enough.any(|best| self.powered_first(ask, &best.nodes, needed).0 == needed)
    }

    /// What a release gives back to queues that the ask is counted in.
    fn give_back(&self, ask: &Ask, release: &Release, quota: &[Cause], returned: &mut BTreeMap<QueueId, Amount>) {
        let Some((queue, amount)) = release.back.filter(|_| !quota.is_empty() && ask.queue.is_some()) else { return };
        for queue in self.facts.shares.above(queue) {
            let sum = returned.entry(queue).or_default();
            *sum = sum.plus(&amount);
        }
    }

    fn quotas_of(&self, ask: &Ask) -> Vec<Cause> {
        if ask.queue.is_none() { Vec::new() } else { self.quotas(ask).map(|(_, cause)| cause).collect() }
    }
}

/// The last end at the instant of this one.
fn last_of_instant(releases: &[Release], place: usize) -> Option<usize> {
    let at = releases.get(place)?.at;
    Some(releases.partition_point(|release| release.at <= at) - 1)
}

/// Whether limits allow what is asked once so much has been returned.
fn fits(quota: &[Cause], returned: &BTreeMap<QueueId, Amount>) -> bool {
    quota.iter().all(|cause| {
        let Cause::Quota { queue, resource, limit, used, asked } = *cause else { return true };
        let back = returned.get(&queue).copied().unwrap_or_default();
        used - back.of(resource) + asked <= limit
    })
}
