use super::super::tests::{Draw, Site, add, request, site};
use super::*;
use crate::check::{Before, check_plan};
use crate::event::Event;
use crate::fleet::{Amount, FleetSpec, Level};
use crate::plan::PreemptionCause;
use crate::reason::Cause;
use crate::request::{Gpus, Nodes, Request, Stop};
use crate::units::{LeaseId, RequestId};

const HOUR: i64 = 3600;

fn fleet() -> FleetSpec {
    let mut fleet = site(1_000_000);
    fleet.queues[0].guaranteed.gpu_milli = 128_000;
    fleet
}

/// All 32 nodes run eight-GPU leases of this queue, one a node, each an hour old at the instant returned.
fn full(fleet: FleetSpec, queue: u32) -> (Planner, At) {
    let mut planner = Planner::new(fleet).unwrap();
    for id in 1..=32 {
        add(&mut planner, Request { queue: QueueId(queue), stop: Stop::Restart, ..long(id) });
    }
    let plan = planner.plan(At(0));
    assert_eq!(plan.placements.len(), 32);
    planner.commit(&plan, At(0), |placement| LeaseId(placement.request.0)).unwrap();
    (planner, At(HOUR))
}

fn long(id: u64) -> Request {
    Request { run_seconds: None, ..request(id, Gpus::Whole(8), 1) }
}

#[test]
fn who_has_a_higher_priority_starts_when_another_has_stopped() {
    let (mut planner, now) = full(fleet(), 2);
    add(&mut planner, Request { queue: QueueId(2), priority: 1, ..long(100) });
    // Others of that queue and shape come first, but may stop nobody.
    add(&mut planner, Request { queue: QueueId(2), ..long(99) });
    let plan = planner.plan(now);
    assert_eq!(plan.preemptions.len(), 1);
    let preemption = plan.preemptions[0];
    assert_eq!(preemption.for_request, RequestId(100));
    assert_eq!((preemption.cause, preemption.lost_gpu_seconds), (PreemptionCause::Priority, 8 * HOUR));
    assert_eq!(plan.reservations.len(), 1, "the node is kept");
    let (_, why) = plan.waiting.iter().find(|(request, _)| *request == RequestId(100)).unwrap();
    let because = &plan.reasons[*why as usize].because;
    assert_eq!(because[0].cause, Cause::Preempting { leases: 1, lease: preemption.lease });

    planner.commit(&plan, now, |_| LeaseId(0)).unwrap();
    assert_eq!(planner.plan(now.plus(1)).preemptions, [], "nobody else stops while it does");
    planner.apply(Event::LeaseEnded(preemption.lease)).unwrap();
    let plan = planner.tick(now.plus(2));
    assert_eq!(plan.placements.len(), 1);
    assert_eq!(plan.placements[0].request, RequestId(100));
}

#[test]
fn whoever_waits_for_a_lease_that_overruns_is_not_told_that_it_stops() {
    let mut planner = Planner::new(fleet()).unwrap();
    for id in 1..=32 {
        let stop = if id % 2 == 0 { Stop::Restart } else { Stop::Never };
        add(&mut planner, Request { queue: QueueId(2), stop, run_seconds: Some(3_600), ..long(id) });
    }
    let plan = planner.plan(At(0));
    planner.commit(&plan, At(0), |placement| LeaseId(placement.request.0)).unwrap();
    add(&mut planner, Request { queue: QueueId(2), ..long(100) });
    let plan = planner.plan(At(10));
    assert_eq!((plan.reservations.len(), plan.reservations[0].starts_at), (1, At(HOUR)));
    planner.commit(&plan, At(10), |_| LeaseId(0)).unwrap();
    let plan = planner.plan(At(HOUR + 5));
    assert_eq!((plan.placements.len(), plan.preemptions.len()), (0, 0));
    let (_, why) = plan.waiting.iter().find(|(request, _)| *request == RequestId(100)).unwrap();
    let because = &plan.reasons[*why as usize].because;
    assert!(because.iter().any(|part| matches!(part.cause, Cause::Promised { .. })), "{because:?}");
    assert!(
        because.iter().all(|part| !matches!(part.cause, Cause::Preempting { .. })),
        "nobody gives way: {because:?}"
    );
}

