//! What cannot be, refused: each refusal names the object and the rule it breaks, and leaves all as it was.
//!
//! Purpose: exact causes for callers that act on them, and the text users read. Deliberately absent: what is only
//! impossible now. A request above its queue's limit or a cap waits, with that as its reason; a limit may be raised.

use thiserror::Error;

use crate::fleet::Level;
use crate::reason::Resource;
use crate::units::{At, DomainId, LeaseId, ModelId, NodeId, PowerId, QueueId, RequestId, ResidencyId, SliceId};

mod hint;

/// Why something was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the fleet cannot be: {0}")]
    Fleet(FleetRule),
    #[error("request `{}` cannot be: {rule}", .request.0)]
    Request { request: RequestId, rule: RequestRule },
    #[error("lease `{}` cannot be: {rule}", .lease.0)]
    Lease { lease: LeaseId, rule: LeaseRule },
    #[error("cannot change node `{}`: {rule}", .node.0)]
    Node { node: NodeId, rule: NodeRule },
    #[error("cannot change the cap of power point `{}`: {rule}", .power.0)]
    Cap { power: PowerId, rule: FleetRule },
    #[error("cannot change the quota of queue `{}`: {rule}", .queue.0)]
    Quota { queue: QueueId, rule: FleetRule },
    #[error("the forecast cannot be: {0}")]
    Forecast(ForecastRule),
    /// By its place in the list, from 0.
    #[error("shape `{at}` of the demand cannot be: {rule}")]
    Demand { at: usize, rule: RequestRule },
}

/// The three trees over nodes and the one over queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Tree {
    #[error("domain")]
    Domain,
    #[error("power point")]
    Power,
    #[error("queue")]
    Queue,
}

/// A rule of the fleet that was broken, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FleetRule {
    #[error("{tree} `{at}` has the parent `{parent}`, which does not exist")]
    UnknownParent { tree: Tree, at: u32, parent: u32 },
    #[error("{tree} `{at}` is among its own parents")]
    Cycle { tree: Tree, at: u32 },
    #[error("{tree} list has `{count}` entries, and at most `{most}` can be named")]
    TooMany { tree: Tree, count: usize, most: usize },
    #[error("domain `{}` ({level}) has a {parent_level} as its parent: one is of the topology, the other of the fabric", .at.0)]
    ParentOfOtherTree { at: DomainId, level: Level, parent_level: Level },
    #[error("domain `{}` ({level}) is below a {parent_level}: a parent is of a coarser level", .at.0)]
    ParentNotCoarser { at: DomainId, level: Level, parent_level: Level },
    #[error("there are `{count}` models, and at most `{most}` can be told apart", most = crate::validate::MAX_MODELS)]
    TooManyModels { count: usize },
    #[error("model `{}` has `{count}` slice profiles, and at most `{most}` can be told apart", .model.0, most = crate::validate::MAX_SLICES)]
    TooManySlices { model: ModelId, count: usize },
    #[error("slice profile `{}` of model `{}` has no position that takes memory slots", .slice.0, .model.0)]
    SliceWithoutPosition { model: ModelId, slice: SliceId },
    #[error("slice profile `{}` of model `{}` takes `{compute}` compute slots, and a GPU has 7", .slice.0, .model.0)]
    SliceCompute { model: ModelId, slice: SliceId, compute: u8 },
    #[error("node `{}` is listed twice", .node.0)]
    NodeTwice { node: NodeId },
    #[error("node `{}` has the model `{}`, which does not exist", .node.0, .model.0)]
    NodeModel { node: NodeId, model: ModelId },
    #[error("node `{}` has `{gpus}` GPUs, and a node has at most `{most}`", .node.0, most = crate::units::MAX_GPUS)]
    NodeGpus { node: NodeId, gpus: u8 },
    #[error("node `{}` is in domain `{}`, which does not exist", .node.0, .domain.0)]
    NodeDomain { node: NodeId, domain: DomainId },
    #[error("node `{}` has domain `{}` ({level}) as its place in the topology", .node.0, .domain.0)]
    NodeDomainOfFabric { node: NodeId, domain: DomainId, level: Level },
    #[error("node `{}` has domain `{}` ({level}) as its place in the fabric", .node.0, .domain.0)]
    NodeFabricOfTopology { node: NodeId, domain: DomainId, level: Level },
    #[error("node `{}` draws power at point `{}`, which does not exist", .node.0, .power.0)]
    NodePower { node: NodeId, power: PowerId },
    #[error("node `{}` has the residency `{}`, and the last one is `63`", .node.0, .residency.0)]
    NodeResidency { node: NodeId, residency: ResidencyId },
    #[error("node `{}` is held until `{}`, an instant outside the calendar", .node.0, .at.0)]
    NodeHold { node: NodeId, at: At },
    #[error("power point `{}` does not exist", .power.0)]
    UnknownPower { power: PowerId },
    #[error("power point `{}` has the negative cap `{cap_watts} W`", .power.0)]
    NegativeCap { power: PowerId, cap_watts: i64 },
    #[error("power point `{}` has the cap `{cap_watts} W`, and at most `{most} W` can be counted", .power.0, most = crate::validate::MAX_AMOUNT)]
    CapTooLarge { power: PowerId, cap_watts: i64 },
    #[error("power point `{}` has the negative floor `{floor_watts} W` for tenant class `{class}`", .power.0)]
    NegativeFloor { power: PowerId, class: u8, floor_watts: i64 },
    #[error("power point `{}` has a floor for tenant class `{class}`, and the last one is `{last}`", .power.0, last = crate::units::MAX_TENANT_CLASSES - 1)]
    FloorClass { power: PowerId, class: u8 },
    #[error("power point `{}` has two floors for tenant class `{class}`", .power.0)]
    FloorTwice { power: PowerId, class: u8 },
    #[error("power point `{}` keeps `{floors_watts} W` for tenant classes, here and below, and its cap is `{cap_watts} W`", .power.0)]
    FloorAboveCap { power: PowerId, floors_watts: i64, cap_watts: i64 },
    #[error("queue `{}` does not exist", .queue.0)]
    UnknownQueue { queue: QueueId },
    #[error("queue `{}` has the weight `0`: it would never get anything", .queue.0)]
    ZeroWeight { queue: QueueId },
    #[error("queue `{}` is guaranteed `{amount}` {resource}, and an amount is `0` to `{most}`", .queue.0, most = crate::validate::MAX_AMOUNT)]
    GuaranteeRange { queue: QueueId, resource: Resource, amount: i64 },
    #[error("queue `{}` has the limit `{amount}` {resource}, and a limit is not negative", .queue.0)]
    NegativeLimit { queue: QueueId, resource: Resource, amount: i64 },
    #[error("queue `{}` is guaranteed `{guaranteed}` {resource}, children included, and its limit is `{limit}`", .queue.0)]
    GuaranteeAboveLimit { queue: QueueId, resource: Resource, guaranteed: i64, limit: i64 },
    #[error("queue `{}` is guaranteed `{guaranteed}` {resource}, and its children together `{children}`", .queue.0)]
    GuaranteeBelowChildren { queue: QueueId, resource: Resource, guaranteed: i64, children: i64 },
    #[error("queues are guaranteed `{guaranteed}` {resource} together, and the fleet has `{capacity}`")]
    GuaranteeAboveCapacity { resource: Resource, guaranteed: i64, capacity: i64 },
}

