//! The planner: holds the state of a fleet, hears events, answers with plans.
//!
//! `plan` decides everything anew, `tick` only what events since the last answer could have changed; both run the same
//! pass, `tick` with the verdicts of before where nothing that could help has grown since. `step` runs the pass alone:
//! it stops and moves nobody. What a plan proposes stays taken until the next call, so that a caller who carries it out
//! and tells it back pays nothing twice; what was not told back by then is given back.
//!
//! Deliberately absent: the clock, I/O, chance, threads.

use crate::event::{Event, Forecast};
use crate::fair::Shares;
use crate::fleet::{Amount, FleetSpec, Lease};
use crate::plan::{Placement, Plan, Reservation};
use crate::power::PowerTree;
use crate::refusal::Refusal;
use crate::request::{Gpus, Request, Shape};
use crate::reserve::{Promise, Promises};
use crate::shapes::Shapes;
use crate::state::State;
use crate::state::topology::NodeIx;
use crate::units::{At, GPU_MILLI, LeaseId, RequestId};
use crate::validate::{Census, validate_fleet};
use crate::{gang, reserve};

mod answer;
mod apply;
mod hours;
mod nearness;
mod pass;
mod proposals;
mod repair;
mod requests;
mod single;
mod stopping;
#[cfg(test)]
mod tests;
mod turns;

pub(crate) use nearness::spanned;
use proposals::Proposals;
use requests::Requests;

/// A fleet, what runs on it, and what waits.
#[derive(Debug, Clone)]
pub struct Planner {
    spec: FleetSpec,
    census: Census,
    state: State,
    power: PowerTree,
    shares: Shares,
    shapes: Shapes,
    requests: Requests,
    promises: Promises,
    proposals: Proposals,
    forecast: Forecast,
    stamps: Stamps,
    gang_scratch: gang::Scratch,
    reserve_scratch: reserve::Scratch,
    pass: pass::Pass,
    marks: stopping::Marks,
    /// Nodes by what they have free, for reasons.
    memory: crate::explain::Census,
}

/// Counts of what could help a request beside free nodes.
#[derive(Debug, Clone, Copy, Default)]
struct Stamps {
    /// Watts were given back, or a cap rose.
    power: u64,
    /// A lease ends earlier than thought, or a promise was dropped.
    promises: u64,
}

impl Planner {
    /// A fleet on which nothing runs and for which nothing waits.
    ///
    /// # Errors
    /// The object and the rule that it breaks.
    pub fn new(spec: FleetSpec) -> Result<Self, Refusal> {
        let census = validate_fleet(&spec)?;
        let state = State::new(&spec);
        let policy = &spec.policy;
        Ok(Self {
            power: PowerTree::new(&spec.power),
            shares: Shares::new(capacity(&spec), &spec.queues),
            requests: Requests::new(spec.queues.len(), policy.ageing_seconds),
            census,
            state,
            spec,
            shapes: Shapes::default(),
            promises: Promises::default(),
            proposals: Proposals::default(),
            forecast: Forecast::default(),
            stamps: Stamps::default(),
            gang_scratch: gang::Scratch::default(),
            reserve_scratch: reserve::Scratch::default(),
            pass: pass::Pass::default(),
            marks: stopping::Marks::default(),
            memory: crate::explain::Census::default(),
        })
    }

    /// Everything, from scratch: all that starts, stops, moves, is promised or waits, at `now`.
    pub fn plan(&mut self, now: At) -> Plan {
        self.shapes.forget_verdicts();
        self.pass.forget_holds();
        self.settle();
        self.run_pass(now);
        self.preempt(now);
        let moves = self.moves(now);
        Plan { moves, ..self.full_answer(now) }
    }

    /// What changed since the last answer, at `now`: the same decisions as `plan`, and of what waits only requests
    /// that are new or changed, with what is in their way but without advice (`why` has it).
    pub fn tick(&mut self, now: At) -> Plan {
        self.settle();
        self.run_pass(now);
        self.preempt(now);
        let moves = self.moves(now);
        Plan { moves, ..self.short_answer(now) }
    }

    /// The same in microseconds, for after each event: what starts and what is promised. Who gives way to whom and
    /// what moves is decided by `tick` and `plan` only: it undoes the work of others and takes milliseconds, so that
    /// a caller asks for it now and then, as often as stopping is worth.
    pub fn step(&mut self, now: At) -> Plan {
        self.settle();
        self.run_pass(now);
        self.short_answer(now)
    }

