//! Nodes by what they have free: equal ones in one row, so that a question about all nodes looks at rows.

use rustc_hash::FxHashMap;

use super::{Facts, Taken};
use crate::fleet::{FleetSpec, Health};
use crate::pack::NodeFree;
use crate::plan::GpuGrant;
use crate::request::{Gpus, Shape};
use crate::state::State;
use crate::state::nodes::gpus_touched;
use crate::state::topology::{NodeIx, narrow};
use crate::units::{At, GPU_MILLI, MAX_GPUS, ModelId, RequestId, ResidencyId};

/// Whether a node takes work, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Open,
    Promised(RequestId),
    Cordoned,
    Held(At),
    Down,
}

/// What is free on a node, as far as a member of whole GPUs or a part of one asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Free {
    pub(super) whole: u8,
    /// Most thousandths free on one GPU.
    pub(super) largest_milli: u16,
    pub(super) total_milli: u32,
    pub(super) cpu_milli: u32,
    pub(super) memory_mib: u32,
}

/// What nodes of a row have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    model: ModelId,
    residency: ResidencyId,
    gpus: u8,
    cpu_milli: u32,
    memory_mib: u32,
    place: Place,
    free: Free,
    before: Option<Free>,
}

/// Nodes that are alike, and have the same free.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Its stand, and its shelf there.
    stand: usize,
    shelf: usize,
    pub(super) free: Free,
    /// What was free before this pass, where that was more.
    before: Option<Free>,
    /// In order.
    pub(super) nodes: Vec<NodeIx>,
}

/// Nodes that are alike when they are empty, and take work alike: their rows, by the GPUs that they have free.
#[derive(Debug, Clone)]
pub(super) struct Stand {
    pub(super) model: ModelId,
    pub(super) residency: ResidencyId,
    /// GPUs in each.
    gpus: u8,
    /// Everything of each.
    cpu_milli: u32,
    memory_mib: u32,
    pub(super) place: Place,
    /// Nodes in all rows.
    pub(super) nodes: u32,
    /// First those with nothing of a GPU free, then those with a part of one, then by whole ones.
    shelves: Vec<Shelf>,
    /// By place: the shelves with a node on them; few are, where each promise has a stand.
    filled: u32,
}

/// Rows with as many GPUs free, counted together: a question that GPUs decide asks no row.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf {
    /// Nodes of `rows`, and the thousandths free on all of them.
    pub(super) nodes: u32,
    pub(super) free_milli: i64,
    rows: Vec<usize>,
    /// Rows whose nodes had more before this pass; they stand in no sum.
    given: Vec<usize>,
    /// Nodes of all of these.
    all: u32,
}

/// What keeps a member from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    Nothing,
    /// Too few GPUs; `partly`: some are free.
    Gpus {
        partly: bool,
    },
    Cpu,
    Memory,
}

/// All rows, kept from pass to pass.
#[derive(Debug, Clone, Default)]
pub(crate) struct Census {
    stands: Vec<Stand>,
    rows: Vec<Row>,
    /// Only looked up in: its order would be chance.
    places: FxHashMap<Key, usize>,
    /// By node: its row.
    row_of: Vec<usize>,
    /// Rows when all were last counted anew.
    counted_rows: usize,
    /// Nodes that had more before the last pass gave to others, and what they had.
    gave: Vec<(NodeIx, NodeFree)>,
    /// By node: its place in `gave`; only while it is filled.
    gave_at: Vec<u32>,
}

/// One changed node in so many, and all are counted anew: that costs less than moving each.
const RECOUNTED_PART: usize = 8;
/// Rows that may come beside those counted before all are counted anew: most of them are empty by then.
const EMPTY_ROWS: usize = 1024;
const NOWHERE: u32 = u32::MAX;