#[test]
fn a_queue_takes_back_its_guarantee_and_no_more() {
    let (mut planner, now) = full(fleet(), 2);
    for id in 100..140 {
        add(&mut planner, long(id));
    }
    let mut reclaimed = 0;
    for round in 0..40 {
        let plan = planner.plan(now.plus(round));
        for preemption in &plan.preemptions {
            assert_eq!(preemption.cause, PreemptionCause::Reclaim);
            planner.apply(Event::LeaseEnded(preemption.lease)).unwrap();
            reclaimed += 1;
        }
        planner.commit(&plan, now.plus(round), |placement| LeaseId(1000 + placement.request.0)).unwrap();
    }
    assert_eq!(reclaimed, 16, "sixteen nodes are guaranteed");
    assert_eq!(planner.shares.used(QueueId(0)).gpu_milli, 128_000);
}

#[test]
fn a_plan_that_was_not_carried_out_leaves_no_trace() {
    let (mut planner, now) = full(fleet(), 2);
    add(&mut planner, long(100));
    let before = planner.clone();
    let first = planner.plan(now);
    assert_eq!(first.preemptions.len(), 1);
    planner.settle();
    assert_eq!(planner.promises, before.promises);
    assert_eq!(planner.plan(now), first);
}

#[test]
fn nobody_stops_when_more_is_lost_than_gained_or_none_may_be_stopped() {
    let (mut planner, now) = full(fleet(), 2);
    add(&mut planner, Request { run_seconds: Some(600), ..long(100) });
    assert_eq!(planner.plan(now).preemptions, []);
    let mut fleet = fleet();
    fleet.policy.preemptions = 0;
    let (mut planner, now) = full(fleet, 2);
    add(&mut planner, long(100));
    assert_eq!(planner.plan(now).preemptions, []);
}

#[test]
fn while_nothing_starts_leases_move_together() {
    let mut fleet = fleet();
    fleet.policy.moves = 2;
    let mut planner = Planner::new(fleet).unwrap();
    for id in 1..=2 {
        let mut half = Request { stop: Stop::Checkpoint { cost_seconds: 60 }, ..request(id, Gpus::Whole(4), 1) };
        half.shape.cpu_milli = 1_000;
        add(&mut planner, half);
    }
    add(&mut planner, Request { stop: Stop::Checkpoint { cost_seconds: 60 }, ..request(3, Gpus::Whole(2), 1) });
    let plan = planner.plan(At(0));
    assert_eq!(plan.moves, [], "three start");
    planner.commit(&plan, At(0), |placement| LeaseId(placement.request.0)).unwrap();
    let nodes: std::collections::BTreeSet<_> = planner.leases().map(|lease| lease.grants[0].node).collect();
    assert_eq!(nodes.len(), 2, "the two halves lie together");
    planner.apply(Event::LeaseEnded(LeaseId(1))).unwrap();
    let plan = planner.plan(At(1));
    assert_eq!(plan.moves.len(), 1);
    assert_eq!(plan.moves[0].lease, LeaseId(3), "two GPUs move to the four, not four to the two");
}

