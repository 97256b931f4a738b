//! Promises that are replaced in a pass: by nearer ones, by starts elsewhere.

use super::*;
use crate::check::{Before, check_plan};
use crate::units::{NodeId, QueueId, ResidencyId};

/// Units of eight nodes; all but what is said has a lease.
fn lease_on(planner: &mut Planner, id: u64, node: u64, ends_at: Option<i64>) {
    let asked = Request { run_seconds: None, ..request(id, Gpus::Whole(8), 1) };
    let grants = vec![crate::plan::Grant { node: NodeId(node), gpus: GpuGrant::Whole(0xFF) }];
    let ends_at = ends_at.map(At);
    let lease =
        crate::fleet::Lease { id: LeaseId(id), request: asked, grants, started_at: At(0), ends_at, saved_at: At(0) };
    planner.apply(Event::LeaseStarted(lease)).unwrap();
}

/// A gang of four has a promise far away on four nodes of one unit, of which two are free by now; `behind` has no room
/// and no promise, because of that. Then holds of other nodes are lifted: the gang could start over two units, and
/// waits for one that it can have at 500.
fn gang_that_leaves_a_promise(behind: Request) -> Planner {
    let mut fleet = site(1_000_000);
    fleet.policy.preemptions = 0;
    fleet.policy.reservations = if behind.shape.gpus == Gpus::Whole(8) { 32 } else { 1 };
    fleet.policy.nearness_milli = 1_000;
    fleet.policy.nearness_seconds = 1_000;
    for (node, number) in fleet.nodes.iter_mut().zip(0..) {
        node.residency = ResidencyId(u8::from(number < 8));
        node.model = crate::units::ModelId(0);
        node.id = NodeId(number);
    }
    let mut planner = Planner::new(fleet).unwrap();
    let lifted = || (8..12).chain([16, 17, 24, 25]);
    for node in (2..32).filter(|node| *node < 12 || !lifted().any(|other| other == *node)) {
        let ends_at = match node {
            2..4 => Some(100_000),
            8..12 => Some(500),
            _ => None,
        };
        lease_on(&mut planner, 100 + node, node, ends_at);
    }
    let held = |node, until| Event::NodeHeld { node: NodeId(node), until };
    lifted().for_each(|node| planner.apply(held(node, Some(At(200_000)))).unwrap());
    let mut gang = Request { run_seconds: Some(10_000), ..request(1, Gpus::Whole(8), 4) };
    gang.shape.prefer = Some(Level::Unit);
    planner.apply(Event::RequestAdded(gang)).unwrap();
    planner.apply(Event::RequestAdded(behind)).unwrap();
    let plan = planner.plan(At(0));
    assert_eq!((plan.placements.len(), plan.reservations.len()), (0, 1), "{plan:?}");
    assert_eq!(plan.reservations[0].starts_at, At(100_000));
    planner.commit(&plan, At(0), |_| LeaseId(0)).unwrap();
    lifted().for_each(|node| planner.apply(held(node, None)).unwrap());
    planner
}

fn asks_for_what_is_left(gpus: Gpus, nodes: u16) {
    let mut behind = Request { run_seconds: None, ..request(2, gpus, nodes) };
    behind.shape.residencies = 0b10;
    let mut planner = gang_that_leaves_a_promise(behind);
    let plan = planner.clone().plan(At(60));
    assert_eq!(plan.reservations.iter().map(|one| (one.request.0, one.starts_at.0)).collect::<Vec<_>>(), [(1, 500)]);
    assert_eq!(plan.placements.len(), 1);
    let tick = planner.clone().tick(At(60));
    assert_eq!(tick.placements, plan.placements, "a tick (left) and a plan");
    assert_eq!(planner.step(At(60)).placements, plan.placements, "a step (left) and a plan");
}

#[test]
fn parts_start_where_a_gang_leaves_its_promise_for_a_nearer_one() {
    asks_for_what_is_left(Gpus::Milli(500), 2);
}

#[test]
fn a_node_starts_where_a_gang_leaves_its_promise_for_a_nearer_one() {
    asks_for_what_is_left(Gpus::Whole(8), 1);
}

/// One whole node is one GPU lease of this fleet: units of eight nodes 0..8, 8..16, 16..24, 24..32; leases that end at
/// an instant or never, the other nodes free.
fn busy_site(ends: &[(u64, Option<i64>)]) -> Planner {
    let mut fleet = site(1_000_000);
    fleet.policy.preemptions = 0;
    (fleet.policy.nearness_milli, fleet.policy.nearness_seconds) = (1_000, 1_000);
    for (node, number) in fleet.nodes.iter_mut().zip(0..) {
        node.model = crate::units::ModelId(0);
        node.id = NodeId(number);
    }
    let mut planner = Planner::new(fleet).unwrap();
    for (node, ends_at) in ends {
        lease_on(&mut planner, 100 + node, *node, *ends_at);
    }
    planner
}

