//! The cheapest set of leases without which a whole request has room, within the domains it may lie in.
//!
//! A gang's price is spread over as many of its nodes as the request could use, so the sum of a domain's cheapest
//! clearings is a lower bound for it: whatever is stopped there, no node is cleared for less than its part. Domains are
//! tried in the order of that bound until none can beat what was found.

use std::cmp::Reverse;

use crate::fleet::Amount;
use crate::plan::PreemptionCause;
use crate::power::PowerBlock;
use crate::preempt::clear::{self, Member, NEVER};
use crate::preempt::{Asked, Declined, Fleet, Ground, NO_DOMAIN, Rights, Run, lenders};
use crate::units::{PowerId, QueueId};

/// Domains in which victims are really looked for; more change the answer rarely and cost time always.
const MOST_DOMAINS: usize = 8;
/// How often a queue's leases that reach too far into its guarantee are set aside and the search begins anew.
const MOST_ROUNDS: usize = 6;
/// Leases among which every subset is tried.
const MOST_EXHAUSTIVE: usize = 12;
/// Nodes of such leases, above which trying all subsets would take too long.
const MOST_EXHAUSTIVE_NODES: usize = 64;
/// Leases stopped for quota or power beside those stopped for room.
const MOST_REPAIRS: usize = 64;

/// A set of victims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Runs, ascending.
    pub(super) victims: Vec<u32>,
    pub(super) nodes: Vec<u32>,
    pub(super) lost: u64,
    pub(super) bound: u64,
}

/// A node that can be cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    domain: u32,
    price: u64,
    is_held: bool,
    node: u32,
    bound: u64,
    /// Its victims in `Search::clearings`.
    from: u32,
    to: u32,
}

/// Why a set of victims is not enough.
enum Block {
    Room,
    Quota(crate::fair::QuotaBlock),
    Power(PowerBlock),
    /// These runs reach into a guarantee.
    Guarantee(Vec<u32>),
}

struct Search<'a> {
    ground: &'a Ground,
    asked: &'a Asked<'a>,
    fleet: Fleet<'a>,
    member: Member<'a>,
    rights: Rights<'a>,
    needed: usize,
    /// By run; `NEVER` for those that stay.
    price: Vec<u64>,
    /// By run: its price for one node.
    part: Vec<u64>,
    clearings: Vec<u32>,
    /// By run: whether it is in the set at hand.
    is_gone: Vec<bool>,
}

/// The cheapest set found, and the bound. Nothing dearer than `allowed` is looked for closely.
pub(super) fn cheapest(
    ground: &Ground,
    asked: &Asked<'_>,
    fleet: Fleet<'_>,
    rights: Rights<'_>,
    usable: impl Fn(u32) -> bool,
    allowed: u64,
) -> Result<Found, Declined> {
    let price: Vec<u64> = ground
        .runs
        .iter()
        .zip(rights.causes)
        .map(|(run, cause)| if cause.is_some() { run.lost.unwrap_or(NEVER) } else { NEVER })
        .collect();
    let member = Member { shape: &asked.request.shape, models: fleet.models };
    let needed = usize::from(asked.request.shape.nodes.min.max(1));
    let part = Vec::new();
    let is_gone = vec![false; price.len()];
    let mut search =
        Search { ground, asked, fleet, member, rights, needed, price, part, clearings: Vec::new(), is_gone };
    let mut bound = None;
    let mut block = Block::Room;
    for _ in 0..MOST_ROUNDS {
        let candidates = search.candidates(&usable);
        let domains = search.domains(&candidates);
        let least = domains.first().map_or(0, |(bound, _, _)| *bound);
        // Only the first round, with nobody set aside, bounds every set.
        let bound = *bound.get_or_insert(least);
        if bound > allowed {
            return Ok(Found { victims: Vec::new(), nodes: Vec::new(), lost: bound, bound });
        }
        match search.best_of(&candidates, &domains, allowed) {
            Ok((victims, nodes)) => {
                let lost = search.lost(&victims);
                return Ok(Found { victims, nodes, lost, bound: bound.min(lost) });
            }
            Err(Block::Guarantee(runs)) => runs.iter().for_each(|run| search.price[*run as usize] = NEVER),
            Err(other) => {
                block = other;
                break;
            }
        }
    }
    Err(match block {
        Block::Room | Block::Guarantee(_) => Declined::NoRoom,
        Block::Quota(block) => Declined::Quota(block),
        Block::Power(block) => Declined::Power(block),
    })
}

