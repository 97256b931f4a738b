//! Room for one more in a small fleet: where a request finds no place, although what starts in the same pass could lie
//! elsewhere.
//!
//! A pass gives each request in turn the best place it can see; in a small fleet the later ones feel it. There an exact
//! search lays anew what the pass has proposed so far, never what runs or was promised, so that one more fits. What
//! each of them gets stays the same, only where changes: the order of the queues is untouched. Who lay within one
//! domain of the level that it prefers still does, and who lay near a lease lies as near; the one for whom room is made
//! gets what it prefers where that can be found.
//!
//! A step looks as long as a plan: a shape that it knows to have no room has none either without anything that was
//! proposed, and for such a one nothing is searched and nothing counted.
//! What lacks watts is asked in its turn in both, for watts may be had elsewhere.
//! Deliberately absent: large fleets, where one place more or less is lost among thousands; room for one at the cost of
//! what another prefers.

use crate::fleet::Level;
use crate::gang::NoPlace;
use crate::plan::GpuGrant;
use crate::request::{Gpus, Request, Shape};
use crate::state::topology::{NO_DOMAIN, NodeIx, narrow};
use crate::units::TenantClass;

use super::Planner;
use super::proposals::{Proposal, tenant};
use super::requests::Slot;

mod search;

use search::{Board, Search};

/// Nodes of the largest fleet that is searched: some racks.
const MOST_NODES: usize = 64;
/// Proposals that are laid anew together, the last ones: with more the search ends seldom.
const MOST_MOVED: usize = 12;
/// Members tried for one request: tenths of a millisecond.
const MOST_TRIED: u32 = 2_000;
/// Members tried in one pass: some milliseconds.
pub(super) const MOST_TRIED_IN_PASS: u32 = 20_000;

/// One request that is to lie somewhere.
#[derive(Debug, Clone)]
struct Piece {
    /// Its place among the proposals; `None` for the one that is asked for.
    proposal: Option<usize>,
    shape: Shape,
    class: TenantClass,
    nodes: usize,
    /// Where it lies now.
    lies: Vec<(NodeIx, GpuGrant)>,
    bounds: Bounds,
}

/// What a piece is to keep beside what it requires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bounds {
    /// Within one domain of this level.
    together: Option<Level>,
    /// Within this domain, by its table: around the lease it is to be near.
    around: Option<(usize, u32)>,
}

/// Where each piece comes to lie.
type Layout = Vec<Vec<(NodeIx, GpuGrant)>>;

impl Planner {
    /// Whether the fleet is small enough for it.
    pub(super) fn lays_anew(&self) -> bool {
        self.state.nodes.len() <= MOST_NODES
    }

    /// After a request was looked a place for: makes room for it where none was found, and for more nodes of an elastic
    /// gang that got less than it may have.
    ///
    /// # Errors
    /// What was missing, where nothing helped.
    pub(super) fn make_room(&mut self, slot: Slot, found: Result<(), NoPlace>) -> Result<(), NoPlace> {
        if !self.lays_anew() {
            return found;
        }
        match found {
            Ok(()) => self.enlarge(slot),
            // Wherever it all lies, it draws the same from the point that feeds all.
            Err(NoPlace::Power(block)) if self.state.feeds_all(block.power) => return found,
            Err(_) => {
                let least = u32::from(self.requests.get(slot).request.shape.nodes.min);
                let layout = self.lay_for(slot, least, None);
                let Some((pieces, layout)) = layout else { return found };
                self.lay_anew(slot, &pieces, &layout);
            }
        }
        Ok(())
    }

    /// Gives an elastic gang that was just proposed more nodes, where laying the others anew makes room for them.
    fn enlarge(&mut self, slot: Slot) {
        let nodes = self.requests.get(slot).request.shape.nodes;
        let Some(last) = self.proposals.placed.len().checked_sub(1) else { return };
        if nodes.min == nodes.max || self.proposals.placed[last].slot != slot || !self.is_movable(last) {
            return;
        }
        let has = narrow(self.proposals.placed[last].grants.len());
        if has >= u32::from(nodes.max) {
            return;
        }
        if let Some((pieces, layout)) = self.lay_for(slot, has + 1, Some(last)) {
            self.withdraw(last);
            self.lay_anew(slot, &pieces, &layout);
        }
    }

