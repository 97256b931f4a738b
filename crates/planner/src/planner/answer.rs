//! What a pass decided, as a plan.

use std::collections::BTreeMap;

use crate::explain::{Depth, Explainer, Facts, Own, Taken};
use crate::plan::{Grant, Hold, Placement, Plan};
use crate::reason::Why;
use crate::request::Request;
use crate::reserve::{Promise, Promises};
use crate::state::topology::narrow;
use crate::units::{At, QueueId, RequestId};

use super::Planner;
use super::pass::Pass;
use super::proposals::Proposals;
use super::requests::{Item, ListIx, Requests, Slot};

impl Planner {
    /// Everything.
    pub(super) fn full_answer(&mut self, now: At) -> Plan {
        let mut plan = self.decided(now);
        plan.reservations = self.promised();
        self.write(now, Depth::Advice, &mut plan, |answer| {
            answer.plan.waiting.reserve_exact(answer.requests.len());
            let lists =
                (0..answer.requests.queues()).map(|queue| answer.requests.lists_of(QueueId(narrow(queue))).len());
            answer.plan.reasons.reserve(lists.sum::<usize>() + answer.promises.len());
            let is_marked = answer.marked();
            for queue in 0..answer.requests.queues() {
                for list in answer.requests.lists_of(QueueId(narrow(queue))) {
                    answer.list(*list, &is_marked);
                }
            }
        });
        self.requests.take_fresh();
        plan
    }

    /// What changed.
    pub(super) fn short_answer(&mut self, now: At) -> Plan {
        let mut plan = self.decided(now);
        for (request, _) in &self.proposals.promised {
            if let Some(promise) = self.promises.get(*request) {
                plan.reservations.push(self.reservation(*request, promise));
            }
        }
        plan.reservations.sort_by_key(|reservation| reservation.request);
        let mut fresh = self.requests.take_fresh();
        fresh.retain(|request| {
            let slot = self.requests.find(*request);
            slot.is_some_and(|slot| self.requests.get(slot).proposal.is_none())
        });
        if fresh.is_empty() {
            return plan;
        }
        self.write(now, Depth::Obstacles, &mut plan, |answer| {
            let mut shared = BTreeMap::new();
            for request in fresh {
                let Some(slot) = answer.requests.find(request) else { continue };
                let reason = answer.as_in_a_plan(slot, &mut shared);
                answer.plan.waiting.push((request, reason));
            }
        });
        plan
    }

    /// Why one request waits, with all that would help, as the last answer and the events since have left
    /// things; `None`: it does not wait, or would start. Nothing is decided and no pass is run; placements that were
    /// proposed and not told back are counted first, so that it costs more while there are many. Of requests alike in
    /// queue and shape it tells what holds back the first in line, as a plan does.
    pub fn why(&mut self, request: RequestId, now: At) -> Option<Why> {
        let slot = self.requests.find(request)?;
        if self.requests.get(slot).proposal.is_some() {
            return None;
        }
        let mut plan = Plan::default();
        self.write(now, Depth::Advice, &mut plan, |answer| {
            answer.as_in_a_plan(slot, &mut BTreeMap::new());
        });
        plan.reasons.pop()
    }

    /// Lets `waiting` write down who waits, with all that reasons are found from.
    fn write(&mut self, now: At, depth: Depth, plan: &mut Plan, waiting: impl FnOnce(&mut Answer)) {
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
            proposals: &self.proposals,
            pass: &self.pass,
            promises: &self.promises,
            explainer: Explainer::new(facts, &self.memory, depth),
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
    proposals: &'a Proposals,
    pass: &'a Pass,
    promises: &'a Promises,
    explainer: Explainer<'a>,
    now: At,
    plan: &'p mut Plan,
}

/// Whose reason a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// None: it starts.
    Start,
    /// That of its list.
    List,
    /// That of those in its list that wait for the same instant.
    Instant(Own),
    /// Its own: it was promised something.
    Itself(Own),
}

impl Of {
    fn of_many(own: Own) -> Self {
        if own == Own::Nothing { Self::List } else { Self::Instant(own) }
    }
}

impl Answer<'_, '_> {
    /// All of one shape in one queue: they wait for the same, but for those with an instant or a promise of their own.
    fn list(&mut self, list: ListIx, is_marked: &[bool]) {
        let mut shared = None;
        let mut instants: BTreeMap<Own, u32> = BTreeMap::new();
        for item in &self.requests.list(list).items {
            let of = self.of(item, is_marked[item.slot as usize]);
            let reason = match of {
                Of::Start => continue,
                Of::List => *shared.get_or_insert_with(|| self.reason(item.slot, Own::Nothing)),
                Of::Instant(own) => *instants.entry(own).or_insert_with(|| self.reason(item.slot, own)),
                Of::Itself(own) => self.reason(item.slot, own),
            };
            self.plan.waiting.push((item.key.id(), reason));
        }
    }

    /// The reason that a plan gives for a request: of those alike that of the first in line, once for all of them.
    fn as_in_a_plan(&mut self, slot: Slot, shared: &mut BTreeMap<(ListIx, Own), u32>) -> u32 {
        let waiting = self.requests.get(slot);
        let (list, own) = (waiting.list, self.own(&waiting.request));
        if self.promises.get(waiting.request.id).is_some() {
            return self.reason(slot, own);
        }
        if let Some(known) = shared.get(&(list, own)) {
            return *known;
        }
        let items = &self.requests.list(waiting.list).items;
        let first = items.iter().find(|item| self.of(item, true) == Of::of_many(own));
        let reason = self.reason(first.map_or(slot, |item| item.slot), own);
        shared.insert((list, own), reason);
        reason
    }

    fn reason(&mut self, slot: Slot, own: Own) -> u32 {
        self.plan.reasons.push(self.explainer.why(&self.requests.get(slot).request, own));
        narrow(self.plan.reasons.len() - 1)
    }

    /// Whose reason an item's request has. Most are neither marked nor special: only their item is read.
    #[inline]
    fn of(&self, item: &Item, is_marked: bool) -> Of {
        if !is_marked && !item.is_special {
            return Of::List;
        }
        let waiting = self.requests.get(item.slot);
        let own = self.own(&waiting.request);
        if waiting.proposal.is_some() {
            Of::Start
        } else if self.promises.get(waiting.request.id).is_some() {
            Of::Itself(own)
        } else {
            Of::of_many(own)
        }
    }

    /// By slot: whether it starts or was promised something.
    fn marked(&self) -> Vec<bool> {
        let mut is_marked = vec![false; self.requests.slots()];
        let promised = self.promises.iter().filter_map(|(request, _)| self.requests.find(request));
        for slot in self.proposals.placed.iter().map(|proposal| proposal.slot).chain(promised) {
            // A proposal that was carried out has left its place.
            is_marked[slot as usize] = true;
        }
        is_marked
    }

    fn own(&self, request: &Request) -> Own {
        if let Some(promise) = self.promises.get(request.id).filter(|promise| promise.starts_at <= self.now) {
            return stopping(promise);
        }
        let begins = request.not_before.filter(|at| *at > self.now).map(Own::NotBefore);
        let held = self.pass.holds.get(&request.id).filter(|until| **until > self.now);
        begins.or_else(|| held.map(|until| Own::BetterHour(*until))).unwrap_or(Own::Nothing)
    }
}

/// Leases that stop for a promise that has begun; where none does, it waits like any other.
fn stopping(promise: &Promise) -> Own {
    let leases = narrow(promise.stops.len());
    promise.stops.first().map_or(Own::Nothing, |lease| Own::Preempting { leases, lease: *lease })
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
