//! What is asked for.

use crate::fleet::Level;
use crate::units::{At, LeaseId, QueueId, RequestId, SliceId, TenantClass};

/// Somebody wants GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: RequestId,
    /// A leaf queue.
    pub queue: QueueId,
    pub class: TenantClass,
    /// Higher first, within its queue.
    pub priority: i16,
    pub submitted_at: At,
    /// Order among requests of the same instant.
    pub order: u64,
    pub shape: Shape,
    /// Expected run time in seconds, where the user said one.
    pub run_seconds: Option<u32>,
    /// When it must be done.
    pub deadline: Option<At>,
    /// When it may begin.
    pub not_before: Option<At>,
    /// Whether it may wait for a greener or cheaper hour before its deadline.
    pub deferrable: bool,
    pub stop: Stop,
    /// Be near this lease, when it can be had.
    pub near: Option<LeaseId>,
}

/// What a request needs; requests of the same shape fit the same places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// On each node.
    pub gpus: Gpus,
    /// Nodes: all at once, each a different one.
    pub nodes: Nodes,
    /// Allowed models, one bit each; zero allows all.
    pub models: u64,
    /// On each node.
    pub cpu_milli: u32,
    /// On each node.
    pub memory_mib: u32,
    /// All nodes within one domain of this level, or not at all.
    pub within: Option<Level>,
    /// Within one domain of this level when that can be had.
    pub prefer: Option<Level>,
    /// Allowed residencies, one bit each; zero allows all.
    pub residencies: u64,
    /// Watts on each node that it is expected to draw.
    pub expected_watts: u32,
    /// Most watts on each node.
    pub peak_watts: u32,
}

/// GPUs on each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gpus {
    /// Whole ones; zero asks for CPU and memory only.
    Whole(u8),
    /// Thousandths of one, 1 to 999.
    Milli(u16),
    /// A hardware partition of one; the shape must allow exactly one model.
    Slice(SliceId),
}

/// How many nodes: as many as can be had between the two, the same for a fixed gang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nodes {
    pub min: u16,
    pub max: u16,
}

/// What stopping it before its end costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stop {
    /// It may not be stopped.
    Never,
    /// All its work so far is lost.
    Restart,
    /// Work since the last checkpoint is lost, and this many seconds to write and read one.
    Checkpoint { cost_seconds: u32 },
}
