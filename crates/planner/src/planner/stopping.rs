//! Preemption and moves: what the pass does when all that fits is placed.
//!
//! For the first request of each list that found no room, leases may have to give way. Its nodes are kept from then
//! on by a promise that starts now: nobody fills them in the meantime, and it starts when the leases are gone.
//! Whom nobody gave way to is asked again only when something has changed that could.

use crate::defrag::{self, Scope};
use crate::plan::{Move, Preemption};
use crate::preempt::{self, Asked, Fleet, Ground, Site};
use crate::reserve::Promise;
use crate::state::leases::Held;
use crate::state::topology::NodeIx;
use crate::units::{At, QueueId};

use super::Planner;
use super::requests::{ListIx, Slot};

impl Planner {
    /// Lets leases give way to requests that found no room.
    pub(super) fn preempt(&mut self, now: At) {
        self.pass.preemptions.clear();
        let most = usize::from(self.spec.policy.preemptions);
        let mut asking = if most == 0 { Vec::new() } else { self.preemptors(now) };
        if asking.is_empty() {
            return;
        }
        asking.truncate(most);
        let mut ground = self.ground(now);
        for (list, slot) in asking {
            if self.preempt_for(slot, &mut ground, now) {
                continue;
            }
            let declined = (self.requests.get(slot).request.id, self.stamps.events);
            self.requests.list_mut(list).declined = Some(declined);
        }
    }

    /// Moves that make room grow together, while nothing else is to be done.
    pub(super) fn moves(&mut self, now: At) -> Vec<Move> {
        let idle = self.proposals.placed.is_empty() && self.pass.preemptions.is_empty();
        if self.spec.policy.moves == 0 || !idle {
            return Vec::new();
        }
        let ground = self.ground(now);
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

    /// The first of each list that leases could give way to, those of queues that are owed most first.
    fn preemptors(&self, now: At) -> Vec<(ListIx, Slot)> {
        let mut asking = Vec::new();
        for queue in 0..self.requests.queues() {
            let queue = QueueId(crate::state::topology::narrow(queue));
            for ix in self.requests.lists_of(queue) {
                let list = self.requests.list(*ix);
                let waits = |slot: Slot| self.requests.get(slot).proposal.is_none() && !self.waits_for_time(slot, now);
                let Some(head) = list.items.iter().find(|item| waits(item.slot)) else { continue };
                let request = &self.requests.get(head.slot).request;
                let was_declined = list.declined == Some((request.id, self.stamps.events));
                if list.quota.is_none()
                    && !was_declined
                    && !self.is_stopping_for(head.slot, now)
                    && self.may_stop(head.slot)
                {
                    asking.push((*ix, head.slot));
                }
            }
        }
        asking.sort_by(|left, right| {
            let of = |slot: Slot| &self.requests.get(slot).request;
            let share = |slot: Slot| self.shares.share(of(slot).queue);
            let by_share = share(left.1).order(&share(right.1));
            by_share.then_with(|| self.requests.get(left.1).key.cmp(&self.requests.get(right.1).key))
        });
        asking
    }

    /// Whether leases are stopping for a request already.
    pub(super) fn is_stopping_for(&self, slot: Slot, now: At) -> bool {
        self.promises.get(self.requests.get(slot).request.id).is_some_and(|promise| promise.starts_at <= now)
    }

    /// Whether anything runs that might give way to a request: a first look that costs little.
    fn may_stop(&self, slot: Slot) -> bool {
        let request = &self.requests.get(slot).request;
        let asked = self.amount(&request.shape, usize::from(request.shape.nodes.min));
        self.state.leases.stops_below(request.queue, request.priority)
            || self.shares.above(request.queue).any(|queue| self.shares.is_guaranteed(queue, &asked))
                && self.state.leases.stops_beside(request.queue)
    }

    /// Nodes and leases as `preempt` and `defrag` look at them. Leases that are stopping already are left out: their
    /// nodes are kept for others.
    fn ground(&self, now: At) -> Ground {
        let nodes = &self.state.nodes;
        let sites = (0..nodes.len()).map(|at| Site {
            id: self.state.topology.id(NodeIx::new(at)),
            gpus: nodes.gpus[at],
            free: nodes.free[at],
            model: nodes.model[at],
            power: nodes.power[at],
            is_kept: nodes.reserved[at].is_some(),
        });
        let stays = |held: &&Held| !held.nodes.iter().any(|node| nodes.kept_until[node.at()] <= now);
        let leases = self.state.leases.iter().filter(stays);
        let leases = leases.map(|held| (&held.lease, held.nodes.iter().map(|node| node.0).collect()));
        Ground::new(sites.collect(), leases, |lease| self.amount(&lease.request.shape, lease.grants.len()), now)
    }

    fn preempt_for(&mut self, slot: Slot, ground: &mut Ground, now: At) -> bool {
        let waiting = self.requests.get(slot);
        let request = &waiting.request;
        let shape = request.shape;
        let classes = self.shapes.get(self.requests.list(waiting.list).shape).classes;
        let amount = self.amount(&shape, usize::from(shape.nodes.min));
        let topology = &self.state.topology;
        let Some(table) = shape.within.map_or_else(|| Some(topology.whole()), |level| topology.table_of(level)) else {
            return false;
        };
        let promise = self.promises.get(request.id);
        let asked = Asked {
            request,
            amount,
            domain_of: &topology.tables()[table].domain_of,
            otherwise_at: promise.map(|promise| promise.starts_at),
        };
        let fleet = Fleet {
            models: &self.spec.models,
            shares: &self.shares,
            power: &mut self.power,
            loss_milli: self.spec.policy.preemption_loss_milli,
        };
        let nodes = &self.state.nodes;
        let usable = |node: u32| {
            let node = NodeIx(node);
            nodes.in_service(node)
                && nodes.reserved[node.at()].is_none_or(|owner| owner == request.id)
                && classes >> nodes.class[node.at()] & 1 == 1
                && nodes.allowed(node, &shape)
        };
        let Ok(decision) = preempt::decide(ground, &asked, fleet, usable, now) else { return false };
        if decision.victims.is_empty() {
            return false;
        }
        let (for_request, queue) = (request.id, request.queue);
        ground.commit(&decision);
        self.pass.preemptions.extend(decision.victims.iter().map(|victim| Preemption {
            lease: victim.lease,
            for_request,
            cause: victim.cause,
            lost_gpu_seconds: victim.lost_gpu_seconds,
        }));
        let before = self.drop_promise(for_request);
        self.proposals.promised.push((for_request, before));
        let mut nodes: Vec<NodeIx> = decision.nodes.iter().map(|node| NodeIx(*node)).collect();
        nodes.sort_unstable();
        self.keep_promise(for_request, Promise { starts_at: now, nodes, queue, amount, told: false, missing: 0 });
        true
    }
}