impl Census {
    /// Takes over what changed since it was last asked, and what the last pass gave.
    pub(crate) fn refresh(&mut self, state: &mut State, taken: &[Taken<'_>]) {
        let mut changed = state.take_touched();
        let gave = std::mem::take(&mut self.gave);
        self.gave_at.resize(state.nodes.len(), NOWHERE);
        self.count_given(state, taken);
        // Whoever asks again without a pass between finds the same gifts.
        if gave != self.gave {
            changed.extend(gave.iter().chain(&self.gave).map(|(node, _)| *node));
        }
        let is_new = self.row_of.len() != state.nodes.len();
        if is_new
            || changed.len() > state.nodes.len() / RECOUNTED_PART
            || self.rows.len() > EMPTY_ROWS + self.counted_rows
        {
            self.recount(state);
        } else {
            changed.sort_unstable();
            changed.dedup();
            for node in changed {
                self.moved(state, node);
            }
        }
        for (node, _) in &self.gave {
            self.gave_at[node.at()] = NOWHERE;
        }
    }

    /// What nodes had before the last pass gave to others.
    fn count_given(&mut self, state: &State, taken: &[Taken<'_>]) {
        self.gave.clear();
        for taken in taken {
            let place = &mut self.gave_at[taken.node.at()];
            if *place == NOWHERE {
                *place = narrow(self.gave.len());
                self.gave.push((taken.node, state.nodes.free[taken.node.at()]));
            }
            let (_, free) = &mut self.gave[*place as usize];
            free.give(taken.gpus, taken.request.shape.cpu_milli, taken.request.shape.memory_mib);
        }
    }

    fn recount(&mut self, state: &State) {
        self.stands.clear();
        self.rows.clear();
        self.places.clear();
        self.row_of.clear();
        // Neighbours are often equal.
        let mut last: Option<(Key, usize)> = None;
        for node in (0..state.nodes.len()).map(NodeIx::new) {
            let key = key(state, node, self.before(state, node));
            let row = match last {
                Some((same, row)) if same == key => row,
                _ => self.row_for(&key),
            };
            last = Some((key, row));
            self.row_of.push(row);
            self.rows[row].nodes.push(node);
            self.count(row, 1);
        }
        self.counted_rows = self.rows.len();
    }

    fn moved(&mut self, state: &State, node: NodeIx) {
        let row = self.row_for(&key(state, node, self.before(state, node)));
        let old = std::mem::replace(&mut self.row_of[node.at()], row);
        if old == row {
            return;
        }
        let place = self.rows[old].nodes.partition_point(|other| *other < node);
        self.rows[old].nodes.remove(place);
        let place = self.rows[row].nodes.partition_point(|other| *other < node);
        self.rows[row].nodes.insert(place, node);
        self.count(old, -1);
        self.count(row, 1);
    }

    /// One node more or less in a row.
    fn count(&mut self, row: usize, by: i32) {
        let row = &self.rows[row];
        let stand = &mut self.stands[row.stand];
        stand.nodes = stand.nodes.saturating_add_signed(by);
        let shelf = &mut stand.shelves[row.shelf];
        shelf.all = shelf.all.saturating_add_signed(by);
        stand.filled = stand.filled & !(1 << row.shelf) | u32::from(shelf.all > 0) << row.shelf;
        if row.before.is_none() {
            shelf.nodes = shelf.nodes.saturating_add_signed(by);
            shelf.free_milli += i64::from(by) * i64::from(row.free.total_milli);
        }
    }

    fn before(&self, state: &State, node: NodeIx) -> Option<Free> {
        let place = self.gave_at[node.at()];
        (place != NOWHERE).then(|| Free::of(&self.gave[place as usize].1, state.nodes.gpus[node.at()]))
    }

    fn row_for(&mut self, key: &Key) -> usize {
        if let Some(known) = self.places.get(key) {
            return *known;
        }
        let stand = self.stands.iter().position(|stand| stand.is_of(key)).unwrap_or_else(|| {
            self.stands.push(Stand::new(key));
            self.stands.len() - 1
        });
        let (shelf, row) = (key.free.shelf(), self.rows.len());
        let on = &mut self.stands[stand].shelves[shelf];
        if key.before.is_none() {
            on.rows.push(row)
        } else {
            on.given.push(row)
        }
        self.rows.push(Row { stand, shelf, free: key.free, before: key.before, nodes: Vec::new() });
        self.places.insert(*key, row);
        row
    }

    /// All nodes.
    pub(super) fn stands(&self) -> impl Iterator<Item = &Stand> {
        self.stands.iter().filter(|stand| stand.nodes > 0)
    }

    /// Nodes that could hold a member of a shape when empty.
    pub(super) fn suited<'a>(&'a self, spec: &'a FleetSpec, shape: &'a Shape) -> impl Iterator<Item = &'a Stand> {
        self.stands().filter(move |stand| stand.could(spec, shape))
    }

