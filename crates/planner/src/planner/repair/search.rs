//! The search itself: depth first, piece by piece and member by member, until everything lies or the tries are used up.
//!
//! Nodes that no piece could tell apart are tried once; boards from which the rest could not be laid are remembered.
//! Where a piece lies now is tried first, so that little moves.

use std::collections::{BTreeMap, BTreeSet};

use crate::fleet::Level;
use crate::pack::NodeFree;
use crate::plan::GpuGrant;
use crate::power::PowerTree;
use crate::request::{Gpus, Shape};
use crate::state::State;
use crate::state::topology::{NO_DOMAIN, NodeIx, narrow};
use crate::units::{MAX_GPUS, PowerId};

use super::{Bounds, Layout, Piece};

/// What is free while pieces are laid.
#[derive(Debug, Clone)]
pub(super) struct Board {
    pub(super) free: Vec<NodeFree>,
    pub(super) power: PowerTree,
}

impl Board {
    /// Whether a piece has room with nothing else laid; watts are not asked for.
    pub(super) fn has_room(&self, state: &State, piece: &Piece) -> bool {
        let fits = |node: &NodeIx| !ways(state, *node, &self.free[node.at()], &piece.shape).is_empty();
        let serving: Vec<NodeIx> = allowed(state, piece).into_iter().filter(fits).collect();
        groups(state, &[piece.shape.within], &serving).iter().any(|group| group.len() >= piece.nodes)
    }
}

pub(super) struct Search<'a> {
    state: &'a State,
    pieces: &'a [Piece],
    /// By piece: where it may lie, by domain of the level that it insists on.
    places: Vec<Vec<Vec<NodeIx>>>,
    laid: Layout,
    /// Boards from which the rest cannot be laid, with the next piece.
    dead: BTreeSet<(usize, Vec<NodeFree>, Vec<i64>)>,
    tried: u32,
    budget: u32,
}

impl<'a> Search<'a> {
    pub(super) fn new(state: &'a State, pieces: &'a [Piece], budget: u32) -> Self {
        let places = pieces.iter().map(|piece| {
            let mut nodes = allowed(state, piece);
            nodes.retain(|node| piece.bounds.has_around(state, *node));
            let lies = |node: &NodeIx| piece.lies.iter().any(|(other, _)| other == node);
            nodes.sort_by_key(|node| (!lies(node), state.nodes.whole[node.at()], *node));
            groups(state, &[piece.shape.within, piece.bounds.together], &nodes)
        });
        Self { state, pieces, places: places.collect(), laid: Vec::new(), dead: BTreeSet::new(), tried: 0, budget }
    }

    /// Members that were tried so far.
    pub(super) const fn tried(&self) -> u32 {
        self.tried
    }

    /// Lays all pieces on a board; `None` where that cannot be, or was not found in time.
    pub(super) fn lay(&mut self, mut board: Board) -> Option<Layout> {
        if !self.lay_from(0, &mut board) {
            return None;
        }
        let mut layout = std::mem::take(&mut self.laid);
        layout.iter_mut().for_each(|grants| grants.sort_unstable());
        Some(layout)
    }

    fn lay_from(&mut self, at: usize, board: &mut Board) -> bool {
        let Some(piece) = self.pieces.get(at) else { return true };
        let key = (at, board.free.clone(), self.watts(board));
        if self.dead.contains(&key) {
            return false;
        }
        self.laid.push(Vec::with_capacity(piece.nodes));
        for group in 0..self.places[at].len() {
            let from = std::mem::take(&mut self.places[at][group]);
            let found = self.choose(at, &from, piece.nodes, board);
            self.places[at][group] = from;
            if found {
                return true;
            }
        }
        self.laid.truncate(at);
        self.dead.insert(key);
        false
    }

    /// Committed watts of the classes that are laid, at every point.
    fn watts(&self, board: &Board) -> Vec<i64> {
        let points = (0..board.power.len()).map(|point| PowerId(narrow(point)));
        let mut classes: Vec<_> = self.pieces.iter().map(|piece| piece.class).collect();
        classes.sort_unstable();
        classes.dedup();
        points.flat_map(|point| classes.iter().map(move |class| board.power.committed_of(point, *class))).collect()
    }

