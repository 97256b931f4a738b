//! Events: checked first, then applied; a refused one changes nothing.

use crate::event::Event;
use crate::fleet::{Health, Lease, QueueSpec};
use crate::pack::SingleAsk;
use crate::plan::Reservation;
use crate::refusal::{LeaseRule, NodeRule, Refusal, RequestRule};
use crate::request::{Request, Shape};
use crate::reserve::Promise;
use crate::state::leases::Held;
use crate::state::topology::NodeIx;
use crate::units::{At, LeaseId, NodeId, RequestId};
use crate::validate::{check_forecast, check_hold, check_lease_end, check_lease_saved};

use super::proposals::tenant;
use super::{Planner, capacity, node_of};

impl Planner {
    /// Takes one change.
    ///
    /// # Errors
    /// The object and the rule that it breaks; the state is as before.
    pub fn apply(&mut self, event: Event) -> Result<(), Refusal> {
        match event {
            Event::NodeHealth { node, health } => self.set_health(node, health),
            Event::NodeHeld { node, until } => {
                check_hold(node, until)?;
                let place = self.node(node)?;
                self.settle();
                if let (Some(until), Some(request)) = (until, self.state.nodes.reserved[place.at()])
                    && self.promises.get(request).is_some_and(|promise| promise.starts_at < until)
                {
                    self.drop_promise(request);
                }
                self.state.set_hold(place, until);
                self.spec.nodes[self.state.topology.spec_place(place)].hold_until = until;
                Ok(())
            }
            Event::NodeFailed { node } => {
                let place = self.node(node)?;
                self.settle();
                self.state.nodes.failures[place.at()] += 1;
                self.state.nodes.mend_rank(place);
                self.spec.nodes[self.state.topology.spec_place(place)].failures += 1;
                Ok(())
            }
            Event::LeaseStarted(lease) => self.start_lease(lease),
            Event::LeaseEnded(lease) => self.end_lease(lease),
            Event::LeaseExtended { lease, ends_at } => self.extend_lease(lease, ends_at),
            Event::LeaseSaved { lease, saved_at } => {
                let held = self.state.leases.find_mut(lease).ok_or_else(|| unknown_lease(lease))?;
                check_lease_saved(lease, held.lease.saved_at, saved_at)?;
                held.lease.saved_at = saved_at;
                Ok(())
            }
            Event::RequestAdded(request) => self.add_request(request),
            Event::RequestChanged(request) => self.change_request(request),
            Event::RequestWithdrawn(request) => self.withdraw_request(request),
            Event::ReservationTold(reservation) => self.tell_reservation(&reservation),
            Event::CapChanged { power, cap_watts } => {
                self.census.check_cap(power, cap_watts)?;
                self.settle();
                self.power.set_cap(power, cap_watts);
                self.spec.power[power.0 as usize].cap_watts = cap_watts;
                self.shares.set_capacity(capacity(&self.spec));
                self.stamps.power += 1;
                Ok(())
            }
            Event::QuotaChanged { queue, weight, guaranteed, limit } => {
                self.census.check_quota(&self.spec.queues, queue, weight, guaranteed, limit)?;
                self.settle();
                let spec = &mut self.spec.queues[queue.0 as usize];
                *spec = QueueSpec { parent: spec.parent, weight, guaranteed, limit };
                self.shares.set_quota(queue, weight, guaranteed, limit);
                Ok(())
            }
            Event::DemandTold(frequencies) => self.tell_demand(&frequencies),
            Event::ForecastChanged(forecast) => {
                check_forecast(&forecast)?;
                self.forecast = forecast;
                self.pass.forget_holds();
                Ok(())
            }
        }
    }

    fn node(&self, node: NodeId) -> Result<NodeIx, Refusal> {
        self.state.topology.find(node).ok_or(Refusal::Node { node, rule: NodeRule::Unknown })
    }

    fn set_health(&mut self, node: NodeId, health: Health) -> Result<(), Refusal> {
        let place = self.node(node)?;
        self.settle();
        self.state.set_health(place, health);
        self.spec.nodes[self.state.topology.spec_place(place)].health = health;
        self.stamps.promises += 1;
        if health != Health::Ready
            && let Some(request) = self.state.nodes.reserved[place.at()]
        {
            self.drop_promise(request);
        }
        Ok(())
    }

