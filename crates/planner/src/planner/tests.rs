mod lives;
mod replaced;

use std::collections::BTreeMap;

use super::*;
use crate::fleet::{DomainSpec, Health, Level, ModelSpec, NodeSpec, Policy, PowerSpec, QueueSpec, SliceSpec};
use crate::plan::GpuGrant;
use crate::reason::Cause;
use crate::request::{Nodes, Stop};
use crate::units::{DomainId, ModelId, NodeId, PowerId, QueueId, ResidencyId, SliceId, TenantClass};

/// SplitMix64, for tests that draw events.
#[derive(Clone)]
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

const PEAK_WATTS: u32 = 700;

/// Two pods of two units of two racks of four nodes; every other unit has MIG; an NVLink domain is a rack's half.
pub(super) fn site(cap_watts: i64) -> FleetSpec {
    let mut domains = vec![DomainSpec { level: Level::Site, parent: None }];
    let mut nodes = Vec::new();
    let mut push = |level, parent: u32| {
        domains.push(DomainSpec { level, parent: Some(DomainId(parent)) });
        u32::try_from(domains.len() - 1).unwrap()
    };
    let mut racks = Vec::new();
    for _ in 0..2 {
        let pod = push(Level::Pod, 0);
        for _ in 0..2 {
            let unit = push(Level::Unit, pod);
            racks.extend((0..2).map(|_| push(Level::Rack, unit)));
        }
    }
    let fabric: Vec<u32> = (0..16)
        .map(|_| {
            domains.push(DomainSpec { level: Level::NvLink, parent: None });
            u32::try_from(domains.len() - 1).unwrap()
        })
        .collect();
    for number in 0..32_u32 {
        let rack = number / 4;
        nodes.push(NodeSpec {
            id: NodeId(u64::from(number) * 7 + 1),
            model: ModelId(u8::from(rack % 4 == 3)),
            gpus: 8,
            cpu_milli: 64_000,
            memory_mib: 512_000,
            domain: DomainId(racks[rack as usize]),
            fabric: Some(DomainId(fabric[number as usize / 2])),
            power: PowerId(1 + rack % 2),
            residency: ResidencyId(u8::from(rack == 0)),
            health: Health::Ready,
            hold_until: None,
            failures: 0,
            observed_days: 30,
        });
    }
    let slices = vec![SliceSpec { positions: vec![0b1111, 0b1111_0000], compute: 3 }];
    let point = |parent, cap_watts| PowerSpec { parent, cap_watts, floors: vec![(TenantClass(1), 2_000)] };
    let queue = |parent, weight| QueueSpec { parent, weight, guaranteed: Amount::default(), limit: None };
    FleetSpec {
        models: vec![ModelSpec::default(), ModelSpec { slices }],
        domains,
        power: vec![
            PowerSpec { floors: vec![(TenantClass(1), 4_000)], parent: None, cap_watts },
            point(Some(PowerId(0)), cap_watts / 2),
            point(Some(PowerId(0)), cap_watts),
        ],
        nodes,
        queues: vec![queue(None, 1), queue(None, 2), queue(Some(QueueId(1)), 1), queue(Some(QueueId(1)), 3)],
        policy: Policy { reservations: 4, ..Policy::default() },
    }
}

pub(super) fn request(id: u64, gpus: Gpus, nodes: u16) -> Request {
    Request {
        id: RequestId(id),
        queue: QueueId(0),
        class: TenantClass(0),
        priority: 0,
        submitted_at: At(i64::try_from(id).unwrap()),
        order: id,
        shape: Shape {
            gpus,
            nodes: Nodes { min: nodes, max: nodes },
            models: 0,
            cpu_milli: 1_000,
            memory_mib: 1_000,
            within: None,
            prefer: None,
            residencies: 0,
            expected_watts: PEAK_WATTS / 2,
            peak_watts: PEAK_WATTS,
        },
        run_seconds: Some(1_000),
        deadline: None,
        not_before: None,
        deferrable: false,
        stop: Stop::Never,
        near: None,
    }
}

