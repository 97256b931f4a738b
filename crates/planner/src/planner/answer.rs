//! What a pass decided, as a plan.

use crate::plan::{Grant, Hold, Placement, Plan};
use crate::reason::{Cause, Why};
use crate::units::{At, QueueId};

use super::Planner;
use super::requests::{ListIx, Slot};

impl Planner {
    /// Everything.
    pub(super) fn full_answer(&mut self, now: At) -> Plan {
        let mut plan = self.decided(now);
        plan.reservations = self.reservations();
        for queue in 0..self.requests.queues() {
            let queue = QueueId(crate::state::topology::narrow(queue));
            for list in 0..self.requests.lists_of(queue).len() {
                let list = self.requests.lists_of(queue)[list];
                self.answer_list(list, now, &mut plan);
            }
        }
        self.requests.take_fresh();
        plan
    }

    /// What changed.
    pub(super) fn short_answer(&mut self, now: At) -> Plan {
        let mut plan = self.decided(now);
        for request in &self.proposals.promised {
            if let Some(promise) = self.promises.get(*request) {
                plan.reservations.push(self.reservation(*request, promise));
            }
        }
        plan.reservations.sort_by_key(|reservation| reservation.request);
        for request in self.requests.take_fresh() {
            let Some(slot) = self.requests.find(request) else { continue };
            let waiting = self.requests.get(slot);
            if waiting.proposal.is_none() {
                let why = self.explain(waiting.list, slot, now);
                let reason = crate::state::topology::narrow(plan.reasons.len());
                plan.reasons.push(why);
                plan.waiting.push((request, reason));
            }
        }
        plan
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
            holds: holds.map(|(request, until)| Hold { request: *request, until: *until }).collect(),
            ..Plan::default()
        }
    }

    fn answer_list(&mut self, ix: ListIx, now: At, plan: &mut Plan) {
        let list = self.requests.list(ix);
        let mut shared = None;
        for item in &list.items {
            let waiting = self.requests.get(item.slot);
            if waiting.proposal.is_some() {
                continue;
            }
            let id = waiting.request.id;
            let is_own = item.is_special && self.waits_for_time(item.slot, now) || self.promises.get(id).is_some();
            let reason = match shared {
                Some(reason) if !is_own => reason,
                _ => {
                    let reason = crate::state::topology::narrow(plan.reasons.len());
                    plan.reasons.push(self.explain(ix, item.slot, now));
                    if !is_own {
                        shared = Some(reason);
                    }
                    reason
                }
            };
            plan.waiting.push((id, reason));
        }
    }

    fn explain(&self, _list: ListIx, _slot: Slot, _now: At) -> Why {
        Why::blocks(Cause::Waits)
    }
}