    /// A stand's rows in which GPUs alone keep no member away, as far as all of a shelf are alike.
    pub(super) fn with_gpus<'a>(&'a self, stand: &'a Stand, shape: &Shape) -> impl Iterator<Item = &'a Row> {
        let shelves = places(stand.filled & !short_shelves(shape)).map(|place| &stand.shelves[place]);
        self.filled(shelves.flat_map(|shelf| shelf.rows.iter().chain(&shelf.given)))
    }

    /// A stand's shelves on which every node lacks GPUs, whether some are free there, and their rows with nodes that
    /// had more before this pass.
    pub(super) fn without_gpus<'a>(
        &'a self,
        stand: &'a Stand,
        shape: &Shape,
    ) -> impl Iterator<Item = (usize, &'a Shelf, Lack)> {
        places(stand.filled & short_shelves(shape)).map(|place| {
            let partly = whole_on(place) > 0;
            (place, &stand.shelves[place], Lack::Gpus { partly })
        })
    }

    /// Rows of a shelf whose nodes had more before this pass.
    pub(super) fn given<'a>(&'a self, shelf: &'a Shelf) -> impl Iterator<Item = &'a Row> {
        self.filled(shelf.given.iter())
    }

    /// All nodes of a stand, in no order that means anything.
    pub(super) fn nodes<'a>(&'a self, stand: &'a Stand) -> impl Iterator<Item = NodeIx> {
        let rows = stand.shelves.iter().flat_map(|shelf| shelf.rows.iter().chain(&shelf.given));
        self.filled(rows).flat_map(|row| row.nodes.iter().copied())
    }

    fn filled<'a>(&'a self, rows: impl Iterator<Item = &'a usize>) -> impl Iterator<Item = &'a Row> {
        rows.map(|row| &self.rows[*row]).filter(|row| !row.nodes.is_empty())
    }
}

/// Whole GPUs free on all nodes of a shelf; on the first two none.
pub(super) const fn whole_on(shelf: usize) -> usize {
    shelf.saturating_sub(1)
}

/// The shelves whose place says that every node on them has too few GPUs, by place.
const fn short_shelves(shape: &Shape) -> u32 {
    match shape.gpus {
        Gpus::Whole(0) | Gpus::Slice(_) => 0,
        // More than the last shelf has: all.
        Gpus::Whole(count) if count as usize > MAX_GPUS => u32::MAX,
        Gpus::Whole(count) => (1 << (count + 1)) - 1,
        Gpus::Milli(_) => 1,
    }
}

/// The places in a set.
fn places(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (place < u32::BITS).then_some(place as usize)
    })
}

const _: () = assert!(MAX_GPUS + 2 <= u32::BITS as usize);

fn key(state: &State, node: NodeIx, before: Option<Free>) -> Key {
    let (nodes, at) = (&state.nodes, node.at());
    let place = match (nodes.health[at], nodes.held_until[at], nodes.reserved[at]) {
        (Health::Down, ..) => Place::Down,
        (Health::Cordoned, ..) => Place::Cordoned,
        (Health::Ready, Some(until), _) => Place::Held(until),
        (Health::Ready, None, Some(request)) => Place::Promised(request),
        (Health::Ready, None, None) => Place::Open,
    };
    Key {
        model: nodes.model[at],
        residency: nodes.residency[at],
        gpus: nodes.gpus[at],
        cpu_milli: nodes.capacity[at].cpu_milli,
        memory_mib: nodes.capacity[at].memory_mib,
        place,
        free: Free::of(&nodes.free[at], nodes.gpus[at]),
        before,
    }
}

impl Free {
    /// Of a node with so many GPUs.
    pub(super) fn of(free: &NodeFree, gpus: u8) -> Self {
        let mut sum =
            Self { whole: 0, largest_milli: 0, total_milli: 0, cpu_milli: free.cpu_milli, memory_mib: free.memory_mib };
        for gpu in &free.gpus[..usize::from(gpus).min(MAX_GPUS)] {
            let milli = gpu.free_milli();
            sum.whole += u8::from(gpu.is_whole());
            sum.largest_milli = sum.largest_milli.max(milli);
            sum.total_milli += u32::from(milli);
        }
        sum
    }

    /// Where its row stands.
    fn shelf(&self) -> usize {
        if self.whole > 0 { usize::from(self.whole) + 1 } else { usize::from(self.largest_milli > 0) }
    }

