//! Distinct states of nodes, each once, with the nodes that are in it.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;

use super::{GpuFree, NodeFree, NodeKind, SingleAsk};
use crate::fleet::ModelSpec;
use crate::request::Gpus;
use crate::units::{GPU_MILLI, MAX_GPUS};

/// Thousandths of a GPU that one of its eight memory slots counts for.
pub(super) const SLOT_MILLI: i64 = GPU_MILLI as i64 / 8;

/// What a node is and what is free on it, whichever of its GPUs: those with more free first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) kind: NodeKind,
    pub(super) gpus: [GpuFree; MAX_GPUS],
    pub(super) cpu_milli: u32,
    pub(super) memory_mib: u32,
}

impl Hash for State {
    /// Four GPUs at a time; what is the same for most nodes of a fleet is left out.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for four in self.gpus.chunks_exact(4) {
            hasher.write_u64(four.iter().fold(0, |word, gpu| word << 16 | u64::from(gpu.0)));
        }
        hasher.write_u64(u64::from(self.cpu_milli) << 32 | u64::from(self.memory_mib));
        hasher.write_u64(u64::from(self.kind.model.0) << 8 | u64::from(self.kind.residency.0));
    }
}

impl State {
    pub(super) fn new(kind: NodeKind, free: &NodeFree) -> Self {
        let mut gpus = [GpuFree::NONE; MAX_GPUS];
        let own = usize::from(kind.gpus).min(MAX_GPUS);
        gpus[..own].copy_from_slice(&free.gpus[..own]);
        gpus.sort_unstable_by(|left, right| right.cmp(left));
        Self { kind, gpus, cpu_milli: free.cpu_milli, memory_mib: free.memory_mib }
    }

    /// Whether model, residency, CPU and memory suit, whatever its GPUs.
    pub(super) const fn suits(&self, ask: &SingleAsk) -> bool {
        (ask.models == 0 || ask.models >> self.kind.model.0 & 1 == 1)
            && (ask.residencies == 0 || ask.residencies >> self.kind.residency.0 & 1 == 1)
            && self.cpu_milli >= ask.cpu_milli
            && self.memory_mib >= ask.memory_mib
    }

    /// Capacity free, in thousandths of a GPU.
    pub(super) fn free_milli(&self) -> i64 {
        self.gpus.iter().map(|gpu| gpu.amount()).sum()
    }

    /// GPUs of which nothing is used.
    pub(super) fn whole(&self) -> usize {
        self.gpus.iter().filter(|gpu| gpu.is_whole()).count()
    }

    /// Capacity that requests for such GPUs could use, in thousandths of a GPU: of every GPU that could hold one, all
    /// that is free on it; nothing when there are too few.
    pub(super) fn usable_milli(&self, gpus: Gpus, models: &[ModelSpec]) -> i64 {
        match gpus {
            Gpus::Whole(count) => {
                let whole = self.whole();
                if whole < usize::from(count) { 0 } else { whole as i64 * i64::from(GPU_MILLI) }
            }
            Gpus::Milli(milli) => {
                self.gpus.iter().map(|gpu| gpu.free_milli()).filter(|free| *free >= milli).map(i64::from).sum()
            }
            Gpus::Slice(slice) => {
                let positions = positions(models, self.kind, slice);
                let fits = |gpu: &&GpuFree| positions.iter().any(|slots| slots & !gpu.free_slots() == 0);
                self.gpus.iter().filter(fits).map(|gpu| gpu.amount()).sum()
            }
        }
    }

    /// The same node once `pick` was taken of it.
    pub(super) fn after(&self, ask: &SingleAsk, pick: Pick) -> Self {
        let mut rest = *self;
        rest.cpu_milli = rest.cpu_milli.saturating_sub(ask.cpu_milli);
        rest.memory_mib = rest.memory_mib.saturating_sub(ask.memory_mib);
        let replace = |gpus: &mut [GpuFree], old: GpuFree, new: GpuFree| {
            if let Some(gpu) = gpus.iter_mut().find(|gpu| **gpu == old) {
                *gpu = new;
            }
        };
        match pick {
            Pick::Whole(count) => {
                rest.gpus
                    .iter_mut()
                    .filter(|gpu| gpu.is_whole())
                    .take(usize::from(count))
                    .for_each(|gpu| *gpu = GpuFree::NONE);
            }
            Pick::Milli(gpu, milli) => replace(&mut rest.gpus, gpu, GpuFree::milli(gpu.free_milli() - milli)),
            Pick::Slice(gpu, slots) => replace(&mut rest.gpus, gpu, GpuFree::sliced(gpu.free_slots() & !slots)),
        }
        rest.gpus[..usize::from(self.kind.gpus).min(MAX_GPUS)].sort_unstable_by(|left, right| right.cmp(left));
        rest
    }

