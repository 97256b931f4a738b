//! What is where: nodes and leases, and counts over them that answer for a whole domain without a walk.
//!
//! Deliberately absent: requests, queues, power, and every decision. One function takes, one gives back, and both
//! keep every counter exact.
//!
//! INVARIANT: what is free on a node and what its leases and proposed placements have are together its capacity.

use crate::fleet::{FleetSpec, Health, ModelSpec};
use crate::pack::{GpuFree, NodeFree, NodeKind, Packer};
use crate::plan::GpuGrant;
use crate::request::{Gpus, Shape};
use crate::units::{At, PowerId, RequestId, SliceId};

pub(crate) mod journal;
pub(crate) mod leases;
pub(crate) mod nodes;
pub(crate) mod tenants;
pub(crate) mod topology;
pub(crate) mod views;

use journal::Journal;
use leases::Leases;
use nodes::Nodes;
use tenants::{Tenant, Tenants, expected_end};
use topology::{NodeIx, Topology};
use views::{Member, Views};

/// The state of the fleet.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) topology: Topology,
    pub(crate) nodes: Nodes,
    pub(crate) leases: Leases,
    pub(crate) tenants: Tenants,
    pub(crate) views: Views,
    /// Open nodes, by what is free: places for requests of one node.
    pub(crate) packer: Packer,
    models: Vec<ModelSpec>,
    gaps: Gaps,
    touched: Touched,
    pub(crate) journal: Journal,
    /// The point of the power tree that feeds every node, where there is one.
    feeder: Option<PowerId>,
    rises: Rises,
    /// Nodes under maintenance, by its end.
    holds: std::collections::BTreeSet<(At, NodeIx)>,
}

/// Nodes that changed since somebody last asked which.
#[derive(Debug, Clone)]
struct Touched {
    nodes: Vec<NodeIx>,
    is_touched: Vec<bool>,
}

impl Touched {
    fn new(nodes: usize) -> Self {
        Self { nodes: Vec::new(), is_touched: vec![false; nodes] }
    }

    fn note(&mut self, node: NodeIx) {
        if !std::mem::replace(&mut self.is_touched[node.at()], true) {
            self.nodes.push(node);
        }
    }

    fn take(&mut self) -> Vec<NodeIx> {
        for node in &self.nodes {
            self.is_touched[node.at()] = false;
        }
        std::mem::take(&mut self.nodes)
    }
}

/// Nodes that are kept for a request and have a part of a GPU free in the meantime.
#[derive(Debug, Clone, Default)]
struct Gaps {
    words: Vec<u64>,
    count: usize,
}

impl Gaps {
    fn set(&mut self, node: NodeIx, is_gap: bool) {
        let (word, bit) = (node.at() / 64, 1 << (node.at() % 64));
        if self.words.len() <= word {
            if !is_gap {
                return;
            }
            self.words.resize(word + 1, 0);
        }
        if (self.words[word] & bit != 0) != is_gap {
            self.words[word] ^= bit;
            self.count = if is_gap { self.count + 1 } else { self.count - 1 };
        }
    }

    fn iter(&self) -> impl Iterator<Item = NodeIx> {
        self.words.iter().enumerate().flat_map(|(place, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(NodeIx::new(place * 64 + bit))
            })
        })
    }
}

/// When room last grew, by class of node and by the whole GPUs free on it then: a request that found no room has none
/// now, unless a node rose since to what it needs.
#[derive(Debug, Clone)]
struct Rises {
    clock: u64,
    /// How often room shrank.
    falls: u64,
    /// By class, by free whole GPUs up to 16.
    at: Vec<[u64; crate::units::MAX_GPUS + 1]>,
}

impl State {
    /// A fleet without leases; the spec was checked.
    pub(crate) fn new(spec: &FleetSpec) -> Self {
        let topology = Topology::new(spec);
        let nodes = Nodes::new(spec, &topology);
        let mut state = Self {
            leases: Leases::new(nodes.len()),
            tenants: Tenants::new(nodes.len()),
            views: Views::new(nodes.len()),
            packer: Packer::new(&spec.models),
            models: spec.models.clone(),
            gaps: Gaps::default(),
            journal: Journal::new(nodes.len()),
            touched: Touched::new(nodes.len()),
            feeder: feeder(spec),
            rises: Rises { clock: 1, falls: 0, at: vec![[0; crate::units::MAX_GPUS + 1]; nodes.classes.len().max(1)] },
            holds: std::collections::BTreeSet::new(),
            topology,
            nodes,
        };
        for at in 0..state.nodes.len() {
            let node = NodeIx::new(at);
            if let Some(until) = state.nodes.held_until[at] {
                state.holds.insert((until, node));
            }
            if state.nodes.open(node) {
                state.enter(node);
            }
        }
        state
    }

