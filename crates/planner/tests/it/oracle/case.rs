//! Random cases: up to twelve nodes and seven requests, with every rule that a search can hold against them.

use std::collections::BTreeMap;

use galerne_planner::check::bounds::{Item, Prices};
use galerne_planner::fleet::{
    Amount, DomainSpec, FleetSpec, Health, Lease, Level, ModelSpec, NodeSpec, Policy, PowerSpec, QueueSpec,
};
use galerne_planner::plan::{GpuGrant, Grant};
use galerne_planner::request::{Gpus, Nodes, Request, Shape, Stop};
use galerne_planner::units::{
    At, DomainId, LeaseId, ModelId, NodeId, PowerId, QueueId, RequestId, ResidencyId, TenantClass,
};

use crate::fixture::{self, Dice};

pub(crate) struct Case {
    pub(crate) fleet: FleetSpec,
    pub(crate) leases: Vec<Lease>,
    pub(crate) requests: Vec<Request>,
}

impl Case {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut fleet = topology(&mut dice);
        fleet.queues = queues(&mut dice, &fleet);
        let leases = leases(&mut dice, &fleet);
        let census = galerne_planner::validate::validate_fleet(&fleet).unwrap();
        let wanted = 3 + dice.below(5);
        let mut requests = Vec::new();
        while (requests.len() as u64) < wanted {
            let request = request(&mut dice, &fleet, requests.len() as u64 + 1);
            if census.check_request(&request).is_ok() {
                requests.push(request);
            }
        }
        Self { fleet, leases, requests }
    }

    /// Thousandths of GPUs that so many nodes of each request are.
    pub(crate) fn gpu_milli(&self, given: &BTreeMap<RequestId, u16>) -> i64 {
        let of = |request: &Request| i64::from(given.get(&request.id).copied().unwrap_or(0)) * milli(&request.shape);
        self.requests.iter().map(of).sum()
    }

    /// Requests as items to pack, each with its most nodes.
    pub(crate) fn items(&self) -> Vec<Item> {
        let item = |request: &Request| {
            let nodes = i64::from(request.shape.nodes.max);
            let models = (0..self.fleet.models.len())
                .filter(|model| request.shape.models == 0 || request.shape.models >> model & 1 == 1);
            let takes = models.map(|model| {
                vec![
                    (2 * model, milli(&request.shape) * nodes),
                    (2 * model + 1, i64::from(request.shape.cpu_milli) * nodes),
                ]
            });
            Item { worth: milli(&request.shape) * nodes, takes: takes.collect() }
        };
        self.requests.iter().map(item).collect()
    }

    /// What is free of each model's GPUs and CPU, GPUs at what they are worth.
    pub(crate) fn prices(&self) -> Prices {
        let mut capacity = vec![0; 2 * self.fleet.models.len()];
        for node in &self.fleet.nodes {
            capacity[2 * usize::from(node.model.0)] += i64::from(node.gpus) * 1000;
            capacity[2 * usize::from(node.model.0) + 1] += i64::from(node.cpu_milli);
        }
        for lease in &self.leases {
            for grant in &lease.grants {
                let node = self.fleet.nodes.iter().find(|node| node.id == grant.node).unwrap();
                capacity[2 * usize::from(node.model.0)] -= milli(&lease.request.shape);
                capacity[2 * usize::from(node.model.0) + 1] -= i64::from(lease.request.shape.cpu_milli);
            }
        }
        let milli = (0..self.fleet.models.len()).flat_map(|_| [1000, 0]).collect();
        Prices { capacity, milli }
    }
}

pub(crate) fn milli(shape: &Shape) -> i64 {
    match shape.gpus {
        Gpus::Whole(count) => i64::from(count) * 1000,
        Gpus::Milli(milli) => i64::from(milli),
        Gpus::Slice(_) => unreachable!("the search knows no slices"),
    }
}

