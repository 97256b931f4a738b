use super::super::tests::{add, request, site};
use super::*;
use crate::event::Event;
use crate::fleet::{FleetSpec, Level};
use crate::plan::Plan;
use crate::reason::{Awaited, Cause, Step, Why};
use crate::request::{Gpus, Nodes, Stop};
use crate::units::{LeaseId, NodeId, RequestId};

/// Units of eight nodes of which six have a lease, two end at an instant, and the others after a day.
fn busy(ends_at: [i64; 4], nearness: (u32, u32)) -> Planner {
    let mut fleet: FleetSpec = site(1_000_000);
    (fleet.policy.nearness_milli, fleet.policy.nearness_seconds) = nearness;
    let mut planner = Planner::new(fleet.clone()).unwrap();
    let mut number = 100;
    for (unit, ends_at) in ends_at.into_iter().enumerate() {
        for place in 0..6 {
            let node = fleet.nodes[unit * 8 + place].id;
            let ends_at = if place < 2 { ends_at } else { 86_400 };
            start(&mut planner, number, node, ends_at);
            number += 1;
        }
    }
    planner
}

fn start(planner: &mut Planner, number: u64, node: NodeId, ends_at: i64) {
    let request = Request { stop: Stop::Restart, ..request(number, Gpus::Whole(8), 1) };
    let gpus = crate::plan::GpuGrant::Whole(0xFF);
    let grants = vec![crate::plan::Grant { node, gpus }];
    let lease = crate::fleet::Lease {
        id: LeaseId(number),
        request,
        grants,
        started_at: At(0),
        ends_at: Some(At(ends_at)),
        saved_at: At(0),
    };
    planner.apply(Event::LeaseStarted(lease)).unwrap();
}

/// Four nodes of one unit, if that can be had soon.
fn gang(run_seconds: u32) -> Request {
    let mut gang = request(1, Gpus::Whole(8), 4);
    gang.run_seconds = Some(run_seconds);
    gang.shape.prefer = Some(Level::Unit);
    gang
}

fn units(planner: &Planner, nodes: impl Iterator<Item = NodeId>) -> usize {
    let table = &planner.state.topology.tables()[planner.state.topology.table_of(Level::Unit).unwrap()];
    let mut units: Vec<u32> =
        nodes.map(|node| table.domain_of[planner.state.topology.find(node).unwrap().at()]).collect();
    units.sort_unstable();
    units.dedup();
    units.len()
}

fn starts(plan: &Plan) -> Vec<RequestId> {
    plan.placements.iter().map(|placement| placement.request).collect()
}

#[test]
fn a_gang_waits_a_part_of_its_run_time_for_one_unit() {
    let mut planner = busy([4_000, 900, 3_000, 5_000], (100, 3_600));
    add(&mut planner, gang(10_000));
    let plan = planner.plan(At(0));
    assert_eq!(starts(&plan), [], "eight nodes are free, two in each unit");
    assert_eq!(plan.reservations.len(), 1);
    assert_eq!(plan.reservations[0].starts_at, At(900));
    assert_eq!(units(&planner, plan.reservations[0].nodes.iter().copied()), 1);
    planner.commit(&plan, At(0), |_| LeaseId(1)).unwrap();
    // It still waits, and keeps its promise.
    let plan = planner.step(At(100));
    assert!(plan.placements.is_empty() && plan.reservations.is_empty());
    for lease in [106, 107] {
        planner.apply(Event::LeaseEnded(LeaseId(lease))).unwrap();
    }
    let plan = planner.step(At(800));
    assert_eq!(starts(&plan), [RequestId(1)], "as soon as they have ended");
    assert_eq!(units(&planner, plan.placements[0].grants.iter().map(|grant| grant.node)), 1);
}