#[test]
fn what_stops_and_moves_keeps_every_rule_and_is_found_again_from_scratch() {
    let (mut preempted, mut moved) = (0, 0);
    for seed in 0..20 {
        let mut site = Site::new(seed);
        let mut fleet = site.planner.fleet().clone();
        fleet.policy.moves = 3;
        fleet.queues[0].guaranteed.gpu_milli = 80_000;
        fleet.queues[1].guaranteed.gpu_milli = 120_000;
        fleet.queues[3].guaranteed.gpu_milli = 40_000;
        site.planner = Planner::new(fleet).unwrap();
        for round in 0..60 {
            site.now = site.now.plus(i64::try_from(site.draw.below(40)).unwrap());
            for _ in 0..site.draw.below(6) {
                site.event();
            }
            site.planner.settle();
            let leases: Vec<_> = site.planner.leases().cloned().collect();
            let requests: Vec<_> = site.planner.waiting().cloned().collect();
            let reservations = site.planner.reservations();
            let rebuilt = site.rebuilt().plan(site.now);
            let plan = site.planner.plan(site.now);
            assert_eq!(rebuilt.preemptions, plan.preemptions, "seed {seed}, round {round}");
            assert_eq!(rebuilt.moves, plan.moves, "seed {seed}, round {round}");
            assert_eq!(rebuilt.hash(), plan.hash(), "seed {seed}, round {round}");
            let fleet = site.planner.fleet().clone();
            let before = Before { fleet: &fleet, leases: &leases, requests: &requests, reservations: &reservations };
            assert_eq!(check_plan(&before, &plan), [], "seed {seed}, round {round}");
            preempted += plan.preemptions.len();
            moved += plan.moves.len();
            for preemption in &plan.preemptions {
                // Some take their time.
                if site.draw.below(4) > 0 {
                    site.planner.apply(Event::LeaseEnded(preemption.lease)).unwrap();
                }
            }
            let mut next = site.next_id * 1_000;
            let told = site.planner.commit(&plan, site.now, |_| {
                next += 1;
                LeaseId(next)
            });
            site.next_id += 1;
            assert_eq!(told, Ok(()), "seed {seed}, round {round}");
            site.planner.state.check_counters();
        }
    }
    assert!(preempted > 10 && moved > 2, "{preempted} stopped, {moved} moved: enough to have seen something");
}

/// What a step decides before an event and after it, in a planner that lived before.
fn steps_around(planner: &mut Planner, now: At, event: Event) -> [usize; 2] {
    let before = planner.tick(now).preemptions.len();
    planner.apply(event).unwrap();
    let after = planner.tick(now).preemptions;
    assert_eq!(after, planner.clone().plan(now).preemptions);
    [before, after.len()]
}

#[test]
fn who_was_declined_asks_again_when_a_lease_has_saved_its_work() {
    let mut planner = Planner::new(fleet()).unwrap();
    for id in 1..=32 {
        let stop = Stop::Checkpoint { cost_seconds: 60 };
        add(&mut planner, Request { queue: QueueId(2), stop, ..long(id) });
    }
    let plan = planner.plan(At(0));
    planner.commit(&plan, At(0), |placement| LeaseId(placement.request.0)).unwrap();
    add(&mut planner, Request { queue: QueueId(2), priority: 1, ..long(100) });
    let now = At(40 * HOUR);
    assert_eq!(planner.tick(now).preemptions, [], "forty hours of work are lost for a day");
    let saved = Event::LeaseSaved { lease: LeaseId(7), saved_at: now };
    assert_eq!(steps_around(&mut planner, now, saved), [0, 1]);
}

#[test]
fn who_was_declined_asks_again_when_its_rights_grow() {
    let gpus = |gpus: i64| Amount { gpu_milli: gpus * 1_000, ..Amount::default() };
    let told =
        |queue: u32, guaranteed| Event::QuotaChanged { queue: QueueId(queue), weight: 1, guaranteed, limit: None };
    let mut fleet = super::super::tests::site(1_000_000);
    fleet.queues[0].guaranteed = gpus(0);
    let (mut planner, now) = full(fleet, 2);
    add(&mut planner, long(100));
    assert_eq!(steps_around(&mut planner, now, told(0, gpus(8))), [0, 1], "it is guaranteed something now");

    let mut fleet = super::super::tests::site(1_000_000);
    fleet.queues[0].guaranteed = gpus(128);
    fleet.queues[2].guaranteed = gpus(128);
    let mut planner = Planner::new(fleet).unwrap();
    for id in 1..=32 {
        let (queue, stop) = if id <= 16 { (2, Stop::Restart) } else { (3, Stop::Never) };
        add(&mut planner, Request { queue: QueueId(queue), stop, ..long(id) });
    }
    let plan = planner.plan(At(0));
    planner.commit(&plan, At(0), |placement| LeaseId(placement.request.0)).unwrap();
    add(&mut planner, long(100));
    assert_eq!(steps_around(&mut planner, now, told(2, gpus(0))), [0, 1], "the other borrows what it has now");
}

