//! Counts of the nodes that could hold one member of a gang, by domain, kept exact while nodes change: which domain
//! fits best is then read off.
//!
//! A view is made for each different member (classes, GPUs, CPU, memory) that a gang asks for; gangs that differ only
//! in size or nearness share one. Levels with many domains keep them in buckets by count, a bit each.
//!
//! INVARIANT: bit `v` of a node's word says whether it is open and could hold a member of view `v` now; each domain's
//! count is the number of its nodes with that bit.

use crate::pack::NodeFree;
use crate::state::topology::{NO_DOMAIN, NodeIx, Topology, narrow};

/// Views kept at once: bits of a word.
pub(crate) const MAX_VIEWS: usize = 64;

/// What one member of a gang needs of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    /// Classes it may lie on, a bit each.
    pub(crate) classes: u64,
    /// Whole GPUs.
    pub(crate) gpus: u8,
    pub(crate) cpu_milli: u32,
    pub(crate) memory_mib: u32,
}

impl Member {
    /// Whether a node of this class, with this free, could hold it.
    pub(crate) const fn fits(&self, class: u8, free: &NodeFree, whole: u8) -> bool {
        self.classes >> class & 1 == 1
            && whole >= self.gpus
            && free.cpu_milli >= self.cpu_milli
            && free.memory_mib >= self.memory_mib
    }
}

/// All views.
#[derive(Debug, Clone, Default)]
pub(crate) struct Views {
    views: Vec<View>,
    /// By node: which views it could serve.
    bits: Vec<u64>,
}

#[derive(Debug, Clone)]
struct View {
    member: Member,
    /// Gang shapes that use it; one that nobody uses may be replaced.
    users: u32,
    tables: Vec<Index>,
}

/// Domains of one level by how many of their nodes could serve.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Index {
    counts: Vec<u32>,
    /// A set of domains for each count from 0 to the largest domain's size; empty where a walk over counts is as fast.
    buckets: Vec<u64>,
    /// Domains in each bucket.
    filled: Vec<u32>,
    /// Words of a bucket.
    words: usize,
}

/// Up to so many domains a walk over the counts costs less than keeping buckets.
const WALKED_DOMAINS: usize = 64;

impl Index {
    fn new(sizes: impl Iterator<Item = usize>) -> Self {
        let (mut domains, mut largest) = (0, 0);
        for size in sizes {
            domains += 1;
            largest = largest.max(size);
        }
        let mut index = Self { counts: vec![0; domains], buckets: Vec::new(), filled: Vec::new(), words: 0 };
        if domains > WALKED_DOMAINS {
            index.words = domains.div_ceil(64);
            index.buckets = vec![0; index.words * (largest + 1)];
            index.filled = vec![0; largest + 1];
            index.filled[0] = narrow(domains);
            for domain in 0..domains {
                index.buckets[domain / 64] |= 1 << (domain % 64);
            }
        }
        index
    }

    fn change(&mut self, domain: u32, up: bool) {
        let at = domain as usize;
        let old = self.counts[at] as usize;
        let new = if up { old + 1 } else { old - 1 };
        self.counts[at] = narrow(new);
        if self.words > 0 {
            let (word, bit) = (at / 64, 1 << (at % 64));
            self.buckets[old * self.words + word] &= !bit;
            self.buckets[new * self.words + word] |= bit;
            self.filled[old] -= 1;
            self.filled[new] += 1;
        }
    }

    /// The smallest count that is enough; of equals the last domain.
    fn best_fit(&self, needed: u32) -> Option<u32> {
        if self.words == 0 {
            let enough = self.counts.iter().zip(0..).filter(|(count, _)| **count >= needed);
            return enough
                .min_by_key(|(count, domain): &(&u32, u32)| (**count, std::cmp::Reverse(*domain)))
                .map(|(_, domain)| domain);
        }
        let count = (needed as usize..self.filled.len()).find(|count| self.filled[*count] > 0)?;
        let words = &self.buckets[count * self.words..][..self.words];
        let word = words.iter().rposition(|word| *word != 0)?;
        Some(narrow(word * 64) + 63 - words[word].leading_zeros())
    }

    /// The most nodes that one domain has; of equals the last domain.
    fn largest(&self) -> Option<(u32, u32)> {
        let count = match self.filled.iter().rposition(|filled| *filled > 0) {
            Some(count) => narrow(count),
            None => self.counts.iter().copied().max()?,
        };
        self.best_fit(count).map(|domain| (domain, count))
    }
}