fn random_request(draw: &mut Draw, id: u64, now: At) -> Request {
    let gpus = match draw.below(10) {
        0 => Gpus::Milli(draw.pick(&[250, 300, 500])),
        1 => Gpus::Slice(SliceId(0)),
        2 => Gpus::Whole(0),
        3..6 => Gpus::Whole(8),
        _ => Gpus::Whole(draw.pick(&[1, 2, 4])),
    };
    let mut asked = request(id, gpus, 1);
    if draw.below(3) == 0 {
        let min = u16::try_from(draw.below(9) + 1).unwrap();
        asked.shape.nodes = Nodes { min, max: min + draw.pick(&[0, 0, 3]) };
    }
    if matches!(gpus, Gpus::Slice(_)) {
        asked.shape.models = 2;
        asked.shape.nodes = Nodes { min: 1, max: 1 };
    } else {
        asked.shape.models = draw.pick(&[0, 0, 1]);
    }
    asked.shape.within =
        if asked.shape.nodes.max <= 3 { draw.pick(&[None, None, Some(Level::Rack), Some(Level::Unit)]) } else { None };
    asked.shape.prefer = draw.pick(&[None, Some(Level::NvLink), Some(Level::Pod)]);
    asked.shape.cpu_milli = draw.pick(&[1_000, 8_000, 30_000]);
    asked.queue = draw.pick(&[QueueId(0), QueueId(2), QueueId(3)]);
    asked.class = TenantClass(u8::from(draw.below(4) == 0));
    asked.stop = draw.pick(&[Stop::Never, Stop::Restart, Stop::Checkpoint { cost_seconds: 30 }]);
    asked.priority = draw.pick(&[0, 0, 1, 5]);
    asked.submitted_at = now;
    asked.run_seconds = draw.pick(&[None, Some(50), Some(400), Some(3_000)]);
    asked.not_before = if draw.below(12) == 0 { Some(now.plus(60)) } else { None };
    asked
}

/// What a caller does between answers: drawn, applied, and remembered for a planner built anew.
pub(super) struct Site {
    pub(super) planner: Planner,
    pub(super) draw: Draw,
    pub(super) now: At,
    pub(super) next_id: u64,
}

impl Site {
    pub(super) fn new(seed: u64) -> Self {
        Self { planner: Planner::new(site(60_000)).unwrap(), draw: Draw(seed), now: At(0), next_id: 1 }
    }

    pub(super) fn event(&mut self) {
        let node = NodeId(self.draw.below(32) * 7 + 1);
        let lease = {
            let count = self.planner.state.leases.len() as u64;
            let at = if count == 0 { 0 } else { usize::try_from(self.draw.below(count)).unwrap() };
            self.planner.leases().nth(at).map(|lease| lease.id)
        };
        let event = match (self.draw.below(20), lease) {
            (0, _) => {
                Event::NodeHealth { node, health: self.draw.pick(&[Health::Ready, Health::Cordoned, Health::Down]) }
            }
            (1, _) => Event::NodeHealth { node, health: Health::Ready },
            (2, _) => Event::NodeHeld { node, until: self.draw.pick(&[None, Some(self.now.plus(100))]) },
            (3, _) => Event::NodeFailed { node },
            (4, Some(lease)) => {
                Event::LeaseExtended { lease, ends_at: self.draw.pick(&[None, Some(self.now.plus(500))]) }
            }
            (5, _) => Event::CapChanged { power: PowerId(0), cap_watts: self.draw.pick(&[20_000, 60_000, 100_000]) },
            (6, _) => {
                let waiting: Vec<RequestId> = self.planner.waiting().map(|request| request.id).collect();
                if waiting.is_empty() {
                    return;
                }
                Event::RequestWithdrawn(self.draw.pick(&waiting))
            }
            (7..12, Some(lease)) => Event::LeaseEnded(lease),
            _ => {
                self.next_id += 1;
                Event::RequestAdded(random_request(&mut self.draw, self.next_id, self.now))
            }
        };
        // Some events cannot be now, such as an end before its start: refused, they change nothing.
        let _refused = self.planner.apply(event);
    }