    fn start_lease(&mut self, lease: Lease) -> Result<(), Refusal> {
        if self.state.leases.find(lease.id).is_some() {
            return Err(Refusal::Lease { lease: lease.id, rule: LeaseRule::StartedAlready });
        }
        if let Some(other) = self.state.leases.of_request(lease.request.id) {
            let rule = LeaseRule::RequestRuns { request: lease.request.id, lease: other.lease.id };
            return Err(Refusal::Lease { lease: lease.id, rule });
        }
        let slot = self.requests.find(lease.request.id);
        let proposed = slot.and_then(|slot| self.proposal_for(slot, &lease));
        if proposed.is_none() {
            self.settle();
        }
        let (state, spec) = (&self.state, &self.spec);
        self.census.check_lease(&lease, |id| {
            let node = state.topology.find(id)?;
            let mut free = state.nodes.free[node.at()];
            if proposed.is_some() {
                let shape = &lease.request.shape;
                let own = lease.grants.iter().filter(|grant| grant.node == id);
                own.for_each(|grant| free.give(grant.gpus, shape.cpu_milli, shape.memory_mib));
            }
            Some((&spec.nodes[state.topology.spec_place(node)], free))
        })?;
        let nodes: Vec<NodeIx> = lease.grants.iter().map(|grant| node_of(&self.state, grant.node)).collect();
        // Promises of the same answer know of it, unless it stays longer than was thought.
        let is_expected = if let Some(proposal) = proposed {
            self.confirm(proposal, &lease, &nodes)
        } else {
            self.take_lease(&lease, &nodes);
            false
        };
        if let Some(slot) = slot {
            // It may have waited with other words than it starts with.
            if let Some(waited) = self.requests.remove(&mut self.shapes, &mut self.state, slot) {
                self.pass.forget_holds_for(&waited);
            }
        }
        self.pass.forget_holds_for(&lease.request);
        if !is_expected {
            self.break_promises_before(&lease, &nodes);
        }
        self.state.packer.expect(&SingleAsk::from(&lease.request.shape), 1);
        let amount = self.amount(&lease.request.shape, nodes.len());
        self.state.leases.insert(Held { lease, nodes, amount });
        Ok(())
    }

    /// The proposal that a lease carries out to the letter.
    fn proposal_for(&self, slot: u32, lease: &Lease) -> Option<u32> {
        let waiting = self.requests.get(slot);
        let place = waiting.proposal?;
        let proposal = &self.proposals.placed[place as usize];
        let grants = self.proposals.grants_of(proposal);
        let same_grants = grants.len() == lease.grants.len()
            && grants
                .iter()
                .zip(&lease.grants)
                .all(|((node, gpus), grant)| *gpus == grant.gpus && self.state.topology.id(*node) == grant.node);
        let (asked, told) = (&waiting.request, &lease.request);
        let same = asked.shape == told.shape && asked.queue == told.queue && asked.class == told.class;
        (same && same_grants).then_some(place)
    }

    fn take_lease(&mut self, lease: &Lease, nodes: &[NodeIx]) {
        let request = &lease.request;
        let shape = &request.shape;
        for (grant, node) in lease.grants.iter().zip(nodes) {
            self.state.take(*node, tenant(shape, grant.gpus, lease.ends_at.unwrap_or(At::NEVER)));
            self.power.add(self.state.nodes.power[node.at()], request.class, i64::from(shape.peak_watts));
        }
        self.drop_promise(request.id);
        let amount = self.amount(shape, lease.grants.len());
        self.shares.charge(request.queue, &amount);
    }

    /// What was proposed is a lease now; only its end may be another. Whether it ends by when it was thought to.
    fn confirm(&mut self, proposal: u32, lease: &Lease, nodes: &[NodeIx]) -> bool {
        let proposal = &mut self.proposals.placed[proposal as usize];
        proposal.told = true;
        let ends_at = lease.ends_at.unwrap_or(At::NEVER);
        let thought = proposal.ends_at;
        if thought != ends_at {
            self.stamps.promises += 1;
            for (grant, node) in lease.grants.iter().zip(nodes) {
                self.state.set_end(*node, tenant(&lease.request.shape, grant.gpus, thought), ends_at);
            }
        }
        ends_at <= thought
    }

    /// A lease that stays beyond a promised start breaks that promise.
    fn break_promises_before(&mut self, lease: &Lease, nodes: &[NodeIx]) {
        let ends_at = lease.ends_at.unwrap_or(At::NEVER);
        for node in nodes {
            let Some(request) = self.state.nodes.reserved[node.at()] else { continue };
            if self.promises.get(request).is_some_and(|promise| promise.starts_at < ends_at) {
                self.drop_promise(request);
            }
        }
    }

    fn end_lease(&mut self, lease: LeaseId) -> Result<(), Refusal> {
        if self.state.leases.find(lease).is_none() {
            return Err(unknown_lease(lease));
        }
        self.settle();
        self.promises.forget_lease(lease);
        let Some(Held { lease, nodes, amount }) = self.state.leases.remove(lease) else { return Ok(()) };
        let request = &lease.request;
        self.pass.forget_holds_for(request);
        let shape = &request.shape;
        self.state.packer.expect(&SingleAsk::from(shape), -1);
        for (grant, node) in lease.grants.iter().zip(&nodes) {
            self.state.give(*node, tenant(shape, grant.gpus, lease.ends_at.unwrap_or(At::NEVER)));
            self.power.remove(self.state.nodes.power[node.at()], request.class, i64::from(shape.peak_watts));
        }
        self.shares.refund(request.queue, &amount);
        self.stamps.power += 1;
        self.stamps.promises += 1;
        Ok(())
    }

