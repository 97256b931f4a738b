//! Preemption and moves: what a plan and a tick do when all that fits is placed.
//!
//! For requests that found no room, leases may have to give way. Their nodes are kept from then on by a promise that
//! starts now: nobody fills them in the meantime, and it starts when the leases are gone.
//!
//! Of each list the first in line asks, and where another has a higher priority, the first of the highest, too; queues
//! that are owed most come first, as a walk from the root finds them. Before anybody is searched for, it is counted
//! whether there is room if all went who may be stopped (`room`). Whoever stops already counts as gone: who finds room
//! there waits for it, and nobody else stops for him.
//! Deliberately absent: several requests of one list in one pass, and memory: what was declined is asked again.

use std::collections::BTreeSet;

use crate::defrag::{self, Scope};
use crate::plan::{Move, Preemption};
use crate::preempt::{self, Decision, Declined, Fleet, Ground, Role};
use crate::reserve::Promise;
use crate::state::topology::{NodeIx, narrow};
use crate::units::{At, LeaseId, QueueId};

use super::Planner;
use super::requests::{ListIx, Slot};

mod rights;
mod room;

use rights::{Awaiting, Rights};
pub(super) use room::Marks;
use room::{Gathered, Loose, Question};

/// Searches without success in one pass, for each request that leases may give way to in it.
const SEARCHES_EACH: usize = 4;
/// Lists that are counted for in one pass, for each such request.
const COUNTS_EACH: usize = 32;
/// Of the lists that may stop somebody, so many for each such request come first by order; the others take turns, each
/// minute another first, so that none waits behind the same failures for ever.
const FIRST_EACH: usize = 2;
const TURN_SECONDS: i64 = 60;

/// What came of a question.
enum Asked {
    /// It was not worth a search.
    NotAtAll,
    InVain,
    /// There will be room on these nodes when all have left that stop already.
    Awaits(Vec<NodeIx>),
    /// Leases give way.
    Won,
}

/// A list that asks.
struct Asking {
    list: ListIx,
    /// Its head, and the first of the highest priority.
    slots: [Option<Slot>; 2],
    /// The highest priority of all that wait in it.
    priority: i16,
}

impl Planner {
    /// Lets leases give way to requests that found no room.
    pub(super) fn preempt(&mut self, now: At) {
        let most = usize::from(self.spec.policy.preemptions);
        if most == 0 || !self.state.leases.is_any_stoppable() {
            return;
        }
        let mut marks = std::mem::take(&mut self.marks);
        let loose = Loose::new(&self.state);
        let mut awaiting = Vec::new();
        let mut rights = self.rights(&awaiting);
        let (mut won, mut lost) = (0, 0);
        let mut asking = self.asking(&rights, now);
        if let Some(others) = asking.get_mut(most * FIRST_EACH..).filter(|others| !others.is_empty()) {
            let turn = (now.0.max(0) / TURN_SECONDS).unsigned_abs() % others.len() as u64;
            others.rotate_left(usize::try_from(turn).unwrap_or(0));
        }
        for one in asking.into_iter().take(most * COUNTS_EACH) {
            if won >= most || lost >= most * SEARCHES_EACH {
                break;
            }
            if !self.may_find(&one, &rights, &loose, &mut marks) {
                continue;
            }
            for slot in one.slots.into_iter().flatten() {
                match self.ask(one.list, slot, &rights, (&loose, &mut marks), now) {
                    Asked::NotAtAll => continue,
                    Asked::InVain => lost += 1,
                    Asked::Awaits(nodes) => {
                        lost += 1;
                        awaiting.push(Awaiting { slot, nodes });
                        rights = self.rights(&awaiting);
                    }
                    Asked::Won => {
                        won += 1;
                        rights = self.rights(&awaiting);
                        break;
                    }
                }
            }
        }
        self.marks = marks;
    }

    /// Moves that make room grow together, while nothing else is to be done.
    pub(super) fn moves(&mut self, now: At) -> Vec<Move> {
        let idle = self.proposals.placed.is_empty() && self.pass.preemptions.is_empty();
        if self.spec.policy.moves == 0 || !idle {
            return Vec::new();
        }
        let ground = self.whole_ground(now);
        let state = &self.state;
        let tables = state.topology.tables();
        let finest = state.topology.order(None, None).tables.first().map_or(0, |table| usize::from(*table));
        let scope = Scope {
            models: &self.spec.models,
            domain_of: &tables[finest].domain_of,
            power: &mut self.power,
            most: usize::from(self.spec.policy.moves),
        };
        defrag::moves(&ground, scope, |shape, node| {
            state.nodes.open(NodeIx(node)) && state.nodes.allowed(NodeIx(node), shape)
        })
    }