    /// Takes GPUs, CPU and memory of a node; they are free, says the caller.
    pub(crate) fn take(&mut self, node: NodeIx, tenant: Tenant) {
        self.rises.falls += 1;
        self.nodes.free[node.at()].take(tenant.gpus, tenant.cpu_milli, tenant.memory_mib);
        self.tenants.insert(node, tenant);
        self.changed(node);
    }

    /// Gives back what was taken of a node.
    pub(crate) fn give(&mut self, node: NodeIx, tenant: Tenant) {
        self.nodes.free[node.at()].give(tenant.gpus, tenant.cpu_milli, tenant.memory_mib);
        self.tenants.remove(node, tenant);
        self.changed(node);
        self.rise(node);
    }

    /// A node's health.
    pub(crate) fn set_health(&mut self, node: NodeIx, health: Health) {
        self.with_openness(node, |state| state.nodes.health[node.at()] = health);
    }

    /// Maintenance until; `None` lifts it.
    pub(crate) fn set_hold(&mut self, node: NodeIx, until: Option<At>) {
        if let Some(old) = self.nodes.held_until[node.at()] {
            self.holds.remove(&(old, node));
        }
        if let Some(until) = until {
            self.holds.insert((until, node));
        }
        self.with_openness(node, |state| state.nodes.held_until[node.at()] = until);
    }

    /// Lifts every hold that has passed.
    pub(crate) fn pass_holds(&mut self, now: At) {
        while let Some((until, node)) = self.holds.first().copied().filter(|(until, _)| *until <= now) {
            self.holds.remove(&(until, node));
            self.with_openness(node, |state| state.nodes.held_until[node.at()] = None);
        }
    }

    /// Keeps a node for a request that starts at the latest then, or for nobody.
    pub(crate) fn reserve(&mut self, node: NodeIx, kept: Option<(RequestId, At)>) {
        self.with_openness(node, |state| {
            state.nodes.reserved[node.at()] = kept.map(|(request, _)| request);
            state.nodes.kept_until[node.at()] = kept.map_or(At::NEVER, |(_, until)| until);
        });
    }

    /// Whether some kept node has a part of a GPU free.
    pub(crate) const fn has_gaps(&self) -> bool {
        self.gaps.count > 0
    }