impl Views {
    /// No view yet.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { views: Vec::new(), bits: vec![0; nodes] }
    }

    /// A view of this member, made when there is none: `serves` says which nodes could hold it now. `None`: all views
    /// are in use.
    pub(crate) fn open(
        &mut self,
        topology: &Topology,
        member: Member,
        serves: impl Fn(NodeIx) -> bool,
    ) -> Option<usize> {
        let known = self.views.iter().position(|view| view.member == member);
        if let Some(known) = known {
            self.views[known].users += 1;
            return Some(known);
        }
        let slot = match self.views.iter().position(|view| view.users == 0) {
            Some(slot) if self.views.len() == MAX_VIEWS => slot,
            _ if self.views.len() < MAX_VIEWS => self.views.len(),
            _ => return None,
        };
        let sizes = |table: usize| topology.tables()[table].sizes();
        let tables = (0..topology.tables().len()).map(|table| Index::new(sizes(table))).collect();
        let view = View { member, users: 1, tables };
        if slot == self.views.len() {
            self.views.push(view);
        } else {
            self.views[slot] = view;
        }
        for at in 0..self.bits.len() {
            self.bits[at] &= !(1 << slot);
            if serves(NodeIx::new(at)) {
                self.flip(topology, NodeIx::new(at), slot);
            }
        }
        Some(slot)
    }

    /// A gang shape does not use it any more.
    pub(crate) fn close(&mut self, view: usize) {
        self.views[view].users -= 1;
    }

    /// A node changed; `free`: what it has free, or `None` while it is not open.
    pub(crate) fn change(&mut self, topology: &Topology, node: NodeIx, class: u8, free: Option<(&NodeFree, u8)>) {
        let mut bits = 0;
        if let Some((free, whole)) = free {
            for (slot, view) in self.views.iter().enumerate() {
                bits |= u64::from(view.member.fits(class, free, whole)) << slot;
            }
        }
        let mut flipped = bits ^ self.bits[node.at()];
        while flipped != 0 {
            self.flip(topology, node, flipped.trailing_zeros() as usize);
            flipped &= flipped - 1;
        }
    }

    /// Whether the node could hold a member now.
    pub(crate) fn serves(&self, view: usize, node: NodeIx) -> bool {
        self.bits[node.at()] >> view & 1 == 1
    }

    /// Nodes of a domain that could hold a member now.
    pub(crate) fn count(&self, view: usize, table: usize, domain: u32) -> u32 {
        self.views[view].tables[table].counts[domain as usize]
    }

    /// The domain of a level with the smallest count that is enough; of equals the last.
    pub(crate) fn best_fit(&self, view: usize, table: usize, needed: u32) -> Option<u32> {
        self.views[view].tables[table].best_fit(needed)
    }

    /// The domain of a level with the most such nodes, and how many.
    pub(crate) fn largest(&self, view: usize, table: usize) -> Option<(u32, u32)> {
        self.views[view].tables[table].largest()
    }

    /// Counts from nothing and compares.
    #[cfg(test)]
    pub(crate) fn check(&self, topology: &Topology, serves: impl Fn(&Member, NodeIx) -> bool) {
        for (slot, view) in self.views.iter().enumerate() {
            let sizes = |table: usize| topology.tables()[table].sizes();
            let mut again: Vec<Index> = (0..topology.tables().len()).map(|table| Index::new(sizes(table))).collect();
            for node in (0..self.bits.len()).map(NodeIx::new) {
                let bit = serves(&view.member, node);
                assert_eq!(bit, self.serves(slot, node), "view {slot} of {node:?}");
                for (index, table) in again.iter_mut().zip(topology.tables()) {
                    let domain = table.domain_of[node.at()];
                    if bit && domain != NO_DOMAIN {
                        index.change(domain, true);
                    }
                }
            }
            assert_eq!(again, view.tables, "counts of view {slot} are what a recount gives");
        }
    }

    fn flip(&mut self, topology: &Topology, node: NodeIx, slot: usize) {
        self.bits[node.at()] ^= 1 << slot;
        let up = self.bits[node.at()] >> slot & 1 == 1;
        for (index, table) in self.views[slot].tables.iter_mut().zip(topology.tables()) {
            let domain = table.domain_of[node.at()];
            if domain != NO_DOMAIN {
                index.change(domain, up);
            }
        }
    }
}
