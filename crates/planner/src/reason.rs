//! Why something waits, as data. Words are made of it by `words`.

use crate::fleet::Level;
use crate::units::{At, DomainId, LeaseId, ModelId, PowerId, QueueId, RequestId};

/// A node of a reason tree: what blocks, what it is made of, what would help, cheapest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Why {
    pub cause: Cause,
    pub because: Vec<Why>,
    pub next: Vec<Step>,
}

/// What blocks a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// It may not begin yet.
    NotBefore { at: At },
    /// It waits for a better hour; its deadline stays safe.
    BetterHour { until: At },
    /// Its queue, or one above it, is at its limit.
    Quota { queue: QueueId, resource: Resource, limit: i64, used: i64, asked: i64 },
    /// No node of the fleet could ever hold one member, even when empty.
    NoSuchNode { models: u64, residencies: u64 },
    /// Too few nodes have the GPUs free.
    Nodes { needed: u32, free: u32 },
    /// GPUs are free, but not together on single nodes.
    Scattered { needed_on_one: u32, largest: u32, free_milli: i64 },
    /// Enough nodes are free, but not within one domain.
    Apart { level: Level, needed: u32, best: u32, domain: Option<DomainId> },
    /// GPUs are free, but CPU on those nodes is not.
    Cpu { needed_milli: u32, largest_milli: u32 },
    /// Likewise for memory.
    Memory { needed_mib: u32, largest_mib: u32 },
    /// Its watts do not fit below this point.
    Power { power: PowerId, cap_watts: i64, committed_watts: i64, kept_watts: i64, asked_watts: i64 },
    /// Nodes are free, but promised to another.
    Reserved { nodes: u32, request: RequestId, starts_at: At },
    /// Nodes that would do are cordoned, held or down.
    OutOfService { cordoned: u32, held: u32, down: u32 },
    /// Others come first: their share of what they may have is smaller, or their priority is higher.
    Behind { requests: u32, queue: QueueId },
    /// It has a promise.
    Promised { starts_at: At },
    /// It takes the place of others, which are stopping.
    Preempting { leases: u32, lease: LeaseId },
    /// Allowed models and what is free of each.
    Model { model: ModelId, total: u32, free: u32 },
}

/// What queues share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    Gpu,
    Cpu,
    Memory,
    Power,
}

/// Something that would let it start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Wait: about then, when this lease ends.
    Wait { until: At, lease: Option<LeaseId> },
    /// Ask for less nearness.
    Relax { from: Level, to: Option<Level> },
    /// Allow this model too.
    AllowModel { model: ModelId, free: u32 },
    /// Ask for fewer nodes: so many could start now.
    Fewer { nodes: u32 },
    /// Ask for less CPU or memory on each node: so much is free beside the GPUs.
    Less { resource: Resource, amount: u32 },
    /// Have the queue's limit raised by so much.
    RaiseQuota { queue: QueueId, resource: Resource, by: i64 },
    /// Draw less: so many watts on each node would fit.
    Draw { peak_watts: u32 },
    /// Have the cap raised by so much.
    RaiseCap { power: PowerId, by_watts: i64 },
    /// Allow residencies it excludes.
    AllowResidency { residencies: u64, nodes: u32 },
    /// Say how long it runs: a short run could start in the gap that ends then.
    SayRunTime { seconds: u32 },
    /// Nothing this fleet has would do.
    Impossible,
}
