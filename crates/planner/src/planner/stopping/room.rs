//! Whether there would be room if all went who may be stopped, and the nodes that matter when somebody is looked for.
//!
//! Only nodes with a lease that may be stopped or is stopping are looked at, and those on which a member has room now.

use crate::fleet::Amount;
use crate::gang::parts_needed;
use crate::pack::NodeFree;
use crate::plan::GpuGrant;
use crate::preempt::{Ground, NO_DOMAIN, OUTSIDE, Role, Site};
use crate::request::{Gpus, Request, Shape, Stop};
use crate::state::State;
use crate::state::leases::{Band, Held, Leases};
use crate::state::topology::NodeIx;
use crate::units::{At, QueueId};

use super::super::Planner;
use super::super::requests::ListIx;
use super::rights::Rights;

/// Who may be stopped for a request of a list, and what it needs.
pub(super) struct Question {
    list: ListIx,
    queue: QueueId,
    shape: Shape,
    classes: u64,
    /// Those of its queue below this one may be stopped.
    priority: i16,
    /// Queues that lent what its own is guaranteed.
    lenders: Vec<QueueId>,
    needed: u32,
    pub(super) amount: Amount,
    /// The level that it must stay within, by its table.
    table: Option<usize>,
}

impl Question {
    /// Whole GPUs of one member; zero for a part of one.
    const fn whole(&self) -> u8 {
        match self.shape.gpus {
            Gpus::Whole(count) => count,
            Gpus::Milli(_) | Gpus::Slice(_) => 0,
        }
    }

    fn may_stop(&self, request: &Request) -> bool {
        request.stop != Stop::Never
            && if request.queue == self.queue {
                request.priority < self.priority
            } else {
                !self.lenders.is_empty() && self.lenders.binary_search(&request.queue).is_ok()
            }
    }

    /// Leases that may be stopped, of queues that `wanted` says.
    pub(super) fn bands<'b>(
        &'b self,
        leases: &'b Leases,
        wanted: impl Fn(&QueueId) -> bool + 'b,
    ) -> impl Iterator<Item = &'b Band> {
        let own = wanted(&self.queue).then(|| leases.below(self.queue, self.priority));
        let lent =
            self.lenders.iter().filter(move |lender| wanted(lender)).flat_map(|lender| leases.stoppable(*lender));
        own.into_iter().flatten().chain(lent)
    }
}

/// Nodes seen and places given; filled again and again.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Marks {
    stamp: u32,
    seen: Vec<u32>,
    place: Vec<u32>,
    by_domain: Vec<(u32, u32)>,
}

impl Marks {
    fn begin(&mut self, nodes: usize) {
        if self.seen.len() < nodes || self.stamp == u32::MAX {
            self.seen = vec![0; nodes];
            self.place = vec![0; nodes];
            self.stamp = 0;
        }
        self.stamp += 1;
        self.by_domain.clear();
    }

    /// `true` the first time.
    fn mark(&mut self, node: NodeIx) -> bool {
        std::mem::replace(&mut self.seen[node.at()], self.stamp) != self.stamp
    }
}

/// Nodes with a part of a GPU free.
#[derive(Debug, Clone, Default)]
pub(super) struct Loose {
    nodes: Vec<NodeIx>,
}

impl Loose {
    /// As the fleet is now.
    pub(super) fn new(state: &State) -> Self {
        let nodes = (0..state.nodes.len()).map(NodeIx::new);
        Self { nodes: nodes.filter(|node| state.nodes.free[node.at()].has_gpu()).collect() }
    }
}

/// What one decision looks at.
pub(super) struct Gathered {
    pub(super) ground: Ground,
    /// By place on the ground.
    pub(super) nodes: Vec<NodeIx>,
    pub(super) domain_of: Vec<u32>,
}

impl Planner {
    /// What a list asks, with the rights of one priority; `None` where nothing could be gained.
    pub(super) fn question(&self, list: ListIx, rights: &Rights, priority: i16) -> Option<Question> {
        let asking = self.requests.list(list);
        let entry = self.shapes.get(asking.shape);
        let shape = entry.kind.shape;
        let topology = &self.state.topology;
        let table = match shape.within {
            None => None,
            Some(level) => Some(topology.table_of(level)?),
        };
        let amount = self.amount(&shape, usize::from(shape.nodes.min));
        if amount.gpu_milli <= 0 {
            return None;
        }
        let owed = self.owed_to(list, rights);
        let queue = asking.queue;
        Some(Question {
            list,
            queue,
            shape,
            classes: entry.classes,
            priority,
            lenders: if owed == 0 { Vec::new() } else { self.lenders(queue, owed, rights) },
            needed: u32::from(shape.nodes.min.max(1)),
            amount,
            table,
        })
    }