    fn step_and_commit(&mut self) {
        let plan = self.planner.tick(self.now);
        let mut next = self.next_id * 1_000;
        self.planner
            .commit(&plan, self.now, |_| {
                next += 1;
                LeaseId(next)
            })
            .unwrap();
        self.next_id += 1;
    }

    /// A planner that is told only what is true now.
    pub(super) fn rebuilt(&self) -> Planner {
        let mut planner = Planner::new(self.planner.fleet().clone()).unwrap();
        for lease in self.planner.leases() {
            planner.apply(Event::LeaseStarted(lease.clone())).unwrap();
        }
        for request in self.planner.waiting() {
            planner.apply(Event::RequestAdded(request.clone())).unwrap();
        }
        for reservation in self.planner.reservations() {
            planner.apply(Event::ReservationTold(reservation)).unwrap();
        }
        planner
    }
}

#[test]
fn a_planner_built_anew_plans_the_same_as_one_that_lived() {
    let mut stopped = 0;
    for seed in 0..20 {
        let mut site = Site::new(seed);
        for round in 0..60 {
            site.now = site.now.plus(i64::try_from(site.draw.below(40)).unwrap());
            for _ in 0..site.draw.below(6) {
                site.event();
            }
            site.planner.settle();
            site.planner.state.check_counters();
            let stepped = site.planner.clone().tick(site.now);
            let planned = site.planner.clone().plan(site.now);
            assert_eq!(stepped.placements, planned.placements, "seed {seed}, round {round}: a step decides as a plan");
            let rebuilt = site.rebuilt().plan(site.now);
            assert_eq!(rebuilt.placements, planned.placements, "seed {seed}, round {round}");
            assert_eq!(rebuilt.reservations, planned.reservations, "seed {seed}, round {round}");
            assert_eq!(rebuilt.hash(), planned.hash(), "seed {seed}, round {round}");
            assert_eq!(
                stepped.preemptions, planned.preemptions,
                "seed {seed}, round {round}: a step decides as a plan"
            );
            stopped += planned.preemptions.len();
            site.step_and_commit();
            site.planner.state.check_counters();
        }
    }
    assert!(stopped > 0, "some had to give way");
}

#[test]
fn all_is_free_again_when_every_lease_has_ended() {
    let empty = Planner::new(site(60_000)).unwrap();
    for seed in 100..110 {
        let mut site = Site::new(seed);
        for _ in 0..40 {
            site.event();
            site.step_and_commit();
        }
        let requests: Vec<RequestId> = site.planner.waiting().map(|request| request.id).collect();
        for request in requests {
            site.planner.apply(Event::RequestWithdrawn(request)).unwrap();
        }
        let leases: Vec<LeaseId> = site.planner.leases().map(|lease| lease.id).collect();
        for lease in leases {
            site.planner.apply(Event::LeaseEnded(lease)).unwrap();
        }
        assert_eq!(site.planner.state.nodes.free, empty.state.nodes.free, "seed {seed}");
        for queue in 0..4 {
            assert_eq!(site.planner.shares.used(QueueId(queue)), Amount::default(), "seed {seed}, queue {queue}");
        }
        for point in 0..3 {
            assert_eq!(site.planner.power.committed(PowerId(point)), 0, "seed {seed}, point {point}");
        }
        assert!(site.planner.promises.len() == 0, "seed {seed}");
    }
}

pub(super) fn add(planner: &mut Planner, request: Request) {
    planner.apply(Event::RequestAdded(request)).unwrap();
}

