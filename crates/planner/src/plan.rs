//! What the planner answers.

mod hash;

use crate::reason::Why;
use crate::units::{At, LeaseId, NodeId, RequestId};

/// All decisions of one pass. Carrying them out is the caller's; each comes back as an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub at: At,
    /// Start now.
    pub placements: Vec<Placement>,
    /// Stop, so that another may start.
    pub preemptions: Vec<Preemption>,
    /// Move, so that room grows together.
    pub moves: Vec<Move>,
    /// Promises: starts not later than.
    pub reservations: Vec<Reservation>,
    /// Waits for a better hour.
    pub holds: Vec<Hold>,
    /// Every request that does not start now, with the place of its reason in `reasons`.
    pub waiting: Vec<(RequestId, u32)>,
    /// Reasons, each once: requests of one shape in one queue wait for the same. Those of a step and a tick, and of a
    /// plan beyond its first `reason::ADVISED` shapes, tell what is in the way and not what would help: `Planner::why`
    /// does.
    pub reasons: Vec<Why>,
}

/// A request's GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub request: RequestId,
    pub grants: Vec<Grant>,
}

/// What one node gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    pub node: NodeId,
    pub gpus: GpuGrant,
}

/// Which of a node's GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuGrant {
    /// Whole ones, a bit each; zero for CPU and memory only.
    Whole(u16),
    /// Thousandths of one.
    Milli { gpu: u8, milli: u16 },
    /// A partition of one, by the memory slots it takes.
    Slice { gpu: u8, slots: u8 },
}

/// A lease that must give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preemption {
    pub lease: LeaseId,
    /// Who starts instead.
    pub for_request: RequestId,
    pub cause: PreemptionCause,
    /// GPU-seconds of work that are lost.
    pub lost_gpu_seconds: i64,
}

/// Why it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PreemptionCause {
    /// The other has a higher priority in the same queue.
    Priority,
    /// Its queue lent what the other's queue is guaranteed.
    Reclaim,
}

/// A lease that could lie elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub lease: LeaseId,
    pub from: Grant,
    pub to: Grant,
}

/// A promise to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub request: RequestId,
    /// Not later than this, if leases end when they said.
    pub starts_at: At,
    pub nodes: Vec<NodeId>,
    /// Leases that stop for it and have not ended yet, by number.
    pub stops: Vec<LeaseId>,
    /// It could start at once, over more domains of the level that it prefers, and waits for this.
    pub for_nearness: bool,
}

/// A wait for a better hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    pub request: RequestId,
    pub until: At,
}
