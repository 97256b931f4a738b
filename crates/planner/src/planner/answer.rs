//! What a pass decided, as a plan.

use crate::explain::{Explainer, Facts, Own, Taken};
use crate::plan::{Grant, Hold, Placement, Plan};
use crate::request::Request;
use crate::reserve::{Promise, Promises};
use crate::state::State;
use crate::state::topology::narrow;
use crate::units::{At, LeaseId, QueueId};

use super::Planner;
use super::pass::Pass;
use super::proposals::Proposals;
use super::requests::{ListIx, Requests, Slot};

impl Planner {
    /// Everything.
    pub(super) fn full_answer(&mut self, now: At) -> Plan {
        let mut plan = self.decided(now);
        plan.reservations = self.promised();
        plan.moves = self.moves(now);
        self.write(now, &mut plan, |answer| {
            for queue in 0..answer.requests.queues() {
                for list in answer.requests.lists_of(QueueId(narrow(queue))) {
                    answer.list(*list);
                }
            }
        });
        self.requests.take_fresh();
        plan
    }

    /// What changed.
    pub(super) fn short_answer(&mut self, now: At) -> Plan {
        let mut plan = self.decided(now);
        plan.moves = self.moves(now);
        for (request, _) in &self.proposals.promised {
            if let Some(promise) = self.promises.get(*request) {
                plan.reservations.push(self.reservation(*request, promise));
            }
        }
        plan.reservations.sort_by_key(|reservation| reservation.request);
        let fresh = self.requests.take_fresh();
        self.write(now, &mut plan, |answer| {
            for request in fresh {
                let Some(slot) = answer.requests.find(request) else { continue };
                if answer.requests.get(slot).proposal.is_none() {
                    answer.one(slot, None);
                }
            }
        });
        plan
    }

    /// Lets `waiting` write down who waits, with all that reasons are found from.
    fn write(&mut self, now: At, plan: &mut Plan, waiting: impl FnOnce(&mut Answer)) {
        let taken = taken(&self.proposals, &self.requests);
        self.memory.refresh(&mut self.state, &taken);
        let facts = Facts {
            spec: &self.spec,
            state: &self.state,
            power: &mut self.power,
            shares: &self.shares,
            promises: &self.promises,
            taken: &taken,
            now,
        };
        let mut answer = Answer {
            requests: &self.requests,
            pass: &self.pass,
            promises: &self.promises,
            state: &self.state,
            explainer: Explainer::new(facts, &self.memory),
            now,
            plan,
        };
        waiting(&mut answer);
    }

    fn decided(&self, now: At) -> Plan {
        let placements = self.proposals.placed.iter().map(|proposal| {
            let grants = self.proposals.grants_of(proposal).iter();
            let grants =
                grants.map(|(node, gpus)| Grant { node: self.state.topology.id(*node), gpus: *gpus }).collect();
            Placement { request: self.requests.get(proposal.slot).request.id, grants }
        });
        let holds = self.pass.holds.iter().filter(|(_, until)| **until > now);
        Plan {
            at: now,
            placements: placements.collect(),
            preemptions: self.pass.preemptions.clone(),
            holds: holds.map(|(request, until)| Hold { request: *request, until: *until }).collect(),
            ..Plan::default()
        }
    }
}

/// Writes down who waits, and why.
struct Answer<'a, 'p> {
    requests: &'a Requests,
    pass: &'a Pass,
    promises: &'a Promises,
    state: &'a State,
    explainer: Explainer<'a>,
    now: At,
    plan: &'p mut Plan,
}

impl Answer<'_, '_> {
    /// All of one shape in one queue: they wait for the same, but for those with an instant or a promise of their own.
    fn list(&mut self, list: ListIx) {
        let mut shared = None;
        for item in &self.requests.list(list).items {
            let waiting = self.requests.get(item.slot);
            if waiting.proposal.is_some() {
                continue;
            }
            let is_own = item.is_special && self.own(&waiting.request) != Own::Nothing
                || self.promises.get(waiting.request.id).is_some();
            let reason = self.one(item.slot, if is_own { None } else { shared });
            if !is_own {
                shared = Some(reason);
            }
        }
    }

    /// One request, with its own reason where there is none to share.
    fn one(&mut self, slot: Slot, shared: Option<u32>) -> u32 {
        let request = &self.requests.get(slot).request;
        let own = self.own(request);
        let reason = shared.unwrap_or_else(|| {
            self.plan.reasons.push(self.explainer.why(request, own));
            narrow(self.plan.reasons.len() - 1)
        });
        self.plan.waiting.push((request.id, reason));
        reason
    }

    fn own(&self, request: &Request) -> Own {
        if let Some(promise) = self.promises.get(request.id).filter(|promise| promise.starts_at <= self.now) {
            return self.stopping(promise);
        }
        let begins = request.not_before.filter(|at| *at > self.now).map(Own::NotBefore);
        let held = self.pass.holds.get(&request.id).filter(|until| **until > self.now);
        begins.or_else(|| held.map(|until| Own::BetterHour(*until))).unwrap_or(Own::Nothing)
    }
}

impl Answer<'_, '_> {
    /// Leases that are still on the nodes of a promise that begins now.
    fn stopping(&self, promise: &Promise) -> Own {
        let on_nodes = promise.nodes.iter().flat_map(|node| self.state.leases.on_node(*node));
        let mut leases: Vec<LeaseId> = on_nodes.map(|held| held.lease.id).collect();
        leases.sort_unstable();
        leases.dedup();
        leases.first().map_or(Own::Nothing, |lease| Own::Preempting { leases: narrow(leases.len()), lease: *lease })
    }
}

/// What the pass gave and nobody has carried out yet.
fn taken<'a>(proposals: &'a Proposals, requests: &'a Requests) -> Vec<Taken<'a>> {
    let waiting = proposals.placed.iter().filter(|proposal| !proposal.told);
    let each = waiting.flat_map(|proposal| {
        let request = &requests.get(proposal.slot).request;
        proposals.grants_of(proposal).iter().map(move |(node, gpus)| Taken { request, node: *node, gpus: *gpus })
    });
    each.collect()
}