/// Racks of two to four nodes, two racks a unit; NVLink joins pairs of nodes across nothing but their rack.
fn topology(dice: &mut Dice) -> FleetSpec {
    let count = 4 + u32::try_from(dice.below(9)).unwrap();
    let per_rack = 2 + u32::try_from(dice.below(3)).unwrap();
    let racks = count.div_ceil(per_rack);
    let units = racks.div_ceil(2);
    let links = count.div_ceil(2);
    let (first_unit, first_rack, first_link) = (1, 1 + units, 1 + units + racks);
    let domain = |level, parent: Option<u32>| DomainSpec { level, parent: parent.map(DomainId) };
    let mut domains = vec![domain(Level::Site, None)];
    domains.extend((0..units).map(|_| domain(Level::Unit, Some(0))));
    domains.extend((0..racks).map(|rack| domain(Level::Rack, Some(first_unit + rack / 2))));
    domains.extend((0..links).map(|_| domain(Level::NvLink, None)));
    let models = 1 + dice.below(2);
    let gpus = dice.pick(&[2_u8, 4, 4, 8]);
    let is_mixed = dice.hits(20);
    let nodes: Vec<NodeSpec> = (0..count)
        .map(|at| NodeSpec {
            id: NodeId(u64::from(at) + 1),
            model: ModelId(u8::try_from(dice.below(models)).unwrap()),
            gpus: if is_mixed { dice.pick(&[2_u8, 4, 8]) } else { gpus },
            cpu_milli: 4_000 * u32::from(gpus),
            memory_mib: 1_000_000,
            domain: DomainId(first_rack + at / per_rack),
            fabric: Some(DomainId(first_link + at / 2)),
            power: PowerId(1 + at / per_rack),
            residency: ResidencyId(u8::try_from(dice.below(2)).unwrap()),
            health: if dice.hits(4) { Health::Cordoned } else { Health::Ready },
            hold_until: None,
            failures: 0,
            observed_days: 0,
        })
        .collect();
    let all: i64 = nodes.iter().map(|node| i64::from(node.gpus) * 1_000).sum();
    let is_tight = dice.hits(40);
    let share = |dice: &mut Dice, watts: i64| {
        if is_tight { watts * i64::try_from(40 + dice.below(61)).unwrap() / 100 } else { watts }
    };
    let mut power = vec![PowerSpec { parent: None, cap_watts: share(dice, all), floors: Vec::new() }];
    for rack in 0..racks {
        let own =
            nodes.iter().filter(|node| node.power == PowerId(1 + rack)).map(|node| i64::from(node.gpus) * 1_000).sum();
        power.push(PowerSpec { parent: Some(PowerId(0)), cap_watts: share(dice, own), floors: Vec::new() });
    }
    if is_tight && dice.hits(50) {
        let kept = power[0].cap_watts / 5;
        power[0].floors = vec![(TenantClass(1), kept)];
    }
    // Promises and preemption decide about later; the search is about now.
    let policy = Policy { reservations: 0, preemptions: 0, ..Policy::default() };
    let models = vec![ModelSpec::default(); usize::try_from(models).unwrap()];
    FleetSpec { models, domains, power, nodes, queues: Vec::new(), policy }
}

/// One queue, or two or three, sometimes below another; with limits and guarantees.
fn queues(dice: &mut Dice, fleet: &FleetSpec) -> Vec<QueueSpec> {
    let all: i64 = fleet.nodes.iter().map(|node| i64::from(node.gpus) * 1000).sum();
    let leaves = 1 + dice.below(3);
    let is_deep = leaves > 1 && dice.hits(50);
    let mut queues: Vec<QueueSpec> = Vec::new();
    for leaf in 0..leaves {
        let weight = 1 + u32::try_from(dice.below(3)).unwrap();
        let parent = (is_deep && leaf > 0).then_some(QueueId(u32::try_from(leaves).unwrap()));
        let mut queue = QueueSpec { parent, weight, ..fixture::queue(None, 1) };
        if dice.hits(30) {
            queue.guaranteed.gpu_milli = all / 1000 / 4 * 1000;
        }
        if dice.hits(30) {
            let gpu_milli = all * i64::try_from(30 + dice.below(50)).unwrap() / 100;
            let rest = 1 << 50;
            queue.limit = Some(Amount {
                gpu_milli: gpu_milli.max(queue.guaranteed.gpu_milli),
                cpu_milli: rest,
                memory_mib: rest,
                watts: rest,
            });
        }
        queues.push(queue);
    }
    if is_deep {
        queues.push(fixture::queue(None, 2));
    }
    queues
}