#[test]
fn who_was_declined_asks_again_when_another_of_its_kind_may_begin() {
    let (mut planner, _) = full(fleet(), 2);
    let now = At(3 * HOUR);
    add(&mut planner, Request { queue: QueueId(2), priority: 1, run_seconds: Some(600), ..long(100) });
    let not_before = Some(now.plus(10));
    add(&mut planner, Request { queue: QueueId(2), priority: 2, not_before, ..long(101) });
    assert_eq!(planner.tick(now).preemptions, [], "ten minutes are not worth three hours");
    let plan = planner.tick(now.plus(10));
    assert_eq!(plan.preemptions.iter().map(|one| one.for_request).collect::<Vec<_>>(), [RequestId(101)]);
}

#[test]
fn a_request_behind_the_head_of_its_list_asks_when_its_priority_is_higher() {
    let (mut planner, now) = full(fleet(), 2);
    // Long in line: it comes first, but may stop nobody.
    add(&mut planner, Request { queue: QueueId(2), submitted_at: At(-1_000_000), ..long(99) });
    add(&mut planner, Request { queue: QueueId(2), priority: 1, ..long(100) });
    let plan = planner.plan(now);
    assert_eq!(plan.preemptions.iter().map(|one| one.for_request).collect::<Vec<_>>(), [RequestId(100)]);
}

/// A request that may stop others or be stopped, of queues that are guaranteed something and others.
fn contested(site: &mut Site) -> Request {
    let (now, id) = (site.now, site.next_id);
    let draw = &mut site.draw;
    let gpus = draw.pick(&[
        Gpus::Whole(8),
        Gpus::Whole(8),
        Gpus::Whole(4),
        Gpus::Whole(2),
        Gpus::Whole(1),
        Gpus::Milli(500),
        Gpus::Milli(300),
    ]);
    let mut asked = request(id, gpus, 1);
    if gpus == Gpus::Whole(8) || draw.below(6) == 0 {
        let min = draw.pick(&[1, 1, 2, 3, 4, 8]);
        asked.shape.nodes = Nodes { min, max: min + draw.pick(&[0, 0, 0, 2]) };
    }
    asked.shape.within = draw.pick(&[None, None, Some(Level::Rack), Some(Level::Unit), Some(Level::Pod)]);
    let level = match asked.shape.within {
        Some(Level::Rack) => 4,
        Some(Level::Unit) => 8,
        Some(_) | None => 32,
    };
    if asked.shape.nodes.max > level {
        asked.shape.within = None;
    }
    asked.shape.cpu_milli = draw.pick(&[1_000, 1_000, 12_000]);
    asked.queue = draw.pick(&[QueueId(0), QueueId(2), QueueId(3)]);
    asked.stop = draw.pick(&[Stop::Never, Stop::Restart, Stop::Restart, Stop::Checkpoint { cost_seconds: 30 }]);
    asked.priority = draw.pick(&[-3, -2, -1, 0, 1, 2, 3]);
    asked.submitted_at = now;
    asked.run_seconds = draw.pick(&[None, Some(100), Some(1_000), Some(50_000)]);
    asked.not_before = if draw.below(15) == 0 { Some(now.plus(60)) } else { None };
    asked
}