fn tell(planner: &mut Planner, request: u64, starts_at: i64, nodes: &[u64]) -> Reservation {
    let nodes = nodes.iter().copied().map(NodeId).collect();
    let told = Reservation {
        request: RequestId(request),
        starts_at: At(starts_at),
        nodes,
        stops: Vec::new(),
        for_nearness: false,
    };
    planner.apply(Event::ReservationTold(told.clone())).unwrap();
    told
}

fn gang_for(id: u64, nodes: u16, prefer: Option<Level>) -> Request {
    let mut gang = Request { run_seconds: Some(200_000), ..request(id, Gpus::Whole(8), nodes) };
    gang.shape.prefer = prefer;
    gang
}

fn ends(free: &[u64], soon: &[u64], late: &[u64]) -> Vec<(u64, Option<i64>)> {
    let end = |node: u64| {
        if soon.contains(&node) {
            Some(500)
        } else if late.contains(&node) {
            Some(100_000)
        } else {
            None
        }
    };
    (0..32).filter(|node| !free.contains(node)).map(|node| (node, end(node))).collect()
}

#[test]
fn a_promised_gang_starts_on_some_of_its_nodes_together_with_others() {
    let all: Vec<u64> = (0..32).collect();
    let mut planner = busy_site(&ends(&[], &all, &[]));
    planner.apply(Event::RequestAdded(gang_for(1, 4, None))).unwrap();
    let plan = planner.plan(At(0));
    let own = plan.reservations[0].nodes.clone();
    planner.commit(&plan, At(0), |_| LeaseId(0)).unwrap();
    let others = [NodeId(6), NodeId(13), NodeId(20)];
    assert!(own.iter().all(|node| !others.contains(node)));
    for (number, node) in [own[0]].into_iter().chain(others).enumerate() {
        assert_eq!(planner.step(At(10)).placements, [], "{number} of four are free");
        planner.apply(Event::LeaseEnded(LeaseId(100 + node.0))).unwrap();
    }
    // It comes later, and would have one of those that are open to all.
    planner.apply(Event::RequestAdded(gang_for(2, 1, None))).unwrap();
    let plan = planner.clone().plan(At(10));
    let on = |plan: &Plan| {
        let grants = plan.placements.iter().flat_map(|start| &start.grants);
        grants.map(|grant| grant.node).collect::<Vec<_>>()
    };
    assert_eq!(plan.placements.iter().map(|start| start.request.0).collect::<Vec<_>>(), [1]);
    let mut wanted = [own[0], others[0], others[1], others[2]];
    wanted.sort_unstable();
    assert_eq!(on(&plan), wanted);
    assert_eq!(planner.clone().tick(At(10)).placements, plan.placements);
    assert_eq!(planner.step(At(10)).placements, plan.placements);
}

#[test]
fn a_tick_tells_a_promise_once() {
    // Request 1 starts on 8..12 and leaves 0 and 1, so that 2, promised 100,000 before that, can have unit 0 at 500.
    let mut planner = busy_site(&ends(&[0, 1, 8, 9, 10, 11, 16, 17, 24], &[2, 3], &[6, 7, 25, 26, 27]));
    planner.apply(Event::RequestAdded(gang_for(1, 4, None))).unwrap();
    tell(&mut planner, 1, 100_000, &[0, 1, 6, 7]);
    planner.apply(Event::RequestAdded(gang_for(2, 4, Some(Level::Unit)))).unwrap();
    let fleet = planner.fleet().clone();
    let leases: Vec<_> = planner.leases().cloned().collect();
    let requests: Vec<_> = planner.waiting().cloned().collect();
    let reservations = planner.reservations();
    let before = Before { fleet: &fleet, leases: &leases, requests: &requests, reservations: &reservations };
    let plan = planner.clone().plan(At(0));
    assert_eq!(plan.reservations.iter().map(|one| (one.request.0, one.starts_at.0)).collect::<Vec<_>>(), [(2, 500)]);
    let tick = planner.tick(At(0));
    assert_eq!(tick.reservations, plan.reservations, "a tick (left) and a plan");
    assert_eq!(check_plan(&before, &tick), []);
}