fn racks(planner: &Planner, grants: &[crate::plan::Grant]) -> usize {
    let table = &planner.state.topology.tables()[planner.state.topology.table_of(Level::Rack).unwrap()];
    let mut racks: Vec<u32> =
        grants.iter().map(|grant| table.domain_of[node_of(&planner.state, grant.node).at()]).collect();
    racks.dedup();
    racks.len()
}

#[test]
fn a_gang_lies_in_the_smallest_domain_that_holds_it() {
    let mut planner = Planner::new(site(1_000_000)).unwrap();
    add(&mut planner, request(1, Gpus::Whole(8), 4));
    add(&mut planner, request(2, Gpus::Whole(8), 6));
    let plan = planner.plan(At(0));
    assert_eq!(plan.placements.len(), 2);
    assert_eq!(racks(&planner, &plan.placements[0].grants), 1);
    assert_eq!(racks(&planner, &plan.placements[1].grants), 2);
    let GpuGrant::Whole(mask) = plan.placements[0].grants[0].gpus else { panic!("whole GPUs were asked for") };
    assert_eq!(mask, 0xFF);
}

#[test]
fn a_blocked_gang_is_promised_a_start_and_short_runs_fill_the_time_before() {
    let mut planner = Planner::new(site(1_000_000)).unwrap();
    // Everything but four nodes runs for a while.
    let mut long = request(1, Gpus::Whole(8), 28);
    long.run_seconds = Some(1_000);
    add(&mut planner, long);
    let plan = planner.plan(At(0));
    planner.commit(&plan, At(0), |_| LeaseId(1)).unwrap();
    add(&mut planner, request(2, Gpus::Whole(8), 32));
    let mut too_long = request(3, Gpus::Whole(8), 1);
    too_long.run_seconds = Some(1_001);
    add(&mut planner, too_long);
    let mut short = request(4, Gpus::Whole(8), 2);
    short.run_seconds = Some(1_000);
    add(&mut planner, short);
    let plan = planner.plan(At(0));
    assert_eq!(plan.reservations.len(), 1);
    assert_eq!(plan.reservations[0].starts_at, At(1_000));
    let started: Vec<RequestId> = plan.placements.iter().map(|placement| placement.request).collect();
    assert_eq!(started, [RequestId(4)]);
    planner.commit(&plan, At(0), |_| LeaseId(2)).unwrap();
    planner.apply(Event::LeaseEnded(LeaseId(1))).unwrap();
    planner.apply(Event::LeaseEnded(LeaseId(2))).unwrap();
    let plan = planner.tick(At(1_000));
    assert_eq!(plan.placements.len(), 1, "the promise is kept at its time");
    assert_eq!(plan.placements[0].request, RequestId(2));
}

/// All but four nodes run until 1,000, and request 2 of queue 0 is promised all of them from then on; 3 and 4 of the
/// same queue, of one node, wait behind it.
fn with_a_promise_for_all_nodes() -> Planner {
    let mut planner = Planner::new(site(1_000_000)).unwrap();
    add(&mut planner, Request { queue: QueueId(3), ..request(1, Gpus::Whole(8), 28) });
    let plan = planner.plan(At(0));
    planner.commit(&plan, At(0), |_| LeaseId(1)).unwrap();
    add(&mut planner, request(2, Gpus::Whole(8), 32));
    for id in 3..=4 {
        add(&mut planner, Request { run_seconds: Some(50_000), ..request(id, Gpus::Whole(8), 1) });
    }
    let plan = planner.plan(At(0));
    assert_eq!((started(&plan), plan.reservations.len()), (vec![], 1));
    planner.commit(&plan, At(0), |_| LeaseId(0)).unwrap();
    planner
}

fn started(plan: &Plan) -> Vec<u64> {
    plan.placements.iter().map(|placement| placement.request.0).collect()
}