/// Something that changes who may stop whom, or what is lost.
fn disturbance(site: &mut Site) -> Option<Event> {
    let leases: Vec<LeaseId> = site.planner.leases().map(|lease| lease.id).collect();
    let lease = (!leases.is_empty()).then(|| site.draw.pick(&leases));
    Some(match site.draw.below(10) {
        0..4 => Event::LeaseSaved { lease: lease?, saved_at: site.now },
        4..6 => Event::LeaseEnded(lease?),
        6 => {
            let queue = site.draw.pick(&[0, 1, 2, 3]);
            let guaranteed = site.draw.pick(&[0, 0, 40_000, 90_000]);
            let limit = site.draw.pick(&[None, None, Some(60_000), Some(120_000)]);
            let rest = 1 << 40;
            Event::QuotaChanged {
                queue: QueueId(queue),
                weight: 1,
                guaranteed: Amount { gpu_milli: guaranteed, ..Amount::default() },
                limit: limit.map(|gpu_milli| Amount { gpu_milli, cpu_milli: rest, memory_mib: rest, watts: rest }),
            }
        }
        _ => {
            site.next_id += 1;
            Event::RequestAdded(contested(site))
        }
    })
}

#[test]
fn a_planner_that_lived_through_stops_decides_as_one_built_anew() {
    let mut stopped = [0, 0];
    for seed in 0..60 {
        let mut site = Site::new(seed);
        let mut fleet = super::super::tests::site(1_000_000);
        fleet.policy.preemptions = site.draw.pick(&[1, 3, 8]);
        fleet.policy.preemption_loss_milli = site.draw.pick(&[50, 250, 2_000]);
        fleet.queues[0].guaranteed.gpu_milli = 60_000;
        fleet.queues[3].guaranteed.gpu_milli = 80_000;
        site.planner = Planner::new(fleet).unwrap();
        for round in 0..80 {
            site.now = site.now.plus(i64::try_from(site.draw.below(90)).unwrap());
            for _ in 0..site.draw.below(4) + if round == 0 { 60 } else { 0 } {
                if let Some(event) = disturbance(&mut site) {
                    // Some cannot be now: refused, they change nothing.
                    let _refused = site.planner.apply(event);
                }
            }
            if site.draw.below(4) == 0 {
                site.event();
            }
            let mut settled = Site { planner: site.planner.clone(), draw: Draw(0), now: site.now, next_id: 0 };
            settled.planner.settle();
            let anew = settled.rebuilt().plan(site.now);
            let full = site.planner.clone().plan(site.now);
            let plan = site.planner.tick(site.now);
            assert_eq!(plan.placements, anew.placements, "seed {seed}, round {round}");
            assert_eq!(plan.preemptions, anew.preemptions, "seed {seed}, round {round}");
            assert_eq!(full.hash(), anew.hash(), "seed {seed}, round {round}");
            for preemption in &plan.preemptions {
                stopped[usize::from(preemption.cause == PreemptionCause::Reclaim)] += 1;
            }
            // Now and then nothing is carried out.
            if site.draw.below(8) == 0 {
                continue;
            }
            let mut next = site.next_id * 1_000 + 500;
            site.planner
                .commit(&plan, site.now, |_| {
                    next += 1;
                    LeaseId(next)
                })
                .unwrap();
            site.next_id += 1;
            for preemption in &plan.preemptions {
                // Some take their time.
                if site.draw.below(4) > 0 {
                    site.planner.apply(Event::LeaseEnded(preemption.lease)).unwrap();
                }
            }
        }
    }
    assert!(stopped.iter().all(|count| *count > 20), "{stopped:?} stopped for priority and reclaimed");
}

