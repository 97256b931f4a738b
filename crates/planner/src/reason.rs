//! Why something waits, as data. Words are made of it by `words`, trees of it by `explain`.
//!
//! Numbers are exact and counted after the pass that decided: what it started counts as used. Nodes below one
//! `Nodes` are counted once each, so that the parts add up to `could`.
//! Deliberately absent: names, texts, and advice that was not tried on the state.

use crate::fleet::Level;
use crate::units::{At, DomainId, LeaseId, ModelId, NodeId, PowerId, QueueId, RequestId};

/// A node of a reason tree: what holds or blocks, what it is made of, what would help, cheapest first.
///
/// `next` is empty where nothing helps, and where nobody looked: `step` and `tick` look for no advice, nor does `plan`
/// beyond its first `ADVISED` shapes. `Planner::why` looks for one request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Why {
    pub mark: Mark,
    pub cause: Cause,
    pub because: Vec<Why>,
    pub next: Vec<Next>,
}

/// Whether a part of a reason is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// It is as it should be.
    Holds,
    /// It is in the way.
    Blocks,
}

impl Why {
    /// A part that is as it should be.
    pub const fn holds(cause: Cause) -> Self {
        Self { mark: Mark::Holds, cause, because: Vec::new(), next: Vec::new() }
    }

    /// A part that is in the way.
    pub const fn blocks(cause: Cause) -> Self {
        Self { mark: Mark::Blocks, cause, because: Vec::new(), next: Vec::new() }
    }

    /// Adds a part.
    #[must_use]
    pub fn because(mut self, part: Self) -> Self {
        self.because.push(part);
        self
    }

    /// Parts right below that are in the way.
    pub fn obstacles(&self) -> impl Iterator<Item = &Self> {
        self.because.iter().filter(|part| part.mark == Mark::Blocks)
    }
}

/// What holds or blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The root of every tree: the request waits for what it asks.
    Waits,
    /// It may not begin yet.
    NotBefore { at: At },
    /// It waits for a better hour; its deadline stays safe.
    BetterHour { until: At },
    /// What its queue, or one above it, may have; blocks where that is too little.
    Quota { queue: QueueId, resource: Resource, limit: i64, used: i64, asked: i64 },
    /// Nodes free for one member each, of those that could hold one when empty. Parts: where the others are.
    Nodes { needed: u32, free: u32, could: u32 },
    /// Part of `Nodes`: free now.
    Free { nodes: u32 },
    /// Part of `Nodes`: too many of their GPUs are used (of a node without GPUs: too much CPU or memory).
    Busy { nodes: u32 },
    /// Part of `Nodes`: fewer GPUs free than one member needs, though together there would be enough.
    Scattered { nodes: u32, needed_milli: u32, largest_milli: u32, free_milli: i64 },
    /// Part of `Nodes`: GPUs are free, but CPU beside them is not.
    Cpu { nodes: u32, needed_milli: u32, largest_milli: u32 },
    /// Likewise for memory.
    Memory { nodes: u32, needed_mib: u32, largest_mib: u32 },
    /// Part of `Nodes`: cordoned, held for maintenance (until then at least one), down.
    OutOfService { cordoned: u32, held: u32, held_until: Option<At>, down: u32 },
    /// Part of `Nodes`: free, but promised to others: to so many, and whose start is the first.
    Reserved { nodes: u32, requests: u32, request: RequestId, starts_at: At },
    /// Part of `Reserved`: shorter runs would fit before the promised starts; its own is longer, or was not said.
    Gap { seconds: u32 },
    /// Part of `Nodes`: taken in this pass by requests that come first.
    Behind { nodes: u32 },
    /// Enough nodes are free, but not within one domain: `best` in the best of this level.
    Apart { level: Level, needed: u32, best: u32, domain: Option<DomainId> },
    /// What may be drawn below a point of the power tree: `kept_watts` of it are kept for other classes.
    Power { power: PowerId, cap_watts: i64, committed_watts: i64, kept_watts: i64, asked_watts: i64 },
    /// An allowed model: nodes that could hold a member when empty, and those free for one now.
    Model { model: ModelId, total: u32, free: u32 },
    /// It has a promise.
    Promised { starts_at: At, nodes: u32 },
    /// It could start now over so many domains of the level it prefers (`instead_of`; no fewer are to be had), and
    /// rather waits until then for the start that it was promised, over fewer.
    ForNearness { until: At, level: Level, domains: u32, instead_of: u32 },
    /// It takes the place of others, which are stopping; one of them.
    Preempting { leases: u32, lease: LeaseId },
    /// Leases in the way never said when they end, so that nobody knows when it starts; ten stand for ten or more.
    EndsUnknown { leases: u32 },
}

