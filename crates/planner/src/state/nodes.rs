//! The node table: one array for each property, in depth-first order of the topology.

use crate::fleet::{FleetSpec, Health};
use crate::pack::{GpuFree, NodeFree};
use crate::plan::GpuGrant;
use crate::reliability::lemon_rank;
use crate::request::{Gpus, Shape};
use crate::state::topology::{NodeIx, Topology};
use crate::units::{At, MAX_GPUS, ModelId, PowerId, RequestId, ResidencyId};

/// Nodes that are alike in what a request may ask of the hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Class {
    pub(crate) model: ModelId,
    pub(crate) residency: ResidencyId,
    pub(crate) gpus: u8,
}

/// Most classes told apart; where a fleet has more, the last stands for all the rest.
pub(crate) const MAX_CLASSES: usize = 64;

/// What is known of each node.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    pub(crate) classes: Vec<Class>,
    pub(crate) class: Vec<u8>,
    pub(crate) model: Vec<ModelId>,
    pub(crate) residency: Vec<ResidencyId>,
    pub(crate) power: Vec<PowerId>,
    /// Everything of it.
    pub(crate) capacity: Vec<NodeFree>,
    pub(crate) free: Vec<NodeFree>,
    /// GPUs in it.
    pub(crate) gpus: Vec<u8>,
    /// GPUs of which nothing is used.
    pub(crate) whole: Vec<u8>,
    pub(crate) health: Vec<Health>,
    /// Not to be used before, where it has not passed yet.
    pub(crate) held_until: Vec<Option<At>>,
    /// For whom it is kept.
    pub(crate) reserved: Vec<Option<RequestId>>,
    /// Until when, where it is kept.
    pub(crate) kept_until: Vec<At>,
    pub(crate) failures: Vec<u32>,
    pub(crate) observed_days: Vec<u32>,
    /// How often it fails, against the others: zero is best.
    pub(crate) rank: Vec<u8>,
}

impl Nodes {
    /// All free; health and holds as the owner says.
    pub(crate) fn new(spec: &FleetSpec, topology: &Topology) -> Self {
        let listed = || (0..topology.len()).map(|at| &spec.nodes[topology.spec_place(NodeIx::new(at))]);
        let class_of =
            |node: &crate::fleet::NodeSpec| Class { model: node.model, residency: node.residency, gpus: node.gpus };
        let mut classes: Vec<Class> = listed().map(class_of).collect();
        classes.sort_unstable();
        classes.dedup();
        let place = |class: &Class| classes.binary_search(class).unwrap_or(0).min(MAX_CLASSES - 1);
        let class = listed().map(|node| u8::try_from(place(&class_of(node))).unwrap_or(0)).collect();
        let capacity: Vec<NodeFree> =
            listed().map(|node| NodeFree::empty(node.gpus, node.cpu_milli, node.memory_mib)).collect();
        let failures: Vec<u32> = listed().map(|node| node.failures).collect();
        let observed_days: Vec<u32> = listed().map(|node| node.observed_days).collect();
        let mut nodes = Self {
            class,
            classes,
            model: listed().map(|node| node.model).collect(),
            residency: listed().map(|node| node.residency).collect(),
            power: listed().map(|node| node.power).collect(),
            free: capacity.clone(),
            capacity,
            gpus: listed().map(|node| node.gpus).collect(),
            whole: listed().map(|node| node.gpus).collect(),
            health: listed().map(|node| node.health).collect(),
            held_until: listed().map(|node| node.hold_until).collect(),
            reserved: vec![None; topology.len()],
            kept_until: vec![At::NEVER; topology.len()],
            rank: vec![0; topology.len()],
            failures,
            observed_days,
        };
        for at in 0..nodes.rank.len() {
            nodes.mend_rank(NodeIx::new(at));
        }
        nodes
    }

    /// Nodes.
    pub(crate) fn len(&self) -> usize {
        self.class.len()
    }

    /// Whether the node takes new work, not asking for whom it may be kept.
    pub(crate) fn in_service(&self, node: NodeIx) -> bool {
        self.health[node.at()] == Health::Ready && self.held_until[node.at()].is_none()
    }

    /// Whether the node takes anybody's new work.
    pub(crate) fn open(&self, node: NodeIx) -> bool {
        self.in_service(node) && self.reserved[node.at()].is_none()
    }

