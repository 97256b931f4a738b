//! Our planner on the simulated site: what happens becomes events, what it plans is carried out at once.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use galerne_planner::event::Event;
use galerne_planner::fleet::{Health, Policy};
use galerne_planner::plan::{Placement, Reservation};
use galerne_planner::planner::Planner;
use galerne_planner::units::{At, LeaseId, NodeId};

use super::fleet::Layout;
use super::measure::Way;
use super::site::{Scheduler, Site};
use super::workload::request;

/// The planner, and which lease each job has.
pub(crate) struct Galerne {
    pub(crate) planner: Planner,
    leases: Vec<Option<LeaseId>>,
    jobs: HashMap<LeaseId, usize>,
    next_lease: u64,
    /// Requests for which others were stopped, until they start.
    stopped_for: BTreeSet<u64>,
}

impl Galerne {
    pub(crate) fn new(layout: &Layout, jobs: usize) -> Result<Self> {
        let planner = Planner::new(layout.spec(Policy::default()))?;
        Ok(Self {
            planner,
            leases: vec![None; jobs],
            jobs: HashMap::new(),
            next_lease: 0,
            stopped_for: BTreeSet::new(),
        })
    }

    /// How a request came to its nodes, for the figures.
    fn way(&mut self, placement: &Placement, promised: &[Reservation]) -> Way {
        let promise = promised.iter().find(|promise| promise.request == placement.request);
        let is_kept = |promise: &Reservation| placement.grants.iter().all(|grant| promise.nodes.contains(&grant.node));
        if self.stopped_for.remove(&placement.request.0) {
            return Way::Stopped;
        }
        match promise {
            _ if placement.grants.len() < 2 => Way::Open,
            Some(promise) if is_kept(promise) => Way::Promised,
            Some(_) => Way::Elsewhere,
            None => Way::Open,
        }
    }

    fn end(&mut self, job: usize) -> Result<()> {
        let lease = self.leases[job].take().context("a job ended that has no lease")?;
        self.jobs.remove(&lease);
        Ok(self.planner.apply(Event::LeaseEnded(lease))?)
    }
}

impl Scheduler for Galerne {
    fn submitted(&mut self, site: &Site, job: usize, _now: i64) -> Result<()> {
        let one = &site.jobs[job];
        let request = request(job, one, one.arrives_at, site.progress[job].said_left_seconds);
        Ok(self.planner.apply(Event::RequestAdded(request))?)
    }

    fn ended(&mut self, _site: &Site, job: usize, _now: i64) -> Result<()> {
        self.end(job)
    }

    fn saved(&mut self, job: usize, now: i64) -> Result<()> {
        let lease = self.leases[job].context("a job saved its work that has no lease")?;
        Ok(self.planner.apply(Event::LeaseSaved { lease, saved_at: At(now) })?)
    }

    fn node_changed(&mut self, node: u32, is_up: bool) -> Result<()> {
        let node = NodeId(u64::from(node));
        if !is_up {
            self.planner.apply(Event::NodeFailed { node })?;
        }
        let health = if is_up { Health::Ready } else { Health::Down };
        Ok(self.planner.apply(Event::NodeHealth { node, health })?)
    }

    fn decide(&mut self, site: &mut Site, now: i64) -> Result<()> {
        let promised = self.planner.reservations();
        let plan = self.planner.tick(At(now));
        for placement in &plan.placements {
            site.measures.way = self.way(placement, &promised);
            site.start(usize::try_from(placement.request.0)?, placement.grants.clone(), now)?;
        }
        let first = self.next_lease;
        let mut next = first;
        self.planner.commit(&plan, At(now), |_| {
            next += 1;
            LeaseId(next - 1)
        })?;
        self.next_lease = next;
        for (placement, lease) in plan.placements.iter().zip(first..) {
            let job = usize::try_from(placement.request.0)?;
            self.leases[job] = Some(LeaseId(lease));
            self.jobs.insert(LeaseId(lease), job);
        }
        for preemption in &plan.preemptions {
            self.stopped_for.insert(preemption.for_request.0);
            let job = *self.jobs.get(&preemption.lease).context("the plan stops a lease that no job has")?;
            self.end(job)?;
            site.stop(job, usize::try_from(preemption.for_request.0)?, now)?;
        }
        Ok(())
    }
}
