//! A planner, and beside it a plain record of what it was told.

use std::collections::{BTreeMap, BTreeSet};

use galerne_planner::check::{Before, check_plan};
use galerne_planner::event::{Event, Forecast};
use galerne_planner::fleet::{FleetSpec, Health, Lease, QueueSpec};
use galerne_planner::plan::{Plan, Reservation};
use galerne_planner::planner::Planner;
use galerne_planner::request::{Request, Shape};
use galerne_planner::units::{At, LeaseId, RequestId};

use super::chance;
use crate::fixture::{self, Dice};

/// Most requests that wait in a world; more come only after some have gone.
const MOST_WAITING: usize = 24;

pub(crate) struct World {
    seed: u64,
    pub(crate) dice: Dice,
    planner: Planner,
    pub(crate) now: At,
    pub(crate) next_id: u64,
    fleet: FleetSpec,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    /// Promises that were told back.
    promises: BTreeMap<RequestId, Reservation>,
    /// What the last pass proposed to start: a promise that it would make good is kept with it until the next pass.
    proposed: BTreeSet<RequestId>,
    forecast: Option<Forecast>,
    demand: Option<Vec<(Shape, u32)>>,
    pub(crate) hashes: Vec<[u8; 32]>,
    pub(crate) seen: Seen,
    /// What was told since the last pass, for the text of a failure.
    recent: Vec<Event>,
}

