//! Gangs: which domain, and which of its nodes.
//!
//! The smallest level that holds the gang, there the domain it fits best, so that whole domains stay whole. Within
//! the domain the same once more at each finer level: full subdomains first, the rest into the one that fits best,
//! which touches as few of them as can be. A gang that no domain of its preferred level holds goes where it touches the
//! fewest of those. Among single nodes those that seldom fail come first, then tight ones.
//!
//! Deliberately absent: queues, time, promises. What a caller may use is asked of the views, or of its predicate.

use crate::power::{PowerBlock, PowerTree};
use crate::request::Shape;
use crate::state::State;
use crate::state::topology::{NO_DOMAIN, NodeIx, narrow};
use crate::units::TenantClass;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) class: TenantClass,
    /// Where its members are counted; `None`: walk over all nodes.
    pub(crate) view: Option<usize>,
    pub(crate) min: u32,
    pub(crate) max: u32,
    /// Be near this node.
    pub(crate) near: Option<NodeIx>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Not enough nodes together.
    Room,
    /// Not enough watts.
    Power(PowerBlock),
}

/// Lists that are filled again and again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scratch {
    /// The nodes found.
    pub(crate) chosen: Vec<NodeIx>,
    ranked: Vec<(u8, u8, NodeIx)>,
    children: Vec<(u32, u32)>,
    counts: Vec<u32>,
    domains: Vec<(u32, u32, std::cmp::Reverse<u32>)>,
    parts: Vec<u32>,
    blocked: Option<PowerBlock>,
    /// The most nodes of one domain for which there were watts, where there were too few.
    most: usize,
}

/// Finds nodes, leaves them in `scratch.chosen`, and commits their watts.
///
/// # Errors
/// What was missing; nothing is committed then.
pub(crate) fn choose(state: &State, power: &mut PowerTree, ask: &Ask, scratch: &mut Scratch) -> Result<(), NoPlace> {
    let Some(view) = ask.view else {
        let open = |node: NodeIx| state.nodes.open(node) && state.could_place(node, ask.shape);
        return choose_among(state, power, ask, scratch, open);
    };
    let mut search = Search { state, power, ask, scratch, serves: |node: NodeIx| state.views.serves(view, node) };
    search.by_view(view)
}

/// The same among nodes that a predicate allows, by a walk over all nodes.
///
/// # Errors
/// What was missing; nothing is committed then.
pub(crate) fn choose_among(
    state: &State,
    power: &mut PowerTree,
    ask: &Ask,
    scratch: &mut Scratch,
    serves: impl Fn(NodeIx) -> bool,
) -> Result<(), NoPlace> {
    Search { state, power, ask, scratch, serves }.by_walk()
}

/// Parts that so many nodes need of those that have so many each, the fullest first; `None` where all are not enough.
pub(crate) fn parts_needed(fullest_first: impl Iterator<Item = u32>, needed: u32) -> Option<u32> {
    let mut left = needed;
    let used = fullest_first.take_while(|count| {
        let is_needed = left > 0;
        left = left.saturating_sub(*count);
        is_needed
    });
    let used = narrow(used.count());
    (left == 0).then_some(used)
}

struct Search<'a, F> {
    state: &'a State,
    power: &'a mut PowerTree,
    ask: &'a Ask<'a>,
    scratch: &'a mut Scratch,
    serves: F,
}

