//! Random life on tight fleets that are full from the start: whatever was lived through, all ways to ask decide the
//! same, and no rule is broken.

use super::*;
use crate::check::{Before, check_plan};
use crate::fleet::{DomainSpec, Health, Level};
use crate::plan::GpuGrant;
use crate::request::{Nodes, Stop};
use crate::units::{DomainId, NodeId, PowerId, QueueId, ResidencyId, TenantClass};

/// `units` units of two racks of four nodes, the first of each unit of another residency.
fn fleet(draw: &mut Draw) -> FleetSpec {
    let mut fleet = site(1_000_000);
    let units = draw.pick(&[2_u32, 4, 4, 9, 12]);
    let sample = fleet.nodes[0].clone();
    let mut domains = vec![DomainSpec { level: Level::Site, parent: None }];
    let mut nodes = Vec::new();
    let mut push = |level, parent: Option<u32>| {
        domains.push(DomainSpec { level, parent: parent.map(DomainId) });
        u32::try_from(domains.len() - 1).unwrap()
    };
    for unit in 0..units {
        let pod = push(Level::Unit, Some(0));
        for rack in 0..2 {
            let rack_ix = push(Level::Rack, Some(pod));
            for half in 0..2 {
                let fabric = push(Level::NvLink, None);
                for place in 0..2 {
                    let number = unit * 8 + rack * 4 + half * 2 + place;
                    nodes.push(crate::fleet::NodeSpec {
                        id: NodeId(u64::from(number) + 1),
                        domain: DomainId(rack_ix),
                        fabric: (number % 11 != 5).then_some(DomainId(fabric)),
                        power: PowerId(1 + unit % 2),
                        residency: ResidencyId(u8::from(place == 0)),
                        model: crate::units::ModelId(u8::from(unit % 4 == 3)),
                        ..sample.clone()
                    });
                }
            }
        }
    }
    fleet.domains = domains;
    fleet.nodes = nodes;
    let count = i64::from(units) * 8;
    let tight = draw.pick(&[10, 10, 8, 6]);
    fleet.power[0].cap_watts = 4_000 + count * 700 * tight / 8;
    fleet.power[1].cap_watts = 2_000 + count * 700 * tight / 14;
    fleet.power[2].cap_watts = 2_000 + count * 700 * tight / 14;
    for point in &mut fleet.power {
        point.floors = vec![(TenantClass(1), draw.pick(&[0, 700, 2_000]))];
    }
    let policy = &mut fleet.policy;
    policy.reservations = draw.pick(&[0, 1, 2, 4, 32]);
    policy.preemptions = draw.pick(&[0, 0, 1, 8]);
    policy.preemption_loss_milli = draw.pick(&[250, 4_000]);
    policy.nearness_milli = draw.pick(&[0, 100, 500, 2_000]);
    policy.nearness_seconds = draw.pick(&[300, 3_600, 100_000]);
    policy.nearness_reservations = draw.pick(&[0, 1, 4, 32]);
    policy.moves = draw.pick(&[0, 0, 2]);
    fleet
}

struct World {
    seed: u64,
    /// More gangs that prefer a level, with run times, and more leases that end when they said.
    is_tidy: bool,
    draw: Draw,
    planner: Planner,
    now: At,
    next_id: u64,
    units: u16,
    /// Promises that replaced others, and requests that waited for nearness.
    seen: [usize; 2],
    /// Events since the last plan.
    recent: Vec<Event>,
}