    /// Lays `left` more members of a piece on some of these nodes, and then the pieces after it.
    fn choose(&mut self, at: usize, from: &[NodeIx], left: usize, board: &mut Board) -> bool {
        if left == 0 {
            return self.lay_from(at + 1, board);
        }
        let piece = &self.pieces[at];
        let watts = i64::from(piece.shape.peak_watts);
        for (place, &node) in from.iter().enumerate() {
            if self.tried >= self.budget || from.len() - place < left {
                return false;
            }
            if from[..place].iter().any(|other| self.are_alike(*other, node, board)) {
                continue;
            }
            let leaf = self.state.nodes.power[node.at()];
            if board.power.fits(leaf, piece.class, watts).is_err() {
                continue;
            }
            for gpus in ways(self.state, node, &board.free[node.at()], &piece.shape) {
                self.tried += 1;
                board.power.add(leaf, piece.class, watts);
                board.free[node.at()].take(gpus, piece.shape.cpu_milli, piece.shape.memory_mib);
                self.laid[at].push((node, gpus));
                if self.choose(at, &from[place + 1..], left - 1, board) {
                    return true;
                }
                self.laid[at].pop();
                board.free[node.at()].give(gpus, piece.shape.cpu_milli, piece.shape.memory_mib);
                board.power.remove(leaf, piece.class, watts);
            }
        }
        false
    }

    /// Whether two nodes differ in nothing that a piece could tell.
    fn are_alike(&self, left: NodeIx, right: NodeIx, board: &Board) -> bool {
        let nodes = &self.state.nodes;
        let tables = self.state.topology.tables();
        board.free[left.at()] == board.free[right.at()]
            && nodes.model[left.at()] == nodes.model[right.at()]
            && nodes.residency[left.at()] == nodes.residency[right.at()]
            && nodes.power[left.at()] == nodes.power[right.at()]
            && tables.iter().all(|table| table.domain_of[left.at()] == table.domain_of[right.at()])
    }
}

/// Open nodes of hardware that a piece allows.
fn allowed(state: &State, piece: &Piece) -> Vec<NodeIx> {
    let nodes = (0..state.nodes.len()).map(NodeIx::new);
    nodes.filter(|node| state.nodes.open(*node) && state.nodes.allowed(*node, &piece.shape)).collect()
}

impl Bounds {
    /// Whether a node is near enough.
    fn has_around(&self, state: &State, node: NodeIx) -> bool {
        self.around.is_none_or(|(table, domain)| state.topology.tables()[table].domain_of[node.at()] == domain)
    }
}

/// Nodes by the domains of levels, in their order; those in none are left out. One group where no level is asked for.
fn groups(state: &State, levels: &[Option<Level>], nodes: &[NodeIx]) -> Vec<Vec<NodeIx>> {
    let mut groups: BTreeMap<Vec<u32>, Vec<NodeIx>> = BTreeMap::new();
    let levels: Vec<Level> = levels.iter().copied().flatten().collect();
    let domain = |level: &Level, node: NodeIx| {
        let table = state.topology.table_of(*level)?;
        Some(state.topology.tables()[table].domain_of[node.at()]).filter(|domain| *domain != NO_DOMAIN)
    };
    for node in nodes {
        let domains: Option<Vec<u32>> = levels.iter().map(|level| domain(level, *node)).collect();
        if let Some(domains) = domains {
            groups.entry(domains).or_default().push(*node);
        }
    }
    groups.into_values().collect()
}

/// Ways to put one member on a node, GPUs that are alike once, the tightest first.
fn ways(state: &State, node: NodeIx, free: &NodeFree, shape: &Shape) -> Vec<GpuGrant> {
    if free.cpu_milli < shape.cpu_milli || free.memory_mib < shape.memory_mib {
        return Vec::new();
    }
    let mut kinds: Vec<u8> = (0_u8..).take(MAX_GPUS).collect();
    kinds.retain(|gpu| !free.gpus[..usize::from(*gpu)].contains(&free.gpus[usize::from(*gpu)]));
    match shape.gpus {
        Gpus::Whole(count) => free.whole_mask(count).map(GpuGrant::Whole).into_iter().collect(),
        Gpus::Milli(milli) => {
            kinds.retain(|gpu| free.gpus[usize::from(*gpu)].free_milli() >= milli);
            kinds.sort_by_key(|gpu| (free.gpus[usize::from(*gpu)].free_milli(), *gpu));
            kinds.into_iter().map(|gpu| GpuGrant::Milli { gpu, milli }).collect()
        }
        Gpus::Slice(slice) => {
            kinds.sort_by_key(|gpu| (free.gpus[usize::from(*gpu)].free_slots().count_ones(), *gpu));
            let positions = state.slice_positions(node, slice);
            let on = |gpu: u8| {
                let slots = free.gpus[usize::from(gpu)].free_slots();
                let fitting = positions.iter().copied().filter(move |position| position & !slots == 0);
                fitting.map(move |slots| GpuGrant::Slice { gpu, slots })
            };
            kinds.into_iter().flat_map(on).collect()
        }
    }
}
