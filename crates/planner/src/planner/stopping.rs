//! Preemption and moves: what a plan and a tick do when all that fits is placed.
//!
//! For requests that found no room, leases may have to give way. Their nodes are kept from then on by a promise that
//! starts now: nobody fills them in the meantime, and it starts when the leases are gone.
//!
//! Of each list the first in line asks, and where another has a higher priority, the first of the highest, too; queues
//! that are owed most come first. Before anybody is searched for, it is counted whether there is room if all went who
//! may be stopped (`room`).
//! Deliberately absent: several requests of one list in one pass, and memory: what was declined is asked again.

use std::collections::BTreeSet;

use crate::defrag::{self, Scope};
use crate::fleet::Amount;
use crate::plan::{Move, Preemption};
use crate::preempt::{self, Asked, Declined, Fleet, Ground, Role};
use crate::reserve::Promise;
use crate::state::topology::{NodeIx, narrow};
use crate::units::{At, LeaseId, QueueId};

use super::Planner;
use super::requests::{ListIx, Slot};

mod room;

pub(super) use room::Marks;
use room::{Loose, Question};

/// Searches without success in one pass, for each request that leases may give way to in it.
const SEARCHES_EACH: usize = 4;
/// Lists that are counted for in one pass, for each such request.
const COUNTS_EACH: usize = 32;
/// Of the lists that may stop somebody, so many for each such request come first by order; the others take turns, each
/// minute another first, so that none waits behind the same failures for ever.
const FIRST_EACH: usize = 2;
const TURN_SECONDS: i64 = 60;

/// Who may ask for what, in one pass; counted again when leases have given way to somebody.
#[derive(Debug, Clone, Default)]
pub(super) struct Rights {
    /// By queue: what requests of it, not of those below it, were promised.
    promised: Vec<Amount>,
    /// By queue: what it is charged for beside leases that stay.
    pending: Vec<Amount>,
    /// By queue: whether its leases have more than it is guaranteed.
    is_borrowing: Vec<bool>,
    /// Leases that give way in this pass.
    gone: BTreeSet<LeaseId>,
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
        if most == 0 {
            return;
        }
        let mut marks = std::mem::take(&mut self.marks);
        let loose = Loose::new(&self.state);
        let mut rights = self.rights(now, BTreeSet::new());
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
            match self.ask(&one, &rights, (&loose, &mut marks), now) {
                Ok(victims) => {
                    won += 1;
                    let mut gone = std::mem::take(&mut rights.gone);
                    gone.extend(victims);
                    rights = self.rights(now, gone);
                }
                Err(searched) => lost += searched,
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
        let leases = self.state.leases.iter().filter(|held| !self.is_stopping(held, now));
        let leases = leases.map(|held| (&held.lease, held.nodes.iter().map(|node| node.0).collect(), Role::Asked));
        Ground::new(sites.collect(), leases, |lease| self.amount(&lease.request.shape, lease.grants.len()), now)
    }

    /// Who owes whom, with these leases gone.
    fn rights(&self, now: At, gone: BTreeSet<LeaseId>) -> Rights {
        let queues = self.requests.queues();
        let mut rights = Rights { promised: vec![Amount::default(); queues], gone, ..Rights::default() };
        for (_, promise) in self.promises.iter() {
            let sum = &mut rights.promised[promise.queue.0 as usize];
            *sum = sum.plus(&promise.amount);
        }
        let all = || (0..queues).map(|queue| QueueId(narrow(queue)));
        let is_owed = |queue: QueueId| {
            let back = Amount::default().minus(&rights.promised[queue.0 as usize]);
            !self.requests.lists_of(queue).is_empty()
                && self.shares.above(queue).any(|above| self.shares.is_guaranteed(above, &back))
        };
        if !all().any(is_owed) {
            rights.pending = vec![Amount::default(); queues];
            rights.is_borrowing = vec![false; queues];
            return rights;
        }
        rights.pending = all().map(|queue| self.shares.used(queue)).collect();
        for (queue, amount) in self.state.leases.charged() {
            for above in self.shares.above(queue) {
                let pending = &mut rights.pending[above.0 as usize];
                *pending = pending.minus(amount);
            }
        }
        for held in self.stopping(now, &rights.gone).into_iter().filter_map(|lease| self.state.leases.find(lease)) {
            for above in self.shares.above(held.lease.request.queue) {
                let pending = &mut rights.pending[above.0 as usize];
                *pending = pending.plus(&held.amount);
            }
        }
        rights.is_borrowing =
            all().map(|queue| self.shares.is_borrowing(queue, &rights.pending[queue.0 as usize])).collect();
        rights
    }

