//! Every refusal there is: its text, its hint, and that nothing changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use galerne_planner::event::{Event, Forecast};
use galerne_planner::fleet::{Amount, FleetSpec, Health, Lease, Level, PowerSpec, SliceSpec};
use galerne_planner::plan::{GpuGrant, Grant, Reservation};
use galerne_planner::planner::Planner;
use galerne_planner::refusal::Refusal;
use galerne_planner::request::{Gpus, Nodes, Request, Shape};
use galerne_planner::units::{
    At, DomainId, LeaseId, ModelId, NodeId, PowerId, QueueId, RequestId, ResidencyId, SliceId, TenantClass,
};

use crate::fixture;

const FAR: At = At(i64::MAX - 1);

fn fleets() -> Vec<fn(&mut FleetSpec)> {
    vec![
        |fleet| fleet.domains[4].parent = Some(DomainId(99)),
        |fleet| fleet.domains[0].parent = Some(DomainId(4)),
        |fleet| fleet.power[0].parent = Some(PowerId(0)),
        |fleet| fleet.queues[0].parent = Some(QueueId(2)),
        |fleet| fleet.domains[8].parent = Some(DomainId(3)),
        |fleet| fleet.domains[4].parent = Some(DomainId(3)),
        |fleet| fleet.models = vec![Default::default(); 65],
        |fleet| fleet.models[0].slices = vec![SliceSpec { positions: vec![1], compute: 1 }; 257],
        |fleet| fleet.models[0].slices[1].positions.clear(),
        |fleet| fleet.models[0].slices[1].compute = 8,
        |fleet| fleet.nodes[5].id = NodeId(1),
        |fleet| fleet.nodes[5].model = ModelId(7),
        |fleet| fleet.nodes[5].gpus = 17,
        |fleet| fleet.nodes[5].domain = DomainId(99),
        |fleet| fleet.nodes[5].domain = DomainId(9),
        |fleet| fleet.nodes[5].fabric = Some(DomainId(3)),
        |fleet| fleet.nodes[5].power = PowerId(9),
        |fleet| fleet.nodes[5].residency = ResidencyId(64),
        |fleet| fleet.nodes[5].hold_until = Some(FAR),
        |fleet| fleet.power[2].cap_watts = -1,
        |fleet| fleet.power[2].cap_watts = i64::MAX,
        |fleet| fleet.power[2].floors = vec![(TenantClass(2), -5)],
        |fleet| fleet.power[2].floors = vec![(TenantClass(4), 5)],
        |fleet| fleet.power[2].floors = vec![(TenantClass(2), 5), (TenantClass(2), 5)],
        |fleet| fleet.power[2].floors = vec![(TenantClass(2), 30_000), (TenantClass(3), 6_001)],
        |fleet| {
            fleet.power[0].cap_watts = 50_000;
            fleet.power[2].floors = vec![(TenantClass(2), 36_000)];
        },
        |fleet| fleet.queues[1].weight = 0,
        |fleet| fleet.queues[1].guaranteed.memory_mib = -1,
        |fleet| fleet.queues[1].limit = Some(Amount { watts: -1, ..Amount::default() }),
        |fleet| {
            fleet.queues[1].guaranteed.gpu_milli = 8_000;
            fleet.queues[1].limit = Some(Amount { gpu_milli: 7_000, ..Amount::default() });
        },
        |fleet| {
            fleet.queues[1].guaranteed.gpu_milli = 8_000;
            fleet.queues[2].guaranteed.gpu_milli = 8_000;
            fleet.queues[0].limit = Some(Amount { gpu_milli: 9_000, ..Amount::default() });
        },
        |fleet| {
            fleet.queues[1].guaranteed.gpu_milli = 8_000;
            fleet.queues[2].guaranteed.gpu_milli = 8_000;
            fleet.queues[0].guaranteed.gpu_milli = 12_000;
        },
        |fleet| {
            fleet.queues[1].guaranteed.gpu_milli = 48_000;
            fleet.queues[3].guaranteed.gpu_milli = 48_001;
        },
    ]
}