    /// Whether leases are stopping for a request already.
    pub(super) fn is_stopping_for(&self, slot: Slot, now: At) -> bool {
        self.promises.get(self.requests.get(slot).request.id).is_some_and(|promise| promise.starts_at <= now)
    }

    /// Nodes and leases as `defrag` looks at them. Leases that are stopping already are left out: their nodes are kept
    /// for others.
    fn whole_ground(&self, now: At) -> Ground {
        let sites = (0..self.state.nodes.len()).map(|at| {
            let node = NodeIx::new(at);
            self.site(node, self.state.nodes.reserved[at].is_some())
        });
        let stopping: BTreeSet<LeaseId> = self.promises.stopping().collect();
        let leases = self.state.leases.iter().filter(|held| !stopping.contains(&held.lease.id));
        let leases = leases.map(|held| (&held.lease, held.nodes.iter().map(|node| node.0).collect(), Role::Asked));
        Ground::new(sites.collect(), leases, |lease| self.amount(&lease.request.shape, lease.grants.len()), now)
    }

    /// Lists in which somebody waits who may stop others: those of queues that are owed most first.
    fn asking(&self, rights: &Rights, now: At) -> Vec<Asking> {
        let mut asking = Vec::new();
        for queue in (0..self.requests.queues()).map(|queue| QueueId(narrow(queue))) {
            for &list in self.requests.lists_of(queue) {
                let slots = self.askers(list, now);
                let Some(first) = slots[0] else { continue };
                let priority = self.requests.list(list).items.iter().map(|item| item.priority).max();
                let priority = priority.unwrap_or(i16::MIN);
                if self.question(list, rights, priority).is_some_and(|question| self.has_victims(&question)) {
                    asking.push((self.requests.get(first).key, Asking { list, slots, priority }));
                }
            }
        }
        asking.sort_by(|(left, one), (right, other)| {
            let queue = |one: &Asking| self.requests.list(one.list).queue;
            self.shares.order(queue(one), queue(other)).then(left.cmp(right))
        });
        asking.into_iter().map(|(_, one)| one).collect()
    }

    /// Whether there is room for a list if all went who may be stopped for one of it.
    fn may_find(&self, one: &Asking, rights: &Rights, loose: &Loose, marks: &mut Marks) -> bool {
        let question = self.question(one.list, rights, one.priority);
        question.is_some_and(|question| self.is_room(&question, rights, loose, marks))
    }

    /// The first in line who waits and for whom nobody stops yet, and the first of the highest priority.
    fn askers(&self, list: ListIx, now: At) -> [Option<Slot>; 2] {
        let mut found: [Option<Slot>; 2] = [None; 2];
        let mut highest = i16::MIN;
        for item in &self.requests.list(list).items {
            if found[0].is_some() && item.priority <= highest {
                continue;
            }
            let waiting = self.requests.get(item.slot);
            let could_start = waiting.proposal.is_some() || self.pass.choosy.contains(&waiting.request.id);
            if could_start || self.waits_for_time(item.slot, now) || self.is_stopping_for(item.slot, now) {
                continue;
            }
            highest = item.priority;
            found[usize::from(found[0].is_some())] = Some(item.slot);
        }
        found
    }

    /// Whether anybody runs who may be stopped for it.
    fn has_victims(&self, question: &Question) -> bool {
        question.bands(&self.state.leases, |_| true).next().is_some()
    }

