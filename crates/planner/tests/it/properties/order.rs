//! The same fleet, leases and requests in another order of their lists give the same plan, to the last bit.

use galerne_planner::event::Event;
use galerne_planner::fleet::{FleetSpec, Lease};
use galerne_planner::plan::Plan;
use galerne_planner::planner::Planner;
use galerne_planner::request::{Request, Stop};
use galerne_planner::units::{At, LeaseId, QueueId, TenantClass};

use crate::events::chance;
use crate::fixture::{self, Dice};
use crate::oracle::case::Case;

const NOW: At = At(10_000);

struct Scene {
    fleet: FleetSpec,
    leases: Vec<Lease>,
    requests: Vec<Request>,
}

impl Scene {
    /// A dozen nodes on which half of what was asked first runs, and others wait.
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let fleet = fixture::fleet();
        let census = galerne_planner::validate::validate_fleet(&fleet).unwrap();
        let mut requests: Vec<Request> = Vec::new();
        for id in 1..=30 {
            let request = Request {
                queue: QueueId(dice.pick(&[1, 2, 3])),
                class: TenantClass(dice.pick(&[0, 0, 1])),
                priority: dice.pick(&[0, 0, 1, 5]),
                submitted_at: At(9_000 + i64::try_from(dice.below(900)).unwrap()),
                order: dice.below(3),
                shape: chance::shape(&mut dice),
                run_seconds: dice.pick(&[None, Some(600), Some(3_600)]),
                stop: dice.pick(&[Stop::Never, Stop::Restart]),
                ..fixture::request(id)
            };
            if census.check_request(&request).is_ok() {
                requests.push(request);
            }
        }
        let mut planner = Planner::new(fleet.clone()).unwrap();
        for request in requests.iter().filter(|request| request.id.0 % 2 == 0) {
            planner.apply(Event::RequestAdded(request.clone())).unwrap();
        }
        let plan = planner.plan(NOW);
        planner.commit(&plan, NOW, |placement| LeaseId(placement.request.0)).unwrap();
        let leases: Vec<Lease> = planner.leases().cloned().collect();
        requests.retain(|request| leases.iter().all(|lease| lease.request.id != request.id));
        Self { fleet, leases, requests }
    }

    fn shuffle(&mut self, dice: &mut Dice) {
        fn deal<T>(list: &mut [T], dice: &mut Dice) {
            for at in (1..list.len()).rev() {
                list.swap(at, usize::try_from(dice.below(at as u64 + 1)).unwrap());
            }
        }
        deal(&mut self.fleet.nodes, dice);
        deal(&mut self.leases, dice);
        deal(&mut self.requests, dice);
    }

    fn plan(&self) -> Plan {
        let mut planner = Planner::new(self.fleet.clone()).unwrap();
        for lease in &self.leases {
            planner.apply(Event::LeaseStarted(lease.clone())).unwrap();
        }
        for request in &self.requests {
            planner.apply(Event::RequestAdded(request.clone())).unwrap();
        }
        planner.plan(NOW.plus(60))
    }
}

#[test]
fn lists_in_another_order_give_the_same_plan() {
    let (mut starts, mut promises, mut waiting) = (0, 0, 0);
    for seed in 0..200 {
        let mut scene = if seed % 2 == 0 {
            Scene::new(seed)
        } else {
            let Case { fleet, leases, requests } = Case::new(seed);
            Scene { fleet, leases, requests }
        };
        let plan = scene.plan();
        (starts, promises) = (starts + plan.placements.len(), promises + plan.reservations.len());
        waiting += plan.waiting.len();
        for again in 0..3 {
            scene.shuffle(&mut Dice(seed << 8 | again));
            let other = scene.plan();
            if plan.hash() != other.hash() {
                assert_eq!(plan, other, "seed {seed}: another order, another plan");
            }
        }
    }
    assert!(starts > 0 && promises > 0 && waiting > 0, "{starts} starts, {promises} promises, {waiting} wait");
}