fn requests() -> Vec<fn(&mut Request)> {
    vec![
        |request| request.id = RequestId(1),
        |request| request.id = RequestId(1_001),
        |request| request.queue = QueueId(4),
        |request| request.queue = QueueId(0),
        |request| request.class = TenantClass(4),
        |request| {
            request.shape.gpus = Gpus::Whole(0);
            request.shape.cpu_milli = 0;
            request.shape.memory_mib = 0;
        },
        |request| request.shape.nodes = Nodes { min: 0, max: 0 },
        |request| request.shape.nodes = Nodes { min: 0, max: 2 },
        |request| request.shape.nodes = Nodes { min: 3, max: 2 },
        |request| request.shape.gpus = Gpus::Milli(0),
        |request| request.shape.gpus = Gpus::Milli(1_000),
        |request| request.shape.models = 0b101,
        |request| request.shape.gpus = Gpus::Slice(SliceId(0)),
        |request| {
            request.shape.models = 0b10;
            request.shape.gpus = Gpus::Slice(SliceId(0));
        },
        |request| request.shape.expected_watts = 1_001,
        |request| request.run_seconds = Some(0),
        |request| request.deadline = Some(FAR),
        |request| request.deadline = Some(At(1_000)),
        |request| request.deadline = Some(At(4_599)),
        |request| {
            request.not_before = Some(At(1_010));
            request.deadline = Some(At(4_600));
        },
        |request| request.shape.residencies = 0b100,
        |request| request.shape.gpus = Gpus::Whole(9),
        |request| request.shape.cpu_milli = 96_001,
        |request| request.shape.memory_mib = 1_000_001,
        |request| request.shape.nodes = Nodes { min: 13, max: 13 },
        |request| {
            request.shape.models = 0b10;
            request.shape.nodes = Nodes { min: 7, max: 12 };
        },
        |request| {
            request.shape.nodes = Nodes { min: 4, max: 4 };
            request.shape.within = Some(Level::Rack);
        },
        |request| {
            request.shape.nodes = Nodes { min: 3, max: 3 };
            request.shape.within = Some(Level::NvLink);
        },
        |request| request.shape.within = Some(Level::Pod),
    ]
}

fn leases() -> Vec<fn(&mut Lease)> {
    vec![
        |lease| lease.id = LeaseId(1),
        |lease| lease.request.id = RequestId(1_001),
        |lease| lease.request.queue = QueueId(0),
        |lease| lease.grants.clear(),
        |lease| lease.grants[0].node = NodeId(99),
        |lease| {
            lease.request.shape.nodes = Nodes { min: 2, max: 2 };
            lease.grants.push(lease.grants[0]);
        },
        |lease| lease.request.shape.models = 0b10,
        |lease| lease.grants[0].gpus = GpuGrant::Whole(0b11),
        |lease| lease.grants[0].gpus = GpuGrant::Milli { gpu: 1, milli: 500 },
        |lease| lease.grants[0].gpus = GpuGrant::Whole(1 << 8),
        |lease| lease.grants[0].gpus = GpuGrant::Whole(1),
        |lease| {
            lease.request.shape.models = 0b1;
            lease.request.shape.gpus = Gpus::Slice(SliceId(1));
            lease.grants[0].gpus = GpuGrant::Slice { gpu: 1, slots: 0b110 };
        },
        |lease| {
            lease.request.shape.models = 0b1;
            lease.request.shape.gpus = Gpus::Slice(SliceId(1));
            lease.grants[0].gpus = GpuGrant::Slice { gpu: 0, slots: 0b11 };
        },
        |lease| lease.request.shape.cpu_milli = 88_001,
        |lease| lease.request.shape.memory_mib = 936_001,
        |lease| lease.started_at = FAR,
        |lease| lease.ends_at = Some(At(999)),
    ]
}