    /// Tells the planner that a plan was carried out: a lease starts at `now` for every placement, named by `lease`,
    /// and every promise is kept from now on.
    ///
    /// # Errors
    /// The first placement or promise that does not fit what is known; those before it are taken.
    pub fn commit(
        &mut self,
        plan: &Plan,
        now: At,
        mut lease: impl FnMut(&Placement) -> LeaseId,
    ) -> Result<(), Refusal> {
        for placement in &plan.placements {
            let Some(slot) = self.requests.find(placement.request) else { continue };
            let request = self.requests.get(slot).request.clone();
            let ends_at = request.run_seconds.map(|seconds| now.plus(i64::from(seconds)));
            let id = lease(placement);
            let grants = placement.grants.clone();
            self.apply(Event::LeaseStarted(Lease { id, request, grants, started_at: now, ends_at, saved_at: now }))?;
        }
        for reservation in &plan.reservations {
            self.apply(Event::ReservationTold(reservation.clone()))?;
        }
        Ok(())
    }

    /// Promises that are kept, by request; those of the last plan that were not told back included, and those that it
    /// would make good until it is told that they were. Where it would replace one that was told, that one stands until
    /// the other is told.
    pub fn reservations(&self) -> Vec<Reservation> {
        let proposed = self.proposals.placed.iter().filter(|proposal| !proposal.told);
        let starting = proposed.filter_map(|proposal| {
            let request = self.requests.get(proposal.slot).request.id;
            Some(self.reservation(request, proposal.promise.as_ref()?))
        });
        let mut all: Vec<Reservation> = self.promised().into_iter().chain(starting).collect();
        for reservation in &mut all {
            let is_told = self.promises.get(reservation.request).is_some_and(|promise| promise.told);
            let mut replaced = self.proposals.promised.iter().filter(|(request, _)| *request == reservation.request);
            let before = replaced.find_map(|(_, before)| before.as_ref()).filter(|before| before.told && !is_told);
            if let Some(before) = before {
                *reservation = self.reservation(reservation.request, before);
            }
        }
        all.sort_by_key(|reservation| reservation.request);
        all
    }

    /// Promises to requests that do not start now.
    fn promised(&self) -> Vec<Reservation> {
        self.promises.iter().map(|(request, promise)| self.reservation(request, promise)).collect()
    }

    /// Requests that wait, by number.
    pub fn waiting(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().map(|waiting| &waiting.request)
    }

    /// Leases that were told and have not ended, by number.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.state.leases.iter().map(|held| &held.lease)
    }

    /// The fleet as it is described now: quotas and caps changed since are in it.
    pub const fn fleet(&self) -> &FleetSpec {
        &self.spec
    }

    fn reservation(&self, request: RequestId, promise: &Promise) -> Reservation {
        let nodes = promise.nodes.iter().map(|node| self.state.topology.id(*node)).collect();
        let Promise { starts_at, for_nearness, .. } = *promise;
        Reservation { request, starts_at, nodes, stops: promise.stops.clone(), for_nearness }
    }

    /// What so many members of a shape are to a queue.
    fn amount(&self, shape: &Shape, nodes: usize) -> Amount {
        amount(&self.spec, shape, i64::try_from(nodes).unwrap_or(i64::MAX))
    }
}

/// All that the nodes have, whatever their health, and what the power tree's roots may draw.
fn capacity(spec: &FleetSpec) -> Amount {
    let mut capacity = Amount::default();
    for node in &spec.nodes {
        capacity.gpu_milli += i64::from(node.gpus) * i64::from(GPU_MILLI);
        capacity.cpu_milli += i64::from(node.cpu_milli);
        capacity.memory_mib += i64::from(node.memory_mib);
    }
    capacity.watts = spec.power.iter().filter(|point| point.parent.is_none()).map(|point| point.cap_watts).sum();
    capacity
}

/// What so many members of a shape are to a queue. A slice counts by its compute slots, of seven, rounded up.
pub(crate) fn amount(spec: &FleetSpec, shape: &Shape, nodes: i64) -> Amount {
    let gpu_milli = match shape.gpus {
        Gpus::Whole(count) => i64::from(count) * i64::from(GPU_MILLI),
        Gpus::Milli(milli) => i64::from(milli),
        Gpus::Slice(slice) => {
            let model = spec.models.get(shape.models.trailing_zeros() as usize);
            let slice = model.and_then(|model| model.slices.get(usize::from(slice.0)));
            slice.map_or(0, |slice| (i64::from(slice.compute) * i64::from(GPU_MILLI) + 6) / 7)
        }
    };
    Amount {
        gpu_milli: gpu_milli * nodes,
        cpu_milli: i64::from(shape.cpu_milli) * nodes,
        memory_mib: i64::from(shape.memory_mib) * nodes,
        watts: i64::from(shape.peak_watts) * nodes,
    }
}

/// The node's place of a fleet's number; the caller has checked that it exists.
fn node_of(state: &State, id: crate::units::NodeId) -> NodeIx {
    state.topology.find(id).expect("nodes are checked before they are looked up")
}