    /// A layout in which the request has at least so many nodes, and as many as can be found; `own` is where it lies.
    fn lay_for(&mut self, slot: Slot, least: u32, own: Option<usize>) -> Option<(Vec<Piece>, Layout)> {
        let placed = &self.proposals.placed;
        let movable = (0..placed.len()).rev().filter(|at| Some(*at) != own && self.is_movable(*at));
        let mut pieces: Vec<Piece> = movable.take(MOST_MOVED).map(|at| self.piece(&placed[at], Some(at))).collect();
        if pieces.is_empty() {
            return None;
        }
        let mut asked = match own {
            Some(own) => self.piece(&placed[own], None),
            None => {
                let request = &self.requests.get(slot).request;
                let (shape, class, bounds) = (request.shape, request.class, Bounds::default());
                Piece { proposal: None, shape, class, nodes: 0, lies: Vec::new(), bounds }
            }
        };
        let wishes = self.wishes(&self.requests.get(slot).request);
        asked.nodes = least as usize;
        let board = self.board_without(pieces.iter().chain([&asked]));
        if !board.has_room(&self.state, &asked) {
            return None;
        }
        let most = self.most_nodes_with(slot, own);
        pieces.push(asked);
        pieces.sort_by_key(Piece::hardest_first);
        let own = pieces.iter().position(|piece| piece.proposal.is_none())?;
        let mut best = None;
        for nodes in least..=most {
            pieces[own].nodes = nodes as usize;
            let layout = wishes.iter().find_map(|bounds| {
                pieces[own].bounds = *bounds;
                self.search(&pieces, &board)
            });
            let Some(layout) = layout else { break };
            best = Some(layout);
        }
        Some((pieces, best?))
    }

    fn search(&mut self, pieces: &[Piece], board: &Board) -> Option<Layout> {
        let budget = MOST_TRIED.min(self.pass.tries_left);
        let mut search = Search::new(&self.state, pieces, budget);
        let layout = search.lay(board.clone());
        self.pass.tries_left -= search.tried().min(budget);
        layout
    }

    /// What a request would have best, then less, then only what it requires.
    fn wishes(&self, request: &Request) -> Vec<Bounds> {
        let mut wishes: Vec<Bounds> =
            self.around(request).map(|around| Bounds { around: Some(around), ..Bounds::default() }).collect();
        let together = request.shape.prefer.filter(|_| request.shape.nodes.max > 1);
        wishes.extend(together.map(|level| Bounds { together: Some(level), ..Bounds::default() }));
        wishes.push(Bounds::default());
        wishes
    }

    /// Domains around the lease that a request is to be near, the best first.
    fn around(&self, request: &Request) -> impl Iterator<Item = (usize, u32)> {
        let near = request.near.and_then(|lease| self.state.leases.find(lease));
        let near = near.and_then(|held| held.nodes.first().copied());
        let topology = &self.state.topology;
        let shape = &request.shape;
        let is_gang = shape.nodes.max > 1;
        let order = topology.order(shape.within.filter(|_| is_gang), shape.prefer.filter(|_| is_gang));
        let tables = order.tables.iter().copied().map(usize::from).filter(|table| *table != topology.whole());
        let domains = near.into_iter().flat_map(move |near| {
            tables.clone().map(move |table| (table, topology.tables()[table].domain_of[near.at()]))
        });
        domains.filter(|(_, domain)| *domain != NO_DOMAIN)
    }

    /// What of its wishes a proposal has where it lies.
    fn bounds_of(&self, request: &Request, lies: &[(NodeIx, GpuGrant)]) -> Bounds {
        let tables = self.state.topology.tables();
        let domain = |table: usize, node: NodeIx| tables[table].domain_of[node.at()];
        let together = request.shape.prefer.filter(|level| {
            let Some(table) = self.state.topology.table_of(*level) else { return false };
            let mut domains = lies.iter().map(|(node, _)| domain(table, *node));
            let first = domains.next().filter(|first| *first != NO_DOMAIN);
            first.is_some_and(|first| domains.all(|other| other == first))
        });
        let mut around = self.around(request);
        let around = around.find(|(table, around)| lies.iter().all(|(node, _)| domain(*table, *node) == *around));
        Bounds { together, around }
    }

