//! What can be at all: a fleet that hangs together, requests that it could hold when empty, leases that lie on what
//! exists.
//!
//! Purpose: every refusal is decided here, before any state changes, in time that does not grow with the queue.
//! Checks look only at what stays as it is (nodes, domains, models, which queues are leaves), never at caps, limits,
//! health or other requests: so a planner built anew from a fleet and its requests takes what the old one had taken.
//! Deliberately absent: whether a request fits now, which is the plan's.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::{DomainSpec, FleetSpec, Level, ModelSpec, NodeSpec, PowerSpec};
use crate::refusal::{FleetRule, NodeRule, Refusal, Tree};
use crate::units::{At, DomainId, MAX_GPUS, MAX_TENANT_CLASSES, ModelId, NodeId, PowerId, SliceId};

mod lease;
mod queue;
mod request;

pub use lease::{check_lease_end, check_lease_saved};
pub use queue::check_forecast;

/// Models that a request's bit mask can tell apart.
pub const MAX_MODELS: usize = 64;
/// Slice profiles that a `SliceId` can tell apart.
pub const MAX_SLICES: usize = 256;
/// Residency labels that a request's bit mask can tell apart.
pub const MAX_RESIDENCIES: u8 = 64;
/// Most watts, thousandths or MiB in one number: below it sums over a fleet do not overflow, and JSON keeps it exact.
pub const MAX_AMOUNT: i64 = 1 << 53;
/// Most steps of a forecast: a year of hours is 8,784.
pub const MAX_FORECAST_STEPS: usize = 10_000;

/// What a fleet could hold with all nodes in service and empty, and what its trees look like: fixed for its life.
#[derive(Debug, Clone)]
pub struct Census {
    /// Distinct kinds of nodes.
    kinds: Vec<Kind>,
    /// The whole fleet: nodes of each kind.
    whole: Composition,
    /// For each level the distinct compositions of its domains: a fleet of equal racks has one.
    levels: [Vec<Composition>; Level::ALL.len()],
    models: Vec<ModelSpec>,
    /// For each queue whether it has queues below it.
    inner: Vec<bool>,
    /// For each power point the watts kept for tenant classes, there and below.
    floors: Vec<i128>,
    capacity: queue::Capacity,
}

/// Nodes that are alike in all that a shape asks of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    model: ModelId,
    gpus: u8,
    cpu_milli: u32,
    memory_mib: u32,
    residency: u8,
}

/// Kinds by their place, and how many nodes of each.
type Composition = Vec<(usize, u32)>;

/// Checks a fleet, and counts what it could hold.
pub fn validate_fleet(fleet: &FleetSpec) -> Result<Census, Refusal> {
    check_fleet(fleet).map_err(Refusal::Fleet)
}

/// Refuses an instant outside the calendar: beyond it sums of instants and durations could overflow.
pub(crate) const fn in_calendar(at: At) -> bool {
    -MAX_AMOUNT <= at.0 && at.0 <= MAX_AMOUNT
}

/// Whether a node may be held until `until`.
pub fn check_hold(node: NodeId, until: Option<At>) -> Result<(), Refusal> {
    match until {
        Some(at) if !in_calendar(at) => Err(Refusal::Node { node, rule: NodeRule::Instant { at } }),
        Some(_) | None => Ok(()),
    }
}

impl Census {
    /// Whether a power point may have this cap.
    pub fn check_cap(&self, power: PowerId, cap_watts: i64) -> Result<(), Refusal> {
        let refuse = |rule| Refusal::Cap { power, rule };
        let floors = place(power.0).and_then(|at| self.floors.get(at));
        let floors = floors.ok_or_else(|| refuse(FleetRule::UnknownPower { power }))?;
        check_cap_number(power, cap_watts).map_err(refuse)?;
        check_floors_below(power, *floors, cap_watts).map_err(refuse)
    }
}

fn check_fleet(fleet: &FleetSpec) -> Result<Census, FleetRule> {
    check_models(&fleet.models)?;
    check_domains(&fleet.domains)?;
    let floors = check_power(&fleet.power)?;
    check_nodes(fleet)?;
    let capacity = queue::Capacity::of(&fleet.nodes);
    queue::check_queues(&fleet.queues, &capacity)?;
    let mut inner = vec![false; fleet.queues.len()];
    for parent in fleet.queues.iter().filter_map(|queue| queue.parent).filter_map(|parent| place(parent.0)) {
        inner[parent] = true;
    }
    let (kinds, whole, levels) = count(fleet);
    Ok(Census { kinds, whole, levels, models: fleet.models.clone(), inner, floors, capacity })
}

