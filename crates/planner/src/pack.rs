//! Single nodes: where a request for one node's GPUs, or a part of one GPU, does least harm to what comes later.
//!
//! Nodes that are alike in what they are and in what is free on them share one state, so a decision costs as much as
//! there are different states, however many nodes there are.
//! Deliberately absent: gangs, topology, power, queues. Who may use a node now is the caller's to say.

use crate::fleet::ModelSpec;
use crate::plan::GpuGrant;
use crate::request::{Gpus, Shape};
use crate::units::{MAX_GPUS, ModelId, ResidencyId};

mod demand;
mod harm;
mod scarcity;
mod state;

use std::collections::BTreeMap;

use demand::{Census, Outlook, Supply};
use harm::{Harm, Judge};
use state::{Pick, State, States};

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

    /// What is free, in thousandths of a GPU; a memory slot counts for an eighth.
    fn amount(self) -> i64 {
        if self.0 & SLICED == 0 {
            i64::from(self.0)
        } else {
            i64::from(self.free_slots().count_ones()) * state::SLOT_MILLI
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

/// Every node that may take work, by what is free on it; and the demand, by which places are judged.
///
/// The demand is every request that waits or runs, unless its frequencies were told. Judgements are by the outlook of
/// the last `refresh`, so that they can be kept from one decision to the next.
#[derive(Debug, Clone)]
pub struct Packer {
    models: Vec<ModelSpec>,
    states: States,
    /// By node: its state and what is free, GPU by GPU; absent while it takes no work.
    nodes: Vec<Option<Lot>>,
    /// Nodes whose state may be another by now: they change often between two questions.
    moved: Vec<u32>,
    supply: Supply,
    seen: Census,
    told: Option<Census>,
    outlook: Outlook,
    /// What the outlook is made of has changed since.
    is_stale: bool,
    memo: Memo,
}

/// What is known of a node that takes work.
#[derive(Debug, Clone, Copy)]
struct Lot {
    state: u32,
    free: NodeFree,
    /// It stands in `Packer::moved`.
    is_moved: bool,
}

/// Judgements that still hold: by ask, by slot.
#[derive(Debug, Clone, Default)]
struct Memo {
    tables: BTreeMap<SingleAsk, Vec<Judgement>>,
    cells: usize,
    /// By slot: fragmentation of the state as it is.
    fragmented: Vec<Option<(u32, i64)>>,
}

/// Most judgements that are kept, of 32 bytes: the bound of the planner's memory. All are dropped when there are more.
const MAX_JUDGEMENTS: usize = 1 << 20;

/// Found of one state for one ask; holds for one stamp of the slot.
#[derive(Debug, Clone, Copy)]
struct Judgement {
    /// `None`: never judged.
    stamp: Option<u32>,
    found: Option<(Harm, Pick)>,
}

impl Packer {
    /// No nodes yet; the models say which slices a GPU can be cut into.
    pub fn new(models: &[ModelSpec]) -> Self {
        Self {
            models: models.to_vec(),
            states: States::default(),
            nodes: Vec::new(),
            moved: Vec::new(),
            supply: Supply { cpu_milli: 0, gpus: vec![0; models.len()] },
            seen: Census::default(),
            told: None,
            outlook: Outlook::default(),
            is_stale: false,
            memo: Memo::default(),
        }
    }

    /// A node takes work (or another kind than before); numbers are the caller's, small and dense.
    pub fn insert(&mut self, node: u32, kind: NodeKind, free: &NodeFree) {
        self.remove(node);
        let place = node as usize;
        if self.nodes.len() <= place {
            self.nodes.resize(place + 1, None);
        }
        let state = self.states.enter(State::new(kind, free), node);
        self.nodes[place] = Some(Lot { state, free: *free, is_moved: false });
        self.supply.add(kind, 1);
        self.is_stale = true;
    }

    /// A node takes no work for now.
    pub fn remove(&mut self, node: u32) {
        if let Some(Lot { state, .. }) = self.nodes.get_mut(node as usize).and_then(Option::take) {
            self.supply.add(self.states.at(state).kind, -1);
            self.states.leave(state, node);
            self.is_stale = true;
        }
    }

    /// What is free on a node changed; nothing happens for a node that takes no work.
    pub fn changed(&mut self, node: u32, free: &NodeFree) {
        let Some(Some(lot)) = self.nodes.get_mut(node as usize) else { return };
        lot.free = *free;
        if !std::mem::replace(&mut lot.is_moved, true) {
            self.moved.push(node);
        }
    }

    /// Puts nodes that changed into their states.
    fn settle(&mut self) {
        while let Some(node) = self.moved.pop() {
            let Some(Some(lot)) = self.nodes.get_mut(node as usize) else { continue };
            lot.is_moved = false;
            let before = self.states.at(lot.state);
            let now = State::new(before.kind, &lot.free);
            if *before != now {
                self.states.leave(lot.state, node);
                lot.state = self.states.enter(now, node);
            }
        }
    }

    /// So many more requests for this (fewer, when negative) wait or run.
    pub fn expect(&mut self, ask: &SingleAsk, requests: i64) {
        self.is_stale |= self.seen.add(ask, requests, &self.models) && self.told.is_none();
    }

    /// How often each ask comes, known from elsewhere: places are judged by this instead of by what is seen. Nothing
    /// told: by what is seen again.
    pub fn tell(&mut self, frequencies: &[(SingleAsk, u32)]) {
        self.told = (!frequencies.is_empty()).then(|| Census::told(frequencies, &self.models));
        self.is_stale = true;
    }

    /// From now on, judges by the demand and the nodes as they are now. The outlook depends on nothing else: however
    /// a state was reached, places are judged the same.
    pub fn refresh(&mut self) {
        self.settle();
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        let outlook = Outlook::new(self.told.as_ref().unwrap_or(&self.seen), &self.supply);
        if outlook != self.outlook {
            self.outlook = outlook;
            self.memo = Memo::default();
        }
    }

    /// The place of least harm among nodes that fit and that the caller lets be used; if any does, one is found.
    pub fn best(&mut self, ask: &SingleAsk, mut usable: impl FnMut(u32) -> bool) -> Option<(u32, GpuGrant)> {
        self.settle();
        let Self { models, states, outlook, memo, .. } = self;
        let judge = Judge { outlook, models };
        let table = memo.table(ask, states.slots().len());
        let mut best: Option<(Harm, u32, Pick)> = None;
        for (place, (judgement, fragmented)) in (0..).zip(table.judgements.iter_mut().zip(table.fragmented)) {
            let Some(first) = states.first(place) else { continue };
            let slot = &states.slots()[place as usize];
            if judgement.stamp != Some(slot.stamp) {
                let known = || match *fragmented {
                    Some((stamp, value)) if stamp == slot.stamp => value,
                    _ => {
                        let value = judge.outlook.fragmented(&slot.state, judge.models);
                        *fragmented = Some((slot.stamp, value));
                        value
                    }
                };
                *judgement = Judgement { stamp: Some(slot.stamp), found: judge.best(&slot.state, known, ask) };
            }
            let Some((harm, pick)) = judgement.found else { continue };
            if best.is_none_or(|(least, node, _)| (harm, first) < (least, node))
                && let Some(node) = states.first_usable(place, &mut usable)
                && best.is_none_or(|(least, other, _)| (harm, node) < (least, other))
            {
                best = Some((harm, node, pick));
            }
        }
        let (_, node, pick) = best?;
        self.nodes.get(node as usize)?.as_ref()?.free.grant(pick).map(|grant| (node, grant))
    }
}

/// Where judgements of one ask are kept.
struct Table<'a> {
    judgements: &'a mut [Judgement],
    fragmented: &'a mut [Option<(u32, i64)>],
}

impl Memo {
    fn table(&mut self, ask: &SingleAsk, slots: usize) -> Table<'_> {
        if self.cells > MAX_JUDGEMENTS {
            self.tables.clear();
            self.cells = 0;
        }
        if self.fragmented.len() < slots {
            self.fragmented.resize(slots, None);
        }
        let judgements = self.tables.entry(*ask).or_default();
        if judgements.len() < slots {
            self.cells += slots - judgements.len();
            judgements.resize(slots, Judgement { stamp: None, found: None });
        }
        Table { judgements, fragmented: &mut self.fragmented }
    }
}

impl Supply {
    fn add(&mut self, kind: NodeKind, nodes: i64) {
        self.cpu_milli += nodes * i64::from(kind.cpu_milli);
        if let Some(gpus) = self.gpus.get_mut(usize::from(kind.model.0)) {
            *gpus += nodes * i64::from(kind.gpus);
        }
    }
}

impl NodeFree {
    /// The first GPUs that are as picked.
    fn grant(&self, pick: Pick) -> Option<GpuGrant> {
        let first = |wanted: GpuFree| u8::try_from(self.gpus.iter().position(|gpu| *gpu == wanted)?).ok();
        match pick {
            Pick::Whole(count) => self.whole_mask(count).map(GpuGrant::Whole),
            Pick::Milli(gpu, milli) => Some(GpuGrant::Milli { gpu: first(gpu)?, milli }),
            Pick::Slice(gpu, slots) => Some(GpuGrant::Slice { gpu: first(gpu)?, slots }),
        }
    }

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