    /// Searches for leases that give way to a request of a list.
    fn ask(
        &mut self,
        list: ListIx,
        slot: Slot,
        rights: &Rights,
        (loose, marks): (&Loose, &mut Marks),
        now: At,
    ) -> Asked {
        let priority = self.requests.get(slot).request.priority;
        let Some(question) = self.question(list, rights, priority) else { return Asked::NotAtAll };
        if !self.has_victims(&question) || !self.may_within_quota(slot, &question, rights) {
            return Asked::NotAtAll;
        }
        let gathered = self.gather(&question, rights, (loose, marks), now);
        let Ok(decision) = self.decide(slot, &question, rights, &gathered, now) else { return Asked::InVain };
        let mut nodes: Vec<NodeIx> = decision.nodes.iter().map(|node| gathered.nodes[*node as usize]).collect();
        nodes.sort_unstable();
        if decision.victims.is_empty() {
            return Asked::Awaits(nodes);
        }
        self.stop(slot, &decision, nodes, now);
        Asked::Won
    }

    /// Whether the request's queue could have it if all who may be stopped had given back what they are charged for.
    fn may_within_quota(&mut self, slot: Slot, question: &Question, rights: &Rights) -> bool {
        if self.within_quota(slot).is_ok() {
            return true;
        }
        let request = &self.requests.get(slot).request;
        let promised = self.promises.get(request.id).map(|promise| promise.amount).unwrap_or_default();
        let freed = |queue: QueueId| {
            let below = |lender: &QueueId| self.shares.above(*lender).any(|above| above == queue);
            let bands = question.bands(&self.state.leases, below);
            let asked = bands.fold(promised, |sum, band| sum.plus(&band.amount));
            asked.plus(&rights.leaving.amounts[queue.0 as usize])
        };
        self.shares.verdict_without(request.queue, &question.amount, freed).is_ok()
    }

    /// Who gives way to a request, at the least loss.
    fn decide(
        &mut self,
        slot: Slot,
        question: &Question,
        rights: &Rights,
        gathered: &Gathered,
        now: At,
    ) -> Result<Decision, Declined> {
        let waiting = self.requests.get(slot);
        let (id, queue) = (waiting.request.id, waiting.request.queue);
        let promise = self.promises.get(id);
        let otherwise_at = promise.map(|promise| promise.starts_at);
        // What it was promised counts for its queue already.
        let promised = promise.map(|promise| promise.amount).unwrap_or_default();
        let mut pending = rights.pending.clone();
        for above in self.shares.above(queue) {
            let pending = &mut pending[above.0 as usize];
            *pending = pending.minus(&promised);
        }
        self.shares.refund(queue, &promised);
        self.let_leave(&rights.leaving, false);
        let request = &self.requests.get(slot).request;
        let kept_for = |node: u32| self.state.nodes.reserved[gathered.nodes[node as usize].at()];
        let usable = |node: u32| kept_for(node).is_none_or(|owner| owner == id);
        let near = self.near_groups(&request.shape, gathered, usable);
        let mut decision = Err(Declined::NoRoom);
        // Together, where that is worth it; else anywhere.
        for domain_of in near.iter().chain([&gathered.domain_of]) {
            let asked = preempt::Asked { request, amount: question.amount, domain_of, otherwise_at };
            let fleet = Fleet {
                models: &self.spec.models,
                shares: &self.shares,
                pending: &pending,
                leaving: &rights.leaving.amounts,
                power: &mut self.power,
                loss_milli: self.spec.policy.preemption_loss_milli,
            };
            decision = preempt::decide(&gathered.ground, &asked, fleet, usable, now);
            if decision.is_ok() {
                break;
            }
        }
        self.let_leave(&rights.leaving, true);
        self.shares.charge(queue, &promised);
        decision
    }

    /// Lets leases give way to a request, and keeps the nodes for it from now on.
    fn stop(&mut self, slot: Slot, decision: &Decision, nodes: Vec<NodeIx>, now: At) {
        let request = &self.requests.get(slot).request;
        let (id, queue) = (request.id, request.queue);
        let amount = self.amount(&request.shape, nodes.len());
        self.pass.preemptions.extend(decision.victims.iter().map(|victim| Preemption {
            lease: victim.lease,
            for_request: id,
            cause: victim.cause,
            lost_gpu_seconds: victim.lost_gpu_seconds,
        }));
        let stops = decision.victims.iter().map(|victim| victim.lease).collect();
        let before = self.drop_promise(id);
        self.note_promised(id, before);
        let for_nearness = false;
        self.keep_promise(
            id,
            Promise { starts_at: now, nodes, stops, for_nearness, queue, amount, told: false, missing: 0 },
        );
    }
}

#[cfg(test)]
mod tests;