/// What stands before a plan.
struct Settled {
    planner: Planner,
    leases: Vec<crate::fleet::Lease>,
    requests: Vec<Request>,
    reservations: Vec<Reservation>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut draw = Draw(seed * 7919 + 13);
        let fleet = fleet(&mut draw);
        let units = u16::try_from(fleet.nodes.len() / 8).unwrap();
        let planner = Planner::new(fleet).unwrap();
        Self {
            seed,
            is_tidy: seed % 2 == 1,
            draw,
            planner,
            now: At(1_000),
            next_id: 0,
            units,
            seen: [0; 2],
            recent: Vec::new(),
        }
    }

    fn request(&mut self, id: u64) -> Request {
        let draw = &mut self.draw;
        let gpus = match draw.below(if self.is_tidy { 60 } else { 12 }) {
            0 => Gpus::Milli(draw.pick(&[300, 500])),
            1 => Gpus::Whole(0),
            2 => Gpus::Whole(4),
            3 => Gpus::Whole(1),
            4 => Gpus::Whole(7),
            _ => Gpus::Whole(8),
        };
        let mut asked = request(id, gpus, 1);
        if draw.below(if self.is_tidy { 2 } else { 4 }) > 0 {
            let min = draw
                .pick(if self.is_tidy { &[2, 3, 4, 4, 5] } else { &[2, 2, 3, 4, 5, 6, 8, 9, 12] })
                .min(self.units * 8);
            let more = draw.pick(&[0, 0, 0, 0, 2]);
            asked.shape.nodes = Nodes { min, max: (min + more).min(self.units * 8) };
        }
        asked.shape.within = match asked.shape.nodes.max {
            2 => draw.pick(&[None, None, None, Some(Level::Rack), Some(Level::Unit)]),
            3..=4 => draw.pick(&[None, None, None, Some(Level::Rack), Some(Level::Unit)]),
            5..=8 => draw.pick(&[None, None, None, Some(Level::Unit)]),
            _ => None,
        };
        asked.shape.prefer =
            draw.pick(&[None, Some(Level::NvLink), Some(Level::Rack), Some(Level::Unit), Some(Level::Unit)]);
        asked.shape.cpu_milli = draw.pick(&[1_000, 1_000, 1_000, 30_000]);
        if asked.shape.nodes.max <= 4 && asked.shape.within.is_none() {
            asked.shape.residencies = draw.pick(&[0, 0, 0, 1, 2]);
        }
        if self.units >= 4 && asked.shape.within.is_none() && asked.shape.residencies == 0 && asked.shape.nodes.max <= 8
        {
            asked.shape.models = draw.pick(&[0, 0, 0, 1, 2]);
        }
        asked.queue = draw.pick(&[QueueId(0), QueueId(0), QueueId(2), QueueId(3)]);
        asked.class = TenantClass(u8::from(draw.below(8) == 0));
        asked.stop = draw.pick(&[Stop::Never, Stop::Restart, Stop::Checkpoint { cost_seconds: 30 }]);
        asked.priority = draw.pick(&[0, 0, 0, 1, 5]);
        asked.submitted_at = self.now;
        asked.order = draw.below(3);
        asked.run_seconds = draw.pick(if self.is_tidy {
            &[Some(300), Some(700), Some(2_000), Some(4_000), Some(9_000)]
        } else {
            &[None, Some(50), Some(400), Some(400), Some(3_000), Some(3_000), Some(20_000)]
        });
        asked.not_before = if draw.below(20) == 0 { Some(self.now.plus(60)) } else { None };
        if draw.below(12) == 0 {
            asked.deadline =
                Some(self.now.plus(i64::from(asked.run_seconds.unwrap_or(10)) + draw.pick(&[10, 100, 2_000])));
            asked.deadline = asked.deadline.max(asked.not_before.map(|at| at.plus(30_000)));
        }
        if draw.below(15) == 0 {
            asked.near = self.planner.leases().next().map(|lease| lease.id);
        }
        asked
    }

    fn event(&mut self) {
        let node = NodeId(self.draw.below(u64::from(self.units) * 8) + 1);
        let leases: Vec<LeaseId> = self.planner.leases().map(|lease| lease.id).collect();
        let due: Vec<LeaseId> = self
            .planner
            .leases()
            .filter(|lease| lease.ends_at.is_some_and(|end| end <= self.now))
            .map(|lease| lease.id)
            .collect();
        let waiting: Vec<RequestId> = self.planner.waiting().map(|request| request.id).collect();
        if self.is_tidy && self.draw.below(3) == 0 && !due.is_empty() {
            let lease = self.draw.pick(&due);
            self.recent.push(Event::LeaseEnded(lease));
            self.planner.apply(Event::LeaseEnded(lease)).unwrap();
            return;
        }
        let event = match self.draw.below(40) {
            0 => Event::NodeHealth { node, health: self.draw.pick(&[Health::Cordoned, Health::Down]) },
            1..3 => Event::NodeHealth { node, health: Health::Ready },
            3 => Event::NodeHeld {
                node,
                until: self.draw.pick(&[None, Some(self.now.plus(50)), Some(self.now.plus(300))]),
            },
            4 => Event::NodeFailed { node },
            5..8 if !leases.is_empty() => {
                let ends_at = self.draw.pick(&[
                    None,
                    Some(self.now.plus(20)),
                    Some(self.now.plus(100)),
                    Some(self.now.plus(500)),
                    Some(self.now.plus(5_000)),
                ]);
                Event::LeaseExtended { lease: self.draw.pick(&leases), ends_at }
            }
            8 => {
                let power = PowerId(u32::try_from(self.draw.below(3)).unwrap());
                let cap_watts = self.draw.pick(&[12_000, 20_000, 40_000, 60_000, 100_000]);
                Event::CapChanged { power, cap_watts }
            }
            9 if !waiting.is_empty() => Event::RequestWithdrawn(self.draw.pick(&waiting)),
            10 if !waiting.is_empty() => {
                let id = self.draw.pick(&waiting).0;
                Event::RequestChanged(self.request(id))
            }
            11 if !leases.is_empty() => Event::LeaseSaved { lease: self.draw.pick(&leases), saved_at: self.now },
            12 => {
                let queue = QueueId(u32::try_from(self.draw.below(4)).unwrap());
                let rest = 1 << 50;
                let guaranteed = self.draw.pick(&[0, 0, 40_000, 100_000]);
                let limit = self.draw.pick(&[None, None, Some(64_000), Some(128_000)]);
                Event::QuotaChanged {
                    queue,
                    weight: self.draw.pick(&[1, 2]),
                    guaranteed: Amount { gpu_milli: guaranteed, ..Amount::default() },
                    limit: limit.map(|gpu_milli| Amount { gpu_milli, cpu_milli: rest, memory_mib: rest, watts: rest }),
                }
            }
            13..22 if !due.is_empty() => Event::LeaseEnded(self.draw.pick(&due)),
            22..25 if !leases.is_empty() => Event::LeaseEnded(self.draw.pick(&leases)),
            _ if waiting.len() < 16 => {
                self.next_id += 1;
                let id = self.next_id;
                Event::RequestAdded(self.request(id))
            }
            _ => return,
        };
        // Some cannot be: a gang larger than the residency it asks for.
        if self.planner.apply(event.clone()).is_ok() {
            self.recent.push(event);
        }
    }

    fn rebuilt(&self, settled: &Planner) -> Planner {
        let mut planner = Planner::new(settled.fleet().clone()).unwrap();
        for lease in settled.leases() {
            planner.apply(Event::LeaseStarted(lease.clone())).unwrap();
        }
        for request in settled.waiting() {
            planner.apply(Event::RequestAdded(request.clone())).unwrap();
        }
        for reservation in settled.reservations() {
            planner.apply(Event::ReservationTold(reservation)).unwrap();
        }
        planner
    }

    fn settled(&self) -> Settled {
        let mut planner = self.planner.clone();
        planner.settle();
        planner.state.check_counters();
        Settled {
            leases: planner.leases().cloned().collect(),
            requests: planner.waiting().cloned().collect(),
            reservations: planner.reservations(),
            planner,
        }
    }

    /// Step, tick, plan and a planner built anew decide the same, and break no rule.
    fn compare(&mut self, round: u32) {
        let (now, recent) = (self.now, &self.recent);
        let at = format!("seed {}, round {round}, {now:?}, since the last plan {recent:#?}", self.seed);
        let settled = self.settled();
        let anew = self.rebuilt(&settled.planner).plan(now);
        let mut full = self.planner.clone();
        let plan = full.plan(now);
        let mut ticked = self.planner.clone();
        let tick = ticked.tick(now);
        let step = self.planner.clone().step(now);
        assert_eq!(anew.placements, plan.placements, "built anew (left): {at}");
        assert_eq!(anew.reservations, plan.reservations, "built anew (left): {at}");
        assert_eq!(anew.preemptions, plan.preemptions, "built anew (left): {at}");
        assert_eq!(anew.hash(), plan.hash(), "built anew (left): {at}");
        let is_new = |one: &&Reservation| !settled.reservations.contains(one);
        let new: Vec<Reservation> = plan.reservations.iter().filter(is_new).cloned().collect();
        assert_eq!(tick.placements, plan.placements, "tick (left): {at}");
        assert_eq!(tick.reservations, new, "tick (left): {at}");
        assert_eq!(ticked.reservations(), full.reservations(), "after a tick (left): {at}");
        assert_eq!(tick.preemptions, plan.preemptions, "tick (left): {at}");
        assert_eq!(tick.moves, plan.moves, "tick (left): {at}");
        assert_eq!(tick.holds, plan.holds, "tick (left): {at}");
        assert_eq!(step.placements, plan.placements, "step (left): {at}");
        // Who is stopped for somebody is promised his nodes; a step stops nobody.
        if self.planner.fleet().policy.preemptions == 0 {
            assert_eq!(step.reservations, new, "step (left): {at}");
        }
        let Settled { planner, leases, requests, reservations } = &settled;
        assert_eq!(check_plan(&Before { fleet: planner.fleet(), leases, requests, reservations }, &plan), [], "{at}");
        let replaced = new.iter().filter(|one| reservations.iter().any(|old| old.request == one.request));
        self.seen[0] += replaced.count();
        self.seen[1] += full.pass.choosy.len();
    }

    /// Asks in one of the ways, and carries out what is said, a part of it or nothing.
    fn decide(&mut self, round: u32) {
        self.compare(round);
        let now = self.now;
        let mut plan = match self.draw.below(10) {
            0..4 => self.planner.step(now),
            4..7 => self.planner.tick(now),
            _ => self.planner.plan(now),
        };
        if self.draw.below(4) == 0 {
            plan.placements.retain(|_| self.draw.below(4) > 0);
        }
        if self.draw.below(6) == 0 {
            plan.reservations.retain(|_| self.draw.below(2) > 0);
        }
        if self.draw.below(8) == 0 {
            return;
        }
        self.recent.clear();
        let mut next = self.next_id * 1_000;
        self.next_id += 1;
        let started = self.planner.commit(&plan, now, |_| {
            next += 1;
            LeaseId(next)
        });
        started.unwrap();
        for preemption in &plan.preemptions {
            if self.draw.below(2) == 0 {
                self.planner.apply(Event::LeaseEnded(preemption.lease)).unwrap();
            }
        }
    }

    /// Leases on most nodes, as somebody else has left them.
    fn fill(&mut self) {
        for node in 1..=u64::from(self.units) * 8 {
            if self.draw.below(20) == 0 {
                let until = Some(self.now.plus(self.draw.pick(&[60, 300, 5_000])));
                self.planner.apply(Event::NodeHeld { node: NodeId(node), until }).unwrap();
            }
            if self.draw.below(4) == 0 {
                continue;
            }
            let parts: &[u16] = if self.draw.below(4) == 0 { &[0x0F, 0xF0] } else { &[0xFF] };
            for mask in parts {
                self.next_id += 1;
                let id = self.next_id;
                let gpus = u8::try_from(mask.count_ones()).unwrap();
                let mut asked = request(id * 1_000_000, Gpus::Whole(gpus), 1);
                asked.queue = self.draw.pick(&[QueueId(0), QueueId(2), QueueId(3)]);
                asked.stop = self.draw.pick(&[Stop::Never, Stop::Restart]);
                asked.priority = self.draw.pick(&[0, 1]);
                asked.shape.peak_watts = self.draw.pick(&[350, 700]);
                asked.shape.expected_watts = 0;
                let end = self.draw.pick(&[-100, -1, 0, 30, 61, 100, 300, 300, 900, 2_500, 9_000, 100_000]);
                let ends_at = (self.draw.below(6) > 0).then(|| self.now.plus(end));
                let grants = vec![crate::plan::Grant { node: NodeId(node), gpus: GpuGrant::Whole(*mask) }];
                let started_at = At(0);
                let lease = crate::fleet::Lease {
                    id: LeaseId(id * 1_000_000),
                    request: asked,
                    grants,
                    started_at,
                    ends_at,
                    saved_at: started_at,
                };
                self.planner.apply(Event::LeaseStarted(lease)).unwrap();
            }
        }
    }

    fn live(&mut self, rounds: u32) {
        if !self.seed.is_multiple_of(3) {
            self.fill();
        }
        for round in 0..rounds {
            self.now = self.now.plus(self.draw.pick(&[0, 0, 1, 10, 40, 59, 60, 61, 130, 400]));
            for _ in 0..self.draw.pick(&[0, 1, 1, 2, 3, 6]) {
                self.event();
            }
            self.decide(round);
        }
    }
}

#[test]
fn whatever_was_lived_through_all_ways_to_ask_decide_the_same() {
    let mut seen = [0, 0];
    for seed in 0..300 {
        let mut world = World::new(seed);
        world.live(25);
        seen = [seen[0] + world.seen[0], seen[1] + world.seen[1]];
    }
    assert!(seen[0] > 20 && seen[1] > 20, "{seen:?} promises replaced and waits for nearness");
}