    /// Whether enough nodes of one domain could hold a member if all went who may be stopped, and somebody may.
    pub(super) fn is_room(&self, question: &Question, rights: &Rights, loose: &Loose, marks: &mut Marks) -> bool {
        let leases = &self.state.leases;
        if question.bands(leases, |_| true).next().is_none() {
            return false;
        }
        let left = self.stopping(rights).flat_map(|held| &held.nodes);
        let held = question.bands(leases, |_| true).map(|band| band.nodes).sum::<usize>() + loose.nodes.len();
        if held + left.clone().count() < question.needed as usize {
            return false;
        }
        marks.begin(self.state.nodes.len());
        let mut most = 0;
        let victims = question.bands(leases, |_| true).flat_map(Band::leases).flat_map(|ix| &leases.get(ix).nodes);
        for node in victims.chain(left).copied().chain(self.with_room(question, loose)) {
            if !marks.mark(node) || !self.could_clear(node, question, rights) {
                continue;
            }
            let domain = self.domain(node, question);
            let known = marks.by_domain.iter().position(|(other, _)| *other == domain);
            let place = known.unwrap_or_else(|| {
                marks.by_domain.push((domain, 0));
                marks.by_domain.len() - 1
            });
            marks.by_domain[place].1 += 1;
            most = most.max(if domain == NO_DOMAIN { 0 } else { marks.by_domain[place].1 });
            if most >= question.needed {
                return true;
            }
        }
        false
    }

    /// The domain that a request must stay within on this node.
    fn domain(&self, node: NodeIx, question: &Question) -> u32 {
        question.table.map_or(0, |table| self.state.topology.tables()[table].domain_of[node.at()])
    }

    /// Nodes on which a member has room now.
    fn with_room(&self, question: &Question, loose: &Loose) -> impl Iterator<Item = NodeIx> {
        let (nodes, shape) = (&self.state.nodes, question.shape);
        let count = question.whole();
        let has = move |node: &NodeIx| nodes.whole[node.at()] >= count && nodes.free[node.at()].could_hold(&shape);
        loose.nodes.iter().copied().filter(has)
    }

    /// Whether a member has room on a node if all went who may be stopped.
    fn could_clear(&self, node: NodeIx, question: &Question, rights: &Rights) -> bool {
        if !self.may_use(node, question) {
            return false;
        }
        let goes = |held: &Held| question.may_stop(&held.lease.request) || rights.stopping.contains(&held.lease.id);
        self.free_without(node, goes).could_hold(&question.shape)
    }

    /// What is free on a node when these leases have left.
    fn free_without(&self, node: NodeIx, goes: impl Fn(&Held) -> bool) -> NodeFree {
        let mut free = self.state.nodes.free[node.at()];
        for held in self.state.leases.on_node(node).filter(|held| goes(held)) {
            let shape = &held.lease.request.shape;
            for gpus in parts(held, node) {
                free.give(gpus, shape.cpu_milli, shape.memory_mib);
            }
        }
        free
    }

    /// Leases that stop already.
    fn stopping<'a>(&'a self, rights: &'a Rights) -> impl Iterator<Item = &'a Held> + Clone {
        rights.stopping.iter().filter_map(|lease| self.state.leases.find(*lease))
    }

    /// Whether requests of a list may use a node, at least the one that it is kept for.
    fn may_use(&self, node: NodeIx, question: &Question) -> bool {
        let nodes = &self.state.nodes;
        nodes.in_service(node)
            && question.classes >> nodes.class[node.at()] & 1 == 1
            && nodes.allowed(node, &question.shape)
            && nodes.reserved[node.at()].is_none_or(|owner| {
                self.requests.find(owner).is_some_and(|slot| self.requests.get(slot).list == question.list)
            })
    }