    /// Leases that stop: for promises that have begun, and those that give way in this pass.
    fn stopping(&self, now: At, gone: &BTreeSet<LeaseId>) -> BTreeSet<LeaseId> {
        let begun = self.promises.iter().filter(|(_, promise)| promise.starts_at <= now);
        let nodes = begun.flat_map(|(_, promise)| &promise.nodes);
        let on_nodes = nodes.flat_map(|node| self.state.leases.on_node(*node));
        let on_nodes = on_nodes.filter(|held| held.could_be_stopping(now)).map(|held| held.lease.id);
        on_nodes.chain(gone.iter().copied()).collect()
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
            let share = |one: &Asking| self.shares.share(self.requests.list(one.list).queue);
            share(one).order(&share(other)).then(left.cmp(right))
        });
        asking.into_iter().map(|(_, one)| one).collect()
    }

    /// Whether there is room for a list if all went who may be stopped for one of it.
    fn may_find(&self, one: &Asking, rights: &Rights, loose: &Loose, marks: &mut Marks) -> bool {
        let question = self.question(one.list, rights, one.priority);
        question.is_some_and(|question| self.is_room(&question, loose, marks))
    }

    /// The first in line who waits and for whom nobody stops yet, and the first of the highest priority.
    fn askers(&self, list: ListIx, now: At) -> [Option<Slot>; 2] {
        let mut found: [Option<Slot>; 2] = [None; 2];
        let mut highest = i16::MIN;
        for item in &self.requests.list(list).items {
            if found[0].is_some() && item.priority <= highest {
                continue;
            }
            let is_placed = self.requests.get(item.slot).proposal.is_some();
            if is_placed || self.waits_for_time(item.slot, now) || self.is_stopping_for(item.slot, now) {
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

    /// Asks for the head of a list, then for its first of the highest priority. Who gives way; or how often somebody was
    /// searched for in vain.
    fn ask(
        &mut self,
        one: &Asking,
        rights: &Rights,
        (loose, marks): (&Loose, &mut Marks),
        now: At,
    ) -> Result<Vec<LeaseId>, usize> {
        let mut searched = 0;
        for slot in one.slots.into_iter().flatten() {
            let priority = self.requests.get(slot).request.priority;
            let Some(question) = self.question(one.list, rights, priority) else { continue };
            if !self.has_victims(&question) || !self.may_within_quota(slot, &question) {
                continue;
            }
            searched += 1;
            if let Ok(victims) = self.preempt_for(slot, &question, rights, (loose, &mut *marks), now) {
                return Ok(victims);
            }
        }
        Err(searched)
    }

    /// Whether the request's queue could have it if all who may be stopped had given back what they are charged for.
    fn may_within_quota(&mut self, slot: Slot, question: &Question) -> bool {
        if self.within_quota(slot).is_ok() {
            return true;
        }
        let request = &self.requests.get(slot).request;
        let promised = self.promises.get(request.id).map(|promise| promise.amount).unwrap_or_default();
        let freed = |queue: QueueId| {
            let below = |lender: &QueueId| self.shares.above(*lender).any(|above| above == queue);
            let bands = question.bands(&self.state.leases, below);
            bands.fold(promised, |sum, band| sum.plus(&band.amount))
        };
        self.shares.verdict_without(request.queue, &question.amount, freed).is_ok()
    }

    fn preempt_for(
        &mut self,
        slot: Slot,
        question: &Question,
        rights: &Rights,
        (loose, marks): (&Loose, &mut Marks),
        now: At,
    ) -> Result<Vec<LeaseId>, Declined> {
        let gathered = self.gather(question, rights, (loose, marks), now);
        let request = &self.requests.get(slot).request;
        let (id, queue, amount) = (request.id, request.queue, question.amount);
        let promise = self.promises.get(id);
        // What it was promised counts for its queue already.
        let promised = promise.map(|promise| promise.amount).unwrap_or_default();
        self.shares.refund(queue, &promised);
        let mut pending = rights.pending.clone();
        for above in self.shares.above(queue) {
            let pending = &mut pending[above.0 as usize];
            *pending = pending.minus(&promised);
        }
        let asked = Asked {
            request,
            amount,
            domain_of: &gathered.domain_of,
            otherwise_at: promise.map(|promise| promise.starts_at),
        };
        let fleet = Fleet {
            models: &self.spec.models,
            shares: &self.shares,
            pending: &pending,
            power: &mut self.power,
            loss_milli: self.spec.policy.preemption_loss_milli,
        };
        let kept_for = |node: u32| self.state.nodes.reserved[gathered.nodes[node as usize].at()];
        let usable = |node: u32| kept_for(node).is_none_or(|owner| owner == id);
        let decision = preempt::decide(&gathered.ground, &asked, fleet, usable, now);
        self.shares.charge(queue, &promised);
        let decision = decision?;
        if decision.victims.is_empty() {
            return Err(Declined::NoVictims);
        }
        self.pass.preemptions.extend(decision.victims.iter().map(|victim| Preemption {
            lease: victim.lease,
            for_request: id,
            cause: victim.cause,
            lost_gpu_seconds: victim.lost_gpu_seconds,
        }));
        let before = self.drop_promise(id);
        // Where it was promised a later start in this very pass, that stands there already.
        if self.proposals.promised.iter().all(|(request, _)| *request != id) {
            self.proposals.promised.push((id, before));
        }
        let mut nodes: Vec<NodeIx> = decision.nodes.iter().map(|node| gathered.nodes[*node as usize]).collect();
        nodes.sort_unstable();
        self.keep_promise(id, Promise { starts_at: now, nodes, queue, amount, told: false, missing: 0 });
        Ok(decision.victims.iter().map(|victim| victim.lease).collect())
    }
}

#[cfg(test)]
mod tests;
