//! Moves: leases that could lie elsewhere, so that nodes become whole again.
//!
//! Looked for while nothing else is to be done, within a budget of moves. A group of moves empties one node into nodes
//! that are used already. Only leases on a single node that can be checkpointed move: they stop, and start again from
//! there. First come nodes that make their whole domain free, then those that cost the fewest GPUs moved.
//!
//! INVARIANT: after a group one more node has all its GPUs free, no node that had them all has fewer, and for no number
//! of GPUs that divides a node are there fewer places for a request of so many than before. (Other numbers leave
//! a rest on every node: the six and four free of two nodes have three places for three, eight and two have two.)
//! Deliberately absent: carrying moves out, gangs, moves that must wait for each other: each destination is free now,
//! beside all that lies there.

use std::collections::BTreeSet;

use crate::fleet::ModelSpec;
use crate::pack::{GpuFree, NodeFree};
use crate::plan::{GpuGrant, Grant, Move};
use crate::power::PowerTree;
use crate::preempt::{Ground, NO_DOMAIN};
use crate::request::{Gpus, Shape, Stop};
use crate::units::ModelId;

/// Nodes that are tried as sources in one pass: those used least.
const MOST_SOURCES: usize = 256;

/// Where moves may go.
#[derive(Debug)]
pub struct Scope<'a> {
    pub models: &'a [ModelSpec],
    /// By node: its domain at the next level, whose becoming free counts most.
    pub domain_of: &'a [u32],
    /// Changed only to count on, and left as it was.
    pub power: &'a mut PowerTree,
    /// The policy's `moves`.
    pub most: usize,
}

/// Moves, at most so many as the scope allows, group by group. `may_lie` says whether a shape may lie on a node at all
/// (its hardware, its health, for whom it is kept).
pub fn moves(ground: &Ground, scope: Scope<'_>, may_lie: impl Fn(&Shape, u32) -> bool) -> Vec<Move> {
    if scope.most == 0 {
        return Vec::new();
    }
    let mut plan = Planned::new(ground, scope);
    let mut moves = Vec::new();
    for source in plan.sources() {
        if let Some(group) = plan.empty(source, &may_lie)
            && moves.len() + group.len() <= plan.scope.most
        {
            plan.keep(source, &group, &mut moves);
        }
    }
    plan.undraw();
    moves
}

/// A lease's way, while it is only thought of.
#[derive(Debug, Clone, Copy)]
struct Way {
    run: u32,
    from: GpuGrant,
    to: (u32, GpuGrant),
}

/// The ground as it would be.
struct Planned<'a> {
    ground: &'a Ground,
    scope: Scope<'a>,
    free: Vec<NodeFree>,
    /// Nodes in use, those with the least free first.
    used: BTreeSet<(usize, u32)>,
    drawn: Vec<Way>,
}

impl<'a> Planned<'a> {
    fn new(ground: &'a Ground, scope: Scope<'a>) -> Self {
        let free: Vec<NodeFree> = ground.sites().iter().map(|site| site.free).collect();
        let nodes = (0_u32..).zip(&free);
        let used = nodes.filter(|(node, _)| !ground.holds(*node).is_empty()).map(|(node, free)| (whole(free), node));
        Self { ground, scope, used: used.collect(), free, drawn: Vec::new() }
    }

    /// Nodes that might be emptied: those whose domain would be free first, then those with the fewest GPUs in use.
    fn sources(&self) -> Vec<u32> {
        let mut used_in: Vec<u32> = Vec::new();
        for (_, node) in &self.used {
            let domain = self.scope.domain_of[*node as usize];
            if domain == NO_DOMAIN {
                continue;
            }
            let at = domain as usize;
            used_in.resize(used_in.len().max(at + 1), 0);
            used_in[at] += 1;
        }
        let mut sources: Vec<(bool, i64, u32)> = Vec::new();
        for &(_, node) in &self.used {
            let holds = self.ground.holds(node);
            let movable = holds.iter().all(|(run, _)| {
                let (shape, stop, nodes) = self.ground.work(*run);
                nodes == 1 && matches!(stop, Stop::Checkpoint { .. }) && shape.gpus != Gpus::Whole(0)
            });
            if movable && !self.ground.sites()[node as usize].is_kept && holds.len() <= self.scope.most {
                let moved: i64 = holds.iter().map(|(run, _)| self.ground.gpu_milli(*run)).sum();
                let frees_domain = used_in.get(self.scope.domain_of[node as usize] as usize) == Some(&1);
                sources.push((!frees_domain, moved, node));
            }
        }
        sources.sort_unstable();
        sources.into_iter().take(MOST_SOURCES).map(|(_, _, node)| node).collect()
    }

    /// Ways for everything on a node, the largest first; `None` when something stays or room would be worse. Changes
    /// nothing.
    fn empty(&mut self, source: u32, may_lie: &impl Fn(&Shape, u32) -> bool) -> Option<Vec<Way>> {
        let mut holds = self.ground.holds(source);
        holds.sort_by_key(|(run, _)| (std::cmp::Reverse(self.ground.gpu_milli(*run)), *run));
        let mut ways: Vec<Way> = Vec::new();
        let mut emptied = self.free[source as usize];
        let mut before: Vec<(u32, NodeFree)> = vec![(source, emptied)];
        for (run, from) in holds {
            let (shape, ..) = self.ground.work(run);
            let Some(to) = self.destination(source, run, may_lie) else { break };
            if before.iter().all(|(node, _)| *node != to.0) {
                before.push((to.0, self.free[to.0 as usize]));
            }
            self.take(to, run);
            emptied.give(from, shape.cpu_milli, shape.memory_mib);
            ways.push(Way { run, from, to });
        }
        let after: Vec<NodeFree> = before[1..].iter().map(|(node, _)| self.free[*node as usize]).collect();
        let is_better = ways.len() == self.ground.holds(source).len()
            && whole(&emptied) == self.gpus(source)
            && never_worse(self.gpus(source), &before.iter().map(|(_, free)| free), &after.iter().chain([&emptied]));
        for way in &ways {
            self.give(way.to, way.run);
        }
        is_better.then_some(ways)
    }