    /// Classes that a shape allows and that have as many GPUs as it asks on one node.
    pub(crate) fn class_mask(&self, shape: &Shape) -> u64 {
        let mut mask = 0;
        for (at, class) in self.classes.iter().enumerate() {
            if allows(shape, class.model, class.residency) && class.gpus >= gpus_touched(shape.gpus) {
                mask |= 1 << at.min(MAX_CLASSES - 1);
            }
        }
        mask
    }

    /// Whether the node's hardware is what the shape allows.
    pub(crate) fn allowed(&self, node: NodeIx, shape: &Shape) -> bool {
        allows(shape, self.model[node.at()], self.residency[node.at()])
    }

    /// Ranks a node by its failures.
    pub(crate) fn mend_rank(&mut self, node: NodeIx) {
        self.rank[node.at()] = lemon_rank(self.failures[node.at()], self.observed_days[node.at()]);
    }
}

fn allows(shape: &Shape, model: ModelId, residency: ResidencyId) -> bool {
    (shape.models == 0 || shape.models >> model.0.min(63) & 1 == 1)
        && (shape.residencies == 0 || shape.residencies >> residency.0.min(63) & 1 == 1)
}

/// GPUs of a node that an ask touches.
pub(crate) const fn gpus_touched(gpus: Gpus) -> u8 {
    match gpus {
        Gpus::Whole(count) => count,
        Gpus::Milli(_) | Gpus::Slice(_) => 1,
    }
}

impl NodeFree {
    /// A node of which nothing is used.
    pub(crate) fn empty(gpus: u8, cpu_milli: u32, memory_mib: u32) -> Self {
        let mut free = Self { cpu_milli, memory_mib, ..Self::default() };
        for gpu in free.gpus.iter_mut().take(usize::from(gpus)) {
            *gpu = GpuFree::WHOLE;
        }
        free
    }

    /// Whether a part of some GPU is free.
    pub(crate) fn has_gpu(&self) -> bool {
        self.gpus.iter().any(|gpu| gpu.free_milli() > 0 || gpu.free_slots() != 0)
    }

    /// Whether these GPUs are free; CPU and memory are not asked for.
    pub(crate) fn can_take(&self, gpus: GpuGrant) -> bool {
        match gpus {
            GpuGrant::Whole(mask) => (0..MAX_GPUS).all(|gpu| mask >> gpu & 1 == 0 || self.gpus[gpu].is_whole()),
            GpuGrant::Milli { gpu, milli } => {
                self.gpus.get(usize::from(gpu)).is_some_and(|free| free.free_milli() >= milli)
            }
            GpuGrant::Slice { gpu, slots } => {
                self.gpus.get(usize::from(gpu)).is_some_and(|free| slots & !free.free_slots() == 0)
            }
        }
    }

    /// Takes what is free.
    pub(crate) fn take(&mut self, gpus: GpuGrant, cpu_milli: u32, memory_mib: u32) {
        debug_assert!(self.can_take(gpus), "no GPU goes to two leases: {gpus:?} of {self:?}");
        self.cpu_milli -= cpu_milli;
        self.memory_mib -= memory_mib;
        match gpus {
            GpuGrant::Whole(mask) => self.set_whole(mask, GpuFree::NONE),
            GpuGrant::Milli { gpu, milli } => {
                let free = &mut self.gpus[usize::from(gpu)];
                *free = GpuFree::milli(free.free_milli() - milli);
            }
            GpuGrant::Slice { gpu, slots } => {
                let free = &mut self.gpus[usize::from(gpu)];
                *free = GpuFree::sliced(free.free_slots() & !slots);
            }
        }
    }

    /// Gives back what was taken.
    pub(crate) fn give(&mut self, gpus: GpuGrant, cpu_milli: u32, memory_mib: u32) {
        self.cpu_milli += cpu_milli;
        self.memory_mib += memory_mib;
        match gpus {
            GpuGrant::Whole(mask) => self.set_whole(mask, GpuFree::WHOLE),
            GpuGrant::Milli { gpu, milli } => {
                let free = &mut self.gpus[usize::from(gpu)];
                *free = GpuFree::milli(free.free_milli() + milli);
            }
            GpuGrant::Slice { gpu, slots } => {
                let free = &mut self.gpus[usize::from(gpu)];
                *free = GpuFree::sliced(free.free_slots() | slots);
            }
        }
    }

    fn set_whole(&mut self, mask: u16, free: GpuFree) {
        let mut left = mask;
        while left != 0 {
            self.gpus[left.trailing_zeros() as usize] = free;
            left &= left - 1;
        }
    }
}