impl<F: Fn(NodeIx) -> bool> Search<'_, F> {
    fn by_view(&mut self, view: usize) -> Result<(), NoPlace> {
        let (state, ask) = (self.state, self.ask);
        let order = &state.topology.order(ask.shape.within, ask.shape.prefer).tables;
        let tables = || order.iter().copied().map(usize::from);
        let best =
            tables().filter_map(|table| state.views.largest(view, table)).map(|(_, count)| count).max().unwrap_or(0);
        if best < ask.min {
            return Err(NoPlace::Room);
        }
        let wanted = best.min(ask.max);
        self.scratch.blocked = None;
        let count = |table: usize, domain: u32| state.views.count(view, table, domain);
        if let Some(near) = ask.near {
            for table in tables() {
                let domain = state.topology.tables()[table].domain_of[near.at()];
                if domain != NO_DOMAIN && count(table, domain) >= wanted && self.fill(table, domain, wanted, &count) {
                    return Ok(());
                }
            }
        }
        for table in tables() {
            let best = match self.preferred_parts(table, 0) {
                None => state.views.best_fit(view, table, wanted),
                Some(_) => self.fewest_parts(table, wanted, &count),
            };
            let Some(domain) = best else { continue };
            if self.fill(table, domain, wanted, &count) {
                return Ok(());
            }
            break;
        }
        self.by_power(&count, wanted)
    }

    fn by_walk(&mut self) -> Result<(), NoPlace> {
        let (state, ask) = (self.state, self.ask);
        let order = &state.topology.order(ask.shape.within, ask.shape.prefer).tables;
        // One row of counts for each table, one after the other.
        let starts: Vec<usize> = state
            .topology
            .tables()
            .iter()
            .scan(0, |next, table| {
                let start = *next;
                *next += table.len();
                Some(start)
            })
            .collect();
        let total = state.topology.tables().iter().map(crate::state::topology::LevelTable::len).sum();
        let mut counts = std::mem::take(&mut self.scratch.counts);
        counts.clear();
        counts.resize(total, 0);
        for node in (0..state.nodes.len()).map(NodeIx::new).filter(|node| (self.serves)(*node)) {
            for (table, start) in state.topology.tables().iter().zip(&starts) {
                let domain = table.domain_of[node.at()];
                if domain != NO_DOMAIN {
                    counts[start + domain as usize] += 1;
                }
            }
        }
        let count = |table: usize, domain: u32| counts[starts[table] + domain as usize];
        let best = order.iter().copied().map(usize::from);
        let best = best.flat_map(|table| {
            let domains = narrow(state.topology.tables()[table].len());
            (0..domains).map(move |domain| count(table, domain))
        });
        let best = best.max().unwrap_or(0);
        self.scratch.blocked = None;
        let result = if best < ask.min { Err(NoPlace::Room) } else { self.by_power(&count, best.min(ask.max)) };
        self.scratch.counts = counts;
        result
    }

    /// The preferred level's domains within a domain of a coarser table; `None` where that level is not below.
    fn preferred_parts(&self, table: usize, domain: u32) -> Option<(usize, std::ops::Range<u32>)> {
        let topology = &self.state.topology;
        let preferred = topology.table_of(self.ask.shape.prefer?)?;
        Some((preferred, topology.within(table, domain, preferred)?))
    }

    /// Of the domains that hold the gang, the one where it touches the fewest domains of the preferred level; of
    /// those the one it fits best, of equals the last.
    fn fewest_parts(&mut self, table: usize, needed: u32, count: &impl Fn(usize, u32) -> u32) -> Option<u32> {
        let mut best: Option<(u32, u32, std::cmp::Reverse<u32>)> = None;
        for domain in 0..narrow(self.state.topology.tables()[table].len()) {
            let has = count(table, domain);
            if has >= needed {
                let key = (self.part_count(table, domain, needed, count), has, std::cmp::Reverse(domain));
                best = Some(best.map_or(key, |best| best.min(key)));
            }
        }
        best.map(|(_, _, domain)| domain.0)
    }

    /// Domains of the preferred level that a gang would touch in a domain; zero where that level is not within.
    fn part_count(&mut self, table: usize, domain: u32, needed: u32, count: &impl Fn(usize, u32) -> u32) -> u32 {
        let Some((preferred, parts)) = self.preferred_parts(table, domain) else { return 0 };
        self.scratch.parts.clear();
        self.scratch.parts.extend(parts.map(|part| count(preferred, part)));
        self.scratch.parts.sort_unstable_by(|left, right| right.cmp(left));
        let parts = &self.scratch.parts;
        // Where they are not enough, the rest stands in none of them.
        parts_needed(parts.iter().copied(), needed).unwrap_or_else(|| narrow(parts.len()))
    }

    /// Every domain that has enough nodes, best first, until one has the watts too; then with the least nodes asked.
    fn by_power(&mut self, count: &impl Fn(usize, u32) -> u32, wanted: u32) -> Result<(), NoPlace> {
        let (state, ask) = (self.state, self.ask);
        let order = &state.topology.order(ask.shape.within, ask.shape.prefer).tables;
        let mut needed = wanted;
        // The first domain is tried again: how many nodes it has watts for is what an elastic gang asks for next.
        self.scratch.blocked = None;
        loop {
            self.scratch.most = 0;
            let mut fewer = 0;
            for table in order.iter().copied().map(usize::from) {
                let mut domains = std::mem::take(&mut self.scratch.domains);
                domains.clear();
                for domain in 0..narrow(state.topology.tables()[table].len()) {
                    match count(table, domain) {
                        has if has >= needed => {
                            let parts = self.part_count(table, domain, needed, count);
                            domains.push((parts, has, std::cmp::Reverse(domain)));
                        }
                        has => fewer = fewer.max(has),
                    }
                }
                domains.sort_unstable();
                let found =
                    domains.iter().any(|(_, _, domain)| !self.hopeless() && self.fill(table, domain.0, needed, count));
                self.scratch.domains = domains;
                if found {
                    return Ok(());
                }
            }
            // The next number worth asking for: what watts allowed where there were enough nodes, or all nodes of a
            // domain that has fewer.
            needed = narrow(self.scratch.most).max(fewer).min(needed - 1);
            if needed < ask.min {
                return Err(self.scratch.blocked.map_or(NoPlace::Room, NoPlace::Power));
            }
            self.scratch.blocked = None;
        }
    }

    /// Whether the point that blocked feeds the whole fleet: then no other domain helps.
    fn hopeless(&self) -> bool {
        self.scratch.blocked.is_some_and(|block| self.state.feeds_all(block.power))
    }

    /// Takes `needed` nodes of a domain that has enough; `false` and nothing taken where watts do not suffice.
    fn fill(&mut self, table: usize, domain: u32, needed: u32, count: &impl Fn(usize, u32) -> u32) -> bool {
        self.scratch.chosen.clear();
        self.spread(table, domain, needed, count);
        let missing = |scratch: &Scratch| needed as usize - scratch.chosen.len();
        if missing(self.scratch) > 0 {
            // Watts kept some nodes out: any other of the domain will do.
            let left = narrow(missing(self.scratch));
            self.take_rest(table, domain, left);
        }
        if missing(self.scratch) == 0 {
            return true;
        }
        self.scratch.most = self.scratch.most.max(self.scratch.chosen.len());
        let watts = i64::from(self.ask.shape.peak_watts);
        for node in self.scratch.chosen.drain(..) {
            self.power.remove(self.state.nodes.power[node.at()], self.ask.class, watts);
        }
        false
    }

    /// Full subdomains first, the rest into the one that fits best.
    fn spread(&mut self, table: usize, domain: u32, needed: u32, count: &impl Fn(usize, u32) -> u32) {
        let next = || self.state.topology.tables()[table].children(domain);
        let Some((finer, children)) = self.preferred_parts(table, domain).or_else(next) else {
            return self.take_flat(table, domain, needed);
        };
        let start = self.scratch.children.len();
        self.scratch.children.extend(children.map(|child| (count(finer, child), child)).filter(|(has, _)| *has > 0));
        let total: u32 = self.scratch.children[start..].iter().map(|(has, _)| has).sum();
        if total < needed {
            // Some nodes stand in no subdomain.
            self.scratch.children.truncate(start);
            return self.take_flat(table, domain, needed);
        }
        self.scratch.children[start..].sort_unstable_by(|left, right| right.cmp(left));
        let mut left = needed;
        let mut at = start;
        while left > 0 && at < self.scratch.children.len() {
            let (has, child) = self.scratch.children[at];
            if has > left {
                let fits = self.scratch.children[at..].iter().filter(|(has, _)| *has >= left);
                let best = fits.min_by_key(|(has, child)| (*has, std::cmp::Reverse(*child))).copied();
                if let Some((_, child)) = best {
                    self.spread(finer, child, left, count);
                }
                left = 0;
            } else {
                self.take_flat(finer, child, has);
                left -= has;
                at += 1;
            }
        }
        self.scratch.children.truncate(start);
    }

    /// Takes up to `needed` nodes of a domain, the best first.
    fn take_flat(&mut self, table: usize, domain: u32, needed: u32) {
        self.rank(table, domain);
        self.take_ranked(needed);
    }

    /// The same among those not taken yet.
    fn take_rest(&mut self, table: usize, domain: u32, needed: u32) {
        self.rank(table, domain);
        let mut taken = self.scratch.chosen.clone();
        taken.sort_unstable();
        self.scratch.ranked.retain(|(_, _, node)| taken.binary_search(node).is_err());
        self.take_ranked(needed);
    }

    fn rank(&mut self, table: usize, domain: u32) {
        let nodes = &self.state.nodes;
        let serves = &self.serves;
        let members = self.state.topology.tables()[table].members(domain).iter().copied();
        let serving = members.filter(|node| serves(*node));
        self.scratch.ranked.clear();
        self.scratch.ranked.extend(serving.map(|node| (nodes.rank[node.at()], nodes.whole[node.at()], node)));
        self.scratch.ranked.sort_unstable();
    }

    fn take_ranked(&mut self, needed: u32) {
        let watts = i64::from(self.ask.shape.peak_watts);
        let mut left = needed;
        for &(_, _, node) in &self.scratch.ranked {
            if left == 0 {
                break;
            }
            let leaf = self.state.nodes.power[node.at()];
            match self.power.fits(leaf, self.ask.class, watts) {
                Ok(()) => {
                    self.power.add(leaf, self.ask.class, watts);
                    self.scratch.chosen.push(node);
                    left -= 1;
                }
                Err(block) => {
                    self.scratch.blocked = Some(block);
                    if self.state.feeds_all(block.power) {
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
