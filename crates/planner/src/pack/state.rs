//! Distinct states of nodes, each once, with the nodes that are in it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
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
    /// By node: its slot; `NOWHERE` while it is in none.
    slot_by_node: Vec<u32>,
    /// Only looked up in, never walked: its order would be chance.
    slot_of: FxHashMap<State, u32>,
    vacant: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

/// One state.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) state: State,
    /// How often this slot got another state: what is known of it holds for one stamp.
    pub(super) stamp: u32,
    /// Nodes in this state; none in a vacant slot.
    count: usize,
    /// Those, the lowest on top, among others that have left since: most come and go before somebody asks.
    members: BinaryHeap<Reverse<u32>>,
}

/// So many nodes that have left may stand in a slot for each that is there, and some more.
const LEFT_PART: usize = 2;
const LEFT_MORE: usize = 64;

impl States {
    pub(super) fn at(&self, slot: u32) -> &State {
        &self.slots[slot as usize].state
    }

    /// Every slot, vacant ones too.
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// `node` is in `state` now; it was in none.
    pub(super) fn enter(&mut self, state: State, node: u32) -> u32 {
        let place = match self.slot_of.get(&state) {
            Some(slot) => *slot,
            None => self.open(state),
        };
        let at = node as usize;
        if self.slot_by_node.len() <= at {
            self.slot_by_node.resize(at + 1, NOWHERE);
        }
        self.slot_by_node[at] = place;
        let slot = &mut self.slots[place as usize];
        slot.count += 1;
        if slot.members.len() > LEFT_PART * slot.count + LEFT_MORE {
            let by_node = &self.slot_by_node;
            let mut members: Vec<Reverse<u32>> = slot.members.drain().collect();
            members.retain(|Reverse(node)| by_node[*node as usize] == place);
            members.sort_unstable();
            members.dedup();
            slot.members = BinaryHeap::from(members);
        }
        slot.members.push(Reverse(node));
        place
    }

    /// `node` is in `slot` no longer.
    pub(super) fn leave(&mut self, slot: u32, node: u32) {
        self.slot_by_node[node as usize] = NOWHERE;
        let Slot { state, members, count, .. } = &mut self.slots[slot as usize];
        *count -= 1;
        if *count == 0 {
            members.clear();
            self.slot_of.remove(state);
            self.vacant.push(slot);
        }
    }

    /// The lowest node in a slot.
    pub(super) fn first(&mut self, place: u32) -> Option<u32> {
        let slot = &mut self.slots[place as usize];
        if slot.count == 0 {
            return None;
        }
        while let Some(Reverse(node)) = slot.members.peek().copied() {
            if self.slot_by_node[node as usize] == place {
                return Some(node);
            }
            slot.members.pop();
        }
        None
    }

    /// The lowest node in a slot that the caller lets be used.
    pub(super) fn first_usable(&mut self, place: u32, mut usable: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut set_aside = Vec::new();
        let mut found = None;
        while let Some(node) = self.first(place) {
            if usable(node) {
                found = Some(node);
                break;
            }
            set_aside.push(Reverse(node));
            let members = &mut self.slots[place as usize].members;
            while members.peek() == Some(&Reverse(node)) {
                members.pop();
            }
        }
        self.slots[place as usize].members.extend(set_aside);
        found
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
                self.slots.push(Slot { state, stamp: 0, count: 0, members: BinaryHeap::new() });
                u32::try_from(self.slots.len() - 1).expect("there are no more states than nodes")
            }
        };
        self.slot_of.insert(state, slot);
        slot
    }
}
