//! What is taken on every node: the truth of the simulated site, against which every scheduler's decisions are checked.

use anyhow::{Result, bail, ensure};
use galerne_planner::fleet::Level;
use galerne_planner::plan::{GpuGrant, Grant};

use super::fleet::Layout;

const MOST_GPUS: usize = 8;
const WHOLE: u16 = 1000;

/// Free thousandths of each GPU, which nodes are up, and how many nodes of each domain are up and wholly free.
#[derive(Debug, Clone)]
pub(crate) struct Occupancy {
    pub(crate) layout: Layout,
    free: Vec<[u16; MOST_GPUS]>,
    up: Vec<bool>,
    idle: [Vec<u32>; 4],
    used_milli: i64,
    up_count: u32,
}

/// The levels that idle nodes are counted at, fine to coarse.
pub(crate) const LEVELS: [Level; 4] = [Level::Rack, Level::Unit, Level::Pod, Level::Site];

impl Occupancy {
    pub(crate) fn new(layout: Layout) -> Self {
        let mut gpus = [0; MOST_GPUS];
        gpus[..usize::from(layout.gpus_per_node)].fill(WHOLE);
        let nodes = layout.nodes as usize;
        let domains = |level: Level| {
            let size = layout.nodes_per(level);
            (0..layout.nodes.div_ceil(size)).map(|domain| size.min(layout.nodes - domain * size)).collect()
        };
        Self {
            layout,
            free: vec![gpus; nodes],
            up: vec![true; nodes],
            idle: LEVELS.map(domains),
            used_milli: 0,
            up_count: layout.nodes,
        }
    }

    /// Free thousandths of the GPUs of a node, those that it has.
    pub(crate) fn gpus(&self, node: u32) -> &[u16] {
        &self.free[node as usize][..usize::from(self.layout.gpus_per_node)]
    }

    pub(crate) fn is_up(&self, node: u32) -> bool {
        self.up[node as usize]
    }

    /// Whether all of it may be had.
    pub(crate) fn is_idle(&self, node: u32) -> bool {
        self.is_up(node) && self.gpus(node).iter().all(|free| *free == WHOLE)
    }

    /// GPUs of a node of which nothing is used; none when it is down.
    pub(crate) fn whole(&self, node: u32) -> u8 {
        if !self.is_up(node) {
            return 0;
        }
        self.gpus(node).iter().map(|free| u8::from(*free == WHOLE)).sum()
    }

    /// Idle nodes in each domain of a level of `LEVELS`.
    pub(crate) fn idle(&self, level: usize) -> &[u32] {
        &self.idle[level]
    }

    /// Thousandths of GPUs in use.
    pub(crate) const fn used_milli(&self) -> i64 {
        self.used_milli
    }

    /// Thousandths of GPUs on nodes that are up.
    pub(crate) fn up_milli(&self) -> i64 {
        i64::from(self.up_count) * i64::from(self.layout.gpus_per_node) * 1000
    }

    pub(crate) fn take(&mut self, grant: Grant) -> Result<()> {
        let node = self.node(grant)?;
        ensure!(self.is_up(node), "{} is down", grant.node);
        self.change(node, |gpus| match grant.gpus {
            GpuGrant::Whole(mask) => {
                for (gpu, free) in gpus.iter_mut().enumerate().filter(|(gpu, _)| mask >> gpu & 1 == 1) {
                    ensure!(*free == WHOLE, "{} GPU {gpu} is in use", grant.node);
                    *free = 0;
                }
                Ok(())
            }
            GpuGrant::Milli { gpu, milli } => {
                let free = &mut gpus[usize::from(gpu)];
                ensure!(*free >= milli, "{} GPU {gpu} has {free} thousandths free, not {milli}", grant.node);
                *free -= milli;
                Ok(())
            }
            GpuGrant::Slice { .. } => bail!("no job asks for slices"),
        })
    }

    pub(crate) fn give_back(&mut self, grant: Grant) -> Result<()> {
        let node = self.node(grant)?;
        self.change(node, |gpus| match grant.gpus {
            GpuGrant::Whole(mask) => {
                gpus.iter_mut().enumerate().filter(|(gpu, _)| mask >> gpu & 1 == 1).for_each(|(_, free)| *free = WHOLE);
                Ok(())
            }
            GpuGrant::Milli { gpu, milli } => {
                gpus[usize::from(gpu)] += milli;
                Ok(())
            }
            GpuGrant::Slice { .. } => bail!("no job asks for slices"),
        })
    }

    pub(crate) fn set_up(&mut self, node: u32, up: bool) {
        let was_idle = self.is_idle(node);
        if self.up[node as usize] != up {
            self.up[node as usize] = up;
            self.up_count = if up { self.up_count + 1 } else { self.up_count - 1 };
        }
        self.count_idle(node, was_idle);
    }

    fn node(&self, grant: Grant) -> Result<u32> {
        let node = u32::try_from(grant.node.0)?;
        ensure!(node < self.layout.nodes, "there is no {}", grant.node);
        Ok(node)
    }

    fn change(&mut self, node: u32, how: impl FnOnce(&mut [u16]) -> Result<()>) -> Result<()> {
        let was_idle = self.is_idle(node);
        let before: i64 = self.gpus(node).iter().map(|free| i64::from(*free)).sum();
        how(&mut self.free[node as usize][..usize::from(self.layout.gpus_per_node)])?;
        let after: i64 = self.gpus(node).iter().map(|free| i64::from(*free)).sum();
        self.used_milli += before - after;
        self.count_idle(node, was_idle);
        Ok(())
    }

    fn count_idle(&mut self, node: u32, was_idle: bool) {
        let is_idle = self.is_idle(node);
        if is_idle == was_idle {
            return;
        }
        for (level, counts) in LEVELS.iter().zip(&mut self.idle) {
            let count = &mut counts[(node / self.layout.nodes_per(*level)) as usize];
            *count = if is_idle { *count + 1 } else { *count - 1 };
        }
    }
}