fn check_models(models: &[ModelSpec]) -> Result<(), FleetRule> {
    if models.len() > MAX_MODELS {
        return Err(FleetRule::TooManyModels { count: models.len() });
    }
    for (model, spec) in (0..=u8::MAX).map(ModelId).zip(models) {
        if spec.slices.len() > MAX_SLICES {
            return Err(FleetRule::TooManySlices { model, count: spec.slices.len() });
        }
        for (slice, profile) in (0..=u8::MAX).map(SliceId).zip(&spec.slices) {
            if profile.positions.is_empty() || profile.positions.contains(&0) {
                return Err(FleetRule::SliceWithoutPosition { model, slice });
            }
            if !(1..=7).contains(&profile.compute) {
                return Err(FleetRule::SliceCompute { model, slice, compute: profile.compute });
            }
        }
    }
    Ok(())
}

fn check_domains(domains: &[DomainSpec]) -> Result<(), FleetRule> {
    let parents: Vec<_> = domains.iter().map(|domain| domain.parent.map(|parent| parent.0)).collect();
    children_first(Tree::Domain, &parents)?;
    for (at, domain) in (0..).map(DomainId).zip(domains) {
        let Some(parent) = domain.parent.and_then(|parent| domains.get(place(parent.0)?)) else { continue };
        let (level, parent_level) = (domain.level, parent.level);
        if level.is_fabric() != parent_level.is_fabric() {
            return Err(FleetRule::ParentOfOtherTree { at, level, parent_level });
        }
        if parent_level >= level {
            return Err(FleetRule::ParentNotCoarser { at, level, parent_level });
        }
    }
    Ok(())
}

/// Checks the power tree; gives the watts kept at each point, for itself and all below it.
fn check_power(power: &[PowerSpec]) -> Result<Vec<i128>, FleetRule> {
    let parents: Vec<_> = power.iter().map(|point| point.parent.map(|parent| parent.0)).collect();
    let order = children_first(Tree::Power, &parents)?;
    let mut kept = vec![[0_i128; MAX_TENANT_CLASSES]; power.len()];
    for (at, point) in (0..).map(PowerId).zip(power) {
        check_cap_number(at, point.cap_watts)?;
    }
    for at in order {
        let point = &power[at];
        let own = check_floors(number(at), &point.floors)?;
        let mut sum = 0;
        for class in 0..MAX_TENANT_CLASSES {
            kept[at][class] = kept[at][class].max(i128::from(own[class]));
            sum += kept[at][class];
            if let Some(parent) = point.parent.and_then(|parent| place(parent.0)) {
                kept[parent][class] += kept[at][class];
            }
        }
        check_floors_below(number(at), sum, point.cap_watts)?;
    }
    Ok(kept.iter().map(|classes| classes.iter().sum()).collect())
}

fn check_cap_number(power: PowerId, cap_watts: i64) -> Result<(), FleetRule> {
    if cap_watts < 0 {
        return Err(FleetRule::NegativeCap { power, cap_watts });
    }
    if cap_watts > MAX_AMOUNT {
        return Err(FleetRule::CapTooLarge { power, cap_watts });
    }
    Ok(())
}

fn check_floors(
    power: PowerId,
    floors: &[(crate::units::TenantClass, i64)],
) -> Result<[i64; MAX_TENANT_CLASSES], FleetRule> {
    let mut seen = [None; MAX_TENANT_CLASSES];
    for &(class, floor_watts) in floors {
        let class = class.0;
        let slot = seen.get_mut(usize::from(class)).ok_or(FleetRule::FloorClass { power, class })?;
        if slot.replace(floor_watts).is_some() {
            return Err(FleetRule::FloorTwice { power, class });
        }
        if floor_watts < 0 {
            return Err(FleetRule::NegativeFloor { power, class, floor_watts });
        }
    }
    Ok(seen.map(|floor| floor.unwrap_or(0)))
}

fn check_floors_below(power: PowerId, floors: i128, cap_watts: i64) -> Result<(), FleetRule> {
    if floors > i128::from(cap_watts) {
        let floors_watts = i64::try_from(floors).unwrap_or(i64::MAX);
        return Err(FleetRule::FloorAboveCap { power, floors_watts, cap_watts });
    }
    Ok(())
}

fn check_nodes(fleet: &FleetSpec) -> Result<(), FleetRule> {
    let mut seen = BTreeSet::new();
    for node in &fleet.nodes {
        if !seen.insert(node.id) {
            return Err(FleetRule::NodeTwice { node: node.id });
        }
        check_node(fleet, node)?;
    }
    Ok(())
}

