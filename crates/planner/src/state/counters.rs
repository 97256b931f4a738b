//! How many nodes of a class have how many whole GPUs free, in every domain of every level.
//!
//! INVARIANT: a node is counted where it is open to everybody's work, and nowhere otherwise.

use crate::state::nodes::Nodes;
use crate::state::topology::{NO_DOMAIN, NodeIx, Topology, narrow};
use crate::units::MAX_GPUS;

/// Free whole GPUs of a node: 0 to 16.
const BINS: usize = MAX_GPUS + 1;

/// The histograms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counters {
    classes: usize,
    /// By table: `[domain][class][free]`.
    tables: Vec<Vec<u32>>,
}

impl Counters {
    /// Nobody is counted yet.
    pub(crate) fn new(topology: &Topology, nodes: &Nodes) -> Self {
        let classes = nodes.classes.len().min(crate::state::nodes::MAX_CLASSES);
        let tables = topology.tables().iter().map(|table| vec![0; table.len() * classes * BINS]).collect();
        Self { classes, tables }
    }

    /// A node's free whole GPUs changed; `None`: it is not open.
    pub(crate) fn change(&mut self, topology: &Topology, node: NodeIx, class: u8, old: Option<u8>, new: Option<u8>) {
        if old == new {
            return;
        }
        for (counts, table) in self.tables.iter_mut().zip(topology.tables()) {
            let domain = table.domain_of[node.at()];
            if domain == NO_DOMAIN {
                continue;
            }
            let base = (domain as usize * self.classes + usize::from(class)) * BINS;
            if let Some(old) = old {
                counts[base + usize::from(old)] -= 1;
            }
            if let Some(new) = new {
                counts[base + usize::from(new)] += 1;
            }
        }
    }

    /// Open nodes of these classes in a domain with at least so many whole GPUs free.
    pub(crate) fn nodes_with(&self, table: usize, domain: u32, classes: u64, gpus: u8) -> u32 {
        self.bins(table, domain, classes).map(|bins| bins[usize::from(gpus).min(BINS)..].iter().sum::<u32>()).sum()
    }

    /// Whole GPUs free on open nodes of these classes in a domain.
    pub(crate) fn free_gpus(&self, table: usize, domain: u32, classes: u64) -> u32 {
        let sum = |bins: &[u32]| bins.iter().zip(0..).map(|(count, gpus): (&u32, u32)| count * gpus).sum::<u32>();
        self.bins(table, domain, classes).map(sum).sum()
    }

    /// Most whole GPUs free on one open node of these classes in a domain; `None` where there is no such node.
    pub(crate) fn largest(&self, table: usize, domain: u32, classes: u64) -> Option<u8> {
        let highest = |bins: &[u32]| bins.iter().rposition(|count| *count > 0);
        let largest = self.bins(table, domain, classes).filter_map(highest).max()?;
        u8::try_from(largest).ok()
    }

    /// The domain of a level with the most open nodes of these classes that have so many whole GPUs free, and how
    /// many it has; the first of equals.
    pub(crate) fn best_domain(&self, table: usize, classes: u64, gpus: u8) -> Option<(u32, u32)> {
        let domains = self.tables[table].len() / (self.classes * BINS).max(1);
        (0..narrow(domains))
            .map(|domain| (self.nodes_with(table, domain, classes, gpus), std::cmp::Reverse(domain)))
            .max()
            .map(|(count, domain)| (domain.0, count))
    }

    fn bins(&self, table: usize, domain: u32, classes: u64) -> impl Iterator<Item = &[u32]> {
        let base = domain as usize * self.classes * BINS;
        let all = &self.tables[table][base..base + self.classes * BINS];
        all.chunks_exact(BINS).enumerate().filter(move |(class, _)| classes >> class & 1 == 1).map(|(_, bins)| bins)
    }
}
