//! Schedulers of others, written again from their descriptions, on the same site and the same jobs.
//!
//! Not their programs: what each would decide, without what their surroundings cost. They know neither power caps nor
//! shares; where that lets them start what we may not, `over_cap` counts it.

use std::collections::BTreeSet;

use anyhow::Result;
use galerne_planner::plan::{GpuGrant, Grant};
use galerne_planner::request::Gpus;
use galerne_planner::units::NodeId;

use super::occupancy::{LEVELS, Occupancy};
use super::site::{Scheduler, Site};
use super::workload::Size;

/// Jobs behind the head that one pass looks at: Slurm's default of `bf_max_job_test`.
const DEPTH: usize = 500;
/// What is believed of a run that nobody said anything about: the longest there is.
const UNSAID_SECONDS: i64 = 3 * 86_400;

/// Who comes next when the head does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Nobody.
    Fifo,
    /// Whoever does not delay the head (Lifka 1995).
    Easy,
    /// Whoever fits (Kueue's BestEffortFIFO).
    BestEffort,
}

/// Where a job goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The first nodes that are free.
    FirstFit,
    /// The first domain of the lowest level that holds it, inside it the tightest leaves (Slurm's topology/tree).
    Tree,
    /// The tightest domain of the lowest level that holds it (Kueue's topology-aware scheduling, best fit).
    BestFit,
}

/// One peer.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    line: Line,
    place: Place,
    /// By priority (but for FIFO), then arrival.
    waiting: BTreeSet<(i16, i64, usize)>,
}

/// FIFO, EASY, Slurm's tree and Kueue's best fit.
pub(crate) fn all() -> [Peer; 4] {
    let peer = |name, line, place| Peer { name, line, place, waiting: BTreeSet::new() };
    [
        peer("fifo", Line::Fifo, Place::FirstFit),
        peer("easy", Line::Easy, Place::FirstFit),
        peer("slurm-tree", Line::Easy, Place::Tree),
        peer("kueue-tas", Line::BestEffort, Place::BestFit),
    ]
}

impl Scheduler for Peer {
    fn submitted(&mut self, site: &Site, job: usize, _now: i64) -> Result<()> {
        let one = &site.jobs[job];
        let priority = if self.line == Line::Fifo { 0 } else { -one.priority };
        self.waiting.insert((priority, one.arrives_at, job));
        Ok(())
    }

    fn ended(&mut self, _site: &Site, _job: usize, _now: i64) -> Result<()> {
        Ok(())
    }

    fn saved(&mut self, _job: usize, _now: i64) -> Result<()> {
        Ok(())
    }

    fn node_changed(&mut self, _node: u32, _is_up: bool) -> Result<()> {
        Ok(())
    }

    fn decide(&mut self, site: &mut Site, now: i64) -> Result<()> {
        let mut promise: Option<Promise> = None;
        // Sizes that found no room: anywhere, and on nodes that the head does not need. Within a pass room only
        // shrinks.
        let (mut failed, mut failed_beside): (Vec<Size>, Vec<Size>) = (Vec::new(), Vec::new());
        let line: Vec<(i16, i64, usize)> = self.waiting.iter().take(DEPTH).copied().collect();
        for key in line {
            let size = site.jobs[key.2].size;
            let ends_at = now + site.progress[key.2].said_left_seconds.unwrap_or(UNSAID_SECONDS);
            let may_use = |node: u32| promise.as_ref().is_none_or(|promise| promise.allows(node, ends_at));
            let is_free_to_choose = promise.as_ref().is_none_or(|promise| ends_at <= promise.starts_at);
            if failed.contains(&size) || !is_free_to_choose && failed_beside.contains(&size) {
                continue;
            }
            if let Some(grants) = self.grants(&site.occupancy, size, is_free_to_choose, &may_use) {
                site.start(key.2, grants, now)?;
                self.waiting.remove(&key);
                continue;
            }
            match self.line {
                Line::Fifo => break,
                Line::Easy if promise.is_none() => promise = Some(Promise::of(site, size, now)),
                Line::Easy | Line::BestEffort => {}
            }
            if is_free_to_choose { failed.push(size) } else { failed_beside.push(size) }
        }
        Ok(())
    }
}

/// What the head of the line will get, and when.
struct Promise {
    starts_at: i64,
    nodes: Vec<bool>,
}

impl Promise {
    /// A run that ends in time may use anything; another only nodes that the head does not need.
    fn allows(&self, node: u32, ends_at: i64) -> bool {
        ends_at <= self.starts_at || !self.nodes[node as usize]
    }

    /// The nodes that have what the head asks for soonest, if runs end when their users say.
    fn of(site: &Site, size: Size, now: i64) -> Self {
        let layout = site.occupancy.layout;
        let mut free_at: Vec<(i64, u32)> = (0..layout.nodes)
            .filter(|node| site.occupancy.is_up(*node))
            .map(|node| (Self::free_at(site, size, node, now), node))
            .collect();
        let count = (size.nodes as usize).min(free_at.len());
        let mut nodes = vec![false; layout.nodes as usize];
        if count == 0 {
            return Self { starts_at: i64::MAX, nodes };
        }
        free_at.select_nth_unstable(count - 1);
        for (_, node) in &free_at[..count] {
            nodes[*node as usize] = true;
        }
        Self { starts_at: free_at[count - 1].0, nodes }
    }