#[test]
fn a_promise_that_was_told_stands_where_the_start_instead_of_it_was_left_out() {
    // Request 1 starts on 8..13 and leaves 0..4. Before that 2 is promised unit 2 at 500 instead of unit 3 at 100,000.
    let mut planner =
        busy_site(&ends(&[0, 1, 2, 3, 8, 9, 10, 11, 12, 16, 17, 24, 28, 29], &[18, 19], &[6, 25, 26, 27]));
    planner.apply(Event::RequestAdded(gang_for(1, 5, Some(Level::Unit)))).unwrap();
    tell(&mut planner, 1, 100_000, &[0, 1, 2, 3, 6]);
    planner.apply(Event::RequestAdded(gang_for(2, 4, Some(Level::Unit)))).unwrap();
    let told = tell(&mut planner, 2, 100_000, &[24, 25, 26, 27]);
    let plan = planner.plan(At(0));
    assert_eq!(plan.placements.len(), 2);
    assert!(planner.reservations().contains(&told), "until another is told: {:?}", planner.reservations());
    planner.settle();
    assert!(planner.reservations().contains(&told), "nothing was carried out: {:?}", planner.reservations());
}

#[test]
fn a_promise_stands_again_only_where_nobody_was_started() {
    let mut behind = Request { run_seconds: None, ..request(2, Gpus::Whole(8), 1) };
    behind.shape.residencies = 0b10;
    let mut planner = gang_that_leaves_a_promise(behind);
    let mut plan = planner.plan(At(60));
    assert_eq!((plan.placements.len(), plan.reservations.len()), (1, 1));
    // The start is carried out, the promise is not told.
    plan.reservations.clear();
    planner.commit(&plan, At(60), |_| LeaseId(1)).unwrap();
    planner.settle();
    for promise in planner.reservations() {
        for lease in planner.leases().filter(|lease| lease.ends_at.is_none()) {
            let on = lease.grants.iter().find(|grant| promise.nodes.contains(&grant.node));
            assert_eq!(on, None, "{promise:?} stands, and {:?} has no end", lease.id);
        }
    }
}

#[test]
fn a_gang_waits_for_one_domain_of_the_fabric_as_for_one_of_the_site() {
    // Racks are 0..4, 4..8, ...; NVLink joins two nodes each: 0 and 4 are free, 1 ends at 500.
    for level in [Level::NvLink, Level::Rack, Level::Unit] {
        let free: &[u64] = if level == Level::Unit { &[0, 8] } else { &[0, 4] };
        let mut planner = busy_site(&ends(free, &[1], &[]));
        planner.apply(Event::RequestAdded(gang_for(1, 2, Some(level)))).unwrap();
        let plan = planner.plan(At(0));
        let promised: Vec<_> = plan.reservations.iter().map(|one| (one.starts_at.0, one.nodes.clone())).collect();
        assert_eq!(promised, [(500, vec![NodeId(0), NodeId(1)])], "{level:?}: {:?}", plan.placements);
    }
}

#[test]
fn a_lease_may_be_stopped_for_another_when_who_it_stopped_for_starts_elsewhere() {
    let mut fleet = site(1_000_000);
    fleet.queues[0].guaranteed.gpu_milli = 256_000;
    for (node, number) in fleet.nodes.iter_mut().zip(0..) {
        node.id = NodeId(number);
    }
    let mut planner = Planner::new(fleet.clone()).unwrap();
    for node in 1..32 {
        lease_on(&mut planner, 100 + node, node, None);
    }
    let borrowed =
        Request { queue: QueueId(2), stop: Stop::Restart, run_seconds: None, ..request(100, Gpus::Whole(8), 1) };
    let grants = vec![crate::plan::Grant { node: NodeId(0), gpus: GpuGrant::Whole(0xFF) }];
    let lease = crate::fleet::Lease {
        id: LeaseId(100),
        request: borrowed,
        grants,
        started_at: At(0),
        ends_at: None,
        saved_at: At(0),
    };
    planner.apply(Event::LeaseStarted(lease)).unwrap();
    let asked = |id| Request { run_seconds: None, ..request(id, Gpus::Whole(8), 1) };
    planner.apply(Event::RequestAdded(asked(1))).unwrap();
    let plan = planner.plan(At(10));
    assert_eq!(plan.preemptions.iter().map(|one| one.lease.0).collect::<Vec<_>>(), [100]);
    planner.commit(&plan, At(10), |_| LeaseId(0)).unwrap();
    planner.apply(Event::LeaseEnded(LeaseId(105))).unwrap();
    planner.apply(Event::RequestAdded(asked(2))).unwrap();
    let leases: Vec<_> = planner.leases().cloned().collect();
    let requests: Vec<_> = planner.waiting().cloned().collect();
    let reservations = planner.reservations();
    let before = Before { fleet: &fleet, leases: &leases, requests: &requests, reservations: &reservations };
    let plan = planner.plan(At(20));
    let stops: Vec<_> = plan.preemptions.iter().map(|one| (one.lease.0, one.for_request.0)).collect();
    assert_eq!((plan.placements[0].request.0, stops), (1, vec![(100, 2)]));
    assert_eq!(check_plan(&before, &plan), []);
}