    /// By node of the ground: a group of domains of the preferred level that could hold the whole gang, of as few of
    /// them as any; `None` where it prefers none, or no such group is there.
    pub(super) fn near_groups(
        &self,
        shape: &Shape,
        gathered: &Gathered,
        usable: impl Fn(u32) -> bool,
    ) -> Option<Vec<u32>> {
        let nodes = shape.nodes;
        if self.spec.policy.nearness_milli == 0 || nodes.max < 2 || shape.within.is_some() {
            return None;
        }
        let table = &self.state.topology.tables()[self.state.topology.table_of(shape.prefer?)?];
        let domain = |node: &NodeIx| table.domain_of[node.at()];
        let mut counts: Vec<(u32, usize)> = (0..table.len()).map(|domain| (0, domain)).collect();
        for ((node, site), place) in gathered.nodes.iter().zip(gathered.ground.sites()).zip(0..) {
            if domain(node) != NO_DOMAIN && !site.is_kept && usable(place) {
                counts[domain(node) as usize].0 += 1;
            }
        }
        counts.sort_unstable_by(|left, right| right.cmp(left));
        let mut group_of = vec![NO_DOMAIN; table.len()];
        let (mut rest, mut fewest, mut groups) = (&counts[..], usize::MAX, 0);
        while let Some(taken) = parts_needed(rest.iter().map(|(count, _)| *count), u32::from(nodes.min)) {
            let taken = taken as usize;
            if taken > fewest {
                break;
            }
            let (group, others) = rest.split_at(taken);
            group.iter().for_each(|(_, domain)| group_of[*domain] = groups);
            (rest, fewest, groups) = (others, taken, groups + 1);
        }
        let group = |node: &NodeIx| if domain(node) == NO_DOMAIN { NO_DOMAIN } else { group_of[domain(node) as usize] };
        (groups > 0).then(|| gathered.nodes.iter().map(group).collect())
    }

    pub(super) fn site(&self, node: NodeIx, is_kept: bool) -> Site {
        let nodes = &self.state.nodes;
        let at = node.at();
        Site {
            id: self.state.topology.id(node),
            gpus: nodes.gpus[at],
            free: nodes.free[at],
            model: nodes.model[at],
            power: nodes.power[at],
            is_kept,
        }
    }

    /// The nodes that matter for a question, and the leases on them that do: those that may be stopped, and those that
    /// share a GPU with others. Those that stop already have left.
    pub(super) fn gather(
        &self,
        question: &Question,
        rights: &Rights,
        (loose, marks): (&Loose, &mut Marks),
        now: At,
    ) -> Gathered {
        let leases = &self.state.leases;
        let is_stopping = |held: &Held| rights.stopping.contains(&held.lease.id);
        let bands = question.bands(leases, |_| true).flat_map(Band::leases).map(|ix| leases.get(ix));
        let victims: Vec<&Held> = bands.filter(|held| !is_stopping(held)).collect();
        marks.begin(self.state.nodes.len());
        let left = self.stopping(rights);
        let freed = victims.iter().copied().chain(left).flat_map(|held| &held.nodes).copied();
        let all = freed.chain(self.with_room(question, loose));
        let mut nodes: Vec<NodeIx> = all.filter(|node| marks.mark(*node)).collect();
        nodes.sort_unstable();
        for (node, place) in nodes.iter().zip(0..) {
            marks.place[node.at()] = place;
        }
        let shares_gpus = |held: &&Held| {
            let request = &held.lease.request;
            !matches!(request.shape.gpus, Gpus::Whole(_)) && !question.may_stop(request) && !is_stopping(held)
        };
        let mut others: Vec<&Held> = nodes.iter().flat_map(|node| leases.on_node(*node)).filter(shares_gpus).collect();
        others.sort_unstable_by_key(|held| held.lease.id);
        others.dedup_by_key(|held| held.lease.id);
        let site = |node: &NodeIx| {
            let is_kept = !self.may_use(*node, question) || rights.leaving.awaited.contains(node);
            Site { free: self.free_without(*node, is_stopping), ..self.site(*node, is_kept) }
        };
        let sites = nodes.iter().map(site).collect();
        let place = |node: &NodeIx| if marks.seen[node.at()] == marks.stamp { marks.place[node.at()] } else { OUTSIDE };
        let victims = victims.into_iter().map(|held| (held, Role::Asked));
        let placed = victims.chain(others.into_iter().map(|held| (held, Role::InTheWay)));
        let placed = placed.map(|(held, role)| (&held.lease, held.nodes.iter().map(place).collect(), role));
        let ground = Ground::new(sites, placed, |lease| self.amount(&lease.request.shape, lease.grants.len()), now);
        let domain = |node: &NodeIx| self.domain(*node, question);
        Gathered { ground, domain_of: nodes.iter().map(domain).collect(), nodes }
    }
}

/// A lease's GPUs of a node.
fn parts(held: &Held, node: NodeIx) -> impl Iterator<Item = GpuGrant> {
    let here = held.nodes.iter().zip(&held.lease.grants).filter(move |(other, _)| **other == node);
    here.map(|(_, grant)| grant.gpus)
}