fn events() -> Vec<Event> {
    let gone = RequestId(77);
    let quota = |queue, weight, guaranteed| Event::QuotaChanged {
        queue,
        weight,
        guaranteed: Amount { gpu_milli: guaranteed, ..Amount::default() },
        limit: None,
    };
    let promise = |request, nodes: Vec<u64>| {
        let nodes = nodes.into_iter().map(NodeId).collect();
        Event::ReservationTold(Reservation {
            request: RequestId(request),
            starts_at: At(9_000),
            nodes,
            stops: Vec::new(),
            for_nearness: false,
        })
    };
    let forecast = |step_seconds, cost: usize, gpu_milli: Vec<i64>, from| {
        Event::ForecastChanged(Forecast { from, step_seconds, cost: vec![1; cost], gpu_milli })
    };
    let demand = |shape| Event::DemandTold(vec![(fixture::shape(), 3), (shape, 1)]);
    let slice = |models, slice| Shape { gpus: Gpus::Slice(SliceId(slice)), models, ..fixture::shape() };
    vec![
        Event::RequestWithdrawn(gone),
        promise(77, vec![1]),
        promise(1, vec![1, 2]),
        promise(1, vec![99]),
        promise(1, vec![12]),
        Event::RequestChanged(fixture::request(77)),
        Event::RequestChanged(fixture::request(1_001)),
        Event::RequestChanged(Request { queue: QueueId(0), ..fixture::request(1) }),
        Event::LeaseEnded(LeaseId(77)),
        Event::LeaseExtended { lease: LeaseId(77), ends_at: None },
        Event::LeaseExtended { lease: LeaseId(1), ends_at: Some(At(999)) },
        Event::LeaseSaved { lease: LeaseId(77), saved_at: At(1_500) },
        Event::LeaseSaved { lease: LeaseId(1), saved_at: At(999) },
        Event::NodeHealth { node: NodeId(99), health: Health::Down },
        Event::NodeHeld { node: NodeId(99), until: None },
        Event::NodeHeld { node: NodeId(1), until: Some(FAR) },
        Event::NodeFailed { node: NodeId(99) },
        Event::CapChanged { power: PowerId(9), cap_watts: 1 },
        Event::CapChanged { power: PowerId(2), cap_watts: -1 },
        Event::CapChanged { power: PowerId(0), cap_watts: 19_999 },
        quota(QueueId(9), 1, 0),
        quota(QueueId(1), 0, 0),
        quota(QueueId(1), 1, 96_001),
        forecast(0, 1, Vec::new(), At(0)),
        forecast(3_600, 10_001, Vec::new(), At(0)),
        forecast(3_600, 1, vec![5, -1], At(0)),
        forecast(3_600, 1, Vec::new(), FAR),
        demand(slice(0b1, 5)),
        demand(slice(0b10, 0)),
        demand(slice(0, 0)),
        demand(Shape { models: 0b101, ..fixture::shape() }),
        demand(Shape { gpus: Gpus::Milli(1_000), ..fixture::shape() }),
        demand(Shape { gpus: Gpus::Whole(0), cpu_milli: 0, memory_mib: 0, ..fixture::shape() }),
        demand(Shape { nodes: Nodes { min: 0, max: 0 }, ..fixture::shape() }),
        demand(Shape { expected_watts: 1_001, ..fixture::shape() }),
    ]
}

/// A planner with one lease, one request that waits, and one that is promised node 12.
fn planner() -> Planner {
    let mut planner = Planner::new(fixture::fleet()).unwrap();
    planner.apply(Event::LeaseStarted(fixture::lease(1, 1, 0))).unwrap();
    planner.apply(Event::RequestAdded(fixture::request(1))).unwrap();
    planner.apply(Event::RequestAdded(fixture::request(3))).unwrap();
    let promise = Reservation {
        request: RequestId(3),
        starts_at: At(9_000),
        nodes: vec![NodeId(12)],
        stops: Vec::new(),
        for_nearness: false,
    };
    planner.apply(Event::ReservationTold(promise)).unwrap();
    planner
}