/// A fleet full of leases of queue 2 that are an hour old: a gang of two nodes whose work is just saved, lease 1, and
/// thirty of one node.
fn with_a_gang_that_is_cheap_to_stop() -> (Planner, At) {
    let mut planner = Planner::new(fleet()).unwrap();
    let gang = Request { stop: Stop::Checkpoint { cost_seconds: 1 }, ..request(1, Gpus::Whole(8), 2) };
    add(&mut planner, Request { queue: QueueId(2), run_seconds: None, ..gang });
    for id in 2..=31 {
        add(&mut planner, Request { queue: QueueId(2), stop: Stop::Restart, ..long(id) });
    }
    let plan = planner.plan(At(0));
    assert_eq!(plan.placements.len(), 31);
    planner.commit(&plan, At(0), |placement| LeaseId(placement.request.0)).unwrap();
    let now = At(HOUR);
    planner.apply(Event::LeaseSaved { lease: LeaseId(1), saved_at: now }).unwrap();
    (planner, now)
}

fn stopped(plan: &crate::plan::Plan) -> Vec<(u64, u64)> {
    plan.preemptions.iter().map(|one| (one.lease.0, one.for_request.0)).collect()
}

#[test]
fn who_is_owed_most_is_found_from_the_root() {
    let mut fleet = fleet();
    fleet.queues[3].guaranteed.gpu_milli = 128_000;
    fleet.policy.preemptions = 1;
    let mut planner = Planner::new(fleet).unwrap();
    // Queue 3 has an eighth of what queue 0 has, but what stands above it has more than it is guaranteed.
    for id in 1..=32 {
        let queue = QueueId(if id <= 8 {
            0
        } else if id == 9 {
            3
        } else {
            2
        });
        add(&mut planner, Request { queue, stop: Stop::Restart, ..long(id) });
    }
    let plan = planner.plan(At(0));
    assert_eq!(plan.placements.len(), 32);
    planner.commit(&plan, At(0), |placement| LeaseId(placement.request.0)).unwrap();
    add(&mut planner, Request { queue: QueueId(3), ..long(100) });
    add(&mut planner, long(101));
    let plan = planner.plan(At(HOUR));
    assert_eq!(plan.preemptions.iter().map(|one| one.for_request.0).collect::<Vec<_>>(), [101]);
}

#[test]
fn what_a_stopping_gang_frees_beside_the_promise_is_waited_for() {
    let (mut planner, now) = with_a_gang_that_is_cheap_to_stop();
    let urgent = |id| Request { queue: QueueId(2), priority: 1, ..long(id) };
    add(&mut planner, urgent(100));
    let plan = planner.plan(now);
    assert_eq!(stopped(&plan), [(1, 100)]);
    planner.commit(&plan, now, |_| LeaseId(0)).unwrap();
    // One more has room where the gang leaves; for the one after him somebody must go.
    add(&mut planner, urgent(101));
    assert_eq!(planner.tick(now.plus(1)).preemptions, []);
    let mut other = urgent(102);
    other.shape.cpu_milli = 999;
    add(&mut planner, other);
    let plan = planner.tick(now.plus(2));
    assert_eq!(stopped(&plan).len(), 1, "{:?}", plan.preemptions);
    assert_eq!(plan.preemptions[0].for_request, RequestId(102));
    assert_ne!(plan.preemptions[0].lease, LeaseId(1));
    assert_eq!(planner.plan(now.plus(2)).preemptions, plan.preemptions);
    planner.commit(&plan, now.plus(2), |_| LeaseId(0)).unwrap();
    planner.apply(Event::LeaseEnded(LeaseId(1))).unwrap();
    let plan = planner.tick(now.plus(3));
    let started: Vec<u64> = plan.placements.iter().map(|placement| placement.request.0).collect();
    assert_eq!((started, stopped(&plan)), (vec![100, 101], vec![]));
}

#[test]
fn what_a_gang_frees_that_gives_way_in_the_same_pass_is_waited_for_as_well() {
    let (mut planner, now) = with_a_gang_that_is_cheap_to_stop();
    for (id, cpu_milli) in [(100, 1_000), (101, 999), (102, 998)] {
        let mut asked = Request { queue: QueueId(2), priority: 1, ..long(id) };
        asked.shape.cpu_milli = cpu_milli;
        add(&mut planner, asked);
    }
    let plan = planner.plan(now);
    assert_eq!(stopped(&plan).len(), 2, "two nodes for the first two: {:?}", plan.preemptions);
    assert_eq!(stopped(&plan)[0], (1, 100));
    assert_eq!(plan.preemptions[1].for_request, RequestId(102));
}