/// Leases without a said end are counted up to here.
pub const ENDS_COUNTED: u32 = 10;

/// Shapes, of one tenant class each, for which a plan looks for what would help, in the order of queues and shapes: it
/// costs some ten microseconds for each. Of all others it tells what is in the way; requests that were promised
/// something are not counted.
pub const ADVISED: usize = 64;

/// What queues share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// In thousandths.
    Gpu,
    /// In thousandths.
    Cpu,
    /// In MiB.
    Memory,
    /// In watts.
    Power,
}

/// A step, and what the state answered when it was tried with that one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Next {
    pub step: Step,
    pub then: Then,
}

/// What a step leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Then {
    /// It starts: the first in line of those that ask the same in this queue.
    Starts,
    /// The obstacle it is about is gone; so many others of the tree are still in the way.
    Clears { left: u32 },
}

/// Something that would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Wait until then, if leases end when they said. Without a lease to end: as it was promised or asked.
    Wait { until: At, on: Awaited },
    /// Run at most so long, and say so: it fits before a promised start.
    SayRunTime { seconds: u32 },
    /// Ask for less nearness.
    Relax { from: Level, to: Option<Level> },
    /// Prefer no nearness: it starts wherever there is room.
    DropPreference { level: Level },
    /// Allow this model too: so many of its nodes are free for a member.
    AllowModel { model: ModelId, free: u32 },
    /// Ask for this much of a resource on each node: GPUs and CPU in thousandths, memory in MiB.
    Less { resource: Resource, amount: u32 },
    /// Ask for this much of both on each node.
    LessBoth { cpu_milli: u32, memory_mib: u32 },
    /// Ask for as many GPUs in all, spread over this many nodes with so many on each.
    Spread { nodes: u32, gpus: u32 },
    /// Draw at most this on each node.
    Draw { peak_watts: u32 },
    /// Ask for fewer nodes: so many could start now.
    Fewer { nodes: u32 },
    /// Allow residencies it excludes (one bit each): so many of their nodes are free for a member.
    AllowResidency { residencies: u64, free: u32 },
    /// Take this node back into service.
    Restore { node: NodeId },
    /// Have the queue's limit raised by so much.
    RaiseQuota { queue: QueueId, resource: Resource, by: i64 },
    /// Have this lease ended, which never said when it ends.
    End { lease: LeaseId },
    /// Have the cap raised by so much.
    RaiseCap { power: PowerId, by_watts: i64 },
}

/// What a wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Awaited {
    /// This lease ends.
    Lease(LeaseId),
    /// This lease, which said that it would have ended by now.
    Overdue(LeaseId),
    /// Several leases end; this one is the last.
    Leases { last: LeaseId },
    /// This request, which starts in this pass, ends.
    Request(RequestId),
    /// This node's maintenance ends.
    Maintenance(NodeId),
    /// The leases in its place have stopped; this is one of them.
    Stop(LeaseId),
    /// It may begin: the instant it asked for, or the better hour.
    Begin,
}

impl Cause {
    /// A stable word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::NotBefore { .. } => "not_before",
            Self::BetterHour { .. } => "better_hour",
            Self::Quota { .. } => "quota",
            Self::Nodes { .. } => "nodes",
            Self::Free { .. } => "free",
            Self::Busy { .. } => "busy",
            Self::Scattered { .. } => "scattered",
            Self::Cpu { .. } => "cpu",
            Self::Memory { .. } => "memory",
            Self::OutOfService { .. } => "out_of_service",
            Self::Reserved { .. } => "reserved",
            Self::Gap { .. } => "gap",
            Self::Apart { .. } => "apart",
            Self::Power { .. } => "power",
            Self::Model { .. } => "model",
            Self::Behind { .. } => "behind",
            Self::Promised { .. } => "promised",
            Self::ForNearness { .. } => "for_nearness",
            Self::Preempting { .. } => "preempting",
            Self::EndsUnknown { .. } => "ends_unknown",
        }
    }
}

impl Step {
    /// A stable word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Wait { .. } => "wait",
            Self::SayRunTime { .. } => "say_run_time",
            Self::Relax { .. } => "relax",
            Self::DropPreference { .. } => "drop_preference",
            Self::AllowModel { .. } => "allow_model",
            Self::Less { .. } => "less",
            Self::LessBoth { .. } => "less_both",
            Self::Spread { .. } => "spread",
            Self::Draw { .. } => "draw",
            Self::Fewer { .. } => "fewer",
            Self::AllowResidency { .. } => "allow_residency",
            Self::Restore { .. } => "restore",
            Self::RaiseQuota { .. } => "raise_quota",
            Self::RaiseCap { .. } => "raise_cap",
            Self::End { .. } => "end",
        }
    }
}