/// It is told that it could start and waits for nearness, by a plan, a step and alone, while it waits for that.
#[test]
fn who_waits_for_nearness_is_told_why() {
    let told = |why: &Why| {
        let obstacles: Vec<Cause> = why.obstacles().map(|part| part.cause).collect();
        let steps: Vec<Step> = why.next.iter().map(|next| next.step).collect();
        (obstacles, steps)
    };
    let nearness = Cause::ForNearness { until: At(900), level: Level::Unit, domains: 1, instead_of: 2 };
    let steps = vec![
        Step::Wait { until: At(900), on: Awaited::Leases { last: LeaseId(107) } },
        Step::DropPreference { level: Level::Unit },
    ];
    let mut planner = busy([4_000, 900, 3_000, 5_000], (100, 3_600));
    add(&mut planner, gang(10_000));
    let mut stepped = planner.clone();
    let plan = planner.plan(At(0));
    assert_eq!(told(&plan.reasons[plan.waiting[0].1 as usize]), (vec![nearness], steps.clone()));
    let step = stepped.step(At(0));
    assert_eq!(told(&step.reasons[step.waiting[0].1 as usize]), (vec![nearness], Vec::new()), "a step looks for none");
    for planner in [&mut planner, &mut stepped] {
        assert_eq!(told(&planner.why(RequestId(1), At(0)).unwrap()), (vec![nearness], steps.clone()));
    }
    // Others take all that is open but one node: with the two free ones of its promise it could not start any more.
    planner.commit(&plan, At(0), |_| LeaseId(1)).unwrap();
    let open: Vec<NodeId> = [6, 7, 22, 23, 30, 31].map(|place| planner.fleet().nodes[place].id).to_vec();
    for (number, node) in (200..).zip(&open[..4]) {
        start(&mut planner, number, *node, 90_000);
        planner.plan(At(100));
        assert_eq!(told(&planner.why(RequestId(1), At(100)).unwrap()), (vec![nearness], steps.clone()), "{number}");
    }
    start(&mut planner, 204, open[4], 90_000);
    planner.plan(At(100));
    let (obstacles, _) = told(&planner.why(RequestId(1), At(100)).unwrap());
    assert_eq!(obstacles, [Cause::Nodes { needed: 4, free: 3, could: 32 }]);
}

#[test]
fn nobody_is_stopped_for_who_waits_for_nearness() {
    // Eight nodes are free, two in each unit: four may wait for one unit, ten have no room at all.
    for (nodes, gives_way) in [(4, false), (10, true)] {
        let mut planner = busy([4_000, 900, 3_000, 5_000], (100, 3_600));
        let mut gang = gang(10_000);
        gang.priority = 1;
        gang.shape.nodes = Nodes { min: nodes, max: nodes };
        add(&mut planner, gang);
        let plan = planner.plan(At(0));
        assert_eq!(starts(&plan), [], "{nodes} nodes");
        assert_eq!(!plan.preemptions.is_empty(), gives_way, "{nodes} nodes: {:?}", plan.preemptions);
        assert_eq!(planner.tick(At(0)).preemptions, plan.preemptions, "{nodes} nodes");
    }
}

#[test]
fn who_waits_for_nearness_takes_no_promise_from_who_has_no_room() {
    for (near, waits) in [(1, true), (0, false)] {
        let mut planner = busy([4_000, 900, 3_000, 5_000], (100, 3_600));
        (planner.spec.policy.reservations, planner.spec.policy.nearness_reservations) = (1, near);
        add(&mut planner, gang(10_000));
        // It comes later, and no eight nodes of a unit are free before a day has passed.
        let mut whole = Request { priority: 0, ..request(2, Gpus::Whole(8), 8) };
        whole.shape.within = Some(Level::Unit);
        add(&mut planner, whole);
        let plan = planner.plan(At(0));
        let promised: Vec<(u64, bool)> =
            plan.reservations.iter().map(|one| (one.request.0, one.for_nearness)).collect();
        assert_eq!(promised, if waits { vec![(1, true), (2, false)] } else { vec![(2, false)] });
        assert_eq!(starts(&plan).len(), usize::from(!waits));
    }
}