    /// Every different way to give what is asked; none when it does not fit.
    pub(super) fn picks(&self, ask: &SingleAsk, models: &[ModelSpec], mut each: impl FnMut(Pick)) {
        if !self.suits(ask) {
            return;
        }
        let gpus = &self.gpus[..usize::from(self.kind.gpus).min(MAX_GPUS)];
        let different = gpus.iter().enumerate().filter(|(place, gpu)| *place == 0 || gpus[place - 1] != **gpu);
        match ask.gpus {
            Gpus::Whole(count) if self.whole() >= usize::from(count) => each(Pick::Whole(count)),
            Gpus::Whole(_) => {}
            Gpus::Milli(milli) => different
                .filter(|(_, gpu)| gpu.free_milli() >= milli)
                .for_each(|(_, gpu)| each(Pick::Milli(*gpu, milli))),
            Gpus::Slice(slice) => {
                let positions = positions(models, self.kind, slice);
                for (_, gpu) in different {
                    let fits = positions.iter().filter(|slots| **slots & !gpu.free_slots() == 0);
                    fits.for_each(|slots| each(Pick::Slice(*gpu, *slots)));
                }
            }
        }
    }
}

/// Where a profile may lie on a GPU of this kind of node.
fn positions(models: &[ModelSpec], kind: NodeKind, slice: crate::units::SliceId) -> &[u8] {
    let model = models.get(usize::from(kind.model.0));
    model.and_then(|model| model.slices.get(usize::from(slice.0))).map_or(&[], |slice| slice.positions.as_slice())
}

/// What is taken of a node, whichever of its equal GPUs it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// So many whole GPUs.
    Whole(u8),
    /// Thousandths of a GPU on which so much is free.
    Milli(GpuFree, u16),
    /// These memory slots of a GPU on which so much is free.
    Slice(GpuFree, u8),
}

/// Every state that a node is in, each in a slot of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct States {
    slots: Vec<Slot>,
    /// Only looked up in, never walked: its order would be chance.
    slot_of: FxHashMap<State, u32>,
    vacant: Vec<u32>,
}

/// One state.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) state: State,
    /// How often this slot got another state: what is known of it holds for one stamp.
    pub(super) stamp: u32,
    /// Nodes in this state; none in a vacant slot.
    pub(super) members: BTreeSet<u32>,
}

impl States {
    pub(super) fn at(&self, slot: u32) -> &State {
        &self.slots[slot as usize].state
    }

    /// Every slot, vacant ones too.
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// `node` is in `state` now.
    pub(super) fn enter(&mut self, state: State, node: u32) -> u32 {
        let slot = match self.slot_of.get(&state) {
            Some(slot) => *slot,
            None => self.open(state),
        };
        self.slots[slot as usize].members.insert(node);
        slot
    }

    /// `node` is in `slot` no longer.
    pub(super) fn leave(&mut self, slot: u32, node: u32) {
        let Slot { state, members, .. } = &mut self.slots[slot as usize];
        members.remove(&node);
        if members.is_empty() {
            self.slot_of.remove(state);
            self.vacant.push(slot);
        }
    }

    fn open(&mut self, state: State) -> u32 {
        let slot = match self.vacant.pop() {
            Some(slot) => {
                let reused = &mut self.slots[slot as usize];
                reused.state = state;
                reused.stamp = reused.stamp.wrapping_add(1);
                slot
            }
            None => {
                self.slots.push(Slot { state, stamp: 0, members: BTreeSet::new() });
                u32::try_from(self.slots.len() - 1).expect("there are no more states than nodes")
            }
        };
        self.slot_of.insert(state, slot);
        slot
    }
}
