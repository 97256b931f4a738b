//! Nodes by what they have free: equal ones in one row, so that a question about all nodes looks at rows.

use std::collections::HashMap;

use super::{Facts, Taken};
use crate::fleet::{FleetSpec, Health};
use crate::pack::NodeFree;
use crate::plan::GpuGrant;
use crate::request::{Gpus, Shape};
use crate::state::State;
use crate::state::nodes::gpus_touched;
use crate::state::topology::NodeIx;
use crate::units::{At, GPU_MILLI, ModelId, RequestId, ResidencyId};

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

/// Nodes that are alike.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) model: ModelId,
    pub(super) residency: ResidencyId,
    /// GPUs in each.
    pub(super) gpus: u8,
    /// Everything of each.
    cpu_milli: u32,
    memory_mib: u32,
    pub(super) place: Place,
    pub(super) free: Free,
    /// What was free before this pass, where that was more.
    before: Option<Free>,
    /// In order; never empty.
    pub(super) nodes: Vec<NodeIx>,
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
    rows: Vec<Row>,
    /// Only looked up in: its order would be chance.
    places: HashMap<Key, usize>,
    /// By node: its row.
    row_of: Vec<usize>,
    /// Nodes that had more before the last pass gave to others.
    gave: Vec<NodeIx>,
}

/// One changed node in so many, and all are counted anew: that costs less than moving each.
const RECOUNTED_PART: usize = 8;
/// Empty rows that are kept for nodes to come back to.
const EMPTY_ROWS: usize = 1024;

impl Census {
    /// Takes over what changed since it was last asked, and what the last pass gave.
    pub(crate) fn refresh(&mut self, state: &mut State, taken: &[Taken<'_>]) {
        let mut changed = state.take_touched();
        changed.append(&mut self.gave);
        changed.extend(taken.iter().map(|taken| taken.node));
        changed.sort_unstable();
        changed.dedup();
        let before = before(state, taken);
        self.gave = before.iter().map(|(node, _)| *node).collect();
        let is_new = self.row_of.len() != state.nodes.len();
        if is_new || changed.len() > state.nodes.len() / RECOUNTED_PART || self.rows.len() > EMPTY_ROWS + changed.len()
        {
            self.rows.clear();
            self.places.clear();
            self.row_of.clear();
            changed = (0..state.nodes.len()).map(NodeIx::new).collect();
        }
        let is_fresh = self.row_of.is_empty();
        let mut before = before.into_iter().peekable();
        for node in changed {
            let was = before.next_if(|(taken, _)| *taken == node).map(|(_, free)| Free::of(&free));
            let key = key(state, node, was);
            let place = *self.places.entry(key).or_insert_with(|| {
                self.rows.push(Row::new(&key));
                self.rows.len() - 1
            });
            if is_fresh {
                self.row_of.push(place);
                self.rows[place].nodes.push(node);
                continue;
            }
            let old = std::mem::replace(&mut self.row_of[node.at()], place);
            if old != place {
                self.rows[old].nodes.retain(|other| *other != node);
                let at = self.rows[place].nodes.partition_point(|other| *other < node);
                self.rows[place].nodes.insert(at, node);
            }
        }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.nodes.is_empty())
    }
}

/// What nodes had before the last pass gave to others, by node.
fn before(state: &State, taken: &[Taken<'_>]) -> Vec<(NodeIx, NodeFree)> {
    let mut before: Vec<(NodeIx, NodeFree)> = Vec::new();
    let mut sorted: Vec<&Taken<'_>> = taken.iter().collect();
    sorted.sort_by_key(|taken| taken.node);
    for taken in sorted {
        if before.last().is_none_or(|(node, _)| *node != taken.node) {
            before.push((taken.node, state.nodes.free[taken.node.at()]));
        }
        if let Some((_, free)) = before.last_mut() {
            free.give(taken.gpus, taken.request.shape.cpu_milli, taken.request.shape.memory_mib);
        }
    }
    before
}

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
        free: Free::of(&nodes.free[at]),
        before,
    }
}

impl Free {
    pub(super) fn of(free: &NodeFree) -> Self {
        let mut sum =
            Self { whole: 0, largest_milli: 0, total_milli: 0, cpu_milli: free.cpu_milli, memory_mib: free.memory_mib };
        for gpu in &free.gpus {
            let milli = gpu.free_milli();
            sum.whole += u8::from(gpu.is_whole());
            sum.largest_milli = sum.largest_milli.max(milli);
            sum.total_milli += u32::from(milli);
        }
        sum
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

impl Row {
    fn new(key: &Key) -> Self {
        Self {
            model: key.model,
            residency: key.residency,
            gpus: key.gpus,
            cpu_milli: key.cpu_milli,
            memory_mib: key.memory_mib,
            place: key.place,
            free: key.free,
            before: key.before,
            nodes: Vec::new(),
        }
    }

    /// Whether the shape allows these nodes.
    pub(super) const fn allowed(&self, shape: &Shape) -> bool {
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

    /// What keeps a member from this node of the row, which could hold one when empty.
    pub(super) fn lack(&self, facts: &Facts<'_>, node: NodeIx, shape: &Shape) -> Lack {
        let has_gpus = match shape.gpus {
            Gpus::Slice(_) => has_slice(facts.spec, self.model, &facts.state.nodes.free[node.at()], shape),
            Gpus::Whole(_) | Gpus::Milli(_) => self.free.has_gpus(shape),
        };
        if !has_gpus {
            Lack::Gpus { partly: self.free.largest(shape) > 0 }
        } else if self.free.cpu_milli < shape.cpu_milli {
            Lack::Cpu
        } else if self.free.memory_mib < shape.memory_mib {
            Lack::Memory
        } else {
            Lack::Nothing
        }
    }

    /// Whether a member fitted before this pass gave to others.
    pub(super) fn fitted_before(&self, shape: &Shape) -> bool {
        self.before.is_some_and(|before| before.has_all(shape))
    }
}

/// Whether a GPU of a node has a place for the slice that a shape asks for.
fn has_slice(spec: &FleetSpec, model: ModelId, free: &NodeFree, shape: &Shape) -> bool {
    let Gpus::Slice(slice) = shape.gpus else { return true };
    let profile = spec.models.get(usize::from(model.0)).and_then(|model| model.slices.get(usize::from(slice.0)));
    let fits = |slots: u8| profile.is_some_and(|profile| profile.positions.iter().any(|at| at & !slots == 0));
    free.gpus.iter().any(|gpu| fits(gpu.free_slots()))
}

/// Whether a member fits into what is free on a node of this model.
pub(super) fn holds(spec: &FleetSpec, model: ModelId, free: &NodeFree, shape: &Shape) -> bool {
    free.could_hold(shape) && has_slice(spec, model, free, shape)
}

/// What a node has with a grant given back.
pub(super) fn with_back(free: &NodeFree, gpus: GpuGrant, shape: &Shape) -> NodeFree {
    let mut free = *free;
    free.give(gpus, shape.cpu_milli, shape.memory_mib);
    free
}
