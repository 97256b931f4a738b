//! The questions: which nodes would take a member, are there enough of them together, is there power, may the queue.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Explainer;
use super::census::{Lack, Place, Stand};
use crate::fleet::{Amount, Level};
use crate::planner::{amount, spanned};
use crate::reason::{Cause, Resource};
use crate::request::{Gpus, Request, Shape};
use crate::state::topology::{NO_DOMAIN, NodeIx, narrow};
use crate::units::{GPU_MILLI, PowerId, QueueId, RequestId, TenantClass};

/// A request as far as it decides whether it starts now, and what is imagined to be otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) shape: Shape,
    pub(super) class: TenantClass,
    /// `None`: no quota is asked.
    pub(super) queue: Option<QueueId>,
    pub(super) request: RequestId,
    pub(super) run_seconds: Option<u32>,
    pub(super) change: Change,
}

/// What is imagined beside the request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Nothing,
    /// It has no other nodes than those promised to it.
    OnlyPromised,
    /// This node is taken back into service.
    Restored(NodeIx),
    /// This cap is higher by so many watts.
    Cap(PowerId, i64),
    /// This limit is higher by so much.
    Limit(QueueId, Resource, i64),
}

/// The domain that could take most members, were it not for power.
#[derive(Debug)]
pub(super) struct Best {
    /// Its place in the table of the level.
    pub(super) domain: u32,
    pub(super) nodes: Vec<NodeIx>,
}

impl Ask {
    pub(super) const fn new(request: &Request) -> Self {
        Self {
            shape: request.shape,
            class: request.class,
            queue: Some(request.queue),
            request: request.id,
            // Those that wait run longer than any gap, or did not say; where one does not, it has started.
            run_seconds: None,
            change: Change::Nothing,
        }
    }

    pub(super) const fn without_quota(self) -> Self {
        Self { queue: None, ..self }
    }

    pub(super) fn request_has_no_promise(&self, facts: &super::Facts<'_>) -> bool {
        facts.promises.get(self.request).is_none()
    }

    /// Whether it has no other nodes than those promised to it.
    pub(super) const fn needs_promised(&self) -> bool {
        matches!(self.change, Change::OnlyPromised)
    }

    pub(super) fn with(&self, shape: Shape) -> Self {
        Self { shape, ..*self }
    }

    /// GPUs of each member, in thousandths; of slices none.
    pub(super) fn gpu_milli(&self) -> i64 {
        match self.shape.gpus {
            Gpus::Whole(count) => i64::from(count) * i64::from(GPU_MILLI),
            Gpus::Milli(milli) => i64::from(milli),
            Gpus::Slice(_) => 0,
        }
    }

    pub(super) fn needed(&self) -> u32 {
        u32::from(self.shape.nodes.min)
    }
}

