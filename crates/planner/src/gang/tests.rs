use crate::event::Event;
use crate::fleet::{
    Amount, DomainSpec, FleetSpec, Health, Lease, Level, ModelSpec, NodeSpec, Policy, PowerSpec, QueueSpec,
};
use crate::plan::{GpuGrant, Grant};
use crate::planner::Planner;
use crate::request::{Gpus, Nodes, Request, Shape, Stop};
use crate::units::{At, DomainId, LeaseId, ModelId, NodeId, PowerId, QueueId, RequestId, ResidencyId, TenantClass};

const NODES_PER_UNIT: u64 = 4;

/// Two pods of three units of four nodes; of each unit as many nodes are idle as is said.
fn planner(idle: [u64; 6]) -> Planner {
    let domain = |level, parent| DomainSpec { level, parent };
    let mut domains = vec![domain(Level::Pod, None), domain(Level::Pod, None)];
    domains.extend((0..6).map(|unit| domain(Level::Unit, Some(DomainId(unit / 3)))));
    let node = |number: u64| NodeSpec {
        id: NodeId(number),
        model: ModelId(0),
        gpus: 8,
        cpu_milli: 64_000,
        memory_mib: 64_000,
        domain: DomainId(2 + u32::try_from(number / NODES_PER_UNIT).unwrap()),
        fabric: None,
        power: PowerId(0),
        residency: ResidencyId(0),
        health: Health::Ready,
        hold_until: None,
        failures: 0,
        observed_days: 0,
    };
    let fleet = FleetSpec {
        models: vec![ModelSpec::default()],
        domains,
        power: vec![PowerSpec { parent: None, cap_watts: 1_000_000, floors: Vec::new() }],
        nodes: (0..24).map(node).collect(),
        queues: vec![QueueSpec { parent: None, weight: 1, guaranteed: Amount::default(), limit: None }],
        policy: Policy::default(),
    };
    let mut planner = Planner::new(fleet).unwrap();
    for (unit, idle) in (0..).zip(idle) {
        for number in unit * NODES_PER_UNIT..(unit + 1) * NODES_PER_UNIT - idle {
            let grants = vec![Grant { node: NodeId(number), gpus: GpuGrant::Whole(0xFF) }];
            let (started_at, saved_at) = (At(0), At(0));
            let lease = Lease {
                id: LeaseId(number),
                request: gang(1_000 + number, 1),
                grants,
                started_at,
                ends_at: None,
                saved_at,
            };
            planner.apply(Event::LeaseStarted(lease)).unwrap();
        }
    }
    planner
}

fn gang(id: u64, nodes: u16) -> Request {
    Request {
        id: RequestId(id),
        queue: QueueId(0),
        class: TenantClass(0),
        priority: 0,
        submitted_at: At(0),
        order: id,
        shape: Shape {
            gpus: Gpus::Whole(8),
            nodes: Nodes { min: nodes, max: nodes },
            models: 0,
            cpu_milli: 0,
            memory_mib: 0,
            within: None,
            prefer: Some(Level::Unit),
            residencies: 0,
            expected_watts: 0,
            peak_watts: 0,
        },
        run_seconds: None,
        deadline: None,
        not_before: None,
        deferrable: false,
        stop: Stop::Never,
        near: None,
    }
}

/// Units in which a gang of so many nodes is placed.
fn units(idle: [u64; 6], nodes: u16) -> Vec<u64> {
    let mut planner = planner(idle);
    planner.apply(Event::RequestAdded(gang(1, nodes))).unwrap();
    let plan = planner.plan(At(0));
    assert_eq!(plan.placements.len(), 1, "{idle:?}");
    let mut units: Vec<u64> = plan.placements[0].grants.iter().map(|grant| grant.node.0 / NODES_PER_UNIT).collect();
    units.dedup();
    units
}

#[test]
fn a_gang_takes_the_pod_where_it_touches_the_fewest_units_though_another_fits_it_more_tightly() {
    assert_eq!(units([2, 2, 2, 4, 4, 4], 6).len(), 2);
}

#[test]
fn a_gang_that_no_pod_holds_takes_the_emptiest_units_of_all() {
    assert_eq!(units([4, 2, 1, 1, 4, 1], 8), [0, 4]);
}

#[test]
fn a_gang_that_a_unit_holds_takes_the_tightest() {
    assert_eq!(units([4, 3, 4, 4, 4, 4], 3), [1]);
}
