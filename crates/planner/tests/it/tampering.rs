//! The checker is checked: a good plan passes, and spoilt in each way it is caught by name.

use std::collections::BTreeSet;

use galerne_planner::check::{Before, Violation, check_plan};
use galerne_planner::fleet::{Amount, FleetSpec, Health, Lease, Level};
use galerne_planner::plan::{GpuGrant, Grant, Hold, Move, Placement, Plan, Preemption, PreemptionCause, Reservation};
use galerne_planner::reason::{Cause, Why};
use galerne_planner::request::{Gpus, Nodes, Request, Stop};
use galerne_planner::units::{At, LeaseId, NodeId, PowerId, QueueId, RequestId, SliceId, TenantClass};

use crate::fixture;

const NOW: At = At(2_000);

/// All that a check looks at.
#[derive(Clone)]
struct Scene {
    fleet: FleetSpec,
    leases: Vec<Lease>,
    requests: Vec<Request>,
    reservations: Vec<Reservation>,
    plan: Plan,
}

impl Scene {
    fn violations(&self) -> Vec<Violation> {
        let Self { fleet, leases, requests, reservations, plan } = self;
        check_plan(&Before { fleet, leases, requests, reservations }, plan)
    }
}

fn whole(node: u64, mask: u16) -> Grant {
    Grant { node: NodeId(node), gpus: GpuGrant::Whole(mask) }
}

/// Twelve nodes in racks of three. Node 1: a lease of GPU 0 and half of GPU 1; node 2 is full until 5000 and node 4
/// until it is stopped. Request 1 starts on two nodes of the second rack (5 and 6), 2 takes the other half, 3 a slice;
/// 4 waits, held; 5 is promised nodes 1 to 3 at 5000; 6 fills the gap before it; for 7 the lease on node 4 is stopped.
fn scene() -> Scene {
    let mut fleet = fixture::fleet();
    fleet.policy.moves = 1;
    let mut leases: Vec<Lease> = (1..=4).map(|id| fixture::lease(id, [1, 1, 2, 4][id as usize - 1], 0)).collect();
    leases[1].request.shape.gpus = Gpus::Milli(500);
    leases[1].grants = vec![Grant { node: NodeId(1), gpus: GpuGrant::Milli { gpu: 1, milli: 500 } }];
    leases[2].request.shape.gpus = Gpus::Whole(8);
    leases[2].grants = vec![whole(2, 0xFF)];
    leases[3].request.shape.gpus = Gpus::Whole(8);
    leases[3].grants = vec![whole(4, 0xFF)];
    leases[3].request.priority = -1;
    leases[3].ends_at = None;
    let mut requests: Vec<Request> = (1..=7).map(fixture::request).collect();
    requests[0].shape.gpus = Gpus::Whole(8);
    requests[0].shape.nodes = Nodes { min: 2, max: 2 };
    requests[0].shape.within = Some(Level::Rack);
    requests[0].class = TenantClass(1);
    requests[1].shape.gpus = Gpus::Milli(500);
    requests[1].shape.models = 0b1;
    requests[1].shape.residencies = 0b1;
    requests[2].shape.gpus = Gpus::Slice(SliceId(1));
    requests[2].shape.models = 0b1;
    requests[2].not_before = Some(At(1_900));
    requests[3].deadline = Some(At(9_000));
    requests[3].deferrable = true;
    requests[4].shape.gpus = Gpus::Whole(8);
    requests[4].shape.nodes = Nodes { min: 3, max: 3 };
    requests[4].shape.within = Some(Level::Rack);
    requests[5].shape.gpus = Gpus::Whole(8);
    requests[5].run_seconds = Some(3_000);
    requests[6].shape.gpus = Gpus::Whole(8);
    requests[6].run_seconds = Some(4_000);
    let why = Why::blocks(Cause::Waits);
    let start = |request, grants| Placement { request: RequestId(request), grants };
    let plan = Plan {
        at: NOW,
        placements: vec![
            start(1, vec![whole(5, 0xFF), whole(6, 0xFF)]),
            start(2, vec![Grant { node: NodeId(1), gpus: GpuGrant::Milli { gpu: 1, milli: 500 } }]),
            start(3, vec![Grant { node: NodeId(7), gpus: GpuGrant::Slice { gpu: 2, slots: 0b1100 } }]),
            start(6, vec![whole(3, 0xFF)]),
        ],
        preemptions: vec![Preemption {
            lease: LeaseId(4),
            for_request: RequestId(7),
            cause: PreemptionCause::Priority,
            lost_gpu_seconds: 8_000,
        }],
        moves: vec![Move { lease: LeaseId(1), from: whole(1, 1), to: whole(8, 1) }],
        reservations: vec![promise(), after_stop()],
        holds: vec![Hold { request: RequestId(4), until: At(5_400) }],
        waiting: vec![(RequestId(4), 0), (RequestId(5), 0), (RequestId(7), 0)],
        reasons: vec![why],
    };
    let mut reservations = vec![promise()];
    // What is asked of node 1 runs until then.
    leases[0].ends_at = Some(At(5_000));
    requests[1].run_seconds = Some(3_000);
    reservations[0].starts_at = At(5_100);
    Scene { fleet, leases, requests, reservations, plan }
}

