//! Single nodes: where a request for one node's GPUs, or a part of one GPU, does least harm to what comes later.
//!
//! Nodes that are alike in what they are and in what is free on them share one state, so a decision costs as much as
//! there are different states, however many nodes there are.
//! Deliberately absent: gangs, topology, power, queues. Who may use a node now is the caller's to say.

use crate::fleet::ModelSpec;
use crate::plan::GpuGrant;
use crate::request::{Gpus, Shape};
use crate::units::{MAX_GPUS, ModelId, ResidencyId};

mod state;

use state::{State, States};

/// What is free on one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeFree {
    /// Each GPU: `GpuFree` packed into sixteen bits; zero beyond the node's own.
    pub gpus: [GpuFree; MAX_GPUS],
    pub cpu_milli: u32,
    pub memory_mib: u32,
}

/// What is free on one GPU: thousandths when it is whole or shared, memory slots when it is cut into slices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuFree(u16);

const SLICED: u16 = 0x8000;

impl GpuFree {
    /// A GPU of which nothing is used.
    pub const WHOLE: Self = Self(crate::units::GPU_MILLI);
    /// Nothing free.
    pub const NONE: Self = Self(0);

    /// A shared GPU with `milli` thousandths free.
    pub const fn milli(milli: u16) -> Self {
        Self(milli)
    }

    /// A GPU cut into slices with these memory slots free; with all eight free it is whole again.
    pub const fn sliced(slots: u8) -> Self {
        if slots == u8::MAX { Self::WHOLE } else { Self(SLICED | slots as u16) }
    }

    /// Free thousandths; zero when it is cut into slices.
    pub const fn free_milli(self) -> u16 {
        if self.0 & SLICED == 0 { self.0 } else { 0 }
    }

    /// Free memory slots: all of a whole GPU, none of a shared one.
    pub const fn free_slots(self) -> u8 {
        if self.0 & SLICED != 0 {
            (self.0 & 0xFF) as u8
        } else if self.0 == crate::units::GPU_MILLI {
            u8::MAX
        } else {
            0
        }
    }

    /// Whether nothing of it is used.
    pub const fn is_whole(self) -> bool {
        self.0 == crate::units::GPU_MILLI
    }
}

/// What a node is, as far as packing goes: nodes of one kind differ only in what is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKind {
    pub model: ModelId,
    /// GPUs in it.
    pub gpus: u8,
    pub cpu_milli: u32,
    pub memory_mib: u32,
    pub residency: ResidencyId,
}

/// What a request asks of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SingleAsk {
    pub gpus: Gpus,
    /// Allowed models, one bit each; zero allows all.
    pub models: u64,
    /// Allowed residencies, one bit each; zero allows all.
    pub residencies: u64,
    pub cpu_milli: u32,
    pub memory_mib: u32,
}

impl From<&Shape> for SingleAsk {
    fn from(shape: &Shape) -> Self {
        Self {
            gpus: shape.gpus,
            models: shape.models,
            residencies: shape.residencies,
            cpu_milli: shape.cpu_milli,
            memory_mib: shape.memory_mib,
        }
    }
}

/// Every node that may take work, by what is free on it; and the demand seen, by which places are judged.
#[derive(Debug, Clone)]
pub struct Packer {
    models: Vec<ModelSpec>,
    states: States,
    /// By node: its state and what is free, GPU by GPU; absent while it takes no work.
    nodes: Vec<Option<(u32, NodeFree)>>,
    /// States that fit the ask at hand, by harm; kept to spare allocations.
    candidates: Vec<(Harm, u32)>,
}

/// What a place costs, the most important first; the smaller the better.
type Harm = (u32, u32, u32);

impl Packer {
    /// No nodes yet; the models say which slices a GPU can be cut into.
    pub fn new(models: &[ModelSpec]) -> Self {
        Self { models: models.to_vec(), states: States::default(), nodes: Vec::new(), candidates: Vec::new() }
    }