    fn extend_lease(&mut self, lease: LeaseId, ends_at: Option<At>) -> Result<(), Refusal> {
        let held = self.state.leases.find(lease).ok_or_else(|| unknown_lease(lease))?;
        check_lease_end(lease, held.lease.started_at, ends_at)?;
        self.settle();
        let Some(before) = self.state.leases.set_end(lease, ends_at) else { return Ok(()) };
        let Some(held) = self.state.leases.find(lease) else { return Ok(()) };
        let Held { lease, nodes, .. } = held.clone();
        self.pass.forget_holds_for(&lease.request);
        for (grant, node) in lease.grants.iter().zip(&nodes) {
            let part = tenant(&lease.request.shape, grant.gpus, before);
            self.state.set_end(*node, part, ends_at.unwrap_or(At::NEVER));
        }
        self.stamps.promises += 1;
        self.break_promises_before(&lease, &nodes);
        Ok(())
    }

    fn add_request(&mut self, request: Request) -> Result<(), Refusal> {
        let refuse = |rule| Err(Refusal::Request { request: request.id, rule });
        if self.requests.find(request.id).is_some() {
            return refuse(RequestRule::WaitsAlready);
        }
        if let Some(held) = self.state.leases.of_request(request.id) {
            return refuse(RequestRule::RunsAlready { lease: held.lease.id });
        }
        self.census.check_request(&request)?;
        self.pass.forget_holds_for(&request);
        self.requests.insert(&mut self.shapes, &mut self.state, request);
        Ok(())
    }

    fn change_request(&mut self, mut request: Request) -> Result<(), Refusal> {
        let unknown = Refusal::Request { request: request.id, rule: RequestRule::Unknown };
        let slot = self.requests.find(request.id).ok_or(unknown)?;
        self.census.check_request(&request)?;
        self.settle();
        let old = &self.requests.get(slot).request;
        self.pass.forget_holds_for(old);
        // It keeps its place in line, whatever it says of when it came.
        request.submitted_at = old.submitted_at;
        request.order = old.order;
        if old.shape != request.shape || old.queue != request.queue || old.class != request.class {
            self.drop_promise(request.id);
        }
        self.pass.forget_holds_for(&request);
        self.requests.remove(&mut self.shapes, &mut self.state, slot);
        self.requests.insert(&mut self.shapes, &mut self.state, request);
        Ok(())
    }

    fn withdraw_request(&mut self, request: RequestId) -> Result<(), Refusal> {
        let unknown = Refusal::Request { request, rule: RequestRule::Unknown };
        let slot = self.requests.find(request).ok_or(unknown)?;
        if self.requests.get(slot).proposal.is_some() {
            self.settle();
        }
        self.drop_promise(request);
        self.pass.forget_holds_for(&self.requests.get(slot).request);
        self.requests.remove(&mut self.shapes, &mut self.state, slot);
        Ok(())
    }

    fn tell_demand(&mut self, frequencies: &[(Shape, u32)]) -> Result<(), Refusal> {
        self.census.check_demand(frequencies)?;
        self.settle();
        let asks: Vec<_> = frequencies.iter().map(|(shape, count)| (SingleAsk::from(shape), *count)).collect();
        self.state.packer.tell(&asks);
        self.state.packer.refresh();
        Ok(())
    }

    fn tell_reservation(&mut self, reservation: &Reservation) -> Result<(), Refusal> {
        let request = reservation.request;
        let refuse = |rule| Err(Refusal::Request { request, rule });
        let Some(slot) = self.requests.find(request) else { return refuse(RequestRule::Unknown) };
        let mut nodes = Vec::with_capacity(reservation.nodes.len());
        for node in &reservation.nodes {
            nodes.push(self.node(*node)?);
        }
        nodes.sort_unstable();
        let mut stops = reservation.stops.clone();
        stops.retain(|lease| self.state.leases.find(*lease).is_some());
        stops.sort_unstable();
        if let Some(promise) = self.promises.get_mut(request)
            && promise.starts_at == reservation.starts_at
            && promise.nodes == nodes
            && promise.stops == stops
            && promise.for_nearness == reservation.for_nearness
        {
            promise.told = true;
            return Ok(());
        }
        let waiting = &self.requests.get(slot).request;
        let counts = usize::from(waiting.shape.nodes.min)..=usize::from(waiting.shape.nodes.max);
        if !counts.contains(&nodes.len()) || nodes.windows(2).any(|pair| pair[0] == pair[1]) {
            return refuse(RequestRule::PromisedNodes { nodes: nodes.len() });
        }
        let (shape, queue) = (waiting.shape, waiting.queue);
        self.settle();
        let of_another = |node: &&NodeIx| self.state.nodes.reserved[node.at()].is_some_and(|owner| owner != request);
        if let Some(node) = nodes.iter().find(of_another) {
            return refuse(RequestRule::PromisedToAnother { node: self.state.topology.id(*node) });
        }
        self.drop_promise(request);
        let amount = self.amount(&shape, nodes.len());
        let Reservation { starts_at, for_nearness, .. } = *reservation;
        self.keep_promise(
            request,
            Promise { starts_at, nodes, stops, for_nearness, queue, amount, told: true, missing: 0 },
        );
        Ok(())
    }
}

const fn unknown_lease(lease: LeaseId) -> Refusal {
    Refusal::Lease { lease, rule: LeaseRule::Unknown }
}