    /// When a node has the GPUs of one member.
    fn free_at(site: &Site, size: Size, node: u32, now: i64) -> i64 {
        let needed = size.whole().max(1);
        let mut free = site.occupancy.whole(node);
        if free >= needed {
            return now;
        }
        let mut ends: Vec<(i64, u8)> = Vec::with_capacity(8);
        for job in &site.on_node[node as usize] {
            if let Some(running) = &site.progress[*job].running {
                let end = running.said_end_at.unwrap_or(running.started_at + UNSAID_SECONDS).max(now);
                ends.push((end, site.jobs[*job].size.whole().max(1)));
            }
        }
        ends.sort_unstable();
        for (end, gpus) in ends {
            free = free.saturating_add(gpus);
            if free >= needed {
                return end;
            }
        }
        i64::MAX
    }
}

impl Peer {
    fn grants(&self, on: &Occupancy, size: Size, anywhere: bool, may_use: &dyn Fn(u32) -> bool) -> Option<Vec<Grant>> {
        if size.nodes == 1 {
            return self.single(on, size.per_node, may_use).map(|grant| vec![grant]);
        }
        let wanted = size.nodes;
        if on.idle(3)[0] < wanted {
            return None;
        }
        let nodes = match self.place {
            // Domains are counted without the promise: where it forbids nodes, the plain search decides.
            Place::Tree | Place::BestFit if anywhere => self.by_domain(on, wanted),
            Place::FirstFit | Place::Tree | Place::BestFit => {
                (0..on.layout.nodes).filter(|node| on.is_idle(*node) && may_use(*node)).take(wanted as usize).collect()
            }
        };
        (nodes.len() == wanted as usize).then(|| nodes.into_iter().map(|node| whole_node(on, node)).collect())
    }

    fn single(&self, on: &Occupancy, gpus: Gpus, may_use: &dyn Fn(u32) -> bool) -> Option<Grant> {
        let nodes = || (0..on.layout.nodes).filter(|node| on.is_up(*node));
        match gpus {
            Gpus::Whole(count) => {
                let fits = |node: &u32| on.whole(*node) >= count && may_use(*node);
                let node = match self.place {
                    Place::BestFit => nodes().filter(fits).min_by_key(|node| on.whole(*node)),
                    Place::FirstFit | Place::Tree => nodes().find(fits),
                }?;
                Some(Grant { node: NodeId(u64::from(node)), gpus: GpuGrant::Whole(lowest(on, node, count)) })
            }
            Gpus::Milli(milli) => {
                let best = |node: u32| {
                    let fits = on.gpus(node).iter().enumerate().filter(|(_, free)| **free >= milli);
                    fits.min_by_key(|(_, free)| **free).map(|(gpu, free)| (*free, gpu, node))
                };
                let mut found = nodes().filter(|node| may_use(*node)).filter_map(best);
                let (_, gpu, node) = match self.place {
                    Place::BestFit => found.min_by_key(|(free, _, node)| (*free, *node)),
                    Place::FirstFit | Place::Tree => found.next(),
                }?;
                let gpu = u8::try_from(gpu).unwrap_or(0);
                Some(Grant { node: NodeId(u64::from(node)), gpus: GpuGrant::Milli { gpu, milli } })
            }
            Gpus::Slice(_) => None,
        }
    }

    /// The lowest level of which a domain holds all.
    fn by_domain(&self, on: &Occupancy, wanted: u32) -> Vec<u32> {
        for level in 0..LEVELS.len() {
            let mut fits = on.idle(level).iter().enumerate().filter(|(_, idle)| **idle >= wanted);
            let domain = match self.place {
                Place::BestFit => fits.min_by_key(|(domain, idle)| (**idle, *domain)),
                Place::FirstFit | Place::Tree => fits.next(),
            };
            if let Some((domain, _)) = domain {
                let mut nodes = Vec::with_capacity(wanted as usize);
                take(on, level, domain, wanted, &mut nodes);
                return nodes;
            }
        }
        Vec::new()
    }
}

/// From one domain: whole children, the fullest first, until one child holds the rest; of those, the tightest.
fn take(on: &Occupancy, level: usize, domain: usize, wanted: u32, nodes: &mut Vec<u32>) {
    let size = on.layout.nodes_per(LEVELS[level]) as usize;
    let end = ((domain + 1) * size).min(on.layout.nodes as usize);
    if level == 0 {
        let here = (domain * size..end).filter_map(|node| u32::try_from(node).ok()).filter(|node| on.is_idle(*node));
        nodes.extend(here.take(wanted as usize));
        return;
    }
    let child = on.layout.nodes_per(LEVELS[level - 1]) as usize;
    let first = domain * size / child;
    let mut children: Vec<(u32, usize)> =
        (first..end.div_ceil(child)).map(|child| (on.idle(level - 1)[child], child)).collect();
    children.sort_unstable_by_key(|(idle, child)| (std::cmp::Reverse(*idle), *child));
    let mut left = wanted;
    for place in 0..children.len() {
        if left == 0 {
            return;
        }
        let (idle, child) = children[place];
        if idle >= left {
            // Of those that hold the rest the last has the fewest.
            let tightest =
                children[place..].iter().rev().find(|(idle, _)| *idle >= left).map_or(child, |(_, child)| *child);
            take(on, level - 1, tightest, left, nodes);
            return;
        }
        take(on, level - 1, child, idle, nodes);
        left -= idle;
    }
}

fn whole_node(on: &Occupancy, node: u32) -> Grant {
    let gpus = GpuGrant::Whole(lowest(on, node, on.layout.gpus_per_node));
    Grant { node: NodeId(u64::from(node)), gpus }
}

/// The lowest free GPUs of a node, a bit each.
fn lowest(on: &Occupancy, node: u32, count: u8) -> u16 {
    let free = on.gpus(node).iter().enumerate().filter(|(_, free)| **free == 1000);
    free.take(usize::from(count)).fold(0, |mask, (gpu, _)| mask | 1 << gpu)
}

#[cfg(test)]
mod tests;
