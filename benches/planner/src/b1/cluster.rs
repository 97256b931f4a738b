//! A plain cluster for the peers: distinct node states, and for each decision the best of them by a peer's score.
//!
//! Of nodes with the same score the one with the lowest number is taken, as the authors' simulator does.

use std::collections::{BTreeSet, HashMap};

use crate::openb::{Node, Site, Task};

/// What is free on a node, GPUs with most free first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) node: Node,
    pub(crate) gpus: [u16; 8],
    pub(crate) cpu_milli: u32,
    pub(crate) memory_mib: u32,
}

impl State {
    pub(crate) fn new(node: Node) -> Self {
        let mut gpus = [0; 8];
        gpus.iter_mut().take(usize::from(node.gpus)).for_each(|gpu| *gpu = 1000);
        Self { node, gpus, cpu_milli: node.cpu_milli, memory_mib: node.memory_mib }
    }

    pub(crate) fn free_milli(&self) -> i64 {
        self.gpus.iter().copied().map(i64::from).sum()
    }

    pub(crate) fn whole(&self) -> usize {
        self.gpus.iter().filter(|gpu| **gpu == 1000).count()
    }

    /// Whether the task's GPUs are free here, whatever its CPU and memory.
    pub(crate) fn has_gpus(&self, task: &Task) -> bool {
        (task.gpus == 0 || task.models == 0 || task.models >> self.node.model & 1 == 1)
            && if task.is_share() { self.gpus[0] >= task.milli } else { self.whole() >= usize::from(task.gpus) }
    }

    pub(crate) fn fits(&self, task: &Task) -> bool {
        self.cpu_milli >= task.cpu_milli && self.memory_mib >= task.memory_mib && self.has_gpus(task)
    }

    /// The different GPUs that a share could lie on, the tightest first; one choice for all other tasks.
    pub(crate) fn choices(&self, task: &Task) -> Vec<usize> {
        if !task.is_share() {
            return vec![0];
        }
        let fits = |place: &usize| self.gpus[*place] >= task.milli;
        let differs = |place: &usize| self.gpus.get(place + 1) != Some(&self.gpus[*place]);
        (0..self.gpus.len()).rev().filter(fits).filter(differs).collect()
    }

    pub(crate) fn after(&self, task: &Task, choice: usize) -> Self {
        let mut rest = *self;
        rest.cpu_milli -= task.cpu_milli;
        rest.memory_mib -= task.memory_mib;
        if task.is_share() {
            rest.gpus[choice] -= task.milli;
        } else {
            rest.gpus.iter_mut().take(usize::from(task.gpus)).for_each(|gpu| *gpu = 0);
        }
        rest.gpus.sort_unstable_by(|left, right| right.cmp(left));
        rest
    }
}

/// A peer's judgement of a state that fits: the greater the better, and which GPU it would take.
pub(crate) trait Peer {
    fn score(&mut self, state: &State, task: &Task) -> (i64, usize);
}

/// One slot: a state, how often the slot was filled anew, and the nodes in it.
struct Slot {
    state: State,
    stamp: u32,
    nodes: BTreeSet<usize>,
}

/// The nodes by state, and what was judged of them.
pub(crate) struct Cluster {
    slots: Vec<Slot>,
    slot_of: HashMap<State, usize>,
    vacant: Vec<usize>,
    memo: HashMap<Task, Vec<(u32, i64, usize)>>,
}

impl Cluster {
    pub(crate) fn new(site: &Site) -> Self {
        let mut cluster = Self { slots: Vec::new(), slot_of: HashMap::new(), vacant: Vec::new(), memo: HashMap::new() };
        for (place, node) in site.nodes.iter().enumerate() {
            cluster.enter(State::new(*node), place);
        }
        cluster
    }

    /// Places a task where the peer likes it best; the state before and after, or `None` when it fits nowhere.
    pub(crate) fn place(&mut self, task: &Task, peer: &mut dyn Peer) -> Option<(State, State)> {
        let memo = self.memo.entry(*task).or_default();
        memo.resize(self.slots.len(), (0, 0, 0));
        let mut best: Option<(i64, std::cmp::Reverse<usize>, usize, usize)> = None;
        for (place, (slot, known)) in self.slots.iter().zip(memo).enumerate() {
            let Some(first) = slot.nodes.first().filter(|_| slot.state.fits(task)) else { continue };
            if known.0 != slot.stamp {
                let (score, choice) = peer.score(&slot.state, task);
                *known = (slot.stamp, score, choice);
            }
            best = best.max(Some((known.1, std::cmp::Reverse(*first), place, known.2)));
        }
        let (_, std::cmp::Reverse(node), place, choice) = best?;
        let before = self.slots[place].state;
        let after = before.after(task, choice);
        self.leave(place, node);
        self.enter(after, node);
        Some((before, after))
    }

    fn enter(&mut self, state: State, node: usize) {
        let place = self.slot_of.get(&state).copied().unwrap_or_else(|| {
            let place = if let Some(place) = self.vacant.pop() {
                self.slots[place].state = state;
                self.slots[place].stamp += 1;
                place
            } else {
                self.slots.push(Slot { state, stamp: 1, nodes: BTreeSet::new() });
                self.slots.len() - 1
            };
            self.slot_of.insert(state, place);
            place
        });
        self.slots[place].nodes.insert(node);
    }

    fn leave(&mut self, place: usize, node: usize) {
        self.slots[place].nodes.remove(&node);
        if self.slots[place].nodes.is_empty() {
            self.slot_of.remove(&self.slots[place].state);
            self.vacant.push(place);
        }
    }
}