/// What is in the way of a request, by a plan and by `why`.
fn in_the_way(planner: &mut Planner, plan: &Plan, request: u64) -> Vec<Cause> {
    let (_, why) = plan.waiting.iter().find(|(waiting, _)| waiting.0 == request).unwrap();
    let why = &plan.reasons[*why as usize];
    assert_eq!(planner.why(RequestId(request), plan.at).as_ref(), Some(why));
    why.obstacles().map(|part| part.cause).collect()
}

/// What falls under the promise of `with_a_promise_for_all_nodes`, and rises again.
fn fall_under_a_promise(falls: &Event, rises: &Event, is_it: fn(&Cause) -> bool) {
    let mut planner = with_a_promise_for_all_nodes();
    let promised = planner.reservations();
    planner.apply(falls.clone()).unwrap();
    assert_eq!(planner.reservations(), promised, "it stands: the other may rise again");
    planner.apply(Event::LeaseEnded(LeaseId(1))).unwrap();
    for now in [At(900), At(1_000), At(1_600)] {
        let plan = planner.plan(now);
        assert_eq!((started(&plan), planner.reservations()), (vec![], promised.clone()), "{now:?}");
        let blocks = in_the_way(&mut planner, &plan, 2);
        assert!(blocks.iter().any(is_it), "{now:?}: {blocks:?}");
        assert_eq!(planner.tick(now).placements, plan.placements);
    }
    let mut risen = planner.clone();
    risen.apply(rises.clone()).unwrap();
    assert_eq!(started(&risen.tick(At(1_600))), [2], "as promised");
    // For ten minutes after its instant a promise waits for that; then others have the nodes, as far as what fell lets.
    let plan = planner.plan(At(1_601));
    assert_eq!(started(&plan), [3], "and one node is all that is left");
    assert!(!planner.reservations().contains(&promised[0]));
    let blocks = in_the_way(&mut planner, &plan, 2);
    assert!(blocks.iter().any(is_it), "{blocks:?}");
    let blocks = in_the_way(&mut planner, &plan, 4);
    assert!(blocks.iter().any(is_it), "{blocks:?}");
}

#[test]
fn a_quota_that_falls_under_a_promise_holds() {
    let told = |limit| Event::QuotaChanged { queue: QueueId(0), weight: 1, guaranteed: Amount::default(), limit };
    let rest = 1 << 40;
    let one_node = Amount { gpu_milli: 8_000, cpu_milli: rest, memory_mib: rest, watts: rest };
    fall_under_a_promise(&told(Some(one_node)), &told(None), |cause| {
        matches!(cause, Cause::Quota { queue: QueueId(0), limit: 8_000, .. })
    });
}

#[test]
fn a_cap_that_falls_under_a_promise_holds() {
    let told = |cap_watts| Event::CapChanged { power: PowerId(0), cap_watts };
    // What is kept for another class, and one node.
    fall_under_a_promise(&told(4_000 + i64::from(PEAK_WATTS)), &told(1_000_000), |cause| {
        matches!(cause, Cause::Power { power: PowerId(0), .. })
    });
}

/// A part of what a plan starts and promises, drawn; what it stops and moves stays out.
fn part_of(plan: &Plan, draw: &mut Draw) -> Plan {
    let mut part = Plan::default();
    part.placements.extend(plan.placements.iter().filter(|_| draw.below(2) == 0).cloned());
    part.reservations.extend(plan.reservations.iter().filter(|_| draw.below(2) == 0).cloned());
    part
}