/// A rule of requests that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestRule {
    #[error("a request with this number waits already")]
    WaitsAlready,
    #[error("a request with this number runs already, as lease `{}`", .lease.0)]
    RunsAlready { lease: LeaseId },
    #[error("no request with this number waits")]
    Unknown,
    #[error("its queue `{}` does not exist", .queue.0)]
    UnknownQueue { queue: QueueId },
    #[error("its queue `{}` has queues below it: only a leaf takes requests", .queue.0)]
    InnerQueue { queue: QueueId },
    #[error("its tenant class is `{class}`, and the last one is `{last}`", last = crate::units::MAX_TENANT_CLASSES - 1)]
    TenantClass { class: u8 },
    #[error("it asks for no GPU, no CPU and no memory")]
    Nothing,
    #[error("it asks for zero nodes")]
    NoNodes,
    #[error("it asks for at least `{min}` nodes and at most `{max}`")]
    MinAboveMax { min: u16, max: u16 },
    #[error("it asks for `{milli}` thousandths of a GPU, and a part is `1` to `999`")]
    Milli { milli: u16 },
    #[error("it allows the model `{}`, which does not exist", .model.0)]
    UnknownModel { model: ModelId },
    #[error("it asks for a slice and allows `{models}` models: a slice is of exactly one")]
    SliceModels { models: u32 },
    #[error("it asks for the slice profile `{}`, which model `{}` does not have", .slice.0, .model.0)]
    UnknownSlice { slice: SliceId, model: ModelId },
    #[error("it is expected to draw `{expected_watts} W` on each node, and at most `{peak_watts} W`")]
    ExpectedAbovePeak { expected_watts: u32, peak_watts: u32 },
    #[error("its run time is zero seconds")]
    NoRunTime,
    #[error("it names the instant `{}`, which is outside the calendar", .at.0)]
    Instant { at: At },
    #[error("its deadline `{}` is not after `{}`, when it was submitted", .deadline.0, .submitted_at.0)]
    DeadlineBeforeSubmission { deadline: At, submitted_at: At },
    #[error("it could end at `{}` at the earliest, and its deadline is `{}`", .earliest.0, .deadline.0)]
    DeadlineTooEarly { deadline: At, earliest: At },
    #[error("no node has a model and a residency that it allows")]
    NoSuchNode,
    #[error("it asks for `{gpus}` GPUs on each node, and the largest node that it allows has `{largest}`")]
    Gpus { gpus: u8, largest: u8 },
    #[error(
        "it asks for `{cpu_milli}` thousandths of a CPU on each node, and the largest node with its GPUs has `{largest_milli}`"
    )]
    Cpu { cpu_milli: u32, largest_milli: u32 },
    #[error(
        "it asks for `{memory_mib} MiB` on each node, and the largest node with its GPUs and CPUs has `{largest_mib} MiB`"
    )]
    Memory { memory_mib: u32, largest_mib: u32 },
    #[error("it asks for {}, and the fleet has `{most}` that could hold a member, all of them empty", counted(*nodes))]
    LargerThanFleet { nodes: u16, most: u32 },
    #[error(
        "it asks for {} within one {level}, and the largest has `{most}` that could hold a member, all of them empty", counted(*nodes)
    )]
    LargerThanDomain { nodes: u16, level: Level, most: u32 },
    #[error("it asks for another number of nodes than the `{nodes}` that it is promised, or some are named twice")]
    PromisedNodes { nodes: usize },
    #[error("node `{}` is promised to another request", .node.0)]
    PromisedToAnother { node: NodeId },
}