    /// Kept nodes in service with a part of a GPU free.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = NodeIx> {
        self.gaps.iter()
    }

    /// When room last grew that could help a member of these classes with so many whole GPUs.
    pub(crate) fn risen_at(&self, classes: u64, gpus: u8) -> u64 {
        let mut latest = 0;
        for (class, at) in self.rises.at.iter().enumerate() {
            if classes >> class.min(63) & 1 == 1 {
                latest = latest.max(at[usize::from(gpus)]);
            }
        }
        latest
    }

    /// The count of rises so far.
    pub(crate) const fn clock(&self) -> u64 {
        self.rises.clock
    }

    /// How often nodes gave room away, or were closed, so far.
    pub(crate) const fn taken(&self) -> u64 {
        self.rises.falls
    }

    /// What one member of a shape needs of a node; whole GPUs only.
    pub(crate) fn member(&self, shape: &Shape) -> Member {
        let gpus = match shape.gpus {
            Gpus::Whole(count) => count,
            Gpus::Milli(_) | Gpus::Slice(_) => 0,
        };
        let classes = self.nodes.class_mask(shape);
        Member { classes, gpus, cpu_milli: shape.cpu_milli, memory_mib: shape.memory_mib }
    }

    /// A view of the members of a gang; `None` when too many different ones are in use.
    pub(crate) fn open_view(&mut self, shape: &Shape) -> Option<usize> {
        let member = self.member(shape);
        if self.nodes.classes.len() > nodes::MAX_CLASSES && member.classes >> (nodes::MAX_CLASSES - 1) == 1 {
            return None;
        }
        let nodes = &self.nodes;
        let serves = |node: NodeIx| {
            let at = node.at();
            nodes.open(node) && member.fits(nodes.class[at], &nodes.free[at], nodes.whole[at])
        };
        self.views.open(&self.topology, member, serves)
    }

    /// Whether one member of a shape fits on the node now, whoever it is kept for.
    pub(crate) fn could_place(&self, node: NodeIx, shape: &Shape) -> bool {
        self.nodes.in_service(node)
            && self.nodes.allowed(node, shape)
            && self.has_room(node, shape)
            && (!matches!(shape.gpus, Gpus::Slice(_)) || self.grant(node, shape).is_some())
    }

    /// Which GPUs of a node one member of a shape would get, whoever it is kept for; `None` when it does not fit.
    pub(crate) fn grant(&self, node: NodeIx, shape: &Shape) -> Option<GpuGrant> {
        let free = &self.nodes.free[node.at()];
        if free.cpu_milli < shape.cpu_milli || free.memory_mib < shape.memory_mib {
            return None;
        }
        match shape.gpus {
            Gpus::Whole(count) if count > self.nodes.whole[node.at()] => None,
            Gpus::Whole(count) => free.whole_mask(count).map(GpuGrant::Whole),
            Gpus::Milli(milli) => {
                let fitting = free.gpus.iter().zip(0..).filter(|(gpu, _)| gpu.free_milli() >= milli);
                let (_, gpu) = fitting.min_by_key(|(gpu, place): &(&GpuFree, u8)| (gpu.free_milli(), *place))?;
                Some(GpuGrant::Milli { gpu, milli })
            }
            Gpus::Slice(slice) => {
                let model = self.models.get(usize::from(self.nodes.model[node.at()].0))?;
                let positions = &model.slices.get(usize::from(slice.0))?.positions;
                let places = free.gpus.iter().zip(0..).flat_map(|(gpu, place): (&GpuFree, u8)| {
                    let slots = gpu.free_slots();
                    let fitting = positions.iter().copied().filter(move |position| position & !slots == 0);
                    fitting.map(move |position| (slots.count_ones(), place, position))
                });
                places.min().map(|(_, gpu, slots)| GpuGrant::Slice { gpu, slots })
            }
        }
    }

    /// Memory slots that a hardware partition may take of a GPU of this node.
    pub(crate) fn slice_positions(&self, node: NodeIx, slice: SliceId) -> &[u8] {
        let model = self.models.get(usize::from(self.nodes.model[node.at()].0));
        let slice = model.and_then(|model| model.slices.get(usize::from(slice.0)));
        slice.map_or(&[], |slice| &slice.positions)
    }

    /// The point of the power tree that feeds every node, where there is one.
    pub(crate) const fn feeder(&self) -> Option<PowerId> {
        self.feeder
    }

    /// Whether one member takes all GPUs of some node that it may lie on.
    pub(crate) fn takes_whole_node(&self, shape: &Shape) -> bool {
        let Gpus::Whole(count) = shape.gpus else { return false };
        count > 0 && self.nodes.classes.iter().any(|class| class.gpus == count)
    }

    /// Whether a point of the power tree feeds every node.
    pub(crate) fn feeds_all(&self, power: PowerId) -> bool {
        self.feeder == Some(power)
    }

    /// When, as far as leases say, a node could hold a member of this shape; `NEVER` when nobody knows.
    pub(crate) fn free_at(&self, node: NodeIx, shape: &Shape, now: At) -> At {
        if self.has_room(node, shape) {
            return now;
        }
        if self.must_be_empty(node, shape) {
            return self.tenants.all_gone_at(node, now);
        }
        let mut free = self.nodes.free[node.at()];
        let mut after = At(i64::MIN);
        // Ends in order, those of one instant together; there are few on a node, so each is looked for.
        loop {
            let ends = self.tenants.on(node).iter().map(|tenant| expected_end(tenant.ends_at, now));
            let Some(next) = ends.filter(|end| *end > after && *end < At::NEVER).min() else { return At::NEVER };
            for tenant in self.tenants.on(node).iter().filter(|tenant| expected_end(tenant.ends_at, now) == next) {
                free.give(tenant.gpus, tenant.cpu_milli, tenant.memory_mib);
            }
            if free.could_hold(shape) {
                return next;
            }
            after = next;
        }
    }

    /// Whether a member takes all GPUs of a node, and everybody on it has some: all must go.
    pub(crate) fn must_be_empty(&self, node: NodeIx, shape: &Shape) -> bool {
        shape.gpus == Gpus::Whole(self.nodes.gpus[node.at()])
            && self.tenants.on(node).iter().all(|tenant| tenant.gpus != GpuGrant::Whole(0))
    }

    /// Whether one member has room on the node now, be it in service or not; of slices only that a slot is free.
    fn has_room(&self, node: NodeIx, shape: &Shape) -> bool {
        let free = &self.nodes.free[node.at()];
        match shape.gpus {
            Gpus::Whole(count) => {
                count <= self.nodes.whole[node.at()]
                    && free.cpu_milli >= shape.cpu_milli
                    && free.memory_mib >= shape.memory_mib
            }
            Gpus::Milli(_) | Gpus::Slice(_) => free.could_hold(shape),
        }
    }

    /// Something else is known of when a lease ends: its part of a node is told.
    pub(crate) fn set_end(&mut self, node: NodeIx, tenant: Tenant, ends_at: At) {
        if tenant.ends_at != ends_at {
            self.tenants.remove(node, tenant);
            self.tenants.insert(node, Tenant { ends_at, ..tenant });
            self.journal.note(node);
        }
    }

    /// Counts from nothing and compares: what no sequence of events may break.
    #[cfg(test)]
    pub(crate) fn check_counters(&self) {
        for at in 0..self.nodes.len() {
            let node = NodeIx::new(at);
            let whole = self.nodes.free[at].gpus.iter().filter(|gpu| gpu.is_whole()).count();
            assert_eq!(usize::from(self.nodes.whole[at]), whole, "whole GPUs of {node:?}");
        }
        self.views.check(&self.topology, |member, node| {
            let at = node.at();
            self.nodes.open(node) && member.fits(self.nodes.class[at], &self.nodes.free[at], self.nodes.whole[at])
        });
    }

    /// Nodes that changed since this was last asked, in no order that means anything.
    pub(crate) fn take_touched(&mut self) -> Vec<NodeIx> {
        self.touched.take()
    }

    fn touch(&mut self, node: NodeIx) {
        self.journal.note(node);
        self.touched.note(node);
    }

    /// Changes what decides whether a node is open, and the counters when it changed.
    fn with_openness(&mut self, node: NodeIx, change: impl FnOnce(&mut Self)) {
        self.touch(node);
        self.rises.falls += 1;
        let (was_open, was_in_service) = (self.nodes.open(node), self.nodes.in_service(node));
        change(self);
        match (was_open, self.nodes.open(node)) {
            (false, true) => {
                self.enter(node);
                self.rise(node);
            }
            (true, false) => self.leave(node),
            // It is promised to somebody, and others may use it before that again.
            (false, false) if !was_in_service && self.nodes.in_service(node) => self.rise(node),
            (true, true) | (false, false) => {}
        }
        self.mend_gap(node);
    }

    fn enter(&mut self, node: NodeIx) {
        let at = node.at();
        let (class, whole) = (self.nodes.class[at], self.nodes.whole[at]);
        self.views.change(&self.topology, node, class, Some((&self.nodes.free[at], whole)));
        let capacity = &self.nodes.capacity[at];
        let kind = NodeKind {
            model: self.nodes.model[at],
            gpus: self.nodes.gpus[at],
            cpu_milli: capacity.cpu_milli,
            memory_mib: capacity.memory_mib,
            residency: self.nodes.residency[at],
        };
        self.packer.insert(node.0, kind, &self.nodes.free[at]);
    }

    fn leave(&mut self, node: NodeIx) {
        let class = self.nodes.class[node.at()];
        self.views.change(&self.topology, node, class, None);
        self.packer.remove(node.0);
    }

    fn changed(&mut self, node: NodeIx) {
        self.touch(node);
        let at = node.at();
        let whole = self.nodes.free[at].gpus.iter().map(|gpu| u8::from(gpu.is_whole())).sum();
        self.nodes.whole[at] = whole;
        if self.nodes.open(node) {
            let class = self.nodes.class[at];
            self.views.change(&self.topology, node, class, Some((&self.nodes.free[at], whole)));
            self.packer.changed(node.0, &self.nodes.free[at]);
        } else {
            self.mend_gap(node);
        }
    }

    fn mend_gap(&mut self, node: NodeIx) {
        let is_kept = self.nodes.reserved[node.at()].is_some() && self.nodes.in_service(node);
        let is_gap = is_kept && (self.nodes.whole[node.at()] > 0 || self.nodes.free[node.at()].has_gpu());
        self.gaps.set(node, is_gap);
    }

    fn rise(&mut self, node: NodeIx) {
        self.rises.clock += 1;
        let class = usize::from(self.nodes.class[node.at()]);
        let whole = usize::from(self.nodes.whole[node.at()]);
        for at in &mut self.rises.at[class][..=whole] {
            *at = self.rises.clock;
        }
    }
}

/// The root of the power tree, when all nodes hang below one.
fn feeder(spec: &FleetSpec) -> Option<PowerId> {
    let mut roots =
        spec.power.iter().zip(0..).filter(|(point, _)| point.parent.is_none()).map(|(_, place)| PowerId(place));
    let root = roots.next()?;
    roots.next().is_none().then_some(root)
}

impl NodeFree {
    /// Whether one member of a shape fits; of slices only that some slot is free is asked.
    pub(crate) fn could_hold(&self, shape: &Shape) -> bool {
        if self.cpu_milli < shape.cpu_milli || self.memory_mib < shape.memory_mib {
            return false;
        }
        match shape.gpus {
            Gpus::Whole(count) => self.gpus.iter().filter(|gpu| gpu.is_whole()).count() >= usize::from(count),
            Gpus::Milli(milli) => self.gpus.iter().any(|gpu| gpu.free_milli() >= milli),
            Gpus::Slice(_) => self.gpus.iter().any(|gpu| gpu.free_slots() != 0),
        }
    }
}
