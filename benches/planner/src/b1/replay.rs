//! One arrival order against one policy: each task is decided at once, placed if any node fits, else dropped.

use std::time::Instant;

use anyhow::{Context as _, Result};
use galerne_planner::event::Event;
use galerne_planner::fleet::{
    Amount, DomainSpec, FleetSpec, Health, Level, ModelSpec, NodeSpec, Policy, PowerSpec, QueueSpec,
};
use galerne_planner::planner::Planner;
use galerne_planner::request::{Gpus, Nodes, Request, Shape, Stop};
use galerne_planner::units::{
    At, DomainId, LeaseId, ModelId, NodeId, PowerId, QueueId, RequestId, ResidencyId, TenantClass,
};

use super::cluster::{Cluster, Peer};
use crate::openb::{List, Site, Task};
use crate::timing::Samples;

/// Allocated percent when so many percent were requested, at every whole percent that occurs.
pub(crate) type Curve = Vec<(i32, f64)>;

/// Sums what is allocated, by rounded percent requested.
pub(crate) struct Meter {
    capacity_milli: i64,
    requested: i64,
    allocated: i64,
    /// By percent: sum of allocated percent, and how many events.
    sums: std::collections::BTreeMap<i32, (f64, f64)>,
}

impl Meter {
    pub(crate) fn new(site: &Site) -> Self {
        Self { capacity_milli: site.capacity_milli(), requested: 0, allocated: 0, sums: Default::default() }
    }

    /// One more task, placed or not; the percent requested now.
    #[allow(clippy::cast_possible_truncation, reason = "percents are small")]
    pub(crate) fn count(&mut self, task: &Task, is_placed: bool) -> i32 {
        self.requested += task.total_milli();
        self.allocated += if is_placed { task.total_milli() } else { 0 };
        let percent = |milli: i64| 100.0 * milli as f64 / self.capacity_milli as f64;
        let rounded = percent(self.requested).round() as i32;
        let sum = self.sums.entry(rounded).or_insert((0.0, 0.0));
        *sum = (sum.0 + percent(self.allocated), sum.1 + 1.0);
        rounded
    }

    pub(crate) fn allocated_percent(&self) -> f64 {
        100.0 * self.allocated as f64 / self.capacity_milli as f64
    }

    pub(crate) fn curve(&self) -> Curve {
        self.sums.iter().map(|(percent, (sum, events))| (*percent, sum / events)).collect()
    }
}

/// The value of a curve at a percent; of the last before it where it has none.
pub(crate) fn at(curve: &Curve, percent: i32) -> f64 {
    curve.iter().rev().find(|(known, _)| *known <= percent).map_or(0.0, |(_, value)| *value)
}

/// A peer over one order.
pub(crate) fn peer(site: &Site, list: &List, order: &[usize], peer: &mut dyn Peer) -> Curve {
    let (mut cluster, mut meter) = (Cluster::new(site), Meter::new(site));
    for row in order {
        let task = &list.tasks[*row];
        let is_placed = cluster.place(task, peer).is_some();
        meter.count(task, is_placed);
    }
    meter.curve()
}

/// Where the planner's knowledge of the demand comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// The list's frequencies, told beforehand, as FGD knows them.
    Told,
    /// Nothing but what was asked for so far and still runs.
    Seen,
}

/// The planner over one order, an event for each task; `samples` gets the time of each decision: the request is told,
/// the plan comes back.
pub(crate) fn planner(
    site: &Site,
    list: &List,
    order: &[usize],
    demand: Demand,
    samples: &mut Samples,
) -> Result<Curve> {
    let mut planner = Planner::new(fleet(site)).map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let apply = |planner: &mut Planner, event| planner.apply(event).map_err(|refusal| anyhow::anyhow!("{refusal}"));
    if demand == Demand::Told {
        let shapes = list.frequencies().iter().map(|(task, count)| (shape(task), *count)).collect();
        apply(&mut planner, Event::DemandTold(shapes))?;
    }
    let mut meter = Meter::new(site);
    for (number, row) in (1_u64..).zip(order) {
        let task = &list.tasks[*row];
        let (id, now) = (RequestId(number), At(i64::try_from(number)?));
        let request = request(id, now, task);
        let begun = Instant::now();
        // Refused is what not even an empty node could hold: dropped, like what finds none free.
        if planner.apply(Event::RequestAdded(request)).is_err() {
            samples.push(begun.elapsed());
            meter.count(task, false);
            continue;
        }
        let plan = planner.step(now);
        samples.push(begun.elapsed());
        let is_placed = !plan.placements.is_empty();
        if is_placed {
            planner.commit(&plan, now, |_| LeaseId(number)).ok().context("the planner refused its own plan")?;
        } else {
            apply(&mut planner, Event::RequestWithdrawn(id))?;
        }
        meter.count(task, is_placed);
    }
    Ok(meter.curve())
}

/// The site as one domain, under one power point without a limit, for one queue.
fn fleet(site: &Site) -> FleetSpec {
    let node = |(number, node): (u64, &crate::openb::Node)| NodeSpec {
        id: NodeId(number),
        model: ModelId(node.model),
        gpus: node.gpus,
        cpu_milli: node.cpu_milli,
        memory_mib: node.memory_mib,
        domain: DomainId(0),
        fabric: None,
        power: PowerId(0),
        residency: ResidencyId(0),
        health: Health::Ready,
        hold_until: None,
        failures: 0,
        observed_days: 0,
    };
    FleetSpec {
        models: vec![ModelSpec::default(); site.models.len()],
        domains: vec![DomainSpec { level: Level::Site, parent: None }],
        power: vec![PowerSpec { parent: None, cap_watts: 1 << 40, floors: Vec::new() }],
        nodes: (0..).zip(&site.nodes).map(node).collect(),
        queues: vec![QueueSpec { parent: None, weight: 1, guaranteed: Amount::default(), limit: None }],
        policy: Policy { reservations: 0, preemptions: 0, moves: 0, ..Policy::default() },
    }
}

fn shape(task: &Task) -> Shape {
    Shape {
        gpus: if task.is_share() { Gpus::Milli(task.milli) } else { Gpus::Whole(task.gpus) },
        nodes: Nodes { min: 1, max: 1 },
        models: task.models,
        cpu_milli: task.cpu_milli,
        memory_mib: task.memory_mib,
        within: None,
        prefer: None,
        residencies: 0,
        expected_watts: 0,
        peak_watts: 0,
    }
}

fn request(id: RequestId, now: At, task: &Task) -> Request {
    Request {
        id,
        queue: QueueId(0),
        class: TenantClass(0),
        priority: 0,
        submitted_at: now,
        order: id.0,
        shape: shape(task),
        run_seconds: None,
        deadline: None,
        not_before: None,
        deferrable: false,
        stop: Stop::Never,
        near: None,
    }
}