impl Search<'_> {
    /// Every node that can be cleared, by domain, then the cheapest first.
    fn candidates(&mut self, usable: impl Fn(u32) -> bool) -> Vec<Candidate> {
        let most = u64::try_from(self.needed).unwrap_or(1);
        let spread = |run: &Run| u64::try_from(run.nodes.len()).unwrap_or(1).clamp(1, most);
        let part = |(price, run): (&u64, &Run)| if *price == NEVER { NEVER } else { price / spread(run) };
        self.part = self.price.iter().zip(&self.ground.runs).map(part).collect();
        self.clearings.clear();
        let mut candidates = Vec::new();
        for (node, &domain) in (0_u32..).zip(self.asked.domain_of) {
            if domain == NO_DOMAIN || self.ground.sites[node as usize].is_kept || !usable(node) {
                continue;
            }
            let from = self.clearings.len();
            let clearing = clear::clear(self.ground, node, &self.member, &self.part, &mut self.clearings);
            if let Some(clearing) = clearing {
                let (from, to) = (narrow(from), narrow(self.clearings.len()));
                let (price, is_held) = (clearing.price, from < to);
                candidates.push(Candidate { domain, price, is_held, node, bound: clearing.bound, from, to });
            }
        }
        candidates.sort_unstable();
        candidates
    }

    /// Domains with enough candidates: a lower bound of what clearing one costs, and where its candidates stand.
    fn domains(&self, candidates: &[Candidate]) -> Vec<(u64, usize, usize)> {
        let mut domains = Vec::new();
        let mut from = 0;
        for group in candidates.chunk_by(|left, right| left.domain == right.domain) {
            if group.len() >= self.needed {
                let mut bounds: Vec<u64> = group.iter().map(|candidate| candidate.bound).collect();
                if self.needed < bounds.len() {
                    bounds.select_nth_unstable(self.needed);
                }
                let bound = bounds[..self.needed].iter().copied().fold(0, u64::saturating_add);
                domains.push((bound, from, from + group.len()));
            }
            from += group.len();
        }
        domains.sort_unstable();
        domains
    }

    /// The cheapest set of the best domains.
    fn best_of(
        &mut self,
        candidates: &[Candidate],
        domains: &[(u64, usize, usize)],
        allowed: u64,
    ) -> Result<(Vec<u32>, Vec<u32>), Block> {
        let mut best: Option<(u64, Vec<u32>, Vec<u32>)> = None;
        let mut block = Block::Room;
        for &(bound, from, to) in domains.iter().take(MOST_DOMAINS) {
            if best.as_ref().is_some_and(|(lost, _, _)| bound >= *lost) {
                break;
            }
            let found = self.in_domain(&candidates[from..to], bound, allowed);
            self.is_gone.fill(false);
            match found {
                Ok((victims, nodes)) => {
                    let lost = self.lost(&victims);
                    if best.as_ref().is_none_or(|(least, _, _)| lost < *least) {
                        best = Some((lost, victims, nodes));
                    }
                }
                Err(other) if matches!(block, Block::Room) => block = other,
                Err(_) => {}
            }
        }
        best.map(|(_, victims, nodes)| (victims, nodes)).ok_or(block)
    }

    /// Victims within one domain: those of the cheapest nodes together, without the superfluous.
    fn in_domain(&mut self, candidates: &[Candidate], bound: u64, allowed: u64) -> Result<(Vec<u32>, Vec<u32>), Block> {
        let mut victims: Vec<u32> = Vec::new();
        for candidate in &candidates[..self.needed] {
            for &run in &self.clearings[candidate.from as usize..candidate.to as usize] {
                if !std::mem::replace(&mut self.is_gone[run as usize], true) {
                    victims.push(run);
                }
            }
        }
        let nodes = self.prune(candidates, &mut victims);
        let enough = match self.enough(&nodes, &victims) {
            Ok(nodes) => Ok(nodes),
            Err(block) => self.repair(&nodes, &mut victims, block),
        };
        let nodes = match enough {
            Ok(nodes) => nodes,
            // What was put together by price alone breaks a rule: where there are few, all others are tried.
            Err(block) => return self.exhaust(candidates, &[], NEVER).ok_or(block),
        };
        let lost = self.lost(&victims);
        victims.sort_unstable();
        // An allowed set that loses no more than any must is as good as can be.
        if lost <= bound || bound > allowed {
            return Ok((victims, nodes));
        }
        Ok(self.exhaust(candidates, &victims, lost).unwrap_or((victims, nodes)))
    }

    /// Leaves out again, the dearest first, whom the request does not need gone; returns the nodes that are clear then,
    /// in order.
    fn prune(&mut self, candidates: &[Candidate], victims: &mut Vec<u32>) -> Vec<u32> {
        let mut touched: Vec<u32> =
            victims.iter().flat_map(|run| &self.ground.runs[*run as usize].nodes).copied().collect();
        touched.sort_unstable();
        touched.dedup();
        // Nodes that are clear anyway stay so.
        let free = candidates.partition_point(|candidate| candidate.price == 0 && !candidate.is_held);
        let mut nodes: Vec<u32> = candidates[..free].iter().map(|candidate| candidate.node).collect();
        let mut in_domain: Vec<u32> = candidates[free..].iter().map(|candidate| candidate.node).collect();
        in_domain.sort_unstable();
        touched.retain(|node| in_domain.binary_search(node).is_ok());
        let mut is_clear: Vec<bool> = touched.iter().map(|node| self.is_clear(*node)).collect();
        let mut clear = free + is_clear.iter().filter(|is| **is).count();
        victims.sort_unstable_by_key(|run| (Reverse(self.price[*run as usize]), Reverse(*run)));
        let mut kept = Vec::with_capacity(victims.len());
        for &run in victims.iter() {
            self.is_gone[run as usize] = false;
            let mut lost = Vec::new();
            for node in &self.ground.runs[run as usize].nodes {
                let Ok(at) = touched.binary_search(node) else { continue };
                if is_clear[at] && !self.is_clear(*node) {
                    lost.push(at);
                }
            }
            if clear - lost.len() >= self.needed {
                clear -= lost.len();
                lost.into_iter().for_each(|at| is_clear[at] = false);
            } else {
                self.is_gone[run as usize] = true;
                kept.push(run);
            }
        }
        *victims = kept;
        nodes.extend(touched.iter().zip(&is_clear).filter(|(_, is)| **is).map(|(node, _)| *node));
        nodes
    }

    /// Whether a member fits on a node without the runs that are gone.
    fn is_clear(&self, node: u32) -> bool {
        let site = &self.ground.sites[node as usize];
        let mut free = site.free;
        for hold in self.ground.on_node(node) {
            if self.is_gone[hold.run as usize] {
                let run = &self.ground.runs[hold.run as usize];
                free.give(hold.gpus, run.shape.cpu_milli, run.shape.memory_mib);
            }
        }
        self.member.fits(&free, site.model)
    }

    /// Whether the request may start on some of these clear nodes without the victims; which.
    fn enough(&mut self, nodes: &[u32], victims: &[u32]) -> Result<Vec<u32>, Block> {
        if nodes.len() < self.needed {
            return Err(Block::Room);
        }
        self.borrowed(victims)?;
        self.quota(victims)?;
        self.powered(nodes, victims)
    }

    /// Every queue lends only what it borrowed: of what it gives back, all but the last lease leave it above its
    /// guarantee.
    fn borrowed(&self, victims: &[u32]) -> Result<(), Block> {
        let reclaimed = |run: &&u32| self.rights.causes[**run as usize] == Some(PreemptionCause::Reclaim);
        let mut order: Vec<u32> = victims.iter().filter(reclaimed).copied().collect();
        order.sort_unstable_by_key(|run| (self.ground.runs[*run as usize].amount, *run));
        let mut freed: Vec<(QueueId, Amount)> = Vec::new();
        let mut too_far = Vec::new();
        for index in order {
            let run = &self.ground.runs[index as usize];
            let shares = self.fleet.shares;
            let given = |freed: &[(QueueId, Amount)], queue: QueueId| {
                freed
                    .iter()
                    .find(|(other, _)| *other == queue)
                    .map(|(_, amount)| *amount)
                    .unwrap_or(self.rights.pending[queue.0 as usize])
            };
            let queues = || lenders(shares, self.asked.request.queue, run.queue);
            if !queues().all(|queue| shares.is_borrowing(queue, &given(&freed, queue))) {
                too_far.push(index);
                continue;
            }
            for queue in queues() {
                match freed.iter_mut().find(|(other, _)| *other == queue) {
                    Some((_, amount)) => *amount = amount.plus(&run.amount),
                    None => freed.push((queue, self.rights.pending[queue.0 as usize].plus(&run.amount))),
                }
            }
        }
        if too_far.is_empty() { Ok(()) } else { Err(Block::Guarantee(too_far)) }
    }

    fn quota(&self, victims: &[u32]) -> Result<(), Block> {
        let shares = self.fleet.shares;
        let freed = |queue: QueueId| {
            let below = |run: &&Run| shares.above(run.queue).any(|other| other == queue);
            let runs = victims.iter().map(|run| &self.ground.runs[*run as usize]);
            runs.filter(below).fold(self.fleet.leaving[queue.0 as usize], |sum, run| sum.plus(&run.amount))
        };
        shares.verdict_without(self.asked.request.queue, &self.asked.amount, freed).map_err(Block::Quota)
    }

    /// The first nodes on which the request's watts are admitted together.
    fn powered(&mut self, nodes: &[u32], victims: &[u32]) -> Result<Vec<u32>, Block> {
        let (class, watts) = (self.asked.request.class, i64::from(self.asked.request.shape.peak_watts));
        for run in victims {
            self.draw(*run, false);
        }
        let mut chosen = Vec::new();
        let mut block = None;
        for node in nodes {
            if chosen.len() == self.needed {
                break;
            }
            let power = self.ground.sites[*node as usize].power;
            match self.fleet.power.fits(power, class, watts) {
                Ok(()) => {
                    self.fleet.power.add(power, class, watts);
                    chosen.push(*node);
                }
                Err(other) => block = block.or(Some(other)),
            }
        }
        for node in &chosen {
            self.fleet.power.remove(self.ground.sites[*node as usize].power, class, watts);
        }
        for run in victims {
            self.draw(*run, true);
        }
        if chosen.len() == self.needed {
            chosen.sort_unstable();
            return Ok(chosen);
        }
        Err(block.map_or(Block::Room, Block::Power))
    }

    /// A run's watts, taken from the power tree or put back.
    fn draw(&mut self, run: u32, draws: bool) {
        let run = &self.ground.runs[run as usize];
        for node in &run.nodes {
            let power = self.ground.sites[*node as usize].power;
            if draws {
                self.fleet.power.add(power, run.class, i64::from(run.shape.peak_watts));
            } else {
                self.fleet.power.remove(power, run.class, i64::from(run.shape.peak_watts));
            }
        }
    }

    /// There is room, but quota or power is missing: adds the cheapest runs that use them until it is enough, and
    /// leaves out again whoever is not needed.
    fn repair(&mut self, nodes: &[u32], victims: &mut Vec<u32>, block: Block) -> Result<Vec<u32>, Block> {
        let mut block = block;
        let mut enough = None;
        for _ in 0..MOST_REPAIRS {
            let uses = |run: &Run| match &block {
                Block::Quota(block) => self.fleet.shares.above(run.queue).any(|queue| queue == block.queue),
                Block::Power(block) => run.shape.peak_watts > 0 && self.draws_below(run, block.power),
                Block::Room | Block::Guarantee(_) => false,
            };
            let next = (0..narrow(self.price.len()))
                .filter(|run| self.price[*run as usize] != NEVER && !self.is_gone[*run as usize])
                .filter(|run| uses(&self.ground.runs[*run as usize]))
                .min_by_key(|run| (self.price[*run as usize], *run));
            let Some(next) = next else { return Err(block) };
            self.is_gone[next as usize] = true;
            victims.push(next);
            match self.enough(nodes, victims) {
                Ok(nodes) => {
                    enough = Some(nodes);
                    break;
                }
                Err(other) => block = other,
            }
        }
        let mut chosen = enough.ok_or(block)?;
        victims.sort_unstable_by_key(|run| (Reverse(self.price[*run as usize]), Reverse(*run)));
        let mut at = 0;
        while at < victims.len() {
            let run = victims.remove(at);
            self.is_gone[run as usize] = false;
            let still: Vec<u32> = nodes.iter().copied().filter(|node| self.is_clear(*node)).collect();
            if let Ok(nodes) = self.enough(&still, victims) {
                chosen = nodes;
            } else {
                self.is_gone[run as usize] = true;
                victims.insert(at, run);
                at += 1;
            }
        }
        Ok(chosen)
    }

    fn draws_below(&self, run: &Run, point: PowerId) -> bool {
        run.nodes.iter().any(|node| {
            let power = self.ground.sites[*node as usize].power;
            std::iter::successors(Some(power), |power| self.fleet.power.parent(*power)).any(|above| above == point)
        })
    }

    /// Every subset of the victims and the next best others: the cheapest that is enough and loses less than `lost`.
    fn exhaust(&mut self, candidates: &[Candidate], victims: &[u32], lost: u64) -> Option<(Vec<u32>, Vec<u32>)> {
        if victims.len() > MOST_EXHAUSTIVE {
            return None;
        }
        let pool = self.pool(&candidates[..candidates.len().min(self.needed + MOST_EXHAUSTIVE_NODES)], victims, lost);
        let touched = pool.iter().map(|run| self.ground.runs[*run as usize].nodes.len()).sum::<usize>();
        if touched > MOST_EXHAUSTIVE_NODES {
            return None;
        }
        self.is_gone.fill(false);
        let counts = self.clear_counts(candidates, &pool);
        let mut subsets: Vec<(u64, u32)> = (0..1_u32 << pool.len())
            .map(|subset| {
                let price = |at: usize| if subset >> at & 1 == 1 { self.price[pool[at] as usize] } else { 0 };
                ((0..pool.len()).map(price).fold(0, u64::saturating_add), subset)
            })
            .filter(|(price, _)| *price < lost)
            .collect();
        subsets.sort_unstable();
        for (_, subset) in subsets {
            if counts.count(subset) < self.needed {
                continue;
            }
            let mut chosen: Vec<u32> = (0..pool.len()).filter(|at| subset >> at & 1 == 1).map(|at| pool[at]).collect();
            chosen.sort_unstable();
            chosen.iter().for_each(|run| self.is_gone[*run as usize] = true);
            let clear: Vec<u32> =
                candidates.iter().map(|candidate| candidate.node).filter(|node| self.is_clear(*node)).collect();
            let enough = self.enough(&clear, &chosen);
            chosen.iter().for_each(|run| self.is_gone[*run as usize] = false);
            if let Ok(nodes) = enough {
                return Some((chosen, nodes));
            }
        }
        None
    }

    /// The victims, then the cheapest others on these nodes that alone lose less than they do together.
    fn pool(&self, candidates: &[Candidate], victims: &[u32], lost: u64) -> Vec<u32> {
        let mut others: Vec<u32> = candidates
            .iter()
            .flat_map(|candidate| self.ground.on_node(candidate.node))
            .map(|hold| hold.run)
            .filter(|run| self.price[*run as usize] < lost && !victims.contains(run))
            .collect();
        others.sort_unstable();
        others.dedup();
        others.sort_by_key(|run| self.part[*run as usize]);
        let mut pool = victims.to_vec();
        pool.extend(others.into_iter().take(MOST_EXHAUSTIVE.saturating_sub(victims.len())));
        pool
    }

    /// Tables from which the number of clear nodes is read for each subset of the pool.
    fn clear_counts(&mut self, candidates: &[Candidate], pool: &[u32]) -> ClearCounts {
        let mut counts = ClearCounts { always: 0, groups: Vec::new() };
        for candidate in candidates {
            let here = |run: &u32| self.ground.on_node(candidate.node).iter().any(|hold| hold.run == *run);
            let places: Vec<usize> = (0..pool.len()).filter(|at| here(&pool[*at])).collect();
            if places.is_empty() {
                counts.always += usize::from(self.is_clear(candidate.node));
                continue;
            }
            let known = counts.groups.iter().position(|(other, _)| *other == places);
            let group = known.unwrap_or_else(|| {
                counts.groups.push((places.clone(), vec![0; 1 << places.len()]));
                counts.groups.len() - 1
            });
            for part in 0..1_usize << places.len() {
                places.iter().enumerate().for_each(|(bit, at)| self.is_gone[pool[*at] as usize] = part >> bit & 1 == 1);
                counts.groups[group].1[part] += usize::from(self.is_clear(candidate.node));
            }
            places.iter().for_each(|at| self.is_gone[pool[*at] as usize] = false);
        }
        counts
    }

    fn lost(&self, victims: &[u32]) -> u64 {
        victims.iter().fold(0, |sum: u64, run| sum.saturating_add(self.price[*run as usize]))
    }
}

/// How many nodes of a domain are clear, by subset of a pool of runs.
struct ClearCounts {
    always: usize,
    /// Places in the pool of the runs on some nodes, and how many of these are clear by subset of those.
    groups: Vec<(Vec<usize>, Vec<usize>)>,
}

impl ClearCounts {
    fn count(&self, subset: u32) -> usize {
        let part = |places: &[usize]| {
            places.iter().enumerate().fold(0, |part, (bit, at)| part | ((subset >> at & 1) as usize) << bit)
        };
        self.groups.iter().fold(self.always, |sum, (places, clear)| sum + clear[part(places)])
    }
}

/// A place as 32 bits: there are fewer grants than that.
fn narrow(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