/// All that a planner says of itself, and what it would decide.
fn state(planner: &Planner) -> String {
    let (leases, waiting): (Vec<_>, Vec<_>) = (planner.leases().collect(), planner.waiting().collect());
    let plan = planner.clone().plan(At(2_000));
    format!("{:?} {leases:?} {waiting:?} {:?} {plan:?}", planner.fleet(), planner.reservations())
}

fn all() -> Vec<Refusal> {
    let fleet = |edit: fn(&mut FleetSpec)| {
        let mut fleet = fixture::fleet();
        edit(&mut fleet);
        Planner::new(fleet).map(|_| ()).expect_err("the fleet cannot be")
    };
    let mut planner = planner();
    let before = state(&planner);
    let mut refuse = |event: Event| {
        let said = format!("{event:?}");
        let Err(refusal) = planner.apply(event) else { panic!("this was not refused: {said}") };
        assert_eq!(state(&planner), before, "refused, and yet something changed: {said}");
        refusal
    };
    let mut refusals: Vec<Refusal> = fleets().into_iter().map(fleet).collect();
    for edit in requests() {
        let mut request = fixture::request(2);
        edit(&mut request);
        refusals.push(refuse(Event::RequestAdded(request)));
    }
    for edit in leases() {
        let mut lease = fixture::lease(2, 1, 1);
        edit(&mut lease);
        refusals.push(refuse(Event::LeaseStarted(lease)));
    }
    refusals.extend(events().into_iter().map(refuse));
    refusals
}

#[test]
fn every_refusal_names_the_object_and_the_rule_and_changes_nothing() {
    let mut transcript = String::new();
    for refusal in all() {
        writeln!(transcript, "{refusal}\n  hint: {}", refusal.hint()).unwrap();
    }
    // After a wanted change, read the new text: `said` below is the whole of it.
    let said = include_str!("refusals.txt");
    assert!(transcript == said, "other texts than in refusals.txt:\n{transcript}");
}

#[test]
fn no_rule_is_without_a_case() {
    // Only a list longer than four thousand million entries would break it.
    let without_case = ["TooMany"];
    let source = include_str!("../../src/refusal.rs");
    let rules: BTreeSet<&str> = source
        .lines()
        .skip_while(|line| !line.starts_with("pub enum FleetRule"))
        .take_while(|line| !line.starts_with("impl"))
        .filter(|line| line.starts_with("    ") && line.trim_start().starts_with(char::is_uppercase))
        .map(|line| line.trim().split([' ', ',', '{', '(']).next().unwrap())
        .filter(|rule| !without_case.contains(rule))
        .collect();
    let shown = all().iter().map(|refusal| format!("{refusal:?}")).collect::<String>();
    let missing: Vec<_> = rules.iter().filter(|rule| !shown.contains(*rule)).collect();
    assert!(rules.len() > 60, "the list of rules was not found in the source: {rules:?}");
    assert!(missing.is_empty(), "no case breaks {missing:?}");
}

#[test]
fn a_fleet_of_one_node_and_one_of_none_can_be() {
    Planner::new(FleetSpec::default()).unwrap();
    let mut fleet = fixture::fleet();
    fleet.nodes.truncate(1);
    fleet.power.push(PowerSpec { parent: None, cap_watts: 0, floors: Vec::new() });
    Planner::new(fleet).unwrap();
}

#[test]
fn what_waits_for_a_limit_or_a_cap_is_not_refused() {
    let mut planner = planner();
    let none = Some(Amount::default());
    planner
        .apply(Event::QuotaChanged { queue: QueueId(1), weight: 1, guaranteed: Amount::default(), limit: none })
        .unwrap();
    planner.apply(Event::CapChanged { power: PowerId(1), cap_watts: 10_000 }).unwrap();
    for node in 1..=12 {
        planner.apply(Event::NodeHealth { node: NodeId(node), health: Health::Down }).unwrap();
    }
    planner.apply(Event::RequestAdded(fixture::request(2))).unwrap();
    let lease = Lease { grants: vec![Grant { node: NodeId(2), gpus: GpuGrant::Whole(1) }], ..fixture::lease(2, 2, 0) };
    planner.apply(Event::LeaseStarted(lease)).unwrap();
}