#[test]
fn a_gang_that_would_wait_longer_starts_at_once() {
    for (run_seconds, milli, most) in [(10_000, 89, 3_600), (10_000, 100, 899), (10_000, 0, 3_600)] {
        let mut planner = busy([4_000, 900, 3_000, 5_000], (milli, most));
        add(&mut planner, gang(run_seconds));
        let plan = planner.plan(At(0));
        assert_eq!(starts(&plan), [RequestId(1)]);
        assert!(plan.reservations.is_empty());
        assert_eq!(units(&planner, plan.placements[0].grants.iter().map(|grant| grant.node)), 2);
    }
}

#[test]
fn a_deadline_is_not_missed_for_nearness() {
    for (deadline, waits) in [(10_900, true), (10_899, false)] {
        let mut planner = busy([4_000, 900, 3_000, 5_000], (100, 3_600));
        let mut gang = gang(10_000);
        gang.deadline = Some(At(deadline));
        add(&mut planner, gang);
        assert_eq!(planner.plan(At(0)).placements.is_empty(), waits, "deadline {deadline}");
    }
}

#[test]
fn when_the_promised_instant_has_passed_it_starts_anywhere() {
    let mut planner = busy([4_000, 900, 3_000, 5_000], (100, 3_600));
    add(&mut planner, gang(10_000));
    let plan = planner.plan(At(0));
    planner.commit(&plan, At(0), |_| LeaseId(1)).unwrap();
    // The leases stay although they said that they would end.
    let plan = planner.step(At(900));
    assert_eq!(starts(&plan), [RequestId(1)]);
    assert_eq!(units(&planner, plan.placements[0].grants.iter().map(|grant| grant.node)), 2);
}

#[test]
fn who_waits_for_nearness_lets_short_work_pass() {
    let mut planner = busy([4_000, 900, 3_000, 5_000], (100, 3_600));
    add(&mut planner, gang(10_000));
    let plan = planner.plan(At(0));
    let promised = plan.reservations[0].nodes.clone();
    planner.commit(&plan, At(0), |_| LeaseId(1)).unwrap();
    // Six nodes are open; the seventh is one of the two that are free and promised.
    for number in 2..9 {
        let mut short = request(number, Gpus::Whole(8), 1);
        short.run_seconds = Some(if number == 8 { 900 } else { 50_000 });
        add(&mut planner, short);
    }
    let plan = planner.plan(At(0));
    assert_eq!(plan.placements.len(), 7);
    let before: Vec<RequestId> = plan
        .placements
        .iter()
        .filter(|placement| promised.contains(&placement.grants[0].node))
        .map(|placement| placement.request)
        .collect();
    assert_eq!(before, [RequestId(8)]);
}

#[test]
fn a_blocked_gang_is_promised_one_unit_within_its_patience() {
    let mut planner = busy([4_000, 900, 1_000, 5_000], (100, 3_600));
    // What was free is taken until after 2,000: a whole rack is never free before a day has passed.
    for (number, place) in (200..).zip([6, 7, 14, 15, 22, 23, 30, 31]) {
        let node = planner.fleet().nodes[place].id;
        start(&mut planner, number, node, 2_000 + i64::try_from(place).unwrap());
    }
    add(&mut planner, gang(20_000));
    let plan = planner.plan(At(0));
    assert_eq!(plan.reservations.len(), 1);
    assert_eq!(units(&planner, plan.reservations[0].nodes.iter().copied()), 1);
    assert_eq!(plan.reservations[0].starts_at, At(2_015));
}

#[test]
fn a_lease_that_overruns_is_thought_to_last_a_minute_by_who_waits_for_nearness_too() {
    let mut planner = busy([4_000, 900, 3_000, 5_000], (100, 3_600));
    // Its times are known from here on, and grow old.
    add(&mut planner, gang(10_000));
    planner.step(At(0));
    planner.apply(Event::RequestWithdrawn(RequestId(1))).unwrap();
    for now in [900, 905, 930] {
        add(&mut planner, gang(10_000));
        let plan = planner.step(At(now));
        assert_eq!(starts(&plan), [], "two leases of the second unit stay beyond their end at {now}");
        assert_eq!(plan.reservations[0].starts_at, At(now + 60));
        planner.apply(Event::RequestWithdrawn(RequestId(1))).unwrap();
    }
}
