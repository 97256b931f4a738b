//! What there is: nodes in a topology tree, a fabric tree and a power tree, and the queues that share them.
//!
//! A rack is a unit of power and space, not of NVLink: topology and fabric are two trees over the same nodes.

use crate::units::{At, LeaseId, ModelId, NodeId, PowerId, QueueId, ResidencyId, TenantClass};

/// A fleet as its owner describes it. Places in these lists are the ids by which all else names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetSpec {
    pub models: Vec<ModelSpec>,
    /// Topology and fabric domains; a parent stands before or after its children.
    pub domains: Vec<DomainSpec>,
    pub power: Vec<PowerSpec>,
    pub nodes: Vec<NodeSpec>,
    pub queues: Vec<QueueSpec>,
    pub policy: Policy,
}

/// A GPU model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSpec {
    /// Hardware partitions it can be cut into; empty where it cannot.
    pub slices: Vec<SliceSpec>,
}

/// A hardware partition profile (MIG): the positions it may take among a GPU's eight memory slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceSpec {
    /// Bit masks over the eight memory slots, one for each allowed position.
    pub positions: Vec<u8>,
    /// Compute slots it takes, of seven.
    pub compute: u8,
}

/// How near things are: coarse to fine, first the topology's levels, then the fabric's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// One location.
    Site,
    /// A hall, or a pod of it.
    Pod,
    /// A scalable unit.
    Unit,
    /// A rack.
    Rack,
    /// What one group of spine switches joins.
    Spine,
    /// What one leaf switch (or rail group) joins.
    Leaf,
    /// What NVLink joins.
    NvLink,
}

impl Level {
    /// Every level, in the order of the enum.
    pub const ALL: [Self; 7] = [Self::Site, Self::Pod, Self::Unit, Self::Rack, Self::Spine, Self::Leaf, Self::NvLink];

    /// Whether it belongs to the fabric tree rather than the topology tree.
    pub const fn is_fabric(self) -> bool {
        matches!(self, Self::Spine | Self::Leaf | Self::NvLink)
    }
}

/// One domain. Its parent is a coarser level of the same tree, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSpec {
    pub level: Level,
    pub parent: Option<crate::units::DomainId>,
}

/// One point of the power tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerSpec {
    pub parent: Option<PowerId>,
    /// Most watts below this point.
    pub cap_watts: i64,
    /// Watts kept for a tenant class: others may not take them. Their sum stays within the cap.
    pub floors: Vec<(TenantClass, i64)>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    pub id: NodeId,
    pub model: ModelId,
    /// GPUs in it, 1 to 16 (0: a CPU node).
    pub gpus: u8,
    pub cpu_milli: u32,
    pub memory_mib: u32,
    /// Its finest topology domain; coarser ones follow from parents.
    pub domain: crate::units::DomainId,
    /// Its finest fabric domain.
    pub fabric: Option<crate::units::DomainId>,
    /// Where it draws power.
    pub power: PowerId,
    pub residency: ResidencyId,
    pub health: Health,
    /// Not to be used before this instant (maintenance).
    pub hold_until: Option<At>,
    /// Failures seen, and the days they were seen in: for the rank of nodes that fail often.
    pub failures: u32,
    pub observed_days: u32,
}

/// Whether a node may take work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Takes work.
    #[default]
    Ready,
    /// Keeps what it has, takes nothing new.
    Cordoned,
    /// Gone: its leases are lost.
    Down,
}

/// A queue of requests: a leaf holds requests, an inner queue shares among its children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    pub parent: Option<QueueId>,
    /// Share relative to its siblings, above zero.
    pub weight: u32,
    /// What it may always have: lent to others while it does not ask for it, and reclaimed when it does.
    pub guaranteed: Amount,
    /// What it may never exceed.
    pub limit: Option<Amount>,
}

/// An amount of what queues share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount {
    pub gpu_milli: i64,
    pub cpu_milli: i64,
    pub memory_mib: i64,
    pub watts: i64,
}

/// What the operator decides about how the planner works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Seconds of waiting that are worth one step of priority.
    pub ageing_seconds: u32,
    /// Gangs at the head, for nodes of one class, that are promised a start; those behind may only fill what is left.
    /// Promises for which leases stop, or which wait for nearness, do not count.
    pub reservations: u16,
    /// Preemption decisions in one pass.
    pub preemptions: u16,
    /// Lost GPU-seconds allowed for each GPU-second gained, in thousandths.
    pub preemption_loss_milli: u32,
    /// Moves proposed in one pass while nothing else is to be done.
    pub moves: u16,
    /// Thousandths of its run time that a gang which prefers nearness may wait for it, although it could start; zero:
    /// it starts at once, wherever.
    pub nearness_milli: u32,
    /// And at most so many seconds; so long where the run time is not said.
    pub nearness_seconds: u32,
    /// Gangs that wait so at once.
    pub nearness_reservations: u16,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ageing_seconds: 6 * 3600,
            reservations: 1,
            preemptions: 8,
            preemption_loss_milli: 250,
            moves: 0,
            nearness_milli: 100,
            nearness_seconds: 3600,
            nearness_reservations: 32,
        }
    }
}

/// A right to GPUs that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    /// The request it came from, as it was; its shape says what each node gives.
    pub request: crate::request::Request,
    /// Where it lies: one entry for each node.
    pub grants: Vec<crate::plan::Grant>,
    pub started_at: At,
    /// When it is expected to end; `None` when nobody said.
    pub ends_at: Option<At>,
    /// Last instant whose work is not lost when it is stopped.
    pub saved_at: At,
}