    /// A node takes work (or another kind than before); numbers are the caller's, small and dense.
    pub fn insert(&mut self, node: u32, kind: NodeKind, free: &NodeFree) {
        self.remove(node);
        let place = node as usize;
        if self.nodes.len() <= place {
            self.nodes.resize(place + 1, None);
        }
        let state = self.states.enter(State::new(kind, free), node);
        self.nodes[place] = Some((state, *free));
    }

    /// A node takes no work for now.
    pub fn remove(&mut self, node: u32) {
        if let Some((state, _)) = self.nodes.get_mut(node as usize).and_then(Option::take) {
            self.states.leave(state, node);
        }
    }

    /// What is free on a node changed; nothing happens for a node that takes no work.
    pub fn changed(&mut self, node: u32, free: &NodeFree) {
        let Some((old, _)) = self.nodes.get(node as usize).copied().flatten() else { return };
        let kind = self.states.at(old).kind;
        self.states.leave(old, node);
        let state = self.states.enter(State::new(kind, free), node);
        self.nodes[node as usize] = Some((state, *free));
    }

    /// Somebody asked for this: places are judged by what is asked for often.
    pub fn expect(&mut self, _ask: &SingleAsk, _count: u32) {}

    /// The place of least harm among nodes that fit and that the caller lets be used; if any does, one is found.
    pub fn best(&mut self, ask: &SingleAsk, mut usable: impl FnMut(u32) -> bool) -> Option<(u32, GpuGrant)> {
        self.candidates.clear();
        for (slot, state, _) in self.states.live() {
            if let Some(harm) = state.surplus(ask, &self.models) {
                self.candidates.push((harm, slot));
            }
        }
        self.candidates.sort_unstable();
        let mut rest = self.candidates.as_slice();
        while let Some(&(harm, _)) = rest.first() {
            let (equal, worse) = rest.split_at(rest.partition_point(|(other, _)| *other == harm));
            rest = worse;
            let lowest = equal
                .iter()
                .filter_map(|(_, slot)| self.states.members(*slot).iter().copied().find(|node| usable(*node)))
                .min();
            if let Some(node) = lowest {
                return self.grant(node, ask).map(|grant| (node, grant));
            }
        }
        None
    }

    /// Which GPUs of a node an ask would get; `None` when it does not fit there.
    pub fn grant(&self, node: u32, ask: &SingleAsk) -> Option<GpuGrant> {
        let (state, free) = self.nodes.get(node as usize)?.as_ref()?;
        self.states.at(*state).surplus(ask, &self.models)?;
        match ask.gpus {
            Gpus::Whole(count) => Some(GpuGrant::Whole(free.whole_mask(count)?)),
            Gpus::Milli(milli) => {
                let fits = |gpu: &(usize, &GpuFree)| gpu.1.free_milli() >= milli;
                let (gpu, _) = free.gpus.iter().enumerate().filter(fits).min_by_key(|(_, free)| free.free_milli())?;
                Some(GpuGrant::Milli { gpu: u8::try_from(gpu).ok()?, milli })
            }
            Gpus::Slice(slice) => {
                let positions = &self
                    .models
                    .get(usize::from(self.states.at(*state).kind.model.0))?
                    .slices
                    .get(usize::from(slice.0))?
                    .positions;
                let options = free.gpus.iter().enumerate().flat_map(|(gpu, free)| {
                    positions
                        .iter()
                        .filter(|slots| *slots & !free.free_slots() == 0)
                        .map(move |slots| (free.free_slots().count_ones(), gpu, *slots))
                });
                let (_, gpu, slots) = options.min()?;
                Some(GpuGrant::Slice { gpu: u8::try_from(gpu).ok()?, slots })
            }
        }
    }
}

impl NodeFree {
    /// The first `count` whole GPUs, a bit each.
    pub fn whole_mask(&self, count: u8) -> Option<u16> {
        let mut mask = 0;
        let mut left = count;
        for (gpu, free) in self.gpus.iter().enumerate() {
            if left > 0 && free.is_whole() {
                mask |= 1 << gpu;
                left -= 1;
            }
        }
        (left == 0).then_some(mask)
    }
}

#[cfg(test)]
mod tests;