    /// GPUs in a node.
    fn gpus(&self, node: u32) -> usize {
        usize::from(self.ground.sites()[node as usize].gpus)
    }

    /// The fullest node in use that takes a run now, beside all that lies there.
    fn destination(&self, source: u32, run: u32, may_lie: &impl Fn(&Shape, u32) -> bool) -> Option<(u32, GpuGrant)> {
        let (shape, ..) = self.ground.work(run);
        let needed = if let Gpus::Whole(count) = shape.gpus { usize::from(count) } else { 0 };
        self.used.range((needed, 0)..).map(|(_, node)| *node).find_map(|node| {
            let site = &self.ground.sites()[node as usize];
            if node == source || self.ground.sites()[node as usize].is_kept || !may_lie(shape, node) {
                return None;
            }
            self.scope.power.fits(site.power, self.ground.class(run), i64::from(shape.peak_watts)).ok()?;
            let gpus = grant(&self.free[node as usize], shape, site.model, self.scope.models)?;
            Some((node, gpus))
        })
    }

    /// Takes a place, in room and watts; the old place still draws its own until the move is done.
    fn take(&mut self, (node, gpus): (u32, GpuGrant), run: u32) {
        let (shape, ..) = self.ground.work(run);
        self.change(node, |free| free.take(gpus, shape.cpu_milli, shape.memory_mib));
        let power = self.ground.sites()[node as usize].power;
        self.scope.power.add(power, self.ground.class(run), i64::from(shape.peak_watts));
    }

    fn give(&mut self, (node, gpus): (u32, GpuGrant), run: u32) {
        let (shape, ..) = self.ground.work(run);
        self.change(node, |free| free.give(gpus, shape.cpu_milli, shape.memory_mib));
        let power = self.ground.sites()[node as usize].power;
        self.scope.power.remove(power, self.ground.class(run), i64::from(shape.peak_watts));
    }

    fn change(&mut self, node: u32, step: impl FnOnce(&mut NodeFree)) {
        let free = &mut self.free[node as usize];
        self.used.remove(&(whole(free), node));
        step(free);
        self.used.insert((whole(free), node));
    }

    /// A group is proposed: its source is no destination any more. Its destinations cannot become empty: what moved
    /// there stays.
    fn keep(&mut self, source: u32, group: &[Way], moves: &mut Vec<Move>) {
        self.used.remove(&(whole(&self.free[source as usize]), source));
        for way in group {
            self.take(way.to, way.run);
            self.drawn.push(*way);
            let id = |node: u32| self.ground.sites()[node as usize].id;
            moves.push(Move {
                lease: self.ground.lease(way.run),
                from: Grant { node: id(source), gpus: way.from },
                to: Grant { node: id(way.to.0), gpus: way.to.1 },
            });
        }
    }

    /// Gives the watts of all proposed moves back.
    fn undraw(&mut self) {
        for way in std::mem::take(&mut self.drawn) {
            self.give(way.to, way.run);
        }
    }
}

/// Whole GPUs free.
fn whole(free: &NodeFree) -> usize {
    free.gpus.iter().filter(|gpu| gpu.is_whole()).count()
}

/// Whether for no number of GPUs that divides `node_gpus` there are fewer places on these nodes than before.
fn never_worse<'a>(
    node_gpus: usize,
    before: &(impl Iterator<Item = &'a NodeFree> + Clone),
    after: &(impl Iterator<Item = &'a NodeFree> + Clone),
) -> bool {
    (1..=node_gpus).filter(|gpus| node_gpus.is_multiple_of(*gpus)).all(|gpus| {
        let places = |free: &NodeFree| whole(free) / gpus;
        after.clone().map(places).sum::<usize>() >= before.clone().map(places).sum::<usize>()
    })
}

/// The GPUs of a node that a shape would get: of whole ones the first, else the fullest that still has room.
fn grant(free: &NodeFree, shape: &Shape, model: ModelId, models: &[ModelSpec]) -> Option<GpuGrant> {
    if free.cpu_milli < shape.cpu_milli || free.memory_mib < shape.memory_mib {
        return None;
    }
    let gpus = || (0_u8..).zip(&free.gpus);
    match shape.gpus {
        Gpus::Whole(count) => free.whole_mask(count).map(GpuGrant::Whole),
        Gpus::Milli(milli) => gpus()
            .filter(|(_, free)| free.free_milli() >= milli)
            .min_by_key(|(gpu, free)| (free.free_milli(), *gpu))
            .map(|(gpu, _)| GpuGrant::Milli { gpu, milli }),
        Gpus::Slice(slice) => {
            let positions = &models.get(usize::from(model.0))?.slices.get(usize::from(slice.0))?.positions;
            let place = |(gpu, free): (u8, &GpuFree)| {
                let slots = positions.iter().copied().find(|slots| slots & !free.free_slots() == 0)?;
                Some((free.free_slots().count_ones(), gpu, slots))
            };
            gpus().filter_map(place).min().map(|(_, gpu, slots)| GpuGrant::Slice { gpu, slots })
        }
    }
}

#[cfg(test)]
mod tests;