#[test]
fn of_a_plan_carried_out_in_part_only_that_part_stays() {
    let (mut starts, mut promises) = ([0, 0], [0, 0]);
    for seed in 200..220 {
        let mut site = Site::new(seed);
        let mut told: BTreeMap<RequestId, Reservation> = BTreeMap::new();
        for round in 0..60 {
            site.now = site.now.plus(i64::try_from(site.draw.below(40)).unwrap());
            for _ in 0..site.draw.below(6) {
                site.event();
            }
            let anew = {
                let mut settled =
                    Site { planner: site.planner.clone(), draw: Draw(0), now: site.now, next_id: site.next_id };
                settled.planner.settle();
                settled.planner.state.check_counters();
                for reservation in settled.planner.reservations() {
                    let stands = told.get_mut(&reservation.request).map(|told| {
                        told.stops.retain(|lease| settled.planner.state.leases.find(*lease).is_some());
                        &*told
                    });
                    assert_eq!(Some(&reservation), stands, "seed {seed}, round {round}: nobody was told of it");
                }
                let rebuilt = settled.rebuilt();
                assert_same_taken(&settled.planner, &rebuilt);
                rebuilt
            }
            .plan(site.now);
            let stepped = site.planner.clone().tick(site.now);
            let plan = site.planner.plan(site.now);
            assert_eq!(anew.placements, plan.placements, "seed {seed}, round {round}");
            assert_eq!(anew.reservations, plan.reservations, "seed {seed}, round {round}");
            assert_eq!(anew.hash(), plan.hash(), "seed {seed}, round {round}");
            assert_eq!(stepped.placements, plan.placements, "seed {seed}, round {round}");
            assert_eq!(stepped.preemptions, plan.preemptions, "seed {seed}, round {round}");
            let part = part_of(&plan, &mut site.draw);
            let mut next = site.next_id * 1_000;
            site.next_id += 1;
            site.planner
                .commit(&part, site.now, |_| {
                    next += 1;
                    LeaseId(next)
                })
                .unwrap();
            count(&mut starts, part.placements.len(), plan.placements.len());
            count(&mut promises, part.reservations.len(), plan.reservations.len());
            told.extend(part.reservations.into_iter().map(|reservation| (reservation.request, reservation)));
        }
    }
    let seen = starts.into_iter().chain(promises).min();
    assert!(seen > Some(100), "{starts:?} starts and {promises:?} promises told and left out");
}

fn count(seen: &mut [usize; 2], told: usize, all: usize) {
    seen[0] += told;
    seen[1] += all - told;
}

/// Nodes, quotas and watts are taken alike in both.
fn assert_same_taken(left: &Planner, right: &Planner) {
    assert_eq!(left.state.nodes.free, right.state.nodes.free);
    assert_eq!(left.state.nodes.reserved, right.state.nodes.reserved);
    for queue in 0..4 {
        assert_eq!(left.shares.used(QueueId(queue)), right.shares.used(QueueId(queue)), "queue {queue}");
    }
    for point in 0..3 {
        assert_eq!(left.power.committed(PowerId(point)), right.power.committed(PowerId(point)), "point {point}");
    }
}

#[test]
fn each_class_of_nodes_has_a_promise_for_its_own_first_in_line() {
    let mut fleet = site(1_000_000);
    fleet.policy.reservations = 1;
    let mut planner = Planner::new(fleet).unwrap();
    add(&mut planner, Request { queue: QueueId(3), ..request(1, Gpus::Whole(8), 32) });
    let plan = planner.plan(At(0));
    planner.commit(&plan, At(0), |_| LeaseId(1)).unwrap();
    for (id, models) in [(2, 0b01), (3, 0b10), (4, 0b01), (5, 0b10), (6, 0)] {
        let mut asked = request(id, Gpus::Whole(8), 4);
        asked.shape.models = models;
        add(&mut planner, asked);
    }
    let promised = |plan: &Plan| plan.reservations.iter().map(|one| one.request.0).collect::<Vec<_>>();
    let plan = planner.plan(At(0));
    assert_eq!(promised(&plan), [2, 3], "one for each model; who takes any is behind both");
    planner.commit(&plan, At(0), |_| LeaseId(0)).unwrap();
    planner.apply(Event::RequestWithdrawn(RequestId(3))).unwrap();
    assert_eq!(promised(&planner.clone().step(At(1))), [5], "and the next of that model, not of the other");
    assert_eq!(promised(&planner.plan(At(1))), [2, 5]);
}