#[test]
fn a_stopping_gang_leaves_its_queue_the_quota_and_its_points_the_watts() {
    let (mut planner, now) = with_a_gang_that_is_cheap_to_stop();
    let gpus = Amount { gpu_milli: 32 * 8_000, cpu_milli: 1 << 40, memory_mib: 1 << 40, watts: 1 << 40 };
    let limit = Event::QuotaChanged { queue: QueueId(2), weight: 1, guaranteed: Amount::default(), limit: Some(gpus) };
    planner.apply(limit).unwrap();
    planner.apply(Event::CapChanged { power: crate::units::PowerId(0), cap_watts: 4_000 + 32 * 700 }).unwrap();
    let urgent = |id| Request { queue: QueueId(2), priority: 1, ..long(id) };
    add(&mut planner, urgent(100));
    let plan = planner.plan(now);
    assert_eq!(stopped(&plan), [(1, 100)]);
    planner.commit(&plan, now, |_| LeaseId(0)).unwrap();
    add(&mut planner, urgent(101));
    assert_eq!(planner.tick(now.plus(1)).preemptions, []);
}

/// Four GPUs of a node belong to lease 1, four of it and four of another node to the gang of lease 2; all else may not
/// be stopped.
fn with_a_shared_node() -> (Planner, At) {
    let mut planner = Planner::new(fleet()).unwrap();
    for id in 3..=33 {
        add(&mut planner, Request { queue: QueueId(2), ..long(id) });
    }
    let plan = planner.plan(At(0));
    planner.commit(&plan, At(0), |placement| LeaseId(placement.request.0)).unwrap();
    let first = planner.state.leases.find(LeaseId(3)).unwrap().lease.grants[0].node;
    let free = (0..32).map(NodeIx::new).find(|node| planner.state.nodes.free[node.at()].has_gpu()).unwrap();
    let second = planner.state.topology.id(free);
    planner.apply(Event::LeaseEnded(LeaseId(3))).unwrap();
    let half = |node, gpus| crate::plan::Grant { node, gpus: crate::plan::GpuGrant::Whole(gpus) };
    let leases = [
        (1, vec![half(first, 0x0F)], Stop::Restart),
        (2, vec![half(first, 0xF0), half(second, 0xF0)], Stop::Restart),
        (34, vec![half(second, 0x0F)], Stop::Never),
    ];
    for (id, grants, stop) in leases {
        let asked = request(id, Gpus::Whole(4), u16::try_from(grants.len()).unwrap());
        let request = Request { queue: QueueId(2), run_seconds: None, stop, ..asked };
        let lease =
            crate::fleet::Lease { id: LeaseId(id), request, grants, started_at: At(0), ends_at: None, saved_at: At(0) };
        planner.apply(Event::LeaseStarted(lease)).unwrap();
    }
    (planner, At(HOUR))
}

#[test]
fn of_leases_on_a_partly_cleared_node_only_those_count_as_stopping_that_do() {
    let (mut planner, now) = with_a_shared_node();
    let urgent = |id| {
        let asked = request(id, Gpus::Whole(4), 1);
        Request { queue: QueueId(2), priority: 1, run_seconds: None, ..asked }
    };
    add(&mut planner, urgent(100));
    let plan = planner.plan(now);
    assert_eq!(stopped(&plan), [(1, 100)], "four GPUs of one node are the least");
    let (_, why) = plan.waiting.iter().find(|(request, _)| *request == RequestId(100)).unwrap();
    let because = &plan.reasons[*why as usize].because;
    assert_eq!(because[0].cause, Cause::Preempting { leases: 1, lease: LeaseId(1) }, "the gang stays");
    planner.commit(&plan, now, |_| LeaseId(0)).unwrap();
    // The gang beside it may be asked for its other node.
    add(&mut planner, urgent(101));
    assert_eq!(stopped(&planner.tick(now.plus(1))), [(2, 101)]);
}