/// A rule of leases that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseRule {
    #[error("it has started already")]
    StartedAlready,
    #[error("it does not exist")]
    Unknown,
    #[error("its request `{}` runs already, as lease `{}`", .request.0, .lease.0)]
    RequestRuns { request: RequestId, lease: LeaseId },
    #[error("its request `{}` cannot be: {rule}", .request.0)]
    Request { request: RequestId, rule: Box<RequestRule> },
    #[error("it lies on `{grants}` nodes, and its request asks for `{min}` to `{max}`")]
    NodeCount { grants: usize, min: u16, max: u16 },
    #[error("it lies on node `{}`, which does not exist", .node.0)]
    UnknownNode { node: NodeId },
    #[error("it lies on node `{}` twice", .node.0)]
    NodeTwice { node: NodeId },
    #[error("node `{}` is of a model that its request does not allow", .node.0)]
    Model { node: NodeId },
    #[error("it has other GPUs on node `{}` than its request asks for", .node.0)]
    OtherThanAsked { node: NodeId },
    #[error("it has GPU `{gpu}` of node `{}`, which has `{gpus}`", .node.0)]
    NoSuchGpu { node: NodeId, gpu: u8, gpus: u8 },
    #[error("GPU `{gpu}` of node `{}` is taken", .node.0)]
    GpuTaken { node: NodeId, gpu: u8 },
    #[error("its slice lies on memory slots `{slots:08b}` of node `{}`, which is none of its profile's positions", .node.0)]
    SlicePosition { node: NodeId, slots: u8 },
    #[error("it takes `{asked_milli}` thousandths of a CPU on node `{}`, where `{free_milli}` are free", .node.0)]
    Cpu { node: NodeId, asked_milli: u32, free_milli: u32 },
    #[error("it takes `{asked_mib} MiB` on node `{}`, where `{free_mib} MiB` are free", .node.0)]
    Memory { node: NodeId, asked_mib: u32, free_mib: u32 },
    #[error("it names the instant `{}`, which is outside the calendar", .at.0)]
    Instant { at: At },
    #[error("it ends at `{}`, before it started at `{}`", .ends_at.0, .started_at.0)]
    EndsBeforeStart { ends_at: At, started_at: At },
    #[error("its work is safe up to `{}`, which is before `{}`, up to which it was safe already", .saved_at.0, .known.0)]
    SavedGoesBack { saved_at: At, known: At },
}

/// A rule of changes to nodes that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NodeRule {
    #[error("it does not exist")]
    Unknown,
    #[error("the instant `{}` is outside the calendar", .at.0)]
    Instant { at: At },
}

/// A rule of forecasts that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ForecastRule {
    #[error("its steps last zero seconds")]
    NoStep,
    #[error("it has `{count}` steps, and at most `{most}` are looked at", most = crate::validate::MAX_FORECAST_STEPS)]
    TooLong { count: usize },
    #[error("step `{step}` allows `{gpu_milli}` thousandths of a GPU, and an allowance is not negative")]
    NegativeAllowance { step: usize, gpu_milli: i64 },
    #[error("it begins at `{}`, which is outside the calendar", .at.0)]
    Instant { at: At },
}

fn counted(nodes: u16) -> String {
    if nodes == 1 { "`1` node".into() } else { format!("`{nodes}` nodes") }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Site => "site",
            Self::Pod => "pod",
            Self::Unit => "scalable unit",
            Self::Rack => "rack",
            Self::Spine => "spine group",
            Self::Leaf => "leaf group",
            Self::NvLink => "NVLink domain",
        })
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gpu => "GPU thousandths",
            Self::Cpu => "CPU thousandths",
            Self::Memory => "MiB of memory",
            Self::Power => "watts",
        })
    }
}