/// How often what happened.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    events: u64,
    refused: u64,
    plans: u64,
    starts: u64,
    gangs: u64,
    promises: u64,
    kept: u64,
    preemptions: u64,
    moves: u64,
    holds: u64,
    rebuilt: u64,
    excursions: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.refused += other.refused;
        self.plans += other.plans;
        self.starts += other.starts;
        self.gangs += other.gangs;
        self.promises += other.promises;
        self.kept += other.kept;
        self.preemptions += other.preemptions;
        self.moves += other.moves;
        self.holds += other.holds;
        self.rebuilt += other.rebuilt;
        self.excursions += other.excursions;
    }

    pub(crate) const fn covers_all(&self) -> bool {
        self.events > 0
            && self.refused > 0
            && self.starts > 0
            && self.gangs > 0
            && self.promises > 0
            && self.kept > 0
            && self.holds > 0
            && self.preemptions > 0
            && self.moves > 0
            && self.rebuilt > 0
            && self.excursions > 0
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut fleet = fixture::fleet();
        fleet.policy.reservations = dice.pick(&[0, 2, 4]);
        fleet.policy.preemptions = dice.pick(&[0, 1, 2, 8]);
        fleet.policy.preemption_loss_milli = dice.pick(&[250, 250, 4_000]);
        fleet.policy.moves = dice.pick(&[0, 2, 4]);
        Self {
            seed,
            dice,
            planner: Planner::new(fleet.clone()).unwrap(),
            now: At(10_000),
            next_id: 0,
            fleet,
            leases: BTreeMap::new(),
            requests: BTreeMap::new(),
            promises: BTreeMap::new(),
            proposed: BTreeSet::new(),
            forecast: None,
            demand: None,
            hashes: Vec::new(),
            seen: Seen::default(),
            recent: Vec::new(),
        }
    }

    pub(crate) fn live(&mut self, events: u32) {
        for _ in 0..events {
            let event = if self.dice.hits(4) { chance::bad_event(self) } else { chance::event(self) };
            let is_crowded = self.requests.len() >= MOST_WAITING && matches!(event, Event::RequestAdded(_));
            if !is_crowded {
                self.tell(event);
            }
            if self.dice.hits(20) {
                if self.dice.hits(25) { self.decide() } else { self.go_on() }
            }
            if self.dice.hits(1) {
                self.compare_with_rebuilt();
                self.make_an_excursion();
            }
            self.now = self.now.plus(i64::try_from(self.dice.below(120)).unwrap());
        }
    }

    /// All that the planner decides now, without changing it.
    pub(crate) fn full_plan(&self) -> Plan {
        self.planner.clone().plan(self.now)
    }

    fn tell(&mut self, event: Event) {
        self.seen.events += 1;
        self.recent.push(event.clone());
        let before = self.planner.reservations();
        match self.planner.apply(event.clone()) {
            Ok(()) => {
                self.record(&event);
                self.account_for_promises(&event);
            }
            Err(_) => {
                self.seen.refused += 1;
                // What was only proposed may be gone; what was told stays.
                let held = self.planner.reservations();
                let told = |promise: &&Reservation| self.promises.get(&promise.request) == Some(promise);
                let proposed = |promise: &&Reservation| self.proposed.contains(&promise.request);
                let told = |promise: &&Reservation| told(promise) && !proposed(promise);
                let lost: Vec<_> = before.iter().filter(told).filter(|promise| !held.contains(promise)).collect();
                assert!(lost.is_empty(), "seed {}: {lost:?} went after the refused {event:?}", self.seed);
                self.compare_records(&event);
            }
        }
    }

    /// What the planner says it holds is what it was told.
    fn compare_records(&self, event: &Event) {
        let seed = self.seed;
        assert!(self.planner.leases().eq(self.leases.values()), "seed {seed}: other leases after {event:?}");
        assert!(self.planner.waiting().eq(self.requests.values()), "seed {seed}: other requests after {event:?}");
        assert_eq!(self.planner.fleet(), &self.fleet, "seed {seed}: another fleet after {event:?}");
    }

    fn record(&mut self, event: &Event) {
        match event.clone() {
            Event::NodeHealth { node, health } => self.node(node.0).health = health,
            Event::NodeHeld { node, until } => self.node(node.0).hold_until = until,
            Event::NodeFailed { node } => self.node(node.0).failures += 1,
            Event::LeaseStarted(lease) => {
                self.requests.remove(&lease.request.id);
                self.leases.insert(lease.id, lease);
            }
            Event::LeaseEnded(lease) => {
                self.leases.remove(&lease);
                self.promises.values_mut().for_each(|promise| promise.stops.retain(|other| *other != lease));
            }
            Event::LeaseExtended { lease, ends_at } => self.leases.get_mut(&lease).unwrap().ends_at = ends_at,
            Event::LeaseSaved { lease, saved_at } => self.leases.get_mut(&lease).unwrap().saved_at = saved_at,
            Event::RequestAdded(request) => drop(self.requests.insert(request.id, request)),
            Event::RequestChanged(request) => {
                let old = &self.requests[&request.id];
                let (submitted_at, order) = (old.submitted_at, old.order);
                self.requests.insert(request.id, Request { submitted_at, order, ..request });
            }
            Event::RequestWithdrawn(request) => drop(self.requests.remove(&request)),
            Event::ReservationTold(promise) => drop(self.promises.insert(promise.request, promise)),
            Event::CapChanged { power, cap_watts } => self.fleet.power[power.0 as usize].cap_watts = cap_watts,
            Event::QuotaChanged { queue, weight, guaranteed, limit } => {
                let spec = &mut self.fleet.queues[queue.0 as usize];
                *spec = QueueSpec { parent: spec.parent, weight, guaranteed, limit };
            }
            Event::ForecastChanged(forecast) => self.forecast = Some(forecast),
            Event::DemandTold(demand) => self.demand = Some(demand),
        }
    }

    fn node(&mut self, node: u64) -> &mut galerne_planner::fleet::NodeSpec {
        &mut self.fleet.nodes[usize::try_from(node - 1).unwrap()]
    }

    /// A promise that was told goes only for a reason that the event gives.
    fn account_for_promises(&mut self, event: &Event) {
        let held = self.planner.reservations();
        let seed = self.seed;
        let (fleet, requests, leases, proposed) = (&self.fleet, &self.requests, &self.leases, &self.proposed);
        self.promises.retain(|request, promise| {
            if held.contains(promise) || requests.contains_key(request) && proposed.contains(request) {
                return true;
            }
            let on = |node: &galerne_planner::units::NodeId| promise.nodes.contains(node);
            let is_lost = fleet.nodes.iter().any(|node| {
                let is_held = node.hold_until.is_some_and(|until| until > promise.starts_at);
                on(&node.id) && (node.health != Health::Ready || is_held)
            });
            let stays = |lease: &Lease| {
                lease.grants.iter().any(|grant| on(&grant.node))
                    && lease.ends_at.is_none_or(|end| end > promise.starts_at)
            };
            let is_free_to_go = !requests.contains_key(request)
                || matches!(event, Event::RequestChanged(changed) if changed.id == *request)
                || is_lost
                || leases.values().any(stays);
            assert!(is_free_to_go, "seed {seed}: {promise:?} went after {event:?}");
            false
        });
    }

    /// A pass as in daily work.
    fn go_on(&mut self) {
        let plan = if self.dice.hits(50) { self.planner.step(self.now) } else { self.planner.tick(self.now) };
        let held = self.planner.reservations();
        self.promises.retain(|_, promise| held.contains(promise));
        self.proposed = plan.placements.iter().map(|start| start.request).collect();
        self.recent.clear();
        self.note(&plan);
        if self.dice.hits(90) {
            self.carry_out(&plan);
        }
    }

    /// A pass: checked, compared with one from scratch, and mostly carried out.
    fn decide(&mut self) {
        let seed = self.seed;
        let mut anew = self.planner.clone();
        let promised: Vec<Reservation> = self
            .planner
            .reservations()
            .into_iter()
            .filter(|held| self.promises.get(&held.request) == Some(held))
            .collect();
        let full = anew.plan(self.now);
        let started = self.planner.clone().step(self.now);
        assert!(
            started.placements == full.placements && started.holds == full.holds,
            "seed {seed} at {:?}: a step starts\n{started:#?}\nand a plan\n{full:#?}",
            self.now
        );
        let part = self.planner.tick(self.now);
        let new: Vec<_> = full.reservations.iter().filter(|promise| !promised.contains(promise)).cloned().collect();
        let same = part.placements == full.placements
            && part.preemptions == full.preemptions
            && part.holds == full.holds
            && part.moves == full.moves
            && part.reservations == new;
        assert!(
            same,
            "seed {seed} at {:?}: a tick decides\n{part:#?}\nand a plan\n{full:#?}\nafter {:#?}\nwith promises {promised:#?}",
            self.now, self.recent
        );
        self.recent.clear();
        // Reasons are shared by requests that ask the same: a step gives each new one its own, which may say more.
        for (request, _) in &part.waiting {
            assert!(full.waiting.iter().any(|(other, _)| other == request), "seed {seed}: {request:?} does not wait");
        }
        let (leases, requests): (Vec<_>, Vec<_>) =
            (self.leases.values().cloned().collect(), self.requests.values().cloned().collect());
        let before = Before { fleet: &self.fleet, leases: &leases, requests: &requests, reservations: &promised };
        let violations = check_plan(&before, &full);
        assert!(violations.is_empty(), "seed {seed} at {:?}: {violations:#?}\n{full:#?}", self.now);
        // What is gone now is gone rightly, or the checker would have said so.
        let held = self.planner.reservations();
        let starts = |request: &RequestId| full.placements.iter().any(|start| start.request == *request);
        self.promises.retain(|request, promise| held.contains(promise) || starts(request));
        self.proposed = full.placements.iter().map(|start| start.request).collect();
        self.hashes.push(full.hash());
        self.note(&full);
        if self.dice.hits(90) {
            self.carry_out(&full);
        }
    }

    fn note(&mut self, plan: &Plan) {
        self.seen.plans += 1;
        self.seen.starts += plan.placements.len() as u64;
        self.seen.gangs += plan.placements.iter().filter(|start| start.grants.len() > 1).count() as u64;
        self.seen.promises += plan.reservations.len() as u64;
        self.seen.kept +=
            plan.placements.iter().filter(|start| self.promises.contains_key(&start.request)).count() as u64;
        self.seen.preemptions += plan.preemptions.len() as u64;
        self.seen.moves += plan.moves.len() as u64;
        self.seen.holds += plan.holds.len() as u64;
    }

    /// Starts what the plan starts, now and then not all of it, and stops what it stops.
    fn carry_out(&mut self, plan: &Plan) {
        for placement in &plan.placements {
            // Who leaves a promised start out breaks the promise himself: others may have its nodes by now.
            if self.dice.hits(5) && !self.promises.contains_key(&placement.request) {
                continue;
            }
            let request = self.requests[&placement.request].clone();
            self.next_id += 1;
            let lease = Lease {
                id: LeaseId(self.next_id),
                ends_at: request.run_seconds.map(|seconds| self.now.plus(i64::from(seconds))),
                request,
                grants: placement.grants.clone(),
                started_at: self.now,
                saved_at: self.now,
            };
            self.tell_all_right(Event::LeaseStarted(lease));
        }
        for promise in &plan.reservations {
            self.tell_all_right(Event::ReservationTold(promise.clone()));
        }
        for preemption in &plan.preemptions {
            // Some take their time.
            if self.dice.hits(70) {
                self.tell_all_right(Event::LeaseEnded(preemption.lease));
            }
        }
    }

    fn tell_all_right(&mut self, event: Event) {
        let refused = self.seen.refused;
        self.tell(event.clone());
        assert_eq!(self.seen.refused, refused, "seed {}: a plan cannot be carried out: {event:?}", self.seed);
    }

    /// Whatever it lived through, it decides as one that was told only what is there, in another order.
    fn compare_with_rebuilt(&mut self) {
        self.seen.rebuilt += 1;
        // What the last pass proposed and nobody carried out is not told to the other.
        let kept = |promise: &Reservation| self.promises.get(&promise.request) == Some(promise);
        let mut rebuilt = Planner::new(self.fleet.clone()).unwrap();
        for lease in self.leases.values().rev() {
            rebuilt.apply(Event::LeaseStarted(lease.clone())).unwrap();
        }
        for request in self.requests.values().rev() {
            rebuilt.apply(Event::RequestAdded(request.clone())).unwrap();
        }
        for promise in self.planner.reservations().into_iter().filter(kept) {
            rebuilt.apply(Event::ReservationTold(promise)).unwrap();
        }
        if let Some(forecast) = &self.forecast {
            rebuilt.apply(Event::ForecastChanged(forecast.clone())).unwrap();
        }
        if let Some(demand) = &self.demand {
            rebuilt.apply(Event::DemandTold(demand.clone())).unwrap();
        }
        let (own, other) = (self.full_plan(), rebuilt.plan(self.now));
        if own.hash() != other.hash() {
            assert_eq!(own, other, "seed {} at {:?}: a planner built anew decides otherwise", self.seed, self.now);
        }
    }

    /// There and back leaves no trace.
    fn make_an_excursion(&mut self) {
        self.seen.excursions += 1;
        let wanted = self.full_plan();
        let mut away = self.planner.clone();
        let mut go = |events: &[Event]| {
            for event in events {
                if away.apply(event.clone()).is_err() {
                    return;
                }
            }
        };
        self.next_id += 1;
        let id = self.next_id;
        let request = chance::request(self, id);
        go(&[Event::RequestAdded(request), Event::RequestWithdrawn(RequestId(id))]);
        let free = self.fleet.nodes.iter().find(|node| {
            let is_used = self.leases.values().any(|lease| lease.grants.iter().any(|grant| grant.node == node.id));
            let is_promised = self.promises.values().any(|promise| promise.nodes.contains(&node.id));
            !is_used && !is_promised && node.health == Health::Ready
        });
        if let Some(node) = free {
            let lease = fixture::lease(id, node.id.0, 3);
            go(&[Event::LeaseStarted(Lease { id: LeaseId(id), ..lease }), Event::LeaseEnded(LeaseId(id))]);
            let health = |health| Event::NodeHealth { node: node.id, health };
            go(&[health(Health::Down), health(Health::Cordoned), health(Health::Ready)]);
        }
        let point = galerne_planner::units::PowerId(2);
        let cap_watts = self.fleet.power[2].cap_watts;
        go(&[Event::CapChanged { power: point, cap_watts: 5_000 }, Event::CapChanged { power: point, cap_watts }]);
        let found = away.plan(self.now);
        if wanted.hash() != found.hash() {
            assert_eq!(wanted, found, "seed {} at {:?}: there and back left a trace", self.seed, self.now);
        }
    }
}