/// Lists of one queue and priority, each of its own CPU, first in line those that ask in vain; the last, 100, would
/// win.
fn behind_those_who_ask_in_vain(planner: &mut Planner, lists: u64, in_vain: &Request) {
    let urgent = Request { queue: QueueId(2), priority: 1, ..in_vain.clone() };
    for list in 0..lists - 1 {
        let mut asked = Request { id: RequestId(200 + list), order: list, submitted_at: At(0), ..urgent.clone() };
        asked.shape.cpu_milli = 2_000 + u32::try_from(list).unwrap();
        add(planner, asked);
    }
    add(planner, Request { queue: QueueId(2), priority: 1, ..long(100) });
}

/// In how many minutes, of as many as lists take turns, somebody is stopped for the last of them.
fn minutes_with_a_stop(planner: &mut Planner, now: At, lists: usize) -> usize {
    let turns = lists - FIRST_EACH;
    let wins = (0..turns).filter(|minute| {
        let now = now.plus(TURN_SECONDS * i64::try_from(*minute).unwrap());
        let plan = planner.tick(now);
        assert_eq!(planner.clone().plan(now).preemptions, plan.preemptions, "minute {minute}");
        assert!(plan.preemptions.iter().all(|one| one.for_request == RequestId(100)), "{:?}", plan.preemptions);
        !plan.preemptions.is_empty()
    });
    wins.count()
}

#[test]
fn of_more_lists_than_are_searched_for_in_a_pass_each_has_its_turn() {
    let mut fleet = fleet();
    fleet.policy.preemptions = 1;
    let (mut planner, now) = full(fleet, 2);
    // Ten minutes are not worth an hour: each of these is a search in vain.
    behind_those_who_ask_in_vain(&mut planner, 41, &Request { run_seconds: Some(600), ..long(0) });
    assert_eq!(minutes_with_a_stop(&mut planner, now, 41), SEARCHES_EACH - FIRST_EACH);
}

#[test]
fn of_more_lists_than_are_counted_for_in_a_pass_each_has_its_turn() {
    let mut fleet = fleet();
    fleet.policy.preemptions = 1;
    let mut planner = Planner::new(fleet).unwrap();
    for id in 1..=32 {
        let stop = if id == 7 { Stop::Restart } else { Stop::Never };
        add(&mut planner, Request { queue: QueueId(2), stop, ..long(id) });
    }
    let plan = planner.plan(At(0));
    planner.commit(&plan, At(0), |placement| LeaseId(placement.request.0)).unwrap();
    // For two nodes there is no room though all went who may be stopped: these are counted, and not searched for.
    let pair = Request { run_seconds: None, ..request(0, Gpus::Whole(8), 2) };
    behind_those_who_ask_in_vain(&mut planner, 61, &pair);
    assert_eq!(minutes_with_a_stop(&mut planner, At(HOUR), 61), COUNTS_EACH - FIRST_EACH);
}

#[test]
fn no_more_requests_win_in_a_pass_than_policy_says() {
    let mut fleet = fleet();
    fleet.policy.preemptions = 3;
    let (mut planner, now) = full(fleet, 2);
    for id in 100..107 {
        let mut asked = Request { queue: QueueId(2), priority: 1, ..long(id) };
        asked.shape.cpu_milli = u32::try_from(2_000 - id).unwrap();
        add(&mut planner, asked);
    }
    for (round, won) in [vec![100, 101, 102], vec![103, 104, 105], vec![106]].into_iter().enumerate() {
        let now = now.plus(i64::try_from(round).unwrap());
        let plan = planner.tick(now);
        assert_eq!(stopped(&plan).into_iter().map(|(_, request)| request).collect::<Vec<_>>(), won);
        planner.commit(&plan, now, |_| LeaseId(0)).unwrap();
    }
}