fn promise() -> Reservation {
    Reservation {
        request: RequestId(5),
        starts_at: At(5_000),
        nodes: vec![NodeId(1), NodeId(2), NodeId(3)],
        stops: Vec::new(),
        for_nearness: false,
    }
}

fn after_stop() -> Reservation {
    Reservation { request: RequestId(7), starts_at: NOW, nodes: vec![NodeId(4)], stops: vec![LeaseId(4)], ..promise() }
}

/// A way to spoil the scene, and the violation it must bring.
type Spoil = (&'static str, fn(&mut Scene));

fn starts() -> Vec<Spoil> {
    vec![
        ("UnknownNode", |scene| scene.plan.placements[1].grants[0].node = NodeId(99)),
        ("UnknownGpu", |scene| scene.plan.placements[3].grants[0] = whole(3, 0x1FE)),
        ("GpuTwice", |scene| scene.plan.placements[3].grants[0] = whole(5, 0xFF)),
        ("GpuTwice", |scene| scene.plan.placements[3].grants[0] = whole(2, 0xFF)),
        ("GpuTwice", |scene| scene.plan.placements[1].grants[0].gpus = GpuGrant::Milli { gpu: 0, milli: 500 }),
        ("GpuTwice", |scene| {
            scene.requests[1].shape.gpus = Gpus::Milli(501);
            scene.plan.placements[1].grants[0].gpus = GpuGrant::Milli { gpu: 1, milli: 501 };
        }),
        ("GpuTwice", |scene| {
            scene.plan.placements[2].grants[0] =
                Grant { node: NodeId(1), gpus: GpuGrant::Slice { gpu: 1, slots: 0b11 } };
        }),
        ("NodeOverfull", |scene| scene.requests[5].shape.cpu_milli = 96_001),
        ("NodeOverfull", |scene| scene.requests[1].shape.memory_mib = 900_000),
        ("OtherThanAsked", |scene| scene.plan.placements[3].grants[0] = whole(3, 0x7F)),
        ("OtherThanAsked", |scene| {
            scene.plan.placements[2].grants[0].gpus = GpuGrant::Slice { gpu: 2, slots: 0b110 };
        }),
        ("OtherThanAsked", |scene| scene.plan.placements[1].grants[0].gpus = GpuGrant::Milli { gpu: 1, milli: 400 }),
        ("UnknownRequest", |scene| drop(scene.requests.remove(5))),
        ("StartsTwice", |scene| scene.plan.placements.push(scene.plan.placements[1].clone())),
        ("NodeCount", |scene| drop(scene.plan.placements[0].grants.pop())),
        ("NodeTwice", |scene| scene.plan.placements[0].grants[1].node = NodeId(5)),
        ("OutOfService", |scene| scene.fleet.nodes[4].health = Health::Cordoned),
        ("OutOfService", |scene| scene.fleet.nodes[4].hold_until = Some(At(2_001))),
        ("Model", |scene| scene.requests[1].shape.models = 0b10),
        ("Residency", |scene| scene.requests[1].shape.residencies = 0b10),
        ("Apart", |scene| scene.plan.placements[0].grants[1].node = NodeId(9)),
        ("Apart", |scene| scene.requests[0].shape.within = Some(Level::NvLink)),
        ("Apart", |scene| scene.requests[0].shape.within = Some(Level::Pod)),
        ("TooEarly", |scene| scene.requests[2].not_before = Some(At(2_001))),
    ]
}

fn limits() -> Vec<Spoil> {
    vec![
        ("Power", |scene| scene.fleet.power[2].cap_watts = 2_999),
        ("Power", |scene| {
            // Two nodes of class 1 lie on what is kept for it; one of class 0 at the same point may not.
            scene.fleet.power[2].floors = vec![(TenantClass(1), 3_000), (TenantClass(2), 3_000)];
            scene.fleet.power[2].cap_watts = 6_999;
            scene.requests[0].class = TenantClass(0);
        }),
        ("Limit", |scene| scene.fleet.queues[1].limit = Some(Amount { gpu_milli: 42_285, ..ROOMY })),
        ("Limit", |scene| scene.fleet.queues[0].limit = Some(Amount { watts: 8_999, ..ROOMY })),
        ("Forgotten", |scene| drop(scene.plan.waiting.pop())),
        ("AnsweredTwice", |scene| scene.plan.waiting.push((RequestId(1), 0))),
        ("NoReason", |scene| scene.plan.waiting[0].1 = 1),
        ("AnswerToNobody", |scene| scene.plan.waiting.push((RequestId(99), 0))),
        ("HeldForNothing", |scene| scene.plan.holds[0].until = NOW),
        ("HeldTooLong", |scene| scene.plan.holds[0].until = At(5_401)),
    ]
}

/// A limit that nothing here reaches.
const ROOMY: Amount = Amount { gpu_milli: 1 << 40, cpu_milli: 1 << 40, memory_mib: 1 << 40, watts: 1 << 40 };

fn givers() -> Vec<Spoil> {
    vec![
        ("WrongLoss", |scene| scene.plan.preemptions[0].lost_gpu_seconds = 7_999),
        ("WrongLoss", |scene| scene.leases[3].started_at = At(999)),
        ("LossTooHigh", |scene| scene.requests[6].run_seconds = Some(3_999)),
        ("LossTooHigh", |scene| scene.fleet.policy.preemption_loss_milli = 249),
        ("LossTooHigh", |scene| {
            scene.reservations.push(Reservation { starts_at: At(5_999), stops: Vec::new(), ..after_stop() });
        }),
        ("LossTooHigh", |scene| {
            scene.leases[3].request.stop = Stop::Checkpoint { cost_seconds: 1_001 };
            scene.plan.preemptions[0].lost_gpu_seconds = 8_008;
        }),
        ("StopsNotNamed", |scene| scene.plan.reservations[1].stops.clear()),
        ("StopsNotNamed", |scene| drop(scene.plan.reservations.pop())),
        ("StopsNotNamed", |scene| scene.plan.preemptions.clear()),
        ("TooManyPreemptions", |scene| scene.fleet.policy.preemptions = 0),
        ("PromiseWithoutRoom", |scene| scene.plan.preemptions.clear()),
        // A seventh less than what the lease that stops and the starts leave.
        ("Limit", |scene| scene.fleet.queues[1].limit = Some(Amount { gpu_milli: 66_285, ..ROOMY })),
        ("UnknownLease", |scene| scene.plan.preemptions[0].lease = LeaseId(99)),
        ("UnknownLease", |scene| scene.plan.moves[0].lease = LeaseId(99)),
        ("StoppedTwice", |scene| scene.plan.preemptions.push(scene.plan.preemptions[0])),
        ("MayNotStop", |scene| scene.leases[3].request.stop = Stop::Never),
        ("NoRight", |scene| scene.leases[3].request.priority = 0),
        ("NoRight", |scene| scene.leases[3].request.queue = QueueId(2)),
        ("NoRight", |scene| scene.plan.preemptions[0].cause = PreemptionCause::Reclaim),
        ("StoppedForNobody", |scene| scene.plan.preemptions[0].for_request = RequestId(99)),
        ("StoppedForNobody", |scene| scene.plan.preemptions[0].for_request = RequestId(1)),
        ("PromiseGone", |scene| scene.plan.reservations.clear()),
        ("PromiseSlipped", |scene| scene.plan.reservations[0].starts_at = At(5_101)),
        ("PromiseWithoutRoom", |scene| scene.plan.reservations[0].starts_at = At(4_999)),
        // Whoever fills the gap runs a second too long, or nobody knows how long.
        ("PromiseWithoutRoom", |scene| scene.requests[5].run_seconds = Some(3_001)),
        ("PromiseWithoutRoom", |scene| scene.requests[5].run_seconds = None),
        ("PromiseWithoutRoom", |scene| scene.fleet.nodes[1].health = Health::Cordoned),
        ("PromiseWithoutRoom", |scene| {
            // Another is promised the same nodes for the same time.
            let other = Reservation { request: RequestId(7), nodes: vec![NodeId(2)], ..promise() };
            scene.plan.reservations.push(other);
        }),
        ("PromiseOfWrongNodes", |scene| scene.plan.reservations[0].nodes[2] = NodeId(8)),
        ("PromiseOfWrongNodes", |scene| scene.plan.reservations[0].nodes[2] = NodeId(2)),
        ("TooManyPromises", |scene| {
            scene.fleet.policy.reservations = 0;
            scene.reservations.clear();
        }),
        ("TooManyPromises", |scene| {
            scene.fleet.policy.nearness_reservations = 0;
            scene.plan.reservations[0].for_nearness = true;
            scene.reservations.clear();
        }),
        // Of 3,000 seconds it may wait 300.
        ("WaitsTooLong", |scene| scene.plan.reservations[0].for_nearness = true),
        ("WrongMove", |scene| scene.plan.moves[0].from = whole(1, 2)),
        ("GpuTwice", |scene| scene.plan.moves[0].to = whole(5, 1)),
        ("TooManyMoves", |scene| scene.fleet.policy.moves = 0),
    ]
}

#[test]
fn a_good_plan_passes() {
    assert_eq!(scene().violations(), []);
}

#[test]
fn a_plan_spoilt_in_any_way_is_caught_by_name() {
    let good = scene();
    for (at, (wanted, spoil)) in [starts(), limits(), givers()].concat().into_iter().enumerate() {
        let mut scene = good.clone();
        spoil(&mut scene);
        let found = scene.violations();
        assert!(
            found.iter().any(|violation| format!("{violation:?}").starts_with(wanted)),
            "spoil {at} should bring {wanted}, and brought {found:?}"
        );
    }
}

#[test]
fn a_queue_that_has_given_back_what_it_borrowed_gives_no_more_to_the_next() {
    let gpus = |gpu_milli| Amount { gpu_milli, ..Amount::default() };
    for (guaranteed, wanted) in [(7_999, None), (8_000, Some("NoRight { lease: LeaseId(5), request: RequestId(8) }"))] {
        let mut scene = scene();
        scene.fleet.queues[1].guaranteed = gpus(96_000);
        scene.fleet.queues[3].guaranteed = gpus(guaranteed);
        scene.leases[3].request.queue = QueueId(3);
        let mut other = fixture::lease(5, 9, 0);
        (other.request.queue, other.request.shape.gpus) = (QueueId(3), Gpus::Whole(8));
        (other.grants, other.ends_at) = (vec![whole(9, 0xFF)], None);
        scene.leases.push(other);
        let mut eighth = Request { run_seconds: Some(4_000), ..fixture::request(8) };
        eighth.shape.gpus = Gpus::Whole(8);
        scene.requests.push(eighth);
        scene.plan.waiting.push((RequestId(8), 0));
        let promise = Reservation { request: RequestId(8), nodes: vec![NodeId(9)], ..after_stop() };
        scene.plan.reservations.push(Reservation { stops: vec![LeaseId(5)], ..promise });
        scene.plan.preemptions[0].cause = PreemptionCause::Reclaim;
        let second = Preemption { lease: LeaseId(5), for_request: RequestId(8), ..scene.plan.preemptions[0] };
        scene.plan.preemptions.push(second);
        let found: Vec<String> = scene.violations().iter().map(|violation| format!("{violation:?}")).collect();
        assert_eq!(found, Vec::from_iter(wanted.map(str::to_owned)), "{guaranteed} are guaranteed");
    }
}

#[test]
fn no_violation_is_without_a_spoilt_plan() {
    let source = include_str!("../../src/check.rs");
    let names: BTreeSet<&str> = source
        .lines()
        .skip_while(|line| !line.starts_with("pub enum Violation"))
        .take_while(|line| *line != "}")
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(|line| line.split([' ', ',', '{']).next().unwrap())
        .collect();
    let spoilt: BTreeSet<&str> =
        [starts(), limits(), givers()].concat().into_iter().map(|(wanted, _)| wanted).collect();
    assert_eq!(names, spoilt);
}

#[test]
fn a_promise_may_go_when_its_node_is_lost() {
    let mut scene = scene();
    scene.fleet.nodes[1].health = Health::Down;
    scene.plan.reservations.remove(0);
    assert_eq!(scene.violations(), []);
}

#[test]
fn a_cap_lowered_below_what_runs_is_no_fault_of_a_plan_that_adds_nothing_there() {
    let mut scene = scene();
    scene.fleet.power[PowerId(1).0 as usize].cap_watts = 0;
    let starts_there = |placement: &Placement| placement.grants.iter().any(|grant| grant.node.0 <= 3);
    let waiting: Vec<_> =
        scene.plan.placements.iter().filter(|start| starts_there(start)).map(|start| (start.request, 0)).collect();
    scene.plan.placements.retain(|start| !starts_there(start));
    scene.plan.waiting.extend(waiting);
    assert_eq!(scene.violations(), []);
}