    /// Nodes that it may have within its queue's limits, what it has been given not counted against it.
    fn most_nodes_with(&mut self, slot: Slot, own: Option<usize>) -> u32 {
        let Some(own) = own else { return self.most_nodes(slot) };
        let request = &self.requests.get(slot).request;
        let (queue, nodes) = (request.queue, self.proposals.placed[own].grants.len());
        let amount = self.amount(&request.shape, nodes);
        self.shares.refund(queue, &amount);
        let most = self.most_nodes(slot);
        self.shares.charge(queue, &amount);
        most
    }

    /// A proposal may lie elsewhere unless it makes a promise good, or fills the gap before one.
    fn is_movable(&self, at: usize) -> bool {
        let proposal = &self.proposals.placed[at];
        proposal.promise.is_none()
            && self.proposals.grants_of(proposal).iter().all(|(node, _)| self.state.nodes.open(*node))
    }

    fn piece(&self, proposal: &Proposal, at: Option<usize>) -> Piece {
        let request = &self.requests.get(proposal.slot).request;
        let lies = self.proposals.grants_of(proposal).to_vec();
        let bounds = self.bounds_of(request, &lies);
        Piece { proposal: at, shape: request.shape, class: request.class, nodes: lies.len(), lies, bounds }
    }

    /// What would be free, and which watts, without these pieces.
    fn board_without<'a>(&self, pieces: impl Iterator<Item = &'a Piece>) -> Board {
        let (mut free, mut power) = (self.state.nodes.free.clone(), self.power.clone());
        for piece in pieces {
            for (node, gpus) in &piece.lies {
                free[node.at()].give(*gpus, piece.shape.cpu_milli, piece.shape.memory_mib);
                power.remove(self.state.nodes.power[node.at()], piece.class, i64::from(piece.shape.peak_watts));
            }
        }
        Board { free, power }
    }

    /// Moves proposals to where they were found to fit, and proposes the request.
    fn lay_anew(&mut self, slot: Slot, pieces: &[Piece], layout: &Layout) {
        let moved = || pieces.iter().zip(layout).filter(|(piece, grants)| piece.lies != **grants);
        for (piece, _) in moved() {
            let Some(at) = piece.proposal else { continue };
            let ends_at = self.proposals.placed[at].ends_at;
            for (node, gpus) in &piece.lies {
                self.state.give(*node, tenant(&piece.shape, *gpus, ends_at));
                self.power.remove(self.state.nodes.power[node.at()], piece.class, i64::from(piece.shape.peak_watts));
            }
        }
        let mut own: &[(NodeIx, GpuGrant)] = &[];
        for (piece, grants) in moved() {
            for (node, _) in grants {
                self.power.add(self.state.nodes.power[node.at()], piece.class, i64::from(piece.shape.peak_watts));
            }
            let Some(at) = piece.proposal else {
                own = grants;
                continue;
            };
            let (range, ends_at) = (self.proposals.placed[at].grants.clone(), self.proposals.placed[at].ends_at);
            for (node, gpus) in grants {
                self.state.take(*node, tenant(&piece.shape, *gpus, ends_at));
            }
            self.proposals.grants[range].copy_from_slice(grants);
        }
        // Watts came free where they were missing, and nodes come free at other instants than was thought.
        self.stamps.power += 1;
        self.stamps.promises += 1;
        self.propose(slot, own.iter().copied());
    }

    /// Takes the last proposal back.
    fn withdraw(&mut self, last: usize) {
        let proposal = self.proposals.placed.remove(last);
        let grants = self.proposals.grants.split_off(proposal.grants.start);
        self.take_back(&proposal, &grants);
    }
}

impl Piece {
    /// What is hardest to lay goes first: it fails where nothing else was tried yet.
    fn hardest_first(&self) -> std::cmp::Reverse<(bool, u32, usize, Option<usize>)> {
        let gpu_milli = match self.shape.gpus {
            Gpus::Whole(count) => u32::from(count) * 1000,
            Gpus::Milli(milli) => u32::from(milli),
            Gpus::Slice(_) => 500,
        };
        std::cmp::Reverse((self.nodes > 1 && self.shape.within.is_some(), gpu_milli, self.nodes, self.proposal))
    }
}

#[cfg(test)]
mod tests;