    /// Most that one member of this form could have on the node, in thousandths.
    pub(super) fn largest(&self, shape: &Shape) -> u32 {
        match shape.gpus {
            Gpus::Whole(_) => u32::from(self.whole) * u32::from(GPU_MILLI),
            Gpus::Milli(_) => u32::from(self.largest_milli),
            Gpus::Slice(_) => 0,
        }
    }

    fn has_gpus(&self, shape: &Shape) -> bool {
        match shape.gpus {
            Gpus::Whole(count) => self.whole >= count,
            Gpus::Milli(milli) => self.largest_milli >= milli,
            Gpus::Slice(_) => false,
        }
    }

    pub(super) fn has_all(&self, shape: &Shape) -> bool {
        self.has_gpus(shape) && self.cpu_milli >= shape.cpu_milli && self.memory_mib >= shape.memory_mib
    }
}

impl Stand {
    fn new(key: &Key) -> Self {
        Self {
            model: key.model,
            residency: key.residency,
            gpus: key.gpus,
            cpu_milli: key.cpu_milli,
            memory_mib: key.memory_mib,
            place: key.place,
            nodes: 0,
            shelves: vec![Shelf::default(); MAX_GPUS + 2],
            filled: 0,
        }
    }

    fn is_of(&self, key: &Key) -> bool {
        self.place == key.place
            && self.model == key.model
            && self.residency == key.residency
            && self.gpus == key.gpus
            && self.cpu_milli == key.cpu_milli
            && self.memory_mib == key.memory_mib
    }

    /// Whether the shape allows these nodes.
    const fn allowed(&self, shape: &Shape) -> bool {
        (shape.models == 0 || shape.models >> (self.model.0 & 63) & 1 == 1)
            && (shape.residencies == 0 || shape.residencies >> (self.residency.0 & 63) & 1 == 1)
    }

    /// Whether one of these nodes could hold a member when empty.
    pub(super) fn could(&self, spec: &FleetSpec, shape: &Shape) -> bool {
        let cut = match shape.gpus {
            Gpus::Slice(slice) => spec
                .models
                .get(usize::from(self.model.0))
                .is_some_and(|model| model.slices.len() > usize::from(slice.0)),
            Gpus::Whole(_) | Gpus::Milli(_) => true,
        };
        cut && self.allowed(shape)
            && self.gpus >= gpus_touched(shape.gpus)
            && self.cpu_milli >= shape.cpu_milli
            && self.memory_mib >= shape.memory_mib
    }

    /// What keeps a member from this node of a row of this stand, which could hold one when empty.
    pub(super) fn lack(&self, row: &Row, facts: &Facts<'_>, node: NodeIx, shape: &Shape) -> Lack {
        let free = &row.free;
        let has_gpus = match shape.gpus {
            Gpus::Slice(_) => has_slice(facts.spec, self.model, &facts.state.nodes.free[node.at()], shape),
            Gpus::Whole(_) | Gpus::Milli(_) => free.has_gpus(shape),
        };
        if !has_gpus {
            Lack::Gpus { partly: free.largest(shape) > 0 }
        } else if free.cpu_milli < shape.cpu_milli {
            Lack::Cpu
        } else if free.memory_mib < shape.memory_mib {
            Lack::Memory
        } else {
            Lack::Nothing
        }
    }
}

impl Row {
    /// Whether a member fitted before this pass gave to others.
    pub(super) fn fitted_before(&self, shape: &Shape) -> bool {
        self.before.is_some_and(|before| before.has_all(shape))
    }
}

/// Whether a GPU of a node has a place for the slice that a shape asks for.
pub(super) fn has_slice(spec: &FleetSpec, model: ModelId, free: &NodeFree, shape: &Shape) -> bool {
    let Gpus::Slice(slice) = shape.gpus else { return true };
    let profile = spec.models.get(usize::from(model.0)).and_then(|model| model.slices.get(usize::from(slice.0)));
    let fits = |slots: u8| profile.is_some_and(|profile| profile.positions.iter().any(|at| at & !slots == 0));
    free.gpus.iter().any(|gpu| fits(gpu.free_slots()))
}

/// What a node has with a grant given back.
pub(super) fn with_back(free: &NodeFree, gpus: GpuGrant, shape: &Shape) -> NodeFree {
    let mut free = *free;
    free.give(gpus, shape.cpu_milli, shape.memory_mib);
    free
}