impl Explainer<'_> {
    /// Whatever is in the way, in the order in which a pass asks; nothing: it would start.
    pub(super) fn obstacles(&mut self, ask: &Ask) -> Vec<Cause> {
        let mut causes = self.over_quota(ask);
        let (needed, free) = (ask.needed(), self.free_count(ask));
        if free < needed {
            causes.push(Cause::Nodes { needed, free, could: self.could(ask) });
            causes.extend(self.never_power(ask));
            return causes;
        }
        if self.starts_somewhere(ask) {
            return causes;
        }
        let domains = self.domains(ask, self.candidates(ask));
        let best = domains.iter().map(|best| best.nodes.len()).max().unwrap_or(0);
        if best >= needed as usize {
            causes.extend(self.without_power(ask, &domains));
            return causes;
        }
        if let Some(level) = ask.shape.within {
            let table = self.facts.state.topology.table_of(level);
            let fullest = domains.iter().max_by_key(|best| (best.nodes.len(), Reverse(best.domain)));
            let domain =
                fullest.zip(table).and_then(|(best, table)| self.facts.state.topology.tables()[table].id(best.domain));
            causes.push(Cause::Apart { level, needed, best: narrow(best), domain });
        } else {
            causes.push(Cause::Nodes { needed, free, could: self.could(ask) });
        }
        causes.extend(self.never_power(ask));
        causes
    }

    /// Limits of the queue and of those above it, and what this would take of them.
    pub(super) fn quotas(&self, ask: &Ask) -> impl Iterator<Item = (QueueId, Cause)> {
        let whole = amount(self.facts.spec, &ask.shape, i64::from(ask.shape.nodes.min));
        let promise = self.facts.promises.get(ask.request);
        // What it was promised is charged already.
        let charged = promise.map(|promise| promise.amount).unwrap_or_default();
        self.limits(ask, whole).into_iter().filter_map(move |(queue, resource, limit, used)| {
            let (whole, charged) = (whole.of(resource), charged.of(resource));
            let asked = whole - charged;
            let cause = |used, asked| (queue, Cause::Quota { queue, resource, limit, used, asked });
            if asked > 0 {
                return Some(cause(used, asked));
            }
            // Of a limit that fell below what was promised, it is told what the others have.
            (whole > 0 && used + asked > limit).then(|| cause(used - charged, whole))
        })
    }

    pub(super) fn over_quota(&self, ask: &Ask) -> Vec<Cause> {
        self.quotas(ask).map(|(_, cause)| cause).filter(Cause::is_over).collect()
    }

    fn limits(&self, ask: &Ask, asked: Amount) -> Vec<(QueueId, Resource, i64, i64)> {
        let mut limits = Vec::new();
        let queues = &self.facts.spec.queues;
        let mut next = ask.queue;
        // A path visits each queue once at most.
        for _ in 0..queues.len() {
            let Some(queue) = next else { break };
            let Some(spec) = queues.get(queue.0 as usize) else { break };
            if let Some(limit) = spec.limit {
                let used = self.facts.shares.used(queue);
                for resource in Resource::ALL {
                    if asked.of(resource) > 0 && limit.of(resource) < UNLIMITED {
                        let raised = match ask.change {
                            Change::Limit(at, of, by) if at == queue && of == resource => by,
                            Change::Limit(..)
                            | Change::Nothing
                            | Change::OnlyPromised
                            | Change::Restored(_)
                            | Change::Cap(..) => 0,
                        };
                        limits.push((queue, resource, limit.of(resource) + raised, used.of(resource)));
                    }
                }
            }
            next = spec.parent;
        }
        limits
    }

    /// Nodes that would take a member now, power aside, in order.
    pub(super) fn candidates(&self, ask: &Ask) -> Vec<NodeIx> {
        let mut nodes = Vec::new();
        self.each_candidate(ask, |some| nodes.extend_from_slice(some));
        nodes.sort_unstable();
        nodes
    }

    /// How many they are.
    pub(super) fn free_count(&self, ask: &Ask) -> u32 {
        let mut count = 0;
        self.each_candidate(ask, |some| count += narrow(some.len()));
        count
    }

    /// Such nodes, some at a time, in no order that means anything.
    pub(super) fn each_candidate(&self, ask: &Ask, mut each: impl FnMut(&[NodeIx])) {
        let shape = &ask.shape;
        for stand in self.census.suited(self.facts.spec, shape).filter(|stand| self.is_open(ask, stand)) {
            for row in self.census.with_gpus(stand, shape) {
                let fits = |node: NodeIx| stand.lack(row, &self.facts, node, shape) == Lack::Nothing;
                if stand.place == Place::Cordoned {
                    let restored = |node: &&NodeIx| matches!(ask.change, Change::Restored(other) if other == **node);
                    row.nodes.iter().filter(restored).filter(|node| fits(**node)).for_each(|node| each(&[*node]));
                } else if matches!(shape.gpus, Gpus::Slice(_)) {
                    row.nodes.iter().filter(|node| fits(**node)).for_each(|node| each(&[*node]));
                } else if fits(row.nodes[0]) {
                    each(&row.nodes);
                }
            }
        }
    }

    fn is_open(&self, ask: &Ask, stand: &Stand) -> bool {
        match stand.place {
            Place::Open => !ask.needs_promised(),
            Place::Promised(request) => request == ask.request || self.ends_before(ask, request),
            Place::Cordoned => matches!(ask.change, Change::Restored(_)),
            Place::Held(_) | Place::Down => false,
        }
    }

    /// Whether enough nodes are free and have power, as far as can be told without a look at domains.
    fn starts_somewhere(&mut self, ask: &Ask) -> bool {
        let needed = ask.needed() as usize;
        if ask.shape.within.is_some() {
            return false;
        }
        if ask.shape.peak_watts == 0 {
            return true;
        }
        // Of equal members as many have power, whichever come first.
        let mut some = Vec::with_capacity(needed);
        self.each_candidate(ask, |nodes| some.extend(nodes.iter().take(needed - some.len())));
        self.powered_first(ask, &some, needed).0 == needed
    }

    fn ends_before(&self, ask: &Ask, request: RequestId) -> bool {
        let Some(seconds) = ask.run_seconds else { return false };
        let ends_at = self.facts.now.plus(i64::from(seconds));
        self.facts.promises.get(request).is_some_and(|promise| ends_at <= promise.starts_at)
    }

    /// Nodes of the fleet that could hold a member when empty, whatever they do now.
    pub(super) fn could(&self, ask: &Ask) -> u32 {
        self.census.suited(self.facts.spec, &ask.shape).map(|stand| stand.nodes).sum()
    }

    /// The nodes by domain of the required level, those without one left out; the whole fleet where none is required.
    pub(super) fn domains(&self, ask: &Ask, nodes: Vec<NodeIx>) -> Vec<Best> {
        let topology = &self.facts.state.topology;
        let Some(level) = ask.shape.within else {
            return vec![Best { domain: 0, nodes }];
        };
        let Some(table) = topology.table_of(level) else { return Vec::new() };
        let domain_of = &topology.tables()[table].domain_of;
        let mut placed: Vec<(u32, NodeIx)> = nodes.iter().map(|node| (domain_of[node.at()], *node)).collect();
        placed.retain(|(domain, _)| *domain != NO_DOMAIN);
        placed.sort_unstable();
        let mut domains: Vec<Best> = Vec::new();
        for (domain, node) in placed {
            match domains.last_mut() {
                Some(last) if last.domain == domain => last.nodes.push(node),
                _ => domains.push(Best { domain, nodes: vec![node] }),
            }
        }
        domains
    }

    /// Domains of a level that it would span if it started now, as few as can be.
    pub(super) fn spanned_now(&mut self, ask: &Ask, level: Level) -> Option<u32> {
        let state = self.facts.state;
        let domain_of = &state.topology.tables()[state.topology.table_of(level)?].domain_of;
        let needed = ask.needed() as usize;
        let mut fewest: Option<u32> = None;
        for best in self.domains(ask, self.candidates(ask)) {
            let mut nodes = best.nodes;
            nodes.retain(|node| domain_of[node.at()] != NO_DOMAIN);
            let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
            nodes.iter().for_each(|node| *counts.entry(domain_of[node.at()]).or_default() += 1);
            nodes.sort_by_key(|node| (Reverse(counts[&domain_of[node.at()]]), domain_of[node.at()], *node));
            let (powered, chosen) = self.powered_first(ask, &nodes, needed);
            if powered == needed {
                fewest = fewest.into_iter().chain(spanned(state, level, &chosen)).min();
            }
        }
        fewest
    }

    /// Points of the power tree that have too little left, where enough nodes are free: of the domain where most of
    /// the members have power.
    fn without_power(&mut self, ask: &Ask, domains: &[Best]) -> Vec<Cause> {
        let needed = ask.needed() as usize;
        if ask.shape.peak_watts == 0 {
            return Vec::new();
        }
        let mut most: Option<(usize, Vec<NodeIx>)> = None;
        for best in domains.iter().filter(|best| best.nodes.len() >= needed) {
            let order = self.powered_first(ask, &best.nodes, needed);
            if order.0 == needed {
                return Vec::new();
            }
            if most.as_ref().is_none_or(|(powered, _)| order.0 > *powered) {
                most = Some(order);
            }
        }
        most.map_or_else(Vec::new, |(_, nodes)| self.short_points(ask, &nodes))
    }

    /// How many of these nodes can have power together, up to `needed`; and that many nodes, those with power first.
    /// Watts of equal members under caps of a tree: whichever come first, as many fit.
    pub(super) fn powered_first(&mut self, ask: &Ask, nodes: &[NodeIx], needed: usize) -> (usize, Vec<NodeIx>) {
        let watts = i64::from(ask.shape.peak_watts);
        let leaf = |explainer: &Self, node: &NodeIx| explainer.facts.state.nodes.power[node.at()];
        self.imagine_cap(ask, 1);
        let (mut with, mut without) = (Vec::new(), Vec::new());
        let mut hopeless: Option<PowerId> = None;
        for node in nodes {
            if with.len() == needed {
                break;
            }
            let at = leaf(self, node);
            // Members are equal: where one found no power, none does while nothing is given back.
            if hopeless == Some(at) || self.facts.power.fits(at, ask.class, watts).is_err() {
                hopeless = Some(at);
                if without.len() < needed {
                    without.push(*node);
                }
                continue;
            }
            self.facts.power.add(at, ask.class, watts);
            with.push(*node);
        }
        for node in &with {
            let at = leaf(self, node);
            self.facts.power.remove(at, ask.class, watts);
        }
        self.imagine_cap(ask, -1);
        let powered = with.len();
        with.extend(without);
        with.truncate(needed);
        (powered, with)
    }

    /// Points above these nodes that have too little left for all of them.
    fn short_points(&mut self, ask: &Ask, nodes: &[NodeIx]) -> Vec<Cause> {
        let watts = i64::from(ask.shape.peak_watts);
        let mut loads: BTreeMap<PowerId, i64> = BTreeMap::new();
        for node in nodes {
            for point in self.points_above(self.facts.state.nodes.power[node.at()]) {
                *loads.entry(point).or_default() += watts;
            }
        }
        self.imagine_cap(ask, 1);
        let power = &self.facts.power;
        let short = loads.into_iter().filter_map(|(point, asked_watts)| {
            let room = power.room(point, ask.class);
            let cap_watts = power.cap(point);
            let committed_watts = power.committed(point);
            let kept_watts = cap_watts - committed_watts - room;
            (asked_watts > room).then_some(Cause::Power {
                power: point,
                cap_watts,
                committed_watts,
                kept_watts,
                asked_watts,
            })
        });
        let short = short.collect();
        self.imagine_cap(ask, -1);
        short
    }

    /// Caps that are too low whatever ends: with only the floors of others kept.
    fn never_power(&self, ask: &Ask) -> Vec<Cause> {
        let watts = i64::from(ask.shape.peak_watts) * i64::from(ask.shape.nodes.min);
        let power = &self.facts.power;
        let Some(root) = self.facts.state.feeder() else { return Vec::new() };
        let raised = match ask.change {
            Change::Cap(point, by) if point == root => by,
            Change::Cap(..) | Change::Nothing | Change::OnlyPromised | Change::Restored(_) | Change::Limit(..) => 0,
        };
        let classes =
            (0..crate::units::MAX_TENANT_CLASSES).filter_map(|class| u8::try_from(class).ok()).map(TenantClass);
        let floors: i64 = classes.filter(|class| *class != ask.class).map(|class| power.floor(root, class)).sum();
        let cap_watts = power.cap(root) + raised;
        if watts == 0 || watts <= cap_watts - floors {
            return Vec::new();
        }
        let committed_watts = power.committed(root);
        let kept_watts = cap_watts - committed_watts - power.room(root, ask.class) - raised;
        vec![Cause::Power { power: root, cap_watts, committed_watts, kept_watts, asked_watts: watts }]
    }

    pub(super) fn points_above(&self, leaf: PowerId) -> Vec<PowerId> {
        let known = (leaf.0 as usize) < self.facts.power.len();
        let first = known.then_some(leaf);
        std::iter::successors(first, |point| self.facts.power.parent(*point)).collect()
    }

    /// Raises the imagined cap, or puts it back.
    fn imagine_cap(&mut self, ask: &Ask, times: i64) {
        if let Change::Cap(point, by) = ask.change {
            let cap = self.facts.power.cap(point);
            self.facts.power.set_cap(point, cap + by * times);
        }
    }
}

/// Limits from here on are none: a queue that limits one resource leaves the others at the largest number.
const UNLIMITED: i64 = i64::MAX;

impl Cause {
    /// Whether it is a limit that has too little left.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self, Self::Quota { limit, used, asked, .. } if *used + *asked > *limit)
    }
}
