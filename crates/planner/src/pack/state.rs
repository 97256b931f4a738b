//! Distinct states of nodes, each once, with the nodes that are in it.

use std::collections::{BTreeSet, HashMap};

use super::{GpuFree, Harm, NodeFree, NodeKind, SingleAsk};
use crate::fleet::ModelSpec;
use crate::request::Gpus;
use crate::units::MAX_GPUS;

/// What a node is and what is free on it, whichever of its GPUs: those with more free first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) kind: NodeKind,
    pub(super) gpus: [GpuFree; MAX_GPUS],
    pub(super) cpu_milli: u32,
    pub(super) memory_mib: u32,
}

impl State {
    pub(super) fn new(kind: NodeKind, free: &NodeFree) -> Self {
        let mut gpus = free.gpus;
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

    /// What would be left over, if it fits.
    pub(super) fn surplus(&self, ask: &SingleAsk, models: &[ModelSpec]) -> Option<Harm> {
        if !self.suits(ask) {
            return None;
        }
        let whole = self.gpus.iter().filter(|gpu| gpu.is_whole()).count();
        let rest = match ask.gpus {
            Gpus::Whole(count) => whole.checked_sub(usize::from(count))?,
            Gpus::Milli(milli) => {
                usize::from(self.gpus.iter().map(|gpu| gpu.free_milli()).filter(|free| *free >= milli).min()? - milli)
            }
            Gpus::Slice(slice) => {
                let positions =
                    &models.get(usize::from(self.kind.model.0))?.slices.get(usize::from(slice.0))?.positions;
                let fits = |gpu: &&GpuFree| positions.iter().any(|slots| slots & !gpu.free_slots() == 0);
                self.gpus.iter().filter(fits).map(|gpu| gpu.free_slots().count_ones() as usize).min()?
            }
        };
        Some((u32::try_from(rest).unwrap_or(u32::MAX), u32::try_from(whole).unwrap_or(u32::MAX), self.cpu_milli))
    }
}

/// Every state that a node is in.
#[derive(Debug, Clone, Default)]
pub(super) struct States {
    slots: Vec<(State, BTreeSet<u32>)>,
    /// Only looked up in, never walked: its order would be chance.
    slot_of: HashMap<State, u32>,
    vacant: Vec<u32>,
}

impl States {
    pub(super) fn at(&self, slot: u32) -> &State {
        &self.slots[slot as usize].0
    }

    pub(super) fn members(&self, slot: u32) -> &BTreeSet<u32> {
        &self.slots[slot as usize].1
    }

    /// States that some node is in.
    pub(super) fn live(&self) -> impl Iterator<Item = (u32, &State, &BTreeSet<u32>)> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, (_, members))| !members.is_empty())
            .map(|(slot, (state, members))| (slot, state, members))
    }

    /// `node` is in `state` now.
    pub(super) fn enter(&mut self, state: State, node: u32) -> u32 {
        let slot = match self.slot_of.get(&state) {
            Some(slot) => *slot,
            None => self.open(state),
        };
        self.slots[slot as usize].1.insert(node);
        slot
    }

    /// `node` is in `slot` no longer.
    pub(super) fn leave(&mut self, slot: u32, node: u32) {
        let (state, members) = &mut self.slots[slot as usize];
        members.remove(&node);
        if members.is_empty() {
            self.slot_of.remove(state);
            self.vacant.push(slot);
        }
    }

    fn open(&mut self, state: State) -> u32 {
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.slots[slot as usize].0 = state;
                slot
            }
            None => {
                self.slots.push((state, BTreeSet::new()));
                u32::try_from(self.slots.len() - 1).expect("there are fewer states than nodes")
            }
        };
        self.slot_of.insert(state, slot);
        slot
    }
}