fn check_node(fleet: &FleetSpec, spec: &NodeSpec) -> Result<(), FleetRule> {
    let node = spec.id;
    if usize::from(spec.model.0) >= fleet.models.len() {
        return Err(FleetRule::NodeModel { node, model: spec.model });
    }
    if usize::from(spec.gpus) > MAX_GPUS {
        return Err(FleetRule::NodeGpus { node, gpus: spec.gpus });
    }
    let level = |domain: DomainId| place(domain.0).and_then(|at| fleet.domains.get(at)).map(|domain| domain.level);
    let domain = spec.domain;
    match level(domain) {
        None => return Err(FleetRule::NodeDomain { node, domain }),
        Some(level) if level.is_fabric() => return Err(FleetRule::NodeDomainOfFabric { node, domain, level }),
        Some(_) => {}
    }
    if let Some(domain) = spec.fabric {
        match level(domain) {
            None => return Err(FleetRule::NodeDomain { node, domain }),
            Some(level) if !level.is_fabric() => return Err(FleetRule::NodeFabricOfTopology { node, domain, level }),
            Some(_) => {}
        }
    }
    if place(spec.power.0).is_none_or(|at| at >= fleet.power.len()) {
        return Err(FleetRule::NodePower { node, power: spec.power });
    }
    if spec.residency.0 >= MAX_RESIDENCIES {
        return Err(FleetRule::NodeResidency { node, residency: spec.residency });
    }
    match spec.hold_until {
        Some(at) if !in_calendar(at) => Err(FleetRule::NodeHold { node, at }),
        Some(_) | None => Ok(()),
    }
}

/// Places of a tree's entries, children before parents; refuses unknown parents and cycles.
fn children_first(tree: Tree, parents: &[Option<u32>]) -> Result<Vec<usize>, FleetRule> {
    let most = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
    if parents.len() > most {
        return Err(FleetRule::TooMany { tree, count: parents.len(), most });
    }
    let mut children = vec![0_usize; parents.len()];
    for (at, parent) in (0_u32..).zip(parents) {
        let Some(parent) = *parent else { continue };
        *place(parent).and_then(|place| children.get_mut(place)).ok_or(FleetRule::UnknownParent {
            tree,
            at,
            parent,
        })? += 1;
    }
    let mut order: Vec<usize> = (0..parents.len()).filter(|&at| children[at] == 0).collect();
    let mut next = 0;
    while let Some(&at) = order.get(next) {
        next += 1;
        let Some(parent) = parents[at].and_then(place) else { continue };
        children[parent] -= 1;
        if children[parent] == 0 {
            order.push(parent);
        }
    }
    // What was never reached has, each, a child that was never reached: only cycles are like that.
    match (0_u32..).zip(&children).find(|(_, left)| **left > 0) {
        Some((at, _)) => Err(FleetRule::Cycle { tree, at }),
        None => Ok(order),
    }
}

/// Distinct kinds of nodes, how many the fleet has of each, and the distinct compositions of domains by level.
fn count(fleet: &FleetSpec) -> (Vec<Kind>, Composition, [Vec<Composition>; Level::ALL.len()]) {
    let mut kinds = BTreeMap::new();
    for node in &fleet.nodes {
        *kinds.entry(Kind::of(node)).or_insert(0) += 1;
    }
    let whole = kinds.values().copied().enumerate().collect();
    let places: BTreeMap<Kind, usize> = kinds.keys().copied().zip(0..).collect();
    let mut below: Vec<BTreeMap<usize, u32>> = vec![BTreeMap::new(); fleet.domains.len()];
    for node in &fleet.nodes {
        let kind = places[&Kind::of(node)];
        for finest in [Some(node.domain), node.fabric] {
            let mut at = finest;
            while let Some(domain) = at.and_then(|domain| place(domain.0)) {
                *below[domain].entry(kind).or_insert(0) += 1;
                at = fleet.domains[domain].parent;
            }
        }
    }
    let levels = Level::ALL.map(|level| {
        let of_level = fleet.domains.iter().zip(&below).filter(|(domain, _)| domain.level == level);
        let distinct: BTreeSet<Composition> =
            of_level.map(|(_, kinds)| kinds.iter().map(|(k, n)| (*k, *n)).collect()).collect();
        distinct.into_iter().collect()
    });
    (kinds.into_keys().collect(), whole, levels)
}

impl Kind {
    const fn of(node: &NodeSpec) -> Self {
        Self {
            model: node.model,
            gpus: node.gpus,
            cpu_milli: node.cpu_milli,
            memory_mib: node.memory_mib,
            residency: node.residency.0,
        }
    }
}

/// An id as a place in its list.
fn place(id: u32) -> Option<usize> {
    usize::try_from(id).ok()
}

/// A place in the list of power points as an id: lists are checked to be short enough.
fn number(at: usize) -> PowerId {
    PowerId(u32::try_from(at).unwrap_or(u32::MAX))
}