fn leaf(dice: &mut Dice, fleet: &FleetSpec) -> QueueId {
    let leaves: Vec<u32> = (0..u32::try_from(fleet.queues.len()).unwrap())
        .filter(|at| fleet.queues.iter().all(|queue| queue.parent != Some(QueueId(*at))))
        .collect();
    QueueId(dice.pick(&leaves))
}

/// What runs already, anywhere, and never ends.
fn leases(dice: &mut Dice, fleet: &FleetSpec) -> Vec<Lease> {
    let mut leases: Vec<Lease> = Vec::new();
    for id in 1..=dice.below(5) {
        let node = fleet.nodes[usize::try_from(dice.below(fleet.nodes.len() as u64)).unwrap()].clone();
        if leases.iter().any(|lease| lease.grants[0].node == node.id) {
            continue;
        }
        let gpus = 1 + u8::try_from(dice.below(u64::from(node.gpus) / 2)).unwrap();
        let is_part = dice.hits(40);
        let mut lease = fixture::lease(id, node.id.0, 0);
        lease.id = LeaseId(id);
        lease.request.queue = leaf(dice, fleet);
        lease.request.stop = Stop::Never;
        lease.request.run_seconds = None;
        lease.ends_at = None;
        lease.request.shape = Shape {
            gpus: if is_part { Gpus::Milli(300) } else { Gpus::Whole(gpus) },
            cpu_milli: 1_000,
            memory_mib: 1_000,
            expected_watts: 300,
            peak_watts: 300,
            ..fixture::shape()
        };
        let grant = if is_part { GpuGrant::Milli { gpu: 0, milli: 300 } } else { GpuGrant::Whole((1 << gpus) - 1) };
        lease.grants = vec![Grant { node: node.id, gpus: grant }];
        leases.push(lease);
    }
    leases
}

fn request(dice: &mut Dice, fleet: &FleetSpec, id: u64) -> Request {
    let mut request = fixture::request(id);
    request.queue = leaf(dice, fleet);
    request.class = TenantClass(u8::try_from(dice.below(2)).unwrap());
    request.priority = i16::try_from(dice.below(3)).unwrap();
    request.submitted_at = At(i64::try_from(dice.below(9_000)).unwrap());
    request.stop = Stop::Never;
    request.run_seconds = dice.hits(50).then_some(3_600);
    let most = fleet.nodes.iter().map(|node| node.gpus).max().unwrap();
    let gpus = 1 + u8::try_from(dice.below(u64::from(most))).unwrap();
    let nodes = |min, max| Nodes { min, max };
    let (gpus, nodes) = match dice.below(10) {
        0..3 => (Gpus::Whole(gpus), nodes(1, 1)),
        3..6 => (Gpus::Milli(u16::try_from(50 * (1 + dice.below(19))).unwrap()), nodes(1, 1)),
        6..8 => {
            let count = 2 + u16::try_from(dice.below(4)).unwrap();
            (Gpus::Whole(dice.pick(&[gpus, most])), nodes(count, count))
        }
        _ => {
            let min = 1 + u16::try_from(dice.below(2)).unwrap();
            (Gpus::Whole(dice.pick(&[gpus, most])), nodes(min, min + 1 + u16::try_from(dice.below(3)).unwrap()))
        }
    };
    let peak_watts = match gpus {
        Gpus::Whole(count) => 1_000 * u32::from(count),
        Gpus::Milli(milli) => u32::from(milli),
        Gpus::Slice(_) => 0,
    };
    let cpu_milli = match gpus {
        Gpus::Whole(count) => u32::from(count) * dice.pick(&[1_000, 4_000, 6_000]),
        Gpus::Milli(_) | Gpus::Slice(_) => dice.pick(&[500, 4_000]),
    };
    request.shape = Shape {
        gpus,
        nodes,
        models: if dice.hits(30) { 1 << dice.below(fleet.models.len() as u64) } else { 0 },
        cpu_milli,
        memory_mib: 10_000,
        within: if nodes.max > 1 {
            dice.pick(&[None, None, Some(Level::Rack), Some(Level::Unit), Some(Level::NvLink)])
        } else {
            None
        },
        prefer: None,
        residencies: if dice.hits(10) { 0b1 } else { 0 },
        expected_watts: peak_watts,
        peak_watts,
    };
    request
}
